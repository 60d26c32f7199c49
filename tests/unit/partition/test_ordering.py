"""The bounds of choosing in order; what is chosen is in a script and a property test of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition import ordering
from logbroker.partition.decide import DecisionLimits, NothingAvailable, Propose, decide_receive
from logbroker.partition.ordering import MAX_WINDOW, KeyLocks, order_policy
from tests.unit.partition.build import ListedKeys, change, receive, states, with_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from logbroker.partition.decide import Decision

BY_KEY = order_policy(0, by_key=True, blocks=True)


class Source(ListedKeys):
    """Reads up to `readable`, in blocks of ten, and knows of full blocks of one key that it is one."""

    def __init__(self, letters: str) -> None:
        super().__init__(letters)
        self.count = self.readable = len(letters)
        self.reads = 0

    def keys(self, start: int, end: int) -> Sequence[int] | None:
        self.reads += 1
        stop = min(end, start // 10 * 10 + 10)
        return super().keys(start, stop) if stop <= self.readable else None

    def few(self, start: int) -> tuple[int, frozenset[int]] | None:
        stop = start // 10 * 10 + 10
        keys = frozenset(map(self.key, range(start, min(stop, self.count))))
        return (stop, keys) if len(keys) == 1 else None

    def held(self, start: int, end: int) -> tuple[int, ...] | None:
        return super().held(start, end) if end <= self.readable else None


def ordered(count: int, source: Source, *, taken: int = 0) -> tuple[Decision, KeyLocks]:
    machine = with_messages(source.count)
    if taken:
        receive(machine, taken)
    locks = KeyLocks(source)
    decision = decide_receive(
        machine, DEFAULT_GROUP, max_count=count, hide_ms=30_000, now_ms=0, consumer="c", order=BY_KEY, locks=locks
    )
    return decision, locks


def taken_by(decision: Decision) -> object:
    assert isinstance(decision, Propose)
    return decision.changes[-1].ranges  # type: ignore[union-attr]  # the last one is the lease


def test_a_queue_ordered_by_key_has_a_window_even_if_none_is_set() -> None:
    assert order_policy(0, by_key=True, blocks=True).window == MAX_WINDOW
    assert order_policy(0, by_key=False, blocks=True).window == 0
    assert order_policy(7, by_key=True, blocks=True).window == 7


def test_blocks_of_a_key_that_is_locked_are_passed_over_unread() -> None:
    source = Source("a" * 1_000 + "b")
    source.readable = 1_001
    decision, _ = ordered(5, source, taken=1)
    assert taken_by(decision) == ((1_000, 1_001),)
    assert source.reads == 1


def test_a_receive_compares_so_many_keys_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MAX_KEYS_COMPARED", 30)
    for letters, found in (("ab" * 20 + "c", None), ("ab" * 15 + "c", ((30, 31),))):
        decision, locks = ordered(5, Source(letters), taken=2)
        assert (None if isinstance(decision, NothingAvailable) else taken_by(decision)) == found
        assert not locks.is_behind


def test_nothing_beyond_a_key_that_is_not_read_yet_is_taken() -> None:
    source = Source("b" * 10 + "c" * 10 + "d" * 10)
    source.readable = 15
    decision, locks = ordered(30, source)
    assert taken_by(decision) == ((0, 10),)
    assert locks.is_behind


def test_nothing_is_taken_while_a_key_in_flight_is_not_known() -> None:
    source = Source("abcd")
    machine = with_messages(4)
    receive(machine, 2)
    source.readable = 1
    locks = KeyLocks(source)

    def receive_one() -> Decision:
        return decide_receive(
            machine, DEFAULT_GROUP, max_count=1, hide_ms=9_000, now_ms=0, consumer="c", order=BY_KEY, locks=locks
        )

    assert isinstance(receive_one(), NothingAvailable)
    assert locks.is_behind
    source.readable = 4
    assert taken_by(receive_one()) == ((2, 3),)
    assert not locks.is_behind


def test_leases_that_ran_out_beyond_what_an_entry_ends_are_in_flight() -> None:
    machine = with_messages(9)
    for _ in range(3):
        receive(machine, 1, hide_ms=1_000)
        receive(machine, 1, hide_ms=60_000)
    source = Source("aXbXcXccd")
    limits = DecisionLimits(max_ranges_per_change=2)
    decision = decide_receive(
        machine,
        DEFAULT_GROUP,
        max_count=9,
        hide_ms=1_000,
        now_ms=1_000,
        consumer="c",
        order=BY_KEY,
        locks=KeyLocks(source),
        limits=limits,
    )
    assert isinstance(decision, Propose)
    change(machine, *decision.changes, append_ms=1_000)
    assert states(machine) == "LLLLLL---"
    assert taken_by(decision) == ((0, 1), (2, 3))
