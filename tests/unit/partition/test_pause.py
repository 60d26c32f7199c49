from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupName
from logbroker.partition.commands import Lease, Pause, Purge, Resume, Rewind, SkipTo, encode_changes
from logbroker.partition.decide import (
    MAX_PAUSE_MS,
    MIN_PAUSE_MS,
    Answer,
    Decision,
    NothingAvailable,
    Propose,
    decide_pause,
    decide_purge,
    decide_receive,
    decide_resume,
    decide_rewind,
)
from logbroker.partition.outcomes import Leased, Misfit, Nothing, Paused, Purged, Resumed, Rewound
from logbroker.partition.rewind import FIRST_PURGE_ID
from tests.unit.partition.build import change, entry, produce, receive, refusal, states, with_messages

if TYPE_CHECKING:
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
MAX_NUMBER = (1 << 63) - 1


def receiving(machine: PartitionMachine, *, now_ms: int = 0) -> Decision:
    return decide_receive(machine, D, max_count=1, hide_ms=1_000, now_ms=now_ms, consumer="c")


@pytest.mark.parametrize(
    ("duration_ms", "until_ms"), [(0, 0), (MIN_PAUSE_MS, 1_500), (MAX_PAUSE_MS, 500 + MAX_PAUSE_MS)]
)
def test_a_pause_ends_so_long_after_log_time_or_never(duration_ms: int, until_ms: int) -> None:
    machine = with_messages(1)
    decision = decide_pause(machine, D, reason="night", duration_ms=duration_ms, now_ms=500)
    assert decision == Propose((Pause(D, "night", until_ms),))


def test_a_pause_is_never_counted_from_before_the_log() -> None:
    machine = with_messages(0)
    produce(machine, 1, append_ms=9_000)
    assert decide_pause(machine, D, reason="", duration_ms=1_000, now_ms=1) == Propose((Pause(D, "", 10_000),))


@pytest.mark.parametrize(
    ("reason", "duration_ms", "refused"),
    [
        ("x" * 257, 0, "reason has 257 characters; the most is 256"),
        ("", 999, f"duration_ms 999 is not in 1000..{MAX_PAUSE_MS}"),
        ("", MAX_PAUSE_MS + 1, f"duration_ms {MAX_PAUSE_MS + 1} is not in 1000..{MAX_PAUSE_MS}"),
    ],
)
def test_a_pause_out_of_bounds_is_refused(reason: str, duration_ms: int, refused: str) -> None:
    machine = with_messages(1)
    before = machine.digest()
    decision = decide_pause(machine, D, reason=reason, duration_ms=duration_ms, now_ms=0)
    assert refusal(decision) == f"invalid_argument: {refused}"
    assert machine.digest() == before


def test_a_group_that_is_not_there_is_neither_paused_nor_resumed_nor_purged() -> None:
    machine, gone = with_messages(1), GroupName("gone")
    for decision in (
        decide_pause(machine, gone, reason="", duration_ms=0, now_ms=0),
        decide_resume(machine, gone),
        decide_purge(machine, gone, purge_id=FIRST_PURGE_ID, requested=""),
    ):
        assert refusal(decision).startswith("not_found: ")


def test_a_lease_in_a_paused_group_is_a_misfit_and_leaves_no_trace() -> None:
    machine = with_messages(2)
    assert change(machine, Pause(D, "night", 900)) == (Paused(D, 900),)
    copy = machine.clone()
    (outcome,) = change(machine, Lease(D, ((0, 1),), 5_000, "c", 0, 0), append_ms=899)
    assert outcome == Nothing(Misfit.PAUSED, "group 'default' is paused until 900")
    copy.apply(entry(copy, EntryKind.STATE, encode_changes([]), append_ms=899))
    assert machine.digest() == copy.digest()


def test_the_first_lease_after_its_end_forgets_a_pause() -> None:
    """So that a state with nothing of pauses in it is the same, whether there was one or not."""
    machine = with_messages(2)
    change(machine, Pause(D, "night", 900))
    assert receiving(machine, now_ms=899) == NothingAvailable(900)
    receive(machine, 1, now_ms=900)
    assert machine.group(D).pause is None


def test_a_pause_that_is_over_already_is_a_misfit() -> None:
    machine = with_messages(1)
    (outcome,) = change(machine, Pause(D, "", 900), append_ms=900)
    assert outcome == Nothing(Misfit.STALE, "pause until 900 is over at 900")
    assert machine.group(D).pause is None


def test_a_retry_gets_the_lease_that_was_made_before_the_pause() -> None:
    machine = with_messages(2)
    lease = receive(machine, 1, session=1, request_id=2)
    change(machine, Pause(D, "", 0))
    decision = decide_receive(machine, D, max_count=1, hide_ms=1_000, now_ms=0, consumer="c", session=1, request_id=2)
    assert isinstance(decision, Answer)
    assert isinstance(decision.outcome, Leased)
    assert decision.outcome.lease == lease


def test_resuming_wakes_who_waits_for_messages() -> None:
    machine = with_messages(1)
    change(machine, Pause(D, "", 0))
    applied = machine.apply(entry(machine, EntryKind.STATE, encode_changes([Resume(D)])))
    assert (applied.outcomes, applied.woken) == ((Resumed(D),), (D,))
    assert isinstance(receiving(machine), Propose)


def test_resuming_what_is_not_paused_writes_nothing() -> None:
    machine = with_messages(1)
    assert decide_resume(machine, D) == Answer(Resumed(D), machine.applied_index)


def test_one_group_is_paused_and_another_is_not() -> None:
    machine = with_messages(1)
    change(machine, Pause(D, "", 0))
    assert machine.group(D).clone().pause == machine.group(D).pause
    change(machine, Pause(GroupName("gone"), "", 0))
    assert receiving(machine) == NothingAvailable(None)


def test_a_purge_settles_all_and_is_answered_alike_when_repeated() -> None:
    machine = with_messages(4)
    lease = receive(machine, 2)
    decision = decide_purge(machine, D, purge_id=FIRST_PURGE_ID + 7, requested="all")
    assert decision == Propose((Purge(D, FIRST_PURGE_ID + 7, 4, "all"),))
    (outcome,) = change(machine, Purge(D, FIRST_PURGE_ID + 7, 4, "all"))
    assert outcome == Purged(D, FIRST_PURGE_ID + 7, 4, 4, 2, 0)  # type: ignore[arg-type]  # an offset
    assert states(machine) == "...."
    assert machine.holdings(D, lease) == ()
    produce(machine, 1)
    repeated = Purged(D, FIRST_PURGE_ID + 7, 4, 4, 2, 0, repeated=True)  # type: ignore[arg-type]  # an offset
    again = decide_purge(machine, D, purge_id=FIRST_PURGE_ID + 7, requested="all")
    assert again == Answer(repeated, machine.applied_index)
    assert change(machine, Purge(D, FIRST_PURGE_ID + 7, 5, "all")) == (repeated,)
    assert states(machine) == "....-"


def test_purges_never_stand_in_the_way_of_a_rewind() -> None:
    """Their ids have no order, so forgetting one must not make the ids of rewinds look old."""
    machine = with_messages(1)
    change(machine, Purge(D, MAX_NUMBER, 1, ""))
    change(machine, *[Rewind(D, number, 0, "") for number in range(1, 258)])
    assert machine.group(D).rewinds.forgotten_id == 1
    assert isinstance(decide_rewind(machine, D, rewind_id=258, start_offset=0, requested=""), Propose)


@pytest.mark.parametrize("made", [Rewind(D, FIRST_PURGE_ID, 0, ""), SkipTo(D, FIRST_PURGE_ID, 1, "")])
def test_the_id_of_a_purge_is_none_of_a_rewind(made: Rewind | SkipTo) -> None:
    machine = with_messages(1)
    (outcome,) = change(machine, made)
    assert isinstance(outcome, Nothing)
    assert outcome.why is Misfit.OLD_REWIND
    assert change(machine, Purge(D, 7, 1, ""))[0] == Nothing(
        Misfit.OLD_REWIND, f"id 7 is below {FIRST_PURGE_ID}, the first of a purge"
    )
    assert states(machine) == "-"


@pytest.mark.parametrize(
    ("purge_id", "requested", "refused"),
    [
        (7, "", f"purge_id 7 is not in {FIRST_PURGE_ID}..{MAX_NUMBER}"),
        (FIRST_PURGE_ID, "x" * 257, "requested has 257 characters; the most is 256"),
    ],
)
def test_a_purge_with_a_bad_field_is_refused(purge_id: int, requested: str, refused: str) -> None:
    decision = decide_purge(with_messages(1), D, purge_id=purge_id, requested=requested)
    assert refusal(decision) == f"invalid_argument: {refused}"


def test_a_rewind_undoes_a_purge() -> None:
    machine = with_messages(2)
    change(machine, Purge(D, FIRST_PURGE_ID, 2, ""))
    (outcome,) = change(machine, Rewind(D, 1, 0, ""))
    assert isinstance(outcome, Rewound)
    assert outcome.reopened_count == 2
    (outcome,) = change(machine, Lease(D, ((0, 2),), 5_000, "c", 0, 0))
    assert isinstance(outcome, Leased)
