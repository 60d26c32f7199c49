from __future__ import annotations

from logbroker.partition.deadlines import Deadlines
from logbroker.partition.runs import Run, RunState


def leased(start: int, until: int) -> Run:
    return Run(start, start + 1, RunState.LEASED, 1, until, 5, 1)


def holding(*runs: Run) -> Deadlines:
    deadlines = Deadlines()
    for run in runs:
        deadlines.add(run)
    return deadlines


def due(deadlines: Deadlines, now_ms: int) -> list[int]:
    deadlines.advance(now_ms)
    return list(deadlines.due.values())


def test_a_deadline_counts_at_the_next_full_100_ms() -> None:
    runs = [leased(1, 100), leased(2, 101), leased(3, 200), leased(4, 201)]
    deadlines = holding(*runs)
    assert due(deadlines, 99) == []
    assert due(deadlines, 100) == [1]
    assert due(deadlines, 199) == [1]
    assert due(deadlines, 200) == [1, 2, 3]


def test_the_next_deadline_ignores_buckets_that_have_run_empty() -> None:
    runs = [leased(1, 150), leased(2, 350)]
    deadlines = holding(*runs)
    assert deadlines.next_ms() == 200
    deadlines.remove(runs[0])
    assert deadlines.next_ms() == 400
    deadlines.remove(runs[1])
    assert deadlines.next_ms() is None


def test_what_is_added_past_its_deadline_is_due_at_once() -> None:
    deadlines = holding()
    assert due(deadlines, 500) == []
    deadlines.add(leased(1, 450))
    assert due(deadlines, 500) == [1]
    assert deadlines.next_ms() == 500
    deadlines.remove(leased(1, 450))
    assert deadlines.next_ms() is None


def test_time_that_goes_back_changes_nothing() -> None:
    run = leased(1, 450)
    deadlines = holding(run)
    assert due(deadlines, 500) == [1]
    assert due(deadlines, 100) == [1]


def test_copies_share_no_bucket_that_either_writes_to() -> None:
    one, two, three = leased(1, 150), leased(2, 150), leased(3, 150)
    deadlines = holding(one, two)
    copy = deadlines.clone()
    copy.remove(one)
    deadlines.add(three)
    deadlines.remove(two)
    assert due(deadlines, 200) == [1, 3]
    assert due(copy, 200) == [2]


def test_deadlines_given_up_long_before_they_come_leave_nothing_behind() -> None:
    """B38: leases of twelve hours that are acked at once."""
    deadlines = Deadlines()
    for i in range(10_000):
        run = leased(i, 1_000_000 + i * 100)
        deadlines.add(run)
        deadlines.remove(run)
    assert len(deadlines._heap) == len(deadlines._buckets) <= 1_025
    deadlines.add(leased(1, 700))
    assert deadlines.next_ms() == 700
