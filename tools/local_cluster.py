"""A cluster of real node processes on loopback, each with a configuration, a data folder and a log of its own.

For `tools/run` and for end-to-end tests. All that is durable lies in one folder, which a cluster makes anew and holds
with a lock for as long as any of its nodes lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, final

import trio

from logbroker.cli.admin import AdminNode
from logbroker.errors import LogBrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

READY_TIMEOUT_S = 60.0
# Above what a node takes for its own graceful end, timeouts.drain_ms below.
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_SHOWN_LINES = 25
_SHOWN_BYTES = 16_384

# Fixed numbers, because what users type should not change from run to run. They lie below the range from which the
# system takes ports for outgoing connections: a node that is down would otherwise lose its port to one of those, or
# to a peer that, calling it again and again, comes to be connected to itself.
_FIRST_PORT, _LAST_PORT, _BLOCK_PORTS = 4_100, 9_900, 100
_GUARD = _BLOCK_PORTS - 1
_NODE_PORTS = 10

# Also what tells a folder that may be emptied from one that may not.
_LOCK_NAME = "logbroker-local-cluster.lock"

# Recycled pages: fresh ones are dear, above all on virtual machines.
_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}

# Small enough for three nodes on a laptop.
_STORAGE = {
    "wal_file_bytes": 8 << 20,
    "wal_max_files": 8,
    "segment_bytes": 16 << 20,
    "preallocate_max_bytes": 8 << 20,
    "ballast_min_bytes": 1 << 20,
    "ballast_percent": 0.0,
    "index_map_bytes": 1 << 30,
}
_TIMEOUTS = {"drain_ms": 5_000}


class LocalClusterError(Exception):
    """The cluster cannot be made, or a node of it does not do what it should. Says why, as far as its log tells."""


@final
@dataclass(slots=True)
class LocalNode:
    number: int
    config_file: Path
    log_file: Path
    client_url: str
    admin_url: str
    process: trio.Process | None = None
    # The deaths that somebody wanted; any other is news.
    is_expected_to_end: bool = False

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return 0 if self.process is None or self.process.returncode is not None else self.process.pid

    def last_words(self) -> str:
        """The end of its log."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _SHOWN_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])


@final
@dataclass(slots=True)
class LocalCluster:
    """Running nodes; made by `local_cluster`. `tell` is told of a node that ends by itself."""

    folder: Path
    nodes: dict[int, LocalNode]
    tell: Callable[[str], None]
    # Inherited by the nodes: the folder stays locked while one of them lives, whatever became of this process.
    lock: int
    nursery: trio.Nursery
    _logs: ExitStack = field(default_factory=ExitStack)

    @property
    def urls(self) -> list[str]:
        return [node.client_url for node in self.nodes.values()]

    async def start(self, number: int) -> None:
        """Start a node that does not run; it is not ready when this returns."""
        node = self.nodes[number]
        log: IO[bytes]
        with node.log_file.open("ab") as log:
            command = [sys.executable, "-m", "logbroker", "serve", "--config", str(node.config_file)]
            node.process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_MALLOC, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C is for whoever started the cluster, which then stops the nodes in order.
                start_new_session=True,
                pass_fds=[self.lock],
            )
        node.is_expected_to_end = False
        self._write_pids()
        self.nursery.start_soon(self._watch, node, node.process)

    async def _watch(self, node: LocalNode, process: trio.Process) -> None:
        await process.wait()
        if not node.is_expected_to_end:
            self._write_pids()
            self.tell(f"node {node.number} has ended, and not by us ({_ending(process)}). {node.log_file} ends with:")
            self.tell(node.last_words())
            self.tell(f"start it again: logbroker serve --config {node.config_file}")

    def _write_pids(self) -> None:
        (self.folder / "pids").write_text("".join(f"{node.pid}\n" for node in self.nodes.values() if node.pid))

    async def wait_ready(self, number: int, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until a node says that clients may come.

        Raises:
            LocalClusterError: it does not within the time, or it has ended; with its reasons.
        """
        node = self.nodes[number]
        said = "nothing yet"
        with trio.move_on_after(timeout_s):
            while node.pid:
                is_ready, said = await trio.to_thread.run_sync(_ask_ready, node.admin_url)
                if is_ready:
                    return
                await trio.sleep(_POLL_S)
        if not node.pid:
            said = (
                f"the process has ended ({_ending(node.process)})" if node.process is not None else "it was not started"
            )
        raise LocalClusterError(f"node {number} is not ready: {said}\n{node.log_file} ends with:\n{node.last_words()}")

    async def kill(self, number: int) -> None:
        """End a node with SIGKILL; it is dead when this returns."""
        process = self._expect_end(number)
        if process is not None:
            process.kill()
            await process.wait()
            self._write_pids()

    async def restart(self, number: int) -> None:
        """Start a node that was killed and wait until it is ready.

        Raises:
            LocalClusterError: as `wait_ready`.
        """
        await self.start(number)
        await self.wait_ready(number)

    async def stop(self) -> None:
        """End all nodes: SIGTERM, and SIGKILL for those that take too long."""
        ends = [end for number in self.nodes if (end := self._expect_end(number)) is not None]
        for process in ends:
            process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            for process in ends:
                await process.wait()
        for number, node in self.nodes.items():
            if node.pid and node.process is not None:
                self.tell(
                    f"node {number} does not end {STOP_TIMEOUT_S:.0f} s after SIGTERM and is killed; {node.log_file}"
                )
                node.process.kill()
                await node.process.wait()
        self._write_pids()

    def _expect_end(self, number: int) -> trio.Process | None:
        """The process of a node that is about to be ended; None if there is none."""
        node = self.nodes[number]
        node.is_expected_to_end = True
        return node.process if node.pid else None


def _ending(process: trio.Process) -> str:
    code = process.returncode
    if code is None:
        return "running"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _ask_ready(admin_url: str) -> tuple[bool, str]:
    """Whether a node is ready, and what it says."""
    try:
        status, text = AdminNode(admin_url, timeout_ms=2_000).get("/readyz?verbose")
    except LogBrokerError as error:
        return False, error.message
    return status == 200, " ".join(text.split())


@asynccontextmanager
async def local_cluster(folder: Path, *, size: int = 3, tell: Callable[[str], None]) -> AsyncIterator[LocalCluster]:
    """Run a new cluster in `folder` for the time of the block; its nodes are ready when the block begins.

    Whatever an earlier cluster left in the folder is removed. The nodes are ended with the block, however it ends.

    Raises:
        LocalClusterError: nodes of an earlier one still run, no ports are free, or a node does not become ready.
    """
    with emptied_folder(folder) as lock, free_ports() as first_port:
        nodes = configure(folder, size, first_port)
        async with trio.open_nursery() as nursery:
            cluster = LocalCluster(folder, nodes, tell, lock, nursery)
            try:
                for number in nodes:
                    await cluster.start(number)
                for number in nodes:
                    await cluster.wait_ready(number)
                yield cluster
            finally:
                # The rest is for the kernel to clear away what was killed.
                with trio.move_on_after(STOP_TIMEOUT_S + 5, shield=True):
                    await cluster.stop()
                nursery.cancel_scope.cancel()


@contextmanager
def emptied_folder(folder: Path) -> Iterator[int]:
    """Lock the folder, made if there is none, remove what lies there, and give the lock's descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK_NAME
    strangers = [child.name for child in folder.iterdir()] if not path.exists() else []
    if strangers:
        raise LocalClusterError(f"{folder} holds {strangers[0]}, and is not a folder of a cluster: give another one")
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pids = " ".join((folder / "pids").read_text().split()) if (folder / "pids").exists() else ""
            hint = f"; its nodes are the processes {pids}" if pids else ""
            raise LocalClusterError(f"a cluster in {folder} still runs{hint}: stop it first") from None
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child != path:
                child.unlink()
        yield lock.fileno()


@contextmanager
def free_ports() -> Iterator[int]:
    """Give the first port of a block that nobody uses, and keep other clusters out of it."""
    for first_port in range(_FIRST_PORT, _LAST_PORT, _BLOCK_PORTS):
        with ExitStack() as stack:
            try:
                stack.enter_context(bound_socket(first_port + _GUARD, is_shared=False))
                with ExitStack() as probes:
                    for offset in range(3 * _NODE_PORTS):
                        probes.enter_context(bound_socket(first_port + offset, is_shared=True))
            except OSError:
                continue
            stack = stack.pop_all()
        with stack:
            yield first_port
        return
    raise LocalClusterError(f"no {_BLOCK_PORTS} free ports between {_FIRST_PORT} and {_LAST_PORT} on 127.0.0.1")


def bound_socket(port: int, *, is_shared: bool) -> socket.socket:
    opened = socket.socket()
    try:
        if is_shared:
            # What is left of an earlier node's connections does not count as use; a listener does.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("127.0.0.1", port))
    except OSError:
        opened.close()
        raise
    return opened


def configure(folder: Path, size: int, first_port: int) -> dict[int, LocalNode]:
    """Write the configuration of each node."""
    ports = {number: first_port + _NODE_PORTS * (number - 1) for number in range(1, size + 1)}
    initial_nodes = [
        f'  {{ id = {number}, peer = "127.0.0.1:{port + 2}", client = "ws://127.0.0.1:{port}" }},'
        for number, port in ports.items()
    ]
    nodes = {}
    for number, port in ports.items():
        config_file = folder / f"node{number}.toml"
        lines = [
            *_table("node", {"id": number, "data_dir": str(folder / f"node{number}")}),
            *_table("cluster", {"name": "local", "size": size}),
            "initial_nodes = [",
            *initial_nodes,
            "]",
            *_table("listeners.client", {"host": "127.0.0.1", "port": port}),
            *_table("listeners.admin", {"host": "127.0.0.1", "port": port + 1}),
            *_table("listeners.peer", {"host": "127.0.0.1", "port": port + 2}),
            *_table("storage", _STORAGE),
            *_table("timeouts", _TIMEOUTS),
        ]
        config_file.write_text("\n".join(lines) + "\n")
        nodes[number] = LocalNode(
            number=number,
            config_file=config_file,
            log_file=folder / f"node{number}.log",
            client_url=f"ws://127.0.0.1:{port}",
            admin_url=f"http://127.0.0.1:{port + 1}",
        )
    return nodes


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    # JSON's strings and numbers are TOML's too.
    return ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
