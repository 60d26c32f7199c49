"""The FUSE session over a socket in place of /dev/fuse: requests as the kernel writes them, answers as it reads."""

from __future__ import annotations

import errno
import socket
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from tools.chaos_kit.fuse import FuseSession
from tools.chaos_kit.power_disk import PowerModel, PowerServer

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKUP, GETATTR, MKDIR, UNLINK, OPEN, READ, WRITE, STATFS = 1, 3, 9, 10, 14, 15, 16, 17
FSYNC, INIT, READDIR, FSYNCDIR, CREATE, FALLOCATE, RENAME2, FORGET = 20, 26, 28, 30, 35, 43, 45, 2
ROOT = 1


class Kernel:
    """The other end of the socket."""

    def __init__(self, session: FuseSession, end: socket.socket) -> None:
        self._session = session
        self._end = end
        self._unique = 0

    def ask(self, operation: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        """Give the errno and the body of the answer."""
        self._unique += 1
        self._end.send(struct.pack("<IIQQIIIHH", 40 + len(body), operation, self._unique, node, 0, 0, 0, 0, 0) + body)
        assert self._session.serve_one()
        answer = self._end.recv(1 << 16)
        length, code, unique = struct.unpack_from("<IiQ", answer)
        assert (length, unique) == (len(answer), self._unique)
        return -code, answer[16:]

    def create(self, name: bytes) -> int:
        """Make a file in the root; give its node."""
        code, body = self.ask(CREATE, ROOT, struct.pack("<IIII", 0, stat.S_IFREG | 0o600, 0, 0) + name + b"\0")
        assert (code, len(body)) == (0, 128 + 16)
        node: int = struct.unpack_from("<Q", body)[0]
        return node

    def write(self, node: int, offset: int, data: bytes) -> None:
        code, body = self.ask(WRITE, node, struct.pack("<QQIIQII", node, offset, len(data), 0, 0, 0, 0) + data)
        assert (code, struct.unpack("<II", body)) == (0, (len(data), 0))

    def read(self, node: int, offset: int, size: int) -> bytes:
        code, body = self.ask(READ, node, struct.pack("<QQIIQII", node, offset, size, 0, 0, 0, 0))
        assert code == 0
        return body


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Kernel(FuseSession(theirs.fileno(), PowerServer(PowerModel())), ours)


def test_the_session_begins_with_what_both_sides_can(kernel: Kernel) -> None:
    code, body = kernel.ask(INIT, 0, struct.pack("<IIII", 7, 40, 131_072, 0xFFFF_FFFF))
    major, minor, _, flags, _, _, max_write = struct.unpack_from("<IIIIHHI", body)
    assert (code, len(body), major, minor, max_write) == (0, 64, 7, 31, 1 << 20)
    # No cache of writes: what is written must be here to be lost.
    assert not flags & 1 << 16


def test_a_file_is_made_written_read_and_listed(kernel: Kernel) -> None:
    node = kernel.create(b"log")
    kernel.write(node, 3, b"abc")
    assert kernel.read(node, 0, 100) == b"\0\0\0abc"
    code, body = kernel.ask(LOOKUP, ROOT, b"log\0")
    found, _, entry_valid, attributes_valid = struct.unpack_from("<QQQQ", body)
    assert (code, found, entry_valid, attributes_valid) == (0, node, 0, 0)
    code, body = kernel.ask(GETATTR, node)
    assert (code, len(body), struct.unpack_from("<Q", body, 24)[0]) == (0, 104, 6)
    code, body = kernel.ask(READDIR, ROOT, struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
    assert struct.unpack_from("<QQII", body) == (node, 1, 3, stat.S_IFREG >> 12)
    assert body[24:27] == b"log"
    assert kernel.ask(READDIR, ROOT, struct.pack("<QQIIQII", 0, 1, 4096, 0, 0, 0, 0)) == (0, b"")


def test_room_is_reserved_and_counted(kernel: Kernel) -> None:
    node = kernel.create(b"log")
    assert kernel.ask(FALLOCATE, node, struct.pack("<QQQII", node, 4096, 4096, 0, 0)) == (0, b"")
    assert kernel.read(node, 8191, 10) == b"\0"
    code, body = kernel.ask(STATFS, ROOT)
    blocks, free = struct.unpack_from("<QQ", body)
    assert (code, len(body), blocks - free) == (0, 80, 2)


def test_names_are_moved_and_removed(kernel: Kernel) -> None:
    node = kernel.create(b"new")
    code, body = kernel.ask(MKDIR, ROOT, struct.pack("<II", 0o700, 0) + b"folder\0")
    folder: int = struct.unpack_from("<Q", body)[0]
    assert code == 0
    assert kernel.ask(RENAME2, ROOT, struct.pack("<QII", folder, 0, 0) + b"new\0old\0") == (0, b"")
    assert kernel.ask(LOOKUP, ROOT, b"new\0")[0] == errno.ENOENT
    assert struct.unpack_from("<Q", kernel.ask(LOOKUP, folder, b"old\0")[1])[0] == node
    assert kernel.ask(UNLINK, folder, b"old\0") == (0, b"")
    assert kernel.ask(UNLINK, folder, b"old\0")[0] == errno.ENOENT


def test_syncs_reach_the_model(kernel: Kernel) -> None:
    node = kernel.create(b"log")
    kernel.write(node, 0, b"abc")
    for operation, target in ((FSYNC, node), (FSYNCDIR, ROOT)):
        assert kernel.ask(operation, target, bytes(16)) == (0, b"")


def test_what_is_not_known_is_refused_and_forgetting_needs_no_answer(kernel: Kernel) -> None:
    assert kernel.ask(99, ROOT) == (errno.ENOSYS, b"")
    assert kernel.ask(OPEN, 77, struct.pack("<II", 0, 0))[0] == errno.ESTALE
    kernel._end.send(struct.pack("<IIQQIIIHHQ", 48, FORGET, 9, ROOT, 0, 0, 0, 0, 0, 1))
    assert kernel._session.serve_one()
    kernel._end.setblocking(False)
    with pytest.raises(BlockingIOError):
        kernel._end.recv(100)
