"""Disks that lose what was not synced: a file system in memory, mounted through FUSE, with a process for each disk.

What it promises is the least that POSIX allows: `fsync` of a file makes its content and size durable, `fsync` of a
directory its names, and nothing else does. At a power cut all that was not synced is gone; or, as on real disks,
some of the pages and all of the names are there nevertheless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, final

from tools.chaos_kit.fuse import Attributes, FuseError, FuseSession
from tools.chaos_kit.kernel import mount, unmount
from tools.chaos_kit.network import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PAGE_BYTES = 4096
CAPACITY_BYTES = 1 << 30
_SECTOR_BYTES = 512
_ROOT_INODE = 1


@final
@dataclass(slots=True)
class Inode:
    """A file or a directory, as it is and as it would be after a power cut."""

    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    durable_size: int = 0
    # What stood in each page that was written since the last sync; shorter where the durable file ends.
    undo: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)
    open_count: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@final
class PowerModel:
    """The file system itself; knows nothing of FUSE. Inode 1 is the root."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {_ROOT_INODE: Inode(_ROOT_INODE, stat.S_IFDIR | 0o700)}
        self._next = _ROOT_INODE + 1

    def inode(self, number: int) -> Inode:
        """Raises FuseError: it is gone."""
        found = self.inodes.get(number)
        if found is None:
            raise FuseError(errno.ESTALE)
        return found

    def directory(self, number: int) -> Inode:
        found = self.inode(number)
        if not found.is_directory:
            raise FuseError(errno.ENOTDIR)
        return found

    def lookup(self, directory: int, name: str) -> Inode:
        number = self.directory(directory).names.get(name)
        if number is None:
            raise FuseError(errno.ENOENT)
        return self.inode(number)

    def create(self, directory: int, name: str, mode: int) -> Inode:
        names = self.directory(directory).names
        if name in names:
            raise FuseError(errno.EEXIST)
        made = self.inodes[self._next] = Inode(self._next, mode)
        names[name] = self._next
        self._next += 1
        return made

    def unlink(self, directory: int, name: str, *, is_directory: bool) -> None:
        found = self.lookup(directory, name)
        if found.is_directory != is_directory:
            raise FuseError(errno.ENOTDIR if is_directory else errno.EISDIR)
        if found.names:
            raise FuseError(errno.ENOTEMPTY)
        del self.directory(directory).names[name]

    def rename(self, old_directory: int, old: str, new_directory: int, new: str) -> None:
        moved = self.lookup(old_directory, old)
        target = self.directory(new_directory).names
        if new in target and self.inode(target[new]).names:
            raise FuseError(errno.ENOTEMPTY)
        del self.directory(old_directory).names[old]
        target[new] = moved.number

    def write(self, number: int, offset: int, data: bytes) -> None:
        inode = self.inode(number)
        end = offset + len(data)
        self._remember(inode, offset, end)
        if len(inode.data) < offset:
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset:end] = data

    def resize(self, number: int, size: int) -> None:
        inode = self.inode(number)
        if size < len(inode.data):
            self._remember(inode, size, len(inode.data))
            del inode.data[size:]
        else:
            inode.data.extend(bytes(size - len(inode.data)))

    def _remember(self, inode: Inode, start: int, end: int) -> None:
        for page in range(start // PAGE_BYTES, -(-end // PAGE_BYTES)):
            if page not in inode.undo:
                at = page * PAGE_BYTES
                inode.undo[page] = bytes(inode.data[at : min(at + PAGE_BYTES, inode.durable_size)])

    def sync(self, number: int) -> None:
        inode = self.inode(number)
        inode.undo.clear()
        inode.durable_size = len(inode.data)

    def sync_names(self, number: int) -> None:
        directory = self.directory(number)
        directory.durable_names = dict(directory.names)
        self._sweep()

    def cut(self, kept: float, chance: random.Random) -> None:
        """Lose what was not synced; but each page, or part of it, and all names together stay with chance `kept`."""
        keeps_names = chance.random() < kept
        for inode in self.inodes.values():
            if keeps_names:
                inode.durable_names = dict(inode.names)
            else:
                inode.names = dict(inode.durable_names)
            inode.open_count = 0
            _revert(inode, kept, chance)
        self._sweep()

    def _sweep(self) -> None:
        """Forget what has no name, neither now nor after a cut, and is not open."""
        used = {_ROOT_INODE}
        for inode in self.inodes.values():
            used.update(inode.names.values(), inode.durable_names.values())
            if inode.open_count:
                used.add(inode.number)
        for number in self.inodes.keys() - used:
            del self.inodes[number]

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in self.inodes.values())


def _revert(inode: Inode, kept: float, chance: random.Random) -> None:
    size = len(inode.data) if chance.random() < kept else inode.durable_size
    if len(inode.data) < inode.durable_size:
        inode.data.extend(bytes(inode.durable_size - len(inode.data)))
    for page, before in inode.undo.items():
        if chance.random() >= kept:
            at = page * PAGE_BYTES
            end = min(at + PAGE_BYTES, len(inode.data))
            # A page may be torn: its first sectors are new, the others old.
            torn = chance.randrange(PAGE_BYTES // _SECTOR_BYTES) * _SECTOR_BYTES if chance.random() < kept / 2 else 0
            start = min(at + torn, end)
            inode.data[start:end] = before.ljust(end - at, b"\0")[start - at : end - at]
    inode.undo.clear()
    del inode.data[size:]
    inode.durable_size = len(inode.data)


@final
class PowerServer:
    """Answers the kernel out of a model."""

    def __init__(self, model: PowerModel) -> None:
        self.model = model

    def attributes(self, number: int) -> Attributes:
        inode = self.model.inode(number)
        return Attributes(number, inode.mode, len(inode.data))

    def lookup(self, parent: int, name: str) -> Attributes:
        return self.attributes(self.model.lookup(parent, name).number)

    def set_attributes(self, number: int, *, mode: int | None, size: int | None) -> Attributes:
        if mode is not None:
            inode = self.model.inode(number)
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        if size is not None:
            self.model.resize(number, size)
        return self.attributes(number)

    def make_directory(self, parent: int, name: str, mode: int) -> Attributes:
        return self.attributes(self.model.create(parent, name, stat.S_IFDIR | stat.S_IMODE(mode)).number)

    def create(self, parent: int, name: str, mode: int) -> Attributes:
        inode = self.model.create(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        inode.open_count = 1
        return self.attributes(inode.number)

    def unlink(self, parent: int, name: str) -> None:
        self.model.unlink(parent, name, is_directory=False)

    def remove_directory(self, parent: int, name: str) -> None:
        self.model.unlink(parent, name, is_directory=True)

    def rename(self, parent: int, name: str, new_parent: int, new_name: str) -> None:
        self.model.rename(parent, name, new_parent, new_name)

    def open(self, number: int, *, truncate: bool) -> None:
        self.model.inode(number).open_count += 1
        if truncate:
            self.model.resize(number, 0)

    def release(self, number: int) -> None:
        inode = self.model.inodes.get(number)
        if inode is not None:
            inode.open_count = max(0, inode.open_count - 1)

    def read(self, number: int, offset: int, size: int) -> bytes:
        return bytes(memoryview(self.model.inode(number).data)[offset : offset + size])

    def write(self, number: int, offset: int, data: bytes) -> int:
        if self.model.used_bytes + len(data) > CAPACITY_BYTES:
            raise FuseError(errno.ENOSPC)
        self.model.write(number, offset, data)
        return len(data)

    def allocate(self, number: int, end: int) -> None:
        if end > len(self.model.inode(number).data):
            self.model.resize(number, end)

    def sync(self, number: int) -> None:
        self.model.sync(number)

    def sync_directory(self, number: int) -> None:
        self.model.sync_names(number)

    def list(self, number: int) -> Sequence[tuple[str, Attributes]]:
        names = self.model.directory(number).names
        return [(name, self.attributes(child)) for name, child in names.items()]

    def space(self) -> tuple[int, int]:
        return CAPACITY_BYTES, CAPACITY_BYTES - self.model.used_bytes


def main(arguments: Sequence[str]) -> int:
    """Serve the mount whose descriptor of /dev/fuse is given; cut the power at each line of standard input."""
    handle = int(arguments[0])
    server = PowerServer(PowerModel())
    session = FuseSession(handle, server)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(handle, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == handle:
                if not session.serve_one():
                    return 0
                continue
            line = os.read(0, 4096).decode()
            if not line:
                return 0
            kept, seed = line.split()
            server.model.cut(float(kept), random.Random(int(seed)))
            print("ok", flush=True)


@final
class PowerDisk:
    """One mounted disk and the process that serves it; made by `power_disk`."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self._root = root
        self._process = process

    def cut(self, kept: float, seed: int) -> None:
        """Cut the power; nobody may have anything of it open."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise OSError("the disk has no process")
        stdin.write(f"{kept} {seed}\n".encode())
        stdin.flush()
        if stdout.readline() != b"ok\n":
            raise OSError("the disk's process has ended")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            unmount(str(self._root))
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def power_disk(root: Path, *, log: IO[bytes]) -> PowerDisk:
    """Mount one at a folder.

    Raises:
        OSError: there is no FUSE here, or this user may not mount.
    """
    handle = os.open("/dev/fuse", os.O_RDWR)
    try:
        mount(
            "chaos",
            str(root),
            "fuse.chaos",
            data=f"fd={handle},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions",
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.chaos_kit.power_disk", str(handle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[handle],
            cwd=ROOT,
            start_new_session=True,
        )
    finally:
        os.close(handle)
    return PowerDisk(root, process)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
