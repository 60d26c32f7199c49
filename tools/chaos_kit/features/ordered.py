"""Order: keys whose messages must not overtake each other, and a window of one in which nothing does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tools.chaos_kit.features.queues import KEYED, SINGLE
from tools.chaos_kit.record import Sent

if TYPE_CHECKING:
    from logbroker_client import Client
    from tools.chaos_kit.features.queues import FeatureQueue
    from tools.chaos_kit.features.stage import Stage, Work

_EVERY_S = 0.4
_KEYS = 6


async def run_ordered(stage: Stage, client: Client) -> None:
    """Work until cancelled."""
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(stage.consume, client, KEYED, _treat)
            nursery.start_soon(stage.consume, client, SINGLE, _treat)
            nursery.start_soon(_sending, stage, client, KEYED, number)
        nursery.start_soon(_sending, stage, client, SINGLE, 0)


async def _sending(stage: Stage, client: Client, queue: FeatureQueue, number: int) -> None:
    sender = f"{queue.name}.{number}"
    async with client.producer(queue.name) as producer:
        position = 0
        while stage.is_producing:
            sent = Sent(f"{sender}.{position}".encode(), sender, position, (queue.name, 0), trio.current_time())
            # Both senders send to all keys.
            await stage.send(producer, sent, key=b"key %d" % stage.random.randrange(_KEYS))
            position += 1
            await stage.rest(2 * _EVERY_S)


async def _treat(work: Work) -> bool:
    if work.stage.chance(0.2):
        # So that much of the window is in use at times.
        await work.stage.rest(0.5)
    return await work.treat_as_usual()
