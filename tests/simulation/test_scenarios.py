"""Every named scenario holds, and reaches the danger that it is named after."""

from __future__ import annotations

import pytest

from logbroker.testing.scenarios import SCENARIOS, run_scenario
from logbroker.testing.violation import broken


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_scenario(name: str) -> None:
    outcome = run_scenario(name)
    assert not outcome.failure, outcome.failure
    assert outcome.reached


def test_a_scenario_that_misses_its_danger_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCENARIOS, "planted", lambda: {"reached": 1, "missed": 0})
    assert run_scenario("planted").failure == "did not reach: missed"


def test_a_scenario_that_breaks_a_promise_or_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCENARIOS, "planted", lambda: broken("a rule", "what happened"))
    assert run_scenario("planted").failure == "a rule: what happened"
    monkeypatch.setitem(SCENARIOS, "planted", lambda: {"reached": 1 // 0})
    assert run_scenario("planted").failure.startswith("ZeroDivisionError")
