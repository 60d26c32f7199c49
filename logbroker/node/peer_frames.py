"""The byte form of a peer link: framing, and the two messages that open it. Pure.

A frame is a u32 length, big endian, then so many bytes, of which the first says what the rest is. The dialling side
sends a `Hello` first, the accepting side answers it, and from then on only the dialling side sends.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias, final

import msgspec

from logbroker.errors import RemoteProtocolError
from logbroker.node.catalogue.bounds import MAX_MEMBERS
from logbroker.node.catalogue.rows import Incarnation, Node, Text
from logbroker.node.cluster_messages import ClusterId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import NodeId

PROTOCOL_VERSION = 2
LENGTH_BYTES = 4
MAX_HELLO_BYTES = 64 << 10
_MAGIC = "logbroker-peer"
_SMALL_BYTES = 1 << 10
_HEAD = struct.Struct(">IB")


@final
class FrameKind(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    WELCOME = 2
    RAFT = 3
    """A message of `peer_messages`."""
    CLUSTER = 4
    """A message of `cluster_messages`."""
    ASKED = 5
    """A request for a partition that the receiver leads, and back: see `forwarding`."""
    ANSWERED = 6


@final
class InitialNodeRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    node: Node
    peer_address: Text


@final
class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=_MAGIC):
    """Who dials, and whom it thinks it dials. `cluster_id` is empty on a node that has none yet.

    `peer_address` is where it says it is reached: a node that moved cannot hear the cluster before that is known.

    The nodes of the first boot are sent whole and not only as a hash: a refusal names what differs.
    """

    version: int
    cluster_id: ClusterId
    cluster_name: Text
    node: Node
    incarnation: Incarnation
    to_node: Node
    peer_address: Text
    initial_nodes: Annotated[tuple[InitialNodeRow, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


@final
class Welcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The answer; with a `refusal` the link is closed after it. The rest is the accepting side's own identity."""

    version: int
    refusal: Text
    cluster_id: ClusterId
    node: Node
    incarnation: Incarnation


Opening: TypeAlias = Hello | Welcome

_encoder = msgspec.msgpack.Encoder()
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_welcome_decoder = msgspec.msgpack.Decoder(Welcome)


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """Wrap one message for the link."""
    return frame_head(kind, len(payload)) + payload


def frame_head(kind: FrameKind, payload_bytes: int) -> bytes:
    """What stands before the payload of a frame."""
    return _HEAD.pack(payload_bytes + 1, kind)


def encode_opening(message: Opening) -> bytes:
    kind = FrameKind.HELLO if isinstance(message, Hello) else FrameKind.WELCOME
    return frame(kind, _encoder.encode(message))


def decode_hello(data: bytes | memoryview) -> Hello:
    """Read the first frame of a dialling side.

    Raises:
        RemoteProtocolError: it is not a hello.
    """
    try:
        return _hello_decoder.decode(_payload(data, FrameKind.HELLO))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"hello of {len(data)} bytes is malformed: {error}") from error


def decode_welcome(data: bytes | memoryview) -> Welcome:
    """Read the first frame of an accepting side.

    Raises:
        RemoteProtocolError: it is not the answer to a hello.
    """
    try:
        return _welcome_decoder.decode(_payload(data, FrameKind.WELCOME))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"answer to the hello of {len(data)} bytes is malformed: {error}") from error


def _payload(data: bytes | memoryview, kind: FrameKind) -> memoryview:
    view = memoryview(data)
    if not view or view[0] != kind:
        raise RemoteProtocolError(f"a link begins with frame kind {view[0] if view else None}, not {kind.name}")
    return view[1:]


def objection(mine: Hello, theirs: Hello, *, incarnation: bytes | None = None) -> str:
    """Why a link from `theirs` is refused by the node that would say `mine` of itself; empty where it is not.

    `incarnation` is that of the link from the same node that is alive at this moment, if there is one.
    """
    if theirs.version != mine.version:
        return f"node {theirs.node} speaks version {theirs.version} of the peer protocol, this node {mine.version}"
    if theirs.to_node != mine.node:
        return f"this is node {mine.node}, not node {theirs.to_node}: an address in the configuration is wrong"
    if theirs.node == mine.node:
        return f"node {mine.node} was dialled by a node of the same number: each node needs a number of its own"
    if theirs.cluster_name != mine.cluster_name:
        return f"cluster names differ: {theirs.cluster_name!r} on node {theirs.node}, {mine.cluster_name!r} here"
    if theirs.cluster_id and mine.cluster_id and theirs.cluster_id != mine.cluster_id:
        return (
            f"clusters differ: node {theirs.node} belongs to {theirs.cluster_id.hex()}, "
            f"node {mine.node} to {mine.cluster_id.hex()}"
        )
    if not theirs.cluster_id and not mine.cluster_id:
        difference = initial_difference(theirs.initial_nodes, mine.initial_nodes, node=theirs.node)
        if difference:
            return difference
    if incarnation is not None and incarnation != theirs.incarnation:
        return f"node {theirs.node} is connected already, with another data directory"
    return ""


def initial_difference(theirs: Sequence[InitialNodeRow], mine: Sequence[InitialNodeRow], *, node: NodeId) -> str:
    """Name the first difference between two configurations of the first boot; empty where there is none."""
    there = {row.node: row.peer_address for row in theirs}
    here = {row.node: row.peer_address for row in mine}
    for named in sorted(there.keys() | here.keys()):
        if there.get(named) != here.get(named):
            return (
                f"cluster.initial_nodes differ: node {named} is at {there.get(named, 'no address')} for node {node}, "
                f"at {here.get(named, 'no address')} here"
            )
    return ""


@final
class FrameSplitter:
    """Cuts the bytes of a link into frames; holds at most one unfinished frame."""

    __slots__ = ("_have", "_max_frame_bytes", "_need", "_parts")

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._parts: list[bytes | bytearray | memoryview] = []
        self._have = 0
        # Bytes that must be there before anything can be cut off.
        self._need = LENGTH_BYTES

    def limit(self, max_frame_bytes: int) -> None:
        """Another bound from the next frame on: a link starts with a small one."""
        self._max_frame_bytes = max_frame_bytes

    def _keep(self, data: bytes) -> None:
        """Pieces of a few bytes are put together: each by itself would take ten times as much."""
        parts = self._parts
        if len(data) >= _SMALL_BYTES or not parts:
            parts.append(data)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += data
        else:
            parts.append(bytearray(data))

    def feed(self, data: bytes, *, at_most: int = 1 << 30) -> list[memoryview]:
        """The frames that `data` completes, each with its kind byte first; the rest is kept.

        Raises:
            RemoteProtocolError: a length of 0 or beyond the bound, before anything is allocated for it.
        """
        self._keep(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        # Joined once per complete frame at most, so that a large frame in many pieces is not copied over and over.
        view = memoryview(b"".join(self._parts) if len(self._parts) > 1 else self._parts[0])
        frames: list[memoryview] = []
        at = 0
        end = len(view)
        while end - at >= LENGTH_BYTES and len(frames) < at_most:
            length = int.from_bytes(view[at : at + LENGTH_BYTES], "big")
            if not 0 < length <= self._max_frame_bytes:
                raise RemoteProtocolError(f"a frame of {length} bytes; the most is {self._max_frame_bytes}")
            if end - at - LENGTH_BYTES < length:
                self._need = LENGTH_BYTES + length
                break
            frames.append(view[at + LENGTH_BYTES : at + LENGTH_BYTES + length])
            at += LENGTH_BYTES + length
            self._need = LENGTH_BYTES
        self._parts = [view[at:]] if at < end else []
        self._have = end - at
        return frames
