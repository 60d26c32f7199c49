"""One consumer group of one partition, and its transitions.

Each transition checks everything before it changes anything, so a change that does not fit records nothing. The same
checks serve the leader that decides and the replica that applies; only `apply` of the machine calls what changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.ids import GroupName, LeaseId, Offset
from logbroker.partition.leases import LeaseRecord, LeaseTable
from logbroker.partition.outcomes import (
    Buried,
    Expired,
    Leased,
    LeasedRange,
    Misfit,
    Nothing,
    Paused,
    Purged,
    Released,
    Resumed,
    Revived,
    Rewound,
    Settled,
    Skipped,
)
from logbroker.partition.pause import PauseRecord
from logbroker.partition.rewind import FIRST_PURGE_ID, RewindHistory, RewindRecord, purged, rewound, skipped
from logbroker.partition.runs import (
    NO_LEASE,
    Run,
    RunState,
    RunTable,
    acked,
    cut,
    fresh,
    is_movable,
    moved,
    moving,
    unmoved,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.partition.commands import Bury, Extend, Lease, Nack, Pause, Purge, Ranges, Rewind, SkipTo
    from logbroker.partition.offset_ranges import OffsetRanges
    from logbroker.partition.outcomes import Range
    from logbroker.partition.schedule import Schedule

_AVAILABLE = RunState.AVAILABLE
_LEASED = RunState.LEASED
_DELAYED = RunState.DELAYED
_ACKED = RunState.ACKED
_DEAD = RunState.DEAD
_MOVING = RunState.MOVING
# What a purge leaves as it is, what a rewind and a skip do, and what counts as lag.
_MOVED = frozenset((RunState.MOVING, RunState.MOVED))
_KEPT = _MOVED | {RunState.DEAD}
_UNSETTLED = frozenset((RunState.AVAILABLE, RunState.LEASED, RunState.DELAYED))


@final
@dataclass(frozen=True, slots=True)
class GroupStatus:
    """Counts of messages of one group in one partition.

    `lag_count` are the unsettled ones: available, leased and delayed. `acked_ahead_count`, `dead_count` (those on their
    way too) and `moved_count` lie above the floor. `oldest_unsettled_offset` is next_offset when all is settled.
    """

    group: GroupName
    floor: Offset
    available_count: int
    leased_count: int
    delayed_count: int
    acked_ahead_count: int
    dead_count: int
    lag_count: int
    oldest_unsettled_offset: Offset
    run_count: int
    lease_count: int
    moved_count: int = 0


@final
@dataclass(slots=True)
class Selection:
    """Ranges sorted out by what one lease may do to them.

    `held` are the pieces of runs that the lease holds, in lists of neighbours.
    """

    held: list[list[Run]] = field(default_factory=list)
    count: int = 0
    already: list[Range] = field(default_factory=list)
    expired: list[Range] = field(default_factory=list)
    stale: list[Range] = field(default_factory=list)


@final
class ConsumerGroup:
    """A name, the run table, the current leases, the remembered rewinds, and the pause if there is one."""

    __slots__ = ("leases", "name", "pause", "rewinds", "table")

    def __init__(
        self,
        name: GroupName,
        table: RunTable,
        leases: LeaseTable,
        rewinds: RewindHistory,
        pause: PauseRecord | None = None,
    ) -> None:
        self.name = name
        self.table = table
        self.leases = leases
        self.rewinds = rewinds
        # One that is over may stand here until the next lease.
        self.pause = pause

    @classmethod
    def new(cls, name: GroupName, start_offset: int) -> ConsumerGroup:
        return cls(name, RunTable(start_offset), LeaseTable(), RewindHistory())

    def clone(self, *, for_reading: bool = False) -> ConsumerGroup:
        table = self.table.clone(for_reading=for_reading)
        return ConsumerGroup(self.name, table, self.leases.clone(), self.rewinds.clone(), self.pause)

    def pause_at(self, log_ms: int) -> PauseRecord | None:
        """Return the pause that holds at that log time, or None."""
        return self.pause if self.pause is not None and self.pause.holds_at(log_ms) else None

    def status(self, next_offset: int) -> GroupStatus:
        table = self.table
        beyond = next_offset - table.frontier
        available = table.count(_AVAILABLE) + beyond
        leased, delayed = table.count(_LEASED), table.count(_DELAYED)
        return GroupStatus(
            group=self.name,
            floor=Offset(table.floor),
            available_count=available,
            leased_count=leased,
            delayed_count=delayed,
            acked_ahead_count=table.count(_ACKED),
            dead_count=table.count(_DEAD) + table.count(_MOVING),
            lag_count=available + leased + delayed,
            oldest_unsettled_offset=self._oldest_unsettled(),
            run_count=len(table),
            lease_count=len(self.leases),
            moved_count=table.count(RunState.MOVED),
        )

    def unsettled_count(self, next_offset: int) -> int:
        """Messages that are available, leased or delayed."""
        table = self.table
        return next_offset - table.frontier + sum([table.count(state) for state in _UNSETTLED])

    def end_of_unsettled(self, count: int) -> int:
        """Where the first `count` unsettled messages end; there are so many."""
        for run in self.table.runs():
            if run.state in _UNSETTLED:
                if count <= run.end - run.start:
                    return run.start + count
                count -= run.end - run.start
        return self.table.frontier + count

    def holdings(self, lease: int) -> tuple[LeasedRange, ...]:
        """Return what a lease holds, in offset order; nothing if it is not current."""
        record = self.leases.get(lease)
        if record is None:
            return ()
        return tuple(
            _leased_range(run)
            for start, end in record.ranges
            for run in self.table.overlap(start, end)
            if run.lease == lease
        )

    def lease(self, change: Lease, *, lease: LeaseId, append_ms: int, next_offset: int) -> Leased | Nothing:
        """Hand out all of the ranges, or nothing if any message in them may not be leased at `append_ms`."""
        paused = self.pause_at(append_ms)
        if paused is not None:
            return Nothing(Misfit.PAUSED, f"group {self.name!r} is paused until {paused.until_ms or 'it is resumed'}")
        if change.visible_at_ms <= append_ms:
            return Nothing(Misfit.NOT_AVAILABLE, f"lease until {change.visible_at_ms} is over at {append_ms}")
        if self.leases.find(change.session, change.request_id) is not None:
            return Nothing(Misfit.REQUEST_IN_USE, f"request {change.request_id} of the session holds a lease")
        if change.ranges[-1][1] > next_offset:
            return Nothing(Misfit.BEYOND_LOG_END, f"range up to {change.ranges[-1][1]} ends beyond {next_offset}")
        taken: list[list[Run]] = []
        for start, end in change.ranges:
            pieces: list[Run] = []
            for run in self.table.overlap(start, end):
                due = run.state is _AVAILABLE or (run.state is _DELAYED and run.visible_at_ms <= append_ms)
                if not due:
                    state = run.state.name.lower()
                    return Nothing(Misfit.NOT_AVAILABLE, f"offsets [{run.start}, {run.end}) are {state}")
                pieces.append(
                    Run(run.start, run.end, _LEASED, run.deliveries + 1, change.visible_at_ms, lease, append_ms)
                )
            taken.append(pieces)
        self.pause = None
        for pieces in taken:
            self.table.put(pieces)
        held = sum(end - start for start, end in change.ranges)
        self.leases.add(LeaseRecord(lease, change.ranges, held, change.consumer, change.session, change.request_id))
        ranges = tuple(_leased_range(run) for pieces in taken for run in pieces)
        return Leased(self.name, lease, ranges, change.visible_at_ms)

    def select(self, lease: int, ranges: Ranges, *, log_start: int) -> Selection:
        """Sort out what the lease may settle in `ranges`; changes nothing."""
        chosen = Selection()
        for start, end in ranges:
            if start < log_start:
                _add_range(chosen.expired, start, min(end, log_start))
                if end <= log_start:
                    continue
                start = log_start
            for run in self.table.overlap(start, end):
                if run.lease == lease and run.state is _LEASED:
                    _add_piece(chosen.held, run)
                    chosen.count += run.end - run.start
                elif run.state is _ACKED:
                    _add_range(chosen.already, run.start, run.end)
                else:
                    _add_range(chosen.stale, run.start, run.end)
        return chosen

    def settled(self, lease: int, chosen: Selection) -> Settled:
        """Put a selection into the words of a reply."""
        lease_index = lease >> 16
        taken_back = any(self.rewinds.took(end - 1, lease_index=lease_index) for _, end in chosen.stale)
        return Settled(
            self.name,
            LeaseId(lease),
            chosen.count,
            tuple(chosen.already),
            tuple(chosen.expired),
            tuple(chosen.stale),
            taken_back,
        )

    def ack(self, lease: int, ranges: Ranges, *, log_start: int) -> Settled:
        """Ack what the lease holds of `ranges`, however late, as long as it is current."""
        chosen = self.select(lease, ranges, log_start=log_start)
        for pieces in chosen.held:
            self.table.put([acked(pieces[0].start, pieces[-1].end)])
        self._take(lease, chosen.count)
        return self.settled(lease, chosen)

    def nack(self, change: Nack, *, append_ms: int, log_start: int) -> Settled:
        """Give back what the lease holds of the ranges, at once or later; the delivery counts as a failed one."""
        chosen = self.select(change.lease, change.ranges, log_start=log_start)
        later = change.visible_at_ms > append_ms
        for pieces in chosen.held:
            if later:
                at = change.visible_at_ms
                self.table.put([Run(run.start, run.end, _DELAYED, run.deliveries, at) for run in pieces])
            else:
                self.table.put([_returned(run) for run in pieces])
        self._take(change.lease, chosen.count)
        return self.settled(change.lease, chosen)

    def bury(self, change: Bury, *, burial: LeaseId, append_ms: int, log_start: int) -> Settled:
        """Give up what the lease holds of the ranges; `burial` is the name of this change."""
        chosen = self.select(change.lease, change.ranges, log_start=log_start)
        for pieces in chosen.held:
            self.table.put([_buried(run, burial, append_ms) for run in pieces])
        self._take(change.lease, chosen.count)
        return self.settled(change.lease, chosen)

    def extend(self, change: Extend, *, append_ms: int, log_start: int) -> Settled | Nothing:
        """Give what the lease holds of the ranges a new deadline."""
        if change.visible_at_ms <= append_ms:
            return Nothing(Misfit.NOT_AVAILABLE, f"lease until {change.visible_at_ms} is over at {append_ms}")
        chosen = self.select(change.lease, change.ranges, log_start=log_start)
        at = change.visible_at_ms
        for pieces in chosen.held:
            self.table.put(
                [Run(run.start, run.end, _LEASED, run.deliveries, at, run.lease, run.first_leased_ms) for run in pieces]
            )
        return self.settled(change.lease, chosen)

    def release(self, lease: int) -> Released | Nothing:
        """Give back all that the lease holds as if it had not been delivered."""
        record = self.leases.get(lease)
        if record is None:
            return Nothing(Misfit.STALE, f"lease {lease} is not current")
        held: list[list[Run]] = []
        for start, end in record.ranges:
            for run in self.table.overlap(start, end):
                if run.lease == lease:
                    _add_piece(held, run)
        for pieces in held:
            self.table.put([Run(run.start, run.end, _AVAILABLE, run.deliveries - 1) for run in pieces])
        self._take(lease, record.held)
        return Released(self.name, LeaseId(lease), record.held)

    def expire(self, ranges: Ranges, *, append_ms: int) -> Expired | Nothing:
        """End the leases of all of the ranges, or of none if one is not past its deadline at `append_ms`."""
        ended = self._run_out(ranges, append_ms)
        if isinstance(ended, Nothing):
            return ended
        count = 0
        for pieces in ended:
            self.table.put([_returned(run) for run in pieces])
            count += self._revoke(pieces)
        return Expired(self.name, count)

    def bury_expired(self, ranges: Ranges, *, burial: LeaseId, append_ms: int) -> Buried | Nothing:
        """Give up all of the ranges, or nothing if one is not past its deadline at `append_ms`."""
        ended = self._run_out(ranges, append_ms)
        if isinstance(ended, Nothing):
            return ended
        count = 0
        for pieces in ended:
            self.table.put([_buried(run, burial, append_ms) for run in pieces])
            count += self._revoke(pieces)
        return Buried(self.name, count)

    def bury_old(self, end: int, *, burial: LeaseId, append_ms: int, next_offset: int) -> Buried | Nothing:
        """Give up all below `end` that nobody holds and nobody has settled."""
        if end > next_offset:
            return Nothing(Misfit.BEYOND_LOG_END, f"what is old would end at {end}, beyond {next_offset}")
        old: list[list[Run]] = []
        for run in self.table.idle(end):
            _add_piece(old, run)
        if not old:
            return Nothing(Misfit.NOT_AVAILABLE, f"nothing below {end} is available or delayed")
        for pieces in old:
            self.table.put([_buried(run, burial, append_ms) for run in pieces])
        return Buried(self.name, sum(pieces[-1].end - pieces[0].start for pieces in old), is_old=True)

    def revive(self, ranges: Ranges, *, append_ms: int, schedule: Schedule) -> Revived:
        """Make what is dead of the ranges available with a delivery count of 0, or have it wait until it is due."""
        dead = [run for start, end in ranges for run in self.table.dead(start, end)]
        for run in dead:
            waiting = list(schedule.overlap(run.start, run.end, after_ms=append_ms))
            self.table.put(_filled(waiting, run.start, run.end))
        return Revived(self.name, sum(run.end - run.start for run in dead))

    def put_pause(self, change: Pause, *, append_ms: int) -> Paused | Nothing:
        """Lease nothing from here on; of two pauses the later one counts."""
        if 0 < change.until_ms <= append_ms:
            return Nothing(Misfit.STALE, f"pause until {change.until_ms} is over at {append_ms}")
        self.pause = PauseRecord(change.reason, append_ms, change.until_ms)
        return Paused(self.name, change.until_ms)

    def resume(self) -> Resumed:
        self.pause = None
        return Resumed(self.name)

    def move_out(self, ranges: Ranges, *, append_ms: int, next_offset: int) -> int | Nothing:
        """Have all of the ranges on their way, or none if one is neither available nor dead; return the count."""
        if ranges[-1][1] > next_offset:
            return Nothing(Misfit.BEYOND_LOG_END, f"range up to {ranges[-1][1]} ends beyond {next_offset}")
        found: list[list[Run]] = []
        for start, end in ranges:
            pieces = self.table.overlap(start, end)
            for run in pieces:
                if not is_movable(run, append_ms):
                    state = run.state.name.lower()
                    return Nothing(Misfit.NOT_AVAILABLE, f"offsets [{run.start}, {run.end}) are {state}")
            found.append([moving(run) for run in pieces])
        for pieces in found:
            self.table.put(pieces)
        return sum(end - start for start, end in ranges)

    def end_move(self, ranges: Ranges, *, number: int, refused: bool) -> int:
        """What of the ranges is on its way has arrived, or is as it was before; return the count."""
        count = 0
        for start, end in ranges:
            for run in self.table.overlap(start, end):
                if run.state is _MOVING:
                    self.table.put(self._given_back(run, number >> 16) if refused else [moved(run.start, run.end)])
                    count += run.end - run.start
        return count

    def _given_back(self, run: Run, index: int) -> list[Run]:
        """A moving run as it was before; acked where a purge or a skip has passed it since the entry at `index`."""
        back = unmoved(run)
        passed = 0
        for record in self.rewinds.records():
            if record.index <= index:
                continue
            if not record.is_skip:
                passed = min(passed, record.start_offset)
            elif record.is_purge or back.state is _AVAILABLE:
                passed = max(passed, record.start_offset)
        end = min(max(passed, run.start), run.end)
        pieces = [acked(run.start, end)] if run.start < end else []
        return [*pieces, cut(back, end, run.end)] if end < run.end else pieces

    def rewind(
        self,
        change: Rewind,
        *,
        index: int,
        append_ms: int,
        log_start: int,
        next_offset: int,
        voids: OffsetRanges,
        schedule: Schedule,
    ) -> Rewound | Nothing:
        """Make everything from the start on available with a delivery count of 0, but what is delayed, dead or moved.

        The start is clamped, never refused: the operation was decided for all partitions before it came here.
        """
        known = self.remembered(change.rewind_id, is_skip=False)
        if known is not None:
            return known if isinstance(known, Nothing) else rewound(known, self.name, repeated=True)
        table = self.table
        start = min(max(change.start_offset, log_start), next_offset)
        reopened = max(0, table.floor - start) - voids.count(start, table.floor)
        revoked = delayed = 0
        kept = [acked(first, end) for first, end in voids.overlap(start, table.frontier)]
        # What was skipped before it was due goes back to waiting for that.
        waiting = [
            cut(run, piece.start, piece.end)
            for run in schedule.overlap(start, table.frontier, after_ms=append_ms)
            for piece in table.overlap(run.start, run.end)
            if piece.state is _ACKED
        ]
        postponed = sum([run.end - run.start for run in waiting])
        kept += waiting
        leased: list[Run] = []
        for run in table.overlap(max(start, table.floor), table.frontier):
            count = run.end - run.start
            if run.state is _LEASED:
                leased.append(run)
                revoked += count
            elif run.state is _ACKED:
                reopened += count - voids.count(run.start, run.end)
            elif run.state in _KEPT:
                kept.append(run)
            elif run.state is _DELAYED and run.visible_at_ms > append_ms:
                kept.append(Run(run.start, run.end, _DELAYED, 0, run.visible_at_ms))
                delayed += count
        if start < table.frontier:
            pieces = _filled(sorted(kept, key=_start_of), start, table.frontier)
            table.lower_floor(start)
            table.put(pieces)
        self._revoke(leased)
        counts = (reopened - postponed, revoked, delayed + postponed)
        record = RewindRecord(
            change.rewind_id,
            index,
            False,
            change.requested,
            start,
            next_offset,
            start != change.start_offset,
            counts,
        )
        self.rewinds.add(record)
        return rewound(record, self.name, repeated=False)

    def skip_to(self, change: SkipTo, *, index: int, log_start: int, next_offset: int) -> Skipped | Nothing:
        """Ack everything below the target but what is dead or moved; leases below it end."""
        known = self.remembered(change.rewind_id, is_skip=True)
        if known is not None:
            return known if isinstance(known, Nothing) else skipped(known, self.name, repeated=True)
        start = min(max(change.start_offset, log_start), next_offset)
        passed = self.table.overlap(self.table.floor, start)
        if passed:
            self.table.put([run if run.state in _KEPT else acked(run.start, run.end) for run in passed])
        revoked = self._revoke(run for run in passed if run.state is _LEASED)
        record = RewindRecord(
            change.rewind_id,
            index,
            True,
            change.requested,
            start,
            next_offset,
            start != change.start_offset,
            (_unsettled_count(passed), revoked, 0),
        )
        self.rewinds.add(record)
        return skipped(record, self.name, repeated=False)

    def purge(self, change: Purge, *, index: int, next_offset: int) -> Purged | Nothing:
        """Ack everything below the end, the dead too, but nothing that is moved; leases below it end."""
        known = self.remembered_purge(change.rewind_id)
        if known is not None:
            return known if isinstance(known, Nothing) else purged(known, self.name, repeated=True)
        end = min(change.end_offset, next_offset)
        passed = self.table.overlap(self.table.floor, end)
        if passed:
            self.table.put([run if run.state in _MOVED else acked(run.start, run.end) for run in passed])
        revoked = self._revoke(run for run in passed if run.state is _LEASED)
        dead = sum(run.end - run.start for run in passed if run.state is _DEAD)
        record = RewindRecord(
            change.rewind_id,
            index,
            True,
            change.requested,
            end,
            next_offset,
            end != change.end_offset,
            (_unsettled_count(passed) + dead, revoked, dead),
        )
        self.rewinds.add(record)
        return purged(record, self.name, repeated=False)

    def remembered_purge(self, rewind_id: int) -> RewindRecord | Nothing | None:
        """As `remembered`, of a purge."""
        if rewind_id < FIRST_PURGE_ID:
            return Nothing(Misfit.OLD_REWIND, f"id {rewind_id} is below {FIRST_PURGE_ID}, the first of a purge")
        return self.rewinds.find(rewind_id)

    def remembered(self, rewind_id: int, *, is_skip: bool) -> RewindRecord | Nothing | None:
        """Return what an operation with this id did before, or why it may not be done, or None if it may."""
        if rewind_id >= FIRST_PURGE_ID:
            return Nothing(Misfit.OLD_REWIND, f"id {rewind_id} is not below {FIRST_PURGE_ID}, the first of a purge")
        record = self.rewinds.find(rewind_id)
        if record is None:
            if rewind_id > self.rewinds.forgotten_id:
                return None
            return Nothing(
                Misfit.OLD_REWIND, f"id {rewind_id} is not above {self.rewinds.forgotten_id}, a forgotten one"
            )
        if record.is_skip is not is_skip:
            return Nothing(Misfit.OLD_REWIND, f"id {rewind_id} belongs to a {'skip' if record.is_skip else 'rewind'}")
        return record

    def drop_below(self, start: int) -> int:
        """Forget all below a new log start; return how many messages were unsettled there."""
        dropped = self.table.drop_below(start)
        self._revoke(run for run in dropped if run.state is _LEASED)
        # What was available before it was on its way elsewhere is settled by neither.
        leaving = sum([run.end - run.start for run in dropped if run.state is _MOVING and run.lease == NO_LEASE])
        return _unsettled_count(dropped) + leaving

    def not_moved(self, run: Run) -> list[Run]:
        """The parts of a run that are neither moved here nor on their way."""
        if not any(self.table.count(state) for state in _MOVED):
            return [run]
        pieces = self.table.overlap(run.start, run.end)
        return [cut(run, piece.start, piece.end) for piece in pieces if piece.state not in _MOVED]

    def void(self, start: int, end: int) -> None:
        """Count messages that nobody holds, and nobody ever gets, as acked."""
        start = max(start, self.table.floor)
        if start < end:
            self.table.put([acked(start, end)])

    def delay(self, run: Run) -> None:
        """Take messages at the log end that are delayed."""
        self.table.put([run])

    def begin(self, kept: list[Run]) -> None:
        """Take the messages of a log that are not fresh, in a group that has seen nothing yet."""
        if kept:
            kept.sort(key=_start_of)
            self.table.put(_filled(kept, kept[0].start, kept[-1].end))

    def _run_out(self, ranges: Ranges, append_ms: int) -> list[list[Run]] | Nothing:
        """Return the runs of all of the ranges in lists of neighbours, or what speaks against ending their leases."""
        ended: list[list[Run]] = []
        for start, end in ranges:
            for run in self.table.overlap(start, end):
                if run.state is not _LEASED or run.visible_at_ms > append_ms:
                    state = f"{run.state.name.lower()} until {run.visible_at_ms}"
                    return Nothing(Misfit.NOT_DUE, f"offsets [{run.start}, {run.end}) are {state} at {append_ms}")
                _add_piece(ended, run)
        return ended

    def _take(self, lease: int, count: int) -> None:
        if count:
            self.leases.reduce(lease, count)

    def _revoke(self, runs: Iterable[Run]) -> int:
        """Take leased runs from their leases; return how many messages that were."""
        lost: dict[int, int] = {}
        for run in runs:
            lost[run.lease] = lost.get(run.lease, 0) + run.end - run.start
        for lease, count in lost.items():
            self.leases.reduce(lease, count)
        return sum(lost.values())

    def _oldest_unsettled(self) -> Offset:
        for run in self.table.runs():
            if run.state in _UNSETTLED:
                return Offset(run.start)
        return Offset(self.table.frontier)


def _start_of(run: Run) -> int:
    return run.start


def _leased_range(run: Run) -> LeasedRange:
    return LeasedRange(Offset(run.start), Offset(run.end), run.deliveries, run.visible_at_ms)


def _returned(run: Run) -> Run:
    """A run whose delivery failed."""
    return Run(run.start, run.end, _AVAILABLE, run.deliveries)


def _buried(run: Run, burial: LeaseId, append_ms: int) -> Run:
    return Run(run.start, run.end, _DEAD, run.deliveries, 0, burial, append_ms)


def _add_range(ranges: list[Range], start: int, end: int) -> None:
    """Append a range, or lengthen the last one that it touches."""
    if ranges and ranges[-1][1] == start:
        ranges[-1] = (ranges[-1][0], end)
    else:
        ranges.append((start, end))


def _add_piece(pieces: list[list[Run]], run: Run) -> None:
    """Append a piece to the last list of neighbours, or begin a new list."""
    if pieces and pieces[-1][-1].end == run.start:
        pieces[-1].append(run)
    else:
        pieces.append([run])


def _unsettled_count(runs: Iterable[Run]) -> int:
    return sum(run.end - run.start for run in runs if run.state in _UNSETTLED)


def _filled(kept: list[Run], start: int, end: int) -> list[Run]:
    """Tile [start, end) with the kept runs (sorted, inside it) and fresh ones between them."""
    pieces: list[Run] = []
    for run in kept:
        if start < run.start:
            pieces.append(fresh(start, run.start))
        pieces.append(run)
        start = run.end
    if start < end:
        pieces.append(fresh(start, end))
    return pieces
