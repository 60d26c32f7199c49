"""Bugs in what is on disk: what is synced when, what is believed at a start, what is let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import Entry
from logbroker.errors import DiskFullError, StoreFailedError
from logbroker.node import snapshots
from logbroker.node.engine import Engine
from logbroker.node.replica import Replica
from logbroker.record.checksum import crc32c
from logbroker.storage import entry_codec
from logbroker.storage.ballast import Ballast
from logbroker.storage.commit import CommitJob
from logbroker.storage.flush import FlushJob
from logbroker.storage.flush_record import write_record
from logbroker.storage.node_store import NodeStore
from logbroker.storage.partition_log import PartitionLog
from logbroker.storage.recovery import _Recovery
from logbroker.storage.simulated_disk import SimulatedDisk, SimulatedFile
from logbroker.storage.wal_format import WalPosition, align_up
from logbroker.storage.wal_scan import LostStretch, WalScan, WalScanner
from logbroker.testing.faults import FaultKind
from logbroker.testing.membership import Membership
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.errors import LogBrokerError
    from logbroker.ids import NodeId, ReplicaId
    from logbroker.raft.messages import HardState
    from logbroker.record.checksum import Buffer
    from logbroker.storage.node_store import StoredReplica
    from logbroker.storage.partition_log import LogState
    from logbroker.storage.wal import Wal
    from logbroker.storage.wal_format import WalFrame
    from logbroker.storage.wal_scan import ScannedFrame
    from logbroker.testing.mutants.planting import Patch


def _sync_nothing(patch: Patch, *, begins: tuple[str, ...] = (), ends: tuple[str, ...] = ()) -> None:
    sync = SimulatedFile.sync

    def careless(file: SimulatedFile) -> None:
        if not file.path.startswith(begins) if begins else not file.path.endswith(ends):
            sync(file)

    patch.attribute(SimulatedFile, "sync", careless)


@mutant("commit-unsynced", "B1", "a commit is reported before its sync")
def _(patch: Patch) -> None:
    _sync_nothing(patch, begins=("wal/",))


@mutant("sync-error-ignored", "B2", "a failed sync is taken for a good one", FaultKind.FAILED_SYNC)
def _(patch: Patch) -> None:
    run = CommitJob.run

    def deaf(job: CommitJob) -> None:
        try:
            run(job)
        except StoreFailedError:
            _forgive(job.disk)

    patch.attribute(CommitJob, "run", deaf)


@mutant(
    "sync-retried",
    "B2",
    "a failed sync is tried again, and the second one succeeds",
    FaultKind.FAILED_SYNC,
    FaultKind.POWER_CUT,
)
def _(patch: Patch) -> None:
    sync = SimulatedFile.sync

    def stubborn(file: SimulatedFile) -> None:
        try:
            sync(file)
        except StoreFailedError:
            _forgive(file._disk)
            sync(file)

    patch.attribute(SimulatedFile, "sync", stubborn)


def _forgive(disk: object) -> None:
    if isinstance(disk, SimulatedDisk):
        disk._failure = None


@mutant("votes-unsynced", "B3", "votes are not synced")
def _(patch: Patch) -> None:
    _sync_nothing(patch, begins=("vote.",))


@mutant("bad-header-is-the-end", "B5", "recovery takes a bad header for the end of the log", FaultKind.BIT_ROT)
def _(patch: Patch) -> None:
    patch.attribute(WalScanner, "_skip_lost", lambda scanner, use, offset, end, found: end)
    patch.attribute(WalScanner, "_newest_evidence", lambda scanner, last: last.synced_through)


@mutant(
    "damaged-entry-is-the-end", "B5 B7", "recovery cuts the log at an entry whose bytes are damaged", FaultKind.BIT_ROT
)
def _(patch: Patch) -> None:
    replay = _Recovery._replay_entry
    cut: set[tuple[int, ReplicaId]] = set()

    def cutting(recovery: _Recovery, frame: ScannedFrame) -> None:
        at = id(recovery), frame.item.replica
        if frame.entry is None and not frame.is_known_loss:
            cut.add(at)
        if at not in cut:
            replay(recovery, frame)

    patch.attribute(_Recovery, "_replay_entry", cutting)


@mutant(
    "conflict-kept-in-replay",
    "B15 B5",
    "recovery keeps the first entry at an index and not the last",
    test="tests/unit/storage/test_recovery.py",
)
def _(patch: Patch) -> None:
    replay = _Recovery._replay_entry

    def keeping(recovery: _Recovery, frame: ScannedFrame) -> None:
        state = recovery._states.get(frame.item.replica)
        if state is None or frame.item.index > state.last_index:
            replay(recovery, frame)

    patch.attribute(_Recovery, "_replay_entry", keeping)


@mutant("page-cache-believed", "B1", "recovery believes what is only in the page cache and does not write it again")
def _(patch: Patch) -> None:
    go_on = _Recovery._go_on

    def trusting(recovery: _Recovery, scan: WalScan) -> Wal:
        scan.unsynced.clear()
        return go_on(recovery, scan)

    patch.attribute(_Recovery, "_go_on", trusting)


@mutant("uncommitted-flushed", "B6 B20", "entries that are not committed are flushed to the segments")
def _(patch: Patch) -> None:
    plan = NodeStore._plan_boundary

    def all_of_it(store: NodeStore, room_bytes: int) -> tuple[WalFrame, ...]:
        kept = {stored.log: stored.log.committed for stored in store.replicas.values()}
        for log in kept:
            log.committed = log.last_index()
        carried = plan(store, room_bytes)
        for log, committed in kept.items():
            log.committed = committed
        return carried

    patch.attribute(NodeStore, "_plan_boundary", all_of_it)


@mutant("carry-forgotten", "B6", "uncommitted entries are not carried into the next file of the write-ahead log")
def _(patch: Patch) -> None:
    plan = NodeStore._plan_boundary

    def forgetful(store: NodeStore, room_bytes: int) -> tuple[WalFrame, ...]:
        plan(store, room_bytes)
        return ()

    patch.attribute(NodeStore, "_plan_boundary", forgetful)


@mutant("segments-unsynced", "B6", "the flush record is written before the segments are synced")
def _(patch: Patch) -> None:
    _sync_nothing(patch, ends=(".segment", ".spare"))


@mutant(
    "short-write-ignored",
    "B6",
    "a write that finds too little room is taken for done",
    FaultKind.FULL_DISK,
    FaultKind.POWER_CUT,
)
def _(patch: Patch) -> None:
    pwrite = SimulatedFile.pwrite

    def careless(file: SimulatedFile, buffers: Sequence[Buffer], offset: int) -> None:
        try:
            pwrite(file, buffers, offset)
        except DiskFullError:
            return

    patch.attribute(SimulatedFile, "pwrite", careless)


@mutant("checksum-unchecked", "B7", "the checksum of an entry is not looked at when it is read", FaultKind.BIT_ROT)
def _(patch: Patch) -> None:
    decode_entry = entry_codec.decode_entry

    def trusting(buffer: bytes | bytearray | memoryview, position: int = 0, *, place: str = "entry") -> Entry:
        head = entry_codec.decode_head(buffer, position, place=place)
        start = position + entry_codec.ENTRY_HEAD_BYTES
        payload = bytes(memoryview(buffer)[start : start + head.payload_bytes])
        fields = memoryview(buffer)[position : position + entry_codec._FIELDS.size]
        if len(payload) < head.payload_bytes or crc32c(payload, crc32c(fields)) == head.entry_crc:
            return decode_entry(buffer, position, place=place)
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
            bytes(memoryview(buffer)[position:start]),
        )

    patch.function(decode_entry, trusting)


@mutant("directories-unsynced", "B9", "directories are not synced after their files are made and renamed")
def _(patch: Patch) -> None:
    patch.attribute(SimulatedDisk, "sync_dir", lambda disk, path: None)


@mutant("new-segment-unnamed", "B9", "the directory of a new segment is not synced")
def _(patch: Patch) -> None:
    sync_dir = SimulatedDisk.sync_dir

    def careless(disk: SimulatedDisk, path: str) -> None:
        if path.count("/") != 1:
            sync_dir(disk, path)

    patch.attribute(SimulatedDisk, "sync_dir", careless)


@mutant(
    "loss-ignored", "B13", "a replica that may have forgotten what it promised goes on as a voter", FaultKind.BIT_ROT
)
def _(patch: Patch) -> None:
    def shrug(recovery: _Recovery, state: LogState, why: str) -> None:
        recovery._notes.append(f"replica {state.replica} goes on though {why}")

    patch.attribute(_Recovery, "_mark_lost", shrug)


@mutant("wiped-comes-back", "B13", "a node with an emptied disk gets its old replicas back as voters", FaultKind.WIPE)
def _(patch: Patch) -> None:
    def unchanged(membership: Membership, node: NodeId) -> None:
        del membership, node

    patch.attribute(Membership, "replace_replicas_of", unchanged)


@mutant("snapshot-unsynced", "B14", "a snapshot is switched to before it is synced", FaultKind.WIPE)
def _(patch: Patch) -> None:
    finish, sync, sync_dir = snapshots.SnapshotReceiver._finish, SimulatedFile.sync, SimulatedDisk.sync_dir
    switched_off: list[bool] = []

    def careless(receiver: snapshots.SnapshotReceiver) -> None:
        switched_off.append(True)
        try:
            finish(receiver)
        finally:
            switched_off.clear()

    def maybe_sync(file: SimulatedFile) -> None:
        if not switched_off:
            sync(file)

    def maybe_sync_dir(disk: SimulatedDisk, path: str) -> None:
        if not switched_off:
            sync_dir(disk, path)

    patch.attribute(snapshots.SnapshotReceiver, "_finish", careless)
    patch.attribute(SimulatedFile, "sync", maybe_sync)
    patch.attribute(SimulatedDisk, "sync_dir", maybe_sync_dir)


@mutant(
    "snapshot-pieces-mixed",
    "B14",
    "chunks of two attempts to send a snapshot are put together",
    test="tests/unit/node/test_snapshots.py",
)
def _(patch: Patch) -> None:
    patch.attribute(snapshots.SnapshotReceiver, "matches", lambda receiver, chunk: True)


@mutant(
    "install-keeps-old-log",
    "B14",
    "after a restart the log that a snapshot replaced is there again",
    test="tests/unit/storage/test_recovery.py tests/unit/storage/test_node_store.py",
)
def _(patch: Patch) -> None:
    patch.attribute(_Recovery, "_replay_install", lambda recovery, frame: None)


@mutant("checkpoint-of-undecided", "B14", "a checkpoint holds what the leader foresees and not what is committed")
def _(patch: Patch) -> None:
    make = Replica.make_checkpoint

    def eager(replica: Replica, now_ms: int) -> object:
        machine = replica.machine
        if replica.ahead is None:
            return make(replica, now_ms)
        foreseen = replica.ahead.clone()
        replica.machine = foreseen
        try:
            header, slices = make(replica, now_ms)
        finally:
            replica.machine = machine
        return header, slices

    patch.attribute(Replica, "make_checkpoint", eager)


@mutant(
    "unlinked-before-recorded",
    "B29",
    "segments are unlinked before the record that no longer names them",
    FaultKind.CRASH_AT_WRITE,
)
def _(patch: Patch) -> None:
    unlink, run = FlushJob._unlink, FlushJob.run

    def early(job: FlushJob) -> None:
        if job.dropped:
            unlink(job)
        run(job)

    patch.attribute(FlushJob, "run", early)


@mutant("segments-never-dropped", "B30", "segments below the log start stay for ever")
def _(patch: Patch) -> None:
    patch.attribute(NodeStore, "has_droppable", lambda store, replica: False)


@mutant("full-disk-ends-node", "B31", "a node whose disk is full ends", FaultKind.FULL_DISK)
def _(patch: Patch) -> None:
    def give_up(engine: Engine, job: CommitJob, error: LogBrokerError) -> None:
        del job
        engine._stop(error)

    patch.attribute(Engine, "commit_failed", give_up)
    patch.attribute(Engine, "background_failed", give_up)


@mutant("refused-write-reported", "B31", "a write that found no room is reported as durable", FaultKind.FULL_DISK)
def _(patch: Patch) -> None:
    finish = NodeStore.finish_commit

    def careless(store: NodeStore, job: CommitJob) -> set[ReplicaId]:
        finish(store, job)
        return set()

    patch.attribute(NodeStore, "finish_commit", careless)


@mutant(
    "ballast-kept",
    "B31",
    "the ballast is not given back when the disk is full",
    test="tests/unit/node/test_engine.py tests/faults/test_store_room.py",
)
def _(patch: Patch) -> None:
    patch.attribute(Ballast, "release", lambda ballast, level: None)


@mutant(
    "record-before-pieces",
    "B6",
    "the flush record is durable before the pieces that it names are written",
    FaultKind.CRASH_AT_WRITE,
)
def _(patch: Patch) -> None:
    run = FlushJob.run

    def early(job: FlushJob) -> None:
        write_record(job.disk, job.record, job.salt_crc)
        run(job)

    patch.attribute(FlushJob, "run", early)


@mutant("commit-index-from-log", "B20", "after a restart everything in the log counts as committed")
def _(patch: Patch) -> None:
    start = Replica._start_state

    def all_committed(replica: Replica, stored: StoredReplica) -> HardState:
        state = start(replica, stored)
        return type(state)(state.term, state.vote, replica.log.last_index())

    patch.attribute(Replica, "_start_state", all_committed)


@mutant("torn-tail-is-damage", "B5", "recovery takes what stands behind the last commit for damage")
def _(patch: Patch) -> None:
    scan = WalScanner.scan

    def strict(scanner: WalScanner) -> WalScan:
        found = scan(scanner)
        last = scanner._newest_whole()
        if last is not None:
            at = WalPosition(last.position.use, align_up(last.end.offset))
            behind = scanner._data_of(at.use)[at.offset : at.offset + 64]
            if any(behind):
                found.lost.append(LostStretch(at, WalPosition(at.use, at.offset + 1)))
        return found

    patch.attribute(WalScanner, "scan", strict)


@mutant(
    "lost-piece-unnoticed",
    "B8 B7",
    "a flushed piece that is not where it was written is never asked of a peer",
    FaultKind.MISDIRECTED,
)
def _(patch: Patch) -> None:
    patch.attribute(PartitionLog, "note_damage", lambda log, index: None)


@mutant(
    "full-ring-never-carried",
    "B31 B30",
    "a full ring waits for a flush though nothing but the entries that have to be carried could be written",
    test="tests/unit/storage/test_node_store.py",
)
def _(patch: Patch) -> None:
    patch.attribute(NodeStore, "plan_carrying", lambda store, room=None: None)
