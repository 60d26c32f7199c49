"""Business ids of messages: where an id stands in a record, and what is compared of id and body.

A producer gives a message an id so that a copy of it, sent by whoever and after whatever, is known for one. The id is
the value of a record header; a broker keeps hashes alone.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError, RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.record.records import Record

DEDUP_HEADER = "logbroker-dedup-id"
MAX_DEDUP_ID_BYTES = 128
MAX_RECORDS_WITH_IDS = 1_000
"""Records of a batch that has ids. To open it, and to remember them, takes a leader about 20 us each."""
ID_HASH_BYTES = 16
BODY_HASH_BYTES = 8
NO_ID = bytes(ID_HASH_BYTES)
"""Stands for a record without an id. That an id has this hash is as likely as that two ids have one."""

_NO_BODY = bytes(BODY_HASH_BYTES)
_COUNT = struct.Struct(">I")
_NULL = _COUNT.pack(0xFFFF_FFFF)


def check_dedup_id(dedup_id: bytes) -> bytes:
    """Give the id back.

    Raises:
        InvalidArgumentError: it is empty or longer than `MAX_DEDUP_ID_BYTES`.
    """
    if not 0 < len(dedup_id) <= MAX_DEDUP_ID_BYTES:
        raise InvalidArgumentError(f"dedup_id has {len(dedup_id)} bytes, not 1 to {MAX_DEDUP_ID_BYTES}")
    return dedup_id


def dedup_id_of(record: Record, number: int = 0) -> bytes | None:
    """Return the id of a record, the one numbered so in its batch, or None.

    Raises:
        InvalidArgumentError: it has two, or one that `check_dedup_id` refuses.
    """
    if not record.headers:
        return None
    found = [value for key, value in record.headers if key == DEDUP_HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise InvalidArgumentError(f"record {number} has {len(found)} headers {DEDUP_HEADER}; the most is 1")
    return check_dedup_id(found[0] or b"")


def id_hash(dedup_id: bytes) -> bytes:
    """Return 16 bytes: BLAKE2b-128 of the id."""
    return blake2b(dedup_id, digest_size=ID_HASH_BYTES).digest()


def body_hash(record: Record) -> bytes:
    """Return 8 bytes that tell bodies apart: BLAKE2b-64 of key, value and headers, the id itself left out.

    What is hashed: key, then value, each as its length (u32, big endian; 0xFFFFFFFF for null) and its bytes; the count
    of the headers (u32); then for each of them, in order, its key in UTF-8 and its value in the same form. The time of
    a record does not count: who sends a message again does not know what it was.
    """
    headers = [(key.encode(), value) for key, value in record.headers if key != DEDUP_HEADER]
    parts = [*_field(record.key), *_field(record.value), _COUNT.pack(len(headers))]
    for key, value in headers:
        parts += (*_field(key), *_field(value))
    return blake2b(b"".join(parts), digest_size=BODY_HASH_BYTES).digest()


def check_count(record_count: int) -> None:
    """Raise RequestTooLargeError where a batch has too many records to have ids."""
    if record_count > MAX_RECORDS_WITH_IDS:
        raise RequestTooLargeError(
            f"batch with ids has {record_count} records, above {MAX_RECORDS_WITH_IDS}", hint="send it in pieces"
        )


def hash_records(records: Sequence[Record]) -> tuple[bytes, bytes] | None:
    """Return the hashes of all ids and of all bodies, joined in order, or None where no record has an id.

    A record without an id has zeros in both.

    Raises:
        InvalidArgumentError: as `dedup_id_of`.
        RequestTooLargeError: as `check_count`.
    """
    check_count(len(records))
    hashes: list[bytes] = []
    bodies: list[bytes] = []
    for number, record in enumerate(records):
        dedup_id = dedup_id_of(record, number)
        hashes.append(NO_ID if dedup_id is None else id_hash(dedup_id))
        bodies.append(_NO_BODY if dedup_id is None else body_hash(record))
    return (b"".join(hashes), b"".join(bodies)) if any(map(NO_ID.__ne__, hashes)) else None


def _field(value: bytes | None) -> tuple[bytes, bytes]:
    return (_NULL, b"") if value is None else (_COUNT.pack(len(value)), value)
