from __future__ import annotations

import pytest

from tests.conformance.etcd.__main__ import main
from tests.conformance.etcd.datadriven import FormatError, parse
from tests.conformance.etcd.suites import find_scripts, replay
from tests.shared import shared_path


@pytest.mark.parametrize(("folder", "at_least"), [("quorum", 77), ("confchange", 48)])
def test_every_case_of_the_folder_gives_the_expected_answer(folder: str, at_least: int) -> None:
    scripts = find_scripts(shared_path("conformance/etcd-raft") / folder)
    outcomes = [outcome for script, suite in scripts.items() for outcome in replay(script, suite)]
    assert [outcome.describe() for outcome in outcomes if not outcome.is_equal] == []
    assert len(outcomes) >= at_least


def test_the_command_counts_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shared_path("conformance/etcd-raft/quorum"))]) == 0
    assert capsys.readouterr().out == "77 of 77\n"


def test_a_case_that_differs_is_named_with_what_differs(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("data") / "quorum"
    folder.mkdir()
    (folder / "wrong.txt").write_text("# a comment\nvote cfg=(1) votes=(y)\n----\nVoteLost\n")
    assert main([str(folder)]) == 1
    assert capsys.readouterr().out == "wrong.txt:2: vote: expected 'VoteLost', got 'VoteWon'\n0 of 1\n"


def test_a_folder_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "FOLDER" in capsys.readouterr().err


def test_a_script_is_split_into_cases_with_arguments_input_and_output() -> None:
    text = "first a b=1 c=(2, 3)\nin 1\nin 2\n----\nout\n\nsecond \\\n  d=x\n----\n----\nout 1\n\nout 2\n----\n----\n"
    first, second = parse(text, file="f")
    assert (first.command, first.arguments) == ("first", {"a": [], "b": ["1"], "c": ["2", "3"]})
    assert (first.input, first.expected, first.place) == ("in 1\nin 2", "out", "f:1")
    assert (second.command, second.arguments, second.expected) == ("second", {"d": ["x"]}, "out 1\n\nout 2")


def test_a_directive_without_dashes_is_refused() -> None:
    with pytest.raises(FormatError, match="f:1"):
        parse("vote cfg=(1)\n", file="f")
