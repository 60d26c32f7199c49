"""The broker of one node: it opens the data directory, owns every task, and is what the server layer talks to.

All of it lives in `run`: leaving that leaves nothing behind. The engine and everything that holds state belong to
trio's thread; blocking work is done by the two threads of `store_threads`.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from logbroker.config.options import batch_limits, decision_limits
from logbroker.errors import (
    ConfigurationError,
    LogBrokerError,
    NotLeaderError,
    RemoteProtocolError,
    ShuttingDownError,
    UnavailableError,
    UnknownOutcomeError,
    invariant,
)
from logbroker.ids import META_GROUP, GroupId, Index, NodeId
from logbroker.node.bootstrap import FirstBoot, left_out
from logbroker.node.catalogue import Catalogue, CatalogueLimits, Outcome
from logbroker.node.catalogue.bounds import MAX_RETENTION_MS
from logbroker.node.catalogue.rows import NodeRow
from logbroker.node.catalogue_service import CatalogueService
from logbroker.node.cluster_file import ClusterFile
from logbroker.node.cluster_messages import ClusterMessage, decode_cluster_message, encode_cluster_message
from logbroker.node.cluster_tasks import ClusterTasks
from logbroker.node.engine import Engine, EngineOptions, RequestService
from logbroker.node.forwarding import Forwarder
from logbroker.node.machine_kinds import machine_kind
from logbroker.node.node_clock import ReadingClock
from logbroker.node.node_status import (
    GroupStatus,
    NodeStatistics,
    NodeStatus,
    PeerStatus,
    damage_of,
    describe_tripped,
    leaderless,
)
from logbroker.node.pack_frames import PackFrames
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.node.peer_frames import PROTOCOL_VERSION, FrameKind, Hello, InitialNodeRow
from logbroker.node.peer_messages import CLUSTER_TAG_BYTES, PeerMessage
from logbroker.node.peer_tls import peer_tls
from logbroker.node.peers import PeerOptions, Peers
from logbroker.node.replica import Replica, ReplicaOptions
from logbroker.node.requests import Answer, ReceiveReply, ReleaseRequest, Reply, Request
from logbroker.node.store_threads import StoreThread
from logbroker.node.turns import Turns
from logbroker.partition.breaker import tripped
from logbroker.partition.log_time import ClockSettings, Reading, Verdict
from logbroker.partition.machine import PartitionMachine
from logbroker.storage.disk import RealDisk, open_data_directory
from logbroker.storage.index import LmdbIndex
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import INDEX_NAME, open_store
from logbroker.storage.scrub import ScrubOptions
from logbroker.storage.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from logbroker.config import Settings
    from logbroker.node.catalogue.commands import Bootstrap, Command

logger = logging.getLogger(__name__)

FRAME_HEAD_BYTES = 64 << 10
"""Room in a peer frame for everything that is not entries."""
SEAL_S = 2.0
DRAIN_STEP_S = 0.02
NO_LEASE = 0


@final
@dataclass(frozen=True, slots=True)
class BrokerArguments:
    """What is said at start and not in the configuration. `without`: nodes that the first boot goes without."""

    without: tuple[NodeId, ...] = ()
    job_stop_s: float = 30.0
    """How long the end of the process waits for a write that does not return."""


@final
class _Waiter:
    """One request whose caller waits as a task."""

    __slots__ = ("_answered", "_result", "is_abandoned")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._result: object = None
        self.is_abandoned = False

    def answer(self, result: object) -> None:
        self._result = result
        self._answered.set()

    async def wait(self) -> object:
        await self._answered.wait()
        if isinstance(self._result, LogBrokerError):
            raise self._result
        return self._result


@final
class Broker:
    """See the module. Made of settings; `run` does the rest, once."""

    def __init__(self, settings: Settings, arguments: BrokerArguments | None = None) -> None:
        self.node = NodeId(settings.node.id)
        self.settings = settings
        self._arguments = arguments or BrokerArguments()
        self._plan = _first_boot(settings, self._arguments.without)
        self._stop = trio.Event()
        self._is_draining = False
        self._has_caught_up = False
        self._catalogue_changed = trio.Event()
        self._seen_catalogue: tuple[int, int] = (0, -1)
        self._catalogue_limits = _catalogue_limits(settings)
        self._batch_limits = batch_limits(settings.limits)
        self._decision_limits = decision_limits(settings.limits)
        self._log_thread = StoreThread("log", stop_s=self._arguments.job_stop_s)
        self._flusher_thread = StoreThread("flusher", stop_s=self._arguments.job_stop_s)
        self._me: NodeRow | None = None
        self._engine: Engine | None = None
        self._clock: ReadingClock | None = None
        self._turns: Turns | None = None
        self._cluster: ClusterTasks | None = None
        self._peers = Peers(
            _peer_options(settings),
            self,
            random_ms=lambda below: random.randrange(max(1, below)),
            tls=peer_tls(settings),
        )
        self._packs = PackFrames()
        self._tag = b""
        self._forwarder = Forwarder(send=self._peers.send, is_connected=self._peers.is_connected, submit=self.submit)

    # Life.

    async def run(self, *, task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store and serve until `stop` or a failure; started once it takes requests and peers.

        Cancelled, it ends like a process that is killed, but for writes under way, which are finished.

        Raises:
            LogBrokerError: the store cannot be opened, or a write failed; the process must end with an error.
        """
        with open_data_directory(self.settings.node.data_dir) as disk:
            store = await trio.to_thread.run_sync(self._open_store, disk)
            try:
                await self._serve(store, disk, task_status)
            except BaseExceptionGroup as group:
                failure = _only_failure(group)
                if failure is None:
                    raise
                logger.critical("node_failed node=%d code=%s reason=%r", self.node, failure.code, failure.message)
                raise failure from group
            finally:
                store.close()
                self._engine = None
        logger.info("node_stopped node=%d", self.node)

    def stop(self) -> None:
        """Hand leadership over, finish what is under way, and let `run` return."""
        self._stop.set()

    async def _serve(self, store: NodeStore, disk: RealDisk, task_status: trio.TaskStatus[Broker]) -> None:
        for note in store.notes:
            logger.warning("store_note node=%d note=%r", self.node, note)
        self._assemble(store, disk)
        engine, turns, cluster = self._running()
        async with trio.open_nursery() as threads:
            await threads.start(self._log_thread.run)
            await threads.start(self._flusher_thread.run)
            try:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(turns.run_turns)
                    tasks.start_soon(turns.run_ticks)
                    tasks.start_soon(turns.run_seals)
                    await cluster.prepare()
                    await tasks.start(self._peers.run, await self._listen())
                    tasks.start_soon(cluster.run)
                    logger.info("node_started node=%d phase=%s", self.node, cluster.phase)
                    task_status.started(self)
                    await self._stop.wait()
                    await self._drain(engine, turns)
                    tasks.cancel_scope.cancel()
            finally:
                # Nobody takes turns any more: whoever still waits is told now, or would wait for ever.
                for replica in engine.replicas.values():
                    replica.abandon(ShuttingDownError(f"node {self.node} has stopped"))
            threads.cancel_scope.cancel()

    def _open_store(self, disk: RealDisk) -> NodeStore:
        storage = self.settings.storage
        options = StoreOptions(
            WalOptions(storage.wal_file_bytes, max_files=storage.wal_max_files),
            LogOptions(storage.segment_bytes, storage.preallocate_min_bytes, storage.preallocate_max_bytes),
            storage.ballast_bytes(disk.space().total_bytes),
            storage.max_commit_bytes,
        )
        path = disk.root / INDEX_NAME
        return open_store(
            disk,
            options,
            node=self.node,
            open_index=lambda: LmdbIndex.open(path, map_size_bytes=storage.index_map_bytes),
            random_bytes=secrets.token_bytes,
        )

    def _assemble(self, store: NodeStore, disk: RealDisk) -> None:
        settings = self.settings
        self._me = NodeRow(self.node, store.identity.incarnation, settings.peer_address, settings.client_url)
        clock = self._clock = ReadingClock(
            lambda: Reading(time.time_ns(), time.monotonic_ns()),
            cluster_size=settings.cluster.size,
            last_append_ms=last_append_ms(store),
            settings=ClockSettings(settings.log_time.max_skew_ms, settings.log_time.max_clock_step_ms),
        )
        engine = self._engine = Engine(
            store,
            _engine_options(settings),
            node=self.node,
            clock=clock,
            random_ticks=lambda below: random.randrange(below),
            kinds=machine_kind,
            services=self._make_service,
        )
        self._turns = Turns(
            engine,
            log_thread=self._log_thread,
            flusher_thread=self._flusher_thread,
            tick_ms=settings.raft.tick_ms,
            send=self._send_messages,
            after_turn=self._after_turn,
        )
        for node in settings.cluster.initial_nodes:
            if node.id != self.node:
                self._peers.set_address(NodeId(node.id), node.peer)
        self._cluster = ClusterTasks(
            engine,
            self._plan,
            self._me,
            ClusterFile(disk, store.identity.incarnation),
            send=self._send_cluster,
            set_address=self._peers.set_address,
            wake=self._turns.wake,
            catalogue_service=self._meta_service,
            now_ms=clock.monotonic_ms,
        )

    async def _listen(self) -> list[trio.SocketListener]:
        listener = self.settings.listeners.peer
        if self.settings.cluster.size == 1 and not self.settings.cluster.initial_nodes:
            # Nobody is to come; a port nobody needs is a port that can be attacked.
            return []
        try:
            return list(await trio.open_tcp_listeners(listener.port, host=listener.host.strip("[]")))
        except OSError as error:
            raise ConfigurationError(
                f"listeners.peer cannot listen on {listener.address}: {error.strerror or error}"
            ) from error

    async def _drain(self, engine: Engine, turns: Turns) -> None:
        self._is_draining = True
        logger.info("node_drains node=%d", self.node)
        with trio.move_on_after(self.settings.timeouts.drain_ms / 1000):
            while not engine.drain():
                turns.wake()
                await trio.sleep(DRAIN_STEP_S)
        # So that a restart need not ask which of the last bytes were synced.
        with trio.move_on_after(SEAL_S):
            while not (engine.store.is_sealed and self._log_thread.is_idle):
                turns.wake()
                await trio.sleep(DRAIN_STEP_S)

    # What the server layer asks.

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        """Ask a partition; `answer` is called exactly once, perhaps before this returns."""
        engine, turns = self._engine, self._turns
        if engine is None or turns is None:
            answer(ShuttingDownError(f"node {self.node} does not run"))
            return
        engine.submit(group, request, answer)
        turns.wake()

    def hold(self) -> None:
        """Requests follow that are to share a turn; the caller calls `release` before it waits for anything."""
        if self._turns is not None:
            self._turns.hold()

    def release(self) -> None:
        """They are submitted: their turn is taken before this returns."""
        if self._turns is not None:
            self._turns.release()

    def defer(self, act: Callable[[], None]) -> bool:
        """Call `act`, which must not raise, at the end of this turn or at `release`; False where there is neither."""
        return self._turns is not None and self._turns.defer(act)

    def forget(self, group: GroupId, answer: Answer) -> None:
        """Whoever gave `answer` to `submit` is gone: a receive that waits leases nothing."""
        service = None if self._engine is None else self._engine.services.get(group)
        if isinstance(service, PartitionService):
            service.forget(answer)

    async def ask(self, group: GroupId, request: Request) -> Reply:
        """Ask a partition and wait for the reply.

        A caller that is cancelled learns nothing about the outcome. A lease that is given to one that is gone is
        released, uncounted.

        Raises:
            LogBrokerError: the reply was an error.
        """
        waiter = _Waiter()

        def answer(result: Reply | LogBrokerError) -> None:
            if waiter.is_abandoned and isinstance(result, ReceiveReply) and result.lease != NO_LEASE:
                self.submit(group, ReleaseRequest(request.group, result.lease), _ignore)  # type: ignore[union-attr]  # only receives are answered so
            waiter.answer(result)

        self.submit(group, request, answer)
        try:
            return await waiter.wait()  # type: ignore[return-value]  # errors were raised
        except trio.Cancelled:
            waiter.is_abandoned = True
            self.forget(group, answer)
            raise

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        """As `ask`, wherever the partition is led: counts, consumer groups and rewinds are taken to another node.

        Raises:
            LogBrokerError: the reply was an error, or no leader is known.
            UnknownOutcomeError: no answer came, and it may have been carried out.
        """
        leader = self.leader_node(group)
        if leader is None:
            # A node without a replica of the group has no other way to know.
            raise NotLeaderError(f"no leader of group {group} is known to node {self.node}")
        if leader == self.node:
            return await self.ask(group, request)
        return await self._forwarder.ask(leader, group, request, timeout_ms=self.settings.timeouts.request_ms)

    @property
    def catalogue(self) -> Catalogue:
        """The applied catalogue of this node, which may be behind the leader's.

        Raises:
            UnavailableError: this node has none yet, or has not caught up since it started: what it does not find
                may exist all the same.
        """
        replica = self._meta_replica()
        if replica is None:
            raise UnavailableError(f"node {self.node} has no catalogue yet", hint="; ".join(self._problems()))
        if not self._has_caught_up:
            # A leader's first entry follows everything that was committed before its term.
            self._has_caught_up = bool(replica.leader) and replica.machine.applied_term == replica.core.term
            if not self._has_caught_up:
                raise UnavailableError(f"node {self.node} has not caught up with the catalogue since it started")
        return _catalogue_of(replica)

    def _meta_replica(self) -> Replica | None:
        """This node's replica of the meta group, once it has something of the catalogue."""
        replica = None if self._engine is None else self._engine.replicas.get(META_GROUP)
        if replica is None or not isinstance(replica.machine, Catalogue) or not replica.machine.is_bootstrapped:
            return None
        return replica

    async def read_catalogue(self) -> Catalogue:
        """The catalogue, at least as new as this call (read index); by the meta leader alone.

        Raises:
            NotLeaderError: this node does not lead the meta group; it says which one does.
        """
        service = self._leading_service()
        waiter = _Waiter()
        service.read(waiter.answer)
        self._wake()
        return await self._wait_for(waiter, "the read")  # type: ignore[return-value]  # errors were raised

    async def propose_catalogue(self, command: Command) -> Outcome:
        """Have a command committed and applied; nothing is forwarded to another node.

        Raises:
            NotLeaderError: this node does not lead the meta group; it says which one does.
            RequestError: the catalogue refused.
            UnknownOutcomeError: it was not decided in time, and may still be carried out.
        """
        service = self._leading_service()
        waiter = _Waiter()
        service.propose(command, waiter.answer)
        self._wake()
        return await self._wait_for(waiter, type(command).__name__)  # type: ignore[return-value]  # errors were raised

    async def wait_catalogue_change(self) -> None:
        """Return after the applied catalogue of this node changed next."""
        await self._catalogue_changed.wait()

    def leader_node(self, group: GroupId) -> NodeId | None:
        """The node thought to lead a group; None where that is not known here."""
        return None if self._engine is None else self._engine.leader_node(group)

    def is_led(self, group: GroupId) -> bool:
        """Whether a node is thought to lead a group, and takes its requests already if it is this one."""
        replica = None if self._engine is None else self._engine.replicas.get(group)
        if replica is not None and replica.core.is_leader:
            return replica.is_serving
        return self.leader_node(group) is not None

    def term(self, group: GroupId) -> int:
        """The newest term that this node knows of a group; 0 where it holds no replica."""
        replica = None if self._engine is None else self._engine.replicas.get(group)
        return 0 if replica is None else replica.core.term

    def report(self, commands: Sequence[Command]) -> None:
        """Take commands to the leader of the meta group, or lose them: whoever reports says it again."""
        if self._cluster is not None:
            self._cluster.report(commands)

    def bootstrap_without(self, nodes: Collection[NodeId]) -> None:
        """An operator's word to the node that founds the cluster: go on without these, which join later.

        Raises:
            InvalidArgumentError: they are not nodes of the first boot, the rest is no majority, another node is to be
                told, or the cluster is founded already.
            ShuttingDownError: the node does not run.
        """
        _, _, cluster = self._running()
        cluster.leave_out(nodes)
        logger.warning("bootstrap_without node=%d without=%s", self.node, sorted(nodes))

    def accept_clock(self) -> None:
        """The operator's word that this node's wall clock is right."""
        if self._clock is not None:
            self._clock.accept()

    def status(self) -> NodeStatus:
        """Where this node stands, and why."""
        cluster, me = self._cluster, self._me
        groups = self._group_statuses()
        problems = self._problems(groups)
        return NodeStatus(
            self.node,
            b"" if me is None else me.incarnation,
            b"" if cluster is None else cluster.cluster_id,
            self._plan.name,
            "stopped" if cluster is None else cluster.phase,
            self._is_ready(groups),
            self._is_draining,
            tuple(problems),
            tuple(
                PeerStatus(link.node, link.address, self._peers.is_connected(link.node), link.fault)
                for link in self._peers.statistics().values()
            ),
            groups,
        )

    def statistics(self) -> NodeStatistics:
        """Counters, for metrics.

        Raises:
            ShuttingDownError: the node does not run.
        """
        engine, turns, _ = self._running()
        return NodeStatistics(
            engine.statistics(),
            turns.statistics(),
            self._log_thread.statistics(),
            self._flusher_thread.statistics(),
            tuple(self._peers.statistics().values()),
            {
                group: service.figures
                for group, service in engine.services.items()
                if isinstance(service, PartitionService)
            },
        )

    # What the links tell (`PeerEvents`).

    def hello(self, to_node: NodeId) -> Hello:
        _, _, cluster = self._running()
        initial = tuple(InitialNodeRow(NodeId(node.id), node.peer) for node in self.settings.cluster.initial_nodes)
        return Hello(
            PROTOCOL_VERSION,
            cluster.cluster_id,
            self._plan.name,
            self.node,
            b"" if self._me is None else self._me.incarnation,
            to_node,
            "" if self._me is None else self._me.peer_address,
            initial,
        )

    def on_link_up(self, node: NodeId, incarnation: bytes) -> None:
        engine, _, cluster = self._running()
        self._packs.forget(node)
        engine.peer_connected(node)
        cluster.on_peer(node, incarnation)

    def on_link_lost(self, node: NodeId) -> None:
        engine, turns, cluster = self._running()
        engine.peer_disconnected(node)
        self._packs.forget(node)
        self._forwarder.on_link_lost(node)
        if not self._peers.hears(node):
            cluster.on_peer_gone(node)
        turns.wake()

    def on_peer_silent(self, node: NodeId) -> None:
        engine, turns, _ = self._running()
        logger.info("peer_silent node=%d", node)
        engine.peer_down(node)
        turns.wake()

    def on_frame(self, node: NodeId, incarnation: bytes, kind: int, payload: memoryview) -> None:
        engine, _, cluster = self._running()
        match kind:
            case FrameKind.RAFT:
                tag = self._cluster_tag()
                if tag:
                    engine.deliver(node, self._packs.decode(node, payload, tag))
            case FrameKind.CLUSTER:
                cluster.on_message(node, incarnation, decode_cluster_message(payload))
            case FrameKind.ASKED:
                self._forwarder.on_asked(node, payload)
            case FrameKind.ANSWERED:
                self._forwarder.on_answered(node, payload)
            case _:
                raise RemoteProtocolError(f"node {node} sent a frame of kind {kind}")

    def after_read(self) -> None:
        if self._turns is not None:
            self._turns.take_turn()

    # Inside.

    def _running(self) -> tuple[Engine, Turns, ClusterTasks]:
        engine, turns, cluster = self._engine, self._turns, self._cluster
        if engine is None or turns is None or cluster is None:
            raise ShuttingDownError(f"node {self.node} does not run")
        return engine, turns, cluster

    def _wake(self) -> None:
        if self._turns is not None:
            self._turns.wake()

    def _make_service(self, replica: Replica, engine: Engine) -> RequestService:
        if replica.group != META_GROUP:
            # Until the catalogue has said what holds, nothing is deleted that any queue may keep, and nothing fails.
            settings = PartitionSettings(retention_s=MAX_RETENTION_MS // 1000, failures=None, order=None)
            return PartitionService(
                replica, engine, settings, self._batch_limits, decision_limits=self._decision_limits
            )
        return CatalogueService(replica, limits=self._catalogue_limits, bootstrap=self._bootstrap_command)

    def _meta_service(self) -> CatalogueService | None:
        service = None if self._engine is None else self._engine.services.get(META_GROUP)
        return service if isinstance(service, CatalogueService) else None

    def _bootstrap_command(self) -> Bootstrap | None:
        return None if self._cluster is None else self._cluster.bootstrap_command()

    def _leading_service(self) -> CatalogueService:
        service = self._meta_service()
        if service is None or not service.replica.is_serving or self._is_draining:
            leader = self.leader_node(META_GROUP)
            raise NotLeaderError(
                f"node {self.node} does not lead the meta group", leader=None if leader == self.node else leader
            )
        return service

    async def _wait_for(self, waiter: _Waiter, what: str) -> object:
        timeout_ms = self.settings.timeouts.request_ms
        with trio.move_on_after(timeout_ms / 1000):
            return await waiter.wait()
        raise UnknownOutcomeError(f"{what} was not decided in {timeout_ms} ms", hint="it may still be carried out")

    def _send_messages(self, node: NodeId, messages: list[PeerMessage]) -> None:
        tag = self._cluster_tag()
        if not tag:
            return
        frames = [self._packs.encode(node, message, tag) for message in messages]
        self._peers.send_many(node, FrameKind.RAFT, frames)

    def _cluster_tag(self) -> bytes:
        """What names this cluster in each frame; none before this node is a member, and the same ever after."""
        if not self._tag and self._cluster is not None:
            self._tag = self._cluster.cluster_id[:CLUSTER_TAG_BYTES]
        return self._tag

    def _send_cluster(self, node: NodeId, message: ClusterMessage) -> None:
        self._peers.send(node, FrameKind.CLUSTER, encode_cluster_message(message))

    def _after_turn(self) -> None:
        """Everything that was ready is applied: see whether the catalogue is another."""
        engine, turns, cluster = self._running()
        replica = engine.replicas.get(META_GROUP)
        if replica is None or not isinstance(replica.machine, Catalogue):
            return
        seen = (replica.id, replica.machine.epoch)
        if seen != self._seen_catalogue:
            self._seen_catalogue = seen
            changed, self._catalogue_changed = self._catalogue_changed, trio.Event()
            changed.set()
            cluster.on_catalogue()
            # What came of it is ready for another turn.
            turns.wake()

    def _group_statuses(self) -> tuple[GroupStatus, ...]:
        engine = self._engine
        if engine is None:
            return ()
        return tuple(self._group_status(engine, replica) for _, replica in sorted(engine.replicas.items()))

    def _group_status(self, engine: Engine, replica: Replica) -> GroupStatus:
        core, conf = replica.core, replica.conf
        fill = engine.fill_percent(replica.group)
        problems = []
        leader = engine.leader_node(replica.group)
        if replica.failed is not None:
            problems.append(f"group {replica.group} stopped: {replica.failed.message}")
        elif leader is None and not core.is_leader:
            problems.append(self._why_leaderless(engine, replica))
        if fill is not None:
            problems.append(f"replica {replica.id} of group {replica.group} is filling, {fill} %")
        if conf.voters_outgoing:
            going = sorted(set(conf.voters_outgoing) - set(conf.voters))
            problems.append(
                f"group {replica.group} is changing its members: until that is done it needs a majority of the old "
                f"ones, {going} among them, as well as of the new ones"
            )
        damaged = len(replica.log.holes())
        if damaged:
            problems.append(damage_of(replica.group, replica.id, damaged, replica.conf.members()))
        problems += self._trips_of(replica)
        return GroupStatus(
            replica.group,
            replica.id,
            core.is_leader,
            replica.is_serving,
            leader,
            core.term,
            core.commit,
            replica.machine.applied_index,
            core.first_index,
            core.last_index,
            conf.voters,
            conf.learners,
            fill,
            tuple(problems),
        )

    def _trips_of(self, replica: Replica) -> list[str]:
        """What breakers have paused, on every node that holds the partition: whoever asks one of them learns of it."""
        machine, clock = replica.machine, self._clock
        paused = tripped(machine, clock.wall_ms()) if isinstance(machine, PartitionMachine) and clock else []
        if not paused:
            return []
        try:
            queues = self.catalogue.queues()
        except UnavailableError:
            queues = []
        places = (f"{row.name}/{row.groups.index(replica.group)}" for row in queues if replica.group in row.groups)
        return list(describe_tripped(next(places, f"group {replica.group}"), paused))

    def _why_leaderless(self, engine: Engine, replica: Replica) -> str:
        try:
            row = self.catalogue.group(replica.group)
        except UnavailableError:
            meta = self._meta_replica()
            row = None if meta is None else _catalogue_of(meta).group(replica.group)
        nodes = self._plan.nodes if row is None else tuple(held.node for held in row.staying())
        heard = {node for node in nodes if self._peers.hears(node)}
        return leaderless(replica.group, own=self.node, members=nodes, heard=heard)

    def _problems(self, groups: Sequence[GroupStatus] = ()) -> list[str]:
        engine, cluster, clock = self._engine, self._cluster, self._clock
        if engine is None or cluster is None or clock is None:
            return ["the node does not run"]
        found = list(cluster.problems())
        found += [problem for group in groups for problem in group.problems]
        status = clock.status()
        if status.verdict is Verdict.DISAGREES:
            found.append(f"this node's clock is {status.skew_ms} ms off the median of the nodes: it does not lead")
        if status.step_refused:
            found.append(
                f"this node's clock is {status.step_ms} ms ahead of log time, which is not followed until "
                "`logbroker clock accept`"
            )
        late_s = self._log_thread.statistics().running_s
        if late_s * 1000 > self.settings.raft.election_ms:
            found.append(f"a group commit has been on its way to the disk for {late_s:.1f} s")
        found += engine.statistics().scrub.unmended
        if engine.store.is_stalled:
            found.append("the write-ahead log is full and waits for a flush")
        if engine.store.room.value:
            found.append(f"the disk has little room left ({engine.store.room.name.lower()}): produce is refused")
        return found

    def _is_ready(self, groups: Sequence[GroupStatus]) -> bool:
        """A member with a catalogue, whose meta group has a leader, and that does not stop."""
        engine = self._engine
        if engine is None or self._is_draining:
            return False
        meta = next((group for group in groups if group.group == META_GROUP), None)
        if meta is None or (meta.leader_node is None and not meta.is_serving):
            return False
        try:
            return self.catalogue.is_bootstrapped
        except UnavailableError:
            return False


def _catalogue_of(replica: Replica) -> Catalogue:
    machine = replica.machine
    invariant(isinstance(machine, Catalogue), "the meta group's state machine is of another kind")
    return machine  # type: ignore[return-value]  # checked above


def _ignore(_: Reply | LogBrokerError) -> None:
    """Nobody waits for it."""


def _only_failure(group: BaseExceptionGroup[BaseException]) -> LogBrokerError | None:
    """The error of ours that ended the node, if nothing but such errors and their cancellations is in the group."""
    mine, others = group.split(LogBrokerError)
    if mine is None or (others is not None and others.split(trio.Cancelled)[1] is not None):
        return None
    error: BaseException = mine
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, LogBrokerError) else None


def last_append_ms(store: NodeStore) -> int:
    """The latest log time in any log of the node; 0 on a new one."""
    latest = 0
    for stored in store.replicas.values():
        if stored.checkpoint is not None:
            latest = max(latest, stored.checkpoint[0].append_ms)
        log = stored.log
        last = log.last_index()
        if stored.lost or last < log.first_index():
            continue
        try:
            (entry,) = log.entries(last, Index(last + 1), max_bytes=1)
        except LogBrokerError:
            # Damaged, which is reported elsewhere; the others tell the time.
            continue
        latest = max(latest, entry.append_ms)
    return latest


def _first_boot(settings: Settings, without: tuple[NodeId, ...]) -> FirstBoot:
    own = NodeId(settings.node.id)
    nodes = tuple(NodeId(node.id) for node in settings.cluster.initial_nodes) or (own,)
    return left_out(FirstBoot(settings.cluster.name, nodes), without, own=own)


def _engine_options(settings: Settings) -> EngineOptions:
    raft, storage = settings.raft, settings.storage
    replica = ReplicaOptions(
        election_ticks=raft.election_ticks,
        heartbeat_ticks=raft.heartbeat_ticks,
        max_message_bytes=raft.max_message_bytes,
        max_inflight_messages=raft.max_inflight_messages,
        max_inflight_bytes=raft.max_inflight_bytes,
        max_uncommitted_bytes=raft.max_uncommitted_bytes,
        max_commit_bytes=storage.max_commit_bytes,
        checkpoint_bytes=storage.checkpoint_bytes,
        checkpoint_ms=storage.checkpoint_ms,
    )
    # What all nodes have proposed and not committed has to fit one file of the ring: what is carried into a new file
    # lets go of older ones, and where it never fits, nodes with full rings may wait for each other for good.
    uncommitted_bytes = (storage.wal_file_bytes - storage.max_commit_bytes) // settings.cluster.size
    return EngineOptions(
        replica,
        max_uncommitted_bytes=min(raft.max_node_uncommitted_bytes, uncommitted_bytes),
        beat_stale_ticks=2 * raft.election_ticks,
        scrub=ScrubOptions(storage.scrub_bytes_per_s, storage.scrub_pause_ms),
    )


def _peer_options(settings: Settings) -> PeerOptions:
    largest = max(settings.raft.max_message_bytes, settings.limits.max_batch_bytes + (4 << 10))
    return PeerOptions(
        max_frame_bytes=largest + settings.limits.max_batch_bytes + FRAME_HEAD_BYTES,
        connect_ms=settings.timeouts.peer_connect_ms,
        handshake_ms=settings.timeouts.handshake_ms,
        idle_ms=max(5_000, 5 * settings.raft.election_ms),
        unacknowledged_ms=2 * settings.raft.election_ms,
        down_jitter_ms=settings.raft.disconnect_jitter_ms,
    )


def _catalogue_limits(settings: Settings) -> CatalogueLimits:
    limits = settings.limits
    return CatalogueLimits(
        max_queues=limits.max_queues,
        max_partitions_per_queue=limits.max_partitions_per_queue,
        max_partitions=limits.max_partitions,
        max_tokens=limits.max_tokens,
        max_grants_per_token=limits.max_grants_per_token,
        max_pending_rewinds=limits.max_pending_rewinds,
    )
