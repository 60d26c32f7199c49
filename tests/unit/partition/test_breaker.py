from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from logbroker.entry import EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupName
from logbroker.partition.breaker import (
    Breaker,
    BreakerPolicy,
    Counted,
    decide_trip,
    describe_trip,
    endings,
    is_breaker,
)
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    Cause,
    Expire,
    Extend,
    Nack,
    Pause,
    Purge,
    Release,
    Rewind,
    SkipTo,
    encode_changes,
)
from logbroker.partition.rewind import FIRST_PURGE_ID
from tests.unit.partition.build import change, entry, produce, receive, with_messages

if TYPE_CHECKING:
    from logbroker.partition.commands import Change
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
POLICY = BreakerPolicy(50, least_count=4, window_ms=10_000, pause_ms=5_000)
START_MS = 1_700_000_000_000


def counting(*endings_: tuple[int, int, int]) -> Breaker:
    """Of (ms after the start, acked, failed)."""
    breaker = Breaker(POLICY)
    for after_ms, acked, failed in endings_:
        breaker.add(START_MS + after_ms, acked=acked, failed=failed)
    return breaker


@pytest.mark.parametrize(
    ("acked", "failed", "does_trip"),
    [(0, 0, False), (0, 3, False), (0, 4, True), (2, 2, True), (3, 2, False), (4, 0, False), (50, 50, True)],
)
def test_it_trips_at_its_share_of_at_least_so_many(acked: int, failed: int, *, does_trip: bool) -> None:
    breaker = counting((0, acked, failed))
    assert breaker.trips(START_MS) == (Counted(acked + failed, failed) if does_trip else None)


def test_a_share_of_all_is_not_reached_by_almost_all() -> None:
    breaker = Breaker(BreakerPolicy(100, least_count=1))
    breaker.add(0, acked=1, failed=999)
    assert breaker.trips(0) is None


@pytest.mark.parametrize("start_ms", [0, 999, 1_234])
def test_nothing_counts_that_is_older_than_the_window_and_nothing_is_gone_before_nine_tenths(start_ms: int) -> None:
    breaker = Breaker(POLICY)
    breaker.add(start_ms, failed=4)
    assert breaker.counted(start_ms + 9_000) == Counted(4, 4)
    assert breaker.counted(start_ms + 10_000) == Counted(0, 0)


def test_each_bucket_leaves_by_itself() -> None:
    breaker = counting((0, 1, 0), (3_000, 0, 2), (9_500, 4, 0))
    assert [breaker.counted(START_MS + at) for at in (9_900, 10_000, 12_900, 13_000, 18_999, 19_000)] == [
        Counted(7, 2),
        Counted(6, 2),
        Counted(6, 2),
        Counted(4, 0),
        Counted(4, 0),
        Counted(0, 0),
    ]


def test_after_a_long_silence_nothing_is_left() -> None:
    breaker = counting((0, 3, 9))
    assert breaker.counted(START_MS + 86_400_000 * 15) == Counted(0, 0)


def leased() -> tuple[PartitionMachine, int]:
    """Ten messages, of which a lease holds the first six for a second."""
    machine = with_messages(0)
    produce(machine, 10)
    return machine, receive(machine, 6, hide_ms=1_000)


@pytest.mark.parametrize(
    ("made", "counted"),
    [
        (Ack(D, 0, ((0, 2), (3, 4))), [(D, 3, 0)]),
        (Ack(D, 0, ((4, 9),)), [(D, 2, 0)]),
        (Nack(D, 0, ((0, 2),), 0, ""), [(D, 0, 2)]),
        (Bury(D, 0, ((0, 1),), Cause.REJECTED, "no"), [(D, 0, 1)]),
        (Bury(D, 0, ((0, 1),), Cause.MAX_DELIVERIES, ""), [(D, 0, 1)]),
        (Expire(D, ((0, 6),)), [(D, 0, 6)]),
        (BuryExpired(D, ((0, 2),), "c"), [(D, 0, 2)]),
        (Expire(D, ((0, 7),)), []),
        (Extend(D, 0, ((0, 2),), 90_000), []),
        (Release(D, 0), []),
        (Rewind(D, 1, 0, ""), []),
        (SkipTo(D, 1, 9, ""), []),
        (Purge(D, FIRST_PURGE_ID, 10, ""), []),
        (Ack(GroupName("nobody"), 0, ((0, 1),)), []),
    ],
)
def test_deliveries_end_by_their_consumer_or_by_time_and_not_by_operators(
    made: Change, counted: list[tuple[str, int, int]]
) -> None:
    machine, lease = leased()
    if isinstance(made, (Ack, Nack, Bury, Extend, Release)):
        made = msgspec.structs.replace(made, lease=lease)
    applied = machine.apply(entry(machine, EntryKind.STATE, encode_changes((made,)), append_ms=2_000))
    assert list(endings(applied)) == counted


def test_messages_that_come_in_are_no_endings() -> None:
    assert list(endings(produce(with_messages(0), 3))) == []


def test_a_trip_is_a_pause_that_says_its_figures() -> None:
    machine = with_messages(1)
    pause = decide_trip(machine, D, counting((0, 5, 45)), now_ms=START_MS)
    assert pause == Pause(D, "breaker: 45 of 50 deliveries failed in 10 s", START_MS + 5_000)
    assert is_breaker(pause.reason)
    assert not is_breaker("the breaker: off")
    assert describe_trip(Counted(4, 3), 1_500) == "breaker: 3 of 4 deliveries failed in 1.5 s"


@pytest.mark.parametrize("until_ms", [0, START_MS + 1])
def test_a_group_that_is_paused_already_is_left_alone(until_ms: int) -> None:
    machine = with_messages(1)
    change(machine, Pause(D, "night", until_ms), append_ms=START_MS - 1)
    assert decide_trip(machine, D, counting((0, 0, 9)), now_ms=START_MS) is None


def test_a_pause_that_is_over_is_none() -> None:
    machine = with_messages(1)
    change(machine, Pause(D, "night", START_MS), append_ms=START_MS - 1)
    assert decide_trip(machine, D, counting((0, 0, 9)), now_ms=START_MS) is not None


def test_a_group_that_is_gone_is_not_paused() -> None:
    assert decide_trip(with_messages(1), GroupName("gone"), counting((0, 0, 9)), now_ms=START_MS) is None
