"""Peer frames: round trips, other clusters, and bytes that no node sends."""

from __future__ import annotations

import random

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.errors import RemoteProtocolError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.node.peer_messages import (
    Beat,
    EntryCopy,
    EntryFetch,
    EntryGone,
    HeartbeatAnswers,
    Heartbeats,
    PeerMessage,
    RaftMessage,
    SnapshotAck,
    SnapshotChunk,
    Transfer,
    TransferAnswer,
    decode_peer_message,
    encode_peer_message,
)
from logbroker.node.requests import MoveVerdict
from logbroker.raft.messages import ConfState, Message, MessageKind, SnapshotMeta
from logbroker.storage.entry_codec import seal_entry

TAG = b"cluster1"
GROUP = GroupId(7)
ONE, TWO = ReplicaId(1), ReplicaId(2)


def _entry(index: int, payload: bytes = b"payload") -> Entry:
    return seal_entry(
        EntryKind.DATA,
        group=GROUP,
        index=Index(index),
        term=Term(3),
        base_offset=Offset(index),
        next_offset=Offset(index + 1),
        append_ms=1_700_000_000_000,
        payload=payload,
    )


CONF = ConfState(voters=(ONE, TWO), learners=(ReplicaId(9),), auto_leave=True)
MESSAGES: list[PeerMessage] = [
    Beat(1_700_000_000_123, has_room=True),
    Beat(0, has_room=False),
    RaftMessage(GROUP, Message(MessageKind.HEARTBEAT, TWO, ONE, Term(4), commit=Index(9), context=77)),
    RaftMessage(
        GROUP,
        Message(MessageKind.APPEND, TWO, ONE, Term(4), Term(3), Index(8), Index(7), (_entry(9), _entry(10, b""))),
    ),
    RaftMessage(
        GROUP,
        Message(MessageKind.APPEND_RESPONSE, ONE, TWO, Term(4), Term(2), Index(5), reject=True, reject_hint=Index(3)),
    ),
    RaftMessage(GROUP, Message(MessageKind.VOTE, TWO, ONE, Term(5), Term(3), Index(8), campaign_transfer=True)),
    RaftMessage(
        GROUP,
        Message(MessageKind.SNAPSHOT, TWO, ONE, Term(5), snapshot=SnapshotMeta(Index(50), Term(4), CONF)),
    ),
    SnapshotChunk(
        GROUP, ONE, TWO, Term(5), 3, Index(50), Term(4), Index(10), Term(2), 100, 5000, 256, False, b"x" * 300
    ),
    SnapshotChunk(GROUP, ONE, TWO, Term(5), 4, Index(50), Term(4), Index(0), Term(0), 1, 1, 0, True, b""),
    SnapshotAck(GROUP, TWO, ONE, Index(50), Term(4), 556, refused=True),
    EntryFetch(GROUP, TWO, ONE, Index(33), Term(2)),
    EntryCopy(GROUP, ONE, TWO, _entry(33)),
    EntryGone(GROUP, ONE, TWO, Index(33), Index(40)),
    Heartbeats(((GROUP, ONE, TWO, Term(3), Index(40)), (GroupId(8), ONE, TWO, Term(4), Index(41)))),
    HeartbeatAnswers(((GROUP, TWO, ONE, Term(3)),)),
    Transfer(GROUP, GroupId(8), 9 << 16, b"batch"),
    Transfer(GROUP, GroupId(8), 1, b""),
    TransferAnswer(GROUP, GroupId(8), 9 << 16, MoveVerdict.REFUSED),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_its_byte_form(message: PeerMessage) -> None:
    assert decode_peer_message(encode_peer_message(message, TAG), TAG) == message


def test_a_frame_of_another_cluster_is_refused_and_both_clusters_are_named() -> None:
    frame = encode_peer_message(MESSAGES[0], b"cluster2")
    with pytest.raises(RemoteProtocolError, match=rf"{b'cluster2'.hex()}.*{TAG.hex()}"):
        decode_peer_message(frame, TAG)


def test_an_entry_of_another_group_does_not_travel_in_a_message() -> None:
    message = Message(MessageKind.APPEND, TWO, ONE, Term(4), entries=(_entry(1),))
    with pytest.raises(RemoteProtocolError, match="entry of group 7 in a message of group 8"):
        decode_peer_message(encode_peer_message(RaftMessage(GroupId(8), message), TAG), TAG)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_truncation_and_every_appended_byte_is_refused(message: PeerMessage) -> None:
    frame = encode_peer_message(message, TAG)
    for length in range(len(frame)):
        with pytest.raises(RemoteProtocolError):
            decode_peer_message(frame[:length], TAG)
    with pytest.raises(RemoteProtocolError):
        decode_peer_message(frame + b"\0", TAG)


def test_arbitrary_bytes_give_a_named_error_or_a_message() -> None:
    chance = random.Random(3)
    for _ in range(3000):
        frame = bytearray(encode_peer_message(chance.choice(MESSAGES), TAG))
        for _ in range(chance.randint(1, 4)):
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        try:
            decode_peer_message(bytes(frame), TAG)
        except RemoteProtocolError:
            continue


def test_a_flipped_bit_in_an_entry_is_always_noticed() -> None:
    message = RaftMessage(GROUP, Message(MessageKind.APPEND, TWO, ONE, Term(4), entries=(_entry(9),)))
    frame = encode_peer_message(message, TAG)
    start = len(frame) - len(_entry(9).head) - len(_entry(9).payload)
    for position in range(start, len(frame)):
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            with pytest.raises(RemoteProtocolError):
                decode_peer_message(bytes(flipped), TAG)
