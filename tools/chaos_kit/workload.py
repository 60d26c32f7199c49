"""What clients do to the cluster while it suffers: produce, consume, ack, nack, extend, die, rewind.

Everything goes through the real client. It writes down what it was told and never judges.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

import trio

from logbroker.errors import (
    AlreadyExistsError,
    LogBrokerError,
    StaleLeaseError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker_client import connect
from logbroker_client.partitioner import partition_of
from tools.chaos_kit.record import Delivered, Outcome, Record, Rewinding, Sent, Settled

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from logbroker_client import Client
    from logbroker_client.consumer import Consumer
    from logbroker_client.messages import MessageBatch
    from logbroker_client.producer import Producer
    from tools.chaos_kit.nodes import Partition

GROUPS = ("default", "audit")
LAST_GROUP = "last"
"""Reads everything once more at the end."""

_PADDING = b" " * 200
_RETRY_S = 0.2
_SLOW_S = 0.1
_CONNECT_S = 60.0


@final
@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    queues: tuple[tuple[str, int], ...] = (("orders", 3), ("receipts", 1))
    """Name and partitions."""
    senders_per_partition: int = 2
    pause_s: float = 0.05
    """Between two sends of one sender."""
    consumers_per_group: int = 2
    hide_s: float = 4.0
    rewind_every_s: float = 20.0
    setup_timeout_s: float = 30.0

    def partitions(self) -> list[Partition]:
        return [(queue, number) for queue, count in self.queues for number in range(count)]


@final
@dataclass(slots=True)
class Workload:
    """Clients of one round. `calm` ends what disturbs: they only drain from then on."""

    urls: list[str]
    random: Random
    record: Record
    options: WorkloadOptions = field(default_factory=WorkloadOptions)
    is_producing: bool = True
    is_calm: bool = False

    async def set_up(self) -> None:
        """Make queues and groups."""
        async with connect(self.urls, timeout=self.options.setup_timeout_s) as client:
            for queue, partitions in self.options.queues:
                await client.create_queue(queue, partitions=partitions, hide=self.options.hide_s)
                for group in GROUPS[1:]:
                    await make_group(client, queue, group)

    async def run(self) -> None:
        """Work until cancelled; producers end when `is_producing` does."""
        async with trio.open_nursery() as nursery:
            for number in range(self.options.senders_per_partition):
                nursery.start_soon(self._producing, number)
            for queue, _ in self.options.queues:
                for group in GROUPS:
                    for number in range(self.options.consumers_per_group):
                        nursery.start_soon(self._consuming, queue, group, f"{group}-{number}")
            nursery.start_soon(self._rewinding)

    # --- producing ---

    async def _producing(self, number: int) -> None:
        """One client with a producer for each queue, and a sender for each partition."""
        async with connect(self.urls, timeout=_CONNECT_S) as client, trio.open_nursery() as nursery:
            for queue, partitions in self.options.queues:
                nursery.start_soon(self._sending_to_queue, client, queue, partitions, number)

    async def _sending_to_queue(self, client: Client, queue: str, partitions: int, number: int) -> None:
        async with client.producer(queue) as producer, trio.open_nursery() as nursery:
            for partition in range(partitions):
                sender = f"{queue}.{partition}.{number}"
                nursery.start_soon(self._sending, producer, (queue, partition), partitions, sender)

    async def _sending(self, producer: Producer, place: Partition, partitions: int, sender: str) -> None:
        key = key_of(place[1], partitions, sender)
        number = 0
        while self.is_producing:
            sent = Sent(f"{sender}.{number}".encode() + _PADDING, sender, number, place, trio.current_time())
            number += 1
            self.record.sent.append(sent)
            try:
                message_id = await producer.send(sent.value, key=key)
            except UnknownOutcomeError as error:
                sent.outcome, sent.error = Outcome.UNKNOWN, str(error)
            except LogBrokerError as error:
                sent.outcome, sent.error = Outcome.REFUSED, f"{error.code}: {error}"
            else:
                self.record.confirm(sent, offset=message_id.offset, now_s=trio.current_time())
            if trio.current_time() - sent.started_s < _SLOW_S:
                # After a slow one the next goes at once: it is what tells when the cluster works again.
                await trio.sleep(self.options.pause_s * (0.5 + self.random.random()))

    # --- consuming ---

    async def _consuming(self, queue: str, group: str, name: str) -> None:
        """One consumer after another: each lives until it dies, with the leases it holds."""
        life = 0
        while True:
            life += 1
            try:
                async with connect(self.urls, timeout=_CONNECT_S, name=f"{name}-{life}") as client:
                    await self._one_life(client, queue, group, f"{name}-{life}")
            except UnavailableError:
                # It could not even connect, or lost its consumer for good; the next one tries.
                await trio.sleep(_RETRY_S)

    async def _one_life(self, client: Client, queue: str, group: str, name: str) -> None:
        hide_s = self.options.hide_s * (0.5 + self.random.random())
        with trio.CancelScope() as death:
            async with client.consumer(
                queue, group=group, hide=hide_s, wait=5.0, max_messages=20, prefetch=1, name=name
            ) as consumer:
                while True:
                    batch = await consumer.receive()
                    delivered = self._note(group, batch, hide_s)
                    if await self._treat(consumer, delivered, batch):
                        death.cancel()
                        # Cancelled, it goes without giving anything back.
                        await trio.sleep_forever()

    def _note(self, group: str, batch: MessageBatch, hide_s: float) -> Delivered:
        messages = tuple((message.offset, message.deliveries, message.value or b"") for message in batch)
        delivered = Delivered(group, (batch.queue, batch.partition), batch.lease, messages, trio.current_time(), hide_s)
        self.record.delivered.append(delivered)
        return delivered

    async def _treat(self, consumer: Consumer, delivered: Delivered, batch: MessageBatch) -> bool:
        """Do with a batch what consumers do; True if the consumer dies of it."""
        draw = 1.0 if self.is_calm else self.random.random()
        if draw < 0.01:
            return True
        if draw < 0.03:
            # Forgotten: it comes again when its hide time is over.
            return False
        if draw < 0.08:
            await self._settle("nack", consumer, delivered, batch, self.random.choice((0.0, 0.5)))
            return False
        if draw < 0.12:
            await self._settle("extend", consumer, delivered, batch, self.options.hide_s)
            await trio.sleep(self.options.hide_s * self.random.random())
        elif draw < 0.2:
            await trio.sleep(self.options.hide_s * 1.2 * self.random.random())
        await self._settle("ack", consumer, delivered, batch, 0.0)
        return False

    async def _settle(
        self, verb: str, consumer: Consumer, delivered: Delivered, batch: MessageBatch, argument: float
    ) -> None:
        offsets = tuple(offset for offset, _, _ in delivered.messages)
        settled = Settled(verb, delivered.group, delivered.place, delivered.lease, offsets, trio.current_time())
        self.record.settled.append(settled)
        try:
            match verb:
                case "ack":
                    await batch.ack()
                case "nack":
                    await batch.nack(delay=argument)
                case _:
                    await batch.extend(argument)
        except StaleLeaseError as error:
            settled.outcome, settled.error = Outcome.REFUSED, str(error)
        except LogBrokerError as error:
            settled.outcome, settled.error = Outcome.UNKNOWN, f"{error.code}: {error}"
        else:
            settled.outcome = Outcome.DONE
        del consumer

    # --- rewinding ---

    async def _rewinding(self) -> None:
        async with connect(self.urls, timeout=_CONNECT_S) as client:
            while True:
                await trio.sleep(self.options.rewind_every_s * (0.5 + self.random.random()))
                if self.is_calm:
                    await trio.sleep_forever()
                queue, _ = self.random.choice(self.options.queues)
                back_ms = self.random.randrange(500, 10_000)
                await self._rewind(client, queue, self.random.choice(GROUPS), time.time_ns() // 1_000_000 - back_ms)

    async def _rewind(self, client: Client, queue: str, group: str, target_ms: int) -> None:
        rewinding = Rewinding(group, queue, target_ms, trio.current_time())
        self.record.rewound.append(rewinding)
        target = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=target_ms)
        try:
            reply = await client.rewind(queue, to=target, group=group, clamp=True)
        except UnavailableError as error:
            rewinding.outcome, rewinding.error = Outcome.UNKNOWN, f"{error.code}: {error}"
        except LogBrokerError as error:
            rewinding.outcome, rewinding.error = Outcome.REFUSED, f"{error.code}: {error}"
        else:
            rewinding.answer(reply)

    # --- the end ---

    async def wait_drained(self, *, timeout_s: float) -> str:
        """Wait until every group has acked everything; gives what is left if it does not."""
        left = "nothing is known"
        with trio.move_on_after(timeout_s):
            async with connect(self.urls, timeout=_CONNECT_S) as client:
                while left:
                    left = await self._left(client)
                    await trio.sleep(_RETRY_S)
        return left

    async def _left(self, client: Client) -> str:
        for queue, _ in self.options.queues:
            for row in (await client.describe_queue(queue)).partitions:
                if row.problem:
                    return f"{queue}/{row.partition}: {row.problem}"
                for group in row.groups:
                    if group.name in GROUPS and group.oldest_offset < row.log_end:
                        return f"{queue}/{row.partition}, group {group.name}, log end {row.log_end}: {group}"
        return ""

    async def read_all(self, *, timeout_s: float) -> str:
        """Read every partition from its start through a new group; gives what is missing in time."""
        async with connect(self.urls, timeout=_CONNECT_S) as client:
            for queue, _ in self.options.queues:
                await make_group(client, queue, LAST_GROUP)
                ends = {row.partition: row.log_end for row in (await client.describe_queue(queue)).partitions}
                if not await self._read_queue(client, queue, sum(ends.values()), timeout_s):
                    found = sum(1 for place, _ in self.record.read if place[0] == queue)
                    return f"{queue}: {found} of {sum(ends.values())} messages were read within {timeout_s:.0f} s"
        return ""

    async def _read_queue(self, client: Client, queue: str, count: int, timeout_s: float) -> bool:
        read = 0
        with trio.move_on_after(timeout_s):
            async with client.consumer(queue, group=LAST_GROUP, hide=30.0, wait=1.0) as consumer:
                while read < count:
                    batch = await consumer.receive()
                    for message in batch:
                        place = ((queue, message.partition), message.offset)
                        read += place not in self.record.read
                        self.record.read[place] = message.value or b""
                    batch.ack_nowait()
        return read >= count


async def make_group(client: Client, queue: str, group: str) -> None:
    try:
        await client.create_group(queue, group, start="earliest")
    except UnavailableError:
        # Not repeatable by itself; whether it is there is seen by trying again.
        try:
            await client.create_group(queue, group, start="earliest")
        except AlreadyExistsError:
            return


def key_of(partition: int, count: int, sender: str) -> bytes:
    """A key that leads to a partition."""
    numbers: Iterable[int] = range(10_000)
    return next(
        key for key in (f"{sender}.{number}".encode() for number in numbers) if partition_of(key, count) == partition
    )
