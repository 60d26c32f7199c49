"""Delayed batches on nodes: never early whoever leads, at most a second late, and cancelled by offset."""

from __future__ import annotations

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import InvalidArgumentError, LogBrokerError, OffsetOutOfRangeError
from logbroker.ids import DEFAULT_GROUP, GroupName, Offset
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.requests import (
    CancelReply,
    CancelRequest,
    CreateGroupRequest,
    EarliestTarget,
    PeekReply,
    PeekRequest,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    RewindRequest,
    StateReply,
    StateRequest,
)
from logbroker.partition.commands import DeliverAt, encode_changes
from logbroker.partition.runs import RunState
from logbroker.raft.refusal import ProposalRefused
from tests.unit.node.engine_kit import KitCluster, batch, ranges_of


def clustered(size: int = 1) -> KitCluster:
    cluster = KitCluster(size)
    cluster.elect()
    return cluster


def now_ms(cluster: KitCluster) -> int:
    return cluster.leader.replica.stamp_ms()


def produce(cluster: KitCluster, *values: bytes, delay_ms: int = 0, deliver_at_ms: int = 0) -> ProduceReply:
    reply = cluster.ask(ProduceRequest(batch(*values), delay_ms, deliver_at_ms))
    assert isinstance(reply, ProduceReply), f"{reply!r}"
    return reply


@pytest.mark.parametrize("absolute", [False, True])
def test_a_long_poll_gets_what_is_due_not_before_and_within_a_second(absolute: bool) -> None:
    cluster = clustered()
    begun_ms = now_ms(cluster)
    delay = {"deliver_at_ms": begun_ms + 3_030} if absolute else {"delay_ms": 3_030}
    reply = produce(cluster, b"a", b"b", **delay)
    assert begun_ms + 3_030 <= reply.due_ms < begun_ms + 3_130
    poll = cluster.submit(ReceiveRequest(DEFAULT_GROUP, 10, 5_000, wait_ms=20_000))
    while poll.answer is None:
        assert now_ms(cluster) < reply.due_ms + 1_000
        cluster.tick()
    assert now_ms(cluster) >= reply.due_ms
    assert ranges_of(poll.reply(ReceiveReply)) == ((0, 2),)


def test_nobody_who_leads_delivers_early() -> None:
    cluster = clustered(3)
    due_ms = produce(cluster, b"a", delay_ms=20_000).due_ms
    for _ in range(3):
        gone = cluster.leader
        cluster.restart(int(gone.number))
        cluster.elect()
        assert cluster.receive().parts == ()
        assert now_ms(cluster) < due_ms
    while now_ms(cluster) < due_ms:
        cluster.tick()
    cluster.tick()
    assert ranges_of(cluster.receive()) == ((0, 1),)


def test_a_batch_and_what_is_said_of_it_are_appended_both_or_not_at_all() -> None:
    cluster = clustered(3)
    cluster.frozen = {1, 2, 3}
    replica = cluster.leader.replica
    last = replica.core.last_index
    refused: list[LogBrokerError] = []
    for _ in range(20):
        try:
            replica.propose(
                EntryKind.DATA,
                batch(bytes(900_000)),
                record_count=1,
                append_ms=replica.stamp_ms(),
                on_committed=lambda _: None,
                on_lost=lambda _: None,
                preparation=encode_changes([DeliverAt(900)]),
            )
        except ProposalRefused as error:
            refused.append(error)
    appended = [entry.kind for entry in replica.core.entries(last + 1, max_bytes=1 << 30)]  # type: ignore[arg-type]
    assert refused
    assert appended == [EntryKind.STATE, EntryKind.DATA] * (len(appended) // 2)
    assert replica.ahead is not None
    assert replica.ahead.applied_index == replica.core.last_index


def test_groups_and_rewinds_that_come_later_wait_too() -> None:
    cluster = clustered()
    due_ms = produce(cluster, b"a", delay_ms=60_000).due_ms
    audit = GroupName("audit")
    cluster.ask(CreateGroupRequest(audit, EarliestTarget()))
    cluster.ask(RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()))
    for group in (DEFAULT_GROUP, audit):
        reply = cluster.ask(ReceiveRequest(group, 10, 5_000))
        assert isinstance(reply, ReceiveReply)
        assert reply.parts == ()
    peeked = cluster.ask(PeekRequest(audit, EarliestTarget(), 10))
    assert isinstance(peeked, PeekReply)
    assert [(shown.state, shown.visible_at_ms) for shown in peeked.ranges] == [(RunState.DELAYED, due_ms)]
    state = cluster.ask(StateRequest())
    assert isinstance(state, StateReply)
    assert [(group.delayed, group.available) for group in state.groups] == [(1, 0), (1, 0)]


def test_what_is_cancelled_is_never_delivered_and_what_was_due_cannot_be() -> None:
    cluster = clustered()
    produce(cluster, b"a", b"b", b"c", delay_ms=2_000)
    produce(cluster, b"d")
    assert cluster.ask(CancelRequest(((1, 2), (3, 4)))) == CancelReply(1, 1)
    assert cluster.ask(CancelRequest(((1, 2), (3, 4)))) == CancelReply(1, 1)
    assert isinstance(cluster.ask(CancelRequest(((3, 5),))), OffsetOutOfRangeError)
    cluster.tick(60)
    assert ranges_of(cluster.receive()) == ((0, 1), (2, 4))
    assert cluster.ask(CancelRequest(((0, 1),))) == CancelReply(0, 1)


def test_a_delay_up_to_the_retention_less_a_second_is_taken() -> None:
    cluster = KitCluster(1, settings=PartitionSettings(retention_s=60))
    cluster.elect()
    assert isinstance(cluster.ask(ProduceRequest(batch(b"a"), 59_001)), InvalidArgumentError)
    assert isinstance(cluster.ask(ProduceRequest(batch(b"a"), 1, 1)), InvalidArgumentError)
    assert cluster.leader.machine.next_offset == 0
    assert produce(cluster, b"a", delay_ms=59_000).due_ms > now_ms(cluster)
    assert produce(cluster, b"a", deliver_at_ms=1).due_ms == 0


def test_a_batch_that_is_sent_again_is_answered_as_the_first_was() -> None:
    cluster = clustered()
    request = ProduceRequest(batch(b"a", producer=3, sequence=0), 5_000)
    first = cluster.ask(request)
    cluster.tick(3)
    second = cluster.ask(request)
    assert isinstance(first, ProduceReply)
    assert second == ProduceReply(Offset(0), 1, first.append_ms, duplicate=True, due_ms=first.due_ms)
