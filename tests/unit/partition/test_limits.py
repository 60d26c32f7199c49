"""How much a partition may hold: what is refused, and where the log must begin."""

from __future__ import annotations

import pytest

from logbroker.errors import QueueFullError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName
from logbroker.partition.commands import Ack, Bury, Cause, CreateGroup, Moved, MoveOut, Nack, SkipTo
from logbroker.partition.limits import (
    SizeLimits,
    check_room,
    first_offset_within,
    is_far_beyond,
    is_just_beyond,
    unsettled_count,
)
from logbroker.partition.outcomes import MovingOut
from tests.unit.partition.build import change, move_floor, receive, states, with_messages

D = DEFAULT_GROUP
OTHER = GroupName("other")


def test_the_unsettled_are_those_of_the_fullest_group() -> None:
    machine = with_messages(10)
    change(machine, CreateGroup(OTHER, 6))
    assert unsettled_count(machine) == 10
    lease = receive(machine, 8)
    change(machine, Ack(D, lease, ((0, 1), (2, 4))), Nack(D, lease, ((4, 5),), 900, ""))
    change(machine, Bury(D, lease, ((5, 6),), Cause.REJECTED, ""))
    assert states(machine) == ".L..DXLL--"
    assert unsettled_count(machine) == 6
    change(machine, SkipTo(D, 1, 9, ""))
    assert unsettled_count(machine) == 4


def test_the_log_begins_where_no_group_has_too_many_behind_it() -> None:
    machine = with_messages(10)
    lease = receive(machine, 8)
    change(machine, Ack(D, lease, ((0, 1), (2, 4))), Bury(D, lease, ((5, 6),), Cause.REJECTED, ""))
    assert states(machine) == ".L..LXLL--"
    # Unsettled are 1, 4, 6, 7, 8 and 9.
    assert [first_offset_within(machine, most) for most in range(8)] == [10, 9, 8, 7, 5, 2, 0, 0]
    change(machine, CreateGroup(OTHER, 1))
    assert first_offset_within(machine, 6) == 4
    for most in range(1, 9):
        start = first_offset_within(machine, most)
        copy = machine.clone()
        move_floor(copy, start)
        assert unsettled_count(copy) <= most
        if start:
            less = machine.clone()
            move_floor(less, start - 1)
            assert unsettled_count(less) == most + 1


def test_what_is_on_its_way_to_another_queue_or_has_arrived_there_is_settled() -> None:
    machine = with_messages(10)
    lease = receive(machine, 4)
    change(machine, Bury(D, lease, ((0, 4),), Cause.REJECTED, ""))
    (first, _) = change(machine, MoveOut(D, ((0, 2),), GroupId(8)), MoveOut(D, ((2, 3), (6, 7)), GroupId(8)))
    assert isinstance(first, MovingOut)
    change(machine, Moved(D, GroupId(8), first.number, is_refused=False))
    assert states(machine) == "mmMX--M---"
    assert unsettled_count(machine) == 5
    # Unsettled are 4, 5, 7, 8 and 9.
    assert [first_offset_within(machine, most) for most in range(6)] == [10, 9, 8, 6, 5, 0]


def test_a_batch_is_taken_up_to_the_bound_and_refused_with_it() -> None:
    machine = with_messages(3)
    check_room(machine, SizeLimits(5, 100), count=2, size_bytes=40, held_bytes=60)
    check_room(machine, SizeLimits(2, 100), count=0, size_bytes=40, held_bytes=60)
    with pytest.raises(QueueFullError, match="has 3 unsettled messages, and 3 more would pass its most of 5"):
        check_room(machine, SizeLimits(5), count=3, size_bytes=0, held_bytes=0)
    with pytest.raises(QueueFullError, match="retains 60 bytes of messages, and 41 more would pass its most of 100"):
        check_room(machine, SizeLimits(0, 100), count=9, size_bytes=41, held_bytes=60)


def test_an_overshoot_is_a_percent_or_what_is_named() -> None:
    assert (is_just_beyond(10, 10, 5), is_just_beyond(11, 10, 5)) == (False, True)
    assert (is_far_beyond(15, 10, 5), is_far_beyond(16, 10, 5)) == (False, True)
    assert (is_far_beyond(1_010, 1_000, 5), is_far_beyond(1_011, 1_000, 5)) == (False, True)
