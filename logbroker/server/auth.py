"""Who may ask for what: one table, one function, denied unless the table allows it.

Every door goes through `authorize`; a kind of request without a rule is refused, and a test fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from logbroker.errors import ForbiddenError
from logbroker.node.catalogue.rights import CLUSTER, Rights, allows, require
from logbroker.wire.requests import (
    Ack,
    AlterQueue,
    Cancel,
    CreateGroup,
    CreateQueue,
    CreateToken,
    Credit,
    DeleteGroup,
    DeleteQueue,
    DeleteToken,
    DescribeGroups,
    DescribeQueue,
    Extend,
    ListDead,
    ListQueues,
    ListTokens,
    Metadata,
    MoveMessages,
    Nack,
    PauseGroup,
    Peek,
    Produce,
    PurgeGroup,
    Receive,
    Reject,
    Release,
    Request,
    ResumeGroup,
    Revive,
    Rewind,
    Status,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.catalogue.rights import Principal


def _queue(request: Any) -> str:  # noqa: ANN401  whichever kinds have the field; the table below says which
    name: str = request.queue
    return name


def _name(request: Any) -> str:  # noqa: ANN401  as above
    name: str = request.name
    return name


def _cluster(_: Request) -> str:
    return CLUSTER


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """Any one of `rights`, on what `target` says the request is about."""

    rights: tuple[Rights, ...]
    target: Callable[[Any], str]


@final
@dataclass(frozen=True, slots=True)
class Filtered:
    """Anybody may ask; the answer holds only the queues that `may_see` lets pass."""


RULES: dict[type[Request], Rule | Filtered] = {
    Metadata: Filtered(),
    ListQueues: Filtered(),
    Produce: Rule((Rights.PRODUCE,), _queue),
    Receive: Rule((Rights.CONSUME,), _queue),
    Ack: Rule((Rights.CONSUME,), _queue),
    Nack: Rule((Rights.CONSUME,), _queue),
    Extend: Rule((Rights.CONSUME,), _queue),
    Release: Rule((Rights.CONSUME,), _queue),
    Rewind: Rule((Rights.REWIND,), _queue),
    Reject: Rule((Rights.CONSUME,), _queue),
    ListDead: Rule((Rights.CONSUME,), _queue),
    Revive: Rule((Rights.REWIND,), _queue),
    # And to produce on the target: `authorize_target`.
    MoveMessages: Rule((Rights.REWIND,), _queue),
    Subscribe: Rule((Rights.CONSUME,), _queue),
    Credit: Rule((Rights.CONSUME,), _queue),
    Unsubscribe: Rule((Rights.CONSUME,), _queue),
    Peek: Rule((Rights.CONSUME,), _queue),
    PauseGroup: Rule((Rights.REWIND,), _queue),
    ResumeGroup: Rule((Rights.REWIND,), _queue),
    PurgeGroup: Rule((Rights.PURGE,), _queue),
    Cancel: Rule((Rights.PRODUCE,), _queue),
    CreateQueue: Rule((Rights.ADMIN,), _name),
    AlterQueue: Rule((Rights.ADMIN,), _name),
    DeleteQueue: Rule((Rights.ADMIN,), _name),
    DescribeQueue: Rule((Rights.CONSUME, Rights.ADMIN), _name),
    DescribeGroups: Rule((Rights.CONSUME, Rights.ADMIN), _queue),
    CreateGroup: Rule((Rights.ADMIN,), _queue),
    DeleteGroup: Rule((Rights.ADMIN,), _queue),
    CreateToken: Rule((Rights.ADMIN,), _cluster),
    DeleteToken: Rule((Rights.ADMIN,), _cluster),
    ListTokens: Rule((Rights.ADMIN,), _cluster),
    Status: Rule((Rights.ADMIN,), _cluster),
}
"""Every kind of request but Hello and Ping, which belong to the connection and not to anybody."""


def authorize(principal: Principal, request: Request) -> None:
    """Let the request pass or not.

    Raises:
        ForbiddenError: no rule, or not the right it asks for. Whether the queue exists is not told.
    """
    rule = RULES.get(type(request))
    if isinstance(rule, Rule):
        where = rule.target(request)
        for right in rule.rights:
            if allows(principal.grants, right, where):
                return
        require(principal, rule.rights[0], where)
    elif rule is None:
        raise ForbiddenError(f"{type(request).__name__} has no rule, so nobody may ask for it")


def authorize_target(principal: Principal, queue: str) -> None:
    """Whether messages may be moved into a queue by what the principal asks for.

    Raises:
        ForbiddenError: it may not produce there.
    """
    require(principal, Rights.PRODUCE, queue)


def may_see(principal: Principal, queue: str) -> bool:
    """Whether the queue's name and settings may be told: any right on it is enough."""
    return any(grant.matches(queue) for grant in principal.grants)


def authorize_operator(principal: Principal) -> None:
    """The door of the admin listener, for all that is more than a probe.

    Raises:
        ForbiddenError: it may not administer the cluster.
    """
    require(principal, Rights.ADMIN, CLUSTER)
