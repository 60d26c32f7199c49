"""A cluster of cores under the directives of an interaction script, with storage and network in lists.

A driver in its own right: it does what etcd's own harness does, in our core's terms. Two things that etcd's
core does inside are done here: a follower's driver passes proposals on to the leader, and a change of
configuration that the core refuses is replaced by an empty entry.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

from logbroker.entry import Entry, EntryKind
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.config_change import ConfigProposal
from logbroker.raft.core import RaftCore
from logbroker.raft.messages import ConfState, HardState, Message, MessageKind, PersistToken, Role, SnapshotMeta
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from logbroker.raft.settings import RaftConfig
from tests.conformance.etcd import etcd_text
from tests.conformance.etcd.confchange import describe_config
from tests.conformance.etcd.differences import Deviation, seen_in_step
from tests.raft_kit.memory_log import MemoryLog, make_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.raft.messages import Ready

ELECTION_TICKS: Final = 3
HEARTBEAT_TICKS: Final = 1
UNBOUNDED: Final = sys.maxsize
DROPPED: Final = "raft proposal dropped"
_LEVELS: Final = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_MAX_ROUNDS: Final = 1_000
_MADE_EMPTY: Final = frozenset({RefusalReason.CONFIG_PENDING, RefusalReason.CONFIG_DOES_NOT_FIT})


@final
@dataclass(frozen=True, slots=True)
class NodeOptions:
    conf: ConfState
    index: int = 0
    is_async: bool = False
    pre_vote: bool = False
    check_quorum: bool = False
    step_down_on_removal: bool = False
    max_inflight_messages: int = UNBOUNDED
    max_committed_bytes_per_ready: int = UNBOUNDED


@final
@dataclass(frozen=True, slots=True)
class Persisted:
    """The disk is done with a Ready of `term`. Stands for all that etcd's storage thread sends its own replica."""

    token: PersistToken
    term: Term


@final
@dataclass(frozen=True, slots=True)
class Applied:
    index: Index
    size_bytes: int


@final
@dataclass(frozen=True, slots=True)
class Forwarded:
    """A proposal (bytes for data) or, as a target, a hand-over that a follower passes on to its leader."""

    content: bytes | ConfigProposal | ReplicaId
    term: Term


@final
@dataclass(frozen=True, slots=True)
class Parcel:
    """Something on its way. `kinds` are the names by which a directive may pick it; local ones are never lost."""

    to: ReplicaId
    kinds: frozenset[str]
    text: str
    content: Message | Persisted | Applied | Forwarded

    @property
    def is_local(self) -> bool:
        return isinstance(self.content, Persisted | Applied)


_PERSISTED_KINDS: Final = frozenset({"MsgStorageAppendResp", "MsgAppResp", "MsgVoteResp", "MsgPreVoteResp"})
_APPLIED_KINDS: Final = frozenset({"MsgStorageApplyResp"})


@final
@dataclass(slots=True)
class Node:
    core: RaftCore
    storage: MemoryLog
    is_async: bool
    shown: HardState
    append_work: deque[tuple[Ready, Term]] = field(default_factory=deque)
    apply_work: deque[Sequence[Entry]] = field(default_factory=deque)
    forwards: list[Parcel] = field(default_factory=list)
    snapshot_conf: ConfState | None = None
    """The configuration of a snapshot that was taken and is not durable yet."""

    @property
    def hard_state(self) -> HardState:
        return HardState(self.core.term, self.core.vote, self.core.commit)

    @property
    def has_ready(self) -> bool:
        # A commit index alone is worth a turn there: it is part of what is stored.
        return self.core.has_ready() or self.hard_state != self.shown or bool(self.forwards)

    @property
    def conf(self) -> ConfState:
        return self.core.conf if self.snapshot_conf is None else self.snapshot_conf


@final
class InteractionCluster:
    """Output gathers in `lines`, as etcd would print it, without logger lines but for configurations."""

    def __init__(self) -> None:
        self.nodes: dict[ReplicaId, Node] = {}
        self.parcels: list[Parcel] = []
        self.lines: list[str] = []
        self.level = 0
        # Differences from etcd that were seen to happen so far.
        self.deviations: set[Deviation] = set()

    # -- output

    def set_level(self, name: str) -> None:
        self.level = _LEVELS.index(name.upper())

    @property
    def is_quiet(self) -> bool:
        return self.level == len(_LEVELS) - 1

    def _show_conf(self, replica: ReplicaId, conf: ConfState) -> None:
        if self.level <= _LEVELS.index("INFO"):
            self.lines.append(f"INFO {replica} switched to configuration {describe_config(conf)}")

    # -- members

    def add_nodes(self, count: int, options: NodeOptions) -> None:
        for _ in range(count):
            replica = ReplicaId(len(self.nodes) + 1)
            snapshot = SnapshotMeta(Index(options.index), Term(1 if options.index else 0), options.conf)
            storage = MemoryLog(snapshot=snapshot)
            core = RaftCore(
                _core_config(replica, options),
                storage,
                hard_state=HardState(),
                conf_state=options.conf,
                applied=snapshot.index,
                make_entry=make_entry,
                # The longest timeout, so that only who is told to campaigns.
                random_ticks=lambda n: n - 1,
            )
            self.nodes[replica] = Node(core, storage, options.is_async, HardState(commit=snapshot.index))
            self._show_conf(replica, options.conf)

    # -- campaigns and proposals

    def campaign(self, replica: ReplicaId) -> None:
        core = self.nodes[replica].core
        commit = core.commit
        core.campaign()
        if core.commit > commit:
            self.deviations.add(Deviation.CONFIG_COMMIT)

    def propose(self, replica: ReplicaId, content: bytes | ConfigProposal) -> None:
        node = self.nodes[replica]
        core = node.core
        if core.role is not Role.LEADER:
            self._forward_proposal(node, content)
            return
        try:
            if isinstance(content, ConfigProposal):
                self._propose_config(core, content)
            else:
                core.propose([make_entry(EntryKind.DATA, core.next_index, core.term, content)])
        except ProposalRefused:
            self.lines.append(DROPPED)

    def _propose_config(self, core: RaftCore, proposal: ConfigProposal) -> None:
        try:
            core.propose_config(proposal)
        except ProposalRefused as refusal:
            if refusal.reason not in _MADE_EMPTY:
                raise
            if refusal.reason is RefusalReason.CONFIG_DOES_NOT_FIT:
                self.deviations.add(Deviation.CHANGE_REFUSED)
            core.propose([make_entry(EntryKind.NOOP, core.next_index, core.term)])

    def _forward_proposal(self, node: Node, content: bytes | ConfigProposal) -> None:
        core = node.core
        if core.role is not Role.FOLLOWER or core.leader == NO_REPLICA:
            self.lines.append(DROPPED)
            return
        entry = etcd_text.describe_proposed(content)
        text = f"{core.replica}->{core.leader} MsgProp Term:0 Log:0/0 Entries:[0/0 {entry}]"
        node.forwards.append(Parcel(core.leader, frozenset({"MsgProp"}), text, Forwarded(content, core.term)))

    def transfer(self, replica: ReplicaId, target: ReplicaId) -> None:
        node = self.nodes[replica]
        core = node.core
        if core.role is Role.LEADER:
            try:
                core.transfer_leadership(target)
            except ProposalRefused:
                # Ignored there, with a logger line.
                return
        elif core.leader != NO_REPLICA:
            text = f"{target}->{core.leader} MsgTransferLeader Term:{core.term} Log:0/0"
            kinds = frozenset({"MsgTransferLeader"})
            node.forwards.append(Parcel(core.leader, kinds, text, Forwarded(target, core.term)))

    # -- the network

    def deliver(self, replica: ReplicaId, *, kind: str | None = None, drop: bool = False) -> bool:
        """Deliver what is on its way to `replica`, or lose it; False if there was nothing."""
        taken, self.parcels = _split(self.parcels, replica, kind=kind, drop=drop)
        for parcel in taken:
            if parcel.text:
                self.lines.append(("dropped: " if drop else "") + parcel.text)
            if not drop:
                self._hand_over(self.nodes[replica], parcel.content)
        return bool(taken)

    def _hand_over(self, node: Node, content: Message | Persisted | Applied | Forwarded) -> None:
        core = node.core
        match content:
            case Message():
                self._step(node, content)
            case Persisted(token, term):
                durable = core.durable_index
                core.on_persisted(token)
                node.snapshot_conf = None
                if term != core.term and core.durable_index > durable:
                    self.deviations.add(Deviation.WRITE_BY_INDEX)
            case Applied(index, size_bytes):
                core.on_applied(index, size_bytes)
            case Forwarded(bytes() | ConfigProposal() as proposal):
                self.propose(core.replica, proposal)
            case Forwarded(int() as target, term):
                if term == core.term:
                    self.transfer(core.replica, target)

    def _step(self, node: Node, message: Message) -> None:
        core = node.core
        commit = core.commit
        core.step(message)
        self.deviations.update(seen_in_step(core, message, commit_before=commit))
        snapshot = message.snapshot
        if snapshot is not None and commit < snapshot.index == core.commit == core.first_index - 1:
            # Taken. Its configuration is in force once it is durable, but etcd names it at once.
            node.snapshot_conf = snapshot.conf
            self._show_conf(core.replica, snapshot.conf)

    # -- turns

    def process_ready(self, replica: ReplicaId) -> None:
        node = self.nodes[replica]
        core = node.core
        hard = node.hard_state
        ready = core.ready()
        forwards, node.forwards = node.forwards, []
        self._describe_ready(node, ready, hard, forwards)
        self.parcels.extend(map(_parcel, ready.messages))
        self.parcels.extend(forwards)
        has_append = hard != node.shown or bool(
            ready.entries or ready.snapshot or ready.messages_after_persist or core.role in _VOTES_FOR_ITSELF
        )
        node.shown = hard
        if node.is_async:
            if has_append:
                node.append_work.append((ready, hard.term))
            if ready.committed:
                node.apply_work.append(ready.committed)
            return
        self._write(node, ready)
        self._apply(node, ready.committed)
        self.parcels.extend(map(_parcel, ready.messages_after_persist))
        core.on_persisted(ready.token)
        node.snapshot_conf = None
        if ready.committed:
            core.on_applied(ready.committed[-1].index, _size(ready.committed))

    def _describe_ready(self, node: Node, ready: Ready, hard: HardState, forwards: list[Parcel]) -> None:
        lines = self.lines
        if ready.soft_state is not None:
            lines.append(f"Lead:{ready.soft_state.leader} State:{etcd_text.ROLE_TEXT[ready.soft_state.role]}")
        if hard != node.shown:
            vote = f" Vote:{hard.vote}" if hard.vote else ""
            lines.append(f"HardState Term:{hard.term}{vote} Commit:{hard.commit}")
        if ready.entries:
            lines.extend(["Entries:", *map(etcd_text.describe_entry, ready.entries)])
        if ready.snapshot is not None:
            lines.append(f"Snapshot {etcd_text.describe_snapshot(ready.snapshot)}")
        if ready.committed:
            lines.extend(["CommittedEntries:", *map(etcd_text.describe_entry, ready.committed)])
        lines.append("Messages:")
        lines.extend(map(etcd_text.describe_message, [*ready.messages, *ready.messages_after_persist]))
        lines.extend(parcel.text for parcel in forwards)

    def _write(self, node: Node, ready: Ready) -> None:
        if ready.snapshot is not None:
            node.storage.install(ready.snapshot)
        node.storage.write(ready.entries)

    def _apply(self, node: Node, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.CONFIG:
                conf = node.core.apply_config(ConfigProposal.decode(entry.payload))
                self._show_conf(node.core.replica, conf)
            node.storage.checkpoint(entry.index, node.core.conf)

    def process_append(self, replica: ReplicaId) -> None:
        node = self.nodes[replica]
        if not node.append_work:
            return
        ready, term = node.append_work.popleft()
        self._write(node, ready)
        self.lines.append("Responses:")
        self.lines.extend(map(etcd_text.describe_message, ready.messages_after_persist))
        self.parcels.extend(map(_parcel, ready.messages_after_persist))
        self.parcels.append(Parcel(replica, _PERSISTED_KINDS, "", Persisted(ready.token, term)))

    def process_apply(self, replica: ReplicaId) -> None:
        node = self.nodes[replica]
        if not node.apply_work:
            return
        entries = node.apply_work.popleft()
        self._apply(node, entries)
        self.parcels.append(Parcel(replica, _APPLIED_KINDS, "", Applied(entries[-1].index, _size(entries))))

    def stabilize(self, replicas: Sequence[ReplicaId]) -> None:
        """Run turns and deliver among `replicas` until nothing is left to do."""
        for _ in range(_MAX_ROUNDS):
            if not self._run_round(replicas):
                return
        raise ValueError(f"no end after {_MAX_ROUNDS} rounds")

    def _run_round(self, replicas: Sequence[ReplicaId]) -> bool:
        is_busy = False
        for replica in replicas:
            if self.nodes[replica].has_ready:
                self.lines.append(f"> {replica} handling Ready")
                self.process_ready(replica)
                is_busy = True
        for replica in replicas:
            heading = len(self.lines)
            self.lines.append(f"> {replica} receiving messages")
            if self.deliver(replica):
                is_busy = True
            else:
                del self.lines[heading:]
        for replica in replicas:
            while self.nodes[replica].append_work:
                self.lines.append(f"> {replica} processing append thread")
                self.process_append(replica)
                is_busy = True
        for replica in replicas:
            while self.nodes[replica].apply_work:
                self.lines.append(f"> {replica} processing apply thread")
                self.process_apply(replica)
                is_busy = True
        return is_busy

    # -- looking and reaching in

    def show_log(self, replica: ReplicaId) -> None:
        log = self.nodes[replica].storage
        self.lines.extend(etcd_text.describe_log(log.all_entries(), first=log.first_index(), last=log.last_index()))

    def compact(self, replica: ReplicaId, index: int) -> None:
        self.nodes[replica].storage.compact(Index(index))
        self.show_log(replica)

    def show_standing(self) -> None:
        for replica, node in self.nodes.items():
            core = node.core
            self.lines.append(
                etcd_text.describe_standing(replica, core.role, node.conf, term=core.term, leader=core.leader)
            )

    def show_status(self, replica: ReplicaId) -> None:
        core = self.nodes[replica].core
        if core.role is Role.LEADER:
            self.lines.extend(map(etcd_text.describe_status, core.progress()))

    def send_snapshot(self, replica: ReplicaId, target: ReplicaId) -> None:
        node = self.nodes[replica]
        message = Message(MessageKind.SNAPSHOT, target, replica, node.core.term, snapshot=node.storage.snapshot_meta())
        self.lines.append(etcd_text.describe_message(message))
        self.parcels.append(_parcel(message))

    def tick(self, replica: ReplicaId, count: int) -> None:
        core = self.nodes[replica].core
        commit = core.commit
        for _ in range(count):
            core.tick()
        if core.commit > commit:
            self.deviations.add(Deviation.CONFIG_COMMIT)
        if core._state.suspected != NO_REPLICA:
            self.deviations.add(Deviation.SILENT_LEADER)

    def set_election_timeout(self, replica: ReplicaId, ticks: int) -> None:
        self.nodes[replica].core._state.randomized_election_ticks = ticks


_VOTES_FOR_ITSELF: Final = frozenset({Role.CANDIDATE, Role.PRE_CANDIDATE})


def _core_config(replica: ReplicaId, options: NodeOptions) -> RaftConfig:
    return RaftConfig(
        replica=replica,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=HEARTBEAT_TICKS,
        pre_vote=options.pre_vote,
        check_quorum=options.check_quorum,
        max_message_bytes=UNBOUNDED,
        max_inflight_messages=options.max_inflight_messages,
        max_inflight_bytes=UNBOUNDED,
        max_uncommitted_bytes=UNBOUNDED,
        max_committed_bytes_per_ready=options.max_committed_bytes_per_ready,
        async_storage=options.is_async,
        step_down_on_removal=options.step_down_on_removal,
    )


def _parcel(message: Message) -> Parcel:
    kinds = frozenset({etcd_text.KIND_TEXT[message.kind]})
    return Parcel(message.to, kinds, etcd_text.describe_message(message), message)


def _size(entries: Sequence[Entry]) -> int:
    return sum(entry.size_bytes for entry in entries)


def _split(parcels: list[Parcel], to: ReplicaId, *, kind: str | None, drop: bool) -> tuple[list[Parcel], list[Parcel]]:
    taken: list[Parcel] = []
    left: list[Parcel] = []
    for parcel in parcels:
        is_wanted = parcel.to == to and not (drop and parcel.is_local) and (kind is None or kind in parcel.kinds)
        (taken if is_wanted else left).append(parcel)
    return taken, left
