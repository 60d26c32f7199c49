"""What has arrived for one consumer and is not taken yet, and the settlers of its partitions.

A lease that ran out before it was taken is dropped: its messages are somebody else's. So is one that has ended with its
connection. What is here when the consumer is closed was shown to nobody, and goes back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.wire.protocol import State
from logbroker.wire.requests import Release
from logbroker_client.settling import Settler

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.wire.protocol import ClientProtocol
    from logbroker.wire.requests import AnyRequest, Delivered, Peeked, Received
    from logbroker_client.calls import Call
    from logbroker_client.core import ClientCore
    from logbroker_client.options import ConsumerOptions, SubscriptionOptions
    from logbroker_client.pending import Asked


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """One lease that arrived; `body` holds its batches, unopened."""

    partition: int
    received: Received | Delivered
    body: bytes
    expires_at: float
    """On the client's clock, by the server's word when it answered."""
    connection: ClientProtocol[Asked] | None = None
    """With which the lease ends; None where it does not."""

    @property
    def count(self) -> int:
        """Of messages."""
        return sum(end - start for part in self.received.parts for start, end, _ in part.ranges)


@final
@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    outstanding_count: int
    """Receives, or streams, that wait at the server or on their way there."""
    ready_count: int
    expired_count: int
    """Leases that ran out before they were taken: hide time is too short for what is fetched ahead."""
    lost_count: int
    """Leases that ended with their connection before they were taken; only where `on_close` is `release`."""


@final
class Inbox:
    """See the module. `waiters` wait for a delivery or an error."""

    def __init__(self, core: ClientCore, queue: str, options: ConsumerOptions | SubscriptionOptions) -> None:
        self.error: LogBrokerError | None = None
        self.waiters: dict[object, None] = {}
        self.settlers: list[Settler] = []
        self.expired_count = 0
        self.lost_count = 0
        self.is_closed = False
        self._core = core
        self._queue = queue
        self._options = options
        self._ready: deque[Delivery] = deque()
        self._releases: list[Call] = []

    def __len__(self) -> int:
        return len(self._ready)

    def add_settler(self, partition: int) -> Settler:
        settler = Settler(self._core, self._queue, partition, self._options.group, timeout_s=self._options.timeout_s)
        self.settlers.append(settler)
        return settler

    def hide_ms(self) -> int:
        """What to ask for: the queue's setting unless there is one of the consumer's."""
        if self._options.hide_s is not None:
            return int(self._options.hide_s * 1000)
        route = self._core.routes.queues.get(self._queue)
        return route.settings.hide_ms if route is not None else 30_000

    @property
    def releases_on_close(self) -> bool:
        """Whether leases are to go back when their connection ends."""
        return self._options.on_close == "release"

    def put(self, partition: int, received: Received | Delivered, call: Call, body: bytes) -> Delivery:
        """Take what has just answered `call`, or was pushed for it; once this is closed, that goes back."""
        expires_at = self._core.env.clock() + received.hide_left_ms / 1000
        connection = call.answered_by if self.releases_on_close else None
        delivery = Delivery(partition, received, body, expires_at, connection)
        if self.is_closed:
            self._release([delivery])
        else:
            self._ready.append(delivery)
            self._core.env.wake(self.waiters)
        return delivery

    def fail(self, error: LogBrokerError) -> None:
        """Tell whoever takes, after what has arrived; the first one counts."""
        if self.error is None and not self.is_closed:
            self.error = error
            self._core.env.wake(self.waiters)

    def pop(self) -> Delivery | None:
        """The next lease, whether it has run out or not."""
        return self._ready.popleft() if self._ready else None

    def is_current(self, delivery: Delivery) -> bool:
        """Whether the application may have it; counts those that have run out, or ended with their connection."""
        if delivery.connection is not None and delivery.connection.state is not State.OPEN:
            self.lost_count += 1
            return False
        if delivery.expires_at > self._core.env.clock():
            return True
        self.expired_count += 1
        return False

    def close(self) -> list[Call]:
        """Give back what nobody has seen; give the requests that do so, and those for what arrives later with them."""
        self.is_closed = True
        self._core.env.wake(self.waiters)
        deliveries = list(self._ready)
        self._ready.clear()
        self._release(deliveries)
        return self._releases

    def _release(self, deliveries: list[Delivery]) -> None:
        leases: dict[int, list[int]] = {}
        for delivery in deliveries:
            leases.setdefault(delivery.partition, []).append(delivery.received.lease)
        self._releases += [
            self._core.call(
                partial(self._build_release, partition, lease_ids),
                route=(self._queue, partition),
                timeout_s=self._options.timeout_s,
                is_repeatable=True,
            )
            for partition, lease_ids in leases.items()
        ]

    def _build_release(self, partition: int, leases: list[int], rid: int) -> AnyRequest:
        return Release(rid, queue=self._queue, partition=partition, group=self._options.group, leases=leases)


def leases_no_more(received: Received | Delivered | Peeked, most: int) -> bool:
    """Whether a server's word can be believed. Ranges that are none would be taken for memory to fill."""
    ranges = [leased for part in received.parts for leased in part.ranges]
    return all(start < end for start, end, _ in ranges) and sum(end - start for start, end, _ in ranges) <= most
