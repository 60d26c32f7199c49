"""When a group that fails too often is paused: a ring of counts for each group, and what the leader makes of them.

Only the leader looks at it. What it comes to is a pause as an operator makes one, so apply knows no breaker. Times
are log times, and are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import NotFoundError
from logbroker.partition.commands import Ack, Bury, BuryExpired, Expire, Nack, Pause
from logbroker.partition.outcomes import Buried, Expired, Settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupName
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outcomes import Applied
    from logbroker.partition.pause import PauseRecord

REASON_START = "breaker: "
"""Begins the reason of every pause that a breaker makes, and of no other: `is_breaker` goes by it."""
_BUCKET_COUNT = 10


@final
@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """A group is paused for `pause_ms` where `percent` of at least `least_count` deliveries failed in `window_ms`."""

    percent: int
    least_count: int = 20
    window_ms: int = 10_000
    pause_ms: int = 30_000


@final
class Counted(NamedTuple):
    """Deliveries that have ended, and how many of them failed."""

    ended: int
    failed: int


@final
class Breaker:
    """The deliveries of one consumer group that have ended lately.

    They are counted in buckets of a tenth of the window: what is counted is never older than the window, and may leave
    it a tenth early.
    """

    __slots__ = ("_all", "_all_failed", "_bucket_ms", "_ended", "_failed", "_first", "policy")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self._bucket_ms = max(1, policy.window_ms // _BUCKET_COUNT)
        # Number of the oldest bucket that counts; the bucket of a number stands at its remainder in the lists.
        self._first = 0
        self._ended = [0] * _BUCKET_COUNT
        self._failed = [0] * _BUCKET_COUNT
        # The sums of both.
        self._all = self._all_failed = 0

    def add(self, now_ms: int, *, acked: int = 0, failed: int = 0) -> None:
        """Count deliveries that ended at `now_ms`; time must not go back."""
        place = self._move_to(now_ms) % _BUCKET_COUNT
        self._ended[place] += acked + failed
        self._failed[place] += failed
        self._all += acked + failed
        self._all_failed += failed

    def counted(self, now_ms: int) -> Counted:
        """What has ended in the window that ends at `now_ms`."""
        self._move_to(now_ms)
        return Counted(self._all, self._all_failed)

    def trips(self, now_ms: int) -> Counted | None:
        """Return the figures for which the group is to be paused, or None."""
        found, policy = self.counted(now_ms), self.policy
        is_enough = found.ended >= policy.least_count
        return found if is_enough and found.failed * 100 >= policy.percent * found.ended else None

    def _move_to(self, now_ms: int) -> int:
        number = now_ms // self._bucket_ms
        first = number - _BUCKET_COUNT + 1
        for old in range(max(self._first, first - _BUCKET_COUNT), first):
            place = old % _BUCKET_COUNT
            self._all -= self._ended[place]
            self._all_failed -= self._failed[place]
            self._ended[place] = self._failed[place] = 0
        self._first = max(self._first, first)
        return number


def endings(applied: Applied) -> Iterator[tuple[GroupName, int, int]]:
    """Yield group, acked and failed of each change that ended deliveries.

    One that was released never took place, and one that was taken back by a rewind, a skip or a purge says nothing of
    its consumer.
    """
    for change, outcome in zip(applied.changes, applied.outcomes, strict=False):
        if not isinstance(outcome, (Settled, Expired, Buried)) or not outcome.count:
            continue
        if isinstance(change, Ack):
            yield change.group, outcome.count, 0
        elif isinstance(change, (Nack, Bury, Expire, BuryExpired)):
            yield change.group, 0, outcome.count


def counts(machine: PartitionMachine, group: GroupName, now_ms: int) -> bool:
    """Say whether what ends in a group now is counted: it is there, and not paused."""
    try:
        return machine.group(group).pause_at(now_ms) is None
    except NotFoundError:
        return False


def decide_trip(machine: PartitionMachine, group: GroupName, breaker: Breaker, *, now_ms: int) -> Pause | None:
    """Return the pause of a group that fails too often; one that is paused already, by whomever, stays as it is."""
    if not counts(machine, group, now_ms):
        return None
    found = breaker.trips(now_ms)
    if found is None:
        return None
    policy = breaker.policy
    return Pause(group, describe_trip(found, policy.window_ms), now_ms + policy.pause_ms)


def describe_trip(found: Counted, window_ms: int) -> str:
    """Put into words why a breaker pauses a group."""
    return f"{REASON_START}{found.failed} of {found.ended} deliveries failed in {window_ms / 1000:g} s"


def tripped(machine: PartitionMachine, now_ms: int) -> list[tuple[GroupName, PauseRecord]]:
    """Return the groups that breakers keep paused at that log time."""
    found = [(name, machine.group(name).pause_at(now_ms)) for name in machine.groups]
    return [(name, pause) for name, pause in found if pause is not None and is_breaker(pause.reason)]


def is_breaker(reason: str) -> bool:
    """Say whether a breaker made the pause that has this reason."""
    return reason.startswith(REASON_START)
