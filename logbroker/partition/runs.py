"""The run table of one consumer group: the state of every message as runs of equal neighbours.

Everything below `floor` is acked. From there to `frontier` the runs lie end to end; from the frontier on every message
is available and was never delivered. The table knows offsets and states; what a lease or a rewind means is in `groups`.

The form is canonical, so that equal states have equal bytes however they came about: neighbours differ in more than
their place, the first run is not acked (the floor would have passed it), and the last is not fresh (it would lie
beyond the frontier).
"""

from __future__ import annotations

from enum import IntEnum
from heapq import merge
from typing import TYPE_CHECKING, TypeVar, final

import msgspec

from logbroker.errors import CorruptBatchError, violated
from logbroker.partition.blocked_map import BlockedMap
from logbroker.partition.commands import Number
from logbroker.partition.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NO_LEASE = 0

_Value = TypeVar("_Value")


@final
class RunState(IntEnum):
    """State of a message in one group. The numbers are part of the checkpoint format."""

    AVAILABLE = 0
    """May be leased; with deliveries 0 it is fresh, else it came back from a lease."""
    LEASED = 1
    DELAYED = 2
    """Available from `visible_at_ms` on; nothing has to be written when that comes."""
    ACKED = 3
    DEAD = 4
    """Given up; kept until retention or until it is revived, and the floor stays below it."""
    MOVING = 5
    """On its way to another partition; it becomes moved, or what it was before."""
    MOVED = 6
    """A copy of it is in another partition; kept until retention, lest a rewind delivers it here too."""


@final
class Run(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Neighbouring messages, offsets [start, end), that share everything else; immutable.

    `visible_at_ms` is 0 unless leased or delayed; `lease` and `first_leased_ms` (when the present lease began, which
    bounds its extensions) are 0 unless leased, dead, or dead before it was moving. In a dead run they name the change
    that buried it, as it would name a lease, and the log time of that: who held it and why it died stand in that entry,
    which the log keeps as long as the message. Acked and moved runs keep no count, so that they merge. A dead run with
    deliveries 0 was never leased.
    """

    start: Number
    end: Number
    state: RunState
    deliveries: Number = 0
    visible_at_ms: Number = 0
    lease: Number = NO_LEASE
    first_leased_ms: Number = 0

    @property
    def is_fresh(self) -> bool:
        return self.state is _AVAILABLE and self.deliveries == 0


_AVAILABLE = RunState.AVAILABLE
_LEASED = RunState.LEASED
_DELAYED = RunState.DELAYED
_ACKED = RunState.ACKED
_DEAD = RunState.DEAD
_MOVING = RunState.MOVING
_MOVED = RunState.MOVED


def fresh(start: int, end: int) -> Run:
    return Run(start, end, _AVAILABLE)


def acked(start: int, end: int) -> Run:
    return Run(start, end, _ACKED)


def moved(start: int, end: int) -> Run:
    return Run(start, end, _MOVED)


def is_movable(run: Run, now_ms: int) -> bool:
    """Whether a run is available at `now_ms`, or dead."""
    return run.state is _AVAILABLE or run.state is _DEAD or (run.state is _DELAYED and run.visible_at_ms <= now_ms)


def moving(run: Run) -> Run:
    """A run that was available or dead."""
    return Run(run.start, run.end, _MOVING, run.deliveries, 0, run.lease, run.first_leased_ms)


def unmoved(run: Run) -> Run:
    """A moving run as it was before."""
    state = _DEAD if run.lease else _AVAILABLE
    return Run(run.start, run.end, state, run.deliveries, 0, run.lease, run.first_leased_ms)


def cut(run: Run, start: int, end: int) -> Run:
    """Return the part of `run` in [start, end), which must lie inside it."""
    if run.start == start and run.end == end:
        return run
    return Run(start, end, run.state, run.deliveries, run.visible_at_ms, run.lease, run.first_leased_ms)


def alike(one: Run, other: Run) -> bool:
    """Say whether two neighbours are one run."""
    return (
        one.state is other.state
        and one.lease == other.lease
        and one.deliveries == other.deliveries
        and one.visible_at_ms == other.visible_at_ms
        and one.first_leased_ms == other.first_leased_ms
    )


def merged(pieces: Iterable[Run]) -> list[Run]:
    """Join like neighbours of pieces that lie end to end."""
    joined: list[Run] = []
    for piece in pieces:
        if joined and alike(joined[-1], piece):
            last = joined[-1]
            joined[-1] = Run(
                last.start, piece.end, last.state, last.deliveries, last.visible_at_ms, last.lease, last.first_leased_ms
            )
        else:
            joined.append(piece)
    return joined


@final
class RunTable:
    """The runs of one group, with indexes that make receiving cheap.

    Reading methods take `end`, the partition's next_offset, where they look beyond the frontier.
    """

    __slots__ = ("_by_start", "_counts", "_runs", "_visible", "delayed", "failed", "floor", "frontier", "leased")

    def __init__(self, floor: int) -> None:
        # All offsets below are acked. Moves up over acked runs by itself, and down only by `reopen`.
        self.floor = floor
        # One past the last run; equal to `floor` when there are none.
        self.frontier = floor
        self._runs: BlockedMap[int, Run] = BlockedMap()
        # The available runs below the frontier, by start: what a receive takes before the fresh rest.
        self._visible: BlockedMap[int, Run] = BlockedMap()
        # The delayed ones, by start.
        self._by_start: BlockedMap[int, Run] = BlockedMap()
        self.leased = Deadlines()
        self.delayed = Deadlines()
        # The delayed runs that were delivered before.
        self.failed = Deadlines()
        # Messages below the frontier by state.
        self._counts = [0] * len(RunState)

    @classmethod
    def decode(cls, floor: int, runs: Iterable[Run]) -> RunTable:
        """Build a table from its canonical runs.

        Raises:
            CorruptBatchError: the runs are not what a table with this floor could hold.
        """
        table = cls(floor)
        last: Run | None = None
        for run in runs:
            if run.start != table.frontier or run.end <= run.start:
                raise CorruptBatchError(f"run [{run.start}, {run.end}) does not follow offset {table.frontier}")
            if not _is_well_formed(run) or (last is not None and alike(last, run)):
                raise CorruptBatchError(f"run [{run.start}, {run.end}) is not in canonical form: {run}")
            table._runs.set(run.start, run)
            table._remember(run)
            table.frontier = run.end
            last = run
        first = table._runs.first()
        if last is not None and (last.is_fresh or (first is not None and first.state is _ACKED)):
            raise CorruptBatchError(f"runs [{floor}, {table.frontier}) begin acked or end fresh")
        return table

    def clone(self, *, for_reading: bool = False) -> RunTable:
        """Return an independent copy at the cost of its index, not of its runs.

        One `for_reading` gives its runs and nothing else: the buckets of a million deadlines are not copied for it.
        """
        other = RunTable(self.floor)
        other.frontier = self.frontier
        other._runs = self._runs.clone()
        if for_reading:
            return other
        other._visible = self._visible.clone()
        other._by_start = self._by_start.clone()
        other.leased = self.leased.clone()
        other.delayed = self.delayed.clone()
        other.failed = self.failed.clone()
        other._counts = self._counts.copy()
        return other

    def __len__(self) -> int:
        """Count of runs, which is what memory and checkpoints cost."""
        return len(self._runs)

    def runs(self) -> Iterator[Run]:
        """Yield the canonical runs, in order."""
        return self._runs.values()

    @property
    def dead_count(self) -> int:
        return self._counts[_DEAD]

    def count(self, state: RunState) -> int:
        """Messages of that state in [floor, frontier)."""
        return self._counts[state]

    def at(self, offset: int) -> Run:
        """Return the run around one offset; below the floor and beyond the frontier a run of that offset alone."""
        if offset < self.floor:
            return acked(offset, offset + 1)
        if offset >= self.frontier:
            return fresh(offset, offset + 1)
        run = self._runs.floor(offset)
        return run if run is not None else violated(f"no run holds offset {offset} between floor and frontier")

    def overlap(self, start: int, end: int) -> list[Run]:
        """Return runs that tile [start, end) exactly, cut to it, below the floor and beyond the frontier too."""
        if self.floor <= start < self.frontier:
            first = self.at(start)
            if end <= first.end:
                return [cut(first, start, end)] if start < end else []
        pieces: list[Run] = []
        if start < self.floor and start < end:
            pieces.append(acked(start, min(end, self.floor)))
            start = self.floor
        if start < end and start < self.frontier:
            first = self.at(start)
            pieces.append(cut(first, start, min(end, first.end)))
            start = first.end
            for run in self._runs.values_from(start):
                if run.start >= end:
                    break
                pieces.append(run if run.end <= end else cut(run, run.start, end))
                start = run.end
        if start < end:
            pieces.append(fresh(start, end))
        return pieces

    def eligible(self, now_ms: int, end: int, *, not_below: int = 0) -> Iterator[Run]:
        """Yield in offset order the whole runs that may be leased at `now_ms`; the fresh rest comes last.

        Leased runs among them are past their deadline and must be expired first, in the same entry. Runs that end at
        or before `not_below` may be left out.
        """
        self.leased.advance(now_ms)
        self.delayed.advance(now_ms)
        first = self.at(not_below).start if not_below > self.floor else 0
        visible = _values_from(self._visible, first)
        if len(self.leased.due) or len(self.delayed.due):
            leased, delayed = (map(self._run_at, _values_from(part.due, first)) for part in (self.leased, self.delayed))
            for run in merge(visible, leased, delayed, key=_start_of):
                if run.visible_at_ms <= now_ms:
                    yield run
        else:
            yield from visible
        if self.frontier < end:
            yield fresh(self.frontier, end)

    def expired(self, now_ms: int) -> Iterator[Run]:
        """Yield in offset order the leased runs whose deadline has passed."""
        self.leased.advance(now_ms)
        for run in map(self._run_at, self.leased.due.values()):
            if run.visible_at_ms <= now_ms:
                yield run

    def idle(self, end: int) -> Iterator[Run]:
        """Yield in offset order what below `end` is available or delayed, cut to it; the fresh rest comes last."""
        for run in merge(self._visible.values(), self._by_start.values(), key=_start_of):
            if run.start >= end:
                return
            yield run if run.end <= end else cut(run, run.start, end)
        if self.frontier < end:
            yield fresh(self.frontier, end)

    def waiting(self, now_ms: int) -> Iterator[Run]:
        """Yield the delayed runs that may not be leased at `now_ms`, in no order."""
        return self._waiting(self.delayed, now_ms)

    def waiting_after_failure(self, now_ms: int) -> Iterator[Run]:
        """As `waiting`, of the runs that were delivered before."""
        return self._waiting(self.failed, now_ms)

    def _waiting(self, deadlines: Deadlines, now_ms: int) -> Iterator[Run]:
        deadlines.advance(now_ms)
        yield from map(self._run_at, deadlines.pending())
        if deadlines.is_ahead_of(now_ms):
            for run in map(self._run_at, deadlines.due.values()):
                if run.visible_at_ms > now_ms:
                    yield run

    def dead(self, start: int, end: int) -> Iterator[Run]:
        """Yield in offset order what of [start, end) is dead, cut to it; stops where no more can come."""
        left = self._counts[_DEAD]
        start, end = max(start, self.floor), min(end, self.frontier)
        if not left or start >= end:
            return
        for run in self._runs.values_from(self.at(start).start):
            if run.start >= end:
                return
            if run.state is _DEAD:
                yield cut(run, max(run.start, start), min(run.end, end))
                left -= run.end - run.start
                if not left:
                    return

    def movable(self, start: int, end: int, *, now_ms: int) -> Iterator[Run]:
        """Yield in offset order what of [start, end) is available at `now_ms`, or dead, cut to it."""
        start = max(start, self.floor)
        if start < min(end, self.frontier):
            for run in self._runs.values_from(self.at(start).start):
                if run.start >= end:
                    return
                if is_movable(run, now_ms):
                    yield cut(run, max(run.start, start), min(run.end, end))
        beyond = max(start, self.frontier)
        if beyond < end:
            yield fresh(beyond, end)

    def put(self, pieces: Sequence[Run]) -> None:
        """Make `pieces`, which lie end to end at or above the floor, the truth about their range."""
        start, end = pieces[0].start, pieces[-1].end
        if start == self.frontier and len(pieces) == 1 and self._append(pieces[0]):
            return
        window = list(pieces)
        start = self._extend_left(window, start)
        end = self._extend_right(window, end)
        if len(window) > 1:
            window = merged(window)
        removed = self._runs.splice(start, end, [run.start for run in window], window)
        for run in removed:
            self._forget(run)
        for run in window:
            self._remember(run)
        self.frontier = max(self.frontier, end)
        self._trim()

    def drop_below(self, start: int) -> list[Run]:
        """Raise the floor to `start` whatever lies below it.

        Returns:
            What was there, from the old floor to `start`, cut at `start`.
        """
        if start <= self.floor:
            return []
        dropped = self.overlap(self.floor, start)
        last = self.at(start)
        removed = self._runs.splice(self.floor, start, [], [])
        for run in removed:
            self._forget(run)
        if last.start < start < last.end:
            rest = cut(last, start, last.end)
            self._runs.set(start, rest)
            self._remember(rest)
        self.floor = start
        self.frontier = max(self.frontier, start)
        self._trim()
        return dropped

    def lower_floor(self, start: int) -> None:
        """Make the acked messages in [start, floor) a run, for `put` to change; `put` must follow."""
        if start < self.floor:
            run = acked(start, self.floor)
            self._runs.set(start, run)
            self._remember(run)
            self.floor = start

    def _append(self, run: Run) -> bool:
        """Put a run at the frontier the fast way; False where it would merge with the last one or be trimmed."""
        last = self._runs.last()
        if (last is not None and alike(last, run)) or run.state is not _LEASED:
            return False
        self._runs.set(run.start, run)
        self._remember(run)
        self.frontier = run.end
        return True

    def _extend_left(self, window: list[Run], start: int) -> int:
        """Prepend to the window what splicing at `start` also touches; return where it begins."""
        if start > self.frontier:
            window.insert(0, fresh(self.frontier, start))
            start = self.frontier
        elif start < self.frontier:
            run = self.at(start)
            if run.start < start:
                window.insert(0, cut(run, run.start, start))
                return run.start
        if start > self.floor:
            before = self.at(start - 1)
            if alike(before, window[0]):
                window.insert(0, before)
                return before.start
        return start

    def _extend_right(self, window: list[Run], end: int) -> int:
        """Append to the window what splicing at `end` also touches; return where it ends."""
        if end >= self.frontier:
            return end
        run = self.at(end)
        if run.start < end:
            window.append(cut(run, end, run.end))
            return run.end
        if alike(window[-1], run):
            window.append(run)
            return run.end
        return end

    def _trim(self) -> None:
        """Restore the canonical form at both ends."""
        last = self._runs.last()
        if last is not None and last.is_fresh:
            self._runs.delete(last.start)
            self._forget(last)
            self.frontier = last.start
        first = self._runs.first()
        if first is not None and first.state is _ACKED:
            self._runs.delete(first.start)
            self._forget(first)
            self.floor = first.end
            self.frontier = max(self.frontier, self.floor)

    def _run_at(self, start: int) -> Run:
        run = self._runs.get(start)
        return run if run is not None else violated(f"a deadline names offset {start}, where no run starts")

    def _remember(self, run: Run) -> None:
        state = run.state
        self._counts[state] += run.end - run.start
        if state is _LEASED:
            self.leased.add(run)
        elif state is _AVAILABLE:
            self._visible.set(run.start, run)
        elif state is _DELAYED:
            self.delayed.add(run)
            self._by_start.set(run.start, run)
            if run.deliveries:
                self.failed.add(run)

    def _forget(self, run: Run) -> None:
        state = run.state
        self._counts[state] -= run.end - run.start
        if state is _LEASED:
            self.leased.remove(run)
        elif state is _AVAILABLE:
            self._visible.delete(run.start)
        elif state is _DELAYED:
            self.delayed.remove(run)
            self._by_start.delete(run.start)
            if run.deliveries:
                self.failed.remove(run)


def _values_from(part: BlockedMap[int, _Value], first: int) -> Iterator[_Value]:
    return part.values_from(first) if first else part.values()


def _start_of(run: Run) -> int:
    return run.start


def _is_well_formed(run: Run) -> bool:
    """Say whether the fields agree with the state."""
    leased = run.state is _LEASED
    timed = leased or run.state is _DELAYED
    named = leased or run.state is _DEAD or (run.state is _MOVING and run.lease > NO_LEASE)
    return (
        (run.visible_at_ms > 0) == timed
        and (run.lease > NO_LEASE) == named
        and (run.first_leased_ms == 0 or named)
        and run.deliveries >= (1 if leased else 0)
        and (run.deliveries == 0 or (run.state is not _ACKED and run.state is not _MOVED))
    )
