"""The broker in memory, as somebody uses it who tests a program of theirs."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from logbroker.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OffsetOutOfRangeError,
    StaleLeaseError,
)
from logbroker_client.testing import Counts, MemoryBroker

if TYPE_CHECKING:
    from logbroker_client import Client, Message, MessageId


def broker_with(queue: str = "orders", *, partitions: int = 1, hide: float = 30.0) -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_queue(queue, partitions=partitions, hide=hide)
    return broker


async def send(client: Client, *values: bytes) -> list[MessageId]:
    async with client.producer("orders") as producer:
        return await producer.send_many(list(values))


async def test_a_hide_time_ends_when_the_test_says_so() -> None:
    broker = broker_with()
    async with broker.connect() as client, client.consumer("orders") as consumer:
        await send(client, b"a", b"b")
        first = await consumer.receive()
        assert [message.value for message in first] == [b"a", b"b"]
        await first[0].ack()
        broker.advance(29.9)
        assert broker.counts("orders") == Counts(available=0, leased=1, delayed=0)
        # Leases end up to a tenth of a second late, never early; who waits gets the message at that moment.
        broker.advance(0.2)
        assert broker.counts("orders") == Counts(available=0, leased=1, delayed=0)
        (again,) = await consumer.receive()
        assert (again.value, again.deliveries) == (b"b", 2)
        with pytest.raises(StaleLeaseError):
            await first[1].ack()
        await again.ack()
    assert broker.counts("orders").unsettled == 0
    assert [record.value for record in broker.records("orders")] == [b"a", b"b"]


async def test_a_delayed_nack_comes_when_its_time_has_come() -> None:
    broker = broker_with()
    async with broker.connect() as client, client.consumer("orders", prefetch=1) as consumer:
        await send(client, b"a")
        (message,) = await consumer.receive()
        await message.nack(delay=60)
        assert broker.counts("orders") == Counts(available=0, leased=0, delayed=1)
        broker.advance(59)
        assert broker.counts("orders").delayed == 1
        broker.advance(1.1)
        (again,) = await consumer.receive()
        await again.ack()


async def test_time_goes_from_deadline_to_deadline() -> None:
    broker = broker_with(hide=10.0)
    async with broker.connect() as client:
        await send(client, b"a")
        async with client.consumer("orders", wait=30.0, prefetch=4) as consumer:
            (first,) = await consumer.receive()
            # Meanwhile a second receive waits: it gets the message after ten seconds, and keeps it for ten more.
            broker.advance(19)
            assert broker.counts("orders") == Counts(available=0, leased=1, delayed=0)
            (second,) = await consumer.receive()
            assert (first.deliveries, second.deliveries) == (1, 2)
            await second.ack()


async def test_rewinds_go_by_the_brokers_clock() -> None:
    broker = broker_with(partitions=2)
    async with broker.connect() as client:
        await send(client, b"old")
        broker.advance(3600)
        moment = broker.now
        new = (await send(client, b"new"))[0]
        await client.skip_to("orders", to="latest")
        assert broker.counts("orders").unsettled == 0
        await client.rewind("orders", to=moment)
        assert broker.counts("orders").available == 1
        await client.rewind("orders", to=timedelta(hours=2))
        assert broker.counts("orders").available == 2
        await client.skip_to("orders", to="latest")
        await client.rewind("orders", to=new)
        assert broker.counts("orders").available == 1
        with pytest.raises(OffsetOutOfRangeError):
            await client.rewind("orders", to=100)


async def test_a_rewind_window_ends_before_the_retention() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders", rewind_window=60.0)
    async with broker.connect() as client:
        await send(client, b"old")
        broker.advance(50)
        await send(client, b"new")
        broker.advance(20)
        await client.skip_to("orders", to="latest")
        with pytest.raises(InvalidArgumentError, match="lies before the rewind window"):
            await client.rewind("orders", to=timedelta(seconds=61))
        await client.rewind("orders", to="earliest")
        assert broker.counts("orders").available == 1
        await client.skip_to("orders", to="latest")
        await client.alter_queue("orders", rewind_window=0.0)
        broker.advance(0.2)
        await client.alter_queue("orders", rewind_window=3600.0)
        await client.rewind("orders", to="earliest")
        assert broker.counts("orders").available == 0


async def test_retention_takes_what_is_old() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders", retention=timedelta(hours=1))
    async with broker.connect() as client:
        await send(client, b"old")
        broker.advance(3000)
        await send(client, b"new")
        broker.advance(1000)
        assert [record.value for record in broker.records("orders")] == [b"new"]
        assert broker.counts("orders").available == 1


async def test_the_oldest_messages_go_where_there_are_too_many() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders", max_messages=2, full="drop_oldest")
    async with broker.connect() as client:
        await send(client, b"a", b"b", b"c")
        broker.advance(0.1)
        (partition,) = (await client.describe_queue("orders")).partitions
        assert (partition.log_start, partition.log_end) == (1, 3)
        await client.alter_queue("orders", max_messages=0, max_bytes=1 << 20)
        for _ in range(5):
            await send(client, bytes(300_000))
        broker.advance(0.2)
        assert broker.counts("orders").available == 3


async def test_a_time_to_live_ends_between_other_deadlines() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders", max_age=60.0)
    async with broker.connect() as client:
        begin_ms = broker.now.timestamp() * 1000
        await send(client, b"a")
        broker.advance(59.9)
        assert await client.dead("orders") == []
        broker.advance(3600)
        (row,) = await client.dead("orders")
        assert (row.start, row.end, row.deliveries, row.cause, row.consumer) == (0, 1, 0, "ttl", "")
        assert 60_000 <= row.buried_at_ms - begin_ms <= 61_000


async def is_paused(client: Client) -> bool:
    return (await client.describe_queue("orders")).partitions[0].groups[0].is_paused


async def test_what_runs_out_during_a_pause_does_so_in_its_time() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders", hide=5.0, breaker=0.5, breaker_count=2, breaker_pause=20.0)
    async with broker.connect() as client, client.consumer("orders") as consumer:
        await send(client, b"a", b"b", b"c", b"d")
        messages = await consumer.receive()
        for message in messages[:2]:
            await message.nack()
        assert await is_paused(client)
        assert broker.counts("orders").leased >= 2
        # What ends during a pause says nothing of what follows, and trips no breaker again.
        broker.advance(21.0)
        assert not await is_paused(client)


async def test_groups_queues_and_tokens_are_those_of_a_node() -> None:
    broker = broker_with()
    async with broker.connect() as client:
        await send(client, b"a")
        await client.create_group("orders", "billing", start="earliest")
        with pytest.raises(AlreadyExistsError):
            await client.create_group("orders", "billing")
        assert broker.counts("orders", group="billing").available == 1
        await client.alter_queue("orders", partitions=3)
        found = await client.describe_queue("orders")
        assert [[group.name for group in partition.groups] for partition in found.partitions] == [
            ["billing", "default"]
        ] * 3
        assert await client.create_token("till", ["orders:produce"])
        assert [token.name for token in await client.list_tokens()] == ["till"]
        assert [node.node for node in (await client.status()).nodes] == [1]
        with pytest.raises(InvalidArgumentError, match="retention_ms"):
            await client.create_queue("short", retention=timedelta(seconds=1))
        with pytest.raises(AlreadyExistsError):
            broker.create_queue("orders", partitions=7)


async def test_a_group_is_as_far_behind_as_its_oldest_unsettled_message_is_old() -> None:
    broker = broker_with()
    async with broker.connect() as client:
        assert (await client.describe_group("orders", "default")).lag_ms == 0
        await send(client, b"a", b"b")
        sent_ms = round(broker.now.timestamp() * 1000)
        broker.advance(60)
        await send(client, b"c")
        found = await client.describe_group("orders", "default")
        assert (found.available, found.lag_count, found.lag_ms, found.oldest_ms) == (3, 3, 60_000, sent_ms)
        async with client.consumer("orders") as consumer:
            first, second, third = await consumer.receive()
            await first.ack()
            await second.reject(reason="no account")
            found = await client.describe_group("orders", "default")
            assert (found.leased, found.dead, found.lag_count, found.lag_ms) == (1, 1, 1, 0)
            await third.nack(delay=30)
        broker.advance(10)
        await send(client, b"d")
        found = await client.describe_group("orders", "default")
        assert (found.available, found.delayed, found.lag_count, found.lag_ms) == (1, 1, 2, 10_000)
        assert found.partitions[0].oldest_offset == 2
        assert [row.name for row in await client.describe_groups("orders")] == ["default"]


async def test_messages_are_looked_at_and_stay_as_they_are() -> None:
    broker = broker_with(partitions=2)
    async with broker.connect() as client:
        ids = [*await send(client, b"a", b"b"), *await send(client, b"c")]
        partitions = broker._broker._of("orders")
        async with client.consumer("orders") as consumer:
            taken = await consumer.receive()
            await taken[0].ack()
            before = [partition.machine.digest() for partition in partitions]
            found = await client.peek("orders")
            assert {message.id for message in found} == set(ids) - {taken[0].id}
            every = await client.peek("orders", start="earliest")
            assert {message.id: message.value for message in every}[taken[0].id] == taken[0].value
            assert {message.state for message in every if message.id == taken[0].id} == {"acked"}
            assert len(await client.peek("orders", max_count=1)) == 1
            assert (await client.peek("orders", start=ids[2]))[0].id == ids[2]
            with pytest.raises(NotFoundError):
                await client.peek("orders", group="nobody")
            with pytest.raises(InvalidArgumentError, match="max_count is 0"):
                await client.peek("orders", max_count=0)
            assert [partition.machine.digest() for partition in partitions] == before


async def test_a_look_at_many_messages_goes_page_by_page() -> None:
    broker = broker_with()
    async with broker.connect() as client:
        await send(client, *[b"%d" % number for number in range(250)])
        found = await client.peek("orders", max_count=240)
        assert [message.offset for message in found] == list(range(240))
        assert {(message.state, message.deliveries) for message in found} == {("available", 0)}


async def test_looking_at_groups_changes_nothing() -> None:
    broker = broker_with()
    async with broker.connect() as client:
        await send(client, b"a", b"b")
        (partition,) = broker._broker._of("orders")
        before = partition.machine.digest(), partition.machine.applied_index
        await client.describe_groups("orders")
        with pytest.raises(NotFoundError, match="queue orders has no consumer group nobody"):
            await client.describe_group("orders", "nobody")
        with pytest.raises(NotFoundError):
            await client.describe_group("nowhere", "default")
        with pytest.raises(InvalidArgumentError):
            await client.describe_group("orders", "")
        assert (partition.machine.digest(), partition.machine.applied_index) == before


async def test_who_waits_at_a_queue_that_is_deleted_is_told() -> None:
    broker = broker_with()
    async with broker.connect() as client, client.consumer("orders") as consumer, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(NotFoundError):
                await consumer.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await client.delete_queue("orders")
    with pytest.raises(NotFoundError):
        broker.counts("orders")
    with pytest.raises(NotFoundError):
        broker.records("orders")


async def test_a_linger_waits_for_the_clock_like_everything_else() -> None:
    broker = broker_with()
    async with (
        broker.connect() as client,
        client.producer("orders", linger=5.0) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(producer.send, b"a")
        nursery.start_soon(producer.send, b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert broker.records("orders") == []
        broker.advance(5)
        assert sorted(record.value or b"" for record in broker.records("orders")) == [b"a", b"b"]


async def test_a_long_time_breaks_no_connection() -> None:
    broker = broker_with()
    async with broker.connect() as client, client.consumer("orders") as consumer:
        broker.advance(86_400)
        await send(client, b"a")
        (message,) = await consumer.receive()
        await message.ack()


async def test_clients_of_all_kinds_share_a_broker() -> None:
    broker = broker_with()

    def bill() -> bytes | None:
        with broker.connect_blocking() as client, client.consumer("orders") as consumer:
            message = next(consumer)
            with message:
                return message.value
        raise AssertionError("no message")

    async with broker.connect() as client, trio.open_nursery() as nursery:
        found: list[bytes | None] = []

        async def work() -> None:
            found.append(await trio.to_thread.run_sync(bill))

        nursery.start_soon(work)
        await send(client, b"shared")
    assert found == [b"shared"]
    assert broker.counts("orders").unsettled == 0


async def test_the_example_of_the_readme_does_what_it_says() -> None:
    readme = Path(__file__).parents[3] / "clients" / "python" / "README.md"
    (example,) = [
        code for code in re.findall(r"```python\n(.*?)```", readme.read_text(), re.S) if "MemoryBroker" in code
    ]
    names: dict[str, Any] = {}
    exec(example, names)
    await names["test_an_order_that_nobody_bills_in_time_comes_again"]()


def test_every_run_is_the_same() -> None:
    async def run(broker: MemoryBroker) -> list[MessageId]:
        async with broker.connect_asyncio() as client:
            first = await send(client, *[b"%d" % number for number in range(100)])
            return first + await send(client, b"one", b"another")

    assert asyncio.run(run(broker_with(partitions=5))) == asyncio.run(run(broker_with(partitions=5)))
    assert MemoryBroker().now == datetime(2026, 1, 1, tzinfo=UTC)
    start = datetime(2030, 5, 1, 12, tzinfo=UTC)
    assert MemoryBroker(start=start).now == start


def test_a_clock_has_its_zone_and_goes_forward() -> None:
    with pytest.raises(InvalidArgumentError, match="no time zone"):
        MemoryBroker(start=datetime(2030, 5, 1))
    with pytest.raises(InvalidArgumentError, match="cannot go back"):
        MemoryBroker().advance(-1)


async def test_an_error_of_the_block_leaves_it_as_it_is() -> None:
    broker = broker_with()
    with pytest.raises(ZeroDivisionError):
        async with broker.connect():
            raise ZeroDivisionError


async def test_acks_that_nobody_waited_for_arrive_when_the_consumer_is_closed() -> None:
    broker = broker_with()
    async with broker.connect() as client:
        await send(client, b"a", b"b", b"c")
        seen: list[Message] = []
        async with client.consumer("orders") as consumer:
            async for message in consumer:
                message.ack_nowait()
                seen.append(message)
                if len(seen) == 2:
                    break
        assert broker.counts("orders") == Counts(available=1, leased=0, delayed=0)
