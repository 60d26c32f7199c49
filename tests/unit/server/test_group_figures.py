"""Consumer groups with their lag, made of what the partitions' leaders answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from logbroker.errors import NotFoundError, UnavailableError
from logbroker.ids import GroupName, Offset
from logbroker.node.requests import GroupState, StateReply, StateRequest
from logbroker.server.handlers.group_figures import describe
from logbroker.wire.requests import DescribeGroups, Error, GroupDescriptions, GroupPartition
from tests.unit.server.kit import FakeBackend, World

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.requests import Reply


def state(*groups: GroupState, append_ms: int = 100_000) -> StateReply:
    return StateReply(Offset(0), Offset(50), append_ms, groups)


def group(name: str = "default", *, oldest_ms: int = 0, available: int = 0, leased: int = 0) -> GroupState:
    return GroupState(GroupName(name), available, leased, 1 if oldest_ms else 0, 0, Offset(9), oldest_ms, dead=2)


def test_the_counts_of_partitions_are_added_and_the_oldest_message_counts() -> None:
    answers = [
        state(group(oldest_ms=90_000, available=5, leased=3)),
        state(group(oldest_ms=10_000, available=1), append_ms=70_000),
        state(group()),
    ]
    [found] = describe("orders", answers)
    assert (found.name, found.available, found.leased, found.delayed, found.dead) == ("default", 6, 3, 2, 6)
    assert (found.lag_count, found.lag_ms, found.oldest_ms) == (11, 60_000, 10_000)
    assert [(row.partition, row.lag_count, row.lag_ms) for row in found.partitions] == [
        (0, 9, 10_000),
        (1, 2, 60_000),
        (2, 0, 0),
    ]


def test_a_group_that_has_settled_everything_has_no_lag_of_either_kind() -> None:
    [found] = describe("orders", [state(group())])
    assert (found.lag_count, found.lag_ms, found.oldest_ms, found.dead) == (0, 0, 0, 2)
    assert found.partitions[0].problem == ""


def test_a_message_from_after_the_newest_entry_has_no_negative_age() -> None:
    [found] = describe("orders", [state(group(oldest_ms=100_001, available=1))])
    assert found.lag_ms == 0


def test_a_time_that_cannot_be_read_is_told_of_and_is_not_taken_for_no_lag() -> None:
    [found] = describe("orders", [state(group(available=4))])
    assert (found.lag_count, found.lag_ms) == (4, 0)
    assert found.partitions[0].problem == "the time of message 9 cannot be read"


def test_groups_come_by_name_and_one_of_them_alone_when_it_is_asked_for() -> None:
    answers = [state(group("b"), group("a")), state(group("a"), group("b"), group("c"))]
    assert [found.name for found in describe("orders", answers)] == ["a", "b", "c"]
    assert [found.name for found in describe("orders", answers, only="b")] == ["b"]


def test_a_partition_without_an_answer_or_without_the_group_is_told_of_and_in_no_sum() -> None:
    late = UnavailableError("no answer within 2 s")
    answers: list[Reply | LogBrokerError] = [state(group("a", oldest_ms=1, available=3)), late, state()]
    [found] = describe("orders", answers)
    assert found.lag_count == 4
    assert found.partitions[1] == GroupPartition(partition=1, problem="no answer within 2 s")
    assert found.partitions[2].problem == "does not have the group: it is being made or deleted"


def test_a_group_is_missing_only_when_every_partition_says_so() -> None:
    with pytest.raises(NotFoundError, match="queue orders has no consumer group b"):
        describe("orders", [state(group("a")), state(group("a"))], only="b")
    with pytest.raises(UnavailableError, match="1 of 2 partitions of queue orders: no leader"):
        describe("orders", [state(group("a")), UnavailableError("no leader")], only="b")
    with pytest.raises(UnavailableError, match="2 of 2 partitions"):
        describe("orders", [UnavailableError("no leader"), UnavailableError("no leader")])


async def asked(request: DescribeGroups) -> object:
    backend = FakeBackend(partitions=2)
    backend.replies[StateRequest] = state(group(oldest_ms=90_000, available=5))
    world = World.make(backend)
    world.greet()
    world.send(request)
    async with trio.open_nursery() as nursery:
        for work, args in world.transport.tasks:
            nursery.start_soon(work, *args)
    assert (backend.asked, backend.proposed) == ([], []), "nothing is changed"
    return world.only_reply()


async def test_a_request_is_answered_by_all_partitions_of_the_queue() -> None:
    reply = await asked(DescribeGroups(2, queue="orders"))
    assert isinstance(reply, GroupDescriptions)
    assert [(row.name, row.lag_count, row.lag_ms) for row in reply.groups] == [("default", 12, 10_000)]


@pytest.mark.parametrize(("queue", "named"), [("nowhere", ""), ("orders", "nobody")])
async def test_a_queue_or_group_that_is_not_there_is_not_found(queue: str, named: str) -> None:
    reply = await asked(DescribeGroups(2, queue=queue, group=named))
    assert isinstance(reply, Error)
    assert (reply.code, (named or queue) in reply.message) == ("not_found", True)
