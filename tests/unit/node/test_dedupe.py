"""Messages with ids of their own on nodes: known whoever leads, and answered with the first."""

from __future__ import annotations

import pytest

from logbroker.errors import (
    CorruptBatchError,
    InvalidArgumentError,
    QueueFullError,
    RequestTooLargeError,
    UnavailableError,
)
from logbroker.ids import QueueName
from logbroker.node.catalogue.commands import CreateQueue
from logbroker.node.catalogue.rows import QueueSettings
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.placement import partition_settings
from logbroker.node.requests import CancelReply, CancelRequest, ProduceReply, ProduceRequest
from logbroker.partition.limits import SizeLimits
from logbroker.record.batch import HEADER_BYTES, Record, encode_batch, encode_values
from logbroker.record.checksum import crc32c
from logbroker.record.dedup_ids import DEDUP_HEADER
from tests.unit.node.catalogue import kit as catalogue_kit
from tests.unit.node.engine_kit import KitCluster, ranges_of


def clustered(size: int = 1, *, window_ms: int = 300_000, count: int = 1_000) -> KitCluster:
    cluster = KitCluster(size, settings=PartitionSettings(dedup_window_ms=window_ms, dedup_count=count))
    cluster.elect()
    return cluster


def request(*words: str, producer: tuple[int, int] | None = None, delay_ms: int = 0) -> ProduceRequest:
    """Each word is an id, a colon, a value; a word without a colon is a value."""
    records = []
    for word in words:
        name, colon, value = word.rpartition(":")
        headers = ((DEDUP_HEADER, name.encode()),) if colon else ()
        records.append(Record(value.encode(), headers=headers, timestamp_ms=len(words)))
    if producer is None:
        return ProduceRequest(encode_batch(records), delay_ms, dedup=True)
    encoded = encode_batch(records, producer_id=producer[0], producer_epoch=0, base_sequence=producer[1])
    return ProduceRequest(encoded, delay_ms, dedup=True)


def produce(cluster: KitCluster, *words: str, producer: tuple[int, int] | None = None) -> ProduceReply:
    reply = cluster.ask(request(*words, producer=producer))
    assert isinstance(reply, ProduceReply), f"{reply!r}"
    return reply


def test_another_leader_knows_what_this_one_was_sent() -> None:
    cluster = clustered(3)
    first = produce(cluster, "a:1", "b:1", producer=(1, 0))
    for _ in range(3):
        gone = cluster.leader
        cluster.restart(int(gone.number))
        cluster.elect()
    again = produce(cluster, "b:1")
    assert (again.base_offset, again.duplicate, again.duplicates) == (1, True, ((0, 1),))
    assert again.append_ms == first.append_ms
    assert cluster.leader.machine.next_offset == 2


def test_a_batch_tells_which_of_its_messages_were_known() -> None:
    cluster = clustered()
    produce(cluster, "a:1")
    sent = ["b:1", "a:1", "x", "a:2"]
    first = produce(cluster, *sent, producer=(2, 0))
    again = produce(cluster, *sent, producer=(2, 0))
    for reply in (first, again):
        assert (reply.base_offset, reply.count) == (1, 4)
        assert (reply.duplicates, reply.conflicts) == (((1, 0),), (3,))
    assert (first.duplicate, again.duplicate) == (False, True)
    assert ranges_of(cluster.receive()) == ((0, 2), (3, 4))


def test_a_conflict_alone_is_told_and_not_appended() -> None:
    cluster = clustered()
    produce(cluster, "a:1")
    reply = produce(cluster, "a:2")
    assert (reply.conflicts, reply.duplicates, reply.append_ms) == ((0,), (), 0)
    assert cluster.leader.machine.next_offset == 1


def test_a_batch_that_is_not_said_to_have_ids_stays_closed() -> None:
    cluster = clustered()
    sealed = request("a:1")
    for _ in range(2):
        assert isinstance(cluster.ask(ProduceRequest(sealed.batch)), ProduceReply)
    assert cluster.leader.machine.next_offset == 2
    assert len(cluster.leader.machine.dedupe) == 0


def test_a_batch_that_is_said_to_have_ids_and_has_none_is_like_any_other() -> None:
    cluster = clustered()
    last = cluster.leader.replica.core.last_index
    produce(cluster, "x", "y")
    assert cluster.leader.replica.core.last_index == last + 1


@pytest.mark.parametrize(("window_ms", "passed_ms"), [(2_000, 2_000), (0, 0)])
def test_a_queue_says_how_long_ids_are_remembered(window_ms: int, passed_ms: int) -> None:
    cluster = clustered(window_ms=window_ms)
    first = produce(cluster, "a:1")
    if window_ms:
        assert produce(cluster, "a:1").duplicate
    while cluster.leader.replica.stamp_ms() < first.append_ms + passed_ms:
        cluster.tick()
    assert not produce(cluster, "a:1").duplicate


def test_a_queue_that_is_full_still_says_what_it_has() -> None:
    cluster = KitCluster(
        1, settings=PartitionSettings(dedup_window_ms=300_000, dedup_count=9, limits=SizeLimits(max_messages=2))
    )
    cluster.elect()
    produce(cluster, "a:1", "b:1", producer=(1, 0))
    again = produce(cluster, "b:1", "a:2", producer=(2, 0))
    assert (again.duplicates, again.conflicts) == (((0, 1),), (1,))
    assert isinstance(cluster.ask(request("a:1", "c:1", producer=(2, 2))), QueueFullError)
    cluster.ack(cluster.receive(1).lease, (0, 1))
    assert produce(cluster, "a:1", "c:1", producer=(2, 2)).duplicates == ((0, 0),)


def test_a_queue_says_how_many_ids_are_remembered() -> None:
    cluster = clustered(count=2)
    produce(cluster, "a:1", "b:1", "c:1")
    assert produce(cluster, "b:1").duplicate
    assert not produce(cluster, "a:1").duplicate


def test_nothing_is_looked_up_while_the_settings_are_not_known() -> None:
    cluster = KitCluster(1, settings=PartitionSettings(failures=None))
    cluster.elect()
    assert isinstance(cluster.ask(request("a:1")), UnavailableError)


def test_a_duplicate_in_a_batch_for_later_is_not_delivered_when_it_is_due() -> None:
    cluster = clustered()
    produce(cluster, "a:1")
    reply = cluster.ask(request("b:1", "a:1", "c:1", delay_ms=1_000))
    assert isinstance(reply, ProduceReply)
    assert reply.duplicates == ((1, 0),)
    assert reply.due_ms
    assert ranges_of(cluster.receive()) == ((0, 1),)
    cluster.tick(60)
    # The first lease has run out by then.
    assert ranges_of(cluster.receive()) == ((0, 2), (3, 4))
    # Cancelling has never been of use to what nobody gets.
    assert cluster.ask(CancelRequest(((2, 3),))) == CancelReply(1, 0)


def test_an_id_whose_message_was_cancelled_is_not_told_as_sent() -> None:
    cluster = clustered(3)
    cluster.ask(request("a:1", "b:1", delay_ms=5_000))
    assert isinstance(cluster.ask(CancelRequest(((0, 1),))), CancelReply)
    sent = ["a:1", "b:1", "c:1"]
    first = produce(cluster, *sent, producer=(3, 0))
    again = produce(cluster, *sent, producer=(3, 0))
    for reply in (first, again):
        assert (reply.duplicates, reply.conflicts) == (((1, 1),), (0,))
    alone = produce(cluster, "a:1")
    assert (alone.duplicates, alone.conflicts) == ((), (0,))


def test_ids_that_are_no_ids_are_refused() -> None:
    cluster = clustered()
    assert isinstance(cluster.ask(request(f"{'x' * 129}:1")), InvalidArgumentError)
    twice = Record(b"v", headers=((DEDUP_HEADER, b"x"), (DEDUP_HEADER, b"x")))
    assert isinstance(cluster.ask(ProduceRequest(encode_batch([twice]), dedup=True)), InvalidArgumentError)
    assert isinstance(cluster.ask(request(*["a:1"] * 1_001)), RequestTooLargeError)
    assert cluster.leader.machine.next_offset == 0


def test_a_batch_that_lies_about_its_records_is_its_senders_fault() -> None:
    cluster = clustered()
    whole = encode_values([b"x" * 50] * 4, timestamp_ms=1)
    lying = whole[: HEADER_BYTES - 4] + (5).to_bytes(4, "big") + whole[HEADER_BYTES:]
    lying = lying[:23] + (4).to_bytes(4, "big") + lying[27:]
    lying = lying[:17] + crc32c(lying[21:]).to_bytes(4, "big") + lying[21:]
    assert isinstance(cluster.ask(ProduceRequest(lying, dedup=True)), CorruptBatchError)
    assert cluster.leader.machine.next_offset == 0


def test_a_queue_that_stops_to_remember_takes_no_undelivered_message_for_sent() -> None:
    cluster = clustered()
    produce(cluster, "a:1")
    produce(cluster, "a:1", "b:1", producer=(2, 0))
    service = cluster.leader.service
    service.settings = PartitionSettings(dedup_window_ms=0)
    again = produce(cluster, "a:1", "b:1", producer=(2, 0))
    assert (again.duplicate, again.duplicates, again.conflicts) == (True, (), (0,))
    assert not produce(cluster, "b:1").duplicate


def test_ids_are_never_remembered_longer_than_messages() -> None:
    catalogue = catalogue_kit.cluster(1)
    catalogue_kit.run(catalogue, CreateQueue(QueueName("orders"), QueueSettings(retention_ms=60_000)))
    (queue,) = catalogue.queues()
    assert partition_settings(catalogue, queue, 0).dedup_window_ms == 60_000
