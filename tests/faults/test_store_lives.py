"""A crash at every change while replicas are born, replaced by snapshots, deleted and born again in one ring."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from logbroker.ids import ReplicaId, Term
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.simulated_disk import SimulatedCrash, SimulatedDisk, Tear
from tests.unit.storage.snapshot_files import receive
from tests.unit.storage.store_kit import A, B, commit, entries, flush, held, open_at, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.storage.node_store import NodeStore

C = ReplicaId(13)
LETTERS = {"a": A, "b": B, "c": C}
Held = dict[ReplicaId, list[tuple[int, int]]]


class Nothing:
    """Nothing unsynced is kept."""

    def randrange(self, stop: int, /) -> int:
        return 0


class Story:
    """Steps on a store, each with what it leaves; `told` is what a crash may find: the step done, or not begun."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.store: NodeStore = open_at(self.disk)
        self.begun = self.disk.change_count
        self.now: Held = {}
        self.told: list[Held] = [{}]

    def step(self, act: Callable[[], object], **after: list[tuple[int, int]] | None) -> None:
        """`after` names replicas by letter; None: gone."""
        new = dict(self.now)
        for letter, kept in after.items():
            new.pop(LETTERS[letter], None)
            if kept is not None:
                new[LETTERS[letter]] = kept
        self.told = [self.now, new]
        act()
        self.now, self.told = new, [new]

    def roll(self) -> None:
        for stored in self.store.replicas.values():
            stored.log.committed = stored.log.last_index()
        self.store.request_roll()
        commit(self.store)
        flush(self.store)

    def run(self) -> None:
        raise NotImplementedError


def runs(start: int, end: int, *, term: int = 1) -> list[tuple[int, int]]:
    return [(index, term) for index in range(start, end)]


class Install(Story):
    """A snapshot replaces a log with a flushed and an unflushed part, and another replaces that one."""

    def run(self) -> None:
        store = self.store
        self.step(lambda: commit(store, births=[A, B]), a=[], b=[])
        self.step(lambda: write(store, *entries(1, 5)), a=runs(1, 5))
        self.step(self.roll)
        self.step(lambda: write(store, *entries(5, 8)), a=runs(1, 8))
        self.step(lambda: write(store, *entries(1, 3, group=B), replica=B), b=runs(1, 3))
        first = receive(self.disk, A, 10, 14)
        self.step(lambda: commit(store, ReplicaWrite(A, (Term(2), B), install=first)), a=runs(10, 14))
        self.step(lambda: write(store, *entries(14, 16)), a=runs(10, 16))
        self.step(self.roll)
        second = receive(self.disk, A, 20, 22, term=3)
        self.step(
            lambda: commit(store, ReplicaWrite(A, install=second), ReplicaWrite(B, entries=entries(3, 4, group=B))),
            a=runs(20, 22, term=3),
            b=runs(1, 4),
        )
        self.step(self.roll)
        self.step(self.roll)


class Deaths(Story):
    """Births and deaths between rolls, so that frames of the dead lie in the ring beside those of the living."""

    def run(self) -> None:
        store = self.store
        self.step(lambda: commit(store, births=[A]), a=[])
        self.step(lambda: write(store, *entries(1, 4)), a=runs(1, 4))
        self.step(lambda: commit(store, births=[B], deaths=[A]), a=None, b=[])
        self.step(lambda: write(store, *entries(1, 3, group=B), replica=B), b=runs(1, 3))
        self.step(self.roll)
        self.step(lambda: commit(store, births=[C]), c=[])
        self.step(lambda: write(store, *entries(1, 6, group=C), replica=C), c=runs(1, 6))
        self.step(lambda: commit(store, deaths=[B]), b=None)
        self.step(self.roll)
        self.step(lambda: write(store, *entries(6, 8, group=C), replica=C), c=runs(1, 8))
        self.step(lambda: commit(store, deaths=[C]), c=None)
        self.step(self.roll)


def shown(disk: SimulatedDisk) -> tuple[Held, set[ReplicaId]]:
    store = open_at(disk)
    lost = {replica for replica, stored in store.replicas.items() if stored.lost}
    found = {replica: held(stored.log) for replica, stored in store.replicas.items() if not stored.lost}
    store.close()
    return found, lost


@pytest.mark.parametrize("story", [Install, Deaths])
@pytest.mark.parametrize("kept", ["nothing", "anything", "torn"])
def test_a_crash_at_every_change_shows_the_step_done_or_not_begun(story: type[Story], kept: str) -> None:
    whole = story()
    whole.run()
    chance = Nothing() if kept == "nothing" else random.Random(kept)
    for change in range(1, whole.disk.change_count - whole.begun + 1):
        made = story()
        made.disk.crash_before(made.begun + change)
        with pytest.raises(SimulatedCrash):
            made.run()
        after = made.disk.crash(keep=chance, tear=Tear.BYTE if kept == "torn" else Tear.NONE)
        found, lost = shown(after)
        assert lost == set(), f"change {change}"
        assert found in made.told, f"change {change}"
        # What a start has shown is shown by the next one too, whatever the power does.
        again = shown(after.crash(keep=Nothing()))
        assert again == (found, set()), f"change {change}, again"


@pytest.mark.parametrize("story", [Install, Deaths])
def test_the_stories_end_as_told_and_leave_no_directory_behind(story: type[Story]) -> None:
    made = story()
    made.run()
    made.roll()
    assert {replica: held(stored.log) for replica, stored in made.store.replicas.items()} == made.now
    directories = {path.rpartition("/")[0] for path in made.disk.paths() if path.startswith("groups/")}
    assert directories <= {stored.log.state.directory for stored in made.store.replicas.values()}
    assert shown(made.disk.kill()) == (made.now, set())
