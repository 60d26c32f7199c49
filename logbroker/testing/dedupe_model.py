"""What the log says of messages with ids of their own: within its window an id is delivered once.

It looks at the ids themselves, never at their hashes, and goes over all it knows for each message: slow, and easy to
believe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.partition.commands import Dedupe
from logbroker.record.dedup_ids import DEDUP_HEADER, NO_ID, id_hash
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.entry import Entry
    from logbroker.ids import Index
    from logbroker.partition.commands import Change
    from logbroker.record.batch import Record


@final
@dataclass(frozen=True, slots=True)
class FirstMessage:
    """One that was the first of its id, and so is delivered; `number` counts those of the partition."""

    number: int
    name: bytes
    value: bytes
    offset: int
    append_ms: int
    index: Index


@final
@dataclass(frozen=True, slots=True)
class Repeat:
    """One whose id was known: of `first`, with the same value, or in `conflict` with it. It is never delivered.

    Whoever sends a message again that was cancelled is not told that it was sent.
    """

    first: FirstMessage
    is_conflict: bool


@final
class ModelIds:
    """The ids of one partition."""

    def __init__(self) -> None:
        self.firsts: list[FirstMessage] = []
        """All that ever were, in the order of the log."""
        self.by_offset: dict[int, FirstMessage] = {}
        self.repeats: dict[int, Repeat] = {}
        """By offset."""
        self.counts: dict[str, int] = {}
        self.window_ms = 0
        self.max_count = 0
        self.looked_ms = 0
        self._prepared: tuple[Index, int, Dedupe] | None = None

    def prepare(self, entry: Entry, changes: Sequence[Change]) -> None:
        """Note what a STATE entry says of the batch of the next one."""
        found = [change for change in changes if isinstance(change, Dedupe)]
        self._prepared = (entry.index, entry.term, found[0]) if found else None

    def of(self, entry: Entry, *, is_data: bool) -> Dedupe | None:
        """The ids of this entry's batch by the entry before it, None where that says nothing."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared[1] != entry.term:
            return None
        if not is_data:
            broken("nothing comes between a batch and its ids", f"entry {entry.index} is {entry.kind.name}")
        return prepared[2]

    def remembered(self) -> list[int]:
        """Offsets of the firsts that counted when the last batch with ids was appended, or were in it."""
        newest = self.firsts[-self.max_count :] if self.max_count else []
        return [first.offset for first in newest if self.looked_ms - first.append_ms < self.window_ms]

    def known(self, name: bytes, *, log_ms: int, next_number: int | None = None) -> FirstMessage | None:
        """The first message of an id that counts at that log time, `next_number` firsts being in the log."""
        newest = len(self.firsts) if next_number is None else next_number
        for first in reversed(self.firsts[:newest]):
            if newest - first.number > self.max_count or log_ms - first.append_ms >= self.window_ms:
                return None
            if first.name == name:
                return first
        return None

    def count_at(self, index: Index) -> int:
        """How many firsts there were after the entry at `index`."""
        return next((first.number for first in self.firsts if first.index > index), len(self.firsts))

    def append(
        self, entry: Entry, records: Sequence[Record], change: Dedupe | None, *, is_cancelled: Callable[[int], bool]
    ) -> list[int]:
        """Take a batch; return the offsets that nothing may deliver."""
        names = [dict(record.headers).get(DEDUP_HEADER) for record in records]
        told = [NO_ID if name is None else id_hash(name) for name in names]
        if b"".join(told) != (change.hashes if change is not None else NO_ID * len(records)):
            broken("a batch stands behind the ids of its messages", f"entry {entry.index} has {names!r}: {change}")
        if change is None:
            return []
        self.window_ms, self.max_count = change.window_ms, change.max_count
        self.looked_ms = entry.append_ms
        repeated = [
            entry.base_offset + position
            for position, (name, record) in enumerate(zip(names, records, strict=True))
            if name is not None
            and self._take(entry, entry.base_offset + position, name, record.value or b"", is_cancelled)
        ]
        if len(repeated) == len(records):
            self._count("ids: batches that repeat all")
        return repeated

    def _take(self, entry: Entry, offset: int, name: bytes, value: bytes, is_cancelled: Callable[[int], bool]) -> bool:
        """Whether it is a repeat."""
        first = self.known(name, log_ms=entry.append_ms)
        if first is None:
            if any(earlier.name == name for earlier in self.firsts):
                self._count("ids: new again after their window")
            first = FirstMessage(len(self.firsts), name, value, offset, entry.append_ms, entry.index)
            self.firsts.append(first)
            self.by_offset[offset] = first
            self._count("ids")
            return False
        is_conflict = first.value != value or is_cancelled(first.offset)
        self.repeats[offset] = Repeat(first, is_conflict)
        self._count("ids: conflicts" if is_conflict else "ids: duplicates")
        return True

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
