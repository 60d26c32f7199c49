from __future__ import annotations

import random
import tracemalloc
from typing import ClassVar

import pytest
import zstandard

from logbroker.errors import CorruptBatchError, InvalidArgumentError, RequestTooLargeError
from logbroker.ids import Offset
from logbroker.record.batch import (
    HEADER_BYTES,
    BatchHeader,
    BatchLimits,
    Codec,
    DecodedBatch,
    Record,
    check_batch,
    decode_batch,
    encode_batch,
    encode_values,
    read_batch,
    read_header,
    repack,
    stamp,
)
from tests.raw_batches import bombs, record, reseal, seal, varint

NULL = b"\x01"
# Attributes, deltas, null key, empty value, no headers: the smallest record there is.
TINY = record(b"\0\0\0" + NULL + b"\0\0")
TEXT = b'{"order":17,"state":"paid"},' * 100

BOMBS = bombs(random.Random(1).randbytes(3_000) * 20)
# What the header of a frame does not tell.
UNSEEN = {
    "skippable frame last",
    "two frames",
    "frame and one byte",
    "cut short",
    "stated size above the true one",
    "stated size below the true one",
}

EVERYTHING = [
    Record(b"value", key=b"key", headers=(("a", b"1"), ("a", None), ("\N{SNOWMAN}", b"")), timestamp_ms=1_000),
    Record(None, key=b"", timestamp_ms=999),
    Record(b"", key=None, timestamp_ms=-5),
    Record(TEXT, key=b"k" * 70, timestamp_ms=10**12),
    Record(None),
]


def fault_id(argument: bytes | str) -> str:
    """Name a case by the fault it shows, and not by its bytes."""
    return argument if isinstance(argument, str) else ""


def tiny(count: int, *, delta_step: int = 1) -> bytes:
    return b"".join(record(b"\0\0" + varint(number * delta_step) + NULL + b"\0\0") for number in range(count))


def stored(records: list[Record], base_offset: int = 100, codec: Codec = Codec.ZSTD) -> bytes:
    return stamp(encode_batch(records, codec=codec), Offset(base_offset), 3)


class TestEncode:
    def test_a_batch_of_one_value_is_these_bytes(self) -> None:
        assert encode_values([b"hello"], timestamp_ms=1_700_000_000_000) == bytes.fromhex(
            "0000000000000000 0000003d ffffffff 02 e641a44b"  # base offset, length, leader epoch, magic, checksum
            "0000 00000000 0000018bcfe56800 0000018bcfe56800"  # attributes, last offset delta, timestamps
            "ffffffffffffffff ffff ffffffff 00000001"  # no producer, record count
            "16 00 00 00 01 0a 68656c6c6f 00"
        )

    def test_records_come_back_as_they_went_in(self) -> None:
        assert decode_batch(encode_batch(EVERYTHING)) == EVERYTHING

    @pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 63, 64, 65, 8180, 8191, 8192, 20_000])
    @pytest.mark.parametrize("count", [1, 63, 64, 65])
    def test_values_alone_give_the_bytes_of_records(self, size: int, count: int) -> None:
        values = [b"v" * size] * count
        limits = BatchLimits(max_batch_bytes=2 << 20)
        batch = encode_values(values, timestamp_ms=5, codec=Codec.NONE, limits=limits)
        records = [Record(value, timestamp_ms=5) for value in values]
        assert batch == encode_batch(records, codec=Codec.NONE, limits=limits)
        assert batch == seal(
            b"".join(
                record(b"\0\0" + varint(delta) + NULL + varint(size) + value + b"\0")
                for delta, value in enumerate(values)
            ),
            count=count,
            base_timestamp_ms=5,
            max_timestamp_ms=5,
        )
        assert decode_batch(batch) == records

    def test_a_batch_of_ten_thousand_records_comes_back(self) -> None:
        values = [b"%d" % number for number in range(10_000)]
        assert [record.value for record in decode_batch(encode_values(values, timestamp_ms=0))] == values

    def test_records_beyond_the_tables_come_back(self) -> None:
        limits = BatchLimits(max_record_count=20_000)
        values = [b"%d" % number for number in range(20_000)]
        batch = encode_values(values, timestamp_ms=0, limits=limits)
        assert [record.value for record in decode_batch(batch, limits)] == values

    def test_what_compresses_is_compressed(self) -> None:
        batch = encode_values([TEXT], timestamp_ms=0)
        assert read_header(batch).codec is Codec.ZSTD
        assert len(batch) < len(TEXT) // 10

    def test_what_does_not_compress_stays_as_it_is(self) -> None:
        batch = encode_values([random.Random(1).randbytes(5_000)], timestamp_ms=0)
        assert read_header(batch).codec is Codec.NONE

    def test_what_is_short_is_not_worth_compressing(self) -> None:
        assert read_header(encode_values([b"a" * 250], timestamp_ms=0)).codec is Codec.NONE

    def test_what_would_look_like_a_bomb_stays_as_it_is(self) -> None:
        batch = encode_values([bytes(1_000_000)], timestamp_ms=0)
        assert read_header(batch).codec is Codec.NONE
        check_batch(batch)
        assert decode_batch(batch) == [Record(bytes(1_000_000))]

    def test_no_compression_is_none(self) -> None:
        assert read_header(encode_values([TEXT], timestamp_ms=0, codec=Codec.NONE)).codec is Codec.NONE

    def test_the_header_says_who_sent_it_and_when(self) -> None:
        batch = encode_batch(EVERYTHING, producer_id=7, producer_epoch=2, base_sequence=40)
        header = read_header(batch)
        assert header == BatchHeader(
            base_offset=Offset(0),
            leader_epoch=-1,
            crc=header.crc,
            codec=Codec.ZSTD,
            last_offset_delta=4,
            base_timestamp_ms=1_000,
            max_timestamp_ms=10**12,
            producer_id=7,
            producer_epoch=2,
            base_sequence=40,
            record_count=5,
            size_bytes=len(batch),
        )

    def test_nothing_is_no_batch(self) -> None:
        with pytest.raises(InvalidArgumentError, match="no records"):
            encode_batch([])
        with pytest.raises(InvalidArgumentError, match="no records"):
            encode_values([], timestamp_ms=0)

    @pytest.mark.parametrize("timestamp_ms", [1 << 63, -(1 << 63) - 1])
    def test_a_timestamp_beyond_64_bits_is_refused(self, timestamp_ms: int) -> None:
        with pytest.raises(InvalidArgumentError, match=str(timestamp_ms)):
            encode_batch([Record(b""), Record(b"", timestamp_ms=timestamp_ms)])
        with pytest.raises(InvalidArgumentError, match="does not fit"):
            encode_values([b""], timestamp_ms=timestamp_ms)

    @pytest.mark.parametrize(("first", "second"), [((1 << 63) - 1, 1 << 63), (-(1 << 63), -(1 << 63) - 1)])
    def test_a_timestamp_beyond_64_bits_is_refused_beside_one_at_the_end(self, first: int, second: int) -> None:
        with pytest.raises(InvalidArgumentError, match=str(second)):
            encode_batch([Record(b"", timestamp_ms=first), Record(b"", timestamp_ms=second)])

    def test_timestamps_too_far_apart_are_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="more than 64 bits"):
            encode_batch([Record(b"", timestamp_ms=-(1 << 63)), Record(b"", timestamp_ms=1)])

    def test_timestamps_at_the_ends_come_back(self) -> None:
        records = [Record(b"", timestamp_ms=timestamp_ms) for timestamp_ms in (0, (1 << 63) - 1, -(1 << 63), -1)]
        assert decode_batch(encode_batch(records)) == records

    def test_a_header_key_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="record 1 has a header key"):
            encode_batch([Record(b""), Record(b"", headers=(("\ud800", b""),))])

    @pytest.mark.parametrize(
        ("producer_id", "producer_epoch", "base_sequence"), [(5, -1, 0), (5, 0, -1), (-2, 0, 0), (1 << 63, 0, 0)]
    )
    def test_half_a_producer_is_refused(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        with pytest.raises(InvalidArgumentError):
            encode_values(
                [b""],
                timestamp_ms=0,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                base_sequence=base_sequence,
            )


LIMITS = BatchLimits(
    max_batch_bytes=500, max_record_bytes=300, max_record_count=5, max_uncompressed_bytes=800, max_header_bytes=40,
    max_header_count=4,
)  # fmt: skip
SMALL_CONTENT = BatchLimits(max_uncompressed_bytes=800)
NOISE = random.Random(2).randbytes(500)
TOO_LARGE = [
    ([Record(b"")] * 6, "6 records, above 5"),
    ([Record(b""), Record(bytes(301))], "record 1 has 301 bytes, above 300"),
    ([Record(bytes(290), key=bytes(11))], "record 0 has 301 bytes, above 300"),
    ([Record(bytes(292), headers=(("12345", b"6"),))], "record 0 has 301 bytes, above 300"),
    ([Record(bytes(299))] * 3, "holds 9.. bytes, above 800"),
    ([Record(b"", headers=(("a", bytes(40)),))], "bytes of headers, above 40"),
    ([Record(b"", headers=(("", b""),) * 2)] * 3, "at least 6 headers, above 4"),
]


class TestLimits:
    @pytest.mark.parametrize(("records", "fault"), TOO_LARGE)
    def test_what_is_above_a_limit_is_not_made(self, records: list[Record], fault: str) -> None:
        with pytest.raises(RequestTooLargeError, match=fault):
            encode_batch(records, limits=LIMITS)

    @pytest.mark.parametrize(("records", "fault"), TOO_LARGE)
    @pytest.mark.parametrize("codec", list(Codec))
    def test_what_is_above_a_limit_is_not_opened(self, records: list[Record], fault: str, codec: Codec) -> None:
        with pytest.raises(RequestTooLargeError, match=fault):
            decode_batch(encode_batch(records, codec=codec), LIMITS)

    def test_what_is_at_a_limit_is_made_and_opened(self) -> None:
        records = [
            Record(bytes(300)),
            Record(bytes(290), key=bytes(10)),
            Record(b"", headers=(("a", bytes(33)), ("b", None))),
            Record(b"", headers=(("", b""), ("", b""))),
            Record(b""),
        ]
        batch = encode_batch(records, limits=LIMITS)
        check_batch(batch, LIMITS)
        assert decode_batch(batch, LIMITS) == records

    def test_a_batch_above_the_limit_is_not_made(self) -> None:
        values = [NOISE[:250], NOISE[250:]]
        with pytest.raises(RequestTooLargeError, match=r"batch has 5.. bytes, above 500"):
            encode_values(values, timestamp_ms=0, limits=LIMITS)

    def test_the_largest_value_of_many_is_named(self) -> None:
        with pytest.raises(RequestTooLargeError, match="record 2 has 400 bytes"):
            encode_values([bytes(10), bytes(20), bytes(400)], timestamp_ms=0, limits=LIMITS)


class TestCheck:
    @pytest.mark.parametrize("codec", list(Codec))
    def test_a_good_batch_gives_its_header(self, codec: Codec) -> None:
        batch = encode_batch(EVERYTHING, codec=codec, producer_id=0, producer_epoch=0, base_sequence=0)
        assert check_batch(batch) == check_batch(memoryview(batch)) == check_batch(bytearray(batch))
        assert check_batch(batch) == read_header(batch)

    @pytest.mark.parametrize(
        ("batch", "fault"),
        [
            (b"", "batch of 0 bytes is shorter than its header"),
            (seal(TINY)[:60], "batch of 60 bytes is shorter than its header"),
            (seal(TINY)[:-1], "states 68 bytes and has 67"),
            (seal(TINY) + b"\0", "states 68 bytes and has 69"),
            (seal(TINY) + seal(TINY), "states 68 bytes and has 136"),
            (seal(TINY, length=-1), "states -1 bytes, fewer than its header has"),
            (seal(TINY, length=48), "states 48 bytes, fewer than its header has"),
            (seal(TINY, magic=1), "magic 1, not 2"),
            (seal(TINY)[:-1] + b"\1", "has checksum"),
            (seal(TINY, count=2), "states 2 records in 7 bytes"),
            (seal(b"", count=1), "states 1 records in 0 bytes"),
        ],
        ids=fault_id,
    )
    def test_what_is_no_batch_is_corrupt(self, batch: bytes, fault: str) -> None:
        with pytest.raises(CorruptBatchError, match=fault):
            check_batch(batch)

    @pytest.mark.parametrize(
        ("batch", "fault"),
        [
            (seal(TINY, attributes=1), "compressed with gzip"),
            (seal(TINY, attributes=2), "compressed with snappy"),
            (seal(TINY, attributes=3), "compressed with lz4"),
            (seal(TINY, attributes=5), "compressed with 5"),
            (seal(TINY, attributes=1 << 3), "attributes 0x0008: only the codec"),
            (seal(TINY, attributes=1 << 4), "attributes 0x0010: only the codec"),
            (seal(TINY, attributes=1 << 5), "attributes 0x0020: only the codec"),
            (seal(TINY, attributes=-(1 << 15)), "attributes 0x8000: only the codec"),
            (seal(TINY, count=1, last_offset_delta=1), "1 records and a last offset delta 1"),
            (seal(TINY, count=0), "0 records and a last offset delta -1"),
            (seal(TINY, count=-1), "-1 records"),
            (seal(TINY, count=1, last_offset_delta=(1 << 31) - 1), "1 records and a last offset delta 2147483647"),
            (seal(TINY, producer_id=5), "producer id 5, epoch -1 and base sequence -1"),
            (seal(TINY, producer_id=5, producer_epoch=0), "producer id 5, epoch 0 and base sequence -1"),
            (seal(TINY, producer_id=-2, producer_epoch=0, base_sequence=0), "producer id -2"),
        ],
        ids=fault_id,
    )
    def test_what_we_do_not_take_is_refused(self, batch: bytes, fault: str) -> None:
        with pytest.raises(InvalidArgumentError, match=fault):
            check_batch(batch)

    def test_what_is_above_a_limit_is_refused(self) -> None:
        with pytest.raises(RequestTooLargeError, match="batch has 501 bytes, above 500"):
            check_batch(bytes(501), LIMITS)
        with pytest.raises(RequestTooLargeError, match="batch has 6 records, above 5"):
            check_batch(seal(tiny(6), count=6), LIMITS)
        with pytest.raises(RequestTooLargeError, match="holds 2800 bytes, above 800"):
            check_batch(seal(zstandard.compress(TEXT), attributes=4), LIMITS)
        with pytest.raises(RequestTooLargeError, match="holds 808 bytes, above 800"):
            check_batch(encode_values([bytes(799)], timestamp_ms=0, codec=Codec.NONE), SMALL_CONTENT)

    def test_records_must_fit_into_what_the_frame_states(self) -> None:
        frame = zstandard.compress(tiny(100))
        check_batch(seal(frame, count=100, attributes=4))
        with pytest.raises(CorruptBatchError, match="states 200 records in 736 bytes"):
            check_batch(seal(frame, count=200, attributes=4))

    @pytest.mark.parametrize("name", [name for name in BOMBS if name not in UNSEEN])
    def test_a_bomb_is_refused_by_the_header_of_its_frame(self, name: str) -> None:
        with pytest.raises((CorruptBatchError, RequestTooLargeError)):
            check_batch(seal(BOMBS[name], count=9, attributes=4))

    def test_nothing_is_inflated(self) -> None:
        # The frame's content is broken, which only a look inside could tell.
        frame = bytearray(zstandard.compress(TEXT))
        frame[-5] ^= 0xFF
        check_batch(seal(bytes(frame), attributes=4))


class TestReadHeader:
    def test_the_batch_need_not_be_whole_and_more_may_follow(self) -> None:
        batch = stored(EVERYTHING)
        assert read_header(batch[:HEADER_BYTES]) == read_header(batch + b"more") == read_header(memoryview(batch))
        assert read_header(batch).size_bytes == len(batch)

    def test_the_next_offset_is_one_past_the_last(self) -> None:
        assert read_header(stored(EVERYTHING, base_offset=100)).next_offset == 105

    @pytest.mark.parametrize(
        "batch", [seal(TINY)[:60], seal(TINY, magic=0), seal(TINY, length=48), seal(TINY, attributes=16)]
    )
    def test_what_is_no_header_is_corrupt(self, batch: bytes) -> None:
        with pytest.raises(CorruptBatchError):
            read_header(batch)


class TestStamp:
    @pytest.mark.parametrize("codec", list(Codec))
    def test_a_stamped_batch_has_its_place_and_a_true_checksum(self, codec: Codec) -> None:
        batch = encode_batch(EVERYTHING, codec=codec)
        stamped = stamp(memoryview(batch), Offset(1 << 40), 12)
        assert stamped == stamp(batch, Offset(1 << 40), 12)
        assert check_batch(stamped) == check_batch(batch)._replace(base_offset=Offset(1 << 40), leader_epoch=12)
        assert decode_batch(stamped) == EVERYTHING

    @pytest.mark.parametrize(("offset", "epoch"), [(-1, 0), (1 << 63, 0), (0, -1), (0, 1 << 31)])
    def test_a_place_that_does_not_fit_is_refused(self, offset: int, epoch: int) -> None:
        with pytest.raises(InvalidArgumentError, match="cannot be stamped"):
            stamp(encode_batch(EVERYTHING), Offset(offset), epoch)


class TestRead:
    @pytest.mark.parametrize("codec", list(Codec))
    def test_records_come_with_their_offsets(self, codec: Codec) -> None:
        batch = stored(EVERYTHING, base_offset=100, codec=codec)
        expected = DecodedBatch(read_header(batch), range(100, 105), EVERYTHING)  # type: ignore[arg-type]  # offsets
        assert read_batch(batch) == read_batch(memoryview(batch)) == read_batch(bytearray(batch)) == expected

    def test_values_are_bytes_whatever_they_were_read_from(self) -> None:
        batch = bytearray(stored([Record(b"value")], codec=Codec.NONE))
        (record,) = decode_batch(batch)
        batch[-3] ^= 0xFF
        assert record == Record(b"value")
        assert type(record.value) is bytes

    def test_holes_and_their_offsets_come_back(self) -> None:
        batch = seal(tiny(3, delta_step=2), count=3, last_offset_delta=9, base_offset=50)
        assert list(read_batch(batch).offsets) == [50, 52, 54]

    def test_a_hole_behind_the_first_records_moves_the_rest(self) -> None:
        batch = seal(tiny(2) + record(b"\0\0" + varint(7) + NULL + b"\0\0"), count=3, last_offset_delta=7)
        assert list(read_batch(batch).offsets) == [0, 1, 7]

    def test_a_batch_of_which_nothing_is_left_is_read(self) -> None:
        batch = seal(b"", count=0, last_offset_delta=3, base_offset=50)
        assert read_batch(batch) == DecodedBatch(read_header(batch), range(0), [])  # type: ignore[arg-type]  # offsets
        assert read_header(batch).next_offset == 54

    @pytest.mark.parametrize(
        ("batch", "fault"),
        [
            (seal(TINY, attributes=1), "compressed with gzip"),
            (seal(TINY, attributes=32), "only the codec"),
            (seal(TINY, count=-1, last_offset_delta=0), "-1 records"),
            (seal(TINY, count=2, last_offset_delta=0), "2 records and a last offset delta 0"),
            (seal(TINY, last_offset_delta=-1), "last offset delta -1"),
            (seal(b"", count=0), "last offset delta -1"),
            (seal(TINY, base_offset=-1), "batch at offset -1 has last offset delta 0"),
            (seal(TINY, base_offset=(1 << 63) - 1), "last offset delta 0"),
            (seal(TINY, count=2), "states 2 records in 7 bytes"),
            (seal(TINY + TINY, count=1), "7 bytes stand behind the last of 1 records"),
            (seal(b"", count=0, last_offset_delta=0)[:-1], "shorter than its header"),
            (seal(b"\0" * 7), "ends at byte 68, not at 62"),
            (seal(b"\x0f" + b"\0" * 7), "record 0 states -8 bytes"),
            (seal(b"\x0d" + TINY[1:]), "record 0 states -7 bytes"),
            (seal(b"\x7e" + b"\0" * 7), "record 0 states 63 bytes with 7 left"),
            (seal(record(b"\1\0\0\1\0\0")), "attributes 1, not 0"),
            (seal(record(b"\0\0\2\1\0\0")), "offset delta 1, not 0 to 0"),
            (seal(record(b"\0\0\1\1\0\0")), "offset delta -1, not 0 to 0"),
            (seal(TINY + TINY, count=2), "record 1 has offset delta 0, not 1 to 1"),
            (seal(record(b"\0\0\0\3\0\0")), "length -2"),
            (seal(record(b"\0\0\0\1\3\0")), "length -2"),
            (seal(record(b"\0\0\0\1\4\0")), "cut short"),
            (seal(record(b"\0\0\0\1\0\0\0")), "ends at byte 68, not at 69"),
            (seal(record(b"\0\0\0\1\0") + b"\0\0"), "ends at byte 68, not at 67"),
            (seal(record(b"\0\0\0\1\0\2")), "1 headers in 1 bytes"),
            (seal(record(b"\0\0\0\1\0\1")), "-1 headers in 1 bytes"),
            (seal(record(b"\0\0\0\1\0\2\1\0")), "header without a key"),
            (seal(record(b"\0\0\0\1\0\2\2\xff\0")), "header key that is not UTF-8"),
            (seal(record(b"\0\0\0\1\0\x80\0")), "more bytes than it needs"),
            (seal(b"\x8c\0" + TINY[1:]), "more bytes than it needs"),
            (seal(record(b"\0\0\0\1\x80\0\0")), "more bytes than it needs"),
            (seal(record(b"\0\0\0\1\xfe\0" + bytes(63) + b"\0")), "more bytes than it needs"),
            (seal(record(b"\0" + b"\xff" * 10 + b"\0\1\0\0")), "more than 64 bits"),
            (seal(record(b"\0\0" + b"\xff" * 5 + b"\1\0\0")), "more than 32 bits"),
            (seal(record(b"\0\2\0\1\0\0"), base_timestamp_ms=(1 << 63) - 1), "beyond 64 bits"),
            (seal(record(b"\0\1\0\1\0\0"), base_timestamp_ms=-(1 << 63)), "beyond 64 bits"),
        ],
        ids=fault_id,
    )
    def test_a_lie_under_a_true_checksum_is_corrupt(self, batch: bytes, fault: str) -> None:
        with pytest.raises(CorruptBatchError, match=fault):
            read_batch(batch)

    @pytest.mark.parametrize("name", BOMBS)
    def test_a_bomb_is_refused(self, name: str) -> None:
        with pytest.raises((CorruptBatchError, RequestTooLargeError)):
            read_batch(seal(BOMBS[name], count=9, attributes=4), BatchLimits(max_uncompressed_bytes=1 << 20))

    def test_a_range_of_offsets_without_end_takes_no_memory(self) -> None:
        with pytest.raises(RequestTooLargeError, match="batch has 2147483648 records, above 10000"):
            read_batch(seal(TINY, last_offset_delta=(1 << 31) - 1))

    def test_empty_headers_do_not_multiply_in_memory(self) -> None:
        # Two bytes each in 8 MiB would become four million tuples.
        body = b"\0\0%b\1\0" + varint(30_000) + b"\0\0" * 30_000
        data = b"".join(record(body.replace(b"%b", varint(delta))) for delta in range(130))
        tracemalloc.start()
        try:
            with pytest.raises(RequestTooLargeError, match="at least 120000 headers, above 100000"):
                read_batch(seal(data, count=130))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(data)


class TestRepack:
    RECORDS: ClassVar = [Record(b"%d" % number, key=b"k", timestamp_ms=number * 10) for number in range(10)]

    def kept(self, *keep: tuple[int, int], codec: Codec = Codec.NONE) -> DecodedBatch:
        batch = stored(self.RECORDS, base_offset=100, codec=codec)
        ranges = [(Offset(start), Offset(end)) for start, end in keep]
        return read_batch(repack(batch, ranges))

    def test_only_the_ranges_are_kept_and_offsets_stay(self) -> None:
        batch = self.kept((102, 104), (109, 110))
        assert list(batch.offsets) == [102, 103, 109]
        assert batch.records == [self.RECORDS[2], self.RECORDS[3], self.RECORDS[9]]

    def test_the_header_stays_but_for_count_and_max_timestamp(self) -> None:
        whole = read_header(stored(self.RECORDS, codec=Codec.NONE))
        part = self.kept((101, 103)).header
        assert part == whole._replace(record_count=2, max_timestamp_ms=20, crc=part.crc, size_bytes=part.size_bytes)

    def test_kept_records_are_the_same_bytes(self) -> None:
        batch = stored(self.RECORDS, codec=Codec.NONE)
        assert repack(batch, [(Offset(0), Offset(1 << 62))]) == batch

    @pytest.mark.parametrize(
        ("keep", "offsets"),
        [
            ([], []),
            ([(0, 100)], []),
            ([(110, 200)], []),
            ([(105, 105)], []),
            ([(0, 1), (1, 2), (3, 4), (108, 109)], [108]),
            ([(0, 200)], list(range(100, 110))),
            ([(108, 300), (0, 102)], [100, 101, 108, 109]),
            ([(100, 104), (101, 102), (103, 106)], [100, 101, 102, 103, 104, 105]),
        ],
    )
    def test_ranges_may_reach_outside_overlap_and_come_in_any_order(
        self, keep: list[tuple[int, int]], offsets: list[int]
    ) -> None:
        assert list(self.kept(*keep).offsets) == offsets

    def test_a_batch_is_repacked_again(self) -> None:
        once = repack(stored(self.RECORDS), [(Offset(102), Offset(108))])
        twice = repack(once, [(Offset(100), Offset(105))])
        assert list(read_batch(twice).offsets) == [102, 103, 104]

    def test_compression_stays(self) -> None:
        records = [Record(TEXT, timestamp_ms=number) for number in range(4)]
        part = repack(stored(records), [(Offset(101), Offset(103))])
        assert read_header(part).codec is Codec.ZSTD
        assert decode_batch(part) == records[1:3]

    def test_a_damaged_batch_is_not_given_a_new_checksum(self) -> None:
        batch = bytearray(stored(self.RECORDS, codec=Codec.NONE))
        batch[-1] ^= 1
        with pytest.raises(CorruptBatchError, match="batch at offset 100 has checksum"):
            repack(batch, [(Offset(100), Offset(101))])


def test_resealing_by_hand_is_what_the_codec_does() -> None:
    batch = encode_batch(EVERYTHING)
    assert reseal(batch) == batch
