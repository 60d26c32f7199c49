"""Why a connection ends, in the numbers of WebSocket close frames. From 4000 on they are this protocol's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import final

MAX_REASON_BYTES = 123


@final
class CloseCode(IntEnum):
    """The numbers are part of the protocol."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NOT_UTF8 = 1007
    TOO_BIG = 1009
    SERVER_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    BAD_REQUEST = 4400
    UNAUTHENTICATED = 4401
    TIMEOUT = 4408


@final
@dataclass(frozen=True, slots=True)
class Closing:
    """`flushes`: the replies that are ready are sent first."""

    code: CloseCode
    reason: str
    flushes: bool = True

    @property
    def short_reason(self) -> str:
        """What fits a close frame."""
        return self.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
