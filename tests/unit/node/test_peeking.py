"""Looking at the messages of a partition: what is shown, within which bounds, and that nothing is changed by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import NotFoundError
from logbroker.ids import DEFAULT_GROUP, GroupName, Offset
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.peeking import MAX_LOOKED_RUNS, look
from logbroker.node.requests import (
    AckRequest,
    EarliestTarget,
    LatestTarget,
    NackRequest,
    OffsetTarget,
    PeekReply,
    PeekRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    TimeTarget,
)
from logbroker.partition.runs import Run, RunState, RunTable
from logbroker.record.batch import decode_batch
from tests.unit.node.engine_kit import KitCluster, values

if TYPE_CHECKING:
    from logbroker.node.requests import Target

EARLIEST = EarliestTarget()


def filled(count: int = 6, *, size: int = 40, retention_s: int = 86_400) -> KitCluster:
    """Messages 0..count-1, one a batch, one a tick."""
    cluster = KitCluster(1, settings=PartitionSettings(retention_s=retention_s))
    cluster.elect()
    for number in range(count):
        cluster.produce(*values(1, start=number, size=size))
        cluster.tick()
    return cluster


def peek(
    cluster: KitCluster, start: Target = EARLIEST, *, count: int = 100, size: int = 1 << 20, settled: bool = False
) -> PeekReply:
    """Look, and see that the state and the log are as they were."""
    replica = cluster.leader.replica
    before = cluster.leader.machine.digest(), replica.core.last_index
    reply = cluster.ask(PeekRequest(DEFAULT_GROUP, start, count, size, with_settled=settled))
    assert (cluster.leader.machine.digest(), replica.core.last_index) == before
    assert isinstance(reply, PeekReply), repr(reply)
    return reply


def states(reply: PeekReply) -> list[tuple[int, int, str]]:
    return [(shown.start, shown.end, shown.state.name.lower()) for shown in reply.ranges]


def in_all_states() -> KitCluster:
    """Six messages: acked, dead, delayed, leased, and two available."""
    cluster = filled()
    lease = cluster.ask(ReceiveRequest(DEFAULT_GROUP, 4, 30_000))
    assert isinstance(lease, ReceiveReply)
    cluster.ask(AckRequest(DEFAULT_GROUP, ((lease.lease, ((0, 1),)),)))
    cluster.ask(RejectRequest(DEFAULT_GROUP, ((lease.lease, ((1, 2),)),)))
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease.lease, ((2, 3),)),), delay_ms=60_000))
    return cluster


def test_the_next_messages_of_a_group_are_those_not_settled_with_their_states() -> None:
    reply = peek(in_all_states())
    assert states(reply) == [(2, 3, "delayed"), (3, 4, "leased"), (4, 6, "available")]
    assert [shown.deliveries for shown in reply.ranges] == [1, 1, 0]
    assert [bool(shown.visible_at_ms) for shown in reply.ranges] == [True, True, False]
    assert [decode_batch(part.batch)[0].value for part in reply.parts] == values(4, start=2, size=40)
    assert (reply.next_offset, reply.log_end) == (6, 6)


def test_what_was_delayed_is_available_when_that_is_over() -> None:
    cluster = filled()
    lease = cluster.ask(ReceiveRequest(DEFAULT_GROUP, 1, 30_000))
    assert isinstance(lease, ReceiveReply)
    cluster.ask(NackRequest(DEFAULT_GROUP, ((lease.lease, ((0, 1),)),), delay_ms=1_000))
    assert states(peek(cluster))[0] == (0, 1, "delayed")
    cluster.tick(10)
    (shown, _) = peek(cluster).ranges
    assert (shown.state.name.lower(), shown.deliveries, shown.visible_at_ms) == ("available", 1, 0)


def test_with_those_that_are_settled_everything_kept_is_shown() -> None:
    assert states(peek(in_all_states(), settled=True))[:2] == [(0, 1, "acked"), (1, 2, "dead")]


def test_a_look_may_begin_at_an_offset_a_time_or_the_end() -> None:
    cluster = filled()
    (third,) = peek(cluster, OffsetTarget(Offset(3)), count=1).parts
    assert states(peek(cluster, OffsetTarget(Offset(3)))) == [(3, 6, "available")]
    assert states(peek(cluster, TimeTarget(third.append_ms))) == [(3, 6, "available")]
    for beyond in (LatestTarget(), OffsetTarget(Offset(99)), TimeTarget(1 << 50)):
        reply = peek(cluster, beyond)
        assert (reply.parts, reply.ranges, reply.next_offset, reply.log_end) == ((), (), 6, 6)


def test_no_more_is_shown_than_was_asked_for_and_the_next_look_goes_on() -> None:
    cluster = filled()
    reply = peek(cluster, count=2)
    assert (states(reply), reply.next_offset) == ([(0, 2, "available")], 2)
    assert states(peek(cluster, OffsetTarget(reply.next_offset), count=2)) == [(2, 4, "available")]


def test_batches_are_read_within_the_bytes_but_for_the_first() -> None:
    cluster = filled(size=1_000)
    size = len(peek(cluster, count=1).parts[0].batch)
    reply = peek(cluster, size=2 * size + 1)
    assert (states(reply), reply.next_offset) == ([(0, 2, "available")], 2)
    reply = peek(cluster, size=1)
    assert (states(reply), reply.next_offset) == ([(0, 1, "available")], 1)


def test_what_has_expired_is_not_shown_though_the_log_still_begins_there() -> None:
    cluster = filled(1, retention_s=60)
    cluster.tick(300)
    cluster.produce(b"b")
    cluster.tick(200)
    cluster.now_ns += 15_000_000_000
    assert states(peek(cluster, settled=True)) == [(1, 2, "available")]
    assert cluster.leader.machine.log_start_offset == 0


def test_a_peek_for_a_group_that_is_not_there_is_refused() -> None:
    assert isinstance(filled().ask(PeekRequest(GroupName("nobody"), EARLIEST, 1)), NotFoundError)


def test_a_look_ends_after_so_many_runs_and_says_where_to_go_on() -> None:
    # Acked and dead by turns, so that none is to be shown and none joins its neighbour.
    kinds = (Run(0, 0, RunState.DEAD, 1, 0, 9), Run(0, 0, RunState.ACKED))
    runs = [
        Run(place, place + 1, kind.state, kind.deliveries, 0, kind.lease)
        for place in range(3 * MAX_LOOKED_RUNS)
        for kind in [kinds[place % 2]]
    ]
    table = RunTable.decode(0, runs)
    found, at = look(table, PeekRequest(DEFAULT_GROUP, EARLIEST, 10), 0, 5 * MAX_LOOKED_RUNS, 0)
    assert (found, at) == ([], MAX_LOOKED_RUNS)
