"""What all rounds showed together, for people and for programs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, final

from tools.chaos_kit.judge import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tools.chaos_kit.rounds import RoundResult

_SHOWN_FINDINGS = 40


@final
@dataclass(slots=True)
class Report:
    """Sums over rounds. `skipped` says which mechanisms were missing, and why."""

    seed: int
    nodes: int
    skipped: dict[str, str]
    network: str
    rounds: int = 0
    totals: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    # Processes that were ended by SIGKILL alone.
    killed: int = 0
    fail_overs: dict[str, list[float]] = field(default_factory=dict)
    measures: dict[str, list[float]] = field(default_factory=dict)
    longest_stall_s: float = 0.0
    longest_stall: str = ""

    def add(self, result: RoundResult) -> None:
        self.rounds += 1
        for name in ("confirmed", "lost", "doubled", "overlapping", "stuck", "leases", "acks", "rewinds", "unknown"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(result.verdict, name))
        for what, times in result.verdict.features.items():
            self.totals.count(what, times)
        self.totals.findings += [f"round {result.options.number}: {text}" for text in result.verdict.findings]
        self.faults.update(strike.kind for strike in result.strikes)
        self.killed += sum(len(strike.nodes) for strike in result.strikes if strike.kind.startswith("kill"))
        _extend(self.fail_overs, result.fail_overs)
        _extend(self.measures, result.measures)
        if result.longest_stall_s > self.longest_stall_s:
            self.longest_stall_s, self.longest_stall = result.longest_stall_s, result.longest_stall

    @property
    def is_clean(self) -> bool:
        return self.totals.is_clean and self.rounds > 0

    def lines(self) -> Iterator[str]:
        totals = self.totals
        yield f"nodes: {self.nodes}, {self.network}; {self.rounds} rounds, seed {self.seed}"
        yield "faults: " + (", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())) or "none")
        yield f"processes killed: {self.killed}"
        yield (
            f"confirmed {totals.confirmed}, lost {totals.lost}, doubled {totals.doubled}, overlapping leases "
            f"{totals.overlapping}, stuck {totals.stuck}"
        )
        yield (
            f"leases {totals.leases}, acks {totals.acks}, rewinds {totals.rewinds}, sends of unknown outcome "
            f"{totals.unknown}"
        )
        if totals.features:
            yield "features: " + ", ".join(f"{what} {times}" for what, times in sorted(totals.features.items()))
        for kind, times in sorted(self.fail_overs.items()):
            yield f"fail-over after {kind}: {_times(times)}"
        for name, times in sorted(self.measures.items()):
            yield f"{name}: {_times(times)}"
        yield f"longest stall: {self.longest_stall_s:.2f} s, {self.longest_stall}"
        for mechanism, why in self.skipped.items():
            yield f"SKIPPED {mechanism}: {why}"
        for text in totals.findings[:_SHOWN_FINDINGS]:
            yield f"FOUND {text}"
        if len(totals.findings) > _SHOWN_FINDINGS:
            yield f"FOUND {len(totals.findings) - _SHOWN_FINDINGS} more"
        yield "clean" if self.is_clean else "NOT CLEAN"

    def values(self) -> dict[str, object]:
        """For JSON."""
        return {
            "seed": self.seed,
            "nodes": self.nodes,
            "network": self.network,
            "rounds": self.rounds,
            "skipped": self.skipped,
            "faults": dict(self.faults),
            "killed": self.killed,
            "totals": asdict(self.totals),
            "fail_over_ms": _percentiles(self.fail_overs),
            "measures_ms": _percentiles(self.measures),
            "fail_overs": self.fail_overs,
            "longest_stall_s": self.longest_stall_s,
            "longest_stall": self.longest_stall,
            "is_clean": self.is_clean,
        }


def _extend(sums: dict[str, list[float]], added: Mapping[str, Sequence[float]]) -> None:
    for name, times in added.items():
        sums.setdefault(name, []).extend(times)


def _percentiles(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        kind: {
            "count": len(found),
            "p50": 1000 * percentile(found, 50),
            "p99": 1000 * percentile(found, 99),
            "max": 1000 * max(found),
        }
        for kind, found in times.items()
    }


def _times(times: Sequence[float]) -> str:
    p50, p99, top = percentile(times, 50), percentile(times, 99), max(times)
    return f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, max {1000 * top:.0f} ms, {len(times)} times"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
