"""See the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conformance.etcd.suites import find_scripts, replay

if TYPE_CHECKING:
    from tests.conformance.etcd.outcome import Outcome


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m tests.conformance.etcd FOLDER", file=sys.stderr)
        return 2
    root = Path(arguments[0]).resolve()
    counts: dict[str, tuple[int, int]] = {}
    for folder, scripts in find_scripts(root).items():
        outcomes = [outcome for script in scripts for outcome in replay(script)]
        counts[str(folder.relative_to(root))] = _report(outcomes)
    if len(counts) > 1:
        for name, (equal, total) in counts.items():
            print(f"{name}: {equal} of {total}")
    equal, total = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    print(f"{equal} of {total}")
    return 0 if equal == total > 0 else 1


def _report(outcomes: list[Outcome]) -> tuple[int, int]:
    """Tell what differs and what is left out; how many are equal, of how many that were compared."""
    left_out = [outcome for outcome in outcomes if outcome.left_out]
    compared = [outcome for outcome in outcomes if not outcome.left_out]
    for outcome in compared:
        if not outcome.is_equal:
            print(outcome.difference)
    for outcome in left_out:
        print(f"left out: {outcome.name}: {outcome.left_out}")
    if left_out:
        print(f"left out, because only etcd's API has it: {len(left_out)}")
    return sum(outcome.is_equal for outcome in compared), len(compared)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
