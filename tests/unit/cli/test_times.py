"""Times and durations as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.cli.times import format_duration, format_time, parse_duration, parse_time
from logbroker.errors import InvalidArgumentError

NOW_MS = 1_795_000_000_123
MAX_MS = 253_402_300_799_999


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("1.5s", 1_500),
        ("15m", 900_000),
        ("1h30m", 5_400_000),
        ("15d", 1_296_000_000),
        ("2w", 1_209_600_000),
        (" 2H ", 7_200_000),
        ("0s", 0),
        ("0.1s", 100),
    ],
)
def test_durations_are_numbers_with_units(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5x", "1h-5m", "1.0000001s", "0.5ms", "1e3s", "٣s", "9" * 15 + "w"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("now", NOW_MS),
        ("-2h", NOW_MS - 7_200_000),
        ("now-15m", NOW_MS - 900_000),
        ("NOW+1s", NOW_MS + 1_000),
        ("1795000000", 1_795_000_000_000),
        ("@1795000000", 1_795_000_000_000),
        ("1795000000.123", 1_795_000_000_123),
        ("1795000000123", 1_795_000_000_123),
        ("0", 0),
        ("2026-11-18T09:06:40.123Z", 1_794_992_800_123),
        ("2026-11-18T10:06:40+01:00", 1_794_992_800_000),
        ("2026-11-18 09:06:40.5+00:00", 1_794_992_800_500),
        ("20261118T090640Z", 1_794_992_800_000),
    ],
)
def test_times_are_relative_iso_or_unix(text: str, ms: int) -> None:
    assert parse_time(text, now_ms=NOW_MS) == ms


def test_a_date_without_a_zone_is_in_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert parse_time("2026-11-18 12:06:40", now_ms=0) == 1_794_992_800_000
        assert parse_time("2026-11-18", now_ms=0) == 1_794_992_800_000 - (12 * 3600 + 6 * 60 + 40) * 1000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "now-",
        "-",
        "now 5m",
        "+",
        "2026-13-01",
        "12:00",
        "-1",
        "now-100000w",
        "9999-12-31T23:59:59-05:00",
        "inf",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_time(text, now_ms=NOW_MS)


@given(st.integers(0, MAX_MS))
def test_a_written_time_is_read_back_to_the_millisecond(ms: int) -> None:
    assert parse_time(format_time(ms), now_ms=0) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (250, "250ms"),
        (30_000, "30s"),
        (345_600_000, "4d"),
        (5_400_000, "1h30m"),
        (200_000, "3m20s"),
        (93_784_000, "1d2h"),
        (604_800_001, "1w"),
    ],
)
def test_a_duration_is_written_with_two_units_at_most(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.text(max_size=20))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    for parse in (parse_duration, lambda text: parse_time(text, now_ms=NOW_MS)):
        try:
            assert 0 <= parse(text) <= MAX_MS
        except InvalidArgumentError:
            continue
