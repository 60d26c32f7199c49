"""Commands about one node: serve, dev, config, doctor, bootstrap, clock."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from logbroker.config import schema_text
from tests.unit.cli.kit import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.config import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that nodes were started with; none really is."""
    started: list[Settings] = []
    module = ModuleType("logbroker.server.main")
    module.run = started.append  # type: ignore[attr-defined]  # stands in for the server
    monkeypatch.setitem(sys.modules, "logbroker.server.main", module)
    return started


class Admin(BaseHTTPRequestHandler):
    """Answers as `answers` says, by path, and remembers what came."""

    answers: dict[str, tuple[int, str]]
    asked: list[tuple[str, str, str | None, str]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.asked.append((self.command, self.path, self.headers.get("Authorization"), body))
        status, text = self.answers.get(self.path, (404, '{"error": {"message": "no such page"}}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[tuple[str, type[Admin]]]:
    """The URL of an admin listener on loopback, and what it answers."""
    handler = type("Handler", (Admin,), {"answers": {}, "asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


def test_serve_starts_a_node_with_flags_over_the_file(served: list[Settings], tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[node]\nid = 4\n[raft]\nelection_ms = 3000\n")
    ran = run("serve", "--config", str(file), "--node-id", "7", "--data-dir", "d", "--set", "raft.tick_ms=50")
    assert ran.code == 0
    (settings,) = served
    assert (settings.node.id, settings.node.data_dir, settings.raft.tick_ms, settings.raft.election_ms) == (
        7,
        Path("d"),
        50,
        3000,
    )
    assert ran.err == "warning: cluster.size is 1: what is acknowledged is on one disk only\n"


def test_a_node_does_not_start_with_a_configuration_that_is_wrong(served: list[Settings]) -> None:
    ran = run("serve", "--set", "listeners.client.host=0.0.0.0")
    assert (ran.code, served) == (1, [])
    assert "insecure = true" in ran.err
    assert run("serve", "--set", "raft.tick_m=5").code == 1
    assert run("serve", "--set", "nonsense").code == 1


def test_dev_is_one_node_on_loopback_that_leaves_nothing_behind(served: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "logbroker.toml").write_text("[node]\nid = 9\n")
    ran = run("dev", "--port", "5100")
    (settings,) = served
    assert ran.code == 0
    assert (settings.client_url, settings.admin_url, settings.peer_address) == (
        "ws://127.0.0.1:5100",
        "http://127.0.0.1:5101",
        "127.0.0.1:5102",
    )
    assert settings.node.id == 1, "no file is read"
    assert not settings.node.data_dir.exists()
    assert "ws://127.0.0.1:5100" in ran.err


def test_dev_keeps_its_data_where_it_is_told_to(served: list[Settings], tmp_path: Path) -> None:
    run("dev", "--data-dir", str(tmp_path / "play"), "--set", "log.level=debug")
    assert (served[0].node.data_dir, served[0].log.level) == (tmp_path / "play", "debug")


def test_config_show_says_where_each_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[[cluster.initial_nodes]]\nid = 1\npeer = "a:1"\n')
    env = {"LOGBROKER_RAFT__ELECTION_MS": "2000"}
    ran = run("config", "show", "--origin", "-c", str(file), "--set", "raft.tick_ms=50", "-o", "json", env=env)
    rows = {row["key"]: (row["value"], row["origin"]) for row in ran.json()}
    assert rows["raft.tick_ms"] == (50, "flag")
    assert rows["raft.election_ms"] == (2000, "env LOGBROKER_RAFT__ELECTION_MS")
    assert rows["cluster.initial_nodes"] == ([{"id": 1, "peer": "a:1", "client": None}], f"file {file}")
    assert rows["node.data_dir"] == ("data", "default")
    assert "origin" not in run("config", "show", "-o", "ndjson").lines()[0]
    assert run("config", "show", "--origin").out.splitlines()[0].split() == ["key", "value", "origin"]


def test_config_check_tells_warnings_from_faults(tmp_path: Path) -> None:
    ran = run("config", "check", "-o", "json")
    assert (ran.code, len(ran.json())) == (6, 1)
    (tmp_path / "logbroker.toml").write_text("[node]\nid = 0\n")
    ran = run("config", "check")
    assert ran.code == 1
    assert "node.id" in ran.err
    assert "file logbroker.toml" in ran.err


def test_the_schema_and_the_limits_can_be_written(tmp_path: Path) -> None:
    assert run("config", "schema").out == schema_text()
    assert run("config", "schema", "--write", "s.json").out == ""
    assert (tmp_path / "s.json").read_text() == schema_text()
    assert "| `limits.max_wait_ms` |" in run("config", "limits").out


def test_a_bootstrap_without_nodes_is_an_operators_word_to_one_node(admin: tuple[str, type[Admin]]) -> None:
    url, page = admin
    page.answers["/api/v1/bootstrap"] = (200, '{"state": "started"}')
    args = ("bootstrap", "--without", "3", "--without", "2", "--admin-url", url)
    ran = run(*args, "--yes", "-o", "json", env={"LOGBROKER_TOKEN": "lb1_x"})
    assert (ran.code, ran.json()) == (0, {"state": "started"})
    assert page.asked == [("POST", "/api/v1/bootstrap", "Bearer lb1_x", '{"without": [2, 3]}')]
    assert run(*args).code == 2, "it would have asked"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (409, '{"error": {"message": "this node is in a cluster", "hint": "look"}}', 8),
        (403, '{"error": {"message": "no"}}', 4),
        (404, "not json", 5),
        (400, "[]", 2),
        (500, '{"error": "x"}', 3),
    ],
)
def test_a_refusal_of_the_node_keeps_its_words(
    admin: tuple[str, type[Admin]], status: int, body: str, code: int
) -> None:
    url, page = admin
    page.answers["/api/v1/clock/accept"] = (status, body)
    ran = run("clock", "accept", "--yes", "--admin-url", url, "-o", "json")
    assert ran.code == code
    error = json.loads(ran.err)["error"]
    assert error["message"] in (
        f"{url}/api/v1/clock/accept answered with status {status}",
        "this node is in a cluster",
        "no",
    )


def test_a_node_that_is_not_there_cannot_be_reached() -> None:
    ran = run("clock", "accept", "--yes", "--admin-url", "http://127.0.0.1:1")
    assert ran.code == 3
    assert "cannot be reached" in ran.err
    assert run("clock", "accept", "--yes", "--admin-url", "ws://127.0.0.1:1").code == 2


def test_the_doctor_finds_a_healthy_node_healthy(admin: tuple[str, type[Admin]], tmp_path: Path) -> None:
    url, page = admin
    page.answers |= {"/livez": (200, "ok"), "/readyz?verbose": (200, "[+]raft ok")}
    (tmp_path / "data").mkdir(mode=0o700)
    port = url.rpartition(":")[2]
    ran = run("doctor", "--set", f"listeners.admin.port={port}", "-o", "json")
    verdicts = {row["check"]: row["verdict"] for row in ran.json()}
    assert verdicts["node"] == "ok"
    assert verdicts["room"] in ("ok", "warning", "failed"), "as this disk is"


def test_the_doctor_names_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    ran = run("doctor", "--set", "listeners.admin.port=1", "-o", "json")
    found = {row["check"]: row for row in ran.json()}
    assert found["data directory"]["detail"].endswith("has mode 0755")
    assert found["node"]["hint"] == "is it started?"
    assert ran.code in (1, 6)
    broken = run("doctor", "--set", "node.id=0", "-o", "json")
    assert (broken.code, [row["verdict"] for row in broken.json()]) == (1, ["failed"])


def test_the_doctor_sees_a_node_that_is_not_ready(admin: tuple[str, type[Admin]]) -> None:
    url, page = admin
    page.answers |= {"/livez": (200, "ok"), "/readyz?verbose": (503, "[-]raft no leader")}
    port = url.rpartition(":")[2]
    found = {row["check"]: row for row in run("doctor", "--set", f"listeners.admin.port={port}", "-o", "json").json()}
    assert found["node"]["detail"] == "not ready (503): [-]raft no leader"
    page.answers["/livez"] = (500, "")
    ran = run("doctor", "--set", f"listeners.admin.port={port}", "-o", "json")
    assert ran.code == 1
