"""See the package."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.etcd.suites import find_scripts, replay


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m tests.conformance.etcd FOLDER", file=sys.stderr)
        return 2
    total = equal = 0
    for script, suite in find_scripts(Path(arguments[0]).resolve()).items():
        for outcome in replay(script, suite):
            total += 1
            equal += outcome.is_equal
            if not outcome.is_equal:
                print(outcome.describe())
    print(f"{equal} of {total}")
    return 0 if equal == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
