"""The folder, the ports and the configurations of a cluster on this machine, without its processes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from logbroker.config import load_settings
from tools.local_cluster import LocalCluster, LocalClusterError, configure, emptied_folder, free_ports, local_cluster

if TYPE_CHECKING:
    from pathlib import Path


def test_every_node_gets_a_configuration_that_loads_and_agrees_with_the_others(tmp_path: Path) -> None:
    nodes = configure(tmp_path, 3, 5000)
    loaded = [load_settings(config_file=node.config_file).settings for node in nodes.values()]
    assert [settings.node.id for settings in loaded] == [1, 2, 3]
    assert len({settings.cluster.fingerprint() for settings in loaded}) == 1
    assert len({settings.node.data_dir for settings in loaded}) == 3
    assert [settings.client_url for settings in loaded] == [node.client_url for node in nodes.values()]
    assert [settings.admin_url for settings in loaded] == [node.admin_url for node in nodes.values()]
    ports = {
        port
        for settings in loaded
        for port in (settings.listeners.client.port, settings.listeners.admin.port, settings.listeners.peer.port)
    }
    assert len(ports) == 9
    assert not any(settings.warnings() for settings in loaded)


def test_a_folder_is_emptied_when_it_is_taken_again(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    with emptied_folder(folder):
        (folder / "node1").mkdir()
        (folder / "node1" / "old").touch()
        (folder / "pids").write_text("1\n")
    with emptied_folder(folder):
        assert [child.suffix for child in folder.iterdir()] == [".lock"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("all my work")
    with pytest.raises(LocalClusterError, match=r"holds thesis\.tex"), emptied_folder(tmp_path):
        pass
    assert precious.read_text() == "all my work"


def test_a_folder_in_use_is_refused_with_the_processes_that_use_it(tmp_path: Path) -> None:
    with emptied_folder(tmp_path):
        (tmp_path / "pids").write_text("71\n72\n")
        with pytest.raises(LocalClusterError, match="its nodes are the processes 71 72"), emptied_folder(tmp_path):
            pass
        assert (tmp_path / "pids").exists()


def test_two_clusters_never_share_ports() -> None:
    with free_ports() as one, free_ports() as other:
        assert abs(one - other) >= 100


def test_a_block_with_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # No real ports: those of the machine may be taken by anybody at any time.
    taken = {4112, 4299}

    def bind(port: int, *, is_shared: bool) -> socket.socket:
        if port in taken:
            raise OSError(f"port {port} is in use")
        return socket.socket()

    monkeypatch.setattr("tools.local_cluster.bound_socket", bind)
    with free_ports() as found:
        assert found == 4300


def test_there_may_be_no_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(port: int, *, is_shared: bool) -> socket.socket:
        raise OSError(f"port {port} is in use")

    monkeypatch.setattr("tools.local_cluster.bound_socket", bind)
    with pytest.raises(LocalClusterError, match="no 100 free ports between 4100 and 9900"), free_ports():
        pass


async def test_a_node_that_cannot_start_is_shown_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure_badly(folder: Path, size: int, first_port: int) -> object:
        nodes = configure(folder, size, first_port)
        with nodes[1].config_file.open("a") as file:
            file.write("nonsense = true\n")
        return nodes

    monkeypatch.setattr("tools.local_cluster.configure", configure_badly)
    told: list[str] = []

    async def run() -> LocalCluster:
        async with local_cluster(tmp_path / "cluster", size=1, tell=told.append) as cluster:
            return cluster

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    failure = raised.value.exceptions[0]
    assert isinstance(failure, LocalClusterError)
    assert "node 1 is not ready: the process has ended" in str(failure)
    assert "nonsense" in str(failure)
