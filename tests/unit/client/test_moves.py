"""Histories, redrives and moves, as far as the client decides about them; against the broker in memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import trio

from logbroker.errors import InvalidArgumentError
from logbroker.record.batch import Record
from logbroker_client import MessageHistory, MessageId, RedriveProgress
from logbroker_client.histories import history_of
from logbroker_client.moves import RedrivePlan, move_ranges, pieces
from logbroker_client.partitioner import partition_of
from logbroker_client.peeking import PeekedMessage
from logbroker_client.testing import MemoryBroker

ORIGIN = ("logbroker-origin-id", b"orders/3/17")


def peeked(offset: int, *headers: tuple[str, bytes | None], state: str = "available") -> PeekedMessage:
    return PeekedMessage(MessageId("dead", 1, offset), state, 0, 5, 0, Record(b"v", None, headers))


def test_a_history_is_what_the_broker_wrote() -> None:
    headers = (
        ("trace", b"\xff"),
        ORIGIN,
        ("logbroker-origin-ms", b"99"),
        ("logbroker-group", b"billing"),
        ("logbroker-attempts", b"3"),
        ("logbroker-cause", b"max_deliveries"),
        ("logbroker-reason", "kein Konto für ä".encode()),
        ("logbroker-consumer", b"till-1"),
    )
    expected = MessageHistory(
        MessageId("orders", 3, 17), 99, 3, "max_deliveries", "kein Konto für ä", "till-1", "billing"
    )
    assert history_of(headers) == expected
    assert history_of((ORIGIN,)) == MessageHistory(MessageId("orders", 3, 17), 0)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("trace", b"1"),),
        (("logbroker-origin-id", b"orders"),),
        (("logbroker-origin-id", None),),
        (("logbroker-origin-id", b"\xff/1/2"),),
        (ORIGIN, ("logbroker-attempts", b"many")),
    ],
)
def test_headers_that_do_not_read_as_a_history_are_none(headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert history_of(headers) is None


def test_a_plan_sends_messages_where_they_came_from_or_all_to_one_queue() -> None:
    counts = {"orders": 2, "all": 8}
    messages = [
        peeked(0, ORIGIN),
        peeked(1, ORIGIN),
        peeked(2),
        peeked(3, ORIGIN, state="leased"),
        peeked(4, ("logbroker-origin-id", b"gone/0/1")),
        peeked(5, ("logbroker-origin-id", b"dead/0/1")),
        peeked(6, ORIGIN),
    ]
    plan = RedrivePlan(to=None, where=None, partitions=lambda name: counts.get(name, 0))
    assert plan.sorted(messages) == {("orders", 1): [(0, 2), (6, 7)]}
    assert plan.skipped == 4
    plan = RedrivePlan(to="all", where=lambda message: message.offset != 6, partitions=lambda name: counts[name])
    assert plan.sorted(messages) == {("all", 3): [(0, 2)], ("all", 1): [(2, 3)], ("all", 0): [(4, 6)]}
    assert plan.skipped == 2


@pytest.mark.parametrize(
    ("count", "to", "place"),
    [
        (4, None, ("orders", 3)),  # where it was
        (2, None, ("orders", partition_of(b"key 0", 2))),  # which is not there any more
        (4, "all", ("all", partition_of(b"key 0", 4))),
    ],
)
def test_a_message_with_a_key_goes_where_others_of_its_key_are(count: int, to: str | None, place: object) -> None:
    message = replace(peeked(0, ORIGIN), _content=Record(b"v", b"key 0", (ORIGIN,)))
    plan = RedrivePlan(to=to, where=None, partitions=lambda _: count)
    assert list(plan.sorted([message])) == [place]


def test_ranges_of_a_move_are_joined_by_partition_and_bounded() -> None:
    ids = [MessageId("q", 1, 4), MessageId("q", 0, 9), MessageId("q", 1, 5)]
    assert move_ranges("q", ids) == [(0, [(9, 10)]), (1, [(4, 6)])]
    with pytest.raises(InvalidArgumentError, match="p/0/1 is not one of queue q"):
        move_ranges("q", [MessageId("p", 0, 1)])
    assert [len(part) for part in pieces([(number, number + 1) for number in range(0, 5_000, 2)])] == [
        1_000,
        1_000,
        500,
    ]


async def kill(broker: MemoryBroker, count: int) -> None:
    async with broker.connect() as client:
        async with client.producer("orders") as producer:
            for first in range(0, count, 500):
                await producer.send_many([b"%d" % number for number in range(first, min(first + 500, count))])
        async with client.consumer("orders", prefetch=1) as consumer:
            left = count
            async for message in consumer:
                await message.reject(reason=f"reason {message.offset % 2}")
                left -= 1
                if not left:
                    break


async def test_any_number_of_messages_is_moved_and_brought_back() -> None:
    broker = MemoryBroker()
    broker.create_queue("dead")
    broker.create_queue("orders", dead_letter="dead")
    await kill(broker, 700)
    assert broker.counts("dead").available == 700
    seen: list[RedriveProgress] = []
    async with broker.connect() as client:
        totals = await client.redrive("dead", on_progress=seen.append)
    assert totals == RedriveProgress(700, 0, 0)
    assert [progress.moved for progress in seen] == [100, 200, 300, 400, 500, 600, 700]
    assert [progress.left for progress in seen] == [600, 500, 400, 300, 200, 100, 0]
    assert broker.counts("dead").unsettled == 0
    assert broker.counts("orders").available == 700
    values = [record.value for part in broker.records("orders") for record in [part]]
    assert len(values) == 1_400


async def test_a_redrive_takes_what_was_delayed_once_that_is_over() -> None:
    broker = MemoryBroker()
    broker.create_queue("dead", backoff=10.0)
    broker.create_queue("orders", dead_letter="dead")
    await kill(broker, 2)
    async with broker.connect() as client:
        async with client.consumer("dead", prefetch=1) as consumer:
            async for message in consumer:
                await message.nack()
                break
        assert await client.redrive("dead") == RedriveProgress(1, 1, 0)
        broker.advance(10.1)
        assert await client.redrive("dead") == RedriveProgress(1, 0, 0)
    assert broker.counts("orders").available == 2


async def test_a_message_that_grew_too_old_says_so() -> None:
    broker = MemoryBroker()
    broker.create_queue("dead")
    broker.create_queue("orders", dead_letter="dead", max_age=5.0)
    async with broker.connect() as client:
        async with client.producer("orders") as producer:
            await producer.send(b"a")
        broker.advance(6.0)
        async with client.consumer("dead") as consumer:
            (message,) = await consumer.receive()
            assert message.history is not None
            assert (message.history.cause, message.history.attempts) == ("ttl", 0)
            assert (message.history.group, message.history.consumer) == ("default", "")
            await message.ack()


async def test_many_moves_at_once_do_not_stack_up() -> None:
    """Each message is a move of its own: 250 answers that send the next would be too deep a call."""
    broker = MemoryBroker()
    for name in ("a", "b"):
        broker.create_queue(name)
    async with broker.connect() as client:
        async with client.producer("a") as producer:
            ids = await producer.send_many([b"%d" % number for number in range(250)])
        async with trio.open_nursery() as nursery:
            for message in ids:
                nursery.start_soon(partial(client.move, "a", messages=[message], to="b"))
    assert broker.counts("b").available == 250


async def test_a_redrive_that_is_cancelled_goes_on_the_next_time(autojump_clock: trio.testing.MockClock) -> None:
    broker = MemoryBroker()
    broker.create_queue("dead")
    broker.create_queue("orders", dead_letter="dead")
    await kill(broker, 50)
    async with broker.connect() as client:
        began = trio.current_time()
        with trio.move_on_after(2.5) as scope:
            await client.redrive("dead", rate=10)
        assert scope.cancelled_caught
        assert broker.counts("orders").available == 30
        totals = await client.redrive("dead", rate=10)
        assert totals == RedriveProgress(20, 0, 0)
        assert trio.current_time() - began >= 3.0
        assert broker.counts("orders").available == 50
        with pytest.raises(InvalidArgumentError, match="rate 0"):
            await client.redrive("dead", rate=0)


async def test_only_what_is_wanted_comes_back() -> None:
    broker = MemoryBroker()
    broker.create_queue("dead")
    broker.create_queue("orders", dead_letter="dead")
    await kill(broker, 6)

    def wanted(message: PeekedMessage) -> bool:
        return message.history is not None and message.history.reason == "reason 1"

    async with broker.connect() as client:
        assert await client.redrive("dead", where=wanted) == RedriveProgress(3, 3, 0)
        assert await client.redrive("dead", where=wanted) == RedriveProgress(0, 3, 0)
    assert broker.counts("dead").available == 3
