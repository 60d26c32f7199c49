"""Consumer groups, which live in every partition of their queue; and their moves through it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from logbroker.errors import (
    AlreadyExistsError,
    LogBrokerError,
    NotFoundError,
    NotLeaderError,
    OffsetOutOfRangeError,
    UnavailableError,
    invariant,
)
from logbroker.ids import META_GROUP, GroupName, QueueName
from logbroker.node import requests as node_requests
from logbroker.node.catalogue import RewindStands
from logbroker.node.catalogue.commands import BeginRewind
from logbroker.node.requests import CreateGroupRequest, DeleteGroupRequest, PauseRequest, StateReply, StateRequest
from logbroker.partition.breaker import is_breaker
from logbroker.server.fan_out import ask_partitions
from logbroker.server.targets import describe_target, partition_target
from logbroker.wire.requests import Done, Rewound, RewoundPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import GroupId
    from logbroker.node.catalogue.rows import QueueRow, RewindRow
    from logbroker.node.requests import Reply
    from logbroker.server.backend import Backend
    from logbroker.server.service import ClientService
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import CreateGroup, DeleteGroup, Rewind

logger = logging.getLogger(__name__)

REWIND_WAIT_S = 5.0
"""How long the reply to a rewind waits for all partitions; it is `pending` after that."""
LEAST_REWIND_WAIT_S = 0.5


def create_group(exchange: Exchange, request: CreateGroup, body: bytes) -> None:
    """In every partition. Where some have it already the rest follows: a repeat finishes what was begun."""
    service = exchange.service
    row = service.queue(request.queue)
    group = GroupName(request.group)

    async def work() -> Done:
        questions = [
            (raft_group, CreateGroupRequest(group, partition_target(request.start, number) or _EARLIEST))
            for number, raft_group in enumerate(row.groups)
        ]
        answers = await ask_partitions(service.backend, questions)
        judge_answers(answers, AlreadyExistsError, f"consumer group {group} of queue {row.name} was not created")
        return Done(request.rid)

    exchange.start(work)


def delete_group(exchange: Exchange, request: DeleteGroup, body: bytes) -> None:
    """In every partition; as `create_group`."""
    service = exchange.service
    row = service.queue(request.queue)
    group = GroupName(request.group)

    async def work() -> Done:
        answers = await ask_partitions(
            service.backend, [(raft_group, DeleteGroupRequest(group)) for raft_group in row.groups]
        )
        judge_answers(answers, NotFoundError, f"consumer group {group} of queue {row.name} was not deleted")
        return Done(request.rid)

    exchange.start(work)


_EARLIEST = node_requests.EarliestTarget()


def judge_answers(answers: Sequence[Reply | LogBrokerError], is_so: type[LogBrokerError] | None, failure: str) -> None:
    """Raise what speaks against success; `is_so` says that a partition was as wanted already, None: nothing does."""
    as_wanted = () if is_so is None else is_so
    failed = [answer for answer in answers if isinstance(answer, LogBrokerError) and not isinstance(answer, as_wanted)]
    if failed and len(answers) == 1:
        raise failed[0]
    if failed:
        text = f"{failure} in {len(failed)} of {len(answers)} partitions: {failed[0].message}"
        hint = failed[0].hint or "repeating it finishes what was begun"
        if isinstance(failed[0], NotLeaderError):
            # That leader is one partition's; the sender has come to the right place.
            raise UnavailableError(text, hint=hint)
        raise type(failed[0])(text, hint=hint)
    already = [answer for answer in answers if isinstance(answer, LogBrokerError)]
    if already and len(already) == len(answers):
        raise already[0]


async def spread_groups(service: ClientService, queue: str) -> None:
    """Give partitions that a queue has grown the consumer groups that its others have, from their first message on.

    A group that is paused in the others is paused there too.
    """
    row = service.backend.catalogue.queue(queue)
    if row is None:
        return
    answers = await ask_partitions(service.backend, [(group, StateRequest()) for group in row.groups])
    states = {
        group: answer for group, answer in zip(row.groups, answers, strict=True) if isinstance(answer, StateReply)
    }
    wanted = {state.group for reply in states.values() for state in reply.groups}
    questions = [
        (group, CreateGroupRequest(name, _EARLIEST))
        for group, reply in states.items()
        for name in sorted(wanted - {state.group for state in reply.groups})
    ]
    for (group, request), answer in zip(questions, await ask_partitions(service.backend, questions), strict=True):
        if isinstance(answer, LogBrokerError) and not isinstance(answer, AlreadyExistsError):
            logger.warning(
                "group_not_spread queue=%s group=%d name=%s reason=%r", queue, group, request.group, answer.message
            )
    await _spread_pauses(service, queue, states)


async def _spread_pauses(service: ClientService, queue: str, states: dict[GroupId, StateReply]) -> None:
    """Only where nothing is yet: an older partition may be the one in which a group has been resumed already."""
    paused: dict[GroupName, tuple[str, int]] = {}
    for reply in states.values():
        for state in reply.groups:
            # A breaker speaks for its own partition alone.
            if state.is_paused and not is_breaker(state.paused_reason):
                left_ms = max(state.paused_until_ms - reply.append_ms, 1_000) if state.paused_until_ms else 0
                paused[state.group] = (state.paused_reason, left_ms)
    questions = [
        (group, PauseRequest(name, reason, left_ms))
        for group, reply in states.items()
        for name, (reason, left_ms) in sorted(paused.items())
        if reply.log_end == 0 and name not in {state.group for state in reply.groups if state.is_paused}
    ]
    for (group, request), answer in zip(questions, await ask_partitions(service.backend, questions), strict=True):
        if isinstance(answer, LogBrokerError):
            logger.warning(
                "pause_not_spread queue=%s group=%d name=%s reason=%r", queue, group, request.group, answer.message
            )


def rewind(exchange: Exchange, request: Rewind, body: bytes) -> None:
    """Decided by the meta group; then every partition follows, and the reply waits for them a while."""
    service = exchange.service
    row = service.queue(request.queue)
    identity = exchange.session.identity
    actor = "" if identity is None else identity.principal.name

    async def work() -> Rewound:
        began_s = trio.current_time()
        backend = service.backend
        known = _known(backend, request.rewind_id)
        if known is None:
            leader = backend.leader_node(META_GROUP)
            if leader != backend.node:
                raise NotLeaderError(f"node {backend.node} does not lead the meta group", leader=leader)
            await _check(backend, row, request)
        outcome = await backend.propose_catalogue(
            BeginRewind(
                operation_id=request.rewind_id,
                queue=QueueName(request.queue),
                consumer_group=GroupName(request.group),
                target=request.target,
                forward=request.forward,
                clamp=request.clamp,
                actor=actor,
                reason="",
            )
        )
        invariant(isinstance(outcome, RewindStands), f"a rewind came to {outcome}")
        decided = outcome.rewind if isinstance(outcome, RewindStands) else None
        left_s = REWIND_WAIT_S - (trio.current_time() - began_s)
        done = await _wait_done(backend, decided.rewind_id if decided else 0, max(left_s, LEAST_REWIND_WAIT_S))
        if done is None:
            raise NotFoundError(f"queue {request.queue} was deleted")
        return _rewound(request, done)

    exchange.group = META_GROUP
    exchange.start(work)


def _known(backend: Backend, operation_id: int) -> RewindRow | None:
    """A rewind that was decided for this very request."""
    if not operation_id:
        return None
    return next((row for row in backend.catalogue.rewinds() if row.operation_id == operation_id), None)


async def _check(backend: Backend, row: QueueRow, request: Rewind) -> None:
    """Refuse before anything is decided what could only be clamped after it; who cannot be asked is not."""
    answers = await ask_partitions(backend, [(group, StateRequest()) for group in row.groups], wait_s=1.0)
    states = [(number, answer) for number, answer in enumerate(answers) if isinstance(answer, StateReply)]
    if states and all(request.group not in {state.group for state in reply.groups} for _, reply in states):
        raise NotFoundError(f"queue {row.name} has no consumer group {request.group}")
    if request.clamp:
        return
    for number, reply in states:
        target = partition_target(request.target, number)
        if not isinstance(target, node_requests.OffsetTarget):
            continue
        if not reply.log_start <= target.offset <= reply.log_end:
            raise OffsetOutOfRangeError(
                f"offset {target.offset} is not in {reply.log_start}..{reply.log_end} of {row.name}/{number}",
                hint="ask for clamping to take the nearest offset that is there",
            )


async def _wait_done(backend: Backend, rewind_id: int, wait_s: float) -> RewindRow | None:
    """The rewind once all partitions have done it, or as far as it is after `wait_s`; None if its queue is gone."""
    with trio.move_on_after(wait_s):
        while True:
            row = backend.catalogue.rewind(rewind_id)
            if row is None or not row.is_pending:
                return row
            await backend.wait_catalogue_change()
    return backend.catalogue.rewind(rewind_id)


def _rewound(request: Rewind, row: RewindRow) -> Rewound:
    partitions = [
        RewoundPartition(
            partition=done.partition,
            requested=describe_target(row.target, done.partition),
            start_offset=done.start_offset,
            start_ms=done.start_ms,
            moved_count=done.moved_count,
            clamped=done.clamped,
        )
        for done in row.done
        if partition_target(row.target, done.partition) is not None
    ]
    return Rewound(request.rid, rewind_id=request.rewind_id, pending=row.is_pending, partitions=partitions)
