"""The status of a node as plain values, for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import UnavailableError
from logbroker.server.health import checks
from logbroker.server.members import problems_of
from logbroker.server.metrics import program_version

if TYPE_CHECKING:
    from logbroker.node.node_status import GroupStatus
    from logbroker.server.service import ClientService


def status_page(service: ClientService) -> dict[str, object]:
    """What this node knows of itself and its cluster."""
    status = service.backend.status()
    places: dict[int, tuple[str, int]] = {}
    nodes: list[dict[str, object]] = []
    try:
        catalogue = service.backend.catalogue
    except UnavailableError:
        pass
    else:
        places = {group: (row.name, number) for row in catalogue.queues() for number, group in enumerate(row.groups)}
        nodes = [{"node": row.node, "url": row.client_url, "peer": row.peer_address} for row in catalogue.nodes()]
    measures = service.measures
    return {
        "node": status.node,
        "incarnation": status.incarnation.hex(),
        "version": program_version(),
        "cluster": {"name": status.cluster_name, "id": status.cluster_id.hex(), "phase": status.phase, "nodes": nodes},
        "ready": all(check.is_ok for check in checks(service)),
        "draining": status.is_draining or service.is_stopping,
        "problems": problems_of(service.backend, status),
        "peers": [
            {"node": peer.node, "address": peer.address, "connected": peer.is_connected, "fault": peer.fault}
            for peer in status.peers
        ],
        "groups": [_group(group, places.get(group.group)) for group in status.groups],
        "scrub": _scrub(service),
        "connections": measures.connections,
        "waiting_receives": measures.waiting_receives,
    }


def _scrub(service: ClientService) -> dict[str, object] | None:
    """What reading everything again has found; None while the node does not run."""
    try:
        found = service.backend.statistics().engine.scrub
    except UnavailableError:
        return None
    return {
        "rounds": found.rounds,
        "read_bytes": found.read_bytes,
        "damaged_entries": found.damaged_entries,
        "damaged_checkpoints": found.damaged_checkpoints,
        "damaged_wal": found.damaged_wal,
        "mended_copies": found.mended_copies,
        "unmended": list(found.unmended),
    }


def _group(group: GroupStatus, place: tuple[str, int] | None) -> dict[str, object]:
    queue, partition = place if place is not None else (None, None)
    return {
        "group": group.group,
        "queue": queue,
        "partition": partition,
        "replica": group.replica,
        "is_leader": group.is_leader,
        "is_serving": group.is_serving,
        "leader": group.leader_node,
        "term": group.term,
        "commit": group.commit,
        "applied": group.applied,
        "first_index": group.first_index,
        "last_index": group.last_index,
        "voters": list(group.voters),
        "learners": list(group.learners),
        "fill_percent": group.fill_percent,
        "problems": list(group.problems),
    }
