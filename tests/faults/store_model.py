"""A node store under a seeded load, beside a model of what it has promised.

Two replicas append, are overruled (conflicts above the commit index), commit, vote, flush and checkpoint. The model
knows what is durable and what is being made so: after a crash the store must show one or the other, whole.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.storage.checkpoints import CheckpointHeader
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import open_store
from logbroker.storage.wal import WalOptions

if TYPE_CHECKING:
    from logbroker.storage.simulated_disk import SimulatedDisk

NODE = NodeId(1)
REPLICAS = (ReplicaId(11), ReplicaId(12))
OPTIONS = StoreOptions(
    WalOptions(file_bytes=32 << 10, initial_files=3, max_files=6),
    LogOptions(segment_bytes=24 << 10, first_room_bytes=8 << 10, max_room_step_bytes=32 << 10),
    ballast_bytes=64 << 10,
    max_commit_bytes=8 << 10,
)


def open_model_store(disk: SimulatedDisk) -> NodeStore:
    return open_store(disk, OPTIONS, node=NODE, open_index=DictIndex, random_bytes=random.Random(7).randbytes)


def make_entry(replica: ReplicaId, index: int, term: int, *, size: int, base: int) -> Entry:
    return seal_entry(
        EntryKind.DATA,
        group=GroupId(replica),
        index=Index(index),
        term=Term(term),
        base_offset=Offset(base),
        next_offset=Offset(base + 1),
        append_ms=index * 10,
        payload=bytes([replica & 255, index & 255, term & 255]) * (size // 3),
    )


@dataclass
class Promise:
    """What one replica is known to hold."""

    entries: list[Entry] = field(default_factory=list)
    vote: tuple[Term, ReplicaId] = (Term(0), ReplicaId(0))

    def after(self, write: ReplicaWrite) -> Promise:
        kept = self.entries
        if write.entries:
            kept = [entry for entry in kept if entry.index < write.entries[0].index]
        return Promise([*kept, *write.entries], write.vote or self.vote)


class StoreLoad:
    """Drives a store step by step; `promised` and `promising` are the two states a crash may leave."""

    def __init__(self, disk: SimulatedDisk, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = open_model_store(disk)
        self.promised = {replica: Promise() for replica in REPLICAS}
        self.promising = self.promised
        self.committed = dict.fromkeys(REPLICAS, 0)
        self.term = 1
        self.flushes = self.conflicts = self.checkpoints = 0

    def create(self) -> None:
        self._commit([], births=[Birth(GroupId(replica), replica, b"") for replica in REPLICAS])

    def step(self) -> None:
        """One group commit of something, and sometimes a flush or a checkpoint."""
        writes = [self._write(replica) for replica in REPLICAS if self.random.random() < 0.8]
        self._commit(writes)
        for replica in REPLICAS:
            log = self.store.replicas[replica].log
            self.committed[replica] = self.random.randint(self.committed[replica], log.last_index())
            log.committed = Index(self.committed[replica])
        job = self.store.take_flush()
        if job is not None:
            job.run()
            self.store.finish_flush(job)
            self.flushes += 1
        if self.random.random() < 0.1:
            self._checkpoint(self.random.choice(REPLICAS))
        if self.random.random() < 0.1:
            self._commit([], seals=True)

    def seal(self) -> None:
        """What a shutdown does: without it the last commit cannot be told from one that was being written."""
        self._commit([], seals=True)

    def _write(self, replica: ReplicaId) -> ReplicaWrite:
        held = self.promised[replica].entries
        start = len(held) + 1
        vote = None
        if self.random.random() < 0.15 and start - 1 > self.committed[replica]:
            start = self.random.randint(self.committed[replica] + 1, start - 1)
            self.term += 1
            vote = (Term(self.term), self.random.choice(REPLICAS))
            self.conflicts += 1
        count = self.random.randint(1, 4)
        base = held[start - 2].next_offset if start > 1 else 0
        entries = tuple(
            make_entry(replica, start + i, self.term, size=self.random.choice((9, 300, 1500)), base=base + i)
            for i in range(count)
        )
        return ReplicaWrite(replica, vote, entries)

    def _commit(self, writes: list[ReplicaWrite], *, births: list[Birth] = (), seals: bool = False) -> None:  # type: ignore[assignment]  # a default that nobody changes
        job = self.store.plan_commit(writes, births=births, seals=seals)
        if job is None:
            raise AssertionError("the ring is stalled though every flush is run at once")
        after = dict(self.promised)
        for write in writes:
            after[write.replica] = self.promised[write.replica].after(write)
        self.promising = after
        job.run()
        if self.store.finish_commit(job):
            raise AssertionError("a write was refused on a disk with room")
        self.promised = after

    def _checkpoint(self, replica: ReplicaId) -> None:
        log = self.store.replicas[replica].log
        index = Index(self.committed[replica])
        if index <= log.state.previous_index:
            return
        header = CheckpointHeader(
            group=log.group,
            replica=replica,
            index=index,
            term=log.term(index),
            log_start_offset=Offset(0),
            log_start_index=Index(max(1, index - 20)),
            next_offset=Offset(index),
            append_ms=index * 10,
            conf=b"",
        )
        job = self.store.plan_checkpoint(replica, header, [b"state ", str(index).encode()])
        if job is not None:
            job.run()
            self.store.finish_checkpoint(job)
            self.checkpoints += 1


def shown(store: NodeStore, replica: ReplicaId) -> list[Entry]:
    """Every entry the store still holds of a replica."""
    log = store.replicas[replica].log
    if log.last_index() < log.first_index():
        return []
    found: list[Entry] = []
    following = log.first_index()
    while following <= log.last_index():
        found.extend(log.entries(following, Index(log.last_index() + 1), max_bytes=4096))
        following = Index(found[-1].index + 1)
    return found


def differs(store: NodeStore, promised: dict[ReplicaId, Promise]) -> str:
    """How the store differs from a promise; empty where it keeps all of it and shows nothing else."""
    for replica, promise in promised.items():
        stored = store.replicas.get(replica)
        if stored is None:
            if promise.entries:
                return f"replica {replica} is gone"
            continue
        if stored.lost:
            return f"replica {replica} is lost: {stored.lost}"
        start = stored.log.first_index()
        wanted = promise.entries[start - 1 :]
        held = shown(store, replica)
        if held != wanted:
            ends = [[(entry.index, entry.term) for entry in entries][-5:] for entries in (held, wanted)]
            return f"replica {replica} shows {ends[0]}, not {ends[1]}"
        if start > 1 and stored.log.term(Index(start - 1)) != promise.entries[start - 2].term:
            return f"replica {replica} has another term before its log start"
        if promise.entries and (store.vote(replica) or (0, 0))[0] < promise.vote[0]:
            return f"replica {replica} forgot its vote"
    return ""
