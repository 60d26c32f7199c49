"""Errors to error replies and back: the code names the class, the text travels with it."""

from __future__ import annotations

from logbroker import errors
from logbroker.ids import NodeId
from logbroker.wire.requests import NO_REQUEST, Error

CODES = {code: kind.retriable for code, kind in errors.KINDS.items()}
"""Every code that an error may have, and whether a retry can help."""

_MAX_TEXT_CHARACTERS = 4096


def error_reply(error: errors.LogBrokerError, *, rid: int = NO_REQUEST, leader_url: str = "") -> Error:
    """The reply that reports `error`. Long texts are cut, so that the reply is always small.

    `leader_url` is where clients reach the leader that a NotLeaderError names.
    """
    leader = error.leader if isinstance(error, errors.NotLeaderError) else None
    kind = errors.told_kind(error)
    return Error(
        rid,
        code=kind.code,
        message=error.message[:_MAX_TEXT_CHARACTERS],
        hint=error.hint[:_MAX_TEXT_CHARACTERS],
        retriable=kind.retriable,
        leader_node=leader or 0,
        leader_url=leader_url,
    )


def error_from_reply(reply: Error) -> errors.LogBrokerError:
    """The exception that `reply` reports.

    A code from a newer server becomes UnavailableError or RequestError, as its `retriable` says.
    """
    if reply.code == errors.NotLeaderError.code:
        leader = NodeId(reply.leader_node) if reply.leader_node else None
        return errors.NotLeaderError(reply.message, leader=leader, hint=reply.hint)
    known = errors.KINDS.get(reply.code)
    if known is not None:
        return known(reply.message, hint=reply.hint)
    unknown = errors.UnavailableError if reply.retriable else errors.RequestError
    return unknown(f"{reply.code}: {reply.message}", hint=reply.hint)
