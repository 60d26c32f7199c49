"""The breakers of one partition's consumer groups, while its leader leads. It must not propose: it says what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.partition.breaker import Breaker, counts, decide_trip, endings

if TYPE_CHECKING:
    from collections.abc import Collection

    from logbroker.ids import GroupName, Index
    from logbroker.partition.breaker import BreakerPolicy
    from logbroker.partition.commands import Pause
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outcomes import Applied


@final
class Breakers:
    """Counts in memory alone; at most one breaker for each group that there is.

    A leader begins at zero, and so does a group that was paused, whoever did it: what ends meanwhile says nothing of
    what the consumers will do afterwards.
    """

    def __init__(self) -> None:
        self.trips: dict[GroupName, int] = {}
        """How often each group was paused, since the start of the process."""
        self._breakers: dict[GroupName, Breaker] = {}
        # Of those, the ones that are to be paused, as they stood when something ended.
        self._tripping: dict[GroupName, None] = {}
        # Index of the newest pause or deletion of a group, as long as it is not applied.
        self._ending_at: dict[GroupName, Index] = {}

    @property
    def is_tripping(self) -> bool:
        return bool(self._tripping)

    def forget(self) -> None:
        """Begin at zero: what was proposed may be lost."""
        self._breakers.clear()
        self._tripping.clear()
        self._ending_at.clear()

    def begin_anew(self, group: GroupName, index: Index, *, applied: Index) -> None:
        """Count nothing of a group up to `index`, where a pause or the deletion of it was proposed.

        What is in the log before it may be applied when it is over already: a group that was paused and resumed within
        a moment must not be paused for what came before.
        """
        self._breakers.pop(group, None)
        self._tripping.pop(group, None)
        self._ending_at = {name: end for name, end in self._ending_at.items() if end > applied}
        self._ending_at[group] = index

    def count(self, policy: BreakerPolicy, machine: PartitionMachine, applied: Applied) -> None:
        """Take what an entry came to; `machine` is the state after it."""
        now_ms = machine.append_ms
        for group, acked, failed in endings(applied):
            if applied.index <= self._ending_at.get(group, 0) or not counts(machine, group, now_ms):
                continue
            breaker = self._breakers.get(group)
            if breaker is None or breaker.policy != policy:
                breaker = self._breakers[group] = Breaker(policy)
            breaker.add(now_ms, acked=acked, failed=failed)
            # After an ack too: the least count may be what was missing.
            if breaker.trips(now_ms) is not None:
                self._tripping[group] = None

    def due(self, ahead: PartitionMachine, now_ms: int) -> list[Pause]:
        """Return the pauses to propose; each is due until its group has to `begin_anew`."""
        found = [(group, decide_trip(ahead, group, self._breakers[group], now_ms=now_ms)) for group in self._tripping]
        for group, pause in found:
            if pause is None:
                del self._tripping[group]
        return [pause for _, pause in found if pause is not None]

    def was_committed(self, group: GroupName, present: Collection[GroupName]) -> None:
        """The pause of a group is in force; of groups that are not `present` any more nothing is kept."""
        trips = {name: count for name, count in self.trips.items() if name in present}
        self.trips = {**trips, group: trips.get(group, 0) + 1}
