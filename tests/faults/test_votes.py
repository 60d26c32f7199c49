"""A vote is never forgotten and never invented: every crash point, every page left, every byte torn."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import StoreFailedError
from logbroker.ids import ReplicaId, Term
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, Tear, on
from logbroker.storage.votes import COPIES, SLOT_BYTES, Vote, VoteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

SALT = b"salt"
ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)
OLD = {ONE: (Term(1), TWO), TWO: (Term(1), TWO), THREE: (Term(1), TWO)}
# Two groups of one step, with slots in one page that are not neighbours.
STEP = {ONE: (Term(2), THREE), THREE: (Term(7), ReplicaId(0))}
NEW = OLD | STEP


def made() -> SimulatedDisk:
    disk = SimulatedDisk()
    store = VoteStore.open(disk, SALT)
    for replica in OLD:
        store.add(replica)
    store.save(OLD)
    return disk


def believed(disk: SimulatedDisk) -> dict[ReplicaId, tuple[Term, ReplicaId]]:
    """What a node that starts on the disk goes by, and may tell others from then on."""
    store = VoteStore.open(disk, SALT)
    assert store.lost(OLD) == ()
    found = {}
    for replica in OLD:
        vote = store.get(replica)
        assert vote is not None
        found[replica] = (vote.term, vote.voted_for)
    return found


def is_old_or_new(votes: dict[ReplicaId, tuple[Term, ReplicaId]]) -> bool:
    return all(votes[replica] in (OLD[replica], NEW[replica]) for replica in OLD)


def interrupted_saves() -> Iterator[SimulatedDisk]:
    """The disk before each change that the step makes, and after the last, which is before the caller is told."""
    for change in range(1, 8):
        disk = made()
        store = VoteStore.open(disk, SALT)
        disk.crash_before(disk.change_count + change)
        if change == 7:
            store.save(STEP)
        else:
            with pytest.raises(SimulatedCrash):
                store.save(STEP)
        yield disk


def interrupted_starts(disk: SimulatedDisk) -> Iterator[SimulatedDisk]:
    """The disk before each change that a start on it makes, until a start comes through."""
    for change in range(1, 100):
        attempt = disk.copy()
        attempt.crash_before(attempt.change_count + change)
        try:
            VoteStore.open(attempt, SALT)
        except SimulatedCrash:
            yield attempt
        else:
            return


def assert_stays(disk: SimulatedDisk, tear: Tear) -> None:
    """What a start on the disk goes by is taken back by no power loss, also none in the step after it."""
    for change in range(5):
        attempt = disk.copy()
        told = believed(attempt)
        later = {TWO: (Term(told[TWO][0] + 50), TWO)}
        assert is_old_or_new(told)
        if change:
            attempt = disk.copy()
            store = VoteStore.open(attempt, SALT)
            attempt.crash_before(attempt.change_count + change)
            with pytest.raises(SimulatedCrash):
                store.save(later)
        for state in attempt.crash_states(limit=1000, tear=tear):
            assert believed(state) in (told, told | later)


def test_a_step_is_six_writes_and_syncs() -> None:
    disk = made()
    store = VoteStore.open(disk, SALT)
    before = disk.change_count
    store.save(STEP)
    assert disk.change_count == before + 6


@pytest.mark.parametrize("tear", list(Tear))
def test_after_a_power_loss_in_a_step_each_vote_is_old_or_new_and_stays_so(tear: Tear) -> None:
    seen = set()
    for disk in interrupted_saves():
        for state in disk.crash_states(limit=100_000, tear=tear):
            votes = believed(state)
            assert is_old_or_new(votes)
            seen.add(tuple(votes.values()))
            # What was read at the start may have been told to others: no later power loss takes it back.
            for later in state.crash_states(limit=1, tear=tear):
                assert believed(later) == votes
    # Both slots lie in one sector: the second is new without the first only if the page tears within it.
    assert len(seen) == (4 if tear in (Tear.BYTE, Tear.GARBAGE) else 3)


def test_a_step_that_returned_survives_every_power_loss() -> None:
    *_, finished = interrupted_saves()
    states = list(finished.crash_states(limit=10, tear=Tear.GARBAGE))
    assert [believed(state) for state in states] == [NEW]


@pytest.mark.parametrize("tear", [Tear.SECTOR, Tear.BYTE, Tear.GARBAGE])
def test_a_power_loss_in_the_start_after_a_power_loss_loses_nothing(tear: Tear) -> None:
    for disk in interrupted_saves():
        for state in disk.crash_states(limit=100_000, tear=tear):
            for half_started in interrupted_starts(state):
                for later in half_started.crash_states(limit=100_000, tear=tear):
                    assert is_old_or_new(believed(later))


@pytest.mark.parametrize("tear", [Tear.BYTE, Tear.GARBAGE])
def test_what_a_killed_process_left_in_the_page_cache_is_made_durable_or_forgotten(tear: Tear) -> None:
    for disk in interrupted_saves():
        survivor = disk.kill()
        for half_started in interrupted_starts(survivor.copy()):
            for later in half_started.crash_states(limit=100_000, tear=tear):
                assert is_old_or_new(believed(later))
        assert_stays(survivor, tear)


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.ERROR_DROPPED])
def test_a_vote_whose_sync_failed_is_not_believed_for_being_visible(name: str, effect: Effect) -> None:
    disk = made()
    store = VoteStore.open(disk, SALT)
    disk.inject(Fault(effect=effect, matches=on(Action.SYNC, below=name)))
    with pytest.raises(StoreFailedError):
        store.save(STEP)
    with pytest.raises(StoreFailedError):
        store.save(STEP)
    assert store.get(ONE) == Vote(*OLD[ONE])
    survivor = disk.kill()
    for half_started in interrupted_starts(survivor.copy()):
        for later in half_started.crash_states(limit=100_000, tear=Tear.BYTE):
            assert is_old_or_new(believed(later))
    assert_stays(survivor, Tear.GARBAGE)


def test_a_replica_that_was_being_made_is_there_or_not() -> None:
    seen = set()
    for change in range(1, 7):
        disk = made()
        store = VoteStore.open(disk, SALT)
        store.remove(TWO)
        disk.crash_before(disk.change_count + change)
        with contextlib.suppress(SimulatedCrash):
            store.add(ReplicaId(4))
        for state in disk.crash_states(limit=100_000, tear=Tear.GARBAGE):
            again = VoteStore.open(state, SALT)
            seen.add(again.replicas())
            assert again.lost([ONE, THREE]) == ()
            assert again.get(ReplicaId(4)) in (None, Vote(Term(0), ReplicaId(0)))
    # The slot's old owner may be seen, the new one, or, with the slot torn in one copy, the owner of the other.
    assert seen == {(ONE, TWO, THREE), (ONE, THREE, ReplicaId(4))}


def test_files_that_were_growing_or_being_made_start_again() -> None:
    for change in range(1, 10):
        attempt = SimulatedDisk()
        attempt.crash_before(change)
        with contextlib.suppress(SimulatedCrash):
            VoteStore.open(attempt, SALT).add(ONE)
        for state in attempt.crash_states(limit=100_000, tear=Tear.SECTOR):
            again = VoteStore.open(state, SALT)
            assert again.replicas() in ((), (ONE,))
            again.add(TWO)
            assert VoteStore.open(state, SALT).replicas() == (*again.replicas()[:-1], TWO)


@pytest.mark.parametrize("name", COPIES)
def test_every_flipped_byte_of_a_copy_is_detected_and_mended(name: str) -> None:
    disk = made()
    clean = disk.digest()
    for offset in range(disk.size(name)):
        for change in (b"\x01", b"\x80", b"\xff"):
            attempt = disk.copy() if offset < SLOT_BYTES else disk
            original = attempt._file(name).content[offset]
            attempt.scribble(name, offset, bytes([original ^ change[0]]))
            store = VoteStore.open(attempt, SALT)
            assert store.statistics().mended_slots == (offset // SLOT_BYTES,)
            assert {replica: store.get(replica) for replica in OLD} == {r: Vote(*v) for r, v in OLD.items()}
            assert attempt.is_synced(name)
            store.close()
            if offset >= SLOT_BYTES:
                break
    assert believed(disk) == OLD
    assert disk.copy().digest() == clean


@pytest.mark.parametrize("seed", range(150))
def test_random_lives_of_a_store_keep_every_promise(seed: int) -> None:
    chance = random.Random(seed)
    disk = SimulatedDisk()
    store = VoteStore.open(disk, SALT)
    promised: dict[ReplicaId, Vote] = {}
    next_id = 1
    for _ in range(40):
        unsure: dict[ReplicaId, Vote] = {}
        if chance.randrange(4) == 0:
            disk.crash_before(disk.change_count + 1 + chance.randrange(6))
        elif chance.randrange(10) == 0:
            disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC), skip=chance.randrange(2)))
        try:
            if not promised or chance.randrange(5) == 0:
                replica = ReplicaId(next_id)
                next_id += 1
                store.add(replica)
                promised[replica] = Vote(Term(0), ReplicaId(0))
            elif chance.randrange(8) == 0:
                replica = chance.choice(sorted(promised))
                del promised[replica]
                store.remove(replica)
            else:
                for replica in chance.sample(sorted(promised), 1 + chance.randrange(len(promised))):
                    unsure[replica] = Vote(Term(promised[replica].term + 1), ReplicaId(chance.randrange(3)))
                store.save({replica: (vote.term, vote.voted_for) for replica, vote in unsure.items()})
                promised |= unsure
        except (SimulatedCrash, StoreFailedError):
            pass
        else:
            disk.heal()
            if chance.randrange(5):
                continue
        if chance.randrange(2):
            disk = disk.crash(keep=chance, tear=chance.choice([Tear.NONE, Tear.SECTOR, Tear.BYTE]))
        else:
            disk = disk.kill()
        store = VoteStore.open(disk, SALT)
        assert store.lost(promised) == ()
        for replica, vote in promised.items():
            found = store.get(replica)
            assert found is not None
            assert found in (vote, unsure.get(replica, vote))
            promised[replica] = found
        for replica in set(store.replicas()) - set(promised):
            store.remove(replica)
