"""The scripts beside this file come to what stands in them. `SCENARIOS=rewrite` writes what they come to instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.partition.script import played

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_a_script_comes_to_what_it_says(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    found = played(text)
    if os.environ.get("SCENARIOS") == "rewrite":
        script.write_text(found, encoding="utf-8")
    assert found == text
