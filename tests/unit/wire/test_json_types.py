"""The JSON form is made from the wire types, so every kind of them is put through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from logbroker.errors import InvalidArgumentError, RemoteProtocolError
from logbroker.wire.frames import FrameLimits, split_message
from logbroker.wire.json_types import (
    DEFAULTS,
    REPLIES,
    REQUEST_OF_KIND,
    REQUESTS,
    kind_of,
    read_head,
    read_request,
    to_builtins,
    told,
)
from logbroker.wire.requests import (
    AnyReply,
    AnyRequest,
    CreateQueue,
    Delivered,
    Peeked,
    Produce,
    QueueSettings,
    Receive,
    Received,
    Rewind,
    TimeTarget,
    decode_reply,
    decode_request,
)
from tests.unit.wire.test_vectors import REQUEST_KINDS, VECTORS

FOLDER = Path(__file__).parents[2] / "vectors"
GOLDEN: dict[str, dict[str, Any]] = json.loads((FOLDER / "wire_json_v1.json").read_text(encoding="utf-8"))


def values() -> dict[str, AnyRequest | AnyReply]:
    """What the golden frames of the binary protocol hold, by name."""
    found: dict[str, AnyRequest | AnyReply] = {}
    for vector in VECTORS:
        [(header, _)] = split_message(bytes.fromhex(vector["frame"]), FrameLimits())
        decode = decode_request if vector["kind"] in REQUEST_KINDS else decode_reply
        found[vector["name"]] = decode(header)
    return found


VALUES = values()
ASKED = [name for name, value in VALUES.items() if type(value) in REQUESTS]
ANSWERED = [name for name, value in VALUES.items() if type(value) in REPLIES]


def read(text: bytes) -> AnyRequest:
    return read_request(read_head(text), text)[0]


def asked(kind: str, **fields: object) -> AnyRequest:
    return read(json.dumps({"kind": kind, "rid": 1, **fields}).encode())


def fault(kind: str, **fields: object) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        asked(kind, **fields)
    return caught.value.message


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_is_told_as_in_its_golden_text(name: str) -> None:
    assert to_builtins(VALUES[name]) == GOLDEN[name]


@pytest.mark.parametrize("name", ASKED)
def test_a_request_that_was_told_is_read_as_the_same(name: str) -> None:
    text = json.dumps({**GOLDEN[name], **({"messages": [""]} if isinstance(VALUES[name], Produce) else {})})
    assert read(text.encode()) == VALUES[name]


@pytest.mark.parametrize("name", ANSWERED)
def test_a_reply_is_of_the_type_that_the_document_describes(name: str) -> None:
    found = GOLDEN[name] | ({"messages": []} if isinstance(VALUES[name], Received | Delivered | Peeked) else {})
    read_back = msgspec.json.decode(json.dumps(found), type=told(type(VALUES[name])))
    assert json.loads(msgspec.json.encode(read_back)) == found


def test_no_two_kinds_have_one_name() -> None:
    assert len({kind_of(source) for source in (*REQUESTS, *REPLIES)}) == len(REQUESTS) + len(REPLIES)
    assert REQUEST_OF_KIND["create_queue"] is CreateQueue


def test_numbers_are_taken_as_text_and_as_numbers_that_a_browser_holds() -> None:
    for rid in (7, "7"):
        assert asked("ping", rid=rid).rid == 7
    assert asked("ping", rid="9223372036854775807").rid == (1 << 63) - 1
    assert fault("metadata", rid=1, queues=5) == "metadata: Expected `array | null`, got `int` - at `$.queues`"
    assert "Expected `int` <= 9007199254740991 - at `$.max_count`" in fault("receive", queue="q", max_count=1 << 53)
    assert fault("receive", queue="q", max_count=str(1 << 63)) == f"$.max_count is {1 << 63}, above {(1 << 63) - 1}"
    items = [["1", [["0", str((1 << 63) + 1)]]]]
    assert fault("ack", queue="q", items=items).startswith("$.items[..][1][..][1] is 9223372036854775809")


@pytest.mark.parametrize("number", ["-1", "+1", "1.0", "1e3", " 1", "01", "0x1", "", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_text_that_is_no_plain_number_is_refused_with_the_name_of_its_field(number: str) -> None:
    assert "at `$.partition`" in fault("receive", queue="q", partition=number)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("fly", {}, "there is no kind 'fly' of request"),
        ("receive", {}, "receive: Object missing required field `queue`"),
        ("receive", {"queue": "q", "hide": 1}, "receive: Object contains unknown field `hide`"),
        ("receive", {"queue": "q", "hide_ms": -1}, "receive: Expected `int` >= 0 - at `$.hide_ms`"),
        ("receive", {"queue": "q", "hide_ms": 0.5}, "receive: Expected `int | str`, got `float` - at `$.hide_ms`"),
        ("receive", {"queue": "q" * 1025}, "receive: Expected `str` of length <= 1024 - at `$.queue`"),
        ("ack", {"queue": "q", "items": [["1"]]}, "ack: Expected `array` of length 2 - at `$.items[0]`"),
        ("rewind", {"queue": "q", "rewind_id": 1, "target": {"kind": "then"}}, "Invalid value 'then' - at `$.target"),
        ("rewind", {"queue": "q", "rewind_id": 1, "target": {}}, "Object missing required field `kind` - at `$.targ"),
        ("produce", {"queue": "q", "messages": []}, "produce: Expected `array` of length >= 1 - at `$.messages`"),
        ("produce", {"queue": "q", "messages": [{"value_base64": "?"}]}, "at `$.messages[0].value_base64`"),
    ],
)
def test_what_is_malformed_is_refused_naming_field_and_bound(kind: str, fields: dict[str, object], words: str) -> None:
    assert words in fault(kind, **fields)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"5",
        b"[]",
        b"null",
        b"{",
        b'{"kind":"ping"}',
        b'{"rid":1}',
        b'{"kind":5,"rid":1}',
        b'{"kind":"ping","rid":-1}',
        b'{"kind":"ping","rid":1}x',
        b'{"kind":"ping","rid":1,}',
        b"\xff",
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_a_text_without_kind_and_rid_is_nobody_s_request(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a message is a JSON object with kind and rid"):
        read_head(text)


def test_arrays_too_deep_in_one_another_are_refused_where_they_are_not_even_looked_at() -> None:
    with pytest.raises(InvalidArgumentError, match="got `array` - at"):
        read(b'{"kind":"ack","rid":1,"queue":' + b"[" * 50 + b"]" * 50 + b"}")


def test_a_refusal_says_what_the_kind_takes() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        asked("delete_queue", queue="q")
    assert caught.value.hint == "delete_queue takes rid, name"


def test_what_a_person_would_not_type_has_a_default() -> None:
    found = asked("receive", queue="orders")
    assert isinstance(found, Receive)
    assert {name: getattr(found, name) for name in DEFAULTS[Receive]} == DEFAULTS[Receive]
    assert asked("create_queue", name="orders") == CreateQueue(1, name="orders", settings=QueueSettings())
    assert asked("rewind", queue="q", rewind_id="5", target={"kind": "time", "ms": 9}) == Rewind(
        1, queue="q", group="default", rewind_id=5, target=TimeTarget(9)
    )


def test_every_default_is_of_a_field_that_binary_asks_for() -> None:
    for source, defaults in DEFAULTS.items():
        fields = {field.name: field for field in msgspec.structs.fields(source)}
        assert all(fields[name].required for name in defaults), source
