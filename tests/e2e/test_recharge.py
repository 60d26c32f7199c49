"""The recharge example on three real nodes, one of which is killed on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the first process to the last; it takes about ten seconds on two idle cores.
DEADLINE_S = 100


@pytest.mark.slow
def test_the_books_balance_although_a_leader_is_killed_and_a_bad_build_is_deployed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    done = subprocess.run(
        [sys.executable, "-m", "tools.playground", "--exit", "--messages", "300", "--folder", str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "balanced to the cent" in done.stdout
    assert "has a new leader" in done.stdout
    assert "is back" in done.stdout
    assert (folder / "pids").read_text() == "", "nodes were left behind"
