"""Dead letters: messages that fail until they are dead or are rejected, and redrives of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from logbroker.errors import LogBrokerError, UnavailableError
from tools.chaos_kit.features.queues import DEAD, RISKY
from tools.chaos_kit.features.told import Redriving
from tools.chaos_kit.record import Outcome, Sent
from tools.chaos_kit.workload import key_of

if TYPE_CHECKING:
    from logbroker_client import Client
    from logbroker_client.messages import Message
    from tools.chaos_kit.features.stage import Stage, Work

_EVERY_S = 0.5
_REDRIVE_EVERY_S = 8.0
# A redrive that was broken off goes on with the next.
_BROKEN_OFF_SHARE, _BROKEN_OFF_S = 0.3, 0.1
_POISON, _REFUSED = b"poison", b"refused"


async def run_letters(stage: Stage, client: Client) -> None:
    """Work until cancelled."""
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(stage.consume, client, RISKY, _treat)
            nursery.start_soon(_sending, stage, client, number)
        nursery.start_soon(_redriving, stage, client)


async def _sending(stage: Stage, client: Client, partition: int) -> None:
    key = key_of(partition, RISKY.partitions, "risky")
    sender = f"risky.{partition}"
    async with client.producer(RISKY.name) as producer:
        number = 0
        while stage.is_producing:
            fate = stage.random.choice((b"fine", b"fine", b"fine", _POISON, _REFUSED))
            value = b"%s.%d %s" % (sender.encode(), number, fate)
            place = (RISKY.name, partition)
            await stage.send(producer, Sent(value, sender, number, place, trio.current_time()), key=key)
            number += 1
            await stage.rest(2 * _EVERY_S)


async def _treat(work: Work) -> bool:
    stage = work.stage
    if stage.chance(0.02):
        return True
    sorted_out: dict[str, list[Message]] = {}
    for message in work.messages:
        sorted_out.setdefault(_verb(stage, message), []).append(message)
    for verb in ("reject", "nack", "ack"):
        await work.settle(verb, sorted_out.get(verb, []))
    return False


def _verb(stage: Stage, message: Message) -> str:
    # What was redriven is mostly in order then.
    if stage.is_calm or (message.history is not None and not stage.chance(0.1)):
        return "ack"
    value = message.value or b""
    if value.endswith(_REFUSED):
        return "reject"
    if value.endswith(_POISON) or stage.chance(0.05):
        return "nack"
    return "forget" if stage.chance(0.03) else "ack"


async def _redriving(stage: Stage, client: Client) -> None:
    while not stage.is_calm:
        await stage.rest(_REDRIVE_EVERY_S)
        # Broken off, a request may be on its way, and another.
        within_s = _BROKEN_OFF_S * stage.random.random() if stage.chance(_BROKEN_OFF_SHARE) else math.inf
        with trio.move_on_after(within_s):
            await redrive(stage, client)


async def redrive(stage: Stage, client: Client) -> None:
    """Bring back all that is in the dead-letter queue now; raises nothing of the cluster's."""
    redriving = Redriving(trio.current_time())
    stage.told.redriving.append(redriving)
    try:
        progress = await client.redrive(DEAD.name)
    except UnavailableError:
        redriving.outcome = Outcome.UNKNOWN
    except LogBrokerError:
        redriving.outcome = Outcome.REFUSED
    else:
        redriving.outcome, redriving.moved = Outcome.DONE, progress.moved
