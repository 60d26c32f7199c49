"""A checkpoint is there whole or not at all, and two whole ones never become fewer than one."""

from __future__ import annotations

from contextlib import suppress

import pytest

from logbroker.errors import StoreFailedError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.checkpoints import CheckpointHeader, load_checkpoints, write_checkpoint
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, Tear, on

HOME = "d"
CHANGES = 11
"""Create, truncate, three slices, header, sync, rename, sync of the directory, removal, sync of the directory."""


def header(index: int) -> CheckpointHeader:
    return CheckpointHeader(
        group=GroupId(1),
        replica=ReplicaId(2),
        index=Index(index),
        term=Term(1),
        log_start_offset=Offset(0),
        log_start_index=Index(1),
        next_offset=Offset(index),
        append_ms=index,
        conf=b"conf",
    )


def body(index: int) -> list[bytes]:
    return [b"%d first " % index, b"second ", b"third"]


def write(disk: SimulatedDisk, index: int) -> None:
    for _ in write_checkpoint(disk, HOME, header(index), body(index)):
        pass


def made() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.mkdir(HOME)
    disk.sync_dir("")
    for index in (10, 20):
        write(disk, index)
    return disk


def whole(disk: SimulatedDisk) -> list[int]:
    """Indexes of the checkpoints found, each checked to be exactly what was written."""
    loaded = load_checkpoints(disk, HOME, group=GroupId(1))
    assert loaded.damaged == ()
    for found, content in loaded.checkpoints:
        assert found == header(found.index)
        assert content == b"".join(body(found.index))
    return [found.index for found, _ in loaded.checkpoints]


def test_writing_a_checkpoint_takes_the_changes_that_are_walked_through() -> None:
    disk = made()
    before = disk.change_count
    write(disk, 30)
    assert disk.change_count == before + CHANGES


@pytest.mark.parametrize("tear", list(Tear))
def test_after_a_power_loss_there_are_two_whole_ones_and_nothing_torn_has_a_name(tear: Tear) -> None:
    seen = set()
    for change in range(1, CHANGES + 2):
        disk = made()
        disk.crash_before(disk.change_count + change)
        with suppress(SimulatedCrash):
            write(disk, 30)
        for state in disk.crash_states(limit=100_000, tear=tear):
            found = whole(state)
            seen.add(tuple(found))
            write(state, 40)
            assert whole(state)[0] == 40
            assert len(whole(state)) == 2
    assert seen == {(20, 10), (30, 20, 10), (30, 20)}


@pytest.mark.parametrize("change", range(1, CHANGES + 1))
def test_after_a_kill_the_next_process_goes_on(change: int) -> None:
    disk = made()
    disk.crash_before(disk.change_count + change)
    with suppress(SimulatedCrash):
        write(disk, 30)
    survivor = disk.kill()
    found = whole(survivor)
    assert found in ([20, 10], [30, 20, 10], [30, 20])
    for state in survivor.crash_states(limit=10_000):
        assert whole(state)[-2:] in ([20, 10], [30, 20])


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.ERROR_DROPPED])
def test_a_failed_sync_gives_no_name_to_what_may_be_lost(effect: Effect) -> None:
    disk = made()
    disk.inject(Fault(effect=effect, matches=on(Action.SYNC)))
    with pytest.raises(StoreFailedError):
        write(disk, 30)
    assert whole(disk.kill()) == [20, 10]


def test_every_flipped_byte_is_detected_and_the_older_one_is_used() -> None:
    disk = made()
    path = f"{HOME}/20.checkpoint"
    for offset in range(disk.size(path)):
        for change in (0x01, 0x80, 0xFF):
            attempt = disk.copy()
            with attempt.open(path) as file:
                original = file.pread(1, offset)[0]
            attempt.scribble(path, offset, bytes([original ^ change]))
            loaded = load_checkpoints(attempt, HOME, group=GroupId(1))
            assert [found.index for found, _ in loaded.checkpoints] == [10]
            assert len(loaded.damaged) == 1
            assert loaded.damaged[0].startswith(path)


def test_every_lost_write_and_every_misdirected_one_is_detected() -> None:
    for effect in (Effect.LOST, Effect.MISDIRECTED):
        for skip in range(4):
            disk = made()
            disk.inject(Fault(effect=effect, matches=on(Action.PWRITE), skip=skip, distance_bytes=1))
            write(disk, 30)
            loaded = load_checkpoints(disk, HOME, group=GroupId(1))
            assert [found.index for found, _ in loaded.checkpoints] == [20]
            assert len(loaded.damaged) == 1
