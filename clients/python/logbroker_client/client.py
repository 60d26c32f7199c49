"""The client on any event loop: everything that is not a message."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from typing_extensions import TypeVar, Unpack

from logbroker.errors import InvalidArgumentError, NotFoundError, UnavailableError
from logbroker.wire.requests import (
    AlterQueue,
    AnyRequest,
    Cancel,
    CreateGroup,
    CreateQueue,
    CreateToken,
    DeadList,
    DeleteGroup,
    DeleteQueue,
    DeleteToken,
    DescribeGroups,
    DescribeQueue,
    Done,
    EarliestTarget,
    GroupDescription,
    GroupDescriptions,
    LatestTarget,
    ListDead,
    ListQueues,
    ListTokens,
    MessageTarget,
    MoveMessages,
    Moving,
    OffsetTarget,
    PauseGroup,
    Peek,
    Peeked,
    Purged,
    PurgeGroup,
    QueueChanges,
    QueueDescription,
    QueueInfo,
    QueueList,
    RelativeTarget,
    Reply,
    ResumeGroup,
    Revive,
    Revived,
    Rewind,
    Rewound,
    Status,
    StatusReply,
    Target,
    TimeTarget,
    TokenCreated,
    TokenInfo,
    TokenList,
)
from logbroker.wire.requests import Cancelled as CancelledReply
from logbroker_client.calls import Anywhere, Call
from logbroker_client.consumer import Consumer
from logbroker_client.dead import DEAD_PAGE, DeadMessages, message_ranges
from logbroker_client.delays import Cancelled
from logbroker_client.messages import MessageId
from logbroker_client.moves import RedrivePlan, RedriveProgress, move_ranges, origins, pieces
from logbroker_client.options import ConsumerOptions, ProducerOptions, SubscriptionOptions
from logbroker_client.peeking import PEEK_PAGE, PEEK_PAGE_BYTES, PeekedMessage, opened
from logbroker_client.producer import Producer
from logbroker_client.queue_options import QueueOptions, milliseconds, natural, queue_settings, wire_options
from logbroker_client.settling import join_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from logbroker.wire.requests import DeadRow
    from logbroker_client.codecs import MessageCodec
    from logbroker_client.core import ClientCore
    from logbroker_client.moves import Destination
    from logbroker_client.options import OnClose
    from logbroker_client.waits import Waits

_R = TypeVar("_R", bound=Reply)
_Sent = TypeVar("_Sent", default=bytes | bytearray | memoryview)
_Read = TypeVar("_Read", default=bytes)

Position: TypeAlias = datetime | timedelta | int | MessageId | Literal["earliest", "latest"]
"""Where to go in a queue: a time (with its zone), back by a duration, an offset of every partition or
back by a count if it is negative, a message, or an end of the log."""


@final
class Client:
    """A connected client; made by `connect`. All methods may be used by many tasks at once."""

    def __init__(self, core: ClientCore, waits: Waits) -> None:
        self.core = core
        self.waits = waits

    # --- messages ---

    def producer(
        self,
        queue: str,
        *,
        codec: MessageCodec[_Sent] | None = None,
        timeout: float | None = None,
        batch_bytes: int = 512 * 1024,
        linger: float = 0.0,
        compression: bool = True,
        max_buffered_bytes: int = 32 * 1024 * 1024,
    ) -> Producer[_Sent]:
        """A producer, for use in `async with`.

        `codec` makes bytes of what is sent (`logbroker_client.codecs`); without one it is bytes.
        `timeout` is how long a message is tried, in seconds. `batch_bytes` is what a batch holds at most;
        from 256 KiB on it does not wait for the one before it. `linger` makes smaller ones wait for company,
        in seconds; batching needs no such help. Sends wait while `max_buffered_bytes` are unconfirmed.
        """
        options = ProducerOptions(
            timeout_s=self.core.options.timeout_s if timeout is None else timeout,
            batch_bytes=batch_bytes,
            linger_s=linger,
            is_compressed=compression,
            max_buffered_bytes=max_buffered_bytes,
        )
        return Producer(self, queue, options, codec)

    def consumer(
        self,
        queue: str,
        *,
        group: str = "default",
        codec: MessageCodec[_Read] | None = None,
        hide: float | None = None,
        wait: float = 20.0,
        max_messages: int = 1000,
        max_bytes: int = 1024 * 1024,
        prefetch: int = 4,
        timeout: float | None = None,
        name: str = "",
        on_close: OnClose = "keep",
    ) -> Consumer[_Read]:
        """A consumer, for use in `async with`.

        `codec` makes `message.body` of its value (`logbroker_client.codecs`).
        `hide` is how long messages stay hidden from the group's other consumers, in seconds, and begins
        when the server hands them out: with slow work take few at once (`max_messages`, `prefetch`).
        None takes the queue's setting. `wait` is how long a receive waits at the server. `prefetch` is
        how many receives may be fetched ahead, beside one for each partition. `name` is for traces.

        With `on_close="release"` the server takes back what is not settled when the connection that it came by ends,
        for whatever reason: within half a second others get it, and the delivery does not count. So after a reconnect
        these messages are not this consumer's any more. What it has fetched ahead is dropped then; an ack of what the
        application works on raises StaleLeaseError once it is taken back, and does its work before. The connections
        are the client's: leaving the consumer's block ends none. Hide time is the net where the server cannot do it.
        """
        options = ConsumerOptions(
            group=group,
            hide_s=hide,
            wait_s=wait,
            max_messages=max_messages,
            max_bytes=max_bytes,
            prefetch_count=prefetch,
            timeout_s=self.core.options.timeout_s if timeout is None else timeout,
            name=name,
            on_close=on_close,
        )
        return Consumer(self, queue, options, codec)

    def subscribe(
        self,
        queue: str,
        *,
        group: str = "default",
        codec: MessageCodec[_Read] | None = None,
        hide: float | None = None,
        credit: int = 1000,
        credit_bytes: int = 4 * 1024 * 1024,
        max_messages: int = 1000,
        max_bytes: int = 1024 * 1024,
        timeout: float | None = None,
        name: str = "",
        on_close: OnClose = "keep",
    ) -> Consumer[_Read]:
        """As `consumer`, with messages that are pushed as they become available.

        `credit` and `credit_bytes` bound what is pushed, has arrived and is worked on, for each partition; a batch is
        worked on until the next one is taken. Nothing is leased beyond it, so hide time begins about when there is
        somebody to work: with slow work give little credit. `max_messages` and `max_bytes` are of one delivery, which
        takes half of the credit at the most. `on_close` is that of `consumer`.
        """
        options = SubscriptionOptions(
            group=group,
            hide_s=hide,
            credit_count=credit,
            credit_bytes=credit_bytes,
            max_messages=max_messages,
            max_bytes=max_bytes,
            timeout_s=self.core.options.timeout_s if timeout is None else timeout,
            name=name,
            on_close=on_close,
        )
        return Consumer(self, queue, options, codec)

    def queue(self, name: str) -> Queue:
        """The operations on one queue, which need not exist yet."""
        return Queue(self, name)

    # --- queues ---

    async def create_queue(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: timedelta = timedelta(days=4),
        hide: float = 30.0,
        max_wait: float = 30.0,
        max_deliveries: int = 0,
        **options: Unpack[QueueOptions],
    ) -> None:
        """Create a queue. `hide` and `max_wait` are in seconds; a message that fails `max_deliveries` times is dead.

        What else there is to choose is in `QueueOptions`.

        Raises:
            AlreadyExistsError: there is one of this name.
        """
        settings = queue_settings(partitions, retention, hide, max_wait, max_deliveries, options)
        await self._ask(lambda rid: CreateQueue(rid, name=name, settings=settings), Done, is_repeatable=False)

    async def alter_queue(
        self,
        name: str,
        *,
        partitions: int | None = None,
        retention: timedelta | None = None,
        hide: float | None = None,
        max_wait: float | None = None,
        max_deliveries: int | None = None,
        **options: Unpack[QueueOptions],
    ) -> None:
        """Change settings of a queue; what is None or not given stays. Partitions can only become more."""
        changes = QueueChanges(
            partitions=None if partitions is None else natural("partitions", partitions),
            retention_ms=None if retention is None else milliseconds("retention", retention.total_seconds()),
            hide_ms=None if hide is None else milliseconds("hide", hide),
            max_wait_ms=None if max_wait is None else milliseconds("max_wait", max_wait),
            max_delivery_count=max_deliveries,
            **wire_options(options),
        )
        await self._ask(lambda rid: AlterQueue(rid, name=name, changes=changes), Done, is_repeatable=True)

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all its messages, for good."""
        await self._ask(lambda rid: DeleteQueue(rid, name=name), Done, is_repeatable=False)

    async def list_queues(self) -> list[QueueInfo]:
        return (await self._ask(lambda rid: ListQueues(rid), QueueList, is_repeatable=True)).queues

    async def describe_queue(self, name: str) -> QueueDescription:
        """Settings, replicas and counts, as the partitions' leaders know them at this moment."""
        return await self._ask(lambda rid: DescribeQueue(rid, name=name), QueueDescription, is_repeatable=True)

    # --- consumer groups ---

    async def create_group(self, queue: str, group: str, *, start: Position = "latest") -> None:
        """Create a consumer group of a queue, which sees the messages from `start` on."""
        target = target_of(start)
        await self._ask(lambda rid: CreateGroup(rid, queue=queue, group=group, start=target), Done, is_repeatable=False)

    async def describe_groups(self, queue: str) -> list[GroupDescription]:
        """The consumer groups of a queue by name, with counts and lag, exact as of this moment.

        A partition that has not answered is there with its `problem`, and is in no sum.
        """
        return await self._describe_groups(queue, "")

    async def describe_group(self, queue: str, group: str) -> GroupDescription:
        """One consumer group; as `describe_groups`.

        Raises:
            NotFoundError: the queue has none of this name.
        """
        if not group:
            raise InvalidArgumentError("a consumer group has a name")
        [found] = await self._describe_groups(queue, group)
        return found

    async def _describe_groups(self, queue: str, group: str) -> list[GroupDescription]:
        reply = await self._ask(
            lambda rid: DescribeGroups(rid, queue=queue, group=group), GroupDescriptions, is_repeatable=True
        )
        return reply.groups

    async def delete_group(self, queue: str, group: str) -> None:
        await self._ask(lambda rid: DeleteGroup(rid, queue=queue, group=group), Done, is_repeatable=False)

    async def pause_group(
        self, queue: str, group: str = "default", *, reason: str = "", duration: timedelta | None = None
    ) -> None:
        """Have nothing delivered to a group until it is resumed, or for `duration`, by the broker's clock.

        Consumers stay connected and wait; what they hold they settle as ever. A second pause replaces the first.

        Raises:
            InvalidArgumentError: `duration` is less than a second or longer than messages can be kept.
        """
        duration_ms = 0 if duration is None else milliseconds("duration", duration.total_seconds())
        await self._ask(
            lambda rid: PauseGroup(rid, queue=queue, group=group, reason=reason, duration_ms=duration_ms),
            Done,
            is_repeatable=True,
        )

    async def resume_group(self, queue: str, group: str = "default") -> None:
        """Have a paused group delivered to again; a group that is not paused stays as it is."""
        await self._ask(lambda rid: ResumeGroup(rid, queue=queue, group=group), Done, is_repeatable=True)

    async def purge(self, queue: str, *, group: str = "default") -> Purged:
        """Settle all that a group has, the dead too, up to the present end of the log. Leases of it end.

        Every partition does it for itself, and once, however often it is asked under the hood. Where some could not,
        the error says so; another purge finishes it. The messages stay for other groups, and a rewind brings them back.
        """
        purge_id = self.core.env.new_id()
        return await self._ask(
            lambda rid: PurgeGroup(rid, queue=queue, group=group, purge_id=purge_id), Purged, is_repeatable=True
        )

    async def rewind(self, queue: str, *, to: Position, group: str = "default", clamp: bool = False) -> Rewound:
        """Make a group's messages from `to` on available again, acked ones too.

        What lies before `to` and is not acked stays as it is. Leases of what lies behind it end.
        Repeated under the hood until it is answered; it is carried out once.

        Raises:
            OffsetOutOfRangeError: `to` lies outside of what is retained, and `clamp` is false.
        """
        return await self._rewind(queue, group, target_of(to), is_forward=False, clamp=clamp)

    async def skip_to(self, queue: str, *, to: Position, group: str = "default", clamp: bool = False) -> Rewound:
        """Move a group forward: everything before `to` is settled without being delivered."""
        return await self._rewind(queue, group, target_of(to), is_forward=True, clamp=clamp)

    async def _rewind(self, queue: str, group: str, target: Target, *, is_forward: bool, clamp: bool) -> Rewound:
        rewind_id = self.core.env.new_id()
        return await self._ask(
            lambda rid: Rewind(
                rid,
                queue=queue,
                group=group,
                rewind_id=rewind_id,
                target=target,
                forward=is_forward,
                clamp=clamp,
            ),
            Rewound,
            is_repeatable=True,
        )

    async def peek(
        self,
        queue: str,
        *,
        group: str = "default",
        start: Position | None = None,
        max_count: int = 10,
        max_bytes: int = 1024 * 1024,
    ) -> list[PeekedMessage]:
        """Look at messages as a group has them, by partition and offset, without leasing them or changing anything.

        Without `start` these are the next ones that are not settled; from a `start` on, acked and dead ones too. At
        most `max_count` messages, and batches of `max_bytes`, though the last batch may go beyond that.

        Raises:
            InvalidArgumentError: a bound is not positive, or one page is above what the server allows.
        """
        natural("max_count", max_count)
        natural("max_bytes", max_bytes)
        target = EarliestTarget() if start is None else target_of(start)
        await self.load_queue(queue)
        partitions = range(self.core.routes.partition_count(queue))
        if isinstance(target, MessageTarget):
            partitions = range(target.offsets[0][0], target.offsets[0][0] + 1)
        found: list[PeekedMessage] = []
        for partition in partitions:
            place: Target | None = target
            while place is not None and len(found) < max_count and max_bytes > 0:
                page = min(max_count - len(found), PEEK_PAGE)
                reply, body = await self._peek_page(
                    queue,
                    partition,
                    group,
                    place,
                    page,
                    min(max_bytes, PEEK_PAGE_BYTES),
                    with_settled=start is not None,
                )
                found += opened(queue, partition, reply, body, max_count=page)
                max_bytes -= len(body)
                is_new = not isinstance(place, OffsetTarget) or reply.next_offset > place.offset
                place = OffsetTarget(reply.next_offset) if reply.next_offset < reply.log_end and is_new else None
        return found

    async def _peek_page(
        self,
        queue: str,
        partition: int,
        group: str,
        start: Target,
        max_count: int,
        max_bytes: int,
        *,
        with_settled: bool,
    ) -> tuple[Peeked, bytes]:
        call = self.core.call(
            lambda rid: Peek(
                rid,
                queue=queue,
                partition=partition,
                group=group,
                start=start,
                max_count=max_count,
                max_bytes=max_bytes,
                with_settled=with_settled,
            ),
            route=(queue, partition),
            timeout_s=self.core.options.timeout_s,
            is_repeatable=True,
        )
        await self._wait(call)
        if not isinstance(call.reply, Peeked):
            # The protocol has checked it.
            raise UnavailableError("no Peeked in answer")
        return call.reply, call.body

    async def dead(self, queue: str, *, group: str = "default", max_count: int = 1_000) -> list[DeadMessages]:
        """The dead messages of a group, by partition and offset, at most `max_count` runs of neighbours."""
        await self.load_queue(queue)
        found: list[DeadMessages] = []
        for partition in range(self.core.routes.partition_count(queue)):
            start_offset = 0
            while len(found) < max_count:
                rows = await self._dead_page(queue, partition, group, start_offset, max_count - len(found))
                if not rows:
                    break
                found += [DeadMessages.of(partition, row) for row in rows]
                start_offset = rows[-1].end
        return found

    async def revive(self, queue: str, *, group: str = "default", messages: Iterable[MessageId] | None = None) -> int:
        """Make dead messages available again, as if they had never been delivered; None takes all that are dead now.

        Returns:
            How many were revived; what is not dead stays as it is.
        """
        await self.load_queue(queue)
        if messages is not None:
            count = 0
            for partition, ranges in message_ranges(queue, messages):
                count += await self._revive(queue, partition, group, ranges)
            return count
        count = 0
        for partition in range(self.core.routes.partition_count(queue)):
            start_offset = 0
            while rows := await self._dead_page(queue, partition, group, start_offset, DEAD_PAGE):
                count += await self._revive(
                    queue, partition, group, join_ranges([(row.start, row.end) for row in rows])
                )
                start_offset = rows[-1].end
        return count

    async def cancel(self, queue: str, messages: Iterable[MessageId]) -> Cancelled:
        """Never deliver messages that are not due yet, to any consumer group. May be repeated, with the same answer.

        Raises:
            OffsetOutOfRangeError: one is not there yet.
        """
        await self.load_queue(queue)
        cancelled = late = 0
        for partition, ranges in message_ranges(queue, messages):
            reply = await self._cancel(queue, partition, ranges)
            cancelled += reply.cancelled
            late += reply.late
        return Cancelled(cancelled, late)

    async def _cancel(self, queue: str, partition: int, ranges: list[tuple[int, int]]) -> CancelledReply:
        return await self._ask(
            lambda rid: Cancel(rid, queue=queue, partition=partition, ranges=ranges),
            CancelledReply,
            route=(queue, partition),
            is_repeatable=True,
        )

    async def _dead_page(
        self, queue: str, partition: int, group: str, start_offset: int, max_count: int
    ) -> list[DeadRow]:
        reply = await self._ask(
            lambda rid: ListDead(
                rid,
                queue=queue,
                partition=partition,
                group=group,
                start_offset=start_offset,
                max_count=min(max_count, DEAD_PAGE),
            ),
            DeadList,
            route=(queue, partition),
            is_repeatable=True,
        )
        return reply.rows

    async def _revive(self, queue: str, partition: int, group: str, ranges: list[tuple[int, int]]) -> int:
        reply = await self._ask(
            lambda rid: Revive(rid, queue=queue, partition=partition, group=group, ranges=ranges),
            Revived,
            route=(queue, partition),
            is_repeatable=True,
        )
        return reply.count

    async def move(
        self,
        queue: str,
        *,
        messages: Iterable[MessageId],
        to: str,
        to_partition: int | None = None,
        group: str = "default",
    ) -> int:
        """Move messages to another queue, each once: what of them is available or dead in `group`, as they are now.

        They keep their partition, as far as the other queue has it, unless there is a `to_partition`; it may be another
        than that of their keys there. Their headers say where they were first (`Message.history`). Here they are never
        delivered again, to that group. The right to rewind is needed, and to produce there. If cancelled, some may be
        on their way; asking again moves the rest.

        Returns:
            How many are on their way. One that the log has lost stays as it is.
        """
        await self.load_queue(to)
        partitions = self.core.routes.partition_count(to)
        count = 0
        for partition, ranges in move_ranges(queue, messages):
            wanted = partition % partitions if to_partition is None else to_partition
            count += await self._move(queue, partition, group, ranges, (to, wanted))
        return count

    async def redrive(
        self,
        queue: str,
        *,
        to: str | None = None,
        group: str = "default",
        where: Callable[[PeekedMessage], bool] | None = None,
        rate: float | None = None,
        on_progress: Callable[[RedriveProgress], None] | None = None,
    ) -> RedriveProgress:
        """Move the messages of a dead-letter queue back to where they came from, or all to the queue `to`.

        Those that are there and available now are looked at, page by page; those for which `where` is true, or all
        without it, are moved, at most `rate` a second. Messages that were never moved need a `to`. It may be cancelled
        at any time: nothing is lost or doubled by that, and the next redrive goes on with the rest. Where an answer is
        lost, as when a leader goes, messages are on their way that the totals do not count as moved.
        """
        if rate is not None and not rate > 0:
            raise InvalidArgumentError(f"rate {rate} is not a positive number of messages a second")
        await self.load_queue(queue)
        counts = await self._describe_groups(queue, group)
        total = sum([found.available for found in counts])
        plan = RedrivePlan(to=to, where=where, partitions=self.core.routes.partition_count)
        known: set[str] = set()
        moved = 0
        for partition in range(self.core.routes.partition_count(queue)):
            place: Target = EarliestTarget()
            # What dies again meanwhile is not moved again.
            end: int | None = None
            while True:
                page = PEEK_PAGE if rate is None else max(1, min(PEEK_PAGE, int(rate)))
                reply, body = await self._peek_page(
                    queue, partition, group, place, page, PEEK_PAGE_BYTES, with_settled=False
                )
                end = reply.log_end if end is None else end
                found = [one for one in opened(queue, partition, reply, body, max_count=page) if one.offset < end]
                for name in ({to} if to else origins(found)) - known:
                    # One that is gone has no partitions, and its messages stay.
                    await self._wait(self.core.ask_metadata([name], timeout_s=self.core.options.timeout_s))
                    known.add(name)
                moved_before = moved
                for destination, ranges in plan.sorted(found).items():
                    for part in pieces(ranges):
                        moved += await self._move(queue, partition, group, part, destination)
                progress = RedriveProgress(moved, plan.skipped, max(0, total - moved - plan.skipped))
                if on_progress is not None and found:
                    on_progress(progress)
                is_new = not isinstance(place, OffsetTarget) or reply.next_offset > place.offset
                place = OffsetTarget(reply.next_offset)
                if reply.next_offset >= end or not is_new:
                    break
                if rate is not None and moved > moved_before:
                    await self._pause((moved - moved_before) / rate)
        return RedriveProgress(moved, plan.skipped, max(0, total - moved - plan.skipped))

    async def _pause(self, seconds: float) -> None:
        await self.waits.within(seconds, partial(self.waits.among, {}))

    async def _move(
        self, queue: str, partition: int, group: str, ranges: list[tuple[int, int]], to: Destination
    ) -> int:
        """Ask until nothing of the ranges is left; one answer covers what one copy holds."""
        total = 0
        while True:
            reply = await self._ask(
                lambda rid: MoveMessages(
                    rid,
                    queue=queue,
                    partition=partition,
                    group=group,
                    ranges=ranges,
                    to_queue=to[0],
                    to_partition=to[1],
                ),
                Moving,
                route=(queue, partition),
                is_repeatable=True,
            )
            total += reply.count
            if not reply.count or total >= sum([end - start for start, end in ranges]):
                return total

    # --- tokens and status ---

    async def create_token(self, name: str, rights: Sequence[str]) -> str:
        """Make an access token and give its text, which is not shown again."""
        listed = list(rights)
        reply = await self._ask(
            lambda rid: CreateToken(rid, name=name, rights=listed), TokenCreated, is_repeatable=False
        )
        return reply.token

    async def delete_token(self, name: str) -> None:
        await self._ask(lambda rid: DeleteToken(rid, name=name), Done, is_repeatable=False)

    async def list_tokens(self) -> list[TokenInfo]:
        return (await self._ask(lambda rid: ListTokens(rid), TokenList, is_repeatable=True)).tokens

    async def status(self) -> StatusReply:
        """What one node knows of the cluster."""
        return await self._ask(lambda rid: Status(rid), StatusReply, route=Anywhere.ANY, is_repeatable=True)

    # --- for producers and consumers ---

    async def load_all(self) -> None:
        """Wait for the first connection."""
        call = self.core.ask_metadata([], timeout_s=self.core.options.timeout_s)
        await self._wait(call)

    async def load_queue(self, name: str) -> None:
        """Learn of a queue.

        Raises:
            NotFoundError: there is none of this name.
        """
        await self._wait(self.core.ask_metadata([name], timeout_s=self.core.options.timeout_s))
        if not self.core.routes.partition_count(name):
            raise NotFoundError(f"there is no queue {name}")

    async def _ask(
        self,
        build: Callable[[int], AnyRequest],
        kind: type[_R],
        *,
        route: Anywhere | tuple[str, int] = Anywhere.META,
        is_repeatable: bool,
    ) -> _R:
        call = self.core.call(build, route=route, timeout_s=self.core.options.timeout_s, is_repeatable=is_repeatable)
        await self._wait(call)
        reply = call.reply
        if not isinstance(reply, kind):
            # The protocol has checked it.
            raise UnavailableError(f"no {kind.__name__} in answer")
        return reply

    async def _wait(self, call: Call) -> None:
        try:
            if not call.is_done:
                await self.waits.among(call.waiters)
            else:
                await self.waits.checkpoint()
        finally:
            if not call.is_done:
                self.core.abandon(call)
        error = call.error
        if error is None:
            return
        if isinstance(error, UnavailableError) and call.last_error is None:
            reasons = self.core.link_errors()
            if reasons:
                raise type(error)(f"{error.message} ({'; '.join(reasons)})", hint=error.hint)
        raise type(error)(error.message, hint=error.hint)


@final
class Queue:
    """The client's operations with the queue filled in."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    async def describe(self) -> QueueDescription:
        return await self._client.describe_queue(self.name)

    async def delete(self) -> None:
        await self._client.delete_queue(self.name)

    async def rewind(self, *, to: Position, group: str = "default", clamp: bool = False) -> Rewound:
        """As `Client.rewind`."""
        return await self._client.rewind(self.name, to=to, group=group, clamp=clamp)

    async def skip_to(self, *, to: Position, group: str = "default", clamp: bool = False) -> Rewound:
        """As `Client.skip_to`."""
        return await self._client.skip_to(self.name, to=to, group=group, clamp=clamp)

    async def cancel(self, messages: Iterable[MessageId]) -> Cancelled:
        """As `Client.cancel`."""
        return await self._client.cancel(self.name, messages)

    async def create_group(self, group: str, *, start: Position = "latest") -> None:
        await self._client.create_group(self.name, group, start=start)

    async def describe_groups(self) -> list[GroupDescription]:
        """As `Client.describe_groups`."""
        return await self._client.describe_groups(self.name)

    async def describe_group(self, group: str) -> GroupDescription:
        """As `Client.describe_group`."""
        return await self._client.describe_group(self.name, group)

    async def delete_group(self, group: str) -> None:
        await self._client.delete_group(self.name, group)

    async def pause_group(self, group: str = "default", *, reason: str = "", duration: timedelta | None = None) -> None:
        """As `Client.pause_group`."""
        await self._client.pause_group(self.name, group, reason=reason, duration=duration)

    async def resume_group(self, group: str = "default") -> None:
        """As `Client.resume_group`."""
        await self._client.resume_group(self.name, group)

    async def purge(self, *, group: str = "default") -> Purged:
        """As `Client.purge`."""
        return await self._client.purge(self.name, group=group)


def target_of(position: object) -> Target:
    """The wire's form of a `Position`.

    Raises:
        InvalidArgumentError: a time without its zone or before 1970, or no position at all.
    """
    match position:
        case "earliest":
            return EarliestTarget()
        case "latest":
            return LatestTarget()
        case MessageId():
            return MessageTarget([(position.partition, position.offset)])
        case datetime():
            if position.tzinfo is None:
                raise InvalidArgumentError(f"{position} has no time zone", hint="datetime.now(tz=UTC), for instance")
            ms = round(position.timestamp() * 1000)
            if ms < 0:
                raise InvalidArgumentError(f"{position} is before 1970")
            return TimeTarget(ms)
        case timedelta():
            return RelativeTarget(ms=milliseconds("the time to go back", abs(position.total_seconds())))
        case int() if not isinstance(position, bool):
            return OffsetTarget(position) if position >= 0 else RelativeTarget(count=-position)
        case _:
            raise InvalidArgumentError(f"{position!r} is no position in a queue")
