"""How long messages are kept, and how long they may stay unsettled: bounds, and which append times have expired.

Expiry is exact in log time. The leader writes it as a FLOOR entry; files go later, and are not this module's matter.
"""

from __future__ import annotations

from logbroker.errors import InvalidArgumentError

MIN_RETENTION_S = 60
MAX_RETENTION_S = 1_296_000
"""Fifteen days."""
MIN_AGE_MS = 1_000
MAX_AGE_MS = MAX_RETENTION_S * 1000
"""Bounds of a queue's time to live, where it has one."""


def check_retention_s(retention_s: int, *, field: str = "retention_s") -> int:
    """Return `retention_s` if it is within its bounds.

    Raises:
        InvalidArgumentError: it is not; the message names the field and the bound that it breaks.
    """
    if retention_s < MIN_RETENTION_S:
        raise InvalidArgumentError(
            f"{field} {retention_s} is below its minimum of {MIN_RETENTION_S} s (the most is {MAX_RETENTION_S})"
        )
    if retention_s > MAX_RETENTION_S:
        raise InvalidArgumentError(
            f"{field} {retention_s} is above its maximum of {MAX_RETENTION_S} s (the least is {MIN_RETENTION_S})"
        )
    return retention_s


def first_kept_ms(now_ms: int, *, retention_s: int) -> int:
    """Return the lowest append time that has not expired at log time `now_ms`.

    A message appended at t is kept while now - t < retention: the new log start is the first message with an append
    time at or above the result.
    """
    return now_ms - check_retention_s(retention_s) * 1000 + 1


def first_young_ms(now_ms: int, *, max_age_ms: int) -> int:
    """Return the lowest append time that is within a time to live of `max_age_ms` at log time `now_ms`.

    A message appended at t may be leased while now - t < max_age_ms.
    """
    return now_ms - max_age_ms + 1
