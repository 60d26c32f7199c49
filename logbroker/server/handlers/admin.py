"""What a node says of the cluster as it knows it: metadata, lists, status; and the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError, NotFoundError
from logbroker.ids import META_GROUP
from logbroker.node.catalogue import commands
from logbroker.node.catalogue.rights import parse_grant
from logbroker.node.tokens import RANDOM_BYTES, make_token, token_digest
from logbroker.server.auth import may_see
from logbroker.server.handlers.queue_options import option_fields
from logbroker.server.members import members_of, problems_of
from logbroker.server.service import CatalogueMiss
from logbroker.wire.requests import (
    Done,
    GroupStatus,
    MetadataReply,
    NodeInfo,
    PartitionInfo,
    QueueInfo,
    QueueList,
    QueueSettings,
    StatusReply,
    TokenCreated,
    TokenInfo,
    TokenList,
)

if TYPE_CHECKING:
    from logbroker.node import node_status
    from logbroker.node.catalogue import Catalogue
    from logbroker.node.catalogue.rows import QueueRow
    from logbroker.server.service import ClientService
    from logbroker.server.session import Exchange
    from logbroker.wire.requests import CreateToken, DeleteToken, ListQueues, ListTokens, Metadata, Status

MAX_NAMED_QUEUES = 1_000


def metadata(exchange: Exchange, request: Metadata, body: bytes) -> None:
    """A queue that the token has no right on is left out like one that does not exist."""
    service = exchange.service
    catalogue = service.backend.catalogue
    rows = catalogue.queues() if request.queues is None else _named(exchange, catalogue, request.queues)
    nodes = [NodeInfo(node=row.node, url=row.client_url) for row in catalogue.nodes()]
    queues = [queue_info(service, row) for row in rows if _is_visible(exchange, row)]
    exchange.reply(MetadataReply(request.rid, nodes=nodes, queues=queues, epoch=catalogue.epoch))


def list_queues(exchange: Exchange, request: ListQueues, body: bytes) -> None:
    service = exchange.service
    rows = [row for row in service.backend.catalogue.queues() if _is_visible(exchange, row)]
    exchange.reply(QueueList(request.rid, queues=[queue_info(service, row) for row in rows]))


def queue_info(service: ClientService, row: QueueRow) -> QueueInfo:
    backend, settings = service.backend, row.settings
    options = backend.catalogue.options(row)
    dead_letter = backend.catalogue.queue_of_id(options.dead_letter_queue)
    return QueueInfo(
        name=row.name,
        queue_id=row.queue_id,
        settings=QueueSettings(
            partitions=settings.partitions,
            retention_ms=settings.retention_ms,
            hide_ms=settings.hide_ms,
            max_wait_ms=settings.max_wait_ms,
            max_delivery_count=settings.max_delivery_count,
            **option_fields(options),  # type: ignore[arg-type]  # each of its own type
            dead_letter="" if dead_letter is None else dead_letter.name,
        ),
        partitions=[
            PartitionInfo(
                partition=number, group=group, leader=backend.leader_node(group) or 0, term=backend.term(group)
            )
            for number, group in enumerate(row.groups)
        ],
    )


def _named(exchange: Exchange, catalogue: Catalogue, names: list[str]) -> list[QueueRow]:
    if len(names) > MAX_NAMED_QUEUES:
        raise InvalidArgumentError(f"{len(names)} queues are named; the most is {MAX_NAMED_QUEUES}")
    rows = []
    for name in dict.fromkeys(names):
        row = catalogue.queue(name)
        if row is not None:
            rows.append(row)
        elif not exchange.is_last_try and exchange.service.may_be_behind():
            raise CatalogueMiss(NotFoundError(f"there is no queue {name}"))
    return rows


def _is_visible(exchange: Exchange, row: QueueRow) -> bool:
    identity = exchange.session.identity
    return identity is not None and may_see(identity.principal, row.name)


def create_token(exchange: Exchange, request: CreateToken, body: bytes) -> None:
    service = exchange.service
    grants = tuple([parse_grant(text) for text in request.rights])
    token = make_token(service.random_bytes(RANDOM_BYTES))

    async def work() -> TokenCreated:
        await service.backend.propose_catalogue(commands.CreateToken(request.name, token_digest(token), grants))
        return TokenCreated(request.rid, token=token)

    exchange.group = META_GROUP
    exchange.start(work)


def delete_token(exchange: Exchange, request: DeleteToken, body: bytes) -> None:
    service = exchange.service

    async def work() -> Done:
        await service.backend.propose_catalogue(commands.DeleteToken(request.name))
        return Done(request.rid)

    exchange.group = META_GROUP
    exchange.start(work)


def list_tokens(exchange: Exchange, request: ListTokens, body: bytes) -> None:
    """Names and rights; of the secrets nothing is kept that could be shown."""
    rows = exchange.service.backend.catalogue.tokens()
    infos = [TokenInfo(name=row.name, rights=[str(grant) for grant in row.grants]) for row in rows]
    exchange.reply(TokenList(request.rid, tokens=infos))


def status(exchange: Exchange, request: Status, body: bytes) -> None:
    """As this node sees it: its own groups, and which nodes it reaches."""
    backend = exchange.service.backend
    catalogue = backend.catalogue
    node = backend.status()
    places = {group: (row.name, number) for row in catalogue.queues() for number, group in enumerate(row.groups)}
    exchange.reply(
        StatusReply(
            request.rid,
            nodes=members_of(catalogue, node),
            groups=[_group(group, places.get(group.group, ("", 0))) for group in node.groups],
            problems=problems_of(backend, node),
        )
    )


def _group(group: node_status.GroupStatus, place: tuple[str, int]) -> GroupStatus:
    queue, partition = place
    if group.is_leader:
        role = "leader" if group.is_serving else "leader, not serving yet"
    else:
        role = "learner" if group.replica in group.learners else "follower"
    return GroupStatus(
        group=group.group,
        queue=queue,
        partition=partition,
        role=role,
        leader=group.leader_node or 0,
        term=group.term,
        commit=group.commit,
        applied=group.applied,
        detail="; ".join(group.problems),
    )
