"""The producer on any event loop: waiting for room and for confirmations around `ProducerCore`."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, Self, cast, final

from typing_extensions import TypeVar

from logbroker.errors import InvalidArgumentError, LocalProtocolError
from logbroker_client.dedup import conflict, with_id
from logbroker_client.delays import AT_ONCE, delay_of
from logbroker_client.messages import KnownMessageId, MessageId, NewMessage
from logbroker_client.producing import RECORD_OVERHEAD_BYTES, OutgoingBatch, ProducerCore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from types import TracebackType

    from logbroker.record.batch import Headers
    from logbroker_client.client import Client
    from logbroker_client.codecs import MessageCodec
    from logbroker_client.dedup import DedupId
    from logbroker_client.delays import Delay
    from logbroker_client.options import ProducerOptions

_B = TypeVar("_B", default=bytes | bytearray | memoryview)

# A part of a list: its batch, the position of its first message there, and how many.
_Span = tuple[OutgoingBatch, int, int]


@final
class Producer(Generic[_B]):
    """Sends messages to one queue; made by `Client.producer`, and used in an `async with`.

    Leaving the block normally waits for everything that is unsettled; leaving it by an error or a
    cancellation gives up waiting, and what is on its way may still be committed.
    """

    def __init__(
        self, client: Client, queue: str, options: ProducerOptions, codec: MessageCodec[_B] | None = None
    ) -> None:
        self.queue = queue
        self.codec = codec
        self._client = client
        self._options = options
        self._core: ProducerCore | None = None
        self._is_closed = False
        self._wait_among = client.waits.among
        self._checkpoint = client.waits.checkpoint
        self._checkpoint_if_cancelled = client.waits.checkpoint_if_cancelled

    async def __aenter__(self) -> Self:
        """Raises NotFoundError when there is no such queue."""
        await self._client.load_queue(self.queue)
        self._client.core.watch(self.queue)
        self._core = ProducerCore(self._client.core, self.queue, self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core = self._core
        if core is None:
            return
        self._is_closed = True
        try:
            if error is None:
                await self._settle_all(core)
        finally:
            core.close()
            self._client.core.unwatch(self.queue)

    def _running(self) -> ProducerCore:
        if self._core is None or self._is_closed or self._client.core.is_closed:
            raise LocalProtocolError(f"the producer of {self.queue} is not open", hint="use it inside `async with`")
        return self._core

    async def send(
        self,
        value: _B | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        delay: float = 0.0,
        deliver_at: datetime | None = None,
        dedup_id: DedupId | None = None,
    ) -> MessageId:
        """Send one message and return when it is committed. `value` is for the codec, and bytes without one.

        With `delay`, in seconds, or `deliver_at`, with its zone, nobody gets it before that; at most the queue's
        retention less a second. It can be cancelled until then.

        With a `dedup_id`, at most 128 bytes, it is appended once, by whoever and however often it is sent, as long as
        the queue remembers the id: for five minutes, unless the queue says another time. Who sends it again gets the
        place of the first, and there `duplicate` is true. Without a key the id picks the partition. Delivered it may
        be more than once, like any message.

        Messages with the same key stay in order; so do those that one task sends one after another to
        the same partition. The best throughput comes from many tasks sending at once, or `send_many`.

        If it is cancelled the message may or may not be committed; either way it is whole.

        Raises:
            UnknownOutcomeError: no answer within the timeout: it may or may not be committed, or only later, behind
                what is sent after it. Sending it again can double it, unless it has a `dedup_id`.
            DedupConflictError: the id was used for a message with another value, key or header, or that was cancelled.
            UnavailableError: it was not committed, because nothing could be done within the timeout.
            RequestError: the server, or this client in its place, refuses it.
        """
        core = self._running()
        data: bytes | None
        if value is None:
            data = None
        elif isinstance(value, bytes) and self.codec is None:
            data = value
        else:
            data = self._encode(value)
        if dedup_id is not None:
            headers = with_id(headers, dedup_id)
        size_bytes = core.size_of(data, key, headers)
        later = AT_ONCE if not delay and deliver_at is None else delay_of(delay, deliver_at)
        await self._checkpoint_if_cancelled()
        if not core.reserve(size_bytes):
            await self._wait_for_room(core, size_bytes)
        batch = core.append(data, key, headers, size_bytes, later)
        position = batch.count - 1
        await self._wait_among(batch.waiters)
        if batch.error is not None:
            raise_failure(batch)
        if batch.known is not None:
            return self._known_id(batch, position)
        return MessageId(self.queue, batch.partition, batch.base_offset + position)

    def _known_id(self, batch: OutgoingBatch, position: int) -> MessageId:
        """The id of a message of a batch in which some were known."""
        known = batch.known or {}
        if position not in known:
            return MessageId(self.queue, batch.partition, batch.base_offset + position)
        first = known[position]
        if first is None:
            raise conflict()
        return KnownMessageId(self.queue, batch.partition, first)

    async def _wait_for_room(self, core: ProducerCore, size_bytes: int) -> None:
        """Wait until `size_bytes` are reserved. Cancelled, nothing is."""
        await self._wait_among(core.room_waiters, size_bytes, undo=partial(core.release, size_bytes))
        self._running()

    def _encode(self, value: object) -> bytes:
        # The codec is for what `send` takes.
        codec: MessageCodec[Any] | None = self.codec
        return _to_bytes(value) if codec is None else codec.encode(value)

    async def send_many(
        self, messages: Iterable[_B | NewMessage[_B]], *, delay: float = 0.0, deliver_at: datetime | None = None
    ) -> list[MessageId]:
        """Send messages together and return their ids, in order, when all are committed.

        `delay` and `deliver_at` are as in `send`, and of all of them.

        They are not one transaction: an error, or being cancelled, leaves some committed and others
        not. Raises the first error, as `send` does; a conflict of one `dedup_id` concerns no other message.
        """
        core = self._running()
        later = delay_of(delay, deliver_at)
        spans: list[_Span] = []
        # The caller's list may change while this waits.
        listed = list(messages) if self.codec is None else [self._encoded(message) for message in messages]
        await self._checkpoint_if_cancelled()
        if set(map(type, listed)) == {bytes}:
            await self._append_values(core, cast("list[bytes]", listed), spans, later)
        else:
            for message in listed:
                await self._append(core, message, spans, later)
        for batch, _, _ in spans:
            if not batch.is_done:
                await self._wait_among(batch.waiters)
        if not spans:
            await self._checkpoint()
        return self._ids(spans)

    def _encoded(self, message: _B | NewMessage[_B]) -> bytes | NewMessage:
        if not isinstance(message, NewMessage):
            return self._encode(message)
        value = None if message.value is None else self._encode(message.value)
        return NewMessage(value, message.key, message.headers, message.dedup_id)

    async def _append(self, core: ProducerCore, message: object, spans: list[_Span], later: Delay) -> None:
        if not isinstance(message, NewMessage):
            message = NewMessage(_to_bytes(message))
        headers = message.headers if message.dedup_id is None else with_id(message.headers, message.dedup_id)
        size_bytes = core.size_of(message.value, message.key, headers)
        if not core.reserve(size_bytes):
            await self._wait_for_room(core, size_bytes)
        batch = core.append(message.value, message.key, headers, size_bytes, later)
        spans.append((batch, batch.count - 1, 1))

    async def _append_values(
        self, core: ProducerCore, values: Sequence[bytes], spans: list[_Span], later: Delay
    ) -> None:
        """In pieces that fit into one batch each."""
        total_bytes = sum(map(len, values)) + RECORD_OVERHEAD_BYTES * len(values)
        if total_bytes <= core.batch_bytes and len(values) <= core.max_count:
            await self._append_piece(core, values, total_bytes, spans, later)
            return
        start = piece_bytes = 0
        for position, value in enumerate(values):
            size_bytes = core.size_of(value, None, ())
            is_full = piece_bytes + size_bytes > core.batch_bytes or position - start >= core.max_count
            if is_full and position > start:
                await self._append_piece(core, values[start:position], piece_bytes, spans, later)
                start, piece_bytes = position, 0
            piece_bytes += size_bytes
        await self._append_piece(core, values[start:], piece_bytes, spans, later)

    async def _append_piece(
        self, core: ProducerCore, values: Sequence[bytes], size_bytes: int, spans: list[_Span], later: Delay
    ) -> None:
        if not core.reserve(size_bytes):
            await self._wait_for_room(core, size_bytes)
        batch = core.append_values(values, size_bytes, later)
        spans.append((batch, batch.count - len(values), len(values)))

    def _ids(self, spans: list[_Span]) -> list[MessageId]:
        ids: list[MessageId] = []
        for batch, position, count in spans:
            if batch.error is not None:
                raise_failure(batch)
            if batch.known is not None:
                ids += [self._known_id(batch, place) for place in range(position, position + count)]
                continue
            base = batch.base_offset + position
            # What MessageId(...) does in the end, without its Python frame.
            fields = zip(repeat(self.queue), repeat(batch.partition), range(base, base + count))
            ids += map(tuple.__new__, repeat(MessageId), fields)
        return ids

    async def flush(self) -> None:
        """Wait until everything sent before this call is settled. Errors are raised by the sends themselves."""
        await self._settle_all(self._running())

    async def _settle_all(self, core: ProducerCore) -> None:
        await self._checkpoint()
        for batch in core.unsettled():
            if not batch.is_done:
                await self._wait_among(batch.waiters)


def raise_failure(batch: OutgoingBatch) -> None:
    error = batch.failure()
    if error is not None:
        raise error


def _to_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise InvalidArgumentError(f"a message is bytes, not {type(value).__name__}", hint="encode it first")
