"""Timers and pauses."""

from __future__ import annotations

import math

import pytest

from logbroker_client.backoff import Backoff
from logbroker_client.timers import Timers


def test_timers_run_in_order_of_time_and_then_of_making() -> None:
    timers = Timers()
    ran: list[str] = []
    for due_at, name in ((3.0, "late"), (1.0, "first"), (1.0, "second")):
        timers.add(due_at, lambda name=name: ran.append(name))  # type: ignore[misc]
    timers.run(2.0)
    assert ran == ["first", "second"]
    assert timers.next_at == 3.0
    timers.run(3.0)
    assert ran == ["first", "second", "late"]
    assert timers.next_at == math.inf


def test_a_timer_says_whether_it_is_the_next() -> None:
    timers = Timers()
    assert timers.add(5.0, lambda: None)
    assert not timers.add(6.0, lambda: None)
    assert timers.add(4.0, lambda: None)


def test_a_timer_may_add_another_that_is_due() -> None:
    timers = Timers()
    ran: list[int] = []

    def first() -> None:
        ran.append(1)
        timers.add(1.0, lambda: ran.append(2))

    timers.add(1.0, first)
    timers.run(1.0)
    assert ran == [1, 2]


@pytest.mark.parametrize(
    ("failure_count", "chance", "delay_s"),
    [(1, 0.0, 0.01), (1, 0.5, 0.015), (2, 0.0, 0.02), (5, 0.0, 0.16), (100, 0.0, 0.5), (10**9, 0.999, 0.9995)],
)
def test_pauses_double_up_to_a_bound(failure_count: int, chance: float, delay_s: float) -> None:
    assert Backoff(first_s=0.02, max_s=1.0).delay_s(failure_count, chance=chance) == pytest.approx(delay_s)
