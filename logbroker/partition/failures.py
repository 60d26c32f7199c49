"""What a queue does with messages that fail: how often they are tried, and how long they wait in between.

The policy decides what the leader proposes; a replica that applies never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MAX_BACKOFF_MS = 3_600_000


@final
@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """`max_deliveries` 0 is no limit, `backoff_ms` 0 no wait. Of each wait the share `jitter` is left to chance."""

    max_deliveries: int = 0
    backoff_ms: int = 0
    max_backoff_ms: int = DEFAULT_MAX_BACKOFF_MS
    backoff_factor: int = 2
    jitter: float = 0.2

    def is_spent(self, deliveries: int) -> bool:
        """Say whether a message that fails now, with so many deliveries begun, is dead."""
        return 0 < self.max_deliveries <= deliveries

    def backoff_after(self, deliveries: int) -> int:
        """Return the longest wait after so many failed deliveries, at least one, in ms."""
        wait_ms = min(self.backoff_ms, self.max_backoff_ms)
        for _ in range(deliveries - 1):
            if wait_ms >= self.max_backoff_ms or not wait_ms or self.backoff_factor <= 1:
                break
            wait_ms = min(wait_ms * self.backoff_factor, self.max_backoff_ms)
        return wait_ms

    def jittered(self, wait_ms: int, chance: Callable[[], float]) -> int:
        """Shorten a wait by up to its share of chance; `chance` gives a number in [0, 1)."""
        return wait_ms - int(wait_ms * self.jitter * chance()) if wait_ms else 0


NO_POLICY = FailurePolicy()
