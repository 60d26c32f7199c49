"""One client's connection to a broker in memory: the real session, and calls for a socket."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, final

import trio

from logbroker.server.handlers import HANDLERS
from logbroker.server.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from logbroker.server.service import ClientService


@final
class MemoryConnection:
    """`on_output` tells that there may be something to take with `next_message`, or that the connection is over.

    It may be called at any time, under the broker's lock, and must not call back.
    """

    def __init__(self, service: ClientService, on_output: Callable[[], None]) -> None:
        self._on_output = on_output
        self._session = Session(service, self, HANDLERS, address="memory")

    @property
    def is_over(self) -> bool:
        """The session has said its last word, or was ended."""
        return self._session.closing is not None

    def take(self, message: bytes) -> None:
        """One message of the client."""
        self._session.take(message)

    def next_message(self) -> bytes | None:
        message = self._session.next_message()
        if message is not None:
            self._session.on_sent(len(message))
        return message

    def check_streams(self) -> None:
        """Partitions may be gone."""
        self._session.check_streams()

    def end(self) -> None:
        """The client is gone."""
        self._session.end()

    # The face of a transport.

    def wake_writer(self) -> None:
        self._on_output()

    def wake_reader(self) -> None: ...

    def on_greeted(self) -> None: ...

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:  # noqa: ANN401  the work's own
        """Carry it out. Nothing that it asks for waits, so it is done when this returns."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                trio.run(partial(work, *args))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="logbroker-memory")
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
