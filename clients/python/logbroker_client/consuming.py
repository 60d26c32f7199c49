"""What a consumer decides: which partitions to ask for messages, how many at once, and what to do with them.

Each partition has one receive that waits at the server. One that has just given messages may have more
on their way, so that a backlog drains without pauses. What is on its way or arrived and not taken is
bounded.

A receive keeps its request id until it is answered, so that a repeat after a lost reply gets the lease
that was made and not a second one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.errors import RemoteProtocolError, UnavailableError
from logbroker.wire.requests import Receive, Received
from logbroker_client.inbox import ConsumerStatistics, Inbox, leases_no_more

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest
    from logbroker_client.calls import Call
    from logbroker_client.core import ClientCore
    from logbroker_client.inbox import Delivery
    from logbroker_client.options import ConsumerOptions


@final
class _Source:
    """One partition, and how many receives it has on their way."""

    __slots__ = ("is_flowing", "outstanding_count", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.outstanding_count = 0
        # Its last answer had messages.
        self.is_flowing = False


@final
class ConsumerCore:
    """One consumer of one queue, whose metadata is known."""

    def __init__(self, core: ClientCore, queue: str, options: ConsumerOptions) -> None:
        self.core = core
        self.queue = queue
        self.options = options
        self.inbox = Inbox(core, queue, options)
        self._sources: list[_Source] = []
        self._next = 0
        self._outstanding_count = 0

    def statistics(self) -> ConsumerStatistics:
        inbox = self.inbox
        return ConsumerStatistics(self._outstanding_count, len(inbox), inbox.expired_count, inbox.lost_count)

    # --- receiving ---

    def start(self) -> None:
        """Ask for messages, as far as there is room for them."""
        if self.inbox.is_closed or self.inbox.error is not None:
            return
        self._grow()
        room = self.options.prefetch_count + len(self._sources) - self._outstanding_count - len(self.inbox)
        while room > 0:
            source = self._pick()
            if source is None:
                return
            self._receive(source, self.core.take_request_id())
            room -= 1

    def _grow(self) -> None:
        for partition in range(len(self._sources), self.core.routes.partition_count(self.queue)):
            self.inbox.add_settler(partition)
            self._sources.append(_Source(partition))

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
        return Receive(
            rid,
            queue=self.queue,
            partition=partition,
            group=options.group,
            max_count=options.max_messages,
            max_bytes=options.max_bytes,
            hide_ms=self.inbox.hide_ms(),
            wait_ms=min(int(options.wait_s * 1000), self.core.limits.max_wait_ms),
            session=self.core.session,
            request_id=request_id,
            consumer=options.name,
            release_on_close=self.inbox.releases_on_close,
        )

    def _on_received(self, source: _Source, request_id: int, call: Call) -> None:
        source.outstanding_count -= 1
        self._outstanding_count -= 1
        reply = call.reply
        if isinstance(reply, Received):
            source.is_flowing = bool(reply.parts)
            if not leases_no_more(reply, self.options.max_messages):
                self.inbox.fail(
                    RemoteProtocolError(f"a receive from {self.queue}/{source.partition} leased what nobody asked for")
                )
            elif reply.parts:
                self.inbox.put(source.partition, reply, call, call.body)
        elif isinstance(call.error, UnavailableError) and not (self.inbox.is_closed or self.core.is_closed):
            # Out of reach for long, or forgotten by the server. The lease may exist: the same again.
            self._receive(source, request_id)
        elif call.error is not None:
            self.inbox.fail(call.error)
        self.start()

    # --- taking ---

    def take(self) -> Delivery | None:
        """The next lease that is not over; None when there is none yet. Errors come after deliveries."""
        while (delivery := self.inbox.pop()) is not None:
            self.start()
            if self.inbox.is_current(delivery):
                return delivery
        return None

    # --- the end ---

    def close(self) -> list[Call]:
        """Ask for nothing more and give back what nobody has seen; give the requests that do so."""
        return self.inbox.close()
