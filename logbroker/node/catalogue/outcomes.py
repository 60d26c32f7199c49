"""What applying a command came to: the material of every reply, one outcome per command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from logbroker.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    RequestTooLargeError,
)

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.ids import GroupId, Index, NodeId, ReplicaId
    from logbroker.node.catalogue.rows import QueueRow, RewindRow


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """The command changed nothing. `kind` says which error its sender gets."""

    kind: type[InvalidArgumentError | NotFoundError | AlreadyExistsError | RequestTooLargeError | OverloadedError]
    message: str
    hint: str = ""

    def error(self) -> LogBrokerError:
        return self.kind(self.message, hint=self.hint)


@final
@dataclass(frozen=True, slots=True)
class Done:
    """`already`: it was so before, and nothing changed."""

    already: bool = False


@final
@dataclass(frozen=True, slots=True)
class NodeJoined:
    """`replicas` are new and belong to the node's present life; they start as learners."""

    node: NodeId
    already: bool
    replicas: tuple[tuple[GroupId, ReplicaId], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class ReplicasPlaced:
    """Moves that began, one for each (group, new replica)."""

    replicas: tuple[tuple[GroupId, ReplicaId], ...]


@final
@dataclass(frozen=True, slots=True)
class QueueStands:
    """The queue as it is after the command; `already`: it was so before."""

    queue: QueueRow
    already: bool = False


@final
@dataclass(frozen=True, slots=True)
class QueueGone:
    queue: QueueRow
    """As it was last."""


@final
@dataclass(frozen=True, slots=True)
class RewindStands:
    """`already`: the operation was decided or the partition was done before."""

    rewind: RewindRow
    already: bool = False


Outcome: TypeAlias = Refused | Done | NodeJoined | ReplicasPlaced | QueueStands | QueueGone | RewindStands


@final
@dataclass(frozen=True, slots=True)
class Applied:
    """One entry's outcomes, in the order of its commands; `changed` says whether the catalogue is another."""

    index: Index
    outcomes: tuple[Outcome, ...]
    changed: bool


def invalid(message: str, *, hint: str = "") -> Refused:
    return Refused(InvalidArgumentError, message, hint)


def not_found(message: str, *, hint: str = "") -> Refused:
    return Refused(NotFoundError, message, hint)


def exists(message: str, *, hint: str = "") -> Refused:
    return Refused(AlreadyExistsError, message, hint)


def too_many(message: str, *, hint: str = "") -> Refused:
    return Refused(RequestTooLargeError, message, hint)
