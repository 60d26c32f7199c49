"""Actions that are due at a time. Nothing here reads a clock: the owner says what time it is."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Timers:
    """A heap of actions. There is no cancelling: an action looks whether it is still wanted."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def next_at(self) -> float:
        """When the next action is due; infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, due_at: float, action: Callable[[], None]) -> bool:
        """Give whether the new action is the next."""
        number = next(self._numbers)
        heapq.heappush(self._heap, (due_at, number, action))
        return self._heap[0][1] == number

    def run(self, now: float) -> None:
        """Carry out what is due, in order of time, and what that adds if it is due too."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
