"""Bugs in the order that queues keep."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logbroker.node.key_index import KeyIndex
from logbroker.partition import ordering
from logbroker.partition.ordering import KeyLocks
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from logbroker.partition.groups import ConsumerGroup
    from logbroker.partition.ordering import KeyWalk, OrderPolicy, _GroupLocks, _Kind
    from logbroker.partition.outcomes import Range
    from logbroker.partition.runs import Run, RunTable
    from logbroker.partition.schedule import Schedule
    from logbroker.testing.mutants.planting import Patch


@mutant("lock-forgets-delay", "B22", "what waits after a failure holds up nothing")
def _(patch: Patch) -> None:
    walk = KeyLocks.walk

    def open_handed(
        locks: KeyLocks,
        state: ConsumerGroup,
        now_ms: int,
        policy: OrderPolicy,
        *,
        ended_end: int,
        schedule: Schedule,
    ) -> KeyWalk | None:
        return walk(locks, state, now_ms, replace(policy, blocks=False), ended_end=ended_end, schedule=schedule)

    patch.attribute(KeyLocks, "walk", open_handed)
    patch.function(ordering.failed, lambda state, schedule, now_ms: iter(()))


@mutant(
    "lock-forgets-rewound",
    "B22",
    "after a rewind what waits after a failure holds up nothing",
    test="tests/scenarios/partition/test_scripts.py::test_a_script_comes_to_what_it_says[order]",
)
def _(patch: Patch) -> None:
    patch.function(ordering.rewound, lambda state, schedule, now_ms: iter(()))


@mutant("window-counts-run-out", "B22", "a lease that ran out leaves room for two messages")
def _(patch: Patch) -> None:
    count = ordering.count_in_flight

    def twice(state: ConsumerGroup, now_ms: int, policy: OrderPolicy, *, ended_count: int, schedule: Schedule) -> int:
        return count(state, now_ms, policy, ended_count=2 * ended_count, schedule=schedule)

    patch.function(count, twice)


@mutant("early-deadline", "B22", "a lease counts as over up to 100 ms before its message may be leased again")
def _(patch: Patch) -> None:
    count, over = ordering.count_in_flight, ordering._over

    def late(table: RunTable, now_ms: int) -> list[Run]:
        return [run for run in map(table.at, table.leased.pending()) if run.visible_at_ms <= now_ms]

    def sooner(held: _GroupLocks, table: RunTable, now_ms: int, ended_end: int) -> Iterator[tuple[_Kind, int]]:
        yield from over(held, table, now_ms, ended_end)
        yield from ((held.leased, run.start) for run in late(table, now_ms))

    def fewer(state: ConsumerGroup, now_ms: int, policy: OrderPolicy, *, ended_count: int, schedule: Schedule) -> int:
        early = sum(run.end - run.start for run in late(state.table, now_ms))
        return count(state, now_ms, policy, ended_count=ended_count + early, schedule=schedule)

    patch.function(over, sooner)
    patch.function(count, fewer)


@mutant("locked-key-taken", "B22", "a receive takes the first message that comes after one of a key that is locked")
def _(patch: Patch) -> None:
    free = ordering._free

    def lax(keys: Sequence[int], locked: set[int], start: int) -> Iterator[Range]:
        for first, end in free(keys, locked, start):
            yield first, min(end + 1, start + len(keys))

    patch.function(free, lax)


@mutant("first-key-locked", "B22", "of what is leased side by side only the first key is locked")
def _(patch: Patch) -> None:
    walk = KeyLocks.walk

    def first(
        locks: KeyLocks,
        state: ConsumerGroup,
        now_ms: int,
        policy: OrderPolicy,
        *,
        ended_end: int,
        schedule: Schedule,
    ) -> KeyWalk | None:
        found = walk(locks, state, now_ms, policy, ended_end=ended_end, schedule=schedule)
        if found is not None:
            firsts = {keys[0] for keys in locks._groups[state.name].leased.keys.values()}
            found._locked = found._locked & firsts
        return found

    patch.attribute(KeyLocks, "walk", first)


@mutant("keys-misplaced", "B32", "a message is taken for one of the key of its neighbour")
def _(patch: Patch) -> None:
    keys = KeyIndex.keys

    def shifted(index: KeyIndex, start: int, end: int) -> array[int] | None:
        found = keys(index, start, end)
        return found if found is None or len(found) < 2 else found[1:] + found[-1:]

    patch.attribute(KeyIndex, "keys", shifted)


@mutant("keys-read-too-early", "B32", "the key of a message that is not committed yet is read as none, and stays that")
def _(patch: Patch) -> None:
    begin, read = KeyIndex.begin, KeyIndex._read

    def ahead(index: KeyIndex, end: int) -> None:
        begin(index, end + 1)

    def padded(index: KeyIndex, start: int, end: int) -> array[int] | None:
        found = read(index, start, end)
        if found is not None and len(found) < end - start:
            found.extend([ordering.NO_KEY] * (end - start - len(found)))
        return found

    patch.attribute(KeyIndex, "begin", ahead)
    patch.attribute(KeyIndex, "_read", padded)
