"""Text frames cut out of a stream, against wsproto, which makes and reads all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage

from logbroker.wire.text_frames import TextFrames, text_head

LIMIT = 200_000
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, LIMIT]


def cutter(limit: int = LIMIT) -> TextFrames:
    return TextFrames(is_masked=True, max_message_bytes=limit)


def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


def take(frames: TextFrames, data: bytes, piece: int) -> tuple[list[bytes], bytes]:
    messages: list[bytes] = []
    passed = b""
    for at in range(0, len(data), piece):
        found, more = frames.feed(memoryview(data)[at : at + piece])
        messages += found
        passed += more
    return messages, passed


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_read_by_wsproto_as_the_text_it_was_made_of(size: int) -> None:
    reader = client()
    reader.receive_data(text_head(size) + b"x" * size)
    text = "".join(event.data for event in reader.events() if isinstance(event, TextMessage))
    assert text == "x" * size


@pytest.mark.parametrize("piece", [1, 3, 7, 1000, 1 << 20])
@pytest.mark.parametrize("size", [size for size in SIZES if size < 70_000])
def test_a_text_is_cut_out_of_any_pieces_of_a_stream(size: int, piece: int) -> None:
    maker = client()
    data = maker.send(TextMessage("é" * (size // 2))) + maker.send(Ping(b"p")) + maker.send(TextMessage("next"))
    messages, passed = take(cutter(), data, piece)
    assert messages == [("é" * (size // 2)).encode(), b"next"]
    assert passed[:1] == b"\x89"


@given(st.lists(st.text(max_size=300), min_size=1, max_size=8), st.integers(1, 60))
def test_texts_in_pieces_of_their_own_with_pings_between_them_come_out_whole(texts: list[str], piece: int) -> None:
    maker = client()
    data = b""
    for text in texts:
        for at in range(0, len(text), 50):
            data += maker.send(TextMessage(text[at : at + 50], message_finished=False))
            data += maker.send(Ping(b"between"))
        data += maker.send(TextMessage("", message_finished=True))
    messages, _ = take(cutter(), data, piece)
    assert messages == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes.fromhex("8286 00000000 62696e617279"), 1003),
        (bytes.fromhex("0283 00000000 62696e"), 1003),
        (bytes.fromhex("8182 00000000 fffe"), 1007),
        (bytes.fromhex("0181 00000000 c3"), None),
        (bytes.fromhex("0181 00000000 c3 8081 00000000 a9"), None),
        (bytes.fromhex("0181 00000000 c3 8080 00000000"), 1007),
        (bytes.fromhex("8382 00000000 6162"), 1002),
        (bytes.fromhex("c182 00000000 6162"), 1002),
        (bytes.fromhex("8102 6162"), 1002),
        (bytes.fromhex("81ff 4000000000000000 00000000"), 1009),
        (bytes.fromhex("81fe 0005 00000000 6162"), 1002),
    ],
)
def test_what_breaks_a_rule_has_its_code_and_nothing_comes_after_it(data: bytes, code: int | None) -> None:
    frames = cutter()
    found, _ = frames.feed(data)
    assert (None if frames.breach is None else frames.breach.code) == code
    if code is not None:
        assert found == []
        assert frames.feed(client().send(TextMessage("late"))) == ([], b"")


def test_texts_before_one_that_is_none_are_given() -> None:
    frames = cutter()
    found, passed = frames.feed(client().send(TextMessage("good")) + bytes.fromhex("8181 00000000 ff"))
    assert (found, passed) == ([b"good"], b"")
    assert frames.breach is not None


def test_nothing_is_read_after_a_goodbye() -> None:
    maker = client()
    frames = cutter()
    _, passed = frames.feed(maker.send(CloseConnection(1000)))
    assert passed[:1] == b"\x88"
    assert frames.feed(client().send(TextMessage("late"))) == ([], b"")


def test_the_largest_message_can_be_changed_on_the_way() -> None:
    frames = cutter(10)
    frames.max_message_bytes = 20
    assert frames.feed(client().send(TextMessage("x" * 20)))[0] == [b"x" * 20]
    frames.feed(client().send(TextMessage("x" * 21)))
    assert frames.breach is not None
    assert frames.max_message_bytes == 20
