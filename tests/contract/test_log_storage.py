"""What the Raft core expects of whatever keeps its log. Each implementation is one more `StorageKit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.raft.log import CompactedError, LogStorage, UnavailableEntryError
from logbroker.raft.messages import ConfState, SnapshotMeta
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.lives import InstallBody, install_directory
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.raft_kit import MemoryLog, conf_of
from tests.unit.storage.store_kit import A, commit, open_at, roll_and_flush

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.storage.partition_log import PartitionLog


@final
@dataclass(frozen=True)
class StorageKit:
    """A log to read and the ways to change it, each of which returns when the change is durable."""

    storage: LogStorage
    write: Callable[[Sequence[Entry]], None]
    install: Callable[[SnapshotMeta], None]
    compact: Callable[[Index, SnapshotMeta], None]
    """Take a checkpoint as of the index of the second, then forget entries up to the first."""


def memory_kit() -> StorageKit:
    log = MemoryLog()

    def compact(index: Index, snapshot: SnapshotMeta) -> None:
        log.checkpoint(snapshot.index, snapshot.conf)
        log.compact(index)

    return StorageKit(log, log.write, log.install, compact)


@final
class StoredLog:
    """A replica's log in a node store over a simulated disk, as a replica's driver shows it to the core."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.store = open_at(self.disk)
        self.snapshot = SnapshotMeta(Index(0), Term(0), ConfState())
        commit(self.store, births=[A])

    @property
    def log(self) -> PartitionLog:
        return self.store.replicas[A].log

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

    def write(self, new: Sequence[Entry]) -> None:
        commit(self.store, ReplicaWrite(A, entries=tuple(new)))

    def write_and_flush(self, new: Sequence[Entry]) -> None:
        """The first entry goes into a segment; the others may still be replaced."""
        self.write(new)
        self.flush(Index(1))

    def flush(self, index: Index) -> None:
        self.log.committed = index
        roll_and_flush(self.store)

    def install(self, snapshot: SnapshotMeta) -> None:
        """A snapshot of which every entry has outlived the retention: a checkpoint alone."""
        group, index, term = self.log.group, snapshot.index, snapshot.term
        directory = install_directory(group, A, index, term)
        self.disk.mkdir(directory)
        commit(self.store, ReplicaWrite(A, install=InstallBody(group, directory, index, term, index, term, ())))
        self.snapshot = snapshot

    def compact(self, index: Index, snapshot: SnapshotMeta) -> None:
        """A restart in between, so that what stays is in a segment of its own."""
        self.flush(index)
        self.disk = self.disk.kill()
        self.store = open_at(self.disk)
        self.flush(self.last_index())
        self.log.droppable_below = Index(index + 1)
        self.log.drop_segments()
        self.snapshot = snapshot


def tail_kit() -> StorageKit:
    made = StoredLog()
    return StorageKit(made, made.write, made.install, made.compact)


def segment_kit() -> StorageKit:
    made = StoredLog()
    return StorageKit(made, made.write_and_flush, made.install, made.compact)


@pytest.fixture(params=[memory_kit, tail_kit, segment_kit], ids=["memory", "write-ahead log", "segments"])
def kit(request: pytest.FixtureRequest) -> StorageKit:
    made: StorageKit = request.param()
    return made


def entries(start: int, *terms: int) -> list[Entry]:
    """Entries of 100 bytes each, in the byte form that a store keeps."""
    return [
        seal_entry(
            EntryKind.DATA,
            group=GroupId(A),
            index=Index(start + place),
            term=Term(term),
            base_offset=Offset(start + place - 1),
            next_offset=Offset(start + place),
            append_ms=0,
            payload=b"x" * 36,
        )
        for place, term in enumerate(terms)
    ]


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), conf_of(1, 2, 3))


def test_a_new_log_is_empty_and_starts_at_one(kit: StorageKit) -> None:
    assert (kit.storage.first_index(), kit.storage.last_index(), kit.storage.term(Index(0))) == (1, 0, 0)
    assert kit.storage.snapshot_meta().index == 0


def test_entries_are_read_back_as_written(kit: StorageKit) -> None:
    written = entries(1, 1, 1, 2)
    kit.write(written[:2])
    kit.write(written[2:])
    assert list(kit.storage.entries(Index(1), Index(4), max_bytes=1 << 20)) == written
    assert list(kit.storage.entries(Index(2), Index(3), max_bytes=1 << 20)) == written[1:2]
    assert [kit.storage.term(Index(index)) for index in (1, 2, 3)] == [1, 1, 2]


def test_a_read_is_cut_to_the_byte_limit_but_never_to_nothing(kit: StorageKit) -> None:
    kit.write(entries(1, 1, 1, 1))
    for limit, count in ((1, 1), (199, 1), (200, 2), (299, 2), (300, 3)):
        assert len(kit.storage.entries(Index(1), Index(4), max_bytes=limit)) == count


def test_a_limit_of_nothing_still_gives_one_entry(kit: StorageKit) -> None:
    kit.write(entries(1, 1, 1))
    assert len(kit.storage.entries(Index(1), Index(3), max_bytes=0)) == 1


def test_a_write_below_the_end_replaces_the_end(kit: StorageKit) -> None:
    kit.write(entries(1, 1, 1, 1, 1))
    kit.write(entries(2, 2, 2))
    assert kit.storage.last_index() == 3
    assert [entry.term for entry in kit.storage.entries(Index(1), Index(4), max_bytes=1 << 20)] == [1, 2, 2]


def test_what_lies_beyond_the_end_is_unavailable(kit: StorageKit) -> None:
    kit.write(entries(1, 1))
    with pytest.raises(UnavailableEntryError):
        kit.storage.term(Index(2))
    with pytest.raises(UnavailableEntryError):
        kit.storage.entries(Index(1), Index(3), max_bytes=1)


def test_what_was_forgotten_is_compacted_but_the_term_before_the_first_entry_is_known(kit: StorageKit) -> None:
    kit.write(entries(1, 1, 2, 3, 3))
    kit.compact(Index(2), meta(3, 3))
    assert (kit.storage.first_index(), kit.storage.last_index()) == (3, 4)
    assert kit.storage.snapshot_meta() == meta(3, 3)
    assert kit.storage.term(Index(2)) == 2
    with pytest.raises(CompactedError):
        kit.storage.term(Index(1))
    with pytest.raises(CompactedError):
        kit.storage.entries(Index(2), Index(4), max_bytes=1)


def test_a_snapshot_takes_the_place_of_the_log(kit: StorageKit) -> None:
    kit.write(entries(1, 1, 1))
    kit.install(meta(9, 4))
    assert (kit.storage.first_index(), kit.storage.last_index(), kit.storage.term(Index(9))) == (10, 9, 4)
    assert kit.storage.snapshot_meta() == meta(9, 4)
    with pytest.raises(CompactedError):
        kit.storage.term(Index(2))
    kit.write(entries(10, 5))
    assert kit.storage.last_index() == 10
