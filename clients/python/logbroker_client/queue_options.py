"""What may be chosen for a queue, and how it is said on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, final

from logbroker.errors import InvalidArgumentError
from logbroker.wire.requests import QueueSettings

if TYPE_CHECKING:
    from datetime import timedelta


@final
class QueueOptions(TypedDict, total=False):
    """Keywords of `create_queue` and `alter_queue` that most queues do without.

    What is not given is the default, or stays as it is. Times are in seconds.
    """

    backoff: float
    """How long a message waits after its first failed delivery where `nack` gets no delay. The default, 0, is not at
    all."""
    max_backoff: float
    """The longest such wait; one hour by default."""
    backoff_factor: int
    """By how much each further failure lengthens the wait, 1 to 10; 2 by default."""
    jitter: float
    """The share of each wait that is left to chance, 0 to 1; 0.2 by default."""
    max_age: float
    """A message that is not settled so long after it was produced is dead (`Client.dead` tells "ttl"), once for each
    consumer group; whoever holds it then may still settle it. 1 to 1296000; the default, 0, is never."""
    max_messages: int
    """The most messages that a consumer group may have unsettled; the default, 0, is no bound. Each partition has an
    even share of it, and goes by that alone. What other queues move here, as dead letters, is always taken."""
    max_bytes: int
    """The most bytes of batches that the queue keeps, settled messages too, until retention takes them. At least 1 MiB
    a partition; shared and by default as `max_messages`."""
    full: Literal["reject", "drop_oldest"]
    """What happens at such a bound: `send` is refused, and tried again until its timeout, when it raises
    QueueFullError; or the oldest messages go, whoever has not settled them. "reject" by default."""
    rewind_window: float
    """How long after it was produced a settled message can be rewound; 0: never. By default, and at the most, as long
    as it is kept. A longer one does not bring back what was outside before."""
    breaker: float
    """The share of failed deliveries, 0.01 to 1, at which a consumer group is paused for a while instead of failing on.
    The default, 0, is never. Each partition counts, and is paused, for itself."""
    breaker_count: int
    """How many deliveries must have ended before, 1 to 100,000; 20 by default."""
    breaker_window: float
    """In which time they are counted, 1 s to 1 h; 10 s by default."""
    breaker_pause: float
    """How long the group is paused, 1 s to 24 h; 30 s by default."""
    window: int
    """How many messages of a group and partition are in flight at most, 1 to 10,000; with 1 none is delivered before
    all that went before it is settled. The default, 0, is any number."""
    order: Literal["none", "key"]
    """`key`: of the messages of a key, only those of one `receive` are in flight at once, lowest first. Others flow."""
    on_failure: Literal["block", "skip"]
    """What the messages behind a failed one do, where there is a window or an order: wait until it is settled, which is
    the default, or go on while it waits."""
    dead_letter: str
    """The queue to which messages are moved when they are dead. The default, empty, is none: they stay, as dead."""
    dedup_window: float
    """How long the `dedup_id` of a message is remembered, up to a day and never longer than the messages; 300 by
    default, and 0 is not at all."""
    dedup_count: int
    """How many of them in each partition, up to ten million; a million by default."""


def queue_settings(
    partitions: int, retention: timedelta, hide: float, max_wait: float, max_deliveries: int, options: QueueOptions
) -> QueueSettings:
    """Settings of a new queue; as `wire_options`."""
    return QueueSettings(
        partitions=natural("partitions", partitions),
        retention_ms=milliseconds("retention", retention.total_seconds()),
        hide_ms=milliseconds("hide", hide),
        max_wait_ms=milliseconds("max_wait", max_wait),
        max_delivery_count=max_deliveries,
        **wire_options(options),
    )


def milliseconds(name: str, seconds: float) -> int:
    """A duration in the wire's unit. Raises InvalidArgumentError outside of what makes sense."""
    if not 0 < seconds <= 1e10:
        raise InvalidArgumentError(f"{name} is {seconds} s, outside 0 to 10000000000")
    return round(seconds * 1000)


def natural(name: str, value: int) -> int:
    """The value, if it is a count. Raises InvalidArgumentError."""
    if not 1 <= value < 1 << 32:
        raise InvalidArgumentError(f"{name} is {value}, outside 1 to {(1 << 32) - 1}")
    return value


def wire_options(options: QueueOptions) -> dict[str, Any]:
    """The fields of QueueSettings and QueueChanges for the options given.

    Raises:
        InvalidArgumentError: one is unknown, or of another kind; bounds, words and queues are the broker's to check.
    """
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if name in _NAMES:
            if not isinstance(value, str):
                raise InvalidArgumentError(f"{name} {value!r} is not the name of a queue")
            fields[name] = value
            continue
        if name in _WORDS and isinstance(value, str):
            fields[name] = value
            continue
        if name not in _FIELDS:
            if name in _WORDS:
                raise InvalidArgumentError(f"{name} {value!r} is not a word")
            known = ", ".join((*_FIELDS, *_WORDS, *_NAMES))
            raise InvalidArgumentError(f"there is no option {name!r} of a queue; there are {known}")
        field, factor = _FIELDS[name]
        if isinstance(value, str) and name == "full" and value in _FULL:
            value = _FULL.index(value)
        if not isinstance(value, (int, float)) or not 0 <= value < _TOO_LARGE:
            raise InvalidArgumentError(f"{name} {value!r} is not a number of 0 or more")
        fields[field] = round(value * factor)
    return fields


_TOO_LARGE = 1 << 60
_FULL = ("reject", "drop_oldest")
# Options that are names, and called alike on the wire.
_NAMES = ("dead_letter",)
# Of each option its field on the wire, and how many of the field's units one of its own has.
_FIELDS = {
    "backoff": ("backoff_ms", 1000),
    "max_backoff": ("max_backoff_ms", 1000),
    "backoff_factor": ("backoff_factor", 1),
    "jitter": ("jitter_percent", 100),
    "max_age": ("max_age_ms", 1000),
    "max_messages": ("max_messages", 1),
    "max_bytes": ("max_bytes", 1),
    "full": ("full", 1),
    "rewind_window": ("rewind_ms", 1000),
    "breaker": ("breaker_percent", 100),
    "breaker_count": ("breaker_count", 1),
    "breaker_window": ("breaker_window_ms", 1000),
    "breaker_pause": ("breaker_pause_ms", 1000),
    "window": ("window", 1),
    "dedup_window": ("dedup_window_ms", 1000),
    "dedup_count": ("dedup_count", 1),
}
_WORDS = ("order", "on_failure")
