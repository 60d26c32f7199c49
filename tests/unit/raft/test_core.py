from __future__ import annotations

import pytest

import logbroker.raft
from logbroker.entry import EntryKind
from logbroker.errors import InvariantError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.core import RaftCore
from logbroker.raft.log import CompactedError
from logbroker.raft.messages import HardState, MessageKind, PersistToken, Role, SnapshotMeta, SoftState
from logbroker.raft.state import Ticks
from logbroker.raft.trace import TraceKind
from tests.raft_kit import Cluster, MemoryLog, Peer, Replica, conf_of, lead, make_entry

ELECTION = 10


def test_every_public_name_is_there() -> None:
    assert sorted(logbroker.raft.__all__) == logbroker.raft.__all__
    for name in logbroker.raft.__all__:
        assert getattr(logbroker.raft, name)


def test_a_quiet_replica_wants_nothing() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1, 1), hard_state=HardState(Term(1)))
    assert not subject.core.has_ready()
    subject.core.tick()
    assert not subject.core.has_ready()


def test_term_and_vote_are_handed_out_when_they_change_and_the_commit_index_alone_is_not() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1), hard_state=HardState(Term(1)))
    subject.core.step(Peer(2).vote_request(2, (1, 1)))
    ready = subject.handle_ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(Term(2), ReplicaId(2)), True)
    subject.persist()
    subject.core.step(Peer(2).heartbeat(2, commit=1))
    ready = subject.handle_ready()
    assert (ready.hard_state, ready.must_sync) == (None, False)
    assert ready.soft_state == SoftState(ReplicaId(2), Role.FOLLOWER)
    assert [entry.index for entry in ready.committed] == [1]


def test_several_ready_may_be_out_and_are_acknowledged_in_order() -> None:
    subject = Replica(1, conf_of(1))
    subject.core.campaign()
    subject.settle()
    subject.holds_writes = True
    for payload in (b"a", b"b"):
        subject.propose(payload)
    assert [[entry.payload for entry in ready.entries] for ready in subject.writes] == [[b"a"], [b"b"]]
    subject.persist(1)
    assert (subject.core.commit, subject.core.durable_index) == (2, 2)
    subject.persist()
    assert (subject.core.commit, subject.core.durable_index) == (3, 3)


def test_one_token_speaks_for_all_before_it() -> None:
    subject = Replica(1, conf_of(1))
    subject.core.campaign()
    tokens = []
    for _ in range(3):
        ready = subject.core.ready()
        subject.disk.write(ready.entries)
        tokens.append(ready.token)
    subject.core.on_persisted(tokens[-1])
    assert subject.core.role is Role.CANDIDATE
    subject.settle()
    assert subject.core.is_leader
    for wrong in (tokens[0], PersistToken(99)):
        with pytest.raises(InvariantError, match="reported durable"):
            subject.core.on_persisted(wrong)


def test_an_entry_put_back_by_its_first_leader_is_not_acknowledged_by_its_first_write() -> None:
    """Thesis 10.2.1 and its ABA: written, replaced, written again, with all three writes on their way."""
    subject = Replica(1, conf_of(1, 2, 3, 4, 5), hard_state=HardState(Term(1)))
    subject.holds_writes = True
    first = [make_entry(EntryKind.DATA, 1, 1, b"first")]
    second = [make_entry(EntryKind.DATA, 1, 2, b"second")]
    subject.step(Peer(2).append_entries(1, (0, 0), first))
    subject.step(Peer(3).append_entries(2, (0, 0), second))
    subject.step(Peer(2).append_entries(3, (0, 0), first, commit=1))
    subject.persist(1)
    assert (subject.core.durable_index, subject.applied) == (0, [])
    subject.persist(1)
    assert (subject.core.durable_index, subject.applied) == (0, [])
    subject.persist()
    subject.settle()
    assert (subject.core.durable_index, subject.payloads) == (1, [b"first"])


def test_a_leader_does_not_count_a_write_from_before_its_log_was_replaced() -> None:
    subject = Replica(1, conf_of(1, 2, 3), hard_state=HardState(Term(1)), pre_vote=False)
    subject.holds_writes = True
    subject.step(Peer(2).append(1, (0, 0), 1, 1))
    subject.step(Peer(3).append(2, (0, 0), 2))
    subject.core.campaign()
    subject.settle()
    subject.persist(1)
    subject.persist()
    subject.step(Peer(3).vote(3))
    assert subject.core.is_leader
    assert next(status.match for status in subject.core.progress()) == 1
    subject.step(Peer(2).accepted(3, 2))
    assert subject.core.commit == 0
    subject.persist()
    assert subject.core.commit == 2


def test_what_is_handed_out_to_apply_is_bounded_per_ready() -> None:
    subject = Replica(1, conf_of(1), max_committed_bytes_per_ready=150)
    subject.core.campaign()
    subject.settle()
    subject.holds_applies = True
    subject.propose(b"", b"", b"")
    assert [entry.index for entry in subject.applies[0]] == [2, 3]
    assert len(subject.applies) == 1
    subject.apply()
    subject.settle()
    assert [entry.index for entry in subject.applies[0]] == [4]


def test_applying_stops_before_an_entry_that_storage_has_lost() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1, 1, 1), hard_state=HardState(Term(1)))
    subject.core.set_apply_limit(Index(1))
    subject.step(Peer(2).heartbeat(1, commit=3))
    assert [entry.index for entry in subject.applied] == [1]
    subject.core.set_apply_limit(None)
    subject.settle()
    assert [entry.index for entry in subject.applied] == [1, 2, 3]


def test_without_asynchronous_storage_what_is_committed_is_applied_in_the_ready_that_stores_it() -> None:
    subject = Replica(1, conf_of(1, 2, 3), async_storage=False)
    subject.core.step(Peer(2).append(1, (0, 0), 1, commit=1))
    ready = subject.core.ready()
    assert ready.entries == ready.committed
    assert len(ready.entries) == 1


def test_a_restart_goes_on_from_the_applied_index() -> None:
    disk = MemoryLog.of_terms(1, 1, 1)
    hard_state = HardState(Term(2), ReplicaId(3), Index(3))
    subject = Replica(1, conf_of(1, 2, 3), disk=disk, hard_state=hard_state, applied=2)
    assert (subject.core.term, subject.core.vote, subject.core.commit, subject.core.applied) == (2, 3, 3, 2)
    subject.settle()
    assert [entry.index for entry in subject.applied] == [3]
    older = Replica(1, conf_of(1, 2, 3), disk=disk, hard_state=HardState(Term(2)), applied=2)
    assert older.core.commit == 2


@pytest.mark.parametrize("applied", [4, 9])
def test_an_applied_index_outside_the_log_stops_the_group(applied: int) -> None:
    disk = MemoryLog([make_entry(EntryKind.DATA, 6, 1)], snapshot=SnapshotMeta(Index(5), Term(1), conf_of(1)))
    with pytest.raises(InvariantError, match="not within the log"):
        Replica(1, conf_of(1), disk=disk, applied=applied)


def test_the_log_can_be_read_through_the_core() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1, 2))
    subject.step(Peer(2).append(3, (2, 2), 3))
    assert (subject.core.first_index, subject.core.last_index, subject.core.last_term) == (1, 3, 3)
    assert [subject.core.term_at(Index(index)) for index in (1, 2, 3)] == [1, 2, 3]
    assert [entry.term for entry in subject.core.entries(Index(2), max_bytes=1 << 20)] == [2, 3]
    with pytest.raises(CompactedError):
        subject.core.entries(Index(0), max_bytes=1)
    assert (subject.core.replica, subject.core.next_index) == (1, 4)


def test_counters_tell_what_happened() -> None:
    subject = Replica(1, conf_of(1, 2, 3))
    lead(subject, 2)
    statistics = subject.core.statistics()
    assert (statistics.campaigns, statistics.terms_led, statistics.uncommitted_bytes) == (1, 1, 64)


def test_the_trace_is_off_unless_asked_for() -> None:
    subject = Replica(1, conf_of(1))
    subject.core.campaign()
    assert subject.core.take_trace() == []


def test_the_trace_tells_each_step_and_is_bounded() -> None:
    made = Cluster.of(2, max_trace_events=100)
    made.elect(1)
    events = made[1].core.take_trace()
    assert [event.kind for event in events if event.message is None] == [
        TraceKind.STARTED,
        TraceKind.BECAME_FOLLOWER,
        TraceKind.BECAME_PRE_CANDIDATE,
        TraceKind.BECAME_CANDIDATE,
        TraceKind.BECAME_LEADER,
        TraceKind.REPLICATED,
        TraceKind.COMMITTED,
    ]
    spoken = [(event.kind, event.message.kind) for event in events if event.message is not None]
    assert (TraceKind.SENT, MessageKind.PRE_VOTE) in spoken
    assert (TraceKind.RECEIVED, MessageKind.APPEND_RESPONSE) in spoken
    assert made[1].core.take_trace() == []
    bounded = Cluster.of(2, max_trace_events=3)
    bounded.elect(1)
    assert len(bounded[1].core.take_trace()) == 3


def test_the_trace_tells_what_a_follower_takes_over() -> None:
    subject = Replica(1, conf_of(1, 2, 3), max_trace_events=100)
    subject.step(Peer(2).append(1, (0, 0), 1, commit=1))
    subject.step(Peer(2).snapshot(1, SnapshotMeta(Index(5), Term(1), conf_of(1, 2, 3))))
    kinds = [event.kind for event in subject.core.take_trace()]
    assert kinds.count(TraceKind.COMMITTED) == 1
    assert kinds.count(TraceKind.RESTORED) == 1


# Rest: ticks at which the core need not be asked.


@pytest.mark.parametrize("jitter", [0, 7])
def test_a_follower_rests_until_its_election_timeout(jitter: int) -> None:
    ticks = Ticks()
    subject = Replica(1, conf_of(1, 2, 3), hard_state=HardState(Term(1)), random_ticks=lambda _: jitter, ticks=ticks)
    rest = subject.core.rest_ticks
    assert rest == ELECTION + jitter - 1
    ticks.count += rest
    assert (subject.core.on_tick(), subject.core.rest_ticks) == (False, 0)
    ticks.count += 1
    assert subject.core.on_tick()
    assert subject.core.role is Role.PRE_CANDIDATE
    assert subject.core.rest_ticks == ELECTION + jitter - 1


def test_a_follower_that_hears_its_leader_rests_longer() -> None:
    ticks = Ticks()
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1), hard_state=HardState(Term(1)), ticks=ticks)
    subject.core.step(Peer(2).heartbeat(1, commit=1))
    ticks.count += ELECTION - 1
    assert subject.core.rest_ticks == 0
    assert subject.core.on_beat(ReplicaId(2), Term(1), Index(1))
    assert subject.core.rest_ticks == ELECTION - 1
    ticks.count += 3
    RaftCore.on_same_beats([subject.core])
    assert subject.core.rest_ticks == ELECTION - 1


def test_who_rested_refuses_votes_in_the_lease_and_answers_after_it() -> None:
    """Raft 6, thesis 4.2.3: also where nobody asked the core in between."""
    ticks = Ticks()
    subject = Replica(1, conf_of(1, 2, 3), hard_state=HardState(Term(1)), random_ticks=lambda _: 5, ticks=ticks)
    subject.step(Peer(2).heartbeat(1))
    subject.take_outbox()
    ticks.count += ELECTION - 1
    subject.step(Peer(3).vote_request(2, (0, 0)))
    assert (subject.take_outbox(), subject.core.term) == ([], 1)
    ticks.count += 1
    subject.step(Peer(3).vote_request(2, (0, 0)))
    assert [message.kind for message in subject.take_outbox()] == [MessageKind.VOTE_RESPONSE]


def test_a_leader_rests_until_it_asks_for_its_majority_and_its_heartbeats_are_due_all_the_while() -> None:
    ticks = Ticks()
    subject = Replica(1, conf_of(1, 2, 3), packs_heartbeats=True, ticks=ticks)
    lead(subject, 2, 3)
    for number in (2, 3):
        subject.step(Peer(number).accepted(1, 1))
    subject.settle()
    for is_heard in (True, True, False):
        rest = subject.core.rest_ticks
        assert rest == ELECTION - 1
        ticks.count += rest
        assert subject.core.take_beats() == [(2, 1), (3, 1)]
        if is_heard:
            RaftCore.on_same_answers([(subject.core, ReplicaId(2))])
        assert subject.core.is_leader
        ticks.count += 1
        assert subject.core.on_tick() is not is_heard
    assert not subject.core.is_leader
    assert subject.core.statistics().quorum_losses == 1


@pytest.mark.parametrize("why", ["not packed", "not at every tick", "a read", "an entry"])
def test_a_leader_with_something_due_at_every_tick_does_not_rest(why: str) -> None:
    subject = Replica(
        1,
        conf_of(1, 2, 3),
        packs_heartbeats=why != "not packed",
        heartbeat_ticks=2 if why == "not at every tick" else 1,
        gather_appends=True,
    )
    lead(subject, 2, 3)
    for number in (2, 3):
        subject.step(Peer(number).accepted(1, 1))
    subject.settle()
    if why == "a read":
        subject.core.read_index(7)
        subject.settle()
    if why == "an entry":
        subject.core.propose((make_entry(EntryKind.DATA, Index(2), Term(1), b"a"),))
    assert subject.core.is_leader
    assert subject.core.rest_ticks == 0
