"""Who may do what: rights on queues, granted by pattern to tokens. Denied unless granted, in one function.

`allows` is the only place that decides; every door to the broker asks it through `require`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Annotated, final

import msgspec

from logbroker.errors import ForbiddenError, InvalidArgumentError
from logbroker.node.catalogue.bounds import MAX_NAME_BYTES, name_fault

if TYPE_CHECKING:
    from collections.abc import Iterable


@final
class Rights(IntFlag):
    """None implies another. The numbers are part of the disk format."""

    PRODUCE = 1
    CONSUME = 2
    """Receive and settle; also look at the queue and its groups."""
    REWIND = 4
    """Rewind and skip-to, in both directions; pause and resume."""
    PURGE = 8
    """Settle all that a consumer group has."""
    ADMIN = 16
    """Create, alter and delete queues and consumer groups; with the pattern `*` also nodes and tokens."""


NO_RIGHTS = Rights(0)
ALL_RIGHTS = Rights.PRODUCE | Rights.CONSUME | Rights.REWIND | Rights.PURGE | Rights.ADMIN

CLUSTER = "*"
"""In the place of a queue: the cluster itself. No queue is called so, and only the pattern `*` matches it."""


@final
class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`pattern` is a queue's name, or the beginning of names and then `*`. `rights` are bits of Rights."""

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES + 1)]
    rights: Annotated[int, msgspec.Meta(ge=1, le=int(ALL_RIGHTS))]

    def matches(self, queue: str) -> bool:
        if self.pattern.endswith("*"):
            return queue.startswith(self.pattern[:-1])
        return queue == self.pattern

    def __str__(self) -> str:
        """The form that `parse_grant` reads."""
        if self.rights == ALL_RIGHTS:
            return f"{self.pattern}:all"
        return f"{self.pattern}:{','.join(str(right.name).lower() for right in Rights(self.rights))}"


EVERYTHING = Grant(CLUSTER, int(ALL_RIGHTS))


@final
@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a connection has shown to be."""

    name: str
    grants: tuple[Grant, ...]


ROOT = Principal("root", (EVERYTHING,))
"""Whoever holds the token of `auth.root_token_file`."""
ANYBODY = Principal("anybody", (EVERYTHING,))
"""Every connection, where tokens are off."""


def allows(grants: Iterable[Grant], right: Rights, queue: str) -> bool:
    """Say whether one of `grants` gives every bit of `right` on `queue`; CLUSTER stands for the cluster.

    One grant must give all bits: what two patterns give together is not the same on every queue.
    """
    return right != NO_RIGHTS and any(grant.rights & right == right and grant.matches(queue) for grant in grants)


def require(principal: Principal, right: Rights, queue: str) -> None:
    """Let `principal` pass or not.

    Raises:
        ForbiddenError: it has no such right. Whether the queue exists is not told.
    """
    if not allows(principal.grants, right, queue):
        where = "the cluster" if queue == CLUSTER else f"queue {queue}"
        raise ForbiddenError(
            f"{principal.name} has no right to {str(right.name).lower()} on {where}",
            hint="an administrator can create a token with that right",
        )


def grant_fault(grant: Grant) -> str | None:
    """Say what is wrong with a grant's pattern, or None."""
    beginning = grant.pattern.removesuffix("*")
    if grant.pattern == CLUSTER:
        return None
    fault = name_fault("queue", beginning)
    return f"pattern {grant.pattern!r}: {fault}" if fault else None


def parse_grant(text: str) -> Grant:
    """Read `PATTERN:RIGHT,RIGHT`, for example `orders-*:produce,consume`; `all` stands for every right.

    Raises:
        InvalidArgumentError: it is not one.
    """
    pattern, colon, names = text.partition(":")
    if not colon:
        raise InvalidArgumentError(f"{text!r} is not PATTERN:RIGHTS, for example orders-*:produce,consume")
    rights = NO_RIGHTS
    for name in names.split(","):
        rights |= _right(name.strip())
    grant = Grant(pattern, int(rights))
    fault = grant_fault(grant)
    if fault is not None:
        raise InvalidArgumentError(fault)
    return grant


def _right(name: str) -> Rights:
    if name == "all":
        return ALL_RIGHTS
    try:
        return Rights[name.upper()]
    except KeyError:
        known = ", ".join(str(right.name).lower() for right in Rights)
        raise InvalidArgumentError(f"{name!r} is not a right; there are {known} and all") from None
