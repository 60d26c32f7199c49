"""The client's transports behind one face, and servers for them in a thread of their own."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest
import trio

import logbroker_client
import logbroker_client.asyncio
import logbroker_client.blocking
from logbroker_client.testing import MemoryBroker
from tests.e2e.kit import running, single
from tests.fake_broker import FakeCluster, serve_node

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path
    from types import FrameType

_T = TypeVar("_T")

DEADLINE_S = 30.0


class Face(Protocol):
    """One transport. Scenarios are coroutines: what they call on `connect`'s clients has the same names everywhere."""

    # Each transport's own kind of context manager.
    connect: Any

    def advance(self, seconds: float) -> None:
        """Let a time pass that passes by itself on a real node, where the scenario waits for what it brings."""

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None: ...

    async def wait(self, event: threading.Event) -> None:
        """Wait for something in a server's thread."""

    async def forever(self) -> None:
        """Wait to be cancelled."""

    async def cancel(self, work: Callable[[], Awaitable[object]], begun: threading.Event) -> None:
        """Start `work`, and cancel it once `begun` is set; it must not return by itself."""

    async def together(self, *works: Callable[[], Awaitable[object]]) -> None: ...


class _Face:
    """A transport, to a real node unless there is a broker in memory."""

    def __init__(self, connect: Any, memory: MemoryBroker | None = None) -> None:  # noqa: ANN401 - see `Face`
        self.connect = connect
        self._memory = memory

    def advance(self, seconds: float) -> None:
        if self._memory is not None:
            self._memory.advance(seconds)


class TrioFace(_Face):
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


class AsyncioFace(_Face):
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


class BlockingFace(_Face):
    """Coroutines that never wait: what they await is done when they get it. Interrupting them is a Ctrl-C."""

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        _drive(scenario())

    async def wait(self, event: threading.Event) -> None:
        assert event.wait(DEADLINE_S)

    async def forever(self) -> None:
        threading.Event().wait()

    async def cancel(self, work: Callable[[], Awaitable[object]], begun: threading.Event) -> None:
        def interrupt() -> None:
            begun.wait(DEADLINE_S)
            while not _is_waiting(main):
                time.sleep(0)
            signal.pthread_kill(main, signal.SIGINT)
            while not interrupted.wait(0.2):
                # It came between Python's last look for signals and the system call, which a person would do again.
                if _is_waiting(main):
                    signal.pthread_kill(main, signal.SIGINT)

        interrupted = threading.Event()
        main = threading.get_ident()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            await _never_returns(work)
        interrupted.set()
        thread.join()

    async def together(self, *works: Callable[[], Awaitable[object]]) -> None:
        with ThreadPoolExecutor(len(works)) as threads:
            for future in [threads.submit(lambda work: _drive(_just(work)), work) for work in works]:
                future.result()


def _is_waiting(thread: int) -> bool:
    """Whether a thread is in a lock of the standard library, in the call that is to be interrupted."""
    frame = sys._current_frames().get(thread)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__ and _calls(frame, _never_returns)


def _calls(frame: FrameType | None, function: Callable[..., object]) -> bool:
    code = getattr(function, "__code__", None)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking client has nothing to wait for")


class _Done:
    """A blocking object, or what it gave, in the words of coroutines."""

    def __init__(self, target: Any) -> None:  # noqa: ANN401 - of the blocking client
        self._target = target

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the blocking client
        value = getattr(self._target, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: _Done(value(*[_bare(arg) for arg in args], **kwargs))

    def __await__(self) -> Iterator[None]:
        # It never waits.
        yield from ()
        return _worded(self._target)  # type: ignore[no-any-return]  # a generator's value

    def __len__(self) -> int:
        return len(self._target)

    def __iter__(self) -> Iterator[Any]:
        return map(_worded, self._target)

    async def __aenter__(self) -> Any:  # noqa: ANN401 - of the blocking client
        entered = self._target.__enter__()
        return self if entered is self._target else _worded(entered)

    async def __aexit__(self, *failure: Any) -> Any:  # noqa: ANN401 - of the blocking client
        return self._target.__exit__(*failure)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._target:
            yield _worded(item)


def _worded(value: Any) -> Any:  # noqa: ANN401 - of the blocking client
    return _Done(value) if type(value).__module__ == "logbroker_client.blocking" else value


def _bare(value: Any) -> Any:  # noqa: ANN401 - for the blocking client
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value._target if isinstance(value, _Done) else value


def _worded_connect(connect: Any) -> Any:  # noqa: ANN401 - see `Face`
    return lambda *args, **kwargs: _Done(connect(*args, **kwargs))


FACES: dict[str, Callable[[], Face]] = {
    "trio": lambda: TrioFace(logbroker_client.connect),
    "asyncio": lambda: AsyncioFace(logbroker_client.asyncio.connect),
    "blocking": lambda: BlockingFace(_worded_connect(logbroker_client.blocking.connect)),
}


def _in_memory(kind: type[_Face], connect: Callable[[MemoryBroker], Any]) -> Any:  # noqa: ANN401 - a `Face`
    broker = MemoryBroker()
    return kind(lambda _url, **settings: connect(broker)(**settings), broker)


MEMORY_FACES: dict[str, Callable[[], Face]] = {
    "memory-trio": lambda: _in_memory(TrioFace, lambda broker: broker.connect),
    "memory-asyncio": lambda: _in_memory(AsyncioFace, lambda broker: broker.connect_asyncio),
    "memory-blocking": lambda: _in_memory(BlockingFace, lambda broker: _worded_connect(broker.connect_blocking)),
}


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
