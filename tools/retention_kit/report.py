"""A plan as rows for a table and as values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.cli.times import format_duration, format_time
from tools.retention_kit.plan import ZERO, Count, Gone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.retention_kit.plan import PartitionPlan

STEP_COLUMNS = ("partition", "gone", "messages", "frees", "files", "unsettled")
KEPT_COLUMNS = ("partition", "messages", "oldest", "first_goes", "last_append", "on_disk")
NOT_KNOWN = "?"


def size(count: int) -> str:
    """A size for people: `1.5 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def words(count: Count) -> str:
    """`5`, or `about 5 (3 to 9)` where that is all that is known."""
    return f"{count.about}" if count.is_exact else f"about {count.about} ({count.least} to {count.most})"


def kept_rows(plans: Sequence[PartitionPlan]) -> list[dict[str, object]]:
    return [
        {
            "partition": one.partition.number,
            "messages": one.partition.message_count,
            "oldest": NOT_KNOWN if one.oldest_ms is None else format_time(one.oldest_ms),
            "first_goes": NOT_KNOWN if one.next_ms is None else format_time(one.next_ms),
            "last_append": format_time(one.partition.append_ms) if one.partition.append_ms else "-",
            "on_disk": _on_nodes({node: size(count) for node, count in one.kept_bytes.items()}),
        }
        for one in plans
    ]


def step_rows(plans: Sequence[PartitionPlan], *, is_change: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for one in plans:
        for step in one.steps:
            if step.within_ms is None:
                when = "in the end"
            elif step.within_ms:
                when = f"within {format_duration(step.within_ms)}"
            elif is_change:
                when = "at once"
            else:
                continue
            rows.append(
                {
                    "partition": one.partition.number,
                    "gone": when,
                    "messages": words(step.gone.messages),
                    "frees": _on_nodes({node: size(count) for node, count in step.gone.freed_bytes.items()}),
                    "files": _on_nodes({node: str(count) for node, count in step.gone.freed_files.items()}),
                    "unsettled": "; ".join(
                        [f"{name} {words(count)}" for name, count in step.gone.unsettled.items() if count.most]
                    )
                    or "-",
                }
            )
    return rows


def _on_nodes(texts: dict[int, str]) -> str:
    if not texts:
        return NOT_KNOWN
    if len(texts) == 1:
        return next(iter(texts.values()))
    return ", ".join([f"node {node}: {text}" for node, text in sorted(texts.items())])


def at_once(plans: Sequence[PartitionPlan]) -> Gone | None:
    """What goes the moment the retention is what the plan says, over all partitions; None where there is none."""
    if not plans:
        return None
    total = plans[0].steps[0].gone
    for one in plans[1:]:
        total = add(total, one.steps[0].gone)
    return total


def add(one: Gone, other: Gone) -> Gone:
    return Gone(
        one.messages + other.messages,
        _sum(one.freed_bytes, other.freed_bytes),
        _sum(one.freed_files, other.freed_files),
        {
            name: one.unsettled.get(name, ZERO) + other.unsettled.get(name, ZERO)
            for name in {**one.unsettled, **other.unsettled}
        },
    )


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {node: one.get(node, 0) + other.get(node, 0) for node in {**one, **other}}


def values(one: PartitionPlan) -> dict[str, object]:
    """One partition for JSON; counts with their bounds, sizes by node."""
    partition = one.partition
    return {
        "queue": partition.queue,
        "partition": partition.number,
        "retention_ms": partition.retention_ms,
        "planned_retention_ms": one.retention_ms,
        "messages": partition.message_count,
        "log_start": partition.log_start,
        "log_end": partition.log_end,
        "append_ms": partition.append_ms,
        "oldest_ms": one.oldest_ms,
        "next_ms": one.next_ms,
        "next_file_ms": {str(node): ms for node, ms in one.next_file_ms.items()},
        "kept_bytes": {str(node): count for node, count in one.kept_bytes.items()},
        "problem": partition.problem,
        "steps": [
            {
                "within_ms": step.within_ms,
                "messages": _values(step.gone.messages),
                "freed_bytes": {str(node): count for node, count in step.gone.freed_bytes.items()},
                "freed_files": {str(node): count for node, count in step.gone.freed_files.items()},
                "unsettled": {name: _values(count) for name, count in step.gone.unsettled.items()},
            }
            for step in one.steps
        ],
    }


def _values(count: Count) -> dict[str, int]:
    return {"about": count.about, "least": count.least, "most": count.most}
