"""Messages for later: what is said to the broker, and what it does in the broker in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from logbroker.errors import InvalidArgumentError, OffsetOutOfRangeError
from logbroker_client import Cancelled, MessageId
from logbroker_client.delays import AT_ONCE, delay_of
from logbroker_client.testing import Counts, MemoryBroker


def test_a_delay_is_whole_milliseconds_and_never_shorter() -> None:
    assert delay_of(0.0, None) is AT_ONCE
    assert delay_of(0.0001, None) == (1, 0)
    assert delay_of(2.5, None) == (2_500, 0)
    assert delay_of(0.0, datetime(2027, 1, 1, microsecond=1, tzinfo=UTC)) == (0, 1_798_761_600_001)
    assert delay_of(0.0, datetime(1970, 1, 1, tzinfo=UTC)) == (0, 1)


@pytest.mark.parametrize(
    ("delay", "deliver_at"),
    [
        (-1.0, None),
        (float("nan"), None),
        (1e11, None),
        (1.0, datetime(2027, 1, 1, tzinfo=UTC)),
        (0.0, datetime(2027, 1, 1)),
    ],
)
def test_a_delay_that_makes_no_sense_is_refused(delay: float, deliver_at: datetime | None) -> None:
    with pytest.raises(InvalidArgumentError):
        delay_of(delay, deliver_at)


async def test_delayed_messages_come_in_their_time_and_cancelled_ones_never() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders")
    async with broker.connect() as client, client.producer("orders") as producer:
        at = broker.now + timedelta(seconds=30)
        later = await producer.send(b"later", deliver_at=at)
        soon, never = await producer.send_many([b"soon", b"never"], delay=10.0)
        await producer.send(b"now")
        assert broker.counts("orders") == Counts(available=1, leased=0, delayed=3)
        assert await client.cancel("orders", [never]) == Cancelled(1, 0)
        queue = client.queue("orders")
        assert await queue.cancel([never, MessageId("orders", 0, 3)]) == Cancelled(1, 1)
        with pytest.raises(OffsetOutOfRangeError):
            await client.cancel("orders", [MessageId("orders", 0, 4)])
        with pytest.raises(InvalidArgumentError, match="not one of queue"):
            await client.cancel("orders", [MessageId("bills", 0, 0)])
        async with client.consumer("orders") as consumer:
            (message,) = await consumer.receive()
            assert message.value == b"now"
            await message.ack()
            broker.advance(10.2)
            (message,) = await consumer.receive()
            assert (message.value, message.id) == (b"soon", soon)
            await message.ack()
            broker.advance(30)
            (message,) = await consumer.receive()
            assert (message.value, message.id) == (b"later", later)


async def test_a_delay_beyond_the_retention_is_refused() -> None:
    broker = MemoryBroker()
    broker.create_queue("orders")
    async with broker.connect() as client, client.producer("orders") as producer:
        with pytest.raises(InvalidArgumentError, match="delay_ms"):
            await producer.send(b"never", delay=5 * 86_400)
