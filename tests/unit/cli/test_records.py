"""Messages as NDJSON: what consume writes, produce reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.cli.records import from_object, to_object
from logbroker.errors import InvalidArgumentError
from logbroker.record.dedup_ids import DEDUP_HEADER
from tests.unit.cli.kit import FakeMessage

if TYPE_CHECKING:
    from logbroker_client import Message

maybe_bytes = st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=20).map(lambda text: text.encode()))
headers = st.lists(st.tuples(st.text(max_size=5), maybe_bytes), max_size=4).map(tuple)


def written(message: FakeMessage) -> str:
    return json.dumps(to_object(cast("Message", message)))


@given(maybe_bytes, maybe_bytes, headers)
def test_what_consume_writes_produce_reads(
    value: bytes | None, key: bytes | None, given_headers: tuple[tuple[str, bytes | None], ...]
) -> None:
    line = written(FakeMessage(3, value, key=key, headers=given_headers))
    assert from_object(line) == (value, key, given_headers)


def test_text_stays_readable_and_other_bytes_are_base64() -> None:
    shown = json.loads(written(FakeMessage(3, "grün".encode(), key=b"\xff", headers=(("a", b"1"), ("b", None)))))
    assert (shown["value"], shown["key_base64"], shown["headers"]) == ("grün", "/w==", {"a": "1", "b": None})
    assert (shown["id"], shown["lease"], shown["deliveries"]) == ("orders/0/3", 65_536, 1)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"value": "x"}', b"x"),
        ('{"value": null}', None),
        ('{"value": {"b": 1, "a": [true]}}', b'{"b":1,"a":[true]}'),
        ('{"value": 5}', b"5"),
        ('{"value": "x", "id": "orders/0/1", "lease": 5}', b"x"),
        ('{"value_base64": "/w=="}', b"\xff"),
    ],
)
def test_a_value_may_be_text_or_any_json(line: str, value: bytes | None) -> None:
    assert from_object(line) == (value, None, ())


def test_an_id_is_a_header_of_its_own() -> None:
    line = '{"value": "x", "dedup_id": "payment-7", "headers": {"a": "b"}}'
    assert from_object(line) == (b"x", None, (("a", b"b"), (DEDUP_HEADER, b"payment-7")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"value": "x", "dedup_id": 7}', "dedup_id is int, not text"),
        ('{"value": "x", "dedup_id": ""}', "dedup_id has 0 bytes, not 1 to 128"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object but list"),
        ("{}", "neither value nor value_base64"),
        ('{"value": "x", "vlaue": 1}', "unknown field 'vlaue'"),
        ('{"value": "x", "value_base64": "eA=="}', "both there"),
        ('{"value_base64": "!"}', "value_base64 is not base64"),
        ('{"value_base64": 5}', "value_base64 is not base64"),
        ('{"value": "x", "key": 5}', "key is int, not text"),
        ('{"value": "\\ud800"}', "surrogate"),
        ('{"value": "x", "headers": 5}', "headers are neither"),
        ('{"value": "x", "headers": [["a"]]}', "is not [name, value]"),
        ('{"value": "x", "headers": {"a": 5}}', "value of header a is int"),
        ('{"value": "x", "headers": [["a", {"base64": "?"}]]}', "header a is not base64"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(line: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        from_object(line)
    assert message in raised.value.message
