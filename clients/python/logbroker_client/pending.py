"""What callers wait for, and what the core asks of the transport that drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.wire.requests import AnyReply
    from logbroker_client.links import Link


class Pending:
    """Something that is settled once. `waiters` are the transport's own objects, in order."""

    __slots__ = ("is_done", "waiters")

    def __init__(self) -> None:
        self.is_done = False
        self.waiters: dict[object, None] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The core's only way out: time, chance, and waking those who wait."""

    clock: Callable[[], float]
    """Seconds, monotonic."""
    wall_ms: Callable[[], int]
    chance: Callable[[], float]
    """In [0, 1)."""
    new_id: Callable[[], int]
    """Random, 63 bits, never 0."""
    wake: Callable[[dict[object, None]], None]
    """Wakes the waiters and empties the dictionary."""
    on_work: Callable[[], None]
    """There are links to dial, or an earlier timer."""


class Asked(Protocol):
    """What stands behind a request on a link until its reply comes."""

    def on_reply(self, reply: AnyReply, body: bytes) -> None: ...

    def on_lost(self) -> None:
        """The link ended without a reply: the outcome is unknown."""
        ...


class Lane(Protocol):
    """Work of one partition that turns into requests only when its leader's link can take them."""

    queue: str
    partition: int
    is_marked: bool

    def pump(self, link: Link) -> bool:
        """Make requests while the link takes them; give whether more are ready than it took."""
        ...

    def sweep(self, now: float) -> bool:
        """Give up what is past its deadline; give whether anything is left to look after."""
        ...
