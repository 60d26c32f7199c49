"""Room held back: what each level gives, and that it is really on the disk."""

from __future__ import annotations

import pytest

from logbroker.storage.ballast import BALLAST_FILE, Ballast, Room
from logbroker.storage.simulated_disk import SimulatedDisk

SIZE = 64 << 10


def test_a_full_ballast_takes_its_room_from_the_disk() -> None:
    disk = SimulatedDisk(capacity_bytes=1 << 20)
    free = disk.space().free_bytes
    assert Ballast(disk, SIZE).fill() is Room.AMPLE
    assert free - disk.space().free_bytes == SIZE


@pytest.mark.parametrize(("level", "kept"), [(Room.AMPLE, SIZE), (Room.LOW, SIZE // 4), (Room.LAST, 0)])
def test_each_level_keeps_its_part(level: Room, kept: int) -> None:
    disk = SimulatedDisk(capacity_bytes=1 << 20)
    ballast = Ballast(disk, SIZE)
    ballast.fill()
    before = disk.space().free_bytes
    ballast.release(level)
    assert disk.size(BALLAST_FILE) == kept
    assert disk.space().free_bytes - before == SIZE - kept


def test_a_release_never_grows_it() -> None:
    disk = SimulatedDisk(capacity_bytes=1 << 20)
    ballast = Ballast(disk, SIZE)
    ballast.release(Room.AMPLE)
    assert disk.size(BALLAST_FILE) == 0


@pytest.mark.parametrize(("left", "level"), [(SIZE, Room.AMPLE), (SIZE - 1, Room.LOW), (SIZE // 4 - 4096, Room.LAST)])
def test_it_says_how_much_of_itself_it_could_make_again(left: int, level: Room) -> None:
    disk = SimulatedDisk(capacity_bytes=1 << 20)
    with disk.open("data", create=True) as file:
        file.allocate(0, (1 << 20) - left // 4096 * 4096)
    ballast = Ballast(disk, SIZE)
    assert ballast.fill() is level
    disk.unlink("data")
    assert ballast.fill() is Room.AMPLE
    assert disk.size(BALLAST_FILE) == SIZE
