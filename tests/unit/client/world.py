"""A client core and fake brokers joined by nothing but calls, under a clock that only the test moves."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from logbroker.errors import LogBrokerError, UnavailableError
from logbroker_client.consuming import ConsumerCore
from logbroker_client.core import ClientCore
from logbroker_client.links import LinkState
from logbroker_client.options import ClientOptions, ConsumerOptions, ProducerOptions, SubscriptionOptions
from logbroker_client.pending import Environment
from logbroker_client.producing import OutgoingBatch, ProducerCore
from logbroker_client.streaming import StreamCore
from tests.fake_broker import FakeCluster, FakeConnection, FakeNode

if TYPE_CHECKING:
    from logbroker_client.links import Link

_MAX_ROUNDS = 1000


class World:
    """`settle` lets everything happen that can happen without time; `advance` lets time pass."""

    def __init__(self, cluster: FakeCluster, *, seeds: int = 1, options: ClientOptions | None = None) -> None:
        self.cluster = cluster
        self.now = 100.0
        self.down: set[int] = set()
        self.dialled: list[str] = []
        self.woken: list[object] = []
        self.chance = 0.0
        self._ids = count(1000)
        self._connections: dict[Link, FakeConnection] = {}
        self._aborted: set[Link] = set()
        environment = Environment(
            clock=lambda: self.now,
            wall_ms=lambda: int(self.now * 1000),
            chance=lambda: self.chance,
            new_id=lambda: next(self._ids),
            wake=self._wake,
            on_work=lambda: None,
        )
        urls = [cluster.nodes[node].url for node in range(1, seeds + 1)]
        self.core = ClientCore(urls, env=environment, options=options or ClientOptions())

    def _wake(self, waiters: dict[object, None]) -> None:
        self.woken += waiters
        waiters.clear()

    def node(self, number: int) -> FakeNode:
        return self.cluster.nodes[number]

    def connection(self, node: int) -> FakeConnection:
        """The client's open connection to a node."""
        [found] = [c for link, c in self._connections.items() if c.node.node == node and not c.is_dropped]
        return found

    def open_nodes(self) -> list[int]:
        return sorted(c.node.node for link, c in self._connections.items() if link.state is LinkState.OPEN)

    def settle(self) -> None:
        for _ in range(_MAX_ROUNDS):
            if not self._round():
                return
        raise AssertionError("the client and the cluster never come to rest")

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        self.settle()
        while self.core.timers.next_at <= end:
            self.now = max(self.now, self.core.timers.next_at)
            self.core.run_timers()
            self.settle()
        self.now = end

    def stop(self, node: int) -> None:
        """A node is gone; its connections break."""
        self.down.add(node)
        for connection in list(self.node(node).connections):
            connection.drop()

    def _round(self) -> bool:
        is_busy = False
        for link in self.core.take_dials():
            is_busy = True
            self._dial(link)
        self.core.pump()
        for link, connection in list(self._connections.items()):
            is_busy |= self._exchange(link, connection)
        return is_busy

    def _dial(self, link: Link) -> None:
        self.dialled.append(link.url)
        [node] = [node for node in self.cluster.nodes.values() if node.url == link.url]
        if node.node in self.down:
            self.core.link_lost(link, UnavailableError("connection refused"))
            return
        link.abort = lambda: self._aborted.add(link)
        self._connections[link] = FakeConnection(node)
        self.core.link_connected(link)

    def _exchange(self, link: Link, connection: FakeConnection) -> bool:
        is_busy = False
        protocol = link.protocol
        if link in self._aborted:
            self._aborted.discard(link)
            connection.drop()
        while protocol is not None and not connection.is_dropped:
            message = protocol.next_message()
            if message is None:
                break
            is_busy = True
            connection.receive(message)
        while (reply := connection.protocol.next_message()) is not None:
            is_busy = True
            try:
                self.core.received(link, reply)
            except LogBrokerError as error:
                self._lose(link, error)
                return True
        if connection.is_dropped:
            self._lose(link, UnavailableError("the connection ended"))
            return True
        return is_busy

    def _lose(self, link: Link, error: LogBrokerError) -> None:
        connection = self._connections.pop(link)
        if not connection.is_dropped:
            connection.drop()
        if connection in connection.node.connections:
            connection.node.connections.remove(connection)
        self.core.link_lost(link, error)

    # --- shorthands ---

    def learn(self, *queues: str) -> None:
        call = self.core.ask_metadata(list(queues), timeout_s=5)
        self.settle()
        if call.error is not None:
            raise call.error

    def producer(self, queue: str = "orders", **options: object) -> ProducerCore:
        self.learn(queue)
        return ProducerCore(self.core, queue, ProducerOptions(**options))  # type: ignore[arg-type]  # as written

    def consumer(self, queue: str = "orders", **options: object) -> ConsumerCore:
        self.learn(queue)
        consumer = ConsumerCore(self.core, queue, ConsumerOptions(**options))  # type: ignore[arg-type]  # as written
        consumer.start()
        self.settle()
        return consumer

    def subscribe(self, queue: str = "orders", **options: object) -> StreamCore:
        self.learn(queue)
        consumer = StreamCore(self.core, queue, SubscriptionOptions(**options))  # type: ignore[arg-type]  # as written
        consumer.start()
        self.settle()
        return consumer


def send(producer: ProducerCore, value: bytes, key: bytes | None = None) -> tuple[OutgoingBatch, int]:
    """Append one message; give its batch and its position there."""
    size_bytes = producer.size_of(value, key, ())
    if not producer.reserve(size_bytes):
        raise AssertionError("no room")
    batch = producer.append(value, key, (), size_bytes)
    return batch, batch.count - 1
