"""Commands about rewinds: one commit fixes id, order and target; then every partition follows, through any crash."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from msgspec.structs import replace

from logbroker.node.catalogue.bounds import MAX_REWINDS, CatalogueLimits, group_name_fault
from logbroker.node.catalogue.options import DEFAULT_OPTIONS
from logbroker.node.catalogue.outcomes import Outcome, RewindStands, exists, invalid, not_found, too_many
from logbroker.node.catalogue.rows import QueueRow, RewindRow, RewoundRow
from logbroker.wire.requests import (
    EarliestTarget,
    LatestTarget,
    MessageTarget,
    OffsetTarget,
    RelativeTarget,
    Target,
    TimeTarget,
)

if TYPE_CHECKING:
    from logbroker.node.catalogue.commands import BeginRewind, FinishRewind
    from logbroker.node.catalogue.options import QueueOptions
    from logbroker.node.catalogue.state import CatalogueState


def begin_rewind(state: CatalogueState, command: BeginRewind, limits: CatalogueLimits, at_ms: int) -> Outcome:
    queue = state.queues.get(command.queue)
    if queue is None:
        return not_found(f"there is no queue {command.queue}")
    fault = group_name_fault(command.consumer_group)
    if fault is not None:
        return invalid(fault)
    known = _known_operation(state, command.operation_id)
    if known is not None:
        if (known.queue_id, known.consumer_group) == (queue.queue_id, command.consumer_group):
            return RewindStands(known, already=True)
        return exists(
            f"operation {command.operation_id} is a rewind of group {known.consumer_group} of queue {known.queue}"
        )
    options = state.options.get(queue.queue_id, DEFAULT_OPTIONS)
    fault = _target_fault(command, queue, options, at_ms)
    if fault is not None:
        return invalid(f"rewind of queue {queue.name}: {fault}")
    of_group = pending_of(state, queue.queue_id, command.consumer_group)
    if len(of_group) >= limits.max_pending_rewinds:
        return too_many(
            f"group {command.consumer_group} of queue {queue.name} has {len(of_group)} rewinds that are not done yet, "
            f"limits.max_pending_rewinds is {limits.max_pending_rewinds}"
        )
    if not _make_room(state):
        return too_many(f"the cluster has {MAX_REWINDS} rewinds that are not done yet, which is the most")
    row = RewindRow(
        rewind_id=state.next_rewind,
        operation_id=command.operation_id,
        queue_id=queue.queue_id,
        queue=queue.name,
        consumer_group=command.consumer_group,
        target=_fixed(command.target, at_ms),
        forward=command.forward,
        clamp=command.clamp,
        actor=command.actor,
        reason=command.reason,
        decided_ms=at_ms,
        partition_count=len(queue.groups),
    )
    state.next_rewind += 1
    state.rewinds[row.rewind_id] = row
    return RewindStands(row)


def finish_rewind(state: CatalogueState, command: FinishRewind) -> Outcome:
    rewind = state.rewinds.get(command.rewind_id)
    if rewind is None:
        return not_found(f"there is no rewind {command.rewind_id}; its queue may be deleted")
    if command.partition >= rewind.partition_count:
        return invalid(
            f"rewind {rewind.rewind_id} is over {rewind.partition_count} partitions, {command.partition} is not one"
        )
    if rewind.is_done_in(command.partition):
        return RewindStands(rewind, already=True)
    row = RewoundRow(
        partition=command.partition,
        start_offset=command.start_offset,
        start_ms=command.start_ms,
        moved_count=command.moved_count,
        clamped=command.clamped,
    )
    done = tuple(sorted((*rewind.done, row), key=lambda row: row.partition))
    rewind = replace(rewind, done=done)
    state.rewinds[rewind.rewind_id] = rewind
    return RewindStands(rewind)


def pending_of(state: CatalogueState, queue_id: int, consumer_group: str) -> list[RewindRow]:
    """Rewinds of one consumer group that are not done everywhere, in their order."""
    return [
        row
        for row in state.rewinds.values()
        if row.is_pending and (row.queue_id, row.consumer_group) == (queue_id, consumer_group)
    ]


def _known_operation(state: CatalogueState, operation_id: int) -> RewindRow | None:
    if operation_id == 0:
        return None
    return next((row for row in state.rewinds.values() if row.operation_id == operation_id), None)


def _make_room(state: CatalogueState) -> bool:
    """Forget the oldest finished rewind if the table is full; False where all of them are pending."""
    if len(state.rewinds) < MAX_REWINDS:
        return True
    oldest = min((row.rewind_id for row in state.rewinds.values() if not row.is_pending), default=None)
    if oldest is None:
        return False
    del state.rewinds[oldest]
    return True


def _target_fault(command: BeginRewind, queue: QueueRow, options: QueueOptions, at_ms: int) -> str | None:
    match command.target:
        case TimeTarget(ms=ms):
            return _time_fault(ms, command, queue, options, at_ms)
        case RelativeTarget(ms=ms, count=count):
            if (ms == 0) == (count == 0):
                return f"relative target of {ms} ms and {count} messages; exactly one of them is not 0"
            return _time_fault(at_ms - ms, command, queue, options, at_ms)
        case MessageTarget(offsets=offsets):
            return _offsets_fault([partition for partition, _ in offsets], queue)
        case OffsetTarget() | EarliestTarget() | LatestTarget():
            return None
        case _ as never:
            assert_never(never)


def _time_fault(ms: int, command: BeginRewind, queue: QueueRow, options: QueueOptions, at_ms: int) -> str | None:
    kept_ms, what = queue.settings.retention_ms, "the retention"
    if options.rewind_ms < kept_ms and not command.forward:
        kept_ms, what = options.rewind_ms, "the rewind window"
    if 0 < options.max_age_ms < kept_ms and not command.forward:
        kept_ms, what = options.max_age_ms, "the time to live"
    oldest = at_ms - kept_ms
    if ms > at_ms:
        return f"time {ms} lies after the log time {at_ms}"
    if ms < oldest and not command.clamp:
        return f"time {ms} lies before {what}, which reaches from {oldest} to {at_ms}"
    return None


def _offsets_fault(partitions: list[int], queue: QueueRow) -> str | None:
    if not partitions:
        return "no partition is named"
    if len(set(partitions)) != len(partitions):
        return "a partition is named twice"
    beyond = [partition for partition in partitions if partition >= len(queue.groups)]
    return f"there is no partition {beyond[0]}, the queue has {len(queue.groups)}" if beyond else None


def _fixed(target: Target, at_ms: int) -> Target:
    """Make a time that is relative to the decision an absolute one, the same in every partition."""
    if isinstance(target, RelativeTarget) and target.ms:
        return TimeTarget(max(at_ms - target.ms, 0))
    return target
