"""The whole story against brokers in memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from clients.examples.recharge.ledger import open_ledger
from clients.examples.recharge.orders import generate
from clients.examples.recharge.progress import Progress
from clients.examples.recharge.story import Outcome, Story, StoryOptions
from logbroker.errors import UnavailableError
from logbroker.wire.requests import AnyRequest, Produce, Produced
from logbroker_client import AlreadyExistsError
from tests.unit.examples.kit import RechargeCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_broker import Answer, FakeNode

OPTIONS = StoryOptions(rate=0, away_s=0)
ORDERS = list(generate(400, seed=7))


async def play(
    path: Path, cluster: RechargeCluster, *, options: StoryOptions = OPTIONS, has_control: bool = True
) -> tuple[Outcome, Progress, list[str]]:
    progress = Progress(len(ORDERS))
    told: list[str] = []
    with open_ledger(path / "books.sqlite") as ledger:
        story = Story(
            cluster.connect,
            ORDERS,
            ledger,
            progress,
            options,
            control=cluster if has_control else None,
            tell=told.append,
        )
        outcome = await story.play()
    return outcome, progress, told


@contextmanager
def limited(seconds: float = 30) -> Iterator[None]:
    with trio.fail_after(seconds):
        yield


async def test_the_books_balance_after_a_kill_a_bad_build_and_a_rewind(tmp_path: Path) -> None:
    with limited():
        async with trio.open_nursery() as nursery:
            cluster = RechargeCluster(nursery)
            outcome, progress, told = await play(tmp_path, cluster)
            nursery.cancel_scope.cancel()
    assert outcome.is_good, outcome.after.describe()
    assert (progress.confirmed, progress.delivered, progress.booked) == (400, 400, 400)
    # The bad build took its 15 %, up to the end of its last batch, and the books were short by just that.
    assert 60 <= progress.unbooked < 60 + 10
    assert len(outcome.before.missing) == progress.unbooked
    assert outcome.replay is not None
    assert outcome.replay.moved == 400
    assert outcome.replay.absorbed == 400 - progress.unbooked
    assert cluster.killed == cluster.restarted == [outcome.kill.node if outcome.kill else 0]
    assert any("new leader" in line for line in told)


async def test_it_tells_the_same_story_without_a_kill(tmp_path: Path) -> None:
    with limited():
        async with trio.open_nursery() as nursery:
            cluster = RechargeCluster(nursery)
            outcome, progress, _ = await play(tmp_path, cluster, has_control=False)
            nursery.cancel_scope.cancel()
    assert outcome.is_good
    assert outcome.kill is None
    assert cluster.killed == []
    assert progress.unbooked > 0


async def test_a_broker_that_loses_a_confirmed_batch_does_not_balance(tmp_path: Path) -> None:
    lost_count = 0

    def lose_one(node: FakeNode, request: AnyRequest, body: bytes) -> Answer | None:
        nonlocal lost_count
        if lost_count or not isinstance(request, Produce) or request.queue != "recharge-orders":
            return None
        answer = node.answer(request, body)
        assert answer is not None
        if isinstance(answer[0], Produced):
            _, lost_count, _ = node.cluster.partition(request.queue, request.partition).batches.pop()
        return answer

    with limited():
        async with trio.open_nursery() as nursery:
            cluster = RechargeCluster(nursery)
            cluster.before = lose_one
            options = StoryOptions(rate=0, away_s=0, patience_s=1)
            outcome, progress, _ = await play(tmp_path, cluster, options=options, has_control=False)
            nursery.cancel_scope.cancel()
    assert not outcome.is_good
    assert "nothing moved for 1 s" in outcome.stalled
    assert len(outcome.after.missing) >= lost_count > 0
    assert progress.confirmed > outcome.after.booking_count


async def test_an_order_that_is_sent_twice_is_performed_and_booked_once(tmp_path: Path) -> None:
    # The fake broker stores these and never says so.
    swallowed = 0

    def swallow(node: FakeNode, request: AnyRequest, body: bytes) -> UnavailableError | None:
        nonlocal swallowed
        if swallowed >= 3 or not isinstance(request, Produce) or request.queue != "recharge-receipts":
            return None
        swallowed += 1
        return UnavailableError("try again")

    with limited():
        async with trio.open_nursery() as nursery:
            cluster = RechargeCluster(nursery)
            cluster.before = swallow
            outcome, progress, _ = await play(tmp_path, cluster, has_control=False)
            nursery.cancel_scope.cancel()
    assert swallowed == 3
    assert outcome.is_good
    assert progress.booked == 400


async def test_queues_of_an_earlier_run_are_left_alone(tmp_path: Path) -> None:
    with limited():
        async with trio.open_nursery() as nursery:
            cluster = RechargeCluster(nursery)
            cluster.cluster.add_queue("recharge-orders")
            with pytest.raises(AlreadyExistsError):
                await play(tmp_path, cluster)
            nursery.cancel_scope.cancel()
