"""Hostile bytes and round trips of the JSON subprotocol."""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import InvalidArgumentError, RemoteProtocolError
from logbroker.ids import Offset
from logbroker.record.batch import DEFAULT_LIMITS, Record, decode_batch, encode_batch, stamp
from logbroker.wire.json_messages import GivenMessages, build_batch, delivered
from logbroker.wire.json_protocol import TEXT_COST
from logbroker.wire.json_types import REPLIES, REQUESTS, read_head, read_request, to_builtins, told
from logbroker.wire.requests import BatchPart, Delivered, Peeked, Produce, Received, WireLimits
from tests.unit.wire.json_kit import opened, said
from tests.unit.wire.test_json_types import GOLDEN

TEXTS = [json.dumps(found).encode() for found in GOLDEN.values()]
numbers = st.integers(0, (1 << 63) - 1) | st.sampled_from([0, 1, (1 << 53) - 1, 1 << 53, (1 << 63) - 1])


def values_of(annotation: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401  annotations
    """Values of a field of the wire types; texts stay short."""
    if msgspec.inspect.type_info(annotation) == msgspec.inspect.type_info(bool):
        return st.booleans()
    found = msgspec.inspect.type_info(annotation)
    match found:
        case msgspec.inspect.IntType():
            return numbers
        case msgspec.inspect.StrType():
            return st.text(max_size=8)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.ListType():
            return st.lists(values_of(annotation.__args__[0]), max_size=3)
        case msgspec.inspect.TupleType():
            return st.tuples(*[values_of(one) for one in annotation.__args__])
        case msgspec.inspect.UnionType():
            return st.one_of([values_of(one) for one in annotation.__args__])
        case msgspec.inspect.StructType():
            return structs(found.cls)
        case _:
            raise AssertionError(found)


def structs(source: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401  a Struct
    return st.builds(source, **{field.name: values_of(field.type) for field in msgspec.structs.fields(source)})


@st.composite
def mutated_texts(draw: st.DrawFn) -> bytes:
    """Real texts with bytes changed, cut out or put in."""
    text = bytearray(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(text)))
        removed = draw(st.integers(0, 3))
        text[position : position + removed] = draw(
            st.binary(max_size=4) | st.sampled_from([b"[" * 9, b"{", b'"', b"\\u"])
        )
    return bytes(text)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=12,
)
messages = st.fixed_dictionaries(
    {"value": st.none() | st.text(max_size=20)},
    optional={
        "key": st.text(max_size=5),
        "timestamp_ms": numbers.map(str),
        "headers": st.lists(st.tuples(st.text(max_size=5), st.none() | st.text(max_size=5)), max_size=3),
    },
)


@given(st.one_of([structs(source) for source in REQUESTS]))
def test_any_request_that_was_told_is_read_as_the_same(request: Any) -> None:  # noqa: ANN401  any kind
    found = to_builtins(request)
    if isinstance(request, Produce):
        found["messages"] = ["x"]
    text = msgspec.json.encode(found)
    assert read_request(read_head(text), text)[0] == request


@given(st.one_of([structs(source) for source in REPLIES]))
def test_any_reply_is_of_the_type_that_the_document_describes(reply: Any) -> None:  # noqa: ANN401  any kind
    found = to_builtins(reply)
    if isinstance(reply, Received | Delivered | Peeked):
        found["messages"] = []
    text = msgspec.json.encode(found)
    assert msgspec.json.encode(msgspec.json.decode(text, type=told(reply.__class__))) == text


@given(st.lists(mutated_texts() | st.binary(max_size=60) | json_like.map(msgspec.json.encode), min_size=1, max_size=4))
def test_a_server_meets_hostile_texts_with_named_errors_alone(texts: list[bytes]) -> None:
    server = opened(limits=WireLimits(max_outstanding=4))
    for text in texts:
        try:
            requests = server.receive(text)
        except RemoteProtocolError:
            break
        # Taken, or answered.
        assert len(requests) + len(said(server)) == 1
    assert server.outstanding_count <= 4


@given(json_like)
def test_any_value_in_any_field_is_taken_or_refused_by_name(value: object) -> None:
    for kind, field in (("ack", "items"), ("rewind", "target"), ("create_queue", "settings"), ("produce", "messages")):
        text = msgspec.json.encode({"kind": kind, "rid": 1, "queue": "q", "name": "q", "rewind_id": 1, field: value})
        error: InvalidArgumentError | None = None
        try:
            read_request(read_head(text), text)
        except InvalidArgumentError as refused:
            error = refused
        assert error is None or kind in error.message or error.message.startswith("$.")


@given(st.lists(st.text(max_size=20) | messages, min_size=1, max_size=5))
def test_messages_come_out_as_they_went_in(given_messages: list[Any]) -> None:
    told_messages = msgspec.json.decode(msgspec.json.encode({"messages": given_messages}), type=GivenMessages)
    batch = build_batch(told_messages, now_ms=5, limits=DEFAULT_LIMITS)
    part = BatchPart(size_bytes=len(batch), base_offset=0, append_ms=9, ranges=[(0, len(given_messages), 1)])
    reply = Received(1, lease=1, visible_at_ms=1, hide_left_ms=1, parts=[part])
    for given_message, raw in zip(given_messages, delivered(reply, batch, limits=DEFAULT_LIMITS), strict=True):
        found = json.loads(bytes(raw))
        wanted = {"value": given_message} if isinstance(given_message, str) else given_message
        assert found["value"] == wanted["value"]
        assert found["key"] == wanted.get("key")
        assert found["timestamp_ms"] == wanted.get("timestamp_ms", "5")
        assert found.get("headers", []) == [list(pair) for pair in wanted.get("headers", [])]


@given(st.lists(st.binary(max_size=30) | st.none(), min_size=1, max_size=5))
def test_any_bytes_are_shown_as_text_or_base64_that_gives_them_back(values: list[bytes | None]) -> None:
    batch = stamp(encode_batch([Record(value, value) for value in values]), Offset(0), 1)
    part = BatchPart(size_bytes=len(batch), base_offset=0, append_ms=9, ranges=[(0, len(values), 1)])
    reply = Received(1, lease=1, visible_at_ms=1, hide_left_ms=1, parts=[part])
    shown = [json.loads(bytes(raw)) for raw in delivered(reply, batch, limits=DEFAULT_LIMITS)]
    for name in ("key", "value"):
        assert [_bytes(one, name) for one in shown] == values
    text = msgspec.json.encode({"messages": [{name: one[name] for name in one if "value" in name} for one in shown]})
    again = build_batch(msgspec.json.decode(text, type=GivenMessages), now_ms=0, limits=DEFAULT_LIMITS)
    assert [record.value for record in decode_batch(again)] == values


def _bytes(shown: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_base64" in shown:
        return base64.b64decode(shown[f"{name}_base64"])
    found = shown[name]
    return None if found is None else found.encode()


def test_texts_that_claim_much_take_no_more_memory_than_their_cost_says() -> None:
    head = b'{"kind":"produce","rid":1,"queue":"q","messages":'
    claims = [
        head + b"[" + b"{}," * 100_000 + b"{}]}",
        head + b"[" + b'{"headers":{"a":""}},' * 50_000 + b"{}]}",
        head + b"[" + b'"",' * 20_000 + b'""]}',
        head + b"[" * 60_000,
        b'{"x":' + b"[" * 60_000,
        b'{"kind":"ack","rid":1,"queue":"q","items":[' + b'["1",[]],' * 7_000 + b'["1",[]]],"x":1}',
    ]
    for claim in claims:
        tracemalloc.start()
        try:
            with contextlib.suppress(RemoteProtocolError, InvalidArgumentError):
                read_request(read_head(claim), claim)
                raise AssertionError(claim[:80])
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < TEXT_COST * len(claim) + 100_000, claim[:80]
