"""Delivery: puts the money on the phone's account, tells settlement, and only then acks the order.

If it dies in between, the order comes again: the carrier knows the order id and adds nothing, settlement gets
a second receipt, and the books absorb it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from clients.examples.recharge.orders import Order
from clients.examples.recharge.receipts import Receipt
from clients.examples.recharge.receiving import ack, gather, next_batch
from logbroker_client import NewMessage, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clients.examples.recharge.progress import Progress
    from logbroker_client import Client, Consumer, MessageBatch, Producer

_WORKER_COUNT = 4
_MAX_BATCH_COUNT = 200


@final
class Carriers:
    """The carriers' systems, as far as they matter here: they add to an account once for an order id."""

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}
        """Cents added to each phone's account."""
        self._done: set[str] = set()

    def __len__(self) -> int:
        """How many orders were performed."""
        return len(self._done)

    def top_up(self, order: Order) -> bool:
        """Add the order's face value to its account; False, and nothing else, if that has been done before."""
        if order.id in self._done:
            return False
        self._done.add(order.id)
        self.accounts[order.phone] = self.accounts.get(order.phone, 0) + order.face_cents
        return True


@final
class Delivery:
    def __init__(self, carriers: Carriers, progress: Progress) -> None:
        self._carriers = carriers
        self._progress = progress
        self._passed_on: set[str] = set()

    async def run(self, client: Client, orders: str, receipts: str, *, is_enough: Callable[[], bool]) -> None:
        """Work off the queue `orders` until `is_enough`."""
        async with (
            client.producer(receipts) as producer,
            client.consumer(orders, max_messages=_MAX_BATCH_COUNT, prefetch=1, name="delivery") as consumer,
            trio.open_nursery() as nursery,
        ):
            for _ in range(_WORKER_COUNT):
                nursery.start_soon(self._work, consumer, producer, is_enough)

    async def _work(self, consumer: Consumer, producer: Producer, is_enough: Callable[[], bool]) -> None:
        while (batch := await next_batch(consumer, self._progress, is_enough)) is not None:
            await self._perform(batch, producer)
            await ack(batch, self._progress)
            await gather(batch, _MAX_BATCH_COUNT)

    async def _perform(self, batch: MessageBatch, producer: Producer) -> None:
        orders = [Order.decode(message.value or b"") for message in batch]
        for order in orders:
            if not self._carriers.top_up(order):
                self._progress.absorbed += 1
        receipts = [
            NewMessage(Receipt(order.id, order.carrier, order.cents).encode(), key=order.id.encode())
            for order in orders
        ]
        await self._pass_on(producer, receipts)
        self._passed_on.update(order.id for order in orders)
        self._progress.delivered = len(self._passed_on)
        self._progress.note()

    async def _pass_on(self, producer: Producer, receipts: Sequence[NewMessage]) -> None:
        while True:
            try:
                await producer.send_many(receipts)
            except UnavailableError:
                # Some of them may be there already. The books bear that.
                await trio.sleep(0.1)
            else:
                return
