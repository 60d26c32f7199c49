"""What the clients of a run were told, and when. It records and judges nothing; `judge` does that."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from logbroker.wire.requests import Rewound
    from tools.chaos_kit.nodes import Partition


@final
class Outcome(Enum):
    PENDING = "pending"
    DONE = "done"
    UNKNOWN = "unknown"
    """It may have been done, and may yet be."""
    REFUSED = "refused"
    """The client was told that it was not done."""


@final
@dataclass(slots=True)
class Sent:
    """One message, as its sender knows it. Times are of the monotonic clock, in seconds."""

    value: bytes
    sender: str
    """Sends one after another; the `number`s of one sender must stand in the log in their order."""
    number: int
    place: Partition
    started_s: float
    outcome: Outcome = Outcome.PENDING
    done_s: float = 0.0
    offset: int = -1
    error: str = ""


@final
@dataclass(frozen=True, slots=True)
class Delivered:
    """One lease as a consumer got it."""

    group: str
    place: Partition
    lease: int
    messages: tuple[tuple[int, int, bytes], ...]
    """Offset, delivery count, value of each."""
    received_s: float
    hide_s: float


@final
@dataclass(slots=True)
class Settled:
    """One ack, nack or extension."""

    verb: str
    group: str
    place: Partition
    lease: int
    offsets: tuple[int, ...]
    started_s: float
    outcome: Outcome = Outcome.PENDING
    error: str = ""


@final
@dataclass(slots=True)
class Rewinding:
    """One rewind by time."""

    group: str
    queue: str
    target_ms: int
    started_s: float
    outcome: Outcome = Outcome.PENDING
    is_pending: bool = False
    # (partition, start offset, moved count)
    partitions: tuple[tuple[int, int, int], ...] = ()
    error: str = ""

    def answer(self, reply: Rewound) -> None:
        """Take the cluster's word on it."""
        self.outcome = Outcome.DONE
        self.is_pending = reply.pending
        self.partitions = tuple((row.partition, row.start_offset, row.moved_count) for row in reply.partitions)


@final
@dataclass(slots=True)
class Record:
    """All of a round."""

    sent: list[Sent] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    rewound: list[Rewinding] = field(default_factory=list)
    # What the last reading of everything brought: value by (partition, offset).
    read: dict[tuple[Partition, int], bytes] = field(default_factory=dict)
    confirms: dict[Partition, list[tuple[float, float]]] = field(default_factory=dict)
    """(when it was sent, when it was confirmed) of each confirmed message, in the order of confirmation."""

    def confirm(self, sent: Sent, *, offset: int, now_s: float) -> None:
        sent.outcome = Outcome.DONE
        sent.offset = offset
        sent.done_s = now_s
        self.confirms.setdefault(sent.place, []).append((sent.started_s, now_s))
