"""Frames cut out of a stream, against wsproto, which makes and reads all of them."""

from __future__ import annotations

import tracemalloc

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
    messages, passed = take(frames, data, piece)
    # Of pings that come at once the last is answered, and pongs are nobody's.
    assert (messages, passed) == ([b"m0", b"m1", b"m2"], controls[2] if piece > 500 else controls[0] + controls[2])
    goodbye = sender.send(CloseConnection(code=1000, reason="end"))
    assert take(frames, goodbye + data, piece) == ([], goodbye)
    assert frames.breach is None


@pytest.mark.parametrize("is_client", [True, False])
def test_control_frames_without_end_are_taken_in_linear_time(is_client: bool) -> None:
    control = b"\x8a\x80abcd" if is_client else b"\x8a\x00"
    ping = b"\x89\x80abcd" if is_client else b"\x89\x00"
    frames = cutter(is_client=is_client)
    # A pass over these that copied what it has at each of them took a second.
    assert frames.feed(control * 40_000) == ([], b"")
    assert frames.feed(ping * 40_000) == ([], ping)


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_message_in_pieces_is_put_together_with_pings_between(piece: int, is_client: bool) -> None:
    sender = end(is_client=is_client)
    ping = sender.send(Ping(payload=b"p"))
    data = sender.send(BytesMessage(data=b"a" * 300, message_finished=False)) + ping
    data += sender.send(BytesMessage(data=b"", message_finished=False))
    data += sender.send(BytesMessage(data=b"b" * 70_000 if piece > 10 else b"b" * 200))
    data += sender.send(BytesMessage(data=b"whole"))
    frames = cutter(is_client=is_client)
    messages, passed = take(frames, data, piece)
    assert messages == [b"a" * 300 + b"b" * (70_000 if piece > 10 else 200), b"whole"]
    assert (passed, frames.breach) == (ping, None)


def begun(sender: Connection) -> bytes:
    return sender.send(BytesMessage(data=b"a", message_finished=False))


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (lambda sender: sender.send(TextMessage(data="text")), 1003),
        (lambda sender: sender.send(TextMessage(data="te", message_finished=False)), 1003),
        (lambda sender: sender.send(BytesMessage(data=b"m" * (LIMIT + 1)))[:14], 1009),
        (lambda sender: begun(sender) + sender.send(BytesMessage(data=b"m" * LIMIT))[:14], 1009),
        (lambda sender: (b"\x82\xff" if sender.client else b"\x82\x7f") + b"\x40" + bytes(7) + b"abcd", 1009),
        (lambda sender: (b"\x82\xff" if sender.client else b"\x82\x7f") + b"\xff" * 8 + b"abcd", 1009),
        # Reserved bits, an opcode of nobody, the wrong mask, a control frame that is too long or in pieces, an overlong
        # length, and pieces out of turn.
        (lambda sender: b"\xc2\x81x" if sender.client else b"\xc2\x01x", 1002),
        (lambda sender: b"\x83\x81x" if sender.client else b"\x83\x01x", 1002),
        (lambda sender: end(is_client=not sender.client).send(BytesMessage(data=b"mask")), 1002),
        (lambda sender: b"\x89\xfe\x00\x7e" if sender.client else b"\x89\x7e\x00\x7e", 1002),
        (lambda sender: b"\x09\x80abcd" if sender.client else b"\x09\x00", 1002),
        (lambda sender: b"\x82\xfe\x00\x05abcdhello" if sender.client else b"\x82\x7e\x00\x05hello", 1002),
        (lambda sender: (b"\x82\xff" if sender.client else b"\x82\x7f") + (65_535).to_bytes(8, "big") + b"abcd", 1002),
        (lambda sender: b"\x80\x80abcd" if sender.client else b"\x80\x00", 1002),
        (lambda sender: begun(sender) + begun(end(is_client=bool(sender.client))), 1002),
        (lambda sender: begun(sender) + end(is_client=bool(sender.client)).send(BytesMessage(data=b"x")), 1002),
    ],
)
def test_whatever_breaks_a_rule_is_known_by_its_head_and_nothing_counts_after_it(
    odd: object, code: int, piece: int, is_client: bool
) -> None:
    sender = end(is_client=is_client)
    before = sender.send(BytesMessage(data=b"before"))
    rest: bytes = odd(sender)  # type: ignore[operator]  # a function
    frames = cutter(is_client=is_client)
    assert take(frames, before + rest, piece) == ([b"before"], b"")
    assert frames.breach is not None
    assert frames.breach.code == code
    assert frames.rest_of_message() is None
    assert take(frames, end(is_client=is_client).send(BytesMessage(data=b"after")), piece) == ([], b"")


def test_an_owner_that_found_no_websocket_has_everything_passed_on() -> None:
    frames = cutter(is_client=False)
    frames.is_passing = True
    assert frames.feed(b"HTTP/1.1 426 ") == ([], b"HTTP/1.1 426 ")


def test_room_is_taken_for_what_has_come_and_not_for_what_is_announced() -> None:
    frames = cutter(is_client=True, limit=64 << 20)
    message = bytes(range(256)) * (8 << 10)
    data = message_head(len(message), b"abcd") + mask(message, b"abcd")
    place = b""
    frames.feed(data[:20])
    largest_room, at = 0, 20
    while (room := frames.rest_of_message()) is not None:
        largest_room = max(largest_room, len(room))
        size = min(len(room), 100_000)
        room[:size] = data[at : at + size]
        at += size
        # The view that the last bytes were put into is still there.
        place = bytes(room[:1])
        whole = frames.filled(size)
        assert whole is None or whole == message
        assert len(room) <= max(256 * 1024, at)
    assert (at, len(place)) == (len(data), 1)
    assert largest_room <= 1 << 20


def test_pieces_without_end_take_no_more_than_one_message() -> None:
    frames = cutter(is_client=True, limit=1_000)
    frames.feed(b"\x02\x80abcd")
    tracemalloc.start()
    try:
        for _ in range(20):
            assert frames.feed(b"\x00\x80abcd" * 5_000) == ([], b"")
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 10_000
    assert frames.breach is None
    frames.feed(b"\x00\x81abcdx" * 1_001)
    assert frames.breach is not None


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
    answered = [event.payload for event in reader.events() if isinstance(event, Ping)]
    # In their order, and the last one for certain.
    rest = iter(pings)
    assert all(payload in rest for payload in answered)
    assert answered[-1:] == pings[-1:]


@given(st.binary(max_size=400), st.booleans(), st.integers(1, 400))
def test_any_bytes_are_messages_or_a_breach_however_they_are_cut(data: bytes, is_client: bool, piece: int) -> None:
    at_once, in_pieces = cutter(is_client=is_client), cutter(is_client=is_client)
    messages, _ = take(at_once, data, len(data) or 1)
    assert take(in_pieces, data, piece)[0] == messages
    assert at_once.breach == in_pieces.breach
