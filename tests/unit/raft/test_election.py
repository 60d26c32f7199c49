from __future__ import annotations

from typing import Any

import pytest

from logbroker.errors import InvariantError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.messages import HardState, Message, MessageKind, Role, SnapshotMeta
from tests.raft_kit import MemoryLog, Peer, Replica, conf_of, lead

ELECTION = 10


def replica(*terms: int, term: int = 3, vote: int = 0, voters: tuple[int, ...] = (1, 2, 3), **more: Any) -> Replica:  # noqa: ANN401 - fields of RaftConfig
    """Replica 1 with a log of `terms`, in `term`."""
    hard_state = HardState(Term(term), ReplicaId(vote))
    return Replica(1, conf_of(*voters), disk=MemoryLog.of_terms(*terms), hard_state=hard_state, **more)


def answers(subject: Replica, message: Message) -> list[Message]:
    subject.step(message)
    return subject.take_outbox()


def test_a_follower_campaigns_by_pre_vote_when_the_timeout_passes_in_silence() -> None:
    """Raft 5.2, thesis 9.6: the term is the one it would campaign in, and stays what it is."""
    subject = replica(1, 2, term=2)
    subject.tick(ELECTION - 1)
    assert subject.take_outbox() == []
    subject.tick()
    asked = subject.take_outbox()
    assert [(message.kind, message.to, message.term) for message in asked] == [
        (MessageKind.PRE_VOTE, 2, 3),
        (MessageKind.PRE_VOTE, 3, 3),
    ]
    assert (asked[0].index, asked[0].log_term) == (2, 2)
    assert (subject.core.role, subject.core.term, subject.core.vote) == (Role.PRE_CANDIDATE, 2, 0)


def test_the_timeout_is_drawn_again_at_each_reset() -> None:
    """Raft 5.2: randomised timeouts make split votes rare."""
    draws = iter([4, 0, 7, 1, 1, 1])
    subject = replica(random_ticks=lambda bound: next(draws) % bound)
    assert subject.core.election_ticks_left == ELECTION + 4
    subject.tick(ELECTION + 4)
    assert subject.core.role is Role.PRE_CANDIDATE
    assert subject.core.election_ticks_left == ELECTION


def test_a_majority_of_pre_votes_starts_the_election_and_a_majority_of_votes_wins_it() -> None:
    subject = replica(voters=(1, 2, 3, 4, 5))
    subject.core.campaign()
    subject.settle()
    subject.take_outbox()
    subject.step(Peer(2).vote(4, pre=True))
    assert (subject.core.role, subject.core.term, subject.core.vote) == (Role.PRE_CANDIDATE, 3, 0)
    subject.step(Peer(3).vote(4, pre=True))
    assert (subject.core.role, subject.core.term, subject.core.vote) == (Role.CANDIDATE, 4, 1)
    asked = subject.take_outbox()
    assert [(message.kind, message.to, message.term) for message in asked] == [
        (MessageKind.VOTE, to, 4) for to in (2, 3, 4, 5)
    ]
    roles = []
    for number in (5, 5, 4):
        subject.step(Peer(number).vote(4))
        roles.append(subject.core.role)
    assert roles == [Role.CANDIDATE, Role.CANDIDATE, Role.LEADER]


def test_a_candidate_that_is_refused_by_a_majority_follows() -> None:
    for pre in (True, False):
        subject = replica(pre_vote=pre)
        subject.core.campaign()
        subject.settle()
        term = subject.core.term
        for number in (2, 3):
            subject.step(Peer(number).vote(term, pre=pre, reject=True))
        assert (subject.core.role, subject.core.term) == (Role.FOLLOWER, term)


def test_a_late_pre_vote_is_no_vote() -> None:
    subject = replica()
    subject.core.campaign()
    subject.settle()
    for number in (2, 3):
        subject.step(Peer(number).vote(4, pre=True))
        assert subject.core.role is Role.CANDIDATE


def test_a_candidate_without_its_own_durable_vote_does_not_lead() -> None:
    """A term that a crash takes back could be led twice, with two different entries in one place."""
    subject = replica(pre_vote=False)
    subject.holds_writes = True
    subject.core.campaign()
    subject.settle()
    for number in (2, 3):
        subject.step(Peer(number).vote(4))
    assert subject.core.role is Role.CANDIDATE
    subject.persist()
    assert subject.core.is_leader
    assert subject.durable == HardState(Term(4), ReplicaId(1))


@pytest.mark.parametrize("pre", [True, False])
@pytest.mark.parametrize(("last", "granted"), [((2, 3), True), ((1, 4), True), ((1, 3), False), ((9, 2), False)])
def test_only_an_up_to_date_candidate_gets_a_vote(last: tuple[int, int], granted: bool, pre: bool) -> None:
    """Raft 5.4.1."""
    subject = replica(1, 3)
    (answer,) = answers(subject, Peer(2).vote_request(4, last, pre=pre))
    assert answer.kind is (MessageKind.PRE_VOTE_RESPONSE if pre else MessageKind.VOTE_RESPONSE)
    assert answer.reject is not granted
    assert subject.core.vote == (2 if granted and not pre else 0)


def test_one_vote_a_term_first_come_first_served() -> None:
    """Raft 5.2."""
    subject = replica()
    assert not answers(subject, Peer(2).vote_request(4, (0, 0)))[0].reject
    assert answers(subject, Peer(3).vote_request(4, (0, 0)))[0].reject
    assert not answers(subject, Peer(2).vote_request(4, (0, 0)))[0].reject
    assert not answers(subject, Peer(3).vote_request(5, (0, 0)))[0].reject


def test_a_vote_survives_a_crash() -> None:
    """Raft 5, figure 2: votedFor is persistent."""
    subject = replica()
    subject.step(Peer(2).vote_request(4, (0, 0)))
    subject.restart()
    assert answers(subject, Peer(3).vote_request(4, (0, 0)))[0].reject


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    subject = replica()
    subject.holds_writes = True
    assert answers(subject, Peer(2).vote_request(4, (0, 0))) == []
    subject.persist()
    assert [message.kind for message in subject.take_outbox()] == [MessageKind.VOTE_RESPONSE]
    assert subject.durable == HardState(Term(4), ReplicaId(2))


def test_granting_a_vote_restarts_the_timer_and_refusing_one_does_not() -> None:
    """Raft 5.2, and 9.3: otherwise a replica that cannot win keeps the others from trying."""
    subject = replica(1, 3)
    subject.tick(4)
    subject.step(Peer(2).vote_request(4, (2, 3)))
    assert subject.core.election_ticks_left == ELECTION
    subject.tick(4)
    subject.step(Peer(3).vote_request(4, (2, 3)))
    subject.step(Peer(3).vote_request(5, (2, 3), pre=True))
    assert subject.core.election_ticks_left == ELECTION - 4


def test_a_pre_vote_changes_neither_term_nor_vote() -> None:
    """Thesis 9.6."""
    subject = replica()
    (answer,) = answers(subject, Peer(2).vote_request(9, (0, 0), pre=True))
    assert (answer.reject, answer.term) == (False, 9)
    assert (subject.core.term, subject.core.vote) == (3, 0)


def test_a_refusal_tells_the_own_term() -> None:
    subject = replica(1, 3, term=7)
    (older,) = answers(subject, Peer(2).vote_request(5, (9, 9), pre=True))
    (behind,) = answers(subject, Peer(2).vote_request(8, (0, 0), pre=True))
    assert [(answer.reject, answer.term) for answer in (older, behind)] == [(True, 7), (True, 7)]
    candidate = replica(term=3)
    candidate.core.campaign()
    candidate.settle()
    candidate.step(Peer(2).vote(7, pre=True, reject=True))
    assert (candidate.core.role, candidate.core.term) == (Role.FOLLOWER, 7)


def test_votes_of_a_past_term_are_ignored() -> None:
    subject = replica()
    assert answers(subject, Peer(2).vote_request(2, (0, 0))) == []
    subject.core.campaign()
    subject.settle()
    subject.step(Peer(2).vote(1))
    assert subject.core.role is Role.PRE_CANDIDATE


@pytest.mark.parametrize("pre", [True, False])
def test_a_follower_that_hears_its_leader_ignores_campaigns(pre: bool) -> None:
    """Thesis 4.2.3: within the shortest election timeout of hearing a leader."""
    subject = replica()
    subject.step(Peer(2).heartbeat(3))
    subject.take_outbox()
    subject.tick(ELECTION - 1)
    assert answers(subject, Peer(3).vote_request(4, (0, 0), pre=pre)) == []
    assert subject.core.term == 3


def test_the_lease_of_a_silent_leader_ends_even_where_nobody_campaigns() -> None:
    """A replica that may not campaign itself must not keep renewing the lease of a leader that is gone."""
    subject = replica()
    subject.core.set_can_campaign(False)
    subject.step(Peer(2).heartbeat(3))
    subject.take_outbox()
    for _ in range(3):
        subject.tick(ELECTION)
        (answer,) = answers(subject, Peer(3).vote_request(4, (0, 0), pre=True))
        assert not answer.reject


def test_a_transfer_needs_no_pre_vote_and_overrides_the_lease() -> None:
    """Thesis 3.10."""
    voter = replica()
    voter.step(Peer(2).heartbeat(3))
    assert not answers(voter, Peer(3).vote_request(4, (0, 0), transfer=True))[-1].reject
    target = replica()
    target.step(Peer(2).heartbeat(3))
    target.take_outbox()
    asked = answers(target, Peer(2).timeout_now(3))
    assert [(message.kind, message.term, message.campaign_transfer) for message in asked] == [
        (MessageKind.VOTE, 4, True)
    ] * 2


def test_a_leader_ignores_campaigns_but_not_a_newer_leader() -> None:
    subject = replica()
    lead(subject, 2)
    subject.take_outbox()
    assert answers(subject, Peer(3).vote_request(9, (9, 9))) == []
    subject.step(Peer(3).heartbeat(9))
    assert (subject.core.role, subject.core.leader, subject.core.term) == (Role.FOLLOWER, 3, 9)


def test_a_candidate_follows_a_leader_of_its_term() -> None:
    """Raft 5.2."""
    for message in (Peer(2).heartbeat(4), Peer(2).append(4, (0, 0), 4)):
        subject = replica(pre_vote=False)
        subject.core.campaign()
        subject.settle()
        subject.take_outbox()
        subject.step(message)
        assert (subject.core.role, subject.core.leader, subject.core.vote) == (Role.FOLLOWER, 2, 1)
        assert subject.take_outbox()


def test_without_leases_an_older_leader_finds_out_by_itself() -> None:
    subject = replica(term=7, pre_vote=False, check_quorum=False)
    assert answers(subject, Peer(2).heartbeat(5)) == []


def test_a_leader_of_an_older_term_hears_of_the_newer_one() -> None:
    subject = replica(term=7)
    for message in (Peer(2).heartbeat(5), Peer(2).append(5, (0, 0), 5)):
        (answer,) = answers(subject, message)
        assert (answer.kind, answer.term, answer.index) == (MessageKind.APPEND_RESPONSE, 7, 0)
    assert subject.core.last_index == 0
    assert answers(subject, Peer(2).accepted(5, 0)) == []


def test_who_may_not_lead_does_not_campaign_but_votes() -> None:
    learner = Replica(1, conf_of(2, 3, learners=(1,)))
    forbidden = replica(term=0)
    forbidden.core.set_can_campaign(False)
    outsider = Replica(1, conf_of(2, 3))
    for subject in (learner, forbidden, outsider):
        subject.tick(3 * ELECTION)
        assert not subject.core.campaign()
        subject.step(Peer(2).timeout_now(0))
        assert subject.core.role is Role.FOLLOWER
        assert not answers(subject, Peer(2).vote_request(1, (0, 0)))[-1].reject


def test_forbidding_to_lead_ends_a_campaign() -> None:
    subject = replica()
    subject.core.campaign()
    subject.core.set_can_campaign(False)
    assert (subject.core.role, subject.core.can_campaign) == (Role.FOLLOWER, False)
    subject.core.set_can_campaign(True)
    assert subject.core.campaign()


def test_a_leader_does_not_campaign_and_no_other_role_skips_a_step() -> None:
    subject = replica()
    lead(subject, 2)
    assert not subject.core.campaign()
    for step in (subject.core._state.become_candidate, subject.core._state.become_pre_candidate):
        with pytest.raises(InvariantError):
            step()
    with pytest.raises(InvariantError):
        replica().core._state.become_leader()
    with pytest.raises(InvariantError):
        replica().core._state.become_follower(Term(1), ReplicaId(0))


def test_a_closed_connection_to_the_leader_starts_a_pre_vote() -> None:
    subject = replica()
    subject.step(Peer(2).heartbeat(3))
    assert not subject.core.peer_down(ReplicaId(3))
    assert subject.core.peer_down(ReplicaId(2))
    subject.settle()
    assert subject.core.role is Role.PRE_CANDIDATE
    assert not subject.core.peer_down(ReplicaId(2))
    subject.step(Peer(2).heartbeat(3))
    assert (subject.core.role, subject.core.leader, subject.core.term) == (Role.FOLLOWER, 2, 3)


def test_a_suspected_leader_has_no_lease_until_it_is_heard_again() -> None:
    subject = replica()
    subject.step(Peer(2).heartbeat(3))
    subject.take_outbox()
    subject.core.suspect(ReplicaId(3))
    assert answers(subject, Peer(3).vote_request(4, (0, 0), pre=True)) == []
    subject.core.suspect(ReplicaId(2))
    assert not answers(subject, Peer(3).vote_request(4, (0, 0), pre=True))[0].reject
    assert subject.core.leader == 2
    subject.step(Peer(2).heartbeat(3))
    subject.take_outbox()
    assert answers(subject, Peer(3).vote_request(4, (0, 0), pre=True)) == []


def test_a_replica_that_waits_for_a_snapshot_does_not_campaign() -> None:
    subject = replica(1)
    subject.holds_writes = True
    subject.step(Peer(2).snapshot(3, SnapshotMeta(Index(9), Term(3), conf_of(1, 2, 3))))
    assert not subject.core.campaign()
    subject.persist()
    assert subject.core.campaign()


def test_vote_requests_and_answers_tell_what_is_committed() -> None:
    """A replica that lost its commit index learns it from whoever refuses it."""
    subject = replica(1, 2, 2, 3)
    subject.core._state.log.commit_to(Index(3))
    (answer,) = answers(subject, Peer(2).vote_request(4, (1, 1), pre=True))
    assert (answer.commit, answer.context) == (3, 2)
    behind = replica(1, 2, 2)
    behind.core.campaign()
    behind.step(answer._replace(to=ReplicaId(1), sender=ReplicaId(2)))
    assert behind.core.commit == 3
    other = replica(1, 1, 1)
    other.step(answer._replace(to=ReplicaId(1), sender=ReplicaId(2)))
    assert other.core.commit == 0
    asked = replica(1, 2, 2)
    asked.step(Peer(2).vote_request(4, (9, 9))._replace(commit=Index(2), context=2))
    assert asked.core.commit == 2


def test_a_leader_counts_for_itself_what_is_committed() -> None:
    subject = replica(1)
    lead(subject, 2)
    subject.step(Peer(2).vote(4)._replace(commit=Index(2), context=4))
    assert subject.core.commit == 0
