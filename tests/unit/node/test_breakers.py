"""A group in a redelivery storm is paused: when, for how long, and what becomes of its messages meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError
from logbroker.ids import DEFAULT_GROUP, GroupName, LeaseId
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.replica import Replica
from logbroker.node.requests import (
    CreateGroupRequest,
    DeleteGroupRequest,
    EarliestTarget,
    GroupState,
    NackRequest,
    PauseRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    Request,
    ResumeRequest,
    RewindRequest,
    SettleReply,
    StateReply,
    StateRequest,
)
from logbroker.partition.breaker import BreakerPolicy
from logbroker.partition.failures import FailurePolicy
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from tests.unit.node.engine_kit import KitCluster, ranges_of, values

if TYPE_CHECKING:
    import pytest

BREAKER = BreakerPolicy(50, least_count=4, window_ms=2_000, pause_ms=3_000)
SETTINGS = PartitionSettings(failures=FailurePolicy(max_deliveries=3), breaker=BREAKER)
BILLING = GroupName("billing")


def filled(count: int = 10, *, nodes: int = 1, settings: PartitionSettings = SETTINGS) -> KitCluster:
    cluster = KitCluster(nodes, settings=settings)
    cluster.elect()
    cluster.produce(*values(count))
    return cluster


def nack(cluster: KitCluster, lease: LeaseId, *ranges: tuple[int, int], group: GroupName = DEFAULT_GROUP) -> None:
    reply = cluster.ask(NackRequest(group, ((lease, ranges),), delay_ms=0))
    assert isinstance(reply, SettleReply), f"{reply!r}"


def fail(cluster: KitCluster, count: int, *, group: GroupName = DEFAULT_GROUP) -> None:
    """Receive so many and nack them."""
    reply = cluster.ask(ReceiveRequest(group, count, 5_000))
    assert isinstance(reply, ReceiveReply)
    assert reply.parts
    nack(cluster, reply.lease, *ranges_of(reply), group=group)


def state(cluster: KitCluster, group: GroupName = DEFAULT_GROUP) -> GroupState:
    reply = cluster.ask(StateRequest())
    assert isinstance(reply, StateReply)
    return next(found for found in reply.groups if found.group == group)


def is_paused(cluster: KitCluster, group: GroupName = DEFAULT_GROUP) -> bool:
    return state(cluster, group).is_paused


def test_a_consumer_that_fails_at_everything_is_stopped_before_anything_dies() -> None:
    cluster = filled(10)
    fail(cluster, 10)
    paused = state(cluster)
    assert (paused.is_paused, paused.paused_reason) == (True, "breaker: 10 of 10 deliveries failed in 2 s")
    assert paused.paused_until_ms == paused.paused_since_ms + BREAKER.pause_ms
    assert paused.breaker_trips == 1
    waiting = cluster.submit(ReceiveRequest(DEFAULT_GROUP, 10, 5_000, wait_ms=20_000))
    cluster.tick(25)
    assert waiting.answer is None
    assert (state(cluster).dead, state(cluster).available) == (0, 10)
    cluster.tick(10)
    again = waiting.reply(ReceiveReply)
    assert [deliveries for part in again.parts for _, _, deliveries in part.ranges] == [2]
    assert ranges_of(again) == ((0, 10),)
    cluster.ack(again.lease, (0, 10))
    assert (state(cluster).is_paused, state(cluster).dead, state(cluster).breaker_trips) == (False, 0, 1)


def test_a_pause_is_as_long_as_the_queue_says_though_time_goes_on_while_it_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = filled(10)
    stamp_ms = Replica.stamp_ms

    def stamp_late(replica: Replica) -> int:
        cluster.now_ns += 1_000_000
        return stamp_ms(replica)

    monkeypatch.setattr(Replica, "stamp_ms", stamp_late)
    fail(cluster, 10)
    paused = state(cluster)
    assert paused.is_paused
    assert paused.paused_until_ms == paused.paused_since_ms + BREAKER.pause_ms


def test_who_waits_gets_nothing_of_what_was_given_back_for_the_last_straw() -> None:
    cluster = filled(4)
    lease = cluster.receive(4).lease
    waiting = cluster.submit(ReceiveRequest(DEFAULT_GROUP, 10, 5_000, wait_ms=20_000))
    nack(cluster, lease, (0, 4))
    assert waiting.answer is None
    assert is_paused(cluster)


def test_without_the_option_nothing_is_counted() -> None:
    cluster = filled(4, settings=replace(SETTINGS, breaker=None))
    fail(cluster, 4)
    assert not is_paused(cluster)
    cluster.leader.service.settings = SETTINGS
    cluster.tick(2)
    assert not is_paused(cluster)


def test_as_long_as_enough_succeeds_nothing_is_paused() -> None:
    cluster = filled(10)
    lease = cluster.receive(10).lease
    cluster.ack(lease, (0, 6))
    nack(cluster, lease, (6, 10))
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert is_paused(cluster)


def test_an_ack_may_be_what_is_missing_to_the_least_count() -> None:
    cluster = filled(4)
    lease = cluster.receive(4).lease
    nack(cluster, lease, (0, 3))
    assert not is_paused(cluster)
    cluster.ack(lease, (3, 4))
    assert state(cluster).paused_reason == "breaker: 3 of 4 deliveries failed in 2 s"


def test_failures_of_long_ago_do_not_count() -> None:
    cluster = filled(10)
    fail(cluster, 3)
    cluster.tick(20)
    fail(cluster, 3)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert state(cluster).paused_reason == "breaker: 4 of 4 deliveries failed in 2 s"


def test_what_is_rejected_runs_out_or_dies_has_failed() -> None:
    cluster = filled(10, settings=replace(SETTINGS, failures=FailurePolicy(max_deliveries=1)))
    lease = cluster.receive(4, hide_ms=1_000).lease
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((lease, ((0, 2),)),)))
    assert not is_paused(cluster)
    cluster.tick(12)
    assert state(cluster).paused_reason == "breaker: 4 of 4 deliveries failed in 2 s"


def test_what_is_released_or_taken_back_has_not_failed() -> None:
    cluster = filled(10)
    for number in range(1, 4):
        lease = cluster.receive(10).lease
        cluster.ask(ReleaseRequest(DEFAULT_GROUP, lease))
        cluster.receive(10)
        cluster.ask(RewindRequest(DEFAULT_GROUP, number, EarliestTarget()))
    assert not is_paused(cluster)


def test_what_was_leased_goes_its_way_and_counts_for_nothing() -> None:
    cluster = filled(10)
    early = cluster.receive(5).lease
    fail(cluster, 5)
    first = state(cluster)
    assert first.is_paused
    nack(cluster, early, (0, 2))
    cluster.ack(early, (2, 5))
    assert (state(cluster).paused_until_ms, state(cluster).available) == (first.paused_until_ms, 7)
    cluster.tick(31)
    assert not is_paused(cluster)
    # Half open: it takes the least count again.
    fail(cluster, 3)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert state(cluster).breaker_trips == 2


def test_an_operator_ends_a_breakers_pause_and_counting_begins_anew() -> None:
    cluster = filled(10)
    fail(cluster, 5)
    cluster.ask(ResumeRequest(DEFAULT_GROUP))
    assert not is_paused(cluster)
    fail(cluster, 3)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert is_paused(cluster)


def test_an_operators_pause_takes_the_place_of_a_breakers() -> None:
    cluster = filled(10)
    fail(cluster, 5)
    cluster.ask(PauseRequest(DEFAULT_GROUP, "the bank is closed"))
    cluster.tick(40)
    assert (state(cluster).is_paused, state(cluster).paused_reason) == (True, "the bank is closed")


def test_a_breaker_leaves_an_operators_pause_alone() -> None:
    cluster = filled(10)
    lease = cluster.receive(10).lease
    cluster.ask(PauseRequest(DEFAULT_GROUP, "the bank is closed"))
    nack(cluster, lease, (0, 10))
    assert state(cluster).paused_reason == "the bank is closed"
    cluster.ask(ResumeRequest(DEFAULT_GROUP))
    cluster.tick(2)
    assert not is_paused(cluster)


def commit_apart(cluster: KitCluster, first: NackRequest, *following: Request) -> None:
    """Have the first request applied when the others are in the log already, and not committed."""
    asked = [cluster.submit(first)]
    cluster.leader.engine.pump()
    cluster.leader.commit()
    asked += [cluster.submit(request) for request in following]
    cluster.settle()
    assert all(request.answer is not None for request in asked)


def test_a_pause_and_its_end_that_are_on_their_way_are_a_pause() -> None:
    cluster = filled(10)
    lease = cluster.receive(10).lease
    four = NackRequest(DEFAULT_GROUP, ((lease, ((0, 4),)),), delay_ms=0)
    commit_apart(cluster, four, PauseRequest(DEFAULT_GROUP, "a slip"), ResumeRequest(DEFAULT_GROUP))
    assert not is_paused(cluster)
    nack(cluster, lease, (4, 7))
    assert not is_paused(cluster)
    nack(cluster, lease, (7, 8))
    assert state(cluster).paused_reason == "breaker: 4 of 4 deliveries failed in 2 s"


def test_what_failed_before_a_group_was_made_anew_does_not_count() -> None:
    cluster = filled(10)
    cluster.ask(CreateGroupRequest(BILLING, EarliestTarget()))
    reply = cluster.ask(ReceiveRequest(BILLING, 10, 5_000))
    assert isinstance(reply, ReceiveReply)
    all_of_it = NackRequest(BILLING, ((reply.lease, ((0, 10),)),), delay_ms=0)
    commit_apart(cluster, all_of_it, DeleteGroupRequest(BILLING), CreateGroupRequest(BILLING, EarliestTarget()))
    assert (is_paused(cluster, BILLING), state(cluster, BILLING).available) == (False, 10)


def test_an_operator_cannot_pass_for_a_breaker() -> None:
    refused = filled().ask(PauseRequest(DEFAULT_GROUP, "breaker: so I say"))
    assert isinstance(refused, InvalidArgumentError)
    assert "begins with 'breaker: '" in refused.message


def test_each_group_has_its_own_and_none_when_it_is_gone() -> None:
    cluster = filled(10)
    cluster.ask(CreateGroupRequest(BILLING, EarliestTarget()))
    fail(cluster, 4, group=BILLING)
    assert (is_paused(cluster), is_paused(cluster, BILLING)) == (False, True)
    cluster.ask(DeleteGroupRequest(BILLING))
    cluster.ask(CreateGroupRequest(BILLING, EarliestTarget()))
    fail(cluster, 3, group=BILLING)
    assert not is_paused(cluster, BILLING)


def test_a_new_leader_begins_at_zero_and_knows_the_pause() -> None:
    cluster = filled(10, nodes=3)
    fail(cluster, 3)
    cluster.stop(cluster.leader.number)
    cluster.elect()
    fail(cluster, 3)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert is_paused(cluster)
    cluster.restart(next(iter(cluster.stopped)))
    cluster.tick(2)
    cluster.stop(cluster.leader.number)
    cluster.elect()
    assert state(cluster).paused_reason == "breaker: 4 of 4 deliveries failed in 2 s"


def test_a_pause_that_is_refused_is_proposed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = filled(10)
    lease = cluster.receive(4).lease
    replica = cluster.leader.replica
    propose = replica.propose
    refusals: list[int] = []

    def refusing(*args: object, **fields: object) -> object:
        # The nack itself goes through.
        if b"breaker" in args[1] and len(refusals) < 3:  # type: ignore[operator]  # a payload
            refusals.append(1)
            raise ProposalRefused(RefusalReason.TOO_MUCH_UNCOMMITTED, "full")
        return propose(*args, **fields)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(replica, "propose", refusing)
    nack(cluster, lease, (0, 4))
    for _ in range(3):
        cluster.tick(5)
    assert len(refusals) == 3
    assert state(cluster).breaker_trips == 1


def test_another_policy_begins_at_zero_and_none_forgets() -> None:
    cluster = filled(10)
    fail(cluster, 3)
    cluster.leader.service.settings = replace(SETTINGS, breaker=replace(BREAKER, least_count=2))
    fail(cluster, 1)
    assert not is_paused(cluster)
    fail(cluster, 1)
    assert is_paused(cluster)
