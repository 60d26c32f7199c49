"""One replica: a core, its disk, and its applied state, moved by hand or all at once."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, final

from logbroker.entry import EntryKind
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.config_change import ConfigProposal
from logbroker.raft.core import RaftCore
from logbroker.raft.messages import ConfState, HardState, Message, MessageKind, PersistToken, ReadState, Ready
from logbroker.raft.settings import RaftConfig
from tests.raft_kit.memory_log import MemoryLog, make_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.entry import Entry
    from logbroker.raft.state import Ticks


def no_jitter(_bound: int) -> int:
    return 0


@final
class Replica:
    """`disk` and `durable` are what a crash leaves; `writes` is on its way there."""

    def __init__(
        self,
        replica: int,
        conf: ConfState,
        *,
        disk: MemoryLog | None = None,
        hard_state: HardState | None = None,
        applied: int | None = None,
        random_ticks: Callable[[int], int] = no_jitter,
        ticks: Ticks | None = None,
        **settings: Any,  # noqa: ANN401 - any field of RaftConfig
    ) -> None:
        settings.setdefault("election_ticks", 10)
        settings.setdefault("heartbeat_ticks", 1)
        self.id = ReplicaId(replica)
        self.config = RaftConfig(replica=self.id, **settings)
        self.disk = disk if disk is not None else MemoryLog()
        self.durable = hard_state or HardState()
        self.random_ticks = random_ticks
        self.ticks = ticks
        # The state that survives a restart: everything up to `base`, with the configuration then.
        self.base = Index(self.disk.first_index() - 1 if applied is None else applied)
        self.base_conf = conf
        self.writes: deque[Ready] = deque()
        self.outbox: list[Message] = []
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.holds_writes = False
        self.holds_applies = False
        self.applies: deque[Sequence[Entry]] = deque()
        self.core = self._start()

    def _start(self) -> RaftCore:
        return RaftCore(
            self.config,
            self.disk,
            hard_state=self.durable,
            conf_state=self.base_conf,
            applied=self.base,
            make_entry=make_entry,
            random_ticks=self.random_ticks,
            ticks=self.ticks,
        )

    def handle_ready(self) -> Ready:
        """Take one Ready: send, apply (unless `holds_applies`), and queue what must be durable."""
        ready = self.core.ready()
        self.outbox.extend(ready.messages)
        self.reads.extend(ready.read_states)
        self.writes.append(ready)
        if ready.committed:
            self.applies.append(ready.committed)
        if not self.holds_applies:
            self.apply()
        return ready

    def apply(self) -> None:
        """Apply everything that was handed out."""
        while self.applies:
            committed = self.applies.popleft()
            for entry in committed:
                self.applied.append(entry)
                if entry.kind is EntryKind.CONFIG:
                    self.core.apply_config(ConfigProposal.decode(entry.payload))
            self.core.on_applied(committed[-1].index, sum(entry.size_bytes for entry in committed))

    def persist(self, count: int | None = None) -> None:
        """Finish the oldest `count` writes (all, if not given)."""
        token: PersistToken | None = None
        for _ in range(len(self.writes) if count is None else count):
            ready = self.writes.popleft()
            if ready.hard_state is not None:
                self.durable = ready.hard_state
            if ready.snapshot is not None:
                self.apply()
                self.disk.install(ready.snapshot)
                self.base, self.base_conf = ready.snapshot.index, ready.snapshot.conf
                self.applied.clear()
            self.disk.write(ready.entries)
            self.outbox.extend(ready.messages_after_persist)
            token = ready.token
        if token is not None:
            self.core.on_persisted(token)

    def settle(self) -> None:
        """Do all work that is due; with `holds_writes`, all but finishing writes."""
        while self.core.has_ready() or (self.writes and not self.holds_writes):
            if self.core.has_ready():
                self.handle_ready()
            if not self.holds_writes:
                self.persist()

    def take_outbox(self) -> list[Message]:
        sent, self.outbox = self.outbox, []
        return sent

    def step(self, message: Message) -> None:
        self.core.step(message)
        self.settle()

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.core.tick()
            self.settle()

    def propose(self, *payloads: bytes) -> list[Entry]:
        """Propose entries made for the end of the log."""
        start = self.core.next_index
        entries = [
            make_entry(EntryKind.DATA, start + position, self.core.term, payload)
            for position, payload in enumerate(payloads)
        ]
        self.core.propose(entries)
        self.settle()
        return entries

    def checkpoint(self) -> None:
        """Make the applied state durable, so that the log below may be forgotten."""
        index = self.core.applied
        if index > self.base:
            self.base, self.base_conf = index, self.core.conf
            self.disk.checkpoint(index, self.core.conf)

    def restart(self) -> None:
        """Crash and start again: what was not durable is gone, and so is the commit index."""
        self.writes.clear()
        self.applies.clear()
        self.outbox.clear()
        self.applied.clear()
        self.reads.clear()
        self.core = self._start()

    @property
    def payloads(self) -> list[bytes]:
        """What was applied, in order, empty entries left out."""
        return [entry.payload for entry in self.applied if entry.kind is EntryKind.DATA]


def lead(replica: Replica, *followers: int) -> None:
    """Make `replica` the leader with the votes of `followers`, whose answers are made up."""
    replica.core.campaign()
    replica.settle()
    for kind in (MessageKind.PRE_VOTE_RESPONSE, MessageKind.VOTE_RESPONSE):
        term = Term(replica.core.term + (kind is MessageKind.PRE_VOTE_RESPONSE))
        for follower in followers:
            if not replica.core.is_leader and replica.core.leader == NO_REPLICA:
                replica.step(Message(kind, replica.id, ReplicaId(follower), term))
    assert replica.core.is_leader
