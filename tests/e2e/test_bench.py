"""The measuring command on a real cluster, as short as it goes: that it works, not what it finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools.bench.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_work_gives_a_table_a_picture_and_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plot = tmp_path / "runs.jsonl", tmp_path / "runs.svg"
    arguments = [
        "--rounds",
        "1",
        "--seconds",
        "0.1",
        "--work",
        "one",
        "--max-other",
        "9",
        "--folder",
        str(tmp_path / "data"),
    ]
    assert main([*arguments, "--json", str(output), "--plot", str(plot)]) == 0
    described, row = [json.loads(line) for line in output.read_text().splitlines()]
    assert "logbroker" in described["systems"]
    assert row["work"] == "one"
    assert row["per_second"] > 0
    assert "faults" not in row
    assert "### one: one message outstanding" in capsys.readouterr().out
    assert plot.read_text().startswith("<svg")


def test_a_work_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", "nonsense"]) == 1
    assert "there is no work 'nonsense'" in capsys.readouterr().err
