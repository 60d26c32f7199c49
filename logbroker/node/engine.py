"""All groups of one node, driven from outside: the trio shell in production, the simulator's event loop in tests.

Synchronous. Inputs are ticks, peer messages, requests and finished jobs; outputs are peer messages and jobs to run.
After
inputs the driver calls `pump`, then takes messages and jobs. Work on the disk happens in jobs alone, at most one commit
and one background job at a time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import (
    CorruptBatchError,
    DiskFullError,
    LogBrokerError,
    NotFoundError,
    NotLeaderError,
    OverloadedError,
    ShuttingDownError,
    StorageError,
    UnavailableError,
)
from logbroker.ids import NO_REPLICA, GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.heartbeats import HeartbeatPacks
from logbroker.node.moving import verdict_of
from logbroker.node.partition_service import PartitionService
from logbroker.node.peer_messages import (
    Beat,
    EntryCopy,
    EntryFetch,
    EntryGone,
    HeartbeatAnswers,
    Heartbeats,
    PeerMessage,
    RaftMessage,
    SnapshotAck,
    SnapshotChunk,
    Transfer,
    TransferAnswer,
)
from logbroker.node.replica import MachineKind, ReceivedSnapshot, Replica, ReplicaOptions, Service
from logbroker.node.requests import TransferRequest
from logbroker.node.rest import Rest
from logbroker.node.snapshots import (
    DiscardJob,
    SnapshotReceiver,
    SnapshotSender,
    SnapshotWriteJob,
    read_checkpoint_file,
)
from logbroker.raft.messages import ConfState, Message, MessageKind, SnapshotMeta
from logbroker.raft.state import Ticks
from logbroker.storage.ballast import Room
from logbroker.storage.checkpoints import checkpoint_path, read_checkpoint_header
from logbroker.storage.commit import Birth, CommitJob
from logbroker.storage.disk import MissingFileError
from logbroker.storage.flush import CheckpointJob, FlushJob
from logbroker.storage.partition_log import UNKNOWN_TERM, PartitionLog, RepairJob
from logbroker.storage.scrub import NO_SCRUB, Scrubber, ScrubOptions, ScrubSlice, ScrubStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from logbroker.node.requests import Answer, Reply, Request
    from logbroker.storage.node_store import NodeStore, StoredReplica

ROOM_RETRY_TICKS = 10
STUCK_TICKS = 10
"""A commit that has not returned for longer than this counts as a sync that never will: leaders hand over."""
FETCH_TICKS = 5
MAX_TERM_STEP = 1 << 32
"""A term further ahead is nobody's: at an election a second it takes a century. Once believed it is there for ever."""
LEADER_KINDS = frozenset((MessageKind.APPEND, MessageKind.HEARTBEAT))
MAX_ROUTES = 1 << 17
"""Replicas of which it is known where they live."""
CHECKPOINT_TICKS = 10
MIN_FREE_BYTES = 64 << 20

BackgroundJob = FlushJob | CheckpointJob | SnapshotWriteJob | DiscardJob | RepairJob | ScrubSlice


class NodeClock(Protocol):
    """Log time of this node; see design of log time in `partition.log_time`."""

    def tick(self) -> None: ...
    def peer_says(self, node: NodeId, wall_ms: int) -> None: ...
    def start_clock(self, last_append_ms: int) -> Callable[[int], int]: ...
    def may_lead(self) -> bool: ...
    def may_stamp(self) -> bool: ...
    def may_floor(self) -> bool: ...
    def monotonic_ms(self) -> int: ...
    def wall_ms(self) -> int: ...


class RequestService(Service, Protocol):
    """A service that takes requests from outside."""

    def submit(self, request: Request, answer: Answer) -> None: ...


@final
@dataclass(frozen=True, slots=True)
class EngineOptions:
    replica: ReplicaOptions = ReplicaOptions()
    max_uncommitted_bytes: int = 128 << 20
    """Messages proposed and not committed, over all groups that this node leads."""
    beat_stale_ticks: int = 20
    """A peer not heard of for this many ticks does not count as having room."""
    scrub: ScrubOptions = NO_SCRUB


@final
@dataclass(slots=True)
class _Peer:
    has_room: bool = True
    heard_ticks: int = 1 << 30


@final
@dataclass
class _NewReplica:
    birth: Birth
    on_created: Callable[[Replica], None]


@final
@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counted since the engine was made."""

    commits: int
    committed_bytes: int
    flushes: int
    checkpoints: int
    refused_writes: int
    failed_groups: int
    scrub: ScrubStatistics


@final
class Engine:
    """`kinds` and `services` say what runs in a group: the catalogue in the meta group, a partition in any other."""

    def __init__(
        self,
        store: NodeStore,
        options: EngineOptions,
        *,
        node: NodeId,
        clock: NodeClock,
        random_ticks: Callable[[int], int],
        kinds: Callable[[GroupId], MachineKind],
        services: Callable[[Replica, Engine], RequestService],
        on_conf: Callable[[GroupId, ConfState], None] | None = None,
    ) -> None:
        self.node = node
        self.store = store
        self.failed: LogBrokerError | None = None
        self.replicas: dict[GroupId, Replica] = {}
        self.services: dict[GroupId, RequestService] = {}
        self.lost: dict[ReplicaId, str] = {}
        self.failed_groups: dict[GroupId, LogBrokerError] = {}
        self.is_deleted: Callable[[GroupId], bool] = lambda _: False
        """Whether the catalogue has deleted a group; whoever follows the catalogue says so."""
        self.homes: Callable[[GroupId], Sequence[NodeId]] = lambda _: ()
        """On which nodes a group is, in the same way."""
        self.misrouted = 0
        """Messages of nodes that spoke for a replica of another, and were not listened to."""
        self.changes = 0
        """Counts what may have made a replica, a route or what is stored another one, ticks and heartbeats aside: while
        it stands still, so does everything that follows from them."""
        self.ticks = Ticks()
        """How many ticks this node has lived through; the timers of all its replicas count by it."""
        self._options = options
        self._clock = clock
        self._random_ticks = random_ticks
        self._kinds = kinds
        self._make_service = services
        self._on_conf = on_conf
        self._nodes: dict[ReplicaId, NodeId] = {}
        self._peers: dict[NodeId, _Peer] = {}
        self._outbox: dict[NodeId, list[PeerMessage]] = {}
        self._heartbeats = HeartbeatPacks(
            self.replicas,
            self._nodes,
            changes=lambda: self.changes,
            is_home=self._is_home,
            send=self._send,
            deliver=self._deliver_raft,
        )
        self._rest = Rest(self.replicas)
        self._births: list[_NewReplica] = []
        self._deaths: list[ReplicaId] = []
        self._commit: CommitJob | None = None
        self._committing: list[Replica] = []
        self._creating: list[_NewReplica] = []
        self._background: deque[BackgroundJob] = deque()
        self._running: BackgroundJob | None = None
        self._transfers = 0
        # By source and target of which no leader is known: the number sent last, and how often one was not taken.
        self._guesses: dict[tuple[GroupId, GroupId], tuple[int, int]] = {}
        self._senders: dict[tuple[GroupId, ReplicaId], SnapshotSender] = {}
        self._receivers: dict[GroupId, SnapshotReceiver] = {}
        self._checkpoints: dict[ReplicaId, tuple[Index, Term, ConfState]] = {}
        self._mending: dict[ReplicaId, Replica] = {}
        self._repairing: set[tuple[ReplicaId, Index]] = set()
        # What may have something ready, and what has something to write: a turn looks at no other group.
        self._dirty: dict[GroupId, Replica] = {}
        self._writers: dict[GroupId, Replica] = {}
        # The ballast is made, or found to be there, with the first commit.
        self._room_wanted: Room | None = Room.AMPLE
        self._wants_seal = False
        self._without_room: set[ReplicaId] = set()
        self._commit_again_at_tick = self._births_at_tick = self._flush_again_at_tick = 0
        self._commit_ticks = 0
        self._uncommitted_bytes = 0
        self._has_counted = False
        self._counted_changes = -1
        self._is_draining = False
        # Its time comes with a tick, or when another job of the flusher is done: a turn need not read the clock for it.
        self._may_scrub = True
        self._commits = self._committed_bytes = self._flushes = self._written_checkpoints = self._refused = 0
        self._scrubber = Scrubber(
            store,
            options.scrub,
            now_ms=clock.monotonic_ms(),
            on_damage=self._on_rot,
            want_checkpoint=self._want_checkpoint,
        )
        for stored in list(store.replicas.values()):
            if stored.lost:
                self.lost[stored.log.replica] = stored.lost
            else:
                self._start(stored)

    # Inputs.

    def tick(self) -> None:
        """One tick of time, 100 ms by default."""
        if self.failed is not None:
            return
        self.ticks.count += 1
        self._clock.tick()
        self._without_room.clear()
        self._may_scrub = True
        self._commit_ticks = 0 if self._commit is None else self._commit_ticks + 1
        for peer in self._peers.values():
            peer.heard_ticks += 1
        self._tick_replicas()
        self._count_uncommitted()
        self._tick_snapshots()
        if self.ticks.count % FETCH_TICKS == 0:
            self._fetch_damaged()
        if self.ticks.count % ROOM_RETRY_TICKS == 0:
            self._seek_room()
        self._plan_checkpoints()
        beat = Beat(self._clock.wall_ms(), self.store.room is Room.AMPLE)
        for node in self._peers:
            self._send(node, beat)

    def deliver(self, sender: NodeId, message: PeerMessage) -> None:
        """A message from another node. What is for a replica that is not here is dropped."""
        match message:
            case RaftMessage(group, raft):
                self._deliver_raft(sender, group, raft)
            case Beat(wall_ms, has_room):
                peer = self._peers.setdefault(sender, _Peer())
                self._clock.peer_says(sender, wall_ms)
                peer.has_room, peer.heard_ticks = has_room, 0
            case SnapshotChunk():
                self._take_chunk(sender, message)
            case SnapshotAck():
                self._take_ack(sender, message)
            case EntryFetch():
                self._answer_fetch(sender, message)
            case EntryCopy():
                self._take_copy(message)
            case EntryGone():
                self._take_gone(sender, message)
            case Heartbeats(beats):
                self._heartbeats.take(sender, beats)
            case HeartbeatAnswers(answers):
                self._heartbeats.take_answers(sender, answers)
            case Transfer():
                self._take_transfer(sender, message)
            case TransferAnswer():
                self._take_transfer_answer(message)

    def peer_connected(self, node: NodeId) -> None:
        self._peers.setdefault(node, _Peer())

    def peer_disconnected(self, node: NodeId) -> None:
        """The link to a node closed. Call `peer_down` after a jitter of 10 to 50 ms if it is still closed."""
        for replica in self.replicas.values():
            for other in self._replicas_on(node, replica):
                replica.peer_lost(other)

    def peer_down(self, node: NodeId) -> None:
        """The link is still closed: groups that the node led ask for votes, unless somebody else leads already."""
        for replica in self.replicas.values():
            for other in self._replicas_on(node, replica):
                replica.campaign_against(other)

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        """Ask a partition; `answer` is called exactly once, now or later."""
        replica = self.replicas.get(group)
        if self._is_draining:
            answer(ShuttingDownError(f"node {self.node} is shutting down"))
        elif replica is None:
            # Not "not found": the replica may have moved since the client looked.
            answer(NotLeaderError(f"node {self.node} has no replica of group {group}"))
        elif not replica.is_serving:
            answer(NotLeaderError(f"node {self.node} does not lead group {group}", leader=self.leader_node(group)))
        else:
            # It may wait, and end by time.
            self._rest.rise(replica)
            self.services[group].submit(request, answer)

    def pump(self) -> None:
        """Take and carry out everything that is ready; call after any batch of inputs."""
        if self.failed is not None:
            return
        self._has_counted = False
        # What one group applies may touch another one.
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            self.changes += 1
            for replica in dirty.values():
                replica.pump()
                self._rest.rise(replica)
                if replica.has_writes:
                    self._writers[replica.group] = replica
        if self._receivers:
            self._drop_refused_snapshots()

    # Outputs.

    def take_peer_messages(self) -> dict[NodeId, list[PeerMessage]]:
        """Everything to send, by node, in order."""
        outbox, self._outbox = self._outbox, {}
        return outbox

    def next_commit(self) -> CommitJob | None:
        """The next group commit, if there is work and none is running.

        Run it, then call `commit_done` or `commit_failed`.
        """
        if self._commit is not None or self.failed is not None or self.ticks.count < self._commit_again_at_tick:
            return None
        if not self._has_commit_work():
            return None
        writes = []
        left = self._options.replica.max_commit_bytes
        # In the order in which they came to have something: who had no place comes first the next time.
        for replica in list(self._writers.values()):
            if left <= 0:
                break
            if not self._can_write(replica):
                continue
            write = replica.take_write(left)
            if write is not None:
                writes.append(write)
                del self._writers[replica.group]
                self._committing.append(replica)
                left -= sum(entry.size_bytes for entry in write.entries)
        mending = next(filter(self._can_mend, self._mending.values()), None)
        mends = [] if mending is None else [mending.mends(self._options.replica.max_commit_bytes)]
        births, self._births = (self._births, []) if self._may_give_birth() else ([], self._births)
        deaths, self._deaths = self._deaths, []
        job = self.store.plan_commit(
            writes,
            births=[new.birth for new in births],
            deaths=deaths,
            mends=mends,
            room=self._room_wanted,
            seals=self._wants_seal,
        )
        self._creating = births
        if job is None:
            self._put_back(deaths)
            # What is written here may be what others wait for, so that they take what has to be carried.
            left = self._options.replica.max_commit_bytes
            job = self.store.plan_carrying(room=self._room_wanted)
        if job is None:
            return None
        self._commit, self._room_wanted, self._wants_seal = job, None, False
        self._commits += 1
        self._committed_bytes += self._options.replica.max_commit_bytes - left
        return job

    @property
    def commit_count(self) -> int:
        """Commits begun so far; see `seal`."""
        return self._commits

    def seal(self, commit_count: int) -> bool:
        """Let the log itself say that its last commit is durable, if none began since `commit_count`.

        To be called 20 ms after a commit; False while that commit runs, then call again later.
        """
        if self._commit is not None and self._commits == commit_count:
            return False
        if self._commits == commit_count and self.failed is None:
            self._wants_seal = not self.store.is_sealed
        return True

    def commit_done(self, job: CommitJob) -> None:
        """The job's `run` returned."""
        self._commit, self._commit_ticks = None, 0
        refused = self.store.finish_commit(job)
        # Births and deaths are in the store from here on.
        self.changes += 1
        committing, self._committing = self._committing, []
        creating, self._creating = self._creating, []
        for new in creating:
            replica = self._start(self.store.replicas[new.birth.replica])
            new.on_created(replica)
        for write in job.mends:
            self._on_mended(write.replica)
        for replica in committing:
            if replica.id in refused:
                self._refused += 1
                replica.on_write_refused()
                self._writers[replica.group] = replica
            else:
                replica.on_written()
        # Tried again after the next tick, not at once: the disk does not empty itself that fast.
        self._without_room |= refused
        if refused and not committing:
            self._commit_again_at_tick = self.ticks.count + 1
        if refused and self.store.room is Room.AMPLE:
            self._room_wanted = Room.LOW
        elif any(replica.id in refused and replica.writes_housekeeping for replica in committing):
            self._room_wanted = Room.LAST

    def commit_failed(self, job: CommitJob, error: LogBrokerError) -> None:
        """The job's `run` raised. Want of room is waited for; anything else ends this node for good."""
        self._commit = None
        if job.has_begun or not isinstance(error, DiskFullError | OverloadedError):
            self._stop(error)
            return
        self.store.abandon_commit(job)
        if self._creating:
            # A new replica that finds no room must not hold up the groups that are there.
            self._births_at_tick = self.ticks.count + ROOM_RETRY_TICKS
        self._put_back(job.deaths)
        self._commit_again_at_tick = self.ticks.count + 1
        self._room_wanted = Room.LOW if self.store.room is Room.AMPLE else Room.LAST

    def next_background(self) -> BackgroundJob | None:
        """The next flush, checkpoint or snapshot write, if none is running."""
        if self._running is not None or self.failed is not None:
            return None
        if self.ticks.count >= self._flush_again_at_tick:
            self._running = self.store.take_flush()
        if self._running is None and self._background:
            self._running = self._background.popleft()
        if self._running is None and self._may_scrub and not self._is_draining:
            self._running = self._scrubber.next_slice(self._clock.monotonic_ms())
            self._may_scrub = self._running is not None
        return self._running

    def background_done(self, job: BackgroundJob) -> None:
        self._running, self._may_scrub = None, True
        match job:
            case FlushJob():
                self.store.finish_flush(job)
                self._flushes += 1
            case CheckpointJob():
                self.store.finish_checkpoint(job)
                self._written_checkpoints += 1
                self._on_checkpoint(job)
            case SnapshotWriteJob():
                self._on_snapshot_written(job)
            case RepairJob():
                job.log.on_repaired(job)
                self._on_repair_ended(job)
            case ScrubSlice():
                self._scrubber.on_done(job, self._clock.monotonic_ms())
            case DiscardJob():
                pass

    def background_failed(self, job: BackgroundJob, error: LogBrokerError) -> None:
        """A full disk is waited for; any other error ends this node for good."""
        self._running = None
        if isinstance(job, RepairJob):
            self._repairing.discard((job.log.replica, job.entry.index))
        if isinstance(error, MissingFileError) and isinstance(job, CheckpointJob | RepairJob):
            # A snapshot took the place of the log it belonged to, and the directory is gone.
            if isinstance(job, CheckpointJob):
                self.store.finish_checkpoint_failed()
            return
        if not isinstance(error, DiskFullError):
            self._stop(error)
            return
        self._room_wanted = Room.LAST
        match job:
            case FlushJob():
                # Nothing of a flush is believed before its record is written, so all of it may be done again.
                # After the next tick: the disk does not empty itself that fast, and each try writes and syncs it all.
                self.store.retry_flush(job)
                self._flush_again_at_tick = self.ticks.count + 1
            case CheckpointJob():
                self.store.finish_checkpoint_failed()
            case SnapshotWriteJob():
                self._give_up_snapshot(job.receiver, job.chunk)
            case DiscardJob() | RepairJob() | ScrubSlice():
                pass

    # Groups.

    def create_replica(
        self,
        group: GroupId,
        replica: ReplicaId,
        conf: ConfState,
        on_created: Callable[[Replica], None] = lambda _: None,
    ) -> None:
        """Create a replica with the next commit; it sends nothing before its CREATE frame is durable."""
        self._births.append(_NewReplica(Birth(group, replica, conf.encode()), on_created))

    def remove_replica(self, replica: ReplicaId) -> None:
        """Delete a replica with the next commit; it answers nothing from now on."""
        held = next((kept for kept in self.replicas.values() if kept.id == replica), None)
        if held is not None:
            self._forget(held, NotFoundError(f"replica {replica} of group {held.group} is removed from this node"))
        if replica in self.store.replicas:
            self._deaths.append(replica)
        self.lost.pop(replica, None)
        self.changes += 1

    def set_route(self, replica: ReplicaId, node: NodeId) -> None:
        """Say on which node a replica lives."""
        if self._nodes.get(replica) != node:
            self._nodes[replica] = node
            self.changes += 1
        if node != self.node:
            self._peers.setdefault(node, _Peer())

    def leader_node(self, group: GroupId) -> NodeId | None:
        """The node thought to lead a group, as far as this one knows."""
        replica = self.replicas.get(group)
        if replica is None or not replica.leader:
            return None
        return self.node if replica.leader == replica.id else self._nodes.get(replica.leader)

    def drain(self) -> bool:
        """Take no more requests and hand leaderships over; True when this node leads nothing that others could lead."""
        self._is_draining = True
        waiting = [
            replica for replica in self.replicas.values() if replica.core.is_leader and len(replica.conf.voters) > 1
        ]
        for replica in waiting:
            replica.hand_over()
        return not waiting

    def fill_percent(self, group: GroupId) -> int | None:
        """How much of a snapshot has been received, or None where none is."""
        receiver = self._receivers.get(group)
        return None if receiver is None else receiver.percent

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            self._commits,
            self._committed_bytes,
            self._flushes,
            self._written_checkpoints,
            self._refused,
            len(self.failed_groups),
            self._scrubber.statistics(),
        )

    # What replicas and services ask of the node.

    def send_raft(self, group: GroupId, messages: Sequence[Message]) -> None:
        for message in messages:
            node = self._nodes.get(message.to)
            if node is not None:
                self._send(node, RaftMessage(group, message))

    def send_snapshot(self, replica: Replica, message: Message) -> None:
        meta = message.snapshot
        node = self._nodes.get(message.to)
        if meta is None or node is None:
            return
        directory = replica.log.state.directory
        try:
            checkpoint = read_checkpoint_file(self.store.disk, directory, meta.index)
            header = read_checkpoint_header(self.store.disk, checkpoint_path(directory, meta.index))
            self._transfers += 1
            sender = SnapshotSender(
                replica.log,
                message,
                meta,
                checkpoint,
                log_start_index=header.log_start_index,
                transfer=self._transfers,
            )
        except StorageError:
            replica.report_snapshot(message.to, ok=False)
            return
        self._senders[replica.group, message.to] = sender
        replica.log.is_pinned = True
        self._send(node, sender.first())

    def start_clock(self, last_append_ms: int) -> Callable[[int], int]:
        return self._clock.start_clock(last_append_ms)

    def touch(self, replica: Replica) -> None:
        self._dirty[replica.group] = replica
        self._rest.rise(replica)
        self.changes += 1

    def rise(self, replica: Replica) -> None:
        self._rest.rise(replica)

    def may_floor(self) -> bool:
        return self._clock.may_floor()

    def admits(self, size_bytes: int) -> bool:
        """Whether so many bytes more may be proposed on this node; if so they count until they are committed.

        What is committed is found out once a tick, and where the bound seems to be met, at most once a turn.
        """
        if self._is_over(size_bytes) and not self._has_counted:
            self._count_uncommitted()
        if self._is_over(size_bytes):
            return False
        self._uncommitted_bytes += size_bytes
        self._counted_changes = -1
        return True

    def _is_over(self, size_bytes: int) -> bool:
        held = self._uncommitted_bytes
        return held > 0 and held + size_bytes > self._options.max_uncommitted_bytes

    def _count_uncommitted(self) -> None:
        self._has_counted = True
        if self._counted_changes == self.changes:
            return
        self._counted_changes = self.changes
        self._uncommitted_bytes = sum(replica.core.uncommitted_bytes for replica in self.replicas.values())

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()

    def chance(self) -> float:
        return self._random_ticks(1 << 30) / (1 << 30)

    @property
    def is_stuck(self) -> bool:
        """A sync does not return, or the WAL waits for a flush that is late: nothing here becomes durable."""
        return self.store.is_stalled or self._commit_ticks > STUCK_TICKS

    def on_conf(self, group: GroupId, conf: ConfState) -> None:
        if self._on_conf is not None:
            self._on_conf(group, conf)

    def on_group_failed(self, group: GroupId, error: LogBrokerError) -> None:
        self.failed_groups[group] = error
        self.changes += 1

    def has_room(self, replica: Replica) -> bool:
        """Whether a majority of the group's voters, this node included, have room for produce."""
        return self._has_own_room and (len(self.others_with_room(replica)) + 1) * 2 > len(replica.conf.voters)

    @property
    def _has_own_room(self) -> bool:
        return self.store.room is Room.AMPLE and self._room_wanted is None

    def others_with_room(self, replica: Replica) -> list[ReplicaId]:
        """The other voters of a group whose nodes can take messages, as far as this one knows."""
        voters = replica.conf.voters
        return [voter for voter in voters if voter != replica.id and self._node_has_room(self._nodes.get(voter))]

    # Inside.

    def _start(self, stored: StoredReplica) -> Replica:
        group = stored.log.group
        replica: Replica = Replica(
            self.store,
            stored,
            self,
            self._options.replica,
            kind=self._kinds(group),
            random_ticks=self._random_ticks,
        )
        self.replicas[group] = replica
        self._rest.rise(replica)
        self._nodes[replica.id] = self.node
        self.changes += 1
        service = self.services[group] = self._make_service(replica, self)
        replica.service = service
        self.on_conf(group, replica.conf)
        return replica

    def _send(self, node: NodeId, message: PeerMessage) -> None:
        if node != self.node:
            self._outbox.setdefault(node, []).append(message)

    def _deliver_raft(self, sender: NodeId, group: GroupId, message: Message) -> None:
        replica = self.replicas.get(group)
        if replica is None or replica.id != message.to:
            return
        if not self._is_home(message.sender, sender) or message.term > replica.core.term + MAX_TERM_STEP:
            return
        if message.kind in LEADER_KINDS and replica.core.is_leader and message.sender not in replica.conf.members():
            # Somebody who does not belong here would have this group believe that its term has two leaders.
            self.misrouted += 1
            return
        # The data of a snapshot comes in chunks; the message itself is stepped when they are all durable.
        if message.kind is not MessageKind.SNAPSHOT:
            replica.step(message)

    def _is_home(self, replica: ReplicaId, node: NodeId) -> bool:
        """Whether a replica lives on the node that speaks for it; nobody may speak for another's.

        What the catalogue has not said yet is learned from the first message.
        """
        home = self._nodes.get(replica)
        if home is None and len(self._nodes) < MAX_ROUTES:
            self._nodes[replica] = home = node
            self.changes += 1
        if home != node:
            self.misrouted += 1
        return home == node

    def _replicas_on(self, node: NodeId, replica: Replica) -> list[ReplicaId]:
        return [member for member in replica.conf.members() if self._nodes.get(member) == node]

    def _node_has_room(self, node: NodeId | None) -> bool:
        peer = self._peers.get(node) if node is not None else None
        return peer is not None and peer.has_room and peer.heard_ticks < self._options.beat_stale_ticks

    def _has_commit_work(self) -> bool:
        return bool(
            self._may_give_birth()
            or self._deaths
            or self._room_wanted is not None
            or self._wants_seal
            or self.store.wants_roll
            or self.store.wants_vote_scrub
            or self.store.wants_spare
            or any(map(self._can_mend, self._mending.values()))
            or any(map(self._can_write, self._writers.values()))
        )

    def _may_give_birth(self) -> bool:
        return bool(self._births) and self.ticks.count >= self._births_at_tick

    def _can_mend(self, replica: Replica) -> bool:
        return bool(replica.log.mended) and replica.id not in self._without_room

    def _on_mended(self, replica_id: ReplicaId) -> None:
        """Copies of damaged entries are durable, or found no room; what is left waits behind the next replica."""
        replica = self._mending.pop(replica_id, None)
        if replica is None:
            return
        replica.on_repaired()
        if replica.log.mended:
            self._mending[replica_id] = replica

    def _can_write(self, replica: Replica) -> bool:
        return replica.has_writes and replica.id not in self._without_room

    def _put_back(self, deaths: Iterable[ReplicaId]) -> None:
        """The planned commit cannot be made yet; everything in it waits for the next."""
        for replica in self._committing:
            replica.on_write_refused()
            self._writers[replica.group] = replica
        self._committing = []
        self._births = [*self._creating, *self._births]
        self._creating = []
        self._deaths = [*deaths, *self._deaths]

    def _stop(self, error: LogBrokerError) -> None:
        """The disk cannot be trusted: nothing is written or sent any more, and nobody is answered with a success."""
        self.failed = error
        self._outbox.clear()
        for replica in self.replicas.values():
            replica.abandon(error)

    # Time.

    def _tick_replicas(self) -> None:
        may_campaign = not self.is_stuck and self._clock.may_lead()
        may_stamp = not self.is_stuck and self._clock.may_stamp()
        is_full = self.store.room is not Room.AMPLE
        now_ms = self._clock.monotonic_ms()
        tick = self.ticks.count
        may_rest = may_campaign and may_stamp and not is_full
        for replica in self._rest.take_due(tick, now_ms) if may_rest else self._rest.take_all():
            replica.tick(now_ms, may_campaign=may_campaign, may_stamp=may_stamp)
            core = replica.core
            if is_full and core.is_leader:
                # A majority without this node can take messages: one of it leads on. If there is none, somebody must
                # lead acks and floors.
                others = self.others_with_room(replica)
                if 2 * len(others) > len(replica.conf.voters):
                    replica.hand_over(others)
            self._rest.lie_down(replica, tick, now_ms)
        self._heartbeats.send(self._rest.beating())

    # Checkpoints.

    def _plan_checkpoints(self) -> None:
        now_ms = self._clock.monotonic_ms()
        turn = self.ticks.count % CHECKPOINT_TICKS
        for group, replica in self.replicas.items():
            # Each group has its turn once a second, so that a tick costs little however many there are.
            if group % CHECKPOINT_TICKS != turn:
                continue
            # Whatever touched it said so; this is for a path that forgot to.
            if replica.core.has_ready():
                self.touch(replica)
            if replica.log.has_unneeded and self.store.has_droppable(replica.id):
                self.store.request_roll()
            if replica.checkpoint_due(now_ms):
                self._plan_checkpoint(replica, now_ms)

    def _plan_checkpoint(self, replica: Replica, now_ms: int) -> None:
        if self.store.is_checkpointing:
            return
        header, slices = replica.make_checkpoint(now_ms)
        job = self.store.plan_checkpoint(replica.id, header, slices)
        if job is not None:
            self._checkpoints[replica.id] = (header.index, header.term, replica.conf)
            self._background.append(job)

    def _on_checkpoint(self, job: CheckpointJob) -> None:
        noted = self._checkpoints.pop(job.replica, None)
        for replica in self.replicas.values():
            if replica.id == job.replica and noted is not None:
                replica.on_checkpoint(*noted)

    # Snapshots.

    def _end_sending(self, group: GroupId, to: ReplicaId, replica: Replica | None, *, ok: bool) -> None:
        """The snapshot arrived or was given up: its segments may go, unless another follower still gets them."""
        del self._senders[group, to]
        if replica is not None:
            replica.log.is_pinned = any(other == group for other, _ in self._senders)
            replica.report_snapshot(to, ok=ok)

    def _tick_snapshots(self) -> None:
        for (group, to), sender in list(self._senders.items()):
            replica = self.replicas.get(group)
            if replica is None or not replica.core.is_leader or sender.is_overdue:
                self._end_sending(group, to, replica, ok=False)
                continue
            again = sender.on_tick()
            if again is not None:
                self._send(self._nodes[to], again)

    def _take_ack(self, node: NodeId, ack: SnapshotAck) -> None:
        key = ack.group, ack.sender
        sender, replica = self._senders.get(key), self.replicas.get(ack.group)
        if sender is None or replica is None or replica.id != ack.to or not self._is_home(ack.sender, node):
            return
        try:
            chunk = None if ack.refused else sender.on_ack(ack)
        except StorageError:
            chunk, ack = None, SnapshotAck(ack.group, ack.sender, ack.to, ack.index, ack.term, ack.position, True)
        if chunk is not None:
            self._send(self._nodes[sender.to], chunk)
        elif ack.refused or sender.is_done:
            self._end_sending(ack.group, sender.to, replica, ok=sender.is_done)

    def _take_chunk(self, sender: NodeId, chunk: SnapshotChunk) -> None:
        replica = self.replicas.get(chunk.group)
        if replica is None or replica.id != chunk.to or replica.failed is not None:
            return
        # An attempt of a term that nobody can have reached would hold off all later ones.
        if not self._is_home(chunk.sender, sender) or chunk.raft_term > replica.core.term + MAX_TERM_STEP:
            return
        receiver = self._receivers.get(chunk.group)
        if receiver is not None and not receiver.matches(chunk):
            is_older = (chunk.raft_term, chunk.transfer) < receiver.attempt
            if is_older or replica.received is not None or receiver.is_busy:
                return
            self._discard(receiver)
            receiver = None
        if receiver is None:
            # The begin is missing, lost with an earlier process, or there is nothing new in it: then the directory it
            # would go to may be the log itself. The sender gives up at once, and Raft asks again for what is needed.
            if chunk.position != 0 or chunk.index <= replica.core.commit:
                refused = SnapshotAck(chunk.group, chunk.to, chunk.sender, chunk.index, chunk.term, 0, refused=True)
                self._send(sender, refused)
                return
            receiver = self._begin_receiving(replica, chunk)
        try:
            job = receiver.take(chunk)
        except CorruptBatchError:
            self._give_up_snapshot(receiver, chunk)
            return
        if job is not None:
            self._background.append(job)
        elif chunk.position < receiver.position:
            self._send(sender, receiver.ack(chunk))

    def _begin_receiving(self, replica: Replica, chunk: SnapshotChunk) -> SnapshotReceiver:
        receiver = SnapshotReceiver(
            self.store.disk,
            replica.group,
            replica.id,
            chunk.index,
            chunk.term,
            chunk.previous_index,
            chunk.previous_term,
            self.store.options.log.segment_bytes,
            (chunk.raft_term, chunk.transfer),
        )
        self._receivers[replica.group] = receiver
        return receiver

    def _on_snapshot_written(self, job: SnapshotWriteJob) -> None:
        receiver, chunk = job.receiver, job.chunk
        ack = receiver.on_written(job)
        replica = self.replicas.get(chunk.group)
        if replica is None or self._receivers.get(chunk.group) is not receiver:
            self._discard(receiver)
            return
        if receiver.is_complete and not self._offer_snapshot(replica, receiver, chunk):
            self._give_up_snapshot(receiver, chunk)
            return
        self._send(self._nodes[chunk.sender], ack)

    def _offer_snapshot(self, replica: Replica, receiver: SnapshotReceiver, chunk: SnapshotChunk) -> bool:
        """Everything is durable beside the log: let Raft decide whether it takes the place of what is there."""
        if receiver.loaded is None:
            return False
        header, body = receiver.loaded
        try:
            machine = replica.kind.decode(body)
            conf = ConfState.decode(header.conf)
        except CorruptBatchError:
            return False
        if (header.index, header.term) != (receiver.index, receiver.term) or header.group != receiver.group:
            return False
        meta = SnapshotMeta(receiver.index, receiver.term, conf)
        replica.received = ReceivedSnapshot(meta, receiver.install_body(), machine, (header, body))
        replica.step(Message(MessageKind.SNAPSHOT, replica.id, chunk.sender, chunk.raft_term, snapshot=meta))
        return True

    def _drop_refused_snapshots(self) -> None:
        """Drop complete snapshots that Raft did not take; one that was installed is the log itself by now."""
        for group, receiver in list(self._receivers.items()):
            replica = self.replicas.get(group)
            if not receiver.is_complete:
                continue
            if replica is None or replica.received is None:
                del self._receivers[group]
            elif not replica.is_installing:
                replica.received = None
                self._discard(receiver)

    def _give_up_snapshot(self, receiver: SnapshotReceiver, chunk: SnapshotChunk) -> None:
        self._discard(receiver)
        self._send(self._nodes[chunk.sender], receiver.ack(chunk, refused=True))

    def _discard(self, receiver: SnapshotReceiver) -> None:
        if self._receivers.get(receiver.group) is receiver:
            del self._receivers[receiver.group]
        receiver.close()
        replica = self.replicas.get(receiver.group)
        if replica is None or replica.log.state.directory != receiver.directory:
            self._background.append(DiscardJob(self.store.disk, receiver.directory))

    # Damage and room.

    def _fetch_damaged(self) -> None:
        """Ask for the good copies of entries that are known to be damaged here."""
        for replica in self.replicas.values():
            if replica.log.is_damaged:
                self._fetch_for(replica)

    def _fetch_for(self, replica: Replica) -> None:
        members = self._who_may_help(replica)
        for index, term in replica.log.holes()[:16]:
            for member in members:
                node = self._nodes.get(member)
                if node is not None:
                    self._send(node, EntryFetch(replica.group, replica.id, member, index, term))

    # Messages that one partition owes another.

    def is_gone(self, group: GroupId) -> bool:
        return self.is_deleted(group)

    def send_transfer(self, target: GroupId, source: GroupId, number: int, batch: bytes) -> None:
        """To the node that is thought to lead the target; the sender tries again after a while."""
        node = self.leader_node(target) or self._home_to_try(target, source, number)
        transfer = Transfer(source, target, number, batch)
        if node == self.node:
            self._take_transfer(node, transfer)
        elif node is not None:
            self._send(node, transfer)

    def _home_to_try(self, target: GroupId, source: GroupId, number: int) -> NodeId | None:
        """A node without a replica of the group knows no leader: the next one that has, where the last took nothing."""
        homes = self.homes(target)
        if not homes:
            self._guesses.pop((source, target), None)
            return None
        last, turn = self._guesses.get((source, target), (number, -1))
        turn += last == number
        self._guesses[source, target] = number, turn
        return homes[turn % len(homes)]

    def _take_transfer(self, sender: NodeId, transfer: Transfer) -> None:
        def answer(result: Reply | LogBrokerError) -> None:
            said = TransferAnswer(transfer.source, transfer.target, transfer.number, verdict_of(result))
            if sender == self.node:
                self._take_transfer_answer(said)
            else:
                self._send(sender, said)

        self.submit(transfer.target, TransferRequest(transfer.source, transfer.number, transfer.batch), answer)

    def _take_transfer_answer(self, answer: TransferAnswer) -> None:
        service = self.services.get(answer.source)
        if isinstance(service, PartitionService):
            service.on_transferred(answer.target, answer.number, answer.verdict)

    def _who_may_help(self, replica: Replica) -> list[ReplicaId]:
        """The other members, and the leader: without a checkpoint, and with a log that it cannot apply beyond a hole, a
        replica knows the members of long ago alone, and none of them may be there any more."""
        return sorted({*replica.conf.members(), replica.core.leader} - {replica.id, NO_REPLICA})

    def _answer_fetch(self, sender: NodeId, fetch: EntryFetch) -> None:
        replica = self.replicas.get(fetch.group)
        if replica is None or replica.id != fetch.to:
            return
        first_index = replica.log.first_index()
        if fetch.index < first_index:
            self._send(sender, EntryGone(fetch.group, replica.id, fetch.sender, fetch.index, first_index))
            return
        try:
            (entry,) = replica.log.entries(fetch.index, Index(fetch.index + 1), max_bytes=1)
        except StorageError:
            return
        if entry.term == fetch.term or (fetch.term == UNKNOWN_TERM and entry.index <= replica.core.commit):
            self._send(sender, EntryCopy(fetch.group, replica.id, fetch.sender, entry))

    def _take_copy(self, copy: EntryCopy) -> None:
        replica = self.replicas.get(copy.group)
        if replica is None or replica.id != copy.to or copy.entry.group != replica.group:
            return
        # All members were asked: one copy is enough.
        name = replica.id, copy.entry.index
        job = None if name in self._repairing else replica.log.repair(copy.entry)
        if job is not None:
            self._repairing.add(name)
            self._background.append(job)
        elif replica.log.mended:
            self._mending[replica.id] = replica

    def _on_repair_ended(self, job: RepairJob) -> None:
        self._repairing.discard((job.log.replica, job.entry.index))
        replica = self.replicas.get(job.log.group)
        if replica is None or replica.log is not job.log:
            return
        replica.on_repaired()
        # Where a whole piece has landed beside its place, each entry that is mended shows only that the next one is
        # missing: asking once every few ticks would take minutes.
        if replica.log.is_damaged and not any(held == replica.id for held, _ in self._repairing):
            self._fetch_for(replica)

    def _take_gone(self, sender: NodeId, gone: EntryGone) -> None:
        """A member has let go of an entry that is damaged here: everybody has applied it, and its messages expired.

        What was applied before it was damaged soon does not matter any more: the floor that took it comes here too.
        Otherwise this replica can never apply what follows, and its place is given to a new one.
        """
        replica = self.replicas.get(gone.group)
        if replica is None or replica.id != gone.to or gone.sender not in self._who_may_help(replica):
            return
        if not self._is_home(gone.sender, sender):
            return
        if gone.index > replica.machine.applied_index and gone.index in replica.log.state.damaged:
            self._lose(replica, f"entry {gone.index} is damaged, and no node keeps it any more")

    def _lose(self, replica: Replica, why: str) -> None:
        """From now on the replica says nothing; the next flush record says so for good."""
        self._forget(replica, UnavailableError(f"replica {replica.id} of group {replica.group} is lost: {why}"))
        self.store.lose(replica.id, why)
        self.store.request_roll()
        self.lost[replica.id] = why
        self.changes += 1

    def _forget(self, replica: Replica, error: LogBrokerError) -> None:
        group = replica.group
        replica.abandon(error)
        del self.replicas[group], self.services[group]
        self._rest.forget(group)
        self.changes += 1
        self.failed_groups.pop(group, None)
        self._committing = [kept for kept in self._committing if kept is not replica]
        self._mending.pop(replica.id, None)
        self._dirty.pop(group, None)
        self._writers.pop(group, None)

    def _on_rot(self, log: PartitionLog) -> None:
        """The scrubber found damage before anybody met it: it is fetched with the next ticks."""
        replica = self.replicas.get(log.group)
        if replica is not None and replica.log is log:
            replica.on_damaged()

    def _want_checkpoint(self, replica_id: ReplicaId) -> None:
        for replica in self.replicas.values():
            if replica.id == replica_id:
                replica.want_checkpoint()

    def _seek_room(self) -> None:
        """Make the ballast again once there is clearly more room than it takes, then produce is taken again."""
        if self.store.room is Room.AMPLE or self._room_wanted is not None:
            return
        ballast_bytes = self.store.options.ballast_bytes
        # On a small disk, which has a small ballast, the margin is small as well: else it would never be met again.
        if self.store.disk.space().free_bytes > ballast_bytes + min(MIN_FREE_BYTES, ballast_bytes):
            self._room_wanted = Room.AMPLE


@final
@dataclass(frozen=True, slots=True)
class GroupSummary:
    """One group of a node, for status pages."""

    group: GroupId
    replica: ReplicaId
    is_leader: bool
    leader_node: NodeId | None
    term: Term
    commit: Index
    applied: Index
    problems: tuple[str, ...] = field(default=())
