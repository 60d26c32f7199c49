"""Virtual time: order, cancelling, streams of random numbers and the event digest."""

from __future__ import annotations

from logbroker.testing.scheduler import Scheduler


def test_events_run_in_time_order_and_then_in_the_order_of_scheduling() -> None:
    scheduler = Scheduler(1)
    seen: list[str] = []
    scheduler.after(20, lambda: seen.append("late"))
    scheduler.after(10, lambda: seen.append("first"))
    scheduler.after(10, lambda: seen.append("second"))
    scheduler.run_until(15)
    assert seen == ["first", "second"]
    assert scheduler.now_us == 15
    scheduler.run_until(20)
    assert seen == ["first", "second", "late"]


def test_an_event_scheduled_in_the_past_runs_at_once_and_time_does_not_go_back() -> None:
    scheduler = Scheduler(1)
    times: list[int] = []
    scheduler.after(10, lambda: scheduler.at(3, lambda: times.append(scheduler.now_us)))
    scheduler.run_until(10)
    assert times == [10]


def test_a_cancelled_timer_does_nothing() -> None:
    scheduler = Scheduler(1)
    seen: list[int] = []
    timer = scheduler.after(10, lambda: seen.append(1))
    timer.cancel()
    scheduler.run_until(20)
    assert seen == []
    assert scheduler.events_run == 0


def test_streams_of_random_numbers_depend_on_seed_and_name_alone() -> None:
    def draws(seed: int, name: str) -> list[int]:
        stream = Scheduler(seed).random(name)
        return [stream.randrange(1 << 30) for _ in range(4)]

    assert draws(7, "network") == draws(7, "network")
    assert draws(7, "network") != draws(7, "disk")
    assert draws(7, "network") != draws(8, "network")


def test_the_digest_tells_two_runs_apart_by_what_happened_and_when() -> None:
    def digest(at_us: int, value: int) -> str:
        scheduler = Scheduler(1)
        scheduler.after(at_us, lambda: scheduler.note("value", value))
        scheduler.run_until(100)
        return scheduler.digest()

    assert digest(10, 5) == digest(10, 5)
    assert digest(10, 5) != digest(11, 5)
    assert digest(10, 5) != digest(10, 6)


def test_the_trace_keeps_the_newest_happenings() -> None:
    scheduler = Scheduler(1)
    for value in range(1000):
        scheduler.note("value", value)
    assert scheduler.trace(2) == ["    0.000000 value 998", "    0.000000 value 999"]
