"""Messages for later, on a real node: not before they are due, and at most a second after on an idle queue."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from logbroker_client import connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker_client import Client

DELAY_S = 1.5


async def arrival_s(client: Client, *, is_stream: bool) -> float:
    """When the next message comes to who waits for it, by the clock of this machine."""
    consumer = client.subscribe("orders") if is_stream else client.consumer("orders", wait=20.0)
    with trio.fail_after(20):
        async with consumer:
            message = await consumer.__anext__()
            found = time.time()
            await message.ack()
    return found


async def test_who_waits_gets_a_message_when_it_is_due_and_within_a_second(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        await client.create_queue("orders")
        for is_stream in (False, True):
            async with client.producer("orders") as producer:
                sent_s = time.time()
                await producer.send(b"after a while", delay=DELAY_S)
                confirmed_s = time.time()
            found_s = await arrival_s(client, is_stream=is_stream)
            assert sent_s + DELAY_S <= found_s <= confirmed_s + DELAY_S + 1.0
            due_s = time.time() + DELAY_S
            async with client.producer("orders") as producer:
                await producer.send(b"at a time", deliver_at=datetime.fromtimestamp(due_s, UTC))
            found_s = await arrival_s(client, is_stream=is_stream)
            assert due_s <= found_s <= due_s + 1.0
