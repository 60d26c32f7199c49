"""The stream below a client's WebSocket, over sockets and over streams that are none."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, TextMessage

from logbroker.server.data_stream import DataStream
from logbroker.wire.data_frames import Breach

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ALLOWANCE = 1_000


def sockets() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    one, other = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(one)), trio.SocketStream(
        trio.socket.from_stdlib_socket(other)
    )


def memory() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    return trio.testing.memory_stream_pair()


@pytest.fixture(params=[sockets, memory])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    one, other = request.param()
    async with one, other:
        yield one, other


async def no_wait() -> None:
    """There is room for ever."""


def stream_of(
    below: trio.abc.Stream,
    taken: list[bytes],
    head: bytes = HEAD,
    wait_room: Callable[[], Awaitable[None]] = no_wait,
    breaches: list[Breach] | None = None,
    *,
    is_text: bool = False,
) -> DataStream:
    found = [] if breaches is None else breaches
    return DataStream(
        below,
        head,
        allowance_bytes=ALLOWANCE,
        take=taken.append,
        wait_room=wait_room,
        after_read=lambda: None,
        on_breach=found.append,
        is_text=is_text,
    )


async def send(stream: DataStream, message: bytes) -> None:
    if not stream.send_nowait(message):
        await stream.finish()


def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


async def test_the_head_comes_first_and_what_came_with_it_are_frames(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    taken: list[bytes] = []
    early = client().send(BytesMessage(data=b"early"))
    stream = stream_of(ends[0], taken, HEAD + early)
    assert await stream.receive_some() == HEAD
    ping = client().send(Ping(payload=b"p"))
    await ends[1].send_all(client().send(BytesMessage(data=b"late")) + ping)
    assert await stream.receive_some() == ping
    assert taken == [b"early", b"late"]


async def test_large_messages_come_whole_once_the_client_is_trusted(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    taken: list[bytes] = []
    stream = stream_of(ends[0], taken)
    await stream.receive_some()
    stream.trust(1 << 20)
    message = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[1].send_all, client().send(BytesMessage(data=message)) + client().send(Ping()))
        assert await stream.receive_some() != b""
    assert taken == [message]


async def test_no_more_than_the_allowance_is_taken_of_a_stranger(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    taken: list[bytes] = []
    breaches: list[Breach] = []
    stream = stream_of(ends[0], taken, breaches=breaches)
    await stream.receive_some()
    await ends[1].send_all(client().send(BytesMessage(data=b"m" * 600)) * 2)
    await ends[1].aclose()
    assert await stream.receive_some() == b""
    assert breaches == [Breach(4400, "too many bytes before the hello was answered")]
    assert len(taken) <= 1


async def test_what_breaks_a_rule_is_told_once_and_the_rest_is_thrown_away(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    taken: list[bytes] = []
    breaches: list[Breach] = []
    stream = stream_of(ends[0], taken, breaches=breaches)
    await stream.receive_some()
    data = client().send(BytesMessage(data=b"before")) + client().send(TextMessage(data="text")) * 2
    await ends[1].send_all(data + client().send(BytesMessage(data=b"after")))
    await ends[1].aclose()
    assert await stream.receive_some() == b""
    assert taken == [b"before"]
    assert [breach.code for breach in breaches] == [1003]


async def test_what_follows_a_read_is_done_though_a_message_was_one_too_much(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    """Others may be held up until then."""
    ended: list[None] = []

    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    stream = DataStream(
        ends[0],
        HEAD + client().send(BytesMessage(data=b"early")),
        allowance_bytes=ALLOWANCE,
        take=fail,
        wait_room=trio.lowlevel.checkpoint,
        after_read=lambda: ended.append(None),
        on_breach=lambda _: None,
    )
    assert await stream.receive_some() == HEAD
    with pytest.raises(ZeroDivisionError):
        await stream.receive_some()
    assert ended == [None]


async def test_a_stream_of_text_takes_text_and_sends_text(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    taken: list[bytes] = []
    breaches: list[Breach] = []
    stream = stream_of(ends[0], taken, HEAD + client().send(TextMessage(data="early")), breaches=breaches, is_text=True)
    await stream.receive_some()
    stream.trust(1 << 20)
    large = "é" * 100_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[1].send_all, client().send(TextMessage(data=large)) + client().send(Ping()))
        assert await stream.receive_some() != b""
    assert taken == [b"early", large.encode()]
    await send(stream, b"answer")
    reader = client()
    reader.receive_data(bytes(await ends[1].receive_some()))
    assert list(reader.events()) == [TextMessage(data="answer", frame_finished=True, message_finished=True)]
    await ends[1].send_all(client().send(BytesMessage(data=b"binary")))
    await ends[1].aclose()
    assert await stream.receive_some() == b""
    assert breaches == [Breach(1003, "a binary message; this subprotocol is text")]


async def test_nothing_more_is_taken_while_there_is_no_room(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    taken: list[bytes] = []
    room = trio.Event()
    stream = stream_of(ends[0], taken, wait_room=room.wait)
    await stream.receive_some()
    await ends[1].send_all(client().send(BytesMessage(data=b"1")) + client().send(BytesMessage(data=b"2")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [b"1"]
        room.set()
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [b"1", b"2"]
        nursery.cancel_scope.cancel()


async def test_messages_and_the_librarys_frames_do_not_mix_in_a_full_socket(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    stream = stream_of(ends[0], [])
    server = Connection(ConnectionType.SERVER)
    messages = [bytes([number]) * 300_000 for number in range(6)]

    async def write() -> None:
        for message in messages:
            await send(stream, message)

    async def ping() -> None:
        for number in range(20):
            await stream.send_all(server.send(Ping(payload=b"%d" % number)))

    reader = client()
    received: list[bytes] = []
    parts: list[bytes] = []
    pings = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(ping)
        with trio.fail_after(10):
            while len(received) < len(messages) or pings < 20:
                # Small reads, so that the socket fills up.
                reader.receive_data(bytes(await ends[1].receive_some(20_000)))
                for event in reader.events():
                    if isinstance(event, Ping):
                        pings += 1
                    elif isinstance(event, BytesMessage):
                        parts.append(bytes(event.data))
                        if event.message_finished:
                            received.append(b"".join(parts))
                            parts.clear()
    assert received == messages


async def test_a_closed_connection_says_so_and_touches_no_other(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    stream = stream_of(ends[0], [])
    await stream.receive_some()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await send(stream, b"m")
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_the_end_of_the_other_side_is_the_end(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    stream = stream_of(ends[0], [])
    await stream.receive_some()
    await ends[1].aclose()
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await send(stream, b"m")
