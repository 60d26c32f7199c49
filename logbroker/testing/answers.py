"""Judges what clients were told against what the log says.

An answer must be true of some state between the commit index when the client asked and what the answering
node had applied when it answered. Timeouts are never judged: unknown stays unknown.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, assert_never, final

from logbroker.errors import (
    InvalidArgumentError,
    NotFoundError,
    OutOfOrderSequenceError,
    RequestError,
    StaleLeaseError,
)
from logbroker.ids import Index, LeaseId
from logbroker.node.requests import (
    AckRequest,
    CancelReply,
    CancelRequest,
    CountTarget,
    DeadReply,
    DeadRequest,
    EarliestTarget,
    ExtendRequest,
    LatestTarget,
    NackRequest,
    OffsetTarget,
    PauseRequest,
    ProduceReply,
    ProduceRequest,
    PurgeReply,
    PurgeRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    ResumeRequest,
    ReviveReply,
    ReviveRequest,
    RewindReply,
    RewindRequest,
    SettleReply,
    StateReply,
    TimeTarget,
)
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.record.batch import decode_batch, read_batch, read_header
from logbroker.testing.history import Verdict
from logbroker.testing.id_checker import IdChecker
from logbroker.testing.model import MessageState, ModelPause
from logbroker.testing.violation import broken
from logbroker.testing.workload import VANDAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.ids import GroupName
    from logbroker.node.requests import GroupState, Part, Request, SettleResult, Target
    from logbroker.testing.history import Operation
    from logbroker.testing.model import GrantedLease, ModelGroup, Move, PartitionModel

_KEPT_BATCHES = 5
_LOOKED_AT = 100
_WOKEN_WITHIN_US = 500_000
_NEVER = Index(1 << 62)
_FRESH_MS = 30_000
"""No retention takes messages that are so young."""


@final
class AnswerChecker:
    """Judges the answers of one partition, each as it arrives."""

    def __init__(self, model: PartitionModel, committed_us: Sequence[int] = ()) -> None:
        """`committed_us`: when each entry was first seen committed, from index 1, in the order of time."""
        self._model = model
        self._committed_us = committed_us
        self.judged_counts: dict[str, int] = {}
        self._ids = IdChecker(model, self.judged_counts)

    def check(self, operation: Operation) -> None:
        """Judge one completed operation.

        Raises:
            Violation: the answer was not true at any moment at which it may have been made.
        """
        if operation.verdict is Verdict.OK:
            self._count(type(operation.answer).__name__)
            self._check_reply(operation)
        elif operation.verdict is Verdict.REFUSED and isinstance(operation.error, RequestError):
            self._count(type(operation.error).__name__)
            self._check_refusal(operation, operation.error)

    def _check_reply(self, operation: Operation) -> None:
        if operation.applied_at_reply > self._model.last_index:
            broken(
                "answers come after commit",
                f"the model ends at {self._model.last_index}: {operation.describe()}",
            )
        match operation.request, operation.answer:
            case ProduceRequest() as request, ProduceReply() as reply:
                self._check_produced(operation, request, reply)
            case ReceiveRequest() as request, ReceiveReply() as reply:
                if reply.parts:
                    self._check_received(operation, request, reply)
                elif not operation.had_more_at_reply:
                    self._check_nothing(operation, request)
            case (AckRequest() | NackRequest() | RejectRequest() | ExtendRequest()) as request, SettleReply() as reply:
                self._check_settled(operation, request, reply)
            case RewindRequest() as request, RewindReply() as reply:
                self._check_rewound(operation, request, reply)
            case DeadRequest() as request, DeadReply() as reply:
                self._check_dead(operation, request, reply)
            case ReviveRequest() as request, ReviveReply() as reply:
                self._check_revived(operation, request, reply)
            case PauseRequest() as request, _:
                self._check_paused(operation, request)
            case ResumeRequest() as request, _:
                self._check_resumed(operation, request)
            case PurgeRequest() as request, PurgeReply() as reply:
                self._check_purged(operation, request, reply)
            case CancelRequest() as request, CancelReply() as reply:
                self._check_cancelled(operation, request, reply)
            case _, StateReply() as reply:
                self._check_state(operation, reply)
            case _:
                pass

    # Producing.

    def _check_produced(self, operation: Operation, request: ProduceRequest, reply: ProduceReply) -> None:
        if operation.client.startswith(VANDAL):
            broken("spoilt batches are refused", operation.describe()[:400])
        values = [record.value or b"" for record in decode_batch(request.batch)]
        if request.dedup:
            self._ids.check(operation, request, reply)
            return
        model = self._model
        start, end = reply.base_offset, reply.base_offset + len(values)
        if reply.count != len(values) or model.values[start:end] != values:
            broken(
                "confirmed messages are in the log at their offset",
                f"the log holds {model.values[start:end]!r} at {start}..{end}: {operation.describe()}",
            )
        index, append_ms = model.entry_at(start)
        # That of a duplicate is read from the log, where the first copy may have expired, or be damaged on this node.
        is_known = append_ms == reply.append_ms or (reply.duplicate and not reply.append_ms)
        if index > operation.applied_at_reply or not is_known:
            broken(
                "a confirmation comes after commit",
                f"offset {start} is entry {index} with log time {append_ms}: {operation.describe()}",
            )

        due_ms = model.schedule.due_ms.get(start, 0)
        # A duplicate is told what is left: nothing, once the first is due.
        if reply.due_ms != due_ms and not (reply.duplicate and not reply.due_ms):
            broken("who sends is told when it is due", f"offset {start} is due at {due_ms}: {operation.describe()}")

    def _check_cancelled(self, operation: Operation, request: CancelRequest, reply: CancelReply) -> None:
        model, first, last = self._model, operation.committed_before, operation.applied_at_reply
        asked = sum(end - start for start, end in request.ranges)
        # What retention has taken may not be counted any more.
        least = model.schedule.cancelled_count(request.ranges, first, not_below=model.log_start_at(last))
        most = model.schedule.cancelled_count(request.ranges, last)
        if not least <= reply.count <= most or reply.count + reply.late_count != asked:
            broken("a cancellation is in the log before it is answered", f"{least}..{most}: {operation.describe()}")
        self._count("cancelled" if reply.count else "cancelled too late")

    def _check_refusal(self, operation: Operation, error: RequestError) -> None:
        if operation.client.startswith(VANDAL):
            self._count("spoilt batches refused")
            return
        match error:
            case OutOfOrderSequenceError():
                self._check_out_of_order(operation)
            case NotFoundError():
                self._check_not_found(operation)
            case StaleLeaseError():
                self._check_stale(operation)
            case InvalidArgumentError() if not _may_be_invalid(operation.request):
                broken("good requests are not refused", operation.describe())
            case _:
                pass

    def _check_out_of_order(self, operation: Operation) -> None:
        if not isinstance(operation.request, ProduceRequest):
            broken("good requests are not refused", operation.describe())
        header = read_header(operation.request.batch)
        batches = self._model.batches_of(header.producer_id)
        before = [batch for batch in batches if batch.index <= operation.committed_before]
        at_reply = [batch for batch in batches if batch.index <= operation.applied_at_reply]
        expected = before[-1].next_sequence if before else 0
        remembered = {batch.base_sequence for batch in at_reply[-_KEPT_BATCHES:]}
        # What was next when the client asked was accepted or is a duplicate by now.
        if header.base_sequence == expected or header.base_sequence in remembered:
            broken(
                "a producer's batches are remembered",
                f"sequence {expected} was next, {sorted(remembered)} are the last: {operation.describe()}",
            )

    def _check_not_found(self, operation: Operation) -> None:
        name = getattr(operation.request, "group", None)
        group = None if name is None else self._model.find_group(name, operation.committed_before)
        if group is not None and group.deleted > operation.applied_at_reply:
            broken("consumer groups stay", operation.describe())

    def _check_stale(self, operation: Operation) -> None:
        """At least one of the messages was neither acked nor held by the lease."""
        request = operation.request
        if isinstance(request, ReleaseRequest):
            return
        if not isinstance(request, AckRequest | NackRequest | RejectRequest | ExtendRequest):
            broken("good requests are not refused", operation.describe())
        first, last = operation.committed_before, operation.applied_at_reply
        for lease, ranges in request.items:
            group = self._group_of_lease(request.group, lease)
            for offset in _offsets(ranges):
                if group is None:
                    continue
                moments = group.between(offset, first, last)
                if any(moment.state is not MessageState.ACKED and moment.lease != lease for moment in moments):
                    return
        broken("stale means not held", operation.describe())

    # Receiving.

    def _check_received(self, operation: Operation, request: ReceiveRequest, reply: ReceiveReply) -> None:
        group = self._group_of_lease(request.group, reply.lease)
        granted = None if group is None else group.leases.get(reply.lease)
        if group is None or granted is None or granted.index > operation.applied_at_reply:
            broken("leases are committed before they are given", operation.describe())
        if (granted.session, granted.request_id) != (request.session, request.request_id):
            broken(
                "a lease belongs to one request",
                f"lease {granted.lease} is of request {granted.session}/{granted.request_id}: {operation.describe()}",
            )
        deliveries = {offset: count for start, end, count in granted.ranges for offset in range(start, end)}
        given = 0
        for part in reply.parts:
            for start, end, count in part.ranges:
                given += end - start
                for offset in range(start, end):
                    if deliveries.get(offset) != count:
                        broken(
                            "a delivery is counted as the log counts it",
                            f"offset {offset} was delivered {deliveries.get(offset)} times: {operation.describe()}",
                        )
            self._check_part(operation, part)
        if given > request.max_count:
            broken("a receive gets no more than it asked for", operation.describe())
        self._check_deadline(operation, granted, reply)
        self._check_held(operation, group, granted, reply)

    def _check_nothing(self, operation: Operation, request: ReceiveRequest) -> None:
        """A receive that found nothing: no message was there all the time, free to be leased."""
        model, first, last = self._model, operation.committed_before, operation.applied_at_reply
        group = model.find_group(request.group, first)
        # What has just become too old, or too much, is passed over before the entry that says so is committed.
        if group is None or group.deleted <= last or model.max_age_ms or model.limits.drops_oldest:
            return
        self._count("receives that found nothing")
        if request.wait_ms:
            # What came while it waited should have woken it.
            woken_us = operation.completed_us - _WOKEN_WITHIN_US
            first = max(first, Index(min(last, bisect_right(self._committed_us, woken_us))))
        if self._was_paused(group, first, last):
            self._count("receives that a pause held up")
            return
        end = model.next_offset_at(first)
        if model.order is not None:
            if not self._is_idle(group, model.log_start_at(last), first, last):
                return
            self._count("receives that found nothing while nothing was in flight")
        for offset in range(max(model.log_start_at(last), end - _LOOKED_AT), end):
            is_free = all(moment.state is MessageState.AVAILABLE for moment in group.between(offset, first, last))
            # One that has expired only waits for its FLOOR entry.
            if is_free and model.append_ms - model.entry_at(offset)[1] < _FRESH_MS:
                broken("who asks gets what there is", f"offset {offset} was free all the time: {operation.describe()}")

    def _is_idle(self, group: ModelGroup, start: int, first: Index, last: Index) -> bool:
        """Nothing was in flight at any moment: no order has anything wait."""
        busy = (MessageState.LEASED, MessageState.DELAYED)
        return not any(
            moment.state in busy
            for offset in group.moments
            if offset >= start
            for moment in group.between(offset, first, last)
        )

    def _check_part(self, operation: Operation, part: Part) -> None:
        if part.corrupt:
            broken("no confirmed message is corrupt", operation.describe())
        opened = read_batch(part.batch)
        found = {
            int(offset): record.value or b"" for offset, record in zip(opened.offsets, opened.records, strict=True)
        }
        for start, end, _ in part.ranges:
            for offset in range(start, end):
                if found.get(offset) != self._model.values[offset]:
                    broken(
                        "what is delivered is what was confirmed",
                        f"offset {offset} is {self._model.values[offset]!r} in the log and "
                        f"{found.get(offset)!r} in the batch: {operation.describe()}",
                    )
            if self._model.entry_at(start)[1] != part.append_ms:
                broken("log time is given as it stands in the log", operation.describe())

    def _check_deadline(self, operation: Operation, granted: GrantedLease, reply: ReceiveReply) -> None:
        longest_ms = reply.visible_at_ms - granted.append_ms
        if not 0 <= reply.hide_left_ms <= longest_ms:
            broken(
                "the hide time that is left is not overstated",
                f"lease {granted.lease} was made at log time {granted.append_ms}: {operation.describe()}",
            )

    def _check_held(self, operation: Operation, group: ModelGroup, granted: GrantedLease, reply: ReceiveReply) -> None:
        """Each message given out was held by the lease at some moment in which the answer may have been made."""
        first = max(granted.index, operation.committed_before)
        for offset in _offsets(tuple((start, end) for part in reply.parts for start, end, _ in part.ranges)):
            moments = group.between(offset, first, operation.applied_at_reply)
            if not any(moment.lease == granted.lease for moment in moments):
                broken("only held messages are given again", f"offset {offset}: {operation.describe()}")

    # Settling.

    def _check_settled(
        self,
        operation: Operation,
        request: AckRequest | NackRequest | RejectRequest | ExtendRequest,
        reply: SettleReply,
    ) -> None:
        if len(reply.results) != len(request.items):
            broken("every item is answered", operation.describe())
        for (lease, ranges), result in zip(request.items, reply.results, strict=True):
            asked = set(_offsets(ranges))
            rest = [*_offsets(result.already), *_offsets(result.expired), *_offsets(result.stale)]
            if result.lease != lease or len(set(rest)) != len(rest) or not asked.issuperset(rest):
                broken("every message asked for is answered once", operation.describe())
            done = asked.difference(rest)
            if len(done) != result.done_count:
                broken("every message asked for is answered once", operation.describe())
            group = self._group_of_lease(request.group, lease)
            if group is None:
                broken("leases belong to a group", operation.describe())
            self._check_result(operation, group, lease, result, done)

    def _check_result(
        self, operation: Operation, group: ModelGroup, lease: LeaseId, result: SettleResult, done: set[int]
    ) -> None:
        first, last = operation.committed_before, operation.applied_at_reply
        for offset in sorted(done):
            if not self._was_settled(operation, group, lease, offset):
                broken("what is settled is settled in the log", f"offset {offset}: {operation.describe()}")
        for offset in _offsets(result.already):
            if not any(moment.state is MessageState.ACKED for moment in group.between(offset, first, last)):
                broken("already acked means acked", f"offset {offset}: {operation.describe()}")
        for offset in _offsets(result.stale):
            moments = group.between(offset, first, last)
            if all(moment.state is MessageState.ACKED or moment.lease == lease for moment in moments):
                broken("stale means not held", f"offset {offset}: {operation.describe()}")
        for offset in _offsets(result.expired):
            if offset >= self._model.log_start_at(last):
                broken("expired means below the log start", f"offset {offset}: {operation.describe()}")
        if result.rewound and not self._was_rewound(group, lease, result.stale, last):
            broken("rewound means that a rewind took it", operation.describe())

    def _was_rewound(self, group: ModelGroup, lease: LeaseId, stale: tuple[tuple[int, int], ...], last: Index) -> bool:
        """Whether a rewind since the lease covers some of these messages, which the lease may have lost before."""
        moves = [move for move in group.moves.values() if lease >> 16 < move.index <= last and move.is_rewind]
        return any(move.start_offset < end and start < move.next_offset for move in moves for start, end in stale)

    def _was_settled(self, operation: Operation, group: ModelGroup, lease: LeaseId, offset: int) -> bool:
        first, last = operation.committed_before, operation.applied_at_reply
        moments = list(group.between(offset, first, last))
        if isinstance(operation.request, ExtendRequest):
            return any(moment.lease == lease for moment in moments)
        match operation.request:
            case AckRequest():
                became: tuple[MessageState, ...] = (MessageState.ACKED,)
            case RejectRequest():
                became = (MessageState.DEAD,)
            case _:
                became = (MessageState.AVAILABLE, MessageState.DELAYED, MessageState.DEAD)
        return any(before.lease == lease and after.state in became for before, after in pairwise(moments))

    # The dead.

    def _check_dead(self, operation: Operation, request: DeadRequest, reply: DeadReply) -> None:
        """Every row was true at some moment, and it says what the log says of it."""
        first, last = operation.committed_before, operation.applied_at_reply
        group = self._model.find_group(request.group, last)
        if group is None or group.created > first:
            return
        if reply.rows:
            self._count("dead messages listed")
        for row in reply.rows:
            for offset in range(row.start, row.end):
                if not any(moment.state is MessageState.DEAD for moment in group.between(offset, first, last)):
                    broken("who is listed as dead is dead", f"offset {offset}: {operation.describe()}")
                told = (row.buried_at_ms, row.deliveries, row.cause, row.reason, row.consumer)
                known = [
                    (burial.append_ms, burial.deliveries, burial.cause, burial.reason, burial.consumer)
                    for burial in group.burials.get(offset, ())
                ]
                if told not in known and row.cause is not None:
                    broken("the dead are listed with why they died", f"{offset} has {known}: {operation.describe()}")

    def _check_revived(self, operation: Operation, request: ReviveRequest, reply: ReviveReply) -> None:
        group = self._model.find_group(request.group, operation.applied_at_reply)
        if group is None or not reply.count:
            return
        done = [
            count for index, count in group.revivals if operation.committed_before < index <= operation.applied_at_reply
        ]
        if reply.count not in done:
            broken("a revival says what it revived", f"the log has {done}: {operation.describe()}")

    # Pauses and purges.

    def _was_paused(self, group: ModelGroup, first: Index, last: Index) -> bool:
        """Whether a pause may have held at some moment: one was there, and not over before."""
        log_ms = self._model.log_times[first - 1] if first else 0
        pauses = group.pauses_between(first, last)
        return any(pause is not None and pause.holds_at(log_ms) for pause in pauses)

    def _check_paused(self, operation: Operation, request: PauseRequest) -> None:
        group = self._model.find_group(request.group, operation.applied_at_reply)
        if group is None:
            return
        known = [pause for index, pause in group.pauses if index <= operation.applied_at_reply]
        for pause in known:
            if pause is None or pause.reason != request.reason:
                continue
            length_ms = pause.until_ms - pause.since_ms if pause.until_ms else 0
            if length_ms == request.duration_ms:
                return
        broken("a pause is in the log before it is answered", f"the log has {known}: {operation.describe()}")

    def _check_resumed(self, operation: Operation, request: ResumeRequest) -> None:
        first, last = operation.committed_before, operation.applied_at_reply
        group = self._model.find_group(request.group, first)
        if group is not None and group.deleted > last and None not in group.pauses_between(first, last):
            broken("a group that is resumed is not paused", operation.describe())

    def _check_purged(self, operation: Operation, request: PurgeRequest, reply: PurgeReply) -> None:
        group = self._model.find_group(request.group, operation.applied_at_reply)
        if group is None:
            return
        index, counts = group.purges.get(FIRST_PURGE_ID + request.purge_id, (_NEVER, None))
        if index > operation.applied_at_reply:
            broken("a purge is in the log before it is answered", operation.describe())
        if (reply.purged_count, reply.revoked_count, reply.dead_count) != counts:
            broken("a purge says what it settled", f"the log has {counts}: {operation.describe()}")

    # Rewinding.

    def _check_rewound(self, operation: Operation, request: RewindRequest, reply: RewindReply) -> None:
        group = self._model.find_group(request.group, operation.applied_at_reply)
        if group is None:
            group = self._model.find_group(request.group, operation.committed_before)
        move = None if group is None else group.moves.get(request.rewind_id)
        if move is None or move.index > operation.applied_at_reply or move.start_offset != reply.start_offset:
            broken("a rewind is in the log before it is answered", f"the log has {move}: {operation.describe()}")
        lows = (move.young_start, move.log_start)
        expected = [self._resolved(request.target, move, low) for low in lows]
        if reply.start_offset not in expected:
            broken(
                "a rewind is exact",
                f"{request.target} is offset {expected[0]}, the log held {lows}..{move.next_offset}: "
                f"{operation.describe()}",
            )
        moved = move.counts[0] + move.counts[1] if move.is_rewind else move.counts[0]
        if (reply.moved_count, reply.revoked_count) != (moved, move.counts[1]):
            broken("a rewind says what it moved", f"{moved} moved, {move.counts[1]} revoked: {operation.describe()}")
        is_kept = self._model.log_start_at(operation.applied_at_reply) <= reply.start_offset < self._model.next_offset
        if is_kept and reply.start_ms not in (0, self._model.entry_at(reply.start_offset)[1]):
            broken("a rewind names the log time of its start", operation.describe())

    def _resolved(self, target: Target, move: Move, low: int) -> int:
        """The effective start that `target` had to come to, from `low` on, when the log was as `move` found it."""
        high = move.next_offset
        match target:
            case TimeTarget(ms):
                time_ms = ms if ms >= 0 else move.append_ms + ms
                wanted = self._model.first_offset_at(time_ms, before=move.index)
                return high if wanted is None else max(wanted, low)
            case OffsetTarget(offset):
                return min(max(offset, low), high)
            case CountTarget(count):
                return max(high - count, low)
            case EarliestTarget():
                return low
            case LatestTarget():
                return high
            case _:
                assert_never(target)

    # The rest.

    def _check_state(self, operation: Operation, reply: StateReply) -> None:
        model, first, last = self._model, operation.committed_before, operation.applied_at_reply
        if not model.next_offset_at(first) <= reply.log_end <= model.next_offset_at(last):
            broken(
                "reads are not stale",
                f"the log ended between {model.next_offset_at(first)} and {model.next_offset_at(last)}: "
                f"{operation.describe()}",
            )
        if not model.log_start_at(first) <= reply.log_start <= model.log_start_at(last):
            broken("reads are not stale", f"log starts {model.floors}: {operation.describe()}")

    def check_positions(self, operation: Operation) -> bool:
        """Compare the counts of every consumer group with the model; False where the model stands elsewhere by now.

        Raises:
            Violation: the counts are not those of the state at the index at which the answer was made.
        """
        reply, model = operation.answer, self._model
        if not isinstance(reply, StateReply) or operation.applied_at_reply != model.last_index:
            return False
        for told in reply.groups:
            counted = model.groups[told.group].counts(model.log_start_offset, model.next_offset)
            self._check_told_pause(operation, model.groups[told.group].pause, told)
            found = (told.available, told.leased, told.delayed, told.acked_ahead, told.dead, told.oldest_offset)
            if found != counted:
                broken("positions are exact", f"{told.group} has {counted}: {operation.describe()}")
        return True

    def _check_told_pause(self, operation: Operation, pause: ModelPause | None, told: GroupState) -> None:
        """One with an end may be over by a clock that the log has not seen yet."""
        shown = ModelPause(told.paused_reason, told.paused_since_ms, told.paused_until_ms) if told.is_paused else None
        if shown != pause and (shown is not None or pause is None or not pause.until_ms):
            broken("pauses are shown as they are", f"{told.group} has {pause}: {operation.describe()}")

    def _group_of_lease(self, name: GroupName, lease: LeaseId) -> ModelGroup | None:
        return self._model.find_group(name, Index(lease >> 16))

    def _count(self, what: str) -> None:
        self.judged_counts[what] = self.judged_counts.get(what, 0) + 1


def _may_be_invalid(request: Request) -> bool:
    """A rewind may name the future; an extension, or a time of delivery, may come after a clock has jumped by days."""
    return isinstance(request, RewindRequest | ExtendRequest) or (
        isinstance(request, ProduceRequest) and request.deliver_at_ms > 0
    )


def _offsets(ranges: tuple[tuple[int, int], ...]) -> Iterator[int]:
    for start, end in ranges:
        yield from range(start, end)
