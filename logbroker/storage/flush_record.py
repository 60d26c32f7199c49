"""The flush record: what the partition segments hold, and from where the WAL still matters.

One checksummed file in two copies, `flushed.a` and `flushed.b`, each replaced whole. Nothing in a replica's directory
is believed unless the record, or the WAL after it, names it.
"""

from __future__ import annotations

import struct
from typing import final

import msgspec

from logbroker.errors import CorruptBatchError, StorageError
from logbroker.record.checksum import crc32c
from logbroker.storage.disk import Disk, replace_file

COPIES = ("flushed.a", "flushed.b")
_PREFIX = struct.Struct(">4sHHII")
_MAGIC = b"LBFR"
_VERSION = 1


@final
class SegmentEntry(msgspec.Struct, array_like=True, frozen=True):
    """One segment of a replica; see `segment.SegmentRow`."""

    base_index: int
    last_index: int
    last_term: int
    length_bytes: int


@final
class ReplicaRow(msgspec.Struct, array_like=True, frozen=True):
    """One replica: where its files are, what precedes its first retained entry, and its segments in order."""

    replica: int
    group: int
    directory: str
    previous_index: int
    previous_term: int
    initial_conf: bytes
    segments: tuple[SegmentEntry, ...] = ()
    lost: str = ""
    """Why the replica is lost as a voter, for good; empty for a sound one."""


@final
class FlushRecord(msgspec.Struct, array_like=True, frozen=True):
    """`wal_use` is W: the WAL matters from the start of that use of a ring file."""

    sequence: int
    wal_use: int
    replicas: tuple[ReplicaRow, ...] = ()


def write_record(disk: Disk, record: FlushRecord, salt_crc: int) -> None:
    """Replace both copies, one after the other, each durable with its name before the next is touched."""
    data = encode_record(record, salt_crc)
    for copy in COPIES:
        replace_file(disk, copy, data)


def encode_record(record: FlushRecord, salt_crc: int) -> bytes:
    """The content of one copy."""
    body = msgspec.msgpack.encode(record)
    return _PREFIX.pack(_MAGIC, _VERSION, 0, len(body), crc32c(body, salt_crc)) + body


def read_record(disk: Disk, salt_crc: int) -> FlushRecord | None:
    """The newer valid copy, or None where neither can be read: unknown loss for every replica of the node."""
    found = [copy for copy in read_copies(disk, salt_crc) if isinstance(copy, FlushRecord)]
    return max(found, key=lambda record: record.sequence, default=None)


def read_copies(disk: Disk, salt_crc: int) -> list[FlushRecord | StorageError]:
    """Each of `COPIES`, or why it cannot be read."""
    found: list[FlushRecord | StorageError] = []
    for copy in COPIES:
        try:
            found.append(_decode(_whole_file(disk, copy), salt_crc, copy))
        except StorageError as error:
            found.append(error)
    return found


def _whole_file(disk: Disk, path: str) -> bytes:
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


def _decode(data: bytes, salt_crc: int, place: str) -> FlushRecord:
    if len(data) < _PREFIX.size:
        raise CorruptBatchError(f"{place}: {len(data)} bytes, shorter than its prefix of {_PREFIX.size}")
    magic, version, reserved, size, crc = _PREFIX.unpack_from(data)
    body = data[_PREFIX.size :]
    # The checksum covers the body alone, so every byte before it has one right value.
    if (magic, version, reserved, size) != (_MAGIC, _VERSION, 0, len(body)) or crc32c(body, salt_crc) != crc:
        raise CorruptBatchError(f"{place}: not a flush record of this node")
    try:
        return msgspec.msgpack.decode(body, type=FlushRecord)
    except (ValueError, RecursionError) as error:
        raise CorruptBatchError(f"{place}: {error}") from error
