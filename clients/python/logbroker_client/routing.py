"""What the client knows of the cluster: addresses of nodes, partitions of queues, and who leads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from logbroker.wire.requests import MetadataReply, QueueInfo, QueueSettings


@final
@dataclass(slots=True)
class PartitionRoute:
    leader: int = 0
    """Node id; 0 when none is known."""
    term: int = 0
    """Of the newest word on the leader that came with one."""


@final
@dataclass(slots=True)
class QueueRoute:
    settings: QueueSettings
    partitions: list[PartitionRoute]


@final
class Routes:
    """The cache. Nodes answer from what they have applied, so older word may come after newer."""

    def __init__(self) -> None:
        self.urls: dict[int, str] = {}
        self.queues: dict[str, QueueRoute] = {}
        self.meta_leader = 0

    def learn(self, reply: MetadataReply, *, asked: list[str] | None) -> None:
        """Take an answer to a question about the queues `asked`; None asked about all."""
        for node in reply.nodes:
            if node.url:
                self.urls[node.node] = node.url
        found = {queue.name for queue in reply.queues}
        for queue in reply.queues:
            self._learn_queue(queue)
        for name in [name for name in (self.queues if asked is None else asked) if name not in found]:
            self.queues.pop(name, None)

    def _learn_queue(self, queue: QueueInfo) -> None:
        known = self.queues.setdefault(queue.name, QueueRoute(queue.settings, []))
        known.settings = queue.settings
        for info in sorted(queue.partitions, key=lambda info: info.partition):
            if info.partition > len(known.partitions):
                # A gap: what lies behind it is of no use before the reply that fills it.
                break
            if info.partition == len(known.partitions):
                known.partitions.append(PartitionRoute())
            route = known.partitions[info.partition]
            if info.term >= route.term and (info.leader or info.term > route.term or not route.leader):
                route.leader, route.term = info.leader, info.term

    def partition(self, queue: str, partition: int) -> PartitionRoute | None:
        known = self.queues.get(queue)
        if known is None or partition >= len(known.partitions):
            return None
        return known.partitions[partition]

    def partition_count(self, queue: str) -> int:
        """0 for a queue that is not known."""
        known = self.queues.get(queue)
        return len(known.partitions) if known is not None else 0

    def redirect(self, queue: str, partition: int, *, not_leader: int, leader: int, url: str) -> None:
        """Take the word of the node `not_leader` that another leads, or 0 that it knows of none."""
        if leader and url:
            self.urls[leader] = url
        route = self.partition(queue, partition)
        # Only the node that is thought to lead can say that it does not: others may be behind.
        if route is not None and route.leader in (0, not_leader):
            route.leader = leader if leader != not_leader else 0
