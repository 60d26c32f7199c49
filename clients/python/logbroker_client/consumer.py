"""The consumer on any event loop: waiting for messages and for the outcome of acks around `ConsumerCore`."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Self, final

from typing_extensions import TypeVar

from logbroker.errors import LocalProtocolError
from logbroker_client.consuming import ConsumerCore
from logbroker_client.messages import DeliveredMessage, Message, MessageBatch, extend_order, nack_order, reject_order
from logbroker_client.options import ConsumerOptions, SubscriptionOptions
from logbroker_client.settling import ACK, count_of, join_ranges
from logbroker_client.streaming import StreamCore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from types import TracebackType

    from logbroker_client.calls import Call
    from logbroker_client.client import Client
    from logbroker_client.codecs import MessageCodec
    from logbroker_client.inbox import ConsumerStatistics
    from logbroker_client.settling import Order, SettleBatch

_B = TypeVar("_B", default=bytes)

# How many acks without a waiter are remembered for their outcome, before the settled ones are swept.
_MAX_REMEMBERED_COUNT = 256


@final
class Consumer(Generic[_B]):
    """Receives messages of one queue for one consumer group; made by `Client.consumer` or `Client.subscribe`.

    A message that is delivered is hidden from the others of the group for the hide time; settle it
    within that with `ack`, or it is delivered again. Leaving the block sends the acks that are due, gives
    back at once what was fetched ahead, and leaves what the application took and did not settle to its
    hide time. A cancellation leaves without waiting for any of that.
    """

    def __init__(
        self,
        client: Client,
        queue: str,
        options: ConsumerOptions | SubscriptionOptions,
        codec: MessageCodec[_B] | None = None,
    ) -> None:
        self.queue = queue
        self.codec = codec
        self.stale_count = 0
        """Messages acked by `ack_nowait` whose lease was over: they are delivered again."""
        self.unknown_count = 0
        """Messages acked by `ack_nowait` without a good answer: they may be delivered again."""
        self._client = client
        self._options = options
        self._core: ConsumerCore | StreamCore | StreamCore | None = None
        self._is_closed = False
        self._wait_among = client.waits.among
        self._checkpoint = client.waits.checkpoint
        # The batch that `async for message` is in.
        self._batch: Iterator[Message[_B]] = iter(())
        # What others took out of batches and showed to nobody.
        self._unseen: list[DeliveredMessage[Any]] = []
        # (batch, lease, ranges) of acks that nobody waits for.
        self._unwatched: list[tuple[SettleBatch, int, list[tuple[int, int]]]] = []
        # (batch, partition, lease, ranges) of the last of them.
        self._last: tuple[SettleBatch, int, int, list[tuple[int, int]]] | None = None

    async def __aenter__(self) -> Self:
        """Raises NotFoundError when there is no such queue."""
        await self._client.load_queue(self.queue)
        client, options = self._client.core, self._options
        if isinstance(options, ConsumerOptions):
            self._core = ConsumerCore(client, self.queue, options)
        else:
            self._core = StreamCore(client, self.queue, options)
        client.watch(self.queue)
        self._core.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core = self._core
        if core is None:
            return
        self._is_closed = True
        try:
            for partition, lease, ranges in _grouped(chain(self._batch, self._unseen)):
                # Taken from the server, shown to nobody.
                self._put(core, nack_order(0.0, "consumer closed"), partition, lease, ranges)
            releases = core.close()
            if error is None or isinstance(error, Exception):
                # After an error there is less patience: the acks matter, but so does the error.
                patience_s = self._options.timeout_s if error is None else self._client.core.options.close_timeout_s
                await self._client.waits.within(patience_s, partial(self._leave, core, releases))
        finally:
            self._client.core.unwatch(self.queue)

    def put_back(self, messages: Iterable[DeliveredMessage[Any]]) -> None:
        """Messages that were taken and that nobody has seen: leaving the block has them delivered again at once."""
        self._unseen.extend(messages)

    async def _leave(self, core: ConsumerCore | StreamCore, releases: list[Call]) -> None:
        await self._settle_all(core)
        for call in releases:
            if not call.is_done:
                await self._wait_among(call.waiters)

    def _running(self) -> ConsumerCore | StreamCore:
        if self._core is None or self._is_closed or self._client.core.is_closed:
            raise LocalProtocolError(f"the consumer of {self.queue} is not open", hint="use it inside `async with`")
        return self._core

    def statistics(self) -> ConsumerStatistics:
        return self._running().statistics()

    # --- receiving ---

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[_B]:
        """The next message; waits as long as there is none. A checkpoint once for each batch.

        Raises:
            LogBrokerError: the queue or the consumer group is gone, or the client may not read it.
        """
        for message in self._batch:
            return message
        while True:
            batch = await self.receive()
            self._batch = iter(batch)
            for message in self._batch:
                return message

    async def receive(self) -> MessageBatch[_B]:
        """The messages of the next receive; waits as long as there are none."""
        core = self._running()
        await self._checkpoint()
        while True:
            delivery = core.take()
            if delivery is not None:
                return MessageBatch(self, delivery)
            error = core.inbox.error
            if error is not None:
                raise type(error)(error.message, hint=error.hint)
            # The block may have ended while this waited.
            self._running()
            await self._wait_among(core.inbox.waiters)

    def batches(self) -> AsyncIterator[MessageBatch[_B]]:
        """`async for` over the messages of each receive: the least work for a message."""
        return _Batches(self)

    # --- settling ---

    async def ack(self, messages: Iterable[DeliveredMessage[Any]]) -> None:
        """Settle messages for good, with as few requests as their leases allow; as `Message.ack`."""
        await self._settle_messages(ACK, messages)

    def ack_nowait(self, messages: Iterable[DeliveredMessage[Any]]) -> None:
        """Settle messages soon; as `Message.ack_nowait`."""
        for partition, lease, ranges in _grouped(messages):
            self.settle_nowait(ACK, partition, lease, ranges)

    async def nack(
        self, messages: Iterable[DeliveredMessage[Any]], *, delay: float | None = None, reason: str = ""
    ) -> None:
        """Have messages delivered again after `delay` seconds, or as the queue's backoff says."""
        await self._settle_messages(nack_order(delay, reason), messages)

    async def reject(self, messages: Iterable[DeliveredMessage[Any]], *, reason: str = "") -> None:
        """Give messages up; as `Message.reject`."""
        await self._settle_messages(reject_order(reason), messages)

    async def extend(self, messages: Iterable[DeliveredMessage[Any]], hide: float) -> None:
        """Hide messages for `hide` seconds from now."""
        await self._settle_messages(extend_order(hide), messages)

    async def _settle_messages(self, order: Order, messages: Iterable[DeliveredMessage[Any]]) -> None:
        core = self._running()
        put = [
            (core.inbox.settlers[partition].add(order, lease, ranges), lease, ranges)
            for partition, lease, ranges in _grouped(messages)
        ]
        if not put:
            await self._checkpoint()
        for batch, _, _ in put:
            if not batch.is_done:
                await self._wait_among(batch.waiters)
        for batch, lease, ranges in put:
            error = batch.failure(lease, ranges)
            if error is not None:
                raise error

    async def settle(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        """What `Message.ack` and its like come down to."""
        batch = self._running().inbox.settlers[partition].add(order, lease, ranges)
        await self._wait_among(batch.waiters)
        error = batch.failure(lease, ranges)
        if error is not None:
            raise error

    def settle_nowait(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        self._put(self._running(), order, partition, lease, ranges)

    def ack_offset_nowait(self, partition: int, lease: int, offset: int) -> None:
        """What `Message.ack_nowait` comes down to: mostly the message after the last one that was acked."""
        last = self._last
        if last is not None:
            batch, last_partition, last_lease, known = last
            # Whatever closes the consumer or the client closes what is gathered.
            if batch.is_open and last_lease == lease and last_partition == partition and not self._is_closed:
                ranges = batch.ranges[lease]
                if ranges[-1][1] == offset == known[-1][1]:
                    ranges[-1] = (ranges[-1][0], offset + 1)
                    known[-1] = (known[-1][0], offset + 1)
                    return
        self._put(self._running(), ACK, partition, lease, [(offset, offset + 1)])

    def _put(
        self, core: ConsumerCore | StreamCore, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]
    ) -> None:
        batch = core.inbox.settlers[partition].add(order, lease, ranges)
        unwatched = self._unwatched
        if unwatched:
            last_batch, last_lease, known = unwatched[-1]
            if last_batch is batch and last_lease == lease:
                # Mostly the next message of the same lease.
                start, end = known[-1]
                if end == ranges[0][0] and len(ranges) == 1:
                    known[-1] = (start, ranges[0][1])
                else:
                    known.extend(ranges)
                return
        known = list(ranges)
        unwatched.append((batch, lease, known))
        if order is ACK:
            self._last = batch, partition, lease, known
        if len(unwatched) > _MAX_REMEMBERED_COUNT:
            self._sweep()

    def _sweep(self) -> None:
        """Count what became of acks that nobody waits for."""
        for batch, lease, ranges in self._unwatched:
            if not batch.is_done or batch.order is not ACK:
                continue
            if batch.error is not None:
                self.unknown_count += count_of(ranges)
            else:
                self.stale_count += batch.stale_count(lease, ranges)
        self._unwatched = [entry for entry in self._unwatched if not entry[0].is_done]

    async def flush(self) -> None:
        """Wait until every ack given so far has its outcome."""
        await self._settle_all(self._running())

    async def _settle_all(self, core: ConsumerCore | StreamCore) -> None:
        await self._checkpoint()
        for settler in core.inbox.settlers:
            for batch in settler.unsettled():
                if not batch.is_done:
                    await self._wait_among(batch.waiters)
        self._sweep()


def _grouped(messages: Iterable[DeliveredMessage[Any]]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Messages as (partition, lease, ranges of offsets)."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for message in messages:
        ranges = found.setdefault((message.partition, message.lease), [])
        offset = message.offset
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return [(partition, lease, join_ranges(ranges)) for (partition, lease), ranges in found.items()]


@final
class _Batches(Generic[_B]):
    def __init__(self, consumer: Consumer[_B]) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageBatch[_B]:
        return await self._consumer.receive()
