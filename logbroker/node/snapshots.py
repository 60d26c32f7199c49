"""Moving a snapshot to a follower whose log ends before ours begins: a checkpoint and every retained entry up to it.

One chunk is on its way at a time; the receiver answers when it is written, so a slow disk slows the sender and a lost
chunk is sent again at a tick. The receiver writes beside its own log; nothing it had is touched before the INSTALL
frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, DamageError, StorageError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.node.peer_messages import SnapshotAck, SnapshotChunk
from logbroker.storage.checkpoints import CheckpointHeader, checkpoint_path, read_checkpoint
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_entry, decode_head
from logbroker.storage.flush import remove_tree
from logbroker.storage.flush_record import SegmentEntry
from logbroker.storage.lives import GROUPS_DIRECTORY, InstallBody, install_directory
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, encode_segment_header, segment_path, write_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.entry import Entry
    from logbroker.raft.messages import Message, SnapshotMeta
    from logbroker.storage.disk import Disk, File
    from logbroker.storage.partition_log import PartitionLog

CHUNK_BYTES = 256 << 10
RESEND_TICKS = 10
DEADLINE_TICKS = 300
"""Without an answer for this long the sender gives up and lets its segments go."""


def read_checkpoint_file(disk: Disk, directory: str, index: Index) -> bytes:
    """The bytes of a checkpoint as they are sent; the receiver checks them."""
    with disk.open(checkpoint_path(directory, index)) as file:
        return file.pread(file.size(), 0)


@final
class SnapshotSender:
    """One snapshot on its way to one follower; made anew when Raft asks again."""

    def __init__(
        self,
        log: PartitionLog,
        message: Message,
        meta: SnapshotMeta,
        checkpoint: bytes,
        *,
        log_start_index: Index,
        transfer: int,
    ) -> None:
        self.to = message.to
        self.meta = meta
        self._log = log
        self._term = message.term
        self._transfer = transfer
        self._checkpoint = checkpoint
        # What lies before the log start is on its way out, and may be damaged without anybody noticing.
        self._previous = Index(max(log.first_index(), min(log_start_index, meta.index + 1)) - 1)
        self._previous_term = log.term(self._previous)
        self._total = len(checkpoint) + sum(segment.length_bytes for segment in log.state.segments)
        self._pieces = self._stream()
        self._position = 0
        self._chunk = self._next_chunk()
        self._waited_ticks = 0
        self._silent_ticks = 0
        self.is_done = False

    def first(self) -> SnapshotChunk:
        return self._chunk

    def on_ack(self, ack: SnapshotAck) -> SnapshotChunk | None:
        """The next chunk, if this answers the present one. Raises StorageError where our own copy is unreadable."""
        if (ack.index, ack.term) != (self.meta.index, self.meta.term):
            return None
        self._silent_ticks = 0
        if ack.position != self._chunk.position + len(self._chunk.data):
            return None
        if self._chunk.is_last:
            self.is_done = True
            return None
        self._waited_ticks = 0
        self._position = ack.position
        self._chunk = self._next_chunk()
        return self._chunk

    def on_tick(self) -> SnapshotChunk | None:
        """The present chunk again, when its answer is overdue."""
        self._waited_ticks += 1
        self._silent_ticks += 1
        if self._waited_ticks < RESEND_TICKS:
            return None
        self._waited_ticks = 0
        return self._chunk

    @property
    def is_overdue(self) -> bool:
        return self._silent_ticks > DEADLINE_TICKS

    def _next_chunk(self) -> SnapshotChunk:
        data, is_last = next(self._pieces)
        return SnapshotChunk(
            self._log.group,
            self._log.replica,
            self.to,
            self._term,
            self._transfer,
            self.meta.index,
            self.meta.term,
            self._previous,
            self._previous_term,
            len(self._checkpoint),
            self._total,
            self._position,
            is_last,
            data,
        )

    def _stream(self) -> Iterator[tuple[bytes, bool]]:
        for start in range(0, len(self._checkpoint), CHUNK_BYTES):
            end = start + CHUNK_BYTES
            nothing_follows = end >= len(self._checkpoint) and self._previous >= self.meta.index
            yield self._checkpoint[start:end], nothing_follows
        following = Index(self._previous + 1)
        end_index = Index(self.meta.index + 1)
        while following < end_index:
            entries = self._log.entries(following, end_index, max_bytes=CHUNK_BYTES)
            following = Index(entries[-1].index + 1)
            yield b"".join(part for entry in entries for part in (entry.head, entry.payload)), following >= end_index


@final
@dataclass
class SnapshotWriteJob:
    """Write one chunk beside the log; runs on the flusher thread, one at a time for a receiver."""

    receiver: SnapshotReceiver
    chunk: SnapshotChunk
    entries: list[Entry]
    checkpoint_part: bytes

    def run(self) -> None:
        self.receiver.write(self)


@final
@dataclass
class DiscardJob:
    """Remove a half-received or refused snapshot."""

    disk: Disk
    directory: str

    def run(self) -> None:
        remove_tree(self.disk, self.directory)
        self.disk.sync_dir(GROUPS_DIRECTORY)


@final
@dataclass
class SnapshotReceiver:
    """Takes the chunks of one snapshot in order. The job's `run` is the only part on another thread."""

    disk: Disk
    group: GroupId
    replica: ReplicaId
    index: Index
    term: Term
    previous_index: Index
    previous_term: Term
    segment_bytes: int
    attempt: tuple[Term, int] = (Term(0), 0)
    """Raft term and transfer of the sender's attempt: chunks of another one do not fit together with these."""
    position: int = 0
    is_complete: bool = False
    percent: int = 0
    loaded: tuple[CheckpointHeader, bytes] | None = None
    """The checkpoint once everything is durable; None still if it fails its checksum."""
    _checkpoint: bytearray = field(default_factory=bytearray)
    _busy: bool = False
    _rest: bytes = b""
    _last_index: Index = Index(0)
    _segments: list[SegmentEntry] = field(default_factory=list)
    _file: File | None = None

    @property
    def directory(self) -> str:
        return install_directory(self.group, self.replica, self.index, self.term)

    @property
    def is_busy(self) -> bool:
        """A chunk is being written."""
        return self._busy

    def matches(self, chunk: SnapshotChunk) -> bool:
        return (chunk.raft_term, chunk.transfer) == self.attempt

    def take(self, chunk: SnapshotChunk) -> SnapshotWriteJob | None:
        """The write that a chunk asks for; None where it is not the next one, or the last is still being written.

        Raises:
            CorruptBatchError: the entries are not the next ones; the whole snapshot is to be given up.
        """
        if self._busy or self.is_complete or chunk.position != self.position:
            return None
        split = max(0, min(len(chunk.data), chunk.checkpoint_bytes - chunk.position))
        entries = self._parse(self._rest + chunk.data[split:])
        last_index = entries[-1].index if entries else self._last_index or self.previous_index
        if chunk.is_last and (self._rest or last_index != self.index):
            raise CorruptBatchError(f"snapshot {self.index} of group {self.group} ends before its last entry")
        self._busy = True
        return SnapshotWriteJob(self, chunk, entries, chunk.data[:split])

    def on_written(self, job: SnapshotWriteJob) -> SnapshotAck:
        self._busy = False
        self.position += len(job.chunk.data)
        self.percent = min(99, 100 * self.position // max(1, job.chunk.total_bytes))
        if job.chunk.is_last:
            self.is_complete = True
        return self.ack(job.chunk)

    def ack(self, chunk: SnapshotChunk, *, refused: bool = False) -> SnapshotAck:
        return SnapshotAck(self.group, chunk.to, chunk.sender, self.index, self.term, self.position, refused)

    def install_body(self) -> InstallBody:
        return InstallBody(
            self.group,
            self.directory,
            self.index,
            self.term,
            self.previous_index,
            self.previous_term,
            tuple(self._segments),
        )

    def write(self, job: SnapshotWriteJob) -> None:
        """Blocking; for `SnapshotWriteJob.run` alone."""
        if self.position == 0:
            remove_tree(self.disk, self.directory)
            self.disk.mkdir(self.directory)
            self.disk.sync_dir(GROUPS_DIRECTORY)
        self._checkpoint += job.checkpoint_part
        if job.entries:
            self._write_entries(job.entries)
        if job.chunk.is_last:
            self._finish()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, data: bytes) -> list[Entry]:
        entries: list[Entry] = []
        at = 0
        following = self._last_index + 1 if self._last_index else self.previous_index + 1
        while at + ENTRY_HEAD_BYTES <= len(data):
            head = decode_head(data, at, place="snapshot")
            if at + head.encoded_bytes > len(data):
                break
            entry = decode_entry(data, at, place="snapshot")
            if entry.index != following or entry.group != self.group or entry.index > self.index:
                raise CorruptBatchError(
                    f"snapshot of group {self.group} has entry {entry.index} where {following} belongs"
                )
            entries.append(entry)
            following += 1
            at += head.encoded_bytes
        self._rest = data[at:]
        return entries

    def _write_entries(self, entries: list[Entry]) -> None:
        if self._file is None or self._segments[-1].length_bytes >= self.segment_bytes:
            self._begin_segment(entries[0].index)
        row = self._segments[-1]
        if self._file is None:
            raise StorageError(f"no segment is open in {self.directory}")
        end = write_entries(self._file, row.length_bytes, entries)
        last = entries[-1]
        self._segments[-1] = SegmentEntry(row.base_index, last.index, last.term, end)
        self._last_index = last.index

    def _begin_segment(self, base: Index) -> None:
        self._end_segment()
        self._file = self.disk.open(segment_path(self.directory, base), create=True)
        self._file.pwrite([encode_segment_header(self.group, self.replica, base)], 0)
        self._segments.append(SegmentEntry(base, base, 0, SEGMENT_HEADER_BYTES))

    def _end_segment(self) -> None:
        if self._file is not None:
            self._file.sync()
            self.close()

    def _finish(self) -> None:
        self._end_segment()
        path = checkpoint_path(self.directory, self.index)
        with self.disk.open(path, create=True) as file:
            file.pwrite([self._checkpoint], 0)
            file.sync()
        self.disk.sync_dir(self.directory)
        try:
            self.loaded = read_checkpoint(self.disk, path)
        except DamageError:
            self.loaded = None
