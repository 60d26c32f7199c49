"""A cluster in memory for the recharge example: the fake broker, which also describes, rewinds and loses nodes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from logbroker.errors import LogBrokerError
from logbroker.wire.requests import (
    AnyRequest,
    CreateQueue,
    DescribeQueue,
    GroupCounts,
    PartitionDescription,
    QueueDescription,
    QueueInfo,
    Rewind,
    Rewound,
    RewoundPartition,
)
from logbroker_client import connect
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNetwork, FakeNode, Handler, Hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from logbroker_client import Client
    from tests.fake_broker import FakePartition, FakeQueue

Decision = Answer | LogBrokerError | Hold | Drop | None

# What the fake broker says of everything's log time.
APPEND_MS = 1000


class RechargeCluster:
    """Three nodes; partitions go round them. `before` may answer a request in the broker's place."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.cluster = FakeCluster(3)
        self.network = FakeNetwork(self.cluster, nursery)
        self.before: Handler | None = None
        self.killed: list[int] = []
        self.restarted: list[int] = []
        for node in self.cluster.nodes.values():
            node.on_request = self._on_request

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncIterator[Client]:
        urls = [node.url for node in self.cluster.nodes.values()]
        async with connect(urls, name=name, open_stream=self.network.open) as client:
            yield client

    # As `NodeControl`.

    async def kill(self, node: int) -> None:
        await trio.lowlevel.checkpoint()
        self.killed.append(node)
        self.network.down.add(node)
        successor = node % 3 + 1
        for name, queue in self.cluster.queues.items():
            for number, partition in enumerate(queue.partitions):
                if partition.leader == node:
                    self.cluster.move(successor, name, number)
        if self.cluster.meta_leader == node:
            self.cluster.meta_leader = successor
        for connection in list(self.cluster.nodes[node].connections):
            # The task that serves it drops it; until then something may still arrive.
            connection.is_dropped = True
            connection.on_output()

    async def restart(self, node: int) -> None:
        await trio.lowlevel.checkpoint()
        self.restarted.append(node)
        self.network.down.discard(node)

    # What the fake broker does not do.

    def _on_request(self, node: FakeNode, request: AnyRequest, body: bytes) -> Decision:
        decided = self.before(node, request, body) if self.before is not None else None
        if decided is not None:
            return decided
        match request:
            case CreateQueue():
                is_new = request.name not in self.cluster.queues
                answer = node.answer(request, body)
                if is_new and request.name in self.cluster.queues:
                    for number, partition in enumerate(self._queue(request.name).partitions):
                        partition.leader = number % 3 + 1
                return answer
            case DescribeQueue():
                return _describe(request.name, self._queue(request.name)), b""
            case Rewind():
                return _rewind(request, self._queue(request.queue)), b""
        return None

    def _queue(self, name: str) -> FakeQueue:
        return self.cluster.queues[name]


def _describe(name: str, queue: FakeQueue) -> QueueDescription:
    partitions = []
    for number, partition in enumerate(queue.partitions):
        unsettled = [offset for offset in range(partition.next_offset) if offset not in partition.acked]
        counts = GroupCounts(
            name="default",
            available=len(unsettled),
            leased=0,
            delayed=0,
            acked_ahead=0,
            dead=0,
            oldest_offset=unsettled[0] if unsettled else partition.next_offset,
            oldest_ms=APPEND_MS if unsettled else 0,
        )
        partitions.append(
            PartitionDescription(
                partition=number,
                log_start=0,
                log_end=partition.next_offset,
                leader=partition.leader,
                term=partition.term,
                groups=[counts],
                append_ms=APPEND_MS if partition.next_offset else 0,
            )
        )
    info = QueueInfo(name=name, queue_id=1, settings=queue.settings, partitions=[])
    return QueueDescription(0, info=info, partitions=partitions)


def _rewind(request: Rewind, queue: FakeQueue) -> Rewound:
    """Back to the beginning, where all of the fake broker's times point to."""
    rows = [
        RewoundPartition(
            partition=number,
            requested=str(request.target),
            start_offset=0,
            start_ms=APPEND_MS,
            moved_count=_free(partition),
        )
        for number, partition in enumerate(queue.partitions)
    ]
    return Rewound(0, rewind_id=request.rewind_id, pending=False, partitions=rows)


def _free(partition: FakePartition) -> int:
    moved = len(partition.acked)
    partition.acked.clear()
    partition.leases.clear()
    partition.deliveries.clear()
    return moved
