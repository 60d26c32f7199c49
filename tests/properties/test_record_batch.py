"""Record batches: what goes in comes out, and what comes from nowhere is a named error or one true reading."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from logbroker.errors import CorruptBatchError, LogBrokerError, RequestTooLargeError
from logbroker.ids import Offset
from logbroker.record.batch import (
    DEFAULT_LIMITS,
    BatchLimits,
    Codec,
    Record,
    batch_keys,
    check_batch,
    decode_batch,
    encode_batch,
    encode_values,
    read_batch,
    read_header,
    repack,
    stamp,
)
from logbroker.record.compression import compress, decompress_bounded
from logbroker.record.records import encode_records
from logbroker.record.varint import LONG_BITS, encode_varint, read_varint
from tests import raw_batches

INT64 = st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)
# Close enough to one another that their differences fit.
TIMESTAMPS = st.integers(min_value=-(1 << 62), max_value=1 << 62)
SHORT = st.one_of(st.none(), st.binary(max_size=80))
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5))), max_size=3)
RECORDS = st.lists(
    st.one_of(
        st.binary(max_size=200).map(Record),
        st.builds(Record, value=SHORT, key=SHORT, headers=HEADERS.map(tuple), timestamp_ms=TIMESTAMPS),
    ),
    min_size=1,
    max_size=70,
)
PLAIN = st.lists(st.binary(max_size=300), min_size=1, max_size=70)
RANGES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), max_size=5)
CODECS = st.sampled_from(list(Codec))
# Bytes that mean something where a length, a delta or a count is read.
TELLING = st.sampled_from([0, 1, 2, 3, 4, 12, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF])
RECORD_BYTES = st.one_of(
    st.binary(max_size=120),
    st.lists(TELLING, max_size=60).map(bytes),
    st.lists(st.lists(TELLING, max_size=20).map(lambda body: raw_batches.record(bytes(body))), max_size=4).map(
        b"".join
    ),
)


@given(INT64)
def test_numbers_come_back(number: int) -> None:
    encoded = encode_varint(number)
    assert encoded == raw_batches.varint(number)
    assert read_varint(encoded, 0, bits=LONG_BITS) == (number, len(encoded))


@given(st.binary(max_size=12))
def test_a_number_has_one_encoding(data: bytes) -> None:
    try:
        number, end = read_varint(data, 0, bits=LONG_BITS)
    except (CorruptBatchError, IndexError):
        return
    assert encode_varint(number) == data[:end]


@given(st.binary(min_size=1, max_size=2_000), st.integers(1, 50))
def test_compressed_content_comes_back(piece: bytes, times: int) -> None:
    content = piece * times
    assert decompress_bounded(compress(content), len(content)) == content


@given(st.binary(max_size=60), st.booleans())
def test_bytes_that_claim_to_be_a_frame_give_a_named_error_or_their_content(data: bytes, with_magic: bool) -> None:
    frame = b"\x28\xb5\x2f\xfd" + data if with_magic else data
    try:
        content = decompress_bounded(frame, 1 << 16)
    except (CorruptBatchError, RequestTooLargeError):
        return
    assert 0 < len(content) <= 1 << 16


@given(RECORDS, CODECS)
def test_records_come_back(records: list[Record], codec: Codec) -> None:
    batch = encode_batch(records, codec=codec)
    assert check_batch(batch) == read_header(batch)
    assert decode_batch(batch) == records


@given(RECORDS, CODECS)
def test_keys_alone_are_those_of_the_records(records: list[Record], codec: Codec) -> None:
    assert batch_keys(encode_batch(records, codec=codec)) == [record.key for record in records]


@given(PLAIN, INT64, CODECS)
def test_values_come_back_and_are_records(values: list[bytes], timestamp_ms: int, codec: Codec) -> None:
    batch = encode_values(values, timestamp_ms=timestamp_ms, codec=codec)
    records = [Record(value, timestamp_ms=timestamp_ms) for value in values]
    assert batch == encode_batch(records, codec=codec)
    assert decode_batch(batch) == records


@given(RECORDS)
def test_the_two_ways_to_encode_agree(records: list[Record]) -> None:
    batch = encode_batch(records, codec=Codec.NONE)
    assert batch[61:] == encode_records(records, records[0].timestamp_ms, DEFAULT_LIMITS)


@given(RECORDS, CODECS, st.integers(0, (1 << 63) - 100), st.integers(0, (1 << 31) - 1))
def test_a_stamp_changes_the_place_and_nothing_else(
    records: list[Record], codec: Codec, base_offset: int, leader_epoch: int
) -> None:
    batch = encode_batch(records, codec=codec)
    stamped = stamp(batch, Offset(base_offset), leader_epoch)
    assert check_batch(stamped) == check_batch(batch)._replace(
        base_offset=Offset(base_offset), leader_epoch=leader_epoch
    )
    assert list(read_batch(stamped).offsets) == list(range(base_offset, base_offset + len(records)))
    assert decode_batch(stamped) == records


@given(RECORDS, CODECS, RANGES, RANGES)
def test_repacking_keeps_what_is_named_and_moves_nothing(
    records: list[Record], codec: Codec, keep: list[tuple[int, int]], keep_again: list[tuple[int, int]]
) -> None:
    base = 1_000
    part = stamp(encode_batch(records, codec=codec), Offset(base), 1)
    expected = dict(enumerate(records, start=base))
    for ranges in (keep, keep_again):
        part = repack(part, [(Offset(base + start), Offset(base + end)) for start, end in ranges])
        expected = {
            offset: record
            for offset, record in expected.items()
            if any(base + start <= offset < base + end for start, end in ranges)
        }
        opened = read_batch(part)
        assert dict(zip(opened.offsets, opened.records, strict=True)) == expected
        assert opened.header.next_offset == base + len(records)


@given(st.binary(max_size=200))
def test_bytes_from_nowhere_are_a_named_error(data: bytes) -> None:
    with suppress(CorruptBatchError):
        read_header(data)
    with suppress(LogBrokerError):
        check_batch(data)
    # A true checksum by chance is beyond any search.
    with pytest.raises(CorruptBatchError):
        decode_batch(data)


@given(RECORD_BYTES, st.integers(0, 5), st.integers(0, 6), INT64)
@example(raw_batches.record(b"\0\0\0\x01\x7e" + bytes(64) + b"\0"), 1, 0, 0)
@example(raw_batches.record(b"\0\0\0\x01\x80\x01" + bytes(64) + b"\0"), 1, 0, 0)
def test_records_that_are_opened_are_those_bytes_and_no_others(
    data: bytes, count: int, last_offset_delta: int, base_timestamp_ms: int
) -> None:
    batch = raw_batches.seal(
        data, count=count, last_offset_delta=last_offset_delta, base_timestamp_ms=base_timestamp_ms
    )
    try:
        opened = read_batch(batch)
    except LogBrokerError:
        return
    assert encode_records(opened.records, base_timestamp_ms, DEFAULT_LIMITS, deltas=opened.offsets) == data


@given(RECORDS, st.data())
def test_a_change_under_a_true_checksum_is_a_named_error_or_what_it_says(
    records: list[Record], data: st.DataObject
) -> None:
    changed = bytearray(encode_batch(records, codec=Codec.NONE))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(21, len(changed) - 1))] = data.draw(st.one_of(TELLING, st.integers(0, 255)))
    batch = raw_batches.reseal(bytes(changed))
    try:
        opened = read_batch(batch)
    except LogBrokerError:
        return
    assume(opened.header.codec is Codec.NONE)
    deltas = [offset - opened.header.base_offset for offset in opened.offsets]
    again = encode_records(opened.records, opened.header.base_timestamp_ms, DEFAULT_LIMITS, deltas=deltas)
    assert again == batch[61:]


@given(RECORDS, st.integers(1, 400), st.integers(1, 70), st.integers(0, 40))
def test_limits_are_the_same_going_in_and_coming_out(
    records: list[Record], max_record_bytes: int, max_record_count: int, max_header_bytes: int
) -> None:
    limits = BatchLimits(
        max_record_bytes=max_record_bytes, max_record_count=max_record_count, max_header_bytes=max_header_bytes
    )
    batch = encode_batch(records, codec=Codec.NONE)
    try:
        decode_batch(batch, limits)
    except RequestTooLargeError:
        fits = False
    else:
        fits = True
    try:
        encode_batch(records, codec=Codec.NONE, limits=limits)
    except RequestTooLargeError:
        assert not fits
    else:
        assert fits
