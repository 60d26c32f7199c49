"""What a partition does by the limits of its queue: ages, amounts, and how far a rewind reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import InvalidArgumentError, OffsetOutOfRangeError, QueueFullError
from logbroker.ids import DEFAULT_GROUP, GroupName, Offset
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.requests import (
    CreateGroupRequest,
    DeadReply,
    DeadRequest,
    EarliestTarget,
    NackRequest,
    OffsetTarget,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    RewindReply,
    RewindRequest,
)
from logbroker.partition.commands import Cause
from logbroker.partition.limits import SizeLimits
from logbroker.partition.machine import PartitionMachine
from tests.unit.node.engine_kit import KitCluster, batch, ranges_of, values

if TYPE_CHECKING:
    from logbroker.node.requests import Ranges, Target

MAX_AGE_MS = 3_000
OTHER = GroupName("other")


def limited(**settings: object) -> KitCluster:
    cluster = KitCluster(1, settings=PartitionSettings(**settings))  # type: ignore[arg-type]  # as they are
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


# How much there may be.


def produced(cluster: KitCluster, count: int, *, start: int = 0, size: int = 100) -> int:
    """Messages one a batch until one is refused; returns how many were taken."""
    for number in range(start, start + count):
        answer = cluster.ask(ProduceRequest(batch(*values(1, start=number, size=size))))
        if not isinstance(answer, ProduceReply):
            assert isinstance(answer, QueueFullError)
            assert answer.retriable
            return number - start
    return count


def test_a_full_queue_refuses_and_takes_again_what_is_settled_makes_room_for() -> None:
    cluster = limited(limits=SizeLimits(max_messages=3))
    assert produced(cluster, 5) == 3
    index = machine_of(cluster).applied_index
    refusal = cluster.ask(ProduceRequest(batch(*values(2, start=3))))
    assert isinstance(refusal, QueueFullError)
    assert "has 3 unsettled messages, and 2 more would pass its most of 3" in refusal.message
    assert machine_of(cluster).applied_index == index
    lease = cluster.receive(3).lease
    assert produced(cluster, 1, start=3) == 0
    cluster.ack(lease, (0, 2))
    assert produced(cluster, 5, start=3) == 2
    assert cluster.leader.service.figures.refused == 4


def test_the_group_that_has_most_counts_and_what_is_on_its_way_too() -> None:
    cluster = limited(limits=SizeLimits(max_messages=3))
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    asked = [cluster.submit(ProduceRequest(batch(*values(1, start=number)))) for number in range(5)]
    cluster.settle()
    assert [type(each.answer) for each in asked] == [ProduceReply] * 3 + [QueueFullError] * 2
    cluster.ack(cluster.receive(3).lease, (0, 3))
    assert produced(cluster, 1, start=3) == 0


def test_a_repeated_batch_is_answered_by_a_full_queue_too() -> None:
    cluster = limited(limits=SizeLimits(max_messages=1))
    first = cluster.produce(b"a", producer=7, sequence=0)
    again = cluster.produce(b"a", producer=7, sequence=0)
    assert (again.base_offset, again.duplicate) == (first.base_offset, True)


def test_a_full_queue_in_bytes_refuses_until_retention_makes_room() -> None:
    cluster = limited(retention_s=60, limits=SizeLimits(max_bytes=5_000))
    cluster.tick(2)
    taken_count = produced(cluster, 100, size=900)
    assert taken_count == 5
    assert 4_500 < held_bytes(cluster) <= 5_000
    cluster.ack(cluster.receive(5).lease, (0, 5))
    assert produced(cluster, 1, start=5, size=900) == 0
    cluster.tick(610)
    assert held_bytes(cluster) < 2_000
    assert produced(cluster, 1, start=5, size=900) == 1


def test_the_oldest_go_a_tick_later_and_count_as_expired() -> None:
    cluster = limited(limits=SizeLimits(max_messages=5, drops_oldest=True))
    assert produced(cluster, 4) == 4
    cluster.produce(*values(4, start=4))
    cluster.ack(cluster.receive(8).lease, (1, 2))
    cluster.tick(2)
    # Seven are unsettled; the two oldest of them are 0 and 2.
    assert machine_of(cluster).log_start_offset == 3
    assert cluster.leader.service.figures.expired == 2
    index = machine_of(cluster).applied_index
    cluster.tick(5)
    assert machine_of(cluster).applied_index == index


def test_the_oldest_go_at_once_where_there_are_far_too_many() -> None:
    cluster = limited(limits=SizeLimits(max_messages=5, drops_oldest=True))
    for start in range(0, 1_100, 50):
        cluster.produce(*values(50, start=start, size=10))
    assert machine_of(cluster).log_start_offset in (1_045, 1_045 + 50)
    floors = machine_of(cluster).log_start_offset
    cluster.tick(2)
    assert floors <= machine_of(cluster).log_start_offset == 1_095


def test_the_oldest_batches_go_where_there_are_too_many_bytes_and_leases_and_acks_push_nothing_out() -> None:
    cluster = limited(limits=SizeLimits(max_bytes=5_000, drops_oldest=True))
    produced(cluster, 12, size=900)
    cluster.tick(2)
    assert machine_of(cluster).log_start_offset == 7
    assert held_bytes(cluster) <= 5_000
    for _ in range(200):
        lease = cluster.receive(1).lease
        cluster.ask(NackRequest(DEFAULT_GROUP, ((lease, ((7, 8),)),)))
    cluster.tick(5)
    assert machine_of(cluster).log_start_offset == 7


def test_another_leader_and_a_restarted_one_count_what_is_there() -> None:
    cluster = limited(limits=SizeLimits(max_bytes=5_000))
    produced(cluster, 5, size=900)
    cluster.tick(2)
    before = held_bytes(cluster)
    cluster.restart(1)
    cluster.elect()
    cluster.tick(2)
    assert held_bytes(cluster) == before
    assert produced(cluster, 1, start=5, size=900) == 0


def test_a_lower_bound_holds_at_once_and_none_frees() -> None:
    cluster = limited()
    produced(cluster, 10)
    service = cluster.leader.service
    service.settings = PartitionSettings(limits=SizeLimits(max_messages=4))
    assert produced(cluster, 1, start=10) == 0
    service.settings = PartitionSettings(limits=SizeLimits(max_messages=4, drops_oldest=True))
    cluster.tick(12)
    assert machine_of(cluster).log_start_offset == 6
    service.settings = PartitionSettings()
    assert produced(cluster, 20, start=10) == 20


# How long what is settled can be rewound.


def settled(rewind_ms: int) -> KitCluster:
    """Six messages, all acked: three of now, three of two seconds ago."""
    cluster = limited(rewind_ms=rewind_ms)
    cluster.produce(*values(3))
    cluster.tick(20)
    cluster.produce(*values(3, start=3))
    cluster.ack(cluster.receive(6).lease, (0, 6))
    return cluster


def rewound(cluster: KitCluster, target: Target, *, clamp: bool = False) -> tuple[int, bool]:
    rewind_id = 1 + machine_of(cluster).applied_index
    reply = cluster.ask(RewindRequest(DEFAULT_GROUP, rewind_id, target, clamp=clamp))
    assert isinstance(reply, RewindReply), reply
    return reply.start_offset, reply.clamped


def test_a_rewind_beyond_the_window_is_refused_with_it_or_clamped_and_reported() -> None:
    cluster = settled(1_000)
    index = machine_of(cluster).applied_index
    refusal = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(1))))
    assert isinstance(refusal, OffsetOutOfRangeError)
    assert "offset 1 lies before offset 3, the first that may be rewound of group 1, up to 6" in refusal.message
    assert machine_of(cluster).applied_index == index
    assert rewound(cluster, OffsetTarget(Offset(1)), clamp=True) == (3, True)
    assert taken(cluster) == ((3, 6),)
    assert machine_of(cluster).rewind_floor == 3


def test_the_earliest_is_the_earliest_that_may_be_rewound() -> None:
    assert rewound(settled(1_000), EarliestTarget()) == (3, False)
    assert rewound(settled(0), EarliestTarget()) == (6, False)
    assert rewound(settled(1_296_000_000), EarliestTarget()) == (0, False)


def test_within_the_window_nothing_is_written_but_the_rewind() -> None:
    cluster = settled(1_000)
    assert rewound(cluster, OffsetTarget(Offset(4))) == (4, False)
    assert machine_of(cluster).rewind_floor == 0


@pytest.mark.parametrize(("first", "then"), [(1_296_000_000, 1_000), (1_000, 1_296_000_000), (1_000, 0)])
def test_a_window_that_changes_is_written_down_once_and_nothing_comes_back(first: int, then: int) -> None:
    cluster = settled(first)
    cluster.tick(1)
    assert machine_of(cluster).rewind_floor == 0
    cluster.leader.service.settings = PartitionSettings(rewind_ms=then)
    cluster.tick(22)
    floor = machine_of(cluster).rewind_floor
    assert floor in (3, 6)
    index = machine_of(cluster).applied_index
    cluster.leader.service.settings = PartitionSettings()
    cluster.tick(30)
    assert rewound(cluster, OffsetTarget(Offset(0)), clamp=True) == (machine_of(cluster).rewind_floor, True)
    assert machine_of(cluster).applied_index <= index + 3


def test_skips_and_new_groups_know_no_window() -> None:
    cluster = settled(0)
    reply = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(2)), forward=True))
    assert isinstance(reply, RewindReply)
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    assert machine_of(cluster).status(OTHER).available_count == 6


def held_bytes(cluster: KitCluster) -> int:
    cluster.tick()
    return cluster.leader.service.figures.retained_bytes


# What would be gone again at once.


def acked_one_by_one(count: int, **settings: object) -> KitCluster:
    cluster = limited(**settings)
    for number in range(count):
        produced(cluster, 1, start=number)
        lease = cluster.receive(1).lease
        cluster.ack(lease, (number, number + 1))
    return cluster


def test_a_rewind_brings_back_no_more_than_a_queue_holds_that_drops_the_oldest() -> None:
    cluster = acked_one_by_one(10, limits=SizeLimits(max_messages=3, drops_oldest=True))
    beyond = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(6))))
    assert isinstance(beyond, OffsetOutOfRangeError)
    assert "offset 6 lies before offset 7 of group 1: what is older would be gone again at once" in beyond.message
    clamped = cluster.ask(RewindRequest(DEFAULT_GROUP, 2, OffsetTarget(Offset(0)), clamp=True))
    assert isinstance(clamped, RewindReply)
    assert (clamped.start_offset, clamped.moved_count, clamped.clamped) == (7, 3, True)
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    cluster.tick(2)
    assert machine_of(cluster).log_start_offset == 0
    assert ranges_of(cluster.receive()) == ((7, 10),)
    assert machine_of(cluster).status(OTHER).lag_count == 3


def test_a_queue_that_refuses_lets_a_rewind_fill_it() -> None:
    cluster = acked_one_by_one(10, limits=SizeLimits(max_messages=3))
    rewound = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()))
    assert isinstance(rewound, RewindReply)
    assert rewound.moved_count == 10
    refused = cluster.ask(ProduceRequest(batch(*values(1))))
    assert isinstance(refused, QueueFullError)


def test_neither_a_rewind_nor_a_new_group_begins_with_what_has_outlived_its_time() -> None:
    cluster = acked_one_by_one(2, max_age_ms=MAX_AGE_MS)
    cluster.tick(40)
    produced(cluster, 1, start=2)
    cluster.ack(cluster.receive(1).lease, (2, 3))
    assert isinstance(cluster.ask(RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(1)))), OffsetOutOfRangeError)
    rewound = cluster.ask(RewindRequest(DEFAULT_GROUP, 2, EarliestTarget()))
    assert isinstance(rewound, RewindReply)
    assert (rewound.start_offset, rewound.moved_count) == (2, 1)
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    cluster.tick(20)
    assert dead(cluster) == dead(cluster, OTHER) == []
    assert machine_of(cluster).status(OTHER).lag_count == 1


def test_what_would_be_dead_before_it_is_due_is_refused() -> None:
    cluster = limited(max_age_ms=MAX_AGE_MS)
    refused = cluster.ask(ProduceRequest(batch(*values(1)), MAX_AGE_MS))
    assert isinstance(refused, InvalidArgumentError)
    assert f"delay_ms {MAX_AGE_MS} is not in 0..{MAX_AGE_MS - 1_000}" in refused.message
    assert machine_of(cluster).next_offset == 0
    assert isinstance(cluster.ask(ProduceRequest(batch(*values(1)), MAX_AGE_MS - 1_000)), ProduceReply)
