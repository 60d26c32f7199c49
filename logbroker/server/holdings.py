"""Leases that one connection has and that go back when it ends: those of receives and streams that ask for it.

What is settled over the connection is forgotten here, and what has run out. What becomes of a lease otherwise, over
another connection or by a rewind, is not known here and need not be: a lease that is over is not given back once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupId, GroupName, LeaseId

LOOK_S = 1.0
"""Between two looks at what has run out."""


@final
@dataclass(slots=True)
class Held:
    """One lease of the connection."""

    group: GroupId
    lease: LeaseId
    consumer_group: GroupName
    left_count: int
    """Messages that were not settled over this connection."""
    until_s: float
    """When the last of them is not hidden any more, by the clock of the service."""
    end: int
    """Where its reply ends in the outgoing bytes of the connection."""

    @property
    def key(self) -> tuple[GroupId, LeaseId]:
        return self.group, self.lease


@final
class Holdings:
    """Methods give those that were forgotten by them. Times are readings of the service's clock, in seconds."""

    def __init__(self, *, max_count: int) -> None:
        self._max_count = max_count
        # In the order they came.
        self._held: dict[tuple[GroupId, LeaseId], Held] = {}
        self._look_s = 0.0

    def __contains__(self, key: tuple[GroupId, LeaseId]) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def add(self, held: Held, *, now_s: float) -> list[Held]:
        """Remember a lease, or what is told of it again; beyond the bound the oldest is left to its hide time."""
        self._held.pop(held.key, None)
        forgotten = []
        if len(self._held) >= self._max_count:
            forgotten = self._expire(now_s)
        if len(self._held) >= self._max_count:
            forgotten.append(self._held.pop(next(iter(self._held))))
        self._held[held.key] = held
        return forgotten

    def settle(self, key: tuple[GroupId, LeaseId], count: int) -> list[Held]:
        """So many of its messages are not leased any more."""
        held = self._held.get(key)
        if held is None:
            return []
        held.left_count -= count
        return self.drop(key) if held.left_count <= 0 else []

    def extend(self, key: tuple[GroupId, LeaseId], until_s: float) -> None:
        """Some of its messages are hidden until then; others may be for longer."""
        held = self._held.get(key)
        if held is not None:
            held.until_s = max(held.until_s, until_s)

    def drop(self, key: tuple[GroupId, LeaseId]) -> list[Held]:
        """It is over."""
        held = self._held.pop(key, None)
        return [] if held is None else [held]

    def expire(self, now_s: float) -> list[Held]:
        """Forget what has run out. May be called often: it looks once in a while."""
        return self._expire(now_s) if self._held and now_s >= self._look_s else []

    def clear(self) -> list[Held]:
        held, self._held = list(self._held.values()), {}
        return held

    def _expire(self, now_s: float) -> list[Held]:
        over = [held for held in self._held.values() if held.until_s <= now_s]
        for held in over:
            del self._held[held.key]
        self._look_s = now_s + LOOK_S
        return over
