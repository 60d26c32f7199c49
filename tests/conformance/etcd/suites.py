"""Which script is replayed how, and what of its output has a meaning for us.

The commands of a script say what it is about, so that it does not matter how a folder is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logbroker.errors import LogBrokerError
from tests.conformance.etcd import quorum
from tests.conformance.etcd.confchange import ConfigScript
from tests.conformance.etcd.datadriven import parse_file
from tests.conformance.etcd.interaction import replay_script
from tests.conformance.etcd.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.conformance.etcd.datadriven import Case

_QUORUM_COMMANDS: Final = frozenset({"committed", "vote"})
_CONFIG_COMMANDS: Final = frozenset({"simple", "enter-joint", "leave-joint"})


def find_scripts(folder: Path) -> dict[Path, list[Path]]:
    """The scripts below `folder`, by the folder that holds them."""
    found: dict[Path, list[Path]] = {}
    for script in sorted(folder.rglob("*.txt")):
        found.setdefault(script.parent, []).append(script)
    return found


def replay(script: Path) -> Iterator[Outcome]:
    """Compare one script: an outcome for each case, or a single one for a script of interactions."""
    try:
        cases = parse_file(script)
    except ValueError as error:
        # No script, or not even text.
        yield Outcome(script.name, is_equal=False, difference=str(error))
        return
    commands = {case.command for case in cases}
    if commands <= _QUORUM_COMMANDS:
        yield from _replay_cases(cases, quorum.run, quorum.answer_line)
    elif commands <= _CONFIG_COMMANDS:
        yield from _replay_cases(cases, ConfigScript().run, str.strip)
    else:
        yield replay_script(cases)


def _replay_cases(
    cases: Sequence[Case], run: Callable[[Case], str], relevant: Callable[[str], str]
) -> Iterator[Outcome]:
    for case in cases:
        try:
            output = run(case)
        except (LogBrokerError, LookupError, ValueError) as error:
            output = f"{type(error).__name__}: {error}"
        expected, got = relevant(case.expected), relevant(output)
        difference = f"{case.place}: {case.command}: expected {expected!r}, got {got!r}"
        yield Outcome(case.place, is_equal=expected == got, difference=difference)
