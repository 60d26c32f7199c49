"""One node's store without a node: driven as the engine drives it, with a record of all that it promised.

A script commits entries, lets the power fail where it wants, opens the store again and compares: what was
reported durable is there, what was being written is there whole or not at all, and nothing else is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import NO_REPLICA, GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.storage.commit import Birth, CommitJob, ReplicaWrite
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import open_store
from logbroker.storage.simulated_disk import SimulatedCrash, SimulatedDisk, Tear
from logbroker.storage.wal import WalOptions, file_path
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logbroker.entry import Entry
    from logbroker.storage.flush import FlushJob
    from logbroker.storage.lives import InstallBody

NODE = NodeId(1)


def tiny_options(*, wal_bytes: int = 32 << 10, segment_bytes: int = 16 << 10) -> StoreOptions:
    """Files of a few pages, so that a script of a dozen commits goes round the ring."""
    return StoreOptions(
        wal=WalOptions(file_bytes=wal_bytes, initial_files=2, max_files=4),
        log=LogOptions(segment_bytes=segment_bytes, first_room_bytes=8 << 10, max_room_step_bytes=32 << 10),
        ballast_bytes=32 << 10,
        max_commit_bytes=8 << 10,
    )


@final
@dataclass(slots=True)
class Promise:
    """What a replica's log holds durably, and what the commit in flight would make of it."""

    group: GroupId
    entries: list[Entry] = field(default_factory=list)
    first_index: Index = Index(1)
    vote: tuple[Term, ReplicaId] = (Term(0), NO_REPLICA)
    alternative: list[Entry] | None = None
    """The log if the commit in flight turns out to be there; None while none is in flight."""
    alternative_vote: tuple[Term, ReplicaId] | None = None

    @property
    def last_index(self) -> Index:
        return Index(self.first_index + len(self.entries) - 1)

    def with_entries(self, entries: Sequence[Entry]) -> list[Entry]:
        """The log after these entries, which may replace its end."""
        if not entries:
            return list(self.entries)
        return [*self.entries[: entries[0].index - self.first_index], *entries]


@final
class StoreScript:
    """A store, its disk, and its promises. `reopen` may be called on any disk that the old one may have become."""

    def __init__(self, options: StoreOptions | None = None, *, seed: int = 1) -> None:
        self.options = options or tiny_options()
        self.disk = SimulatedDisk()
        self.index = DictIndex()
        self.random = Random(seed)
        self.promises: dict[ReplicaId, Promise] = {}
        self.dead: set[ReplicaId] = set()
        self.job: CommitJob | None = None
        self.store: NodeStore = self._open()

    # Building.

    def create(self, replica: int, group: int) -> ReplicaId:
        """Create a replica with a commit of its own."""
        born = ReplicaId(replica)
        self.finish(self.plan(births=[Birth(GroupId(group), born, b"")]))
        self.promises[born] = Promise(GroupId(group))
        return born

    def entries(self, replica: ReplicaId, count: int, *, term: int, start: int = 0, size: int = 100) -> list[Entry]:
        """`count` new entries for a replica from index `start` on, at its end if that is 0."""
        promise = self.promises[replica]
        first = start or promise.last_index + 1
        made = []
        for index in range(first, first + count):
            payload = self.random.randbytes(size)
            made.append(
                seal_entry(
                    EntryKind.STATE,
                    group=promise.group,
                    index=Index(index),
                    term=Term(term),
                    base_offset=Offset(0),
                    next_offset=Offset(0),
                    append_ms=1_000 + index,
                    payload=payload,
                )
            )
        return made

    def data(self, replica: ReplicaId, *, term: int, records: int, size: int = 100) -> list[Entry]:
        """One DATA entry of `records` offsets; storage never looks into it."""
        promise = self.promises[replica]
        base = promise.entries[-1].next_offset if promise.entries else 0
        index = promise.last_index + 1
        return [
            seal_entry(
                EntryKind.DATA,
                group=promise.group,
                index=Index(index),
                term=Term(term),
                base_offset=Offset(base),
                next_offset=Offset(base + records),
                append_ms=1_000 + index,
                payload=self.random.randbytes(size),
            )
        ]

    # Commits.

    def plan(
        self,
        *writes: ReplicaWrite,
        births: Sequence[Birth] = (),
        deaths: Sequence[ReplicaId] = (),
        seals: bool = False,
    ) -> CommitJob:
        """Plan a commit and remember what it would make of the logs."""
        job = self.store.plan_commit(writes, births=births, deaths=deaths, seals=seals)
        if job is None:
            broken("scenario", "the store has no room for a commit that the script wants to make")
        self.job = job
        for write in writes:
            promise = self.promises[write.replica]
            promise.alternative = promise.with_entries(write.entries)
            promise.alternative_vote = write.vote
        return job

    def mend(self, replica: ReplicaId) -> None:
        """Make the copies durable that were fetched for damaged entries of the tail."""
        copies = self.store.replicas[replica].log.mends(1 << 20)
        job = self.store.plan_commit(mends=[ReplicaWrite(replica, entries=copies)] if copies else ())
        if job is None:
            broken("scenario", "the store has no room for a commit that the script wants to make")
        job.run()
        self.store.finish_commit(job)

    def finish(self, job: CommitJob) -> set[ReplicaId]:
        """Run a planned commit to its end and take it as promised."""
        job.run()
        return self.report(job)

    def report(self, job: CommitJob) -> set[ReplicaId]:
        """Give a commit that has run back to the store."""
        refused = self.store.finish_commit(job)
        self.job = None
        for write in job.writes:
            promise = self.promises[write.replica]
            if promise.alternative is not None and write.replica not in refused:
                promise.entries = promise.alternative
                promise.vote = write.vote or promise.vote
            promise.alternative = promise.alternative_vote = None
        for replica in job.deaths:
            del self.promises[replica]
            self.dead.add(replica)
        return refused

    def commit(self, *parts: tuple[ReplicaId, Sequence[Entry]]) -> set[ReplicaId]:
        return self.finish(self.plan(*(ReplicaWrite(replica, entries=tuple(entries)) for replica, entries in parts)))

    def vote(self, *votes: tuple[ReplicaId, int, int]) -> None:
        """Make (replica, term, voted for) durable."""
        self.finish(self.plan(*self.vote_writes(*votes)))

    def vote_writes(self, *votes: tuple[ReplicaId, int, int]) -> list[ReplicaWrite]:
        return [ReplicaWrite(replica, vote=(Term(term), ReplicaId(whom))) for replica, term, whom in votes]

    def install(self, replica: ReplicaId, body: InstallBody, entries: Sequence[Entry]) -> CommitJob:
        """Plan the switch to a snapshot that lies complete beside the log."""
        job = self.plan(ReplicaWrite(replica, install=body))
        self.promises[replica].alternative = list(entries)
        return job

    # Flushes.

    def set_committed(self, replica: ReplicaId, index: int) -> None:
        log = self.store.replicas[replica].log
        log.committed = max(log.committed, Index(index))

    def roll(self) -> FlushJob | None:
        """Take a new WAL file with the next commit, and give the flush that this allows."""
        self.store.request_roll()
        self.finish(self.plan())
        return self.store.take_flush()

    def flush(self) -> None:
        """Roll and flush everything committed, behind whatever flush was planned before."""
        self.run_flush(self.store.take_flush())
        self.run_flush(self.roll())

    def run_flush(self, job: FlushJob | None) -> None:
        if job is not None:
            job.run()
            self.store.finish_flush(job)

    def wal_place(self) -> tuple[str, int]:
        """Path of the ring file and position at which the next commit begins, unless it rolls."""
        wal = self.store._wal
        number = next(number for number, use in wal._uses.items() if use == wal.position.use)
        return file_path(number), wal.position.offset

    # The end of a process, and the next.

    def reopen(self, disk: SimulatedDisk) -> None:
        """Open what is left of the disk; a commit that was in flight is there or not, and that is settled."""
        self.disk = disk
        self.store = self._open()
        self.job = None
        self._settle()

    def fork(self, disk: SimulatedDisk) -> StoreScript:
        """The same promises on another disk, opened: what this node would find had it gone that way."""
        other = self.fork_unjudged(disk)
        other._settle()
        return other

    def fork_unjudged(self, disk: SimulatedDisk) -> StoreScript:
        """As `fork`, for disks that are damaged: what is found is not held against the promises."""
        other = object.__new__(StoreScript)
        other.options = self.options
        other.disk = disk
        other.index = DictIndex()
        other.random = Random(7)
        other.promises = {
            replica: Promise(
                promise.group,
                list(promise.entries),
                promise.first_index,
                promise.vote,
                None if promise.alternative is None else list(promise.alternative),
                promise.alternative_vote,
            )
            for replica, promise in self.promises.items()
        }
        other.dead = set(self.dead)
        other.job = None
        other.store = other._open()
        return other

    def kill(self) -> None:
        self.reopen(self.disk.kill())

    def lose_everything_unsynced(self) -> None:
        self.reopen(self.disk.crash(keep=_Nothing()))

    def crash_points(self, act: Callable[[StoreScript], object]) -> Iterator[StoreScript]:
        """Do `act` again and again, each time with the power cut in place of another of its disk changes.

        Yields the script right after each cut: not reopened, its disk turned off; `leftovers` says what may be left.
        """
        for change in range(1, 10_000):
            attempt = self.twin()
            attempt.disk.crash_before(attempt.disk.change_count + change)
            try:
                act(attempt)
            except SimulatedCrash:
                yield attempt
            else:
                return

    def twin(self) -> StoreScript:
        """An independent copy of script, store and disk, open files included."""
        return copy.deepcopy(self)

    def leftovers(self, *, limit: int = 4_096, tear: Tear = Tear.NONE) -> Iterator[SimulatedDisk]:
        """Every disk that a power cut may leave now."""
        return self.disk.crash_states(limit=limit, tear=tear)

    def _open(self) -> NodeStore:
        return open_store(
            self.disk,
            self.options,
            node=NODE,
            open_index=lambda: self.index,
            random_bytes=Random(99).randbytes,
        )

    # Judging.

    def _settle(self) -> None:
        """Compare what was found with what was promised, and take it as what is promised from here on."""
        for replica in self.store.replicas:
            if replica not in self.promises:
                broken("what was deleted stays deleted", f"replica {replica} is there")
        for replica, promise in self.promises.items():
            stored = self.store.replicas.get(replica)
            if stored is None or stored.lost:
                broken("durable stays", f"replica {replica} is {'lost: ' + stored.lost if stored else 'gone'}")
            found = self.found(replica)
            if found != _names(promise.entries) and (
                promise.alternative is None or found != _names(promise.alternative)
            ):
                broken(
                    "durable stays",
                    f"replica {replica} has {_short(found)}, promised was {_short(_names(promise.entries))}"
                    + (f" or {_short(_names(promise.alternative))}" if promise.alternative is not None else ""),
                )
            if promise.alternative is not None and found == _names(promise.alternative):
                promise.entries = promise.alternative
                promise.first_index = stored.log.first_index()
            self._settle_vote(replica, promise)
            promise.alternative = promise.alternative_vote = None

    def _settle_vote(self, replica: ReplicaId, promise: Promise) -> None:
        vote = self.store.vote(replica)
        if vote is None or vote not in (promise.vote, promise.alternative_vote):
            broken("votes stay", f"replica {replica} has {vote}, promised was {promise.vote}")
        promise.vote = vote

    def found(self, replica: ReplicaId) -> list[tuple[int, int, int]]:
        """(index, term, checksum) of every entry that the log of a replica gives."""
        log = self.store.replicas[replica].log
        entries: list[Entry] = []
        following = log.first_index()
        while following <= log.last_index():
            entries.extend(log.entries(following, Index(log.last_index() + 1), max_bytes=1 << 20))
            following = Index(entries[-1].index + 1)
        return _names(entries)


@final
class _Nothing:
    """Keeps nothing that was not synced."""

    def randrange(self, stop: int, /) -> int:
        del stop
        return 0


def _names(entries: Sequence[Entry]) -> list[tuple[int, int, int]]:
    return [(entry.index, entry.term, entry.crc) for entry in entries]


def _short(names: list[tuple[int, int, int]]) -> str:
    if not names:
        return "an empty log"
    runs: list[list[int]] = []
    for index, term, _ in names:
        if runs and runs[-1][2] == term:
            runs[-1][1] = index
        else:
            runs.append([index, index, term])
    return ", ".join(f"{first}..{last} of term {term}" for first, last, term in runs)
