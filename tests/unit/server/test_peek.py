"""The door of a peek: its bounds, and what the partition says in the words of the protocol."""

from __future__ import annotations

import pytest

from logbroker.ids import GroupName, Offset
from logbroker.node import requests as node_requests
from logbroker.node.requests import Part, PeekReply, PeekRequest
from logbroker.partition.runs import RunState
from logbroker.wire.requests import Error, MessageTarget, OffsetTarget, Peek, Peeked, PeekedRange, Target
from tests.unit.server.kit import World, expect


def asked(*, start: Target | None = None, max_count: int = 5, max_bytes: int = 1_000) -> Peek:
    place = OffsetTarget(2) if start is None else start
    return Peek(2, queue="orders", partition=0, group="g", max_count=max_count, max_bytes=max_bytes, start=place)


def test_what_the_partition_shows_is_told_with_its_batches() -> None:
    world = World.make()
    world.greet()
    world.send(asked())
    _, request, answer = world.backend.take(PeekRequest)
    assert request == PeekRequest(GroupName("g"), node_requests.OffsetTarget(Offset(2)), 5, 1_000)
    parts = (Part(b"first", Offset(2), 7, ((2, 4, 1),)), Part(b"", Offset(4), 8, ((4, 5, 0),), corrupt=True))
    ranges = (
        node_requests.PeekedRange(Offset(2), Offset(4), RunState.LEASED, 1, 99),
        node_requests.PeekedRange(Offset(4), Offset(5), RunState.AVAILABLE, 0, 0),
    )
    answer(PeekReply(parts, ranges, Offset(5), Offset(9)))
    ((reply, body),) = world.replies()
    peeked = expect(Peeked, reply)
    assert (bytes(body), [part.size_bytes for part in peeked.parts]) == (b"first", [5, 0])
    assert peeked.ranges == [
        PeekedRange(start=2, end=4, state="leased", visible_at_ms=99),
        PeekedRange(start=4, end=5, state="available"),
    ]
    assert (peeked.next_offset, peeked.log_end) == (5, 9)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asked(max_count=0), "max_count 0 is not in 1..10, limits.max_receive_count"),
        (asked(max_count=11), "max_count 11 is not in 1..10, limits.max_receive_count"),
        (asked(max_bytes=0), "max_bytes 0 is not in 1.."),
        (asked(max_bytes=1 << 30), "limits.max_receive_bytes"),
        (asked(start=MessageTarget([(1, 5)])), "names no message of partition 0"),
    ],
)
def test_a_peek_beyond_a_bound_is_refused_by_the_name_of_the_bound(request_: Peek, words: str) -> None:
    world = World.make(limits={"max_receive_count": 10})
    world.greet()
    world.send(request_)
    error = expect(Error, world.only_reply())
    assert (error.code, words in error.message) == ("invalid_argument", True), error.message
    assert world.backend.asked == []
