"""Large writes past the page cache (`O_DIRECT`), for bytes that nobody will read soon.

A page that has to be found for each 4 KiB written costs ten times the write itself, and pages written all at once stand
before every sync of others. It must not change what a file holds: whole blocks go to the device from a buffer of their
own, what lies before and behind them goes the ordinary way, and the kernel keeps both ways apart by pages.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.storage.disk import Buffer

BLOCK_BYTES = 4096
"""Place, length and memory of a direct write are multiples of it: enough for every common device and file system."""
BUFFER_BYTES = 1 << 20
"""Of one write, so that no more than this of a writer waits in the device before somebody's sync."""
MIN_BYTES = 64 << 10
"""Less is not worth a second descriptor."""
_JOIN_COUNT = 512


@final
class DirectWrites:
    """The buffers of one disk; may be used from several threads."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def write(self, handle: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write the buffers back to back from `offset` as far as it goes; return how many bytes that is.

        None, where they are few or the file system has no such way; fewer than all where it ends on the way. The rest
        is the caller's. Not durable before a sync of `handle`.

        Raises:
            OSError: the device failed, or there is no room.
        """
        if sum(map(len, buffers)) < MIN_BYTES:
            return 0
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = mmap.mmap(-1, BUFFER_BYTES)
        try:
            # By the descriptor, for the name may be another one by now.
            direct = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            self._free.append(scratch)
            return 0
        try:
            with memoryview(scratch) as view:
                return _write(handle, direct, view, buffers, offset)
        finally:
            self._free.append(scratch)
            os.close(direct)


def _write(handle: int, direct: int, scratch: memoryview, buffers: Sequence[Buffer], offset: int) -> int:
    # The scratch buffer is a window of the file that begins with a block; `begin` to `end` of it is new.
    begin = end = offset % BLOCK_BYTES
    base = offset - begin
    for piece in _joined(buffers):
        rest = memoryview(piece)
        while rest:
            count = min(len(rest), BUFFER_BYTES - end)
            scratch[end : end + count] = rest[:count]
            rest = rest[count:]
            end += count
            if end == BUFFER_BYTES:
                done = _write_window(handle, direct, scratch, base, begin, end)
                if done < end - begin:
                    return base + begin + done - offset
                base += end
                begin = end = 0
    return base + begin + _write_window(handle, direct, scratch, base, begin, end) - offset


def _write_window(handle: int, direct: int, scratch: memoryview, base: int, begin: int, end: int) -> int:
    """Write `begin` to `end` of the window: whole blocks directly, what is before and behind them through the cache."""
    first = min(end, -(-begin // BLOCK_BYTES) * BLOCK_BYTES)
    last = max(first, end // BLOCK_BYTES * BLOCK_BYTES)
    done = begin
    for way, start, stop in ((handle, begin, first), (direct, first, last), (handle, last, end)):
        if start < stop:
            try:
                done += os.pwrite(way, scratch[start:stop], base + start)
            except OSError as error:
                # The file system opens files this way and does not write them so, or wants larger blocks.
                if way != direct or error.errno != errno.EINVAL:
                    raise
            if done < stop:
                break
    return done - begin


def _joined(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """Small buffers joined, for a step of the loop above costs more than a copy of some; large ones as they are."""
    for start in range(0, len(buffers), _JOIN_COUNT):
        some = buffers[start : start + _JOIN_COUNT]
        if sum(map(len, some)) <= BUFFER_BYTES:
            yield b"".join(some)
        else:
            yield from some
