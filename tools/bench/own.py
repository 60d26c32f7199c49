"""Works that only logbroker does here: what a cluster costs as it grows, stands idle, loses a node or fills up."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, final

import msgspec

from tools.bench.drivers.job import Job, Report
from tools.bench.machine import allocated_bytes, cpu_s, resident_bytes
from tools.bench.measure import Row, measure, wait_quiet
from tools.bench.systems.logbroker import Logbroker
from tools.bench.systems.system import NODE_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tools.bench.compare import Plan, Turn

_SIZE_BYTES = 1024
_CHUNK_COUNT = 500_000
# A million leases of a message each, on a slow machine.
_LONG_TIMEOUT_S = 3_600.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the works need of whoever runs them."""

    folder: Path
    plan: Plan
    turn: Turn
    tell: Callable[[str], None]
    is_quick: bool = False
    is_large: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWork:
    name: str
    title: str
    key: str
    """What the lines of its table differ by: a name in each row's `extra`."""
    run: Callable[[Setting], Iterator[Row]]
    goal: str


@contextmanager
def _cluster(setting: Setting, settings: Mapping[str, str] | None = None) -> Iterator[Logbroker]:
    system = Logbroker(setting.folder / "own", settings=settings)
    try:
        setting.turn.take()
        system.start()
        yield system
    finally:
        system.stop()


def _producing(system: Logbroker, queue: str, count: int, **changes: object) -> Job:
    job = Job(role="produce", endpoints=system.urls(), queues=[queue], count=count, list_count=100)
    return msgspec.structs.replace(job, **changes)


def _with_extra(row: Row, **extra: float) -> Row:
    return msgspec.structs.replace(row, extra={**row.extra, **extra})


def partitions(setting: Setting) -> Iterator[Row]:
    counts = (1, 16, 128)
    with _cluster(setting, {"LIMITS__MAX_PARTITIONS_PER_QUEUE": "1000"}) as system:
        for count in counts:
            system.create_partitions(f"p{count}", count)
        probe = measure("partitions", system, 0, [_producing(system, "p1", 20_000)])
        messages = int(probe.per_second * setting.plan.seconds)
        for number in range(1, setting.plan.rounds + 1):
            setting.turn.take()
            for count in counts:
                row = measure("partitions", system, number, [_producing(system, f"p{count}", messages)])
                yield _with_extra(row, partitions=count)


def idle(setting: Setting) -> Iterator[Row]:
    """The same cluster without partitions, and with a thousand that nobody uses."""
    watched_s = 3.0 if setting.is_quick else 10.0
    with _cluster(setting, {"LIMITS__MAX_PARTITIONS_PER_QUEUE": "1000"}) as system:
        for count in (0, 1000):
            if count:
                began = time.monotonic()
                system.create_partitions("idle", count)
                setting.tell(f"idle: {count} partitions have leaders after {time.monotonic() - began:.1f} s")
            wait_quiet()
            time.sleep(watched_s)
            for number in range(1, setting.plan.rounds + 1):
                setting.turn.take()
                before = [cpu_s([pid]) for pid in system.pids()]
                time.sleep(watched_s)
                spent = [cpu_s([pid]) - was for pid, was in zip(system.pids(), before, strict=True)]
                memory = max(resident_bytes(pid) for pid in system.pids())
                yield Row(
                    work="idle",
                    system=system.name,
                    round=number,
                    seconds=watched_s,
                    extra={
                        "partitions": count,
                        "core % of a node, mean": sum(spent) / len(spent) / watched_s * 100,
                        "core % of a node, worst": max(spent) / watched_s * 100,
                        "memory of a node MB": memory / 1e6,
                    },
                )


def connections(setting: Setting) -> Iterator[Row]:
    """Each connection has one message outstanding."""
    counts = (1, 100) if setting.is_quick else (1, 100, 1000)
    with _cluster(setting) as system:
        system.create_queue("c")
        for number in range(1, setting.plan.rounds + 1):
            for count in counts:
                setting.turn.take()
                messages = int((300 if count == 1 else 3_000) * setting.plan.seconds)
                # One connection is what `connections` 1 means for the driver as well: a window of one.
                job = _producing(system, "c", messages, list_count=0, window=1, connections=count, warm_count=100)
                row = measure("connections", system, number, [job])
                memory = max(resident_bytes(pid) for pid in system.pids())
                yield _with_extra(row, connections=count, **{"memory of a node MB": memory / 1e6})


def fail_over(setting: Setting) -> Iterator[Row]:
    """Keep to a schedule while the leader of the partition is killed; it comes back for the check of what was kept."""
    rate, seconds, kill_after_s = 500.0, (6.0 if setting.is_quick else 10.0), 3.0
    with _cluster(setting) as system:
        for number in range(1, setting.plan.rounds + 1):
            setting.turn.take()
            queue = f"f{number}"
            system.create_queue(queue)
            killed_ns: list[int] = []
            leader = system.leader(queue)

            def kill(leader: int = leader, killed_ns: list[int] = killed_ns) -> None:
                time.sleep(kill_after_s)
                killed_ns.append(time.perf_counter_ns())
                system.kill_node(leader)

            job = _producing(
                system,
                queue,
                int(rate * seconds),
                role="paced",
                rate=rate,
                list_count=0,
                warm_count=0,
                keeps_timeline=True,
            )
            reports: list[Report] = []
            row = measure("fail-over", system, number, [job], meanwhile=kill, reports_to=reports)
            system.start_node(leader)
            system.wait_ready(leader)
            count = int(rate * seconds)
            read = measure(
                "fail-over", system, number, [Job(role="consume", endpoints=system.urls(), queues=[queue], count=count)]
            )
            timeline = reports[0].timeline
            after = [done for planned, done in timeline if planned > killed_ns[0]]
            done = sorted(done for _, done in timeline)
            gap_ns = max(later - earlier for earlier, later in pairwise(done))
            yield msgspec.structs.replace(
                row,
                doubled=read.doubled,
                # What the dead process had spent went with it.
                server_cpu_s=0.0,
                server_us_per_message=0.0,
                faults=[*row.faults, *read.faults],
                extra={
                    "rate": rate,
                    "first confirm ms": (min(after) - killed_ns[0]) / 1e6,
                    "longest gap ms": gap_ns / 1e6,
                },
            )


def backlog(setting: Setting) -> Iterator[Row]:
    """Nobody consumes. What a node keeps in memory and on disk, what it wrote for it, and how it starts again.

    The first size is as good as empty: just enough to be received one by one, which is timed at each size.
    """
    received = 200 if setting.is_quick else 2_000
    sizes = [2 * received, 100_000] if setting.is_quick else [2 * received, 100_000, 1_000_000]
    if setting.is_large:
        sizes.append(10_000_000)
    with _cluster(setting) as system:
        system.create_queue("b")
        empty_disk = [allocated_bytes(folder) for folder in system.data_folders()]
        sent = 0
        for size in sizes:
            rows = []
            while sent < size:
                setting.turn.take()
                count = min(_CHUNK_COUNT, size - sent)
                rows.append(measure("backlog", system, 1, [_producing(system, "b", count, warm_count=0)]))
                sent += count
            time.sleep(3.0)
            wait_quiet()
            payload_bytes = sent * _SIZE_BYTES
            disks = [allocated_bytes(folder) for folder in system.data_folders()]
            segments = [allocated_bytes(folder / "groups") for folder in system.data_folders()]
            # The third node is started again and again, and its counters with it. What the system says of a process
            # is no help: the kernel counts a whole folio for every page of it that is made dirty.
            logged = max(_counters(system, number)[_LOG_BYTES] for number in (1, 2))
            memory = max(resident_bytes(pid) for pid in system.pids())
            extra = {
                "backlog": float(size),
                "memory of a node MB": memory / 1e6,
                "disk MB": max(disks) / 1e6,
                "disk / payload": max(disks) / payload_bytes,
                "disk of an empty node MB": max(empty_disk) / 1e6,
                "growth / payload": (max(disks) - max(empty_disk)) / payload_bytes,
                "segments / payload": max(segments) / payload_bytes,
                "WAL and segments written / payload": (logged + max(segments)) / payload_bytes,
            }
            extra.update(_restart(system))
            extra.update(_receive_times(system, "b", received))
            yield msgspec.structs.replace(rows[-1], extra=extra)


def _restart(system: Logbroker) -> dict[str, float]:
    """Kill a node, start it, and see how long it takes and what memory it has then."""
    system.kill_node(3)
    began = time.monotonic()
    system.start_node(3)
    system.wait_ready(3)
    ready_s = time.monotonic() - began
    wait_quiet()
    return {"restart s": ready_s, "memory after restart MB": resident_bytes(system.pid(3)) / 1e6}


def _receive_times(system: Logbroker, queue: str, count: int) -> dict[str, float]:
    """Receive one message at a time where the partition is led, and ack it; a lease is synced before the answer."""
    url = system.urls()[NODE_NUMBERS.index(system.leader(queue))]
    row = measure("backlog", system, 1, [Job(role="receive", endpoints=[url], queues=[queue], count=count)])
    return {"receive p50 ms": row.p50_ms or 0.0, "receive p99 ms": row.p99_ms or 0.0}


def in_flight(setting: Setting) -> Iterator[Row]:
    """Every message leased by itself, the dearest way: what so many leases, or delays, keep in memory."""
    count = 2_000 if setting.is_quick else 1_000_000 if setting.is_large else 20_000
    for role in ("hold", "postpone"):
        with _cluster(setting) as system:
            system.create_queue("f")
            measure("in-flight", system, 1, [_producing(system, "f", count, size_bytes=100, warm_count=0)])
            wait_quiet()
            before = max(resident_bytes(pid) for pid in system.pids())
            setting.turn.take()
            job = Job(role=role, endpoints=system.urls(), queues=["f"], count=count)
            row = measure("in-flight", system, 1, [job], timeout_s=_LONG_TIMEOUT_S)
            wait_quiet()
            after = max(resident_bytes(pid) for pid in system.pids())
            extra = {
                "is postponed": float(role == "postpone"),
                "memory of a node before MB": before / 1e6,
                "memory of a node MB": after / 1e6,
                "bytes a message": (after - before) / count,
            }
            extra.update(_restart(system))
            yield _with_extra(row, **extra)


_COUNTED = {
    "syncs": "logbroker_storage_commits_total",
    "loop turns": "logbroker_loop_turns_total",
    "client frames in": "logbroker_websocket_messages_in_total",
    "client frames out": "logbroker_websocket_messages_out_total",
}
_LOG_BYTES = "logbroker_storage_committed_bytes_total"
_BYTES = {"log bytes": _LOG_BYTES, "peer bytes": "logbroker_peer_sent_bytes_total"}


def counts(setting: Setting) -> Iterator[Row]:
    """What happens for a message: counts of all three nodes together, which wobble less than times."""
    shapes = {100: (100, 1000), 1: (0, 1000), 0: (0, 1)}
    with _cluster(setting) as system:
        for number in range(1, setting.plan.rounds + 1):
            setting.turn.take()
            for shape, (list_count, window) in shapes.items():
                messages = int((500 if window == 1 else 40_000) * setting.plan.seconds)
                queue = f"n{number}-{shape}"
                system.create_queue(queue)
                job = _producing(system, queue, messages, list_count=list_count, window=window, warm_count=0)
                before = _totals(system)
                row = measure("counts", system, number, [job])
                spent = {name: value - before[name] for name, value in _totals(system).items()}
                extra = {"list": float(list_count), "outstanding": float(window)}
                extra |= {f"{title} / 1,000": spent[name] / messages * 1000 for title, name in _COUNTED.items()}
                extra |= {f"{title} / payload": spent[name] / messages / _SIZE_BYTES for title, name in _BYTES.items()}
                yield _with_extra(row, shape=shape, **extra)


def _totals(system: Logbroker) -> dict[str, float]:
    """Sum the counters of all nodes."""
    nodes = [_counters(system, number) for number in NODE_NUMBERS]
    return {name: sum(node[name] for node in nodes) for name in nodes[0]}


def _counters(system: Logbroker, number: int) -> dict[str, float]:
    """The counters of one node, summed over their labels."""
    found = dict.fromkeys([*_COUNTED.values(), *_BYTES.values()], 0.0)
    for line in system.metrics(number).splitlines():
        name, _, value = line.rpartition(" ")
        base = name.partition("{")[0]
        if base in found:
            found[base] += float(value)
    return found


OWN_WORKS = (
    OwnWork(
        name="partitions",
        title="confirmed produce, 1 KiB JSON, spread over partitions",
        key="partitions",
        run=partitions,
        goal="128 reach at least 70 % of 1",
    ),
    OwnWork(
        name="idle", title="a cluster that does nothing", key="partitions", run=idle, goal="below 5 % of a core a node"
    ),
    OwnWork(
        name="connections",
        title="each connection with one message outstanding, 1 KiB JSON",
        key="connections",
        run=connections,
        goal="none",
    ),
    OwnWork(
        name="fail-over",
        title="500 messages a second on schedule, the leader killed after three seconds",
        key="rate",
        run=fail_over,
        goal="none; RabbitMQ took 0.35-0.5 s, NATS 4-6 s",
    ),
    OwnWork(
        name="backlog",
        title="a backlog of 1 KiB JSON that nobody consumes",
        key="backlog",
        run=backlog,
        goal="below 250 MB at 10 million, and a start in 10 s; disk below 0.4 of the payload at 1 million; receive p99"
        " within twice that of the first line",
    ),
    OwnWork(
        name="in-flight",
        title="messages leased one by one and kept (0), or each nacked with a delay of its own (1)",
        key="is postponed",
        run=in_flight,
        goal="none; printed",
    ),
    OwnWork(
        name="counts",
        title="what happens for a message, on all nodes together",
        key="shape",
        run=counts,
        goal="syncs and turns do not grow",
    ),
)
