"""A client's stream below its WebSocket: whole messages go past the library, both ways, and all else goes through it.

The library does the handshake, pings and closes; but to take one message through it costs two task
switches, a channel and six copies, and to send one a lock, three checkpoints and four copies. So this stream, which the
library reads from, keeps what is a plain message for the session, and the session's writer sends its own frames on it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, final

import trio

from logbroker.server.closing import CloseCode
from logbroker.wire.data_frames import Breach, DataFrames, message_head
from logbroker.wire.text_frames import TextFrames, text_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HEAD_END = b"\r\n\r\n"

# One for all connections: what is read is taken out of it before anything else runs.
_BUFFER = memoryview(bytearray(256 * 1024))


@final
class DataStream(trio.abc.Stream):
    """Gives what was read of the handshake already, then what comes that is no message.

    Messages go to `take` as they come; after each, `wait_room` may hold up the next. `after_read` follows those of a
    read. What breaks a rule goes to `on_breach`, once, and after it everything is thrown away: the goodbye is read only
    by who is read from.

    While `allowance_bytes` is a number, no more than so many bytes are taken in all: whoever has not said who it is
    cannot make this node buffer.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        head: bytes,
        *,
        allowance_bytes: int | None,
        take: Callable[[bytes], None],
        wait_room: Callable[[], Awaitable[None]],
        after_read: Callable[[], None],
        on_breach: Callable[[Breach], None],
        is_text: bool = False,
    ) -> None:
        self.allowance_bytes = allowance_bytes
        self._stream = stream
        # In the clear there is a socket that can be read and written without the layers above it.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        end = head.find(_HEAD_END)
        end = len(head) if end < 0 else end + len(_HEAD_END)
        # What follows the head are frames already.
        self._head, self._early = head[:end], head[end:]
        cut = TextFrames if is_text else DataFrames
        self._frames = cut(is_masked=True, max_message_bytes=allowance_bytes or 0)
        self._head_of = text_head if is_text else message_head
        self._take = take
        self._wait_room = wait_room
        self._after_read = after_read
        self._on_breach = on_breach
        self._is_broken = False
        self._sending = trio.Lock()
        # What is left of a message that was sent in part: it goes before anything else.
        self._rest: bytes | memoryview = b""

    def trust(self, max_message_bytes: int) -> None:
        """The client has said who it is: from here on it may send messages up to this size, and any number."""
        self.allowance_bytes = None
        self._frames.max_message_bytes = max_message_bytes

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What the library has to see. It may be a little more than `max_bytes`, as frames are not cut."""
        if self._head:
            await trio.lowlevel.checkpoint()
            data, self._head = self._head, b""
            self._allow(len(data))
            return data
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
            if not size:
                return b""
            if self._is_broken or not self._allow(size):
                continue
            if messages:
                try:
                    for message in messages:
                        self._take(message)
                        await self._wait_room()
                finally:
                    # Whatever becomes of this connection, the others wait for what was begun to be ended.
                    self._after_read()
            if frames.breach is not None:
                self._break(frames.breach)
            elif passed:
                return passed

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

    def _allow(self, size: int) -> bool:
        if self.allowance_bytes is not None:
            self.allowance_bytes -= size
            if self.allowance_bytes < 0:
                self._break(Breach(CloseCode.BAD_REQUEST, "too many bytes before the hello was answered"))
                return False
        return True

    def _break(self, breach: Breach) -> None:
        self._is_broken = True
        self._on_breach(breach)

    def send_nowait(self, message: bytes) -> bool:
        """Begin to send one message; False where `finish` must be called, which sends the rest of it or all.

        An error of the socket is left to `finish`, which meets it again.
        """
        head = self._head_of(len(message))
        sent = 0
        if self._socket is not None and not self._rest and not self._sending.locked():
            try:
                sent = os.writev(_descriptor(self._socket), (head, message))
            except (OSError, trio.ClosedResourceError):
                sent = 0
            if sent == len(head) + len(message):
                return True
        # Whatever takes the lock next sends this first, so that nothing comes between the parts of a message.
        if not self._rest:
            self._rest = head[sent:] + message if sent < len(head) else memoryview(message)[sent - len(head) :]
        else:
            self._rest = b"".join((self._rest, head, message))
        return False

    async def finish(self) -> None:
        """Send what is left of messages that were begun. Cancelled, the stream is of no more use."""
        async with self._sending:
            await self._send_rest()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            await self._send_rest()
            await self._stream.send_all(data)

    async def _send_rest(self) -> None:
        while self._rest:
            rest, self._rest = self._rest, b""
            await self._stream.send_all(rest)

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
