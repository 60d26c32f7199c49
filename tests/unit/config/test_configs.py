"""Every configuration file of the project loads, and the published schema is the present one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from logbroker.config.loading import load_settings, schema_text

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = sorted(CONFIGS.rglob("*.toml"))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LOGBROKER_")]:
        monkeypatch.delenv(name)


def test_the_published_schema_is_made_from_the_settings() -> None:
    how = "run `logbroker config schema --write configs/logbroker.schema.json`"
    assert (CONFIGS / "logbroker.schema.json").read_text() == schema_text(), how


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_each_file_loads_and_points_editors_to_the_schema(file: Path) -> None:
    assert load_settings(config_file=file).file == file
    assert file.read_text().startswith("#:schema ../logbroker.schema.json\n")


def test_the_three_nodes_agree_on_the_cluster_and_on_nothing_that_must_differ() -> None:
    nodes = [load_settings(config_file=CONFIGS / "three_node" / f"node{n}.toml").settings for n in (1, 2, 3)]
    assert {node.cluster.size for node in nodes} == {3}
    assert len({node.cluster.fingerprint() for node in nodes}) == 1
    assert len({node.node.data_dir for node in nodes}) == 3
    ports = [getattr(node.listeners, name).port for node in nodes for name in ("client", "admin", "peer")]
    assert len(set(ports)) == 9
    for node in nodes:
        assert node.peer_address == node.listeners.peer.address
        assert node.client_url == f"ws://{node.listeners.client.address}"


def test_the_image_sets_only_what_there_is_and_does_not_run_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (CONFIGS.parent / "Dockerfile").read_text().splitlines()
    given = dict(re.findall(r"(LOGBROKER_\w+__\w+)=(\S+)", "\n".join(lines)))
    assert given
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(use_file=False).settings
    assert settings.node.data_dir == Path("/data")
    assert f"{settings.admin_url}/livez" in "\n".join(lines)
    assert [line for line in lines if line.startswith("USER ")] == ["USER logbroker"]
