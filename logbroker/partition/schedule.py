"""The messages that are not due yet, whatever the consumer groups: what groups made or rewound later respect too.

It knows no group. What is due leaves it with the entry that shows that time, so that equal logs give equal schedules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError
from logbroker.partition.blocked_map import BlockedMap
from logbroker.partition.deadlines import BUCKET_MS
from logbroker.partition.runs import Run, RunState, alike, cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEVER_MS = 1 << 63
"""Later than any due time."""
_OFFSET_BITS = 48


def rounded_up(due_ms: int) -> int:
    """The due time that is kept: a multiple of 100 ms, so that neighbours sent with one delay are one run."""
    return -(-due_ms // BUCKET_MS) * BUCKET_MS


@final
class Schedule:
    """Delayed runs that were never delivered, apart or of unlike due time, in blocks that copies share.

    The runs are those that the groups' tables hold, the same objects where nothing has cut them.
    """

    __slots__ = ("_by_due", "_runs", "first_ms")

    def __init__(self) -> None:
        # When the first of them is due; every entry is compared with it.
        self.first_ms = NEVER_MS
        self._runs: BlockedMap[int, Run] = BlockedMap()
        # The same runs by due time, then start: what is due is a front of it.
        self._by_due: BlockedMap[int, Run] = BlockedMap()

    @classmethod
    def decode(cls, rows: Iterable[tuple[int, int, int]]) -> Schedule:
        """Build a schedule from (start, end, due_ms) in its canonical form.

        Raises:
            CorruptBatchError: the rows are not what a schedule could hold.
        """
        schedule = cls()
        last = Run(0, 0, RunState.DELAYED)
        for start, end, due_ms in rows:
            run = _scheduled(start, end, due_ms)
            if start < last.end or end <= start or not due_ms or due_ms % BUCKET_MS:
                raise CorruptBatchError(f"offsets [{start}, {end}) due at {due_ms} follow offset {last.end}")
            if start == last.end and alike(last, run):
                raise CorruptBatchError(f"offsets [{start}, {end}) due at {due_ms} continue what lies before them")
            schedule._set(run)
            last = run
        return schedule

    def __len__(self) -> int:
        """Count of runs, which is what memory and checkpoints cost."""
        return len(self._runs)

    def clone(self) -> Schedule:
        other = Schedule()
        other._runs = self._runs.clone()
        other._by_due = self._by_due.clone()
        other.first_ms = self.first_ms
        return other

    def runs(self) -> Iterator[Run]:
        """Yield the canonical runs, in order."""
        return self._runs.values()

    def add(self, start: int, end: int, due_ms: int) -> Run:
        """Add messages at the log end; `due_ms` is a multiple of 100 ms.

        Returns:
            Those messages as a run, for the groups.
        """
        run = _scheduled(start, end, due_ms)
        last = self._runs.last()
        if last is not None and last.end == start and alike(last, run):
            self._set(_scheduled(last.start, end, due_ms))
        else:
            self._set(run)
        return run

    def overlap(self, start: int, end: int, *, after_ms: int) -> Iterator[Run]:
        """Yield what of [start, end) is due after `after_ms`, cut to it, in order."""
        if not len(self._runs):
            return
        before = self._runs.floor(start)
        for run in self._runs.values_from(start if before is None else before.start):
            if run.start >= end:
                return
            if run.end > start and run.visible_at_ms > after_ms:
                yield cut(run, max(run.start, start), min(run.end, end))

    def due_ms_at(self, offset: int, *, after_ms: int) -> int:
        """Return when the message is due, 0 if that is not after `after_ms`."""
        return next((run.visible_at_ms for run in self.overlap(offset, offset + 1, after_ms=after_ms)), 0)

    def remove(self, start: int, end: int) -> None:
        """Forget messages of one run."""
        run = self._runs.floor(start)
        if run is None or run.end < end:
            return
        self._delete(run)
        if run.start < start:
            self._set(cut(run, run.start, start))
        if end < run.end:
            self._set(cut(run, end, run.end))

    def drop_below(self, start: int) -> None:
        """Forget everything below an offset."""
        first = self._runs.first()
        if first is None or first.start >= start:
            return
        gone = self._runs.splice(first.start, start, [], [])
        for run in gone:
            self._by_due.delete(_key(run))
        self._note_first()
        if gone[-1].end > start:
            self._set(cut(gone[-1], start, gone[-1].end))

    def forget_due(self, now_ms: int) -> None:
        """Forget what is due at `now_ms`."""
        if self.first_ms > now_ms:
            return
        for run in self._by_due.splice(0, (now_ms // BUCKET_MS + 1) << _OFFSET_BITS, [], []):
            self._runs.delete(run.start)
        self._note_first()

    def _set(self, run: Run) -> None:
        self._runs.set(run.start, run)
        self._by_due.set(_key(run), run)
        self.first_ms = min(self.first_ms, run.visible_at_ms)

    def _delete(self, run: Run) -> None:
        self._runs.delete(run.start)
        self._by_due.delete(_key(run))
        self._note_first()

    def _note_first(self) -> None:
        first = self._by_due.first()
        self.first_ms = NEVER_MS if first is None else first.visible_at_ms


def _scheduled(start: int, end: int, due_ms: int) -> Run:
    return Run(start, end, RunState.DELAYED, 0, due_ms)


def _key(run: Run) -> int:
    return run.visible_at_ms // BUCKET_MS << _OFFSET_BITS | run.start
