"""Makes a failing run as small as it can be while it still breaks the same rule.

Everything that can be switched off is switched off in turn, and stays off where the failure stays; then the run is
shortened. Streams of chance are separate, so that what is left happens as before, or nearly.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from logbroker.testing.faults import FaultKind
from logbroker.testing.simulation import PARTS, RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logbroker.testing.simulation import Result

_MAX_ROUNDS = 3


def minimise(
    seed: int, options: RunOptions, *, run: Callable[[int, RunOptions], Result], tell: Callable[[str], None]
) -> tuple[RunOptions, Result] | None:
    """The smallest options found, with how they fail; None where the run does not fail as it is.

    `run` runs a seed; `tell` gets a line for each step.
    """
    first = run(seed, options)
    if not first.failure:
        return None
    tell(f"seed {seed} fails after {first.simulated_us / 1e6:.1f} s: {first.rule}")
    best, result = options, first
    for _ in range(_MAX_ROUNDS):
        before = best
        for what, smaller_than in _ways(best):
            smaller = smaller_than(best)
            tried = run(seed, smaller)
            if tried.rule == first.rule:
                best, result = smaller, tried
                tell(f"  without {what}: still, after {tried.simulated_us / 1e6:.1f} s")
        best, result = _shorten(seed, best, result, run=run, tell=tell)
        if best == before:
            break
    return best, result


def _ways(options: RunOptions) -> Iterator[tuple[str, Callable[[RunOptions], RunOptions]]]:
    """Each way to leave something more out."""
    if options.group_count != 1:
        yield "more than one group", lambda base: replace(base, group_count=1)
    for what in [kind.value for kind in FaultKind] + list(PARTS):
        if what not in options.without:
            yield what, partial(_leave_out, what)
    if options.clock_speed != 1:
        yield "fast clocks", lambda base: replace(base, clock_speed=1)


def _leave_out(what: str, options: RunOptions) -> RunOptions:
    return replace(options, without=options.without | {what})


def _shorten(
    seed: int,
    options: RunOptions,
    result: Result,
    *,
    run: Callable[[int, RunOptions], Result],
    tell: Callable[[str], None],
) -> tuple[RunOptions, Result]:
    """Fewer seconds of faults: up to the failure, then half of that, as long as it fails."""
    for seconds in (result.simulated_us // 1_000_000, options.seconds // 2, options.seconds // 4):
        if 0 < seconds < options.seconds:
            tried = run(seed, replace(options, seconds=seconds))
            if tried.rule == result.rule:
                options, result = replace(options, seconds=seconds), tried
                tell(f"  {seconds} s of faults: still")
    return options, result


def replay_command(seed: int, options: RunOptions) -> str:
    """The command that runs the seed with these options."""
    parts = [f"tools/simulate --seed {seed} --seconds {options.seconds} --nodes {options.node_count}"]
    if options.group_count is not None:
        parts.append(f"--groups {options.group_count}")
    if options.clock_speed is not None:
        parts.append(f"--clock-speed {options.clock_speed}")
    if options.without:
        parts.append(f'--without "{",".join(sorted(options.without))}"')
    return " ".join(parts)
