"""Requests to a partition that another node leads, taken there over the peer link.

For what is asked of many partitions at once, or by people: consumer groups, counts, rewinds. Messages and acks are not
forwarded; clients learn the leaders and go there. What cannot be answered in time is *unknown* where it may have
changed something, and the deadline is the asking node's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar, final

import msgspec
import trio

from logbroker.errors import (
    KINDS,
    InvalidArgumentError,
    LogBrokerError,
    NotLeaderError,
    OverloadedError,
    RemoteProtocolError,
    UnavailableError,
    UnknownOutcomeError,
    told_kind,
)
from logbroker.ids import GroupId, GroupName, NodeId, Offset
from logbroker.node.catalogue.rows import ConsumerGroup, Number, Text
from logbroker.node.peer_frames import FrameKind
from logbroker.node.requests import (
    CountTarget,
    CreateGroupRequest,
    DeleteGroupRequest,
    EarliestTarget,
    GroupReply,
    LatestTarget,
    OffsetTarget,
    PauseRequest,
    PurgeReply,
    PurgeRequest,
    Reply,
    Request,
    ResumeRequest,
    RewindReply,
    RewindRequest,
    StateReply,
    StateRequest,
    Target,
    TimeTarget,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.requests import Answer

MAX_WAITING = 1_024


class _Form(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


@final
class TargetForm(_Form, frozen=True):
    """`kind` is one of `_TARGETS`; `value` is 0 where the kind needs none."""

    kind: Annotated[int, msgspec.Meta(ge=1, le=5)]
    value: int


@final
class CreateGroupForm(_Form, frozen=True, tag=1):
    group: ConsumerGroup
    start: TargetForm


@final
class DeleteGroupForm(_Form, frozen=True, tag=2):
    group: ConsumerGroup


@final
class StateForm(_Form, frozen=True, tag=3):
    pass


@final
class RewindForm(_Form, frozen=True, tag=4):
    group: ConsumerGroup
    rewind_id: Number
    target: TargetForm
    forward: bool
    clamp: bool


@final
class PauseForm(_Form, frozen=True, tag=5):
    group: ConsumerGroup
    reason: str
    duration_ms: Number


@final
class ResumeForm(_Form, frozen=True, tag=6):
    group: ConsumerGroup


@final
class PurgeForm(_Form, frozen=True, tag=7):
    group: ConsumerGroup
    purge_id: Number


RequestForm: TypeAlias = CreateGroupForm | DeleteGroupForm | StateForm | RewindForm | PauseForm | ResumeForm | PurgeForm


@final
class GroupForm(_Form, frozen=True, tag=1):
    reply: GroupReply


@final
class StateReplyForm(_Form, frozen=True, tag=2):
    reply: StateReply


@final
class RewindReplyForm(_Form, frozen=True, tag=3):
    reply: RewindReply


@final
class ErrorForm(_Form, frozen=True, tag=4):
    """`leader` is 0 where none is known."""

    code: Text
    message: str
    hint: str
    leader: Number


@final
class PurgeReplyForm(_Form, frozen=True, tag=5):
    reply: PurgeReply


ReplyForm: TypeAlias = GroupForm | StateReplyForm | RewindReplyForm | PurgeReplyForm | ErrorForm


@final
class Asked(_Form, frozen=True):
    number: Number
    group: Number
    request: RequestForm


@final
class Answered(_Form, frozen=True):
    number: Number
    reply: ReplyForm


_T = TypeVar("_T")

_encoder = msgspec.msgpack.Encoder()
_asked_decoder = msgspec.msgpack.Decoder(Asked)
_answered_decoder = msgspec.msgpack.Decoder(Answered)
_TARGETS: dict[int, Callable[[int], Target]] = {
    1: TimeTarget,
    2: lambda value: OffsetTarget(Offset(value)),
    3: CountTarget,
    4: lambda _: EarliestTarget(),
    5: lambda _: LatestTarget(),
}


def encode_asked(number: int, group: GroupId, request: Request) -> bytes:
    """The bytes of a forwarded request.

    Raises:
        InvalidArgumentError: requests of this kind are not forwarded.
    """
    form: RequestForm
    match request:
        case CreateGroupRequest():
            form = CreateGroupForm(request.group, _target_form(request.start))
        case DeleteGroupRequest():
            form = DeleteGroupForm(request.group)
        case StateRequest():
            form = StateForm()
        case RewindRequest():
            form = RewindForm(
                request.group, request.rewind_id, _target_form(request.target), request.forward, request.clamp
            )
        case PauseRequest():
            form = PauseForm(request.group, request.reason, request.duration_ms)
        case ResumeRequest():
            form = ResumeForm(request.group)
        case PurgeRequest():
            form = PurgeForm(request.group, request.purge_id)
        case _:
            raise InvalidArgumentError(f"{type(request).__name__} is not forwarded to another node")
    return _encoder.encode(Asked(number, group, form))


def decode_asked(data: bytes | memoryview) -> tuple[int, GroupId, Request]:
    """Read a forwarded request.

    Raises:
        RemoteProtocolError: bytes that no node of this version sends.
    """
    asked = _decoded(_asked_decoder, data)
    form = asked.request
    request: Request
    match form:
        case CreateGroupForm():
            request = CreateGroupRequest(form.group, _target(form.start))
        case DeleteGroupForm():
            request = DeleteGroupRequest(form.group)
        case StateForm():
            request = StateRequest()
        case RewindForm():
            request = RewindRequest(
                GroupName(form.group), form.rewind_id, _target(form.target), forward=form.forward, clamp=form.clamp
            )
        case PauseForm():
            request = PauseRequest(form.group, form.reason, form.duration_ms)
        case ResumeForm():
            request = ResumeRequest(form.group)
        case PurgeForm():
            request = PurgeRequest(form.group, form.purge_id)
    return asked.number, GroupId(asked.group), request


def encode_answered(number: int, result: Reply | LogBrokerError) -> bytes:
    form: ReplyForm
    match result:
        case GroupReply():
            form = GroupForm(result)
        case StateReply():
            form = StateReplyForm(result)
        case RewindReply():
            form = RewindReplyForm(result)
        case PurgeReply():
            form = PurgeReplyForm(result)
        case NotLeaderError():
            form = ErrorForm(result.code, result.message, result.hint, result.leader or 0)
        case LogBrokerError():
            form = ErrorForm(told_kind(result).code, result.message, result.hint, 0)
        case _:
            form = ErrorForm(UnavailableError.code, f"no form for {type(result).__name__}", "", 0)
    return _encoder.encode(Answered(number, form))


def decode_answered(data: bytes | memoryview) -> tuple[int, Reply | LogBrokerError]:
    """Read the answer to a forwarded request.

    Raises:
        RemoteProtocolError: bytes that no node of this version sends.
    """
    answered = _decoded(_answered_decoder, data)
    match answered.reply:
        case ErrorForm() as form:
            return answered.number, _error(form)
        case form:
            return answered.number, form.reply


def _error(form: ErrorForm) -> LogBrokerError:
    if form.code == NotLeaderError.code:
        return NotLeaderError(form.message, leader=NodeId(form.leader) if form.leader else None, hint=form.hint)
    return KINDS.get(form.code, UnavailableError)(form.message, hint=form.hint)


def _target_form(target: Target) -> TargetForm:
    match target:
        case TimeTarget(ms):
            return TargetForm(1, ms)
        case OffsetTarget(offset):
            return TargetForm(2, offset)
        case CountTarget(count):
            return TargetForm(3, count)
        case EarliestTarget():
            return TargetForm(4, 0)
        case LatestTarget():
            return TargetForm(5, 0)


def _target(form: TargetForm) -> Target:
    return _TARGETS[form.kind](form.value)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], data: bytes | memoryview) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"forwarded request of {len(data)} bytes is malformed: {error}") from error


@final
@dataclass(slots=True)
class _Waiting:
    node: NodeId
    request: Request
    answered: trio.Event
    result: Reply | LogBrokerError | None = None

    def answer(self, result: Reply | LogBrokerError) -> None:
        self.result = result
        self.answered.set()

    def lost(self, why: str) -> LogBrokerError:
        if isinstance(self.request, StateRequest):
            return UnavailableError(why)
        return UnknownOutcomeError(why, hint="it may have been carried out; asking again is safe")


@final
class Forwarder:
    """Both ends of it: `submit` takes a request to this node's own engine, `send` puts a frame on its way."""

    def __init__(
        self,
        *,
        send: Callable[[NodeId, FrameKind, bytes], None],
        is_connected: Callable[[NodeId], bool],
        submit: Callable[[GroupId, Request, Answer], None],
    ) -> None:
        self._send = send
        self._is_connected = is_connected
        self._submit = submit
        self._waiting: dict[int, _Waiting] = {}
        self._next_number = 1

    async def ask(self, node: NodeId, group: GroupId, request: Request, *, timeout_ms: int) -> Reply:
        """Have another node answer.

        Raises:
            LogBrokerError: its answer, or that there was none in time.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError(f"{len(self._waiting)} requests wait for other nodes, which is the most")
        if not self._is_connected(node):
            raise UnavailableError(f"node {node} leads group {group} and is not connected")
        number, self._next_number = self._next_number, self._next_number + 1
        payload = encode_asked(number, group, request)
        waiting = self._waiting[number] = _Waiting(node, request, trio.Event())
        try:
            self._send(node, FrameKind.ASKED, payload)
            with trio.move_on_after(timeout_ms / 1000):
                await waiting.answered.wait()
        finally:
            del self._waiting[number]
        if waiting.result is None:
            raise waiting.lost(f"node {node} did not answer for group {group} in {timeout_ms} ms")
        if isinstance(waiting.result, LogBrokerError):
            raise waiting.result
        return waiting.result

    def on_asked(self, sender: NodeId, payload: memoryview) -> None:
        """A request of another node; what is answered goes back on our own link to it."""
        number, group, request = decode_asked(payload)
        self._submit(
            group, request, lambda result: self._send(sender, FrameKind.ANSWERED, encode_answered(number, result))
        )

    def on_answered(self, sender: NodeId, payload: memoryview) -> None:
        number, result = decode_answered(payload)
        waiting = self._waiting.get(number)
        if waiting is not None and waiting.node == sender:
            waiting.answer(result)

    def on_link_lost(self, node: NodeId) -> None:
        """What was on its way there, or back, will not come."""
        for waiting in self._waiting.values():
            if waiting.node == node and waiting.result is None:
                waiting.answer(waiting.lost(f"the connection to node {node} closed"))
