"""The Python client of logbroker, on asyncio: as `logbroker_client`, which is on trio, name by name.

async with connect("ws://127.0.0.1:4100") as client:
    async with client.producer("orders") as producer:
        message_id = await producer.send(b"...")
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack

from logbroker.errors import ShuttingDownError
from logbroker_client.asyncio_transport import ASYNCIO, Transport, wake
from logbroker_client.client import Client, Position, Queue
from logbroker_client.consumer import Consumer
from logbroker_client.core import ClientCore
from logbroker_client.dead import DeadMessages
from logbroker_client.delays import Cancelled
from logbroker_client.endpoints import checked_urls, options_of, trust_of
from logbroker_client.histories import MessageHistory
from logbroker_client.messages import Message, MessageBatch, MessageId, NewMessage
from logbroker_client.moves import RedriveProgress
from logbroker_client.peeking import PeekedMessage
from logbroker_client.producer import Producer
from logbroker_client.queue_options import QueueOptions
from logbroker_client.waits import system_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from logbroker_client.endpoints import ConnectSettings
    from logbroker_client.waits import RunningTransport

__all__ = [
    "Cancelled",
    "Client",
    "Consumer",
    "DeadMessages",
    "Message",
    "MessageBatch",
    "MessageHistory",
    "MessageId",
    "NewMessage",
    "PeekedMessage",
    "Position",
    "Producer",
    "Queue",
    "QueueOptions",
    "RedriveProgress",
    "connect",
]


@asynccontextmanager
async def connect(url: str | Sequence[str], **settings: Unpack[ConnectSettings]) -> AsyncIterator[Client]:
    """Connect to a cluster and give a client for the time of the block; as `logbroker_client.connect`.

    `url` names one node or several, `ws://host:4100` or `wss://`; the others are learned. The settings
    are those of `ConnectSettings`. Leaving the block ends every task and connection that was made.

    Raises:
        UnavailableError: no node answered within `timeout`; the message says what each said.
        UnauthenticatedError: the cluster does not take the token.
        ConfigurationError: an address that is none.
    """
    urls, options = checked_urls(url), options_of(settings)
    loop = asyncio.get_running_loop()
    bell = asyncio.Event()
    core = ClientCore(urls, env=system_environment(clock=loop.time, wake=wake, on_work=bell.set), options=options)
    async with held(core, Transport(core, bell, tls=trust_of(settings))) as client:
        yield client


@asynccontextmanager
async def held(core: ClientCore, transport: RunningTransport) -> AsyncIterator[Client]:
    """Run a transport and give its client, once it is connected, for the time of the block."""
    # An error of the block leaves as it is, not in a group: the group here is nobody else's business.
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        running = group.create_task(transport.run())
        client = Client(core, ASYNCIO)
        try:
            await client.load_all()
            yield client
        except Exception as error:
            failure = error
            # No goodbye: whoever fails or is cancelled does not wait for the network.
            running.cancel()
        else:
            transport.close()
            limit = asyncio.get_running_loop().call_later(2 * core.options.close_timeout_s, running.cancel)
            running.add_done_callback(lambda _: limit.cancel())
        finally:
            core.close(ShuttingDownError("the client is closed"))
    if failure is not None:
        raise failure
