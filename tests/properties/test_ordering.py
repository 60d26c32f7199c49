"""Choosing in order against choosing by brute force: a look at every message, and no index, run or cache."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from logbroker.errors import InvalidArgumentError
from logbroker.ids import DEFAULT_GROUP, LeaseId
from logbroker.partition import decide
from logbroker.partition.deadlines import BUCKET_MS
from logbroker.partition.failures import FailurePolicy
from logbroker.partition.ordering import NO_KEY, KeyLocks, OrderPolicy, order_policy
from logbroker.partition.outcomes import Leased
from logbroker.partition.runs import Run, RunState
from tests.unit.partition.build import ListedKeys, change, move_floor, produce, with_messages

POLICY = FailurePolicy(max_deliveries=3, jitter=0.0)
ORDERS = st.one_of(
    st.builds(order_policy, st.sampled_from([0, 1, 2, 5]), by_key=st.just(True), blocks=st.booleans()),
    st.builds(order_policy, st.sampled_from([1, 2, 5]), by_key=st.just(False), blocks=st.booleans()),
)
DELAYS = st.sampled_from([0, 50, 1_000, 10_000])


class Ordering(RuleBasedStateMachine):
    order: OrderPolicy

    def __init__(self) -> None:
        super().__init__()
        self.machine = with_messages(0)
        self.keys = ListedKeys()
        self.locks = KeyLocks(self.keys)
        self.now_ms = 0
        self.leases: list[LeaseId] = []
        self.moves = 0

    @initialize(order=ORDERS)
    def choose(self, order: OrderPolicy) -> None:
        self.order = order

    @rule(letters=st.text("aaabc-", min_size=1, max_size=8))
    def produce(self, letters: str) -> None:
        self.keys.add(letters)
        produce(self.machine, len(letters), append_ms=self.now_ms)

    @rule(ms=st.sampled_from([10, 90, 1_000, 5_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(count=st.integers(1, 6), hide_ms=st.sampled_from([1_000, 1_030, 60_000]), request_id=st.integers(0, 3))
    def receive(self, count: int, hide_ms: int, request_id: int) -> None:
        expected = self.expected(count)
        decision = decide.decide_receive(
            self.machine,
            DEFAULT_GROUP,
            max_count=count,
            hide_ms=hide_ms,
            now_ms=self.now_ms,
            consumer="c",
            session=1 if request_id else 0,
            request_id=request_id,
            policy=POLICY,
            order=self.order,
            locks=self.locks,
        )
        if isinstance(decision, decide.Answer):
            return
        if isinstance(decision, decide.NothingAvailable):
            assert not expected
            return
        assert isinstance(decision, decide.Propose)
        outcome = change(self.machine, *decision.changes, append_ms=self.now_ms)[-1]
        assert isinstance(outcome, Leased)
        assert [offset for held in outcome.ranges for offset in range(held.start, held.end)] == expected
        self.leases.append(outcome.lease)
        messages = self.messages()
        assert not [run for run in messages if run.state is RunState.LEASED and self.is_due(run)]
        assert sum(map(self.is_in_flight, messages)) <= self.order.window

    @rule(data=st.data(), verb=st.sampled_from(["ack", "ack", "nack", "reject", "extend"]), delay_ms=DELAYS)
    def settle(self, data: st.DataObject, verb: str, delay_ms: int) -> None:
        held = [run for run in self.messages() if run.state is RunState.LEASED]
        if not held:
            return
        run = data.draw(st.sampled_from(held))
        lease, ranges, name = LeaseId(run.lease), ((run.start, run.end),), DEFAULT_GROUP
        match verb:
            case "ack":
                self.decided(decide.decide_ack(self.machine, name, lease=lease, ranges=ranges))
            case "reject":
                self.decided(decide.decide_reject(self.machine, name, lease=lease, ranges=ranges))
            case "extend":
                self.decided(
                    decide.decide_extend(
                        self.machine, name, lease=lease, ranges=ranges, hide_ms=1_000, now_ms=self.now_ms
                    )
                )
            case _:
                self.decided(
                    decide.decide_nack(
                        self.machine,
                        name,
                        lease=lease,
                        ranges=ranges,
                        delay_ms=delay_ms,
                        now_ms=self.now_ms,
                        policy=POLICY,
                    )
                )

    @rule()
    def expire(self) -> None:
        changes = decide.decide_expire(self.machine, now_ms=self.now_ms, policy=POLICY)
        if changes:
            change(self.machine, *changes, append_ms=self.now_ms)

    @rule(share=st.floats(0, 1))
    def rewind(self, share: float) -> None:
        self.moves += 1
        start = int(share * self.machine.next_offset)
        self.decided(
            decide.decide_rewind(self.machine, DEFAULT_GROUP, rewind_id=self.moves, start_offset=start, requested="")
        )

    @rule()
    def revive(self) -> None:
        if self.machine.next_offset:
            self.decided(decide.decide_revive(self.machine, DEFAULT_GROUP, ranges=((0, self.machine.next_offset),)))

    @rule()
    def raise_floor(self) -> None:
        floor = self.machine.group(DEFAULT_GROUP).table.floor
        if floor > self.machine.log_start_offset:
            move_floor(self.machine, floor)

    @rule()
    def lead_anew(self) -> None:
        self.locks = KeyLocks(self.keys)

    @invariant()
    def a_key_is_held_by_one_lease(self) -> None:
        holders: dict[int, set[int]] = defaultdict(set)
        for run in self.messages():
            if run.state is RunState.LEASED and self.is_by_key():
                holders[self.key(run)].add(run.lease)
        holders.pop(NO_KEY, None)
        assert all(len(leases) == 1 for leases in holders.values())

    def is_by_key(self) -> bool:
        return hasattr(self, "order") and self.order.by_key

    def expected(self, count: int) -> list[int]:
        messages = self.messages()
        in_flight = [run for run in messages if self.is_in_flight(run)]
        locked = {self.key(run) for run in in_flight} - {NO_KEY} if self.order.by_key else set()
        free = [run.start for run in messages if self.may_be_leased(run) and self.key(run) not in locked]
        return free[: max(0, min(count, self.order.window - len(in_flight)))]

    def may_be_leased(self, run: Run) -> bool:
        if run.state is RunState.LEASED:
            return self.is_due(run) and not POLICY.is_spent(run.deliveries)
        return run.state is RunState.AVAILABLE or (run.state is RunState.DELAYED and self.is_due(run))

    def is_in_flight(self, run: Run) -> bool:
        is_failed = self.order.blocks and run.state is RunState.DELAYED
        return (run.state is RunState.LEASED or is_failed) and not self.is_due(run)

    def is_due(self, run: Run) -> bool:
        return -(-run.visible_at_ms // BUCKET_MS) * BUCKET_MS <= self.now_ms

    def key(self, run: Run) -> int:
        return self.keys.key(run.start)

    def messages(self) -> list[Run]:
        """A run for every message."""
        table, start, end = (
            self.machine.group(DEFAULT_GROUP).table,
            self.machine.log_start_offset,
            self.machine.next_offset,
        )
        return [table.overlap(offset, offset + 1)[0] for offset in range(start, end)]

    def decided(self, decision: decide.Decision) -> None:
        if isinstance(decision, decide.Propose):
            change(self.machine, *decision.changes, append_ms=self.now_ms)
        elif isinstance(decision, decide.Refused):
            # An extension beyond twelve hours, in which waits may add up.
            assert isinstance(decision.error, InvalidArgumentError)


TestOrdering = Ordering.TestCase
