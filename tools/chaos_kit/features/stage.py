"""What the clients of all features share: senders that note what they are told, and consumers that live and die."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from logbroker.errors import LogBrokerError, StaleLeaseError, UnavailableError, UnknownOutcomeError
from tools.chaos_kit.features.told import Told
from tools.chaos_kit.record import Delivered, Outcome, Sent, Settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime
    from random import Random

    from logbroker_client import Client
    from logbroker_client.consumer import Consumer
    from logbroker_client.messages import Message, MessageBatch
    from logbroker_client.producer import Producer
    from tools.chaos_kit.features.queues import FeatureQueue

CONNECT_S = 60.0
RETRY_S = 0.2


@final
@dataclass(slots=True)
class Stage:
    """The clients of one round. `is_calm` ends what disturbs: they only drain from then on."""

    urls: list[str]
    random: Random
    told: Told = field(default_factory=Told)
    is_producing: bool = True
    is_calm: bool = False
    is_owing: bool = False
    """Something was begun that will be sent until it is confirmed."""

    async def rest(self, seconds: float) -> None:
        """Sleep about so long."""
        await trio.sleep(seconds * (0.5 + self.random.random()))

    def chance(self, share: float) -> bool:
        """Whether something that disturbs happens this time."""
        return not self.is_calm and self.random.random() < share

    async def send(
        self,
        producer: Producer,
        sent: Sent,
        *,
        key: bytes | None = None,
        delay_s: float = 0.0,
        deliver_at: datetime | None = None,
    ) -> None:
        """Send one message, and note what comes of it."""
        self.told.record.sent.append(sent)
        try:
            message_id = await producer.send(sent.value, key=key, delay=delay_s, deliver_at=deliver_at)
        except UnknownOutcomeError as error:
            sent.outcome, sent.error = Outcome.UNKNOWN, str(error)
        except LogBrokerError as error:
            sent.outcome, sent.error = Outcome.REFUSED, f"{error.code}: {error}"
        else:
            self.told.record.confirm(sent, offset=message_id.offset, now_s=trio.current_time())

    async def consume(
        self, client: Client, queue: FeatureQueue, treat: Treat, *, group: str = "default", max_messages: int = 5
    ) -> None:
        """One consumer after another: each lives until it dies, with the leases it holds."""
        life = 0
        while True:
            life += 1
            name = f"{queue.name}-{group}-{life}"
            try:
                with trio.CancelScope() as death:
                    async with client.consumer(
                        queue.name, group=group, wait=5.0, max_messages=max_messages, prefetch=1, name=name
                    ) as consumer:
                        while not await treat(self._work(group, consumer, await consumer.receive(), queue)):
                            pass
                        death.cancel()
                        # Cancelled, it keeps what it was working at.
                        await trio.sleep_forever()
            except UnavailableError:
                await trio.sleep(RETRY_S)

    def _work(self, group: str, consumer: Consumer, batch: MessageBatch, queue: FeatureQueue) -> Work:
        messages = tuple((message.offset, message.deliveries, message.value or b"") for message in batch)
        place = (batch.queue, batch.partition)
        delivered = Delivered(group, place, batch.lease, messages, trio.current_time(), queue.hide_s)
        self.told.record.delivered.append(delivered)
        return Work(self, consumer, list(batch), delivered)


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What one receive brought."""

    stage: Stage
    consumer: Consumer
    messages: Sequence[Message]
    delivered: Delivered

    async def settle(self, verb: str, messages: Sequence[Message], *, delay_s: float | None = None) -> None:
        """Ack, nack or reject some of it, and note what comes of it. `delay_s` is of a nack; None: the queue's."""
        if not messages:
            return
        delivered = self.delivered
        offsets = tuple(message.offset for message in messages)
        settled = Settled(verb, delivered.group, delivered.place, delivered.lease, offsets, trio.current_time())
        self.stage.told.record.settled.append(settled)
        try:
            match verb:
                case "ack":
                    await self.consumer.ack(messages)
                case "nack":
                    await self.consumer.nack(messages, delay=delay_s, reason="chaos")
                case _:
                    await self.consumer.reject(messages, reason="chaos")
        except StaleLeaseError as error:
            settled.outcome, settled.error = Outcome.REFUSED, str(error)
        except LogBrokerError as error:
            settled.outcome, settled.error = Outcome.UNKNOWN, f"{error.code}: {error}"
        else:
            settled.outcome = Outcome.DONE

    async def treat_as_usual(self) -> bool:
        """What most consumers do: mostly ack, now and then fail, forget, or die of it; True if it dies."""
        stage = self.stage
        if stage.chance(0.02):
            return True
        if stage.chance(0.03):
            # Forgotten: it comes again when its hide time is over.
            return False
        if stage.chance(0.1):
            await self.settle("nack", self.messages, delay_s=stage.random.choice((0.0, 0.5)))
            return False
        await self.settle("ack", self.messages)
        return False


Treat: TypeAlias = "Callable[[Work], Awaitable[bool]]"
"""Does something with a receive; True ends the life of its consumer."""
