"""One connection to one node, as far as the core sees it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.errors import LogBrokerError
    from logbroker.wire.protocol import ClientProtocol
    from logbroker_client.pending import Asked


# With so much in its buffer a link is not given more before that is sent: the server works on the first batches of a
# burst while the next ones are compressed. Less would cost more rounds of Raft than it saves time.
BUFFER_BYTES = 80 * 1024


@final
class LinkState(Enum):
    IDLE = auto()
    """Not connected, and nobody asks for it."""
    DIALING = auto()
    """The transport connects, or waits for the server's welcome."""
    OPEN = auto()
    RESTING = auto()
    """It failed; no new try before its time."""


def _nothing() -> None: ...


@final
class Link:
    """`wake` tells the transport's writer that there may be something to send, `abort` ends the connection."""

    __slots__ = (
        "abort",
        "error",
        "failure_count",
        "heard_at",
        "is_missed",
        "missed",
        "node",
        "pinged_at",
        "protocol",
        "state",
        "url",
        "wake",
    )

    def __init__(self, url: str) -> None:
        self.url = url
        self.node = 0
        self.state = LinkState.IDLE
        self.protocol: ClientProtocol[Asked] | None = None
        self.failure_count = 0
        self.error: LogBrokerError | None = None
        self.heard_at = 0.0
        self.pinged_at = 0.0
        # It owes an answer, and does not even answer a ping; and what it leads that we need, as (queue, partition).
        self.is_missed = False
        self.missed: tuple[tuple[str, int], ...] = ()
        self.wake: Callable[[], None] = _nothing
        self.abort: Callable[[], None] = _nothing

    def detach(self) -> None:
        """Forget the connection and the transport's task."""
        self.protocol = None
        self.is_missed = False
        self.missed = ()
        self.wake = _nothing
        self.abort = _nothing

    @property
    def is_writable(self) -> bool:
        """Whether the next request would be sent soon; a full buffer makes batches fill instead."""
        protocol = self.protocol
        return (
            protocol is not None
            and self.state is LinkState.OPEN
            and protocol.pending_bytes < BUFFER_BYTES
            and protocol.can_send()
        )
