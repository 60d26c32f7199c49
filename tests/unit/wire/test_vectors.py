"""The golden bytes of protocol version 1, which clients in other languages share.

Each vector is a frame in hex, its header as a JSON array and its body in hex. Numbers go up to 63
bits, so a reader must take JSON integers exactly. A vector is never changed: where a header has got
more fields since, the older form is read as before, and what is written is a vector of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from logbroker.wire.frames import FrameLimits, encode_frame, split_message
from logbroker.wire.requests import AnyReply, AnyRequest, decode_reply, decode_request, encode_header

# `Any`: the headers are whatever JSON says.
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "wire_v1.json").read_text(encoding="utf-8")
)
REQUEST_KINDS = {kind.__name__ for kind in AnyRequest.__args__}
FRAMES = {vector["frame"] for vector in VECTORS}
REPLY_KINDS = {kind.__name__ for kind in AnyReply.__args__}


def test_every_kind_has_a_vector() -> None:
    assert {vector["kind"] for vector in VECTORS} == REQUEST_KINDS | REPLY_KINDS


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_golden_frames_are_read_and_what_is_written_is_one(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame"])
    [(header, body)] = split_message(frame, FrameLimits())
    assert body == bytes.fromhex(vector["body"])
    # An encoder of any other make reads the same array.
    assert msgspec.msgpack.decode(header) == vector["header"]
    decoded = decode_request(header) if vector["kind"] in REQUEST_KINDS else decode_reply(header)
    assert type(decoded).__name__ == vector["kind"]
    written = encode_frame(encode_header(decoded), body)
    assert written.hex() in FRAMES
    assert written == frame or len(written) > len(frame)
