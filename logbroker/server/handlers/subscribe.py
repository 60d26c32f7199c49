"""Subscribe, credit and unsubscribe: streams of leased messages, which the client meters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.config.limits import MIN_HIDE_MS
from logbroker.errors import InvalidArgumentError, NotFoundError
from logbroker.server.streams import Stream
from logbroker.wire.requests import Done

if TYPE_CHECKING:
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Credit, Subscribe, Unsubscribe


def subscribe(exchange: Exchange, request: Subscribe, body: bytes) -> None:
    """Counts and sizes of a delivery beyond the limits are taken as the limit, as of a receive; credit is not."""
    service, limits = exchange.service, exchange.service.limits
    group = service.partition(request.queue, request.partition)
    # A receive learns of these from its partition, a stream without credit would not.
    if not MIN_HIDE_MS <= request.hide_ms <= limits.max_hide_ms:
        raise InvalidArgumentError(
            f"hide_ms {request.hide_ms:,} is outside {MIN_HIDE_MS:,} to limits.max_hide_ms {limits.max_hide_ms:,}"
        )
    for name, value in (("max_count", request.max_count), ("max_bytes", request.max_bytes)):
        if not value:
            raise InvalidArgumentError(f"{name} is 0, so nothing could be delivered")
    exchange.group = group
    stream = Stream(exchange, request, group)
    exchange.session.streams[request.rid] = stream
    service.measures.streams += 1
    stream.grant(request.credit_count, request.credit_bytes)
    stream.check()


def credit(exchange: Exchange, request: Credit, body: bytes) -> None:
    _stream(exchange, request).grant(request.credit_count, request.credit_bytes)
    exchange.reply(Done(request.rid))


def unsubscribe(exchange: Exchange, request: Unsubscribe, body: bytes) -> None:
    _stream(exchange, request).unsubscribe()
    exchange.reply(Done(request.rid))


def _stream(exchange: Exchange, request: Credit | Unsubscribe) -> Stream:
    stream = exchange.session.streams.get(request.subscription)
    if stream is None or stream.queue != request.queue:
        raise NotFoundError(
            f"no stream of queue {request.queue} has rid {request.subscription} on this connection",
            hint="a stream that has ended has answered its subscribe, and said why",
        )
    return stream
