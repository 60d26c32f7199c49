"""The client listener on a real socket, with a node behind it that is none."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from logbroker.ids import LeaseId, Offset
from logbroker.node.requests import Part, ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.wire.frames import encode_frame
from logbroker.wire.requests import Error, Hello, Ping, Pong, Receive, Welcome, encode_header
from tests.unit.server.kit import World, expect
from tests.unit.server.raw import OFFER, UPGRADE, RawClient, raw_client, read_all, send_bytes, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.server.service import ClientService


def service_of(**sections: Any) -> ClientService:  # noqa: ANN401  tables of the configuration
    service = World.make(**sections).service
    # The world's own session is not one of these.
    service.measures.unauthenticated = 0
    service.clock = trio.current_time
    return service


def receive(rid: int) -> Receive:
    return Receive(
        rid,
        queue="orders",
        partition=0,
        group="default",
        max_count=10,
        max_bytes=1 << 20,
        hide_ms=30_000,
        wait_ms=20_000,
        session=5,
        request_id=rid,
    )


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let the sockets do their work; fails after a while."""
    with trio.fail_after(10):
        # Nothing here says when the operating system has moved the bytes.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


# --- plain HTTP and handshakes ---


@pytest.mark.parametrize(
    ("request_head", "status", "hint"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426", b"speaks WebSocket at /v1/stream, subprotocol logbroker.v1"),
        (b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", b"426", b"for HTTP go to http://"),
        (UPGRADE + b"\r\n", b"400", b"Offer a subprotocol: logbroker.v1.msgpack or logbroker.v1.json"),
        (UPGRADE + b"Sec-WebSocket-Protocol: chat, soap\r\n\r\n", b"400", b"Offer a subprotocol"),
        (UPGRADE.replace(b"/v1/stream", b"/v1/stream?token=x") + OFFER + b"\r\n", b"404", b"without a query"),
        (UPGRADE.replace(b": 13", b": 8") + OFFER + b"\r\n", b"400", b"Sec-WebSocket-Version 13"),
        (UPGRADE + OFFER + b"Origin: https://evil.example\r\n\r\n", b"403", b"allowed_origins"),
        (b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n", b"400", b"not a request of HTTP"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"431",
            b"the head of the request is larger than 16384 bytes",
        ),
    ],
)
async def test_what_is_no_handshake_gets_a_helpful_word(request_head: bytes, status: bytes, hint: bytes) -> None:
    async with serving(service_of()) as (_, port):
        answer = await send_bytes(port, request_head)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert hint in answer


@pytest.mark.parametrize("origins", [("https://shop.example",), ("*",)])
async def test_a_browser_from_an_allowed_origin_is_let_in(origins: tuple[str, ...]) -> None:
    service = service_of(listeners={"client": {"allowed_origins": origins}})
    async with serving(service) as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(UPGRADE + OFFER + b"Origin: https://shop.example\r\n\r\n")
            with trio.fail_after(10):
                answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"logbroker.v1.msgpack" in answer


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (b"logbroker.v1.json", b"logbroker.v1.json"),
        (b"chat, logbroker.v1.json, logbroker.v1.msgpack", b"logbroker.v1.json"),
        (b"logbroker.v1.msgpack,logbroker.v1.json", b"logbroker.v1.msgpack"),
        (b"logbroker.v2.json\r\nSec-WebSocket-Protocol: logbroker.v1.json", b"logbroker.v1.json"),
    ],
)
async def test_the_first_subprotocol_that_is_offered_and_spoken_here_is_chosen(offered: bytes, chosen: bytes) -> None:
    async with serving(service_of()) as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(UPGRADE + b"Sec-WebSocket-Protocol: " + offered + b"\r\n\r\n")
            with trio.fail_after(10):
                answer = bytes(await stream.receive_some())
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"protocol: " + chosen + b"\r\n" in answer.lower()


async def test_a_head_that_never_ends_and_one_byte_at_a_time_are_cut_off_at_the_deadline() -> None:
    async with serving(service_of(timeouts={"handshake_ms": 200})) as (listener, port):
        for first in (b"", b"GET / HT"):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                if first:
                    await stream.send_all(first)
                with trio.fail_after(5):
                    assert await read_all(stream) == b""
        await wait_until(lambda: listener.connection_count == 0)


async def test_who_never_says_hello_is_closed_with_4408() -> None:
    async with serving(service_of(timeouts={"hello_ms": 200})) as (_, port), raw_client(port, greets=False) as client:
        assert (await client.wait_closed())[0] == 4408


async def test_half_open_handshakes_fill_their_own_limit_and_nobody_elses() -> None:
    service = service_of(limits={"max_unauthenticated_connections": 3})
    async with serving(service) as (_, port), raw_client(port) as friend:
        strangers = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        await wait_until(lambda: service.measures.unauthenticated == 3)
        assert await send_bytes(port, b"") == b""
        assert isinstance(await friend.ask(Ping(friend.rid())), Pong)
        for stranger in strangers:
            await stranger.aclose()
        await wait_until(lambda: service.measures.unauthenticated == 0)
        async with raw_client(port) as late:
            assert isinstance(await late.ask(Ping(late.rid())), Pong)
        assert service.measures.refused == {"max_unauthenticated_connections": 1}


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
async def test_connections_beyond_a_limit_are_dropped_at_once(limit: str) -> None:
    service = service_of(limits={limit: 1})
    async with serving(service) as (_, port), raw_client(port) as client:
        assert await send_bytes(port, b"") == b""
        assert isinstance(await client.ask(Ping(client.rid())), Pong)
    assert service.measures.refused == {limit: 1}


async def test_more_bytes_than_a_hello_before_the_hello_end_the_connection() -> None:
    async with serving(service_of()) as (listener, port), raw_client(port, greets=False) as client:
        await client.send_anyway(bytes(500_000))
        await client.wait_closed()
        await wait_until(lambda: listener.connection_count == 0)


# --- messages ---


async def test_a_text_message_is_closed_with_1003() -> None:
    async with serving(service_of()) as (_, port), raw_client(port) as client:
        await client.send_anyway("hello?")
        assert (await client.wait_closed())[0] == 1003


async def test_a_message_beyond_the_limit_is_closed_with_1009() -> None:
    async with serving(service_of()) as (_, port), raw_client(port) as client:
        await client.send_anyway(bytes((2 << 20) + 1))
        assert (await client.wait_closed())[0] == 1009


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x00\x00\x00\x00\xc1",
        encode_frame(encode_header(Hello(9))),
        encode_frame(encode_header(receive(0))),
        encode_frame(encode_header(receive(3)), b"a body where none belongs"),
    ],
)
async def test_a_message_that_breaks_the_protocol_is_told_why_and_closed_with_4400(message: bytes) -> None:
    async with serving(service_of()) as (_, port), raw_client(port) as client:
        await client.send_anyway(message)
        error = expect(Error, (await client.reply())[0])
        assert (error.rid, error.code) == (0, "remote_protocol")
        assert (await client.wait_closed())[0] == 4400


async def test_a_wrong_token_gets_its_error_and_4401() -> None:
    async with serving(service_of(auth={"tokens": True})) as (_, port), raw_client(port, greets=False) as client:
        reply = await client.ask(Hello(1, token="wrong"))
        assert expect(Error, reply).code == "unauthenticated"
        assert (await client.wait_closed())[0] == 4401


async def test_a_client_that_says_goodbye_is_gone_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "logbroker")
    service = service_of()
    async with serving(service) as (listener, port):
        async with raw_client(port) as client:
            await client.websocket.aclose(1000)
        async with raw_client(port):
            pass
        await wait_until(lambda: listener.connection_count == 0)
    assert caplog.records == []
    assert service.measures.closed == {}


async def test_a_mistake_in_a_handler_ends_one_connection_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    service = service_of()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    service.partition = fail  # type: ignore[assignment,method-assign]  # that is the mistake
    async with serving(service) as (_, port), raw_client(port) as other, raw_client(port) as client:
        await client.send(receive(2))
        assert (await client.wait_closed())[0] == 1011
        assert isinstance(await other.ask(Ping(2)), Pong)
    assert "connection_failed" in caplog.text
    assert "planted" in caplog.text


# --- slow readers and the end ---


async def ask_for_megabytes(client: RawClient, world: World, count: int) -> None:
    for rid in range(2, 2 + count):
        await client.send(receive(rid))
    await wait_until(lambda: len(world.backend.asked) == count)
    for number in range(count):
        part = Part(bytes(1 << 20), Offset(number), 1_000, ((number, number + 1, 1),))
        world.backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(70 + number), 1, 1, (part,)))


async def test_a_reader_that_stops_is_closed_and_what_it_never_got_goes_back() -> None:
    world = World.make(limits={"max_reply_bytes": 16 << 20}, timeouts={"close_ms": 100})
    world.service.clock = trio.current_time
    async with serving(world.service) as (listener, port), raw_client(port) as other:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(UPGRADE + OFFER + b"\r\n")
            await stream.receive_some()
            await stream.send_all(masked(encode_frame(encode_header(Hello(1)))))
            await stream.send_all(masked(b"".join(encode_frame(encode_header(receive(rid))) for rid in range(2, 42))))
            await wait_until(lambda: len(world.backend.asked) == 40)
            for number in range(40):
                part = Part(bytes(1 << 20), Offset(number), 1_000, ((number, number + 1, 1),))
                world.backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(70 + number), 1, 1, (part,)))
            await wait_until(lambda: listener.connection_count == 1)
        assert isinstance(await other.ask(Ping(2)), Pong)
        await wait_until(lambda: world.service.handover.open_count == 0)
    released = [request for _, request, _ in world.backend.asked if isinstance(request, ReleaseRequest)]
    # Some replies were in the operating system's buffers already; the rest was never seen.
    assert 20 <= len(released) <= 40


def masked(payload: bytes) -> bytes:
    """One binary frame of a client, with the mask that changes nothing."""
    size = len(payload)
    head = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


async def test_a_client_that_takes_nothing_is_dropped_after_the_send_deadline() -> None:
    world = World.make(timeouts={"send_ms": 200})
    world.service.clock = trio.current_time
    async with serving(world.service) as (listener, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(UPGRADE + OFFER + b"\r\n")
            await stream.receive_some()
            await stream.send_all(masked(encode_frame(encode_header(Hello(1)))))
            await stream.send_all(masked(b"".join(encode_frame(encode_header(receive(rid))) for rid in range(2, 14))))
            await wait_until(lambda: len(world.backend.asked) == 12)
            for number in range(12):
                part = Part(bytes(1 << 20), Offset(number), 1_000, ((number, number + 1, 1),))
                world.backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(70 + number), 1, 1, (part,)))
            await wait_until(lambda: listener.connection_count == 0)


async def test_a_listener_that_stops_answers_waiters_and_says_goodbye_with_1001() -> None:
    service = service_of()
    async with serving(service) as (listener, port), raw_client(port) as client:
        await client.send(receive(2))
        await wait_until(lambda: service.measures.waiting_receives == 1)
        listener.stop_accepting()
        assert expect(Error, (await client.reply())[0]).code == "shutting_down"
        await wait_refused(port)
        listener.stop()
        assert (await client.wait_closed())[0] == 1001


async def wait_refused(port: int) -> None:
    with trio.fail_after(5):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                return
            await trio.sleep(0.005)


async def test_a_connection_with_tls_works_and_plain_text_on_its_port_ends() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    service = service_of()
    async with serving(service, tls=context) as (_, port):
        assert b"101" not in await send_bytes(port, UPGRADE + OFFER + b"\r\n")
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(tcp, trusting, server_hostname="localhost", https_compatible=True)
        with trio.fail_after(10):
            await stream.send_all(UPGRADE + OFFER + b"\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            await stream.send_all(masked(encode_frame(encode_header(Hello(1)))))
            answer = await stream.receive_some()
        assert b"logbroker" in answer
        await trio.aclose_forcefully(stream)
    assert Welcome is not None
