"""Rows as a table: medians, spreads, ratios taken round by round, and the goals."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tools.bench.measure import Row
    from tools.bench.own import OwnWork
    from tools.bench.works import Work

OURS = "logbroker"

_COLUMNS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("messages/s", lambda row: row.per_second),
    ("p50 ms", lambda row: row.p50_ms),
    ("p99 ms", lambda row: row.p99_ms),
    ("server us", lambda row: row.server_us_per_message),
    ("client us", lambda row: row.client_us_per_message),
    ("busy", lambda row: row.busy_share),
    ("others", lambda row: row.other_share),
)


def spread(values: Sequence[float]) -> str:
    """The median, and the smallest and the largest in brackets."""
    low, high = min(values), max(values)
    middle = plain(statistics.median(values))
    return middle if low == high else f"{middle} ({plain(low)}-{plain(high)})"


def plain(value: float) -> str:
    """Three digits that matter, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table that reads well as text and as Markdown."""
    widths = [max(len(cells[column]) for cells in (header, *lines)) for column in range(len(header))]
    shown = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
        for cells in shown
    )


def render_work(work: Work, rows: Sequence[Row]) -> str:
    """The table of one work: a line for each system, and how we compare with it in the same rounds."""
    systems = list(dict.fromkeys(row.system for row in rows))
    by_system = {name: [row for row in rows if row.system == name] for name in systems}
    has_peers = OURS in systems and len(systems) > 1
    header = ["system", "runs", *(name for name, _ in _COLUMNS)]
    if has_peers:
        header += ["logbroker is", "goal"]
    lines = []
    for name in systems:
        mine = by_system[name]
        line = [name, str(len(mine))]
        for _, pick in _COLUMNS:
            values = [value for row in mine if (value := pick(row)) is not None]
            line.append(spread(values) if values else "-")
        if has_peers:
            line += ["", ""] if name == OURS else _compared(work, by_system[OURS], mine)
        lines.append(line)
    return f"### {work.name}: {work.title}\n\n{table(header, lines)}"


def render_own(work: OwnWork, rows: Sequence[Row]) -> str:
    """The table of a work of logbroker alone: a line for each value of its key."""
    extras = [name for name in dict.fromkeys(name for row in rows for name in row.extra) if name != work.key]
    shown = [(title, pick) for title, pick in _COLUMNS if any(pick(row) for row in rows)]
    header = [work.key, "runs", *extras, *(title for title, _ in shown)]
    lines = []
    for value in dict.fromkeys(row.extra[work.key] for row in rows):
        mine = [row for row in rows if row.extra[work.key] == value]
        line = [f"{value:,.0f}", str(len(mine))]
        line += [spread([row.extra[name] for row in mine]) for name in extras]
        for _, pick in shown:
            values = [found for row in mine if (found := pick(row)) is not None]
            line.append(spread(values) if values else "-")
        lines.append(line)
    faults = "".join(f"\n- fault: {fault}" for row in rows for fault in row.faults)
    return f"### {work.name}: {work.title}\n\ngoal: {work.goal}\n\n{table(header, lines)}{faults}"


def _compared(work: Work, ours: Sequence[Row], theirs: Sequence[Row]) -> list[str]:
    name = theirs[0].system
    goal = work.goals.get(name)
    if not work.is_about_latency:
        found = ratios(ours, theirs, lambda row: row.per_second)
        return [f"{spread(found)} x", _verdict(statistics.median(found), goal, is_lower_better=False)]
    shown, worst = [], 0.0
    for title, pick in _COLUMNS[1:3]:
        found = ratios(ours, theirs, pick)
        worst = max(worst, statistics.median(found))
        shown.append(f"{title[:3]} {spread(found)} x")
    return [", ".join(shown), _verdict(worst, goal, is_lower_better=True)]


def ratios(ours: Sequence[Row], theirs: Sequence[Row], pick: Callable[[Row], float | None]) -> list[float]:
    """Our figure over theirs, each pair from one round."""
    by_round = {row.round: pick(row) for row in theirs}
    found = []
    for row in ours:
        mine, other = pick(row), by_round.get(row.round)
        if mine is not None and other:
            found.append(mine / other)
    return found


def _verdict(ratio: float, goal: float | None, *, is_lower_better: bool) -> str:
    if goal is None:
        return "-"
    if is_lower_better:
        kept, sign = ratio <= goal, "<="
        short = ratio / goal - 1
    else:
        kept, sign = ratio >= goal, ">="
        short = 1 - ratio / goal
    return f"{sign} {plain(goal)} x: " + ("met" if kept else f"missed by {short:.0%}")
