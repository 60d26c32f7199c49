"""Subscriptions without a socket: what is asked of the partition, and when, and what is pushed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from logbroker.errors import NotLeaderError, OverloadedError
from logbroker.ids import GroupId, GroupName, LeaseId, Offset, QueueName
from logbroker.node.catalogue import commands
from logbroker.node.catalogue.rights import Grant, Rights
from logbroker.node.requests import Part, ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.node.tokens import token_digest
from logbroker.server.closing import CloseCode
from logbroker.server.handlers import HANDLERS
from logbroker.server.session import Session
from logbroker.server.subprotocols import protocol_of
from logbroker.wire.requests import (
    JSON_SUBPROTOCOL,
    Credit,
    Delivered,
    Done,
    Error,
    ListQueues,
    QueueList,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
)
from tests.unit.server.kit import TOKEN, FakeBackend, World, expect
from tests.unit.server.test_session import code_of

if TYPE_CHECKING:
    from logbroker.node.requests import Answer

GROUP = GroupId(1)
MIB = 1 << 20
RID = 2


def subscribe(rid: int = RID, *, count: int = 10, size_bytes: int = 4 * MIB, hide_ms: int = 30_000) -> Subscribe:
    return Subscribe(
        rid,
        queue="orders",
        partition=0,
        group="default",
        hide_ms=hide_ms,
        credit_count=count,
        credit_bytes=size_bytes,
        max_count=100,
        max_bytes=MIB,
        consumer="worker-1",
    )


def credit(rid: int, *, count: int = 0, size_bytes: int = 0, subscription: int = RID, queue: str = "orders") -> Credit:
    return Credit(rid, queue=queue, subscription=subscription, credit_count=count, credit_bytes=size_bytes)


def lease(number: int = 70, *, count: int = 2, size_bytes: int = 5) -> ReceiveReply:
    part = Part(bytes(size_bytes), Offset(0), 1_800_000_000_000, ((0, count, 1),))
    return ReceiveReply(LeaseId(number), 1_800_000_030_000, 30_000, (part,))


NOTHING = ReceiveReply(LeaseId(0), 0, 0, ())


def opened(backend: FakeBackend | None = None, **limits: int) -> World:
    world = World.make(backend, limits=limits)
    world.greet()
    return world


def asked(world: World) -> tuple[ReceiveRequest, Answer]:
    """The one receive that is at the partition."""
    group, request, answer = world.backend.take(ReceiveRequest)
    assert group == GROUP
    assert world.backend.asked == []
    return request, answer


def error_of(world: World, rid: int = RID) -> Error:
    error = expect(Error, world.only_reply())
    assert error.rid == rid
    return error


# --- pushing ---


def test_a_stream_waits_at_the_partition_for_what_its_credit_allows() -> None:
    world = opened()
    world.send(subscribe(count=7, size_bytes=3 * MIB))
    request, _ = asked(world)
    assert request == ReceiveRequest(
        GroupName("default"), max_count=7, hide_ms=30_000, wait_ms=30_000, max_bytes=MIB, consumer="worker-1"
    )
    assert world.replies() == []


def test_a_delivery_has_its_lease_its_batches_and_the_credit_that_is_left() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](lease())
    ((reply, body),) = world.replies()
    delivered = expect(Delivered, reply)
    assert (delivered.rid, delivered.lease, delivered.hide_left_ms) == (RID, 70, 30_000)
    assert (delivered.credit_count, delivered.credit_bytes) == (8, 4 * MIB - 5)
    assert delivered.parts[0].ranges == [(0, 2, 1)]
    assert body == bytes(5)
    assert world.service.measures.queue("orders").received_messages == 2


def test_the_next_receive_asks_for_what_is_left() -> None:
    world = opened()
    world.send(subscribe(count=3))
    asked(world)[1](lease())
    world.replies()
    assert asked(world)[0].max_count == 1


def test_without_credit_nothing_is_leased_until_more_is_granted() -> None:
    world = opened()
    world.send(subscribe(count=2))
    asked(world)[1](lease())
    assert len(world.replies()) == 1
    world.session.check()
    assert world.backend.asked == []
    world.send(credit(3, count=5))
    assert asked(world)[0].max_count == 5
    assert world.only_reply() == Done(3)


def test_a_stream_without_credit_is_open_and_waits() -> None:
    world = opened()
    world.send(subscribe(count=0, size_bytes=0))
    assert world.replies() == []
    world.send(credit(3, count=1))
    assert world.backend.asked == []
    world.send(credit(4, size_bytes=MIB))
    assert asked(world)[0].max_count == 1


def test_nothing_is_leased_while_the_largest_batch_would_not_fit_the_credit() -> None:
    world = opened()
    world.send(subscribe(size_bytes=2 * MIB))
    asked(world)[1](lease(size_bytes=MIB + 1))
    assert len(world.replies()) == 1
    assert world.backend.asked == []
    world.send(credit(3, size_bytes=2))
    request, _ = asked(world)
    assert request.max_bytes == MIB


def test_one_delivery_of_a_stream_waits_to_be_written_and_no_lease_is_made_for_another() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](lease())
    # The client reads nothing: whatever happens, no hide time is spent for it.
    world.session.check()
    world.send(credit(3, count=50))
    assert world.backend.asked == []
    message = world.session.next_message()
    assert message is not None
    assert world.backend.asked == []
    world.session.on_sent(len(message))
    assert asked(world)[0].max_count == 58


def test_a_receive_that_found_nothing_is_followed_by_another() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](NOTHING)
    assert asked(world)[0].max_count == 10
    assert world.replies() == []


def test_streams_of_a_connection_and_other_requests_do_not_wait_for_each_other() -> None:
    world = opened()
    world.send(subscribe(2), subscribe(3), ListQueues(4))
    assert isinstance(world.only_reply(), QueueList)
    _, _, first = world.backend.take(ReceiveRequest)
    _, _, second = world.backend.take(ReceiveRequest)
    second(lease(71))
    first(lease(70))
    assert [(reply.rid, expect(Delivered, reply).lease) for reply, _ in world.replies()] == [(3, 71), (2, 70)]


def test_a_stream_is_not_overdue_however_long_it_waits() -> None:
    world = opened()
    world.send(subscribe())
    for _ in range(10):
        world.clock[0] += 50
        world.send(ListQueues(9))
        world.replies()
        world.session.check()
    asked(world)[1](lease())
    expect(Delivered, world.only_reply())


# --- slow readers ---


def test_what_waits_for_a_slow_reader_is_bounded_however_much_credit_there_is() -> None:
    world = opened(max_reply_bytes=4 * MIB)
    world.send(*[subscribe(rid, count=1000, size_bytes=64 * MIB) for rid in range(2, 22)])
    answers = [world.backend.take(ReceiveRequest)[2] for _ in range(20)]
    for number, answer in enumerate(answers):
        answer(lease(number + 100, size_bytes=MIB))
    assert code_of(world.session) is None
    assert world.session.held_bytes < 4 * MIB
    # Two fill the half of it; what was leased for the others meanwhile goes back at once.
    released = [world.backend.take(ReleaseRequest)[1].lease for _ in range(18)]
    assert released == list(range(102, 120))
    assert world.backend.asked == []
    assert len(world.replies()) == 2
    assert len(world.backend.asked) == 20


def test_a_stream_that_had_no_room_goes_on_when_others_make_it() -> None:
    world = opened()
    others_bytes = 2 * world.service.limits.max_held_bytes + 1
    world.service.measures.held_bytes += others_bytes
    world.send(subscribe())
    assert world.backend.asked == []
    world.service.measures.held_bytes -= others_bytes
    world.session.check()
    asked(world)


def test_leases_that_were_not_written_when_the_connection_ends_go_back() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](lease())
    world.session.end()
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.take(ReleaseRequest)[1].lease == 70
    assert world.service.measures.held_bytes == 0


def test_leases_that_were_written_stay_with_the_client_when_the_connection_ends() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](lease())
    world.replies()
    _, answer = asked(world)
    world.session.end()
    assert world.backend.forgotten == [(GROUP, answer)]
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.asked == []


# --- the end ---


def test_unsubscribing_answers_the_subscribe_and_leases_nothing_more() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](lease())
    world.replies()
    _, answer = asked(world)
    world.send(Unsubscribe(3, queue="orders", subscription=RID))
    assert [reply for reply, _ in world.replies()] == [Unsubscribed(RID, count=2), Done(3)]
    assert world.backend.forgotten == [(GROUP, answer)]
    # It was in the log already.
    answer(lease(71))
    assert world.replies() == []
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.take(ReleaseRequest)[1].lease == 71
    # The rid is free.
    world.send(subscribe())
    asked(world)


def test_when_another_node_leads_the_stream_ends_and_says_which() -> None:
    world = opened()
    world.send(subscribe())
    world.backend.leaders[GROUP] = 2
    asked(world)[1](NotLeaderError("node 1 does not lead group 1"))
    error = error_of(world)
    assert (error.code, error.retriable, error.leader_node) == ("not_leader", True, 2)
    assert error.leader_url == "ws://n2:4100"
    world.send(credit(3, count=1))
    assert error_of(world, 3).code == "not_found"


def test_a_stream_without_credit_learns_too_that_another_node_leads() -> None:
    world = opened()
    world.send(subscribe(count=0))
    world.backend.leaders[GROUP] = 3
    world.session.check()
    assert (error_of(world).code, world.session.streams) == ("not_leader", {})


def test_a_node_that_does_not_lead_says_so_at_once() -> None:
    for count in (0, 5):
        world = opened()
        world.backend.leaders[GROUP] = 3
        world.send(subscribe(count=count))
        assert error_of(world).leader_node == 3


@pytest.mark.parametrize("count", [0, 5])
def test_when_the_queue_is_deleted_the_stream_ends(count: int) -> None:
    world = opened()
    world.send(subscribe(count=count))
    world.backend.change(commands.DeleteQueue(QueueName("orders")))
    world.session.check()
    error = error_of(world)
    assert (error.code, error.message) == ("not_found", "queue orders was deleted")
    assert len(world.backend.forgotten) == (count > 0)


def test_a_partition_that_goes_with_its_queue_is_told_as_a_deleted_queue() -> None:
    world = opened()
    world.send(subscribe())
    world.backend.change(commands.DeleteQueue(QueueName("orders")))
    asked(world)[1](NotLeaderError("node 1 has no replica of group 1"))
    assert error_of(world).code == "not_found"


def test_any_other_error_of_the_partition_ends_the_stream_with_it() -> None:
    world = opened()
    world.send(subscribe())
    asked(world)[1](OverloadedError("too much"))
    assert (error_of(world).code, world.session.streams) == ("overloaded", {})


def test_a_node_that_stops_ends_its_streams() -> None:
    world = opened()
    world.send(subscribe(2), subscribe(3, count=0))
    world.session.stop_waiting()
    assert {expect(Error, reply).code for reply, _ in world.replies()} == {"shutting_down"}
    assert world.session.streams == {}


def test_the_right_is_looked_at_again_with_each_delivery() -> None:
    world = World.make(auth={"tokens": True})
    grant = Grant("orders", int(Rights.CONSUME))
    world.backend.change(commands.CreateToken("shop", token_digest(TOKEN), (grant,)))
    world.greet(token=TOKEN)
    world.send(subscribe())
    world.backend.change(commands.DeleteToken("shop"))
    asked(world)[1](lease())
    assert error_of(world, 0).code == "unauthenticated"
    assert code_of(world.session) is CloseCode.UNAUTHENTICATED
    world.session.end()
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.take(ReleaseRequest)[1].lease == 70


# --- refusals ---


def test_hide_times_and_sizes_that_make_no_sense_are_refused() -> None:
    world = opened()
    for request, words in (
        (subscribe(hide_ms=999), "hide_ms 999 is outside 1,000 to limits.max_hide_ms 43,200,000"),
        (subscribe(count=100_001), "credit_count comes to 100,001, above limits.max_credit_count 100,000"),
        (subscribe(size_bytes=65 * MIB), "credit_bytes comes to 68,157,440, above limits.max_credit_bytes 67,108,864"),
    ):
        world.send(request)
        error = error_of(world)
        assert (error.code, error.message) == ("invalid_argument", words)
    for name in ("max_count", "max_bytes"):
        world.send(msgspec.structs.replace(subscribe(), **{name: 0}))
        assert error_of(world).message == f"{name} is 0, so nothing could be delivered"
    assert world.session.streams == {}


def test_a_grant_that_is_too_much_is_refused_and_the_stream_goes_on() -> None:
    world = opened()
    world.send(subscribe(count=0))
    world.send(credit(3, count=100_001))
    assert error_of(world, 3).code == "invalid_argument"
    world.send(credit(4, count=1))
    assert asked(world)[0].max_count == 1


def test_credit_for_a_stream_that_is_not_there_is_refused() -> None:
    backend = FakeBackend(queues=("orders", "payments"))
    world = opened(backend)
    world.send(subscribe())
    world.send(credit(3, count=1, subscription=9))
    assert error_of(world, 3).message == "no stream of queue orders has rid 9 on this connection"
    # What opens one queue opens no stream of another.
    world.send(credit(4, count=1, queue="payments"))
    assert error_of(world, 4).code == "not_found"
    world.send(Unsubscribe(5, queue="payments", subscription=RID))
    assert error_of(world, 5).code == "not_found"
    assert list(world.session.streams) == [RID]


def test_streams_are_receives_that_wait_and_are_counted_as_such() -> None:
    world = opened(max_waiting_receives=2)
    world.send(subscribe(2), subscribe(3, count=0), subscribe(4))
    assert error_of(world, 4).code == "overloaded"
    measures = world.service.measures
    assert (measures.waiting_receives, measures.streams, measures.starved_streams) == (2, 2, 1)
    world.send(Unsubscribe(5, queue="orders", subscription=3), credit(6, count=1))
    assert (measures.waiting_receives, measures.streams, measures.starved_streams) == (1, 1, 0)
    world.session.end()
    assert (measures.waiting_receives, measures.streams, measures.starved_streams) == (0, 0, 0)


def test_deliveries_are_counted() -> None:
    world = opened()
    world.send(subscribe(count=2))
    asked(world)[1](lease())
    measures = world.service.measures
    assert (measures.pushed_deliveries, measures.starved_streams) == (1, 1)


# --- JSON ---


def test_a_stream_in_json_shows_its_messages() -> None:
    world = World.make()
    session = Session(
        world.service,
        world.transport,
        HANDLERS,
        address="10.0.0.9",
        protocol=protocol_of(JSON_SUBPROTOCOL, world.service),
    )

    def said() -> list[dict[str, object]]:
        found = []
        while (message := session.next_message()) is not None:
            found.append(json.loads(message))
            session.on_sent(len(message))
        return found

    session.take(b'{"kind": "hello", "rid": 1}')
    session.take(b'{"kind": "subscribe", "rid": 2, "queue": "orders", "credit_count": 3}')
    said()
    request, answer = asked(world)
    assert (request.max_count, request.hide_ms, request.max_bytes) == (3, 30_000, 256 * 1024)
    answer(lease(size_bytes=0))
    (delivered,) = said()
    problem = "corrupt: the log has lost it"
    shown = {"deliveries": "1", "append_ms": "1800000000000", "problem": problem}
    assert delivered["messages"] == [{"offset": "0", **shown}, {"offset": "1", **shown}]
    assert (delivered["kind"], delivered["rid"], delivered["credit_count"]) == ("delivered", "2", "1")
    session.take(b'{"kind": "unsubscribe", "rid": 3, "queue": "orders", "subscription": "2"}')
    assert [text["kind"] for text in said()] == ["unsubscribed", "done"]
