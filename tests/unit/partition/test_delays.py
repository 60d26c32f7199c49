"""Delayed batches: what is said of a batch before it, the schedule, and what the leader decides about both."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError, InvalidArgumentError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Offset, Term
from logbroker.partition.armed import Armed
from logbroker.partition.checkpoint import decode, encode_slices
from logbroker.partition.commands import (
    Ack,
    BuryOld,
    Cancel,
    CreateGroup,
    DeliverAt,
    Moved,
    MoveOut,
    Revive,
    Rewind,
    SkipTo,
    encode_changes,
)
from logbroker.partition.decide import (
    Answer,
    DecisionLimits,
    NothingAvailable,
    Propose,
    ProposeBatch,
    decide_cancel,
    decide_create_group,
    decide_produce,
    decide_receive,
    due_time,
)
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.partition.outcomes import Cancelled, MovingOut, Prepared, Produced, Revived, Rewound
from logbroker.partition.runs import Run, RunState
from logbroker.partition.schedule import NEVER_MS, Schedule
from logbroker.partition.state_form import ScheduleSlice, state_slices
from logbroker.record.batch import read_header
from tests.unit.partition.build import (
    batch,
    change,
    entry,
    move_floor,
    produce,
    receive,
    refusal,
    states,
    with_messages,
)
from tests.unit.partition.test_checkpoint import META, pack, sealed

if TYPE_CHECKING:
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
AUDIT = GroupName("audit")


def delay(machine: PartitionMachine, count: int, due_ms: int, *, append_ms: int = 0) -> Produced:
    """Append a delayed batch as a leader does: both entries, nothing between them."""
    assert change(machine, DeliverAt(due_ms), append_ms=append_ms) == (Prepared(),)
    (outcome,) = produce(machine, count, append_ms=append_ms).outcomes
    assert isinstance(outcome, Produced)
    return outcome


def scheduled(machine: PartitionMachine) -> list[tuple[int, int, int]]:
    return [(run.start, run.end, run.visible_at_ms) for run in machine.schedule.runs()]


def again(machine: PartitionMachine) -> PartitionMachine:
    """The machine as it comes out of its checkpoint."""
    copy, _ = decode(b"".join(encode_slices(machine, META)))
    assert copy.digest() == machine.digest()
    return copy


def test_a_delayed_batch_is_hidden_in_every_group_and_wakes_nobody() -> None:
    machine = with_messages(1)
    change(machine, CreateGroup(AUDIT, 0))
    change(machine, DeliverAt(5_000))
    applied = produce(machine, 2)
    assert applied.outcomes == (Produced(Offset(1), 2, due_ms=5_000),)
    assert applied.woken == ()
    assert (states(machine), states(machine, AUDIT)) == ("-DD", "-DD")
    assert scheduled(machine) == [(1, 3, 5_000)]


@pytest.mark.parametrize("due_ms", [0, 900, 1_000])
def test_a_due_time_that_has_come_delays_nothing(due_ms: int) -> None:
    machine = with_messages(0)
    assert delay(machine, 2, due_ms, append_ms=1_000).due_ms == 0
    assert states(machine) == "--"
    assert machine.digest() != with_messages(2).digest()
    assert scheduled(machine) == []


def test_of_several_due_times_the_latest_counts() -> None:
    machine = with_messages(0)
    change(machine, DeliverAt(500), DeliverAt(900), DeliverAt(700))
    produce(machine, 1)
    assert scheduled(machine) == [(0, 1, 900)]


def test_what_was_said_of_a_batch_holds_for_no_batch_of_another_term() -> None:
    machine = with_messages(0)
    change(machine, DeliverAt(5_000))
    assert machine.armed == Armed(1, 2, (DeliverAt(5_000),))
    following = entry(machine, EntryKind.DATA, batch(1), count=1)
    machine.apply(replace(following, term=Term(3)))
    assert states(machine) == "-"
    assert machine.armed is None


@pytest.mark.parametrize("kind", [EntryKind.NOOP, EntryKind.CONFIG, EntryKind.STATE])
def test_what_was_said_of_a_batch_ends_with_any_other_entry(kind: EntryKind) -> None:
    machine = with_messages(0)
    change(machine, DeliverAt(5_000))
    machine.apply(entry(machine, kind, encode_changes([Ack(D, 1 << 16, ((0, 1),))])))
    assert machine.armed is None
    produce(machine, 1)
    assert states(machine) == "-"


def test_a_checkpoint_between_the_two_entries_keeps_what_was_said() -> None:
    machine = with_messages(3)
    change(machine, DeliverAt(5_000))
    copy = again(machine)
    produce(copy, 2)
    produce(machine, 2)
    assert states(copy) == "---DD"
    assert copy.digest() == machine.digest() == again(copy).digest()


def test_a_delayed_batch_that_does_not_fit_is_void_and_not_scheduled() -> None:
    machine = with_messages(0)
    change(machine, DeliverAt(5_000))
    produce(machine, 2, producer=(1, 0, 7))
    assert (states(machine), scheduled(machine)) == ("..", [])


def test_neighbours_of_one_due_time_are_one_run_however_many_batches_they_came_in() -> None:
    machine = with_messages(0)
    for _ in range(50):
        delay(machine, 2, 5_000)
    assert scheduled(machine) == [(0, 100, 5_000)]
    assert len(machine.group(D).table) == 1
    delay(machine, 2, 5_100)
    assert scheduled(machine) == [(0, 100, 5_000), (100, 102, 5_100)]


def test_what_is_due_leaves_the_schedule_with_the_entry_that_shows_that_time() -> None:
    machine = with_messages(0)
    delay(machine, 1, 700)
    delay(machine, 1, 500)
    delay(machine, 1, 600)
    change(machine, append_ms=599)
    assert scheduled(machine) == [(0, 1, 700), (2, 3, 600)]
    change(machine, append_ms=700)
    assert scheduled(machine) == []
    assert machine.digest() == again(machine).digest()


def test_a_receive_takes_what_is_due_and_says_when_the_next_is() -> None:
    machine = with_messages(0)
    delay(machine, 2, 500)
    early = decide_receive(machine, D, max_count=5, hide_ms=1_000, now_ms=499, consumer="c")
    assert early == NothingAvailable(500)
    receive(machine, 5, now_ms=500)
    assert states(machine) == "LL"


def test_a_rewind_counts_what_waits_again_as_delayed() -> None:
    machine = with_messages(2)
    delay(machine, 3, 5_000)
    change(machine, SkipTo(D, 1, 4, ""))
    (outcome,) = change(machine, Rewind(D, 2, 1, ""))
    assert isinstance(outcome, Rewound)
    assert (outcome.reopened_count, outcome.revoked_count, outcome.delayed_count) == (1, 0, 3)
    assert states(machine) == ".-DDD"
    table = machine.group(D).table
    assert table.at(2) == Run(2, 5, RunState.DELAYED, 0, 5_000)


def test_cancelled_messages_are_void_in_every_group_wherever_their_floors_are() -> None:
    machine = with_messages(1)
    delay(machine, 4, 5_000)
    change(machine, CreateGroup(AUDIT, 3))
    (outcome,) = change(machine, Cancel(((2, 4),)))
    assert outcome == Cancelled(2, 0)
    assert (states(machine), states(machine, AUDIT)) == ("-D..D", "....D")
    assert list(machine.voids) == [(2, 4)]
    assert scheduled(machine) == [(1, 2, 5_000), (4, 5, 5_000)]


def test_a_cancellation_that_comes_when_it_is_due_is_too_late() -> None:
    machine = with_messages(0)
    delay(machine, 2, 5_000)
    assert change(machine, Cancel(((0, 2),)), append_ms=5_000) == (Cancelled(0, 2),)
    assert states(machine) == "DD"
    receive(machine, 2, now_ms=5_000)


def test_a_cancellation_is_decided_with_what_it_will_come_to() -> None:
    machine = with_messages(1)
    delay(machine, 3, 5_000)
    assert decide_cancel(machine, ranges=((0, 2),), now_ms=0) == Propose((Cancel(((0, 2),)),))
    assert change(machine, Cancel(((0, 2),))) == (Cancelled(1, 1),)
    assert decide_cancel(machine, ranges=((0, 2),), now_ms=0) == Answer(Cancelled(1, 1), machine.applied_index)
    assert decide_cancel(machine, ranges=((2, 3),), now_ms=5_000) == Answer(Cancelled(0, 1), machine.applied_index)


@pytest.mark.parametrize(
    ("ranges", "refused"),
    [
        (((3, 5),), "offset_out_of_range: end of the last range 5 is beyond the log end 4 of partition group 7"),
        ((), "invalid_argument: ranges to cancel: no ranges"),
        (((2, 2),), "invalid_argument: ranges to cancel: range [2, 2) is empty or begins before 0"),
        (((0, 1), (2, 3)), "too_large: 2 ranges in one request; the most is 1"),
    ],
)
def test_a_cancellation_names_messages_of_the_log(ranges: tuple[tuple[int, int], ...], refused: str) -> None:
    machine = with_messages(4)
    limits = DecisionLimits(max_ranges_per_change=1)
    assert refusal(decide_cancel(machine, ranges=ranges, now_ms=0, limits=limits)) == refused


def test_a_cancellation_is_bounded_by_what_it_costs() -> None:
    machine = with_messages(0)
    for number in range(4):
        delay(machine, 1, 5_000 + 100 * (number % 2))
    decision = decide_cancel(machine, ranges=((0, 4),), now_ms=0, max_runs=2)
    assert refusal(decision).startswith("too_large: 3 or more runs of delayed messages in 1 consumer groups")
    one = decide_cancel(machine, ranges=((1, 2),), now_ms=0, max_runs=0)
    assert isinstance(one, Propose)
    full = decide_cancel(machine, ranges=((1, 2),), now_ms=0, max_void_ranges=0)
    assert refusal(full).startswith("overloaded: partition group 7 has 0 ranges of cancelled messages; the most is 0")


def test_delayed_runs_are_bounded_over_all_groups() -> None:
    machine = with_messages(0)
    change(machine, CreateGroup(AUDIT, 0))
    delay(machine, 1, 500)
    header = read_header(batch(1))
    refused = refusal(decide_produce(machine, header, due_ms=900, max_delayed_runs=2))
    assert refused.startswith("overloaded: partition group 7 has 1 runs of delayed messages of one due time in each")
    assert decide_produce(machine, header, max_delayed_runs=2) == ProposeBatch(Offset(1), Offset(2))
    another = decide_create_group(machine, GroupName("third"), start_offset=0, max_delayed_runs=2)
    assert refusal(another).startswith("overloaded: partition group 7 has 1 runs of delayed messages, too many for")


def test_delayed_messages_do_not_use_up_what_a_group_may_hold() -> None:
    machine = with_messages(0)
    for number in range(3):
        delay(machine, 1, 500 + 100 * number)
        produce(machine, 1)
    limits = DecisionLimits(max_runs_per_group=1)
    decision = decide_receive(machine, D, max_count=5, hide_ms=1_000, now_ms=0, consumer="c", limits=limits)
    assert isinstance(decision, Propose)


def test_a_duplicate_is_told_when_the_first_is_due() -> None:
    machine = with_messages(0)
    change(machine, DeliverAt(900))
    produce(machine, 2, producer=(1, 0, 0))
    decision = decide_produce(machine, read_header(batch(2, producer=(1, 0, 0))), due_ms=5_000)
    assert decision == Answer(Produced(Offset(0), 2, duplicate=True, due_ms=900), machine.applied_index)


@pytest.mark.parametrize(
    ("delay_ms", "deliver_at_ms", "due_ms"),
    [(0, 0, 0), (1, 0, 1_100), (100, 0, 1_200), (0, 999, 0), (0, 1_034, 0), (0, 1_035, 1_100), (59_000, 0, 60_100)],
)
def test_a_due_time_is_the_next_full_100_ms_and_what_lies_in_the_past_is_at_once(
    delay_ms: int, deliver_at_ms: int, due_ms: int
) -> None:
    assert due_time(delay_ms=delay_ms, deliver_at_ms=deliver_at_ms, now_ms=1_034, retention_s=60) == due_ms


@pytest.mark.parametrize(
    ("delay_ms", "deliver_at_ms", "refused"),
    [
        (1, 2, "delay_ms 1 and deliver_at_ms 2 exclude each other"),
        (59_001, 0, "delay_ms 59001 is not in 0..59000"),
        (-1, 0, "delay_ms -1 is not in 0..59000"),
        (0, 69_001, "deliver_at_ms 69001 is not in 0..69000"),
    ],
)
def test_nothing_is_delayed_so_long_that_retention_would_take_it_first(
    delay_ms: int, deliver_at_ms: int, refused: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=refused):
        due_time(delay_ms=delay_ms, deliver_at_ms=deliver_at_ms, now_ms=10_000, retention_s=60)


def test_retention_cuts_schedule_and_voids() -> None:
    machine = with_messages(0)
    delay(machine, 4, 5_000)
    delay(machine, 4, 5_100)
    change(machine, Cancel(((4, 7),)))
    move_floor(machine, 2)
    assert scheduled(machine) == [(2, 4, 5_000), (7, 8, 5_100)]
    move_floor(machine, 5)
    assert (scheduled(machine), list(machine.voids)) == ([(7, 8, 5_100)], [(5, 7)])
    move_floor(machine, 8)
    assert (scheduled(machine), list(machine.voids)) == ([], [])
    assert again(machine).schedule.first_ms == NEVER_MS


@pytest.mark.parametrize(
    "rows",
    [
        [(3, 3, 500)],
        [(2, 4, 500), (3, 5, 600)],
        [(2, 4, 500), (4, 5, 500)],
        [(2, 4, 550)],
        [(2, 4, 0)],
    ],
)
def test_a_schedule_that_is_not_canonical_is_refused(rows: list[tuple[int, int, int]]) -> None:
    with pytest.raises(CorruptBatchError):
        Schedule.decode(rows)


@pytest.mark.parametrize(
    ("section", "refused"),
    [
        (ScheduleSlice(((2, 9, 500),)), r"scheduled offsets \[2, 9\) lie outside of the log"),
        (ScheduleSlice(((0, 1, 200),)), "what is due at 200 is scheduled still at 200"),
        (Armed(4, 2, (DeliverAt(500),)), "entry 4 is said to prepare the batch after entry 1"),
        (Armed(1, 2, ()), "entry 1 is said to prepare the batch after entry 1"),
    ],
)
def test_a_checkpoint_whose_schedule_contradicts_it_is_refused(section: ScheduleSlice | Armed, refused: str) -> None:
    machine = with_messages(0)
    produce(machine, 3, append_ms=200)
    sections = list(state_slices(machine))
    with pytest.raises(CorruptBatchError, match=refused):
        decode(sealed(pack([1, b""]), sections[0], pack(section), *sections[1:]))


def test_clones_of_a_schedule_go_their_own_ways() -> None:
    schedule = Schedule()
    for number in range(2_000):
        schedule.add(number, number + 1, 100 * (2_000 - number))
    copy = schedule.clone()
    copy.forget_due(100_000)
    schedule.remove(5, 6)
    assert (len(schedule), len(copy)) == (1_999, 1_000)
    assert [run.visible_at_ms for run in copy.overlap(0, 2, after_ms=0)] == [200_000, 199_900]
    assert copy.first_ms == 100_100
    assert schedule.first_ms == 100


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [(0, 9, [(2, 4), (6, 9)]), (3, 7, [(3, 4), (6, 7)]), (4, 6, []), (20, 30, []), (8, 12, [(8, 10)]), (0, 2, [])],
)
def test_ranges_overlap_where_they_do(start: int, end: int, found: list[tuple[int, int]]) -> None:
    ranges = OffsetRanges([(2, 4), (6, 10)])
    assert list(ranges.overlap(start, end)) == found
    assert ranges.count(start, end) == sum(last - first for first, last in found)


def test_ranges_that_touch_are_joined_in_any_order() -> None:
    ranges = OffsetRanges()
    for offset in [5, 9, 7, 1, 6, 8]:
        ranges.add(offset, offset + 1)
    assert list(ranges) == [(1, 2), (5, 10)]
    copy = ranges.clone()
    ranges.drop_below(6)
    copy.drop_below(0)
    assert (list(ranges), list(copy)) == ([(6, 10)], [(1, 2), (5, 10)])
    assert all(one[1] < other[0] for one, other in pairwise(copy))


def test_what_died_before_it_was_due_waits_again_when_it_is_revived() -> None:
    machine = with_messages(1)
    delay(machine, 2, 5_000)
    produce(machine, 1)
    change(machine, BuryOld(D, 4), append_ms=1_000)
    assert states(machine) == "XXXX"
    (outcome,) = change(machine, Revive(D, ((0, 4),)), append_ms=2_000)
    assert outcome == Revived(D, 4)
    assert states(again(machine)) == "-DD-"
    receive(machine, 4, now_ms=4_999)
    assert states(machine) == "LDDL"
    change(machine, BuryOld(D, 4), append_ms=5_000)
    change(machine, Revive(D, ((1, 3),)), append_ms=5_000)
    assert states(again(machine)) == "L--L"


def test_what_a_group_has_moved_is_out_of_reach_of_a_cancellation() -> None:
    machine = with_messages(0)
    delay(machine, 6, 5_000)
    change(machine, CreateGroup(AUDIT, 0), BuryOld(D, 5), append_ms=1_000)
    (first, _) = change(machine, MoveOut(D, ((1, 2),), GroupId(8)), MoveOut(D, ((3, 4),), GroupId(8)), append_ms=1_000)
    assert isinstance(first, MovingOut)
    change(machine, Moved(D, GroupId(8), first.number, is_refused=False), append_ms=1_000)
    assert states(machine) == "XmXMXD"
    assert decide_cancel(machine, ranges=((3, 4),), now_ms=1_000) == Answer(Cancelled(0, 1), machine.applied_index)
    assert change(machine, Cancel(((1, 6),)), append_ms=1_000) == (Cancelled(3, 2),)
    assert (states(machine), states(machine, AUDIT)) == ("Xm.M..", "DD.D..")
    change(machine, Rewind(D, 1, 0, ""), append_ms=2_000)
    assert states(again(machine)) == "Xm.M.."
