"""A set of offsets as ranges, cheap to copy, to search and to add to: what nothing ever delivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.partition.blocked_map import BlockedMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.partition.outcomes import Range


@final
class OffsetRanges:
    """Half-open ranges in order, not touching; iterating gives them."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: BlockedMap[int, Range] = BlockedMap()
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return self._ranges.values()

    def __len__(self) -> int:
        """Count of ranges, which is what they cost."""
        return len(self._ranges)

    def clone(self) -> OffsetRanges:
        other = OffsetRanges()
        other._ranges = self._ranges.clone()
        return other

    def add(self, start: int, end: int) -> None:
        """Add offsets of which none is in the set."""
        before = self._ranges.floor(start)
        if before is not None and before[1] == start:
            start = before[0]
        after = self._ranges.get(end)
        if after is not None:
            self._ranges.delete(end)
            end = after[1]
        self._ranges.set(start, (start, end))

    def overlap(self, start: int, end: int) -> Iterator[Range]:
        """Yield what lies in [start, end), cut to it."""
        before = self._ranges.floor(start)
        for first, last in self._ranges.values_from(start if before is None else before[0]):
            if first >= end:
                return
            if last > start:
                yield max(first, start), min(last, end)

    def count(self, start: int, end: int) -> int:
        """How many offsets of [start, end) are in the set."""
        return sum([last - first for first, last in self.overlap(start, end)]) if len(self._ranges) else 0

    def drop_below(self, start: int) -> None:
        """Forget everything below an offset."""
        first = self._ranges.first()
        if first is None or first[0] >= start:
            return
        kept = list(self.overlap(start, start + 1))
        rest = self._ranges.floor(start)
        self._ranges.splice(first[0], start, [], [])
        if kept and rest is not None:
            self._ranges.set(start, (start, rest[1]))
