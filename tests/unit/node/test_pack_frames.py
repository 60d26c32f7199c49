"""Frames that are the last ones again: the same bytes and the same values, with less work."""

from __future__ import annotations

import pytest

from logbroker.errors import RemoteProtocolError
from logbroker.ids import GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.pack_frames import PackFrames
from logbroker.node.peer_messages import (
    Beat,
    HeartbeatAnswers,
    Heartbeats,
    PeerMessage,
    RaftMessage,
    encode_peer_message,
)
from logbroker.raft.messages import Message, MessageKind

TAG = b"12345678"
ONE, TWO = NodeId(1), NodeId(2)


def beats(commit: int = 7) -> Heartbeats:
    rows = [(GroupId(number), ReplicaId(11), ReplicaId(12), Term(3), Index(commit)) for number in range(40)]
    return Heartbeats(tuple(rows))


def answers(term: int = 3) -> HeartbeatAnswers:
    return HeartbeatAnswers(tuple((GroupId(number), ReplicaId(12), ReplicaId(11), Term(term)) for number in range(40)))


def read(packs: PackFrames, message: PeerMessage, *, sender: NodeId = ONE) -> PeerMessage:
    """The value of a frame that is one of two in a read."""
    frame = encode_peer_message(message, TAG)
    return packs.decode(sender, memoryview(b"before" + frame + b"behind")[6 : 6 + len(frame)], TAG)


@pytest.mark.parametrize(
    "message",
    [
        beats(),
        answers(),
        Heartbeats(()),
        Beat(5, has_room=True),
        RaftMessage(GroupId(1), Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(3))),
    ],
)
def test_frames_and_values_are_those_of_the_codec_the_first_time_and_the_second(message: PeerMessage) -> None:
    packs = PackFrames()
    for _ in range(2):
        assert packs.encode(ONE, message, TAG) == encode_peer_message(message, TAG)
        assert read(packs, message) == message


@pytest.mark.parametrize("pack", [beats(), answers()])
def test_the_very_same_pack_is_written_and_read_once(pack: PeerMessage) -> None:
    packs = PackFrames()
    assert packs.encode(ONE, pack, TAG) is packs.encode(ONE, pack, TAG)
    assert read(packs, pack) is read(packs, pack)


def test_packs_of_both_kinds_and_of_other_nodes_do_not_push_each_other_out() -> None:
    packs = PackFrames()
    first = [read(packs, beats()), read(packs, answers()), read(packs, beats(8), sender=TWO)]
    again = [read(packs, beats()), read(packs, answers()), read(packs, beats(8), sender=TWO)]
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_a_pack_that_changed_is_written_and_read_anew() -> None:
    packs = PackFrames()
    for commit in (7, 8, 7):
        assert packs.encode(ONE, beats(commit), TAG) == encode_peer_message(beats(commit), TAG)
        assert read(packs, beats(commit)) == beats(commit)
    for term in (3, 4, 3):
        assert packs.encode(ONE, answers(term), TAG) == encode_peer_message(answers(term), TAG)
        assert read(packs, answers(term)) == answers(term)


def test_what_is_remembered_does_not_change_with_the_buffer_it_came_in() -> None:
    packs, frame = PackFrames(), bytearray(encode_peer_message(beats(), TAG))
    assert packs.decode(ONE, memoryview(frame), TAG) == beats()
    frame[:] = encode_peer_message(beats(8), TAG)
    assert packs.decode(ONE, memoryview(frame), TAG) == beats(8)


def test_a_known_frame_is_still_another_clusters() -> None:
    packs = PackFrames()
    assert read(packs, beats()) == beats()
    with pytest.raises(RemoteProtocolError, match="of cluster"):
        packs.decode(ONE, memoryview(encode_peer_message(beats(), TAG)), b"87654321")
    assert packs.encode(ONE, beats(), b"87654321") == encode_peer_message(beats(), b"87654321")


@pytest.mark.parametrize("frame", [b"", TAG, TAG + b"\x08", encode_peer_message(beats(), TAG)[:-1]])
def test_what_is_no_frame_is_refused_each_time(frame: bytes) -> None:
    packs = PackFrames()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            packs.decode(ONE, memoryview(frame), TAG)
