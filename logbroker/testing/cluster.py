"""Whole nodes in one thread: the real engine and the real storage code on simulated time, disks and links.

The cluster does what the production shell does around an engine (ticks, jobs, frames, requests) and what
the catalogue does around groups (which node holds which replica). It breaks things only when it is told to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final
from zlib import crc32

from logbroker.errors import (
    LogBrokerError,
    NotLeaderError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import GroupId, Index, NodeId
from logbroker.node.peer_messages import decode_peer_message, encode_peer_message
from logbroker.node.requests import ReceiveRequest
from logbroker.testing.checkers import ClusterChecker
from logbroker.testing.clock import SimulatedClock
from logbroker.testing.history import History, Verdict
from logbroker.testing.membership import Membership
from logbroker.testing.network import Network
from logbroker.testing.node import NodeOptions, SimulatedNode
from logbroker.testing.progress import ProgressChecker
from logbroker.testing.scheduler import US_PER_MS
from logbroker.testing.situations import Situations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.requests import Reply, Request
    from logbroker.testing.history import Operation
    from logbroker.testing.network import LinkQuality
    from logbroker.testing.scheduler import Scheduler, Timer

_LENGTH = struct.Struct(">I")
CLUSTER_TAG = b"simulate"
_REFUSED_US = 2 * US_PER_MS


@final
@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The shape of a cluster; `node` is how each of its nodes is set up."""

    node_count: int = 3
    group_count: int = 1
    node: NodeOptions = field(default_factory=NodeOptions)
    clock_offset_ms: int = 0
    """Wall clocks start up to this far from true time."""
    drift_ppm: int = 0
    clock_speed: int = 1
    """Node time that passes in a unit of simulated time; above 1, retention comes within reach of a short run."""


@final
@dataclass(slots=True)
class _Call:
    """One request on its way; `done` is called exactly once."""

    operation: Operation
    done: Callable[[Operation], None]
    timer: Timer | None = None
    is_done: bool = False


@final
class SimulatedCluster:
    """See the module. `start` makes every group with one voter on each node."""

    def __init__(self, scheduler: Scheduler, options: ClusterOptions) -> None:
        self.scheduler = scheduler
        self.options = options
        self.node_ids = [NodeId(number) for number in range(1, options.node_count + 1)]
        self.groups = [GroupId(number) for number in range(1, options.group_count + 1)]
        self.history = History()
        self.checker = ClusterChecker(scheduler, self)
        self.membership = Membership(self)
        self.network = Network(scheduler, self.node_ids, self)
        self.true_clock = SimulatedClock(scheduler, drift_ppm=self.speed_ppm(0))
        self._random = scheduler.random("cluster")
        self._client_random = scheduler.random("client links")
        self._clients_cut: set[NodeId] = set()
        self.progress = ProgressChecker(self)
        self.situations = Situations(self)
        self.nodes: dict[NodeId, SimulatedNode] = {}
        for node in self.node_ids:
            clock = SimulatedClock(
                scheduler,
                offset_ms=self._random.randint(-options.clock_offset_ms, options.clock_offset_ms),
                drift_ppm=self.speed_ppm(self._random.randint(-options.drift_ppm, options.drift_ppm)),
            )
            self.nodes[node] = SimulatedNode(node, self, clock, options.node)

    def start(self) -> None:
        for group in self.groups:
            self.membership.found(group)
        for node in self.nodes.values():
            node.start()
        self.membership.start()
        self.progress.start()

    # What clients use.

    @property
    def client_nodes(self) -> tuple[NodeId, ...]:
        return tuple(self.node_ids)

    def wall_ms(self) -> int:
        return self.true_clock.wall_ms()

    def ask(
        self, client: str, node: NodeId, partition: GroupId, request: Request, *, timeout_us: int = 20_000 * US_PER_MS
    ) -> Operation:
        """Make one attempt and give the operation to look at later."""
        self.call(client, node, partition, request, timeout_us=timeout_us, done=lambda _: None)
        return self.history.operations[-1]

    def call(
        self,
        client: str,
        node: NodeId,
        partition: GroupId,
        request: Request,
        *,
        timeout_us: int,
        done: Callable[[Operation], None],
    ) -> None:
        """Make one attempt; `done` is called exactly once, at the latest after `timeout_us`."""
        committed = self.checker.committed(partition)
        operation = self.history.begin(
            client, node, partition, request, now_us=self.scheduler.now_us, committed=committed
        )
        call = _Call(operation, done)
        call.timer = self.scheduler.after(timeout_us, lambda: self._time_out(call))
        if node in self._clients_cut:
            return
        self.scheduler.after(self._client_delay_us(), lambda: self._arrive(call))

    def reaches(self, node: NodeId) -> bool:
        """Whether clients can reach a node."""
        return node not in self._clients_cut

    def cut_clients(self, node: NodeId) -> None:
        """Nothing passes between clients and this node, either way."""
        self._clients_cut.add(node)

    def allow_clients(self, node: NodeId) -> None:
        self._clients_cut.discard(node)

    def _arrive(self, call: _Call) -> None:
        operation = call.operation
        node = self.nodes[operation.node]
        if not node.is_running:
            error = NotLeaderError(f"node {operation.node} refuses connections")
            self.scheduler.after(_REFUSED_US, lambda: self._finish(call, error, Index(0)))
            return
        node.submit(operation, lambda result, applied: self._reply(call, result, applied))

    def _reply(self, call: _Call, result: Reply | LogBrokerError, applied: Index) -> None:
        """The engine answered, or the process ended: the answer travels back."""
        if call.operation.node not in self._clients_cut:
            self.scheduler.after(self._client_delay_us(), lambda: self._finish(call, result, applied))

    def _time_out(self, call: _Call) -> None:
        self._finish(call, UnknownOutcomeError("the client waited long enough"), Index(0))

    def _finish(self, call: _Call, result: Reply | LogBrokerError, applied: Index) -> None:
        if call.is_done:
            return
        call.is_done = True
        if call.timer is not None:
            call.timer.cancel()
        operation = call.operation
        error = result if isinstance(result, LogBrokerError) else None
        self.history.complete(
            operation,
            now_us=self.scheduler.now_us,
            applied=applied,
            answer=None if isinstance(result, LogBrokerError) else result,
            error=error,
            verdict=_verdict(operation, error),
        )
        self.scheduler.note("answer", operation.number, operation.verdict.value, error.code if error else "")
        self.checker.on_answer(operation)
        call.done(operation)

    def _client_delay_us(self) -> int:
        return 100 + int(self._client_random.expovariate(1) * 300)

    # What nodes use.

    def send(self, sender: NodeId, outbox: dict[NodeId, list[PeerMessage]]) -> None:
        for to, messages in outbox.items():
            for message in messages:
                self.checker.on_sent(self.nodes[sender], message)
            self.network.send(sender, to, _pack(messages))

    def on_frame(self, sender: NodeId, to: NodeId, frame: bytes) -> None:
        self.scheduler.note("frame", sender, to, len(frame), crc32(frame))
        self.nodes[to].deliver(sender, _unpack(frame))

    def on_connected(self, node: NodeId, peer: NodeId) -> None:
        self.scheduler.note("connected", node, peer)
        self.nodes[node].peer_connected(peer)

    def on_disconnected(self, node: NodeId, peer: NodeId) -> None:
        self.scheduler.note("disconnected", node, peer)
        self.nodes[node].peer_disconnected(peer)

    # Faults that concern more than one node.

    def set_links(self, quality: LinkQuality) -> None:
        self.network.set_quality(quality)

    def may_lose_data_on(self, node: SimulatedNode) -> bool:
        """Whether every other node is whole, so that no last good copy is lost with this one's.

        A node that would begin with an older configuration could need members that are gone for good.
        """
        others = [other for other in self.nodes.values() if other is not node]
        if len(others) < 2 or not self.membership.is_settled:
            return False
        return all(
            other.is_whole
            and all(other.has_durable_configuration(group) for group in self.groups)
            and other.has_good_files()
            for other in others
        )

    def wipe(self, node: SimulatedNode, *, restart_after_us: int) -> None:
        """The node loses its disk and comes back as a new incarnation with new replica ids."""
        node.wipe()
        self.membership.replace_replicas_of(node.node)
        self.scheduler.after(restart_after_us, lambda: node.start() if not node.is_running else None)

    def transfer_leadership(self, random: Random) -> bool:
        """Let the leader of some group hand over."""
        leading = [(node, group) for node in self.nodes.values() for group in self.groups if node.leads(group)]
        if not leading:
            return False
        node, group = random.choice(leading)
        self.situations.on_strike("leadership transfer", node)
        return node.hand_over(group)

    def move_replica(self, random: Random) -> bool:
        """Replace the replica of some node by a new one on the same node, as a repair would.

        The old one goes before the new one comes, so this destroys a good copy and a vote like any loss of data.
        """
        if len(self.node_ids) < 3 or not self.membership.is_settled:
            return False
        group, node = random.choice(self.groups), random.choice(self.node_ids)
        if not self.may_lose_data_on(self.nodes[node]):
            return False
        self.situations.on_strike("replica moved", self.nodes[node])
        self.membership.replace_replica(group, node)
        return True

    def heal(self) -> None:
        """End everything that is wrong, as operators and time would; nothing breaks after this."""
        self.progress.stop()
        self.network.heal()
        self._clients_cut.clear()
        for node in self.nodes.values():
            node.heal()
            node.clock.set_like(self.true_clock)

    # Looking.

    def leader_of(self, group: GroupId) -> SimulatedNode | None:
        """The node that serves the group in the highest term."""
        serving = [node for node in self.nodes.values() if node.serves(group)]
        return max(serving, key=lambda node: node.term(group), default=None)

    def speed_ppm(self, drift_ppm: int) -> int:
        """How much faster than simulated time a clock runs that drifts so much from node time."""
        return (self.options.clock_speed - 1) * 1_000_000 + drift_ppm * self.options.clock_speed


def _verdict(operation: Operation, error: LogBrokerError | None) -> Verdict:
    if error is None:
        return Verdict.OK
    if isinstance(error, UnknownOutcomeError):
        return Verdict.UNKNOWN
    if isinstance(operation.request, ReceiveRequest) and isinstance(error, UnavailableError):
        # A receive that loses its leader is told NOT_LEADER, and may have been granted all the same.
        return Verdict.UNKNOWN
    return Verdict.REFUSED


def _pack(messages: Sequence[PeerMessage]) -> bytes:
    """Frames as the peer link sends them: each behind its length."""
    parts: list[bytes] = []
    for message in messages:
        frame = encode_peer_message(message, CLUSTER_TAG)
        parts += (_LENGTH.pack(len(frame)), frame)
    return b"".join(parts)


def _unpack(data: bytes) -> list[PeerMessage]:
    messages = []
    at = 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        messages.append(decode_peer_message(data[at : at + size], CLUSTER_TAG))
        at += size
    return messages
