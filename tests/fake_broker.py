"""A cluster of brokers in memory, for tests of clients: real protocol, real batches, no Raft and no disk.

It keeps one copy of everything, so what one node commits every node knows; who leads is the test's word.
A test breaks things through `FakeNode.on_request`, which may answer, swallow or drop a request first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from trio_websocket import ConnectionClosed, wrap_server_stream

from logbroker.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    NotLeaderError,
    OutOfOrderSequenceError,
    RemoteProtocolError,
    UnauthenticatedError,
)
from logbroker.ids import NodeId, Offset
from logbroker.record.batch import check_batch, stamp
from logbroker.wire.failures import error_reply
from logbroker.wire.protocol import ServerProtocol, State
from logbroker.wire.requests import (
    SUBPROTOCOL,
    Ack,
    AlterQueue,
    AnyReply,
    AnyRequest,
    BatchPart,
    CreateGroup,
    CreateQueue,
    CreateToken,
    Credit,
    DeadList,
    DeadRow,
    DeleteGroup,
    DeleteQueue,
    DeleteToken,
    Delivered,
    DescribeGroups,
    DescribeQueue,
    Done,
    Error,
    Extend,
    GroupDescription,
    GroupDescriptions,
    Hello,
    ListDead,
    ListQueues,
    ListTokens,
    Metadata,
    MetadataReply,
    Nack,
    NodeInfo,
    PartitionInfo,
    PauseGroup,
    Produce,
    Produced,
    Purged,
    PurgeGroup,
    QueueDescription,
    QueueInfo,
    QueueList,
    QueueSettings,
    Receive,
    Received,
    Reject,
    Release,
    ResumeGroup,
    Revive,
    Revived,
    Rewind,
    Rewound,
    RewoundPartition,
    Settled,
    SettleResult,
    Status,
    StatusReply,
    Subscribe,
    TokenCreated,
    TokenInfo,
    TokenList,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    WireLimits,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

Answer = tuple[AnyReply, bytes]


class Hold:
    """Swallow the request: its reply never comes, unless the test sends it."""


class Drop:
    """Close the connection instead of answering."""


Handler = Callable[["FakeNode", AnyRequest, bytes], "Answer | LogBrokerError | Hold | Drop | None"]


@dataclass
class FakePartition:
    leader: int = 1
    term: int = 1
    next_offset: int = 0
    # (base offset, count, stamped bytes)
    batches: list[tuple[int, int, bytes]] = field(default_factory=list)
    # (producer id, base sequence) -> base offset, and what each producer's next sequence is.
    known: dict[tuple[int, int], int] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    # lease -> offsets; offset -> deliveries; offsets that are acked.
    leases: dict[int, set[int]] = field(default_factory=dict)
    deliveries: dict[int, int] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)
    # Offset -> the reason of its rejection.
    dead: dict[int, str] = field(default_factory=dict)
    answered: dict[tuple[int, int], Answer] = field(default_factory=dict)
    next_lease: int = 1 << 16
    settles: list[AnyRequest] = field(default_factory=list)

    def produce(self, body: bytes) -> Produced:
        header = check_batch(body)
        name = (header.producer_id, header.base_sequence)
        count = header.record_count
        if name in self.known:
            return Produced(0, base_offset=self.known[name], count=count, append_ms=1000, duplicate=True)
        expected = self.sequences.get(header.producer_id, 0)
        if header.base_sequence != expected:
            raise OutOfOrderSequenceError(f"sequence {header.base_sequence} of a producer that is at {expected}")
        base_offset = self.next_offset
        self.known[name] = base_offset
        self.sequences[header.producer_id] = expected + count
        self.batches.append((base_offset, count, stamp(body, Offset(base_offset), self.term)))
        self.next_offset += count
        return Produced(0, base_offset=base_offset, count=count, append_ms=1000)

    def available(self) -> Iterator[int]:
        leased = set().union(*self.leases.values())
        for offset in range(self.next_offset):
            if offset not in self.acked and offset not in leased and offset not in self.dead:
                yield offset

    def receive(self, request: Receive) -> Answer:
        name = (request.session, request.request_id)
        if name in self.answered:
            return self.answered[name]
        offsets: list[int] = []
        for offset in self.available():
            if len(offsets) == request.max_count:
                break
            offsets.append(offset)
        if not offsets:
            return Received(0, lease=0, visible_at_ms=0, hide_left_ms=0, parts=[]), b""
        lease = self.next_lease
        self.next_lease += 1
        self.leases[lease] = set(offsets)
        for offset in offsets:
            self.deliveries[offset] = self.deliveries.get(offset, 0) + 1
        parts: list[BatchPart] = []
        body = b""
        for base, count, data in self.batches:
            ranges = [(o, o + 1, self.deliveries[o]) for o in offsets if base <= o < base + count]
            joined: list[tuple[int, int, int]] = []
            for start, end, deliveries in ranges:
                if joined and joined[-1][1] == start and joined[-1][2] == deliveries:
                    joined[-1] = (joined[-1][0], end, deliveries)
                else:
                    joined.append((start, end, deliveries))
            if joined:
                parts.append(BatchPart(size_bytes=len(data), base_offset=base, append_ms=1000, ranges=joined))
                body += data
        reply = Received(
            0, lease=lease, visible_at_ms=1000 + request.hide_ms, hide_left_ms=request.hide_ms, parts=parts
        )
        self.answered[name] = (reply, body)
        return reply, body

    def settle(self, request: Ack | Nack | Reject | Extend) -> Settled:
        self.settles.append(request)
        results = []
        for lease, ranges in request.items:
            held = self.leases.get(lease, set())
            done = already = 0
            stale: list[tuple[int, int]] = []
            for start, end in ranges:
                for offset in range(start, end):
                    if offset in held:
                        done += 1
                        if not isinstance(request, Extend):
                            held.discard(offset)
                        if isinstance(request, Ack):
                            self.acked.add(offset)
                        if isinstance(request, Reject):
                            self.dead[offset] = request.reason
                    elif offset in self.acked:
                        already += 1
                    else:
                        stale.append((offset, offset + 1))
            results.append(SettleResult(done=done, already=already, stale=stale))
        return Settled(0, results=results)

    def list_dead(self, request: ListDead) -> DeadList:
        found = sorted(offset for offset in self.dead if offset >= request.start_offset)
        rows = [
            DeadRow(
                start=offset,
                end=offset + 1,
                deliveries=self.deliveries[offset],
                buried_at_ms=2_000,
                cause="rejected",
                reason=self.dead[offset],
                consumer="c",
            )
            for offset in found[: request.max_count]
        ]
        return DeadList(0, rows=rows)

    def revive(self, request: Revive) -> Revived:
        found = [offset for start, end in request.ranges for offset in range(start, end) if offset in self.dead]
        for offset in found:
            del self.dead[offset], self.deliveries[offset]
        return Revived(0, count=len(found))

    def expire(self, lease: int) -> None:
        self.leases.pop(lease)


@dataclass
class FakeQueue:
    settings: QueueSettings
    partitions: list[FakePartition]


class FakeCluster:
    """Nodes 1 to `node_count`; node 1 leads everything at first."""

    def __init__(self, node_count: int = 1, *, limits: WireLimits | None = None, token: str = "") -> None:
        self.queues: dict[str, FakeQueue] = {}
        self.limits = limits or WireLimits()
        self.token = token
        self.meta_leader = 1
        self.rewinds: dict[int, Rewind] = {}
        self.purges: dict[int, int] = {}
        self.nodes = {node: FakeNode(self, node) for node in range(1, node_count + 1)}

    def add_queue(self, name: str, partition_count: int = 1, *, hide_ms: int = 30_000) -> FakeQueue:
        settings = QueueSettings(partitions=partition_count, hide_ms=hide_ms)
        queue = self.queues[name] = FakeQueue(settings, [FakePartition() for _ in range(partition_count)])
        return queue

    def partition(self, name: str = "orders", partition: int = 0) -> FakePartition:
        return self.queues[name].partitions[partition]

    def move(self, leader: int, name: str = "orders", partition: int = 0) -> None:
        """Another node leads."""
        moved = self.partition(name, partition)
        moved.leader = leader
        moved.term += 1

    def wake(self) -> None:
        for node in self.nodes.values():
            for connection in list(node.connections):
                connection.poll()


class FakeNode:
    def __init__(self, cluster: FakeCluster, node: int) -> None:
        self.cluster = cluster
        self.node = node
        self.url = f"ws://node{node}.test:4100"
        self.on_request: Handler | None = None
        self.requests: list[AnyRequest] = []
        # Bodies of the produce requests among them.
        self.produced: list[bytes] = []
        self.connections: list[FakeConnection] = []
        # Close codes of the connections that ended.
        self.closings: list[int] = []

    def of(self, kind: type[Any]) -> list[Any]:
        """The requests of one kind that came, in order."""
        return [request for request in self.requests if isinstance(request, kind)]

    def answer(self, request: AnyRequest, body: bytes) -> Answer | None:
        """What a healthy broker says; None leaves a long poll waiting."""
        try:
            return self._answer(request, body)
        except LogBrokerError as error:
            return self.error_reply(error, request.rid), b""

    def error_reply(self, error: LogBrokerError, rid: int) -> Error:
        url = self.cluster.nodes[error.leader].url if isinstance(error, NotLeaderError) and error.leader else ""
        return error_reply(error, rid=rid, leader_url=url)

    def _answer(self, request: AnyRequest, body: bytes) -> Answer | None:
        cluster = self.cluster
        match request:
            case Metadata():
                names = cluster.queues if request.queues is None else request.queues
                nodes = [NodeInfo(node=node.node, url=node.url) for node in cluster.nodes.values()]
                queues = [self._info(name) for name in names if name in cluster.queues]
                return MetadataReply(0, nodes=nodes, queues=queues), b""
            case Produce():
                return self.led(request).produce(body), b""
            case Receive():
                reply, data = self.led(request).receive(request)
                waits = isinstance(reply, Received) and not reply.parts
                return None if waits else (reply, data)
            case Ack() | Nack() | Reject() | Extend():
                partition = self.led(request)
                settled = partition.settle(request)
                if isinstance(request, Nack):
                    cluster.wake()
                return settled, b""
            case ListDead():
                return self.led(request).list_dead(request), b""
            case Revive():
                return self.led(request).revive(request), b""
            case Release():
                partition = self.led(request)
                for lease in request.leases:
                    for offset in partition.leases.pop(lease, set()):
                        partition.deliveries[offset] -= 1
                partition.settles.append(request)
                return Done(0), b""
            case CreateQueue():
                self._lead_meta()
                if request.name in cluster.queues:
                    raise AlreadyExistsError(f"queue {request.name} exists")
                cluster.add_queue(request.name, request.settings.partitions)
                return Done(0), b""
            case ListQueues():
                return QueueList(0, queues=[self._info(name) for name in cluster.queues]), b""
            case Rewind():
                self._lead_meta()
                cluster.rewinds[request.rewind_id] = request
                moved = RewoundPartition(
                    partition=0, requested=str(request.target), start_offset=0, start_ms=0, moved_count=0
                )
                return Rewound(0, rewind_id=request.rewind_id, pending=False, partitions=[moved]), b""
            case DescribeQueue():
                if request.name not in cluster.queues:
                    raise NotFoundError(f"queue {request.name} does not exist")
                return QueueDescription(0, info=self._info(request.name), partitions=[]), b""
            case DescribeGroups():
                if request.group == "nobody":
                    raise NotFoundError(f"queue {request.queue} has no consumer group {request.group}")
                return GroupDescriptions(0, groups=[_no_lag(request.group or "default")]), b""
            case (
                AlterQueue()
                | DeleteQueue()
                | CreateGroup()
                | DeleteGroup()
                | PauseGroup()
                | ResumeGroup()
                | DeleteToken()
            ):
                self._lead_meta()
                return Done(0), b""
            case PurgeGroup():
                self._lead_meta()
                return Purged(
                    0, purged_count=cluster.purges.setdefault(request.purge_id, 5), revoked_count=0, dead_count=0
                ), b""
            case CreateToken():
                self._lead_meta()
                return TokenCreated(0, token="lb_secret"), b""
            case ListTokens():
                return TokenList(0, tokens=[TokenInfo(name="till", rights=["produce:orders"])]), b""
            case Status():
                return StatusReply(0, nodes=[], groups=[], problems=["none"]), b""
            case _:
                raise InvalidArgumentError(f"the fake does not do {type(request).__name__}")

    def _lead_meta(self) -> None:
        if self.cluster.meta_leader != self.node:
            raise NotLeaderError("not the meta leader", leader=NodeId(self.cluster.meta_leader))

    def led(
        self, request: Produce | Receive | Ack | Nack | Reject | Extend | Release | ListDead | Revive | Subscribe
    ) -> FakePartition:
        queue = self.cluster.queues.get(request.queue)
        if queue is None or request.partition >= len(queue.partitions):
            raise NotFoundError(f"{request.queue}/{request.partition} does not exist")
        partition = queue.partitions[request.partition]
        if partition.leader != self.node:
            leader = NodeId(partition.leader) if partition.leader else None
            raise NotLeaderError(f"node {self.node} does not lead {request.queue}/{request.partition}", leader=leader)
        return partition

    def _info(self, name: str) -> QueueInfo:
        queue = self.cluster.queues[name]
        partitions = [
            PartitionInfo(partition=number, group=number + 1, leader=partition.leader, term=partition.term)
            for number, partition in enumerate(queue.partitions)
        ]
        return QueueInfo(name=name, queue_id=1, settings=queue.settings, partitions=partitions)


def _no_lag(name: str) -> GroupDescription:
    return GroupDescription(
        name=name, available=0, leased=0, delayed=0, dead=0, lag_count=0, lag_ms=0, oldest_ms=0, partitions=[]
    )


@dataclass
class FakeStream:
    request: Subscribe
    count: int
    size_bytes: int
    delivered_count: int = 0


class FakeConnection:
    """One client's connection to one node, without a transport."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.protocol = ServerProtocol(limits=node.cluster.limits)
        self.is_dropped = False
        self.held: list[tuple[AnyRequest, bytes]] = []
        self.on_output: Callable[[], None] = lambda: None
        self._polls: list[Receive] = []
        # The streams that are open, by their rid: what is left of their credit.
        self.streams: dict[int, FakeStream] = {}
        node.connections.append(self)

    def receive(self, message: bytes) -> None:
        if self.protocol.state is State.CLOSED:
            # It was on its way when the test broke the connection.
            return
        try:
            requests = self.protocol.receive(message)
        except RemoteProtocolError as error:
            self.protocol.reply(error_reply(error))
            self.is_dropped = True
            self.on_output()
            return
        for request, body in requests:
            if self.is_dropped:
                return
            self._handle(request, body)
        self.node.cluster.wake()
        self.on_output()

    def _handle(self, request: AnyRequest, body: bytes) -> None:
        node = self.node
        node.requests.append(request)
        if isinstance(request, Produce):
            node.produced.append(body)
        if isinstance(request, Hello):
            self._greet(request)
            return
        decided = node.on_request(node, request, body) if node.on_request is not None else None
        if isinstance(decided, Drop):
            self.drop()
        elif isinstance(decided, Hold):
            self.held.append((request, body))
        elif isinstance(decided, LogBrokerError):
            self.protocol.reply(error_reply(decided, rid=request.rid))
        else:
            self.answer(request, body, decided)

    def answer(self, request: AnyRequest, body: bytes, decided: Answer | None = None) -> None:
        if decided is None and isinstance(request, Subscribe | Credit | Unsubscribe):
            self._stream(request)
            return
        answer = decided or self.node.answer(request, body)
        if answer is not None:
            reply, data = answer
            self.protocol.reply(type(reply)(**{**_fields(reply), "rid": request.rid}), data)
        elif isinstance(request, Receive):
            self._polls.append(request)

    def _stream(self, request: Subscribe | Credit | Unsubscribe) -> None:
        if isinstance(request, Subscribe):
            self.streams[request.rid] = FakeStream(request, request.credit_count, request.credit_bytes)
            return
        stream = self.streams.get(request.subscription)
        if stream is None:
            self.protocol.reply(error_reply(NotFoundError("no such stream"), rid=request.rid))
            return
        if isinstance(request, Credit):
            stream.count += request.credit_count
            stream.size_bytes += request.credit_bytes
        else:
            del self.streams[request.subscription]
            self.protocol.reply(Unsubscribed(request.subscription, count=stream.delivered_count))
        self.protocol.reply(Done(request.rid))

    def _push(self, rid: int, stream: FakeStream) -> bool:
        """Push one delivery; False where there is none, or no credit."""
        request, largest = stream.request, self.protocol.limits.max_batch_bytes
        try:
            partition = self.node.led(request)
        except LogBrokerError as error:
            del self.streams[rid]
            self.protocol.reply(self.node.error_reply(error, rid))
            return True
        if not stream.count or stream.size_bytes < largest:
            return False
        asked = Receive(
            rid,
            queue=request.queue,
            partition=request.partition,
            group=request.group,
            max_count=min(stream.count, request.max_count),
            max_bytes=request.max_bytes,
            hide_ms=request.hide_ms,
            wait_ms=0,
            session=0,
            request_id=partition.next_lease,
        )
        found, body = partition.receive(asked)
        if not isinstance(found, Received) or not found.parts:
            return False
        count = sum(end - start for part in found.parts for start, end, _ in part.ranges)
        stream.count -= count
        stream.size_bytes -= len(body)
        stream.delivered_count += count
        delivered = Delivered(
            rid,
            lease=found.lease,
            visible_at_ms=found.visible_at_ms,
            hide_left_ms=found.hide_left_ms,
            parts=found.parts,
            credit_count=stream.count,
            credit_bytes=max(0, stream.size_bytes),
        )
        self.protocol.push(delivered, body)
        return True

    def poll(self) -> None:
        """Long polls and streams whose messages came, and streams that have lost their leader."""
        is_busy = bool(self.streams)
        while is_busy:
            is_busy = any([self._push(*one) for one in list(self.streams.items())])
            self.on_output()
        polls, self._polls = self._polls, []
        for request in polls:
            self.answer(request, b"")
        if len(self._polls) < len(polls):
            self.on_output()

    def end_polls(self) -> None:
        """Long polls whose time is over."""
        polls, self._polls = self._polls, []
        for request in polls:
            self.protocol.reply(Received(request.rid, lease=0, visible_at_ms=0, hide_left_ms=0, parts=[]))
        self.on_output()

    def _greet(self, hello: Hello) -> None:
        cluster = self.node.cluster
        if cluster.token and hello.token != cluster.token:
            self.protocol.reply(error_reply(UnauthenticatedError("no such token"), rid=hello.rid))
            self.is_dropped = True
            return
        self.protocol.reply(
            Welcome(hello.rid, version=1, node=self.node.node, cluster="fake", limits=self.protocol.limits)
        )

    def drop(self) -> None:
        """The connection is gone, with what was not sent."""
        self.is_dropped = True
        self.protocol.close()
        if self in self.node.connections:
            self.node.connections.remove(self)
        self.on_output()


def _fields(reply: AnyReply) -> dict[str, Any]:
    return {name: getattr(reply, name) for name in reply.__struct_fields__}


async def serve_node(node: FakeNode, *, tls: ssl.SSLContext | None = None, task_status: trio.TaskStatus[int]) -> None:
    """Serve a node on a loopback port, which is given; its address in metadata becomes that."""

    async def serve_stream(stream: trio.abc.Stream) -> None:
        await _serve_stream(node, stream if tls is None else trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_stream, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        node.url = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}"
        task_status.started(port)


class FakeNetwork:
    """Streams in memory between clients and a cluster; `open` is a client's `open_stream`."""

    def __init__(self, cluster: FakeCluster, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._cluster = cluster
        self.down: set[int] = set()
        self.opened: list[str] = []

    async def open(self, url: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.opened.append(url)
        [node] = [node for node in self._cluster.nodes.values() if node.url == url]
        if node.node in self.down:
            raise ConnectionRefusedError("connection refused")
        client, server = trio.testing.memory_stream_pair()
        self._nursery.start_soon(_serve_stream, node, server)
        return client


async def _serve_stream(node: FakeNode, stream: trio.abc.Stream) -> None:
    try:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(
                nursery, stream, message_queue_size=16, max_message_size=4 << 20, receive_buffer_size=262_144
            )
            socket = await request.accept(subprotocol=SUBPROTOCOL)
            try:
                await _converse(node, socket)
            finally:
                node.closings.append(socket.closed.code if socket.closed is not None else 0)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _converse(node: FakeNode, socket: Any) -> None:  # noqa: ANN401 - untyped library
    connection = FakeConnection(node)
    has_output = trio.Event()

    def on_output() -> None:
        has_output.set()

    connection.on_output = on_output

    async def write(cancel: trio.CancelScope) -> None:
        nonlocal has_output
        while True:
            await has_output.wait()
            has_output = trio.Event()
            while (message := connection.protocol.next_message()) is not None:
                await socket.send_message(message)
            if connection.is_dropped or connection.protocol.state is State.CLOSED:
                cancel.cancel()
                return

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, nursery.cancel_scope)
            while True:
                connection.receive(await socket.get_message())
    finally:
        connection.drop()
