"""The records inside a batch, once inflated: Kafka's record format of magic 2, in plain Python.

The usual batch holds values alone, all of one time; it has a path of its own both ways, built on tables and one join.
Everything else, and every doubt, takes the general path. Layout of a record, all numbers zigzag varints:

    length of what follows | attributes, one byte, 0 | timestamp delta | offset delta
    | key length, -1 for null | key | value length, -1 for null | value
    | header count | for each header: key length | key, UTF-8 | value length, -1 for null | value
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

from logbroker.errors import CorruptBatchError, InvalidArgumentError, RequestTooLargeError
from logbroker.record.varint import LONG_BITS, SMALL, VARINT, encode_varint, read_varint

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]

MIN_RECORD_BYTES = 7
"""The smallest record: every field in one byte, key and value null or empty."""

_NULL = encode_varint(-1)

# Attributes, timestamp delta 0, offset delta, null key: how a plain record begins, by its offset delta.
_PLAIN = [b"\0\0" + delta + _NULL for delta in VARINT]
# The first number that takes three bytes.
_TWO_BYTES = 1 << 13
_MIN_INT64, _MAX_INT64 = -(1 << 63), (1 << 63) - 1


@final
class Record(NamedTuple):
    """One message as the producer gave it. Header keys may repeat; their order is kept.

    A named tuple and not a dataclass: making a frozen dataclass costs three times as much, which would double the
    time to decode a batch (`tools/bench/record_codec.py`).
    """

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What a batch may hold, for those who make, take and open it alike."""

    max_batch_bytes: int = 1 << 20
    # Key, value and headers together.
    max_record_bytes: int = 1 << 20
    max_record_count: int = 10_000
    # Records before compression.
    max_uncompressed_bytes: int = 8 << 20
    # Headers of one record.
    max_header_bytes: int = 1 << 16
    # Headers of all records. An empty header is two bytes in a batch and a hundred in memory.
    max_header_count: int = 100_000


DEFAULT_LIMITS = BatchLimits()

HISTORY_BYTES = 3 << 10
"""What a message may get on its way to another queue, in headers that say where it was and how it fared."""
_HISTORY_HEADER_COUNT = 8_000


def with_history_room(limits: BatchLimits) -> BatchLimits:
    """What a batch may hold whose messages, made within `limits`, have a history: one of the largest has to fit."""
    return BatchLimits(
        max_batch_bytes=limits.max_batch_bytes + HISTORY_BYTES,
        max_record_bytes=limits.max_record_bytes + HISTORY_BYTES,
        max_record_count=limits.max_record_count,
        max_uncompressed_bytes=limits.max_uncompressed_bytes + HISTORY_BYTES,
        max_header_bytes=limits.max_header_bytes + HISTORY_BYTES,
        max_header_count=limits.max_header_count + _HISTORY_HEADER_COUNT,
    )


def plain_values(records: Sequence[Record]) -> Sequence[bytes] | None:
    """Give the values of records that are nothing but a value each, all of one time; else None."""
    values, keys, headers, timestamps = zip(*records, strict=True)
    count = len(records)
    is_plain = (
        keys.count(None) == count
        and timestamps.count(timestamps[0]) == count
        and None not in values
        and not any(headers)
    )
    return values if is_plain else None


def encode_plain(values: Sequence[bytes], limits: BatchLimits) -> bytes:
    """Encode records that are a value each, all of the batch's base timestamp.

    Raises:
        RequestTooLargeError: a value is above `limits.max_record_bytes`.
    """
    largest = max(map(len, values))
    if largest > limits.max_record_bytes:
        number = next(number for number, value in enumerate(values) if len(value) == largest)
        raise RequestTooLargeError(f"record {number} has {largest} bytes, above {limits.max_record_bytes}")
    if largest >= _TWO_BYTES or len(values) > SMALL:
        return encode_records([Record(value) for value in values], 0, limits)
    parts: list[bytes] = []
    extend = parts.extend
    varints = VARINT
    for prefix, value in zip(_PLAIN, values, strict=False):
        size = len(value)
        # The prefix, the length of the value in one byte or two, the value, and the header count.
        record_size = len(prefix) + size + (2 if size < 64 else 3)
        extend((varints[record_size], prefix, varints[size], value, b"\0"))
    return b"".join(parts)


def encode_records(
    records: Sequence[Record], base_timestamp_ms: int, limits: BatchLimits, *, deltas: Sequence[int] | None = None
) -> bytes:
    """Encode any records, with the offset deltas given or from 0.

    Raises:
        RequestTooLargeError: a record or the headers are above the limits.
        InvalidArgumentError: a timestamp takes more than 64 bits, or a header key is not UTF-8.
    """
    parts: list[bytes] = []
    extend = parts.extend
    header_count = 0
    if deltas is None:
        deltas = range(len(records))
    for delta, (value, key, headers, timestamp_ms) in zip(deltas, records, strict=True):
        head = b"\0" + encode_varint(timestamp_ms - base_timestamp_ms) + encode_varint(delta)
        head += _NULL if key is None else encode_varint(len(key)) + key
        tail = b"\0"
        if headers:
            tail = _encode_headers(headers, delta, limits)
            header_count += len(headers)
            _check_header_count(header_count, limits)
        if value is None:
            head += _NULL
            value = b""
        else:
            head += encode_varint(len(value))
        size = len(head) + len(value) + len(tail)
        if size > limits.max_record_bytes:
            _check_record_size(len(key or b"") + len(value) + (len(tail) if headers else 0), delta, limits)
        extend((encode_varint(size), head, value, tail))
    return b"".join(parts)


def _encode_headers(headers: Headers, number: int, limits: BatchLimits) -> bytes:
    parts = [encode_varint(len(headers))]
    for key, value in headers:
        try:
            encoded = key.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"record {number} has a header key that is not UTF-8: {key!r}") from error
        parts += (encode_varint(len(encoded)), encoded)
        parts += (_NULL,) if value is None else (encode_varint(len(value)), value)
    tail = b"".join(parts)
    if len(tail) > limits.max_header_bytes:
        raise RequestTooLargeError(f"record {number} has {len(tail)} bytes of headers, above {limits.max_header_bytes}")
    return tail


def _check_header_count(count: int, limits: BatchLimits) -> None:
    if count > limits.max_header_count:
        raise RequestTooLargeError(f"batch has at least {count} headers, above {limits.max_header_count}")


def _check_record_size(size_bytes: int, number: int, limits: BatchLimits) -> None:
    if size_bytes > limits.max_record_bytes:
        raise RequestTooLargeError(f"record {number} has {size_bytes} bytes, above {limits.max_record_bytes}")


def read_records(
    data: bytes, position: int, count: int, *, base_timestamp_ms: int, last_offset_delta: int, limits: BatchLimits
) -> tuple[list[Record], Sequence[int]]:
    """Read `count` records from `position` to the end of `data`; give them with their offset deltas.

    `count` is at most `last_offset_delta` + 1. The deltas are `range(count)` where no offset is missing.

    Raises:
        CorruptBatchError: what is there is not `count` records in the order of their offsets and nothing more.
        RequestTooLargeError: a record or the number of headers is above the limits.
    """
    values, position = _read_plain(data, position, count, limits)
    # What Record(...) does in the end, without its Python frame: a third of the time.
    fields = zip(values, repeat(None), repeat(()), repeat(base_timestamp_ms))
    records = list(map(tuple.__new__, repeat(Record), fields))
    deltas: Sequence[int] = range(count)
    if len(records) < count:
        rest_deltas, position = _read_rest(data, position, count, records, base_timestamp_ms, last_offset_delta, limits)
        if rest_deltas[-1] != count - 1:
            deltas = [*range(count - len(rest_deltas)), *rest_deltas]
    if position != len(data):
        raise CorruptBatchError(f"{len(data) - position} bytes stand behind the last of {count} records")
    return records, deltas


def read_keys(data: bytes, position: int, count: int) -> list[bytes | None]:
    """Read the keys of `count` records and pass over what else is in them, in a third of the time of reading all.

    Raises:
        CorruptBatchError: there are no so many records. Much that `read_records` would refuse is not looked at.
    """
    keys: list[bytes | None] = []
    for number in range(count):
        try:
            size, position = read_varint(data, position)
            end = position + size
            # The attributes, then two numbers.
            position += 1
            while data[position] > 0x7F:
                position += 1
            position += 1
            while data[position] > 0x7F:
                position += 1
            position += 1
            key: bytes | None
            if (raw := data[position]) < 0x80 and not raw & 1:
                position += 1 + (raw >> 1)
                key = data[position - (raw >> 1) : position]
            else:
                key, position = _read_bytes(data, position)
        except IndexError:
            raise CorruptBatchError(f"record {number} is cut short at byte {len(data)}") from None
        if not position <= end <= len(data):
            raise CorruptBatchError(f"record {number} ends at byte {end} of {len(data)}, its key at {position}")
        keys.append(key)
        position = end
    return keys


def _read_plain(data: bytes, position: int, count: int, limits: BatchLimits) -> tuple[list[bytes], int]:
    """Read plain records up to the first that is another, or that is in any doubt; give where that one begins."""
    values: list[bytes] = []
    append = values.append
    varints = VARINT
    start = position
    try:
        for prefix in _PLAIN[:count]:
            # The length of the record: one byte, or two of which the second is not 0.
            if (size := data[start]) < 0x80:
                position = start + 1
            elif 0 < (high := data[start + 1]) < 0x80:
                size += (high << 7) - 0x80
                position = start + 2
            else:
                break
            end = position + (size >> 1)
            # The length of the value follows from that: behind the prefix stand its own one byte or two, and at the
            # end the header count. 64 would be a value of 63 with a byte too many for its length.
            value_size = end - position - len(prefix) - 2
            if value_size >= 64:
                value_size -= 1
                if value_size == 63:
                    break
            if size & 1 or value_size < 0 or not data.startswith(prefix + varints[value_size], position):
                break
            stop = end - 1
            if data[stop]:
                break
            append(data[stop - value_size : stop])
            start = end
    except IndexError:
        # The general path says what is wrong.
        pass
    if limits.max_record_bytes < _TWO_BYTES:
        for number, value in enumerate(values):
            _check_record_size(len(value), number, limits)
    return values, start


def _read_rest(
    data: bytes,
    position: int,
    count: int,
    records: list[Record],
    base_timestamp_ms: int,
    last_offset_delta: int,
    limits: BatchLimits,
) -> tuple[list[int], int]:
    """Append any records to `records` until it has `count`; give their offset deltas and where the last ends.

    A length that is a lie makes a slice short or an IndexError, and never goes back: where the record says that it
    ends is checked last and catches what is left.
    """
    deltas: list[int] = []
    previous = len(records) - 1
    header_count = 0
    for number in range(len(records), count):
        try:
            size, position = read_varint(data, position)
            end = position + size
            if size < 0 or end > len(data):
                raise CorruptBatchError(f"record {number} states {size} bytes with {len(data) - position} left")
            if data[position]:
                raise CorruptBatchError(f"record {number} has attributes {data[position]}, not 0")
            timestamp_delta, position = read_varint(data, position + 1, bits=LONG_BITS)
            delta, position = read_varint(data, position)
            key, position = _read_bytes(data, position)
            value, position = _read_bytes(data, position)
            headers: Headers = ()
            headers_start = position
            if data[position]:
                headers, position = _read_headers(data, position, end, number, limits)
            else:
                position += 1
        except IndexError:
            raise CorruptBatchError(f"record {number} is cut short at byte {len(data)}") from None
        if position != end:
            raise CorruptBatchError(f"record {number} ends at byte {position}, not at {end} as stated")
        if not previous < delta <= last_offset_delta:
            raise CorruptBatchError(
                f"record {number} has offset delta {delta}, not {previous + 1} to {last_offset_delta}"
            )
        timestamp_ms = base_timestamp_ms + timestamp_delta
        if not _MIN_INT64 <= timestamp_ms <= _MAX_INT64:
            raise CorruptBatchError(f"record {number} has timestamp {timestamp_ms}, beyond 64 bits")
        if headers:
            header_count += len(headers)
            _check_header_count(header_count, limits)
        if size > limits.max_record_bytes:
            header_size = position - headers_start if headers else 0
            _check_record_size(len(key or b"") + len(value or b"") + header_size, number, limits)
        records.append(Record(value, key, headers, timestamp_ms))
        deltas.append(delta)
        previous = delta
    return deltas, position


def _read_headers(data: bytes, position: int, end: int, number: int, limits: BatchLimits) -> tuple[Headers, int]:
    """Read headers up to `end`. What they take is bounded before the first is made, since the count is the sender's."""
    size = end - position
    if size > limits.max_header_bytes:
        raise RequestTooLargeError(f"record {number} has {size} bytes of headers, above {limits.max_header_bytes}")
    count, position = read_varint(data, position)
    if not 0 <= count <= size // 2:
        raise CorruptBatchError(f"record {number} states {count} headers in {size} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        key, position = _read_bytes(data, position)
        value, position = _read_bytes(data, position)
        if key is None:
            raise CorruptBatchError(f"record {number} has a header without a key")
        try:
            headers.append((key.decode(), value))
        except UnicodeDecodeError as error:
            raise CorruptBatchError(f"record {number} has a header key that is not UTF-8: {key[:64]!r}") from error
    return tuple(headers), position


def _read_bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    """Read a length and that many bytes. A length beyond the data gives fewer bytes and a position beyond the data."""
    size, position = read_varint(data, position)
    if size < 0:
        if size == -1:
            return None, position
        raise CorruptBatchError(f"length {size} before byte {position} is below -1")
    end = position + size
    return data[position:end], end
