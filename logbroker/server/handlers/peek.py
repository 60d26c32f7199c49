"""Peek: messages and their states, without a lease."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError
from logbroker.ids import GroupName
from logbroker.node.requests import PeekRequest
from logbroker.server.streams import batch_parts
from logbroker.server.targets import partition_target
from logbroker.wire.requests import Peeked, PeekedRange

if TYPE_CHECKING:
    from logbroker.node.requests import PeekReply
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Peek


def peek(exchange: Exchange, request: Peek, body: bytes) -> None:
    """Unlike a receive, which goes on, it is refused above the limits: who looks is to know what was not shown."""
    limits = exchange.service.limits
    group = exchange.service.partition(request.queue, request.partition)
    for name, value, bound in (
        ("count", request.max_count, limits.max_receive_count),
        ("bytes", request.max_bytes, limits.max_receive_bytes),
    ):
        if not 1 <= value <= bound:
            raise InvalidArgumentError(f"max_{name} {value:,} is not in 1..{bound:,}, limits.max_receive_{name}")
    start = partition_target(request.start, request.partition)
    if start is None:
        raise InvalidArgumentError(f"the start names no message of partition {request.partition}")
    asked = PeekRequest(
        GroupName(request.group),
        start,
        max_count=request.max_count,
        max_bytes=request.max_bytes,
        with_settled=request.with_settled,
    )
    exchange.ask(group, asked, partial(_answer, exchange))


def _answer(exchange: Exchange, reply: PeekReply) -> None:
    ranges = [
        PeekedRange(start=shown.start, end=shown.end, state=shown.state.name.lower(), visible_at_ms=shown.visible_at_ms)
        for shown in reply.ranges
    ]
    peeked = Peeked(
        exchange.rid,
        parts=batch_parts(reply.parts),
        ranges=ranges,
        next_offset=reply.next_offset,
        log_end=reply.log_end,
    )
    exchange.reply(peeked, b"".join([part.batch for part in reply.parts]))
