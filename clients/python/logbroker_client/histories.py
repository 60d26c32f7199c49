"""What the headers of a message say of the queues that it was in before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import InvalidArgumentError
from logbroker_client.messages import MessageId

if TYPE_CHECKING:
    from logbroker.record.batch import Headers

_PREFIX = "logbroker-"


@final
@dataclass(frozen=True, slots=True)
class MessageHistory:
    """Where a message was first, and how it died in the last queue that it came from.

    `cause` is `rejected`, `max_deliveries` or `ttl`, and empty with all that follows it for a message that was moved
    without being dead. `attempts` is 0 for that and for one that grew too old before anybody got it. `reason` is in
    the words of `consumer`, who held it last in `group`; of one that grew too old there is none of both.
    """

    origin: MessageId
    origin_ms: int
    """When it entered the log there."""
    attempts: int = 0
    cause: str = ""
    reason: str = ""
    consumer: str = ""
    group: str = ""


def history_of(headers: Headers) -> MessageHistory | None:
    """What the broker wrote into the headers as it moved the message; None where it never did.

    Headers are data that any producer may write: what does not read as a history is none.
    """
    said = {key: value for key, value in headers if key.startswith(_PREFIX) and value is not None}
    if f"{_PREFIX}origin-id" not in said:
        return None
    with suppress(InvalidArgumentError, ValueError):
        texts = {key.removeprefix(_PREFIX): value.decode() for key, value in said.items()}
        return MessageHistory(
            MessageId.parse(texts["origin-id"]),
            int(texts.get("origin-ms", "0")),
            int(texts.get("attempts", "0")),
            texts.get("cause", ""),
            texts.get("reason", ""),
            texts.get("consumer", ""),
            texts.get("group", ""),
        )
    return None
