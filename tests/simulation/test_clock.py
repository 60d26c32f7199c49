"""The simulated clocks: drift, jumps, reboots."""

from __future__ import annotations

from logbroker.testing.clock import EPOCH_MS, SimulatedClock
from logbroker.testing.scheduler import US_PER_S, Scheduler


def test_a_perfect_clock_shows_true_time() -> None:
    scheduler = Scheduler(1)
    clock = SimulatedClock(scheduler)
    scheduler.run_until(5 * US_PER_S)
    assert (clock.wall_ms(), clock.monotonic_ms()) == (EPOCH_MS + 5_000, 5_000)


def test_drift_moves_both_clocks_and_does_not_depend_on_how_often_they_are_read() -> None:
    scheduler = Scheduler(1)
    often, seldom = (SimulatedClock(scheduler, drift_ppm=-10_000) for _ in range(2))
    for step_us in range(7, 100 * US_PER_S, 99_991):
        scheduler.run_until(step_us)
        often.monotonic_ms()
    scheduler.run_until(100 * US_PER_S)
    assert often.monotonic_ms() == seldom.monotonic_ms() == 99_000
    assert often.wall_ms() == EPOCH_MS + 99_000


def test_a_jump_moves_the_wall_clock_alone() -> None:
    scheduler = Scheduler(1)
    clock = SimulatedClock(scheduler, offset_ms=-500)
    scheduler.run_until(US_PER_S)
    clock.jump(15 * 86_400_000)
    assert clock.monotonic_ms() == 1_000
    assert clock.wall_ms() == EPOCH_MS + 1_000 - 500 + 15 * 86_400_000
    clock.set_like(SimulatedClock(scheduler, drift_ppm=9, offset_ms=77))
    assert clock.wall_ms() == EPOCH_MS + 1_000 + 77


def test_changing_the_drift_does_not_make_time_jump() -> None:
    scheduler = Scheduler(1)
    clock = SimulatedClock(scheduler, drift_ppm=10_000)
    scheduler.run_until(100 * US_PER_S)
    before = clock.wall_ms()
    clock.set_drift(0)
    assert clock.wall_ms() == before == EPOCH_MS + 101_000


def test_a_reboot_starts_elapsed_time_again_and_leaves_the_wall_clock() -> None:
    scheduler = Scheduler(1)
    clock = SimulatedClock(scheduler)
    scheduler.run_until(9 * US_PER_S)
    clock.reboot()
    scheduler.run_until(10 * US_PER_S)
    assert (clock.wall_ms(), clock.monotonic_ms()) == (EPOCH_MS + 10_000, 1_000)
