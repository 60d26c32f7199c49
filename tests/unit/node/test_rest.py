"""Who is looked at in a tick: who has risen, whose tick or time has come, and nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from logbroker.errors import InvariantError
from logbroker.ids import GroupId
from logbroker.node.rest import NEVER_MS, Rest

if TYPE_CHECKING:
    from logbroker.node.replica import Replica


def made(count: int) -> tuple[dict[GroupId, Replica], Rest]:
    replicas = {GroupId(number): resting_one(number) for number in range(1, count + 1)}
    rest = Rest(replicas)
    for replica in replicas.values():
        rest.rise(replica)
    return replicas, rest


def resting_one(number: int) -> Replica:
    core = SimpleNamespace(claim_beats=lambda: False)
    replica = SimpleNamespace(group=GroupId(number), due_tick=0, due_ms=0, rests_leading=False, failed=None, core=core)
    return cast("Replica", replica)


def lie_down(rest: Rest, replica: Replica, tick: int, *, due_tick: int = 0, due_ms: int = NEVER_MS) -> None:
    replica.due_tick, replica.due_ms = due_tick, due_ms
    rest.lie_down(replica, tick, now_ms=tick * 100)


def test_each_is_looked_at_when_its_tick_or_its_time_has_come() -> None:
    replicas, rest = made(3)
    first, second, third = replicas.values()
    assert rest.take_due(1, 100) == [first, second, third]
    lie_down(rest, first, 1, due_tick=4)
    lie_down(rest, second, 1, due_tick=9, due_ms=250)
    lie_down(rest, third, 1)
    assert rest.take_due(2, 200) == [third]
    lie_down(rest, third, 2, due_tick=9, due_ms=200)
    assert rest.take_due(3, 300) == [third, second]
    assert rest.take_due(4, 400) == [first]


def test_who_rises_is_looked_at_once_and_what_it_said_before_holds_no_more() -> None:
    replicas, rest = made(1)
    (replica,) = replicas.values()
    rest.take_due(1, 100)
    lie_down(rest, replica, 1, due_tick=3, due_ms=300)
    rest.rise(replica)
    rest.rise(replica)
    assert rest.take_due(2, 200) == [replica]
    lie_down(rest, replica, 2, due_tick=5, due_ms=900)
    assert rest.take_due(3, 300) == []
    assert rest.take_due(4, 400) == []
    assert rest.take_due(5, 500) == [replica]


def test_while_nobody_may_rest_all_are_looked_at() -> None:
    replicas, rest = made(2)
    first, second = replicas.values()
    assert rest.take_all() == [first, second]
    for replica in (first, second):
        lie_down(rest, replica, 1, due_tick=3)
    assert rest.take_all() == [first, second]
    for replica in (first, second):
        lie_down(rest, replica, 2, due_tick=4)
    assert rest.take_due(3, 300) == []
    assert rest.take_due(4, 400) == [first, second]


def test_leaders_beat_while_they_rest_and_those_that_claim_it_when_they_do() -> None:
    replicas, rest = made(3)
    leading, claiming, following = replicas.values()
    leading.rests_leading = True
    claiming.core = cast("Replica", SimpleNamespace(core=SimpleNamespace(claim_beats=lambda: True))).core
    rest.take_due(1, 100)
    lie_down(rest, leading, 1, due_tick=5)
    lie_down(rest, claiming, 1)
    lie_down(rest, following, 1, due_tick=5)
    assert rest.beating() == [leading, claiming]
    assert rest.take_due(2, 200) == [claiming]
    claiming.core = following.core
    lie_down(rest, claiming, 2, due_tick=5)
    assert rest.beating() == [leading]
    rest.forget(leading.group)
    assert rest.beating() == []


def test_what_is_remembered_does_not_grow_with_time() -> None:
    replicas, rest = made(2)
    following = replicas[GroupId(1)]
    for tick in range(1, 2_000):
        for replica in rest.take_due(tick, tick * 100):
            lie_down(
                rest,
                replica,
                tick,
                due_tick=tick + 10,
                due_ms=NEVER_MS if replica is following else tick * 100 + 5_000,
            )
    assert len(rest._by_tick) <= 2
    assert len(rest._by_time) <= 10


def test_who_has_failed_or_is_gone_is_looked_at_no_more() -> None:
    replicas, rest = made(3)
    failed, gone, replaced = replicas.values()
    rest.take_due(1, 100)
    failed.failed, failed.rests_leading = InvariantError("two entries at one index"), True
    lie_down(rest, failed, 1)
    assert rest.beating() == []
    lie_down(rest, gone, 1, due_tick=2, due_ms=200)
    lie_down(rest, replaced, 1, due_tick=2)
    del replicas[gone.group]
    newer = replicas[replaced.group] = resting_one(3)
    rest.rise(newer)
    rest.rise(replaced)
    assert rest.take_due(2, 200) == [newer]
