"""One replica between its Raft core and its log: what it withholds, hands over, waits for and gives up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import InvariantError, LogBrokerError, NotLeaderError, UnknownOutcomeError
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.peer_messages import EntryCopy, RaftMessage
from logbroker.node.requests import ProduceReply, ProduceRequest, ReceiveRequest, StateReply, StateRequest
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal
from logbroker.raft.messages import Message, MessageKind
from logbroker.raft.refusal import ProposalRefused
from logbroker.storage.entry_codec import seal_entry
from tests.unit.node.engine_kit import ENGINE, GROUP, KitCluster, KitNode, batch, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.peer_messages import PeerMessage


def trio() -> KitCluster:
    cluster = KitCluster(3)
    cluster.elect()
    return cluster


def single() -> KitCluster:
    cluster = KitCluster(1)
    cluster.elect()
    return cluster


def followers(cluster: KitCluster) -> list[KitNode]:
    return [node for node in cluster.nodes.values() if node is not cluster.leader]


def answers() -> tuple[list[object], list[LogBrokerError]]:
    return [], []


# Leading.


def test_a_leader_serves_nothing_before_the_first_entry_of_its_term_is_applied() -> None:
    cluster = KitCluster(3)
    node = cluster.nodes[1]
    cluster.is_passed = lambda sender, to, message: (
        not isinstance(message, RaftMessage) or message.message.kind is not MessageKind.APPEND
    )
    cluster.tick(60)
    leading = [one for one in cluster.nodes.values() if one.replica.core.is_leader]
    assert leading
    assert not any(one.replica.is_serving for one in leading)
    for one in leading:
        assert isinstance(cluster.ask(ProduceRequest(batch(b"a")), node=one), NotLeaderError)
        with pytest.raises(NotLeaderError):
            one.replica.require_ahead()
    assert node.replica.ahead is None


def test_a_new_leader_decides_on_everything_in_its_log() -> None:
    """Applied or not: the next offset comes from the last entry of the log."""
    cluster = trio()
    old = cluster.leader
    asked = cluster.submit(ProduceRequest(batch(b"a", b"b")))
    old.engine.pump()
    # The entry reaches the others, and word of its commit does not.
    cluster.is_passed = lambda sender, to, message: (
        not (isinstance(message, RaftMessage) and message.message.kind is MessageKind.APPEND_RESPONSE)
    )
    cluster.settle()
    assert asked.answer is None
    cluster.stop(old.number)
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(60)
    assert cluster.produce(b"c").base_offset == 2


def test_log_time_never_goes_back_over_leaders_whose_clocks_differ() -> None:
    cluster = trio()
    old = cluster.leader
    for place, node in enumerate(cluster.nodes.values()):
        node.wall_offset_ns = -300_000_000 * place
    first = cluster.produce(b"a")
    cluster.stop(old.number)
    cluster.tick(60)
    second = cluster.produce(b"b")
    assert second.append_ms >= first.append_ms
    cluster.tick(3)
    machine = cluster.leader.machine
    assert machine.append_ms >= second.append_ms


def test_a_leader_whose_clock_is_off_hands_over_before_it_stamps_anything() -> None:
    cluster = trio()
    old = cluster.leader
    cluster.tick(5)
    old.wall_offset_ns = 3_600_000_000_000 * 24
    cluster.tick(30)
    assert cluster.leader is not old
    reply = cluster.produce(b"a")
    assert reply.append_ms < 1_700_000_000_000 + 86_400_000


def test_damage_forbids_to_campaign_until_it_is_mended() -> None:
    cluster = trio()
    old = cluster.leader
    victim, other = followers(cluster)
    cluster.produce(*values(3))
    victim.replica.log.state.damaged[Index(1)] = Term(1)
    cluster.is_passed = lambda sender, to, message: not isinstance(message, EntryCopy)
    cluster.stop(old.number)
    cluster.tick(60)
    assert other.replica.core.is_leader, "it still votes"
    seen = [(victim.replica.core.can_campaign, other.replica.is_serving)]
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(10)
    seen.append((victim.replica.core.can_campaign, other.replica.is_serving))
    assert seen == [(False, False), (True, True)], "and acknowledges nothing beyond the hole"


def test_nothing_beyond_a_hole_is_acknowledged_and_everything_before_it_is() -> None:
    cluster = trio()
    victim = followers(cluster)[0]
    cluster.produce(*values(3))
    sent: list[Message] = []

    def watch(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if sender == victim.number and isinstance(message, RaftMessage):
            sent.append(message.message)
        return True

    cluster.is_passed = watch
    hole = victim.replica.log.last_index()
    victim.replica.log.state.damaged[hole] = Term(1)
    cluster.produce(*values(3))
    accepted = [one for one in sent if one.kind is MessageKind.APPEND_RESPONSE and not one.reject]
    assert all(one.index < hole for one in accepted)


def test_handing_over_needs_another_voter_that_was_heard_of() -> None:
    assert not single().leader.replica.hand_over()
    cluster = trio()
    assert cluster.leader.replica.hand_over()
    assert not cluster.leader.replica.hand_over() or cluster.leader_or_none() is None


# Proposals and reads.


def test_a_proposal_is_foreseen_at_once_and_committed_later() -> None:
    cluster = single()
    replica = cluster.leader.replica
    committed, lost = answers()
    entry, foreseen = replica.propose(
        EntryKind.NOOP, b"", append_ms=replica.stamp_ms(), on_committed=committed.append, on_lost=lost.append
    )
    assert foreseen is not None
    assert entry.index == replica.core.last_index
    assert (committed, lost) == ([], [])
    cluster.settle()
    assert (len(committed), lost) == (1, [])


def test_a_proposal_of_a_lost_term_is_told_once_that_it_is_unknown() -> None:
    cluster = trio()
    old = cluster.leader
    committed, lost = answers()
    cluster.is_passed = lambda sender, to, message: old.number not in (sender, to)
    old.replica.propose(
        EntryKind.NOOP, b"", append_ms=old.replica.stamp_ms(), on_committed=committed.append, on_lost=lost.append
    )
    cluster.tick(60)
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(20)
    assert committed == []
    assert [type(error) for error in lost] == [UnknownOutcomeError]


def test_a_wait_for_what_is_applied_already_ends_at_once() -> None:
    cluster = single()
    replica = cluster.leader.replica
    done: list[str] = []
    replica.when_applied(replica.machine.applied_index, lambda: done.append("now"), lambda _: None)
    cluster.submit(ProduceRequest(batch(b"a")))
    replica.when_applied(replica.core.last_index, lambda: done.append("later"), lambda _: None)
    assert done == ["now"]
    cluster.settle()
    assert done == ["now", "later"]


def test_a_read_waits_for_a_majority_and_shows_at_least_what_was_committed_before_it() -> None:
    cluster = trio()
    leader = cluster.leader
    cluster.is_passed = lambda sender, to, message: leader.number not in (sender, to)
    asked = cluster.submit(StateRequest(), node=leader)
    cluster.settle()
    assert asked.answer is None, "a leader that nobody hears may be deposed"
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(3)
    assert asked.reply(StateReply).log_end == 0
    cluster.produce(b"a")
    state = cluster.ask(StateRequest())
    assert isinstance(state, StateReply)
    assert state.log_end == 1


def test_one_change_of_members_at_a_time() -> None:
    cluster = trio()
    replica = cluster.leader.replica
    change = ConfigProposal((ConfigChange(ChangeKind.ADD_LEARNER, ReplicaId(9)),))
    replica.propose_config(change)
    with pytest.raises(ProposalRefused):
        replica.propose_config(change)
    produced = cluster.submit(ProduceRequest(batch(b"a")))
    cluster.settle()
    assert replica.conf.learners == (9,)
    assert produced.reply(ProduceReply).base_offset == 0
    with pytest.raises(NotLeaderError):
        followers(cluster)[0].replica.propose_config(change)


def test_members_are_known_again_after_a_restart() -> None:
    cluster = trio()
    cluster.leader.replica.propose_config(ConfigProposal((ConfigChange(ChangeKind.ADD_LEARNER, ReplicaId(9)),)))
    cluster.settle()
    for number in (1, 2, 3):
        cluster.restart(number)
    cluster.elect()
    cluster.tick(3)
    assert {node.replica.conf.learners for node in cluster.nodes.values()} == {(ReplicaId(9),)}


def test_a_configuration_that_was_left_does_not_come_back_when_all_members_lose_their_power() -> None:
    """What is committed is not known at a start, but what a checkpoint holds is: it follows each change."""
    cluster = trio()
    gone = followers(cluster)[0]
    cluster.produce(b"a")
    # The first checkpoint is due with the first change; the next one only much later.
    cluster.tick(15)
    cluster.leader.replica.propose_config(ConfigProposal((ConfigChange(ChangeKind.REMOVE, gone.replica.id),)))
    cluster.tick(15)
    cluster.stop(gone.number)
    voters = set(cluster.leader.replica.conf.voters)
    assert gone.replica.id not in voters
    for number in set(cluster.nodes) - {gone.number}:
        assert set(cluster.restart(number).replica.conf.voters) == voters


# Writes.


def test_writes_that_wait_are_merged_up_to_one_that_takes_the_place_of_another() -> None:
    """Each is acknowledged once it is durable: one that was overwritten in the same commit never would be."""
    cluster = trio()
    node = followers(cluster)[0]
    replica, leader = node.replica, cluster.leader.replica
    cluster.frozen.add(node.number)
    cluster.is_passed = lambda sender, to, message: to != node.number
    base, term = replica.core.last_index, replica.core.term

    def append(term: Term, first: int, count: int, log_term: Term) -> None:
        made = tuple(
            seal_entry(
                EntryKind.NOOP,
                group=GROUP,
                index=Index(index),
                term=term,
                base_offset=replica.machine.next_offset,
                next_offset=replica.machine.next_offset,
                append_ms=replica.machine.append_ms,
                payload=b"",
            )
            for index in range(first, first + count)
        )
        replica.step(
            Message(
                MessageKind.APPEND,
                replica.id,
                leader.id,
                term,
                log_term=log_term,
                index=Index(first - 1),
                entries=made,
            )
        )
        replica.pump()

    append(term, base + 1, 1, term)
    append(term, base + 2, 2, term)
    append(Term(term + 1), base + 2, 1, term)
    append(Term(term + 1), base + 3, 1, Term(term + 1))
    write = replica.take_write(1 << 20)
    assert write is not None
    assert [(entry.index - base, entry.term - term) for entry in write.entries] == [(1, 0), (2, 0), (3, 0)]
    assert write.vote is None
    with pytest.raises(InvariantError, match="in flight already"):
        replica.take_write(1 << 20)
    replica.on_write_refused()
    again = replica.take_write(1 << 20)
    assert again == write
    replica.log.append(write.entries)
    replica.on_written()
    later = replica.take_write(1 << 20)
    assert later is not None
    assert [(entry.index - base, entry.term - term) for entry in later.entries] == [(2, 1), (3, 1)]
    assert later.vote is not None
    assert later.vote[0] == term + 1


def test_a_write_is_cut_between_two_readies_at_the_limit() -> None:
    cluster = single()
    node = cluster.leader
    for number in range(4):
        cluster.submit(ProduceRequest(batch(*values(1, start=number))))
        node.engine.pump()
    assert node.replica.take_write(1) is None, "another group has taken the place in this commit"
    node.replica.on_write_refused()
    size = len(batch(*values(1)))
    first = node.replica.take_write(3 * size)
    assert first is not None
    assert len(first.entries) == 2
    node.replica.on_write_refused()
    whole = node.replica.take_write(1 << 20)
    assert whole is not None
    assert len(whole.entries) == 4
    node.replica.on_write_refused()


def test_what_needs_nothing_durable_waits_for_the_commit_before_it_and_takes_none_of_its_own() -> None:
    cluster = trio()
    leader = cluster.leader
    cluster.frozen = {node.number for node in followers(cluster)}
    first = cluster.submit(ProduceRequest(batch(b"a")))
    cluster.settle()
    second = cluster.submit(ProduceRequest(batch(b"b")))
    leader.engine.pump()
    job = leader.engine.next_commit()
    assert job is not None
    # The followers have the first one only now, while the leader's next sync runs.
    cluster.frozen = {leader.number}
    cluster.settle()
    assert first.reply(ProduceReply).base_offset == 0
    assert second.answer is None
    job.run()
    leader.engine.commit_done(job)
    leader.engine.pump()
    assert second.reply(ProduceReply).base_offset == 1
    assert not leader.replica.has_writes
    assert leader.engine.next_commit() is None


# The end.


def test_a_broken_invariant_stops_the_group_and_nothing_else() -> None:
    cluster = single()
    node = cluster.leader
    other = GroupId(2)
    node.engine.create_replica(other, ReplicaId(9), replace(cluster.conf, voters=(ReplicaId(9),)))
    cluster.tick(30)
    asked = cluster.submit(ProduceRequest(batch(b"a")))
    node.replica.abandon(InvariantError("two entries at one index"))
    assert isinstance(asked.answer, UnknownOutcomeError)
    assert GROUP in node.engine.failed_groups
    cluster.tick(3)
    assert isinstance(cluster.ask(ProduceRequest(batch(b"a")), node=node), NotLeaderError)
    taken: list[object] = []
    node.engine.submit(other, ProduceRequest(batch(b"b")), taken.append)
    cluster.settle()
    assert isinstance(taken[0], ProduceReply)
    for act in (
        node.replica.pump,
        lambda: node.replica.tick(0),
        lambda: node.replica.step(Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(99))),
        lambda: node.replica.peer_lost(ReplicaId(2)),
        lambda: node.replica.campaign_against(ReplicaId(2)),
    ):
        act()
    assert not node.replica.has_writes
    assert not node.replica.checkpoint_due(1 << 60)


def test_a_replica_rests_while_nothing_is_due_and_is_up_with_whatever_is_done_to_it() -> None:
    cluster = trio()
    cluster.tick(5)
    node = cluster.leader

    def rests() -> bool:
        return node.replica.due_tick > node.engine.ticks.count + 1 and node.replica.due_ms > node.engine.monotonic_ms()

    acts: list[Callable[[], object]] = [
        lambda: cluster.submit(ReceiveRequest(DEFAULT_GROUP, 1, 1_000, wait_ms=1_000)),
        lambda: cluster.produce(b"a"),
        lambda: node.engine.peer_disconnected(NodeId(2)),
        node.replica.campaign,
        lambda: cluster.submit(StateRequest()),
    ]
    for act in acts:
        while not rests():
            cluster.tick()
        act()
        assert not rests()


def test_a_replica_that_waits_for_its_clock_or_a_copy_does_not_rest() -> None:
    cluster = trio()
    cluster.tick(5)
    replica = cluster.leader.replica
    replica.tick(0, may_campaign=False)
    assert (replica.due_tick, replica.core.can_campaign) == (0, False)
    replica.tick(0)
    assert replica.core.can_campaign
    assert replica.due_tick > cluster.leader.engine.ticks.count


def test_a_checkpoint_is_due_by_bytes_or_by_time_and_only_after_a_change() -> None:
    cluster = KitCluster(1, engine=replace(ENGINE, replica=replace(ENGINE.replica, checkpoint_bytes=1 << 20)))
    replica = cluster.elect().replica
    replica.make_checkpoint(0)
    due = [replica.checkpoint_due(1 << 60)]
    cluster.produce(b"a")
    due += [replica.checkpoint_due(0), replica.checkpoint_due(60_000)]
    assert due == [False, False, True]
