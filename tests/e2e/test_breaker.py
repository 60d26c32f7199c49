"""A consumer that fails at everything, against a real node: its group is paused, nothing dies, and it goes on later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from logbroker_client import connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 10


async def test_a_storm_of_failures_pauses_the_group_and_buries_nothing(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
        await client.create_queue("orders", max_deliveries=2, breaker=0.9, breaker_count=COUNT, breaker_pause=4.0)
        async with client.producer("orders") as producer:
            await producer.send_many([b"%d" % number for number in range(COUNT)])
        async with client.consumer("orders", max_messages=1, prefetch=1) as consumer:
            for _ in range(COUNT):
                (message,) = await consumer.receive()
                assert message.deliveries == 1
                await message.nack(delay=0.5, reason="the bank is down")
            # The pause follows the last nack; describing takes a round trip.
            with trio.fail_after(2):
                while not (group := await client.describe_group("orders", "default")).is_paused:
                    pass
            assert group.paused_reason == f"breaker: {COUNT} of {COUNT} deliveries failed in 10 s"
            assert group.dead == 0
            (problem,) = (await client.status()).problems
            assert problem.startswith("consumer group default of orders/0 is paused until ")
            assert problem.endswith(group.paused_reason)
            with trio.move_on_after(0.8) as waited:
                await consumer.receive()
            assert waited.cancelled_caught, "nothing is delivered, though every message is due"
            with trio.fail_after(10):
                for _ in range(COUNT):
                    (message,) = await consumer.receive()
                    assert message.deliveries == 2
                    await message.ack()
        group = await client.describe_group("orders", "default")
        assert (group.is_paused, group.lag_count, group.dead) == (False, 0, 0)
        assert (await client.status()).problems == []
