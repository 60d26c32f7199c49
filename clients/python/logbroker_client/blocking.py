"""The Python client of logbroker for code that blocks: as `logbroker_client`, name by name, without `await`.

with connect("ws://127.0.0.1:4100") as client:
    with client.producer("orders") as producer:
        message_id = producer.send(b"...")

Everything may be used by many threads at once. A face of each object of the asyncio client is all there is here: its
methods are made of those (`_blocking`), so that names, arguments and defaults cannot differ.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, Unpack, final

from typing_extensions import TypeVar

from logbroker.errors import LocalProtocolError, LogBrokerError
from logbroker_client import asyncio as coroutines
from logbroker_client.client import Position
from logbroker_client.dead import DeadMessages
from logbroker_client.delays import Cancelled
from logbroker_client.histories import MessageHistory
from logbroker_client.loop_thread import LoopThread
from logbroker_client.messages import (
    DeliveredBatch,
    DeliveredMessage,
    MessageId,
    NewMessage,
    extend_order,
    nack_order,
    reason_of,
    reject_order,
)
from logbroker_client.moves import RedriveProgress
from logbroker_client.peeking import PeekedMessage
from logbroker_client.queue_options import QueueOptions
from logbroker_client.settling import ACK

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from types import TracebackType

    from logbroker_client.codecs import MessageCodec
    from logbroker_client.endpoints import ConnectSettings
    from logbroker_client.inbox import ConsumerStatistics, Delivery
    from logbroker_client.settling import Order

__all__ = [
    "Cancelled",
    "Client",
    "Consumer",
    "DeadMessages",
    "Message",
    "MessageBatch",
    "MessageHistory",
    "MessageId",
    "NewMessage",
    "PeekedMessage",
    "Position",
    "Producer",
    "Queue",
    "QueueOptions",
    "RedriveProgress",
    "connect",
]

_T = TypeVar("_T")
_R = TypeVar("_R")
_F = TypeVar("_F")
_P = ParamSpec("_P")
_Sent = TypeVar("_Sent", default=bytes | bytearray | memoryview)
_Read = TypeVar("_Read", default=bytes)
_Read_co = TypeVar("_Read_co", covariant=True, default=bytes)


class _Face(Generic[_T]):
    """An object of the asyncio client, and the thread that it lives in."""

    def __init__(self, thread: LoopThread, inner: _T) -> None:
        self._thread = thread
        self._inner = inner


def _blocking(
    method: Callable[Concatenate[_T, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[_Face[_T], _P], _R]:
    """The method, run in the thread and waited for."""

    @wraps(method)
    def call(face: _Face[_T], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return face._thread.run(method(face._inner, *args, **kwargs))

    return call


def _making(
    method: Callable[Concatenate[_T, _P], _R], make: Callable[[LoopThread, _R], _F]
) -> Callable[Concatenate[_Face[_T], _P], _F]:
    """The method, which waits for nothing, and a face of what it gives."""

    @wraps(method)
    def call(face: _Face[_T], /, *args: _P.args, **kwargs: _P.kwargs) -> _F:
        return make(face._thread, method(face._inner, *args, **kwargs))

    return call


@contextmanager
def connect(url: str | Sequence[str], **settings: Unpack[ConnectSettings]) -> Iterator[Client]:
    """Connect to a cluster and give a client for the time of the block; as `logbroker_client.connect`.

    The client has one thread, in which its connections live; leaving the block joins it. The settings
    are those of `ConnectSettings`. A KeyboardInterrupt leaves what is under way with an unknown outcome.

    Raises:
        UnavailableError: no node answered within `timeout`; the message says what each said.
        UnauthenticatedError: the cluster does not take the token.
        ConfigurationError: an address that is none.
    """
    thread = LoopThread()
    with thread.running(coroutines.connect(url, **settings)) as inner:
        yield Client(thread, inner)


@final
class Message(DeliveredMessage[_Read_co]):
    """One delivered message, leased until it is settled or its hide time ends."""

    __slots__ = ()

    def _settle(self, order: Order) -> None:
        origin, offset = self._origin, self.offset
        origin.settling.settle(order, origin.partition, origin.lease, [(offset, offset + 1)])

    def __enter__(self) -> Self:
        """As `async with` of the other clients: ack at the end of the block, nack when an exception leaves it."""
        self._is_given_back = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if not self._is_given_back:
                self.ack()
        elif isinstance(error, Exception):
            with suppress(LogBrokerError):
                self.nack(reason=reason_of(error))
        else:
            self.give_back_nowait(error)

    def ack(self) -> None:
        """Settle it for good. Returns when that is committed; `ack_nowait` is faster for one after another.

        Raises:
            StaleLeaseError: the lease is over, and the message will be delivered again.
            UnknownOutcomeError: no answer in time.
        """
        self._settle(ACK)

    def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Have it delivered again after `delay` seconds, or as the queue's backoff says; as `ack` otherwise."""
        self._is_given_back = True
        self._settle(nack_order(delay, reason))

    def reject(self, *, reason: str = "") -> None:
        """Give it up: it is dead, and not delivered until somebody revives it; as `ack` otherwise."""
        self._is_given_back = True
        self._settle(reject_order(reason))

    def extend(self, hide: float) -> None:
        """Hide it for `hide` seconds from now; as `ack` otherwise."""
        self._settle(extend_order(hide))


@final
class MessageBatch(DeliveredBatch[Message[_Read_co]], Generic[_Read_co]):
    """The messages of one receive, in order of offset; opened when first looked into."""

    __slots__ = ()

    def __init__(self, settling: Consumer[_Read_co], delivery: Delivery) -> None:
        super().__init__(settling, delivery, Message)

    def settle(self, order: Order, ranges: list[tuple[int, int]]) -> None:
        self._settling.settle(order, self.partition, self.lease, ranges)

    def ack(self) -> None:
        """Settle all of them; as `Message.ack`. Those whose lease was current are settled in any case."""
        self.settle(ACK, self.ranges())

    def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Have all of them delivered again; as `Message.nack`."""
        self.settle(nack_order(delay, reason), self.ranges())

    def reject(self, *, reason: str = "") -> None:
        """Give all of them up."""
        self.settle(reject_order(reason), self.ranges())

    def extend(self, hide: float) -> None:
        """Hide all of them for `hide` seconds from now."""
        self.settle(extend_order(hide), self.ranges())


@final
class Producer(_Face[coroutines.Producer[_Sent]], Generic[_Sent]):
    """Sends messages to one queue; made by `Client.producer`, and used in a `with`."""

    @property
    def queue(self) -> str:
        return self._inner.queue

    @property
    def codec(self) -> MessageCodec[_Sent] | None:
        return self._inner.codec

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._inner.__aexit__(kind, error, trace))

    send = _blocking(coroutines.Producer.send)
    send_many = _blocking(coroutines.Producer.send_many)
    flush = _blocking(coroutines.Producer.flush)


@final
class Consumer(_Face[coroutines.Consumer[_Read]], Generic[_Read]):
    """Receives messages of one queue for one consumer group, in a `with`.

    It is made by `Client.consumer` or `Client.subscribe`.
    """

    def __init__(self, thread: LoopThread, inner: coroutines.Consumer[_Read]) -> None:
        super().__init__(thread, inner)
        self.queue = inner.queue
        self.codec = inner.codec
        # The batch that `for message` is in.
        self._batch: Iterator[Message[_Read]] = iter(())
        self._is_closed = False

    @property
    def stale_count(self) -> int:
        """Messages acked by `ack_nowait` whose lease was over: they are delivered again."""
        return self._inner.stale_count

    @property
    def unknown_count(self) -> int:
        """Messages acked by `ack_nowait` without a good answer: they may be delivered again."""
        return self._inner.unknown_count

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._inner.put_back(self._batch)
        self._thread.run(self._inner.__aexit__(kind, error, trace))

    # --- receiving ---

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message[_Read]:
        """The next message; waits as long as there is none."""
        for message in self._batch:
            return message
        while True:
            self._batch = iter(self.receive())
            for message in self._batch:
                return message

    def receive(self) -> MessageBatch[_Read]:
        """The messages of the next receive; waits as long as there are none."""
        return MessageBatch(self, self._thread.run(self._inner.receive()).delivery)

    def batches(self) -> Iterator[MessageBatch[_Read]]:
        """`for` over the messages of each receive: the least work for a message."""
        while True:
            yield self.receive()

    # --- settling ---

    ack = _blocking(coroutines.Consumer.ack)
    nack = _blocking(coroutines.Consumer.nack)
    reject = _blocking(coroutines.Consumer.reject)
    extend = _blocking(coroutines.Consumer.extend)
    flush = _blocking(coroutines.Consumer.flush)
    settle = _blocking(coroutines.Consumer.settle)

    def ack_nowait(self, messages: Sequence[DeliveredMessage[Any]]) -> None:
        """Settle messages soon; as `Message.ack_nowait`."""
        self._post(partial(self._inner.ack_nowait, list(messages)))

    def settle_nowait(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        self._post(partial(self._inner.settle_nowait, order, partition, lease, ranges))

    def ack_offset_nowait(self, partition: int, lease: int, offset: int) -> None:
        self._post(partial(self._inner.ack_offset_nowait, partition, lease, offset))

    def _post(self, action: Callable[[], None]) -> None:
        if self._is_closed:
            raise LocalProtocolError(f"the consumer of {self.queue} is not open", hint="use it inside `with`")
        self._thread.post(action)

    def statistics(self) -> ConsumerStatistics:
        async def look() -> ConsumerStatistics:
            return self._inner.statistics()

        return self._thread.run(look())


@final
class Queue(_Face[coroutines.Queue]):
    """The client's operations with the queue filled in."""

    @property
    def name(self) -> str:
        return self._inner.name

    describe = _blocking(coroutines.Queue.describe)
    delete = _blocking(coroutines.Queue.delete)
    rewind = _blocking(coroutines.Queue.rewind)
    skip_to = _blocking(coroutines.Queue.skip_to)
    cancel = _blocking(coroutines.Queue.cancel)
    create_group = _blocking(coroutines.Queue.create_group)
    describe_groups = _blocking(coroutines.Queue.describe_groups)
    describe_group = _blocking(coroutines.Queue.describe_group)
    delete_group = _blocking(coroutines.Queue.delete_group)
    pause_group = _blocking(coroutines.Queue.pause_group)
    resume_group = _blocking(coroutines.Queue.resume_group)
    purge = _blocking(coroutines.Queue.purge)


@final
class Client(_Face[coroutines.Client]):
    """A connected client; made by `connect`."""

    producer = _making(coroutines.Client.producer, Producer)
    consumer = _making(coroutines.Client.consumer, Consumer)
    subscribe = _making(coroutines.Client.subscribe, Consumer)
    queue = _making(coroutines.Client.queue, Queue)

    create_queue = _blocking(coroutines.Client.create_queue)
    alter_queue = _blocking(coroutines.Client.alter_queue)
    delete_queue = _blocking(coroutines.Client.delete_queue)
    list_queues = _blocking(coroutines.Client.list_queues)
    describe_queue = _blocking(coroutines.Client.describe_queue)
    create_group = _blocking(coroutines.Client.create_group)
    describe_groups = _blocking(coroutines.Client.describe_groups)
    describe_group = _blocking(coroutines.Client.describe_group)
    delete_group = _blocking(coroutines.Client.delete_group)
    pause_group = _blocking(coroutines.Client.pause_group)
    resume_group = _blocking(coroutines.Client.resume_group)
    purge = _blocking(coroutines.Client.purge)
    rewind = _blocking(coroutines.Client.rewind)
    skip_to = _blocking(coroutines.Client.skip_to)
    cancel = _blocking(coroutines.Client.cancel)
    peek = _blocking(coroutines.Client.peek)
    dead = _blocking(coroutines.Client.dead)
    revive = _blocking(coroutines.Client.revive)
    move = _blocking(coroutines.Client.move)
    redrive = _blocking(coroutines.Client.redrive)
    create_token = _blocking(coroutines.Client.create_token)
    delete_token = _blocking(coroutines.Client.delete_token)
    list_tokens = _blocking(coroutines.Client.list_tokens)
    status = _blocking(coroutines.Client.status)
