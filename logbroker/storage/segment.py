"""A segment: one file of a partition's committed entries, back to back behind a small header.

Segments never hold anything uncommitted and are never truncated but to the length the flush record states. A reader
needs no index: heads can be walked from the start, or from any position a row of the offset index names.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, DamageError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.record.checksum import crc32c
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, EntryHead, decode_entry, decode_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.entry import Entry
    from logbroker.storage.disk import Disk, File

_HEADER = struct.Struct(">4sHHIQQI")
SEGMENT_HEADER_BYTES = _HEADER.size
_MAGIC = b"LBSG"
_VERSION = 1
SEGMENT_SUFFIX = ".segment"
_READ_AHEAD_BYTES = 256 << 10


@final
@dataclass(frozen=True, slots=True)
class SegmentRow:
    """What the flush record says of one segment: everything up to `length_bytes` is durable and believed."""

    base_index: Index
    last_index: Index
    last_term: Term
    length_bytes: int


def segment_path(directory: str, base_index: Index) -> str:
    return f"{directory}/{base_index:020d}{SEGMENT_SUFFIX}"


def encode_segment_header(group: GroupId, replica: ReplicaId, base_index: Index) -> bytes:
    fields = _HEADER.pack(_MAGIC, _VERSION, 0, group, replica, base_index, 0)[:-4]
    return fields + struct.pack(">I", crc32c(fields))


@final
class SegmentReader:
    """Reads one segment by position. `length_bytes` bounds it and may grow while it is the active one.

    Whole entries of another group, or at another place than their index says, are damage too: a write may have landed
    where it does not belong.
    """

    def __init__(self, disk: Disk, directory: str, row: SegmentRow, group: GroupId) -> None:
        self.path = segment_path(directory, row.base_index)
        self.row = row
        self._group = group
        self._disk = disk
        self._file: File | None = None

    def head_at(self, position: int) -> EntryHead:
        """Raises DamageError where the head is unreadable."""
        place = f"{self.path} at {position}"
        try:
            head = decode_head(self._handle().pread(ENTRY_HEAD_BYTES, position), place=place)
        except CorruptBatchError as error:
            raise DamageError(error.message) from error
        if head.group != self._group or (position == SEGMENT_HEADER_BYTES and head.index != self.row.base_index):
            raise DamageError(f"{place}: entry {head.index} of group {head.group} does not belong there")
        return head

    def entry_at(self, position: int) -> Entry:
        """The verified entry at `position`. Raises DamageError where it is not intact."""
        head = self.head_at(position)
        data = self._handle().pread(head.encoded_bytes, position)
        try:
            return decode_entry(data, place=f"{self.path} at {position}")
        except CorruptBatchError as error:
            raise DamageError(error.message) from error

    def heads_from(self, position: int) -> Iterator[tuple[int, EntryHead]]:
        """Walk the intact heads from `position` to the believed end, as (position, head).

        Damaged heads are stepped over: the next one is found by its group and index, and believed by its checksum.
        Who walks sees by the indexes that some are missing.

        Raises:
            DamageError: the very first head, or everything behind some head, is unreadable.
        """
        head = self.head_at(position)
        while True:
            if position + head.encoded_bytes > self.row.length_bytes:
                # A write that landed a little behind its place leaves whole entries there.
                raise DamageError(f"{self.path} at {position}: entry {head.index} ends behind the segment's end")
            yield position, head
            position += head.encoded_bytes
            if position == self.row.length_bytes and head.index == self.row.last_index:
                return
            position, head = self._head_after(position, head)

    def _head_after(self, position: int, before: EntryHead) -> tuple[int, EntryHead]:
        """The head at `position`, if it follows `before`, otherwise the next one that does."""
        try:
            head = self.head_at(position)
        except DamageError:
            head = None
        if head is not None and head.index == before.index + 1:
            return position, head
        found = self.find_head(position + 1, above=Index(before.index + 1))
        if found is None:
            raise DamageError(f"{self.path} at {position}: no head of an entry behind {before.index} is readable")
        return found

    def find_head(self, start: int, *, above: Index) -> tuple[int, EntryHead] | None:
        """The first intact head at or behind `start` of an entry above the index `above`."""
        # Three zero bytes and the group stand behind the kind, and the index behind them.
        wanted = bytes(3) + self._group.to_bytes(4, "big")
        data = self._handle().pread(max(0, self.row.length_bytes - start), start)
        at = data.find(wanted, 1)
        while at > 0:
            if above < int.from_bytes(data[at + 7 : at + 15], "big") <= self.row.last_index:
                with contextlib.suppress(DamageError):
                    return start + at - 1, self.head_at(start + at - 1)
            at = data.find(wanted, at + 1)
        return None

    def entries_from(self, position: int, *, max_bytes: int) -> Iterator[Entry]:
        """Entries from `position` on, at least one where there is one, read in large pieces."""
        taken = 0
        while position < self.row.length_bytes and (taken < max_bytes or not taken):
            want = min(max(_READ_AHEAD_BYTES, ENTRY_HEAD_BYTES), self.row.length_bytes - position)
            piece = self._handle().pread(want, position)
            used = 0
            for entry, end in _whole_entries(piece, f"{self.path} at {position}"):
                yield entry
                taken += end - used
                used = end
                if taken >= max_bytes:
                    return
            if used == 0:
                entry = self.entry_at(position)
                yield entry
                used = len(entry.head) + len(entry.payload)
                taken += used
            position += used

    def has_header(self, replica: ReplicaId) -> bool:
        """Whether the segment begins as it was made; nothing else is found by what stands there."""
        wanted = encode_segment_header(self._group, replica, self.row.base_index)
        return self._handle().pread(SEGMENT_HEADER_BYTES, 0) == wanted

    def forget_cached(self) -> None:
        """Let what is read next come from the medium, and what was read make room in memory."""
        self._handle().forget_cached(self.row.length_bytes, 0)

    def read(self, position: int, max_bytes: int) -> bytes:
        """Bytes as they are, not beyond the believed end."""
        return self._handle().pread(min(max_bytes, self.row.length_bytes - position), position)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _handle(self) -> File:
        if self._file is None:
            self._file = self._disk.open(self.path)
        return self._file


def _whole_entries(piece: bytes, place: str) -> Iterator[tuple[Entry, int]]:
    position = 0
    while position + ENTRY_HEAD_BYTES <= len(piece):
        try:
            head = decode_head(piece, position, place=place)
            if position + head.encoded_bytes > len(piece):
                return
            entry = decode_entry(piece, position, place=place)
        except CorruptBatchError as error:
            raise DamageError(error.message) from error
        position += head.encoded_bytes
        yield entry, position


def write_entries(file: File, position: int, entries: Sequence[Entry]) -> int:
    """Write the entries in one piece at `position`; returns the position behind them. Not synced.

    They stay out of the page cache: who keeps up reads from memory, and what followers store nobody reads.
    """
    buffers: list[bytes] = []
    size = 0
    for entry in entries:
        buffers.append(entry.head)
        buffers.append(entry.payload)
        size += len(entry.head) + len(entry.payload)
    file.pwrite_uncached(buffers, position)
    return position + size
