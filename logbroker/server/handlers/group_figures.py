"""How far consumer groups are: the counts of their partitions' leaders, by group, with the lag in messages and time.

It must know no clock: a lag is in log time, and how old a message is by now is for those to say who show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import LogBrokerError, NotFoundError, UnavailableError
from logbroker.node.requests import StateReply, StateRequest
from logbroker.server.fan_out import ask_partitions
from logbroker.server.handlers.queues import DESCRIBE_WAIT_S
from logbroker.wire.requests import GroupDescription, GroupDescriptions, GroupPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.node.requests import Reply
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import DescribeGroups


def describe_groups(exchange: Exchange, request: DescribeGroups, body: bytes) -> None:
    """Exact as of this request; a partition that cannot be asked is told of in each group, and is in no sum."""
    service = exchange.service
    row = service.queue(request.queue)

    async def work() -> GroupDescriptions:
        questions = [(group, StateRequest()) for group in row.groups]
        answers = await ask_partitions(service.backend, questions, wait_s=DESCRIBE_WAIT_S)
        return GroupDescriptions(request.rid, groups=describe(row.name, answers, only=request.group))

    exchange.start(work)


def describe(queue: str, answers: Sequence[Reply | LogBrokerError], *, only: str = "") -> list[GroupDescription]:
    """Sort the answers of all partitions, in their order, by consumer group; `only` is the one that is asked for.

    Raises:
        NotFoundError: every partition has answered, and none has the group.
        UnavailableError: those that have answered do not say which groups there are.
    """
    names = {state.group for answer in answers if isinstance(answer, StateReply) for state in answer.groups}
    wanted = sorted(names) if not only else [name for name in names if name == only]
    silent = [answer for answer in answers if not isinstance(answer, StateReply)]
    if silent and not wanted:
        raise UnavailableError(f"{len(silent)} of {len(answers)} partitions of queue {queue}: {_problem(silent[0])}")
    if only and not wanted:
        raise NotFoundError(f"queue {queue} has no consumer group {only}")
    return [
        _joined(name, [_partition(name, number, answer) for number, answer in enumerate(answers)]) for name in wanted
    ]


def _partition(name: str, number: int, answer: Reply | LogBrokerError) -> GroupPartition:
    if not isinstance(answer, StateReply):
        return GroupPartition(partition=number, problem=_problem(answer))
    state = next((state for state in answer.groups if state.group == name), None)
    if state is None:
        return GroupPartition(partition=number, problem="does not have the group: it is being made or deleted")
    lag_count = state.available + state.leased + state.delayed
    is_timed = state.oldest_ms > 0
    return GroupPartition(
        partition=number,
        available=state.available,
        leased=state.leased,
        delayed=state.delayed,
        dead=state.dead,
        moved=state.moved,
        lag_count=lag_count,
        lag_ms=max(answer.append_ms - state.oldest_ms, 0) if is_timed else 0,
        oldest_offset=state.oldest_offset,
        oldest_ms=state.oldest_ms,
        problem="" if is_timed or not lag_count else f"the time of message {state.oldest_offset} cannot be read",
        is_paused=state.is_paused,
        paused_reason=state.paused_reason,
        paused_until_ms=state.paused_until_ms,
    )


def _joined(name: str, partitions: list[GroupPartition]) -> GroupDescription:
    paused = [row for row in partitions if row.is_paused]
    is_open = any(not row.paused_until_ms for row in paused)
    return GroupDescription(
        name=name,
        available=sum([row.available for row in partitions]),
        leased=sum([row.leased for row in partitions]),
        delayed=sum([row.delayed for row in partitions]),
        dead=sum([row.dead for row in partitions]),
        lag_count=sum([row.lag_count for row in partitions]),
        lag_ms=max([row.lag_ms for row in partitions]),
        oldest_ms=min([row.oldest_ms for row in partitions if row.oldest_ms], default=0),
        partitions=partitions,
        is_paused=bool(paused),
        paused_reason=paused[0].paused_reason if paused else "",
        paused_until_ms=0 if is_open else max([row.paused_until_ms for row in paused], default=0),
    )


def _problem(answer: Reply | LogBrokerError) -> str:
    return answer.message if isinstance(answer, LogBrokerError) else f"an answer of another kind: {answer}"
