"""Times and durations as people type them: `-2h`, `now-15m`, ISO 8601, Unix seconds; `30s`, `1h30m`, `15d`.

The present comes in as an argument.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from logbroker.errors import InvalidArgumentError

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(ms|[smhdw])", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,15}(?:\.\d{1,6})?(?:ms|[smhdw]))+", re.ASCII)
_DIGITS = re.compile(r"\d{1,16}(?:\.\d{1,9})?", re.ASCII)

# A number this large is milliseconds: as seconds it would lie beyond the year 5138.
_FIRST_MS = 100_000_000_000
_MAX_MS = 253_402_300_799_999

TIME_FORMS = "now, -2h, now-15m, 2026-11-23T09:30:00Z, 2026-11-23 09:30, or Unix seconds such as 1795000000"
DURATION_FORMS = "500ms, 30s, 15m, 1h30m, 15d or 2w"


def parse_duration(text: str) -> int:
    """Give the milliseconds of a duration.

    Raises:
        InvalidArgumentError: it is none, or not a whole number of milliseconds.
    """
    compact = text.strip().lower()
    if _DURATION.fullmatch(compact) is None:
        raise InvalidArgumentError(f"{text!r} is not a duration such as {DURATION_FORMS}")
    total = sum(
        float(number) * _UNIT_MS[unit] if "." in number else int(number) * _UNIT_MS[unit]
        for number, unit in _PART.findall(compact)
    )
    if total != int(total) or total > _MAX_MS:
        raise InvalidArgumentError(f"{text!r} is not a whole number of milliseconds up to {_MAX_MS}")
    return int(total)


def parse_time(text: str, *, now_ms: int) -> int:
    """Give the milliseconds since 1970 of a point in time. A date without a zone is in the zone of this machine.

    Raises:
        InvalidArgumentError: it is none.
    """
    stripped = text.strip()
    relative = stripped.lower().removeprefix("now")
    if relative[:1] in ("-", "+") and _DURATION.fullmatch(relative[1:]):
        step = parse_duration(relative[1:])
        found = now_ms - step if relative[0] == "-" else now_ms + step
    elif stripped.lower() == "now":
        found = now_ms
    else:
        found = _parse_absolute(stripped.removeprefix("@"), text)
    if not 0 <= found <= _MAX_MS:
        raise InvalidArgumentError(f"{text!r} lies outside of the years 1970 to 9999")
    return found


def _parse_absolute(stripped: str, text: str) -> int:
    if _DIGITS.fullmatch(stripped):
        number = float(stripped) if "." in stripped else int(stripped)
        return int(number) if number >= _FIRST_MS else round(number * 1000)
    try:
        moment = datetime.fromisoformat(stripped)
        # Integer arithmetic: a float second loses milliseconds.
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{text!r} is not a time such as {TIME_FORMS}") from error
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def format_time(ms: int) -> str:
    """Write a point in time as ISO 8601 in UTC with milliseconds."""
    seconds, rest = divmod(ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def format_duration(ms: int) -> str:
    """Write a duration with at most two units, the second rounded down: `1d2h`, `3m20s`, `250ms`."""
    parts: list[str] = []
    for unit in ("w", "d", "h", "m", "s", "ms"):
        count, ms = divmod(ms, _UNIT_MS[unit])
        if parts and not count:
            break
        if count:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return "".join(parts) or "0ms"
