"""A small cluster driven by one seed, with everything that may go wrong, and the promises checked at each step.

Messages are lost, doubled and delivered in any order; writes finish late and are lost in a crash, the
commit index always is; entries are applied late; the configuration changes; logs are compacted.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition
from logbroker.raft.messages import ConfState, HardState, Message, MessageKind, SnapshotMeta
from logbroker.raft.quorum import VoteResult, joint_vote_result
from logbroker.raft.refusal import ProposalRefused
from tests.raft_kit.memory_log import MemoryLog, make_entry
from tests.raft_kit.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.entry import Entry

MAX_WIRE = 200


@final
class Chaos:
    """`happened` counts situations, so that a test can tell whether the interesting ones came up."""

    def __init__(self, seed: int, *, voters: int = 3, spares: int = 0) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        first = SnapshotMeta(
            Index(1), Term(1), ConfState(voters=tuple(ReplicaId(replica) for replica in range(1, voters + 1)))
        )
        settings = {
            "election_ticks": 5,
            "max_message_bytes": 200,
            "max_inflight_messages": 3,
            "max_inflight_bytes": 400,
            "max_uncommitted_bytes": 1000,
            "max_committed_bytes_per_ready": 200,
        }
        self.replicas = [
            Replica(
                number,
                first.conf if number <= voters else ConfState(),
                disk=MemoryLog(snapshot=first) if number <= voters else MemoryLog(),
                hard_state=HardState(Term(1)) if number <= voters else HardState(),
                random_ticks=self.random.randrange,
                ticks=None,
                **settings,
            )
            for number in range(1, voters + spares + 1)
        ]
        for replica in self.replicas:
            replica.holds_writes = replica.holds_applies = True
        self.lives: Counter[int] = Counter()
        self.wire: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.payloads = 0
        self.contexts = 0
        self.happened: Counter[str] = Counter()
        self.is_calming = False

        # What was promised.
        self.leader_of: dict[int, tuple[int, int]] = {}
        self.vote_of: dict[tuple[int, int], int] = {}
        self.entry_at: dict[tuple[int, int], tuple[Entry, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.last_committed = 1
        self.read_floor: dict[int, int] = {}
        self.seen_commit: Counter[int] = Counter()

    # -- one step of the world

    def run(self, steps: int) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self.deliver, 50),
            (self.work, 50),
            (self.persist, 30),
            (self.apply, 20),
            (self.tick, 25),
            (self.campaign, 3),
            (self.propose, 12),
            (self.read, 3),
            (self.lose, 3),
            (self.double, 3),
            (self.crash, 3),
            (self.compact, 2),
            (self.change_config, 2),
            (self.transfer, 1),
            (self.peer_down, 1),
            (self.cut_or_heal, 1),
            (self.forbid, 1),
            (self.report, 1),
        ]
        # Each seed has a temper of its own (slow disks, a bad network, many crashes): one fault, always
        # there, would hide others.
        functions = [action for action, _ in actions]
        weights = [weight * self.random.choice((0.2, 1, 1, 1, 5)) for _, weight in actions]
        for action in self.random.choices(functions, weights, k=steps):
            action()
            self.check()

    def any_replica(self) -> Replica:
        return self.random.choice(self.replicas)

    def any_leader(self) -> Replica:
        leaders = [replica for replica in self.replicas if replica.core.is_leader]
        return self.random.choice(leaders) if leaders else self.any_replica()

    def take_message(self) -> Message | None:
        if not self.wire:
            return None
        position = self.random.randrange(len(self.wire)) if self.random.random() < 0.3 else 0
        return self.wire.pop(position)

    def deliver(self) -> None:
        message = self.take_message()
        if message is None or (message.sender, message.to) in self.cut:
            return
        self.happened[f"deliver {message.kind.name}"] += 1
        self.replicas[message.to - 1].core.step(message)

    def lose(self) -> None:
        self.take_message()

    def double(self) -> None:
        if self.wire and len(self.wire) < MAX_WIRE:
            self.wire.append(self.random.choice(self.wire))

    def work(self) -> None:
        busy = [replica for replica in self.replicas if replica.core.has_ready() and len(replica.writes) < 8]
        if busy:
            replica = self.random.choice(busy)
            self.check_ready(replica)
            self.collect(replica)

    def collect(self, replica: Replica) -> None:
        for message in replica.take_outbox():
            self.check_message(message)
            self.wire.append(message)
        del self.wire[:-MAX_WIRE]

    def persist(self) -> None:
        busy = [replica for replica in self.replicas if replica.writes]
        if busy:
            replica = self.random.choice(busy)
            replica.persist(self.random.randint(1, len(replica.writes)))
            self.collect(replica)

    def apply(self) -> None:
        busy = [replica for replica in self.replicas if replica.applies]
        if busy:
            self.random.choice(busy).apply()

    def tick(self) -> None:
        self.any_replica().core.tick()

    def campaign(self) -> None:
        """Now and then without pre-vote and past every lease, as after a hand-over."""
        self.any_replica().core.campaign(transfer=self.random.random() < 0.7)

    def propose(self) -> None:
        core = self.any_leader().core
        entries = []
        for position in range(self.random.randint(1, 3)):
            self.payloads += 1
            entries.append(make_entry(EntryKind.DATA, core.next_index + position, core.term, b"%d" % self.payloads))
        self.ask(lambda: core.propose(entries))

    def ask(self, request: Callable[[], None]) -> bool:
        try:
            request()
        except ProposalRefused as refused:
            self.happened[f"refused {refused.reason.value}"] += 1
            return False
        return True

    def read(self) -> None:
        core = self.any_leader().core
        self.contexts += 1
        self.read_floor[self.contexts] = self.last_committed
        self.ask(lambda: core.read_index(self.contexts))

    def crash(self) -> None:
        replica = self.any_replica()
        self.happened["crash with writes on their way" if replica.writes else "crash"] += 1
        replica.restart()
        self.lives[replica.id] += 1
        self.seen_commit[replica.id] = 0

    def compact(self) -> None:
        replica = self.any_replica()
        if not replica.applies and not any(ready.snapshot for ready in replica.writes):
            replica.checkpoint()
            if self.random.random() < 0.5:
                replica.disk.compact(replica.base)
                self.happened["compact"] += 1

    def change_config(self) -> None:
        core = self.any_leader().core
        changes = tuple(
            ConfigChange(self.random.choice(list(ChangeKind)), self.any_replica().id)
            for _ in range(self.random.randint(0, 3))
        )
        proposal = ConfigProposal(changes, self.random.choice(list(Transition)))
        if self.ask(lambda: core.propose_config(proposal)):
            self.happened["change of configuration"] += 1

    def transfer(self) -> None:
        core, target = self.any_leader().core, self.any_replica().id
        if self.ask(lambda: core.transfer_leadership(target)):
            self.happened["transfer"] += 1

    def peer_down(self) -> None:
        replica = self.any_replica()
        gone = replica.core.leader
        if gone != NO_REPLICA:
            if self.random.random() < 0.5:
                replica.core.suspect(gone)
            elif replica.core.peer_down(gone):
                self.happened["pre-vote after a closed connection"] += 1

    def cut_or_heal(self) -> None:
        if self.random.random() < 0.6:
            self.cut.clear()
            return
        one = self.any_replica().id
        for other in self.replicas:
            if self.random.random() < 0.8:
                self.cut.add((one, other.id))
            if self.random.random() < 0.8:
                self.cut.add((other.id, one))

    def forbid(self) -> None:
        self.any_replica().core.set_can_campaign(self.random.random() < 0.8)

    def report(self) -> None:
        core, other = self.any_leader().core, self.any_replica().id
        if self.random.random() < 0.5:
            core.report_unreachable(other)
        else:
            core.report_snapshot(other, ok=self.random.random() < 0.5)

    # -- the promises

    def check_ready(self, replica: Replica) -> None:
        """Take one Ready and hold what it says to the record."""
        reads_before, ready = len(replica.reads), replica.handle_ready()
        for entry in ready.entries:
            previous = replica.core.term_at(Index(entry.index - 1)) if entry.index > replica.core.first_index else -1
            known, known_previous = self.entry_at.setdefault((entry.index, entry.term), (entry, previous))
            assert known == entry, f"log matching: {known} and {entry}"
            assert -1 in (previous, known_previous) or previous == known_previous, f"log matching before {entry}"
        for entry in ready.committed:
            known = self.committed.setdefault(entry.index, entry)
            assert known == entry, f"state machine safety: {known} and {entry}"
        if ready.snapshot is not None:
            self.happened["snapshot taken"] += 1
            known_term = self.committed[ready.snapshot.index].term if ready.snapshot.index > 1 else 1
            assert known_term == ready.snapshot.term
        for read in replica.reads[reads_before:]:
            self.happened["read confirmed"] += 1
            assert read.index >= self.read_floor[read.context], f"stale read {read}"

    def check_message(self, message: Message) -> None:
        if message.kind is MessageKind.VOTE_RESPONSE and not message.reject:
            key = (message.sender, message.term)
            assert self.vote_of.setdefault(key, message.to) == message.to, f"{key} voted twice"

    def check(self) -> None:
        for replica in self.replicas:
            core = replica.core
            if core.is_leader:
                self.check_leader(replica)
            assert core.commit >= self.seen_commit[replica.id], "the commit index went back"
            if core.commit > self.seen_commit[replica.id]:
                self.seen_commit[replica.id] = core.commit
                if core.is_leader:
                    self.check_durable(replica)

    def check_leader(self, replica: Replica) -> None:
        core = replica.core
        life = (replica.id, self.lives[replica.id])
        known = self.leader_of.get(core.term)
        if known is None:
            self.happened["leader"] += 1
            self.leader_of[core.term] = life
            assert core.last_index >= self.last_committed, "leader completeness"
            for index in range(max(core.first_index, 2), self.last_committed + 1):
                if index in self.committed:
                    assert core.term_at(Index(index)) == self.committed[index].term, "leader completeness"
        else:
            assert known == life, f"election safety: term {core.term} was led by {known} and {life}"

    def check_durable(self, replica: Replica) -> None:
        """What the leader calls committed is on the disks of a majority at this moment."""
        core = replica.core
        index, term, conf = core.commit, core.term_at(core.commit), core.conf
        has: dict[ReplicaId, bool] = {}
        for other in self.replicas:
            disk = other.disk
            has[other.id] = disk.first_index() > index or (disk.last_index() >= index and disk.term(index) == term)
        result = joint_vote_result(conf.voters, conf.voters_outgoing, has)
        # While calming down many steps are made at once, and the configuration may be another one by now.
        assert result is VoteResult.WON or self.is_calming, f"{index} committed without a durable majority: {has}"
        for place in range(max(core.first_index, self.last_committed + 1), index + 1):
            entry = core.entries(Index(place), max_bytes=1)[0]
            assert self.committed.setdefault(place, entry) == entry, "a committed entry was replaced"
        self.last_committed = max(self.last_committed, index)

    # -- and afterwards

    def calm_down(self) -> None:
        """Stop all faults; within a bounded time somebody leads and everybody has the same log."""
        self.is_calming = True
        self.cut.clear()
        for replica in self.replicas:
            replica.core.set_can_campaign(True)
            replica.holds_writes = replica.holds_applies = False
        for turn in range(400):
            for replica in self.replicas:
                replica.apply()
                if turn % 20 == 0 and replica.core.is_leader:
                    # A snapshot that was lost is the driver's to notice.
                    for other in self.replicas:
                        replica.core.report_snapshot(other.id, ok=False)
                replica.tick()
                self.collect(replica)
            for _ in range(len(self.wire) * 4):
                if self.wire:
                    message = self.wire.pop(0)
                    replica = self.replicas[message.to - 1]
                    replica.step(message)
                    self.collect(replica)
            self.check()
            if self.is_calm():
                return
        raise AssertionError(f"seed {self.seed}: no calm: {[(r.core.role.name, r.core.term) for r in self.replicas]}")

    def is_calm(self) -> bool:
        leaders = [replica.core for replica in self.replicas if replica.core.is_leader]
        if not leaders:
            return False
        leader = max(leaders, key=lambda core: core.term)
        members = [replica.core for replica in self.replicas if replica.id in leader.conf.members()]
        return (
            leader.has_committed_in_term
            and not (leader.conf.is_joint and leader.conf.auto_leave)
            and all(core.applied == core.commit == leader.last_index == core.last_index for core in members)
        )
