"""The order in which messages are handed out: how many are in flight at once, and whether those of a key keep theirs.

As the policy of failures it decides what the leader proposes; a replica that applies never sees it. Messages in flight
are those leased and, where failures block, those that wait after a failed delivery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from logbroker.partition.deadlines import RecordedDeadlines
from logbroker.partition.runs import NO_LEASE, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from logbroker.ids import GroupName
    from logbroker.partition.deadlines import Deadlines
    from logbroker.partition.groups import ConsumerGroup
    from logbroker.partition.outcomes import Range
    from logbroker.partition.runs import Run, RunTable
    from logbroker.partition.schedule import Schedule

MAX_WINDOW = 10_000
"""Also the window of a queue that is ordered by key and names none."""
MAX_KEYS_COMPARED = 100_000
"""Of waiting messages, by one receive: those that wait behind more messages of keys that are locked, wait with them."""
NO_KEY = 0
_MAX_GROUPS = 1_000


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


def count_in_flight(
    state: ConsumerGroup, now_ms: int, policy: OrderPolicy, *, ended_count: int, schedule: Schedule
) -> int:
    """Messages in flight beside those whose leases are about to be ended; what is beyond the window is not counted."""
    count = state.table.count(RunState.LEASED) - ended_count
    if policy.blocks:
        for run in failed(state, schedule, now_ms):
            if count >= policy.window:
                break
            count += run.end - run.start
    return count


def failed(state: ConsumerGroup, schedule: Schedule, now_ms: int) -> Iterator[Run]:
    """Yield what may not be leased at `now_ms` because it failed.

    A rewind gives what waits after a failure no deliveries and leaves it waiting. That is still what was handed out
    before all that follows it, so it is told by the rewind. What the `schedule` has was never handed out.
    """
    yield from state.table.waiting_after_failure(now_ms)
    yield from rewound(state, schedule, now_ms)


def rewound(state: ConsumerGroup, schedule: Schedule, now_ms: int) -> Iterator[Run]:
    """Yield what failed before a rewind and still may not be leased."""
    table = state.table
    if table.delayed.pending_count > table.failed.pending_count and state.rewinds.records():
        for run in table.waiting(now_ms):
            if run.deliveries or schedule.due_ms_at(run.start, after_ms=now_ms):
                continue
            if state.rewinds.took(run.start, lease_index=NO_LEASE):
                yield run


@final
class _Kind:
    """The runs of one table that are leased, or that failed, and their keys by start."""

    __slots__ = ("keys", "recorded")

    def __init__(self, table: RunTable, deadlines: Deadlines) -> None:
        self.keys: dict[int, tuple[int, ...]] = {}
        self.recorded = RecordedDeadlines(deadlines)
        starts = [*self.recorded.pending(), *self.recorded.due.values()]
        self.recorded.changes = [(table.at(start), True) for start in starts]


@final
class _GroupLocks:
    """How many messages of each key one consumer group has in flight, as of the last time it was asked."""

    def __init__(self, state: ConsumerGroup, *, blocks: bool) -> None:
        table = state.table
        self.blocks = blocks
        self.leased = _Kind(table, table.leased)
        table.leased = self.leased.recorded
        self.failed = _Kind(table, table.failed)
        table.failed = self.failed.recorded
        self.locked: set[int] = set()
        self._counts: dict[int, int] = {}

    def is_of(self, state: ConsumerGroup, *, blocks: bool) -> bool:
        """Whether it has seen all that happened to the group."""
        table, leased, failed = state.table, self.leased.recorded, self.failed.recorded
        is_whole = not (leased.is_overrun or (failed.is_overrun and blocks))
        return table.leased is leased and table.failed is failed and is_whole and self.blocks is blocks

    def follow(self, source: KeySource) -> bool:
        """Count what came and went; False where keys of it have to be read still."""
        return self._follow(self.leased, source) and (not self.blocks or self._follow(self.failed, source))

    def _follow(self, kind: _Kind, source: KeySource) -> bool:
        done, changes = 0, kind.recorded.changes
        try:
            for run, came in changes:
                if came:
                    keys = source.held(run.start, run.end)
                    if keys is None:
                        return False
                    kind.keys[run.start] = keys
                    self._count(keys, 1)
                else:
                    self._count(kind.keys.pop(run.start), -1)
                done += 1
        finally:
            # What cannot be read now is asked for again, and nothing is counted twice.
            del changes[:done]
        return True

    def without(self, runs: Iterable[tuple[_Kind, int]]) -> set[int]:
        """The locked keys if the runs that start there were not in flight."""
        freed: dict[int, int] = {}
        for kind, start in runs:
            for key in kind.keys[start]:
                freed[key] = freed.get(key, 0) + 1
        if not freed:
            return self.locked
        return self.locked - {key for key, count in freed.items() if count == self._counts.get(key)}

    def _count(self, keys: tuple[int, ...], by: int) -> None:
        counts = self._counts
        for key in keys:
            if key == NO_KEY:
                continue
            count = counts.get(key, 0) + by
            if count:
                counts[key] = count
                self.locked.add(key)
            else:
                del counts[key]
                self.locked.discard(key)


@final
class KeyLocks:
    """Which keys are locked; of the leader alone, and never part of the state.

    The table writes down what is leased and what fails, so that a receive looks at what changed and not at everything
    that is in flight. A table that does not, because it came in another's place, is counted from the start.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._groups: dict[GroupName, _GroupLocks] = {}
        # Whether the last receive found less than there may be because keys have yet to be read.
        self.is_behind = False

    def walk(
        self, state: ConsumerGroup, now_ms: int, policy: OrderPolicy, *, ended_end: int, schedule: Schedule
    ) -> KeyWalk | None:
        """Begin to choose for a receive; None where not all keys that are locked are known.

        Leases that have run out at `now_ms` and begin below `ended_end` are about to be ended.
        """
        self.is_behind = False
        held = self._groups.get(state.name)
        if held is None or not held.is_of(state, blocks=policy.blocks):
            if len(self._groups) >= _MAX_GROUPS:
                # Of groups that are gone, most of them.
                self._groups.clear()
            held = self._groups[state.name] = _GroupLocks(state, blocks=policy.blocks)
        if not held.follow(self._source):
            self.is_behind = True
            return None
        locked = held.without(_over(held, state.table, now_ms, ended_end))
        for run in rewound(state, schedule, now_ms) if policy.blocks else ():
            keys = self._source.held(run.start, run.end)
            if keys is None:
                self.is_behind = True
                return None
            locked = locked | set(keys) - {NO_KEY}
        return KeyWalk(self, self._source, locked)


def _over(held: _GroupLocks, table: RunTable, now_ms: int, ended_end: int) -> Iterator[tuple[_Kind, int]]:
    """Yield what is not in flight any more though nothing has been written about it."""
    for start in held.leased.recorded.due.values():
        if start < ended_end and table.at(start).visible_at_ms <= now_ms:
            yield held.leased, start
    if not held.blocks:
        return
    held.failed.recorded.advance(now_ms)
    for start in held.failed.recorded.due.values():
        if table.at(start).visible_at_ms <= now_ms:
            yield held.failed, start


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
    if locked.issuperset(keys):
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
