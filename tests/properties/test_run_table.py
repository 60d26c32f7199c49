"""The run table and its container against dictionaries with an entry per message or key.

Blocks are made tiny, so that a few dozen runs already lie in many of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logbroker.partition import blocked_map
from logbroker.partition.blocked_map import BlockedMap
from logbroker.partition.runs import Run, RunState, RunTable, acked, alike, fresh

if TYPE_CHECKING:
    from collections.abc import Iterable

END = 80
OFFSETS = st.integers(0, END)
TIMES = st.integers(1, 700)


class _TinyBlocks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(blocked_map, "_FULL", 4)
        self._patch.setattr(blocked_map, "_SMALL", 2)

    def teardown(self) -> None:
        self._patch.undo()


class MapAgainstDict(_TinyBlocks):
    """Clones are taken, changed and compared at the end: nothing may leak from one copy into another."""

    def __init__(self) -> None:
        super().__init__()
        self.map: BlockedMap[int, str] = BlockedMap()
        self.model: dict[int, str] = {}
        self.others: list[tuple[BlockedMap[int, str], dict[int, str]]] = []

    @rule(key=OFFSETS, value=st.sampled_from("abc"))
    def set(self, key: int, value: str) -> None:
        self.map.set(key, value)
        self.model[key] = value

    @rule(key=OFFSETS)
    def delete(self, key: int) -> None:
        self.map.delete(key)
        self.model.pop(key, None)

    @rule(first=OFFSETS, length=st.integers(0, 20), value=st.sampled_from("xyz"))
    def update(self, first: int, length: int, value: str) -> None:
        keys = [first, *range(first + 1, first + length, 2)]
        self.map.update(keys, [value] * len(keys))
        self.model |= dict.fromkeys(keys, value)

    @rule(first=OFFSETS, length=st.integers(1, 50), data=st.data())
    def splice(self, first: int, length: int, data: st.DataObject) -> None:
        end = first + length
        keys = sorted(data.draw(st.sets(st.integers(first, end - 1), max_size=12)))
        removed = self.map.splice(first, end, keys, ["s"] * len(keys))
        inside = sorted(key for key in self.model if first <= key < end)
        assert removed == [self.model.pop(key) for key in inside]
        self.model |= dict.fromkeys(keys, "s")

    @rule(swap=st.booleans())
    def clone(self, swap: bool) -> None:
        other, model = self.map.clone(), self.model.copy()
        if swap:
            self.map, other = other, self.map
        self.others = [*self.others[-2:], (other, model)]

    @rule()
    def go_on_with_another_copy(self) -> None:
        if self.others:
            other, model = self.others.pop(0)
            self.others.append((self.map, self.model))
            self.map, self.model = other, model

    @rule(key=st.integers(-1, END + 1))
    def look_up(self, key: int) -> None:
        assert self.map.get(key) == self.model.get(key)
        below = [known for known in self.model if known <= key]
        assert self.map.floor(key) == (self.model[max(below)] if below else None)
        assert list(self.map.values_from(key)) == [self.model[known] for known in sorted(self.model) if known >= key]

    @invariant()
    def holds_the_same(self) -> None:
        for copy, model in [(self.map, self.model), *self.others]:
            assert list(copy.items()) == sorted(model.items())
            assert len(copy) == len(model)
            assert copy.first() == (model[min(model)] if model else None)
            assert copy.last() == (model[max(model)] if model else None)

    @invariant()
    def keeps_blocks_within_bounds(self) -> None:
        assert all(0 < len(block.keys) <= 4 for block in self.map._blocks)
        assert [block.keys[0] for block in self.map._blocks] == self.map._firsts


Message = tuple[RunState, int, int, int, int]
FRESH: Message = (RunState.AVAILABLE, 0, 0, 0, 0)
ACKED: Message = (RunState.ACKED, 0, 0, 0, 0)

LEASED = st.builds(
    lambda deliveries, until, lease: (RunState.LEASED, deliveries, until, lease, 1),
    st.integers(1, 2),
    TIMES,
    st.integers(1, 2),
)
DELAYED = st.builds(lambda deliveries, until: (RunState.DELAYED, deliveries, until, 0, 0), st.integers(0, 2), TIMES)
AVAILABLE = st.builds(lambda deliveries: (RunState.AVAILABLE, deliveries, 0, 0, 0), st.integers(0, 2))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    AVAILABLE,
    LEASED,
    DELAYED,
    st.just(ACKED),
    st.sampled_from([(RunState.DEAD, 1, 0, 70_000, 3), (RunState.DEAD, 2, 0, 70_001, 3)]),
)


def message_of(run: Run) -> Message:
    return (run.state, run.deliveries, run.visible_at_ms, run.lease, run.first_leased_ms)


def spread(runs: Iterable[Run]) -> dict[int, Message]:
    return {offset: message_of(run) for run in runs for offset in range(run.start, run.end)}


class TableAgainstMessages(_TinyBlocks):
    def __init__(self) -> None:
        super().__init__()
        self.table = RunTable(0)
        self.model: dict[int, Message] = dict.fromkeys(range(END), FRESH)
        self.now_ms = 0

    @initialize(floor=st.integers(0, 5))
    def begin(self, floor: int) -> None:
        self.table = RunTable(floor)
        self.model |= dict.fromkeys(range(floor), ACKED)

    @rule(start=OFFSETS, parts=st.lists(st.tuples(st.integers(1, 6), MESSAGES), min_size=1, max_size=4))
    def put(self, start: int, parts: list[tuple[int, Message]]) -> None:
        start = max(start, self.table.floor)
        pieces = []
        for length, message in parts:
            end = min(start + length, END)
            if start < end:
                pieces.append(Run(start, end, *message))
                self.model |= dict.fromkeys(range(start, end), message)
            start = end
        if pieces:
            self.table.put(pieces)

    @rule(length=st.integers(1, 9), message=LEASED)
    def lease_at_the_frontier(self, length: int, message: Message) -> None:
        self.put(self.table.frontier, [(length, message)])

    @rule(start=OFFSETS)
    def drop_below(self, start: int) -> None:
        before = {offset: self.model[offset] for offset in range(self.table.floor, start)}
        assert spread(self.table.drop_below(start)) == before
        self.model |= dict.fromkeys(range(start), ACKED)

    @precondition(lambda self: self.table.floor > 0)
    @rule(back=st.integers(1, 30), message=st.sampled_from([FRESH, ACKED]))
    def reopen(self, back: int, message: Message) -> None:
        start, end = max(0, self.table.floor - back), self.table.floor
        self.table.lower_floor(start)
        self.table.put([Run(start, end, *message)])
        self.model |= dict.fromkeys(range(start, end), message)

    @rule(elapsed=st.integers(0, 250), end=st.integers(0, 3))
    def time_passes(self, elapsed: int, end: int) -> None:
        self.now_ms += elapsed
        self._compare_what_is_due()

    @rule()
    def go_on_with_a_clone(self) -> None:
        old, self.table = self.table, self.table.clone()
        old.drop_below(END)

    @rule()
    def go_on_with_a_decoded_one(self) -> None:
        self.table = RunTable.decode(self.table.floor, list(self.table.runs()))

    @rule(start=OFFSETS, length=st.integers(0, 30))
    def overlap(self, start: int, length: int) -> None:
        end = min(start + length, END)
        pieces = self.table.overlap(start, end)
        assert spread(pieces) == {offset: self.model[offset] for offset in range(start, end)}
        assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]

    def _compare_what_is_due(self) -> None:
        # A deadline counts from the next full 100 ms on.
        past = self.now_ms - self.now_ms % 100
        due = {
            offset: message
            for offset, message in self.model.items()
            if message[0] is RunState.AVAILABLE
            or (message[0] in {RunState.LEASED, RunState.DELAYED} and message[2] <= past)
        }
        eligible = list(self.table.eligible(self.now_ms, END))
        # It may tell of deadlines that are past but not yet at a full 100 ms, if it learnt of them late.
        late = {
            offset: message
            for offset, message in spread(eligible).items()
            if message[0] is not RunState.AVAILABLE and past < message[2] <= self.now_ms
        }
        assert spread(eligible) == due | late
        assert [run.start for run in eligible] == sorted(run.start for run in eligible)
        expired = spread(self.table.expired(self.now_ms))
        assert expired == {o: m for o, m in (due | late).items() if m[0] is RunState.LEASED}
        for state, deadlines in [(RunState.LEASED, self.table.leased), (RunState.DELAYED, self.table.delayed)]:
            times = [message[2] for message in self.model.values() if message[0] is state]
            following = deadlines.next_ms()
            assert (following is None) is (not times)
            assert following is None or following <= self.now_ms or following == -(-min(times) // 100) * 100

    @invariant()
    def holds_the_same(self) -> None:
        runs = list(self.table.runs())
        assert {o: m for o, m in self.model.items() if o < self.table.floor} == dict.fromkeys(
            range(self.table.floor), ACKED
        )
        assert spread(runs) == {o: self.model[o] for o in range(self.table.floor, self.table.frontier)}
        assert all(self.model[o] == FRESH for o in range(self.table.frontier, END))
        assert len(self.table) == len(runs)
        for end in (0, self.table.floor, self.table.frontier, END // 2, END):
            idle = (RunState.AVAILABLE, RunState.DELAYED)
            assert spread(self.table.idle(end)) == {o: m for o, m in self.model.items() if o < end and m[0] in idle}
        for state in RunState:
            assert self.table.count(state) == sum(run.end - run.start for run in runs if run.state is state)

    @invariant()
    def is_canonical(self) -> None:
        runs = list(self.table.runs())
        assert not any(alike(one, other) for one, other in pairwise(runs))
        if runs:
            assert runs[0].state is not RunState.ACKED
            assert not runs[-1].is_fresh


# More and longer examples than the profile gives: this is the heart of the state.
TestMapAgainstDict = MapAgainstDict.TestCase
TestMapAgainstDict.settings = settings(max_examples=150, stateful_step_count=40)
TestTableAgainstMessages = TableAgainstMessages.TestCase
TestTableAgainstMessages.settings = settings(max_examples=250, stateful_step_count=40)


def test_a_run_of_one_offset_stands_for_what_lies_outside_of_the_table() -> None:
    table = RunTable(5)
    assert table.at(4) == acked(4, 5)
    assert table.at(5) == fresh(5, 6)
