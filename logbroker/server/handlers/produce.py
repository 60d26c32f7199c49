"""Produce: the batch goes to the partition's leader unopened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.node.requests import ProduceRequest
from logbroker.wire.requests import Produced

if TYPE_CHECKING:
    from logbroker.node.requests import ProduceReply
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Produce


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
            )
        )
        if not reply.duplicate:
            traffic = exchange.service.measures.queue(request.queue)
            traffic.produced_messages += reply.count
            traffic.produced_bytes += size_bytes

    exchange.ask(group, ProduceRequest(body), on_reply)
