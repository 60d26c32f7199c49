"""Reads a segment from its first byte to its believed end, a piece at a time, and says what of it is lost.

Used by the scrubber beside a running node and by the inspection of a stopped one; it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, DamageError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_entry, decode_head, encoded_bytes
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentReader, SegmentRow

if TYPE_CHECKING:
    from logbroker.entry import Entry
    from logbroker.storage.disk import Disk
    from logbroker.storage.entry_codec import EntryHead

PIECE_BYTES = 256 << 10


@final
@dataclass(frozen=True, slots=True)
class LostEntry:
    """An entry whose bytes are damaged; `head` is None where its head is too."""

    index: Index
    head: EntryHead | None
    why: str


@final
class SegmentCheck:
    """Call `step` until it says that nothing is left; then `lost` is everything that is."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        row: SegmentRow,
        *,
        group: GroupId,
        replica: ReplicaId,
        from_medium: bool = False,
    ) -> None:
        """`from_medium`: what the page cache holds of it is not enough, and is not wanted there afterwards."""
        self.row = row
        self._from_medium = from_medium
        self.lost: list[LostEntry] = []
        self.contradictions: list[str] = []
        """Entries that are whole and do not fit together: no disk does that."""
        self.is_header_damaged = False
        self.entry_count = 0
        self.first_offset: Offset | None = None
        self.next_offset = Offset(0)
        self._reader = SegmentReader(disk, directory, row, group)
        self._group = group
        self._replica = replica
        self._position = 0
        self._following = row.base_index
        self._append_ms = 0

    @property
    def path(self) -> str:
        return self._reader.path

    def step(self, max_bytes: int = PIECE_BYTES) -> int:
        """Read on, about `max_bytes` or one entry; gives the bytes that were read, 0 at the end.

        Raises:
            MissingFileError: the segment is gone.
        """
        if self._following > self.row.last_index:
            self._forget_cached()
            self.close()
            return 0
        if self._position == 0:
            self._forget_cached()
            self.is_header_damaged = not self._has_header()
            self._position = SEGMENT_HEADER_BYTES
        began = self._position
        try:
            piece = self._reader.read(began, max(max_bytes, ENTRY_HEAD_BYTES))
            self._take(piece)
            if self._position == began:
                self._note(self._reader.entry_at(began))
        except (DamageError, CorruptBatchError) as error:
            self._step_over(error.message)
        return max(1, self._position - began)

    def close(self) -> None:
        self._reader.close()

    def _forget_cached(self) -> None:
        if self._from_medium:
            self._reader.forget_cached()

    def _has_header(self) -> bool:
        try:
            return self._reader.has_header(self._replica)
        except DamageError:
            return False

    def _take(self, piece: bytes) -> None:
        """The whole entries of a piece that begins at the present position."""
        at = 0
        while at + ENTRY_HEAD_BYTES <= len(piece) and self._following <= self.row.last_index:
            place = f"{self.path} at {self._position}"
            head = decode_head(piece, at, place=place)
            if at + head.encoded_bytes > len(piece):
                return
            entry = decode_entry(piece, at, place=place)
            self._note(entry)
            at += head.encoded_bytes

    def _note(self, entry: Entry) -> None:
        if (entry.group, entry.index) != (self._group, self._following):
            raise DamageError(
                f"{self.path} at {self._position}: entry {entry.index} of group {entry.group} does not belong there"
            )
        self._contradict(entry)
        self.entry_count += 1
        self._position += encoded_bytes(entry)
        self._following = Index(entry.index + 1)
        self._append_ms = entry.append_ms
        self.next_offset = entry.next_offset
        if entry.index == self.row.last_index and self._position != self.row.length_bytes:
            self.contradictions.append(
                f"{self.path} ends at {self._position}, the flush record says {self.row.length_bytes}"
            )

    def _contradict(self, entry: Entry) -> None:
        if self.first_offset is None:
            self.first_offset = entry.base_offset
        elif entry.base_offset != self.next_offset and not self._misses(entry.index):
            self.contradictions.append(
                f"{self.path}: entry {entry.index} begins at offset {entry.base_offset}, not {self.next_offset}"
            )
        if entry.append_ms < self._append_ms:
            self.contradictions.append(f"{self.path}: log time goes back at entry {entry.index}")
        if entry.index == self.row.last_index and entry.term != self.row.last_term:
            self.contradictions.append(
                f"{self.path}: entry {entry.index} has term {entry.term}, the flush record says {self.row.last_term}"
            )

    def _misses(self, index: Index) -> bool:
        return bool(self.lost) and self.lost[-1].index == index - 1

    def _step_over(self, why: str) -> None:
        """Note what is damaged at the present position, and go on at the next head that can be read."""
        head: EntryHead | None = None
        try:
            found = self._reader.head_at(self._position)
        except DamageError:
            pass
        else:
            head = found if found.index == self._following else None
        if head is not None:
            self.lost.append(LostEntry(self._following, head, why))
            self._position += head.encoded_bytes
            self._following = Index(head.index + 1)
            self.next_offset = head.next_offset
            return
        after = None
        try:
            after = self._reader.find_head(self._position + 1, above=self._following)
        except DamageError as error:
            why = error.message
        end = after[1].index if after is not None else Index(self.row.last_index + 1)
        self.lost.extend(LostEntry(Index(index), None, why) for index in range(self._following, end))
        self._following = end
        self._position = self.row.length_bytes if after is None else after[0]


def term_of_lost(lost: LostEntry, row: SegmentRow) -> Term:
    """What the segment itself says of a lost entry's term; 0 where it does not know."""
    if lost.head is not None:
        return lost.head.term
    return row.last_term if lost.index == row.last_index else Term(0)
