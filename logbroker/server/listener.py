"""The client listener: WebSocket for clients, a helpful word for everybody else.

A connection is looked at before it costs anything: its request head has a size and a deadline, and only what asks for
the stream path with the right subprotocol, from an origin that may, is handed to the WebSocket library.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NoReturn, final

import trio

from logbroker.errors import LogBrokerError
from logbroker.server.connection import Connection
from logbroker.server.plain_http import HttpConnection, HttpError, HttpReply, HttpRequest
from logbroker.server.subprotocols import SUBPROTOCOLS, choose
from logbroker.server.websocket import LOST, accept
from logbroker.wire.protocol import MAX_REQUEST_HEADER_BYTES
from logbroker.wire.requests import STREAM_PATH

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from logbroker.server.service import ClientService

logger = logging.getLogger(__name__)

SWEEP_S = 0.25
HELLO_SLACK_BYTES = 16 * 1024
_VERSION = "13"
_SPOKEN = " or ".join(SUBPROTOCOLS)


@final
class ClientListener:
    """See the module. `tls` gives the context of this moment, so that certificates can be renewed."""

    def __init__(self, service: ClientService, *, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self._service = service
        self._settings = service.settings
        self._tls = tls
        self._connections: dict[Connection, None] = {}
        self._by_address: dict[str, int] = {}
        self._stops_accepting = trio.Event()
        self._stops = trio.Event()
        self._last_gone = trio.Event()

    @property
    def connection_count(self) -> int:
        return self._service.measures.connections

    async def run(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop`; closes the listeners at its end, or at `stop_accepting`."""
        async with trio.open_nursery() as connections:
            connections.start_soon(self._sweep)
            async with trio.open_nursery() as accepting:
                await accepting.start(
                    partial(trio.serve_listeners, self._serve, listeners, handler_nursery=connections)
                )
                task_status.started()
                await self._stops_accepting.wait()
                accepting.cancel_scope.cancel()
            await self._stops.wait()
            for connection in list(self._connections):
                connection.session.shut_down()
            with trio.move_on_after(self._settings.timeouts.close_ms / 1000):
                while self._by_address:
                    self._last_gone = trio.Event()
                    await self._last_gone.wait()
            connections.cancel_scope.cancel()

    def stop_accepting(self) -> None:
        """Take no new connections and no new requests; long polls are answered, what is under way goes on."""
        self._service.is_stopping = True
        self._stops_accepting.set()
        for connection in list(self._connections):
            connection.session.stop_waiting()

    def stop(self) -> None:
        """Answer what is left, say goodbye everywhere, and let `run` return."""
        self.stop_accepting()
        self._stops.set()

    # One connection.

    async def _serve(self, tcp: trio.SocketStream) -> None:
        """The outer edge of a connection: nothing of it goes further than this."""
        measures = self._service.measures
        address = _address(tcp)
        reason = self._reason_to_refuse(address)
        if reason:
            measures.note_refused(reason)
            await trio.aclose_forcefully(tcp)
            return
        measures.accepted += 1
        measures.connections += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        try:
            await self._greet(tcp, address)
        except* LOST as group:
            logger.debug("connection_lost address=%s reason=%r", address, _first_line(group))
        except* (LogBrokerError, trio.TooSlowError) as group:
            logger.info("connection_refused address=%s reason=%r", address, _first_line(group))
        except* Exception:
            logger.exception("connection_failed address=%s", address)
        finally:
            measures.connections -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
            self._last_gone.set()
            # Goodbyes were said where there was a chance to.
            await trio.aclose_forcefully(tcp)

    def _reason_to_refuse(self, address: str) -> str:
        measures, limits = self._service.measures, self._service.limits
        if measures.connections >= limits.max_connections:
            return "max_connections"
        if self._by_address.get(address, 0) >= limits.max_connections_per_address:
            return "max_connections_per_address"
        if measures.unauthenticated >= limits.max_unauthenticated_connections:
            return "max_unauthenticated_connections"
        return ""

    async def _greet(self, tcp: trio.SocketStream, address: str) -> None:
        timeouts, measures = self._settings.timeouts, self._service.measures
        measures.unauthenticated += 1
        is_counted = True
        try:
            stream: trio.abc.Stream = tcp
            with trio.fail_after(timeouts.handshake_ms / 1000):
                context = self._tls()
                if context is not None:
                    stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
                    await stream.do_handshake()
                found = await self._read_head(stream)
            if found is not None:
                is_counted = False
                head, subprotocol = found
                await self._open(stream, head, address, subprotocol)
        finally:
            if is_counted:
                measures.unauthenticated -= 1

    async def _read_head(self, stream: trio.abc.Stream) -> tuple[bytes, str] | None:
        """Everything read so far of a client that asks for the stream, and the subprotocol that it gets.

        Anybody else is answered, and it is None.
        """
        http = HttpConnection(stream, max_head_bytes=self._service.limits.max_http_head_bytes)
        try:
            request = await http.read_head()
            if request is None:
                return None
            reply = _welcome(request, self._settings.listeners.client.allowed_origins, self._settings.admin_url)
        except HttpError as error:
            await http.refuse(error)
        else:
            if isinstance(reply, str):
                return bytes(http.received), reply
            await http.reply(reply, closes=True, is_head=request.method == "HEAD")
        self._service.measures.plain_http += 1
        await http.linger()
        return None

    async def _open(self, stream: trio.abc.Stream, head: bytes, address: str, subprotocol: str) -> None:
        # The one nursery of this connection: the library's reader, the writer, and requests that wait.
        async with trio.open_nursery() as connection_nursery:
            connection = Connection(
                self._service,
                stream,
                head,
                connection_nursery,
                address=address,
                subprotocol=subprotocol,
                allowance_bytes=len(head) + MAX_REQUEST_HEADER_BYTES + HELLO_SLACK_BYTES,
            )
            try:
                with trio.fail_after(self._settings.timeouts.handshake_ms / 1000):
                    websocket = await accept(
                        connection_nursery,
                        connection.stream,
                        subprotocol=subprotocol,
                        max_message_bytes=self._service.wire_limits.max_message_bytes,
                    )
                self._connections[connection] = None
                await connection.run(websocket)
            finally:
                self._connections.pop(connection, None)
                connection.session.end()

    async def _sweep(self) -> NoReturn:
        """Keep the deadlines of all connections; one task for all, because a timer for each would cost more."""
        while True:
            await trio.sleep(SWEEP_S)
            for connection in list(self._connections):
                connection.session.check()
                if connection.session.is_stuck():
                    connection.drop()
                # There may be room again that others have made.
                connection.wake_reader()
            self._service.handover.sweep()


def _welcome(request: HttpRequest, allowed_origins: tuple[str, ...], admin_url: str) -> HttpReply | str:
    """The subprotocol to speak with a client that asks for the stream, and what to answer to anybody else."""
    is_upgrade = "websocket" in request.words("upgrade") and "upgrade" in request.words("connection")
    if not is_upgrade:
        if request.method in ("GET", "HEAD") and request.path == "/livez":
            return HttpReply(200, b"ok\n")
        return HttpReply(
            426,
            f"This port speaks WebSocket at {STREAM_PATH}, subprotocol {_SPOKEN}; "
            f"for HTTP go to {admin_url}\n".encode(),
            headers=(("Upgrade", "websocket"),),
        )
    if request.method != "GET" or request.headers.get("sec-websocket-version") != _VERSION:
        return HttpReply(
            400,
            f"WebSocket asks for a GET with Sec-WebSocket-Version {_VERSION}\n".encode(),
            headers=(("Sec-WebSocket-Version", _VERSION),),
        )
    if request.target != STREAM_PATH:
        return HttpReply(404, f"The stream is at {STREAM_PATH}, without a query\n".encode())
    origin = request.headers.get("origin")
    if origin is not None and "*" not in allowed_origins and origin not in allowed_origins:
        return HttpReply(403, b"This origin is not in listeners.client.allowed_origins\n")
    subprotocol = choose(request)
    if subprotocol is None:
        return HttpReply(400, f"Offer a subprotocol: {_SPOKEN}\n".encode())
    if "sec-websocket-key" not in request.headers:
        return HttpReply(400, b"Sec-WebSocket-Key is missing\n")
    return subprotocol


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "gone"


def _first_line(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
