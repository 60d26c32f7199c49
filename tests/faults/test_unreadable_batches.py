"""Batches that keep their place in the log and cannot be opened: they reach the consumer, who rejects them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import Offset
from logbroker.node.requests import ProduceReply, ProduceRequest
from logbroker.record.batch import HEADER_BYTES, Record, check_batch, decode_batch, encode_batch, unreadable_batch
from logbroker.record.checksum import crc32c
from logbroker.record.compression import Codec
from logbroker.storage.wal import WalOptions
from tests.unit.node.engine_kit import ENGINE, STORE, KitCluster

CRC_AT, COVERED_FROM = 17, 21
WIDE_STORE = replace(STORE, wal=WalOptions(file_bytes=1 << 20), max_commit_bytes=256 << 10)
WIDE_ENGINE = replace(ENGINE, replica=replace(ENGINE.replica, max_commit_bytes=256 << 10))


def sealed_nonsense(count: int) -> bytes:
    """A batch with a valid checksum over a zstd frame that cannot be inflated: who takes it does not look inside."""
    chance = random.Random(1)
    records = [Record(bytes(chance.choices(b"abcdefgh", k=4_000))) for _ in range(count)]
    batch = bytearray(encode_batch(records, codec=Codec.ZSTD))
    for at in range(HEADER_BYTES + 40, len(batch), 50):
        batch[at] ^= 0xFF
    batch[CRC_AT:COVERED_FROM] = crc32c(bytes(batch[COVERED_FROM:])).to_bytes(4, "big")
    check_batch(bytes(batch))
    with pytest.raises(CorruptBatchError):
        decode_batch(bytes(batch))
    return bytes(batch)


def test_a_batch_that_cannot_be_inflated_does_not_hold_up_the_queue() -> None:
    """A part of it is leased, so the rest would be left out of what is sent, if it could be opened."""
    cluster = KitCluster(1, store=WIDE_STORE, engine=WIDE_ENGINE)
    cluster.elect()
    batch = sealed_nonsense(60)
    assert len(batch) > 80_000
    assert isinstance(cluster.ask(ProduceRequest(batch)), ProduceReply)
    cluster.produce(b"behind it")
    reply = cluster.receive(max_count=1)
    assert [(part.base_offset, part.repacked, part.ranges) for part in reply.parts] == [(0, False, ((0, 1, 1),))]
    with pytest.raises(CorruptBatchError):
        decode_batch(reply.parts[0].batch)
    cluster.ack(reply.lease, (0, 1))
    rest = cluster.receive(max_count=100)
    assert sum(end - start for part in rest.parts for start, end, _ in part.ranges) == 60


@pytest.mark.parametrize(("count", "size"), [(1, HEADER_BYTES), (3, 200), (10_000, 1 << 20)])
def test_what_stands_in_for_a_lost_batch_has_its_offsets_and_fails_its_checksum(count: int, size: int) -> None:
    batch = unreadable_batch(Offset(7), count, size_bytes=size, timestamp_ms=5)
    assert len(batch) == size
    with pytest.raises(CorruptBatchError, match="checksum"):
        decode_batch(batch)
