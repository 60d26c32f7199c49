"""The write-ahead log of a node: the only thing that is synced on the way to an acknowledgement.

A ring of zero-filled files with fixed names, shared by all groups. One commit is unsynced at a time. The writer knows
frames and positions, nothing of entries; what is in the ring after a crash is read by `wal_scan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import OverloadedError, invariant, violated
from logbroker.storage.wal_format import (
    PAGE_BYTES,
    WalFrame,
    WalPosition,
    align_up,
    commit_size_bytes,
    encode_commit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.storage.disk import Disk, File

WAL_DIRECTORY = "wal"
FREE = 0


@final
@dataclass(frozen=True, slots=True)
class WalOptions:
    """`file_bytes` is a multiple of 4 KiB. The ring grows from `initial_files` to `max_files` while a flush is late."""

    file_bytes: int = 32 << 20
    initial_files: int = 3
    max_files: int = 8


@final
@dataclass(frozen=True, slots=True)
class WalState:
    """Where a writer goes on: what recovery found, or `first_state` on a new node."""

    uses: dict[int, int]
    """Ring file number to the use it holds; FREE may be overwritten."""
    position: WalPosition
    sequence: int
    synced_through: WalPosition
    left_at: WalPosition


def first_state(file_count: int) -> WalState:
    """A ring nobody has written to: use 1 begins in file 1."""
    uses = {number: FREE for number in range(1, file_count + 1)}
    uses[1] = 1
    start = WalPosition(1, 0)
    return WalState(uses, start, 0, start, WalPosition(0, 0))


def file_path(number: int) -> str:
    return f"{WAL_DIRECTORY}/{number}.wal"


def make_ring_file(disk: Disk, number: int, file_bytes: int) -> None:
    """Create a zero-filled ring file, durable with its name; an unfinished one from before a crash is made again."""
    with disk.open(file_path(number), create=True) as file:
        file.truncate(0)
        file.zero_fill(file_bytes)
        file.sync()
    disk.sync_dir(WAL_DIRECTORY)


@final
class Wal:
    """The writer. Used by one thread at a time; a failed write or sync leaves it unusable for good."""

    def __init__(self, disk: Disk, options: WalOptions, state: WalState, salt_crc: int) -> None:
        self._disk = disk
        self._options = options
        self._salt_crc = salt_crc
        self._uses = dict(state.uses)
        self._files_at_start = max(len(state.uses), options.max_files)
        self._position = state.position
        self._sequence = state.sequence
        self._synced_through = state.synced_through
        self._left_at = state.left_at
        self._sealed = True
        self._files: dict[int, File] = {}

    @property
    def position(self) -> WalPosition:
        """Where the next commit begins."""
        return self._position

    @property
    def is_sealed(self) -> bool:
        """False while the last commit's durability is known to this process alone."""
        return self._sealed

    @property
    def file_count(self) -> int:
        return len(self._uses)

    def durable_uses(self) -> tuple[list[tuple[int, int]], WalPosition]:
        """(use, file number) of each file that is not free, oldest first, and up to where the log is durable.

        Any thread may ask while another writes: the position is never ahead of the log, and may name a use that is
        not among the files yet.
        """
        through = self._synced_through
        return sorted((use, number) for number, use in self._uses.copy().items() if use != FREE), through

    def fits(self, commit_bytes: int) -> bool:
        """Whether a commit of that size goes into the current file."""
        return self._position.offset + commit_bytes <= self._options.file_bytes

    def can_roll(self) -> bool:
        """Whether a next file may be taken: a free one, or one more within the bound."""
        return FREE in self._uses.values() or len(self._uses) < self._options.max_files

    def can_outgrow(self) -> bool:
        """Whether a file beyond the bound may be taken where nothing else frees one: as many as the bound, a start."""
        return len(self._uses) < self._files_at_start + self._options.max_files

    def commit(self, frames: Sequence[WalFrame]) -> None:
        """Write and sync one commit; when this returns, the frames survive power loss.

        Raises:
            StoreFailedError: the disk failed; nothing is known of the frames and the node must stop.
        """
        size = commit_size_bytes(frames)
        if not self.fits(size):
            violated(f"a commit of {size} bytes at {self._position} passes the end of its file")
        file = self._file_of(self._position.use)
        buffers = encode_commit(
            frames,
            position=self._position,
            sequence=self._sequence + 1,
            synced_through=self._synced_through,
            left_at=self._left_at,
            salt_crc=self._salt_crc,
        )
        file.pwrite(buffers, self._position.offset)
        file.sync()
        end = self._position.offset + size
        self._sequence += 1
        self._synced_through = WalPosition(self._position.use, end)
        self._position = WalPosition(self._position.use, align_up(end))
        self._sealed = not frames

    def seal(self) -> None:
        """State in the log itself that the last commit is durable, by an empty commit after it.

        Without it a restart must doubt that commit. Where the file has no page left the next roll states it as well.
        """
        if not self._sealed and self.fits(PAGE_BYTES):
            self.commit(())

    def make_room(self, *, beyond_max: bool = False) -> None:
        """See to it that there is a free file for the next `roll`, which then cannot fail.

        Recovery may go `beyond_max`, and so may a roll that lets older files go.

        Raises:
            OverloadedError: every file is still needed and the ring has `max_files`.
            DiskFullError: there is no room for another file.
        """
        if FREE in self._uses.values():
            return
        number = max(self._uses, default=0) + 1
        if number > self._options.max_files and not beyond_max:
            raise OverloadedError(
                f"the write-ahead log has {len(self._uses)} files of {self._options.max_files}, all needed"
            )
        make_ring_file(self._disk, number, self._options.file_bytes)
        self._uses[number] = FREE

    def roll(self) -> WalPosition:
        """Take a free file; the next commit begins at its start. Returns that position. Call `make_room` before."""
        number = next((number for number, use in sorted(self._uses.items()) if use == FREE), 0)
        invariant(number > 0, "the write-ahead log is rolled without a free file")
        self._left_at = self._synced_through
        use = self._position.use + 1
        self._uses[number] = use
        self._position = WalPosition(use, 0)
        return self._position

    def release(self, before: WalPosition) -> None:
        """Files whose use lies before `before` may be overwritten."""
        for number, use in self._uses.items():
            if use < before.use:
                self._uses[number] = FREE

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file_of(self, use: int) -> File:
        number = next(number for number, held in self._uses.items() if held == use)
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = self._disk.open(file_path(number))
        return file
