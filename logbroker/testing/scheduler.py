"""Virtual time: one heap of events, one seed, nothing else that could differ between two runs.

Everything random in a simulation is drawn from `Scheduler.random(name)`. Each name has a stream of its
own, so that a draw added in one place leaves the others as they were, and a fault that is switched off
does not reshuffle the rest of the run. It must know nothing of nodes, disks or messages.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

US_PER_MS = 1_000
US_PER_S = 1_000_000

_TRACE_EVENTS = 600
_DIGEST_BATCH = 256


@final
class Timer:
    """One event to come. Cancelling it is cheap: it stays in the heap and does nothing."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None


@final
class Scheduler:
    """A heap event loop whose clock moves only from event to event.

    Events of the same microsecond run in the order in which they were scheduled. Whatever an action
    raises ends the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = 0
        self.events_run = 0
        self._sequence = 0
        self._heap: list[tuple[int, int, Timer]] = []
        self._hash = blake2b(digest_size=16)
        self._unhashed: list[tuple[int, str, tuple[int | str, ...]]] = []
        self._trace: deque[tuple[int, str, tuple[int | str, ...]]] = deque(maxlen=_TRACE_EVENTS)

    def random(self, name: str) -> Random:
        """A stream of random numbers that depends on the seed and `name` alone.

        Seeding with text goes through SHA-512, so it does not depend on the hash seed of the process.
        """
        return Random(f"{self.seed}/{name}")

    def after(self, delay_us: int, action: Callable[[], object]) -> Timer:
        return self.at(self.now_us + delay_us, action)

    def at(self, time_us: int, action: Callable[[], object]) -> Timer:
        """Run `action` at `time_us`, or next of all when that is already past."""
        timer = Timer(action)
        self._sequence += 1
        heappush(self._heap, (max(time_us, self.now_us), self._sequence, timer))
        return timer

    def run_until(self, end_us: int) -> None:
        """Run every event up to `end_us` inclusive; afterwards it is `end_us`."""
        heap = self._heap
        while heap and heap[0][0] <= end_us:
            time_us, _, timer = heappop(heap)
            action = timer.action
            if action is not None:
                self.now_us = time_us
                self.events_run += 1
                action()
        self.now_us = max(self.now_us, end_us)

    def run_for(self, duration_us: int) -> None:
        self.run_until(self.now_us + duration_us)

    def note(self, what: str, *values: int | str) -> None:
        """Put one happening into the event digest and into the trace that a failure prints."""
        happening = (self.now_us, what, values)
        self._trace.append(happening)
        self._unhashed.append(happening)
        if len(self._unhashed) >= _DIGEST_BATCH:
            self._hash_pending()

    def digest(self) -> str:
        """Digest of every happening so far: equal for equal seeds, or something was not deterministic."""
        self._hash_pending()
        return self._hash.hexdigest()

    def trace(self, count: int = _TRACE_EVENTS) -> list[str]:
        """The last happenings as lines of text, oldest first."""
        lines = list(self._trace)[-count:]
        return [f"{time_us / US_PER_S:12.6f} {what} {' '.join(map(str, values))}" for time_us, what, values in lines]

    def _hash_pending(self) -> None:
        self._hash.update(repr(self._unhashed).encode())
        self._unhashed.clear()
