from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from logbroker.errors import NotLeaderError, OverloadedError, UnknownOutcomeError
from logbroker.ids import GroupId, GroupName, LeaseId, NodeId, Offset, QueueName
from logbroker.node.catalogue import commands, rows
from logbroker.node.catalogue.rights import Grant, Rights
from logbroker.node.requests import (
    AckRequest,
    DeadRange,
    DeadReply,
    DeadRequest,
    Part,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    ReviveReply,
    ReviveRequest,
    SettleReply,
    SettleResult,
    StateReply,
)
from logbroker.node.tokens import token_digest
from logbroker.partition.commands import Cause
from logbroker.server.closing import CloseCode
from logbroker.server.session import MAX_WORKS
from logbroker.wire.requests import (
    Ack,
    CreateQueue,
    DeadList,
    DescribeQueue,
    Done,
    Error,
    Hello,
    ListDead,
    ListQueues,
    Metadata,
    MetadataReply,
    Ping,
    Pong,
    Produce,
    Produced,
    QueueList,
    QueueSettings,
    Receive,
    Received,
    Reject,
    Revive,
    Revived,
    Settled,
    Status,
    StatusReply,
    Welcome,
)
from tests.unit.server.kit import TOKEN, FakeBackend, World, expect

if TYPE_CHECKING:
    from logbroker.server.session import Session

GROUP = GroupId(1)


def receive(rid: int, *, wait_ms: int = 20_000, request_id: int = 9) -> Receive:
    return Receive(
        rid,
        queue="orders",
        partition=0,
        group="default",
        max_count=10,
        max_bytes=1 << 20,
        hide_ms=30_000,
        wait_ms=wait_ms,
        session=5,
        request_id=request_id,
    )


def lease(number: int = 70) -> ReceiveReply:
    part = Part(b"batch", Offset(0), 1_800_000_000_000, ((0, 2, 1),))
    return ReceiveReply(LeaseId(number), 1_800_000_030_000, 30_000, (part,))


def code_of(session: Session) -> CloseCode | None:
    return None if session.closing is None else session.closing.code


# --- hello ---


def test_hello_is_welcomed_with_the_limits_of_the_configuration() -> None:
    world = World.make(limits={"max_inflight_requests": 12})
    welcome = expect(Welcome, world.greet())
    assert (welcome.node, welcome.cluster, welcome.ping_ms) == (1, "logbroker", 20_000)
    assert (welcome.limits.max_outstanding, welcome.limits.max_batch_bytes) == (12, 1 << 20)
    assert world.transport.is_greeted
    assert world.service.measures.unauthenticated == 0


def test_a_version_that_is_not_spoken_is_refused_and_the_connection_ends() -> None:
    world = World.make()
    world.send(Hello(1, version=99, oldest_version=98))
    assert expect(Error, world.only_reply()).code == "invalid_argument"
    assert code_of(world.session) is CloseCode.BAD_REQUEST


def test_who_says_no_hello_is_closed_at_the_deadline() -> None:
    world = World.make()
    world.clock[0] += 4.9
    world.session.check()
    assert code_of(world.session) is None
    world.clock[0] += 0.1
    world.session.check()
    assert code_of(world.session) is CloseCode.TIMEOUT


def test_a_first_frame_that_is_no_hello_is_a_broken_rule() -> None:
    world = World.make()
    world.send(ListQueues(1))
    assert expect(Error, world.only_reply()).rid == 0
    assert code_of(world.session) is CloseCode.BAD_REQUEST


# --- tokens ---


def with_token(*, rights: Rights = Rights.PRODUCE) -> World:
    world = World.make(auth={"tokens": True})
    grant = Grant("orders", int(rights))
    world.backend.change(commands.CreateToken("shop", token_digest(TOKEN), (grant,)))
    return world


def test_a_token_that_the_catalogue_knows_may_do_what_it_grants() -> None:
    world = with_token()
    expect(Welcome, world.greet(token=TOKEN))
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    world.backend.take(ProduceRequest)
    world.send(receive(3))
    assert expect(Error, world.only_reply()).code == "forbidden"


@pytest.mark.parametrize("token", ["", "x" * 40])
def test_a_token_that_nobody_has_ends_the_connection(token: str) -> None:
    world = with_token()
    error = expect(Error, world.greet(token=token))
    assert (error.rid, error.code) == (1, "unauthenticated")
    assert token == "" or token not in error.message
    assert code_of(world.session) is CloseCode.UNAUTHENTICATED


def test_a_node_without_a_catalogue_asks_to_come_again_and_denies_nobody() -> None:
    world = with_token()
    world.backend.has_catalogue = False
    error = expect(Error, world.greet(token=TOKEN))
    assert (error.code, error.retriable) == ("unavailable", True)
    assert code_of(world.session) is CloseCode.TRY_AGAIN_LATER


@pytest.mark.parametrize("comes", [True, False])
async def test_a_follower_waits_a_moment_for_a_token_it_does_not_know(autojump_clock: object, comes: bool) -> None:
    world = with_token()
    world.backend.leaders[0] = 2
    world.send(Hello(1, token="y" * 40))
    assert world.replies() == []
    ((work, args),) = world.transport.tasks
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, *args)
        await trio.testing.wait_all_tasks_blocked()
        secret = "y" if comes else "z"
        world.backend.change(commands.CreateToken("late", token_digest(secret * 40), (Grant("*", 1),)))
    if comes:
        assert isinstance(world.only_reply(), Welcome)
    else:
        assert expect(Error, world.only_reply()).code == "unauthenticated"


def test_a_token_that_is_deleted_ends_the_connection_with_the_next_message_or_sweep() -> None:
    for by_message in (True, False):
        world = with_token()
        world.greet(token=TOKEN)
        world.backend.change(commands.DeleteToken("shop"))
        if by_message:
            world.send(Produce(2, queue="orders", partition=0), body=b"batch")
        else:
            world.session.check()
        assert code_of(world.session) is CloseCode.UNAUTHENTICATED
        assert expect(Error, world.only_reply()).rid == 0
        assert world.backend.asked == []


def test_a_message_is_not_handed_to_a_token_that_lost_its_right_while_it_waited() -> None:
    world = with_token(rights=Rights.CONSUME)
    world.greet(token=TOKEN)
    world.send(receive(2))
    group, _, answer = world.backend.take(ReceiveRequest)
    world.backend.change(
        commands.DeleteToken("shop"),
        commands.CreateToken("shop", token_digest(TOKEN), (Grant("orders", int(Rights.PRODUCE)),)),
    )
    answer(lease())
    assert expect(Error, world.only_reply()).code == "forbidden"
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.take(ReleaseRequest)[0] == group


# --- requests ---


def test_frames_of_one_message_are_dispatched_before_anything_else_happens_and_answered_in_one() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"one")
    world.send(Ping(4), Produce(3, queue="orders", partition=0), body=b"two")
    first, second = world.backend.take(ProduceRequest), world.backend.take(ProduceRequest)
    assert [request.batch for _, request, _ in (first, second)] == [b"one", b"two"]
    second[2](ProduceReply(Offset(5), 2, 1_000))
    first[2](ProduceReply(Offset(3), 2, 1_000))
    message = world.session.next_message()
    assert message is not None
    assert world.session.next_message() is None
    assert world.service.measures.queue("orders").produced_messages == 4


def test_a_produce_is_answered_with_what_the_partition_says() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    group, _, answer = world.backend.take(ProduceRequest)
    assert group == GROUP
    answer(ProduceReply(Offset(40), 3, 1_234, duplicate=True))
    assert world.only_reply() == Produced(2, base_offset=40, count=3, append_ms=1_234, duplicate=True)


def test_a_request_to_a_partition_led_elsewhere_is_answered_with_the_leaders_address() -> None:
    world = World.make()
    world.greet()
    world.backend.leaders[GROUP] = 3
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    error = expect(Error, world.only_reply())
    assert (error.code, error.leader_node, error.leader_url) == ("not_leader", 3, "ws://n3:4100")


def test_a_leader_that_only_the_node_knows_is_added_to_the_error() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    _, _, answer = world.backend.take(ProduceRequest)
    world.backend.leaders[GROUP] = 2
    answer(NotLeaderError("not any more"))
    assert expect(Error, world.only_reply()).leader_url == "ws://n2:4100"


@pytest.mark.parametrize(("queue", "partition"), [("nothing", 0), ("orders", 1)])
def test_what_the_meta_leader_does_not_know_does_not_exist(queue: str, partition: int) -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue=queue, partition=partition), body=b"batch")
    assert expect(Error, world.only_reply()).code == "not_found"


async def test_who_makes_a_queue_is_answered_once_its_partitions_are_served(autojump_clock: object) -> None:
    world = World.make()
    world.greet()
    young = GroupId(2)
    world.backend.leaders[young] = None
    world.send(CreateQueue(2, name="young", settings=QueueSettings()))
    ((work, args),) = world.transport.tasks
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, *args)
        await trio.sleep(1)
        world.backend.leaders[young] = 1
        world.backend.not_serving.add(young)
        await trio.sleep(1)
        assert world.replies() == []
        world.backend.not_serving.clear()
        await trio.sleep(0.1)
        assert world.only_reply() == Done(2)


async def test_a_follower_waits_a_moment_for_a_queue_that_another_node_may_have_made(autojump_clock: object) -> None:
    world = World.make()
    world.greet()
    world.backend.leaders[0] = 2
    world.send(Produce(2, queue="young", partition=0), body=b"batch")
    assert world.replies() == []

    ((work, args),) = world.transport.tasks
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, *args)
        await trio.testing.wait_all_tasks_blocked()
        world.backend.change(commands.CreateQueue(QueueName("young"), rows.QueueSettings()))
    assert world.backend.take(ProduceRequest)[0] == GroupId(2)


async def test_a_follower_gives_a_missing_queue_up_in_the_end(autojump_clock: object) -> None:
    world = World.make()
    world.greet()
    world.backend.leaders[0] = 2
    world.send(Produce(2, queue="nothing", partition=0), body=b"batch")
    world.send(Metadata(3, queues=["orders", "nothing"]))
    await world.transport.run_tasks()
    replies = dict((reply.rid, reply) for reply, _ in world.replies())
    assert expect(Error, replies[2]).code == "not_found"
    assert [queue.name for queue in expect(MetadataReply, replies[3]).queues] == ["orders"]


def test_metadata_and_lists_show_only_what_the_token_may_see() -> None:
    world = World.make(FakeBackend(queues=("orders", "salaries")), auth={"tokens": True})
    world.backend.change(commands.CreateToken("shop", token_digest(TOKEN), (Grant("orders", 1),)))
    world.greet(token=TOKEN)
    world.send(Metadata(2))
    reply = expect(MetadataReply, world.only_reply())
    assert [queue.name for queue in reply.queues] == ["orders"]
    assert [(node.node, node.url) for node in reply.nodes][2] == (3, "ws://n3:4100")
    assert (reply.queues[0].partitions[0].leader, reply.queues[0].partitions[0].term) == (1, 7)
    world.send(Metadata(3, queues=["salaries"]))
    assert expect(MetadataReply, world.only_reply()).queues == []
    world.send(ListQueues(4))
    assert [queue.name for queue in expect(QueueList, world.only_reply()).queues] == ["orders"]


def test_bounds_of_a_receive_are_taken_as_the_limit() -> None:
    world = World.make(limits={"max_receive_count": 5, "max_receive_bytes": 4096, "max_wait_ms": 100})
    world.greet()
    world.send(receive(2))
    _, asked, _ = world.backend.take(ReceiveRequest)
    assert (asked.max_count, asked.max_bytes, asked.wait_ms) == (5, 4096, 100)
    assert (asked.session, asked.request_id) == (5, 9)


def test_a_receive_is_answered_with_the_stored_batches_as_they_are() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    world.backend.take(ReceiveRequest)[2](lease())
    ((reply, body),) = world.replies()
    received = expect(Received, reply)
    assert (received.lease, received.hide_left_ms, body) == (70, 30_000, b"batch")
    assert (received.parts[0].size_bytes, received.parts[0].ranges) == (5, [(0, 2, 1)])


def test_replies_come_in_the_order_of_the_answers_each_with_its_rid() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2), Produce(3, queue="orders", partition=0), body=b"batch")
    _, _, late = world.backend.take(ReceiveRequest)
    world.backend.take(ProduceRequest)[2](ProduceReply(Offset(0), 1, 1))
    world.send(ListQueues(4))
    late(lease())
    assert [(type(reply), reply.rid) for reply, _ in world.replies()] == [(Produced, 3), (QueueList, 4), (Received, 2)]


def test_stale_and_rewound_messages_of_an_ack_are_told_apart() -> None:
    world = World.make()
    world.greet()
    world.send(Ack(2, queue="orders", partition=0, group="default", items=[(70, [(0, 4)]), (71, [(4, 9)])]))
    _, asked, answer = world.backend.take(AckRequest)
    assert asked.items == ((70, ((0, 4),)), (71, ((4, 9),)))
    answer(
        SettleReply(
            (
                SettleResult(LeaseId(70), 1, already=((1, 2),), expired=((2, 3),), stale=((3, 4),)),
                SettleResult(LeaseId(71), 0, stale=((4, 9),), rewound=True),
            )
        )
    )
    first, second = expect(Settled, world.only_reply()).results
    assert (first.done, first.already, first.stale, first.rewound) == (1, 2, [(3, 4)], [])
    assert (second.done, second.stale, second.rewound) == (0, [], [(4, 9)])


def test_what_is_rejected_is_listed_and_revived() -> None:
    world = World.make()
    world.greet()
    world.send(Reject(2, queue="orders", partition=0, group="g", items=[(70, [(0, 4)])], reason="no account"))
    _, rejected, answer = world.backend.take(RejectRequest)
    assert rejected == RejectRequest(GroupName("g"), ((LeaseId(70), ((0, 4),)),), "no account")
    answer(SettleReply((SettleResult(LeaseId(70), 4),)))
    assert expect(Settled, world.only_reply()).results[0].done == 4
    world.send(ListDead(3, queue="orders", partition=0, group="g", start_offset=2, max_count=5))
    _, listed, answer = world.backend.take(DeadRequest)
    assert listed == DeadRequest(GroupName("g"), 2, 5)
    rows = (
        DeadRange(Offset(2), Offset(4), 3, 99, Cause.MAX_DELIVERIES, "closed", "till-3"),
        DeadRange(Offset(5), Offset(6), 1, 98),
    )
    answer(DeadReply(rows))
    first, second = expect(DeadList, world.only_reply()).rows
    assert (first.start, first.end, first.deliveries, first.buried_at_ms) == (2, 4, 3, 99)
    assert (first.cause, first.reason, first.consumer) == ("max_deliveries", "closed", "till-3")
    assert (second.cause, second.reason, second.consumer) == ("", "", "")
    world.send(Revive(4, queue="orders", partition=0, group="g", ranges=[(2, 4)]))
    _, revived, answer = world.backend.take(ReviveRequest)
    assert revived == ReviveRequest(GroupName("g"), ((2, 4),))
    answer(ReviveReply(2))
    assert expect(Revived, world.only_reply()).count == 2


def test_a_node_that_is_not_reached_is_a_problem_before_all_others() -> None:
    world = World.make()
    world.greet()
    world.send(Status(2))
    reply = expect(StatusReply, world.only_reply())
    assert [(node.node, node.state) for node in reply.nodes] == [(1, "up"), (2, "unreachable"), (3, "unreachable")]
    assert reply.problems == ["node 2 is unreachable: it is not linked", "node 3 is unreachable: it is not linked"]


# --- leases that never arrive ---


def test_a_lease_in_the_buffer_of_a_connection_that_ends_goes_back_uncounted() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    world.backend.take(ReceiveRequest)[2](lease())
    world.session.end()
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.take(ReleaseRequest)[1].lease == 70


def test_a_lease_whose_message_was_written_stays_when_the_connection_ends() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    world.backend.take(ReceiveRequest)[2](lease())
    world.replies()
    world.session.end()
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.asked == []


def test_a_lease_in_a_message_that_was_taken_but_not_written_goes_back() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    world.backend.take(ReceiveRequest)[2](lease())
    assert world.session.next_message() is not None
    world.session.end()
    world.service.handover.sweep()
    world.service.handover.sweep()
    world.backend.take(ReleaseRequest)


def test_a_long_poll_that_is_served_after_its_client_left_gives_the_lease_back() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    _, _, answer = world.backend.take(ReceiveRequest)
    world.session.end()
    assert world.service.measures.waiting_receives == 0
    answer(lease())
    world.service.handover.sweep()
    world.service.handover.sweep()
    world.backend.take(ReleaseRequest)


@pytest.mark.parametrize("how", ["end", "stop", "deadline"])
def test_the_partition_is_told_that_nobody_waits_for_a_long_poll_any_more(how: str) -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    group, _, answer = world.backend.asked[0]
    if how == "end":
        world.session.end()
    elif how == "stop":
        world.session.stop_waiting()
    else:
        world.clock[0] += 3_600
        world.session.heard_s = world.clock[0]
        world.session.check()
    assert world.backend.forgotten == [(group, answer)]


def test_a_repeat_on_a_new_connection_keeps_the_lease_that_the_old_one_lost() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    first_answer = world.backend.take(ReceiveRequest)[2]
    again = world.new_session()
    world.send(Hello(1), session=again)
    world.send(receive(2), session=again)
    second_answer = world.backend.take(ReceiveRequest)[2]
    world.session.end()
    first_answer(lease())
    world.service.handover.sweep()
    second_answer(lease())
    world.service.handover.sweep()
    world.service.handover.sweep()
    assert world.backend.asked == []
    assert len(world.replies(again)) == 2


# --- bounds ---


def test_replies_beyond_the_bound_close_the_connection_with_try_again_later() -> None:
    world = World.make(limits={"max_reply_bytes": 1 << 20})
    world.greet()
    big = Part(bytes(700_000), Offset(0), 1_000, ((0, 1, 1),))
    for rid in (2, 3):
        world.send(receive(rid, request_id=rid))
    for number in (70, 71):
        world.backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(number), 1, 1, (big,)))
    assert code_of(world.session) is CloseCode.TRY_AGAIN_LATER
    assert world.session.next_message() is None


def test_a_session_with_too_many_unanswered_bytes_or_unsent_replies_takes_no_more() -> None:
    world = World.make(limits={"max_inflight_bytes": 1 << 20, "max_batch_bytes": 1 << 19, "max_record_bytes": 1 << 19})
    world.greet()
    fullness = []
    for rid in (2, 3):
        fullness.append(world.session.is_full)
        world.send(Produce(rid, queue="orders", partition=0), body=bytes(1 << 19))
    fullness.append(world.session.is_full)
    wakes = world.transport.reader_wakes
    world.backend.take(ProduceRequest)[2](OverloadedError("later"))
    fullness.append(world.session.is_full)
    assert fullness == [False, False, True, False]
    assert world.transport.reader_wakes > wakes


def test_headers_count_for_what_they_take_decoded() -> None:
    world = World.make(limits={"max_inflight_bytes": 1 << 20})
    world.greet()
    items: list[tuple[int, list[tuple[int, int]]]] = [(lease, []) for lease in range(10_000)]
    world.send(Ack(2, queue="orders", partition=0, group="default", items=items))
    assert world.session.is_full
    world.backend.take(AckRequest)[2](SettleReply(()))
    assert not world.session.is_full


def test_pongs_that_nobody_takes_stop_the_reading_of_more() -> None:
    world = World.make(limits={"max_reply_bytes": 1 << 20})
    world.greet()
    sent = 0
    while not world.session.is_full:
        world.send(*[Ping(rid) for rid in range(1, 1_001)])
        sent += 1_000
    # Each takes 160 bytes beside its own 11, and half of the bound is for them.
    assert sent * 171 <= (1 << 19) + 171 * 1_000
    assert len(world.replies()) == sent
    assert not world.session.is_full


async def test_questions_to_many_partitions_take_turns(autojump_clock: object) -> None:
    world = World.make()
    world.greet()
    running = most = 0

    async def ask_leader(group: GroupId, request: object) -> StateReply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.1)
        running -= 1
        return StateReply(Offset(0), Offset(0), 0, ())

    world.backend.ask_leader = ask_leader  # type: ignore[method-assign]  # counts what runs at a time
    for rid in range(2, 42):
        world.send(DescribeQueue(rid, name="orders"))
    async with trio.open_nursery() as nursery:
        for work, args in world.transport.tasks:
            nursery.start_soon(work, *args)
    assert most == MAX_WORKS
    assert len(world.replies()) == 40


def test_more_waiting_receives_than_the_node_takes_are_overloaded() -> None:
    world = World.make(limits={"max_waiting_receives": 1})
    world.greet()
    world.send(receive(2))
    world.send(receive(3))
    assert expect(Error, world.only_reply()).code == "overloaded"
    assert world.service.measures.waiting_receives == 1


def test_too_many_outstanding_requests_end_the_connection() -> None:
    world = World.make(limits={"max_inflight_requests": 2})
    world.greet()
    for rid in (2, 3, 4):
        world.send(Produce(rid, queue="orders", partition=0), body=b"batch")
    assert code_of(world.session) is CloseCode.BAD_REQUEST


def test_after_the_last_word_nothing_is_taken_and_late_answers_are_dropped() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    _, _, answer = world.backend.take(ProduceRequest)
    world.session.take(b"\x00\x00\x00\x00garbage")
    assert code_of(world.session) is CloseCode.BAD_REQUEST
    answer(ProduceReply(Offset(0), 1, 1))
    world.session.take(b"more")
    assert [reply.rid for reply, _ in world.replies()] == [0]


# --- time ---


def test_a_write_that_is_not_decided_in_time_is_unknown_and_its_late_answer_is_dropped() -> None:
    world = World.make(timeouts={"request_ms": 1_000})
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    _, _, answer = world.backend.take(ProduceRequest)
    world.clock[0] += 0.9
    world.session.check()
    assert world.replies() == []
    world.clock[0] += 0.2
    world.session.check()
    assert expect(Error, world.only_reply()).code == UnknownOutcomeError.code
    answer(ProduceReply(Offset(0), 1, 1))
    assert world.replies() == []
    assert world.session.outstanding_count == 0


def test_a_receive_may_last_its_wait_longer_than_a_write() -> None:
    world = World.make(timeouts={"request_ms": 1_000})
    world.greet()
    world.send(receive(2, wait_ms=5_000))
    world.clock[0] += 5.5
    world.session.check()
    assert world.replies() == []
    world.clock[0] += 0.6
    world.session.check()
    assert expect(Error, world.only_reply()).code == "unavailable"


def test_a_client_that_is_silent_for_long_is_closed_and_one_that_pings_is_not() -> None:
    world = World.make()
    world.greet()
    for _ in range(5):
        world.clock[0] += 30
        world.send(Ping(0x7FFF))
        assert isinstance(world.only_reply(), Pong)
        world.session.check()
    assert code_of(world.session) is None
    world.clock[0] += 60
    world.session.check()
    assert code_of(world.session) is CloseCode.TIMEOUT


def test_a_message_that_nobody_takes_for_long_makes_the_connection_stuck() -> None:
    world = World.make()
    world.greet()
    world.session.sending_since_s = world.clock[0]
    world.clock[0] += 29
    assert not world.session.is_stuck()
    world.clock[0] += 1
    assert world.session.is_stuck()


# --- the end ---


def test_a_node_that_stops_answers_everybody() -> None:
    world = World.make()
    world.greet()
    world.send(receive(2))
    world.send(Produce(3, queue="orders", partition=0), body=b"batch")
    world.service.is_stopping = True
    world.session.stop_waiting()
    assert expect(Error, world.only_reply()).code == "shutting_down"
    world.send(Produce(4, queue="orders", partition=0), body=b"batch")
    assert expect(Error, world.only_reply()).code == "shutting_down"
    world.session.shut_down()
    error = expect(Error, world.only_reply())
    assert (error.rid, error.code) == (3, "unknown")
    assert code_of(world.session) is CloseCode.GOING_AWAY


def test_a_mistake_in_an_answer_ends_the_connection_and_not_the_node(caplog: pytest.LogCaptureFixture) -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    world.backend.take(ProduceRequest)[2]("nonsense")  # type: ignore[arg-type]  # that is the mistake
    assert code_of(world.session) is CloseCode.SERVER_ERROR
    assert "answer_failed" in caplog.text


def test_the_same_node_id_in_the_error_and_in_the_catalogue_is_no_leader_at_all() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0), body=b"batch")
    world.backend.take(ProduceRequest)[2](NotLeaderError("an election", leader=None))
    error = expect(Error, world.only_reply())
    assert (error.leader_node, error.leader_url) == (0, "")
    assert NodeId(1) == world.backend.node
