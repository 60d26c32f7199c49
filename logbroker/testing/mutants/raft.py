"""Bugs in the Raft core and in the order in which its driver makes things durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import EntryKind
from logbroker.errors import NotLeaderError
from logbroker.ids import NO_REPLICA, Index
from logbroker.node import engine
from logbroker.node.replica import Replica
from logbroker.raft import core as raft_core
from logbroker.raft import follower, leader, quorum, replication
from logbroker.raft.core import RaftCore
from logbroker.raft.election import ask_for_votes, campaign
from logbroker.raft.log import RaftLog
from logbroker.raft.messages import HardState, Message, MessageKind, ReadState, Role
from logbroker.raft.progress import Progress, ProgressState
from logbroker.raft.read_index import PendingReads
from logbroker.raft.state import RaftState
from logbroker.raft.tracker import Tracker
from logbroker.testing.faults import FaultKind
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from logbroker.entry import Entry
    from logbroker.ids import ReplicaId, Term
    from logbroker.raft.config_change import ConfigProposal
    from logbroker.raft.election import Campaign
    from logbroker.raft.messages import Ready, SnapshotMeta
    from logbroker.raft.quorum import VoteResult
    from logbroker.storage.node_store import StoredReplica
    from logbroker.testing.mutants.planting import Patch


@mutant("leader-counts-itself", "B1", "the leader counts its own entries before they are on its disk")
def _(patch: Patch) -> None:
    ready = RaftCore.ready

    def hasty(core: RaftCore) -> Ready:
        made = ready(core)
        if core.is_leader and made.entries:
            leader.on_durable(core._state, made.entries[-1].index)
        return made

    patch.attribute(RaftCore, "ready", hasty)


@mutant(
    "old-write-vouches-for-new",
    "B1",
    "a finished write vouches for entries that replaced what it wrote",
    test="tests/unit/raft/test_log.py",
)
def _(patch: Patch) -> None:
    truncate = RaftLog._truncate

    def forgetful(log: RaftLog, start: Index) -> None:
        writes = log._writes
        truncate(log, start)
        log._writes = writes

    patch.attribute(RaftLog, "_truncate", forgetful)


@mutant("acks-before-write", "B3 B1", "answers leave before what they promise is durable")
def _(patch: Patch) -> None:
    take = Replica._take

    def hasty(replica: Replica, ready: Ready) -> None:
        replica._send(ready.messages_after_persist)
        take(replica, ready._replace(messages_after_persist=()))

    patch.attribute(Replica, "_take", hasty)


@mutant(
    "part-acked-as-whole",
    "B3 B1",
    "the first part of a large write acknowledges all of it",
    test="tests/unit/raft/test_follower.py",
)
def _(patch: Patch) -> None:
    patch.attribute(raft_core, "_acknowledges_beyond", lambda message, index: False)


@mutant(
    "left-configuration-returns",
    "B12",
    "a restart of all members brings back a configuration that was left",
    test="tests/unit/node/test_replica.py",
)
def _(patch: Patch) -> None:
    patch.attribute(Replica, "want_checkpoint", lambda replica: None)


@mutant("restart-forgets-vote", "B3", "term and vote are forgotten in a restart")
def _(patch: Patch) -> None:
    start = Replica._start_state

    def from_the_log(replica: Replica, stored: StoredReplica) -> HardState:
        state = start(replica, stored)
        return HardState(replica.log.term(replica.log.last_index()), NO_REPLICA, state.commit)

    patch.attribute(Replica, "_start_state", from_the_log)


@mutant("votes-for-short-logs", "B3", "a candidate gets a vote whatever its log lacks")
def _(patch: Patch) -> None:
    patch.attribute(RaftLog, "is_up_to_date", lambda log, index, term: True)


@mutant("old-term-counted", "B4", "entries of an older term are committed by counting (figure 8)", FaultKind.ISOLATE)
def _(patch: Patch) -> None:
    maybe_commit = replication.maybe_commit

    def counting(state: RaftState) -> bool:
        since, state.leader_since = state.leader_since, Index(0)
        try:
            return maybe_commit(state)
        finally:
            state.leader_since = since

    patch.function(maybe_commit, counting)


@mutant("no-first-entry", "B4", "a new leader appends no entry of its own term")
def _(patch: Patch) -> None:
    patch.function(leader.start, RaftState.become_leader)


@mutant(
    "read-unconfirmed",
    "B10",
    "a leader answers reads without asking whether it still is one",
    FaultKind.PAUSE,
    FaultKind.ISOLATE,
)
def _(patch: Patch) -> None:
    def hasty(state: RaftState, context: int) -> None:
        state.read_states.append(ReadState(context, state.log.commit))

    patch.function(leader.read_index, hasty)


@mutant(
    "read-confirmed-by-old-answer",
    "B10",
    "an answer to an earlier heartbeat confirms reads that came after it",
    test="tests/unit/raft/test_read_index.py tests/unit/raft/test_leader.py",
)
def _(patch: Patch) -> None:
    on_echo = PendingReads.on_echo

    def generous(reads: PendingReads, replica: ReplicaId, number: int) -> None:
        on_echo(reads, replica, number + 1_000_000)

    patch.attribute(PendingReads, "on_echo", generous)


@mutant(
    "lease-read",
    "B11",
    "a leader that heard of a majority lately answers reads by its own clock",
    FaultKind.PAUSE,
    FaultKind.ISOLATE,
)
def _(patch: Patch) -> None:
    read_index = leader.read_index

    def leased(state: RaftState, context: int) -> None:
        if state.role is not Role.LEADER or state.log.commit < state.leader_since:
            read_index(state, context)
        elif sum(progress.recent_active for progress in state.tracker.progress.values()) >= 2:
            state.read_states.append(ReadState(context, state.log.commit))
        else:
            read_index(state, context)

    patch.function(read_index, leased)


@mutant(
    "joint-needs-one-half",
    "B12",
    "a joint configuration decides by the incoming majority alone",
    test="tests/unit/raft/test_quorum.py",
)
def _(patch: Patch) -> None:
    def index_of_one(incoming: list[Index], outgoing: list[Index]) -> Index:
        del outgoing
        return quorum.majority_index(incoming)

    def votes_of_one(
        incoming: Iterable[ReplicaId], outgoing: Iterable[ReplicaId], votes: Mapping[ReplicaId, bool]
    ) -> VoteResult:
        del outgoing
        return quorum.vote_result(incoming, votes)

    patch.function(quorum.joint_index, index_of_one)
    patch.function(quorum.joint_vote_result, votes_of_one)


@mutant(
    "second-change-early",
    "B12",
    "a change of configuration is proposed while another is under way",
    FaultKind.MEMBERSHIP,
    FaultKind.ISOLATE,
)
def _(patch: Patch) -> None:
    propose_config = leader.propose_config

    def hasty(state: RaftState, proposal: ConfigProposal) -> None:
        state.pending_config_index = Index(0)
        propose_config(state, proposal)

    patch.function(propose_config, hasty)


@mutant("learners-count", "B12", "what a learner has counts towards the commit", FaultKind.MEMBERSHIP)
def _(patch: Patch) -> None:
    def of_all(tracker: Tracker) -> Index:
        match = {replica: progress.match for replica, progress in tracker.progress.items()}
        if not tracker.conf.learners:
            return quorum.joint_index(
                [match[voter] for voter in tracker.conf.voters],
                [match[voter] for voter in tracker.conf.voters_outgoing],
            )
        best = sorted(match.values(), reverse=True)
        return best[len(tracker.conf.voters) // 2]

    patch.attribute(Tracker, "committed_index", of_all)


@mutant("half-is-a-majority", "B12 B1", "half of the voters is taken for a majority")
def _(patch: Patch) -> None:
    def half(acknowledged: list[Index]) -> Index:
        return (
            sorted(acknowledged, reverse=True)[max(0, len(acknowledged) // 2 - 1)] if acknowledged else Index(1 << 62)
        )

    patch.function(quorum.majority_index, half)


@mutant("snapshot-leaves-commit", "B14", "a snapshot is acknowledged and does not move the commit index")
def _(patch: Patch) -> None:
    restore = RaftLog.restore

    def half(log: RaftLog, snapshot: SnapshotMeta) -> None:
        commit = log.commit
        restore(log, snapshot)
        log.commit = commit

    patch.attribute(RaftLog, "restore", half)


@mutant("short-append-cuts", "B15", "an append that is shorter than the log cuts the log")
def _(patch: Patch) -> None:
    def cutting(log: RaftLog, index: Index, term: Term, entries: Sequence[Entry]) -> bool:
        if not log.matches(index, term):
            return False
        if entries and entries[0].index > log.commit:
            log.append(entries)
        return True

    patch.attribute(RaftLog, "try_append", cutting)


@mutant("append-unchecked", "B15", "entries are taken without a look at the one before them", FaultKind.ISOLATE)
def _(patch: Patch) -> None:
    try_append = RaftLog.try_append

    def careless(log: RaftLog, index: Index, term: Term, entries: Sequence[Entry]) -> bool:
        if log.commit < index <= log.last_index and entries and not log.matches(index, term):
            log.append(entries)
            return True
        return try_append(log, index, term, entries)

    patch.attribute(RaftLog, "try_append", careless)


@mutant("probe-stays", "B15", "after a rejected append the leader asks again at the same place, for ever")
def _(patch: Patch) -> None:
    def stubborn(progress: Progress, rejected: Index, hint: Index) -> bool:
        del rejected, hint
        progress.is_paused = False
        return False

    patch.attribute(Progress, "on_rejected", stubborn)


@mutant("commit-beyond-compared", "B16", "a follower commits entries behind those that the leader compared")
def _(patch: Patch) -> None:
    on_append = follower.on_append

    def hasty(state: RaftState, message: Message) -> None:
        on_append(state, message)
        index = min(message.commit, state.log.last_index)
        if state.leader == message.sender and index > state.log.commit:
            state.log.commit_to(index)

    patch.function(on_append, hasty)


@mutant("heartbeat-commits-all", "B16", "a heartbeat tells a commit index beyond what its follower acknowledged")
def _(patch: Patch) -> None:
    def generous(state: RaftState) -> None:
        for replica in state.tracker.progress:
            if replica != state.replica:
                state.send(
                    Message(
                        MessageKind.HEARTBEAT,
                        replica,
                        state.replica,
                        state.term,
                        commit=state.log.commit,
                        context=state.reads.newest,
                    )
                )

    patch.function(replication.broadcast_heartbeat, generous)


@mutant("serves-too-early", "B10 B19", "a new leader serves before the first entry of its term is applied")
def _(patch: Patch) -> None:
    take, read = Replica._take, RaftCore.read_index

    def hasty(replica: Replica, ready: Ready) -> None:
        take(replica, ready)
        if replica.core.is_leader and replica.ahead is None and replica.failed is None:
            replica._begin_serving()

    def answer(core: RaftCore, context: int) -> None:
        if core.has_committed_in_term:
            read(core, context)
        else:
            core._state.read_states.append(ReadState(context, core.commit))

    patch.attribute(Replica, "_take", hasty)
    patch.attribute(RaftCore, "read_index", answer)


@mutant("decides-on-applied-alone", "B19", "a new leader decides on what is applied and forgets the rest of its log")
def _(patch: Patch) -> None:
    def applied_alone(replica: Replica) -> tuple[int, int]:
        return replica.machine.next_offset, replica.machine.append_ms

    patch.attribute(Replica, "_log_end", applied_alone)


@mutant("deaf-leader-stays", "B32", "a leader that hears of nobody goes on leading", FaultKind.DEAF)
def _(patch: Patch) -> None:
    patch.function(leader._has_quorum, lambda state: True)


@mutant(
    "stalled-leader-stays", "B33", "a leader whose sync does not return keeps its leadership", FaultKind.STALLED_DISK
)
def _(patch: Patch) -> None:
    patch.attribute(engine, "STUCK_TICKS", 1 << 62)


@mutant("window-never-frees", "B26", "acknowledgements free nothing in the window of a follower")
def _(patch: Patch) -> None:
    def stuck(progress: Progress, count: int, size_bytes: int) -> None:
        if progress.state is ProgressState.REPLICATE and count:
            progress.next = Index(progress.next + count)
            progress.inflights._sent.append((Index(1 << 62), size_bytes))
        progress.is_paused = progress.inflights.is_full or progress.state is ProgressState.PROBE

    patch.attribute(Progress, "on_sent", stuck)


@mutant("lost-waiters", "B25", "who waits for an entry is forgotten when the leadership ends")
def _(patch: Patch) -> None:
    stop = Replica._stop_serving

    def silent(replica: Replica) -> None:
        replica._proposed.clear()
        stop(replica)

    patch.attribute(Replica, "_stop_serving", silent)


@mutant("lost-is-refused", "B18", "a proposal that may yet be committed is reported as refused")
def _(patch: Patch) -> None:
    def certain(replica: Replica, *, unknown: bool) -> NotLeaderError:
        del unknown
        return NotLeaderError(f"this node does not lead group {replica.group} any more")

    patch.attribute(Replica, "lost_error", certain)


@mutant("waiter-takes-other-entry", "B18", "a waiter is answered by the entry that took the place of its own")
def _(patch: Patch) -> None:
    apply, stop = Replica._apply, Replica._stop_serving

    def trusting(replica: Replica, entry: Entry) -> None:
        proposed = replica._proposed.get(entry.index)
        if proposed is not None:
            proposed.term = entry.term
        apply(replica, entry)

    def keeping(replica: Replica) -> None:
        kept, replica._proposed = replica._proposed, {}
        stop(replica)
        replica._proposed = kept

    patch.attribute(Replica, "_apply", trusting)
    patch.attribute(Replica, "_stop_serving", keeping)


@mutant(
    "damaged-replica-acknowledges",
    "B7",
    "a replica with a hole in its log acknowledges what lies behind it",
    FaultKind.BIT_ROT,
)
def _(patch: Patch) -> None:
    patch.attribute(Replica, "_is_withheld", lambda replica, message: False)


@mutant(
    "campaigns-by-old-configuration",
    "B12",
    "a replica campaigns with a change of configuration not applied yet",
    test="tests/unit/raft/test_membership.py",
)
def _(patch: Patch) -> None:
    patch.function(campaign, _campaign_at_once)


def _campaign_at_once(state: RaftState, kind: Campaign) -> bool:
    if state.role is Role.LEADER or not state.is_promotable:
        return False
    ask_for_votes(state, kind)
    return True


@mutant("commit-not-durable-here", "B21", "entries are applied, and put into checkpoints, before they are durable here")
def _(patch: Patch) -> None:
    init = RaftLog.__init__

    def eager(log: RaftLog, storage: object, *, max_applying_bytes: int, allow_unstable_apply: bool) -> None:
        del allow_unstable_apply
        init(log, storage, max_applying_bytes=max_applying_bytes, allow_unstable_apply=True)  # type: ignore[arg-type]  # handed through

    patch.attribute(RaftLog, "__init__", eager)


@mutant("configurations-not-applied", "B12", "a follower does not take over changes of configuration")
def _(patch: Patch) -> None:
    apply = Replica._apply

    def deaf(replica: Replica, entry: Entry) -> None:
        if entry.kind is not EntryKind.CONFIG or replica.core.is_leader:
            apply(replica, entry)
            return
        conf = replica.core.conf
        apply(replica, entry)
        replica.core._state.tracker.switch(conf, last_index=replica.core.last_index)

    patch.attribute(Replica, "_apply", deaf)
