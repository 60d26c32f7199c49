"""Situations that have to be reached, and the minimising of a run that fails."""

from __future__ import annotations

import pytest

from logbroker.testing import command_line
from logbroker.testing.faults import FaultKind
from logbroker.testing.minimise import minimise, replay_command
from logbroker.testing.simulation import PARTS, Result, RunOptions, node_count_of, run_seed
from logbroker.testing.situations import REQUIRED, missing


def test_a_situation_that_was_never_reached_is_named() -> None:
    counts = dict.fromkeys(REQUIRED, 1)
    assert missing(counts) == []
    counts[REQUIRED[3]] = 0
    assert missing(counts) == [REQUIRED[3]]


def test_a_standard_run_with_a_blind_spot_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "STANDARD_RUNS", 2)
    monkeypatch.setattr(command_line, "run_seed", lambda seed, options: Result(seed))
    assert command_line.main(["--seeds", "2", "--quiet"]) == 1
    assert f"NEVER REACHED: {REQUIRED[0]}" in capsys.readouterr().out
    reached = dict.fromkeys(REQUIRED, 1)
    monkeypatch.setattr(command_line, "run_seed", lambda seed, options: Result(seed, situations=reached))
    assert command_line.main(["--seeds", "2", "--quiet"]) == 0


def test_a_shorter_run_needs_not_reach_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "run_seed", lambda seed, options: Result(seed))
    assert command_line.main(["--seeds", "3", "--quiet"]) == 0


def test_some_seeds_have_five_nodes() -> None:
    counts = [node_count_of(seed) for seed in range(1, 101)]
    assert counts.count(5) == 12
    assert set(counts) == {3, 5}


def test_a_name_that_nothing_has_is_refused() -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--without", "gravity"])


@pytest.mark.parametrize("part", [FaultKind.KILL.value, *PARTS])
def test_a_run_goes_well_with_a_part_of_it_left_out(part: str) -> None:
    result = run_seed(9, RunOptions(seconds=1, without=frozenset({part})))
    assert not result.failure
    assert not result.situations.get(f"fault: {part}")


def test_what_a_failure_does_not_need_is_left_out() -> None:
    """A run that fails as long as power is cut, and 10 s of faults are there, whatever else is."""

    def run(seed: int, options: RunOptions) -> Result:
        fails = "power cut" not in options.without and options.seconds >= 10
        return Result(seed, "it broke", "a rule", simulated_us=12_000_000) if fails else Result(seed)

    told: list[str] = []
    found = minimise(7, RunOptions(seconds=60), run=run, tell=told.append)
    assert found is not None
    smallest, result = found
    assert result.rule == "a rule"
    assert smallest.seconds == 12
    everything = {kind.value for kind in FaultKind} | set(PARTS)
    assert smallest.without == everything - {"power cut"}
    assert (smallest.group_count, smallest.clock_speed) == (1, 1)
    command = replay_command(7, smallest)
    assert command.startswith("tools/simulate --seed 7 --seconds 12 --nodes 3 --groups 1 --clock-speed 1 --without ")
    assert told


def test_a_run_that_does_not_fail_has_nothing_to_minimise() -> None:
    assert minimise(7, RunOptions(), run=lambda seed, options: Result(seed), tell=lambda line: None) is None
