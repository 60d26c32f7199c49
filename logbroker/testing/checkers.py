"""Compares what every replica holds, says and does with the one history there may be.

`ClusterChecker` looks at a node after each of its turns, at every message that leaves, at every process
that starts and at every answer that a client gets; `compare_states` compares a state machine with the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import GroupId, Index, LeaseId, ReplicaId, Term
from logbroker.node.peer_messages import RaftMessage
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.retention import MAX_AGE_MS
from logbroker.partition.runs import RunState
from logbroker.raft.log import CompactedError, LostEntriesError, UnavailableEntryError
from logbroker.raft.messages import MessageKind
from logbroker.testing.answers import AnswerChecker
from logbroker.testing.clock import EPOCH_MS
from logbroker.testing.model import MessageState, PartitionModel
from logbroker.testing.order_rules import OrderRules
from logbroker.testing.scheduler import US_PER_S
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.entry import Entry
    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.replica import Replica
    from logbroker.partition.breaker import BreakerPolicy
    from logbroker.partition.groups import ConsumerGroup
    from logbroker.partition.ordering import OrderPolicy
    from logbroker.partition.runs import Run
    from logbroker.raft.core import RaftCore
    from logbroker.raft.messages import ConfState
    from logbroker.storage.partition_log import PartitionLog
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.history import Operation
    from logbroker.testing.model import ModelGroup
    from logbroker.testing.node import SimulatedNode
    from logbroker.testing.scheduler import Scheduler

_DIGEST_EVERY = 16
_READ_BYTES = 1 << 20
_DROPPED_WITHIN_US = 10 * US_PER_S
_CLOCK_SLACK_MS = 10_000
"""How much earlier than by true time a message may go: leaders' clocks differ, and drift."""


@final
class Seen:
    """What was last seen of one replica in one process."""

    __slots__ = (
        "applied",
        "commit",
        "conf",
        "directory",
        "last_index",
        "last_term",
        "led_term",
        "looked_at",
        "tail",
        "term",
    )

    def __init__(self) -> None:
        self.term = Term(0)
        self.commit = Index(0)
        self.applied = Index(0)
        self.last_index = Index(0)
        self.last_term = Term(0)
        self.led_term = Term(0)
        self.looked_at = False
        self.conf: ConfState | None = None
        self.directory = ""
        self.tail: dict[Index, Term] = {}
        """Term of each entry above the commit index."""


@final
class GroupHistory:
    """The one history of a group: its committed entries, and every entry that ever was in a log."""

    def __init__(
        self,
        group: GroupId,
        *,
        max_deliveries: int = 0,
        max_age_ms: int = 0,
        limits: SizeLimits = NO_LIMITS,
        rewind_ms: int = MAX_AGE_MS,
        breaker: BreakerPolicy | None = None,
    ) -> None:
        self.group = group
        self.model = PartitionModel(
            max_deliveries=max_deliveries,
            max_age_ms=max_age_ms,
            limits=limits,
            rewind_ms=rewind_ms,
            breaker=breaker,
        )
        # Since when, and in which term, the partition has held more than it may.
        self._over: tuple[int, Term] | None = None
        self.committed_us: list[int] = []
        """When each entry was first seen committed, from index 1."""
        self.answers = AnswerChecker(self.model, self.committed_us)
        self.committed: list[tuple[Term, int]] = []
        """Term and checksum of each committed entry, from index 1."""
        self.leaders: dict[Term, ReplicaId] = {}
        self.votes: dict[tuple[ReplicaId, Term], ReplicaId] = {}
        self.digests: dict[Index, tuple[bytes, str]] = {}
        self.compared_digests = 0
        self.now_us = 0
        """Simulated time of what is noted next."""
        self.appended_us: list[int] = []
        """When each of them was first seen in a log."""
        self.doubted: set[tuple[Index, Term]] = set()
        """Entries of a node that mistrusted its clock when it made them."""
        # Checksum of each entry by its name, and the term of the entry before it.
        self._entries: dict[tuple[Index, Term], tuple[int, Term]] = {}
        self._first_seen_us: dict[tuple[Index, Term], int] = {}

    def note_entry(self, entry: Entry, previous_term: Term, place: str, *, is_doubted: bool = False) -> None:
        """An entry was seen in a log: (index, term) names its content and all before it, for ever."""
        name = entry.index, entry.term
        if is_doubted and name not in self._entries:
            self.doubted.add(name)
        seen = self._entries.setdefault(name, (entry.crc, previous_term))
        self._first_seen_us.setdefault(name, self.now_us)
        if seen != (entry.crc, previous_term):
            broken(
                "logs match",
                f"entry {entry.index} of term {entry.term} in {place} has checksum {entry.crc} after term "
                f"{previous_term}; elsewhere it has checksum {seen[0]} after term {seen[1]}",
            )

    def note_committed(self, entry: Entry, place: str) -> None:
        """An entry is committed according to `place`."""
        if entry.index <= len(self.committed):
            if self.committed[entry.index - 1] != (entry.term, entry.crc):
                broken(
                    "committed stays",
                    f"{place} has entry {entry.index} committed with term {entry.term}, before it was committed "
                    f"with term {self.committed[entry.index - 1][0]}",
                )
            return
        if entry.index != len(self.committed) + 1:
            broken("harness", f"{place} shows entry {entry.index} committed, {len(self.committed)} were seen")
        self.committed.append((entry.term, entry.crc))
        self.committed_us.append(self.now_us)
        self.appended_us.append(self._first_seen_us.get((entry.index, entry.term), self.now_us))
        self.model.apply(entry)
        if entry.kind is EntryKind.DATA or entry.kind is EntryKind.FLOOR:
            self._look_at_limits(entry)

    def _look_at_limits(self, entry: Entry) -> None:
        """A leader that has led for a while has let the oldest messages go where there were too many."""
        if not self.model.limits.drops_oldest or not self.model.is_over_limits:
            self._over = None
        elif self._over is None or self._over[1] != entry.term:
            self._over = self.now_us, entry.term
        elif self.now_us - self._over[0] > _DROPPED_WITHIN_US:
            broken(
                "the oldest go where there are too many",
                f"group {self.group} has held more than {self.model.limits} for {_DROPPED_WITHIN_US // US_PER_S} s",
            )

    def note_leader(self, replica: ReplicaId, term: Term) -> None:
        first = self.leaders.setdefault(term, replica)
        if first != replica:
            broken("one leader per term", f"replicas {first} and {replica} of group {self.group} lead term {term}")

    def note_vote(self, voter: ReplicaId, term: Term, candidate: ReplicaId) -> None:
        first = self.votes.setdefault((voter, term), candidate)
        if first != candidate:
            broken(
                "one vote per term",
                f"replica {voter} of group {self.group} voted for {first} and for {candidate} in term {term}",
            )

    def note_digest(self, index: Index, digest: bytes, place: str) -> None:
        first = self.digests.setdefault(index, (digest, place))
        if first[0] != digest:
            broken("equal logs make equal states", f"{place} differs from {first[1]} at index {index}")
        if first[1] != place:
            self.compared_digests += 1


def order_rules(order: OrderPolicy) -> OrderRules | None:
    """What leases of such a queue are held to."""
    return OrderRules(order.window, order.by_key, order.blocks) if order.window else None


@final
class ClusterChecker:
    """See the module. Every method may raise Violation."""

    def __init__(self, scheduler: Scheduler, cluster: SimulatedCluster) -> None:
        self._scheduler = scheduler
        self._cluster = cluster
        self._groups: dict[GroupId, GroupHistory] = {}
        self._seen: dict[ReplicaId, Seen] = {}
        # What was lost once is lost for good; it is found so again at every later start.
        self._lost: set[ReplicaId] = set()
        self.forgetful: set[ReplicaId] = set()
        """Replicas whose last commit rotted while nothing behind it said that it was durable: their nodes cannot know
        that what they have acknowledged is gone, until a leader speaks of it."""
        self.counts: dict[str, int] = {}

    def history(self, group: GroupId) -> GroupHistory:
        history = self._groups.get(group)
        if history is None:
            options = self._cluster.options.node
            history = self._groups[group] = GroupHistory(
                group,
                max_deliveries=options.failures.max_deliveries,
                max_age_ms=options.max_age_ms,
                limits=options.limits,
                rewind_ms=options.rewind_ms,
                breaker=options.breaker,
            )
            history.model.order = order_rules(options.order)
        history.now_us = self._scheduler.now_us
        return history

    def seen(self, replica: ReplicaId) -> Seen:
        """What was last seen of a replica; made anew for each process."""
        seen = self._seen.get(replica)
        if seen is None:
            seen = self._seen[replica] = Seen()
        return seen

    def committed(self, group: GroupId) -> Index:
        """The highest index that any node has committed so far."""
        return Index(len(self.history(group).committed))

    def on_start(self, node: SimulatedNode) -> None:
        """A process has opened its store: all that the last one knew to be durable must be there."""
        store = node.store
        if store is None:
            return
        for replica, durable in node.durable.items():
            stored = store.replicas.get(replica)
            if stored is None:
                if durable.open_from:
                    broken("durable stays", f"replica {replica} of node {node.node} is gone after a restart")
                continue
            if stored.lost:
                if not (node.is_damaged or replica in self._lost):
                    broken("durable stays", f"replica {replica} of node {node.node} is lost: {stored.lost}")
                self._lost.add(replica)
                continue
            last = Index(min(durable.last_index, durable.open_from - 1))
            if node.is_damaged:
                if stored.log.last_index() < last:
                    self.forgetful.add(replica)
                last = Index(min(last, durable.unproven_from - 1))
            if stored.log.last_index() < last:
                broken(
                    "durable stays",
                    f"replica {replica} of node {node.node} had entries up to {last}, after the restart up to "
                    f"{stored.log.last_index()}",
                )
            if last == durable.last_index and _term_at(stored.log, last) not in (durable.last_term, None):
                broken("durable stays", f"entry {last} of replica {replica} of node {node.node} has another term")
        for stored in store.replicas.values():
            self._seen.pop(stored.log.replica, None)
            if stored.lost and node.is_damaged:
                # Also where the process before ended too soon to know that it had this replica.
                self._lost.add(stored.log.replica)

    def on_sent(self, node: SimulatedNode, message: PeerMessage) -> None:
        """A message leaves a node: what it promises must be durable there already."""
        if not isinstance(message, RaftMessage) or node.store is None:
            return
        raft = message.message
        stored = node.store.replicas.get(raft.sender)
        if raft.reject or stored is None:
            return
        if raft.kind is MessageKind.VOTE_RESPONSE:
            self.history(message.group).note_vote(raft.sender, raft.term, raft.to)
            durable = node.store.vote(raft.sender)
            # A later term on the disk forbids any other vote in this one just as well.
            if durable is None or (durable[0] <= raft.term and durable != (raft.term, raft.to)):
                broken(
                    "a vote is durable before it is given",
                    f"replica {raft.sender} votes for {raft.to} in term {raft.term}, on its disk stands {durable}",
                )
        elif raft.kind is MessageKind.APPEND_RESPONSE and raft.index > stored.log.last_index():
            broken(
                "entries are durable before they are acknowledged",
                f"replica {raft.sender} acknowledges {raft.index}, on its disk the log ends at "
                f"{stored.log.last_index()}",
            )
        elif raft.kind is MessageKind.APPEND_RESPONSE:
            hole = stored.log.first_hole()
            if hole is not None and raft.index >= hole:
                broken(
                    "nothing behind a hole is acknowledged",
                    f"replica {raft.sender} acknowledges {raft.index}, and has lost entry {hole}",
                )

    def after_step(self, node: SimulatedNode) -> None:
        """A node has taken a turn."""
        engine = node.engine
        if engine is None:
            return
        for group, error in engine.failed_groups.items():
            if isinstance(error, LostEntriesError) and engine.replicas[group].id in self.forgetful:
                # It says so and stops, and is given up: see `membership`.
                continue
            broken("groups do not fail", f"group {group} on node {node.node}: {type(error).__name__}: {error}")
        for replica in engine.replicas.values():
            if replica.is_serving and replica.machine.applied_term != replica.core.term:
                broken(
                    "who serves has applied the first entry of its term",
                    f"replica {replica.id} serves term {replica.core.term}, the last entry that it has applied is of "
                    f"term {replica.machine.applied_term}",
                )
            if replica.id in node.wiped:
                broken("who lost its disk does not come back", f"replica {replica.id} lives on node {node.node} again")
            self._look_at(node, replica)
        node.has_mistrusted = False

    def on_answer(self, operation: Operation) -> None:
        """A client was told something."""
        self.history(operation.partition).answers.check(operation)

    def _look_at(self, node: SimulatedNode, replica: Replica) -> None:
        core, seen = replica.core, self.seen(replica.id)
        led_before = core.is_leader and seen.led_term == core.term
        if core.is_leader and seen.led_term != core.term:
            self.history(replica.group).note_leader(replica.id, core.term)
            self._cluster.situations.on_leader(replica.group)
            seen.led_term = core.term
        if core.term != seen.term:
            self._move(replica, "term", seen.term, core.term)
            seen.term = core.term
        last_index, last_term = core.last_index, core.last_term
        if (last_index, last_term) != (seen.last_index, seen.last_term):
            self._look_at_log(node, replica, seen)
            seen.last_index, seen.last_term = last_index, last_term
        if core.commit != seen.commit:
            if led_before and core.term_at(core.commit) != core.term:
                broken(
                    "a leader commits through its own term",
                    f"replica {replica.id}, leader of term {core.term}, has committed entry {core.commit} of term "
                    f"{core.term_at(core.commit)}",
                )
            self._look_at_commit(node, replica, seen)
        seen.looked_at = True
        directory = replica.log.state.directory
        if directory != seen.directory:
            if seen.directory:
                self._check_installed(node, replica)
            seen.directory = directory
        applied = replica.machine.applied_index
        if applied != seen.applied:
            self._move(replica, "applied index", seen.applied, applied)
            seen.applied = applied
            if applied % _DIGEST_EVERY == 0:
                self.history(replica.group).note_digest(applied, replica.machine.digest(), f"node {node.node}")

    def _look_at_log(self, node: SimulatedNode, replica: Replica, seen: Seen) -> None:
        """Entries that are new in a log, whether they go on from the old end or replace it."""
        history, core = self.history(replica.group), replica.core
        if core.first_index > seen.last_index + 1 and seen.looked_at:
            self._count("snapshots installed")
        elif (
            seen.commit < core.last_index < seen.last_index
            and core.first_index <= core.last_index
            and core.last_term == seen.tail.get(core.last_index)
        ):
            broken(
                "only a conflict cuts a log",
                f"the log of replica {replica.id} ended at {seen.last_index}, and now at {core.last_index}, "
                f"of the same term {core.last_term} as before",
            )
        start = _first_new(core, seen)
        if seen.looked_at and start <= seen.last_index:
            self._count("logs cut for a new leader")
        if start > core.last_index:
            return
        try:
            previous_term = core.term_at(Index(start - 1))
        except CompactedError:
            return
        place = f"replica {replica.id} of node {node.node}"
        for entry in _readable(core, start, core.last_index):
            history.note_entry(entry, previous_term, place, is_doubted=node.has_mistrusted)
            previous_term = entry.term
            seen.tail[entry.index] = entry.term

    def _check_installed(self, node: SimulatedNode, replica: Replica) -> None:
        directory = replica.log.state.directory
        for path in node.disk.paths():
            is_part = path.startswith(f"{directory}/") and path.endswith((".segment", ".checkpoint"))
            if is_part and not node.disk.is_synced(path):
                broken("an installed snapshot is durable", f"{path} of node {node.node} is not synced")

    def _look_at_commit(self, node: SimulatedNode, replica: Replica, seen: Seen) -> None:
        core, history = replica.core, self.history(replica.group)
        self._move(replica, "commit index", seen.commit, core.commit)
        if core.commit > core.last_index:
            broken("committed entries are in the log", f"replica {replica.id} has {core.commit} > {core.last_index}")
        start = Index(max(seen.commit + 1, core.first_index))
        for index in [index for index in seen.tail if index <= core.commit]:
            del seen.tail[index]
        seen.commit = core.commit
        place = f"replica {replica.id} of node {node.node}"
        # What is damaged here cannot be read and is not judged; the other nodes' copies are.
        known = len(history.committed)
        for entry in _readable(core, start, core.commit):
            log_start = history.model.log_start_offset
            history.note_committed(entry, place)
            self._check_ages(history)
            if history.model.log_start_offset > log_start:
                self._check_age(history)
                self._cluster.situations.on_floor(replica.group)
        if core.is_leader and len(history.committed) > known:
            self._check_majority(replica, (core.conf, seen.conf or core.conf), Index(len(history.committed)))
        seen.conf = core.conf

    def _check_ages(self, history: GroupHistory) -> None:
        """The newest entry gives out nothing that is too old, but by a leader that mistrusts its clock."""
        model = history.model
        if not model.old_leases and not model.old_reopened:
            return
        is_judged = _is_dated(history, model.last_index, model.append_ms, self._cluster.options.clock_speed)
        if is_judged and (model.last_index, model.last_term) not in history.doubted:
            if model.old_leases:
                broken("nothing is leased past its time to live", model.old_leases[0])
            broken("what is settled for long stays settled", model.old_reopened[0])
        self._count("gave out what is old, mistrusting a clock")
        model.old_leases.clear()
        model.old_reopened.clear()

    def _check_age(self, history: GroupHistory) -> None:
        """Retention took no message before its time, as long as most of the clocks went right."""
        if not self._cluster.progress.has_sound_time:
            return
        youngest = history.model.log_start_offset - 1
        index, append_ms = history.model.entry_at(youngest)
        appended_us, speed = history.appended_us[index - 1], self._cluster.options.clock_speed
        if not _is_dated(history, index, append_ms, speed):
            return
        if history.model.is_floor_by_size:
            self._count("log starts that were raised for want of room")
            return
        age_ms = (self._scheduler.now_us - appended_us) * speed // 1000
        if age_ms < self._cluster.options.node.retention_s * 1000 - _CLOCK_SLACK_MS:
            broken(
                "retention takes no message early",
                f"offset {youngest} of group {history.group}, of log time {append_ms}, was dropped {age_ms} ms old",
            )
        self._count("log starts that were raised in time")

    def _check_majority(self, leader: Replica, confs: tuple[ConfState, ...], index: Index) -> None:
        """What a leader has committed is on the disks of a majority.

        By the configuration in force, or by the one before where a change was applied in the same turn.
        """
        term = leader.core.term_at(index)
        for conf in confs:
            halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
            if all(2 * sum(self._is_durable(voter, index, term) for voter in half) > len(half) for half in halves):
                return
        broken(
            "committed means durable on a majority",
            f"leader {leader.id} has committed entry {index} of term {term}; of the voters {confs[0]} it is on the "
            f"disks of {[voter for voter in confs[0].members() if self._is_durable(voter, index, term)]}",
        )

    def _is_durable(self, replica: ReplicaId, index: Index, term: Term) -> bool:
        home = self._cluster.membership.home_of(replica)
        if home is None:
            return False
        node = self._cluster.nodes[home]
        stored = None if node.store is None else node.store.replicas.get(replica)
        if stored is None:
            # Not running, or taken away with what it had.
            durable = node.durable.get(replica)
            return replica in node.wiped or (durable is not None and durable.last_index >= index)
        if stored.lost:
            return True
        try:
            return stored.log.term(index) == term
        except CompactedError:
            return True
        except UnavailableEntryError:
            return False

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _move(self, replica: Replica, what: str, old: int, new: int) -> None:
        if new < old:
            broken(f"{what} never goes back", f"replica {replica.id} went from {old} to {new}")


def _is_dated(history: GroupHistory, index: Index, append_ms: int, clock_speed: int) -> bool:
    """Whether an entry was seen where it was made; behind one that is damaged there, its age is not known."""
    true_ms = history.appended_us[index - 1] * clock_speed // 1000
    return abs(append_ms - EPOCH_MS - true_ms) <= _CLOCK_SLACK_MS // 2


def _readable(core: RaftCore, start: Index, last: Index) -> Iterator[Entry]:
    """Entries from `start` to `last`, inclusive, up to the first that is damaged."""
    while start <= last:
        try:
            entries = core.entries(start, max_bytes=_READ_BYTES)
        except UnavailableEntryError:
            return
        for entry in entries:
            if entry.index > last:
                return
            yield entry
            start = Index(entry.index + 1)


def _first_new(core: RaftCore, seen: Seen) -> Index:
    """The first index at which a log differs from when it was last seen."""
    last = core.last_index
    if last >= seen.last_index >= core.first_index and core.term_at(seen.last_index) == seen.last_term:
        return Index(seen.last_index + 1)
    # Replaced: everything above the commit index may be new, and nothing below it is.
    return Index(max(min(seen.commit, last) + 1, core.first_index))


def _term_at(log: PartitionLog, index: Index) -> Term | None:
    """Term of an entry, None where the log begins after it."""
    try:
        return log.term(index)
    except CompactedError:
        return None


_STATES = {
    RunState.AVAILABLE: MessageState.AVAILABLE,
    RunState.LEASED: MessageState.LEASED,
    RunState.DELAYED: MessageState.DELAYED,
    RunState.ACKED: MessageState.ACKED,
    RunState.DEAD: MessageState.DEAD,
    RunState.MOVING: MessageState.MOVING,
    RunState.MOVED: MessageState.MOVED,
}


def machine_of(replica: Replica) -> PartitionMachine:
    """The state machine of a partition's replica; the simulator runs no other kind of group."""
    machine = replica.machine
    if not isinstance(machine, PartitionMachine):
        raise TypeError(machine)
    return machine


def compare_states(model: PartitionModel, machine: PartitionMachine, place: str) -> None:
    """Compare a state machine with the model, message by message; both must stand at the same index.

    Raises:
        Violation: they differ; `place` says whose machine it is.
    """
    floors = machine.log_start_offset, machine.rewind_floor
    here = (machine.applied_index, machine.next_offset, *floors, machine.append_ms)
    there = (model.last_index, model.next_offset, model.log_start_offset, model.rewind_floor, model.append_ms)
    if here != there:
        broken("state follows from the log", f"{place} is at {here}, the model at {there}")
    if sorted(machine.groups) != sorted(model.groups):
        broken("state follows from the log", f"{place} has groups {machine.groups}, the model {sorted(model.groups)}")
    for name, group in model.groups.items():
        _compare_groups(model, group, machine.group(name), place)
    _compare_producers(model, machine, place)
    _compare_ids(model, machine, place)
    _compare_moves(model, machine, place)
    _compare_schedules(model, machine, place)


def _compare_schedules(model: PartitionModel, machine: PartitionMachine, place: str) -> None:
    """The machine knows what is not due, and what was cancelled, beside what its groups make of that."""
    told = {offset: run.visible_at_ms for run in machine.schedule.runs() for offset in range(run.start, run.end)}
    kept = range(model.log_start_offset, model.next_offset)
    waiting = [o for o in kept if model.schedule.is_waiting(o, model.append_ms) and o not in model.schedule.cancelled]
    known = {offset: model.schedule.due_ms[offset] for offset in waiting}
    if told != known:
        broken("state follows from the log", f"{place} has messages due at {told}, the model {known}")
    voids = [offset for start, end in machine.voids for offset in range(start, end)]
    cancelled = [offset for offset in kept if offset in model.schedule.cancelled]
    if voids != cancelled:
        broken("state follows from the log", f"{place} never delivers {voids}, the model {cancelled}")


def _compare_ids(model: PartitionModel, machine: PartitionMachine, place: str) -> None:
    offsets = [row.offset for row in machine.dedupe.rows()]
    if offsets != model.ids.remembered():
        broken("state follows from the log", f"{place} knows ids of {offsets}, the model of {model.ids.remembered()}")


def _compare_moves(model: PartitionModel, machine: PartitionMachine, place: str) -> None:
    told = [(row.number, row.target, row.group) for row in machine.outbox.rows()]
    known = [(row.number, row.target, row.group) for row in model.moves.owed()]
    if told != known:
        broken("state follows from the log", f"{place} owes {told}, the model {known}")


def _compare_producers(model: PartitionModel, machine: PartitionMachine, place: str) -> None:
    """The machine remembers the last five batches of each producer, and no more; so many producers fit into no run."""
    for state in machine.producers.states():
        told = [(first, base) for first, _, base in state.batches]
        known = [(batch.base_sequence, batch.base_offset) for batch in model.batches_of(state.producer_id)[-5:]]
        if told != known:
            broken("state follows from the log", f"{place} has {told} of producer {state.producer_id}, not {known}")
    if len(machine.producers) != model.producer_count:
        broken(
            "state follows from the log", f"{place} has {len(machine.producers)} of {model.producer_count} producers"
        )


def _compare_groups(model: PartitionModel, group: ModelGroup, tested: ConsumerGroup, place: str) -> None:
    kept = {record.lease for record in tested.leases.records()}
    held = group.held_leases(model.log_start_offset, model.next_offset)
    if kept != held:
        broken("state follows from the log", f"{place}, group {group.name}, has leases {kept}, the model {held}")
    pause = None if tested.pause is None else (tested.pause.reason, tested.pause.since_ms, tested.pause.until_ms)
    if pause != (None if group.pause is None else (group.pause.reason, group.pause.since_ms, group.pause.until_ms)):
        broken("state follows from the log", f"{place}, group {group.name}, has {pause}, the model {group.pause}")
    for run in tested.table.overlap(model.log_start_offset, model.next_offset):
        for offset in range(run.start, run.end):
            message = group.message(offset)
            if not _is_same(run, message.state, message.deliveries, message.lease, message.visible_at_ms):
                broken(
                    "state follows from the log",
                    f"{place}, group {group.name}, offset {offset}: {run} where the model has {message.describe()}",
                )


def _is_same(run: Run, state: MessageState, deliveries: int, lease: LeaseId, visible_at_ms: int) -> bool:
    if _STATES.get(run.state) is not state:
        return False
    match state:
        case MessageState.ACKED | MessageState.MOVED:
            return True
        case MessageState.AVAILABLE | MessageState.DEAD | MessageState.MOVING:
            return run.deliveries == deliveries
        case MessageState.DELAYED:
            return (run.deliveries, run.visible_at_ms) == (deliveries, visible_at_ms)
        case MessageState.LEASED:
            return (run.deliveries, run.visible_at_ms, run.lease) == (deliveries, visible_at_ms, lease)
