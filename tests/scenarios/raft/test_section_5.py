"""What section 5 of the Raft paper says a server does, sentence by sentence, acted out on the core.

Its figures are in `test_paper`. Where the core differs, the test says how: it asks for a pre-vote first, and a
replica that hears a leader answers no campaign.
"""

from __future__ import annotations

import pytest

from logbroker.ids import ReplicaId, Term
from logbroker.raft.messages import HardState, Message, MessageKind, Role
from logbroker.raft.refusal import ProposalRefused
from tests.raft_kit import Cluster, MemoryLog, Peer, Replica, conf_of, lead


def follower(*terms: int, term: int = 0) -> Replica:
    return Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(*terms), hard_state=HardState(Term(term)))


def answers(replica: Replica, kind: MessageKind) -> list[Message]:
    return [message for message in replica.take_outbox() if message.kind is kind]


# 5.1: terms.


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_5_1_whoever_sees_a_larger_term_takes_it_over_and_follows(role: Role) -> None:
    replica = follower(term=1)
    if role is not Role.FOLLOWER:
        replica.core.campaign(transfer=True)
        replica.settle()
    if role is Role.LEADER:
        replica.step(Message(MessageKind.VOTE_RESPONSE, replica.id, ReplicaId(2), replica.core.term))
    assert replica.core.role is role
    replica.step(Peer(2).append(9, (0, 0), 9))
    assert (replica.core.role, replica.core.term, replica.core.leader) == (Role.FOLLOWER, 9, 2)


def test_5_1_a_request_of_an_older_term_is_rejected_and_changes_nothing() -> None:
    replica = follower(1, term=5)
    replica.step(Peer(2).append(4, (1, 1), 4))
    assert replica.core.last_index == 1
    (answer,) = answers(replica, MessageKind.APPEND_RESPONSE)
    assert answer.term == 5


def test_5_1_terms_only_grow_over_a_restart_too() -> None:
    replica = follower()
    replica.step(Peer(2).append(7, (0, 0), 7))
    replica.restart()
    assert replica.core.term == 7


# 5.2: elections.


def test_5_2_a_server_begins_as_a_follower_and_stays_one_while_it_hears_a_leader() -> None:
    replica = follower()
    assert replica.core.role is Role.FOLLOWER
    for _ in range(5):
        replica.step(Peer(2).append(1, (0, 0)))
        replica.tick(9)
    assert replica.core.role is Role.FOLLOWER


def test_5_2_without_a_leader_it_votes_for_itself_in_a_new_term_and_asks_all_others() -> None:
    made = Cluster.of(3)
    made.isolate(1)
    made[1].tick(2 * 10)
    assert made[1].core.role is Role.PRE_CANDIDATE, "nothing is changed by asking whether it could win"
    made[1].core.campaign(transfer=True)
    made[1].settle()
    assert (made[1].core.role, made[1].core.term, made[1].core.vote) == (Role.CANDIDATE, 1, 1)
    asked = answers(made[1], MessageKind.VOTE)
    assert [message.to for message in asked] == [2, 3]


def test_5_2_a_majority_of_votes_of_one_term_makes_a_leader_that_tells_all_at_once() -> None:
    replica = Replica(1, conf_of(1, 2, 3, 4, 5))
    replica.core.campaign(transfer=True)
    replica.settle()
    replica.step(Message(MessageKind.VOTE_RESPONSE, replica.id, ReplicaId(2), Term(1)))
    assert replica.core.role is Role.CANDIDATE
    replica.take_outbox()
    replica.step(Message(MessageKind.VOTE_RESPONSE, replica.id, ReplicaId(3), Term(1)))
    assert replica.core.is_leader
    assert sorted(message.to for message in answers(replica, MessageKind.APPEND)) == [2, 3, 4, 5]


def test_5_2_a_vote_goes_to_the_first_that_asks_in_a_term() -> None:
    replica = follower()
    for sender in (2, 3):
        replica.step(Message(MessageKind.VOTE, replica.id, ReplicaId(sender), Term(1)))
    first, second = answers(replica, MessageKind.VOTE_RESPONSE)
    assert (first.to, first.reject, second.to, second.reject) == (2, False, 3, True)


def test_5_2_a_candidate_follows_a_leader_of_its_term_and_ignores_one_of_an_older() -> None:
    replica = follower(term=4)
    replica.core.campaign(transfer=True)
    replica.settle()
    replica.step(Peer(2).append(4, (0, 0), 4))
    assert (replica.core.role, replica.core.term) == (Role.CANDIDATE, 5)
    replica.step(Peer(2).append(5, (0, 0), 5))
    assert (replica.core.role, replica.core.leader) == (Role.FOLLOWER, 2)


# 5.3: the log.


def test_5_3_an_entry_is_appended_sent_to_all_and_applied_when_a_majority_has_it() -> None:
    made = Cluster.of(5)
    leader = made.elect(1)
    made.cut |= {(1, 4), (1, 5)}
    leader.propose(b"a")
    assert leader.payloads == []
    made.settle()
    assert leader.payloads == [b"a"]
    made.heal()
    made.tick(2)
    assert all(replica.payloads == [b"a"] for replica in made.replicas.values())


def test_5_3_followers_that_lag_are_sent_entries_until_they_have_them_all() -> None:
    made = Cluster.of(3)
    leader = made.elect(1)
    made.isolate(3)
    for number in range(20):
        leader.propose(b"%d" % number)
        made.settle()
    assert len(leader.payloads) == 20, "the others do not wait for it"
    made.heal()
    made.tick(3)
    assert made[3].payloads == leader.payloads


def test_5_3_an_append_is_rejected_where_the_entry_before_it_is_missing_or_another() -> None:
    for after in ((3, 1), (2, 2)):
        replica = follower(1, 1, term=2)
        replica.step(Peer(2).append(2, after, 2))
        (answer,) = answers(replica, MessageKind.APPEND_RESPONSE)
        assert answer.reject
        assert replica.core.last_index == 2


def test_5_3_an_entry_that_conflicts_goes_with_all_that_follow_it() -> None:
    replica = follower(1, 1, 1, 1, term=1)
    replica.step(Peer(2).append(2, (2, 1), 2))
    assert replica.disk.terms() == [1, 1, 2]


def test_5_3_an_append_that_holds_less_than_the_log_takes_nothing_away() -> None:
    replica = follower(1, 1, 1, term=1)
    replica.step(Peer(2).append(1, (0, 0), 1))
    assert replica.core.last_index == 3


def test_5_3_a_leader_never_replaces_or_deletes_entries_of_its_own_log() -> None:
    replica = follower(1, 1, term=1)
    lead(replica, 2)
    before = replica.disk.terms()
    replica.step(Peer(2).rejected(replica.core.term, 2, hint=0, hint_term=0))
    replica.propose(b"more")
    assert replica.disk.terms()[: len(before)] == before


# 5.4: what a new leader has, and what it commits.


@pytest.mark.parametrize(
    ("log", "granted"),
    [((3, 2), True), ((2, 3), True), ((2, 2), True), ((1, 2), False), ((9, 1), False)],
    ids=["longer", "of_a_later_term", "the_same", "shorter", "longer_of_an_older_term"],
)
def test_5_4_1_a_vote_goes_only_to_a_log_that_is_as_far(log: tuple[int, int], granted: bool) -> None:
    replica = follower(1, 2, term=2)
    index, term = log
    replica.step(
        Message(
            MessageKind.VOTE, replica.id, ReplicaId(2), Term(3), log_term=Term(term), index=type(replica.base)(index)
        )
    )
    (answer,) = answers(replica, MessageKind.VOTE_RESPONSE)
    assert answer.reject is not granted


def test_5_4_2_entries_of_an_older_term_wait_for_one_of_the_leaders_own() -> None:
    replica = follower(1, 1, term=1)
    lead(replica, 2)
    replica.step(Peer(2).accepted(replica.core.term, 2))
    assert replica.core.commit == 0
    replica.step(Peer(2).accepted(replica.core.term, 3))
    assert replica.core.commit == 3


# 5.5 and 5.6: crashes and time.


def test_5_5_a_request_that_comes_twice_does_what_it_does_once() -> None:
    replica = follower()
    append = Peer(2).append(1, (0, 0), 1, 1, commit=2)
    replica.step(append)
    replica.step(append)
    assert (replica.core.last_index, len(replica.applied)) == (2, 2)
    vote = Message(MessageKind.VOTE, replica.id, ReplicaId(3), Term(2), log_term=Term(9), index=type(replica.base)(9))
    replica.core.suspect(ReplicaId(2))
    replica.take_outbox()
    replica.step(vote)
    replica.step(vote)
    assert [answer.reject for answer in answers(replica, MessageKind.VOTE_RESPONSE)] == [False, False]


def test_5_5_a_follower_that_crashed_answers_when_it_is_asked_again() -> None:
    made = Cluster.of(3)
    leader = made.elect(1)
    made.isolate(2)
    leader.propose(b"a")
    made.settle()
    made[2].restart()
    made.heal()
    made.tick(2)
    assert made[2].payloads == [b"a"]


def test_5_6_time_decides_who_leads_and_never_what_is_true() -> None:
    """However often leaders change, whatever was applied stays."""
    made = Cluster.of(3)
    applied: list[bytes] = []
    for turn in range(6):
        leader = made.elect(1 + turn % 3) if turn % 3 + 1 not in made.leaders() else made[1 + turn % 3]
        with pytest.raises(ProposalRefused):
            made[1 + (turn + 1) % 3].propose(b"not here")
        applied.append(b"%d" % turn)
        leader.propose(applied[-1])
        made.settle()
        made.tick(2)
        for replica in made.replicas.values():
            assert replica.payloads == applied
            replica.core.suspect(leader.id)
        leader.core.transfer_leadership(ReplicaId(1 + (turn + 1) % 3))
        made.settle()
