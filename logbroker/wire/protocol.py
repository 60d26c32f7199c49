"""The two ends of a client connection as state machines: bytes in, requests or replies out.

    server   OPENING --Hello--> GREETED --Welcome--> OPEN --failure, close--> CLOSED
    client   OPENING --Hello--> GREETED --Welcome--> OPEN --failure, close--> CLOSED

The rules, each held on both sides:

1. The first frame is Hello and nothing follows it before its reply. Welcome opens the connection; an
   Error in its place ends it.
2. The version is the largest that both speak.
3. A rid names one outstanding request; it is free again when its reply is made.
4. At most `max_outstanding` requests are outstanding, pings aside.
5. A reply is of the kind that its request asks for, or Error.
6. Before its reply, a Subscribe has any number of Delivered with its rid.
7. Bodies stand only where they mean something: Produce, and Received, Delivered and Peeked, whose parts they are.
8. The headers of one message of a client are at most `MAX_MESSAGE_HEADER_BYTES`, and `max_outstanding` of them pings.

Whatever breaks them is RemoteProtocolError, and the connection is of no more use. Nothing here waits,
reads a clock or knows a socket; deadlines and back-pressure are the transport's.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Generic, TypeAlias, TypeVar, final

from logbroker.errors import InvalidArgumentError, LocalProtocolError, LogBrokerError, RemoteProtocolError
from logbroker.wire.failures import error_from_reply
from logbroker.wire.frames import SEND_MESSAGE_BYTES, FrameLimits, SendBuffer, split_message
from logbroker.wire.requests import (
    NO_REQUEST,
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    PUSHES_OF,
    REPLY_OF,
    AnyReply,
    AnyRequest,
    Delivered,
    Error,
    Hello,
    Peeked,
    Ping,
    Pong,
    Produce,
    Received,
    Request,
    Welcome,
    WireLimits,
    decode_reply,
    decode_request,
    encode_header,
)

_Context = TypeVar("_Context")

RequestFrame: TypeAlias = tuple[AnyRequest, bytes]
"""A request and its body."""

MAX_REQUEST_HEADER_BYTES = 64 * 1024
MAX_MESSAGE_HEADER_BYTES = 256 * 1024
"""All headers of one message together. They are decoded and dispatched at one go, and a megabyte of them is half a
second in which a node does nothing else."""
HEADER_COST = 40
"""What a decoded header takes in memory for each of its bytes, at the most: an ack of many leases of no messages."""

CLIENT_FRAME_LIMITS = FrameLimits(
    max_message_bytes=16 * 1024 * 1024, max_header_bytes=4 * 1024 * 1024, max_body_bytes=16 * 1024 * 1024
)
"""What a client takes: a Received may carry several batches of the largest size."""


@final
class State(Enum):
    OPENING = auto()
    """No Hello yet."""
    GREETED = auto()
    """Hello is made; its reply is not."""
    OPEN = auto()
    CLOSED = auto()


@final
class ServerProtocol:
    """The server's end.

    The owner hands in each WebSocket message, answers every request that comes out with exactly one
    `reply`, and sends what `next_message` gives. Pings are answered here and do not come out.
    """

    def __init__(
        self,
        *,
        limits: WireLimits | None = None,
        oldest_version: int = OLDEST_VERSION,
        newest_version: int = PROTOCOL_VERSION,
    ) -> None:
        self.limits = limits or WireLimits()
        self.hello: Hello | None = None
        self.header_bytes = 0
        """Of the last message, all its headers."""
        self._state = State.OPENING
        self._frame_limits = FrameLimits(
            max_message_bytes=self.limits.max_message_bytes,
            max_header_bytes=MAX_REQUEST_HEADER_BYTES,
            max_body_bytes=self.limits.max_batch_bytes,
        )
        self._oldest_version = oldest_version
        self._newest_version = newest_version
        # rid -> kind of each request that has no reply yet.
        self._outstanding: dict[int, type[Request]] = {}
        self._buffer = SendBuffer()

    @property
    def state(self) -> State:
        return self._state

    @property
    def outstanding_count(self) -> int:
        return len(self._outstanding)

    def is_outstanding(self, rid: int) -> bool:
        """Whether a request with this rid has no reply yet."""
        return rid in self._outstanding

    @property
    def pending_bytes(self) -> int:
        """Bytes of replies that wait for `next_message`."""
        return self._buffer.pending_bytes

    @property
    def held_bytes(self) -> int:
        """What these replies take in memory; the owner stops reading while it is large."""
        return self._buffer.held_bytes

    def receive(self, message: bytes) -> list[RequestFrame]:
        """Take one binary WebSocket message and give its requests, in order.

        The first is a Hello alone, to be answered by `welcome` or by an Error.

        Raises:
            RemoteProtocolError: a rule is broken. No request of the message may be carried out; the
                owner reports it with rid 0 (`error_reply`) and closes.
        """
        if self._state is State.CLOSED:
            raise LocalProtocolError("message for a connection that is closed")
        requests: list[RequestFrame] = []
        outstanding = self._outstanding
        header_bytes = ping_count = 0
        for header, body in split_message(message, self._frame_limits):
            self.header_bytes = header_bytes = header_bytes + len(header)
            if header_bytes > MAX_MESSAGE_HEADER_BYTES:
                raise RemoteProtocolError(f"the headers of a message have more than {MAX_MESSAGE_HEADER_BYTES} bytes")
            request = decode_request(header)
            kind = type(request)
            if body and kind is not Produce:
                raise RemoteProtocolError(f"{kind.__name__} has a body of {len(body)} bytes")
            if kind is Ping and self._state is State.OPEN:
                ping_count += 1
                if ping_count > self.limits.max_outstanding:
                    raise RemoteProtocolError(f"more than {self.limits.max_outstanding} pings are in one message")
                self._buffer.append(encode_header(Pong(request.rid)))
                continue
            if self._state is not State.OPEN or kind is Hello:
                self._take_hello(request)
            rid = request.rid
            if rid in outstanding or rid == NO_REQUEST:
                raise RemoteProtocolError(f"rid {rid} of {kind.__name__} is not free")
            if len(outstanding) >= self.limits.max_outstanding:
                raise RemoteProtocolError(f"more than {self.limits.max_outstanding} requests are outstanding")
            outstanding[rid] = kind
            requests.append((request, body))
        return requests

    def _take_hello(self, request: AnyRequest) -> None:
        if self._state is not State.OPENING:
            raise RemoteProtocolError(f"{type(request).__name__} in state {self._state.name}")
        if not isinstance(request, Hello):
            raise RemoteProtocolError(f"the first frame is {type(request).__name__}, not Hello")
        self.hello = request
        self._state = State.GREETED

    def negotiate(self) -> int:
        """The version to speak with this client.

        Raises:
            InvalidArgumentError: there is none; the owner answers the Hello with it.
        """
        if self.hello is None:
            raise LocalProtocolError("there is no Hello to negotiate with")
        version = min(self.hello.version, self._newest_version)
        if version < max(self.hello.oldest_version, self._oldest_version):
            raise InvalidArgumentError(
                f"protocol versions {self.hello.oldest_version} to {self.hello.version} are not spoken here; "
                f"this node speaks {self._oldest_version} to {self._newest_version}",
                hint="use a client of a nearer release",
            )
        return version

    def reply(self, reply: AnyReply, body: bytes = b"") -> None:
        """Answer an outstanding request, or with rid 0 report a failure of the connection.

        An Error in answer to the Hello closes the connection, as rid 0 does; what is buffered can
        still be sent.

        Raises:
            LocalProtocolError: no such request, or a reply of another kind than it asks for.
        """
        if self._state is State.CLOSED:
            raise LocalProtocolError(f"{type(reply).__name__} for a connection that is closed")
        asked = self._outstanding.pop(reply.rid, None)
        is_error = isinstance(reply, Error)
        if asked is None and not (is_error and reply.rid == NO_REQUEST):
            raise LocalProtocolError(f"{type(reply).__name__} answers rid {reply.rid}, which is not outstanding")
        if asked is not None and not is_error and REPLY_OF[asked] is not type(reply):
            raise LocalProtocolError(f"{type(reply).__name__} is no answer to {asked.__name__}")
        self._buffer.append(encode_header(reply), body)
        if asked is Hello:
            self._state = State.CLOSED if is_error else State.OPEN
        elif asked is None:
            self._state = State.CLOSED

    def push(self, reply: AnyReply, body: bytes = b"") -> None:
        """Send what comes before the reply of an outstanding request.

        Raises:
            LocalProtocolError: no such request, or it has nothing of the kind pushed.
        """
        asked = self._outstanding.get(reply.rid)
        if self._state is not State.OPEN or asked is None or PUSHES_OF.get(asked) is not type(reply):
            raise LocalProtocolError(f"{type(reply).__name__} with rid {reply.rid} is pushed to nobody")
        self._buffer.append(encode_header(reply), body)

    def next_message(self, max_message_bytes: int = SEND_MESSAGE_BYTES) -> bytes | None:
        """The next WebSocket message to send, or None when nothing waits."""
        return self._buffer.next_message(max_message_bytes)

    def close(self) -> None:
        """Forget everything; also what was not sent."""
        self._state = State.CLOSED
        self._outstanding.clear()
        self._buffer.clear()


@final
class ClientProtocol(Generic[_Context]):
    """The client's end. A context goes along with each request and comes back with its reply."""

    def __init__(self, *, frame_limits: FrameLimits = CLIENT_FRAME_LIMITS) -> None:
        self.limits = WireLimits()
        self.welcome: Welcome | None = None
        self._state = State.OPENING
        self._frame_limits = frame_limits
        self._next_rid = NO_REQUEST + 1
        self._hello: Hello | None = None
        self._outstanding: dict[int, tuple[type[Request], _Context]] = {}
        # The ping that has no pong yet; a second one is not made.
        self._ping_rid = NO_REQUEST
        self._buffer = SendBuffer()

    @property
    def state(self) -> State:
        return self._state

    @property
    def outstanding_count(self) -> int:
        return len(self._outstanding)

    @property
    def pending_bytes(self) -> int:
        """Bytes of requests that wait for `next_message`; the owner makes no more while it is large."""
        return self._buffer.pending_bytes

    def can_send(self) -> bool:
        """Whether one more request may be made."""
        return self._state is State.OPEN and len(self._outstanding) < self.limits.max_outstanding

    def take_rid(self) -> int:
        """A rid that was never used on this connection."""
        rid = self._next_rid
        self._next_rid += 1
        return rid

    def greet(self, hello: Hello) -> None:
        """Make the Hello; the connection is open when `receive` gave its Welcome."""
        if self._state is not State.OPENING:
            raise LocalProtocolError(f"Hello in state {self._state.name}")
        self._hello = hello
        self._buffer.append(encode_header(hello))
        self._state = State.GREETED

    def send(self, request: AnyRequest, context: _Context, body: bytes = b"") -> None:
        """Make a request, whose rid comes from `take_rid`.

        Raises:
            LocalProtocolError: `can_send` is false, or the rid is in use.
        """
        if not self.can_send():
            raise LocalProtocolError(
                f"{type(request).__name__} in state {self._state.name} with {len(self._outstanding)} outstanding"
            )
        if request.rid in self._outstanding or isinstance(request, Hello | Ping):
            raise LocalProtocolError(f"{type(request).__name__} with rid {request.rid} cannot be sent")
        self._outstanding[request.rid] = (type(request), context)
        self._buffer.append(encode_header(request), body)

    def ping(self) -> bool:
        """Make a ping; false, and nothing made, while the one before has no answer."""
        if self._state is not State.OPEN or self._ping_rid != NO_REQUEST:
            return False
        self._ping_rid = self.take_rid()
        self._buffer.append(encode_header(Ping(self._ping_rid)))
        return True

    def receive(self, message: bytes) -> list[tuple[_Context, AnyReply, bytes]]:
        """Take one binary WebSocket message and give (context, reply, body) of what it answers, or pushes before that.

        Welcome and Pong do not come out: they show in `state` and `welcome`.

        Raises:
            RemoteProtocolError: a rule is broken; the owner closes. The outcome of what is
                outstanding is unknown.
            LogBrokerError: the server refused the Hello or failed the connection, and says why.
        """
        if self._state is State.CLOSED:
            raise LocalProtocolError("message for a connection that is closed")
        replies: list[tuple[_Context, AnyReply, bytes]] = []
        try:
            self._take_replies(message, replies)
        except LogBrokerError:
            # Nobody has seen these replies: `close` must still give their contexts.
            self._outstanding.update({reply.rid: (Request, context) for context, reply, _ in replies})
            raise
        return replies

    def _take_replies(self, message: bytes, replies: list[tuple[_Context, AnyReply, bytes]]) -> None:
        outstanding = self._outstanding
        for header, body in split_message(message, self._frame_limits):
            reply = decode_reply(header)
            asked = outstanding.get(reply.rid)
            if asked is None or self._state is not State.OPEN:
                self._take_own(reply, body)
                continue
            kind, context = asked
            answer = type(reply)
            is_last = answer is REPLY_OF[kind] or answer is Error
            if not is_last and answer is not PUSHES_OF.get(kind):
                raise RemoteProtocolError(f"{answer.__name__} is no answer to {kind.__name__}")
            if isinstance(reply, Received | Delivered | Peeked):
                _check_parts(reply, body)
            elif body:
                raise RemoteProtocolError(f"{answer.__name__} has a body of {len(body)} bytes")
            if is_last:
                del outstanding[reply.rid]
            replies.append((context, reply, body))

    def _take_own(self, reply: AnyReply, body: bytes) -> None:
        if body:
            raise RemoteProtocolError(f"{type(reply).__name__} has a body of {len(body)} bytes")
        if isinstance(reply, Error) and (reply.rid == NO_REQUEST or self._state is State.GREETED):
            self._state = State.CLOSED
            raise error_from_reply(reply)
        if self._state is State.GREETED:
            self._take_welcome(reply)
        elif isinstance(reply, Pong) and reply.rid == self._ping_rid != NO_REQUEST:
            self._ping_rid = NO_REQUEST
        else:
            raise RemoteProtocolError(
                f"{type(reply).__name__} with rid {reply.rid} in state {self._state.name} answers nothing"
            )

    def _take_welcome(self, reply: AnyReply) -> None:
        hello = self._hello
        if not isinstance(reply, Welcome) or hello is None or reply.rid != hello.rid:
            raise RemoteProtocolError(f"{type(reply).__name__} with rid {reply.rid} is no answer to Hello")
        if not hello.oldest_version <= reply.version <= hello.version:
            raise RemoteProtocolError(
                f"version {reply.version} is outside {hello.oldest_version} to {hello.version}, which Hello offered"
            )
        self.welcome = reply
        self.limits = reply.limits
        self._state = State.OPEN

    def next_message(self, max_message_bytes: int = SEND_MESSAGE_BYTES) -> bytes | None:
        """The next WebSocket message to send, or None when nothing waits."""
        return self._buffer.next_message(max_message_bytes)

    def close(self) -> list[_Context]:
        """End the connection. Gives the contexts of what was outstanding: their outcome is unknown."""
        contexts = [context for _, context in self._outstanding.values()]
        self._state = State.CLOSED
        self._outstanding.clear()
        self._buffer.clear()
        return contexts


def _check_parts(reply: Received | Delivered | Peeked, body: bytes) -> None:
    stated_bytes = sum([part.size_bytes for part in reply.parts])
    if stated_bytes != len(body):
        raise RemoteProtocolError(f"parts of {stated_bytes} bytes stand for a body of {len(body)} bytes")
