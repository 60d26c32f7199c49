"""Whole runs from fixed seeds, and that a seed is all a run depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from logbroker.testing.simulation import RunOptions, run_seed

_SECONDS = 8
_DIGEST_SCRIPT = """
from logbroker.testing.simulation import RunOptions, run_seed
print(*(run_seed(seed, RunOptions(seconds=2)).digest for seed in (3, 4)))
"""


@pytest.mark.parametrize("seed", range(1, 21))
def test_three_nodes_keep_every_promise(seed: int) -> None:
    result = run_seed(seed, RunOptions(seconds=_SECONDS))
    assert not result.failure, f"{result.failure}\n{result.plan}\n" + "\n".join(result.trace[-40:])


@pytest.mark.parametrize(("seed", "nodes"), [(1, 5), (2, 5), (3, 5), (1, 1), (2, 1), (3, 1), (4, 1)])
def test_other_sizes_keep_every_promise(seed: int, nodes: int) -> None:
    result = run_seed(seed, RunOptions(seconds=_SECONDS, node_count=nodes))
    assert not result.failure, f"{result.failure}\n{result.plan}\n" + "\n".join(result.trace[-40:])


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (run_seed(11, RunOptions(seconds=4)) for _ in range(2))
    assert first.digest == second.digest
    assert first.events == second.events > 1_000
    assert first.situations == second.situations


def test_another_seed_gives_another_run() -> None:
    assert run_seed(11, RunOptions(seconds=1)).digest != run_seed(12, RunOptions(seconds=1)).digest


def test_a_run_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    def digests(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST_SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        return done.stdout

    assert digests("1") == digests("2") != "\n"
