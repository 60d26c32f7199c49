"""Frames of packed heartbeats that are the last ones again: they are neither written nor read anew.

Nearly all are, on an idle node (see `heartbeats`). One that is sent is known by being the very same value, one that is
received by its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.node.peer_messages import (
    HeartbeatAnswers,
    Heartbeats,
    decode_peer_message,
    encode_peer_message,
    pack_type,
)

if TYPE_CHECKING:
    from logbroker.ids import NodeId
    from logbroker.node.peer_messages import PeerMessage


@final
class PackFrames:
    """Writes and reads the frames of all messages; remembers the last pack of each kind, to and from each node."""

    def __init__(self) -> None:
        self._sent: dict[tuple[NodeId, type], tuple[PeerMessage, bytes, bytes]] = {}
        self._received: dict[tuple[NodeId, int], tuple[PeerMessage, bytes, bytes]] = {}

    def encode(self, to: NodeId, message: PeerMessage, cluster_tag: bytes) -> bytes:
        """As `encode_peer_message`."""
        if not isinstance(message, Heartbeats | HeartbeatAnswers):
            return encode_peer_message(message, cluster_tag)
        kind = to, type(message)
        known = self._sent.get(kind)
        if known is not None and known[0] is message and known[2] == cluster_tag:
            return known[1]
        frame = encode_peer_message(message, cluster_tag)
        self._sent[kind] = message, frame, cluster_tag
        return frame

    def decode(self, sender: NodeId, frame: memoryview, cluster_tag: bytes) -> PeerMessage:
        """As `decode_peer_message`, whose errors it raises."""
        pack = pack_type(frame)
        if pack is None:
            return decode_peer_message(frame, cluster_tag)
        # A copy, which is compared at once where a view is byte by byte; and what came in the same read is not kept.
        data = bytes(frame)
        known = self._received.get((sender, pack))
        if known is not None and known[1] == data and known[2] == cluster_tag:
            return known[0]
        message = decode_peer_message(data, cluster_tag)
        self._received[sender, pack] = message, data, cluster_tag
        return message
