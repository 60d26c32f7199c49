"""Real nodes for end-to-end tests: in this process, with real sockets, threads and files."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from logbroker.config import load_settings
from logbroker.server.main import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from logbroker.config import Settings

QUICK: dict[str, object] = {
    "raft.tick_ms": 10,
    "raft.heartbeat_ms": 20,
    "raft.election_ms": 100,
    "storage.wal_file_bytes": 8 << 20,
    # One in a hundred of a large disk, for each test that is kept, would fill it.
    "storage.ballast_min_bytes": 1 << 20,
    "storage.ballast_percent": 0.0,
    "timeouts.drain_ms": 2_000,
}
"""Timers of a node that has its machine almost to itself, so that tests need not wait for elections."""


def single(folder: Path, **flags: Any) -> Settings:  # noqa: ANN401  values of any setting
    """Settings of a single node on free ports; a double underscore in a name stands for the dot."""
    given = {name.replace("__", "."): value for name, value in flags.items()}
    ports = {"listeners.client.port": 0, "listeners.admin.port": 0, "listeners.peer.port": 0}
    return load_settings(flags={**QUICK, **ports, "node.data_dir": folder / "data", **given}, use_file=False).settings


@asynccontextmanager
async def running(settings: Settings, *, deadline_s: float = 60.0) -> AsyncIterator[tuple[Server, Settings]]:
    """Run a node; gives it with its settings, ports filled in. It ends gracefully."""
    server = Server(settings)
    with trio.fail_after(deadline_s):
        async with trio.open_nursery() as nursery:
            bound: Settings = await nursery.start(partial(server.run, handles_signals=False))
            yield server, bound
            server.stop()


def port_of(settings: Settings) -> int:
    return settings.listeners.client.port
