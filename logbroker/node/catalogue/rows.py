"""What the catalogue holds: immutable rows, which are also the form of its checkpoint.

As with commands, fields are never added, removed or given another meaning: a change of form is a new format version.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias, final

import msgspec

from logbroker.ids import NO_REPLICA, GroupId, GroupName, NodeId, QueueName, ReplicaId
from logbroker.node.catalogue.rights import Grant
from logbroker.wire.requests import Target

MAX_NUMBER = (1 << 63) - 1
MAX_TEXT_BYTES = 1_024

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_BYTES)]
Incarnation: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Node: TypeAlias = Annotated[NodeId, msgspec.Meta(ge=1, le=65_535)]
Replica: TypeAlias = Annotated[ReplicaId, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Group: TypeAlias = Annotated[GroupId, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Queue: TypeAlias = Annotated[QueueName, msgspec.Meta(max_length=MAX_TEXT_BYTES)]
ConsumerGroup: TypeAlias = Annotated[GroupName, msgspec.Meta(max_length=MAX_TEXT_BYTES)]


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A value of the catalogue."""


@final
class NodeRow(Row, frozen=True):
    """A process that has joined, with the life of its data directory and where it is reached."""

    node: Node
    incarnation: Incarnation
    peer_address: Text
    client_url: Text


@final
class ReplicaState(IntEnum):
    """What is known and wanted of a replica. The numbers are part of the disk format."""

    VOTER = 1
    LEARNER = 2
    """It is filled, and becomes a voter."""
    LEAVING = 3
    """It goes from the group's configuration, and then from here."""


@final
class ReplicaRow(Row, frozen=True):
    """`replaces` is the leaving replica that waits until this one is a voter; 0 for none."""

    replica: Replica
    node: Node
    incarnation: Incarnation
    """Only this life of the node may create the replica: an emptied disk must never vote under an old id."""
    state: ReplicaState
    replaces: Replica = NO_REPLICA


@final
class GroupRow(Row, frozen=True):
    """A Raft group: the meta group, or one partition of a queue.

    `initial` are the voters of the empty log, and never change: every replica starts from them and reads later
    changes from the log. The first of `replicas` is the one that leads if nothing speaks against it. At most one
    replica of a node stays, the others leave.
    """

    group: Group
    queue_id: Number
    """0 in the meta group."""
    partition: Number
    initial: tuple[Replica, ...]
    replicas: tuple[ReplicaRow, ...]

    def replica(self, replica: ReplicaId) -> ReplicaRow | None:
        return next((row for row in self.replicas if row.replica == replica), None)

    def staying(self) -> tuple[ReplicaRow, ...]:
        return tuple(row for row in self.replicas if row.state is not ReplicaState.LEAVING)

    def is_settled(self) -> bool:
        """True where nothing is to come, to be promoted or to go."""
        return all(row.state is ReplicaState.VOTER for row in self.replicas)

    def is_awaited(self, replica: ReplicaId) -> bool:
        """True while a learner is to take the replica's place: until then it keeps its vote."""
        return any(row.state is ReplicaState.LEARNER and row.replaces == replica for row in self.replicas)


@final
class QueueSettings(Row, frozen=True):
    partitions: Number = 1
    retention_ms: Number = 345_600_000
    hide_ms: Number = 30_000
    max_wait_ms: Number = 30_000
    max_delivery_count: Number = 0
    """So often a message is delivered; when it fails the last time it is dead. 0 means no limit."""


@final
class QueueRow(Row, frozen=True):
    queue_id: Number
    name: Queue
    settings: QueueSettings
    created_ms: Number
    changed_ms: Number
    routing_epoch: Number
    """One more each time the number of partitions changes."""
    groups: tuple[Group, ...]
    """The Raft group of each partition, in order."""


@final
class TokenRow(Row, frozen=True):
    name: Text
    digest: Digest
    """SHA-256 of the token, which has 256 random bits: nothing stronger is needed, and nothing else is kept."""
    grants: tuple[Grant, ...]
    created_ms: Number


@final
class RewoundRow(Row, frozen=True):
    """What a rewind came to in one partition."""

    partition: Number
    start_offset: Number
    start_ms: Number
    moved_count: Number
    clamped: Text


@final
class RewindRow(Row, frozen=True):
    """A rewind of one consumer group over all partitions that its queue had when it was decided.

    `rewind_id` is its place in the order of all rewinds; `operation_id` is whoever asked's own name for it, 0 for none.
    `done` is in the order of partitions.
    """

    rewind_id: Number
    operation_id: Number
    queue_id: Number
    queue: Queue
    consumer_group: ConsumerGroup
    target: Target
    forward: bool
    clamp: bool
    actor: Text
    reason: Text
    decided_ms: Number
    partition_count: Number
    done: tuple[RewoundRow, ...] = ()

    @property
    def is_pending(self) -> bool:
        return len(self.done) < self.partition_count

    def is_done_in(self, partition: int) -> bool:
        return any(row.partition == partition for row in self.done)
