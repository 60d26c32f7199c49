"""One simulated node: a disk and clocks that outlive processes, and the process that runs on them now.

What the production shell does with threads is done here with events: a job's `run` is one event, a while
after the job was taken and a while before it is reported, so that a crash may come before, in and after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from logbroker.errors import (
    DamageError,
    DiskFullError,
    LogBrokerError,
    NotLeaderError,
    StorageError,
    StoreFailedError,
    UnknownOutcomeError,
)
from logbroker.ids import GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.engine import Engine, EngineOptions
from logbroker.node.moving import NO_BATCH
from logbroker.node.node_clock import ReadingClock
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.node.replica import MachineKind, ReplicaOptions
from logbroker.node.requests import ReceiveRequest
from logbroker.node.snapshots import SnapshotWriteJob
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from logbroker.partition.log_time import Reading
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.ordering import NO_ORDER, OrderPolicy
from logbroker.partition.retention import MAX_AGE_MS
from logbroker.raft.messages import ConfState
from logbroker.record.batch import DEFAULT_LIMITS
from logbroker.storage.ballast import Room
from logbroker.storage.commit import CommitJob
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import open_store
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentReader
from logbroker.storage.simulated_cache import PAGE_BYTES, Tear
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.simulated_faults import Action, Effect, Fault, SimulatedCrash, on
from logbroker.storage.simulated_faults import Operation as DiskOperation
from logbroker.storage.wal import WalOptions
from logbroker.storage.wal_format import MAGIC
from logbroker.testing.scheduler import US_PER_MS
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from logbroker.node.engine import BackgroundJob
    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.replica import GroupMachine, Replica
    from logbroker.node.requests import Reply
    from logbroker.partition.breaker import BreakerPolicy
    from logbroker.storage.node_store import NodeStore
    from logbroker.testing.clock import SimulatedClock
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.history import Operation

TICK_US = 100 * US_PER_MS
_PUMP_DELAY_US = 30
_SEAL_US = 20 * US_PER_MS
_FIRST_CAPACITY_BYTES = 1 << 40
_NS_PER_MS = 1_000_000
_STARTS_TO_FIND_ROT = 2


def _encode_machine(machine: GroupMachine) -> Iterator[bytes]:
    if not isinstance(machine, PartitionMachine):
        raise TypeError(machine)
    return encode_slices(machine, CheckpointMeta(ReplicaId(0), b""))


PARTITION_KIND: MachineKind = MachineKind(
    new=PartitionMachine.new, encode=_encode_machine, decode=lambda body: decode(body)[0]
)


def small_store(*, wal_bytes: int = 192 << 10, segment_bytes: int = 48 << 10) -> StoreOptions:
    """Files so small that rolls, flushes and drops of segments happen every few seconds."""
    return StoreOptions(
        wal=WalOptions(file_bytes=wal_bytes, initial_files=3, max_files=5),
        log=LogOptions(segment_bytes=segment_bytes, first_room_bytes=16 << 10, max_room_step_bytes=64 << 10),
        ballast_bytes=64 << 10,
        max_commit_bytes=wal_bytes // 3,
    )


def quick_engine(*, wal_bytes: int = 192 << 10) -> EngineOptions:
    """Bounds so small that runs of a minute reach them.

    What five nodes have uncommitted fits one ring file together, as a broker sees to it.
    """
    max_commit_bytes = wal_bytes // 3
    return EngineOptions(
        replica=ReplicaOptions(
            max_message_bytes=16 << 10,
            max_inflight_messages=8,
            max_inflight_bytes=64 << 10,
            max_uncommitted_bytes=128 << 10,
            max_commit_bytes=max_commit_bytes,
            checkpoint_bytes=24 << 10,
            checkpoint_ms=5_000,
        ),
        max_uncommitted_bytes=(wal_bytes - max_commit_bytes) // 5,
    )


@final
@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How the nodes of a cluster are set up."""

    store: StoreOptions = field(default_factory=small_store)
    engine: EngineOptions = field(default_factory=quick_engine)
    retention_s: int = 60
    failures: FailurePolicy = NO_POLICY
    max_age_ms: int = 0
    limits: SizeLimits = NO_LIMITS
    rewind_ms: int = MAX_AGE_MS
    breaker: BreakerPolicy | None = None
    order: OrderPolicy = NO_ORDER
    dead_letters: Mapping[GroupId, GroupId] = field(default_factory=dict)
    """Where the dead messages of a partition are moved to."""
    give_up_share: float = 0.0
    """How often a node finds that it cannot copy what it owes, whatever it or another has sent before."""
    dedup_window_ms: int = 3_000
    dedup_count: int = 1_000_000
    commit_us: int = 300
    """Usual time of a group commit."""


@final
@dataclass(frozen=True, slots=True)
class _Host:
    """The engine to a partition, which notes when it mistrusts the clock of its node.

    For a share of what it owes the partition finds that it cannot be copied, whatever was sent before.
    """

    engine: Engine
    share: float
    random: Random
    note_mistrust: Callable[[], None]

    def send_transfer(self, target: GroupId, source: GroupId, number: int, batch: bytes) -> None:
        is_given_up = self.share > 0 and self.random.random() < self.share
        self.engine.send_transfer(target, source, number, NO_BATCH if is_given_up else batch)

    def has_room(self, replica: Replica) -> bool:
        return self.engine.has_room(replica)

    def admits(self, size_bytes: int) -> bool:
        return self.engine.admits(size_bytes)

    def may_floor(self) -> bool:
        is_trusted = self.engine.may_floor()
        if not is_trusted:
            self.note_mistrust()
        return is_trusted

    def monotonic_ms(self) -> int:
        return self.engine.monotonic_ms()

    def rise(self, replica: Replica) -> None:
        self.engine.rise(replica)

    def chance(self) -> float:
        return self.engine.chance()

    def is_gone(self, group: GroupId) -> bool:
        return self.engine.is_gone(group)


@final
@dataclass(slots=True)
class _OpenRequest:
    """A request that an engine has taken and not answered."""

    operation: Operation
    reply: Callable[[Reply | LogBrokerError, Index], None]
    since_us: int


@final
@dataclass(frozen=True, slots=True)
class DurableLog:
    """What a process knew to be durable of one replica's log when it ended.

    From `open_from` on, a commit that was being written may have replaced what was there. What lies from
    `unproven_from` on was durable, but nothing behind it in the write-ahead log says so yet: if bits of it rot,
    recovery can not tell it from a torn commit.
    """

    replica: ReplicaId
    last_index: Index
    last_term: Term
    open_from: Index
    unproven_from: Index


@final
class SimulatedNode:
    """See the module. Everything that belongs to a process is made anew by `start`."""

    def __init__(self, node: NodeId, cluster: SimulatedCluster, clock: SimulatedClock, options: NodeOptions) -> None:
        self.node = node
        self.clock = clock
        self.disk = SimulatedDisk(capacity_bytes=_FIRST_CAPACITY_BYTES)
        self.engine: Engine | None = None
        self.store: NodeStore | None = None
        self.durable: dict[ReplicaId, DurableLog] = {}
        self.wiped: set[ReplicaId] = set()
        """Replicas whose disk was lost with everything on it."""
        self.counts: dict[str, int] = {}
        self.install_crash_share = 0.0
        """How often the power fails while a snapshot is written."""
        self.on_install: Callable[[], object] | None = None
        """Called when a piece of a snapshot is about to be written."""
        self.has_mistrusted = False
        """Since the checkers last looked, a partition was told that the clock is not good enough to end anything by."""
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._options = options
        self._random = self._scheduler.random(f"node {node}")
        self._gives_up = self._scheduler.random(f"moves of node {node}")
        self._index = DictIndex()
        self._life = 0
        self._pump_is_planned = False
        self._paused_until_us = 0
        self._backlog: list[Callable[[], None]] = []
        self._open: dict[int, _OpenRequest] = {}
        self._slow_us = 0
        self._stalled_until_us = self._flush_stalled_until_us = 0
        self._stalled: list[Callable[[], None]] = []
        self._crash_at_start = 0
        self.background: BackgroundJob | None = None
        """What the flusher works at."""
        self._commit: CommitJob | None = None
        self._last_commit: CommitJob | None = None
        self._starts_since_rot = 1 << 30
        self._has_latent_damage = False
        self._full_since_us: int | None = None
        self._being_made: set[ReplicaId] = set()
        self._being_removed: set[ReplicaId] = set()

    # The process.

    @property
    def is_running(self) -> bool:
        return self.engine is not None

    @property
    def is_damaged(self) -> bool:
        """Bits of its files flipped not long ago, so that a start may find what it should not."""
        return self._starts_since_rot <= _STARTS_TO_FIND_ROT

    @property
    def life(self) -> int:
        """Number of the present or last process, from 1."""
        return self._life

    def start(self) -> None:
        """Start a process on what the disk holds; a crash that is planned may end it again at once."""
        self._life += 1
        self._has_latent_damage = False
        self._full_since_us = None
        self._pump_is_planned = False
        self._paused_until_us = 0
        self._backlog.clear()
        self._commit = self._last_commit = self.background = None
        self._being_made.clear()
        self._being_removed.clear()
        if self._crash_at_start:
            self.disk.crash_before(self.disk.change_count + self._crash_at_start)
            self._crash_at_start = 0
        try:
            self._open_process()
        except SimulatedCrash:
            self._count("crash in recovery")
            self.cut_power()
            self._start_again_later()
        except (StoreFailedError, DiskFullError) as error:
            self._count(f"not started: {error.code}")
            self._end_process()
            self.disk = self.disk.kill()
            self._start_again_later()

    def _open_process(self) -> None:
        seed = self._scheduler.random(f"store {self.node} {self._life}")
        store = open_store(
            self.disk,
            self._options.store,
            node=self.node,
            open_index=lambda: self._index,
            random_bytes=seed.randbytes,
        )
        ticks = self._scheduler.random(f"ticks {self.node} {self._life}")
        clock = ReadingClock(
            self._read_clock,
            cluster_size=len(self._cluster.node_ids),
            last_append_ms=max((_last_append_ms(stored.log) for stored in store.replicas.values()), default=0),
        )
        self.store = store
        self.engine = Engine(
            store,
            self._options.engine,
            node=self.node,
            clock=clock,
            random_ticks=ticks.randrange,
            kinds=lambda _: PARTITION_KIND,
            services=self._make_service,
        )
        for note in store.notes:
            self._scheduler.note("store note", self.node, note)
            self._count("notes of recovery")
        for stored in store.replicas.values():
            self._count("entries damaged at a start", len(stored.log.state.damaged))
            self._count("replicas lost at a start", int(bool(stored.lost)))
        self._starts_since_rot += 1
        self._cluster.checker.on_start(self)
        self._cluster.membership.on_start(self)
        self._scheduler.note("start", self.node, self._life)
        self._count("start")
        self._cluster.network.attach(self.node)
        self._later(self._random.randrange(TICK_US), self._tick)
        self._touch()

    def _make_service(self, replica: Replica, engine: Engine) -> PartitionService:
        options = self._options
        settings = PartitionSettings(
            retention_s=options.retention_s,
            failures=options.failures,
            max_age_ms=options.max_age_ms,
            limits=options.limits,
            rewind_ms=options.rewind_ms,
            order=options.order,
            breaker=options.breaker,
            dead_letters=options.dead_letters.get(replica.group),
            dedup_window_ms=options.dedup_window_ms,
            dedup_count=options.dedup_count,
        )
        host = _Host(engine, options.give_up_share, self._gives_up, self._note_mistrust)
        # What is moved is as large as it may be, and has to fit a file, as the largest that producers send do.
        limits = replace(DEFAULT_LIMITS, max_batch_bytes=options.store.wal.file_bytes * 3 // 4)
        return PartitionService(replica, host, settings, limits)

    def _note_mistrust(self) -> None:
        self.has_mistrusted = True

    def set_order(self, order: OrderPolicy) -> None:
        """The queues are altered."""
        self._options = replace(self._options, order=order)
        for service in () if self.engine is None else self.engine.services.values():
            if isinstance(service, PartitionService):
                service.settings = replace(service.settings, order=order)

    def kill(self) -> None:
        """End the process; its connections close, and what it wrote stays in the page cache."""
        self._scheduler.note("kill", self.node)
        self._count("kill")
        calls = list(self._open.values())
        self._end_process()
        self.disk = self.disk.kill()
        self._cluster.network.detach(self.node)
        for call in calls:
            call.reply(UnknownOutcomeError("the connection was lost"), Index(0))

    def cut_power(self) -> None:
        """End the machine; what was not synced is left or lost. Nobody is told."""
        self._scheduler.note("power cut", self.node)
        self._count("power cut")
        self._end_process()
        tear = self._random.choice((Tear.NONE, Tear.SECTOR, Tear.BYTE, Tear.GARBAGE))
        self.disk = self.disk.crash(keep=self._random, tear=tear)
        if self._random.random() < 0.3:
            # The index is never the only home of anything: it may be gone.
            self._index = DictIndex()
        self.clock.reboot()
        self._cluster.network.detach(self.node, silently=True)

    def wipe(self) -> None:
        """Lose the disk with everything on it."""
        if self.is_running:
            self.cut_power()
        self.disk = SimulatedDisk(capacity_bytes=_FIRST_CAPACITY_BYTES)
        self._index = DictIndex()
        self.wiped |= self.durable.keys()
        self.durable.clear()
        self._starts_since_rot = 1 << 30
        self._count("wipe")

    def pause(self, duration_us: int) -> None:
        """Stop the process for a while; what arrives waits, its clocks run on."""
        self._paused_until_us = max(self._paused_until_us, self._scheduler.now_us + duration_us)
        self._count("pause")
        self._later(duration_us, lambda: None)
        self._plan_resume()

    def crash_at_change(self, change: int) -> None:
        """Cut the power in place of the disk change that is `change` changes away, in this process or the next."""
        if self.is_running:
            self.disk.crash_before(self.disk.change_count + change)
        else:
            self._crash_at_start = change

    def heal(self) -> None:
        """End every fault of this node; it runs afterwards, or will in a moment."""
        self._slow_us = 0
        self._crash_at_start = 0
        self.disk.heal()
        self.free_disk()
        self.unstall_disk()
        if self._paused_until_us > self._scheduler.now_us:
            self._paused_until_us = self._scheduler.now_us
            self._plan_resume()
        if not self.is_running:
            self._start_again_later()

    def _end_process(self) -> None:
        if self.engine is not None:
            self._cluster.situations.on_crash(self)
        engine, self.engine = self.engine, None
        self._open.clear()
        self._backlog.clear()
        self._stalled.clear()
        self._paused_until_us = 0
        if engine is None or self.store is None:
            return
        self._count_process(engine)
        self.durable = {replica: self._durable_log(replica) for replica in self.store.replicas}
        self.store = None
        self._commit = None

    def _count_process(self, engine: Engine) -> None:
        """Add what this process did to the counters of the run."""
        done = engine.statistics()
        self._count("commits", done.commits)
        self._count("flushes", done.flushes)
        self._count("checkpoints", done.checkpoints)
        self._count("writes refused for want of room", done.refused_writes)
        for replica in engine.replicas.values():
            raft = replica.core.statistics()
            self._count("campaigns", raft.campaigns)
            self._count("terms led", raft.terms_led)
            self._count("leaderships lost for want of a quorum", raft.quorum_losses)
            self._count("appends that met a conflict or a gap", raft.rejections)
            self._count("snapshots sent", raft.snapshots_sent)
            self._count("lies of the index found", replica.log.index_mismatches)

    def count_living(self) -> None:
        """Count the process that runs at the end of a run like those that ended in it."""
        if self.engine is not None:
            self._count_process(self.engine)

    def _durable_log(self, replica: ReplicaId) -> DurableLog:
        log = self.store.replicas[replica].log if self.store is not None else broken("harness", "no store")
        last = log.last_index()
        open_from = Index(last + 1)
        for write in self._commit.writes if self._commit is not None else ():
            if write.replica == replica and write.install is not None:
                open_from = Index(0)
            elif write.replica == replica and write.entries:
                open_from = min(open_from, write.entries[0].index)
        if self._commit is not None and replica in self._commit.deaths:
            open_from = Index(0)
        return DurableLog(replica, last, log.term(last), open_from, self._unproven_from(replica, last))

    def _unproven_from(self, replica: ReplicaId, last: Index) -> Index:
        # Sealed or not: many flipped bits may have struck the seal as well.
        if self._last_commit is None:
            return Index(last + 1)
        written = [write for write in self._last_commit.writes if write.replica == replica]
        if any(write.install is not None for write in written):
            return Index(0)
        return min([Index(last + 1), *(write.entries[0].index for write in written if write.entries)])

    def _start_again_later(self) -> None:
        life = self._life

        def start() -> None:
            if not self.is_running and self._life == life:
                self.start()

        self._scheduler.after(self._random.randrange(50, 1_000) * US_PER_MS, start)

    # Faults of the disk.

    def slow_disk(self, extra_us: int) -> None:
        """Let every job take so much longer; 0 ends it."""
        self._slow_us = extra_us

    def stall_disk(self, duration_us: int, *, commits: bool = True) -> None:
        """Let no job begin its work for a while; without `commits`, only those of the flusher wait."""
        until_us = self._scheduler.now_us + duration_us
        self._flush_stalled_until_us = max(self._flush_stalled_until_us, until_us)
        if commits:
            self._stalled_until_us = max(self._stalled_until_us, until_us)

    def unstall_disk(self) -> None:
        """Let the jobs that hang return now."""
        self._stalled_until_us = self._flush_stalled_until_us = 0
        stalled, self._stalled = self._stalled, []
        for run in stalled:
            run()

    def fail_next_sync(self, *, dropped: bool) -> bool:
        effect = Effect.ERROR_DROPPED if dropped else Effect.ERROR
        self.disk.inject(Fault(effect=effect, matches=on(Action.SYNC)))
        return True

    def fail_next_write(self) -> bool:
        self.disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.PWRITE)))
        return True

    def fill_disk(self, *, leave_bytes: int) -> None:
        space = self.disk.space()
        had_ballast = self.store is not None and self.store.room is Room.AMPLE and self.has_good_disk
        self._full_since_us = self._scheduler.now_us if had_ballast else None
        self.disk.capacity_bytes = space.total_bytes - space.free_bytes + leave_bytes

    @property
    def full_us(self) -> int:
        """How long the disk has been full, and nothing else is wrong with it; 0 if it is not, or had no ballast."""
        is_full = self.disk.capacity_bytes != _FIRST_CAPACITY_BYTES and self._full_since_us is not None
        if not is_full or self._slow_us or self._flush_stalled_until_us > self._scheduler.now_us:
            return 0
        return self._scheduler.now_us - (self._full_since_us or 0)

    def free_disk(self) -> None:
        self._full_since_us = None
        self.disk.capacity_bytes = _FIRST_CAPACITY_BYTES

    def rot_bits(self, random: Random) -> None:
        """Flip some bits of a stopped node's write-ahead log and segments."""
        if self.is_running:
            self.cut_power()
        paths = [path for path in self.disk.paths() if path.endswith((".segment", ".wal", ".checkpoint"))]
        for _ in range(random.choice((1, 1, 2, 4, 12, 40))):
            path = random.choice(paths)
            with self.disk.open(path) as file:
                content = file.pread(file.size(), 0)
            # Where nothing was ever written nothing can be lost: somewhere behind bytes that are not zero.
            for _ in range(30):
                offset = random.randrange(len(content)) if content else 0
                if any(content[offset : offset + 16]):
                    self.disk.flip_bit(path, offset, random.randrange(8))
                    break
        self._starts_since_rot = 0
        self._count("bit rot")
        self._start_again_later()

    def misdirect_flush(self, distance_bytes: int) -> None:
        """Let the next piece that is flushed to a segment land elsewhere in its file; a later start may find out."""

        def is_piece(operation: DiskOperation) -> bool:
            return operation.action is Action.PWRITE and operation.path.endswith((".segment", ".spare"))

        self.disk.inject(Fault(effect=Effect.MISDIRECTED, matches=is_piece, distance_bytes=distance_bytes))
        self._has_latent_damage = True
        self._starts_since_rot = 0
        self._count("misdirected flush")

    def misplace_commits(self, random: Random) -> None:
        """Take one commit out of a stopped node's write-ahead log, as if the disk had put it elsewhere."""
        if self.is_running:
            self.cut_power()
        paths = [path for path in self.disk.paths() if path.endswith(".wal")]
        path = random.choice(paths)
        with self.disk.open(path) as file:
            content = file.pread(file.size(), 0)
        starts = [at for at in range(0, len(content), PAGE_BYTES) if content[at : at + len(MAGIC)] == MAGIC]
        if len(starts) > 1:
            # One write went astray. Where it went, later ones have come since; what it should have covered is blank.
            place = random.randrange(len(starts) - 1)
            start, end = starts[place], starts[place + 1]
            self.disk.scribble(path, start, bytes(end - start))
        self._starts_since_rot = 0
        self._count("misplaced commits of the write-ahead log")
        self._start_again_later()

    # What comes in.

    def deliver(self, sender: NodeId, messages: list[PeerMessage]) -> None:
        self._soon(lambda engine: self._deliver(engine, sender, messages))

    def _deliver(self, engine: Engine, sender: NodeId, messages: list[PeerMessage]) -> None:
        for message in messages:
            engine.deliver(sender, message)

    def peer_connected(self, peer: NodeId) -> None:
        self._soon(lambda engine: engine.peer_connected(peer))

    def peer_disconnected(self, peer: NodeId) -> None:
        self._soon(lambda engine: engine.peer_disconnected(peer))
        jitter_us = self._random.randrange(10, 50) * US_PER_MS

        def still_down() -> None:
            if not self._cluster.network.is_connected(self.node, peer):
                self._soon(lambda engine: engine.peer_down(peer))

        self._later(jitter_us, still_down)

    def submit(self, operation: Operation, reply: Callable[[Reply | LogBrokerError, Index], None]) -> None:
        """Give a request to the engine; `reply` gets the answer and what was applied here when it was made."""
        self._open[operation.number] = _OpenRequest(operation, reply, self._scheduler.now_us)
        self._soon(lambda engine: self._submit(engine, operation))

    def _submit(self, engine: Engine, operation: Operation) -> None:
        def answered(result: Reply | LogBrokerError) -> None:
            if self.engine is not engine:
                # The process that asked is gone, and so is its connection.
                return
            request = self._open.pop(operation.number, None)
            if request is None:
                broken("every request is answered once", f"answered again with {result}: {operation.describe()}")
            replica = engine.replicas.get(operation.partition)
            applied = Index(0) if replica is None else replica.machine.applied_index
            operation.had_more_at_reply = replica is None or replica.core.last_index != applied
            request.reply(result, applied)

        if operation.partition in engine.replicas:
            engine.submit(operation.partition, operation.request, answered)
        else:
            # Who routes requests knows that the partition lives elsewhere.
            answered(NotLeaderError(f"node {self.node} holds no replica of group {operation.partition}"))

    def kept_waiting(self, group: GroupId, older_than_us: int) -> list[Operation]:
        """Requests to a group that the engine has held for longer than that."""
        now_us = self._scheduler.now_us
        return [
            request.operation
            for request in self._open.values()
            if request.operation.partition == group and now_us - request.since_us > older_than_us
        ]

    def overdue(self, older_than_us: int) -> list[Operation]:
        """Requests that the engine holds for longer than they wait for messages and `older_than_us` more."""
        now_us = self._scheduler.now_us
        late = []
        for request in self._open.values():
            asked = request.operation.request
            wait_ms = asked.wait_ms if isinstance(asked, ReceiveRequest) else 0
            if now_us - request.since_us > wait_ms * US_PER_MS + older_than_us:
                late.append(request.operation)
        return late

    # The turn of the engine.

    def wake(self) -> None:
        """Let the engine look for work: something was asked of it behind its driver's back."""
        self._touch()

    def _tick(self) -> None:
        self._later(TICK_US, self._tick)
        self._with_engine(Engine.tick)

    def _soon(self, act: Callable[[Engine], object]) -> None:
        """Let the engine take an input: at once, or when the process goes on."""
        if not self.is_running:
            return
        if self.is_paused:
            self._backlog.append(lambda: self._with_engine(act))
        else:
            self._with_engine(act)

    def _with_engine(self, act: Callable[[Engine], object]) -> None:
        engine = self.engine
        if engine is None:
            return
        try:
            act(engine)
        except SimulatedCrash:
            self.crash()
            return
        self._touch()

    def _touch(self) -> None:
        if not self._pump_is_planned and self.is_running:
            self._pump_is_planned = True
            # Not behind what has gathered while the process stood still: that may be a lot.
            self._scheduler.after(_PUMP_DELAY_US, self._pump_when_running())

    def _pump_when_running(self) -> Callable[[], None]:
        life = self._life

        def pump() -> None:
            if self._life != life or not self.is_running:
                return
            if self._is_paused:
                self._backlog.append(self._pump)
            else:
                self._pump()

        return pump

    def _pump(self) -> None:
        self._pump_is_planned = False
        engine = self.engine
        if engine is None:
            return
        try:
            engine.pump()
            self._cluster.send(self.node, engine.take_peer_messages())
            self._run_jobs(engine)
        except SimulatedCrash:
            self.crash()
            return
        if engine.failed is not None:
            self._on_failed(engine.failed)
            return
        self._cluster.checker.after_step(self)

    def _on_failed(self, error: LogBrokerError) -> None:
        """The engine says that this process must end; an operator starts the next one."""
        self._scheduler.note("node failed", self.node, error.code)
        self._count(f"stopped: {error.code}")
        if not isinstance(error, StoreFailedError):
            broken("nodes stop for a failed disk alone", f"node {self.node}: {type(error).__name__}: {error}")
        self.kill()
        self._start_again_later()

    def crash(self) -> None:
        """A planned crash struck: the power is gone in the middle of something."""
        self._count("crash at a write")
        self.cut_power()
        self._start_again_later()

    # Jobs.

    def _run_jobs(self, engine: Engine) -> None:
        commit = engine.next_commit()
        if commit is not None:
            self._commit = commit
            self._run_later(
                commit,
                done=lambda: self._commit_done(engine, commit),
                failed=lambda error: self._commit_failed(engine, commit, error),
            )
        job = engine.next_background()
        if job is not None:
            self.background = job
            if isinstance(job, SnapshotWriteJob):
                if self._random.random() < self.install_crash_share:
                    self.crash_at_change(self._random.randrange(1, 12))
                if self.on_install is not None:
                    self.on_install()
            self._run_later(
                job,
                done=lambda: self._background_done(engine, job),
                failed=lambda error: self._background_failed(engine, job, error),
            )

    def _background_done(self, engine: Engine, job: BackgroundJob) -> None:
        self.background = None
        self._with_engine(lambda _: engine.background_done(job))

    def _background_failed(self, engine: Engine, job: BackgroundJob, error: LogBrokerError) -> None:
        self.background = None
        self._with_engine(lambda _: engine.background_failed(job, error))

    def _commit_done(self, engine: Engine, job: CommitJob) -> None:
        self._commit = None
        if job.writes:
            self._last_commit = job
        self._with_engine(lambda _: engine.commit_done(job))
        self._seal_later(engine.commit_count)

    def _seal_later(self, commit_count: int) -> None:
        def seal(engine: Engine) -> None:
            if not engine.seal(commit_count):
                self._seal_later(commit_count)

        self._later(_SEAL_US, lambda: self._with_engine(seal))

    def _commit_failed(self, engine: Engine, job: CommitJob, error: LogBrokerError) -> None:
        # After a failed disk the commit may be there or not; one that only waits for room has written nothing.
        if not job.has_begun:
            self._commit = None
        self._count(f"commit failed: {error.code}")
        self._with_engine(lambda _: engine.commit_failed(job, error))

    def _run_later(
        self,
        job: CommitJob | BackgroundJob,
        *,
        done: Callable[[], None],
        failed: Callable[[LogBrokerError], None],
    ) -> None:
        before_us = self._random.randrange(10, 100)
        after_us = self._disk_us()
        is_commit = isinstance(job, CommitJob)

        def run() -> None:
            until_us = self._stalled_until_us if is_commit else self._flush_stalled_until_us
            if until_us > self._scheduler.now_us:
                self._stall(run, until_us)
                return
            try:
                job.run()
            except SimulatedCrash:
                self.crash()
            except LogBrokerError as error:
                failure = error
                self._later(after_us, lambda: failed(failure))
            else:
                self._later(after_us, done)

        self._later(before_us, run)

    def _stall(self, run: Callable[[], None], until_us: int) -> None:
        """Hold a job back until the disk is no longer stalled."""
        self._stalled.append(run)

        def go_on() -> None:
            if run in self._stalled:
                self._stalled.remove(run)
                run()

        self._later(until_us - self._scheduler.now_us, go_on)

    def _disk_us(self) -> int:
        usual_us = int(self._options.commit_us * (0.5 + self._random.expovariate(1)))
        if self._random.random() < 0.01:
            usual_us += self._random.randrange(20 * US_PER_MS)
        return usual_us + self._slow_us

    # Time.

    @property
    def is_paused(self) -> bool:
        """The process stands still, or has not caught up yet with what came in while it did."""
        return self._is_paused or bool(self._backlog)

    @property
    def is_stalled(self) -> bool:
        """No commit returns."""
        return self._stalled_until_us > self._scheduler.now_us

    @property
    def has_good_disk(self) -> bool:
        """Nothing slows, stalls or fills the disk."""
        return (
            self._slow_us == 0
            and self._flush_stalled_until_us <= self._scheduler.now_us
            and self.disk.capacity_bytes == _FIRST_CAPACITY_BYTES
        )

    @property
    def _is_paused(self) -> bool:
        return self._paused_until_us > self._scheduler.now_us

    def _later(self, delay_us: int, act: Callable[[], None]) -> None:
        """Run `act` in this very process after a while, or when it goes on, or never if it ends before."""
        life = self._life

        def due() -> None:
            if self._life != life or (not self.is_running):
                return
            if self.is_paused:
                self._backlog.append(act)
            else:
                act()

        self._scheduler.after(delay_us, due)

    def _plan_resume(self) -> None:
        life = self._life

        def resume() -> None:
            """Do some of what has come in; the engine takes its turns in between, as it does in a busy process."""
            if self._life != life or self._is_paused:
                return
            some = self._random.randint(1, 4)
            now, self._backlog = self._backlog[:some], self._backlog[some:]
            for act in now:
                if self._life == life and self.is_running:
                    act()
            if self._backlog:
                self._scheduler.after(self._random.randrange(1, 3 * _PUMP_DELAY_US), resume)

        self._scheduler.at(self._paused_until_us, resume)

    def _read_clock(self) -> Reading:
        return Reading(self.clock.wall_ms() * _NS_PER_MS, self.clock.monotonic_ms() * _NS_PER_MS)

    # Replicas; the catalogue's word.

    def create_replica(self, group: GroupId, replica: ReplicaId, conf: ConfState) -> None:
        """Make a replica with the next commit, unless that is under way."""
        if self.engine is not None and replica not in self._being_made:
            self._being_made.add(replica)
            self._with_engine(lambda engine: engine.create_replica(group, replica, conf))

    def remove_replica(self, replica: ReplicaId) -> None:
        if self.engine is not None and replica not in self._being_removed:
            self._being_removed.add(replica)
            self._with_engine(lambda engine: engine.remove_replica(replica))

    def is_removing(self, replica: ReplicaId) -> bool:
        return replica in self._being_removed

    # Looking.

    def replica(self, group: GroupId) -> Replica | None:
        return None if self.engine is None else self.engine.replicas.get(group)

    def has_caught_up(self, group: GroupId) -> bool:
        """Everything in the log is applied."""
        replica = self.replica(group)
        return replica is not None and replica.core.last_index == replica.machine.applied_index

    def has_durable_configuration(self, group: GroupId) -> bool:
        """A start would begin with the configuration in force: the newest checkpoint, or the birth, has it."""
        replica = self.replica(group)
        if replica is None:
            return False
        born = replica.log.state.initial_conf
        newest = replica._storage.snapshot
        conf = newest.conf if newest.index else ConfState.decode(born) if born else ConfState()
        return conf == replica.conf

    def is_filling(self, group: GroupId) -> bool:
        """A snapshot of the group is on its way in."""
        return self.engine is not None and self.engine.fill_percent(group) is not None

    @property
    def is_committing(self) -> bool:
        return self._commit is not None

    @property
    def has_full_disk(self) -> bool:
        return self.disk.capacity_bytes != _FIRST_CAPACITY_BYTES

    def is_sending(self, group: GroupId) -> bool:
        """A snapshot of the group is on its way to a follower, or was just now."""
        return self.engine is not None and any(sent == group for sent, _ in self.engine._senders)

    def leads(self, group: GroupId) -> bool:
        replica = self.replica(group)
        return replica is not None and replica.core.is_leader

    def serves(self, group: GroupId) -> bool:
        replica = self.replica(group)
        return replica is not None and replica.is_serving

    def term(self, group: GroupId) -> Term:
        replica = self.replica(group)
        return Term(0) if replica is None else replica.core.term

    def hand_over(self, group: GroupId) -> bool:
        replica = self.replica(group)
        if replica is None or self._is_paused or not replica.hand_over():
            return False
        self._touch()
        return True

    @property
    def is_whole(self) -> bool:
        """Runs, and holds everything that it ever held."""
        engine = self.engine
        if engine is None or engine.lost or engine.failed_groups or self._has_latent_damage:
            return False
        return not any(replica.log.is_damaged for replica in engine.replicas.values())

    def has_good_files(self) -> bool:
        """Every flushed entry stands in its place, read from the disk: also what rotted and nobody has read since."""
        if self.engine is None:
            return False
        logs = [replica.log for replica in self.engine.replicas.values()]
        return all(
            _is_intact(SegmentReader(self.disk, log.state.directory, segment, log.group), log.log_start_index)
            for log in logs
            for segment in log.state.segments
        )

    def _count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times


def _is_intact(reader: SegmentReader, log_start_index: Index) -> bool:
    """Whether a segment holds all its entries, each in its place; where all of them expired nothing is asked."""
    segment = reader.row
    if segment.last_index < log_start_index:
        return True
    try:
        position = SEGMENT_HEADER_BYTES
        for index in range(segment.base_index, segment.last_index + 1):
            entry = reader.entry_at(position)
            if entry.index != index:
                return False
            position += len(entry.head) + len(entry.payload)
    except DamageError:
        return False
    finally:
        reader.close()
    return position == segment.length_bytes


def _last_append_ms(log: Any) -> int:  # noqa: ANN401 - PartitionLog, whose last entry may be in a segment
    """Log time of the last entry of a log, 0 where it is empty or unreadable."""
    last = log.last_index()
    if last < log.first_index():
        return 0
    try:
        (entry,) = log.entries(last, Index(last + 1), max_bytes=1)
    except StorageError:
        return 0
    return int(entry.append_ms)
