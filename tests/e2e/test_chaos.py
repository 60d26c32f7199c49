"""The chaos tool itself: a few seconds of it, as an operator and as CI start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of faults, and for everything; on two idle cores it takes half a minute in all.
FAULTS_S, DEADLINE_S = 8, 160

pytestmark = [pytest.mark.slow, pytest.mark.timeout(DEADLINE_S + 20)]


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.chaos_kit", "--minutes", str(FAULTS_S / 60), "--seed", "1", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_a_short_run_on_loopback_is_clean_and_says_aloud_what_it_skips(tmp_path: Path) -> None:
    done = chaos("--loopback", "--faults", "kill,cut", "--json", str(tmp_path / "figures"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALL NODES ON LOOPBACK" in done.stdout
    assert "SKIPPED cut" in done.stdout
    assert "lost 0, doubled 0, overlapping leases 0, stuck 0" in done.stdout
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["is_clean"]
    assert set(figures["faults"]) == {"kill"}
    assert figures["totals"]["confirmed"] > 0
    assert figures["totals"]["features"]["messages confirmed in queues of features"] > 0


def test_a_run_in_which_every_fault_is_skipped_is_not_clean() -> None:
    done = chaos("--loopback", "--faults", "cut,one_way")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT CLEAN" in done.stdout
