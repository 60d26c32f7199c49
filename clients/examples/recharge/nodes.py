"""How the example gets at the nodes of a cluster, to kill one and bring it back."""

from __future__ import annotations

import shlex
import subprocess
from typing import Protocol, final

import trio


class NodeControlError(Exception):
    """A node could not be killed or brought back."""


class NodeControl(Protocol):
    async def kill(self, node: int, /) -> None:
        """Kill a node without any warning to it; when this returns it is dead."""
        ...

    async def restart(self, node: int, /) -> None:
        """Start a node that was killed; when this returns it is ready for clients."""
        ...


@final
class CommandControl:
    """Nodes killed and restarted by commands, in which `{node}` stands for the node's number."""

    def __init__(self, kill_command: str, restart_command: str) -> None:
        self._kill_command = kill_command
        self._restart_command = restart_command

    async def kill(self, node: int) -> None:
        await self._run(self._kill_command, node)

    async def restart(self, node: int) -> None:
        await self._run(self._restart_command, node)

    async def _run(self, command: str, node: int) -> None:
        words = [word.replace("{node}", str(node)) for word in shlex.split(command)]
        try:
            done = await trio.run_process(words, check=False, stdin=subprocess.DEVNULL, capture_stderr=True)
        except OSError as error:
            raise NodeControlError(f"{shlex.join(words)}: {error}") from error
        if done.returncode:
            said = (done.stderr or b"").decode(errors="replace").strip()[-500:]
            raise NodeControlError(f"{shlex.join(words)} ended with {done.returncode}: {said}")
