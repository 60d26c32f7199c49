"""The client's sockets: TLS, and servers that do not speak as they should."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio_websocket import ConnectionClosed, wrap_server_stream

from logbroker.errors import (
    ConfigurationError,
    UnavailableError,
)
from logbroker.wire.frames import encode_frame
from logbroker.wire.requests import SUBPROTOCOL, Pong, Welcome, WireLimits, encode_header
from logbroker_client import connect
from logbroker_client.endpoints import check_url, system_trust
from logbroker_client.transport import Bell
from tests.fake_broker import FakeCluster, FakeConnection, serve_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

URL = "ws://node.test:4100"


@asynccontextmanager
async def misbehaving(
    converse: Callable[[Any], Awaitable[None]], *, subprotocol: str | None = SUBPROTOCOL
) -> AsyncIterator[Callable[[str], Awaitable[trio.abc.Stream]]]:
    """A server that does to each WebSocket what `converse` says; gives the client's `open_stream`."""

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream)
                socket = await request.accept(subprotocol=subprotocol)
                await converse(socket)
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:

        async def open_stream(_: str) -> trio.abc.Stream:
            client, server = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, server)
            await trio.lowlevel.checkpoint()
            return client

        yield open_stream
        nursery.cancel_scope.cancel()


async def failure_of(open_stream: Callable[[str], Awaitable[trio.abc.Stream]]) -> str:
    """Why no connection could be made."""
    with pytest.raises(UnavailableError) as raised:
        async with connect(URL, timeout=1.0, connect_timeout=0.5, open_stream=open_stream):
            raise AssertionError("not reached")
    return raised.value.message


async def stay_silent(_: object) -> None:
    await trio.sleep_forever()


async def welcome(socket: Any) -> None:  # noqa: ANN401 - untyped library
    await socket.get_message()
    await socket.send_message(
        encode_frame(encode_header(Welcome(1, version=1, node=1, cluster="c", limits=WireLimits())))
    )


async def test_a_server_that_says_nothing_is_given_up(autojump_clock: MockClock) -> None:
    async with misbehaving(stay_silent) as open_stream:
        assert "no welcome within 0.5 s" in await failure_of(open_stream)


async def test_a_stream_that_is_no_websocket_is_given_up(autojump_clock: MockClock) -> None:
    async def open_stream(_: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = trio.testing.memory_stream_pair()
        await server.send_all(b"220 mail.test ESMTP\r\n\r\n")
        return client

    assert "does not speak as a WebSocket does" in await failure_of(open_stream)


async def test_an_http_answer_is_reported_with_its_status(autojump_clock: MockClock) -> None:
    async def open_stream(_: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = trio.testing.memory_stream_pair()
        await server.send_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n")
        return client

    assert "HTTP status 426" in await failure_of(open_stream)


async def test_another_subprotocol_is_refused(autojump_clock: MockClock) -> None:
    async with misbehaving(stay_silent, subprotocol=None) as open_stream:
        assert "speaks no subprotocol" in await failure_of(open_stream)


async def test_a_text_message_is_refused(autojump_clock: MockClock) -> None:
    async def converse(socket: Any) -> None:  # noqa: ANN401 - untyped library
        await socket.send_message("hello")
        await trio.sleep_forever()

    async with misbehaving(converse) as open_stream:
        assert "text message" in await failure_of(open_stream)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"", "no frame"),
        (b"\xff" * 20, "header of 4294967295 bytes"),
        (encode_frame(b"\xc1"), "reply header is malformed"),
        (encode_frame(encode_header(Pong(1))), "no answer to Hello"),
    ],
)
async def test_garbage_is_refused(autojump_clock: MockClock, said: bytes, heard: str) -> None:
    async def converse(socket: Any) -> None:  # noqa: ANN401 - untyped library
        await socket.send_message(said)
        await trio.sleep_forever()

    async with misbehaving(converse) as open_stream:
        assert heard in await failure_of(open_stream)


@pytest.mark.parametrize("code", [1001, 1013, 4429, 4999])
async def test_close_codes_are_told(autojump_clock: MockClock, code: int) -> None:
    async with misbehaving(lambda socket: socket.aclose(code, "some reason")) as open_stream:
        assert f"code {code}: some reason" in await failure_of(open_stream)


async def test_an_answer_that_nobody_asked_for_ends_the_connection_and_not_the_client(
    autojump_clock: MockClock,
) -> None:
    connection_count = 0

    async def converse(socket: Any) -> None:  # noqa: ANN401 - untyped library
        nonlocal connection_count
        connection_count += 1
        await welcome(socket)
        await socket.get_message()
        await socket.send_message(encode_frame(encode_header(Pong(77))))
        await trio.sleep_forever()

    async with misbehaving(converse) as open_stream:
        await failure_of(open_stream)
    assert connection_count > 1


async def test_a_ping_of_the_websocket_while_the_client_closes_does_no_harm(autojump_clock: MockClock) -> None:
    cluster = FakeCluster()
    cluster.add_queue("orders")

    async def ping(socket: Any) -> None:  # noqa: ANN401 - untyped library
        while True:
            await socket.ping()

    async def converse(socket: Any) -> None:  # noqa: ANN401 - untyped library
        connection = FakeConnection(cluster.nodes[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping, socket)
            while True:
                connection.receive(await socket.get_message())
                while (message := connection.protocol.next_message()) is not None:
                    await socket.send_message(message)

    async with misbehaving(converse) as open_stream:
        for _ in range(20):
            async with connect(URL, open_stream=open_stream) as client:
                await client.list_queues()


async def test_a_server_that_stops_reading_and_answering_is_left(autojump_clock: MockClock) -> None:
    connection_count = 0

    async def converse(socket: Any) -> None:  # noqa: ANN401 - untyped library
        nonlocal connection_count
        connection_count += 1
        await welcome(socket)
        await trio.sleep_forever()

    async with misbehaving(converse) as open_stream:
        with pytest.raises(UnavailableError):
            async with connect(URL, timeout=30, ping_interval=2, open_stream=open_stream):
                raise AssertionError("not reached")
    assert connection_count >= 5


# --- TLS on a real socket ---


async def test_tls_is_checked_against_the_given_authority() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    cluster = FakeCluster()
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve_node, cluster.nodes[1], tls=server_context))
        assert cluster.nodes[1].url == f"wss://127.0.0.1:{port}"
        async with connect(cluster.nodes[1].url, tls=trusting) as client:
            assert await client.list_queues() == []
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(cluster.nodes[1].url, timeout=0.3):
                raise AssertionError("not reached")
        nursery.cancel_scope.cancel()


def test_the_system_may_be_trusted() -> None:
    assert isinstance(system_trust(), ssl.SSLContext)


@pytest.mark.parametrize("url", ["ws://a:4100", "wss://a", "ws://[::1]:4100/v1/stream"])
def test_addresses_of_nodes_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url", ["", "a:4100", "tcp://a:1", "ws://a:0", "ws://a:99999", "ws://[::1", "ws://a:port", f"ws://{'a' * 64}:4100"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        check_url(url)


# --- the bell ---


async def test_a_bell_that_was_rung_does_not_wait() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    bell.ring()
    bell.hush()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_bell_wakes_who_waits() -> None:
    bell = Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()
        bell.ring()
