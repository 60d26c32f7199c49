"""A crash at every change a store makes to its disk: what was promised is there, whole, and nothing else is."""

from __future__ import annotations

import random

import pytest

from logbroker.errors import LogBrokerError
from logbroker.storage.simulated_disk import SimulatedDisk, Tear
from logbroker.storage.simulated_faults import SimulatedCrash
from tests.faults.store_model import StoreLoad, differs, open_model_store

STEPS = 60
SEEDS = (1, 2, 3)


class Always:
    """Draws the first choice always, or the last."""

    def __init__(self, *, first: bool) -> None:
        self._first = first

    def randrange(self, stop: int, /) -> int:
        return 0 if self._first else stop - 1


def _loaded(seed: int, crash_before: int = 0) -> tuple[SimulatedDisk, StoreLoad]:
    """Run the load to its end, or to the crash."""
    disk = SimulatedDisk()
    load = StoreLoad(disk, seed)
    if crash_before:
        disk.crash_before(disk.change_count + crash_before)
    try:
        load.create()
        for _ in range(STEPS):
            load.step()
    except SimulatedCrash:
        pass
    return disk, load


def _changes_of(seed: int) -> int:
    disk = SimulatedDisk()
    load = StoreLoad(disk, seed)
    before = disk.change_count
    load.create()
    for _ in range(STEPS):
        load.step()
    return disk.change_count - before


def _is_as_promised(disk: SimulatedDisk, load: StoreLoad) -> str:
    store = open_model_store(disk)
    try:
        wrong = differs(store, load.promised)
        return wrong and differs(store, load.promising)
    finally:
        store.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_load_reaches_what_it_is_meant_to_reach(seed: int) -> None:
    disk, load = _loaded(seed)
    assert load.flushes >= 3
    assert load.conflicts >= 1
    assert load.checkpoints >= 2
    assert _is_as_promised(disk.kill(), load) == ""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kept", ["nothing", "everything", "anything", "torn"])
def test_power_loss_before_any_change_loses_nothing_promised(seed: int, kept: str) -> None:
    chance = random.Random(seed)
    choose = {"nothing": Always(first=True), "everything": Always(first=False)}.get(kept, chance)
    tear = Tear.BYTE if kept == "torn" else Tear.NONE
    for change in range(1, _changes_of(seed), 3):
        disk, load = _loaded(seed, change)
        wrong = _is_as_promised(disk.crash(keep=choose, tear=tear), load)
        assert wrong == "", f"seed {seed}, change {change}: {wrong}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_restart_has_shown_survives_a_later_power_loss(seed: int) -> None:
    """Bytes that were only in the page cache are written again before anybody is told of them."""
    for change in range(1, _changes_of(seed), 3):
        disk, load = _loaded(seed, change)
        killed = disk.kill()
        store = open_model_store(killed)
        kept = load.promised if not differs(store, load.promised) else load.promising
        assert differs(store, kept) == "", f"seed {seed}, change {change}"
        after = killed.crash(keep=Always(first=True))
        again = open_model_store(after)
        assert differs(again, kept) == "", f"seed {seed}, change {change}, after the second loss"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crash_in_recovery_itself_is_recovered_from(seed: int) -> None:
    chance = random.Random(seed)
    for change in range(5, _changes_of(seed), 17):
        disk, load = _loaded(seed, change)
        left = disk.crash(keep=chance)
        for second in range(1, 12, 2):
            attempt = left.copy()
            attempt.crash_before(attempt.change_count + second)
            try:
                open_model_store(attempt)
            except SimulatedCrash:
                attempt = attempt.crash(keep=chance)
            except LogBrokerError as error:
                pytest.fail(f"seed {seed}, change {change}, {second}: {error}")
            wrong = _is_as_promised(attempt, load)
            assert wrong == "", f"seed {seed}, change {change}, recovery change {second}: {wrong}"
