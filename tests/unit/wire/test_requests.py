from __future__ import annotations

import msgspec
import pytest

from logbroker.errors import RemoteProtocolError
from logbroker.wire import requests
from logbroker.wire.requests import (
    PUSHES_OF,
    REPLY_OF,
    AnyReply,
    AnyRequest,
    Metadata,
    Ping,
    Produce,
    Received,
    Rewind,
    TimeTarget,
    Welcome,
    decode_reply,
    decode_request,
    encode_header,
)


def header(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def test_every_request_has_a_reply_and_both_can_be_decoded() -> None:
    assert set(REPLY_OF) == set(AnyRequest.__args__)
    assert {*REPLY_OF.values(), *PUSHES_OF.values(), requests.Error} == set(AnyReply.__args__)


def test_no_kind_is_used_twice() -> None:
    kinds = [kind.__struct_config__.tag for kind in (*AnyRequest.__args__, *AnyReply.__args__)]
    assert len(set(kinds)) == len(kinds)


def test_a_header_is_an_array_of_kind_rid_and_fields() -> None:
    encoded = encode_header(Produce(7, queue="orders", partition=2))
    assert encoded == b"\x97\x04\x07\xa6orders\x02\x00\x00\xc2"
    assert decode_request(encoded) == Produce(7, queue="orders", partition=2)


def test_fields_of_a_newer_version_are_skipped() -> None:
    assert decode_request(header(4, 7, "orders", 2, 0, 0, False, {"new": [1]}, "more")) == Produce(
        7, queue="orders", partition=2
    )
    newer_part = [6, 0, 9, [[0, 1, 1]], False, "new"]
    decoded = decode_reply(header(70, 5, 1, 2, 3, [newer_part], "new"))
    assert isinstance(decoded, Received)
    assert decoded.parts[0].ranges == [(0, 1, 1)]


def test_fields_that_an_older_version_lacks_get_their_default() -> None:
    assert decode_request(header(3, 9)) == Metadata(9, queues=None)
    older = decode_reply(header(64, 1, 1, 2, "cluster", []))
    assert isinstance(older, Welcome)
    assert older.limits.max_outstanding == 1024
    assert older.ping_ms == 20_000


def test_a_target_says_which_kind_it_is() -> None:
    decoded = decode_request(header(10, 1, "orders", "default", 42, [1, 1000]))
    assert decoded == Rewind(1, queue="orders", group="default", rewind_id=42, target=TimeTarget(1000))


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"\x94\x04\x07",
        b"\xc1",
        b"\x00",
        header(),
        header(4),
        header(4, 7, "orders"),
        header(4, 7, "orders", "2"),
        header(4, 7, "orders", -1),
        header(4, 7, "orders", 1 << 63),
        header(4, -7, "orders", 2),
        header(4, 7, "o" * 1025, 2),
        header(4, 7, b"orders", 2),
        header(4, 7, "orders", 2) + b"\x00",
        header(200, 7),
        header("Produce", 7),
        header(10, 1, "orders", "default", 42, [9]),
        header(6, 1, "orders", 0, "default", [[1, [[1]]]]),
        header(64, 1, 1, 2, "cluster", []),
        b"\x94\x04\x07\xa6\xff\xfe\xfd\xfc\xfb\xfa\x02",
        b"\x93\x03\x07\xdd\xff\xff\xff\xff\xa1a",
        b"\x94\x03\x07\xc0" + b"\x91" * 60_000 + b"\x00",
    ],
)
def test_a_malformed_request_is_refused_by_name(malformed: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="request header is malformed"):
        decode_request(malformed)


def test_a_request_is_no_reply() -> None:
    with pytest.raises(RemoteProtocolError, match="reply header is malformed"):
        decode_reply(encode_header(Ping(1)))
