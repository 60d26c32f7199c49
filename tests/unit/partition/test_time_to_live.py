"""What becomes of messages that nobody settles in time: what the leader decides, and what apply makes of it."""

from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import DEFAULT_GROUP, GroupName, Offset, ReplicaId, lease_id
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Ack, BuryOld, CreateGroup, Nack
from logbroker.partition.decide import Propose, decide_bury_old, decide_receive, has_idle
from logbroker.partition.outcomes import Buried, Misfit, Nothing
from logbroker.partition.retention import first_kept_ms, first_young_ms
from logbroker.partition.runs import Run, RunState, RunTable
from tests.unit.partition.build import change, receive, states, with_messages

D = DEFAULT_GROUP
OTHER = GroupName("other")


def test_a_message_lives_as_long_as_it_would_be_kept_for() -> None:
    assert first_young_ms(100_000, max_age_ms=60_000) == first_kept_ms(100_000, retention_s=60)


def test_what_was_never_leased_dies_with_no_delivery_and_is_found_in_the_checkpoint() -> None:
    machine = with_messages(3)
    (outcome,) = change(machine, BuryOld(D, 2), append_ms=70)
    assert outcome == Buried(D, 2, is_old=True)
    burial = lease_id(machine.applied_index, 0)
    assert next(machine.group(D).table.runs()) == Run(0, 2, RunState.DEAD, 0, 0, burial, 70)
    copy, _ = decode(b"".join(encode_slices(machine, CheckpointMeta(ReplicaId(1), b""))))
    assert copy.digest() == machine.digest()


def test_a_lease_that_never_began_is_no_run() -> None:
    with pytest.raises(CorruptBatchError, match="canonical"):
        RunTable.decode(0, [Run(0, 1, RunState.LEASED, 0, 9, 1 << 16, 5)])


def test_a_burial_that_does_not_fit_leaves_the_state_as_it_was() -> None:
    machine = with_messages(2)
    lease = receive(machine, 2)
    for end, why in ((3, Misfit.BEYOND_LOG_END), (2, Misfit.NOT_AVAILABLE), (0, Misfit.NOT_AVAILABLE)):
        table = list(machine.group(D).table.runs())
        (outcome,) = change(machine, BuryOld(D, end))
        assert isinstance(outcome, Nothing)
        assert outcome.why is why
        assert list(machine.group(D).table.runs()) == table
    change(machine, Ack(D, lease, ((0, 2),)))
    assert change(machine, BuryOld(OTHER, 2)) == (Nothing(Misfit.NO_GROUP, "consumer group 'other' does not exist"),)


def test_each_group_buries_its_own() -> None:
    machine = with_messages(4)
    change(machine, CreateGroup(OTHER, 2))
    lease = receive(machine, 1)
    made = decide_bury_old(machine, below=Offset(3))
    assert made == (BuryOld(D, 3), BuryOld(OTHER, 3))
    assert change(machine, *made) == (Buried(D, 2, is_old=True), Buried(OTHER, 1, is_old=True))
    assert (states(machine), states(machine, OTHER)) == ("LXX-", "..X-")
    change(machine, Nack(D, lease, ((0, 1),), 0, ""))
    assert decide_bury_old(machine, below=Offset(3)) == (BuryOld(D, 3),)


def test_one_entry_buries_as_many_runs_as_it_may_and_the_next_goes_on() -> None:
    machine = with_messages(8)
    change(machine, CreateGroup(OTHER, 0))
    for _ in range(4):
        receive(machine, 2)
    leases = [run.lease for run in machine.group(D).table.runs()]
    change(machine, *(Nack(D, lease, ((at * 2, at * 2 + 1),), 0, "") for at, lease in enumerate(leases)))
    assert states(machine) == "1L1L1L1L"
    seen = []
    while has_idle(machine, below=Offset(8)):
        made = decide_bury_old(machine, below=Offset(8), max_runs=2)
        change(machine, *made)
        seen.append((states(machine), states(machine, OTHER)))
    assert seen == [
        ("XL1L1L1L", "XXXXXXXX"),
        ("XLXL1L1L", "XXXXXXXX"),
        ("XLXLXL1L", "XXXXXXXX"),
        ("XLXLXLXL", "XXXXXXXX"),
    ]
    assert decide_bury_old(machine, below=Offset(8)) == ()


def test_a_receive_passes_over_what_is_too_old_and_not_buried_yet() -> None:
    machine = with_messages(6)
    for _ in range(3):
        lease = receive(machine, 1)
        change(machine, Nack(D, lease, ((0, 1),), 0, ""))
    for not_below, start in ((0, 0), (1, 1), (5, 5)):
        decision = decide_receive(machine, D, max_count=1, hide_ms=1_000, now_ms=0, consumer="c", not_below=not_below)
        assert isinstance(decision, Propose)
        assert decision.changes[-1].ranges == ((start, start + 1),)  # type: ignore[union-attr]  # a lease
