"""Chooses the messages that a peek shows. It reads the table of runs and must change nothing, its caches neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import Offset
from logbroker.node.requests import PeekedRange
from logbroker.partition.runs import RunState, acked, cut, fresh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.node.requests import PeekRequest
    from logbroker.partition.runs import Run, RunTable

MAX_LOOKED_RUNS = 1_000
"""Of one peek. A group may have any number of runs that are not to be shown, and others wait meanwhile."""

_SETTLED = (RunState.ACKED, RunState.DEAD, RunState.MOVING, RunState.MOVED)


def look(table: RunTable, request: PeekRequest, start: int, end: int, now_ms: int) -> tuple[list[PeekedRange], Offset]:
    """Give what of [start, end) is to be shown as of `now_ms`, in order, and where the next look begins."""
    found: list[PeekedRange] = []
    left, at = request.max_count, start
    for _ in range(MAX_LOOKED_RUNS):
        if at >= end or not left:
            break
        run = _from(table, at, end)
        if request.with_settled or run.state not in _SETTLED:
            run = cut(run, at, min(run.end, at + left))
            # Nothing is written when a delay is over.
            is_due = run.state is RunState.DELAYED and run.visible_at_ms <= now_ms
            state, until_ms = (RunState.AVAILABLE, 0) if is_due else (run.state, run.visible_at_ms)
            found.append(PeekedRange(Offset(at), Offset(run.end), state, run.deliveries, until_ms))
            left -= run.end - at
        at = run.end
    return found, Offset(at)


def first(ranges: Sequence[PeekedRange], count: int) -> list[PeekedRange]:
    """The first `count` messages of ranges."""
    found = []
    for shown in ranges:
        if count <= 0:
            break
        end = Offset(min(shown.end, shown.start + count))
        found.append(PeekedRange(shown.start, end, shown.state, shown.deliveries, shown.visible_at_ms))
        count -= end - shown.start
    return found


def _from(table: RunTable, at: int, end: int) -> Run:
    """The run that holds `at`, cut to [at, end)."""
    if at < table.floor:
        return acked(at, min(table.floor, end))
    if at >= table.frontier:
        return fresh(at, end)
    run = table.at(at)
    return cut(run, at, min(run.end, end))
