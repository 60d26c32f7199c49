"""Requests that travel to the node that leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from logbroker.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    RemoteProtocolError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, NodeId, Offset
from logbroker.node.forwarding import (
    Forwarder,
    decode_answered,
    decode_asked,
    encode_answered,
    encode_asked,
)
from logbroker.node.peer_frames import FrameKind
from logbroker.node.requests import (
    CountTarget,
    CreateGroupRequest,
    DeleteGroupRequest,
    EarliestTarget,
    GroupReply,
    GroupState,
    LatestTarget,
    OffsetTarget,
    PauseRequest,
    ProduceRequest,
    PurgeReply,
    PurgeRequest,
    ResumeRequest,
    RewindReply,
    RewindRequest,
    StateReply,
    StateRequest,
    TimeTarget,
)
from logbroker.raft.log import CompactedError, UnavailableEntryError
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from logbroker.server.plain_http import HttpError

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.requests import Answer, Reply, Request

GROUP = GroupId(7)
BILLING = GroupName("billing")
STATE = StateReply(
    Offset(1),
    Offset(9),
    1_000,
    (GroupState(DEFAULT_GROUP, 3, 2, 1, 0, Offset(4), 900, 0, True, "night", 800, 2_000, 3),),
)


@pytest.mark.parametrize(
    "request_",
    [
        CreateGroupRequest(BILLING, LatestTarget()),
        CreateGroupRequest(BILLING, EarliestTarget()),
        DeleteGroupRequest(BILLING),
        StateRequest(),
        RewindRequest(BILLING, 5, TimeTarget(-60_000)),
        RewindRequest(BILLING, 5, OffsetTarget(Offset(12)), forward=True),
        RewindRequest(BILLING, 5, CountTarget(100), clamp=True),
        PauseRequest(BILLING, "night", 60_000),
        ResumeRequest(BILLING),
        PurgeRequest(BILLING, 9),
    ],
)
def test_a_request_comes_back_from_its_bytes(request_: Request) -> None:
    assert decode_asked(encode_asked(3, GROUP, request_)) == (3, GROUP, request_)


@pytest.mark.parametrize(
    "reply",
    [STATE, GroupReply(BILLING, Offset(4)), RewindReply(5, Offset(3), 10, 2, 1, True), PurgeReply(3, 2, 1)],
)
def test_a_reply_comes_back_from_its_bytes(reply: Reply) -> None:
    assert decode_answered(encode_answered(3, reply)) == (3, reply)


def test_an_error_keeps_its_kind_its_hint_and_its_leader() -> None:
    for error in (NotFoundError("no group", hint="create it"), NotLeaderError("gone", leader=NodeId(2))):
        _, back = decode_answered(encode_answered(1, error))
        assert type(back) is type(error)
        assert (back.message, back.hint) == (error.message, error.hint)
    assert decode_answered(encode_answered(1, NotLeaderError("gone", leader=NodeId(2))))[1].leader == 2  # type: ignore[union-attr]


def test_an_error_of_another_module_is_told_as_what_it_is_a_kind_of() -> None:
    refused = ProposalRefused(RefusalReason.TRANSFER_IN_PROGRESS, "leadership is being handed over")
    number, back = decode_answered(encode_answered(1, refused))
    assert (number, type(back)) == (1, UnavailableError)
    assert (back.message, back.hint) == (refused.message, "")  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [ProposalRefused, CompactedError, UnavailableEntryError, HttpError, NotFoundError])
def test_whatever_code_a_node_sends_the_one_that_hears_it_goes_on(kind: type[LogBrokerError]) -> None:
    """Also where a class with a constructor of its own has that code here."""
    data = encode_answered(7, NotFoundError("why", hint="what next"))
    form = msgspec.msgpack.decode(data)
    form[1][1] = kind.code
    number, back = decode_answered(msgspec.msgpack.encode(form))
    assert (number, type(back)) == (7, NotFoundError if kind is NotFoundError else UnavailableError)
    assert (back.message, back.hint) == ("why", "what next")  # type: ignore[union-attr]


def test_messages_are_not_forwarded() -> None:
    with pytest.raises(InvalidArgumentError, match="ProduceRequest is not forwarded"):
        encode_asked(1, GROUP, ProduceRequest(b""))


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\x02\x91\x09", b"\x93\x01\x02", b"x" * 100])
def test_strange_bytes_are_the_peers_fault(data: bytes) -> None:
    for decode in (decode_asked, decode_answered):
        with pytest.raises(RemoteProtocolError, match="malformed"):
            decode(data)


class Pair:
    """Two forwarders whose frames the test lets through, or not."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.connected = True
        self.near = self._forwarder(2)
        self.far = self._forwarder(1)

    def _forwarder(self, other: int) -> Forwarder:
        return Forwarder(send=self._send, is_connected=lambda _: self.connected, submit=self._submit)

    def _send(self, to: NodeId, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.ASKED:
            self.far.on_asked(NodeId(1), memoryview(payload))
        else:
            self.near.on_answered(NodeId(2), memoryview(payload))

    def _submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        self.answers.append(answer)


async def ask(pair: Pair, request: Request) -> Reply | LogBrokerError:
    return await pair.near.ask(NodeId(2), GROUP, request, timeout_ms=1_000)


async def test_the_other_nodes_answer_is_the_answer() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:

        async def asks() -> None:
            assert await ask(pair, StateRequest()) == STATE

        nursery.start_soon(asks)
        await trio.testing.wait_all_tasks_blocked()
        pair.answers[0](STATE)


async def test_the_other_nodes_error_is_raised_here() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:

        async def asks() -> None:
            with pytest.raises(NotFoundError, match="no such group"):
                await ask(pair, StateRequest())

        nursery.start_soon(asks)
        await trio.testing.wait_all_tasks_blocked()
        pair.answers[0](NotFoundError("no such group"))


async def test_a_lost_link_leaves_a_change_unknown_and_a_question_unavailable() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:

        async def changes() -> None:
            with pytest.raises(UnknownOutcomeError, match="the connection to node 2 closed"):
                await ask(pair, DeleteGroupRequest(BILLING))

        async def reads() -> None:
            with pytest.raises(UnavailableError, match="the connection to node 2 closed") as caught:
                await ask(pair, StateRequest())
            assert not isinstance(caught.value, UnknownOutcomeError)

        nursery.start_soon(changes)
        nursery.start_soon(reads)
        await trio.testing.wait_all_tasks_blocked()
        pair.near.on_link_lost(NodeId(2))


async def test_silence_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(UnknownOutcomeError, match="did not answer for group 7 in 1000 ms"):
        await ask(Pair(), DeleteGroupRequest(BILLING))


async def test_nothing_is_sent_to_a_node_that_is_not_connected() -> None:
    pair = Pair()
    pair.connected = False
    with pytest.raises(UnavailableError, match="is not connected"):
        await ask(pair, StateRequest())
    assert pair.answers == []
