"""Exit codes, and the one place where an error becomes words and a code."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import final

from logbroker.errors import (
    AlreadyExistsError,
    DedupConflictError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerFencedError,
    ShuttingDownError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)


@final
class Exit(IntEnum):
    """The numbers are part of the public interface."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANNOT_CONNECT = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    DIFFERS = 6
    """A check has warnings, or a dry run found a difference."""
    TIMEOUT = 7
    CONFLICT = 8
    """It exists already, the lease is stale, an id was used for another message, or what else must hold does not."""
    PARTIAL = 9
    """Some of it was done."""
    INTERRUPTED = 130


# The first that fits decides, so narrower kinds stand before wider ones.
_CODES: tuple[tuple[type[LogBrokerError], Exit], ...] = (
    (UnknownOutcomeError, Exit.TIMEOUT),
    (UnauthenticatedError, Exit.NOT_ALLOWED),
    (ForbiddenError, Exit.NOT_ALLOWED),
    (NotFoundError, Exit.NOT_FOUND),
    (AlreadyExistsError, Exit.CONFLICT),
    (StaleLeaseError, Exit.CONFLICT),
    (OutOfOrderSequenceError, Exit.CONFLICT),
    (ProducerFencedError, Exit.CONFLICT),
    (DedupConflictError, Exit.CONFLICT),
    (OffsetOutOfRangeError, Exit.CONFLICT),
    (InvalidArgumentError, Exit.USAGE),
    (ShuttingDownError, Exit.CANNOT_CONNECT),
)


def exit_code(error: LogBrokerError) -> Exit:
    # Only the plain kind means that nobody was there; its leaves (overloaded, no room) come from a node.
    if type(error) is UnavailableError:
        return Exit.CANNOT_CONNECT
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def describe(*, code: str, message: str, hint: str, exit_code: int, as_json: bool) -> str:
    """Write an error for stderr."""
    if as_json:
        error = {"code": code.upper(), "message": message, "hint": hint, "exit": exit_code}
        return json.dumps({"error": error}, ensure_ascii=False)
    return f"error: {message}" + (f"\nhint: {hint}" if hint else "")
