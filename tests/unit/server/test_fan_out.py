from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from logbroker.errors import LogBrokerError, NotLeaderError, OverloadedError, UnavailableError
from logbroker.ids import GroupId, Offset
from logbroker.node.requests import StateReply, StateRequest
from logbroker.server.fan_out import ask_partitions
from tests.unit.server.kit import FakeBackend

if TYPE_CHECKING:
    from logbroker.node.requests import Reply, Request

STATE = StateReply(Offset(0), Offset(5), 1_000, ())


class Partitions(FakeBackend):
    """Answers a partition's question from its list, the last answer for ever; a number is a time to take, in s."""

    def __init__(self, answers: dict[int, list[Reply | LogBrokerError | float]]) -> None:
        super().__init__()
        self.answers = answers

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        answer = self.answers[group].pop(0) if len(self.answers[group]) > 1 else self.answers[group][0]
        if isinstance(answer, float):
            await trio.sleep(answer)
            return STATE
        if isinstance(answer, LogBrokerError):
            raise answer
        return answer


async def test_answers_come_in_the_order_of_the_questions(autojump_clock: trio.testing.MockClock) -> None:
    refusal = OverloadedError("full")
    backend = Partitions({1: [0.5], 2: [refusal], 3: [STATE]})
    answers = await ask_partitions(backend, [(GroupId(group), StateRequest()) for group in (1, 2, 3)])
    assert answers == [STATE, refusal, STATE]


async def test_a_leader_is_looked_for_until_there_is_one(autojump_clock: trio.testing.MockClock) -> None:
    backend = Partitions({1: [NotLeaderError("an election"), NotLeaderError("an election"), STATE]})
    assert await ask_partitions(backend, [(GroupId(1), StateRequest())]) == [STATE]


async def test_who_does_not_answer_in_time_is_unavailable_and_the_others_are_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    nobody = NotLeaderError("no leader")
    backend = Partitions({1: [60.0], 2: [nobody], 3: [STATE]})
    began = trio.current_time()
    late, leaderless, good = await ask_partitions(
        backend, [(GroupId(group), StateRequest()) for group in (1, 2, 3)], wait_s=2.0
    )
    assert trio.current_time() - began == 2.0
    assert isinstance(late, UnavailableError)
    assert (leaderless, good) == (nobody, STATE)
