"""Packed heartbeats: what is recognised as a whole does what each of its rows would, and nothing that changed is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import InvariantError
from logbroker.ids import GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.heartbeats import WHOLE_TICKS
from logbroker.node.peer_messages import HeartbeatAnswers, Heartbeats, RaftMessage
from logbroker.raft.messages import ConfState, Message, MessageKind, Role
from tests.unit.node.engine_kit import ENGINE, GROUP, KitCluster, KitNode

if TYPE_CHECKING:
    from logbroker.node.peer_messages import PeerMessage

OTHER = GroupId(2)
ELECTION_TICKS = ENGINE.replica.election_ticks


def idle() -> tuple[KitCluster, KitNode, KitNode]:
    """Three nodes of which one leads two groups; the leader and a follower, after some idle ticks."""
    cluster = KitCluster(3)
    leader = cluster.elect()
    # So that not all quorum checks fall on the ticks of the whole looks.
    cluster.tick(3)
    conf = ConfState(tuple(ReplicaId(20 + number) for number in (1, 2, 3)))
    for node in cluster.nodes.values():
        for number in cluster.nodes:
            node.engine.set_route(ReplicaId(20 + number), NodeId(number))
        node.engine.create_replica(OTHER, ReplicaId(20 + node.number), conf)
    cluster.settle()
    leader.engine.replicas[OTHER].campaign()
    cluster.settle()
    assert all(replica.is_serving for replica in leader.engine.replicas.values())
    cluster.tick(ELECTION_TICKS)
    return cluster, leader, next(node for node in cluster.nodes.values() if node is not leader)


def sent(node: KitNode, to: KitNode, kind: type[PeerMessage]) -> list[PeerMessage]:
    """Everything of a kind that one node has for another; what else there was is lost."""
    node.engine.pump()
    messages = node.engine.take_peer_messages().get(to.number, [])
    return [message for message in messages if isinstance(message, kind)]


def heartbeats(node: KitNode, to: KitNode) -> Heartbeats:
    """What the next tick has for another node, past the network."""
    node.engine.tick()
    (message,) = sent(node, to, Heartbeats)
    assert isinstance(message, Heartbeats)
    return message


def answered(node: KitNode, sender: KitNode, pack: Heartbeats) -> tuple[GroupId, ...]:
    """The groups for which a pack is answered as a pack: those in which it brought nothing new.

    Where it was the last one again, that is at the node's next tick.
    """
    node.engine.deliver(sender.number, pack)
    messages = sent(node, sender, HeartbeatAnswers)
    if not messages:
        node.engine.tick()
        messages = sent(node, sender, HeartbeatAnswers)
    return tuple(row[0] for message in messages if isinstance(message, HeartbeatAnswers) for row in message.rows)


def ticks_left(node: KitNode, group: GroupId = GROUP) -> int:
    return node.engine.replicas[group].core.election_ticks_left


# What nothing changed.


def test_an_idle_node_sends_the_very_same_pack_again() -> None:
    cluster, leader, follower = idle()
    packs: list[Heartbeats] = []

    def keep(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if (sender, to) == (leader.number, follower.number) and isinstance(message, Heartbeats):
            packs.append(message)
        return True

    cluster.is_passed = keep
    cluster.tick(2 * WHOLE_TICKS)
    assert len(packs) == 2 * WHOLE_TICKS
    assert {row[0] for row in packs[0].rows} == {GROUP, OTHER}
    assert all(one == packs[0] for one in packs)
    # Made anew for the whole looks alone.
    assert len({id(one) for one in packs}) == 3


def test_a_pack_that_is_recognised_is_answered_and_restarts_every_election_timer() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    changes = follower.engine.changes
    follower.engine.deliver(leader.number, pack)
    whole = ticks_left(follower), ticks_left(follower, OTHER)
    for _ in range(3):
        assert answered(follower, leader, pack) == (GROUP, OTHER)
        assert (ticks_left(follower), ticks_left(follower, OTHER)) == (whole[0] - 1, whole[1] - 1)
        follower.engine.deliver(leader.number, pack)
        assert (ticks_left(follower), ticks_left(follower, OTHER)) == whole
    assert follower.engine.changes == changes


def test_answers_that_are_recognised_keep_the_leader_leading() -> None:
    cluster, leader, follower = idle()
    changes = [node.engine.changes for node in cluster.nodes.values()]
    for _ in range(5 * ELECTION_TICKS):
        cluster.tick()
        # Whoever was silent since the last quorum check has answered this tick's pack.
        for replica in leader.engine.replicas.values():
            assert all(progress.recent_active for progress in replica.core.progress())
    assert [node.engine.changes for node in cluster.nodes.values()] == changes
    for group, replica in leader.engine.replicas.items():
        assert replica.is_serving
        assert replica.core.statistics().quorum_losses == 0
        assert follower.engine.replicas[group].leader == replica.id


def test_a_leader_whose_followers_fall_silent_steps_down_in_its_time() -> None:
    """Check quorum looks at what was heard since it last looked, also where the packs never changed."""
    cluster, leader, _ = idle()
    cluster.is_passed = lambda sender, to, message: to != leader.number
    for _ in range(2 * ELECTION_TICKS):
        cluster.tick()
        if not leader.replica.core.is_leader:
            break
    assert not leader.replica.core.is_leader
    assert leader.replica.core.statistics().quorum_losses == 1


def test_a_follower_that_hears_nothing_campaigns_in_its_time() -> None:
    cluster, leader, follower = idle()
    cluster.stop(leader.number)
    cluster.tick(2 * ELECTION_TICKS)
    assert follower.replica.core.term > leader.replica.core.term


# What changed.


def test_a_lost_link_ends_what_is_remembered_and_the_next_pack_clears_the_suspicion() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    follower.engine.peer_disconnected(leader.number)
    changes = follower.engine.changes
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    assert follower.engine.changes > changes
    # In the lease of a leader that is heard of, a vote is not even refused.
    term = follower.replica.core.term
    asked = Message(
        MessageKind.PRE_VOTE,
        follower.replica.id,
        ReplicaId(3),
        Term(term + 1),
        log_term=term,
        index=follower.replica.core.last_index,
    )
    follower.engine.deliver(NodeId(3), RaftMessage(GROUP, asked))
    assert sent(follower, leader, RaftMessage) == []
    assert follower.replica.core.role is Role.FOLLOWER


def test_a_pack_of_an_older_term_is_refused_though_it_was_recognised_before() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    newer = Term(follower.replica.core.term + 5)
    follower.replica.step(Message(MessageKind.APPEND_RESPONSE, follower.replica.id, ReplicaId(3), newer))
    assert answered(follower, leader, pack) == (OTHER,)
    assert follower.replica.core.term == newer
    assert follower.replica.leader == 0


def test_a_new_leader_is_told_apart_from_the_old_one_at_once() -> None:
    cluster, leader, follower = idle()
    old = heartbeats(leader, follower)
    assert answered(follower, leader, old) == (GROUP, OTHER)
    leader.replica.transfer_leadership(follower.replica.id)
    cluster.settle()
    cluster.tick(2)
    assert follower.replica.is_serving
    assert answered(follower, leader, old) == (OTHER,)
    assert follower.replica.is_serving
    assert {row[0] for row in heartbeats(leader, follower).rows} == {OTHER}
    assert {row[0] for row in heartbeats(follower, leader).rows} == {GROUP}


def test_a_commit_index_that_moved_is_told_with_the_next_tick() -> None:
    cluster, leader, follower = idle()
    before = {row[0]: row[4] for row in heartbeats(leader, follower).rows}
    cluster.produce(b"a")
    after = {row[0]: row[4] for row in heartbeats(leader, follower).rows}
    assert after == {GROUP: before[GROUP] + 1, OTHER: before[OTHER]}


def test_a_follower_that_lacks_an_entry_is_sent_it_when_it_answers() -> None:
    """Its answer was recognised before; what the leader appended since makes it news."""
    cluster, leader, follower = idle()
    cluster.is_passed = lambda sender, to, message: (
        to != follower.number or not isinstance(message, RaftMessage) or message.message.kind is not MessageKind.APPEND
    )
    cluster.produce(b"a")
    assert follower.replica.core.last_index < leader.replica.core.last_index
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(2)
    assert follower.replica.core.last_index == leader.replica.core.last_index


def test_a_replica_that_was_removed_answers_nothing() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    follower.engine.remove_replica(follower.engine.replicas[OTHER].id)
    assert answered(follower, leader, pack) == (GROUP,)
    assert answered(follower, leader, pack) == (GROUP,)


def test_a_replica_that_stopped_answers_nothing() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    follower.replica.abandon(InvariantError("two entries at one index"))
    assert answered(follower, leader, pack) == (OTHER,)
    assert answered(follower, leader, pack) == (OTHER,)


def test_a_leader_that_stopped_sends_no_heartbeats() -> None:
    _, leader, follower = idle()
    assert {row[0] for row in heartbeats(leader, follower).rows} == {GROUP, OTHER}
    leader.replica.abandon(InvariantError("two entries at one index"))
    assert {row[0] for row in heartbeats(leader, follower).rows} == {OTHER}


def test_a_pack_of_a_node_on_which_the_leader_does_not_live_is_not_believed() -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    follower.engine.set_route(leader.engine.replicas[OTHER].id, NodeId(9))
    assert answered(follower, leader, pack) == (GROUP,)
    assert answered(follower, leader, pack) == (GROUP,)
    assert follower.engine.misrouted == 2


def test_a_leader_sends_to_where_a_follower_moved() -> None:
    _, leader, follower = idle()
    assert len(heartbeats(leader, follower).rows) == 2
    leader.engine.set_route(follower.engine.replicas[OTHER].id, NodeId(9))
    assert [row[0] for row in heartbeats(leader, follower).rows] == [GROUP]


@pytest.mark.parametrize("place", ["replica", "leader", "term", "commit"])
def test_a_row_that_is_another_is_no_pack_that_is_known(place: str) -> None:
    _, leader, follower = idle()
    pack = heartbeats(leader, follower)
    assert answered(follower, leader, pack) == (GROUP, OTHER)
    group, sender, to, term, commit = pack.rows[0]
    changed = {
        "replica": (group, sender, ReplicaId(77), term, commit),
        "leader": (group, ReplicaId(77), to, term, commit),
        "term": (group, sender, to, Term(term + 1), commit),
        "commit": (group, sender, to, term, Index(commit + 1)),
    }[place]
    before = ticks_left(follower)
    follower.engine.tick()
    if place == "commit":
        # It acknowledged no such entry: no sound leader says so.
        follower.engine.deliver(leader.number, Heartbeats((changed, *pack.rows[1:])))
        assert GROUP in follower.engine.failed_groups
        return
    assert answered(follower, leader, Heartbeats((changed, *pack.rows[1:]))) == (OTHER,)
    if place != "term":
        assert ticks_left(follower) == before - 1


def test_a_change_that_nobody_counted_is_noticed_within_a_second() -> None:
    cluster, leader, follower = idle()
    leader.replica.core._state.tracker.progress[follower.replica.id].match = Index(0)
    for _ in range(WHOLE_TICKS):
        cluster.tick()
    assert leader.replica.core._state.tracker.progress[follower.replica.id].match == leader.replica.core.last_index
