"""The flusher's jobs: each step durable before the next, and every one of them good for a second run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import DiskFullError, StoreFailedError
from logbroker.ids import GroupId, Index, Term
from logbroker.storage.flush import (
    INDEX_BLOCK_BYTES,
    IndexRebuild,
    rebuild_rows,
    remove_tree,
    rows_of,
    state_rows,
)
from logbroker.storage.flush_record import read_record
from logbroker.storage.index import DictIndex
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentRow
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, on
from tests.unit.storage.store_kit import (
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
    from logbroker.storage.node_store import NodeStore


def planned() -> tuple[SimulatedDisk, NodeStore, DictIndex]:
    """Two replicas with committed entries and a flush that waits."""
    disk, index = SimulatedDisk(), DictIndex()
    store = open_at(disk, index=index)
    commit(store, births=[A, B])
    write(store, *entries(1, 5))
    write(store, *entries(1, 3, group=B), replica=B)
    store.replicas[A].log.committed = Index(3)
    store.replicas[B].log.committed = Index(2)
    store.request_roll()
    commit(store)
    return disk, store, index


def test_a_flush_moves_what_is_committed_and_names_it_in_the_record() -> None:
    disk, store, index = planned()
    use = store.replicas[A].log
    assert flush(store)
    record = read_record(disk, store.identity.salt_crc)
    assert record is not None
    assert record == state_rows(
        [store.replicas[A].log.state, store.replicas[B].log.state], sequence=2, wal_use=record.wal_use
    )
    assert [segment.last_index for segment in use.state.segments] == [3]
    assert [one.index for one in use.state.tail] == [4]
    assert index.count(use.group, A) == index.count(store.replicas[B].log.group, B) == 1
    assert held(use) == [(1, 1), (2, 1), (3, 1), (4, 1)]


def test_segments_are_durable_with_their_names_before_the_record_names_them() -> None:
    disk, store, _ = planned()
    trace = disk.start_trace()
    assert flush(store)
    acts = [(operation.action, operation.path) for operation in trace]
    record = next(place for place, (_, path) in enumerate(acts) if path.startswith("flushed."))
    for replica in (A, B):
        spare = f"groups/{replica}-{replica}/next.spare"
        assert acts.index((Action.SYNC, spare)) < record
        assert acts.index((Action.SYNC_DIR, f"groups/{replica}-{replica}")) < record


def test_a_crash_at_every_change_of_a_flush_loses_nothing() -> None:
    counting, store, _ = planned()
    before = counting.change_count
    flush(store)
    for change in range(before + 1, counting.change_count + 1):
        disk, store, _ = planned()
        disk.crash_before(change)
        with pytest.raises(SimulatedCrash):
            flush(store)
        for seed in range(3):
            again = open_at(disk.copy().crash(keep=random.Random(seed)))
            assert {r: stored.lost for r, stored in again.replicas.items()} == {A: "", B: ""}, change
            # The last commit was the empty one of the roll: all before it was known durable.
            assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 5)], change
            assert held(again.replicas[B].log) == [(1, 1), (2, 1)], change


@pytest.mark.parametrize("below", ["flushed.a", "flushed.b"])
def test_a_flush_that_finds_no_room_for_its_record_is_run_again(below: str) -> None:
    disk, store, _ = planned()
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, below=below)))
    job = store.take_flush()
    assert job is not None
    with pytest.raises(DiskFullError):
        job.run()
    store.retry_flush(job)
    assert flush(store)
    assert held(store.replicas[A].log) == [(index, 1) for index in range(1, 5)]
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 5)]


def test_a_failed_sync_of_a_segment_ends_the_node_before_the_record_is_written() -> None:
    disk, store, _ = planned()
    before = read_record(disk, store.identity.salt_crc)
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC, below="groups/")))
    job = store.take_flush()
    assert job is not None
    with pytest.raises(StoreFailedError):
        job.run()
    assert read_record(disk, store.identity.salt_crc) == before
    after = disk.crash(keep=random.Random(1))
    assert held(open_at(after).replicas[A].log) == [(index, 1) for index in range(1, 5)]


def test_dropped_segments_are_unlinked_after_the_record_and_leave_the_index() -> None:
    disk, store, index = planned()
    assert flush(store)
    log = store.replicas[A].log
    log.close()
    write(store, *entries(5, 9))
    log.committed = Index(8)
    roll_and_flush(store)
    checkpoint(store, 6, log_start=4)
    checkpoint(store, 8, log_start=5)
    roll_and_flush(store)
    assert [segment.base_index for segment in log.state.segments] == [4]
    assert (log.first_index(), log.term(Index(3))) == (4, 1)
    assert sum(path.startswith("groups/11-11/0") for path in disk.paths()) == 1
    assert index.floor_by_index(log.group, A, Index(3)) is None


def test_a_crash_at_every_change_while_segments_are_dropped_keeps_what_the_record_names() -> None:
    def ready() -> tuple[SimulatedDisk, NodeStore]:
        disk, store, _ = planned()
        flush(store)
        store.replicas[A].log.close()
        write(store, *entries(5, 9))
        store.replicas[A].log.committed = Index(8)
        roll_and_flush(store)
        checkpoint(store, 6, log_start=4)
        checkpoint(store, 8, log_start=5)
        store.request_roll()
        commit(store)
        return disk, store

    counting, store = ready()
    before = counting.change_count
    flush(store)
    for change in range(before + 1, counting.change_count + 1):
        disk, store = ready()
        disk.crash_before(change)
        with pytest.raises(SimulatedCrash):
            flush(store)
        stored = open_at(disk.crash(keep=random.Random(change))).replicas[A]
        assert stored.lost == "", change
        assert held(stored.log)[-5:] == [(index, 1) for index in range(4, 9)], change


def test_rows_are_one_for_each_block_and_begin_with_the_piece() -> None:
    new = [entry(1, kind=EntryKind.NOOP, size=0, base=0), *entries(2, 100, size=1500)]
    rows = rows_of(new, SegmentRow(Index(1), Index(99), Term(1), 1), SEGMENT_HEADER_BYTES)
    assert rows[0].index == 1
    assert rows[1].position - rows[0].position >= INDEX_BLOCK_BYTES
    assert len(rows) == pytest.approx(98 * 1560 / INDEX_BLOCK_BYTES, abs=2)


def test_a_state_entry_begins_no_block_of_its_own() -> None:
    new = [
        entry(1),
        *(entry(index, kind=EntryKind.STATE, size=9000, base=1) for index in range(2, 6)),
        entry(6, base=1),
    ]
    rows = rows_of(new, SegmentRow(Index(1), Index(6), Term(1), 1), SEGMENT_HEADER_BYTES)
    assert [row.index for row in rows] == [1, 6]


def test_a_rebuild_makes_the_rows_that_the_flush_made() -> None:
    disk, store, index = planned()
    flush(store)
    state = store.replicas[A].log.state
    made = index.floor_by_index(state.group, A, Index(3))
    rebuild = IndexRebuild(state.group, A, state.directory, tuple(state.segments))
    assert rebuild_rows(disk, index, rebuild) == []
    assert index.floor_by_index(state.group, A, Index(3)) == made


def test_a_rebuild_over_damage_says_what_it_could_not_read() -> None:
    disk, store, index = planned()
    flush(store)
    state = store.replicas[A].log.state
    disk.flip_bit(f"{state.directory}/{1:020d}.segment", SEGMENT_HEADER_BYTES + 5, 1)
    (note,) = rebuild_rows(disk, index, IndexRebuild(state.group, A, state.directory, tuple(state.segments)))
    assert "head checksum" in note


def test_rows_end_before_an_entry_that_is_missing_until_it_is_mended() -> None:
    """What stands behind it may be a write that landed beside its place; a row would make it look right."""
    disk, index = SimulatedDisk(), DictIndex()
    store = open_at(disk, index=index)
    commit(store, births=[A])
    written = entries(1, 7, size=3350)
    log = store.replicas[A].log
    for one in written:
        write(store, one)
        log.committed = one.index
        flush(store)
    store.request_roll()
    commit(store)
    assert flush(store)
    path = f"{log.state.directory}/{1:020d}.segment"
    third = SEGMENT_HEADER_BYTES + sum(len(one.head) + len(one.payload) for one in written[:2])
    disk.flip_bit(path, third + 5, 1)
    log.note_damage(Index(3))
    log.needs_reindex = True

    def rebuilt_through() -> int:
        store.request_roll()
        commit(store)
        assert flush(store)
        row = index.floor_by_index(log.group, A, Index(6))
        assert row is not None
        return row.index

    assert (rebuilt_through(), log.needs_reindex) == (1, False)
    assert rebuilt_through() == 1
    job = log.repair(written[2])
    assert job is not None
    job.run()
    log.on_repaired(job)
    assert rebuilt_through() == 6
    assert not log.lacks_rows


def test_a_tree_that_is_gone_or_half_gone_is_removed_all_the_same() -> None:
    disk = SimulatedDisk()
    disk.mkdir("d")
    for name in ("a", "b"):
        disk.open(f"d/{name}", create=True).close()
    remove_tree(disk, "d")
    remove_tree(disk, "d")
    assert not disk.exists("d")


def test_a_record_of_states_names_their_directories() -> None:
    _, store, _ = planned()
    record = state_rows([store.replicas[A].log.state], sequence=4, wal_use=9)
    assert [(row.replica, row.directory, row.group) for row in record.replicas] == [(A, "groups/11-11", GroupId(A))]
