"""One client's session without its transport: messages in, requests to the node, replies out.

Synchronous. The transport (`connection`) hands in messages, takes messages to send, and ends the connection when
`closing` is set. Every frame of a message is dispatched before the transport waits again; what answers at once, and
what answers in one turn of the node, leaves in one message.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

import trio

from logbroker.errors import (
    LogBrokerError,
    OverloadedError,
    RemoteProtocolError,
    RequestError,
    ShuttingDownError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import GroupId, GroupName, LeaseId
from logbroker.server.auth import authorize
from logbroker.server.closing import CloseCode, Closing
from logbroker.server.holdings import Held, Holdings
from logbroker.server.service import CATCH_UP_S, CatalogueMiss, ClientService, Identity
from logbroker.wire.protocol import HEADER_COST, ServerProtocol, State
from logbroker.wire.requests import AnyReply, AnyRequest, Hello, Receive, Subscribe, Welcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from logbroker.node.requests import Answer, Reply, Request, SettleResult
    from logbroker.server.streams import Stream
    from logbroker.server.subprotocols import AnyServerProtocol
    from logbroker.wire.requests import Request as WireRequest

logger = logging.getLogger(__name__)

MAX_WORKS = 16
"""Requests of one connection that wait for the catalogue or for many partitions at a time; the next ones queue."""
WRITE_WAIT = "it may have been carried out; repeating it is safe where it names producer, sequence or request id"


class Transport(Protocol):
    """What a session asks of the connection that carries it."""

    def wake_writer(self) -> None:
        """There may be something to send, or the connection is to end."""

    def wake_reader(self) -> None:
        """`is_full` may be false again."""

    def on_greeted(self) -> None:
        """The client has said who it is."""

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:  # noqa: ANN401  the work's own
        """Run a task that ends with the connection at the latest."""


@final
class Exchange:
    """One request until its reply. Replies that come after its end are dropped."""

    __slots__ = (
        "_asked",
        "began_s",
        "deadline_s",
        "epoch",
        "group",
        "held_bytes",
        "is_last_try",
        "is_over",
        "request",
        "session",
    )

    def __init__(
        self, session: Session, request: AnyRequest, held_bytes: int, *, began_s: float, deadline_s: float
    ) -> None:
        self.session = session
        self.request = request
        self.held_bytes = held_bytes
        """What it takes in memory, at the most."""
        self.began_s = began_s
        self.deadline_s = deadline_s
        self.epoch = session.epoch
        """Of the catalogue by which it was let through."""
        self.group: GroupId | None = None
        """The Raft group that it was sent to; None while it is known to none."""
        self.is_last_try = False
        """The catalogue had time to catch up: what is missing from it does not exist."""
        self.is_over = False
        # What the partition answers with, of a receive or a stream: it may have to be told that nobody waits any more.
        self._asked: Answer | None = None

    @property
    def rid(self) -> int:
        return self.request.rid

    @property
    def service(self) -> ClientService:
        return self.session.service

    def reply(self, reply: AnyReply, body: bytes = b"") -> bool:
        """Answer it; False where nobody is there to hear it any more."""
        return not self.is_over and self.session.finish(self, reply, body)

    def fail(self, error: LogBrokerError) -> None:
        if not self.is_over:
            self.session.finish(self, self.service.error_reply(error, rid=self.rid, group=self.group), b"")

    def ask(
        self,
        group: GroupId,
        request: Request,
        on_reply: Callable[[Any], None],
        on_error: Callable[[LogBrokerError], None] | None = None,
    ) -> None:
        """Send `request` to the partition and give its reply to `on_reply`, late ones too.

        An error is the answer by itself, or goes to `on_error`.
        """
        self.group = group
        answer = partial(self._answer, on_reply, on_error or self.fail)
        if isinstance(self.request, Receive | Subscribe):
            self._asked = answer
        self.service.backend.submit(group, request, answer)

    def end(self) -> None:
        """It has its reply, or nobody waits for one. What it held on to held on to it."""
        self.is_over = True
        self._asked = None

    def abandon(self) -> None:
        """Nobody waits for it any more: a receive that waits at its partition is to lease nothing."""
        if self._asked is not None and self.group is not None:
            self.service.backend.forget(self.group, self._asked)

    def start(self, work: Callable[[], Awaitable[AnyReply]]) -> None:
        """Let a task of the connection find the reply; LogBrokerError is one."""
        self.session.start(self, work)

    def _answer(
        self,
        on_reply: Callable[[Any], None],
        on_error: Callable[[LogBrokerError], None],
        result: Reply | LogBrokerError,
    ) -> None:
        # Called in a turn of the node: a mistake made here is this connection's, not the node's.
        try:
            if isinstance(result, LogBrokerError):
                on_error(result)
            else:
                on_reply(result)
        except Exception:
            logger.exception("answer_failed kind=%s", type(self.request).__name__)
            self.session.crash()


Handler: TypeAlias = Callable[[Exchange, Any, bytes], None]


@final
class Session:
    """See the module. Times are readings of the service's clock, in seconds."""

    def __init__(
        self,
        service: ClientService,
        transport: Transport,
        handlers: Mapping[type[WireRequest], Handler],
        *,
        address: str,
        protocol: AnyServerProtocol | None = None,
    ) -> None:
        self.service = service
        self.address = address
        self.identity: Identity | None = None
        self.is_greeted = False
        """It has said who it is, once."""
        self.closing: Closing | None = None
        self.heard_s = now_s = service.clock()
        self.sending_since_s: float | None = None
        """When the message that is being sent was handed over."""
        self.epoch = -1
        """Of the catalogue by which `identity` was looked up."""
        self.name = ""
        """What the client calls itself."""
        self.streams: dict[int, Stream] = {}
        """By the rid of their Subscribe, which is open."""
        self._transport = transport
        self._handlers = handlers
        self._opened_s = now_s
        self._protocol = protocol or ServerProtocol(limits=service.wire_limits)
        self._open: dict[int, Exchange] = {}
        self._inflight_bytes = 0
        self._taken_bytes = 0
        self._written_bytes = 0
        # Streams that wait for what is sent.
        self._resting: dict[Stream, None] = {}
        self._sending_bytes = 0
        # Of `held_bytes`, what was added to that of the node.
        self._accounted_bytes = 0
        # Leases whose reply is in the buffer, with the position in the outgoing bytes where that reply ends.
        self._unwritten: deque[tuple[int, GroupId, LeaseId, GroupName]] = deque()
        # Leases that go back with the connection, written or not; most connections have none, ever.
        self._holdings: Holdings | None = None
        self._closing_since_s: float | None = None
        self._work_places = trio.CapacityLimiter(MAX_WORKS)
        self._is_ended = False

    # What the transport looks at.

    @property
    def is_full(self) -> bool:
        """Too much is unanswered or unsent, here or on the whole node: no message is taken until some of it is gone."""
        limits, node_bytes = self.service.limits, self.service.measures.held_bytes
        if node_bytes > limits.max_held_bytes and (
            node_bytes > 2 * limits.max_held_bytes or self.held_bytes > self._share_bytes
        ):
            return True
        return (
            self._inflight_bytes >= limits.max_inflight_bytes or self._protocol.held_bytes > limits.max_reply_bytes // 2
        )

    @property
    def held_bytes(self) -> int:
        """What unanswered requests and unwritten replies take in memory, at the most."""
        return self._inflight_bytes + self._protocol.held_bytes + self._sending_bytes

    @property
    def _share_bytes(self) -> int:
        """What each connection may hold while all together hold too much."""
        return self.service.limits.max_held_bytes // max(1, self.service.measures.connections)

    @property
    def outstanding_count(self) -> int:
        return len(self._open)

    # Messages.

    def take(self, message: bytes) -> None:
        """Take one message and dispatch its requests."""
        self.heard_s = now_s = self.service.clock()
        if self.closing is not None:
            return
        measures = self.service.measures
        measures.messages_in += 1
        measures.bytes_in += len(message)
        try:
            requests = self._protocol.receive(message)
        except RemoteProtocolError as error:
            self.break_off(error, CloseCode.BAD_REQUEST)
            return
        if requests and self._is_still_welcome():
            header_bytes = HEADER_COST * self._protocol.header_bytes // len(requests)
            for request, body in requests:
                if isinstance(request, Hello):
                    self._greet(request)
                else:
                    self._begin(request, body, header_bytes + len(body), now_s)
        self._account()
        if self._protocol.pending_bytes:
            self._transport.wake_writer()

    def next_message(self) -> bytes | None:
        """The next message to send. The transport says with `on_sent` that it is written."""
        if self.closing is not None and not self.closing.flushes:
            return None
        message = self._protocol.next_message()
        if message is not None:
            self._taken_bytes += len(message)
            self._sending_bytes = len(message)
        return message

    def on_sent(self, message_bytes: int) -> None:
        """Everything that `next_message` gave is written."""
        measures = self.service.measures
        measures.messages_out += 1
        measures.bytes_out += message_bytes
        self._sending_bytes = 0
        self._written_bytes = self._taken_bytes
        self._account()
        unwritten = self._unwritten
        while unwritten and unwritten[0][0] <= self._taken_bytes:
            _, group, lease, _ = unwritten.popleft()
            if self._holdings is None or (group, lease) not in self._holdings:
                self.service.handover.written((group, lease), self)
        self._transport.wake_reader()
        self.resume()

    # Streams.

    def has_written(self, end: int) -> bool:
        """Whether what `hand_over` gave this end for was handed to the operating system."""
        return end <= self._written_bytes

    def rest(self, stream: Stream) -> None:
        """Let a stream go on after something was sent."""
        self._resting[stream] = None

    def resume(self) -> None:
        """Let the streams that rest look whether they can go on. Raises nothing."""
        resting, self._resting = self._resting, {}
        for stream in resting:
            self._on_stream(stream, stream.advance)

    def check_streams(self) -> None:
        """End those that have lost their partition, and let others go on where there is room that others have made."""
        for stream in list(self.streams.values()):
            self._on_stream(stream, stream.check)
        self.resume()

    def _on_stream(self, stream: Stream, act: Callable[[], None]) -> None:
        # Some who call this must not be stopped: a mistake made here is this connection's.
        try:
            act()
        except Exception:
            logger.exception("stream_failed queue=%s", stream.queue)
            self.crash()

    # Replies.

    def finish(self, exchange: Exchange, reply: AnyReply, body: bytes) -> bool:
        """Put the reply of an exchange into the buffer; False where the connection has said its last word."""
        self._forget(exchange)
        service = self.service
        service.measures.note_request(type(exchange.request).__name__, service.clock() - exchange.began_s)
        return self._put(self._protocol.reply, reply, body)

    def push(self, reply: AnyReply, body: bytes) -> bool:
        """Put what comes before the reply of an open exchange into the buffer; as `finish`."""
        return self._put(self._protocol.push, reply, body)

    def _put(self, send: Callable[[AnyReply, bytes], None], reply: AnyReply, body: bytes) -> bool:
        service = self.service
        if self._protocol.state is State.CLOSED or (self.closing is not None and not self.closing.flushes):
            self._account()
            return False
        send(reply, body)
        self._account()
        limits, node_bytes, own_bytes = service.limits, service.measures.held_bytes, self._protocol.held_bytes
        if own_bytes > limits.max_reply_bytes:
            self._give_up(f"{own_bytes} bytes of replies wait; limits.max_reply_bytes is exceeded")
            return False
        if node_bytes > limits.max_held_bytes and own_bytes > self._share_bytes:
            self._give_up(f"{node_bytes} bytes wait for all clients; limits.max_held_bytes is exceeded")
            return False
        self._transport.wake_writer()
        self._transport.wake_reader()
        return True

    def hand_over(self, group: GroupId, lease: LeaseId, consumer_group: GroupName) -> int:
        """The reply put in last carries this lease: it goes back if the reply is never written.

        Gives the position in the outgoing bytes where that reply ends.
        """
        end = self._taken_bytes + self._protocol.pending_bytes
        self._unwritten.append((end, group, lease, consumer_group))
        self.service.handover.begin((group, lease), self)
        return end

    # Leases that go back with the connection.

    def hold(
        self,
        group: GroupId,
        lease: LeaseId,
        consumer_group: GroupName,
        *,
        end: int,
        count: int,
        hide_left_ms: int,
    ) -> None:
        """Have a lease go back when the connection ends, as far as it is not settled over it; after `hand_over`.

        `end` is what that gave. Beyond `limits.max_leases_on_close` the oldest ones are left to their hide time.
        """
        service = self.service
        if self._holdings is None:
            self._holdings = Holdings(max_count=service.limits.max_leases_on_close)
        now_s = service.clock()
        held = Held(group, lease, consumer_group, count, now_s + hide_left_ms / 1000, end)
        self._let_go(self._holdings.add(held, now_s=now_s))

    def note_settled(self, group: GroupId, results: Iterable[SettleResult]) -> None:
        """An ack, nack or reject of this connection was carried out."""
        if self._holdings is not None:
            for result in results:
                self._let_go(self._holdings.settle((group, result.lease), result.done_count))

    def note_extended(self, group: GroupId, results: Iterable[SettleResult], hide_ms: int) -> None:
        if self._holdings is not None:
            until_s = self.service.clock() + hide_ms / 1000
            for result in results:
                if result.done_count:
                    self._holdings.extend((group, result.lease), until_s)

    def note_released(self, group: GroupId, lease: LeaseId) -> None:
        if self._holdings is not None:
            self._let_go(self._holdings.drop((group, lease)))

    def _let_go(self, forgotten: list[Held]) -> None:
        """What is not to go back any more belongs to nobody here, unless its reply waits to be written."""
        for held in forgotten:
            if self.has_written(held.end):
                self.service.handover.written(held.key, self)

    def _give_back(self) -> None:
        """The node stops. At once, as long as it leads: whoever could repeat the receive does so elsewhere."""
        if self._holdings is not None:
            for held in self._holdings.clear():
                self.service.handover.give_back(held.key, held.consumer_group, self)

    def start(self, exchange: Exchange, work: Callable[[], Awaitable[AnyReply]]) -> None:
        """Carry out what has to wait, in a task that ends with the connection."""
        self._transport.start_soon(self._carry_out, exchange, work)

    async def _carry_out(self, exchange: Exchange, work: Callable[[], Awaitable[AnyReply]]) -> None:
        try:
            async with self._work_places:
                if exchange.is_over:
                    # Overdue while it waited for its turn: nothing of it was done.
                    return
                reply = await work()
        except LogBrokerError as error:
            exchange.fail(error)
        else:
            exchange.reply(reply)

    # Time.

    def check(self) -> None:
        """End what has taken too long: requests, and the connection itself. And what may not go on."""
        if self.closing is not None:
            return
        now_s = self.service.clock()
        if self._holdings is not None:
            self._let_go(self._holdings.expire(now_s))
        timeouts = self.service.settings.timeouts
        if not self.is_greeted:
            if now_s - self._opened_s >= timeouts.hello_ms / 1000:
                self.close(Closing(CloseCode.TIMEOUT, f"no hello within {timeouts.hello_ms} ms"))
            return
        # While it is not read from, its pings are not heard either; the send deadline watches it then.
        if now_s - self.heard_s >= timeouts.idle_ms / 1000 and not self.is_full:
            self.close(Closing(CloseCode.TIMEOUT, f"nothing was heard for {timeouts.idle_ms} ms"))
            return
        if self._is_still_welcome():
            self._end_overdue(now_s)
            self.check_streams()

    def is_stuck(self) -> bool:
        """The client takes nothing, or does not let go: the connection is to be dropped without another word."""
        now_s, timeouts = self.service.clock(), self.service.settings.timeouts
        if self._closing_since_s is not None and now_s - self._closing_since_s >= 2 * timeouts.close_ms / 1000:
            return True
        return self.sending_since_s is not None and now_s - self.sending_since_s >= timeouts.send_ms / 1000

    def _end_overdue(self, now_s: float) -> None:
        request_s = self.service.request_s
        overdue = []
        for exchange in self._open.values():
            # In the order they began; only receives last longer than the rest.
            if exchange.began_s + request_s > now_s:
                break
            if exchange.deadline_s <= now_s:
                overdue.append(exchange)
        for exchange in overdue:
            kind = type(exchange.request).__name__
            if isinstance(exchange.request, Receive):
                exchange.abandon()
                exchange.fail(UnavailableError(f"{kind} was not answered in time"))
            else:
                exchange.fail(UnknownOutcomeError(f"{kind} was not decided in {request_s:g} s", hint=WRITE_WAIT))

    # The end.

    def close(self, closing: Closing) -> None:
        """Let the transport end the connection; the first word counts."""
        if self.closing is None:
            self.closing = closing
            self._closing_since_s = self.service.clock()
            self._transport.wake_writer()
            self._transport.wake_reader()

    def break_off(self, error: LogBrokerError, code: CloseCode) -> None:
        """End it because of `error`, which the client is told."""
        if self._protocol.state is not State.CLOSED:
            self._protocol.reply(self.service.error_reply(error, rid=0, group=None))
        self.close(Closing(code, error.message))

    def _give_up(self, reason: str) -> None:
        """End it because too much waits for it: what waits is thrown away now, whatever it was ended for before."""
        self._protocol.close()
        self._account()
        closing = Closing(CloseCode.TRY_AGAIN_LATER, reason, flushes=False)
        if self.closing is None:
            self.close(closing)
        else:
            self.closing = closing

    def _account(self) -> None:
        """Tell the node what this connection holds."""
        held_bytes = self.held_bytes
        self.service.measures.held_bytes += held_bytes - self._accounted_bytes
        self._accounted_bytes = held_bytes

    def crash(self) -> None:
        """A mistake of ours; what it left behind is not to be relied on."""
        self.close(Closing(CloseCode.SERVER_ERROR, "the server made a mistake; its log says which", flushes=False))

    def stop_waiting(self) -> None:
        """The node stops: long polls and streams are answered at once; the rest has its time still.

        Leases that go back with the connection do so now, while there is somebody to take them back.
        """
        self._give_back()
        waiting = [one for one in self._open.values() if isinstance(one.request, Receive | Subscribe)]
        for exchange in waiting:
            exchange.abandon()
            exchange.fail(ShuttingDownError(f"node {self.service.backend.node} is shutting down"))

    def shut_down(self) -> None:
        """The node is gone: everything is answered, and the connection ends."""
        node = self.service.backend.node
        self.stop_waiting()
        for exchange in list(self._open.values()):
            exchange.fail(UnknownOutcomeError(f"node {node} shut down before it was decided", hint=WRITE_WAIT))
        self.close(Closing(CloseCode.GOING_AWAY, f"node {node} is shutting down"))

    def end(self) -> None:
        """The connection is gone: whoever still answers answers nobody, and leases go back that were not written, and
        those of receives and streams that asked for it.
        """
        if self._is_ended:
            return
        self._is_ended = True
        if not self.is_greeted:
            self.service.measures.unauthenticated -= 1
        for exchange in list(self._open.values()):
            exchange.abandon()
            self._forget(exchange)
        for _, group, lease, consumer_group in self._unwritten:
            self.service.handover.lost((group, lease), consumer_group, self)
        self._unwritten.clear()
        if self._holdings is not None:
            for held in self._holdings.clear():
                self.service.handover.lost(held.key, held.consumer_group, self)
        self._protocol.close()
        self._sending_bytes = 0
        self._account()

    # Inside.

    def _greet(self, hello: Hello) -> None:
        try:
            version = self._protocol.negotiate()
            identity = self.service.identify(hello.token)
        except UnauthenticatedError as error:
            if self.service.may_be_behind():
                # The token may be younger than the catalogue here.
                self._transport.start_soon(self._greet_later, hello)
            else:
                self._turn_away(hello, error)
        except LogBrokerError as error:
            self._turn_away(hello, error)
        else:
            self._welcome(hello, identity, version)

    async def _greet_later(self, hello: Hello) -> None:
        error: LogBrokerError | None = None
        with trio.move_on_after(CATCH_UP_S):
            while True:
                await self.service.backend.wait_catalogue_change()
                try:
                    identity = self.service.identify(hello.token)
                except UnauthenticatedError:
                    continue
                except LogBrokerError as failure:
                    error = failure
                    break
                self._welcome(hello, identity, self._protocol.negotiate())
                return
        self._turn_away(hello, error or UnauthenticatedError("the token is not known to this cluster"))

    def _welcome(self, hello: Hello, identity: Identity, version: int) -> None:
        service = self.service
        self.identity = identity
        self.is_greeted = True
        self.name = hello.client
        self.epoch = service.catalogue_epoch()
        service.measures.unauthenticated -= 1
        self._transport.on_greeted()
        self._protocol.reply(
            Welcome(
                hello.rid,
                version=version,
                node=service.backend.node,
                cluster=service.settings.cluster.name,
                limits=service.wire_limits,
                ping_ms=service.settings.timeouts.ping_ms,
            )
        )
        self._transport.wake_writer()

    def _turn_away(self, hello: Hello, error: LogBrokerError) -> None:
        if self._protocol.state is State.CLOSED:
            return
        self._protocol.reply(self.service.error_reply(error, rid=hello.rid, group=None))
        match error:
            case UnauthenticatedError():
                code = CloseCode.UNAUTHENTICATED
            case RequestError():
                code = CloseCode.BAD_REQUEST
            case _:
                code = CloseCode.TRY_AGAIN_LATER
        self.close(Closing(code, error.message))

    def still_allows(self, exchange: Exchange) -> bool:
        """Whether the request would be let through with the rights of this moment; False ends it."""
        if not self._is_still_welcome() or self.identity is None:
            return False
        if exchange.epoch != self.epoch:
            try:
                authorize(self.identity.principal, exchange.request)
            except LogBrokerError as error:
                exchange.fail(error)
                return False
        return True

    def _is_still_welcome(self) -> bool:
        """Look at the rights again if the catalogue is another; a token that is gone ends the connection."""
        identity = self.identity
        if identity is None:
            return True
        epoch = self.service.catalogue_epoch()
        if epoch == self.epoch:
            return True
        self.epoch = epoch
        try:
            self.identity = self.service.renew(identity)
        except UnavailableError:
            return True
        if self.identity is None:
            self.break_off(UnauthenticatedError("the token was deleted"), CloseCode.UNAUTHENTICATED)
            return False
        return True

    def _begin(self, request: AnyRequest, body: bytes, held_bytes: int, now_s: float) -> None:
        service = self.service
        exchange = Exchange(self, request, held_bytes, began_s=now_s, deadline_s=now_s + service.request_s)
        self._open[request.rid] = exchange
        self._inflight_bytes += held_bytes
        if isinstance(request, Receive | Subscribe):
            if isinstance(request, Receive):
                exchange.deadline_s += min(request.wait_ms, service.max_wait_ms) / 1000
            else:
                exchange.deadline_s = float("inf")
            service.measures.waiting_receives += 1
            if service.measures.waiting_receives > service.limits.max_waiting_receives:
                exchange.fail(
                    OverloadedError(
                        f"{service.measures.waiting_receives} receives wait on this node, "
                        f"limits.max_waiting_receives is {service.limits.max_waiting_receives}"
                    )
                )
                return
        if service.is_stopping:
            exchange.fail(ShuttingDownError(f"node {service.backend.node} is shutting down"))
            return
        self._dispatch(exchange, body)

    def _dispatch(self, exchange: Exchange, body: bytes) -> None:
        if not self._try(exchange, body):
            self._transport.start_soon(self._dispatch_later, exchange, body)

    def _try(self, exchange: Exchange, body: bytes) -> bool:
        """Have it done; False where the catalogue here lacks something and may be behind."""
        identity = self.identity
        if identity is None or exchange.is_over:
            return True
        request = exchange.request
        try:
            authorize(identity.principal, request)
            self._handlers[type(request)](exchange, request, body)
        except LogBrokerError as error:
            exchange.fail(error)
        except CatalogueMiss as miss:
            if not exchange.is_last_try and self.service.may_be_behind():
                return False
            exchange.fail(miss.error)
        return True

    async def _dispatch_later(self, exchange: Exchange, body: bytes) -> None:
        """Give the catalogue here a moment to learn of what another node may have committed already."""
        until_s = trio.current_time() + CATCH_UP_S
        while True:
            with trio.move_on_at(until_s) as scope:
                await self.service.backend.wait_catalogue_change()
            exchange.is_last_try = scope.cancelled_caught
            if self._try(exchange, body):
                return

    def _forget(self, exchange: Exchange) -> None:
        exchange.end()
        if self._open.pop(exchange.rid, None) is None:
            return
        self._inflight_bytes -= exchange.held_bytes
        if isinstance(exchange.request, Receive | Subscribe):
            self.service.measures.waiting_receives -= 1
        stream = self.streams.pop(exchange.rid, None)
        if stream is not None:
            self._resting.pop(stream, None)
            self.service.measures.streams -= 1
            stream.end()
