"""The Python client of logbroker, on trio.

async with connect("ws://127.0.0.1:4100") as client:
    async with client.producer("orders") as producer:
        message_id = await producer.send(b"...")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import (
    AlreadyExistsError,
    CorruptBatchError,
    DedupConflictError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    OffsetOutOfRangeError,
    QueueFullError,
    RequestError,
    RequestTooLargeError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker_client.client import Client, Position, Queue
from logbroker_client.consumer import Consumer
from logbroker_client.dead import DeadMessages
from logbroker_client.delays import Cancelled
from logbroker_client.histories import MessageHistory
from logbroker_client.messages import Message, MessageBatch, MessageId, NewMessage
from logbroker_client.moves import RedriveProgress
from logbroker_client.peeking import PeekedMessage
from logbroker_client.producer import Producer
from logbroker_client.queue_options import QueueOptions

if TYPE_CHECKING:
    from logbroker_client.trio_connect import connect

__all__ = [
    "AlreadyExistsError",
    "Cancelled",
    "Client",
    "Consumer",
    "CorruptBatchError",
    "DeadMessages",
    "DedupConflictError",
    "ForbiddenError",
    "InvalidArgumentError",
    "LogBrokerError",
    "Message",
    "MessageBatch",
    "MessageHistory",
    "MessageId",
    "NewMessage",
    "NotFoundError",
    "OffsetOutOfRangeError",
    "PeekedMessage",
    "Position",
    "Producer",
    "Queue",
    "QueueFullError",
    "QueueOptions",
    "RedriveProgress",
    "RequestError",
    "RequestTooLargeError",
    "StaleLeaseError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownOutcomeError",
    "connect",
]


def __getattr__(name: str) -> object:
    # Nothing else here needs trio, which the users of `logbroker_client.asyncio` may not want to load.
    if name != "connect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from logbroker_client.trio_connect import connect

    globals()["connect"] = connect
    return connect
