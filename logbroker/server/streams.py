"""One subscription of one connection: receives, one after another, while there is credit for what they bring.

A stream is a receive that asks for itself. It leases only what it may push at once: while there is credit, while the
delivery before is not waiting to be written, and while the connection has room. So what waits for a slow reader is one
delivery of each stream, hide time is not spent in buffers, and a reader that stops stops its own streams alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.errors import InvalidArgumentError, NotFoundError, NotLeaderError, UnavailableError
from logbroker.ids import GroupId, GroupName
from logbroker.node.partition_service import MAX_WAIT_MS
from logbroker.node.requests import ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.wire.requests import BatchPart, Delivered, Unsubscribed

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.requests import Part
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Subscribe


@final
class Stream:
    """Belongs to the exchange of its Subscribe, which is over when the stream is."""

    __slots__ = (
        "_count",
        "_credit_bytes",
        "_credit_count",
        "_end",
        "_exchange",
        "_group",
        "_is_asking",
        "_is_starved",
        "_request",
    )

    def __init__(self, exchange: Exchange, request: Subscribe, group: GroupId) -> None:
        self._exchange = exchange
        self._request = request
        self._group = group
        self._credit_count = 0
        # May be below 0: batches that were taken before `max_batch_bytes` was lowered.
        self._credit_bytes = 0
        # A receive is at the partition.
        self._is_asking = False
        # It waits for credit.
        self._is_starved = False
        # Where the last delivery ends in the bytes that go out.
        self._end = 0
        self._count = 0

    @property
    def queue(self) -> str:
        return self._request.queue

    @property
    def has_credit(self) -> bool:
        """Whether whatever may come next is within the credit: one message, in the largest batch."""
        return self._credit_count > 0 and self._credit_bytes >= self._exchange.service.limits.max_batch_bytes

    def grant(self, count: int, size_bytes: int) -> None:
        """Add credit, and go on if that is what it waited for.

        Raises:
            InvalidArgumentError: it would be more than one stream may have; none is added.
        """
        limits = self._exchange.service.limits
        new_count, new_bytes = self._credit_count + count, self._credit_bytes + size_bytes
        for name, value, most in (
            ("credit_count", new_count, limits.max_credit_count),
            ("credit_bytes", new_bytes, limits.max_credit_bytes),
        ):
            if value > most:
                raise InvalidArgumentError(f"{name} comes to {value:,}, above limits.max_{name} {most:,}")
        self._credit_count, self._credit_bytes = new_count, new_bytes
        self.advance()

    def advance(self) -> None:
        """Ask the partition for messages, if there is nothing to wait for before that."""
        exchange, session = self._exchange, self._exchange.session
        if self._is_asking or exchange.is_over or session.closing is not None:
            return
        self._note_starved(is_starved=not self.has_credit)
        if self._is_starved:
            return
        if session.is_full or not session.has_written(self._end):
            session.rest(self)
            return
        request, limits = self._request, exchange.service.limits
        self._is_asking = True
        asked = ReceiveRequest(
            GroupName(request.group),
            max_count=min(request.max_count, limits.max_receive_count, self._credit_count),
            hide_ms=request.hide_ms,
            # Not the queue's: nobody waits for this receive to end.
            wait_ms=MAX_WAIT_MS,
            max_bytes=min(request.max_bytes, limits.max_receive_bytes, self._credit_bytes),
            consumer=request.consumer,
        )
        exchange.ask(self._group, asked, self._on_reply, self._on_error)

    def _note_starved(self, *, is_starved: bool) -> None:
        self._exchange.service.measures.starved_streams += is_starved - self._is_starved
        self._is_starved = is_starved

    def _on_reply(self, reply: ReceiveReply) -> None:
        exchange, session, service = self._exchange, self._exchange.session, self._exchange.service
        self._is_asking = False
        if not reply.lease:
            # Not here, in the middle of what the partition does.
            session.rest(self)
            if not service.backend.defer(session.resume):
                session.resume()
        elif exchange.is_over or not session.still_allows(exchange):
            service.handover.unwanted((self._group, reply.lease), GroupName(self._request.group))
        elif session.is_full:
            # Other replies have taken the room while this one waited. Somebody else may have the messages meanwhile.
            service.backend.submit(
                self._group, ReleaseRequest(GroupName(self._request.group), reply.lease), lambda _: None
            )
            session.rest(self)
        else:
            self._push(reply)

    def _push(self, reply: ReceiveReply) -> None:
        exchange, session, service = self._exchange, self._exchange.session, self._exchange.service
        group, consumer_group = self._group, GroupName(self._request.group)
        body = b"".join([part.batch for part in reply.parts])
        count = sum([end - start for part in reply.parts for start, end, _ in part.ranges])
        self._credit_count -= count
        self._credit_bytes -= len(body)
        delivered = Delivered(
            exchange.rid,
            lease=reply.lease,
            visible_at_ms=reply.visible_at_ms,
            hide_left_ms=reply.hide_left_ms,
            parts=batch_parts(reply.parts),
            credit_count=max(0, self._credit_count),
            credit_bytes=max(0, self._credit_bytes),
        )
        if not session.push(delivered, body):
            service.handover.unwanted((group, reply.lease), consumer_group)
            return
        self._end = session.hand_over(group, reply.lease, consumer_group)
        if self._request.release_on_close:
            session.hold(
                group, reply.lease, consumer_group, end=self._end, count=count, hide_left_ms=reply.hide_left_ms
            )
        self._count += count
        service.measures.pushed_deliveries += 1
        traffic = service.measures.queue(self._request.queue)
        traffic.received_messages += count
        traffic.received_bytes += len(body)
        if self.has_credit:
            session.rest(self)
        else:
            self._note_starved(is_starved=True)

    def _on_error(self, error: LogBrokerError) -> None:
        self._is_asking = False
        self._exchange.fail(self._queue_is_gone() or error)

    def check(self) -> None:
        """End it where the partition is not led here any more, or is gone: one that rests would not learn it."""
        backend = self._exchange.service.backend
        gone = self._queue_is_gone()
        leader = backend.leader_node(self._group)
        if gone is not None:
            self._end_asking()
            self._exchange.fail(gone)
        elif not self._is_asking and leader != backend.node:
            # A receive that waits is told by its partition, which knows it better.
            place = f"{self._request.queue}/{self._request.partition}"
            self._exchange.fail(NotLeaderError(f"this node does not lead {place} any more", leader=leader))

    def _queue_is_gone(self) -> NotFoundError | None:
        request = self._request
        try:
            row = self._exchange.service.backend.catalogue.queue(request.queue)
        except UnavailableError:
            return None
        if row is not None and request.partition < len(row.groups) and row.groups[request.partition] == self._group:
            return None
        return NotFoundError(f"queue {request.queue} was deleted")

    def unsubscribe(self) -> None:
        """End it as the client wants. A lease that is on its way to the log goes back when it comes from there."""
        self._end_asking()
        self._exchange.reply(Unsubscribed(self._exchange.rid, count=self._count))

    def _end_asking(self) -> None:
        if self._is_asking:
            self._exchange.abandon()

    def end(self) -> None:
        """The exchange is over."""
        self._note_starved(is_starved=False)


def batch_parts(parts: tuple[Part, ...]) -> list[BatchPart]:
    """What a receive gave, as a reply tells it."""
    return [
        BatchPart(
            size_bytes=len(part.batch),
            base_offset=part.base_offset,
            append_ms=part.append_ms,
            ranges=list(part.ranges),
            repacked=part.repacked,
        )
        for part in parts
    ]
