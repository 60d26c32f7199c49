from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from logbroker.errors import CorruptBatchError, InvalidArgumentError
from logbroker.ids import Offset
from logbroker.record.batch import encode_values, repack, stamp
from logbroker.wire.requests import BatchPart, Received
from logbroker_client.inbox import Delivery
from logbroker_client.messages import MessageBatch
from logbroker_client.settling import ACK, Order, Verb

BATCH = stamp(encode_values([b"%d" % number for number in range(100, 110)], timestamp_ms=7), Offset(100), 1)

if TYPE_CHECKING:
    from logbroker_client.codecs import MessageCodec


class Settled:
    """Takes down what messages ask of their consumer."""

    queue = "orders"
    codec: MessageCodec[Any] | None = None

    def __init__(self) -> None:
        self.asked: list[tuple[Order, int, int, list[tuple[int, int]]]] = []

    async def settle(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        self.settle_nowait(order, partition, lease, ranges)

    def settle_nowait(self, order: Order, partition: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        self.asked.append((order, partition, lease, ranges))

    def ack_offset_nowait(self, partition: int, lease: int, offset: int) -> None:
        self.settle_nowait(ACK, partition, lease, [(offset, offset + 1)])


def batch_of(*parts: tuple[BatchPart, bytes], settled: Settled | None = None) -> MessageBatch:
    received = Received(1, lease=55, visible_at_ms=1, hide_left_ms=1, parts=[part for part, _ in parts])
    return MessageBatch(settled or Settled(), Delivery(3, received, b"".join(data for _, data in parts), 0.0))


def part_of(data: bytes, *ranges: tuple[int, int, int], base_offset: int = 100, repacked: bool = False) -> BatchPart:
    return BatchPart(size_bytes=len(data), base_offset=base_offset, append_ms=9, ranges=list(ranges), repacked=repacked)


def values(batch: MessageBatch) -> list[tuple[int, bytes | None, int]]:
    return [(message.offset, message.value, message.deliveries) for message in batch]


def test_only_the_leased_records_of_a_batch_are_messages() -> None:
    batch = batch_of((part_of(BATCH, (102, 104, 1), (107, 108, 3)), BATCH))
    assert len(batch) == 3
    assert values(batch) == [(102, b"102", 1), (103, b"103", 1), (107, b"107", 3)]
    assert len(batch) == 3
    assert batch[0].timestamp_ms == 7
    assert batch[-1].offset == 107
    assert batch.ranges() == [(102, 104), (107, 108)]
    assert repr(batch) == "<MessageBatch of 3 from orders/3>"


def test_a_batch_that_holds_the_leased_records_alone_is_read_by_their_offsets() -> None:
    small = repack(BATCH, [(Offset(102), Offset(104)), (Offset(107), Offset(108))])
    batch = batch_of((part_of(small, (102, 104, 1), (107, 108, 3), repacked=True), small))
    assert values(batch) == [(102, b"102", 1), (103, b"103", 1), (107, b"107", 3)]


def test_parts_follow_one_another_in_the_body() -> None:
    other = stamp(encode_values([b"x"], timestamp_ms=8), Offset(110), 1)
    batch = batch_of((part_of(BATCH, (100, 110, 1)), BATCH), (part_of(other, (110, 111, 1), base_offset=110), other))
    assert [value for _, value, _ in values(batch)][-2:] == [b"109", b"x"]
    assert batch.ranges() == [(100, 111)]


def test_a_leased_record_that_the_batch_does_not_hold_is_corrupt() -> None:
    batch = batch_of((part_of(BATCH, (108, 112, 1)), BATCH))
    assert [message.corrupt is None for message in batch] == [True, True, False, False]
    with pytest.raises(CorruptBatchError, match=r"orders/3/110 cannot be read: .* does not hold it"):
        _ = batch[2].key


def test_a_batch_from_another_place_is_corrupt() -> None:
    batch = batch_of((part_of(BATCH, (50, 52, 1), base_offset=50), BATCH))
    assert [message.corrupt is None for message in batch] == [False, False]
    assert "sent for offset 50 says 100" in str(batch[0].corrupt)


async def test_a_batch_is_settled_as_a_whole() -> None:
    settled = Settled()
    batch = batch_of((part_of(BATCH, (102, 104, 1), (104, 106, 2)), BATCH), settled=settled)
    await batch.ack()
    batch.ack_nowait()
    await batch.nack(delay=0.5, reason="why")
    await batch.extend(2)
    whole = (3, 55, [(102, 106)])
    assert settled.asked == [
        (ACK, *whole),
        (ACK, *whole),
        (Order(Verb.NACK, 500, "why"), *whole),
        (Order(Verb.EXTEND, 2000), *whole),
    ]


async def test_a_message_is_settled_alone() -> None:
    settled = Settled()
    message = batch_of((part_of(BATCH, (102, 104, 1)), BATCH), settled=settled)[1]
    await message.ack()
    message.ack_nowait()
    await message.nack()
    await message.extend(43_200)
    assert [order.verb for order, *_ in settled.asked] == [Verb.ACK, Verb.ACK, Verb.NACK, Verb.EXTEND]
    assert {str(place) for _, *place in settled.asked} == {"[3, 55, [(103, 104)]]"}


@pytest.mark.parametrize("delay", [-1, 1_296_001, float("nan")])
async def test_a_delay_outside_its_bounds_is_refused(delay: float) -> None:
    message = batch_of((part_of(BATCH, (102, 104, 1)), BATCH))[0]
    with pytest.raises(InvalidArgumentError, match="outside 0 to 1296000"):
        await message.nack(delay=delay)


@pytest.mark.parametrize("hide", [0, 43_201])
async def test_a_hide_time_outside_its_bounds_is_refused(hide: float) -> None:
    message = batch_of((part_of(BATCH, (102, 104, 1)), BATCH))[0]
    with pytest.raises(InvalidArgumentError, match="outside 1 to 43200"):
        await message.extend(hide)


def test_nothing_of_a_batch_waits_for_the_collector_of_circles() -> None:
    gc.collect()
    gc.disable()
    try:
        batch = batch_of((part_of(BATCH, (100, 110, 1)), BATCH))
        assert len(values(batch)) == 10
        del batch
        assert gc.collect() == 0
    finally:
        gc.enable()
