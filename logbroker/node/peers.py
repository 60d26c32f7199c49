"""Links to the other nodes: bytes over TCP, with mutual TLS where it is configured.

One connection a direction: each node dials every other one and sends on what it dialled, and only receives on what it
accepted. Nothing has to be agreed on when two nodes dial each other at once, and each side's end of file means one
thing: that node's process, or the way from it, is gone. Both directions go through a hello of their own.

What is sent while a link is down or its buffer is full is dropped and counted: Raft repeats, and everything else here
is repeated by a timer. It must not know what the messages mean.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol, final

import trio

from logbroker.errors import InvalidArgumentError, LogBrokerError, RemoteProtocolError
from logbroker.ids import NodeId
from logbroker.node.catalogue.bounds import MAX_NODES
from logbroker.node.peer_frames import (
    MAX_HELLO_BYTES,
    PROTOCOL_VERSION,
    FrameKind,
    FrameSplitter,
    Hello,
    Welcome,
    decode_hello,
    decode_welcome,
    encode_opening,
    frame_head,
    objection,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger(__name__)

READ_BYTES = 256 << 10
JOIN_BYTES = 256 << 10
"""Frames that wait are joined into sends of up to this size."""
MAX_PIECES = 512
"""Of one send that is not joined; systems take 1,024."""
SEND_BUFFER_BYTES = 4 << 20
_NODE_IDS = 1 << 16
_NETWORK_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


@final
@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Times in ms. `idle_ms`: nodes say something at every tick, so a link that is silent this long is dead.

    `unacknowledged_ms`: so is one whose bytes the other machine has not acknowledged for this long. TCP repeats them
    with growing pauses, so that a link which was cut stays silent for as long again after the network has healed.
    """

    max_frame_bytes: int
    max_buffer_bytes: int = 64 << 20
    connect_ms: int = 2_000
    handshake_ms: int = 5_000
    idle_ms: int = 5_000
    send_ms: int = 10_000
    unacknowledged_ms: int = 2_000
    least_backoff_ms: int = 50
    most_backoff_ms: int = 2_000
    down_least_ms: int = 10
    down_jitter_ms: int = 40
    # Longer than the jitter and the answers to a request for votes take: see `turn_after`.
    down_turn_ms: int = 60
    max_handshakes: int = 64
    max_links: int = MAX_NODES
    """From so many nodes at the most: whoever claims to be yet another one is refused."""


@final
@dataclass(frozen=True, slots=True)
class PeerTls:
    """Contexts of both directions; `name_of` gives the name that a node's certificate must carry."""

    dialling: ssl.SSLContext
    accepting: ssl.SSLContext
    name_of: Callable[[NodeId], str]


class PeerEvents(Protocol):
    """What the links tell the node. None of these may block or raise anything but LogBrokerError."""

    @property
    def node(self) -> NodeId:
        """This node."""

    def hello(self, to_node: NodeId) -> Hello:
        """What this node says of itself at this moment."""

    def on_link_up(self, node: NodeId, incarnation: bytes) -> None:
        """This node can send to `node`."""

    def on_link_lost(self, node: NodeId) -> None:
        """A connection from or to `node` closed; it may be up again at once."""

    def on_peer_silent(self, node: NodeId) -> None:
        """The connection from `node` closed a moment ago and has not come back."""

    def on_frame(self, node: NodeId, incarnation: bytes, kind: int, payload: memoryview) -> None:
        """One frame; RemoteProtocolError closes the link."""

    def after_read(self) -> None:
        """All frames of one read were delivered."""


@final
@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counted since the start; `fault` is why the last attempt to connect failed, empty while connected."""

    node: NodeId
    address: str
    is_sending: bool
    is_receiving: bool
    buffered_bytes: int
    sent_frames: int
    sent_bytes: int
    sends: int
    received_frames: int
    received_bytes: int
    reads: int
    dropped_frames: int
    connects: int
    fault: str


@final
@dataclass(slots=True)
class _Link:
    node: NodeId
    address: str
    # Another address that the node itself named; tried where the first one fails.
    other_address: str = ""
    # Frames as head and payload; of the first one, what is left of it.
    buffer: deque[tuple[bytes, bytes | memoryview]] = field(default_factory=deque)
    buffered_bytes: int = 0
    is_sending: bool = False
    # Set while the writer waits for something to send.
    ready: trio.Event | None = None
    # Descriptor of the socket, where bytes may be written past the stream: in the clear, while the link is up.
    handle: int | None = None
    # The address changed: give the connection up, and dial anew.
    redial: trio.Event = field(default_factory=trio.Event)
    # The other side is there: do not wait for the end of the backoff.
    hurry: trio.Event = field(default_factory=trio.Event)
    sent_frames: int = 0
    sent_bytes: int = 0
    sends: int = 0
    dropped_frames: int = 0
    connects: int = 0
    fault: str = "not tried yet"

    def put(self, kind: FrameKind, payload: bytes, max_buffer_bytes: int) -> None:
        head = frame_head(kind, len(payload))
        size = len(head) + len(payload)
        if not self.is_sending or self.buffered_bytes + size > max_buffer_bytes:
            self.dropped_frames += 1
            return
        self.buffer.append((head, payload))
        self.buffered_bytes += size
        self.sent_frames += 1

    def flush(self) -> None:
        """Send what was put, without waiting, where the writer is idle; else it is the writer's.

        That is a task switch less on the way of every entry and of every acknowledgement, and no copy.
        """
        ready = self.ready
        if ready is None or not self.buffer:
            return
        if self.handle is not None:
            pieces = [piece for one in islice(self.buffer, MAX_PIECES // 2) for piece in one]
            try:
                count = os.writev(self.handle, pieces)
            except OSError:
                # The socket is full, or broken: the writer waits for it, or meets the same error and ends the link.
                count = 0
            self.sends += 1
            self.sent_bytes += count
            self._drop(count)
        self.hand_over()

    def hand_over(self) -> None:
        """Leave what was put to the writer, which takes it with whatever else is put until it runs."""
        ready = self.ready
        if ready is not None and self.buffer:
            self.ready = None
            ready.set()

    def _drop(self, count: int) -> None:
        """So many bytes of the buffer are sent."""
        buffer = self.buffer
        self.buffered_bytes -= count
        while buffer:
            head, payload = buffer[0]
            size = len(head) + len(payload)
            if count < size:
                if count >= len(head):
                    buffer[0] = b"", memoryview(payload)[count - len(head) :]
                else:
                    buffer[0] = head[count:], payload
                return
            count -= size
            buffer.popleft()

    def take(self) -> bytes:
        """The next piece to send: everything ready, joined up to a bound; a larger frame goes by itself."""
        parts: list[bytes | memoryview] = []
        size = 0
        while self.buffer:
            head, payload = self.buffer[0]
            added = len(head) + len(payload)
            if parts and size + added > JOIN_BYTES:
                break
            parts += self.buffer.popleft()
            size += added
        self.buffered_bytes -= size
        return b"".join(parts)

    def clear(self) -> None:
        self.dropped_frames += len(self.buffer)
        self.buffer.clear()
        self.buffered_bytes = 0


@final
@dataclass(slots=True)
class _Incoming:
    """The newest connection from one node."""

    incarnation: bytes
    stream: trio.abc.Stream
    scope: trio.CancelScope


@final
@dataclass(slots=True)
class _Received:
    frames: int = 0
    bytes: int = 0
    reads: int = 0


@final
class Peers:
    """All links of a node. `random_ms(n)` gives 0 .. n-1, for jitter."""

    def __init__(
        self,
        options: PeerOptions,
        events: PeerEvents,
        *,
        random_ms: Callable[[int], int],
        tls: PeerTls | None = None,
    ) -> None:
        self._options = options
        self._events = events
        self._tls = tls
        self._random_ms = random_ms
        self._links: dict[NodeId, _Link] = {}
        self._incoming: dict[NodeId, _Incoming] = {}
        self._received: dict[NodeId, _Received] = {}
        self._handshakes = 0
        self._undialled: list[_Link] = []
        self._new_link = trio.Event()
        self._warned: dict[NodeId, str] = {}

    # Synchronous face.

    def set_address(self, node: NodeId, address: str) -> None:
        """Where to dial a node; takes effect at once."""
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = _Link(node, address)
            self._undialled.append(link)
            self._new_link.set()
        elif link.address != address:
            link.address = address
            link.redial.set()
            link.hurry.set()

    def send(self, node: NodeId, kind: FrameKind, payload: bytes) -> None:
        """Send one frame, or drop it where the link is down or its buffer full. Frames that follow may go with it."""
        link = self._links.get(node)
        if link is not None:
            link.put(kind, payload, self._options.max_buffer_bytes)
            link.hand_over()

    def send_many(self, node: NodeId, kind: FrameKind, payloads: Iterable[bytes]) -> None:
        """Send frames together before anything else runs, or drop those that find the link down or its buffer full."""
        link = self._links.get(node)
        if link is None:
            return
        for payload in payloads:
            link.put(kind, payload, self._options.max_buffer_bytes)
        link.flush()

    def is_connected(self, node: NodeId) -> bool:
        """Both directions are up."""
        link = self._links.get(node)
        return link is not None and link.is_sending and node in self._incoming

    def hears(self, node: NodeId) -> bool:
        return node in self._incoming

    def fault(self, node: NodeId) -> str:
        """Why a node cannot be reached; empty while it can."""
        link = self._links.get(node)
        return "no address is known" if link is None else link.fault

    def statistics(self) -> Mapping[NodeId, LinkStatistics]:
        return {node: self._statistics_of(link) for node, link in sorted(self._links.items())}

    def _statistics_of(self, link: _Link) -> LinkStatistics:
        received = self._received.get(link.node) or _Received()
        return LinkStatistics(
            link.node,
            link.address,
            link.is_sending,
            link.node in self._incoming,
            link.buffered_bytes,
            link.sent_frames,
            link.sent_bytes,
            link.sends,
            received.frames,
            received.bytes,
            received.reads,
            link.dropped_frames,
            link.connects,
            link.fault,
        )

    # Tasks.

    async def run(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve the listeners and keep a link to every known node; closes the listeners at its end."""
        async with trio.open_nursery() as nursery:
            if listeners:
                await nursery.start(trio.serve_listeners, self._accept, listeners)
            nursery.start_soon(self._dial_all)
            task_status.started()

    async def _dial_all(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                undialled, self._undialled = self._undialled, []
                for link in undialled:
                    nursery.start_soon(self._keep_link, link)
                await self._new_link.wait()
                self._new_link = trio.Event()

    def _tune(self, stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if sys.platform == "linux":
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._options.unacknowledged_ms)

    # Dialling and sending.

    async def _keep_link(self, link: _Link) -> None:
        backoff_ms = self._options.least_backoff_ms
        while True:
            before = link.connects
            try:
                await self._dial_once(link)
                fault = "the other side closed the connection"
            except* _NETWORK_ERRORS as group:
                fault = _first_line(group)
            except* (LogBrokerError, trio.TooSlowError) as group:
                fault = _first_line(group)
            self._note_fault(link, fault)
            if link.connects > before:
                backoff_ms = self._options.least_backoff_ms
            elif link.other_address:
                link.address, link.other_address = link.other_address, link.address
            # Half of it is jitter, so that nodes that lost each other at once do not meet again at once.
            with trio.move_on_after((backoff_ms / 2 + self._random_ms(backoff_ms // 2 + 1)) / 1000):
                await link.hurry.wait()
            link.hurry = trio.Event()
            backoff_ms = min(2 * backoff_ms, self._options.most_backoff_ms)

    async def _dial_once(self, link: _Link) -> None:
        link.redial = trio.Event()
        stream = await self._connect(link)
        try:
            with trio.fail_after(self._options.handshake_ms / 1000):
                incarnation = await self._greet(link, stream)
            link.is_sending, link.fault = True, ""
            link.handle = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None
            link.connects += 1
            self._warned.pop(link.node, None)
            logger.info("link_up node=%d address=%s", link.node, link.address)
            self._events.on_link_up(link.node, incarnation)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, link, stream)
                    nursery.start_soon(_wait_redial, link, nursery.cancel_scope)
                    await self._wait_closed(stream)
                    nursery.cancel_scope.cancel()
            finally:
                link.is_sending, link.handle, link.ready = False, None, None
                link.clear()
                self._events.on_link_lost(link.node)
        finally:
            # Nothing is said at the end of a link, so there is nothing to wait for.
            await trio.aclose_forcefully(stream)

    async def _connect(self, link: _Link) -> trio.abc.Stream:
        host, port = split_address(link.address)
        with trio.fail_after(self._options.connect_ms / 1000):
            tcp = await trio.open_tcp_stream(host, port)
        self._tune(tcp)
        if self._tls is None:
            return tcp
        return trio.SSLStream(
            tcp, self._tls.dialling, server_hostname=self._tls.name_of(link.node), https_compatible=True
        )

    async def _greet(self, link: _Link, stream: trio.abc.Stream) -> bytes:
        """Open the link; gives the other side's incarnation. Raises RemoteProtocolError where it refuses."""
        await stream.send_all(encode_opening(self._events.hello(link.node)))
        welcome = decode_welcome(await _receive_one(stream))
        if welcome.refusal:
            raise RemoteProtocolError(f"refused by node {welcome.node}: {welcome.refusal}")
        if welcome.version != PROTOCOL_VERSION or welcome.node != link.node:
            raise RemoteProtocolError(
                f"node {welcome.node} of protocol version {welcome.version} answers at {link.address}, "
                f"where node {link.node} is expected"
            )
        return welcome.incarnation

    async def _write(self, link: _Link, stream: trio.abc.Stream) -> None:
        send_s = self._options.send_ms / 1000
        while True:
            if not link.buffer:
                link.ready = ready = trio.Event()
                await ready.wait()
            data = link.take()
            # A send that is given up leaves half a frame behind; the link is closed after it.
            with trio.fail_after(send_s):
                await stream.send_all(data)
            link.sends += 1
            link.sent_bytes += len(data)

    async def _wait_closed(self, stream: trio.abc.Stream) -> None:
        """The accepting side sends nothing, so its end of file is all there is to read."""
        if await stream.receive_some(1):
            raise RemoteProtocolError("the accepting side of a link sent something")

    def _note_fault(self, link: _Link, fault: str) -> None:
        link.fault = fault
        if self._warned.get(link.node) != fault:
            self._warned[link.node] = fault
            logger.warning("link_down node=%d address=%s reason=%r", link.node, link.address, fault)

    # Accepting and receiving.

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            if self._handshakes >= self._options.max_handshakes:
                return
            await self._serve(stream)
        except _NETWORK_ERRORS as error:
            logger.debug("link_closed reason=%r", str(error))
        except (LogBrokerError, trio.TooSlowError) as error:
            logger.warning("link_refused reason=%r", str(error) or "it took too long")
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, tcp: trio.SocketStream) -> None:
        self._tune(tcp)
        stream: trio.abc.Stream = tcp
        splitter = FrameSplitter(MAX_HELLO_BYTES)
        self._handshakes += 1
        try:
            with trio.fail_after(self._options.handshake_ms / 1000):
                if self._tls is not None:
                    stream = trio.SSLStream(tcp, self._tls.accepting, server_side=True, https_compatible=True)
                    await stream.do_handshake()
                hello = await self._admit(stream, splitter)
        finally:
            self._handshakes -= 1
        if hello is not None:
            await self._receive(hello, stream, splitter)

    async def _admit(self, stream: trio.abc.Stream, splitter: FrameSplitter) -> Hello | None:
        frames: list[memoryview] = []
        while not frames:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                return None
            frames = splitter.feed(bytes(data), at_most=1)
        hello = decode_hello(frames[0])
        mine = self._events.hello(hello.node)
        present = self._incoming.get(hello.node)
        why = self._wrong_certificate(hello, stream) or objection(
            mine, hello, incarnation=None if present is None else present.incarnation
        )
        if not why and present is None and len(self._incoming) >= self._options.max_links:
            why = f"{len(self._incoming)} nodes are connected, which is the most"
        await stream.send_all(
            encode_opening(Welcome(PROTOCOL_VERSION, why, mine.cluster_id, mine.node, mine.incarnation))
        )
        if why:
            raise RemoteProtocolError(f"link from node {hello.node} refused: {why}")
        return hello

    def _wrong_certificate(self, hello: Hello, stream: trio.abc.Stream) -> str:
        if self._tls is None or not isinstance(stream, trio.SSLStream):
            return ""
        wanted = self._tls.name_of(hello.node)
        names = {value for kind, value in (stream.getpeercert() or {}).get("subjectAltName", ()) if kind == "DNS"}
        return "" if wanted in names else f"its certificate is for {sorted(names)}, not for {wanted}"

    async def _receive(self, hello: Hello, stream: trio.abc.Stream, splitter: FrameSplitter) -> None:
        node = hello.node
        link = self._links.get(node)
        if link is not None and not link.is_sending:
            if hello.peer_address not in ("", link.address):
                link.other_address = hello.peer_address
            link.hurry.set()
        splitter.limit(self._options.max_frame_bytes)
        with trio.CancelScope() as scope:
            incoming = _Incoming(hello.incarnation, stream, scope)
            older = self._incoming.get(node)
            self._incoming[node] = incoming
            if older is not None:
                # The other side dials anew only after it gave the older one up.
                older.scope.cancel()
            try:
                await self._read(hello, stream, splitter, scope)
            finally:
                if self._incoming.get(node) is incoming:
                    del self._incoming[node]
                    self._events.on_link_lost(node)
        if node not in self._incoming:
            await self._watch_silence(node)

    async def _read(
        self, hello: Hello, stream: trio.abc.Stream, splitter: FrameSplitter, scope: trio.CancelScope
    ) -> None:
        node, incarnation, events = hello.node, hello.incarnation, self._events
        received = self._received.setdefault(node, _Received())
        idle_s = self._options.idle_ms / 1000
        data = b""
        while True:
            frames = splitter.feed(data)
            for one in frames:
                events.on_frame(node, incarnation, one[0], one[1:])
            if frames:
                received.frames += len(frames)
                events.after_read()
            # Moved once in a while only: moving a deadline costs more than the read of a small message.
            now = trio.current_time()
            if scope.deadline - now < idle_s / 2 or scope.deadline == float("inf"):
                scope.deadline = now + idle_s
            data = await _receive_some(stream)
            received.bytes += len(data)
            received.reads += 1
            if not data:
                return

    async def _watch_silence(self, node: NodeId) -> None:
        """A killed process closes its sockets: after a jitter others may ask for votes, if it is still away."""
        options = self._options
        turn = turn_after(node, self._events.node, self._incoming)
        jitter_ms = self._random_ms(options.down_jitter_ms + 1)
        await trio.sleep((options.down_least_ms + jitter_ms + turn * options.down_turn_ms) / 1000)
        if node not in self._incoming:
            self._events.on_peer_silent(node)


def turn_after(gone: NodeId, node: NodeId, heard: Iterable[NodeId]) -> int:
    """How many nodes ask for votes before `node` when the node `gone` has gone: those between them in a circle.

    All who hear one another come to the same order. Two that ask at once vote for themselves, and nothing happens
    before an election timeout, a second or two, has passed. Who cannot win, for want of entries, only costs its turn.
    """
    return sum((other - gone) % _NODE_IDS < (node - gone) % _NODE_IDS for other in heard if other != gone)


async def _receive_some(stream: trio.abc.Stream) -> bytes:
    """What is there next, up to `READ_BYTES`; empty at the end. In the clear past the stream, at half its cost.

    Mostly nothing is there yet: an answer is on its way. So it is waited for first and read once.
    """
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(READ_BYTES))
    while True:
        handle = stream.socket.fileno()
        if handle < 0:
            raise trio.ClosedResourceError("the link was closed")
        await trio.lowlevel.wait_readable(handle)
        try:
            return os.read(handle, READ_BYTES)
        except BlockingIOError:
            continue


async def _receive_one(stream: trio.abc.Stream) -> memoryview:
    """The single frame that answers a hello."""
    splitter = FrameSplitter(MAX_HELLO_BYTES)
    while True:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            raise RemoteProtocolError("the other side closed the connection before it answered the hello")
        frames = splitter.feed(bytes(data))
        if frames:
            return frames[0]


async def _wait_redial(link: _Link, scope: trio.CancelScope) -> None:
    await link.redial.wait()
    scope.cancel()


def _first_line(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    return str(error) or type(error).__name__


def split_address(address: str) -> tuple[str, int]:
    """Take `host:port` apart; an IPv6 host stands in brackets.

    Raises:
        InvalidArgumentError: it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise InvalidArgumentError(f"peer address {address!r} is not host:port")
    return host.strip("[]"), int(port)
