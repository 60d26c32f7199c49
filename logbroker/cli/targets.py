"""Where in a queue to go, as people type it: a time, `earliest`, `latest`, `offset:N`, `count:N`, or a message id."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from logbroker.cli.times import TIME_FORMS, parse_duration, parse_time
from logbroker.errors import InvalidArgumentError

if TYPE_CHECKING:
    from logbroker_client.client import Position

TARGET_FORMS = (
    f"{TIME_FORMS}; earliest, latest, offset:N, count:N (N messages back), or a message id such as orders/0/12"
)


def parse_target(text: str, *, queue: str, now_ms: int) -> Position:
    """Give the client's form of a position in `queue`.

    What is relative to the present stays relative: the log's clock decides, which may differ from this machine's.

    Raises:
        InvalidArgumentError: it is none, or a message of another queue.
    """
    stripped = text.strip()
    match stripped.lower():
        case "earliest":
            return "earliest"
        case "latest" | "now":
            return "latest"
    kind, colon, number = stripped.partition(":")
    if colon and kind in ("offset", "count"):
        if not (number.isascii() and number.isdecimal()):
            raise InvalidArgumentError(f"{text!r}: {number!r} is not a whole number")
        return _count_back(int(number), text) if kind == "count" else int(number)
    back = stripped.lower().removeprefix("now")
    if back.startswith("-"):
        return timedelta(milliseconds=parse_duration(back[1:]))
    if "/" in stripped:
        return _message(stripped, queue)
    return _moment(parse_time(stripped, now_ms=now_ms))


def _count_back(count: int, text: str) -> int:
    if count == 0:
        raise InvalidArgumentError(f"{text!r}: 0 messages back is no move")
    return -count


def _message(text: str, queue: str) -> Position:
    from logbroker_client import MessageId

    found = MessageId.parse(text)
    if found.queue != queue:
        raise InvalidArgumentError(f"message {text} is not one of queue {queue}")
    return found


def _moment(ms: int) -> datetime:
    # Whole seconds and the rest apart: as one float it would lose milliseconds.
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
