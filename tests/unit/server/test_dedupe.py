"""The door of batches whose messages have ids of their own."""

from __future__ import annotations

from logbroker.ids import Offset
from logbroker.node.requests import ProduceReply, ProduceRequest
from logbroker.wire.requests import Produce, Produced
from tests.unit.server.kit import World


def test_a_batch_that_has_ids_says_so_to_the_partition_and_what_was_known_comes_back() -> None:
    world = World.make()
    world.greet()
    world.send(Produce(2, queue="orders", partition=0, dedup=True), body=b"batch")
    _, asked, answer = world.backend.take(ProduceRequest)
    assert asked == ProduceRequest(b"batch", dedup=True)
    answer(ProduceReply(Offset(40), 3, 1_234, duplicates=((0, 7), (2, 40)), conflicts=(1,)))
    assert world.only_reply() == Produced(
        2, base_offset=40, count=3, append_ms=1_234, duplicates=[(0, 7), (2, 40)], conflicts=[1]
    )
