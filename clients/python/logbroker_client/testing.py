"""A broker in memory for the unit tests of those who use the client: the real one, without sockets, disk and waiting.

broker = MemoryBroker()
broker.create_queue("orders", hide=30.0)
async with broker.connect() as client:
    ...  # what is tested
    broker.advance(31.0)  # and the message is delivered again

This is the one module of the client that uses more of `logbroker` than its protocol (`logbroker.memory`).
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Protocol, Unpack, final

import trio

from logbroker.errors import InvalidArgumentError, LogBrokerError, UnavailableError
from logbroker.memory import broker as memory
from logbroker_client import asyncio as coroutines
from logbroker_client import asyncio_transport, blocking, transport, trio_connect
from logbroker_client.core import ClientCore
from logbroker_client.endpoints import options_of
from logbroker_client.loop_thread import LoopThread
from logbroker_client.pending import Environment
from logbroker_client.queue_options import QueueOptions, queue_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from logbroker.memory.connection import MemoryConnection
    from logbroker.record.batch import Record
    from logbroker_client.client import Client
    from logbroker_client.endpoints import ConnectSettings
    from logbroker_client.links import Link
    from logbroker_client.options import ClientOptions

__all__ = ["Counts", "MemoryBroker"]

_TURN_S = 1.0


@final
@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a queue are in which state, for one consumer group."""

    available: int
    leased: int
    delayed: int
    """Sent for later, or nacked with a delay, and not received since that is over."""

    @property
    def unsettled(self) -> int:
        return self.available + self.leased + self.delayed


@final
class MemoryBroker:
    """One node in memory. Its clock stands still, for it and for its clients, until `advance`.

    Nothing that takes time happens by itself: not the end of a hide time, of a delay, of a `linger` or
    of a timeout. Clients of all three kinds may be connected at the same time, and everything may be
    called from any thread. `start` is the time at first; the same in every run by default.
    """

    def __init__(self, *, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            raise InvalidArgumentError(f"{start} has no time zone", hint="datetime.now(tz=UTC), for instance")
        start_ms = memory.DEFAULT_START_MS if start is None else round(start.timestamp() * 1000)
        self._broker = memory.MemoryBroker(start_ms=start_ms)
        # Chance and ids are the same in each run too.
        self._chance = random.Random(0)
        self._ids = count(1)
        self._transports: dict[_Transport, None] = {}

    @property
    def now(self) -> datetime:
        """The time of its clock, with which messages are stamped."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._broker.now_ms())

    def advance(self, seconds: float) -> None:
        """Let time pass, in its order: what runs out in between does so, and clients go on meanwhile.

        What waits in a task goes on once this task waits.
        """
        self._broker.advance(round(seconds * 1000), self._take_turns)

    def _take_turns(self) -> None:
        for connected in list(self._transports):
            connected.take_turn()

    def create_queue(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: timedelta = timedelta(days=4),
        hide: float = 30.0,
        max_wait: float = 30.0,
        max_deliveries: int = 0,
        **options: Unpack[QueueOptions],
    ) -> None:
        """As `Client.create_queue`, without a client."""
        settings = queue_settings(partitions, retention, hide, max_wait, max_deliveries, options)
        self._broker.create_queue(name, settings)

    def counts(self, queue: str, *, group: str = "default") -> Counts:
        """How many messages are in which state, over all partitions.

        Raises:
            NotFoundError: there is no such queue or consumer group.
        """
        rows = self._broker.counts(queue, group)
        return Counts(
            available=sum(row.available_count for row in rows),
            leased=sum(row.leased_count for row in rows),
            delayed=sum(row.delayed_count for row in rows),
        )

    def records(self, queue: str) -> list[Record]:
        """All messages that the queue retains, settled or not: partition by partition, in order.

        Raises:
            NotFoundError: there is no such queue.
        """
        return [record for records in self._broker.records(queue) for record in records]

    # --- clients ---

    @asynccontextmanager
    async def connect(self, **settings: Unpack[ConnectSettings]) -> AsyncIterator[Client]:
        """A client on trio, as `logbroker_client.connect` gives it."""
        connected = self._transport(options_of(settings), transport.new_scheduler_wake(), _TrioBell())
        async with trio_connect.held(connected.core, connected) as client:
            yield client

    @asynccontextmanager
    async def connect_asyncio(self, **settings: Unpack[ConnectSettings]) -> AsyncIterator[Client]:
        """A client on asyncio, as `logbroker_client.asyncio.connect` gives it."""
        connected = self._transport(options_of(settings), asyncio_transport.wake, _AsyncioBell())
        async with coroutines.held(connected.core, connected) as client:
            yield client

    @contextmanager
    def connect_blocking(self, **settings: Unpack[ConnectSettings]) -> Iterator[blocking.Client]:
        """A client that blocks, as `logbroker_client.blocking.connect` gives it."""
        thread = LoopThread()
        with thread.running(self.connect_asyncio(**settings)) as inner:
            yield blocking.Client(thread, inner)

    def _transport(self, options: ClientOptions, wake: Callable[[dict[object, None]], None], bell: _Bell) -> _Transport:
        environment = Environment(
            clock=self._broker.now_s,
            wall_ms=self._broker.now_ms,
            chance=self._chance.random,
            new_id=lambda: next(self._ids),
            wake=wake,
            on_work=bell.ring,
        )
        core = ClientCore([memory.URL], env=environment, options=options)
        return _Transport(self._broker, core, bell, self._transports)


class _Bell(Protocol):
    """Wakes the task that takes turns."""

    def ring(self) -> None:
        """May be called from any thread."""
        ...

    async def wait(self) -> None: ...


@final
class _Transport:
    """Joins the core of one client to the broker by calls. While it runs it is one of `others`."""

    def __init__(
        self, broker: memory.MemoryBroker, core: ClientCore, bell: _Bell, others: dict[_Transport, None]
    ) -> None:
        self.core = core
        self._broker = broker
        self._bell = bell
        self._others = others
        self._connections: dict[Link, MemoryConnection] = {}
        # It is made in the thread of its loop.
        self._thread = threading.get_ident()
        self._wanted: list[threading.Event] = []
        self._is_closing = False

    def take_turn(self) -> None:
        """Have a turn taken, from any thread."""
        if threading.get_ident() == self._thread:
            self.turn()
            return
        taken = threading.Event()
        self._wanted.append(taken)
        self._bell.ring()
        # A loop that is held up, perhaps by who waits here, takes its turn when it can.
        taken.wait(_TURN_S)

    async def run(self) -> None:
        """Take a turn whenever the bell rings."""
        with self._broker.lock:
            self._others[self] = None
        try:
            while not self._is_closing:
                self.turn()
                await self._bell.wait()
        finally:
            with self._broker.lock:
                del self._others[self]
                for link in list(self._connections):
                    self._lose(link, UnavailableError("the client is closed"))

    def close(self) -> None:
        """Send what there is, and let `run` return."""
        self.turn()
        self._is_closing = True
        self._bell.ring()

    def turn(self) -> None:
        """Let everything happen that can happen without time."""
        core = self.core
        with self._broker.turn():
            # Answers that are there come before deadlines, however far the clock was moved.
            self._exchange_all()
            for link in self._connections:
                # A broker in memory is never silent.
                link.heard_at = self._broker.now_s()
            core.run_timers()
            self._exchange_all()
        wanted, self._wanted = self._wanted, []
        for taken in wanted:
            taken.set()

    def _exchange_all(self) -> None:
        is_busy = True
        while is_busy:
            for link in self.core.take_dials():
                self._dial(link)
            self.core.pump()
            is_busy = any([self._exchange(*pair) for pair in list(self._connections.items())])

    def _dial(self, link: Link) -> None:
        self._connections[link] = self._broker.open(self._bell.ring)
        link.wake = self._bell.ring
        link.abort = lambda: self._lose(link, UnavailableError("the connection is gone"))
        self.core.link_connected(link)

    def _exchange(self, link: Link, connection: MemoryConnection) -> bool:
        """Carry messages both ways; give whether there were any."""
        is_busy = False
        protocol = link.protocol
        while protocol is not None and (message := protocol.next_message()) is not None:
            is_busy = True
            connection.take(message)
        try:
            while (message := connection.next_message()) is not None:
                is_busy = True
                self.core.received(link, message)
        except LogBrokerError as error:
            self._lose(link, error)
        else:
            if connection.is_over:
                self._lose(link, UnavailableError("the connection ended"))
        return is_busy

    def _lose(self, link: Link, error: LogBrokerError) -> None:
        connection = self._connections.pop(link, None)
        if connection is not None:
            self._broker.close(connection)
            self.core.link_lost(link, error)


@final
class _TrioBell:
    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def ring(self) -> None:
        # The loop may be over while the clock goes on.
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


@final
class _AsyncioBell:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        # As above.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()
