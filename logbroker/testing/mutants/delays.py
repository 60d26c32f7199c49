"""Bugs in what is delivered later, or was cancelled before that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logbroker.entry import EntryKind
from logbroker.node.partition_service import PartitionService
from logbroker.node.replica import Replica
from logbroker.partition import checkpoint, decide
from logbroker.partition.armed import Armed
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.outcomes import Cancelled
from logbroker.partition.schedule import Schedule
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from logbroker.entry import Entry
    from logbroker.node.requests import Answer, ProduceRequest
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.commands import Cancel, CreateGroup, Ranges, Rewind
    from logbroker.partition.outcomes import Applied, GroupCreated, Nothing, Rewound
    from logbroker.testing.mutants.planting import Patch

_TESTS = "tests/unit/partition/test_delays.py"


@mutant(
    "due-time-of-another-batch",
    "B19 B24",
    "a due time whose batch was lost with its leader delays the next leader's first batch",
    test=f"{_TESTS}::test_what_was_said_of_a_batch_holds_for_no_batch_of_another_term",
)
def _(patch: Patch) -> None:
    patch.attribute(Armed, "holds_for", lambda armed, entry: entry.index == armed.index + 1)


@mutant(
    "due-time-kept",
    "B24",
    "a due time stands until a batch comes, whatever comes between",
    test=f"{_TESTS}::test_what_was_said_of_a_batch_ends_with_any_other_entry",
)
def _(patch: Patch) -> None:
    apply = PartitionMachine.apply

    def keeping(machine: PartitionMachine, entry: Entry) -> Applied:
        before = machine._armed
        applied = apply(machine, entry)
        if machine._armed is None and entry.kind is not EntryKind.DATA:
            machine._armed = before
        return applied

    patch.attribute(PartitionMachine, "apply", keeping)
    patch.attribute(Armed, "holds_for", lambda armed, entry: True)


@mutant(
    "due-time-lost-in-checkpoint",
    "B22",
    "a checkpoint taken between a due time and its batch forgets the due time",
    test=f"{_TESTS}::test_a_checkpoint_between_the_two_entries_keeps_what_was_said",
)
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def forgetful(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        machine._armed = None
        return machine, meta

    patch.function(decode, forgetful)


@mutant("schedule-lost-in-checkpoint", "B22", "a checkpoint keeps delayed runs, and not the schedule beside them")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def forgetful(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        machine._schedule = Schedule()
        return machine, meta

    patch.function(decode, forgetful)


@mutant("batch-before-its-due-time", "B19", "a leader appends what says when a batch is due behind the batch")
def _(patch: Patch) -> None:
    propose = Replica.propose

    def late(
        replica: Replica,
        kind: EntryKind,
        payload: bytes,
        *,
        append_ms: int,
        preparation: bytes | None = None,
        **how: Any,  # noqa: ANN401  # handed through
    ) -> tuple[Entry, object]:
        proposed = propose(replica, kind, payload, append_ms=append_ms, **how)
        if preparation is not None:
            propose(
                replica,
                EntryKind.STATE,
                preparation,
                append_ms=append_ms,
                on_committed=lambda _: None,
                on_lost=lambda _: None,
            )
        return proposed

    patch.attribute(Replica, "propose", late)


@mutant("due-time-rounded-down", "B24", "a due time is rounded down to the full 100 ms")
def _(patch: Patch) -> None:
    due_time = decide.due_time

    def early(**asked: int) -> int:
        due_ms = due_time(**asked)
        return max(0, due_ms - 100)

    patch.function(due_time, early)


@mutant("rewind-forgets-schedule", "B22", "a rewind makes what was skipped before it was due available at once")
def _(patch: Patch) -> None:
    rewind = ConsumerGroup.rewind

    def forgetful(group: ConsumerGroup, change: Rewind, **place: object) -> Rewound | Nothing:
        return rewind(group, change, **place | {"schedule": Schedule()})  # type: ignore[arg-type]  # handed through

    patch.attribute(ConsumerGroup, "rewind", forgetful)


@mutant("new-group-forgets-schedule", "B22", "a consumer group that is made gets what is not due")
def _(patch: Patch) -> None:
    create = PartitionMachine._create_group

    def forgetful(machine: PartitionMachine, change: CreateGroup, append_ms: int) -> GroupCreated | Nothing:
        schedule, machine._schedule = machine._schedule, Schedule()
        try:
            return create(machine, change, append_ms)
        finally:
            machine._schedule = schedule

    patch.attribute(PartitionMachine, "_create_group", forgetful)


@mutant("cancel-keeps-schedule", "B22", "what is cancelled stays scheduled, and comes back with a rewind")
def _(patch: Patch) -> None:
    def keeping(machine: PartitionMachine, change: Cancel, append_ms: int) -> Cancelled:
        found = list(machine.scheduled(change.ranges, append_ms))
        for run in found:
            for group in machine._groups.values():
                group.void(run.start, run.end)
        count = sum(run.end - run.start for run in found)
        return Cancelled(count, sum(end - start for start, end in change.ranges) - count)

    patch.attribute(PartitionMachine, "_cancel", keeping)


@mutant("cancel-in-one-group", "B23", "what is cancelled is delivered to all consumer groups but one")
def _(patch: Patch) -> None:
    cancel = PartitionMachine._cancel

    def partial(machine: PartitionMachine, change: Cancel, append_ms: int) -> Cancelled:
        groups = machine._groups
        machine._groups = dict(list(groups.items())[:1])
        try:
            return cancel(machine, change, append_ms)
        finally:
            machine._groups = groups

    patch.attribute(PartitionMachine, "_cancel", partial)


@mutant("cancel-overstated", "B18", "whoever cancels is told that it was in time for everything")
def _(patch: Patch) -> None:
    def generous(machine: PartitionMachine, ranges: Ranges) -> Cancelled:
        return Cancelled(sum(end - start for start, end in ranges), 0)

    patch.attribute(PartitionMachine, "cancelled", generous)


@mutant("due-time-unsaid", "B24", "a batch whose delay is given as a time is delivered at once")
def _(patch: Patch) -> None:
    produce = PartitionService._produce

    def hasty(service: PartitionService, request: ProduceRequest, answer: Answer) -> None:
        produce(service, type(request)(request.batch, request.delay_ms), answer)

    patch.attribute(PartitionService, "_produce", hasty)


@mutant(
    "schedule-not-trimmed",
    "B28",
    "retention forgets the messages, and not when they are due",
    test=f"{_TESTS}::test_retention_cuts_schedule_and_voids",
)
def _(patch: Patch) -> None:
    patch.attribute(Schedule, "drop_below", lambda schedule, start: None)
