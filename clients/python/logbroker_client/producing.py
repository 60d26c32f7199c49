"""What a producer decides: into which batch a message goes, when a batch leaves, and what its answer means.

Batching is clocked by the answers: while a partition has nothing on its way, what is there leaves at
once; while something is, the next batch fills, and leaves early only when it is worth a round of its own.
So a message alone has the least latency, a burst the largest batches, and a stream keeps servers and
client at work at once, without a setting.

Order and exactly-once rest on these rules:

1. A batch has one partition for life, and one (producer id, sequence) from its first attempt on. It
   gets another only after every attempt was refused for certain, so no two can both be committed.
2. Batches of a partition are sent in order. When one is refused or its link is lost, nothing more is
   sent before everything outstanding is answered or lost; then all that is unsettled goes again, in order.
3. After a batch is given up the next ones use a new producer id, for its sequence may be missing.
4. A batch that may have been carried out is never reported as failed, only as unknown.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.errors import (
    InvalidArgumentError,
    LogBrokerError,
    NotLeaderError,
    OutOfOrderSequenceError,
    QueueFullError,
    RemoteProtocolError,
    RequestTooLargeError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.record.batch import HEADER_BYTES, BatchLimits, Codec, Record, encode_batch, encode_values
from logbroker.wire.failures import error_from_reply
from logbroker.wire.requests import Error, Produce, Produced
from logbroker_client.backoff import Backoff
from logbroker_client.calls import is_certain
from logbroker_client.dedup import MAX_RECORDS_WITH_IDS, id_of, known_of
from logbroker_client.delays import AT_ONCE
from logbroker_client.partitioner import partition_of
from logbroker_client.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.record.batch import Headers
    from logbroker.wire.requests import AnyReply
    from logbroker_client.core import ClientCore
    from logbroker_client.dedup import Known
    from logbroker_client.delays import Delay
    from logbroker_client.links import Link
    from logbroker_client.options import ProducerOptions

# What a record takes beside its key, value and headers, at most: lengths, deltas, and a little more.
RECORD_OVERHEAD_BYTES = 24
# So many full batches without keys in a row go to one partition. They meet in one message, one sync and one round of
# Raft: spread over partitions, and with them over nodes, each would have all of that for itself. With 1,000 messages
# outstanding over 16 partitions that costs twice the CPU of one partition at 1, a half more at 4, a tenth at 16.
RUN_BATCH_COUNT = 16
# A batch that holds so much does not wait for the one before it. Less costs more rounds of Raft than it saves time.
ENOUGH_BYTES = 256 * 1024
_SEQUENCE_MASK = (1 << 31) - 1
_MAX_HEADER_BYTES = 64 * 1024
_MANY = 1 << 32


@final
class OutgoingBatch(Pending):
    """Messages of one partition that are committed together.

    `base_offset` and `append_ms` hold after success, `error` after failure.
    """

    __slots__ = (
        "_line",
        "append_ms",
        "base_offset",
        "base_sequence",
        "count",
        "data",
        "deadline",
        "delay",
        "error",
        "has_ids",
        "holds_clock",
        "is_uncertain",
        "is_unkeyed",
        "known",
        "last_error",
        "link",
        "max_count",
        "opened_at",
        "partition",
        "producer_id",
        "records",
        "size_bytes",
        "timestamp_ms",
        "values",
    )

    def __init__(
        self,
        line: PartitionLine,
        *,
        opened_at: float,
        deadline: float,
        timestamp_ms: int,
        max_count: int,
        delay: Delay = AT_ONCE,
    ) -> None:
        super().__init__()
        # Of all its messages.
        self.delay = delay
        # Some of its messages have ids of their own; then it takes fewer.
        self.has_ids = False
        self.max_count = max_count
        # What became of those whose ids were known, if there are any.
        self.known: Known | None = None
        self._line = line
        self.partition = line.partition
        self.opened_at = opened_at
        self.deadline = deadline
        self.timestamp_ms = timestamp_ms
        # Either values alone, or records as soon as one has more than a value.
        self.values: list[bytes] = []
        self.records: list[Record] | None = None
        self.count = 0
        self.size_bytes = 0
        # No message has a key: it waits for the producer's clock, not for the partition's alone.
        self.is_unkeyed = True
        # It is on its way, and the next one without keys waits for it.
        self.holds_clock = False
        # Encoded under this identity; empty before the first attempt and when it needs a new one.
        self.data = b""
        self.producer_id = -1
        self.base_sequence = -1
        # Where it waits for its reply.
        self.link: Link | None = None
        # Some attempt may have been carried out without an answer.
        self.is_uncertain = False
        self.last_error: LogBrokerError | None = None
        self.base_offset = -1
        self.append_ms = 0
        self.error: LogBrokerError | None = None

    @property
    def is_enough(self) -> bool:
        return self.size_bytes >= ENOUGH_BYTES

    def add(self, value: bytes | None, key: bytes | None, headers: Headers, size_bytes: int) -> None:
        if self.records is None:
            if key is None and not headers and value is not None:
                self.values.append(value)
                self.count += 1
                self.size_bytes += size_bytes
                return
            self.records = [Record(value, None, (), self.timestamp_ms) for value in self.values]
            self.values.clear()
        if key is not None:
            self.is_unkeyed = False
        self.records.append(Record(value, key, headers, self.timestamp_ms))
        self.count += 1
        self.size_bytes += size_bytes

    def add_values(self, values: Sequence[bytes], size_bytes: int) -> None:
        if self.records is None:
            self.values.extend(values)
        else:
            self.records.extend([Record(value, None, (), self.timestamp_ms) for value in values])
        self.count += len(values)
        self.size_bytes += size_bytes

    def take_ids(self) -> None:
        """A message that is to come has an id."""
        self.has_ids = True
        self.max_count = min(self.max_count, MAX_RECORDS_WITH_IDS)
        # It belongs into one partition, as one with a key does.
        self.is_unkeyed = False

    def encode(self, producer_id: int, base_sequence: int, codec: Codec, limits: BatchLimits) -> None:
        """Take an identity and make the bytes.

        Raises:
            RequestTooLargeError: the batch does not fit, which only one of a single message can do.
        """
        if self.records is None:
            self.data = encode_values(
                self.values,
                timestamp_ms=self.timestamp_ms,
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=base_sequence,
                codec=codec,
                limits=limits,
            )
        else:
            self.data = encode_batch(
                self.records,
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=base_sequence,
                codec=codec,
                limits=limits,
            )
        self.producer_id, self.base_sequence = producer_id, base_sequence

    def failure(self) -> LogBrokerError | None:
        """A fresh exception for one waiter: they must not share one, for each adds its traceback."""
        error = self.error
        return None if error is None else type(error)(error.message, hint=error.hint)

    def on_reply(self, reply: AnyReply, body: bytes) -> None:
        self._line.on_reply(self, reply)

    def on_lost(self) -> None:
        self._line.on_lost(self)


@final
class PartitionLine:
    """The batches of one producer for one partition, from the open one to those without their answer."""

    def __init__(self, producer: ProducerCore, partition: int) -> None:
        self.queue = producer.queue
        self.partition = partition
        self.is_marked = False
        self._producer = producer
        self._core = producer.core
        self._env = producer.core.env
        self._backoff = Backoff()
        self._producer_id = self._env.new_id()
        self._next_sequence = 0
        self._open: OutgoingBatch | None = None
        # Full ones that were not sent yet.
        self._full: deque[OutgoingBatch] = deque()
        # Sent and not settled, in order of sequence.
        self._in_flight: deque[OutgoingBatch] = deque()
        # Of those and of given up ones: how many have a reply to come.
        self._unanswered_count = 0
        # Rule 2: waiting for answers, or for the end of a pause.
        self._is_recovering = False
        self._failure_count = 0
        self._pause_s = 0.0
        # Ids of which a sequence may be missing for ever.
        self._broken_ids: set[int] = set()

    @property
    def is_stuck(self) -> bool:
        return self._is_recovering

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way: what is appended may leave at once."""
        return not self._in_flight

    @property
    def is_saturated(self) -> bool:
        """As much waits here as is on its way at most: others should get something to do."""
        return len(self._in_flight) + len(self._full) >= 2 * self._producer.max_in_flight_count

    def open_batches(self) -> list[OutgoingBatch]:
        """All that is not settled, in order."""
        last = [self._open] if self._open is not None else []
        return [*self._in_flight, *self._full, *last]

    # --- filling ---

    def room_in(self, size_bytes: int, delay: Delay = AT_ONCE, *, max_count: int = _MANY) -> OutgoingBatch:
        """The batch that takes a message of `size_bytes` to be delivered then; it has fewer than `max_count` so far."""
        batch = self._open
        if batch is not None and batch.delay != delay:
            self.close_open(batch, is_full=False)
            batch = None
        if batch is not None:
            has_place = batch.count < batch.max_count and batch.count < max_count
            fits = has_place and batch.size_bytes + size_bytes <= self._producer.batch_bytes
            if fits or not batch.count:
                return batch
            self.close_open(batch)
        now = self._env.clock()
        batch = OutgoingBatch(
            self,
            opened_at=now,
            deadline=now + self._producer.options.timeout_s,
            timestamp_ms=self._env.wall_ms(),
            max_count=self._producer.max_count,
            delay=delay,
        )
        self._open = batch
        return batch

    def close_open(self, batch: OutgoingBatch, *, is_full: bool = True) -> None:
        """The open batch takes no more messages."""
        self._full.append(batch)
        self._open = None
        self._producer.on_closed(self, is_full=is_full)

    def appended(self, batch: OutgoingBatch) -> None:
        """A message went into the open batch."""
        if batch.size_bytes >= self._producer.batch_bytes:
            self.close_open(batch)
        if not self.is_marked and (not self._in_flight or self._full or batch.is_enough):
            self._core.mark(self)

    # --- sending (Lane) ---

    def pump(self, link: Link) -> bool:
        if self._is_recovering:
            return False
        for batch in self._in_flight:
            if batch.link is None:
                if not link.is_writable:
                    return True
                if batch.data or self._identify(batch):
                    self._send(batch, link)
        if any(batch.is_done for batch in self._in_flight):
            self._in_flight = deque(batch for batch in self._in_flight if not batch.is_done)
        while len(self._in_flight) < self._producer.max_in_flight_count:
            if not self._has_ready():
                return False
            if not link.is_writable:
                return True
            batch = self._take_ready()
            if self._identify(batch):
                self._in_flight.append(batch)
                if batch.is_unkeyed:
                    batch.holds_clock = True
                    self._producer.unkeyed_count += 1
                self._send(batch, link)
        return False

    def _has_ready(self) -> bool:
        if self._full:
            return True
        batch = self._open
        if batch is None or not batch.count:
            return False
        if batch.is_enough:
            return True
        if self._in_flight:
            return False
        # What a run has left behind waits for its own partition alone: the stream may not come back for long.
        if batch.is_unkeyed and self._producer.unkeyed_count and self._producer.fills(self):
            return False
        linger_s = self._producer.options.linger_s
        if linger_s:
            left_s = batch.opened_at + linger_s - self._env.clock()
            if left_s > 0:
                self._core.add_timer(left_s, self._remark)
                return False
        return True

    def _remark(self) -> None:
        self._core.mark(self)

    def _take_ready(self) -> OutgoingBatch:
        if not self._full and self._open is not None:
            self.close_open(self._open, is_full=self._open.is_enough)
        return self._full.popleft()

    def _identify(self, batch: OutgoingBatch) -> bool:
        """Give a batch its sequence and bytes; false when it fails at that, and then it has taken none."""
        try:
            batch.encode(self._producer_id, self._next_sequence, self._producer.codec, self._producer.limits)
        except (RequestTooLargeError, InvalidArgumentError) as error:
            self._settle(batch, error)
            return False
        self._next_sequence = (self._next_sequence + batch.count) & _SEQUENCE_MASK
        return True

    def _send(self, batch: OutgoingBatch, link: Link) -> None:
        protocol = link.protocol
        if protocol is None:
            return
        batch.link = link
        self._unanswered_count += 1
        delay_ms, deliver_at_ms = batch.delay
        request = Produce(
            protocol.take_rid(),
            queue=self.queue,
            partition=self.partition,
            delay_ms=delay_ms,
            deliver_at_ms=deliver_at_ms,
            dedup=batch.has_ids,
        )
        protocol.send(request, batch, batch.data)

    # --- answers ---

    def on_reply(self, batch: OutgoingBatch, reply: AnyReply) -> None:
        link, batch.link = batch.link, None
        self._unanswered_count -= 1
        if not batch.is_done:
            if isinstance(reply, Produced):
                self._on_produced(batch, reply)
            elif isinstance(reply, Error):
                self._on_error(batch, reply, link)
        self._after_answer()

    def on_lost(self, batch: OutgoingBatch) -> None:
        batch.link = None
        self._unanswered_count -= 1
        if not batch.is_done:
            batch.is_uncertain = True
            batch.last_error = UnknownOutcomeError("the connection ended before the answer")
            self._recover(is_redirected=False)
        self._after_answer()

    def _on_produced(self, batch: OutgoingBatch, reply: Produced) -> None:
        if reply.count != batch.count:
            batch.is_uncertain = True
            self._give_up(
                batch, RemoteProtocolError(f"{reply.count} messages are confirmed for a batch of {batch.count}")
            )
            return
        batch.base_offset, batch.append_ms = reply.base_offset, reply.append_ms
        batch.known = known_of(reply)
        if not self._is_recovering:
            self._failure_count = 0
        self._in_flight.remove(batch)
        if not self._in_flight:
            self._broken_ids.clear()
        self._settle(batch, None)

    def _on_error(self, batch: OutgoingBatch, reply: Error, link: Link | None) -> None:
        error = error_from_reply(reply)
        batch.last_error = error
        if not is_certain(error):
            batch.is_uncertain = True
        if isinstance(error, NotLeaderError):
            self._core.redirect((self.queue, self.partition), link, reply)
            self._recover(is_redirected=error.leader is not None)
        elif isinstance(error, OutOfOrderSequenceError):
            self._on_out_of_order(batch, error)
        elif error.retriable or not is_certain(error):
            self._recover(is_redirected=False)
        else:
            self._give_up(batch, error)

    def _on_out_of_order(self, batch: OutgoingBatch, error: OutOfOrderSequenceError) -> None:
        if batch is self._in_flight[0]:
            # What came before it is settled, so the server has forgotten this producer, or never got
            # a batch that was given up.
            self._rotate(batch.producer_id)
            if batch.is_uncertain:
                self._give_up(batch, UnknownOutcomeError(f"a repeat was refused: {error.message}"))
                return
        self._recover(is_redirected=True)

    def _recover(self, *, is_redirected: bool) -> None:
        """Begin rule 2, or go on with it. A redirect is followed without a pause, the first time."""
        if not self._is_recovering:
            self._is_recovering = True
            self._failure_count += 1
            self._pause_s = 0.0
            for batch in self._in_flight:
                self._stop_clock(batch)
        failure_count = self._failure_count - 1 if is_redirected else self._failure_count
        if failure_count:
            pause_s = self._backoff.delay_s(failure_count, chance=self._env.chance())
            self._pause_s = max(self._pause_s, pause_s)

    def _after_answer(self) -> None:
        if self._is_recovering:
            if not self._unanswered_count:
                self._core.add_timer(self._pause_s, partial(self._resume, self._failure_count))
        elif self._full or self._open is not None:
            self._core.mark(self)

    def _resume(self, failure_count: int) -> None:
        if not self._is_recovering or self._unanswered_count or failure_count != self._failure_count:
            return
        self._is_recovering = False
        for batch in self._in_flight:
            # Rule 1: refused for certain each time, and its sequence will never fit.
            if batch.producer_id in self._broken_ids and not batch.is_uncertain:
                batch.data = b""
        self._core.mark(self)

    # --- the end of a batch ---

    def _rotate(self, broken_id: int) -> None:
        self._broken_ids.add(broken_id)
        if broken_id == self._producer_id:
            self._producer_id = self._env.new_id()
            self._next_sequence = 0

    def _give_up(self, batch: OutgoingBatch, error: LogBrokerError) -> None:
        self._in_flight.remove(batch)
        self._rotate(batch.producer_id)
        if not self._in_flight:
            self._broken_ids.clear()
        self._settle(batch, error)

    def _stop_clock(self, batch: OutgoingBatch) -> None:
        if batch.holds_clock:
            batch.holds_clock = False
            self._producer.on_unkeyed_landed()

    def _settle(self, batch: OutgoingBatch, error: LogBrokerError | None) -> None:
        batch.error = error
        batch.is_done = True
        self._stop_clock(batch)
        batch.data = b""
        batch.values = []
        batch.records = None
        self._producer.release(batch.size_bytes)
        self._env.wake(batch.waiters)

    def sweep(self, now: float) -> bool:
        for batch in self.open_batches():
            if batch.deadline > now:
                return True
            self._expire(batch)
        return bool(self._unanswered_count)

    def _expire(self, batch: OutgoingBatch) -> None:
        last = batch.last_error
        detail = f": {last.code}: {last.message}" if last is not None else ""
        place = f"{self.queue}/{self.partition}"
        if batch in self._in_flight:
            if batch.is_uncertain or batch.link is not None:
                error: LogBrokerError = UnknownOutcomeError(f"no confirmation from {place} in time{detail}")
            else:
                kind = QueueFullError if isinstance(last, QueueFullError) else UnavailableError
                error = kind(f"{place} did not take the batch in time{detail}", hint="" if last is None else last.hint)
            self._give_up(batch, error)
            return
        if batch is self._open:
            self._open = None
            self._producer.on_closed(self, is_full=False)
        else:
            self._full.remove(batch)
        reasons = "; ".join(self._core.link_errors())
        self._settle(
            batch,
            UnavailableError(
                f"nothing could be sent to {place} in time{detail}" + (f" ({reasons})" if reasons else "")
            ),
        )


@final
class ProducerCore:
    """One producer of one queue, whose metadata is known."""

    def __init__(self, core: ClientCore, queue: str, options: ProducerOptions) -> None:
        self.core = core
        self.queue = queue
        self.options = options
        self.codec = Codec.ZSTD if options.is_compressed else Codec.NONE
        self.limits = BatchLimits(
            max_batch_bytes=core.limits.max_batch_bytes,
            max_record_bytes=core.limits.max_record_bytes,
            max_record_count=core.limits.max_record_count,
        )
        self.max_count = core.limits.max_record_count
        # What would have to be refused after it was gathered is not gathered.
        self.batch_bytes = min(options.batch_bytes, core.limits.max_batch_bytes - HEADER_BYTES)
        self.max_in_flight_count = min(options.max_in_flight_count, core.limits.max_batches_in_flight)
        # Batches without keys on their way, but for those of lines that are stuck.
        self.unkeyed_count = 0
        self.buffered_bytes = 0
        # Who waits for room, and how much each needs, in order.
        self.room_waiters: dict[object, int] = {}
        self._lines: list[PartitionLine] = []
        # Where messages without a key go, and how many full batches went there in a row.
        self._current = 0
        self._run_count = 0
        self._grow()
        if self._lines:
            self._current = int(core.env.chance() * len(self._lines))

    def _grow(self) -> None:
        for partition in range(len(self._lines), self.core.routes.partition_count(self.queue)):
            self._lines.append(PartitionLine(self, partition))

    # --- room ---

    def size_of(self, value: bytes | None, key: bytes | None, headers: Headers) -> int:
        """Bytes that a message counts for.

        Raises:
            RequestTooLargeError: the server would not take it.
            InvalidArgumentError: a header key is no text that can be encoded.
        """
        size_bytes = RECORD_OVERHEAD_BYTES
        if value is not None:
            size_bytes += len(value)
        if key is not None:
            size_bytes += len(key)
        if headers:
            size_bytes += _headers_bytes(headers)
        if size_bytes - RECORD_OVERHEAD_BYTES > self.limits.max_record_bytes:
            raise RequestTooLargeError(
                f"message of {size_bytes - RECORD_OVERHEAD_BYTES} bytes is larger than {self.limits.max_record_bytes}"
            )
        return size_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Take room for a message; false when it must wait. One larger than all the room goes alone."""
        buffered_bytes = self.buffered_bytes + size_bytes
        if self.room_waiters or (self.buffered_bytes and buffered_bytes > self.options.max_buffered_bytes):
            return False
        self.buffered_bytes = buffered_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give room back, and take it at once for those who wait and fit, in order."""
        self.buffered_bytes -= size_bytes
        if not self.room_waiters:
            return
        woken: dict[object, None] = {}
        for waiter, needed_bytes in self.room_waiters.items():
            if self.buffered_bytes and self.buffered_bytes + needed_bytes > self.options.max_buffered_bytes:
                break
            self.buffered_bytes += needed_bytes
            woken[waiter] = None
        for waiter in woken:
            del self.room_waiters[waiter]
        if woken:
            self.core.env.wake(woken)

    # --- messages ---

    def append(
        self, value: bytes | None, key: bytes | None, headers: Headers, size_bytes: int, delay: Delay = AT_ONCE
    ) -> OutgoingBatch:
        """Put a message whose room is reserved at the end of a batch, all of which is delivered then."""
        if headers:
            dedup_id = id_of(headers)
            if dedup_id is not None:
                return self._append_with_id(dedup_id, Record(value, key, headers), size_bytes, delay)
        line = self._lines[self._current if key is None else partition_of(key, len(self._lines))]
        batch = line.room_in(size_bytes, delay)
        batch.add(value, key, headers, size_bytes)
        line.appended(batch)
        return batch

    def _append_with_id(self, dedup_id: bytes, record: Record, size_bytes: int, delay: Delay) -> OutgoingBatch:
        """Without a key the id picks the partition, so that a repeat meets the first."""
        place = dedup_id if record.key is None else record.key
        line = self._lines[partition_of(place, len(self._lines))]
        batch = line.room_in(size_bytes, delay, max_count=MAX_RECORDS_WITH_IDS)
        batch.take_ids()
        batch.add(record.value, record.key, record.headers, size_bytes)
        line.appended(batch)
        return batch

    def append_values(self, values: Sequence[bytes], size_bytes: int, delay: Delay = AT_ONCE) -> OutgoingBatch:
        """Put messages that are a value each, whose room is reserved, into one batch; they must fit in one."""
        line = self._lines[self._current]
        batch = line.room_in(size_bytes, delay)
        if batch.count + len(values) > batch.max_count:
            line.close_open(batch)
            return self.append_values(values, size_bytes, delay)
        batch.add_values(values, size_bytes)
        line.appended(batch)
        return batch

    def fills(self, line: PartitionLine) -> bool:
        """Messages without a key go to this line for now."""
        return self._lines[self._current] is line

    def on_closed(self, line: PartitionLine, *, is_full: bool) -> None:
        """A line's open batch takes no more: messages without a key go to the next partition.

        Full ones follow each other to the same one for a while, as long as it keeps up: they are a stream.
        """
        if self._lines[self._current] is not line:
            return
        self._run_count += 1
        is_run = is_full and self._run_count < RUN_BATCH_COUNT and not line.is_saturated
        if is_run and self._is_healthy(line):
            return
        self._run_count = 0
        self._grow()
        count = len(self._lines)
        following = [self._lines[(line.partition + step) % count] for step in range(1, count + 1)]
        healthy = [candidate for candidate in following if self._is_healthy(candidate)]
        self._current = (healthy or following)[0].partition

    def _is_healthy(self, line: PartitionLine) -> bool:
        return not line.is_stuck and self.core.has_leader_link(self.queue, line.partition)

    def on_unkeyed_landed(self) -> None:
        self.unkeyed_count -= 1
        if not self.unkeyed_count:
            for line in self._lines:
                # Any line may hold an open batch: it stays where it was opened when `_current` moves on.
                if line.is_idle and not line.is_marked and line.open_batches():
                    self.core.mark(line)

    def unsettled(self) -> list[OutgoingBatch]:
        return [batch for line in self._lines for batch in line.open_batches()]

    def close(self) -> None:
        """Give up what is unsettled, as unknown or as never sent."""
        for line in self._lines:
            line.sweep(float("inf"))
            self.core.drop(line)


def _headers_bytes(headers: Headers) -> int:
    size_bytes = 0
    for key, value in headers:
        try:
            size_bytes += len(key.encode()) + (len(value) if value is not None else 0) + 10
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"header key {key!r} cannot be encoded") from error
    if size_bytes > _MAX_HEADER_BYTES:
        raise RequestTooLargeError(f"headers of {size_bytes} bytes are larger than {_MAX_HEADER_BYTES}")
    return size_bytes
