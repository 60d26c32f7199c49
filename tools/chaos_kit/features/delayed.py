"""Delayed messages: sent with a delay or a time, some cancelled before or after that time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from logbroker.errors import LogBrokerError
from logbroker_client import MessageId
from tools.chaos_kit.features.queues import LATER
from tools.chaos_kit.features.told import Cancelling, Delayed
from tools.chaos_kit.record import Outcome, Sent

if TYPE_CHECKING:
    from logbroker_client import Client
    from logbroker_client.producer import Producer
    from tools.chaos_kit.features.stage import Stage, Work

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY_S = 0.4
# All are due long before a healed cluster has to be drained.
_LEAST_MS, _MOST_MS = 300, 8_000
_CANCELLED_SHARE = 0.25


async def run_delayed(stage: Stage, client: Client) -> None:
    """Work until cancelled; the sender ends when nothing is to be produced."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.consume, client, LATER, _treat)
        async with client.producer(LATER.name) as producer:
            number = 0
            while stage.is_producing:
                await _send(stage, nursery, client, producer, number)
                number += 1
                await stage.rest(_EVERY_S)
            # Some are yet to be cancelled.
            await trio.sleep_forever()


async def _send(stage: Stage, nursery: trio.Nursery, client: Client, producer: Producer, number: int) -> None:
    sent = Sent(f"later.{number}".encode(), "later", number, (LATER.name, 0), trio.current_time())
    delay_ms = stage.random.randint(_LEAST_MS, _MOST_MS)
    if stage.random.random() < 0.5:
        stage.told.delayed.append(Delayed(sent, delay_ms, 0))
        await stage.send(producer, sent, delay_s=delay_ms / 1000)
    else:
        at_ms = time.time_ns() // 1_000_000 + delay_ms
        stage.told.delayed.append(Delayed(sent, 0, at_ms))
        await stage.send(producer, sent, deliver_at=_EPOCH + timedelta(milliseconds=at_ms))
    if sent.outcome is Outcome.DONE and stage.chance(_CANCELLED_SHARE):
        # Often early enough, sometimes at the very moment, now and then too late.
        wait_s = delay_ms / 1000 * 1.2 * stage.random.random()
        nursery.start_soon(_cancel, stage, client, sent.offset, wait_s)


async def _cancel(stage: Stage, client: Client, offset: int, wait_s: float) -> None:
    await trio.sleep(wait_s)
    cancelling = Cancelling(offset, trio.current_time())
    stage.told.cancelling.append(cancelling)
    try:
        reply = await client.cancel(LATER.name, [MessageId(LATER.name, 0, offset)])
    except LogBrokerError:
        # What was sent and not answered may yet be done.
        cancelling.outcome = Outcome.UNKNOWN
    else:
        cancelling.outcome, cancelling.is_cancelled = Outcome.DONE, reply.cancelled == 1


async def _treat(work: Work) -> bool:
    return await work.treat_as_usual()
