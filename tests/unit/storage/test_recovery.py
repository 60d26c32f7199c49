"""Opening a directory: what is believed, what is written again, what is lost and by whom it is told."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import StoreFailedError
from logbroker.ids import GroupId, Index, ReplicaId
from logbroker.raft.log import UnavailableEntryError
from logbroker.storage.ballast import Room
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.flush_record import COPIES
from logbroker.storage.index import DictIndex
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedDisk, on
from logbroker.storage.wal_format import PAGE_BYTES, entry_frame
from tests.unit.storage.snapshot_files import receive
from tests.unit.storage.store_kit import (
    OPTIONS,
    A,
    B,
    checkpoint,
    commit,
    entries,
    entry,
    flush,
    held,
    open_at,
    reopen,
    roll_and_flush,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.wal_format import WalPosition

C = ReplicaId(13)


class Nothing:
    """A power loss that keeps nothing unsynced."""

    def randrange(self, stop: int, /) -> int:
        return 0


def fresh() -> tuple[SimulatedDisk, NodeStore]:
    disk = SimulatedDisk()
    store = open_at(disk)
    commit(store, births=[A, B])
    return disk, store


def flushed(*, sealed: bool = True) -> tuple[SimulatedDisk, NodeStore]:
    """A has 1..4 in a segment and 5..6 in the log, B has 1..2 in the log."""
    disk, store = fresh()
    write(store, *entries(1, 5))
    store.replicas[A].log.committed = Index(4)
    roll_and_flush(store)
    write(store, *entries(5, 7))
    write(store, *entries(1, 3, group=B), replica=B)
    commit(store, seals=sealed)
    return disk, store


def stopped(disk: SimulatedDisk, store: NodeStore) -> SimulatedDisk:
    store.close()
    return disk.kill()


def wal_file(store: NodeStore, use: int) -> str:
    return next(f"wal/{number}.wal" for number, held_use in store._wal._uses.items() if held_use == use)


def scribble_wal(disk: SimulatedDisk) -> None:
    for path in disk.paths():
        if path.startswith("wal/"):
            disk.scribble(path, 0, bytes(disk.size(path)))


def lost(store: NodeStore) -> set[ReplicaId]:
    return {replica for replica, stored in store.replicas.items() if stored.lost}


# Sound directories.


def test_a_stopped_node_finds_everything_again() -> None:
    _, store = reopen(flushed()[0])
    assert held(store.replicas[A].log) == [(index, 1) for index in range(1, 7)]
    assert held(store.replicas[B].log) == [(1, 1), (2, 1)]
    assert (store.notes, lost(store)) == ([], set())


def test_many_restarts_change_nothing_and_the_ring_stays_small() -> None:
    disk, _ = flushed()
    for _ in range(12):
        disk, store = reopen(disk)
        commit(store)
        flush(store)
        assert held(store.replicas[A].log) == [(index, 1) for index in range(1, 7)]
        assert store._wal.file_count <= OPTIONS.wal.max_files + 1


def test_segments_are_cut_to_the_record() -> None:
    """Bytes behind it were written by a flush that nobody was told of."""
    disk, store = flushed()
    path = next(path for path in disk.paths() if path.endswith(".segment"))
    with disk.open(path) as file:
        size = store.replicas[A].log.state.segments[0].length_bytes
        file.pwrite([entry(5, term=9).head + entry(5, term=9).payload], size)
    disk, store = reopen(disk)
    assert disk.size(path) == size
    assert held(store.replicas[A].log)[-2:] == [(5, 1), (6, 1)]


def test_files_that_neither_the_record_nor_the_log_names_are_removed() -> None:
    disk, store = flushed()
    receive(disk, A, 20, 25)
    for name in ("00000000000000000099.segment", "5.checkpoint.tmp", "next.spare"):
        disk.open(f"groups/11-11/{name}", create=True).close()
    disk, store = reopen(disk)
    assert not [path for path in disk.paths() if "11-11.24-1" in path or "99.segment" in path or ".tmp" in path]
    assert lost(store) == set()


def test_what_was_in_the_page_cache_alone_is_durable_before_anything_is_told() -> None:
    disk, _ = flushed(sealed=False)
    killed = disk.kill()
    shown = open_at(killed)
    assert held(shown.replicas[B].log) == [(1, 1), (2, 1)]
    again = open_at(killed.crash(keep=Nothing()))
    assert held(again.replicas[B].log) == [(1, 1), (2, 1)]


def test_room_is_there_for_what_the_log_holds() -> None:
    _, store = reopen(flushed()[0])
    for log in (store.replicas[A].log, store.replicas[B].log):
        assert log.plan_room(0) is None
        log.committed = log.last_index()
    roll_and_flush(store)
    assert store.replicas[A].log.flushed_index == 6


def test_rows_above_the_record_are_deleted_and_missing_ones_are_made() -> None:
    disk, store = flushed()
    index = DictIndex()
    group = GroupId(A)
    open_at(disk.kill(), index=index)
    assert index.count(group, A) == 1
    row = index.floor_by_index(group, A, Index(4))
    assert row is not None
    index.add(group, A, [type(row)(Index(99), row.base_offset, row.append_ms, row.segment_base, row.position)])
    disk, store = flushed()
    store = open_at(disk.kill(), index=index)
    assert index.floor_by_index(group, A, Index(1000)) == row
    assert store.replicas[A].log.index_mismatches == 0


# In WAL order: same term is skipped, another replaces, a gap is damage.


def test_an_overruled_suffix_stays_overruled() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    write(store, *entries(3, 4, term=2))
    write(store, *entries(4, 6, term=3))
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)]


def test_a_gap_makes_the_replica_lost_and_the_other_goes_on() -> None:
    disk, store = fresh()
    write(store, *entries(1, 3))
    store.replicas[A].log.append(entries(3, 6))
    write(store, *entries(6, 8))
    commit(store, seals=True)
    _, again = reopen(disk)
    assert "entries 3..5 are missing" in again.replicas[A].lost
    assert lost(again) == {A}


# Lives.


def test_frames_of_unknown_replicas_are_ignored() -> None:
    disk, store = fresh()
    commit(store, deaths=[A])
    roll_and_flush(store)
    store._wal.commit([entry_frame(A, entry(1)), entry_frame(C, entry(1, group=C))])
    disk, again = reopen(disk)
    assert set(again.replicas) == {B}


def test_a_vote_slot_without_a_birth_is_removed() -> None:
    """The process ended between the slot and the CREATE frame."""
    disk, store = fresh()
    store._votes.add(C)
    _, again = reopen(disk)
    assert set(again.replicas) == {A, B}
    assert again.vote(C) is None


def test_an_install_that_was_not_committed_leaves_the_old_log_alone() -> None:
    disk, _ = flushed()
    receive(disk, A, 20, 25)
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 7)]


def test_a_crash_after_the_old_directory_went_and_before_the_next_record_is_survived() -> None:
    disk, store = flushed()
    commit(store, ReplicaWrite(A, install=receive(disk, A, 20, 25)), seals=True)
    disk, store = reopen(disk)
    assert not disk.exists("groups/11-11")
    disk, store = reopen(disk)
    assert (lost(store), held(store.replicas[A].log)) == (set(), [(index, 1) for index in range(20, 25)])


# Known loss.


def damage_in_wal(at: int) -> tuple[SimulatedDisk, NodeStore, WalPosition]:
    """Entries 5..6 of A lie in one durable commit, of which a byte rots."""
    disk, store = flushed(sealed=False)
    disk, store = reopen(disk)
    where = store._wal.position
    write(store, *entries(7, 9))
    write(store, *entries(9, 10))
    commit(store, seals=True)
    disk.flip_bit(wal_file(store, where.use), where.offset + at, 2)
    return disk, store, where


def test_a_rotten_entry_in_the_log_is_known_by_index_and_term() -> None:
    disk, _, _ = damage_in_wal(400)
    disk, store = reopen(disk)
    log = store.replicas[A].log
    assert (lost(store), log.last_index(), log.state.damaged) == (set(), 9, {8: 1})
    assert any("entry 8 of replica 11 is damaged" in note for note in store.notes)
    with pytest.raises(UnavailableEntryError):
        log.entries(Index(8), Index(10), max_bytes=1)
    assert log.repair(entry(8)) is None
    commit(store, mends=[ReplicaWrite(A, entries=log.mends(1))])
    assert held(log) == [(index, 1) for index in range(1, 10)]
    _, store = reopen(disk)
    assert held(store.replicas[A].log) == [(index, 1) for index in range(1, 10)]


def test_known_loss_is_still_known_after_another_restart() -> None:
    disk, _, _ = damage_in_wal(400)
    for _ in range(3):
        disk, store = reopen(disk)
        assert store.replicas[A].log.state.damaged == {8: 1}


def test_an_entry_that_was_written_again_behind_its_damaged_copy_is_whole() -> None:
    """A carried copy, or the one that a restart wrote again, has the same index and term."""
    disk, store = fresh()
    write(store, *entries(1, 3))
    where = store._wal.position
    write(store, *entries(3, 5))
    use = where.use
    store._wal.make_room()
    store._wal.roll()
    store._wal.commit([entry_frame(A, one) for one in entries(1, 5)])
    store._wal.seal()
    disk.flip_bit(wal_file(store, use), where.offset + 400, 1)
    _, again = reopen(disk)
    assert (lost(again), again.replicas[A].log.is_damaged) == (set(), False)
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 5)]


# Unknown loss: for good.


def _lose_stretch(disk: SimulatedDisk, store: NodeStore) -> None:
    where = store._wal.position
    write(store, *entries(7, 9))
    write(store, *entries(9, 11))
    commit(store, seals=True)
    disk.scribble(wal_file(store, where.use), where.offset, bytes(PAGE_BYTES))


def _lose_ring(disk: SimulatedDisk, store: NodeStore) -> None:
    scribble_wal(disk)


def _lose_record(disk: SimulatedDisk, store: NodeStore) -> None:
    for copy in COPIES:
        disk.flip_bit(copy, 20, 3)


@pytest.mark.parametrize("lose", [_lose_stretch, _lose_ring, _lose_record])
def test_unknown_loss_is_for_good(lose: Callable[[SimulatedDisk, NodeStore], None]) -> None:
    """Whatever is flushed, carried or let go afterwards: a lost voter never comes back as a sound one."""
    disk, store = flushed()
    lose(disk, store)
    for restart in range(4):
        disk, store = reopen(disk)
        assert set(store.replicas) == lost(store) == {A, B}, restart
        roll_and_flush(store)
    commit(store, births=[C])
    disk, store = reopen(disk)
    assert lost(store) == {A, B}
    assert set(store.replicas) == {A, B, C}
    assert [path for path in disk.paths() if path.startswith("groups/11-11/")], "what is lost is not deleted"


def test_a_lost_replica_goes_when_the_catalogue_says_so() -> None:
    disk, store = flushed()
    _lose_ring(disk, store)
    disk, store = reopen(disk)
    commit(store, deaths=[A])
    disk, store = reopen(disk)
    assert set(store.replicas) == {B}
    roll_and_flush(store)
    disk, store = reopen(disk)
    assert set(store.replicas) == {B}
    assert not disk.exists("groups/11-11")


@pytest.mark.parametrize("copies", [1, 2])
def test_a_replica_whose_birth_was_in_the_lost_part_is_lost_too(copies: int) -> None:
    """Its vote slot is all that is left of it; forgotten, its id would be given to an empty voter."""
    disk, store = fresh()
    write(store, *entries(1, 3))
    commit(store, seals=True)
    scribble_wal(disk)
    for _ in range(copies):
        disk, store = reopen(disk)
        assert lost(store) == {A, B}
        roll_and_flush(store)


def test_who_was_born_after_the_unreadable_stretch_is_sound() -> None:
    disk, store = flushed()
    where = store._wal.position
    write(store, *entries(7, 9))
    commit(store, births=[C])
    write(store, *entries(1, 3, group=C), replica=C)
    commit(store, seals=True)
    disk.scribble(wal_file(store, where.use), where.offset, bytes(PAGE_BYTES))
    _, again = reopen(disk)
    assert lost(again) == {A, B}
    assert held(again.replicas[C].log) == [(1, 1), (2, 1)]


@pytest.mark.parametrize("kind", ["CREATE", "INSTALL"])
def test_a_damaged_life_frame_loses_its_replica_alone(kind: str) -> None:
    disk, store = flushed()
    where = store._wal.position
    if kind == "CREATE":
        commit(store, births=[C])
    else:
        commit(store, births=[C])
        where = store._wal.position
        commit(store, ReplicaWrite(C, install=receive(disk, C, 4, 6)))
    commit(store, seals=True)
    path = wal_file(store, where.use)
    with disk.open(path) as file:
        at = file.pread(PAGE_BYTES, where.offset).rindex(b"conf" if kind == "CREATE" else b"groups/13-13.5-1")
    disk.flip_bit(path, where.offset + at, 0)
    _, again = reopen(disk)
    assert lost(again) == {C}
    assert f"its {kind} frame is damaged" in again.replicas[C].lost


@pytest.mark.parametrize("size", [0, 50, 300])
def test_a_segment_that_was_cut_short_makes_its_replica_lost(size: int) -> None:
    disk, store = flushed()
    disk = stopped(disk, store)
    path = next(path for path in disk.paths() if path.endswith(".segment"))
    disk.cut_short(path, size)
    disk, again = reopen(disk)
    assert lost(again) == {A}
    assert f"{path} has {size} bytes of the" in again.replicas[A].lost
    roll_and_flush(again)
    _, again = reopen(disk)
    assert lost(again) == {A}


@pytest.mark.parametrize("victim", ["wal", "vote", "one vote"])
def test_files_that_vanished_are_noticed_or_mended(victim: str) -> None:
    disk, store = flushed()
    disk = stopped(disk, store)
    if victim == "wal":
        disk.vanish(wal_file(store, store._wal.position.use))
        assert lost(open_at(disk)) == {A, B}
    elif victim == "vote":
        disk.vanish("vote.a")
        disk.vanish("vote.b")
        assert lost(open_at(disk)) == {A, B}
    else:
        disk.vanish("vote.a")
        again = open_at(disk)
        assert lost(again) == set()
        assert disk.is_synced("vote.a")


def test_a_spare_ring_file_that_vanished_is_made_again() -> None:
    disk, store = flushed()
    free = next(number for number, use in store._wal._uses.items() if use == 0)
    disk = stopped(disk, store)
    disk.vanish(f"wal/{free}.wal")
    again = open_at(disk)
    assert lost(again) == set()
    assert disk.size(f"wal/{free}.wal") == OPTIONS.wal.file_bytes


def test_a_ring_file_whose_name_was_never_synced_keeps_its_name_once_it_is_used() -> None:
    """A process is killed while it makes one, the next one finds it and writes into it, and the power goes."""
    disk, store = fresh()
    write(store, *entries(1, 3))
    with disk.open("wal/4.wal", create=True) as file:
        file.zero_fill(OPTIONS.wal.file_bytes)
    disk = disk.kill()
    store = open_at(disk)
    index = 3
    while store._wal._uses[4] != store._wal.position.use:
        write(store, *entries(index, index + 1, size=1500))
        index += 1
        assert index < 100
    after = open_at(disk.crash(keep=Nothing()))
    assert lost(after) == set()
    assert held(after.replicas[A].log) == [(one, 1) for one in range(1, index)]


@pytest.mark.parametrize("has_segments", [False, True])
def test_a_missing_directory_loses_that_replica_alone(has_segments: bool) -> None:
    disk, store = fresh()
    write(store, *entries(1, 5))
    if has_segments:
        store.replicas[A].log.committed = Index(4)
        roll_and_flush(store)
    commit(store, seals=True)
    disk = stopped(disk, store)
    disk.vanish("groups/11-11")
    assert lost(open_at(disk)) == {A}


# Checkpoints.


def test_the_newest_whole_checkpoint_is_taken() -> None:
    disk, store = flushed()
    checkpoint(store, 3)
    checkpoint(store, 4)
    disk, again = reopen(disk)
    stored = again.replicas[A]
    assert stored.checkpoint is not None
    assert (stored.checkpoint[0].index, stored.newest_checkpoint, stored.kept_log_starts) == (4, 4, [1, 1])
    disk.flip_bit("groups/11-11/4.checkpoint", 80, 1)
    disk, again = reopen(disk)
    stored = again.replicas[A]
    assert stored.checkpoint is not None
    assert (stored.checkpoint[0].index, stored.newest_checkpoint) == (3, 4)
    assert any("4.checkpoint" in note for note in again.notes)
    assert stored.lost == ""


def test_no_readable_checkpoint_is_no_matter_while_the_log_is_whole() -> None:
    disk, store = flushed()
    checkpoint(store, 4)
    disk.flip_bit("groups/11-11/4.checkpoint", 80, 1)
    _, again = reopen(disk)
    assert (again.replicas[A].checkpoint, again.replicas[A].lost) == (None, "")


def test_no_readable_checkpoint_and_a_log_without_its_beginning_is_loss() -> None:
    disk, store = fresh()
    commit(store, ReplicaWrite(A, install=receive(disk, A, 20, 25)), seals=True)
    disk.flip_bit("groups/11-11.24-1/24.checkpoint", 80, 1)
    _, again = reopen(disk)
    assert "no readable checkpoint, and the log begins at index 20" in again.replicas[A].lost


def test_a_checkpoint_ahead_of_the_log_is_loss() -> None:
    disk, store = flushed()
    checkpoint(store, 6)
    path = next(path for path in disk.paths() if path.endswith(".segment"))
    assert path
    with disk.open("groups/11-11/6.checkpoint") as file:
        content = file.pread(file.size(), 0)
    other, fewer = fresh()
    write(fewer, *entries(1, 4))
    commit(fewer, seals=True)
    with other.open("groups/11-11/6.checkpoint", create=True) as file:
        file.pwrite([content], 0)
    _, again = reopen(other)
    assert "a checkpoint lies ahead of the log's last index 3" in again.replicas[A].lost


# A full or failing disk.


def test_a_node_starts_on_a_full_disk_by_its_ballast() -> None:
    disk, store = flushed()
    commit(store, room=Room.AMPLE)
    disk = stopped(disk, store)
    disk.capacity_bytes -= disk.space().free_bytes
    assert disk.space().free_bytes == 0
    again = open_at(disk)
    assert lost(again) == set()
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 7)]
    for log in (again.replicas[A].log, again.replicas[B].log):
        assert log.plan_room(0) is None


def test_a_sync_that_fails_in_recovery_is_not_started_over() -> None:
    disk, _ = flushed()
    disk = disk.kill()
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC, below="wal/")))
    with pytest.raises(StoreFailedError):
        open_at(disk)
    again = open_at(disk.crash(keep=random.Random(1)))
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 7)]
