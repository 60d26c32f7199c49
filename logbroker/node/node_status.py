"""What a node says of itself to operators: values, and how a group's troubles are put into words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, final

from logbroker.ids import GroupId, GroupName, Index, NodeId, ReplicaId, Term

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from logbroker.node.engine import EngineStatistics
    from logbroker.node.partition_service import PartitionFigures
    from logbroker.node.peers import LinkStatistics
    from logbroker.node.store_threads import ThreadStatistics
    from logbroker.node.turns import LoopStatistics
    from logbroker.partition.pause import PauseRecord

MAX_TRIPPED_NAMED = 5
"""Of one partition, which may have a thousand groups."""


@final
@dataclass(frozen=True, slots=True)
class PeerStatus:
    """`fault` is why it cannot be reached; empty while it can."""

    node: NodeId
    address: str
    is_connected: bool
    fault: str


@final
@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One replica of this node. `fill_percent` is set while a snapshot comes in."""

    group: GroupId
    replica: ReplicaId
    is_leader: bool
    is_serving: bool
    leader_node: NodeId | None
    term: Term
    commit: Index
    applied: Index
    first_index: Index
    last_index: Index
    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...]
    fill_percent: int | None
    problems: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class NodeStatus:
    """`problems` are sentences, the most important first; `is_ready`: this node may be sent clients."""

    node: NodeId
    incarnation: bytes
    cluster_id: bytes
    cluster_name: str
    phase: str
    is_ready: bool
    is_draining: bool
    problems: tuple[str, ...]
    peers: tuple[PeerStatus, ...]
    groups: tuple[GroupStatus, ...]


@final
@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Counters for metrics, all since the start of the process."""

    engine: EngineStatistics
    loop: LoopStatistics
    log_thread: ThreadStatistics
    flusher_thread: ThreadStatistics
    links: tuple[LinkStatistics, ...]
    partitions: Mapping[GroupId, PartitionFigures]
    """Of each partition with a replica here, as far as this node led it."""


def leaderless(group: GroupId, *, own: NodeId, members: Collection[NodeId], heard: Collection[NodeId]) -> str:
    """Say why a group has no leader, as far as one node can tell."""
    others = sorted(set(members) - {own})
    heard_here = [node for node in others if node in heard]
    total = len(others) + (own in members)
    if not others:
        return f"group {group} has no leader yet"
    if not heard_here:
        return f"group {group} has no leader: this node hears none of {_nodes(others)}"
    if 2 * (len(heard_here) + (own in members)) <= total:
        return f"group {group} has no leader: this node hears only {_nodes(heard_here)} of {total}"
    return f"group {group} has no leader yet, though this node hears {_nodes(heard_here)}"


def damage_of(group: GroupId, replica: ReplicaId, count: int, members: Collection[ReplicaId]) -> str:
    """Say that entries are damaged here, and whether anybody is there to fetch them from."""
    text = f"replica {replica} of group {group} has {count} damaged entries"
    if set(members) - {replica}:
        return text
    return f"{text}, and there is no other replica to fetch them from: see `logbroker repair`"


def describe_tripped(place: str, paused: Sequence[tuple[GroupName, PauseRecord]]) -> Iterator[str]:
    """Say which groups of a partition, "queue/number", their breakers have paused."""
    for group, pause in paused[:MAX_TRIPPED_NAMED]:
        yield f"consumer group {group} of {place} is paused until {_time(pause.until_ms)}, {pause.reason}"
    more = [pause for _, pause in paused[MAX_TRIPPED_NAMED:]]
    if more:
        last = max(more, key=lambda pause: pause.until_ms)
        yield f"{len(more)} more consumer groups of {place} are paused until {_time(last.until_ms)}, {last.reason}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _nodes(nodes: Sequence[NodeId]) -> str:
    return f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {', '.join(map(str, nodes))}"
