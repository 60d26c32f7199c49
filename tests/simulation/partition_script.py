"""A partition without a cluster: one log, the real state machine and the model, for tests of the model."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, LeaseId, Offset, Term
from logbroker.partition.commands import Change, CreateGroup, Floor, encode_changes, encode_floor
from logbroker.partition.decide import (
    Propose,
    decide_ack,
    decide_expire,
    decide_extend,
    decide_nack,
    decide_pause,
    decide_purge,
    decide_receive,
    decide_release,
    decide_resume,
    decide_rewind,
    decide_skip_to,
)
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.outcomes import Leased
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.record.batch import encode_values, stamp
from logbroker.storage.entry_codec import seal_entry
from logbroker.testing.model import PartitionModel

if TYPE_CHECKING:
    from logbroker.partition.decide import Decision
    from logbroker.partition.outcomes import Applied

GROUP = GroupId(7)


class PartitionScript:
    """Appends entries as a leader would, and runs each on the state machine and on the model."""

    def __init__(self) -> None:
        self.machine = PartitionMachine.new(GROUP)
        self.model = PartitionModel()
        self.entries: list[Entry] = []
        self.now_ms = 1_000_000
        self.term = Term(1)
        self.steps = 0
        self.leases: list[tuple[GroupName, LeaseId, tuple[tuple[int, int], ...]]] = []

    def append(self, kind: EntryKind, payload: bytes = b"", *, record_count: int = 0) -> Applied:
        entry = seal_entry(
            kind,
            group=GROUP,
            index=Index(len(self.entries) + 1),
            term=self.term,
            base_offset=self.machine.next_offset,
            next_offset=Offset(self.machine.next_offset + record_count),
            append_ms=self.now_ms,
            payload=payload,
        )
        self.entries.append(entry)
        applied = self.machine.apply(entry)
        self.model.apply(entry)
        return applied

    def produce(self, *values: bytes, producer_id: int = -1, base_sequence: int = -1) -> Offset:
        base_offset = self.machine.next_offset
        batch = encode_values(
            values,
            timestamp_ms=self.now_ms,
            producer_id=producer_id,
            producer_epoch=0 if producer_id >= 0 else -1,
            base_sequence=base_sequence,
        )
        self.append(EntryKind.DATA, stamp(batch, base_offset, self.term), record_count=len(values))
        return base_offset

    def change(self, *changes: Change) -> Applied:
        return self.append(EntryKind.STATE, encode_changes(changes))

    def floor(self, offset: int) -> Applied:
        return self.append(EntryKind.FLOOR, encode_floor(Floor(offset, self.machine.log_start_index)))

    def receive(self, *, group: GroupName = DEFAULT_GROUP, max_count: int = 10, hide_ms: int = 5_000) -> Leased | None:
        """Lease what may be leased; None where nothing may."""
        decision = decide_receive(
            self.machine,
            group,
            max_count=max_count,
            hide_ms=hide_ms,
            now_ms=self.now_ms,
            consumer="c",
            session=9,
            request_id=len(self.entries),
        )
        if not isinstance(decision, Propose):
            return None
        outcome = self.change(*decision.changes).outcomes[-1]
        assert isinstance(outcome, Leased)
        return outcome


def run_at_random(script: PartitionScript, random: Random, *, steps: int) -> None:
    """Drive a script through everything that may happen to a partition."""
    leases = script.leases
    for _ in range(steps):
        script.steps += 1
        step = script.steps
        groups = script.machine.groups
        script.now_ms += random.choice((0, 1, 50, 600))
        group = random.choice(groups)
        if step % 12 == 7:
            _pause_at_random(script, Random(step), group, step)
        match random.randrange(12):
            case 0 | 1 | 2:
                script.produce(*(b"%d-%d" % (step, number) for number in range(random.randint(1, 5))))
            case 3 | 4:
                leased = script.receive(group=group, max_count=random.randint(1, 8), hide_ms=random.randint(1000, 4000))
                if leased is not None:
                    ranges = tuple((int(held.start), int(held.end)) for held in leased.ranges)
                    leases.append((group, leased.lease, ranges))
            case 5 | 6 | 7 | 8 if leases:
                _settle_at_random(script, random, *random.choice(leases[-6:]))
            case 9:
                for change in decide_expire(script.machine, now_ms=script.now_ms):
                    script.change(change)
            case 10 if step % 3 == 0:
                _move_at_random(script, random, group, step)
            case _ if step % 40 == 20:
                low, high = script.machine.log_start_offset, script.machine.next_offset
                script.floor(random.randint(low, (low + high) // 2))
            case _ if step % 50 == 1 and len(groups) < 3:
                name = GroupName(f"group-{len(groups)}")
                script.change(CreateGroup(name, random.randint(0, script.machine.next_offset)))
            case _:
                script.append(EntryKind.NOOP)


def _settle_at_random(
    script: PartitionScript, random: Random, group: GroupName, lease: LeaseId, ranges: tuple[tuple[int, int], ...]
) -> None:
    machine, now_ms = script.machine, script.now_ms
    start, end = random.choice(ranges)
    some = random.choice((ranges, ((start, end),), ((start, start + 1),)))
    delay_ms = random.choice((0, 700, 2_000))
    match random.randrange(5):
        case 0 | 1:
            decision = decide_ack(machine, group, lease=lease, ranges=some)
        case 2:
            decision = decide_nack(machine, group, lease=lease, ranges=some, delay_ms=delay_ms, now_ms=now_ms)
        case 3:
            decision = decide_extend(machine, group, lease=lease, ranges=some, hide_ms=2_000, now_ms=now_ms)
        case _:
            decision = decide_release(machine, group, lease=lease)
    if isinstance(decision, Propose):
        script.change(*decision.changes)


def _move_at_random(script: PartitionScript, random: Random, group: GroupName, step: int) -> None:
    start = random.randint(0, script.machine.next_offset + 3)
    if random.random() < 0.7:
        decision = decide_rewind(script.machine, group, rewind_id=step + 1, start_offset=start, requested="test")
    else:
        decision = decide_skip_to(script.machine, group, rewind_id=step + 1, start_offset=start, requested="test")
    if isinstance(decision, Propose):
        script.change(*decision.changes)


def _pause_at_random(script: PartitionScript, random: Random, group: GroupName, step: int) -> None:
    duration_ms = random.choice((0, 1_000, 3_000))
    decision: Decision
    match random.randrange(5):
        case 0 | 1:
            decision = decide_pause(
                script.machine, group, reason=f"{step}", duration_ms=duration_ms, now_ms=script.now_ms
            )
        case 2 | 3:
            decision = decide_resume(script.machine, group)
        case _:
            decision = decide_purge(script.machine, group, purge_id=FIRST_PURGE_ID + step, requested="test")
    if isinstance(decision, Propose):
        script.change(*decision.changes)
