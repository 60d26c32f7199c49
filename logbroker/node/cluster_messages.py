"""What nodes say to each other about the cluster itself: founding it, joining it, and reporting to the meta leader.

These travel beside the peer messages of `peer_messages`, which carry Raft: they exist before there is a cluster id.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias, final

import msgspec

from logbroker.errors import RemoteProtocolError
from logbroker.node.catalogue.bounds import MAX_MEMBERS, MAX_NODES
from logbroker.node.catalogue.commands import Bootstrap
from logbroker.node.catalogue.rows import GroupRow, Incarnation, Node, NodeRow, Replica, Text

MAX_LOST = 1_024
MAX_COMMAND_BYTES = 256 << 10


@final
class Phase(IntEnum):
    """How far a node's data directory is on its way into a cluster. The numbers are part of disk and wire formats."""

    ALONE = 0
    """Never been in a cluster."""
    PROMISED = 1
    """Gave, or as the asker made, the promise to belong to one cluster id; bound to nothing yet."""
    RECORDED = 2
    """Holds the bootstrap record; whether all hold it is not known."""
    FOUNDED = 3
    """All who are named in the record hold it: the meta group exists from here on."""
    JOINED = 4
    """Came later, to a cluster that was there."""

    @property
    def is_member(self) -> bool:
        return self >= Phase.FOUNDED


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


ClusterId: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=16)]
"""16 bytes, or none."""


@final
class Standing(_Message, frozen=True, tag=1):
    """Where the sender stands."""

    phase: Phase
    cluster_id: ClusterId


@final
class Ask(_Message, frozen=True, tag=2):
    """Promise to belong to this cluster and no other. `without`: left out on an operator's word."""

    cluster_id: Incarnation
    without: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


@final
class Promise(_Message, frozen=True, tag=3):
    """Given after it was synced; `row` is what the record is to say of the sender."""

    cluster_id: Incarnation
    row: NodeRow


@final
class Refusal(_Message, frozen=True, tag=4):
    """No promise, no record, no joining: `why` is for the operator of the node that asked."""

    cluster_id: ClusterId
    why: Text


@final
class Record(_Message, frozen=True, tag=5):
    record: Bootstrap


@final
class Recorded(_Message, frozen=True, tag=6):
    """The sender has synced the record of this cluster."""

    cluster_id: Incarnation


@final
class Join(_Message, frozen=True, tag=7):
    """Take me in, or tell me again which replica of the meta group is mine. `lost` replicas are to be replaced."""

    row: NodeRow
    lost: Annotated[tuple[Replica, ...], msgspec.Meta(max_length=MAX_LOST)] = ()


@final
class Joined(_Message, frozen=True, tag=8):
    """The meta leader's committed word: the cluster, its nodes, and the meta group's replicas."""

    cluster_id: Incarnation
    name: Text
    meta: GroupRow
    nodes: Annotated[tuple[NodeRow, ...], msgspec.Meta(max_length=MAX_NODES)]


@final
class Report(_Message, frozen=True, tag=9):
    """Commands for the meta leader, encoded as an entry of the catalogue; each may be repeated any number of times."""

    commands: Annotated[bytes, msgspec.Meta(max_length=MAX_COMMAND_BYTES)]


ClusterMessage: TypeAlias = Standing | Ask | Promise | Refusal | Record | Recorded | Join | Joined | Report

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ClusterMessage)


def encode_cluster_message(message: ClusterMessage) -> bytes:
    return _encoder.encode(message)


def decode_cluster_message(data: bytes | memoryview) -> ClusterMessage:
    """Read one message.

    Raises:
        RemoteProtocolError: bytes that no node of this version sends.
    """
    try:
        message: ClusterMessage = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"cluster message of {len(data)} bytes is malformed: {error}") from error
    return message
