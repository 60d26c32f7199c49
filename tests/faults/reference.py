"""A small data directory with one of everything in it, what must be read from it, and who says so.

Four replicas: one with segments, two checkpoints and a tail in the write-ahead log; one whose log came as a snapshot;
one that was born in the part of the write-ahead log that still matters; and one that died there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import DamageError
from logbroker.ids import GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.raft.log import UnavailableEntryError
from logbroker.raft.messages import ConfState
from logbroker.storage.checkpoints import CheckpointHeader
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import UNKNOWN_TERM, LogOptions, LogState
from logbroker.storage.recovery import open_store
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.wal import WalOptions
from tests.faults.power_loss import settled
from tests.unit.storage.snapshot_files import receive
from tests.unit.storage.store_kit import entries as entries_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logbroker.storage.partition_log import PartitionLog

NODE = NodeId(1)
FLUSHED, INSTALLED, YOUNG, DEAD = (ReplicaId(number) for number in (11, 12, 13, 14))
OPTIONS = StoreOptions(
    WalOptions(file_bytes=20 << 10, initial_files=3, max_files=4),
    LogOptions(segment_bytes=6 << 10, first_room_bytes=8 << 10, max_room_step_bytes=8 << 10),
    ballast_bytes=4 << 10,
    max_commit_bytes=8 << 10,
)
EVEN_PAYLOAD_BYTES = 452
"""With its head an entry takes 512 bytes: pages of a segment that change places fit without a seam."""
MS = 10


@final
@dataclass(frozen=True, slots=True)
class Expected:
    """What one replica holds; `entries` begin behind `previous_index`."""

    previous_index: Index
    previous_term: Term
    entries: tuple[Entry, ...]
    vote: tuple[Term, ReplicaId]
    checkpoints: tuple[tuple[CheckpointHeader, bytes], ...]

    @property
    def last_index(self) -> int:
        return self.previous_index + len(self.entries)

    def at(self, index: int) -> Entry:
        return self.entries[index - self.previous_index - 1]

    def term(self, index: int) -> Term:
        return self.previous_term if index == self.previous_index else self.at(index).term


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """`disk` is never opened itself, only copies of it."""

    disk: SimulatedDisk
    replicas: dict[ReplicaId, Expected]
    incarnation: bytes
    states: dict[ReplicaId, LogState]
    """What a start on the undamaged directory makes of each log."""


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """How a store that was opened differs from the reference. `wrong` is empty unless it lies."""

    wrong: str
    damaged: dict[ReplicaId, dict[Index, Term]]
    lost: dict[ReplicaId, str]
    notes: tuple[str, ...]
    is_new_life: bool = False
    """The node began anew and says so; everything that was here is set aside."""

    @property
    def has_noticed(self) -> bool:
        return bool(self.notes or self.lost or self.is_new_life or any(self.damaged.values()))


def open_reference(disk: SimulatedDisk, seed: int = 8) -> NodeStore:
    return open_store(disk, OPTIONS, node=NODE, open_index=DictIndex, random_bytes=random.Random(seed).randbytes)


def make_entry(
    group: int, index: int, term: int, base: int, *, size: int, kind: EntryKind = EntryKind.DATA, count: int = 1
) -> Entry:
    return seal_entry(
        kind,
        group=GroupId(group),
        index=Index(index),
        term=Term(term),
        base_offset=Offset(base),
        next_offset=Offset(base + (count if kind is EntryKind.DATA else 0)),
        append_ms=index * MS,
        payload=bytes((group + 7 * index + 3 * place) & 0xFF for place in range(size)),
    )


@final
class _Builder:
    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.store = open_reference(self.disk, seed=7)
        self.held: dict[ReplicaId, list[Entry]] = {}
        self.before: dict[ReplicaId, tuple[Index, Term]] = {}
        self.votes: dict[ReplicaId, tuple[Term, ReplicaId]] = {}

    def commit(
        self,
        *writes: ReplicaWrite,
        births: Sequence[ReplicaId] = (),
        deaths: Sequence[ReplicaId] = (),
        seals: bool = False,
    ) -> None:
        job = self.store.plan_commit(
            writes,
            births=[Birth(GroupId(replica), replica, conf_of(replica).encode()) for replica in births],
            deaths=deaths,
            seals=seals,
        )
        if job is None:
            raise AssertionError("the ring of the reference is stalled")
        job.run()
        if self.store.finish_commit(job):
            raise AssertionError("the reference has no room")
        for replica in births:
            self.held[replica], self.before[replica] = [], (Index(0), Term(0))
            self.votes[replica] = (Term(0), ReplicaId(0))
        for replica in deaths:
            del self.held[replica]

    def write(self, replica: ReplicaId, *entries: Entry, vote: tuple[Term, ReplicaId] | None = None) -> ReplicaWrite:
        held = self.held[replica]
        if entries:
            held[:] = [*[kept for kept in held if kept.index < entries[0].index], *entries]
        if vote is not None:
            self.votes[replica] = vote
        return ReplicaWrite(replica, vote, entries)

    def following(
        self, replica: ReplicaId, count: int, *, size: int, term: int = 1, kind: EntryKind = EntryKind.DATA
    ) -> list[Entry]:
        held = self.held[replica]
        made: list[Entry] = []
        for _ in range(count):
            last = made[-1] if made else held[-1] if held else None
            index = self.before[replica][0] + 1 if last is None else last.index + 1
            base = last.next_offset if last is not None else 0
            made.append(make_entry(replica, index, term, base, size=size, kind=kind, count=1 + index % 3))
        return made

    def flush(self) -> None:
        for stored in self.store.replicas.values():
            stored.log.committed = stored.log.last_index()
        self.store.request_roll()
        self.commit()
        job = self.store.take_flush()
        if job is None:
            raise AssertionError("nothing was flushed")
        job.run()
        self.store.finish_flush(job)

    def checkpoint(self, replica: ReplicaId, index: int) -> None:
        log = self.store.replicas[replica].log
        header = CheckpointHeader(
            group=log.group,
            replica=replica,
            index=Index(index),
            term=log.term(Index(index)),
            log_start_offset=Offset(0),
            log_start_index=log.first_index(),
            next_offset=Offset(index),
            append_ms=index * MS,
            conf=conf_of(replica).encode(),
        )
        job = self.store.plan_checkpoint(replica, header, [b"state of ", str(index).encode()])
        if job is None:
            raise AssertionError("a checkpoint is refused")
        job.run()
        self.store.finish_checkpoint(job)


def conf_of(replica: ReplicaId) -> ConfState:
    """The replica, and two that live on other nodes."""
    return ConfState((replica, ReplicaId(replica + 100), ReplicaId(replica + 200)))


def make_reference() -> Reference:
    made = _Builder()
    made.commit(births=[FLUSHED, INSTALLED, DEAD])
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 4, size=EVEN_PAYLOAD_BYTES), vote=(Term(1), FLUSHED)))
    made.commit(made.write(DEAD, *made.following(DEAD, 2, size=50)))
    made.flush()
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 10, size=EVEN_PAYLOAD_BYTES)))
    made.flush()
    made.checkpoint(FLUSHED, 9)
    # Small ones, so that a page holds the heads of many; and kinds without messages among them.
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 6, size=21)))
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 1, size=3, kind=EntryKind.STATE)))
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 5, size=300)))
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 1, size=0, term=2, kind=EntryKind.NOOP)))
    made.commit(made.write(FLUSHED, *made.following(FLUSHED, 3, size=1200, term=2), vote=(Term(2), ReplicaId(111))))
    made.flush()
    made.checkpoint(FLUSHED, 26)
    snapshot = entries_of(31, 40, term=3, group=INSTALLED)
    install = receive(made.disk, INSTALLED, 31, 40, term=3)
    made.commit(ReplicaWrite(INSTALLED, (Term(3), ReplicaId(112)), install=install))
    made.held[INSTALLED], made.before[INSTALLED] = list(snapshot), (Index(30), Term(3))
    made.votes[INSTALLED] = (Term(3), ReplicaId(112))
    made.flush()
    # From here on everything stays in the write-ahead log.
    for stored in made.store.replicas.values():
        stored.log.committed = stored.log.flushed_index
    made.commit(births=[YOUNG], deaths=[DEAD])
    made.commit(made.write(YOUNG, *made.following(YOUNG, 3, size=40), vote=(Term(1), YOUNG)))
    made.commit(
        made.write(FLUSHED, *made.following(FLUSHED, 2, size=700, term=2)),
        made.write(INSTALLED, *made.following(INSTALLED, 2, size=90, term=3)),
    )
    # Overruled: the entry at the end gives way to one of a later term.
    overruled = make_entry(FLUSHED, 33, 4, made.held[FLUSHED][31].next_offset, size=33)
    made.commit(made.write(FLUSHED, overruled, vote=(Term(4), ReplicaId(111))))
    made.commit(made.write(INSTALLED, *made.following(INSTALLED, 1, size=1500, term=3)))
    made.commit(seals=True)
    return _reference_of(made)


def _reference_of(made: _Builder) -> Reference:
    replicas = {}
    checkpoints = {FLUSHED: (26, 9), INSTALLED: (39,), YOUNG: ()}
    for replica, entries in made.held.items():
        log = made.store.replicas[replica].log
        index, term = made.before[replica]
        kept = [read_reference_checkpoint(made.disk, log.state.directory, at) for at in checkpoints[replica]]
        replicas[replica] = Expected(index, term, tuple(entries), made.votes[replica], tuple(kept))
    incarnation = made.store.identity.incarnation
    made.store.close()
    disk = settled(made.disk.kill())
    clean = open_reference(settled(disk))
    return Reference(disk, replicas, incarnation, {found: clean.replicas[found].log.state for found in replicas})


def read_reference_checkpoint(disk: SimulatedDisk, directory: str, index: int) -> tuple[CheckpointHeader, bytes]:
    from logbroker.storage.checkpoints import checkpoint_path, read_checkpoint

    return read_checkpoint(disk, checkpoint_path(directory, Index(index)))


def judge(disk: SimulatedDisk, reference: Reference, *, touched: str | None = None) -> Judgement:
    """Open the directory as a node does, read all of it in every way there is, and compare.

    `touched` names the only file that is not as it was: a log whose files are others, and that the start makes the same
    of, is not read.
    """
    store = open_reference(disk)
    try:
        return judge_store(store, reference, touched=touched)
    finally:
        store.close()


def judge_store(store: NodeStore, reference: Reference, *, touched: str | None = None) -> Judgement:
    if store.identity.incarnation != reference.incarnation:
        wrong = "it has replicas of another life" if store.replicas else ""
        return Judgement(wrong, {}, {}, tuple(store.notes), is_new_life=True)
    wrong = next((fault for fault in _faults(store, reference, touched) if fault), "")
    damaged = {replica: dict(stored.log.state.damaged) for replica, stored in store.replicas.items()}
    lost = {replica: stored.lost for replica, stored in store.replicas.items() if stored.lost}
    return Judgement(wrong, damaged, lost, tuple(store.notes))


def _faults(store: NodeStore, reference: Reference, touched: str | None) -> Iterator[str]:
    for replica, stored in store.replicas.items():
        if replica not in reference.replicas and not stored.lost:
            yield f"replica {replica} lives again"
    for replica, expected in reference.replicas.items():
        found = store.replicas.get(replica)
        if found is None:
            yield f"replica {replica} is gone"
            continue
        if found.lost:
            continue
        if found.checkpoint is None if expected.checkpoints else found.checkpoint is not None:
            yield f"replica {replica} has not the checkpoint it had"
        if found.checkpoint is not None and found.checkpoint not in expected.checkpoints:
            yield f"replica {replica} has checkpoint {found.checkpoint[0].index}, which is another"
        vote = store.vote(replica)
        # After the loss of a vote a replica is lost; any other difference is a promise that is broken.
        if vote != expected.vote:
            yield f"replica {replica} has vote {vote}, not {expected.vote}"
        state = found.log.state
        is_elsewhere = touched is not None and not touched.startswith(f"{state.directory}/")
        if is_elsewhere and state == reference.states[replica]:
            continue
        yield from (f"replica {replica}: {fault}" for fault in _log_faults(found.log, expected) if fault)


def _log_faults(log: PartitionLog, expected: Expected) -> Iterator[str]:
    if (log.first_index(), log.last_index()) != (expected.previous_index + 1, expected.last_index):
        yield f"it holds {log.first_index()}..{log.last_index()}, not {expected.previous_index + 1}.."
        return
    end = Index(log.last_index() + 1)
    for index in range(expected.previous_index, end):
        yield _differs(f"the term of {index}", partial(log.term, Index(index)), expected.term(index))
    for index in range(expected.previous_index + 1, end):
        wanted = expected.at(index)
        yield _differs(f"entry {index}", partial(log.entries, Index(index), Index(index + 1), max_bytes=1), [wanted])
        yield _prefix_differs(log, expected, index)
        if wanted.kind is EntryKind.DATA:
            yield from _offset_faults(log, expected, wanted)
        yield from _time_faults(log, expected, index * MS)
    for index, term in log.state.damaged.items():
        if term not in (expected.term(index), UNKNOWN_TERM):
            yield f"entry {index} is damaged and its term {term} is wrong"


def _offset_faults(log: PartitionLog, expected: Expected, wanted: Entry) -> Iterator[str]:
    first, last = wanted.base_offset, Offset(wanted.next_offset - 1)
    yield _differs(f"the index of offset {last}", partial(log.index_of_offset, last), wanted.index)
    for offset in dict.fromkeys((first, last)):
        yield _differs(f"the batch at offset {offset}", partial(_first_from, log, offset), wanted)
    read = []
    try:
        for entry in log.data_from(wanted.base_offset, max_bytes=4096):
            read.append(entry)
    except (DamageError, UnavailableEntryError):
        pass
    data = [entry for entry in expected.entries if entry.kind is EntryKind.DATA and entry.index >= wanted.index]
    if read != data[: len(read)]:
        yield f"the batches from offset {wanted.base_offset} on are others"


def _time_faults(log: PartitionLog, expected: Expected, at_ms: int) -> Iterator[str]:
    first = next(
        (
            (entry.base_offset, entry.append_ms)
            for entry in expected.entries
            if entry.kind is EntryKind.DATA and entry.append_ms >= at_ms
        ),
        None,
    )
    yield _differs(f"the first offset at {at_ms} ms", lambda: log.first_offset_at(at_ms), first)
    before = max(expected.previous_index, at_ms // MS - 1)
    yield _differs(f"the last index before {at_ms} ms", lambda: log.last_before(at_ms), before)


def _first_from(log: PartitionLog, offset: Offset) -> Entry:
    return next(log.data_from(offset, max_bytes=1))


def _differs(what: str, read: Callable[[], object], wanted: object) -> str:
    """Empty where the answer is right, or is refused because something is damaged."""
    try:
        found = read()
    except (DamageError, UnavailableEntryError):
        return ""
    return "" if found == wanted else f"{what} is {str(found)[:120]}, not {str(wanted)[:120]}"


def _prefix_differs(log: PartitionLog, expected: Expected, index: int) -> str:
    try:
        found = log.entries(Index(index), Index(log.last_index() + 1), max_bytes=3000)
    except UnavailableEntryError:
        return ""
    wanted = expected.entries[index - expected.previous_index - 1 :][: len(found)]
    return "" if tuple(found) == wanted else f"the entries from {index} on are others"
