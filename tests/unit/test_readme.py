"""What README.md shows works: its program runs, its commands are commands, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

import pytest
import rich_click as click
import trio

from logbroker.cli.main import cli
from tests.fake_broker import FakeCluster, serve_node

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DEADLINE_S = 20.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("logbroker ")]


@pytest.fixture
def url() -> Iterator[str]:
    """A broker of one node, served by a thread of its own."""
    cluster = FakeCluster()
    cluster.add_queue("orders")
    started: Queue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = Queue()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_node, cluster.nodes[1]))
            started.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    token, scope = started.get(timeout=DEADLINE_S)
    try:
        yield cluster.nodes[1].url
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(DEADLINE_S)


def test_the_first_program_sends_receives_and_acks(url: str) -> None:
    [program] = blocks("python")
    assert "ws://127.0.0.1:4100" in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace("ws://127.0.0.1:4100", url)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout == "orders/0/0\nb'one order' 1\n"


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one(line: str) -> None:
    words = re.split(r" [<>|] ", " ".join(shlex.split(line, comments=True, posix=False)))[0]
    [_, *args] = shlex.split(words)
    command: click.Command = cli
    while isinstance(command, click.Group):
        command, args = command.commands[args[0]], args[1:]
    command.make_context(command.name, args)


def test_links_inside_the_repository_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []
