"""Peer messages that are well formed and lie, or are old: what a node believes of them. Engines without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import RemoteProtocolError
from logbroker.ids import GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.engine import MAX_TERM_STEP
from logbroker.node.peer_messages import (
    MAX_NUMBER,
    Beat,
    EntryFetch,
    EntryGone,
    HeartbeatAnswers,
    Heartbeats,
    PeerMessage,
    RaftMessage,
    SnapshotAck,
    SnapshotChunk,
    decode_peer_message,
    encode_peer_message,
)
from logbroker.raft.messages import ConfState, Message, MessageKind
from tests.unit.node.engine_kit import GROUP, TAG, KitCluster, values

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER = ReplicaId(4711)
Sent = tuple[NodeId, NodeId, PeerMessage]
# Votes and their answers, asked in advance or in earnest, and what a leader says and hears.
KINDS = [MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.VOTE, MessageKind.VOTE_RESPONSE]
KINDS += [MessageKind.APPEND, MessageKind.APPEND_RESPONSE, MessageKind.HEARTBEAT, MessageKind.HEARTBEAT_RESPONSE]


def standing(cluster: KitCluster) -> list[object]:
    """All that a message might change, of every node."""
    found: list[object] = []
    for number, node in cluster.nodes.items():
        core = node.replica.core
        found.append((number, core.term, core.vote, core.leader, core.role, core.commit, core.last_index))
        found.append((node.machine.digest(), node.replica.conf, node.replica.failed, node.engine.failed))
    return found


def record(cluster: KitCluster) -> list[Sent]:
    """Everything that is sent from here on."""
    sent: list[Sent] = []

    def is_passed(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        sent.append((sender, to, message))
        return True

    cluster.is_passed = is_passed
    return sent


def terms_of(message: PeerMessage) -> list[int]:
    match message:
        case RaftMessage():
            return [message.message.term]
        case Heartbeats() | HeartbeatAnswers():
            return [row[3] for row in message.rows]
        case _:
            return []


def told(cluster: KitCluster) -> tuple[KitCluster, list[Sent]]:
    """A cluster after three leaders and some work, and all that was said on the way."""
    sent = record(cluster)
    leader = cluster.elect()
    for _ in range(2):
        cluster.produce(*values(3))
        cluster.tick(10)
        # The leader falls silent, another is elected, and the old one comes back.
        cluster.stopped.add(leader.number)
        cluster.tick(40)
        cluster.stopped.discard(leader.number)
        cluster.tick(10)
        leader = cluster.leader
    cluster.produce(*values(3))
    cluster.tick(5)
    cluster.is_passed = lambda *_: True
    return cluster, sent


def test_whatever_was_said_in_earlier_terms_changes_nothing_when_it_is_said_again() -> None:
    cluster, sent = told(KitCluster(3))
    term = cluster.leader.replica.core.term
    old = [one for one in sent if max(terms_of(one[2]), default=term) < term]
    kinds = {one[2].message.kind if isinstance(one[2], RaftMessage) else type(one[2]) for one in old}
    assert {MessageKind.VOTE, MessageKind.VOTE_RESPONSE, MessageKind.APPEND, Heartbeats, HeartbeatAnswers} <= kinds
    before = standing(cluster)
    for sender, to, message in old:
        cluster.nodes[to].engine.deliver(sender, message)
    assert standing(cluster) == before
    # Nor does anything come of the answers to it.
    cluster.settle()
    cluster.tick(30)
    assert cluster.leader.replica.core.term == term
    assert len({node.machine.digest() for node in cluster.nodes.values()}) == 1


def test_votes_of_this_term_that_come_twice_make_no_second_leader() -> None:
    cluster, sent = told(KitCluster(3))
    term = cluster.leader.replica.core.term
    votes = [
        one
        for one in sent
        if isinstance(one[2], RaftMessage)
        and one[2].message.term == term
        and one[2].message.kind in (MessageKind.VOTE, MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE)
    ]
    assert votes
    before = standing(cluster)
    for sender, to, message in votes * 3:
        cluster.nodes[to].engine.deliver(sender, message)
        # Also to everybody whom it was not meant for.
        for node in cluster.nodes.values():
            node.engine.deliver(sender, message)
    cluster.settle()
    assert standing(cluster) == before


def test_what_was_said_to_an_earlier_life_is_not_heard_by_the_next() -> None:
    cluster, sent = told(KitCluster(3))
    number = next(one for one in cluster.nodes if one != cluster.leader.number)
    node = cluster.nodes[number]
    lost, before = node.replica.id, node.replica.core.term
    node.engine.remove_replica(lost)
    cluster.settle()
    node.engine.create_replica(GROUP, ReplicaId(99), ConfState((ReplicaId(98), ReplicaId(99))))
    cluster.settle()
    for sender, to, message in sent:
        if to == number:
            node.engine.deliver(sender, message)
    cluster.settle()
    core = node.engine.replicas[GROUP].core
    assert (core.term, core.vote, core.leader, core.last_index) == (0, 0, 0, 0) != (before, lost, 0, 0)


def lies(cluster: KitCluster, victim: NodeId, claimed: ReplicaId) -> list[PeerMessage]:
    """What somebody may say who pretends to be `claimed`: a new term, a wish, an end."""
    core, to = cluster.nodes[victim].replica.core, cluster.nodes[victim].replica.id
    found: list[PeerMessage] = []
    for kind in KINDS:
        for term in (core.term, Term(core.term + 1)):
            log = {"log_term": Term(9), "index": Index(1 << 40), "commit": Index(1 << 40)}
            found.append(RaftMessage(GROUP, Message(kind, to, claimed, term, **log)))  # type: ignore[arg-type]
            found.append(RaftMessage(GROUP, Message(kind, to, claimed, term, campaign_transfer=True)))
    index, term, zero = Index(1 << 40), Term(core.term + 1), Index(0)
    chunk = SnapshotChunk(GROUP, claimed, to, term, 1, index, term, zero, Term(0), 10, 10, 0, True, b"0123456789")
    found += [chunk, SnapshotAck(GROUP, claimed, to, index, term, 10, True)]
    for term in (core.term, Term(core.term + 1)):
        found += [Heartbeats(((GROUP, claimed, to, term, index),)), HeartbeatAnswers(((GROUP, claimed, to, term),))]
    found += [EntryGone(GROUP, claimed, to, Index(1), index)]
    return found


@pytest.mark.parametrize("victim_leads", [True, False])
def test_nobody_may_speak_for_a_replica_of_another_node(victim_leads: bool) -> None:
    cluster = KitCluster(3)
    cluster.elect()
    cluster.produce(*values(3))
    cluster.tick(5)
    leader = NodeId(cluster.leader.number)
    victim = leader if victim_leads else NodeId(next(one for one in cluster.nodes if one != leader))
    liar, other = (NodeId(one) for one in cluster.nodes if one != victim)
    before = standing(cluster)
    said = lies(cluster, victim, cluster.nodes[other].replica.id) + lies(
        cluster, victim, cluster.nodes[victim].replica.id
    )
    for message in said:
        cluster.nodes[victim].engine.deliver(liar, message)
    assert standing(cluster) == before
    assert cluster.nodes[victim].engine.misrouted > 40
    assert sum(node.engine.misrouted for node in cluster.nodes.values()) == cluster.nodes[victim].engine.misrouted
    cluster.tick(30)
    assert cluster.leader.number == leader


def test_a_replica_that_does_not_belong_here_does_not_depose_a_leader() -> None:
    cluster = KitCluster(3)
    leader = cluster.elect()
    cluster.produce(*values(3))
    term = leader.replica.core.term
    liar = NodeId(next(one for one in cluster.nodes if one != leader.number))
    for kind in (MessageKind.APPEND, MessageKind.HEARTBEAT):
        for newer in (0, 1):
            message = Message(kind, leader.replica.id, STRANGER, Term(term + newer), commit=Index(1 << 40))
            leader.engine.deliver(liar, RaftMessage(GROUP, message))
    cluster.settle()
    assert (leader.replica.failed, leader.replica.is_serving, leader.replica.core.term) == (None, True, term)


def test_a_term_that_nobody_can_have_reached_is_not_believed() -> None:
    cluster = KitCluster(3)
    leader = cluster.elect()
    before = standing(cluster)
    for node in cluster.nodes.values():
        for other in cluster.nodes.values():
            for kind in KINDS:
                term = Term(leader.replica.core.term + MAX_TERM_STEP + 1)
                message = RaftMessage(GROUP, Message(kind, node.replica.id, other.replica.id, term))
                node.engine.deliver(other.number, message)
    cluster.settle()
    assert standing(cluster) == before


def test_homes_of_replicas_that_do_not_exist_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logbroker.node.engine.MAX_ROUTES", 50)
    cluster = KitCluster(3)
    leader = cluster.elect()
    liar = NodeId(next(one for one in cluster.nodes if one != leader.number))
    for number in range(200):
        message = Message(MessageKind.HEARTBEAT_RESPONSE, leader.replica.id, ReplicaId(5_000 + number), Term(1))
        leader.engine.deliver(liar, RaftMessage(GROUP, message))
    assert leader.engine.misrouted >= 150
    cluster.tick(10)
    assert cluster.leader is leader


BIG = MAX_NUMBER + 1
HUGE: list[Callable[[], PeerMessage]] = [
    lambda: Beat(BIG, True),
    lambda: RaftMessage(GroupId(1), Message(MessageKind.VOTE, ReplicaId(BIG), ReplicaId(2), Term(1))),
    lambda: RaftMessage(GroupId(1), Message(MessageKind.VOTE, ReplicaId(1), ReplicaId(BIG), Term(1))),
    lambda: RaftMessage(GroupId(1), Message(MessageKind.VOTE, ReplicaId(1), ReplicaId(2), Term((1 << 64) - 1))),
    lambda: RaftMessage(GroupId(1), Message(MessageKind.VOTE, ReplicaId(1), ReplicaId(2), Term(1), Term(BIG))),
    lambda: RaftMessage(
        GroupId(1), Message(MessageKind.APPEND, ReplicaId(1), ReplicaId(2), Term(1), commit=Index(BIG))
    ),
    lambda: RaftMessage(GroupId(1), Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(1), context=BIG)),
    lambda: SnapshotAck(GroupId(1), ReplicaId(1), ReplicaId(2), Index(BIG), Term(1), 0, False),
    lambda: SnapshotAck(GroupId(1), ReplicaId(1), ReplicaId(2), Index(1), Term(1), BIG, False),
    lambda: EntryFetch(GroupId(1), ReplicaId(1), ReplicaId(2), Index(BIG), Term(1)),
    lambda: EntryGone(GroupId(1), ReplicaId(1), ReplicaId(2), Index(1), Index(BIG)),
]


@pytest.mark.parametrize("message", HUGE)
def test_numbers_that_leave_no_room_to_count_on_are_refused(message: Callable[[], PeerMessage]) -> None:
    """A vote of term 2**64 - 1 was believed and synced, and the next one did not fit: the node never started again."""
    with pytest.raises(RemoteProtocolError, match="is above 4611686018427387904"):
        decode_peer_message(encode_peer_message(message(), TAG), TAG)


def test_a_message_of_another_cluster_is_refused_whatever_is_in_it() -> None:
    frame = encode_peer_message(Beat(1, True), b"another!")
    with pytest.raises(RemoteProtocolError, match="peer frame of cluster"):
        decode_peer_message(frame, TAG)
