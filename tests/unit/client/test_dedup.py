"""Messages with ids of their own in the client: how they travel, and what is made of the answer."""

from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError
from logbroker.record.batch import Record, decode_batch
from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.wire.requests import AnyRequest, Produce, Produced
from logbroker_client.dedup import conflict, id_of, known_of, with_id
from logbroker_client.messages import KnownMessageId, MessageId
from logbroker_client.partitioner import partition_of
from tests.fake_broker import FakeCluster, FakeNode
from tests.unit.client.world import World


def cluster_of(partitions: int = 1) -> FakeCluster:
    cluster = FakeCluster(1)
    cluster.add_queue("orders", partitions)
    return cluster


class Seen:
    """Notes what a broker is asked to produce: records, and whether it is to look for ids."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bool, list[Record]]] = []

    def __call__(self, node: FakeNode, request: AnyRequest, body: bytes) -> None:
        if isinstance(request, Produce):
            self.batches.append((request.partition, request.dedup, decode_batch(body)))


def test_an_id_is_a_header_and_is_text_or_bytes() -> None:
    assert with_id((), None) == ()
    assert with_id((("a", b"1"),), "grün") == (("a", b"1"), (DEDUP_HEADER, "grün".encode()))
    assert id_of(with_id((), b"\xff")) == b"\xff"
    assert id_of((("a", b"1"),)) is None
    for bad in ("", "x" * 129, b"", "\ud800"):
        with pytest.raises(InvalidArgumentError, match="dedup_id"):
            with_id((), bad)
    with pytest.raises(InvalidArgumentError, match="a message has 2 ids"):
        id_of(with_id(with_id((), "a"), "b"))


def test_only_a_batch_with_an_id_says_that_it_has_one() -> None:
    world = World(cluster_of())
    seen = Seen()
    world.node(1).on_request = seen
    producer = world.producer()
    for headers in ((), with_id((), "a"), (("h", b"1"),)):
        assert producer.reserve(10)
        producer.append(b"v", None, headers, 10)
        world.settle()
    assert [has_ids for _, has_ids, _ in seen.batches] == [False, True, False]


def test_without_a_key_the_id_picks_the_partition_as_a_key_would() -> None:
    world = World(cluster_of(7))
    seen = Seen()
    world.node(1).on_request = seen
    producer = world.producer()
    for number in range(20):
        assert producer.reserve(10)
        producer.append(b"v", b"k" if number % 2 else None, with_id((), f"order-{number}"), 10)
    world.settle()
    found: dict[bytes | None, tuple[int, bytes | None]] = {}
    for partition, _, records in seen.batches:
        found |= {dict(record.headers)[DEDUP_HEADER]: (partition, record.key) for record in records}
    assert len(found) == 20
    for dedup_id, (partition, key) in found.items():
        assert partition == partition_of(dedup_id or b"" if key is None else key, 7)


def test_a_batch_with_ids_takes_no_more_than_1000_messages() -> None:
    world = World(cluster_of())
    seen = Seen()
    world.node(1).on_request = seen
    producer = world.producer()
    values = [b"v"] * 1_500
    assert producer.reserve(1)
    producer.append_values(values, 1)
    for number in range(1_200):
        assert producer.reserve(1)
        producer.append(b"v", None, with_id((), str(number)), 1)
    assert producer.reserve(1)
    producer.append_values(values, 1)
    world.settle()
    told = [(has_ids, len(records)) for _, has_ids, records in seen.batches]
    assert told == [(False, 1_500), (True, 1_000), (True, 200), (False, 1_500)]


def test_an_answer_tells_of_some_messages_that_they_were_known() -> None:
    plain = Produced(1, base_offset=3, count=3, append_ms=5)
    assert known_of(plain) is None
    some = Produced(1, base_offset=3, count=3, append_ms=5, duplicates=[(0, 2)], conflicts=[2])
    assert known_of(some) == {0: 2, 2: None}
    assert conflict().code == "dedup_conflict"


def test_the_id_of_a_known_message_is_like_any_other_and_says_so() -> None:
    known, usual = KnownMessageId("q", 1, 2), MessageId("q", 1, 2)
    assert known == usual
    assert hash(known) == hash(usual)
    assert str(known) == "q/1/2"
    assert (known.duplicate, usual.duplicate) == (True, False)
    assert isinstance(known, MessageId)
