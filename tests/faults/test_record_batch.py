"""Whatever is done to the bytes of a batch: a named error or the records that went in, nothing else."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest

from logbroker.errors import CorruptBatchError, LogBrokerError
from logbroker.ids import Offset
from logbroker.record.batch import (
    BatchLimits,
    Codec,
    Record,
    check_batch,
    decode_batch,
    encode_batch,
    read_header,
    repack,
    stamp,
)
from tests.raw_batches import reseal, seal, varint

TEXT = b'{"order":17,"state":"paid"},'
HEADERS = (("trace", b"0123"), ("empty", None))


def sample(records: list[Record], codec: Codec) -> bytes:
    return stamp(encode_batch(records, codec=codec, producer_id=3, producer_epoch=1, base_sequence=9), Offset(7), 2)


RECORDS = {
    "one": [Record(b"value", timestamp_ms=5)],
    "plain": [Record(TEXT[:number], timestamp_ms=5) for number in range(8)],
    "rich": [Record(TEXT * 3, key=b"key", headers=HEADERS, timestamp_ms=number * 1_000) for number in range(3)],
    "nulls": [Record(None, timestamp_ms=-5), Record(None, key=b"")],
}
SAMPLES = {
    **{name: sample(records, Codec.NONE) for name, records in RECORDS.items()},
    "plain, zstd": sample([Record(TEXT, timestamp_ms=5)] * 12, Codec.ZSTD),
    "rich, zstd": sample(RECORDS["rich"] * 3, Codec.ZSTD),
}

# Base offset and leader epoch are the broker's to write, and the entry around the batch vouches for them.
UNCOVERED = [*range(8), *range(12, 16)]


def read_every_way(batch: bytes) -> None:
    """Do everything that reads a batch; only a named error may come out."""
    for read in (read_header, check_batch, decode_batch, repack_one):
        with contextlib.suppress(LogBrokerError):
            read(batch)


def repack_one(batch: bytes) -> bytes:
    return repack(batch, [(Offset(8), Offset(9))])


def test_samples_are_compressed_as_named() -> None:
    for name, batch in SAMPLES.items():
        assert (read_header(batch).codec is Codec.ZSTD) == name.endswith("zstd")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_cut_anywhere_is_corrupt(name: str) -> None:
    batch = SAMPLES[name]
    for end in range(len(batch)):
        with pytest.raises(CorruptBatchError):
            decode_batch(batch[:end])
        with pytest.raises(CorruptBatchError):
            check_batch(batch[:end])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_cut_anywhere_under_a_true_checksum_is_corrupt(name: str) -> None:
    batch = SAMPLES[name]
    for end in range(61, len(batch)):
        cut = reseal(batch[:end])
        with pytest.raises(CorruptBatchError):
            decode_batch(cut)
        read_every_way(cut)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flipped_bit_is_corrupt(name: str) -> None:
    batch = bytearray(SAMPLES[name])
    for position in range(len(batch)):
        if position in UNCOVERED:
            continue
        for bit in range(8):
            batch[position] ^= 1 << bit
            with pytest.raises(CorruptBatchError):
                decode_batch(batch)
            with pytest.raises(CorruptBatchError):
                check_batch(batch)
            batch[position] ^= 1 << bit


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flipped_bit_in_what_the_broker_writes_leaves_the_records(name: str) -> None:
    batch = bytearray(SAMPLES[name])
    records = decode_batch(batch)
    for position in UNCOVERED:
        for bit in range(8):
            batch[position] ^= 1 << bit
            try:
                assert decode_batch(batch) == records
            except CorruptBatchError:
                # The sign of the base offset.
                assert (position, bit) == (0, 7)
            batch[position] ^= 1 << bit


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flipped_bit_under_a_true_checksum_is_a_named_error_or_other_records(name: str) -> None:
    batch = SAMPLES[name]
    for position in range(21, len(batch)):
        for bit in range(8):
            lie = bytearray(batch)
            lie[position] ^= 1 << bit
            read_every_way(reseal(bytes(lie)))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_changed_byte_under_a_true_checksum_is_a_named_error_or_other_records(name: str) -> None:
    chance = random.Random(name)
    batch = SAMPLES[name]
    for _ in range(2_000):
        lie = bytearray(batch)
        for _ in range(chance.randrange(1, 4)):
            lie[chance.randrange(21, len(lie))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        read_every_way(reseal(bytes(lie)))


@pytest.mark.parametrize("count", [-(1 << 31), -1, 0, 2, 7, 9, 10_000, (1 << 31) - 1])
@pytest.mark.parametrize("last_offset_delta", [-(1 << 31), -1, 0, 7, 9_999, (1 << 31) - 1])
def test_lying_counts_are_a_named_error(count: int, last_offset_delta: int) -> None:
    data = SAMPLES["plain"][61:]
    with pytest.raises(LogBrokerError):
        decode_batch(seal(data, count=count, last_offset_delta=last_offset_delta))


@pytest.mark.parametrize("length", [-(1 << 31), -2, 1 << 20, (1 << 31) - 1])
def test_lying_lengths_take_no_memory(length: int) -> None:
    lie = varint(length)
    rest = b"\0" * 50
    lies = {
        "record": lie + rest,
        "key": varint(len(rest) + 3 + len(lie)) + b"\0\0\0" + lie + rest,
        "value": varint(len(rest) + 4 + len(lie)) + b"\0\0\0\1" + lie + rest,
        "header count": varint(len(rest) + 5 + len(lie)) + b"\0\0\0\1\0" + lie + rest,
        "header key": varint(len(rest) + 6 + len(lie)) + b"\0\0\0\1\0\2" + lie + rest,
        "header value": varint(len(rest) + 7 + len(lie)) + b"\0\0\0\1\0\2\0" + lie + rest,
    }
    tracemalloc.start()
    try:
        for data in lies.values():
            with pytest.raises(CorruptBatchError):
                decode_batch(seal(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 19


def test_the_most_that_fits_takes_little_more_than_it_holds() -> None:
    limits = BatchLimits()
    value = bytes(800)
    batch = encode_batch(
        [Record(value, key=b"%d" % number) for number in range(10_000)], limits=limits, codec=Codec.ZSTD
    )
    tracemalloc.start()
    try:
        records = decode_batch(batch, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == 10_000
    # Once inflated as a whole, once cut into values.
    assert peak < 3 * limits.max_uncompressed_bytes
