"""The planted bugs that the simulator is measured by; see the README of `logbroker.testing`.

`MUTANTS` has them all; `search` looks for the seeds that show them, and `record.md` keeps those that did.
"""

from __future__ import annotations

from logbroker.testing.mutants import (
    breakers,
    catalogue,
    delays,
    failures,
    ids,
    limits,
    moves,
    order,
    partition,
    pauses,
    raft,
    storage,
)
from logbroker.testing.mutants.planting import MUTANTS, Mutant, Patch, planted

__all__ = [
    "MUTANTS",
    "Mutant",
    "Patch",
    "breakers",
    "catalogue",
    "delays",
    "failures",
    "ids",
    "limits",
    "moves",
    "order",
    "partition",
    "pauses",
    "planted",
    "raft",
    "storage",
]
