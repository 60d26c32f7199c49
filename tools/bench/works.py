"""The work that all systems do alike, by name: what clients are told, and how many messages make some seconds.

A work is done once without being counted, with few messages; that warms the system up and says how many messages the
counted runs take, so that a fast system and a slow one both work for about the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, assert_never, final

import msgspec

from tools.bench.drivers.job import Job
from tools.bench.measure import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.bench.measure import Row
    from tools.bench.payload import Kind
    from tools.bench.systems.system import System

Shape = Literal["produce", "both", "drain", "paced"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    name: str
    title: str
    shape: Shape
    """`both` produces and consumes at once; `drain` consumes what was produced before; `paced` keeps to a rate."""
    size_bytes: int = 1024
    kind: Kind = "json"
    producers: int = 1
    """Each with a connection, a process and a queue of its own."""
    window: int = 1000
    """Messages without their confirmation, of each producer."""
    list_count: int = 100
    """For clients with a call that takes a list; 0 where each message is a call of its own."""
    rate: float = 0.0
    fixed_count: int = 0
    """Messages, where the work is about so many; 0: as many as take the wanted time."""
    probe_count: int = 10_000
    goals: dict[str, float] = field(default_factory=dict)
    """By peer, how many times its figure; for a latency at most, else at least. `p99_ms` is held to the same."""

    @property
    def is_about_latency(self) -> bool:
        return self.window == 1 or self.shape == "paced"

    def quick(self) -> Work:
        return replace(self, fixed_count=min(self.fixed_count, 50_000)) if self.fixed_count else self


SYNCED = {"rabbitmq": 10.0, "nats-always": 4.0, "nats": 1.0}

WORKS = (
    Work(name="produce-1k", title="confirmed produce, 1 KiB JSON", shape="produce", goals=SYNCED),
    Work(
        name="produce-100",
        title="confirmed produce, 100 B JSON",
        shape="produce",
        size_bytes=100,
        goals=SYNCED,
    ),
    Work(name="produce-1k-random", title="confirmed produce, 1 KiB random", shape="produce", kind="random"),
    Work(
        name="produce-100-random",
        title="confirmed produce, 100 B random",
        shape="produce",
        size_bytes=100,
        kind="random",
    ),
    Work(
        name="produce-1k-4p",
        title="confirmed produce, 1 KiB JSON, 4 producers on 4 queues",
        shape="produce",
        producers=4,
    ),
    Work(
        name="produce-100-4p",
        title="confirmed produce, 100 B JSON, 4 producers on 4 queues",
        shape="produce",
        size_bytes=100,
        producers=4,
    ),
    Work(
        name="singles",
        title="confirmed produce, 1 KiB JSON, each message a call of its own, 1,000 at a time",
        shape="produce",
        list_count=0,
        goals={"rabbitmq": 4.0, "nats-always": 1.0},
    ),
    Work(name="both", title="produce, consume and ack of each, 1 KiB JSON", shape="both", goals=SYNCED),
    Work(
        name="one",
        title="one message outstanding, 1 KiB JSON",
        shape="produce",
        window=1,
        list_count=0,
        probe_count=300,
        goals={"rabbitmq": 1.0, "nats-always": 1.3},
    ),
    Work(
        name="paced",
        title="200 messages a second on schedule, 1 KiB JSON, latency from the planned time",
        shape="paced",
        list_count=0,
        rate=200.0,
        probe_count=200,
    ),
    Work(
        name="drain",
        title="drain of a backlog of 200,000, ack of each, 1 KiB JSON",
        shape="drain",
        fixed_count=200_000,
        goals={"rabbitmq": 4.0, "nats-always": 2.0},
    ),
)


def count_for(work: Work, probe: Row | None, seconds: float) -> int:
    """Give how many messages one producer sends, from a run that was not counted."""
    if work.fixed_count:
        return work.fixed_count
    if work.rate:
        return max(1, int(work.rate * seconds))
    per_second = probe.per_second / work.producers if probe is not None else work.probe_count / seconds
    return max(work.probe_count // 2, int(per_second * seconds))


def run_work(
    work: Work, system: System, round_number: int, count: int, *, tag: str, all_pids: Sequence[int] = ()
) -> Row:
    """Do the work once on queues of its own, `count` messages for each producer."""
    queues = [f"bench-{tag}-{number}" for number in range(work.producers)]
    for spread, queue in enumerate(queues):
        system.create_queue(queue, spread=spread)
    try:
        return _run_on(work, system, round_number, count, queues, all_pids)
    finally:
        for queue in queues:
            system.delete_queue(queue)


def _run_on(
    work: Work, system: System, round_number: int, count: int, queues: Sequence[str], all_pids: Sequence[int]
) -> Row:
    producers = [
        Job(
            role="paced" if work.shape == "paced" else "produce",
            endpoints=system.endpoints(queue),
            queues=[queue],
            count=count,
            size_bytes=work.size_bytes,
            kind=work.kind,
            window=work.window,
            list_count=work.list_count,
            rate=work.rate,
            # Whoever consumes counts every message of the queue.
            warm_count=0 if work.shape in ("both", "drain") else min(count, 2 * work.window, 2_000),
        )
        for queue in queues
    ]
    consumers = [
        Job(
            role="consume",
            endpoints=system.consumer_endpoints(queue),
            queues=[queue],
            count=count,
            size_bytes=work.size_bytes,
        )
        for queue in queues
    ]
    match work.shape:
        case "produce" | "paced":
            jobs = producers
        case "both":
            jobs = [*producers, *consumers]
        case "drain":
            measure(work.name, system, round_number, producers, all_pids=all_pids)
            jobs = consumers
        case _:
            assert_never(work.shape)
    row = measure(work.name, system, round_number, jobs, all_pids=all_pids)
    if work.shape == "drain":
        # From sending to receipt says how long the backlog waited to be drained, and nothing of the system.
        row = msgspec.structs.replace(row, p50_ms=None, p99_ms=None, max_ms=None, curve_ms=[])
    return row
