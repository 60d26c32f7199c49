"""What the leader decides of messages that go to another partition, and of those that come from one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import OverloadedError
from logbroker.partition.commands import MAX_NUMBER, Moved, MoveIn, MoveOut
from logbroker.partition.decide import (
    DEFAULT_DECISION_LIMITS,
    Answer,
    DecisionLimits,
    Propose,
    ProposeBatch,
    check_log_end,
    check_range,
    check_ranges,
    refusing,
)
from logbroker.partition.outbox import MAX_OWED, MAX_SOURCES
from logbroker.partition.outcomes import MovingOut, Prepared
from logbroker.partition.producers import NO_PRODUCER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupId, GroupName
    from logbroker.partition.commands import Ranges
    from logbroker.partition.groups import ConsumerGroup
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.runs import Run
    from logbroker.record.batch import BatchHeader

MAX_MOVED_COUNT = 500
"""Messages under one number: they are copied into one batch."""


@refusing
def decide_move_out(
    machine: PartitionMachine,
    group: GroupName,
    *,
    ranges: Ranges,
    target: GroupId,
    now_ms: int = 0,
    max_count: int = MAX_MOVED_COUNT,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Have what of the ranges is available at `now_ms`, or dead, moved to `target`, at most `max_count` from the front.

    The proposal names what is moved. Where it is less than all, asking again brings the rest; 0 says that all is done.
    Refused with OverloadedError while too much is under way.
    """
    state = machine.group(group)
    check_ranges("ranges to move", ranges, machine, limits)
    check_range("max_count", max_count, least=1, most=MAX_MOVED_COUNT)
    found = _first(_movable(state, ranges, max(now_ms, machine.append_ms)), max_count)
    if not found:
        return Answer(MovingOut(group, target, 0, 0), machine.applied_index)
    if len(machine.outbox) >= MAX_OWED:
        raise OverloadedError(f"{len(machine.outbox)} moves are under way; the most is {MAX_OWED}")
    return Propose((MoveOut(group, found, target),))


@refusing
def decide_move_in(
    machine: PartitionMachine, header: BatchHeader | None, *, source: GroupId, number: int
) -> ProposeBatch | Propose | Answer:
    """Take the messages that `source` owes under `number`, or with no header, or a producer in it, never take them.

    An answer says that it is settled what becomes of the number, whatever is asked for this time: the inbox tells.
    Refused with OverloadedError, OffsetOutOfRangeError.
    """
    check_range("number", number, least=1, most=MAX_NUMBER)
    check_range("source", source, least=1, most=MAX_NUMBER)
    if machine.inbox.has(source, number):
        return Answer(Prepared(), machine.applied_index)
    if machine.inbox.is_full_for(source):
        raise OverloadedError(f"messages came from {MAX_SOURCES} partitions, which is the most")
    if header is None or header.producer_id != NO_PRODUCER:
        return Propose((MoveIn(source, number, is_refused=True),))
    return ProposeBatch(machine.next_offset, check_log_end(machine, header.record_count))


def decide_moved(machine: PartitionMachine, *, target: int, number: int, is_refused: bool) -> Moved | None:
    """Say that a number has arrived, or never will; None where that is not what is waited for."""
    row = machine.outbox.head(target)
    return Moved(row.group, target, number, is_refused) if row is not None and row.number == number else None


def _movable(state: ConsumerGroup, ranges: Ranges, now_ms: int) -> Iterator[Run]:
    for start, end in ranges:
        yield from state.table.movable(start, end, now_ms=now_ms)


def _first(runs: Iterator[Run], max_count: int) -> Ranges:
    found: list[tuple[int, int]] = []
    left = max_count
    for run in runs:
        stop = min(run.end, run.start + left)
        if found and found[-1][1] == run.start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((run.start, stop))
        left -= stop - run.start
        if not left:
            break
    return tuple(found)
