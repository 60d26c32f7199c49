"""What the nodes' data lies on: a plain folder, a small tmpfs that can be filled, or a disk that loses its power."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from enum import Enum
from typing import IO, TYPE_CHECKING, final

import trio

from tools.chaos_kit.kernel import mount, unmount
from tools.chaos_kit.power_disk import PowerDisk, power_disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from random import Random

SMALL_BYTES = 256 << 20
_FILLER = "filler"
_PIECE_BYTES = 1 << 20


@final
class DiskKind(Enum):
    PLAIN = "plain folders"
    SMALL = "tmpfs of 256 MiB"
    POWER = "disks that lose their power"


@final
class Disks:
    """The disks of all nodes; made by `disks`."""

    def __init__(self, kind: DiskKind, roots: Mapping[int, Path], powered: Mapping[int, PowerDisk]) -> None:
        self.kind = kind
        self._roots = roots
        self._powered = powered

    @property
    def data_dirs(self) -> dict[int, Path]:
        return {number: root / "data" for number, root in self._roots.items()}

    async def cut_power(self, number: int, random: Random) -> None:
        """Take from a dead node's disk what was not synced, or all but some pages of it."""
        await trio.to_thread.run_sync(self._powered[number].cut, random.choice((0.0, 0.0, 0.5)), random.getrandbits(32))

    async def fill(self, number: int) -> None:
        """Take all the room that there is."""
        await trio.to_thread.run_sync(_fill, self._roots[number] / _FILLER)

    async def free(self, number: int) -> None:
        await trio.to_thread.run_sync(lambda: (self._roots[number] / _FILLER).unlink(missing_ok=True))

    async def wipe(self, number: int) -> None:
        """Lose everything on a dead node's disk."""
        await trio.to_thread.run_sync(shutil.rmtree, self._roots[number] / "data")

    def heal(self) -> None:
        for root in self._roots.values():
            (root / _FILLER).unlink(missing_ok=True)


def _fill(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (_PIECE_BYTES, 4096):
            piece = bytes(size)
            with suppress(OSError):
                while os.write(handle, piece) == size:
                    pass
    finally:
        os.close(handle)


@contextmanager
def disks(kind: DiskKind, folder: Path, nodes: Sequence[int], *, log: IO[bytes]) -> Iterator[Disks]:
    """Make the disks of a round; mounts go with the block.

    Raises:
        OSError: a file system cannot be mounted.
    """
    roots = {number: folder / f"disk{number}" for number in nodes}
    powered: dict[int, PowerDisk] = {}
    mounted: list[Path] = []
    try:
        for number, root in roots.items():
            root.mkdir()
            match kind:
                case DiskKind.SMALL:
                    mount("chaos", str(root), "tmpfs", data=f"size={SMALL_BYTES}")
                    mounted.append(root)
                case DiskKind.POWER:
                    powered[number] = power_disk(root, log=log)
                case DiskKind.PLAIN:
                    pass
        yield Disks(kind, roots, powered)
    finally:
        for disk in powered.values():
            disk.close()
        for root in mounted:
            unmount(str(root))
