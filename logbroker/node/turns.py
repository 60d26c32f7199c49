"""The engine's two tasks: turns, which carry out what is ready, and ticks, which let time pass.

Whatever gives the engine something to do calls `wake`; all that was given until the turn task runs is one turn, so that
many small inputs share one pump, one group commit and one send a link.

What comes from a socket or from a thread does not wait for the turn task: the task that took it in takes the turn
itself, once it has handed in all that there was. A wake of another task costs a look at all sockets and a switch, more
than many a turn. The turn task takes the turns that nobody takes, and raises what goes wrong in any.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, final

import trio

from logbroker.errors import LogBrokerError
from logbroker.node.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.ids import NodeId
    from logbroker.node.engine import BackgroundJob, Engine
    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.store_threads import StoreThread
    from logbroker.storage.commit import CommitJob

logger = logging.getLogger(__name__)

LATE_MS = 250
"""A loop later than this looks like a dead node to the others before long: it is worth a line in the log."""
WARN_EVERY_S = 10.0
SEAL_S = 0.02
"""So long after the last commit the log itself says that it is durable."""


@final
@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """Counted since the start; `lateness_ms` is that of the last tick, `worst_lateness_ms` the most ever."""

    turns: int
    ticks: int
    skipped_ticks: int
    late_ticks: int
    lateness_ms: float
    worst_lateness_ms: float


@final
class Turns:
    """`send` puts one message on its way, `after_turn` is told when everything that was ready is done."""

    def __init__(
        self,
        engine: Engine,
        *,
        log_thread: StoreThread,
        flusher_thread: StoreThread,
        tick_ms: int,
        send: Callable[[NodeId, list[PeerMessage]], None],
        after_turn: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._log_thread = log_thread
        self._flusher_thread = flusher_thread
        self._tick_s = tick_ms / 1000
        self._send = send
        self._after_turn = after_turn
        self._bell = Bell()
        self._is_running = self._is_held = self._is_due = self._is_turning = False
        self._error: BaseException | None = None
        self._deferred: list[Callable[[], None]] = []
        self._committed = trio.Event()
        self._done: deque[tuple[Callable[[], None], Callable[[LogBrokerError], None], BaseException | None]] = deque()
        self._turn_count = self._tick_count = self._skipped = self._late = 0
        self._lateness_ms = self._worst_lateness_ms = 0.0
        self._warned_at = float("-inf")

    def wake(self) -> None:
        """There is something to do; from trio's thread only."""
        if self._is_held:
            self._is_due = True
        else:
            self._bell.ring()

    def hold(self) -> None:
        """Inputs follow that belong into one turn; the caller calls `release` before it waits for anything."""
        self._is_held = True

    def release(self) -> None:
        """The inputs are handed in: if any woke the engine, its turn is taken here."""
        self._is_held = False
        if self._is_due:
            self._is_due = False
            self.take_turn()
        else:
            self._run_deferred()

    def take_turn(self) -> None:
        """Take a turn at once; what it raises is raised by the turn task, whoever the caller is."""
        if not self._is_running or self._is_turning or self._error is not None:
            self._bell.ring()
            return
        try:
            self._turn()
        except BaseException as error:  # the turn task's to raise, which ends the node with it
            self._error = error
            self._bell.ring()

    def defer(self, act: Callable[[], None]) -> bool:
        """Call `act` at the end of this turn, or of the inputs that are being handed in; False where there is neither.

        It must not raise.
        """
        if self._is_turning or self._is_held:
            self._deferred.append(act)
            return True
        return False

    async def run_turns(self) -> NoReturn:
        """Take turns for ever.

        Raises:
            LogBrokerError: the engine failed; nothing may be written any more and the process must end.
        """
        self._is_running = True
        try:
            while True:
                await self._bell.wait()
                if self._error is not None:
                    raise self._error
                self._turn()
        finally:
            self._is_running = False

    async def run_ticks(self) -> NoReturn:
        """Tick on the beat of the monotonic clock; beats that were missed are skipped, not made up for.

        Making them up would let timeouts end whose messages lie unread in the sockets.
        """
        due = trio.current_time() + self._tick_s
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self._note_lateness((now - due) * 1000)
            self._tick_count += 1
            self._engine.tick()
            self.wake()
            missed = int((now - due) / self._tick_s)
            self._skipped += missed
            due += (missed + 1) * self._tick_s

    async def run_seals(self) -> NoReturn:
        """Seal the log whenever it has been quiet for a moment: otherwise its last commit could not be told from one
        that a crash cut short, if it rots."""
        while True:
            await self._committed.wait()
            self._committed = trio.Event()
            is_done = False
            while not is_done:
                count = self._engine.commit_count
                await trio.sleep(SEAL_S)
                is_done = count == self._engine.commit_count and self._engine.seal(count)
            self.wake()

    def statistics(self) -> LoopStatistics:
        return LoopStatistics(
            self._turn_count,
            self._tick_count,
            self._skipped,
            self._late,
            self._lateness_ms,
            self._worst_lateness_ms,
        )

    def _turn(self) -> None:
        self._is_turning = True
        try:
            self._carry_out()
            self._run_deferred()
        finally:
            self._is_turning = False

    def _run_deferred(self) -> None:
        if self._deferred:
            deferred, self._deferred = self._deferred, []
            for act in deferred:
                act()

    def _carry_out(self) -> None:
        engine = self._engine
        self._turn_count += 1
        self._take_done()
        engine.pump()
        if engine.failed is not None:
            raise engine.failed
        # The followers' disks work while ours does.
        for node, messages in engine.take_peer_messages().items():
            self._send(node, messages)
        commit = engine.next_commit()
        if commit is not None:
            self._log_thread.submit(commit, self._on_commit(commit))
            self._committed.set()
        background = engine.next_background()
        if background is not None:
            self._flusher_thread.submit(background, self._on_background(background))
        self._after_turn()

    def _on_commit(self, job: CommitJob) -> Callable[[BaseException | None], None]:
        engine = self._engine
        return lambda error: self._finish(
            lambda: engine.commit_done(job), lambda failure: engine.commit_failed(job, failure), error
        )

    def _on_background(self, job: BackgroundJob) -> Callable[[BaseException | None], None]:
        engine = self._engine
        return lambda error: self._finish(
            lambda: engine.background_done(job), lambda failure: engine.background_failed(job, failure), error
        )

    def _finish(
        self, done: Callable[[], None], failed: Callable[[LogBrokerError], None], error: BaseException | None
    ) -> None:
        """A job ended; called by the thread's own task, which is not the one to end for an error of the engine."""
        self._done.append((done, failed, error))
        self.take_turn()

    def _take_done(self) -> None:
        while self._done:
            done, failed, error = self._done.popleft()
            if error is None:
                done()
            elif isinstance(error, LogBrokerError):
                failed(error)
            else:
                # A bug, not a failure that the engine knows: it ends the node under its own name.
                raise error

    def _note_lateness(self, lateness_ms: float) -> None:
        self._lateness_ms = lateness_ms
        self._worst_lateness_ms = max(self._worst_lateness_ms, lateness_ms)
        if lateness_ms < LATE_MS:
            return
        self._late += 1
        now = trio.current_time()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            logger.warning("loop_late late_ms=%d count=%d", lateness_ms, self._late)
