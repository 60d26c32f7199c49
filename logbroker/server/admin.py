"""The admin listener: probes, metrics, status, and the few words that only an operator can say; HTTP by hand.

It answers whatever the client port is doing, and tells strangers nothing but whether the node is well.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, final
from urllib.parse import parse_qs

import msgspec
import trio

from logbroker.config.settings import MAX_NODE_ID
from logbroker.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    RequestError,
    UnauthenticatedError,
    told_kind,
)
from logbroker.ids import NodeId
from logbroker.node.catalogue.bounds import MAX_MEMBERS
from logbroker.server.auth import authorize_operator
from logbroker.server.health import checks
from logbroker.server.metrics import CONTENT_TYPE, gather, render
from logbroker.server.plain_http import JSON, HttpConnection, HttpError, HttpReply, HttpRequest
from logbroker.server.segments_page import look_at_files, segments_page
from logbroker.server.status_page import status_page
from logbroker.server.websocket import LOST

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from logbroker.server.service import ClientService

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_BODY_BYTES = 16 * 1024
IDLE_S = 30.0
REQUEST_S = 10.0
LINGER_S = 1.0

_STATUS: tuple[tuple[type[LogBrokerError], int], ...] = (
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (AlreadyExistsError, 409),
    (InvalidArgumentError, 400),
    (RequestError, 400),
)


@final
class _BootstrapBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    without: Annotated[
        list[Annotated[NodeId, msgspec.Meta(ge=1, le=MAX_NODE_ID)]], msgspec.Meta(max_length=MAX_MEMBERS)
    ]


@final
class AdminListener:
    """See the module. `tls` gives the context of this moment, so that certificates can be renewed."""

    def __init__(self, service: ClientService, *, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self._service = service
        self._tls = tls
        self._connections = 0
        # (method, path) -> whether only operators may ask, and what answers.
        self._routes: dict[tuple[str, str], tuple[bool, Callable[[HttpRequest], Awaitable[HttpReply]]]] = {
            ("GET", "/livez"): (False, self._live),
            ("GET", "/healthz"): (False, self._live),
            ("GET", "/readyz"): (False, self._ready),
            ("GET", "/startupz"): (False, self._started),
            ("GET", "/metrics"): (True, self._metrics),
            ("GET", "/status"): (True, self._status),
            ("GET", "/api/v1/segments"): (True, self._segments),
            ("POST", "/api/v1/bootstrap"): (True, self._bootstrap),
            ("POST", "/api/v1/clock/accept"): (True, self._accept_clock),
        }

    async def run(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; closes the listeners at its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_listeners, self._serve, listeners))
            task_status.started()

    async def _serve(self, tcp: trio.SocketStream) -> None:
        """The outer edge of a connection: nothing of it goes further than this."""
        if self._connections >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(tcp)
            return
        self._connections += 1
        try:
            await self._converse(tcp)
        except (*LOST, LogBrokerError, trio.TooSlowError) as error:
            logger.debug("admin_connection_lost reason=%r", str(error) or type(error).__name__)
        except Exception:
            logger.exception("admin_connection_failed")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(tcp)

    async def _converse(self, tcp: trio.SocketStream) -> None:
        stream: trio.abc.Stream = tcp
        context = self._tls()
        if context is not None:
            stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
            with trio.fail_after(self._service.settings.timeouts.handshake_ms / 1000):
                await stream.do_handshake()
        http = HttpConnection(
            stream, max_head_bytes=self._service.limits.max_http_head_bytes, max_body_bytes=MAX_BODY_BYTES
        )
        while True:
            try:
                with trio.fail_after(IDLE_S):
                    request = await http.read_head()
                if request is None:
                    return
                with trio.fail_after(REQUEST_S):
                    body = await http.read_body()
                    reply = await self._answer(replace(request, body=body))
                    await http.reply(reply, is_head=request.method == "HEAD")
            except HttpError as error:
                with trio.fail_after(REQUEST_S):
                    await http.refuse(error)
                with trio.move_on_after(LINGER_S):
                    await http.linger()
                return
            if not http.start_next():
                return

    async def _answer(self, request: HttpRequest) -> HttpReply:
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is None:
            known = sorted(path for _, path in self._routes)
            return _error_reply(NotFoundError(f"there is no {method} {request.path[:200]}", hint=", ".join(known)))
        is_for_operators, answer = route
        try:
            if is_for_operators:
                authorize_operator(self._service.identify(_token(request)).principal)
            return await answer(request)
        except LogBrokerError as error:
            return _error_reply(error)
        except Exception:
            # A mistake of ours, which must not look like a connection that was lost.
            logger.exception("admin_page_failed path=%s", request.path)
            return HttpReply(500, b"the server made a mistake; its log says which\n")

    # Pages.

    async def _live(self, _: HttpRequest) -> HttpReply:
        return HttpReply(200, b"ok\n")

    async def _ready(self, request: HttpRequest) -> HttpReply:
        found = checks(self._service)
        is_ready = all(check.is_ok for check in found)
        if "verbose" in request.query.split("&"):
            lines = [str(check) for check in found]
        else:
            lines = ["ready"] if is_ready else [check.reason for check in found if not check.is_ok]
        return HttpReply(200 if is_ready else 503, "".join(f"{line}\n" for line in lines).encode())

    async def _started(self, _: HttpRequest) -> HttpReply:
        phase = self._service.backend.status().phase
        return HttpReply(503 if phase == "stopped" else 200, f"{phase}\n".encode())

    async def _metrics(self, request: HttpRequest) -> HttpReply:
        """`?partitions=off` leaves out what has a label for each partition."""
        with_partitions = "partitions=off" not in request.query.split("&")
        snapshot = await gather(self._service, with_partitions=with_partitions)
        return HttpReply(200, render(snapshot), CONTENT_TYPE)

    async def _status(self, _: HttpRequest) -> HttpReply:
        return _json_reply(200, status_page(self._service))

    async def _segments(self, request: HttpRequest) -> HttpReply:
        """`?queue=NAME` asks for the files of one queue alone."""
        service = self._service
        named = parse_qs(request.query).get("queue", [])
        rows = service.backend.catalogue.queues()
        places = {
            group: (row.name, number)
            for row in rows
            if not named or row.name in named
            for number, group in enumerate(row.groups)
        }
        files = await trio.to_thread.run_sync(
            look_at_files, service.settings.node.data_dir, set(places), abandon_on_cancel=True
        )
        return _json_reply(200, segments_page(service.backend.node, places, files))

    async def _bootstrap(self, request: HttpRequest) -> HttpReply:
        """Let a cluster that never was begin although nodes are missing; with tokens on, the root token opens this."""
        nodes = _decode_bootstrap(request.body).without
        self._service.backend.bootstrap_without(nodes)
        return _json_reply(200, {"node": self._service.backend.node, "without": sorted(nodes)})

    async def _accept_clock(self, _: HttpRequest) -> HttpReply:
        self._service.backend.accept_clock()
        logger.warning("clock_accepted by=operator")
        return _json_reply(200, {"node": self._service.backend.node, "accepted": True})


def _decode_bootstrap(body: bytes) -> _BootstrapBody:
    try:
        return msgspec.json.decode(body, type=_BootstrapBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"the body is not what this page takes: {error}", hint='{"without": [3]}') from error


def _token(request: HttpRequest) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _error_reply(error: LogBrokerError) -> HttpReply:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    return _json_reply(status, {"error": {"code": told_kind(error).code, "message": error.message, "hint": error.hint}})


def _json_reply(status: int, value: object) -> HttpReply:
    return HttpReply(status, json.dumps(value, indent=2).encode() + b"\n", JSON)
