"""Counters of the server layer, cheap enough for the hot path; `metrics` renders them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Collection

DURATION_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@final
class Durations:
    """A histogram: how many took at most each bound, and one more for all beyond."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.total_s = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self.total_s += seconds


@final
@dataclass(slots=True)
class QueueTraffic:
    """What clients were told is done, through this node."""

    produced_messages: int = 0
    produced_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    settled_messages: int = 0


@final
@dataclass(slots=True)
class Measures:
    """All counts since the start of the process."""

    connections: int = 0
    unauthenticated: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Connections that were turned away, by reason."""
    closed: dict[int, int] = field(default_factory=dict)
    """Connections that this side ended, by close code."""
    plain_http: int = 0
    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    waiting_receives: int = 0
    """Streams are among them."""
    streams: int = 0
    starved_streams: int = 0
    """Of these, those that wait for credit."""
    pushed_deliveries: int = 0
    held_bytes: int = 0
    """What unanswered requests and unwritten replies of all connections take in memory, at the most."""
    requests: dict[str, Durations] = field(default_factory=dict)
    """By kind of request; receives count with their wait."""
    errors: dict[str, int] = field(default_factory=dict)
    """Error replies, by code."""
    queues: dict[str, QueueTraffic] = field(default_factory=dict)

    def note_request(self, kind: str, seconds: float) -> None:
        durations = self.requests.get(kind)
        if durations is None:
            durations = self.requests[kind] = Durations()
        durations.note(seconds)

    def note_error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1

    def note_refused(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def note_closed(self, code: int) -> None:
        self.closed[code] = self.closed.get(code, 0) + 1

    def keep_queues(self, names: Collection[str]) -> None:
        """Forget the queues that are no more."""
        self.queues = {name: traffic for name, traffic in self.queues.items() if name in names}

    def queue(self, name: str) -> QueueTraffic:
        """The counts of a queue; ask only for one that exists, or strangers fill the table."""
        traffic = self.queues.get(name)
        if traffic is None:
            traffic = self.queues[name] = QueueTraffic()
        return traffic
