"""What a simulated node reads as time: a crystal that drifts and a wall clock that may be set wrongly.

It must know nothing of log time: the node under test makes that from these readings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from logbroker.testing.scheduler import Scheduler

EPOCH_MS = 1_700_000_000_000
"""Wall time at the start of each simulation; any constant far from 0 would do."""

_PPM = 1_000_000


@final
class SimulatedClock:
    """The two clocks of one machine.

    Both run on one crystal, `drift_ppm` faster than true time. The wall clock is also `offset_ms` away
    from true time and can jump; the monotonic clock starts at 0 with each boot of the machine.
    """

    def __init__(self, scheduler: Scheduler, *, offset_ms: int = 0, drift_ppm: int = 0) -> None:
        self._scheduler = scheduler
        self._drift_ppm = drift_ppm
        self._drift_since_us = scheduler.now_us
        self._crystal_base_us = 0
        self._boot_us = 0
        self._wall_base_us = (EPOCH_MS + offset_ms) * 1000 + scheduler.now_us

    def wall_ms(self) -> int:
        return (self._wall_base_us + self._crystal_us()) // 1000

    def monotonic_ms(self) -> int:
        return (self._crystal_us() - self._boot_us) // 1000

    def jump(self, by_ms: int) -> None:
        """Set the wall clock `by_ms` forward, or back if negative; elapsed time is not touched."""
        self._wall_base_us += by_ms * 1000

    def set_like(self, other: SimulatedClock) -> None:
        """Set the wall clock to what another shows, and run as fast from now on, as under a time server."""
        self.set_drift(other._drift_ppm)
        self._wall_base_us += (other.wall_ms() - self.wall_ms()) * 1000

    def set_drift(self, drift_ppm: int) -> None:
        self._crystal_base_us = self._crystal_us()
        self._drift_since_us = self._scheduler.now_us
        self._drift_ppm = drift_ppm

    def reboot(self) -> None:
        """The machine, not only the process, starts again: elapsed time counts from 0."""
        self._boot_us = self._crystal_us()

    def _crystal_us(self) -> int:
        elapsed_us = self._scheduler.now_us - self._drift_since_us
        return self._crystal_base_us + elapsed_us + elapsed_us * self._drift_ppm // _PPM
