"""A node as a process: it listens, starts the broker, and ends when it is told to.

The first signal ends it gracefully: nothing new is taken, leadership is handed over, waiters are answered, connections
are closed with 1001. A second one cancels all of that; only writes that were handed to the disk are finished.
"""

from __future__ import annotations

import gc
import logging
import resource
import secrets
import signal
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from logbroker.errors import ConfigurationError, LogBrokerError
from logbroker.node.broker import Broker
from logbroker.node.tls import server_context
from logbroker.node.tokens import read_root_token
from logbroker.server.admin import AdminListener
from logbroker.server.listener import ClientListener
from logbroker.server.logs import configure_logging
from logbroker.server.rewinds import RewindDriver
from logbroker.server.service import ClientService

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from logbroker.config import Listener, Settings

logger = logging.getLogger(__name__)

SIGNALLED = 128
"""Added to a signal's number: the exit code of a process that a second signal has cut short."""


def run(settings: Settings) -> int:
    """Run a node until it is stopped; gives the exit code.

    Raises:
        LogBrokerError: it could not start, or its store failed.
    """
    configure_logging(settings.log)
    raise_open_files()
    calm_collector()
    try:
        return trio.run(partial(Server(settings).run, announce=_print_line))
    except BaseExceptionGroup as group:
        failure = _only_failure(group)
        if failure is None:
            raise
        raise failure from group


def _print_line(line: str) -> None:
    print(line, flush=True)


def raise_open_files() -> None:
    """Allow this process as many open files as it may have: connections and segments are files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            logger.warning("open_files_limit soft=%d hard=%d reason=%r", soft, hard, str(error))


def calm_collector() -> None:
    """Let Python's collector of circles look less often, and not at what was there before the node.

    What a node makes for a message is freed by counting references. The collector looks for the rest every 700
    objects by default, and now and then through all that there is, for milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@final
class TlsContexts:
    """The contexts of the two listeners that people and clients reach; both can be read again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.client: ssl.SSLContext | None = None
        self.admin: ssl.SSLContext | None = None
        self.load()

    def load(self) -> None:
        """Read the files.

        Raises:
            ConfigurationError: they cannot be used; the contexts are as before.
        """
        listeners = self._settings.listeners
        self.client, self.admin = server_context(listeners.client), server_context(listeners.admin)

    def reload(self) -> None:
        try:
            self.load()
        except ConfigurationError as error:
            logger.error("tls_reload_failed reason=%r", error.message)
        else:
            logger.info("tls_reloaded")


@final
class Server:
    """One node. `run` does everything, once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = trio.Event()
        self._exit_code = 0

    def stop(self) -> None:
        """End gracefully, as the first signal does."""
        self._stopping.set()

    async def run(
        self,
        *,
        announce: Callable[[str], None] = lambda _: None,
        handles_signals: bool = True,
        task_status: trio.TaskStatus[Settings] = trio.TASK_STATUS_IGNORED,
    ) -> int:
        """Serve; started with the settings, ports filled in, once clients are taken.

        Raises:
            LogBrokerError: alone or in a group: it could not start, or its store failed.
        """
        given = self._settings.listeners
        client_sockets = await _open_listeners("client", given.client)
        try:
            admin_sockets = await _open_listeners("admin", given.admin)
            try:
                await self._serve(client_sockets, admin_sockets, announce, task_status, handles_signals=handles_signals)
            finally:
                _close(admin_sockets)
        finally:
            _close(client_sockets)
        return self._exit_code

    async def _serve(
        self,
        client_sockets: list[trio.SocketListener],
        admin_sockets: list[trio.SocketListener],
        announce: Callable[[str], None],
        task_status: trio.TaskStatus[Settings],
        *,
        handles_signals: bool,
    ) -> None:
        settings = _with_ports(self._settings, client=_port(client_sockets), admin=_port(admin_sockets))
        contexts = TlsContexts(settings)
        token_file = settings.auth.root_token_file
        root_digest = None if token_file is None else read_root_token(token_file)
        broker = Broker(settings)
        service = ClientService(broker, settings, root_digest=root_digest, random_bytes=secrets.token_bytes)
        clients = ClientListener(service, tls=lambda: contexts.client)
        admin = AdminListener(service, tls=lambda: contexts.admin)
        async with trio.open_nursery() as nursery:
            if handles_signals:
                nursery.start_soon(self._watch_signals, nursery.cancel_scope, contexts)
            await nursery.start(admin.run, admin_sockets)
            announce(f"admin {settings.admin_url} ready")
            broker_ended = trio.Event()
            await nursery.start(_run_broker, broker, broker_ended)
            if settings.cluster.initial_nodes:
                announce(f"peer {settings.peer_address} ready")
            nursery.start_soon(RewindDriver(broker).run)
            clients_ended = trio.Event()
            await nursery.start(_run_clients, clients, client_sockets, clients_ended)
            announce(f"client {settings.client_url or f'port {settings.listeners.client.port}'} ready")
            task_status.started(settings)
            await self._stopping.wait()
            clients.stop_accepting()
            broker.stop()
            await broker_ended.wait()
            clients.stop()
            await clients_ended.wait()
            nursery.cancel_scope.cancel()

    async def _watch_signals(self, scope: trio.CancelScope, contexts: TlsContexts) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    contexts.reload()
                elif self._stopping.is_set():
                    logger.warning("stopped_at_once signal=%d", number)
                    self._exit_code = SIGNALLED + number
                    scope.cancel()
                else:
                    logger.info("stopping signal=%d", number)
                    self._stopping.set()


async def _run_broker(
    broker: Broker, ended: trio.Event, *, task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED
) -> None:
    await broker.run(task_status=task_status)
    ended.set()


async def _run_clients(
    clients: ClientListener,
    sockets: list[trio.SocketListener],
    ended: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await clients.run(sockets, task_status=task_status)
    ended.set()


async def _open_listeners(name: str, listener: Listener) -> list[trio.SocketListener]:
    try:
        return list(await trio.open_tcp_listeners(listener.port, host=listener.host.strip("[]")))
    except OSError as error:
        raise ConfigurationError(
            f"listeners.{name} cannot listen on {listener.address}: {error.strerror or error}"
        ) from error


def _close(sockets: list[trio.SocketListener]) -> None:
    for listener in sockets:
        listener.socket.close()


def _port(sockets: list[trio.SocketListener]) -> int:
    port: int = sockets[0].socket.getsockname()[1]
    return port


def _with_ports(settings: Settings, *, client: int, admin: int) -> Settings:
    """The same settings with the ports that were bound, so that nobody is told of port 0."""
    listeners = settings.listeners
    bound = listeners.model_copy(
        update={
            "client": listeners.client.model_copy(update={"port": client}),
            "admin": listeners.admin.model_copy(update={"port": admin}),
        }
    )
    return settings.model_copy(update={"listeners": bound})


def _only_failure(group: BaseExceptionGroup[BaseException]) -> LogBrokerError | None:
    """The error of ours in a group of nothing else."""
    mine, others = group.split(LogBrokerError)
    if mine is None or others is not None:
        return None
    error: BaseException = mine
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, LogBrokerError) else None
