"""What every `Disk` does, asked of the real one and of its simulated twin."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import InvariantError
from logbroker.storage.disk import (
    MAX_BUFFERS_PER_WRITE,
    Disk,
    MissingFileError,
    PathConflictError,
    RealDisk,
    join_path,
    parent_path,
    read_file,
    remove_tree,
    replace_file,
)
from logbroker.storage.simulated_disk import SimulatedDisk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path) if request.param == "real" else SimulatedDisk()


def write(disk: Disk, path: str, content: bytes) -> None:
    with disk.open(path, create=True) as file:
        file.pwrite([content], 0)


def test_what_was_written_is_read_back(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"one", bytearray(b"two"), memoryview(b"three")], 0)
        file.pwrite([b"TWO"], 3)
        file.sync()
        assert file.pread(8, 1) == b"neTWOthr"
        assert file.size() == 11
    assert read_file(disk, "a") == b"oneTWOthree"
    assert disk.size("a") == 11


def test_a_read_is_short_at_the_end_of_the_file_only(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"0123456789"], 0)
        assert file.pread(4, 8) == b"89"
        assert file.pread(4, 10) == b""
        assert file.pread(4, 99) == b""
        assert file.pread(0, 3) == b""


def test_a_write_beyond_the_end_leaves_zeros_between(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"x"], 0)
        file.pwrite([b"y"], 5000)
        assert file.pread(6000, 0) == b"x" + bytes(4999) + b"y"


def test_more_buffers_than_one_system_call_takes_are_all_written(disk: Disk) -> None:
    buffers = [b"%07d" % number for number in range(3 * MAX_BUFFERS_PER_WRITE + 5)]
    with disk.open("a", create=True) as file:
        file.pwrite(buffers, 10)
        assert file.pread(1 << 20, 10) == b"".join(buffers)


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 12_345])
@pytest.mark.parametrize("size", [0, 100, 64 << 10, (64 << 10) + 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 77])
def test_a_write_past_the_cache_is_a_write(disk: Disk, offset: int, size: int) -> None:
    content = random.Random(size).randbytes(size)
    after = b"after" * 1000
    with disk.open("a", create=True) as file:
        file.allocate(0, offset + size + len(after))
        file.pwrite([b"x" * offset], 0)
        file.pwrite([after], offset + size)
        # What is read before must not be what is read after.
        assert len(file.pread(8192, offset)) == min(8192, size + len(after))
        file.pwrite_uncached([content[:10], memoryview(content)[10:5000], content[5000:]], offset)
        file.sync()
    assert read_file(disk, "a") == b"x" * offset + content + after


def test_many_small_buffers_go_past_the_cache_together(disk: Disk) -> None:
    buffers = [b"%07d" % number for number in range(30_000)]
    with disk.open("a", create=True) as file:
        file.pwrite_uncached(buffers, 10)
        assert file.pread(1 << 20, 10) == b"".join(buffers)


def test_writing_nothing_changes_nothing(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([], 0)
        file.pwrite([b""], 50)
        assert file.size() == 0


def test_two_handles_see_one_file(disk: Disk) -> None:
    with disk.open("a", create=True) as first, disk.open("a") as second:
        first.pwrite([b"seen"], 0)
        assert second.pread(10, 0) == b"seen"
        second.sync()
        assert (first.path, second.path) == ("a", "a")


def test_allocate_grows_with_zeros_and_overwrites_nothing(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"kept"], 0)
        file.allocate(2, 6000)
        assert file.pread(7000, 0) == b"kept" + bytes(5998)
        file.allocate(0, 100)
        assert file.size() == 6002


def test_zero_fill_writes_zeros_over_the_beginning(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.zero_fill(2)
        assert file.pread(20, 0) == bytes(2)
        file.pwrite([b"x" * 10], 0)
        file.zero_fill(4)
        assert file.pread(20, 0) == bytes(4) + b"x" * 6
        file.zero_fill((2 << 20) + 3)
        assert file.pread(3 << 20, 0) == bytes((2 << 20) + 3)


def test_truncate_cuts_and_never_grows(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"0123456789"], 0)
        file.truncate(10)
        file.truncate(4)
        assert file.pread(10, 0) == b"0123"
        with pytest.raises(InvariantError, match="cannot cut 4 bytes to 5"):
            file.truncate(5)
        file.pwrite([b"z"], 6)
        assert file.pread(10, 0) == b"0123\0\0z"


def test_a_missing_file_has_a_named_error(disk: Disk) -> None:
    for attempt in (
        lambda: disk.open("gone"),
        lambda: disk.open("no/such", create=True),
        lambda: disk.size("gone"),
        lambda: disk.list("gone"),
        lambda: disk.unlink("gone"),
        lambda: disk.rmdir("gone"),
        lambda: disk.rename("gone", "b"),
        lambda: disk.sync_dir("gone"),
        lambda: disk.mkdir("no/such"),
    ):
        with pytest.raises(MissingFileError):
            attempt()
    assert disk.failure is None


def test_what_is_in_the_way_has_a_named_error(disk: Disk) -> None:
    write(disk, "file", b"x")
    disk.mkdir("directory")
    write(disk, "directory/inner", b"y")
    disk.mkdir("empty")
    for attempt in (
        lambda: disk.open("file", create=True, exclusive=True),
        lambda: disk.open("directory"),
        lambda: disk.open("directory", create=True),
        lambda: disk.open("file/inner", create=True),
        lambda: disk.mkdir("file"),
        lambda: disk.list("file"),
        lambda: disk.size("directory"),
        lambda: disk.unlink("directory"),
        lambda: disk.rmdir("directory"),
        lambda: disk.rmdir("file"),
        lambda: disk.rename("file", "directory"),
        lambda: disk.rename("directory", "file"),
        lambda: disk.rename("empty", "directory"),
    ):
        with pytest.raises(PathConflictError):
            attempt()
    assert disk.failure is None


def test_open_creates_only_when_told(disk: Disk) -> None:
    with disk.open("a", create=True, exclusive=True) as file:
        file.pwrite([b"kept"], 0)
    disk.open("a", create=True).close()
    assert read_file(disk, "a") == b"kept"
    with pytest.raises(InvariantError, match="exclusive without create"):
        disk.open("a", exclusive=True)


def test_directories_are_made_listed_and_removed(disk: Disk) -> None:
    disk.mkdir("groups")
    disk.mkdir("groups")
    disk.mkdir("groups/2-1")
    write(disk, "groups/b", b"")
    write(disk, "groups/a", b"")
    assert disk.list("groups") == ["2-1", "a", "b"]
    assert disk.list("") == ["groups"]
    assert disk.is_directory("groups/2-1")
    assert disk.is_directory("")
    assert not disk.is_directory("groups/a")
    assert not disk.is_directory("groups/none")
    disk.rmdir("groups/2-1")
    assert not disk.exists("groups/2-1")


def test_exists_answers_for_files_directories_and_paths_through_files(disk: Disk) -> None:
    write(disk, "a", b"")
    assert disk.exists("a")
    assert disk.exists("")
    assert not disk.exists("b")
    assert not disk.exists("a/b")


def test_rename_replaces_a_file_and_moves_a_directory(disk: Disk) -> None:
    write(disk, "old", b"new content")
    write(disk, "name", b"old content")
    disk.rename("old", "name")
    assert read_file(disk, "name") == b"new content"
    assert not disk.exists("old")
    disk.rename("name", "name")
    disk.mkdir("d")
    disk.mkdir("target")
    write(disk, "d/x", b"inside")
    disk.rename("d", "target")
    assert read_file(disk, "target/x") == b"inside"
    disk.rename("target/x", "x")
    disk.sync_dir("target")
    disk.sync_dir("")
    assert disk.list("target") == []


def test_an_open_file_outlives_its_name(disk: Disk) -> None:
    with disk.open("a", create=True) as file:
        file.pwrite([b"still here"], 0)
        disk.unlink("a")
        file.pwrite([b"S"], 0)
        file.allocate(0, 20)
        file.truncate(10)
        assert file.pread(20, 0) == b"Still here"
    assert not disk.exists("a")


def test_replace_file_sets_the_whole_content(disk: Disk) -> None:
    disk.mkdir("d")
    replace_file(disk, "d/record", b"first and longer")
    write(disk, "d/record.tmp", b"left over by a crash, and longer than what comes")
    replace_file(disk, "d/record", b"second")
    assert read_file(disk, "d/record") == b"second"
    assert disk.list("d") == ["record"]


def test_remove_tree_removes_everything_below(disk: Disk) -> None:
    disk.mkdir("d")
    disk.mkdir("d/e")
    write(disk, "d/e/x", b"")
    write(disk, "d/y", b"")
    remove_tree(disk, "d")
    assert disk.list("") == []


def test_paths_stay_inside_the_data_directory(disk: Disk) -> None:
    for path in ("/etc/passwd", "../up", "a/../../up", "a//b", "a/", ".", "a\0b", ""):
        with pytest.raises(InvariantError, match="plain relative path"):
            disk.open(path)


def test_paths_are_taken_apart_and_put_together() -> None:
    assert (parent_path("a/b/c"), parent_path("a")) == ("a/b", "")
    assert (join_path("a", "b"), join_path("", "b")) == ("a/b", "b")


def test_free_space_is_told(disk: Disk) -> None:
    space = disk.space()
    assert 0 < space.free_bytes <= space.total_bytes


def test_closing_twice_is_fine_and_a_closed_file_is_not_used(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.close()
    file.close()
    for attempt in (
        lambda: file.pwrite([b"x"], 0),
        lambda: file.pread(1, 0),
        file.sync,
        file.size,
        lambda: file.allocate(0, 1),
        lambda: file.truncate(0),
    ):
        with pytest.raises(InvariantError, match="used after it was closed"):
            attempt()
    assert disk.failure is None
