"""Disk room held back, so that a full disk refuses produce while acks, floors and flushes go on.

Three quarters are given back when room runs out (`LOW`: produce is refused), the last quarter only for floors,
configuration, checkpoints and flush records (`LAST`). It is made again before produce is taken again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, final

from logbroker.errors import DiskFullError

if TYPE_CHECKING:
    from logbroker.storage.disk import Disk

BALLAST_FILE = "ballast"


@final
class Room(IntEnum):
    """How much may be written; each level allows less than the one before."""

    AMPLE = 0
    LOW = 1
    LAST = 2


@final
class Ballast:
    """Blocking; used by the log thread alone."""

    def __init__(self, disk: Disk, size_bytes: int) -> None:
        self._disk = disk
        self._size_bytes = size_bytes
        self._last_quarter = size_bytes // 4

    def fill(self) -> Room:
        """Reserve as much as fits and say which level that means."""
        for level, want in ((Room.AMPLE, self._size_bytes), (Room.LOW, self._last_quarter)):
            try:
                with self._disk.open(BALLAST_FILE, create=True) as file:
                    if file.size() > want:
                        file.truncate(want)
                    file.allocate(0, want)
            except DiskFullError:
                continue
            return level
        return Room.LAST

    def release(self, level: Room) -> None:
        """Give back what `level` allows to be used."""
        keep = {Room.AMPLE: self._size_bytes, Room.LOW: self._last_quarter, Room.LAST: 0}[level]
        with self._disk.open(BALLAST_FILE, create=True) as file:
            if file.size() > keep:
                file.truncate(keep)
                file.sync()
