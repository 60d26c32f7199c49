"""What is still there after every process has died at once, and after an index was thrown away."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker_client import connect
from tests.e2e.processes import ClusterProcesses, cluster

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.wire.requests import QueueDescription
    from logbroker_client import Client

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


async def described(client: Client, queue: str) -> QueueDescription:
    """Counts of a queue whose only partition has a leader again."""
    with trio.fail_after(40):
        while True:
            found = await client.describe_queue(queue)
            if not found.partitions[0].problem:
                return found
            await trio.sleep(0.2)


async def settled(client: Client, queue: str, wanted: dict[str, tuple[int, int]]) -> QueueDescription:
    """Wait until the groups have so many messages available and leased: closed consumers give back what they held."""
    with trio.fail_after(40):
        while True:
            found = await described(client, queue)
            if {row.name: (row.available, row.leased) for row in found.partitions[0].groups} == wanted:
                return found
            await trio.sleep(0.1)


async def kill_all_and_start_again(nodes: ClusterProcesses) -> None:
    for node in nodes.nodes.values():
        node.kill()
    for node in nodes.nodes.values():
        await node.wait()
    async with trio.open_nursery() as nursery:
        for node in nodes.nodes.values():
            nursery.start_soon(node.start)


async def test_leases_counts_and_rewinds_are_as_they_were_when_all_nodes_were_killed_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders")
        await client.create_group("orders", "audit", start="earliest")
        async with client.producer("orders") as producer:
            ids = await producer.send_many([f"order {number}".encode() for number in range(300)])
        async with client.consumer("orders", hide=3600, max_messages=100) as consumer:
            first = [await anext(messages) for messages in [aiter(consumer)] for _ in range(60)]
            await consumer.ack(first[:20])
            await consumer.nack(first[20:30])
        async with client.consumer("orders", group="audit", hide=3600, max_messages=300) as consumer:
            seen = [await anext(messages) for messages in [aiter(consumer)] for _ in range(300)]
            await consumer.ack(seen)
        await client.rewind("orders", group="audit", to=ids[100])
        before = await settled(client, "orders", {"audit": (200, 0), "default": (250, 30)})

        await kill_all_and_start_again(nodes)

        # A poll that was on its way when the nodes died is asked again, and what it gets is given back.
        after = await settled(client, "orders", {"audit": (200, 0), "default": (250, 30)})
        assert after.partitions[0].log_end == before.partitions[0].log_end == 300
        assert after.partitions[0].groups == before.partitions[0].groups
        async with client.consumer("orders", group="audit", hide=60, max_messages=300) as consumer:
            again = [await anext(messages) for messages in [aiter(consumer)] for _ in range(200)]
            assert [message.offset for message in again] == list(range(100, 300))
            assert {message.deliveries for message in again} == {1}
        async with client.consumer("orders", hide=60, max_messages=10) as consumer:
            nacked = [await anext(messages) for messages in [aiter(consumer)] for _ in range(10)]
            assert [message.offset for message in nacked] == list(range(20, 30))
            assert {message.deliveries for message in nacked} == {2}
            # A lease given before the crash is as good as ever: what it holds can be acked by its name alone.
            await consumer.ack(first[30:60])


async def test_a_node_whose_index_was_deleted_answers_as_before(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as nodes, connect(nodes.urls) as client:
        (node,) = nodes.nodes.values()
        await client.create_queue("orders")
        # Random bytes do not compress: enough of them to fill WAL files, so that segments and rows exist.
        chance = random.Random(1)
        async with client.producer("orders") as producer:
            for _ in range(60):
                await producer.send_many([chance.randbytes(32 << 10) for _ in range(10)])
        before = await _all_offsets(client, 600)

        node.kill()
        await node.wait()
        index = node.folder / "data" / "index.lmdb"
        assert index.exists()
        shutil.rmtree(index)
        assert list((node.folder / "data" / "groups").glob("*/*.segment"))
        await node.start()

        await client.rewind("orders", to="earliest")
        assert await _all_offsets(client, 600) == before
        assert index.exists()


async def _all_offsets(client: Client, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    with trio.fail_after(60):
        async with client.consumer("orders", hide=60, max_messages=200) as consumer:
            async for message in consumer:
                found.append((message.offset, message.value or b""))
                await message.ack()
                if len(found) == count:
                    break
    return found
