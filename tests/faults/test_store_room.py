"""No room at every operation that takes any: other groups go on, nothing promised is lost, and room comes back."""

from __future__ import annotations

import random

import pytest

from logbroker.errors import DiskFullError, LogBrokerError, OverloadedError, StoreFailedError
from logbroker.ids import Index
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.simulated_disk import Action, Effect, Fault, Operation, SimulatedDisk, on
from tests.unit.storage.store_kit import A, B, checkpoint, commit, entries, held, open_at, write

STEPS = 30


def takes_room(operation: Operation) -> bool:
    """The ring and the vote slots are written over bytes that are there; all else may find no room."""
    if operation.action is Action.PWRITE:
        return not operation.path.startswith(("wal/", "vote."))
    return operation.action in (Action.CREATE, Action.ALLOCATE, Action.ZERO_FILL, Action.MKDIR)


class Load:
    """Two groups with commits, rolls, flushes and checkpoints; want of room is taken as the engine takes it."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.store = open_at(self.disk)
        commit(self.store, births=[A, B])
        self.promised = {A: 0, B: 0}
        self.waited = 0

    def run(self) -> None:
        for step in range(STEPS):
            self.write(step)
            self.flush()
            if step % 7 == 6:
                self.checkpoint()

    def write(self, step: int) -> None:
        size = (100, 700, 1500)[step % 3]
        new = {
            replica: entries(count + 1, count + 3, group=replica, size=size) for replica, count in self.promised.items()
        }
        while True:
            job = self.store.plan_commit([ReplicaWrite(replica, entries=made) for replica, made in new.items()])
            if job is None:
                self.flush()
                continue
            try:
                job.run()
            except (DiskFullError, OverloadedError):
                assert not job.has_begun, "what has begun may not be given up"
                self.store.abandon_commit(job)
                self.waited += 1
                continue
            refused = self.store.finish_commit(job)
            self.waited += len(refused)
            for replica in new.keys() - refused:
                self.promised[replica] += 2
                self.store.replicas[replica].log.committed = Index(self.promised[replica])
            return

    def flush(self) -> None:
        job = self.store.take_flush()
        if job is None:
            return
        try:
            job.run()
        except DiskFullError:
            self.store.retry_flush(job)
            self.waited += 1
        else:
            self.store.finish_flush(job)

    def checkpoint(self) -> None:
        try:
            checkpoint(self.store, self.promised[A])
        except DiskFullError:
            self.store.finish_checkpoint_failed()
            self.waited += 1


def _traced() -> tuple[int, int]:
    """How many operations of the load take room, and how many are syncs."""
    load = Load()
    trace = load.disk.start_trace()
    load.run()
    return sum(map(takes_room, trace)), sum(operation.action is Action.SYNC for operation in trace)


def _is_whole(load: Load, disk: SimulatedDisk) -> bool:
    store = open_at(disk)
    return all(
        not store.replicas[replica].lost
        and held(store.replicas[replica].log) == [(index, 1) for index in range(1, count + 1)]
        for replica, count in load.promised.items()
    )


def test_no_room_at_any_one_operation_is_waited_for_and_costs_nothing() -> None:
    waited = 0
    for skip in range(0, _traced()[0], 2):
        load = Load()
        fault = load.disk.inject(Fault(effect=Effect.NO_ROOM, matches=takes_room, skip=skip))
        try:
            load.run()
        except StoreFailedError as error:
            pytest.fail(f"operation {skip}: {error}")
        assert fault.struck == 1, skip
        waited += load.waited
        assert _is_whole(load, load.disk.crash(keep=random.Random(skip))), f"operation {skip}"
    assert waited > 10


@pytest.mark.parametrize("times", [2, 5])
def test_no_room_for_a_while_is_waited_for(times: int) -> None:
    for skip in range(5, _traced()[0], 11):
        load = Load()
        load.disk.inject(Fault(effect=Effect.NO_ROOM, matches=takes_room, skip=skip, times=times))
        load.run()
        assert _is_whole(load, load.disk.kill()), f"operation {skip}"


def test_a_disk_that_is_really_full_refuses_one_group_and_serves_the_other() -> None:
    load = Load()
    store, disk = load.store, load.disk
    write(store, *entries(1, 3, group=B), replica=B)
    disk.capacity_bytes -= disk.space().free_bytes
    both = (ReplicaWrite(A, entries=entries(1, 3)), ReplicaWrite(B, entries=entries(3, 5, group=B)))
    assert commit(store, *both) == {A}
    for index in range(5, 8):
        assert commit(store, ReplicaWrite(B, entries=entries(index, index + 1, group=B))) == set()
    disk.capacity_bytes += 1 << 20
    write(store, *entries(1, 3))
    load.promised = {A: 2, B: 7}
    assert _is_whole(load, disk.kill())


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.ERROR_DROPPED])
@pytest.mark.parametrize("machine", ["lives on", "dies too"])
def test_after_a_failed_sync_nothing_more_is_written_and_nothing_promised_is_lost(effect: Effect, machine: str) -> None:
    """The process ends, starts again on what the machine still shows, and then the power goes."""
    for skip in range(0, _traced()[1], 3):
        load = Load()
        load.disk.inject(Fault(effect=effect, matches=on(Action.SYNC), skip=skip))
        with pytest.raises(StoreFailedError):
            load.run()
        with pytest.raises(LogBrokerError), load.disk.open("wal/1.wal") as file:
            file.sync()
        chance = random.Random(skip)
        left = load.disk.kill() if machine == "lives on" else load.disk.crash(keep=chance)
        store = open_at(left)
        shows = {}
        for replica, count in load.promised.items():
            assert store.replicas[replica].lost == "", skip
            shows[replica] = held(store.replicas[replica].log)
            assert len(shows[replica]) >= count, skip
        again = open_at(left.crash(keep=chance))
        assert {replica: held(again.replicas[replica].log) for replica in shows} == shows, skip
