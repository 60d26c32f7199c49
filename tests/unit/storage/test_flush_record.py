"""The record of what segments hold: two copies, of which one is always whole."""

from __future__ import annotations

import pytest

from logbroker.errors import DiskFullError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.storage.flush_record import (
    COPIES,
    FlushRecord,
    ReplicaRow,
    SegmentEntry,
    read_record,
    write_record,
)
from logbroker.storage.partition_log import LogState
from logbroker.storage.segment import SegmentRow
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, Tear, on

SALT = 5
ROW = ReplicaRow(11, 1, "groups/1-11", 4, 2, b"conf", (SegmentEntry(5, 9, 3, 1234),))


def record(sequence: int) -> FlushRecord:
    return FlushRecord(sequence, sequence + 10, (ROW,))


def written(*sequences: int) -> SimulatedDisk:
    disk = SimulatedDisk()
    for sequence in sequences:
        write_record(disk, record(sequence), SALT)
    return disk


def test_the_newest_record_is_read() -> None:
    assert read_record(written(1, 2), SALT) == record(2)


def test_there_is_no_record_in_an_empty_directory() -> None:
    assert read_record(SimulatedDisk(), SALT) is None


@pytest.mark.parametrize("copy", COPIES)
def test_one_copy_is_enough_whatever_happens_to_the_other(copy: str) -> None:
    size = written(1).size(copy)
    for at in range(size):
        disk = written(1)
        disk.flip_bit(copy, at, at % 8)
        assert read_record(disk, SALT) == record(1), at
    for kept in range(size):
        disk = written(1)
        disk.cut_short(copy, kept)
        assert read_record(disk, SALT) == record(1), kept
    disk = written(1)
    disk.vanish(copy)
    assert read_record(disk, SALT) == record(1)


def test_two_bad_copies_are_no_record() -> None:
    disk = written(1)
    for copy in COPIES:
        disk.flip_bit(copy, 20, 1)
    assert read_record(disk, SALT) is None


def test_another_nodes_record_is_not_believed() -> None:
    assert read_record(written(1), SALT + 1) is None


def test_a_body_of_another_shape_is_not_believed_though_its_checksum_holds() -> None:
    disk = SimulatedDisk()
    write_record(disk, FlushRecord("one", 2), SALT)  # type: ignore[arg-type]  # another program's
    assert read_record(disk, SALT) is None


@pytest.mark.parametrize("tear", [Tear.NONE, Tear.BYTE])
def test_a_crash_at_every_change_leaves_the_old_or_the_new(tear: Tear) -> None:
    disk = written(1)
    changes = disk.change_count
    counting = written(1)
    write_record(counting, record(2), SALT)
    for change in range(changes + 1, counting.change_count + 1):
        disk = written(1)
        disk.crash_before(change)
        with pytest.raises(SimulatedCrash):
            write_record(disk, record(2), SALT)
        states = list(disk.crash_states(limit=5000, tear=tear))
        assert states
        for state in states:
            assert read_record(state, SALT) in (record(1), record(2)), change


def test_the_record_is_durable_when_it_is_written() -> None:
    disk = written(1, 2)
    for state in disk.crash_states(limit=10):
        assert read_record(state, SALT) == record(2)


def test_no_room_for_the_second_copy_leaves_the_new_one_in_the_first() -> None:
    disk = written(1)
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, below=COPIES[1])))
    with pytest.raises(DiskFullError):
        write_record(disk, record(2), SALT)
    assert read_record(disk, SALT) == record(2)
    write_record(disk, record(2), SALT)
    disk.vanish(COPIES[0])
    assert read_record(disk, SALT) == record(2)


def test_a_replicas_state_and_its_row_say_the_same() -> None:
    state = LogState.of_row(ROW)
    assert state.row() == ROW
    assert (state.flushed_index, state.flushed_term, state.last_index) == (9, 3, 9)
    empty = LogState(GroupId(1), ReplicaId(11), "groups/1-11", b"", Index(4), Term(2))
    assert (empty.flushed_index, empty.flushed_term, empty.last_index) == (4, 2, 4)
    state.segments.append(SegmentRow(Index(10), Index(12), Term(4), 99))
    assert state.flushed_index == 12
