"""Kafka's RecordBatch of magic 2: the unit of append, compression, checksum and replication.

A batch is 61 bytes of header, big endian, and the records, compressed as one. The producer makes it, the broker
checks and stamps it without opening it, the consumer opens it. What stands where:

     0 base offset i64        stamped by the broker, outside the checksum
     8 length i32             of what follows
    12 leader epoch i32       stamped by the broker, outside the checksum
    16 magic i8               2
    17 crc u32                CRC-32C of byte 21 to the end
    21 attributes i16         bits 0-2 codec; the others (Kafka's timestamp type, transactions, control) stay 0
    23 last offset delta i32  keeps its value when records are left out
    27 base timestamp i64     of the first record, ms
    35 max timestamp i64
    43 producer id i64, 51 producer epoch i16, 53 base sequence i32    -1 where there is none
    57 record count i32
    61 records
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, cast, final

from logbroker.errors import CorruptBatchError, InvalidArgumentError, RequestTooLargeError
from logbroker.ids import Offset
from logbroker.record.checksum import Buffer, crc32c
from logbroker.record.compression import MAX_RATIO, Codec, check_frame, compress, decompress_bounded
from logbroker.record.records import (
    DEFAULT_LIMITS,
    MIN_RECORD_BYTES,
    BatchLimits,
    Headers,
    Record,
    encode_plain,
    encode_records,
    plain_values,
    read_keys,
    read_records,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_LIMITS",
    "HEADER_BYTES",
    "BatchHeader",
    "BatchLimits",
    "Codec",
    "DecodedBatch",
    "Headers",
    "Record",
    "batch_keys",
    "check_batch",
    "decode_batch",
    "encode_batch",
    "encode_values",
    "read_batch",
    "read_header",
    "repack",
    "stamp",
    "unreadable_batch",
]

_HEADER = struct.Struct(">qiibIhiqqqhii")
# The header in two: up to the checksum, and what the checksum covers.
_HEAD = struct.Struct(">qiibI")
_TAIL = struct.Struct(">hiqqqhii")
_BASE_OFFSET = struct.Struct(">q")
_LEADER_EPOCH = struct.Struct(">i")

HEADER_BYTES = 61
_LENGTH_END = 12
_MAGIC_POSITION = 16
_TAIL_POSITION = 21
_MAGIC = 2
_CODEC_MASK = 0b111

# Below this zstd saves nothing worth its time.
_MIN_COMPRESSED_BYTES = 300

_CODECS = {int(codec): codec for codec in Codec}
# Behind every offset: no more ranges.
_NO_RANGE = (Offset(1 << 63), Offset(1 << 63))
_KAFKA_CODECS = {1: "gzip", 2: "snappy", 3: "lz4"}


@final
class BatchHeader(NamedTuple):
    """What the header of a batch says. A named tuple for the same reason as `Record`."""

    base_offset: Offset
    leader_epoch: int
    crc: int
    codec: Codec
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    # Below last_offset_delta + 1 only where records were left out.
    record_count: int
    # Of the whole batch, this header included.
    size_bytes: int

    @property
    def next_offset(self) -> Offset:
        """One past the last offset that the batch takes."""
        return Offset(self.base_offset + self.last_offset_delta + 1)


@final
class DecodedBatch(NamedTuple):
    """An opened batch: `offsets[n]` is the absolute offset of `records[n]`."""

    header: BatchHeader
    offsets: Sequence[Offset]
    records: list[Record]


def encode_batch(
    records: Sequence[Record],
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    codec: Codec = Codec.ZSTD,
    limits: BatchLimits = DEFAULT_LIMITS,
) -> bytes:
    """Encode records into a batch with base offset 0, as a producer sends it.

    With ZSTD a batch that compression does not make smaller, or would make suspiciously small, stays uncompressed.

    Raises:
        InvalidArgumentError: no records, or a field that does not fit its place.
        RequestTooLargeError: above `limits`.
    """
    if not records:
        raise InvalidArgumentError("batch has no records")
    _check_count(len(records), limits)
    timestamps = [record.timestamp_ms for record in records]
    lowest, highest = min(timestamps), max(timestamps)
    if lowest < -(1 << 63) or highest >= 1 << 63:
        raise InvalidArgumentError(f"timestamps from {lowest} to {highest} take more than 64 bits")
    values = plain_values(records)
    data = encode_records(records, timestamps[0], limits) if values is None else encode_plain(values, limits)
    producer = (producer_id, producer_epoch, base_sequence)
    header = _new_header(len(records), timestamps[0], highest, producer, codec)
    return _seal_new(header, data, limits)


def encode_values(
    values: Sequence[bytes],
    *,
    timestamp_ms: int,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    codec: Codec = Codec.ZSTD,
    limits: BatchLimits = DEFAULT_LIMITS,
) -> bytes:
    """Encode records that are nothing but a value each, all of one time; as `encode_batch`, and faster.

    Raises:
        InvalidArgumentError: no values, or a field that does not fit its place.
        RequestTooLargeError: above `limits`.
    """
    if not values:
        raise InvalidArgumentError("batch has no records")
    _check_count(len(values), limits)
    producer = (producer_id, producer_epoch, base_sequence)
    header = _new_header(len(values), timestamp_ms, timestamp_ms, producer, codec)
    return _seal_new(header, encode_plain(values, limits), limits)


def unreadable_batch(base_offset: Offset, record_count: int, *, size_bytes: int, timestamp_ms: int) -> bytes:
    """A batch of just `size_bytes` in the place of one that is lost: it has its offsets, and fails its checksum.

    Whoever gets it rejects its records as corrupt, one by one, and none is skipped in silence.
    """
    data = bytes(size_bytes - HEADER_BYTES)
    header = _new_header(record_count, timestamp_ms, timestamp_ms, (-1, -1, -1), Codec.NONE)
    tail = _TAIL.pack(Codec.NONE, *header[4:11])
    crc = crc32c(data, crc32c(tail)) ^ 1
    head = _HEAD.pack(base_offset, size_bytes - _LENGTH_END, -1, _MAGIC, crc)
    return b"".join((head, tail, data))


def read_header(buffer: Buffer) -> BatchHeader:
    """Read the header of the batch that begins `buffer`; the batch need not be whole, and more may follow.

    The checksum is not looked at: this is for bytes that were checked before, and for finding the end of a batch.

    Raises:
        CorruptBatchError: this is no header of a batch that we would have stored.
    """
    header, attributes = _parse_header(buffer)
    fault = _attributes_fault(attributes)
    if fault:
        raise CorruptBatchError(f"batch at offset {header.base_offset} {fault}")
    return header


def check_batch(buffer: Buffer, limits: BatchLimits = DEFAULT_LIMITS) -> BatchHeader:
    """Check all of a producer's batch that can be checked without opening it. `buffer` is the batch and nothing else.

    A producer that lies about what is inside damages its own batch: consumers reject it as corrupt.

    Raises:
        CorruptBatchError: the bytes are no batch, fail their checksum, or contradict themselves.
        RequestTooLargeError: above `limits`.
        InvalidArgumentError: a batch that we do not take: another codec, transactions, holes, a producer without
            a sequence.
    """
    if len(buffer) > limits.max_batch_bytes:
        raise RequestTooLargeError(f"batch has {len(buffer)} bytes, above {limits.max_batch_bytes}")
    header, attributes = _parse_whole(buffer)
    fault = _attributes_fault(attributes)
    if fault:
        raise InvalidArgumentError(f"batch {fault}")
    count = header.record_count
    if not 0 < count == header.last_offset_delta + 1:
        raise InvalidArgumentError(f"batch states {count} records and a last offset delta {header.last_offset_delta}")
    _check_count(count, limits)
    _check_producer(header)
    data_bytes = len(buffer) - HEADER_BYTES
    if header.codec is Codec.ZSTD:
        # A memoryview, for a slice of bytes would copy the frame.
        data_bytes = check_frame(memoryview(buffer)[HEADER_BYTES:], limits.max_uncompressed_bytes)
    elif data_bytes > limits.max_uncompressed_bytes:
        raise RequestTooLargeError(f"batch holds {data_bytes} bytes, above {limits.max_uncompressed_bytes}")
    if count * MIN_RECORD_BYTES > data_bytes:
        raise CorruptBatchError(f"batch states {count} records in {data_bytes} bytes")
    return header


def stamp(batch: Buffer, base_offset: Offset, leader_epoch: int) -> bytes:
    """Give the batch with its place in the log written in. The checksum does not cover it and stays true.

    Raises:
        InvalidArgumentError: an offset beyond 63 bits or an epoch beyond 31.
    """
    if not (0 <= base_offset < 1 << 63 and 0 <= leader_epoch < 1 << 31):
        raise InvalidArgumentError(f"batch cannot be stamped with offset {base_offset} and leader epoch {leader_epoch}")
    view = memoryview(batch)
    return b"".join(
        (
            _BASE_OFFSET.pack(base_offset),
            view[_BASE_OFFSET.size : _LENGTH_END],
            _LEADER_EPOCH.pack(leader_epoch),
            view[_MAGIC_POSITION:],
        )
    )


def read_batch(buffer: Buffer, limits: BatchLimits = DEFAULT_LIMITS) -> DecodedBatch:
    """Open a batch from anywhere: nothing in it is believed. `buffer` is the batch and nothing else.

    Takes memory for the records, at most `limits.max_uncompressed_bytes`, and for the objects that hold them.

    Raises:
        CorruptBatchError: the bytes are no batch, fail their checksum, or contradict themselves.
        RequestTooLargeError: above `limits`.
    """
    header, data, position = _open(buffer, limits)
    records, deltas = read_records(
        data,
        position,
        header.record_count,
        base_timestamp_ms=header.base_timestamp_ms,
        last_offset_delta=header.last_offset_delta,
        limits=limits,
    )
    base = header.base_offset
    offsets = range(base, base + len(deltas)) if isinstance(deltas, range) else [base + delta for delta in deltas]
    # Offset is an int to everything but the type checker.
    return DecodedBatch(header, cast("Sequence[Offset]", offsets), records)


def decode_batch(buffer: Buffer, limits: BatchLimits = DEFAULT_LIMITS) -> list[Record]:
    """Open a batch and give its records; as `read_batch`, for those who do not ask for offsets."""
    return read_batch(buffer, limits).records


def batch_keys(buffer: Buffer, limits: BatchLimits = DEFAULT_LIMITS) -> list[bytes | None]:
    """Open a batch as it was produced, without a hole, and give the keys of its records alone; as `read_batch`."""
    header, data, position = _open(buffer, limits)
    return read_keys(data, position, header.record_count)


def repack(buffer: Buffer, keep: Sequence[tuple[Offset, Offset]], limits: BatchLimits = DEFAULT_LIMITS) -> bytes:
    """Give the batch with only the records whose offset lies in one of the half-open ranges `keep`.

    Header and offsets stay as they are, but for the record count, the max timestamp (-1 where nothing is kept) and the
    checksum. Before compression a kept record is the same bytes, because each record has one encoding only. The result
    need not be smaller than a batch that its producer compressed harder.

    Raises:
        CorruptBatchError: as `read_batch`; the stored checksum is verified first.
        RequestTooLargeError: above `limits`.
    """
    batch = read_batch(buffer, limits)
    header = batch.header
    ranges = iter(sorted(keep))
    start, end = next(ranges, _NO_RANGE)
    kept: list[Record] = []
    deltas: list[int] = []
    for offset, record in zip(batch.offsets, batch.records, strict=True):
        while end <= offset:
            start, end = next(ranges, _NO_RANGE)
        if start <= offset:
            kept.append(record)
            deltas.append(offset - header.base_offset)
    timestamps = [record.timestamp_ms for record in kept]
    rest = header._replace(record_count=len(kept), max_timestamp_ms=max(timestamps, default=-1))
    return _seal(rest, encode_records(kept, header.base_timestamp_ms, limits, deltas=deltas), limits)


def _parse_header(buffer: Buffer) -> tuple[BatchHeader, int]:
    """Take the header apart and check what holds for every batch; give its raw attributes too."""
    if len(buffer) < HEADER_BYTES:
        raise CorruptBatchError(f"batch of {len(buffer)} bytes is shorter than its header of {HEADER_BYTES}")
    base_offset, length, leader_epoch, magic, crc, attributes, *rest = _HEADER.unpack_from(buffer)
    if magic != _MAGIC:
        raise CorruptBatchError(f"batch has magic {magic}, not {_MAGIC}")
    if length < HEADER_BYTES - _LENGTH_END:
        raise CorruptBatchError(f"batch states {length} bytes, fewer than its header has")
    codec = _CODECS.get(attributes, Codec.NONE)
    header = BatchHeader._make((base_offset, leader_epoch, crc, codec, *rest, _LENGTH_END + length))
    return header, attributes


def _parse_whole(buffer: Buffer) -> tuple[BatchHeader, int]:
    """Parse the header, and check that the buffer is the whole batch as it was sealed."""
    header, attributes = _parse_header(buffer)
    if header.size_bytes != len(buffer):
        raise CorruptBatchError(f"batch states {header.size_bytes} bytes and has {len(buffer)}")
    crc = crc32c(memoryview(buffer)[_TAIL_POSITION:])
    if crc != header.crc:
        raise CorruptBatchError(f"batch at offset {header.base_offset} has checksum {crc:08x}, not {header.crc:08x}")
    return header, attributes


def _attributes_fault(attributes: int) -> str:
    """Say what in the attributes is more than a codec that we take; empty if nothing is."""
    if attributes in _CODECS:
        return ""
    codec = attributes & _CODEC_MASK
    if codec in _CODECS:
        return f"has attributes {attributes & 0xFFFF:#06x}: only the codec may be set"
    return f"is compressed with {_KAFKA_CODECS.get(codec, codec)}: only zstd or none is taken"


def _open(buffer: Buffer, limits: BatchLimits) -> tuple[BatchHeader, bytes, int]:
    """Check a batch from anywhere and inflate its records; give the bytes they are in and where they begin."""
    header, attributes = _parse_whole(buffer)
    place = f"batch at offset {header.base_offset}"
    fault = _attributes_fault(attributes)
    if fault:
        raise CorruptBatchError(f"{place} {fault}")
    if not 0 <= header.base_offset < header.next_offset < 1 << 63:
        raise CorruptBatchError(f"{place} has last offset delta {header.last_offset_delta}")
    if not 0 <= header.record_count <= header.last_offset_delta + 1:
        raise CorruptBatchError(
            f"{place} states {header.record_count} records and a last offset delta {header.last_offset_delta}"
        )
    _check_count(header.last_offset_delta + 1, limits)
    limit = limits.max_uncompressed_bytes
    if header.codec is Codec.ZSTD:
        data = decompress_bounded(memoryview(buffer)[HEADER_BYTES:], limit)
        position = 0
    else:
        if len(buffer) - HEADER_BYTES > limit:
            raise RequestTooLargeError(f"{place} holds {len(buffer) - HEADER_BYTES} bytes, above {limit}")
        data = bytes(buffer)
        position = HEADER_BYTES
    if header.record_count * MIN_RECORD_BYTES > len(data) - position:
        raise CorruptBatchError(f"{place} states {header.record_count} records in {len(data) - position} bytes")
    return header, data, position


def _check_count(count: int, limits: BatchLimits) -> None:
    if count > limits.max_record_count:
        raise RequestTooLargeError(f"batch has {count} records, above {limits.max_record_count}")


def _check_producer(header: BatchHeader) -> None:
    """A producer that has an id is idempotent, and that takes an epoch and a sequence."""
    has_id = header.producer_id != -1
    if has_id and min(header.producer_id, header.producer_epoch, header.base_sequence) < 0:
        raise InvalidArgumentError(
            f"batch has producer id {header.producer_id}, epoch {header.producer_epoch} and base sequence"
            f" {header.base_sequence}: with an id all are 0 or above"
        )


def _new_header(
    record_count: int,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    producer: tuple[int, int, int],
    codec: Codec,
) -> BatchHeader:
    return BatchHeader(
        Offset(0), -1, 0, codec, record_count - 1, base_timestamp_ms, max_timestamp_ms, *producer, record_count, 0
    )


def _seal_new(header: BatchHeader, data: bytes, limits: BatchLimits) -> bytes:
    _check_producer(header)
    batch = _seal(header, data, limits)
    if len(batch) > limits.max_batch_bytes:
        raise RequestTooLargeError(f"batch has {len(batch)} bytes, above {limits.max_batch_bytes}")
    return batch


def _seal(header: BatchHeader, data: bytes, limits: BatchLimits) -> bytes:
    """Compress the records where that is worth it, and put the header before them; `header.codec` is what is wanted."""
    if len(data) > limits.max_uncompressed_bytes:
        raise RequestTooLargeError(f"batch holds {len(data)} bytes, above {limits.max_uncompressed_bytes}")
    codec = Codec.NONE
    if header.codec is Codec.ZSTD and len(data) >= _MIN_COMPRESSED_BYTES:
        frame = compress(data)
        # Beyond the ratio our own check would take it for a bomb.
        if len(frame) < len(data) <= len(frame) * MAX_RATIO:
            data = frame
            codec = Codec.ZSTD
    try:
        # From the last offset delta to the record count the header and the tail are alike.
        tail = _TAIL.pack(codec, *header[4:11])
    except struct.error as error:
        raise InvalidArgumentError(f"a field of the batch does not fit its place: {error}; {header}") from error
    crc = crc32c(data, crc32c(tail))
    length = HEADER_BYTES - _LENGTH_END + len(data)
    head = _HEAD.pack(header.base_offset, length, header.leader_epoch, _MAGIC, crc)
    return b"".join((head, tail, data))
