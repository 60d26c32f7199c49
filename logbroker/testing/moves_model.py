"""What the logs say of messages that went from one partition to another: each is moved once, whole, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logbroker.ids import GroupId, GroupName


@final
@dataclass(slots=True)
class MovedOut:
    """What one partition owed another: `values` by offset. `is_refused` is None until it has ended."""

    number: int
    target: int
    group: GroupName
    values: dict[int, bytes]
    is_refused: bool | None = None
    is_dropped: bool = False
    """Its consumer group was deleted, or retention took all of it, before it ended."""


@final
class ModelMoves:
    """The moves of one partition, out and in."""

    def __init__(self) -> None:
        self.out: dict[int, MovedOut] = {}
        """By number."""
        self.taken: dict[tuple[int, int], list[bytes]] = {}
        """By source and number: what has come."""
        self.refused: set[tuple[int, int]] = set()
        """By source and number: what is never taken."""
        self.counts: dict[str, int] = {}

    def owed(self) -> list[MovedOut]:
        return [row for row in self.out.values() if row.is_refused is None and not row.is_dropped]

    def head(self, target: int) -> MovedOut | None:
        return next((row for row in self.owed() if row.target == target), None)

    def begin(self, row: MovedOut) -> None:
        self.out[row.number] = row
        self.count("moved: begun", len(row.values))

    def end(self, row: MovedOut, *, is_refused: bool) -> None:
        row.is_refused = is_refused
        self.count("moved: refused" if is_refused else "moved: ended", len(row.values))

    def drop_below(self, log_start: int) -> None:
        for row in self.owed():
            if max(row.values) < log_start:
                row.is_dropped = True
                self.count("moved: expired on the way")

    def drop_group(self, name: GroupName) -> None:
        for row in self.owed():
            row.is_dropped = row.is_dropped or row.group == name

    def take(self, source: int, number: int, values: list[bytes], place: str) -> None:
        self._check_next(source, number, place)
        self.taken[source, number] = values
        self.count("moved: taken", len(values))

    def refuse(self, source: int, number: int, place: str) -> None:
        self._check_next(source, number, place)
        self.refused.add((source, number))
        self.count("moved: never taken")

    def _check_next(self, source: int, number: int, place: str) -> None:
        if (source, number) in self.taken or (source, number) in self.refused:
            broken("a message is moved once", f"{place} settles number {number} of group {source} again")
        known = [settled for group, settled in (*self.taken, *self.refused) if group == source]
        newest = max(known, default=0)
        if number < newest:
            broken("messages are moved in order", f"{place} holds number {number} of group {source} after {newest}")

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times


def check_moves(moves: Mapping[GroupId, ModelMoves]) -> None:
    """Compare what was given with what was taken, at the end, when nothing is on its way.

    Raises:
        Violation: a message was lost or doubled, or was taken though it stayed where it was.
    """
    for source, given in moves.items():
        for number, row in given.out.items():
            target = moves.get(_group(row.target))
            taken = None if target is None else target.taken.get((source, number))
            name = f"number {number} of group {source} for group {row.target}"
            # What retention took while it was on its way may be missing, from the front.
            if row.is_refused is False and (not taken or list(row.values.values())[-len(taken) :] != taken):
                broken("what is moved arrives", f"{name} holds {row.values}, the target has {taken}")
            if row.is_refused and (target is None or (source, number) not in target.refused):
                broken("what stays is not moved", f"{name} was given up, and the target has not: it took {taken}")
    for receiver, got in moves.items():
        for (giver, number), values in got.taken.items():
            known = moves[_group(giver)].out.get(number) if _group(giver) in moves else None
            if known is None or known.target != receiver:
                broken("what is taken was given", f"group {receiver} has {values} as number {number} of group {giver}")


def _group(number: int) -> GroupId:
    return number  # type: ignore[return-value]  # a GroupId that was stored as a plain number
