"""The Python client of logbroker, on trio.

async with connect("ws://127.0.0.1:4100") as client:
    async with client.producer("orders") as producer:
        message_id = await producer.send(b"...")
"""

from __future__ import annotations

from logbroker.errors import (
    AlreadyExistsError,
    CorruptBatchError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    OffsetOutOfRangeError,
    RequestError,
    RequestTooLargeError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker_client.client import Client, Position, Queue, connect
from logbroker_client.consumer import Consumer
from logbroker_client.messages import Message, MessageBatch, MessageId, NewMessage
from logbroker_client.producer import Producer

__all__ = [
    "AlreadyExistsError",
    "Client",
    "Consumer",
    "CorruptBatchError",
    "ForbiddenError",
    "InvalidArgumentError",
    "LogBrokerError",
    "Message",
    "MessageBatch",
    "MessageId",
    "NewMessage",
    "NotFoundError",
    "OffsetOutOfRangeError",
    "Position",
    "Producer",
    "Queue",
    "RequestError",
    "RequestTooLargeError",
    "StaleLeaseError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownOutcomeError",
    "connect",
]
