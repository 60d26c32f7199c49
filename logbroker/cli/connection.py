"""Reaching a cluster: the options every client command has, and one connected client for its work.

The client library is imported when it is needed, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import rich_click as click

from logbroker.cli.parameters import DURATION
from logbroker.errors import ConfigurationError, LogBrokerError, UnavailableError

if TYPE_CHECKING:
    import ssl

    from logbroker_client import Client

DEFAULT_URL = "ws://127.0.0.1:4100"
MAX_TOKEN_FILE_BYTES = 4_096

Result = TypeVar("Result")
# Click's callbacks take whatever options the command has.
Command = TypeVar("Command", bound=Callable[..., Any])


@final
@dataclass(frozen=True, slots=True)
class Connection:
    """Where the cluster is and who asks."""

    urls: tuple[str, ...]
    token: str
    timeout_ms: int
    ca_file: Path | None = None

    def __repr__(self) -> str:
        # The token must not get into a traceback.
        return f"Connection(urls={self.urls!r}, timeout_ms={self.timeout_ms})"

    def run(self, work: Callable[[Client], Awaitable[Result]]) -> Result:
        """Connect, do `work` with the client, and close it.

        Raises:
            LogBrokerError: what the work met; `UnavailableError` itself only where no node could be reached.
        """
        import trio

        return trio.run(self._run, work)

    async def _run(self, work: Callable[[Client], Awaitable[Result]]) -> Result:
        from logbroker_client import connect

        try:
            async with connect(
                list(self.urls), token=self.token, timeout=self.timeout_ms / 1000, tls=self._tls(), name="logbroker-cli"
            ) as client:
                return await work(client)
        except BaseExceptionGroup as group:
            raise _only_cause(group) from group

    def _tls(self) -> ssl.SSLContext | None:
        if self.ca_file is None:
            return None
        import ssl

        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"CA file {self.ca_file} cannot be used: {error}") from error


def connection_options(command: Command) -> Command:
    """Give a command the options of a client, and hand them to it as one `connection`."""

    @click.option(
        "--url",
        "urls",
        multiple=True,
        envvar="LOGBROKER_URL",
        default=[DEFAULT_URL],
        show_default=True,
        metavar="URL",
        help="A node of the cluster, ws:// or wss://; repeatable. LOGBROKER_URL takes several, with blanks.",
    )
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
        "--timeout",
        "timeout_ms",
        type=DURATION,
        default="10s",
        show_default=True,
        help="How long to try before giving up.",
    )
    @wraps(command)
    def wrapped(
        *args: Any,  # noqa: ANN401  click's
        urls: tuple[str, ...],
        token: str,
        token_file: Path | None,
        ca_file: Path | None,
        timeout_ms: int,
        **options: Any,  # noqa: ANN401  click's
    ) -> object:
        shown = token or (read_token(token_file) if token_file is not None else "")
        return command(*args, connection=Connection(urls, shown, timeout_ms, ca_file), **options)

    return wrapped  # type: ignore[return-value]  # the same command, with other options


def read_token(path: Path) -> str:
    """Give the token in the file at `path`.

    Raises:
        ConfigurationError: it cannot be read, or holds no single word.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_FILE_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"token file {path} cannot be read: {error}") from error
    if len(text.split()) != 1 or len(text) > MAX_TOKEN_FILE_BYTES:
        raise ConfigurationError(f"token file {path} does not hold one token")
    return text


def _only_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Take the domain error out of the groups that nurseries wrap it in; anything else stays a group."""
    errors = group.exceptions
    if len(errors) == 1:
        return _only_cause(errors[0]) if isinstance(errors[0], BaseExceptionGroup) else errors[0]
    known = [error for error in errors if isinstance(error, LogBrokerError)]
    if len(known) == len(errors):
        return next((error for error in known if not isinstance(error, UnavailableError)), known[0])
    return group
