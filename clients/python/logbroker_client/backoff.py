"""How long to wait before another try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Doubles with each failure up to a bound; half of it is chance, so that clients do not come in step."""

    first_s: float = 0.02
    max_s: float = 1.0

    def delay_s(self, failure_count: int, *, chance: float) -> float:
        """The wait after `failure_count` failures in a row, the first being 1; `chance` is in [0, 1)."""
        full_s = min(self.max_s, self.first_s * 2.0 ** min(failure_count - 1, 30))
        return full_s * (0.5 + 0.5 * chance)
