"""Everything one replica of a group is and wants, shared by the files that say how each role behaves.

The roles are functions over this object: `follower`, `candidate`, `leader`, with `election`,
`replication` and `membership` for what more than one of them does. Only `core` is seen from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import invariant
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.log import LogStorage, RaftLog
from logbroker.raft.messages import HardState, Message, MessageKind, ReadState, Role
from logbroker.raft.read_index import PendingReads
from logbroker.raft.trace import TraceEvent, TraceKind
from logbroker.raft.tracker import Tracker

if TYPE_CHECKING:
    from logbroker.raft.progress import Progress
    from logbroker.raft.settings import RaftConfig

EntryMaker = Callable[[EntryKind, Index, Term, bytes], Entry]
TickSource = Callable[[int], int]

# These promise something: a vote, or that entries are here. What they promise must be durable before
# they leave (Raft 5, "updated on stable storage before responding to RPCs"). Refusals wait with them,
# because they too may rest on a vote or on entries that a crash would take back.
AFTER_PERSIST: Final = frozenset(
    {MessageKind.APPEND_RESPONSE, MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE}
)


@final
class Ticks:
    """How many ticks have passed. The replicas of a node share one: time passes for all of them at once."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


@final
class RaftState:
    __slots__ = (
        "after_persist",
        "append_due",
        "beat_due",
        "campaigns",
        "can_campaign",
        "config",
        "election_began",
        "events",
        "heartbeat_began",
        "leader",
        "leader_since",
        "log",
        "make_entry",
        "messages",
        "pending_config_index",
        "quorum_losses",
        "random_ticks",
        "randomized_election_ticks",
        "read_states",
        "reads",
        "refused_proposals",
        "rejections",
        "replica",
        "role",
        "snapshots_sent",
        "suspected",
        "term",
        "terms_led",
        "ticks",
        "tracker",
        "transfer_target",
        "uncommitted",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(
        self,
        config: RaftConfig,
        storage: LogStorage,
        *,
        hard_state: HardState,
        make_entry: EntryMaker,
        random_ticks: TickSource,
        ticks: Ticks,
    ) -> None:
        self.config = config
        self.replica = config.replica
        self.make_entry = make_entry
        self.random_ticks = random_ticks
        self.ticks = ticks
        self.log = RaftLog(
            storage,
            max_applying_bytes=config.max_committed_bytes_per_ready,
            allow_unstable_apply=not config.async_storage,
        )
        self.tracker = Tracker(
            max_inflight_messages=config.max_inflight_messages, max_inflight_bytes=config.max_inflight_bytes
        )
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = NO_REPLICA
        # The leader whose connection closed: its lease is over here, though it may still be the leader.
        self.suspected = NO_REPLICA
        self.can_campaign = True

        # The tick at which each timer last began anew.
        self.election_began = ticks.count
        self.heartbeat_began = ticks.count
        # In [election_ticks, 2 * election_ticks), drawn again whenever a role or term begins.
        self.randomized_election_ticks = config.election_ticks

        self.messages: list[Message] = []
        self.after_persist: list[Message] = []
        self.read_states: list[ReadState] = []
        self.events: deque[TraceEvent] | None = (
            deque(maxlen=config.max_trace_events) if config.max_trace_events else None
        )

        # The rest is the leader's, and begins anew with each leadership.
        # Index of its first entry: everything from here on has its term.
        self.leader_since = Index(0)
        # No change of configuration may be proposed before this index is applied.
        self.pending_config_index = Index(0)
        # Followers are to be told of entries or of a commit index when the next Ready is taken.
        self.append_due = False
        # Heartbeats are due that the driver takes with `take_beats`, to pack those of many groups.
        self.beat_due = False
        self.transfer_target = NO_REPLICA
        self.reads = PendingReads()
        # (last index, bytes) of each proposal above the commit index, and the sum of the bytes.
        self.uncommitted: deque[tuple[Index, int]] = deque()
        self.uncommitted_bytes = 0

        self.campaigns = 0
        self.terms_led = 0
        self.quorum_losses = 0
        self.rejections = 0
        self.snapshots_sent = 0
        self.refused_proposals = 0

    @property
    def election_elapsed(self) -> int:
        """Ticks since the leader was heard, a campaign began, or, on a leader, its majority was last asked for."""
        return self.ticks.count - self.election_began

    @property
    def own_progress(self) -> Progress | None:
        return self.tracker.progress.get(self.replica)

    def send(self, message: Message) -> None:
        """Put a message into the next Ready, on the side of persistence where its kind belongs."""
        if message.kind in AFTER_PERSIST:
            self.after_persist.append(message)
        else:
            self.messages.append(message)
        if self.events is not None:
            self.trace(TraceKind.SENT, message)

    def trace(self, kind: TraceKind, message: Message | None = None) -> None:
        if self.events is not None:
            self.events.append(
                TraceEvent(
                    kind,
                    self.replica,
                    self.role,
                    self.term,
                    self.vote,
                    self.log.commit,
                    self.log.last_index,
                    self.tracker.conf,
                    message,
                )
            )

    def become_follower(self, term: Term, leader: ReplicaId) -> None:
        self._begin(Role.FOLLOWER, term)
        self.leader = leader
        self.trace(TraceKind.BECAME_FOLLOWER)

    def become_pre_candidate(self) -> None:
        """Ask whether a campaign could be won. Changes neither term nor vote, so it costs the group nothing."""
        invariant(self.role is not Role.LEADER, f"leader of term {self.term} turns pre-candidate")
        self.role = Role.PRE_CANDIDATE
        self.leader = NO_REPLICA
        self.tracker.votes = {}
        self.restart_election_timer()
        self.trace(TraceKind.BECAME_PRE_CANDIDATE)

    def become_candidate(self) -> None:
        invariant(self.role is not Role.LEADER, f"leader of term {self.term} turns candidate")
        self._begin(Role.CANDIDATE, Term(self.term + 1))
        self.vote = self.replica
        self.campaigns += 1
        self.trace(TraceKind.BECAME_CANDIDATE)

    def become_leader(self) -> None:
        invariant(self.role is Role.CANDIDATE, f"{self.role.name} of term {self.term} turns leader")
        self._begin(Role.LEADER, self.term)
        self.leader = self.replica
        self.terms_led += 1
        # A candidate is a voter. It has what is on its disk; more may still be on its way there.
        own = self.tracker.progress[self.replica]
        own.on_accepted(self.log.durable_index)
        own.become_replicate()
        own.recent_active = True
        # There may be an unapplied change in the tail. Not looking for it costs only a short wait.
        self.pending_config_index = self.log.last_index
        self.leader_since = Index(self.log.last_index + 1)
        self.trace(TraceKind.BECAME_LEADER)

    def _begin(self, role: Role, term: Term) -> None:
        if term != self.term:
            invariant(term > self.term, f"term goes back from {self.term} to {term}")
            self.term = term
            self.vote = NO_REPLICA
        self.role = role
        self.leader = NO_REPLICA
        self.suspected = NO_REPLICA
        self.heartbeat_began = self.ticks.count
        self.restart_election_timer()
        self.tracker.reset(last_index=self.log.last_index)
        self.pending_config_index = Index(0)
        self.transfer_target = NO_REPLICA
        self.reads = PendingReads()
        self.uncommitted.clear()
        self.uncommitted_bytes = 0

    def restart_election_timer(self) -> None:
        ticks = self.config.election_ticks
        self.election_began = self.ticks.count
        self.randomized_election_ticks = ticks + self.random_ticks(ticks)

    @property
    def is_in_lease(self) -> bool:
        """A leader was heard from within the shortest election timeout and is not known to be gone."""
        return (
            self.config.check_quorum
            and self.leader != NO_REPLICA
            and self.leader != self.suspected
            and self.election_elapsed < self.config.election_ticks
        )

    @property
    def is_promotable(self) -> bool:
        """Could lead: a voter, whose driver allows it, and whose log is not about to be replaced."""
        own = self.own_progress
        return self.can_campaign and own is not None and not own.is_learner and not self.log.has_pending_snapshot
