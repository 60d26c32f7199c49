"""Which folder is replayed how, and what of its output has a meaning for us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from tests.conformance.etcd import quorum
from tests.conformance.etcd.confchange import ConfigScript
from tests.conformance.etcd.datadriven import parse_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conformance.etcd.datadriven import Case


@final
@dataclass(frozen=True, slots=True)
class Suite:
    """`start` begins a file and gives what runs its cases in order; `relevant` cuts output to what is compared."""

    start: Callable[[], Callable[[Case], str]]
    relevant: Callable[[str], str]


SUITES: Final = {
    "quorum": Suite(start=lambda: quorum.run, relevant=quorum.answer_line),
    "confchange": Suite(start=lambda: ConfigScript().run, relevant=str.strip),
}


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    expected: str
    got: str

    @property
    def is_equal(self) -> bool:
        return self.expected == self.got

    def describe(self) -> str:
        command = f"{self.case.place}: {self.case.command}"
        return f"{command}: expected {self.expected!r}, got {self.got!r}"


def find_scripts(folder: Path) -> dict[Path, Suite]:
    """The scripts of `folder`, or of its sub-folders, that a suite is there for."""
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return {
        script: SUITES[place.name]
        for place in folders
        if place.name in SUITES
        for script in sorted(place.glob("*.txt"))
    }


def replay(script: Path, suite: Suite) -> Iterator[Outcome]:
    run = suite.start()
    for case in parse_file(script):
        yield Outcome(case, suite.relevant(case.expected), suite.relevant(run(case)))
