"""Checkpoint files: their bytes, which are kept, and what is said of damaged ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logbroker.errors import DamageError, DiskFullError, InvariantError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.record.checksum import crc32c
from logbroker.storage.checkpoints import (
    MAX_CONF_BYTES,
    CheckpointHeader,
    checkpoint_path,
    load_checkpoints,
    read_checkpoint,
    read_checkpoint_header,
    write_checkpoint,
)
from logbroker.storage.disk import MissingFileError, read_file
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedDisk, on

HOME = "groups/7-9"
HEADER = CheckpointHeader(
    group=GroupId(7),
    replica=ReplicaId(9),
    index=Index(100),
    term=Term(3),
    log_start_offset=Offset(40),
    log_start_index=Index(11),
    next_offset=Offset(80),
    append_ms=1_700_000_000_000,
    conf=b"members",
)


def prepared() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.mkdir("groups")
    disk.mkdir(HOME)
    disk.sync_dir("")
    disk.sync_dir("groups")
    return disk


def write(disk: SimulatedDisk, index: int, *slices: bytes) -> None:
    for _ in write_checkpoint(disk, HOME, replace(HEADER, index=Index(index)), slices):
        pass


def indexes(disk: SimulatedDisk) -> list[int]:
    return [header.index for header, _ in load_checkpoints(disk, HOME).checkpoints]


def test_header_and_body_are_read_back() -> None:
    disk = prepared()
    write(disk, 100, b"one", b"", b"two")
    assert read_checkpoint(disk, checkpoint_path(HOME, Index(100))) == (HEADER, b"onetwo")
    assert read_checkpoint_header(disk, f"{HOME}/100.checkpoint") == HEADER
    assert load_checkpoints(disk, HOME).checkpoints == ((HEADER, b"onetwo"),)


def test_a_body_may_be_empty_and_a_configuration_too() -> None:
    disk = prepared()
    header = replace(HEADER, conf=b"")
    list(write_checkpoint(disk, HOME, header, ()))
    assert read_checkpoint(disk, f"{HOME}/100.checkpoint") == (header, b"")


def test_the_file_has_the_documented_bytes_and_nothing_of_the_machine() -> None:
    disk = prepared()
    write(disk, 100, b"body")
    assert read_file(disk, f"{HOME}/100.checkpoint") == (
        b"LBCHKPNT"
        + bytes.fromhex("00000001 00000007 0000000000000009 0000000000000064 0000000000000003")
        + bytes.fromhex("0000000000000028 000000000000000b 0000000000000050 0000018bcfe56800")
        + bytes.fromhex("0000000000000004 263fc950 00000007")
        + b"members"
        + bytes.fromhex("c5e358b5")
        + b"body"
    )


def test_the_content_is_durable_before_the_name_and_the_name_on_return() -> None:
    disk = prepared()
    trace = disk.start_trace()
    write(disk, 100, b"one", b"two")
    changes = [str(operation) for operation in trace if operation.action not in (Action.LIST, Action.PREAD)]
    temporary = f"{HOME}/100.checkpoint.tmp"
    assert changes == [
        f"create {temporary}",
        f"truncate {temporary}",
        f"pwrite {temporary} @99 +3",
        f"pwrite {temporary} @102 +3",
        f"pwrite {temporary} @0 +99",
        f"sync {temporary}",
        f"rename {temporary} -> {HOME}/100.checkpoint",
        f"sync_dir {HOME}",
    ]
    assert disk.is_synced(f"{HOME}/100.checkpoint")


def test_each_step_writes_one_slice() -> None:
    disk = prepared()
    taken: list[int] = []

    def slices() -> list[bytes]:
        return [b"0", b"1", b"2"]

    for step, _ in enumerate(write_checkpoint(disk, HOME, HEADER, slices())):
        taken.append(disk.size(f"{HOME}/100.checkpoint.tmp"))
        assert step == len(taken) - 1
    assert taken == [100, 101, 102]


def test_the_last_two_are_kept() -> None:
    disk = prepared()
    for index in (10, 20, 30, 40):
        write(disk, index, b"state")
    assert disk.list(HOME) == ["30.checkpoint", "40.checkpoint"]
    assert indexes(disk) == [40, 30]


def test_one_of_the_same_index_is_replaced() -> None:
    disk = prepared()
    write(disk, 10, b"old")
    write(disk, 10, b"new")
    assert [body for _, body in load_checkpoints(disk, HOME).checkpoints] == [b"new"]


def test_newest_is_by_number_and_not_by_name() -> None:
    disk = prepared()
    write(disk, 9, b"")
    write(disk, 10, b"")
    write(disk, 100, b"")
    assert indexes(disk) == [100, 10]


def test_a_damaged_one_is_named_and_kept_until_two_whole_ones_are_newer() -> None:
    disk = prepared()
    write(disk, 10, b"state")
    write(disk, 20, b"state")
    disk.flip_bit(f"{HOME}/20.checkpoint", 101, 3)
    loaded = load_checkpoints(disk, HOME)
    assert [header.index for header, _ in loaded.checkpoints] == [10]
    assert loaded.damaged == (f"{HOME}/20.checkpoint: the body of 5 bytes fails its checksum",)
    write(disk, 30, b"state")
    assert disk.list(HOME) == ["10.checkpoint", "20.checkpoint", "30.checkpoint"]
    assert indexes(disk) == [30, 10]
    write(disk, 40, b"state")
    assert disk.list(HOME) == ["30.checkpoint", "40.checkpoint"]


def test_one_with_a_damaged_header_counts_for_nothing_either() -> None:
    disk = prepared()
    for index in (10, 20):
        write(disk, index, b"state")
    disk.flip_bit(f"{HOME}/20.checkpoint", 30, 3)
    write(disk, 30, b"state")
    assert indexes(disk) == [30, 10]


def test_an_older_checkpoint_is_not_written_over_a_newer_one() -> None:
    disk = prepared()
    write(disk, 20, b"")
    with pytest.raises(InvariantError, match="checkpoint 10 is older than checkpoint 20"):
        write(disk, 10, b"")


def test_a_configuration_has_a_bound() -> None:
    disk = prepared()
    with pytest.raises(InvariantError, match="above 1048576"):
        list(write_checkpoint(disk, HOME, replace(HEADER, conf=bytes(MAX_CONF_BYTES + 1)), ()))


def test_without_room_nothing_is_left_behind() -> None:
    disk = prepared()
    write(disk, 10, b"state")
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE), skip=1))
    with pytest.raises(DiskFullError):
        write(disk, 20, b"one", b"two")
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.CREATE)))
    with pytest.raises(DiskFullError):
        write(disk, 20, b"one", b"two")
    assert disk.list(HOME) == ["10.checkpoint"]


def test_giving_up_leaves_nothing_behind() -> None:
    disk = prepared()
    write(disk, 10, b"state")
    steps = write_checkpoint(disk, HOME, replace(HEADER, index=Index(20)), iter([b"one", b"two"]))
    next(steps)
    assert len(disk.list(HOME)) == 2
    steps.close()  # type: ignore[attr-defined]  # a generator, which the signature need not promise
    assert disk.list(HOME) == ["10.checkpoint"]


def test_an_unfinished_file_of_an_earlier_process_is_written_over() -> None:
    disk = prepared()
    with disk.open(f"{HOME}/20.checkpoint.tmp", create=True) as file:
        file.pwrite([b"x" * 5000], 0)
    write(disk, 20, b"state")
    assert indexes(disk) == [20]


def test_files_with_other_names_are_left_alone() -> None:
    disk = prepared()
    write(disk, 10, b"state")
    for name in ("1.segment", "x.checkpoint", "007.checkpoint", "²5.checkpoint", "20.checkpoint.tmp"):
        disk.open(f"{HOME}/{name}", create=True)
    loaded = load_checkpoints(disk, HOME)
    assert ([header.index for header, _ in loaded.checkpoints], loaded.damaged) == ([10], ())


@pytest.mark.parametrize("size", [0, 50, 87, 98, 99, 101])
def test_a_file_that_was_cut_is_damaged(size: int) -> None:
    disk = prepared()
    write(disk, 100, b"state")
    disk.cut_short(f"{HOME}/100.checkpoint", size)
    loaded = load_checkpoints(disk, HOME)
    assert (len(loaded.checkpoints), len(loaded.damaged)) == (0, 1)


def test_a_file_that_grew_is_damaged() -> None:
    disk = prepared()
    write(disk, 100, b"state")
    with disk.open(f"{HOME}/100.checkpoint") as file:
        file.pwrite([b"x"], file.size())
    with pytest.raises(DamageError, match="105 bytes instead of 104"):
        read_checkpoint(disk, f"{HOME}/100.checkpoint")


def test_another_format_is_not_guessed_at() -> None:
    disk = prepared()
    write(disk, 100, b"")
    head = bytearray(read_file(disk, f"{HOME}/100.checkpoint")[:-4])
    head[11] = 2
    disk.scribble(f"{HOME}/100.checkpoint", 0, bytes(head) + crc32c(bytes(head)).to_bytes(4, "big"))
    with pytest.raises(DamageError, match="format 2 is not 1"):
        read_checkpoint_header(disk, f"{HOME}/100.checkpoint")


def test_a_whole_file_in_the_wrong_place_is_damaged() -> None:
    disk = prepared()
    write(disk, 10, b"")
    disk.rename(f"{HOME}/10.checkpoint", f"{HOME}/11.checkpoint")
    assert load_checkpoints(disk, HOME).damaged == (
        f"{HOME}/11.checkpoint: holds index 10 of group 7, not index 11 of 7",
    )
    disk.rename(f"{HOME}/11.checkpoint", f"{HOME}/10.checkpoint")
    assert load_checkpoints(disk, HOME, group=GroupId(7)).damaged == ()
    assert load_checkpoints(disk, HOME, group=GroupId(8)).damaged == (
        f"{HOME}/10.checkpoint: holds index 10 of group 7, not index 10 of 8",
    )


def test_a_file_that_cannot_be_read_is_damaged_and_one_that_is_missing_is_missing() -> None:
    disk = prepared()
    write(disk, 10, b"state")
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.PREAD), skip=2))
    assert len(load_checkpoints(disk, HOME).damaged) == 1
    assert indexes(disk) == [10]
    with pytest.raises(MissingFileError):
        read_checkpoint(disk, f"{HOME}/11.checkpoint")
