"""The leader's side of a partition: requests in, proposals and answers out.

A request is decided on `ahead` (applied state plus every later entry of the own log), proposed in the same synchronous
step, and answered from what apply made of it. Nothing here changes replicated state, and nothing waits without being
told when the leadership ends.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, assert_never, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import (
    CorruptBatchError,
    DamageError,
    InvalidArgumentError,
    LogBrokerError,
    NoRoomError,
    NotFoundError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    OverloadedError,
    ProducerFencedError,
    QueueFullError,
    RequestError,
    StaleLeaseError,
    StorageError,
    UnavailableError,
    UnknownOutcomeError,
    invariant,
)
from logbroker.ids import GroupId, GroupName, Index, LeaseId, Offset
from logbroker.node.breakers import Breakers
from logbroker.node.dead_messages import list_dead
from logbroker.node.key_index import KeyIndex
from logbroker.node.moving import MAX_MOVED_BYTES, NO_PLACE, Moves, QueuePlace
from logbroker.node.peeking import first, look
from logbroker.node.requests import (
    AckRequest,
    Answer,
    CancelReply,
    CancelRequest,
    CountTarget,
    CreateGroupRequest,
    DeadRequest,
    DeleteGroupRequest,
    EarliestTarget,
    ExtendRequest,
    GroupReply,
    GroupState,
    LatestTarget,
    MoveReply,
    MoveRequest,
    MoveVerdict,
    NackRequest,
    OffsetTarget,
    Part,
    PauseRequest,
    PeekReply,
    PeekRequest,
    ProduceReply,
    ProduceRequest,
    PurgeReply,
    PurgeRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    Request,
    ResumeRequest,
    ReviveReply,
    ReviveRequest,
    RewindReply,
    RewindRequest,
    SettleReply,
    SettleResult,
    StateReply,
    StateRequest,
    Target,
    TimeTarget,
    TransferReply,
    TransferRequest,
)
from logbroker.node.retained import MARKS, RetainedBytes
from logbroker.partition import decide, moving, outcomes
from logbroker.partition.breaker import REASON_START, BreakerPolicy, is_breaker
from logbroker.partition.commands import (
    MAX_NUMBER,
    Change,
    Dedupe,
    DeliverAt,
    Floor,
    ForgetSource,
    Lease,
    MoveIn,
    RewindFloor,
    encode_changes,
    encode_floor,
)
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.limits import (
    NO_LIMITS,
    OVERSHOOT_BYTES,
    OVERSHOOT_COUNT,
    SizeLimits,
    check_room,
    first_offset_within,
    is_far_beyond,
    is_just_beyond,
    unsettled_count,
)
from logbroker.partition.machine import MAX_OFFSET, PartitionMachine
from logbroker.partition.ordering import NO_ORDER, KeyLocks, OrderPolicy
from logbroker.partition.outcomes import Applied
from logbroker.partition.retention import MAX_AGE_MS, first_kept_ms, first_young_ms
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.raft.refusal import ProposalRefused
from logbroker.record.batch import BatchHeader, BatchLimits, check_batch, decode_batch, repack, stamp
from logbroker.record.dedup_ids import check_count, hash_records
from logbroker.record.records import with_history_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logbroker.node.replica import Replica

MAX_WAIT_MS = 30_000
REPACK_WASTE_BYTES = 64 << 10
BURY_EVERY_MS = 900
"""What has outlived its time to live is buried together: each burial leaves a run of its own until retention."""
KEY_READ_BYTES = 32 << 10
_MAX_QUIET_MS = 5_000
_NEVER_MS = 1 << 62
_GONE_EVERY_MS = 60_000
_MAX_FORGOTTEN = 1_000
MAX_DEAD_ROWS = 100
"""Of one answer: each may cost two entries of the log to be read."""
MAX_PEEK_COUNT = 1_000
NO_LEASE = LeaseId(0)

_SettleRequest = AckRequest | NackRequest | RejectRequest | ExtendRequest


@final
@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """What the catalogue says of the queue; a change takes effect with the next decision."""

    retention_s: int = 4 * 86_400
    failures: FailurePolicy | None = NO_POLICY
    """None while it is not known: until then no delivery ends as failed and none begins, lest it be one too many."""
    max_age_ms: int = 0
    """What is unsettled so long after it was appended is dead; 0: never."""
    limits: SizeLimits = NO_LIMITS
    rewind_ms: int = MAX_AGE_MS
    """What is settled so long after it was appended stays settled; at most retention counts."""
    breaker: BreakerPolicy | None = None
    order: OrderPolicy | None = NO_ORDER
    """None while it is not known: until then nothing is leased, lest it be before its turn."""
    place: QueuePlace = NO_PLACE
    dead_letters: GroupId | None = None
    """The partition to which dead messages are moved."""
    dedup_window_ms: int = 300_000
    """How long the ids of messages are remembered; 0: not at all."""
    dedup_count: int = 1_000_000


@final
@dataclass(slots=True)
class PartitionFigures:
    """Counted while this node led. Messages that came to their end unsettled count once for each consumer group."""

    expired: int = 0
    """Below a new log start."""
    too_old: int = 0
    """Dead, because their time to live was over."""
    refused: int = 0
    """Batches that a full queue did not take."""
    retained_bytes: int = 0
    """Of all batches, now; known where their number is bounded."""


class PartitionHost(Protocol):
    """What a partition asks of its node."""

    def has_room(self, replica: Replica) -> bool:
        """Whether a majority of the group's nodes can take more messages."""

    def admits(self, size_bytes: int) -> bool:
        """Whether the node can hold so many bytes more that are not committed."""

    def may_floor(self) -> bool:
        """False while this node's clock has jumped so far that nothing may be expired by it."""

    def monotonic_ms(self) -> int: ...

    def rise(self, replica: Replica) -> None:
        """The next tick is to look at `replica`."""

    def chance(self) -> float:
        """A random number in [0, 1)."""

    def send_transfer(self, target: GroupId, source: GroupId, number: int, batch: bytes) -> None:
        """Have the target's leader take a batch. What it says comes to `on_transferred`, or never."""

    def is_gone(self, group: GroupId) -> bool:
        """Whether a partition was deleted for good."""


@final
@dataclass(slots=True)
class _Poll:
    request: ReceiveRequest
    deadline_ms: int
    answer: Answer


@final
@dataclass(frozen=True, slots=True)
class _Batch:
    """One stored batch; `is_lost`: no good copy exists and `payload` is empty."""

    base_offset: Offset
    next_offset: Offset
    append_ms: int
    payload: bytes
    is_lost: bool


@final
class PartitionService:
    """See the module. One for each partition replica; it acts only while the replica serves."""

    def __init__(
        self,
        replica: Replica,
        host: PartitionHost,
        settings: PartitionSettings,
        limits: BatchLimits,
        *,
        decision_limits: decide.DecisionLimits = decide.DEFAULT_DECISION_LIMITS,
    ) -> None:
        self._settings = settings
        self.void_batches = 0
        self.figures = PartitionFigures()
        self._retained = RetainedBytes()
        # Whether all batches are counted; until then no bound of bytes is gone by.
        self._is_counted = False
        self._replica = replica
        self._host = host
        self._limits = limits
        self._decision_limits = decision_limits
        self._wide_limits = with_history_room(limits)
        self._polls: dict[GroupName, deque[_Poll]] = {}
        self._woken: dict[GroupName, None] = {}
        self._breakers = Breakers()
        # Answers that nobody waits for any more, of polls that are still in their line or were a moment ago.
        self._forgotten: set[Answer] = set()
        self._oldest_ms = 0
        # The first message within its time to live and its log time, or that of the search if there is none; and the
        # time that was searched for.
        self._young_offset, self._young_ms, self._searched_ms = Offset(0), -1, 0
        self._next_burial_ms = 0
        # By which window the rewind floor was last looked after, of this leadership.
        self._rewind_ms: int | None = None
        self._look_for_gone_ms = 0
        self._gone_sources: set[int] = set()
        self._moves = Moves(
            replica,
            host,
            limits=limits,
            read=lambda start, end: self._batches(start, end, max_bytes=MAX_MOVED_BYTES),
            count_that_fits=lambda ranges: self._count_that_fits(ranges, MAX_MOVED_BYTES),
            propose=lambda changes: self._propose_changes(changes, lambda _: self._send_owed(), lambda _: None),
        )
        # Until this monotonic time no tick finds anything to do, unless something happens before.
        self._quiet_until_ms = 0
        # Made with the first receive of a leadership that is ordered by key.
        self._keys: KeyIndex | None = None
        self._locks: KeyLocks | None = None
        # Groups that the next tick looks at: there may be more than the last receive found.
        self._behind: set[GroupName] = set()

    @property
    def settings(self) -> PartitionSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: PartitionSettings) -> None:
        if settings.order != self._settings.order:
            # What waited for its turn may have it by the new order. The tick sees to it where nothing else happens.
            self._woken |= dict.fromkeys(self._polls)
            self._behind |= self._polls.keys()
        self._settings = settings
        # Another time may be due now.
        self._quiet_until_ms = 0
        self._host.rise(self._replica)

    @property
    def poll_count(self) -> int:
        return sum(map(len, self._polls.values()))

    def submit(self, request: Request, answer: Answer) -> None:
        """Take a request; `answer` is called exactly once, now or later."""
        try:
            self._decide(request, answer)
        except RequestError as error:
            self._refuse(error, answer)
        except StorageError as error:
            answer(UnavailableError(f"group {self._replica.group} cannot be read on this node: {error.message}"))
        except LogBrokerError as error:
            answer(error)

    def forget(self, answer: Answer) -> None:
        """Whoever asked is gone: a receive that waits leases nothing, and `answer` is not called if it was not yet."""
        if self._polls:
            self._forgotten.add(answer)

    def _refuse(self, error: RequestError, answer: Answer) -> None:
        """Tell a refusal once what it rests on is certain; of what is wrong by itself nothing has to be."""
        if isinstance(error, InvalidArgumentError) or not self._replica.is_serving:
            answer(error)
        else:
            self._confirm(self._ahead().applied_index, lambda: answer(error), answer)

    def _confirm(self, index: Index, on_certain: Callable[[], None], on_lost: Answer) -> None:
        """Call `on_certain` when the log is committed through `index`, and no other leader began before this was asked.

        For what is answered from the state and appends nothing. Before it is committed a lost term could make it
        untrue; and a leader that was paused, or cut off, knows nothing of what the one after it has committed.
        """

        def ask() -> None:
            try:
                self._replica.read(on_certain, on_lost)
            except LogBrokerError as error:
                on_lost(error)

        self._replica.when_applied(index, ask, on_lost)

    def on_leading(self) -> None:
        self._oldest_ms = self._quiet_until_ms = self._next_burial_ms = 0
        self._young_ms = -1
        self._woken.clear()
        self._retained.forget_proposals()
        self._rewind_ms = None
        self._breakers.forget()
        self._gone_sources.clear()
        self._moves.on_leading()

    def on_leadership_lost(self, error: Callable[[], LogBrokerError]) -> None:
        polls, self._polls = self._polls, {}
        self._forgotten.clear()
        self._breakers.forget()
        self._keys = self._locks = None
        self._behind.clear()
        for waiting in polls.values():
            for poll in waiting:
                poll.answer(error())

    def on_applied(self, entry: Entry, applied: object) -> None:
        self._quiet_until_ms = 0
        applied = _as_applied(applied)
        for group in applied.woken:
            self._woken[group] = None
        if self.settings.breaker is not None and self._replica.is_serving:
            self._breakers.count(self.settings.breaker, self._applied(), applied)
        if self._polls and self.settings.order is not None and self.settings.order.window:
            # What was settled makes room, or frees a key.
            if entry.kind is EntryKind.FLOOR:
                self._woken |= dict.fromkeys(self._polls)
            for outcome in applied.outcomes:
                if isinstance(outcome, (outcomes.Settled, outcomes.Buried, outcomes.Skipped, outcomes.Purged)):
                    self._woken[outcome.group] = None
        if entry.kind is EntryKind.DATA and isinstance(applied.outcomes[0], outcomes.Void):
            self.void_batches += 1
        if self._replica.is_serving and (entry.kind is EntryKind.FLOOR or self.settings.max_age_ms):
            self._count_losses(applied)

    def _count_losses(self, applied: Applied) -> None:
        for outcome in applied.outcomes:
            match outcome:
                case outcomes.FloorMoved():
                    self.figures.expired += sum(count for _, count in outcome.expired)
                case outcomes.Buried(is_old=True):
                    self.figures.too_old += outcome.count
                case _:
                    pass

    def after_pump(self) -> None:
        """Serve the long polls of groups in which something became available, unless it was too often given back."""
        if self._breakers.is_tripping and self._replica.is_serving:
            # What is refused is tried again, at the next tick at the latest.
            with contextlib.suppress(ProposalRefused):
                self._trip(self._replica.stamp_ms())
        if not self._woken or not self._replica.is_serving:
            return
        woken, self._woken = self._woken, {}
        for group in woken:
            self._serve_polls(group)

    def on_tick(self, now_ms: int) -> int:
        """Everything that happens because time passes: floors, expiry, delays that are due, polls that end."""
        if now_ms < self._quiet_until_ms and not self._polls:
            return self._quiet_until_ms
        log_ms = self._replica.stamp_ms()
        for act in (
            self._keep_rewind_floor,
            self._move_floor,
            self._trip,
            self._expire,
            self._bury_old,
            self._count_bytes,
            self._drop_oldest,
            self._tidy,
            self._owe_dead,
            self._send_owed,
            self._forget_sources,
        ):
            # What is refused, or needs what is damaged, is tried again at the next tick; nothing was appended.
            with contextlib.suppress(ProposalRefused, StorageError):
                act(log_ms)
        if self._polls or self._forgotten:
            self._end_polls()
        self._quiet_until_ms = now_ms + self._quiet_ms(log_ms)
        return now_ms if self._polls else self._quiet_until_ms

    def _quiet_ms(self, log_ms: int) -> int:
        """How long nothing is due: most partitions of a large node are idle most of the time."""
        if self._breakers.is_tripping or len(self._ahead().outbox):
            # A pause was refused, or what was sent may have to be sent again.
            return 0
        # While the node may not move floors, the oldest message is not even looked for.
        floor_ms = self._oldest_ms + self.settings.retention_s * 1000 if self._host.may_floor() else _NEVER_MS
        due_ms = min(self._ahead().next_deadline_ms() or _NEVER_MS, floor_ms, self.burial_due_ms())
        if self.settings.limits.max_bytes and not self._is_counted:
            return 0
        return max(0, min(_MAX_QUIET_MS, due_ms - log_ms))

    def _decide(self, request: Request, answer: Answer) -> None:
        match request:
            case ProduceRequest():
                self._produce(request, answer)
            case ReceiveRequest():
                self._receive(request, answer)
            case AckRequest() | NackRequest() | RejectRequest() | ExtendRequest():
                self._settle(request, answer)
            case ReleaseRequest():
                self._release(request, answer)
            case RewindRequest():
                self._rewind(request, answer)
            case CreateGroupRequest():
                self._create_group(request, answer)
            case DeleteGroupRequest():
                self._delete_group(request, answer)
            case PauseRequest():
                self._pause(request, answer)
            case ResumeRequest():
                self._resume(request, answer)
            case PurgeRequest():
                self._purge(request, answer)
            case DeadRequest():
                self._list_dead(request, answer)
            case ReviveRequest():
                self._revive(request, answer)
            case PeekRequest():
                self._peek(request, answer)
            case CancelRequest():
                self._cancel(request, answer)
            case MoveRequest():
                self._move(request, answer)
            case TransferRequest():
                self._transfer(request, answer)
            case StateRequest():
                self._replica.read(lambda: answer(self._state()), answer)
            case _:
                assert_never(request)

    # Produce.

    def _produce(self, request: ProduceRequest, answer: Answer) -> None:
        try:
            header = check_batch(request.batch, self._limits)
            ids = self._ids_of(request.batch, header) if request.dedup else None
        except CorruptBatchError as fault:
            # The sender's bytes are at fault, not this node's disk.
            answer(fault)
            return
        ahead = self._ahead()
        if not self._host.has_room(self._replica):
            raise NoRoomError(
                f"fewer than a majority of the nodes of group {self._replica.group} have disk room",
                hint="receives, acks and retention go on; produce is taken again when there is room",
            )
        append_ms = self._replica.stamp_ms()
        due_ms = 0
        if request.delay_ms or request.deliver_at_ms:
            due_ms = decide.due_time(
                delay_ms=request.delay_ms,
                deliver_at_ms=request.deliver_at_ms,
                now_ms=append_ms,
                retention_s=self.settings.retention_s,
                max_age_ms=self.settings.max_age_ms,
            )
        decision = decide.decide_produce(ahead, header, due_ms=due_ms, ids=ids, now_ms=append_ms)
        match decision:
            case decide.Refused(error):
                raise error
            case decide.Answer(outcome, after_index):
                invariant(isinstance(outcome, outcomes.Produced), "a produce is answered with another outcome")
                if isinstance(outcome, outcomes.Produced):
                    self._answer_duplicate(outcome, after_index, answer)
            case decide.ProposeBatch(base_offset, repeated_count=repeated_count):
                if not self._host.admits(len(request.batch)):
                    raise OverloadedError(
                        f"this node has too much that is not committed to take {len(request.batch)} bytes more"
                    )
                limits = self.settings.limits
                if limits.is_bounded and not limits.drops_oldest:
                    self._check_room(limits, header.record_count - repeated_count, len(request.batch))
                payload = stamp(request.batch, base_offset, self._replica.core.term)
                self._replica.propose(
                    EntryKind.DATA,
                    payload,
                    record_count=header.record_count,
                    append_ms=append_ms,
                    on_committed=lambda applied: answer(self._produced(_as_applied(applied), append_ms, ids)),
                    on_lost=answer,
                    preparation=_preparation(due_ms, ids),
                )
                if limits.is_bounded:
                    self._after_produce(limits, len(payload))

    def _check_room(self, limits: SizeLimits, count: int, size_bytes: int) -> None:
        ahead = self._ahead()
        held_bytes = self._retained.held_bytes(ahead.log_start_offset) if self._is_counted else 0
        try:
            check_room(ahead, limits, count=count, size_bytes=size_bytes, held_bytes=held_bytes)
        except QueueFullError:
            self.figures.refused += 1
            raise

    def _after_produce(self, limits: SizeLimits, size_bytes: int) -> None:
        """The batch is on its way, whatever comes of this."""
        if limits.max_bytes:
            self._retained.note_proposed(self._ahead().applied_index, size_bytes)
        if limits.drops_oldest:
            with contextlib.suppress(ProposalRefused, StorageError):
                self._drop_oldest(at_once=True)

    def _ids_of(self, batch: bytes, header: BatchHeader) -> Dedupe | None:
        """The ids of a batch's messages; None where there are none.

        A queue that remembers none, with a window of 0, has them looked at all the same: a batch that is sent again
        may be from before it was so.

        Raises:
            CorruptBatchError: the batch cannot be opened. So do InvalidArgumentError and RequestTooLargeError.
            UnavailableError: it is not known yet for how long ids are to be remembered.
        """
        self._policy()
        check_count(header.record_count)
        found = hash_records(decode_batch(batch, self._limits))
        return None if found is None else Dedupe(self.settings.dedup_window_ms, self.settings.dedup_count, *found)

    def _produced(self, applied: Applied, append_ms: int, ids: Dedupe | None) -> ProduceReply | LogBrokerError:
        outcome = applied.outcomes[0]
        if isinstance(outcome, outcomes.Produced):
            return _produce_reply(outcome, append_ms)
        if not isinstance(outcome, outcomes.Void):
            return UnknownOutcomeError(f"a batch came to {outcome}")
        if outcome.duplicate_of is not None:
            # It was answered with the log time of the first, and every repeat of it is.
            again = decide.repeated(self._applied(), outcome.duplicate_of, outcome.count, ids)
            return _produce_reply(again, self._append_ms_of(outcome.duplicate_of))
        if outcome.why is outcomes.Misfit.FENCED:
            return ProducerFencedError(outcome.detail)
        return OutOfOrderSequenceError(outcome.detail)

    def _answer_duplicate(self, outcome: outcomes.Produced, after_index: Index, answer: Answer) -> None:
        def tell() -> None:
            answer(_produce_reply(outcome, self._append_ms_of(outcome.base_offset)))

        if outcome.duplicates or outcome.conflicts:
            # What a sequence says of a batch stays true for ever, what is known of an id does not.
            self._confirm(after_index, tell, answer)
        else:
            self._replica.when_applied(after_index, tell, answer)

    # Receive.

    def _receive(self, request: ReceiveRequest, answer: Answer) -> None:
        decide.check_range("wait_ms", request.wait_ms, least=0, most=MAX_WAIT_MS)
        decide.check_range("max_bytes", request.max_bytes, least=1, most=1 << 30)
        if self._lease(request, answer):
            return
        if request.wait_ms == 0:
            answer(ReceiveReply(NO_LEASE, 0, 0, ()))
            return
        poll = _Poll(request, self._host.monotonic_ms() + request.wait_ms, answer)
        self._polls.setdefault(request.group, deque()).append(poll)

    def _lease(self, request: ReceiveRequest, answer: Answer) -> bool:
        """Lease what there is and see to the answer; False where there is nothing."""
        self._move_floor(self._replica.stamp_ms())
        max_count = request.max_count
        for _ in range(2):
            decision = self._choose(request, max_count)
            match decision:
                case decide.Refused(error):
                    raise error
                case decide.Answer(outcome, after_index):
                    self._replica.when_applied(
                        after_index, lambda: self._answer_lease(request, outcome, answer), answer
                    )
                    return True
                case decide.Propose(changes):
                    ranges = _leased_ranges(changes)
                    fitting = self._count_that_fits(ranges, request.max_bytes)
                    if fitting == 0:
                        return False
                    if fitting >= sum(end - start for start, end in ranges):
                        self._propose_changes(
                            changes, lambda applied: self._answer_lease(request, applied.outcomes[-1], answer), answer
                        )
                        return True
                    max_count = fitting
                case _:
                    return False
        return False

    def _choose(self, request: ReceiveRequest, max_count: int) -> decide.Decision:
        order = self._order()
        locks = self._key_locks() if order.by_key else None
        decision = decide.decide_receive(
            self._ahead(),
            request.group,
            max_count=max_count,
            hide_ms=request.hide_ms,
            now_ms=self._replica.stamp_ms(),
            consumer=request.consumer,
            session=request.session,
            request_id=request.request_id,
            not_below=self._first_young(),
            policy=self._policy(),
            order=order,
            locks=locks,
            limits=self._decision_limits,
        )
        if locks is not None and locks.is_behind:
            self._behind.add(request.group)
        return decision

    def _order(self) -> OrderPolicy:
        order = self.settings.order
        if order is None:
            raise UnavailableError(f"the settings of group {self._replica.group} are not known on this node yet")
        return order

    def _key_locks(self) -> KeyLocks:
        if self._keys is None or self._locks is None:
            self._keys = KeyIndex(partial(self._batches, max_bytes=KEY_READ_BYTES))
            self._locks = KeyLocks(self._keys)
        self._keys.begin(self._applied().next_offset)
        return self._locks

    def _policy(self) -> FailurePolicy:
        policy = self.settings.failures
        if policy is None:
            raise UnavailableError(f"the settings of group {self._replica.group} are not known on this node yet")
        return policy

    def _count_that_fits(self, ranges: Sequence[tuple[int, int]], max_bytes: int) -> int:
        """How many messages, from the front, are committed and together within `max_bytes`; at least one batch's."""
        committed = self._applied().next_offset
        count = size = 0
        batch: _Batch | None = None
        for start, end in ranges:
            end = min(end, committed)
            if batch is not None and start < batch.next_offset:
                # The rest of what the range before had a part of.
                count += max(0, min(end, batch.next_offset) - start)
                start = batch.next_offset
            if start < end:
                for batch in self._batches(start, end, max_bytes=max_bytes):
                    size += len(batch.payload)
                    if size > max_bytes and count:
                        return count
                    count += min(end, batch.next_offset) - max(start, batch.base_offset)
            if end == committed:
                break
        return count

    def _batches(self, start: int, end: int, *, max_bytes: int) -> Iterator[_Batch]:
        """The stored batches that hold [start, end).

        Where this node's is the only copy and it is damaged, the batch comes without its bytes.

        Raises:
            DamageError: a batch is damaged here, and will come from a peer.
        """
        log = self._replica.log
        at = Offset(start)
        while at < end:
            before = at
            try:
                for entry in log.data_from(at, max_bytes=max_bytes):
                    yield _Batch(entry.base_offset, entry.next_offset, entry.append_ms, entry.payload, is_lost=False)
                    at = entry.next_offset
                    if at >= end:
                        return
            except DamageError:
                extent = log.extent_of(at) if len(self._replica.conf.members()) == 1 else None
                if extent is None:
                    raise
                yield _Batch(*extent, b"", is_lost=True)
                at = extent[1]
            if at == before:
                return

    def _answer_lease(self, request: ReceiveRequest, outcome: outcomes.Outcome, answer: Answer) -> None:
        if not isinstance(outcome, outcomes.Leased):
            answer(UnavailableError(f"the messages chosen for group {request.group} changed hands; receive again"))
            return
        now_ms = self._log_ms()
        try:
            parts = tuple(self._parts(outcome.ranges))
        except StorageError as error:
            answer(UnavailableError(f"leased messages cannot be read on this node: {error.message}"))
            return
        left_ms = max(0, outcome.visible_at_ms - now_ms)
        answer(ReceiveReply(outcome.lease, outcome.visible_at_ms, left_ms, parts))

    def _parts(self, ranges: Sequence[outcomes.LeasedRange]) -> list[Part]:
        """The stored batches that hold the leased ranges, each with its share of them."""
        found: dict[int, tuple[_Batch, list[tuple[int, int, int]]]] = {}
        batch: _Batch | None = None
        for held in ranges:
            start = held.start
            if batch is not None and start < batch.next_offset:
                found[batch.base_offset][1].append((start, min(held.end, batch.next_offset), held.deliveries))
                start = batch.next_offset
            if start < held.end:
                for batch in self._batches(start, held.end, max_bytes=1 << 62):
                    _, shares = found.setdefault(batch.base_offset, (batch, []))
                    shares.append((max(start, batch.base_offset), min(held.end, batch.next_offset), held.deliveries))
        return [self._part(batch, tuple(shares)) for batch, shares in found.values()]

    def _part(self, batch: _Batch, shares: tuple[tuple[int, int, int], ...]) -> Part:
        if batch.is_lost:
            return Part(b"", batch.base_offset, batch.append_ms, shares, corrupt=True)
        leased = sum(end - start for start, end, _ in shares)
        count = batch.next_offset - batch.base_offset
        if len(batch.payload) * (count - leased) > REPACK_WASTE_BYTES * count:
            keep = [(Offset(start), Offset(end)) for start, end, _ in shares]
            try:
                smaller = repack(batch.payload, keep, self._wide_limits)
            except LogBrokerError:
                # Nobody looked inside when it was produced. Its messages are the consumer's to reject, one by one: held
                # back here, they would hold up everything behind them for ever.
                return Part(batch.payload, batch.base_offset, batch.append_ms, shares)
            return Part(smaller, batch.base_offset, batch.append_ms, shares, repacked=True)
        return Part(batch.payload, batch.base_offset, batch.append_ms, shares)

    def _serve_polls(self, group: GroupName) -> None:
        polls = self._polls.get(group)
        while polls:
            poll = polls[0]
            try:
                if poll.answer not in self._forgotten and not self._lease(poll.request, poll.answer):
                    return
            except LogBrokerError as error:
                poll.answer(error)
            polls.popleft()
        self._polls.pop(group, None)

    def _end_polls(self) -> None:
        now_ms = self._host.monotonic_ms()
        log_ms = self._replica.stamp_ms()
        for group in list(self._polls):
            if group not in self._ahead().groups:
                for poll in self._polls.pop(group):
                    poll.answer(NotFoundError(f"consumer group {group!r} was deleted"))
                continue
            due_ms = decide.next_visible_ms(self._ahead(), group)
            if (due_ms is not None and due_ms <= log_ms) or group in self._behind:
                self._behind.discard(group)
                self._serve_polls(group)
            forgotten = self._forgotten
            polls = [poll for poll in self._polls.get(group, ()) if poll.answer not in forgotten]
            ended = [poll for poll in polls if poll.deadline_ms <= now_ms]
            if ended or forgotten:
                waiting = deque(poll for poll in polls if poll.deadline_ms > now_ms)
                if waiting:
                    self._polls[group] = waiting
                else:
                    # A partition that nobody waits for rests.
                    self._polls.pop(group, None)
                for poll in ended:
                    poll.answer(ReceiveReply(NO_LEASE, 0, 0, ()))
        self._forgotten.clear()

    # Ack, nack, reject, extend, release.

    def _settle(self, request: _SettleRequest, answer: Answer) -> None:
        # What is known at once, or of how many changes the outcome will tell.
        results: list[SettleResult | int] = []
        changes: list[Change] = []
        for lease, ranges in request.items:
            decision = self._decide_settle(request, lease, ranges)
            match decision:
                case decide.Refused(StaleLeaseError()):
                    results.append(SettleResult(lease, 0, stale=ranges))
                case decide.Refused(error):
                    raise error
                case decide.Answer(outcome):
                    results.append(_settle_result(outcome))
                case decide.Propose(proposed):
                    changes.extend(proposed)
                    results.append(len(proposed))
        if not changes:
            ready = SettleReply(tuple(result for result in results if isinstance(result, SettleResult)))
            self._confirm(self._ahead().applied_index, lambda: answer(ready), answer)
            return
        self._propose_changes(changes, lambda applied: answer(_settle_reply(results, applied)), answer)

    def _decide_settle(
        self, request: _SettleRequest, lease: LeaseId, ranges: tuple[tuple[int, int], ...]
    ) -> decide.Decision:
        ahead, now_ms, limits = self._ahead(), self._replica.stamp_ms(), self._decision_limits
        match request:
            case AckRequest():
                return decide.decide_ack(ahead, request.group, lease=lease, ranges=ranges, limits=limits)
            case NackRequest():
                return decide.decide_nack(
                    ahead,
                    request.group,
                    lease=lease,
                    ranges=ranges,
                    delay_ms=request.delay_ms,
                    now_ms=now_ms,
                    reason=request.reason,
                    policy=self._policy(),
                    chance=self._host.chance,
                    limits=limits,
                )
            case RejectRequest():
                return decide.decide_reject(
                    ahead, request.group, lease=lease, ranges=ranges, reason=request.reason, limits=limits
                )
            case ExtendRequest():
                return decide.decide_extend(
                    ahead,
                    request.group,
                    lease=lease,
                    ranges=ranges,
                    hide_ms=request.hide_ms,
                    now_ms=now_ms,
                    limits=limits,
                )

    def _release(self, request: ReleaseRequest, answer: Answer) -> None:
        self._propose_decided(
            decide.decide_release(self._ahead(), request.group, lease=request.lease),
            lambda outcome: answer(SettleReply((SettleResult(request.lease, getattr(outcome, "count", 0)),))),
            answer,
        )

    # The dead.

    def _list_dead(self, request: DeadRequest, answer: Answer) -> None:
        decide.check_range("max_count", request.max_count, least=1, most=MAX_DEAD_ROWS)
        decide.check_range("start_offset", request.start_offset, least=0, most=MAX_OFFSET)
        self._ahead().group(request.group)

        def tell() -> None:
            try:
                answer(list_dead(self._applied().group(request.group), request, self._replica.core))
            except RequestError as error:
                answer(error)

        self._replica.read(tell, answer)

    def _revive(self, request: ReviveRequest, answer: Answer) -> None:
        decision = decide.decide_revive(
            self._ahead(), request.group, ranges=request.ranges, limits=self._decision_limits
        )
        self._propose_decided(decision, lambda outcome: answer(_revive_reply(outcome)), answer)

    # Moves to other partitions, and from them.

    def on_transferred(self, target: GroupId, number: int, verdict: MoveVerdict) -> None:
        """What the target's leader says of something that was sent to it."""
        with contextlib.suppress(ProposalRefused, StorageError):
            self._moves.on_answer(target, number, verdict)

    def _move(self, request: MoveRequest, answer: Answer) -> None:
        if request.target == self._replica.group:
            raise InvalidArgumentError("messages cannot be moved to the partition that they are in")
        decision = self._moves.movable(self._ahead(), request.group, request.ranges, request.target)

        def tell(outcome: outcomes.Outcome) -> None:
            answer(_move_reply(outcome))
            self._send_owed()

        self._propose_decided(decision, tell, answer)

    def _owe_dead(self, log_ms: int) -> None:
        self.owe_dead()

    def owe_dead(self) -> None:
        """Have what is dead go to its queue, if there is one. Raises ProposalRefused where it is too early for that."""
        target = self.settings.dead_letters
        if target is not None and target != self._replica.group:
            self._moves.owe_dead(self._ahead(), target)

    def _send_owed(self, log_ms: int = 0) -> None:
        if self._replica.is_serving and len(self._applied().outbox):
            with contextlib.suppress(ProposalRefused):
                self._moves.send(self._applied(), self.settings.place)

    def _forget_sources(self, log_ms: int) -> None:
        """What a deleted partition has sent needs not be remembered; looked for once in a while."""
        now_ms = self._host.monotonic_ms()
        if now_ms < self._look_for_gone_ms:
            return
        self._look_for_gone_ms = now_ms + _GONE_EVERY_MS
        gone = {row.source for row in self._ahead().inbox.rows() if self._host.is_gone(GroupId(row.source))}
        # Those that were gone a while ago, too: other nodes, which may lead next, know it by now.
        due, self._gone_sources = sorted(gone & self._gone_sources)[:_MAX_FORGOTTEN], gone
        if due:
            self._propose_changes([ForgetSource(source) for source in due], lambda _: None, lambda _: None)

    def _transfer(self, request: TransferRequest, answer: Answer) -> None:
        if self._host.is_gone(request.source):
            raise NotFoundError(f"partition group {request.source} was deleted")
        source, number = request.source, request.number
        header = self._transferred_header(request.batch)
        decision = moving.decide_move_in(self._ahead(), header, source=source, number=number)

        def tell(_: object = None) -> None:
            inbox = self._applied().inbox
            if inbox.has(source, number):
                answer(TransferReply(not inbox.is_refused(source, number)))
            else:
                answer(UnknownOutcomeError(f"number {number} of group {source} was not settled"))

        match decision:
            case decide.Refused(error):
                raise error
            case decide.Answer(_, after_index):
                self._replica.when_applied(after_index, tell, answer)
            case decide.Propose(changes):
                self._propose_changes(changes, tell, answer)
            case decide.ProposeBatch(base_offset, end_offset):
                self._check_node_room(len(request.batch))

                def take(_: object) -> None:
                    self._moves.moved_in += end_offset - base_offset
                    tell()

                self._replica.propose(
                    EntryKind.DATA,
                    stamp(request.batch, base_offset, self._replica.core.term),
                    record_count=end_offset - base_offset,
                    append_ms=self._replica.stamp_ms(),
                    on_committed=take,
                    on_lost=answer,
                    preparation=encode_changes((MoveIn(source, number, is_refused=False),)),
                )

    def _transferred_header(self, batch: bytes) -> BatchHeader | None:
        """The header of what was sent; None where it can never be taken, or is not meant to be."""
        try:
            return check_batch(batch, self._wide_limits) if batch else None
        except RequestError:
            return None

    def _check_node_room(self, size_bytes: int) -> None:
        if not self._host.has_room(self._replica):
            raise NoRoomError(f"fewer than a majority of the nodes of group {self._replica.group} have disk room")
        if not self._host.admits(size_bytes):
            raise OverloadedError(f"this node has too much that is not committed to take {size_bytes} bytes more")

    # Cancel.

    def _cancel(self, request: CancelRequest, answer: Answer) -> None:
        decision = decide.decide_cancel(
            self._ahead(), ranges=request.ranges, now_ms=self._replica.stamp_ms(), limits=self._decision_limits
        )
        self._propose_decided(decision, lambda outcome: answer(_cancel_reply(outcome)), answer)

    # Peek.

    def _peek(self, request: PeekRequest, answer: Answer) -> None:
        decide.check_range("max_count", request.max_count, least=1, most=MAX_PEEK_COUNT)
        decide.check_range("max_bytes", request.max_bytes, least=1, most=1 << 30)
        self._ahead().group(request.group)
        start, _ = self._resolve(request.start, clamp=True)
        start = max(start, self._first_kept())

        def tell() -> None:
            try:
                answer(self._peeked(request, start))
            except RequestError as error:
                answer(error)
            except StorageError as error:
                answer(UnavailableError(f"group {self._replica.group} cannot be read on this node: {error.message}"))

        self._replica.read(tell, answer)

    def _first_kept(self) -> Offset:
        """Where retention is by now. A receive has it made the log start, but who only looks has nothing proposed."""
        if not self._host.may_floor():
            return self._ahead().log_start_offset
        return self._first_offset_at(first_kept_ms(self._replica.stamp_ms(), retention_s=self.settings.retention_s))

    def _peeked(self, request: PeekRequest, start: Offset) -> PeekReply:
        machine = self._applied()
        log_end = machine.next_offset
        start = min(max(start, machine.log_start_offset), log_end)
        ranges, next_offset = look(machine.group(request.group).table, request, start, log_end, self._log_ms())
        fitting = self._count_that_fits([(shown.start, shown.end) for shown in ranges], request.max_bytes)
        if fitting < sum([shown.end - shown.start for shown in ranges]):
            begin = ranges[0].start
            ranges = first(ranges, fitting)
            next_offset = ranges[-1].end if ranges else begin
        parts = self._parts(
            [outcomes.LeasedRange(shown.start, shown.end, shown.deliveries, shown.visible_at_ms) for shown in ranges]
        )
        return PeekReply(tuple(parts), tuple(ranges), next_offset, log_end)

    # Rewind and groups.

    def _rewind(self, request: RewindRequest, answer: Answer) -> None:
        start, was_clamped = self._resolve(request.target, clamp=request.clamp)
        requested = _describe(request.target)
        ahead = self._ahead()
        if request.forward:
            decision = decide.decide_skip_to(
                ahead, request.group, rewind_id=request.rewind_id, start_offset=start, requested=requested
            )
        else:
            floor, lasting = self._rewind_floor(self.settings.rewind_ms), self._first_lasting()
            if isinstance(request.target, EarliestTarget):
                start = max(start, floor, lasting)
            elif start < floor and not request.clamp:
                raise OffsetOutOfRangeError(
                    f"{requested} lies before offset {floor}, the first that may be rewound of group {ahead.group_id}, "
                    f"up to {ahead.next_offset}",
                    hint="ask for clamping to begin there; what is settled before it stays settled",
                )
            elif start < lasting and not request.clamp:
                raise OffsetOutOfRangeError(
                    f"{requested} lies before offset {lasting} of group {ahead.group_id}: what is older would be gone "
                    "again at once, by the time to live of the queue or because it would hold too much",
                    hint="ask for clamping to begin there, or let the queue keep more first",
                )
            was_clamped |= start < lasting
            start = max(start, lasting)
            decision = decide.decide_rewind(
                ahead,
                request.group,
                rewind_id=request.rewind_id,
                start_offset=start,
                requested=requested,
                floor=floor,
            )
        self._propose_decided(decision, lambda outcome: answer(self._rewound(outcome, was_clamped=was_clamped)), answer)

    def _rewound(self, outcome: outcomes.Outcome, *, was_clamped: bool) -> RewindReply | LogBrokerError:
        match outcome:
            case outcomes.Rewound():
                moved = outcome.reopened_count + outcome.revoked_count
            case outcomes.Skipped():
                moved = outcome.skipped_count
            case _:
                return UnavailableError(f"the rewind no longer fits: {outcome}")
        return RewindReply(
            outcome.rewind_id,
            outcome.start_offset,
            self._append_ms_of(outcome.start_offset),
            moved,
            outcome.revoked_count,
            outcome.clamped or was_clamped,
        )

    def _create_group(self, request: CreateGroupRequest, answer: Answer) -> None:
        start, _ = self._resolve(request.start, clamp=True)
        start = max(start, self._first_lasting())
        decision = decide.decide_create_group(self._ahead(), request.group, start_offset=start)
        self._propose_decided(decision, lambda outcome: answer(_group_reply(request.group, outcome)), answer)

    def _delete_group(self, request: DeleteGroupRequest, answer: Answer) -> None:
        decision = decide.decide_delete_group(self._ahead(), request.group)
        self._propose_decided(decision, lambda outcome: answer(_group_reply(request.group, outcome)), answer)
        self._count_anew(request.group)

    def _pause(self, request: PauseRequest, answer: Answer) -> None:
        if is_breaker(request.reason):
            raise InvalidArgumentError(
                f"reason {request.reason!r} begins with {REASON_START!r}, as only a breaker's does"
            )
        decision = decide.decide_pause(
            self._ahead(),
            request.group,
            reason=request.reason,
            duration_ms=request.duration_ms,
            now_ms=self._replica.stamp_ms(),
        )
        self._propose_decided(decision, lambda outcome: answer(_group_reply(request.group, outcome)), answer)
        self._count_anew(request.group)

    def _resume(self, request: ResumeRequest, answer: Answer) -> None:
        decision = decide.decide_resume(self._ahead(), request.group)
        self._propose_decided(decision, lambda outcome: answer(_group_reply(request.group, outcome)), answer)

    def _purge(self, request: PurgeRequest, answer: Answer) -> None:
        decide.check_range("purge_id", request.purge_id, least=0, most=MAX_NUMBER)
        purge_id = FIRST_PURGE_ID + request.purge_id % FIRST_PURGE_ID
        decision = decide.decide_purge(self._ahead(), request.group, purge_id=purge_id, requested="everything")
        self._propose_decided(decision, lambda outcome: answer(_purge_reply(outcome)), answer)

    def _resolve(self, target: Target, *, clamp: bool) -> tuple[Offset, bool]:
        """The offset a target names, as of every entry in the log, and whether it is not the one asked for."""
        ahead = self._ahead()
        match target:
            case EarliestTarget():
                return ahead.log_start_offset, False
            case LatestTarget():
                return ahead.next_offset, False
            case OffsetTarget(offset):
                wanted = offset
            case CountTarget(count):
                decide.check_range("count", count, least=0, most=1 << 48)
                wanted = Offset(ahead.next_offset - count)
                clamp = clamp or ahead.log_start_offset == 0
            case TimeTarget(ms):
                return self._resolve_time(ms, clamp=clamp)
            case _:
                assert_never(target)
        effective = Offset(min(max(wanted, ahead.log_start_offset), ahead.next_offset))
        if effective != wanted and not clamp:
            raise OffsetOutOfRangeError(
                f"offset {wanted} is not in {ahead.log_start_offset}..{ahead.next_offset} of group {ahead.group_id}",
                hint="ask for clamping to take the nearest offset that is there",
            )
        return effective, effective != wanted

    def _resolve_time(self, ms: int, *, clamp: bool) -> tuple[Offset, bool]:
        now_ms = self._replica.stamp_ms()
        wanted_ms = ms if ms >= 0 else now_ms + ms
        if wanted_ms > now_ms and not clamp:
            raise InvalidArgumentError(f"time {wanted_ms} lies in the future of log time {now_ms}")
        ahead = self._ahead()
        is_gone, kept_ms = False, 0
        if ahead.log_start_offset > 0:
            kept_ms = self._append_ms_of(ahead.log_start_offset) or now_ms
            is_gone = wanted_ms < min(kept_ms, first_kept_ms(now_ms, retention_s=self.settings.retention_s))
        if is_gone and not clamp:
            raise OffsetOutOfRangeError(
                f"time {wanted_ms} lies before {kept_ms}, the oldest message kept of group {ahead.group_id}",
                hint="ask for clamping to begin at the oldest message",
            )
        start = max(self._first_offset_at(wanted_ms), ahead.log_start_offset)
        return start, is_gone or wanted_ms > now_ms

    def _first_offset_at(self, append_ms: int) -> Offset:
        found = self._first_at(append_ms)
        return self._ahead().next_offset if found is None else found[0]

    def _first_at(self, append_ms: int) -> tuple[Offset, int] | None:
        """Base offset and log time of the first batch with log time >= `append_ms`, of every entry in the log."""
        log = self._replica.log
        found = log.first_offset_at(append_ms)
        if found is not None:
            return found
        following = Index(log.last_index() + 1)
        while following <= self._replica.core.last_index:
            for entry in self._replica.core.entries(following, max_bytes=1 << 20):
                if entry.kind is EntryKind.DATA and entry.append_ms >= append_ms:
                    return entry.base_offset, entry.append_ms
                following = Index(entry.index + 1)
        return None

    def _append_ms_of(self, offset: Offset) -> int:
        """Log time of the message at `offset`; 0 where there is none that can be read."""
        try:
            for entry in self._replica.log.data_from(offset, max_bytes=1):
                return entry.append_ms if entry.base_offset <= offset else 0
        except StorageError:
            return 0
        return 0

    # Time.

    def _move_floor(self, now_ms: int) -> None:
        """Propose a new log start where messages have outlived the retention, before anything else is decided."""
        cutoff_ms = first_kept_ms(now_ms, retention_s=self.settings.retention_s)
        if cutoff_ms <= self._oldest_ms or not self._host.may_floor():
            return
        log, ahead = self._replica.log, self._ahead()
        found = log.first_offset_at(cutoff_ms)
        if found is None:
            # All that is durable is too old; what is in flight is newer, and begins where the durable part ends.
            start, self._oldest_ms = self._first_offset_at(cutoff_ms), now_ms
        else:
            start, self._oldest_ms = found
        if start <= ahead.log_start_offset:
            return
        start_index = log.index_of_offset(start)
        decision = decide.decide_floor(ahead, start_offset=start, start_index=start_index)
        if isinstance(decision, decide.ProposeFloor):
            self._propose_floor(decision.floor)

    def _tidy(self, now_ms: int) -> None:
        """Repeat the floor of an idle partition: the state after it is the second checkpoint that frees its files."""
        if not self._replica.wants_tidying(now_ms):
            return
        ahead = self._ahead()
        self._propose_floor(Floor(ahead.log_start_offset, ahead.log_start_index))

    def _propose_floor(self, floor: Floor) -> None:
        self._replica.propose(
            EntryKind.FLOOR,
            encode_floor(floor),
            append_ms=self._replica.stamp_ms(),
            on_committed=lambda _: None,
            on_lost=lambda _: None,
        )

    def _expire(self, now_ms: int) -> None:
        due_ms = self._ahead().next_deadline_ms()
        policy = self.settings.failures
        if due_ms is None or due_ms > now_ms or policy is None:
            return
        changes = decide.decide_expire(self._ahead(), now_ms=now_ms, policy=policy)
        if changes:
            self._propose_changes(changes, lambda _: None, lambda _: None)

    def _rewind_floor(self, rewind_ms: int) -> Offset:
        """Where the window begins in which settled messages may be rewound; the floor so far if that is further on."""
        ahead = self._ahead()
        if rewind_ms >= self.settings.retention_s * 1000 or not self._host.may_floor():
            return ahead.rewind_floor
        first_ms = first_young_ms(self._replica.stamp_ms(), max_age_ms=rewind_ms)
        return max(ahead.rewind_floor, self._first_offset_at(first_ms))

    def _keep_rewind_floor(self, _: int) -> None:
        """Write down what can be rewound no more when the window changes: no other one brings it back.

        Otherwise a rewind does, which it matters to first.
        """
        rewind_ms, before = self.settings.rewind_ms, self._rewind_ms
        if before == rewind_ms or self.settings.failures is None:
            return
        if before is not None:
            floor = self._rewind_floor(min(rewind_ms, before))
            if floor > max(self._ahead().rewind_floor, self._ahead().log_start_offset):
                self._propose_changes((RewindFloor(floor),), lambda _: None, lambda _: None)
        self._rewind_ms = rewind_ms

    def _first_young(self) -> Offset:
        """The first message within its time to live; none before it is leased, who holds one may settle it."""
        max_age_ms = self.settings.max_age_ms
        if not max_age_ms or not self._host.may_floor():
            return Offset(0)
        now_ms = self._replica.stamp_ms()
        young_ms = first_young_ms(now_ms, max_age_ms=max_age_ms)
        # A longer time to live than before makes messages young again that were found old.
        if not self._searched_ms <= young_ms <= self._young_ms:
            found = self._first_at(young_ms)
            self._young_offset, self._young_ms = (self._ahead().next_offset, now_ms) if found is None else found
            self._searched_ms = young_ms
        return self._young_offset

    def _first_lasting(self) -> Offset:
        """Where a rewind or a new group begins at the earliest: what lies before it would be gone again at once.

        It has outlived its time to live, and would be dead and perhaps moved for good; or it is more than the queue
        holds, which would drop it for all groups.
        """
        limits, start = self.settings.limits, self._first_young()
        if not limits.drops_oldest or not limits.max_messages:
            return start
        return Offset(max(start, self._ahead().next_offset - limits.max_messages))

    def _bury_old(self, _: int) -> None:
        """Bury what has outlived its time to live and is not leased."""
        below, now_ms = self._first_young(), self._host.monotonic_ms()
        if not below or now_ms < self._next_burial_ms:
            return
        changes = decide.decide_bury_old(self._ahead(), below=below)
        if changes:
            self._propose_changes(changes, lambda _: None, lambda _: None)
            if not decide.has_idle(self._ahead(), below=below):
                self._next_burial_ms = now_ms + BURY_EVERY_MS

    def _count_bytes(self, _: int) -> None:
        """Take in the batches that were appended since, where there is a bound for them."""
        max_bytes = self.settings.limits.max_bytes
        if not max_bytes:
            self._is_counted = False
            return
        applied = self._applied()
        self._is_counted = self._retained.look(
            self._replica.log, applied.applied_index, applied.log_start_offset, step_bytes=max_bytes // MARKS
        )
        self.figures.retained_bytes = self._retained.held_bytes(applied.log_start_offset)

    def _drop_oldest(self, _: int = 0, *, at_once: bool = False) -> None:
        """Raise the log start where the partition holds too much; `at_once`: only where it is far too much."""
        limits, ahead = self.settings.limits, self._ahead()
        if not limits.drops_oldest:
            return
        start = ahead.log_start_offset
        is_beyond = is_far_beyond if at_once else is_just_beyond
        if limits.max_messages and is_beyond(unsettled_count(ahead), limits.max_messages, OVERSHOOT_COUNT):
            start = first_offset_within(ahead, limits.max_messages)
        if limits.max_bytes and self._is_counted:
            held_bytes = self._retained.held_bytes(start)
            if is_beyond(held_bytes, limits.max_bytes, OVERSHOOT_BYTES):
                start = max(start, self._retained.first_offset_within(limits.max_bytes))
        if start > ahead.log_start_offset:
            start_index = self._replica.log.index_of_offset(start)
            decision = decide.decide_floor(ahead, start_offset=start, start_index=start_index)
            if isinstance(decision, decide.ProposeFloor):
                self._propose_floor(decision.floor)

    def burial_due_ms(self) -> int:
        """The log time at which there may be something to bury."""
        max_age_ms = self.settings.max_age_ms
        if not max_age_ms or not self._host.may_floor():
            return _NEVER_MS
        is_due = self._young_ms >= 0 and decide.has_idle(self._ahead(), below=self._young_offset)
        return 0 if is_due else self._young_ms + max_age_ms

    def _trip(self, now_ms: int) -> None:
        """Pause the groups in which too many deliveries fail."""
        breakers = self._breakers
        if self.settings.breaker is None:
            breakers.forget()
        if not breakers.is_tripping:
            return
        # The entry has the log time by which it is decided, so that the pause is as long as the queue says. Before it
        # in this tick others may have been stamped later.
        now_ms = max(now_ms, self._ahead().append_ms)
        for pause in breakers.due(self._ahead(), now_ms):
            self._propose_changes((pause,), partial(self._tripped, pause.group), lambda _: None, append_ms=now_ms)
            self._count_anew(pause.group)

    def _count_anew(self, group: GroupName) -> None:
        """The newest entry of the log pauses a group, or deletes it."""
        self._breakers.begin_anew(group, self._ahead().applied_index, applied=self._applied().applied_index)

    def _tripped(self, group: GroupName, applied: Applied) -> None:
        if isinstance(applied.outcomes[0], outcomes.Paused):
            self._breakers.was_committed(group, self._applied().groups)

    # Shared.

    def _propose_decided(
        self, decision: decide.Decision, on_outcome: Callable[[outcomes.Outcome], None], on_lost: Answer
    ) -> None:
        match decision:
            case decide.Refused(error):
                raise error
            case decide.Answer(outcome, after_index):
                self._confirm(after_index, lambda: on_outcome(outcome), on_lost)
            case decide.Propose(changes):
                self._propose_changes(changes, lambda applied: on_outcome(applied.outcomes[-1]), on_lost)
            case _:
                invariant(False, f"a decision of another kind: {decision}")

    def _propose_changes(
        self,
        changes: Sequence[Change],
        on_committed: Callable[[Applied], None],
        on_lost: Answer,
        *,
        append_ms: int | None = None,
    ) -> None:
        self._replica.propose(
            EntryKind.STATE,
            encode_changes(changes),
            append_ms=self._replica.stamp_ms() if append_ms is None else append_ms,
            on_committed=lambda applied: on_committed(_as_applied(applied)),
            on_lost=on_lost,
        )

    def _ahead(self) -> PartitionMachine:
        ahead = self._replica.require_ahead()
        invariant(isinstance(ahead, PartitionMachine), "a partition's state machine is of another kind")
        return ahead  # type: ignore[return-value]  # checked above

    def _applied(self) -> PartitionMachine:
        return self._replica.machine  # type: ignore[return-value]  # made with the partition's machine kind

    def _log_ms(self) -> int:
        """The time as far as it is known here: what is read may be told after the leadership has ended."""
        return self._replica.stamp_ms() if self._replica.is_serving else self._applied().append_ms

    def _state(self) -> StateReply:
        machine = self._applied()
        groups = []
        # A pause may be over although nothing has happened since.
        now_ms = self._log_ms()
        for name in machine.groups:
            status = machine.status(name)
            pause = machine.group(name).pause_at(now_ms)
            oldest = status.oldest_unsettled_offset
            groups.append(
                GroupState(
                    name,
                    status.available_count,
                    status.leased_count,
                    status.delayed_count,
                    status.acked_ahead_count,
                    oldest,
                    self._append_ms_of(oldest) if oldest < machine.next_offset else 0,
                    status.dead_count,
                    pause is not None,
                    "" if pause is None else pause.reason,
                    0 if pause is None else pause.since_ms,
                    0 if pause is None else pause.until_ms,
                    self._breakers.trips.get(name, 0),
                    status.moved_count,
                )
            )
        return StateReply(
            machine.log_start_offset,
            machine.next_offset,
            machine.append_ms,
            tuple(groups),
            self._moves.figures(machine),
        )


def _preparation(due_ms: int, ids: Dedupe | None) -> bytes | None:
    """What goes before a batch, if anything does."""
    changes: list[Change] = [DeliverAt(due_ms)] if due_ms else []
    if ids is not None and ids.window_ms:
        changes.append(ids)
    return encode_changes(changes) if changes else None


def _produce_reply(outcome: outcomes.Produced, append_ms: int) -> ProduceReply:
    return ProduceReply(
        outcome.base_offset,
        outcome.count,
        append_ms,
        outcome.duplicate,
        outcome.due_ms,
        outcome.duplicates,
        outcome.conflicts,
    )


def _leased_ranges(changes: Sequence[Change]) -> Sequence[tuple[int, int]]:
    return [held for change in changes if isinstance(change, Lease) for held in change.ranges]


def _as_applied(applied: object) -> Applied:
    invariant(isinstance(applied, Applied), "a partition's machine answers with something else")
    return applied  # type: ignore[return-value]  # checked above


def _settle_result(outcome: outcomes.Outcome) -> SettleResult:
    if isinstance(outcome, outcomes.Settled):
        return SettleResult(
            outcome.lease, outcome.count, outcome.already, outcome.expired, outcome.stale, outcome.rewound
        )
    return SettleResult(NO_LEASE, 0)


def _settle_reply(results: Sequence[SettleResult | int], applied: Applied) -> SettleReply:
    committed = iter(applied.outcomes)
    return SettleReply(
        tuple([_joined_result(committed, result) if isinstance(result, int) else result for result in results])
    )


def _joined_result(committed: Iterator[outcomes.Outcome], count: int) -> SettleResult:
    if count == 1:
        return _settle_result(next(committed))
    parts = [outcome for outcome in islice(committed, count) if isinstance(outcome, outcomes.Settled)]
    return _settle_result(decide.joined(parts)) if parts else SettleResult(NO_LEASE, 0)


def _revive_reply(outcome: outcomes.Outcome) -> ReviveReply | LogBrokerError:
    if isinstance(outcome, outcomes.Revived):
        return ReviveReply(outcome.count)
    return UnavailableError(f"the revival no longer fits: {outcome}")


def _move_reply(outcome: outcomes.Outcome) -> MoveReply | LogBrokerError:
    if isinstance(outcome, outcomes.MovingOut):
        return MoveReply(outcome.count)
    return UnavailableError(f"the move no longer fits: {outcome}")


def _cancel_reply(outcome: outcomes.Outcome) -> CancelReply | LogBrokerError:
    if isinstance(outcome, outcomes.Cancelled):
        return CancelReply(outcome.count, outcome.late_count)
    return UnavailableError(f"the cancellation no longer fits: {outcome}")


def _group_reply(group: GroupName, outcome: outcomes.Outcome) -> GroupReply | LogBrokerError:
    match outcome:
        case outcomes.GroupCreated():
            return GroupReply(group, outcome.start_offset)
        case outcomes.GroupDeleted() | outcomes.Paused() | outcomes.Resumed():
            return GroupReply(group, Offset(0))
        case _:
            return UnavailableError(f"the change of group {group!r} no longer fits: {outcome}")


def _purge_reply(outcome: outcomes.Outcome) -> PurgeReply | LogBrokerError:
    if isinstance(outcome, outcomes.Purged):
        return PurgeReply(outcome.purged_count, outcome.revoked_count, outcome.dead_count)
    return UnavailableError(f"the purge no longer fits: {outcome}")


def _describe(target: Target) -> str:
    match target:
        case TimeTarget(ms):
            return f"time {ms}"
        case OffsetTarget(offset):
            return f"offset {offset}"
        case CountTarget(count):
            return f"last {count}"
        case EarliestTarget():
            return "earliest"
        case LatestTarget():
            return "latest"
