"""What the leader decides: pure functions from a state and a request to what should be proposed, or why not.

The state to pass is `ahead`, which has every entry of the leader's log, applied or not; `now_ms` is the append_ms that
the entry will get. Nothing here changes replicated state, and whatever is refused leaves no trace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar, final

from logbroker.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    OverloadedError,
    ProducerFencedError,
    RequestError,
    RequestTooLargeError,
    StaleLeaseError,
)
from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, Offset
from logbroker.partition.commands import (
    MAX_NUMBER,
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Cause,
    CreateGroup,
    DeleteGroup,
    Expire,
    Extend,
    Floor,
    Lease,
    Nack,
    Pause,
    Purge,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    range_fault,
)
from logbroker.partition.dedupe import Verdicts
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.machine import MAX_GROUPS, MAX_OFFSET, PartitionMachine
from logbroker.partition.ordering import NO_ORDER, OrderPolicy, count_in_flight
from logbroker.partition.outcomes import Leased, Nothing, Produced, Resumed, Revived, Settled
from logbroker.partition.producers import NO_PRODUCER, Duplicate, Fenced, OutOfOrder
from logbroker.partition.retention import MAX_RETENTION_S
from logbroker.partition.rewind import FIRST_PURGE_ID, purged, rewound, skipped
from logbroker.partition.runs import Run, RunState
from logbroker.partition.schedule import rounded_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.partition.commands import Change, Dedupe, Ranges
    from logbroker.partition.groups import ConsumerGroup, Selection
    from logbroker.partition.leases import LeaseRecord
    from logbroker.partition.ordering import KeyLocks
    from logbroker.partition.outcomes import LeasedRange, Outcome, Range
    from logbroker.partition.schedule import Schedule
    from logbroker.record.batch import BatchHeader

MIN_HIDE_MS = 1_000
MAX_HIDE_MS = 43_200_000
"""Twelve hours; with extensions too, from when the lease began."""
MAX_DELAY_MS = MAX_RETENTION_S * 1000
MIN_PAUSE_MS = 1_000
MAX_PAUSE_MS = MAX_RETENTION_S * 1000
"""Of a pause that has an end: after so long nothing of what it held back is left."""
DUE_BEFORE_RETENTION_MS = 1_000
"""A message has to be due so long before retention takes it, or it would not be delivered at all."""
MAX_TEXT_LENGTH = 256
MAX_RUNS_PER_REVIVE = 10_000
"""As many ranges as an expiry ends at once; both take some milliseconds to apply."""
MAX_RUNS_PER_BURIAL = 10_000
"""Of one entry that buries what has outlived its time to live; the next one goes on."""

NO_FLOOR = Offset(0)

MAX_RUNS_PER_CANCEL = 10_000
"""Over all consumer groups, for the same reason."""
MAX_RUNS_PER_DEDUPE = 10_000
"""Ranges of repeated messages in one batch, over all consumer groups; for the same reason."""

MAX_DELAYED_RUNS = 4_000_000
"""Not due yet, in all consumer groups together: a delayed batch with a due time of its own costs one in each."""
MAX_VOID_RANGES = 1_000_000
"""What was cancelled splits runs in two, and is kept until retention takes it."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


@final
@dataclass(frozen=True, slots=True)
class DecisionLimits:
    """Bounds that operators may set; hide time and retention have bounds of their own that nobody may."""

    max_receive_count: int = 1_000
    max_ranges_per_change: int = 1_000
    # A run costs about 300 bytes of memory with its lease and deadline.
    max_runs_per_group: int = 2_000_000


DEFAULT_DECISION_LIMITS = DecisionLimits()


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """The request cannot be done, and the state is as before."""

    error: RequestError | OverloadedError


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """Nothing has to be written. True once the entry at `after_index` is applied, and not to be told before."""

    outcome: Outcome
    after_index: Index


@final
@dataclass(frozen=True, slots=True)
class Propose:
    """Append a STATE entry with these changes, in this order; the last one is what was asked for.

    What a nack asks for may take several; `joined` makes one outcome of theirs.
    """

    changes: tuple[Change, ...]


@final
@dataclass(frozen=True, slots=True)
class ProposeBatch:
    """Append the batch as a DATA entry that takes [base_offset, next_offset).

    What `due_ms`, unless it is 0, and ids say goes into a STATE entry directly before it, in the same step.
    """

    base_offset: Offset
    next_offset: Offset
    due_ms: int = 0
    # Of its messages: their ids are known, so no group will ever have them to settle.
    repeated_count: int = 0


@final
@dataclass(frozen=True, slots=True)
class ProposeFloor:
    """Append a FLOOR entry."""

    floor: Floor


@final
@dataclass(frozen=True, slots=True)
class NothingAvailable:
    """Nothing may be leased before `next_visible_ms`, unless something else happens; None: before something happens."""

    next_visible_ms: int | None


Decision: TypeAlias = Refused | Answer | Propose | ProposeBatch | ProposeFloor | NothingAvailable

P = ParamSpec("P")
D = TypeVar("D")


def refusing(decide: Callable[P, D]) -> Callable[P, D | Refused]:
    """Turn errors that are the caller's to see into a decision."""

    @wraps(decide)
    def decided(*args: P.args, **kwargs: P.kwargs) -> D | Refused:
        try:
            return decide(*args, **kwargs)
        except (RequestError, OverloadedError) as error:
            return Refused(error)

    return decided


@refusing
def decide_produce(
    machine: PartitionMachine,
    header: BatchHeader,
    *,
    due_ms: int = 0,
    ids: Dedupe | None = None,
    now_ms: int = 0,
    max_delayed_runs: int = MAX_DELAYED_RUNS,
    max_void_ranges: int = MAX_VOID_RANGES,
) -> Answer | ProposeBatch:
    """Decide on a batch that `check_batch` has accepted, to be delivered at `due_ms` as `due_time` gives it.

    `ids` are those of its messages, with a window of 0 where they are not to be remembered. Where each was in the log
    before, nothing is appended, unless the producer counts its batches: then its next one has to find this one there.

    Refused with OutOfOrderSequenceError, ProducerFencedError, OffsetOutOfRangeError, InvalidArgumentError. A duplicate
    is answered with the offset of the first copy; that copy is applied only if it lies below the applied state's
    next_offset, otherwise the caller joins whoever waits for it.
    """
    count = header.record_count
    check_range("record_count", count, least=1, most=MAX_NUMBER)
    if header.producer_id != NO_PRODUCER:
        check_range("producer_id", header.producer_id, least=0, most=MAX_NUMBER)
        check_range("producer_epoch", header.producer_epoch, least=0, most=(1 << 15) - 1)
        check_range("base_sequence", header.base_sequence, least=0, most=(1 << 31) - 1)
    who = f"producer {header.producer_id} in partition group {machine.group_id}"
    match machine.judge_batch(header):
        case Duplicate(base_offset):
            return Answer(repeated(machine, Offset(base_offset), count, ids), machine.applied_index)
        case OutOfOrder(expected):
            raise OutOfOrderSequenceError(
                f"sequence {header.base_sequence} of {who} is not the next, {expected}, nor in its last five batches"
            )
        case Fenced(epoch):
            raise ProducerFencedError(f"epoch {header.producer_epoch} of {who} is below its newest epoch {epoch}")
        case None:
            pass
    end = check_log_end(machine, count)
    if due_ms and (len(machine.schedule) + 1) * len(machine.groups) > max_delayed_runs:
        raise OverloadedError(
            f"partition group {machine.group_id} has {len(machine.schedule)} runs of delayed messages of one due time"
            f" in each of {len(machine.groups)} consumer groups; the most is {max_delayed_runs} together",
            hint="send more messages in a batch, or batches with due times on the same 100 ms",
        )
    repeated_count = 0
    if ids is not None and ids.window_ms:
        at_ms = max(now_ms, machine.append_ms)
        known = machine.dedupe.look(ids, machine.next_offset, at_ms, voids=machine.voids)
        repeated_count = len(known.duplicates) + len(known.conflicts)
        if header.producer_id == NO_PRODUCER and repeated_count == count:
            first = known.duplicates[0][1] if known.duplicates else machine.next_offset
            return Answer(Produced(Offset(first), count, True, 0, *known), machine.applied_index)
        _check_voids(machine, known, max_void_ranges)
    return ProposeBatch(machine.next_offset, end, due_ms, repeated_count)


def repeated(machine: PartitionMachine, base_offset: Offset, count: int, ids: Dedupe | None) -> Produced:
    """What to tell of a batch that the producer has sent again, and that stands at `base_offset`."""
    # All that is left of a batch has one due time; what was void from the start, or cancelled, is not in the schedule.
    left = machine.schedule.overlap(base_offset, base_offset + count, after_ms=machine.append_ms)
    due_ms = next((run.visible_at_ms for run in left), 0)
    verdicts = Verdicts() if ids is None else machine.verdicts(ids, base_offset)
    return Produced(base_offset, count, True, due_ms, *verdicts)


def _check_voids(machine: PartitionMachine, known: Verdicts, max_void_ranges: int) -> None:
    """Refuse a batch whose repeated messages would cost too much, each a range in every group at worst."""
    ranges = len(known.ranges(0))
    if ranges > 1 and ranges * len(machine.groups) > MAX_RUNS_PER_DEDUPE:
        raise RequestTooLargeError(
            f"a batch has {ranges} ranges of messages whose ids are known, for {len(machine.groups)} consumer groups;"
            f" the most is {MAX_RUNS_PER_DEDUPE} together",
            hint="send fewer messages at once",
        )
    if ranges and len(machine.voids) + ranges > max_void_ranges:
        raise OverloadedError(
            f"partition group {machine.group_id} has {len(machine.voids)} ranges of messages that nothing delivers;"
            f" the most is {max_void_ranges}",
            hint="retention makes room; send messages with known ids by themselves",
        )


def due_time(*, delay_ms: int, deliver_at_ms: int, now_ms: int, retention_s: int, max_age_ms: int = 0) -> int:
    """Return when a batch sent at `now_ms` is due, a multiple of 100 ms, or 0 where that is at once.

    Raises:
        InvalidArgumentError: both are given, or retention would take the messages before they are due, or they would
            have outlived their time to live, which is `max_age_ms` unless that is 0.
    """
    if delay_ms and deliver_at_ms:
        raise InvalidArgumentError(f"delay_ms {delay_ms} and deliver_at_ms {deliver_at_ms} exclude each other")
    kept_ms = min(retention_s * 1000, max_age_ms or MAX_NUMBER)
    most_ms = kept_ms - DUE_BEFORE_RETENTION_MS
    check_range("delay_ms", delay_ms, least=0, most=most_ms)
    check_range("deliver_at_ms", deliver_at_ms, least=0, most=now_ms + most_ms)
    due_ms = now_ms + delay_ms if delay_ms else deliver_at_ms
    return rounded_up(due_ms) if due_ms > now_ms else 0


@refusing
def decide_cancel(
    machine: PartitionMachine,
    *,
    ranges: Ranges,
    now_ms: int,
    max_runs: int = MAX_RUNS_PER_CANCEL,
    max_void_ranges: int = MAX_VOID_RANGES,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Never deliver what of the ranges is not due at `now_ms`; for everything else it is too late.

    Asking again gives the same answer. Refused with OffsetOutOfRangeError beyond the log end.
    """
    check_ranges("ranges to cancel", ranges, machine, limits)
    now_ms = max(now_ms, machine.append_ms)
    found = list(islice(machine.scheduled(ranges, now_ms), max_runs + 1))
    if not found:
        return Answer(machine.cancelled(ranges), machine.applied_index)
    if len(found) > 1 and len(found) * len(machine.groups) > max_runs:
        raise RequestTooLargeError(
            f"{len(found)} or more runs of delayed messages in {len(machine.groups)} consumer groups are to be"
            f" cancelled; the most is {max_runs} together",
            hint="cancel fewer messages at once",
        )
    if len(machine.voids) + len(found) > max_void_ranges:
        raise OverloadedError(
            f"partition group {machine.group_id} has {len(machine.voids)} ranges of cancelled messages;"
            f" the most is {max_void_ranges}",
            hint="retention makes room",
        )
    return Propose((Cancel(ranges),))


@refusing
def decide_receive(
    machine: PartitionMachine,
    group: GroupName,
    *,
    max_count: int,
    hide_ms: int,
    now_ms: int,
    consumer: str,
    session: int = 0,
    request_id: int = 0,
    not_below: int = 0,
    policy: FailurePolicy = NO_POLICY,
    order: OrderPolicy = NO_ORDER,
    locks: KeyLocks | None = None,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer | NothingAvailable:
    """Choose up to `max_count` messages, lowest offsets first, to hide for `hide_ms`.

    A retry of a (session, request id) whose lease is current gets that lease and the time that is left; session 0 means
    no retries. A paused group leases nothing beyond that. Messages below `not_below` have expired and only wait for
    the entry that says so. Those whose last delivery has run out are buried on the way; where nothing else is found,
    that is left to `decide_expire`. An `order` leaves what has to wait for its turn; one by key needs the `locks`.
    """
    state = machine.group(group)
    check_range("max_count", max_count, least=1, most=limits.max_receive_count)
    check_hide_ms(hide_ms)
    check_text("consumer", consumer)
    check_range("session", session, least=0, most=MAX_NUMBER)
    check_range("request_id", request_id, least=0, most=MAX_NUMBER)
    now_ms = max(now_ms, machine.append_ms)
    ended = _Ended(state, policy)
    record = state.leases.find(session, request_id)
    if record is not None:
        repeated = _repeated(state, record, now_ms)
        if repeated is not None:
            return Answer(repeated, machine.applied_index)
        # The request's first lease has run out; it must be over before the request can hold another.
        for held in state.holdings(record.lease):
            ended.add(held, record)
    if state.pause_at(now_ms) is not None:
        return NothingAvailable(next_visible_ms(machine, group))
    # Delayed messages have a bound of their own; with what lies between them they make two runs each.
    if len(state.table) - 2 * len(machine.schedule) >= limits.max_runs_per_group:
        raise OverloadedError(
            f"group {group!r} has {len(state.table)} runs of unlike messages; the most is {limits.max_runs_per_group}",
            hint="ack or nack what is leased, revive what is dead, or receive in larger batches",
        )
    if order.window:
        chosen = _choose_in_order(
            state,
            machine.next_offset,
            now_ms,
            max_count,
            not_below,
            limits,
            ended,
            order,
            locks if order.by_key else None,
            machine.schedule,
        )
    else:
        chosen = _choose(state, machine.next_offset, now_ms, max_count, not_below, limits, ended)
    if not chosen:
        return NothingAvailable(next_visible_ms(machine, group))
    lease = Lease(group, tuple(chosen), now_ms + hide_ms, consumer, session, request_id)
    return Propose((*ended.changes(), lease) if ended.range_count else (lease,))


@refusing
def decide_ack(
    machine: PartitionMachine,
    group: GroupName,
    *,
    lease: LeaseId,
    ranges: Ranges,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Ack ranges of a lease, which is good until the lease has been ended, however late.

    Refused with StaleLeaseError only if there is nothing that is, or will be, acked.
    """
    state, chosen = _select(machine, group, lease, ranges, limits)
    if chosen.count:
        return Propose((Ack(group, lease, ranges),))
    return _settled_already(machine, state, lease, chosen)


@refusing
def decide_nack(
    machine: PartitionMachine,
    group: GroupName,
    *,
    lease: LeaseId,
    ranges: Ranges,
    delay_ms: int | None,
    now_ms: int,
    reason: str = "",
    policy: FailurePolicy = NO_POLICY,
    chance: Callable[[], float] = float,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Give ranges of a lease back as failed, available after `delay_ms`; 0 is at once, None is as the policy says.

    What the policy gives no further try is buried, whatever the delay. `chance` draws the jitter; without it there is
    none. Every offset asked for is in exactly one of the changes.
    """
    if delay_ms is not None:
        check_range("delay_ms", delay_ms, least=0, most=MAX_DELAY_MS)
    check_text("reason", reason)
    state, chosen = _select(machine, group, lease, ranges, limits)
    if not chosen.count:
        return _settled_already(machine, state, lease, chosen)
    now_ms = max(now_ms, machine.append_ms)
    changes: list[Change] = []
    for wait_ms, part in _by_wait(chosen, ranges, delay_ms, policy):
        if wait_ms is None:
            changes.append(Bury(group, lease, part, Cause.MAX_DELIVERIES, reason))
        else:
            visible_at_ms = now_ms + (policy.jittered(wait_ms, chance) if delay_ms is None else wait_ms)
            changes.append(Nack(group, lease, part, visible_at_ms, reason))
    return Propose(tuple(changes))


@refusing
def decide_reject(
    machine: PartitionMachine,
    group: GroupName,
    *,
    lease: LeaseId,
    ranges: Ranges,
    reason: str = "",
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Give ranges of a lease up for good, however often they were tried."""
    check_text("reason", reason)
    state, chosen = _select(machine, group, lease, ranges, limits)
    if chosen.count:
        return Propose((Bury(group, lease, ranges, Cause.REJECTED, reason),))
    return _settled_already(machine, state, lease, chosen)


@refusing
def decide_revive(
    machine: PartitionMachine,
    group: GroupName,
    *,
    ranges: Ranges,
    max_runs: int = MAX_RUNS_PER_REVIVE,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Make what is dead of the ranges available, as if never delivered; at most `max_runs` runs at once.

    The proposal names what is dead. Where it is less than all, asking again brings the rest; 0 says that all is done.
    """
    state = machine.group(group)
    check_ranges("ranges to revive", ranges, machine, limits)
    dead = islice(
        (run for start, end in ranges for run in state.table.dead(start, end)),
        max_runs,
    )
    found = _joined([(run.start, run.end) for run in dead])
    return Propose((Revive(group, found),)) if found else Answer(Revived(group, 0), machine.applied_index)


@refusing
def decide_extend(
    machine: PartitionMachine,
    group: GroupName,
    *,
    lease: LeaseId,
    ranges: Ranges,
    hide_ms: int,
    now_ms: int,
    limits: DecisionLimits = DEFAULT_DECISION_LIMITS,
) -> Propose | Answer:
    """Hide ranges of a lease until `hide_ms` from now; the whole lease lasts at most twelve hours."""
    check_hide_ms(hide_ms)
    state, chosen = _select(machine, group, lease, ranges, limits)
    if not chosen.count:
        return _settled_already(machine, state, lease, chosen)
    visible_at_ms = max(now_ms, machine.append_ms) + hide_ms
    first_ms = min(run.first_leased_ms for pieces in chosen.held for run in pieces)
    if visible_at_ms - first_ms > MAX_HIDE_MS:
        left = max(0, first_ms + MAX_HIDE_MS - (visible_at_ms - hide_ms))
        raise InvalidArgumentError(
            f"hide_ms {hide_ms} would make lease {lease} last longer than {MAX_HIDE_MS} ms; {left} ms are left to it"
        )
    return Propose((Extend(group, lease, ranges, visible_at_ms),))


@refusing
def decide_release(machine: PartitionMachine, group: GroupName, *, lease: LeaseId) -> Propose:
    """Take back a lease whose reply could not be written; the delivery does not count."""
    check_range("lease", lease, least=1, most=MAX_NUMBER)
    if machine.group(group).leases.get(lease) is None:
        raise StaleLeaseError(f"lease {lease} of group {group!r} is not current")
    return Propose((Release(group, lease),))


@refusing
def decide_create_group(
    machine: PartitionMachine,
    group: GroupName,
    *,
    start_offset: int,
    max_delayed_runs: int = MAX_DELAYED_RUNS,
) -> Propose:
    """Make a consumer group for which everything below `start_offset` is acked; below the log start is clamped."""
    check_group_name(group)
    if group in machine.groups:
        raise AlreadyExistsError(f"consumer group {group!r} exists in partition group {machine.group_id}")
    if len(machine.groups) >= MAX_GROUPS:
        raise OverloadedError(f"there are {len(machine.groups)} consumer groups; the most is {MAX_GROUPS}")
    check_offset("start_offset", start_offset, machine)
    if len(machine.schedule) * (len(machine.groups) + 1) > max_delayed_runs:
        raise OverloadedError(
            f"partition group {machine.group_id} has {len(machine.schedule)} runs of delayed messages, too many for"
            f" another consumer group; the most is {max_delayed_runs} in all groups together",
            hint="delete a consumer group, or wait until some messages are due",
        )
    return Propose((CreateGroup(group, start_offset),))


@refusing
def decide_delete_group(machine: PartitionMachine, group: GroupName) -> Propose:
    if group == DEFAULT_GROUP:
        raise InvalidArgumentError(f"consumer group {DEFAULT_GROUP!r} always exists and cannot be deleted")
    machine.group(group)
    return Propose((DeleteGroup(group),))


@refusing
def decide_rewind(
    machine: PartitionMachine,
    group: GroupName,
    *,
    rewind_id: int,
    start_offset: int,
    requested: str,
    floor: Offset = NO_FLOOR,
) -> Propose | Answer:
    """Rewind to an offset that the driver has found for `requested`. Beyond the log it is clamped, and reported.

    So it is below `floor`, which is made the rewind floor where that matters.
    """
    state = _check_move(machine, group, rewind_id, start_offset, requested)
    known = state.remembered(rewind_id, is_skip=False)
    if isinstance(known, Nothing):
        raise InvalidArgumentError(f"rewind_id {rewind_id} of group {group!r}: {known.detail}")
    if known is not None:
        return Answer(rewound(known, group, repeated=True), machine.applied_index)
    rewind = Rewind(group, rewind_id, start_offset, requested)
    if machine.rewind_floor < floor and start_offset <= floor:
        return Propose((RewindFloor(floor), rewind))
    return Propose((rewind,))


@refusing
def decide_skip_to(
    machine: PartitionMachine, group: GroupName, *, rewind_id: int, start_offset: int, requested: str
) -> Propose | Answer:
    """Ack everything below an offset. Beyond the log it is clamped, and reported."""
    state = _check_move(machine, group, rewind_id, start_offset, requested)
    known = state.remembered(rewind_id, is_skip=True)
    if isinstance(known, Nothing):
        raise InvalidArgumentError(f"rewind_id {rewind_id} of group {group!r}: {known.detail}")
    if known is not None:
        return Answer(skipped(known, group, repeated=True), machine.applied_index)
    return Propose((SkipTo(group, rewind_id, start_offset, requested),))


@refusing
def decide_pause(machine: PartitionMachine, group: GroupName, *, reason: str, duration_ms: int, now_ms: int) -> Propose:
    """Lease nothing for `duration_ms`, 0 is until it is resumed; a pause that there is already is replaced."""
    check_text("reason", reason)
    if duration_ms:
        check_range("duration_ms", duration_ms, least=MIN_PAUSE_MS, most=MAX_PAUSE_MS)
    machine.group(group)
    until_ms = max(now_ms, machine.append_ms) + duration_ms if duration_ms else 0
    return Propose((Pause(group, reason, until_ms),))


@refusing
def decide_resume(machine: PartitionMachine, group: GroupName) -> Propose | Answer:
    if machine.group(group).pause is None:
        return Answer(Resumed(group), machine.applied_index)
    return Propose((Resume(group),))


@refusing
def decide_purge(machine: PartitionMachine, group: GroupName, *, purge_id: int, requested: str) -> Propose | Answer:
    """Ack everything up to the log end, the dead too. `purge_id` is whoever asks's own, from FIRST_PURGE_ID on."""
    check_range("purge_id", purge_id, least=FIRST_PURGE_ID, most=MAX_NUMBER)
    check_text("requested", requested)
    state = machine.group(group)
    known = state.remembered_purge(purge_id)
    if isinstance(known, Nothing):
        raise InvalidArgumentError(f"purge_id {purge_id} of group {group!r}: {known.detail}")
    if known is not None:
        return Answer(purged(known, group, repeated=True), machine.applied_index)
    return Propose((Purge(group, purge_id, machine.next_offset, requested),))


@refusing
def decide_floor(machine: PartitionMachine, *, start_offset: Offset, start_index: Index) -> ProposeFloor:
    """Raise the log start; refused with OffsetOutOfRangeError where it would go back, stay, or pass the log end."""
    floor = Floor(start_offset, start_index)
    fault = machine.floor_fault(floor, Index(machine.applied_index + 1))
    if fault is None and (start_offset, start_index) == (machine.log_start_offset, machine.log_start_index):
        fault = f"log start offset {start_offset} is the present one"
    if fault is not None:
        raise OffsetOutOfRangeError(f"partition group {machine.group_id}: {fault}")
    return ProposeFloor(floor)


def decide_expire(
    machine: PartitionMachine, *, now_ms: int, max_ranges: int = 10_000, policy: FailurePolicy = NO_POLICY
) -> tuple[Change, ...]:
    """End leases that have run out at `now_ms`, at most `max_ranges` ranges of them, no group starving another.

    What the policy gives no further try is buried. What is left over is due still: `next_deadline_ms`
    says so once these changes are applied to the same state.
    """
    changes: list[Change] = []
    for done, name in enumerate(machine.groups):
        share = max(1, max_ranges // (len(machine.groups) - done))
        state = machine.group(name)
        ended = _Ended(state, policy)
        for run in state.table.expired(now_ms):
            if not ended.add(run, None, room=share):
                break
        changes += ended.changes()
        max_ranges -= ended.range_count
    return tuple(changes)


def decide_bury_old(
    machine: PartitionMachine, *, below: Offset, max_runs: int = MAX_RUNS_PER_BURIAL
) -> tuple[Change, ...]:
    """Bury what is unsettled below an offset and not leased, at most `max_runs` runs, no group starving another.

    What is left over is found by the next call once these changes are applied to the same state.
    """
    changes: list[Change] = []
    for done, name in enumerate(machine.groups):
        share = max(1, max_runs // (len(machine.groups) - done))
        idle = list(islice(machine.group(name).table.idle(below), share + 1))
        if idle:
            changes.append(BuryOld(name, below if len(idle) <= share else idle[share].start))
            max_runs -= min(len(idle), share)
    return tuple(changes)


def has_idle(machine: PartitionMachine, *, below: Offset) -> bool:
    """Whether a group has something below an offset that is available or delayed."""
    return any(next(machine.group(name).table.idle(below), None) is not None for name in machine.groups)


def next_visible_ms(machine: PartitionMachine, group: GroupName) -> int | None:
    """Return the log time at which a leased or delayed message will be visible, up to 100 ms late, or None.

    In a paused group that is when the pause ends; a pause that is over is named as long as nothing was leased after it.
    """
    state = machine.group(group)
    if state.pause is not None:
        return state.pause.until_ms or None
    table = state.table
    times = [time for time in (table.leased.next_ms(), table.delayed.next_ms()) if time is not None]
    return min(times, default=None)


def check_range(field: str, value: int, *, least: int, most: int) -> None:
    """Refuse a number outside of [least, most].

    Raises:
        InvalidArgumentError: naming the field, the value and the valid range.
    """
    if not least <= value <= most:
        raise InvalidArgumentError(f"{field} {value} is not in {least}..{most}")


def check_hide_ms(hide_ms: int) -> None:
    check_range("hide_ms", hide_ms, least=MIN_HIDE_MS, most=MAX_HIDE_MS)


def check_text(field: str, text: str) -> None:
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidArgumentError(f"{field} has {len(text)} characters; the most is {MAX_TEXT_LENGTH}")


def check_group_name(name: str) -> None:
    if _NAME.match(name) is None:
        raise InvalidArgumentError(f"consumer group {name[:200]!r} is not 1..128 of the characters A-Z a-z 0-9 . _ -")


def check_log_end(machine: PartitionMachine, count: int) -> Offset:
    """Where the log ends with `count` messages more. Raises OffsetOutOfRangeError."""
    end = machine.next_offset + count
    if end > MAX_OFFSET:
        raise OffsetOutOfRangeError(f"offset {end} is above the last possible offset {MAX_OFFSET}")
    return Offset(end)


def check_offset(field: str, offset: int, machine: PartitionMachine) -> None:
    check_range(field, offset, least=0, most=MAX_OFFSET)
    if offset > machine.next_offset:
        raise OffsetOutOfRangeError(
            f"{field} {offset} is beyond the log end {machine.next_offset} of partition group {machine.group_id}"
        )


def check_ranges(what: str, ranges: Ranges, machine: PartitionMachine, limits: DecisionLimits) -> None:
    """Refuse what are no ranges of the log, or too many."""
    if len(ranges) > limits.max_ranges_per_change:
        raise RequestTooLargeError(f"{len(ranges)} ranges in one request; the most is {limits.max_ranges_per_change}")
    fault = range_fault(ranges)
    if fault is not None:
        raise InvalidArgumentError(f"{what}: {fault}")
    check_range("start of the first range", ranges[0][0], least=0, most=MAX_OFFSET)
    check_offset("end of the last range", ranges[-1][1], machine)


def _check_move(
    machine: PartitionMachine, group: GroupName, rewind_id: int, start_offset: int, requested: str
) -> ConsumerGroup:
    check_range("rewind_id", rewind_id, least=1, most=FIRST_PURGE_ID - 1)
    check_range("start_offset", start_offset, least=0, most=MAX_OFFSET)
    check_text("requested", requested)
    return machine.group(group)


def _repeated(state: ConsumerGroup, record: LeaseRecord, now_ms: int) -> Leased | None:
    """Answer a retry with what is left of its lease, or None if no time is left."""
    held = tuple([part for part in state.holdings(record.lease) if part.visible_at_ms > now_ms])
    if not held:
        return None
    until = min(part.visible_at_ms for part in held)
    return Leased(state.name, LeaseId(record.lease), held, until, repeated=True)


def _choose(
    state: ConsumerGroup,
    end: Offset,
    now_ms: int,
    max_count: int,
    not_below: int,
    limits: DecisionLimits,
    ended: _Ended,
) -> list[Range]:
    """Choose ranges to lease; what must be expired for it, and what is buried on the way, is added to `ended`."""
    chosen: list[Range] = []
    left = max_count
    for run in state.table.eligible(now_ms, end, not_below=not_below):
        start = max(run.start, not_below)
        if start >= run.end:
            continue
        if run.state is RunState.LEASED and ended.policy.is_spent(run.deliveries):
            ended.add(run, None, room=limits.max_ranges_per_change)
            continue
        stop = min(run.end, start + left)
        if chosen and chosen[-1][1] == start:
            chosen[-1] = (chosen[-1][0], stop)
        elif len(chosen) < limits.max_ranges_per_change:
            chosen.append((start, stop))
        else:
            break
        if run.state is RunState.LEASED:
            ended.add(run, None)
        left -= stop - start
        if not left:
            break
    return chosen


def _choose_in_order(
    state: ConsumerGroup,
    end: Offset,
    now_ms: int,
    max_count: int,
    not_below: int,
    limits: DecisionLimits,
    ended: _Ended,
    order: OrderPolicy,
    locks: KeyLocks | None,
    schedule: Schedule,
) -> list[Range]:
    """As `_choose`, but only what the window has room for, and with `locks` nothing whose key is locked.

    Leases that have run out end in this entry also where their messages are not taken: one that was extended later
    would have them in flight beside what was taken in the meantime. Those there is no room for are in flight still.
    """
    table = state.table
    ended_end, ended_count = MAX_NUMBER, 0
    for run in table.expired(now_ms):
        if not ended.add(run, None, room=limits.max_ranges_per_change):
            ended_end = run.start
            break
        ended_count += run.end - run.start
    count = count_in_flight(state, now_ms, order, ended_count=ended_count, schedule=schedule)
    left = min(max_count, order.window - count)
    chosen: list[Range] = []
    if left <= 0:
        return chosen
    walk = None
    if locks is not None:
        walk = locks.walk(state, now_ms, order, ended_end=ended_end, schedule=schedule)
        if walk is None:
            return chosen
    for run in table.eligible(now_ms, end):
        start = max(run.start, not_below)
        if run.state is RunState.LEASED:
            if run.start >= ended_end:
                break
            if ended.policy.is_spent(run.deliveries):
                continue
        for first, last in ((start, run.end),) if walk is None else walk.free(start, run.end):
            stop = min(last, first + left)
            if first >= stop:
                continue
            if chosen and chosen[-1][1] == first:
                chosen[-1] = (chosen[-1][0], stop)
            elif len(chosen) < limits.max_ranges_per_change:
                chosen.append((first, stop))
            else:
                return chosen
            left -= stop - first
            if not left:
                return chosen
        if walk is not None and walk.is_over:
            break
    return chosen


def _by_wait(
    chosen: Selection, ranges: Ranges, delay_ms: int | None, policy: FailurePolicy
) -> list[tuple[int | None, Ranges]]:
    """Split the ranges of a nack by how long they wait, None for what is dead.

    What the lease does not hold goes with the first part, so that it is reported once.
    """
    if not policy.max_deliveries and (delay_ms is not None or not policy.backoff_ms):
        return [(delay_ms or 0, ranges)]
    parts: dict[int | None, list[Range]] = {}
    for pieces in chosen.held:
        for run in pieces:
            wait_ms: int | None = policy.backoff_after(run.deliveries) if delay_ms is None else delay_ms
            if policy.is_spent(run.deliveries):
                wait_ms = None
            parts.setdefault(wait_ms, []).append((run.start, run.end))
    if len(parts) == 1:
        return [(wait_ms, ranges) for wait_ms in parts]
    first = next(iter(parts.values()))
    first += _without(ranges, [(pieces[0].start, pieces[-1].end) for pieces in chosen.held])
    return [(wait_ms, _joined(part)) for wait_ms, part in parts.items()]


def _without(ranges: Ranges, taken: list[Range]) -> list[Range]:
    """Return what is left of sorted ranges without the `taken` ones, which lie inside them, sorted."""
    left: list[Range] = []
    following = iter([*taken, (MAX_NUMBER, MAX_NUMBER)])
    first, last = next(following)
    for start, end in ranges:
        while last <= end:
            if start < first:
                left.append((start, first))
            start = max(start, last)
            first, last = next(following)
        if start < min(end, first):
            left.append((start, min(end, first)))
    return left


def joined(outcomes: Sequence[Settled]) -> Settled:
    """Make one outcome of those of the changes that one nack came to; each offset is in one of them."""
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    return Settled(
        first.group,
        first.lease,
        sum(outcome.count for outcome in outcomes),
        _joined([part for outcome in outcomes for part in outcome.already]),
        _joined([part for outcome in outcomes for part in outcome.expired]),
        _joined([part for outcome in outcomes for part in outcome.stale]),
        any(outcome.rewound for outcome in outcomes),
    )


@final
class _Ended:
    """Leases that an entry ends because they have run out: some of the messages go back, the others are dead."""

    __slots__ = ("_buried", "_is_limited", "_returned", "_state", "policy", "range_count")

    def __init__(self, state: ConsumerGroup, policy: FailurePolicy) -> None:
        self.policy = policy
        self.range_count = 0
        # Asked for each run, of which a queue without a policy may have thousands.
        self._is_limited = policy.max_deliveries > 0
        self._state = state
        self._returned: list[Range] = []
        # By consumer: the change that buries a message says who held it last.
        self._buried: dict[str, list[Range]] = {}

    def add(self, held: Run | LeasedRange, record: LeaseRecord | None, *, room: int | None = None) -> bool:
        """Add a leased run, of the lease `record` if it is known; False where it would be more than `room` ranges."""
        ranges = self._returned
        if self._is_limited and self.policy.is_spent(held.deliveries):
            if record is None and isinstance(held, Run):
                record = self._state.leases.get(held.lease)
            ranges = self._buried.setdefault("" if record is None else record.consumer, [])
        if ranges and ranges[-1][1] == held.start:
            ranges[-1] = (ranges[-1][0], held.end)
            return True
        if room is not None and self.range_count >= room:
            return False
        ranges.append((held.start, held.end))
        self.range_count += 1
        return True

    def changes(self) -> list[Change]:
        made: list[Change] = []
        if self._returned:
            made.append(Expire(self._state.name, _joined(self._returned)))
        for consumer, ranges in self._buried.items():
            if ranges:
                made.append(BuryExpired(self._state.name, _joined(ranges), consumer))
        return made


def _joined(ranges: list[Range]) -> Ranges:
    """Sort ranges and join those that touch or overlap."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def _select(
    machine: PartitionMachine, group: GroupName, lease: int, ranges: Ranges, limits: DecisionLimits
) -> tuple[ConsumerGroup, Selection]:
    """Check what names messages of a lease, and sort them out."""
    state = machine.group(group)
    check_range("lease", lease, least=1, most=MAX_NUMBER)
    check_ranges(f"ranges of lease {lease}", ranges, machine, limits)
    return state, state.select(lease, ranges, log_start=machine.log_start_offset)


def _settled_already(machine: PartitionMachine, state: ConsumerGroup, lease: LeaseId, chosen: Selection) -> Answer:
    """Answer for ranges of which the lease holds nothing."""
    outcome = state.settled(lease, chosen)
    if outcome.stale and not outcome.already and not outcome.expired:
        start, end = outcome.stale[0]
        how = "a rewind took them back" if outcome.rewound else "it is not current for them"
        raise StaleLeaseError(f"lease {lease} of group {state.name!r} does not hold offsets [{start}, {end}): {how}")
    return Answer(outcome, machine.applied_index)
