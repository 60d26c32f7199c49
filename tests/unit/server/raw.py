"""A client that may misbehave: bytes on a socket, or frames on a WebSocket, without the client library."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from logbroker.server.listener import ClientListener
from logbroker.wire.frames import encode_frame, split_message
from logbroker.wire.requests import STREAM_PATH, SUBPROTOCOL, Hello, decode_reply, encode_header
from tests.unit.server.kit import LIMITS

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from logbroker.server.service import ClientService
    from logbroker.wire.requests import AnyReply, AnyRequest

UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OFFER = b"Sec-WebSocket-Protocol: logbroker.v1.msgpack\r\n"
OFFER_JSON = b"Sec-WebSocket-Protocol: logbroker.v1.json\r\n"


@asynccontextmanager
async def serving(
    service: ClientService, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[ClientListener, int]]:
    """Run a client listener on a free port of loopback; gives it and the port."""
    listener = ClientListener(service, tls=lambda: tls)
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(listener.run, list(sockets)))
        yield listener, sockets[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def send_bytes(port: int, data: bytes) -> bytes:
    """Send bytes on a new connection; gives everything that comes until the other side closes."""
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(data)
            return await read_all(stream)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        pass
    return bytes(received)


class RawClient:
    """Frames over a WebSocket. `pending` are replies that came and were not asked for yet."""

    def __init__(self, websocket: Any) -> None:  # noqa: ANN401  trio-websocket has no types
        self.websocket = websocket
        self.pending: list[tuple[AnyReply, bytes]] = []
        self.next_rid = 1

    def rid(self) -> int:
        self.next_rid += 1
        return self.next_rid

    async def send(self, *requests: AnyRequest, body: bytes = b"") -> None:
        frames = [encode_frame(encode_header(request)) for request in requests[:-1]]
        frames.append(encode_frame(encode_header(requests[-1]), body))
        await self.websocket.send_message(b"".join(frames))

    async def send_anyway(self, message: bytes | str) -> None:
        """Send what will not be taken; the connection may be gone before all of it is sent."""
        with suppress(ConnectionClosed):
            await self.websocket.send_message(message)

    async def reply(self) -> tuple[AnyReply, bytes]:
        """The next reply; ConnectionClosed where there is none any more."""
        with trio.fail_after(10):
            while not self.pending:
                message = await self.websocket.get_message()
                self.pending += [(decode_reply(header), body) for header, body in split_message(message, LIMITS)]
        return self.pending.pop(0)

    async def ask(self, request: AnyRequest, body: bytes = b"") -> AnyReply:
        await self.send(request, body=body)
        reply, _ = await self.reply()
        assert reply.rid == request.rid, reply
        return reply

    async def wait_closed(self) -> tuple[int, str]:
        """Take what comes until the connection ends; gives the close code and its reason."""
        try:
            while True:
                await self.reply()
        except ConnectionClosed as closed:
            reason = closed.reason
            return (0, "") if reason is None else (reason.code, reason.reason or "")


@asynccontextmanager
async def raw_client(port: int, *, token: str = "", greets: bool = True) -> AsyncIterator[RawClient]:
    """Connect; the connection is dropped at the end."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        async with trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery,
                stream,
                "127.0.0.1",
                STREAM_PATH,
                subprotocols=[SUBPROTOCOL],
                message_queue_size=64,
                max_message_size=1 << 26,
                receive_buffer_size=1 << 18,
            )
            client = RawClient(websocket)
            if greets:
                await client.ask(Hello(1, token=token, client="raw"))
            yield client
            nursery.cancel_scope.cancel()
    finally:
        # Not inside the nursery: there it would be cancelled, and hide what the test has found.
        await trio.aclose_forcefully(stream)
