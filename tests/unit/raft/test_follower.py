from __future__ import annotations

from typing import Any

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import InvariantError, RemoteProtocolError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.log import LostEntriesError
from logbroker.raft.messages import HardState, Message, MessageKind, Role, SnapshotMeta
from tests.raft_kit import MemoryLog, Peer, Replica, conf_of, make_entry

LEADER = Peer(2)


def follower(*terms: int, term: int = 5, **more: Any) -> Replica:  # noqa: ANN401 - fields of RaftConfig
    state = HardState(Term(term))
    return Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(*terms), hard_state=state, **more)


def answer(subject: Replica, message: Message) -> Message:
    subject.step(message)
    (found,) = subject.take_outbox()
    return found


def test_matching_entries_are_appended_and_acknowledged() -> None:
    """Raft 5.3."""
    subject = follower(1, 1)
    found = answer(subject, LEADER.append(5, (2, 1), 5, 5))
    assert (found.kind, found.reject, found.index, found.term) == (MessageKind.APPEND_RESPONSE, False, 4, 5)
    assert subject.disk.terms() == [1, 1, 5, 5]


def test_a_large_tail_is_acknowledged_in_parts_as_they_become_durable() -> None:
    """A part that is durable and not acknowledged could not be committed, nor its place in a full log let go."""
    size = make_entry(EntryKind.DATA, 1, 5).size_bytes
    subject = follower(max_write_bytes=2 * size)
    subject.holds_writes = True
    # Both arrive before anything is handed out.
    subject.core.step(LEADER.append(5, (0, 0), 5, 5))
    subject.core.step(LEADER.append(5, (2, 5), 5, 5, 5))
    subject.settle()
    assert [len(ready.entries) for ready in subject.writes] == [2, 2, 1]
    acknowledged = []
    for _ in range(3):
        subject.persist(1)
        acknowledged.append([message.index for message in subject.take_outbox()])
    assert acknowledged == [[2], [], [5]]


def test_answers_keep_their_order_where_one_waits_for_a_later_part() -> None:
    size = make_entry(EntryKind.DATA, 1, 5).size_bytes
    subject = follower(max_write_bytes=size)
    subject.holds_writes = True
    subject.core.step(LEADER.append(5, (0, 0), 5, 5))
    subject.core.step(LEADER.append(5, (7, 5), 5))
    subject.core.step(LEADER.append(5, (0, 0), 5))
    subject.settle()
    subject.persist(1)
    assert subject.take_outbox() == []
    subject.persist(1)
    assert [(message.reject, message.index) for message in subject.take_outbox()] == [(False, 2), (True, 7), (False, 1)]


def test_conflicting_entries_are_replaced_with_all_that_follow() -> None:
    """Raft 5.3."""
    subject = follower(1, 2, 2, 2)
    assert answer(subject, LEADER.append(5, (1, 1), 3, 5)).index == 3
    assert subject.disk.terms() == [1, 3, 5]


@pytest.mark.parametrize(
    ("terms", "after", "hint", "hint_term"),
    [
        ((), (4, 4), 0, 0),
        ((1, 1), (4, 4), 2, 1),
        ((1, 3, 3, 4, 4, 5, 5, 5, 5), (8, 3), 3, 3),
        ((4, 4, 4), (3, 2), 0, 0),
    ],
)
def test_a_gap_or_conflict_is_answered_with_the_last_place_that_may_match(
    terms: tuple[int, ...], after: tuple[int, int], hint: int, hint_term: int
) -> None:
    """Raft 5.3, optimised: one answer skips all entries of terms that cannot match."""
    found = answer(follower(*terms), LEADER.append(5, after, 5))
    assert (found.reject, found.index, found.reject_hint, found.log_term) == (True, after[0], hint, hint_term)


def test_the_commit_index_stays_within_what_was_compared() -> None:
    """Raft 5.3: what follows the last new entry may be another leader's."""
    subject = follower(1, 1, 1, 1)
    answer(subject, LEADER.append(5, (1, 1), 1, commit=4))
    assert subject.core.commit == 2
    answer(subject, LEADER.append(5, (2, 1), commit=1))
    assert subject.core.commit == 2


def test_an_append_from_before_the_commit_index_is_answered_with_it() -> None:
    subject = follower(1, 1, 1)
    answer(subject, LEADER.append(5, (3, 1), commit=3))
    assert answer(subject, LEADER.append(5, (1, 1), 4, 4)).index == 3
    assert subject.disk.terms() == [1, 1, 1]


def test_an_acknowledgement_waits_for_the_write_of_the_entries() -> None:
    """Raft 5, figure 2; a reply is a promise that survives a crash."""
    subject = follower()
    subject.holds_writes = True
    subject.step(LEADER.append(5, (0, 0), 5))
    assert subject.take_outbox() == []
    subject.step(LEADER.heartbeat(5))
    assert [message.kind for message in subject.take_outbox()] == [MessageKind.HEARTBEAT_RESPONSE]
    subject.persist()
    assert [message.index for message in subject.take_outbox()] == [1]


def test_a_heartbeat_commits_and_its_context_comes_back() -> None:
    subject = follower(1, 1)
    found = answer(subject, LEADER.heartbeat(5, commit=2, context=77))
    assert (found.kind, found.context) == (MessageKind.HEARTBEAT_RESPONSE, 77)
    assert (subject.core.commit, subject.core.leader) == (2, 2)
    assert [entry.index for entry in subject.applied] == [1, 2]


def test_a_commit_index_beyond_the_log_stops_the_group() -> None:
    subject = follower(1)
    with pytest.raises(LostEntriesError, match="commit index 2 is beyond the last index 1"):
        subject.step(LEADER.heartbeat(5, commit=2))


def test_two_leaders_in_one_term_stop_the_group() -> None:
    """Raft 5.2, election safety."""
    subject = follower()
    subject.step(LEADER.heartbeat(5))
    with pytest.raises(InvariantError, match="two leaders"):
        subject.step(Peer(3).heartbeat(5))


@pytest.mark.parametrize(
    ("after", "entries"),
    [
        ((0, 0), [(2, 5)]),
        ((0, 0), [(1, 5), (3, 5)]),
        ((0, 0), [(1, 5), (2, 4)]),
        ((2, 4), [(3, 3)]),
        ((0, 0), [(1, 6)]),
    ],
)
def test_entries_that_cannot_be_of_one_log_are_refused_before_anything_changes(
    after: tuple[int, int], entries: list[tuple[int, int]]
) -> None:
    subject = follower(4, 4, term=4)
    made = [make_entry(EntryKind.DATA, index, term) for index, term in entries]
    with pytest.raises(RemoteProtocolError):
        subject.step(LEADER.append_entries(5, after, made))
    assert (subject.core.term, subject.core.last_index) == (4, 2)


def test_messages_for_another_replica_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="replica 9"):
        follower().step(Peer(2, to=9).heartbeat(5))


def test_a_snapshot_message_without_snapshot_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        follower().step(LEADER.snapshot(5, None))


def meta(index: int, term: int, *voters: int) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), conf_of(*(voters or (1, 2, 3, 4))))


def test_a_snapshot_ahead_of_the_log_replaces_log_and_configuration_and_is_acknowledged_when_durable() -> None:
    subject = follower(1, 1)
    subject.holds_writes = True
    subject.step(LEADER.snapshot(5, meta(9, 4)))
    assert subject.writes[-1].snapshot == meta(9, 4)
    assert subject.writes[-1].must_sync
    assert subject.take_outbox() == []
    assert subject.core.conf == conf_of(1, 2, 3)
    subject.persist()
    (found,) = subject.take_outbox()
    assert (found.kind, found.index) == (MessageKind.APPEND_RESPONSE, 9)
    assert (subject.core.conf, subject.core.applied, subject.core.commit) == (conf_of(1, 2, 3, 4), 9, 9)
    subject.holds_writes = False
    assert answer(subject, LEADER.append(5, (9, 4), 5)).index == 10


def test_entries_handed_out_before_a_snapshot_may_be_applied_until_it_is_durable() -> None:
    subject = follower(1, 1, 1)
    subject.holds_writes = subject.holds_applies = True
    subject.step(LEADER.heartbeat(5, commit=2))
    subject.step(LEADER.snapshot(5, meta(9, 4)))
    subject.persist()
    assert [entry.index for entry in subject.applied] == []
    assert subject.core.applied == 9


def test_entries_sent_behind_a_snapshot_follow_it() -> None:
    subject = follower(1, 1)
    subject.holds_writes = True
    subject.step(LEADER.snapshot(5, meta(9, 4)))
    subject.step(LEADER.append(5, (9, 4), 5, commit=10))
    assert subject.applied == []
    subject.persist()
    subject.settle()
    assert [entry.index for entry in subject.applied] == [10]


def test_a_snapshot_at_or_below_the_commit_index_is_ignored() -> None:
    subject = follower(1, 1, 1)
    subject.step(LEADER.heartbeat(5, commit=3))
    subject.take_outbox()
    assert answer(subject, LEADER.snapshot(5, meta(3, 1))).index == 3
    assert subject.core.conf == conf_of(1, 2, 3)


def test_a_snapshot_older_than_the_log_is_ignored() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog(snapshot=meta(6, 2)), hard_state=HardState(Term(5)))
    assert answer(subject, LEADER.snapshot(5, meta(3, 1))).index == 6


def test_a_snapshot_that_the_log_already_holds_only_commits() -> None:
    subject = follower(1, 1, 1)
    assert answer(subject, LEADER.snapshot(5, meta(2, 1))).index == 2
    assert (subject.core.commit, subject.core.last_index) == (2, 3)


def test_a_snapshot_from_before_this_replica_was_added_is_taken() -> None:
    subject = Replica(1, conf_of())
    assert answer(subject, LEADER.snapshot(5, meta(9, 4, 2, 3))).index == 9
    assert not subject.core.campaign()


def test_a_candidate_takes_a_snapshot_as_a_follower() -> None:
    subject = follower(1, term=4)
    subject.core.campaign()
    subject.settle()
    subject.take_outbox()
    assert answer(subject, LEADER.snapshot(5, meta(9, 4))).index == 9
    assert subject.core.leader == ReplicaId(2)


def test_a_packed_heartbeat_that_brings_nothing_new_puts_the_election_off() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1, 1), hard_state=HardState(Term(1)))
    core = subject.core
    assert not core.on_beat(ReplicaId(2), Term(1), Index(0)), "who leads is not known yet"
    subject.step(Peer(2).heartbeat(1, commit=1))
    subject.take_outbox()
    for _ in range(50):
        core.tick()
        assert core.on_beat(ReplicaId(2), Term(1), Index(1))
    assert core.role is Role.FOLLOWER
    assert not core.on_beat(ReplicaId(2), Term(1), Index(2)), "a commit index to learn"
    assert not core.on_beat(ReplicaId(2), Term(2), Index(1))
    assert not core.on_beat(ReplicaId(3), Term(1), Index(1))
    assert core.commit == 1
