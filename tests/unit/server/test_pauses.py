"""Consumer groups that are paused, resumed and purged in every partition of their queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import InvalidArgumentError, NotFoundError
from logbroker.ids import GroupName, Offset
from logbroker.node.requests import (
    CreateGroupRequest,
    EarliestTarget,
    GroupReply,
    GroupState,
    PauseRequest,
    PurgeReply,
    PurgeRequest,
    ResumeRequest,
    StateReply,
    StateRequest,
)
from logbroker.server.handlers.group_figures import describe
from logbroker.server.handlers.groups import spread_groups
from logbroker.wire.requests import Done, Error, PauseGroup, Purged, PurgeGroup, ResumeGroup
from tests.unit.server.kit import FakeBackend, World

if TYPE_CHECKING:
    from logbroker.ids import GroupId
    from logbroker.node.requests import Reply, Request
    from logbroker.wire.requests import AnyReply, AnyRequest

BILLING = GroupName("billing")
DONE = GroupReply(BILLING, Offset(0))


class Partitions(FakeBackend):
    """Partitions that answer in the order in which `answers` has something for them."""

    def __init__(self, *answers: Reply | Exception) -> None:
        super().__init__(partitions=len(answers))
        row = self.catalogue.queue("orders")
        assert row is not None
        self.answers = dict(zip(row.groups, answers, strict=True))
        self.heard: list[Request] = []

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        self.heard.append(request)
        answer = self.answers[group]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def told(backend: FakeBackend, request: AnyRequest) -> AnyReply:
    world = World.make(backend)
    world.greet()
    world.send(request)
    await world.transport.run_tasks()
    return world.only_reply()


async def test_a_group_is_paused_and_resumed_in_every_partition() -> None:
    backend = Partitions(DONE, DONE)
    pause = PauseGroup(2, queue="orders", group="billing", reason="night", duration_ms=60_000)
    assert await told(backend, pause) == Done(2)
    assert backend.heard == [PauseRequest(BILLING, "night", 60_000)] * 2
    backend.heard.clear()
    assert await told(backend, ResumeGroup(2, queue="orders", group="billing")) == Done(2)
    assert backend.heard == [ResumeRequest(BILLING)] * 2
    assert backend.proposed == []


async def test_the_counts_of_a_purge_are_added() -> None:
    backend = Partitions(PurgeReply(5, 2, 1), PurgeReply(7, 0, 3))
    reply = await told(backend, PurgeGroup(2, queue="orders", group="billing", purge_id=9))
    assert reply == Purged(2, purged_count=12, revoked_count=2, dead_count=4)
    assert backend.heard == [PurgeRequest(BILLING, 9)] * 2


@pytest.mark.parametrize(
    ("request_", "done"),
    [
        (PauseGroup(2, queue="orders", group="billing"), "paused"),
        (ResumeGroup(2, queue="orders", group="billing"), "resumed"),
        (PurgeGroup(2, queue="orders", group="billing", purge_id=9), "purged"),
    ],
)
async def test_what_one_partition_did_not_do_is_told_with_how_to_finish_it(request_: AnyRequest, done: str) -> None:
    reply = await told(Partitions(PurgeReply(1, 0, 0), NotFoundError("no such group here")), request_)
    assert isinstance(reply, Error)
    assert (reply.code, reply.hint) == ("not_found", "repeating it finishes what was begun")
    assert reply.message == (
        f"consumer group billing of queue orders was not {done} in 1 of 2 partitions: no such group here"
    )


async def test_a_refusal_of_the_only_partition_is_told_as_it_is() -> None:
    reply = await told(
        Partitions(InvalidArgumentError("duration_ms 5 is not in 1000..9")),
        PauseGroup(2, queue="orders", group="billing", duration_ms=5),
    )
    assert isinstance(reply, Error)
    assert (reply.code, reply.message) == ("invalid_argument", "duration_ms 5 is not in 1000..9")


async def test_a_queue_that_is_not_there_is_not_found() -> None:
    reply = await told(FakeBackend(), ResumeGroup(2, queue="nowhere", group="billing"))
    assert isinstance(reply, Error)
    assert reply.code == "not_found"


def state(*, is_paused: bool = True, reason: str = "night", until_ms: int = 0) -> StateReply:
    made = GroupState(BILLING, 1, 0, 0, 0, Offset(9), 0, 0, is_paused, reason, 1_000, until_ms)
    return StateReply(Offset(0), Offset(10), 100_000, (made,))


AWAKE = state(is_paused=False, reason="")


def test_a_group_is_shown_as_paused_where_one_of_its_partitions_is() -> None:
    [found] = describe("orders", [AWAKE, state(until_ms=160_000), state(until_ms=150_000)])
    assert (found.is_paused, found.paused_reason, found.paused_until_ms) == (True, "night", 160_000)
    assert [row.is_paused for row in found.partitions] == [False, True, True]
    [found] = describe("orders", [state(until_ms=160_000), state()])
    assert (found.is_paused, found.paused_until_ms) == (True, 0)
    [found] = describe("orders", [AWAKE, AWAKE])
    assert (found.is_paused, found.paused_reason, found.paused_until_ms) == (False, "", 0)


async def test_partitions_that_a_queue_has_grown_are_paused_as_the_others() -> None:
    new = StateReply(Offset(0), Offset(0), 0, ())
    backend = Partitions(state(until_ms=160_000), new, AWAKE)
    await spread_groups(World.make(backend).service, "orders")
    assert [request for request in backend.heard if not isinstance(request, StateRequest)] == [
        CreateGroupRequest(BILLING, EarliestTarget()),
        PauseRequest(BILLING, "night", 60_000),
    ]
