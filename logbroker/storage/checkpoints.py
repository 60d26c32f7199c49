"""Checkpoint files: the state of one replica as of an index, `<index>.checkpoint` in the replica's directory.

The body is opaque here; the partition's codec makes and reads it. Nothing in a file depends on the machine
(no salt), so that the same bytes can travel in a snapshot. A file, big endian:

    0   magic "LBCHKPNT"          56  next offset u64
    8   format version u32        64  append_ms, log time u64
    12  group u32                 72  size of the body u64
    16  replica that made it u64  80  CRC-32C of the body u32
    24  index u64                 84  size of the configuration u32
    32  term u64                  88  configuration
    40  log start offset u64      ..  CRC-32C of all before u32
    48  log start index u64       ..  body, to the end of the file

The second checksum covers the first: together they cover every byte, and the header can be trusted
without reading the body.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from logbroker.errors import DamageError, DiskFullError, invariant
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.record.checksum import crc32c
from logbroker.storage.disk import TEMPORARY_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.storage.disk import Disk, File

CHECKPOINT_SUFFIX: Final = ".checkpoint"
KEPT_COUNT: Final = 2
"""How many whole checkpoints stay: if the newest rots, the other still has its log."""
FORMAT_VERSION: Final = 1
MAX_CONF_BYTES: Final = 1 << 20

_MAGIC: Final = b"LBCHKPNT"
_FIXED: Final = struct.Struct(">8sIIQQQQQQQQII")
_CRC: Final = struct.Struct(">I")
_PIECE_BYTES: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointHeader:
    """What is known of a checkpoint without its body.

    `index` and `term` are those of the last entry in it; `log_start_*` is the log start recorded in it, which
    decides which segments may go; `conf` is the membership in the Raft core's encoding, unread here.
    """

    group: GroupId
    replica: ReplicaId
    index: Index
    term: Term
    log_start_offset: Offset
    log_start_index: Index
    next_offset: Offset
    append_ms: int
    conf: bytes


@final
@dataclass(frozen=True, slots=True)
class LoadedCheckpoints:
    """`checkpoints` are whole ones with their bodies, newest first; `damaged` says of each other file what is
    wrong with it. Nothing damaged is deleted before two whole newer ones exist."""

    checkpoints: tuple[tuple[CheckpointHeader, bytes], ...]
    damaged: tuple[str, ...]


def checkpoint_path(directory: str, index: Index) -> str:
    return f"{directory}/{index}{CHECKPOINT_SUFFIX}"


def write_checkpoint(disk: Disk, directory: str, header: CheckpointHeader, slices: Iterable[bytes]) -> Iterator[None]:
    """Write a checkpoint, one slice at each step; durable when the iterator is at its end.

    Afterwards the older ones go, except the last that is whole. Closing the iterator early leaves nothing.

    Raises:
        DiskFullError: the older ones stand, and the unfinished file is gone.
        StoreFailedError: as every write.
    """
    invariant(
        len(header.conf) <= MAX_CONF_BYTES, f"a configuration of {len(header.conf)} bytes is above {MAX_CONF_BYTES}"
    )
    newest = max(checkpoint_indexes(disk, directory), default=Index(0))
    invariant(header.index >= newest, f"{directory}: checkpoint {header.index} is older than checkpoint {newest}")
    path = checkpoint_path(directory, header.index)
    temporary = path + TEMPORARY_SUFFIX
    try:
        with disk.open(temporary, create=True) as file:
            yield from _write(file, header, slices)
            file.sync()
        disk.rename(temporary, path)
    except (DiskFullError, GeneratorExit):
        if disk.failure is None and disk.exists(temporary):
            disk.unlink(temporary)
        raise
    disk.sync_dir(directory)
    _drop_older(disk, directory, header)


def load_checkpoints(disk: Disk, directory: str, *, group: GroupId | None = None) -> LoadedCheckpoints:
    """Read every checkpoint of a replica and check every byte of it; one of another group than `group` is damaged."""
    checkpoints: list[tuple[CheckpointHeader, bytes]] = []
    damaged: list[str] = []
    for index in checkpoint_indexes(disk, directory):
        path = checkpoint_path(directory, index)
        try:
            header, body = read_checkpoint(disk, path)
            _check_name(path, header, index, header.group if group is None else group)
        except DamageError as error:
            damaged.append(error.message)
        else:
            checkpoints.append((header, body))
    return LoadedCheckpoints(tuple(checkpoints), tuple(damaged))


def read_checkpoint(disk: Disk, path: str) -> tuple[CheckpointHeader, bytes]:
    """Read one file, header and body.

    Raises:
        DamageError: a checksum, a size or the format is wrong, or the device cannot read it.
    """
    with disk.open(path) as file:
        header, start, body_crc = _read_header(file)
        body = file.pread(file.size() - start, start)
    if crc32c(body) != body_crc:
        raise DamageError(f"{path}: the body of {len(body)} bytes fails its checksum")
    return header, body


def read_checkpoint_header(disk: Disk, path: str) -> CheckpointHeader:
    """Read one file's header, which is checked; the body is not.

    Raises:
        DamageError: as `read_checkpoint`.
    """
    with disk.open(path) as file:
        return _read_header(file)[0]


def _write(file: File, header: CheckpointHeader, slices: Iterable[bytes]) -> Iterator[None]:
    file.truncate(0)
    start = position = _FIXED.size + len(header.conf) + _CRC.size
    body_crc = 0
    for piece in slices:
        file.pwrite([piece], position)
        position += len(piece)
        body_crc = crc32c(piece, body_crc)
        yield
    # The body's size and checksum stand in the header, so it comes last; the name comes only after the sync.
    file.pwrite([_encode_header(header, body_bytes=position - start, body_crc=body_crc)], 0)


def _encode_header(header: CheckpointHeader, *, body_bytes: int, body_crc: int) -> bytes:
    head = (
        _FIXED.pack(
            _MAGIC,
            FORMAT_VERSION,
            header.group,
            header.replica,
            header.index,
            header.term,
            header.log_start_offset,
            header.log_start_index,
            header.next_offset,
            header.append_ms,
            body_bytes,
            body_crc,
            len(header.conf),
        )
        + header.conf
    )
    return head + _CRC.pack(crc32c(head))


def _read_header(file: File) -> tuple[CheckpointHeader, int, int]:
    """The header, where the body begins, and the body's checksum."""
    path = file.path
    fixed = file.pread(_FIXED.size, 0)
    if len(fixed) < _FIXED.size:
        raise DamageError(f"{path}: {len(fixed)} bytes are no checkpoint")
    magic, version, group, replica, index, term, start_offset, start_index, next_offset, append_ms, *sizes = (
        _FIXED.unpack(fixed)
    )
    body_bytes, body_crc, conf_bytes = sizes
    # Looked at before the checksum, because where the checksum lies depends on it.
    if magic != _MAGIC or conf_bytes > MAX_CONF_BYTES:
        raise DamageError(f"{path}: not the beginning of a checkpoint")
    rest = file.pread(conf_bytes + _CRC.size, _FIXED.size)
    conf, crc = rest[:conf_bytes], rest[conf_bytes:]
    if crc != _CRC.pack(crc32c(conf, crc32c(fixed))):
        raise DamageError(f"{path}: the header fails its checksum")
    if version != FORMAT_VERSION:
        raise DamageError(f"{path}: format {version} is not {FORMAT_VERSION}")
    start = _FIXED.size + conf_bytes + _CRC.size
    if file.size() != start + body_bytes:
        raise DamageError(f"{path}: {file.size()} bytes instead of {start + body_bytes}")
    header = CheckpointHeader(
        group=GroupId(group),
        replica=ReplicaId(replica),
        index=Index(index),
        term=Term(term),
        log_start_offset=Offset(start_offset),
        log_start_index=Index(start_index),
        next_offset=Offset(next_offset),
        append_ms=append_ms,
        conf=conf,
    )
    return header, start, body_crc


def _check_name(path: str, header: CheckpointHeader, index: Index, group: GroupId) -> None:
    # A whole file in the wrong place is as bad as a torn one.
    if (header.index, header.group) != (index, group):
        raise DamageError(f"{path}: holds index {header.index} of group {header.group}, not index {index} of {group}")


def _drop_older(disk: Disk, directory: str, newest: CheckpointHeader) -> None:
    whole_count = 0
    dropped = False
    for index in checkpoint_indexes(disk, directory):
        path = checkpoint_path(directory, index)
        if whole_count >= KEPT_COUNT:
            disk.unlink(path)
            dropped = True
        # The newest was written and synced a moment ago: reading it back would only read the page cache.
        elif index == newest.index or _is_whole(disk, path, index, newest.group):
            whole_count += 1
    if dropped:
        disk.sync_dir(directory)


def check_checkpoint(disk: Disk, path: str, index: Index, group: GroupId) -> Iterator[int]:
    """Read one file to its end in pieces, at each step giving how many bytes were read.

    Raises:
        DamageError: it is not the whole checkpoint of this index and group.
    """
    with disk.open(path) as file:
        file.forget_cached(file.size(), 0)
        header, start, body_crc = _read_header(file)
        yield start
        _check_name(path, header, index, group)
        crc = 0
        for position in range(start, file.size(), _PIECE_BYTES):
            piece = file.pread(_PIECE_BYTES, position)
            crc = crc32c(piece, crc)
            yield len(piece)
    if crc != body_crc:
        raise DamageError(f"{path}: the body fails its checksum")


def _is_whole(disk: Disk, path: str, index: Index, group: GroupId) -> bool:
    try:
        for _ in check_checkpoint(disk, path, index, group):
            pass
    except DamageError:
        return False
    return True


def checkpoint_indexes(disk: Disk, directory: str) -> list[Index]:
    """Indexes of the files with a checkpoint's name, readable or not, newest first."""
    stems = (name.removesuffix(CHECKPOINT_SUFFIX) for name in disk.list(directory) if name.endswith(CHECKPOINT_SUFFIX))
    numbers = (int(stem) for stem in stems if stem.isdecimal() and str(int(stem)) == stem)
    return sorted(map(Index, numbers), reverse=True)
