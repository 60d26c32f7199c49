"""The stream below the client's WebSocket, over sockets and over streams that are none."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, TextMessage

from logbroker_client.data_stream import DataStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from logbroker.wire.data_frames import Breach

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


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


def server() -> Connection:
    return Connection(ConnectionType.SERVER)


def stream_of(below: trio.abc.Stream, taken: list[bytes], breaches: list[Breach] | None = None) -> DataStream:
    found = [] if breaches is None else breaches
    return DataStream(below, max_message_bytes=1 << 20, take=taken.append, on_breach=found.append)


async def test_what_a_server_may_not_send_is_told_and_is_the_end(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    taken: list[bytes] = []
    breaches: list[Breach] = []
    stream = stream_of(ends[0], taken, breaches)
    data = server().send(BytesMessage(data=b"welcome")) + server().send(TextMessage(data="text"))
    await ends[1].send_all(ANSWER + data)
    seen = await stream.receive_some()
    assert (seen, await stream.receive_some()) == (ANSWER, b"")
    assert taken == [b"welcome"]
    assert [breach.code for breach in breaches] == [1003]


@pytest.mark.parametrize("piece", [1, 7, 1_000])
async def test_the_answer_to_the_handshake_goes_to_the_library_and_frames_behind_it_do_not(
    piece: int, ends: tuple[trio.abc.Stream, trio.abc.Stream]
) -> None:
    taken: list[bytes] = []
    stream = stream_of(ends[0], taken)
    ping = server().send(Ping(payload=b"p"))
    data = ANSWER + server().send(BytesMessage(data=b"welcome")) + ping
    seen = b""
    for at in range(0, len(data), piece):
        await ends[1].send_all(data[at : at + piece])
        if at + piece < len(ANSWER) or at < len(ANSWER) <= at + piece:
            seen += await stream.receive_some()
    seen += await stream.receive_some()
    assert seen == ANSWER + ping
    assert taken == [b"welcome"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 4\r\n\r\n\x82\x02hi",
        b"\x82" * 70_000 + b"\x82\x02hi",
    ],
)
async def test_another_answer_is_all_the_librarys(answer: bytes, ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    taken: list[bytes] = []
    stream = stream_of(ends[0], taken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[1].send_all, answer)
        seen = b""
        while len(seen) < len(answer):
            seen += await stream.receive_some()
    assert (seen, taken) == (answer, [])


async def test_messages_are_masked_and_come_whole_through_a_full_socket(
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
) -> None:
    stream = stream_of(ends[0], [])
    messages = [b"", b"m", bytes(range(256)) * 4_000, b"z" * 700_000]

    async def write() -> None:
        for message in messages:
            await stream.send_message(message)

    reader = server()
    received: list[bytes] = []
    parts: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        with trio.fail_after(10):
            while len(received) < len(messages):
                reader.receive_data(bytes(await ends[1].receive_some(20_000)))
                for event in reader.events():
                    assert isinstance(event, BytesMessage)
                    parts.append(bytes(event.data))
                    if event.message_finished:
                        received.append(b"".join(parts))
                        parts.clear()
    assert received == messages


async def test_a_closed_connection_says_so(ends: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
    stream = stream_of(ends[0], [])
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_message(b"m")
