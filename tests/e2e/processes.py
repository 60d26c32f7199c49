"""A cluster of real processes, started through `logbroker serve`; each is stopped by its own handle."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_S = 30.0
STOP_S = 15.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment; asked for together, so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class NodeProcess:
    """One node: its files and ports outlive its processes."""

    node: int
    folder: Path
    config: Path
    url: str
    admin_port: int
    process: trio.Process | None = None
    log: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Start it, and wait until it takes clients."""
        with (self.folder / "log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "logbroker", "serve", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
            )
        with trio.fail_after(START_S):
            await self._wait_ready()

    async def _wait_ready(self) -> None:
        process = self.process
        assert process is not None
        assert process.stdout is not None
        text = ""
        while f"client {self.url} ready" not in text:
            data = await process.stdout.receive_some()
            assert data, f"node {self.node} ended with {await process.wait()}: {self.read_log()}"
            text += data.decode()

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()

    def terminate(self) -> None:
        """The first SIGTERM."""
        assert self.process is not None
        self.process.terminate()

    async def wait(self) -> int:
        """Wait for the end of the process; gives its exit code."""
        assert self.process is not None
        with trio.fail_after(STOP_S):
            code = await self.process.wait()
        self.process = None
        return code

    async def wait_log(self, text: str) -> None:
        """Wait until the log says so; it is all that comes out of the process by itself."""
        with trio.fail_after(STOP_S):
            while text not in self.read_log():  # noqa: ASYNC110
                await trio.sleep(0.02)

    def read_log(self) -> str:
        return (self.folder / "log").read_text()[-4_000:]


@dataclass
class ClusterProcesses:
    nodes: dict[int, NodeProcess]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes.values()]


@asynccontextmanager
async def cluster(folder: Path, *, size: int = 3, extra: str = "", without: int = 0) -> AsyncIterator[ClusterProcesses]:
    """Start a cluster on free ports of loopback; `extra` is TOML for every node, node `without` is not started.

    All processes end with the block.
    """
    ports = free_ports(3 * size)
    addresses = {node: [f"127.0.0.1:{port}" for port in ports[3 * node - 3 : 3 * node]] for node in range(1, size + 1)}
    initial = ",\n".join(
        f'  {{ id = {node}, peer = "{peer}", client = "ws://{client}" }}'
        for node, (client, _, peer) in addresses.items()
    )
    nodes: dict[int, NodeProcess] = {}
    for node in range(1, size + 1):
        client_port, admin_port, peer_port = ports[3 * node - 3 : 3 * node]
        place = folder / f"node{node}"
        place.mkdir()
        config = place / "logbroker.toml"
        config.write_text(
            f'[node]\nid = {node}\ndata_dir = "{place / "data"}"\n'
            f'[cluster]\nname = "e2e"\nsize = {size}\ninitial_nodes = [\n{initial},\n]\n'
            f"[listeners.client]\nport = {client_port}\n[listeners.admin]\nport = {admin_port}\n"
            f"[listeners.peer]\nport = {peer_port}\n"
            # The usual ballast, one in a hundred of a large disk, would fill it for each test that is kept.
            f"[storage]\nwal_file_bytes = {8 << 20}\nballast_min_bytes = {1 << 20}\nballast_percent = 0.0\n{extra}"
        )
        nodes[node] = NodeProcess(node, place, config, f"ws://127.0.0.1:{client_port}", admin_port)
    try:
        async with trio.open_nursery() as nursery:
            for process in nodes.values():
                if process.node != without:
                    nursery.start_soon(process.start)
        yield ClusterProcesses(nodes)
    finally:
        for process in nodes.values():
            if process.process is not None:
                process.kill()
        with trio.CancelScope(deadline=trio.current_time() + STOP_S, shield=True):
            for process in nodes.values():
                if process.process is not None:
                    await process.wait()
