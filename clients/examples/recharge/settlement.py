"""Settlement: books what delivery has done, in a good build and in a bad one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, final

import trio

from clients.examples.recharge.receipts import Receipt
from clients.examples.recharge.receiving import ack, gather, next_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.examples.recharge.ledger import Ledger
    from clients.examples.recharge.progress import Progress
    from logbroker_client import Client, MessageBatch


@final
class Build(StrEnum):
    """The versions of settlement, by their numbers."""

    GOOD = "1.4.1"
    """Books, then acks."""
    BAD = "1.4.2"
    """Acks and forgets to book: no error anywhere, only books that no longer balance."""


@final
class Settlement:
    def __init__(self, ledger: Ledger, progress: Progress, *, max_batch_count: int) -> None:
        self._ledger = ledger
        self._progress = progress
        self._max_batch_count = max_batch_count
        self._settled: set[str] = set()
        # Where messages came from since the rewind; None before it.
        self._replayed: set[tuple[int, int]] | None = None

    def expect_replay(self) -> None:
        """What comes from here on is there because of a rewind."""
        self._replayed = set()

    async def run(self, client: Client, queue: str, build: Build, *, is_enough: Callable[[], bool]) -> None:
        """Work off the queue in one build until `is_enough`, which is asked after each batch."""
        name = f"settlement-{build}"
        async with client.consumer(queue, max_messages=self._max_batch_count, prefetch=1, name=name) as consumer:
            while (batch := await next_batch(consumer, self._progress, is_enough)) is not None:
                receipts = [Receipt.decode(message.value or b"") for message in batch]
                match build:
                    case Build.GOOD:
                        await self._book(receipts)
                    case Build.BAD:
                        self._progress.unbooked += len(receipts)
                await ack(batch, self._progress)
                self._count(batch, receipts)
                await gather(batch, self._max_batch_count)

    async def _book(self, receipts: list[Receipt]) -> None:
        # In a thread: it syncs a disk, and the queue's connections must not wait for that.
        booked = await trio.to_thread.run_sync(self._ledger.book, receipts)
        self._progress.booked += booked.new
        self._progress.absorbed += booked.absorbed

    def _count(self, batch: MessageBatch, receipts: list[Receipt]) -> None:
        self._settled.update(receipt.order_id for receipt in receipts)
        self._progress.settled = len(self._settled)
        if self._replayed is not None:
            self._replayed.update((message.partition, message.offset) for message in batch)
            self._progress.replayed = len(self._replayed)
        self._progress.note()
