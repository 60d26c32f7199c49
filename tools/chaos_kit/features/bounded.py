"""Bounds: queues that are full because their consumers are slow, and one whose consumers fail until a breaker trips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tools.chaos_kit.features.queues import BOUNDED, FRAGILE, NEWEST
from tools.chaos_kit.record import Outcome, Sent

if TYPE_CHECKING:
    from logbroker_client import Client
    from tools.chaos_kit.features.queues import FeatureQueue
    from tools.chaos_kit.features.stage import Stage, Work

_EVERY_S = 0.4
_BURST, _BURST_SHARE = 12, 0.05
# So soon a full queue is told of as full.
_TIMEOUT_S = 1.0
_SLOW_S = 1.5
_BAD_S, _GOOD_S = 4.0, 10.0


async def run_bounded(stage: Stage, client: Client) -> None:
    """Work until cancelled."""
    async with trio.open_nursery() as nursery:
        for queue in (BOUNDED, NEWEST):
            nursery.start_soon(stage.consume, client, queue, _treat_slowly)
        nursery.start_soon(stage.consume, client, FRAGILE, _fail_at_times)
        for queue in (BOUNDED, NEWEST, FRAGILE):
            nursery.start_soon(_sending, stage, client, queue)


async def _sending(stage: Stage, client: Client, queue: FeatureQueue) -> None:
    async with client.producer(queue.name, timeout=_TIMEOUT_S) as producer:
        number = life = 0
        while stage.is_producing:
            for _ in range(_BURST if stage.chance(_BURST_SHARE) else 1):
                value = f"{queue.name}.{number}".encode()
                sent = Sent(value, f"{queue.name}.{life}", number, (queue.name, 0), trio.current_time())
                await stage.send(producer, sent)
                number += 1
                # Given up so soon, a message may yet be committed, behind those that are sent after it.
                life += sent.outcome is Outcome.UNKNOWN
            await stage.rest(_EVERY_S)


async def _treat_slowly(work: Work) -> bool:
    if not work.stage.is_calm:
        await work.stage.rest(_SLOW_S)
    return await work.treat_as_usual()


async def _fail_at_times(work: Work) -> bool:
    is_bad = trio.current_time() % (_BAD_S + _GOOD_S) < _BAD_S
    if is_bad and not work.stage.is_calm:
        await work.settle("nack", work.messages, delay_s=0.1)
        return False
    return await work.treat_as_usual()
