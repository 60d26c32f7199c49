"""The face of the simulator for people: `tools/simulate`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, final

from logbroker.testing.faults import FaultKind
from logbroker.testing.minimise import minimise, replay_command
from logbroker.testing.scenarios import SCENARIOS, run_scenario
from logbroker.testing.simulation import PARTS, Result, RunOptions, node_count_of, run_seed
from logbroker.testing.situations import REQUIRED, STANDARD_RUNS, STANDARD_SECONDS, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from logbroker.testing.mutants.search import Catch

MAX_JOBS = 2
_PROGRESS_S = 10.0
_EXAMPLES = """\
examples:
  tools/simulate --seeds 100 --jobs 2               the standard run; fails if a promise is broken, or a situation
                                                    that has to be reached is not
  tools/simulate --seeds 1500 --jobs 2              the long run
  tools/simulate --seed 42 --verbose                one seed; the same seed gives the same run
  tools/simulate --minimise 42                      the smallest run that still fails, and the command for it
  tools/simulate --seeds 50 --without "kill,pause"  without some of the faults or clients
  tools/simulate --scenario all                     named scripts, each of which reaches one danger
  tools/simulate --mutants --jobs 2                 search the seeds that show the planted bugs; writes the record
  tools/simulate --mutants --recorded --jobs 2      replay the record

The exit code is 1 if anything failed. What is checked, and how to read a failure: logbroker/testing/README.md.
"""
_TRACE_LINES = 60


@final
@dataclass
class _Totals:
    """Sums over the runs so far."""

    runs: int = 0
    failures: list[Result] = field(default_factory=list)
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    situations: dict[str, int] = field(default_factory=dict)
    seeds_with: dict[str, int] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.runs += 1
        self.simulated_s += result.simulated_us / 1e6
        self.cpu_s += result.cpu_s
        if result.failure:
            self.failures.append(result)
        for name, count in result.situations.items():
            self.situations[name] = self.situations.get(name, 0) + count
            if count:
                self.seeds_with[name] = self.seeds_with.get(name, 0) + 1

    def line(self) -> str:
        speed = self.simulated_s / self.cpu_s if self.cpu_s else 0.0
        return (
            f"{self.runs} runs, {len(self.failures)} failed, {self.simulated_s:,.0f} simulated s in "
            f"{self.cpu_s:,.1f} CPU s: {speed:.1f} simulated s per CPU s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 if every run kept every promise."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.scenario:
        return _run_scenarios(asked.scenario)
    if asked.mutants is not None:
        return _run_mutants(asked)
    without = frozenset(name.strip() for name in asked.without.split(",") if name.strip())
    unknown = sorted(without.difference(PARTS, (kind.value for kind in FaultKind)))
    if unknown:
        parser.error(f"nothing is called {unknown[0]!r}; there are: {', '.join(_parts())}")
    options = RunOptions(
        seconds=asked.seconds,
        node_count=asked.nodes,
        group_count=asked.groups,
        clock_speed=asked.clock_speed,
        without=without,
    )
    if asked.minimise is not None:
        return _minimise(asked.minimise, options)
    seeds = [asked.seed] if asked.seed is not None else range(asked.first_seed, asked.first_seed + asked.seeds)
    totals = _Totals()
    shown_at = monotonic()
    for result in _results(seeds, options, jobs=asked.jobs):
        totals.add(result)
        if result.failure:
            _show_failure(result, _options_of(result.seed, options), trace=asked.trace)
            if asked.stop:
                break
        elif asked.seed is not None or asked.verbose:
            print(f"seed {result.seed}: digest {result.digest}, {result.events} events; {result.plan}", flush=True)
        if monotonic() - shown_at > _PROGRESS_S:
            shown_at = monotonic()
            print(totals.line(), file=sys.stderr, flush=True)
    if not asked.quiet:
        _show_situations(totals)
    print(totals.line())
    if not _is_standard(options, len(seeds)):
        return 1 if totals.failures else 0
    blind = missing(totals.situations)
    print(f"situations that have to be reached: {len(REQUIRED) - len(blind)} of {len(REQUIRED)}")
    for name in blind:
        print(f"  NEVER REACHED: {name}")
    return 1 if totals.failures or blind else 0


def _is_standard(options: RunOptions, seed_count: int) -> bool:
    """Whether the run is so long that it has to reach everything, and nothing was left out of it."""
    is_whole = not options.without and options.group_count is None and options.clock_speed is None
    return (
        is_whole
        and options.node_count in (0, 3)
        and seed_count >= STANDARD_RUNS
        and options.seconds >= STANDARD_SECONDS
    )


def _minimise(seed: int, options: RunOptions) -> int:
    options = _options_of(seed, options)
    found = minimise(seed, options, run=run_seed, tell=lambda line: print(line, flush=True))
    if found is None:
        print(f"seed {seed} does not fail")
        return 0
    smallest, result = found
    print(f"\n{result.failure}\n  {result.plan}")
    print(f"replay: {replay_command(seed, smallest)}")
    return 1


def _run_mutants(asked: argparse.Namespace) -> int:
    """Search for, or replay, the planted bugs; 0 if every one was caught."""
    # Not needed for anything else, and it looks into every part of the tested code.
    from logbroker.testing.mutants import MUTANTS
    from logbroker.testing.mutants.search import read_record, replay, search, write_record

    record = read_record()
    names = asked.mutants or list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        print(f"there is no mutant {unknown[0]!r}; there are: {', '.join(MUTANTS)}")
        return 2
    if asked.recorded:
        missed = [name for name in names if name not in record]
        run = partial(_replay_recorded, replay, {name: catch.seed for name, catch in record.items()})
        names = [name for name in names if name in record]
    else:
        missed = []
        run = partial(search, max_seeds=asked.max_seeds)
    catches = []
    for catch in _mapped(run, names, jobs=asked.jobs):
        print(catch.line(), flush=True)
        catches.append(catch)
        if not asked.recorded and catch.rule:
            record[catch.name] = catch
            write_record(record.values())
    for name in missed:
        print(f"NOT IN THE RECORD {name}: search for it with tools/simulate --mutants {name}")
    caught = [catch for catch in catches if catch.rule]
    stale = sum(catch.is_stale for catch in caught)
    tried = [catch.tried for catch in caught if catch.seed]
    print(
        f"{len(caught)} of {len(names) + len(missed)} mutants caught, median of the seeds {median(tried or [0]):g}, "
        f"{sum(catch.cpu_s for catch in catches):.0f} CPU s"
        + (f"; {stale} recorded seeds are stale: tools/simulate --mutants finds new ones" if stale else "")
    )
    return 1 if len(caught) < len(names) + len(missed) else 0


def _replay_recorded(replay: Callable[[str, int], Catch], seeds: dict[str, int], name: str) -> Catch:
    return replay(name, seeds[name])


def _mapped(run: Callable[[str], Catch], names: Sequence[str], *, jobs: int) -> Iterator[Catch]:
    if jobs == 1:
        yield from map(run, names)
        return
    with ProcessPoolExecutor(min(jobs, MAX_JOBS)) as pool:
        yield from pool.map(run, names)


def _options_of(seed: int, options: RunOptions) -> RunOptions:
    """How many nodes a seed has, where that is for the seed to say."""
    return replace(options, node_count=node_count_of(seed)) if options.node_count == 0 else options


def _run(seed: int, options: RunOptions) -> Result:
    return run_seed(seed, _options_of(seed, options))


def _results(seeds: Iterable[int], options: RunOptions, *, jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(partial(_run, options=options), seeds)
        return
    with ProcessPoolExecutor(min(jobs, MAX_JOBS)) as pool:
        yield from pool.map(partial(_run, options=options), seeds)


def _show_failure(result: Result, options: RunOptions, *, trace: int) -> None:
    replay = replay_command(result.seed, options)
    print(f"\nseed {result.seed} FAILED after {result.simulated_us / 1e6:.3f} simulated s: {result.rule}")
    print(f"  {result.failure}")
    print(f"  {result.plan}")
    print(f"  replay: {replay}")
    print(f"  make it smaller: {replay.replace('--seed ', '--minimise ')}")
    for line in result.trace[-trace:] if trace else ():
        print(f"    {line}")
    sys.stdout.flush()


def _show_situations(totals: _Totals) -> None:
    print("situations reached (times, in how many runs):")
    for name in sorted(totals.situations):
        print(f"  {totals.situations[name]:>9,} {totals.seeds_with.get(name, 0):>6} {name}")


def _run_scenarios(name: str) -> int:
    if name != "all" and name not in SCENARIOS:
        print(f"there is no scenario {name!r}; there are: all, {', '.join(sorted(SCENARIOS))}")
        return 2
    names = sorted(SCENARIOS) if name == "all" else [name]
    failed = 0
    for each in names:
        outcome = run_scenario(each)
        reached = ", ".join(f"{what} {count}" for what, count in outcome.reached.items())
        print(f"{'FAILED' if outcome.failure else 'ok':<6} {each}: {outcome.failure or reached}", flush=True)
        failed += bool(outcome.failure)
    return 1 if failed else 0


def _parts() -> list[str]:
    return [kind.value for kind in FaultKind] + list(PARTS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/simulate",
        description="Run whole clusters in one process on simulated time, disks and links, each from its seed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="COUNT", help="how many seeds to run (20)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED", help="the first of them (1)")
    parser.add_argument("--seed", type=int, metavar="SEED", help="run this seed alone")
    parser.add_argument("--seconds", type=int, default=60, help="simulated seconds of faults in each run (60)")
    parser.add_argument(
        "--nodes",
        type=int,
        default=0,
        choices=(0, 1, 3, 5),
        help="nodes of the cluster; 0 lets the seed decide: five for every eighth, three for the others (0)",
    )
    parser.add_argument("--groups", type=int, metavar="COUNT", help="partitions; drawn from the seed if not given")
    parser.add_argument("--clock-speed", type=int, metavar="TIMES", help="node time that passes in simulated time")
    parser.add_argument("--without", default="", metavar="NAMES", help=f"leave out, by comma: {', '.join(_parts())}")
    parser.add_argument("--minimise", type=int, metavar="SEED", help="leave out of a failing seed whatever can be")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help="plant each bug, or those named, and look for a seed that shows it"
    )
    parser.add_argument("--recorded", action="store_true", help="with --mutants: replay the recorded seeds alone")
    parser.add_argument(
        "--max-seeds", type=int, default=60, metavar="COUNT", help="with --mutants: give a bug up after so many (60)"
    )
    parser.add_argument("--jobs", type=int, default=1, choices=range(1, MAX_JOBS + 1), help="processes (1)")
    parser.add_argument("--scenario", metavar="NAME", help="run a named scenario, or all of them, instead of seeds")
    parser.add_argument("--stop", action="store_true", help="stop at the first failure")
    parser.add_argument("--trace", type=int, default=_TRACE_LINES, metavar="LINES", help="events shown of a failed run")
    parser.add_argument("--verbose", action="store_true", help="a line for every run")
    parser.add_argument("--quiet", action="store_true", help="no table of situations")
    return parser
