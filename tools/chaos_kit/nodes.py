"""The nodes under test: `logbroker serve` processes, started, struck and asked how they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import trio

from logbroker.cli.admin import AdminNode
from logbroker.errors import LogBrokerError
from tools.chaos_kit.network import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from tools.chaos_kit.network import Network

START_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.05
_SHOWN_BYTES = 6_000

# Files so small that rolls, flushes and snapshots happen within minutes, and that a small disk holds them.
_STORAGE: dict[str, object] = {
    "wal_file_bytes": 1 << 20,
    "wal_max_files": 8,
    "max_commit_bytes": 512 << 10,
    "segment_bytes": 1 << 20,
    "preallocate_min_bytes": 128 << 10,
    "preallocate_max_bytes": 512 << 10,
    "checkpoint_bytes": 512 << 10,
    "checkpoint_ms": 5_000,
    "ballast_min_bytes": 4 << 20,
    "ballast_percent": 0.0,
    "index_map_bytes": 256 << 20,
    "scrub_bytes_per_s": 64 << 20,
    "scrub_pause_ms": 1_000,
}


class NodeError(Exception):
    """A node does not do what it must, fault or no fault."""


@final
@dataclass(slots=True)
class ChaosNode:
    """One node: its files and addresses outlive its processes."""

    number: int
    config_file: Path
    data_dir: Path
    log_file: Path
    url: str
    admin_url: str
    prefix: Sequence[str] = ()
    handles: Sequence[int] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    is_stopped: bool = False
    started_count: int = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def state(self) -> str:
        """What its process does, in words."""
        if self.process is None:
            return "was never started"
        code = self.process.poll()
        if code is not None:
            return f"has ended ({code})"
        return "is stopped" if self.is_stopped else "runs"

    def start(self) -> None:
        """Start it; it is not ready when this returns."""
        self.started_count += 1
        with self.log_file.open("ab") as log:
            log.write(f"--- start {self.started_count}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "logbroker", "serve", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **self.environment},
                pass_fds=self.handles,
                cwd=ROOT,
                start_new_session=True,
            )
        self.is_stopped = False

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            if number in (signal.SIGSTOP, signal.SIGCONT):
                self.is_stopped = number == signal.SIGSTOP

    async def wait_end(self, *, timeout_s: float = _STOP_S) -> int:
        """Wait until the process is gone; gives its exit code.

        Raises:
            NodeError: it lives on.
        """
        process = self.process
        if process is None:
            return 0
        with trio.move_on_after(timeout_s):
            # One thread for each of them would tell no sooner.
            while process.poll() is None:  # noqa: ASYNC110
                await trio.sleep(_POLL_S / 5)
            return process.returncode
        raise NodeError(f"node {self.number} does not end within {timeout_s:.0f} s")

    async def kill(self) -> None:
        """SIGKILL; it is dead when this returns."""
        self.signal(signal.SIGKILL)
        await self.wait_end()

    async def stacks(self) -> str:
        """End a process that gives no answer, so that it says what its threads do; gives the end of its log."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGABRT)
        with suppress(NodeError):
            await self.wait_end()
        return self.last_words()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _SHOWN_BYTES))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def ask(self, path: str, *, timeout_ms: int = 1_500) -> tuple[int, str]:
        """A page of its admin listener; status 0 with the reason if there is no answer."""
        node = AdminNode(self.admin_url, timeout_ms=timeout_ms)
        try:
            return await trio.to_thread.run_sync(partial(node.get, path), abandon_on_cancel=True)
        except LogBrokerError as error:
            return 0, error.message

    async def status(self) -> dict[str, Any] | None:
        """Its status page; None if it does not answer."""
        code, text = await self.ask("/status")
        if code != 200:
            return None
        # JSON of a node's own making.
        page: dict[str, Any] = json.loads(text)
        return page


Partition = tuple[str, int]
"""Queue and number."""


@final
@dataclass(slots=True)
class ChaosCluster:
    """All nodes; made by `chaos_cluster`."""

    nodes: dict[int, ChaosNode]
    network: Network

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes.values()]

    async def statuses(self) -> dict[int, dict[str, Any]]:
        """The status pages of the nodes that answer."""
        found: dict[int, dict[str, Any]] = {}

        async def ask(node: ChaosNode) -> None:
            page = await node.status()
            if page is not None:
                found[node.number] = page

        async with trio.open_nursery() as nursery:
            for node in self.nodes.values():
                if node.is_running and not node.is_stopped:
                    nursery.start_soon(ask, node)
        return found

    async def leaders(self) -> dict[Partition, int]:
        """Which node leads each partition, as far as anybody knows."""
        best: dict[Partition, tuple[int, int]] = {}
        for number, page in (await self.statuses()).items():
            for group in page["groups"]:
                if group["queue"] is not None and group["is_leader"]:
                    place = (group["queue"], group["partition"])
                    best[place] = max(best.get(place, (0, 0)), (group["term"], number))
        return {place: number for place, (_, number) in best.items()}

    async def wait_ready(self, number: int, *, timeout_s: float = START_S) -> None:
        """Wait until a node says that clients may come.

        Raises:
            NodeError: it does not within the time, or it has ended.
        """
        node = self.nodes[number]
        said = "nothing yet"
        with trio.move_on_after(timeout_s):
            while node.is_running:
                code, said = await node.ask("/readyz?verbose")
                if code == 200:
                    return
                await trio.sleep(_POLL_S)
        raise NodeError(
            f"node {number} is not ready in {timeout_s:.0f} s and {node.state}: {' '.join(said.split())}\n"
            f"{node.last_words()}"
        )

    async def wait_whole(self, *, timeout_s: float = START_S) -> None:
        """Wait until each node is ready, holds a voter of every group, and has applied what any had a moment before.

        Raises:
            NodeError: it does not come to that.
        """
        why = ""
        goal: dict[int, int] = {}
        pages: dict[int, dict[str, Any]] = {}
        with trio.move_on_after(timeout_s):
            while True:
                pages = await self.statuses()
                why = self._unlike(pages, goal) if goal else "nothing is known yet"
                if not why:
                    return
                # Entries come all the time; what there was a moment ago must have reached everybody.
                for page in pages.values():
                    for row in page["groups"]:
                        goal[row["group"]] = max(goal.get(row["group"], 0), row["applied"])
                await trio.sleep(4 * _POLL_S)
        said = [f"the cluster is not whole after {timeout_s:.0f} s: {why}"]
        for node in self.nodes.values():
            if node.number not in pages:
                said += [f"node {node.number} {node.state}", await node.stacks()]
        raise NodeError("\n".join(said))

    def _unlike(self, pages: Mapping[int, dict[str, Any]], goal: Mapping[int, int]) -> str:
        missing = sorted(set(self.nodes) - set(pages))
        if missing:
            return f"no answer from nodes {missing}"
        for number, page in pages.items():
            if not page["ready"]:
                return f"node {number} is not ready: {page['problems']}"
        groups = {number: {row["group"]: row for row in page["groups"]} for number, page in pages.items()}
        names = set().union(*groups.values())
        for name in sorted(names):
            rows = {number: found.get(name) for number, found in groups.items()}
            for number, row in rows.items():
                if row is None:
                    return f"node {number} has no replica of group {name}"
                if row["problems"] or row["fill_percent"] is not None or row["replica"] not in row["voters"]:
                    return f"node {number}, group {name}: {row['problems']} {row['fill_percent']} {row['voters']}"
                if len(row["voters"]) != len(self.nodes) or row["learners"]:
                    return f"node {number}, group {name}: voters {row['voters']}, learners {row['learners']}"
                if row["applied"] < goal.get(name, 0):
                    return f"node {number}, group {name}: applied {row['applied']} of {goal[name]}"
        return ""

    async def stop(self) -> list[str]:
        """End all nodes gracefully; gives what did not go as it should."""
        faults = []
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                code = await node.wait_end()
            except NodeError as error:
                faults.append(str(error))
                await node.kill()
            else:
                if code not in (0, 128 + signal.SIGTERM, -signal.SIGKILL):
                    faults.append(f"node {node.number} ended with code {code}")
        return faults


def configure(folder: Path, network: Network, data_dirs: Mapping[int, Path], *, insecure: bool) -> dict[int, ChaosNode]:
    """Write the configuration of each node."""
    initial = [
        f'  {{ id = {number}, peer = "{network.host(number)}:{network.port(number, 2)}", '
        f'client = "ws://{network.host(number)}:{network.port(number, 0)}" }},'
        for number in data_dirs
    ]
    nodes = {}
    for number, data_dir in data_dirs.items():
        host = network.host(number)
        lines = [
            *_table("node", {"id": number, "data_dir": str(data_dir)}),
            *_table("cluster", {"name": "chaos", "size": len(data_dirs)}),
            *("initial_nodes = [", *initial, "]"),
            *_table("storage", _STORAGE),
            *_table("limits", {"max_batch_bytes": 256 << 10, "max_record_bytes": 128 << 10}),
            *_table("timeouts", {"drain_ms": 5_000}),
        ]
        for offset, name in enumerate(("client", "admin", "peer")):
            values: dict[str, object] = {"host": host, "port": network.port(number, offset), "insecure": insecure}
            lines += _table(f"listeners.{name}", values)
        config_file = folder / f"node{number}.toml"
        config_file.write_text("\n".join(lines) + "\n")
        prefix, handles = network.enter(number)
        # Nodes of a tool that was killed would run for ever.
        keeper = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
        nodes[number] = ChaosNode(
            number,
            config_file,
            data_dir,
            folder / f"node{number}.log",
            f"ws://{host}:{network.port(number, 0)}",
            f"http://{host}:{network.port(number, 1)}",
            (*keeper, *prefix),
            handles,
        )
    return nodes


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    # JSON's strings, numbers and truths are TOML's too.
    return ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]


@asynccontextmanager
async def chaos_cluster(nodes: dict[int, ChaosNode], network: Network) -> AsyncIterator[ChaosCluster]:
    """Run the nodes for the time of the block; whatever is left of them then is killed.

    Raises:
        NodeError: one does not become ready.
    """
    cluster = ChaosCluster(nodes, network)
    try:
        for node in nodes.values():
            node.start()
        for number in nodes:
            await cluster.wait_ready(number)
        yield cluster
    finally:
        for node in nodes.values():
            if node.is_running and node.process is not None:
                node.process.kill()
                with suppress(subprocess.TimeoutExpired):
                    node.process.wait(10)
