"""Bugs in how long messages live, and how many there may be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logbroker.errors import QueueFullError
from logbroker.ids import Offset
from logbroker.node.partition_service import PartitionService
from logbroker.node.retained import RetainedBytes
from logbroker.partition import checkpoint, decide
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.limits import NO_LIMITS, SizeLimits, check_room, first_offset_within
from logbroker.partition.retention import first_young_ms
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from logbroker.ids import GroupName, LeaseId
    from logbroker.node.requests import Answer, ProduceRequest
    from logbroker.partition.checkpoint import CheckpointMeta
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
        end = max([end, *(run.end for run in group.table._by_start.values())])
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


@mutant("full-taken", "B31", "a full queue takes as much again as it may hold")
def _(patch: Patch) -> None:
    def lax(machine: PartitionMachine, limits: SizeLimits, *, count: int, size_bytes: int, held_bytes: int) -> None:
        twice = SizeLimits(2 * limits.max_messages, 2 * limits.max_bytes)
        check_room(machine, twice, count=count, size_bytes=size_bytes, held_bytes=held_bytes)

    patch.function(check_room, lax)


@mutant("refused-appended", "B31", "a batch that a full queue refuses is in the log all the same")
def _(patch: Patch) -> None:
    produce = PartitionService._produce

    def greedy(service: PartitionService, request: ProduceRequest, answer: Answer) -> None:
        try:
            produce(service, request, answer)
        except QueueFullError:
            settings = service.settings
            service.settings = replace(settings, limits=NO_LIMITS)
            produce(service, request, lambda _: None)
            service.settings = settings
            raise

    patch.attribute(PartitionService, "_produce", greedy)


@mutant("drops-too-many", "B30", "where there are too many messages, half of them go")
def _(patch: Patch) -> None:
    def half(machine: PartitionMachine, max_messages: int) -> Offset:
        return first_offset_within(machine, max_messages // 2)

    patch.function(first_offset_within, half)


@mutant("never-dropped", "B30", "a queue that lets its oldest messages go lets none go")
def _(patch: Patch) -> None:
    patch.attribute(PartitionService, "_drop_oldest", lambda service, **_: None)


@mutant("bytes-uncounted", "B30", "bytes are counted from the beginning, whatever was dropped")
def _(patch: Patch) -> None:
    patch.attribute(RetainedBytes, "held_bytes", lambda retained, log_start: retained._seen_bytes)
    patch.attribute(
        RetainedBytes,
        "first_offset_within",
        lambda retained, max_bytes: retained._marks[len(retained._marks) // 2][0] if retained._marks else Offset(0),
    )


@mutant("window-ignored", "B25", "a rewind reaches back as far as messages are kept")
def _(patch: Patch) -> None:
    patch.attribute(PartitionService, "_rewind_floor", lambda service, rewind_ms: Offset(0))


@mutant("window-short", "B25", "what is settled can be rewound for half of its time")
def _(patch: Patch) -> None:
    floor = PartitionService._rewind_floor
    patch.attribute(PartitionService, "_rewind_floor", lambda service, rewind_ms: floor(service, rewind_ms // 2))


@mutant("rewind-floor-forgotten", "B22", "a checkpoint brings back what could be rewound no more")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def spoiled(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        machine.rewind_floor = Offset(0)
        return machine, meta

    patch.function(decode, spoiled)
