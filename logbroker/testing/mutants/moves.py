"""Bugs in how messages go from one partition to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.node import moving
from logbroker.node.moving import Moves
from logbroker.node.partition_service import PartitionService
from logbroker.node.requests import TransferReply
from logbroker.partition import checkpoint, groups
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.outbox import Inbox, Outbox
from logbroker.partition.runs import Run, RunState
from logbroker.record.batch import encode_batch
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.errors import LogBrokerError
    from logbroker.node.moving import QueuePlace
    from logbroker.node.requests import Reply, TransferRequest
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.commands import Ranges
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outbox import Owed
    from logbroker.record.batch import BatchLimits, Record
    from logbroker.testing.mutants.planting import Patch


@mutant("inbox-forgotten", "B17", "a checkpoint does not bring back what was taken from other partitions")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def forgetful(data: bytes) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        machine.inbox = Inbox()
        return machine, meta

    patch.function(decode, forgetful)


@mutant("inbox-ignored", "B17", "what is sent a second time is taken a second time")
def _(patch: Patch) -> None:
    patch.attribute(Inbox, "has", lambda inbox, source, number: False)


@mutant("moved-when-sent", "B18", "a message is taken for moved before the target has it")
def _(patch: Patch) -> None:
    send = Moves.send

    def hasty(moves: Moves, applied: PartitionMachine, place: QueuePlace) -> None:
        send(moves, applied, place)
        for row in applied.outbox.heads():
            moves._end(row.target, row.number, is_refused=False)

    patch.attribute(Moves, "send", hasty)


@mutant("refusal-not-recorded", "B18", "a number is given up that may have been taken, or be taken later")
def _(patch: Patch) -> None:
    transfer = PartitionService._transfer

    def careless(
        service: PartitionService, request: TransferRequest, answer: Callable[[Reply | LogBrokerError], None]
    ) -> None:
        if request.batch:
            transfer(service, request, answer)
        else:
            answer(TransferReply(is_taken=False))

    patch.attribute(PartitionService, "_transfer", careless)


@mutant("moves-in-any-order", "B17", "the next number is sent before the one before has arrived")
def _(patch: Patch) -> None:
    def last(box: Outbox) -> list[Owed]:
        return list({row.target: row for row in box.rows()}.values())

    def find(box: Outbox, target: int) -> Owed | None:
        return next((row for row in last(box) if row.target == target), None)

    patch.attribute(Outbox, "heads", last)
    patch.attribute(Outbox, "head", find)


@mutant("rewind-reopens-moved", "B22", "a rewind brings back what was moved away")
def _(patch: Patch) -> None:
    patch.attribute(groups, "_KEPT", frozenset((RunState.DEAD, RunState.MOVING)))


@mutant("moved-delivered", "B22", "what was moved is available again at once")
def _(patch: Patch) -> None:
    def lenient(group: ConsumerGroup, ranges: Ranges, *, refused: bool) -> int:
        del refused
        count = 0
        for start, end in ranges:
            for run in group.table.overlap(start, end):
                if run.state is RunState.MOVING:
                    group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
                    count += run.end - run.start
        return count

    patch.attribute(ConsumerGroup, "end_move", lenient)


@mutant("copy-drops-last", "B19", "the last message of a copy is left out where there are several")
def _(patch: Patch) -> None:
    def short(records: Sequence[Record], *, limits: BatchLimits) -> bytes:
        return encode_batch(records[: max(1, len(records) - 1)], limits=limits)

    patch.attribute(moving, "encode_batch", short)
