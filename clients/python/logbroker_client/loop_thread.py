"""An asyncio loop in a thread of its own, for callers that block.

The thread belongs to one client: it begins with `connect` and is joined when that block is left, whatever happened
in it. Nothing of the client is touched from another thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

from logbroker.errors import LocalProtocolError, LogBrokerError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

_T = TypeVar("_T")

# For a loop that was cancelled. It waits for nothing but sockets that are torn down.
_JOIN_S = 5.0


class _BlockFailed(Exception):
    """Leaves the client's block in the loop as an error left it outside: without a goodbye."""


@final
class LoopThread:
    """Runs coroutines for any number of threads, which wait for them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._left: asyncio.Future[None] | None = None
        self._has_begun = threading.Event()
        self._actions: deque[Callable[[], None]] = deque()
        # A run through the actions is on its way.
        self._is_draining = False

    @contextmanager
    def running(self, client: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
        """Hold a client open in the thread for the time of the block."""
        entered: Future[_T] = Future()
        # A daemon, so that a program that ends in spite of us, by `os._exit` in a signal handler or a deadlock in an
        # exit hook of others, is not held up; whoever leaves the block joins it.
        thread = threading.Thread(target=self._run, args=(client, entered), name="logbroker-client", daemon=True)
        try:
            # An interruption may come while this waits for the thread, which runs already.
            thread.start()
            yield entered.result()
        except BaseException as error:
            # Who is interrupted, or has failed, does not wait for the network.
            self._leave(error)
            raise
        else:
            self._leave(None)
        finally:
            self._join(thread)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the loop and wait for it; an interruption, such as Ctrl-C, cancels it there."""
        loop = self._loop
        if loop is None:
            work.close()
            raise LocalProtocolError("the client is closed", hint="use it inside `with connect(...)`")
        try:
            if self._actions:
                # They come first, even if the thread that posted them was interrupted before it rang.
                loop.call_soon_threadsafe(self._drain)
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError as error:
            # The loop was closed a moment ago.
            work.close()
            raise LocalProtocolError("the client is closed") from error
        try:
            return future.result()
        except CancelledError as error:
            raise UnknownOutcomeError("the client was closed before the answer") from error
        except BaseException:
            future.cancel()
            raise

    def post(self, action: Callable[[], None]) -> None:
        """Do something in the loop, soon and in order; who posts much wakes the loop once.

        Raises:
            LocalProtocolError: the client is closed. What the action itself raises of our errors is lost.
        """
        loop = self._loop
        if loop is None:
            raise LocalProtocolError("the client is closed", hint="use it inside `with connect(...)`")
        self._actions.append(action)
        if not self._is_draining:
            self._is_draining = True
            # A loop that was closed a moment ago does nothing any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # Before the first is taken: whoever adds one after the last look rings again.
        self._is_draining = False
        while self._actions:
            # The consumer was closed meanwhile: the action would have been refused.
            with suppress(LogBrokerError):
                self._actions.popleft()()

    # --- the thread ---

    def _run(self, client: AbstractAsyncContextManager[_T], entered: Future[_T]) -> None:
        try:
            asyncio.run(self._hold(client, entered))
        except BaseException as error:
            if not entered.done():
                entered.set_exception(error)
            elif not isinstance(error, _BlockFailed | asyncio.CancelledError):
                # A bug in the client. Who waits is told by what is cancelled; this tells why.
                raise

    async def _hold(self, client: AbstractAsyncContextManager[_T], entered: Future[_T]) -> None:
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._left = loop.create_future()
        self._loop = loop
        self._has_begun.set()
        try:
            async with client as opened:
                entered.set_result(opened)
                await self._left
        finally:
            self._loop = None

    def _leave(self, error: BaseException | None) -> None:
        # Who is interrupted at once may come before the loop.
        self._has_begun.wait(_JOIN_S)
        loop, left, main = self._loop, self._left, self._main

        def leave() -> None:
            if error is None and left is not None and not left.done():
                left.set_result(None)
            elif isinstance(error, Exception) and left is not None and not left.done():
                left.set_exception(_BlockFailed())
            elif main is not None:
                main.cancel()

        if loop is not None:
            # It may have ended by itself.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(leave)

    def _join(self, thread: threading.Thread) -> None:
        if thread.ident is None:
            # It could not be started.
            return
        try:
            thread.join()
        except BaseException:
            # Interrupted once more: without the goodbye, then.
            self._leave(KeyboardInterrupt())
            thread.join(_JOIN_S)
            raise
