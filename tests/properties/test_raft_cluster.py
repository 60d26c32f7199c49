"""Whatever happens to messages, writes and replicas, the promises of Raft (figure 3) hold at each step.

The faults and the checks are in `tests.raft_kit.chaos`; a failure names its seed.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.raft_kit.chaos import Chaos

SEEDS = 60
STEPS = 2000
SHAPES = {
    "three voters": {"voters": 3},
    "five voters": {"voters": 5},
    "three voters and two to come": {"voters": 3, "spares": 2},
    "one voter and two to come": {"voters": 1, "spares": 2},
}
MUST_HAPPEN = (
    "leader",
    "crash with writes on their way",
    "compact",
    "read confirmed",
    "transfer",
    "pre-vote after a closed connection",
    "refused too_much_uncommitted",
)
MUST_HAPPEN_AMONG_MANY = ("deliver TIMEOUT_NOW", "refused no_commit_in_term")
MUST_HAPPEN_WITH_CHANGES = ("snapshot taken", "change of configuration", "refused config_pending")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_promises_of_raft_hold_and_the_group_comes_to_rest(shape: str) -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        chaos = Chaos(seed, **SHAPES[shape])
        try:
            chaos.run(STEPS)
            chaos.calm_down()
        except Exception as error:
            raise AssertionError(f"{shape}, seed {seed}: {error}") from error
        happened += chaos.happened
    expected: tuple[str, ...] = MUST_HAPPEN
    expected += MUST_HAPPEN_WITH_CHANGES if "spares" in SHAPES[shape] else ()
    expected += MUST_HAPPEN_AMONG_MANY if SHAPES[shape]["voters"] > 1 else ()
    assert [situation for situation in expected if not happened[situation]] == []


def test_the_same_seed_is_the_same_run() -> None:
    runs = []
    for _ in range(2):
        chaos = Chaos(7, voters=3, spares=2)
        chaos.run(500)
        runs.append((chaos.happened, [replica.disk.all_entries() for replica in chaos.replicas]))
    assert runs[0] == runs[1]
