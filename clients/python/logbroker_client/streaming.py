"""What a consumer by subscription decides: how much its servers may push, and when they may push more.

Each partition has one stream from its leader, and a window: what the server may push, what has arrived and what the
application works on are together no more than the credit. The application is through with a delivery when it asks for
the next one; then its share of the window is granted anew, in few and large pieces.

A stream is a call without a deadline (`calls`), so that it goes to another node when the leadership does and comes back
after a lost connection by itself; each try begins with the credit that there is at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.errors import InvalidArgumentError, RemoteProtocolError
from logbroker.wire.requests import Credit, Delivered, Subscribe, Unsubscribe
from logbroker_client.inbox import ConsumerStatistics, Inbox, leases_no_more

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyReply, AnyRequest
    from logbroker_client.calls import Call
    from logbroker_client.core import ClientCore
    from logbroker_client.inbox import Delivery
    from logbroker_client.links import Link
    from logbroker_client.options import SubscriptionOptions

# How often partitions are counted: queues grow.
_LOOK_S = 5.0


@final
class _Stream:
    """The stream of one partition; as a `Lane` it sends its credit."""

    def __init__(
        self, core: ClientCore, queue: str, partition: int, options: SubscriptionOptions, inbox: Inbox
    ) -> None:
        self.queue = queue
        self.partition = partition
        self.is_marked = False
        self._core = core
        self._options = options
        self._inbox = inbox
        # Of the Subscribe that was sent last.
        self._rid = 0
        # What the server may push still. Bytes may fall below 0: a batch that is larger than any may be by now.
        self._left_count = self._left_bytes = 0
        # What has arrived, as long as the application is not through with it.
        self._held_count = self._held_bytes = 0
        self.call = core.call(
            self._build,
            route=(queue, partition),
            timeout_s=float("inf"),
            is_repeatable=True,
            on_done=self._on_done,
            on_push=self._on_push,
        )

    def _build(self, rid: int) -> AnyRequest:
        options = self._options
        self._rid = rid
        self._left_count = options.credit_count - self._held_count
        self._left_bytes = max(0, options.credit_bytes - self._held_bytes)
        return Subscribe(
            rid,
            queue=self.queue,
            partition=self.partition,
            group=options.group,
            hide_ms=self._inbox.hide_ms(),
            credit_count=self._left_count,
            credit_bytes=self._left_bytes,
            # While the application works on one half, the other is on its way.
            max_count=min(options.max_messages, max(1, options.credit_count // 2)),
            max_bytes=options.max_bytes,
            consumer=options.name,
            release_on_close=self._inbox.releases_on_close,
        )

    def _on_push(self, reply: AnyReply, body: bytes) -> None:
        if not isinstance(reply, Delivered):
            return
        if not leases_no_more(reply, self._left_count):
            place = f"{self.queue}/{self.partition}"
            self._inbox.fail(RemoteProtocolError(f"a stream of {place} leased what there is no credit for"))
            self.unsubscribe()
            return
        delivery = self._inbox.put(self.partition, reply, self.call, body)
        self._left_count -= delivery.count
        self._left_bytes -= len(body)
        self._held_count += delivery.count
        self._held_bytes += len(body)

    def _on_done(self, call: Call) -> None:
        ended = RemoteProtocolError(
            f"the server has ended the stream of {self.queue}/{self.partition} without a reason"
        )
        self._inbox.fail(call.error or ended)

    # --- credit ---

    def taken(self, delivery: Delivery) -> None:
        """The application is through with it, or it is over."""
        self._held_count -= delivery.count
        self._held_bytes -= len(delivery.body)
        if self._is_due():
            self._core.mark(self)

    def _owed(self) -> tuple[int, int]:
        options = self._options
        count = options.credit_count - self._held_count - self._left_count
        return count, max(0, options.credit_bytes - self._held_bytes - self._left_bytes)

    def _is_due(self) -> bool:
        count, size_bytes = self._owed()
        if 0 < self._options.credit_count <= 2 * count or 0 < self._options.credit_bytes <= 2 * size_bytes:
            return True
        # With less than that the server rests, however small the next batch is.
        return size_bytes > 0 and self._left_bytes < self._core.limits.max_batch_bytes

    def pump(self, link: Link) -> bool:
        if self.call.link is not link or not self._is_due():
            return False
        if not link.is_writable:
            return True
        count, size_bytes = self._owed()
        self._left_count += count
        self._left_bytes += size_bytes
        subscription = self._rid
        self._core.tell(
            link,
            lambda rid: Credit(
                rid, queue=self.queue, subscription=subscription, credit_count=count, credit_bytes=size_bytes
            ),
        )
        return False

    def sweep(self, now: float) -> bool:
        # Whoever subscribes again gives the credit with that.
        return False

    # --- the end ---

    def unsubscribe(self) -> None:
        """Ask for nothing more. What is on its way still arrives before the call is done."""
        call, subscription = self.call, self._rid
        self._core.drop(self)
        call.is_last_try = True
        call.deadline = self._core.env.clock() + self._options.timeout_s
        is_told = call.link is not None and self._core.tell(
            call.link, lambda rid: Unsubscribe(rid, queue=self.queue, subscription=subscription)
        )
        if not is_told:
            self._core.abandon(call)


@final
class StreamCore:
    """One consumer of one queue by subscription; `consuming.ConsumerCore` is the other kind.

    Raises:
        InvalidArgumentError: the credit in bytes is less than a batch may have, so nothing would ever be pushed.
    """

    def __init__(self, core: ClientCore, queue: str, options: SubscriptionOptions) -> None:
        largest = core.limits.max_batch_bytes
        if options.credit_bytes < largest:
            raise InvalidArgumentError(
                f"credit_bytes is {options.credit_bytes}, less than the largest batch of {largest} bytes"
            )
        self.core = core
        self.queue = queue
        self.options = options
        self.inbox = Inbox(core, queue, options)
        self._streams: list[_Stream] = []
        # What the application works on.
        self._taken: list[Delivery] = []

    def statistics(self) -> ConsumerStatistics:
        open_count = sum(stream.call.link is not None for stream in self._streams)
        return ConsumerStatistics(open_count, len(self.inbox), self.inbox.expired_count, self.inbox.lost_count)

    def start(self) -> None:
        """Subscribe to every partition that there is, and go on looking for more."""
        if self.inbox.is_closed or self.inbox.error is not None or self.core.is_closed:
            return
        for partition in range(len(self._streams), self.core.routes.partition_count(self.queue)):
            self.inbox.add_settler(partition)
            self._streams.append(_Stream(self.core, self.queue, partition, self.options, self.inbox))
        self.core.add_timer(_LOOK_S, self.start)

    def take(self) -> Delivery | None:
        """The next lease that is not over; None when there is none yet. Errors come after deliveries."""
        taken, self._taken = self._taken, []
        for delivery in taken:
            self._streams[delivery.partition].taken(delivery)
        while (found := self.inbox.pop()) is not None:
            if self.inbox.is_current(found):
                self._taken.append(found)
                return found
            self._streams[found.partition].taken(found)
        return None

    def close(self) -> list[Call]:
        """End the streams and give back what nobody has seen; give the requests that do so.

        More are added while the streams end: those for what was on its way.
        """
        calls = self.inbox.close()
        for stream in self._streams:
            if not stream.call.is_done:
                stream.unsubscribe()
        calls[:0] = [stream.call for stream in self._streams]
        return calls
