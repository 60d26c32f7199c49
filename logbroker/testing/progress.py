"""Demands progress while faults go on: what must happen in good time wherever nothing stands in its way.

The other checkers say what must never happen. This one looks every half second for a leader where a majority is well
and well connected, for requests that a node keeps though it does not lead, and for files that retention has freed.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, final

from logbroker.node.requests import AckRequest, ExtendRequest, NackRequest, ReceiveRequest, RejectRequest
from logbroker.testing.network import Cut
from logbroker.testing.scheduler import US_PER_MS, US_PER_S
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from logbroker.ids import GroupId, Index, NodeId, ReplicaId
    from logbroker.storage.node_store import StoredReplica
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.node import SimulatedNode

_LOOK_US = 500 * US_PER_MS
_LEADER_WITHIN_US = 5_500 * US_PER_MS
_LET_GO_WITHIN_US = 2 * US_PER_S
_POLL_ENDS_WITHIN_US = 6 * US_PER_S
_DROPPED_WITHIN_US = 10 * US_PER_S
_ACKS_GO_ON_US = 3 * US_PER_S
_SOUND_CLOCK_MS = 400
_STRAY_CLOCK_MS = 3_000
_SOUND_LOSS = 0.02


@final
class ProgressChecker:
    """See the module. Raises Violation from within the run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._stopped = False
        # The majority that is well, per group, and since when it has been without a leader.
        self._well: dict[GroupId, tuple[frozenset[NodeId], int]] = {}
        self._led_us: dict[tuple[NodeId, GroupId], int] = {}
        self._droppable_us: dict[tuple[NodeId, int, ReplicaId, Index], int] = {}
        self._stray: set[NodeId] = set()
        self._disturbed_us: dict[NodeId, int] = {}
        # When a node's disk was last not full, or something else could hold up what the node is asked.
        self._not_just_full_us: dict[NodeId, int] = {}
        self.counts: dict[str, int] = {}

    def start(self) -> None:
        self._scheduler.after(_LOOK_US, self._look)

    def stop(self) -> None:
        """The run ends; its own demands are stricter."""
        self._stopped = True

    @property
    def has_sound_time(self) -> bool:
        """A majority of the wall clocks has never been far from true time."""
        self._note_stray_clocks()
        return 2 * len(self._stray) < len(self._cluster.node_ids)

    def _look(self) -> None:
        if self._stopped:
            return
        self._scheduler.after(_LOOK_US, self._look)
        now_us = self._scheduler.now_us
        self._note_stray_clocks()
        for node in self._cluster.nodes.values():
            if not node.is_running or node.is_paused or not node.has_good_disk:
                self._disturbed_us[node.node] = now_us
            if node.is_paused or not node.full_us or not self._hears_all(node):
                self._not_just_full_us[node.node] = now_us
        for group in self._cluster.groups:
            self._look_for_leader(group)
            for node in self._cluster.nodes.values():
                self._look_for_waiters(node, group)
        for node in self._cluster.nodes.values():
            self._look_at_files(node)

    def _note_stray_clocks(self) -> None:
        for node in self._cluster.nodes.values():
            if abs(self._clock_error_ms(node)) > _STRAY_CLOCK_MS:
                self._stray.add(node.node)

    # A leader.

    def _look_for_leader(self, group: GroupId) -> None:
        now_us = self._scheduler.now_us
        if not self._cluster.membership.is_settled:
            self._well.pop(group, None)
            return
        well = [node for node in self._cluster.nodes.values() if self._is_well(node, group)]
        known = self._well.get(group)
        if known is None or not self._is_connected(known[0], well):
            known = self._find_majority(well)
        if known is None:
            self._well.pop(group, None)
            return
        nodes, since_us = known
        if any(self._serves(node, nodes, group) for node in self._cluster.nodes.values()):
            self._count("looks at a well-connected majority that has a leader")
            since_us = now_us
        elif now_us - since_us > _LEADER_WITHIN_US:
            broken(
                "a well-connected majority has a leader",
                f"nodes {sorted(nodes)} of group {group} have had none for {(now_us - since_us) // US_PER_S} s",
            )
        else:
            self._count("looks at a well-connected majority without a leader")
        self._well[group] = nodes, since_us

    def _serves(self, node: SimulatedNode, majority: frozenset[NodeId], group: GroupId) -> bool:
        """Leads, its disk moves, and it can commit: together with those of the majority that it is linked to it is one.

        The others of them may not hear it. They ask for votes, and those that do hear it refuse (thesis 4.2.3).
        """
        # Whoever asks nothing of a disk that hangs does not notice.
        if not node.serves(group) or node.is_paused or (node.is_stalled and node.is_committing):
            return False
        if node.node in majority:
            return True
        linked = sum(self._is_linked(node.node, other) for other in majority)
        return 2 * (linked + 1) > len(self._cluster.node_ids)

    def _is_well(self, node: SimulatedNode, group: GroupId) -> bool:
        return (
            node.is_whole
            and not node.is_paused
            and node.has_good_disk
            and node.replica(group) is not None
            and abs(self._clock_error_ms(node)) < _SOUND_CLOCK_MS
        )

    def _is_connected(self, nodes: frozenset[NodeId], well: list[SimulatedNode]) -> bool:
        names = {node.node for node in well}
        return nodes <= names and all(self._is_linked(one, other) for one, other in combinations(sorted(nodes), 2))

    def _find_majority(self, well: list[SimulatedNode]) -> tuple[frozenset[NodeId], int] | None:
        needed = len(self._cluster.node_ids) // 2 + 1
        for size in range(len(well), needed - 1, -1):
            for chosen in combinations(sorted(node.node for node in well), size):
                if all(self._is_linked(one, other) for one, other in combinations(chosen, 2)):
                    return frozenset(chosen), self._scheduler.now_us
        return None

    def _is_linked(self, one: NodeId, other: NodeId) -> bool:
        network = self._cluster.network
        return network.is_connected(one, other) and all(
            network.cut_of(*way) is Cut.OPEN and network.quality_of(*way).loss_rate <= _SOUND_LOSS
            for way in ((one, other), (other, one))
        )

    def _clock_error_ms(self, node: SimulatedNode) -> int:
        return node.clock.wall_ms() - self._cluster.true_clock.wall_ms()

    # Requests.

    def _look_for_waiters(self, node: SimulatedNode, group: GroupId) -> None:
        """Whoever does not lead answers at once; whoever does ends long polls in time."""
        now_us = self._scheduler.now_us
        key = node.node, group
        if not node.is_running or node.is_paused or node.leads(group):
            self._led_us[key] = now_us
        elif now_us - self._led_us.get(key, 0) > _LET_GO_WITHIN_US:
            kept = node.kept_waiting(group, _LET_GO_WITHIN_US)
            if kept:
                broken("who does not lead keeps nobody waiting", kept[0].describe())
        just_full_us = now_us - self._not_just_full_us.get(node.node, 0)
        if just_full_us > _ACKS_GO_ON_US and node.leads(group):
            self._count("looks at a leader whose disk is full")
            for operation in node.kept_waiting(group, _ACKS_GO_ON_US):
                if isinstance(operation.request, AckRequest | NackRequest | RejectRequest | ExtendRequest):
                    broken("a full disk holds up no acks", operation.describe())
        undisturbed = now_us - self._disturbed_us.get(node.node, 0) > _POLL_ENDS_WITHIN_US
        if undisturbed and node.serves(group):
            for operation in node.overdue(_POLL_ENDS_WITHIN_US):
                request = operation.request
                if operation.partition != group or not node.has_caught_up(group):
                    continue
                if isinstance(request, ReceiveRequest) and request.wait_ms:
                    broken("long polls end in time", operation.describe())

    def _hears_all(self, node: SimulatedNode) -> bool:
        """Every other node is well, and linked to this one."""
        others = [other for other in self._cluster.nodes.values() if other is not node]
        return self._cluster.membership.is_settled and all(
            other.is_whole and not other.is_paused and other.has_good_disk and self._is_linked(node.node, other.node)
            for other in others
        )

    # Files.

    def _look_at_files(self, node: SimulatedNode) -> None:
        store, now_us = node.store, self._scheduler.now_us
        if store is None:
            return
        for replica, stored in store.replicas.items():
            freed = _freed_by_checkpoints(stored)
            if freed is None:
                continue
            key = node.node, node.life, replica, freed
            # What disturbs the disk, or is sent to a follower, may hold files up.
            if now_us - self._disturbed_us.get(node.node, 0) < US_PER_S or node.is_sending(stored.log.group):
                self._droppable_us.pop(key, None)
                continue
            since_us = self._droppable_us.setdefault(key, now_us)
            if now_us - since_us > _DROPPED_WITHIN_US:
                broken(
                    "what retention frees is deleted",
                    f"node {node.node} has kept the segment of replica {replica} that ends at {freed} for "
                    f"{(now_us - since_us) // US_PER_S} s, though two checkpoints begin behind it",
                )

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _freed_by_checkpoints(stored: StoredReplica) -> Index | None:
    """Last index of the first segment, if it lies below the log start of both checkpoints that are kept."""
    segments, starts = stored.log.state.segments, stored.kept_log_starts
    if stored.lost or len(starts) < 2 or len(segments) < 2 or segments[0].last_index >= min(starts):
        return None
    return segments[0].last_index
