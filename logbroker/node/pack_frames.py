"""Frames of packed heartbeats that are the last ones again: they are neither written, sent nor read anew.

Nearly all are, on an idle node (see `heartbeats`). A pack that is sent again is known by being the very same value, and
a short frame with its digest goes in its place. Whoever has no pack of this digest, because it began later or a frame
was lost, takes such a frame for nothing; within a second a whole one follows, for then `heartbeats` makes it anew.

    frame of a repeated pack: cluster tag (8 bytes), 12, the type of the pack (8 or 9), BLAKE2b-128 of its whole frame
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import RemoteProtocolError
from logbroker.node.peer_messages import (
    CLUSTER_TAG_BYTES,
    HeartbeatAnswers,
    Heartbeats,
    decode_peer_message,
    encode_peer_message,
    pack_type,
)

if TYPE_CHECKING:
    from logbroker.ids import NodeId
    from logbroker.node.peer_messages import PeerMessage

REPEATED = 12
_HEAD_BYTES = CLUSTER_TAG_BYTES + 2
_DIGEST_BYTES = 16
NOTHING = Heartbeats(())


@final
class _Sent(NamedTuple):
    message: PeerMessage
    cluster_tag: bytes
    repeated: bytes


@final
class PackFrames:
    """Writes and reads the frames of all messages; remembers the last pack of each kind, to and from each node."""

    def __init__(self) -> None:
        self._sent: dict[tuple[NodeId, type], _Sent] = {}
        self._received: dict[tuple[NodeId, int], tuple[PeerMessage, bytes]] = {}

    def forget(self, node: NodeId) -> None:
        """The connection to a node is a new one: it has to be told everything again."""
        for kind in (Heartbeats, HeartbeatAnswers):
            self._sent.pop((node, kind), None)

    def encode(self, to: NodeId, message: PeerMessage, cluster_tag: bytes) -> bytes:
        """As `encode_peer_message`."""
        if not isinstance(message, Heartbeats | HeartbeatAnswers):
            return encode_peer_message(message, cluster_tag)
        kind = to, type(message)
        known = self._sent.get(kind)
        if known is not None and known.message is message and known.cluster_tag == cluster_tag:
            return known.repeated
        frame = encode_peer_message(message, cluster_tag)
        head = cluster_tag + bytes((REPEATED, frame[CLUSTER_TAG_BYTES]))
        self._sent[kind] = _Sent(message, cluster_tag, head + _digest(frame))
        return frame

    def decode(self, sender: NodeId, frame: memoryview, cluster_tag: bytes) -> PeerMessage:
        """As `decode_peer_message`, whose errors it raises; a pack without heartbeats where one is repeated that is not
        known.
        """
        if len(frame) > CLUSTER_TAG_BYTES and frame[CLUSTER_TAG_BYTES] == REPEATED:
            return self._repeated(sender, bytes(frame), cluster_tag)
        message = decode_peer_message(frame, cluster_tag)
        pack = pack_type(frame)
        if pack is not None:
            self._received[sender, pack] = message, _digest(frame)
        return message

    def _repeated(self, sender: NodeId, frame: bytes, cluster_tag: bytes) -> PeerMessage:
        if len(frame) != _HEAD_BYTES + _DIGEST_BYTES or frame[:CLUSTER_TAG_BYTES] != cluster_tag:
            raise RemoteProtocolError(f"frame of {len(frame)} bytes repeats no pack of this cluster")
        known = self._received.get((sender, frame[CLUSTER_TAG_BYTES + 1]))
        return known[0] if known is not None and known[1] == frame[_HEAD_BYTES:] else NOTHING


def _digest(frame: bytes | memoryview) -> bytes:
    return blake2b(frame, digest_size=_DIGEST_BYTES).digest()
