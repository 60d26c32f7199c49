"""Moves to other partitions and from them: the outbox, the inbox, the transitions, and what the leader decides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, Offset, Term
from logbroker.partition import moving, outbox
from logbroker.partition.armed import Armed
from logbroker.partition.checkpoint import decode, encode_slices
from logbroker.partition.commands import (
    Bury,
    Cause,
    CreateGroup,
    DeleteGroup,
    DeliverAt,
    ForgetSource,
    Moved,
    MoveIn,
    MoveOut,
    Nack,
    Purge,
    Rewind,
    SkipTo,
    encode_changes,
)
from logbroker.partition.decide import Answer, Propose, ProposeBatch
from logbroker.partition.moving import decide_move_in, decide_move_out, decide_moved
from logbroker.partition.outbox import MAX_OWED, Inbox, Outbox, Owed, SourceRow
from logbroker.partition.outcomes import FloorMoved, Misfit, MoveEnded, MovingOut, Nothing, Prepared, Void
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.partition.runs import Run, RunState
from logbroker.partition.state_form import GroupHead, Head, InboxSlice, OutboxSlice, RunSlice, Section, state_slices
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
TARGET, OTHER = GroupId(8), GroupId(9)


def again(machine: PartitionMachine) -> PartitionMachine:
    copy, _ = decode(b"".join(encode_slices(machine, META)))
    assert copy.digest() == machine.digest()
    return copy


def move(machine: PartitionMachine, *ranges: tuple[int, int], target: GroupId = TARGET) -> int:
    """Owe messages to a target; return the number."""
    (outcome,) = change(machine, MoveOut(D, ranges, target))
    assert isinstance(outcome, MovingOut)
    assert outcome.number >> 16 == machine.applied_index
    return outcome.number


def end(machine: PartitionMachine, number: int, *, target: GroupId = TARGET, refused: bool = False) -> object:
    return change(machine, Moved(D, target, number, refused))[0]


def with_dead(count: int) -> PartitionMachine:
    machine = with_messages(count)
    lease = receive(machine, count, now_ms=10)
    change(machine, Bury(D, lease, ((0, count),), Cause.REJECTED, "no account"), append_ms=20)
    return machine


def take(machine: PartitionMachine, number: int, count: int = 1, *, source: int = 5) -> object:
    change(machine, MoveIn(source, number, is_refused=False))
    return produce(machine, count).outcomes[0]


# Out.


def test_what_is_available_or_dead_goes_and_keeps_what_is_known_of_it() -> None:
    machine = with_dead(3)
    produce(machine, 2)
    before = machine.group(D).table.overlap(0, 3)
    number = move(machine, (1, 4))
    assert states(machine) == "XMMM-"
    assert machine.group(D).table.overlap(1, 3)[0].lease == before[0].lease
    assert end(machine, number, refused=True) == MoveEnded(D, TARGET, number, 3, refused=True)
    assert machine.group(D).table.overlap(0, 3) == before
    assert states(machine) == "XXX--"
    assert len(machine.outbox) == 0


def test_what_is_given_back_was_purged_or_skipped_as_the_others_were() -> None:
    machine = with_dead(2)
    produce(machine, 2)
    number = move(machine, (0, 4))
    change(machine, SkipTo(D, 1, 3, ""))
    copy = again(machine)
    end(machine, number, refused=True)
    assert states(machine) == "XX.-"
    change(copy, Purge(D, FIRST_PURGE_ID, 4, ""), Rewind(D, 2, 3, ""))
    end(copy, number, refused=True)
    assert states(again(copy)) == "...-"


def test_what_was_purged_before_it_went_comes_back() -> None:
    machine = with_messages(2)
    change(machine, Purge(D, FIRST_PURGE_ID, 2, ""), Rewind(D, 1, 0, ""))
    end(machine, move(machine, (0, 2)), refused=True)
    assert states(machine) == "--"


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        (((0, 1),), Misfit.NOT_AVAILABLE),  # leased
        (((0, 3),), Misfit.NOT_AVAILABLE),
        (((2, 7),), Misfit.BEYOND_LOG_END),
        (((1, 2),), Misfit.NOT_AVAILABLE),  # moving
    ],
)
def test_a_move_that_does_not_fit_changes_nothing(ranges: tuple[tuple[int, int], ...], why: Misfit) -> None:
    machine = with_messages(6)
    receive(machine, 1)
    move(machine, (1, 2))
    copy = machine.clone()
    (outcome,) = change(machine, MoveOut(D, ranges, TARGET))
    assert isinstance(outcome, Nothing)
    assert outcome.why is why
    assert states(machine) == states(copy) == "LM----"
    assert [row.ranges for row in machine.outbox.rows()] == [((1, 2),)]


def test_an_outbox_takes_no_more_than_its_bound() -> None:
    machine = with_messages(2 * MAX_OWED + 2)
    wanted = [MoveOut(D, ((2 * at, 2 * at + 1),), TARGET) for at in range(MAX_OWED + 1)]
    outcomes = [outcome for at in range(0, len(wanted), 200) for outcome in change(machine, *wanted[at : at + 200])]
    assert [type(outcome) for outcome in outcomes] == [MovingOut] * MAX_OWED + [Nothing]
    assert isinstance(outcomes[-1], Nothing)
    assert outcomes[-1].why is Misfit.OUTBOX_FULL
    refused = decide_move_out(machine, D, ranges=((0, 2 * MAX_OWED + 2),), target=TARGET)
    assert refusal(refused) == f"overloaded: {MAX_OWED} moves are under way; the most is {MAX_OWED}"
    again(machine)


def test_only_the_next_number_of_a_target_ends() -> None:
    machine = with_messages(4)
    first, second = move(machine, (0, 1)), move(machine, (1, 2))
    other = move(machine, (2, 3), target=OTHER)
    for number, target in [(second, TARGET), (first, OTHER), (first + 1, TARGET), (other, TARGET)]:
        outcome = end(machine, number, target=target)
        assert isinstance(outcome, Nothing)
        assert outcome.why is Misfit.STALE
    (outcome,) = change(machine, CreateGroup(AUDIT, 0), Moved(AUDIT, TARGET, first, is_refused=False))[1:]
    assert isinstance(outcome, Nothing), "another consumer group's"
    assert [row.number for row in machine.outbox.heads()] == [first, other]
    end(machine, other, target=OTHER)
    end(machine, first)
    assert isinstance(end(machine, first), Nothing)
    end(machine, second)
    assert states(machine) == "mmm-"


def test_the_leader_says_what_ended_of_what_is_waited_for_alone() -> None:
    machine = with_messages(2)
    number = move(machine, (0, 1))
    assert decide_moved(machine, target=TARGET, number=number, is_refused=True) == Moved(D, TARGET, number, True)
    assert decide_moved(machine, target=TARGET, number=number + 1, is_refused=True) is None
    assert decide_moved(machine, target=OTHER, number=number, is_refused=False) is None


def test_the_leader_chooses_from_the_front_up_to_a_count() -> None:
    machine = with_dead(3)
    produce(machine, 4)
    lease = receive(machine, 1)
    assert lease
    for most, found in [(2, ((0, 2),)), (3, ((0, 3),)), (5, ((0, 3), (4, 6)))]:
        decision = decide_move_out(machine, D, ranges=((0, 7),), target=TARGET, max_count=most)
        assert decision == Propose((MoveOut(D, found, TARGET),))
    decision = decide_move_out(machine, D, ranges=((3, 4),), target=TARGET)
    assert decision == Answer(MovingOut(D, TARGET, 0, 0), machine.applied_index)
    assert refusal(decide_move_out(machine, AUDIT, ranges=((0, 1),), target=TARGET)).startswith("not_found")
    assert refusal(decide_move_out(machine, D, ranges=((0, 8),), target=TARGET)).startswith("offset_out_of_range")


def test_a_delay_that_is_over_holds_no_message_back() -> None:
    machine = with_messages(3)
    lease = receive(machine, 2)
    change(machine, Nack(D, lease, ((0, 1),), 5_000, ""), Nack(D, lease, ((1, 2),), 6_000, ""), append_ms=1_000)
    for now_ms, found in [(4_999, ((2, 3),)), (5_000, ((0, 1), (2, 3))), (6_000, ((0, 3),))]:
        decision = decide_move_out(machine, D, ranges=((0, 3),), target=TARGET, now_ms=now_ms)
        assert decision == Propose((MoveOut(D, found, TARGET),))
    (early,) = change(machine, MoveOut(D, ((0, 2),), TARGET), append_ms=5_999)
    assert isinstance(early, Nothing)
    (moving_out,) = change(machine, MoveOut(D, ((0, 2),), TARGET), append_ms=6_000)
    assert isinstance(moving_out, MovingOut)
    assert states(again(machine)) == "MM-"
    end(machine, moving_out.number, refused=True)
    assert states(again(machine)) == "11-"


def test_retention_takes_rows_and_their_beginnings() -> None:
    machine = with_messages(6)
    first, second, third = move(machine, (0, 1)), move(machine, (1, 2), (3, 5)), move(machine, (5, 6))
    move_floor(machine, 4)
    assert list(machine.outbox.rows()) == [Owed(second, TARGET, D, ((4, 5),)), Owed(third, TARGET, D, ((5, 6),))]
    assert isinstance(end(again(machine), first), Nothing)
    assert end(machine, second) == MoveEnded(D, TARGET, second, 1, refused=False)
    assert states(machine) == "....mM"
    status = machine.status(D)
    assert (status.dead_count, status.moved_count, status.lag_count) == (1, 1, 0)
    assert status.oldest_unsettled_offset == 6


def test_what_a_deleted_consumer_group_owes_is_forgotten() -> None:
    machine = with_messages(2)
    change(machine, CreateGroup(AUDIT, 0), MoveOut(AUDIT, ((0, 1),), TARGET))
    number = move(machine, (0, 2))
    change(machine, DeleteGroup(AUDIT))
    assert [row.number for row in machine.outbox.rows()] == [number]
    again(machine)


def test_a_clone_does_not_follow() -> None:
    machine = with_messages(3)
    number = move(machine, (0, 1))
    copy = machine.clone()
    end(machine, number)
    take(machine, 1 << 16)
    assert [row.number for row in copy.outbox.rows()] == [number]
    assert copy.inbox.rows() == []
    assert states(copy) == "M--"


# In.


def test_a_number_is_taken_once_and_in_order() -> None:
    machine = with_messages(0)
    take(machine, 7)
    for number in (7, 6):
        outcome = take(machine, number)
        assert isinstance(outcome, Void)
        assert outcome.why is Misfit.DUPLICATE
    take(machine, 9)
    take(machine, 7, source=6)
    assert states(machine) == "-..--"
    assert again(machine).inbox.rows() == [SourceRow(5, 9, False), SourceRow(6, 7, False)]


def test_what_becomes_of_a_number_never_changes() -> None:
    machine = with_messages(0)
    take(machine, 7)
    (outcome,) = change(machine, MoveIn(5, 7, is_refused=True))
    assert isinstance(outcome, Nothing)
    assert not machine.inbox.is_refused(5, 7)
    assert change(machine, MoveIn(5, 8, is_refused=True)) == (Prepared(),)
    assert machine.armed is None, "it says nothing of the next batch"
    assert machine.inbox.is_refused(5, 8)
    assert isinstance(take(machine, 8), Void)
    assert again(machine).inbox.is_refused(5, 8)
    take(machine, 9)
    assert not machine.inbox.is_refused(5, 9)


def test_a_number_that_another_term_armed_takes_no_batch_for_its_own() -> None:
    machine = with_messages(0)
    change(machine, MoveIn(5, 7, is_refused=False))
    machine.apply(replace(entry(machine, EntryKind.DATA, batch(1), count=1), term=Term(3)))
    assert machine.inbox.rows() == []
    assert states(machine) == "-"


def test_a_checkpoint_between_a_number_and_its_batch_keeps_both_together() -> None:
    machine = with_messages(0)
    change(machine, MoveIn(5, 7, is_refused=False), DeliverAt(900))
    machine = again(machine)
    assert machine.armed == Armed(Index(1), Term(2), (MoveIn(5, 7, is_refused=False), DeliverAt(900)))
    produce(machine, 1)
    assert machine.inbox.has(5, 7)
    assert states(machine) == "D"


def test_a_deleted_source_is_forgotten() -> None:
    machine = with_messages(0)
    take(machine, 7)
    change(machine, ForgetSource(5), ForgetSource(6))
    assert machine.inbox.rows() == []


def test_the_leader_takes_what_is_new_and_answers_for_what_is_settled() -> None:
    machine = with_messages(0)
    header = read_header(batch(2))
    take(machine, 7)
    assert decide_move_in(machine, header, source=GroupId(5), number=8) == ProposeBatch(Offset(1), Offset(3))
    settled = Answer(Prepared(), machine.applied_index)
    assert decide_move_in(machine, header, source=GroupId(5), number=7) == settled
    assert decide_move_in(machine, None, source=GroupId(5), number=7) == settled
    refuse = Propose((MoveIn(5, 8, is_refused=True),))
    assert decide_move_in(machine, None, source=GroupId(5), number=8) == refuse
    produced = read_header(batch(1, producer=(3, 0, 0)))
    assert decide_move_in(machine, produced, source=GroupId(5), number=8) == refuse


def test_an_inbox_takes_no_more_sources_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (outbox, moving):
        monkeypatch.setattr(module, "MAX_SOURCES", 1)
    machine = with_messages(0)
    take(machine, 7)
    decision = decide_move_in(machine, read_header(batch(1)), source=GroupId(6), number=7)
    assert refusal(decision) == "overloaded: messages came from 1 partitions, which is the most"
    outcome = take(machine, 7, source=6)
    assert isinstance(outcome, Void)
    assert outcome.why is Misfit.INBOX_FULL, "not a duplicate: nobody may be told that it was taken"
    take(machine, 8)


# The forms.


def test_a_state_without_moves_has_the_bytes_that_it_had() -> None:
    machine = with_dead(3)
    before = machine.digest()
    copy = machine.clone()
    sections = b"".join(state_slices(machine))
    number = move(machine, (0, 1))
    end(machine, number, refused=True)
    copy.apply(entry(copy, EntryKind.NOOP))
    copy.apply(entry(copy, EntryKind.NOOP))
    assert machine.digest() == copy.digest() != before
    assert len(b"".join(state_slices(machine))) == len(sections)


HEAD = Head(7, 3, 2, 6, 0, 1, 5)
GROUP_HEAD = GroupHead(D, 0, 0, ())
MOVING = RunSlice((Run(0, 2, RunState.MOVING),))


def owed(*ranges: tuple[int, int], number: int = 65_536, group: GroupName = D) -> Owed:
    return Owed(number, 8, group, ranges)


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ((GROUP_HEAD, MOVING), "are on their way and not owed"),
        ((OutboxSlice((owed((0, 1)),)), GROUP_HEAD, MOVING), "are on their way and not owed"),
        ((OutboxSlice((owed((0, 3)),)), GROUP_HEAD, MOVING), "is not on its way"),
        ((OutboxSlice((owed((0, 2), group=AUDIT),)), GROUP_HEAD, MOVING), "is not on its way"),
        ((OutboxSlice((owed((0, 2)), owed((0, 2), number=65_537))), GROUP_HEAD, MOVING), "not owed"),
        ((OutboxSlice((owed((0, 1)), owed((1, 2), number=5))), GROUP_HEAD, MOVING), "follows 65536"),
        ((OutboxSlice((owed(),)), GROUP_HEAD), "what is owed as number"),
        ((InboxSlice((SourceRow(5, 1, False), SourceRow(5, 2, False))), GROUP_HEAD), "out of order"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(sections: tuple[Section, ...], fault: str) -> None:
    with pytest.raises(CorruptBatchError, match=fault):
        decode(sealed(pack([1, b""]), *[pack(section) for section in (HEAD, *sections)]))


def test_rows_are_bounded() -> None:
    with pytest.raises(CorruptBatchError, match="the most is 256"):
        Outbox.decode([owed((number, number + 1), number=number + 1) for number in range(MAX_OWED + 1)])
    with pytest.raises(CorruptBatchError, match="the most is 10000"):
        Inbox.decode([SourceRow(source, 1, False) for source in range(10_001)])


def test_changes_of_moves_have_their_tags() -> None:
    changes = (
        MoveOut(D, ((1, 2),), 8),
        Moved(D, 8, 3, is_refused=True),
        MoveIn(5, 3, is_refused=False),
        ForgetSource(5),
    )
    assert [encode_changes([one]).hex() for one in changes] == [
        "919416a764656661756c749192010208",
        "919517a764656661756c740803c3",
        "9194180503c2",
        "91921905",
    ]


def test_what_retention_takes_on_its_way_is_counted_where_nobody_had_settled_it() -> None:
    machine = with_messages(3)
    change(machine, Bury(D, receive(machine, 1), ((0, 1),), Cause.REJECTED, ""))
    move(machine, (0, 2))
    moved = move_floor(machine, 3)
    assert isinstance(moved, FloorMoved)
    assert moved.expired == ((D, 2),)
