"""What all client connections of a node share: the node below, the limits, who may enter, and the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from logbroker.config.options import wire_limits
from logbroker.errors import NotFoundError, NotLeaderError, UnavailableError, told_kind
from logbroker.ids import META_GROUP, NodeId
from logbroker.node.catalogue.rights import ANYBODY, ROOT, Principal
from logbroker.node.tokens import authenticate, token_digest
from logbroker.server.handover import Handover
from logbroker.server.leader_watch import LeaderWatch
from logbroker.server.measures import Measures
from logbroker.wire.failures import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.config import Settings
    from logbroker.errors import LogBrokerError
    from logbroker.ids import GroupId
    from logbroker.node.catalogue.rows import QueueRow
    from logbroker.server.backend import Backend
    from logbroker.wire.requests import Error

CATCH_UP_S = 0.5
"""How long a node that does not lead the catalogue waits for news before it says that something does not exist."""


class CatalogueMiss(Exception):
    """The local catalogue does not have it; a newer one may."""

    def __init__(self, error: NotFoundError) -> None:
        super().__init__(error.message)
        self.error = error


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection is. `digest` is that of its token; empty where it does not have to be looked at again."""

    principal: Principal
    digest: bytes = b""


@final
class ClientService:
    """See the module. `random_bytes` makes the secrets of new tokens."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        *,
        root_digest: bytes | None,
        random_bytes: Callable[[int], bytes],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.limits = settings.limits
        self.wire_limits = wire_limits(settings.limits)
        # Read for every request, so not looked up in the settings each time.
        self.request_s = settings.timeouts.request_ms / 1000
        self.max_wait_ms = settings.limits.max_wait_ms
        self.random_bytes = random_bytes
        self.clock = clock
        self.handover = Handover(backend.submit)
        self.measures = Measures()
        self.leader_watch = LeaderWatch()
        self.is_stopping = False
        """Set once the node is told to stop: nothing new is taken."""
        self._root_digest = root_digest

    # Who enters.

    def identify(self, token: str) -> Identity:
        """Say whose token it is.

        Raises:
            UnauthenticatedError: nobody's.
            UnavailableError: this node has no catalogue to look it up in.
        """
        tokens_on = self.settings.auth.tokens
        principal = authenticate(token, tokens_on=tokens_on, root_digest=self._root_digest, find=self._find)
        return Identity(principal, b"" if principal is ANYBODY or principal is ROOT else token_digest(token))

    def renew(self, identity: Identity) -> Identity | None:
        """The same one with the rights of the catalogue as it is; None where the token is gone."""
        if not identity.digest:
            return identity
        principal = self._find(identity.digest)
        return None if principal is None else Identity(principal, identity.digest)

    def _find(self, digest: bytes) -> Principal | None:
        return self.backend.catalogue.principal(digest)

    # Where things are.

    def catalogue_epoch(self) -> int:
        """Changes whenever the applied catalogue does; -1 while there is none."""
        try:
            return self.backend.catalogue.epoch
        except UnavailableError:
            return -1

    def may_be_behind(self) -> bool:
        """Whether the catalogue here may lack what another node has."""
        return self.backend.leader_node(META_GROUP) != self.backend.node

    def queue(self, name: str) -> QueueRow:
        """Raises CatalogueMiss where it is not known here, UnavailableError where nothing is."""
        row = self.backend.catalogue.queue(name)
        if row is None:
            raise CatalogueMiss(NotFoundError(f"there is no queue {name}"))
        return row

    def partition(self, queue: str, partition: int) -> GroupId:
        """The Raft group of a partition; raises as `queue`."""
        row = self.queue(queue)
        if partition >= len(row.groups):
            raise CatalogueMiss(
                NotFoundError(f"queue {queue} has {len(row.groups)} partitions, there is no partition {partition}")
            )
        return row.groups[partition]

    # What went wrong.

    def error_reply(self, error: LogBrokerError, *, rid: int, group: GroupId | None) -> Error:
        """The reply that reports `error`, with the leader's address where it says that another node leads `group`."""
        self.measures.note_error(told_kind(error).code)
        url = ""
        if isinstance(error, NotLeaderError):
            if error.leader is None and group is not None:
                leader = self.backend.leader_node(group)
                error = NotLeaderError(error.message, leader=None if leader == self.backend.node else leader)
            url = self._url_of(error.leader)
        return error_reply(error, rid=rid, leader_url=url)

    def _url_of(self, node: NodeId | None) -> str:
        if node is None:
            return ""
        try:
            row = self.backend.catalogue.node(node)
        except UnavailableError:
            return ""
        return "" if row is None else row.client_url
