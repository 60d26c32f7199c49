"""What delivery and settlement have in common: receive until it is enough, in batches that are worth it, and ack with
every outcome counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from logbroker_client import StaleLeaseError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.examples.recharge.progress import Progress
    from logbroker_client import Consumer, MessageBatch

_GATHER_S = 0.1


async def gather(batch: MessageBatch, max_count: int) -> None:
    """Where few come at a time wait for more: to receive, pass on and ack costs the same for one and for hundreds."""
    await trio.sleep(_GATHER_S if len(batch) < max_count // 2 else 0)


async def next_batch(consumer: Consumer, progress: Progress, is_enough: Callable[[], bool]) -> MessageBatch | None:
    """The next messages; None as soon as `is_enough` says so."""
    batch: MessageBatch | None = None
    if is_enough():
        await trio.lowlevel.checkpoint()
        return None

    async def watch() -> None:
        await progress.wait_for(is_enough)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        batch = await consumer.receive()
        nursery.cancel_scope.cancel()
    if batch is not None:
        progress.redelivered += sum(message.deliveries > 1 for message in batch)
    return batch


async def ack(batch: MessageBatch, progress: Progress) -> None:
    """Ack messages whose work is done. Where that fails they come again, and the work must bear it."""
    try:
        await batch.ack()
    except (StaleLeaseError, UnavailableError):
        progress.lost_acks += len(batch)
