from __future__ import annotations

import pytest
from msgspec import structs

from logbroker.errors import (
    AlreadyExistsError,
    NotFoundError,
    NotLeaderError,
    OverloadedError,
    ShuttingDownError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import NodeId
from logbroker.wire.failures import error_reply
from logbroker.wire.requests import (
    AnyRequest,
    CreateQueue,
    Done,
    Hello,
    ListQueues,
    Metadata,
    MetadataReply,
    PartitionInfo,
    Produce,
    QueueList,
    QueueSettings,
    WireLimits,
)
from logbroker_client.calls import Anywhere, Call
from logbroker_client.core import CLIENT_NAME
from logbroker_client.options import ClientOptions
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNode, Hold
from tests.unit.client.world import World, send


def create(world: World, name: str = "new") -> Call:
    return world.core.call(
        lambda rid: CreateQueue(rid, name=name, settings=QueueSettings()),
        route=Anywhere.META,
        timeout_s=5,
        is_repeatable=False,
    )


def list_queues(world: World) -> Call:
    return world.core.call(lambda rid: ListQueues(rid), route=Anywhere.ANY, timeout_s=5, is_repeatable=True)


def test_nothing_is_dialled_before_it_is_needed() -> None:
    world = World(FakeCluster())
    world.advance(10)
    assert world.dialled == []


def test_hello_names_session_token_and_software() -> None:
    world = World(FakeCluster(token="secret"), options=ClientOptions(token="secret"))
    call = list_queues(world)
    world.settle()
    assert isinstance(call.reply, QueueList)
    [hello] = world.node(1).of(Hello)
    assert (hello.session, hello.token, hello.client) == (world.core.session, "secret", CLIENT_NAME)


def test_the_session_survives_reconnects() -> None:
    world = World(FakeCluster())
    list_queues(world)
    world.settle()
    world.connection(1).drop()
    world.advance(1)
    list_queues(world)
    world.advance(1)
    first, second = world.node(1).of(Hello)
    assert first.session == second.session


def test_a_wrong_token_fails_at_once() -> None:
    world = World(FakeCluster(token="secret"), options=ClientOptions(token="wrong"))
    call = list_queues(world)
    world.settle()
    assert isinstance(call.error, UnauthenticatedError)


def test_when_no_node_answers_the_reasons_are_kept() -> None:
    world = World(FakeCluster(2), seeds=2)
    world.down |= {1, 2}
    call = list_queues(world)
    world.advance(4.9)
    assert not call.is_done
    world.advance(0.2)
    assert type(call.error) is UnavailableError
    assert world.core.link_errors() == [
        "ws://node1.test:4100: connection refused",
        "ws://node2.test:4100: connection refused",
    ]


def test_tries_to_connect_come_with_growing_pauses() -> None:
    world = World(FakeCluster())
    world.down.add(1)
    list_queues(world)
    world.advance(5)
    assert 8 <= len(world.dialled) <= 20


def test_any_living_seed_will_do() -> None:
    world = World(FakeCluster(3), seeds=3)
    world.down |= {1, 2}
    call = list_queues(world)
    world.advance(1)
    assert call.error is None
    assert world.open_nodes() == [3]


def test_a_repeatable_call_survives_a_lost_connection() -> None:
    world = World(FakeCluster())
    is_lost = False

    def lose(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        nonlocal is_lost
        if isinstance(request, ListQueues) and not is_lost:
            is_lost = True
            return Drop()
        return None

    world.node(1).on_request = lose
    call = list_queues(world)
    world.advance(1)
    assert call.error is None
    assert isinstance(call.reply, QueueList)


def test_another_call_is_unknown_after_a_lost_connection() -> None:
    world = World(FakeCluster())
    world.node(1).on_request = lambda node, request, body: Drop() if isinstance(request, CreateQueue) else None
    call = create(world)
    world.advance(1)
    assert isinstance(call.error, UnknownOutcomeError)
    assert len(world.node(1).of(CreateQueue)) == 1


def test_a_call_that_the_server_lost_sight_of_is_not_doubled() -> None:
    world = World(FakeCluster())
    world.node(1).on_request = lambda node, request, body: (
        UnknownOutcomeError("the term ended") if isinstance(request, CreateQueue) else None
    )
    call = create(world)
    world.advance(1)
    assert isinstance(call.error, UnknownOutcomeError)
    assert len(world.node(1).of(CreateQueue)) == 1


def test_a_certain_refusal_is_retried_even_for_a_call_that_must_not_be_doubled() -> None:
    world = World(FakeCluster())
    refusals = 2

    def refuse(node: FakeNode, request: AnyRequest, body: bytes) -> OverloadedError | None:
        nonlocal refusals
        if isinstance(request, CreateQueue) and refusals:
            refusals -= 1
            return OverloadedError("busy")
        return None

    world.node(1).on_request = refuse
    call = create(world)
    world.advance(1)
    assert isinstance(call.reply, Done)
    again = create(world)
    world.advance(1)
    assert isinstance(again.error, AlreadyExistsError)


def test_a_call_past_its_deadline_says_what_is_known() -> None:
    world = World(FakeCluster())
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, ListQueues) else None
    held = list_queues(world)
    world.advance(5.2)
    assert isinstance(held.error, UnknownOutcomeError)
    world.node(1).on_request = lambda node, request, body: (
        OverloadedError("busy") if isinstance(request, CreateQueue) else None
    )
    refused = create(world)
    world.advance(5.2)
    assert type(refused.error) is UnavailableError
    assert "busy" in refused.error.message


def test_requests_to_the_meta_group_follow_its_leader() -> None:
    cluster = FakeCluster(3)
    cluster.meta_leader = 3
    world = World(cluster)
    call = create(world)
    world.advance(0.01)
    assert isinstance(call.reply, Done)
    assert world.open_nodes() == [1, 3]
    # The next one goes there directly.
    create(world, "second")
    world.settle()
    assert [len(world.node(number).of(CreateQueue)) for number in (1, 2, 3)] == [1, 0, 2]


def test_a_meta_leader_that_is_gone_is_looked_for_again() -> None:
    cluster = FakeCluster(3)
    cluster.meta_leader = 3
    world = World(cluster)
    create(world)
    world.advance(0.01)
    world.stop(3)
    cluster.meta_leader = 2
    call = create(world, "second")
    # It may have reached the old leader.
    world.advance(1)
    assert isinstance(call.error, UnknownOutcomeError)
    third = create(world, "third")
    world.advance(1)
    assert isinstance(third.reply, Done)


def test_two_nodes_that_name_each_other_are_not_asked_without_pause() -> None:
    cluster = FakeCluster(2)
    cluster.add_queue("orders")
    world = World(cluster)
    producer = world.producer()
    cluster.move(2)

    def point_elsewhere(node: FakeNode, request: AnyRequest, body: bytes) -> Answer | None:
        if not isinstance(request, Produce):
            return None
        other = cluster.nodes[3 - node.node]
        error = NotLeaderError("not me", leader=NodeId(other.node))
        return error_reply(error, rid=request.rid, leader_url=other.url), b""

    for number in (1, 2):
        world.node(number).on_request = point_elsewhere
    send(producer, b"0")
    world.advance(2)
    asked = sum(len(world.node(number).of(Produce)) for number in (1, 2))
    assert 4 <= asked <= 20


def test_who_hears_of_no_leader_is_not_the_only_one_that_is_asked() -> None:
    cluster = FakeCluster(3)
    cluster.add_queue("orders")
    world = World(cluster)
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    assert world.open_nodes() == [1]
    # Node 1 led, is heard by clients alone, and will not hear who leads now.
    cluster.move(2)

    def hear_nobody(node: FakeNode, request: AnyRequest, body: bytes) -> Answer | None:
        if isinstance(request, Produce):
            return error_reply(NotLeaderError("not me"), rid=request.rid), b""
        answer = node.answer(request, body)
        if answer is not None and isinstance(answer[0], MetadataReply):
            old = [PartitionInfo(partition=0, group=1, leader=0, term=1)]
            queues = [structs.replace(queue, partitions=old) for queue in answer[0].queues]
            return structs.replace(answer[0], queues=queues), b""
        return answer

    world.node(1).on_request = hear_nobody
    # Of several nodes the last to be connected is asked.
    world.chance = 0.99
    batch, _ = send(producer, b"1")
    world.advance(1)
    assert batch.is_done
    assert batch.error is None


def test_who_knows_no_meta_leader_is_not_the_only_one_that_is_asked() -> None:
    cluster = FakeCluster(3)
    cluster.meta_leader = 2
    world = World(cluster)
    world.learn()
    world.node(1).on_request = lambda node, request, body: (
        (error_reply(NotLeaderError("not me"), rid=request.rid), b"") if isinstance(request, CreateQueue) else None
    )
    world.chance = 0.99
    call = create(world)
    world.advance(1)
    assert isinstance(call.reply, Done)


def test_metadata_of_a_watched_queue_is_refreshed() -> None:
    cluster = FakeCluster()
    cluster.add_queue("orders")
    world = World(cluster)
    world.learn("orders")
    world.core.watch("orders")
    cluster.add_queue("orders", 4)
    world.advance(31)
    assert world.core.routes.partition_count("orders") == 4
    world.core.unwatch("orders")
    asked = len(world.node(1).of(Metadata))
    world.advance(100)
    assert len(world.node(1).of(Metadata)) <= asked + 1


def test_a_queue_that_is_gone_is_forgotten() -> None:
    cluster = FakeCluster()
    cluster.add_queue("orders")
    world = World(cluster)
    world.learn("orders")
    del cluster.queues["orders"]
    world.learn("orders")
    assert world.core.routes.partition_count("orders") == 0


def test_an_idle_link_is_kept_alive_and_a_silent_one_is_not() -> None:
    world = World(FakeCluster(), options=ClientOptions(ping_interval_s=1))
    list_queues(world)
    world.settle()
    connection = world.connection(1)
    messages: list[bytes] = []
    receive = connection.receive
    connection.receive = lambda message: (messages.append(message), receive(message))[1]  # type: ignore[func-returns-value,method-assign]
    world.advance(3.5)
    assert len(messages) == 3
    assert world.open_nodes() == [1]
    connection.receive = lambda message: None  # type: ignore[method-assign]
    world.advance(3)
    assert world.open_nodes() == []


def test_an_abandoned_call_is_not_tried_again() -> None:
    world = World(FakeCluster())
    world.down.add(1)
    call = list_queues(world)
    world.advance(1)
    world.core.abandon(call)
    world.down.clear()
    world.advance(5)
    assert world.node(1).of(ListQueues) == []


def test_what_anybody_can_answer_is_asked_of_others_when_a_node_is_silent() -> None:
    world = World(FakeCluster(2), seeds=2)
    list_queues(world)
    world.settle()
    world.node(1).on_request = lambda node, request, body: Hold()
    call = list_queues(world)
    world.advance(0.5)
    assert not call.is_done
    world.advance(1.5)
    assert isinstance(call.reply, QueueList)
    assert len(world.node(2).of(ListQueues)) == 1


def test_a_single_node_that_is_silent_for_a_while_is_waited_for() -> None:
    world = World(FakeCluster())
    list_queues(world)
    world.settle()
    world.node(1).on_request = lambda node, request, body: Hold()
    call = list_queues(world)
    world.advance(3)
    connection = world.connection(1)
    for held in list(connection.held):
        connection.answer(*held)
    world.settle()
    assert isinstance(call.reply, QueueList)


def test_closing_fails_what_waits() -> None:
    world = World(FakeCluster())
    world.node(1).on_request = lambda node, request, body: Hold()
    call = list_queues(world)
    call.waiters["task"] = None
    world.settle()
    world.core.close(ShuttingDownError("the client is closed"))
    assert isinstance(call.error, ShuttingDownError)
    assert world.woken == ["task"]


def test_calls_beyond_the_servers_bound_wait_their_turn() -> None:
    world = World(FakeCluster(limits=WireLimits(max_outstanding=2)))
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, ListQueues) else None
    calls = [list_queues(world) for _ in range(5)]
    world.settle()
    connection = world.connection(1)
    assert len(connection.held) == 2
    world.node(1).on_request = None
    for held in list(connection.held):
        connection.answer(*held)
    world.settle()
    assert all(call.is_done and call.error is None for call in calls)


@pytest.mark.parametrize("kind", [NotFoundError, UnauthenticatedError])
def test_errors_of_a_call_are_final_when_a_retry_cannot_help(kind: type[NotFoundError]) -> None:
    world = World(FakeCluster())
    world.node(1).on_request = lambda node, request, body: kind("no") if isinstance(request, ListQueues) else None
    call = list_queues(world)
    world.settle()
    assert isinstance(call.error, kind)
