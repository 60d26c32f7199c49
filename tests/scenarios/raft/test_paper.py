"""The figures of the Raft paper, acted out."""

from __future__ import annotations

import pytest

from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.messages import HardState, Message, MessageKind
from tests.raft_kit import Cluster, MemoryLog, Replica, conf_of

FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}
LEADER_OF_8 = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)


@pytest.mark.parametrize("name", FIGURE_7)
def test_figure_7_every_log_converges_to_the_leaders(name: str) -> None:
    """Section 5.3: whatever a follower missed or has too much, the leader makes its log equal to its own."""
    conf = conf_of(1, 2, 3)
    leader = Replica(1, conf, disk=MemoryLog.of_terms(*LEADER_OF_8), hard_state=HardState(Term(7)))
    follower = Replica(2, conf, disk=MemoryLog.of_terms(*FIGURE_7[name]), hard_state=HardState(Term(7)))
    voter = Replica(3, conf, hard_state=HardState(Term(7)))
    made = Cluster([leader, follower, voter])
    made.elect(1)
    made.tick(3)
    assert leader.disk.terms() == [*LEADER_OF_8, 8]
    assert follower.disk.all_entries() == voter.disk.all_entries() == leader.disk.all_entries()
    assert follower.core.commit == 11


@pytest.mark.parametrize("name", FIGURE_7)
def test_figure_7_one_question_a_term_finds_where_the_logs_meet(name: str) -> None:
    """Section 5.3: the number of rejected appends is bounded by terms, not by entries."""
    conf = conf_of(1, 2, 3)
    leader = Replica(1, conf, disk=MemoryLog.of_terms(*LEADER_OF_8), hard_state=HardState(Term(7)))
    follower = Replica(2, conf, disk=MemoryLog.of_terms(*FIGURE_7[name]), hard_state=HardState(Term(7)))
    made = Cluster([leader, follower, Replica(3, conf, hard_state=HardState(Term(7)))])
    made.cut |= {(1, 3)}
    made[1].core.campaign()
    made.cut.clear()
    made.drop = lambda message: message.to == 3 and message.kind is MessageKind.APPEND
    made.settle()
    assert leader.core.is_leader
    assert leader.core.statistics().rejections <= len(set(FIGURE_7[name]))


def figure_8(*, replicates_own_entry: bool) -> Cluster:
    """Steps a to c, then S1 either stops (d) or gets an entry of its own term out (e)."""
    made = Cluster.of(5, max_message_bytes=1)
    everybody = set(made.replicas)

    def only(*connected: int) -> None:
        made.cut = {
            (one, other)
            for one in everybody
            for other in everybody
            if one != other and not {one, other} <= set(connected)
        }

    # Term 1, as a common start: all have an entry, index 1.
    made.elect(1)
    # (a) S1 leads and gets entry 2 to S2 only.
    only(1, 2)
    made[1].propose(b"two")
    made.settle()
    # (b) S1 is gone; S5 is elected by S3 and S4 and puts another entry at index 2.
    only(3, 4, 5)
    made[5].core.campaign(transfer=True)
    made.deliver(MessageKind.VOTE)
    made.deliver(MessageKind.VOTE_RESPONSE)
    assert made[5].core.is_leader
    made.forget_wire()
    # (c) S5 is gone; S1 comes back, is elected in a later term, and replicates its entry 2 to S3: a majority has it.
    made[5].restart()
    made[1].restart()
    only(1, 2, 3)
    made[1].core.campaign(transfer=True)
    made[1].core.campaign(transfer=True)

    def carries_own_entry(message: Message) -> bool:
        """An append that would put an entry of S1's own term into place; probes pass."""
        fits = made[message.to].core._state.log.matches(message.index, message.log_term)
        return fits and any(entry.term == message.term for entry in message.entries)

    made.drop = carries_own_entry
    made.tick(3)
    assert (made[1].core.is_leader, made[1].core.term) == (True, 3)
    assert [made[number].core.term_at(Index(2)) for number in (1, 2, 3, 5)] == [1, 1, 1, 2]
    if replicates_own_entry:
        made.drop = lambda _message: False
        made.tick(2)
    return made


def test_figure_8_an_old_entry_on_a_majority_is_not_committed_by_counting() -> None:
    """Section 5.4.2, figure 8 (d): S5 may still replace it, so it must not have been committed."""
    made = figure_8(replicates_own_entry=False)
    assert made[1].core.commit < 2
    assert made[1].payloads == []


def test_figure_8_an_entry_of_the_own_term_commits_it_and_then_the_rival_cannot_win() -> None:
    """Section 5.4.2, figure 8 (e), and leader completeness, 5.4.3."""
    made = figure_8(replicates_own_entry=True)
    assert made[1].payloads == [b"two"]
    made.heal()
    made.isolate(1)
    for _ in range(3):
        made[5].core.campaign(transfer=True)
        made.settle()
    assert made[5].core.term > 3
    assert not made[5].core.is_leader
    made.heal()
    made.tick(30)
    assert [replica.payloads for replica in made.replicas.values()] == [[b"two"]] * 5


def test_section_5_2_a_split_vote_ends_in_another_term_led_by_one() -> None:
    made = Cluster.of(4)
    made.cut |= {(1, 4), (2, 3)}
    for number in (1, 2):
        made[number].core.campaign(transfer=True)
    made.settle()
    assert [replica.core.vote for replica in made.replicas.values()] == [1, 2, 1, 2]
    assert made.leaders() == []
    made.heal()
    made.tick(30)
    assert len(made.leaders()) == 1
    assert {replica.core.term for replica in made.replicas.values()} == {made[made.leaders()[0]].core.term}


def test_section_5_3_a_returning_leaders_uncommitted_entries_are_replaced() -> None:
    made = Cluster.of(3)
    made.elect(1)
    made.isolate(1)
    made[1].propose(b"lost")
    made[3].core.suspect(ReplicaId(1))
    made[2].core.peer_down(ReplicaId(1))
    made.settle()
    made[2].propose(b"kept")
    made.settle()
    made.heal()
    made.tick(3)
    assert [replica.payloads for replica in made.replicas.values()] == [[b"kept"]] * 3
    assert made.leaders() == [2]


def test_section_8_a_leader_without_its_first_commit_serves_no_read() -> None:
    made = Cluster.of(3)
    made.drop = lambda message: message.kind is MessageKind.APPEND
    leader = made.elect(1)
    assert not leader.core.has_committed_in_term
    made.drop = lambda _message: False
    made.tick(2)
    leader.core.read_index(1)
    made.settle()
    assert [read.index for read in leader.reads] == [1]
