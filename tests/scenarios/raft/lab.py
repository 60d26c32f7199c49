"""Replicas behind a network that may lose, hold back and reorder, for scenarios in the manner of a course's Raft lab.

Everything random comes from one seed. After each step, whatever two replicas have applied at one index must be the
same, and nothing that was applied once may change.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.raft.progress import ProgressState
from logbroker.raft.refusal import ProposalRefused
from tests.raft_kit import Cluster, Replica, conf_of

if TYPE_CHECKING:
    from logbroker.raft.messages import Message

ELECTION = 10


@final
class Lab:
    """`loss` and `held_share` are shares of messages; every `snapshots_every` entries a replica forgets the applied."""

    def __init__(
        self, count: int, *, seed: int = 1, loss: float = 0.0, held_share: float = 0.0, snapshots_every: int = 0
    ) -> None:
        self.random = random.Random(seed)
        conf = conf_of(*range(1, count + 1))
        self.cluster = Cluster(
            Replica(number, conf, random_ticks=self.random.randrange) for number in range(1, count + 1)
        )
        self.loss = loss
        self.held_share = held_share
        self.snapshots_every = snapshots_every
        self.dead: set[int] = set()
        self.sent: list[Message] = []
        self.applied: dict[int, bytes | None] = {}
        self.ticks = 0
        self._held: list[Message] = []
        self._seen: dict[int, int] = {}
        self._disconnected: set[int] = set()
        self._payloads = 0
        self.cluster.drop = self._is_lost

    def __getitem__(self, number: int) -> Replica:
        return self.cluster[number]

    @property
    def numbers(self) -> list[int]:
        return list(self.cluster.replicas)

    @property
    def majority(self) -> int:
        return len(self.numbers) // 2 + 1

    # Faults.

    def disconnect(self, *numbers: int) -> None:
        self._disconnected.update(numbers)
        self._cut()

    def connect(self, *numbers: int) -> None:
        self._disconnected.difference_update(numbers)
        self._cut()

    def crash(self, *numbers: int) -> None:
        """What was not durable is gone; nothing happens there until `start`."""
        for number in numbers:
            self[number].restart()
            self._seen.pop(number, None)
            self.dead.add(number)
        self._cut()

    def start(self, *numbers: int) -> None:
        self.dead.difference_update(numbers)
        self._cut()

    def _cut(self) -> None:
        away = self._disconnected | self.dead
        self.cluster.cut = {
            (one, other)
            for one in self.numbers
            for other in self.numbers
            if one != other and (one in away or other in away)
        }

    def _is_lost(self, message: Message) -> bool:
        self.sent.append(message)
        return self.random.random() < self.loss

    # Time.

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.ticks += 1
            for number in self.numbers:
                if number not in self.dead:
                    self[number].tick()
            self._deliver()
            self._forget_what_is_applied()
            self._look()

    def _deliver(self) -> None:
        self.cluster.wire.extend(self._held)
        self._held = []
        for _ in range(60):
            self.cluster.collect()
            if self.held_share:
                wire = self.cluster.wire
                self.random.shuffle(wire)
                self._held += [message for message in wire if self.random.random() < self.held_share]
                self.cluster.wire = [message for message in wire if not any(message is held for held in self._held)]
            if not self.cluster.deliver():
                return

    def _forget_what_is_applied(self) -> None:
        if not self.snapshots_every:
            return
        for number in self.numbers:
            replica = self[number]
            if number in self.dead:
                continue
            if replica.core.applied >= replica.base + self.snapshots_every:
                replica.checkpoint()
                replica.disk.compact(replica.base)
            if replica.core.is_leader and self.ticks % ELECTION == 0:
                for status in replica.core.progress():
                    if status.state is ProgressState.SNAPSHOT:
                        # The one that carries the data cannot tell whether it arrived.
                        replica.core.report_snapshot(status.replica, ok=False)

    def _look(self) -> None:
        leaders: dict[int, int] = {}
        for number in self.numbers:
            replica = self[number]
            if replica.core.is_leader:
                assert leaders.setdefault(replica.core.term, number) == number, "two leaders of one term"
            for entry in replica.applied:
                payload = entry.payload if entry.kind is EntryKind.DATA else None
                assert self.applied.setdefault(entry.index, payload) == payload, f"entry {entry.index} changed"
            replica.applied.clear()

    # Asking.

    def leaders(self) -> list[int]:
        """The connected leaders of the highest term among them."""
        found = [n for n in self.numbers if n not in self._disconnected | self.dead and self[n].core.is_leader]
        highest = max((self[n].core.term for n in found), default=0)
        return [n for n in found if self[n].core.term == highest]

    def leader(self, *, within: int = 40 * ELECTION) -> int:
        """Wait for one leader among the connected."""
        for _ in range(within):
            found = self.leaders()
            if found:
                return found[0]
            self.tick()
        raise AssertionError(f"no leader within {within} ticks")

    def no_leader(self, *, within: int = 4 * ELECTION) -> None:
        self.tick(within)
        assert not self.leaders()

    def propose(self, number: int, *payloads: bytes) -> int:
        """Propose at one replica; gives the index of the last one."""
        return self[number].propose(*payloads)[-1].index

    def fresh(self, size: int = 0) -> bytes:
        self._payloads += 1
        return b"%d " % self._payloads + bytes(size)

    def has(self, index: int) -> int:
        """How many living replicas have applied up to `index`."""
        return sum(self[n].core.applied >= index for n in self.numbers if n not in self.dead)

    def agree(self, servers: int | None = None, *, payload: bytes | None = None, within: int = 100 * ELECTION) -> int:
        """Get one payload applied by so many replicas, however often it takes; gives its index."""
        payload = self.fresh() if payload is None else payload
        needed = len(self.numbers) if servers is None else servers
        deadline = self.ticks + within
        while self.ticks < deadline:
            leader = self.leader()
            try:
                index = self.propose(leader, payload)
            except ProposalRefused:
                self.tick()
                continue
            for _ in range(4 * ELECTION):
                if self.has(index) >= needed and self.applied.get(index) == payload:
                    return index
                self.tick()
                if not self[leader].core.is_leader:
                    break
        raise AssertionError(f"{payload!r} was not applied by {needed} within {within} ticks")
