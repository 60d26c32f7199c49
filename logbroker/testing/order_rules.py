"""What must hold of each lease of a queue that has a window or keeps the order of its keys.

Judged when the entry of a lease is committed, by a look at every message of the group. It is part of the model: it must
not import what it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.ids import LeaseId
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from logbroker.testing.model import GrantedLease, ModelGroup, PartitionModel

_LATE_MS = 250
"""What became due so shortly before an entry was not when it was decided; deadlines are up to 100 ms late."""

AVAILABLE, LEASED, DELAYED = "available", "leased", "delayed"


@final
@dataclass(frozen=True, slots=True)
class _Open:
    """A message that is not settled, as it is after the entry."""

    offset: int
    state: str
    visible_at_ms: int
    lease: LeaseId
    key: bytes | None


@final
@dataclass(slots=True)
class OrderRules:
    """`window` is at least 1. With `blocks` what waits after a failure is in flight."""

    window: int
    by_key: bool
    blocks: bool
    counts: dict[str, int] = field(default_factory=dict)

    def check(self, model: PartitionModel, group: ModelGroup, granted: GrantedLease) -> None:
        """Judge a lease that was made by the newest entry of the model."""
        place = f"entry {granted.index} (log time {granted.append_ms}) leases {granted.ranges} of {group.name}"
        taken = {offset for start, end, _ in granted.ranges for offset in range(start, end)}
        unsettled = _unsettled(model, group, granted.append_ms)
        flight = [message for message in unsettled if self._is_in_flight(message, granted.append_ms)]
        if len(flight) > self.window:
            broken("no more than the window is in flight", f"{place}, and {len(flight)} are in flight")
        if self.window == 1 and self.blocks and unsettled[0].offset not in taken:
            broken("with a window of one nothing is overtaken", f"{place} before {unsettled[0]}")
        if self.by_key:
            self._check_keys(place, unsettled, flight, taken, granted.append_ms)
        self._count_situations(unsettled, flight, taken)

    def _is_in_flight(self, message: _Open, append_ms: int) -> bool:
        waits = self.blocks and message.state == DELAYED
        return (waits or message.state == LEASED) and message.visible_at_ms > append_ms

    def _check_keys(
        self, place: str, unsettled: list[_Open], flight: list[_Open], taken: set[int], append_ms: int
    ) -> None:
        held = {message.key: message for message in flight if message.offset not in taken}
        first: dict[bytes, _Open] = {}
        for message in unsettled:
            if message.key is None:
                continue
            if message.offset not in taken:
                may_wait = message.state == DELAYED and not self.blocks and message.visible_at_ms > append_ms - _LATE_MS
                if not may_wait:
                    first.setdefault(message.key, message)
                continue
            if message.key in held:
                broken("a key is in flight once", f"{place}: offset {message.offset} while {held[message.key]}")
            if message.key in first:
                broken("of a key the lowest goes first", f"{place}: {message.offset} before {first[message.key]}")

    def _count_situations(self, unsettled: list[_Open], flight: list[_Open], taken: set[int]) -> None:
        self._count("order: leases judged")
        if len(flight) == self.window:
            self._count("order: the window is full")
        last = max(taken)
        waiting = {message.key for message in unsettled if message.state == DELAYED} - {None}
        for message in unsettled:
            if message.offset >= last:
                break
            if message.state == AVAILABLE and message.offset not in taken and self.by_key:
                self._count("order: passed over a key that is locked")
                if self.blocks and message.key in waiting:
                    self._count("order: passed over a key that waits after a failure")
        if not self.blocks and any(message.key in waiting for message in unsettled if message.offset in taken):
            self._count("order: a failed message is overtaken by the next of its key")
        if any(message.state == AVAILABLE and message.offset > last for message in unsettled) and not self.by_key:
            self._count("order: left something for want of room or asking")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _unsettled(model: PartitionModel, group: ModelGroup, append_ms: int) -> list[_Open]:
    """All but what is not due yet, too old to be delivered, or never will be: that takes no room and no turn."""
    found: list[_Open] = []
    for offset in range(model.log_start_offset, model.next_offset):
        if offset in model.schedule.cancelled or model.schedule.is_waiting(offset, append_ms):
            continue
        message = group.messages.get(offset)
        key = model.keys[offset]
        if message is None:
            if offset >= group.start_offset and not _is_old(model, offset, append_ms):
                found.append(_Open(offset, AVAILABLE, 0, LeaseId(0), key))
        elif message.state.value == LEASED or (
            message.state.value in (AVAILABLE, DELAYED) and not _is_old(model, offset, append_ms)
        ):
            found.append(_Open(offset, message.state.value, message.visible_at_ms, message.lease, key))
    return found


def _is_old(model: PartitionModel, offset: int, append_ms: int) -> bool:
    return model.max_age_ms > 0 and model.entry_at(offset)[1] + model.max_age_ms <= append_ms
