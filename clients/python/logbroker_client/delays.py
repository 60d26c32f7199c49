"""Messages that are to be delivered later: when that is, and what a cancellation came to."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, TypeAlias, final

from logbroker.errors import InvalidArgumentError

if TYPE_CHECKING:
    from datetime import datetime

Delay: TypeAlias = tuple[int, int]
"""delay_ms and deliver_at_ms of a batch; one of them at least is 0."""
AT_ONCE: Delay = (0, 0)
_MAX_DELAY_S = 1e10


@final
@dataclass(frozen=True, slots=True)
class Cancelled:
    """Of the messages asked for, `cancelled` are never delivered to anybody.

    For the `late` ones it was too late: they were due by then, or not delayed at all, or taken by retention or a move
    to another queue.
    """

    cancelled: int
    late: int


def delay_of(delay: float, deliver_at: datetime | None) -> Delay:
    """The wire's form of when messages are to be delivered, `delay` in seconds.

    Raises:
        InvalidArgumentError: both are given, or one makes no sense.
    """
    if deliver_at is None:
        if not 0 <= delay <= _MAX_DELAY_S:
            raise InvalidArgumentError(f"delay is {delay} s, outside 0 to {_MAX_DELAY_S:.0f}")
        return (ceil(delay * 1000), 0) if delay else AT_ONCE
    if delay:
        raise InvalidArgumentError(f"a delay of {delay} s and deliver_at {deliver_at} exclude each other")
    if deliver_at.tzinfo is None:
        raise InvalidArgumentError(f"{deliver_at} has no time zone", hint="datetime.now(tz=UTC), for instance")
    return (0, max(1, ceil(deliver_at.timestamp() * 1000)))
