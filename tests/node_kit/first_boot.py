"""First boots without trio: state machines, their cluster files as values, and a network that the test drives."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logbroker.ids import META_GROUP, NodeId, ReplicaId
from logbroker.node.bootstrap import FirstBoot, FirstBootMachine, Step
from logbroker.node.catalogue import meta_replicas
from logbroker.node.catalogue.rows import GroupRow, NodeRow, ReplicaRow, ReplicaState
from logbroker.node.cluster_file import ClusterState
from logbroker.node.cluster_messages import Join, Joined, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from logbroker.node.catalogue.commands import Bootstrap
    from logbroker.node.cluster_messages import ClusterMessage


@dataclass
class Machine:
    """One node: what is durable, and what runs, if it runs."""

    node: NodeId
    life: int
    durable: ClusterState = field(default_factory=ClusterState)
    boot: FirstBootMachine | None = None
    created: list[ReplicaId] = field(default_factory=list)
    """Replicas of the meta group that this life created."""
    founded: list[Bootstrap] = field(default_factory=list)

    @property
    def incarnation(self) -> bytes:
        return bytes((self.node, self.life)) * 8

    @property
    def row(self) -> NodeRow:
        return NodeRow(self.node, self.incarnation, f"n{self.node}:8652", "")


class Network:
    """Links deliver in order and lose everything when one of their ends goes."""

    def __init__(self, count: int = 3) -> None:
        self.nodes = tuple(NodeId(number) for number in range(1, count + 1))
        self.machines = {node: Machine(node, 1) for node in self.nodes}
        self.links: dict[tuple[NodeId, NodeId], deque[tuple[bytes, ClusterMessage]]] = {}
        self.without: dict[NodeId, tuple[NodeId, ...]] = {}
        self.cut: set[NodeId] = set()
        self.clusters = 0
        self.save_fails: Callable[[NodeId], bool] = lambda _: False

    # What happens to nodes.

    def start(self, *numbers: int, without: Iterable[int] = ()) -> None:
        for number in numbers:
            machine = self.machines[NodeId(number)]
            plan = FirstBoot("test", self.nodes, tuple(NodeId(node) for node in without))
            machine.boot = FirstBootMachine(plan, machine.row, machine.durable, self._new_cluster)
            self.connect(machine.node)

    def connect(self, node: NodeId) -> None:
        for other in self.nodes:
            peer = self.machines[other]
            if other == node or peer.boot is None or {node, other} & self.cut:
                continue
            if (node, other) in self.links:
                continue
            self.links[node, other], self.links[other, node] = deque(), deque()
            self._perform(node, self._boot(node).on_peer(other, peer.incarnation))
            if self.machines[node].boot is not None and self.machines[other].boot is not None:
                self._perform(other, self._boot(other).on_peer(node, self.machines[node].incarnation))

    def kill(self, number: int) -> None:
        """The process ends; what was saved stays."""
        node = NodeId(number)
        self.machines[node].boot = None
        self._drop_links(node)

    def wipe(self, number: int) -> None:
        """The process ends and its disk is emptied: a new life."""
        self.kill(number)
        machine = self.machines[NodeId(number)]
        self.machines[machine.node] = Machine(machine.node, machine.life + 1)

    def isolate(self, number: int) -> None:
        self.cut.add(NodeId(number))
        self._drop_links(NodeId(number))

    def heal(self) -> None:
        self.cut.clear()
        for node in self.nodes:
            if self.machines[node].boot is not None:
                self.connect(node)

    # Time and messages.

    def tick(self, number: int) -> None:
        node = NodeId(number)
        for _ in range(10):
            boot = self.machines[node].boot
            if boot is None:
                return
            step = boot.on_tick()
            self._perform(node, step)
            if step.save is None:
                return
        raise AssertionError(f"node {number} saves for ever")

    def pending(self) -> list[tuple[NodeId, NodeId]]:
        return [link for link, messages in self.links.items() if messages]

    def deliver(self, sender: NodeId, to: NodeId) -> ClusterMessage:
        incarnation, message = self.links[sender, to].popleft()
        boot = self._boot(to)
        if isinstance(message, Join) and boot.is_member:
            self._take_in(to, message)
        else:
            self._perform(to, boot.on_message(sender, incarnation, message))
        return message

    def settle(self, *, rounds: int = 30) -> None:
        """Deliver everything, with ticks in between, until nothing is on its way."""
        for _ in range(rounds):
            for node in self.nodes:
                self.tick(node)
            for _ in range(1_000):
                pending = self.pending()
                if not pending:
                    break
                self.deliver(*pending[0])
            else:
                raise AssertionError("messages are answered for ever")

    # What came of it.

    def phase(self, number: int) -> Phase:
        return self.machines[NodeId(number)].durable.phase

    def clusters_with_replicas(self) -> set[bytes]:
        """Cluster ids for which a present life of a node created a replica of the meta group."""
        return {machine.durable.cluster_id for machine in self.machines.values() if machine.created}

    def problems(self, number: int) -> list[str]:
        return self._boot(NodeId(number)).problems()

    # Inside.

    def _boot(self, node: NodeId) -> FirstBootMachine:
        boot = self.machines[node].boot
        assert boot is not None
        return boot

    def _new_cluster(self) -> bytes:
        self.clusters += 1
        return self.clusters.to_bytes(16, "big")

    def _perform(self, node: NodeId, step: Step) -> None:
        machine = self.machines[node]
        if step.save is not None:
            if self.save_fails(node):
                # Whether the bytes reached the disk is not known; the process is gone before it could say anything.
                self.kill(node)
                return
            machine.durable = step.save
        for to, message in step.sends:
            link = self.links.get((node, to))
            if link is not None:
                link.append((machine.incarnation, message))
        self._create(machine)

    def _create(self, machine: Machine) -> None:
        boot = machine.boot
        seed = None if boot is None else boot.meta_seed()
        if boot is None or seed is None:
            return
        assert machine.durable.phase.is_member, "a replica of the meta group before the word is durable"
        assert seed.replica not in machine.created, "a replica is created twice in one life"
        machine.created.append(seed.replica)
        self._perform(machine.node, boot.on_meta_replica(seed.replica))

    def _take_in(self, member: NodeId, join: Join) -> None:
        """What the meta leader does, if there could be one: a majority of the record's nodes created its replica."""
        cluster_id = self.machines[member].durable.cluster_id
        record = next(
            (
                machine.durable.record
                for machine in self.machines.values()
                if machine.durable.record is not None and machine.durable.record.cluster_id == cluster_id
            ),
            None,
        )
        if record is None or not self._leads(record):
            return
        rows = list(meta_replicas(record))
        nodes = {row.node: row for row in record.nodes}
        if nodes.get(join.row.node) != join.row:
            new = ReplicaId(100 * join.row.node + join.row.incarnation[1])
            rows.append(ReplicaRow(new, join.row.node, join.row.incarnation, ReplicaState.LEARNER))
            nodes[join.row.node] = join.row
        meta = GroupRow(META_GROUP, 0, 0, tuple(row.replica for row in meta_replicas(record)), tuple(rows))
        link = self.links.get((member, join.row.node))
        if link is not None:
            joined = Joined(cluster_id, record.name, meta, tuple(nodes.values()))
            link.append((self.machines[member].incarnation, joined))

    def _leads(self, record: Bootstrap) -> bool:
        alive = [
            row
            for row in record.nodes
            if self.machines[row.node].created and self.machines[row.node].incarnation == row.incarnation
        ]
        return 2 * len(alive) > len(record.nodes)

    def _drop_links(self, node: NodeId) -> None:
        for link in [link for link in self.links if node in link]:
            del self.links[link]
        for other in self.nodes:
            boot = self.machines[other].boot
            if other != node and boot is not None:
                boot.on_peer_gone(node)
        own = self.machines[node].boot
        if own is not None:
            for other in self.nodes:
                own.on_peer_gone(other)
