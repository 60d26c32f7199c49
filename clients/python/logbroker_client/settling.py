"""Acks, nacks and extends of one partition, gathered into as few requests as the answers allow.

They are clocked as batches are: the first goes at once, and while it is on its way the next gathers.
Offsets of a lease that follow one another become one range, so confirming a whole batch message by
message costs one small request.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum, auto
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import LogBrokerError, RemoteProtocolError, StaleLeaseError, UnavailableError
from logbroker.wire.requests import Ack, Extend, Nack, Reject, Settled
from logbroker_client.pending import Pending

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest
    from logbroker_client.calls import Call
    from logbroker_client.core import ClientCore
    from logbroker_client.links import Link

# A range takes at most 19 bytes of a header of 64 KiB.
_MAX_RANGE_COUNT = 2000
_MAX_IN_FLIGHT_COUNT = 4


@final
class Verb(IntEnum):
    # Integers, because an order is a key that each ack looks up.
    ACK = auto()
    NACK = auto()
    EXTEND = auto()
    REJECT = auto()


@final
class Order(NamedTuple):
    """What to do with messages; only equal orders share a request.

    `delay_ms` is EXTEND's hide time; of NACK it is None where the queue's backoff says how long.
    """

    verb: Verb
    delay_ms: int | None = 0
    reason: str = ""


ACK = Order(Verb.ACK)


@final
class SettleBatch(Pending):
    """Messages that get one order in one request. After success `stale` tells the ranges it did not reach."""

    __slots__ = ("deadline", "error", "is_open", "order", "range_count", "ranges", "stale")

    def __init__(self, order: Order, *, deadline: float) -> None:
        super().__init__()
        self.order = order
        self.deadline = deadline
        self.is_open = True
        """Messages may still be added: its request was not made."""
        # Per lease; in the order they came, touching ones joined.
        self.ranges: dict[int, list[tuple[int, int]]] = {}
        self.range_count = 0
        self.stale: dict[int, list[tuple[int, int]]] = {}
        self.error: LogBrokerError | None = None

    def add(self, lease: int, start: int, end: int) -> None:
        ranges = self.ranges.setdefault(lease, [])
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
            self.range_count += 1

    def items(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """Ranges sorted and joined, as the request wants them."""
        return [(lease, join_ranges(ranges)) for lease, ranges in self.ranges.items()]

    def failure(self, lease: int, ranges: list[tuple[int, int]]) -> LogBrokerError | None:
        """What went wrong for some messages of it; a fresh exception for each waiter."""
        if self.error is not None:
            return type(self.error)(self.error.message, hint=self.error.hint)
        count = self.stale_count(lease, ranges)
        if not count:
            return None
        return StaleLeaseError(
            f"lease {lease} is not current for {count} of {count_of(ranges)} messages from offset {ranges[0][0]}",
            hint="they were hidden for too short a time, or rewound, and are delivered again",
        )

    def stale_count(self, lease: int, ranges: list[tuple[int, int]]) -> int:
        """How many of these messages the order did not reach."""
        return sum(
            max(0, min(end, stale_end) - max(start, stale_start))
            for start, end in ranges
            for stale_start, stale_end in self.stale.get(lease, ())
        )


def count_of(ranges: list[tuple[int, int]]) -> int:
    """How many offsets the ranges hold."""
    return sum(end - start for start, end in ranges)


def join_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, without overlaps, touching ones joined."""
    if len(ranges) == 1:
        return ranges
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


@final
class Settler:
    """The lane of one partition and consumer group."""

    def __init__(self, core: ClientCore, queue: str, partition: int, group: str, *, timeout_s: float) -> None:
        self.queue = queue
        self.partition = partition
        self.is_marked = False
        self._core = core
        self._group = group
        self._timeout_s = timeout_s
        self._open: dict[Order, SettleBatch] = {}
        self._full: deque[SettleBatch] = deque()
        self._in_flight: dict[SettleBatch, None] = {}

    def add(self, order: Order, lease: int, ranges: list[tuple[int, int]]) -> SettleBatch:
        """Put messages of one lease into the next request; it is settled with its answer."""
        batch = self._open.get(order)
        if batch is None:
            batch = self._open[order] = SettleBatch(order, deadline=self._core.env.clock() + self._timeout_s)
        for start, end in ranges:
            batch.add(lease, start, end)
        if batch.range_count >= _MAX_RANGE_COUNT:
            batch.is_open = False
            del self._open[order]
            self._full.append(batch)
        if not self.is_marked and (self._full or not self._in_flight):
            self._core.mark(self)
        return batch

    def unsettled(self) -> list[SettleBatch]:
        return [*self._in_flight, *self._full, *self._open.values()]

    def pump(self, link: Link) -> bool:
        while self._full and len(self._in_flight) < _MAX_IN_FLIGHT_COUNT:
            if not link.is_writable:
                return True
            self._start(self._full.popleft())
        busy_orders = {batch.order for batch in self._in_flight}
        for order in [order for order in self._open if order not in busy_orders]:
            if len(self._in_flight) >= _MAX_IN_FLIGHT_COUNT:
                break
            if not link.is_writable:
                return True
            self._start(self._open.pop(order))
        return False

    def _start(self, batch: SettleBatch) -> None:
        batch.is_open = False
        self._in_flight[batch] = None
        self._core.call(
            partial(self._build, batch.order, batch.items()),
            route=(self.queue, self.partition),
            timeout_s=batch.deadline - self._core.env.clock(),
            is_repeatable=True,
            on_done=partial(self._on_done, batch),
        )

    def _build(self, order: Order, items: list[tuple[int, list[tuple[int, int]]]], rid: int) -> AnyRequest:
        match order.verb:
            case Verb.ACK:
                return Ack(rid, queue=self.queue, partition=self.partition, group=self._group, items=items)
            case Verb.NACK:
                return Nack(
                    rid,
                    queue=self.queue,
                    partition=self.partition,
                    group=self._group,
                    items=items,
                    delay_ms=order.delay_ms or 0,
                    reason=order.reason,
                    by_policy=order.delay_ms is None,
                )
            case Verb.REJECT:
                return Reject(
                    rid,
                    queue=self.queue,
                    partition=self.partition,
                    group=self._group,
                    items=items,
                    reason=order.reason,
                )
            case Verb.EXTEND:
                return Extend(
                    rid,
                    queue=self.queue,
                    partition=self.partition,
                    group=self._group,
                    items=items,
                    hide_ms=order.delay_ms or 0,
                )

    def _on_done(self, batch: SettleBatch, call: Call) -> None:
        self._in_flight.pop(batch, None)
        # A repeated nack finds its own first attempt and is stale; the messages are free, as it wanted. So is a reject.
        is_own = batch.order.verb in (Verb.NACK, Verb.REJECT) and call.is_uncertain
        if isinstance(call.reply, Settled) and not is_own:
            _take_results(batch, call.reply)
        self._finish(batch, batch.error or call.error)
        if self._open or self._full:
            self._core.mark(self)

    def _finish(self, batch: SettleBatch, error: LogBrokerError | None) -> None:
        batch.error = error
        batch.is_open, batch.is_done = False, True
        self._core.env.wake(batch.waiters)

    def sweep(self, now: float) -> bool:
        """Give up what never left; what did has the deadline of its call."""
        for batch in [batch for batch in (*self._full, *self._open.values()) if batch.deadline <= now]:
            if batch in self._full:
                self._full.remove(batch)
            else:
                del self._open[batch.order]
            place = f"{self.queue}/{self.partition}"
            self._finish(batch, UnavailableError(f"nothing could be sent to {place} in time"))
        return bool(self._open or self._full or self._in_flight)


def _take_results(batch: SettleBatch, reply: Settled) -> None:
    if len(reply.results) != len(batch.ranges):
        batch.error = RemoteProtocolError(f"{len(reply.results)} results for {len(batch.ranges)} leases")
        return
    for lease, result in zip(batch.ranges, reply.results, strict=True):
        lost = [*result.stale, *result.rewound]
        if lost:
            batch.stale[lease] = lost
