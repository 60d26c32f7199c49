"""A naive twin of the partition: a dictionary entry per message, no run, no index, no clever step.

It is written from the rules alone (design section 5, semantics sections 2.4 to 2.6), to be compared with the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Change,
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
    Ranges,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TWELVE_HOURS_MS = 43_200_000
FIRST_PURGE_ID = 1 << 62


@dataclass(frozen=True)
class Message:
    state: str = "available"
    deliveries: int = 0
    visible_at_ms: int = 0
    lease: int = 0
    first_leased_ms: int = 0


FRESH = Message()
ACKED = Message("acked")
SETTLED = ("acked", "dead", "moving", "moved")
KEPT = ("dead", "moving", "moved")
MOVED = Message("moved")


@dataclass
class Group:
    """`messages` has every offset from the log start on."""

    messages: dict[int, Message]
    requests: dict[int, tuple[int, int]] = field(default_factory=dict)
    rewinds: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    pause: tuple[str, int, int] | None = None
    """Reason, since and until; 0 is for ever."""

    def is_paused(self, now_ms: int) -> bool:
        return self.pause is not None and (self.pause[2] == 0 or now_ms < self.pause[2])

    def held(self, lease: int) -> list[int]:
        return [o for o, message in self.messages.items() if message.lease == lease and message.state == "leased"]

    def current(self) -> set[int]:
        return {message.lease for message in self.messages.values() if message.state == "leased"}

    def lease_of(self, session: int, request_id: int) -> int | None:
        for lease in self.current():
            if session and self.requests[lease] == (session, request_id):
                return lease
        return None


@dataclass(frozen=True)
class Ids:
    """What a batch says of the ids of its messages: (id, body) for each, or None for one without."""

    window_ms: int
    max_count: int
    messages: list[tuple[int, int] | None]


@dataclass(frozen=True)
class Known:
    """The first message of an id."""

    name: int
    body: int
    offset: int
    append_ms: int


@dataclass
class Producer:
    epoch: int
    batches: list[tuple[int, int, int]]


def offsets(ranges: Ranges) -> list[int]:
    return [offset for start, end in ranges for offset in range(start, end)]


class Model:
    """What each operation must come to, as plain tuples: a word for the kind, then what the reply must say."""

    def __init__(self) -> None:
        self.groups = {"default": Group({})}
        self.producers: dict[int, Producer] = {}
        self.voids: set[int] = set()
        # When each message that was ever delayed is due, whatever the groups; what is due stays here.
        self.due: dict[int, int] = {}
        # What is owed by number: target, group and what each message was before, which retention shortens.
        self.owed: dict[int, tuple[int, str, dict[int, Message]]] = {}
        # Of what is owed, by group and offset: what a purge or a skip has passed meanwhile.
        self.passed: set[tuple[str, int]] = set()
        # What others owed, by source: the highest number, and whether it was taken.
        self.taken: dict[int, tuple[int, bool]] = {}
        # Oldest first.
        self.known: list[Known] = []
        self.next_offset = 0
        self.log_start = 0
        self.rewind_floor = 0
        self.now_ms = 0

    def produce(
        self, producer: tuple[int, int, int] | None, count: int, due_ms: int = 0, ids: Ids | None = None
    ) -> tuple[object, ...]:
        """Append `count` records of (producer id, epoch, sequence), voided where the sequence does not fit."""
        base = self.next_offset
        verdict = self.judge(producer, count)
        self.next_offset += count
        first = FRESH if verdict == "fits" else ACKED
        if verdict == "fits" and due_ms > self.now_ms:
            first = Message("delayed", 0, due_ms)
            self.due |= dict.fromkeys(range(base, base + count), due_ms)
        for group in self.groups.values():
            group.messages |= dict.fromkeys(range(base, base + count), first)
        if verdict != "fits":
            self.voids |= set(range(base, base + count))
            return ("void", verdict)
        if producer is not None:
            producer_id, epoch, sequence = producer
            known = self.producers.get(producer_id)
            if known is None or known.epoch != epoch:
                known = self.producers[producer_id] = Producer(epoch, [])
            known.batches = [*known.batches, (sequence, sequence + count - 1, base)][-5:]
        duplicates, conflicts = self.remember(ids, base) if ids else ([], [])
        for offset in [base + position for position in [*dict(duplicates), *conflicts]]:
            self.voids.add(offset)
            for group in self.groups.values():
                group.messages[offset] = ACKED
        return ("produced", base, count, first.visible_at_ms, duplicates, conflicts)

    def still_known(self, ids: Ids) -> list[Known]:
        return [known for known in self.known if self.now_ms - known.append_ms < ids.window_ms][-ids.max_count :]

    def remember(self, ids: Ids, base: int) -> tuple[list[tuple[int, int]], list[int]]:
        """Take the ids of a batch at `base`; give (position, first offset) of duplicates, and who conflicts."""
        self.known = self.still_known(ids)
        duplicates: list[tuple[int, int]] = []
        conflicts: list[int] = []
        for position, message in enumerate(ids.messages):
            if message is None:
                continue
            first = next((known for known in self.known if known.name == message[0]), None)
            if first is None:
                self.known = [*self.known, Known(*message, base + position, self.now_ms)][-ids.max_count :]
            elif first.body == message[1] and first.offset not in self.voids:
                duplicates.append((position, first.offset))
            else:
                conflicts.append(position)
        return duplicates, conflicts

    def void(self, count: int) -> tuple[object, ...]:
        """Append what was moved here before, as nobody should."""
        base = self.next_offset
        self.next_offset += count
        for group in self.groups.values():
            group.messages |= dict.fromkeys(range(base, base + count), ACKED)
        self.voids |= set(range(base, base + count))
        return ("void", "duplicate")

    def scheduled(self) -> dict[int, int]:
        """When each message that is not due yet is."""
        return {offset: due for offset, due in self.due.items() if due > self.now_ms and offset not in self.voids}

    def cancellable(self) -> set[int]:
        """Of those, the ones that no group has moved."""
        moved = {
            offset
            for group in self.groups.values()
            for offset, message in group.messages.items()
            if message.state in ("moving", "moved")
        }
        return self.scheduled().keys() - moved

    def judge(self, producer: tuple[int, int, int] | None, count: int) -> object:
        if producer is None:
            return "fits"
        producer_id, epoch, sequence = producer
        if producer_id not in self.producers:
            return "fits" if sequence == 0 else "out_of_order"
        known = self.producers[producer_id]
        if epoch < known.epoch:
            return "fenced"
        if epoch > known.epoch:
            return "fits" if sequence == 0 else "out_of_order"
        if sequence == known.batches[-1][1] + 1:
            return "fits"
        for first, last, base in known.batches:
            if (first, last) == (sequence, sequence + count - 1):
                return ("duplicate", base)
        return "out_of_order"

    def floor(self, start: int) -> dict[str, int]:
        """Move the log start; give what each group had not settled."""
        expired = {}
        for name, group in self.groups.items():
            gone = [group.messages.pop(offset) for offset in range(self.log_start, start)]
            leaving = [before for _, owner, before in self.owed.values() if owner == name]
            expired[name] = sum(message.state not in SETTLED for message in gone) + sum(
                offset < start and message.state != "dead" for before in leaving for offset, message in before.items()
            )
        self.log_start = start
        for number, (target, name, before) in list(self.owed.items()):
            left = {offset: message for offset, message in before.items() if offset >= start}
            self.owed[number] = (target, name, left)
            if not left:
                del self.owed[number]
        self.voids = {offset for offset in self.voids if offset >= start}
        self.due = {offset: due for offset, due in self.due.items() if offset >= start}
        return expired

    def apply(self, change: Change, lease: int) -> tuple[object, ...]:
        if isinstance(change, CreateGroup):
            return self._create(change)
        if isinstance(change, RewindFloor):
            if not self.rewind_floor < change.start_offset <= self.next_offset:
                return ("nothing",)
            self.rewind_floor = change.start_offset
            return ("rewind floor", change.start_offset)
        if isinstance(change, (DeliverAt, Dedupe)):
            return ("prepared",)
        if isinstance(change, Cancel):
            return self._cancel(change)
        if isinstance(change, MoveIn):
            if not change.is_refused:
                return ("prepared",)
            if self.is_settled(change.source, change.number):
                return ("nothing",)
            self.taken[change.source] = (change.number, False)
            return ("prepared",)
        if isinstance(change, ForgetSource):
            self.taken.pop(change.source, None)
            return ("prepared",)
        if change.group not in self.groups:
            return ("nothing",)
        group = self.groups[change.group]
        match change:
            case DeleteGroup():
                if change.group == "default":
                    return ("nothing",)
                del self.groups[change.group]
                self.owed = {number: row for number, row in self.owed.items() if row[1] != change.group}
                return ("deleted",)
            case Lease():
                return self._lease(group, change, lease)
            case Ack():
                return self._settle(group, change.lease, change.ranges, lambda _: ACKED)
            case Nack():
                later = change.visible_at_ms > self.now_ms
                state, at = ("delayed", change.visible_at_ms) if later else ("available", 0)
                return self._settle(
                    group, change.lease, change.ranges, lambda message: Message(state, message.deliveries, at)
                )
            case Extend():
                if change.visible_at_ms <= self.now_ms:
                    return ("nothing",)
                return self._settle(
                    group,
                    change.lease,
                    change.ranges,
                    lambda message: replace(message, visible_at_ms=change.visible_at_ms),
                )
            case Release():
                held = group.held(change.lease)
                for offset in held:
                    group.messages[offset] = Message("available", group.messages[offset].deliveries - 1)
                return ("released", len(held)) if held else ("nothing",)
            case Expire():
                return self._expire(group, change, lambda message: Message("available", message.deliveries))
            case Bury():
                return self._settle(
                    group, change.lease, change.ranges, lambda message: self._buried(message, burial=lease)
                )
            case BuryExpired():
                return self._expire(group, change, lambda message: self._buried(message, burial=lease))
            case BuryOld():
                return self._bury_old(group, change, lease)
            case Revive():
                dead = [o for o in offsets(change.ranges) if o in group.messages and group.messages[o].state == "dead"]
                due = self.scheduled()
                group.messages |= {o: Message("delayed", 0, due[o]) if o in due else FRESH for o in dead}
                return ("revived", len(dead))
            case MoveOut():
                return self._move_out(group, change, lease)
            case Moved():
                return self._end_move(group, change)
            case Rewind() | SkipTo():
                return self._move(group, change)
            case Pause():
                if 0 < change.until_ms <= self.now_ms:
                    return ("nothing",)
                group.pause = (change.reason, self.now_ms, change.until_ms)
                return ("paused", change.until_ms)
            case Resume():
                group.pause = None
                return ("resumed",)
            case Purge():
                return self._purge(group, change)

    def eligible(self, name: str, now_ms: int) -> list[int]:
        """Offsets that a receive must hand out, in order; deadlines count from the next full 100 ms on."""
        past = now_ms - now_ms % 100
        return [
            offset
            for offset, message in sorted(self.groups[name].messages.items())
            if message.state == "available"
            or (message.state in ("leased", "delayed") and message.visible_at_ms <= past)
        ]

    def head(self, target: int) -> int | None:
        """The number that is owed to a target next."""
        return min((number for number, row in self.owed.items() if row[0] == target), default=None)

    def is_settled(self, source: int, number: int) -> bool:
        return self.taken.get(source, (0, True))[0] >= number

    def movable(self, name: str, ranges: Ranges) -> list[int]:
        messages = self.groups[name].messages
        return [o for o in offsets(ranges) if o in messages and self._is_movable(messages[o])]

    def _is_movable(self, message: Message) -> bool:
        is_due = message.state == "delayed" and message.visible_at_ms <= self.now_ms
        return is_due or message.state in ("available", "dead")

    def _move_out(self, group: Group, change: MoveOut, number: int) -> tuple[object, ...]:
        wanted = offsets(change.ranges)
        if self.movable(change.group, change.ranges) != wanted:
            return ("nothing",)
        due = {o: Message("available", m.deliveries) for o, m in group.messages.items() if m.state == "delayed"}
        before = {offset: due.get(offset, group.messages[offset]) for offset in wanted}
        self.passed -= {(change.group, offset) for offset in wanted}
        self.owed[number] = (change.target, change.group, before)
        for offset, message in before.items():
            group.messages[offset] = replace(message, state="moving")
        return ("moving", len(wanted))

    def _end_move(self, group: Group, change: Moved) -> tuple[object, ...]:
        if self.head(change.target) != change.number or self.owed[change.number][1] != change.group:
            return ("nothing",)
        _, name, before = self.owed.pop(change.number)
        back = {offset: ACKED if (name, offset) in self.passed else message for offset, message in before.items()}
        group.messages |= back if change.is_refused else dict.fromkeys(before, MOVED)
        return ("ended", len(before))

    def _create(self, change: CreateGroup) -> tuple[object, ...]:
        if change.group in self.groups:
            return ("nothing",)
        start = min(max(change.start_offset, self.log_start), self.next_offset)
        due = self.scheduled()
        self.groups[change.group] = Group(
            {
                offset: ACKED
                if offset < start or offset in self.voids
                else Message("delayed", 0, due[offset])
                if offset in due
                else FRESH
                for offset in range(self.log_start, self.next_offset)
            }
        )
        return ("created", start)

    def _cancel(self, change: Cancel) -> tuple[object, ...]:
        wanted = offsets(change.ranges)
        for offset in self.cancellable() & set(wanted):
            self.voids.add(offset)
            for group in self.groups.values():
                group.messages[offset] = ACKED
        return self.cancelled(change.ranges)

    def cancelled(self, ranges: Ranges) -> tuple[object, ...]:
        wanted = offsets(ranges)
        count = sum(offset in self.voids for offset in wanted)
        return ("cancelled", count, len(wanted) - count)

    def _lease(self, group: Group, change: Lease, lease: int) -> tuple[object, ...]:
        if group.is_paused(self.now_ms):
            return ("nothing",)
        wanted = offsets(change.ranges)
        for offset in wanted:
            message = group.messages.get(offset)
            due = message is not None and message.state == "delayed" and message.visible_at_ms <= self.now_ms
            if message is None or not (due or message.state == "available"):
                return ("nothing",)
        if change.visible_at_ms <= self.now_ms or group.lease_of(change.session, change.request_id) is not None:
            return ("nothing",)
        for offset in wanted:
            count = group.messages[offset].deliveries + 1
            group.messages[offset] = Message("leased", count, change.visible_at_ms, lease, self.now_ms)
        group.requests[lease] = (change.session, change.request_id)
        group.pause = None
        return ("leased", [(offset, group.messages[offset].deliveries) for offset in wanted])

    def _settle(self, group: Group, lease: int, ranges: Ranges, become: object) -> tuple[object, ...]:
        sorted_out = self.sort_out(group, lease, ranges)
        for offset in sorted_out[0]:
            group.messages[offset] = become(group.messages[offset])  # type: ignore[operator] # one of the lambdas above
        return ("settled", len(sorted_out[0]), *sorted_out[1:])

    def sort_out(self, group: Group, lease: int, ranges: Ranges) -> tuple[list[int], list[int], list[int], list[int]]:
        """Split what is asked for into held, already acked, expired and stale."""
        held: list[int] = []
        already: list[int] = []
        expired: list[int] = []
        stale: list[int] = []
        for offset in offsets(ranges):
            message = group.messages.get(offset)
            if offset < self.log_start:
                expired.append(offset)
            elif message is not None and message.state == "leased" and message.lease == lease:
                held.append(offset)
            elif message is not None and message.state == "acked":
                already.append(offset)
            else:
                stale.append(offset)
        return held, already, expired, stale

    def _buried(self, message: Message, *, burial: int) -> Message:
        return Message("dead", message.deliveries, 0, burial, self.now_ms)

    def _expire(
        self, group: Group, change: Expire | BuryExpired, become: Callable[[Message], Message]
    ) -> tuple[object, ...]:
        wanted = offsets(change.ranges)
        for offset in wanted:
            message = group.messages.get(offset)
            if message is None or message.state != "leased" or message.visible_at_ms > self.now_ms:
                return ("nothing",)
        for offset in wanted:
            group.messages[offset] = become(group.messages[offset])
        return ("expired" if isinstance(change, Expire) else "buried", len(wanted))

    def idle(self, group: Group, end: int) -> list[int]:
        """Offsets below `end` that are available or delayed."""
        states = ("available", "delayed")
        return [
            offset for offset, message in sorted(group.messages.items()) if offset < end and message.state in states
        ]

    def _bury_old(self, group: Group, change: BuryOld, burial: int) -> tuple[object, ...]:
        old = self.idle(group, change.end_offset)
        if change.end_offset > self.next_offset or not old:
            return ("nothing",)
        for offset in old:
            group.messages[offset] = self._buried(group.messages[offset], burial=burial)
        return ("buried", len(old))

    def _move(self, group: Group, change: Rewind | SkipTo) -> tuple[object, ...]:
        kind = type(change).__name__
        if change.rewind_id in group.rewinds:
            done, result = group.rewinds[change.rewind_id]
            return (kind, *result) if done == kind else ("nothing",)
        floor = self.rewind_floor if isinstance(change, Rewind) else 0
        start = min(max(change.start_offset, self.log_start, floor), self.next_offset)
        if isinstance(change, Rewind):
            self.passed -= {(change.group, offset) for offset in range(start, self.next_offset)}
            result = self._rewind(group, start)
        else:
            self._pass(change.group, start, with_dead=False)
            result = self._skip(group, start)
        result = (start, int(start != change.start_offset), *result)
        group.rewinds[change.rewind_id] = (kind, result)
        return (kind, *result)

    def _rewind(self, group: Group, start: int) -> tuple[int, ...]:
        reopened = revoked = delayed = 0
        due = self.scheduled()
        for offset in range(start, self.next_offset):
            message = group.messages[offset]
            if offset in self.voids or message.state in KEPT:
                continue
            if offset in due or (message.state == "delayed" and message.visible_at_ms > self.now_ms):
                delayed += 1
                group.messages[offset] = Message("delayed", 0, due.get(offset, message.visible_at_ms))
                continue
            reopened += message.state == "acked"
            revoked += message.state == "leased"
            group.messages[offset] = FRESH
        return (self.next_offset, reopened, revoked, delayed)

    def _skip(self, group: Group, start: int) -> tuple[int, ...]:
        skipped = revoked = 0
        for offset in range(self.log_start, start):
            message = group.messages[offset]
            if message.state in KEPT:
                continue
            skipped += message.state != "acked"
            revoked += message.state == "leased"
            group.messages[offset] = ACKED
        return (skipped, revoked)

    def _purge(self, group: Group, change: Purge) -> tuple[object, ...]:
        if change.rewind_id < FIRST_PURGE_ID:
            return ("nothing",)
        if change.rewind_id not in group.rewinds:
            end = min(change.end_offset, self.next_offset)
            passed = [o for o in range(self.log_start, end) if group.messages[o].state not in ("moving", "moved")]
            states = [group.messages[offset].state for offset in passed]
            group.messages |= dict.fromkeys(passed, ACKED)
            self._pass(change.group, end, with_dead=True)
            counts = (len(states) - states.count("acked"), states.count("leased"), states.count("dead"))
            group.rewinds[change.rewind_id] = ("Purge", (end, *counts))
        return ("Purge", *group.rewinds[change.rewind_id][1])

    def _pass(self, name: str, end: int, *, with_dead: bool) -> None:
        """Note what of a group is on its way below `end`: it is acked if it is given back."""
        before = [row[2] for row in self.owed.values() if row[1] == name]
        messages = [(offset, message) for row in before for offset, message in row.items() if offset < end]
        self.passed |= {(name, offset) for offset, message in messages if with_dead or message.state != "dead"}
