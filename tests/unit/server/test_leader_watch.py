from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logbroker.ids import GroupId, NodeId
from logbroker.server.leader_watch import LeaderWatch
from tests.unit.server.kit import FakeBackend

if TYPE_CHECKING:
    from logbroker.node.node_status import GroupStatus

(TEMPLATE, *_) = FakeBackend().status().groups


def group(number: int, leader: int | None) -> GroupStatus:
    return replace(TEMPLATE, group=GroupId(number), leader_node=None if leader is None else NodeId(leader))


def test_a_first_leader_and_the_same_one_again_are_no_change() -> None:
    watch = LeaderWatch()
    for _ in range(3):
        watch.look([group(1, 1), group(2, 3)])
    assert watch.changes == 0


def test_another_leader_is_one_change_also_after_a_time_without_any() -> None:
    watch = LeaderWatch()
    for leader in (1, None, 2, None, 2, None, 1):
        watch.look([group(1, leader)])
    assert watch.changes == 2


def test_a_group_that_was_gone_begins_anew() -> None:
    watch = LeaderWatch()
    watch.look([group(1, 1)])
    watch.look([])
    watch.look([group(1, 2)])
    assert watch.changes == 0
