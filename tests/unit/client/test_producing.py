from __future__ import annotations

import pytest

from logbroker.errors import (
    InvalidArgumentError,
    LogBrokerError,
    NoRoomError,
    NotFoundError,
    OverloadedError,
    QueueFullError,
    RemoteProtocolError,
    RequestTooLargeError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.record.batch import decode_batch, read_header
from logbroker.wire.requests import AnyRequest, Metadata, Produce, Produced, WireLimits
from logbroker_client.partitioner import partition_of
from logbroker_client.producing import ENOUGH_BYTES, RECORD_OVERHEAD_BYTES, RUN_BATCH_COUNT
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNode, Hold
from tests.unit.client.world import World, send


def cluster_of(nodes: int = 1, partitions: int = 1, limits: WireLimits | None = None) -> FakeCluster:
    cluster = FakeCluster(nodes, limits=limits)
    cluster.add_queue("orders", partitions)
    return cluster


def stored(cluster: FakeCluster, partition: int = 0) -> list[list[bytes | None]]:
    """The values of each batch in a partition's log."""
    batches = cluster.partition("orders", partition).batches
    return [[record.value for record in decode_batch(data)] for _, _, data in batches]


def flat(cluster: FakeCluster, partition: int = 0) -> list[bytes | None]:
    return [value for batch in stored(cluster, partition) for value in batch]


class Script:
    """Decides about produce requests in order; when it ends the broker is healthy."""

    def __init__(self, *decisions: Answer | LogBrokerError | Hold | Drop | None) -> None:
        self._decisions = list(decisions)

    def __call__(
        self, node: FakeNode, request: AnyRequest, body: bytes
    ) -> Answer | LogBrokerError | Hold | Drop | None:
        if isinstance(request, Produce) and self._decisions:
            return self._decisions.pop(0)
        return None


class LoseReply:
    """Carries the first produce request out and drops the connection before its answer."""

    def __init__(self) -> None:
        self._is_done = False

    def __call__(self, node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        if isinstance(request, Produce) and not self._is_done:
            self._is_done = True
            node.answer(request, body)
            return Drop()
        return None


# --- batching ---


def test_a_message_alone_leaves_at_once_and_gets_its_offset() -> None:
    world = World(cluster_of())
    producer = world.producer()
    batch, position = send(producer, b"first")
    batch.waiters["task"] = None
    world.settle()
    assert (batch.is_done, batch.error, batch.base_offset, position) == (True, None, 0, 0)
    assert world.woken == ["task"]
    assert flat(world.cluster) == [b"first"]


def test_what_comes_while_a_batch_is_on_its_way_fills_the_next() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    first, _ = send(producer, b"0")
    world.settle()
    later = [send(producer, b"%d" % number) for number in range(1, 4)]
    world.settle()
    assert len(world.node(1).of(Produce)) == 1
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert stored(world.cluster) == [[b"0"], [b"1", b"2", b"3"]]
    assert first.base_offset == 0
    assert [batch.base_offset + position for batch, position in later] == [1, 2, 3]


def test_a_batch_holds_messages_of_one_due_time_alone() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    send(producer, b"held")
    world.settle()
    delays = [(0, 0), (5_000, 0), (5_000, 0), (0, 9_000), (0, 9_000), (0, 0)]
    for number, delay in enumerate(delays):
        assert producer.reserve(100)
        producer.append(b"%d" % number, None, (), 100, delay)
    assert producer.reserve(100)
    producer.append_values([b"6", b"7"], 100, (700, 0))
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert stored(world.cluster) == [[b"held"], [b"0"], [b"1", b"2"], [b"3", b"4"], [b"5"], [b"6", b"7"]]
    sent = [(request.delay_ms, request.deliver_at_ms) for request in world.node(1).of(Produce)]
    assert sent == [(0, 0), (0, 0), (5_000, 0), (0, 9_000), (0, 0), (700, 0)]


def test_a_full_batch_does_not_wait_up_to_five_on_their_way() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(*[Hold()] * 10)
    producer = world.producer(batch_bytes=2000)
    for _ in range(16):
        send(producer, b"x" * 976)
    world.settle()
    assert len(world.node(1).of(Produce)) == 5
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert len(world.node(1).of(Produce)) == 6


def test_a_batch_that_is_not_full_waits_for_all_before_it() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer(batch_bytes=100)
    send(producer, b"x" * 60)
    world.settle()
    send(producer, b"y" * 60)
    world.settle()
    assert len(world.node(1).of(Produce)) == 1
    # The second is full when the third does not fit into it.
    send(producer, b"z" * 60)
    world.settle()
    assert len(world.node(1).of(Produce)) == 2


def test_what_is_worth_a_round_of_its_own_waits_for_nothing() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(*[Hold()] * 3)
    producer = world.producer()
    send(producer, b"first")
    world.settle()
    send(producer, b"x" * (ENOUGH_BYTES - RECORD_OVERHEAD_BYTES - 1))
    world.settle()
    assert len(world.node(1).of(Produce)) == 1
    send(producer, b"")
    send(producer, b"in time for it")
    world.settle()
    assert len(world.node(1).of(Produce)) == 2
    connection = world.connection(1)
    for held in list(connection.held):
        connection.answer(*held)
    world.settle()
    assert [len(batch) for batch in stored(world.cluster)] == [1, 3]


def test_a_burst_leaves_in_one_batch_though_a_part_of_it_were_enough() -> None:
    world = World(cluster_of())
    producer = world.producer()
    for _ in range(7):
        send(producer, b"x" * (ENOUGH_BYTES // 4))
    world.settle()
    assert [len(batch) for batch in stored(world.cluster)] == [7]


def test_no_more_is_gathered_than_the_server_takes_in_one_batch() -> None:
    world = World(cluster_of(limits=WireLimits(max_batch_bytes=10_000, max_record_bytes=9_000)))
    producer = world.producer(is_compressed=False)
    batches = [send(producer, b"x" * 1_000)[0] for _ in range(20)]
    world.settle()
    assert [batch.error for batch in batches] == [None] * 20
    assert [len(batch) for batch in stored(world.cluster)] == [9, 9, 2]


def test_linger_holds_a_batch_back_for_its_time() -> None:
    world = World(cluster_of())
    producer = world.producer(linger_s=0.05)
    batch, _ = send(producer, b"early")
    world.advance(0.04)
    assert not batch.is_done
    send(producer, b"late")
    world.advance(0.02)
    assert stored(world.cluster) == [[b"early", b"late"]]


def test_values_go_into_a_batch_together() -> None:
    world = World(cluster_of())
    producer = world.producer()
    values = [b"a", b"b", b"c"]
    size_bytes = sum(producer.size_of(value, None, ()) for value in values)
    assert producer.reserve(size_bytes)
    batch = producer.append_values(values, size_bytes)
    world.settle()
    assert stored(world.cluster) == [[b"a", b"b", b"c"]]
    assert batch.base_offset == 0
    assert producer.buffered_bytes == 0


def test_values_and_records_mix_in_a_batch() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    send(producer, b"1")
    size_bytes = producer.size_of(None, b"key", (("h", b"v"),))
    producer.reserve(size_bytes)
    producer.append(None, b"key", (("h", b"v"),), size_bytes)
    producer.reserve(30)
    producer.append_values([b"3"], 30)
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    records = decode_batch(world.cluster.partition().batches[1][2])
    assert [(record.value, record.key, record.headers) for record in records] == [
        (b"1", None, ()),
        (None, b"key", (("h", b"v"),)),
        (b"3", None, ()),
    ]
    assert {record.timestamp_ms for record in records} == {100_000}


def test_a_batch_holds_no_more_records_than_the_server_takes() -> None:
    world = World(cluster_of(limits=WireLimits(max_record_count=3)))
    producer = world.producer()
    for number in range(7):
        send(producer, b"%d" % number)
    producer.reserve(90)
    producer.append_values([b"7", b"8", b"9"], 90)
    world.settle()
    assert [len(batch) for batch in stored(world.cluster)] == [3, 3, 1, 3]


# --- partitions ---


def test_messages_without_a_key_go_round_by_the_batch() -> None:
    world = World(cluster_of(partitions=3))
    producer = world.producer()
    for number in range(6):
        send(producer, b"%d" % number)
        world.settle()
    assert [flat(world.cluster, partition) for partition in range(3)] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_full_batches_without_a_key_go_on_to_the_next_partition_in_runs() -> None:
    world = World(cluster_of(partitions=3))
    producer = world.producer(batch_bytes=100)
    run = [b"%02d" % number for number in range(3 * RUN_BATCH_COUNT + 1)]
    for number in run:
        # Each is a batch by itself.
        send(producer, number * 50)
        world.settle()
    numbers = [[(value or b"")[:2] for value in flat(world.cluster, partition)] for partition in range(3)]
    assert numbers == [[*run[:16], run[48]], run[16:32], run[32:48]]


def test_what_a_run_leaves_behind_does_not_wait_for_the_end_of_the_stream() -> None:
    """A message that does not fit the last batch of a run stays in that partition; the stream goes on in the next."""
    world = World(cluster_of(partitions=2))
    world.node(1).on_request = lambda node, request, body: (
        Hold() if isinstance(request, Produce) and request.partition == 1 else None
    )
    producer = world.producer(batch_bytes=100)
    # Two do not fit into one batch, and one does not fill it.
    sent = [send(producer, b"%02d" % number * 30)[0] for number in range(RUN_BATCH_COUNT)]
    world.settle()
    assert [batch.partition for batch in sent] == [0] * (RUN_BATCH_COUNT - 5) + [1] * 5
    assert producer.unkeyed_count == 4, "those of the other partition are on their way, but for the one that fills"
    assert [batch.is_done for batch in sent] == [True] * (RUN_BATCH_COUNT - 5) + [False] * 5


def test_a_partition_that_does_not_keep_up_is_not_given_more() -> None:
    world = World(cluster_of(partitions=3))
    world.node(1).on_request = Script(*[Hold()] * 100)
    producer = world.producer(batch_bytes=100)
    for number in range(30):
        send(producer, b"%02d" % number * 50)
        world.settle()
    # Five on their way and five that wait, each.
    assert [request.partition for request in world.node(1).of(Produce)] == [0] * 5 + [1] * 5 + [2] * 5
    assert len(producer.unsettled()) == 30


def test_a_run_ends_where_the_partition_cannot_be_reached() -> None:
    cluster = cluster_of(nodes=2, partitions=2)
    cluster.move(2, partition=1)
    world = World(cluster)
    world.down.add(2)
    producer = world.producer(batch_bytes=100)
    for number in range(2 * RUN_BATCH_COUNT):
        send(producer, b"%d" % number * 100)
        world.settle()
    # At most one went the wrong way, before anybody knew.
    assert len(stored(cluster, 0)) >= 2 * RUN_BATCH_COUNT - 1


def test_messages_without_a_key_wait_for_one_batch_on_its_way_whatever_the_partition() -> None:
    world = World(cluster_of(partitions=3))
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    for number in range(1, 5):
        send(producer, b"%d" % number)
        world.settle()
    assert len(world.node(1).of(Produce)) == 1
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert stored(world.cluster, 1) == [[b"1", b"2", b"3", b"4"]]


def test_a_key_stays_in_its_partition_and_in_order() -> None:
    world = World(cluster_of(partitions=4))
    producer = world.producer()
    keys = [b"k%d" % number for number in range(20)]
    for round_number in range(3):
        for key in keys:
            send(producer, b"%s-%d" % (key, round_number), key)
        world.settle()
    for partition in range(4):
        values = flat(world.cluster, partition)
        for key in keys:
            mine = [value for value in values if value and value.startswith(key + b"-")]
            expected = [b"%s-%d" % (key, n) for n in range(3)] if partition_of(key, 4) == partition else []
            assert mine == expected


def test_messages_without_a_key_avoid_a_partition_that_cannot_be_reached() -> None:
    cluster = cluster_of(nodes=2, partitions=2)
    cluster.move(2, partition=1)
    world = World(cluster)
    world.down.add(2)
    producer = world.producer()
    for number in range(4):
        send(producer, b"%d" % number)
        world.settle()
    # The first may go there before anybody knows.
    assert flat(cluster, 0)[-2:] == [b"2", b"3"]


def test_new_partitions_are_used_once_they_are_known() -> None:
    world = World(cluster_of(partitions=1))
    producer = world.producer()
    queue = world.cluster.queues["orders"]
    grown = world.cluster.add_queue("orders", 2)
    grown.partitions[0] = queue.partitions[0]
    world.learn("orders")
    for number in range(4):
        send(producer, b"%d" % number)
        world.settle()
    assert flat(world.cluster, 0) == [b"0", b"2"]
    assert flat(world.cluster, 1) == [b"1", b"3"]


# --- failures ---


def test_a_lost_answer_is_asked_for_again_and_nothing_is_doubled() -> None:
    world = World(cluster_of())
    world.node(1).on_request = LoseReply()
    producer = world.producer()
    batch, _ = send(producer, b"once")
    world.advance(2)
    assert (batch.error, batch.base_offset) == (None, 0)
    assert flat(world.cluster) == [b"once"]
    assert len(world.node(1).produced) == 2
    assert world.node(1).produced[0] == world.node(1).produced[1]


def test_batches_on_their_way_move_to_the_new_leader_in_order() -> None:
    cluster = cluster_of(nodes=3)
    world = World(cluster)
    world.node(1).on_request = Script(*[Hold()] * 5)
    producer = world.producer(batch_bytes=100)
    sent = [send(producer, b"%d" % number * 70) for number in range(8)]
    world.settle()
    assert len(world.node(1).of(Produce)) == 5
    world.stop(1)
    cluster.move(2)
    world.advance(5)
    assert [value[:1] for value in flat(cluster) if value] == [b"%d" % number for number in range(8)]
    assert all(batch.error is None for batch, _ in sent)
    assert [batch.base_offset + position for batch, position in sent] == list(range(8))


def test_what_comes_to_an_idle_partition_while_no_link_looks_at_it_is_sent_once_its_leader_is_back() -> None:
    cluster = cluster_of(nodes=2)
    world = World(cluster)
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    world.stop(1)
    world.settle()
    # All partitions are to be looked at, but no link is left whose writer would; meanwhile this one is found to have
    # nothing.
    world.core.mark_all()
    world.now += 1
    world.core.run_timers()
    batch, _ = send(producer, b"1")
    world.settle()
    cluster.move(2)
    world.advance(5)
    assert (batch.is_done, batch.base_offset) == (True, 1)


def test_a_redirect_is_followed_at_once() -> None:
    cluster = cluster_of(nodes=2)
    world = World(cluster)
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    cluster.move(2)
    batch, _ = send(producer, b"1")
    world.advance(0.001)
    assert (batch.error, batch.base_offset) == (None, 1)
    assert world.open_nodes() == [1, 2]


def test_without_a_known_leader_metadata_is_asked_for_with_growing_pauses() -> None:
    cluster = cluster_of(nodes=2)
    world = World(cluster)
    producer = world.producer()
    cluster.move(0)
    batch, _ = send(producer, b"0")
    world.advance(3)
    assert not batch.is_done
    asked = len(world.node(1).of(Metadata))
    assert 4 <= asked <= 20
    cluster.move(2)
    world.advance(1.5)
    assert batch.base_offset == 0


@pytest.mark.parametrize(
    "error", [OverloadedError("busy"), NoRoomError("full"), QueueFullError("full"), UnknownOutcomeError("who knows")]
)
def test_what_may_be_retried_is_retried_with_pauses(error: LogBrokerError) -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(error, error, error)
    producer = world.producer()
    batch, _ = send(producer, b"0")
    world.settle()
    assert len(world.node(1).of(Produce)) == 1
    world.advance(1)
    assert (batch.error, batch.base_offset) == (None, 0)
    assert flat(world.cluster) == [b"0"]


def test_a_queue_that_stays_full_is_named_when_the_time_is_over() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(*[QueueFullError("group 1 has 9 of at most 9", hint="settle some")] * 1_000)
    producer = world.producer(timeout_s=2.0)
    batch, _ = send(producer, b"0")
    world.advance(3)
    assert isinstance(batch.error, QueueFullError)
    assert "queue_full: group 1 has 9 of at most 9" in batch.error.message
    assert batch.error.hint == "settle some"
    assert flat(world.cluster) == []


def test_when_one_is_refused_those_behind_it_go_again_behind_it() -> None:
    world = World(cluster_of())
    # The broker refuses the first for a moment; to the others it says that a sequence is missing.
    world.node(1).on_request = Script(OverloadedError("busy"))
    producer = world.producer(batch_bytes=100)
    sent = [send(producer, b"%d" % number * 70) for number in range(4)]
    world.advance(1)
    assert [value[:1] for value in flat(world.cluster) if value] == [b"0", b"1", b"2", b"3"]
    assert all(batch.error is None for batch, _ in sent)
    headers = [read_header(data) for _, _, data in world.cluster.partition().batches]
    assert len({header.producer_id for header in headers}) == 1
    assert [header.base_sequence for header in headers] == [0, 1, 2, 3]


def test_nothing_goes_again_before_everything_on_its_way_is_answered() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(OverloadedError("busy"), Hold(), Hold())
    # Every message fills a batch.
    producer = world.producer(batch_bytes=90)
    for number in range(3):
        send(producer, b"%d" % number * 70)
    world.advance(5)
    send(producer, b"3" * 70)
    world.advance(5)
    assert len(world.node(1).of(Produce)) == 3
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.advance(1)
    assert len(world.node(1).of(Produce)) == 3
    connection.answer(*connection.held[1])
    world.advance(1)
    assert [value[:1] for value in flat(world.cluster) if value] == [b"0", b"1", b"2", b"3"]


def test_a_stuck_partition_does_not_hold_back_messages_without_a_key() -> None:
    world = World(cluster_of(partitions=2))
    world.node(1).on_request = lambda node, request, body: (
        OverloadedError("busy") if isinstance(request, Produce) and request.partition == 0 else None
    )
    producer = world.producer()
    sent = []
    for number in range(5):
        sent.append(send(producer, b"%d" % number)[0])
        world.settle()
    assert [batch.is_done for batch in sent] == [False, True, True, True, True]
    assert flat(world.cluster, 1) == [b"1", b"2", b"3", b"4"]


def test_a_refusal_that_is_final_fails_that_batch_alone() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(NotFoundError("the queue is gone"))
    producer = world.producer(batch_bytes=100)
    sent = [send(producer, b"%d" % number * 70) for number in range(4)]
    world.advance(1)
    assert isinstance(sent[0][0].error, NotFoundError)
    assert [batch.error for batch, _ in sent[1:]] == [None, None, None]
    assert [value[:1] for value in flat(world.cluster) if value] == [b"1", b"2", b"3"]


def test_a_server_that_forgot_the_producer_gets_a_new_one() -> None:
    world = World(cluster_of())
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    partition = world.cluster.partition()
    partition.sequences.clear()
    partition.known.clear()
    batch, _ = send(producer, b"1")
    world.advance(1)
    assert (batch.error, batch.base_offset) == (None, 1)
    first, second = [read_header(data) for _, _, data in partition.batches]
    assert first.producer_id != second.producer_id
    assert second.base_sequence == 0


def test_a_batch_that_may_be_committed_never_gets_another_identity() -> None:
    world = World(cluster_of())
    world.node(1).on_request = LoseReply()
    producer = world.producer()
    batch, _ = send(producer, b"0")
    world.settle()
    # The answer is lost, and then the server forgets the producer, sequence above 0.
    partition = world.cluster.partition()
    partition.known.clear()
    world.advance(1)
    assert isinstance(batch.error, UnknownOutcomeError)
    assert flat(world.cluster) == [b"0"]
    after, _ = send(producer, b"1")
    world.advance(1)
    assert after.error is None


def test_a_sent_batch_without_an_answer_in_time_is_unknown() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer(timeout_s=3)
    batch, _ = send(producer, b"0")
    world.advance(2.9)
    assert not batch.is_done
    world.advance(0.3)
    assert isinstance(batch.error, UnknownOutcomeError)
    assert producer.buffered_bytes == 0
    # The late answer changes nothing, and the next batch has an identity of its own.
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    after, _ = send(producer, b"1")
    world.advance(1)
    assert (after.error, after.base_offset) == (None, 1)


def test_a_batch_that_never_left_is_known_not_to_be_committed() -> None:
    cluster = cluster_of()
    world = World(cluster)
    producer = world.producer(timeout_s=3)
    world.stop(1)
    world.settle()
    batch, _ = send(producer, b"0")
    world.advance(3.3)
    assert type(batch.error) is UnavailableError
    assert "connection refused" in batch.error.message


def test_refused_for_certain_until_the_deadline_is_not_unknown() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(*[OverloadedError("busy")] * 1000)
    producer = world.producer(timeout_s=3)
    batch, _ = send(producer, b"0")
    world.advance(3.5)
    assert type(batch.error) is UnavailableError
    assert "busy" in batch.error.message


def test_a_confirmation_of_another_count_is_not_believed() -> None:
    world = World(cluster_of())
    answer = Produced(0, base_offset=5, count=2, append_ms=1), b""
    world.node(1).on_request = Script(answer)
    producer = world.producer()
    batch, _ = send(producer, b"0")
    world.settle()
    assert isinstance(batch.error, RemoteProtocolError)
    assert "2 messages are confirmed for a batch of 1" in batch.error.message
    after, _ = send(producer, b"1")
    world.settle()
    assert after.error is None


def test_each_waiter_gets_an_exception_of_its_own() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(NotFoundError("gone", hint="look elsewhere"))
    producer = world.producer()
    batch, _ = send(producer, b"0")
    world.settle()
    first, second = batch.failure(), batch.failure()
    assert first is not second
    assert isinstance(first, NotFoundError)
    assert first.hint == "look elsewhere"


def test_a_silent_connection_is_given_up() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    batch, _ = send(producer, b"0")
    world.settle()
    silent = world.connection(1)
    silent.receive = lambda message: None  # type: ignore[method-assign]  # the network swallows everything
    world.advance(20)
    assert (batch.error, batch.base_offset) == (None, 0)


def test_a_silent_leader_is_left_as_soon_as_another_leads() -> None:
    cluster = cluster_of(nodes=3)
    world = World(cluster)
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    world.node(1).on_request = lambda node, request, body: Hold()
    batch, _ = send(producer, b"1")
    world.advance(1.5)
    assert not batch.is_done
    cluster.move(2)
    world.advance(0.5)
    assert (batch.error, batch.base_offset) == (None, 1)
    assert 2 in world.open_nodes()


def test_a_silent_leader_that_still_leads_keeps_its_connection_and_is_not_asked_again_and_again() -> None:
    cluster = cluster_of(nodes=3)
    world = World(cluster)
    producer = world.producer()
    send(producer, b"0")
    world.settle()
    world.node(1).on_request = lambda node, request, body: Hold()
    batch, _ = send(producer, b"1")
    world.advance(4)
    connection = world.connection(1)
    assert len(world.node(1).of(Produce)) == 2
    asked = sum(len(world.node(node).of(Metadata)) for node in (2, 3))
    assert 5 <= asked <= 30
    for held in list(connection.held):
        connection.answer(*held)
    world.settle()
    assert (batch.error, batch.base_offset) == (None, 1)
    world.node(1).on_request = None
    world.advance(5)
    assert sum(len(world.node(node).of(Metadata)) for node in (2, 3)) <= asked + 1


def test_a_queue_that_is_idle_pings_and_stays() -> None:
    world = World(cluster_of())
    world.producer()
    world.advance(100)
    assert world.dialled == [world.node(1).url]


# --- bounds ---


def test_room_is_taken_and_given_back_in_order() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer(max_buffered_bytes=300)
    send(producer, b"x" * 200)
    world.settle()
    assert not producer.reserve(200)
    producer.room_waiters["large"] = 200
    # A small one that would fit does not overtake.
    assert not producer.reserve(10)
    producer.room_waiters["small"] = 10
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert world.woken == ["large", "small"]
    assert producer.buffered_bytes == 210
    assert not producer.room_waiters


def test_a_message_larger_than_all_room_goes_alone() -> None:
    world = World(cluster_of())
    producer = world.producer(max_buffered_bytes=100)
    batch, _ = send(producer, b"x" * 1000)
    world.settle()
    assert batch.error is None


def test_a_message_that_the_server_would_not_take_is_refused_here() -> None:
    world = World(cluster_of(limits=WireLimits(max_record_bytes=1000)))
    producer = world.producer()
    assert producer.size_of(b"x" * 1000, None, ())
    with pytest.raises(RequestTooLargeError, match="message of 1001 bytes is larger than 1000"):
        producer.size_of(b"x" * 1001, None, ())
    with pytest.raises(InvalidArgumentError, match="cannot be encoded"):
        producer.size_of(b"", None, (("\ud800", b""),))


def test_a_message_that_makes_too_large_a_batch_fails_alone() -> None:
    world = World(cluster_of(limits=WireLimits(max_batch_bytes=1000, max_record_bytes=1000)))
    producer = world.producer(is_compressed=False)
    large, _ = send(producer, b"x" * 1000)
    world.settle()
    assert isinstance(large.error, RequestTooLargeError)
    small, _ = send(producer, b"y")
    world.settle()
    assert (small.error, small.base_offset) == (None, 0)
    assert producer.buffered_bytes == 0


def test_the_servers_bound_on_outstanding_requests_holds() -> None:
    world = World(cluster_of(partitions=8, limits=WireLimits(max_outstanding=3)))
    world.node(1).on_request = Script(*[Hold()] * 3)
    producer = world.producer()
    sent = [send(producer, b"%d" % number, b"key%d" % number) for number in range(40)]
    world.settle()
    assert len(world.node(1).of(Produce)) == 3
    connection = world.connection(1)
    for held in list(connection.held):
        connection.answer(*held)
    world.advance(1)
    assert all(batch.error is None and batch.is_done for batch, _ in sent)


def test_closing_settles_everything() -> None:
    world = World(cluster_of())
    world.node(1).on_request = Script(Hold())
    producer = world.producer()
    sent, _ = send(producer, b"0")
    world.settle()
    waiting, _ = send(producer, b"1")
    producer.close()
    assert isinstance(sent.error, UnknownOutcomeError)
    assert type(waiting.error) is UnavailableError
    assert producer.unsettled() == []
    assert producer.buffered_bytes == 0
