"""`connect` on trio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from logbroker.errors import ShuttingDownError
from logbroker_client.client import Client
from logbroker_client.core import ClientCore
from logbroker_client.endpoints import checked_urls, system_trust
from logbroker_client.options import ClientOptions
from logbroker_client.transport import Bell, Transport, new_scheduler_wake, open_tcp, wait_among
from logbroker_client.waits import Waits, system_environment

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from logbroker_client.transport import OpenStream
    from logbroker_client.waits import RunningTransport


async def _within(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(seconds):
        await action()


TRIO = Waits(
    among=wait_among,
    checkpoint=trio.lowlevel.checkpoint,
    checkpoint_if_cancelled=trio.lowlevel.checkpoint_if_cancelled,
    within=_within,
)


@asynccontextmanager
async def connect(
    url: str | Sequence[str],
    *,
    token: str | None = None,
    name: str = "",
    timeout: float = 30.0,  # noqa: ASYNC109 - a default for operations, not a scope around this one
    connect_timeout: float = 5.0,
    close_timeout: float = 2.0,
    ping_interval: float = 5.0,
    tls: ssl.SSLContext | Literal["system"] | None = None,
    open_stream: OpenStream | None = None,
) -> AsyncIterator[Client]:
    """Connect to a cluster and give a client for the time of the block.

    `url` names one node or several, `ws://host:4100` or `wss://`; the others are learned. Times are in
    seconds. `tls` "system" trusts what the operating system trusts; None takes Python's default.
    `open_stream` opens the stream to an address in another way, for proxies and tests.

    Producers and consumers belong inside the block. Leaving it closes all connections.

    Raises:
        UnavailableError: no node answered within `timeout`; the message says what each said.
        UnauthenticatedError: the cluster does not take the token.
        ConfigurationError: an address that is none.
    """
    urls = checked_urls(url)
    options = ClientOptions(
        token=token or "",
        name=name,
        timeout_s=timeout,
        connect_timeout_s=connect_timeout,
        close_timeout_s=close_timeout,
        ping_interval_s=ping_interval,
    )
    bell = Bell()
    env = system_environment(clock=trio.current_time, wake=new_scheduler_wake(), on_work=bell.ring)
    core = ClientCore(urls, env=env, options=options)
    context = system_trust() if tls == "system" else tls
    transport = Transport(core, bell, open_stream=open_stream or partial(open_tcp, tls=context))
    async with held(core, transport) as client:
        yield client


@asynccontextmanager
async def held(core: ClientCore, transport: RunningTransport) -> AsyncIterator[Client]:
    """Run a transport and give its client, once it is connected, for the time of the block."""
    # An error of the block leaves as it is, not in a group: the nursery here is nobody else's business.
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run)
        client = Client(core, TRIO)
        try:
            await client.load_all()
            yield client
        except Exception as error:
            failure = error
            # No goodbye: whoever fails or is cancelled does not wait for the network.
            nursery.cancel_scope.cancel()
        else:
            transport.close()
            nursery.cancel_scope.deadline = trio.current_time() + 2 * core.options.close_timeout_s
        finally:
            core.close(ShuttingDownError("the client is closed"))
    if failure is not None:
        raise failure
