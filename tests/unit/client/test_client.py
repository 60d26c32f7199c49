"""The client on trio against fake brokers, over streams in memory and a clock that jumps."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from logbroker.errors import (
    AlreadyExistsError,
    ConfigurationError,
    CorruptBatchError,
    InvalidArgumentError,
    LocalProtocolError,
    LogBrokerError,
    NotFoundError,
    OverloadedError,
    RequestTooLargeError,
    ShuttingDownError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.record.batch import decode_batch
from logbroker.wire.requests import (
    Ack,
    AlterQueue,
    AnyRequest,
    BatchPart,
    CreateGroup,
    DescribeGroups,
    EarliestTarget,
    LatestTarget,
    MessageTarget,
    Nack,
    OffsetTarget,
    PauseGroup,
    Produce,
    PurgeGroup,
    QueueChanges,
    Receive,
    Received,
    RelativeTarget,
    Release,
    ResumeGroup,
    TimeTarget,
)
from logbroker_client import Client, Message, MessageId, NewMessage, connect
from logbroker_client.client import target_of
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNetwork, FakeNode, Hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock


@asynccontextmanager
async def serving(cluster: FakeCluster) -> AsyncIterator[FakeNetwork]:
    async with trio.open_nursery() as nursery:
        yield FakeNetwork(cluster, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(cluster: FakeCluster, **options: float) -> AsyncIterator[Client]:
    async with serving(cluster) as network:
        urls = [node.url for node in cluster.nodes.values()]
        async with connect(urls, open_stream=network.open, **options) as client:  # type: ignore[arg-type]  # as written
            yield client


def cluster_of(nodes: int = 1, partitions: int = 1) -> FakeCluster:
    cluster = FakeCluster(nodes)
    cluster.add_queue("orders", partitions)
    return cluster


def values(cluster: FakeCluster, partition: int = 0) -> list[bytes | None]:
    batches = cluster.partition("orders", partition).batches
    return [record.value for _, _, data in batches for record in decode_batch(data)]


def holding(kind: type[AnyRequest]) -> Callable[[FakeNode, AnyRequest, bytes], Hold | None]:
    return lambda node, request, body: Hold() if isinstance(request, kind) else None


def answer_held(node: FakeNode) -> None:
    """Say what was swallowed so far, and swallow no more."""
    node.on_request = None
    for connection in node.connections:
        held, connection.held = connection.held, []
        for request, body in held:
            connection.answer(request, body)
        connection.on_output()


# --- the whole way ---


async def test_messages_go_in_and_come_out(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        async with client.producer("orders") as producer:
            first = await producer.send(b"first")
            second = await producer.send(b"second", key=b"k", headers=(("trace", b"1"),))
        assert [str(first), str(second)] == ["orders/0/0", "orders/0/1"]
        async with client.consumer("orders") as consumer:
            seen: list[Message] = []
            async for message in consumer:
                seen.append(message)
                await message.ack()
                if len(seen) == 2:
                    break
    assert [(m.value, m.key, m.headers) for m in seen] == [
        (b"first", None, ()),
        (b"second", b"k", (("trace", b"1"),)),
    ]
    assert [(m.id, m.queue, m.partition, m.offset) for m in seen] == [(first, "orders", 0, 0), (second, "orders", 0, 1)]
    assert [(m.deliveries, m.append_ms, m.lease) for m in seen] == [(1, 1000, seen[0].lease)] * 2
    assert cluster.partition().acked == {0, 1}


async def test_many_messages_keep_their_order(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client, client.producer("orders", batch_bytes=500) as producer:
        ids = await producer.send_many([b"%d" % number for number in range(500)])
    assert ids == [MessageId("orders", 0, number) for number in range(500)]
    assert values(cluster) == [b"%d" % number for number in range(500)]


async def test_a_list_may_mix_values_and_messages_with_keys(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client, client.producer("orders") as producer:
        ids = await producer.send_many([b"a", NewMessage(None, b"k"), NewMessage(b"c", headers=(("h", None),))])
        assert await producer.send_many([]) == []
    assert [message_id.offset for message_id in ids] == [0, 1, 2]
    assert values(cluster) == [b"a", None, b"c"]


async def test_tasks_that_send_at_once_share_batches(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    offsets: set[int] = set()

    async def send_some(number: int) -> None:
        for round_number in range(5):
            offsets.add((await producer.send(b"%d-%d" % (number, round_number))).offset)

    async with connected(cluster) as client, client.producer("orders") as producer, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(send_some, number)
    assert offsets == set(range(1000))
    assert len(cluster.partition().batches) <= 10


# --- connecting ---


async def test_no_node_that_answers_is_reported_with_reasons(autojump_clock: MockClock) -> None:
    cluster = cluster_of(2)
    async with serving(cluster) as network:
        network.down |= {1, 2}
        urls = [node.url for node in cluster.nodes.values()]
        with pytest.raises(UnavailableError, match=r"node1.*connection refused.*node2.*connection refused"):
            async with connect(urls, timeout=3, open_stream=network.open):
                raise AssertionError("not reached")
        assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_a_wrong_token_is_an_error_at_once(autojump_clock: MockClock) -> None:
    cluster = FakeCluster(token="secret")
    async with serving(cluster) as network:
        with pytest.raises(UnauthenticatedError, match="no such token"):
            async with connect(cluster.nodes[1].url, token="wrong", open_stream=network.open):
                raise AssertionError("not reached")
        assert trio.current_time() < 1
        async with connect(cluster.nodes[1].url, token="secret", open_stream=network.open) as client:
            assert await client.list_queues() == []


@pytest.mark.parametrize("url", ["127.0.0.1:4100", "http://127.0.0.1:4100", "ws://", "ws:///path"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a node"):
        async with connect(url):
            raise AssertionError("not reached")


async def test_errors_leave_the_block_as_they_are(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        async with connected_alone(cluster_of()):
            raise KeyError("mine")


@asynccontextmanager
async def connected_alone(cluster: FakeCluster) -> AsyncIterator[Client]:
    """As `connected`, without a nursery of the test around the client."""
    network: list[FakeNetwork] = []

    async def serve(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async with trio.open_nursery() as nursery:
            network.append(FakeNetwork(cluster, nursery))
            task_status.started(nursery.cancel_scope)
            await trio.sleep_forever()

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(serve)
        try:
            async with connect(cluster.nodes[1].url, open_stream=network[0].open) as client:
                yield client
        except Exception as error:
            failure = error
        scope.cancel()
    if failure is not None:
        raise failure


async def test_the_end_of_the_block_says_goodbye(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected_alone(cluster) as client:
        await client.list_queues()
    assert cluster.nodes[1].closings == [1000]


async def test_after_the_block_nothing_works_and_nothing_hangs(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected_alone(cluster) as client:
        producer = client.producer("orders")
        consumer = client.consumer("orders")
        await producer.__aenter__()
        await consumer.__aenter__()
    for use in (partial(producer.send, b"x"), producer.flush, consumer.receive, consumer.flush):
        with pytest.raises(LocalProtocolError, match="is not open"):
            await use()
    with pytest.raises(ShuttingDownError, match="the client is closed"):
        await client.list_queues()
    await producer.__aexit__(None, None, None)
    await consumer.__aexit__(None, None, None)


async def test_those_who_wait_when_the_block_ends_are_told(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    cluster.nodes[1].on_request = lambda node, request, body: Hold() if isinstance(request, Produce | Receive) else None
    told: list[type[BaseException]] = []

    async def tell(use: Callable[[], Awaitable[object]]) -> None:
        try:
            await use()
        except LogBrokerError as error:
            told.append(type(error))

    async with trio.open_nursery() as nursery, connected_alone(cluster) as client:
        producer = client.producer("orders", max_buffered_bytes=100)
        consumer = client.consumer("orders")
        await producer.__aenter__()
        await consumer.__aenter__()
        nursery.start_soon(tell, partial(producer.send, b"x" * 90))
        nursery.start_soon(tell, partial(producer.send, b"y" * 90))
        nursery.start_soon(tell, consumer.receive)
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(kind.__name__ for kind in told) == [
        "LocalProtocolError",
        "ShuttingDownError",
        "UnknownOutcomeError",
    ]


async def test_a_cancelled_block_leaves_at_once(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    cluster.nodes[1].on_request = holding(Produce)
    async with serving(cluster) as network:
        with trio.move_on_after(5) as scope:
            async with (
                connect(cluster.nodes[1].url, open_stream=network.open) as client,
                client.producer("orders") as producer,
            ):
                await producer.send(b"never answered")
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(5, abs=0.001)


# --- sending through trouble ---


async def test_sends_go_on_through_lost_connections(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    chance = random.Random(7)

    def stumble(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | OverloadedError | None:
        if not isinstance(request, Produce):
            return None
        throw = chance.random()
        if throw < 0.1:
            node.answer(request, body)
            return Drop()
        if throw < 0.2:
            return Drop()
        return OverloadedError("busy") if throw < 0.3 else None

    cluster.nodes[1].on_request = stumble
    sent: dict[int, bytes] = {}

    async def send_some(name: int) -> None:
        for number in range(20):
            value = b"%d-%d" % (name, number)
            sent[(await producer.send(value)).offset] = value

    async with (
        connected(cluster) as client,
        client.producer("orders", batch_bytes=200) as producer,
        trio.open_nursery() as nursery,
    ):
        for name in range(10):
            nursery.start_soon(send_some, name)
    # Nothing lost, nothing doubled, every id is right.
    assert [sent[offset] for offset in range(200)] == values(cluster)
    assert len(cluster.nodes[1].closings) > 3


async def test_batches_on_their_way_survive_a_change_of_leader(autojump_clock: MockClock) -> None:
    cluster = cluster_of(3, partitions=2)
    cluster.nodes[1].on_request = holding(Produce)
    async with (
        connected(cluster) as client,
        client.producer("orders", batch_bytes=200) as producer,
        trio.open_nursery() as nursery,
    ):
        for name in range(20):
            nursery.start_soon(partial(producer.send, b"%d" % name * 30, key=b"%d" % name))
        await trio.testing.wait_all_tasks_blocked()
        cluster.move(2, partition=0)
        cluster.move(3, partition=1)
        for connection in list(cluster.nodes[1].connections):
            connection.drop()
    assert len(values(cluster, 0)) + len(values(cluster, 1)) == 20
    assert set(values(cluster, 0)) | set(values(cluster, 1)) == {b"%d" % name * 30 for name in range(20)}


async def test_a_confirmation_that_never_comes_is_an_unknown_outcome(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    cluster.nodes[1].on_request = holding(Produce)
    async with connected(cluster) as client, client.producer("orders", timeout=3) as producer:
        with pytest.raises(UnknownOutcomeError, match="no confirmation from orders/0 in time"):
            await producer.send(b"x")
        assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_every_sender_of_a_batch_gets_its_own_error(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    cluster.nodes[1].on_request = lambda node, request, body: (
        NotFoundError("gone") if isinstance(request, Produce) else None
    )
    errors: list[NotFoundError] = []

    async def send() -> None:
        try:
            await producer.send(b"x")
        except NotFoundError as error:
            errors.append(error)

    async with connected(cluster) as client, client.producer("orders") as producer, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send)
    assert len({id(error) for error in errors}) == 5


async def test_a_cancelled_send_is_whole_or_not_there_and_hurts_nobody(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    chance = random.Random(3)
    confirmed: dict[int, bytes] = {}

    async def send_some(name: int) -> None:
        for number in range(30):
            value = b"%d-%d " % (name, number) + b"x" * chance.randrange(3000)
            with trio.CancelScope() as scope:
                if chance.random() < 0.5:
                    scope.cancel() if chance.random() < 0.3 else nursery.start_soon(cancel_later, scope)
                confirmed[(await producer.send(value)).offset] = value

    async def cancel_later(scope: trio.CancelScope) -> None:
        for _ in range(chance.randrange(6)):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with connected(cluster) as client, client.producer("orders", batch_bytes=5000) as producer:
        async with trio.open_nursery() as nursery:
            for name in range(10):
                nursery.start_soon(send_some, name)
        await producer.flush()
    stored = values(cluster)
    assert all(stored[offset] == value for offset, value in confirmed.items())
    assert len(set(stored)) == len(stored)
    # The one connection lived through all of it.
    assert len(cluster.nodes[1].closings) == 1
    assert 0 < len(confirmed) < 300


async def test_sends_wait_while_too_much_is_unconfirmed(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    node = cluster.nodes[1]
    node.on_request = holding(Produce)
    started: list[int] = []

    async def send(number: int) -> None:
        started.append(number)
        await producer.send(b"x" * 1000)

    async with (
        connected(cluster) as client,
        client.producer("orders", max_buffered_bytes=5000, batch_bytes=1000) as producer,
        trio.open_nursery() as nursery,
    ):
        for number in range(10):
            nursery.start_soon(send, number)
        await trio.sleep(1)
        assert len(started) == 10
        assert len(node.of(Produce)) == 4
        answer_held(node)
    assert len(values(cluster)) == 10


async def test_a_sender_that_gives_up_waiting_for_room_leaves_no_trace(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    node = cluster.nodes[1]
    node.on_request = holding(Produce)
    async with connected(cluster) as client, client.producer("orders", max_buffered_bytes=1500) as producer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, b"x" * 1000)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1) as scope:
                await producer.send(b"y" * 1000)
            assert scope.cancelled_caught
            answer_held(node)
        await producer.send(b"z" * 1000)
    assert [value[:1] for value in values(cluster) if value] == [b"x", b"z"]


async def test_leaving_the_block_waits_for_confirmations(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    node = cluster.nodes[1]
    node.on_request = holding(Produce)

    async def answer_later() -> None:
        await trio.sleep(2)
        answer_held(node)

    async with connected(cluster) as client, trio.open_nursery() as nursery:
        async with client.producer("orders") as producer:
            nursery.start_soon(producer.send, b"x")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(answer_later)
        assert trio.current_time() == pytest.approx(2, abs=0.1)
        with pytest.raises(LocalProtocolError, match="not open"):
            await producer.send(b"y")
    assert values(cluster) == [b"x"]


async def test_what_is_no_message_is_refused_before_anything_happens(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        with pytest.raises(NotFoundError, match="there is no queue nowhere"):
            async with client.producer("nowhere"):
                raise AssertionError("not reached")
        async with client.producer("orders") as producer:
            with pytest.raises(InvalidArgumentError, match="bytes, not str"):
                await producer.send("text")  # type: ignore[arg-type]  # what is tested
            with pytest.raises(RequestTooLargeError):
                await producer.send(b"x" * (2 << 20))
            with pytest.raises(RequestTooLargeError):
                await producer.send_many([b"a", b"x" * (2 << 20)])
            assert (await producer.send(bytearray(b"fine"))).offset == 0


# --- receiving through trouble ---


async def deliver(cluster: FakeCluster, client: Client, count: int) -> None:
    async with client.producer("orders") as producer:
        await producer.send_many([b"%d" % number for number in range(count)])


async def test_batches_come_whole_and_are_acked_whole(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 25)
        async with client.consumer("orders", max_messages=10) as consumer:
            sizes: list[int] = []
            async for batch in consumer.batches():
                sizes.append(len(batch))
                assert [message.value for message in batch] == [b"%d" % message.offset for message in batch]
                assert batch[0].partition == batch.partition == 0
                await batch.ack()
                if sum(sizes) == 25:
                    break
    assert sizes == [10, 10, 5]
    assert cluster.partition().acked == set(range(25))


async def test_acks_of_many_tasks_share_requests(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 100)
        async with client.consumer("orders") as consumer, trio.open_nursery() as nursery:
            batch = await consumer.receive()
            for message in batch:
                nursery.start_soon(message.ack)
    assert len(cluster.nodes[1].of(Ack)) <= 3
    assert cluster.partition().acked == set(range(100))


async def test_leaving_the_block_flushes_acks_and_gives_back_the_rest(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 30)
        async with client.consumer("orders", max_messages=10) as consumer:
            async for message in consumer:
                message.ack_nowait()
                if message.offset == 3:
                    break
            await trio.testing.wait_all_tasks_blocked()
    assert cluster.partition().acked == {0, 1, 2, 3}
    assert [nack.items[0][1] for nack in cluster.nodes[1].of(Nack)] == [[(4, 10)]]
    assert len(cluster.nodes[1].of(Release)) >= 1
    assert all(not offsets for offsets in cluster.partition().leases.values())
    assert cluster.partition().deliveries[10] == 0


async def test_acking_lists_of_messages_and_batches_nowait(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 10)
        async with client.consumer("orders") as consumer:
            batch = await consumer.receive()
            await consumer.ack(batch[:3])
            consumer.ack_nowait(batch[3:5])
            await consumer.nack(batch[5:6], delay=1.5, reason="later")
            await consumer.extend(batch[6:7], hide=60)
            await consumer.ack([])
            await consumer.flush()
            assert cluster.partition().acked == set(range(5))
            assert (consumer.stale_count, consumer.unknown_count) == (0, 0)
    [nack] = cluster.nodes[1].of(Nack)
    assert (nack.delay_ms, nack.reason) == (1500, "later")


async def test_acks_that_nobody_waits_for_reach_each_message_in_whatever_order_they_come(
    autojump_clock: MockClock,
) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 30)
        async with client.consumer("orders", max_messages=10) as consumer:
            first, second, third = [await consumer.receive() for _ in range(3)]
            for message in (*first[:3], second[0], *first[3:5], *second[2:4], second[1]):
                message.ack_nowait()
            await third[0].nack(delay=5)
            # The request that the last ones shared is made and answered; these need another.
            for message in (second[4], *third[1:3], *third[8:], second[5]):
                message.ack_nowait()
            with trio.CancelScope() as scope:
                scope.cancel()
                await trio.lowlevel.checkpoint()
            third[3].ack_nowait()
            cluster.partition().expire(third.lease)
            await consumer.flush()
            assert consumer.stale_count == len({21, 22, 23, 28, 29})
            kept = third[4]
        with pytest.raises(LocalProtocolError, match="not open"):
            second[6].ack_nowait()
        with pytest.raises(LocalProtocolError, match="not open"):
            kept.ack_nowait()
    assert cluster.partition().acked == {*range(5), *range(10, 16)}


async def test_what_is_rejected_is_dead_until_it_is_revived(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 6)
        async with client.consumer("orders") as consumer:
            batch = await consumer.receive()
            await batch[0].reject(reason="no account")
            await consumer.reject(batch[2:4], reason="twice")
            await consumer.ack([batch[1]])
        found = await client.dead("orders")
        assert [(row.partition, row.start, row.end, row.cause, row.reason) for row in found] == [
            (0, 0, 1, "rejected", "no account"),
            (0, 2, 3, "rejected", "twice"),
            (0, 3, 4, "rejected", "twice"),
        ]
        assert await client.dead("orders", max_count=2) == found[:2]
        assert await client.revive("orders", messages=[MessageId("orders", 0, 2), MessageId("orders", 0, 1)]) == 1
        assert await client.revive("orders") == 2
        assert (await client.dead("orders"), await client.revive("orders")) == ([], 0)
        with pytest.raises(InvalidArgumentError, match="payments/0/2 is not one of queue orders"):
            await client.revive("orders", messages=[MessageId("payments", 0, 2)])


async def test_an_ack_of_a_lease_that_is_over_is_stale(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 3)
        async with client.consumer("orders") as consumer:
            batch = await consumer.receive()
            cluster.partition().expire(batch.lease)
            with pytest.raises(StaleLeaseError, match="1 of 1 messages from offset 1"):
                await batch[1].ack()
            batch.ack_nowait()
            await consumer.flush()
            assert consumer.stale_count == 3


async def test_a_consumer_goes_on_through_lost_connections(autojump_clock: MockClock) -> None:
    cluster = cluster_of(2)
    chance = random.Random(5)

    def stumble(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        if isinstance(request, Receive | Ack) and chance.random() < 0.3:
            if chance.random() < 0.5:
                node.answer(request, body)
            return Drop()
        return None

    async with connected(cluster) as client:
        await deliver(cluster, client, 200)
        for node in cluster.nodes.values():
            node.on_request = stumble
        seen: list[int] = []
        async with client.consumer("orders", max_messages=7) as consumer:
            async for message in consumer:
                seen.append(message.offset)
                if len(seen) % 5 == 0:
                    await message.ack()
                else:
                    message.ack_nowait()
                if len(seen) == 200:
                    break
    assert sorted(seen) == list(range(200))
    assert cluster.partition().acked == set(range(200))
    assert set(cluster.partition().deliveries.values()) == {1}


async def test_a_consumer_waits_for_what_is_sent_later(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client, client.consumer("orders") as consumer, trio.open_nursery() as nursery:

        async def send_later() -> None:
            await trio.sleep(3)
            await deliver(cluster, client, 1)

        nursery.start_soon(send_later)
        message = await anext(consumer)
        assert message.value == b"0"
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        await message.nack()
        again = await anext(consumer)
        assert (again.offset, again.deliveries) == (0, 2)
        await again.extend(30)
        await again.ack()


async def test_an_error_of_the_queue_reaches_the_loop(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    cluster.nodes[1].on_request = lambda node, request, body: (
        NotFoundError("no group audit") if isinstance(request, Receive) else None
    )
    async with connected(cluster) as client, client.consumer("orders", group="audit") as consumer:
        for _ in range(2):
            with pytest.raises(NotFoundError, match="no group audit"):
                await anext(consumer)


async def test_a_record_that_cannot_be_read_is_a_message_that_says_so(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    async with connected(cluster) as client:
        await deliver(cluster, client, 2)
        await deliver(cluster, client, 2)
        base, count, data = cluster.partition().batches[0]
        cluster.partition().batches[0] = (base, count, data[:-1] + bytes([data[-1] ^ 1]))
        async with client.consumer("orders") as consumer:
            batch = await consumer.receive()
            assert [message.corrupt is None for message in batch] == [False, False, True, True]
            assert repr(batch[0]) == "<Message orders/0/0 delivery 1 corrupt>"
            with pytest.raises(CorruptBatchError, match="orders/0/0 cannot be read"):
                _ = batch[0].value
            assert [batch[2].value, batch[3].value] == [b"0", b"1"]
            await consumer.ack(batch)
    assert cluster.partition().acked == {0, 1, 2, 3}


async def test_records_that_the_log_has_lost_are_messages_too(autojump_clock: MockClock) -> None:
    cluster = cluster_of()
    part = BatchPart(size_bytes=0, base_offset=7, append_ms=0, ranges=[(7, 9, 1)])
    answer: Answer = (Received(0, lease=5, visible_at_ms=1, hide_left_ms=30_000, parts=[part]), b"")
    is_answered = False

    def once(node: FakeNode, request: AnyRequest, body: bytes) -> Answer | None:
        nonlocal is_answered
        if isinstance(request, Receive) and not is_answered:
            is_answered = True
            return answer
        return None

    cluster.nodes[1].on_request = once
    async with connected(cluster) as client, client.consumer("orders") as consumer:
        batch = await consumer.receive()
        assert [message.offset for message in batch] == [7, 8]
        with pytest.raises(CorruptBatchError, match="the log has lost it"):
            _ = batch[0].headers


# --- everything else ---


async def test_queues_are_created_listed_and_rewound(autojump_clock: MockClock) -> None:
    cluster = FakeCluster(2)
    cluster.meta_leader = 2
    async with connected(cluster) as client:
        await client.create_queue("orders", partitions=3, retention=timedelta(days=1))
        with pytest.raises(AlreadyExistsError):
            await client.create_queue("orders")
        assert [queue.name for queue in await client.list_queues()] == ["orders"]
        rewound = await client.queue("orders").rewind(to="earliest")
        assert cluster.rewinds[rewound.rewind_id].target == EarliestTarget()
        assert not cluster.rewinds[rewound.rewind_id].forward
        skipped = await client.skip_to("orders", to="latest", group="audit")
        assert cluster.rewinds[skipped.rewind_id].forward
        with pytest.raises(NotFoundError):
            await client.describe_queue("nowhere")
        with pytest.raises(InvalidArgumentError, match="retention is 0"):
            await client.alter_queue("orders", retention=timedelta(0))


async def test_groups_tokens_and_status(autojump_clock: MockClock) -> None:
    cluster = cluster_of(2)
    cluster.meta_leader = 2
    node = cluster.nodes[2]
    async with connected(cluster) as client:
        queue = client.queue("orders")
        assert (await queue.describe()).info.name == "orders"
        await queue.create_group("audit", start="earliest")
        [group] = node.of(CreateGroup)
        assert (group.queue, group.group, group.start) == ("orders", "audit", EarliestTarget())
        assert [found.name for found in await queue.describe_groups()] == ["default"]
        assert (await queue.describe_group("audit")).name == "audit"
        # Any node answers these.
        asked = [request for each in cluster.nodes.values() for request in each.of(DescribeGroups)]
        assert sorted((request.queue, request.group) for request in asked) == [("orders", ""), ("orders", "audit")]
        with pytest.raises(NotFoundError, match="no consumer group nobody"):
            await client.describe_group("orders", "nobody")
        with pytest.raises(InvalidArgumentError, match="has a name"):
            await client.describe_group("orders", "")
        await queue.delete_group("audit")
        await queue.skip_to(to=100)
        await client.alter_queue("orders", partitions=4, retention=timedelta(days=2), hide=5, max_wait=10)
        [altered] = node.of(AlterQueue)
        assert altered.changes == QueueChanges(partitions=4, retention_ms=172_800_000, hide_ms=5000, max_wait_ms=10_000)
        await client.alter_queue("orders", hide=7)
        assert node.of(AlterQueue)[1].changes == QueueChanges(hide_ms=7000)
        with pytest.raises(InvalidArgumentError, match="partitions is 0"):
            await client.create_queue("new", partitions=0)
        await queue.delete()
        assert await client.create_token("till", ["produce:orders"]) == "lb_secret"
        assert [token.name for token in await client.list_tokens()] == ["till"]
        await client.delete_token("till")
        assert (await client.status()).problems == ["none"]


async def test_groups_are_paused_resumed_and_purged(autojump_clock: MockClock) -> None:
    cluster = cluster_of(2)
    cluster.meta_leader = 2
    node = cluster.nodes[2]
    async with connected(cluster) as client:
        await client.pause_group("orders", "audit", reason="night", duration=timedelta(minutes=5))
        queue = client.queue("orders")
        await queue.pause_group()
        assert [(asked.group, asked.reason, asked.duration_ms) for asked in node.of(PauseGroup)] == [
            ("audit", "night", 300_000),
            ("default", "", 0),
        ]
        await queue.resume_group("audit")
        assert [asked.group for asked in node.of(ResumeGroup)] == ["audit"]
        assert (await queue.purge(group="audit")).purged_count == 5
        await client.purge("orders")
        first, second = node.of(PurgeGroup)
        assert (first.group, second.group) == ("audit", "default")
        assert first.purge_id != second.purge_id
        with pytest.raises(InvalidArgumentError, match="duration is 0"):
            await client.pause_group("orders", duration=timedelta(0))


@pytest.mark.parametrize(
    ("position", "target"),
    [
        ("earliest", EarliestTarget()),
        ("latest", LatestTarget()),
        (0, OffsetTarget(0)),
        (-1000, RelativeTarget(count=1000)),
        (timedelta(minutes=15), RelativeTarget(ms=900_000)),
        (timedelta(minutes=-15), RelativeTarget(ms=900_000)),
        (MessageId("orders", 3, 41), MessageTarget([(3, 41)])),
        (datetime(2026, 11, 23, 10, 0, 0, 1999, tzinfo=UTC), TimeTarget(1_795_428_000_002)),
    ],
)
def test_positions_become_targets(position: object, target: object) -> None:
    assert target_of(position) == target


@pytest.mark.parametrize("position", [datetime(2026, 1, 1), "yesterday", True, 1.5, timedelta(0), None])
def test_what_is_no_position_is_refused(position: object) -> None:
    with pytest.raises(InvalidArgumentError):
        target_of(position)


def test_message_ids_are_written_and_read() -> None:
    message_id = MessageId("a/b", 2, 41)
    assert str(message_id) == "a/b/2/41"
    assert MessageId.parse("a/b/2/41") == message_id
    assert message_id.number == (2 << 48) + 41
    for text in ("", "orders", "orders/1", "orders/x/1", "/1/2", "orders/1/-2"):
        with pytest.raises(InvalidArgumentError):
            MessageId.parse(text)
