"""Receive and release: a lease, and the stored batches that hold its messages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError, StaleLeaseError
from logbroker.ids import GroupId, GroupName, LeaseId
from logbroker.node.requests import ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.server.streams import batch_parts
from logbroker.wire.requests import Done, Received

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import Receive, Release

MAX_RELEASED_LEASES = 1_000


def receive(exchange: Exchange, request: Receive, body: bytes) -> None:
    """Counts, sizes and waits beyond the limits are taken as the limit; they are "up to" anyway."""
    service = exchange.service
    limits = service.limits
    queue = service.queue(request.queue)
    group = service.partition(request.queue, request.partition)
    if request.hide_ms > limits.max_hide_ms:
        raise InvalidArgumentError(f"hide_ms {request.hide_ms:,} is above limits.max_hide_ms {limits.max_hide_ms:,}")
    asked = ReceiveRequest(
        GroupName(request.group),
        max_count=min(request.max_count, limits.max_receive_count),
        hide_ms=request.hide_ms,
        wait_ms=min(request.wait_ms, limits.max_wait_ms, queue.settings.max_wait_ms),
        max_bytes=min(request.max_bytes, limits.max_receive_bytes),
        consumer=request.consumer,
        session=request.session,
        request_id=request.request_id,
    )
    exchange.ask(group, asked, partial(_answer, exchange, request, group))


def _answer(exchange: Exchange, request: Receive, group: GroupId, reply: ReceiveReply) -> None:
    service, consumer_group = exchange.service, GroupName(request.group)
    if reply.lease and (exchange.is_over or not exchange.session.still_allows(exchange)):
        service.handover.unwanted((group, reply.lease), consumer_group)
        return
    received = Received(
        request.rid,
        lease=reply.lease,
        visible_at_ms=reply.visible_at_ms,
        hide_left_ms=reply.hide_left_ms,
        parts=batch_parts(reply.parts),
    )
    batches = b"".join([part.batch for part in reply.parts])
    is_heard = exchange.reply(received, batches)
    if not reply.lease:
        return
    if not is_heard:
        service.handover.unwanted((group, reply.lease), consumer_group)
        return
    end = exchange.session.hand_over(group, reply.lease, consumer_group)
    count = sum([end - start for part in reply.parts for start, end, _ in part.ranges])
    if request.release_on_close:
        exchange.session.hold(group, reply.lease, consumer_group, end=end, count=count, hide_left_ms=reply.hide_left_ms)
    traffic = service.measures.queue(request.queue)
    traffic.received_messages += count
    traffic.received_bytes += len(batches)


def release(exchange: Exchange, request: Release, body: bytes) -> None:
    """Give back leases that nobody has seen. One that is over already needs nothing."""
    if len(request.leases) > MAX_RELEASED_LEASES:
        raise InvalidArgumentError(f"{len(request.leases)} leases in one release; the most is {MAX_RELEASED_LEASES}")
    group = exchange.service.partition(request.queue, request.partition)
    left = len(request.leases)
    if not left:
        exchange.reply(Done(request.rid))

    def count_down() -> None:
        nonlocal left
        left -= 1
        if not left:
            exchange.reply(Done(request.rid))

    def on_reply(lease: LeaseId, _: object) -> None:
        exchange.session.note_released(group, lease)
        count_down()

    def on_error(error: LogBrokerError) -> None:
        if isinstance(error, StaleLeaseError):
            count_down()
        else:
            exchange.fail(error)

    for lease in map(LeaseId, request.leases):
        exchange.ask(group, ReleaseRequest(GroupName(request.group), lease), partial(on_reply, lease), on_error)
