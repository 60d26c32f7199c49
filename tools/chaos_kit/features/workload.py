"""All features together, beside the plain workload: set up, at work, and drained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from logbroker.errors import LogBrokerError
from logbroker_client import connect
from tools.chaos_kit.features.bounded import run_bounded
from tools.chaos_kit.features.delayed import run_delayed
from tools.chaos_kit.features.ids import run_ids
from tools.chaos_kit.features.letters import redrive, run_letters
from tools.chaos_kit.features.ordered import run_ordered
from tools.chaos_kit.features.queues import DEAD, DEFAULT, QUEUES, RISKY
from tools.chaos_kit.features.stage import CONNECT_S, RETRY_S
from tools.chaos_kit.features.steered import resume_all, run_steered
from tools.chaos_kit.record import Outcome
from tools.chaos_kit.workload import make_group

if TYPE_CHECKING:
    from logbroker_client import Client
    from tools.chaos_kit.features.queues import FeatureQueue
    from tools.chaos_kit.features.stage import Stage

_LETTERS = (DEAD.name, RISKY.name)
# A message may be on its way from one queue to another while these are looked at one after the other.
_LOOKS = 2


@final
@dataclass(slots=True)
class FeatureWorkload:
    """Clients of one round."""

    stage: Stage

    async def set_up(self) -> None:
        """Make queues and groups."""
        async with connect(self.stage.urls, timeout=CONNECT_S) as client:
            for queue in QUEUES:
                await client.create_queue(
                    queue.name,
                    partitions=queue.partitions,
                    hide=queue.hide_s,
                    max_deliveries=queue.max_deliveries,
                    **queue.options,
                )
                for group in queue.groups:
                    if group != DEFAULT:
                        await make_group(client, queue.name, group)

    async def run(self) -> None:
        """Work until cancelled, with one client: each one more would make a fail-over of the plain ones slower."""
        stage = self.stage
        async with connect(stage.urls, timeout=CONNECT_S) as client, trio.open_nursery() as nursery:
            for run in (run_delayed, run_letters, run_ids, run_ordered, run_steered, run_bounded):
                nursery.start_soon(run, stage, client)

    async def wait_drained(self, *, timeout_s: float) -> str:
        """Wait until every group has settled everything, and no dead letter is left; gives what is left if not."""
        left = "nothing is known"
        clean = 0
        with trio.move_on_after(timeout_s):
            async with connect(self.stage.urls, timeout=CONNECT_S) as client:
                while clean < _LOOKS:
                    await resume_all(self.stage, client)
                    await redrive(self.stage, client)
                    left = await self._left(client)
                    clean = 0 if left else clean + 1
                    await trio.sleep(RETRY_S)
        return left

    async def _left(self, client: Client) -> str:
        told = self.stage.told
        pending = sum(sent.outcome is Outcome.PENDING for sent in told.record.sent)
        if pending or self.stage.is_owing:
            return f"{pending} sends, and an id that is to be confirmed: {self.stage.is_owing}"
        try:
            for queue in QUEUES:
                left = await _left_in(client, queue)
                if left:
                    return left
        except LogBrokerError as error:
            return f"{error.code}: {error}"
        return ""


async def _left_in(client: Client, queue: FeatureQueue) -> str:
    for row in (await client.describe_queue(queue.name)).partitions:
        if row.problem:
            return f"{queue.name}/{row.partition}: {row.problem}"
        for group in row.groups:
            is_owed = queue.name in _LETTERS and group.dead
            if group.name in queue.groups and (group.oldest_offset < row.log_end or is_owed):
                return f"{queue.name}/{row.partition}, group {group.name}, log end {row.log_end}: {group}"
    return ""
