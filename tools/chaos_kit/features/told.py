"""What the clients of the features were told. As `record`, it judges nothing. Times are of the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from tools.chaos_kit.record import Outcome, Record

if TYPE_CHECKING:
    from tools.chaos_kit.nodes import Partition
    from tools.chaos_kit.record import Sent


@final
@dataclass(frozen=True, slots=True)
class Delayed:
    """A message with the delay or, if that is 0, the wall-clock time that it was sent with."""

    sent: Sent
    delay_ms: int
    deliver_at_ms: int


@final
@dataclass(slots=True)
class Cancelling:
    """The cancelling of one message."""

    offset: int
    started_s: float
    outcome: Outcome = Outcome.PENDING
    is_cancelled: bool = False
    """What a DONE answer said; else it was too late."""


@final
@dataclass(slots=True)
class Redriving:
    """One redrive of the dead-letter queue. `moved` is of a DONE one."""

    started_s: float
    outcome: Outcome = Outcome.PENDING
    moved: int = 0


@final
@dataclass(slots=True)
class Attempt:
    """One sending of an id of one's own, among several."""

    name: str
    value: bytes
    started_s: float
    outcome: Outcome = Outcome.PENDING
    done_s: float = 0.0
    place: Partition | None = None
    offset: int = -1
    is_duplicate: bool = False
    is_conflict: bool = False
    """It was REFUSED because the id is known with another value."""


@final
@dataclass(slots=True)
class Steering:
    """A pause, resume or purge of a consumer group. `reason` is only in this pause."""

    verb: str
    group: str
    started_s: float
    reason: str = ""
    duration_ms: int = 0
    outcome: Outcome = Outcome.PENDING
    done_s: float = 0.0


@final
@dataclass(slots=True)
class Told:
    """All of a round. Sends that are told nothing but their place, deliveries and settlements are in the record."""

    record: Record = field(default_factory=Record)
    delayed: list[Delayed] = field(default_factory=list)
    cancelling: list[Cancelling] = field(default_factory=list)
    redriving: list[Redriving] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    steering: list[Steering] = field(default_factory=list)
