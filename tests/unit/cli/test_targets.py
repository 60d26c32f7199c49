"""Where to rewind to, as people type it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from logbroker.cli.targets import parse_target
from logbroker.errors import InvalidArgumentError
from logbroker.wire.requests import OffsetTarget, RelativeTarget, TimeTarget
from logbroker_client import MessageId
from logbroker_client.client import target_of

NOW_MS = 1_795_000_000_000


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", "earliest"),
        ("Latest", "latest"),
        ("now", "latest"),
        ("-2h", timedelta(hours=2)),
        ("now-15m", timedelta(minutes=15)),
        ("offset:0", 0),
        ("offset:12", 12),
        ("count:1000", -1000),
        ("orders/1/12", MessageId("orders", 1, 12)),
        ("1795000000.123", datetime(2026, 11, 18, 11, 6, 40, 123_000, tzinfo=UTC)),
        ("2026-11-18T09:06:40Z", datetime(2026, 11, 18, 9, 6, 40, tzinfo=UTC)),
    ],
)
def test_a_target_is_what_the_client_takes(text: str, position: object) -> None:
    assert parse_target(text, queue="orders", now_ms=NOW_MS) == position


def test_what_is_relative_stays_relative_and_times_keep_their_milliseconds() -> None:
    def wire(text: str) -> object:
        return target_of(parse_target(text, queue="orders", now_ms=NOW_MS))

    assert wire("-90m") == RelativeTarget(ms=5_400_000)
    assert wire("count:5") == RelativeTarget(count=5)
    assert wire("offset:5") == OffsetTarget(5)
    for ms in (1_795_000_000_001, 1_795_000_000_999, 1):
        assert wire(f"{ms / 1000:.3f}") == TimeTarget(ms)


@pytest.mark.parametrize(
    "text", ["", "soon", "offset:", "offset:-1", "offset:x", "count:0", "other/0/1", "orders/x/1", "-5"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_target(text, queue="orders", now_ms=NOW_MS)
