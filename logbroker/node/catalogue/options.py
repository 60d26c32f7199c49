"""Settings of a queue that most queues leave as they are: numbered, and kept only where they are not the default.

On disk and in commands they are pairs of number and value in ascending order. A number is never used again; one that
is not known is an error, because an old node must not skip what it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.node.catalogue.rows import Number
from logbroker.partition.dedupe import MAX_DEDUP_COUNT, MAX_DEDUP_WINDOW_MS
from logbroker.partition.failures import DEFAULT_MAX_BACKOFF_MS
from logbroker.partition.limits import MIN_PARTITION_BYTES
from logbroker.partition.ordering import MAX_WINDOW
from logbroker.partition.retention import MAX_AGE_MS, MIN_AGE_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

Pairs: TypeAlias = tuple[tuple[Number, Number], ...]
"""(number of an option, value), ascending, each number once."""

MAX_BACKOFF_MS = 43_200_000
MAX_BACKOFF_FACTOR = 10
MAX_MESSAGES = 1 << 48
MAX_BYTES = 1 << 50
DROP_OLDEST = 1
"""The value of `full` that lets the oldest messages go."""
ORDER_NONE, ORDER_KEY = 0, 1
BLOCK, SKIP = 0, 1
MAX_QUEUE_ID = (1 << 48) - 1


@final
class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All options of a queue."""

    backoff_ms: int = 0
    """How long a message waits after its first failed delivery, where the nack does not say; 0: not at all."""
    max_backoff_ms: int = DEFAULT_MAX_BACKOFF_MS
    backoff_factor: int = 2
    """By how much each further failure lengthens the wait."""
    jitter_percent: int = 20
    """The share of each wait that is left to chance."""
    max_age_ms: int = 0
    """What is unsettled so long after it was appended is dead; 0: never."""
    max_messages: int = 0
    """The most messages that a consumer group may have unsettled; 0: no bound. Partitions share it evenly."""
    max_bytes: int = 0
    """The most bytes of batches, settled or not; 0: no bound. As `max_messages`."""
    full: int = 0
    """What happens at a bound: 0, nothing more is taken; 1, the oldest messages go."""
    rewind_ms: int = MAX_AGE_MS
    """What is settled so long after it was appended cannot be rewound; as long as it is kept where that is shorter."""
    dedup_window_ms: int = 300_000
    """How long ids of messages are remembered, but never longer than the messages; 0: not at all."""
    dedup_count: int = 1_000_000
    """How many of them, in each partition."""
    breaker_percent: int = 0
    """A group is paused for a while when so many of a hundred deliveries fail; 0: never."""
    breaker_count: int = 20
    """So many deliveries at least must have ended before."""
    breaker_window_ms: int = 10_000
    """In this time, that is."""
    breaker_pause_ms: int = 30_000
    window: int = 0
    """How many messages of a group and partition are in flight at most; 0: any number."""
    order: int = ORDER_NONE
    on_failure: int = BLOCK
    """What the messages behind a failed one do."""
    dead_letter_queue: int = 0
    """The id of the queue to which dead messages are moved; 0: they stay where they are."""


class _Option(NamedTuple):
    number: int
    least: int
    most: int
    has_none: bool = False
    """0 stands for none, below the least of what there may be."""


_OPTIONS = {
    "backoff_ms": _Option(1, 0, MAX_BACKOFF_MS),
    "max_backoff_ms": _Option(2, 0, MAX_BACKOFF_MS),
    "backoff_factor": _Option(3, 1, MAX_BACKOFF_FACTOR),
    "jitter_percent": _Option(4, 0, 100),
    "max_age_ms": _Option(5, MIN_AGE_MS, MAX_AGE_MS, has_none=True),
    "max_messages": _Option(6, 0, MAX_MESSAGES),
    "max_bytes": _Option(7, MIN_PARTITION_BYTES, MAX_BYTES, has_none=True),
    "full": _Option(8, 0, DROP_OLDEST),
    "rewind_ms": _Option(9, 0, MAX_AGE_MS),
    "dedup_window_ms": _Option(13, 0, MAX_DEDUP_WINDOW_MS),
    "dedup_count": _Option(14, 1, MAX_DEDUP_COUNT),
    "breaker_percent": _Option(16, 0, 100),
    "breaker_count": _Option(17, 1, 100_000),
    "breaker_window_ms": _Option(18, 1_000, 3_600_000),
    "breaker_pause_ms": _Option(19, 1_000, 86_400_000),
    "window": _Option(10, 0, MAX_WINDOW),
    "order": _Option(11, ORDER_NONE, ORDER_KEY),
    "on_failure": _Option(12, BLOCK, SKIP),
    "dead_letter_queue": _Option(15, 0, MAX_QUEUE_ID),
}
OPTION_NAMES = tuple([name for name in _OPTIONS if name != "dead_letter_queue"])
"""Those that users give and see as they are kept; a queue they know by its name."""
_NAMES = {option.number: name for name, option in _OPTIONS.items()}

DEFAULT_OPTIONS = QueueOptions()


def encode_changes(changes: Mapping[str, int | None]) -> Pairs:
    """The pairs of the options given, by name; None leaves one out."""
    pairs = [(_OPTIONS[name].number, value) for name, value in changes.items() if value is not None]
    return tuple(sorted(pairs))


def encode_options(options: QueueOptions) -> Pairs:
    """The pairs that are not the default."""
    return tuple(
        [
            (option.number, getattr(options, name))
            for name, option in _OPTIONS.items()
            if getattr(options, name) != getattr(DEFAULT_OPTIONS, name)
        ]
    )


def changed(options: QueueOptions, pairs: Pairs) -> QueueOptions:
    """The options with other values.

    Raises:
        CorruptBatchError: a number is unknown, or out of order.
    """
    fault = pairs_fault(pairs)
    if fault is not None:
        raise CorruptBatchError(fault)
    return msgspec.structs.replace(options, **{_NAMES[number]: value for number, value in pairs})


def pairs_fault(pairs: Pairs) -> str | None:
    """Say why these are not the pairs of options, or None."""
    last = 0
    for number, _ in pairs:
        if number not in _NAMES or number <= last:
            return f"option {number} after option {last} is unknown or out of order"
        last = number
    return None


def options_fault(options: QueueOptions) -> str | None:
    """Say which option lies outside its bounds, or None."""
    for name, option in _OPTIONS.items():
        value = getattr(options, name)
        if not option.least <= value <= option.most and not (option.has_none and value == 0):
            none = ", nor 0, which is none" if option.has_none else ""
            return f"{name} {value:,} is not between {option.least:,} and {option.most:,}{none}"
    return None
