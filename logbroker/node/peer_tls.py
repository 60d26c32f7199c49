"""Mutual TLS between nodes: the cluster's own CA on both sides, and a name in the certificate that is the node's."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

from logbroker.node.peers import PeerTls
from logbroker.node.tls import node_name, peer_client_context, server_context

if TYPE_CHECKING:
    from logbroker.config import Settings


def peer_tls(settings: Settings) -> PeerTls | None:
    """The contexts that the configuration asks for, or None where peers speak in the clear.

    Raises:
        ConfigurationError: a file is missing or is not what it should be.
    """
    listener = settings.listeners.peer
    dialling, accepting = peer_client_context(listener), server_context(listener)
    if dialling is None or accepting is None:
        return None
    for context in (dialling, accepting):
        # Both ends are of this program: nothing older has to be spoken, and both must say who they are.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
    return PeerTls(dialling, accepting, partial(node_name, cluster=settings.cluster.name))
