"""What a comparison needs of a system: three nodes on loopback, queues replicated to all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT_S = 20.0
NODE_NUMBERS = (1, 2, 3)


class BenchError(Exception):
    """A measurement cannot be taken; says why."""


class System(ABC):
    """Implementations start what they need in `start`, and leave no process behind after `stop`."""

    name: str
    driver: str
    """Module of the client process."""
    sync: str
    """When a node has synced what it counts as stored."""

    @classmethod
    @abstractmethod
    def why_absent(cls) -> str:
        """Say what is missing on this machine; empty when it can be started."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """Say what differs from the defaults of the system's own packages."""

    @abstractmethod
    def start(self) -> None:
        """Start three nodes without data, and wait until they are one cluster."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def pids(self) -> list[int]:
        """Give the servers' processes, those of dead nodes left out."""

    @abstractmethod
    def data_folders(self) -> list[Path]: ...

    @abstractmethod
    def create_queue(self, name: str, *, spread: int = 0) -> None:
        """Make a queue on three nodes; with `spread` 0, 1, 2 its leader is on different nodes, where one can say."""

    @abstractmethod
    def delete_queue(self, name: str) -> None: ...

    @abstractmethod
    def endpoints(self, queue: str) -> list[str]:
        """Say where clients of a queue connect: the node that leads it first."""

    def consumer_endpoints(self, queue: str) -> list[str]:
        """Say where its consumers connect, if that is another node."""
        return self.endpoints(queue)

    def command(self, job: str) -> list[str]:
        return [sys.executable, "-m", self.driver, job]


@final
class Server:
    """One server process in a session of its own, its output in a file."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process.poll() is None else 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to end; `wait` afterwards."""
        if self.pid:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Wait for its end, and make one after `timeout_s`. Its session goes with it: some start helpers."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def wait_until(is_true: Callable[[], bool], *, what: str, timeout_s: float, poll_s: float = 0.1) -> None:
    """Poll until something holds.

    Raises:
        BenchError: it does not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(poll_s)
