"""Where the replicas of one group stand and how they move: pure functions from one GroupRow to the next.

A move: a new replica appears as LEARNER and the one it replaces turns LEAVING. The node creates the new one, its
group's leader adds it to the configuration and fills it. Once that configuration has made it a voter it is VOTER here,
and only then may the old one be dropped from the configuration, and after that from here. Replica ids are never used
again, so each step may be reported any number of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from msgspec.structs import replace

from logbroker.ids import NO_REPLICA, GroupId, NodeId, ReplicaId
from logbroker.node.catalogue.bounds import MAX_REPLICAS_PER_GROUP
from logbroker.node.catalogue.rows import GroupRow, NodeRow, ReplicaRow, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Collection


@final
@dataclass(frozen=True, slots=True)
class Misplaced:
    """The step does not fit the group."""

    why: str


def found(
    group: GroupId, *, queue_id: int, partition: int, nodes: Collection[NodeRow], first_replica: ReplicaId
) -> GroupRow:
    """Make a group with one voter on each of `nodes`; replica ids count up from `first_replica` in their order."""
    replicas = tuple(
        ReplicaRow(ReplicaId(first_replica + place), node.node, node.incarnation, ReplicaState.VOTER)
        for place, node in enumerate(nodes)
    )
    return GroupRow(group, queue_id, partition, tuple(row.replica for row in replicas), replicas)


def add(group: GroupRow, node: NodeRow, new: ReplicaId, *, old: ReplicaId = NO_REPLICA) -> GroupRow | Misplaced:
    """Put replica `new` on `node`, in place of `old` if that is not 0."""
    leaver = group.replica(old)
    if old != NO_REPLICA and (leaver is None or leaver.state is ReplicaState.LEAVING):
        return Misplaced(f"group {group.group} has no replica {old} that stays")
    present = next((row for row in group.staying() if row.node == node.node), None)
    if present is not None and present.replica != old:
        return Misplaced(f"node {node.node} has replica {present.replica} of group {group.group} already")
    if len(group.replicas) >= MAX_REPLICAS_PER_GROUP:
        return Misplaced(
            f"group {group.group} has {len(group.replicas)} replicas, leaving ones included; "
            f"the most is {MAX_REPLICAS_PER_GROUP}"
        )
    if leaver is not None and leaver.state is ReplicaState.LEARNER:
        # It never had a vote to hand on: whoever waited for it waits for the new one.
        old = leaver.replaces
    fresh = ReplicaRow(new, node.node, node.incarnation, ReplicaState.LEARNER, old)
    group = group if leaver is None else _with(group, replace(leaver, state=ReplicaState.LEAVING, replaces=NO_REPLICA))
    return replace(group, replicas=(*group.replicas, fresh))


def leave(group: GroupRow, old: ReplicaId) -> GroupRow | Misplaced:
    """Let `old` go with nothing in its place. What it was to replace goes too, as it would have."""
    row = group.replica(old)
    if row is None:
        return Misplaced(f"group {group.group} has no replica {old}")
    return _with(group, replace(row, state=ReplicaState.LEAVING, replaces=NO_REPLICA))


def stop(group: GroupRow, new: ReplicaId) -> GroupRow | Misplaced:
    """Take back the coming of a learner; the replica that it was to replace stays."""
    row = group.replica(new)
    if row is None or row.state is not ReplicaState.LEARNER:
        return Misplaced(f"replica {new} of group {group.group} is not a learner")
    waiting = group.replica(row.replaces)
    group = _with(group, replace(row, state=ReplicaState.LEAVING, replaces=NO_REPLICA))
    if waiting is None or waiting.node in {other.node for other in group.staying()}:
        return group
    return _with(group, replace(waiting, state=ReplicaState.VOTER))


def promote(group: GroupRow, replica: ReplicaId) -> GroupRow | Misplaced:
    """Record that the group's configuration has made `replica` a voter."""
    row = group.replica(replica)
    if row is None:
        return Misplaced(f"group {group.group} has no replica {replica}")
    if row.state is not ReplicaState.LEARNER:
        return group
    return _with(group, replace(row, state=ReplicaState.VOTER, replaces=NO_REPLICA))


def remove(group: GroupRow, replica: ReplicaId) -> GroupRow | Misplaced:
    """Record that the group's configuration does not hold `replica` any more."""
    row = group.replica(replica)
    if row is None:
        return group
    if row.state is not ReplicaState.LEAVING:
        return Misplaced(f"replica {replica} of group {group.group} is not leaving")
    if group.is_awaited(replica):
        return Misplaced(f"what replaces replica {replica} of group {group.group} is a learner still")
    return replace(group, replicas=tuple(other for other in group.replicas if other.replica != replica))


def lost_on(group: GroupRow, node: NodeRow) -> ReplicaRow | None:
    """The staying replica that belongs to an earlier life of `node`, if there is one."""
    return next((row for row in group.staying() if row.node == node.node and row.incarnation != node.incarnation), None)


def missing(group: GroupRow, members: Collection[NodeId]) -> list[NodeId]:
    """Members without a staying replica, in ascending order."""
    return sorted(set(members) - {row.node for row in group.staying()})


def surplus(group: GroupRow, members: Collection[NodeId]) -> list[ReplicaRow]:
    """Staying replicas on nodes that are no members, in their order."""
    return [row for row in group.staying() if row.node not in members]


def _with(group: GroupRow, row: ReplicaRow) -> GroupRow:
    return replace(group, replicas=tuple(row if other.replica == row.replica else other for other in group.replicas))
