"""What a partition does by the limits of its queue: how long messages may stay unsettled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import DEFAULT_GROUP, GroupName
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.requests import (
    CreateGroupRequest,
    DeadReply,
    DeadRequest,
    EarliestTarget,
    NackRequest,
    ReceiveReply,
)
from logbroker.partition.commands import Cause
from logbroker.partition.machine import PartitionMachine
from tests.unit.node.engine_kit import KitCluster, ranges_of, values

if TYPE_CHECKING:
    from logbroker.node.requests import Ranges

MAX_AGE_MS = 3_000
OTHER = GroupName("other")


def limited(**settings: int) -> KitCluster:
    cluster = KitCluster(1, settings=PartitionSettings(**settings))  # type: ignore[arg-type]  # numbers, all of them
    cluster.elect()
    return cluster


def machine_of(cluster: KitCluster) -> PartitionMachine:
    machine = cluster.leader.replica.machine
    assert isinstance(machine, PartitionMachine)
    return machine


def dead(cluster: KitCluster, group: str = DEFAULT_GROUP) -> list[tuple[int, int, int, Cause | None, str]]:
    reply = cluster.ask(DeadRequest(GroupName(group)))
    assert isinstance(reply, DeadReply)
    return [(row.start, row.end, row.deliveries, row.cause, row.consumer) for row in reply.rows]


# Time to live.


def test_an_idle_partition_buries_what_is_too_old_within_a_second_and_not_before() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    cluster.produce(*values(2))
    appended_ms = cluster.leader.replica.stamp_ms()
    cluster.tick(15)
    cluster.produce(*values(1, start=2))
    while not dead(cluster):
        assert cluster.leader.replica.stamp_ms() - appended_ms <= MAX_AGE_MS + 1_000
        cluster.tick()
    assert cluster.leader.replica.stamp_ms() - appended_ms >= MAX_AGE_MS
    for group in (DEFAULT_GROUP, OTHER):
        assert dead(cluster, group) == [(0, 2, 0, Cause.TTL, "")]
    cluster.tick(20)
    assert dead(cluster) == [(0, 2, 0, Cause.TTL, ""), (2, 3, 0, Cause.TTL, "")]


def test_nothing_is_written_while_nothing_is_too_old() -> None:
    cluster = limited(max_age_ms=60_000)
    cluster.produce(*values(3))
    cluster.ack(cluster.receive(1).lease, (0, 1))
    cluster.tick(5)
    index = machine_of(cluster).applied_index
    cluster.tick(500)
    assert machine_of(cluster).applied_index == index
    cluster.tick(200)
    assert dead(cluster) == [(1, 3, 1, Cause.TTL, "")] or len(dead(cluster)) == 1


def test_what_is_settled_in_time_needs_no_burial() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    cluster.produce(*values(3))
    cluster.ack(cluster.receive(3).lease, (0, 3))
    index = machine_of(cluster).applied_index
    cluster.tick(100)
    assert machine_of(cluster).applied_index == index


def test_who_holds_what_is_too_old_may_ack_it_and_what_comes_back_is_never_leased_again() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    cluster.produce(*values(3))
    held = cluster.receive(2, hide_ms=10_000)
    cluster.tick(60)
    assert dead(cluster) == [(2, 3, 0, Cause.TTL, "")]
    assert cluster.ack(held.lease, (0, 1)).results[0].done_count == 1
    again = cluster.submit(NackRequest(DEFAULT_GROUP, ((held.lease, ((1, 2),)),)))
    cluster.settle()
    assert again.answer is not None
    assert taken(cluster) == ()
    cluster.tick(12)
    assert dead(cluster) == [(1, 2, 1, Cause.TTL, ""), (2, 3, 0, Cause.TTL, "")]


def test_nothing_that_is_too_old_is_leased_between_two_ticks() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    cluster.produce(*values(2))
    cluster.tick(10)
    cluster.produce(*values(1, start=2))
    cluster.now_ns += 2_000 * 1_000_000 - 1_000_000
    assert taken(cluster, 1) == ((0, 1),)
    cluster.now_ns += 1_000_000
    assert taken(cluster) == ((2, 3),)


def test_a_longer_time_to_live_makes_young_again_what_is_not_buried() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    cluster.produce(*values(1))
    cluster.now_ns += 3_500 * 1_000_000
    assert taken(cluster) == ()
    service = cluster.leader.service
    service.settings = PartitionSettings(max_age_ms=2 * MAX_AGE_MS)
    assert taken(cluster) == ((0, 1),)
    service.settings = PartitionSettings()
    cluster.tick(100)
    assert taken(cluster) == ((0, 1),)
    assert dead(cluster) == []


def test_a_shorter_time_to_live_holds_at_once() -> None:
    cluster = limited(max_age_ms=600_000)
    cluster.produce(*values(2))
    cluster.tick(20)
    cluster.leader.service.settings = PartitionSettings(max_age_ms=1_000)
    assert taken(cluster) == ()
    cluster.tick(12)
    assert dead(cluster) == [(0, 2, 0, Cause.TTL, "")]


def test_many_small_deaths_are_written_together() -> None:
    cluster = limited(max_age_ms=1_000)
    for number in range(60):
        cluster.produce(*values(1, start=number))
        cluster.tick()
    rows = dead(cluster)
    assert 3 <= len(rows) <= 7
    assert rows[-1][1] >= 40


def taken(cluster: KitCluster, count: int = 10) -> Ranges:
    reply = cluster.receive(count)
    assert isinstance(reply, ReceiveReply)
    return ranges_of(reply)
