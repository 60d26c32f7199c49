"""The client's transports behind one face, and servers for them in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

import logbroker_client
import logbroker_client.asyncio
from tests.e2e.kit import running, single
from tests.fake_broker import FakeCluster, serve_node

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

_T = TypeVar("_T")

DEADLINE_S = 30.0


class Face(Protocol):
    """One transport. Scenarios are coroutines: what they call on `connect`'s clients has the same names everywhere."""

    # Each transport's own kind of context manager.
    connect: Any

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None: ...

    async def wait(self, event: threading.Event) -> None:
        """Wait for something in a server's thread."""

    async def forever(self) -> None:
        """Wait to be cancelled."""

    async def cancel(self, work: Callable[[], Awaitable[object]], begun: threading.Event) -> None:
        """Start `work`, and cancel it once `begun` is set; it must not return by itself."""

    async def together(self, *works: Callable[[], Awaitable[object]]) -> None: ...


class TrioFace:
    connect = staticmethod(logbroker_client.connect)

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            with trio.fail_after(DEADLINE_S):
                await scenario()

        trio.run(main)

    async def wait(self, event: threading.Event) -> None:
        await trio.to_thread.run_sync(event.wait, abandon_on_cancel=True)

    async def forever(self) -> None:
        await trio.sleep_forever()

    async def cancel(self, work: Callable[[], Awaitable[object]], begun: threading.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_never_returns, work)
            await self.wait(begun)
            nursery.cancel_scope.cancel()

    async def together(self, *works: Callable[[], Awaitable[object]]) -> None:
        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(_just, work)


class AsyncioFace:
    connect = staticmethod(logbroker_client.asyncio.connect)

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await scenario()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        # The debug mode tells of callbacks that are slow and of calls from other threads.
        asyncio.run(main(), debug=True)

    async def wait(self, event: threading.Event) -> None:
        await asyncio.to_thread(event.wait, DEADLINE_S)

    async def forever(self) -> None:
        await asyncio.Event().wait()

    async def cancel(self, work: Callable[[], Awaitable[object]], begun: threading.Event) -> None:
        task = asyncio.ensure_future(_never_returns(work))
        await self.wait(begun)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def together(self, *works: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_just(work))


async def _never_returns(work: Callable[[], Awaitable[object]]) -> None:
    await work()
    raise AssertionError("it returned")


async def _just(work: Callable[[], Awaitable[object]]) -> None:
    await work()


FACES: dict[str, Face] = {"trio": TrioFace(), "asyncio": AsyncioFace()}


@dataclass
class Thread:
    """A trio loop in a thread, to run servers beside clients of any kind."""

    token: trio.lowlevel.TrioToken

    def call(self, work: Callable[[], _T]) -> _T:
        """Do something between two steps of the servers."""
        # Not `trio.from_thread`, which refuses to be called from a loop, as the scenarios do.
        future: Future[_T] = Future()

        def run() -> None:
            future.set_result(work())

        self.token.run_sync_soon(run)
        return future.result(DEADLINE_S)


@contextmanager
def _serving(serve: Callable[[trio.TaskStatus[_T]], Awaitable[None]]) -> Iterator[tuple[Thread, _T]]:
    """Run a server in a thread until the end of the block; gives what it tells when it has started."""
    started: list[tuple[trio.CancelScope, trio.lowlevel.TrioToken, _T]] = []
    ready = threading.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            told: _T = await nursery.start(lambda task_status: serve(task_status))
            started.append((nursery.cancel_scope, trio.lowlevel.current_trio_token(), told))
            ready.set()

    def run() -> None:
        try:
            trio.run(main)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="servers")
    thread.start()
    ready.wait()
    scope, token, told = started[0]
    try:
        yield Thread(token), told
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@contextmanager
def real_node(folder: Path) -> Iterator[str]:
    """A single node with its disk; gives its address."""

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        async with running(single(folder), deadline_s=600) as (_, bound):
            task_status.started(bound.client_url)
            await trio.sleep_forever()

    with _serving(serve) as (_, url):
        yield url


@dataclass
class FakeWorld:
    """Fake brokers on loopback ports. Whatever looks at them or changes them goes through `thread.call`."""

    thread: Thread
    cluster: FakeCluster

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.cluster.nodes.values()]

    def drop_all(self) -> None:
        """Every connection breaks."""

        def drop() -> None:
            for node in self.cluster.nodes.values():
                for connection in list(node.connections):
                    connection.drop()

        self.thread.call(drop)


@contextmanager
def fake_nodes(cluster: FakeCluster, *, tls: ssl.SSLContext | None = None) -> Iterator[FakeWorld]:
    async def serve(task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for node in cluster.nodes.values():
                await nursery.start(partial(serve_node, node, tls=tls))
            task_status.started()

    with _serving(serve) as (thread, _):
        yield FakeWorld(thread, cluster)
