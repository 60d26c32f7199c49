"""Packs of heartbeats that are the last ones again: short frames, and the same values."""

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


def read(packs: PackFrames, frame: bytes, *, sender: NodeId = ONE) -> PeerMessage:
    """The value of a frame that is one of two in a read."""
    return packs.decode(sender, memoryview(b"before" + frame + b"behind")[6 : 6 + len(frame)], TAG)


def sent(packs: PackFrames, message: PeerMessage, *, to: NodeId = ONE) -> bytes:
    return packs.encode(to, message, TAG)


@pytest.mark.parametrize(
    "message",
    [
        Beat(5, has_room=True),
        RaftMessage(GroupId(1), Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(3))),
    ],
)
def test_other_messages_are_as_the_codec_has_them_each_time(message: PeerMessage) -> None:
    packs = PackFrames()
    for _ in range(2):
        assert sent(packs, message) == encode_peer_message(message, TAG)
        assert read(packs, sent(packs, message)) == message


@pytest.mark.parametrize("pack", [beats(), answers(), Heartbeats(())])
def test_a_pack_that_is_sent_again_is_a_short_frame_and_read_as_the_same_value(pack: PeerMessage) -> None:
    sender, receiver = PackFrames(), PackFrames()
    first = sent(sender, pack)
    assert first == encode_peer_message(pack, TAG)
    value = read(receiver, first)
    assert value == pack
    for _ in range(2):
        again = sent(sender, pack)
        assert len(again) == 26
        assert read(receiver, again) is value


def test_packs_of_both_kinds_and_of_other_nodes_do_not_push_each_other_out() -> None:
    sender, receiver = PackFrames(), PackFrames()
    packs: list[tuple[PeerMessage, NodeId]] = [(beats(), ONE), (answers(), ONE), (beats(8), TWO)]
    for pack, node in packs:
        assert read(receiver, sent(sender, pack, to=node), sender=node) == pack
    for pack, node in packs:
        again = sent(sender, pack, to=node)
        assert len(again) == 26
        assert read(receiver, again, sender=node) == pack


def test_a_pack_that_changed_is_sent_whole() -> None:
    sender, receiver = PackFrames(), PackFrames()
    for pack in (beats(7), beats(8), beats(7), answers(3), answers(4)):
        frame = sent(sender, pack)
        assert frame == encode_peer_message(pack, TAG)
        assert read(receiver, frame) == pack


def test_what_is_repeated_and_not_known_says_nothing() -> None:
    sender, lossy, pack = PackFrames(), PackFrames(), beats(8)
    assert read(lossy, sent(sender, beats(7))) == beats(7)
    sent(sender, pack)
    repeated = sent(sender, pack)
    assert read(lossy, repeated) == Heartbeats(()), "the whole one was lost; the one before it is not taken instead"
    assert read(PackFrames(), repeated) == Heartbeats(())
    assert read(lossy, repeated, sender=TWO) == Heartbeats(())


def test_after_a_new_connection_a_pack_is_sent_whole() -> None:
    packs, pack, answer = PackFrames(), beats(), answers()
    for message in (pack, answer):
        sent(packs, message)
        sent(packs, message, to=TWO)
    packs.forget(ONE)
    for message in (pack, answer):
        assert sent(packs, message) == encode_peer_message(message, TAG)
        assert len(sent(packs, message, to=TWO)) == 26


def test_what_is_remembered_does_not_change_with_the_buffer_it_came_in() -> None:
    sender, receiver, pack = PackFrames(), PackFrames(), beats()
    frame = bytearray(sent(sender, pack))
    receiver.decode(ONE, memoryview(frame), TAG)
    frame[:] = encode_peer_message(beats(8), TAG)
    assert read(receiver, sent(sender, pack)) == pack


def test_a_known_frame_is_still_another_clusters() -> None:
    packs, pack = PackFrames(), beats()
    assert read(packs, sent(packs, pack)) == pack
    for frame in (encode_peer_message(pack, TAG), sent(packs, pack)):
        with pytest.raises(RemoteProtocolError, match="cluster"):
            packs.decode(ONE, memoryview(frame), b"87654321")
    assert packs.encode(ONE, pack, b"87654321") == encode_peer_message(pack, b"87654321")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        TAG,
        TAG + b"\x08",
        TAG + b"\x0c",
        TAG + b"\x0c\x08" + bytes(15),
        TAG + b"\x0c\x08" + bytes(17),
        encode_peer_message(beats(), TAG)[:-1],
    ],
)
def test_what_is_no_frame_is_refused_each_time(frame: bytes) -> None:
    packs = PackFrames()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            packs.decode(ONE, memoryview(frame), TAG)
