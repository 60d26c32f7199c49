"""RabbitMQ: quorum queues on three nodes, persistent messages, publisher confirms."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, final

from tools.bench.drivers.amqp import Channel
from tools.bench.systems.system import NODE_NUMBERS, BenchError, Server, System, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

_AMQP_PORT, _LINK_PORT, _MAPPER_PORT = 9_950, 9_960, 9_949
_START_TIMEOUT_S = 90.0
_CTL_TIMEOUT_S = 100.0
# Three virtual machines share the cores: none of them may spin while it has nothing to do. That helps RabbitMQ.
_SCHEDULERS = "+sbwt none +sbwtdcpu none +sbwtdio none"


@final
class RabbitMq(System):
    name = "rabbitmq"
    driver = "tools.bench.drivers.amqp"
    sync = "WAL fdatasync on a majority before the confirmation"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[int, Server] = {}
        self._nodes: dict[str, int] = {}

    @classmethod
    def why_absent(cls) -> str:
        return "" if _programs() is not None else "no RabbitMQ (on Debian: apt-get install rabbitmq-server)"

    def version(self) -> str:
        programs = _programs()
        return "" if programs is None else programs.parent.name.partition("-")[2]

    def settings(self) -> Mapping[str, str]:
        return {"schedulers": _SCHEDULERS, "log level": "warning", "plugins": "none"}

    def start(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        home = self._folder / "home"
        home.mkdir(parents=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self._folder / "plugins").write_text("[].\n")
        (self._folder / "advanced.config").write_text("[].\n")
        discovery = "cluster_formation.peer_discovery_backend = classic_config\n"
        nodes = "".join(f"cluster_formation.classic_config.nodes.{i} = {_node(i)}\n" for i in NODE_NUMBERS)
        (self._folder / "rabbitmq.conf").write_text(f"log.file.level = warning\n{discovery}{nodes}")
        # The first one makes the cluster; two that start at once might make two.
        for numbers in (NODE_NUMBERS[:1], NODE_NUMBERS[1:]):
            for number in numbers:
                self._boot(number)
            for number in numbers:
                self._wait_started(number)
        wait_until(lambda: self._running_count() == 3, what="three RabbitMQ nodes are one cluster", timeout_s=30)

    def _boot(self, number: int) -> None:
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        self._servers[number] = Server(
            [str(_require_programs() / "rabbitmq-server")],
            log=folder / "output",
            environment={
                **self._environment(),
                "RABBITMQ_NODENAME": _node(number),
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(_AMQP_PORT + number),
                "RABBITMQ_DIST_PORT": str(_LINK_PORT + number),
                "RABBITMQ_MNESIA_BASE": str(folder / "data"),
                "RABBITMQ_LOG_BASE": str(folder / "log"),
                "RABBITMQ_PID_FILE": str(folder / "pid"),
                "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
                "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
                "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
                "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {_SCHEDULERS}",
            },
        )

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self._folder / "home"),
            "ERL_EPMD_PORT": str(_MAPPER_PORT),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }

    def _control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(_require_programs() / "rabbitmqctl"), "-q", *arguments],
            env={**os.environ, **self._environment()},
            capture_output=True,
            text=True,
            timeout=_CTL_TIMEOUT_S,
            check=False,
        )

    def _wait_started(self, number: int) -> None:
        server = self._servers[number]

        def is_up() -> bool:
            if not server.pid:
                raise BenchError(f"RabbitMQ node {number} has ended:\n{server.last_words()}")
            return self._control("-n", _node(number), "await_startup", "--timeout", "10").returncode == 0

        wait_until(is_up, what=f"RabbitMQ node {number} is up", timeout_s=_START_TIMEOUT_S)

    def _running_count(self) -> int:
        answer = self._control("-n", _node(1), "eval", "length(rabbit_nodes:all_running()).")
        return int(answer.stdout) if answer.returncode == 0 else 0

    def stop(self) -> None:
        # Taken before: a node removes its pid file as soon as it begins to stop.
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for server in self._servers.values():
            server.wait()
        self._servers.clear()
        # The port mapper outlives the nodes that started it.
        with suppress(OSError, subprocess.TimeoutExpired):
            environment = {**os.environ, **self._environment()}
            subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, timeout=10, check=False)

    def pids(self) -> list[int]:
        """The virtual machines; the scripts that started them do nothing any more."""
        pids = []
        for number, server in self._servers.items():
            path = self._folder / str(number) / "pid"
            if server.pid and path.exists():
                pids.append(int(path.read_text()))
        return pids

    def kill_node(self, number: int) -> None:
        os.kill(int((self._folder / str(number) / "pid").read_text()), signal.SIGKILL)
        self._servers[number].wait()

    def data_folders(self) -> list[Path]:
        return [self._folder / str(number) for number in NODE_NUMBERS]

    def create_queue(self, name: str, *, spread: int = 0) -> None:
        """The node that declares a queue leads it."""
        self._nodes[name] = NODE_NUMBERS[spread % 3]
        channel = Channel(self.endpoints(name)[0])
        channel.declare(name, {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3})
        channel.stream.close()

    def delete_queue(self, name: str) -> None:
        channel = Channel(self.endpoints(name)[0])
        channel.delete(name)
        channel.stream.close()

    def endpoints(self, queue: str) -> list[str]:
        first = self._nodes[queue]
        order = [first, *(number for number in NODE_NUMBERS if number != first)]
        return [f"127.0.0.1:{_AMQP_PORT + number}" for number in order]


def _node(number: int) -> str:
    return f"bench{number}@localhost"


def _programs() -> Path | None:
    """Where RabbitMQ's own scripts lie; those of Debian's package insist on its user and its folders."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
    if found:
        return found[-1]
    name = shutil.which("rabbitmq-server")
    return Path(name).resolve().parent if name else None


def _require_programs() -> Path:
    programs = _programs()
    if programs is None:
        raise BenchError(RabbitMq.why_absent())
    return programs
