"""The partition against its naive twin: every request decided and applied, and changes that nobody would decide.

After each step every message of every group is compared. At the end the log is applied again from the start, and both
ways must have come to one digest.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logbroker.entry import Entry, EntryKind
from logbroker.errors import StaleLeaseError
from logbroker.ids import GroupId, GroupName, Index, LeaseId, Offset, ReplicaId, Term, lease_id
from logbroker.partition import blocked_map, decide, dedupe, moving, state_form
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Cause,
    Change,
    CreateGroup,
    Dedupe,
    DeleteGroup,
    DeliverAt,
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
    Ranges,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    encode_changes,
    encode_floor,
)
from logbroker.partition.decide import Answer, NothingAvailable, Propose, ProposeBatch, ProposeFloor, Refused
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.outcomes import (
    Buried,
    Cancelled,
    Expired,
    FloorMoved,
    GroupCreated,
    GroupDeleted,
    Leased,
    MoveEnded,
    MovingOut,
    Nothing,
    Outcome,
    Paused,
    Prepared,
    Produced,
    Purged,
    Range,
    Released,
    Resumed,
    Revived,
    RewindFloorMoved,
    Rewound,
    Settled,
    Skipped,
    Void,
)
from logbroker.record.batch import encode_values, read_header, stamp
from logbroker.record.dedup_ids import NO_ID, id_hash
from tests.properties.partition_model import FIRST_PURGE_ID, SETTLED, TWELVE_HOURS_MS, Ids, Message, Model, offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.partition.decide import Decision

GROUP = GroupId(9)
NAMES = st.sampled_from([GroupName("default"), GroupName("default"), GroupName("audit"), GroupName("b")])
SMALL = st.integers(0, 60)
RANGES: st.SearchStrategy[Ranges] = st.lists(
    st.tuples(SMALL, st.integers(1, 8)), min_size=1, max_size=4, unique_by=lambda part: part[0]
).map(lambda parts: _apart(sorted(parts)))
MOVES = st.tuples(st.integers(1, 6), SMALL)
TARGETS = st.sampled_from([GroupId(8), GroupId(10)])


def _apart(parts: list[tuple[int, int]]) -> Ranges:
    ranges: list[Range] = []
    for start, length in parts:
        if not ranges or ranges[-1][1] <= start:
            ranges.append((start, start + length))
    return tuple(ranges)


def batch_of(producer: tuple[int, int, int] | None, count: int) -> bytes:
    producer_id, epoch, sequence = producer or (-1, -1, -1)
    return encode_values(
        [b"v"] * count, timestamp_ms=5, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence
    )


def dedupe_of(ids: Ids) -> Dedupe:
    hashes = b"".join([NO_ID if message is None else id_hash(b"%d" % message[0]) for message in ids.messages])
    bodies = b"".join([b"%8d" % (message or (0, 0))[1] for message in ids.messages])
    return Dedupe(ids.window_ms, ids.max_count, hashes, bodies)


def spread(ranges: Sequence[Range]) -> list[int]:
    return offsets(tuple(ranges))


def plain(outcome: Outcome) -> tuple[object, ...]:
    """Put an outcome into the words of the model."""
    match outcome:
        case Nothing():
            return ("nothing",)
        case Produced():
            verdicts = (list(outcome.duplicates), list(outcome.conflicts))
            return ("produced", outcome.base_offset, outcome.count, outcome.due_ms, *verdicts)
        case Void(duplicate_of=None):
            return ("void", outcome.why.value)
        case Void():
            return ("void", (outcome.why.value, outcome.duplicate_of))
        case Leased():
            messages = [(offset, held.deliveries) for held in outcome.ranges for offset in range(held.start, held.end)]
            return ("leased", messages)
        case Settled():
            return ("settled", outcome.count, spread(outcome.already), spread(outcome.expired), spread(outcome.stale))
        case Released():
            return ("released", outcome.count)
        case Expired():
            return ("expired", outcome.count)
        case Buried():
            return ("buried", outcome.count)
        case Revived():
            return ("revived", outcome.count)
        case Rewound():
            counts = (outcome.reopened_count, outcome.revoked_count, outcome.delayed_count)
            return ("Rewind", outcome.start_offset, int(outcome.clamped), outcome.end_offset, *counts)
        case Skipped():
            skipped = (outcome.skipped_count, outcome.revoked_count)
            return ("SkipTo", outcome.start_offset, int(outcome.clamped), *skipped)
        case Paused():
            return ("paused", outcome.until_ms)
        case Resumed():
            return ("resumed",)
        case Purged():
            counts = (outcome.purged_count, outcome.revoked_count, outcome.dead_count)
            return ("Purge", outcome.end_offset, *counts)
        case GroupCreated():
            return ("created", outcome.start_offset)
        case GroupDeleted():
            return ("deleted",)
        case RewindFloorMoved():
            return ("rewind floor", outcome.start_offset)
        case FloorMoved():
            return ("floor", dict(outcome.expired))
        case Prepared():
            return ("prepared",)
        case MovingOut():
            return ("moving", outcome.count)
        case MoveEnded():
            return ("ended", outcome.count)
        case Cancelled():
            return ("cancelled", outcome.count, outcome.late_count)


class PartitionAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        for module, bound, value in [
            (blocked_map, "_FULL", 4),
            (blocked_map, "_SMALL", 2),
            (dedupe, "_CHUNK_ROWS", 3),
            (dedupe, "_LEAF_ENTRIES", 4),
            (dedupe, "_FREED_PER_BATCH", 1),
            (state_form, "RUNS_PER_SLICE", 3),
            (state_form, "IDS_PER_SLICE", 2),
            (state_form, "RANGES_PER_SLICE", 3),
            (state_form, "PRODUCERS_PER_SLICE", 2),
        ]:
            self._patch.setattr(module, bound, value)
        self.machine = PartitionMachine.new(GROUP)
        self.model = Model()
        self.log: list[Entry] = []
        # Every lease ever made, so that stale ones are used too.
        self.leases: list[tuple[GroupName, LeaseId]] = [(GroupName("default"), LeaseId(1 << 16))]
        self.requests = 0
        self.policy = NO_POLICY
        self.term = Term(3)
        # What the last entry says of the batch of the next one.
        self.armed_ms = 0

    def teardown(self) -> None:
        again = PartitionMachine.new(GROUP)
        for entry in self.log:
            again.apply(entry)
        assert again.digest() == self.machine.digest()
        self._patch.undo()

    def append(self, kind: EntryKind, payload: bytes, count: int = 0) -> tuple[Outcome, ...]:
        base = self.machine.next_offset
        index = Index(self.machine.applied_index + 1)
        entry = Entry(kind, GROUP, index, self.term, base, Offset(base + count), self.model.now_ms, payload)
        self.log.append(entry)
        self.armed_ms = 0
        return self.machine.apply(entry).outcomes

    def change(self, *changes: Change) -> tuple[Outcome, ...]:
        """Apply changes to both and compare what they came to."""
        index = Index(self.machine.applied_index + 1)
        outcomes = self.append(EntryKind.STATE, encode_changes(changes))
        for ordinal, (change, outcome) in enumerate(zip(changes, outcomes, strict=True)):
            name = lease_id(index, ordinal)
            assert plain(outcome) == self.model.apply(change, name)
            if isinstance(outcome, Leased):
                assert outcome.lease == name
                self.leases.append((outcome.group, name))
            if isinstance(change, DeliverAt):
                self.armed_ms = max(self.armed_ms, change.due_ms)
        return outcomes

    def a_lease(self, data: st.DataObject) -> tuple[GroupName, LeaseId]:
        """Mostly one of the last few, and mostly in its own group."""
        group, lease = data.draw(st.sampled_from(self.leases[-6:]))
        return (group if group in self.model.groups else GroupName("default")), lease

    def some_of(self, data: st.DataObject, group: GroupName, lease: LeaseId) -> Ranges:
        """Ranges of what a lease holds, or any at all."""
        held = self.model.groups[group].held(lease)
        if not held or data.draw(st.integers(0, 4)) == 0:
            return data.draw(RANGES)
        chosen = sorted(data.draw(st.sets(st.sampled_from(held), min_size=1)))
        return tuple((offset, offset + 1) for offset in chosen)

    @initialize(
        count=st.integers(10, 16),
        void=st.booleans(),
        acked=st.sets(st.integers(0, 9)),
        delayed=st.sets(st.integers(0, 9), max_size=4),
        other=st.booleans(),
    )
    def begin_with_work_done(self, count: int, void: bool, acked: set[int], delayed: set[int], other: bool) -> None:
        """Most of what can go wrong needs leases of several ages among messages of every state; begin there."""
        if void:
            self._produce((0, 1, 0), 1)
            self._produce((0, 0, 0), 2, force=True)
        self._produce(None, count)
        if other:
            self.create_group(GroupName("audit"), 3)
            self.receive(GroupName("audit"), 6, 7000, 1)
        for _ in range(3):
            self.receive(GroupName("default"), 4, 1000, 1)
            self.time_passes(950)
        for group, lease in [held for held in self.leases if held[0] == "default"]:
            if delayed:
                later = tuple((offset, offset + 1) for offset in sorted(delayed))
                self.change(Nack(group, lease, later, self.model.now_ms + 2_500, ""))
            if acked:
                self.change(Ack(group, lease, tuple((offset, offset + 1) for offset in sorted(acked))))

    @rule(elapsed=st.sampled_from([0, 1, 99, 100, 950, 1000, 5000]))
    def time_passes(self, elapsed: int) -> None:
        self.model.now_ms += elapsed

    @rule(count=st.integers(1, 8))
    def produce(self, count: int) -> None:
        self._produce(None, count)

    @rule(count=st.integers(1, 4), delay=st.sampled_from([1, 100, 950, 3000, 3000, 20_000]), at=st.booleans())
    def produce_for_later(self, count: int, delay: int, at: bool) -> None:
        now = max(self.model.now_ms, self.machine.append_ms)
        due = decide.due_time(
            delay_ms=0 if at else delay, deliver_at_ms=now + delay if at else 0, now_ms=now, retention_s=60
        )
        assert now + delay <= due < now + delay + 100
        self._produce(None, count, due_ms=due)

    @rule(
        messages=st.lists(
            st.none() | st.tuples(st.integers(0, 9), st.integers(0, 4).map(lambda n: n // 4)), min_size=1
        ),
        window=st.sampled_from([100, 950, 3000, 3000]),
        most=st.sampled_from([1, 3, 20, 20]),
        delay=st.sampled_from([0, 0, 950]),
        numbered=st.booleans(),
    )
    def produce_with_ids(
        self, messages: list[tuple[int, int] | None], window: int, most: int, delay: int, numbered: bool
    ) -> None:
        ids = Ids(window, most, messages)
        # A producer of its own, whose sequence goes on.
        known = self.model.producers.get(77)
        producer = (77, 0, known.batches[-1][1] + 1 if known else 0) if numbered else None
        due_ms = (self.model.now_ms + delay) // 100 * 100 if delay else 0
        change = dedupe_of(ids)
        header = read_header(batch_of(producer, len(messages)))
        decision = decide.decide_produce(self.machine, header, due_ms=due_ms, ids=change, now_ms=self.model.now_ms)
        known_names = {known.name for known in self.model.still_known(ids)}
        if producer is None and all(message is not None and message[0] in known_names for message in messages):
            assert isinstance(decision, Answer)
            model = copy(self.model)
            assert plain(decision.outcome)[4:] == model.remember(ids, self.model.next_offset)
            return
        duplicates, conflicts = copy(self.model).remember(ids, self.model.next_offset)
        end = Offset(self.model.next_offset + len(messages))
        assert decision == ProposeBatch(self.machine.next_offset, end, due_ms, len(duplicates) + len(conflicts))
        self.change(*([DeliverAt(due_ms)] if due_ms else []), change)
        payload = stamp(batch_of(producer, len(messages)), self.machine.next_offset, 3)
        (outcome,) = self.append(EntryKind.DATA, payload, len(messages))
        assert plain(outcome) == self.model.produce(producer, len(messages), due_ms, ids)

    @rule(group=NAMES, count=st.integers(1, 3), ahead=st.integers(0, 300))
    def another_leader_after_half_of_a_delayed_batch(self, group: GroupName, count: int, ahead: int) -> None:
        """No leader leaves half of it, but if one did, no other batch would take the blame."""
        self.change(DeliverAt(self.model.now_ms // 100 * 100 + ahead * 100))
        self.term = Term(self.term + 1)
        self.armed_ms = 0
        self._produce(None, count)

    @rule(ranges=RANGES, every=st.booleans())
    def cancel(self, ranges: Ranges, every: bool) -> None:
        due = self.model.scheduled()
        if every and due:
            ranges = ((min(due), max(due) + 1),)
        decision = decide.decide_cancel(self.machine, ranges=ranges, now_ms=self.model.now_ms)
        if ranges[-1][1] > self.model.next_offset:
            assert isinstance(decision, Refused)
            assert decision.error.code == "offset_out_of_range"
        elif self.model.cancellable() & set(offsets(ranges)):
            assert decision == Propose((Cancel(ranges),))
            self.change(*decision.changes)
        else:
            assert isinstance(decision, Answer)
            assert plain(decision.outcome) == self.model.cancelled(ranges)

    @rule(
        producer=st.integers(0, 2),
        epoch=st.integers(0, 2),
        count=st.integers(1, 3),
        way=st.sampled_from(["next", "next", "next", "again", "any", "first"]),
        data=st.data(),
    )
    def produce_in_sequence(self, producer: int, epoch: int, count: int, way: str, data: st.DataObject) -> None:
        known = self.model.producers.get(producer)
        sequence = 0
        if way == "any":
            sequence = data.draw(st.integers(0, 20))
        elif known is not None and way == "next":
            epoch, sequence = known.epoch, known.batches[-1][1] + 1
        elif known is not None and way == "again":
            first, last, _ = data.draw(st.sampled_from(known.batches))
            epoch, sequence, count = known.epoch, first, last - first + 1
        self._produce((producer, epoch, sequence), count, force=data.draw(st.booleans()))

    def _produce(
        self, producer: tuple[int, int, int] | None, count: int, *, force: bool = False, due_ms: int = 0
    ) -> None:
        batch = batch_of(producer, count)
        verdict = self.model.judge(producer, count)
        decision = decide.decide_produce(self.machine, read_header(batch), due_ms=due_ms)
        if isinstance(verdict, tuple):
            assert isinstance(decision, Answer)
            first_due_ms = self.model.due.get(verdict[1], 0) if verdict[1] not in self.model.voids else 0
            first_due_ms = first_due_ms if first_due_ms > self.machine.append_ms else 0
            assert decision.outcome == Produced(verdict[1], count, duplicate=True, due_ms=first_due_ms)
        elif verdict == "fits":
            end = Offset(self.model.next_offset + count)
            assert decision == ProposeBatch(Offset(self.model.next_offset), end, due_ms)
        else:
            assert isinstance(decision, Refused)
            assert decision.error.code in {"producer_fenced", "out_of_order_sequence"}
        if verdict == "fits" or force:
            if due_ms:
                self.change(DeliverAt(due_ms))
            armed_ms = self.armed_ms
            (outcome,) = self.append(EntryKind.DATA, stamp(batch, self.machine.next_offset, 3), count)
            assert plain(outcome) == self.model.produce(producer, count, armed_ms)

    @rule(group=NAMES, count=st.integers(1, 12), hide=st.sampled_from([1000, 1050, 7000]), ranges=st.integers(1, 3))
    def receive(self, group: GroupName, count: int, hide: int, ranges: int) -> None:
        self.requests += 1
        self._receive(group, count, hide, ranges, request_id=self.requests)

    @rule(group=NAMES, count=st.integers(1, 12), not_below=SMALL)
    def receive_what_is_young(self, group: GroupName, count: int, not_below: int) -> None:
        self.requests += 1
        self._receive(group, count, 1000, 50, request_id=self.requests, not_below=not_below)

    @rule(below=SMALL, runs=st.integers(1, 4))
    def bury_old(self, below: int, runs: int) -> None:
        below = min(below, self.model.next_offset)
        old = {(name, offset) for name, group in self.model.groups.items() for offset in self.model.idle(group, below)}
        assert decide.has_idle(self.machine, below=Offset(below)) is bool(old)
        changes = decide.decide_bury_old(self.machine, below=Offset(below), max_runs=runs)
        assert bool(changes) is bool(old)
        if changes:
            outcomes = self.change(*changes)
            count = sum(outcome.count for outcome in outcomes if isinstance(outcome, Buried))
            assert count >= len({name for name, _ in old}), "no group is left out"

    @rule(group=NAMES, back=st.integers(0, 3), count=st.integers(1, 5))
    def receive_again(self, group: GroupName, back: int, count: int) -> None:
        if group not in self.model.groups or back >= self.requests:
            return
        request = self.requests - back
        lease = self.model.groups[group].lease_of(1, request)
        model = self.model.groups[group]
        left = [o for o in model.held(lease or -1) if model.messages[o].visible_at_ms > self.model.now_ms]
        if not left:
            self._receive(group, count, 1000, 50, request_id=request)
            return
        decision = self._decide_receive(group, count, 1000, 50, request_id=request)
        assert isinstance(decision, Answer)
        answer = decision.outcome
        assert isinstance(answer, Leased)
        assert answer.repeated
        assert answer.lease == lease
        assert plain(answer) == ("leased", [(offset, model.messages[offset].deliveries) for offset in left])
        assert answer.visible_at_ms == min(model.messages[offset].visible_at_ms for offset in left)
        assert self.machine.holdings(group, answer.lease)[0].start <= left[0]

    def _decide_receive(
        self, group: GroupName, count: int, hide: int, ranges: int, *, request_id: int, not_below: int = 0
    ) -> Decision:
        return decide.decide_receive(
            self.machine,
            group,
            max_count=count,
            hide_ms=hide,
            now_ms=self.model.now_ms,
            consumer="c",
            session=1,
            request_id=request_id,
            not_below=not_below,
            policy=self.policy,
            limits=decide.DecisionLimits(max_ranges_per_change=ranges),
        )

    def _receive(
        self, group: GroupName, count: int, hide: int, ranges: int, *, request_id: int, not_below: int = 0
    ) -> None:
        decision = self._decide_receive(group, count, hide, ranges, request_id=request_id, not_below=not_below)
        if group not in self.model.groups:
            assert isinstance(decision, Refused)
            return
        expected: list[int] = []
        messages = self.model.groups[group].messages
        eligible = [offset for offset in self.model.eligible(group, self.model.now_ms) if offset >= not_below]
        spent = {o for o in eligible if messages[o].state == "leased" and self.policy.is_spent(messages[o].deliveries)}
        for offset in [offset for offset in eligible if offset not in spent][:count]:
            ranges -= not expected or expected[-1] + 1 != offset
            if ranges < 0:
                break
            expected.append(offset)
        before = {o: self.model.groups[group].messages[o].deliveries for o in expected}
        paused = self.model.groups[group].pause
        if self.model.groups[group].is_paused(self.model.now_ms):
            assert paused is not None
            assert decision == NothingAvailable(paused[2] or None)
            return
        if paused is not None and isinstance(decision, NothingAvailable):
            assert expected == []
            return
        if isinstance(decision, NothingAvailable):
            assert expected == []
            times = [m.visible_at_ms for m in self.model.groups[group].messages.values() if m.visible_at_ms]
            following = decision.next_visible_ms
            first = -(-min(times) // 100) * 100 if times else None
            if first is not None and first <= self.model.now_ms and following is not None:
                # It is due, and nothing but a change of its own ends it: when it was, is soon forgotten.
                assert first <= following <= self.model.now_ms
            else:
                # What is too old may be due all the while.
                assert not_below or following == first
            return
        assert isinstance(decision, Propose)
        outcome = self.change(*decision.changes)[-1]
        assert plain(outcome) == ("leased", [(offset, before[offset] + 1) for offset in expected])
        for change in decision.changes:
            if isinstance(change, BuryExpired):
                buried = offsets(change.ranges)
                assert all(messages[offset].state == "dead" for offset in buried)
                assert all(self.policy.is_spent(messages[offset].deliveries) for offset in buried)

    @rule(most=st.integers(0, 3), backoff=st.sampled_from([0, 100, 2_000]))
    def another_policy(self, most: int, backoff: int) -> None:
        self.policy = FailurePolicy(most, backoff, 3_000, 2, 0.5)

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        group, lease = self.a_lease(data)
        ranges = self.some_of(data, group, lease)
        self._decided(group, lease, ranges, decide.decide_ack(self.machine, group, lease=lease, ranges=ranges))

    @rule(data=st.data(), delay=st.sampled_from([0, 0, 1, 100, 3000]))
    def nack(self, data: st.DataObject, delay: int) -> None:
        group, lease = self.a_lease(data)
        ranges = self.some_of(data, group, lease)
        decision = decide.decide_nack(
            self.machine, group, lease=lease, ranges=ranges, delay_ms=delay, now_ms=self.model.now_ms, reason="no"
        )
        self._decided(group, lease, ranges, decision)

    @rule(data=st.data(), delay=st.sampled_from([None, None, 0, 100]), chance=st.sampled_from([0.0, 0.5]))
    def nack_by_policy(self, data: st.DataObject, delay: int | None, chance: float) -> None:
        group, lease = self.a_lease(data)
        ranges = self.some_of(data, group, lease)
        held, *_ = self.model.sort_out(self.model.groups[group], lease, ranges)
        messages = self.model.groups[group].messages
        before = {offset: messages[offset].deliveries for offset in held}
        decision = decide.decide_nack(
            self.machine,
            group,
            lease=lease,
            ranges=ranges,
            delay_ms=delay,
            now_ms=self.model.now_ms,
            policy=self.policy,
            chance=lambda: chance,
        )
        self._decided(group, lease, ranges, decision)
        if not isinstance(decision, Propose):
            return
        asked = [o for change in decision.changes if isinstance(change, Nack | Bury) for o in offsets(change.ranges)]
        assert sorted(asked) == offsets(ranges)
        for offset, deliveries in before.items():
            message = messages[offset]
            wait = self.policy.backoff_after(deliveries) if delay is None else delay
            wait -= int(wait * 0.5 * chance) if delay is None else 0
            if self.policy.is_spent(deliveries):
                assert message.state == "dead"
            else:
                until = self.model.now_ms + wait if wait else 0
                assert message == Message("delayed" if wait else "available", deliveries, until)

    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        group, lease = self.a_lease(data)
        ranges = self.some_of(data, group, lease)
        decision = decide.decide_reject(self.machine, group, lease=lease, ranges=ranges, reason="bad")
        self._decided(group, lease, ranges, decision)

    @rule(group=NAMES, ranges=RANGES, every=st.booleans(), most=st.integers(1, 4))
    def revive(self, group: GroupName, ranges: Ranges, every: bool, most: int) -> None:
        if every and self.model.next_offset:
            ranges = ((0, self.model.next_offset),)
        decision = decide.decide_revive(self.machine, group, ranges=ranges, max_runs=most)
        if group not in self.model.groups or ranges[-1][1] > self.model.next_offset:
            assert isinstance(decision, Refused)
            return
        messages = self.model.groups[group].messages
        dead = [o for o in offsets(ranges) if o in messages and messages[o].state == "dead"]
        if isinstance(decision, Propose):
            (outcome,) = self.change(*decision.changes)
            assert isinstance(outcome, Revived)
            assert min(most, len(dead)) <= outcome.count <= len(dead)
            due = self.model.scheduled()
            revived = [messages[offset].state for offset in dead[: outcome.count]]
            assert revived == ["delayed" if offset in due else "available" for offset in dead[: outcome.count]]
        else:
            assert isinstance(decision, Answer)
            assert dead == []

    @rule(group=NAMES, ranges=RANGES, every=st.booleans(), to=TARGETS, most=st.integers(1, 6))
    def move_out(self, group: GroupName, ranges: Ranges, every: bool, to: GroupId, most: int) -> None:
        if every and self.model.next_offset:
            ranges = ((0, self.model.next_offset),)
        decision = moving.decide_move_out(
            self.machine, group, ranges=ranges, target=to, now_ms=self.model.now_ms, max_count=most
        )
        if group not in self.model.groups or ranges[-1][1] > self.model.next_offset:
            assert isinstance(decision, Refused)
            return
        movable = self.model.movable(group, ranges)[:most]
        if not movable:
            assert isinstance(decision, Answer)
            return
        assert isinstance(decision, Propose)
        (change,) = decision.changes
        assert isinstance(change, MoveOut)
        assert offsets(change.ranges) == movable
        self.change(change)

    @rule(to=TARGETS, refused=st.booleans())
    def end_move(self, to: GroupId, refused: bool) -> None:
        head = self.model.head(to)
        number = 1 if head is None else head
        change = moving.decide_moved(self.machine, target=to, number=number, is_refused=refused)
        assert (change is None) == (head is None)
        if change is not None:
            self.change(change)

    @rule(source=TARGETS, number=st.integers(1, 6), count=st.integers(0, 3), forced=st.booleans())
    def take_moved(self, source: GroupId, number: int, count: int, forced: bool) -> None:
        """With a count of 0 it is asked that the number is never taken."""
        batch = encode_values([b"v"] * count, timestamp_ms=5) if count else b""
        header = read_header(batch) if count else None
        decision = moving.decide_move_in(self.machine, header, source=source, number=number)
        is_settled = self.model.is_settled(source, number)
        assert isinstance(decision, Answer) == is_settled
        if is_settled and not forced:
            return
        self.change(MoveIn(source, number, is_refused=not count))
        if count:
            armed_ms = self.armed_ms
            (outcome,) = self.append(EntryKind.DATA, stamp(batch, self.machine.next_offset, 3), count)
            if is_settled:
                assert isinstance(outcome, Void)
                assert self.model.void(count) == plain(outcome)
            else:
                self.model.taken[source] = (number, True)
                assert plain(outcome) == self.model.produce(None, count, armed_ms)

    @rule(data=st.data(), hide=st.sampled_from([1000, 4321, TWELVE_HOURS_MS]))
    def extend(self, data: st.DataObject, hide: int) -> None:
        group, lease = self.a_lease(data)
        ranges = self.some_of(data, group, lease)
        decision = decide.decide_extend(
            self.machine, group, lease=lease, ranges=ranges, hide_ms=hide, now_ms=self.model.now_ms
        )
        held, *_ = self.model.sort_out(self.model.groups[group], lease, ranges)
        messages = self.model.groups[group].messages
        too_long = any(self.model.now_ms + hide - messages[o].first_leased_ms > TWELVE_HOURS_MS for o in held)
        if too_long and ranges[-1][1] <= self.model.next_offset:
            assert isinstance(decision, Refused)
            assert decision.error.code == "invalid_argument"
        else:
            self._decided(group, lease, ranges, decision)

    def _decided(self, group: GroupName, lease: LeaseId, ranges: Ranges, decision: Decision) -> None:
        held, already, expired, stale = self.model.sort_out(self.model.groups[group], lease, ranges)
        if ranges[-1][1] > self.model.next_offset:
            assert isinstance(decision, Refused)
            assert decision.error.code == "offset_out_of_range"
        elif held:
            assert isinstance(decision, Propose)
            self.change(*decision.changes)
        elif not already and not expired:
            assert isinstance(decision, Refused)
            assert isinstance(decision.error, StaleLeaseError)
        else:
            assert isinstance(decision, Answer)
            assert plain(decision.outcome) == ("settled", 0, already, expired, stale)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        group, lease = self.a_lease(data)
        decision = decide.decide_release(self.machine, group, lease=lease)
        if self.model.groups[group].held(lease):
            assert isinstance(decision, Propose)
            self.change(*decision.changes)
        else:
            assert isinstance(decision, Refused)

    @rule(ranges=st.integers(3, 30))
    def expire(self, ranges: int) -> None:
        deadline = self.machine.next_deadline_ms()
        now = self.model.now_ms
        past = now - now % 100
        due = {
            (name, offset)
            for name, group in self.model.groups.items()
            for offset, message in group.messages.items()
            if message.state == "leased" and message.visible_at_ms <= past
        }
        assert not due or (deadline is not None and deadline <= now)
        changes = decide.decide_expire(self.machine, now_ms=now, max_ranges=ranges, policy=self.policy)
        ending = [change for change in changes if isinstance(change, Expire | BuryExpired)]
        ended = {(change.group, o) for change in ending for o in offsets(change.ranges)}
        assert ended <= due
        assert ended == due or sum(len(change.ranges) for change in ending) >= ranges // 3
        for change in ending:
            messages = self.model.groups[change.group].messages
            for offset in offsets(change.ranges):
                assert self.policy.is_spent(messages[offset].deliveries) is isinstance(change, BuryExpired)
        if changes:
            self.change(*changes)

    @rule(group=NAMES, move=MOVES, skip=st.booleans(), floor=st.one_of(st.just(0), SMALL))
    def move(self, group: GroupName, move: tuple[int, int], skip: bool, floor: int) -> None:
        rewind_id, start = move
        floor = min(floor, self.model.next_offset)
        if skip:
            decision = decide.decide_skip_to(
                self.machine, group, rewind_id=rewind_id, start_offset=start, requested="x"
            )
        else:
            decision = decide.decide_rewind(
                self.machine, group, rewind_id=rewind_id, start_offset=start, requested="x", floor=Offset(floor)
            )
        if group not in self.model.groups:
            assert isinstance(decision, Refused)
            return
        done = self.model.groups[group].rewinds.get(rewind_id)
        if done is None:
            assert isinstance(decision, Propose)
            outcome = self.change(*decision.changes)[-1]
            assert not isinstance(outcome, Rewound) or outcome.start_offset >= floor
        elif done[0] == ("SkipTo" if skip else "Rewind"):
            assert isinstance(decision, Answer)
            assert plain(decision.outcome) == (done[0], *done[1])
        else:
            assert isinstance(decision, Refused)

    @rule(group=NAMES, duration=st.sampled_from([0, 1_000, 5_000]))
    def pause(self, group: GroupName, duration: int) -> None:
        decision = decide.decide_pause(self.machine, group, reason="r", duration_ms=duration, now_ms=self.model.now_ms)
        if group not in self.model.groups:
            assert isinstance(decision, Refused)
            return
        assert isinstance(decision, Propose)
        self.change(*decision.changes)

    @rule(group=NAMES)
    def resume(self, group: GroupName) -> None:
        decision = decide.decide_resume(self.machine, group)
        if group not in self.model.groups:
            assert isinstance(decision, Refused)
        elif self.model.groups[group].pause is None:
            assert isinstance(decision, Answer)
            assert plain(decision.outcome) == ("resumed",)
        else:
            assert isinstance(decision, Propose)
            self.change(*decision.changes)

    @rule(group=NAMES, number=st.integers(0, 5))
    def purge(self, group: GroupName, number: int) -> None:
        purge_id = FIRST_PURGE_ID + number
        decision = decide.decide_purge(self.machine, group, purge_id=purge_id, requested="x")
        if group not in self.model.groups:
            assert isinstance(decision, Refused)
            return
        done = self.model.groups[group].rewinds.get(purge_id)
        if done is None:
            assert isinstance(decision, Propose)
            self.change(*decision.changes)
            left = {message.state for message in self.model.groups[group].messages.values()}
            assert left <= {"acked", "moving", "moved"}
        else:
            assert isinstance(decision, Answer)
            assert plain(decision.outcome) == (done[0], *done[1])

    @rule(start=SMALL)
    def rewind_floor(self, start: int) -> None:
        self.change(RewindFloor(start))

    @rule(start=SMALL)
    def floor(self, start: int) -> None:
        index = Index(self.machine.applied_index + 1)
        decision = decide.decide_floor(self.machine, start_offset=Offset(start), start_index=index)
        fits = self.model.log_start <= start <= self.model.next_offset
        assert isinstance(decision, ProposeFloor if fits else Refused)
        (outcome,) = self.append(EntryKind.FLOOR, encode_floor(Floor(start, index)))
        assert plain(outcome) == (("floor", self.model.floor(start)) if fits else ("nothing",))

    @rule(group=NAMES, start=SMALL)
    def create_group(self, group: GroupName, start: int) -> None:
        decision = decide.decide_create_group(self.machine, group, start_offset=start)
        refused = group in self.model.groups or start > self.model.next_offset
        assert isinstance(decision, Refused if refused else Propose)
        self.change(CreateGroup(group, start))

    @rule(group=NAMES)
    def delete_group(self, group: GroupName) -> None:
        decision = decide.decide_delete_group(self.machine, group)
        refused = group not in self.model.groups or group == "default"
        assert isinstance(decision, Refused if refused else Propose)
        self.change(DeleteGroup(group))

    @rule(
        group=NAMES,
        ranges=RANGES,
        at=st.integers(-2000, 5000),
        kind=st.sampled_from(
            [
                Lease,
                Ack,
                Nack,
                Extend,
                Expire,
                Release,
                Rewind,
                SkipTo,
                Bury,
                BuryExpired,
                BuryOld,
                Revive,
                Pause,
                Resume,
                Purge,
                Cancel,
                DeliverAt,
                MoveOut,
                Moved,
                ForgetSource,
            ]
        ),
        move=MOVES,
        data=st.data(),
    )
    def apply_what_nobody_decided(
        self,
        group: GroupName,
        ranges: Ranges,
        at: int,
        kind: type[Change],
        move: tuple[int, int],
        data: st.DataObject,
    ) -> None:
        _, lease = self.a_lease(data)
        until = max(0, self.model.now_ms + at)
        made: Change
        match kind.__name__:
            case "Lease":
                made = Lease(group, ranges, until, "c", data.draw(st.integers(0, 1)), self.requests)
            case "Ack":
                made = Ack(group, lease, ranges)
            case "Nack":
                made = Nack(group, lease, ranges, until, "r")
            case "Extend":
                made = Extend(group, lease, ranges, until)
            case "Expire":
                made = Expire(group, ranges)
            case "Release":
                made = Release(group, lease)
            case "Bury":
                made = Bury(group, lease, ranges, Cause.REJECTED, "r")
            case "BuryExpired":
                made = BuryExpired(group, ranges, "c")
            case "BuryOld":
                made = BuryOld(group, ranges[-1][1])
            case "Revive":
                made = Revive(group, ranges)
            case "Pause":
                made = Pause(group, "r", until)
            case "Resume":
                made = Resume(group)
            case "Purge":
                made = Purge(group, data.draw(st.sampled_from([0, FIRST_PURGE_ID])) + move[0], move[1], "r")
            case "Cancel":
                made = Cancel(ranges)
            case "MoveOut":
                made = MoveOut(group, ranges, 8)
            case "Moved":
                made = Moved(group, 8, lease, is_refused=bool(at % 2))
            case "ForgetSource":
                made = ForgetSource(8)
            case "DeliverAt":
                made = DeliverAt(until // 100 * 100)
            case "Rewind":
                made = Rewind(group, *move, "r")
            case _:
                made = SkipTo(group, *move, "r")
        self.change(made)

    @rule(kind=st.sampled_from([EntryKind.NOOP, EntryKind.CONFIG]))
    def another_entry(self, kind: EntryKind) -> None:
        assert self.append(kind, b"not looked at") == ()

    @rule(clone=st.booleans())
    def go_on_with_a_copy(self, clone: bool) -> None:
        digest = self.machine.digest()
        if clone:
            copy = self.machine.clone()
        else:
            data = b"".join(encode_slices(self.machine, CheckpointMeta(ReplicaId(4), b"conf")))
            copy, meta = decode(data)
            assert meta == CheckpointMeta(ReplicaId(4), b"conf")
        assert copy.digest() == digest
        # The one that is left behind must not matter any more.
        self.machine, old = copy, self.machine
        old.apply(
            Entry(
                EntryKind.STATE,
                GROUP,
                Index(old.applied_index + 1),
                self.term,
                old.next_offset,
                old.next_offset,
                self.model.now_ms,
                encode_changes([SkipTo(GroupName("default"), 99, 60, "")]),
            )
        )

    @precondition(lambda self: self.machine.append_ms > 0)
    @rule()
    def an_entry_from_a_slower_clock(self) -> None:
        now, self.model.now_ms = self.model.now_ms, self.machine.append_ms - 1
        self.append(EntryKind.NOOP, b"")
        self.model.now_ms = now
        assert self.machine.append_ms <= now

    @invariant()
    def every_message_is_as_in_the_model(self) -> None:
        assert self.machine.next_offset == self.model.next_offset
        assert self.machine.log_start_offset == self.model.log_start
        assert self.machine.rewind_floor == self.model.rewind_floor
        assert sorted(self.model.groups) == list(self.machine.groups)
        assert spread(list(self.machine.voids)) == sorted(self.model.voids)
        scheduled = [(o, run.visible_at_ms) for run in self.machine.schedule.runs() for o in range(run.start, run.end)]
        due = {o: at for o, at in self.model.due.items() if o not in self.model.voids}
        assert scheduled == sorted((o, at) for o, at in due.items() if at > self.machine.append_ms)
        assert self.machine.schedule.first_ms == min((at for _, at in scheduled), default=1 << 63)
        owed = {row.number: (row.target, row.group, spread(row.ranges)) for row in self.machine.outbox.rows()}
        assert owed == {number: (*row[:2], sorted(row[2])) for number, row in self.model.owed.items()}
        taken = {row.source: (row.number, not row.is_refused) for row in self.machine.inbox.rows()}
        assert taken == self.model.taken
        for name, expected in self.model.groups.items():
            self._compare(GroupName(name), expected.messages)
            group = self.machine.group(GroupName(name))
            pause = group.pause
            assert (None if pause is None else (pause.reason, pause.since_ms, pause.until_ms)) == expected.pause
            assert {record.lease for record in group.leases.records()} == expected.current()
            for record in group.leases.records():
                held = group.holdings(record.lease)
                assert spread([(part.start, part.end) for part in held]) == expected.held(record.lease)
                assert record.held == len(expected.held(record.lease))

    def _compare(self, name: GroupName, expected: dict[int, Message]) -> None:
        table = self.machine.group(name).table
        found = {
            offset: Message(
                run.state.name.lower(), run.deliveries, run.visible_at_ms, int(run.lease), run.first_leased_ms
            )
            for run in table.overlap(self.model.log_start, self.model.next_offset)
            for offset in range(run.start, run.end)
        }
        assert found == expected
        assert self.model.log_start <= table.floor <= table.frontier <= self.model.next_offset
        status = self.machine.status(name)
        states = [message.state for message in expected.values()]
        assert status.available_count == states.count("available")
        assert status.leased_count == states.count("leased")
        assert status.delayed_count == states.count("delayed")
        assert status.lag_count == sum(state not in SETTLED for state in states)
        assert status.dead_count == states.count("dead") + states.count("moving")
        assert status.moved_count == states.count("moved")
        dead = [o for run in table.dead(0, self.model.next_offset) for o in range(run.start, run.end)]
        assert dead == sorted(offset for offset, message in expected.items() if message.state == "dead")
        unsettled = [offset for offset, message in expected.items() if message.state not in SETTLED]
        assert status.oldest_unsettled_offset == min(unsettled, default=self.model.next_offset)
        acked_ahead = [o for o, message in expected.items() if message.state == "acked" and o >= status.floor]
        assert status.acked_ahead_count == len(acked_ahead)


TestPartitionAgainstModel = PartitionAgainstModel.TestCase
TestPartitionAgainstModel.settings = settings(max_examples=300, stateful_step_count=40)
