"""`tools/retention` as a process, against a real node: it explains, changes nothing by itself, does what it is told."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from logbroker.cli.exits import Exit
from logbroker_client import connect
from tests.e2e.kit import running, single

if TYPE_CHECKING:
    from logbroker.config import Settings
    from logbroker_client import Client

ROOT = Path(__file__).resolve().parents[2]


async def tool(settings: Settings, *args: str) -> tuple[int, str, str]:
    """Run it; gives exit code, stdout and stderr."""
    done = await trio.run_process(
        [sys.executable, "-m", "tools.retention_kit", *args],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "LOGBROKER_URL": settings.client_url, "LOGBROKER_ADMIN_URL": settings.admin_url},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def fill(client: Client, queue: str) -> None:
    """More than the write-ahead log keeps, so that there are files."""
    chance = random.Random(7)
    async with client.producer(queue) as producer:
        for _ in range(16):
            await producer.send_many([chance.randbytes(1_000) for _ in range(1_000)])


async def test_it_explains_changes_nothing_and_then_does_what_it_is_told(tmp_path: Path) -> None:
    settings = single(tmp_path, storage__segment_bytes=2 << 20)
    async with running(settings, deadline_s=100) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        await fill(client, "orders")

        code, text, _ = await tool(bound, "-o", "json")
        assert code == Exit.OK
        (found,) = json.loads(text)
        files: dict[str, Any] = found["kept_bytes"]
        assert (found["messages"], found["retention_ms"]) == (16_000, 4 * 86_400_000)
        assert files["1"] > 0
        week, in_the_end = found["steps"][-2:]
        assert week["messages"] == in_the_end["messages"] == {"about": 16_000, "least": 16_000, "most": 16_000}
        assert week["unsettled"]["default"]["least"] == 16_000
        assert in_the_end["freed_bytes"] == files
        assert found["steps"][1]["messages"]["most"] == 0

        code, text, words = await tool(bound, "orders", "--set", "2d")
        assert code == Exit.DIFFERS
        assert "with 2d in place of 4d" in text
        assert "Nothing was changed" in words
        assert (await client.describe_queue("orders")).info.settings.retention_ms == 4 * 86_400_000

        code, _, words = await tool(bound, "orders", "--set", "2d", "--yes")
        assert code == Exit.OK
        assert "orders: messages are kept for 2d" in words
        assert (await client.describe_queue("orders")).info.settings.retention_ms == 2 * 86_400_000
        assert (await tool(bound, "orders", "--set", "2d"))[0] == Exit.OK


async def test_without_an_admin_listener_there_are_counts_and_a_warning(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        async with client.producer("orders") as producer:
            await producer.send(b"one")
        code, text, words = await tool(bound, "orders", "--admin-url", "http://127.0.0.1:1")
        assert code == Exit.OK
        assert "sizes are not known" in words
        assert "default 1" in text
        code, _, words = await tool(bound, "nothing", "-o", "json")
        assert code == Exit.NOT_FOUND
        assert json.loads(words)["error"]["code"] == "NOT_FOUND"
