"""The writer of the write-ahead log: where commits go, what they state, and when a file may be taken."""

from __future__ import annotations

import pytest

from logbroker.errors import DiskFullError, InvariantError, OverloadedError, StoreFailedError
from logbroker.ids import ReplicaId
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedDisk, on
from logbroker.storage.wal import Wal, WalOptions, file_path, first_state, make_ring_file
from logbroker.storage.wal_format import (
    PAGE_BYTES,
    CommitHeader,
    WalFrame,
    WalPosition,
    align_up,
    commit_size_bytes,
    decode_header,
    entry_frame,
    entry_frame_bytes,
)
from tests.unit.storage.store_kit import A, entry

SALT = 99
OPTIONS = WalOptions(file_bytes=4 * PAGE_BYTES, initial_files=2, max_files=3)


def make(options: WalOptions = OPTIONS) -> tuple[SimulatedDisk, Wal]:
    disk = SimulatedDisk()
    disk.mkdir("wal")
    disk.sync_dir("")
    for number in range(1, options.initial_files + 1):
        make_ring_file(disk, number, options.file_bytes)
    return disk, Wal(disk, options, first_state(options.initial_files), SALT)


def header(disk: SimulatedDisk, number: int, page: int) -> CommitHeader:
    with disk.open(file_path(number)) as file:
        data = memoryview(file.pread(file.size(), 0))
    found = decode_header(data, WalPosition(0, page * PAGE_BYTES), SALT)
    assert found is not None
    return found


def frame(index: int, *, size: int = 100, replica: ReplicaId = A) -> WalFrame:
    return entry_frame(replica, entry(index, size=size))


def test_a_commit_begins_on_a_page_and_states_what_was_durable_before_it() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    wal.commit([frame(2), frame(3)])
    first, second = header(disk, 1, 0), header(disk, 1, 1)
    assert (first.sequence, first.synced_through, first.left_at) == (1, WalPosition(1, 0), WalPosition(0, 0))
    assert (second.sequence, second.synced_through) == (2, first.end)
    assert [(item.replica, item.index, item.term) for item in second.items] == [(11, 2, 1), (11, 3, 1)]
    assert wal.position == WalPosition(1, 2 * PAGE_BYTES)


def test_a_commit_is_durable_when_it_returns() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    assert disk.is_synced(file_path(1))


def test_the_size_of_a_commit_is_known_before_it_is_written() -> None:
    frames = [frame(1), frame(2, size=9000)]
    disk, wal = make()
    assert commit_size_bytes(frames) == commit_size_bytes([]) + sum(
        entry_frame_bytes(entry(index, size=size)) for index, size in ((1, 100), (2, 9000))
    )
    wal.commit(frames)
    assert header(disk, 1, 0).end.offset == commit_size_bytes(frames)
    assert wal.position.offset == align_up(commit_size_bytes(frames))


def test_a_commit_may_fill_its_file_to_the_last_byte_and_not_pass_it() -> None:
    room = 4 * PAGE_BYTES - commit_size_bytes([frame(1, size=0)])
    exact = room - room % 3
    disk, wal = make(WalOptions(file_bytes=commit_size_bytes([frame(1, size=exact)]), initial_files=2))
    assert wal.fits(commit_size_bytes([frame(1, size=exact)]))
    assert not wal.fits(commit_size_bytes([frame(1, size=exact)]) + 1)
    with pytest.raises(InvariantError, match="passes the end"):
        wal.commit([frame(1, size=exact + 3)])
    wal.commit([frame(1, size=exact)])
    assert disk.is_synced(file_path(1))


def test_only_an_empty_commit_seals() -> None:
    _, wal = make()
    sealed = [wal.is_sealed]
    wal.commit([frame(1)])
    sealed.append(wal.is_sealed)
    wal.seal()
    sealed.append(wal.is_sealed)
    assert sealed == [True, False, True]
    position = wal.position
    wal.seal()
    assert wal.position == position


def test_a_full_file_is_not_sealed_and_the_next_file_states_its_end() -> None:
    disk, wal = make()
    wal.commit([frame(1, size=3 * PAGE_BYTES)])
    end = header(disk, 1, 0).end
    wal.seal()
    assert not wal.is_sealed
    wal.make_room()
    wal.roll()
    wal.commit([])
    assert (header(disk, 2, 0).synced_through, header(disk, 2, 0).left_at) == (end, end)


def test_a_roll_takes_the_lowest_free_file_and_the_next_use() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    left = header(disk, 1, 0).end
    wal.make_room()
    assert wal.roll() == WalPosition(2, 0)
    wal.commit([frame(2)])
    wal.commit([frame(3)])
    assert [header(disk, 2, page).left_at for page in (0, 1)] == [left, left]


def test_a_file_is_taken_again_only_when_it_was_released() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    wal.make_room()
    wal.roll()
    wal.commit([frame(2)])
    wal.release(WalPosition(1, PAGE_BYTES))
    wal.make_room()
    assert wal.file_count == 3
    wal.roll()
    wal.commit([frame(3)])
    wal.release(WalPosition(3, 0))
    wal.make_room()
    assert wal.roll() == WalPosition(4, 0)
    wal.commit([frame(4)])
    assert header(disk, 1, 0).position == WalPosition(4, 0)
    assert wal.file_count == 3


def test_the_ring_grows_to_its_bound_and_then_says_so() -> None:
    disk, wal = make()
    for _ in range(2):
        assert wal.can_roll()
        wal.make_room()
        wal.roll()
        wal.commit([])
    assert not wal.can_roll()
    with pytest.raises(OverloadedError, match="3 files of 3"):
        wal.make_room()
    wal.make_room(beyond_max=True)
    wal.roll()
    assert disk.size(file_path(4)) == OPTIONS.file_bytes


def test_a_grown_ring_file_is_durable_before_it_is_used() -> None:
    disk, wal = make(WalOptions(file_bytes=4 * PAGE_BYTES, initial_files=1, max_files=2))
    wal.make_room()
    assert disk.is_synced(file_path(2))


def test_a_roll_without_a_free_file_is_a_broken_invariant() -> None:
    _, wal = make(WalOptions(file_bytes=4 * PAGE_BYTES, initial_files=1, max_files=2))
    with pytest.raises(InvariantError, match="without a free file"):
        wal.roll()


def test_a_ring_file_that_finds_no_room_is_made_again_later() -> None:
    disk, wal = make(WalOptions(file_bytes=4 * PAGE_BYTES, initial_files=1, max_files=2))
    full = disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.ZERO_FILL, below="wal/2")))
    with pytest.raises(DiskFullError):
        wal.make_room()
    assert (full.struck, wal.file_count) == (1, 1)
    wal.make_room()
    wal.roll()
    wal.commit([frame(1)])
    assert disk.size(file_path(2)) == 4 * PAGE_BYTES


def test_a_failed_sync_leaves_the_position_where_it_was_and_the_disk_unusable() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    before = wal.position
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC, below="wal/")))
    with pytest.raises(StoreFailedError):
        wal.commit([frame(2)])
    assert wal.position == before
    with pytest.raises(StoreFailedError):
        wal.commit([frame(2)])


def test_a_file_is_written_again_after_close() -> None:
    disk, wal = make()
    wal.commit([frame(1)])
    wal.close()
    wal.commit([frame(2)])
    assert header(disk, 1, 1).sequence == 2
