"""TLS: who gets in, and who a certificate says it is. The handshakes run in memory, without sockets."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from logbroker.config.settings import ClientListener, PeerListener
from logbroker.errors import ConfigurationError, UnauthenticatedError
from logbroker.ids import NodeId
from logbroker.node.tls import node_name, peer_client_context, peer_of, server_context

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """A CA that writes certificates as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def listener(self, *names: str, trusts: Authority | None = None) -> PeerListener:
        certificate = self.ca.issue_cert(*names)
        stem = names[0]
        certificate.private_key_pem.write_to_path(str(self.folder / f"{stem}.key"))
        chain = self.folder / f"{stem}.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        return PeerListener(
            tls_cert=chain, tls_key=self.folder / f"{stem}.key", tls_ca=(trusts or self).folder / "ca.pem"
        )


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Let both talk until they agree; the server's side of the connection."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    asking = client.wrap_bio(to_client, to_server, server_hostname=name)
    # Under TLS 1.3 the client is done first; what the server thinks of its certificate comes after.
    for side in (asking, serving, asking, serving, asking, serving):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    serving.do_handshake()
    return serving


def link(server: PeerListener, client: PeerListener, *, to: int, cluster: str = "test") -> NodeId:
    """Connect as a node would; the node that the server sees."""
    listening, dialing = server_context(server), peer_client_context(client)
    assert listening is not None
    assert dialing is not None
    connection = handshake(listening, dialing, node_name(NodeId(to), cluster))
    return peer_of(connection.getpeercert(), cluster)


def test_two_nodes_of_a_cluster_know_each_other(ours: Authority) -> None:
    assert link(ours.listener("node-1.test"), ours.listener("node-2.test"), to=1) == 2


def test_a_node_of_another_authority_is_not_let_in(ours: Authority, theirs: Authority) -> None:
    with pytest.raises(ssl.SSLError):
        link(ours.listener("node-1.test"), theirs.listener("node-2.test", trusts=ours), to=1)


def test_a_server_of_another_authority_is_not_believed(ours: Authority, theirs: Authority) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        link(theirs.listener("node-1.test"), ours.listener("node-2.test"), to=1)


def test_a_node_that_stands_at_another_ones_address_is_found_out(ours: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        link(ours.listener("node-3.test"), ours.listener("node-2.test"), to=1)


def test_a_client_certificate_of_the_same_authority_names_no_node(ours: Authority) -> None:
    with pytest.raises(UnauthenticatedError, match="names 0 nodes of cluster test"):
        link(ours.listener("node-1.test"), ours.listener("ann.example"), to=1)


def test_a_node_without_a_certificate_is_not_let_in(ours: Authority) -> None:
    listening = server_context(ours.listener("node-1.test"))
    assert listening is not None
    asking = ssl.create_default_context(cafile=str(ours.folder / "ca.pem"))
    with pytest.raises(ssl.SSLError):
        handshake(listening, asking, "node-1.test")


def test_clients_need_no_certificate_unless_an_authority_is_named(ours: Authority) -> None:
    peer = ours.listener("broker.test")
    plain = server_context(ClientListener(tls_cert=peer.tls_cert, tls_key=peer.tls_key))
    assert plain is not None
    assert handshake(plain, ssl.create_default_context(cafile=str(peer.tls_ca)), "broker.test").getpeercert() is None


def test_old_versions_of_tls_are_off(ours: Authority) -> None:
    peer = ours.listener("node-1.test")
    for context in (server_context(peer), peer_client_context(peer)):
        assert context is not None
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_listener_without_certificates_has_no_context() -> None:
    assert server_context(ClientListener()) is None
    assert peer_client_context(PeerListener()) is None


def test_files_that_do_not_fit_are_named(ours: Authority, theirs: Authority) -> None:
    first, second = ours.listener("node-1.test"), theirs.listener("node-2.test")
    mixed = first.model_copy(update={"tls_key": second.tls_key})
    with pytest.raises(ConfigurationError, match=r"node-1\.test\.pem"):
        server_context(mixed)
    with pytest.raises(ConfigurationError, match=r"none\.pem"):
        peer_client_context(first.model_copy(update={"tls_ca": ours.folder / "none.pem"}))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["node-1.other"],
        ["node-1"],
        ["node-01.test"],
        ["node-+1.test"],
        ["node-\u0661.test"],
        ["node-.test"],
        ["x.node-1.test"],
        ["node-1.test.example"],
        ["node-1.test", "node-2.test"],
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_node_of_the_cluster_is_refused(names: list[str]) -> None:
    with pytest.raises(UnauthenticatedError):
        peer_of({"subjectAltName": tuple(("DNS", name) for name in names)}, "test")


def test_other_kinds_of_names_do_not_count() -> None:
    assert peer_of({"subjectAltName": (("email", "node-2.test"), ("DNS", "node-1.test"), ("DNS", "x"))}, "test") == 1
    with pytest.raises(UnauthenticatedError):
        peer_of(None, "test")
