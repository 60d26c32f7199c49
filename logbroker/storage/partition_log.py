"""One replica's log as the layers above see it: entries by index, by offset and by time.

Behind it lie segments (committed, flushed) and a tail in memory (durable in the WAL, not yet in a segment). The object
belongs to one thread, the event loop's; the log and flusher threads work on plans made here and report back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import DamageError, invariant, violated
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.raft.log import CompactedError, UnavailableEntryError
from logbroker.storage.entry_codec import EntryHead, encoded_bytes
from logbroker.storage.flush_record import ReplicaRow, SegmentEntry
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentReader, SegmentRow, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logbroker.storage.disk import Disk, File
    from logbroker.storage.index import IndexRow, OffsetIndex

FIRST_ROOM_BYTES = 1 << 20
UNKNOWN_TERM = Term(0)


def _nothing() -> None: ...


@final
@dataclass(frozen=True, slots=True)
class LogOptions:
    """`segment_bytes` is when a segment is rolled; `max_room_step_bytes` bounds how much is preallocated at once."""

    segment_bytes: int = 64 << 20
    first_room_bytes: int = FIRST_ROOM_BYTES
    max_room_step_bytes: int = 64 << 20


@final
@dataclass
class LogState:
    """What recovery found of one replica, and what a running log keeps."""

    group: GroupId
    replica: ReplicaId
    directory: str
    initial_conf: bytes = b""
    previous_index: Index = Index(0)
    previous_term: Term = Term(0)
    segments: list[SegmentRow] = field(default_factory=list)
    tail: list[Entry] = field(default_factory=list)
    """Entries after the last segment, dense by index."""
    lost: str = ""
    """Why the replica may never act as a voter again; empty for a sound one."""
    damaged: dict[Index, Term] = field(default_factory=dict)
    """Entries known to exist whose bytes are lost here; `tail` holds a stand-in with an empty head."""

    @property
    def flushed_index(self) -> Index:
        return self.segments[-1].last_index if self.segments else self.previous_index

    @property
    def flushed_term(self) -> Term:
        return self.segments[-1].last_term if self.segments else self.previous_term

    @property
    def last_index(self) -> Index:
        return self.tail[-1].index if self.tail else self.flushed_index

    def row(self) -> ReplicaRow:
        """The row of this replica in a flush record."""
        return ReplicaRow(
            self.replica,
            self.group,
            self.directory,
            self.previous_index,
            self.previous_term,
            self.initial_conf,
            tuple(SegmentEntry(s.base_index, s.last_index, s.last_term, s.length_bytes) for s in self.segments),
            self.lost,
        )

    @classmethod
    def of_row(cls, row: ReplicaRow) -> LogState:
        segments = [
            SegmentRow(Index(s.base_index), Index(s.last_index), Term(s.last_term), s.length_bytes)
            for s in row.segments
        ]
        return cls(
            GroupId(row.group),
            ReplicaId(row.replica),
            row.directory,
            row.initial_conf,
            Index(row.previous_index),
            Term(row.previous_term),
            segments,
            lost=row.lost,
        )


@final
@dataclass(slots=True)
class SegmentFile:
    """A segment open for writing. `allocated_bytes` are reserved on disk; the base is given when it is first
    written."""

    file: File
    allocated_bytes: int


@final
@dataclass(slots=True)
class RoomRequest:
    """Make `allocated_bytes` of room in a file of the replica: run on the log thread before the WAL is written."""

    log: PartitionLog
    target: SegmentFile | None
    """The file to extend; None to open a new spare one."""
    needed_bytes: int
    """Less than this is of no use; `allocated_bytes` is what is asked for first, and what was had in the end."""
    allocated_bytes: int
    opened: File | None = None


@final
@dataclass(frozen=True, slots=True)
class FlushPiece:
    """One replica's share of a flush: `entries` go to `target` at `position`; a new segment begins where `is_new`."""

    log: PartitionLog
    epoch: int
    directory: str
    target: SegmentFile
    is_new: bool
    position: int
    entries: tuple[Entry, ...]
    row: SegmentRow
    """The segment as it will be when the piece is durable."""


@final
@dataclass(frozen=True, slots=True)
class RepairJob:
    """Write a fetched entry over its damaged bytes; runs on the flusher thread.

    The bytes are the ones that stood there, so the write may tear without making anything worse.
    """

    disk: Disk
    log: PartitionLog
    epoch: int
    path: str
    position: int
    entry: Entry

    def run(self) -> None:
        """Raises StoreFailedError as every write does, MissingFileError where the segment is gone by now."""
        with self.disk.open(self.path) as file:
            file.pwrite([self.entry.head, self.entry.payload], self.position)
            file.sync()


@final
class PartitionLog:
    """Implements the Raft core's `LogStorage`; entries appear here only once they are durable."""

    def __init__(self, disk: Disk, index: OffsetIndex, state: LogState, options: LogOptions) -> None:
        self._disk = disk
        self._index = index
        self._state = state
        self._options = options
        self._readers: dict[Index, SegmentReader] = {}
        self._tail_offsets: list[int] = [entry.next_offset for entry in state.tail]
        self._unflushed_bytes = sum(map(encoded_bytes, state.tail))
        self._flushing: FlushPiece | None = None
        self.active: SegmentFile | None = None
        self.spare: SegmentFile | None = None
        self.epoch = 0
        """One up at every install, so that a plan made before has no effect after."""
        self.committed = Index(0)
        """How far the group is known to have committed; kept by the replica's driver, read by flush plans."""
        self.log_start_index = Index(0)
        """Where the applied state says that the log begins: what rotted before it is nobody's loss. Kept as above."""
        self.droppable_below = Index(0)
        """Log start recorded in the older kept checkpoint: nobody needs a segment that ends before it."""
        self.mended: dict[Index, Entry] = {}
        """Good copies of damaged entries of the tail, on their way to the WAL."""
        self.is_pinned = False
        """A snapshot is being sent from the segments: none may go."""
        self.index_mismatches = 0
        self.needs_reindex = False
        self.lacks_rows = False
        """Rows were made again while entries were damaged, and end before them: see `wants_rows`."""
        self.on_damage: Callable[[], None] = _nothing
        """Called when entries are found damaged, by whoever reads them."""

    # Raft's view.

    @property
    def state(self) -> LogState:
        return self._state

    @property
    def group(self) -> GroupId:
        return self._state.group

    @property
    def replica(self) -> ReplicaId:
        return self._state.replica

    @property
    def is_damaged(self) -> bool:
        return bool(self._state.damaged) and self.first_hole() is not None

    @property
    def wants_rows(self) -> bool:
        """Whether the next flush is to make all rows anew: they are wrong, or lacking though all is mended by now."""
        return self.needs_reindex or (self.lacks_rows and not self._state.damaged)

    def holes(self) -> list[tuple[Index, Term]]:
        """Index and term of every damaged entry that still matters, in order."""
        return sorted(hole for hole in self._state.damaged.items() if hole[0] >= self.log_start_index)

    def first_hole(self) -> Index | None:
        """The lowest index of a damaged entry that still matters."""
        return min((index for index in self._state.damaged if index >= self.log_start_index), default=None)

    @property
    def unflushed_bytes(self) -> int:
        return self._unflushed_bytes

    @property
    def flushed_index(self) -> Index:
        return self._state.flushed_index

    def first_index(self) -> Index:
        return Index(self._state.previous_index + 1)

    def last_index(self) -> Index:
        return self._state.last_index

    def term(self, index: Index) -> Term:
        """Raises CompactedError below the log start, UnavailableEntryError beyond the end."""
        state = self._state
        if index == state.previous_index:
            return state.previous_term
        if index < state.previous_index:
            raise CompactedError(
                f"index {index} is below the log start index {state.previous_index + 1} of group {state.group}"
            )
        if index > state.last_index:
            raise UnavailableEntryError(
                f"index {index} is beyond the last index {state.last_index} of group {state.group}"
            )
        if index > state.flushed_index:
            return state.tail[index - state.flushed_index - 1].term
        segment = self._segment_of(index)
        if index == segment.last_index:
            return segment.last_term
        if index not in state.damaged:
            try:
                return self._head_of(index)[1].term
            except DamageError:
                self.note_damage(index)
        term = state.damaged[index]
        if term == UNKNOWN_TERM:
            raise UnavailableEntryError(f"the term of entry {index} of group {state.group} is lost on this node")
        return term

    def entries(self, start: Index, end: Index, *, max_bytes: int) -> Sequence[Entry]:
        """Entries of [start, end), at least one, about `max_bytes` together.

        Raises:
            CompactedError: `start` is below the log start.
            UnavailableEntryError: `end` is beyond the last index, or the first entry is damaged here.
        """
        state = self._state
        if start <= state.previous_index:
            raise CompactedError(
                f"index {start} is below the log start index {state.previous_index + 1} of group {state.group}"
            )
        if end > state.last_index + 1:
            raise UnavailableEntryError(
                f"index {end - 1} is beyond the last index {state.last_index} of group {state.group}"
            )
        found: list[Entry] = []
        size = 0
        for entry in self._intact_from(start, max_bytes=max_bytes):
            if entry.index >= end or (found and size + entry.size_bytes > max_bytes):
                break
            found.append(entry)
            size += entry.size_bytes
        if not found and start < end:
            raise UnavailableEntryError(f"entry {start} of group {state.group} is damaged on this node")
        return found

    def append(self, entries: Sequence[Entry]) -> None:
        """Take over entries that are durable in the WAL; one with a lower index than the last replaces what follows."""
        state = self._state
        first = entries[0].index
        if not state.flushed_index < first <= state.last_index + 1:
            violated(
                f"append of index {first} to group {state.group}, flushed {state.flushed_index},"
                f" last {state.last_index}"
            )
        keep = first - state.flushed_index - 1
        for dropped in state.tail[keep:]:
            self._unflushed_bytes -= encoded_bytes(dropped)
            state.damaged.pop(dropped.index, None)
            self.mended.pop(dropped.index, None)
        del state.tail[keep:], self._tail_offsets[keep:]
        state.tail.extend(entries)
        self._tail_offsets.extend(entry.next_offset for entry in entries)
        self._unflushed_bytes += sum(map(encoded_bytes, entries))

    def repair(self, entry: Entry) -> RepairJob | None:
        """Put a good copy of a damaged entry in its place: in a segment by a job, in the tail with the next commit.

        A copy that is not the damaged entry, by index and term, is ignored; where the term is unknown the caller sees
        to it that the copy is a committed entry.
        """
        state = self._state
        if state.damaged.get(entry.index) not in (entry.term, UNKNOWN_TERM):
            return None
        if entry.index <= state.flushed_index:
            path = segment_path(state.directory, self._segment_of(entry.index).base_index)
            try:
                position = self._position_of(entry.index)
            except DamageError:
                # The head before it is damaged too; once that is mended this one is fetched again.
                return None
            return RepairJob(self._disk, self, self.epoch, path, position, entry)
        self.mended[entry.index] = entry
        return None

    def mends(self, max_bytes: int) -> tuple[Entry, ...]:
        """Copies to write to the WAL, at least one, up to `max_bytes`."""
        found: list[Entry] = []
        for index in sorted(self.mended):
            entry = self.mended[index]
            max_bytes -= entry.size_bytes
            if found and max_bytes < 0:
                break
            found.append(entry)
        return tuple(found)

    def on_mended(self, entries: Sequence[Entry]) -> None:
        """The WAL holds these copies durably: they take the places of the damaged ones that still stand."""
        state = self._state
        for entry in entries:
            if self.mended.get(entry.index) is not entry:
                continue
            del self.mended[entry.index]
            if entry.index > state.flushed_index and state.damaged.get(entry.index) in (entry.term, UNKNOWN_TERM):
                state.tail[entry.index - state.flushed_index - 1] = entry
                del state.damaged[entry.index]
        self._tail_offsets = [kept.next_offset for kept in state.tail]
        self._unflushed_bytes = sum(map(encoded_bytes, state.tail))

    def on_repaired(self, job: RepairJob) -> None:
        """The segment holds the good copy durably."""
        if job.epoch == self.epoch:
            self._state.damaged.pop(job.entry.index, None)

    # Reads by offset and by time.

    def data_from(self, offset: Offset, *, max_bytes: int) -> Iterator[Entry]:
        """DATA entries in order from the one that holds `offset`, at least one where there is one.

        Raises:
            DamageError: an entry on the way is unreadable on this node.
        """
        # Heads alone lead there: a damaged payload before it is no reason not to read this one.
        start = self.index_of_offset(offset)
        taken = 0
        while start <= self._state.last_index:
            for entry in self._noting_damage(start, max_bytes=max_bytes):
                if entry.index in self._state.damaged:
                    raise DamageError(f"entry {entry.index} of group {self.group} is damaged on this node")
                start = Index(entry.index + 1)
                if entry.kind is EntryKind.DATA and entry.next_offset > offset:
                    yield entry
                    taken += entry.size_bytes
                    if taken >= max_bytes:
                        return

    def _noting_damage(self, start: Index, *, max_bytes: int) -> Iterator[Entry]:
        """Entries from `start` on; one that turns out to be unreadable is noted, so that it is fetched from a peer."""
        following = start
        try:
            for entry in self._entries_from(start, max_bytes=max_bytes):
                following = Index(entry.index + 1)
                yield entry
        except DamageError:
            if following <= self._state.flushed_index and following not in self._state.damaged:
                self.note_damage(following)
            raise

    def extent_of(self, offset: Offset) -> tuple[Offset, Offset, int] | None:
        """First and next offset and log time of the batch that holds `offset`, though its bytes may be damaged.

        Where even its head is lost, the neighbours tell; None where nothing behind it is readable.
        """
        before = Offset(0)
        for index, kind, next_offset, append_ms in self._metas_from(self._index_holding(offset)):
            # The head of a flushed entry tells, whatever became of its payload; a stand-in in the tail does not.
            if kind is not EntryKind.DATA or (index in self._state.damaged and index > self._state.flushed_index):
                continue
            if next_offset > offset:
                base = self._base_offset_of(index, next_offset)
                return (base, next_offset, append_ms) if base <= offset else (max(before, Offset(0)), base, append_ms)
            before = next_offset
        return None

    def index_of_offset(self, offset: Offset) -> Index:
        """Index of the DATA entry that holds `offset`; one past the last index where none does yet.

        Raises:
            DamageError: that entry, or something on the way to it, is unreadable.
        """
        index = following = self._index_holding(offset)
        # At the very beginning what lies before the first entry is gone, not missing.
        is_dense = index == self.first_index()
        for head_index, kind, next_offset, _ in self._metas_from(index):
            is_dense = is_dense and head_index == following
            following = Index(head_index + 1)
            if kind is EntryKind.DATA and next_offset > offset:
                if not is_dense and self._base_offset_of(head_index, next_offset) > offset:
                    raise DamageError(f"the entry with offset {offset} of group {self.group} is damaged on this node")
                return head_index
        if following <= self._state.last_index:
            raise DamageError(f"entry {following} of group {self.group} is damaged on this node")
        return following

    def first_offset_at(self, append_ms: int) -> tuple[Offset, int] | None:
        """Base offset and log time of the first DATA entry with log time >= `append_ms`; None where there is none.

        Raises:
            DamageError: it is not known which one is the first, because something before it is unreadable.
        """
        state = self._state
        start = Index(state.previous_index + 1)
        row = self._verified(self._index.last_before_time(self.group, self.replica, append_ms))
        if row is not None:
            start = max(start, Index(row.index))
        tail_start = bisect_left(state.tail, append_ms, key=lambda entry: entry.append_ms)
        # The log time of a damaged entry is not known: begin before it.
        while tail_start > 0 and state.tail[tail_start - 1].index in state.damaged:
            tail_start -= 1
        if tail_start > 0 and state.tail:
            start = max(start, Index(state.tail[0].index + tail_start))
        following, is_sure = start, True
        for index, kind, next_offset, at_ms in self._metas_from(start):
            # What is missing is older than what follows it.
            is_sure = is_sure and (index == following or at_ms < append_ms)
            following = Index(index + 1)
            if kind is EntryKind.DATA and at_ms >= append_ms:
                if not is_sure:
                    raise DamageError(f"an entry of group {self.group} before {index} is damaged on this node")
                return Offset(self._base_offset_of(index, next_offset)), at_ms
        if following <= state.last_index or not is_sure:
            raise DamageError(f"an entry of group {self.group} is damaged on this node")
        return None

    def last_before(self, append_ms: int) -> Index:
        """The greatest index whose log time is below `append_ms`, or the one before the log start.

        Raises:
            DamageError: an entry that may be the one is unreadable.
        """
        found = self._state.previous_index
        row = self._verified(self._index.last_before_time(self.group, self.replica, append_ms))
        start = Index(row.index) if row is not None else Index(found + 1)
        following = start = max(start, Index(found + 1))
        for index, _, _, at_ms in self._metas_from(start):
            if at_ms >= append_ms:
                break
            found, following = index, Index(index + 1)
        else:
            index = Index(self._state.last_index + 1)
        if index != following:
            raise DamageError(f"entry {following} of group {self.group} is damaged on this node")
        return found

    # Room, flush and deletion: plans made here, carried out by the log and flusher threads.

    def plan_room(self, new_bytes: int) -> RoomRequest | None:
        """What must be preallocated before `new_bytes` more may be promised; None where there is room already.

        Either the active segment has room for everything unflushed, or the spare one has.
        """
        need = self._unflushed_bytes + new_bytes
        if not need:
            return None
        options, active, spare = self._options, self.active, self.spare
        is_rolling = self._flushing is not None and self._flushing.is_new
        if active is not None and not is_rolling:
            length = self._state.segments[-1].length_bytes
            if (
                length < options.segment_bytes
                and not self._is_active_droppable
                and active.allocated_bytes - length >= need
            ):
                return None
            if spare is None and length + need <= options.segment_bytes and not self._is_active_droppable:
                return RoomRequest(self, active, length + need, self._stepped(active, length + need))
        need += SEGMENT_HEADER_BYTES
        if spare is None:
            return RoomRequest(self, None, need, max(need, options.first_room_bytes))
        if spare.allocated_bytes >= need:
            return None
        return RoomRequest(self, spare, need, self._stepped(spare, need))

    def _stepped(self, file: SegmentFile, needed_bytes: int) -> int:
        """How much a file is to have that needs so much: more than that, for each growth costs as much as a sync."""
        options = self._options
        step = min(max(options.first_room_bytes, file.allocated_bytes), options.max_room_step_bytes)
        return max(needed_bytes, file.allocated_bytes + step)

    def take_room(self, request: RoomRequest) -> File | None:
        """Note what a successful request reserved; returns a file that is not wanted any more."""
        if request.target is not None:
            request.target.allocated_bytes = request.allocated_bytes
        elif request.opened is not None:
            if self.spare is not None:
                return request.opened
            self.spare = SegmentFile(request.opened, request.allocated_bytes)
        return None

    def plan_flush(self, limit: Index) -> FlushPiece | None:
        """A piece of everything up to `limit`; what is damaged in the tail, and all behind it, waits."""
        state = self._state
        count = self._flushable(limit)
        if count <= 0:
            return None
        entries = tuple(state.tail[:count])
        size = sum(map(encoded_bytes, entries))
        first, last = entries[0], entries[-1]
        active, spare = self.active, self.spare
        spare_fits = spare is not None and spare.allocated_bytes - SEGMENT_HEADER_BYTES >= self._unflushed_bytes
        if active is not None:
            old = state.segments[-1]
            has_room = active.allocated_bytes - old.length_bytes >= self._unflushed_bytes
            # A full segment is rolled, unless what is to be flushed was promised its room before it was full.
            if has_room and (old.length_bytes < self._options.segment_bytes or not spare_fits):
                row = SegmentRow(old.base_index, last.index, last.term, old.length_bytes + size)
                self._flushing = FlushPiece(
                    self, self.epoch, state.directory, active, False, old.length_bytes, entries, row
                )
                return self._flushing
        if spare is None or not spare_fits:
            violated(f"group {state.group} has no room reserved for {size} bytes")
        row = SegmentRow(first.index, last.index, last.term, SEGMENT_HEADER_BYTES + size)
        self._flushing = FlushPiece(self, self.epoch, state.directory, spare, True, SEGMENT_HEADER_BYTES, entries, row)
        return self._flushing

    def _flushable(self, limit: Index) -> int:
        flushed = self._state.flushed_index
        hole = min((index for index in self._state.damaged if index > flushed), default=None)
        return (limit if hole is None else min(limit, hole - 1)) - flushed

    def forget_flush(self) -> None:
        """The piece planned last will not be written."""
        self._flushing = None

    def on_flushed(self, piece: FlushPiece) -> File | None:
        """The piece and the record that names it are durable; returns the file that was rolled away from."""
        if piece.epoch != self.epoch:
            return None
        state = self._state
        self._flushing = None
        retired = None
        if piece.is_new:
            retired = self.active.file if self.active is not None else None
            state.segments.append(piece.row)
            self.active, self.spare = piece.target, None
        else:
            state.segments[-1] = piece.row
            reader = self._readers.pop(piece.row.base_index, None)
            if reader is not None:
                reader.close()
        count = len(piece.entries)
        invariant(
            count <= len(state.tail) and state.tail[count - 1] is piece.entries[-1],
            f"group {state.group} flushed entry {piece.row.last_index}, which was replaced meanwhile",
        )
        self._unflushed_bytes -= sum(map(encoded_bytes, piece.entries))
        del state.tail[:count], self._tail_offsets[:count]
        return retired

    @property
    def has_droppable(self) -> bool:
        """Whether a flush would free segments."""
        return not self.is_pinned and bool(self._droppable_segments())

    @property
    def has_unneeded(self) -> bool:
        """Nobody needs the oldest segment any more: else there is nothing droppable, and no spare is needed."""
        segments = self._state.segments
        return bool(segments) and segments[0].last_index < self.droppable_below

    @property
    def has_expired_files(self) -> bool:
        """All segments end before the log start, and the kept checkpoints do not let the last one go yet."""
        segments = self._state.segments
        return bool(segments) and self.droppable_below <= segments[-1].last_index < self.log_start_index

    @property
    def needs_spare(self) -> bool:
        """The active segment is droppable, and what is in the tail has no other place to go to."""
        return self._is_active_droppable and bool(self._state.tail) and self.spare is None

    def drop_segments(self) -> tuple[list[SegmentRow], File | None]:
        """Forget front segments whose last index lies below `droppable_below`; with all of them, the tail before it.

        Returns their rows, and the file that was open for writing if it is among them. The record that no longer
        names them is written before their files go. To be called before a flush is planned.
        """
        if self.is_pinned:
            return [], None
        state = self._state
        retired = None
        dropped = self._droppable_segments()
        if dropped and len(dropped) == len(state.segments):
            if self.active is not None:
                retired, self.active = self.active.file, None
            count = self._expired_tail_count()
        else:
            count = 0
        for segment in dropped:
            state.segments.pop(0)
            state.previous_index, state.previous_term = segment.last_index, segment.last_term
            reader = self._readers.pop(segment.base_index, None)
            if reader is not None:
                reader.close()
        if count:
            last = state.tail[count - 1]
            self._unflushed_bytes -= sum(map(encoded_bytes, state.tail[:count]))
            del state.tail[:count], self._tail_offsets[:count]
            state.previous_index, state.previous_term = last.index, last.term
        self._forget_damage(state.previous_index)
        return dropped, retired

    @property
    def _is_active_droppable(self) -> bool:
        segments = self._state.segments
        return bool(segments) and segments[-1].last_index < self.droppable_below

    def _droppable_segments(self) -> list[SegmentRow]:
        """The active one is among them when what follows it has another place to go to."""
        segments = self._state.segments
        found = [segment for segment in segments[:-1] if segment.last_index < self.droppable_below]
        if self._is_active_droppable and self._flushing is None:
            left = self._unflushed_bytes - sum(map(encoded_bytes, self._state.tail[: self._expired_tail_count()]))
            room = self.spare.allocated_bytes - SEGMENT_HEADER_BYTES if self.spare is not None else 0
            if left <= room:
                found.append(segments[-1])
        return found

    def _expired_tail_count(self) -> int:
        """How much of the tail lies before `droppable_below`: committed, in both checkpoints, and read by nobody."""
        return max(0, min(len(self._state.tail), self.droppable_below - 1 - self._state.flushed_index))

    def _forget_damage(self, through: Index) -> None:
        for index in [index for index in self._state.damaged if index <= through]:
            del self._state.damaged[index]
            self.mended.pop(index, None)

    def replace(self, state: LogState) -> list[File]:
        """Switch to an installed snapshot. Plans made before lose their effect.

        Returns the files that were open for writing: a flush may still hold them, the caller closes them after it.
        """
        retired = [segment.file for segment in (self.active, self.spare) if segment is not None]
        self.active = self.spare = None
        self.close()
        self._state = state
        self._tail_offsets = [entry.next_offset for entry in state.tail]
        self._unflushed_bytes = sum(map(encoded_bytes, state.tail))
        self.mended.clear()
        self.epoch += 1
        self._flushing = None
        self.needs_reindex = True
        return retired

    def close(self) -> None:
        """Close every file; the log may be read again afterwards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        for segment in (self.active, self.spare):
            if segment is not None:
                segment.file.close()
        self.active = self.spare = None

    # Lookups.

    def _intact_from(self, start: Index, *, max_bytes: int) -> Iterator[Entry]:
        """Entries from `start` up to the first damaged one, which is noted with its term as known loss."""
        following = start
        try:
            for entry in self._entries_from(start, max_bytes=max_bytes):
                if entry.index in self._state.damaged:
                    return
                yield entry
                following = Index(entry.index + 1)
        except DamageError:
            self.note_damage(following)

    def note_damage(self, index: Index) -> None:
        """Quarantine a flushed entry whose bytes turned out to be lost, and all around it whose heads are lost too.

        Its term is its own head's where that is intact, otherwise that of the nearest intact heads on both sides where
        they agree. Where those cannot tell, the entry is still named: it was flushed, so it is the one that is
        committed at its index.
        """
        self.on_damage()
        segment = self._segment_of(index)
        before, after = self._heads_around(index, segment)
        damaged = self._state.damaged
        if after is not None and after.index == index:
            damaged[index] = after.term
            return
        first = segment.base_index if before is None else before.index + 1
        end = segment.last_index + 1 if after is None else after.index
        term_before = self._term_before(segment) if before is None else before.term
        term = term_before if term_before == (segment.last_term if after is None else after.term) else UNKNOWN_TERM
        damaged[index] = term
        for lost in range(first, end):
            damaged.setdefault(Index(lost), term)

    def _heads_around(self, index: Index, segment: SegmentRow) -> tuple[EntryHead | None, EntryHead | None]:
        """The last intact head before `index` in its segment, and the first one at or behind it."""
        reader = self._reader(segment)
        row = self._verified(self._index.floor_by_index(self.group, self.replica, index))
        position = SEGMENT_HEADER_BYTES
        if row is not None and row.segment_base == segment.base_index:
            position = row.position
        before = None
        try:
            for _, head in reader.heads_from(position):
                if head.index >= index:
                    return before, head
                before = head
        except DamageError:
            if before is not None:
                return before, None
        found = reader.find_head(position, above=Index(index - 1))
        return before, None if found is None else found[1]

    def _term_before(self, segment: SegmentRow) -> Term:
        """Of the entry before a segment's first one."""
        state = self._state
        if segment.base_index == state.previous_index + 1:
            return state.previous_term
        return self._segment_of(Index(segment.base_index - 1)).last_term

    def _index_holding(self, offset: Offset) -> Index:
        """An index at or before the DATA entry that holds `offset`, as near as the index and the tail can tell."""
        state = self._state
        at = bisect_right(self._tail_offsets, offset)
        # What a damaged entry holds is not known: begin before it.
        while at > 0 and state.tail[at - 1].index in state.damaged:
            at -= 1
        if state.tail and (at > 0 or not state.segments):
            return Index(state.tail[0].index + at)
        row = self._verified(self._index.floor_by_offset(self.group, self.replica, offset))
        return Index(max(row.index, state.previous_index + 1)) if row is not None else Index(state.previous_index + 1)

    def _entries_from(self, start: Index, *, max_bytes: int) -> Iterator[Entry]:
        state = self._state
        taken = 0
        while start <= state.flushed_index:
            segment, before = self._segment_of(start), start
            position, _ = self._head_of(start)
            for entry in self._reader(segment).entries_from(position, max_bytes=max_bytes - taken):
                if entry.index != start or entry.group != self.group:
                    raise DamageError(f"entry {entry.index} of group {entry.group} stands where {start} belongs")
                yield entry
                taken += entry.size_bytes
                start = Index(entry.index + 1)
                if start > segment.last_index:
                    # Whatever stands behind it, where writes landed before their places, is no entry of this log.
                    break
            if taken >= max_bytes:
                return
            if start == before:
                raise DamageError(f"entry {start} of group {self.group} is not in segment {segment.base_index}")
        yield from state.tail[start - state.flushed_index - 1 :]

    def _metas_from(self, start: Index) -> Iterator[tuple[Index, EntryKind, Offset, int]]:
        """(index, kind, next_offset, append_ms) from `start` on, heads only.

        What cannot be read is noted as damaged and left out: see whether the indexes are dense.

        Raises:
            DamageError: the head at `start`, or everything behind some head of a segment, is unreadable.
        """
        state = self._state
        while start <= state.flushed_index:
            segment = self._segment_of(start)
            try:
                position, _ = self._head_of(start)
                for _, head in self._reader(segment).heads_from(position):
                    for missing in range(start, head.index):
                        self._note_missing(Index(missing))
                    yield head.index, head.kind, head.next_offset, head.append_ms
                    start = Index(head.index + 1)
            except DamageError:
                self._note_missing(start)
                raise
        for entry in state.tail[start - state.flushed_index - 1 :]:
            if entry.index not in state.damaged:
                yield entry.index, entry.kind, entry.next_offset, entry.append_ms

    def batch_sizes(self, start: Index) -> Iterator[tuple[Index, Offset, int]]:
        """(index, base offset, bytes of the batch) of each entry from `start` on, 0 bytes where it holds none.

        Raises:
            DamageError: a head on the way is unreadable, so that its size is not known.
        """
        state, following = self._state, start
        while following <= state.flushed_index:
            segment = self._segment_of(following)
            position, _ = self._head_of(following)
            for _, head in self._reader(segment).heads_from(position):
                if head.index != following:
                    raise DamageError(f"entry {following} of group {self.group} is damaged on this node")
                yield head.index, head.base_offset, head.payload_bytes if head.kind is EntryKind.DATA else 0
                following = Index(head.index + 1)
        for entry in state.tail[following - state.flushed_index - 1 :]:
            yield entry.index, entry.base_offset, len(entry.payload) if entry.kind is EntryKind.DATA else 0

    # For repair: what is known of entries, damaged or not.

    def head_of(self, index: Index) -> tuple[Offset, Offset, int, Term]:
        """Base and next offset, log time and term of an entry whose head is good.

        Raises:
            DamageError: it is not.
        """
        state = self._state
        if index > state.flushed_index:
            entry = state.tail[index - state.flushed_index - 1]
            if index in state.damaged:
                raise DamageError(f"entry {index} of group {self.group} is damaged on this node")
            return entry.base_offset, entry.next_offset, entry.append_ms, entry.term
        head = self._head_of(index)[1]
        return head.base_offset, head.next_offset, head.append_ms, head.term

    def flushed_head_of(self, index: Index) -> EntryHead | None:
        """The head of a flushed entry, None where it is unreadable."""
        try:
            return self._head_of(index)[1]
        except DamageError:
            return None

    def room_for_lost(self, first: Index, last: Index) -> int:
        """Bytes from the place of `first` to the end of `last`, flushed entries of one segment whose heads are lost.

        Raises:
            DamageError: the neighbours do not tell.
        """
        segment = self._segment_of(first)
        end = segment.length_bytes if last == segment.last_index else self._head_of(Index(last + 1))[0]
        return end - self._position_of(first)

    def segment_end_of(self, index: Index) -> Index:
        """The last index of the segment that holds a flushed entry."""
        return self._segment_of(index).last_index

    def _note_missing(self, index: Index) -> None:
        if index <= self._state.flushed_index and index not in self._state.damaged:
            self.note_damage(index)

    def _base_offset_of(self, index: Index, next_offset: Offset) -> Offset:
        state = self._state
        if index > state.flushed_index:
            return state.tail[index - state.flushed_index - 1].base_offset
        return self._head_of(index)[1].base_offset if next_offset else Offset(0)

    def _segment_of(self, index: Index) -> SegmentRow:
        segments = self._state.segments
        return segments[bisect_left(segments, index, key=lambda segment: segment.last_index)]

    def _reader(self, segment: SegmentRow) -> SegmentReader:
        reader = self._readers.get(segment.base_index)
        if reader is None or reader.row != segment:
            if reader is not None:
                reader.close()
            reader = self._readers[segment.base_index] = SegmentReader(
                self._disk, self._state.directory, segment, self.group
            )
        return reader

    def _head_of(self, index: Index) -> tuple[int, EntryHead]:
        """Position and head of a flushed entry, found from the nearest row of the offset index."""
        segment = self._segment_of(index)
        row = self._verified(self._index.floor_by_index(self.group, self.replica, index))
        position = SEGMENT_HEADER_BYTES
        if row is not None and row.segment_base == segment.base_index:
            position = row.position
        for at, head in self._reader(segment).heads_from(position):
            if head.index == index:
                return at, head
            if head.index > index:
                break
        raise DamageError(
            f"the head of entry {index} of group {self.group} is not readable in segment {segment.base_index}"
        )

    def _position_of(self, index: Index) -> int:
        """Where a flushed entry stands, even if its own head is unreadable.

        Everything before it has to stand in its place: what was found behind a gap may be a write that landed beside
        its own. Then the first that is missing is noted: once that is mended, the next one is known to be missing.

        Raises:
            DamageError: an entry before it is not where it belongs.
        """
        segment = self._segment_of(index)
        reader = self._reader(segment)
        row = self._verified(self._index.floor_by_index(self.group, self.replica, index))
        following, position = segment.base_index, SEGMENT_HEADER_BYTES
        if row is not None and row.segment_base == segment.base_index:
            following, position = row.index, row.position
        while following < index:
            try:
                head = reader.head_at(position)
            except DamageError:
                head = None
            if head is None or head.index != following:
                self._note_missing(following)
                raise DamageError(f"entry {following} of group {self.group} is not where it belongs")
            following, position = Index(following + 1), position + head.encoded_bytes
        return position

    def _verified(self, row: IndexRow | None) -> IndexRow | None:
        """The row if the frame it names says the same; otherwise all rows of the replica are to be rebuilt."""
        if row is None or self.needs_reindex:
            return None
        segments = self._state.segments
        at = bisect_left(segments, row.segment_base, key=lambda segment: segment.base_index)
        if row.index <= self._state.previous_index:
            return None
        if at < len(segments) and segments[at].base_index == row.segment_base:
            try:
                head = self._reader(segments[at]).head_at(row.position)
            except DamageError:
                head = None
            if (
                head is not None
                and (head.group, head.index) == (self.group, row.index)
                and (head.base_offset, head.append_ms) == (row.base_offset, row.append_ms)
            ):
                return row
        # The index is written by the flusher thread alone: rows are not used again until it has rebuilt them.
        self.index_mismatches += 1
        self.needs_reindex = True
        return None
