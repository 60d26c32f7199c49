"""What a partition answers: each request, its bad forms, its repeats, and what waits when leadership ends."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import (
    AlreadyExistsError,
    CorruptBatchError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerFencedError,
    RequestTooLargeError,
    StaleLeaseError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import DEFAULT_GROUP, GroupName, LeaseId, NodeId, Offset, ReplicaId
from logbroker.node import key_index
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.node.requests import (
    AckRequest,
    CancelRequest,
    CountTarget,
    CreateGroupRequest,
    DeadRange,
    DeadReply,
    DeadRequest,
    DeleteGroupRequest,
    EarliestTarget,
    ExtendRequest,
    GroupReply,
    LatestTarget,
    NackRequest,
    OffsetTarget,
    PauseRequest,
    PeekRequest,
    ProduceReply,
    ProduceRequest,
    PurgeReply,
    PurgeRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    Request,
    ResumeRequest,
    ReviveReply,
    ReviveRequest,
    RewindReply,
    RewindRequest,
    SettleReply,
    StateReply,
    StateRequest,
    TimeTarget,
)
from logbroker.partition import decide
from logbroker.partition.commands import Cause
from logbroker.partition.decide import DecisionLimits
from logbroker.partition.failures import FailurePolicy
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.ordering import order_policy
from logbroker.record.batch import BatchLimits, Codec, Record, decode_batch, encode_batch
from logbroker.record.checksum import crc32c
from tests.unit.node.engine_kit import ENGINE, STORE, KitCluster, batch, ranges_of, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.peer_messages import PeerMessage

OTHER = GroupName("other")
NOBODY = GroupName("nobody")


def single(**options: object) -> KitCluster:
    cluster = KitCluster(1, **options)  # type: ignore[arg-type]  # handed on as they are
    cluster.elect()
    return cluster


def filled(count: int = 10, *, size: int = 40) -> KitCluster:
    """Messages 0..count-1, one a batch, one a tick."""
    cluster = single()
    for number in range(count):
        cluster.produce(*values(1, start=number, size=size))
        cluster.tick()
    return cluster


def now_ms(cluster: KitCluster) -> int:
    return cluster.leader.replica.stamp_ms()


def receive(group: str = DEFAULT_GROUP, *, count: int = 100, hide_ms: int = 5_000, **fields: int) -> ReceiveRequest:
    return ReceiveRequest(GroupName(group), count, hide_ms, **fields)  # type: ignore[arg-type]  # ints all of them


# Bad input: a named error, and nothing has changed.

RANGES = ((0, 2),)
BAD: list[tuple[Request, type[LogBrokerError]]] = [
    (ProduceRequest(b""), CorruptBatchError),
    (ProduceRequest(b"x" * 200), CorruptBatchError),
    (ProduceRequest(batch(b"a")[:-1] + b"!"), CorruptBatchError),
    (ProduceRequest(batch(*values(20, size=2000))), RequestTooLargeError),
    (ProduceRequest(batch(b"a", producer=77, sequence=5)), OutOfOrderSequenceError),
    (ProduceRequest(batch(b"a", producer=7, sequence=4)), OutOfOrderSequenceError),
    (
        ProduceRequest(encode_batch([Record(b"a")], producer_id=8, producer_epoch=0, base_sequence=2)),
        ProducerFencedError,
    ),
    (ProduceRequest(batch(b"a"), 1, 1), InvalidArgumentError),
    (ProduceRequest(batch(b"a"), 1 << 60), InvalidArgumentError),
    (ProduceRequest(batch(b"a"), 0, 1 << 60), InvalidArgumentError),
    (CancelRequest(()), InvalidArgumentError),
    (CancelRequest(((0, 99),)), OffsetOutOfRangeError),
    (receive(NOBODY), NotFoundError),
    (receive(count=0), InvalidArgumentError),
    (receive(count=1_001), InvalidArgumentError),
    (receive(hide_ms=999), InvalidArgumentError),
    (receive(hide_ms=43_200_001), InvalidArgumentError),
    (receive(wait_ms=-1), InvalidArgumentError),
    (receive(wait_ms=30_001), InvalidArgumentError),
    (receive(max_bytes=0), InvalidArgumentError),
    (receive(session=-1), InvalidArgumentError),
    (ReceiveRequest(DEFAULT_GROUP, 1, 5_000, consumer="c" * 257), InvalidArgumentError),
    (AckRequest(NOBODY, ((LeaseId(1), RANGES),)), NotFoundError),
    (AckRequest(DEFAULT_GROUP, ((LeaseId(0), RANGES),)), InvalidArgumentError),
    (AckRequest(DEFAULT_GROUP, ((LeaseId(5), ()),)), InvalidArgumentError),
    (AckRequest(DEFAULT_GROUP, ((LeaseId(5), ((2, 2),)),)), InvalidArgumentError),
    (AckRequest(DEFAULT_GROUP, ((LeaseId(5), ((0, 99),)),)), OffsetOutOfRangeError),
    (NackRequest(DEFAULT_GROUP, ((LeaseId(5), RANGES),), delay_ms=-1), InvalidArgumentError),
    (NackRequest(DEFAULT_GROUP, ((LeaseId(5), RANGES),), reason="r" * 257), InvalidArgumentError),
    (RejectRequest(NOBODY, ((LeaseId(5), RANGES),)), NotFoundError),
    (RejectRequest(DEFAULT_GROUP, ((LeaseId(0), RANGES),)), InvalidArgumentError),
    (RejectRequest(DEFAULT_GROUP, ((LeaseId(5), RANGES),), reason="r" * 257), InvalidArgumentError),
    (DeadRequest(NOBODY), NotFoundError),
    (DeadRequest(DEFAULT_GROUP, -1), InvalidArgumentError),
    (DeadRequest(DEFAULT_GROUP, max_count=0), InvalidArgumentError),
    (DeadRequest(DEFAULT_GROUP, max_count=101), InvalidArgumentError),
    (PeekRequest(NOBODY, EarliestTarget(), 1), NotFoundError),
    (PeekRequest(DEFAULT_GROUP, EarliestTarget(), 0), InvalidArgumentError),
    (PeekRequest(DEFAULT_GROUP, EarliestTarget(), 1_001), InvalidArgumentError),
    (PeekRequest(DEFAULT_GROUP, EarliestTarget(), 1, max_bytes=0), InvalidArgumentError),
    (PeekRequest(DEFAULT_GROUP, CountTarget(-1), 1), InvalidArgumentError),
    (ReviveRequest(NOBODY, RANGES), NotFoundError),
    (ReviveRequest(DEFAULT_GROUP, ()), InvalidArgumentError),
    (ReviveRequest(DEFAULT_GROUP, ((0, 99),)), OffsetOutOfRangeError),
    (ExtendRequest(DEFAULT_GROUP, ((LeaseId(5), RANGES),), 10), InvalidArgumentError),
    (ReleaseRequest(DEFAULT_GROUP, LeaseId(5)), StaleLeaseError),
    (ReleaseRequest(NOBODY, LeaseId(5)), NotFoundError),
    (RewindRequest(NOBODY, 1, EarliestTarget()), NotFoundError),
    (RewindRequest(DEFAULT_GROUP, 0, EarliestTarget()), InvalidArgumentError),
    (RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(99))), OffsetOutOfRangeError),
    (RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(-1))), OffsetOutOfRangeError),
    (RewindRequest(DEFAULT_GROUP, 1, CountTarget(-1)), InvalidArgumentError),
    (RewindRequest(DEFAULT_GROUP, 1, TimeTarget(1 << 50)), InvalidArgumentError),
    (CreateGroupRequest(DEFAULT_GROUP, EarliestTarget()), AlreadyExistsError),
    (CreateGroupRequest(GroupName("bad name"), EarliestTarget()), InvalidArgumentError),
    (CreateGroupRequest(OTHER, OffsetTarget(Offset(-5))), InvalidArgumentError),
    (DeleteGroupRequest(DEFAULT_GROUP), InvalidArgumentError),
    (DeleteGroupRequest(NOBODY), NotFoundError),
    (PauseRequest(NOBODY), NotFoundError),
    (PauseRequest(DEFAULT_GROUP, "r" * 257), InvalidArgumentError),
    (PauseRequest(DEFAULT_GROUP, "", 999), InvalidArgumentError),
    (PauseRequest(DEFAULT_GROUP, "", -1_000), InvalidArgumentError),
    (PauseRequest(DEFAULT_GROUP, "", 1_296_000_001), InvalidArgumentError),
    (ResumeRequest(NOBODY), NotFoundError),
    (PurgeRequest(NOBODY, 1), NotFoundError),
    (PurgeRequest(DEFAULT_GROUP, -1), InvalidArgumentError),
    (PurgeRequest(DEFAULT_GROUP, 1 << 63), InvalidArgumentError),
]


@pytest.mark.parametrize(("request_", "error"), BAD, ids=[f"{place}" for place in range(len(BAD))])
def test_bad_input_gets_a_named_error_and_changes_nothing(request_: Request, error: type[LogBrokerError]) -> None:
    cluster = single(limits=BatchLimits(max_batch_bytes=16 << 10))
    cluster.produce(b"0", b"1", producer=7, sequence=0)
    cluster.ask(ProduceRequest(encode_batch([Record(b"2")], producer_id=8, producer_epoch=1, base_sequence=0)))
    before, index = cluster.leader.machine.digest(), cluster.leader.replica.core.last_index
    answer = cluster.ask(request_)
    if isinstance(request_, CreateGroupRequest) and isinstance(request_.start, OffsetTarget):
        assert isinstance(answer, GroupReply), "where a group begins is clamped"
        return
    assert isinstance(answer, error), repr(answer)
    assert answer.message
    assert (cluster.leader.machine.digest(), cluster.leader.replica.core.last_index) == (before, index)


# Produce.


def test_a_batch_is_answered_with_its_offsets_and_its_log_time() -> None:
    cluster = single()
    first, second = cluster.produce(b"a", b"b"), cluster.produce(b"c")
    assert (first.base_offset, first.count, second.base_offset, second.count) == (0, 2, 2, 1)
    (part,) = cluster.receive(1).parts
    assert (part.append_ms, part.base_offset) == (first.append_ms, 0)
    assert [record.value for record in decode_batch(part.batch)] == [b"a", b"b"]


def test_nothing_is_answered_before_it_is_durable() -> None:
    cluster = single()
    asked = cluster.submit(ProduceRequest(batch(b"a")))
    cluster.leader.engine.pump()
    job = cluster.leader.engine.next_commit()
    assert job is not None
    job.run()
    cluster.leader.engine.pump()
    assert asked.answer is None
    cluster.leader.engine.commit_done(job)
    cluster.leader.engine.pump()
    assert asked.reply(ProduceReply).base_offset == 0


def test_a_duplicate_in_flight_joins_and_both_are_answered_after_the_commit() -> None:
    cluster = single()
    first = cluster.submit(ProduceRequest(batch(b"a", producer=7, sequence=0)))
    again = cluster.submit(ProduceRequest(batch(b"a", producer=7, sequence=0)))
    cluster.leader.engine.pump()
    assert (first.answer, again.answer) == (None, None)
    cluster.settle()
    assert first.reply(ProduceReply) == replace(again.reply(ProduceReply), duplicate=False)
    assert again.reply(ProduceReply).duplicate
    assert cluster.leader.machine.next_offset == 1


def test_a_duplicate_of_what_is_committed_gets_the_first_answer() -> None:
    cluster = single()
    first = cluster.produce(b"a", b"b", producer=7, sequence=0)
    cluster.tick(5)
    assert cluster.produce(b"a", b"b", producer=7, sequence=0) == replace(first, duplicate=True)
    assert cluster.leader.machine.next_offset == 2


def test_a_duplicate_that_only_apply_finds_out_gets_the_log_time_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = single()
    first = cluster.produce(b"a", b"b", producer=7, sequence=0)
    cluster.tick(5)
    # As a leader of another version may decide that does not recognise it.
    monkeypatch.setattr(decide, "decide_produce", lambda *_, **__: decide.ProposeBatch(Offset(2), Offset(4)))
    assert cluster.produce(b"a", b"b", producer=7, sequence=0) == replace(first, duplicate=True)
    assert cluster.leader.machine.next_offset == 4
    assert cluster.leader.service.void_batches == 1


def test_too_much_in_flight_is_refused_and_leaves_no_trace() -> None:
    cluster = single(engine=replace(ENGINE, replica=replace(ENGINE.replica, max_uncommitted_bytes=1_000)))
    asked = [cluster.submit(ProduceRequest(batch(*values(1), producer=9, sequence=n))) for n in range(9)]
    last = cluster.leader.replica.core.last_index
    cluster.settle()
    taken = [one for one in asked if isinstance(one.answer, ProduceReply)]
    assert 0 < len(taken) < 9
    assert taken == asked[: len(taken)]
    refusal = asked[len(taken)].answer
    assert isinstance(refusal, LogBrokerError)
    assert refusal.retriable
    assert cluster.leader.replica.core.last_index == last
    assert cluster.produce(*values(1), producer=9, sequence=len(taken)).base_offset == len(taken)


# Receive.


def test_what_is_leased_is_hidden_until_its_time() -> None:
    cluster = filled(4)
    first = cluster.receive(3)
    assert ranges_of(first) == ((0, 3),)
    assert first.hide_left_ms == 5_000
    assert ranges_of(cluster.receive()) == ((3, 4),)
    assert cluster.receive().parts == ()
    cluster.tick(49)
    assert cluster.receive().parts == ()
    cluster.tick(3)
    again = cluster.receive()
    assert ranges_of(again) == ((0, 4),)
    assert {deliveries for part in again.parts for _, _, deliveries in part.ranges} == {2}


def test_a_repeated_receive_gets_the_same_lease_and_the_time_that_is_left() -> None:
    cluster = filled(4)
    request = receive(count=2, session=5, request_id=1)
    first = cluster.submit(request)
    joined = cluster.submit(request)
    cluster.settle()
    one = first.reply(ReceiveReply)
    assert joined.reply(ReceiveReply) == one
    cluster.tick(10)
    later = cluster.ask(request)
    assert isinstance(later, ReceiveReply)
    assert (later.lease, later.parts, later.visible_at_ms) == (one.lease, one.parts, one.visible_at_ms)
    assert later.hide_left_ms == one.hide_left_ms - 1_000
    other = cluster.ask(replace(request, request_id=2))
    assert isinstance(other, ReceiveReply)
    assert ranges_of(other) == ((2, 4),)


def test_a_repeat_after_the_hide_time_is_a_new_lease() -> None:
    cluster = filled(2)
    request = receive(session=5, request_id=1)
    first = cluster.ask(request)
    cluster.tick(52)
    second = cluster.ask(request)
    assert isinstance(first, ReceiveReply)
    assert isinstance(second, ReceiveReply)
    assert second.lease != first.lease
    assert {deliveries for part in second.parts for _, _, deliveries in part.ranges} == {2}


def test_a_long_poll_is_woken_when_a_message_is_committed() -> None:
    cluster = single()
    asked = cluster.submit(receive(wait_ms=10_000))
    cluster.settle()
    assert asked.answer is None
    cluster.submit(ProduceRequest(batch(b"a")))
    cluster.leader.engine.pump()
    assert asked.answer is None
    cluster.settle()
    assert ranges_of(asked.reply(ReceiveReply)) == ((0, 1),)
    assert cluster.leader.service.poll_count == 0


def test_a_long_poll_ends_at_its_deadline_and_not_before() -> None:
    cluster = single()
    asked = cluster.submit(receive(wait_ms=1_000))
    cluster.tick(9)
    assert asked.answer is None
    cluster.tick(1)
    assert asked.reply(ReceiveReply).parts == ()
    assert cluster.leader.service.poll_count == 0


def test_a_partition_is_left_alone_again_after_its_last_long_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = single()
    looks: list[int] = []
    monkeypatch.setattr(PartitionService, "_tidy", lambda *_: looks.append(1))
    ended = cluster.submit(receive(wait_ms=1_000))
    gone = cluster.submit(receive(wait_ms=60_000))
    cluster.leader.service.forget(gone.answers.append)
    cluster.tick(10)
    assert ended.reply(ReceiveReply).parts == ()
    looks.clear()
    cluster.tick(120)
    assert 2 <= len(looks) <= 3, "every five seconds; a tick is 100 ms"


def test_long_polls_are_served_in_the_order_they_came() -> None:
    cluster = single()
    asked = [cluster.submit(receive(count=1, wait_ms=10_000)) for _ in range(3)]
    cluster.produce(b"a", b"b")
    assert [ranges_of(one.reply(ReceiveReply)) for one in asked[:2]] == [((0, 1),), ((1, 2),)]
    assert asked[2].answer is None


@pytest.mark.parametrize("how", ["expire", "nack", "delay", "release", "rewind"])
def test_a_long_poll_is_woken_by_whatever_makes_a_message_available(how: str) -> None:
    cluster = filled(1)
    held = cluster.receive()
    asked = cluster.submit(receive(wait_ms=20_000))
    cluster.settle()
    assert asked.answer is None
    items = ((held.lease, ((0, 1),)),)
    if how == "nack":
        cluster.ask(NackRequest(DEFAULT_GROUP, items))
    elif how == "delay":
        cluster.ask(NackRequest(DEFAULT_GROUP, items, delay_ms=2_000))
        cluster.tick(19)
        assert asked.answer is None
        cluster.tick(3)
    elif how == "release":
        cluster.ask(ReleaseRequest(DEFAULT_GROUP, held.lease))
    elif how == "rewind":
        cluster.ask(RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()))
    else:
        cluster.tick(52)
    (part,) = asked.reply(ReceiveReply).parts
    assert part.ranges == ((0, 1, 1 if how in ("release", "rewind") else 2),)


def test_a_long_poll_of_a_deleted_group_is_told() -> None:
    cluster = single()
    cluster.ask(CreateGroupRequest(OTHER, EarliestTarget()))
    asked = cluster.submit(receive(OTHER, wait_ms=20_000))
    cluster.ask(DeleteGroupRequest(OTHER))
    cluster.tick()
    assert isinstance(asked.answer, NotFoundError)


def test_a_long_poll_of_a_client_that_is_gone_leases_nothing() -> None:
    cluster = single()
    service = cluster.leader.service
    gone, stays = [cluster.submit(receive(count=1, wait_ms=1_000)) for _ in range(2)]
    service.forget(gone.answers.append)
    cluster.produce(b"a")
    assert gone.answer is None
    assert ranges_of(stays.reply(ReceiveReply)) == ((0, 1),)
    late = cluster.submit(receive(wait_ms=1_000))
    service.forget(late.answers.append)
    assert service.poll_count == 1
    cluster.tick(1)
    assert service.poll_count == 0
    cluster.tick(20)
    assert (gone.answer, late.answer) == (None, None)
    # Who was never in the line is not remembered either.
    service.forget(stays.answers.append)
    last = cluster.submit(receive(wait_ms=1_000))
    cluster.tick(52)
    assert ranges_of(last.reply(ReceiveReply)) == ()
    assert ranges_of(cluster.receive()) == ((0, 1),)


def test_a_lease_keeps_to_its_bytes_and_gives_at_least_one_batch() -> None:
    cluster = filled(30)
    size = len(cluster.receive(1, hide_ms=1_000).parts[0].batch)
    cluster.tick(13)
    for limit, count in ((1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (10 * size, 10), (1 << 20, 30)):
        found = cluster.receive(hide_ms=1_000, max_bytes=limit)
        assert ranges_of(found) == ((0, count),), limit
        cluster.tick(13)


def test_a_bound_in_bytes_is_kept_over_several_ranges() -> None:
    cluster = filled(30)
    first = cluster.receive()
    cluster.ack(first.lease, (10, 20))
    cluster.ask(NackRequest(DEFAULT_GROUP, ((first.lease, ((0, 10), (20, 30))),)))
    again = cluster.receive(max_bytes=len(first.parts[0].batch) * 10)
    assert ranges_of(again) == ((0, 10),)
    assert ranges_of(cluster.receive(max_bytes=len(first.parts[0].batch) * 10)) == ((20, 30),)


def test_a_batch_of_which_little_is_leased_is_packed_again() -> None:
    cluster = single(store=replace(STORE, wal=replace(STORE.wal, file_bytes=1 << 20)))
    cluster.produce(*values(100, size=2_000))
    lease = cluster.receive()
    (whole,) = lease.parts
    assert not whole.repacked
    cluster.ack(lease.lease, (1, 50), (51, 100))
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease.lease, ((0, 1), (50, 51))),)))
    (part,) = cluster.receive().parts
    assert part.repacked
    assert part.ranges == ((0, 1, 2), (50, 51, 2))
    assert len(part.batch) < 10_000
    records = decode_batch(part.batch)
    assert [record.value for record in records] == [values(1, size=2_000)[0], values(1, start=50, size=2_000)[0]]


def test_a_batch_of_which_most_is_leased_goes_as_it_is() -> None:
    cluster = filled(0)
    cluster.produce(*values(10))
    lease = cluster.receive()
    cluster.ack(lease.lease, (1, 5))
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease.lease, ((0, 1), (5, 10))),)))
    (part,) = cluster.receive().parts
    assert (part.repacked, part.ranges) == (False, ((0, 1, 2), (5, 10, 2)))


# Settle.


@pytest.mark.parametrize("settle", [AckRequest, NackRequest, RejectRequest])
def test_what_the_operator_bounds_is_refused_with_his_bound(settle: Callable[..., Request]) -> None:
    cluster = single(decision_limits=DecisionLimits(max_receive_count=4, max_ranges_per_change=1))
    cluster.produce(*values(9))
    lease = cluster.receive(4).lease
    before = cluster.leader.machine.digest()
    refused = cluster.ask(settle(DEFAULT_GROUP, ((lease, ((0, 1), (2, 3))),)))
    assert isinstance(refused, RequestTooLargeError)
    assert "2 ranges in one request; the most is 1" in refused.message
    assert isinstance(cluster.ask(receive(count=5)), InvalidArgumentError)
    assert cluster.leader.machine.digest() == before
    assert isinstance(cluster.ask(settle(DEFAULT_GROUP, ((lease, ((0, 1),)),))), SettleReply)


def test_an_ack_is_done_once_and_true_for_ever() -> None:
    cluster = filled(4)
    lease = cluster.receive().lease
    first = cluster.ack(lease, (0, 2))
    assert [(one.done_count, one.already) for one in first.results] == [(2, ())]
    again = cluster.ack(lease, (0, 3))
    assert [(one.done_count, one.already) for one in again.results] == [(1, ((0, 2),))]


def test_acks_in_flight_do_not_answer_before_the_first_is_committed() -> None:
    cluster = filled(2)
    lease = cluster.receive().lease
    request = AckRequest(DEFAULT_GROUP, ((lease, ((0, 2),)),))
    first, again = cluster.submit(request), cluster.submit(request)
    cluster.leader.engine.pump()
    assert (first.answer, again.answer) == (None, None)
    cluster.settle()
    assert first.reply(SettleReply).results[0].done_count == 2
    assert again.reply(SettleReply).results[0].already == ((0, 2),)


def test_a_stale_item_does_not_spoil_the_others_of_its_request() -> None:
    cluster = filled(4)
    old = cluster.receive(2, hide_ms=1_000).lease
    cluster.tick(13)
    current = cluster.receive(2).lease
    reply = cluster.ask(
        AckRequest(DEFAULT_GROUP, ((old, ((0, 2),)), (current, ((0, 1),)), (LeaseId(99 << 16), ((0, 1),))))
    )
    assert isinstance(reply, SettleReply)
    assert [(one.lease, one.done_count, one.stale) for one in reply.results] == [
        (old, 0, ((0, 2),)),
        (current, 1, ()),
        (LeaseId(99 << 16), 0, ((0, 1),)),
    ]


def test_a_request_of_stale_items_alone_is_answered_too() -> None:
    cluster = filled(1)
    reply = cluster.ack(LeaseId(99 << 16), (0, 1))
    assert [(one.done_count, one.stale) for one in reply.results] == [(0, ((0, 1),))]


def test_a_late_ack_counts_while_the_lease_was_not_ended() -> None:
    cluster = filled(1)
    lease = cluster.receive(hide_ms=1_000).lease
    cluster.now_ns += 3_000_000_000
    assert cluster.ack(lease, (0, 1)).results[0].done_count == 1


def test_an_extension_hides_longer() -> None:
    cluster = filled(1)
    lease = cluster.receive(hide_ms=1_000).lease
    reply = cluster.ask(ExtendRequest(DEFAULT_GROUP, ((lease, ((0, 1),)),), 5_000))
    assert isinstance(reply, SettleReply)
    assert reply.results[0].done_count == 1
    cluster.tick(45)
    assert cluster.receive().parts == ()
    assert cluster.ack(lease, (0, 1)).results[0].done_count == 1


def test_a_released_lease_did_not_count() -> None:
    cluster = filled(1)
    lease = cluster.receive().lease
    reply = cluster.ask(ReleaseRequest(DEFAULT_GROUP, lease))
    assert isinstance(reply, SettleReply)
    assert reply.results[0].done_count == 1
    assert cluster.receive().parts[0].ranges == ((0, 1, 1),)


# Rewind and groups.


def moved(
    cluster: KitCluster, target: object, *, forward: bool = False, clamp: bool = False, rewind: int = 1
) -> RewindReply:
    reply = cluster.ask(RewindRequest(DEFAULT_GROUP, rewind, target, forward=forward, clamp=clamp))  # type: ignore[arg-type]
    assert isinstance(reply, RewindReply), repr(reply)
    return reply


def acked(count: int = 10) -> KitCluster:
    cluster = filled(count)
    cluster.ack(cluster.receive().lease, (0, count))
    return cluster


def times_of(cluster: KitCluster) -> list[int]:
    log = cluster.leader.replica.log
    return [one.append_ms for one in log.data_from(Offset(0), max_bytes=1 << 20)]


@pytest.mark.parametrize(
    ("target", "start"),
    [
        (EarliestTarget(), 0),
        (OffsetTarget(Offset(4)), 4),
        (OffsetTarget(Offset(10)), 10),
        (CountTarget(3), 7),
        (CountTarget(0), 10),
        (LatestTarget(), 10),
        (CountTarget(99), 0),
    ],
)
def test_a_rewind_goes_to_what_its_target_names(target: object, start: int) -> None:
    cluster = acked()
    reply = moved(cluster, target)
    assert (reply.start_offset, reply.moved_count) == (start, 10 - start)
    assert ranges_of(cluster.receive()) == (((start, 10),) if start < 10 else ())
    assert reply.start_ms == ([*times_of(cluster), 0])[start]


def test_a_rewind_to_a_time_begins_at_the_first_message_of_that_time() -> None:
    cluster = acked()
    times = times_of(cluster)
    for rewind, (ms, start) in enumerate(
        [(times[3], 3), (times[3] + 1, 4), (times[3] - 1, 3), (times[9] + 1, 10), (0, 0)]
    ):
        assert moved(cluster, TimeTarget(ms), rewind=rewind + 1).start_offset == start
    now = now_ms(cluster)
    assert moved(cluster, TimeTarget(times[6] - now), rewind=9).start_offset == 6


def test_a_rewind_to_a_time_sees_what_is_in_flight() -> None:
    """Between two batches that are proposed and not yet durable."""
    cluster = filled(2)
    first = cluster.submit(ProduceRequest(batch(b"x")))
    cluster.now_ns += 50_000_000
    between = now_ms(cluster) - 20
    second = cluster.submit(ProduceRequest(batch(b"y")))
    rewind = cluster.submit(RewindRequest(DEFAULT_GROUP, 1, TimeTarget(between)))
    behind = cluster.submit(RewindRequest(DEFAULT_GROUP, 2, TimeTarget(now_ms(cluster) + 1), clamp=True))
    assert (first.answer, rewind.answer) == (None, None)
    cluster.settle()
    assert second.reply(ProduceReply).base_offset == 3
    assert rewind.reply(RewindReply).start_offset == 3
    assert behind.reply(RewindReply).start_offset == 4


def test_a_repeated_rewind_answers_what_the_first_did() -> None:
    cluster = acked()
    first = moved(cluster, OffsetTarget(Offset(4)))
    cluster.ack(cluster.receive().lease, (4, 10))
    assert moved(cluster, OffsetTarget(Offset(0))) == first
    assert cluster.receive().parts == ()


def test_a_skip_acks_what_lies_before_its_target() -> None:
    cluster = filled(10)
    reply = moved(cluster, OffsetTarget(Offset(6)), forward=True)
    assert (reply.start_offset, reply.moved_count) == (6, 6)
    assert ranges_of(cluster.receive()) == ((6, 10),)


def test_one_id_is_not_both_a_rewind_and_a_skip() -> None:
    cluster = filled(10)
    moved(cluster, OffsetTarget(Offset(6)), forward=True)
    answer = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()))
    assert isinstance(answer, InvalidArgumentError)


def test_a_target_outside_of_the_log_is_clamped_where_that_is_asked_for() -> None:
    cluster = filled(10)
    assert moved(cluster, OffsetTarget(Offset(99)), clamp=True).start_offset == 10
    assert moved(cluster, OffsetTarget(Offset(-5)), clamp=True, rewind=2).start_offset == 0
    assert moved(cluster, TimeTarget(1 << 50), clamp=True, rewind=3).start_offset == 10


def test_a_group_begins_where_it_is_told() -> None:
    cluster = filled(10)
    reply = cluster.ask(CreateGroupRequest(OTHER, CountTarget(3)))
    assert reply == GroupReply(OTHER, Offset(7))
    lease = cluster.ask(receive(OTHER))
    assert isinstance(lease, ReceiveReply)
    assert ranges_of(lease) == ((7, 10),)
    assert cluster.ask(DeleteGroupRequest(OTHER)) == GroupReply(OTHER, Offset(0))
    assert isinstance(cluster.ask(receive(OTHER)), NotFoundError)


def test_a_group_that_is_being_made_exists_for_the_next_request() -> None:
    cluster = filled(1)
    made = cluster.submit(CreateGroupRequest(OTHER, EarliestTarget()))
    leased = cluster.submit(receive(OTHER))
    twice = cluster.submit(CreateGroupRequest(OTHER, EarliestTarget()))
    cluster.settle()
    assert made.reply(GroupReply).start_offset == 0
    assert ranges_of(leased.reply(ReceiveReply)) == ((0, 1),)
    assert isinstance(twice.answer, AlreadyExistsError)


def test_the_state_says_what_each_group_has() -> None:
    cluster = filled(10)
    lease = cluster.receive(4).lease
    cluster.ack(lease, (0, 1), (2, 3))
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease, ((1, 2),)),), delay_ms=9_000))
    state = cluster.ask(StateRequest())
    assert isinstance(state, StateReply)
    (group,) = state.groups
    assert (state.log_start, state.log_end) == (0, 10)
    assert (group.available, group.leased, group.delayed, group.acked_ahead) == (6, 1, 1, 1)
    assert (group.oldest_offset, group.oldest_ms) == (1, times_of(cluster)[1])


def test_the_state_of_an_empty_partition_has_no_oldest_message() -> None:
    state = single().ask(StateRequest())
    assert isinstance(state, StateReply)
    assert (state.log_end, [group.oldest_ms for group in state.groups]) == (0, [0])


# Failure.


def with_policy(count: int, **policy: int) -> KitCluster:
    cluster = single(settings=PartitionSettings(failures=FailurePolicy(**policy, jitter=0.0)))
    cluster.produce(*values(count))
    return cluster


def rows(cluster: KitCluster, **asked: int) -> tuple[DeadRange, ...]:
    reply = cluster.ask(DeadRequest(DEFAULT_GROUP, **asked))
    assert isinstance(reply, DeadReply)
    return reply.rows


def test_the_dead_are_listed_with_why_they_died_page_by_page() -> None:
    cluster = with_policy(6, max_deliveries=1)
    first = cluster.ask(receive(count=3))
    assert isinstance(first, ReceiveReply)
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((first.lease, ((0, 1),)),), reason="no account"))
    rejected_ms = cluster.leader.replica.machine.append_ms
    cluster.ask(NackRequest(DEFAULT_GROUP, ((first.lease, ((1, 2),)),), delay_ms=500, reason="timeout"))
    cluster.tick(60)
    found = rows(cluster)
    assert [(row.start, row.end, row.deliveries, row.cause, row.reason) for row in found] == [
        (0, 1, 1, Cause.REJECTED, "no account"),
        (1, 2, 1, Cause.MAX_DELIVERIES, "timeout"),
        (2, 3, 1, Cause.MAX_DELIVERIES, ""),
    ]
    assert {row.consumer for row in found} == {""}
    assert found[0].buried_at_ms == rejected_ms
    assert rows(cluster, max_count=1) == found[:1]
    assert rows(cluster, start_offset=1, max_count=1) == found[1:2]
    assert rows(cluster, start_offset=3) == ()
    state = cluster.ask(StateRequest())
    assert isinstance(state, StateReply)
    assert (state.groups[0].dead, state.groups[0].available, state.groups[0].oldest_offset) == (3, 3, 3)


def test_a_row_of_the_dead_names_the_consumer_that_held_it_last() -> None:
    cluster = with_policy(2, max_deliveries=1)
    taken = cluster.ask(ReceiveRequest(DEFAULT_GROUP, 2, 1_000, consumer="till-3"))
    assert isinstance(taken, ReceiveReply)
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((taken.lease, ((0, 1),)),)))
    cluster.tick(20)
    assert [(row.cause, row.consumer) for row in rows(cluster)] == [
        (Cause.REJECTED, "till-3"),
        (Cause.MAX_DELIVERIES, "till-3"),
    ]


def test_a_nack_by_policy_waits_and_then_buries() -> None:
    cluster = with_policy(1, max_deliveries=2, backoff_ms=2_000)
    for _ in range(2):
        assert cluster.ask(receive(wait_ms=0)) is not None
        lease = cluster.leader.replica.machine.group(DEFAULT_GROUP).table.at(0).lease  # type: ignore[attr-defined]
        reply = cluster.ask(NackRequest(DEFAULT_GROUP, ((LeaseId(lease), ((0, 1),)),), delay_ms=None))
        assert isinstance(reply, SettleReply)
        assert reply.results[0].done_count == 1
        nothing = cluster.ask(receive(wait_ms=0))
        assert isinstance(nothing, ReceiveReply)
        assert nothing.parts == ()
        cluster.tick(25)
    assert [row.deliveries for row in rows(cluster)] == [2]


def test_a_nack_that_buries_some_is_answered_once_for_all() -> None:
    cluster = with_policy(4, max_deliveries=2)
    lease = cluster.receive(2).lease
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease, ((0, 2),)),)))
    lease = cluster.receive(4).lease
    reply = cluster.ask(NackRequest(DEFAULT_GROUP, ((lease, ((0, 3),)), (lease, ((3, 4),)))))
    assert isinstance(reply, SettleReply)
    assert [(result.lease, result.done_count, result.stale) for result in reply.results] == [
        (lease, 3, ()),
        (lease, 1, ()),
    ]
    assert [(row.start, row.end) for row in rows(cluster)] == [(0, 2)]


def test_nothing_begins_or_fails_while_the_policy_is_not_known() -> None:
    cluster = with_policy(2, max_deliveries=1)
    lease = cluster.receive(1).lease
    service = cluster.leader.service
    known, service.settings = service.settings, PartitionSettings(failures=None)
    cluster.tick(80)
    items = ((lease, ((0, 1),)),)
    for request in (receive(), receive(wait_ms=1_000), NackRequest(DEFAULT_GROUP, items)):
        assert isinstance(cluster.submit(request).answer, UnavailableError)
    machine = cluster.leader.replica.machine
    assert isinstance(machine, PartitionMachine)
    assert machine.status(DEFAULT_GROUP).leased_count == 1
    service.settings = known
    cluster.tick(2)
    assert [(row.start, row.cause) for row in rows(cluster)] == [(0, Cause.MAX_DELIVERIES)]


def test_what_is_revived_wakes_whoever_waits() -> None:
    cluster = with_policy(1)
    held = cluster.receive()
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((held.lease, ((0, 1),)),)))
    asked = cluster.submit(receive(wait_ms=20_000))
    cluster.settle()
    assert asked.answer is None
    assert cluster.ask(ReviveRequest(DEFAULT_GROUP, ((0, 1),))) == ReviveReply(1)
    cluster.settle()
    assert ranges_of(asked.reply(ReceiveReply)) == ((0, 1),)
    assert cluster.ask(ReviveRequest(DEFAULT_GROUP, ((0, 1),))) == ReviveReply(0)
    assert rows(cluster) == ()


# Order.


def keyed(*letters: str) -> KitCluster:
    """Ordered by key, with batches of messages that have these keys."""
    cluster = single(settings=PartitionSettings(order=order_policy(0, by_key=True, blocks=True)))
    for batch_letters in letters:
        produce_keys(cluster, batch_letters)
    return cluster


def produce_keys(cluster: KitCluster, letters: str) -> None:
    records = [Record(b"v" * 40, None if letter == "-" else letter.encode()) for letter in letters]
    assert isinstance(cluster.ask(ProduceRequest(encode_batch(records))), ProduceReply)


def test_a_key_in_flight_is_passed_over_within_batches_and_between_them() -> None:
    cluster = keyed("aab", "ab-", "ca")
    first = cluster.receive(1)
    assert ranges_of(first) == ((0, 1),)
    second = cluster.receive()
    assert ranges_of(second) == ((2, 3), (4, 7))
    assert [(part.base_offset, [share[:2] for share in part.ranges]) for part in second.parts] == [
        (0, [(2, 3)]),
        (3, [(4, 6)]),
        (6, [(6, 7)]),
    ]
    cluster.ack(first.lease, (0, 1))
    assert ranges_of(cluster.receive()) == ((1, 2), (3, 4), (7, 8))


def test_what_is_settled_wakes_whoever_waits_for_its_key_or_for_room() -> None:
    for cluster in (keyed("aa"), single(settings=PartitionSettings(order=order_policy(1, by_key=False, blocks=True)))):
        if not cluster.leader.machine.next_offset:
            cluster.produce(*values(2))
        held = cluster.receive(1)
        asked = cluster.submit(receive(wait_ms=20_000))
        cluster.settle()
        assert asked.answer is None
        cluster.ack(held.lease, (0, 1))
        cluster.settle()
        assert ranges_of(asked.reply(ReceiveReply)) == ((1, 2),)


def test_another_order_wakes_whoever_waits() -> None:
    cluster = keyed("aa")
    cluster.receive(1)
    asked = cluster.submit(receive(wait_ms=20_000))
    cluster.settle()
    assert asked.answer is None
    cluster.leader.service.settings = PartitionSettings()
    cluster.tick()
    assert ranges_of(asked.reply(ReceiveReply)) == ((1, 2),)


def test_nothing_begins_while_the_order_is_not_known() -> None:
    cluster = keyed("aa")
    cluster.leader.service.settings = PartitionSettings(order=None)
    assert isinstance(cluster.submit(receive()).answer, UnavailableError)


def test_a_new_leader_reads_the_keys_that_are_in_flight() -> None:
    cluster = KitCluster(3, settings=PartitionSettings(order=order_policy(0, by_key=True, blocks=True)))
    cluster.elect()
    produce_keys(cluster, "abab")
    held = cluster.receive(1)
    old = cluster.leader
    cluster.stop(old.number)
    cluster.elect()
    assert ranges_of(cluster.receive()) == ((1, 2), (3, 4))
    cluster.stopped.discard(old.number)
    cluster.tick(3)
    assert old.service._locks is None
    cluster.ack(held.lease, (0, 1))
    assert ranges_of(cluster.receive()) == ((2, 3),)


def test_who_waits_is_served_once_all_keys_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "MAX_READ_KEYS", 100)
    monkeypatch.setattr(key_index, "BLOCK", 100)
    cluster = keyed("a")
    cluster.receive(1)
    for _ in range(10):
        produce_keys(cluster, "a" * 100)
    produce_keys(cluster, "b")
    asked = cluster.submit(receive(wait_ms=20_000))
    cluster.settle()
    assert asked.answer is None
    cluster.tick(12)
    assert ranges_of(asked.reply(ReceiveReply)) == ((1_001, 1_002),)


def test_a_batch_that_nobody_can_open_is_handed_out_and_holds_up_nothing() -> None:
    cluster = keyed("a")
    torn = bytearray(encode_batch([Record(b"v" * 40, b"a"), Record(b"v" * 40, b"a")], codec=Codec.NONE))
    torn[61:64] = b"\xff\xff\xff"
    struct.pack_into(">I", torn, 17, crc32c(bytes(torn[21:])))
    assert isinstance(cluster.ask(ProduceRequest(bytes(torn))), ProduceReply)
    cluster.receive(1)
    assert ranges_of(cluster.receive()) == ((1, 3),)


# Pauses and purges.


def paused(cluster: KitCluster) -> tuple[bool, str, int]:
    state = cluster.ask(StateRequest())
    assert isinstance(state, StateReply)
    return (state.groups[0].is_paused, state.groups[0].paused_reason, state.groups[0].paused_until_ms)


def test_a_paused_group_leases_nothing_until_it_is_resumed() -> None:
    cluster = filled(3)
    held = cluster.receive(1).lease
    assert cluster.ask(PauseRequest(DEFAULT_GROUP, "the shop is closed")) == GroupReply(DEFAULT_GROUP, Offset(0))
    assert paused(cluster) == (True, "the shop is closed", 0)
    waiting = cluster.submit(receive(wait_ms=20_000))
    cluster.tick(20)
    assert waiting.answer is None
    cluster.ack(held, (0, 1))
    nothing = cluster.ask(receive())
    assert isinstance(nothing, ReceiveReply)
    assert nothing.parts == ()
    assert cluster.ask(ResumeRequest(DEFAULT_GROUP)) == GroupReply(DEFAULT_GROUP, Offset(0))
    cluster.settle()
    assert ranges_of(waiting.reply(ReceiveReply)) == ((1, 3),)
    assert paused(cluster) == (False, "", 0)
    assert cluster.ask(ResumeRequest(DEFAULT_GROUP)) == GroupReply(DEFAULT_GROUP, Offset(0))


def test_who_waits_is_served_when_the_pause_ends() -> None:
    cluster = filled(1)
    cluster.ask(PauseRequest(DEFAULT_GROUP, "breaker", 2_000))
    since_ms = cluster.leader.replica.machine.append_ms
    assert paused(cluster) == (True, "breaker", since_ms + 2_000)
    waiting = cluster.submit(receive(wait_ms=20_000))
    cluster.tick(15)
    assert waiting.answer is None
    cluster.tick(10)
    assert ranges_of(waiting.reply(ReceiveReply)) == ((0, 1),)


def test_a_pause_that_is_over_is_not_told_of_though_nothing_was_written_since() -> None:
    cluster = filled(1)
    cluster.ask(PauseRequest(DEFAULT_GROUP, "breaker", 2_000))
    cluster.tick(30)
    assert paused(cluster) == (False, "", 0)


def test_a_purge_settles_everything_once_for_each_id() -> None:
    cluster = filled(4)
    held = cluster.receive(2).lease
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((held, ((0, 1),)),)))
    assert cluster.ask(PurgeRequest(DEFAULT_GROUP, 7)) == PurgeReply(4, 1, 1)
    cluster.produce(b"later")
    assert cluster.ask(PurgeRequest(DEFAULT_GROUP, 7)) == PurgeReply(4, 1, 1)
    assert ranges_of(cluster.receive()) == ((4, 5),)
    assert cluster.ask(PurgeRequest(DEFAULT_GROUP, (1 << 63) - 1)) == PurgeReply(1, 1, 0)


# Retention.


def test_an_idle_partition_is_looked_at_every_five_seconds_also_while_no_floor_may_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = single()
    monkeypatch.setattr(type(cluster.leader.engine), "may_floor", lambda _: False)
    looks: list[int] = []
    monkeypatch.setattr(PartitionService, "_tidy", lambda *_: looks.append(1))
    cluster.tick(120)
    assert 2 <= len(looks) <= 3, "every five seconds; a tick is 100 ms"


def test_a_shorter_retention_holds_from_the_next_tick_on_also_where_nothing_was_due() -> None:
    cluster = single(settings=PartitionSettings(retention_s=600))
    cluster.produce(b"a")
    cluster.tick(650)
    assert cluster.leader.machine.log_start_offset == 0
    cluster.leader.service.settings = PartitionSettings(retention_s=60)
    cluster.tick()
    assert cluster.leader.machine.log_start_offset == 1


def test_the_floor_moves_exactly_when_a_message_has_outlived_its_time() -> None:
    cluster = single(settings=PartitionSettings(retention_s=60))
    first = cluster.produce(b"a")
    cluster.tick(3)
    cluster.produce(b"b")
    end_ns = cluster.now_ns + (first.append_ms + 60_000 - now_ms(cluster)) * 1_000_000
    while cluster.now_ns + 100_000_000 < end_ns:
        cluster.tick()
    cluster.now_ns = end_ns - 1_000_000
    cluster.leader.engine.tick()
    cluster.settle()
    assert cluster.leader.machine.log_start_offset == 0
    cluster.now_ns = end_ns
    cluster.leader.engine.tick()
    cluster.settle()
    assert cluster.leader.machine.log_start_offset == 1


def test_a_receive_never_gives_what_has_outlived_its_time() -> None:
    """The floor is proposed before the lease, in the same step, however long no tick came."""
    cluster = single(settings=PartitionSettings(retention_s=60))
    cluster.produce(b"a")
    cluster.tick(300)
    cluster.produce(b"b")
    cluster.tick(200)
    cluster.now_ns += 15_000_000_000
    assert ranges_of(cluster.receive()) == ((1, 2),)


def test_what_is_leased_expires_to_the_millisecond_as_what_nobody_has_read_and_its_holder_is_told() -> None:
    cluster = single(settings=PartitionSettings(retention_s=60))
    produced = cluster.produce(b"leased", b"unread")
    lease = cluster.receive(1, hide_ms=600_000).lease
    end_ns = cluster.now_ns + (produced.append_ms + 60_000 - now_ms(cluster)) * 1_000_000
    while cluster.now_ns + 100_000_000 < end_ns:
        cluster.tick()
    for at_ns, expired in ((end_ns - 1_000_000, 0), (end_ns, 2)):
        cluster.now_ns = at_ns
        cluster.leader.engine.tick()
        cluster.settle()
        assert cluster.leader.machine.log_start_offset == expired
    (result,) = cluster.ack(lease, (0, 1)).results
    assert (result.done_count, result.expired, result.stale) == (0, ((0, 1),), ())
    assert cluster.receive().parts == ()


def test_another_retention_holds_at_once_and_a_longer_one_from_the_floor_on() -> None:
    cluster = single(settings=PartitionSettings(retention_s=3_600))
    cluster.produce(b"a")
    cluster.tick(900)
    cluster.produce(b"b")
    cluster.leader.service.settings = PartitionSettings(retention_s=60)
    assert ranges_of(cluster.receive()) == ((1, 2),)
    cluster.tick(30)
    assert cluster.leader.machine.log_start_offset == 1
    cluster.leader.service.settings = PartitionSettings(retention_s=3_600)
    assert isinstance(cluster.ask(RewindRequest(DEFAULT_GROUP, 1, OffsetTarget(Offset(0)))), OffsetOutOfRangeError)
    assert moved(cluster, EarliestTarget()).start_offset == 1
    # What is there still is kept as long as the new one says.
    cluster.tick(900)
    assert cluster.leader.machine.log_start_offset == 1


def test_a_partition_may_expire_to_its_end() -> None:
    cluster = single(settings=PartitionSettings(retention_s=60))
    cluster.produce(b"a", b"b")
    cluster.tick(610)
    machine = cluster.leader.machine
    assert (machine.log_start_offset, machine.next_offset) == (2, 2)
    assert cluster.receive().parts == ()
    cluster.produce(b"c")
    assert ranges_of(cluster.receive()) == ((2, 3),)


def test_a_time_before_the_oldest_message_is_refused_or_clamped() -> None:
    cluster = single(settings=PartitionSettings(retention_s=60))
    first = cluster.produce(b"a")
    cluster.tick(400)
    cluster.produce(b"b")
    cluster.tick(300)
    assert cluster.leader.machine.log_start_offset == 1
    refused = cluster.ask(RewindRequest(DEFAULT_GROUP, 1, TimeTarget(first.append_ms)))
    assert isinstance(refused, OffsetOutOfRangeError)
    reply = moved(cluster, TimeTarget(first.append_ms), clamp=True)
    assert reply.start_offset == 1
    refused = cluster.ask(RewindRequest(DEFAULT_GROUP, 2, OffsetTarget(Offset(0))))
    assert isinstance(refused, OffsetOutOfRangeError)


# The end of a leadership.


def cut(cluster: KitCluster, number: int) -> None:
    """Nothing goes to or from a node."""

    def is_passed(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        return number not in (sender, to)

    cluster.is_passed = is_passed


def test_what_waits_is_answered_when_the_leadership_ends() -> None:
    cluster = KitCluster(3)
    old = cluster.elect()
    cluster.produce(*values(4))
    held = cluster.receive(2)
    cut(cluster, old.number)
    produce = cluster.submit(ProduceRequest(batch(b"x")), node=old)
    ack = cluster.submit(AckRequest(DEFAULT_GROUP, ((held.lease, ((0, 1),)),)), node=old)
    lease = cluster.submit(receive(count=1), node=old)
    poll = cluster.submit(receive(wait_ms=20_000, count=5), node=old)
    long_poll = cluster.submit(receive(wait_ms=20_000), node=old)
    state = cluster.submit(StateRequest(), node=old)
    rewind = cluster.submit(RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()), node=old)
    waiting = [produce, ack, lease, poll, long_poll, state, rewind]
    cluster.settle()
    assert [one.answer for one in waiting] == [None] * 7
    cluster.tick(60)
    for one in (produce, ack, lease, poll, rewind):
        assert isinstance(one.answer, UnknownOutcomeError | NotLeaderError), repr(one.answer)
    assert isinstance(produce.answer, UnknownOutcomeError)
    assert isinstance(ack.answer, UnknownOutcomeError)
    for one in (long_poll, state):
        assert isinstance(one.answer, NotLeaderError)
    assert isinstance(cluster.ask(receive(), node=old), NotLeaderError)


@pytest.mark.parametrize(
    "request_",
    [
        AckRequest(DEFAULT_GROUP, ((LeaseId(99 << 16), ((0, 1),)),)),
        NackRequest(DEFAULT_GROUP, ((LeaseId(99 << 16), ((0, 1),)),)),
        ReleaseRequest(DEFAULT_GROUP, LeaseId(99 << 16)),
        ProduceRequest(batch(b"later", producer=7, sequence=5)),
        receive(GroupName("unknown")),
    ],
    ids=lambda request: type(request).__name__,
)
def test_what_a_leader_that_may_be_deposed_does_not_know_it_does_not_deny(request_: Request) -> None:
    """Found by `tools/simulate --seed 485`: it was paused, and had not heard of a lease that another one gave."""
    cluster = KitCluster(3)
    old = cluster.elect()
    cluster.produce(b"a", producer=7, sequence=0)
    cut(cluster, old.number)
    asked = cluster.submit(request_, node=old)
    cluster.settle()
    assert asked.answer is None
    cluster.tick(60)
    assert isinstance(asked.answer, NotLeaderError)


def test_a_new_leader_keeps_leases_and_forgets_what_was_never_committed() -> None:
    cluster = KitCluster(3)
    old = cluster.elect()
    cluster.produce(*values(4))
    held = cluster.receive(2, hide_ms=60_000)
    cut(cluster, old.number)
    lost = cluster.submit(ProduceRequest(batch(b"lost")), node=old)
    cluster.tick(60)
    new = cluster.leader
    assert new is not old
    assert isinstance(lost.answer, UnknownOutcomeError)
    assert cluster.produce(b"kept").base_offset == 4
    assert ranges_of(cluster.receive()) == ((2, 5),)
    assert cluster.ack(held.lease, (0, 2)).results[0].done_count == 2
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(10)
    digests = {node.machine.digest() for node in cluster.nodes.values()}
    assert len(digests) == 1
    assert old.machine.next_offset == 5


def test_a_repeat_at_the_new_leader_finds_what_the_old_one_committed() -> None:
    cluster = KitCluster(3)
    old = cluster.elect()
    first = cluster.produce(b"a", producer=7, sequence=0)
    lease = cluster.ask(receive(session=3, request_id=1, hide_ms=60_000))
    cluster.stop(old.number)
    cluster.tick(60)
    assert cluster.produce(b"a", producer=7, sequence=0) == replace(first, duplicate=True)
    again = cluster.ask(receive(session=3, request_id=1, hide_ms=60_000))
    assert isinstance(lease, ReceiveReply)
    assert isinstance(again, ReceiveReply)
    assert (again.lease, again.parts) == (lease.lease, lease.parts)
    assert again.hide_left_ms < lease.hide_left_ms


def test_a_transfer_refuses_what_comes_meanwhile_and_changes_nothing() -> None:
    cluster = KitCluster(3)
    old = cluster.elect()
    target = next(number for number in (1, 2, 3) if number != old.number)
    cut(cluster, old.number)
    old.replica.core.transfer_leadership(ReplicaId(target))
    before = old.replica.core.last_index
    answer = cluster.ask(ProduceRequest(batch(b"a")), node=old)
    assert isinstance(answer, LogBrokerError)
    assert answer.retriable
    assert old.replica.core.last_index == before
