"""The replicated state of one partition: every entry of its log in, one `Applied` out.

Every replica applies the same entries and must come to the same state, so apply sees the entry alone: its time is the
entry's append_ms, there is no clock, no chance and no order of a set. Requests are decided in `decide`; nothing but
`apply` changes replicated state.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, assert_never, final

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError, NotFoundError, violated
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, LeaseId, Offset, Term, lease_id
from logbroker.partition.armed import Armed
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    CreateGroup,
    Dedupe,
    DeleteGroup,
    Expire,
    Extend,
    Floor,
    ForgetSource,
    Lease,
    Moved,
    MoveIn,
    MoveOut,
    Nack,
    Pause,
    Purge,
    QueueChange,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    arms,
    decode_changes,
    decode_floor,
)
from logbroker.partition.dedupe import DedupeWindow, Verdicts
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.partition.outbox import MAX_OWED, Inbox, Outbox, Owed
from logbroker.partition.outcomes import (
    Applied,
    Cancelled,
    FloorMoved,
    GroupCreated,
    GroupDeleted,
    Misfit,
    MoveEnded,
    MovingOut,
    Nothing,
    Prepared,
    Produced,
    RewindFloorMoved,
    Void,
)
from logbroker.partition.producers import NO_PRODUCER, Duplicate, Fenced, OutOfOrder, Producers
from logbroker.partition.runs import acked
from logbroker.partition.schedule import Schedule
from logbroker.partition.state_form import state_slices
from logbroker.record.batch import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logbroker.entry import Entry
    from logbroker.partition.commands import Change, Ranges
    from logbroker.partition.groups import GroupStatus
    from logbroker.partition.outcomes import LeasedRange, Outcome
    from logbroker.partition.producers import Objection
    from logbroker.partition.runs import Run
    from logbroker.record.batch import BatchHeader

MAX_GROUPS = 1_000
MAX_OFFSET = (1 << 48) - 1
"""A message id has 48 bits for the offset."""


@final
class PartitionMachine:
    """The state of one partition as of `applied_index`.

    The leader keeps two: one of what is applied, and `ahead`, a clone to which every entry is applied as it is
    appended; it decides on the second and answers from the first.
    """

    __slots__ = (
        "_armed",
        "_groups",
        "_names",
        "_producers",
        "_schedule",
        "_voids",
        "append_ms",
        "applied_index",
        "applied_term",
        "dedupe",
        "group_id",
        "inbox",
        "log_start_index",
        "log_start_offset",
        "next_offset",
        "outbox",
        "rewind_floor",
    )

    def __init__(
        self,
        group_id: GroupId,
        groups: Mapping[GroupName, ConsumerGroup],
        producers: Producers,
        voids: OffsetRanges | None = None,
        schedule: Schedule | None = None,
        armed: Armed | None = None,
    ) -> None:
        self.group_id = group_id
        self.applied_index = Index(0)
        self.applied_term = Term(0)
        # One past the last offset given out.
        self.next_offset = Offset(0)
        # Everything below was taken by retention; never goes back.
        self.log_start_offset = Offset(0)
        # What is settled below stays settled; never goes back, and may lie below the log start.
        self.rewind_floor = Offset(0)
        # Entries below may be deleted.
        self.log_start_index = Index(1)
        # Log time of the last entry; never goes back.
        self.append_ms = 0
        self._producers = producers
        # Sorted by name, so that walking them is the same everywhere.
        self._groups = {name: groups[name] for name in sorted(groups)}
        self._names = tuple(self._groups)
        # Offsets at or above the log start that nothing delivers.
        self._voids = OffsetRanges() if voids is None else voids
        # Those that are due after append_ms. In each group they are delayed until then or acked or, where they have
        # outlived their time to live, dead or moved.
        self._schedule = Schedule() if schedule is None else schedule
        # Only while the last entry applied is one that says something of the next one's batch.
        self._armed = armed
        # What this partition owes to others, and has got from them.
        self.outbox = Outbox()
        self.inbox = Inbox()
        # Of messages with ids of their own. Retention does not touch it.
        self.dedupe = DedupeWindow()

    @classmethod
    def new(cls, group_id: GroupId) -> PartitionMachine:
        """Return the state before the first entry: empty, with the group `default`."""
        return cls(group_id, {DEFAULT_GROUP: ConsumerGroup.new(DEFAULT_GROUP, 0)}, Producers())

    def clone(self, *, for_reading: bool = False) -> PartitionMachine:
        """Return an independent copy; the cost grows with the number of unlike deadlines alone.

        One `for_reading`, which costs less, is good for its bytes: nothing may be applied to it or decided on it.
        """
        groups = {name: group.clone(for_reading=for_reading) for name, group in self._groups.items()}
        other = PartitionMachine(
            self.group_id, groups, self._producers.clone(), self._voids.clone(), self._schedule.clone(), self._armed
        )
        other.applied_index = self.applied_index
        other.applied_term = self.applied_term
        other.next_offset = self.next_offset
        other.log_start_offset = self.log_start_offset
        other.log_start_index = self.log_start_index
        other.rewind_floor = self.rewind_floor
        other.append_ms = self.append_ms
        other.outbox = self.outbox.clone()
        other.inbox = self.inbox.clone()
        other.dedupe = self.dedupe.clone()
        return other

    def digest(self) -> bytes:
        """Return 16 bytes that are equal on two replicas at one index exactly if their states are.

        Reads all of the state: for checkpoints and tests, not for the hot path.
        """
        hashed = blake2b(digest_size=16)
        for part in state_slices(self):
            hashed.update(part)
        return hashed.digest()

    @property
    def groups(self) -> tuple[GroupName, ...]:
        """The names of the consumer groups, sorted."""
        return self._names

    @property
    def producers(self) -> Producers:
        return self._producers

    @property
    def voids(self) -> OffsetRanges:
        """Offset ranges at or above the log start that nothing ever delivers."""
        return self._voids

    @property
    def schedule(self) -> Schedule:
        """The messages that are due after `append_ms`, for reading."""
        return self._schedule

    @property
    def armed(self) -> Armed | None:
        """What the last entry says of the batch of the next one."""
        return self._armed

    def group(self, name: GroupName) -> ConsumerGroup:
        """Return a consumer group, for reading.

        Raises:
            NotFoundError: there is none of this name.
        """
        group = self._groups.get(name)
        if group is None:
            raise NotFoundError(f"consumer group {name!r} does not exist in partition group {self.group_id}")
        return group

    def status(self, name: GroupName) -> GroupStatus:
        """Count the messages of a consumer group by state.

        Raises:
            NotFoundError: there is none of this name.
        """
        return self.group(name).status(self.next_offset)

    def holdings(self, name: GroupName, lease: LeaseId) -> tuple[LeasedRange, ...]:
        """Return what a lease holds, in offset order; nothing if it is not current.

        Raises:
            NotFoundError: there is no group of this name.
        """
        return self.group(name).holdings(lease)

    def next_deadline_ms(self) -> int | None:
        """Return the log time at which a lease of any group will have run out, up to 100 ms late, or None."""
        times = [group.table.leased.next_ms() for group in self._groups.values()]
        return min((time for time in times if time is not None), default=None)

    def apply(self, entry: Entry) -> Applied:
        """Apply the next entry of the log.

        Raises:
            InvariantError: the entry is not the next one, or its offsets do not begin at `next_offset`.
            CorruptBatchError: the payload of a STATE or FLOOR entry is none; nothing was changed.
        """
        if entry.index != self.applied_index + 1:
            violated(f"entry {entry.index} of group {self.group_id} follows entry {self.applied_index}")
        if entry.base_offset != self.next_offset:
            place = f"entry {entry.index} of group {self.group_id}"
            violated(f"{place} begins at offset {entry.base_offset}, not {self.next_offset}")
        count = entry.next_offset - entry.base_offset
        if count <= 0 if entry.kind is EntryKind.DATA else count != 0:
            violated(f"{entry.kind.name} entry {entry.index} of group {self.group_id} takes {count} offsets")
        changes: tuple[Change, ...] = ()
        outcomes: tuple[Outcome, ...] = ()
        woken: tuple[GroupName, ...] = ()
        append_ms = max(self.append_ms, entry.append_ms)
        armed: Armed | None = None
        match entry.kind:
            case EntryKind.DATA:
                outcome = self._apply_data(entry, append_ms)
                outcomes = (outcome,)
                woken = self._names if isinstance(outcome, Produced) and not outcome.due_ms else ()
            case EntryKind.STATE:
                changes = decode_changes(entry.payload)
                outcomes = tuple(
                    [
                        self._apply_change(change, lease_id(entry.index, ordinal), append_ms)
                        for ordinal, change in enumerate(changes)
                    ]
                )
                woken = self._woken_by(changes, outcomes)
                # Only the first is looked at: most entries have none, and some have thousands of changes.
                if changes and arms(changes[0]):
                    arming = tuple([change for change in changes if arms(change)])
                    armed = Armed(entry.index, entry.term, arming)
            case EntryKind.FLOOR:
                outcomes = (self._apply_floor(decode_floor(entry.payload), entry.index),)
            case EntryKind.CONFIG | EntryKind.NOOP:
                pass
            case _:
                assert_never(entry.kind)
        self._armed = armed
        if self._schedule.first_ms <= append_ms:
            self._schedule.forget_due(append_ms)
        self.append_ms = append_ms
        self.next_offset = entry.next_offset
        self.applied_index = entry.index
        self.applied_term = entry.term
        return Applied(entry.index, outcomes, woken, changes)

    def judge_batch(self, header: BatchHeader) -> Objection | None:
        """Say why a batch with this producer and sequence may not be appended next, or None if it may."""
        if header.producer_id == NO_PRODUCER:
            return None
        return self._producers.judge(
            header.producer_id,
            epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
            count=header.record_count,
        )

    def _apply_data(self, entry: Entry, append_ms: int) -> Produced | Void:
        count = entry.next_offset - entry.base_offset
        try:
            header = read_header(entry.payload)
        except CorruptBatchError as error:
            return self._void(entry, Misfit.UNREADABLE, error.message)
        fault = _header_fault(header, entry)
        if fault is not None:
            return self._void(entry, Misfit.UNREADABLE, fault)
        armed = self._armed if self._armed is not None and self._armed.holds_for(entry) else None
        move = None if armed is None else armed.move
        if move is not None:
            misfit = self._move_in_fault(move)
            if misfit is not None:
                return self._void(entry, misfit, f"number {move.number} of group {move.source} is not the next")
        ids = None if armed is None else armed.dedupe
        if ids is not None and ids.count != count:
            return self._void(entry, Misfit.UNREADABLE, f"the entry before it has {ids.count} ids for {count} records")
        match self.judge_batch(header):
            case Duplicate(base_offset):
                detail = f"sequence {header.base_sequence} stands at offset {base_offset}"
                return self._void(entry, Misfit.DUPLICATE, detail, duplicate_of=Offset(base_offset))
            case OutOfOrder(expected):
                detail = f"sequence {header.base_sequence} is not {expected}"
                return self._void(entry, Misfit.OUT_OF_ORDER, detail)
            case Fenced(epoch):
                return self._void(entry, Misfit.FENCED, f"epoch {header.producer_epoch} is below {epoch}")
            case None:
                pass
        if header.producer_id != NO_PRODUCER:
            self._producers.record(
                header.producer_id,
                epoch=header.producer_epoch,
                base_sequence=header.base_sequence,
                count=count,
                base_offset=entry.base_offset,
                append_ms=append_ms,
            )
        if move is not None:
            self.inbox.take(move.source, move.number)
        due_ms = 0 if armed is None else armed.due_ms
        if due_ms <= append_ms:
            due_ms = 0
        else:
            run = self._schedule.add(entry.base_offset, entry.next_offset, due_ms)
            for group in self._groups.values():
                group.delay(run)
        if ids is None:
            return Produced(entry.base_offset, count, due_ms=due_ms)
        verdicts = self.dedupe.take(ids, entry.base_offset, append_ms, voids=self._voids)
        for start, end in verdicts.ranges(entry.base_offset):
            if due_ms:
                self._schedule.remove(start, end)
            self._void_range(start, end)
        return Produced(entry.base_offset, count, False, due_ms, *verdicts)

    def _void(self, entry: Entry, why: Misfit, detail: str, *, duplicate_of: Offset | None = None) -> Void:
        start, end = entry.base_offset, entry.next_offset
        self._void_range(start, end)
        return Void(start, end - start, why, detail, duplicate_of)

    def _void_range(self, start: int, end: int) -> None:
        self._voids.add(start, end)
        for group in self._groups.values():
            group.void(start, end)

    def verdicts(self, ids: Dedupe, base_offset: int) -> Verdicts:
        """Say of a batch that stands in the log since before which of its messages were those of another one's ids.

        What nothing delivers was voided for its id, or cancelled. Where the first message of the id is forgotten it
        is not known any more which of the two, or whether the bodies were the same: that is told as a conflict, since
        nobody may take for sent what is not.
        """
        return self.dedupe.look_again(ids, self.append_ms, base_offset=base_offset, voids=self._voids)

    def _apply_queue_change(self, change: QueueChange, append_ms: int) -> Outcome:
        if isinstance(change, Cancel):
            return self._cancel(change, append_ms)
        if isinstance(change, RewindFloor):
            return self._raise_rewind_floor(change)
        if isinstance(change, MoveIn) and change.is_refused:
            return self._refuse_move_in(change)
        if isinstance(change, ForgetSource):
            self.inbox.forget(change.source)
        return Prepared()

    def _apply_change(self, change: Change, name: LeaseId, append_ms: int) -> Outcome:
        """Apply one change; `name` is that of the lease or burial it makes, and carries the entry's index."""
        if isinstance(change, QueueChange):
            return self._apply_queue_change(change, append_ms)
        if isinstance(change, CreateGroup):
            return self._create_group(change, append_ms)
        group = self._groups.get(change.group)
        if group is None:
            return Nothing(Misfit.NO_GROUP, f"consumer group {change.group!r} does not exist")
        match change:
            case Lease():
                return group.lease(change, lease=name, append_ms=append_ms, next_offset=self.next_offset)
            case Ack():
                return group.ack(change.lease, change.ranges, log_start=self.log_start_offset)
            case Nack():
                return group.nack(change, append_ms=append_ms, log_start=self.log_start_offset)
            case Extend():
                return group.extend(change, append_ms=append_ms, log_start=self.log_start_offset)
            case Release():
                return group.release(change.lease)
            case Expire():
                return group.expire(change.ranges, append_ms=append_ms)
            case Bury():
                return group.bury(change, burial=name, append_ms=append_ms, log_start=self.log_start_offset)
            case BuryExpired():
                return group.bury_expired(change.ranges, burial=name, append_ms=append_ms)
            case BuryOld():
                return group.bury_old(change.end_offset, burial=name, append_ms=append_ms, next_offset=self.next_offset)
            case Revive():
                return group.revive(change.ranges, append_ms=append_ms, schedule=self._schedule)
            case Pause():
                return group.put_pause(change, append_ms=append_ms)
            case Resume():
                return group.resume()
            case Purge():
                return group.purge(change, index=name >> 16, next_offset=self.next_offset)
            case MoveOut():
                return self._move_out(group, change, number=name, append_ms=append_ms)
            case Moved():
                return self._end_move(group, change)
            case Rewind():
                return group.rewind(
                    change,
                    index=name >> 16,
                    append_ms=append_ms,
                    log_start=max(self.log_start_offset, self.rewind_floor),
                    next_offset=self.next_offset,
                    voids=self._voids,
                    schedule=self._schedule,
                )
            case SkipTo():
                return group.skip_to(
                    change, index=name >> 16, log_start=self.log_start_offset, next_offset=self.next_offset
                )
            case DeleteGroup():
                return self._delete_group(change)
            case _:
                assert_never(change)

    def _raise_rewind_floor(self, change: RewindFloor) -> RewindFloorMoved | Nothing:
        if not self.rewind_floor < change.start_offset <= self.next_offset:
            return Nothing(
                Misfit.OLD_FLOOR,
                f"rewind floor {change.start_offset} is not above {self.rewind_floor}, up to {self.next_offset}",
            )
        self.rewind_floor = Offset(change.start_offset)
        return RewindFloorMoved(self.rewind_floor)

    def _move_out(self, group: ConsumerGroup, change: MoveOut, *, number: int, append_ms: int) -> MovingOut | Nothing:
        if len(self.outbox) >= MAX_OWED:
            return Nothing(Misfit.OUTBOX_FULL, f"{len(self.outbox)} moves are under way; the most is {MAX_OWED}")
        count = group.move_out(change.ranges, append_ms=append_ms, next_offset=self.next_offset)
        if isinstance(count, Nothing):
            return count
        self.outbox.add(Owed(number, change.target, group.name, change.ranges))
        return MovingOut(group.name, change.target, number, count)

    def _end_move(self, group: ConsumerGroup, change: Moved) -> MoveEnded | Nothing:
        row = self.outbox.head(change.target)
        if row is None or (row.number, row.group) != (change.number, group.name):
            return Nothing(Misfit.STALE, f"number {change.number} is not what is owed to group {change.target} next")
        self.outbox.remove(row.number)
        count = group.end_move(row.ranges, number=row.number, refused=change.is_refused)
        return MoveEnded(group.name, change.target, change.number, count, change.is_refused)

    def _refuse_move_in(self, change: MoveIn) -> Prepared | Nothing:
        misfit = self._move_in_fault(change)
        if misfit is not None:
            return Nothing(misfit, f"number {change.number} of group {change.source} is not the next")
        self.inbox.refuse(change.source, change.number)
        return Prepared()

    def _move_in_fault(self, move: MoveIn) -> Misfit | None:
        if self.inbox.has(move.source, move.number):
            return Misfit.DUPLICATE
        return Misfit.INBOX_FULL if self.inbox.is_full_for(move.source) else None

    def _create_group(self, change: CreateGroup, append_ms: int) -> GroupCreated | Nothing:
        if change.group in self._groups:
            return Nothing(Misfit.GROUP_EXISTS, f"consumer group {change.group!r} exists")
        if len(self._groups) >= MAX_GROUPS:
            return Nothing(
                Misfit.GROUP_LIMIT, f"there are {len(self._groups)} consumer groups; the most is {MAX_GROUPS}"
            )
        start = min(max(change.start_offset, self.log_start_offset), self.next_offset)
        group = ConsumerGroup.new(change.group, start)
        kept = [acked(first, end) for first, end in self._voids.overlap(start, self.next_offset)]
        kept += self._schedule.overlap(start, self.next_offset, after_ms=append_ms)
        group.begin(kept)
        self._set_groups({**self._groups, change.group: group})
        return GroupCreated(change.group, Offset(start))

    def _cancel(self, change: Cancel, append_ms: int) -> Cancelled:
        for run in list(self.scheduled(change.ranges, append_ms)):
            self._schedule.remove(run.start, run.end)
            self._void_range(run.start, run.end)
        return self.cancelled(change.ranges)

    def scheduled(self, ranges: Ranges, after_ms: int) -> Iterator[Run]:
        """Yield what of the ranges is due after `after_ms` and can be cancelled: no group has moved it."""
        for start, end in ranges:
            for run in self._schedule.overlap(start, end, after_ms=after_ms):
                yield from self._not_moved(run)

    def _not_moved(self, run: Run) -> list[Run]:
        """What of a run no group has moved, or has on its way: that is out of reach."""
        left = [run]
        for group in self._groups.values():
            left = [part for piece in left for part in group.not_moved(piece)]
        return left

    def cancelled(self, ranges: Ranges) -> Cancelled:
        """Say what of the ranges is never delivered."""
        count = sum(self._voids.count(start, end) for start, end in ranges)
        return Cancelled(count, sum(end - start for start, end in ranges) - count)

    def _delete_group(self, change: DeleteGroup) -> GroupDeleted | Nothing:
        if change.group == DEFAULT_GROUP:
            return Nothing(Misfit.DEFAULT_GROUP, f"consumer group {DEFAULT_GROUP!r} always exists")
        self._set_groups({name: group for name, group in self._groups.items() if name != change.group})
        self.outbox.drop_group(change.group)
        return GroupDeleted(change.group)

    def _set_groups(self, groups: dict[GroupName, ConsumerGroup]) -> None:
        self._groups = {name: groups[name] for name in sorted(groups)}
        self._names = tuple(self._groups)

    def _apply_floor(self, floor: Floor, index: Index) -> FloorMoved | Nothing:
        start = floor.start_offset
        fault = self.floor_fault(floor, index)
        if fault is not None:
            return Nothing(Misfit.OLD_FLOOR, fault)
        self.log_start_offset = Offset(start)
        self.log_start_index = Index(floor.start_index)
        self._voids.drop_below(start)
        self._schedule.drop_below(start)
        self.outbox.drop_below(start)
        expired = tuple([(name, group.drop_below(start)) for name, group in self._groups.items()])
        return FloorMoved(self.log_start_offset, self.log_start_index, expired)

    def floor_fault(self, floor: Floor, index: Index) -> str | None:
        """Say why the log start may not become `floor` by the entry at `index`, or None if it may."""
        if not self.log_start_offset <= floor.start_offset <= self.next_offset:
            return f"log start offset {floor.start_offset} is not in [{self.log_start_offset}, {self.next_offset}]"
        if not self.log_start_index <= floor.start_index <= index:
            return f"log start index {floor.start_index} is not in [{self.log_start_index}, {index}]"
        return None

    def _woken_by(self, changes: tuple[Change, ...], outcomes: tuple[Outcome, ...]) -> tuple[GroupName, ...]:
        """Name each group once in which these changes may have made something available."""
        woken: dict[GroupName, None] = {}
        for change, outcome in zip(changes, outcomes, strict=True):
            if isinstance(
                change, (Expire, Nack, Release, Resume, Revive, Rewind, CreateGroup, Moved)
            ) and not isinstance(outcome, Nothing):
                woken[change.group] = None
        return tuple(woken)


def _header_fault(header: BatchHeader, entry: Entry) -> str | None:
    """Say where a batch contradicts its entry or itself, or None."""
    count = entry.next_offset - entry.base_offset
    if header.base_offset != entry.base_offset:
        return f"batch states base offset {header.base_offset}, entry {entry.base_offset}"
    if not header.record_count == header.last_offset_delta + 1 == count:
        return f"batch states {header.record_count} records up to {header.last_offset_delta}, entry {count}"
    sequenced = header.producer_epoch >= 0 and header.base_sequence >= 0
    if header.producer_id != NO_PRODUCER and (header.producer_id < 0 or not sequenced):
        return f"producer {header.producer_id} has epoch {header.producer_epoch}, sequence {header.base_sequence}"
    return None
