"""Whether this node may be sent clients, and if not, why. Pure but for what it asks of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.ids import META_GROUP

if TYPE_CHECKING:
    from logbroker.node.node_status import NodeStatus
    from logbroker.server.service import ClientService

MAX_NAMED = 5


@final
@dataclass(frozen=True, slots=True)
class Check:
    """`reason` says why it is not ok; empty where it is."""

    name: str
    reason: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return f"[+]{self.name} ok" if self.is_ok else f"[-]{self.name} failed: {self.reason}"


def checks(service: ClientService) -> list[Check]:
    """Everything that must hold before clients should come."""
    status = service.backend.status()
    is_leaving = service.is_stopping or status.is_draining
    return [
        Check("running", "the node does not run" if status.phase == "stopped" else ""),
        Check("catalogue", _catalogue_reason(service, status)),
        Check("leaders", _leader_reason(status)),
        Check("accepting", "the node is shutting down" if is_leaving else ""),
    ]


def _catalogue_reason(service: ClientService, status: NodeStatus) -> str:
    if service.catalogue_epoch() < 0 or all(group.group != META_GROUP for group in status.groups):
        return "; ".join(status.problems) or "this node has no catalogue yet"
    return ""


def _leader_reason(status: NodeStatus) -> str:
    without = [group for group in status.groups if group.leader_node is None and not group.is_serving]
    if not without:
        return ""
    named = [problem for group in without[:MAX_NAMED] for problem in group.problems]
    more = f" and {len(without) - MAX_NAMED} more groups" if len(without) > MAX_NAMED else ""
    return ("; ".join(named) or f"group {without[0].group} has no leader yet") + more
