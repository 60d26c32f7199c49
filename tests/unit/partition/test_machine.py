"""What apply does with each kind of entry; verification.md's classes are named where a test stands for one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError, InvariantError, NotFoundError
from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, Offset
from logbroker.partition.commands import (
    Ack,
    CreateGroup,
    DeleteGroup,
    Expire,
    Lease,
    Nack,
    Release,
    Rewind,
    SkipTo,
    encode_changes,
)
from logbroker.partition.machine import MAX_GROUPS, PartitionMachine
from logbroker.partition.outcomes import (
    FloorMoved,
    GroupCreated,
    GroupDeleted,
    Leased,
    LeasedRange,
    Misfit,
    Nothing,
    Outcome,
    Produced,
    Rewound,
    Settled,
    Void,
)
from tests.unit.partition.build import GROUP, batch, change, entry, move_floor, produce, receive, states, with_messages

D = DEFAULT_GROUP
AUDIT = GroupName("audit")


def why(outcome: Outcome) -> Misfit:
    assert isinstance(outcome, Nothing)
    return outcome.why


def test_a_new_partition_has_the_default_group_and_nothing_else() -> None:
    machine = PartitionMachine.new(GROUP)
    assert machine.groups == (D,)
    assert (machine.next_offset, machine.log_start_offset, machine.applied_index) == (0, 0, 0)


def test_records_take_the_next_offsets_and_wake_every_group() -> None:
    machine = with_messages(3)
    change(machine, CreateGroup(AUDIT, 0))
    applied = produce(machine, 2)
    assert applied.outcomes == (Produced(Offset(3), 2),)
    assert applied.woken == (AUDIT, D)
    assert machine.next_offset == 5


@pytest.mark.parametrize("kind", [EntryKind.CONFIG, EntryKind.NOOP])
def test_an_entry_that_is_raft_s_business_moves_index_term_and_time_alone(kind: EntryKind) -> None:
    machine = with_messages(3)
    applied = machine.apply(entry(machine, kind, b"anything", append_ms=50))
    assert applied.outcomes == ()
    assert (machine.applied_index, machine.applied_term, machine.append_ms) == (2, 2, 50)
    assert states(machine) == "---"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"index": Index(9)}, "entry 9 of group 7 follows entry 1"),
        ({"base_offset": Offset(2)}, "begins at offset 2, not 3"),
        ({"next_offset": Offset(3)}, "DATA entry 2 of group 7 takes 0 offsets"),
        ({"kind": EntryKind.NOOP}, "NOOP entry 2 of group 7 takes 1 offsets"),
    ],
)
def test_an_entry_that_is_not_the_next_one_stops_the_group(fields: dict[str, object], fault: str) -> None:
    """B19: no offset is given twice, none is skipped."""
    machine = with_messages(3)
    digest = machine.digest()
    following = entry(machine, EntryKind.DATA, batch(1, base_offset=3), count=1)
    with pytest.raises(InvariantError, match=fault):
        machine.apply(replace(following, **fields))  # type: ignore[arg-type] # one field of each type
    assert machine.digest() == digest


@pytest.mark.parametrize("kind", [EntryKind.STATE, EntryKind.FLOOR])
def test_a_payload_that_cannot_be_read_changes_nothing(kind: EntryKind) -> None:
    machine = with_messages(3)
    digest = machine.digest()
    with pytest.raises(CorruptBatchError):
        machine.apply(entry(machine, kind, b"\xc1"))
    assert machine.digest() == digest


def test_log_time_never_goes_back() -> None:
    machine = PartitionMachine.new(GROUP)
    machine.apply(entry(machine, EntryKind.NOOP, append_ms=100))
    machine.apply(entry(machine, EntryKind.NOOP, append_ms=60))
    assert machine.append_ms == 100


def test_a_lease_is_named_by_index_and_ordinal() -> None:
    machine = with_messages(4)
    outcomes = change(machine, Lease(D, ((0, 1),), 9, "c", 1, 1), Lease(D, ((1, 4),), 9, "c", 1, 2))
    assert [outcome.lease for outcome in outcomes if isinstance(outcome, Leased)] == [2 << 16, 2 << 16 | 1]


def test_a_change_that_does_not_fit_leaves_the_others_of_its_entry_alone() -> None:
    machine = with_messages(4)
    first, second, third = change(
        machine,
        Lease(D, ((0, 2),), 9, "c", 1, 1),
        Lease(D, ((1, 3),), 9, "c", 1, 2),
        Lease(D, ((2, 4),), 9, "c", 1, 3),
    )
    assert isinstance(first, Leased)
    assert second == Nothing(Misfit.NOT_AVAILABLE, "offsets [1, 2) are leased")
    assert isinstance(third, Leased)
    assert states(machine) == "LLLL"


@pytest.mark.parametrize(
    ("lease", "misfit"),
    [
        (Lease(D, ((0, 5),), 9, "c", 0, 0), Misfit.BEYOND_LOG_END),
        (Lease(D, ((0, 1),), 0, "c", 0, 0), Misfit.NOT_AVAILABLE),
        (Lease(GroupName("x"), ((0, 1),), 9, "c", 0, 0), Misfit.NO_GROUP),
        (Lease(D, ((1, 2),), 9, "c", 5, 6), Misfit.REQUEST_IN_USE),
    ],
)
def test_a_lease_that_does_not_fit_says_why(lease: Lease, misfit: Misfit) -> None:
    machine = with_messages(4)
    change(machine, Lease(D, ((0, 1),), 9, "c", 5, 6))
    assert why(change(machine, lease)[0]) is misfit
    assert states(machine) == "L---"


def test_a_delayed_message_cannot_be_leased_before_it_is_due() -> None:
    machine = with_messages(2)
    change(machine, Nack(D, receive(machine, 1), ((0, 1),), 500, ""))
    lease = Lease(D, ((0, 2),), 9_000, "c", 0, 0)
    assert change(machine, lease, append_ms=499) == (Nothing(Misfit.NOT_AVAILABLE, "offsets [0, 1) are delayed"),)
    (outcome,) = change(machine, lease, append_ms=500)
    assert isinstance(outcome, Leased)
    assert [held.deliveries for held in outcome.ranges] == [2, 1]


def test_leased_messages_tell_how_often_they_were_delivered() -> None:
    machine = with_messages(4)
    change(machine, Nack(D, receive(machine, 2), ((0, 2),), 0, ""))
    (outcome,) = change(machine, Lease(D, ((0, 3),), 9, "c", 0, 0))
    assert isinstance(outcome, Leased)
    assert outcome.ranges == (LeasedRange(Offset(0), Offset(2), 2, 9), LeasedRange(Offset(2), Offset(3), 1, 9))
    assert outcome.count == 3


@pytest.mark.parametrize(
    ("producer", "expected"),
    [
        ((1, 5, 0), (Misfit.DUPLICATE, "sequence 0 stands at offset 0", 0)),
        ((1, 5, 3), (Misfit.OUT_OF_ORDER, "sequence 3 is not 2", None)),
        ((1, 4, 0), (Misfit.FENCED, "epoch 4 is below 5", None)),
        ((-2, 4, 0), (Misfit.UNREADABLE, "producer -2 has epoch 4, sequence 0", None)),
        ((3, -1, 0), (Misfit.UNREADABLE, "producer 3 has epoch -1, sequence 0", None)),
        ((3, 0, -1), (Misfit.UNREADABLE, "producer 3 has epoch 0, sequence -1", None)),
    ],
)
def test_a_batch_that_does_not_fit_is_void(
    producer: tuple[int, int, int], expected: tuple[Misfit, str, int | None]
) -> None:
    """B17, and rule 5: it still takes its offsets, so that replicas never disagree about what follows."""
    machine = PartitionMachine.new(GROUP)
    produce(machine, 2, producer=(1, 5, 0))
    change(machine, CreateGroup(AUDIT, 0))
    applied = produce(machine, 2, producer=producer)
    assert applied.outcomes == (Void(Offset(2), 2, *expected),)  # type: ignore[arg-type] # an offset or None
    assert applied.woken == ()
    produce(machine, 1)
    assert states(machine) == states(machine, AUDIT) == "--..-"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0" * 61, batch(2, base_offset=9), batch(3), batch(2)[:40]],
    ids=["empty", "zeros", "another offset", "another count", "cut"],
)
def test_a_batch_that_contradicts_its_entry_is_void(payload: bytes) -> None:
    """B8: what stands in the wrong place is not delivered."""
    machine = PartitionMachine.new(GROUP)
    (outcome,) = machine.apply(entry(machine, EntryKind.DATA, payload, count=2)).outcomes
    assert isinstance(outcome, Void)
    assert outcome.why is Misfit.UNREADABLE
    assert states(machine) == ".."


def test_void_messages_stay_void_for_later_groups_and_for_rewinds() -> None:
    machine = with_messages(2)
    for producer in [(1, 1, 0), (1, 0, 5), (1, 0, 6)]:
        produce(machine, 2, producer=producer)
    assert list(machine.voids) == [(4, 8)]
    produce(machine, 1)
    change(machine, CreateGroup(AUDIT, 0), CreateGroup(GroupName("late"), 6), SkipTo(D, 1, 9, ""), Rewind(D, 2, 0, ""))
    assert states(machine) == states(machine, AUDIT) == "----....-"
    assert states(machine, GroupName("late")) == "........-"
    produce(machine, 2, producer=(1, 0, 7))
    assert list(machine.voids) == [(4, 8), (9, 11)]


def test_a_rewind_does_not_count_void_messages() -> None:
    machine = with_messages(2)
    for producer in [(1, 1, 0), (1, 0, 5)]:
        produce(machine, 2, producer=producer)
    produce(machine, 1)
    lease = receive(machine, 9)
    change(machine, Ack(D, lease, ((0, 4),)))
    (outcome,) = change(machine, Rewind(D, 1, 0, ""))
    assert isinstance(outcome, Rewound)
    assert (outcome.reopened_count, outcome.revoked_count) == (4, 1)
    receive(machine, 1)
    change(machine, Ack(D, receive(machine, 3), ((1, 4),)))
    (outcome,) = change(machine, Rewind(D, 2, 1, ""))
    assert isinstance(outcome, Rewound)
    assert (outcome.reopened_count, outcome.revoked_count) == (3, 0)


def test_a_rewind_resets_the_count_of_what_keeps_its_due_time() -> None:
    machine = with_messages(1)
    change(machine, Nack(D, receive(machine, 1), ((0, 1),), 500, ""), Rewind(D, 1, 0, ""))
    assert states(machine) == "D"
    (outcome,) = change(machine, Lease(D, ((0, 1),), 9_000, "c", 0, 0), append_ms=500)
    assert isinstance(outcome, Leased)
    assert outcome.ranges[0].deliveries == 1


def test_a_group_begins_where_it_is_told_to_within_the_log() -> None:
    machine = with_messages(6)
    move_floor(machine, 2)
    outcomes = change(
        machine, CreateGroup(AUDIT, 4), CreateGroup(GroupName("low"), 1), CreateGroup(GroupName("high"), 99)
    )
    assert outcomes == (
        GroupCreated(AUDIT, Offset(4)),
        GroupCreated(GroupName("low"), Offset(2)),
        GroupCreated(GroupName("high"), Offset(6)),
    )
    assert states(machine, AUDIT) == "....--"
    assert why(change(machine, CreateGroup(AUDIT, 0))[0]) is Misfit.GROUP_EXISTS


def test_the_number_of_groups_is_bounded() -> None:
    """B38."""
    machine = PartitionMachine.new(GROUP)
    many = [CreateGroup(GroupName(f"g{i}"), 0) for i in range(MAX_GROUPS)]
    outcomes = change(machine, *many)
    assert why(outcomes[-1]) is Misfit.GROUP_LIMIT
    assert len(machine.groups) == MAX_GROUPS


def test_any_group_but_default_can_be_deleted() -> None:
    machine = PartitionMachine.new(GROUP)
    change(machine, CreateGroup(AUDIT, 0))
    assert change(machine, DeleteGroup(AUDIT)) == (GroupDeleted(AUDIT),)
    assert why(change(machine, DeleteGroup(D))[0]) is Misfit.DEFAULT_GROUP
    assert why(change(machine, DeleteGroup(AUDIT))[0]) is Misfit.NO_GROUP
    with pytest.raises(NotFoundError, match="consumer group 'audit' does not exist in partition group 7"):
        machine.group(AUDIT)


def test_the_log_start_takes_what_lies_below_in_whatever_state() -> None:
    """B30: a message that nobody acks pins nothing."""
    machine = with_messages(6)
    lease = receive(machine, 4)
    change(machine, Ack(D, lease, ((1, 2),)), CreateGroup(AUDIT, 6))
    assert move_floor(machine, 3) == FloorMoved(Offset(3), Index(4), ((AUDIT, 0), (D, 2)))
    assert states(machine) == "...L--"
    assert machine.holdings(D, lease) == (LeasedRange(Offset(3), Offset(4), 1, 30_000),)
    (outcome,) = change(machine, Ack(D, lease, ((0, 4),)))
    assert outcome == Settled(D, lease, 1, expired=((0, 3),))


def test_the_log_start_never_goes_back_nor_beyond_the_log() -> None:
    """B29."""
    machine = with_messages(6)
    move_floor(machine, 3)
    digest = machine.digest()
    assert why(move_floor(machine, 2)) is Misfit.OLD_FLOOR
    assert why(move_floor(machine, 7)) is Misfit.OLD_FLOOR
    assert machine.log_start_offset == 3
    assert machine.digest() != digest


def test_void_ranges_go_with_the_log_start() -> None:
    machine = with_messages(1)
    produce(machine, 1, producer=(1, 1, 0))
    produce(machine, 4, producer=(1, 0, 0))
    move_floor(machine, 4)
    assert list(machine.voids) == [(4, 6)]
    move_floor(machine, 6)
    assert list(machine.voids) == []


def test_what_makes_messages_available_wakes_its_group_once() -> None:
    """B26."""
    machine = with_messages(6)
    change(machine, CreateGroup(AUDIT, 0))
    leases = [receive(machine, 1, hide_ms=1000) for _ in range(3)]

    def woken_by(*changes: Nack | Release | Expire | Ack | Rewind) -> tuple[GroupName, ...]:
        return machine.apply(entry(machine, EntryKind.STATE, encode_changes(changes), append_ms=1000)).woken

    assert woken_by(Ack(D, leases[0], ((0, 1),))) == ()
    assert woken_by(Nack(D, leases[1], ((1, 2),), 0, ""), Expire(D, ((2, 3),))) == (D,)
    assert woken_by(Expire(D, ((2, 3),))) == ()
    assert woken_by(Rewind(AUDIT, 1, 0, ""), Rewind(D, 1, 0, "")) == (AUDIT, D)


def test_a_clone_and_its_original_go_separate_ways() -> None:
    machine = with_messages(6)
    receive(machine, 2)
    clone = machine.clone()
    assert clone.digest() == machine.digest()
    change(clone, SkipTo(D, 1, 6, ""))
    produce(machine, 1, producer=(5, 0, 0))
    assert states(machine) == "LL-----"
    assert states(clone) == "......"
    assert len(clone.producers) == 0


@pytest.mark.parametrize(
    "difference",
    [
        lambda machine: produce(machine, 1, producer=(5, 0, 0)),
        lambda machine: change(machine, CreateGroup(AUDIT, 0)),
        lambda machine: change(machine, Lease(D, ((0, 1),), 900, "c", 1, 1)),
        lambda machine: change(machine, Lease(D, ((0, 1),), 900, "c", 1, 2)),
        lambda machine: change(machine, Lease(D, ((0, 1),), 900, "d", 1, 2)),
        lambda machine: change(machine, Rewind(D, 4, 0, "")),
        lambda machine: change(machine, Rewind(D, 5, 0, "")),
        lambda machine: move_floor(machine, 1),
        lambda machine: machine.apply(entry(machine, EntryKind.NOOP, append_ms=1)),
        lambda machine: produce(machine, 1, producer=(1, 0, 9)),
    ],
)
def test_the_digest_sees_every_part_of_the_state(difference: object) -> None:
    """B37: replicas that differ are found out."""
    machines = [with_messages(3), with_messages(3)]
    for machine in machines:
        produce(machine, 1, producer=(1, 1, 0))
    machines[1].apply(entry(machines[1], EntryKind.NOOP))
    difference(machines[0])  # type: ignore[operator] # one of the lambdas above
    assert machines[0].digest() != machines[1].digest()


def test_the_digest_knows_the_order_in_which_producers_go() -> None:
    machines = [PartitionMachine.new(GROUP), PartitionMachine.new(GROUP)]
    for machine, order in zip(machines, [(1, 2), (2, 1)], strict=True):
        for producer in order:
            produce(machine, 1, producer=(producer, 0, 0))
    assert machines[0].digest() != machines[1].digest()


def test_the_digest_does_not_see_in_which_order_groups_were_made() -> None:
    machines = [PartitionMachine.new(GROUP), PartitionMachine.new(GROUP)]
    names = [GroupName("a"), GroupName("z")]
    for machine, order in zip(machines, [names, names[::-1]], strict=True):
        change(machine, *[CreateGroup(name, 0) for name in order])
    assert machines[0].digest() == machines[1].digest()


def test_the_digest_of_a_state_is_part_of_the_format() -> None:
    machine = with_messages(5)
    produce(machine, 1, producer=(3, 0, 0), append_ms=10)
    receive(machine, 2, now_ms=20, session=8, request_id=9)
    assert machine.digest().hex() == "3ca302245d043bbb8cd17e8d71517d57"


def test_the_next_deadline_is_that_of_the_first_lease_of_any_group() -> None:
    machine = with_messages(4)
    assert machine.next_deadline_ms() is None
    change(machine, CreateGroup(AUDIT, 0))
    receive(machine, 1, hide_ms=5_000)
    receive(machine, 1, hide_ms=2_050, group=AUDIT)
    assert machine.next_deadline_ms() == 2_100


def test_status_counts_messages_by_state() -> None:
    machine = with_messages(10)
    lease = receive(machine, 6)
    change(
        machine, Ack(D, lease, ((0, 1), (3, 4))), Nack(D, lease, ((1, 2),), 50, ""), Nack(D, lease, ((2, 3),), 0, "")
    )
    assert states(machine) == ".D1.LL----"
    status = machine.status(D)
    assert (status.floor, status.oldest_unsettled_offset, status.lag_count) == (1, 1, 8)
    assert (status.available_count, status.leased_count, status.delayed_count) == (5, 2, 1)
    assert (status.acked_ahead_count, status.dead_count) == (1, 0)
    assert (status.run_count, status.lease_count) == (4, 1)


def test_holdings_of_a_lease_that_is_over_are_nothing() -> None:
    assert with_messages(1).holdings(D, LeaseId(5)) == ()
