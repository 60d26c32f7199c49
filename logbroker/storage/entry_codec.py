"""The byte form of an entry: the same bytes on the peer link, in the WAL and in the segments.

A head of 60 bytes, big endian, then the payload:

    0   kind            u8, then three zero bytes
    4   group           u32
    8   index           u64
    16  term            u64
    24  base_offset     u64
    32  next_offset     u64
    40  append_ms       u64
    48  payload_bytes   u32
    52  entry_crc       u32, CRC-32C of bytes 0..52 and the payload
    56  head_crc        u32, CRC-32C of bytes 0..56

The leader makes the entry CRC once and every hop checks it. It covers group, index and term, so that an intact entry in
a wrong place is found out. The head has a checksum of its own so that a log can be walked, and a damaged payload
can be named by index and term, without trusting the payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.record.checksum import crc32c

_FIELDS = struct.Struct(">B3xIQQQQQI")
_CRC = struct.Struct(">I")
_HEAD = struct.Struct(">B3xIQQQQQIII")

ENTRY_HEAD_BYTES = _HEAD.size
_KINDS = {int(kind): kind for kind in EntryKind}


@final
@dataclass(frozen=True, slots=True)
class EntryHead:
    """The head alone, its own checksum verified; says nothing of whether the payload is intact."""

    kind: EntryKind
    group: GroupId
    index: Index
    term: Term
    base_offset: Offset
    next_offset: Offset
    append_ms: int
    payload_bytes: int
    entry_crc: int

    @property
    def encoded_bytes(self) -> int:
        return ENTRY_HEAD_BYTES + self.payload_bytes


def seal_entry(
    kind: EntryKind,
    *,
    group: GroupId,
    index: Index,
    term: Term,
    base_offset: Offset,
    next_offset: Offset,
    append_ms: int,
    payload: bytes,
) -> Entry:
    """Make an entry with its checksum and encoded head. Only a leader does this."""
    fields = _FIELDS.pack(kind, group, index, term, base_offset, next_offset, append_ms, len(payload))
    entry_crc = crc32c(payload, crc32c(fields))
    covered = fields + _CRC.pack(entry_crc)
    head = covered + _CRC.pack(crc32c(covered))
    return Entry(kind, group, index, term, base_offset, next_offset, append_ms, payload, entry_crc, head)


def decode_head(buffer: bytes | bytearray | memoryview, position: int = 0, *, place: str = "entry") -> EntryHead:
    """Read and verify the head at `position`.

    Raises:
        CorruptBatchError: too few bytes, a bad head checksum, or fields no writer makes; names `place`.
    """
    end = position + ENTRY_HEAD_BYTES
    if end > len(buffer):
        raise CorruptBatchError(f"{place}: head of {ENTRY_HEAD_BYTES} bytes at {position} passes the end {len(buffer)}")
    kind, group, index, term, base, following, append_ms, payload_bytes, entry_crc, head_crc = _HEAD.unpack_from(
        buffer, position
    )
    if crc32c(memoryview(buffer)[position : end - 4]) != head_crc:
        raise CorruptBatchError(f"{place}: head checksum mismatch at {position}")
    known = _KINDS.get(kind)
    if known is None or following < base:
        raise CorruptBatchError(f"{place}: head at {position} has kind {kind} and offsets {base}..{following}")
    return EntryHead(
        known,
        GroupId(group),
        Index(index),
        Term(term),
        Offset(base),
        Offset(following),
        append_ms,
        payload_bytes,
        entry_crc,
    )


def decode_entry(buffer: bytes | bytearray | memoryview, position: int = 0, *, place: str = "entry") -> Entry:
    """Read and verify the whole entry at `position`; its payload is copied out of `buffer`.

    Raises:
        CorruptBatchError: anything fails its checksum; names `place`.
    """
    head = decode_head(buffer, position, place=place)
    start = position + ENTRY_HEAD_BYTES
    end = start + head.payload_bytes
    view = memoryview(buffer)
    if end > len(view):
        raise CorruptBatchError(f"{place}: payload of {head.payload_bytes} bytes at {start} passes the end {len(view)}")
    payload = bytes(view[start:end])
    if crc32c(payload, crc32c(view[position : position + _FIELDS.size])) != head.entry_crc:
        raise CorruptBatchError(f"{place}: entry {head.index} of term {head.term} fails its checksum")
    return Entry(
        head.kind,
        head.group,
        head.index,
        head.term,
        head.base_offset,
        head.next_offset,
        head.append_ms,
        payload,
        head.entry_crc,
        bytes(view[position:start]),
    )


def encoded_bytes(entry: Entry) -> int:
    """Size of the entry's byte form."""
    return ENTRY_HEAD_BYTES + len(entry.payload)
