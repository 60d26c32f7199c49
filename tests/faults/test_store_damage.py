"""Bits that rot under a stopped node: never a wrong entry, never a silent hole, never an old vote."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from logbroker.ids import Index
from logbroker.raft.log import UnavailableEntryError
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.partition_log import UNKNOWN_TERM
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.faults.store_model import REPLICAS, StoreLoad, open_model_store

if TYPE_CHECKING:
    from logbroker.storage.node_store import NodeStore

STEPS = 40


@pytest.fixture(scope="module")
def loaded() -> tuple[SimulatedDisk, StoreLoad]:
    disk = SimulatedDisk()
    load = StoreLoad(disk, seed=4)
    load.create()
    for _ in range(STEPS):
        load.step()
    load.seal()
    load.store.close()
    return disk.kill(), load


def wrongs(store: NodeStore, load: StoreLoad) -> tuple[str, int]:
    """What the store says wrongly, and how many entries or replicas it says are damaged or lost."""
    noticed = 0
    for replica in REPLICAS:
        stored = store.replicas.get(replica)
        promise = load.promised[replica]
        if stored is None:
            return f"replica {replica} is gone", noticed
        if stored.lost:
            noticed += 1
            continue
        log = stored.log
        if log.last_index() != len(promise.entries):
            return f"replica {replica} ends at {log.last_index()}, not {len(promise.entries)}", noticed
        for index in range(log.first_index(), log.last_index() + 1):
            wanted = promise.entries[index - 1]
            try:
                (entry,) = log.entries(Index(index), Index(index + 1), max_bytes=1)
            except UnavailableEntryError:
                noticed += 1
                if log.state.damaged.get(Index(index)) not in (wanted.term, UNKNOWN_TERM):
                    return f"entry {index} of replica {replica} is damaged and its term wrong", noticed
                continue
            if entry != wanted:
                return f"entry {index} of replica {replica} is another one", noticed
        if (store.vote(replica) or (0, 0))[0] < promise.vote[0]:
            return f"replica {replica} forgot its vote", noticed
    return "", noticed


def _flipped(disk: SimulatedDisk, path: str, offset: int, bit: int) -> SimulatedDisk:
    copy = disk.copy()
    copy.flip_bit(path, offset, bit)
    return copy


def test_the_undamaged_directory_is_as_promised(loaded: tuple[SimulatedDisk, StoreLoad]) -> None:
    disk, load = loaded
    assert wrongs(open_model_store(disk.copy()), load) == ("", 0)


@pytest.mark.parametrize("prefix", ["wal/", "groups/", "vote.", "flushed."])
def test_a_flipped_bit_never_makes_a_wrong_answer(loaded: tuple[SimulatedDisk, StoreLoad], prefix: str) -> None:
    disk, load = loaded
    chance = random.Random(prefix)
    noticed = 0
    paths = [path for path in disk.paths() if path.startswith(prefix)]
    assert paths
    for path in paths:
        size = disk.size(path)
        for offset in sorted(chance.sample(range(size), min(size, 40))):
            store = open_model_store(_flipped(disk, path, offset, chance.randrange(8)))
            wrong, seen = wrongs(store, load)
            assert wrong == "", f"{path} at {offset}: {wrong}"
            noticed += seen > 0
            store.close()
    # Two copies hide a flip; in logs many of the flips must have been seen.
    assert noticed > 0 or prefix in ("vote.", "flushed.")


def test_both_copies_of_the_flush_record_gone_loses_every_replica_loudly(
    loaded: tuple[SimulatedDisk, StoreLoad],
) -> None:
    disk, _ = loaded
    copy = disk.copy()
    for path in ("flushed.a", "flushed.b"):
        copy.flip_bit(path, 20, 3)
    store = open_model_store(copy)
    assert {replica for replica, stored in store.replicas.items() if stored.lost} == set(REPLICAS)
    assert store.notes


def test_a_vanished_segment_makes_the_replica_lost_and_the_other_goes_on(
    loaded: tuple[SimulatedDisk, StoreLoad],
) -> None:
    disk, load = loaded
    copy = disk.copy()
    path = next(path for path in copy.paths() if path.endswith(".segment"))
    copy.vanish(path)
    store = open_model_store(copy)
    lost = [replica for replica, stored in store.replicas.items() if stored.lost]
    assert len(lost) == 1
    assert wrongs(store, load)[0] == ""


@pytest.mark.parametrize("prefix", ["wal/", "groups/"])
def test_a_fetched_copy_makes_the_log_whole_again(loaded: tuple[SimulatedDisk, StoreLoad], prefix: str) -> None:
    disk, load = loaded
    repaired = 0
    for path in (path for path in disk.paths() if path.startswith(prefix) and not path.endswith(".checkpoint")):
        for offset in range(40, disk.size(path), 1999):
            copy = _flipped(disk, path, offset, 1)
            repaired += _repair_all(open_model_store(copy), load)
            after = open_model_store(copy.kill())
            assert wrongs(after, load)[0] == ""
            assert not any(stored.log.is_damaged for stored in after.replicas.values()), "the repair is durable"
    assert repaired > 3


def _repair_all(store: NodeStore, load: StoreLoad) -> int:
    """Fetch what is damaged from the model, as a peer would send it; nothing is damaged afterwards."""
    assert wrongs(store, load)[0] == ""
    count = 0
    for replica, stored in store.replicas.items():
        for index in list(stored.log.state.damaged):
            job = stored.log.repair(load.promised[replica].entries[index - 1])
            if job is not None:
                job.run()
                stored.log.on_repaired(job)
            count += 1
        mends = [ReplicaWrite(replica, entries=stored.log.mends(1 << 20))] if stored.log.mended else []
        commit = store.plan_commit(mends=mends)
        assert commit is not None
        commit.run()
        store.finish_commit(commit)
        assert not stored.log.is_damaged
    if count:
        assert wrongs(store, load) == ("", 0)
    return count
