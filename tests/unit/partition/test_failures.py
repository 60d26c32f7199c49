"""What becomes of messages that fail: the policy, the decisions that follow it, and what apply makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import StaleLeaseError
from logbroker.ids import DEFAULT_GROUP, GroupName, LeaseId, lease_id
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    Cause,
    CreateGroup,
    Expire,
    Extend,
    Lease,
    Nack,
    Release,
    Revive,
    SkipTo,
    encode_changes,
)
from logbroker.partition.decide import (
    Answer,
    DecisionLimits,
    NothingAvailable,
    Propose,
    Refused,
    decide_expire,
    decide_nack,
    decide_receive,
    decide_reject,
    decide_revive,
    joined,
)
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.outcomes import Buried, Misfit, Nothing, Revived, Settled
from logbroker.partition.runs import Run, RunState
from tests.unit.partition.build import (
    change,
    entry,
    move_floor,
    receive,
    refusal,
    states,
    with_messages,
)

if TYPE_CHECKING:
    from logbroker.partition.commands import Change
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
TWICE = FailurePolicy(max_deliveries=2)


def nacked(machine: PartitionMachine, lease: int, **fields: object) -> tuple[Change, ...]:
    arguments = {"ranges": ((0, machine.next_offset),), "delay_ms": None, "now_ms": 0, "policy": TWICE} | fields
    decision = decide_nack(machine, D, lease=LeaseId(lease), **arguments)  # type: ignore[arg-type]  # one of each type
    assert isinstance(decision, Propose)
    return decision.changes


def with_tries(*tries: int) -> tuple[PartitionMachine, LeaseId]:
    """Messages that are leased for the so-manieth time, all by the newest lease."""
    machine = with_messages(len(tries))
    for number in range(1, max(tries)):
        lease = receive(machine, len(tries))
        again = tuple((at, at + 1) for at, count in enumerate(tries) if count > number)
        others = tuple((at, at + 1) for at, count in enumerate(tries) if count <= number)
        change(machine, Nack(D, lease, again, 0, ""))
        if others:
            # Taken back without counting, so that it can be leased with the rest.
            change(machine, Release(D, lease))
    return machine, receive(machine, len(tries))


@pytest.mark.parametrize(
    ("deliveries", "expected"), [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (6, 1_000), (1_000_000_000, 1_000)]
)
def test_each_failure_doubles_the_wait_up_to_the_longest(deliveries: int, expected: int) -> None:
    assert FailurePolicy(backoff_ms=100, max_backoff_ms=1_000).backoff_after(deliveries) == expected


@pytest.mark.parametrize("policy", [NO_POLICY, FailurePolicy(backoff_ms=0, max_backoff_ms=5)])
def test_without_a_backoff_nothing_waits(policy: FailurePolicy) -> None:
    assert policy.backoff_after(1_000_000_000) == 0
    assert policy.jittered(0, lambda: 0.5) == 0


def test_a_first_wait_is_bounded_too_and_a_factor_of_one_keeps_it() -> None:
    assert FailurePolicy(backoff_ms=9, max_backoff_ms=5).backoff_after(1) == 5
    assert FailurePolicy(backoff_ms=3, max_backoff_ms=5, backoff_factor=1).backoff_after(1_000_000_000) == 3


def test_chance_shortens_a_wait_by_at_most_its_share() -> None:
    policy = FailurePolicy(jitter=0.25)
    assert [policy.jittered(1_000, draw) for draw in (lambda: 0.0, lambda: 0.5, lambda: 0.999)] == [1_000, 875, 751]


def test_a_message_is_spent_when_it_was_begun_as_often_as_allowed() -> None:
    assert [TWICE.is_spent(count) for count in (0, 1, 2, 3)] == [False, False, True, True]
    assert not NO_POLICY.is_spent(1_000_000)


def test_a_rejected_message_is_dead_and_says_where_it_died() -> None:
    machine = with_messages(3)
    lease = receive(machine, 2)
    decision = decide_reject(machine, D, lease=lease, ranges=((0, 1),), reason="no such account")
    assert decision == Propose((Bury(D, lease, ((0, 1),), Cause.REJECTED, "no such account"),))
    (outcome,) = change(machine, *decision.changes, append_ms=77)
    assert outcome == Settled(D, lease, 1)
    assert states(machine) == "XL-"
    burial = lease_id(machine.applied_index, 0)
    assert machine.group(D).table.at(0) == Run(0, 1, RunState.DEAD, 1, 0, burial, 77)
    assert machine.holdings(D, burial) == ()
    status = machine.status(D)
    assert (status.floor, status.dead_count, status.lag_count, status.oldest_unsettled_offset) == (0, 1, 2, 1)


def test_rejecting_what_the_lease_does_not_hold_is_refused_and_changes_nothing() -> None:
    machine = with_messages(3)
    lease = receive(machine, 1)
    change(machine, Bury(D, lease, ((0, 1),), Cause.REJECTED, ""))
    digest = machine.digest()
    again = decide_reject(machine, D, lease=lease, ranges=((0, 1),))
    assert isinstance(again, Refused)
    assert isinstance(again.error, StaleLeaseError)
    too_long = decide_reject(machine, D, lease=lease, ranges=((0, 1),), reason="x" * 257)
    assert refusal(too_long) == "invalid_argument: reason has 257 characters; the most is 256"
    unknown = decide_reject(machine, GroupName("no"), lease=lease, ranges=((0, 1),))
    assert refusal(unknown).startswith("not_found: ")
    assert machine.digest() == digest


def test_a_rejection_of_what_is_acked_is_answered_as_such() -> None:
    machine = with_messages(2)
    lease = receive(machine, 2)
    change(machine, Ack(D, lease, ((0, 2),)))
    decision = decide_reject(machine, D, lease=lease, ranges=((0, 2),))
    assert decision == Answer(Settled(D, lease, 0, already=((0, 2),)), machine.applied_index)


def test_a_burial_that_no_longer_fits_records_nothing() -> None:
    machine = with_messages(2)
    lease = receive(machine, 2, hide_ms=1_000)
    change(machine, Expire(D, ((0, 2),)), append_ms=1_000)
    (outcome,) = change(machine, Bury(D, lease, ((0, 2),), Cause.REJECTED, ""), append_ms=1_000)
    assert outcome == Settled(D, lease, 0, stale=((0, 2),))
    assert states(machine) == "11"


def test_a_queue_without_a_policy_nacks_as_ever() -> None:
    machine, lease = with_tries(1, 3)
    assert nacked(machine, lease, policy=NO_POLICY) == (Nack(D, lease, ((0, 2),), 0, ""),)
    assert nacked(machine, lease, policy=NO_POLICY, delay_ms=5) == (Nack(D, lease, ((0, 2),), 5, ""),)


def test_a_nack_buries_what_has_had_its_tries_whatever_the_delay() -> None:
    machine, lease = with_tries(1, 2, 1, 2)
    for delay_ms in (None, 0):
        assert nacked(machine, lease, delay_ms=delay_ms)[1] == Bury(
            D, lease, ((1, 2), (3, 4)), Cause.MAX_DELIVERIES, ""
        )
    made = nacked(machine, lease, delay_ms=4_000, reason="r", now_ms=10)
    assert made == (
        Nack(D, lease, ((0, 1), (2, 3)), 4_010, "r"),
        Bury(D, lease, ((1, 2), (3, 4)), Cause.MAX_DELIVERIES, "r"),
    )
    outcomes = change(machine, *made, append_ms=10)
    assert states(machine) == "DXDX"
    assert joined([outcome for outcome in outcomes if isinstance(outcome, Settled)]) == Settled(D, lease, 4)


def test_messages_wait_by_how_often_they_failed() -> None:
    machine, lease = with_tries(1, 3, 2, 1)
    policy = FailurePolicy(backoff_ms=100, max_backoff_ms=300)
    made = nacked(machine, lease, policy=policy, now_ms=5, chance=lambda: 0.5)
    assert made == (
        Nack(D, lease, ((0, 1), (3, 4)), 95, ""),
        Nack(D, lease, ((1, 2),), 275, ""),
        Nack(D, lease, ((2, 3),), 185, ""),
    )


def test_a_nack_in_parts_reports_every_message_once() -> None:
    machine, lease = with_tries(1, 2, 1, 1, 1)
    change(machine, Ack(D, lease, ((3, 4),)), append_ms=3)
    move_floor(machine, 1)
    change(machine, Expire(D, ((4, 5),)), append_ms=30_000)
    made = nacked(machine, lease, ranges=((0, 3), (3, 5)), now_ms=30_000)
    assert made == (
        Bury(D, lease, ((0, 2), (3, 5)), Cause.MAX_DELIVERIES, ""),
        Nack(D, lease, ((2, 3),), 30_000, ""),
    )
    outcomes = change(machine, *made, append_ms=30_000)
    told = joined([outcome for outcome in outcomes if isinstance(outcome, Settled)])
    assert told == Settled(D, lease, 2, already=((3, 4),), expired=((0, 1),), stale=((4, 5),))


def test_leases_that_run_out_for_the_last_time_are_buried_by_consumer() -> None:
    machine, lease = with_tries(2, 1, 2)
    del lease
    made = decide_expire(machine, now_ms=30_000, policy=TWICE)
    assert made == (Expire(D, ((1, 2),)), BuryExpired(D, ((0, 1), (2, 3)), "c"))
    outcomes = change(machine, *made, append_ms=30_000)
    assert outcomes[1] == Buried(D, 2)
    assert states(machine) == "X1X"
    assert len(machine.group(D).leases) == 0
    assert machine.next_deadline_ms() is None


def test_a_burial_of_what_is_not_past_its_deadline_records_nothing() -> None:
    machine, lease = with_tries(2, 2)
    made = decide_expire(machine, now_ms=30_000, policy=TWICE)
    change(machine, Extend(D, lease, ((1, 2),), 50_000), append_ms=29_000)
    outcomes = change(machine, *made, append_ms=30_000)
    assert isinstance(outcomes[0], Nothing)
    assert outcomes[0].why is Misfit.NOT_DUE
    assert states(machine) == "LL"


def asked(machine: PartitionMachine, *, now_ms: int, policy: FailurePolicy = TWICE, request_id: int = 0) -> object:
    return decide_receive(
        machine,
        D,
        max_count=9,
        hide_ms=1_000,
        now_ms=now_ms,
        consumer="d",
        session=1,
        request_id=request_id,
        policy=policy,
    )


def test_a_receive_buries_on_its_way_what_it_must_not_lease_again() -> None:
    machine, _ = with_tries(2, 1, 2)
    decision = asked(machine, now_ms=30_000)
    assert decision == Propose(
        (
            Expire(D, ((1, 2),)),
            BuryExpired(D, ((0, 1), (2, 3)), "c"),
            Lease(D, ((1, 2),), 31_000, "d", 1, 0),
        )
    )
    assert isinstance(decision, Propose)
    change(machine, *decision.changes, append_ms=30_000)
    assert states(machine) == "XLX"


def test_a_receive_that_finds_nothing_else_leaves_the_burial_to_the_timer() -> None:
    machine, _ = with_tries(2, 2)
    assert asked(machine, now_ms=30_000) == NothingAvailable(30_000)
    assert asked(machine, now_ms=30_000, policy=NO_POLICY) != NothingAvailable(30_000)


def test_the_lease_of_the_same_request_ends_by_burial_too() -> None:
    machine = with_messages(3)
    change(machine, Nack(D, receive(machine, 1), ((0, 1),), 0, ""))
    receive(machine, 2, hide_ms=1_050, session=1, request_id=4)
    # Past its deadline, and not yet at a full 100 ms.
    decision = asked(machine, now_ms=1_060, request_id=4)
    assert decision == Propose(
        (
            Expire(D, ((1, 2),)),
            BuryExpired(D, ((0, 1),), "c"),
            Lease(D, ((2, 3),), 2_060, "d", 1, 4),
        )
    )


def test_a_lowered_maximum_lets_what_is_available_try_once_more() -> None:
    machine, lease = with_tries(3)
    change(machine, Nack(D, lease, ((0, 1),), 0, ""))
    decision = asked(machine, now_ms=0, policy=FailurePolicy(max_deliveries=1))
    assert isinstance(decision, Propose)
    change(machine, *decision.changes)
    (made,) = decide_expire(machine, now_ms=1_000, policy=FailurePolicy(max_deliveries=1))
    assert made == BuryExpired(D, ((0, 1),), "d")


def dead_of_ten() -> PartitionMachine:
    machine = with_messages(10)
    lease = receive(machine, 8)
    change(machine, Bury(D, lease, ((0, 3), (5, 6)), Cause.REJECTED, ""), Ack(D, lease, ((3, 5), (6, 8))))
    assert states(machine) == "XXX..X..--"
    return machine


def test_what_is_revived_is_as_if_it_had_never_been_delivered() -> None:
    machine = dead_of_ten()
    decision = decide_revive(machine, D, ranges=((1, 4), (4, 10)))
    assert decision == Propose((Revive(D, ((1, 3), (5, 6))),))
    assert isinstance(decision, Propose)
    applied = machine.apply(entry(machine, EntryKind.STATE, encode_changes(decision.changes)))
    assert (applied.outcomes, applied.woken) == ((Revived(D, 3),), (D,))
    assert states(machine) == "X--..-..--"
    change(machine, Revive(D, ((0, 10),)))
    assert states(machine) == "---..-..--"


def test_reviving_leaves_everything_else_untouched() -> None:
    machine = dead_of_ten()
    lease = receive(machine, 1)
    change(machine, Revive(D, ((0, 10),)))
    assert states(machine) == "---..-..L-"
    assert machine.holdings(D, lease)[0].start == 8


def test_what_is_not_dead_is_not_revived_and_nothing_is_written() -> None:
    machine = dead_of_ten()
    assert decide_revive(machine, D, ranges=((6, 9),)) == Answer(Revived(D, 0), machine.applied_index)


def test_so_many_runs_are_revived_at_once_and_the_rest_when_asked_again() -> None:
    machine = dead_of_ten()
    assert decide_revive(machine, D, ranges=((0, 10),), max_runs=1) == Propose((Revive(D, ((0, 3),)),))


@pytest.mark.parametrize(
    ("ranges", "refused"),
    [
        ((), "invalid_argument: ranges to revive: no ranges"),
        (((3, 2),), "invalid_argument: ranges to revive: range [3, 2) is empty or begins before 0"),
        (((0, 11),), "offset_out_of_range: end of the last range 11 is beyond the log end 10 of partition group 7"),
        (((0, 1), (2, 3), (4, 5)), "too_large: 3 ranges in one request; the most is 2"),
    ],
)
def test_bad_ranges_are_not_revived(ranges: tuple[tuple[int, int], ...], refused: str) -> None:
    machine = dead_of_ten()
    digest = machine.digest()
    decision = decide_revive(machine, D, ranges=ranges, limits=DecisionLimits(max_ranges_per_change=2))
    assert refusal(decision) == refused
    assert machine.digest() == digest


def test_the_dead_pass_with_retention_and_not_with_a_skip() -> None:
    machine = dead_of_ten()
    change(machine, SkipTo(D, 1, 10, ""))
    assert states(machine) == "XXX..X...."
    move_floor(machine, 2)
    assert machine.status(D).dead_count == 2
    assert list(machine.group(D).table.dead(0, 10)) == [
        machine.group(D).table.at(2),
        machine.group(D).table.at(5),
    ]


def test_groups_die_apart() -> None:
    machine = dead_of_ten()
    change(machine, CreateGroup(GroupName("audit"), 0))
    assert states(machine, GroupName("audit")) == "-" * 10
    assert machine.status(GroupName("audit")).dead_count == 0
