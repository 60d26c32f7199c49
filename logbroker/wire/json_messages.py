"""The messages of a produce and of a receive or a stream in JSON: made into a record batch, and taken out of batches.

A value or key is UTF-8 text, or base64 in a field of its own. On the way out the server opens batches that a stranger
has made, so the work and the text of one reply have bounds: what is beyond them is named by its offset and not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from logbroker.errors import CorruptBatchError, InvalidArgumentError, LogBrokerError
from logbroker.record.batch import BatchLimits, Record, encode_batch, read_batch
from logbroker.record.dedup_ids import DEDUP_HEADER, check_dedup_id
from logbroker.wire.json_numbers import GivenNumber, read_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.record.batch import Headers
    from logbroker.wire.requests import BatchPart, Delivered, Peeked, Received

MAX_GIVEN_MESSAGES = 10_000
MAX_SHOWN_BYTES = 4 * 1024 * 1024
"""Messages shown by one reply, as they stand in it; the first is shown however large it is."""
MAX_OPENED_BYTES = 16 * 1024 * 1024
"""Once batches opened for one reply have taken this much, no other is opened."""
RECORD_COST_BYTES = 200
"""What opening a record costs beside its bytes."""

OMITTED = (
    f"omitted: messages shown by one reply have at most {MAX_SHOWN_BYTES} bytes; ask with a smaller max_count, "
    "and nack it first where it is leased to you"
)


@final
class Base64Value(Struct, frozen=True, forbid_unknown_fields=True):
    """A header's value that is not text."""

    base64: bytes


HeaderValue: TypeAlias = str | Base64Value | None


# Without defaults that are made anew, and not looked at by the collector of circles: two megabytes of `{}` are half a
# million of these before anybody sees that it is too many.
@final
class GivenMessage(Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A message to produce. `value` is text, or null for no value; `value_base64` stands in its place for any bytes."""

    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    key: str | None = None
    key_base64: bytes | UnsetType = UNSET
    headers: dict[str, str | None] | list[tuple[str, HeaderValue]] | UnsetType = UNSET
    timestamp_ms: GivenNumber | UnsetType = UNSET
    """The producer's time; the server's if it is left out."""
    dedup_id: str | UnsetType = UNSET
    """An id of the producer's own, at most 128 bytes: a message with an id that is known is not delivered again."""


@final
class GivenMessages(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The messages of one produce, which become one record batch. One that is nothing but text may be just that text.

    A producer that counts its messages is recognised when it repeats itself.
    """

    messages: Annotated[list[str | GivenMessage], Meta(min_length=1, max_length=MAX_GIVEN_MESSAGES)]
    producer_id: GivenNumber | UnsetType = UNSET
    producer_epoch: Annotated[int, Meta(ge=0, le=(1 << 15) - 1)] | UnsetType = UNSET
    base_sequence: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] | UnsetType = UNSET


@final
class DeliveredMessage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message, leased or looked at. With a `problem` it cannot be shown; a leased one can be settled like any."""

    offset: str
    deliveries: str
    append_ms: str
    timestamp_ms: str | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: list[tuple[str, HeaderValue]] = []
    problem: str = ""


# --- in ---


def has_ids(given: GivenMessages) -> bool:
    """Whether a message has an id of its own."""
    return any(isinstance(message, GivenMessage) and message.dedup_id is not UNSET for message in given.messages)


def build_batch(given: GivenMessages, *, now_ms: int, limits: BatchLimits) -> bytes:
    """Make the record batch that a produce asks for.

    Raises:
        InvalidArgumentError: a message, or what is said of the producer, makes no sense.
        RequestTooLargeError: it is above `limits`.
    """
    records = [_record(message, number, now_ms) for number, message in enumerate(given.messages)]
    producer = (given.producer_id, given.producer_epoch, given.base_sequence)
    match producer:
        case UnsetType(), UnsetType(), UnsetType():
            return encode_batch(records, limits=limits)
        case int() | str() as name, int() as epoch, int() as sequence:
            return encode_batch(
                records,
                producer_id=read_number(name, "$.producer_id"),
                producer_epoch=epoch,
                base_sequence=sequence,
                limits=limits,
            )
        case _:
            raise InvalidArgumentError("producer_id, producer_epoch and base_sequence stand together or not at all")


def _record(message: str | GivenMessage, number: int, now_ms: int) -> Record:
    where = f"$.messages[{number}]"
    if isinstance(message, str):
        return Record(message.encode(), timestamp_ms=now_ms)
    if (message.value is UNSET) == (message.value_base64 is UNSET):
        raise InvalidArgumentError(
            f"{where} has one of value and value_base64", hint="a message without a value has a value of null"
        )
    if message.key is not None and message.key_base64 is not UNSET:
        raise InvalidArgumentError(f"{where} has both key and key_base64")
    stamp = message.timestamp_ms
    timestamp_ms = now_ms if isinstance(stamp, UnsetType) else read_number(stamp, f"{where}.timestamp_ms")
    return Record(
        _bytes(message.value, message.value_base64),
        _bytes(message.key, message.key_base64),
        _headers(message.headers) + _id_header(message.dedup_id),
        timestamp_ms,
    )


def _bytes(text: str | UnsetType | None, data: bytes | UnsetType) -> bytes | None:
    if isinstance(data, bytes):
        return data
    return text.encode() if isinstance(text, str) else None


def _headers(given: dict[str, str | None] | list[tuple[str, HeaderValue]] | UnsetType) -> Headers:
    if isinstance(given, UnsetType):
        return ()
    pairs = given.items() if isinstance(given, dict) else given
    return tuple([(name, _header(value)) for name, value in pairs])


def _id_header(dedup_id: str | UnsetType) -> Headers:
    return ((DEDUP_HEADER, check_dedup_id(dedup_id.encode())),) if isinstance(dedup_id, str) else ()


def _header(value: HeaderValue) -> bytes | None:
    if isinstance(value, Base64Value):
        return value.base64
    return None if value is None else value.encode()


# --- out ---


@final
@dataclass(slots=True)
class _Left:
    """What may still be done for one reply."""

    shown_bytes: int = MAX_SHOWN_BYTES
    opened_bytes: int = MAX_OPENED_BYTES


def delivered(reply: Received | Delivered | Peeked, body: bytes, *, limits: BatchLimits) -> list[msgspec.Raw]:
    """Every message of a receive, a delivery or a peek as a text of JSON; `body` is that of the reply.

    What cannot be read, and what is too much to be shown together, is there with the reason.
    """
    shown: list[msgspec.Raw] = []
    left = _Left()
    start = 0
    for part in reply.parts:
        batch = body[start : start + part.size_bytes]
        start += part.size_bytes
        shown += _part(part, batch, left, limits, is_first=not shown)
    return shown


def _part(part: BatchPart, batch: bytes, left: _Left, limits: BatchLimits, *, is_first: bool) -> Iterator[msgspec.Raw]:
    problem, records = "", dict[int, Record]()
    if not part.size_bytes:
        problem = "corrupt: the log has lost it"
    elif left.opened_bytes <= 0:
        problem = OMITTED
    else:
        try:
            opened = read_batch(batch, limits)
        except LogBrokerError as error:
            problem = f"{CorruptBatchError.code}: {error.message}"
        else:
            records = dict(zip(opened.offsets, opened.records, strict=True))
            left.opened_bytes -= sum([_size(record) for record in opened.records])
    for first, end, deliveries in part.ranges:
        for offset in range(first, end):
            place = {"offset": str(offset), "deliveries": str(deliveries), "append_ms": str(part.append_ms)}
            record = records.get(offset)
            text = b"" if record is None else msgspec.json.encode(place | _told(record))
            left.shown_bytes -= len(text)
            if text and (left.shown_bytes >= 0 or is_first):
                yield msgspec.Raw(text)
            else:
                reason = OMITTED if text else problem or "corrupt: its batch does not have it"
                yield msgspec.Raw(msgspec.json.encode(place | {"problem": reason}))
            is_first = False


def _size(record: Record) -> int:
    headers = sum([len(name) + len(value or b"") for name, value in record.headers])
    return RECORD_COST_BYTES + len(record.value or b"") + len(record.key or b"") + headers


def _told(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {"timestamp_ms": str(record.timestamp_ms)}
    found |= _text("key", record.key) | _text("value", record.value)
    if record.headers:
        found["headers"] = [(name, _header_told(value)) for name, value in record.headers]
    return found


def _text(name: str, data: bytes | None) -> dict[str, Any]:
    text = _decoded(data)
    # msgspec writes bytes as base64.
    return {name: text} if not isinstance(text, bytes) else {f"{name}_base64": text}


def _header_told(data: bytes | None) -> Any:  # noqa: ANN401  a value of JSON
    text = _decoded(data)
    return {"base64": text} if isinstance(text, bytes) else text


def _decoded(data: bytes | None) -> str | bytes | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
