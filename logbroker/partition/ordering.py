"""The order in which messages are handed out: how many are in flight at once, and whether those of a key keep theirs.

As the policy of failures it decides what the leader proposes; a replica that applies never sees it. Messages in flight
are those leased and, where failures block, those that wait after a failed delivery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from logbroker.partition.runs import NO_LEASE, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from logbroker.ids import GroupName
    from logbroker.partition.groups import ConsumerGroup
    from logbroker.partition.outcomes import Range
    from logbroker.partition.runs import Run

MAX_WINDOW = 10_000
"""Also the window of a queue that is ordered by key and names none: what is in flight is what a receive costs there."""
MAX_KEYS_COMPARED = 100_000
"""Of waiting messages, by one receive: those that wait behind more messages of keys that are locked, wait with them."""
NO_KEY = 0


@final
@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """`window` 0 is no bound, and goes without keys: `order_policy` sees to it.

    With `blocks` what comes after a failed message (of its key, or with a full window of the partition) waits until
    that one is settled. Without, it goes on while the failed one waits.
    """

    window: int = 0
    by_key: bool = False
    blocks: bool = True


NO_ORDER = OrderPolicy()


def order_policy(window: int, *, by_key: bool, blocks: bool) -> OrderPolicy:
    return OrderPolicy(window or (MAX_WINDOW if by_key else 0), by_key, blocks)


class KeySource(Protocol):
    """The keys of committed messages as numbers, equal for equal keys; `NO_KEY` for a message without one.

    Raises:
        DamageError: a batch cannot be read here and will come from a peer.
    """

    def keys(self, start: int, end: int) -> Sequence[int] | None:
        """Keys from `start` on, none at or beyond `end`, and at least one, or none where nothing is committed.

        None where reading them must wait for the next receive.
        """

    def few(self, start: int) -> tuple[int, frozenset[int]] | None:
        """An offset beyond `start` and all keys up to there, where they are known to be a few."""

    def held(self, start: int, end: int) -> tuple[int, ...] | None:
        """All keys of [start, end), which is in flight; None where reading them must wait."""


def count_in_flight(state: ConsumerGroup, now_ms: int, policy: OrderPolicy, *, ended_count: int) -> int:
    """Messages in flight beside those whose leases are about to be ended; what is beyond the window is not counted."""
    count = state.table.count(RunState.LEASED) - ended_count
    if policy.blocks:
        for run in failed(state, now_ms):
            if count >= policy.window:
                break
            count += run.end - run.start
    return count


def failed(state: ConsumerGroup, now_ms: int) -> Iterator[Run]:
    """Yield what may not be leased at `now_ms` because it failed.

    A rewind gives what waits after a failure no deliveries and leaves it waiting. That is still what was handed out
    before all that follows it, so it is told by the rewind.
    """
    table = state.table
    yield from table.waiting_after_failure(now_ms)
    if table.delayed.pending_count > table.failed.pending_count and state.rewinds.records():
        for run in table.waiting(now_ms):
            if not run.deliveries and state.rewinds.took(run.start, lease_index=NO_LEASE):
                yield run


@final
class KeyLocks:
    """Which keys are locked; of the leader alone, and never part of the state.

    What was asked for is kept by the place of the run: of the messages in flight only the keys of new ones are read.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._held: dict[GroupName, dict[Range, tuple[int, ...]]] = {}
        # Whether the last receive found less than there may be because keys have yet to be read.
        self.is_behind = False

    def walk(self, group: GroupName, in_flight: Iterable[Run]) -> KeyWalk | None:
        """Begin to choose for a receive; None where not all keys that are locked are known."""
        self.is_behind = False
        before = self._held.get(group, {})
        held: dict[Range, tuple[int, ...]] = {}
        locked: set[int] = set()
        for run in in_flight:
            place = (run.start, run.end)
            keys = before.get(place)
            if keys is None:
                keys = self._source.held(*place)
                if keys is None:
                    self.is_behind = True
                    self._held[group] = before | held
                    return None
            held[place] = keys
            locked.update(keys)
        self._held[group] = held
        locked.discard(NO_KEY)
        return KeyWalk(self, self._source, locked)


@final
class KeyWalk:
    """One walk over what may be leased; what is free must be taken in order, all of it, up to where the walk ends."""

    def __init__(self, locks: KeyLocks, source: KeySource, locked: set[int]) -> None:
        self._locks = locks
        self._source = source
        self._locked = locked
        self._left = MAX_KEYS_COMPARED
        # Nothing beyond may be taken: what was not looked at comes before it.
        self.is_over = False

    def free(self, start: int, end: int) -> Iterator[Range]:
        """Yield the parts of [start, end) whose keys are not locked; where `is_over` then, not all of them."""
        locked, source = self._locked, self._source
        while start < end:
            if self._left <= 0:
                self.is_over = True
                return
            few = source.few(start) if locked else None
            if few is not None and few[1] <= locked:
                self._left -= len(few[1])
                start = few[0]
                continue
            keys = source.keys(start, end)
            if keys is None:
                self.is_over = self._locks.is_behind = True
                return
            if not keys:
                self.is_over = True
                return
            self._left -= len(keys)
            yield from _free(keys, locked, start)
            start += len(keys)


def _free(keys: Sequence[int], locked: set[int], start: int) -> Iterator[Range]:
    if locked.isdisjoint(keys):
        yield start, start + len(keys)
        return
    first = None
    for offset, key in enumerate(keys, start):
        if key in locked:
            if first is not None:
                yield first, offset
                first = None
        elif first is None:
            first = offset
    if first is not None:
        yield first, start + len(keys)
