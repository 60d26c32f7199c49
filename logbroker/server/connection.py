"""One client connection on trio: a reader, a writer, and the end that both come to.

The stream hands whole messages to the session, in the task of the library's reader, and reads no more while the
session is full. The writer is the one task that sends: it takes everything that is ready, joined into messages of up to
256 KiB. Nothing here decides anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn, final

import trio

from logbroker.errors import RemoteProtocolError
from logbroker.server.closing import CloseCode, Closing
from logbroker.server.data_stream import DataStream
from logbroker.server.handlers import HANDLERS
from logbroker.server.session import Session
from logbroker.server.websocket import LOST, TextMessageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from logbroker.server.service import ClientService
    from logbroker.server.websocket import WebSocket

logger = logging.getLogger(__name__)


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

    async def wait(self) -> None:
        """Return when it is rung, at once if it was already; a checkpoint in any case."""
        if self._is_rung:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._is_rung = False

    def _abort(self, _: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


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
    ) -> None:
        self.session = Session(service, self, HANDLERS, address=address)
        self.stream = DataStream(
            stream, head, allowance_bytes=allowance_bytes, take=self._take, wait_room=self._wait_room
        )
        self._service = service
        self._nursery = nursery
        self._output = Bell()
        self._room = Bell()

    # What the session asks.

    def wake_writer(self) -> None:
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
        session = self.session
        self._nursery.start_soon(self._write, websocket)
        try:
            await self._read(websocket)
        except TextMessageError as error:
            session.break_off(error, CloseCode.UNSUPPORTED_DATA)
        except RemoteProtocolError as error:
            session.break_off(error, CloseCode.BAD_REQUEST)
        except LOST:
            self.drop()
        # The writer says goodbye.
        await trio.sleep_forever()

    def _take(self, message: bytes) -> None:
        session = self.session
        try:
            session.take(message)
        except Exception:
            # A mistake of ours: it ends this connection, and is known by its name.
            session.crash()
            logger.exception("connection_failed address=%s client=%r", session.address, session.name)

    async def _wait_room(self) -> None:
        """Return once the session takes another message; no checkpoint if it does."""
        while self.session.is_full and self.session.closing is None:
            await self._room.wait()

    async def _read(self, websocket: WebSocket) -> None:
        """Take what the stream did not: the end, and odd messages, behind which the stream gives none any more."""
        while self.session.closing is None:
            self._take(await websocket.receive())
            await self._wait_room()

    async def _write(self, websocket: WebSocket) -> None:
        session, output = self.session, self._output
        while True:
            message = session.next_message()
            if message is not None:
                session.sending_since_s = self._service.clock()
                await websocket.send(message)
                session.sending_since_s = None
                session.on_sent(len(message))
            elif session.closing is not None:
                await self._say_goodbye(websocket, session.closing)
                return
            else:
                await output.wait()

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
