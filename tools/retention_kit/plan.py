"""What goes from a partition by when, and what of it nobody has settled. Pure: facts and times in, figures out.

A message goes when its retention is over, acked or not: at its log time plus the retention. When it was written is
known of the first message of every file and of a few others; between those the number is an estimate, with bounds
that are not. Space comes back by whole files, when the last message in one has gone.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.retention_kit.facts import Group, NodeFiles, Partition


@final
@dataclass(frozen=True, slots=True)
class Count:
    """`about` so many, and no fewer than `least` or more than `most`."""

    about: int
    least: int
    most: int

    @property
    def is_exact(self) -> bool:
        return self.least == self.most

    def __add__(self, other: Count) -> Count:
        return Count(self.about + other.about, self.least + other.least, self.most + other.most)


ZERO = Count(0, 0, 0)


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """The message at `offset` was written at `ms`, or not before, and the one before it not after."""

    offset: int
    ms: int
    is_exact: bool


@final
@dataclass(frozen=True, slots=True)
class Gone:
    """What is gone by one moment. `unsettled` are the messages that a consumer group loses by it."""

    messages: Count
    freed_bytes: dict[int, int]
    """By node."""
    freed_files: dict[int, int]
    unsettled: dict[str, Count]


@final
@dataclass(frozen=True, slots=True)
class Step:
    """`within_ms` from the present: what is gone by then, in all. None: everything that is there today."""

    within_ms: int | None
    gone: Gone


@final
@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """`oldest_ms`: no message is older, if that is known; `next_ms`: none goes before.

    `next_file_ms`: by node, when its first file goes.
    """

    partition: Partition
    retention_ms: int
    oldest_ms: int | None
    next_ms: int | None
    next_file_ms: dict[int, int]
    kept_bytes: dict[int, int]
    steps: tuple[Step, ...]


def plan(partition: Partition, *, retention_ms: int, now_ms: int, horizons_ms: Sequence[int]) -> PartitionPlan:
    """Say what is gone at once, within each horizon, and in the end, if the retention were `retention_ms`.

    `now_ms` is this machine's time; log time may be ahead of it and never goes back.
    """
    now_ms = max(now_ms, partition.append_ms)
    marks = marks_of(partition)
    oldest_ms = marks[0].ms if marks and marks[0].offset == partition.log_start else None
    steps = [
        Step(within_ms, gone_before(partition, now_ms + within_ms - retention_ms + 1))
        for within_ms in (0, *sorted(horizons_ms))
    ]
    everything = Count(partition.message_count, partition.message_count, partition.message_count)
    steps.append(
        Step(
            None,
            Gone(
                everything,
                {one.node: sum([file.size_bytes for file in one.files]) for one in partition.nodes},
                {one.node: len(one.files) for one in partition.nodes},
                {group.name: Count(group.unsettled, group.unsettled, group.unsettled) for group in partition.groups},
            ),
        )
    )
    return PartitionPlan(
        partition,
        retention_ms,
        oldest_ms,
        None if oldest_ms is None or not partition.message_count else oldest_ms + retention_ms,
        {one.node: _ends_ms(partition, one)[0] + retention_ms for one in partition.nodes if one.files},
        steps[-1].gone.freed_bytes,
        tuple(steps),
    )


def marks_of(partition: Partition) -> list[Mark]:
    """What is known of when messages were written, ascending."""
    found: dict[int, Mark] = {}

    def add(offset: int, ms: int, *, is_exact: bool) -> None:
        if partition.log_start <= offset < partition.log_end and (is_exact or offset not in found):
            found[offset] = Mark(offset, ms, is_exact)

    for one in partition.nodes:
        before = [file for file in one.files if file.first_offset <= partition.log_start]
        if before:
            add(partition.log_start, before[-1].first_ms, is_exact=False)
        for file in one.files:
            add(file.first_offset, file.first_ms, is_exact=False)
        if one.last is not None:
            add(*one.last, is_exact=True)
    for group in partition.groups:
        if group.oldest_ms:
            add(group.oldest_offset, group.oldest_ms, is_exact=True)
    return [found[offset] for offset in sorted(found)]


def gone_before(partition: Partition, cutoff_ms: int) -> Gone:
    """What has gone once every message with a log time before `cutoff_ms` has."""
    cut = _cut(partition, cutoff_ms)
    freed_bytes, freed_files = {}, {}
    for one in partition.nodes:
        freed = [
            file.size_bytes
            for file, end_ms in zip(one.files, _ends_ms(partition, one), strict=True)
            if end_ms < cutoff_ms
        ]
        freed_bytes[one.node], freed_files[one.node] = sum(freed), len(freed)
    start = partition.log_start
    messages = Count(cut.about - start, cut.least - start, cut.most - start)
    return Gone(messages, freed_bytes, freed_files, {group.name: _unsettled(group, cut) for group in partition.groups})


def _cut(partition: Partition, cutoff_ms: int) -> Count:
    """The first offset that is kept."""
    start, end = partition.log_start, partition.log_end
    if partition.append_ms < cutoff_ms:
        return Count(end, end, end)
    marks = [*marks_of(partition), Mark(end, partition.append_ms, is_exact=False)]
    place = bisect_left(marks, cutoff_ms, key=lambda mark: mark.ms)
    # The mark is kept, or nothing before the end is known to be.
    kept = marks[min(place, len(marks) - 1)]
    if place == 0:
        return Count(start, start, max(start, kept.offset))
    gone = marks[place - 1]
    least = gone.offset + gone.is_exact
    share = (cutoff_ms - gone.ms) / max(1, kept.ms - gone.ms)
    about = least + int(max(0, kept.offset - least) * min(1.0, share))
    return Count(about, least, max(least, kept.offset))


def _ends_ms(partition: Partition, one: NodeFiles) -> list[int]:
    """For each file a log time that no message in it is later than."""
    following = [file.first_ms for file in one.files[1:]]
    last_ms = partition.append_ms if one.last is None else one.last[1]
    return [*following, last_ms][: len(one.files)]


def _unsettled(group: Group, cut: Count) -> Count:
    """How many of the group's unsettled messages lie before the cut."""
    if not group.unsettled:
        return ZERO

    def before(offset: int) -> int:
        return max(0, min(group.unsettled, offset - group.oldest_offset))

    # What is acked ahead may lie before the cut or behind it.
    least = max(0, min(before(cut.least), cut.least - group.oldest_offset - group.acked_ahead))
    return Count(before(cut.about), least, before(cut.most))
