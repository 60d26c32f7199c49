"""A group without a leader, in words."""

from __future__ import annotations

import pytest

from logbroker.ids import GroupId, NodeId
from logbroker.node.node_status import leaderless


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
