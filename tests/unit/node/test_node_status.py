"""A group's troubles, in words."""

from __future__ import annotations

import pytest

from logbroker.ids import GroupId, GroupName, NodeId, ReplicaId
from logbroker.node.node_status import damage_of, describe_tripped, leaderless
from logbroker.partition.pause import PauseRecord


@pytest.mark.parametrize(
    ("members", "heard", "why"),
    [
        ((1,), (), "group 7 has no leader yet"),
        ((1, 2, 3), (), "group 7 has no leader: this node hears none of nodes 2, 3"),
        ((1, 2, 3), (2,), "group 7 has no leader yet, though this node hears node 2"),
        ((1, 2, 3, 4, 5), (2,), "group 7 has no leader: this node hears only node 2 of 5"),
        ((2, 3, 4), (2,), "group 7 has no leader: this node hears only node 2 of 3"),
    ],
)
def test_it_says_whom_this_node_hears(members: tuple[int, ...], heard: tuple[int, ...], why: str) -> None:
    nodes = tuple(map(NodeId, members))
    assert leaderless(GroupId(7), own=NodeId(1), members=nodes, heard=tuple(map(NodeId, heard))) == why


def test_damage_that_nobody_can_mend_names_the_way_out() -> None:
    one, two = ReplicaId(1), ReplicaId(2)
    assert damage_of(GroupId(7), one, 3, [one, two]) == "replica 1 of group 7 has 3 damaged entries"
    assert damage_of(GroupId(7), one, 3, [one]).endswith("no other replica to fetch them from: see `logbroker repair`")


def paused(count: int) -> list[tuple[GroupName, PauseRecord]]:
    record = PauseRecord("breaker: 45 of 50 deliveries failed in 10 s", 1_795_000_000_000, 1_795_000_030_000)
    return [(GroupName(f"g{number}"), record) for number in range(count)]


def test_what_a_breaker_has_paused_is_told_with_its_figures_and_its_end() -> None:
    (told,) = describe_tripped("orders/0", paused(1))
    assert told == (
        "consumer group g0 of orders/0 is paused until 2026-11-18T11:07:10+00:00, "
        "breaker: 45 of 50 deliveries failed in 10 s"
    )


def test_of_many_groups_that_are_paused_some_are_named() -> None:
    *named, more = describe_tripped("orders/0", paused(12))
    assert len(named) == 5
    assert more.startswith("7 more consumer groups of orders/0 are paused until 2026-11-18T11:07:10+00:00, breaker: ")
