"""Where settings come from: precedence, origins, and what is refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from logbroker.config import loading
from logbroker.config.loading import file_warnings, load_settings, parse_assignment
from logbroker.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LOGBROKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "DEFAULT_FILES", (loading.DEFAULT_FILES[0],))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_any_source_everything_is_a_default() -> None:
    loaded = load_settings()
    assert loaded.file is None
    assert {origin for _, _, origin in loaded.values()} == {"default"}


def test_a_flag_beats_the_environment_which_beats_a_secret_file_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "x.toml", "[raft]\nelection_ms = 2000\ntick_ms = 50\nheartbeat_ms = 200\n")
    secret = write(tmp_path / "secret", "3000\n")

    def election() -> tuple[int, str]:
        loaded = load_settings(config_file=file, flags=flags)
        return loaded.settings.raft.election_ms, loaded.origin("raft.election_ms")

    flags: dict[str, object] = {}
    assert election() == (2000, f"file {file}")
    monkeypatch.setenv("LOGBROKER_RAFT__ELECTION_MS_FILE", str(secret))
    assert election() == (3000, "env LOGBROKER_RAFT__ELECTION_MS_FILE")
    monkeypatch.setenv("LOGBROKER_RAFT__ELECTION_MS", "4000")
    assert election() == (4000, "env LOGBROKER_RAFT__ELECTION_MS")
    flags["raft.election_ms"] = 5000
    assert election() == (5000, "flag")
    # What only the lower layers say still counts.
    assert load_settings(config_file=file, flags=flags).settings.raft.heartbeat_ms == 200


def test_the_file_is_the_flag_then_the_variable_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write(tmp_path / "logbroker.toml", "[node]\nid = 3\n")
    named = write(tmp_path / "named.toml", "[node]\nid = 4\n")
    flag = write(tmp_path / "flag.toml", "[node]\nid = 5\n")
    assert load_settings().settings.node.id == 3
    assert load_settings().file == here.relative_to(tmp_path)
    monkeypatch.setenv("LOGBROKER_CONFIG", str(named))
    assert load_settings().settings.node.id == 4
    assert load_settings(config_file=flag).settings.node.id == 5


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.toml does not exist"):
        load_settings(config_file=tmp_path / "no.toml")
    monkeypatch.setenv("LOGBROKER_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match="is not a file"):
        load_settings()


@pytest.mark.parametrize("content", [b"[node", b"node = 1\nnode = 2", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"configuration file .*bad\.toml: "):
        load_settings(config_file=tmp_path / "bad.toml")


def test_an_unknown_key_is_refused_with_its_origin_and_a_guess(tmp_path: Path) -> None:
    file = write(tmp_path / "x.toml", "[raft]\ntick_m = 50\n")
    with pytest.raises(ConfigurationError) as raised:
        load_settings(config_file=file)
    assert raised.value.message == f"raft.tick_m: unknown key (from file {file}); did you mean 'tick_ms'?"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LOGBROKER_RAFT__TICK_M", "raft.tick_m: unknown key (from env LOGBROKER_RAFT__TICK_M)"),
        ("LOGBROKER_RAFTT__TICK_MS", "env LOGBROKER_RAFTT__TICK_MS: no section 'raftt'; did you mean 'raft'?"),
        ("LOGBROKER_LISTENERS__CLIENT__PROT", "did you mean 'port'?"),
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert message in raised.value.message


def test_variables_of_the_command_line_and_of_kubernetes_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGBROKER_URL", "LOGBROKER_PORT_4100_TCP", "LOGBROKER_SERVICE_HOST"):
        monkeypatch.setenv(name, "tcp://10.0.0.1")
    assert {origin for _, _, origin in load_settings().values()} == {"default"}


def test_each_fault_has_its_own_line_with_value_bound_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGBROKER_RAFT__TICK_MS", "5")
    with pytest.raises(ConfigurationError) as raised:
        load_settings(flags={"limits.max_wait_ms": 40_000})
    tick, wait = raised.value.message.splitlines()
    assert tick.startswith(
        "raft.tick_ms: Input should be greater than or equal to 10, not '5' (from env LOGBROKER_RAFT"
    )
    assert wait == "limits.max_wait_ms: Input should be less than or equal to 30000, not 40000 (from flag)"


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"id": n, "peer": f"n{n}:4102"} for n in (1, 2, 3)]
    monkeypatch.setenv("LOGBROKER_CLUSTER__INITIAL_NODES", json.dumps(nodes))
    monkeypatch.setenv("LOGBROKER_CLUSTER__SIZE", "3")
    monkeypatch.setenv("LOGBROKER_NODE__ID", "2")
    loaded = load_settings()
    assert loaded.settings.peer_address == "n2:4102"
    assert loaded.origin("cluster.initial_nodes") == "env LOGBROKER_CLUSTER__INITIAL_NODES"


def test_a_table_in_the_environment_is_json_and_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGBROKER_RAFT", '{"tick_ms": 50}')
    loaded = load_settings()
    assert loaded.settings.raft.tick_ms == 50
    assert loaded.origin("raft.tick_ms") == "env LOGBROKER_RAFT"


def test_json_that_is_not_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGBROKER_CLUSTER__INITIAL_NODES", "[{")
    with pytest.raises(ConfigurationError, match=r"environment: .*cluster"):
        load_settings()


def test_a_list_may_stand_in_a_file_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "nodes.json", '[{"id": 1, "peer": "n1:4102"}]')
    monkeypatch.setenv("LOGBROKER_CLUSTER__INITIAL_NODES_FILE", str(file))
    assert load_settings().settings.cluster.initial_nodes[0].peer == "n1:4102"


def test_a_secret_file_that_cannot_be_used_is_refused_by_the_name_of_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGBROKER_NODE__ID_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"LOGBROKER_NODE__ID_FILE: .*cannot be read"):
        load_settings()
    monkeypatch.setattr(loading, "MAX_SECRET_FILE_BYTES", 3)
    write(tmp_path / "none", "1234")
    with pytest.raises(ConfigurationError, match="larger than 3 bytes"):
        load_settings()


def test_a_setting_that_is_itself_a_path_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "root", "lb1_secret")
    monkeypatch.setenv("LOGBROKER_AUTH__ROOT_TOKEN_FILE", str(file))
    loaded = load_settings()
    assert loaded.settings.auth.root_token_file == file
    assert "lb1_secret" not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raft.tick_ms=50", ("raft.tick_ms", "50")),
        ("a.b = x=y ", ("a.b", "x=y")),
        ('listeners.client.allowed_origins=["https://a"]', ("listeners.client.allowed_origins", ["https://a"])),
    ],
)
def test_an_assignment_is_taken_apart(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["raft.tick_ms", "=4", "a.b=[1"])
def test_an_assignment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_assignment(text)


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="raft is a value and not a table"):
        load_settings(flags={"raft": "x", "raft.tick_ms": 1})


def test_a_secret_that_others_can_read_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "root", "t")
    file.chmod(0o600)
    settings = load_settings(flags={"auth.root_token_file": str(file)}).settings
    assert file_warnings(settings) == []
    file.chmod(0o644)
    assert "mode 0644" in file_warnings(settings)[0]
    file.unlink()
    assert "cannot be read" in file_warnings(settings)[0]
