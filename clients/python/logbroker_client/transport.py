"""One client's connections on trio: WebSockets by trio-websocket, and nothing that decides anything.

What trio-websocket asks of its users, and where it is met:

- It costs more than everything else that is done with a message: whole messages go past it (`data_stream`), and only
  what is not one comes out of its queue.
- A send that is cancelled leaves half a frame on the wire and no trace of it. Each link has one writer,
  nobody puts a deadline around its sends, and a link whose task is cancelled is torn down without a word.
- Its receive buffer of 4 KiB costs most of the throughput; here it is 256 KiB.
- A full message queue stops pings and close frames. Nothing here waits before it takes a message.
- A ping that arrives while we close (its issue 184), or a server that does not speak HTTP, raises an error of
  wsproto or h11 out of its reader task: each link has a nursery of its own, and these mean that it is lost.
- What goes wrong in a TLS handshake that it starts is lost: the handshake is made before.
- A KeyError in its handlers is swallowed; none of our code runs in them.
- A connection that fails in its handshake may never say so: dialling has a deadline.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast, final
from urllib.parse import urlsplit

import h11
import trio
import wsproto.utilities
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, wrap_client_stream

from logbroker.errors import LogBrokerError, RemoteProtocolError, UnavailableError
from logbroker.wire.protocol import State
from logbroker.wire.requests import STREAM_PATH, SUBPROTOCOL
from logbroker_client.data_stream import DataStream
from logbroker_client.endpoints import DEFAULT_PORTS, check_url, closed_error
from logbroker_client.links import LinkState

if TYPE_CHECKING:
    from logbroker.wire.data_frames import Breach
    from logbroker_client.core import ClientCore
    from logbroker_client.links import Link

OpenStream: TypeAlias = Callable[[str], Awaitable[trio.abc.Stream]]
"""Opens a stream to an address, TLS and all."""

logger = logging.getLogger(__name__)

_RECEIVE_BUFFER_BYTES = 256 * 1024
_MESSAGE_QUEUE_SIZE = 16


async def open_tcp(url: str, *, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    """Open a TCP connection to an address, with TLS if it begins with wss."""
    # It may be a node's word and not the user's.
    check_url(url)
    parts = urlsplit(url)
    host = parts.hostname or ""
    stream = await trio.open_tcp_stream(host, parts.port or DEFAULT_PORTS[parts.scheme])
    if parts.scheme == "ws":
        return stream
    context = tls or ssl.create_default_context()
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


@final
class Bell:
    """Wakes one task; ringing it again before that task runs costs nothing."""

    __slots__ = ("_is_rung", "_task")

    def __init__(self) -> None:
        self._is_rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        self._is_rung = True
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def hush(self) -> None:
        """Forget that it was rung."""
        self._is_rung = False

    async def wait(self) -> None:
        """Return when it is rung, at once if it was already; a checkpoint in any case."""
        if self._is_rung:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()

            def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._is_rung = False


@final
class Transport:
    """Runs the links of one core."""

    def __init__(self, core: ClientCore, bell: Bell, *, open_stream: OpenStream) -> None:
        self._core = core
        # Rung by the core when there are links to dial, or an earlier timer.
        self._bell = bell
        self._open_stream = open_stream
        self._is_closing = False
        self._link_bells: dict[Link, Bell] = {}

    async def run(self) -> None:
        """Dial, run timers and links, until cancelled or `close` has ended the last link."""
        core = self._core
        async with trio.open_nursery() as nursery:
            while not self._is_closing:
                self._bell.hush()
                core.run_timers()
                for link in core.take_dials():
                    nursery.start_soon(self._run_link, link)
                with trio.move_on_at(core.timers.next_at):
                    await self._bell.wait()

    def close(self) -> None:
        """Begin to end: links send what they have, say goodbye, and `run` returns."""
        self._is_closing = True
        self._bell.ring()
        for link, bell in self._link_bells.items():
            if link.state is LinkState.OPEN:
                bell.ring()
            else:
                link.abort()

    async def _run_link(self, link: Link) -> None:
        error: LogBrokerError
        # What was wrong with a message. It is not raised through the library, which would lose it.
        failures: list[Exception] = []
        bell = self._link_bells[link] = Bell()
        try:
            with trio.CancelScope() as scope:
                link.abort = scope.cancel
                await self._converse(link, bell, failures)
            error = UnavailableError("the connection is gone: nothing was heard in time")
        except* (
            LogBrokerError,
            OSError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            ConnectionClosed,
            HandshakeError,
            wsproto.utilities.ProtocolError,
            h11.ProtocolError,
        ) as group:
            error = _reason(group)
        finally:
            del self._link_bells[link]
        if failures:
            if not isinstance(failures[0], LogBrokerError):
                raise failures[0]
            error = failures[0]
        logger.info("link lost url=%s reason=%s", link.url, error.message)
        self._core.link_lost(link, error)

    async def _converse(self, link: Link, bell: Bell, failures: list[Exception]) -> None:
        core = self._core
        below: trio.abc.Stream | None = None
        greeted = trio.Event()

        early: list[bytes] = []

        def take(message: bytes) -> None:
            protocol = link.protocol
            if protocol is None:
                # The server did not wait for the hello; what is wrong with it is found out after that.
                early.append(message)
                return
            if failures:
                return
            try:
                core.received(link, message)
            except Exception as error:
                failures.append(error)
                link.abort()
            if protocol.state is not State.GREETED:
                greeted.set()

        def on_breach(breach: Breach) -> None:
            failures.append(RemoteProtocolError(f"the server sent what it may not: {breach.reason}"))
            link.abort()

        try:
            async with trio.open_nursery() as nursery:
                # trio-websocket is untyped.
                connection: Any = None
                stream: DataStream | None = None
                with trio.move_on_after(core.options.connect_timeout_s) as scope:
                    below = await self._open_stream(link.url)
                    stream = DataStream(
                        below, max_message_bytes=core.options.max_message_bytes, take=take, on_breach=on_breach
                    )
                    connection = await self._open_websocket(nursery, stream, link.url)
                    nursery.start_soon(self._read, connection)
                    link.wake = bell.ring
                    core.link_connected(link)
                    for message in early:
                        take(message)
                    await self._greet(link, connection, stream)
                    await greeted.wait()
                if scope.cancelled_caught or stream is None:
                    raise UnavailableError(f"no welcome within {core.options.connect_timeout_s} s")
                await self._write(link, connection, stream, bell)
        finally:
            # Nothing to wait for: a close frame was sent if there was a chance to.
            if below is not None:
                await trio.aclose_forcefully(below)

    async def _open_websocket(self, nursery: trio.Nursery, stream: trio.abc.Stream, url: str) -> Any:  # noqa: ANN401 - untyped library
        parts = urlsplit(url)
        # Any stream will do, whatever its annotation says.
        connection = await wrap_client_stream(
            nursery,
            cast("trio.SocketStream", stream),
            parts.netloc.rpartition("@")[2],
            parts.path if parts.path not in ("", "/") else STREAM_PATH,
            subprotocols=[SUBPROTOCOL],
            message_queue_size=_MESSAGE_QUEUE_SIZE,
            max_message_size=self._core.options.max_message_bytes,
            receive_buffer_size=_RECEIVE_BUFFER_BYTES,
        )
        if connection.closed is not None:
            raise _closed(connection.closed)
        if connection.subprotocol != SUBPROTOCOL:
            raise RemoteProtocolError(
                f"{url} speaks {connection.subprotocol or 'no subprotocol'}, not {SUBPROTOCOL}",
                hint="is it the client port of a logbroker node?",
            )
        return connection

    async def _greet(self, link: Link, connection: Any, stream: DataStream) -> None:  # noqa: ANN401 - untyped library
        """Say Hello; nothing else is under way that the deadline could cut in two."""
        hello = link.protocol.next_message() if link.protocol is not None else None
        if hello is not None:
            await _send(connection, stream, hello)

    async def _read(self, connection: Any) -> None:  # noqa: ANN401 - untyped library
        """Wait for the end; the stream has taken all messages."""
        try:
            while True:
                await connection.get_message()
        except ConnectionClosed:
            # While we close, the writer is still waiting for the server's goodbye.
            if not self._is_closing:
                raise

    async def _write(self, link: Link, connection: Any, stream: DataStream, bell: Bell) -> None:  # noqa: ANN401 - untyped library
        core, protocol = self._core, link.protocol
        if protocol is None:
            return
        is_stream = False
        while True:
            # Whatever it was rung for is found below; the pump rings it too.
            bell.hush()
            core.pump()
            message = protocol.next_message()
            if message is None:
                if self._is_closing:
                    await self._say_goodbye(connection)
                    return
                is_stream = False
                await bell.wait()
                # The tasks that were woken together with this one have their turn first, and what they send goes
                # into the same message.
                await trio.lowlevel.checkpoint()
                continue
            if is_stream:
                # A socket that takes everything must not keep the answers from being read.
                await trio.lowlevel.checkpoint()
            is_stream = True
            await _send(connection, stream, message)

    async def _say_goodbye(self, connection: Any) -> None:  # noqa: ANN401 - untyped library
        with trio.move_on_after(self._core.options.close_timeout_s):
            await connection.aclose(1000)


async def _send(connection: Any, stream: DataStream, message: bytes) -> None:  # noqa: ANN401 - untyped library
    """Send a message past the library, which alone knows whether that may still be done."""
    if connection.closed is not None:
        raise ConnectionClosed(connection.closed)
    await stream.send_message(message)


def _reason(group: BaseExceptionGroup[BaseException]) -> LogBrokerError:
    """The error that tells most of those in a link's group."""
    leaves = list(_leaves(group))
    for leaf in leaves:
        if isinstance(leaf, LogBrokerError):
            return leaf
    for leaf in leaves:
        # What the server said, and not that the connection is gone after it.
        if isinstance(leaf, ConnectionClosed):
            return _closed(leaf.reason)
    leaf = leaves[0]
    if isinstance(leaf, ConnectionRejected):
        return UnavailableError(
            f"the server refused the WebSocket with HTTP status {leaf.status_code}",
            hint="is it the client port of a logbroker node?",
        )
    if isinstance(leaf, wsproto.utilities.ProtocolError | h11.ProtocolError):
        return RemoteProtocolError(
            f"the server does not speak as a WebSocket does: {leaf}",
            hint="is it the client port of a logbroker node?",
        )
    # A broken TLS stream says why only in its cause.
    told = leaf.__cause__ if isinstance(leaf, trio.BrokenResourceError) and leaf.__cause__ is not None else leaf
    return UnavailableError(f"{type(told).__name__}: {told}" if str(told) else type(told).__name__)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _closed(reason: Any) -> LogBrokerError:  # noqa: ANN401 - untyped library
    if reason is None:
        return UnavailableError("the connection ended")
    return closed_error(reason.code, reason.reason)


def new_scheduler_wake() -> Callable[[dict[object, None]], None]:
    """Give the `wake` of an environment whose waiters are trio tasks (`wait_among`)."""
    reschedule: Callable[[Any], None] = trio.lowlevel.reschedule

    def wake(waiters: dict[object, None]) -> None:
        for task in waiters:
            reschedule(task)
        waiters.clear()

    return wake


async def wait_among(
    waiters: dict[object, Any], note: object = None, *, undo: Callable[[], None] | None = None
) -> None:
    """Wait until `wake` is called with these waiters; `note` is kept beside the waiter.

    A task that was woken is not cancelled before it runs, so there is never anything to `undo`.
    """
    task = trio.lowlevel.current_task()
    waiters[task] = note
    await trio.lowlevel.wait_task_rescheduled(partial(_leave, waiters, task))


def _leave(waiters: dict[object, Any], task: trio.lowlevel.Task, _: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
    waiters.pop(task, None)
    return trio.lowlevel.Abort.SUCCEEDED
