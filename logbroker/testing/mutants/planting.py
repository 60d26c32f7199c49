"""How a bug is planted into the tested code, and taken out again.

A mutant takes one promise out of the running program by replacing functions in memory; no file of the tested code
knows of it. It must know nothing of seeds and checkers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

from logbroker.raft.core import HANDLERS

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from logbroker.testing.faults import FaultKind

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@final
class Patch:
    """Replacements in living classes, modules and tables. Taken back in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def attribute(self, owner: object, name: str, value: object) -> None:
        """Give a class or module another attribute; it must have one of that name itself."""
        old = vars(owner)[name]
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, old))

    def function(self, old: Callable[..., object], new: Callable[..., object]) -> None:
        """Replace a module's function wherever it was imported by name, and in the table of the Raft core."""
        for module in [module for name, module in sys.modules.items() if _is_tested(name)]:
            for name in [name for name, value in vars(module).items() if value is old]:
                self.attribute(module, name, new)
        for table in HANDLERS.values():
            if isinstance(table, dict):
                for kind in [kind for kind, handler in table.items() if handler is old]:
                    self._item(table, kind, new)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _item(self, table: MutableMapping[_Key, _Value], key: _Key, value: _Value) -> None:
        old = table[key]
        table[key] = value
        self._undo.append(lambda: table.__setitem__(key, old))


def _is_tested(module: str) -> bool:
    """The modules here keep what they replace."""
    return module.split(".")[0] == "logbroker" and not module.startswith(__package__)


Plant = Callable[[Patch], None]


@final
@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug. `classes` are those of the list of bug classes that it stands for.

    `test` names the tests that must fail with it, where the simulator does not run the code that it spoils, or no seed
    of the first twenty showed it.
    """

    name: str
    classes: tuple[str, ...]
    what: str
    plant: Plant
    test: str = ""
    faults: tuple[FaultKind, ...] = ()
    """Kinds of faults that are on, and frequent, in every seed of the search: without them the bug does nothing."""


MUTANTS: dict[str, Mutant] = {}
"""All mutants by name; filled as the modules that plant them are imported."""


def mutant(name: str, classes: str, what: str, *faults: FaultKind, test: str = "") -> Callable[[Plant], Plant]:
    """Register the function below as a mutant; `classes` is a list of words."""

    def register(plant: Plant) -> Plant:
        if name in MUTANTS:
            raise ValueError(f"mutant {name} is there already")
        MUTANTS[name] = Mutant(name, tuple(classes.split()), what, plant, test, faults)
        return plant

    return register


@contextmanager
def planted(bug: Mutant) -> Iterator[None]:
    """The tested code has the bug inside of the block."""
    patch = Patch()
    try:
        bug.plant(patch)
        yield
    finally:
        patch.undo()
