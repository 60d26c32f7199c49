"""The contexts that a configuration asks for, and a cluster that speaks through them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from logbroker.config import Settings
from logbroker.errors import ConfigurationError
from logbroker.ids import NodeId
from logbroker.node.peer_tls import peer_tls
from tests.node_kit.nodes import running_nodes, until

if TYPE_CHECKING:
    from pathlib import Path

CA = trustme.CA()


def tls_files(root: Path, number: int) -> dict[str, object]:
    certificate = CA.issue_cert(f"node-{number}.test")
    root.mkdir(exist_ok=True)
    paths = {"tls_cert": root / f"{number}.pem", "tls_key": root / f"{number}.key", "tls_ca": root / "ca.pem"}
    certificate.cert_chain_pems[0].write_to_path(str(paths["tls_cert"]))
    certificate.private_key_pem.write_to_path(str(paths["tls_key"]))
    CA.cert_pem.write_to_path(str(paths["tls_ca"]))
    return dict(paths)


def settings(listener: dict[str, object]) -> Settings:
    return Settings.model_validate({"cluster": {"name": "test"}, "listeners": {"peer": listener}})


def test_without_certificates_peers_speak_in_the_clear() -> None:
    assert peer_tls(settings({})) is None


def test_both_sides_ask_for_a_certificate_of_the_clusters_own_authority(tmp_path: Path) -> None:
    tls = peer_tls(settings(tls_files(tmp_path, 1)))
    assert tls is not None
    assert tls.dialling.check_hostname
    for context in (tls.dialling, tls.accepting):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert tls.name_of(NodeId(7)) == "node-7.test"


@pytest.mark.parametrize("broken", ["tls_cert", "tls_key", "tls_ca"])
@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, broken: str, content: str | None) -> None:
    files = tls_files(tmp_path, 1)
    path = tmp_path / "broken"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"{path}.*cannot be used"):
        peer_tls(settings({**files, broken: path}))


async def test_nodes_found_a_cluster_through_mutual_tls(tmp_path: Path) -> None:
    async with running_nodes(tmp_path / "data", 3) as nodes:
        for number in (1, 2, 3):
            nodes.listener[number] = tls_files(tmp_path / "tls", number)
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        await until(lambda: not any(nodes.problems().values()), f"no problems; {nodes.problems()}")
