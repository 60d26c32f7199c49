"""One client's connections on asyncio, and nothing that decides anything.

Bytes go from the socket into the place of their message (`BufferedProtocol`), and messages from the core's buffer to
the socket, without a task between: a link's one task dials it and waits for its end. Writing has its turn in the
loop's next round, after the tasks that were woken together, so that what they send goes into the same message.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

from logbroker.errors import LogBrokerError, UnavailableError
from logbroker.wire.protocol import State
from logbroker_client.endpoints import DEFAULT_PORTS, check_url
from logbroker_client.links import LinkState
from logbroker_client.waits import Waits
from logbroker_client.web_socket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from logbroker_client.core import ClientCore
    from logbroker_client.links import Link

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 256 * 1024
# How long a socket that was torn down may take to tell so, which it does in the next round of the loop.
_LOSE_S = 1.0


@final
class Transport:
    """Runs the links of one core."""

    def __init__(self, core: ClientCore, bell: asyncio.Event, *, tls: ssl.SSLContext | None) -> None:
        self._core = core
        # Set by the core when there are links to dial, or an earlier timer.
        self._bell = bell
        self._tls = tls
        self._is_closing = False
        self._connections: dict[Link, Connection] = {}
        self._tasks: dict[Link, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Dial, run timers and links, until cancelled or `close` has ended the last link."""
        core = self._core
        async with asyncio.TaskGroup() as group:
            while not self._is_closing:
                self._bell.clear()
                core.run_timers()
                for link in core.take_dials():
                    self._tasks[link] = group.create_task(self._run_link(link))
                next_at = core.timers.next_at
                await within_until(None if math.isinf(next_at) else next_at, self._bell.wait)

    def close(self) -> None:
        """Begin to end: links send what they have, say goodbye, and `run` returns."""
        self._is_closing = True
        self._bell.set()
        for link, task in self._tasks.items():
            if link.state is LinkState.OPEN:
                self._connections[link].say_goodbye()
            else:
                task.cancel()

    async def _run_link(self, link: Link) -> None:
        connection = self._connections[link] = Connection(self._core, link)
        try:
            error = await self._converse(link, connection)
        finally:
            connection.abort()
            await asyncio.wait([connection.lost], timeout=_LOSE_S)
            del self._connections[link], self._tasks[link]
        logger.info("link lost url=%s reason=%s", link.url, error.message)
        self._core.link_lost(link, error)

    async def _converse(self, link: Link, connection: Connection) -> LogBrokerError:
        """Connect, and give why the connection ended."""
        timeout_s = self._core.options.connect_timeout_s
        deadline = asyncio.timeout(timeout_s)
        try:
            # It may be a node's word and not the user's.
            check_url(link.url)
            async with deadline:
                await self._dial(link.url, connection)
                moments: list[asyncio.Future[Any]] = [connection.greeted, connection.ended]
                await asyncio.wait(moments, return_when=asyncio.FIRST_COMPLETED)
            return await connection.ended
        except LogBrokerError as error:
            return error
        except OSError as error:
            if deadline.expired():
                return UnavailableError(f"no welcome within {timeout_s} s")
            return UnavailableError(f"{type(error).__name__}: {error}")

    async def _dial(self, url: str, connection: Connection) -> None:
        parts = urlsplit(url)
        context = (self._tls or ssl.create_default_context()) if parts.scheme == "wss" else None
        await asyncio.get_running_loop().create_connection(
            lambda: connection, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], ssl=context
        )


@final
class Connection(asyncio.BufferedProtocol):
    """The socket of one link, from its connection to its end. `ended` gives why, `greeted` and `lost` are moments."""

    def __init__(self, core: ClientCore, link: Link) -> None:
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[LogBrokerError] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._core = core
        self._link = link
        self._loop = loop
        self._web_socket = WebSocket(link.url, max_message_bytes=core.options.max_message_bytes)
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        # Where the bytes go that are being read; None for the buffer.
        self._place: memoryview | None = None
        self._is_paused = False
        self._is_scheduled = False
        self._is_closing = False
        self._goodbye_timer: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Tear it down without a word."""
        self._end(UnavailableError("the connection is gone: nothing was heard in time"))
        if self._goodbye_timer is not None:
            self._goodbye_timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        elif not self.lost.done():
            self.lost.set_result(None)

    def say_goodbye(self) -> None:
        """Send what there is, then a close frame, and wait a while for the answer."""
        self._is_closing = True
        self._wake()

    def _end(self, error: Exception) -> None:
        if self.ended.done():
            return
        if isinstance(error, LogBrokerError):
            self.ended.set_result(error)
        else:
            # A bug: it ends the client.
            self.ended.set_exception(error)

    # --- from the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It is one that is read from and written to.
        self._transport = transport  # type: ignore[assignment]
        self._web_socket.open()
        self._send_output()

    def get_buffer(self, sizehint: int) -> memoryview:
        self._place = self._web_socket.place()
        return self._buffer if self._place is None else self._place

    def buffer_updated(self, nbytes: int) -> None:
        web_socket, place = self._web_socket, self._place
        if self.ended.done():
            return
        was_open = web_socket.is_open
        try:
            messages = web_socket.feed(self._buffer[:nbytes]) if place is None else web_socket.filled(nbytes)
            self._send_output()
            if web_socket.is_open and not was_open:
                self._link.wake = self._wake
                self._link.abort = self.abort
                self._core.link_connected(self._link)
            for message in messages:
                self._take(message)
        except Exception as error:
            self._end(error)
        if web_socket.error is not None:
            self._end(web_socket.error)

    def _take(self, message: bytes) -> None:
        link = self._link
        self._core.received(link, message)
        if not self.greeted.done() and link.protocol is not None and link.protocol.state is not State.GREETED:
            self.greeted.set_result(None)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._wake()

    def eof_received(self) -> bool:
        self._end(UnavailableError("the connection ended"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        told = f"{type(exc).__name__}: {exc}" if exc is not None else "the connection ended"
        self._end(UnavailableError(told))
        if not self.lost.done():
            self.lost.set_result(None)

    # --- writing ---

    def _wake(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_scheduled = False
        protocol, transport = self._link.protocol, self._transport
        if protocol is None or transport is None or self._is_paused or self.ended.done():
            return
        try:
            if protocol.state is State.OPEN:
                self._core.pump()
            message = protocol.next_message()
        except Exception as error:
            self._end(error)
            return
        if message is not None:
            transport.writelines(self._web_socket.encode(message))
            # More may be ready; the answers to this one have their turn before.
            self._wake()
        elif self._is_closing and self._goodbye_timer is None:
            self._web_socket.close()
            self._send_output()
            gone = UnavailableError("the connection ended: no goodbye in time")
            self._goodbye_timer = self._loop.call_later(self._core.options.close_timeout_s, partial(self._end, gone))

    def _send_output(self) -> None:
        output = self._web_socket.take_output()
        if output and self._transport is not None:
            self._transport.write(output)


async def wait_among(
    waiters: dict[object, Any], note: object = None, *, undo: Callable[[], None] | None = None
) -> None:
    """Wait until `wake` is called with these waiters; as `WaitAmong`."""
    future = asyncio.get_running_loop().create_future()
    waiters[future] = note
    try:
        await future
    except asyncio.CancelledError:
        if future in waiters:
            del waiters[future]
        elif undo is not None:
            undo()
        raise


def wake(waiters: dict[object, None]) -> None:
    """Wake those who wait in `wait_among`."""
    futures: dict[Any, None] = dict(waiters)
    waiters.clear()
    for future in futures:
        # One that is cancelled is about to find out.
        if not future.done():
            future.set_result(None)


async def within_until(when: float | None, action: Callable[[], Awaitable[object]]) -> None:
    """Run something until a time of the loop's clock, and go on without a word when it comes; None is never."""
    deadline = asyncio.timeout_at(when)
    try:
        async with deadline:
            await action()
    except TimeoutError:
        if not deadline.expired():
            raise


async def _within(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    await within_until(asyncio.get_running_loop().time() + seconds, action)


async def _checkpoint() -> None:
    await asyncio.sleep(0)


async def _checkpoint_if_cancelled() -> None:
    """A task that is cancelled finds out when it next waits."""


ASYNCIO = Waits(
    among=wait_among, checkpoint=_checkpoint, checkpoint_if_cancelled=_checkpoint_if_cancelled, within=_within
)
