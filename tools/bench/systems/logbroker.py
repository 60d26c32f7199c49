"""Three nodes of this repository, with the settings that a node has by default."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

import trio

from logbroker.cli.admin import AdminNode
from logbroker.config.settings import StorageSettings
from logbroker.errors import LogBrokerError
from logbroker.wire.masking import is_native
from logbroker_client import connect
from tools.bench.systems.system import BenchError, Server, System, wait_until
from tools.local_cluster import LocalNode, configure, emptied_folder, free_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from logbroker_client import Client

_R = TypeVar("_R")

ROOT = Path(__file__).resolve().parents[3]
_READY_TIMEOUT_S = 60.0
_LEADER_TIMEOUT_S = 30.0


@final
class Logbroker(System):
    name = "logbroker"
    driver = "tools.bench.drivers.logbroker"
    sync = "fdatasync on a majority before the confirmation; so are leases and acks"

    def __init__(self, folder: Path, *, size: int = 3, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are by environment variable without prefix, like LIMITS__MAX_PARTITIONS."""
        self._folder = folder
        self._size = size
        self._extra = dict(settings or {})
        self._nodes: dict[int, LocalNode] = {}
        self._servers: dict[int, Server] = {}
        self._lock = -1
        self._stack = ExitStack()

    @classmethod
    def why_absent(cls) -> str:
        return ""

    def version(self) -> str:
        """The package's version, and the commit where there is one."""
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return " ".join([version("logbroker"), described.stdout.strip()]).strip()

    def settings(self) -> Mapping[str, str]:
        # The extra `speed` is for users too; a figure says whether it was there.
        masks = {"masks": "in C"} if is_native else {}
        return {"ballast": "64 MiB", **masks, **self._extra}

    def start(self) -> None:
        stack = self._stack = ExitStack()
        self._lock = stack.enter_context(emptied_folder(self._folder))
        first_port = stack.enter_context(free_ports())
        self._nodes = configure(self._folder, self._size, first_port)
        for number in self._nodes:
            self.start_node(number)
        for number in self._nodes:
            self.wait_ready(number)

    def start_node(self, number: int) -> None:
        """Start a node that does not run; it is not ready when this returns."""
        node = self._nodes[number]
        self._servers[number] = Server(
            [sys.executable, "-m", "logbroker", "serve", "--config", str(node.config_file)],
            log=node.log_file,
            environment={**_storage_defaults(), **{f"LOGBROKER_{k}": v for k, v in self._extra.items()}},
            # The folder stays locked while a node lives.
            pass_fds=[self._lock],
        )

    def wait_ready(self, number: int) -> None:
        node, server = self._nodes[number], self._servers[number]

        def is_ready() -> bool:
            if not server.pid:
                raise BenchError(f"node {number} has ended:\n{server.last_words()}")
            try:
                status, _ = AdminNode(node.admin_url, timeout_ms=2_000).get("/readyz")
            except LogBrokerError:
                return False
            return status == 200

        try:
            wait_until(is_ready, what=f"node {number} is ready", timeout_s=_READY_TIMEOUT_S)
        except BenchError as error:
            raise BenchError(f"{error}\n{server.last_words()}") from None

    def kill_node(self, number: int) -> None:
        self._servers[number].kill()

    def pid(self, number: int) -> int:
        return self._servers[number].pid

    def stop(self) -> None:
        for server in self._servers.values():
            server.terminate()
        for server in self._servers.values():
            server.wait()
        self._servers.clear()
        self._stack.close()

    def pids(self) -> list[int]:
        return [server.pid for server in self._servers.values() if server.pid]

    def data_folders(self) -> list[Path]:
        return [self._folder / f"node{number}" for number in self._nodes]

    def urls(self) -> list[str]:
        return [node.client_url for node in self._nodes.values()]

    def metrics(self, number: int) -> str:
        """Give the page of counters of a node."""
        return AdminNode(self._nodes[number].admin_url).get("/metrics")[1]

    def create_queue(self, name: str, *, spread: int = 0) -> None:
        self.create_partitions(name, 1)

    def create_partitions(self, name: str, partitions: int) -> None:
        """Make a queue, and wait until each partition has a leader."""

        async def create(client: Client) -> None:
            await client.create_queue(name, partitions=partitions)

        async def leaders(client: Client) -> dict[int, int]:
            return await self._leaders(client, name)

        self.ask(create)
        wait_until(
            lambda: all(self.ask(leaders).values()),
            what=f"each of {partitions} partitions of {name} has a leader",
            timeout_s=_LEADER_TIMEOUT_S + 0.1 * partitions,
        )

    async def _leaders(self, client: Client, name: str) -> dict[int, int]:
        described = await client.describe_queue(name)
        return {partition.partition: partition.leader for partition in described.partitions}

    def leader(self, name: str) -> int:
        """Give the node that leads the first partition; 0 while none does."""

        async def ask(client: Client) -> int:
            return (await self._leaders(client, name))[0]

        return self.ask(ask)

    def delete_queue(self, name: str) -> None:
        async def delete(client: Client) -> None:
            await client.delete_queue(name)

        self.ask(delete)

    def ask(self, what: Callable[[Client], Awaitable[_R]]) -> _R:
        """Run something with a client connected."""

        async def run() -> _R:
            async with connect(self.urls()) as client:
                return await what(client)

        return trio.run(run)

    def endpoints(self, queue: str) -> list[str]:
        return self.urls()


def _storage_defaults() -> dict[str, str]:
    """A cluster on a laptop is configured smaller; what is measured is what an operator gets by default."""
    defaults = StorageSettings(ballast_percent=0.0)
    return {f"LOGBROKER_STORAGE__{key.upper()}": str(value) for key, value in defaults.model_dump().items()}
