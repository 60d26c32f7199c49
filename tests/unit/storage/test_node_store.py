"""Commits, boundaries, flushes and lives of replicas, as one thread plans them and two carry them out."""

from __future__ import annotations

import pytest

from logbroker.errors import DiskFullError, InvariantError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.storage.ballast import Room
from logbroker.storage.checkpoints import CheckpointHeader, checkpoint_path
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.flush_record import SegmentEntry, read_record
from logbroker.storage.lives import InstallBody
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedDisk, on
from logbroker.storage.wal import WalOptions
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

C = ReplicaId(13)


def fresh(*births: ReplicaId) -> tuple[SimulatedDisk, NodeStore]:
    disk = SimulatedDisk()
    store = open_at(disk)
    commit(store, births=births or (A, B))
    return disk, store


# Commits.


def test_entries_are_seen_only_when_their_commit_is_finished() -> None:
    _, store = fresh()
    job = store.plan_commit([ReplicaWrite(A, entries=entries(1, 3))])
    assert job is not None
    job.run()
    assert store.replicas[A].log.last_index() == 0
    store.finish_commit(job)
    assert held(store.replicas[A].log) == [(1, 1), (2, 1)]


def test_one_commit_at_a_time() -> None:
    _, store = fresh()
    job = store.plan_commit([ReplicaWrite(A, entries=entries(1, 3))])
    assert job is not None
    assert store.is_committing
    with pytest.raises(InvariantError, match="while another runs"):
        store.plan_commit()
    with pytest.raises(InvariantError, match="not the one running"):
        store.finish_commit(object())  # type: ignore[arg-type]  # a stranger


def test_votes_are_durable_in_both_copies_before_the_entries_of_the_same_step() -> None:
    disk, store = fresh()
    trace = disk.start_trace()
    commit(store, ReplicaWrite(A, (Term(3), B), entries(1, 2)))
    acts = [(operation.action, operation.path) for operation in trace if operation.action is Action.SYNC]
    wal = next(place for place, (_, path) in enumerate(acts) if path.startswith("wal/"))
    assert [path for _, path in acts[:wal]][-2:] == ["vote.a", "vote.b"]
    assert store.vote(A) == (3, B)
    assert store.vote(C) is None


def test_a_vote_alone_writes_nothing_to_the_log() -> None:
    disk, store = fresh()
    trace = disk.start_trace()
    commit(store, ReplicaWrite(A, (Term(3), B)))
    assert not [operation for operation in trace if operation.path.startswith("wal/")]
    _, again = reopen(disk)
    assert again.vote(A) == (3, B)


def test_a_commit_of_all_groups_is_one_sync_of_the_log() -> None:
    disk, store = fresh()
    write(store, *entries(1, 2))
    write(store, *entries(1, 2, group=B), replica=B)
    trace = disk.start_trace()
    commit(store, ReplicaWrite(A, entries=entries(2, 4)), ReplicaWrite(B, entries=entries(2, 4, group=B)))
    assert sum(operation.action is Action.SYNC for operation in trace) == 1


def test_a_seal_is_an_empty_commit() -> None:
    _, store = fresh()
    write(store, *entries(1, 2))
    sealed = [store.is_sealed]
    commit(store, seals=True)
    sealed.append(store.is_sealed)
    assert sealed == [False, True]


# Births and deaths.


def test_a_birth_is_durable_before_anything_is_known_of_it() -> None:
    disk, _ = fresh(A)
    again = open_at(disk.crash(keep=Never()))
    assert set(again.replicas) == {A}
    assert again.replicas[A].log.state.initial_conf == b"conf"
    assert again.vote(A) == (0, 0)


class Never:
    """Nothing unsynced is kept."""

    def randrange(self, stop: int, /) -> int:
        return 0


def test_a_death_is_durable_before_the_first_unlink() -> None:
    disk, store = fresh()
    write(store, *entries(1, 5))
    store.replicas[A].log.committed = Index(4)
    roll_and_flush(store)
    commit(store, deaths=[A])
    assert any(path.startswith("groups/11-11/") for path in disk.paths())
    assert set(open_at(disk.copy().crash(keep=Never())).replicas) == {B}
    roll_and_flush(store)
    assert not disk.exists("groups/11-11")
    assert store.vote(A) is None


def test_a_group_may_be_deleted_and_made_again_under_a_new_replica_in_one_ring() -> None:
    disk, store = fresh(A)
    write(store, *entries(1, 5))
    commit(store, deaths=[A])
    commit(store, births=[C])
    write(store, *entries(1, 3, group=C), replica=C)
    disk, again = reopen(disk)
    assert set(again.replicas) == {C}
    assert held(again.replicas[C].log) == [(1, 1), (2, 1)]
    roll_and_flush(again)
    disk, again = reopen(disk)
    assert set(again.replicas) == {C}


def test_a_birth_that_finds_no_room_may_be_planned_again() -> None:
    disk, store = fresh(A)
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.MKDIR, below="groups/12")))
    with pytest.raises(DiskFullError):
        commit(store, births=[B])
    job = store._commit
    assert job is not None
    assert not job.has_begun
    store.abandon_commit(job)
    commit(store, births=[B])
    assert set(store.replicas) == {A, B}


# Boundaries: the log from a new file on is complete.


def test_a_boundary_flushes_what_is_committed_and_carries_the_rest() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    write(store, *entries(1, 3, group=B), replica=B)
    store.replicas[A].log.committed = Index(3)
    store.request_roll()
    job = store.plan_commit()
    assert job is not None
    assert [(frame.replica, frame.index) for frame in job.carried] == [(A, 4), (A, 5), (B, 1), (B, 2)]
    job.run()
    store.finish_commit(job)
    assert flush(store)
    record = read_record(disk, store.identity.salt_crc)
    assert record is not None
    for number in range(1, 6):
        if disk.exists(f"wal/{number}.wal") and store._wal._uses[number] != record.wal_use:
            disk.scribble(f"wal/{number}.wal", 0, bytes(OPTIONS.wal.file_bytes))
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(index, 1) for index in range(1, 6)]
    assert held(again.replicas[B].log) == [(1, 1), (2, 1)]


def test_a_carried_entry_that_is_overruled_in_the_same_file_stays_overruled() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    roll_and_flush(store)
    write(store, *entries(3, 5, term=2))
    disk, again = reopen(disk)
    assert held(again.replicas[A].log) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    roll_and_flush(again)
    write(again, *entries(2, 4, term=3))
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(1, 1), (2, 3), (3, 3)]


def test_there_is_no_boundary_where_the_carried_entries_do_not_fit() -> None:
    _, store = fresh()
    for start in range(1, 31):
        write(store, *entries(start, start + 1, size=1500))
        flush(store)
    assert store._wal.file_count > OPTIONS.wal.initial_files, "the ring grows instead"
    store.replicas[A].log.committed = Index(30)
    roll_and_flush(store)
    assert store.replicas[A].log.flushed_index == 30


def test_old_files_go_back_to_the_ring_when_the_flush_is_done() -> None:
    _, store = fresh()
    for index in range(1, 60):
        write(store, *entries(index, index + 1, size=1500))
        store.replicas[A].log.committed = Index(index)
        flush(store)
    assert store._wal.file_count <= OPTIONS.wal.initial_files + 1


def test_a_flush_waits_for_the_commit_that_carries_for_it() -> None:
    _, store = fresh()
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    store.request_roll()
    job = store.plan_commit()
    assert job is not None
    assert store.take_flush() is None
    job.run()
    store.finish_commit(job)
    assert store.take_flush() is not None
    assert store.take_flush() is None


def test_no_second_boundary_while_a_flush_is_under_way() -> None:
    _, store = fresh()
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    store.request_roll()
    commit(store)
    job = store.take_flush()
    assert job is not None
    store.request_roll()
    rolls = [store.wants_roll]
    write(store, *entries(6, 8))
    job.run()
    store.finish_flush(job)
    rolls.append(store.wants_roll)
    assert rolls == [False, True]


def test_damage_above_the_flushed_index_is_carried_as_what_it_is() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    log = store.replicas[A].log
    log.committed = Index(5)
    log.state.damaged[Index(4)] = Term(1)
    roll_and_flush(store)
    assert log.flushed_index == 3
    disk, store = reopen(disk)
    log = store.replicas[A].log
    assert (log.state.damaged, log.last_index(), store.replicas[A].lost) == ({4: 1}, 5, "")
    assert log.repair(entry(4)) is None
    commit(store, mends=[ReplicaWrite(A, entries=log.mends(1))])
    log.committed = Index(5)
    roll_and_flush(store)
    assert log.flushed_index == 5


def test_a_full_ring_stalls_commits_until_the_flush_is_done() -> None:
    _, store = fresh()
    index = 0
    late = None
    while True:
        index += 1
        job = store.plan_commit([ReplicaWrite(A, entries=entries(index, index + 1, size=1500))])
        if job is None:
            break
        job.run()
        store.finish_commit(job)
        store.replicas[A].log.committed = Index(index)
        late = late or store.take_flush()
    assert late is not None
    stalled = [store.is_stalled]
    assert store._wal.file_count == OPTIONS.wal.max_files
    late.run()
    store.finish_flush(late)
    write(store, *entries(index, index + 1, size=1500))
    stalled.append(store.is_stalled)
    assert stalled == [True, False]
    assert held(store.replicas[A].log) == [(one, 1) for one in range(1, index + 1)]


def test_an_abandoned_roll_plans_its_flush_again() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.MKDIR, below="groups/13")))
    store.request_roll()
    with pytest.raises(DiskFullError):
        commit(store, births=[C])
    job = store._commit
    assert job is not None
    store.abandon_commit(job)
    assert store.take_flush() is None
    roll_and_flush(store)
    assert store.replicas[A].log.flushed_index == 5


def test_an_abandoned_roll_keeps_what_it_meant_to_remove() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    commit(store, deaths=[A])
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.MKDIR, below="groups/13")))
    store.request_roll()
    with pytest.raises(DiskFullError):
        commit(store, births=[C])
    job = store._commit
    assert job is not None
    store.abandon_commit(job)
    roll_and_flush(store)
    assert not disk.exists("groups/11-11")


def test_flushes_go_on_under_steady_load() -> None:
    """The shell plans the next commit before it asks for background work: there is always a commit under way."""
    _, store = fresh()
    flushes = 0
    for index in range(1, 200):
        job = store.plan_commit([ReplicaWrite(A, entries=entries(index, index + 1, size=3000))])
        assert job is not None
        flush_job = store.take_flush()
        if flush_job is not None:
            flush_job.run()
            store.finish_flush(flush_job)
            flushes += 1
        job.run()
        store.finish_commit(job)
        store.replicas[A].log.committed = store.replicas[A].log.last_index()
    assert flushes > 5
    assert store._wal.file_count <= OPTIONS.wal.max_files


def test_the_ring_keeps_its_bound_though_nobody_takes_the_planned_flush() -> None:
    _, store = fresh()
    index = 1
    while (job := store.plan_commit([ReplicaWrite(A, entries=entries(index, index + 1, size=3000))])) is not None:
        job.run()
        store.finish_commit(job)
        store.replicas[A].log.committed = Index(index)
        index += 1
        assert index < 200
    assert store.is_stalled
    assert store._wal.file_count <= OPTIONS.wal.max_files
    assert flush(store)
    write(store, *entries(index, index + 1))


def fill_ring(store: NodeStore, *, late: bool = False) -> int:
    """Write until the ring is full; returns the next index.

    With `late` all is committed and a flush is planned that nobody takes, otherwise nothing is, and it fits no file.
    """
    index = 1
    while (job := store.plan_commit([ReplicaWrite(A, entries=entries(index, index + 1, size=1500))])) is not None:
        job.run()
        store.finish_commit(job)
        if late:
            store.replicas[A].log.committed = Index(index)
        else:
            flush(store)
        index += 1
        assert index < 200
    return index


def test_what_has_to_be_carried_gets_a_file_of_its_own_where_writes_leave_no_place_for_it() -> None:
    """Who holds uncommitted entries may wait for others, and they for what is to be written here."""
    _, store = fresh()
    index = fill_ring(store)
    log = store.replicas[A].log
    # What others have not committed yet is 26 KB: a file has place for it, but not beside 8 KB more.
    log.committed = Index(log.last_index() - 16)
    large = ReplicaWrite(A, entries=entries(index, index + 5, size=1500))
    assert store.plan_commit([large]) is None
    job = store.plan_carrying()
    assert job is not None
    assert (job.writes, store.is_stalled) == ((), False)
    job.run()
    assert store.finish_commit(job) == set()
    assert flush(store)
    commit(store, large)
    assert held(log) == [(one, 1) for one in range(1, index + 5)]


def test_nothing_is_carried_while_a_flush_is_late_or_where_it_does_not_fit() -> None:
    _, store = fresh()
    fill_ring(store, late=True)
    assert store.plan_carrying() is None
    assert store.is_stalled
    _, store = fresh()
    fill_ring(store)
    assert store.plan_carrying() is None
    assert store.is_stalled


def test_the_ring_outgrows_its_bound_where_too_much_is_uncommitted_to_be_carried() -> None:
    """After a restart what was committed is not known, and what tells is a vote or an entry that needs a place."""
    _, store = fresh()
    index = fill_ring(store)
    assert store.plan_carrying() is None
    commit(store, ReplicaWrite(A, entries=entries(index, index + 1, size=1500)))
    assert store._wal.file_count == OPTIONS.wal.max_files + 1
    log = store.replicas[A].log
    log.committed = Index(index)
    store.request_roll()
    commit(store)
    assert flush(store)
    commit(store, ReplicaWrite(A, entries=entries(index + 1, index + 2, size=1500)))
    assert store._wal.file_count <= OPTIONS.wal.max_files + 2
    assert held(log) == [(one, 1) for one in range(1, index + 2)]


def test_the_ring_outgrows_its_bound_by_as_many_files_at_most() -> None:
    _, store = fresh()
    index = fill_ring(store)
    for _ in range(200):
        job = store.plan_commit([ReplicaWrite(A, entries=entries(index, index + 1, size=1500))])
        if job is None:
            if store.plan_carrying() is None and not store._wal.can_outgrow():
                break
            continue
        job.run()
        store.finish_commit(job)
        index += 1
    assert store.is_stalled
    assert store._wal.file_count == 2 * OPTIONS.wal.max_files


def test_a_new_log_gets_its_first_file_though_the_ring_is_full() -> None:
    """Nothing is flushed before every log has a file, and no commit finds a place before something is flushed."""
    _, store = fresh()
    index = fill_ring(store)
    store.replicas[A].log.committed = Index(index - 1)
    store._short_of_room.add(A)
    large = ReplicaWrite(A, entries=entries(index, index + 5, size=1500))
    assert store.plan_commit([large]) is None
    job = store.plan_carrying()
    assert job is not None
    assert (job.rolls, store.is_stalled) == (False, True)
    job.run()
    store.finish_commit(job)
    assert store.plan_commit([large]) is not None


def test_an_abandoned_commit_that_does_not_roll_keeps_the_planned_flush() -> None:
    _, store = fresh()
    write(store, *entries(1, 5))
    store.replicas[A].log.committed = Index(4)
    store.request_roll()
    commit(store)
    job = store.plan_commit([ReplicaWrite(A, entries=entries(5, 6))])
    assert job is not None
    store.abandon_commit(job)
    assert flush(store)


@pytest.mark.parametrize("end", ["death", "install"])
def test_a_log_that_ends_in_the_commit_that_rolls_does_not_spoil_the_flush(end: str) -> None:
    """Its files are targets of the flush that waits."""
    disk, store = fresh()
    write(store, *entries(1, 5))
    store.replicas[A].log.committed = Index(4)
    store.request_roll()
    if end == "death":
        commit(store, deaths=[A])
    else:
        commit(store, ReplicaWrite(A, install=receive(disk, A, 6, 10)))
    write(store, *entries(1, 2, group=B), replica=B)
    assert flush(store)
    write(store, *entries(2, 3, group=B), replica=B)
    roll_and_flush(store)
    _, again = reopen(disk)
    assert held(again.replicas[B].log) == [(1, 1), (2, 1)]
    assert {r: stored.lost for r, stored in again.replicas.items()} == ({B: ""} if end == "death" else {A: "", B: ""})


def test_entries_that_come_with_a_snapshot_get_room() -> None:
    disk, store = fresh()
    commit(store, ReplicaWrite(A, install=receive(disk, A, 6, 10), entries=entries(10, 12)))
    log = store.replicas[A].log
    log.committed = Index(11)
    store.request_roll()
    for index in (12, 13, 14):
        write(store, *entries(index, index + 1))
        flush(store)
    roll_and_flush(store)
    assert held(log) == [(index, 1) for index in range(6, 15)]
    assert log.flushed_index == 11


def test_a_snapshot_of_many_segments_fits_into_a_commit() -> None:
    disk, store = fresh()
    body = receive(disk, A, 6, 10)
    rows = tuple(SegmentEntry(10**9 + n * 1000, 10**9 + n * 1000 + 999, 10**6, 60 << 20) for n in range(1000))
    large = InstallBody(
        body.group, body.directory, body.index, body.term, body.previous_index, body.previous_term, rows
    )
    while store._wal.position.offset < OPTIONS.wal.file_bytes // 2:
        store._wal.commit(())
    job = store.plan_commit([ReplicaWrite(A, install=large)])
    assert job is not None
    job.run()
    assert job.rolls


@pytest.mark.parametrize("what", ["damaged", "lost"])
def test_one_replicas_damage_does_not_hold_up_the_others(what: str) -> None:
    """Its loss is carried, or it is not carried at all; the files go back to the ring."""
    disk, store = fresh()
    where = store._wal.position
    if what == "damaged":
        write(store, *entries(1, 4))
    else:
        for index in range(1, 18):
            write(store, *entries(index, index + 1, size=1500))
        store.replicas[A].log.append(entries(18, 20))
        write(store, *entries(20, 21))
    commit(store, seals=True)
    if what == "damaged":
        number = next(number for number, use in store._wal._uses.items() if use == where.use)
        disk.flip_bit(f"wal/{number}.wal", where.offset + 400, 1)
    disk, store = reopen(disk)
    damaged, loss = dict(store.replicas[A].log.state.damaged), store.replicas[A].lost
    assert bool(damaged) == (not loss) == (what == "damaged")
    files = []
    for index in range(1, 100):
        write(store, *entries(index, index + 1, group=B, size=1500), replica=B)
        store.replicas[B].log.committed = Index(index)
        flush(store)
        files.append(store._wal.file_count)
    assert files[-1] == files[20], "the ring is as large as it was"
    for _ in range(2):
        disk, store = reopen(disk)
        assert (store.replicas[A].log.state.damaged, store.replicas[A].lost) == (damaged, loss)
        assert len(held(store.replicas[B].log)) == 99


# Room.


def test_a_replica_without_room_is_refused_alone() -> None:
    disk, store = fresh()
    write(store, *entries(1, 2, group=B), replica=B)
    # Twice: for what is asked for first, and for what is needed.
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.ALLOCATE, below="groups/11"), times=2))
    refused = commit(store, ReplicaWrite(A, entries=entries(1, 3)), ReplicaWrite(B, entries=entries(2, 4, group=B)))
    assert refused == {A}
    assert store.replicas[A].log.last_index() == 0
    assert held(store.replicas[B].log) == [(1, 1), (2, 1), (3, 1)]
    again = open_at(disk.copy().kill())
    assert again.replicas[A].log.last_index() == 0, "nothing was promised, nothing is there"
    write(store, *entries(1, 3))
    assert held(store.replicas[A].log) == [(1, 1), (2, 1)]


def test_a_refused_replica_still_votes() -> None:
    disk, store = fresh()
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.ALLOCATE, below="groups/11")))
    commit(store, ReplicaWrite(A, (Term(4), A), entries(1, 3)))
    assert store.vote(A) == (4, A)


def test_the_level_of_room_is_what_the_ballast_reached() -> None:
    disk, store = fresh()
    commit(store, room=Room.AMPLE)
    levels = [store.room]
    for level in (Room.LOW, Room.LAST):
        commit(store, room=level)
        levels.append(store.room)
    assert levels == [Room.AMPLE, Room.LOW, Room.LAST]
    assert disk.size("ballast") == 0
    disk.capacity_bytes = disk.capacity_bytes - disk.space().free_bytes + OPTIONS.ballast_bytes // 4
    commit(store, room=Room.AMPLE)
    assert store.room is Room.LOW


# Checkpoints.


def header_at(store: NodeStore, index: int, *, replica: ReplicaId = A) -> CheckpointHeader:
    log = store.replicas[replica].log
    return CheckpointHeader(
        group=log.group,
        replica=replica,
        index=Index(index),
        term=Term(1),
        log_start_offset=0,  # type: ignore[arg-type]  # as in store_kit
        log_start_index=Index(1),
        next_offset=index,  # type: ignore[arg-type]
        append_ms=0,
        conf=b"",
    )


def test_a_checkpoint_is_never_ahead_of_what_is_durable_here() -> None:
    _, store = fresh()
    write(store, *entries(1, 4))
    with pytest.raises(InvariantError, match="lies ahead"):
        store.plan_checkpoint(A, header_at(store, 4), [b""])


def test_one_checkpoint_at_a_time_and_never_an_older_one() -> None:
    _, store = fresh()
    write(store, *entries(1, 6))
    checkpoint(store, 4)
    assert store.plan_checkpoint(A, header_at(store, 3), [b""]) is None
    job = store.plan_checkpoint(A, header_at(store, 5), [b""])
    assert job is not None
    assert store.is_checkpointing
    assert store.plan_checkpoint(B, header_at(store, 0, replica=B), [b""]) is None
    store.finish_checkpoint_failed()
    assert not store.is_checkpointing


def test_segments_go_by_the_older_of_two_checkpoints() -> None:
    _, store = fresh(A)
    for end in (5, 9, 13):
        store.replicas[A].log.close()
        write(store, *entries(end - 4, end))
        store.replicas[A].log.committed = Index(end - 1)
        roll_and_flush(store)
    checkpoint(store, 12, log_start=9)
    droppable = [store.has_droppable(A)]
    write(store, *entries(13, 15))
    checkpoint(store, 13, log_start=9)
    droppable.append(store.has_droppable(A))
    assert droppable == [False, True]
    roll_and_flush(store)
    assert store.replicas[A].log.first_index() >= 5


def test_a_checkpoint_of_a_log_that_was_replaced_meanwhile_does_not_count() -> None:
    disk, store = fresh(A)
    write(store, *entries(1, 6))
    job = store.plan_checkpoint(A, header_at(store, 5), [b"old"])
    assert job is not None
    commit(store, ReplicaWrite(A, install=receive(disk, A, 10, 15)))
    job.run()
    store.finish_checkpoint(job)
    stored = store.replicas[A]
    assert (stored.newest_checkpoint, stored.kept_log_starts) == (14, [10])
    assert disk.exists(checkpoint_path("groups/11-11.14-1", Index(14)))


# Installs.


def test_an_installed_snapshot_is_the_log_from_its_commit_on() -> None:
    disk, store = fresh(A)
    write(store, *entries(1, 6))
    commit(store, ReplicaWrite(A, (Term(2), A), install=receive(disk, A, 10, 15)))
    log = store.replicas[A].log
    assert (log.first_index(), log.last_index(), log.term(Index(9))) == (10, 14, 1)
    write(store, *entries(15, 17))
    after = disk.crash(keep=Never())
    again = open_at(after)
    stored = again.replicas[A]
    assert held(stored.log) == [(index, 1) for index in range(10, 17)]
    assert stored.checkpoint is not None
    assert stored.checkpoint[1] == b"installed"
    assert stored.log.state.initial_conf == b"conf"


def test_the_old_directory_goes_after_the_record_names_the_new_one() -> None:
    disk, store = fresh(A)
    write(store, *entries(1, 6))
    commit(store, ReplicaWrite(A, install=receive(disk, A, 10, 15)))
    assert disk.exists("groups/11-11")
    assert store.wants_roll
    commit(store)
    assert flush(store)
    assert not disk.exists("groups/11-11")
    record = read_record(disk, store.identity.salt_crc)
    assert record is not None
    assert [row.directory for row in record.replicas] == ["groups/11-11.14-1"]


def test_a_second_install_replaces_the_first() -> None:
    disk, store = fresh(A)
    commit(store, ReplicaWrite(A, install=receive(disk, A, 10, 15)))
    commit(store, ReplicaWrite(A, install=receive(disk, A, 20, 23, term=2)))
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(20, 2), (21, 2), (22, 2)]


def test_a_flush_planned_before_an_install_names_the_old_log_and_the_wal_the_new_one() -> None:
    disk, store = fresh(A)
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    store.request_roll()
    commit(store)
    job = store.take_flush()
    assert job is not None
    commit(store, ReplicaWrite(A, install=receive(disk, A, 10, 15)))
    job.run()
    store.finish_flush(job)
    assert held(store.replicas[A].log) == [(index, 1) for index in range(10, 15)]
    _, again = reopen(disk)
    assert held(again.replicas[A].log) == [(index, 1) for index in range(10, 15)]


def test_everything_is_closed_at_the_end() -> None:
    disk, store = fresh()
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    roll_and_flush(store)
    store.close()
    assert held(open_at(disk.kill()).replicas[A].log) == [(index, 1) for index in range(1, 6)]


def test_options_have_the_sizes_of_the_design_page() -> None:
    assert StoreOptions() == StoreOptions(
        WalOptions(32 << 20, 3, 8), LogOptions(64 << 20, 1 << 20, 64 << 20), 64 << 20, 4 << 20
    )
