"""Runs by deadline, in buckets of 100 ms: what has become due is known without looking at what has not.

A cache beside the run table: never part of the state, its digest or a checkpoint, rebuilt from the runs.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, final

from logbroker.partition.blocked_map import BlockedMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.partition.runs import Run

BUCKET_MS = 100
MAX_RECORDED = 20_000


class Deadlines:
    """The runs of one state (leased, or delayed) of one table, by `visible_at_ms`.

    A run waits in the bucket of the first multiple of 100 ms at or after its deadline, and stands in `due` once
    `advance` has been told of a time at or past that: up to 100 ms late, never early.
    """

    __slots__ = ("_buckets", "_heap", "_members", "_owned", "_passed", "_singles", "due")

    def __init__(self) -> None:
        # Start offsets, as keys and as values. A run may be here whose deadline lies ahead of an earlier `now_ms`,
        # so readers compare. The runs themselves are looked up when they are wanted: half a million leases that run
        # out at once are moved here in one go.
        self.due: BlockedMap[int, int] = BlockedMap()
        # The keys of _buckets and _singles are exactly those in _heap; a bucket may have run empty.
        self._buckets: dict[int, set[int]] = {}
        # Buckets of one start, which is not in a set: a million unlike deadlines would be a million sets.
        self._singles: dict[int, int] = {}
        self._heap: list[int] = []
        # Buckets that no clone shares.
        self._owned: set[int] = set()
        self._members = 0
        self._passed = -1

    def clone(self) -> Deadlines:
        other = Deadlines()
        other.due = self.due.clone()
        other._buckets = self._buckets.copy()
        other._singles = self._singles.copy()
        other._heap = self._heap.copy()
        other._members = self._members
        other._passed = self._passed
        self._owned = set()
        return other

    def add(self, run: Run) -> None:
        bucket = -(-run.visible_at_ms // BUCKET_MS)
        if bucket <= self._passed:
            self.due.set(run.start, run.start)
            return
        self._members += 1
        if bucket in self._owned:
            self._buckets[bucket].add(run.start)
            return
        members = self._buckets.get(bucket)
        if members is not None:
            self._buckets[bucket] = members | {run.start}
        elif (only := self._singles.pop(bucket, None)) is not None:
            self._buckets[bucket] = {only, run.start}
        else:
            heappush(self._heap, bucket)
            self._singles[bucket] = run.start
            return
        self._owned.add(bucket)

    def remove(self, run: Run) -> None:
        """Forget a run that was added with this start and this deadline."""
        bucket = -(-run.visible_at_ms // BUCKET_MS)
        if bucket <= self._passed:
            self.due.delete(run.start)
            return
        self._members -= 1
        if bucket in self._owned:
            self._buckets[bucket].remove(run.start)
        else:
            only = self._singles.pop(bucket, None)
            members = self._buckets[bucket] if only is None else {only}
            self._buckets[bucket] = members - {run.start}
            self._owned.add(bucket)
        # Leases settled long before a far deadline leave empty buckets behind; keep those from piling up.
        if len(self._heap) > 2 * self._members + 1024:
            self._drop_empty()

    def advance(self, now_ms: int) -> None:
        """Move what is due at `now_ms` into `due`."""
        current = now_ms // BUCKET_MS
        while self._heap and self._heap[0] <= current:
            bucket = heappop(self._heap)
            self._owned.discard(bucket)
            only = self._singles.pop(bucket, None)
            starts = sorted(self._buckets.pop(bucket)) if only is None else [only]
            self._members -= len(starts)
            if starts:
                self.due.update(starts, starts)
        self._passed = max(self._passed, current)

    @property
    def pending_count(self) -> int:
        """How many runs are not in `due`."""
        return self._members

    def is_ahead_of(self, now_ms: int) -> bool:
        """Whether `due` may hold what is not due at `now_ms`."""
        return self._passed > now_ms // BUCKET_MS

    def pending(self) -> Iterator[int]:
        """Yield the start offsets that are not in `due`, in no order."""
        yield from self._singles.values()
        for members in self._buckets.values():
            yield from members

    def next_ms(self) -> int | None:
        """Return when something will be due (or when it was, if it is already), or None."""
        if len(self.due):
            return self._passed * BUCKET_MS
        while self._heap and self._heap[0] not in self._singles and not self._buckets[self._heap[0]]:
            bucket = heappop(self._heap)
            self._owned.discard(bucket)
            del self._buckets[bucket]
        return self._heap[0] * BUCKET_MS if self._heap else None

    def _drop_empty(self) -> None:
        self._buckets = {bucket: starts for bucket, starts in self._buckets.items() if starts}
        self._owned &= self._buckets.keys()
        self._heap = [*self._buckets, *self._singles]
        heapify(self._heap)


@final
class RecordedDeadlines(Deadlines):
    """Also writes down which runs came (True) and went, for one reader, who takes that away.

    A clone is a plain one. Who has not read for long has to begin anew: from then on nothing is written down.
    """

    __slots__ = ("changes", "is_overrun")

    def __init__(self, deadlines: Deadlines) -> None:
        """Takes everything over; `deadlines` is not to be used any more."""
        self.due = deadlines.due
        self._buckets = deadlines._buckets
        self._singles = deadlines._singles
        self._heap = deadlines._heap
        self._owned = deadlines._owned
        self._members = deadlines._members
        self._passed = deadlines._passed
        self.changes: list[tuple[Run, bool]] = []
        self.is_overrun = False

    def add(self, run: Run) -> None:
        super().add(run)
        self._record(run, came=True)

    def remove(self, run: Run) -> None:
        super().remove(run)
        self._record(run, came=False)

    def _record(self, run: Run, *, came: bool) -> None:
        if len(self.changes) < MAX_RECORDED:
            self.changes.append((run, came))
        else:
            self.is_overrun = True
