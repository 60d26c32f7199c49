"""Our record batches and those of others are the same: kafka-python as it is installed, and the golden vectors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from logbroker.ids import Offset
from logbroker.record.batch import (
    BatchLimits,
    Codec,
    Record,
    check_batch,
    decode_batch,
    encode_batch,
    read_batch,
    read_header,
    repack,
    stamp,
)

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "record_batches.json").read_text()
)
NOW_MS = 1_700_000_000_000
LIMITS = BatchLimits(max_batch_bytes=4 << 20)


def chance_records(count: int) -> list[Record]:
    chance = random.Random(count)
    return [
        Record(
            value=chance.choice((None, b"", b'{"state":"paid"}' * chance.randrange(90))),
            key=chance.choice((None, b"", b"order-%d" % number)),
            headers=chance.choice(((), (("traceparent", b"00-ab"),), (("", b""), ("\N{SNOWMAN}", None)))),
            timestamp_ms=NOW_MS + chance.choice((0, 1, -1, 60_000, -(10**9), 10**11)),
        )
        for number in range(count)
    ]


SAMPLES = {
    "one": [Record(b"value", timestamp_ms=NOW_MS)],
    "plain": [Record(b"%d" % number * 30, timestamp_ms=NOW_MS) for number in range(300)],
    "large values": [Record(b"ab" * size, timestamp_ms=NOW_MS) for size in (4_095, 4_096, 20_000)],
    **{f"{count} of all kinds": chance_records(count) for count in (1, 2, 64, 65, 1_000)},
}


def read_with_kafka_python(batch: bytes) -> list[tuple[int, Record]]:
    theirs = DefaultRecordBatch(batch)
    assert theirs.validate_crc()
    return [
        (record.offset, Record(record.value, record.key, tuple(record.headers), record.timestamp)) for record in theirs
    ]


def make_with_kafka_python(records: list[Record], *, codec: int, producer: tuple[int, int, int]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, False, *producer, 4 << 20)
    for offset, (value, key, headers, timestamp_ms) in enumerate(records):
        assert builder.append(offset, timestamp_ms, key, value, list(headers)) is not None
    return bytes(builder.build())


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("name", SAMPLES)
def test_kafka_python_reads_what_we_make(name: str, codec: Codec) -> None:
    batch = stamp(encode_batch(SAMPLES[name], codec=codec, limits=LIMITS), Offset(1_000), 5)
    assert read_with_kafka_python(batch) == list(enumerate(SAMPLES[name], start=1_000))


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("name", SAMPLES)
def test_we_read_what_kafka_python_makes(name: str, codec: Codec) -> None:
    batch = make_with_kafka_python(SAMPLES[name], codec=codec, producer=(9, 2, 30))
    header = check_batch(batch, LIMITS)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 2, 30)
    assert decode_batch(batch, LIMITS) == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_uncompressed_batches_are_the_same_bytes(name: str) -> None:
    theirs = make_with_kafka_python(SAMPLES[name], codec=0, producer=(9, 2, 30))
    ours = encode_batch(
        SAMPLES[name], codec=Codec.NONE, producer_id=9, producer_epoch=2, base_sequence=30, limits=LIMITS
    )
    # They leave the leader epoch 0 and we -1; it is the broker's to write.
    assert stamp(ours, Offset(0), 0) == stamp(theirs, Offset(0), 0)


def test_the_headers_agree() -> None:
    batch = stamp(
        encode_batch(SAMPLES["plain"], producer_id=4_000_000_001, producer_epoch=7, base_sequence=11), Offset(50), 3
    )
    ours = read_header(batch)
    theirs = DefaultRecordBatch(batch)
    assert ours.base_offset == theirs.base_offset
    assert ours.leader_epoch == theirs.leader_epoch
    assert ours.crc == theirs.crc
    assert ours.codec == theirs.compression_type
    assert ours.last_offset_delta == theirs.last_offset_delta
    assert ours.next_offset == theirs.next_offset
    assert ours.base_timestamp_ms == theirs.first_timestamp
    assert ours.max_timestamp_ms == theirs.max_timestamp
    assert ours.producer_id == theirs.producer_id
    assert ours.producer_epoch == theirs.producer_epoch
    assert ours.base_sequence == theirs.base_sequence
    assert ours.record_count == theirs.records_count
    assert ours.size_bytes == theirs.size_in_bytes


@pytest.mark.parametrize("codec", list(Codec))
def test_kafka_python_reads_a_repacked_batch(codec: Codec) -> None:
    records = SAMPLES["65 of all kinds"]
    batch = stamp(encode_batch(records, codec=codec), Offset(100), 1)
    part = repack(batch, [(Offset(103), Offset(105)), (Offset(164), Offset(165))])
    expected = [(offset, records[offset - 100]) for offset in (103, 104, 164)]
    assert read_with_kafka_python(part) == expected
    assert DefaultRecordBatch(part).next_offset == DefaultRecordBatch(batch).next_offset == 165


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['name']}, {vector['made_with']}")
def test_a_golden_batch_means_what_its_maker_meant(vector: dict[str, Any]) -> None:
    batch = bytes.fromhex(vector["batch"])
    records = [
        Record(
            value=None if row["value"] is None else bytes.fromhex(row["value"]),
            key=None if row["key"] is None else bytes.fromhex(row["key"]),
            headers=tuple((key, None if value is None else bytes.fromhex(value)) for key, value in row["headers"]),
            timestamp_ms=row["timestamp_ms"],
        )
        for row in vector["records"]
    ]
    header = check_batch(batch)
    for field in ("codec", "base_timestamp_ms", "max_timestamp_ms", "producer_id", "producer_epoch", "base_sequence"):
        assert getattr(header, field) == vector[field]
    assert list(read_batch(batch).offsets) == list(range(len(records)))
    assert read_batch(batch).records == records


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if not vector["codec"]],
    ids=lambda vector: f"{vector['name']}, {vector['made_with']}",
)
def test_a_golden_batch_is_what_we_make_too(vector: dict[str, Any]) -> None:
    batch = bytes.fromhex(vector["batch"])
    again = encode_batch(
        decode_batch(batch),
        codec=Codec.NONE,
        producer_id=vector["producer_id"],
        producer_epoch=vector["producer_epoch"],
        base_sequence=vector["base_sequence"],
    )
    assert stamp(again, Offset(0), 0) == stamp(batch, Offset(0), 0)
