"""What the Raft core expects of whatever keeps its log. Each implementation is one more `StorageKit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.ids import Index, Term
from logbroker.raft.log import CompactedError, LogStorage, UnavailableEntryError
from logbroker.raft.messages import SnapshotMeta
from tests.raft_kit import MemoryLog, conf_of, make_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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


@pytest.fixture(params=[memory_kit], ids=["memory"])
def kit(request: pytest.FixtureRequest) -> StorageKit:
    made: StorageKit = request.param()
    return made


def entries(start: int, *terms: int) -> list[Entry]:
    return [make_entry(EntryKind.DATA, start + place, term, b"x" * 36) for place, term in enumerate(terms)]


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
    for limit, count in ((0, 1), (199, 1), (200, 2), (299, 2), (300, 3)):
        assert len(kit.storage.entries(Index(1), Index(4), max_bytes=limit)) == count


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
