"""The little HTTP that this server speaks by itself, on h11: one request head, perhaps a small body, one reply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import h11
import trio

from logbroker.errors import LogBrokerError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_BYTES = 16 * 1024
LINGER_BYTES = 256 * 1024
"""What a client may still be sending is read up to this before the connection is closed, or it would miss the reply."""

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class HttpError(LogBrokerError):
    """What was sent is no request that is taken; `status` says so to the sender."""

    code = "http"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@final
@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`headers` by lower-case name; of one that comes twice the first counts, but for lists, which are joined."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def words(self, name: str) -> list[str]:
        """The members of a header that is a list, lower-cased."""
        return [word.strip().lower() for word in self.headers.get(name, "").split(",") if word.strip()]


@final
@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    body: bytes
    content_type: str = TEXT
    headers: Sequence[tuple[str, str]] = field(default=())


@final
class HttpConnection:
    """One side of one connection. `received` are all bytes taken from the stream, for whoever goes on with it."""

    def __init__(self, stream: trio.abc.Stream, *, max_head_bytes: int, max_body_bytes: int = 0) -> None:
        self.received = bytearray()
        self._stream = stream
        self._max_head_bytes = max_head_bytes
        self._max_body_bytes = max_body_bytes
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)

    async def read_head(self) -> HttpRequest | None:
        """The next request without its body; None where the client is gone.

        Raises:
            HttpError: it is none.
        """
        event = await self._next_event()
        if isinstance(event, h11.Request):
            # h11 bounds what is incomplete; a head that came whole may be larger by one read.
            if len(self.received) - len(self._http.trailing_data[0]) > self._max_head_bytes:
                raise HttpError(431, f"the head of the request is larger than {self._max_head_bytes} bytes")
            return HttpRequest(event.method.decode("ascii"), event.target.decode("latin-1"), _headers(event))
        return None

    async def read_body(self) -> bytes:
        """The body that belongs to the head just read.

        Raises:
            HttpError: it is too large.
        """
        body = bytearray()
        while True:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return bytes(body)
            body += event.data
            if len(body) > self._max_body_bytes:
                raise HttpError(413, f"the body is larger than {self._max_body_bytes} bytes")

    async def reply(self, reply: HttpReply, *, closes: bool = False, is_head: bool = False) -> None:
        """Answer the request; `closes` tells the client that it is the last one, `is_head` leaves the body out."""
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            ("Cache-Control", "no-store"),
            *reply.headers,
        ]
        if closes:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=reply.status, headers=headers)
        data = self._http.send(response) or b""
        if not is_head:
            data += self._http.send(h11.Data(data=reply.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)

    async def refuse(self, error: HttpError) -> None:
        """Answer what was no request, if anything can still be said."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.reply(HttpReply(error.status, f"{error.message}\n".encode()), closes=True)

    def start_next(self) -> bool:
        """Be ready for the connection's next request; False where there is none to come."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self.received = bytearray(self._http.trailing_data[0])
        self._http.start_next_cycle()
        return True

    async def linger(self) -> None:
        """Before it is closed: take what is still coming, up to a bound; under a deadline of the caller's."""
        if self._http.their_state in (h11.DONE, h11.CLOSED, h11.MUST_CLOSE):
            return
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()
        left = LINGER_BYTES
        while left > 0:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return
            left -= len(data)

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, f"not a request of HTTP: {error}") from error
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._stream.send_all(
                    self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            data = bytes(await self._stream.receive_some(READ_BYTES))
            self.received += data
            try:
                self._http.receive_data(data)
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, f"not a request of HTTP: {error}") from error
            except RuntimeError as error:
                raise RemoteProtocolError("data after the end of the stream") from error


def _headers(event: h11.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in event.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        if key in found and key in ("connection", "upgrade", "sec-websocket-protocol"):
            found[key] = f"{found[key]}, {text}"
        else:
            found.setdefault(key, text)
    return found
