"""One client connection on trio: a reader, a writer, and the end that both come to.

The stream hands whole messages to the session, in the task of the library's reader, and reads no more while the
session is full. What is ready is joined into messages of up to 256 KiB. The replies of a turn are sent at its end, as
far as the socket takes them at once; the writer, a task, sends what it does not take, what becomes ready outside of a
turn, and the goodbye. Nothing here decides anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

import trio

from logbroker.errors import RemoteProtocolError
from logbroker.node.bell import Bell
from logbroker.server.closing import CloseCode, Closing
from logbroker.server.data_stream import DataStream
from logbroker.server.handlers import HANDLERS
from logbroker.server.session import Session
from logbroker.server.subprotocols import protocol_of
from logbroker.server.websocket import LOST
from logbroker.wire.requests import JSON_SUBPROTOCOL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from logbroker.server.service import ClientService
    from logbroker.server.websocket import WebSocket
    from logbroker.wire.data_frames import Breach

logger = logging.getLogger(__name__)


@final
class Connection:
    """Carries one session. `nursery` is the connection's own, and ends when `run` does."""

    def __init__(
        self,
        service: ClientService,
        stream: trio.abc.Stream,
        head: bytes,
        nursery: trio.Nursery,
        *,
        address: str,
        allowance_bytes: int,
        subprotocol: str,
    ) -> None:
        self.session = Session(service, self, HANDLERS, address=address, protocol=protocol_of(subprotocol, service))
        self.stream = DataStream(
            stream,
            head,
            allowance_bytes=allowance_bytes,
            take=self._take,
            wait_room=self._wait_room,
            after_read=service.backend.release,
            on_breach=self._on_breach,
            is_text=subprotocol == JSON_SUBPROTOCOL,
        )
        self._service = service
        self._nursery = nursery
        self._output = Bell()
        self._room = Bell()
        self._websocket: WebSocket | None = None
        # The writer sends nothing and waits for the bell.
        self._is_writer_idle = False
        self._is_flush_due = False
        # Of the message that the writer is to send to its end; 0 if there is none.
        self._begun_bytes = 0

    # What the session asks.

    def wake_writer(self) -> None:
        if self._is_flush_due:
            return
        if self._is_writer_idle and self._service.backend.defer(self._flush):
            self._is_flush_due = True
        else:
            self._output.ring()

    def wake_reader(self) -> None:
        self._room.ring()

    def on_greeted(self) -> None:
        self.stream.trust(self._service.wire_limits.max_message_bytes)

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:  # noqa: ANN401  the work's own
        self._nursery.start_soon(work, *args)

    def drop(self) -> None:
        """End it without a word."""
        self._nursery.cancel_scope.cancel()

    # Tasks.

    async def run(self, websocket: WebSocket) -> None:
        """Serve until either side ends it."""
        self._websocket = websocket
        self._nursery.start_soon(self._write, websocket)
        try:
            await websocket.wait_end()
        except LOST:
            self.drop()

    def _take(self, message: bytes) -> None:
        session = self.session
        self._service.backend.hold()
        try:
            session.take(message)
        except Exception:
            # A mistake of ours: it ends this connection, and is known by its name.
            session.crash()
            logger.exception("connection_failed address=%s client=%r", session.address, session.name)

    async def _wait_room(self) -> None:
        """Return once the session takes another message; no checkpoint if it does."""
        while self.session.is_full and self.session.closing is None:
            # The turn of what was taken may make room, and nothing else would take it.
            self._service.backend.release()
            await self._room.wait()

    def _on_breach(self, breach: Breach) -> None:
        self.session.break_off(RemoteProtocolError(breach.reason), CloseCode(breach.code))

    def _flush(self) -> None:
        """Send what is ready without waiting, and leave the rest to the writer."""
        self._is_flush_due = False
        if self._websocket is None or not self._is_writer_idle:
            self._output.ring()
        elif not self._send_nowait(self._websocket) or self.session.closing is not None:
            self._is_writer_idle = False
            self._output.ring()

    def _send_nowait(self, websocket: WebSocket) -> bool:
        """Send messages while the socket takes them; False if the writer has to finish one."""
        session = self.session
        while (message := session.next_message()) is not None:
            if not websocket.send_nowait(message):
                session.sending_since_s = self._service.clock()
                self._begun_bytes = len(message)
                return False
            session.on_sent(len(message))
        return True

    async def _write(self, websocket: WebSocket) -> None:
        session, output = self.session, self._output
        while True:
            if self._begun_bytes or not self._send_nowait(websocket):
                await websocket.finish()
                begun_bytes, self._begun_bytes = self._begun_bytes, 0
                session.sending_since_s = None
                session.on_sent(begun_bytes)
            elif session.closing is not None:
                await self._say_goodbye(websocket, session.closing)
                return
            else:
                self._is_writer_idle = True
                await output.wait()
                self._is_writer_idle = False

    async def _say_goodbye(self, websocket: WebSocket, closing: Closing) -> None:
        logger.info(
            "connection_closed address=%s client=%r code=%d reason=%r",
            self.session.address,
            self.session.name,
            closing.code,
            closing.reason,
        )
        self._service.measures.note_closed(closing.code)
        with trio.move_on_after(self._service.settings.timeouts.close_ms / 1000):
            await websocket.close(closing)
        self.drop()
