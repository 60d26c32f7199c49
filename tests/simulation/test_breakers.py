"""Pauses that breakers make, as the model judges them."""

from __future__ import annotations

import pytest

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition.breaker import BreakerPolicy
from logbroker.partition.commands import Ack, Expire, Lease, Nack, Pause, Release, Resume
from logbroker.testing.model import PartitionModel
from logbroker.testing.violation import Violation
from tests.simulation.partition_script import PartitionScript

D = DEFAULT_GROUP
POLICY = BreakerPolicy(50, least_count=4, window_ms=2_000, pause_ms=3_000)
COUNTED = "what a breaker counts is in the log"


def script(policy: BreakerPolicy | None = POLICY) -> PartitionScript:
    """Ten messages, of which one was acked and three nacked, in two entries."""
    made = PartitionScript()
    made.model = PartitionModel(breaker=policy)
    made.produce(*[b"%d" % number for number in range(10)])
    lease = leased(made, 0, 4)
    made.change(Ack(D, lease, ((0, 1),)))
    made.change(Nack(D, lease, ((1, 4),), 0, "down"))
    return made


def leased(made: PartitionScript, start: int, end: int) -> int:
    made.change(Lease(D, ((start, end),), made.now_ms + 1_000, "c", 0, 0))
    return made.machine.group(D).table.at(start).lease


def trip(made: PartitionScript, failed: int, ended: int, *, pause_ms: int = POLICY.pause_ms) -> None:
    made.change(Pause(D, f"breaker: {failed} of {ended} deliveries failed in 2 s", made.now_ms + pause_ms))


def rule_broken_by(made: PartitionScript, failed: int, ended: int, *, pause_ms: int = POLICY.pause_ms) -> str:
    with pytest.raises(Violation) as caught:
        trip(made, failed, ended, pause_ms=pause_ms)
    return caught.value.rule


def test_a_breaker_may_trip_where_what_it_counted_is_in_the_log() -> None:
    made = script()
    trip(made, 3, 4)
    assert made.model.failure_counts["breaker: tripped"] == 1


def test_a_leader_that_began_later_has_counted_less() -> None:
    made = script(BreakerPolicy(50, least_count=3, window_ms=2_000, pause_ms=3_000))
    trip(made, 3, 3)


def test_a_leader_that_has_not_applied_the_last_entries_does_not_count_them() -> None:
    made = script()
    made.change(Ack(D, leased(made, 4, 6), ((4, 6),)))
    trip(made, 3, 4)


@pytest.mark.parametrize(("failed", "ended"), [(4, 4), (2, 4), (3, 5)])
def test_other_figures_than_the_logs_are_caught(failed: int, ended: int) -> None:
    assert rule_broken_by(script(), failed, ended) == COUNTED


@pytest.mark.parametrize(("failed", "ended"), [(3, 3), (1, 4), (0, 0)])
def test_a_trip_below_the_bounds_is_caught(failed: int, ended: int) -> None:
    assert rule_broken_by(script(), failed, ended) == "a breaker trips where enough failed"


def test_what_was_released_is_not_in_the_count() -> None:
    made = script()
    made.change(Release(D, leased(made, 4, 6)))
    assert rule_broken_by(made, 5, 6) == COUNTED


def test_what_ran_out_is() -> None:
    made = script()
    leased(made, 4, 6)
    made.now_ms += 1_000
    made.change(Expire(D, ((4, 6),)))
    trip(made, 5, 6)


def test_what_is_older_than_the_window_is_not() -> None:
    made = script()
    made.now_ms += 1_999
    trip(made, 3, 4)
    made = script()
    made.now_ms += 2_000
    assert rule_broken_by(made, 3, 4) == COUNTED


def test_what_came_before_a_pause_or_in_it_is_not() -> None:
    made = script()
    lease = leased(made, 4, 8)
    trip(made, 3, 4)
    made.change(Nack(D, lease, ((4, 8),), 0, "down"))
    made.change(Resume(D))
    for failed, ended in ((3, 4), (4, 4), (7, 8)):
        assert rule_broken_by(made, failed, ended) == COUNTED
    counts = made.model.failure_counts
    assert counts["breaker: with deliveries that ended meanwhile"] == 4
    assert counts["breaker: ended by an operator"] == 1


def test_a_breaker_that_pauses_what_is_paused_is_caught() -> None:
    made = script()
    trip(made, 3, 4)
    assert rule_broken_by(made, 3, 4) == "a breaker leaves alone what is paused"
    made.change(Pause(D, "night", 0))
    assert made.model.failure_counts["breaker: replaced by an operator"] == 1
    assert rule_broken_by(made, 3, 4) == "a breaker leaves alone what is paused"


@pytest.mark.parametrize("pause_ms", [2_999, 3_001])
def test_a_pause_of_another_length_is_caught(pause_ms: int) -> None:
    assert rule_broken_by(script(), 3, 4, pause_ms=pause_ms) == "a breaker pauses for its time"


def test_a_trip_where_there_is_no_breaker_is_caught() -> None:
    assert rule_broken_by(script(None), 3, 4) == "only a queue that has a breaker is paused by one"
