"""A part of the torture that fits into every run; `python -m tests.faults.torture` is the whole."""

from __future__ import annotations

import pytest

from tests.faults.test_misplaced_reads import FIRST_SEGMENT
from tests.faults.torture import KINDS, Plan, all_cases, main, run

STRIDES = {"flip": 401, "page": 23, "cut": 17, "first": 6, "cluster": 5, "crash": 29}
"""Primes where there are many cases, so that every kind of place is met in time."""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_hurt_gives_a_wrong_answer_or_is_not_noticed(kind: str) -> None:
    plan = Plan(seed=3, stride=STRIDES[kind], limit=8, torn=1, crash_seeds=1)
    total = run(all_cases([kind], plan), plan)
    assert total.faults == []
    assert total.counts["cases"] >= 5


def test_the_flips_reach_every_fate() -> None:
    plan = Plan(seed=1, stride=907)
    places = [("wal/2.wal", 20), ("wal/2.wal", 9001), ("wal/3.wal", 153), (FIRST_SEGMENT, 81), (FIRST_SEGMENT, 8000)]
    total = run([("flip", path, offset, 1) for path, offset in places], plan)
    assert {"known loss", "unknown loss", "mended from peers", "of needless bytes"} <= total.counts.keys()


def test_a_failure_names_the_case_that_replays_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "flip no/such.file 4 1", "--jobs", "1"]) == 1
    assert "FAULT flip no/such.file 4 1: KeyError" in capsys.readouterr().out


def test_one_case_can_be_replayed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "page vote.a 0 zeros 0", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.endswith("0 faults\n")
