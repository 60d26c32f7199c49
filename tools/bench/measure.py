"""One measured run: client processes that begin together, and what servers and clients spent meanwhile."""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, final

import msgspec

from tools.bench.drivers.job import READY, Job, Report
from tools.bench.latency import Latencies
from tools.bench.machine import Spent, cpu_s, others_cpu_s
from tools.bench.systems.system import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tools.bench.systems.system import System

# A driver that says nothing for this long has a bug; the work of any of them takes seconds.
DRIVER_TIMEOUT_S = 180.0
_QUIET_TIMEOUT_S = 5.0
_QUIET_SHARE = 0.2
_CURVE = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)


@final
class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of one work on one system: a line of JSON, in the words of the table."""

    work: str
    system: str
    round: int
    messages: int = 0
    seconds: float = 0.0
    per_second: float = 0.0
    mb_per_second: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    curve_ms: list[tuple[float, float]] = []
    """(percent, ms) pairs."""
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    server_us_per_message: float = 0.0
    client_us_per_message: float = 0.0
    busy_share: float = 0.0
    """Of all cores, by anybody."""
    io_wait_share: float = 0.0
    other_share: float = 0.0
    """Of all cores, by processes that are no part of the run."""
    doubled: int = 0
    extra: dict[str, float] = {}
    """What only this work measures; its table names the keys."""
    faults: list[str] = []


@final
class Driver:
    """A client process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        if self._line() != READY:
            raise BenchError(f"a client says something else than {READY!r}")

    def go(self) -> None:
        stdin = self._process.stdin
        if stdin is not None:
            stdin.write("go\n")
            stdin.flush()

    def report(self, timeout_s: float) -> Report:
        return msgspec.json.decode(self._line(timeout_s), type=Report)

    def _line(self, timeout_s: float = DRIVER_TIMEOUT_S) -> str:
        stdout = self._process.stdout
        if stdout is None or not select.select([stdout], [], [], timeout_s)[0]:
            raise BenchError(f"a client says nothing for {timeout_s:.0f} s")
        line = stdout.readline()
        if not line:
            raise BenchError(f"a client has ended:\n{self._process.communicate()[1][-3000:]}")
        return line.rstrip("\n")

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def measure(
    work: str,
    system: System,
    round_number: int,
    jobs: Sequence[Job],
    *,
    all_pids: Sequence[int] = (),
    meanwhile: Callable[[], None] | None = None,
    reports_to: list[Report] | None = None,
    timeout_s: float = DRIVER_TIMEOUT_S,
) -> Row:
    """Run the jobs at once and give what was measured, from the first start to the last end.

    The messages counted, and the latencies, are those of the last job's role: where messages are produced and
    consumed, the consumed ones. `all_pids` are all servers that are up, of whatever system; `meanwhile` is called once
    the work has begun; `reports_to` gets what the clients said; none of them may take longer than `timeout_s`.

    Raises:
        BenchError: a client failed.
    """
    with ExitStack() as stack:
        drivers = []
        for job in jobs:
            driver = Driver(system.command(msgspec.json.encode(job).decode()))
            stack.callback(driver.end)
            drivers.append(driver)
        for driver in drivers:
            driver.wait_ready()
        wait_quiet()
        servers = system.pids()
        ours = [*servers, *all_pids]
        cpu, others, spent, started = cpu_s(servers), others_cpu_s(ours), Spent.now(), time.monotonic()
        for driver in drivers:
            driver.go()
        if meanwhile is not None:
            meanwhile()
        reports = [driver.report(timeout_s) for driver in drivers]
        cpu, others = cpu_s(servers) - cpu, others_cpu_s(ours) - others
        spent_after, wall_s = Spent.now(), time.monotonic() - started
    if reports_to is not None:
        reports_to += reports
    seconds = (max(report.end_ns for report in reports) - min(report.start_ns for report in reports)) / 1e9
    counted = [report for report in reports if report.role == reports[-1].role]
    messages = sum(report.count for report in counted)
    latencies = Latencies()
    for report in counted:
        latencies.merge(report.latencies)
    client_cpu_s = sum(report.cpu_s for report in reports)
    machine_s = wall_s * (os.cpu_count() or 1)
    return Row(
        work=work,
        system=system.name,
        round=round_number,
        messages=messages,
        seconds=round(seconds, 6),
        per_second=round(messages / seconds, 1),
        mb_per_second=round(messages * counted[0].size_bytes / seconds / 1e6, 2),
        p50_ms=latencies.percentile_ms(50),
        p99_ms=latencies.percentile_ms(99),
        max_ms=latencies.max_ms(),
        curve_ms=latencies.curve_ms(_CURVE),
        server_cpu_s=round(cpu, 2),
        client_cpu_s=round(client_cpu_s, 2),
        server_us_per_message=round(cpu / messages * 1e6, 2),
        client_us_per_message=round(client_cpu_s / messages * 1e6, 2),
        busy_share=round((spent_after.busy_s - spent.busy_s) / machine_s, 3),
        io_wait_share=round((spent_after.io_wait_s - spent.io_wait_s) / machine_s, 3),
        other_share=round(max(others, 0.0) / machine_s, 3),
        doubled=sum(report.doubled_count for report in reports),
        faults=[fault for report in reports for fault in report.faults],
    )


def wait_quiet() -> None:
    """Wait, but not for long, until nothing runs any more: what a run leaves behind is not the next one's work."""
    for _ in range(int(_QUIET_TIMEOUT_S * 2)):
        before = Spent.now().busy_s
        time.sleep(0.5)
        if Spent.now().busy_s - before < _QUIET_SHARE * 0.5:
            return
