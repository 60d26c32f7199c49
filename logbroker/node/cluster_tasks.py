"""The node's part in its cluster: founding or joining it, and keeping its replicas as the catalogue says.

The trio side of `bootstrap` and `placement`, and thin: it feeds them, makes durable what they ask for, and sends.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NoReturn, final

import trio

from logbroker.errors import ConfigurationError, CorruptBatchError, LogBrokerError
from logbroker.ids import META_GROUP, NodeId
from logbroker.node.bootstrap import FirstBoot, FirstBootMachine, Step
from logbroker.node.catalogue import Catalogue, NodeJoined, Outcome
from logbroker.node.catalogue.commands import (
    Bootstrap,
    Command,
    FinishRewind,
    JoinNode,
    PromoteReplica,
    RemoveReplica,
    StartMove,
    decode_commands,
    encode_commands,
)
from logbroker.node.catalogue.rows import NodeRow, ReplicaRow, ReplicaState
from logbroker.node.cluster_messages import ClusterMessage, Join, Joined, Refusal, Report
from logbroker.node.placement import Creation, Placement

if TYPE_CHECKING:
    from logbroker.node.catalogue_service import CatalogueService
    from logbroker.node.cluster_file import ClusterFile
    from logbroker.node.engine import Engine

logger = logging.getLogger(__name__)

ROUND_S = 0.25
MAX_INBOX = 4_096
"""Messages that wait for a write of the cluster file; more are dropped, all of them are repeated."""

REPORTED = (PromoteReplica, RemoveReplica, StartMove, JoinNode, FinishRewind)
"""What a node may ask of the meta leader; everything else comes from people, by way of the server."""

_Input = Callable[[], Step | None]


@final
class ClusterTasks:
    """`send` puts a cluster message on its way; `wake` tells the engine that it has something to do.

    Raises:
        ConfigurationError: the data directory belongs to another cluster than the configuration says.
        DamageError: it is not known to which it belongs.
    """

    def __init__(
        self,
        engine: Engine,
        plan: FirstBoot,
        me: NodeRow,
        file: ClusterFile,
        *,
        send: Callable[[NodeId, ClusterMessage], None],
        set_address: Callable[[NodeId, str], None],
        wake: Callable[[], None],
        catalogue_service: Callable[[], CatalogueService | None],
        now_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._me = me
        self._file = file
        self._send = send
        self._set_address = set_address
        self._wake = wake
        self._service = catalogue_service
        self._now_ms = now_ms
        state = file.read()
        if state.phase.is_member and state.name != plan.name:
            raise ConfigurationError(
                f"the data directory belongs to cluster {state.name!r}, the configuration says {plan.name!r}",
                hint="set cluster.name as it was, or give this node a data directory of its own",
            )
        self._machine = FirstBootMachine(plan, me, state, lambda: secrets.token_bytes(16))
        self._inbox: deque[_Input] = deque()
        self._has_input = trio.Event()
        self.dropped = 0
        self.placement = Placement(engine, me, self.report, set_address)

    @property
    def cluster_id(self) -> bytes:
        """16 bytes once this node is a member, else none."""
        return self._machine.state.cluster_id if self._machine.is_member else b""

    @property
    def phase(self) -> str:
        return self._machine.state.phase.name.lower()

    def problems(self) -> list[str]:
        return [*self._machine.problems(), *self.placement.problems]

    def bootstrap_command(self) -> Bootstrap | None:
        return self._machine.bootstrap_command()

    def leave_out(self, nodes: Collection[NodeId]) -> None:
        """See `FirstBootMachine.leave_out`. Raises InvalidArgumentError."""
        self._machine.leave_out(nodes)
        self._has_input.set()

    # Inputs, from trio's thread; none of them blocks.

    def on_peer(self, node: NodeId, incarnation: bytes) -> None:
        self._put(lambda: self._machine.on_peer(node, incarnation))

    def on_peer_gone(self, node: NodeId) -> None:
        self._put(lambda: self._machine.on_peer_gone(node))

    def on_message(self, sender: NodeId, incarnation: bytes, message: ClusterMessage) -> None:
        self._put(lambda: self._take(sender, incarnation, message))

    def on_catalogue(self) -> None:
        """The applied catalogue is another one."""
        self.placement.reconcile(self._now_ms())

    def report(self, commands: Sequence[Command]) -> None:
        """Take commands to the meta leader. Where there is none they are lost, and said again later."""
        service = self._service()
        if service is not None and service.replica.is_serving:
            for command in commands:
                service.propose(command, _ignore)
            self._wake()
            return
        leader = self._engine.leader_node(META_GROUP)
        if leader is not None and leader != self._me.node:
            self._send(leader, Report(encode_commands(commands)))

    async def run(self) -> NoReturn:
        """Take part until cancelled; a save under way is finished first."""
        next_round = trio.current_time()
        while True:
            while self._inbox:
                step = self._inbox.popleft()()
                await self._perform(step)
                if step is not None and step.save is not None:
                    next_round = trio.current_time()
            if trio.current_time() >= next_round:
                next_round = trio.current_time() + ROUND_S
                await self._round()
            self._has_input = trio.Event()
            with trio.move_on_at(next_round):
                await self._has_input.wait()

    async def prepare(self) -> None:
        """Before anything is sent: hold the file against what the store has."""
        for stored in list(self._engine.store.replicas.values()):
            if stored.log.group == META_GROUP and stored.log.state.directory:
                # The process may have ended between the replica's birth and the note of it.
                await self._perform(self._machine.on_meta_replica(stored.log.replica))
        self._machine.has_meta = META_GROUP in self._engine.replicas
        # A catalogue that was never in a checkpoint knows no addresses before it has a leader, which it cannot get
        # without them: those of the founders stand in the record.
        self._route(self._machine.founders())
        self.placement.reconcile(self._now_ms())

    # Inside.

    def _put(self, act: _Input) -> None:
        if len(self._inbox) >= MAX_INBOX:
            self.dropped += 1
            return
        self._inbox.append(act)
        self._has_input.set()

    async def _round(self) -> None:
        machine = self._machine
        held = self._engine.replicas.get(META_GROUP)
        machine.has_meta = held is not None
        if held is not None:
            await self._perform(machine.on_meta_replica(held.id))
        machine.lost = self.placement.lost_replicas()
        step = machine.on_tick()
        await self._perform(step)
        while step.save is not None:
            step = machine.on_tick()
            await self._perform(step)
        self._seed()
        now_ms = self._now_ms()
        self.placement.reconcile(now_ms)
        self.placement.first_leaders(now_ms)
        self._wake()

    async def _perform(self, step: Step | None) -> None:
        if step is None:
            return
        if step.save is not None:
            state = step.save
            logger.info("cluster_phase phase=%s cluster=%s", state.phase.name.lower(), state.cluster_id.hex())
            await trio.to_thread.run_sync(self._file.write, state)
        for node, message in step.sends:
            self._send(node, message)

    def _seed(self) -> None:
        """Create this node's replica of the meta group, where a word that names this life of the node says so."""
        seed = self._machine.meta_seed()
        if seed is None:
            return
        self._route((seed.replicas, seed.nodes))
        self.placement.create(Creation(META_GROUP, seed.replica, seed.voters))

    def _route(self, founders: tuple[Sequence[ReplicaRow], Sequence[NodeRow]]) -> None:
        rows, nodes = founders
        for node in nodes:
            if node.node != self._me.node and node.peer_address:
                self._set_address(node.node, node.peer_address)
        for row in rows:
            self._engine.set_route(row.replica, row.node)

    def _take(self, sender: NodeId, incarnation: bytes, message: ClusterMessage) -> Step | None:
        match message:
            case Join() if self._machine.is_member:
                if (message.row.node, message.row.incarnation) == (sender, incarnation):
                    self._take_in(message)
                return None
            case Report():
                self._take_report(message)
                return None
            case _:
                return self._machine.on_message(sender, incarnation, message)

    def _take_in(self, join: Join) -> None:
        """The meta leader takes a node in, or tells it again what it has; all others stay silent."""
        service = self._service()
        if service is None or not service.replica.is_serving:
            return
        row = join.row
        service.propose(JoinNode(row), lambda outcome: self._answer_join(row.node, outcome))
        for replica in join.lost:
            for group in service.catalogue.groups():
                lost = group.replica(replica)
                if lost is not None and lost.node == row.node and lost.state is not ReplicaState.LEAVING:
                    service.propose(StartMove(group.group, replica, row.node), _ignore)
        self._wake()

    def _answer_join(self, node: NodeId, outcome: Outcome | LogBrokerError) -> None:
        service = self._service()
        if service is None:
            return
        catalogue = service.catalogue
        meta = catalogue.group(META_GROUP)
        if isinstance(outcome, LogBrokerError):
            self._send(node, Refusal(catalogue.cluster_id, outcome.message))
        elif isinstance(outcome, NodeJoined) and meta is not None:
            self._send(node, Joined(catalogue.cluster_id, catalogue.name, meta, tuple(catalogue.nodes())))

    def _take_report(self, report: Report) -> None:
        service = self._service()
        if service is None or not service.replica.is_serving:
            return
        try:
            commands = decode_commands(report.commands)
        except CorruptBatchError as error:
            logger.warning("report_refused reason=%r", error.message)
            return
        for command in commands:
            if isinstance(command, REPORTED):
                service.propose(command, _ignore)
        self._wake()

    @property
    def catalogue(self) -> Catalogue | None:
        return self.placement.catalogue()


def _ignore(_: Outcome | LogBrokerError) -> None:
    """Reports are repeated until the catalogue shows them."""
