"""The server's end of a JSON connection, and what a test says to it."""

from __future__ import annotations

import json
from typing import Any

from logbroker.record.batch import BatchLimits
from logbroker.wire.json_protocol import JsonServerProtocol
from logbroker.wire.protocol import State
from logbroker.wire.requests import Welcome, WireLimits

NOW_MS = 1_800_000_000_123


def server(
    *, limits: WireLimits | None = None, batch_limits: BatchLimits | None = None, refused: list[str] | None = None
) -> JsonServerProtocol:
    """Before its hello."""
    return JsonServerProtocol(
        limits=limits or WireLimits(),
        batch_limits=batch_limits or BatchLimits(),
        now_ms=lambda: NOW_MS,
        on_refused=(refused if refused is not None else []).append,
    )


def opened(**options: Any) -> JsonServerProtocol:  # noqa: ANN401  as `server`
    """After it."""
    one = server(**options)
    one.receive(b'{"kind":"hello","rid":1}')
    one.reply(Welcome(1, version=1, node=1, cluster="c", limits=one.limits))
    assert one.state is State.OPEN
    said(one)
    return one


def text(kind: str, **fields: object) -> bytes:
    return json.dumps({"kind": kind, **fields}).encode()


def said(one: JsonServerProtocol) -> list[dict[str, Any]]:
    """Everything there is to send."""
    found = []
    while (message := one.next_message()) is not None:
        found.append(json.loads(message))
    return found


def only(one: JsonServerProtocol) -> dict[str, Any]:
    (found,) = said(one)
    return found
