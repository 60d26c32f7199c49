"""The face of the simulator for people: `tools/simulate`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, final

from logbroker.testing.scenarios import SCENARIOS, run_scenario
from logbroker.testing.simulation import Result, RunOptions, run_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_JOBS = 2
_PROGRESS_S = 10.0
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
    asked = _parser().parse_args(arguments)
    if asked.scenario:
        return _run_scenarios(asked.scenario)
    options = RunOptions(seconds=asked.seconds, node_count=asked.nodes, group_count=asked.groups)
    seeds = [asked.seed] if asked.seed is not None else range(asked.first_seed, asked.first_seed + asked.seeds)
    totals = _Totals()
    shown_at = monotonic()
    for result in _results(seeds, options, jobs=asked.jobs):
        totals.add(result)
        if result.failure:
            _show_failure(result, asked.seconds, asked.nodes, asked.groups, trace=asked.trace)
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
    return 1 if totals.failures else 0


def _results(seeds: Iterable[int], options: RunOptions, *, jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(partial(run_seed, options=options), seeds)
        return
    with ProcessPoolExecutor(min(jobs, MAX_JOBS)) as pool:
        yield from pool.map(partial(run_seed, options=options), seeds)


def _show_failure(result: Result, seconds: int, nodes: int, groups: int | None, *, trace: int) -> None:
    replay = f"tools/simulate --seed {result.seed} --seconds {seconds} --nodes {nodes}"
    if groups is not None:
        replay += f" --groups {groups}"
    print(f"\nseed {result.seed} FAILED after {result.simulated_us / 1e6:.3f} simulated s: {result.rule}")
    print(f"  {result.failure}")
    print(f"  {result.plan}")
    print(f"  replay: {replay}")
    for line in result.trace[-trace:] if trace else ():
        print(f"    {line}")
    sys.stdout.flush()


def _show_situations(totals: _Totals) -> None:
    print("situations reached (times, in how many runs):")
    for name in sorted(totals.situations):
        print(f"  {totals.situations[name]:>9,} {totals.seeds_with.get(name, 0):>6} {name}")


def _run_scenarios(name: str) -> int:
    names = sorted(SCENARIOS) if name == "all" else [name]
    failed = 0
    for each in names:
        outcome = run_scenario(each)
        reached = ", ".join(f"{what} {count}" for what, count in outcome.reached.items())
        print(f"{'FAILED' if outcome.failure else 'ok':<6} {each}: {outcome.failure or reached}", flush=True)
        failed += bool(outcome.failure)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/simulate",
        description="Run whole clusters in one process on simulated time, disks and links, each from its seed.",
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="COUNT", help="how many seeds to run (20)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED", help="the first of them (1)")
    parser.add_argument("--seed", type=int, metavar="SEED", help="run this seed alone")
    parser.add_argument("--seconds", type=int, default=60, help="simulated seconds of faults in each run (60)")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5), help="nodes of the cluster (3)")
    parser.add_argument("--groups", type=int, metavar="COUNT", help="partitions; drawn from the seed if not given")
    parser.add_argument("--jobs", type=int, default=1, choices=range(1, MAX_JOBS + 1), help="processes (1)")
    parser.add_argument("--scenario", metavar="NAME", help="run a named scenario, or all of them, instead of seeds")
    parser.add_argument("--stop", action="store_true", help="stop at the first failure")
    parser.add_argument("--trace", type=int, default=_TRACE_LINES, metavar="LINES", help="events shown of a failed run")
    parser.add_argument("--verbose", action="store_true", help="a line for every run")
    parser.add_argument("--quiet", action="store_true", help="no table of situations")
    return parser
