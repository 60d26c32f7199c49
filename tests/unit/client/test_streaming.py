from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import (
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    RemoteProtocolError,
    ShuttingDownError,
)
from logbroker.wire.requests import BatchPart, Credit, Delivered, Release, Subscribe, Unsubscribe
from tests.fake_broker import FakeCluster, Hold
from tests.unit.client.test_consuming import cluster_of, fill
from tests.unit.client.world import World

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest
    from logbroker_client.inbox import Delivery
    from logbroker_client.streaming import StreamCore
    from tests.fake_broker import FakeNode


def take(consumer: StreamCore) -> Delivery:
    delivery = consumer.take()
    if delivery is None:
        raise AssertionError("nothing has arrived")
    return delivery


def offsets(delivery: Delivery) -> list[int]:
    return [at for part in delivery.received.parts for start, end, _ in part.ranges for at in range(start, end)]


def leased(cluster: FakeCluster, partition: int = 0) -> int:
    """How many messages the server has given out and not got back."""
    return sum(map(len, cluster.partition("orders", partition).leases.values()))


def test_messages_are_pushed_as_they_come() -> None:
    world = World(cluster_of())
    fill(world, 2)
    consumer = world.subscribe()
    assert offsets(take(consumer)) == [0, 1]
    assert consumer.take() is None
    consumer.inbox.waiters["task"] = None
    fill(world, 1)
    assert "task" in world.woken
    assert offsets(take(consumer)) == [2]
    assert len(world.node(1).of(Subscribe)) == 1


def test_nothing_is_leased_beyond_the_credit_until_the_application_takes() -> None:
    cluster = cluster_of()
    world = World(cluster)
    fill(world, 100)
    consumer = world.subscribe(credit_count=10)
    assert (leased(cluster), consumer.statistics().ready_count) == (10, 2)
    assert offsets(take(consumer)) == [0, 1, 2, 3, 4]
    world.settle()
    # It is at work on the first five: these count.
    assert leased(cluster) == 10
    assert world.node(1).of(Credit) == []
    assert offsets(take(consumer)) == [5, 6, 7, 8, 9]
    world.settle()
    assert leased(cluster) == 15
    [credit] = world.node(1).of(Credit)
    assert (credit.credit_count, credit.subscription) == (5, world.node(1).of(Subscribe)[0].rid)


def test_a_backlog_comes_whole_and_in_order_with_few_grants() -> None:
    world = World(cluster_of())
    fill(world, 100)
    consumer = world.subscribe(credit_count=10)
    found: list[int] = []
    while (delivery := consumer.take()) is not None:
        found += offsets(delivery)
        world.settle()
    assert found == list(range(100))
    assert len(world.node(1).of(Credit)) <= 20


def test_with_a_credit_of_one_each_message_waits_for_the_one_before() -> None:
    cluster = cluster_of()
    world = World(cluster)
    fill(world, 3)
    consumer = world.subscribe(credit_count=1)
    for offset in range(3):
        assert offsets(take(consumer)) == [offset]
        world.settle()
        assert leased(cluster) == offset + 1
        assert consumer.take() is None
        world.settle()


def test_credit_in_bytes_is_granted_before_the_server_has_to_rest() -> None:
    cluster = cluster_of()
    world = World(cluster)
    # The least that there may be: after the first batch less than the largest is left.
    consumer = world.subscribe(credit_bytes=1 << 20)
    for number in range(5):
        fill(world, 1)
        assert offsets(take(consumer)) == [number]
        assert consumer.take() is None
        world.settle()
    granted = [request.credit_bytes for request in world.node(1).of(Credit)]
    assert len(granted) == 5
    assert sum(granted) < 1 << 20


def test_a_credit_that_no_batch_fits_into_is_refused() -> None:
    world = World(cluster_of())
    with pytest.raises(InvalidArgumentError, match="credit_bytes is 65536, less than the largest batch of 1048576"):
        world.subscribe(credit_bytes=65_536)


def test_each_partition_has_a_stream_and_so_has_one_that_is_added() -> None:
    cluster = cluster_of(partitions=2)
    world = World(cluster)
    consumer = world.subscribe()
    assert consumer.statistics().outstanding_count == 2
    cluster.queues["orders"].partitions.append(type(cluster.partition())())
    world.core.refresh("orders")
    world.advance(6)
    assert sorted(request.partition for request in world.node(1).of(Subscribe)) == [0, 1, 2]
    assert len(consumer.inbox.settlers) == 3


def test_the_stream_goes_to_the_next_leader_with_the_credit_that_is_left() -> None:
    cluster = cluster_of(nodes=2)
    world = World(cluster)
    fill(world, 4)
    consumer = world.subscribe(credit_count=10)
    assert leased(cluster) == 4
    cluster.move(2)
    cluster.wake()
    world.advance(1)
    [again] = world.node(2).of(Subscribe)
    assert again.credit_count == 6
    assert offsets(take(consumer)) == [0, 1, 2, 3]
    fill(world, 1)
    assert offsets(take(consumer)) == [4]


def test_after_a_lost_connection_the_client_subscribes_again() -> None:
    cluster = cluster_of()
    world = World(cluster)
    consumer = world.subscribe(credit_count=10)
    world.connection(1).drop()
    world.advance(2)
    assert [request.credit_count for request in world.node(1).of(Subscribe)] == [10, 10]
    fill(world, 1)
    assert offsets(take(consumer)) == [0]


def test_an_overloaded_server_is_asked_again_later() -> None:
    world = World(cluster_of())
    refusals = 3

    def refuse(node: FakeNode, request: AnyRequest, body: bytes) -> OverloadedError | None:
        nonlocal refusals
        if isinstance(request, Subscribe) and refusals:
            refusals -= 1
            return OverloadedError("too many receives")
        return None

    world.node(1).on_request = refuse
    consumer = world.subscribe()
    world.advance(10)
    assert len(world.node(1).of(Subscribe)) == 4
    fill(world, 1)
    assert offsets(take(consumer)) == [0]


@pytest.mark.parametrize("error", [NotFoundError("queue orders was deleted"), ForbiddenError("not yours")])
def test_an_error_that_stays_is_told_after_what_has_arrived(error: NotFoundError | ForbiddenError) -> None:
    world = World(cluster_of())
    fill(world, 1)
    consumer = world.subscribe()
    connection = world.connection(1)
    [rid] = connection.streams
    connection.streams.clear()
    connection.protocol.reply(world.node(1).error_reply(error, rid))
    consumer.inbox.waiters["task"] = None
    world.settle()
    assert "task" in world.woken
    assert offsets(take(consumer)) == [0]
    assert isinstance(consumer.inbox.error, type(error))
    world.advance(30)
    assert len(world.node(1).of(Subscribe)) == 1


def test_a_lease_that_ran_out_before_it_was_taken_is_dropped_and_its_credit_given_again() -> None:
    world = World(cluster_of())
    fill(world, 10)
    consumer = world.subscribe(credit_count=10, hide_s=2)
    world.advance(3)
    assert consumer.take() is None
    assert consumer.statistics().expired_count == 2
    world.settle()
    assert [request.credit_count for request in world.node(1).of(Credit)] == [10]


def test_closing_ends_the_stream_and_gives_back_what_nobody_took() -> None:
    cluster = cluster_of()
    world = World(cluster)
    fill(world, 10)
    consumer = world.subscribe(credit_count=10)
    take(consumer)
    calls = consumer.close()
    world.settle()
    assert [call.is_done for call in calls] == [True, True]
    assert len(world.node(1).of(Unsubscribe)) == 1
    # The five that were taken stay where they are.
    assert leased(cluster) == 5
    fill(world, 5)
    assert leased(cluster) == 5


def test_what_is_on_its_way_when_the_consumer_is_closed_goes_back() -> None:
    cluster = cluster_of()
    world = World(cluster)
    consumer = world.subscribe()
    producer = world.connection(1)
    fill(World(cluster), 3)
    # Pushed, and not read yet.
    assert producer.protocol.pending_bytes
    calls = consumer.close()
    world.settle()
    assert all(call.is_done for call in calls)
    assert len(world.node(1).of(Release)) == 1
    assert leased(cluster) == 0


def test_a_closed_stream_is_not_begun_again_when_its_connection_is_lost() -> None:
    world = World(cluster_of())
    consumer = world.subscribe()
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, Unsubscribe) else None
    calls = consumer.close()
    world.settle()
    assert [call.is_done for call in calls] == [False]
    world.connection(1).drop()
    world.advance(5)
    assert [call.is_done for call in calls] == [True]
    assert len(world.node(1).of(Subscribe)) == 1


def test_a_consumer_is_closed_while_its_stream_has_no_connection() -> None:
    world = World(cluster_of())
    consumer = world.subscribe()
    world.stop(1)
    world.settle()
    [call] = consumer.close()
    assert call.is_done


def test_the_end_of_the_client_is_told() -> None:
    world = World(cluster_of())
    consumer = world.subscribe()
    world.core.close(ShuttingDownError("the client is closed"))
    assert isinstance(consumer.inbox.error, ShuttingDownError)


def test_a_server_that_pushes_more_than_its_credit_is_not_believed() -> None:
    for ranges in ([(0, 11, 1)], [(5, 5, 1)], [(9, 3, 1)]):
        world = World(cluster_of())
        consumer = world.subscribe(credit_count=10)
        connection = world.connection(1)
        [rid] = connection.streams
        part = BatchPart(size_bytes=0, base_offset=0, append_ms=0, ranges=ranges)
        connection.protocol.push(
            Delivered(rid, lease=9, visible_at_ms=1, hide_left_ms=1000, parts=[part], credit_count=0, credit_bytes=0)
        )
        world.settle()
        assert isinstance(consumer.inbox.error, RemoteProtocolError)
        assert consumer.take() is None
        assert connection.streams == {}


def test_what_ends_with_its_connection_is_dropped_with_it_and_its_credit_given_again() -> None:
    world = World(cluster_of())
    fill(world, 2)
    consumer = world.subscribe(credit_count=2, max_messages=1, on_close="release")
    assert consumer.statistics().ready_count == 2
    world.connection(1).drop()
    world.advance(1)
    assert consumer.take() is None
    assert consumer.statistics().lost_count == 2
    world.settle()
    fill(world, 2)
    assert consumer.take() is not None
    asked = world.node(1).of(Subscribe)
    assert [request.release_on_close for request in asked] == [True] * len(asked)
