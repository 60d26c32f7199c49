"""All that the server touches of trio-websocket, so that another library can take its place here.

What it asks of its users, and where it is met:

- It costs more than everything else that is done with a message: messages go past it (`data_stream`), and so does
  whatever breaks a rule: it waits for the end of a frame that says it is of 2**62 bytes, keeps the pieces of a message
  without end, and drops the connection without a close frame.
- A send that is cancelled leaves half a frame on the wire and no trace of it: one writer a connection, no deadline
  around its sends but one that drops the connection.
- Its receive buffer of 4 KiB costs most of the throughput; here it is 256 KiB.
- A reader that waits hears no close frames: the session's pings are frames of our own, and a connection that is not
  read from is watched by the send deadline.
- A ping that arrives while we close raises out of its reader task (its issue 184), and a handshake that fails may
  never say so: every connection has a nursery and a deadline of its own, and `LOST` names what may come out of it.
- A KeyError in its handlers is swallowed; none of our code runs in them.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NoReturn, final

import trio
import wsproto.utilities
from trio_websocket import ConnectionClosed, HandshakeError, wrap_server_stream

if TYPE_CHECKING:
    from logbroker.server.closing import Closing
    from logbroker.server.data_stream import DataStream

RECEIVE_BUFFER_BYTES = 256 * 1024
MESSAGE_QUEUE_SIZE = 4

LOST = (
    ConnectionClosed,
    HandshakeError,
    wsproto.utilities.LocalProtocolError,
    wsproto.utilities.RemoteProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    ssl.SSLError,
    OSError,
)
"""What ends a connection without being anybody's mistake here."""


@final
class WebSocket:
    """A connection after its handshake."""

    def __init__(self, connection: Any, stream: DataStream) -> None:  # noqa: ANN401  trio-websocket has no types
        self._connection = connection
        self._stream = stream

    async def wait_end(self) -> NoReturn:
        """Wait for the end of the connection, and raise it: the stream has given all messages.

        Raises:
            ConnectionClosed: always.
        """
        while True:
            await self._connection.get_message()

    def send_nowait(self, message: bytes) -> bool:
        """Begin to send one message; False where `finish` has to send the rest of it before the next."""
        return self._connection.closed is None and self._stream.send_nowait(message)

    async def finish(self) -> None:
        """Send the rest. Cancelled, the connection is of no more use.

        Raises:
            ConnectionClosed: it was closed, and the message is not sent.
        """
        if self._connection.closed is not None:
            raise ConnectionClosed(self._connection.closed)
        await self._stream.finish()

    async def close(self, closing: Closing) -> None:
        """Say goodbye, and wait until the client has; under a deadline of the caller's."""
        await self._connection.aclose(int(closing.code), closing.short_reason)

    @property
    def close_code(self) -> int | None:
        """The code with which it was closed, by whichever side; None while it is open."""
        reason = self._connection.closed
        return None if reason is None else reason.code


async def accept(nursery: trio.Nursery, stream: DataStream, *, subprotocol: str, max_message_bytes: int) -> WebSocket:
    """Answer a handshake whose head the stream gives first, and which was looked over already.

    Under a deadline of the caller's. The reader task runs in `nursery`, the connection's own.
    """
    request = await wrap_server_stream(
        nursery,
        stream,
        message_queue_size=MESSAGE_QUEUE_SIZE,
        max_message_size=max_message_bytes,
        receive_buffer_size=RECEIVE_BUFFER_BYTES,
    )
    return WebSocket(await request.accept(subprotocol=subprotocol), stream)
