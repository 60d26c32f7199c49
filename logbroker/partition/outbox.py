"""What a partition owes to others, message by message, and what it has got from others: each is moved exactly once.

A change of the source's own log names the messages and the target; its place in the log is its number. Only what is
applied is sent, to each target one number at a time and in order: the next follows once a change of the source's log
says that the target has the one before. The target keeps the highest number of each source, in the entry that holds the
messages, and takes nothing at or below it. So a number that is sent again, by whichever leader, is known, and none is
left out. There is no number of the one before to compare, because what retention takes meanwhile is never sent.

A number that cannot be moved is given up by the target, never by the source: an earlier leader may have sent it, and it
may have been taken, or may still arrive. The target's log says that it is never taken, or that it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.partition.commands import Name, Number, Ranges, range_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.ids import GroupName

MAX_OWED = 256
"""Rows in the outbox; a leader adds none beyond."""
MAX_SOURCES = 10_000
"""Partitions from which one has got messages; a cluster has no more."""


@final
class Owed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Messages of a consumer group that are being moved; `number` is named as a lease is, `target` is a Raft group."""

    number: Number
    target: Number
    group: Name
    ranges: Ranges


@final
class Outbox:
    """What is owed, in the order of numbers."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Iterable[Owed] = ()) -> None:
        # Never changed in place, so that clones may share it; it is short.
        self._rows = {row.number: row for row in rows}

    @classmethod
    def decode(cls, rows: Iterable[Owed]) -> Outbox:
        """Build it from its rows.

        Raises:
            CorruptBatchError: they are out of order, too many, or name no messages.
        """
        last = 0
        box = cls(rows)
        for row in box.rows():
            fault = range_fault(row.ranges)
            if row.number <= last or fault is not None:
                raise CorruptBatchError(f"what is owed as number {row.number} follows {last}: {fault}")
            last = row.number
        if len(box) > MAX_OWED:
            raise CorruptBatchError(f"{len(box)} rows in the outbox; the most is {MAX_OWED}")
        return box

    def clone(self) -> Outbox:
        other = Outbox()
        other._rows = self._rows
        return other

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> Iterator[Owed]:
        return iter(self._rows.values())

    def heads(self) -> list[Owed]:
        """The first row of each target: what may be sent now."""
        first: dict[int, Owed] = {}
        for row in self._rows.values():
            first.setdefault(row.target, row)
        return list(first.values())

    def count_for(self, target: int) -> int:
        return sum([row.target == target for row in self._rows.values()])

    def head(self, target: int) -> Owed | None:
        return next((row for row in self._rows.values() if row.target == target), None)

    def add(self, row: Owed) -> None:
        self._rows = {**self._rows, row.number: row}

    def remove(self, number: int) -> None:
        self._rows = {row.number: row for row in self._rows.values() if row.number != number}

    def drop_below(self, start: int) -> None:
        """Forget what retention has taken."""
        if any(row.ranges[0][0] < start for row in self._rows.values()):
            cut = [
                Owed(row.number, row.target, row.group, tuple((max(a, start), b) for a, b in row.ranges if b > start))
                for row in self._rows.values()
            ]
            self._rows = {row.number: row for row in cut if row.ranges}

    def drop_group(self, group: GroupName) -> None:
        self._rows = {row.number: row for row in self._rows.values() if row.group != group}


@final
class SourceRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The highest number of a Raft group that was taken, or refused for good."""

    source: Number
    number: Number
    is_refused: bool


@final
class Inbox:
    """How far this partition has taken what others owe it."""

    __slots__ = ("_rows",)

    def __init__(self, rows: dict[int, SourceRow] | None = None) -> None:
        # Never changed in place, as in `Outbox`.
        self._rows = rows or {}

    @classmethod
    def decode(cls, rows: Iterable[SourceRow]) -> Inbox:
        """Build it from its rows. Raises CorruptBatchError where they are out of order or too many."""
        known: dict[int, SourceRow] = {}
        for row in rows:
            if known and row.source <= next(reversed(known)):
                raise CorruptBatchError(f"source {row.source} is out of order")
            known[row.source] = row
        if len(known) > MAX_SOURCES:
            raise CorruptBatchError(f"{len(known)} sources; the most is {MAX_SOURCES}")
        return cls(known)

    def clone(self) -> Inbox:
        return Inbox(self._rows)

    def rows(self) -> list[SourceRow]:
        return list(self._rows.values())

    def has(self, source: int, number: int) -> bool:
        """Whether it is settled what becomes of a number."""
        row = self._rows.get(source)
        return row is not None and number <= row.number

    def is_refused(self, source: int, number: int) -> bool:
        """Whether a number is never taken; known of the highest one alone, and nobody asks for others."""
        row = self._rows.get(source)
        return row is not None and row.number == number and row.is_refused

    def is_full_for(self, source: int) -> bool:
        return len(self._rows) >= MAX_SOURCES and source not in self._rows

    def forget(self, source: int) -> None:
        self._rows = {other: row for other, row in self._rows.items() if other != source}

    def take(self, source: int, number: int) -> None:
        self._settle(SourceRow(source, number, is_refused=False))

    def refuse(self, source: int, number: int) -> None:
        self._settle(SourceRow(source, number, is_refused=True))

    def _settle(self, row: SourceRow) -> None:
        self._rows = dict(sorted({**self._rows, row.source: row}.items()))
