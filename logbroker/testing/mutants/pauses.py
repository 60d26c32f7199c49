"""Bugs in what pauses and purges a consumer group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import Offset
from logbroker.node.partition_service import PartitionService
from logbroker.node.requests import GroupReply
from logbroker.partition import checkpoint, decide
from logbroker.partition.commands import Purge, Resume
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from logbroker.ids import GroupName
    from logbroker.node.requests import Answer, PauseRequest
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.commands import Change
    from logbroker.partition.outcomes import Nothing, Outcome, Purged
    from logbroker.testing.mutants.planting import Patch


@mutant("pause-forgotten", "B22", "a checkpoint does not bring back that a group is paused")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def spoiled(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        for group in machine._groups.values():
            group.pause = None
        return machine, meta

    patch.function(decode, spoiled)


@mutant("paused-leases", "B24", "a paused group is leased from")
def _(patch: Patch) -> None:
    patch.attribute(ConsumerGroup, "pause_at", lambda group, log_ms: None)


@mutant("pause-without-end", "B24", "a pause that has an end holds beyond it")
def _(patch: Patch) -> None:
    patch.attribute(ConsumerGroup, "pause_at", lambda group, log_ms: group.pause)


@mutant(
    "pause-end-unnoticed",
    "B26",
    "who waits for messages is not served when a pause ends",
    test="tests/unit/node/test_partition_service.py::test_who_waits_is_served_when_the_pause_ends",
)
def _(patch: Patch) -> None:
    next_visible_ms = decide.next_visible_ms

    def without_pauses(machine: PartitionMachine, group: GroupName) -> int | None:
        return None if machine.group(group).pause is not None else next_visible_ms(machine, group)

    patch.function(next_visible_ms, without_pauses)


@mutant("resume-wakes-nobody", "B26", "who waits for messages is not served when a group is resumed")
def _(patch: Patch) -> None:
    woken_by = PartitionMachine._woken_by

    def quiet(
        machine: PartitionMachine, changes: tuple[Change, ...], outcomes: tuple[Outcome, ...]
    ) -> tuple[GroupName, ...]:
        kept = [at for at, change in enumerate(changes) if not isinstance(change, Resume)]
        return woken_by(machine, tuple(changes[at] for at in kept), tuple(outcomes[at] for at in kept))

    patch.attribute(PartitionMachine, "_woken_by", quiet)


@mutant("pause-confirmed-early", "B20", "a pause is confirmed before it is committed")
def _(patch: Patch) -> None:
    pause = PartitionService._pause

    def hasty(service: PartitionService, request: PauseRequest, answer: Answer) -> None:
        pause(service, request, lambda _: None)
        answer(GroupReply(request.group, Offset(0)))

    patch.attribute(PartitionService, "_pause", hasty)


@mutant("purge-keeps-dead", "B22", "a purge leaves the dead as they are")
def _(patch: Patch) -> None:
    purge = ConsumerGroup.purge

    def sparing(group: ConsumerGroup, change: Purge, *, index: int, next_offset: int) -> Purged | Nothing:
        dead = [] if group.remembered_purge(change.rewind_id) else list(group.table.dead(0, change.end_offset))
        outcome = purge(group, change, index=index, next_offset=next_offset)
        for run in dead:
            group.table.lower_floor(run.start)
            group.table.put([run])
        return outcome

    patch.attribute(ConsumerGroup, "purge", sparing)


@mutant("purge-again", "B22", "a purge that is repeated settles what has come since")
def _(patch: Patch) -> None:
    purge = ConsumerGroup.purge

    def renamed(group: ConsumerGroup, change: Purge, *, index: int, next_offset: int) -> Purged | Nothing:
        another = Purge(change.group, FIRST_PURGE_ID + index, change.end_offset, change.requested)
        return purge(group, another, index=index, next_offset=next_offset)

    patch.attribute(ConsumerGroup, "purge", renamed)
