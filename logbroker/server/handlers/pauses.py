"""Consumer groups paused, resumed and purged: one request to each partition, which carries it out for itself.

None of it has to happen everywhere at once. So what fails in some partitions is told, and a repeat of the same request
finishes what was begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import GroupName
from logbroker.node.requests import PauseRequest, PurgeReply, PurgeRequest, ResumeRequest
from logbroker.server.fan_out import ask_partitions
from logbroker.server.handlers.groups import judge_answers
from logbroker.wire.requests import Done, Purged

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.catalogue.rows import QueueRow
    from logbroker.node.requests import Reply
    from logbroker.server.service import ClientService
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import PauseGroup, PurgeGroup, ResumeGroup


def pause_group(exchange: Exchange, request: PauseGroup, body: bytes) -> None:
    row = exchange.service.queue(request.queue)
    asked = PauseRequest(GroupName(request.group), request.reason, request.duration_ms)

    async def work() -> Done:
        await _ask_all(exchange.service, row, asked, "paused")
        return Done(request.rid)

    exchange.start(work)


def resume_group(exchange: Exchange, request: ResumeGroup, body: bytes) -> None:
    row = exchange.service.queue(request.queue)
    asked = ResumeRequest(GroupName(request.group))

    async def work() -> Done:
        await _ask_all(exchange.service, row, asked, "resumed")
        return Done(request.rid)

    exchange.start(work)


def purge_group(exchange: Exchange, request: PurgeGroup, body: bytes) -> None:
    row = exchange.service.queue(request.queue)
    asked = PurgeRequest(GroupName(request.group), request.purge_id)

    async def work() -> Purged:
        answers = await _ask_all(exchange.service, row, asked, "purged")
        purged = [answer for answer in answers if isinstance(answer, PurgeReply)]
        return Purged(
            request.rid,
            purged_count=sum([reply.purged_count for reply in purged]),
            revoked_count=sum([reply.revoked_count for reply in purged]),
            dead_count=sum([reply.dead_count for reply in purged]),
        )

    exchange.start(work)


async def _ask_all(
    service: ClientService, row: QueueRow, asked: PauseRequest | ResumeRequest | PurgeRequest, done: str
) -> list[Reply | LogBrokerError]:
    """Ask every partition of the queue.

    Raises:
        LogBrokerError: some did not do it; the message says in how many.
    """
    answers = await ask_partitions(service.backend, [(group, asked) for group in row.groups])
    judge_answers(answers, None, f"consumer group {asked.group} of queue {row.name} was not {done}")
    return answers
