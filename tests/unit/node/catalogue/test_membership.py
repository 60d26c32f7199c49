"""Nodes and replicas: bootstrap, joining, another life of a node, moves, and growth of the cluster."""

from __future__ import annotations

import pytest

from logbroker.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, RequestTooLargeError
from logbroker.ids import META_GROUP, GroupId, NodeId, ReplicaId
from logbroker.node.catalogue import Catalogue, Done, NodeJoined, Refused, ReplicasPlaced, meta_replicas
from logbroker.node.catalogue.bounds import MAX_NODES, MAX_REPLICAS_PER_GROUP
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
from logbroker.node.catalogue.rows import GroupRow, ReplicaState
from tests.unit.node.catalogue.kit import CLUSTER_ID, bootstrap, cluster, create, expect, join, life, node, run

V, L, X = ReplicaState.VOTER, ReplicaState.LEARNER, ReplicaState.LEAVING


def group(catalogue: Catalogue, number: int) -> GroupRow:
    found = catalogue.group(GroupId(number))
    assert found is not None
    return found


def shape(row: GroupRow) -> list[tuple[int, int, ReplicaState, int]]:
    """(replica, node, state, replaces) of each replica."""
    return [(r.replica, r.node, r.state, r.replaces) for r in row.replicas]


def settle(catalogue: Catalogue) -> None:
    """Play the leaders of all groups: promote every learner, then remove whatever leaves."""
    for row in catalogue.unsettled_groups():
        for replica in row.replicas:
            if replica.state is L:
                assert run(catalogue, PromoteReplica(row.group, replica.replica)) == Done()
        for replica in row.replicas:
            if replica.state is X:
                assert run(catalogue, RemoveReplica(row.group, replica.replica)) == Done()


def test_nothing_but_the_bootstrap_is_taken_before_it() -> None:
    refused = expect(Refused, join(Catalogue.new(), 1))
    assert refused.message == "the cluster is not bootstrapped yet"


def test_the_bootstrap_makes_the_meta_group_that_everybody_derived_from_it_before() -> None:
    command = bootstrap(3, 1, 2)
    catalogue = Catalogue.new()
    assert run(catalogue, command) == Done()
    assert (catalogue.cluster_id, catalogue.name, catalogue.members) == (CLUSTER_ID, "test", (1, 2, 3))
    assert group(catalogue, META_GROUP).replicas == meta_replicas(command)
    assert shape(group(catalogue, META_GROUP)) == [(1, 1, V, 0), (2, 2, V, 0), (3, 3, V, 0)]


def test_the_same_bootstrap_again_is_nothing_and_another_one_is_refused() -> None:
    catalogue = cluster()
    assert run(catalogue, bootstrap(1, 2, 3)) == Done(already=True)
    other = Bootstrap(b"d" * 16, "other", (node(1),))
    assert expect(Refused, run(catalogue, other)).kind is AlreadyExistsError


@pytest.mark.parametrize(
    "command",
    [
        Bootstrap(CLUSTER_ID, "x", (node(1), node(1))),
        Bootstrap(CLUSTER_ID, "x", (node(1),), (NodeId(1),)),
        Bootstrap(bytes(16), "x", (node(1),)),
    ],
)
def test_a_bootstrap_that_contradicts_itself_is_refused(command: Bootstrap) -> None:
    catalogue = Catalogue.new()
    assert expect(Refused, run(catalogue, command)).kind is InvalidArgumentError
    assert not catalogue.is_bootstrapped


def test_a_node_that_the_bootstrap_went_without_joins_every_group_as_a_learner() -> None:
    catalogue = cluster(1, 2, without=(3,))
    create(catalogue, "q")
    assert (catalogue.members, catalogue.without) == ((1, 2, 3), (3,))
    assert {row.node for row in group(catalogue, 1).replicas} == {1, 2}
    joined = expect(NodeJoined, join(catalogue, 3))
    assert joined.replicas == ((META_GROUP, 5), (1, 6))
    assert shape(group(catalogue, 0))[-1] == (5, 3, L, 0)
    assert group(catalogue, 0).initial == (1, 2)
    settle(catalogue)
    assert [r.state for r in group(catalogue, 1).replicas] == [V, V, V]


def test_a_node_that_joins_again_with_the_same_data_changes_only_its_addresses() -> None:
    catalogue = cluster()
    assert join(catalogue, 2) == NodeJoined(NodeId(2), already=True)
    moved = node(2).__class__(NodeId(2), life(1), "elsewhere:1", "")
    assert run(catalogue, JoinNode(moved)) == NodeJoined(NodeId(2), already=False)
    assert catalogue.node(NodeId(2)) == moved


def test_a_node_that_is_no_member_joins_and_holds_nothing() -> None:
    catalogue = cluster()
    assert join(catalogue, 7) == NodeJoined(NodeId(7), already=False)
    assert list(catalogue.replicas_on(NodeId(7), life(1))) == []


def test_an_emptied_disk_gets_new_replicas_and_the_old_ones_keep_their_vote_until_those_are_voters() -> None:
    catalogue = cluster()
    create(catalogue, "q")
    joined = expect(NodeJoined, join(catalogue, 2, alive=2))
    assert joined.replicas == ((META_GROUP, 7), (1, 8))
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (2, 2, X, 0), (3, 3, V, 0), (7, 2, L, 2)]
    assert [row.replica for _, row in catalogue.replicas_on(NodeId(2), life(2))] == [7, 8]
    refused = expect(Refused, run(catalogue, RemoveReplica(META_GROUP, ReplicaId(2))))
    assert refused.message == "what replaces replica 2 of group 0 is a learner still"
    assert run(catalogue, PromoteReplica(META_GROUP, ReplicaId(7))) == Done()
    assert run(catalogue, RemoveReplica(META_GROUP, ReplicaId(2))) == Done()
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (3, 3, V, 0), (7, 2, V, 0)]


def test_the_steps_of_a_move_may_be_reported_again() -> None:
    catalogue = cluster()
    join(catalogue, 2, alive=2)
    settle(catalogue)
    assert run(catalogue, PromoteReplica(META_GROUP, ReplicaId(4))) == Done(already=True)
    assert run(catalogue, RemoveReplica(META_GROUP, ReplicaId(2))) == Done(already=True)
    assert catalogue.is_replica_gone(META_GROUP, ReplicaId(2))
    assert not catalogue.is_replica_gone(META_GROUP, ReplicaId(4))
    assert not catalogue.is_replica_gone(META_GROUP, ReplicaId(5)), "may belong to a later catalogue"


def test_a_life_that_was_replaced_never_comes_back() -> None:
    catalogue = cluster()
    join(catalogue, 2, alive=2)
    refused = expect(Refused, join(catalogue, 2, alive=1))
    assert "was replaced by another" in refused.message
    assert "number of its own" in refused.hint


def test_a_learner_that_loses_its_disk_hands_its_place_on() -> None:
    catalogue = cluster()
    join(catalogue, 2, alive=2)
    join(catalogue, 2, alive=3)
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (2, 2, X, 0), (3, 3, V, 0), (4, 2, X, 0), (5, 2, L, 2)]
    assert run(catalogue, RemoveReplica(META_GROUP, ReplicaId(4))) == Done(), "nobody waits for a learner's vote"
    settle(catalogue)
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (3, 3, V, 0), (5, 2, V, 0)]


def test_disks_that_are_lost_again_and_again_meet_a_bound() -> None:
    catalogue = cluster()
    for number in range(2, MAX_REPLICAS_PER_GROUP - 1):
        expect(NodeJoined, join(catalogue, 2, alive=number))
    before = catalogue.digest()
    refused = expect(Refused, join(catalogue, 2, alive=200))
    assert refused.kind is RequestTooLargeError
    assert f"the most is {MAX_REPLICAS_PER_GROUP}" in refused.message
    assert len(group(catalogue, 0).replicas) == MAX_REPLICAS_PER_GROUP
    assert before != catalogue.digest(), "the index moved on"
    assert catalogue.node(NodeId(2)) == node(2, alive=MAX_REPLICAS_PER_GROUP - 2), "and nothing else"


def test_the_number_of_nodes_has_a_bound_that_is_named() -> None:
    catalogue = cluster()
    for number in range(4, MAX_NODES + 1):
        join(catalogue, number)
    assert expect(Refused, join(catalogue, MAX_NODES + 1)).message == "the cluster has 64 nodes, the most is 64"
    expect(NodeJoined, join(catalogue, MAX_NODES, alive=2))


def test_a_replica_moves_to_another_node() -> None:
    catalogue = cluster()
    create(catalogue, "q")
    join(catalogue, 4)
    placed = run(catalogue, StartMove(GroupId(1), old=ReplicaId(5), node=NodeId(4)))
    assert placed == ReplicasPlaced(((GroupId(1), ReplicaId(7)),))
    settle(catalogue)
    assert {(r.replica, r.node) for r in group(catalogue, 1).replicas} == {(4, 2), (6, 1), (7, 4)}
    assert group(catalogue, 1).initial == (4, 5, 6), "what the empty log began with stays as it was"


def test_a_lost_replica_is_replaced_on_its_own_node() -> None:
    catalogue = cluster()
    assert run(catalogue, StartMove(META_GROUP, old=ReplicaId(3), node=NodeId(3))) == ReplicasPlaced(
        ((META_GROUP, ReplicaId(4)),)
    )
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (2, 2, V, 0), (3, 3, X, 0), (4, 3, L, 3)]


@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        (StartMove(GroupId(9), ReplicaId(1), NodeId(4)), NotFoundError, "there is no group 9"),
        (StartMove(META_GROUP, ReplicaId(1), NodeId(9)), NotFoundError, "node 9 has not joined the cluster"),
        (StartMove(META_GROUP, ReplicaId(9), NodeId(4)), InvalidArgumentError, "has no replica 9 that stays"),
        (
            StartMove(META_GROUP, ReplicaId(1), NodeId(2)),
            InvalidArgumentError,
            "node 2 has replica 2 of group 0 already",
        ),
        (
            StartMove(META_GROUP, ReplicaId(0), NodeId(2)),
            InvalidArgumentError,
            "node 2 has replica 2 of group 0 already",
        ),
        (StopMove(META_GROUP, ReplicaId(1)), InvalidArgumentError, "replica 1 of group 0 is not a learner"),
        (PromoteReplica(META_GROUP, ReplicaId(9)), InvalidArgumentError, "group 0 has no replica 9"),
        (PromoteReplica(GroupId(9), ReplicaId(1)), NotFoundError, "there is no group 9"),
        (RemoveReplica(META_GROUP, ReplicaId(1)), InvalidArgumentError, "replica 1 of group 0 is not leaving"),
        (RemoveReplica(META_GROUP, ReplicaId(9)), NotFoundError, "there never was a replica 9"),
        (ForgetNode(NodeId(1)), InvalidArgumentError, "node 1 is a member"),
        (SetMembers(()), InvalidArgumentError, "not one node or more"),
        (SetMembers((NodeId(1), NodeId(1))), InvalidArgumentError, "each once"),
        (SetMembers((NodeId(1), NodeId(9))), NotFoundError, "nodes [9] have not joined"),
    ],
)
def test_a_step_that_does_not_fit_changes_nothing_and_says_why(
    command: StartMove, kind: type[Exception], message: str
) -> None:
    catalogue = cluster()
    join(catalogue, 4)
    before = catalogue.groups(), catalogue.members, catalogue.epoch
    refused = expect(Refused, run(catalogue, command))
    assert refused.kind is kind
    assert message in refused.message
    assert (catalogue.groups(), catalogue.members, catalogue.epoch) == before


def test_a_move_can_be_taken_back_while_its_replica_is_a_learner() -> None:
    catalogue = cluster()
    join(catalogue, 4)
    run(catalogue, StartMove(META_GROUP, old=ReplicaId(1), node=NodeId(4)))
    assert run(catalogue, StopMove(META_GROUP, ReplicaId(4))) == Done()
    assert shape(group(catalogue, 0)) == [(1, 1, V, 0), (2, 2, V, 0), (3, 3, V, 0), (4, 4, X, 0)]


def test_a_lost_voter_cannot_take_its_place_back() -> None:
    catalogue = cluster()
    join(catalogue, 2, alive=2)
    refused = expect(Refused, run(catalogue, StopMove(META_GROUP, ReplicaId(4))))
    assert refused.message == "replica 2 of group 0 is lost; it cannot take its place back"


def test_three_members_grow_to_five_and_shrink_to_others() -> None:
    catalogue = cluster()
    create(catalogue, "q", partitions=2)
    for number in (4, 5):
        join(catalogue, number)
    placed = expect(ReplicasPlaced, run(catalogue, SetMembers(tuple(map(NodeId, (1, 2, 3, 4, 5))))))
    assert [at for at, _ in placed.replicas] == [0, 0, 1, 1, 2, 2]
    settle(catalogue)
    assert all({r.node for r in row.replicas} == {1, 2, 3, 4, 5} for row in catalogue.groups())
    run(catalogue, SetMembers((NodeId(3), NodeId(4), NodeId(5))))
    settle(catalogue)
    assert all({r.node for r in row.replicas} == {3, 4, 5} for row in catalogue.groups())
    assert run(catalogue, ForgetNode(NodeId(1))) == Done()
    assert run(catalogue, ForgetNode(NodeId(1))) == Done(already=True)
    assert catalogue.node(NodeId(1)) is None


def test_a_member_that_is_exchanged_hands_each_vote_to_the_one_that_comes() -> None:
    catalogue = cluster()
    join(catalogue, 4)
    run(catalogue, SetMembers((NodeId(2), NodeId(3), NodeId(4))))
    assert shape(group(catalogue, 0)) == [(1, 1, X, 0), (2, 2, V, 0), (3, 3, V, 0), (4, 4, L, 1)]
    assert run(catalogue, SetMembers((NodeId(2), NodeId(3), NodeId(4)))) == Done(already=True)
    refused = expect(Refused, run(catalogue, ForgetNode(NodeId(1))))
    assert "still holds replicas of 1 groups" in refused.message


def test_a_node_that_is_forgotten_cannot_come_back_with_its_old_data() -> None:
    catalogue = cluster()
    join(catalogue, 4)
    run(catalogue, ForgetNode(NodeId(4)))
    assert "was replaced" in expect(Refused, join(catalogue, 4)).message
    expect(NodeJoined, join(catalogue, 4, alive=2))
