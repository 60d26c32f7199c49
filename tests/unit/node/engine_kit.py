"""Engines of a few nodes over simulated disks, pumped in one thread; time passes only when a test says so."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from logbroker.errors import LogBrokerError, NotLeaderError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, LeaseId, NodeId, ReplicaId
from logbroker.node.engine import Engine, EngineOptions
from logbroker.node.node_clock import ReadingClock
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.node.peer_messages import decode_peer_message, encode_peer_message
from logbroker.node.replica import MachineKind, Replica, ReplicaOptions
from logbroker.node.requests import (
    AckRequest,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    Reply,
    Request,
    SettleReply,
)
from logbroker.partition import checkpoint
from logbroker.partition.checkpoint import CheckpointMeta
from logbroker.partition.decide import DEFAULT_DECISION_LIMITS, DecisionLimits
from logbroker.partition.log_time import Reading
from logbroker.partition.machine import PartitionMachine
from logbroker.raft.messages import ConfState
from logbroker.record.batch import BatchLimits, Codec, Record, encode_batch
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import open_store
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.requests import Ranges

GROUP = GroupId(1)
TAG = b"12345678"
TICK_NS = 100_000_000
START_WALL_NS = 1_700_000_000_000_000_000
STORE = StoreOptions(
    WalOptions(file_bytes=64 << 10, initial_files=3, max_files=6),
    LogOptions(segment_bytes=64 << 10, first_room_bytes=16 << 10, max_room_step_bytes=64 << 10),
    ballast_bytes=64 << 10,
    max_commit_bytes=16 << 10,
)
ENGINE = EngineOptions(
    ReplicaOptions(
        max_message_bytes=16 << 10, max_inflight_bytes=64 << 10, max_commit_bytes=16 << 10, checkpoint_bytes=8 << 10
    )
)
R = TypeVar("R")


def decode_state(data: bytes) -> PartitionMachine:
    return checkpoint.decode(data)[0]


def encode_state(machine: Any) -> Any:  # noqa: ANN401  # the protocol of MachineKind is wider than this kind
    return checkpoint.encode_slices(machine, CheckpointMeta(ReplicaId(1), b""))


KIND = MachineKind(PartitionMachine.new, encode_state, decode_state)


@dataclass
class Asked:
    """A request and every answer it was given: a second one would be a bug."""

    answers: list[Reply | LogBrokerError] = field(default_factory=list)

    @property
    def answer(self) -> Reply | LogBrokerError | None:
        assert len(self.answers) <= 1, f"answered {len(self.answers)} times: {self.answers}"
        return self.answers[0] if self.answers else None

    def reply(self, kind: type[R]) -> R:
        answer = self.answer
        assert isinstance(answer, kind), f"{answer!r}"
        return answer


class KitNode:
    """One node. `wall_offset_ns` may be changed to move its wall clock."""

    def __init__(self, cluster: KitCluster, number: int, disk: SimulatedDisk) -> None:
        self.number = NodeId(number)
        self.cluster = cluster
        self.wall_offset_ns = 0
        self.disk = disk
        self.store = open_store(
            disk, cluster.store_options, node=self.number, open_index=DictIndex, random_bytes=cluster.random.randbytes
        )
        clock = ReadingClock(self._read, cluster_size=cluster.size, last_append_ms=0)
        self.engine = Engine(
            self.store,
            cluster.engine_options,
            node=self.number,
            clock=clock,
            random_ticks=cluster.random.randrange,
            kinds=lambda _: KIND,
            services=self._service,
        )

    @property
    def replica(self) -> Replica:
        return self.engine.replicas[GROUP]

    @property
    def service(self) -> PartitionService:
        service = self.engine.services[GROUP]
        assert isinstance(service, PartitionService)
        return service

    @property
    def machine(self) -> PartitionMachine:
        machine = self.replica.machine
        assert isinstance(machine, PartitionMachine)
        return machine

    def commit(self) -> bool:
        """Run the next commit to its end."""
        job = self.engine.next_commit()
        if job is None:
            return False
        try:
            job.run()
        except LogBrokerError as error:
            self.engine.commit_failed(job, error)
        else:
            self.engine.commit_done(job)
        return True

    def background(self) -> bool:
        job = self.engine.next_background()
        if job is None:
            return False
        try:
            job.run()
        except LogBrokerError as error:
            self.engine.background_failed(job, error)
        else:
            self.engine.background_done(job)
        return True

    def _service(self, replica: Replica, engine: Engine) -> PartitionService:
        cluster = self.cluster
        return PartitionService(
            replica, engine, cluster.settings, cluster.limits, decision_limits=cluster.decision_limits
        )

    def _read(self) -> Reading:
        now = self.cluster.now_ns
        return Reading(START_WALL_NS + now + self.wall_offset_ns, now)


class KitCluster:
    """Nodes 1..size with replica N of group 1 on node N. `is_passed` decides on each message."""

    def __init__(
        self,
        size: int = 1,
        *,
        store: StoreOptions = STORE,
        engine: EngineOptions = ENGINE,
        settings: PartitionSettings | None = None,
        limits: BatchLimits | None = None,
        decision_limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
        seed: int = 1,
        confs: Mapping[int, ConfState] | None = None,
    ) -> None:
        """`confs` are the members that single nodes know of at first, where they differ from all nodes."""
        self.size = size
        self.store_options = store
        self.engine_options = engine
        self.settings = settings or PartitionSettings()
        self.limits = limits or BatchLimits()
        self.decision_limits = decision_limits
        self.random = random.Random(seed)
        self.now_ns = 1_000_000_000_000
        self.is_passed: Callable[[NodeId, NodeId, PeerMessage], bool] = lambda sender, to, message: True
        self.frozen: set[int] = set()
        """Nodes whose disk does nothing: neither commits nor background jobs run."""
        self.stopped: set[int] = set()
        self.conf = ConfState(tuple(ReplicaId(number) for number in range(1, size + 1)))
        self.nodes: dict[int, KitNode] = {}
        for number in range(1, size + 1):
            self.start(number, SimulatedDisk())
            self.nodes[number].engine.create_replica(GROUP, ReplicaId(number), (confs or {}).get(number, self.conf))
        self.settle()

    def start(self, number: int, disk: SimulatedDisk) -> KitNode:
        node = self.nodes[number] = KitNode(self, number, disk)
        self.stopped.discard(number)
        for other in range(1, self.size + 1):
            node.engine.set_route(ReplicaId(other), NodeId(other))
        return node

    def stop(self, number: int) -> None:
        self.stopped.add(number)

    def restart(self, number: int, disk: SimulatedDisk | None = None) -> KitNode:
        """Kill the node and start it on what it had written, or on `disk`."""
        return self.start(number, disk or self.nodes[number].disk.kill())

    def settle(self, *, max_turns: int = 500) -> None:
        """Turns of every node until nothing is left to do."""
        for _ in range(max_turns):
            if not any([self.turn(node) for number, node in self.nodes.items() if number not in self.stopped]):
                return
        raise AssertionError(f"still busy after {max_turns} turns")

    def turn(self, node: KitNode) -> bool:
        node.engine.pump()
        is_busy = self._send(node)
        if node.number not in self.frozen:
            is_busy |= node.commit()
            is_busy |= node.background()
        node.engine.pump()
        return self._send(node) or is_busy

    def tick(self, count: int = 1, *, settles: bool = True) -> None:
        for _ in range(count):
            self.now_ns += TICK_NS
            for number, node in self.nodes.items():
                if number not in self.stopped:
                    node.engine.tick()
                    node.engine.seal(node.engine.commit_count)
            if settles:
                self.settle()

    def elect(self, *, max_ticks: int = 100) -> KitNode:
        """Let time pass until one node serves."""
        for _ in range(max_ticks):
            leader = self.leader_or_none()
            if leader is not None:
                return leader
            self.tick()
        raise AssertionError("nobody leads")

    def leader_or_none(self) -> KitNode | None:
        serving = [
            node
            for number, node in self.nodes.items()
            if number not in self.stopped and GROUP in node.engine.replicas and node.replica.is_serving
        ]
        return max(serving, key=lambda node: node.replica.core.term, default=None)

    @property
    def leader(self) -> KitNode:
        leader = self.leader_or_none()
        assert leader is not None
        return leader

    def submit(self, request: Request, *, node: KitNode | None = None) -> Asked:
        """Ask, and carry nothing out yet."""
        asked = Asked()
        (node or self.leader).engine.submit(GROUP, request, asked.answers.append)
        return asked

    def ask(self, request: Request, *, node: KitNode | None = None) -> Reply | LogBrokerError:
        """Ask and carry out what it takes, without letting time pass."""
        asked = self.submit(request, node=node)
        self.settle()
        assert asked.answer is not None
        return asked.answer

    def produce(self, *values: bytes, sequence: int = -1, producer: int = -1) -> ProduceReply:
        reply = self.ask(ProduceRequest(batch(*values, producer=producer, sequence=sequence)))
        assert isinstance(reply, ProduceReply), f"{reply!r}"
        return reply

    def receive(self, max_count: int = 100, *, hide_ms: int = 5_000, max_bytes: int = 1 << 20) -> ReceiveReply:
        reply = self.ask(ReceiveRequest(DEFAULT_GROUP, max_count, hide_ms, max_bytes=max_bytes))
        assert isinstance(reply, ReceiveReply), f"{reply!r}"
        return reply

    def ack(self, lease: LeaseId, *ranges: tuple[int, int], group: GroupName = DEFAULT_GROUP) -> SettleReply:
        reply = self.ask(AckRequest(group, ((lease, ranges),)))
        assert isinstance(reply, SettleReply), f"{reply!r}"
        return reply

    def _send(self, node: KitNode) -> bool:
        sent = False
        for to, messages in node.engine.take_peer_messages().items():
            target = self.nodes.get(to)
            for message in messages:
                if target is None or to in self.stopped or not self.is_passed(node.number, to, message):
                    continue
                sent = True
                decoded = decode_peer_message(encode_peer_message(message, TAG), TAG)
                target.engine.deliver(node.number, decoded)
        return sent


def batch(*values: bytes, producer: int = -1, sequence: int = -1, codec: Codec = Codec.NONE) -> bytes:
    return encode_batch(
        [Record(value) for value in values],
        producer_id=producer,
        producer_epoch=-1 if producer < 0 else 0,
        base_sequence=sequence,
        codec=codec,
    )


def is_leader_lost(answer: object) -> bool:
    return isinstance(answer, NotLeaderError)


def ranges_of(reply: ReceiveReply) -> Ranges:
    """What was leased, joined, without the counts."""
    found: list[tuple[int, int]] = []
    for part in reply.parts:
        for start, end, _ in part.ranges:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
    return tuple(found)


def values(count: int, *, size: int = 100, start: int = 0) -> Sequence[bytes]:
    return [b"%06d" % number + bytes(size - 6) for number in range(start, start + count)]
