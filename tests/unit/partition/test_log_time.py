"""Log time by section 6 of the design: what the wall clock may do to it, and what it may not (B27)."""

from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError, InvariantError
from logbroker.ids import NodeId
from logbroker.partition.log_time import ClockSettings, LogClock, Reading, RunningClock, Verdict

MS = 1_000_000
SECOND = 1_000 * MS
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
T0 = 1_700_000_000 * SECOND


class World:
    """A machine with two clocks; `tick` lets both run."""

    def __init__(self) -> None:
        self.wall_ns = T0
        self.monotonic_ns = 5 * SECOND

    @property
    def reading(self) -> Reading:
        return Reading(self.wall_ns, self.monotonic_ns)

    def tick(self, elapsed_ns: int) -> Reading:
        self.wall_ns += elapsed_ns
        self.monotonic_ns += elapsed_ns
        return self.reading


def ms(ns: int) -> int:
    return ns // MS


def lone(world: World, *, last_append_ms: int = 0) -> LogClock:
    return LogClock(world.reading, cluster_size=1, last_append_ms=last_append_ms)


def of_three(world: World, *skews_ms: int, last_append_ms: int = 0) -> LogClock:
    """A node of three that hears of peers whose wall clocks are `skews_ms` ahead of ours."""
    clock = LogClock(world.reading, cluster_size=3, last_append_ms=last_append_ms)
    hear(clock, world, *skews_ms)
    return clock


def hear(clock: LogClock, world: World, *skews_ms: int) -> None:
    for node, skew_ms in enumerate(skews_ms, start=2):
        clock.peer_says(NodeId(node), wall_ns=world.wall_ns + skew_ms * MS, reading=world.reading)
    clock.observe(world.reading)


def test_a_single_node_agrees_with_itself() -> None:
    clock = lone(World())
    assert clock.may_lead()
    assert clock.may_stamp()


def test_a_node_that_hears_of_no_majority_may_not_begin() -> None:
    world = World()
    clock = LogClock(world.reading, cluster_size=3, last_append_ms=0)
    assert not clock.may_lead()
    assert not clock.may_stamp()
    assert clock.status(world.reading).verdict is Verdict.UNKNOWN
    assert clock.status(world.reading).skew_ms is None


@pytest.mark.parametrize(
    ("skews_ms", "agrees", "skew_ms"),
    [
        ((0, 0), True, 0),
        ((5_000, 0), True, 0),
        ((5_000, 5_000), False, -5_000),
        ((1_000, 1_000), True, -1_000),
        ((1_001, 1_001), False, -1_001),
        ((-1_000, -1_000), True, 1_000),
        ((-1_001, -1_001), False, 1_001),
        # The lower one of two is the median.
        ((60_000,), True, 0),
        ((-60_000,), False, 60_000),
    ],
)
def test_a_node_agrees_within_the_skew_of_the_median(skews_ms: tuple[int, ...], agrees: bool, skew_ms: int) -> None:
    world = World()
    clock = of_three(world, *skews_ms)
    assert clock.may_lead() is clock.may_stamp() is agrees
    assert clock.status(world.reading).skew_ms == skew_ms


def test_what_a_peer_said_runs_on_and_grows_old() -> None:
    world = World()
    clock = of_three(world, 0, 0)
    assert clock.observe(world.tick(5 * SECOND)) is Verdict.AGREES
    assert clock.observe(world.tick(1)) is Verdict.UNKNOWN


def test_losing_sight_of_the_others_makes_a_good_clock_no_worse() -> None:
    world = World()
    clock = of_three(world, 0, 0)
    clock.peer_gone(NodeId(2))
    clock.peer_gone(NodeId(3))
    clock.observe(world.tick(SECOND))
    assert not clock.may_lead()
    assert clock.may_stamp()


def test_a_node_known_to_be_outside_stamps_nothing_until_it_is_known_to_be_inside() -> None:
    world = World()
    clock = of_three(world, 9_000, 9_000)
    clock.peer_gone(NodeId(2))
    clock.peer_gone(NodeId(3))
    clock.observe(world.reading)
    assert not clock.may_stamp()
    hear(clock, world, 0, 0)
    assert clock.may_stamp()


def test_stamps_run_with_time_and_never_go_below_the_last_one() -> None:
    world = World()
    leader = lone(world).lead(world.reading, last_append_ms=0)
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0)
    assert leader.append_ms(world.tick(7 * MS), previous_ms=0) == ms(T0) + 7
    assert leader.append_ms(world.tick(7 * MS), previous_ms=ms(T0) + 100) == ms(T0) + 100


def test_a_leadership_begins_at_the_last_stamp_of_its_log_and_runs_on_from_there() -> None:
    """The leader before was ahead: time neither stands still until we have caught up nor goes back."""
    world = World()
    ahead_ms = ms(T0) + 800
    leader = lone(world).lead(world.reading, last_append_ms=ahead_ms)
    assert leader.append_ms(world.reading, previous_ms=ahead_ms) == ahead_ms
    # A second of real time at 500 ppm slower.
    assert leader.append_ms(world.tick(SECOND), previous_ms=ahead_ms) == ahead_ms + 999


def test_a_wall_clock_set_back_slows_log_time_by_at_most_500_ppm() -> None:
    world = World()
    leader = lone(world).lead(world.reading, last_append_ms=0)
    world.wall_ns -= HOUR
    assert leader.append_ms(world.tick(1_000 * SECOND), previous_ms=0) == ms(T0) + 1_000_000 - 500


def test_a_wall_clock_set_forward_a_little_pulls_by_at_most_500_ppm() -> None:
    world = World()
    leader = lone(world).lead(world.reading, last_append_ms=0)
    world.wall_ns += 600 * SECOND
    assert leader.append_ms(world.tick(1_000 * SECOND), previous_ms=0) == ms(T0) + 1_000_000 + 500


def test_the_pull_ends_at_the_wall_clock() -> None:
    world = World()
    running = RunningClock(T0, world.monotonic_ns)
    world.wall_ns += 2 * MS
    for _ in range(100):
        running.advance(world.tick(SECOND), max_step_ns=HOUR)
    assert running.advance(world.reading, max_step_ns=HOUR) == world.wall_ns


@pytest.mark.parametrize(("step_ns", "followed"), [(HOUR, True), (HOUR + MS, False), (15 * DAY, False)])
def test_a_step_beyond_the_bound_pulls_nothing_and_holds_retention(step_ns: int, followed: bool) -> None:
    """B27: +15 days must not delete everything."""
    world = World()
    clock = lone(world)
    leader = clock.lead(world.reading, last_append_ms=0)
    world.wall_ns += step_ns
    clock.observe(world.reading)
    assert clock.floor_by_time_allowed(world.reading) is followed
    assert clock.status(world.reading).step_refused is not followed
    assert leader.append_ms(world.tick(100 * SECOND), previous_ms=0) == ms(T0) + 100_000 + (50 if followed else 0)


def test_a_step_that_goes_away_by_itself_is_forgotten() -> None:
    world = World()
    clock = lone(world)
    world.wall_ns += DAY
    clock.observe(world.tick(SECOND))
    assert not clock.floor_by_time_allowed(world.reading)
    world.wall_ns -= DAY
    clock.observe(world.tick(SECOND))
    assert clock.floor_by_time_allowed(world.reading)


def test_an_accepted_step_is_followed_by_leaders_too() -> None:
    world = World()
    clock = lone(world)
    leader = clock.lead(world.reading, last_append_ms=0)
    world.wall_ns += DAY
    clock.observe(world.reading)
    clock.accept(world.reading)
    assert clock.floor_by_time_allowed(world.reading)
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0 + DAY)
    assert leader.append_ms(world.tick(SECOND), previous_ms=0) == ms(T0 + DAY) + 1000


def test_accepting_a_clock_that_is_behind_does_not_take_log_time_back() -> None:
    world = World()
    clock = lone(world)
    leader = clock.lead(world.reading, last_append_ms=0)
    world.wall_ns -= DAY
    clock.accept(world.reading)
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0)


def test_a_new_leadership_takes_the_anchor_again() -> None:
    """A machine that slept: its monotonic clock stood still, and the others say that the wall clock is right."""
    world = World()
    clock = of_three(world, 0, 0)
    world.wall_ns += 600 * SECOND
    hear(clock, world, 0, 0)
    leader = clock.lead(world.reading, last_append_ms=0)
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0) + 600_000


@pytest.mark.parametrize(("step_ns", "skew_ms"), [(600 * SECOND, -600_000), (2 * HOUR, 0)])
def test_an_anchor_that_nobody_backs_or_a_step_ahead_is_not_taken(step_ns: int, skew_ms: int) -> None:
    world = World()
    clock = of_three(world, 0, 0)
    world.wall_ns += step_ns
    hear(clock, world, skew_ms, skew_ms)
    leader = clock.lead(world.reading, last_append_ms=0)
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0)


def test_a_leadership_is_not_carried_off_by_two_wrong_clocks_of_five() -> None:
    """Heard of are only one right clock and another wrong one, so that the own wrong one lies in the middle."""
    world = World()
    clock = LogClock(world.reading, cluster_size=5, last_append_ms=ms(T0))
    hear(clock, world, 0, 0, 0, 0)
    world.tick(10 * SECOND)
    world.wall_ns += 382 * SECOND
    hear(clock, world, -382_000, 1_387_000)
    assert clock.may_lead()
    leader = clock.lead(world.reading, last_append_ms=ms(T0 + 9 * SECOND))
    assert leader.append_ms(world.reading, previous_ms=0) == ms(T0 + 11 * SECOND)


def test_a_clock_that_is_behind_lets_log_time_run_on_from_the_last_entry() -> None:
    world = World()
    clock = LogClock(world.reading, cluster_size=5, last_append_ms=ms(T0))
    hear(clock, world, -HOUR // MS, 0)
    leader = clock.lead(world.reading, last_append_ms=ms(T0))
    world.tick(SECOND)
    assert leader.append_ms(world.reading, previous_ms=0) == pytest.approx(ms(T0 + SECOND), abs=1)


def test_after_a_long_sleep_a_single_node_follows_at_once_and_retention_waits_an_hour() -> None:
    world = World()
    clock = lone(world, last_append_ms=ms(T0 - 2 * HOUR))
    assert clock.lead(world.reading, last_append_ms=0).append_ms(world.reading, previous_ms=0) == ms(T0)
    assert not clock.floor_by_time_allowed(world.tick(HOUR - 1))
    assert clock.floor_by_time_allowed(world.tick(1))


def test_after_more_than_a_day_a_single_node_waits_for_the_operator() -> None:
    world = World()
    clock = lone(world, last_append_ms=ms(T0 - DAY) - 1)
    assert not clock.floor_by_time_allowed(world.tick(10 * HOUR))
    clock.accept(world.reading)
    assert clock.floor_by_time_allowed(world.reading)


def test_a_short_pause_or_an_empty_log_holds_nothing() -> None:
    world = World()
    assert lone(world, last_append_ms=ms(T0 - HOUR)).floor_by_time_allowed(world.reading)
    assert lone(world).floor_by_time_allowed(world.reading)


def test_after_a_long_sleep_a_cluster_follows_once_the_median_agrees() -> None:
    world = World()
    asleep_ms = ms(T0 - 3 * DAY)
    clock = LogClock(world.reading, cluster_size=3, last_append_ms=asleep_ms)
    assert not clock.floor_by_time_allowed(world.tick(2 * HOUR))
    hear(clock, world, 0, 0)
    leader = clock.lead(world.reading, last_append_ms=asleep_ms)
    assert leader.append_ms(world.reading, previous_ms=asleep_ms) == ms(world.wall_ns)
    assert clock.floor_by_time_allowed(world.reading)


def test_retention_by_time_waits_while_this_node_s_clock_is_outside() -> None:
    world = World()
    clock = of_three(world, 9_000, 9_000)
    assert not clock.floor_by_time_allowed(world.reading)


def test_monotonic_time_that_goes_back_is_a_broken_machine() -> None:
    running = RunningClock(T0, 10)
    with pytest.raises(InvariantError, match="monotonic time went back by 1 ns"):
        running.advance(Reading(T0, 9), max_step_ns=HOUR)


@pytest.mark.parametrize("field", ["max_skew_ms", "max_clock_step_ms", "peer_age_ms", "step_quarantine_ms"])
def test_a_setting_of_zero_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} 0 is not above 0"):
        ClockSettings(**{field: 0})
