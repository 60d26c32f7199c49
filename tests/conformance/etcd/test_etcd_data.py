from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.etcd.__main__ import main
from tests.conformance.etcd.datadriven import FormatError, parse
from tests.conformance.etcd.suites import find_scripts, replay
from tests.shared import shared_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("folder", "at_least"), [("quorum", 77), ("confchange", 48), ("interaction", 18)])
def test_everything_in_the_folder_gives_the_expected_answer(folder: str, at_least: int) -> None:
    found = find_scripts(shared_path("conformance/etcd-raft") / folder)
    outcomes = [outcome for scripts in found.values() for script in scripts for outcome in replay(script)]
    assert [outcome.difference for outcome in outcomes if not outcome.is_equal] == []
    assert [outcome.name for outcome in outcomes if not outcome.is_same_order] == []
    assert len(outcomes) >= at_least


def test_the_command_counts_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shared_path("conformance/etcd-raft/quorum"))]) == 0
    assert capsys.readouterr().out == "77 of 77\n"


def test_a_folder_of_folders_is_counted_one_by_one_and_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "votes.txt").write_text("vote cfg=(1) votes=(y)\n----\nVoteWon\n")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "first: 1 of 1\nsecond: 1 of 1\n2 of 2\n"


def test_a_case_that_differs_is_named_with_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.txt").write_text("# a comment\nvote cfg=(1) votes=(y)\n----\nVoteLost\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "wrong.txt:2: vote: expected 'VoteLost', got 'VoteWon'\n0 of 1\n"


def test_a_file_that_is_no_script_is_named_and_counts_as_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("just words\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "notes.txt:1: no line of dashes after 'just words'\n0 of 1\n"


def test_a_case_that_cannot_be_run_counts_as_different(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.txt").write_text("committed cfg=(one) idx=(1)\n----\n1\n")
    assert main([str(tmp_path)]) == 1
    line, result = capsys.readouterr().out.splitlines()
    assert line.startswith("odd.txt:1: committed: expected '1', got \"ValueError: ")
    assert result == "0 of 1"


def test_a_folder_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "FOLDER" in capsys.readouterr().err


def test_a_folder_without_scripts_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 of 0\n"


def test_a_script_is_split_into_cases_with_arguments_input_and_output() -> None:
    text = "first a b=1 c=(2, 3)\nin 1\nin 2\n----\nout\n\nsecond \\\n  d=x\n----\n----\nout 1\n\nout 2\n----\n----\n"
    first, second = parse(text, file="f")
    assert (first.command, first.arguments) == ("first", {"a": [], "b": ["1"], "c": ["2", "3"]})
    assert (first.input, first.expected, first.place) == ("in 1\nin 2", "out", "f:1")
    assert (second.command, second.arguments, second.expected) == ("second", {"d": ["x"]}, "out 1\n\nout 2")


def test_a_directive_without_dashes_is_refused() -> None:
    with pytest.raises(FormatError, match="f:1"):
        parse("vote cfg=(1)\n", file="f")
