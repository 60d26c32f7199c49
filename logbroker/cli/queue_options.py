"""Options of queues that `queue create` and `queue alter` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import rich_click as click

from logbroker.cli.parameters import DURATION
from logbroker.cli.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from logbroker.wire.requests import QueueSettings
    from logbroker_client import QueueOptions

_F = TypeVar("_F", bound="Callable[..., Any]")

_DURATIONS = (
    "backoff",
    "max_backoff",
    "max_age",
    "rewind_window",
    "breaker_window",
    "breaker_pause",
    "dedup_window",
)

FULL = ("reject", "drop_oldest")

_OPTIONS = (
    click.option("--backoff", type=DURATION, help="Wait after a first failed delivery, unless the nack says. [0s]"),
    click.option("--max-backoff", type=DURATION, help="The longest such wait. [1h]"),
    click.option("--backoff-factor", type=click.IntRange(1, 10), help="Growth with each further failure. [2]"),
    click.option("--dead-letter", metavar="QUEUE", help="Where dead messages are moved to; '' for nowhere. ['']"),
    click.option("--dedup-window", type=DURATION, help="How long ids of messages are remembered; 0s: not. [5m]"),
    click.option("--dedup-count", type=click.IntRange(1), help="How many of them in each partition. [1000000]"),
    click.option("--jitter", type=click.FloatRange(0, 1), help="The share of a wait that is left to chance. [0.2]"),
    click.option("--rewind-window", type=DURATION, help="How long what is settled can be rewound. [retention]"),
    click.option("--max-messages", type=click.IntRange(0), help="Most messages unsettled, over all partitions. [none]"),
    click.option("--max-bytes", type=click.IntRange(0), help="Most bytes kept, over all partitions. [none]"),
    click.option(
        "--full", type=click.Choice(FULL), help="At such a bound: refuse new ones, or drop the oldest. [reject]"
    ),
    click.option("--max-age", type=DURATION, help="What is not settled by then is dead; 0: never. [0s]"),
    click.option(
        "--breaker", type=click.FloatRange(0, 1), help="Pause a group when this share of deliveries fails. [0: never]"
    ),
    click.option("--breaker-count", type=click.IntRange(1, 100_000), help="Of at least so many that ended. [20]"),
    click.option("--breaker-window", type=DURATION, help="Within this time. [10s]"),
    click.option("--breaker-pause", type=DURATION, help="For so long. [30s]"),
    click.option("--window", type=click.IntRange(0, 10_000), help="Most in flight of group and partition; 0: any. [0]"),
    click.option("--order", type=click.Choice(["none", "key"]), help="key: those of a key one after the other. [none]"),
    click.option("--on-failure", type=click.Choice(["block", "skip"]), help="What waits behind a failure. [block]"),
)


def queue_options(command: _F) -> _F:
    """Give a command the options; it gets them as keywords, None where one is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_options(values: Mapping[str, object]) -> QueueOptions:
    """What the client is to be told of them: durations are milliseconds here and seconds there."""
    given = {
        name: value / 1000 if name in _DURATIONS and isinstance(value, int) else value
        for name, value in values.items()
        if value is not None
    }
    return cast("QueueOptions", given)


def option_rows(settings: QueueSettings) -> dict[str, object]:
    """What is shown of them."""
    return {
        "backoff": format_duration(settings.backoff_ms) if settings.backoff_ms else None,
        "max_backoff": format_duration(settings.max_backoff_ms),
        "backoff_factor": settings.backoff_factor,
        "jitter": settings.jitter_percent / 100,
        "max_age": format_duration(settings.max_age_ms) if settings.max_age_ms else None,
        "rewind_window": format_duration(min(settings.rewind_ms, settings.retention_ms)),
        "max_messages": settings.max_messages or None,
        "max_bytes": settings.max_bytes or None,
        "full": FULL[settings.full] if settings.full < len(FULL) else str(settings.full),
        "breaker": settings.breaker_percent / 100 if settings.breaker_percent else None,
        "breaker_count": settings.breaker_count,
        "breaker_window": format_duration(settings.breaker_window_ms),
        "breaker_pause": format_duration(settings.breaker_pause_ms),
        "window": settings.window or None,
        "order": settings.order,
        "on_failure": settings.on_failure,
        "dead_letter": settings.dead_letter or None,
        "dedup_window": format_duration(settings.dedup_window_ms) if settings.dedup_window_ms else None,
        "dedup_count": settings.dedup_count,
    }
