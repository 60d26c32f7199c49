"""A cluster without random faults or clients, for scenarios that say themselves what happens when."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar, final

from logbroker.ids import DEFAULT_GROUP, GroupId, LeaseId, NodeId
from logbroker.node.requests import (
    AckRequest,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    Reply,
    Request,
)
from logbroker.record.batch import encode_values
from logbroker.testing.checkers import compare_states, machine_of
from logbroker.testing.cluster import ClusterOptions, SimulatedCluster
from logbroker.testing.history import Verdict
from logbroker.testing.scheduler import US_PER_MS, Scheduler
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from logbroker.testing.history import Operation
    from logbroker.testing.model import PartitionModel
    from logbroker.testing.node import NodeOptions, SimulatedNode

GROUP = GroupId(1)
PRODUCER = 77
_STEP_US = 5 * US_PER_MS

T = TypeVar("T", bound=Reply)


@final
class ClusterScript:
    """Steps of a scenario on one group; every checker of the simulator looks on."""

    def __init__(
        self, *, nodes: int = 3, seed: int = 1, clock_speed: int = 1, options: NodeOptions | None = None
    ) -> None:
        shape = ClusterOptions(node_count=nodes, clock_speed=clock_speed)
        if options is not None:
            shape = ClusterOptions(node_count=nodes, clock_speed=clock_speed, node=options)
        self.scheduler = Scheduler(seed)
        self.cluster = SimulatedCluster(self.scheduler, shape)
        self.sent: list[bytes] = []
        self._session = 1
        self._request = 0
        self._sequence = 0
        self.cluster.start()
        self.leader()

    @property
    def model(self) -> PartitionModel:
        return self.cluster.checker.history(GROUP).model

    # Time.

    def run(self, ms: int) -> None:
        self.scheduler.run_for(ms * US_PER_MS)

    def until(self, what: str, true: Callable[[], bool], *, within_ms: int = 20_000, step_us: int = _STEP_US) -> None:
        """Run until something is so, looking every `step_us`; Violation if it never is."""
        deadline_us = self.scheduler.now_us + within_ms * US_PER_MS
        while not true():
            if self.scheduler.now_us >= deadline_us:
                broken("scenario", f"not within {within_ms} ms: {what}")
            self.scheduler.run_for(step_us)

    # Nodes.

    def node(self, number: int) -> SimulatedNode:
        return self.cluster.nodes[NodeId(number)]

    def leader(self, *, but: SimulatedNode | None = None, within_ms: int = 20_000) -> SimulatedNode:
        """The serving leader of the highest term; waits for one, other than `but`."""

        def found() -> bool:
            leader = self.cluster.leader_of(GROUP)
            return leader is not None and leader is not but

        self.until("a leader serves", found, within_ms=within_ms)
        leader = self.cluster.leader_of(GROUP)
        return leader if leader is not None else broken("scenario", "the leader is gone")

    def followers(self) -> list[SimulatedNode]:
        leader = self.leader()
        return [node for node in self.cluster.nodes.values() if node is not leader]

    def links(self, node: SimulatedNode) -> Iterable[tuple[NodeId, NodeId]]:
        """Both directions between a node and each other one."""
        for other in self.cluster.node_ids:
            if other != node.node:
                yield node.node, other
                yield other, node.node

    # Clients.

    def ask(self, node: SimulatedNode, request: Request, *, timeout_ms: int = 20_000) -> Operation:
        """Send a request and do not wait; look at the operation later."""
        return self.cluster.ask("script", node.node, GROUP, request, timeout_us=timeout_ms * US_PER_MS)

    def answer(self, operation: Operation, kind: type[T]) -> T:
        """Wait for the answer, which must be a success of this kind."""
        self.until("the request is answered", partial(_is_over, operation), within_ms=30_000)
        if not isinstance(operation.answer, kind):
            broken("scenario", f"another answer was expected: {operation.describe()}")
        return operation.answer

    def batch(self, count: int = 1, *, size: int = 20) -> ProduceRequest:
        """The next batch of the script's one producer."""
        values = [b"%d " % (self._sequence + number) + b"x" * size for number in range(count)]
        self.sent += values
        data = encode_values(
            values,
            timestamp_ms=self.cluster.wall_ms(),
            producer_id=PRODUCER,
            producer_epoch=0,
            base_sequence=self._sequence,
        )
        self._sequence += count
        return ProduceRequest(data)

    def produce(self, count: int = 1, *, batches: int = 1, size: int = 20) -> None:
        """Produce at the leader and wait for the confirmation of each batch."""
        for _ in range(batches):
            request = self.batch(count, size=size)
            self.produce_again(request)

    def produce_again(self, request: ProduceRequest) -> ProduceReply:
        """Send one batch until it is confirmed, wherever the leader is."""
        for _ in range(50):
            operation = self.ask(self.leader(), request, timeout_ms=3_000)
            self.until("the batch is answered", partial(_is_over, operation))
            if isinstance(operation.answer, ProduceReply):
                return operation.answer
            self.run(100)
        broken("scenario", "a batch was never confirmed")

    def receive(self, node: SimulatedNode, *, max_count: int = 10, hide_ms: int = 5_000, wait_ms: int = 0) -> Operation:
        self._request += 1
        request = ReceiveRequest(
            DEFAULT_GROUP,
            max_count,
            hide_ms,
            wait_ms=wait_ms,
            consumer="script",
            session=self._session,
            request_id=self._request,
        )
        return self.ask(node, request, timeout_ms=wait_ms + 5_000)

    def ack(self, node: SimulatedNode, lease: LeaseId, ranges: Sequence[tuple[int, int]]) -> Operation:
        return self.ask(node, AckRequest(DEFAULT_GROUP, ((lease, tuple(ranges)),)))

    # The end.

    def finish(self) -> None:
        """Heal, let all nodes catch up, drain the queue, and compare every replica with the model."""
        self.cluster.heal()
        self.leader()
        self.until("every node catches up", self._all_caught_up, within_ms=40_000)
        received = 0
        for _ in range(200):
            reply = self.answer(self.receive(self.leader(), max_count=500, wait_ms=200), ReceiveReply)
            ranges = [(start, end) for part in reply.parts for start, end, _ in part.ranges]
            if not ranges and not self._unsettled():
                break
            if ranges:
                received += len(ranges)
                self.ack(self.leader(), reply.lease, ranges)
            self.run(300)
        if self._unsettled():
            broken("every message is delivered and acked", f"left are {self._unsettled()[:10]}")
        self.until("every node catches up", self._all_caught_up)
        for node in self.cluster.nodes.values():
            replica = node.replica(GROUP)
            if replica is not None:
                compare_states(self.model, machine_of(replica), f"node {node.node}")

    def _unsettled(self) -> list[int]:
        group = self.model.groups[DEFAULT_GROUP]
        return group.unsettled(self.model.log_start_offset, self.model.next_offset)

    def _all_caught_up(self) -> bool:
        last = self.model.last_index
        replicas = [node.replica(GROUP) for node in self.cluster.nodes.values()]
        return self.cluster.membership.is_settled and all(
            replica is not None and replica.machine.applied_index == last for replica in replicas
        )


def _is_over(operation: Operation) -> bool:
    return operation.verdict is not Verdict.PENDING
