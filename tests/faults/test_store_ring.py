"""A recycled ring whose commits are all of one size, and every subset of the pages of the last one."""

from __future__ import annotations

import pytest

from logbroker.ids import Index
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, Tear, on
from logbroker.storage.wal import WalOptions
from tests.unit.storage.store_kit import A, commit, entries, flush, held, open_at

OPTIONS = StoreOptions(
    WalOptions(file_bytes=32 << 10, initial_files=2, max_files=4),
    LogOptions(segment_bytes=24 << 10, first_room_bytes=8 << 10, max_room_step_bytes=32 << 10),
    ballast_bytes=64 << 10,
    max_commit_bytes=8 << 10,
)
SIZE = 6_000
"""A commit of one entry takes two pages."""


class Nothing:
    """Nothing unsynced is kept."""

    def randrange(self, stop: int, /) -> int:
        return 0


def recycled(count: int) -> tuple[SimulatedDisk, NodeStore]:
    """A ring in which every place held a whole commit of the same size in the use before, and the one before that."""
    disk = SimulatedDisk()
    store = open_at(disk, options=OPTIONS)
    commit(store, births=[A])
    for index in range(1, count + 1):
        commit(store, ReplicaWrite(A, entries=entries(index, index + 1, size=SIZE)))
        store.replicas[A].log.committed = Index(index)
        flush(store)
    return disk, store


@pytest.mark.parametrize("count", range(20, 25))
def test_every_subset_of_the_pages_of_the_last_commit_shows_it_whole_or_not_at_all(count: int) -> None:
    disk, store = recycled(count)
    disk.inject(Fault(effect=Effect.CRASH, matches=on(Action.SYNC, below="wal/")))
    with pytest.raises(SimulatedCrash):
        commit(store, ReplicaWrite(A, entries=entries(count + 1, count + 2, size=SIZE)))
    lengths = set()
    for state in disk.crash_states(limit=2_000, tear=Tear.NONE):
        again = open_at(state, options=OPTIONS)
        stored = again.replicas[A]
        assert stored.lost == ""
        assert held(stored.log) == [(index, 1) for index in range(1, stored.log.last_index() + 1)]
        lengths.add(int(stored.log.last_index()))
        after = open_at(state.crash(keep=Nothing()), options=OPTIONS)
        assert after.replicas[A].log.last_index() == stored.log.last_index()
    assert lengths == {count, count + 1}


def test_the_ring_was_recycled_many_times() -> None:
    _, store = recycled(24)
    assert store._wal.position.use > 2 * store._wal.file_count
    assert store._wal.file_count <= OPTIONS.wal.max_files


def test_a_sync_that_lies_is_seen() -> None:
    """The disk says durable and is not: what was promised is gone, which a test of promises must notice."""
    disk, store = recycled(20)
    disk.inject(Fault(effect=Effect.LOST, matches=on(Action.SYNC, below="wal/"), times=1 << 30))
    for index in range(21, 23):
        commit(store, ReplicaWrite(A, entries=entries(index, index + 1, size=SIZE)))
    again = open_at(disk.crash(keep=Nothing()), options=OPTIONS)
    assert again.replicas[A].log.last_index() < 22
