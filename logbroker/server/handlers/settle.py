"""Ack, nack, reject and extend: ranges of leases, settled in one entry; and what becomes of the rejected."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from logbroker.errors import InvalidArgumentError
from logbroker.ids import GroupName, LeaseId
from logbroker.node.requests import (
    AckRequest,
    DeadRequest,
    ExtendRequest,
    NackRequest,
    RejectRequest,
    ReviveRequest,
)
from logbroker.wire.requests import Ack, DeadList, DeadRow, Extend, Revived, Settled, SettleResult

if TYPE_CHECKING:
    from logbroker.ids import GroupId
    from logbroker.node import requests as node_requests
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import ListDead, Nack, Reject, Revive

    Items: TypeAlias = tuple[tuple[LeaseId, node_requests.Ranges], ...]


def ack(exchange: Exchange, request: Ack, body: bytes) -> None:
    _settle(exchange, request, AckRequest(GroupName(request.group), _items(request)))


def nack(exchange: Exchange, request: Nack, body: bytes) -> None:
    delay_ms = None if request.by_policy else request.delay_ms
    asked = NackRequest(GroupName(request.group), _items(request), delay_ms=delay_ms, reason=request.reason)
    _settle(exchange, request, asked)


def reject(exchange: Exchange, request: Reject, body: bytes) -> None:
    asked = RejectRequest(GroupName(request.group), _items(request), reason=request.reason)
    _settle(exchange, request, asked)


def list_dead(exchange: Exchange, request: ListDead, body: bytes) -> None:
    group = exchange.service.partition(request.queue, request.partition)
    asked = DeadRequest(GroupName(request.group), request.start_offset, request.max_count)
    exchange.ask(group, asked, partial(_answer_dead, exchange))


def revive(exchange: Exchange, request: Revive, body: bytes) -> None:
    group = exchange.service.partition(request.queue, request.partition)
    asked = ReviveRequest(GroupName(request.group), tuple(request.ranges))
    exchange.ask(group, asked, partial(_answer_revive, exchange))


def extend(exchange: Exchange, request: Extend, body: bytes) -> None:
    limit = exchange.service.limits.max_hide_ms
    if request.hide_ms > limit:
        raise InvalidArgumentError(f"hide_ms {request.hide_ms:,} is above limits.max_hide_ms {limit:,}")
    _settle(exchange, request, ExtendRequest(GroupName(request.group), _items(request), hide_ms=request.hide_ms))


def _items(request: Ack | Nack | Reject | Extend) -> Items:
    return tuple([(LeaseId(lease), tuple(ranges)) for lease, ranges in request.items])


def _settle(
    exchange: Exchange,
    request: Ack | Nack | Reject | Extend,
    asked: AckRequest | NackRequest | RejectRequest | ExtendRequest,
) -> None:
    group = exchange.service.partition(request.queue, request.partition)
    exchange.ask(group, asked, partial(_answer, exchange, request, group))


def _answer(
    exchange: Exchange, request: Ack | Nack | Reject | Extend, group: GroupId, reply: node_requests.SettleReply
) -> None:
    if isinstance(request, Extend):
        exchange.session.note_extended(group, reply.results, request.hide_ms)
    else:
        exchange.session.note_settled(group, reply.results)
    is_ack = isinstance(request, Ack)
    exchange.reply(Settled(request.rid, results=[_result(result, is_ack=is_ack) for result in reply.results]))
    traffic = exchange.service.measures.queue(request.queue)
    traffic.settled_messages += sum([result.done_count for result in reply.results])


def _result(result: node_requests.SettleResult, *, is_ack: bool) -> SettleResult:
    # What retention took cannot come again: for an ack that is as good as acked, for the others there is nothing to do.
    already = result.already + result.expired if is_ack else result.already
    stale = result.stale if is_ack else result.stale + result.expired
    return SettleResult(
        done=result.done_count,
        already=sum([end - start for start, end in already]),
        stale=[] if result.rewound else list(stale),
        rewound=list(stale) if result.rewound else [],
    )


def _answer_dead(exchange: Exchange, reply: node_requests.DeadReply) -> None:
    rows = [
        DeadRow(
            start=row.start,
            end=row.end,
            deliveries=row.deliveries,
            buried_at_ms=row.buried_at_ms,
            cause="" if row.cause is None else row.cause.name.lower(),
            reason=row.reason,
            consumer=row.consumer,
        )
        for row in reply.rows
    ]
    exchange.reply(DeadList(exchange.rid, rows=rows))


def _answer_revive(exchange: Exchange, reply: node_requests.ReviveReply) -> None:
    exchange.reply(Revived(exchange.rid, count=reply.count))
