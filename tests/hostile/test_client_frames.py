"""What a client may not send, on a real socket: each row ends its own connection with a code that is documented, at
once, and nobody else notices.

The codes: 1002 broken WebSocket, 1003 text, 1009 too big by its own account, 4400 broken protocol, 4401 not
authenticated, 4408 too late.
"""

from __future__ import annotations

import struct

import msgspec
import pytest
import trio

from logbroker.wire.frames import encode_frame
from logbroker.wire.requests import (
    Ack,
    Done,
    Hello,
    ListQueues,
    Metadata,
    Ping,
    Produce,
    Receive,
    Welcome,
    WireLimits,
    encode_header,
)
from tests.hostile.kit import bystander, connected, framed, service_of, soon, until, ws
from tests.unit.server.raw import serving

MESSAGE = 2 << 20
OK = framed(ListQueues(7))


def header(*values: object) -> bytes:
    """A frame whose header is any msgpack array."""
    return encode_frame(msgspec.msgpack.encode(values))


def ack(rid: int, count: int) -> Ack:
    return Ack(rid, queue="orders", partition=0, group="default", items=[(1, [])] * count)


def receive(rid: int) -> Receive:
    return Receive(
        rid,
        queue="orders",
        partition=0,
        group="default",
        max_count=1,
        max_bytes=1,
        hide_ms=1_000,
        wait_ms=20_000,
        session=1,
        request_id=rid,
    )


# What RFC 6455 forbids, or we do.
WEBSOCKET: dict[str, tuple[bytes, int]] = {
    "text": (ws(b"hello?", first=0x81), 1003),
    "text that is not UTF-8": (ws(b"\xff\xfe", first=0x81), 1003),
    "the first piece of a text": (ws(b"hel", first=0x01), 1003),
    "text between the pieces of a message": (ws(OK[:5], first=0x02) + ws(b"hello", first=0x81), 1003),
    **{f"opcode {opcode}": (ws(b"x", first=0x80 | opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    # The first would be a compressed message; compression was not agreed on.
    "reserved bit 1": (ws(OK, first=0xC2), 1002),
    "reserved bit 2": (ws(OK, first=0xA2), 1002),
    "reserved bit 3": (ws(OK, first=0x92), 1002),
    "reserved bit of a ping": (ws(first=0xC9), 1002),
    "without a mask": (ws(OK, mask=False), 1002),
    "a ping without a mask": (ws(first=0x89, mask=False), 1002),
    "a ping of 126 bytes": (ws(bytes(126), first=0x89), 1002),
    "a ping that says it is of 2**63": (ws(first=0x89, size=1 << 63), 1002),
    "a ping in pieces": (ws(first=0x09), 1002),
    "a goodbye in pieces": (ws(first=0x08), 1002),
    "a goodbye of 126 bytes": (ws(bytes(126), first=0x88), 1002),
    "a length of 5 in two bytes": (ws(b"hello", wide=2), 1002),
    "a length of 500 in eight bytes": (ws(bytes(500), wide=8), 1002),
    "a piece of nothing": (ws(b"x", first=0x80), 1002),
    "a next piece of nothing": (ws(b"x", first=0x00), 1002),
    "a message inside a message": (ws(OK[:5], first=0x02) + ws(OK), 1002),
    "a beginning inside a message": (ws(OK[:5], first=0x02) + ws(OK, first=0x02), 1002),
    # The frame itself never comes.
    "one byte too much is announced": (ws(size=MESSAGE + 1), 1009),
    "2**31 are announced": (ws(size=1 << 31), 1009),
    "2**62 are announced": (ws(size=1 << 62), 1009),
    "2**64 - 1 are announced": (ws(size=(1 << 64) - 1), 1009),
    "a piece of 2**62 is announced": (ws(size=1 << 62, first=0x02), 1009),
    "pieces that are too much together": (ws(bytes(9), first=0x02) + ws(first=0x80, size=MESSAGE - 8), 1009),
}

# What the frames in it may not be: a rule of the protocol.
FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "half a prefix": b"\x00\x00\x00\x01",
    "a prefix alone": b"\x00\x00\x00\x05\x00\x00\x00\x00",
    "no header": b"\x00\x00\x00\x00\x00\x00\x00\x00",
    "no header and a body": b"\x00\x00\x00\x00\x00\x00\x00\x01x",
    "everything at its largest": b"\xff" * 64,
    "a header beyond the message": struct.pack(">II", 100, 0) + b"x" * 99,
    "a body beyond the message": struct.pack(">II", 1, 100) + b"x" * 99,
    "a header of 64 KiB and one byte": encode_frame(bytes((64 << 10) + 1)),
    "a body of 1 MiB and one byte": encode_frame(
        encode_header(Produce(5, queue="orders", partition=0)), bytes(1 << 20) + b"x"
    ),
    "a frame and a byte more": OK + b"x",
    "a frame and half of another": OK + OK[:-1],
    "no msgpack": encode_frame(b"\xc1"),
    "a number": encode_frame(b"\x07"),
    "a map": encode_frame(msgspec.msgpack.encode({"kind": 14, "rid": 7})),
    "an empty array": header(),
    "a kind alone": header(14),
    "a kind of nobody": header(63, 7),
    "the kind of a reply": encode_frame(encode_header(Done(7))),
    "a kind that is text": header("14", 7),
    "a negative kind": header(-1, 7),
    "fields missing": header(4, 7, "orders"),
    "a field of another type": header(4, 7, "orders", "0"),
    "a negative number": header(4, 7, "orders", -1),
    "a number of 64 bits": header(4, 7, "orders", 1 << 63),
    "a float": header(4, 7, "orders", 0.5),
    "a name of 1025 characters": header(4, 7, "q" * 1025, 0),
    "a name that is not UTF-8": encode_frame(b"\x94\x04\x07\xa2\xff\xfe\x00"),
    "a rid of 0": framed(ListQueues(0)),
    "a negative rid": header(14, -1),
    "a rid twice": framed(receive(7), receive(7)),
    "a second hello": framed(Hello(9)),
    "a body where none belongs": framed(ListQueues(7), body=b"x"),
    "an array of 2**32 - 1": encode_frame(b"\x96\x06\x07\xa1q\x00\xa1g\xdd\xff\xff\xff\xff\x92\x01\x90"),
    "a text of 2**32 - 1": encode_frame(b"\x93\x03\x07\xdb\xff\xff\xff\xff"),
    "60,000 arrays in one another": encode_frame(b"\x94\x03\x07\xc0" + b"\x91" * 60_000 + b"\xc0"),
    "60,000 arrays in a known field": encode_frame(b"\x93\x03\x07" + b"\x91" * 60_000 + b"\xc0"),
    "more than may be outstanding": framed(*[receive(rid) for rid in range(1, 1_026)]),
    "more pings than that": framed(*[Ping(5)] * 1_025),
    "headers of 300 KB in one message": framed(*[ack(rid, 15_000) for rid in range(1, 8)]),
    "two megabytes of pings": framed(*[Ping(5)] * 190_000),
}

TABLE = WEBSOCKET | {name: (ws(message), 4400) for name, message in FRAMES.items()}


@pytest.mark.parametrize("name", TABLE)
async def test_what_a_client_may_not_send_ends_its_connection_with_its_code(name: str) -> None:
    sent, code = TABLE[name]
    service = service_of()
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        assert isinstance(await stranger.greet(), Welcome)
        with soon():
            await stranger.send(sent + ws(OK))
            said = await stranger.end()
        assert said.close_code == code
        # Why is told before the goodbye, and nothing of what came with it was done.
        assert said.errors[-1:] == ["remote_protocol"]
        await stranger.stream.aclose()
        await until(lambda: listener.connection_count == 1)
        assert service.measures.closed == {code: 1}
        assert service.measures.waiting_receives == 0


async def test_after_a_row_of_the_table_nothing_that_follows_is_carried_out() -> None:
    service = service_of()
    async with serving(service) as (_, port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(b"x", first=0x83) + ws(framed(receive(7))))
        assert (await stranger.end()).close_code == 1002
        assert service.measures.requests == {}


# --- before the hello ---

EARLY: dict[str, tuple[bytes, int]] = {
    "a request": (ws(OK), 4400),
    "a ping of ours": (ws(framed(Ping(1))), 4400),
    "hello twice": (ws(framed(Hello(1), Hello(2))), 4400),
    "a request behind the hello, unwelcomed": (ws(framed(Hello(1), ListQueues(2))), 4400),
    "a hello without a rid": (ws(framed(Hello(0))), 4400),
    "a hello with a token of 8,193 characters": (ws(framed(Hello(1, token="t" * 8_193))), 4400),
    "an old version": (ws(framed(Hello(1, version=0, oldest_version=0))), 4400),
    "a later version": (ws(framed(Hello(1, version=99, oldest_version=98))), 4400),
    "text": (ws(b"hello", first=0x81), 1003),
    "a frame that is larger than any hello": (ws(size=100_000), 1009),
    "more bytes than any hello, in pings": (ws(bytes(100), first=0x89) * 2_000, 4400),
    "more bytes than any hello, in empty pieces": (ws(first=0x02) + ws(first=0x00) * 20_000, 4400),
}


@pytest.mark.parametrize("name", EARLY)
async def test_who_has_not_said_hello_may_send_less_still(name: str) -> None:
    sent, code = EARLY[name]
    service = service_of()
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.upgrade()
        with soon():
            await stranger.send(sent)
            said = await stranger.end()
        assert said.close_code == code
        assert len(said.errors) == 1
        await stranger.stream.aclose()
        await until(lambda: listener.connection_count == 1)
        assert service.measures.unauthenticated == 0


# --- goodbyes ---


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x03", b"\x03\xe8bye", b"\x03\xed", b"\x03\xee", b"\x00\x00", b"\xff\xff", b"\x03\xe8\xff\xfe"],
    ids=["empty", "half a code", "1000", "1005", "1006", "0", "65535", "a reason that is not UTF-8"],
)
async def test_any_goodbye_ends_the_connection_and_what_follows_it_is_not_read(payload: bytes) -> None:
    service = service_of()
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(payload, first=0x88) + ws(framed(receive(7))) * 10)
        with soon():
            await stranger.end()
        await until(lambda: listener.connection_count == 1)
        assert "Receive" not in service.measures.requests


# --- what is allowed, and much of it ---


async def test_a_flood_of_control_frames_holds_nobody_up() -> None:
    """256 KiB of pongs in one read, taken one by one out of what is left of it, once held a node for a second."""
    service = service_of()
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        for control in (ws(first=0x8A), ws(first=0x89)):
            await stranger.send(control * 150_000)
        await stranger.send(ws(OK))
        assert (await stranger.reply()).rid == 7
        # One answer for the pings of a read is enough, and there were few reads.
        assert 1 <= stranger.said.pong_count < 1_000


async def test_a_message_of_empty_pieces_without_end_takes_no_memory_and_holds_nobody_up() -> None:
    service = service_of()
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(OK[:5], first=0x02) + ws(first=0x00) * 200_000 + ws(OK[5:], first=0x80))
        assert (await stranger.reply()).rid == 7


async def test_pieces_of_one_byte_are_a_message() -> None:
    async with serving(service_of()) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        pieces = [ws(bytes((byte,)), first=0x00) for byte in OK]
        pieces[0] = ws(OK[:1], first=0x02)
        pieces[-1] = ws(OK[-1:], first=0x80)
        await stranger.send((ws(b"p", first=0x89)).join(pieces))
        assert (await stranger.reply()).rid == 7


async def test_the_most_that_may_come_in_one_message_holds_nobody_up() -> None:
    """Headers of 256 KiB, in the form that takes longest: acks of leases of nothing, which must all be looked at."""
    service = service_of()
    limits: WireLimits = service.wire_limits
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        for _ in range(3):
            await stranger.send(ws(framed(*[Ping(5)] * limits.max_outstanding)))
            await stranger.send(ws(framed(*[Metadata(rid, queues=["q" * 200] * 300) for rid in range(1, 5)])))
        for _ in range(3 * limits.max_outstanding + 12):
            await stranger.reply()


async def test_a_message_that_comes_byte_by_byte_is_as_good_as_any() -> None:
    async with serving(service_of()) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        for byte in ws(OK):
            await stranger.send(bytes((byte,)))
            await trio.lowlevel.checkpoint()
        assert (await stranger.reply()).rid == 7
