from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import NotFoundError, OverloadedError, RemoteProtocolError
from logbroker.wire.requests import AnyRequest, BatchPart, Receive, Received, Release
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNode, Hold
from tests.unit.client.world import World, send

if TYPE_CHECKING:
    from logbroker_client.consuming import ConsumerCore
    from logbroker_client.inbox import Delivery


def cluster_of(nodes: int = 1, partitions: int = 1) -> FakeCluster:
    cluster = FakeCluster(nodes)
    cluster.add_queue("orders", partitions)
    return cluster


def fill(world: World, count: int, key: bytes | None = None) -> None:
    producer = world.producer()
    for number in range(count):
        send(producer, b"%d" % number, key)
    world.settle()


def take(consumer: ConsumerCore) -> Delivery:
    delivery = consumer.take()
    if delivery is None:
        raise AssertionError("nothing has arrived")
    return delivery


def test_messages_that_are_there_arrive() -> None:
    world = World(cluster_of())
    fill(world, 3)
    consumer = world.consumer()
    delivery = take(consumer)
    assert [part.ranges for part in delivery.received.parts] == [[(0, 3, 1)]]
    assert delivery.partition == 0
    assert consumer.take() is None


def test_messages_that_come_later_end_the_wait() -> None:
    world = World(cluster_of())
    consumer = world.consumer()
    consumer.inbox.waiters["task"] = None
    assert consumer.take() is None
    fill(world, 1)
    assert "task" in world.woken
    assert take(consumer).received.parts[0].base_offset == 0


def test_a_receive_that_found_nothing_is_followed_by_another() -> None:
    world = World(cluster_of())
    consumer = world.consumer()
    [first] = world.node(1).of(Receive)
    world.connection(1).end_polls()
    world.settle()
    _, second = world.node(1).of(Receive)
    assert first.request_id != second.request_id
    assert consumer.statistics().outstanding_count == 1


def test_an_idle_partition_has_one_receive_waiting() -> None:
    world = World(cluster_of(partitions=3))
    consumer = world.consumer()
    assert sorted(request.partition for request in world.node(1).of(Receive)) == [0, 1, 2]
    assert consumer.statistics().outstanding_count == 3


def test_what_is_fetched_ahead_is_bounded() -> None:
    world = World(cluster_of(partitions=2))
    fill(world, 100, key=b"one key, one partition")
    consumer = world.consumer(max_messages=5, prefetch_count=3)
    statistics = consumer.statistics()
    assert statistics.outstanding_count + statistics.ready_count == 5
    assert statistics.ready_count == 4
    taken = [take(consumer)]
    world.settle()
    while (delivery := consumer.take()) is not None:
        taken.append(delivery)
        world.settle()
    assert len(taken) == 20
    offsets = [leased for delivery in taken for part in delivery.received.parts for leased in part.ranges]
    assert sum(end - start for start, end, _ in offsets) == 100


def test_a_repeat_after_a_lost_answer_gets_the_same_lease() -> None:
    cluster = cluster_of()
    world = World(cluster)
    fill(world, 3)
    is_lost = False

    def lose_reply(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        nonlocal is_lost
        if isinstance(request, Receive) and not is_lost:
            is_lost = True
            node.answer(request, body)
            return Drop()
        return None

    world.node(1).on_request = lose_reply
    consumer = world.consumer()
    world.advance(1)
    first, second = world.node(1).of(Receive)[:2]
    assert (first.session, first.request_id) == (second.session, second.request_id)
    assert take(consumer).received.lease == 1 << 16
    assert list(cluster.partition().leases) == [1 << 16]


def test_a_receive_follows_the_leader() -> None:
    cluster = cluster_of(nodes=2)
    world = World(cluster)
    consumer = world.consumer()
    world.stop(1)
    cluster.move(2)
    world.advance(0.01)
    assert consumer.take() is None
    # The seed is gone, and the other node is known from metadata.
    world.advance(3)
    fill(world, 1)
    assert take(consumer).received.parts[0].ranges == [(0, 1, 1)]


def test_a_receive_that_the_server_forgot_is_repeated_with_its_name() -> None:
    world = World(cluster_of())
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, Receive) else None
    consumer = world.consumer(wait_s=20, timeout_s=10)
    world.node(1).on_request = None
    world.advance(29)
    assert len(world.node(1).of(Receive)) == 1
    world.advance(2)
    first, second = world.node(1).of(Receive)
    assert first.request_id == second.request_id
    fill(world, 1)
    assert take(consumer).received.parts[0].ranges == [(0, 1, 1)]


def test_a_consumer_outlives_a_long_absence_of_the_cluster() -> None:
    world = World(cluster_of())
    consumer = world.consumer()
    world.stop(1)
    world.advance(300)
    assert consumer.inbox.error is None
    world.down.clear()
    world.advance(3)
    fill(world, 1)
    assert take(consumer).received.parts[0].ranges == [(0, 1, 1)]


def test_an_overloaded_server_is_asked_again_later() -> None:
    world = World(cluster_of())
    fill(world, 1)
    refusals = 3

    def refuse(node: FakeNode, request: AnyRequest, body: bytes) -> OverloadedError | None:
        nonlocal refusals
        if isinstance(request, Receive) and refusals:
            refusals -= 1
            return OverloadedError("busy")
        return None

    world.node(1).on_request = refuse
    consumer = world.consumer()
    assert consumer.take() is None
    world.advance(1)
    assert take(consumer).received.parts[0].ranges == [(0, 1, 1)]


def test_an_error_that_stays_is_kept_for_the_application() -> None:
    world = World(cluster_of())
    world.node(1).on_request = lambda node, request, body: (
        NotFoundError("no group default") if isinstance(request, Receive) else None
    )
    consumer = world.consumer()
    consumer.inbox.waiters["task"] = None
    assert isinstance(consumer.inbox.error, NotFoundError)
    asked = len(world.node(1).of(Receive))
    world.advance(10)
    assert len(world.node(1).of(Receive)) == asked


def test_a_lease_that_ran_out_before_it_was_taken_is_dropped() -> None:
    world = World(cluster_of())
    fill(world, 1)
    consumer = world.consumer(hide_s=5)
    world.advance(4.9)
    world.cluster.partition().expire(1 << 16)
    world.advance(0.2)
    world.connection(1).poll()
    world.settle()
    delivery = take(consumer)
    assert delivery.received.parts[0].ranges == [(0, 1, 2)]
    assert consumer.statistics().expired_count == 1


def test_hide_time_is_the_queues_unless_given() -> None:
    cluster = FakeCluster()
    cluster.add_queue("orders", hide_ms=7000)
    world = World(cluster)
    world.consumer()
    world.consumer(hide_s=2.5, group="audit", name="worker", max_messages=7, max_bytes=99, wait_s=1.5)
    first, second = world.node(1).of(Receive)
    assert (first.hide_ms, first.group, first.wait_ms) == (7000, "default", 20_000)
    assert (second.hide_ms, second.group, second.wait_ms) == (2500, "audit", 1500)
    assert (second.consumer, second.max_count, second.max_bytes) == ("worker", 7, 99)


def test_closing_gives_back_what_nobody_took() -> None:
    world = World(cluster_of())
    fill(world, 20)
    consumer = world.consumer(max_messages=5)
    take(consumer)
    world.settle()
    calls = consumer.close()
    world.settle()
    # What it gives back may wake a receive of its own that still waits; that is given back too.
    release = world.node(1).of(Release)[0]
    assert release.leases == [(1 << 16) + 1, (1 << 16) + 2, (1 << 16) + 3]
    assert all(call.is_done and call.error is None for call in calls)
    assert [world.cluster.partition().deliveries[offset] for offset in (0, 5, 10)] == [1, 0, 0]
    world.connection(1).end_polls()
    world.settle()
    assert consumer.statistics().outstanding_count == 0


def test_messages_that_arrive_after_closing_are_given_back() -> None:
    world = World(cluster_of())
    consumer = world.consumer()
    consumer.close()
    fill(world, 1)
    world.settle()
    assert [release.leases for release in world.node(1).of(Release)] == [[1 << 16]]


def answer_with(*parts: BatchPart) -> Answer:
    size_bytes = sum(part.size_bytes for part in parts)
    return Received(0, lease=1, visible_at_ms=1, hide_left_ms=1000, parts=list(parts)), b"x" * size_bytes


def test_a_server_that_leases_more_than_was_asked_is_not_believed() -> None:
    for ranges in ([(0, 1 << 62, 1)], [(5, 5, 1)], [(5, 4, 1)]):
        world = World(cluster_of())
        answer = answer_with(BatchPart(size_bytes=0, base_offset=0, append_ms=0, ranges=ranges))
        world.node(1).on_request = lambda node, request, body, answer=answer: (
            answer if isinstance(request, Receive) else None
        )
        consumer = world.consumer()
        assert isinstance(consumer.inbox.error, RemoteProtocolError)


def test_what_ends_with_its_connection_is_dropped_with_it() -> None:
    world = World(cluster_of())
    fill(world, 4)
    consumer = world.consumer(max_messages=2, on_close="release")
    assert {request.release_on_close for request in world.node(1).of(Receive)} == {True}
    taken = take(consumer)
    assert consumer.statistics().ready_count == 1
    world.connection(1).drop()
    world.advance(1)
    assert consumer.take() is None
    assert consumer.statistics().lost_count == 1
    # What comes by the next connection is as good as ever.
    fill(world, 1)
    assert take(consumer).received.lease > taken.received.lease


def test_what_does_not_end_with_its_connection_is_taken_after_it() -> None:
    world = World(cluster_of())
    fill(world, 4)
    consumer = world.consumer(max_messages=2)
    assert {request.release_on_close for request in world.node(1).of(Receive)} == {False}
    take(consumer)
    world.connection(1).drop()
    world.advance(1)
    take(consumer)
    assert consumer.statistics().lost_count == 0
