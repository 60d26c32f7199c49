"""The stream below a WebSocket: whole messages go past the library, both ways, and all else goes through it.

The library does the handshake, pings and closes; but to take one message through it costs two task
switches, a channel and six copies, and to send one a lock, three checkpoints and four copies.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, final

import trio

from logbroker.wire.data_frames import Breach, DataFrames, message_head
from logbroker.wire.masking import MASK_BYTES, mask

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 64 * 1024
_SWITCHES = b"HTTP/1.1 101 "

# One for all connections: what is read is taken out of it before anything else runs.
_BUFFER = memoryview(bytearray(256 * 1024))


@final
class DataStream(trio.abc.Stream):
    """Gives what comes that is no message; messages go to `take`, which must not raise.

    What breaks a rule of WebSocket goes to `on_breach`, once; after it there is only the end.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_message_bytes: int,
        take: Callable[[bytes], None],
        on_breach: Callable[[Breach], None],
    ) -> None:
        self._stream = stream
        # In the clear there is a socket that can be read and written without the layers above it.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._take = take
        self._on_breach = on_breach
        self._frames = DataFrames(is_masked=False, max_message_bytes=max_message_bytes)
        # Of the answer to the handshake, up to its end; None behind it.
        self._head: bytes | None = b""
        # What came with it: frames.
        self._early = b""
        self._sending = trio.Lock()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What the library has to see. It may be a little more than `max_bytes`, as frames are not cut."""
        if self._head is not None:
            return self._take_head(self._head, bytes(await self._stream.receive_some(max_bytes)))
        frames = self._frames
        while True:
            place = frames.rest_of_message()
            if place is not None:
                size = await self._read_into(place)
                whole = frames.filled(size)
                messages, passed = ([] if whole is None else [whole]), b""
            elif self._early:
                await trio.lowlevel.checkpoint()
                size = len(self._early)
                messages, passed = frames.feed(self._early)
                self._early = b""
            else:
                size = await self._read_into(_BUFFER)
                messages, passed = frames.feed(_BUFFER[:size])
            for message in messages:
                self._take(message)
            if frames.breach is not None:
                self._on_breach(frames.breach)
                return b""
            if passed or not size:
                return passed

    def _take_head(self, before: bytes, data: bytes) -> bytes:
        """Give what belongs to the answer to the handshake; what follows it are frames, if it is the right answer."""
        head = before + data
        end = head.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            # The library finds what is wrong with an answer that does not end.
            self._head = head if len(head) <= _MAX_HEAD_BYTES else None
            self._frames.is_passing = self._head is None
            return data
        self._head = None
        if not head.startswith(_SWITCHES):
            self._frames.is_passing = True
            return data
        self._early = head[end:]
        return data[: len(data) - len(self._early)]

    async def _read_into(self, place: memoryview) -> int:
        socket = self._socket
        if socket is None:
            data = await self._stream.receive_some(len(place))
            place[: len(data)] = data
            return len(data)
        while True:
            # Nothing is there most of the time, so asking first would be in vain.
            await trio.lowlevel.wait_readable(_descriptor(socket))
            try:
                return os.readv(_descriptor(socket), (place,))
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    async def send_message(self, message: bytes) -> None:
        """Send one message; no checkpoint if the socket takes it at once. Cancelled, the stream is of no more use."""
        key = os.urandom(MASK_BYTES)
        head, masked = message_head(len(message), key), mask(message, key)
        sent = 0
        if self._socket is not None and not self._sending.locked():
            try:
                sent = os.writev(_descriptor(self._socket), (head, masked))
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error
            if sent == len(head) + len(masked):
                return
        async with self._sending:
            if sent < len(head):
                await self._stream.send_all(head[sent:] + masked)
            else:
                await self._stream.send_all(memoryview(masked)[sent - len(head) :])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _descriptor(socket: trio.socket.SocketType) -> int:
    """Asked for each time: the number of a closed socket may be another's by now."""
    descriptor = socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("the connection was closed")
    return descriptor
