"""The loop's watchdog and its beat."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import pytest
import trio

from logbroker.errors import StoreFailedError
from logbroker.node.store_threads import StoreThread
from logbroker.node.turns import Turns

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.engine import Engine


class QuietEngine:
    """As much of an engine as the loop touches, with nothing to do."""

    def __init__(self) -> None:
        self.ticked_at: list[float] = []
        self.pumps = 0
        self.failed: LogBrokerError | None = None

    def tick(self) -> None:
        self.ticked_at.append(round(trio.current_time() - self.began, 3))

    def pump(self) -> None:
        self.pumps += 1

    def take_peer_messages(self) -> dict[int, list[object]]:
        return {}

    def next_commit(self) -> None:
        return None

    def next_background(self) -> None:
        return None

    began = 0.0


def turns(engine: QuietEngine) -> Turns:
    engine.began = trio.current_time()
    return Turns(
        cast("Engine", engine),
        log_thread=StoreThread("log"),
        flusher_thread=StoreThread("flusher"),
        tick_ms=100,
        send=lambda node, messages: None,
        after_turn=lambda: None,
    )


async def test_ticks_keep_the_beat(autojump_clock: trio.testing.MockClock) -> None:
    engine = QuietEngine()
    with trio.move_on_after(0.55):
        await turns(engine).run_ticks()
    assert engine.ticked_at == [0.1, 0.2, 0.3, 0.4, 0.5]


async def test_a_late_loop_skips_what_it_missed_and_says_so_once(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = QuietEngine()
    loop = turns(engine)
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run_ticks)
            await trio.testing.wait_all_tasks_blocked()
            # As if something had held the loop up for a second: the clock jumps, nobody ran meanwhile.
            for _ in range(2):
                mock_clock.jump(1.07)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert engine.ticked_at == [1.07, 2.14]
    statistics = loop.statistics()
    assert (statistics.ticks, statistics.skipped_ticks, statistics.late_ticks) == (2, 19, 2)
    assert statistics.worst_lateness_ms == pytest.approx(1_040, abs=1)
    assert [record.message for record in caplog.records] == ["loop_late late_ms=970 count=1"]


async def test_many_inputs_before_the_task_runs_are_one_turn() -> None:
    engine = QuietEngine()
    loop = turns(engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_turns)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            loop.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert engine.pumps == 1
        nursery.cancel_scope.cancel()


async def test_a_failed_engine_ends_the_turns() -> None:
    engine = QuietEngine()
    loop = turns(engine)
    engine.failed = StoreFailedError("sync failed")
    loop.wake()
    with pytest.raises(StoreFailedError, match="sync failed"):
        await loop.run_turns()


async def test_who_hands_inputs_in_takes_their_one_turn() -> None:
    engine = QuietEngine()
    loop = turns(engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_turns)
        await trio.testing.wait_all_tasks_blocked()
        loop.hold()
        loop.wake()
        loop.wake()
        assert loop.statistics().turns == 0
        loop.release()
        assert loop.statistics().turns == 1
        await trio.testing.wait_all_tasks_blocked()
        assert loop.statistics().turns == 1
        nursery.cancel_scope.cancel()


async def test_what_is_deferred_follows_the_turn_or_the_inputs() -> None:
    loop = turns(QuietEngine())
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_turns)
        await trio.testing.wait_all_tasks_blocked()
        assert not loop.defer(lambda: done.append(0))
        for number, wakes in ((1, True), (2, False)):
            loop.hold()
            assert loop.defer(lambda number=number: done.append(number))  # type: ignore[misc]  # bound at once
            if wakes:
                loop.wake()
            loop.release()
            assert done[-1] == number
        nursery.cancel_scope.cancel()
    assert loop.statistics().turns == 1


async def test_what_a_turn_raises_ends_the_turn_task_and_not_its_caller() -> None:
    engine = QuietEngine()
    loop = turns(engine)

    async def fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run_turns)
            await trio.testing.wait_all_tasks_blocked()
            engine.failed = StoreFailedError("sync failed")
            loop.take_turn()
            loop.take_turn()

    with pytest.raises(BaseExceptionGroup) as caught:
        await fail()
    assert caught.group_contains(StoreFailedError, match="sync failed")
    assert loop.statistics().turns == 1


async def test_nobody_takes_a_turn_when_the_turn_task_has_ended() -> None:
    loop = turns(QuietEngine())
    loop.take_turn()
    assert loop.statistics().turns == 0
