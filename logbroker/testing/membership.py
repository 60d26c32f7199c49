"""Which node holds which replica of which group, and the steps that make it so.

It stands for the catalogue and the node managers of production: it names new replicas, asks leaders for
changes of configuration, and creates and removes replicas on nodes. Each step is taken again until the
group's own configuration says that it is done, so that any crash may come in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.errors import LogBrokerError
from logbroker.ids import GroupId, NodeId, ReplicaId
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition
from logbroker.raft.messages import ConfState
from logbroker.raft.progress import ProgressState
from logbroker.testing.scheduler import US_PER_MS

if TYPE_CHECKING:
    from logbroker.node.replica import Replica
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.node import SimulatedNode

_STEP_US = 300 * US_PER_MS
_CAUGHT_UP_ENTRIES = 20
_IDS_PER_GROUP = 1_000


@final
class Membership:
    """The wanted replicas of each group, and what is on its way to them."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._founders: dict[GroupId, ConfState] = {}
        self._wanted: dict[GroupId, dict[NodeId, ReplicaId]] = {}
        self._node_of: dict[ReplicaId, NodeId] = {}
        self._next_id: dict[GroupId, int] = {}
        # Replicas that a committed configuration no longer has.
        self._outvoted: set[ReplicaId] = set()
        self._settled: dict[GroupId, bool] = {}
        self._joint_steps: dict[GroupId, int] = {}
        self._random = cluster.scheduler.random("membership")
        self.counts: dict[str, int] = {}

    def found(self, group: GroupId) -> None:
        """Name the first replicas of a group, one on each node, all voters."""
        self._next_id[group] = group * _IDS_PER_GROUP + 1
        self._wanted[group] = {node: self._name(group, node) for node in self._cluster.node_ids}
        self._founders[group] = ConfState(voters=tuple(sorted(self._wanted[group].values())))
        self._settled[group] = True

    def start(self) -> None:
        self._cluster.scheduler.after(_STEP_US, self._step)

    @property
    def is_settled(self) -> bool:
        """Every group has exactly the wanted voters, as far as was seen at the last step."""
        return all(self._settled.values())

    def replace_replicas_of(self, node: NodeId) -> None:
        """The node lost everything: its replicas are named anew in every group."""
        for group in self._wanted:
            self.replace_replica(group, node)

    def replace_replica(self, group: GroupId, node: NodeId) -> None:
        old = self._wanted[group][node]
        new = self._wanted[group][node] = self._name(group, node)
        self._settled[group] = False
        self._count("replica replaced")
        self._cluster.scheduler.note("replace replica", node, old, new)
        for other in self._cluster.nodes.values():
            self._tell_routes(other)

    def home_of(self, replica: ReplicaId) -> NodeId | None:
        """The node that a replica lives, or lived, on."""
        return self._node_of.get(replica)

    def on_start(self, node: SimulatedNode) -> None:
        """A process has started: it learns where everybody is, and makes the replicas that it should have."""
        self._tell_routes(node)
        for group in self._wanted:
            self._mend_node(group, node)

    def _name(self, group: GroupId, node: NodeId) -> ReplicaId:
        replica = ReplicaId(self._next_id[group])
        self._next_id[group] += 1
        self._node_of[replica] = node
        return replica

    def _tell_routes(self, node: SimulatedNode) -> None:
        if node.engine is not None:
            for replica, home in self._node_of.items():
                node.engine.set_route(replica, home)

    # Steps.

    def _step(self) -> None:
        self._cluster.scheduler.after(_STEP_US, self._step)
        for group in self._wanted:
            leader = self._cluster.leader_of(group)
            replica = None if leader is None else leader.replica(group)
            if replica is not None:
                self._mend_configuration(group, replica)
            for node in self._cluster.nodes.values():
                self._replace_lost(group, node)
                self._mend_node(group, node)

    def _replace_lost(self, group: GroupId, node: SimulatedNode) -> None:
        """A replica that may have forgotten what it promised is given up for good."""
        wanted = self._wanted[group][node.node]
        engine = node.engine
        if engine is None:
            return
        is_stopped = group in engine.failed_groups and wanted in self._cluster.checker.forgetful
        if wanted in engine.lost or is_stopped:
            self._count("lost replica replaced")
            self.replace_replica(group, node.node)

    def _mend_node(self, group: GroupId, node: SimulatedNode) -> None:
        engine = node.engine
        if engine is None or node.store is None:
            return
        wanted = self._wanted[group][node.node]
        for replica, stored in list(node.store.replicas.items()):
            if stored.log.group != group or replica == wanted:
                continue
            if (replica in self._outvoted or replica in engine.lost) and not node.is_removing(replica):
                self._count("replica removed from its node")
                node.remove_replica(replica)
            # A node has one replica of a group at a time.
            return
        if wanted not in node.store.replicas:
            node.create_replica(group, wanted, self._founders[group])

    def _mend_configuration(self, group: GroupId, leader: Replica) -> None:
        conf = leader.conf
        wanted = set(self._wanted[group].values())
        members = set(conf.members())
        self._outvoted.update(
            replica
            for replica, _ in self._node_of.items()
            if replica not in members and replica not in wanted and replica // _IDS_PER_GROUP == group
        )
        self._settled[group] = not conf.is_joint and set(conf.voters) == wanted and not conf.learners
        if self._settled[group]:
            return
        if conf.is_joint:
            # Whoever asked to stay in the joint configuration says when to leave it, too.
            self._joint_steps[group] = self._joint_steps.get(group, 0) + 1
            if not conf.auto_leave and self._joint_steps[group] > self._random.randrange(8):
                self._propose(leader, ConfigProposal())
            return
        self._joint_steps[group] = 0
        change = self._next_changes(leader, conf, wanted)
        if change:
            how = self._random.choice((Transition.AUTO, Transition.EXPLICIT))
            self._propose(leader, ConfigProposal(tuple(change), how if len(change) > 1 else Transition.AUTO, b""))

    def _propose(self, leader: Replica, proposal: ConfigProposal) -> None:
        try:
            leader.propose_config(proposal)
        except LogBrokerError:
            self._count("change of configuration refused")
        else:
            self._count("change of configuration proposed")

    def _next_changes(self, leader: Replica, conf: ConfState, wanted: set[ReplicaId]) -> list[ConfigChange]:
        unwanted = [replica for replica in conf.members() if replica not in wanted]
        for replica in unwanted:
            # A node has one replica of a group: where the old one still lives, it goes before the new one comes.
            store = self._cluster.nodes[self._node_of[replica]].store
            if store is not None and replica in store.replicas:
                return [ConfigChange(ChangeKind.REMOVE, replica)]
        for replica in sorted(wanted.difference(conf.members())):
            return [ConfigChange(ChangeKind.ADD_LEARNER, replica)]
        for progress in leader.core.progress():
            if progress.is_learner and progress.replica in wanted and self._is_caught_up(leader, progress.match):
                if progress.state is not ProgressState.REPLICATE:
                    continue
                home = self._node_of[progress.replica]
                replaced = [other for other in unwanted if self._node_of[other] == home]
                return [
                    ConfigChange(ChangeKind.ADD_VOTER, progress.replica),
                    *(ConfigChange(ChangeKind.REMOVE, other) for other in replaced),
                ]
        if not set(conf.learners) & wanted:
            return [ConfigChange(ChangeKind.REMOVE, replica) for replica in unwanted[:1]]
        return []

    def _is_caught_up(self, leader: Replica, match: int) -> bool:
        return match + _CAUGHT_UP_ENTRIES >= leader.core.commit

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
