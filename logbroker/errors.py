"""Every error that logbroker raises on purpose.

    LogBrokerError
    ├── RequestError                  the caller's fault; sending it again changes nothing
    │   ├── InvalidArgumentError          a field is out of its range
    │   ├── NotFoundError                 no such queue, partition or consumer group
    │   ├── AlreadyExistsError
    │   ├── StaleLeaseError               the lease is not current any more
    │   ├── OutOfOrderSequenceError       a producer skipped a sequence
    │   ├── ProducerFencedError           a newer epoch of the producer exists
    │   ├── DedupConflictError            the id of a message was used for another one
    │   ├── OffsetOutOfRangeError         below the log start or beyond the log end
    │   ├── RequestTooLargeError
    │   ├── UnauthenticatedError
    │   └── ForbiddenError
    ├── UnavailableError              nothing is wrong with the request; try again
    │   ├── NotLeaderError                carries where the leader is thought to be
    │   ├── OverloadedError
    │   ├── NoRoomError                   the disk is at its watermark
    │   ├── QueueFullError                the queue holds as much as it may
    │   ├── UnknownOutcomeError           it may or may not have happened
    │   └── ShuttingDownError
    ├── StorageError
    │   ├── CorruptBatchError             bytes that fail their checksum or their format
    │   ├── DamageError                   data that was durable once is unreadable
    │   ├── DiskFullError
    │   └── StoreFailedError              a write or sync failed; this process must not write again
    ├── ProtocolError
    │   ├── LocalProtocolError            this side tried what the protocol forbids
    │   └── RemoteProtocolError           the peer sent what the protocol forbids
    ├── ConfigurationError
    └── InvariantError                our own logic is wrong; the group stops

Each leaf has a wire `code` and says whether a retry can help (`retriable`). Other modules have kinds of their own
below these; whoever is on the other side of a wire is told the one of these that such an error is a kind of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

from logbroker.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LogBrokerError(Exception):
    """Root of the tree. `hint` is what the operator or caller may do next; it may be empty."""

    code: ClassVar[str] = "error"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestError(LogBrokerError):
    code = "bad_request"


class InvalidArgumentError(RequestError):
    code = "invalid_argument"


class NotFoundError(RequestError):
    code = "not_found"


class AlreadyExistsError(RequestError):
    code = "already_exists"


class StaleLeaseError(RequestError):
    code = "stale"


class OutOfOrderSequenceError(RequestError):
    code = "out_of_order_sequence"


class ProducerFencedError(RequestError):
    code = "producer_fenced"


class DedupConflictError(RequestError):
    code = "dedup_conflict"


class OffsetOutOfRangeError(RequestError):
    code = "offset_out_of_range"


class RequestTooLargeError(RequestError):
    code = "too_large"


class UnauthenticatedError(RequestError):
    code = "unauthenticated"


class ForbiddenError(RequestError):
    code = "forbidden"


class UnavailableError(LogBrokerError):
    code = "unavailable"
    retriable = True


class NotLeaderError(UnavailableError):
    """This node does not lead the partition; `leader` is the node thought to, or None."""

    code = "not_leader"

    def __init__(self, message: str, *, leader: NodeId | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.leader = leader


class OverloadedError(UnavailableError):
    code = "overloaded"


class NoRoomError(UnavailableError):
    code = "no_room"


class QueueFullError(UnavailableError):
    """The queue holds as many messages, or bytes, as it may; nothing was appended."""

    code = "queue_full"


class UnknownOutcomeError(UnavailableError):
    """The request may have been committed; only an idempotent retry can tell."""

    code = "unknown"


class ShuttingDownError(UnavailableError):
    code = "shutting_down"


class StorageError(LogBrokerError):
    code = "storage"


class CorruptBatchError(StorageError):
    code = "corrupt"


class DamageError(StorageError):
    code = "damage"


class DiskFullError(StorageError):
    code = "disk_full"
    retriable = True


class StoreFailedError(StorageError):
    code = "store_failed"


class ProtocolError(LogBrokerError):
    code = "protocol"


class LocalProtocolError(ProtocolError):
    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    code = "remote_protocol"


class ConfigurationError(LogBrokerError):
    code = "configuration"


class InvariantError(LogBrokerError):
    code = "invariant"


def _from_here_down(kind: type[LogBrokerError]) -> Iterator[type[LogBrokerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _from_here_down(below)


KINDS: Final[Mapping[str, type[LogBrokerError]]] = {kind.code: kind for kind in _from_here_down(LogBrokerError)}
"""What is told to others, by code; each is made of a message and a hint."""


def told_kind(error: LogBrokerError) -> type[LogBrokerError]:
    """What others are told that an error is: its class, or the nearest one above it that is in `KINDS`."""
    return next(kind for kind in type(error).__mro__ if kind in KINDS.values())


def invariant(condition: bool, message: str) -> None:
    """Guard our own logic, in production too.

    Raises:
        InvariantError: `condition` is false. The owner stops the group and reports what it knows.
    """
    if not condition:
        violated(message)


def violated(message: str) -> NoReturn:
    """Raise InvariantError; for hot paths that build `message` only when it is needed."""
    raise InvariantError(message)
