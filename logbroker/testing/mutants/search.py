"""Which seed shows a planted bug: the search, the record of it, and its replay.

Seeds follow the code: a change of the tested code shifts what happens in a run, so the seed of the record may miss the
bug one day. The replay then tries the seeds that follow, says that the record is stale, and fails only where none of
them finds it. The search makes the record anew.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, final

from logbroker.testing.faults import draw_plan
from logbroker.testing.mutants.planting import MUTANTS, Mutant, planted
from logbroker.testing.scheduler import Scheduler
from logbroker.testing.simulation import RunOptions, run_seed
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from logbroker.testing.faults import FaultKind

RECORD_FILE = Path(__file__).with_name("record.md")
OPTIONS = RunOptions(seconds=30)
"""A run of the search: half as long as those of the standard run, so that a seed costs half."""
MAX_SEEDS = 500
REPLAYED_SEEDS = 12
"""Seeds that a replay tries at most, the recorded one first."""
_RUN_CPU_S = 12.0
_ENDLESS = "a run ends"
_FREQUENT = 0.2
"""How often in a second a fault happens that a mutant needs."""
_TEST_SECONDS = 120

_ROW = re.compile(r"\| ([\w-]+) \| [^|]* \| [^|]* \| (?P<rule>[^|]*) \| (?P<seed>\d+) \| (?P<tried>\d+|-) \|")
_HEAD = """\
# The planted bugs, and the seed that shows each

Written by `tools/simulate --mutants`; replayed by `tools/simulate --mutants --recorded`. Seeds are runs of {seconds}
simulated seconds with three nodes and the faults that the seed draws, and those that the bug needs to show at all,
from 1 on; "seeds" is how many it took, "-" where named tests find the bug, because the simulator does not run the
code that it spoils, or did not show it in twenty seeds. Median of the seeds: {median}; most: {most}.

| mutant | class | what is wrong | caught by | seed | seeds |
| --- | --- | --- | --- | --- | --- |
"""


@final
@dataclass(frozen=True, slots=True)
class Catch:
    """How a mutant was caught: `seed` 0 by tests. `rule` is empty where it was not caught."""

    name: str
    rule: str
    seed: int = 0
    tried: int = 0
    cpu_s: float = 0.0
    is_stale: bool = False

    def line(self) -> str:
        """One line for people."""
        mutant = MUTANTS[self.name]
        if not self.rule:
            return f"NOT CAUGHT {self.name} ({', '.join(mutant.classes)}): {mutant.what}; {self.tried} seeds tried"
        how = f"seed {self.seed}, {self.tried} tried" if self.seed else "tests"
        stale = "; the recorded seed misses it by now" if self.is_stale else ""
        return (
            f"caught {self.name} ({', '.join(mutant.classes)}) by {self.rule!r}: {how}, {self.cpu_s:.1f} CPU s{stale}"
        )


def search(name: str, *, max_seeds: int = MAX_SEEDS, first_seed: int = 1) -> Catch:
    """Try seeds from `first_seed` on until one shows the mutant."""
    return _try(MUTANTS[name], range(first_seed, first_seed + max_seeds))


def replay(name: str, seed: int) -> Catch:
    """Show the mutant by its recorded seed, or by one of those that follow."""
    found = _try(MUTANTS[name], range(seed, seed + REPLAYED_SEEDS))
    is_stale = bool(found.seed) and found.seed != seed
    return Catch(name, found.rule, found.seed, found.tried, found.cpu_s, is_stale)


def _try(mutant: Mutant, seeds: Iterable[int]) -> Catch:
    if mutant.test:
        return _run_tests(mutant)
    spent_s = 0.0
    tried = 0
    for seed in seeds:
        tried += 1
        with planted(mutant), _bounded(_RUN_CPU_S):
            result = run_seed(seed, options_of(mutant, seed))
        spent_s += result.cpu_s
        # A run that takes for ever shows nothing by itself.
        if result.failure and result.rule != _ENDLESS and _is_clean(seed, mutant.faults):
            return Catch(mutant.name, result.rule, seed, tried, spent_s)
    return Catch(mutant.name, "", 0, tried, spent_s)


def options_of(mutant: Mutant, seed: int) -> RunOptions:
    """How a seed is run for a mutant: as it is drawn, with the faults that the mutant needs switched on."""
    return _options_with(mutant.faults, seed)


def _options_with(faults: tuple[FaultKind, ...], seed: int) -> RunOptions:
    if not faults:
        return OPTIONS
    drawn = draw_plan(Scheduler(seed).random("plan"))
    rates = {kind: rate for kind, rate in drawn.rates.items() if kind not in faults}
    return replace(OPTIONS, plan=replace(drawn, rates={**rates, **dict.fromkeys(faults, _FREQUENT)}))


@cache
def _is_clean(seed: int, faults: tuple[FaultKind, ...]) -> bool:
    """A seed that fails without a mutant shows none."""
    return not run_seed(seed, _options_with(faults, seed)).failure


def _run_tests(mutant: Mutant) -> Catch:
    started_s = process_time()
    root = Path(__file__).resolve().parents[3]
    plugin = "logbroker.testing.mutants.in_tests"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", plugin, "--mutant", mutant.name, *mutant.test.split()],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=_TEST_SECONDS,
        check=False,
    )
    # 1 is "tests were run and some failed"; anything else is a mistake of the call.
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    caught = done.returncode == 1 and bool(failed)
    return Catch(
        mutant.name,
        failed[0].split(" - ")[0].removeprefix("FAILED ") if caught else "",
        0,
        0,
        process_time() - started_s,
    )


@contextmanager
def _bounded(cpu_s: float) -> Iterator[None]:
    """Let a run that never ends end as a broken promise."""

    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        broken(_ENDLESS, f"not within {cpu_s:.0f} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def read_record(path: Path = RECORD_FILE) -> dict[str, Catch]:
    """How each mutant of the record was caught."""
    if not path.exists():
        return {}
    rows = [row for line in path.read_text(encoding="utf-8").splitlines() if (row := _ROW.match(line)) is not None]
    return {
        row[1]: Catch(row[1], row["rule"], int(row["seed"]), int(row["tried"].replace("-", "0")))
        for row in rows
        if row[1] in MUTANTS
    }


def write_record(catches: Iterable[Catch], path: Path = RECORD_FILE) -> None:
    """Write the table of everything that was caught, in the order of the mutants."""
    found = {catch.name: catch for catch in catches if catch.rule}
    tried = [catch.tried for catch in found.values() if catch.seed]
    middle, most = (median(tried), max(tried)) if tried else (0, 0)
    lines = [_HEAD.format(seconds=OPTIONS.seconds, median=f"{middle:g}", most=most)]
    for name, mutant in MUTANTS.items():
        catch = found.get(name)
        if catch is not None:
            classes = ", ".join(mutant.classes)
            tries = str(catch.tried) if catch.seed else "-"
            lines.append(f"| {name} | {classes} | {mutant.what} | {catch.rule} | {catch.seed} | {tries} |\n")
    path.write_text("".join(lines), encoding="utf-8")
