"""The server's end of a connection that speaks JSON: texts in, requests out, as `protocol.ServerProtocol` with frames.

It is a coat over that one, so that there is one set of rules: each text becomes the frame that a client of the binary
protocol would have sent, and each reply is told in JSON. One text is one request or one reply.

A person who types makes mistakes that a program does not. So a request of which kind and rid can be read, and which is
malformed beyond that, is answered by an Error, and the connection goes on; whatever else breaks a rule ends it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import InvalidArgumentError, RemoteProtocolError, RequestError, RequestTooLargeError
from logbroker.wire.failures import error_reply
from logbroker.wire.frames import FRAME_COST_BYTES, SEND_MESSAGE_BYTES, encode_frame
from logbroker.wire.json_messages import build_batch, delivered, has_ids
from logbroker.wire.json_numbers import read_number
from logbroker.wire.json_types import Head, kind_of, read_head, read_request, to_builtins
from logbroker.wire.protocol import MAX_REQUEST_HEADER_BYTES, RequestFrame, ServerProtocol, State
from logbroker.wire.requests import NO_REQUEST, Delivered, Peeked, Ping, Pong, Produce, Received, encode_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.record.batch import BatchLimits
    from logbroker.wire.requests import AnyReply, AnyRequest, Hello, WireLimits

TEXT_COST = 28
"""What a text takes in memory for each of its bytes while it is read, at the most: a produce of messages that say
nothing."""

_PRODUCE = kind_of(Produce)


@final
class JsonServerProtocol:
    """See the module. `now_ms` is the wall clock, for messages without a time of their own.

    `on_refused` learns the code of what was answered here and never came out as a request.
    """

    def __init__(
        self,
        *,
        limits: WireLimits,
        batch_limits: BatchLimits,
        now_ms: Callable[[], int],
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.limits = limits
        self._rules = ServerProtocol(limits=limits)
        self._batch_limits = batch_limits
        self._now_ms = now_ms
        self._on_refused = on_refused
        self._texts: deque[bytes] = deque()
        self._pending_bytes = 0

    @property
    def state(self) -> State:
        return self._rules.state

    @property
    def hello(self) -> Hello | None:
        return self._rules.hello

    @property
    def header_bytes(self) -> int:
        """Of the last request, as a header of the binary protocol."""
        return self._rules.header_bytes

    @property
    def outstanding_count(self) -> int:
        return self._rules.outstanding_count

    @property
    def pending_bytes(self) -> int:
        """Bytes of replies that wait for `next_message`."""
        return self._pending_bytes

    @property
    def held_bytes(self) -> int:
        """What these replies take in memory; the owner stops reading while it is large."""
        return self._pending_bytes + FRAME_COST_BYTES * len(self._texts)

    def negotiate(self) -> int:
        """As `ServerProtocol.negotiate`."""
        return self._rules.negotiate()

    def receive(self, message: bytes) -> list[RequestFrame]:
        """Take one text and give its request; none where it was answered here.

        Raises:
            RemoteProtocolError: a rule is broken; as `ServerProtocol.receive`.
        """
        head = read_head(message)
        try:
            request, body = self._read(head, message)
        except RequestError as error:
            self._refuse(head, error)
            return []
        requests = self._rules.receive(encode_frame(encode_header(request), body))
        if not requests and isinstance(request, Ping):
            self._forget_frames()
            self._put(Pong(request.rid))
        return requests

    def _read(self, head: Head, message: bytes) -> tuple[AnyRequest, bytes]:
        if head.kind != _PRODUCE and len(message) > MAX_REQUEST_HEADER_BYTES:
            raise RequestTooLargeError(
                f"{head.kind[:64]} of {len(message)} bytes is larger than {MAX_REQUEST_HEADER_BYTES}"
            )
        request, given = read_request(head, message)
        if given is None or self.state is not State.OPEN:
            # Nothing is built for somebody who has not said hello.
            return request, b""
        if isinstance(request, Produce) and has_ids(given):
            request = msgspec.structs.replace(request, dedup=True)
        return request, build_batch(given, now_ms=self._now_ms(), limits=self._batch_limits)

    def _refuse(self, head: Head, error: RequestError) -> None:
        """Answer what is no request, if there is a rid that can be answered and somebody who has said hello."""
        try:
            rid = read_number(head.rid, "$.rid")
        except InvalidArgumentError as failure:
            raise RemoteProtocolError(failure.message) from failure
        if self.state is not State.OPEN:
            raise RemoteProtocolError(error.message, hint=error.hint) from error
        if rid == NO_REQUEST or self._rules.is_outstanding(rid):
            raise RemoteProtocolError(f"rid {rid} of {head.kind[:64]} is not free") from error
        self._on_refused(error.code)
        self._put(error_reply(error, rid=rid))

    def reply(self, reply: AnyReply, body: bytes = b"") -> None:
        """As `ServerProtocol.reply`; `body` is what it would be there."""
        self._rules.reply(reply)
        self._forget_frames()
        self._put(reply, body)

    def push(self, reply: AnyReply, body: bytes = b"") -> None:
        """As `ServerProtocol.push`."""
        self._rules.push(reply)
        self._forget_frames()
        self._put(reply, body)

    def _forget_frames(self) -> None:
        while self._rules.next_message() is not None:
            pass

    def _put(self, reply: AnyReply, body: bytes = b"") -> None:
        found = to_builtins(reply)
        if isinstance(reply, Received | Delivered | Peeked):
            found["messages"] = delivered(reply, body, limits=self._batch_limits)
        text = msgspec.json.encode(found)
        self._texts.append(text)
        self._pending_bytes += len(text)

    def next_message(self, max_message_bytes: int = SEND_MESSAGE_BYTES) -> bytes | None:
        """The next text to send, one reply, however large; None when nothing waits."""
        if not self._texts:
            return None
        text = self._texts.popleft()
        self._pending_bytes -= len(text)
        return text

    def close(self) -> None:
        """Forget everything; also what was not sent."""
        self._rules.close()
        self._texts.clear()
        self._pending_bytes = 0
