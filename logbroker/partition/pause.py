"""Whether a consumer group hands anything out: the pause that an operator, or a circuit breaker, has put on it.

A pause that has an end is over once log time reaches it, and nothing is written then. So who asks says the time: the
leader that decides the one that its entry will get, a replica that applies the entry's own.
"""

from __future__ import annotations

from typing import final

import msgspec

from logbroker.partition.commands import Number, Text


@final
class PauseRecord(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Put on at `since_ms` in log time; over at `until_ms`, or where that is 0 when the group is resumed."""

    reason: Text
    since_ms: Number
    until_ms: Number

    def holds_at(self, log_ms: int) -> bool:
        return self.until_ms == 0 or log_ms < self.until_ms
