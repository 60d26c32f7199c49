from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import InvariantError, RemoteProtocolError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.messages import HardState, Message, MessageKind, Role, SnapshotMeta
from logbroker.raft.progress import ProgressState
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from tests.raft_kit import MemoryLog, Peer, Replica, conf_of, lead, make_entry

if TYPE_CHECKING:
    from logbroker.raft.core import ProgressStatus

ELECTION = 10
SECOND, THIRD = Peer(2), Peer(3)


def leader(*terms: int, term: int = 1, voters: tuple[int, ...] = (1, 2, 3), **more: Any) -> Replica:  # noqa: ANN401 - fields of RaftConfig
    """Replica 1 leading term + 1 over a log of `terms` and its own empty entry; nobody has acknowledged."""
    subject = Replica(1, conf_of(*voters), disk=MemoryLog.of_terms(*terms), hard_state=HardState(Term(term)), **more)
    lead(subject, *voters[1:])
    subject.take_outbox()
    return subject


def replicating(*terms: int, **more: Any) -> Replica:  # noqa: ANN401 - fields of RaftConfig
    """As `leader`, with everything acknowledged and committed."""
    subject = leader(*terms, **more)
    for number in (2, 3):
        subject.step(Peer(number).accepted(subject.core.term, subject.core.last_index))
    subject.take_outbox()
    return subject


def progress_of(subject: Replica, replica: int) -> ProgressStatus:
    return next(status for status in subject.core.progress() if status.replica == replica)


def sent(subject: Replica, kind: MessageKind, to: int | None = None) -> list[Message]:
    return [message for message in subject.take_outbox() if message.kind is kind and to in (None, message.to)]


def refusal(request: Any) -> RefusalReason:  # noqa: ANN401 - any call
    with pytest.raises(ProposalRefused) as caught:
        request()
    return caught.value.reason


def test_a_new_leader_announces_itself_by_an_empty_entry_of_its_term() -> None:
    """Raft 8: it learns what is committed from the first entry of its own."""
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1, 1), hard_state=HardState(Term(1)))
    lead(subject, 2)
    appends = sent(subject, MessageKind.APPEND)
    assert [(message.to, message.index, message.log_term, message.term) for message in appends] == [
        (2, 2, 1, 2),
        (3, 2, 1, 2),
    ]
    (entry,) = appends[0].entries
    assert (entry.kind, entry.index, entry.term, entry.payload) == (EntryKind.NOOP, 3, 2, b"")


def test_heartbeats_go_out_at_every_interval_with_no_more_than_was_acknowledged() -> None:
    """Raft 5.2; a follower could not tell that entries it has are not the leader's."""
    subject = leader(1, 1, heartbeat_ticks=2)
    subject.step(SECOND.accepted(2, 3))
    subject.take_outbox()
    subject.tick()
    assert sent(subject, MessageKind.HEARTBEAT) == []
    subject.tick()
    beats = sent(subject, MessageKind.HEARTBEAT)
    assert [(message.to, message.commit, message.context) for message in beats] == [(2, 3, 0), (3, 0, 0)]


def test_an_entry_is_committed_when_a_majority_has_it_durably() -> None:
    """Raft 5.3."""
    subject = replicating(voters=(1, 2, 3, 4, 5))
    subject.holds_writes = True
    subject.propose(b"a")
    subject.step(SECOND.accepted(2, 2))
    subject.step(THIRD.accepted(2, 2))
    assert subject.core.commit == 1
    subject.persist()
    subject.settle()
    assert subject.core.commit == 2


def test_the_leader_counts_itself_only_when_its_own_write_is_done() -> None:
    """Thesis 10.2.1: it may write to its disk while it replicates, but must not count what is not there."""
    subject = replicating()
    subject.holds_writes = True
    subject.propose(b"a")
    assert len(sent(subject, MessageKind.APPEND)) == 2
    subject.step(SECOND.accepted(2, 2))
    assert subject.core.commit == 1
    subject.persist()
    assert subject.core.commit == 2


def test_what_others_have_is_committed_before_the_leaders_own_write_but_not_applied_here() -> None:
    subject = replicating()
    subject.holds_writes = True
    subject.propose(b"a")
    subject.step(SECOND.accepted(2, 2))
    subject.step(THIRD.accepted(2, 2))
    assert (subject.core.commit, subject.payloads) == (2, [])
    subject.persist()
    subject.settle()
    assert subject.payloads == [b"a"]


def test_entries_of_older_terms_are_committed_only_through_one_of_the_own() -> None:
    """Raft 5.4.2."""
    subject = leader(1, 1)
    subject.step(SECOND.accepted(2, 2))
    subject.step(THIRD.accepted(2, 2))
    assert subject.core.commit == 0
    subject.step(SECOND.accepted(2, 3))
    assert subject.core.commit == 3


def test_followers_hear_of_a_new_commit_index_at_once() -> None:
    subject = replicating()
    subject.propose(b"a")
    subject.take_outbox()
    subject.step(SECOND.accepted(2, 2))
    assert [(message.to, message.commit, len(message.entries)) for message in sent(subject, MessageKind.APPEND)] == [
        (2, 2, 0),
        (3, 2, 0),
    ]
    subject.step(THIRD.accepted(2, 2))
    assert sent(subject, MessageKind.APPEND) == []


def test_a_lazy_leader_lets_the_commit_index_ride_with_the_next_entries_or_heartbeat() -> None:
    subject = replicating(gather_appends=True, lazy_commit=True)
    subject.propose(b"a")
    assert [(message.to, len(message.entries)) for message in sent(subject, MessageKind.APPEND)] == [(2, 1), (3, 1)]
    subject.step(SECOND.accepted(2, 2))
    subject.step(THIRD.accepted(2, 2))
    assert subject.core.commit == 2
    assert sent(subject, MessageKind.APPEND) == []
    subject.tick()
    assert {message.commit for message in sent(subject, MessageKind.HEARTBEAT)} == {2}
    subject.propose(b"b")
    assert {(message.commit, len(message.entries)) for message in sent(subject, MessageKind.APPEND)} == {(2, 1)}


def test_packed_heartbeats_do_what_the_messages_would() -> None:
    subject = replicating(packs_heartbeats=True)
    subject.propose(b"a")
    subject.step(SECOND.accepted(2, 2))
    subject.take_outbox()
    due = [subject.core.claim_beats()]
    subject.core.tick()
    due.append(subject.core.claim_beats())
    assert subject.core.take_beats() == [(2, 2), (3, 1)], "never beyond what the follower acknowledged"
    due.append(subject.core.claim_beats())
    assert due == [False, True, False]
    assert subject.core.on_beat_answer(ReplicaId(2), Term(2))
    assert not subject.core.on_beat_answer(ReplicaId(3), Term(2)), "it lacks an entry"
    assert not subject.core.on_beat_answer(ReplicaId(2), Term(1))
    assert not subject.core.on_beat_answer(ReplicaId(9), Term(2))
    subject.core.read_index(7)
    subject.take_outbox()
    subject.core.tick()
    assert not subject.core.claim_beats(), "a heartbeat that confirms a read is a message of its own"


def test_answers_to_packed_heartbeats_keep_a_leader_in_office() -> None:
    subject = replicating(packs_heartbeats=True)
    for _ in range(3 * ELECTION):
        subject.core.tick()
        subject.core.take_beats()
        assert subject.core.on_beat_answer(ReplicaId(2), Term(2))
    assert subject.core.is_leader
    for _ in range(2 * ELECTION):
        subject.core.tick()
    assert not subject.core.is_leader


def test_a_probe_goes_out_once_until_it_is_answered() -> None:
    subject = leader(1, 1)
    subject.propose(b"a")
    assert sent(subject, MessageKind.APPEND) == []
    subject.step(SECOND.heartbeat_response(2))
    assert [len(message.entries) for message in sent(subject, MessageKind.APPEND)] == [2]


def test_a_rejection_moves_the_probe_back_by_whole_terms() -> None:
    """Raft 5.3: the log that diverged for long costs one round trip a term."""
    subject = leader(1, 3, 3, 3, 5, 5, 5, 5, 5, term=5)
    subject.step(SECOND.rejected(6, 9, hint=6, hint_term=2))
    (append,) = sent(subject, MessageKind.APPEND)
    assert (append.index, append.log_term, len(append.entries)) == (1, 1, 9)
    subject.step(SECOND.rejected(6, 9, hint=6, hint_term=2))
    assert sent(subject, MessageKind.APPEND) == []
    assert subject.core.statistics().rejections == 2


def test_a_lost_append_is_found_out_and_sent_again() -> None:
    """A follower in full flow falls back to probing at the gap."""
    subject = replicating()
    subject.propose(b"a")
    subject.propose(b"b")
    subject.take_outbox()
    subject.step(SECOND.rejected(2, 2, hint=1, hint_term=2))
    (append,) = sent(subject, MessageKind.APPEND, to=2)
    assert [entry.index for entry in append.entries] == [2, 3]
    assert progress_of(subject, 2).state is ProgressState.PROBE
    subject.step(SECOND.accepted(2, 3))
    assert progress_of(subject, 2).state is ProgressState.REPLICATE


def test_a_full_window_stops_the_flow_and_a_heartbeat_answer_sends_one_empty_append() -> None:
    subject = replicating(max_inflight_messages=2)
    for payload in (b"a", b"b", b"c"):
        subject.propose(payload)
    assert [message.entries[0].index for message in sent(subject, MessageKind.APPEND, to=2)] == [2, 3]
    assert progress_of(subject, 2).is_window_full
    subject.step(SECOND.heartbeat_response(2))
    subject.step(SECOND.heartbeat_response(2))
    appends = sent(subject, MessageKind.APPEND, to=2)
    assert [(message.index, len(message.entries)) for message in appends] == [(3, 0), (3, 0)]
    subject.step(SECOND.accepted(2, 2))
    assert [message.entries[0].index for message in sent(subject, MessageKind.APPEND, to=2)] == [4]


def test_an_acknowledgement_that_frees_nothing_sends_nothing() -> None:
    subject = replicating(max_inflight_messages=1)
    subject.propose(b"a", b"b")
    subject.propose(b"c")
    subject.take_outbox()
    subject.step(SECOND.accepted(2, 2))
    assert [len(message.entries) for message in sent(subject, MessageKind.APPEND, to=2)] == [0]
    subject.step(SECOND.accepted(2, 3))
    assert [len(message.entries) for message in sent(subject, MessageKind.APPEND, to=2)][-1] == 1


def test_the_window_counts_bytes() -> None:
    subject = replicating(max_inflight_bytes=300, max_message_bytes=300)
    for _ in range(3):
        subject.propose(b"x" * 136)
    assert len(sent(subject, MessageKind.APPEND, to=2)) == 2
    assert progress_of(subject, 2).inflight_bytes == 400


def test_an_append_is_cut_to_the_largest_message_and_the_rest_follows_at_once() -> None:
    subject = leader(max_message_bytes=200)
    subject.propose(*[b"x" * 36] * 4)
    subject.step(SECOND.accepted(2, 1))
    appends = sent(subject, MessageKind.APPEND, to=2)
    assert [[entry.index for entry in message.entries] for message in appends] == [[2, 3], [4, 5]]


def test_a_follower_that_needs_a_damaged_entry_waits_and_holds_up_nobody() -> None:
    subject = leader(1, 1, 1)
    subject.step(SECOND.accepted(2, 4))
    subject.disk.damaged.add(2)
    subject.take_outbox()
    subject.step(THIRD.rejected(2, 3, hint=1, hint_term=1))
    assert subject.take_outbox() == []
    subject.propose(b"x")
    assert [entry.index for message in sent(subject, MessageKind.APPEND, 2) for entry in message.entries] == [5]
    subject.step(SECOND.accepted(2, 5))
    assert subject.core.commit == 5
    subject.disk.damaged.clear()
    subject.step(THIRD.heartbeat_response(2))
    assert [entry.index for message in sent(subject, MessageKind.APPEND, 3) for entry in message.entries][:2] == [2, 3]


def test_an_unreachable_follower_is_probed() -> None:
    subject = replicating()
    subject.propose(b"a")
    for number in (1, 2, 9):
        subject.core.report_unreachable(ReplicaId(number))
    states = [(status.state, status.next) for status in subject.core.progress()]
    assert states == [(ProgressState.REPLICATE, 3), (ProgressState.PROBE, 2), (ProgressState.REPLICATE, 3)]
    subject.core.report_unreachable(ReplicaId(2))


def test_an_acknowledgement_beyond_the_log_is_refused() -> None:
    subject = leader()
    with pytest.raises(RemoteProtocolError, match="beyond the last index 1"):
        subject.step(SECOND.accepted(2, 2))


def test_strangers_are_not_counted() -> None:
    subject = leader()
    subject.step(Peer(9).accepted(2, 1))
    subject.step(Peer(9).heartbeat_response(2))
    assert subject.core.commit == 0


def test_a_rival_in_the_own_term_stops_the_group() -> None:
    with pytest.raises(InvariantError, match="two leaders"):
        leader().step(SECOND.heartbeat(2))


def test_a_leader_without_a_majority_steps_down() -> None:
    """Thesis 6.2: or a leader that is cut off one way would rule for ever."""
    subject = replicating()
    for _ in range(3):
        subject.tick(ELECTION)
        subject.step(SECOND.heartbeat_response(2))
    subject.tick(2 * ELECTION - 1)
    assert subject.core.is_leader
    subject.tick()
    assert (subject.core.role, subject.core.term, subject.core.leader) == (Role.FOLLOWER, 2, 0)
    assert subject.core.statistics().quorum_losses == 1


def test_a_leader_that_hears_nobody_names_an_heir_who_hears_it() -> None:
    """Cut off one way it is heard until it steps down; without a word the others would begin to wait only then."""
    subject = replicating(names_heir=True)
    subject.propose(b"a")
    subject.step(THIRD.accepted(2, 2))
    subject.take_outbox()
    subject.tick(2 * ELECTION)
    assert not subject.core.is_leader
    assert [(message.to, message.term) for message in sent(subject, MessageKind.TIMEOUT_NOW)] == [(3, 2)]


# -- proposals


def entry(subject: Replica, payload: bytes = b"", *, ahead: int = 0, kind: EntryKind = EntryKind.DATA) -> Any:  # noqa: ANN401
    return make_entry(kind, subject.core.next_index + ahead, subject.core.term, payload)


def test_only_a_leader_takes_proposals() -> None:
    subject = Replica(1, conf_of(1, 2, 3))
    assert refusal(lambda: subject.core.propose([entry(subject)])) is RefusalReason.NOT_LEADER
    assert refusal(lambda: subject.core.read_index(1)) is RefusalReason.NOT_LEADER
    assert refusal(lambda: subject.core.transfer_leadership(ReplicaId(2))) is RefusalReason.NOT_LEADER


def test_entries_made_for_another_place_or_term_are_our_own_mistake() -> None:
    subject = leader()
    wrong = make_entry(EntryKind.DATA, subject.core.next_index, 1)
    for entries in ([entry(subject, ahead=1)], [wrong], [entry(subject, kind=EntryKind.CONFIG)], []):
        with pytest.raises(InvariantError):
            subject.core.propose(entries)
    assert subject.core.last_index == 1


def test_uncommitted_bytes_are_bounded_and_empty_entries_count() -> None:
    subject = replicating(max_uncommitted_bytes=64 * 3)
    for _ in range(3):
        subject.core.propose([entry(subject)])
    assert refusal(lambda: subject.core.propose([entry(subject)])) is RefusalReason.TOO_MUCH_UNCOMMITTED
    assert subject.core.statistics().uncommitted_bytes == 192
    subject.settle()
    subject.step(SECOND.accepted(2, 3))
    assert subject.core.statistics().uncommitted_bytes == 64
    subject.core.propose([entry(subject), entry(subject, ahead=1)])
    assert subject.core.statistics().refused_proposals == 1


def test_one_entry_larger_than_the_bound_is_taken_when_nothing_waits() -> None:
    subject = replicating(max_uncommitted_bytes=10)
    subject.core.propose([entry(subject, b"x" * 1000)])
    assert refusal(lambda: subject.core.propose([entry(subject)])) is RefusalReason.TOO_MUCH_UNCOMMITTED


def test_what_a_past_leadership_left_uncommitted_does_not_count() -> None:
    subject = replicating()
    subject.propose(b"x" * 100)
    subject.step(SECOND.heartbeat(3))
    lead(subject, 3)
    assert subject.core.statistics().uncommitted_bytes == 64


# -- snapshots


def compacted(**more: Any) -> Replica:  # noqa: ANN401 - fields of RaftConfig
    """A leader whose log starts at 11, with a snapshot of 10."""
    meta = SnapshotMeta(Index(10), Term(1), conf_of(1, 2, 3))
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog(snapshot=meta), hard_state=HardState(Term(1)), **more)
    lead(subject, 2)
    subject.take_outbox()
    return subject


def test_a_follower_that_needs_forgotten_entries_gets_a_snapshot() -> None:
    subject = compacted()
    subject.step(SECOND.rejected(2, 10, hint=3, hint_term=1))
    (message,) = sent(subject, MessageKind.SNAPSHOT)
    assert message.snapshot == subject.disk.snapshot_meta()
    status = progress_of(subject, 2)
    assert (status.state, status.pending_snapshot, status.is_paused) == (ProgressState.SNAPSHOT, 10, True)
    subject.propose(b"a")
    subject.step(SECOND.heartbeat_response(2))
    assert sent(subject, MessageKind.APPEND, to=2) == []
    subject.step(SECOND.accepted(2, 10))
    assert progress_of(subject, 2).state is ProgressState.REPLICATE
    assert [len(message.entries) for message in sent(subject, MessageKind.APPEND, to=2)] == [2]
    assert subject.core.statistics().snapshots_sent == 1


def test_an_answer_below_the_log_does_not_end_the_wait_for_a_snapshot() -> None:
    subject = compacted()
    subject.step(SECOND.rejected(2, 10, hint=3, hint_term=1))
    subject.step(SECOND.accepted(2, 5))
    assert progress_of(subject, 2).state is ProgressState.SNAPSHOT


@pytest.mark.parametrize(("ok", "next_index"), [(True, 11), (False, 1)])
def test_the_end_of_a_snapshot_is_reported_and_the_next_append_waits_for_a_sign_of_life(
    ok: bool, next_index: int
) -> None:
    subject = compacted()
    subject.step(SECOND.rejected(2, 10, hint=3, hint_term=1))
    subject.core.report_snapshot(ReplicaId(3), ok=True)
    subject.core.report_snapshot(ReplicaId(2), ok=ok)
    status = progress_of(subject, 2)
    assert (status.state, status.next, status.is_paused) == (ProgressState.PROBE, next_index, True)
    subject.take_outbox()
    subject.step(SECOND.heartbeat_response(2))
    assert [message.kind for message in subject.take_outbox()] == [MessageKind.APPEND if ok else MessageKind.SNAPSHOT]


def test_no_snapshot_goes_to_a_follower_that_is_not_there() -> None:
    subject = compacted()
    lagging = subject.core._state.tracker.progress[ReplicaId(2)]
    lagging.next, lagging.is_paused, lagging.recent_active = Index(4), False, False
    subject.propose(b"a")
    assert sent(subject, MessageKind.SNAPSHOT) == []
    subject.step(SECOND.heartbeat_response(2))
    assert len(sent(subject, MessageKind.SNAPSHOT)) == 1


def test_a_snapshot_that_is_not_ready_yet_is_asked_for_again() -> None:
    disk = MemoryLog.of_terms(1, 1, 1)
    disk.compact(Index(2))
    subject = Replica(1, conf_of(1, 2, 3), disk=disk, hard_state=HardState(Term(1)), applied=2)
    lead(subject, 2)
    subject.take_outbox()
    subject.step(SECOND.rejected(2, 3, hint=0, hint_term=0))
    assert sent(subject, MessageKind.SNAPSHOT) == []
    disk.checkpoint(Index(2), conf_of(1, 2, 3))
    subject.step(SECOND.heartbeat_response(2))
    assert len(sent(subject, MessageKind.SNAPSHOT)) == 1


def test_a_snapshot_of_what_is_not_committed_stops_the_group() -> None:
    subject = compacted()
    subject.disk._snapshot = SnapshotMeta(Index(11), Term(2), conf_of(1, 2, 3))
    with pytest.raises(InvariantError, match="more than is committed"):
        subject.step(SECOND.rejected(2, 10, hint=3, hint_term=1))


# -- reads


def test_a_read_waits_for_a_commit_in_the_own_term() -> None:
    """Thesis 6.4, step 1."""
    subject = leader(1)
    assert refusal(lambda: subject.core.read_index(1)) is RefusalReason.NO_COMMIT_IN_TERM
    subject.step(SECOND.accepted(2, 2))
    assert subject.core.has_committed_in_term
    subject.core.read_index(1)


def test_a_read_is_confirmed_by_a_majority_that_answers_after_it_was_asked() -> None:
    """Thesis 6.4, steps 2 and 3."""
    subject = replicating()
    subject.core.read_index(77)
    subject.settle()
    beats = sent(subject, MessageKind.HEARTBEAT)
    assert [message.context for message in beats] == [1, 1]
    subject.step(SECOND.heartbeat_response(2))
    assert subject.reads == []
    subject.step(SECOND.heartbeat_response(2, context=1))
    assert [(read.context, read.index) for read in subject.reads] == [(77, 1)]


def test_a_retried_read_needs_answers_of_its_own() -> None:
    """An answer to the first question says nothing about the time of the second."""
    subject = replicating()
    subject.core.read_index(77)
    subject.core.read_index(78)
    subject.step(SECOND.heartbeat_response(2, context=1))
    assert [read.context for read in subject.reads] == [77]


def test_a_heartbeat_asks_again_for_reads_that_wait() -> None:
    subject = replicating()
    subject.core.read_index(77)
    subject.settle()
    subject.take_outbox()
    subject.tick()
    assert [message.context for message in sent(subject, MessageKind.HEARTBEAT)] == [1, 1]


def test_reads_die_with_the_leadership() -> None:
    subject = replicating()
    subject.core.read_index(77)
    subject.step(SECOND.heartbeat(3))
    lead(subject, 2)
    subject.step(SECOND.heartbeat_response(4, context=1))
    assert subject.reads == []
    assert subject.core.statistics().pending_reads == 0


def test_the_number_of_waiting_reads_is_bounded() -> None:
    subject = replicating(max_pending_reads=1)
    subject.core.read_index(1)
    assert refusal(lambda: subject.core.read_index(2)) is RefusalReason.TOO_MANY_READS


def test_a_single_voter_confirms_its_reads_alone() -> None:
    subject = Replica(1, conf_of(1, learners=(2,)))
    subject.core.campaign()
    subject.settle()
    subject.core.read_index(5)
    subject.settle()
    assert [(read.context, read.index) for read in subject.reads] == [(5, 1)]


# -- hand-over


def test_a_caught_up_target_is_told_to_campaign_at_once() -> None:
    """Thesis 3.10."""
    subject = replicating()
    subject.core.transfer_leadership(ReplicaId(2))
    subject.settle()
    assert [message.to for message in sent(subject, MessageKind.TIMEOUT_NOW)] == [2]
    assert refusal(lambda: subject.core.propose([entry(subject)])) is RefusalReason.TRANSFER_IN_PROGRESS


def test_a_target_that_lags_is_caught_up_first() -> None:
    subject = replicating()
    subject.propose(b"a")
    subject.take_outbox()
    subject.core.transfer_leadership(ReplicaId(3))
    subject.core.transfer_leadership(ReplicaId(3))
    subject.settle()
    assert sent(subject, MessageKind.TIMEOUT_NOW) == []
    subject.step(THIRD.accepted(2, 2))
    assert [message.to for message in sent(subject, MessageKind.TIMEOUT_NOW)] == [3]


def test_a_transfer_is_given_up_after_one_election_timeout() -> None:
    subject = replicating()
    subject.tick(ELECTION // 2)
    subject.core.transfer_leadership(ReplicaId(2))
    for _ in range(ELECTION):
        assert subject.core.transfer_target == 2
        subject.step(THIRD.heartbeat_response(2))
        subject.tick()
    assert (subject.core.transfer_target, subject.core.is_leader) == (0, True)
    subject.propose(b"a")


def test_a_transfer_can_be_redirected_or_called_off() -> None:
    subject = replicating()
    subject.core.transfer_leadership(ReplicaId(2))
    subject.core.transfer_leadership(ReplicaId(3))
    assert subject.core.transfer_target == 3
    subject.core.transfer_leadership(ReplicaId(1))
    assert subject.core.transfer_target == 0


def test_leadership_goes_to_voters_only() -> None:
    subject = Replica(1, conf_of(1, 2, learners=(3,)))
    lead(subject, 2)
    for target in (3, 9):
        reason = refusal(lambda target=target: subject.core.transfer_leadership(ReplicaId(target)))
        assert reason is RefusalReason.NO_SUCH_VOTER
