"""Metrics in Prometheus' text form: first a snapshot is gathered, then it is rendered; counters start at 0.

Everything that has a label for each partition can be left out (`with_partitions`), because it grows with them.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, final

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from logbroker.errors import UnavailableError
from logbroker.node.requests import NO_MOVES, StateReply, StateRequest
from logbroker.partition.breaker import is_breaker
from logbroker.server.closing import CloseCode
from logbroker.server.fan_out import ask_partitions
from logbroker.server.measures import DURATION_BOUNDS_S
from logbroker.server.members import problems_of
from logbroker.server.problem_kinds import ProblemKind, count_problems
from logbroker.wire.failures import CODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.ids import GroupId
    from logbroker.node.catalogue.options import QueueOptions
    from logbroker.node.node_status import NodeStatistics, NodeStatus
    from logbroker.server.measures import Measures
    from logbroker.server.service import ClientService
    from logbroker.storage.scrub import ScrubStatistics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STATE_WAIT_S = 2.0

Place = tuple[str, int]
"""Queue and partition."""


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is rendered. `states` are of the partitions led here; None where partitions are left out."""

    measures: Measures
    released_leases: int
    status: NodeStatus
    problems: dict[ProblemKind, int]
    leader_changes: int
    wall_ms: int
    statistics: NodeStatistics | None
    places: dict[GroupId, Place]
    queues: dict[str, int]
    """Names, and for how many milliseconds each keeps its messages."""
    bounds: dict[str, tuple[int, int]]
    """The most messages and bytes of each, 0 for none."""
    states: dict[Place, StateReply] | None
    disk_total_bytes: int
    disk_free_bytes: int


async def gather(service: ClientService, *, with_partitions: bool) -> Snapshot:
    """Ask the node, and where wanted each partition that is led here."""
    backend = service.backend
    status = backend.status()
    statistics: NodeStatistics | None = None
    queues: dict[str, int] = {}
    bounds: dict[str, tuple[int, int]] = {}
    places: dict[GroupId, Place] = {}
    # Not running yet, or not in a cluster yet: what there is is shown all the same.
    with suppress(UnavailableError):
        statistics = backend.statistics()
    with suppress(UnavailableError):
        rows = backend.catalogue.queues()
        queues = {row.name: row.settings.retention_ms for row in rows}
        bounds = {row.name: _bounds(backend.catalogue.options(row)) for row in rows}
        service.measures.keep_queues(queues)
        places = {group: (row.name, number) for row in rows for number, group in enumerate(row.groups)}
    states: dict[Place, StateReply] | None = None
    if with_partitions:
        led = [group.group for group in status.groups if group.is_serving and group.group in places]
        answers = await ask_partitions(backend, [(group, StateRequest()) for group in led], wait_s=STATE_WAIT_S)
        states = {
            places[group]: answer for group, answer in zip(led, answers, strict=True) if isinstance(answer, StateReply)
        }
    service.leader_watch.look(status.groups)
    unmended = () if statistics is None else statistics.engine.scrub.unmended
    try:
        usage = await trio.to_thread.run_sync(shutil.disk_usage, service.settings.node.data_dir)
        total_bytes, free_bytes = usage.total, usage.free
    except OSError:
        # The directory is made when the node opens it.
        total_bytes = free_bytes = 0
    return Snapshot(
        service.measures,
        service.handover.released,
        status,
        count_problems(problems_of(backend, status), unmended=unmended),
        service.leader_watch.changes,
        time.time_ns() // 1_000_000,
        statistics,
        places,
        queues,
        bounds,
        states,
        total_bytes,
        free_bytes,
    )


def render(snapshot: Snapshot) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(snapshot))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


@final
class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot
        yield InfoMetricFamily("logbroker_build", "Version of the program.", value={"version": program_version()})
        yield _gauge("logbroker_ready", "1 while this node may be sent clients.", snapshot.status.is_ready)
        yield from _problems(snapshot.problems)
        yield from _groups(snapshot)
        yield from _connections(snapshot.measures)
        yield from _requests(snapshot.measures)
        yield from _queues(snapshot)
        yield _counter("logbroker_released_leases", "Leases given back unread.", snapshot.released_leases)
        yield _gauge("logbroker_storage_size_bytes", "Size of the data directory's disk.", snapshot.disk_total_bytes)
        yield _gauge("logbroker_storage_free_bytes", "Free on it.", snapshot.disk_free_bytes)
        if snapshot.statistics is not None:
            yield from _node(snapshot.statistics)
            yield from _links(snapshot.statistics)
        if snapshot.states is not None:
            yield from _raft(snapshot)
            yield from _partitions(snapshot.states, wall_ms=snapshot.wall_ms)


def _problems(counts: dict[ProblemKind, int]) -> Iterator[Metric]:
    yield _gauge("logbroker_problems", "Problems that `logbroker status` names.", sum(counts.values()))
    kinds = GaugeMetricFamily("logbroker_problems_by_kind", "The same, by kind.", labels=["kind"])
    for kind, count in counts.items():
        kinds.add_metric([kind], count)
    yield kinds


def _groups(snapshot: Snapshot) -> Iterator[Metric]:
    groups = snapshot.status.groups
    learners = sum(group.replica in group.learners for group in groups)
    leaders = sum(group.is_leader for group in groups)
    roles = GaugeMetricFamily("logbroker_raft_groups", "Groups with a replica here, by its role.", labels=["role"])
    roles.add_metric(["leader"], leaders)
    roles.add_metric(["follower"], len(groups) - leaders - learners)
    roles.add_metric(["learner"], learners)
    yield roles
    leaderless = sum(group.leader_node is None and not group.is_serving for group in groups)
    yield _gauge("logbroker_raft_groups_without_leader", "Of these, those that know of no leader.", leaderless)
    yield _counter(
        "logbroker_raft_leader_changes", "Other leaders than at the scrape before, all groups.", snapshot.leader_changes
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def program_version() -> str:
    try:
        return version("logbroker")
    except PackageNotFoundError:
        return "unknown"


def _connections(measures: Measures) -> Iterator[Metric]:
    yield _gauge("logbroker_connections", "Client connections.", measures.connections)
    yield _gauge(
        "logbroker_connections_unauthenticated", "Of these, those that have not said hello.", measures.unauthenticated
    )
    yield _counter("logbroker_connections_accepted", "Client connections accepted.", measures.accepted)
    refused = CounterMetricFamily("logbroker_connections_refused", "Turned away, by limit.", labels=["reason"])
    for reason in ("max_connections", "max_connections_per_address", "max_unauthenticated_connections"):
        refused.add_metric([reason], measures.refused.get(reason, 0))
    yield refused
    closed = CounterMetricFamily("logbroker_connections_closed", "Ended by this side, by code.", labels=["code"])
    for code in sorted({*CloseCode, *measures.closed}):
        closed.add_metric([str(int(code))], measures.closed.get(code, 0))
    yield closed
    yield _counter("logbroker_plain_http_requests", "Plain HTTP on the client port.", measures.plain_http)
    yield _counter("logbroker_websocket_messages_in", "WebSocket messages received.", measures.messages_in)
    yield _counter("logbroker_websocket_bytes_in", "Bytes of these.", measures.bytes_in)
    yield _counter("logbroker_websocket_messages_out", "WebSocket messages sent.", measures.messages_out)
    yield _counter("logbroker_websocket_bytes_out", "Bytes of these.", measures.bytes_out)


def _requests(measures: Measures) -> Iterator[Metric]:
    yield _gauge("logbroker_waiting_receives", "Receives without their reply, and streams.", measures.waiting_receives)
    yield _gauge("logbroker_streams", "Subscriptions that are open.", measures.streams)
    yield _gauge("logbroker_streams_without_credit", "Of these, those that wait for credit.", measures.starved_streams)
    yield _counter("logbroker_stream_deliveries", "Leases pushed to subscriptions.", measures.pushed_deliveries)
    yield _gauge("logbroker_held_bytes", "Requests without answer and replies not written yet.", measures.held_bytes)
    durations = HistogramMetricFamily(
        "logbroker_request_duration_seconds", "From a request to its reply; a receive's wait counts.", labels=["api"]
    )
    for kind, found in sorted(measures.requests.items()):
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, DURATION_BOUNDS_S), "+Inf"], found.counts, strict=True):
            total += count
            buckets.append((bound, total))
        durations.add_metric([kind.lower()], buckets, found.total_s)
    yield durations
    errors = CounterMetricFamily("logbroker_request_errors", "Error replies.", labels=["code"])
    for code in sorted({*CODES, *measures.errors}):
        errors.add_metric([code], measures.errors.get(code, 0))
    yield errors


_TRAFFIC = (
    ("messages_in", "produced_messages", "Messages produced through this node."),
    ("bytes_in", "produced_bytes", "Bytes of their batches."),
    ("messages_out", "received_messages", "Messages handed out by this node."),
    ("bytes_out", "received_bytes", "Bytes of their batches."),
    ("messages_settled", "settled_messages", "Messages acked, nacked or extended through this node."),
)


def _queues(snapshot: Snapshot) -> Iterator[Metric]:
    for name, field, text in _TRAFFIC:
        family = CounterMetricFamily(f"logbroker_queue_{name}", text, labels=["queue"])
        for queue in snapshot.queues:
            traffic = snapshot.measures.queues.get(queue)
            family.add_metric([queue], 0 if traffic is None else getattr(traffic, field))
        yield family
    yield from _partition_figures(snapshot)
    yield from _queue_bounds(snapshot.bounds)
    retention = GaugeMetricFamily("logbroker_queue_retention_seconds", "How long messages are kept.", labels=["queue"])
    for queue, retention_ms in snapshot.queues.items():
        retention.add_metric([queue], retention_ms / 1000)
    yield retention


_FIGURES = (
    ("expired", "messages_expired", "Messages that left the log unsettled, once a consumer group; led here."),
    ("too_old", "messages_too_old", "Messages that died of their age, once a consumer group; led here."),
    ("refused", "full_refusals", "Batches refused because the queue was full; led here."),
    ("retained_bytes", "retained_bytes", "Bytes of batches kept; led here, and 0 where they have no bound."),
)


def _partition_figures(snapshot: Snapshot) -> Iterator[Metric]:
    by_group = {} if snapshot.statistics is None else snapshot.statistics.partitions
    for field, name, text in _FIGURES:
        counts = dict.fromkeys(snapshot.queues, 0)
        for group, figures in by_group.items():
            queue, _ = snapshot.places.get(group, ("", 0))
            if queue in counts:
                counts[queue] += getattr(figures, field)
        kind = GaugeMetricFamily if field == "retained_bytes" else CounterMetricFamily
        family = kind(f"logbroker_queue_{name}", text, labels=["queue"])
        for queue, count in counts.items():
            family.add_metric([queue], count)
        yield family


def _bounds(options: QueueOptions) -> tuple[int, int]:
    return options.max_messages, options.max_bytes


def _queue_bounds(bounds: dict[str, tuple[int, int]]) -> Iterator[Metric]:
    for place, (unit, text) in enumerate(
        (
            ("messages", "The most unsettled messages of a group, 0: no bound."),
            ("bytes", "The most bytes, 0: no bound."),
        )
    ):
        family = GaugeMetricFamily(f"logbroker_queue_max_{unit}", text, labels=["queue"])
        for queue, most in bounds.items():
            family.add_metric([queue], most[place])
        yield family


def _node(found: NodeStatistics) -> Iterator[Metric]:
    engine, loop = found.engine, found.loop
    yield _counter("logbroker_storage_commits", "Group commits, one sync each.", engine.commits)
    yield _counter("logbroker_storage_committed_bytes", "Entries written by them.", engine.committed_bytes)
    yield _counter("logbroker_storage_refused_writes", "Writes that had no room.", engine.refused_writes)
    yield _counter("logbroker_storage_flushes", "Flushes to segments.", engine.flushes)
    yield _counter("logbroker_storage_checkpoints", "Checkpoints written.", engine.checkpoints)
    yield from _scrub(engine.scrub)
    yield _gauge("logbroker_failed_groups", "Groups of this node that have stopped.", engine.failed_groups)
    busy = CounterMetricFamily("logbroker_storage_thread_busy_seconds", "Time in jobs.", labels=["thread"])
    jobs = CounterMetricFamily("logbroker_storage_thread_jobs", "Jobs done.", labels=["thread"])
    slowest = GaugeMetricFamily("logbroker_storage_thread_slowest_seconds", "The slowest job.", labels=["thread"])
    running = GaugeMetricFamily(
        "logbroker_storage_thread_running_seconds", "How long the present job takes already.", labels=["thread"]
    )
    for name, thread in (("log", found.log_thread), ("flusher", found.flusher_thread)):
        busy.add_metric([name], thread.busy_s)
        jobs.add_metric([name], thread.jobs)
        slowest.add_metric([name], thread.slowest_s)
        running.add_metric([name], thread.running_s)
    yield from (busy, jobs, slowest, running)
    yield SummaryMetricFamily(
        "logbroker_storage_fsync_duration_seconds",
        "Group commits: writing what is to be durable, and the sync.",
        count_value=found.log_thread.jobs,
        sum_value=found.log_thread.busy_s,
    )
    yield _counter("logbroker_loop_turns", "Turns of the event loop that carried something out.", loop.turns)
    yield _counter("logbroker_loop_late_ticks", "Ticks that came late enough to look dead.", loop.late_ticks)
    yield _gauge("logbroker_loop_lateness_seconds", "How late the last tick was.", loop.lateness_ms / 1000)


def _scrub(found: ScrubStatistics) -> Iterator[Metric]:
    yield _counter("logbroker_scrub_rounds", "Times that all stored data was read again to find rot.", found.rounds)
    yield _counter("logbroker_scrub_read_bytes", "Cost of that reading, a small entry as 4 KiB.", found.read_bytes)
    yield _counter("logbroker_scrub_mended_copies", "Votes, records and headers written again.", found.mended_copies)
    rot = CounterMetricFamily("logbroker_scrub_damage", "Rot that was found so.", labels=["what"])
    rot.add_metric(["entry"], found.damaged_entries)
    rot.add_metric(["checkpoint"], found.damaged_checkpoints)
    rot.add_metric(["wal"], found.damaged_wal)
    yield rot
    yield _gauge("logbroker_scrub_unmended", "Of it, what is not put right yet.", len(found.unmended))


def _links(found: NodeStatistics) -> Iterator[Metric]:
    connected = GaugeMetricFamily("logbroker_peer_connected", "1 while both directions are up.", labels=["node"])
    sent = CounterMetricFamily("logbroker_peer_sent_bytes", "Bytes sent to it.", labels=["node"])
    received = CounterMetricFamily("logbroker_peer_received_bytes", "Bytes received from it.", labels=["node"])
    dropped = CounterMetricFamily("logbroker_peer_dropped_frames", "Frames that were not sent.", labels=["node"])
    buffered = GaugeMetricFamily("logbroker_peer_buffered_bytes", "Bytes waiting to be sent.", labels=["node"])
    for link in found.links:
        labels = [str(link.node)]
        connected.add_metric(labels, link.is_sending and link.is_receiving)
        sent.add_metric(labels, link.sent_bytes)
        received.add_metric(labels, link.received_bytes)
        dropped.add_metric(labels, link.dropped_frames)
        buffered.add_metric(labels, link.buffered_bytes)
    yield from (connected, sent, received, dropped, buffered)


def _raft(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["queue", "partition"]
    term = GaugeMetricFamily("logbroker_raft_term", "Raft term.", labels=labels)
    commit = GaugeMetricFamily("logbroker_raft_commit_index", "Highest committed index.", labels=labels)
    applied = GaugeMetricFamily("logbroker_raft_applied_index", "Highest applied index.", labels=labels)
    leads = GaugeMetricFamily("logbroker_raft_is_leader", "1 where this node leads.", labels=labels)
    for group in snapshot.status.groups:
        queue, partition = snapshot.places.get(group.group, ("", 0))
        place = [queue or "(catalogue)", str(partition)]
        term.add_metric(place, group.term)
        commit.add_metric(place, group.commit)
        applied.add_metric(place, group.applied)
        leads.add_metric(place, group.is_leader)
    yield from (term, commit, applied, leads)


def _partitions(states: dict[Place, StateReply], *, wall_ms: int) -> Iterator[Metric]:
    by_partition, by_group = ["queue", "partition"], ["group", "queue", "partition"]
    earliest = GaugeMetricFamily("logbroker_partition_earliest_offset", "Log start.", labels=by_partition)
    latest = GaugeMetricFamily("logbroker_partition_latest_offset", "Log end.", labels=by_partition)
    lag = GaugeMetricFamily("logbroker_consumergroup_lag", "Messages not settled.", labels=by_group)
    lag_s = GaugeMetricFamily(
        "logbroker_consumergroup_lag_seconds", "Age of the oldest message not settled, in log time.", labels=by_group
    )
    paused = GaugeMetricFamily(
        "logbroker_consumergroup_paused", "1 while it is paused, by whom.", labels=[*by_group, "cause"]
    )
    trips = CounterMetricFamily(
        "logbroker_consumergroup_breaker_trips", "How often its breaker has paused it.", labels=by_group
    )
    oldest = GaugeMetricFamily(
        "logbroker_queue_oldest_message_age_seconds",
        "Age of the oldest message that some consumer group has not settled, by this node's clock.",
        labels=by_partition,
    )
    messages = GaugeMetricFamily("logbroker_queue_messages", "Messages by state.", labels=[*by_group, "state"])
    for (queue, number), state in sorted(states.items()):
        place = [queue, str(number)]
        earliest.add_metric(place, state.log_start)
        latest.add_metric(place, state.log_end)
        waiting_ms = [group.oldest_ms for group in state.groups if group.oldest_ms]
        oldest.add_metric(place, max(wall_ms - min(waiting_ms, default=wall_ms), 0) / 1000)
        for group in state.groups:
            counts = {"available": group.available, "leased": group.leased, "delayed": group.delayed}
            lag.add_metric([group.group, *place], sum(counts.values()))
            counts["dead"] = group.dead
            counts["moved"] = group.moved
            age_ms = state.append_ms - group.oldest_ms if group.oldest_ms else 0
            lag_s.add_metric([group.group, *place], max(age_ms, 0) / 1000)
            cause = "breaker" if is_breaker(group.paused_reason) else "operator"
            for name in ("operator", "breaker"):
                paused.add_metric([group.group, *place, name], group.is_paused and name == cause)
            trips.add_metric([group.group, *place], group.breaker_trips)
            for name, count in counts.items():
                messages.add_metric([group.group, *place, name], count)
    yield from (earliest, latest, lag, lag_s, paused, trips, oldest, messages)
    yield from _moves(states)


def _moves(states: dict[Place, StateReply]) -> Iterator[Metric]:
    """Only of partitions that have to do with moves: most have not."""
    labels = ["queue", "partition"]
    moved_out = CounterMetricFamily(
        "logbroker_moved_out_messages",
        "Messages moved to another queue, since this node leads.",
        labels=labels,
    )
    moved_in = CounterMetricFamily(
        "logbroker_moved_in_messages", "Messages that came from another queue, since this node leads.", labels=labels
    )
    waiting = GaugeMetricFamily("logbroker_moves_waiting", "Messages on their way to another queue.", labels=labels)
    oldest = GaugeMetricFamily(
        "logbroker_moves_oldest_waiting_seconds", "How long the leader has tried to move the oldest.", labels=labels
    )
    for (queue, number), state in sorted(states.items()):
        place, moves = [queue, str(number)], state.moves
        if moves != NO_MOVES:
            moved_out.add_metric(place, moves.moved_out)
            moved_in.add_metric(place, moves.moved_in)
            waiting.add_metric(place, moves.waiting)
            oldest.add_metric(place, moves.oldest_waiting_ms / 1000)
    yield from (moved_out, moved_in, waiting, oldest)
