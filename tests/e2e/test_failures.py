"""Messages that fail, on a real node: tried as often as allowed, dead, listed, revived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker_client import connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_message_dies_as_its_queue_says_and_is_brought_back(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        await client.create_queue("orders", max_deliveries=2)
        async with client.producer("orders") as producer:
            for value in (b"bad", b"worse"):
                await producer.send(value)
        async with client.consumer("orders") as consumer:
            seen: list[tuple[bytes | None, int]] = []
            while len(seen) < 3:
                message = await consumer.__anext__()
                seen.append((message.value, message.deliveries))
                if message.value == b"worse":
                    await message.reject(reason="no such account")
                else:
                    await message.nack(reason="the bank is closed")
        assert sorted(seen) == [(b"bad", 1), (b"bad", 2), (b"worse", 1)]
        found = await client.dead("orders")
        assert [(row.start, row.deliveries, row.cause, row.reason) for row in found] == [
            (0, 2, "max_deliveries", "the bank is closed"),
            (1, 1, "rejected", "no such account"),
        ]
        (partition,) = (await client.describe_queue("orders")).partitions
        assert [(group.dead, group.available) for group in partition.groups] == [(2, 0)]
        await client.alter_queue("orders", max_deliveries=0)
        assert await client.revive("orders") == 2
        async with client.consumer("orders") as consumer:
            async for message in consumer:
                assert message.deliveries == 1
                await message.ack()
                if message.value == b"worse":
                    break
        assert await client.dead("orders") == []
