"""What the simulated disk does when power goes, a sync fails, or a fault is planned.

Other tests rest on this model: where it is too kind they see nothing.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import DamageError, DiskFullError, InvalidArgumentError, InvariantError, StoreFailedError
from logbroker.storage.disk import MissingFileError, PathConflictError, read_file, replace_file
from logbroker.storage.simulated_disk import (
    Action,
    Effect,
    Fault,
    Operation,
    SimulatedCrash,
    SimulatedDisk,
    SimulatedFile,
    Tear,
    on,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096


class Always:
    """Draws the same number again and again, as far as it is allowed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def randrange(self, stop: int, /) -> int:
        return min(self.number, stop - 1)


NOTHING = Always(0)
EVERYTHING = Always(1)


def synced(disk: SimulatedDisk, path: str, content: bytes) -> SimulatedFile:
    """Make a file whose content and name are durable."""
    file = disk.open(path, create=True)
    file.pwrite([content], 0)
    file.sync()
    disk.sync_dir(path.rpartition("/")[0])
    return file


def contents(disk: SimulatedDisk, path: str, *, tear: Tear = Tear.NONE, limit: int = 10_000) -> set[bytes | None]:
    """What a power loss may leave at `path`; None for no file."""
    return {
        read_file(state, path) if state.exists(path) else None for state in disk.crash_states(limit=limit, tear=tear)
    }


def test_what_was_not_synced_may_be_lost_and_may_survive() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    file.pwrite([b"new"], 0)
    assert contents(disk, "a") == {b"old", b"new"}
    assert read_file(disk.copy().crash(keep=NOTHING), "a") == b"old"
    assert read_file(disk.crash(keep=EVERYTHING), "a") == b"new"


def test_what_was_synced_survives() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    file.pwrite([b"newer"], 0)
    file.sync()
    assert contents(disk, "a") == {b"newer"}
    assert disk.is_synced("a")


def test_pages_survive_on_their_own() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0" * (3 * PAGE))
    file.pwrite([b"1" * (2 * PAGE)], PAGE // 2)
    found = contents(disk, "a")
    half = PAGE // 2
    first = (b"0" * PAGE, b"0" * half + b"1" * half)
    second = (b"0" * PAGE, b"1" * PAGE)
    third = (b"0" * PAGE, b"1" * half + b"0" * half)
    assert found == {one + two + three for one in first for two in second for three in third}


def test_a_page_may_have_any_content_that_it_had_since_the_last_sync() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0")
    for content in (b"1", b"2", b"1", b"3"):
        file.pwrite([content], 0)
    assert contents(disk, "a") == {b"0", b"1", b"2", b"3"}


def test_a_file_that_grew_may_have_any_of_its_sizes_with_zeros_for_lost_pages() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"ab")
    file.pwrite([b"cd"], 2)
    file.pwrite([b"e"], 4)
    assert contents(disk, "a") == {b"ab", b"ab\0\0", b"ab\0\0\0", b"abcd", b"abcd\0", b"abcde"}


def test_a_hole_before_a_write_is_zeros_and_never_older_bytes() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"ab")
    file.pwrite([b"z"], 4)
    assert contents(disk, "a") == {b"ab", b"ab\0\0\0", b"ab\0\0z"}


def test_a_cut_may_be_lost() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x" * (2 * PAGE + 3))
    file.truncate(PAGE)
    found = contents(disk, "a")
    assert b"x" * PAGE in found
    assert b"x" * (2 * PAGE + 3) in found
    assert {len(content or b"") for content in found} == {PAGE, 2 * PAGE + 3}


def test_preallocated_room_may_be_lost_until_the_sync() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x")
    file.allocate(0, 3)
    assert contents(disk, "a") == {b"x", b"x\0\0"}
    file.sync()
    assert contents(disk, "a") == {b"x\0\0"}
    file.zero_fill(2)
    file.zero_fill(4)
    assert contents(disk, "a") == {b"x\0\0", b"x\0\0\0", b"\0\0\0", b"\0\0\0\0"}


def test_pages_tear_between_sectors() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0" * PAGE)
    file.pwrite([b"1" * 1024], 512)
    found = contents(disk, "a", tear=Tear.SECTOR)
    tail = b"0" * (PAGE - 1536)
    assert found == {b"0" * 512 + b"".join(two) + tail for two in [(a, b) for a in SECTORS for b in SECTORS]}


SECTORS = (b"0" * 512, b"1" * 512)


def test_pages_tear_at_any_byte_from_either_end() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"..abc..")
    file.pwrite([b"ABC"], 2)
    found = contents(disk, "a", tear=Tear.BYTE)
    assert found == {b"..abc..", b"..Abc..", b"..ABc..", b"..ABC..", b"..aBC..", b"..abC.."}


def test_sectors_that_were_being_written_may_hold_garbage_and_others_may_not() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0" * 1024)
    file.pwrite([b"1"], 0)
    extra = contents(disk, "a", tear=Tear.GARBAGE) - contents(disk, "a", tear=Tear.BYTE)
    assert extra
    assert all(content is not None and content[512:] == b"0" * 512 for content in extra)


def test_a_new_name_is_lost_until_its_directory_is_synced() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    disk.sync_dir("")
    with disk.open("d/a", create=True) as file:
        file.pwrite([b"x"], 0)
        file.sync()
    assert contents(disk, "d/a") == {None, b"x"}
    assert not disk.is_synced("d/a")
    disk.sync_dir("")
    assert contents(disk, "d/a") == {None, b"x"}
    disk.sync_dir("d")
    assert contents(disk, "d/a") == {b"x"}


def test_a_file_in_a_lost_directory_is_lost() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    synced(disk, "d/a", b"x")
    assert contents(disk, "d/a") == {None, b"x"}
    assert not disk.is_synced("d/a")
    assert read_file(disk.crash(keep=EVERYTHING), "d/a") == b"x"


def test_a_removal_may_be_lost() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"x")
    disk.mkdir("d")
    disk.sync_dir("")
    disk.unlink("a")
    disk.rmdir("d")
    assert {(state.exists("a"), state.exists("d")) for state in disk.crash_states(limit=10)} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    disk.sync_dir("")
    assert contents(disk, "a") == {None}


def test_a_rename_is_old_or_new_but_may_survive_without_the_content_it_names() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"old")
    with disk.open("tmp", create=True) as file:
        file.pwrite([b"new"], 0)
    disk.rename("tmp", "a")
    states = {
        (read_file(state, "a"), read_file(state, "tmp") if state.exists("tmp") else None)
        for state in disk.crash_states(limit=100)
    }
    assert states == {
        (b"old", None),
        (b"old", b""),
        (b"old", b"\0\0\0"),
        (b"old", b"new"),
        (b"", None),
        (b"\0\0\0", None),
        (b"new", None),
    }


def test_replace_file_leaves_the_old_or_the_new_whatever_survives() -> None:
    disk = SimulatedDisk()
    synced(disk, "record", b"old")
    before = disk.change_count
    replace_file(disk.copy(), "record", b"newer")
    seen = Counter[bytes]()
    for change in range(before + 1, before + 7):
        attempt = disk.copy()
        attempt.crash_before(change)
        with contextlib.suppress(SimulatedCrash):
            replace_file(attempt, "record", b"newer")
        for state in attempt.crash_states(limit=1000, tear=Tear.GARBAGE):
            seen[read_file(state, "record")] += 1
    assert set(seen) == {b"old", b"newer"}


def test_a_rename_between_directories_needs_the_sync_of_both() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    synced(disk, "a", b"x")
    disk.rename("a", "d/a")
    disk.sync_dir("d")
    assert contents(disk, "a") == {None, b"x"}
    assert contents(disk, "d/a") == {None, b"x"}
    disk.sync_dir("")
    assert contents(disk, "a") == {None}
    assert contents(disk, "d/a") == {b"x"}


def test_a_name_that_became_durable_is_not_undone_by_an_earlier_change() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    synced(disk, "a", b"x")
    disk.rename("a", "d/a")
    disk.rename("d/a", "d/b")
    disk.sync_dir("d")
    disk.sync_dir("")
    assert [state.paths() for state in disk.crash_states(limit=10)] == [["d/b"]]


def test_a_file_has_one_name_whichever_renames_survive() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"x")
    disk.rename("a", "b")
    disk.rename("b", "c")
    assert {tuple(state.paths()) for state in disk.crash_states(limit=10)} == {("a",), ("b",), ("c",)}


def test_kill_keeps_what_was_written_and_remembers_that_it_is_not_durable() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    file.pwrite([b"new"], 0)
    survivor = disk.kill()
    assert read_file(survivor, "a") == b"new"
    assert not survivor.is_synced("a")
    assert contents(survivor, "a") == {b"old", b"new"}


def test_the_dead_process_can_do_nothing_more() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x")
    disk.kill()
    for attempt in (
        lambda: file.pwrite([b"late"], 0),
        lambda: file.pread(1, 0),
        lambda: disk.open("a"),
        lambda: disk.exists("a"),
        lambda: disk.size("a"),
        disk.space,
        lambda: disk.sync_dir(""),
    ):
        with pytest.raises(SimulatedCrash):
            attempt()
    disk.heal()
    with pytest.raises(SimulatedCrash):
        file.sync()
    file.close()


def test_a_crash_is_no_exception_that_a_handler_catches() -> None:
    assert not issubclass(SimulatedCrash, Exception)


def test_a_planned_crash_comes_before_the_change_it_names() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    disk.crash_before(disk.change_count + 2)
    file.pwrite([b"new"], 0)
    file.pread(1, 0)
    with pytest.raises(SimulatedCrash, match="before sync a"):
        file.sync()
    assert contents(disk.kill(), "a") == {b"old", b"new"}
    with pytest.raises(InvariantError, match="has been made already"):
        SimulatedDisk().crash_before(0)


def test_after_a_failed_sync_nothing_is_written_until_the_next_process() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC)))
    file.pwrite([b"new"], 0)
    with pytest.raises(StoreFailedError, match="a: sync failed"):
        file.sync()
    assert disk.failure is not None
    for attempt in (file.sync, lambda: file.pwrite([b"x"], 0), lambda: disk.open("b", create=True)):
        with pytest.raises(StoreFailedError, match="because earlier a: sync failed"):
            attempt()
    assert read_file(disk, "a") == b"new"
    assert disk.kill().failure is None


def test_after_a_failed_sync_the_pages_look_clean_and_are_lost_in_a_crash() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0" * PAGE + b"old")
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC)))
    file.pwrite([b"newer"], PAGE)
    with pytest.raises(StoreFailedError):
        file.sync()
    survivor = disk.kill()
    again = survivor.open("a")
    assert again.pread(10, PAGE) == b"newer"
    again.sync()
    assert not survivor.is_synced("a")
    assert contents(survivor, "a") == {b"0" * PAGE + b"old"}
    # Writing other pages does not bring the lost one down; writing it again does.
    again.pwrite([b"1" * PAGE], 0)
    again.sync()
    assert contents(survivor, "a") == {b"1" * PAGE + b"old\0\0"}
    again.pwrite([b"n"], PAGE)
    assert contents(survivor, "a") == {b"1" * PAGE + b"old\0\0", b"1" * PAGE + b"newer"}
    again.sync()
    assert survivor.is_synced("a")
    assert contents(survivor, "a") == {b"1" * PAGE + b"newer"}


def test_two_failed_syncs_in_a_row_lose_both() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"0" * (2 * PAGE))
    for place in (0, PAGE):
        disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC)))
        with disk.open("a") as file:
            file.pwrite([b"1" * PAGE], place)
            with pytest.raises(StoreFailedError):
                file.sync()
        disk = disk.kill()
    assert read_file(disk, "a") == b"1" * (2 * PAGE)
    assert contents(disk, "a") == {b"0" * (2 * PAGE)}


def test_a_lost_extension_is_lost() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x")
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC)))
    file.allocate(0, 10)
    with pytest.raises(StoreFailedError):
        file.sync()
    survivor = disk.kill()
    assert contents(survivor, "a") == {b"x"}
    with survivor.open("a") as again:
        again.pwrite([b"y"], 0)
        again.sync()
    assert contents(survivor, "a") == {b"y" + bytes(9)}


def test_a_failed_sync_may_throw_the_pages_away_at_once() -> None:
    disk = SimulatedDisk(capacity_bytes=10 * PAGE)
    file = synced(disk, "a", b"old")
    disk.inject(Fault(effect=Effect.ERROR_DROPPED, matches=on(Action.SYNC)))
    file.pwrite([b"n" * PAGE * 3], 0)
    with pytest.raises(StoreFailedError):
        file.sync()
    assert read_file(disk, "a") == b"old"
    assert disk.space().free_bytes == 9 * PAGE


def test_a_sync_may_lie() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    disk.open("b", create=True)
    disk.inject(Fault(effect=Effect.LOST, matches=on(Action.SYNC, Action.SYNC_DIR), times=2))
    file.pwrite([b"new"], 0)
    file.sync()
    disk.sync_dir("")
    assert contents(disk, "a") == {b"old", b"new"}
    assert contents(disk, "b") == {None, b""}


def test_a_write_may_be_lost_or_land_elsewhere() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"0123456789")
    disk.inject(Fault(effect=Effect.LOST, matches=on(Action.PWRITE)))
    disk.inject(Fault(effect=Effect.MISDIRECTED, matches=on(Action.PWRITE), distance_bytes=4))
    file.pwrite([b"xx"], 0)
    assert read_file(disk, "a") == b"0123456789"
    file.pwrite([b"xx"], 0)
    assert read_file(disk, "a") == b"0123xx6789"


def test_errors_strike_the_operations_that_match() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"x")
    synced(disk, "b", b"y")
    fault = disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.PREAD, below="b"), skip=1, times=2))
    assert read_file(disk, "b") == b"y"
    for _ in range(2):
        assert read_file(disk, "a") == b"x"
        with pytest.raises(DamageError, match=r"pread b @0 \+1: input/output error"):
            read_file(disk, "b")
    assert read_file(disk, "b") == b"y"
    assert fault.struck == 2
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.RENAME)))
    with pytest.raises(StoreFailedError, match="rename a -> c"):
        disk.rename("a", "c")
    assert disk.exists("a")


def test_a_planned_lack_of_room_writes_a_part_first() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"........")
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, Action.ALLOCATE, Action.MKDIR), times=3))
    with pytest.raises(DiskFullError, match="a: no room for 3 bytes at 4"):
        file.pwrite([b"012345"], 1)
    assert read_file(disk, "a") == b".012...."
    with pytest.raises(DiskFullError):
        file.allocate(0, 100)
    with pytest.raises(DiskFullError):
        disk.mkdir("d")
    assert file.size() == 8


@pytest.mark.parametrize(
    ("effect", "action"),
    [
        (Effect.LOST, Action.RENAME),
        (Effect.MISDIRECTED, Action.SYNC),
        (Effect.NO_ROOM, Action.PREAD),
        (Effect.NO_ROOM, Action.SYNC),
        (Effect.ERROR_DROPPED, Action.PWRITE),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(effect: Effect, action: Action) -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x")
    disk.inject(Fault(effect=effect, matches=on(action)))
    attempts: dict[Action, Callable[[], object]] = {
        Action.RENAME: lambda: disk.rename("a", "b"),
        Action.SYNC: file.sync,
        Action.PREAD: lambda: file.pread(1, 0),
        Action.PWRITE: lambda: file.pwrite([b"y"], 0),
    }
    with pytest.raises(InvariantError, match="cannot strike"):
        attempts[action]()


def test_heal_forgets_planned_faults() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"x")
    disk.inject(Fault(effect=Effect.CRASH, matches=on()))
    disk.heal()
    assert file.pread(1, 0) == b"x"
    disk.inject(Fault(effect=Effect.CRASH, matches=on(Action.PREAD)))
    with pytest.raises(SimulatedCrash):
        file.pread(1, 0)


def test_capacity_bounds_growth_and_is_given_back() -> None:
    disk = SimulatedDisk(capacity_bytes=4 * PAGE)
    file = synced(disk, "a", b"x" * PAGE)
    with pytest.raises(DiskFullError, match=f"a: no room for {PAGE} bytes at {4 * PAGE}"):
        file.pwrite([b"y" * (4 * PAGE)], PAGE)
    assert file.size() == 4 * PAGE
    assert disk.space().free_bytes == 0
    file.pwrite([b"z" * (4 * PAGE)], 0)
    with pytest.raises(DiskFullError):
        file.allocate(0, 5 * PAGE)
    assert file.size() == 4 * PAGE
    file.truncate(PAGE)
    assert disk.space().free_bytes == 3 * PAGE
    with pytest.raises(DiskFullError, match=f"a: no room for 2 bytes at {10 * PAGE}"):
        file.pwrite([b"ab"], 10 * PAGE)
    assert (file.size(), disk.space().free_bytes) == (PAGE, 3 * PAGE)
    disk.open("b", create=True).pwrite([b"q" * PAGE], 0)
    disk.rename("b", "a")
    assert disk.space().free_bytes == 3 * PAGE
    disk.unlink("a")
    assert disk.space().free_bytes == 4 * PAGE
    file.pwrite([b"unnamed files are free"], 9 * PAGE)
    assert disk.space().free_bytes == 4 * PAGE
    disk.capacity_bytes = 0
    assert disk.space().free_bytes == 0


def test_rot_hits_what_is_durable_too() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"\x00\x00\x00\x00")
    disk.flip_bit("a", 1, 3)
    assert contents(disk, "a") == {b"\x00\x08\x00\x00"}
    file.pwrite([b"zz"], 2)
    file.pwrite([b"y"], 0)
    disk.scribble("a", 1, b"\x01\x02\x03\x04\x05")
    assert contents(disk, "a") == {b"\x00\x01\x02\x03", b"y\x01\x02\x03"}
    with pytest.raises(InvariantError, match="no byte 4 in 4"):
        disk.flip_bit("a", 4, 0)


def test_rot_hits_pages_that_a_failed_sync_lost() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC)))
    file.pwrite([b"new"], 0)
    with pytest.raises(StoreFailedError):
        file.sync()
    disk.scribble("a", 0, b"!")
    assert contents(disk, "a") == {b"!ld"}
    assert read_file(disk, "a") == b"!ew"


def test_files_are_cut_and_vanish_behind_everyones_back() -> None:
    disk = SimulatedDisk(capacity_bytes=10 * PAGE)
    synced(disk, "a", b"x" * PAGE * 2)
    disk.mkdir("d")
    synced(disk, "d/b", b"y")
    disk.sync_dir("")
    disk.cut_short("a", 3)
    assert contents(disk, "a") == {b"xxx"}
    disk.vanish("d")
    assert disk.paths() == ["a"]
    assert [state.paths() for state in disk.crash_states(limit=1)] == [["a"]]
    disk.open("new", create=True)
    disk.vanish("new")
    assert [state.paths() for state in disk.crash_states(limit=1)] == [["a"]]
    assert disk.space().free_bytes == 9 * PAGE


def test_the_trace_reads_as_text() -> None:
    disk = SimulatedDisk()
    trace = disk.start_trace()
    with disk.open("a", create=True) as file:
        file.pwrite([b"xyz"], 7)
        file.sync()
    disk.sync_dir("")
    assert [str(operation) for operation in trace] == ["create a", "pwrite a @7 +3", "sync a", "sync_dir ."]
    assert [operation.change for operation in trace] == [1, 2, 3, 4]
    disk.heal()
    disk.list("")
    assert trace[-1] == Operation(5, 4, Action.LIST, "", 0, 0)


def test_the_sync_hook_is_called_before_the_sync_with_what_it_has_to_do() -> None:
    seen: list[tuple[str, int, bool]] = []
    disk = SimulatedDisk(on_sync=lambda path, size: seen.append((path, size, disk.is_synced(path))))
    file = disk.open("a", create=True)
    disk.sync_dir("")
    file.pwrite([b"abc"], 0)
    file.pwrite([b"de"], 0)
    file.sync()
    assert seen == [("a", 5, False)]
    survivor = disk.kill()
    assert survivor.on_sync is disk.on_sync


def test_too_many_states_are_refused_and_not_sampled_in_silence() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"")
    for page in range(8):
        file.pwrite([b"x" * PAGE], page * PAGE)
    with pytest.raises(InvalidArgumentError, match="above the limit of 100"):
        list(disk.crash_states(limit=100))
    for name in range(8):
        disk.open(f"n{name}", create=True)
    with pytest.raises(InvalidArgumentError, match="256 states or more"):
        list(disk.crash_states(limit=100))


def test_states_of_several_files_are_every_combination() -> None:
    disk = SimulatedDisk()
    for path in ("a", "b", "c"):
        synced(disk, path, b"0").pwrite([b"1"], 0)
    states = [b"".join(read_file(state, path) for path in ("a", "b", "c")) for state in disk.crash_states(limit=8)]
    assert sorted(states) == [b"%d%d%d" % (a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def test_states_and_copies_are_independent() -> None:
    disk = SimulatedDisk()
    file = synced(disk, "a", b"old")
    states = list(disk.crash_states(limit=1))
    twin = disk.copy()
    with twin.open("a") as other:
        other.pwrite([b"twin"], 0)
    with states[0].open("a") as other:
        other.pwrite([b"state"], 0)
    assert file.pread(10, 0) == b"old"
    assert contents(twin, "a") == {b"old", b"old\0", b"twi", b"twin"}


def test_digest_tells_contents_and_names_apart() -> None:
    def of(*paths: str) -> bytes:
        disk = SimulatedDisk()
        for path in paths:
            if path.endswith("/"):
                disk.mkdir(path[:-1])
            else:
                synced(disk, path, path.encode())
        return disk.digest()

    assert of("a", "b") == of("b", "a")
    assert len({of(), of("a"), of("b"), of("a", "b"), of("a/"), of("a/", "a/b"), of("a/", "b/")}) == 7


def test_questions_about_the_wrong_kind_of_path_are_refused() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    with pytest.raises(PathConflictError):
        disk.flip_bit("d", 0, 0)
    with pytest.raises(MissingFileError):
        disk.is_synced("d/none")
    assert not disk.is_synced("d")


@pytest.mark.parametrize("seed", range(200))
def test_crashes_by_chance_give_only_states_of_the_enumeration(seed: int) -> None:
    chance = random.Random(seed)
    disk = SimulatedDisk()
    first = synced(disk, "a", b"0" * PAGE + b"tail")
    first.pwrite([b"1" * 600], PAGE - 300)
    disk.open("b", create=True).pwrite([b"2"], 0)
    disk.rename("b", "c")
    allowed = {state.digest() for state in disk.crash_states(limit=10_000, tear=Tear.SECTOR)}
    assert disk.crash(keep=chance, tear=Tear.SECTOR).digest() in allowed


def test_crashes_by_chance_reach_every_state() -> None:
    disk = SimulatedDisk()
    first = synced(disk, "a", b"0" * PAGE + b"tail")
    first.pwrite([b"1" * 600], PAGE - 300)
    disk.open("b", create=True)
    disk.rename("b", "c")
    chance = random.Random(1)
    seen = {disk.copy().crash(keep=chance).digest() for _ in range(2000)}
    assert seen == {state.digest() for state in disk.crash_states(limit=10_000)}


def test_crashes_by_chance_tear_pages() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"0" * (2 * PAGE)).pwrite([b"1" * (2 * PAGE)], 0)
    chance = random.Random(1)
    for tear in Tear:
        left = [read_file(disk.copy().crash(keep=chance, tear=tear), "a") for _ in range(400)]
        both = [one for one in left if all(len(set(one[start : start + PAGE])) > 1 for start in (0, PAGE))]
        assert bool(both) == (tear is not Tear.NONE)


def test_a_file_that_was_growing_may_end_at_any_page() -> None:
    disk = SimulatedDisk()
    synced(disk, "a", b"x").pwrite([b"y" * (5 * PAGE)], 1)
    chance = random.Random(1)
    sizes = {disk.copy().crash(keep=chance).size("a") for _ in range(200)}
    assert sizes == {1, PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE, 5 * PAGE + 1}
