"""Opening a data directory: make a new one, or find out what an old one durably holds.

Order: identity, votes (mended), flush record, segments cut to the record, the WAL from W on, and then one commit that
writes again what was not known durable. Before that commit is synced nothing may be sent. Damage is never cut: known
loss is quarantined by index and term, unknown loss makes a replica `lost`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, final

import msgspec

from logbroker.entry import Entry, EntryKind
from logbroker.errors import ConfigurationError, CorruptBatchError, DiskFullError, StorageError, invariant
from logbroker.ids import GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.raft.messages import ConfState
from logbroker.storage.ballast import Ballast, Room
from logbroker.storage.checkpoints import checkpoint_indexes, load_checkpoints
from logbroker.storage.commit import reserve_room
from logbroker.storage.disk import Disk, MissingFileError
from logbroker.storage.flush import IndexRebuild, rebuild_rows, remove_tree
from logbroker.storage.flush_record import COPIES, FlushRecord, ReplicaRow, read_record, write_record
from logbroker.storage.identity import (
    TOKEN_BYTES,
    NodeIdentity,
    read_identity,
    sync_identity,
    write_identity,
)
from logbroker.storage.lives import GROUPS_DIRECTORY, decode_create, decode_install, replica_directory
from logbroker.storage.node_store import NodeStore, StoredReplica, StoreOptions
from logbroker.storage.partition_log import LogState, PartitionLog
from logbroker.storage.segment import SEGMENT_SUFFIX, SegmentRow, segment_path
from logbroker.storage.votes import VoteStore
from logbroker.storage.wal import FREE, WAL_DIRECTORY, Wal, file_path, first_state, make_ring_file
from logbroker.storage.wal_format import FrameKind, WalFrame, WalPosition, entry_frame, life_frame
from logbroker.storage.wal_scan import ScannedFrame, WalScan, WalScanner

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.storage.index import OffsetIndex

QUARANTINE_DIRECTORY = "quarantine"
_KEPT_AT_ROOT = frozenset({QUARANTINE_DIRECTORY, "lock"})
INDEX_NAME = "index.lmdb"


def open_store(
    disk: Disk,
    options: StoreOptions,
    *,
    node: NodeId,
    open_index: Callable[[], OffsetIndex],
    random_bytes: Callable[[int], bytes],
) -> NodeStore:
    """Open, or make, the data directory of `node`; blocking.

    `open_index` is called once the directory is known to be this node's. Reads `store.notes` for what was found wrong.

    Raises:
        ConfigurationError: the directory belongs to another node, or its format is newer.
        StorageError: the disk fails.
    """
    identity = read_identity(disk)
    notes: list[str] = []
    if identity is None:
        notes = _set_aside(disk)
        identity = _make_directory(
            disk, options, NodeIdentity(node, random_bytes(TOKEN_BYTES), random_bytes(TOKEN_BYTES))
        )
    if identity.node != node:
        raise ConfigurationError(
            f"the data directory belongs to node {identity.node}, this is node {node}",
            hint="give this node a data directory of its own",
        )
    sync_identity(disk)
    if _has_forgotten_all(disk, identity):
        notes = _set_aside(disk)
        identity = _make_directory(
            disk, options, NodeIdentity(node, random_bytes(TOKEN_BYTES), random_bytes(TOKEN_BYTES))
        )
    return _Recovery(disk, options, identity, open_index(), notes).run()


def _has_forgotten_all(disk: Disk, identity: NodeIdentity) -> bool:
    """Neither flush record nor votes: nothing tells which replicas lived here, and their ids must not live again."""
    if read_record(disk, identity.salt_crc) is not None:
        return False
    votes = VoteStore.open(disk, identity.salt)
    replicas = votes.replicas()
    votes.close()
    return not replicas


def _set_aside(disk: Disk) -> list[str]:
    """Move whatever lies in a directory that cannot be trusted out of the way; nothing is deleted."""
    names = [name for name in disk.list("") if name not in _KEPT_AT_ROOT]
    if not names:
        return []
    disk.mkdir(QUARANTINE_DIRECTORY)
    place = f"{QUARANTINE_DIRECTORY}/{len(disk.list(QUARANTINE_DIRECTORY)) + 1}"
    disk.mkdir(place)
    disk.sync_dir(QUARANTINE_DIRECTORY)
    for name in names:
        disk.rename(name, f"{place}/{name}")
    disk.sync_dir(place)
    disk.sync_dir("")
    return [f"the node's own files are not readable: what was here lies in {place}, this is a new incarnation"]


def _make_directory(disk: Disk, options: StoreOptions, identity: NodeIdentity) -> NodeIdentity:
    """Everything a node needs, and its identity last: a crash before that begins again from nothing."""
    for directory in (WAL_DIRECTORY, GROUPS_DIRECTORY):
        disk.mkdir(directory)
    for number in range(1, options.wal.initial_files + 1):
        make_ring_file(disk, number, options.wal.file_bytes)
    state = first_state(options.wal.initial_files)
    wal = Wal(disk, options.wal, state, identity.salt_crc)
    wal.commit(())
    wal.close()
    VoteStore.open(disk, identity.salt).close()
    write_record(disk, FlushRecord(1, state.position.use), identity.salt_crc)
    disk.sync_dir("")
    write_identity(disk, identity)
    return identity


@final
class _Recovery:
    def __init__(
        self, disk: Disk, options: StoreOptions, identity: NodeIdentity, index: OffsetIndex, notes: list[str]
    ) -> None:
        self._disk = disk
        self._options = options
        self._identity = identity
        self._index = index
        self._notes = notes
        self._states: dict[ReplicaId, LogState] = {}
        self._lost_for_good: set[ReplicaId] = set()
        self._deleted: set[ReplicaId] = set()
        self._born: dict[ReplicaId, WalPosition] = {}

    def run(self) -> NodeStore:
        votes = VoteStore.open(self._disk, self._identity.salt)
        record = read_record(self._disk, self._identity.salt_crc)
        if record is None:
            return self._without_record(votes)
        # The copy that was read may be in the page cache alone, and its predecessor needs WAL files that it lets go.
        self._with_room(functools.partial(write_record, self._disk, record, self._identity.salt_crc))
        for row in record.replicas:
            self._states[ReplicaId(row.replica)] = self._open_row(row)
        scan = WalScanner(self._disk, self._identity.salt_crc, WalPosition(record.wal_use, 0)).scan()
        for frame in scan.frames:
            self._replay(frame)
        self._note_losses(scan, votes)
        self._miss_directories()
        replicas = {replica: self._stored(state) for replica, state in self._states.items()}
        self._mend_votes(votes, replicas)
        record = self._record_losses(record)
        wal = self._go_on(scan)
        self._remove_unnamed()
        self._mend_index(replicas)
        self._reserve(replicas)
        return self._store(votes, wal, replicas, record)

    def _without_record(self, votes: VoteStore) -> NodeStore:
        """Both copies of the flush record are gone: every replica of the node is lost, and says so for good."""
        self._notes.append(f"neither copy of the flush record ({', '.join(COPIES)}) is readable")
        directories = _directories_by_replica(self._disk)
        for replica in votes.replicas():
            group, directory = directories.get(replica, (GroupId(0), ""))
            self._states[replica] = LogState(group, replica, directory)
            self._lose(replica, "the flush record is lost")
        scan = WalScanner(self._disk, self._identity.salt_crc, WalPosition(1, 0)).scan()
        scan.unsynced.clear()
        wal = self._go_on(scan)
        record = FlushRecord(1, wal.position.use, tuple(state.row() for state in self._states.values()))
        self._with_room(lambda: write_record(self._disk, record, self._identity.salt_crc))
        replicas = {
            replica: StoredReplica(self._log(state), lost=state.lost) for replica, state in self._states.items()
        }
        return self._store(votes, wal, replicas, record)

    def _store(
        self, votes: VoteStore, wal: Wal, replicas: dict[ReplicaId, StoredReplica], record: FlushRecord
    ) -> NodeStore:
        return NodeStore(
            self._disk,
            self._identity,
            self._options,
            wal=wal,
            votes=votes,
            index=self._index,
            replicas=replicas,
            record_sequence=record.sequence,
            wal_start=record.wal_use,
            notes=self._notes,
        )

    def _record_losses(self, record: FlushRecord) -> FlushRecord:
        """Make it durable that replicas are lost, before the log goes on: a later start would find nothing wrong."""
        lost = {replica: state for replica, state in self._states.items() if state.lost}
        if not lost.keys() - self._lost_for_good:
            return record
        rows = [
            msgspec.structs.replace(row, lost=lost[ReplicaId(row.replica)].lost) if row.replica in lost else row
            for row in record.replicas
        ]
        known = {row.replica for row in record.replicas}
        for replica, state in lost.items():
            if replica not in known:
                unborn = LogState(state.group, replica, state.directory, state.initial_conf, lost=state.lost)
                rows.append(unborn.row())
        after = FlushRecord(record.sequence + 1, record.wal_use, tuple(rows))
        self._with_room(lambda: write_record(self._disk, after, self._identity.salt_crc))
        return after

    # Segments.

    def _open_row(self, row: ReplicaRow) -> LogState:
        state = LogState.of_row(row)
        if state.lost:
            self._lost_for_good.add(state.replica)
            self._notes.append(f"replica {state.replica} is lost as a voter: {state.lost}")
        for segment in state.segments:
            self._cut(state, segment)
        return state

    def _cut(self, state: LogState, segment: SegmentRow) -> None:
        """Cut a segment to what the record names: bytes behind it were never believed."""
        path = segment_path(state.directory, segment.base_index)
        try:
            with self._disk.open(path) as file:
                size = file.size()
                if size > segment.length_bytes:
                    file.truncate(segment.length_bytes)
                    file.sync()
        except MissingFileError:
            size = 0
        if size < segment.length_bytes:
            self._mark_lost(state, f"{path} has {size} bytes of the {segment.length_bytes} recorded")

    # The WAL.

    def _replay(self, frame: ScannedFrame) -> None:
        item = frame.item
        replica = item.replica
        if replica in self._deleted:
            return
        match item.kind:
            case FrameKind.ENTRY:
                self._replay_entry(frame)
            case FrameKind.CREATE if replica not in self._states:
                self._replay_create(frame)
            case FrameKind.INSTALL if replica in self._states:
                self._replay_install(frame)
            case FrameKind.DELETE:
                self._states.pop(replica, None)
                self._deleted.add(replica)
            case _:
                pass

    def _replay_entry(self, frame: ScannedFrame) -> None:
        item = frame.item
        state = self._states.get(item.replica)
        if state is None:
            return
        if item.index <= state.flushed_index:
            same = item.index < state.flushed_index or item.term == state.flushed_term
            invariant(
                same, f"entry {item.index} of replica {item.replica} was flushed with another term than {item.term}"
            )
            return
        if item.index > state.last_index + 1:
            self._lose(item.replica, f"entries {state.last_index + 1}..{item.index - 1} are missing from the log")
            return
        at = item.index - state.flushed_index - 1
        if at < len(state.tail) and state.tail[at].term == item.term:
            if frame.entry is not None and state.damaged.pop(item.index, None) is not None:
                state.tail[at] = frame.entry
            return
        for dropped in state.tail[at:]:
            state.damaged.pop(dropped.index, None)
        del state.tail[at:]
        state.tail.append(frame.entry or self._stand_in(state, frame))

    def _stand_in(self, state: LogState, frame: ScannedFrame) -> Entry:
        """Known loss: index and term are kept, and the replica acknowledges nothing beyond until it is fetched."""
        item = frame.item
        state.damaged[item.index] = item.term
        self._notes.append(f"entry {item.index} of replica {item.replica} is damaged in the write-ahead log")
        before = state.tail[-1] if state.tail else None
        offset = before.next_offset if before is not None else Offset(0)
        append_ms = before.append_ms if before is not None else 0
        return Entry(EntryKind.NOOP, state.group, item.index, item.term, offset, offset, append_ms, b"")

    def _replay_create(self, frame: ScannedFrame) -> None:
        replica = frame.item.replica
        self._born[replica] = frame.position
        if frame.body is None:
            self._states[replica] = LogState(GroupId(0), replica, "")
            self._lose(replica, "its CREATE frame is damaged")
            return
        body = decode_create(frame.body)
        group = GroupId(body.group)
        self._states[replica] = LogState(group, replica, replica_directory(group, replica), body.initial_conf)

    def _replay_install(self, frame: ScannedFrame) -> None:
        replica = frame.item.replica
        if frame.body is None:
            self._lose(replica, "its INSTALL frame is damaged")
            return
        body = decode_install(frame.body)
        segments = [
            SegmentRow(Index(s.base_index), Index(s.last_index), Term(s.last_term), s.length_bytes)
            for s in body.segments
        ]
        state = LogState(
            GroupId(body.group),
            replica,
            body.directory,
            self._states[replica].initial_conf,
            Index(body.previous_index),
            Term(body.previous_term),
            segments,
        )
        # What was wrong with the log that the snapshot replaced does not matter any more, unless it was found by an
        # earlier start: then the snapshot was installed before.
        if replica in self._lost_for_good:
            state.lost = self._states[replica].lost
        self._states[replica] = state
        for segment in segments:
            self._cut(state, segment)

    def _note_losses(self, scan: WalScan, votes: VoteStore) -> None:
        for stretch in scan.lost:
            self._notes.append(
                f"the write-ahead log is unreadable from {stretch.start.use}:{stretch.start.offset} "
                f"to {stretch.end.use}:{stretch.end.offset}, though it was durable"
            )
        if scan.is_headless:
            self._notes.append("the write-ahead log holds no readable commit")
        if not scan.lost and not scan.is_headless:
            return
        last_loss = max((stretch.end for stretch in scan.lost), default=WalPosition(0, 0))
        for replica in votes.replicas():
            # A slot without a log: the replica's CREATE may have stood there, and its id must not be used again.
            if replica not in self._states and replica not in self._deleted:
                self._states[replica] = LogState(GroupId(0), replica, "")
        for replica in self._states:
            # Who was born after the unreadable stretch had nothing in it.
            if replica not in self._born or self._born[replica] < last_loss:
                self._lose(replica, "a part of the write-ahead log is unreadable")

    def _go_on(self, scan: WalScan) -> Wal:
        """Write what was not known durable again, in a new file, so that page-cache bytes are never believed."""
        state = scan.state
        if state is None:
            raise CorruptBatchError("the write-ahead log was not scanned")
        for number in [number for number, use in state.uses.items() if use == FREE]:
            # A file whose making was cut short by a crash or a full disk is no place for a commit.
            if self._disk.size(file_path(number)) < self._options.wal.file_bytes:
                del state.uses[number]
        for number in range(1, self._options.wal.initial_files + 1):
            if number not in state.uses:
                # If the log ran on in it, nothing else may tell: the operator should know.
                self._notes.append(f"{file_path(number)} was missing or too short, and is made anew")
                make_ring_file(self._disk, number, self._options.wal.file_bytes)
                state.uses[number] = 0
        # A file that a process made just before it was killed has its name in memory alone: what is written into it,
        # however well it is synced, would go with the name when the power does.
        self._disk.sync_dir(WAL_DIRECTORY)
        wal = Wal(self._disk, self._options.wal, state, self._identity.salt_crc)
        self._with_room(lambda: wal.make_room(beyond_max=True))
        wal.roll()
        wal.commit([_written_again(frame) for frame in scan.unsynced if frame.is_known_loss or not frame.is_damaged])
        wal.seal()
        return wal

    # The rest.

    def _mend_votes(self, votes: VoteStore, replicas: dict[ReplicaId, StoredReplica]) -> None:
        """A replica without a readable vote is lost, but for a sole voter: nobody else could have had its vote."""
        known = set(votes.replicas())
        for replica, stored in replicas.items():
            if replica in known:
                continue
            if not stored.lost and _is_sole_voter(stored):
                term = Term(stored.log.term(stored.log.last_index()) + 1)
                self._with_room(functools.partial(votes.add, replica, term=term))
                self._notes.append(f"replica {replica} lost its vote; as the sole voter it goes on with term {term}")
            else:
                self._lose(replica, "both copies of its vote are unreadable")
                stored.lost = self._states[replica].lost
        for replica in known - set(self._states):
            votes.remove(replica)

    def _miss_directories(self) -> None:
        for state in self._states.values():
            if state.directory and not self._disk.is_directory(state.directory):
                self._mark_lost(state, f"its directory {state.directory} is missing")

    def _remove_unnamed(self) -> None:
        """Remove what neither the record nor the WAL names: spares, half-received snapshots, deleted replicas."""
        named = {state.directory for state in self._states.values()}
        for name in self._disk.list(GROUPS_DIRECTORY):
            directory = f"{GROUPS_DIRECTORY}/{name}"
            if directory not in named:
                remove_tree(self._disk, directory)
        for state in self._states.values():
            if not state.lost:
                self._remove_unnamed_files(state)

    def _remove_unnamed_files(self, state: LogState) -> None:
        kept = {segment_path(state.directory, segment.base_index) for segment in state.segments}
        for name in self._disk.list(state.directory):
            path = f"{state.directory}/{name}"
            if path not in kept and (name.endswith(SEGMENT_SUFFIX) or name.endswith(".spare") or name.endswith(".tmp")):
                self._disk.unlink(path)

    def _log(self, state: LogState) -> PartitionLog:
        return PartitionLog(self._disk, self._index, state, self._options.log)

    def _stored(self, state: LogState) -> StoredReplica:
        stored = StoredReplica(self._log(state))
        if not state.lost:
            self._load_checkpoints(stored, state)
        stored.lost = state.lost
        return stored

    def _load_checkpoints(self, stored: StoredReplica, state: LogState) -> None:
        loaded = load_checkpoints(self._disk, state.directory, group=state.group)
        stored.newest_checkpoint = max(checkpoint_indexes(self._disk, state.directory), default=Index(0))
        self._notes.extend(loaded.damaged)
        usable = [found for found in loaded.checkpoints if found[0].index <= state.last_index]
        if len(usable) < len(loaded.checkpoints):
            self._mark_lost(state, f"a checkpoint lies ahead of the log's last index {state.last_index}")
        if usable:
            stored.checkpoint = usable[0]
            stored.keep_log_starts([Index(header.log_start_index) for header, _ in reversed(usable[:2])])
        elif state.previous_index:
            self._mark_lost(state, f"no readable checkpoint, and the log begins at index {state.previous_index + 1}")

    def _mend_index(self, replicas: dict[ReplicaId, StoredReplica]) -> None:
        """Let the index follow the log: it may be ahead of the record or behind it after a crash, or gone."""
        for replica, stored in replicas.items():
            state = stored.log.state
            if not state.segments or stored.lost:
                continue
            self._index.truncate_after(state.group, replica, state.flushed_index)
            row = self._index.floor_by_index(state.group, replica, state.flushed_index)
            if row is None or row.segment_base != state.segments[-1].base_index:
                rebuild = IndexRebuild(state.group, replica, state.directory, tuple(state.segments))
                notes = rebuild_rows(self._disk, self._index, rebuild)
                stored.log.lacks_rows = bool(notes)
                self._notes.extend(notes)

    def _reserve(self, replicas: dict[ReplicaId, StoredReplica]) -> None:
        """Room for what the WAL holds and no segment does yet; on a full disk the ballast is there for that."""
        for stored in replicas.values():
            request = stored.log.plan_room(0)
            if request is None or stored.lost:
                continue
            self._with_room(functools.partial(reserve_room, self._disk, request))
            stored.log.take_room(request)

    def _with_room(self, write: Callable[[], None]) -> None:
        """A node whose disk is full must be able to start: the ballast is there for that."""
        try:
            write()
        except DiskFullError:
            Ballast(self._disk, self._options.ballast_bytes).release(Room.LAST)
            write()

    def _lose(self, replica: ReplicaId, why: str) -> None:
        self._mark_lost(self._states[replica], why)

    def _mark_lost(self, state: LogState, why: str) -> None:
        if not state.lost:
            state.lost = why
            self._notes.append(f"replica {state.replica} is lost as a voter: {why}")


def _is_sole_voter(stored: StoredReplica) -> bool:
    """By the newest checkpoint, or the first configuration, and no later entry that could have changed it."""
    log = stored.log
    encoded, following = log.state.initial_conf, log.first_index()
    if stored.checkpoint is not None:
        encoded, following = stored.checkpoint[0].conf, Index(stored.checkpoint[0].index + 1)
    try:
        conf = ConfState.decode(encoded)
        if conf.is_joint or conf.voters != (log.replica,):
            return False
        while following <= log.last_index():
            for entry in log.entries(following, Index(log.last_index() + 1), max_bytes=1 << 20):
                if entry.kind is EntryKind.CONFIG:
                    return False
                following = Index(entry.index + 1)
    except StorageError:
        return False
    return True


def _directories_by_replica(disk: Disk) -> dict[ReplicaId, tuple[GroupId, str]]:
    """Group and directory of each replica, read from the names alone; the newest where a snapshot was installed."""
    found: dict[ReplicaId, tuple[GroupId, str]] = {}
    for name in disk.list(GROUPS_DIRECTORY):
        group, _, rest = name.partition("-")
        replica = rest.partition(".")[0]
        if group.isdecimal() and replica.isdecimal():
            found[ReplicaId(int(replica))] = (GroupId(int(group)), f"{GROUPS_DIRECTORY}/{name}")
    return found


def _written_again(frame: ScannedFrame) -> WalFrame:
    item = frame.item
    if frame.entry is not None:
        return entry_frame(item.replica, frame.entry)
    if frame.is_known_loss:
        return WalFrame(item.kind, item.replica, item.index, item.term, item.crc, ())
    return life_frame(item.kind, item.replica, frame.body or b"", index=item.index, term=item.term)
