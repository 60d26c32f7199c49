"""Bugs in what becomes of messages that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logbroker.node.partition_service import PartitionService
from logbroker.partition import checkpoint, decide
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.outcomes import Revived
from logbroker.partition.runs import Run, RunState, RunTable
from logbroker.partition.schedule import Schedule
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.ids import GroupName, LeaseId
    from logbroker.node.requests import ReceiveRequest
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.commands import Change, Lease, Ranges, Rewind
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outcomes import Leased, Nothing, Settled
    from logbroker.testing.mutants.planting import Patch


@mutant("dead-delivered", "B23", "what is dead is leased again")
def _(patch: Patch) -> None:
    take, eligible = ConsumerGroup.lease, RunTable.eligible

    def with_dead(table: RunTable, now_ms: int, end: int) -> Iterator[Run]:
        yield from table.dead(0, end)
        yield from eligible(table, now_ms, end)

    def lax(
        group: ConsumerGroup, change: Lease, *, lease: LeaseId, append_ms: int, next_offset: int
    ) -> Leased | Nothing:
        for start, end in change.ranges:
            for run in list(group.table.dead(start, end)):
                group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        return take(group, change, lease=lease, append_ms=append_ms, next_offset=next_offset)

    patch.attribute(RunTable, "eligible", with_dead)
    patch.attribute(ConsumerGroup, "lease", lax)


@mutant("tried-once-more", "B24", "a message is tried once more than its queue allows")
def _(patch: Patch) -> None:
    patch.attribute(FailurePolicy, "is_spent", lambda policy, deliveries: 0 < policy.max_deliveries < deliveries)


@mutant("expiry-ignores-max", "B24", "a lease that runs out never kills, however often the message was tried")
def _(patch: Patch) -> None:
    decide_expire = decide.decide_expire

    def lenient(machine: PartitionMachine, *, now_ms: int, policy: FailurePolicy) -> tuple[Change, ...]:
        del policy
        return decide_expire(machine, now_ms=now_ms)

    patch.function(decide_expire, lenient)


@mutant("receive-ignores-max", "B24", "what ran out for the last time is leased again before the timer comes to it")
def _(patch: Patch) -> None:
    choose = PartitionService._choose

    def lenient(service: PartitionService, request: ReceiveRequest, max_count: int) -> decide.Decision:
        settings = service.settings
        service.settings = replace(settings, failures=NO_POLICY)
        try:
            return choose(service, request, max_count)
        finally:
            service.settings = settings

    patch.attribute(PartitionService, "_choose", lenient)


@mutant("nack-ignores-max", "B24", "a message that is nacked is given back, however often it was tried")
def _(patch: Patch) -> None:
    decide_nack = decide.decide_nack

    def lenient(machine: PartitionMachine, group: GroupName, **asked: object) -> decide.Decision:
        return decide_nack(machine, group, **asked | {"policy": NO_POLICY})  # type: ignore[arg-type]  # handed through

    patch.function(decide_nack, lenient)


@mutant("revive-keeps-count", "B22", "a message that is revived is as near to death as it was")
def _(patch: Patch) -> None:
    def counting(group: ConsumerGroup, ranges: Ranges, **_: object) -> Revived:
        dead = [run for start, end in ranges for run in group.table.dead(start, end)]
        for run in dead:
            group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        return Revived(group.name, sum(run.end - run.start for run in dead))

    patch.attribute(ConsumerGroup, "revive", counting)


@mutant("burials-forgotten", "B22", "a checkpoint brings the dead back as if they had never been delivered")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def spoiled(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        for group in machine._groups.values():
            group.revive(((0, machine.next_offset),), append_ms=0, schedule=Schedule())
        return machine, meta

    patch.function(decode, spoiled)


@mutant("rewind-revives", "B22", "a rewind brings back what is dead")
def _(patch: Patch) -> None:
    rewind = ConsumerGroup.rewind

    def reviving(group: ConsumerGroup, change: Rewind, **place: object) -> object:
        ranges = ((change.start_offset, max(group.table.frontier, change.start_offset + 1)),)
        group.revive(ranges, append_ms=0, schedule=Schedule())
        return rewind(group, change, **place)  # type: ignore[arg-type]  # handed through

    patch.attribute(ConsumerGroup, "rewind", reviving)


@mutant("nack-half-told", "B23", "of a nack that took several changes the answer tells the first")
def _(patch: Patch) -> None:
    def first(outcomes: Sequence[Settled]) -> Settled:
        return outcomes[0]

    patch.function(decide.joined, first)
