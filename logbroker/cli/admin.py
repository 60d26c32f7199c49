"""Calls to a node's admin listener, for what concerns one node and not the cluster: probes, bootstrap, clock.

These work where there is no leader yet, so they cannot go through the client protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, final

import rich_click as click

from logbroker.cli.connection import read_token
from logbroker.cli.parameters import DURATION
from logbroker.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

DEFAULT_ADMIN_URL = "http://127.0.0.1:4101"
MAX_REPLY_BYTES = 16 << 20

# Click's callbacks take whatever options the command has.
Command = TypeVar("Command", bound=Callable[..., Any])

_ERRORS: dict[int, type[LogBrokerError]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: AlreadyExistsError,
}


@final
@dataclass(frozen=True, slots=True)
class AdminNode:
    """The admin listener of one node."""

    url: str
    token: str = ""
    timeout_ms: int = 10_000
    ca_file: Path | None = None

    def __repr__(self) -> str:
        return f"AdminNode(url={self.url!r})"

    def get(self, path: str) -> tuple[int, str]:
        """Ask for a page; give status and text."""
        return self._send("GET", path, b"")

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """Have something done; give what the node says of it.

        Raises:
            LogBrokerError: the node refused, by the kind that its status stands for, or cannot be reached.
        """
        status, text = self._send("POST", path, json.dumps(body).encode())
        try:
            reply = json.loads(text) if text.strip() else {}
        except ValueError:
            reply = {}
        said = reply if isinstance(reply, dict) else {}
        if 200 <= status < 300:
            return said
        error = said.get("error")
        error = error if isinstance(error, dict) else {}
        message = str(error.get("message") or f"{self.url}{path} answered with status {status}")
        raise _ERRORS.get(status, UnavailableError)(message, hint=str(error.get("hint") or ""))

    def _send(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgumentError(f"{self.url!r} is not the address of an admin listener", hint=DEFAULT_ADMIN_URL)
        headers = {"Content-Type": "application/json"} if body else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = self._connection(parts.scheme, parts.hostname, parts.port)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body=body or None, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.read(MAX_REPLY_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"the admin listener at {self.url} cannot be reached: {error}", hint="give it with --admin-url"
            ) from error
        finally:
            connection.close()

    def _connection(self, scheme: str, host: str, port: int | None) -> Any:  # noqa: ANN401  one of two kinds, by import
        import http.client
        import ssl

        timeout_s = self.timeout_ms / 1000
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def admin_options(command: Command) -> Command:
    """Give a command the options of an admin call, and hand them to it as one `node`."""

    @click.option(
        "--admin-url",
        envvar="LOGBROKER_ADMIN_URL",
        default=DEFAULT_ADMIN_URL,
        show_default=True,
        metavar="URL",
        help="The admin listener of the node.",
    )
    @access_options
    @wraps(command)
    def wrapped(*args: Any, admin_url: str, node: AdminNode, **options: Any) -> object:  # noqa: ANN401  click's
        return command(*args, node=replace(node, url=admin_url), **options)

    return wrapped  # type: ignore[return-value]  # the same command, with other options


def access_options(command: Command) -> Command:
    """As `admin_options`, for a command that has its own way to name nodes: the `node` is at the usual address."""

    @click.option("--token", envvar="LOGBROKER_TOKEN", default="", metavar="TOKEN", help="Better in LOGBROKER_TOKEN.")
    @click.option(
        "--token-file",
        envvar="LOGBROKER_TOKEN_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File that holds the token.",
    )
    @click.option(
        "--ca-file",
        envvar="LOGBROKER_CA_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="CA to trust in place of the system's.",
    )
    @click.option(
        "--timeout", "timeout_ms", type=DURATION, default="10s", show_default=True, help="How long to wait for it."
    )
    @wraps(command)
    def wrapped(
        *args: Any,  # noqa: ANN401  click's
        token: str,
        token_file: Path | None,
        ca_file: Path | None,
        timeout_ms: int,
        **options: Any,  # noqa: ANN401  click's
    ) -> object:
        shown = token or (read_token(token_file) if token_file is not None else "")
        return command(*args, node=AdminNode(DEFAULT_ADMIN_URL, shown, timeout_ms, ca_file), **options)

    return wrapped  # type: ignore[return-value]  # the same command, with other options
