"""Frames cut out of a stream, against wsproto, which makes and reads all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from logbroker.wire.data_frames import DataFrames, message_head
from logbroker.wire.masking import mask

LIMIT = 200_000
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, LIMIT]


def end(*, is_client: bool) -> Connection:
    return Connection(ConnectionType.CLIENT if is_client else ConnectionType.SERVER)


def cutter(*, is_client: bool, limit: int = LIMIT) -> DataFrames:
    """For what a client, or a server, sends."""
    return DataFrames(is_masked=is_client, max_message_bytes=limit)


def take(frames: DataFrames, data: bytes, piece: int) -> tuple[list[bytes], bytes]:
    """Hand bytes over in pieces, as a stream does that fills the place it is given."""
    messages: list[bytes] = []
    passed = b""
    at = 0
    while at < len(data):
        place = frames.rest_of_message()
        if place is None:
            found, more = frames.feed(memoryview(data)[at : at + piece])
            messages += found
            passed += more
            at += piece
        else:
            part = data[at : at + min(piece, len(place))]
            place[: len(part)] = part
            whole = frames.filled(len(part))
            messages += [] if whole is None else [whole]
            at += len(part)
    return messages, passed


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_read_by_wsproto_as_it_was_made(size: int, is_client: bool) -> None:
    message = bytes(place % 251 for place in range(size))
    reader = end(is_client=not is_client)
    key = b"\x01\xff\x00\x80" if is_client else b""
    reader.receive_data(message_head(size, key) + (mask(message, key) if key else message))
    (event,) = reader.events()
    assert isinstance(event, BytesMessage)
    assert (event.data, event.frame_finished, event.message_finished) == (message, True, True)


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1_000, 65_536, 1 << 20])
def test_messages_of_wsproto_come_out_whole_however_they_are_cut(piece: int, is_client: bool) -> None:
    sender = end(is_client=is_client)
    sizes = [0, 1, 125, 126, 500, 70_000] if piece > 10 else [0, 1, 125, 126, 300]
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = b"".join(sender.send(BytesMessage(data=message)) for message in messages)
    assert take(cutter(is_client=is_client), data, piece) == (messages, b"")


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("piece", [1, 5, 1_000])
def test_control_frames_are_passed_on_and_messages_go_on(piece: int, is_client: bool) -> None:
    sender = end(is_client=is_client)
    controls = [sender.send(Ping(payload=b"p" * 125)), sender.send(Pong()), sender.send(Ping(payload=b"x"))]
    data = b"".join(sender.send(BytesMessage(data=b"m%d" % number)) + one for number, one in enumerate(controls))
    frames = cutter(is_client=is_client)
    assert take(frames, data, piece) == ([b"m0", b"m1", b"m2"], b"".join(controls))
    assert not frames.is_passing
    goodbye = sender.send(CloseConnection(code=1000, reason="end"))
    assert take(frames, goodbye, piece) == ([], goodbye)


def fragments(sender: Connection) -> bytes:
    return sender.send(BytesMessage(data=b"a", message_finished=False)) + sender.send(BytesMessage(data=b"b"))


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        fragments,
        lambda sender: sender.send(TextMessage(data="text")),
        lambda sender: sender.send(BytesMessage(data=b"m" * (LIMIT + 1))),
        # Reserved bits, an opcode of nobody, the wrong mask, a control frame that is too long, an overlong length.
        lambda _: b"\xc2\x01x",
        lambda _: b"\x83\x01x",
        lambda sender: end(is_client=not sender.client).send(BytesMessage(data=b"mask")),
        lambda sender: b"\x89\xfe\x00\x7e" if sender.client else b"\x89\x7e\x00\x7e",
        lambda sender: b"\x82\xfe\x00\x05abcdhello" if sender.client else b"\x82\x7e\x00\x05hello",
        lambda sender: (b"\x82\xff" if sender.client else b"\x82\x7f") + (65_535).to_bytes(8, "big") + b"abcd",
        lambda sender: (b"\x82\xff" if sender.client else b"\x82\x7f") + b"\xff" * 8 + b"abcd",
    ],
)
def test_whatever_is_no_plain_message_is_passed_on_with_all_that_follows(odd: object, is_client: bool) -> None:
    sender = end(is_client=is_client)
    before = sender.send(BytesMessage(data=b"before"))
    rest: bytes = odd(sender) + sender.send(BytesMessage(data=b"after"))  # type: ignore[operator]  # a function
    frames = cutter(is_client=is_client)
    # A library gets every byte of it, from the first of its head on.
    assert take(frames, before + rest, 1 << 20) == ([b"before"], rest)
    assert frames.is_passing
    assert take(frames, b"more", 1) == ([], b"more")


def test_room_is_taken_for_no_more_than_the_limit() -> None:
    frames = cutter(is_client=True, limit=100)
    frames.feed(end(is_client=True).send(BytesMessage(data=b"m" * 101))[:20])
    assert frames.is_passing
    assert frames.rest_of_message() is None


_EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.binary(max_size=300).map(lambda data: BytesMessage(data=data)),
    st.binary(max_size=20).map(lambda data: Ping(payload=data)),
    st.integers(60_000, 80_000).map(lambda size: BytesMessage(data=b"z" * size)),
)


@given(st.lists(_EVENTS, max_size=8), st.booleans(), st.integers(1, 50_000))
def test_nothing_is_lost_or_changed(events: list[Event], is_client: bool, piece: int) -> None:
    sender = end(is_client=is_client)
    data = b"".join(sender.send(event) for event in events)
    messages, passed = take(cutter(is_client=is_client), data, max(piece, len(data) // 200))
    assert messages == [event.data for event in events if isinstance(event, BytesMessage)]
    reader = end(is_client=not is_client)
    reader.receive_data(passed)
    pings = [event.payload for event in events if isinstance(event, Ping)]
    assert [event.payload for event in reader.events() if isinstance(event, Ping)] == pings


@given(st.binary(max_size=400), st.booleans(), st.integers(1, 400))
def test_any_bytes_are_messages_or_passed_on(data: bytes, is_client: bool, piece: int) -> None:
    whole = take(cutter(is_client=is_client), data, len(data) or 1)
    assert take(cutter(is_client=is_client), data, piece) == whole
