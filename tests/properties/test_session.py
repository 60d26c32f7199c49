"""Whatever bytes a client sends, a session answers or closes; it never raises, and no stranger reaches the node."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from logbroker.server.closing import CloseCode
from logbroker.wire.frames import encode_frame
from logbroker.wire.requests import Ping, Produce, encode_header
from tests.unit.server.auth_table import about
from tests.unit.server.kit import World

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest, Request

_rids = count(2)


def _frame(kind: type[Request], request: AnyRequest) -> bytes:
    return encode_frame(encode_header(request), b"body" if kind is Produce else b"")


# Each has a rid of its own, so that several of them may stand in one message.
FRAMES = [_frame(kind, request) for kind, request in about("orders", _rids.__next__).items()]
FRAMES.append(encode_frame(encode_header(Ping(1))))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Frames of every kind back to back, and then some bytes changed, cut off or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=6))))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data) - 1)) if data else 0
        match draw(st.integers(0, 3)):
            case 0 if data:
                data[place] = draw(st.integers(0, 255))
            case 1:
                del data[place:]
            case 2:
                data[place:place] = draw(st.binary(max_size=8))
            case _:
                data[place : place + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f"]))
    return bytes(data)


@given(sent=st.lists(st.one_of(messages(), st.binary(max_size=64)), max_size=5), greets=st.booleans())
def test_a_session_takes_any_bytes(sent: list[bytes], greets: bool) -> None:
    world = World.make()
    if greets:
        world.greet()
    for message in sent:
        world.session.take(message)
        world.replies()
    closing = world.session.closing
    assert closing is None or closing.code is CloseCode.BAD_REQUEST
    assert greets or not world.backend.asked
    world.session.end()
    assert world.session.outstanding_count == 0
    assert world.service.measures.waiting_receives == 0
    assert world.service.measures.unauthenticated == 0
