"""A thread of its own, and what becomes of its work when everything around it is cancelled."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import trio

from logbroker.errors import InvariantError, StoreFailedError
from logbroker.node.store_threads import StoreThread


@dataclass
class Work:
    """Waits on its thread until the test lets it go on."""

    error: BaseException | None = None
    may_end: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    ran_on: str = ""

    def run(self) -> None:
        self.ran_on = threading.current_thread().name
        self.began.set()
        assert self.may_end.wait(10)
        if self.error is not None:
            raise self.error


def done_work(error: BaseException | None = None) -> Work:
    work = Work(error)
    work.may_end.set()
    return work


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("logbroker-")]


async def test_a_job_runs_on_the_thread_and_its_end_is_told_on_trios_own() -> None:
    thread, work, ended = StoreThread("log"), done_work(), trio.Event()
    told: list[tuple[BaseException | None, str]] = []

    def on_done(error: BaseException | None) -> None:
        told.append((error, threading.current_thread().name))
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(thread.run)
        thread.submit(work, on_done)
        await ended.wait()
        nursery.cancel_scope.cancel()
    assert work.ran_on == "logbroker-log"
    assert told == [(None, threading.current_thread().name)]
    assert alive() == []


@pytest.mark.parametrize("error", [StoreFailedError("sync failed"), ValueError("a bug"), SystemExit(1)])
async def test_whatever_a_job_raises_is_told_and_the_thread_goes_on(error: BaseException) -> None:
    thread = StoreThread("log")
    told: list[BaseException | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(thread.run)
        for raised in (error, None):
            ended = trio.Event()

            def on_done(result: BaseException | None, ended: trio.Event = ended) -> None:
                told.append(result)
                ended.set()

            thread.submit(done_work(raised), on_done)
            await ended.wait()
        nursery.cancel_scope.cancel()
    assert told == [error, None]


async def test_a_job_that_was_handed_over_is_finished_when_its_owner_is_cancelled() -> None:
    thread, work = StoreThread("log"), Work()
    told: list[BaseException | None] = []
    left = trio.Event()

    async def owner(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(thread.run)
                thread.submit(work, told.append)
                task_status.started(scope)
        left.set()

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(owner)
        await trio.to_thread.run_sync(work.began.wait, 10)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not left.is_set()
        work.may_end.set()
        await left.wait()
    assert told == [None]
    assert alive() == []


async def test_a_job_that_was_not_begun_at_the_cancellation_runs_all_the_same() -> None:
    thread = StoreThread("log", max_jobs=2)
    first, second = Work(), done_work()
    told: list[BaseException | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(thread.run)
        thread.submit(first, told.append)
        thread.submit(second, told.append)
        nursery.cancel_scope.cancel()
        first.may_end.set()
    assert second.ran_on == "logbroker-log"
    assert told == [None, None]


async def test_a_job_that_never_returns_ends_the_process_with_an_error_and_not_never() -> None:
    thread, work = StoreThread("log", stop_s=0.05), Work()

    async def runs() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(thread.run)
            thread.submit(work, lambda _: None)
            nursery.cancel_scope.cancel()

    with pytest.raises(BaseExceptionGroup) as caught:
        await runs()
    assert caught.group_contains(StoreFailedError, match="the log thread's job has not returned in 0.05 s")
    work.may_end.set()
    for left in threading.enumerate():
        if left.name == "logbroker-log":
            await trio.to_thread.run_sync(left.join, 10)


async def test_the_inbox_is_bounded() -> None:
    thread, work = StoreThread("log"), Work()
    async with trio.open_nursery() as nursery:
        await nursery.start(thread.run)
        thread.submit(work, lambda _: None)
        with pytest.raises(InvariantError, match="the log thread has 1 jobs already"):
            thread.submit(done_work(), lambda _: None)
        work.may_end.set()
        nursery.cancel_scope.cancel()


async def test_a_job_under_way_is_seen_in_the_statistics() -> None:
    thread, work, ended = StoreThread("log"), Work(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(thread.run)
        thread.submit(work, lambda _: ended.set())
        await trio.to_thread.run_sync(work.began.wait, 10)
        assert thread.statistics().running_s > 0
        assert not thread.is_idle
        work.may_end.set()
        await ended.wait()
        assert (thread.statistics().jobs, thread.statistics().running_s, thread.is_idle) == (1, 0.0, True)
        nursery.cancel_scope.cancel()
