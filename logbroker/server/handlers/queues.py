"""Queues: made, altered and deleted by the meta group; described by their partitions' leaders."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import trio

from logbroker.errors import InvalidArgumentError, LogBrokerError
from logbroker.ids import META_GROUP, QueueName
from logbroker.node.catalogue import commands, rows
from logbroker.node.catalogue.options import DEFAULT_OPTIONS, encode_changes
from logbroker.node.catalogue.rows import ReplicaState
from logbroker.node.requests import StateReply, StateRequest
from logbroker.server.auth import authorize_target
from logbroker.server.fan_out import ask_partitions
from logbroker.server.handlers.admin import queue_info
from logbroker.server.handlers.groups import spread_groups
from logbroker.server.handlers.queue_options import option_numbers
from logbroker.wire.requests import (
    Done,
    GroupCounts,
    PartitionDescription,
    QueueDescription,
    ReplicaDescription,
)

if TYPE_CHECKING:
    from logbroker.ids import GroupId
    from logbroker.node.catalogue.rows import QueueRow, ReplicaRow
    from logbroker.node.requests import Reply
    from logbroker.server.service import ClientService
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import AlterQueue, CreateQueue, DeleteQueue, DescribeQueue, QueueSettings

LEADER_WAIT_S = 5.0
"""How long the maker of a queue waits for its partitions to be led; they will be, so it is no error if they are not."""
LEADER_LOOK_S = 0.02
DESCRIBE_WAIT_S = 2.0
"""Whoever describes a queue wants to see what there is, more than to wait for what there may be."""


def create_queue(exchange: Exchange, request: CreateQueue, body: bytes) -> None:
    """The same queue once more is no error: the first reply may have been lost."""
    service = exchange.service
    letters = _dead_letter_id(exchange, request.name, request.settings.dead_letter)
    command = queue_command(request.name, request.settings, dead_letter_id=letters or 0)

    async def work() -> Done:
        await service.backend.propose_catalogue(command)
        await _wait_led(service, request.name)
        return Done(request.rid)

    exchange.group = META_GROUP
    exchange.start(work)


def queue_command(name: str, settings: QueueSettings, *, dead_letter_id: int = 0) -> commands.Command:
    """What makes a queue of these settings, whose `dead_letter` is the queue of that id."""
    queue = commands.CreateQueue(
        QueueName(name),
        rows.QueueSettings(
            partitions=settings.partitions,
            retention_ms=settings.retention_ms,
            hide_ms=settings.hide_ms,
            max_wait_ms=settings.max_wait_ms,
            max_delivery_count=settings.max_delivery_count,
        ),
    )
    given = option_numbers(settings) | {"dead_letter_queue": dead_letter_id}
    options = encode_changes({name: value for name, value in given.items() if value != getattr(DEFAULT_OPTIONS, name)})
    return commands.CreateQueueWith(queue, options) if options else queue


def alter_queue(exchange: Exchange, request: AlterQueue, body: bytes) -> None:
    service, changes = exchange.service, request.changes
    queue = commands.AlterQueue(
        QueueName(request.name),
        partitions=changes.partitions,
        retention_ms=changes.retention_ms,
        hide_ms=changes.hide_ms,
        max_wait_ms=changes.max_wait_ms,
        max_delivery_count=changes.max_delivery_count,
    )
    letters = _dead_letter_id(exchange, request.name, changes.dead_letter)
    options = encode_changes(option_numbers(changes) | {"dead_letter_queue": letters})
    command = commands.AlterQueueWith(queue, options) if options else queue

    async def work() -> Done:
        await service.backend.propose_catalogue(command)
        if changes.partitions is not None:
            await _wait_led(service, request.name)
            await spread_groups(service, request.name)
        return Done(request.rid)

    exchange.group = META_GROUP
    exchange.start(work)


def _dead_letter_id(exchange: Exchange, queue: str, name: str | None) -> int | None:
    """The id of the queue for dead messages; 0 for none, None where nothing is said of it.

    Raises:
        InvalidArgumentError: a queue cannot be its own.
        NotFoundError: there is no such queue.
        ForbiddenError: whoever asks may not produce there, and would by way of this queue.
    """
    if not name:
        return None if name is None else 0
    if name == queue:
        raise InvalidArgumentError(f"queue {queue} cannot be the one for its own dead messages")
    identity = exchange.session.identity
    if identity is not None:
        authorize_target(identity.principal, name)
    return exchange.service.queue(name).queue_id


def delete_queue(exchange: Exchange, request: DeleteQueue, body: bytes) -> None:
    service = exchange.service

    async def work() -> Done:
        await service.backend.propose_catalogue(commands.DeleteQueue(QueueName(request.name)))
        return Done(request.rid)

    exchange.group = META_GROUP
    exchange.start(work)


async def _wait_led(service: ClientService, name: str) -> None:
    """Wait a while until every partition has a leader, so that the next request is not refused for want of one."""
    backend = service.backend
    with trio.move_on_after(LEADER_WAIT_S):
        while True:
            row = backend.catalogue.queue(name)
            if row is None or all(map(backend.is_led, row.groups)):
                return
            await trio.sleep(LEADER_LOOK_S)


def describe_queue(exchange: Exchange, request: DescribeQueue, body: bytes) -> None:
    """Counts come from each partition's leader, exact as of this request; what cannot be had is told beside it."""
    service = exchange.service
    row = service.queue(request.name)

    async def work() -> QueueDescription:
        questions = [(group, StateRequest()) for group in row.groups]
        answers = await ask_partitions(service.backend, questions, wait_s=DESCRIBE_WAIT_S)
        partitions = [
            _partition(service, row, number, group, answer)
            for number, (group, answer) in enumerate(zip(row.groups, answers, strict=True))
        ]
        return QueueDescription(request.rid, info=queue_info(service, row), partitions=partitions)

    exchange.start(work)


def _partition(
    service: ClientService, row: QueueRow, number: int, group: GroupId, answer: Reply | LogBrokerError
) -> PartitionDescription:
    backend = service.backend
    leader = backend.leader_node(group) or 0
    term = backend.term(group)
    replicas = _replicas(service, group, leader)
    if not isinstance(answer, StateReply):
        problem = answer.message if isinstance(answer, LogBrokerError) else f"partition {number} answers {answer}"
        return PartitionDescription(
            partition=number, log_start=0, log_end=0, leader=leader, term=term, replicas=replicas, problem=problem
        )
    return PartitionDescription(
        partition=number,
        log_start=answer.log_start,
        log_end=answer.log_end,
        leader=leader,
        term=term,
        replicas=replicas,
        append_ms=answer.append_ms,
        groups=[
            GroupCounts(
                name=state.group,
                available=state.available,
                leased=state.leased,
                delayed=state.delayed,
                acked_ahead=state.acked_ahead,
                dead=state.dead,
                oldest_offset=state.oldest_offset,
                oldest_ms=state.oldest_ms,
                is_paused=state.is_paused,
                paused_reason=state.paused_reason,
                paused_until_ms=state.paused_until_ms,
                moved=state.moved,
            )
            for state in answer.groups
        ],
    )


def _replicas(service: ClientService, group: GroupId, leader: int) -> list[ReplicaDescription]:
    row = service.backend.catalogue.group(group)
    if row is None:
        return []
    return [
        ReplicaDescription(replica=replica.replica, node=replica.node, role=_role(replica, leader))
        for replica in row.replicas
    ]


def _role(replica: ReplicaRow, leader: int) -> str:
    match replica.state:
        case ReplicaState.VOTER:
            return "leader" if replica.node == leader else "voter"
        case ReplicaState.LEARNER:
            return "learner"
        case ReplicaState.LEAVING:
            return "outgoing"
        case _ as never:
            assert_never(never)
