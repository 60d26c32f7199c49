"""Named scenarios: small deterministic scripts, each of which reaches one danger and proves that it did."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.testing.scenarios.cluster import CLUSTER_SCENARIOS
from logbroker.testing.scenarios.store import STORE_SCENARIOS
from logbroker.testing.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIOS: dict[str, Callable[[], dict[str, int]]] = {**STORE_SCENARIOS, **CLUSTER_SCENARIOS}
"""Each returns counters of what it reached, none of which may be 0."""


@final
@dataclass(slots=True)
class Outcome:
    """How a scenario went; `failure` is empty where it held and reached what it was to reach."""

    name: str
    failure: str = ""
    reached: dict[str, int] = field(default_factory=dict)


def run_scenario(name: str) -> Outcome:
    """Run one scenario; raises nothing but KeyError for an unknown name."""
    script = SCENARIOS[name]
    outcome = Outcome(name)
    try:
        outcome.reached = script()
    except Violation as violation:
        outcome.failure = str(violation)
    except Exception as error:
        outcome.failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    missed = [what for what, count in outcome.reached.items() if not count]
    if missed and not outcome.failure:
        outcome.failure = f"did not reach: {', '.join(missed)}"
    return outcome
