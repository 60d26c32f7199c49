"""Consumer groups that an operator pauses, resumes and purges while they work."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from logbroker.errors import LogBrokerError, UnavailableError
from tools.chaos_kit.features.queues import PAUSED
from tools.chaos_kit.features.told import Steering
from tools.chaos_kit.record import Outcome, Sent
from tools.chaos_kit.workload import key_of

if TYPE_CHECKING:
    from logbroker_client import Client
    from tools.chaos_kit.features.stage import Stage, Work

_EVERY_S = 0.5
_PAUSE_EVERY_S, _PAUSE_S = 4.0, 2.0
_PURGED = PAUSED.groups[1]
_PURGE_SHARE = 0.3


async def run_steered(stage: Stage, client: Client) -> None:
    """Work until cancelled."""
    async with trio.open_nursery() as nursery:
        for group in PAUSED.groups:
            nursery.start_soon(_consuming, stage, client, group)
            nursery.start_soon(_steering, stage, client, group)
        for number in range(PAUSED.partitions):
            nursery.start_soon(_sending, stage, client, number)


async def _consuming(stage: Stage, client: Client, group: str) -> None:
    await stage.consume(client, PAUSED, _treat, group=group)


async def _treat(work: Work) -> bool:
    return await work.treat_as_usual()


async def _sending(stage: Stage, client: Client, partition: int) -> None:
    key = key_of(partition, PAUSED.partitions, "paused")
    sender = f"paused.{partition}"
    async with client.producer(PAUSED.name) as producer:
        number = 0
        while stage.is_producing:
            value = f"{sender}.{number}".encode()
            await stage.send(
                producer, Sent(value, sender, number, (PAUSED.name, partition), trio.current_time()), key=key
            )
            number += 1
            await stage.rest(2 * _EVERY_S)


async def _steering(stage: Stage, client: Client, group: str) -> None:
    count = 0
    while not stage.is_calm:
        await stage.rest(_PAUSE_EVERY_S)
        # One with an end is mostly over before it is ended.
        duration_ms = 1_000 if stage.random.random() < 0.25 else 0
        count += 1
        await _steer(stage, client, Steering("pause", group, 0.0, f"{group} {count}", duration_ms))
        await stage.rest(_PAUSE_S)
        if group == _PURGED and stage.chance(_PURGE_SHARE):
            await _steer(stage, client, Steering("purge", group, 0.0))
        await _steer(stage, client, Steering("resume", group, 0.0))


async def resume_all(stage: Stage, client: Client) -> None:
    """End what pauses are left, those too that come late; raises nothing of the cluster's."""
    for group in PAUSED.groups:
        await _steer(stage, client, Steering("resume", group, 0.0))


async def _steer(stage: Stage, client: Client, steering: Steering) -> None:
    steering.started_s = trio.current_time()
    stage.told.steering.append(steering)
    duration = timedelta(milliseconds=steering.duration_ms) if steering.duration_ms else None
    try:
        match steering.verb:
            case "pause":
                await client.pause_group(PAUSED.name, steering.group, reason=steering.reason, duration=duration)
            case "resume":
                await client.resume_group(PAUSED.name, steering.group)
            case _:
                await client.purge(PAUSED.name, group=steering.group)
    except UnavailableError:
        steering.outcome = Outcome.UNKNOWN
    except LogBrokerError:
        steering.outcome = Outcome.REFUSED
    else:
        steering.outcome = Outcome.DONE
    steering.done_s = trio.current_time()
