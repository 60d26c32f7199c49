"""Plants a bug before pytest collects tests: `-p logbroker.testing.mutants.in_tests --mutant NAME`.

For code that the simulator does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.testing.mutants import MUTANTS, Patch

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", choices=sorted(MUTANTS), help="the bug to plant")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--mutant")
    if name:
        MUTANTS[name].plant(Patch())
