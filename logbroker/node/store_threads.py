"""The two threads of a node's storage: one for group commits, one for flushes, checkpoints and snapshots.

They are never taken from the shared pool: a sync that does not return must not hold up anything else, and a burst of
anything else must not hold up a sync. What was handed over is run to its end whatever is cancelled meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, final

import trio

from logbroker.errors import StoreFailedError, violated

logger = logging.getLogger(__name__)


class Job(Protocol):
    """Blocking work; `run` is called once, on the thread."""

    def run(self) -> None: ...


Done = Callable[[BaseException | None], None]
"""Called on trio's thread with what `run` raised, or None. It must not raise: there is nobody to catch it."""


@final
@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """`running_s`: how long the job that runs at this moment has been running, 0 if none is."""

    jobs: int
    busy_s: float
    slowest_s: float
    running_s: float


@final
class StoreThread:
    """One thread with an inbox of `max_jobs`; it lives exactly as long as `run`."""

    def __init__(self, name: str, *, max_jobs: int = 1, stop_s: float = 30.0) -> None:
        self._name = name
        self._max_jobs = max_jobs
        self._stop_s = stop_s
        self._inbox: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._handed_over = 0
        # Jobs that are done, for the loop, which the thread wakes by a byte in a pipe: half of what trio's own way
        # into the loop costs, which asks a lock, a second task and a second read.
        self._done: deque[tuple[Done, BaseException | None]] = deque()
        self._bell_end = -1
        self._is_abandoned = self._has_ended = False
        self._jobs = 0
        self._busy_s = self._slowest_s = 0.0
        self._began_s: float | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the thread; when cancelled, let it finish what it was given, for `stop_s` at most.

        Raises:
            StoreFailedError: the running job did not return in that time; the process must end now.
        """
        wake_end, self._bell_end = os.pipe()
        os.set_blocking(wake_end, False)
        # A daemon, so that a disk that never answers cannot keep a process that has given it up.
        thread = threading.Thread(target=self._work, name=f"logbroker-{self._name}", daemon=True)
        thread.start()
        try:
            task_status.started()
            while True:
                await self._take_done(wake_end)
        finally:
            self._inbox.put(None)
            with trio.move_on_after(self._stop_s, shield=True):
                while not self._has_ended:
                    await self._take_done(wake_end)
            if not self._has_ended:
                # The pipe stays open: the thread may still write to it, and its number must not be another's.
                self._is_abandoned = True
                raise StoreFailedError(f"the {self._name} thread's job has not returned in {self._stop_s} s")
            # It is past its last line: this does not block.
            thread.join(timeout=self._stop_s)
            os.close(wake_end)
            os.close(self._bell_end)

    @property
    def is_idle(self) -> bool:
        return self._handed_over == 0

    def submit(self, job: Job, on_done: Done) -> None:
        """Hand a job over; `on_done` is called from trio's loop, always.

        Raises:
            InvariantError: the inbox is full: the caller keeps count of what it hands over.
        """
        if self._handed_over >= self._max_jobs:
            violated(f"the {self._name} thread has {self._handed_over} jobs already")
        self._handed_over += 1
        self._inbox.put((job, on_done))

    def statistics(self) -> ThreadStatistics:
        began_s = self._began_s
        running_s = 0.0 if began_s is None else time.monotonic() - began_s
        return ThreadStatistics(self._jobs, self._busy_s, self._slowest_s, running_s)

    def _work(self) -> None:
        while True:
            item = self._inbox.get()
            if item is None:
                self._tell(self._on_end, None)
                return
            job, on_done = item
            self._began_s = began_s = time.monotonic()
            error: BaseException | None = None
            try:
                job.run()
            except BaseException as raised:  # handed to the owner, which must learn of anything
                error = raised
            took_s = time.monotonic() - began_s
            self._began_s = None
            self._jobs += 1
            self._busy_s += took_s
            self._slowest_s = max(self._slowest_s, took_s)
            self._tell(on_done, error)

    async def _take_done(self, wake_end: int) -> None:
        """Wait for jobs that are done, and tell their owners. Cancelled, none is lost."""
        await trio.lowlevel.wait_readable(wake_end)
        os.read(wake_end, 64)
        while self._done:
            on_done, error = self._done.popleft()
            if on_done != self._on_end:
                self._handed_over -= 1
            on_done(error)

    def _on_end(self, _: BaseException | None) -> None:
        self._has_ended = True

    def _tell(self, on_done: Done, error: BaseException | None) -> None:
        if self._is_abandoned:
            # The loop is gone with whoever waited; what the job did is on the disk all the same.
            logger.warning("late_job thread=%s", self._name)
            return
        self._done.append((on_done, error))
        os.write(self._bell_end, b"\0")
