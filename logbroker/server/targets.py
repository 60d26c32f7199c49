"""Where a rewind goes to, from the client's words to those of one partition."""

from __future__ import annotations

from typing import assert_never

from logbroker.ids import Offset
from logbroker.node import requests as node_requests
from logbroker.wire.requests import (
    EarliestTarget,
    LatestTarget,
    MessageTarget,
    OffsetTarget,
    RelativeTarget,
    Target,
    TimeTarget,
)


def partition_target(target: Target, partition: int) -> node_requests.Target | None:
    """What the target means in one partition; None where that partition is not named and stays as it is."""
    match target:
        case TimeTarget(ms=ms):
            return node_requests.TimeTarget(ms)
        case OffsetTarget(offset=offset):
            return node_requests.OffsetTarget(Offset(offset))
        case RelativeTarget(ms=ms, count=count):
            return node_requests.TimeTarget(-ms) if ms else node_requests.CountTarget(count)
        case EarliestTarget():
            return node_requests.EarliestTarget()
        case LatestTarget():
            return node_requests.LatestTarget()
        case MessageTarget(offsets=offsets):
            named = dict(offsets)
            return node_requests.OffsetTarget(Offset(named[partition])) if partition in named else None
        case _ as never:
            assert_never(never)


def describe_target(target: Target, partition: int) -> str:
    """A few words for people."""
    match target:
        case TimeTarget(ms=ms):
            return f"time {ms}"
        case OffsetTarget(offset=offset):
            return f"offset {offset}"
        case RelativeTarget(ms=ms, count=count):
            return f"{ms} ms back" if ms else f"the last {count} messages"
        case EarliestTarget():
            return "earliest"
        case LatestTarget():
            return "latest"
        case MessageTarget(offsets=offsets):
            named = dict(offsets)
            return f"offset {named[partition]}" if partition in named else "not named"
        case _ as never:
            assert_never(never)
