"""The nodes of the cluster as one of them sees it, for every page that tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import UnavailableError
from logbroker.wire.requests import NodeStatus

if TYPE_CHECKING:
    from logbroker.node import node_status
    from logbroker.node.catalogue import Catalogue
    from logbroker.server.backend import Backend


def members_of(catalogue: Catalogue, status: node_status.NodeStatus) -> list[NodeStatus]:
    """All nodes of the catalogue, and those of the first boot that have not joined."""
    reached = {peer.node: peer for peer in status.peers}
    found = []
    for row in catalogue.nodes():
        peer = reached.get(row.node)
        if row.node == status.node:
            state, detail = ("draining" if status.is_draining else "up"), ""
        elif peer is not None and peer.is_connected:
            state, detail = "up", ""
        else:
            state, detail = "unreachable", "it is not linked" if peer is None else peer.fault
        found.append(NodeStatus(node=row.node, url=row.client_url, state=state, detail=detail))
    joined = {row.node for row in catalogue.nodes()}
    missing = [member for member in catalogue.members if member not in joined]
    return found + [NodeStatus(node=member, url="", state="missing", detail="it has not joined") for member in missing]


def problems_of(backend: Backend, status: node_status.NodeStatus) -> list[str]:
    """What an operator should know: one node fewer first, for the next one that fails may stop everything."""
    try:
        members = members_of(backend.catalogue, status)
    except UnavailableError:
        # Without a catalogue the node itself says whom it waits for.
        members = []
    absent = [
        f"node {row.node} is {row.state}: {row.detail}" for row in members if row.state in ("unreachable", "missing")
    ]
    return [*absent, *status.problems]
