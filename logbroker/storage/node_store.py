"""Everything durable of one node, as the layer above sees it: one log per group, votes, checkpoints, and jobs to run.

The store belongs to the event loop's thread. Blocking work is handed out as jobs, at most one commit and one flush at a
time: `plan_*` on the loop, `job.run()` on the log or flusher thread, `finish_*` on the loop again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.errors import invariant
from logbroker.ids import Index, ReplicaId, Term
from logbroker.storage.ballast import Ballast, Room
from logbroker.storage.checkpoints import KEPT_COUNT, CheckpointHeader, write_checkpoint
from logbroker.storage.commit import Birth, CommitJob, ReplicaWrite
from logbroker.storage.entry_codec import encoded_bytes
from logbroker.storage.flush import CheckpointJob, DroppedSegments, FlushJob, IndexRebuild
from logbroker.storage.flush_record import FlushRecord, ReplicaRow
from logbroker.storage.lives import InstallBody, encode_body, replica_directory
from logbroker.storage.partition_log import FlushPiece, LogOptions, LogState, PartitionLog, RoomRequest
from logbroker.storage.segment import SegmentRow
from logbroker.storage.wal import Wal, WalOptions
from logbroker.storage.wal_format import (
    COMMIT_OVERHEAD_BYTES,
    WalFrame,
    WalPosition,
    commit_size_bytes,
    entry_frame,
    entry_frame_bytes,
    loss_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from logbroker.storage.disk import Disk, File
    from logbroker.storage.identity import NodeIdentity
    from logbroker.storage.index import OffsetIndex
    from logbroker.storage.votes import VoteStore

LIFE_FRAME_BYTES = 4096
"""Allowance for a CREATE, INSTALL or DELETE frame when a commit's size is estimated."""

MIN_BALLAST_BYTES = 64 << 20


@final
@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes of one node's storage. A commit never has more than `max_commit_bytes` of new entries."""

    wal: WalOptions = WalOptions()
    log: LogOptions = LogOptions()
    ballast_bytes: int = MIN_BALLAST_BYTES
    max_commit_bytes: int = 4 << 20


@final
@dataclass
class StoredReplica:
    """One replica's durable things. `lost` says why it may never act as a voter again; it is then to be replaced."""

    log: PartitionLog
    checkpoint: tuple[CheckpointHeader, bytes] | None = None
    newest_checkpoint: Index = Index(0)
    """Highest index of a checkpoint file, readable or not: none is written below it."""
    kept_log_starts: list[Index] = field(default_factory=list)
    """Log start index recorded in each kept checkpoint, oldest first."""
    lost: str = ""

    def keep_log_starts(self, log_starts: Sequence[Index]) -> None:
        """Note the log starts of the kept checkpoints, oldest first: what the older one does not need may go."""
        self.kept_log_starts = list(log_starts[-KEPT_COUNT:])
        self.log.droppable_below = self.kept_log_starts[0] if len(self.kept_log_starts) == KEPT_COUNT else Index(0)


@final
class NodeStore:
    """See the module. Made by `recovery.open_store`."""

    def __init__(
        self,
        disk: Disk,
        identity: NodeIdentity,
        options: StoreOptions,
        *,
        wal: Wal,
        votes: VoteStore,
        index: OffsetIndex,
        replicas: Mapping[ReplicaId, StoredReplica],
        record_sequence: int,
        wal_start: int,
        notes: Sequence[str] = (),
    ) -> None:
        self.identity = identity
        self.options = options
        self.replicas = dict(replicas)
        self.notes = list(notes)
        self.room = Room.AMPLE
        self._disk = disk
        self._wal = wal
        self._votes = votes
        self._index = index
        self._ballast = Ballast(disk, options.ballast_bytes)
        self._record_sequence = record_sequence
        self._wal_start = wal_start
        self._commit: CommitJob | None = None
        # The commit that carries the uncommitted entries for the flush planned with it.
        self._carrier: CommitJob | None = None
        self._short_of_room: set[ReplicaId] = set()
        self._flush: FlushJob | None = None
        self._next_flush: FlushJob | None = None
        self._checkpoint: CheckpointJob | None = None
        self._dead_directories: list[str] = []
        self._dropped: list[DroppedSegments] = []
        self._retired: list[File] = []
        self._wants_roll = False
        self._wants_spare: set[ReplicaId] = set()
        self._wants_vote_scrub = False
        self.mended_votes = 0
        """Vote slots that had rotted in one copy and were written again."""
        self._stalled = False
        self._may_outgrow = False

    # What is there.

    @property
    def disk(self) -> Disk:
        return self._disk

    @property
    def is_committing(self) -> bool:
        return self._commit is not None

    @property
    def is_sealed(self) -> bool:
        return self._wal.is_sealed

    @property
    def is_stalled(self) -> bool:
        """The WAL can take no further file: commits wait for a flush."""
        return self._stalled

    def vote(self, replica: ReplicaId) -> tuple[Term, ReplicaId] | None:
        """Durable term and vote; None where the replica has no readable slot."""
        vote = self._votes.get(replica)
        return None if vote is None else (vote.term, vote.voted_for)

    @property
    def wants_spare(self) -> bool:
        """A file that nobody needs any more can go once there is another for what would be flushed into it."""
        return bool(self._wants_spare)

    @property
    def wants_roll(self) -> bool:
        return self._wants_roll and self._next_flush is None and self._flush is None

    @property
    def is_checkpointing(self) -> bool:
        return self._checkpoint is not None

    def lose(self, replica: ReplicaId, why: str) -> None:
        """Give a replica up for good: the next flush record says so, and until then its damage tells again."""
        stored = self.replicas[replica]
        stored.lost = stored.log.state.lost = why

    def request_roll(self) -> None:
        """Let the next commit take a new WAL file, so that what is committed is flushed soon."""
        self._wants_roll = True

    # What the scrubber asks for.

    @property
    def wants_vote_scrub(self) -> bool:
        return self._wants_vote_scrub

    def request_vote_scrub(self) -> None:
        """Let the next commit look at both copies of the votes: only the thread that writes them may."""
        self._wants_vote_scrub = True

    def durable_wal(self) -> tuple[list[tuple[int, int]], WalPosition]:
        """(use, file number) of the WAL files that matter, oldest first, and the durable end, as of this moment."""
        uses, end = self._wal.durable_uses()
        return [(use, number) for use, number in uses if use >= self._wal_start], end

    @property
    def wal_start(self) -> int:
        """The use of a ring file from which on the WAL still matters."""
        return self._wal_start

    # Commits.

    def plan_commit(
        self,
        writes: Sequence[ReplicaWrite] = (),
        *,
        births: Sequence[Birth] = (),
        deaths: Sequence[ReplicaId] = (),
        mends: Sequence[ReplicaWrite] = (),
        room: Room | None = None,
        seals: bool = False,
    ) -> CommitJob | None:
        """Plan one group commit; None where it must wait because the WAL has no free file.

        The caller keeps the sum of the entries within `max_commit_bytes`, and that of the mends too.
        """
        invariant(self._commit is None, "a commit is planned while another runs")
        self._wal.release(WalPosition(self._wal_start, 0))
        self._close_retired()
        size = COMMIT_OVERHEAD_BYTES + LIFE_FRAME_BYTES * (len(births) + len(deaths) + 1)
        requests: dict[ReplicaId, RoomRequest] = {}
        # Of a damaged entry the size was not known: room for its copy is new.
        mended_bytes = {write.replica: sum(map(encoded_bytes, write.entries)) for write in mends}
        for write in (*mends, *writes):
            new_bytes = sum(map(encoded_bytes, write.entries)) + mended_bytes.get(write.replica, 0)
            size += sum(map(entry_frame_bytes, write.entries))
            if write.install is not None:
                size += LIFE_FRAME_BYTES + len(encode_body(write.install))
            if new_bytes and write.install is None:
                request = self.replicas[write.replica].log.plan_room(new_bytes)
                if request is not None:
                    requests[write.replica] = request
        wants_spare, self._wants_spare = self._wants_spare, set()
        for replica in (self._short_of_room | wants_spare) - requests.keys():
            request = self.replicas[replica].log.plan_room(0)
            if request is not None:
                requests[replica] = request
            else:
                self._short_of_room.discard(replica)
        carried: tuple[WalFrame, ...] = ()
        is_empty = not (writes or births or deaths or mends)
        rolls = self.wants_roll or not (is_empty or self._wal.fits(size))
        beyond_max = rolls and not self._wal.can_roll()
        planned = self._next_flush
        if rolls:
            carried = self._plan_boundary(self.options.wal.file_bytes - size)
            # The ring is full. A roll that plans a flush will free it again; any other waits for the one that is late.
            frees = self._next_flush is not planned
            self._stalled = beyond_max and not frees and not (self._may_outgrow and self._wal.can_outgrow())
            if self._stalled:
                return None
            self._wants_roll = False
            self._may_outgrow = False
        self._stalled = False
        self._commit = CommitJob(
            self._disk,
            self._wal,
            self._votes,
            self._ballast,
            tuple(writes),
            tuple(births),
            tuple(deaths),
            tuple(mends),
            carried,
            rolls,
            beyond_max,
            seals=seals,
            scrubs_votes=self._wants_vote_scrub,
            room=room,
            room_requests=requests,
        )
        self._wants_vote_scrub = False
        if self._next_flush is not planned:
            self._carrier = self._commit
        return self._commit

    def plan_carrying(self, *, room: Room | None = None) -> CommitJob | None:
        """After a plan that must wait for a full ring: a commit of nothing but what has to be carried for a flush.

        Beside other writes it may find no place for ever: what is carried is committed by others, and those may wait
        for just these writes. None where a flush is under way, or where even that does not fit.

        After a restart it may not: what was committed is not known then, so all that is not flushed would have to be
        carried, and no flush frees the ring before something new is committed. So the next plan may outgrow it.
        """
        if not self._stalled or self._flush is not None or self._next_flush is not None:
            return None
        # Of a log without a file to be flushed into nothing is: that comes first, and needs no place in the ring.
        self._wants_roll = not self._short_of_room
        job = self.plan_commit(room=room)
        self._stalled = job is None or not job.rolls
        self._may_outgrow = job is None
        return job

    def finish_commit(self, job: CommitJob) -> set[ReplicaId]:
        """Take over what a job made durable; returns the replicas whose entries were refused for want of room."""
        invariant(job is self._commit, "a commit is finished that is not the one running")
        self._commit = None
        self.mended_votes += job.mended_votes
        for request in job.granted:
            self._retire(request.log.take_room(request))
            self._short_of_room.discard(request.log.replica)
        if job.room_reached is not None:
            self.room = job.room_reached
        for birth in job.births:
            directory = replica_directory(birth.group, birth.replica)
            state = LogState(birth.group, birth.replica, directory, birth.initial_conf)
            log = PartitionLog(self._disk, self._index, state, self.options.log)
            self.replicas[birth.replica] = StoredReplica(log)
        for write in job.mends:
            if write.replica not in job.refused:
                self.replicas[write.replica].log.on_mended(write.entries)
        for write in job.writes:
            if write.replica in job.refused:
                continue
            stored = self.replicas[write.replica]
            if write.install is not None:
                self._switch(stored, write.install)
            if write.entries:
                stored.log.append(write.entries)
                if write.install is not None:
                    # The new log has no files yet; they are made with the next commit, before anything is flushed.
                    self._short_of_room.add(write.replica)
        for replica in job.deaths:
            self._bury(replica)
        return job.refused

    def abandon_commit(self, job: CommitJob) -> None:
        """The job raised before it began to write; all of it, the flush that its roll allowed too, is planned again."""
        invariant(job is self._commit, "a commit is abandoned that is not the one running")
        self._commit = None
        self._wants_vote_scrub |= job.scrubs_votes
        for request in job.granted:
            self._retire(request.log.take_room(request))
        if job.room_reached is not None:
            self.room = job.room_reached
        if job is not self._carrier:
            return
        flush, self._next_flush = self._next_flush, None
        if flush is not None:
            for piece in flush.pieces:
                piece.log.forget_flush()
            self._dropped = [*flush.dropped, *self._dropped]
            self._dead_directories = [*flush.dead_directories, *self._dead_directories]

    # Flushes.

    def take_flush(self) -> FlushJob | None:
        """The flush to run next, if one is planned and neither a flush nor the commit that carries for it runs.

        Other commits may run beside it: under load one always does.
        """
        if self._flush is not None or (self._commit is not None and self._commit is self._carrier):
            return None
        self._flush, self._next_flush = self._next_flush, None
        return self._flush

    def finish_flush(self, job: FlushJob) -> None:
        """Take over what a flush made durable, and let its WAL files go."""
        invariant(job is self._flush, "a flush is finished that is not the one running")
        self._flush = None
        for piece in job.pieces:
            self._retire(piece.log.on_flushed(piece))
        for rebuild in job.rebuilds:
            stored = self.replicas.get(rebuild.replica)
            if stored is not None and stored.log.state.directory == rebuild.directory:
                stored.log.needs_reindex = False
                stored.log.lacks_rows = rebuild.replica in job.incomplete
        self.notes.extend(job.notes)
        self._wal_start = job.record.wal_use

    def retry_flush(self, job: FlushJob) -> None:
        """The job found no room; it is run again from its beginning, which is safe until its record is written."""
        invariant(job is self._flush, "a flush is retried that is not the one running")
        self._flush, self._next_flush = None, job

    # Checkpoints.

    def plan_checkpoint(
        self, replica: ReplicaId, header: CheckpointHeader, slices: Iterable[bytes]
    ) -> CheckpointJob | None:
        """Plan a checkpoint of a replica; None while another is written, or before it is as new as the last."""
        stored = self.replicas[replica]
        if self._checkpoint is not None or header.index < stored.newest_checkpoint:
            return None
        log = stored.log
        invariant(
            header.index <= log.last_index(), f"checkpoint {header.index} lies ahead of the log's {log.last_index()}"
        )
        write = write_checkpoint(self._disk, log.state.directory, header, slices)
        self._checkpoint = CheckpointJob(replica, log.epoch, header.index, header.log_start_index, write)
        return self._checkpoint

    def finish_checkpoint(self, job: CheckpointJob) -> None:
        self._checkpoint = None
        stored = self.replicas.get(job.replica)
        if stored is not None and stored.log.epoch == job.epoch:
            # One at the index of the last takes the place of its file; the older one stays.
            kept = stored.kept_log_starts[:-1] if job.index == stored.newest_checkpoint else stored.kept_log_starts
            stored.newest_checkpoint = job.index
            stored.keep_log_starts([*kept, job.log_start_index])

    def finish_checkpoint_failed(self) -> None:
        """There was no room for it; the older ones are as they were."""
        self._checkpoint = None

    def has_droppable(self, replica: ReplicaId) -> bool:
        """Whether a flush would free segments of this replica."""
        log = self.replicas[replica].log
        if log.needs_spare:
            self._wants_spare.add(replica)
        return log.has_droppable

    def close(self) -> None:
        """Close every file. No job may be running."""
        for stored in self.replicas.values():
            stored.log.close()
        self._flush = self._next_flush = None
        self._close_retired()
        self._votes.close()
        self._index.close()
        self._wal.close()

    def _retire(self, file: File | None) -> None:
        """A file that a running job may still hold is closed when none is running."""
        if file is not None:
            self._retired.append(file)

    def _close_retired(self) -> None:
        # A flush that is planned, and not taken yet, writes into some of them.
        if self._flush is None and self._next_flush is None:
            for file in self._retired:
                file.close()
            self._retired.clear()

    def _plan_boundary(self, room_bytes: int) -> tuple[WalFrame, ...]:
        """Plan the flush that lets all older WAL files go, and the frames to carry into the new one.

        Everything durable is either flushed by the plan or carried, so that the log from the new file on is complete.
        While a flush is under way, or the carried entries do not fit, there is no boundary and the ring grows.
        """
        if self._flush is not None or self._next_flush is not None or self._short_of_room:
            return ()
        for replica in self.replicas:
            self._drop(replica)
        pieces: list[FlushPiece] = []
        carried: list[WalFrame] = []
        for replica, stored in self.replicas.items():
            log = stored.log
            if stored.lost:
                # It may never act on what it had; the record says so for good.
                continue
            piece = log.plan_flush(log.committed)
            first_kept = log.flushed_index + 1 if piece is None else piece.row.last_index + 1
            if piece is not None:
                pieces.append(piece)
            kept = log.state.tail[first_kept - log.flushed_index - 1 :]
            # Of a damaged entry the loss is carried: index and term stay known until a peer sends the rest.
            carried.extend(
                loss_frame(replica, entry) if entry.index in log.state.damaged else entry_frame(replica, entry)
                for entry in kept
            )
        # When the ring is full, letting go of its files is worth a whole one.
        allowed = min(room_bytes, self.options.wal.file_bytes // 2) if self._wal.can_roll() else room_bytes
        if commit_size_bytes(carried) > allowed:
            for piece in pieces:
                piece.log.forget_flush()
            return ()
        self._next_flush = self._make_flush(pieces)
        return tuple(carried)

    def _make_flush(self, pieces: Sequence[FlushPiece]) -> FlushJob:
        damaged = self._index.take_damaged()
        for stored in self.replicas.values():
            if (stored.log.group, stored.log.replica) in damaged:
                stored.log.needs_reindex = True
        dropped, self._dropped = self._dropped, []
        rebuilds = [self._rebuild(stored, pieces) for stored in self.replicas.values() if stored.log.wants_rows]
        flushed = {piece.log.replica: piece for piece in pieces}
        rows = []
        for replica, stored in self.replicas.items():
            row = stored.log.state.row()
            piece = flushed.get(replica)
            if piece is not None:
                row = _row_after(stored.log.state, piece)
            rows.append(row)
        self._record_sequence += 1
        record = FlushRecord(self._record_sequence, self._wal.position.use + 1, tuple(rows))
        dead, self._dead_directories = tuple(self._dead_directories), []
        return FlushJob(
            self._disk,
            self._index,
            self.identity.salt_crc,
            tuple(pieces),
            record,
            tuple(dropped),
            tuple(rebuilds),
            dead,
        )

    def _drop(self, replica: ReplicaId) -> None:
        log = self.replicas[replica].log
        segments, retired = log.drop_segments()
        self._retire(retired)
        if segments:
            self._dropped.append(DroppedSegments(log.state.directory, log.state.group, replica, tuple(segments)))

    def _rebuild(self, stored: StoredReplica, pieces: Sequence[FlushPiece]) -> IndexRebuild:
        state = stored.log.state
        segments: list[SegmentRow] = list(state.segments)
        for piece in pieces:
            if piece.log is stored.log:
                segments = [*segments, piece.row] if piece.is_new else [*segments[:-1], piece.row]
        return IndexRebuild(state.group, state.replica, state.directory, tuple(segments))

    def _switch(self, stored: StoredReplica, install: InstallBody) -> None:
        old = stored.log.state
        state = LogState(
            old.group,
            old.replica,
            install.directory,
            old.initial_conf,
            Index(install.previous_index),
            Term(install.previous_term),
            [
                SegmentRow(Index(s.base_index), Index(s.last_index), Term(s.last_term), s.length_bytes)
                for s in install.segments
            ],
        )
        self._retired.extend(stored.log.replace(state))
        stored.keep_log_starts([Index(install.previous_index + 1)])
        stored.newest_checkpoint = Index(install.index)
        self._dead_directories.append(old.directory)
        self._wants_roll = True

    def _bury(self, replica: ReplicaId) -> None:
        stored = self.replicas.pop(replica)
        self._short_of_room.discard(replica)
        self._wants_spare.discard(replica)
        self._retired.extend(stored.log.replace(stored.log.state))
        self._dead_directories.append(stored.log.state.directory)


def _row_after(state: LogState, piece: FlushPiece) -> ReplicaRow:
    segments = [*state.segments, piece.row] if piece.is_new else [*state.segments[:-1], piece.row]
    after = LogState(
        state.group,
        state.replica,
        state.directory,
        state.initial_conf,
        state.previous_index,
        state.previous_term,
        segments,
    )
    return after.row()
