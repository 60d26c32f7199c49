"""Messages that go from one queue to another: what is known of one that did, and where a redrive takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from logbroker.errors import InvalidArgumentError
from logbroker_client.partitioner import partition_of
from logbroker_client.settling import join_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from logbroker_client.messages import MessageId
    from logbroker_client.peeking import PeekedMessage

_MAX_RANGES = 1_000
"""Of one request."""

Destination: TypeAlias = tuple[str, int]
"""A queue and a partition of it."""


@final
@dataclass(frozen=True, slots=True)
class RedriveProgress:
    """How far a redrive is: `moved` messages are on their way, `skipped` ones stay, and about `left` come next."""

    moved: int
    skipped: int
    left: int


@final
class RedrivePlan:
    """Sorts messages of a dead-letter queue by where they go."""

    def __init__(
        self, *, to: str | None, where: Callable[[PeekedMessage], bool] | None, partitions: Callable[[str], int]
    ) -> None:
        """`partitions` tells how many a queue has, 0 for one that does not exist."""
        self._to = to
        self._where = where
        self._partitions = partitions
        self.skipped = 0

    def sorted(self, messages: Iterable[PeekedMessage]) -> dict[Destination, list[tuple[int, int]]]:
        """Ranges by destination; what does not go anywhere is counted as skipped."""
        found: dict[Destination, list[tuple[int, int]]] = {}
        for message in messages:
            to = self._destination(message)
            if to is None:
                self.skipped += 1
            else:
                found.setdefault(to, []).append((message.offset, message.offset + 1))
        return {to: join_ranges(offsets) for to, offsets in found.items()}

    def _destination(self, message: PeekedMessage) -> Destination | None:
        if message.state != "available" or message.corrupt is not None:
            return None
        history = message.history
        queue = self._to or (history.origin.queue if history is not None else "")
        # Its own queue would be no move; a queue that is gone takes nothing.
        if not queue or queue == message.id.queue or (self._where is not None and not self._where(message)):
            return None
        count = self._partitions(queue)
        if not count:
            return None
        origin = message.id if history is None else history.origin
        if message.key is not None and (queue != origin.queue or origin.partition >= count):
            # Where others of its key are, or will be: an order by key is one of a partition.
            return queue, partition_of(message.key, count)
        return queue, origin.partition % count


def origins(messages: Iterable[PeekedMessage]) -> set[str]:
    """The queues from which messages came."""
    return {
        message.history.origin.queue for message in messages if message.corrupt is None and message.history is not None
    }


def move_ranges(queue: str, messages: Iterable[MessageId]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Join messages into ranges, partition by partition, as few as a request may have.

    Raises:
        InvalidArgumentError: one is of another queue.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for message in messages:
        if message.queue != queue:
            raise InvalidArgumentError(f"message {message} is not one of queue {queue}")
        found.setdefault(message.partition, []).append((message.offset, message.offset + 1))
    return [(partition, part) for partition, offsets in sorted(found.items()) for part in pieces(join_ranges(offsets))]


def pieces(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """As many ranges as a request may have, and the next so many."""
    return [ranges[first : first + _MAX_RANGES] for first in range(0, len(ranges), _MAX_RANGES)]
