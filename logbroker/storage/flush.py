"""The flusher's work: committed entries into partition segments, then the record that lets WAL files be used again.

A job is planned on the event loop, run on the flusher thread, and reported back on the loop. Each step is durable
before
the next: pieces, their directories, the record, and only then the index rows and the unlinking of what nothing names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import DamageError
from logbroker.ids import GroupId, Index, ReplicaId
from logbroker.storage.disk import Disk, MissingFileError
from logbroker.storage.flush_record import FlushRecord, write_record
from logbroker.storage.index import IndexRow, OffsetIndex
from logbroker.storage.lives import GROUPS_DIRECTORY
from logbroker.storage.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentReader,
    SegmentRow,
    encode_segment_header,
    segment_path,
    write_entries,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from logbroker.storage.partition_log import FlushPiece, LogState

INDEX_BLOCK_BYTES = 16 << 10
SPARE_NAME = "next.spare"


@final
@dataclass(frozen=True, slots=True)
class DroppedSegments:
    """Front segments that the new record no longer names."""

    directory: str
    group: GroupId
    replica: ReplicaId
    segments: tuple[SegmentRow, ...]


@final
@dataclass(frozen=True, slots=True)
class IndexRebuild:
    """A replica whose index rows were found wrong: all of them are made again from the segments."""

    group: GroupId
    replica: ReplicaId
    directory: str
    segments: tuple[SegmentRow, ...]


@final
@dataclass
class FlushJob:
    """One flush; `run` blocks and may be called once."""

    disk: Disk
    index: OffsetIndex
    salt_crc: int
    pieces: tuple[FlushPiece, ...]
    record: FlushRecord
    dropped: tuple[DroppedSegments, ...] = ()
    rebuilds: tuple[IndexRebuild, ...] = ()
    dead_directories: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What the operator should know though nothing failed."""
    incomplete: set[ReplicaId] = field(default_factory=set)
    """Replicas whose rows could not all be made again."""

    def run(self) -> None:
        """Write, sync, record, index, unlink.

        Raises:
            StoreFailedError: the node must stop; the WAL still has everything.
        """
        for piece in self.pieces:
            self._write(piece)
        for piece in self.pieces:
            piece.target.file.sync()
            if piece.is_new:
                self.disk.sync_dir(piece.directory)
        write_record(self.disk, self.record, self.salt_crc)
        self._index_rows()
        self._unlink()

    def _write(self, piece: FlushPiece) -> None:
        if piece.is_new:
            header = encode_segment_header(piece.log.group, piece.log.replica, piece.row.base_index)
            piece.target.file.pwrite([header], 0)
            path = segment_path(piece.directory, piece.row.base_index)
            # A flush that found no room for its record is run again, and has renamed the file before.
            if not self.disk.exists(path):
                self.disk.rename(f"{piece.directory}/{SPARE_NAME}", path)
        write_entries(piece.target.file, piece.position, piece.entries)

    def _index_rows(self) -> None:
        rows: list[tuple[GroupId, ReplicaId, list[IndexRow]]] = [
            (piece.log.group, piece.log.replica, rows_of(piece.entries, piece.row, piece.position))
            for piece in self.pieces
        ]
        if rows:
            self.index.add_many(rows)
        for dropped in self.dropped:
            self.index.drop_before(dropped.group, dropped.replica, Index(dropped.segments[-1].last_index + 1))
        for rebuild in self.rebuilds:
            notes = rebuild_rows(self.disk, self.index, rebuild)
            if notes:
                self.incomplete.add(rebuild.replica)
            self.notes.extend(notes)

    def _unlink(self) -> None:
        for dropped in self.dropped:
            for segment in dropped.segments:
                path = segment_path(dropped.directory, segment.base_index)
                if self.disk.exists(path):
                    self.disk.unlink(path)
            self.disk.sync_dir(dropped.directory)
        for directory in self.dead_directories:
            remove_tree(self.disk, directory)
        if self.dead_directories:
            self.disk.sync_dir(GROUPS_DIRECTORY)


@final
@dataclass
class CheckpointJob:
    """Write one checkpoint; runs on the flusher thread between flushes."""

    replica: ReplicaId
    epoch: int
    index: Index
    log_start_index: Index
    write: Iterator[None]

    def run(self) -> None:
        """Raises StoreFailedError as every write does; DiskFullError leaves the older checkpoints as they were."""
        for _ in self.write:
            pass


def rows_of(entries: Iterable[Entry], segment: SegmentRow, position: int) -> list[IndexRow]:
    """One row for about every 16 KiB: the first entry of a piece, then the first DATA entry of each block."""
    rows: list[IndexRow] = []
    next_row_at = position
    for entry in entries:
        if position >= next_row_at and (entry.kind is EntryKind.DATA or not rows):
            rows.append(IndexRow(entry.index, entry.base_offset, entry.append_ms, segment.base_index, position))
            next_row_at = position + INDEX_BLOCK_BYTES
        position += len(entry.head) + len(entry.payload)
    return rows


def rebuild_rows(disk: Disk, index: OffsetIndex, rebuild: IndexRebuild) -> list[str]:
    """Make a replica's rows again by walking the heads of its segments; returns what could not be read.

    In a segment they end before the first entry that is missing: what stands behind it may be a write that landed
    beside its own place, and a row there would have entries mended in wrong places.
    """
    index.drop(rebuild.group, rebuild.replica)
    notes = []
    for segment in rebuild.segments:
        reader = SegmentReader(disk, rebuild.directory, segment, rebuild.group)
        rows: list[IndexRow] = []
        next_row_at = end = SEGMENT_HEADER_BYTES
        following = segment.base_index
        try:
            for position, head in reader.heads_from(SEGMENT_HEADER_BYTES):
                if (position, head.index) != (end, following):
                    raise DamageError(f"{reader.path} at {end}: entry {following} is not where it belongs")
                following, end = Index(head.index + 1), position + head.encoded_bytes
                if position >= next_row_at and (head.kind is EntryKind.DATA or not rows):
                    rows.append(IndexRow(head.index, head.base_offset, head.append_ms, segment.base_index, position))
                    next_row_at = position + INDEX_BLOCK_BYTES
        except DamageError as error:
            notes.append(error.message)
        finally:
            reader.close()
        index.add_many([(rebuild.group, rebuild.replica, rows)])
    return notes


def remove_tree(disk: Disk, directory: str) -> None:
    """Unlink a directory with its files; what is already gone is fine, so that a crash may come in between."""
    try:
        names: Sequence[str] = disk.list(directory)
        for name in names:
            disk.unlink(f"{directory}/{name}")
        disk.rmdir(directory)
    except MissingFileError:
        return


def state_rows(states: Iterable[LogState], *, sequence: int, wal_use: int) -> FlushRecord:
    """The record that names exactly these replicas."""
    return FlushRecord(sequence, wal_use, tuple(state.row() for state in states))
