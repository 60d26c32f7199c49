"""Rows as a picture: bars of the medians with their spread, one group a work. SVG by hand, so nothing is installed."""

from __future__ import annotations

import statistics
from html import escape
from typing import TYPE_CHECKING

from tools.bench.report import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.bench.measure import Row
    from tools.bench.works import Work

_WIDTH, _LEFT, _BAR_WIDTH = 900, 130, 560
_BAR, _GAP, _HEAD = 18, 5, 42
_COLOURS = ("#1b6ca8", "#e07a1f", "#3d8b40", "#8a8a8a")


def draw(works: Sequence[tuple[Work, Sequence[Row]]]) -> str:
    """Give an SVG. Each work has a scale of its own: bars compare systems, never works."""
    parts: list[str] = []
    top = 10
    systems = list(dict.fromkeys(row.system for _, rows in works for row in rows))
    for work, rows in works:
        group, height = _group(work, rows, systems, top)
        parts.append(group)
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _group(work: Work, rows: Sequence[Row], systems: Sequence[str], top: int) -> tuple[str, int]:
    unit = "p99 in ms, shorter is better" if work.is_about_latency else "messages/s, longer is better"
    figures = {
        name: found
        for name in systems
        if (found := [_figure(work, row) for row in rows if row.system == name and _figure(work, row) > 0])
    }
    scale = _BAR_WIDTH / max((value for values in figures.values() for value in values), default=1.0)
    parts = [f'<text x="10" y="{top + 18}" font-weight="bold">{escape(work.title)}</text>']
    parts.append(f'<text x="10" y="{top + 33}" fill="#666">{unit}; the line is the spread of the runs</text>')
    y = top + _HEAD
    for name, values in figures.items():
        middle = statistics.median(values)
        colour = _COLOURS[systems.index(name) % len(_COLOURS)]
        centre = y + _BAR // 2
        low, high = _LEFT + min(values) * scale, _LEFT + max(values) * scale
        parts += [
            f'<text x="{_LEFT - 8}" y="{centre + 4}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{middle * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{centre}" y2="{centre}" stroke="black"/>',
            f'<text x="{max(high, _LEFT + middle * scale) + 8:.1f}" y="{centre + 4}">{plain(middle)}</text>',
        ]
        y += _BAR + _GAP
    return "\n".join(parts), y - top + 14


def _figure(work: Work, row: Row) -> float:
    return (row.p99_ms or 0.0) if work.is_about_latency else row.per_second
