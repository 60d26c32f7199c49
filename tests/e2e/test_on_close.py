"""Consumers whose connection ends while they hold messages: killed, cut off, or left by a node that stops."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker_client import StaleLeaseError, connect
from tests.e2e.processes import cluster
from tests.e2e.test_cluster import spread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from logbroker_client import Client, Consumer, Message

HIDE_S = 600.0
"""Nobody here lives to see its end."""
SOON_S = 10.0
"""Half a second, on a machine that has other work."""


async def put(client: Client, *values: bytes) -> None:
    async with client.producer("orders") as producer:
        await producer.send_many(values)


async def take(consumer: Consumer, count: int) -> list[Message]:
    found: list[Message] = []
    with trio.fail_after(SOON_S):
        while len(found) < count:
            found += await consumer.receive()
    return found


@asynccontextmanager
async def another_process(url: str, *flags: str) -> AsyncIterator[trio.Process]:
    """`logbroker consume`, which acks nothing; it is killed with the block."""
    command = [sys.executable, "-m", "logbroker", "consume", "orders", "--no-ack", "--follow", "-o", "ndjson"]
    process = await trio.lowlevel.open_process([*command, "--url", url, *flags], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SOON_S):
            await process.wait()


async def read_lines(process: trio.Process, count: int) -> list[dict[str, object]]:
    assert process.stdout is not None
    text = b""
    while text.count(b"\n") < count:
        data = await process.stdout.receive_some()
        assert data
        text += data
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["receives", "stream"])
async def test_what_a_killed_consumer_held_goes_to_another_at_once_and_uncounted(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    async with cluster(tmp_path, size=1) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders", hide=HIDE_S)
        await put(client, b"one", b"two")
        with trio.fail_after(60):
            async with another_process(nodes.urls[0], "--on-close", "release", *how) as process:
                assert [line["value"] for line in await read_lines(process, 2)] == ["one", "two"]
                async with client.consumer("orders") as consumer:
                    # What comes to this one first is what the other one does not hold.
                    process.kill()
                    messages = await take(consumer, 2)
                    assert [(message.value, message.deliveries) for message in messages] == [(b"one", 1), (b"two", 1)]
                    await consumer.ack(messages)


async def test_who_loses_its_connection_and_comes_back_is_told_that_its_messages_are_others(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as nodes, connect(nodes.urls) as holder, connect(nodes.urls) as client:
        await client.create_queue("orders", hide=HIDE_S)
        await put(client, b"one", b"two")
        with trio.fail_after(60):
            async with holder.consumer("orders", on_close="release") as mine, client.consumer("orders") as others:
                done, begun = await take(mine, 2)
                await done.ack()
                link = holder.core.leader_link("orders", 0)
                assert link is not None
                link.abort()
                (again,) = await take(others, 1)
                assert (again.id, again.deliveries) == (begun.id, 1)
                with pytest.raises(StaleLeaseError):
                    await begun.ack()
                await again.ack()


@pytest.mark.slow
async def test_a_node_that_stops_gives_back_what_its_consumers_hold_before_another_leads(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as holder, connect(nodes.urls) as client:
        await client.create_queue("orders", hide=HIDE_S)
        leader = (await spread(client, "orders", leaders=1)).partitions[0].leader
        await put(client, b"one", b"two")
        with trio.fail_after(60):
            async with holder.consumer("orders", on_close="release", prefetch=1) as mine:
                (one, two) = await take(mine, 2)
            async with client.consumer("orders") as others:
                nodes.nodes[leader].terminate()
                messages = await take(others, 2)
                assert [(message.id, message.deliveries) for message in messages] == [(one.id, 1), (two.id, 1)]
                await others.ack(messages)
                assert await nodes.nodes[leader].wait() == 0
