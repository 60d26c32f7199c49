"""Commands about nodes and replicas: who the cluster is, who comes, who goes, and what moves because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import META_GROUP, NO_REPLICA, GroupId, NodeId, ReplicaId
from logbroker.node.catalogue import placement
from logbroker.node.catalogue.bounds import MAX_NODES, MAX_RETIRED_INCARNATIONS
from logbroker.node.catalogue.outcomes import (
    Done,
    NodeJoined,
    Outcome,
    Refused,
    ReplicasPlaced,
    exists,
    invalid,
    not_found,
    too_many,
)
from logbroker.node.catalogue.placement import Misplaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.catalogue.commands import (
        Bootstrap,
        ForgetNode,
        JoinNode,
        PromoteReplica,
        RemoveReplica,
        SetMembers,
        StartMove,
        StopMove,
    )
    from logbroker.node.catalogue.rows import GroupRow, NodeRow, ReplicaRow
    from logbroker.node.catalogue.state import CatalogueState


def meta_replicas(command: Bootstrap) -> tuple[ReplicaRow, ...]:
    """The meta group's first voters: one a node that takes part, numbered from 1 by node id.

    Known before the meta group has a log, so that all who hold the bootstrap record make the same replicas.
    """
    nodes = sorted(command.nodes, key=lambda row: row.node)
    return placement.found(META_GROUP, queue_id=0, partition=0, nodes=nodes, first_replica=ReplicaId(1)).replicas


def bootstrap(state: CatalogueState, command: Bootstrap) -> Outcome:
    if state.is_bootstrapped:
        if state.cluster_id == command.cluster_id:
            return Done(already=True)
        return exists(f"this is cluster {state.name} ({state.cluster_id.hex()}), not {command.cluster_id.hex()}")
    taking_part = [row.node for row in command.nodes]
    members = sorted([*taking_part, *command.without])
    if len(set(members)) != len(members):
        return invalid(f"a node is named twice among {members}")
    if not any(command.cluster_id):
        return invalid("a cluster id of zeros stands for none")
    nodes = sorted(command.nodes, key=lambda row: row.node)
    state.cluster_id = command.cluster_id
    state.name = command.name
    state.members = tuple(members)
    state.without = tuple(sorted(command.without))
    state.nodes = {row.node: row for row in nodes}
    state.groups[META_GROUP] = placement.found(
        META_GROUP, queue_id=0, partition=0, nodes=nodes, first_replica=ReplicaId(state.next_replica)
    )
    state.next_replica += len(nodes)
    return Done()


def join_node(state: CatalogueState, command: JoinNode) -> Outcome:
    row = command.row
    before = state.nodes.get(row.node)
    if before is None and len(state.nodes) >= MAX_NODES:
        return too_many(f"the cluster has {len(state.nodes)} nodes, the most is {MAX_NODES}")
    if (row.node, row.incarnation) in state.retired:
        return invalid(
            f"this data directory of node {row.node} was replaced by another (incarnation {row.incarnation.hex()})",
            hint="empty the data directory, or give the node a number of its own",
        )
    placed = _renew_replicas(state, row)
    if isinstance(placed, Refused):
        return placed
    _retire(state, before, row)
    state.nodes[row.node] = row
    _commit(state, placed)
    return NodeJoined(row.node, already=before == row and not placed, replicas=_new_replicas(placed))


def set_members(state: CatalogueState, command: SetMembers) -> Outcome:
    members = sorted(set(command.nodes))
    if not members or len(members) != len(command.nodes):
        return invalid(f"members {list(command.nodes)} are not one node or more, each once")
    unknown = [node for node in members if node not in state.nodes]
    if unknown:
        return not_found(f"nodes {unknown} have not joined the cluster")
    placed: list[tuple[GroupRow, list[ReplicaId]]] = []
    next_id = _ids_from(state.next_replica)
    for group in state.groups_in_order():
        moved = _follow_members(group, members, state, next_id)
        if isinstance(moved, Misplaced):
            return too_many(moved.why, hint="wait until the moves under way are done")
        if moved is not None:
            placed.append(moved)
    already = state.members == tuple(members) and not placed
    state.members = tuple(members)
    _commit(state, placed)
    return Done(already=True) if already else ReplicasPlaced(_new_replicas(placed))


def forget_node(state: CatalogueState, command: ForgetNode) -> Outcome:
    row = state.nodes.get(command.node)
    if row is None:
        return Done(already=True)
    if command.node in state.members:
        return invalid(f"node {command.node} is a member; take it out of the members first")
    holding = [group.group for group in state.groups_in_order() if any(r.node == command.node for r in group.replicas)]
    if holding:
        return invalid(f"node {command.node} still holds replicas of {len(holding)} groups, the first is {holding[0]}")
    _retire(state, row, None)
    del state.nodes[command.node]
    return Done()


def start_move(state: CatalogueState, command: StartMove) -> Outcome:
    group = state.groups.get(command.group)
    node = state.nodes.get(command.node)
    if group is None:
        return not_found(f"there is no group {command.group}")
    if node is None:
        return not_found(f"node {command.node} has not joined the cluster")
    new = ReplicaId(state.next_replica)
    moved = placement.add(group, node, new, old=command.old)
    if isinstance(moved, Misplaced):
        return invalid(moved.why)
    state.take_replica_id()
    state.groups[group.group] = moved
    return ReplicasPlaced(((group.group, new),))


def stop_move(state: CatalogueState, command: StopMove) -> Outcome:
    group = state.groups.get(command.group)
    row = group.replica(command.new) if group is not None else None
    waiting = group.replica(row.replaces) if group is not None and row is not None else None
    if waiting is not None and _is_of_an_earlier_life(state, waiting):
        return invalid(f"replica {waiting.replica} of group {command.group} is lost; it cannot take its place back")
    return _step(state, command.group, lambda group: placement.stop(group, command.new))


def promote_replica(state: CatalogueState, command: PromoteReplica) -> Outcome:
    return _step(state, command.group, lambda group: placement.promote(group, command.replica))


def remove_replica(state: CatalogueState, command: RemoveReplica) -> Outcome:
    if command.replica >= state.next_replica:
        return not_found(f"there never was a replica {command.replica}")
    return _step(state, command.group, lambda group: placement.remove(group, command.replica))


def _step(state: CatalogueState, group_id: GroupId, step: Callable[[GroupRow], GroupRow | Misplaced]) -> Outcome:
    group = state.groups.get(group_id)
    if group is None:
        return not_found(f"there is no group {group_id}")
    moved = step(group)
    if isinstance(moved, Misplaced):
        return invalid(moved.why)
    state.groups[group_id] = moved
    return Done(already=moved is group)


def _renew_replicas(state: CatalogueState, node: NodeRow) -> list[tuple[GroupRow, list[ReplicaId]]] | Refused:
    """Plan replicas for what `node` has lost with an earlier life, and for groups that lack one on it."""
    placed: list[tuple[GroupRow, list[ReplicaId]]] = []
    next_id = _ids_from(state.next_replica)
    for group in state.groups_in_order():
        lost = placement.lost_on(group, node)
        if lost is None and node.node not in placement.missing(group, state.members):
            continue
        new = next_id()
        moved = placement.add(group, node, new, old=lost.replica if lost is not None else NO_REPLICA)
        if isinstance(moved, Misplaced):
            return too_many(moved.why, hint="wait until the moves under way are done")
        placed.append((moved, [new]))
    return placed


def _follow_members(
    group: GroupRow, members: list[NodeId], state: CatalogueState, next_id: Callable[[], ReplicaId]
) -> tuple[GroupRow, list[ReplicaId]] | Misplaced | None:
    coming = placement.missing(group, members)
    going = placement.surplus(group, members)
    if not coming and not going:
        return None
    new_ids: list[ReplicaId] = []
    for place in range(max(len(coming), len(going))):
        old = going[place].replica if place < len(going) else NO_REPLICA
        if place < len(coming):
            new_ids.append(next_id())
            moved = placement.add(group, state.nodes[coming[place]], new_ids[-1], old=old)
        else:
            moved = placement.leave(group, old)
        if isinstance(moved, Misplaced):
            return moved
        group = moved
    return group, new_ids


def _ids_from(first: int) -> Callable[[], ReplicaId]:
    """Count up from `first`, without taking the ids from the state yet: the command may still be refused."""
    following = iter(range(first, first + (1 << 32)))
    return lambda: ReplicaId(next(following))


def _commit(state: CatalogueState, placed: list[tuple[GroupRow, list[ReplicaId]]]) -> None:
    for group, new_ids in placed:
        state.groups[group.group] = group
        state.next_replica += len(new_ids)


def _new_replicas(placed: list[tuple[GroupRow, list[ReplicaId]]]) -> tuple[tuple[GroupId, ReplicaId], ...]:
    return tuple((group.group, new) for group, new_ids in placed for new in new_ids)


def _retire(state: CatalogueState, before: NodeRow | None, after: NodeRow | None) -> None:
    if before is not None and (after is None or after.incarnation != before.incarnation):
        state.retired = (*state.retired, (before.node, before.incarnation))[-MAX_RETIRED_INCARNATIONS:]


def _is_of_an_earlier_life(state: CatalogueState, row: ReplicaRow) -> bool:
    node = state.nodes.get(row.node)
    return node is None or node.incarnation != row.incarnation
