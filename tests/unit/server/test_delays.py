"""The door of batches that are delivered later, and of their cancellation."""

from __future__ import annotations

from logbroker.ids import Offset
from logbroker.node.requests import CancelReply, CancelRequest, ProduceReply, ProduceRequest
from logbroker.wire.requests import Cancel, Cancelled, Produce, Produced
from tests.unit.server.kit import World


def test_a_delay_goes_to_the_partition_and_the_due_time_comes_back() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0, delay_ms=5_000), body=b"batch")
    world.send(Produce(3, queue="orders", partition=0, deliver_at_ms=9_900), body=b"batch")
    _, after, answer = world.backend.take(ProduceRequest)
    _, at, _ = world.backend.take(ProduceRequest)
    assert (after, at) == (ProduceRequest(b"batch", 5_000), ProduceRequest(b"batch", 0, 9_900))
    answer(ProduceReply(Offset(40), 3, 1_234, due_ms=6_300))
    assert world.only_reply() == Produced(2, base_offset=40, count=3, append_ms=1_234, due_ms=6_300)


def test_a_cancellation_says_how_many_messages_it_was_in_time_for() -> None:
    world = World.make()
    world.greet()
    world.send(Cancel(2, queue="orders", partition=0, ranges=[(3, 5), (7, 8)]))
    _, request, answer = world.backend.take(CancelRequest)
    assert request == CancelRequest(((3, 5), (7, 8)))
    answer(CancelReply(2, 1))
    assert world.only_reply() == Cancelled(2, cancelled=2, late=1)
