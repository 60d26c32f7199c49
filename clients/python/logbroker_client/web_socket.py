"""The client's end of a WebSocket without I/O: bytes in; messages, and bytes to send, out.

Messages are cut out and made by our own codec for data frames; wsproto does the handshake, pings and the goodbye.
What goes wrong is kept in `error` and not raised, because messages may have come before it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request
from wsproto.utilities import ProtocolError

from logbroker.errors import LogBrokerError, RemoteProtocolError, UnavailableError
from logbroker.wire.data_frames import DataFrames, message_head
from logbroker.wire.masking import MASK_BYTES, mask
from logbroker.wire.requests import STREAM_PATH, SUBPROTOCOL
from logbroker_client.endpoints import closed_error

if TYPE_CHECKING:
    from wsproto.events import Event

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 64 * 1024
_WRONG_PORT = "is it the client port of a logbroker node?"


@final
class WebSocket:
    """One connection. The owner sends what `take_output` gives after each call, and ends when there is an `error`."""

    def __init__(self, url: str, *, max_message_bytes: int) -> None:
        self.is_open = False
        """The server has taken the handshake."""
        self.error: LogBrokerError | None = None
        """Why it is over: the goodbye of the server, a clean one too, or what it did wrong."""
        self._url = url
        self._below = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._frames = DataFrames(is_masked=False, max_message_bytes=max_message_bytes)
        # Of the answer to the handshake, while its end is not here.
        self._head = b""
        self._output: list[bytes] = []

    def open(self) -> None:
        """Make the handshake."""
        parts = urlsplit(self._url)
        host = parts.netloc.rpartition("@")[2]
        target = parts.path if parts.path not in ("", "/") else STREAM_PATH
        self._say(Request(host=host, target=target, subprotocols=[SUBPROTOCOL]))

    def close(self) -> None:
        """Say goodbye; the server's answer to it becomes the `error`."""
        if self.is_open and self.error is None:
            self._say(CloseConnection(code=1000))

    def take_output(self) -> bytes:
        output, self._output = self._output, []
        return b"".join(output)

    def encode(self, message: bytes) -> tuple[bytes, bytes]:
        """The frame of a message, in two parts."""
        key = os.urandom(MASK_BYTES)
        return message_head(len(message), key), mask(message, key)

    def place(self) -> memoryview | None:
        """Where the next bytes go, to be told with `filled`; None when `feed` is to have them."""
        return self._frames.rest_of_message() if self.error is None else None

    def filled(self, size_bytes: int) -> list[bytes]:
        """So many bytes came to `place`; gives the message that they complete."""
        message = self._frames.filled(size_bytes)
        return [] if message is None else [message]

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take the next bytes and give the messages that they complete."""
        if self.error is not None:
            return []
        try:
            if not self.is_open:
                data = self._take_head(bytes(data))
            messages, passed = self._frames.feed(data) if self.is_open else ([], b"")
            if passed:
                self._take(passed)
        except ProtocolError as error:
            self.error = RemoteProtocolError(
                f"the server does not speak as a WebSocket does: {error}", hint=_WRONG_PORT
            )
            return []
        breach = self._frames.breach
        if breach is not None:
            self.error = RemoteProtocolError(f"the server sent what it may not: {breach.reason}")
        return messages

    def _take_head(self, data: bytes) -> bytes:
        """Gather the answer to the handshake and hand it on; gives what follows it."""
        self._head += data
        end = self._head.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(self._head) > _MAX_HEAD_BYTES:
                raise ProtocolError(f"no end of its head within {_MAX_HEAD_BYTES} bytes")
            return b""
        head, rest, self._head = self._head[:end], self._head[end:], b""
        self._take(head)
        return rest

    def _take(self, data: bytes) -> None:
        self._below.receive_data(data)
        for event in self._below.events():
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        match event:
            case AcceptConnection(subprotocol=subprotocol):
                if subprotocol == SUBPROTOCOL:
                    self.is_open = True
                else:
                    said = f"speaks {subprotocol or 'no subprotocol'}, not {SUBPROTOCOL}"
                    self.error = RemoteProtocolError(f"{self._url} {said}", hint=_WRONG_PORT)
            case RejectConnection(status_code=status):
                text = f"the server refused the WebSocket with HTTP status {status}"
                self.error = UnavailableError(text, hint=_WRONG_PORT)
            case Ping():
                self._say(event.response())
            case CloseConnection(code=code, reason=reason):
                self.error = closed_error(int(code), reason)
                if self._below.state is wsproto.connection.ConnectionState.REMOTE_CLOSING:
                    self._say(event.response())
            case _:
                # A body of a refusal; there is nothing in it for us.
                pass

    def _say(self, event: Event) -> None:
        self._output.append(self._below.send(event))
