"""What every transport of the client does, in the same words: against a real node, and against one that misbehaves."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import logbroker_client
import logbroker_client.asyncio
from logbroker.errors import (
    DedupConflictError,
    InvalidArgumentError,
    LocalProtocolError,
    LogBrokerError,
    NotFoundError,
    QueueFullError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.record.batch import decode_batch
from logbroker.wire.requests import Ack, AnyRequest, Produce, Receive, Subscribe, Unsubscribe
from logbroker_client import NewMessage, RedriveProgress
from logbroker_client.endpoints import ConnectSettings
from tests.contract.client_kit import FACES, MEMORY_FACES, Face, FakeWorld, fake_nodes, real_node
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNode, Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_node(tmp_path_factory.mktemp("node")) as url:
        yield url


@pytest.fixture(params=sorted(FACES))
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """One transport, which leaves no thread behind."""
    before = set(threading.enumerate())
    yield {**FACES, **MEMORY_FACES}[request.param]()
    left = {thread for thread in set(threading.enumerate()) - before if thread.is_alive() and not _is_pooled(thread)}
    assert left == set()


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether it belongs to the loop that the test runs on, and not to the client."""
    return thread.name.startswith(("Trio thread", "wait from", "asyncio_"))


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses, because they share the node."""
    return "q-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


@pytest.fixture
def world() -> Iterator[FakeWorld]:
    cluster = FakeCluster()
    cluster.add_queue("orders")
    with fake_nodes(cluster) as world:
        yield world


async def take(consumer: Any, count: int) -> list[Any]:  # noqa: ANN401 - of each transport its own
    found: list[Any] = []
    async for message in consumer:
        found.append(message)
        if len(found) == count:
            return found
    raise AssertionError("the consumer ended")


def stored(world: FakeWorld) -> list[bytes | None]:
    def look() -> list[bytes | None]:
        return [record.value for _, _, data in world.cluster.partition().batches for record in decode_batch(data)]

    return world.thread.call(look)


def on_request(
    world: FakeWorld, handler: Callable[[FakeNode, AnyRequest, bytes], Answer | LogBrokerError | Hold | Drop | None]
) -> None:
    world.thread.call(lambda: setattr(world.cluster.nodes[1], "on_request", handler))


def holding(world: FakeWorld, kind: type[AnyRequest]) -> threading.Event:
    """Let no request of a kind be answered; set once there is one."""
    held = threading.Event()

    def hold(node: FakeNode, request: AnyRequest, body: bytes) -> Hold | None:
        if not isinstance(request, kind):
            return None
        held.set()
        return Hold()

    on_request(world, hold)
    return held


def answer_held(world: FakeWorld) -> None:
    """Say what was swallowed so far, and swallow no more."""

    def answer() -> None:
        node = world.cluster.nodes[1]
        node.on_request = None
        for connection in node.connections:
            held, connection.held = connection.held, []
            for request, body in held:
                connection.answer(request, body)
            connection.on_output()

    world.thread.call(answer)


async def settled(client: Any, queue: str, count: int) -> list[Any]:  # noqa: ANN401 - as above
    """The messages of a queue, once so many have come."""
    found: list[Any] = []
    while len(found) < count:
        found = await client.peek(queue)
    return found


# --- a node, real or in memory ---

everywhere = pytest.mark.parametrize("face", [*sorted(FACES), *sorted(MEMORY_FACES)], indirect=True)


@everywhere
def test_messages_go_in_one_by_one_and_together_and_come_out_with_keys(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, partitions=2)
            async with client.producer(queue) as producer:
                first = await producer.send(b"first", key=b"k", headers=(("trace", b"1"),))
                second = await producer.send(b"second", key=b"k")
                ids = await producer.send_many(
                    [b"a", NewMessage(None, b"gone"), NewMessage(b"c", headers=(("h", None),))]
                )
            assert second == (first.queue, first.partition, first.offset + 1)
            assert len({first, second, *ids}) == 5
            async with client.consumer(queue) as consumer:
                messages = await take(consumer, 5)
                found = {message.id: (message.value, message.key, message.headers) for message in messages}
                assert found[first] == (b"first", b"k", (("trace", b"1"),))
                assert [found[message_id] for message_id in ids] == [
                    (b"a", None, ()),
                    (None, b"gone", ()),
                    (b"c", None, (("h", None),)),
                ]
                await messages[0].ack()
                messages[1].ack_nowait()
                await consumer.ack(messages[2:])
                await consumer.flush()
            assert await counts(client, queue) == (0, 0)
            assert await client.peek(queue) == []
            seen = await client.peek(queue, start="earliest")
            assert {message.id: message.state for message in seen} == dict.fromkeys([first, second, *ids], "acked")
            assert [message.key for message in seen if message.id == first] == [b"k"]

    face.run(scenario)


async def counts(client: Any, queue: str) -> tuple[int, int]:  # noqa: ANN401 - of each transport its own
    """(available, leased) over all partitions."""
    found = await client.describe_queue(queue)
    rows = [row for partition in found.partitions for row in partition.groups]
    return sum(row.available for row in rows), sum(row.leased for row in rows)


@everywhere
def test_many_at_once_share_batches_and_keep_their_order(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:

                async def send_some() -> None:
                    ids = [await producer.send(b"x" * 100) for _ in range(20)]
                    assert ids == sorted(ids)

                await face.together(*[send_some] * 20)
                ids = await producer.send_many([b"%d" % number for number in range(5000)])
                assert [message_id.offset for message_id in ids] == list(range(400, 5400))
            async with client.consumer(queue) as consumer:
                seen: list[bytes] = []
                async for batch in consumer.batches():
                    seen += [message.value for message in batch]
                    await batch.ack()
                    if len(seen) == 5400:
                        break
            assert seen[400:] == [b"%d" % number for number in range(5000)]

    face.run(scenario)


@everywhere
def test_a_nacked_message_comes_again_and_an_extended_one_stays(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.consumer(queue, max_messages=1) as consumer:
                (first,) = await take(consumer, 1)
                await first.nack(reason="not yet")
                (again,) = await take(consumer, 1)
                assert (first.deliveries, again.deliveries) == (1, 2)
                await again.extend(60.0)
                await consumer.extend([again], 60.0)
                await consumer.nack([again], delay=0.0)
                batch = await consumer.receive()
                assert [message.deliveries for message in batch] == [3]
                await batch.extend(60.0)
                batch.ack_nowait()

    face.run(scenario)


@everywhere
def test_a_block_acks_its_message_and_nacks_it_when_it_fails(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.consumer(queue, max_messages=1) as consumer:

                async def handle(error: Exception | None, *, nacks: bool = False) -> int:
                    (message,) = await take(consumer, 1)
                    async with message as same:
                        assert same is message
                        if nacks:
                            await message.nack()
                        if error is not None:
                            raise error
                    return int(message.deliveries)

                with pytest.raises(ZeroDivisionError):
                    # As long as an error may be: what is told of it has a bound.
                    await handle(ZeroDivisionError("x" * 5000))
                assert await handle(None, nacks=True) == 2
                with pytest.raises(KeyError):
                    await handle(KeyError("k"), nacks=True)
                assert await handle(None) == 4
            assert await counts(client, queue) == (0, 0)

    face.run(scenario)


@everywhere
def test_what_is_rejected_or_fails_once_too_often_is_dead_until_it_is_revived(
    face: Face, node: str, queue: str
) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, max_deliveries=2)
            async with client.producer(queue) as producer:
                await producer.send_many([b"a", b"b"])
            async with client.consumer(queue, max_messages=1) as consumer:
                (first,) = await take(consumer, 1)
                async with first:
                    await first.reject(reason="no such account")
                for _ in range(2):
                    (second,) = await take(consumer, 1)
                    await second.nack(reason="down")
                dead = [(row.start, row.end, row.cause, row.reason) for row in await client.dead(queue)]
                assert dead == [(0, 1, "rejected", "no such account"), (1, 2, "max_deliveries", "down")]
                assert await client.revive(queue, messages=[first.id]) == 1
                (again,) = await take(consumer, 1)
                assert (again.offset, again.deliveries) == (0, 1)
                await again.ack()
                assert await client.revive(queue) == 1
                (last,) = await take(consumer, 1)
                await last.ack()
            assert await client.dead(queue) == []

    face.run(scenario)


@everywhere
def test_the_dead_go_to_their_queue_with_their_history_and_come_back_from_there(
    face: Face, node: str, queue: str
) -> None:
    letters = f"{queue}-dead"

    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(letters)
            await client.create_queue(queue, partitions=2, max_deliveries=2, dead_letter=letters)
            assert (await client.describe_queue(queue)).info.settings.dead_letter == letters
            async with client.producer(queue) as producer:
                ids = await producer.send_many([NewMessage(b"a", b"k"), NewMessage(b"b", b"k")])
            async with client.consumer(queue, max_messages=1, name="till") as consumer:
                (first,) = await take(consumer, 1)
                assert first.history is None
                await first.reject(reason="no such account")
                (second,) = await take(consumer, 1)
                await second.nack(reason="down", delay=0.0)
                (second,) = await take(consumer, 1)
                await second.nack(reason="down", delay=0.0)
            # Nobody receives from there: what a consumer was given would not be available to a redrive.
            found = await settled(client, letters, 2)
            assert [message.value for message in found] == [b"a", b"b"]
            assert [message.key for message in found] == [b"k", b"k"]
            histories = [message.history for message in found]
            assert [history.origin for history in histories] == [first.id, second.id] == list(ids)
            assert [history.origin_ms for history in histories] == [first.append_ms, second.append_ms]
            assert [(one.attempts, one.cause, one.reason) for one in histories] == [
                (1, "rejected", "no such account"),
                (2, "max_deliveries", "down"),
            ]
            assert {(one.consumer, one.group) for one in histories} == {("till", "default")}
            seen: list[RedriveProgress] = []
            totals = await client.redrive(
                letters, where=lambda message: message.history.reason == "down", on_progress=seen.append
            )
            assert totals == RedriveProgress(moved=1, skipped=1, left=0)
            assert seen[-1] == totals
            async with client.consumer(queue, max_messages=1) as consumer:
                (again,) = await take(consumer, 1)
                assert (again.value, again.deliveries, again.partition) == (b"b", 1, second.partition)
                assert again.history.origin == second.id
                await again.ack()
                assert await client.redrive(letters, rate=1000.0) == RedriveProgress(1, 0, 0)
                (back,) = await take(consumer, 1)
                assert (back.value, back.history.origin) == (b"a", first.id)
                await back.reject(reason="still")
            async with client.consumer(letters, max_messages=1) as consumer:
                (once_more,) = await take(consumer, 1)
                assert (once_more.history.origin, once_more.history.reason) == (first.id, "still")
                moved = await client.move(letters, messages=[once_more.id], to=queue)
                assert moved == 0, "it is leased"
                await once_more.ack()
            assert await client.redrive(letters) == RedriveProgress(0, 0, 0)
            assert await client.dead(queue) == []
            await client.alter_queue(queue, dead_letter="")
            assert (await client.describe_queue(queue)).info.settings.dead_letter == ""
            with pytest.raises(NotFoundError):
                await client.alter_queue(queue, dead_letter=f"{queue}-nothing")
            with pytest.raises(InvalidArgumentError):
                await client.alter_queue(queue, dead_letter=queue)

    face.run(scenario)


@everywhere
def test_messages_are_moved_to_another_queue_and_shown_as_moved(face: Face, node: str, queue: str) -> None:
    other = f"{queue}-other"

    async def scenario() -> None:
        async with face.connect(node) as client:
            for name in (queue, other):
                await client.create_queue(name)
            async with client.producer(queue) as producer:
                ids = await producer.send_many([b"a", b"b", b"c"])
            assert await client.move(queue, messages=ids[1:], to=other) == 2
            assert await client.move(queue, messages=ids[1:], to=other) == 0
            async with client.consumer(other, max_messages=2) as consumer:
                found = await take(consumer, 2)
                assert [message.value for message in found] == [b"b", b"c"]
                assert [message.history.cause for message in found] == ["", ""]
                for message in found:
                    await message.ack()
            # The source hears of it after those who wait for the messages.
            while (await client.describe_queue(queue)).partitions[0].groups[0].moved < 2:
                pass
            shown = await client.peek(queue, start=0)
            assert [message.state for message in shown] == ["available", "moved", "moved"]
            await client.rewind(queue, to="earliest")
            assert [message.value for message in await client.peek(queue)] == [b"a"]
            assert await client.redrive(queue, to=other) == RedriveProgress(1, 0, 0)

    face.run(scenario)


@everywhere
def test_a_nack_without_a_delay_waits_as_the_queue_says(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, backoff=3600.0, jitter=0.0)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.consumer(queue, max_messages=1) as consumer:
                (message,) = await take(consumer, 1)
                await message.nack()
                group = await client.describe_group(queue, "default")
                assert (group.available, group.delayed) == (0, 1)
                await client.alter_queue(queue, backoff=0.0)
            settings = (await client.describe_queue(queue)).info.settings
            assert (settings.backoff_ms, settings.max_backoff_ms, settings.jitter_percent) == (0, 3_600_000, 0)
            with pytest.raises(InvalidArgumentError, match="backoff_factor 11 is not between 1 and 10"):
                await client.alter_queue(queue, backoff_factor=11)
            with pytest.raises(InvalidArgumentError, match="jitter"):
                await client.alter_queue(queue, jitter=-1.0)

    face.run(scenario)


@everywhere
def test_a_time_to_live_is_told_in_seconds_and_has_its_bounds(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, max_age=60.0)
            assert (await client.describe_queue(queue)).info.settings.max_age_ms == 60_000
            await client.alter_queue(queue, max_age=0.0)
            assert (await client.describe_queue(queue)).info.settings.max_age_ms == 0
            with pytest.raises(
                InvalidArgumentError, match="max_age_ms 999 is not between 1,000 and 1,296,000,000, nor 0"
            ):
                await client.alter_queue(queue, max_age=0.999)

    face.run(scenario)


def test_a_full_queue_says_so_when_the_time_of_the_producer_is_over(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, max_messages=2, full="reject")
            async with client.producer(queue, timeout=1.0) as producer:
                await producer.send_many([b"a", b"b"])
                with pytest.raises(QueueFullError, match=r"queue_full: .* has 2 unsettled messages"):
                    await producer.send(b"c")
                await client.alter_queue(queue, full="drop_oldest")
                await producer.send(b"d")

    face.run(scenario)


@everywhere
def test_bounds_of_a_queue_are_told_and_have_bounds(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, max_messages=2, full="drop_oldest", rewind_window=0.0)
            settings = (await client.describe_queue(queue)).info.settings
            assert (settings.max_messages, settings.max_bytes, settings.full, settings.rewind_ms) == (2, 0, 1, 0)
            with pytest.raises(InvalidArgumentError, match="full 'sometimes' is not"):
                await client.alter_queue(queue, full="sometimes")
            with pytest.raises(InvalidArgumentError, match="max_bytes 1,000 is not between 1,048,576"):
                await client.alter_queue(queue, max_bytes=1_000)


def test_a_breaker_pauses_a_group_that_fails_at_everything(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(
                queue, max_deliveries=2, breaker=0.5, breaker_count=3, breaker_window=60.0, breaker_pause=3600.0
            )
            async with client.producer(queue) as producer:
                await producer.send_many([b"a", b"b", b"c"])
            async with client.consumer(queue, max_messages=1) as consumer:
                for _ in range(3):
                    (message,) = await take(consumer, 1)
                    await message.nack(delay=60.0)
            # The pause follows the nack, and nothing is leased in between.
            group = await client.describe_group(queue, "default")
            for _ in range(1_000):
                if not group.is_paused:
                    group = await client.describe_group(queue, "default")
            assert (group.delayed, group.dead, group.is_paused) == (3, 0, True)
            assert group.paused_reason == "breaker: 3 of 3 deliveries failed in 60 s"
            with pytest.raises(InvalidArgumentError, match="begins with 'breaker: '"):
                await client.pause_group(queue, reason="breaker: mine")
            await client.resume_group(queue)
            assert not (await client.describe_group(queue, "default")).is_paused
            await client.alter_queue(queue, breaker=0.0)
            settings = (await client.describe_queue(queue)).info.settings
            told = (settings.breaker_count, settings.breaker_window_ms, settings.breaker_pause_ms)
            assert (settings.breaker_percent, *told) == (0, 3, 60_000, 3_600_000)
            with pytest.raises(InvalidArgumentError, match="breaker_percent 101 is not between 0 and 100"):
                await client.alter_queue(queue, breaker=1.01)


def test_a_window_of_one_and_keys_keep_their_order(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, window=1)
            async with client.producer(queue) as producer:
                for value, key in ((b"a1", b"a"), (b"a2", b"a"), (b"b1", b"b")):
                    await producer.send(value, key=key)
            async with client.consumer(queue) as consumer:
                (message,) = await take(consumer, 1)
                await message.nack()
                (message,) = await take(consumer, 1)
                assert (message.value, message.deliveries) == (b"a1", 2)
                await client.alter_queue(queue, window=0, order="key")
                (other,) = await take(consumer, 1)
                assert other.value == b"b1"
                await message.ack()
                (message,) = await take(consumer, 1)
                assert message.value == b"a2"
            settings = (await client.describe_queue(queue)).info.settings
            assert (settings.window, settings.order, settings.on_failure) == (0, "key", "block")
            for wrong in ({"order": "strict"}, {"on_failure": "stop"}, {"window": 10_001}):
                with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
                    await client.alter_queue(queue, **wrong)
            with pytest.raises(InvalidArgumentError, match="ordered by key and cannot grow"):
                await client.alter_queue(queue, partitions=2)

    face.run(scenario)


@everywhere
def test_a_block_that_ends_too_late_says_so(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.consumer(queue) as consumer:

                async def handle(error: Exception | None) -> None:
                    (message,) = await take(consumer, 1)
                    async with message:
                        await client.rewind(queue, to="earliest")
                        if error is not None:
                            raise error

                with pytest.raises(StaleLeaseError):
                    await handle(None)
                with pytest.raises(ZeroDivisionError):
                    await handle(ZeroDivisionError())

    face.run(scenario)


@everywhere
@pytest.mark.parametrize("how", ["consumer", "subscribe"])
def test_what_a_client_holds_goes_back_with_its_connection_where_it_says_so(
    face: Face, node: str, queue: str, how: str
) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, hide=600.0)
            async with client.producer(queue) as producer:
                await producer.send_many([b"done", b"begun", b"waiting"])
            async with face.connect(node) as other:
                async with getattr(other, how)(queue, on_close="release") as consumer:
                    first, *_ = await take(consumer, 3)
                    await first.ack()
                # The connection is the client's, and is there still.
                assert await counts(client, queue) == (0, 2)
            async with client.consumer(queue) as consumer:
                messages = await take(consumer, 2)
                assert [(message.value, message.deliveries) for message in messages] == [(b"begun", 1), (b"waiting", 1)]
                await consumer.ack(messages)
            assert await counts(client, queue) == (0, 0)

    face.run(scenario)


@everywhere
def test_what_a_client_holds_stays_hidden_when_its_connection_ends(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, hide=600.0)
            async with client.producer(queue) as producer:
                await producer.send(b"begun")
            async with face.connect(node) as other, other.consumer(queue) as consumer:
                await take(consumer, 1)
            async with client.producer(queue) as producer:
                await producer.send(b"later")
            async with client.consumer(queue, on_close="release") as consumer:
                (message,) = await consumer.receive()
                assert message.value == b"later"
                await message.ack()
            assert await counts(client, queue) == (0, 1)
            with pytest.raises(InvalidArgumentError, match="on_close is 'nack', not keep or release"):
                client.consumer(queue, on_close="nack")

    face.run(scenario)


@everywhere
def test_when_the_hide_time_is_over_the_message_comes_again_and_the_old_lease_is_stale(
    face: Face, node: str, queue: str
) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.consumer(queue, hide=1.0) as consumer:
                (first,) = await take(consumer, 1)
                face.advance(1.1)
                (again,) = await take(consumer, 1)
                assert again.deliveries == 2
                with pytest.raises(StaleLeaseError):
                    await first.ack()
                await again.ack()

    face.run(scenario)


@everywhere
def test_a_rewind_brings_back_what_is_acked_and_a_skip_passes_it(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many([b"a", b"b", b"c"])
            async with client.consumer(queue) as consumer:
                await consumer.ack(await take(consumer, 3))
                rewound = await client.rewind(queue, to=1)
                assert [row.moved_count for row in rewound.partitions] == [2]
                again = await take(consumer, 2)
                assert [message.value for message in again] == [b"b", b"c"]
                await again[0].ack()
                await client.queue(queue).rewind(to="earliest")
                with pytest.raises(StaleLeaseError):
                    await again[1].ack()
            await client.skip_to(queue, to="latest")
            assert await counts(client, queue) == (0, 0)

    face.run(scenario)


@everywhere
def test_a_paused_group_waits_and_a_purged_one_has_nothing_left(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, partitions=2)
            async with client.producer(queue) as producer:
                await producer.send_many([b"a", b"b", b"c"])
            await client.pause_group(queue, reason="the ledger is down")
            group = await client.describe_group(queue, "default")
            assert (group.is_paused, group.paused_reason, group.paused_until_ms) == (True, "the ledger is down", 0)
            assert [row.is_paused for row in group.partitions] == [True, True]
            async with client.consumer(queue, wait=0.1, max_messages=1) as consumer:
                await client.queue(queue).resume_group()
                await client.resume_group(queue)
                (first,) = await take(consumer, 1)
                await first.reject(reason="bad")
            await client.pause_group(queue, duration=timedelta(hours=1))
            assert (await client.queue(queue).describe_group("default")).paused_until_ms > 0
            purged = await client.purge(queue)
            assert (purged.purged_count, purged.dead_count) == (3, 1)
            assert (await client.queue(queue).purge()).purged_count == 0
            assert await counts(client, queue) == (0, 0)
            with pytest.raises(NotFoundError):
                await client.pause_group(queue, "nobody")

    face.run(scenario)


@everywhere
def test_queues_and_groups_are_made_listed_and_deleted(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, hide=5.0)
            await client.alter_queue(queue, hide=7.0)
            await client.create_group(queue, "billing", start="earliest")
            found = [row for row in await client.list_queues() if row.name == queue]
            assert [row.settings.hide_ms for row in found] == [7000]
            groups = await client.describe_groups(queue)
            assert [(group.name, group.lag_count, group.lag_ms) for group in groups] == [
                ("billing", 0, 0),
                ("default", 0, 0),
            ]
            assert (await client.queue(queue).describe_group("billing")).name == "billing"
            await client.queue(queue).delete_group("billing")
            with pytest.raises(NotFoundError, match="no consumer group billing"):
                await client.describe_group(queue, "billing")
            await client.delete_queue(queue)
            with pytest.raises(NotFoundError, match="there is no queue"):
                async with client.producer(queue):
                    raise AssertionError("not reached")
            with pytest.raises(NotFoundError):
                await client.describe_queue(queue)

    face.run(scenario)


@everywhere
def test_an_error_of_the_block_leaves_it_as_it_is(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async def fail() -> None:
            async with face.connect(node) as client:
                await client.create_queue(queue)
                async with client.producer(queue), client.consumer(queue):
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

    face.run(scenario)


@everywhere
def test_what_is_closed_says_so(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer, client.consumer(queue) as consumer:
                await producer.send(b"a")
            with pytest.raises(LocalProtocolError):
                await producer.send(b"b")
            with pytest.raises(LocalProtocolError):
                await consumer.receive()
        with pytest.raises(LogBrokerError, match="the client is closed"):
            await client.list_queues()

    face.run(scenario)


# --- streams ---


@everywhere
def test_messages_of_a_stream_are_pushed_acked_and_nacked(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, partitions=2)
            async with client.producer(queue) as producer, client.subscribe(queue, max_messages=1) as consumer:
                for number in range(4):
                    await producer.send(b"%d" % number)
                    (message,) = await take(consumer, 1)
                    assert (message.value, message.deliveries) == (b"%d" % number, 1)
                    await message.ack()
                await producer.send(b"again")
                (first,) = await take(consumer, 1)
                await first.nack()
                (again,) = await take(consumer, 1)
                assert (again.id, again.deliveries) == (first.id, 2)
                async with again:
                    pass
            assert await counts(client, queue) == (0, 0)

    face.run(scenario)


@everywhere
def test_no_more_is_leased_than_the_credit_of_a_stream(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many([b"%d" % number for number in range(20)])
            async with client.subscribe(queue, credit=4) as consumer:
                seen: list[bytes] = []
                async for message in consumer:
                    seen.append(message.value)
                    assert (await counts(client, queue))[1] <= 4
                    await message.ack()
                    if len(seen) == 20:
                        break
            assert seen == [b"%d" % number for number in range(20)]

    face.run(scenario)


@everywhere
def test_closing_a_stream_gives_back_what_nobody_took(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many([b"%d" % number for number in range(10)])
            async with client.subscribe(queue, credit=8) as consumer:
                batch = await consumer.receive()
                assert len(batch) == 4
                await batch.ack()
            assert await counts(client, queue) == (6, 0)
            async with client.consumer(queue) as consumer:
                messages = await take(consumer, 6)
                assert {message.deliveries for message in messages} == {1}
                await consumer.ack(messages)

    face.run(scenario)


@everywhere
def test_messages_for_later_come_when_they_are_due_and_cancelled_ones_never(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                late, never = await producer.send_many([b"late", b"never"], delay=1.0)
                await producer.send(b"now")
            found = await client.queue(queue).cancel([never])
            assert (found.cancelled, found.late) == (1, 0)
            async with client.consumer(queue) as consumer:
                (first,) = await take(consumer, 1)
                assert first.value == b"now"
                face.advance(1.2)
                (second,) = await take(consumer, 1)
                assert (second.value, second.id) == (b"late", late)
                found = await client.cancel(queue, [late])
                assert (found.cancelled, found.late) == (0, 1)

    face.run(scenario)


@everywhere
def test_a_message_of_a_stream_that_is_not_acked_comes_again_when_its_hide_time_is_over(
    face: Face, node: str, queue: str
) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send(b"a")
            async with client.subscribe(queue, hide=1.0) as consumer:
                (first,) = await take(consumer, 1)
                face.advance(1.1)
                (again,) = await take(consumer, 1)
                assert again.deliveries == 2
                with pytest.raises(StaleLeaseError):
                    await first.ack()
                await again.ack()

    face.run(scenario)


@everywhere
def test_who_waits_at_the_stream_of_a_queue_that_is_deleted_is_told(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            async with client.subscribe(queue, credit=1) as consumer, client.producer(queue) as producer:
                await producer.send(b"a")
                # No credit is left from here on.
                await take(consumer, 1)

                async def wait() -> None:
                    with pytest.raises(NotFoundError):
                        await consumer.receive()

                async def delete() -> None:
                    await client.delete_queue(queue)

                await face.together(wait, delete)

    face.run(scenario)


@everywhere
def test_a_credit_that_no_batch_fits_into_is_refused_when_the_block_begins(face: Face, node: str, queue: str) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue)
            with pytest.raises(InvalidArgumentError, match="less than the largest batch"):
                async with client.subscribe(queue, credit_bytes=4096):
                    pass
            with pytest.raises(NotFoundError):
                async with client.subscribe(f"{queue}-none"):
                    pass

    face.run(scenario)


# --- nodes that misbehave ---


def test_a_stream_comes_back_after_the_server_has_gone(face: Face, world: FakeWorld) -> None:
    async def scenario() -> None:
        async with (
            face.connect(world.urls) as client,
            client.producer("orders") as producer,
            client.subscribe("orders") as consumer,
        ):
            for value in (b"a", b"b", b"c"):
                await producer.send(value)
                (message,) = await take(consumer, 1)
                assert message.value == value
                world.drop_all()
                await message.ack()

    face.run(scenario)


def test_a_stream_follows_the_leader(face: Face) -> None:
    cluster = FakeCluster(2)
    cluster.add_queue("orders")

    def move() -> None:
        cluster.move(2)
        cluster.wake()

    with fake_nodes(cluster) as world:

        async def scenario() -> None:
            async with (
                face.connect(world.urls) as client,
                client.producer("orders") as producer,
                client.subscribe("orders") as consumer,
            ):
                await producer.send(b"a")
                await take(consumer, 1)
                world.thread.call(move)
                await producer.send(b"b")
                (message,) = await take(consumer, 1)
                assert message.value == b"b"
                await message.ack()

        face.run(scenario)
        assert len(world.thread.call(lambda: cluster.nodes[2].of(Subscribe))) == 1


def test_closing_a_stream_does_not_wait_for_a_server_that_does_not_answer(face: Face, world: FakeWorld) -> None:
    holding(world, Unsubscribe)

    async def scenario() -> None:
        async def fail() -> None:
            async with face.connect(world.urls, close_timeout=0.1) as client, client.subscribe("orders"):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

    face.run(scenario)


def test_after_the_server_has_gone_the_client_comes_back(face: Face, world: FakeWorld) -> None:
    async def scenario() -> None:
        async with (
            face.connect(world.urls) as client,
            client.producer("orders") as producer,
            client.consumer("orders") as consumer,
        ):
            for value in (b"a", b"b", b"c"):
                await producer.send(value)
                (message,) = await take(consumer, 1)
                assert message.value == value
                world.drop_all()
                await message.ack()

    face.run(scenario)
    assert stored(world) == [b"a", b"b", b"c"]


def test_a_batch_whose_answer_was_lost_is_not_doubled(face: Face, world: FakeWorld) -> None:
    lost: list[AnyRequest] = []

    def lose(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        if not isinstance(request, Produce) or lost:
            return None
        lost.append(request)
        node.answer(request, body)
        return Drop()

    on_request(world, lose)

    async def scenario() -> None:
        async with face.connect(world.urls) as client, client.producer("orders") as producer:
            assert (await producer.send(b"once")).offset == 0

    face.run(scenario)
    assert stored(world) == [b"once"]


def test_the_leader_is_followed(face: Face) -> None:
    cluster = FakeCluster(2)
    cluster.add_queue("orders")
    with fake_nodes(cluster) as world:

        async def scenario() -> None:
            async with face.connect(world.urls) as client, client.producer("orders") as producer:
                await producer.send(b"a")
                world.thread.call(lambda: cluster.move(2))
                await producer.send(b"b")

        face.run(scenario)
        assert stored(world) == [b"a", b"b"]
        assert len(world.thread.call(lambda: cluster.nodes[2].of(Produce))) == 1


def test_no_answer_in_time_is_unknown_and_never_failed(face: Face, world: FakeWorld) -> None:
    holding(world, Produce)

    async def scenario() -> None:
        async with face.connect(world.urls) as client, client.producer("orders", timeout=0.2) as producer:
            with pytest.raises(UnknownOutcomeError):
                await producer.send(b"?")

    face.run(scenario)


def test_a_send_that_is_cancelled_may_be_committed_and_others_go_on(face: Face, world: FakeWorld) -> None:
    held = holding(world, Produce)

    async def scenario() -> None:
        async with face.connect(world.urls) as client, client.producer("orders") as producer:
            await face.cancel(lambda: producer.send(b"cancelled"), held)
            answer_held(world)
            assert (await producer.send(b"next")).offset == 1

    face.run(scenario)
    assert stored(world) == [b"cancelled", b"next"]


def test_room_that_a_cancelled_send_waited_for_is_there_for_others(face: Face, world: FakeWorld) -> None:
    held = holding(world, Produce)

    async def scenario() -> None:
        async with face.connect(world.urls) as client, client.producer("orders", max_buffered_bytes=100) as producer:
            await face.cancel(lambda: producer.send(b"x" * 60), held)
            # There is no room for it while the first has no answer.
            await face.cancel(lambda: producer.send(b"y" * 60), held)
            answer_held(world)
            await producer.send(b"z" * 60)

    face.run(scenario)
    # The second may have got its room in the moment in which it was cancelled.
    assert stored(world) in ([b"x" * 60, b"z" * 60], [b"x" * 60, b"y" * 60, b"z" * 60])


def test_a_cancelled_ack_may_be_carried_out(face: Face, world: FakeWorld) -> None:
    held = holding(world, Ack)

    async def scenario() -> None:
        async with face.connect(world.urls) as client:
            async with client.producer("orders") as producer:
                await producer.send(b"a")
            async with client.consumer("orders") as consumer:
                (message,) = await take(consumer, 1)
                await face.cancel(message.ack, held)
                answer_held(world)
                await message.ack()

    face.run(scenario)
    assert world.thread.call(lambda: world.cluster.partition().acked) == {0}


def test_a_receive_that_is_cancelled_loses_no_message(face: Face, world: FakeWorld) -> None:
    waiting = holding(world, Receive)

    async def scenario() -> None:
        async with (
            face.connect(world.urls) as client,
            client.producer("orders") as producer,
            client.consumer("orders") as consumer,
        ):
            await face.cancel(consumer.receive, waiting)
            await producer.send(b"a")
            answer_held(world)
            (message,) = await take(consumer, 1)
            await message.ack()

    face.run(scenario)
    assert world.thread.call(lambda: world.cluster.partition().acked) == {0}


def test_a_block_that_is_cancelled_gives_its_message_back(face: Face, world: FakeWorld) -> None:
    begun = threading.Event()

    async def scenario() -> None:
        async with (
            face.connect(world.urls) as client,
            client.producer("orders") as producer,
            client.consumer("orders", max_messages=1) as consumer,
        ):
            await producer.send(b"a")

            async def work() -> None:
                (message,) = await take(consumer, 1)
                async with message:
                    begun.set()
                    await face.forever()

            await face.cancel(work, begun)
            (again,) = await take(consumer, 1)
            assert again.deliveries == 2

    face.run(scenario)


def test_closing_does_not_wait_for_a_server_that_does_not_answer(face: Face, world: FakeWorld) -> None:
    held = holding(world, Produce)

    async def scenario() -> None:
        async def fail() -> None:
            async with (
                face.connect(world.urls) as client,
                client.consumer("orders", wait=30.0),
                client.producer("orders") as producer,
            ):
                await face.cancel(lambda: producer.send(b"?"), held)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

    face.run(scenario)


def test_a_token_that_is_not_taken_is_told_at_once(face: Face) -> None:
    cluster = FakeCluster(token="right")
    with fake_nodes(cluster) as world:

        async def scenario() -> None:
            with pytest.raises(UnauthenticatedError):
                async with face.connect(world.urls, token="wrong"):
                    raise AssertionError("not reached")
            async with face.connect(world.urls, token="right", name="till 4") as client:
                assert await client.list_queues() == []

        face.run(scenario)


def test_a_node_that_is_not_there_is_told_with_its_reason(face: Face) -> None:
    async def scenario() -> None:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: .*refused|ConnectionRefused|failed"):
            async with face.connect("ws://127.0.0.1:1", timeout=0.3):
                raise AssertionError("not reached")

    face.run(scenario)


# --- one API ---


def test_settings_of_connect_are_the_same_everywhere() -> None:
    named = set(inspect.signature(logbroker_client.connect).parameters) - {"url", "open_stream"}
    assert named == set(ConnectSettings.__annotations__)


def test_the_asyncio_client_does_without_trio() -> None:
    code = "import sys, logbroker_client.asyncio; sys.exit(any(name.startswith('trio') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_trio_client_does_without_asyncio() -> None:
    code = "import sys, logbroker_client; logbroker_client.connect; sys.exit('asyncio.base_events' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@everywhere
def test_a_message_with_an_id_is_appended_once_and_who_repeats_it_is_told_the_first(
    face: Face, node: str, queue: str
) -> None:
    async def scenario() -> None:
        async with face.connect(node) as client:
            await client.create_queue(queue, partitions=3, dedup_window=60.0, dedup_count=100)
            async with client.producer(queue) as producer:
                first = await producer.send(b"pay 7", dedup_id="payment-7", headers=(("a", b"b"),))
                await producer.send_many([b"x", NewMessage(b"pay 8", dedup_id=b"payment-8")])
            assert not first.duplicate
            async with client.producer(queue) as producer:
                again = await producer.send(b"pay 7", dedup_id="payment-7", headers=(("a", b"b"),))
                assert (again, again.duplicate) == (first, True)
                with pytest.raises(DedupConflictError, match="another value, key or header"):
                    await producer.send(b"pay 70", dedup_id="payment-7", headers=(("a", b"b"),))
                others = [NewMessage(b"pay 8", dedup_id="payment-8"), NewMessage(b"pay 9", dedup_id="payment-9")]
                assert [sent.duplicate for sent in await producer.send_many(others)] == [True, False]
                with pytest.raises(DedupConflictError):
                    await producer.send_many([NewMessage(b"10", dedup_id="payment-9"), b"y"])
                with pytest.raises(InvalidArgumentError, match="dedup_id has 129 bytes, not 1 to 128"):
                    await producer.send(b"", dedup_id="x" * 129)
            async with client.consumer(queue) as consumer:
                values = sorted([message.value or b"" for message in await take(consumer, 5)])
            assert values == [b"pay 7", b"pay 8", b"pay 9", b"x", b"y"]
            await client.alter_queue(queue, dedup_window=0.0)
            async with client.producer(queue) as producer:
                assert not (await producer.send(b"pay 70", dedup_id="payment-7")).duplicate

    face.run(scenario)
