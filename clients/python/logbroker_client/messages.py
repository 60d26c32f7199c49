"""Messages as the application sees them, and the opening of what a receive brought.

A record that cannot be read is a message all the same: it has its place, can be settled, and raises when
its content is asked for. Nothing is skipped in silence.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, Self, cast, final, overload

from typing_extensions import TypeVar

from logbroker.errors import CorruptBatchError, InvalidArgumentError, LogBrokerError, RequestTooLargeError
from logbroker.record.batch import DEFAULT_LIMITS, Record, read_batch
from logbroker.record.records import with_history_room
from logbroker_client.settling import ACK, Order, Verb, join_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from logbroker.record.batch import Headers
    from logbroker.wire.requests import BatchPart
    from logbroker_client.codecs import MessageCodec
    from logbroker_client.dedup import DedupId
    from logbroker_client.histories import MessageHistory
    from logbroker_client.inbox import Delivery

# What a codec makes of the value of a message; without a codec it is the value.
_B_co = TypeVar("_B_co", covariant=True, default=bytes)
_M = TypeVar("_M", bound="DeliveredMessage[Any]")

_OFFSET_BITS = 48
_READ_LIMITS = with_history_room(DEFAULT_LIMITS)
MAX_REASON_LENGTH = 256
"""In characters. Nodes refuse a longer one, and a message must not stay hidden because an error was long."""


class MessageId(NamedTuple):
    """Where a message is; it is written `queue/partition/offset`."""

    queue: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.queue}/{self.partition}/{self.offset}"

    @property
    def duplicate(self) -> bool:
        """Whether a send found its `dedup_id` known: this is the first message of that id, and no other was made."""
        return False

    @property
    def number(self) -> int:
        """Partition and offset in 64 bits, as the CMQ API writes ids."""
        return self.partition << _OFFSET_BITS | self.offset

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """Read the written form.

        Raises:
            InvalidArgumentError: it is another.
        """
        queue, _, rest = text.rpartition("/")
        queue, _, partition = queue.rpartition("/")
        if not (queue and partition.isdecimal() and rest.isdecimal()):
            raise InvalidArgumentError(f"{text!r} is no message id, which reads queue/partition/offset")
        return cls(queue, int(partition), int(rest))


@final
class KnownMessageId(MessageId):
    """The id that a send gives of a message which was there before; as a tuple it is like any other."""

    __slots__ = ()

    @property
    def duplicate(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class NewMessage(Generic[_B_co]):
    """A message to send. `value` is for the producer's codec; None deletes its key once the queue is compacted.

    `dedup_id` is as in `Producer.send`.
    """

    value: _B_co | None
    key: bytes | None = None
    headers: Headers = ()
    dedup_id: DedupId | None = None


class SettlingNowait(Protocol):
    """What messages of all kinds need of their consumer."""

    queue: str
    codec: MessageCodec[Any] | None

    def settle_nowait(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None: ...

    def ack_offset_nowait(self, partition: int, lease: int, offset: int) -> None: ...


class Settling(SettlingNowait, Protocol):
    """What messages of coroutines need of it."""

    async def settle(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None: ...


@final
class Origin:
    """What the messages of one receive have in common. They hold this and not their batch, which holds them:
    a circle would keep all of them in memory until Python's collector comes along."""

    __slots__ = ("codec", "lease", "partition", "queue", "settling")

    def __init__(self, settling: SettlingNowait, partition: int, lease: int) -> None:
        self.queue = settling.queue
        self.codec = settling.codec
        self.partition = partition
        self.lease = lease
        # How it waits is known to the messages that are made for it: one kind for coroutines, one for blocking code.
        self.settling: Any = settling


class DeliveredMessage(Generic[_B_co]):
    """What a message holds, whatever its kind of consumer. Each kind adds how to settle it and wait for that."""

    # `_is_given_back` is set only by those who need it.
    __slots__ = ("_content", "_is_given_back", "_origin", "append_ms", "deliveries", "offset")

    def __init__(
        self, origin: Origin, offset: int, deliveries: int, append_ms: int, content: Record | LogBrokerError
    ) -> None:
        self.offset = offset
        self.deliveries = deliveries
        """How often it was delivered since the last rewind, this time included."""
        self.append_ms = append_ms
        """When it entered the log, in ms since 1970 on the log's clock; 0 where that is lost."""
        self._origin = origin
        self._content = content

    def __repr__(self) -> str:
        state = " corrupt" if isinstance(self._content, LogBrokerError) else ""
        return f"<Message {self.id} delivery {self.deliveries}{state}>"

    @property
    def corrupt(self) -> LogBrokerError | None:
        """Why the content cannot be read; None when it can."""
        content = self._content
        return content if isinstance(content, LogBrokerError) else None

    def _record(self) -> Record:
        content = self._content
        if isinstance(content, LogBrokerError):
            raise CorruptBatchError(f"{self.id} cannot be read: {content.message}", hint=content.hint)
        return content

    @property
    def value(self) -> bytes | None:
        """As it was sent; None only if None was.

        Raises:
            CorruptBatchError: it cannot be read. So do `key`, `headers` and `timestamp_ms`.
        """
        content = self._content
        return content.value if type(content) is Record else self._record().value

    @property
    def body(self) -> _B_co:
        """The value, as the consumer's codec reads it each time; without a codec, the value as it is.

        Raises:
            CorruptBatchError: it cannot be read.
            InvalidArgumentError: there is none, as None was sent.
            Exception: what the codec raises for a value that it cannot read.
        """
        value = self._record().value
        if value is None:
            raise InvalidArgumentError(f"{self.id} deletes its key, and has no body", hint="look at `value` first")
        codec = self._origin.codec
        # Without a codec the type is that of values.
        return cast("_B_co", value if codec is None else codec.decode(value))

    @property
    def key(self) -> bytes | None:
        return self._record().key

    @property
    def headers(self) -> Headers:
        return self._record().headers

    @property
    def history(self) -> MessageHistory | None:
        """Where it was first and how it died, if it was moved here from another queue, as the dead are.

        Raises:
            CorruptBatchError: it cannot be read.
        """
        # Which needs the ids of this module.
        from logbroker_client.histories import history_of

        return history_of(self._record().headers)

    @property
    def timestamp_ms(self) -> int:
        """The producer's clock when it took the message; only data, unlike `append_ms`."""
        return self._record().timestamp_ms

    @property
    def queue(self) -> str:
        return self._origin.queue

    @property
    def partition(self) -> int:
        return self._origin.partition

    @property
    def lease(self) -> int:
        return self._origin.lease

    @property
    def id(self) -> MessageId:
        return MessageId(self._origin.queue, self._origin.partition, self.offset)

    def ack_nowait(self) -> None:
        """Settle it soon; the consumer waits for the outcome when it closes, and counts what was stale."""
        origin = self._origin
        origin.settling.ack_offset_nowait(origin.partition, origin.lease, self.offset)

    def give_back_nowait(self, error: BaseException) -> None:
        """Have it delivered again, as far as that can be had without waiting."""
        origin, offset = self._origin, self.offset
        with suppress(LogBrokerError):
            order = nack_order(0.0, reason_of(error))
            origin.settling.settle_nowait(order, origin.partition, origin.lease, [(offset, offset + 1)])


@final
class Message(DeliveredMessage[_B_co]):
    """One delivered message, leased until it is settled or its hide time ends."""

    __slots__ = ()

    async def _settle(self, order: Order) -> None:
        origin, offset = self._origin, self.offset
        await origin.settling.settle(order, origin.partition, origin.lease, [(offset, offset + 1)])

    async def __aenter__(self) -> Self:
        """Ack the message when the block ends, and nack it when an exception leaves the block, which goes on.

        A message that was nacked inside the block is left alone. A cancellation gives it back without waiting.

        Raises:
            StaleLeaseError: at the end of the block, when the hide time was too short: it is delivered again.
        """
        self._is_given_back = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if not self._is_given_back:
                await self.ack()
        elif isinstance(error, Exception):
            # It comes again in any case, at the end of the hide time; what went wrong in the block matters more.
            with suppress(LogBrokerError):
                await self.nack(reason=reason_of(error))
        else:
            self.give_back_nowait(error)

    async def ack(self) -> None:
        """Settle it for good. Returns when that is committed.

        Many tasks that ack at once share a request; one task that acks message by message is faster
        with `ack_nowait`. If cancelled, the ack may or may not be carried out.

        Raises:
            StaleLeaseError: the lease is over, and the message will be delivered again.
            UnknownOutcomeError: no answer in time.
        """
        await self._settle(ACK)

    async def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Have it delivered again after `delay` seconds, or as the queue's backoff says; as `ack` otherwise."""
        self._is_given_back = True
        await self._settle(nack_order(delay, reason))

    async def reject(self, *, reason: str = "") -> None:
        """Give it up: it is dead, and not delivered until somebody revives it; as `ack` otherwise."""
        self._is_given_back = True
        await self._settle(reject_order(reason))

    async def extend(self, hide: float) -> None:
        """Hide it for `hide` seconds from now; as `ack` otherwise."""
        await self._settle(extend_order(hide))


class DeliveredBatch(Generic[_M]):
    """The messages of one receive, in order of offset; opened when first looked into. `make` makes its kind of them."""

    __slots__ = ("_make", "_messages", "_settling", "delivery", "lease", "partition", "queue")

    def __init__(
        self,
        settling: SettlingNowait,
        delivery: Delivery,
        make: Callable[[Origin, int, int, int, Record | LogBrokerError], _M],
    ) -> None:
        self.queue = settling.queue
        self.partition = delivery.partition
        self.lease = delivery.received.lease
        self.delivery = delivery
        # As `Origin.settling`.
        self._settling: Any = settling
        self._make = make
        self._messages: list[_M] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} from {self.queue}/{self.partition}>"

    def __len__(self) -> int:
        if self._messages is not None:
            return len(self._messages)
        return sum(end - start for start, end in self.ranges())

    def __iter__(self) -> Iterator[_M]:
        return iter(self._open())

    @overload
    def __getitem__(self, index: int) -> _M: ...
    @overload
    def __getitem__(self, index: slice) -> list[_M]: ...
    def __getitem__(self, index: int | slice) -> _M | list[_M]:
        return self._open()[index]

    def _open(self) -> list[_M]:
        if self._messages is None:
            self._messages = self._read()
        return self._messages

    def ranges(self) -> list[tuple[int, int]]:
        """The offsets leased, half-open ranges joined and sorted."""
        return join_ranges([(start, end) for part in self.delivery.received.parts for start, end, _ in part.ranges])

    def _read(self) -> list[_M]:
        messages: list[_M] = []
        origin = Origin(self._settling, self.partition, self.lease)
        body = self.delivery.body
        make = self._make
        position = 0
        for part in self.delivery.received.parts:
            end = position + part.size_bytes
            contents = contents_of(part, body[position:end])
            position = end
            append_ms = repeat(part.append_ms)
            for (start, stop, deliveries), records in contents:
                messages.extend(map(make, repeat(origin), range(start, stop), repeat(deliveries), append_ms, records))
        return messages

    def settle_nowait(self, order: Order, ranges: list[tuple[int, int]]) -> None:
        self._settling.settle_nowait(order, self.partition, self.lease, ranges)

    def ack_nowait(self) -> None:
        """Settle all of them soon; as `Message.ack_nowait`."""
        self.settle_nowait(ACK, self.ranges())


@final
class MessageBatch(DeliveredBatch[Message[_B_co]], Generic[_B_co]):
    """The messages of one receive, in order of offset; opened when first looked into."""

    __slots__ = ()

    def __init__(self, settling: Settling, delivery: Delivery) -> None:
        super().__init__(settling, delivery, Message)

    async def settle(self, order: Order, ranges: list[tuple[int, int]]) -> None:
        await self._settling.settle(order, self.partition, self.lease, ranges)

    async def ack(self) -> None:
        """Settle all of them; as `Message.ack`. Those whose lease was current are settled in any case."""
        await self.settle(ACK, self.ranges())

    async def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Have all of them delivered again; as `Message.nack`."""
        await self.settle(nack_order(delay, reason), self.ranges())

    async def reject(self, *, reason: str = "") -> None:
        """Give all of them up."""
        await self.settle(reject_order(reason), self.ranges())

    async def extend(self, hide: float) -> None:
        """Hide all of them for `hide` seconds from now."""
        await self.settle(extend_order(hide), self.ranges())


def nack_order(delay_s: float | None, reason: str) -> Order:
    if delay_s is not None and not 0 <= delay_s <= 1_296_000:
        raise InvalidArgumentError(f"delay is {delay_s} s, outside 0 to 1296000")
    return Order(Verb.NACK, None if delay_s is None else int(delay_s * 1000), reason[:MAX_REASON_LENGTH])


def reason_of(error: BaseException) -> str:
    """Why a message is given back, for its trace."""
    return f"{type(error).__name__}: {error}"


def reject_order(reason: str) -> Order:
    return Order(Verb.REJECT, reason=reason[:MAX_REASON_LENGTH])


def extend_order(hide_s: float) -> Order:
    if not 1 <= hide_s <= 43_200:
        raise InvalidArgumentError(f"hide is {hide_s} s, outside 1 to 43200")
    return Order(Verb.EXTEND, int(hide_s * 1000))


def contents_of(
    part: BatchPart, data: bytes
) -> Iterator[tuple[tuple[int, int, int], Sequence[Record | LogBrokerError]]]:
    """Give each leased range with its contents, one for each offset."""
    try:
        offsets, records = _read_part(part, data)
    except (CorruptBatchError, RequestTooLargeError) as error:
        for leased in part.ranges:
            yield leased, [error] * (leased[1] - leased[0])
        return
    for leased in part.ranges:
        start, end, _ = leased
        if isinstance(offsets, range) and offsets.start <= start and end <= offsets.stop:
            yield leased, records[start - offsets.start : end - offsets.start]
            continue
        by_offset = dict(zip(offsets, records, strict=True))
        missing = CorruptBatchError(f"the batch at offset {part.base_offset} does not hold it")
        yield leased, [by_offset.get(offset, missing) for offset in range(start, end)]


def _read_part(part: BatchPart, data: bytes) -> tuple[range | list[int], list[Record]]:
    if not data:
        raise CorruptBatchError("the log has lost it", hint="`logbroker status` tells of damage")
    header, offsets, records = read_batch(data, _READ_LIMITS)
    if header.base_offset != part.base_offset:
        raise CorruptBatchError(f"the batch sent for offset {part.base_offset} says {header.base_offset}")
    return offsets if isinstance(offsets, range) else list(offsets), records
