"""What a partition must be after each committed entry, said in the plainest way there is.

One small object per message and consumer group, no runs, no buckets, no caches: slow, and easy to
believe. It is fed each committed entry once, in order, and is the judge of the real state machine and of
what clients were told. It must not import the state machine that it judges; it shares only the codecs.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.errors import LogBrokerError
from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, Offset, lease_id
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Cause,
    CreateGroup,
    Dedupe,
    DeleteGroup,
    DeliverAt,
    Expire,
    Extend,
    ForgetSource,
    Lease,
    Moved,
    MoveIn,
    MoveOut,
    Nack,
    Pause,
    Purge,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    decode_changes,
    decode_floor,
)
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from logbroker.record.batch import decode_batch, read_header
from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.testing.dedupe_model import ModelIds
from logbroker.testing.moves_model import ModelMoves, MovedOut
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.entry import Entry
    from logbroker.partition.breaker import BreakerPolicy
    from logbroker.partition.commands import Change, GroupChange
    from logbroker.testing.order_rules import OrderRules


@final
class MessageState(Enum):
    AVAILABLE = "available"
    LEASED = "leased"
    DELAYED = "delayed"
    ACKED = "acked"
    DEAD = "dead"
    MOVING = "moving"
    MOVED = "moved"


SETTLED = (MessageState.ACKED, MessageState.DEAD, MessageState.MOVING, MessageState.MOVED)
_MOVED = (MessageState.MOVING, MessageState.MOVED)
_KEPT = (MessageState.DEAD, *_MOVED)
MAX_OWED = 256
"""Rows that an outbox holds at most."""

NO_LEASE = LeaseId(0)
_BREAKER = "breaker: "
_TOLD = re.compile(_BREAKER + r"(\d+) of (\d+) deliveries failed in [\d.]+ s")
_NEVER = Index(1 << 62)
_NEVER_MS = 1 << 62


@final
class ModelMessage:
    """One message as one consumer group sees it."""

    __slots__ = ("deliveries", "lease", "state", "visible_at_ms")

    def __init__(self, state: MessageState) -> None:
        self.state = state
        self.deliveries = 0
        # Of the lease or the delay; meaningless in the other states.
        self.visible_at_ms = 0
        self.lease = NO_LEASE

    def describe(self) -> str:
        return f"{self.state.value}, {self.deliveries} deliveries, lease {self.lease}, until {self.visible_at_ms}"


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """What a message became at an index."""

    index: Index
    state: MessageState
    lease: LeaseId


@final
@dataclass(frozen=True, slots=True)
class Burial:
    """How a message died, as the log says it. `consumer` held it last."""

    index: Index
    append_ms: int
    deliveries: int
    cause: Cause
    reason: str
    consumer: str


@final
@dataclass(frozen=True, slots=True)
class GrantedLease:
    """One LEASE change as it was committed."""

    lease: LeaseId
    index: Index
    append_ms: int
    visible_at_ms: int
    ranges: tuple[tuple[int, int, int], ...]
    """Half-open offset ranges, each with the delivery count its messages got."""
    consumer: str
    session: int
    request_id: int


@final
@dataclass(frozen=True, slots=True)
class SentBatch:
    """One batch of an idempotent producer as it stands in the log."""

    index: Index
    base_sequence: int
    next_sequence: int
    base_offset: int


@final
@dataclass(frozen=True, slots=True)
class Move:
    """A rewind or skip that took effect, and what the log held then. `counts` are those of its reply."""

    index: Index
    append_ms: int
    start_offset: int
    log_start: Offset
    """Where it may have begun at the earliest. A leader that mistrusts its clock knows no better."""
    young_start: Offset
    """The same, without what has outlived its time to live."""
    next_offset: Offset
    is_rewind: bool
    counts: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class ModelPause:
    """A pause as it was committed; `until_ms` 0 is until it is resumed."""

    reason: str
    since_ms: int
    until_ms: int

    def holds_at(self, log_ms: int) -> bool:
        return not self.until_ms or log_ms < self.until_ms


@final
@dataclass(frozen=True, slots=True)
class ModelEnding:
    """A delivery that ended by its consumer or by time, while its group was not paused."""

    index: Index
    append_ms: int
    is_failed: bool


@final
class ModelSchedule:
    """When messages are due, and which were cancelled before that: what holds for every consumer group.

    Those that repeat an id count as cancelled from the start.
    """

    def __init__(self) -> None:
        self.due_ms: dict[int, int] = {}
        """Of every message that ever was delayed by who sent it; 0 is never in it."""
        self.cancelled: dict[int, Index] = {}

    def initial(self, offset: int, created: Index, created_ms: int) -> MessageState:
        """What the message is to a group that begins at that index and log time."""
        if self.cancelled.get(offset, _NEVER) < created:
            return MessageState.ACKED
        return MessageState.DELAYED if self.is_waiting(offset, created_ms) else MessageState.AVAILABLE

    def is_waiting(self, offset: int, log_ms: int) -> bool:
        return self.due_ms.get(offset, 0) > log_ms

    def left_ms(self, log_ms: int) -> int:
        """How long after that log time the last message is due that was not cancelled."""
        due = [due_ms for offset, due_ms in self.due_ms.items() if offset not in self.cancelled]
        return max(0, max(due, default=0) - log_ms)

    def cancelled_count(self, ranges: Sequence[tuple[int, int]], index: Index, *, not_below: int = 0) -> int:
        """How many of the messages were cancelled by the entry at `index` or before it."""
        return sum(
            self.cancelled.get(offset, _NEVER) <= index
            for start, end in ranges
            for offset in range(max(start, not_below), end)
        )


@final
class ModelGroup:
    """One consumer group."""

    def __init__(
        self,
        name: GroupName,
        start_offset: Offset,
        created: Index,
        schedule: ModelSchedule | None = None,
        created_ms: int = 0,
    ) -> None:
        self.name = name
        self.schedule = schedule or ModelSchedule()
        self.created_ms = created_ms
        self.created = created
        self.deleted = _NEVER
        self.start_offset = start_offset
        self.messages: dict[int, ModelMessage] = {}
        self.moments: dict[int, list[Moment]] = {}
        self.leases: dict[LeaseId, GrantedLease] = {}
        self.rewound: dict[LeaseId, Index] = {}
        self.lease_of_request: dict[tuple[int, int], LeaseId] = {}
        """The newest lease of each (session, request id)."""
        self.moves: dict[int, Move] = {}
        """Rewinds and skips that took effect, by id."""
        self.burials: dict[int, list[Burial]] = {}
        self.was_dead: dict[int, bool] = {}
        """Of messages that are or were on their way to another partition: what they were before."""
        self.passed: set[int] = set()
        """Of messages that are on their way: those that a purge or a skip has settled since."""
        self.revivals: list[tuple[Index, int]] = []
        """Where something was revived, and how many messages."""
        self.pauses: list[tuple[Index, ModelPause | None]] = []
        """Where the group was paused, and where that was ended or forgotten."""
        self.endings: list[ModelEnding] = []
        """What a breaker may count: since the last pause, and not older than its window."""
        self.purges: dict[int, tuple[Index, tuple[int, int, int]]] = {}
        """Purges that took effect, by id: where, and the messages that were not acked, leased and dead."""

    def message(self, offset: int) -> ModelMessage:
        message = self.messages.get(offset)
        if message is None:
            message = ModelMessage(self._initial(offset))
            message.visible_at_ms = self.schedule.due_ms.get(offset, 0)
            self.messages[offset] = message
        return message

    def _initial(self, offset: int) -> MessageState:
        if offset < self.start_offset:
            return MessageState.ACKED
        return self.schedule.initial(offset, self.created, self.created_ms)

    def become(self, offset: int, index: Index, state: MessageState, lease: LeaseId = NO_LEASE) -> ModelMessage:
        message = self.message(offset)
        message.state = state
        message.lease = lease
        self.moments.setdefault(offset, []).append(Moment(index, state, lease))
        return message

    @property
    def pause(self) -> ModelPause | None:
        return self.pauses[-1][1] if self.pauses else None

    def has_tripped_at(self, log_ms: int) -> bool:
        """Whether a breaker keeps it paused."""
        return self.pause is not None and self.pause.holds_at(log_ms) and self.pause.reason.startswith(_BREAKER)

    def pauses_between(self, first: Index, last: Index) -> list[ModelPause | None]:
        """What paused the group at `first`, and everything that did, or ended it, up to `last`, inclusive."""
        at_first = next((pause for index, pause in reversed(self.pauses) if index <= first), None)
        return [at_first, *(pause for index, pause in self.pauses if first < index <= last)]

    def has_dead(self, start: int, end: int) -> bool:
        return any(self.message(offset).state is MessageState.DEAD for offset in range(start, end))

    def has_leased(self) -> bool:
        return any(message.state is MessageState.LEASED for message in self.messages.values())

    def unsettled(self, start: int, end: int) -> list[int]:
        """The offsets in [start, end) that are neither acked nor dead."""
        return [offset for offset in range(start, end) if self.message(offset).state not in SETTLED]

    def held_leases(self, start: int, end: int) -> set[int]:
        """Leases that hold a message of [start, end)."""
        messages = (self.message(offset) for offset in range(start, end))
        return {message.lease for message in messages if message.state is MessageState.LEASED}

    def counts(self, start: int, end: int) -> tuple[int, int, int, int, int, int]:
        """Available, leased, delayed, acked-ahead and dead messages, and the first that is not settled."""
        states = [self.message(offset).state for offset in range(start, end)]
        floor = next((at for at, state in enumerate(states) if state is not MessageState.ACKED), len(states))
        oldest = next((start + at for at, state in enumerate(states) if state not in SETTLED), end)
        ahead = states[floor:]
        return (
            ahead.count(MessageState.AVAILABLE),
            ahead.count(MessageState.LEASED),
            ahead.count(MessageState.DELAYED),
            ahead.count(MessageState.ACKED),
            ahead.count(MessageState.DEAD) + ahead.count(MessageState.MOVING),
            oldest,
        )

    def between(self, offset: int, first: Index, last: Index) -> Iterator[Moment]:
        """What the message was at `first` and everything it became up to `last`, inclusive."""
        current = Moment(self.created, self._initial(offset), NO_LEASE)
        moments = self.moments.get(offset, ())
        for moment in moments:
            if moment.index > first:
                break
            current = moment
        yield current
        for moment in moments:
            if first < moment.index <= last:
                yield moment


@final
class PartitionModel:
    """The reference: what the committed entries of one partition mean."""

    def __init__(
        self,
        *,
        max_deliveries: int = 0,
        max_age_ms: int = 0,
        limits: SizeLimits = NO_LIMITS,
        rewind_ms: int = _NEVER_MS,
        breaker: BreakerPolicy | None = None,
    ) -> None:
        """What leaders go by: 0 where messages are tried or live for ever, None where nothing pauses by itself."""
        self.limits = limits
        self.rewind_ms = rewind_ms
        self.rewind_floor = Offset(0)
        self.old_reopened: list[str] = []
        """As `old_leases`: settled messages that were rewound though they are older than may be."""
        self.is_floor_by_size = False
        """The last log start is such that it had to be there, lest the partition hold too much."""
        self._sizes: list[int] = []
        self.max_deliveries = max_deliveries
        self.max_age_ms = max_age_ms
        self.old_leases: list[str] = []
        """Messages that were leased past their time to live: right only where the leader mistrusts its clock."""
        self.breaker = breaker
        self.order: OrderRules | None = None
        self.last_index = Index(0)
        self.last_term = 0
        self.append_ms = 0
        self.next_offset = Offset(0)
        self.log_start_offset = Offset(0)
        self.schedule = ModelSchedule()
        self.groups: dict[GroupName, ModelGroup] = {
            DEFAULT_GROUP: ModelGroup(DEFAULT_GROUP, Offset(0), Index(0), self.schedule)
        }
        self.deleted_groups: list[ModelGroup] = []
        self.values: list[bytes] = []
        """The value at each offset."""
        self.keys: list[bytes | None] = []
        self.offset_of: dict[bytes, int] = {}
        self.data_offsets: list[int] = []
        """Base offset of each DATA entry; `data_entries` beside it holds (index, append_ms)."""
        self.data_entries: list[tuple[Index, int]] = []
        self.floors: list[tuple[Index, Offset]] = []
        self.applied_counts: dict[str, int] = {}
        self.failure_counts: dict[str, int] = {}
        """Messages that died, by how, and that were revived; and what breakers did."""
        self.log_times: list[int] = []
        """Log time of each entry, from index 1."""
        self.delay_counts: dict[str, int] = {}
        """Messages that were delayed, and what became of that."""
        self._prepared: tuple[Index, int, int] | None = None
        """Index and term of an entry that says when the batch of the next one is due, and that time."""
        self.moves = ModelMoves()
        self.copies: set[int] = set()
        """Offsets of what came from other partitions."""
        self._moved_in: tuple[Index, int, MoveIn] | None = None
        """Index and term of an entry that says where the batch of the next one comes from."""
        self.ids = ModelIds()
        self._producers: dict[int, list[SentBatch]] = {}

    def apply(self, entry: Entry) -> None:
        """Take the next committed entry.

        Raises:
            Violation: it breaks a promise that holds for every log, whoever wrote it.
        """
        if entry.index != self.last_index + 1:
            broken("entries are applied in order", f"entry {entry.index} after {self.last_index}")
        if entry.term < self.last_term:
            broken("terms never go back in a log", f"entry {entry.index} has term {entry.term} after {self.last_term}")
        if entry.append_ms < self.append_ms:
            broken(
                "log time never goes back",
                f"entry {entry.index} has log time {entry.append_ms} after {self.append_ms}",
            )
        if entry.base_offset != self.next_offset:
            broken(
                "offsets are dense",
                f"entry {entry.index} starts at offset {entry.base_offset}, the log ends at {self.next_offset}",
            )
        self.last_index = entry.index
        self.last_term = entry.term
        self.append_ms = entry.append_ms
        self.log_times.append(entry.append_ms)
        due_ms = self._due_ms_of(entry)
        move = self._move_of(entry)
        ids = self.ids.of(entry, is_data=entry.kind is EntryKind.DATA)
        match entry.kind:
            case EntryKind.DATA:
                self._append(entry, due_ms, move, ids)
            case EntryKind.STATE:
                changes = decode_changes(entry.payload)
                due = [change.due_ms for change in changes if isinstance(change, DeliverAt)]
                self._prepared = (entry.index, entry.term, max(due)) if due else None
                self.ids.prepare(entry, changes)
                moves = [change for change in changes if isinstance(change, MoveIn) and not change.is_refused]
                self._moved_in = (entry.index, entry.term, moves[0]) if moves else None
                if isinstance(changes[-1], Lease) and any(isinstance(change, BuryExpired) for change in changes):
                    self.failure_counts["buried: by a receive"] = self.failure_counts.get("buried: by a receive", 0) + 1
                for ordinal, change in enumerate(changes):
                    self._count(type(change).__name__)
                    self._change(entry, ordinal, change)
                last = changes[-1]
                if self.order is not None and isinstance(last, Lease) and last.group in self.groups:
                    group = self.groups[last.group]
                    self.order.check(self, group, group.leases[lease_id(entry.index, len(changes) - 1)])
            case EntryKind.FLOOR:
                self._raise_floor(entry)
            case EntryKind.CONFIG | EntryKind.NOOP:
                self._count(entry.kind.name)

    def entry_at(self, offset: int) -> tuple[Index, int]:
        """Index and log time of the DATA entry that holds `offset`."""
        return self.data_entries[bisect_right(self.data_offsets, offset) - 1]

    def first_offset_at(self, time_ms: int, *, before: Index) -> Offset | None:
        """The first offset of the entries below index `before` whose log time is `time_ms` or later."""
        for offset, (index, append_ms) in zip(self.data_offsets, self.data_entries, strict=True):
            if index >= before:
                return None
            if append_ms >= time_ms:
                return Offset(offset)
        return None

    def next_offset_at(self, index: Index) -> int:
        """Where the log ended after the entry at `index`."""
        count = bisect_right(self.data_entries, index, key=lambda entry: entry[0])
        return self.next_offset if count == len(self.data_offsets) else self.data_offsets[count]

    def log_start_at(self, index: Index) -> int:
        """Where the log started after the entry at `index`."""
        count = bisect_right(self.floors, index, key=lambda floor: floor[0])
        return self.floors[count - 1][1] if count else 0

    @property
    def producer_count(self) -> int:
        return len(self._producers)

    def batches_of(self, producer_id: int) -> list[SentBatch]:
        """The batches of a producer in the order of the log."""
        return self._producers.get(producer_id, [])

    def find_group(self, name: GroupName, index: Index) -> ModelGroup | None:
        """The consumer group that had this name after the entry at `index`."""
        candidates = [group for group in self.deleted_groups if group.name == name]
        if name in self.groups:
            candidates.append(self.groups[name])
        for group in candidates:
            if group.created <= index < group.deleted:
                return group
        return None

    def _due_ms_of(self, entry: Entry) -> int:
        """When the batch of this entry is due by the entry before it, 0 where that says nothing."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return 0
        if prepared[1] != entry.term:
            self._count_delay("delayed: due time whose batch was lost")
            return 0
        if entry.kind is not EntryKind.DATA:
            broken(
                "nothing comes between a delayed batch and its due time",
                f"entry {entry.index} is {entry.kind.name}, entry {prepared[0]} of its term says when a batch is due",
            )
        return prepared[2]

    def _move_of(self, entry: Entry) -> MoveIn | None:
        """Where the batch of this entry comes from by the entry before it, None where that says nothing."""
        moved, self._moved_in = self._moved_in, None
        if moved is None or moved[1] != entry.term:
            return None
        if entry.kind is not EntryKind.DATA:
            broken("nothing comes between a moved batch and its number", f"entry {entry.index} is {entry.kind.name}")
        return moved[2]

    def _append(self, entry: Entry, due_ms: int, move: MoveIn | None, ids: Dedupe | None) -> None:
        header = read_header(entry.payload)
        if entry.next_offset - entry.base_offset != header.record_count:
            broken(
                "offsets are dense",
                f"entry {entry.index} takes {entry.next_offset - entry.base_offset} offsets "
                f"for {header.record_count} records",
            )
        if header.base_offset != entry.base_offset or header.leader_epoch != entry.term:
            broken(
                "batches carry their place",
                f"entry {entry.index} at offset {entry.base_offset} of term {entry.term} holds a batch "
                f"stamped {header.base_offset} and {header.leader_epoch}",
            )
        self._check_sequence(entry, header.producer_id, header.base_sequence, header.record_count)
        try:
            records = decode_batch(entry.payload)
        except LogBrokerError as error:
            broken("what is in the log can be opened", f"entry {entry.index}: {error}")
        if move is not None:
            values = [record.value or b"" for record in records]
            self.moves.take(move.source, move.number, values, f"entry {entry.index}")
            self.copies.update(range(entry.base_offset, entry.next_offset))
        for position, record in enumerate(records):
            value = record.value or b""
            offset = entry.base_offset + position
            earlier = self.offset_of.setdefault(value, offset)
            has_id = any(key == DEDUP_HEADER for key, _ in record.headers)
            if earlier != offset and move is None and not has_id:
                broken("a message is in the log once", f"{value!r} stands at offset {earlier} and at {offset}")
            self.values.append(value)
            self.keys.append(record.key)
            if due_ms:
                self.schedule.due_ms[offset] = due_ms
                self._count_delay("delayed")
        self._sizes.append(len(entry.payload))
        self.data_offsets.append(entry.base_offset)
        self.data_entries.append((entry.index, entry.append_ms))
        self.next_offset = entry.next_offset
        self._count("DATA")
        if move is not None:
            # It has kept its headers, and has no id here; it was confirmed long ago, so no bound keeps it out.
            return
        for offset in self.ids.append(entry, records, ids, is_cancelled=self._is_cancelled):
            self.schedule.cancelled[offset] = entry.index
            for group in self.groups.values():
                group.become(offset, entry.index, MessageState.ACKED)
        self._check_room(entry)

    def _is_cancelled(self, offset: int) -> bool:
        """Whether nobody ever gets a message that is kept still."""
        return offset in self.schedule.cancelled and offset >= self.log_start_offset

    def _check_sequence(self, entry: Entry, producer_id: int, base_sequence: int, count: int) -> None:
        if producer_id < 0:
            return
        batches = self._producers.setdefault(producer_id, [])
        expected = batches[-1].next_sequence if batches else 0
        if base_sequence != expected:
            broken(
                "a producer's batches are in order and once",
                f"entry {entry.index} has sequence {base_sequence} of producer {producer_id}, {expected} is next",
            )
        batches.append(SentBatch(entry.index, base_sequence, base_sequence + count, entry.base_offset))

    def _raise_floor(self, entry: Entry) -> None:
        floor = decode_floor(entry.payload)
        self._count("FLOOR")
        if floor.start_offset > self.next_offset:
            broken(
                "the log start stays inside the log",
                f"entry {entry.index} raises it to {floor.start_offset}, the log ends at {self.next_offset}",
            )
        if floor.start_offset > self.log_start_offset:
            self.log_start_offset = Offset(floor.start_offset)
            self.moves.drop_below(floor.start_offset)
            self.floors.append((entry.index, self.log_start_offset))
            self.is_floor_by_size = self._is_at_limit()

    @property
    def is_over_limits(self) -> bool:
        limits = self.limits
        return (0 < limits.max_messages < self._fullest()) or (0 < limits.max_bytes < self._held_bytes()[0])

    def _is_at_limit(self) -> bool:
        """Whether one step less would have left too much: a message, or a batch and the step of the count of bytes."""
        limits = self.limits
        if not limits.drops_oldest:
            return False
        if 0 < limits.max_messages <= self._fullest():
            return True
        held, before = self._held_bytes()
        return 0 < limits.max_bytes < held + before + limits.max_bytes // 1000 + 1

    def _fullest(self) -> int:
        """Unsettled messages of the group that has most."""
        start, end = self.log_start_offset, self.next_offset
        return max(len(group.unsettled(start, end)) for group in self.groups.values())

    def _held_bytes(self) -> tuple[int, int]:
        """Bytes of the batches from the log start on, and of the one before."""
        first = max(bisect_right(self.data_offsets, self.log_start_offset) - 1, 0)
        return sum(self._sizes[first:]), self._sizes[first - 1] if first else 0

    def _check_room(self, entry: Entry) -> None:
        """A batch went into the log: where a full queue refuses, there is room for what of it is delivered."""
        limits = self.limits
        if limits.drops_oldest or not limits.max_messages:
            return
        added = sum([offset not in self.schedule.cancelled for offset in range(entry.base_offset, entry.next_offset)])
        held = self._fullest()
        if added and held > limits.max_messages:
            broken(
                "a full queue takes nothing",
                f"entry {entry.index} adds {added} messages, with which {held} are unsettled of at most "
                f"{limits.max_messages}",
            )

    def _change(self, entry: Entry, ordinal: int, change: Change) -> None:
        match change:
            case CreateGroup():
                self._create_group(entry, change)
            case RewindFloor():
                self._raise_rewind_floor(entry, change)
            case DeleteGroup():
                group = self.groups.pop(change.group, None) if change.group != DEFAULT_GROUP else None
                if group is not None:
                    group.deleted = entry.index
                    self.deleted_groups.append(group)
                    self.moves.drop_group(change.group)
            case MoveIn():
                if change.is_refused:
                    self.moves.refuse(change.source, change.number, f"entry {entry.index}")
            case DeliverAt() | ForgetSource() | Dedupe():
                pass
            case Cancel():
                self._cancel(entry, change)
            case _:
                group = self.groups.get(change.group)
                if group is None:
                    self._does_not_fit(entry, change, "there is no such consumer group")
                else:
                    self._change_group(group, entry, ordinal, change)

    def _raise_rewind_floor(self, entry: Entry, change: RewindFloor) -> None:
        if not self.rewind_floor < change.start_offset <= self.next_offset:
            self._does_not_fit(entry, change, "the floor never goes back")
            return
        youngest_ms = self.entry_at(change.start_offset - 1)[1]
        if entry.append_ms - youngest_ms < self.rewind_ms:
            broken(
                "what is settled can be rewound for its time",
                f"entry {entry.index} (log time {entry.append_ms}) raises the rewind floor to {change.start_offset}, "
                f"past a message of {youngest_ms}, to be rewound for {self.rewind_ms} ms",
            )
        self.rewind_floor = Offset(change.start_offset)

    def _create_group(self, entry: Entry, change: CreateGroup) -> None:
        if change.group not in self.groups:
            start = Offset(self._clamped(change.start_offset))
            limits = self.limits
            if limits.drops_oldest and 0 < limits.max_messages < self.next_offset - start:
                broken(
                    "a group begins with no more than its queue holds",
                    f"entry {entry.index} makes {change.group} at {start}, the log ends at {self.next_offset}, at most "
                    f"{limits.max_messages} may be unsettled",
                )
            group = ModelGroup(change.group, start, entry.index, self.schedule, entry.append_ms)
            self.groups[change.group] = group
            if any(self.schedule.is_waiting(offset, entry.append_ms) for offset in range(start, self.next_offset)):
                self._count_delay("delayed: group made before it was due")

    def _cancel(self, entry: Entry, change: Cancel) -> None:
        schedule = self.schedule
        for offset in self._offsets(change.ranges):
            is_moved = any(group.message(offset).state in _MOVED for group in self.groups.values())
            if schedule.is_waiting(offset, entry.append_ms) and offset not in schedule.cancelled and not is_moved:
                schedule.cancelled[offset] = entry.index
                self._count_delay("delayed: cancelled")
                for group in self.groups.values():
                    group.become(offset, entry.index, MessageState.ACKED)

    def _change_group(self, group: ModelGroup, entry: Entry, ordinal: int, change: GroupChange) -> None:
        match change:
            case Lease():
                self._lease(group, entry, lease_id(entry.index, ordinal), change)
            case Ack():
                for offset in self._held(group, entry, change, change.lease, change.ranges):
                    group.become(offset, entry.index, MessageState.ACKED)
                    self._note_ending(group, entry, is_failed=False)
            case Nack():
                for offset in self._held(group, entry, change, change.lease, change.ranges):
                    self._nack(group, entry, offset, change.visible_at_ms)
            case Extend():
                for offset in self._held(group, entry, change, change.lease, change.ranges):
                    group.message(offset).visible_at_ms = change.visible_at_ms
            case Release():
                for offset in self._leased_under(group, change.lease):
                    group.become(offset, entry.index, MessageState.AVAILABLE).deliveries -= 1
            case Expire() | BuryExpired():
                self._expire(group, entry, change)
            case Bury():
                granted = group.leases.get(LeaseId(change.lease))
                consumer = "" if granted is None else granted.consumer
                for offset in self._held(group, entry, change, change.lease, change.ranges):
                    rejected = change.cause is Cause.REJECTED
                    how = "buried: rejected" if rejected else "buried: nacked for the last time"
                    self._bury(group, entry, offset, change.cause, change.reason, consumer, how)
            case BuryOld():
                self._bury_old(group, entry, change)
            case Revive():
                dead = [o for o in self._offsets(change.ranges) if group.message(o).state is MessageState.DEAD]
                for offset in dead:
                    waits = self.schedule.is_waiting(offset, entry.append_ms)
                    state = MessageState.DELAYED if waits else MessageState.AVAILABLE
                    message = group.become(offset, entry.index, state)
                    message.deliveries, message.visible_at_ms = 0, self.schedule.due_ms.get(offset, 0)
                group.revivals.append((entry.index, len(dead)))
                self.failure_counts["revived"] = self.failure_counts.get("revived", 0) + len(dead)
            case MoveOut():
                self._move_out(group, entry, lease_id(entry.index, ordinal), change)
            case Moved():
                self._end_move(group, entry, change)
            case Rewind():
                self._rewind(group, entry, change)
            case SkipTo():
                self._skip_to(group, entry, change)
            case Pause():
                self._pause(group, entry, change)
            case Resume():
                if group.has_tripped_at(entry.append_ms):
                    self._note_breaker("ended by an operator")
                self._set_pause(group, entry, None)
            case Purge():
                self._purge(group, entry, change)
            case CreateGroup() | DeleteGroup():
                raise TypeError(change)

    def _set_pause(self, group: ModelGroup, entry: Entry, pause: ModelPause | None) -> None:
        if pause != group.pause:
            group.pauses.append((entry.index, pause))

    def _pause(self, group: ModelGroup, entry: Entry, change: Pause) -> None:
        if 0 < change.until_ms <= entry.append_ms:
            self._does_not_fit(entry, change, "it is over already")
            return
        if change.reason.startswith(_BREAKER):
            self._check_trip(group, entry, change)
        elif group.has_tripped_at(entry.append_ms):
            self._note_breaker("replaced by an operator")
        group.endings.clear()
        self._set_pause(group, entry, ModelPause(change.reason, entry.append_ms, change.until_ms))

    def _note_ending(self, group: ModelGroup, entry: Entry, *, is_failed: bool) -> None:
        """Of deliveries that end while a group is paused no breaker may know: they say nothing of what follows."""
        if self.breaker is None:
            return
        if group.pause is not None and group.pause.holds_at(entry.append_ms):
            if group.has_tripped_at(entry.append_ms):
                self._note_breaker("with deliveries that ended meanwhile")
            return
        group.endings.append(ModelEnding(entry.index, entry.append_ms, is_failed))

    def _note_breaker(self, what: str) -> None:
        name = f"breaker: {what}"
        self.failure_counts[name] = self.failure_counts.get(name, 0) + 1

    def _check_trip(self, group: ModelGroup, entry: Entry, change: Pause) -> None:
        place = f"entry {entry.index} (log time {entry.append_ms}) pauses {group.name}: {change.reason!r}"
        policy = self.breaker
        if policy is None:
            broken("only a queue that has a breaker is paused by one", place)
        if group.pause is not None and group.pause.holds_at(entry.append_ms):
            broken("a breaker leaves alone what is paused", f"{place}, which has {group.pause}")
        if change.until_ms != entry.append_ms + policy.pause_ms:
            broken("a breaker pauses for its time", f"{place} until {change.until_ms}, {policy}")
        told = _TOLD.fullmatch(change.reason)
        failed, ended = (int(told[1]), int(told[2])) if told is not None else (0, 0)
        if ended < policy.least_count or failed * 100 < policy.percent * ended:
            broken("a breaker trips where enough failed", f"{place}, {policy}")
        group.endings = [each for each in group.endings if each.append_ms > entry.append_ms - policy.window_ms]
        if not _has_run(group.endings, ended, failed):
            broken("what a breaker counts is in the log", f"{place}, the window has {_by_entry(group.endings)}")
        self._note_breaker("tripped")
        if any(pause is not None and pause.reason.startswith(_BREAKER) for _, pause in group.pauses):
            self._note_breaker("tripped again")

    def _check_not_paused(self, group: ModelGroup, entry: Entry) -> None:
        """A leader knows every pause in its log; and the first lease after the end of one forgets it."""
        pause = group.pause
        if pause is None:
            return
        if pause.holds_at(entry.append_ms):
            broken(
                "nothing is leased while a group is paused",
                f"entry {entry.index} (log time {entry.append_ms}) leases of {group.name}: {pause}",
            )
        self._count("Lease after the end of a pause")
        self._set_pause(group, entry, None)

    def _purge(self, group: ModelGroup, entry: Entry, change: Purge) -> None:
        if change.rewind_id in group.purges:
            return
        purged = revoked = dead = 0
        for offset in range(self.log_start_offset, min(change.end_offset, self.next_offset)):
            message = group.message(offset)
            if message.state is MessageState.MOVING:
                group.passed.add(offset)
            if message.state in (MessageState.ACKED, *_MOVED):
                continue
            purged += 1
            revoked += message.state is MessageState.LEASED
            dead += message.state is MessageState.DEAD
            group.become(offset, entry.index, MessageState.ACKED)
        if dead:
            self._count("Purge of dead messages")
        if revoked:
            self._count("Purge of leased messages")
        group.purges[change.rewind_id] = entry.index, (purged, revoked, dead)

    def _lease(self, group: ModelGroup, entry: Entry, lease: LeaseId, change: Lease) -> None:
        self._check_not_paused(group, entry)
        granted: list[tuple[int, int, int]] = []
        for start, end in change.ranges:
            if not self.log_start_offset <= start < end <= self.next_offset:
                broken(
                    "only readable messages are leased",
                    f"entry {entry.index} leases {start}..{end} of {group.name}, the log holds "
                    f"{self.log_start_offset}..{self.next_offset}",
                )
            for offset in range(start, end):
                deliveries = self._lease_one(group, entry, lease, offset, change.visible_at_ms)
                if granted and granted[-1][1] == offset and granted[-1][2] == deliveries and offset != start:
                    granted[-1] = (granted[-1][0], offset + 1, deliveries)
                else:
                    granted.append((offset, offset + 1, deliveries))
        self._check_request(group, entry, lease, change)
        group.leases[lease] = GrantedLease(
            lease,
            entry.index,
            entry.append_ms,
            change.visible_at_ms,
            tuple(granted),
            change.consumer,
            change.session,
            change.request_id,
        )

    def _check_request(self, group: ModelGroup, entry: Entry, lease: LeaseId, change: Lease) -> None:
        """A receive that is asked again holds one lease at a time."""
        if not change.session:
            return
        earlier = group.lease_of_request.get((change.session, change.request_id))
        if earlier is not None and self._leased_under(group, earlier):
            broken(
                "a request holds one lease at a time",
                f"entry {entry.index} leases to request {change.session}/{change.request_id} of {group.name}, "
                f"which holds lease {earlier}",
            )
        group.lease_of_request[change.session, change.request_id] = lease

    def _lease_one(self, group: ModelGroup, entry: Entry, lease: LeaseId, offset: int, visible_at_ms: int) -> int:
        message = group.message(offset)
        if self.schedule.is_waiting(offset, entry.append_ms):
            broken(
                "nothing is delivered before it is due",
                f"entry {entry.index} (log time {entry.append_ms}) leases offset {offset} of {group.name}, "
                f"which is due at {self.schedule.due_ms[offset]}",
            )
        if offset in self.ids.repeats:
            broken(
                "what repeats an id is never delivered",
                f"entry {entry.index} leases offset {offset} of {group.name}: {self.ids.repeats[offset]}",
            )
        if offset in self.schedule.cancelled:
            broken(
                "what was cancelled is never delivered",
                f"entry {entry.index} leases offset {offset} of {group.name}, which entry "
                f"{self.schedule.cancelled[offset]} has cancelled",
            )
        if offset in self.schedule.due_ms and not message.deliveries:
            self._count_delay("delayed: delivered when due")
        if message.state is MessageState.LEASED:
            broken(
                "a message is leased once at a time",
                f"entry {entry.index} (log time {entry.append_ms}) leases offset {offset} of {group.name}, "
                f"which lease {message.lease} holds until {message.visible_at_ms}",
            )
        if message.state is MessageState.ACKED:
            broken("acked stays acked", f"entry {entry.index} leases acked offset {offset} of {group.name}")
        if message.state in _MOVED:
            broken("what is moved is not delivered", f"entry {entry.index} leases offset {offset} of {group.name}")
        if message.state is MessageState.DEAD:
            broken("the dead stay dead", f"entry {entry.index} leases dead offset {offset} of {group.name}")
        if message.state is MessageState.DELAYED and message.visible_at_ms > entry.append_ms:
            broken(
                "a delayed message waits",
                f"entry {entry.index} (log time {entry.append_ms}) leases offset {offset} of {group.name}, "
                f"which is delayed until {message.visible_at_ms}",
            )
        if self._is_old(entry, offset):
            self.old_leases.append(
                f"entry {entry.index} (log time {entry.append_ms}) leases offset {offset} of {group.name}, appended at "
                f"{self.entry_at(offset)[1]}, to live for {self.max_age_ms} ms"
            )
        group.become(offset, entry.index, MessageState.LEASED, lease)
        message.deliveries += 1
        message.visible_at_ms = visible_at_ms
        if 0 < self.max_deliveries < message.deliveries:
            broken(
                "nothing is tried too often",
                f"entry {entry.index} begins delivery {message.deliveries} of offset {offset} of {group.name}, "
                f"the most is {self.max_deliveries}",
            )
        return message.deliveries

    def _is_spent(self, message: ModelMessage) -> bool:
        return 0 < self.max_deliveries <= message.deliveries

    def _bury(
        self, group: ModelGroup, entry: Entry, offset: int, cause: Cause, reason: str, consumer: str, how: str
    ) -> None:
        message = group.message(offset)
        if cause is Cause.MAX_DELIVERIES and not self._is_spent(message):
            broken(
                "nothing dies before it was tried as often as allowed",
                f"entry {entry.index} buries offset {offset} of {group.name}: {message.describe()}",
            )
        burial = Burial(entry.index, entry.append_ms, message.deliveries, cause, reason, consumer)
        group.burials.setdefault(offset, []).append(burial)
        if cause is not Cause.TTL:
            # Nobody held what is too old.
            self._note_ending(group, entry, is_failed=True)
        self.failure_counts[how] = self.failure_counts.get(how, 0) + 1
        group.become(offset, entry.index, MessageState.DEAD)

    def _bury_old(self, group: ModelGroup, entry: Entry, change: BuryOld) -> None:
        for offset in range(self.log_start_offset, min(change.end_offset, self.next_offset)):
            message = group.message(offset)
            if message.state not in (MessageState.AVAILABLE, MessageState.DELAYED):
                continue
            if not self._is_old(entry, offset):
                broken(
                    "nothing dies before its time to live is over",
                    f"entry {entry.index} (log time {entry.append_ms}) buries offset {offset} of {group.name}, "
                    f"appended at {self.entry_at(offset)[1]}, to live for {self.max_age_ms} ms",
                )
            state = "as delayed" if message.state is MessageState.DELAYED else "as fresh"
            if message.state is MessageState.AVAILABLE and message.deliveries:
                state = "as given back"
            self._bury(group, entry, offset, Cause.TTL, "", "", f"buried: too old, {state}")

    def _is_old(self, entry: Entry, offset: int) -> bool:
        """Whether a message has outlived its time to live at the log time of an entry."""
        return 0 < self.max_age_ms <= entry.append_ms - self.entry_at(offset)[1]

    def _check_not_spent(self, group: ModelGroup, entry: Entry, offset: int) -> None:
        message = group.message(offset)
        if self._is_spent(message):
            broken(
                "what failed for the last time is dead",
                f"entry {entry.index} gives offset {offset} of {group.name} back: {message.describe()}",
            )

    def _nack(self, group: ModelGroup, entry: Entry, offset: int, visible_at_ms: int) -> None:
        self._check_not_spent(group, entry, offset)
        self._note_ending(group, entry, is_failed=True)
        delayed = visible_at_ms > entry.append_ms
        message = group.become(offset, entry.index, MessageState.DELAYED if delayed else MessageState.AVAILABLE)
        message.visible_at_ms = visible_at_ms

    def _expire(self, group: ModelGroup, entry: Entry, change: Expire | BuryExpired) -> None:
        for offset in self._offsets(change.ranges):
            message = group.message(offset)
            if message.state is not MessageState.LEASED:
                self._does_not_fit(entry, change, f"offset {offset} is {message.state.value}")
            elif message.visible_at_ms > entry.append_ms:
                broken(
                    "a lease is never shortened",
                    f"entry {entry.index} (log time {entry.append_ms}) expires offset {offset} of {group.name}, "
                    f"which lease {message.lease} holds until {message.visible_at_ms}",
                )
            elif isinstance(change, BuryExpired):
                held_by = group.leases[message.lease].consumer
                if change.consumer != held_by:
                    broken("a burial names who held the message", f"entry {entry.index}: {change}, not {held_by}")
                self._bury(
                    group, entry, offset, Cause.MAX_DELIVERIES, "", change.consumer, "buried: ran out for the last time"
                )
            else:
                self._check_not_spent(group, entry, offset)
                self._note_ending(group, entry, is_failed=True)
                group.become(offset, entry.index, MessageState.AVAILABLE)

    def _move_out(self, group: ModelGroup, entry: Entry, number: int, change: MoveOut) -> None:
        offsets = [offset for start, end in change.ranges for offset in range(start, end)]
        if len(self.moves.owed()) >= MAX_OWED or not all(
            self.log_start_offset <= offset < self.next_offset and _is_movable(group.message(offset), entry.append_ms)
            for offset in offsets
        ):
            self._does_not_fit(entry, change, "the outbox is full, or a message is in no state to be moved")
            return
        self.moves.begin(
            MovedOut(number, change.target, group.name, {offset: self.values[offset] for offset in offsets})
        )
        for offset in offsets:
            group.was_dead[offset] = group.message(offset).state is MessageState.DEAD
            group.passed.discard(offset)
            group.become(offset, entry.index, MessageState.MOVING)

    def _end_move(self, group: ModelGroup, entry: Entry, change: Moved) -> None:
        row = self.moves.head(change.target)
        if row is None or (row.number, row.group) != (change.number, group.name):
            self._does_not_fit(entry, change, "it is not what is owed next")
            return
        self.moves.end(row, is_refused=change.is_refused)
        for offset in self._offsets([(offset, offset + 1) for offset in row.values]):
            if not change.is_refused:
                group.become(offset, entry.index, MessageState.MOVED).deliveries = 0
            elif offset in group.passed:
                group.become(offset, entry.index, MessageState.ACKED)
            elif group.was_dead[offset]:
                group.become(offset, entry.index, MessageState.DEAD)
            else:
                group.become(offset, entry.index, MessageState.AVAILABLE)

    def _rewind(self, group: ModelGroup, entry: Entry, change: Rewind) -> None:
        if change.rewind_id in group.moves:
            return
        start = max(self._clamped(change.start_offset), self.rewind_floor)
        if self.rewind_floor > change.start_offset:
            self.failure_counts["rewound: up to the rewind floor"] = (
                self.failure_counts.get("rewound: up to the rewind floor", 0) + 1
            )
        reopened = revoked = delayed = 0
        for offset in range(start, self.next_offset):
            message = group.message(offset)
            group.passed.discard(offset)
            if message.state in _KEPT or offset in self.schedule.cancelled:
                continue
            if self.schedule.is_waiting(offset, entry.append_ms) and message.state is MessageState.ACKED:
                self._count_delay("delayed: skipped and rewound before it was due")
                group.become(offset, entry.index, MessageState.DELAYED)
                message.visible_at_ms = self.schedule.due_ms[offset]
            if message.state is MessageState.LEASED:
                group.rewound[message.lease] = entry.index
                revoked += 1
            elif message.state is MessageState.ACKED:
                reopened += 1
                if entry.append_ms - self.entry_at(offset)[1] >= self.rewind_ms or self._is_old(entry, offset):
                    self.old_reopened.append(
                        f"entry {entry.index} (log time {entry.append_ms}) reopens offset {offset} of {group.name}, "
                        f"appended at {self.entry_at(offset)[1]}, to be rewound for {self.rewind_ms} ms and to live "
                        f"for {self.max_age_ms} ms"
                    )
            elif message.state is MessageState.DELAYED and message.visible_at_ms > entry.append_ms:
                delayed += 1
                message.deliveries = 0
                continue
            group.become(offset, entry.index, MessageState.AVAILABLE).deliveries = 0
        self._remember_move(group, entry, change, start, (reopened, revoked, delayed))

    def _skip_to(self, group: ModelGroup, entry: Entry, change: SkipTo) -> None:
        if change.rewind_id in group.moves:
            return
        start = self._clamped(change.start_offset)
        skipped = revoked = 0
        for offset in range(self.log_start_offset, start):
            message = group.message(offset)
            if message.state is MessageState.MOVING and not group.was_dead[offset]:
                group.passed.add(offset)
            if message.state in SETTLED:
                continue
            if message.state is MessageState.LEASED:
                group.rewound[message.lease] = entry.index
                revoked += 1
            skipped += 1
            group.become(offset, entry.index, MessageState.ACKED)
        self._remember_move(group, entry, change, start, (skipped, revoked))

    def _clamped(self, start_offset: int) -> int:
        return min(max(start_offset, self.log_start_offset), self.next_offset)

    def _remember_move(
        self, group: ModelGroup, entry: Entry, change: Rewind | SkipTo, start: int, counts: tuple[int, ...]
    ) -> None:
        is_rewind = isinstance(change, Rewind)
        low = self._first_held() if is_rewind else self.log_start_offset
        young = self._first_young(entry) if is_rewind else low
        group.moves[change.rewind_id] = Move(
            entry.index, entry.append_ms, start, low, max(low, young), self.next_offset, is_rewind, counts
        )

    def _first_held(self) -> Offset:
        """Where a rewind may begin: what the queue would drop at once stays settled."""
        low = Offset(max(self.log_start_offset, self.rewind_floor))
        if self.limits.drops_oldest and self.limits.max_messages:
            low = Offset(max(low, self.next_offset - self.limits.max_messages))
        return low

    def _first_young(self, entry: Entry) -> Offset:
        """The first message within its time to live at the log time of an entry."""
        if not self.max_age_ms:
            return Offset(0)
        found = self.first_offset_at(entry.append_ms - self.max_age_ms + 1, before=entry.index)
        return Offset(self.next_offset) if found is None else found

    def _held(
        self,
        group: ModelGroup,
        entry: Entry,
        change: Change,
        lease: int,
        ranges: Sequence[tuple[int, int]],
    ) -> Iterator[int]:
        """Offsets of `ranges` that `lease` holds; the others are counted, because nothing happens to them."""
        for offset in self._offsets(ranges):
            message = group.message(offset)
            if message.state is MessageState.LEASED and message.lease == lease:
                yield offset
            else:
                self._does_not_fit(entry, change, f"offset {offset} is {message.state.value}")

    def _leased_under(self, group: ModelGroup, lease: int) -> list[int]:
        granted = group.leases.get(LeaseId(lease))
        if granted is None:
            return []
        offsets = (offset for start, end, _ in granted.ranges for offset in range(start, end))
        return [
            offset
            for offset in offsets
            if offset >= self.log_start_offset
            and group.message(offset).state is MessageState.LEASED
            and group.message(offset).lease == lease
        ]

    def _offsets(self, ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
        """Offsets in `ranges` that are in the log and that retention has not taken."""
        for start, end in ranges:
            yield from range(max(start, self.log_start_offset), min(end, self.next_offset))

    def _does_not_fit(self, entry: Entry, change: Change, why: str) -> None:
        """A change that the leader proposed and that records nothing; legal, and worth counting."""
        del entry, why
        self._count(f"{type(change).__name__} that did not fit")

    def _count_delay(self, what: str) -> None:
        self.delay_counts[what] = self.delay_counts.get(what, 0) + 1

    def _count(self, what: str) -> None:
        self.applied_counts[what] = self.applied_counts.get(what, 0) + 1


def _is_movable(message: ModelMessage, log_ms: int) -> bool:
    is_due = message.state is MessageState.DELAYED and message.visible_at_ms <= log_ms
    return is_due or message.state in (MessageState.AVAILABLE, MessageState.DEAD)


def _by_entry(endings: Sequence[ModelEnding]) -> list[tuple[Index, int, int]]:
    """Of each entry how many deliveries it ended, and how many of these failed."""
    found: dict[Index, tuple[int, int]] = {}
    for each in endings:
        ended, failed = found.get(each.index, (0, 0))
        found[each.index] = ended + 1, failed + each.is_failed
    return [(index, *counts) for index, counts in found.items()]


def _has_run(endings: Sequence[ModelEnding], ended: int, failed: int) -> bool:
    """Whether entries that follow each other have these sums.

    Not all of them need to count: those before the leader began do not, nor do the last ones, which it had proposed
    and not yet applied.
    """
    sums = [(0, 0)]
    for _, more, more_failed in _by_entry(endings):
        sums.append((sums[-1][0] + more, sums[-1][1] + more_failed))
    starts: set[tuple[int, int]] = set()
    for total, total_failed in sums:
        starts.add((total, total_failed))
        if (total - ended, total_failed - failed) in starts:
            return True
    return False
