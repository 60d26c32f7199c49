"""The planted bugs: how they are planted, searched for and replayed, and that a few of them are found by their record.

All of them are replayed by `tools/simulate --mutants --recorded`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.raft import leader, replication
from logbroker.testing.mutants import MUTANTS, Patch, planted
from logbroker.testing.mutants.planting import Mutant
from logbroker.testing.mutants.search import (
    REPLAYED_SEEDS,
    Catch,
    options_of,
    read_record,
    replay,
    search,
    write_record,
)
from logbroker.testing.simulation import run_seed

if TYPE_CHECKING:
    from pathlib import Path

_CHEAP = ("uncommitted-delivered", "leader-counts-itself", "acks-before-write", "ack-by-anyone", "rewind-one-late")
_LEFT_OUT = {
    "B34": "there is no quiescence",
    "B36": "there is one version of everything so far",
}
_CLASSES = {f"B{number}" for number in range(1, 41)}


def test_every_class_of_bugs_that_has_code_has_a_mutant() -> None:
    covered = {name for mutant in MUTANTS.values() for name in mutant.classes}
    assert covered | _LEFT_OUT.keys() == _CLASSES
    assert not covered & _LEFT_OUT.keys()
    assert len(MUTANTS) >= 40


def test_every_mutant_is_in_the_record() -> None:
    assert list(read_record()) == list(MUTANTS)


def test_a_bug_is_gone_when_its_block_ends() -> None:
    before = replication.maybe_commit
    with planted(MUTANTS["old-term-counted"]):
        assert replication.maybe_commit is not before
        assert vars(leader)["maybe_commit"] is replication.maybe_commit
    assert vars(leader)["maybe_commit"] is replication.maybe_commit is before


def test_planting_a_bug_in_a_place_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        Patch().attribute(replication, "no_such_function", None)


@pytest.mark.parametrize("name", _CHEAP)
def test_a_recorded_seed_or_one_that_follows_shows_its_bug(name: str) -> None:
    caught = replay(name, read_record()[name].seed)
    assert caught.rule, caught.line()


def test_a_bug_that_does_nothing_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MUTANTS, "harmless", Mutant("harmless", ("B1",), "nothing is wrong", lambda patch: None))
    caught = search("harmless", max_seeds=2)
    assert not caught.rule
    assert caught.tried == 2
    assert caught.line() == "NOT CAUGHT harmless (B1): nothing is wrong; 2 seeds tried"


def test_a_seed_that_misses_the_bug_is_stale_and_the_next_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def plant(patch: Patch) -> None:
        tried.append(patch)
        if len(tried) > 1:
            MUTANTS["leader-counts-itself"].plant(patch)

    monkeypatch.setitem(MUTANTS, "shy", Mutant("shy", ("B1",), "hides at first", plant))
    caught = replay("shy", 1)
    assert caught.is_stale
    assert 2 <= caught.seed <= 1 + REPLAYED_SEEDS
    assert caught.line().endswith("the recorded seed misses it by now")


def test_a_seed_that_fails_without_the_bug_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from logbroker.testing.mutants import search as module

    monkeypatch.setattr(module, "_is_clean", lambda seed, faults: False)
    assert not search("leader-counts-itself", max_seeds=1).rule


def test_the_faults_that_a_bug_needs_are_on_in_every_seed() -> None:
    mutant = MUTANTS["stalled-leader-stays"]
    for seed in range(1, 20):
        plan = options_of(mutant, seed).plan
        assert plan is not None
        assert mutant.faults[0] in plan.rates


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.md"
    first, *_, last = MUTANTS
    catches = [Catch(last, "", 0, 7), Catch(first, "a rule", 12, 3)]
    write_record(catches, path)
    assert read_record(path) == {first: Catch(first, "a rule", 12, 3)}


def test_the_same_seed_shows_the_same_bug_in_the_same_way() -> None:
    name = _CHEAP[0]
    runs = []
    for _ in range(2):
        with planted(MUTANTS[name]):
            runs.append(run_seed(1, options_of(MUTANTS[name], 1)).failure)
    assert runs[0] == runs[1] != ""
