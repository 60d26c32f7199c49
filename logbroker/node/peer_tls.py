"""Mutual TLS between nodes: the cluster's own CA on both sides, and a name in the certificate that is the node's."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from logbroker.errors import ConfigurationError
from logbroker.node.peers import PeerTls

if TYPE_CHECKING:
    from logbroker.config import Settings
    from logbroker.ids import NodeId


def peer_tls(settings: Settings) -> PeerTls | None:
    """The contexts that the configuration asks for, or None where peers speak in the clear.

    Raises:
        ConfigurationError: a file is missing or is not what it should be.
    """
    listener = settings.listeners.peer
    if listener.tls_cert is None or listener.tls_key is None or listener.tls_ca is None:
        return None
    contexts = []
    for purpose in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(purpose)
        # Both ends are of this program: nothing older has to be spoken.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(listener.tls_cert, listener.tls_key)
            context.load_verify_locations(listener.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"listeners.peer: certificate {listener.tls_cert}, key {listener.tls_key} or CA {listener.tls_ca} "
                f"cannot be used: {error}"
            ) from error
        contexts.append(context)
    name = settings.cluster.name

    def name_of(node: NodeId) -> str:
        return f"node-{node}.{name}"

    return PeerTls(contexts[0], contexts[1], name_of)
