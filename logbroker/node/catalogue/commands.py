"""The commands of the meta group, the members of its STATE entries, and their codec.

The form is that of partition changes: a msgpack array of arrays that begin with a tag. Tags are never used again, and a
field is never added: an old node must not skip what it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.node.catalogue.bounds import MAX_COMMANDS_PER_ENTRY, MAX_MEMBERS
from logbroker.node.catalogue.options import Pairs, pairs_fault
from logbroker.node.catalogue.rights import Grant
from logbroker.node.catalogue.rows import (
    ConsumerGroup,
    Digest,
    Group,
    Incarnation,
    Node,
    NodeRow,
    Number,
    Queue,
    QueueSettings,
    Replica,
    Text,
)
from logbroker.partition.commands import decode_with
from logbroker.wire.requests import Target

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Command(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


@final
class Bootstrap(_Command, frozen=True, tag=1):
    """The first command: who the cluster is. `nodes` take part; `without` were left out on an operator's word.

    The meta group's first voters follow from it (`meta_replicas`), because it is known before there is a log.
    """

    cluster_id: Incarnation
    name: Text
    nodes: Annotated[tuple[NodeRow, ...], msgspec.Meta(min_length=1, max_length=MAX_MEMBERS)]
    without: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()


@final
class JoinNode(_Command, frozen=True, tag=2):
    """A node has come, perhaps with another data directory than before, or under another address."""

    row: NodeRow


@final
class SetMembers(_Command, frozen=True, tag=3):
    """The nodes that hold every partition from here on; replicas move accordingly."""

    nodes: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


@final
class ForgetNode(_Command, frozen=True, tag=4):
    """A node that holds nothing any more."""

    node: Node


@final
class StartMove(_Command, frozen=True, tag=5):
    """Put a new replica on `node` in place of `old`, which may be on the same node and lost; 0: in addition."""

    group: Group
    old: Replica
    node: Node


@final
class StopMove(_Command, frozen=True, tag=6):
    """Give up a move whose new replica is still a learner."""

    group: Group
    new: Replica


@final
class PromoteReplica(_Command, frozen=True, tag=7):
    """The group's configuration has made the replica a voter."""

    group: Group
    replica: Replica


@final
class RemoveReplica(_Command, frozen=True, tag=8):
    """The group's configuration does not hold the replica any more."""

    group: Group
    replica: Replica


@final
class CreateQueue(_Command, frozen=True, tag=16):
    name: Queue
    settings: QueueSettings


@final
class AlterQueue(_Command, frozen=True, tag=17):
    """None leaves a setting as it is. Partitions may only grow."""

    name: Queue
    partitions: Number | None = None
    retention_ms: Number | None = None
    hide_ms: Number | None = None
    max_wait_ms: Number | None = None
    max_delivery_count: Number | None = None


@final
class DeleteQueue(_Command, frozen=True, tag=18):
    name: Queue


@final
class CreateQueueWith(_Command, frozen=True, tag=19):
    """As `CreateQueue`, with options that are not the default."""

    queue: CreateQueue
    options: Pairs


@final
class AlterQueueWith(_Command, frozen=True, tag=20):
    """As `AlterQueue`, and the options named get these values."""

    queue: AlterQueue
    options: Pairs


@final
class CreateToken(_Command, frozen=True, tag=24):
    name: Text
    digest: Digest
    grants: tuple[Grant, ...]


@final
class DeleteToken(_Command, frozen=True, tag=25):
    name: Text


@final
class BeginRewind(_Command, frozen=True, tag=32):
    """From this commit on the rewind happens: partitions clamp and report, they never refuse."""

    operation_id: Number
    queue: Queue
    consumer_group: ConsumerGroup
    target: Target
    forward: bool
    clamp: bool
    actor: Text
    reason: Text


@final
class FinishRewind(_Command, frozen=True, tag=33):
    """One partition has done it."""

    rewind_id: Number
    partition: Number
    start_offset: Number
    start_ms: Number
    moved_count: Number
    clamped: Text


Command: TypeAlias = (
    Bootstrap
    | JoinNode
    | SetMembers
    | ForgetNode
    | StartMove
    | StopMove
    | PromoteReplica
    | RemoveReplica
    | CreateQueue
    | AlterQueue
    | DeleteQueue
    | CreateQueueWith
    | AlterQueueWith
    | CreateToken
    | DeleteToken
    | BeginRewind
    | FinishRewind
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Command, ...])


def encode_commands(commands: Sequence[Command]) -> bytes:
    """Encode the payload of a STATE entry of the meta group."""
    return _encoder.encode(commands)


def decode_commands(payload: bytes) -> tuple[Command, ...]:
    """Decode the payload of a STATE entry of the meta group.

    Raises:
        CorruptBatchError: it is not the encoding of at most 1,024 commands with options that are known here.
    """
    commands = decode_with(_decoder, payload, "commands of the meta group")
    if len(commands) > MAX_COMMANDS_PER_ENTRY:
        raise CorruptBatchError(f"{len(commands)} commands in one entry; the most is {MAX_COMMANDS_PER_ENTRY}")
    for command in commands:
        fault = pairs_fault(command.options) if isinstance(command, (CreateQueueWith, AlterQueueWith)) else None
        if fault is not None:
            raise CorruptBatchError(fault)
    return commands
