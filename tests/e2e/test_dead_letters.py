"""Dead letters on three real processes: what dies, or is brought back, crosses once although leaders are killed."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker_client import RedriveProgress, StaleLeaseError, UnknownOutcomeError, connect
from tests.e2e.processes import cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from logbroker_client import Client, PeekedMessage
    from tests.e2e.processes import ClusterProcesses

pytestmark = pytest.mark.timeout(180)

COUNT = 300


async def leader_of(client: Client, queue: str) -> int:
    with trio.fail_after(40):
        while True:
            (partition,) = (await client.describe_queue(queue)).partitions
            if not partition.problem and partition.leader:
                return partition.leader
            await trio.sleep(0.1)


async def restart(nodes: ClusterProcesses, number: int) -> None:
    nodes.nodes[number].kill()
    await nodes.nodes[number].wait()
    await nodes.nodes[number].start()


async def reject_all(client: Client, count: int, *, at_half: Callable[[], None]) -> None:
    """Reject until so many have been rejected for sure; somewhere in the middle something happens."""
    rejected = 0
    async with client.consumer("orders", max_messages=20, prefetch=1) as consumer:
        while True:
            with trio.move_on_after(6) as waited:
                message = await consumer.__anext__()
            if waited.cancelled_caught:
                return
            with suppress(StaleLeaseError, UnknownOutcomeError):
                await message.reject(reason=f"reason {message.offset}")
            rejected += 1
            if rejected == count // 2:
                at_half()


async def available(client: Client, queue: str, count: int) -> list[PeekedMessage]:
    with trio.fail_after(60):
        while True:
            found = await client.peek(queue, max_count=2 * count, max_bytes=1 << 24)
            if len(found) >= count:
                return found
            await trio.sleep(0.1)


@pytest.mark.slow
async def test_the_dead_cross_once_and_come_back_once_although_leaders_are_killed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client, trio.open_nursery() as nursery:
        await client.create_queue("dead")
        await client.create_queue("orders", hide=3.0, dead_letter="dead")
        async with client.producer("orders") as producer:
            ids = await producer.send_many([b"order %d" % number for number in range(COUNT)])
        leader = await leader_of(client, "orders")
        await reject_all(client, COUNT, at_half=partial(nursery.start_soon, restart, nodes, leader))
        found = await available(client, "dead", COUNT)
        assert sorted(message.history.origin for message in found if message.history) == sorted(ids)
        assert {(one.history.cause, one.history.reason) for one in found if one.history} == {
            ("rejected", f"reason {place.offset}") for place in ids
        }
        (partition,) = (await client.describe_queue("dead")).partitions
        assert partition.log_end == COUNT, "nothing came twice"
        assert await client.dead("orders") == []

        leader = await leader_of(client, "dead")
        begun = False

        def strike(progress: RedriveProgress) -> None:
            nonlocal begun
            if not begun and progress.moved >= COUNT // 3:
                begun = True
                nursery.start_soon(restart, nodes, leader)

        with trio.fail_after(90):
            totals = await client.redrive("dead", rate=100, on_progress=strike)
            while totals.left:
                totals = await client.redrive("dead", rate=100)
        assert begun
        back = await available(client, "orders", COUNT)
        assert sorted(message.value or b"" for message in back) == sorted(
            b"order %d" % number for number in range(COUNT)
        )
        assert sorted(message.history.origin for message in back if message.history) == sorted(ids)
        (partition,) = (await client.describe_queue("orders")).partitions
        assert partition.log_end == 2 * COUNT
        assert await client.peek("dead") == []
