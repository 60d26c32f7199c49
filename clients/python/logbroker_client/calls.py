"""One request that is tried until it is answered: everything but produce, which must keep its order."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias, final

from logbroker.errors import (
    CorruptBatchError,
    DiskFullError,
    LogBrokerError,
    NotLeaderError,
    RequestError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.wire.failures import error_from_reply
from logbroker.wire.requests import PUSHES_OF, Error
from logbroker_client.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.wire.protocol import ClientProtocol
    from logbroker.wire.requests import AnyReply, AnyRequest
    from logbroker_client.core import ClientCore
    from logbroker_client.links import Link
    from logbroker_client.pending import Asked


@final
class Anywhere(Enum):
    """Routes of requests that belong to no partition."""

    ANY = auto()
    META = auto()
    """The leader of the meta group."""


Route: TypeAlias = Anywhere | tuple[str, int]


def is_certain(error: LogBrokerError) -> bool:
    """Whether the server says with this that it did nothing, and will do nothing, with the request."""
    return isinstance(error, _CERTAIN) and not isinstance(error, UnknownOutcomeError)


# What is not among them, such as a store that failed while it wrote, may have been carried out.
_CERTAIN = (RequestError, UnavailableError, CorruptBatchError, DiskFullError)
_PUSHES = frozenset(PUSHES_OF.values())


@final
class Call(Pending):
    """A request on its way to an answer.

    `is_repeatable`: the server takes a repeat for the same request, or carrying it out twice does no
    harm; only then is it sent again when its outcome is unknown. `on_push` gets what comes before the answer, even
    after the call was given up.
    """

    __slots__ = (
        "_core",
        "_failure_count",
        "_on_done",
        "_on_push",
        "answered_by",
        "body",
        "build",
        "deadline",
        "error",
        "is_last_try",
        "is_repeatable",
        "is_uncertain",
        "last_error",
        "link",
        "reply",
        "route",
    )

    def __init__(
        self,
        core: ClientCore,
        build: Callable[[int], AnyRequest],
        *,
        route: Route,
        deadline: float,
        is_repeatable: bool,
        on_done: Callable[[Call], None] | None = None,
        on_push: Callable[[AnyReply, bytes], None] | None = None,
    ) -> None:
        super().__init__()
        self.build = build
        self.route = route
        self.deadline = deadline
        self.is_repeatable = is_repeatable
        self.reply: AnyReply | None = None
        self.body = b""
        self.error: LogBrokerError | None = None
        self.last_error: LogBrokerError | None = None
        # Some attempt may have been carried out without an answer.
        self.is_uncertain = False
        # Where it waits for its reply.
        self.link: Link | None = None
        # The connection of the last reply or push, which may be over by now.
        self.answered_by: ClientProtocol[Asked] | None = None
        self._core = core
        # Nobody needs it to be tried again.
        self.is_last_try = False
        self._on_done = on_done
        self._on_push = on_push
        self._failure_count = 0

    def on_reply(self, reply: AnyReply, body: bytes) -> None:
        self.answered_by = None if self.link is None else self.link.protocol
        if type(reply) in _PUSHES:
            self._failure_count = 0
            if self._on_push is not None:
                self._on_push(reply, body)
            return
        link, self.link = self.link, None
        if self.is_done:
            return
        if not isinstance(reply, Error):
            self._finish(reply, body, None)
            return
        error = error_from_reply(reply)
        if not is_certain(error):
            self.is_uncertain = True
        if isinstance(error, NotLeaderError):
            self._core.redirect(self.route, link, reply)
        self._fail_once(error, is_final=not error.retriable)

    def on_lost(self) -> None:
        self.link = None
        if self.is_done:
            return
        self.is_uncertain = True
        self._fail_once(UnknownOutcomeError("the connection ended before the answer"), is_final=False)

    def fail(self, error: LogBrokerError) -> None:
        """End it without an answer."""
        if not self.is_done:
            self._finish(None, b"", error)

    def expire(self) -> None:
        """End it at its deadline."""
        detail = f": {self.last_error.message}" if self.last_error is not None else ""
        if self.is_uncertain or self.link is not None:
            self.fail(UnknownOutcomeError(f"no answer in time{detail}"))
        else:
            self.fail(UnavailableError(f"not carried out in time{detail}"))

    def _fail_once(self, error: LogBrokerError, *, is_final: bool) -> None:
        self.last_error = error
        self._failure_count += 1
        if is_final or self.is_last_try or (self.is_uncertain and not self.is_repeatable):
            self._finish(None, b"", error)
        else:
            self._core.retry_later(self, self._failure_count)

    def _finish(self, reply: AnyReply | None, body: bytes, error: LogBrokerError | None) -> None:
        self.reply, self.body, self.error = reply, body, error
        self.is_done = True
        self._core.forget(self)
        if self._on_done is not None:
            self._on_done(self)
        self._core.env.wake(self.waiters)
