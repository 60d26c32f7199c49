"""The rare moments in which several things happen at once, counted, and which of them a long run has to reach.

A checker finds nothing where nothing happens: whatever a change of the clients or faults makes unreachable is a blind
spot. So the standard run fails when one of `REQUIRED` stays at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.node.requests import AckRequest, ProduceRequest, ReceiveRequest
from logbroker.node.snapshots import SnapshotWriteJob
from logbroker.storage.flush import CheckpointJob, FlushJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logbroker.ids import GroupId
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.node import SimulatedNode

STANDARD_RUNS = 100
STANDARD_SECONDS = 60
"""A run of so many seeds, each so long, has to reach everything in `REQUIRED`."""

REQUIRED = (
    "leader change: during snapshot install",
    "leader change: during a flush",
    "leader change: with a commit in flight",
    "leader change: while a replica is replaced",
    "leader change: with a full disk somewhere",
    "leader change: with a damaged replica",
    "leader change: with acks open",
    "leader change: with produces open",
    "leader change: with polls open",
    "crash: of a leader",
    "crash: during snapshot install",
    "crash: during a flush",
    "crash: during a checkpoint",
    "crash: during a commit",
    "crash: while a replica is replaced",
    "log start raised: during snapshot install",
    "log start raised: with a follower down",
    "strike on a leader: full disk",
    "strike on a leader: stalled disk",
    "strike on a leader: pause",
    "strike on a leader: bit rot",
    "strike on a leader: misdirected write",
    "strike on a leader: wiped disk",
    "strike on a leader: clock jump of days",
    "strike on a leader: leadership transfer",
    "strike on a leader: replica moved",
    "log: FLOOR",
    "log: Rewind",
    "log: SkipTo",
    "log: Release",
    "log: Expire",
    "log: CONFIG",
    "log: Bury",
    "log: BuryExpired",
    "log: Revive",
    "log: BuryOld",
    "log: RewindFloor",
    "rewound: up to the rewind floor",
    "ProduceRequest refused queue_full",
    "replica: log starts that were raised for want of room",
    "log: Pause",
    "log: Resume",
    "log: Purge",
    "log: Purge of dead messages",
    "log: Purge of leased messages",
    "log: Lease after the end of a pause",
    "leader change: with a paused group",
    "judged: receives that a pause held up",
    "breaker: tripped",
    "breaker: tripped again",
    "breaker: with deliveries that ended meanwhile",
    "leader change: with a group that its breaker paused",
    "buried: rejected",
    "buried: nacked for the last time",
    "buried: ran out for the last time",
    "buried: by a receive",
    "buried: too old, as fresh",
    "buried: too old, as given back",
    "buried: too old, as delayed",
    "revived",
    "log: DeliverAt",
    "log: Cancel",
    "delayed",
    "delayed: delivered when due",
    "delayed: cancelled",
    "delayed: skipped and rewound before it was due",
    "delayed: group made before it was due",
    "judged: cancelled too late",
    "leader change: with delayed messages that are not due",
    "crash: with delayed messages that are not due",
    "judged: dead messages listed",
    "leader change: with dead messages",
    "leader change: with messages on their way",
    "moved: taken",
    "moved: ended",
    "moved: refused",
    "moved: never taken",
    "judged: MoveReply",
    "ids: duplicates",
    "ids: conflicts",
    "ids: new again after their window",
    "ids: batches that repeat all",
    "judged: batches of known ids not appended",
    "judged: batches with ids sent again",
    "judged: OutOfOrderSequenceError",
    "judged: receives that found nothing",
    "judged: spoilt batches refused",
    "order: leases judged",
    "order: the window is full",
    "order: passed over a key that is locked",
    "order: passed over a key that waits after a failure",
    "order: a failed message is overtaken by the next of its key",
    "leader change: with keys in flight",
    "judged: receives that found nothing while nothing was in flight",
    "node: crash in recovery",
    "node: entries damaged at a start",
    "node: replicas lost at a start",
    "node: writes refused for want of room",
    "node: leaderships lost for want of a quorum",
    "replica: logs cut for a new leader",
    "replica: snapshots installed",
    "replica: log starts that were raised in time",
    "membership: lost replica replaced",
    "progress: looks at a well-connected majority without a leader",
)


def missing(counts: Mapping[str, int]) -> list[str]:
    """Those of the required situations that were never reached."""
    return [name for name in REQUIRED if not counts.get(name)]


@final
class Situations:
    """Looks around when something happens, and counts what else goes on. Judges nothing."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.counts: dict[str, int] = {}

    def on_leader(self, group: GroupId) -> None:
        """Somebody has begun to lead."""
        for what in self._going_on(group):
            self._count(f"leader change: {what}")
        model = self._cluster.checker.history(group).model
        if any(each.has_dead(model.log_start_offset, model.next_offset) for each in model.groups.values()):
            self._count("leader change: with dead messages")
        if model.order is not None and model.order.by_key and any(each.has_leased() for each in model.groups.values()):
            self._count("leader change: with keys in flight")
        if any(each.pause is not None and each.pause.holds_at(model.append_ms) for each in model.groups.values()):
            self._count("leader change: with a paused group")
        if any(each.has_tripped_at(model.append_ms) for each in model.groups.values()):
            self._count("leader change: with a group that its breaker paused")
        if self._is_waiting(group):
            self._count("leader change: with delayed messages that are not due")
        if model.moves.owed():
            self._count("leader change: with messages on their way")
        for kind, name in ((AckRequest, "acks"), (ProduceRequest, "produces"), (ReceiveRequest, "polls")):
            if any(isinstance(asked.request, kind) for node in self._nodes() for asked in node.kept_waiting(group, 0)):
                self._count(f"leader change: with {name} open")

    def on_crash(self, node: SimulatedNode) -> None:
        """A process is about to end."""
        if any(node.leads(group) for group in self._cluster.groups):
            self._count("crash: of a leader")
        if any(map(self._is_waiting, self._cluster.groups)):
            self._count("crash: with delayed messages that are not due")
        work = _work_of(node)
        if any(node.is_filling(group) for group in self._cluster.groups):
            work.append("during snapshot install")
        for what in dict.fromkeys(work):
            self._count(f"crash: {what}")
        if not self._cluster.membership.is_settled:
            self._count("crash: while a replica is replaced")

    def on_floor(self, group: GroupId) -> None:
        """The log start of a group was raised."""
        if any(node.is_filling(group) for node in self._nodes()):
            self._count("log start raised: during snapshot install")
        if not all(node.is_running for node in self._nodes()):
            self._count("log start raised: with a follower down")

    def on_strike(self, kind: str, node: SimulatedNode) -> None:
        """A fault of this kind strikes the node."""
        if any(node.leads(group) for group in self._cluster.groups):
            self._count(f"strike on a leader: {kind}")

    def _is_waiting(self, group: GroupId) -> bool:
        model = self._cluster.checker.history(group).model
        return model.schedule.left_ms(model.append_ms) > 0

    def _going_on(self, group: GroupId) -> Iterator[str]:
        nodes = self._nodes()
        if any(node.is_filling(group) for node in nodes):
            yield "during snapshot install"
        if any("during a flush" in _work_of(node) for node in nodes):
            yield "during a flush"
        if any("during a commit" in _work_of(node) for node in nodes):
            yield "with a commit in flight"
        if not self._cluster.membership.is_settled:
            yield "while a replica is replaced"
        if any(node.has_full_disk for node in nodes):
            yield "with a full disk somewhere"
        if any(node.is_running and not node.is_whole for node in nodes):
            yield "with a damaged replica"

    def _nodes(self) -> list[SimulatedNode]:
        return list(self._cluster.nodes.values())

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _work_of(node: SimulatedNode) -> list[str]:
    """What the disk of a node is being asked for."""
    found = ["during a commit"] if node.is_committing else []
    match node.background:
        case FlushJob():
            found.append("during a flush")
        case CheckpointJob():
            found.append("during a checkpoint")
        case SnapshotWriteJob():
            found.append("during snapshot install")
        case _:
            pass
    return found
