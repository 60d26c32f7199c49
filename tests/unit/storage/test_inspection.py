"""What the inspection of a stopped directory says, and that it leaves every byte as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import StoreFailedError
from logbroker.ids import GroupId, Index, Term
from logbroker.raft.messages import ConfState
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.disk import RealDisk, open_data_directory
from logbroker.storage.inspection import Finding, Inspection, Remedy
from logbroker.storage.segment import segment_path
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.unit.storage.store_kit import A, checkpoint, commit, entries, flush, open_at, roll_and_flush, write

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.storage.disk import Disk
    from logbroker.storage.node_store import NodeStore

SEGMENT = segment_path("groups/11-11", Index(1))


def fill(store: NodeStore) -> None:
    """Five entries in a segment, a checkpoint, and three entries in the write-ahead log."""
    job = store.plan_commit(births=[Birth(GroupId(A), A, ConfState((A,)).encode())])
    assert job is not None
    job.run()
    store.finish_commit(job)
    commit(store, ReplicaWrite(A, (Term(1), A)))
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    roll_and_flush(store)
    checkpoint(store, 4)
    write(store, *entries(6, 9))
    commit(store, seals=True)
    assert not flush(store)
    store.close()


@pytest.fixture
def disk() -> SimulatedDisk:
    made = SimulatedDisk()
    fill(open_at(made))
    return made.kill()


def found(disk: Disk) -> list[Finding]:
    return [one for one in Inspection(disk).run() if one.code != "stray"]


def only(disk: Disk) -> Finding:
    (one,) = found(disk)
    return one


def test_a_sound_directory_gives_nothing_to_say_and_is_not_changed(disk: SimulatedDisk) -> None:
    before, changes = disk.digest(), disk.change_count
    inspection = Inspection(disk)
    assert [one for one in inspection.run() if one.code != "stray"] == []
    assert (disk.digest(), disk.change_count) == (before, changes)
    assert (inspection.replica_count, inspection.entry_count, inspection.segment_count) == (1, 5, 1)
    assert inspection.worst is Remedy.NONE


def test_an_empty_directory_is_no_finding_to_worry_about() -> None:
    assert (only(SimulatedDisk()).code, only(SimulatedDisk()).remedy) == ("empty", Remedy.NONE)


def test_a_rotten_entry_is_named_and_a_sole_voter_needs_an_operator(disk: SimulatedDisk) -> None:
    disk.flip_bit(SEGMENT, 32 + 2 * 159 + 70, 1)
    one = only(disk)
    assert (one.code, one.remedy, one.replica, one.index, one.term) == ("entry", Remedy.OPERATOR, A, 3, 1)


@pytest.mark.parametrize(
    ("path", "offset", "code", "remedy"),
    [
        ("vote.a", 20, "vote-copy", Remedy.START),
        ("flushed.b", 20, "flush-record", Remedy.START),
        ("node.json", 20, "identity", Remedy.OPERATOR),
        (SEGMENT, 5, "segment-header", Remedy.START),
        ("groups/11-11/4.checkpoint", 20, "checkpoint", Remedy.START),
    ],
)
def test_each_file_has_its_own_word(disk: SimulatedDisk, path: str, offset: int, code: str, remedy: Remedy) -> None:
    disk.flip_bit(path, offset, 1)
    one = only(disk)
    assert (one.code, one.remedy) == (code, remedy)


def test_what_is_gone_is_said_to_be_lost(disk: SimulatedDisk) -> None:
    disk.vanish(SEGMENT)
    assert {one.code for one in found(disk)} == {"replica-lost"}
    for copy in ("flushed.a", "flushed.b"):
        disk.flip_bit(copy, 20, 1)
    assert {"flush-record", "record-lost"} == {one.code for one in found(disk)}


def test_both_copies_of_a_vote_gone_is_a_lost_replica(disk: SimulatedDisk) -> None:
    for copy in ("vote.a", "vote.b"):
        disk.flip_bit(copy, 20, 1)
    assert {one.code for one in found(disk)} == {"vote-slot", "replica-lost"}


def test_a_real_directory_is_read_without_a_door_to_write(tmp_path: Path) -> None:
    with open_data_directory(tmp_path) as writable:
        fill(open_at(writable))  # type: ignore[arg-type]  # any disk will do
    reader = RealDisk(tmp_path, read_only=True)
    assert found(reader) == []
    with pytest.raises(StoreFailedError, match="reading alone"):
        reader.unlink(SEGMENT)
    with reader.open(SEGMENT) as file, pytest.raises(StoreFailedError):
        file.pwrite([b"x"], 0)
