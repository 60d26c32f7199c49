"""What came of one thing that was compared: a case, or a whole interaction script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """`difference` is a whole line for a reader; `left_out` says why nothing was compared."""

    name: str
    is_equal: bool
    difference: str = ""
    left_out: str = ""
    is_same_order: bool = True
    """Messages left in the same order too, which is more than is asked for."""
