"""Joins the pure log clock to the readings of this process's clocks, which are injected."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.ids import NodeId
from logbroker.partition.log_time import ClockSettings, ClockStatus, LogClock, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

_MS = 1_000_000


@final
class ReadingClock:
    """The engine's `NodeClock`: `read` gives the wall and monotonic clocks at one moment."""

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        cluster_size: int,
        last_append_ms: int,
        settings: ClockSettings | None = None,
    ) -> None:
        self._read = read
        self.log_clock = LogClock(read(), cluster_size=cluster_size, last_append_ms=last_append_ms, settings=settings)

    def tick(self) -> None:
        self.log_clock.observe(self._read())

    def peer_says(self, node: NodeId, wall_ms: int) -> None:
        self.log_clock.peer_says(node, wall_ns=wall_ms * _MS, reading=self._read())

    def start_clock(self, last_append_ms: int) -> Callable[[int], int]:
        clock = self.log_clock.lead(self._read(), last_append_ms=last_append_ms)
        return lambda previous_ms: clock.append_ms(self._read(), previous_ms=previous_ms)

    def may_lead(self) -> bool:
        return self.log_clock.may_lead()

    def may_stamp(self) -> bool:
        return self.log_clock.may_stamp()

    def may_floor(self) -> bool:
        return self.log_clock.floor_by_time_allowed(self._read())

    def accept(self) -> None:
        """The operator's word that this node's wall clock is right."""
        self.log_clock.accept(self._read())

    def monotonic_ms(self) -> int:
        return self._read().monotonic_ns // _MS

    def wall_ms(self) -> int:
        return self._read().wall_ns // _MS

    def status(self) -> ClockStatus:
        return self.log_clock.status(self._read())
