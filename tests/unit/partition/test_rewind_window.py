"""How long what is settled can be rewound: the floor, and its place in the state."""

from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import DEFAULT_GROUP, GroupName, Offset, ReplicaId
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Ack, CreateGroup, Rewind, RewindFloor
from logbroker.partition.decide import Propose, decide_rewind
from logbroker.partition.outcomes import Misfit, Nothing, RewindFloorMoved, Rewound
from logbroker.partition.state_form import RewindFloorSection, state_slices
from tests.unit.partition.build import change, receive, states, with_messages

D = DEFAULT_GROUP
META = CheckpointMeta(ReplicaId(1), b"")


def test_the_floor_grows_and_never_goes_back_nor_beyond_the_log() -> None:
    machine = with_messages(4)
    assert change(machine, RewindFloor(2)) == (RewindFloorMoved(Offset(2)),)
    for start in (0, 1, 2, 5):
        (outcome,) = change(machine, RewindFloor(start))
        assert isinstance(outcome, Nothing)
        assert outcome.why is Misfit.OLD_FLOOR
    assert machine.clone().rewind_floor == machine.rewind_floor == 2
    assert change(machine, RewindFloor(4)) == (RewindFloorMoved(Offset(4)),)


def test_a_state_without_a_floor_has_no_place_for_it_and_one_with_it_comes_back() -> None:
    plain, raised = with_messages(4), with_messages(4)
    change(plain, RewindFloor(0))
    change(raised, RewindFloor(3))
    assert len(list(state_slices(raised))) == len(list(state_slices(plain))) + 1
    copy, _ = decode(b"".join(encode_slices(raised, META)))
    assert (copy.rewind_floor, copy.digest()) == (3, raised.digest())


def test_a_floor_beyond_the_log_is_no_state() -> None:
    machine = with_messages(2)
    machine.rewind_floor = Offset(3)
    with pytest.raises(CorruptBatchError, match="rewind floor 3 lies beyond the log end 2"):
        decode(b"".join(encode_slices(machine, META)))
    assert RewindFloorSection(3).start_offset == 3


def test_a_rewind_clamps_to_the_floor_and_leaves_what_is_unsettled_before_it() -> None:
    machine = with_messages(6)
    lease = receive(machine, 5)
    change(machine, Ack(D, lease, ((0, 1), (2, 4))))
    made = decide_rewind(machine, D, rewind_id=1, start_offset=0, requested="", floor=Offset(3))
    assert made == Propose((RewindFloor(3), Rewind(D, 1, 0, "")))
    outcome = change(machine, *made.changes)[-1]
    assert isinstance(outcome, Rewound)
    assert (outcome.start_offset, outcome.clamped, outcome.reopened_count, outcome.revoked_count) == (3, True, 1, 1)
    assert states(machine) == ".L.---"


def test_a_rewind_that_does_not_reach_so_far_writes_no_floor() -> None:
    machine = with_messages(6)
    made = decide_rewind(machine, D, rewind_id=1, start_offset=4, requested="", floor=Offset(3))
    assert made == Propose((Rewind(D, 1, 4, ""),))
    change(machine, RewindFloor(3))
    made = decide_rewind(machine, D, rewind_id=1, start_offset=0, requested="", floor=Offset(3))
    assert made == Propose((Rewind(D, 1, 0, ""),))


def test_a_new_group_reads_all_that_is_kept() -> None:
    machine = with_messages(4)
    change(machine, RewindFloor(3), CreateGroup(GroupName("new"), 0))
    assert states(machine, GroupName("new")) == "----"
