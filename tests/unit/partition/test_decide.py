"""Decisions: what is refused and how it is named, what is answered without an entry, and what is proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import AlreadyExistsError, StaleLeaseError
from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, Offset
from logbroker.partition.commands import Ack, CreateGroup, Expire, Extend, Floor, Lease, Nack, Release, Rewind, SkipTo
from logbroker.partition.decide import (
    Answer,
    DecisionLimits,
    NothingAvailable,
    Propose,
    ProposeBatch,
    ProposeFloor,
    Refused,
    decide_ack,
    decide_create_group,
    decide_delete_group,
    decide_expire,
    decide_extend,
    decide_floor,
    decide_nack,
    decide_produce,
    decide_receive,
    decide_release,
    decide_rewind,
    decide_skip_to,
    next_visible_ms,
)
from logbroker.partition.machine import MAX_GROUPS, MAX_OFFSET
from logbroker.partition.outcomes import Leased, LeasedRange, Produced, Rewound, Settled, Skipped
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.record.batch import read_header
from tests.unit.partition.build import batch, change, move_floor, produce, receive, refusal, states, with_messages

if TYPE_CHECKING:
    from logbroker.partition.commands import Change, Ranges
    from logbroker.partition.decide import Decision
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
AUDIT = GroupName("audit")
BAD = 1 << 63


def ask(
    machine: PartitionMachine,
    *,
    group: GroupName = D,
    max_count: int = 1,
    hide_ms: int = 30_000,
    now_ms: int = 0,
    consumer: str = "c",
    session: int = 0,
    request_id: int = 0,
    not_below: int = 0,
    limits: DecisionLimits | None = None,
) -> Decision:
    return decide_receive(
        machine,
        group,
        max_count=max_count,
        hide_ms=hide_ms,
        now_ms=now_ms,
        consumer=consumer,
        session=session,
        request_id=request_id,
        not_below=not_below,
        limits=limits or DecisionLimits(),
    )


def changes(decision: Decision) -> tuple[Change, ...]:
    assert isinstance(decision, Propose)
    return decision.changes


def leased_ranges(decision: Decision) -> Ranges:
    lease = changes(decision)[-1]
    assert isinstance(lease, Lease)
    return lease.ranges


def test_a_receive_takes_the_first_available_messages() -> None:
    decision = ask(with_messages(5), max_count=3, now_ms=100, session=4, request_id=5)
    assert changes(decision) == (Lease(D, ((0, 3),), 30_100, "c", 4, 5),)


def test_time_in_a_decision_is_never_below_the_log_s() -> None:
    machine = with_messages(5)
    produce(machine, 1, append_ms=500)
    assert changes(ask(machine, now_ms=100)) == (Lease(D, ((0, 1),), 30_500, "c", 0, 0),)


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"group": GroupName("no")}, "not_found: consumer group 'no' does not exist in partition group 7"),
        ({"max_count": 0}, "invalid_argument: max_count 0 is not in 1..1000"),
        ({"max_count": 1001}, "invalid_argument: max_count 1001 is not in 1..1000"),
        ({"hide_ms": 999}, "invalid_argument: hide_ms 999 is not in 1000..43200000"),
        ({"hide_ms": 43_200_001}, "invalid_argument: hide_ms 43200001 is not in 1000..43200000"),
        ({"consumer": "x" * 257}, "invalid_argument: consumer has 257 characters; the most is 256"),
        ({"session": -1}, f"invalid_argument: session -1 is not in 0..{BAD - 1}"),
        ({"request_id": BAD}, f"invalid_argument: request_id {BAD} is not in 0..{BAD - 1}"),
    ],
)
def test_a_receive_with_a_bad_field_is_refused_by_name(arguments: dict[str, object], refused: str) -> None:
    machine = with_messages(5)
    digest = machine.digest()
    assert refusal(ask(machine, **arguments)) == refused  # type: ignore[arg-type] # one field of each type
    assert machine.digest() == digest


@pytest.mark.parametrize("arguments", [{"max_count": 1000}, {"hide_ms": 1000}, {"hide_ms": 43_200_000}])
def test_a_receive_at_its_bounds_is_taken(arguments: dict[str, int]) -> None:
    assert isinstance(ask(with_messages(5), **arguments), Propose)  # type: ignore[arg-type] # see above


def test_what_has_run_out_is_expired_in_the_entry_that_leases_it_again() -> None:
    machine = with_messages(5)
    lease = receive(machine, 4, hide_ms=1000)
    change(machine, Ack(D, lease, ((1, 2),)))
    assert isinstance(ask(machine, max_count=2, now_ms=999), Propose)
    assert leased_ranges(ask(machine, max_count=2, now_ms=999)) == ((4, 5),)
    decision = ask(machine, max_count=2, now_ms=1000)
    assert changes(decision) == (
        Expire(D, ((0, 1), (2, 4))),
        Lease(D, ((0, 1), (2, 3)), 31_000, "c", 0, 0),
    )
    change(machine, *changes(decision), append_ms=1000)
    assert states(machine) == "L.L1-"


def test_a_delayed_message_that_is_due_is_leased_as_it_is() -> None:
    machine = with_messages(3)
    lease = receive(machine, 2)
    change(machine, Nack(D, lease, ((0, 1),), 700, ""))
    assert leased_ranges(ask(machine, max_count=9, now_ms=699)) == ((2, 3),)
    assert changes(ask(machine, max_count=9, now_ms=700)) == (Lease(D, ((0, 1), (2, 3)), 30_700, "c", 0, 0),)


def test_a_decision_for_an_earlier_time_does_not_see_what_a_later_one_saw() -> None:
    """B24: a deadline is never shortened, not by a look ahead either."""
    machine = with_messages(2)
    lease = receive(machine, 2, hide_ms=2000)
    change(machine, Nack(D, lease, ((1, 2),), 2000, ""))
    assert leased_ranges(ask(machine, max_count=9, now_ms=2000)) == ((0, 2),)
    assert isinstance(ask(machine, max_count=9, now_ms=1999), NothingAvailable)
    assert decide_expire(machine, now_ms=1999) == ()


def test_a_lease_has_at_most_so_many_ranges() -> None:
    machine = with_messages(6)
    lease = receive(machine, 6)
    change(machine, Ack(D, lease, ((0, 1), (2, 3), (4, 5))), Release(D, lease))
    assert states(machine) == ".-.-.-"
    limits = DecisionLimits(max_ranges_per_change=2)
    assert leased_ranges(ask(machine, max_count=6, limits=limits)) == ((1, 2), (3, 4))


def test_messages_past_their_retention_are_not_handed_out() -> None:
    machine = with_messages(6)
    change(machine, Nack(D, receive(machine, 2), ((0, 1), (1, 2)), 0, ""))
    assert leased_ranges(ask(machine, max_count=9, not_below=4)) == ((4, 6),)
    assert leased_ranges(ask(machine, max_count=9, not_below=1)) == ((1, 6),)
    assert isinstance(ask(machine, not_below=6), NothingAvailable)


def test_a_table_that_is_full_takes_no_more_leases() -> None:
    """B38."""
    machine = with_messages(6)
    receive(machine, 1)
    receive(machine, 1, now_ms=5)
    decision = ask(machine, limits=DecisionLimits(max_runs_per_group=2))
    assert refusal(decision) == "overloaded: group 'default' has 2 runs of unlike messages; the most is 2"


def test_nothing_available_tells_when_to_look_again() -> None:
    machine = with_messages(2)
    assert next_visible_ms(machine, D) is None
    lease = receive(machine, 2, hide_ms=5_000)
    assert ask(machine, now_ms=10) == NothingAvailable(5_000)
    change(machine, Nack(D, lease, ((0, 1),), 1_501, ""), append_ms=10)
    assert ask(machine, now_ms=20) == NothingAvailable(1_600)
    change(machine, SkipTo(D, 1, 2, ""))
    assert ask(machine, now_ms=20) == NothingAvailable(None)


def test_a_retry_gets_its_lease_and_the_time_that_is_left() -> None:
    machine = with_messages(5)
    lease = receive(machine, 3, session=8, request_id=9)
    change(machine, Ack(D, lease, ((1, 2),)), Extend(D, lease, ((2, 3),), 40_000))
    held = (LeasedRange(Offset(0), Offset(1), 1, 30_000), LeasedRange(Offset(2), Offset(3), 1, 40_000))
    decision = ask(machine, max_count=3, now_ms=29_000, session=8, request_id=9)
    assert decision == Answer(Leased(D, lease, held, 30_000, repeated=True), machine.applied_index)
    assert ask(machine, now_ms=30_000, session=8, request_id=9) == Answer(
        Leased(D, lease, held[1:], 40_000, repeated=True), machine.applied_index
    )


@pytest.mark.parametrize(("session", "request_id"), [(8, 10), (7, 9), (0, 0)])
def test_another_request_gets_another_lease(session: int, request_id: int) -> None:
    machine = with_messages(5)
    receive(machine, 3, session=8, request_id=9)
    assert leased_ranges(ask(machine, max_count=3, session=session, request_id=request_id)) == ((3, 5),)


def test_receives_without_a_session_are_never_retries() -> None:
    machine = with_messages(5)
    receive(machine, 3)
    assert leased_ranges(ask(machine, max_count=3)) == ((3, 5),)


def test_a_retry_after_the_hide_time_is_a_new_receive() -> None:
    machine = with_messages(5)
    lease = receive(machine, 3, hide_ms=1_050, session=8, request_id=9)
    decision = ask(machine, max_count=9, now_ms=1_060, session=8, request_id=9)
    # Due, but not yet at a full 100 ms: only the request's own lease is known to be over.
    assert changes(decision) == (Expire(D, ((0, 3),)), Lease(D, ((3, 5),), 31_060, "c", 8, 9))
    change(machine, *changes(decision), append_ms=1_060)
    assert machine.holdings(D, lease) == ()
    assert states(machine) == "111LL"


@pytest.mark.parametrize(
    ("producer", "refused"),
    [
        ((1, 5, 3), "out_of_order_sequence: sequence 3 of producer 1 in partition group 7 is not the next, 2, nor"),
        ((1, 4, 2), "producer_fenced: epoch 4 of producer 1 in partition group 7 is below its newest epoch 5"),
        ((-2, 0, 0), f"invalid_argument: producer_id -2 is not in 0..{BAD - 1}"),
        ((1, -1, 0), "invalid_argument: producer_epoch -1 is not in 0..32767"),
        ((1, 0, -1), "invalid_argument: base_sequence -1 is not in 0..2147483647"),
    ],
)
def test_a_batch_out_of_sequence_is_refused(producer: tuple[int, int, int], refused: str) -> None:
    machine = with_messages(0)
    produce(machine, 2, producer=(1, 5, 0))
    digest = machine.digest()
    assert refusal(decide_produce(machine, read_header(batch(1, producer=producer)))).startswith(refused)
    assert machine.digest() == digest


def test_a_batch_in_sequence_is_given_its_offsets() -> None:
    machine = with_messages(3)
    produce(machine, 2, producer=(1, 5, 0))
    for producer in [(1, 5, 2), (1, 6, 0), (2, 3, 0), (-1, -1, -1)]:
        decision = decide_produce(machine, read_header(batch(4, producer=producer)))
        assert decision == ProposeBatch(Offset(5), Offset(9))


def test_a_duplicate_is_answered_with_the_first_offset_and_with_when_that_is_true() -> None:
    """B17; rule 4: what is decided on `ahead` may not be told before it is applied."""
    applied = with_messages(3)
    ahead = applied.clone()
    produce(ahead, 2, producer=(1, 5, 0))
    decision = decide_produce(ahead, read_header(batch(2, producer=(1, 5, 0))))
    assert decision == Answer(Produced(Offset(3), 2, duplicate=True), ahead.applied_index)
    assert applied.next_offset <= 3 < ahead.next_offset


def test_offsets_end_where_message_ids_do() -> None:
    machine = with_messages(3)
    machine.next_offset = Offset(MAX_OFFSET - 1)
    assert isinstance(decide_produce(machine, read_header(batch(1))), ProposeBatch)
    assert refusal(decide_produce(machine, read_header(batch(2)))).startswith("offset_out_of_range: offset 2814749767")


def test_an_empty_batch_is_refused() -> None:
    header = read_header(batch(1))._replace(record_count=0)
    assert (
        refusal(decide_produce(with_messages(0), header)) == f"invalid_argument: record_count 0 is not in 1..{BAD - 1}"
    )


def settle(machine: PartitionMachine, verb: str, lease: int, ranges: Ranges, **fields: int) -> Decision:
    name = LeaseId(lease)
    if verb == "ack":
        return decide_ack(machine, D, lease=name, ranges=ranges)
    if verb == "nack":
        return decide_nack(
            machine, D, lease=name, ranges=ranges, delay_ms=fields.get("delay_ms", 0), now_ms=0, reason="r"
        )
    return decide_extend(
        machine, D, lease=name, ranges=ranges, hide_ms=fields.get("hide_ms", 1000), now_ms=fields.get("now_ms", 0)
    )


VERBS = pytest.mark.parametrize("verb", ["ack", "nack", "extend"])


@VERBS
@pytest.mark.parametrize(
    ("lease", "ranges", "refused"),
    [
        (0, ((0, 1),), f"invalid_argument: lease 0 is not in 1..{BAD - 1}"),
        (9, (), "invalid_argument: ranges of lease 9: no ranges"),
        (9, ((2, 2),), "invalid_argument: ranges of lease 9: range [2, 2) is empty or begins before 0"),
        (9, ((1, 3), (2, 4)), "invalid_argument: ranges of lease 9: range [2, 4) is empty or begins before 3"),
        (9, ((-1, 3),), "invalid_argument: ranges of lease 9: range [-1, 3) is empty or begins before 0"),
        (9, ((0, 6),), "offset_out_of_range: end of the last range 6 is beyond the log end 5 of partition group 7"),
        (9, ((0, BAD),), f"invalid_argument: end of the last range {BAD} is not in 0..{MAX_OFFSET}"),
        (9, tuple((i, i + 1) for i in range(1001)), "too_large: 1001 ranges in one request; the most is 1000"),
        (9, ((0, 1),), "stale: lease 9 of group 'default' does not hold offsets [0, 1): it is not current for them"),
    ],
)
def test_naming_messages_of_a_lease_badly_is_refused(verb: str, lease: int, ranges: Ranges, refused: str) -> None:
    machine = with_messages(5)
    digest = machine.digest()
    assert refusal(settle(machine, verb, lease, ranges)) == refused
    assert machine.digest() == digest


@VERBS
def test_what_is_acked_already_is_answered_and_not_written(verb: str) -> None:
    machine = with_messages(5)
    lease = receive(machine, 3)
    change(machine, Ack(D, lease, ((0, 3),)))
    expected = Settled(D, lease, 0, already=((0, 2),))
    assert settle(machine, verb, lease, ((0, 2),)) == Answer(expected, machine.applied_index)
    mixed = Settled(D, lease, 0, already=((1, 3),), stale=((3, 5),))
    assert settle(machine, verb, lease, ((1, 5),)) == Answer(mixed, machine.applied_index)


@VERBS
def test_a_lease_that_has_ended_is_stale_however_the_message_fares(verb: str) -> None:
    """B23."""
    machine = with_messages(2)
    old = receive(machine, 2, hide_ms=1000)
    receive(machine, 1, now_ms=1000)
    assert states(machine) == "L1"
    for ranges in [((0, 1),), ((1, 2),)]:
        decision = settle(machine, verb, old, ranges)
        assert isinstance(decision, Refused)
        assert isinstance(decision.error, StaleLeaseError)


def test_a_late_ack_is_good_until_the_lease_is_ended_in_the_log() -> None:
    machine = with_messages(2)
    lease = receive(machine, 2, hide_ms=1000)
    machine.append_ms = 90_000
    decision = decide_ack(machine, D, lease=lease, ranges=((0, 1),))
    assert changes(decision) == (Ack(D, lease, ((0, 1),)),)


def test_a_lease_taken_by_a_rewind_is_told_so() -> None:
    machine = with_messages(4)
    lease = receive(machine, 3)
    change(machine, Rewind(D, 1, 1, ""))
    message = "stale: lease {} of group 'default' does not hold offsets [1, 3): a rewind took them back"
    assert refusal(decide_ack(machine, D, lease=lease, ranges=((1, 3),))) == message.format(int(lease))
    (outcome,) = change(machine, Ack(D, lease, ((0, 2),)))
    assert outcome == Settled(D, lease, 1, stale=((1, 2),), rewound=True)


def test_a_lease_made_after_a_rewind_was_not_taken_by_it() -> None:
    machine = with_messages(4)
    change(machine, Rewind(D, 1, 0, ""))
    lease = receive(machine, 3)
    change(machine, Nack(D, lease, ((0, 3),), 0, ""))
    assert "not current" in refusal(decide_ack(machine, D, lease=lease, ranges=((0, 1),)))


@pytest.mark.parametrize("delay_ms", [-1, 1_296_000_001])
def test_a_nack_is_delayed_within_bounds(delay_ms: int) -> None:
    decision = settle(with_messages(1), "nack", 1, ((0, 1),), delay_ms=delay_ms)
    assert refusal(decision) == f"invalid_argument: delay_ms {delay_ms} is not in 0..1296000000"


def test_a_nack_gives_back_now_or_later() -> None:
    machine = with_messages(3)
    lease = receive(machine, 3, now_ms=10)
    now = settle(machine, "nack", lease, ((0, 1),))
    later = settle(machine, "nack", lease, ((1, 2),), delay_ms=50)
    assert changes(now) == (Nack(D, lease, ((0, 1),), 10, "r"),)
    assert changes(later) == (Nack(D, lease, ((1, 2),), 60, "r"),)
    change(machine, *changes(now), *changes(later), append_ms=10)
    assert states(machine) == "1DL"


def test_an_extension_counts_from_now() -> None:
    machine = with_messages(3)
    lease = receive(machine, 3, now_ms=10)
    decision = settle(machine, "extend", lease, ((0, 1),), hide_ms=1000, now_ms=500)
    assert changes(decision) == (Extend(D, lease, ((0, 1),), 1500),)


def test_a_lease_lasts_twelve_hours_at_most() -> None:
    machine = with_messages(3)
    lease = receive(machine, 3, now_ms=10)
    longest = settle(machine, "extend", lease, ((0, 1),), hide_ms=43_190_000, now_ms=10_010)
    assert isinstance(longest, Propose)
    longer = settle(machine, "extend", lease, ((0, 1),), hide_ms=43_190_001, now_ms=10_010)
    assert refusal(longer) == (
        f"invalid_argument: hide_ms 43190001 would make lease {int(lease)} last longer than 43200000 ms; "
        "43190000 ms are left to it"
    )


def test_a_message_leased_again_has_twelve_hours_again() -> None:
    machine = with_messages(1)
    change(machine, Nack(D, receive(machine, 1), ((0, 1),), 0, ""))
    lease = receive(machine, 1, now_ms=43_200_000)
    assert isinstance(settle(machine, "extend", lease, ((0, 1),), hide_ms=43_200_000, now_ms=43_200_000), Propose)


def test_an_extension_of_twelve_hours_and_more_ago_is_left_no_time() -> None:
    machine = with_messages(1)
    lease = receive(machine, 1)
    decision = settle(machine, "extend", lease, ((0, 1),), hide_ms=1000, now_ms=43_200_001)
    assert refusal(decision).endswith("; 0 ms are left to it")


def test_only_a_current_lease_can_be_released() -> None:
    machine = with_messages(1)
    assert refusal(decide_release(machine, D, lease=LeaseId(3))) == "stale: lease 3 of group 'default' is not current"
    lease = receive(machine, 1)
    assert changes(decide_release(machine, D, lease=lease)) == (Release(D, lease),)


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 129, "a/b", "a\n"])
def test_a_group_name_is_plain(name: str) -> None:
    decision = decide_create_group(with_messages(0), GroupName(name), start_offset=0)
    assert "is not 1..128 of the characters A-Z a-z 0-9 . _ -" in refusal(decision)


def test_a_group_is_made_once_within_the_log() -> None:
    machine = with_messages(3)
    assert changes(decide_create_group(machine, AUDIT, start_offset=3)) == (CreateGroup(AUDIT, 3),)
    assert refusal(decide_create_group(machine, AUDIT, start_offset=4)).startswith(
        "offset_out_of_range: start_offset 4 is beyond the log end 3"
    )
    decision = decide_create_group(machine, D, start_offset=0)
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, AlreadyExistsError)


def test_no_more_groups_are_made_than_fit() -> None:
    machine = with_messages(0)
    change(machine, *[CreateGroup(GroupName(f"g{i}"), 0) for i in range(MAX_GROUPS)])
    assert refusal(decide_create_group(machine, AUDIT, start_offset=0)).startswith("overloaded: there are 1000")


def test_the_default_group_stays() -> None:
    machine = with_messages(0)
    assert refusal(decide_delete_group(machine, D)).startswith("invalid_argument: consumer group 'default' always")
    assert refusal(decide_delete_group(machine, AUDIT)).startswith("not_found")


@pytest.mark.parametrize("choose", [decide_rewind, decide_skip_to])
@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"rewind_id": 0}, f"invalid_argument: rewind_id 0 is not in 1..{FIRST_PURGE_ID - 1}"),
        ({"start_offset": -1}, f"invalid_argument: start_offset -1 is not in 0..{MAX_OFFSET}"),
        ({"requested": "x" * 257}, "invalid_argument: requested has 257 characters; the most is 256"),
    ],
)
def test_a_move_with_a_bad_field_is_refused_by_name(choose: object, fields: dict[str, object], refused: str) -> None:
    arguments = {"rewind_id": 1, "start_offset": 0, "requested": "x"} | fields
    assert refusal(choose(with_messages(1), D, **arguments)) == refused  # type: ignore[operator] # one of the two


def test_a_rewind_reports_what_it_reached_and_repeats_it() -> None:
    machine = with_messages(6)
    move_floor(machine, 1)
    lease = receive(machine, 4)
    change(machine, Ack(D, lease, ((1, 3),)), Nack(D, lease, ((3, 4),), 9_000, ""))
    assert states(machine) == "...DL-"
    decision = decide_rewind(machine, D, rewind_id=5, start_offset=0, requested="earliest")
    (outcome,) = change(machine, *changes(decision))
    expected = Rewound(D, 5, Offset(1), Offset(6), clamped=True, reopened_count=2, revoked_count=1, delayed_count=1)
    assert outcome == expected
    assert states(machine) == ".--D--"
    receive(machine, 5)
    again = decide_rewind(machine, D, rewind_id=5, start_offset=3, requested="x")
    assert isinstance(again, Answer)
    assert isinstance(again.outcome, Rewound)
    assert again.outcome.repeated
    assert again.outcome.start_offset == 1
    assert "belongs to a rewind" in refusal(decide_skip_to(machine, D, rewind_id=5, start_offset=3, requested="x"))


def test_a_rewind_leaves_what_lies_before_it() -> None:
    machine = with_messages(6)
    lease = receive(machine, 4)
    change(machine, Ack(D, lease, ((0, 1), (2, 3))), Rewind(D, 1, 2, ""))
    assert states(machine) == ".L----"
    assert machine.holdings(D, lease) == (LeasedRange(Offset(1), Offset(2), 1, 30_000),)


def test_a_rewind_into_the_future_finds_nothing_and_says_so() -> None:
    machine = with_messages(3)
    (outcome,) = change(machine, Rewind(D, 1, 9, ""))
    assert outcome == Rewound(D, 1, Offset(3), Offset(3), True, 0, 0, 0)


def test_a_skip_reports_what_it_passed() -> None:
    machine = with_messages(6)
    lease = receive(machine, 2)
    change(machine, Ack(D, lease, ((0, 1),)))
    decision = decide_skip_to(machine, D, rewind_id=1, start_offset=4, requested="4")
    (outcome,) = change(machine, *changes(decision))
    assert outcome == Skipped(D, 1, Offset(4), clamped=False, skipped_count=3, revoked_count=1)
    assert states(machine) == "....--"
    (clamped,) = change(machine, SkipTo(D, 2, 99, ""))
    assert clamped == Skipped(D, 2, Offset(6), clamped=True, skipped_count=2, revoked_count=0)
    again = decide_skip_to(machine, D, rewind_id=1, start_offset=4, requested="4")
    assert again == Answer(Skipped(D, 1, Offset(4), False, 3, 1, repeated=True), machine.applied_index)
    assert "belongs to a skip" in refusal(decide_rewind(machine, D, rewind_id=1, start_offset=3, requested="x"))


def test_an_id_older_than_all_that_are_remembered_takes_no_effect_again() -> None:
    """B38: the memory is bounded, and forgetting must not mean doing it twice."""
    machine = with_messages(1)
    change(machine, *[Rewind(D, i, 0, "") for i in range(1, 258)])
    assert "id 1 is not above 1" in refusal(decide_rewind(machine, D, rewind_id=1, start_offset=0, requested=""))
    assert isinstance(decide_rewind(machine, D, rewind_id=2, start_offset=0, requested=""), Answer)
    assert isinstance(decide_rewind(machine, D, rewind_id=258, start_offset=0, requested=""), Propose)


def test_a_floor_moves_up_within_the_log() -> None:
    machine = with_messages(5)
    decision = decide_floor(machine, start_offset=Offset(5), start_index=Index(2))
    assert decision == ProposeFloor(Floor(5, 2))
    move_floor(machine, 3)
    for start, index, fault in [
        (2, 2, "log start offset 2 is not in [3, 5]"),
        (6, 2, "log start offset 6 is not in [3, 5]"),
        (4, 1, "log start index 1 is not in [2, 3]"),
        (4, 4, "log start index 4 is not in [2, 3]"),
        (3, 2, "log start offset 3 is the present one"),
    ]:
        refused = refusal(decide_floor(machine, start_offset=Offset(start), start_index=Index(index)))
        assert refused == f"offset_out_of_range: partition group 7: {fault}"


def test_leases_that_have_run_out_are_ended_in_every_group_by_turns() -> None:
    machine = with_messages(10)
    change(machine, CreateGroup(AUDIT, 0))
    for group in (D, AUDIT):
        first = receive(machine, 10, hide_ms=1000, group=group)
        change(machine, Ack(group, first, tuple((i, i + 1) for i in range(1, 10, 2))))
    assert decide_expire(machine, now_ms=999) == ()
    assert decide_expire(machine, now_ms=1000, max_ranges=3) == (
        Expire(AUDIT, ((0, 1),)),
        Expire(D, ((0, 1), (2, 3))),
    )
    every = decide_expire(machine, now_ms=1000)
    assert [change.group for change in every if isinstance(change, Expire)] == [AUDIT, D]
    assert [getattr(change, "group", None) for change in every] == [AUDIT, D]
    change(machine, *every, append_ms=1000)
    assert states(machine) == "1.1.1.1.1."
    assert decide_expire(machine, now_ms=1000) == ()
    assert machine.next_deadline_ms() is None


def test_an_expiry_on_another_state_than_decided_records_nothing() -> None:
    """Rule 5: apply checks again what the leader has decided."""
    machine = with_messages(3)
    lease = receive(machine, 3, hide_ms=1000)
    decided = decide_expire(machine, now_ms=1000)
    change(machine, Extend(D, lease, ((1, 2),), 5_000), append_ms=900)
    change(machine, *decided, append_ms=1000)
    assert states(machine) == "LLL"
