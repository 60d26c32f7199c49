"""A stranger on a socket that may send anything, and a bystander who must not notice."""

from __future__ import annotations

import json
import struct
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from logbroker.wire.frames import encode_frame, split_message
from logbroker.wire.requests import Error, Hello, Ping, Pong, decode_reply, encode_header
from tests.unit.server.kit import LIMITS, World
from tests.unit.server.raw import OFFER, OFFER_JSON, UPGRADE, RawClient, raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from logbroker.server.service import ClientService
    from logbroker.wire.requests import AnyReply, AnyRequest

# Where coverage is measured every line costs several times as much.
HANG_S = 1.0 if sys.gettrace() is None else 5.0
"""The longest that anybody may have to wait because of somebody else. Seconds of this process, in which all of them
are, so that a busy machine does not count."""
_PAUSE_S = 0.01


def service_of(**sections: Any) -> ClientService:  # noqa: ANN401  tables of the configuration
    """What a client listener needs, with a node behind it that answers nothing by itself."""
    service = World.make(**sections).service
    # The world's own session is not one of these.
    service.measures.unauthenticated = 0
    service.clock = trio.current_time
    return service


def ws(payload: bytes = b"", *, first: int = 0x82, mask: bool = True, size: int | None = None, wide: int = 0) -> bytes:
    """One WebSocket frame; `first` is its first byte, `size` the length it states, in `wide` bytes at least."""
    stated = len(payload) if size is None else size
    bit = 0x80 if mask else 0
    if stated < 126 and not wide:
        head = bytes((first, bit | stated))
    elif stated < 1 << 16 and wide <= 2:
        head = bytes((first, bit | 126)) + struct.pack(">H", stated)
    else:
        head = bytes((first, bit | 127)) + struct.pack(">Q", stated)
    # The mask that changes nothing.
    return head + (bytes(4) if mask else b"") + payload


def framed(*requests: AnyRequest, body: bytes = b"") -> bytes:
    """Frames of ours, back to back; `body` goes with the last."""
    frames = [encode_frame(encode_header(request)) for request in requests[:-1]]
    return b"".join((*frames, encode_frame(encode_header(requests[-1]), body)))


def said(kind: str, **fields: object) -> bytes:
    """A request in JSON."""
    return json.dumps({"kind": kind, **fields}).encode()


@dataclass
class Said:
    """Everything a server said: its replies, and the code of its close frame, 0 if it sent none."""

    replies: list[AnyReply] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    """Replies of the JSON subprotocol."""
    close_code: int = 0
    pong_count: int = 0

    @property
    def errors(self) -> list[str]:
        codes = [reply.code for reply in self.replies if isinstance(reply, Error)]
        return codes + [text["code"] for text in self.texts if text["kind"] == "error"]


@contextmanager
def soon() -> Iterator[None]:
    """What is inside takes less than `HANG_S`."""
    began_s = time.process_time()
    with trio.fail_after(10):
        yield
    assert time.process_time() - began_s < HANG_S


class Stranger:
    """The other end of one connection, byte by byte."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.said = Said()
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send it if it is still wanted."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def upgrade(self, offer: bytes = OFFER) -> None:
        await self.send(UPGRADE + offer + b"\r\n")
        while b"\r\n\r\n" not in self._received:
            data = bytes(await self.stream.receive_some())
            assert data, self._received
            self._received += data
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head

    async def greet(self, token: str = "") -> AnyReply:
        await self.upgrade()
        await self.send(ws(framed(Hello(1, token=token, client="stranger"))))
        return await self.reply()

    async def greet_in_json(self, token: str = "") -> dict[str, Any]:
        await self.upgrade(OFFER_JSON)
        await self.send(ws(said("hello", rid=1, token=token, client="stranger"), first=0x81))
        return await self.text()

    async def text(self) -> dict[str, Any]:
        """The next reply in JSON."""
        with trio.fail_after(10):
            while not self.said.texts:
                assert await self._read(), self.said
        return self.said.texts.pop(0)

    async def reply(self) -> AnyReply:
        """The next reply."""
        with trio.fail_after(10):
            while not self.said.replies:
                assert await self._read(), self.said
        return self.said.replies.pop(0)

    async def end(self) -> Said:
        """Read until the server has said goodbye or is gone; gives what it said."""
        while not self.said.close_code and await self._read():
            pass
        return self.said

    async def _read(self) -> bool:
        try:
            data = bytes(await self.stream.receive_some(1 << 18))
        except trio.BrokenResourceError:
            return False
        self._received += data
        self._take_frames()
        return bool(data)

    def _take_frames(self) -> None:
        while len(self._received) >= 2:
            first, size = self._received[0], self._received[1]
            start = 2 + {126: 2, 127: 8}.get(size, 0)
            if size >= 126:
                size = int.from_bytes(self._received[2:start], "big")
            if len(self._received) < start + size:
                return
            payload, self._received = self._received[start : start + size], self._received[start + size :]
            if first == 0x82:
                self.said.replies += [decode_reply(header) for header, _ in split_message(payload, LIMITS)]
            elif first == 0x81:
                self.said.texts.append(json.loads(payload))
            elif first == 0x8A:
                self.said.pong_count += 1
            else:
                assert first == 0x88, first
                self.said.close_code = int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Stranger]:
    """A connection to a client listener, before its first byte."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        yield Stranger(stream)
    finally:
        await trio.aclose_forcefully(stream)


@dataclass
class Bystander:
    """Asks all the time, and remembers the longest wait for an answer."""

    client: RawClient
    longest_s: float = 0.0
    answered: int = 0

    async def run(self) -> None:
        while True:
            began_s = time.process_time()
            assert isinstance(await self.client.ask(Ping(self.client.rid())), Pong)
            self.longest_s = max(self.longest_s, time.process_time() - began_s)
            self.answered += 1
            await trio.sleep(_PAUSE_S)


@asynccontextmanager
async def bystander(port: int, *, token: str = "") -> AsyncIterator[Bystander]:
    """Somebody who uses the server all the while, and never waits longer than `HANG_S`."""
    async with raw_client(port, token=token) as client, trio.open_nursery() as nursery:
        one = Bystander(client)
        nursery.start_soon(one.run)
        yield one
        answered = one.answered
        with trio.fail_after(10):
            # It is still there after all that.
            await until(lambda: one.answered > answered)
        nursery.cancel_scope.cancel()
    assert one.longest_s < HANG_S, f"somebody else waited {one.longest_s:.2f} s"


async def until(condition: Callable[[], bool]) -> None:
    """Let the sockets do their work; fails after a while."""
    with trio.fail_after(10):
        # Nothing here says when the operating system has moved the bytes.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)
