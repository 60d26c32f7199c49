"""Produce: the batch goes to the partition's leader unopened, unless it says that there are ids in it; and cancel, of
what is to be delivered later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.node.requests import CancelRequest, ProduceRequest
from logbroker.wire.requests import Cancelled, Produced

if TYPE_CHECKING:
    from logbroker.node.requests import CancelReply, ProduceReply
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Cancel, Produce


def produce(exchange: Exchange, request: Produce, body: bytes) -> None:
    group = exchange.service.partition(request.queue, request.partition)
    size_bytes = len(body)

    def on_reply(reply: ProduceReply) -> None:
        exchange.reply(
            Produced(
                request.rid,
                base_offset=reply.base_offset,
                count=reply.count,
                append_ms=reply.append_ms,
                duplicate=reply.duplicate,
                due_ms=reply.due_ms,
                duplicates=list(reply.duplicates),
                conflicts=list(reply.conflicts),
            )
        )
        if not reply.duplicate:
            traffic = exchange.service.measures.queue(request.queue)
            traffic.produced_messages += reply.count
            traffic.produced_bytes += size_bytes

    exchange.ask(group, ProduceRequest(body, request.delay_ms, request.deliver_at_ms, request.dedup), on_reply)


def cancel(exchange: Exchange, request: Cancel, body: bytes) -> None:
    group = exchange.service.partition(request.queue, request.partition)

    def on_reply(reply: CancelReply) -> None:
        exchange.reply(Cancelled(request.rid, cancelled=reply.count, late=reply.late_count))

    exchange.ask(group, CancelRequest(tuple(request.ranges)), on_reply)
