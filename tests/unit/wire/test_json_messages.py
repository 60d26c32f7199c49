from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from logbroker.errors import InvalidArgumentError, RequestTooLargeError
from logbroker.ids import Offset
from logbroker.record import batch as record_batch
from logbroker.record.batch import BatchLimits, Record, decode_batch, encode_batch, read_header, stamp, unreadable_batch
from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.wire import json_messages
from logbroker.wire.json_messages import OMITTED, DeliveredMessage, GivenMessages, build_batch, delivered, has_ids
from logbroker.wire.requests import BatchPart, Received
from tests.unit.wire.json_kit import NOW_MS

LIMITS = BatchLimits()


def built(*messages: object, limits: BatchLimits = LIMITS, **producer: object) -> bytes:
    given = msgspec.json.decode(json.dumps({"messages": messages, **producer}), type=GivenMessages)
    return build_batch(given, now_ms=NOW_MS, limits=limits)


def records(*messages: object) -> list[Record]:
    return decode_batch(built(*messages))


def received(*batches: tuple[bytes, list[tuple[int, int, int]]]) -> list[dict[str, Any]]:
    """What is shown of batches of which these ranges are leased."""
    parts, body = [], b""
    for batch, ranges in batches:
        base = read_header(batch).base_offset if batch else 40
        parts.append(BatchPart(size_bytes=len(batch), base_offset=base, append_ms=NOW_MS, ranges=ranges))
        body += batch
    reply = Received(1, lease=1, visible_at_ms=1, hide_left_ms=1, parts=parts)
    texts = [bytes(raw) for raw in delivered(reply, body, limits=LIMITS)]
    for text in texts:
        # Each is what the document says.
        msgspec.json.decode(text, type=DeliveredMessage)
    return [json.loads(text) for text in texts]


# --- in ---


def test_text_is_a_message_with_the_time_of_the_server() -> None:
    assert records("one", {"value": "two ✓"}) == [
        Record(b"one", timestamp_ms=NOW_MS),
        Record("two ✓".encode(), timestamp_ms=NOW_MS),
    ]


def test_an_id_is_a_header_of_its_own() -> None:
    message = {"value": "one", "dedup_id": "order-1", "headers": {"a": "b"}}
    assert records(message) == [Record(b"one", None, (("a", b"b"), (DEDUP_HEADER, b"order-1")), NOW_MS)]
    given = [msgspec.json.decode(json.dumps({"messages": [sent]}), type=GivenMessages) for sent in (message, "one")]
    assert list(map(has_ids, given)) == [True, False]
    for bad in ("", "x" * 129):
        with pytest.raises(InvalidArgumentError, match="not 1 to 128"):
            built({"value": "one", "dedup_id": bad})


def test_bytes_keys_headers_and_times_are_given_by_name() -> None:
    message = {
        "value_base64": "/wA=",
        "key": "k",
        "headers": [["a", "b"], ["a", None], ["c", {"base64": "/w=="}]],
        "timestamp_ms": "77",
    }
    (found,) = records(message)
    assert found == Record(b"\xff\0", b"k", (("a", b"b"), ("a", None), ("c", b"\xff")), 77)
    (found,) = records({"value": None, "key_base64": "/w==", "headers": {"a": "b"}, "timestamp_ms": 78})
    assert found == Record(None, b"\xff", (("a", b"b"),), 78)


def test_a_producer_that_counts_is_in_the_batch() -> None:
    header = read_header(built("a", "b", producer_id="77", producer_epoch=3, base_sequence=9))
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (77, 3, 9)
    assert read_header(built("a")).producer_id == -1
    with pytest.raises(InvalidArgumentError, match="stand together or not at all"):
        built("a", producer_id=77)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, r"\$\.messages\[1\] has one of value and value_base64"),
        ({"key": "k"}, "one of value and value_base64"),
        ({"value": "a", "value_base64": "YQ=="}, "one of value and value_base64"),
        ({"value": "a", "key": "a", "key_base64": "YQ=="}, "both key and key_base64"),
        (
            {"value": "a", "timestamp_ms": str(1 << 63)},
            r"\$\.messages\[1\]\.timestamp_ms is 9223372036854775808, above",
        ),
    ],
)
def test_a_message_that_says_too_little_or_too_much_is_named(message: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        built("fine", message)


def test_the_limits_of_a_batch_hold() -> None:
    with pytest.raises(RequestTooLargeError, match="record 0 has 9 bytes, above 8"):
        built("123456789", limits=BatchLimits(max_record_bytes=8))
    with pytest.raises(RequestTooLargeError):
        built(*["a"] * 5, limits=BatchLimits(max_record_count=4))
    with pytest.raises(msgspec.ValidationError, match=r"`array` of length <= 10000 - at `\$\.messages`"):
        built(*["a"] * 10_001)


# --- out ---


def test_leased_messages_are_shown_and_no_others() -> None:
    batch = stamp(encode_batch([Record(b"%d" % number, timestamp_ms=5) for number in range(10)]), Offset(40), 1)
    found = received((batch, [(41, 43, 1), (49, 50, 2)]))
    assert [(one["offset"], one["value"], one["deliveries"]) for one in found] == [
        ("41", "1", "1"),
        ("42", "2", "1"),
        ("49", "9", "2"),
    ]
    assert found[0]["append_ms"] == str(NOW_MS)
    assert found[0]["timestamp_ms"] == "5"
    assert found[0]["key"] is None


def test_what_is_no_text_is_base64() -> None:
    record = Record(b"\xff", b"\xfe", (("a", b"\xff"), ("b", None), ("c", b"text")))
    (found,) = received((encode_batch([record]), [(0, 1, 1)]))
    assert (found["value_base64"], found["key_base64"]) == ("/w==", "/g==")
    assert found["headers"] == [["a", {"base64": "/w=="}], ["b", None], ["c", "text"]]
    assert "value" not in found


def test_a_message_that_nobody_can_read_is_there_with_its_reason() -> None:
    lost = unreadable_batch(Offset(7), 2, size_bytes=100, timestamp_ms=1)
    found = received((lost, [(7, 9, 1)]), (b"", [(40, 41, 3)]), (encode_batch([Record(b"a")]), [(0, 2, 1)]))
    assert [one["offset"] for one in found] == ["7", "8", "40", "0", "1"]
    assert "has checksum" in found[0]["problem"]
    assert found[2]["problem"] == "corrupt: the log has lost it"
    assert "problem" not in found[3]
    assert found[4]["problem"] == "corrupt: its batch does not have it"


def test_what_is_too_much_for_one_reply_is_named_and_not_shown() -> None:
    # Each of its characters takes six in JSON.
    large = encode_batch([Record(b"\1" * 1_000_000)])
    shown = ["problem" not in one for one in received(*[(large, [(0, 1, 1)])] * 3)]
    assert shown == [True, False, False]
    small = encode_batch([Record(b"a")])
    found = received((large, [(0, 1, 1)]), (small, [(0, 1, 1)]))
    assert found[1]["problem"] == OMITTED


def test_batches_that_inflate_are_not_opened_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    read_batch = record_batch.read_batch

    def counted(found: bytes, limits: BatchLimits) -> object:
        opened.append(len(found))
        return read_batch(found, limits)

    monkeypatch.setattr(json_messages, "read_batch", counted)
    large = b"".join([b"%d" % number + bytes(4_000) for number in range(240)])
    bomb = encode_batch([Record(b"small"), *[Record(large)] * 7])
    assert len(bomb) < 50_000
    found = received(*[(bomb, [(0, 1, 1)])] * 100)
    assert len(opened) == 3
    assert [one.get("value") for one in found] == ["small"] * 3 + [None] * 97
