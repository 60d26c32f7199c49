"""The kernel's side of a small file system: as much of the FUSE protocol as a file system in memory needs.

Spoken over /dev/fuse without a library, so that nothing has to be installed. Nothing is cached over an open: names and
attributes are asked for each time. (Linux, include/uapi/linux/fuse.h, protocol 7.)
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_WRITE_BYTES = 1 << 20
_BUFFER_BYTES = _MAX_WRITE_BYTES + (1 << 16)
_BLOCK_BYTES = 4096

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES_HEAD = struct.Struct("<QII")
_OPEN = struct.Struct("<QII")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_READ_WRITE = struct.Struct("<QQIIQII")
_ALLOCATE = struct.Struct("<QQQII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_ENTRY_HEAD = struct.Struct("<QQII")

_PROTOCOL = (7, 31)
# Reads at once, atomic O_TRUNC, writes of more than a page, and more than 32 pages.
_WANTED_FLAGS = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 22
_SET_MODE, _SET_SIZE = 1 << 0, 1 << 3


class FuseError(Exception):
    """The file system refuses, with an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.code = code


@final
@dataclass(frozen=True, slots=True)
class Attributes:
    number: int
    mode: int
    size: int

    def encode(self) -> bytes:
        blocks = -(-self.size // 512)
        ids = (os.geteuid(), os.getegid())
        return _ATTRIBUTES.pack(
            self.number, self.size, blocks, 0, 0, 0, 0, 0, 0, self.mode, 1, *ids, 0, _BLOCK_BYTES, 0
        )


class FileSystem(Protocol):
    """What a session asks; every method may raise FuseError."""

    def attributes(self, number: int) -> Attributes: ...
    def lookup(self, parent: int, name: str) -> Attributes: ...
    def set_attributes(self, number: int, *, mode: int | None, size: int | None) -> Attributes: ...
    def make_directory(self, parent: int, name: str, mode: int) -> Attributes: ...
    def create(self, parent: int, name: str, mode: int) -> Attributes: ...
    def unlink(self, parent: int, name: str) -> None: ...
    def remove_directory(self, parent: int, name: str) -> None: ...
    def rename(self, parent: int, name: str, new_parent: int, new_name: str) -> None: ...
    def open(self, number: int, *, truncate: bool) -> None: ...
    def release(self, number: int) -> None: ...
    def read(self, number: int, offset: int, size: int) -> bytes: ...
    def write(self, number: int, offset: int, data: bytes) -> int: ...
    def allocate(self, number: int, end: int) -> None: ...
    def sync(self, number: int) -> None: ...
    def sync_directory(self, number: int) -> None: ...
    def list(self, number: int) -> Sequence[tuple[str, Attributes]]: ...
    def space(self) -> tuple[int, int]: ...


@final
class FuseSession:
    """Requests of one mount, answered one at a time."""

    def __init__(self, handle: int, files: FileSystem) -> None:
        self._handle = handle
        self._files = files
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: self._rename,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._release,
            20: self._fsync,
            25: self._nothing,
            26: self._init,
            27: self._opendir,
            28: self._readdir,
            29: self._nothing,
            30: self._fsyncdir,
            34: self._nothing,
            35: self._create,
            43: self._fallocate,
            45: self._rename2,
        }

    def serve_one(self) -> bool:
        """Take a request and answer it; False once the mount is gone."""
        try:
            data = os.read(self._handle, _BUFFER_BYTES)
        except OSError as error:
            # Whoever asked was killed meanwhile, or there is nothing yet; all else is the end of the mount.
            return error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN)
        _, operation, unique, number, *_ = _IN.unpack_from(data)
        if operation in (2, 36, 42):
            # FORGET, INTERRUPT and BATCH_FORGET want no answer.
            return True
        call = self._calls.get(operation)
        code, body = errno.ENOSYS, b""
        if call is not None:
            try:
                code, body = 0, call(number, data[_IN.size :])
            except FuseError as error:
                code = error.code
        try:
            os.writev(self._handle, [_OUT.pack(_OUT.size + len(body), -code, unique), body])
        except OSError as error:
            # ENOENT: whoever asked was killed meanwhile.
            return error.errno == errno.ENOENT
        return True

    # --- one method for each kind of request ---

    def _init(self, number: int, body: bytes) -> bytes:
        del number
        _, _, readahead, flags = _INIT_IN.unpack_from(body)
        pages = _MAX_WRITE_BYTES // _BLOCK_BYTES
        return _INIT_OUT.pack(*_PROTOCOL, readahead, flags & _WANTED_FLAGS, 16, 12, _MAX_WRITE_BYTES, 1, pages, 0, 0)

    def _lookup(self, number: int, body: bytes) -> bytes:
        return _entry(self._files.lookup(number, _names(body)[0]))

    def _getattr(self, number: int, body: bytes) -> bytes:
        del body
        return _ATTRIBUTES_HEAD.pack(0, 0, 0) + self._files.attributes(number).encode()

    def _setattr(self, number: int, body: bytes) -> bytes:
        valid, _, _, size, *rest = _SETATTR.unpack_from(body)
        mode = rest[7]
        found = self._files.set_attributes(
            number, mode=mode if valid & _SET_MODE else None, size=size if valid & _SET_SIZE else None
        )
        return _ATTRIBUTES_HEAD.pack(0, 0, 0) + found.encode()

    def _mkdir(self, number: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return _entry(self._files.make_directory(number, _names(body[8:])[0], mode))

    def _unlink(self, number: int, body: bytes) -> bytes:
        self._files.unlink(number, _names(body)[0])
        return b""

    def _rmdir(self, number: int, body: bytes) -> bytes:
        self._files.remove_directory(number, _names(body)[0])
        return b""

    def _rename(self, number: int, body: bytes) -> bytes:
        (new_parent,) = struct.unpack_from("<Q", body)
        old, new = _names(body[8:])
        self._files.rename(number, old, new_parent, new)
        return b""

    def _rename2(self, number: int, body: bytes) -> bytes:
        new_parent, flags = struct.unpack_from("<QI", body)
        if flags:
            raise FuseError(errno.EINVAL)
        old, new = _names(body[16:])
        self._files.rename(number, old, new_parent, new)
        return b""

    def _open(self, number: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        self._files.open(number, truncate=bool(flags & os.O_TRUNC))
        return _OPEN.pack(number, 0, 0)

    def _create(self, number: int, body: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        made = self._files.create(number, _names(body[16:])[0], mode)
        return _entry(made) + _OPEN.pack(made.number, 0, 0)

    def _release(self, number: int, body: bytes) -> bytes:
        del body
        self._files.release(number)
        return b""

    def _read(self, number: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_WRITE.unpack_from(body)
        return self._files.read(number, offset, size)

    def _write(self, number: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_WRITE.unpack_from(body)
        written = self._files.write(number, offset, body[_READ_WRITE.size : _READ_WRITE.size + size])
        return struct.pack("<II", written, 0)

    def _fallocate(self, number: int, body: bytes) -> bytes:
        _, offset, length, mode, _ = _ALLOCATE.unpack_from(body)
        if mode:
            raise FuseError(errno.EOPNOTSUPP)
        self._files.allocate(number, offset + length)
        return b""

    def _fsync(self, number: int, body: bytes) -> bytes:
        del body
        self._files.sync(number)
        return b""

    def _fsyncdir(self, number: int, body: bytes) -> bytes:
        del body
        self._files.sync_directory(number)
        return b""

    def _statfs(self, number: int, body: bytes) -> bytes:
        del number, body
        total, free = (size // _BLOCK_BYTES for size in self._files.space())
        return _STATFS.pack(total, free, free, 1 << 20, 1 << 20, _BLOCK_BYTES, 255, _BLOCK_BYTES, 0)

    def _opendir(self, number: int, body: bytes) -> bytes:
        del body
        return _OPEN.pack(number, 0, 0)

    def _readdir(self, number: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_WRITE.unpack_from(body)
        rows = b""
        for position, (name, found) in enumerate(self._files.list(number)[offset:], offset + 1):
            text = os.fsencode(name)
            row = _ENTRY_HEAD.pack(found.number, position, len(text), stat.S_IFMT(found.mode) >> 12) + text
            row += bytes(-len(row) % 8)
            if len(rows) + len(row) > size:
                break
            rows += row
        return rows

    def _nothing(self, number: int, body: bytes) -> bytes:
        del number, body
        return b""


def _names(body: bytes) -> list[str]:
    return [os.fsdecode(name) for name in body.split(b"\0")[:-1]]


def _entry(found: Attributes) -> bytes:
    return _ENTRY.pack(found.number, 0, 0, 0, 0, 0) + found.encode()
