"""A consumer group that is paused, resumed and purged, on a real node that is started anew meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from logbroker_client import connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_pause_outlives_the_node_and_ends_by_itself_or_by_word(tmp_path: Path) -> None:
    config = single(tmp_path)
    async with running(config) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        await client.create_queue("orders")
        async with client.producer("orders") as producer:
            await producer.send_many([b"a", b"b"])
        await client.pause_group("orders", reason="the bank is closed")
    async with running(config) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        group = await client.describe_group("orders", "default")
        assert (group.is_paused, group.paused_reason, group.available) == (True, "the bank is closed", 2)
        async with client.consumer("orders", max_messages=1, prefetch=1) as consumer:
            with trio.move_on_after(0.3) as waited:
                await consumer.receive()
            assert waited.cancelled_caught, "nothing is delivered to a paused group"
            await client.pause_group("orders", duration=timedelta(seconds=1))
            with trio.fail_after(10):
                (first,) = await consumer.receive()
            await first.ack()
        purged = await client.purge("orders")
        assert purged.purged_count == 1
        group = await client.describe_group("orders", "default")
        assert (group.is_paused, group.lag_count) == (False, 0)


async def test_a_stream_stays_open_while_its_group_is_paused(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        await client.create_queue("orders")
        async with client.subscribe("orders", credit=1) as consumer, client.producer("orders") as producer:
            await producer.send(b"a")
            (first,) = await consumer.receive()
            await client.pause_group("orders")
            await first.ack()
            await producer.send(b"b")
            with trio.move_on_after(0.3) as waited:
                await consumer.receive()
            assert waited.cancelled_caught
            await client.resume_group("orders")
            with trio.fail_after(10):
                (second,) = await consumer.receive()
            assert (second.value, second.deliveries) == (b"b", 1)
            await second.ack()
