from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError, RemoteProtocolError
from logbroker.wire.frames import FrameLimits, SendBuffer, encode_frame, encode_head, split_message

LIMITS = FrameLimits(max_message_bytes=100, max_header_bytes=10, max_body_bytes=20)


def split(message: bytes, limits: FrameLimits = LIMITS) -> list[tuple[bytes, bytes]]:
    return list(split_message(message, limits))


def test_a_frame_is_two_lengths_then_header_then_body() -> None:
    assert encode_frame(b"ab", b"xyz") == b"\x00\x00\x00\x02\x00\x00\x00\x03abxyz"


def test_a_head_is_the_frame_without_its_body() -> None:
    assert encode_head(b"ab", 3) + b"xyz" == encode_frame(b"ab", b"xyz")


def test_frames_come_out_of_a_message_in_order() -> None:
    assert split(encode_frame(b"a", b"1") + encode_frame(b"b") + encode_frame(b"c", b"33")) == [
        (b"a", b"1"),
        (b"b", b""),
        (b"c", b"33"),
    ]


def test_sizes_at_their_limits_are_taken() -> None:
    message = (
        encode_frame(b"h" * 10, b"b" * 20) + encode_frame(b"h" * 10, b"b" * 20) + encode_frame(b"h" * 10, b"b" * 6)
    )
    assert len(message) == 100
    assert len(split(message)) == 3


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "no frame"),
        (b"\x00" * 101, "message of 101 bytes is larger than 100"),
        (encode_frame(b"a") + b"\x00" * 7, "prefix at byte 9 is cut off at byte 16"),
        (encode_frame(b""), "header of 0 bytes at byte 0"),
        (encode_frame(b"h" * 11), "header of 11 bytes at byte 0 is outside 1 to 10"),
        (encode_frame(b"h", b"b" * 21), "body of 21 bytes at byte 0 is larger than 20"),
        (encode_frame(b"h", b"body")[:-1], "ends at byte 13, beyond its message of 12 bytes"),
        (b"\x00\x00\x00\x01\x00\x00\x00\x00", "ends at byte 9, beyond"),
        (b"\xff" * 9, "header of 4294967295 bytes"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(message: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        split(message)


def test_frames_before_a_bad_one_are_given_before_it_is_looked_at() -> None:
    frames = split_message(encode_frame(b"a") + b"\xff", LIMITS)
    assert next(frames) == (b"a", b"")
    with pytest.raises(RemoteProtocolError):
        next(frames)


@pytest.mark.parametrize("value", [0, 1 << 32])
def test_a_limit_that_a_length_field_cannot_state_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"max_body_bytes is {value}"):
        FrameLimits(max_body_bytes=value)


def test_an_empty_buffer_gives_no_message() -> None:
    assert SendBuffer().next_message() is None


def test_ready_frames_are_joined_into_one_message() -> None:
    buffer = SendBuffer()
    buffer.append(b"a", b"1")
    buffer.append(b"b")
    assert buffer.pending_bytes == 19
    assert buffer.next_message() == encode_frame(b"a", b"1") + encode_frame(b"b")
    assert buffer.pending_bytes == 0
    assert buffer.next_message() is None


def test_a_message_ends_before_the_frame_that_would_make_it_too_large() -> None:
    buffer = SendBuffer()
    for body in (b"1", b"2", b"3"):
        buffer.append(b"h", body)
    assert buffer.next_message(20) == encode_frame(b"h", b"1") + encode_frame(b"h", b"2")
    assert buffer.pending_bytes == 10
    assert buffer.next_message(20) == encode_frame(b"h", b"3")


def test_a_frame_larger_than_a_message_goes_alone() -> None:
    buffer = SendBuffer()
    buffer.append(b"h", b"large" * 10)
    buffer.append(b"h")
    assert buffer.next_message(20) == encode_frame(b"h", b"large" * 10)
    assert buffer.next_message(20) == encode_frame(b"h")


def test_a_cleared_buffer_gives_nothing_more() -> None:
    buffer = SendBuffer()
    buffer.append(b"h", b"body")
    buffer.clear()
    assert buffer.pending_bytes == 0
    assert buffer.next_message() is None
