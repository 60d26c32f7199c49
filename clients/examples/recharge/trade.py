"""Trade: takes the customers' orders and puts each into the queue, until it is confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from clients.examples.recharge.orders import Order
from clients.examples.recharge.progress import Confirm
from logbroker_client import UnavailableError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clients.examples.recharge.progress import Progress
    from logbroker_client import Client, Producer

# Customers served at a time. Their messages share batches, so this is no matter of speed.
_WORKER_COUNT = 400


@final
class Trade:
    """Sends `orders` at up to `rate` a second; 0 is as fast as it goes."""

    def __init__(self, orders: Sequence[Order], progress: Progress, *, rate: float) -> None:
        self._orders = orders
        self._progress = progress
        self._rate = rate
        self._allowed = len(orders)

    def allow(self, count: int) -> None:
        """Let it send the first `count` orders and no more, until it is allowed more."""
        self._allowed = count
        self._progress.note()

    async def run(self, client: Client, queue: str) -> None:
        """Return when every order is confirmed."""
        incoming, taken = trio.open_memory_channel[Order](0)
        async with client.producer(queue) as producer, trio.open_nursery() as nursery:
            for _ in range(_WORKER_COUNT):
                nursery.start_soon(self._serve, taken.clone(), producer)
            taken.close()
            async with incoming:
                await self._feed(incoming)

    async def _feed(self, incoming: trio.MemorySendChannel[Order]) -> None:
        started_at = trio.current_time()
        for number, order in enumerate(self._orders):
            if number >= self._allowed:
                held_at = trio.current_time()
                await self._progress.wait_for(lambda number=number: number < self._allowed)  # type: ignore[misc]
                started_at += trio.current_time() - held_at
            if self._rate:
                await trio.sleep_until(started_at + number / self._rate)
            await incoming.send(order)

    async def _serve(self, orders: trio.MemoryReceiveChannel[Order], producer: Producer) -> None:
        async with orders:
            async for order in orders:
                await self._send(producer, order)

    async def _send(self, producer: Producer, order: Order) -> None:
        """Send one order for as long as it takes: the customer has paid."""
        while True:
            sent_at = trio.current_time()
            try:
                # One phone's recharges stay in order.
                message_id = await producer.send(order.encode(), key=order.phone.encode())
            except UnknownOutcomeError:
                # It may be in the queue already. Twice is harmless, as everything behind it knows orders by their
                # id; not at all would not be.
                self._progress.sent_again += 1
            except UnavailableError:
                await trio.sleep(0.1)
            else:
                self._progress.note_confirm(message_id.partition, Confirm(sent_at, trio.current_time()))
                return
