"""One replica of one group: a Raft core, a state machine, and the order in which their work becomes durable.

Synchronous and without a clock: the engine calls in, and takes writes and messages out. What a leader decides for its
clients is the service's matter (`partition_service`, `catalogue_service`); this module gives it `propose`, `read` and
the moments when leadership begins and ends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import (
    InvariantError,
    LogBrokerError,
    NotLeaderError,
    RemoteProtocolError,
    UnknownOutcomeError,
    invariant,
    violated,
)
from logbroker.ids import META_GROUP, NO_REPLICA, GroupId, Index, Offset, ReplicaId, Term
from logbroker.node.rest import NEVER_MS
from logbroker.raft.config_change import ConfigProposal
from logbroker.raft.core import RaftCore
from logbroker.raft.log import UnavailableEntryError
from logbroker.raft.messages import (
    ConfState,
    HardState,
    Message,
    MessageKind,
    PersistToken,
    Ready,
    Role,
    SnapshotMeta,
)
from logbroker.raft.settings import RaftConfig
from logbroker.storage.checkpoints import CheckpointHeader
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.entry_codec import seal_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from logbroker.raft.state import Ticks
    from logbroker.storage.lives import InstallBody
    from logbroker.storage.node_store import NodeStore, StoredReplica
    from logbroker.storage.partition_log import PartitionLog


class GroupMachine(Protocol):
    """What a replica needs of a state machine; `PartitionMachine` and the catalogue have it."""

    @property
    def applied_index(self) -> Index: ...
    @property
    def applied_term(self) -> Term: ...
    @property
    def next_offset(self) -> Offset: ...
    @property
    def append_ms(self) -> int: ...
    @property
    def log_start_offset(self) -> Offset: ...
    @property
    def log_start_index(self) -> Index: ...
    def apply(self, entry: Entry) -> object: ...
    def clone(self) -> Self: ...
    def digest(self) -> bytes: ...


@final
@dataclass(frozen=True, slots=True)
class MachineKind:
    """How the state machine of a kind of group is made, and its byte form in checkpoints.

    `encode` captures the state when called and yields it in pieces of at most 20 ms of work each; `decode` raises
    CorruptBatchError for any bytes that are not such a form.
    """

    new: Callable[[GroupId], GroupMachine]
    encode: Callable[[GroupMachine], Iterator[bytes]]
    decode: Callable[[bytes], GroupMachine]


class Service(Protocol):
    """The leader's side of a group, told of what happens by its replica."""

    def on_leading(self) -> None:
        """The first entry of the own term is applied: requests may be taken."""

    def on_leadership_lost(self, error: Callable[[], LogBrokerError]) -> None:
        """Everything that waits is to be answered now: nothing of this term's proposals is known any more."""

    def on_applied(self, entry: Entry, applied: object) -> None: ...

    def on_tick(self, now_ms: int) -> int:
        """Time passed, to `now_ms` on the node's monotonic clock; called while the replica serves.

        Gives the time before which nothing is due, unless something is asked or applied.
        """

    def after_pump(self) -> None:
        """Everything that was ready has been applied."""


class ReplicaHost(Protocol):
    """What a replica may ask of the node it runs on."""

    @property
    def ticks(self) -> Ticks: ...

    def send_raft(self, group: GroupId, messages: Sequence[Message]) -> None: ...

    def send_snapshot(self, replica: Replica, message: Message) -> None:
        """Begin to move a snapshot to the follower that `message` names."""

    def start_clock(self, last_append_ms: int) -> Callable[[int], int]:
        """The log clock of one leadership: the previous entry's log time in, the next one's out."""

    def touch(self, replica: Replica) -> None:
        """Something may be ready in `replica`, or it may be another than before: it is to be pumped in this turn."""

    def rise(self, replica: Replica) -> None:
        """The next tick is to look at `replica`, whatever it said of its rest."""

    def on_conf(self, group: GroupId, conf: ConfState) -> None: ...

    def on_group_failed(self, group: GroupId, error: LogBrokerError) -> None: ...


@final
@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """`checkpoint_*`: how much, or how long, after the last checkpoint the next is due.

    `max_commit_bytes` bounds the entries of a group commit over all groups, and so what one of them writes at once.
    """

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_message_bytes: int = 1 << 20
    max_inflight_messages: int = 4
    max_inflight_bytes: int = 8 << 20
    max_uncommitted_bytes: int = 8 << 20
    max_commit_bytes: int = 4 << 20
    checkpoint_bytes: int = 64 << 20
    checkpoint_ms: int = 60_000


@final
@dataclass(slots=True)
class PendingWrite:
    """The durable part of one Ready, and what waits for it."""

    token: PersistToken
    vote: tuple[Term, ReplicaId] | None
    entries: Sequence[Entry]
    install: InstallBody | None
    messages: Sequence[Message]

    @property
    def is_empty(self) -> bool:
        """It needs nothing durable of its own, and waits only for what came before it."""
        return not self.entries and self.vote is None and self.install is None


@final
@dataclass(slots=True)
class ReceivedSnapshot:
    """A snapshot complete and synced beside the log, waiting for the core to take it."""

    meta: SnapshotMeta
    install: InstallBody
    machine: GroupMachine
    checkpoint: tuple[CheckpointHeader, bytes]


@final
@dataclass(slots=True)
class _Proposed:
    term: Term
    on_committed: Callable[[object], None]
    on_lost: Callable[[LogBrokerError], None]


@final
class _Storage:
    """The Raft core's view of the log: the log itself, and the newest checkpoint as the snapshot to send."""

    def __init__(self, log: PartitionLog) -> None:
        self.log = log
        self.snapshot = SnapshotMeta(Index(0), Term(0), ConfState())

    def first_index(self) -> Index:
        return self.log.first_index()

    def last_index(self) -> Index:
        return self.log.last_index()

    def term(self, index: Index) -> Term:
        return self.log.term(index)

    def entries(self, start: Index, end: Index, *, max_bytes: int) -> Sequence[Entry]:
        return self.log.entries(start, end, max_bytes=max_bytes)

    def snapshot_meta(self) -> SnapshotMeta:
        return self.snapshot


@final
class Replica:
    """See the module. `machine` is the applied state; `ahead` exists while this replica leads and serves."""

    def __init__(
        self,
        store: NodeStore,
        stored: StoredReplica,
        host: ReplicaHost,
        options: ReplicaOptions,
        *,
        kind: MachineKind,
        random_ticks: Callable[[int], int],
    ) -> None:
        self.log = stored.log
        self.group = stored.log.group
        self.id = stored.log.replica
        self.failed: LogBrokerError | None = None
        self._store = store
        self._host = host
        self._options = options
        self.kind = kind
        self._storage = _Storage(stored.log)
        conf = ConfState.decode(stored.log.state.initial_conf) if stored.log.state.initial_conf else ConfState()
        self.machine = kind.new(self.group)
        if stored.checkpoint is not None:
            header, body = stored.checkpoint
            self.machine = kind.decode(body)
            conf = ConfState.decode(header.conf)
            self._storage.snapshot = SnapshotMeta(Index(header.index), Term(header.term), conf)
        self.core = RaftCore(
            RaftConfig(
                self.id,
                options.election_ticks,
                options.heartbeat_ticks,
                max_message_bytes=options.max_message_bytes,
                max_inflight_messages=options.max_inflight_messages,
                max_inflight_bytes=options.max_inflight_bytes,
                max_uncommitted_bytes=options.max_uncommitted_bytes,
                max_write_bytes=options.max_commit_bytes,
                gather_appends=True,
                # The catalogue is read on every node, and changes seldom: there it is the delay that counts.
                lazy_commit=self.group != META_GROUP,
                packs_heartbeats=True,
                names_heir=True,
            ),
            self._storage,
            hard_state=self._start_state(stored),
            conf_state=conf,
            applied=self.machine.applied_index,
            make_entry=self._make_entry,
            random_ticks=random_ticks,
            ticks=host.ticks,
        )
        # Before this tick, and this time, nothing is due by itself, and `tick` may be left out. The tick is 0 where the
        # next one is to look at it: whatever is done to the replica has it `rise`.
        self.due_tick = self.due_ms = 0
        # While it rests: its heartbeats are due at every tick.
        self.rests_leading = False
        self.ahead: GroupMachine | None = None
        self.service: Service | None = None
        self.received: ReceivedSnapshot | None = None
        self._writes: deque[PendingWrite] = deque()
        self._in_flight: list[PendingWrite] = []
        self._proposed: dict[Index, _Proposed] = {}
        self._reads: dict[int, tuple[Callable[[], None], Callable[[LogBrokerError], None]]] = {}
        # In the order of their indexes: each is the end of the log at the time it was asked for.
        self._waiting: deque[tuple[Index, Callable[[], None], Callable[[LogBrokerError], None]]] = deque()
        self._ready_reads: list[tuple[Index, int]] = []
        self._next_read = 1
        self._led_term = Term(0)
        self._clock: Callable[[int], int] | None = None
        self._clock_term = Term(0)
        self._may_campaign = True
        self.log.on_damage = lambda: host.rise(self)
        self._bytes_since_checkpoint = 0
        self._checkpoint_due_ms = 0
        self.log.committed = max(self.log.flushed_index, self.machine.applied_index)
        self.log.log_start_index = self.machine.log_start_index
        self._limit_apply()

    # What others may look at.

    @property
    def leader(self) -> ReplicaId:
        return self.core.leader

    @property
    def is_serving(self) -> bool:
        """Leads, and has applied the first entry of its term: what it decides rests on the whole log."""
        return self.failed is None and self.ahead is not None and self.core.leads_in(self._led_term)

    @property
    def conf(self) -> ConfState:
        return self.core.conf

    @property
    def is_installing(self) -> bool:
        """A snapshot's switch is on its way to the WAL."""
        return any(write.install is not None for write in (*self._writes, *self._in_flight))

    @property
    def writes_housekeeping(self) -> bool:
        """Something is to be written that frees room, or without which nothing goes on: the last room is for that."""
        kinds = (EntryKind.FLOOR, EntryKind.CONFIG, EntryKind.NOOP)
        return any(entry.kind in kinds for write in self._writes for entry in write.entries)

    @property
    def has_writes(self) -> bool:
        return bool(self._writes) and not self._in_flight and self.failed is None

    # Inputs.

    def tick(self, now_ms: int, *, may_campaign: bool = True, may_stamp: bool = True) -> None:
        """Do what is due at the node's tick, which is at `now_ms` on its monotonic clock, and find out what is next.

        The bounds are the node's: without them this replica does not campaign, or not lead.
        """
        if self.failed is not None:
            return
        if not (may_campaign and may_stamp and self._may_campaign) or self.log.is_damaged:
            self._guard_candidacy(may_campaign=may_campaign, may_stamp=may_stamp)
        try:
            if self.core.on_tick():
                self._host.touch(self)
        except LogBrokerError as error:
            self._host.touch(self)
            self._on_refused(error)
        self.due_tick, self.due_ms = 0, NEVER_MS
        if self.service is not None and self._leads_on(self.ahead):
            self.due_ms = self.service.on_tick(now_ms)
        # A damaged one looks at every tick whether it is mended.
        if self._may_campaign and not self.log.is_damaged and self.failed is None:
            self.due_tick = self._host.ticks.count + self.core.rest_ticks + 1
            self.rests_leading = self.core.is_leader

    def step(self, message: Message) -> None:
        if self.failed is None:
            self._host.touch(self)
            try:
                self.core.step(message)
            except LogBrokerError as error:
                self._on_refused(error)

    def campaign(self) -> None:
        """Ask for votes now, not after a timeout: for the first voter of a new group, and for a sole voter."""
        if self.failed is None:
            self._host.touch(self)
            self._call(self.core.campaign)

    def peer_lost(self, replica: ReplicaId) -> None:
        """The connection to another replica's node closed: if it led, its lease ends here."""
        if self.failed is None:
            self._host.touch(self)
            self.core.suspect(replica)
            self.core.report_unreachable(replica)

    def campaign_against(self, replica: ReplicaId) -> None:
        """Ask for votes if `replica` leads and was not heard of since `peer_lost`."""
        if self.failed is None:
            self._host.touch(self)
            self._call(lambda: self.core.peer_down(replica))

    def report_snapshot(self, replica: ReplicaId, *, ok: bool) -> None:
        """A snapshot that was sent to another replica arrived, or was given up."""
        self._host.touch(self)
        self.core.report_snapshot(replica, ok=ok)

    def transfer_leadership(self, target: ReplicaId) -> None:
        """Raises ProposalRefused where it can not be given to `target` now."""
        self._host.touch(self)
        self.core.transfer_leadership(target)

    def pump(self) -> None:
        """Take every Ready there is; afterwards messages are sent, entries applied and writes queued."""
        self._take_all()
        if self.service is not None and self.failed is None:
            self.service.after_pump()
            # What became available was leased to those who waited: that is ready too.
            self._take_all()

    def _take_all(self) -> None:
        while self.failed is None and self.core.has_ready():
            try:
                self._take(self.core.ready())
            except UnavailableEntryError:
                # An entry to apply turned out to be damaged: what lies before it goes on, it is fetched from a peer.
                self._limit_apply()
            except LogBrokerError as error:
                self._fail(error)

    # Proposals and reads.

    def propose(
        self,
        kind: EntryKind,
        payload: bytes,
        *,
        record_count: int = 0,
        append_ms: int,
        on_committed: Callable[[object], None],
        on_lost: Callable[[LogBrokerError], None],
        preparation: bytes | None = None,
    ) -> tuple[Entry, object]:
        """Append one entry, run it on `ahead`, and remember who waits for it; or raise and change nothing.

        With `preparation` a STATE entry of that payload goes directly before it, and nothing comes between the two.

        Exactly one of the callbacks is called: with apply's result once the entry of this very term is
        applied, or as soon as the term is lost.

        Raises:
            ProposalRefused: too much is uncommitted, or leadership is being handed over.
            NotLeaderError: this replica does not serve.
        """
        ahead = self.require_ahead()
        index = self.core.next_index
        before: tuple[Entry, ...] = ()
        if preparation is not None:
            before = (self._seal(EntryKind.STATE, preparation, index, ahead.next_offset, 0, append_ms),)
            index = Index(index + 1)
        entry = self._seal(kind, payload, index, ahead.next_offset, record_count, append_ms)
        self.core.propose((*before, entry))
        self._host.touch(self)
        for prepared in before:
            ahead.apply(prepared)
        foreseen = ahead.apply(entry)
        self._proposed[entry.index] = _Proposed(entry.term, on_committed, on_lost)
        return entry, foreseen

    def _seal(
        self, kind: EntryKind, payload: bytes, index: Index, base_offset: Offset, record_count: int, append_ms: int
    ) -> Entry:
        return seal_entry(
            kind,
            group=self.group,
            index=index,
            term=self.core.term,
            base_offset=base_offset,
            next_offset=Offset(base_offset + record_count),
            append_ms=append_ms,
            payload=payload,
        )

    def propose_config(self, proposal: ConfigProposal) -> None:
        """Raises ProposalRefused where one is pending or it does not fit."""
        self.require_ahead()
        self.core.propose_config(proposal)
        self._host.touch(self)

    def stamp_ms(self) -> int:
        """Log time of the entry that would be proposed now."""
        return self._stamp(self.require_ahead().append_ms)

    def read(self, on_ready: Callable[[], None], on_lost: Callable[[LogBrokerError], None]) -> None:
        """Call `on_ready` once the applied state is at least as new as this moment, by read index.

        Raises:
            NotLeaderError: this replica does not serve.
            ProposalRefused: too many reads wait.
        """
        self.require_ahead()
        context = self._next_read
        self._next_read += 1
        self.core.read_index(context)
        self._host.touch(self)
        self._reads[context] = (on_ready, on_lost)

    def when_applied(
        self, index: Index, on_applied: Callable[[], None], on_lost: Callable[[LogBrokerError], None]
    ) -> None:
        """Call `on_applied` once the entry that stands at `index` now is applied, at once if it is."""
        if index <= self.machine.applied_index:
            on_applied()
        else:
            self._waiting.append((index, on_applied, on_lost))

    def lost_error(self, *, unknown: bool) -> LogBrokerError:
        """What a waiter is told when the term is lost."""
        if unknown:
            return UnknownOutcomeError(
                f"leadership of group {self.group} moved before the request was confirmed",
                hint="repeat it: producer sequence and request ids make that safe",
            )
        return NotLeaderError(f"this node does not lead group {self.group} any more")

    # Writes.

    def take_write(self, max_bytes: int) -> ReplicaWrite | None:
        """Merge queued Ready writes into one for the next group commit, up to `max_bytes`; None if not one fits.

        At least one is taken where the commit is still empty, however large its only entry is.
        """
        if self._in_flight:
            violated(f"group {self.group} has a write in flight already")
        vote: tuple[Term, ReplicaId] | None = None
        entries: list[Entry] = []
        install: InstallBody | None = None
        size = 0
        while self._writes:
            write = self._writes[0]
            added = sum(entry.size_bytes for entry in write.entries)
            if size + added > max_bytes and (self._in_flight or max_bytes < self._options.max_commit_bytes):
                break
            if write.install is not None and self._in_flight:
                break
            if write.entries and entries and write.entries[0].index <= entries[-1].index:
                # Each write is acknowledged: what takes the place of another one's entries waits until that is true.
                break
            self._writes.popleft()
            self._in_flight.append(write)
            vote = write.vote or vote
            install = write.install
            entries.extend(write.entries)
            size += added
            if install is not None:
                break
        if not self._in_flight:
            return None
        return ReplicaWrite(self.id, vote, tuple(entries), install)

    def mends(self, max_bytes: int) -> ReplicaWrite:
        """Copies of damaged entries of the tail, for the next group commit; they stay until that is durable."""
        return ReplicaWrite(self.id, entries=self.log.mends(max_bytes))

    def on_written(self) -> None:
        """The write taken last is durable."""
        done, self._in_flight = self._in_flight, []
        if self.failed is not None:
            return
        self._host.touch(self)
        try:
            for write in done:
                if write.install is not None:
                    self._switch(write.install)
                self._complete(write)
            while self._writes and self._writes[0].is_empty:
                self._complete(self._writes.popleft())
            # An entry that was damaged may have been overruled by what was written: it holds up nothing any more.
            self._limit_apply()
        except LogBrokerError as error:
            self._fail(error)

    def on_write_refused(self) -> None:
        """There was no room: the same write is tried again with the next commit."""
        self._writes.extendleft(reversed(self._in_flight))
        self._in_flight = []
        self._host.touch(self)

    # Checkpoints.

    def checkpoint_due(self, now_ms: int) -> bool:
        """Whether enough changed, or changed long enough ago, since the last checkpoint.

        When nobody needs the active segment any more, the next ones come sooner: two let it go.
        """
        if self.failed is not None or not self._bytes_since_checkpoint:
            return False
        due_ms = self._checkpoint_due_ms
        if self.log.has_expired_files:
            due_ms -= self._options.checkpoint_ms - self._tidy_ms
        return self._bytes_since_checkpoint >= self._options.checkpoint_bytes or now_ms >= due_ms

    def wants_tidying(self, now_ms: int) -> bool:
        """Whether another entry is needed, so that a second checkpoint lets expired files of an idle group go."""
        return self.log.has_expired_files and now_ms - self.require_ahead().append_ms >= self._tidy_ms

    @property
    def _tidy_ms(self) -> int:
        return self._options.checkpoint_ms // 4

    def make_checkpoint(self, now_ms: int) -> tuple[CheckpointHeader, Iterable[bytes]]:
        """Header and slices of the applied state; what is applied is durable here."""
        machine = self.machine
        self._bytes_since_checkpoint = 0
        self._checkpoint_due_ms = now_ms + self._options.checkpoint_ms
        header = CheckpointHeader(
            group=self.group,
            replica=self.id,
            index=machine.applied_index,
            term=machine.applied_term,
            log_start_offset=machine.log_start_offset,
            log_start_index=machine.log_start_index,
            next_offset=machine.next_offset,
            append_ms=machine.append_ms,
            conf=self.core.conf.encode(),
        )
        return header, self.kind.encode(machine)

    def on_checkpoint(self, index: Index, term: Term, conf: ConfState) -> None:
        """A checkpoint is durable: from now on it is the snapshot that lagging followers get."""
        if index > self._storage.snapshot.index:
            self._storage.snapshot = SnapshotMeta(index, term, conf)

    # Inside.

    def _call(self, act: Callable[[], object]) -> None:
        try:
            act()
        except LogBrokerError as error:
            self._on_refused(error)

    def _on_refused(self, error: LogBrokerError) -> None:
        """The core raised: a damaged entry is noted in the log, and a message that no sound peer sends changes nothing.

        Raft repeats both. A broken invariant stops the group.
        """
        match error:
            case UnavailableEntryError() | RemoteProtocolError():
                self._limit_apply()
            case InvariantError():
                self._fail(error)
            case _:
                raise error

    def _limit_apply(self) -> None:
        hole = min((index for index, _ in self.log.holes() if index > self.machine.applied_index), default=None)
        self.core.set_apply_limit(None if hole is None else Index(hole - 1))

    def abandon(self, error: LogBrokerError) -> None:
        """The node stops: nothing is confirmed any more, and whoever waits is told that the outcome is unknown."""
        if self.failed is None:
            self._fail(error)

    def on_damaged(self) -> None:
        """Entries were found damaged: nothing at or beyond them is applied before they are mended."""
        self._limit_apply()

    def want_checkpoint(self) -> None:
        """One of the checkpoints is damaged: the next one is due at once."""
        self._checkpoint_due_ms = 0
        self._bytes_since_checkpoint = max(self._bytes_since_checkpoint, 1)

    def on_repaired(self) -> None:
        """An entry that was damaged here has come from a peer."""
        self._host.touch(self)
        self._limit_apply()
        if self.core.is_leader and self.ahead is None and self.machine.applied_term == self.core.term:
            self._begin_serving()

    def _start_state(self, stored: StoredReplica) -> HardState:
        vote = self._store.vote(self.id) or (Term(0), NO_REPLICA)
        last_term = self.log.term(self.log.last_index())
        term = max(vote[0], last_term, self.machine.applied_term)
        commit = max(self.log.flushed_index, self.machine.applied_index)
        return HardState(term, vote[1] if term == vote[0] else NO_REPLICA, commit)

    def _make_entry(self, kind: EntryKind, index: Index, term: Term, payload: bytes) -> Entry:
        next_offset, append_ms = self._log_end()
        return seal_entry(
            kind,
            group=self.group,
            index=index,
            term=term,
            base_offset=next_offset,
            next_offset=next_offset,
            append_ms=self._stamp(append_ms),
            payload=payload,
        )

    def _stamp(self, previous_ms: int) -> int:
        if self._clock is None or self._clock_term != self.core.term:
            self._clock, self._clock_term = self._host.start_clock(previous_ms), self.core.term
        return self._clock(previous_ms)

    def _log_end(self) -> tuple[Offset, int]:
        """Next offset and log time at the end of the *log*, which may be ahead of the applied state."""
        if self.ahead is not None and self._leads_on(self.ahead):
            self._catch_up(self.ahead)
            return self.ahead.next_offset, self.ahead.append_ms
        last = self.core.last_index
        if last == self.machine.applied_index:
            return self.machine.next_offset, self.machine.append_ms
        (entry,) = self.core.entries(last, max_bytes=1)
        return entry.next_offset, entry.append_ms

    def _take(self, ready: Ready) -> None:
        if self.ahead is not None and not self._leads_on(self.ahead):
            self._stop_serving()
        self._send(ready.messages)
        install = None
        if ready.snapshot is not None:
            received = self.received
            invariant(
                received is not None and received.meta.index == ready.snapshot.index,
                f"group {self.group} is to install a snapshot at {ready.snapshot.index} that was not received",
            )
            install = received.install if received is not None else None
        hard = ready.hard_state
        vote = None if hard is None else (hard.term, hard.vote)
        write = PendingWrite(ready.token, vote, ready.entries, install, ready.messages_after_persist)
        if ready.must_sync or self._writes or self._in_flight:
            self._writes.append(write)
        else:
            self._complete(write)
        for entry in ready.committed:
            self._apply(entry)
        # Not the log's last index: at a committed index storage may still hold the entry that a conflict replaces.
        # While a snapshot is on its way in, the core speaks of the log that will be.
        if self.received is None:
            self.log.committed = max(self.log.committed, min(self.core.commit, self.core.durable_index))
        self._ready_reads.extend((state.index, state.context) for state in ready.read_states)
        self._answer_reads()

    def _complete(self, write: PendingWrite) -> None:
        self.core.on_persisted(write.token)
        self._send(write.messages)

    def _send(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        kept = []
        for message in messages:
            if message.kind is MessageKind.SNAPSHOT:
                self._host.send_snapshot(self, message)
            elif not self._is_withheld(message):
                kept.append(message)
        if kept:
            self._host.send_raft(self.group, kept)

    def _is_withheld(self, message: Message) -> bool:
        """A replica with a hole acknowledges nothing at or beyond it."""
        if message.kind is not MessageKind.APPEND_RESPONSE or message.reject:
            return False
        hole = self.log.first_hole()
        return hole is not None and message.index >= hole

    def _apply(self, entry: Entry) -> None:
        if entry.kind is EntryKind.CONFIG:
            conf = self.core.apply_config(ConfigProposal.decode(entry.payload))
            self._host.on_conf(self.group, conf)
            # The commit index is not durable: a restart of all members goes back to the configuration of the last
            # checkpoint, and one that was left may name members that are gone for good.
            self.want_checkpoint()
        applied = self.machine.apply(entry)
        self.core.on_applied(entry.index, entry.size_bytes)
        self.log.log_start_index = self.machine.log_start_index
        if entry.kind is not EntryKind.NOOP:
            self._bytes_since_checkpoint += entry.size_bytes
        proposed = self._proposed.pop(entry.index, None)
        if self.service is not None:
            self.service.on_applied(entry, applied)
        if proposed is not None:
            if proposed.term == entry.term:
                proposed.on_committed(applied)
            else:
                proposed.on_lost(self.lost_error(unknown=True))
        while self._waiting and self._waiting[0][0] <= entry.index:
            self._waiting.popleft()[1]()
        if self.core.is_leader and self.ahead is None and entry.term == self.core.term:
            self._begin_serving()

    def _begin_serving(self) -> None:
        ahead = self.machine.clone()
        try:
            self._catch_up(ahead)
        except UnavailableEntryError:
            # What is committed goes on being applied; this replica has a hole, fetches it, and hands leadership over.
            self._limit_apply()
            return
        self.ahead = ahead
        self._led_term = self.core.term
        if self.service is not None:
            self.service.on_leading()

    def _catch_up(self, ahead: GroupMachine) -> None:
        """Run entries that the core itself put into the log (configurations) on `ahead`."""
        while ahead.applied_index < self.core.last_index:
            following = Index(ahead.applied_index + 1)
            for entry in self.core.entries(following, max_bytes=self._options.max_message_bytes):
                ahead.apply(entry)

    def _stop_serving(self) -> None:
        self.ahead = None
        proposed, self._proposed = self._proposed, {}
        reads, self._reads = self._reads, {}
        self._ready_reads.clear()
        for proposal in proposed.values():
            proposal.on_lost(self.lost_error(unknown=True))
        waiting, self._waiting = self._waiting, deque()
        for _, _, on_lost in waiting:
            on_lost(self.lost_error(unknown=True))
        for _, on_lost in reads.values():
            on_lost(self.lost_error(unknown=False))
        if self.service is not None:
            self.service.on_leadership_lost(lambda: self.lost_error(unknown=False))

    def _answer_reads(self) -> None:
        if not self._ready_reads:
            return
        waiting = []
        for index, context in self._ready_reads:
            if index > self.machine.applied_index:
                waiting.append((index, context))
                continue
            found = self._reads.pop(context, None)
            if found is not None:
                found[0]()
        self._ready_reads = waiting

    def require_ahead(self) -> GroupMachine:
        """The state to decide on: what is applied, and every later entry of the own log.

        Raises:
            NotLeaderError: this replica does not serve.
        """
        ahead = self.ahead
        if ahead is None or not self.is_serving:
            raise NotLeaderError(f"this node does not serve group {self.group}")
        self._catch_up(ahead)
        return ahead

    def _leads_on(self, ahead: GroupMachine | None) -> bool:
        return ahead is not None and self.core.leads_in(self._led_term)

    def _guard_candidacy(self, *, may_campaign: bool, may_stamp: bool) -> None:
        """A damaged replica, or one whose clock is off, does not campaign and hands leadership over."""
        is_whole = not self.log.is_damaged
        may = is_whole and may_campaign
        if may != self._may_campaign:
            self._may_campaign = may
            self._host.touch(self)
            self.core.set_can_campaign(may)
        if not (is_whole and may_stamp) and self.core.is_leader:
            self.hand_over()

    def hand_over(self, among: Collection[ReplicaId] | None = None) -> bool:
        """Ask the most caught-up other voter, or one of those named, to take over; False where there is none."""
        voters = set(self.core.conf.voters if among is None else among) - {self.id}
        others = [
            progress for progress in self.core.progress() if progress.replica in voters and progress.recent_active
        ]
        if not others or self.core.transfer_target != NO_REPLICA:
            return False
        try:
            self.transfer_leadership(max(others, key=lambda progress: progress.match).replica)
        except LogBrokerError:
            return False
        return True

    def _switch(self, install: InstallBody) -> None:
        """The INSTALL frame is durable: the snapshot's state takes the place of the old one."""
        received, self.received = self.received, None
        invariant(received is not None, f"group {self.group} installed a snapshot that is not there")
        if received is None:
            return
        self.machine = received.machine
        self._storage.snapshot = received.meta
        self.log.committed = Index(install.index)
        self.log.log_start_index = self.machine.log_start_index
        self._host.on_conf(self.group, received.meta.conf)

    def _fail(self, error: LogBrokerError) -> None:
        """The group stops here, the node goes on; what waits learns that the outcome is unknown."""
        if self.ahead is not None:
            self._stop_serving()
        self.failed = error
        self._host.rise(self)
        self._writes.clear()
        self._host.on_group_failed(self.group, error)


@final
@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A snapshot for operators."""

    group: GroupId
    replica: ReplicaId
    role: Role
    leader: ReplicaId
    term: Term
    commit: Index
    applied: Index
    first_index: Index
    last_index: Index
    conf: ConfState
    damaged: int
    failed: str = ""
    notes: tuple[str, ...] = field(default=())
