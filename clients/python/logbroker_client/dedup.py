"""Messages with ids of their own: how an id travels, and what a batch is told of those that were known."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from logbroker.errors import DedupConflictError, InvalidArgumentError
from logbroker.record.dedup_ids import DEDUP_HEADER, MAX_RECORDS_WITH_IDS, check_dedup_id

if TYPE_CHECKING:
    from logbroker.record.batch import Headers
    from logbroker.wire.requests import Produced

__all__ = ["MAX_RECORDS_WITH_IDS", "DedupId", "Known", "conflict", "id_of", "known_of", "with_id"]

DedupId: TypeAlias = str | bytes
Known: TypeAlias = dict[int, int | None]
"""By position in a batch: the offset of the first message with that id, None where its body was another."""


def with_id(headers: Headers, dedup_id: DedupId | None) -> Headers:
    """The headers of a message with this id.

    Raises:
        InvalidArgumentError: it is empty, too long, or no text that can be encoded.
    """
    if dedup_id is None:
        return headers
    try:
        encoded = dedup_id.encode() if isinstance(dedup_id, str) else bytes(dedup_id)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"dedup_id {dedup_id!r} cannot be encoded") from error
    return (*headers, (DEDUP_HEADER, check_dedup_id(encoded)))


def id_of(headers: Headers) -> bytes | None:
    """The id that a message of these headers has.

    Raises:
        InvalidArgumentError: it has more than one.
    """
    found = [value for name, value in headers if name == DEDUP_HEADER]
    if len(found) > 1:
        raise InvalidArgumentError(f"a message has {len(found)} ids: headers {DEDUP_HEADER}")
    return check_dedup_id(found[0] or b"") if found else None


def known_of(reply: Produced) -> Known | None:
    """What is said of messages whose ids were known; None where nothing is."""
    if not reply.duplicates and not reply.conflicts:
        return None
    return {**dict(reply.duplicates), **dict.fromkeys(reply.conflicts)}


def conflict() -> DedupConflictError:
    return DedupConflictError(
        "the dedup_id was used for a message with another value, key or header, or for one that was cancelled",
        hint="this one is not in the queue; after an id is forgotten that is said of any repeat",
    )
