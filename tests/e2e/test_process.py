"""A node as a process: its signals, its exit codes, and the command line against it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.processes import cluster

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.processes import NodeProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def call(node: NodeProcess, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run a command against the node; gives its exit code, and all that it wrote."""
    with trio.fail_after(30):
        done = await trio.run_process(
            [sys.executable, "-m", "logbroker", *arguments, "--url", node.url],
            stdin=stdin,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode, done.stdout.decode()


async def test_the_command_line_makes_a_queue_fills_it_and_empties_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as nodes:
        node = nodes.nodes[1]
        assert (await call(node, "queue", "create", "orders", "--partitions", "2"))[0] == 0
        code, text = await call(node, "produce", "orders", stdin=b"one\ntwo\n")
        assert code == 0, text
        code, text = await call(node, "consume", "orders", "--count", "2")
        assert code == 0, text
        assert "one" in text
        assert "two" in text
        code, text = await call(node, "queue", "describe", "orders", "-o", "json")
        assert code == 0, text
        code, text = await call(node, "rewind", "orders", "--to", "earliest", "--yes")
        assert code == 0, text
        code, text = await call(node, "status")
        assert (code, "no problems" in text) == (0, True), text
        code, text = await call(node, "queue", "describe", "nothing")
        assert code == 5, text


async def test_the_first_signal_ends_gracefully_and_certificates_are_read_again_on_hangup(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as nodes:
        node = nodes.nodes[1]
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.process.send_signal(signal.SIGINT)
        assert await node.wait() == 0, node.read_log()
        log = node.read_log()
        assert "tls_reloaded" in log
        assert "stopping signal=2" in log
        assert "node_stopped" in log
        assert "Traceback" not in log


async def test_a_second_signal_does_not_wait_for_a_handover_that_cannot_come(tmp_path: Path) -> None:
    async with cluster(tmp_path, extra="[timeouts]\ndrain_ms = 60_000\n") as nodes:
        with trio.fail_after(30):
            code, text = await call(
                nodes.nodes[1], "queue", "create", "orders", "--partitions", "3", "--timeout", "20s"
            )
        assert code == 0, text
        for node in (2, 3):
            nodes.nodes[node].kill()
            await nodes.nodes[node].wait()
        last = nodes.nodes[1]
        last.terminate()
        # Two signals of a kind that nobody has taken yet are one.
        await last.wait_log("stopping signal=15")
        last.terminate()
        code = await last.wait()
        # It may have led nothing, and then there was nothing to hand over.
        assert code in {0, 128 + signal.SIGTERM}, last.read_log()
        assert "Traceback" not in last.read_log()


async def test_a_data_directory_in_use_is_refused_with_an_error_and_code_1(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as nodes:
        node = nodes.nodes[1]
        with trio.fail_after(30):
            done = await trio.run_process(
                [
                    *(sys.executable, "-m", "logbroker", "serve", "--config", str(node.config)),
                    *("--set", "listeners.client.port=0", "--set", "listeners.admin.port=0"),
                    *("--set", "listeners.peer.port=0"),
                ],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == 1
        assert "error:" in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
