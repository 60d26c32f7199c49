"""TLS contexts of the three listeners and of links to other nodes, and who a peer's certificate says it is.

Node N of cluster NAME has a certificate for the DNS name `node-N.NAME` from the cluster's own CA. Both sides of a peer
link check it: the one that connects by that name, whatever the address it dials; the one that listens by what the
certificate lists. A client's certificate, of whatever CA, names no node and so cannot speak Raft.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from logbroker.errors import ConfigurationError, UnauthenticatedError
from logbroker.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from logbroker.config.settings import Listener


def node_name(node: NodeId, cluster: str) -> str:
    """The DNS name that stands in the certificate of a node."""
    return f"node-{node}.{cluster}"


def server_context(listener: Listener) -> ssl.SSLContext | None:
    """Make the context of a listener; None where it has no TLS. With `tls_ca` the other side must show a certificate.

    Raises:
        ConfigurationError: a file cannot be read, or key and certificate do not belong together.
    """
    if listener.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, listener)
    if listener.tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def peer_client_context(listener: Listener) -> ssl.SSLContext | None:
    """Make the context for connecting to other nodes, from the peer listener's files; None where it has no TLS.

    Connect with `server_hostname=node_name(...)`: that is what binds the address to a node.

    Raises:
        ConfigurationError: as `server_context`.
    """
    if listener.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, listener)
    return context


def peer_of(certificate: Mapping[str, object] | None, cluster: str) -> NodeId:
    """Say which node a verified certificate, as `getpeercert()` gives it, belongs to.

    Raises:
        UnauthenticatedError: it names no node of this cluster, or more than one.
    """
    names = {name for kind, name in _alternative_names(certificate) if kind == "DNS"}
    nodes = {node for name in names if (node := _node_in(name, cluster)) is not None}
    if len(nodes) != 1:
        raise UnauthenticatedError(
            f"the certificate names {len(nodes)} nodes of cluster {cluster}, not one; it is for {sorted(names)}",
            hint=f"a node's certificate is for one DNS name node-N.{cluster}",
        )
    return nodes.pop()


def _alternative_names(certificate: Mapping[str, object] | None) -> Iterable[tuple[str, str]]:
    names = (certificate or {}).get("subjectAltName", ())
    return names if isinstance(names, tuple) else ()


def _node_in(name: str, cluster: str) -> NodeId | None:
    host, _, domain = name.partition(".")
    number = host.removeprefix("node-")
    # One spelling a node, or two certificates could stand for the same one.
    if domain != cluster or not number.isascii() or not number.isdecimal() or host != f"node-{int(number)}":
        return None
    return NodeId(int(number))


def _load(context: ssl.SSLContext, listener: Listener) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files: tuple[Path | None, ...] = (listener.tls_cert, listener.tls_key, listener.tls_ca)
    try:
        context.load_cert_chain(str(listener.tls_cert), str(listener.tls_key))
        if listener.tls_ca is not None:
            context.load_verify_locations(str(listener.tls_ca))
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(path) for path in files if path is not None)
        raise ConfigurationError(f"TLS files {named} cannot be used: {error}") from error
