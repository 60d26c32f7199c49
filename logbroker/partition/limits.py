"""How much a partition may hold, and what has to go where that is passed. Only the leader looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import QueueFullError
from logbroker.ids import Offset

if TYPE_CHECKING:
    from logbroker.partition.machine import PartitionMachine

MIN_PARTITION_BYTES = 1 << 20
"""A partition is given room for one batch at the least, however many partitions share what their queue may hold."""
OVERSHOOT_PERCENT = 1
OVERSHOOT_COUNT = 1_000
OVERSHOOT_BYTES = 1 << 20
"""The oldest go once a tick; at once where the bound is passed by more than the percentage, or by these if that is
more. So the log holds few entries that say so."""


@final
@dataclass(frozen=True, slots=True)
class SizeLimits:
    """Bounds of one partition, 0 for none: of the unsettled messages of the group that has most, and of all batches.

    They are for what producers send. What is moved here was confirmed long ago: it is taken, and counts.
    """

    max_messages: int = 0
    max_bytes: int = 0
    drops_oldest: bool = False
    """Where a bound is passed the oldest messages go; else nothing more is taken."""

    @property
    def is_bounded(self) -> bool:
        return bool(self.max_messages or self.max_bytes)


NO_LIMITS = SizeLimits()


def unsettled_count(machine: PartitionMachine) -> int:
    """Unsettled messages of the consumer group that has most of them; its cost is the number of groups."""
    return max(machine.group(name).unsettled_count(machine.next_offset) for name in machine.groups)


def check_room(machine: PartitionMachine, limits: SizeLimits, *, count: int, size_bytes: int, held_bytes: int) -> None:
    """Refuse a batch of `count` messages in `size_bytes` to a partition that would hold too much with it.

    Raises:
        QueueFullError: naming the bound, what there is and what would come.
    """
    hint = "there is room when consumers settle messages, retention removes them, or the bound is raised"
    place = f"partition group {machine.group_id}"
    # What adds nothing is let in where there is too much already, after a rewind.
    if limits.max_messages and count:
        held = unsettled_count(machine)
        if held + count > limits.max_messages:
            raise QueueFullError(
                f"{place} has {held:,} unsettled messages, and {count:,} more would pass its most of "
                f"{limits.max_messages:,}",
                hint=hint,
            )
    if limits.max_bytes and held_bytes + size_bytes > limits.max_bytes:
        raise QueueFullError(
            f"{place} retains {held_bytes:,} bytes of messages, and {size_bytes:,} more would pass its most of "
            f"{limits.max_bytes:,}",
            hint=hint,
        )


def is_far_beyond(held: int, most: int, overshoot: int) -> bool:
    """Whether a bound is passed so far that the oldest have to go at once."""
    return held > most + max(most * OVERSHOOT_PERCENT // 100, overshoot)


def is_just_beyond(held: int, most: int, overshoot: int) -> bool:
    """Whether a bound is passed at all."""
    del overshoot
    return held > most


def first_offset_within(machine: PartitionMachine, max_messages: int) -> Offset:
    """The lowest log start with which no consumer group has more than so many unsettled messages."""
    start = machine.log_start_offset
    for name in machine.groups:
        group = machine.group(name)
        surplus = group.unsettled_count(machine.next_offset) - max_messages
        if surplus > 0:
            start = Offset(max(start, group.end_of_unsettled(surplus)))
    return start
