"""Addresses of nodes, whom to trust there, and what their close codes mean: the same on every event loop."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import truststore

from logbroker.errors import (
    ConfigurationError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    OverloadedError,
    RemoteProtocolError,
    ShuttingDownError,
    UnauthenticatedError,
    UnavailableError,
)
from logbroker_client.options import ClientOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

DEFAULT_PORTS = {"ws": 80, "wss": 443}

# What a server means by its close codes; others are a lost connection like any.
_CLOSE_ERRORS: dict[int, type[LogBrokerError]] = {
    1001: ShuttingDownError,
    1002: RemoteProtocolError,
    1003: RemoteProtocolError,
    1007: RemoteProtocolError,
    1009: RemoteProtocolError,
    1012: ShuttingDownError,
    1013: OverloadedError,
    4400: RemoteProtocolError,
    4401: UnauthenticatedError,
    4403: ForbiddenError,
    4429: OverloadedError,
}


class ConnectSettings(TypedDict, total=False):
    """What `connect` takes beside addresses, on every event loop. Times are in seconds."""

    token: str | None
    name: str
    """What this client is called in the traces of the server."""
    timeout: float
    """How long an operation is tried before its outcome counts as unknown: 30."""
    connect_timeout: float
    """For one connection, up to the server's welcome: 5."""
    close_timeout: float
    """How long leaving may take beyond what is unsettled: 2."""
    ping_interval: float
    """A connection that is silent for two of these is given up: 5."""
    tls: ssl.SSLContext | Literal["system"] | None
    """ "system" trusts what the operating system trusts; None takes Python's default."""


def system_trust() -> ssl.SSLContext:
    """A context that trusts what the operating system trusts."""
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def check_url(url: str) -> None:
    """Raises ConfigurationError unless `url` is one of a logbroker node."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
        # What no name server can be asked would fail where the connection is made, as somebody else's error.
        (parts.hostname or "").encode("idna")
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigurationError(f"{url!r} is no address of a node", hint="write ws://host:4100 or wss://host:4100")


def checked_urls(url: str | Sequence[str]) -> list[str]:
    """The addresses that `connect` was given.

    Raises:
        InvalidArgumentError: there is none.
        ConfigurationError: one is no address of a node.
    """
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise InvalidArgumentError("there is no address to connect to")
    for one in urls:
        check_url(one)
    return urls


def closed_error(code: int, reason: str | None) -> LogBrokerError:
    """What a close frame means for the link that it ends."""
    text = f"the connection ended with code {code}" + (f": {reason}" if reason else "")
    return _CLOSE_ERRORS.get(code, UnavailableError)(text)


def options_of(settings: ConnectSettings) -> ClientOptions:
    """The settings in the core's words."""
    named = {_OPTION_NAMES[name]: value for name, value in settings.items() if name in _OPTION_NAMES}
    # The types of each are those of its namesake.
    return ClientOptions(**{**named, "token": settings.get("token") or ""})  # type: ignore[arg-type]


_OPTION_NAMES = {
    "name": "name",
    "timeout": "timeout_s",
    "connect_timeout": "connect_timeout_s",
    "close_timeout": "close_timeout_s",
    "ping_interval": "ping_interval_s",
}


def trust_of(settings: ConnectSettings) -> ssl.SSLContext | None:
    """Whom to trust; None is Python's default."""
    tls = settings.get("tls")
    return system_trust() if tls == "system" else tls
