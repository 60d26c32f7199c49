"""Where the nodes live: a network namespace each, joined by a bridge in one more, in which the clients are.

Nothing here has an address outside of these namespaces, and all of it goes with the last process in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, final

import trio

from tools.chaos_kit.kernel import CLONE_NEWNET, enter_network, unshare
from tools.chaos_kit.shaper import TUN_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 254
"""The last byte of the address at which the clients are."""

_NET = "10.99.0"
_ROUTE = f"{_NET}.0/24"
Rules = dict[tuple[int, int], dict[str, float]]
"""What happens to packets from one host to another; see `shaper`."""


class Network(Protocol):
    """How nodes are reached, and how what they say gets lost."""

    @property
    def can_shape(self) -> bool:
        """Whether packets can be lost and held up here."""
        ...

    def host(self, node: int) -> str:
        """The address of a node."""
        ...

    def port(self, node: int, offset: int) -> int:
        """A port of a node: 0 clients, 1 admin, 2 peers."""
        ...

    def enter(self, node: int) -> tuple[Sequence[str], Sequence[int]]:
        """What to put before a command to run it where the node lives, and the descriptors it needs."""
        ...

    async def shape(self, rules: Rules) -> None:
        """From when this returns, do with packets as the rules say and with nothing else."""
        ...


@final
class Loopback:
    """All nodes on 127.0.0.1: where there are no namespaces to be had."""

    can_shape = False

    def __init__(self, ports: Mapping[int, Sequence[int]]) -> None:
        self._ports = ports

    def host(self, node: int) -> str:
        del node
        return "127.0.0.1"

    def port(self, node: int, offset: int) -> int:
        return self._ports[node][offset]

    def enter(self, node: int) -> tuple[Sequence[str], Sequence[int]]:
        del node
        return (), ()

    async def shape(self, rules: Rules) -> None:
        if rules:
            raise RuntimeError(f"{len(rules)} rules for packets on loopback")
        await trio.lowlevel.checkpoint()


@final
class Namespaces:
    """A namespace for each node; this process is in the one of the clients. Made by `namespaces`."""

    def __init__(self, handles: Mapping[int, int], shaper: subprocess.Popen[bytes] | None) -> None:
        self._handles = handles
        self._shaper = shaper
        self._shaped: set[int] = set()

    @property
    def can_shape(self) -> bool:
        return self._shaper is not None

    def host(self, node: int) -> str:
        return f"{_NET}.{node}"

    def port(self, node: int, offset: int) -> int:
        del node
        return 4100 + offset

    def enter(self, node: int) -> tuple[Sequence[str], Sequence[int]]:
        handle = self._handles[node]
        return ("nsenter", f"--net=/proc/self/fd/{handle}", "--"), (handle,)

    async def shape(self, rules: Rules) -> None:
        wanted = {source for source, _ in rules}
        # Rules before routes: a packet that comes by a shaper without rules would only be late.
        await self._tell([[source, target, rule] for (source, target), rule in rules.items()])
        for host in sorted(wanted ^ self._shaped):
            verb = "add" if host in wanted else "del"
            await self._run(host, ["ip", "route", verb, _ROUTE, "dev", TUN_NAME, "metric", "10"])
        self._shaped = wanted

    async def _run(self, host: int, command: Sequence[str]) -> None:
        prefix, handles = self.enter(host) if host != CLIENTS else ((), ())
        source = ["src", f"{_NET}.{host}"] if "add" in command else []
        await trio.run_process([*prefix, *command, *source], pass_fds=handles, capture_stderr=True)

    async def _tell(self, rules: list[object]) -> None:
        shaper = self._shaper
        if shaper is None or shaper.stdin is None or shaper.stdout is None:
            raise RuntimeError("there is nothing here that shapes packets")
        stdin, stdout = shaper.stdin, shaper.stdout
        line = json.dumps(rules).encode() + b"\n"

        def tell() -> bytes:
            stdin.write(line)
            stdin.flush()
            return stdout.readline()

        if await trio.to_thread.run_sync(tell) != b"ok\n":
            raise RuntimeError("the shaper of packets has ended")


@contextmanager
def namespaces(nodes: Sequence[int], *, log: IO[bytes], with_shaper: bool) -> Iterator[Namespaces]:
    """Make the namespaces; the calling thread must be the only one, and lives in the clients' from here on.

    Raises:
        OSError, subprocess.CalledProcessError: this user may not, or `ip` is missing.
    """
    unshare(CLONE_NEWNET)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    handles: dict[int, int] = {}
    shaper: subprocess.Popen[bytes] | None = None
    try:
        _ip("link set lo up", "link add hub type bridge", "link set hub up", *_address(CLIENTS, "hub"))
        for node in nodes:
            handles[node] = _new_namespace(home)
            place = f"/proc/{os.getpid()}/fd/{handles[node]}"
            _ip(
                f"link add v{node} type veth peer name e{node}",
                f"link set v{node} master hub up",
                f"link set e{node} netns {place}",
            )
            enter_network(handles[node])
            _ip("link set lo up", f"link set e{node} name eth0", "link set eth0 up", *_address(node, "eth0"))
            enter_network(home)
        if with_shaper:
            shaper = _start_shaper({**handles, CLIENTS: home}, log)
            for host, handle in {**handles, CLIENTS: home}.items():
                del host
                enter_network(handle)
                _ip(f"link set {TUN_NAME} up")
                enter_network(home)
        yield Namespaces(handles, shaper)
    finally:
        if shaper is not None:
            shaper.kill()
            shaper.wait()
            for pipe in (shaper.stdin, shaper.stdout):
                if pipe is not None:
                    pipe.close()
        for handle in (home, *handles.values()):
            os.close(handle)


def _address(host: int, device: str) -> list[str]:
    # The route is one of our own, so that another with a lower metric can stand before it.
    return [
        f"addr add {_NET}.{host}/24 dev {device} noprefixroute",
        f"route add {_ROUTE} dev {device} metric 100 src {_NET}.{host}",
    ]


def _new_namespace(home: int) -> int:
    unshare(CLONE_NEWNET)
    handle = os.open("/proc/self/ns/net", os.O_RDONLY)
    # Packets come in over one device while the way back leads over another.
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    enter_network(home)
    return handle


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), capture_output=True, check=True)


def _start_shaper(handles: Mapping[int, int], log: IO[bytes]) -> subprocess.Popen[bytes]:
    arguments = [f"{host}:{handle}:{'hub' if host == CLIENTS else 'eth0'}" for host, handle in handles.items()]
    shaper = subprocess.Popen(
        [sys.executable, "-m", "tools.chaos_kit.shaper", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        pass_fds=list(handles.values()),
        cwd=ROOT,
        start_new_session=True,
    )
    if shaper.stdout is None or shaper.stdout.readline() != b"ready\n":
        shaper.kill()
        raise OSError("the shaper of packets does not start")
    return shaper
