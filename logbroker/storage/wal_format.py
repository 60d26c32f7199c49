"""The byte form of a group commit in the write-ahead log.

A commit begins on a 4 KiB boundary and lies in one file, so that a torn page never touches an older commit:

    fixed part      magic, version, use, offset, sequence, synced_through, left_at, commit bytes, frame count
    frame list      kind, bytes, replica, index, term and checksum of each frame
    header_crc      CRC-32C of all the above, started from the node's salt
    frames          back to back
    trailer         sequence and header_crc again

A commit counts only if whole, and a frame only as the list says. The header states its own place (use and offset), so a
copy that landed elsewhere, or bytes of an earlier use of the file, are never believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.record.checksum import crc32c
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.entry import Entry

PAGE_BYTES = 4096
MAGIC = b"LBWC"
FORMAT_VERSION = 1

_FIXED = struct.Struct(">4sHHQQQQQQQQI")
_ITEM = struct.Struct(">B3xIQQQI")
_CRC = struct.Struct(">I")
_TRAILER = struct.Struct(">QI")


@final
class FrameKind(IntEnum):
    """What a frame does to its replica. The numbers are part of the disk format."""

    ENTRY = 1
    CREATE = 2
    """The replica's life begins; the body is the group and the first configuration."""
    INSTALL = 3
    """The replica's log is replaced by a snapshot that lies synced beside it."""
    DELETE = 4
    """The replica's life ends; its files may be unlinked after this."""


@final
@dataclass(frozen=True, slots=True, order=True)
class WalPosition:
    """A place in the WAL: the `use` of a ring file (one up whenever the next file is taken) and a byte offset."""

    use: int
    offset: int


@final
@dataclass(frozen=True, slots=True)
class WalFrame:
    """One frame to write. `parts` are written back to back; `crc` is what the header's list states for it.

    For an entry `crc` is the entry CRC, which covers all of the head but its own checksums.
    """

    kind: FrameKind
    replica: ReplicaId
    index: Index
    term: Term
    crc: int
    parts: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.parts))


@final
@dataclass(frozen=True, slots=True)
class FrameItem:
    """One line of a commit's frame list."""

    kind: FrameKind
    size_bytes: int
    replica: ReplicaId
    index: Index
    term: Term
    crc: int


@final
@dataclass(frozen=True, slots=True)
class CommitHeader:
    """A commit's header, its checksum verified."""

    position: WalPosition
    sequence: int
    synced_through: WalPosition
    left_at: WalPosition
    commit_bytes: int
    header_crc: int
    items: tuple[FrameItem, ...]
    body_offset: int
    """Where the first frame begins, in the file."""

    @property
    def end(self) -> WalPosition:
        return WalPosition(self.position.use, self.position.offset + self.commit_bytes)


def entry_frame(replica: ReplicaId, entry: Entry) -> WalFrame:
    return WalFrame(FrameKind.ENTRY, replica, entry.index, entry.term, entry.crc, (entry.head, entry.payload))


def loss_frame(replica: ReplicaId, entry: Entry) -> WalFrame:
    """Stands for an entry whose bytes are lost here: no body, so that whoever reads it finds it damaged."""
    return WalFrame(FrameKind.ENTRY, replica, entry.index, entry.term, entry.crc, ())


def life_frame(
    kind: FrameKind, replica: ReplicaId, body: bytes, *, index: Index = Index(0), term: Term = Term(0)
) -> WalFrame:
    """A CREATE, INSTALL or DELETE frame."""
    return WalFrame(kind, replica, index, term, crc32c(body), (body,))


def entry_frame_bytes(entry: Entry) -> int:
    """What the entry adds to a commit: its bytes and its line in the list."""
    return _ITEM.size + ENTRY_HEAD_BYTES + len(entry.payload)


def commit_size_bytes(frames: Sequence[WalFrame]) -> int:
    """Size of a commit of these frames, trailer included, padding to the next page not."""
    return COMMIT_OVERHEAD_BYTES + sum(_ITEM.size + frame.size_bytes for frame in frames)


COMMIT_OVERHEAD_BYTES = _FIXED.size + _CRC.size + _TRAILER.size


def align_up(offset: int) -> int:
    return -(-offset // PAGE_BYTES) * PAGE_BYTES


def encode_commit(
    frames: Sequence[WalFrame],
    *,
    position: WalPosition,
    sequence: int,
    synced_through: WalPosition,
    left_at: WalPosition,
    salt_crc: int,
) -> list[bytes]:
    """Encode a commit as buffers to be written back to back at `position`; payloads are not copied."""
    fixed = _FIXED.pack(
        MAGIC,
        FORMAT_VERSION,
        0,
        position.use,
        position.offset,
        sequence,
        synced_through.use,
        synced_through.offset,
        left_at.use,
        left_at.offset,
        commit_size_bytes(frames),
        len(frames),
    )
    items = b"".join(
        _ITEM.pack(frame.kind, frame.size_bytes, frame.replica, frame.index, frame.term, frame.crc) for frame in frames
    )
    header = fixed + items
    header_crc = crc32c(header, salt_crc)
    buffers = [header + _CRC.pack(header_crc)]
    for frame in frames:
        buffers.extend(frame.parts)
    buffers.append(_TRAILER.pack(sequence, header_crc))
    return buffers


def decode_header(file_bytes: memoryview, position: WalPosition, salt_crc: int) -> CommitHeader | None:
    """The header at `position` of a file's bytes, or None where no valid header of exactly that place stands."""
    start = position.offset
    if start + COMMIT_OVERHEAD_BYTES > len(file_bytes) or file_bytes[start : start + 4] != MAGIC:
        return None
    _, version, _, use, offset, sequence, synced_use, synced_offset, left_use, left_offset, commit_bytes, count = (
        _FIXED.unpack_from(file_bytes, start)
    )
    list_end = start + _FIXED.size + count * _ITEM.size
    if version != FORMAT_VERSION or list_end + _CRC.size > len(file_bytes):
        return None
    (header_crc,) = _CRC.unpack_from(file_bytes, list_end)
    if crc32c(file_bytes[start:list_end], salt_crc) != header_crc or offset != start:
        return None
    if position.use not in (0, use) or start + commit_bytes > len(file_bytes):
        return None
    try:
        items = tuple(
            FrameItem(FrameKind(kind), size, ReplicaId(replica), Index(index), Term(term), crc)
            for kind, size, replica, index, term, crc in _ITEM.iter_unpack(file_bytes[start + _FIXED.size : list_end])
        )
    except ValueError:
        # A frame of no kind that this format has.
        return None
    if commit_bytes != COMMIT_OVERHEAD_BYTES + sum(_ITEM.size + item.size_bytes for item in items):
        return None
    return CommitHeader(
        WalPosition(use, start),
        sequence,
        WalPosition(synced_use, synced_offset),
        WalPosition(left_use, left_offset),
        commit_bytes,
        header_crc,
        items,
        list_end + _CRC.size,
    )


def has_trailer(file_bytes: memoryview, header: CommitHeader) -> bool:
    """Whether the commit's end repeats its header."""
    at = header.position.offset + header.commit_bytes - _TRAILER.size
    return _TRAILER.unpack_from(file_bytes, at) == (header.sequence, header.header_crc)


def check_commit(file_bytes: memoryview, header: CommitHeader) -> bool:
    """Whether every byte of a commit is as its header says; of an entry, whether it is whole."""
    at = header.body_offset
    for item in header.items:
        body = file_bytes[at : at + item.size_bytes]
        at += item.size_bytes
        try:
            if item.kind is not FrameKind.ENTRY:
                check_body(item, body)
            elif item.size_bytes and decode_entry(body).crc != item.crc:
                return False
        except CorruptBatchError:
            return False
    return has_trailer(file_bytes, header)


def frame_bytes(file_bytes: memoryview, header: CommitHeader) -> list[memoryview]:
    """The frames of a commit as slices of the file, in the order of the list."""
    slices = []
    at = header.body_offset
    for item in header.items:
        slices.append(file_bytes[at : at + item.size_bytes])
        at += item.size_bytes
    return slices


def check_body(item: FrameItem, body: memoryview) -> None:
    """Verify a CREATE, INSTALL or DELETE frame against the list.

    Raises:
        CorruptBatchError: the bytes do not have the checksum that the header states.
    """
    if len(body) != item.size_bytes or crc32c(body) != item.crc:
        raise CorruptBatchError(f"{item.kind.name} frame of replica {item.replica} fails its checksum")
