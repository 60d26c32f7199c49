"""Every stage of the budget can be called; what it costs is not for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.partition.machine import PartitionMachine
from tools.bench import budget

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from logbroker.entry import Entry
    from logbroker.partition.outcomes import Applied


def test_every_stage_and_every_limit_gives_a_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(budget, "_RUNS", 1)
    monkeypatch.setattr(budget, "_RUN_SECONDS", 0.0)
    monkeypatch.setattr(budget, "_APPLY_ROUNDS", 2)
    stages = budget.stages()
    assert {who for who, _, _ in stages} == {"producer", "leader", "follower", "every node", "consumer"}
    assert all(cost >= 0 for _, _, cost in stages)
    monkeypatch.setattr(budget, "_sync_ms", lambda _folder, _size_bytes: (0.1, 0.2))
    assert all(figure for _, figure in budget.limits(tmp_path))


def test_an_ack_in_the_budget_settles_what_its_lease_took(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[object] = []
    apply = PartitionMachine.apply

    def watched(machine: PartitionMachine, entry: Entry) -> Applied:
        applied = apply(machine, entry)
        outcomes.extend(applied.outcomes)
        return applied

    monkeypatch.setattr(PartitionMachine, "apply", watched)
    monkeypatch.setattr(budget, "_RUNS", 1)
    monkeypatch.setattr(budget, "_RUN_SECONDS", 0.0)
    monkeypatch.setattr(budget, "_APPLY_ROUNDS", 2)
    budget.stages()
    assert [type(outcome).__name__ for outcome in outcomes] == ["Produced", "Leased", "Settled"] * 2
