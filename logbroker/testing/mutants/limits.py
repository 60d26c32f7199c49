"""Bugs in how long messages live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.partition import decide
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.retention import first_young_ms
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from logbroker.ids import GroupName, LeaseId
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outcomes import Buried, Nothing
    from logbroker.testing.mutants.planting import Patch


@mutant("old-leased", "B24", "what has outlived its time to live is leased until the timer has buried it")
def _(patch: Patch) -> None:
    decide_receive = decide.decide_receive

    def lax(machine: PartitionMachine, group: GroupName, **asked: object) -> decide.Decision:
        return decide_receive(machine, group, **asked | {"not_below": 0})  # type: ignore[arg-type]  # handed through

    patch.function(decide_receive, lax)


@mutant("dies-early", "B24", "a message dies a little before its time to live is over")
def _(patch: Patch) -> None:
    def early(now_ms: int, *, max_age_ms: int) -> int:
        return first_young_ms(now_ms, max_age_ms=max_age_ms) + 50

    patch.function(first_young_ms, early)


@mutant("young-buried", "B24", "all that is delayed dies with what is too old")
def _(patch: Patch) -> None:
    bury_old = ConsumerGroup.bury_old

    def greedy(
        group: ConsumerGroup, end: int, *, burial: LeaseId, append_ms: int, next_offset: int
    ) -> Buried | Nothing:
        end = max([end, *(run.end for run in group.table._waiting.values())])
        return bury_old(group, end, burial=burial, append_ms=append_ms, next_offset=next_offset)

    patch.attribute(ConsumerGroup, "bury_old", greedy)


@mutant("old-kept", "B22", "of what is too old, what was given back lives on")
def _(patch: Patch) -> None:
    bury_old = ConsumerGroup.bury_old

    def sparing(
        group: ConsumerGroup, end: int, *, burial: LeaseId, append_ms: int, next_offset: int
    ) -> Buried | Nothing:
        back = next((run.start for run in group.table.idle(end) if run.deliveries), end)
        return bury_old(group, back, burial=burial, append_ms=append_ms, next_offset=next_offset)

    patch.attribute(ConsumerGroup, "bury_old", sparing)
