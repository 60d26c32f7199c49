"""Moves: messages of one queue that are to go to another."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from logbroker.ids import GroupName
from logbroker.node.requests import MoveRequest
from logbroker.server.auth import authorize_target
from logbroker.wire.requests import Moving

if TYPE_CHECKING:
    from logbroker.node.requests import MoveReply
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import MoveMessages


def move_messages(exchange: Exchange, request: MoveMessages, body: bytes) -> None:
    """Whoever moves messages takes them from one queue and produces them in another, and has to have both rights."""
    group = exchange.service.partition(request.queue, request.partition)
    identity = exchange.session.identity
    if identity is not None:
        authorize_target(identity.principal, request.to_queue)
    target = exchange.service.partition(request.to_queue, request.to_partition)
    asked = MoveRequest(GroupName(request.group), tuple(request.ranges), target)
    exchange.ask(group, asked, partial(_answer, exchange))


def _answer(exchange: Exchange, reply: MoveReply) -> None:
    exchange.reply(Moving(exchange.rid, count=reply.count))
