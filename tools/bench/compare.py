"""Takes the runs of several systems in turns (A B A B ...), so that a machine whose speed drifts decides no ratio."""

from __future__ import annotations

import fcntl
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from tools.bench.systems.system import BenchError
from tools.bench.works import count_for, run_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tools.bench.measure import Row
    from tools.bench.systems.system import System
    from tools.bench.works import Work

_MAX_TRIES = 3
_MAX_TURN_S = 135.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    rounds: int
    seconds: float
    """What a counted run takes, about."""
    max_other_share: float = 0.1
    """Of the machine, that others may take in a run before it is repeated."""


@final
class Turn:
    """The lock of a machine that others measure on as well; without a file there is nobody to wait for.

    It is kept from one run to the next, so that waiting is rare, and let go of between runs once others have waited
    long enough. Processes started meanwhile do not inherit it.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab")
        self._since: float | None = None

    def take(self) -> None:
        """Have the machine alone, from before or after waiting for it."""
        if self._file is None:
            return
        if self._since is not None and time.monotonic() - self._since > _MAX_TURN_S:
            self.give_up()
        if self._since is None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def give_up(self) -> None:
        if self._file is not None and self._since is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._since = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def running(systems: Sequence[System], *, tell: Callable[[str], None], turn: Turn) -> Iterator[None]:
    """Start all systems and stop them again, whatever happens."""
    with ExitStack() as stack:
        for system in systems:
            tell(f"starting {system.name}")
            stack.callback(system.stop)
            turn.take()
            system.start()
        yield


def compare(
    systems: Sequence[System],
    works: Sequence[Work],
    plan: Plan,
    *,
    turn: Turn,
    tell: Callable[[str], None],
    note: Callable[[Row], None],
) -> list[Row]:
    """Do each work on each system, `plan.rounds` times in turns; all systems run. `note` gets each row at once."""
    pids = [pid for system in systems for pid in system.pids()]
    rows: list[Row] = []
    for work in works:
        turn.take()
        counts = {system.name: _probe(work, system, plan, pids) for system in systems}
        tell(f"{work.name}: {', '.join(f'{name} {count:,}' for name, count in counts.items())} messages a run")
        for number in range(1, plan.rounds + 1):
            turn.take()
            for system in systems:
                row = _undisturbed(work, system, number, counts[system.name], plan.max_other_share, pids, tell)
                rows.append(row)
                note(row)
    return rows


def _probe(work: Work, system: System, plan: Plan, pids: Sequence[int]) -> int:
    probe = None
    if not work.fixed_count and not work.rate:
        probe = run_work(work, system, 0, work.probe_count, tag=f"{work.name}-probe", all_pids=pids)
    return count_for(work, probe, plan.seconds)


def _undisturbed(
    work: Work,
    system: System,
    number: int,
    count: int,
    max_other_share: float,
    pids: Sequence[int],
    tell: Callable[[str], None],
) -> Row:
    """Repeat a run in which processes of somebody else took part, a few times."""
    attempt = 1
    while True:
        row = run_work(work, system, number, count, tag=f"{work.name}-{number}-{attempt}", all_pids=pids)
        if row.faults:
            raise BenchError(f"{work.name} on {system.name}: {'; '.join(row.faults)}")
        if row.other_share <= max_other_share or attempt == _MAX_TRIES:
            return row
        tell(f"{work.name} on {system.name}: others took {row.other_share:.0%} of the machine")
        attempt += 1
