"""Dead messages: what the broker says of them, and the ranges that revive some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import InvalidArgumentError
from logbroker_client.settling import join_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.wire.requests import DeadRow
    from logbroker_client.messages import MessageId

DEAD_PAGE = 100
"""Rows of one answer."""
_MAX_RANGES = 1_000


@final
@dataclass(frozen=True, slots=True)
class DeadMessages:
    """Neighbouring messages of a partition, offsets [start, end), that died together.

    `cause` is `rejected`, `max_deliveries` or `ttl`; `reason` is in the words of `consumer`, who held them last. All
    three are empty where the broker cannot read them just now.
    """

    partition: int
    start: int
    end: int
    deliveries: int
    buried_at_ms: int
    cause: str
    reason: str
    consumer: str

    @classmethod
    def of(cls, partition: int, row: DeadRow) -> DeadMessages:
        return cls(partition, row.start, row.end, row.deliveries, row.buried_at_ms, row.cause, row.reason, row.consumer)


def message_ranges(queue: str, messages: Iterable[MessageId]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Join messages into ranges, partition by partition, as few as a request may have.

    Raises:
        InvalidArgumentError: one is of another queue.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for message in messages:
        if message.queue != queue:
            raise InvalidArgumentError(f"message {message} is not one of queue {queue}")
        found.setdefault(message.partition, []).append((message.offset, message.offset + 1))
    for partition, offsets in sorted(found.items()):
        ranges = join_ranges(offsets)
        for first in range(0, len(ranges), _MAX_RANGES):
            yield partition, ranges[first : first + _MAX_RANGES]
