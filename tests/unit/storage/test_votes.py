"""Votes: two copies, mended at the start, never taken back."""

from __future__ import annotations

import pytest

from logbroker.errors import DiskFullError, InvariantError, StoreFailedError
from logbroker.ids import ReplicaId, Term
from logbroker.storage.disk import read_file
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedDisk, on
from logbroker.storage.votes import COPIES, SLOT_BYTES, Vote, VoteStore

SALT = b"salt of one node"
ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)


def vote(term: int, voted_for: int = 0) -> Vote:
    return Vote(Term(term), ReplicaId(voted_for))


def change(term: int, voted_for: int = 0) -> tuple[Term, ReplicaId]:
    return Term(term), ReplicaId(voted_for)


def reopened(disk: SimulatedDisk) -> VoteStore:
    return VoteStore.open(disk, SALT)


def test_a_new_store_has_no_replicas_and_two_durable_files() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    assert store.replicas() == ()
    assert store.get(ONE) is None
    assert all(map(disk.is_synced, COPIES))


def test_what_is_saved_is_found_again() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.add(TWO, term=Term(9))
    assert (store.get(ONE), store.get(TWO)) == (vote(0), vote(9))
    store.save({ONE: change(3, 2), TWO: change(10)})
    store.save({TWO: change(10, 7)})
    for found in (store, reopened(disk)):
        assert found.replicas() == (ONE, TWO)
        assert (found.get(ONE), found.get(TWO)) == (vote(3, 2), vote(10, 7))


def test_the_slot_has_the_documented_bytes() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ReplicaId(0x0102030405060708))
    store.save({ReplicaId(0x0102030405060708): change(0x11, 0x22)})
    content = read_file(disk, "vote.a")
    assert len(content) == 4096
    assert content[:60] == bytes.fromhex(
        "4c425654 00000001 0102030405060708 0000000000000002 0000000000000011 0000000000000022" + "00" * 20
    )
    assert content[60:64] == bytes.fromhex("71a1e9e3")
    assert content[64:] == bytes(4096 - 64)
    assert read_file(disk, "vote.b") == content


def test_all_changes_of_a_step_cost_one_sync_of_each_copy_and_b_follows_a() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    for replica in range(1, 6):
        store.add(ReplicaId(replica))
    trace = disk.start_trace()
    store.save({ReplicaId(5): change(1), ReplicaId(1): change(1), ReplicaId(2): change(2)})
    assert [str(operation) for operation in trace] == [
        "pwrite vote.a @0 +128",
        "pwrite vote.a @256 +64",
        "sync vote.a",
        "pwrite vote.b @0 +128",
        "pwrite vote.b @256 +64",
        "sync vote.b",
    ]


def test_what_does_not_change_is_not_written() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.save({ONE: change(1, 2)})
    before = disk.change_count
    store.save({ONE: change(1, 2)})
    store.save({})
    assert disk.change_count == before


@pytest.mark.parametrize("wrong", [change(4, 2), change(4), change(5, 3), change(5)])
def test_no_vote_is_taken_back(wrong: tuple[Term, ReplicaId]) -> None:
    store = reopened(SimulatedDisk())
    store.add(ONE)
    store.save({ONE: change(5, 2)})
    with pytest.raises(InvariantError, match="replica 1 voted for 2 in term 5"):
        store.save({ONE: wrong})
    store.save({ONE: change(6)})
    store.save({ONE: change(6, 3)})
    assert store.get(ONE) == vote(6, 3)


def test_only_replicas_with_a_slot_vote() -> None:
    store = reopened(SimulatedDisk())
    store.add(ONE)
    with pytest.raises(InvariantError, match="replica 2 has no vote slot"):
        store.save({TWO: change(1)})
    with pytest.raises(InvariantError, match="replica 2 has no vote slot"):
        store.remove(TWO)
    with pytest.raises(InvariantError, match="replica 1 has a vote slot already"):
        store.add(ONE)
    with pytest.raises(InvariantError, match="replica 0"):
        store.add(ReplicaId(0))


def test_the_slot_of_a_removed_replica_is_taken_by_the_next_one() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.add(TWO)
    store.save({ONE: change(5, 2)})
    store.remove(ONE)
    assert store.get(ONE) is None
    store.add(THREE)
    assert store.statistics().slot_count == 64
    again = reopened(disk)
    assert again.replicas() == (TWO, THREE)
    assert again.get(THREE) == vote(0)


def test_a_removed_replica_is_seen_again_after_the_start_until_its_slot_is_taken() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.remove(ONE)
    again = reopened(disk)
    assert again.replicas() == (ONE,)
    again.remove(ONE)
    again.add(TWO)
    assert reopened(disk).replicas() == (TWO,)


def test_the_files_grow_by_pages() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    for replica in range(1, 131):
        store.add(ReplicaId(replica))
    store.save({ReplicaId(replica): change(replica, replica) for replica in range(1, 131)})
    assert [disk.size(name) for name in COPIES] == [3 * 4096, 3 * 4096]
    again = reopened(disk)
    assert len(again.replicas()) == 130
    assert all(again.get(ReplicaId(replica)) == vote(replica, replica) for replica in range(1, 131))
    assert again.statistics().mended_slots == ()


def test_without_room_for_a_slot_nothing_is_promised_and_it_can_be_tried_again() -> None:
    disk = SimulatedDisk(capacity_bytes=4096)
    store = reopened(disk)
    with pytest.raises(DiskFullError):
        store.add(ONE)
    assert store.replicas() == ()
    disk.capacity_bytes = 8192
    store.add(ONE)
    assert reopened(disk).replicas() == (ONE,)


def test_a_save_that_found_no_room_is_never_mixed_up_with_the_next_one() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, below="vote.b")))
    with pytest.raises(DiskFullError):
        store.save({ONE: change(1, 2)})
    assert store.get(ONE) == vote(0)
    # The first copy says that replica 2 got the vote; nobody was told, so another may get it. The device
    # loses that write: the sequences must tell the copies apart.
    disk.inject(Fault(effect=Effect.LOST, matches=on(Action.PWRITE, below="vote.a")))
    store.save({ONE: change(1, 3)})
    assert reopened(disk).get(ONE) == vote(1, 3)


@pytest.mark.parametrize("name", COPIES)
def test_one_missing_copy_is_made_again(name: str) -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.save({ONE: change(5, 2)})
    disk.vanish(name)
    again = reopened(disk)
    assert again.get(ONE) == vote(5, 2)
    assert again.statistics().mended_slots == (0,)
    assert disk.is_synced(name)
    assert read_file(disk, "vote.a") == read_file(disk, "vote.b")


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("size", [0, 30, 64, 100, 4095])
def test_a_copy_that_was_cut_short_is_mended(name: str, size: int) -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    for replica in (ONE, TWO, THREE):
        store.add(replica)
        store.save({replica: change(replica, 9)})
    disk.cut_short(name, size)
    again = reopened(disk)
    assert [again.get(replica) for replica in (ONE, TWO, THREE)] == [vote(1, 9), vote(2, 9), vote(3, 9)]
    assert again.lost([ONE, TWO, THREE]) == ()
    assert read_file(disk, "vote.a")[:192] == read_file(disk, "vote.b")[:192]


def test_both_copies_of_a_slot_bad_is_loss_of_that_replica_alone() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    for replica in (ONE, TWO, THREE):
        store.add(replica)
    disk.flip_bit("vote.a", SLOT_BYTES + 20, 0)
    disk.flip_bit("vote.b", SLOT_BYTES + 50, 7)
    again = reopened(disk)
    assert again.replicas() == (ONE, THREE)
    assert again.lost([THREE, TWO, ONE]) == (TWO,)
    assert again.get(TWO) is None
    assert again.statistics().damaged_slots == (1,)
    assert again.statistics().replica_count == 2


def test_a_damaged_slot_is_taken_last() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    for name in COPIES:
        disk.flip_bit(name, 3, 0)
    again = reopened(disk)
    for replica in range(2, 65):
        again.add(ReplicaId(replica))
    assert reopened(disk).statistics().damaged_slots == (0,)
    again.add(ReplicaId(65))
    again = reopened(disk)
    assert again.statistics().damaged_slots == ()
    assert len(again.replicas()) == 64


def test_two_good_slots_of_one_sequence_that_differ_are_not_believed() -> None:
    disks = [SimulatedDisk(), SimulatedDisk()]
    for disk, voted_for in zip(disks, (2, 3), strict=True):
        store = reopened(disk)
        store.add(ONE)
        store.save({ONE: change(5, voted_for)})
    disks[0].scribble("vote.b", 0, read_file(disks[1], "vote.b"))
    assert reopened(disks[0]).lost([ONE]) == (ONE,)


def test_two_slots_of_one_replica_are_not_believed() -> None:
    disk, other = SimulatedDisk(), SimulatedDisk()
    store, stranger = reopened(disk), reopened(other)
    store.add(ONE)
    store.add(TWO)
    stranger.add(THREE)
    stranger.add(ONE)
    stranger.save({ONE: change(7)})
    for name in COPIES:
        disk.scribble(name, SLOT_BYTES, read_file(other, name)[SLOT_BYTES : 2 * SLOT_BYTES])
    again = reopened(disk)
    assert again.replicas() == ()
    assert again.statistics().damaged_slots == (0, 1)


def test_a_slot_in_the_wrong_place_or_of_another_node_is_bad() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    for name in COPIES:
        disk.scribble(name, 5 * SLOT_BYTES, read_file(disk, name)[:SLOT_BYTES])
    again = reopened(disk)
    assert again.replicas() == (ONE,)
    assert again.statistics().damaged_slots == (5,)
    assert VoteStore.open(disk, b"another salt").lost([ONE]) == (ONE,)


def test_another_format_is_not_guessed_at() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    for name in COPIES:
        body = bytearray(read_file(disk, name)[:60])
        body[7] = 2
        disk.scribble(name, 0, bytes(body) + store._crc(bytes(body), 0).to_bytes(4, "big"))
    assert reopened(disk).lost([ONE]) == (ONE,)


def test_a_page_that_cannot_be_read_is_mended_from_the_other_copy() -> None:
    disk = SimulatedDisk()
    store = reopened(disk)
    store.add(ONE)
    store.save({ONE: change(5, 2)})
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.PREAD, below="vote.a")))
    again = reopened(disk)
    assert again.get(ONE) == vote(5, 2)
    assert again.statistics().mended_slots == tuple(range(64))


def test_a_start_that_fails_leaves_no_file_open() -> None:
    disk = SimulatedDisk()
    reopened(disk).add(ONE)
    disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC, below="vote.b")))
    with pytest.raises(StoreFailedError):
        reopened(disk)
    with pytest.raises(StoreFailedError):
        reopened(disk)


def test_a_closed_store_writes_nothing() -> None:
    store = reopened(SimulatedDisk())
    store.add(ONE)
    store.close()
    with pytest.raises(InvariantError, match="used after it was closed"):
        store.save({ONE: change(1)})
