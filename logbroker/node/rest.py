"""Which replicas a tick looks at: those that something was done to, and those whose time has come.

Nearly all groups of a large node rest at nearly all ticks, and a glance at each of a thousand costs more than all that
is done for the few that are due. It must not let one rest that has something to do: whatever is done to a replica has
it rise, and none rests longer than it said itself.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from logbroker.ids import GroupId
    from logbroker.node.replica import Replica

NEVER_MS = 1 << 62
"""As a time at which something is due: it is not."""


@final
class Rest:
    """Of the replicas in `replicas`, which are the engine's; one that is not there any more is not looked at."""

    def __init__(self, replicas: Mapping[GroupId, Replica]) -> None:
        self._replicas = replicas
        self._risen: dict[GroupId, Replica] = {}
        # By the tick that it is due at. Who has risen meanwhile is due at another one by now.
        self._by_tick: dict[int, list[Replica]] = {}
        # By monotonic time, in ms, in the same way; bounded, for nobody is due at a time more than some seconds ahead.
        self._by_time: list[tuple[int, GroupId]] = []
        self._beating: dict[GroupId, Replica] = {}

    def rise(self, replica: Replica) -> None:
        """The next tick looks at it, unless it is gone: then another one may be in its place."""
        replica.due_tick = 0
        if self._replicas.get(replica.group) is replica:
            self._risen[replica.group] = replica

    def take_due(self, tick: int, now_ms: int) -> list[Replica]:
        """Those to be looked at in this tick; each is to `lie_down` after it. To be called at every tick."""
        replicas, due = self._replicas, self._risen
        self._risen = {}
        for replica in self._by_tick.pop(tick, ()):
            # In the place of one that is gone there may be another by now.
            if replica.due_tick == tick and replicas.get(replica.group) is replica:
                due[replica.group] = replica
        while self._by_time and self._by_time[0][0] <= now_ms:
            due_ms, group = heappop(self._by_time)
            resting = replicas.get(group)
            if resting is not None and resting.due_ms == due_ms:
                due[group] = resting
        return [replica for replica in due.values() if replicas.get(replica.group) is replica]

    def take_all(self) -> list[Replica]:
        """All, because none may rest now; in the place of `take_due`."""
        self._risen.clear()
        self._by_tick.clear()
        self._by_time.clear()
        self._beating.clear()
        return list(self._replicas.values())

    def lie_down(self, replica: Replica, tick: int, now_ms: int) -> None:
        """Its tick is over, and says when the next one is due."""
        group = replica.group
        is_resting = replica.due_tick > tick
        if replica.core.claim_beats() or (is_resting and replica.rests_leading):
            self._beating[group] = replica
        else:
            self._beating.pop(group, None)
        if replica.failed is not None:
            return
        if not is_resting or replica.due_ms <= now_ms:
            self._risen[group] = replica
            return
        self._by_tick.setdefault(replica.due_tick, []).append(replica)
        if replica.due_ms < NEVER_MS:
            heappush(self._by_time, (replica.due_ms, group))

    def forget(self, group: GroupId) -> None:
        self._beating.pop(group, None)

    def beating(self) -> Sequence[Replica]:
        """Those whose heartbeats are due at this tick."""
        return list(self._beating.values())
