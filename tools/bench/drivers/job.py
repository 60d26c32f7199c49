"""What a client process is told and what it reports: the same for every system, so that the same work is counted.

A driver is started with a job as its only argument. It connects, warms up, writes a line `ready`, waits for a line on
its standard input, works, and writes its report as one line of JSON. All times are CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import sys
import time
from array import array
from typing import TYPE_CHECKING, Literal, final

import msgspec

from tools.bench.latency import Latencies
from tools.bench.payload import number_of, pool, sent_ns_of, stamp, stamp_many, tails

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

READY = "ready"
# Without any progress for this long a driver gives up: something is broken, and no rate would tell.
IDLE_S = 60.0

Role = Literal["produce", "consume", "paced", "receive", "hold", "postpone"]


@final
class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One client's work.

    `produce` keeps at most `window` messages without their confirmation; `paced` sends `rate` messages a second
    whatever becomes of them; `consume` receives and acks each message until it has `count`. `receive` asks for one
    message at a time and acks it. `hold` and `postpone` lease one by one; they keep the leases, or nack each with a
    delay.
    """

    role: Role
    endpoints: list[str]
    """Where to connect, the best first; a client that finds leaders by itself is given all."""
    queues: list[str]
    count: int
    size_bytes: int = 1024
    kind: Literal["json", "random"] = "json"
    window: int = 1000
    list_count: int = 0
    """Messages of one call that takes a list, where the client has one; 0: each message is a call of its own."""
    connections: int = 1
    """More than one: each is a client of its own, with one message outstanding; `window` does not count."""
    rate: float = 0.0
    warm_count: int = 2000
    """Messages sent before the work begins."""
    keeps_timeline: bool = False


@final
class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role
    count: int
    size_bytes: int
    start_ns: int
    end_ns: int
    cpu_s: float
    latencies: str
    """Of `produce`: from handing over to confirmation. Of `paced`: from the planned time of sending to confirmation.
    Of `consume`: from sending to receipt. Of `receive`: from asking to the answer. Of `hold` and `postpone`: none."""
    doubled_count: int = 0
    timeline: list[tuple[int, int]] = []
    """When each message was to be sent and when it was confirmed, if the job asked for it; ns."""
    faults: list[str] = []
    """What makes the run worthless, in words."""


@final
class Work:
    """Times the measured part, and counts CPU of this process alone."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.faults: list[str] = []
        self._start_ns = 0
        self._end_ns = 0
        self._cpu_s = 0.0

    def begin(self) -> None:
        """Say that everything is ready, and wait for the others."""
        print(READY, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("the work was called off")
        self._cpu_s = time.process_time()
        self._start_ns = time.perf_counter_ns()

    def end(self) -> None:
        """The last message is done."""
        self._end_ns = time.perf_counter_ns()
        self._cpu_s = time.process_time() - self._cpu_s

    def report(self, latencies: Latencies, *, doubled_count: int = 0, timeline: Sequence[tuple[int, int]] = ()) -> None:
        job = self.job
        report = Report(
            role=job.role,
            count=job.count,
            size_bytes=job.size_bytes,
            start_ns=self._start_ns,
            end_ns=self._end_ns,
            cpu_s=self._cpu_s,
            latencies=latencies.encode(),
            doubled_count=doubled_count,
            timeline=list(timeline),
            faults=self.faults,
        )
        print(msgspec.json.encode(report).decode(), flush=True)


@final
class Source:
    """Makes the messages of a job, each with its own number."""

    def __init__(self, job: Job) -> None:
        self._tails = tails(pool(job.size_bytes, job.kind))

    def message(self, number: int, sent_ns: int) -> bytes:
        return stamp(self._tails[number % len(self._tails)], number, sent_ns)

    def messages(self, start: int, count: int, sent_ns: int) -> list[bytes]:
        return stamp_many(self._tails, start, count, sent_ns)


@final
class Received:
    """What a consumer has been given; looked into only after the work."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.times_ns = array("q")

    def add(self, message: bytes, now_ns: int) -> None:
        self.heads.append(message[:48])
        self.times_ns.append(now_ns)

    def check(self, work: Work) -> tuple[Latencies, int]:
        """Give latencies, and how many came twice; what is missing is a fault."""
        latencies = Latencies()
        for head, now_ns in zip(self.heads, self.times_ns, strict=True):
            latencies.add_ns(now_ns - sent_ns_of(head))
        distinct = len(set(map(number_of, self.heads)))
        if distinct < work.job.count:
            work.faults.append(f"{distinct} different messages of {work.job.count} came")
        return latencies, len(self.heads) - distinct


def read_job(arguments: Sequence[str]) -> Job:
    return msgspec.json.decode(arguments[1], type=Job)


def run_driver(roles: dict[Role, Callable[[Work], None]]) -> None:
    job = read_job(sys.argv)
    roles[job.role](Work(job))
