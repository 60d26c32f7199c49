"""Hostile bytes and round trips of the client protocol."""

from __future__ import annotations

import tracemalloc

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import LocalProtocolError, LogBrokerError, RemoteProtocolError
from logbroker.wire.frames import FrameLimits, encode_frame, split_message
from logbroker.wire.protocol import ClientProtocol, ServerProtocol
from logbroker.wire.requests import (
    Hello,
    ListQueues,
    Produce,
    Welcome,
    WireLimits,
    decode_reply,
    decode_request,
    encode_header,
)
from tests.unit.wire.test_vectors import VECTORS

LIMITS = FrameLimits(max_message_bytes=10_000, max_header_bytes=1000, max_body_bytes=5000)
FRAMES = [bytes.fromhex(vector["frame"]) for vector in VECTORS]

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=12,
)


@st.composite
def mutated_messages(draw: st.DrawFn) -> bytes:
    """Real frames with bytes changed, cut out or put in."""
    message = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(message)))
        removed = draw(st.integers(0, 3))
        message[position : position + removed] = draw(st.binary(max_size=4))
    return bytes(message)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1000), st.binary(max_size=100)), min_size=1, max_size=8))
def test_frames_survive_a_message(frames: list[tuple[bytes, bytes]]) -> None:
    message = b"".join(encode_frame(header, body) for header, body in frames)
    assert list(split_message(message, LIMITS)) == frames


@given(st.binary(max_size=200) | mutated_messages())
def test_any_message_gives_frames_that_make_it_up_or_a_named_error(message: bytes) -> None:
    try:
        frames = list(split_message(message, LIMITS))
    except RemoteProtocolError:
        return
    assert b"".join(encode_frame(header, body) for header, body in frames) == message


@given(st.binary(max_size=100) | st.lists(json_like, max_size=12).map(msgspec.msgpack.encode))
def test_any_header_is_decoded_or_refused_by_name(header: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decoded = decode(header)
        except RemoteProtocolError:
            continue
        # What was taken can be said again.
        assert decode(encode_header(decoded)) == decoded


@given(st.lists(mutated_messages(), min_size=1, max_size=4))
def test_a_server_meets_hostile_bytes_with_named_errors_alone(messages: list[bytes]) -> None:
    server = ServerProtocol(limits=WireLimits(max_outstanding=4))
    server.receive(encode_frame(encode_header(Hello(1))))
    server.reply(Welcome(1, version=1, node=1, cluster="c", limits=server.limits))
    for message in messages:
        try:
            server.receive(message)
        except RemoteProtocolError:
            break
    assert server.outstanding_count <= 4


@given(st.lists(mutated_messages(), min_size=1, max_size=4))
def test_a_client_meets_hostile_bytes_with_named_errors_alone(messages: list[bytes]) -> None:
    client = ClientProtocol[int]()
    client.greet(Hello(client.take_rid()))
    client.receive(encode_frame(encode_header(Welcome(1, version=1, node=1, cluster="c", limits=WireLimits()))))
    for context in range(3):
        client.send(ListQueues(client.take_rid()), context)
    for context in range(3, 6):
        client.send(Produce(client.take_rid(), queue="orders", partition=0), context)
    answered: list[int] = []
    for message in messages:
        try:
            answered += [context for context, _, _ in client.receive(message)]
        except LocalProtocolError:
            raise
        except LogBrokerError:
            break
    assert len(answered) == len(set(answered))


def test_headers_that_claim_much_take_little_memory() -> None:
    claims = [
        b"\x93\x03\x07\xdd\xff\xff\xff\xff\xa1a",
        b"\x97\x06\x07\xa1q\x00\xa1g\xdd\xff\xff\xff\xff\x92\x01\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\x03\x07\xc0" + b"\xc0" * 100,
        b"\x93\x03\x07\xdb\xff\xff\xff\xff",
        b"\x94\x03\x07\xc0\xdf\xff\xff\xff\xff\xa1a\x01",
        b"\x94\x03\x07\xc0" + b"\x91" * 60_000,
    ]
    tracemalloc.start()
    try:
        for claim in claims:
            try:
                decode_request(claim)
            except RemoteProtocolError:
                continue
            raise AssertionError(claim)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000
