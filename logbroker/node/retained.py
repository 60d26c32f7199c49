"""Counts the bytes of the batches that a partition retains, and knows where so many bytes before the end begin.

A file's length does not tell: leases and acks stand in it too, and who settles messages must not push others out. So
the heads of entries are read, once each, a bounded number at a time; it must know nothing of Raft and of limits.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol, final

from logbroker.ids import Index, Offset

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADS_PER_LOOK = 2_000
"""So many entries are looked at together, which takes a few milliseconds where they have to be read from a file."""
MARKS = 1_000
"""About so many places are known of as many bytes as are allowed: what is dropped is too much by a thousandth at most,
or by one batch."""


class SizedLog(Protocol):
    """A log that tells the sizes of batches."""

    def first_index(self) -> Index: ...

    def batch_sizes(self, start: Index) -> Iterator[tuple[Index, Offset, int]]:
        """Index, base offset and bytes of the batch of each entry from `start` on; 0 bytes where it holds none."""


@final
class RetainedBytes:
    """See the module. Fed with what is applied, and with what the leader has proposed beyond that."""

    __slots__ = ("_in_flight", "_in_flight_bytes", "_marks", "_next_index", "_seen_bytes")

    def __init__(self) -> None:
        # Every entry below has been looked at.
        self._next_index = Index(0)
        # Bytes of all batches that were looked at, dropped ones too.
        self._seen_bytes = 0
        # (base offset, bytes before it), ascending in both; the first one stands for the log start.
        self._marks: deque[tuple[Offset, int]] = deque()
        self._in_flight: deque[tuple[Index, int]] = deque()
        self._in_flight_bytes = 0

    def forget_proposals(self) -> None:
        """A leadership begins or ends."""
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def note_proposed(self, index: Index, size_bytes: int) -> None:
        self._in_flight.append((index, size_bytes))
        self._in_flight_bytes += size_bytes

    def look(self, log: SizedLog, applied: Index, log_start: Offset, *, step_bytes: int) -> bool:
        """Take in what was applied since the last look, and what was dropped.

        Returns:
            Whether all that is applied is known; if not, there is more to look at.

        Raises:
            DamageError: the head of an entry is unreadable on this node.
        """
        start = log.first_index()
        if self._next_index < start:
            # What lay between was replaced by a snapshot, or dropped before anybody looked.
            self._marks.clear()
        start, looked = max(start, self._next_index), 0
        if start <= applied:
            for index, base_offset, size_bytes in islice(log.batch_sizes(start), HEADS_PER_LOOK):
                if index > applied:
                    break
                self._next_index, looked = Index(index + 1), looked + 1
                if size_bytes:
                    self._add(base_offset, size_bytes, step_bytes)
        while self._in_flight and self._in_flight[0][0] < self._next_index:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        while len(self._marks) > 1 and self._marks[1][0] <= log_start:
            self._marks.popleft()
        return looked < HEADS_PER_LOOK

    def held_bytes(self, log_start: Offset) -> int:
        """Bytes of the batches from a log start on, up to one step or batch too many."""
        start_bytes = self._marks[0][1] if self._marks else self._seen_bytes
        for offset, before in self._marks:
            if offset > log_start:
                break
            start_bytes = before
        return self._seen_bytes - start_bytes + self._in_flight_bytes

    def first_offset_within(self, max_bytes: int) -> Offset:
        """The first batch known from which on there are at most so many bytes; the last one known if there is none."""
        end = self._seen_bytes + self._in_flight_bytes
        for offset, before in self._marks:
            if end - before <= max_bytes:
                return offset
        return self._marks[-1][0] if self._marks else Offset(0)

    def _add(self, base_offset: Offset, size_bytes: int, step_bytes: int) -> None:
        if not self._marks or self._seen_bytes - self._marks[-1][1] >= step_bytes:
            self._marks.append((base_offset, self._seen_bytes))
        self._seen_bytes += size_bytes
