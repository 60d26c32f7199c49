"""What a consumer decides: which partitions to ask for messages, how many at once, and what to do with them.

Each partition has one receive that waits at the server. One that has just given messages may have more
on their way, so that a backlog drains without pauses. What is on its way or arrived and not taken is
bounded, and a lease that ran out before it was taken is dropped: its messages are somebody else's.

A receive keeps its request id until it is answered, so that a repeat after a lost reply gets the lease
that was made and not a second one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.errors import LogBrokerError, RemoteProtocolError, UnavailableError
from logbroker.wire.requests import Receive, Received, Release
from logbroker_client.settling import Settler

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest
    from logbroker_client.calls import Call
    from logbroker_client.core import ClientCore
    from logbroker_client.options import ConsumerOptions


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """One lease that arrived; `body` holds its batches, unopened."""

    partition: int
    received: Received
    body: bytes
    expires_at: float
    """On the client's clock, by the server's word when it answered."""


@final
class _Source:
    """One partition, and how many receives it has on their way."""

    __slots__ = ("is_flowing", "outstanding_count", "partition", "settler")

    def __init__(self, partition: int, settler: Settler) -> None:
        self.partition = partition
        self.settler = settler
        self.outstanding_count = 0
        # Its last answer had messages.
        self.is_flowing = False


@final
@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    outstanding_count: int
    ready_count: int
    expired_count: int
    """Leases that ran out before they were taken: hide time is too short for what is prefetched."""


@final
class ConsumerCore:
    """One consumer of one queue, whose metadata is known."""

    def __init__(self, core: ClientCore, queue: str, options: ConsumerOptions) -> None:
        self.core = core
        self.queue = queue
        self.options = options
        self.error: LogBrokerError | None = None
        # Who waits for a delivery or an error.
        self.waiters: dict[object, None] = {}
        self._ready: deque[Delivery] = deque()
        self._sources: list[_Source] = []
        self._next = 0
        self._outstanding_count = 0
        self._expired_count = 0
        self._is_closed = False

    def statistics(self) -> ConsumerStatistics:
        return ConsumerStatistics(self._outstanding_count, len(self._ready), self._expired_count)

    def settler(self, partition: int) -> Settler:
        return self._sources[partition].settler

    def settlers(self) -> list[Settler]:
        return [source.settler for source in self._sources]

    # --- receiving ---

    def start(self) -> None:
        """Ask for messages, as far as there is room for them."""
        if self._is_closed or self.error is not None:
            return
        self._grow()
        room = self.options.prefetch_count + len(self._sources) - self._outstanding_count - len(self._ready)
        while room > 0:
            source = self._pick()
            if source is None:
                return
            self._receive(source, self.core.take_request_id())
            room -= 1

    def _grow(self) -> None:
        for partition in range(len(self._sources), self.core.routes.partition_count(self.queue)):
            settler = Settler(self.core, self.queue, partition, self.options.group, timeout_s=self.options.timeout_s)
            self._sources.append(_Source(partition, settler))

    def _pick(self) -> _Source | None:
        """The next partition in turn with nothing on its way, or else one that flows."""
        count = len(self._sources)
        turn = [self._sources[(self._next + step) % count] for step in range(count)]
        for source in turn:
            if not source.outstanding_count:
                return source
        for source in turn:
            if source.is_flowing and source.outstanding_count < self.options.prefetch_count:
                return source
        return None

    def _receive(self, source: _Source, request_id: int) -> None:
        self._next = source.partition + 1
        source.outstanding_count += 1
        self._outstanding_count += 1
        self.core.call(
            partial(self._build, source.partition, request_id),
            route=(self.queue, source.partition),
            timeout_s=self.options.wait_s + self.options.timeout_s,
            is_repeatable=True,
            on_done=partial(self._on_received, source, request_id),
        )

    def _build(self, partition: int, request_id: int, rid: int) -> AnyRequest:
        options = self.options
        route = self.core.routes.queues.get(self.queue)
        hide_ms = route.settings.hide_ms if route is not None else 30_000
        return Receive(
            rid,
            queue=self.queue,
            partition=partition,
            group=options.group,
            max_count=options.max_messages,
            max_bytes=options.max_bytes,
            hide_ms=hide_ms if options.hide_s is None else int(options.hide_s * 1000),
            wait_ms=min(int(options.wait_s * 1000), self.core.limits.max_wait_ms),
            session=self.core.session,
            request_id=request_id,
            consumer=options.name,
        )

    def _on_received(self, source: _Source, request_id: int, call: Call) -> None:
        source.outstanding_count -= 1
        self._outstanding_count -= 1
        reply = call.reply
        if isinstance(reply, Received):
            source.is_flowing = bool(reply.parts)
            if not self._is_sane(reply):
                self._fail(
                    RemoteProtocolError(f"a receive from {self.queue}/{source.partition} leased what nobody asked for")
                )
            elif reply.parts:
                expires_at = self.core.env.clock() + reply.hide_left_ms / 1000
                self._take(Delivery(source.partition, reply, call.body, expires_at))
        elif isinstance(call.error, UnavailableError) and not (self._is_closed or self.core.is_closed):
            # Out of reach for long, or forgotten by the server. The lease may exist: the same again.
            self._receive(source, request_id)
        elif call.error is not None:
            self._fail(call.error)
        self.start()

    def _is_sane(self, reply: Received) -> bool:
        """Ranges that are none would be taken for memory to fill."""
        ranges = [leased for part in reply.parts for leased in part.ranges]
        return all(start < end for start, end, _ in ranges) and (
            sum(end - start for start, end, _ in ranges) <= self.options.max_messages
        )

    def _fail(self, error: LogBrokerError) -> None:
        if self.error is None and not self._is_closed:
            self.error = error
            self.core.env.wake(self.waiters)

    def _take(self, delivery: Delivery) -> None:
        if self._is_closed:
            self._release([delivery])
            return
        self._ready.append(delivery)
        self.core.env.wake(self.waiters)

    # --- taking ---

    def take(self) -> Delivery | None:
        """The next lease that has not run out; None when there is none yet. Errors come after deliveries."""
        while self._ready:
            delivery = self._ready.popleft()
            self.start()
            if delivery.expires_at > self.core.env.clock():
                return delivery
            self._expired_count += 1
        return None

    # --- the end ---

    def close(self) -> list[Call]:
        """Ask for nothing more and give back what nobody has seen; give the requests that do so."""
        self._is_closed = True
        self.core.env.wake(self.waiters)
        deliveries = list(self._ready)
        self._ready.clear()
        return self._release(deliveries)

    def _release(self, deliveries: list[Delivery]) -> list[Call]:
        leases: dict[int, list[int]] = {}
        for delivery in deliveries:
            leases.setdefault(delivery.partition, []).append(delivery.received.lease)
        return [
            self.core.call(
                partial(self._build_release, partition, lease_ids),
                route=(self.queue, partition),
                timeout_s=self.options.timeout_s,
                is_repeatable=True,
            )
            for partition, lease_ids in leases.items()
        ]

    def _build_release(self, partition: int, leases: list[int], rid: int) -> AnyRequest:
        return Release(rid, queue=self.queue, partition=partition, group=self.options.group, leases=leases)
