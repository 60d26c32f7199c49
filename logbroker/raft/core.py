"""The Raft core of one replica of one group: messages and ticks in, work to do out.

It is plain synchronous code without clock, randomness, I/O or logging. The driver calls `tick`,
`step`, `propose` and the rest; whenever `has_ready()`, it takes a `Ready`, hands what must be durable
to storage, sends, applies, and reports back with `on_persisted` and `on_applied`. Several Ready may be
out at once.

The table below is the whole protocol: what is not in it is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from logbroker.errors import RemoteProtocolError, invariant, violated
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft import candidate, election, follower, leader, membership
from logbroker.raft.messages import (
    ConfState,
    HardState,
    Message,
    MessageKind,
    PersistToken,
    ReadState,
    Ready,
    Role,
    SoftState,
)
from logbroker.raft.state import EntryMaker, RaftState, Ticks, TickSource
from logbroker.raft.trace import TraceEvent, TraceKind

if TYPE_CHECKING:
    from logbroker.entry import Entry
    from logbroker.raft.config_change import ConfigProposal
    from logbroker.raft.log import LogStorage
    from logbroker.raft.progress import ProgressState
    from logbroker.raft.settings import RaftConfig

Handler = Callable[[RaftState, Message], None]

_IN_ANY_ROLE: Final[Mapping[MessageKind, Handler]] = {
    MessageKind.VOTE: election.on_vote_request,
    MessageKind.PRE_VOTE: election.on_vote_request,
}
_FROM_THE_LEADER: Final[Mapping[MessageKind, Handler]] = {
    MessageKind.APPEND: follower.on_append,
    MessageKind.HEARTBEAT: follower.on_heartbeat,
    MessageKind.SNAPSHOT: follower.on_snapshot,
}
_TO_A_CANDIDATE: Final[Mapping[MessageKind, Handler]] = {
    kind: candidate.following(handler) for kind, handler in _FROM_THE_LEADER.items()
}

HANDLERS: Final[Mapping[Role, Mapping[MessageKind, Handler]]] = {
    Role.FOLLOWER: {
        **_IN_ANY_ROLE,
        **_FROM_THE_LEADER,
        MessageKind.TIMEOUT_NOW: follower.on_timeout_now,
    },
    Role.PRE_CANDIDATE: {
        **_IN_ANY_ROLE,
        **_TO_A_CANDIDATE,
        MessageKind.PRE_VOTE_RESPONSE: candidate.on_vote_response,
    },
    Role.CANDIDATE: {
        **_IN_ANY_ROLE,
        **_TO_A_CANDIDATE,
        MessageKind.VOTE_RESPONSE: candidate.on_vote_response,
    },
    Role.LEADER: {
        **_IN_ANY_ROLE,
        MessageKind.APPEND_RESPONSE: leader.on_append_response,
        MessageKind.HEARTBEAT_RESPONSE: leader.on_heartbeat_response,
        # Two leaders in one term: our own logic, or a peer's, is broken beyond repair.
        MessageKind.APPEND: leader.on_rival,
        MessageKind.HEARTBEAT: leader.on_rival,
        MessageKind.SNAPSHOT: leader.on_rival,
    },
}


@final
@dataclass(frozen=True, slots=True)
class ProgressStatus:
    """What the leader knows of one member; see `progress.Progress`."""

    replica: ReplicaId
    state: ProgressState
    match: Index
    next: Index
    is_learner: bool
    is_paused: bool
    recent_active: bool
    inflight_count: int
    inflight_bytes: int
    is_window_full: bool
    pending_snapshot: Index


@final
@dataclass(frozen=True, slots=True)
class RaftStatistics:
    """Counted since the core was made."""

    campaigns: int
    terms_led: int
    quorum_losses: int
    rejections: int
    snapshots_sent: int
    refused_proposals: int
    pending_reads: int
    uncommitted_bytes: int


def _acknowledges_beyond(message: Message, index: Index) -> bool:
    return message.kind is MessageKind.APPEND_RESPONSE and not message.reject and message.index > index


@final
class RaftCore:
    """Args:
    hard_state: What storage holds; its commit index may be older than what was known.
    conf_state: The configuration in force after the entry at `applied`.
    applied: Last index whose effects the driver's state has; nothing at or below it is handed out.
    make_entry: Makes the entries that the core itself appends, for exactly (index, term).
    random_ticks: `random_ticks(n)` gives a fresh number of `0 .. n-1`.
    ticks: The driver's count of ticks, where many cores share it; such a driver calls `on_tick`, and never `tick`.

    Raises:
        InvariantError: these do not belong together, from here and from any other method; the group
            must stop then.
    """

    __slots__ = ("_handed_hard", "_handed_soft", "_own_votes", "_persisted", "_sequence", "_state")

    def __init__(
        self,
        config: RaftConfig,
        storage: LogStorage,
        *,
        hard_state: HardState,
        conf_state: ConfState,
        applied: Index,
        make_entry: EntryMaker,
        random_ticks: TickSource,
        ticks: Ticks | None = None,
    ) -> None:
        state = RaftState(
            config,
            storage,
            hard_state=hard_state,
            make_entry=make_entry,
            random_ticks=random_ticks,
            ticks=ticks or Ticks(),
        )
        log = state.log
        invariant(
            log.commit <= applied <= log.last_index,
            f"applied index {applied} is not within the log [{log.commit}, {log.last_index}]",
        )
        log.commit_to(max(hard_state.commit, applied))
        log.applied_to(applied, size_bytes=0)
        membership.install(state, conf_state)
        state.trace(TraceKind.STARTED)
        state.become_follower(hard_state.term, NO_REPLICA)
        self._state = state
        self._handed_hard = (state.term, state.vote)
        self._handed_soft = (state.leader, state.role)
        self._sequence = 0
        self._persisted = 0
        # Votes for oneself that wait for a write: (sequence, responses), oldest first.
        self._own_votes: deque[tuple[int, list[Message]]] = deque()

    # -- what it is

    @property
    def replica(self) -> ReplicaId:
        return self._state.replica

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def is_leader(self) -> bool:
        return self._state.role is Role.LEADER

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def vote(self) -> ReplicaId:
        return self._state.vote

    @property
    def leader(self) -> ReplicaId:
        """Who leads the present term, as far as is known; 0 if unknown."""
        return self._state.leader

    @property
    def commit(self) -> Index:
        return self._state.log.commit

    @property
    def applied(self) -> Index:
        return self._state.log.applied

    @property
    def first_index(self) -> Index:
        return self._state.log.first_index

    @property
    def last_index(self) -> Index:
        return self._state.log.last_index

    @property
    def last_term(self) -> Term:
        return self._state.log.last_term

    @property
    def durable_index(self) -> Index:
        """Last index that is durable here."""
        return self._state.log.durable_index

    @property
    def next_index(self) -> Index:
        """Index that the next proposed entry must have."""
        return Index(self._state.log.last_index + 1)

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes that this leader has proposed and not committed; 0 on others."""
        state = self._state
        return state.uncommitted_bytes if state.role is Role.LEADER else 0

    @property
    def has_committed_in_term(self) -> bool:
        """Leader: everything before its term is committed, and reads may be asked for."""
        state = self._state
        return state.role is Role.LEADER and state.log.commit >= state.leader_since

    @property
    def conf(self) -> ConfState:
        return self._state.tracker.conf

    @property
    def transfer_target(self) -> ReplicaId:
        return self._state.transfer_target

    @property
    def can_campaign(self) -> bool:
        return self._state.can_campaign

    @property
    def election_ticks_left(self) -> int:
        """Ticks until a follower or candidate campaigns if it hears nothing."""
        return self._state.randomized_election_ticks - self._state.election_elapsed

    def term_at(self, index: Index) -> Term:
        """Term of the entry at `index`.

        Raises:
            CompactedError, UnavailableEntryError: the log does not reach there.
        """
        return self._state.log.term(index)

    def entries(self, start: Index, *, max_bytes: int) -> Sequence[Entry]:
        """Entries of the log from `start` on, not committed ones included, cut to `max_bytes` but never to none.

        Raises:
            CompactedError: `start` is below the first index.
        """
        return self._state.log.tail(start, max_bytes=max_bytes)

    def progress(self) -> tuple[ProgressStatus, ...]:
        """All members in ascending order; means something on the leader alone."""
        return tuple(
            ProgressStatus(
                replica,
                progress.state,
                progress.match,
                progress.next,
                progress.is_learner,
                progress.is_paused,
                progress.recent_active,
                len(progress.inflights),
                progress.inflights.size_bytes,
                progress.inflights.is_full,
                progress.pending_snapshot,
            )
            for replica, progress in self._state.tracker.progress.items()
        )

    def statistics(self) -> RaftStatistics:
        state = self._state
        return RaftStatistics(
            state.campaigns,
            state.terms_led,
            state.quorum_losses,
            state.rejections,
            state.snapshots_sent,
            state.refused_proposals,
            len(state.reads),
            state.uncommitted_bytes,
        )

    def take_trace(self) -> list[TraceEvent]:
        """Take the newest events, at most `max_trace_events` since the last call."""
        events = self._state.events
        if events is None:
            return []
        taken = list(events)
        events.clear()
        return taken

    # -- what happens to it

    def tick(self) -> bool:
        """One tick of time passed; see `on_tick`."""
        self._state.ticks.count += 1
        return self.on_tick()

    def on_tick(self) -> bool:
        """Do what is due at this tick. False if nothing came of it but, on a leader, heartbeats for `take_beats`."""
        state = self._state
        if state.role is Role.LEADER:
            return leader.on_tick(state)
        if state.election_elapsed < state.randomized_election_ticks:
            return False
        election.on_election_timeout(state)
        return True

    def leads_in(self, term: Term) -> bool:
        state = self._state
        return state.role is Role.LEADER and state.term == term

    @property
    def rest_ticks(self) -> int:
        """For so many ticks to come `on_tick` need not be called, if nothing else is done to this replica.

        A leader's heartbeats are due at each of them all the same. Where that is not so, or where they are not for the
        driver to pack, a leader does not rest.
        """
        state = self._state
        if state.role is Role.LEADER:
            return leader.rest_ticks(state)
        return max(0, state.randomized_election_ticks - state.election_elapsed - 1)

    def take_beats(self) -> list[tuple[ReplicaId, Index]]:
        """Follower and commit index of each heartbeat that is due; with `packs_heartbeats` alone.

        Each says and does what a HEARTBEAT without a context would; `on_beat` takes it at the other end.
        """
        return leader.take_beats(self._state)

    def on_beat(self, sender: ReplicaId, term: Term, commit: Index) -> bool:
        """Take a packed heartbeat; False, and nothing changed, where the driver must step it as a message."""
        return follower.on_beat(self._state, sender, term, commit)

    def on_beat_answer(self, sender: ReplicaId, term: Term) -> bool:
        """Take the answer to a packed heartbeat; False as in `on_beat`."""
        return leader.on_beat_answer(self._state, sender, term)

    def claim_beats(self) -> bool:
        """Whether heartbeats are due, which are the driver's to send from here on: those of `take_beats`, or the last
        ones again where nothing came to this replica since it took them."""
        state = self._state
        is_due, state.beat_due = state.beat_due, False
        return is_due

    @staticmethod
    def on_same_beats(followers: Iterable[RaftCore]) -> None:
        """Take packed heartbeats that `on_beat` took the last time, where nothing came to these replicas in between."""
        for core in followers:
            state = core._state
            state.election_began = state.ticks.count

    @staticmethod
    def on_same_answers(answers: Iterable[tuple[RaftCore, ReplicaId]]) -> None:
        """Take answers that `on_beat_answer` took the last time, where nothing came to these replicas in between."""
        for core, sender in answers:
            # It was resumed the last time, and has been sent nothing since.
            core._state.tracker.progress[sender].recent_active = True

    def step(self, message: Message) -> None:
        """Take a message from a peer. For SNAPSHOT the driver holds all of the data durably already.

        Raises:
            RemoteProtocolError: the message cannot come from a sound peer; nothing came of it.
        """
        state = self._state
        if message.to != state.replica:
            raise RemoteProtocolError(f"message for replica {message.to} reached replica {state.replica}")
        if message.entries:
            follower.check_entries(message)
        if state.events is not None:
            state.trace(TraceKind.RECEIVED, message)
        self._step(message)

    def _step(self, message: Message) -> None:
        state = self._state
        term = message.term
        if message.kind in election.VOTE_KINDS:
            election.learn_commit(state, message)
        if term != state.term:
            if term < state.term:
                election.answer_older_term(state, message)
                return
            if not election.admit_newer_term(state, message):
                return
        handler = HANDLERS[state.role].get(message.kind)
        if handler is not None:
            handler(state, message)

    def campaign(self, *, transfer: bool = False) -> bool:
        """Campaign now, after a pre-vote unless it is a transfer; False if this replica may not."""
        if transfer:
            return election.campaign(self._state, election.Campaign.TRANSFER)
        return election.regular_campaign(self._state)

    def suspect(self, replica: ReplicaId) -> None:
        """The connection to `replica` closed. If it is the leader, its lease ends here, until it is heard again.

        From now on this replica answers pre-votes and votes as if no leader were known. Call it at
        once when the connection closes, and `peer_down` after a jitter: then the first that asks finds
        everybody else willing.
        """
        state = self._state
        if state.role is Role.FOLLOWER and state.leader == replica:
            state.suspected = replica

    def peer_down(self, replica: ReplicaId) -> bool:
        """Start a pre-vote if `replica` is the leader and was not heard from since; True if one started.

        It never skips the pre-vote: if the others still hear the leader they refuse, nothing changes,
        and the next heartbeat makes this replica a follower again.
        """
        state = self._state
        if state.role is not Role.FOLLOWER or state.leader != replica:
            return False
        state.suspected = replica
        return election.campaign(state, election.Campaign.PRE_VOTE)

    def set_can_campaign(self, allowed: bool) -> None:
        """Allow or forbid this replica to lead. It votes either way; a leader goes on until told to transfer."""
        state = self._state
        state.can_campaign = allowed
        if not allowed and state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            state.become_follower(state.term, NO_REPLICA)

    def set_apply_limit(self, index: Index | None) -> None:
        """Hand out nothing behind `index` to apply, because storage has lost the entry after it; None lifts it."""
        self._state.log.apply_limit = index

    def propose(self, entries: Sequence[Entry]) -> None:
        """Append entries made for `next_index` on, in the present term; all or none.

        Raises:
            ProposalRefused: nothing was appended; `reason` says why.
        """
        leader.propose(self._state, entries)

    def propose_config(self, proposal: ConfigProposal) -> None:
        """Append a change of configuration.

        Raises:
            ProposalRefused: nothing was appended; one is under way, or it does not fit.
        """
        leader.propose_config(self._state, proposal)

    def apply_config(self, proposal: ConfigProposal) -> ConfState:
        """Put a change into force; called while its entry is applied, before `on_applied`."""
        return membership.apply_change(self._state, proposal)

    def read_index(self, context: int) -> None:
        """Ask for a read state. It never comes if the leadership ends first; use a new context to retry.

        Raises:
            ProposalRefused: not a leader that has committed in its term, or too many reads wait.
        """
        leader.read_index(self._state, context)

    def transfer_leadership(self, target: ReplicaId) -> None:
        """Hand leadership over; given up after one election timeout, or by a transfer to oneself.

        Raises:
            ProposalRefused: not the leader, or `target` is no voter.
        """
        leader.transfer(self._state, target)

    def report_unreachable(self, replica: ReplicaId) -> None:
        """A message to `replica` is known to be lost."""
        leader.report_unreachable(self._state, replica)

    def report_snapshot(self, replica: ReplicaId, *, ok: bool) -> None:
        """Sending a snapshot to `replica` ended."""
        leader.report_snapshot(self._state, replica, ok=ok)

    # -- what it wants done

    def has_ready(self) -> bool:
        state = self._state
        return bool(
            state.messages
            or state.append_due
            or state.after_persist
            or state.log.has_work
            or state.read_states
            or (state.leader, state.role) != self._handed_soft
            or (state.term, state.vote) != self._handed_hard
        )

    def ready(self) -> Ready:
        """Take the work that is due. Nothing in it is handed out twice."""
        state = self._state
        # First, because storage may refuse: then nothing has been handed out.
        committed = state.log.next_committed()
        if state.append_due:
            leader.tell_gathered(state)
        self._sequence += 1
        soft = hard = None
        if (state.leader, state.role) != self._handed_soft:
            self._handed_soft = (state.leader, state.role)
            soft = SoftState(state.leader, state.role)
        if (state.term, state.vote) != self._handed_hard:
            self._handed_hard = (state.term, state.vote)
            hard = HardState(state.term, state.vote, state.log.commit)
        entries, snapshot = state.log.hand_out(self._sequence, max_bytes=state.config.max_write_bytes)
        messages, state.messages = state.messages, []
        read_states: list[ReadState] = []
        if state.read_states:
            read_states, state.read_states = state.read_states, []
        return Ready(
            PersistToken(self._sequence),
            soft,
            hard,
            entries,
            snapshot,
            messages,
            self._take_after_persist(),
            committed,
            read_states,
            hard is not None or bool(entries) or snapshot is not None,
        )

    def _take_after_persist(self) -> Sequence[Message]:
        state = self._state
        if not state.after_persist:
            return ()
        waiting, state.after_persist = state.after_persist, []
        if state.log.has_unhanded:
            # What acknowledges entries that come with a later Ready waits for that, and so does all behind it.
            handed = state.log.handed_index
            count = next((at for at, message in enumerate(waiting) if _acknowledges_beyond(message, handed)), None)
            if count is not None:
                waiting, state.after_persist = waiting[:count], waiting[count:]
        own = [message for message in waiting if message.to == state.replica]
        if not own:
            return waiting
        self._own_votes.append((self._sequence, own))
        return [message for message in waiting if message.to != state.replica]

    def on_persisted(self, token: PersistToken) -> None:
        """Everything of the Ready that `token` names, and of every Ready before it, is durable.

        If it held a snapshot, the driver's state is the snapshot's from here on: entries handed out
        before and not applied yet are dropped.

        Tokens are given back in order; leaving one out is the same as giving it back with the next.
        """
        sequence = token.sequence
        if not self._persisted < sequence <= self._sequence:
            violated(f"Ready {sequence} reported durable after {self._persisted}, with {self._sequence} handed out")
        self._persisted = sequence
        state = self._state
        if state.role is Role.LEADER:
            # Before the entries leave the unstable tail, where looking up their terms is cheapest.
            leader.on_durable(state, state.log.persisted_through(sequence))
        installed = state.log.release(sequence)
        if installed is not None:
            membership.install(state, installed.conf)
        while self._own_votes and self._own_votes[0][0] <= sequence:
            for message in self._own_votes.popleft()[1]:
                self._step(message)

    def on_applied(self, index: Index, size_bytes: int) -> None:
        """Everything handed out up to `index` is applied; its entries count `size_bytes`."""
        state = self._state
        state.log.applied_to(index, size_bytes=size_bytes)
        leader.maybe_leave_joint(state)
