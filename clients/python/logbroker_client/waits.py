"""What clients, producers and consumers ask of the event loop that they run on. They know no other."""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from logbroker_client.pending import Environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class WaitAmong(Protocol):
    def __call__(
        self, waiters: dict[object, Any], note: object = None, *, undo: Callable[[], None] | None = None
    ) -> Awaitable[None]:
        """Wait until the environment's `wake` is called with these waiters; `note` is kept beside the waiter.

        Where a task can be cancelled after it was woken and before it runs, `undo` takes back what waking gave it.
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How to wait on one kind of event loop; `among` belongs to the `wake` of an `Environment`."""

    among: WaitAmong
    checkpoint: Callable[[], Awaitable[None]]
    """Let others run, and be cancelled."""
    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    """Be cancelled if that was asked for before; where a loop does not tell, the next wait does it."""
    within: Callable[[float, Callable[[], Awaitable[None]]], Awaitable[None]]
    """Run something for so many seconds at the most, and go on without a word when they are over."""


class RunningTransport(Protocol):
    """What drives a core, for the time of a client's block."""

    async def run(self) -> None:
        """Until cancelled, or until `close` has ended everything."""
        ...

    def close(self) -> None:
        """Begin to end: send what there is, say goodbye."""
        ...


def system_environment(
    *, clock: Callable[[], float], wake: Callable[[dict[object, None]], None], on_work: Callable[[], None]
) -> Environment:
    """The environment of a core on an event loop, with chance, ids and the time of day from the system."""
    return Environment(
        clock=clock,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        chance=random.random,
        new_id=lambda: secrets.randbits(62) + 1,
        wake=wake,
        on_work=on_work,
    )
