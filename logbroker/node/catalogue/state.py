"""The state that the catalogue's commands work on: rows by id, and the counters that name new ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, final

from logbroker.ids import GroupId, NodeId, QueueName, ReplicaId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logbroker.node.catalogue.options import QueueOptions
    from logbroker.node.catalogue.rows import GroupRow, NodeRow, QueueRow, RewindRow, TokenRow

_Key = TypeVar("_Key", int, str, GroupId, NodeId, QueueName)
_Row = TypeVar("_Row")


@final
@dataclass(slots=True)
class CatalogueState:
    """Rows are immutable, the tables are not. Each `next_` counter only grows, so that no id is used twice.

    `members` are the nodes that hold every partition, joined or still missing. `retired` are lives of nodes that were
    replaced by another: they never come back. Anything that allocates ids goes through tables in the order of their
    keys, because a table read back from a checkpoint may be in another order than one that grew.
    """

    cluster_id: bytes = b""
    name: str = ""
    members: tuple[NodeId, ...] = ()
    without: tuple[NodeId, ...] = ()
    next_group: int = 1
    next_queue: int = 1
    next_replica: int = 1
    next_rewind: int = 1
    nodes: dict[NodeId, NodeRow] = field(default_factory=dict)
    groups: dict[GroupId, GroupRow] = field(default_factory=dict)
    queues: dict[QueueName, QueueRow] = field(default_factory=dict)
    # By queue id, of those alone that have some that are not the default.
    options: dict[int, QueueOptions] = field(default_factory=dict)
    tokens: dict[str, TokenRow] = field(default_factory=dict)
    rewinds: dict[int, RewindRow] = field(default_factory=dict)
    retired: tuple[tuple[NodeId, bytes], ...] = ()

    @property
    def is_bootstrapped(self) -> bool:
        return bool(self.cluster_id)

    @property
    def partition_count(self) -> int:
        # Every group but the meta group is a partition.
        return max(len(self.groups) - 1, 0)

    def clone(self) -> CatalogueState:
        return CatalogueState(
            cluster_id=self.cluster_id,
            name=self.name,
            members=self.members,
            without=self.without,
            next_group=self.next_group,
            next_queue=self.next_queue,
            next_replica=self.next_replica,
            next_rewind=self.next_rewind,
            nodes=dict(self.nodes),
            groups=dict(self.groups),
            queues=dict(self.queues),
            options=dict(self.options),
            tokens=dict(self.tokens),
            rewinds=dict(self.rewinds),
            retired=self.retired,
        )

    def take_replica_id(self) -> ReplicaId:
        self.next_replica += 1
        return ReplicaId(self.next_replica - 1)

    def take_group_id(self) -> GroupId:
        self.next_group += 1
        return GroupId(self.next_group - 1)

    def groups_in_order(self) -> list[GroupRow]:
        return in_order(self.groups)

    def joined_members(self) -> list[NodeRow]:
        return [self.nodes[node] for node in self.members if node in self.nodes]


def in_order(table: Mapping[_Key, _Row]) -> list[_Row]:
    return [table[key] for key in sorted(table)]
