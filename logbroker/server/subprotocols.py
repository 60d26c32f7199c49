"""The subprotocols that the client port speaks: which one a client gets, and what each needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from logbroker.config.options import batch_limits
from logbroker.wire.json_protocol import JsonServerProtocol
from logbroker.wire.protocol import ServerProtocol
from logbroker.wire.requests import JSON_SUBPROTOCOL, SUBPROTOCOL

if TYPE_CHECKING:
    from logbroker.server.plain_http import HttpRequest
    from logbroker.server.service import ClientService

SUBPROTOCOLS = (SUBPROTOCOL, JSON_SUBPROTOCOL)

AnyServerProtocol: TypeAlias = ServerProtocol | JsonServerProtocol


def choose(request: HttpRequest) -> str | None:
    """The first that the client offers and that is spoken here."""
    offered = request.headers.get("sec-websocket-protocol", "").split(",")
    return next((name for word in offered if (name := word.strip()) in SUBPROTOCOLS), None)


def protocol_of(subprotocol: str, service: ClientService) -> AnyServerProtocol:
    """The state machine of one connection."""
    if subprotocol == SUBPROTOCOL:
        return ServerProtocol(limits=service.wire_limits)
    return JsonServerProtocol(
        limits=service.wire_limits,
        batch_limits=batch_limits(service.limits),
        now_ms=_now_ms,
        on_refused=service.measures.note_error,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
