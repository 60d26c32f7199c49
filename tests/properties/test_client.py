"""Producers and consumers through any order of trouble: nothing is lost, doubled, reordered or misreported."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from logbroker.errors import (
    LogBrokerError,
    NoRoomError,
    NotLeaderError,
    OverloadedError,
    UnknownOutcomeError,
)
from logbroker.record.batch import decode_batch
from logbroker.wire.requests import Ack, AnyRequest, Produce, Receive
from logbroker_client.settling import ACK
from tests.fake_broker import Drop, FakeCluster, FakeNode, Hold
from tests.unit.client.world import World, send

if TYPE_CHECKING:
    from logbroker_client.producing import OutgoingBatch

Trouble = LogBrokerError | Hold | Drop | None


class Stumbling:
    """A node that does what it is asked, refuses, swallows, or loses the answer or the request."""

    def __init__(
        self, chance: random.Random, rate: float, *, kinds: tuple[type[AnyRequest], ...], may_hold: bool = False
    ) -> None:
        self._chance = chance
        self._may_hold = may_hold
        self._rate = rate
        self._kinds = kinds

    def __call__(self, node: FakeNode, request: AnyRequest, body: bytes) -> Trouble:
        if not isinstance(request, self._kinds) or self._chance.random() >= self._rate:
            return None
        match self._chance.randrange(7):
            case 0:
                node.answer(request, body)
                return Drop()
            case 1:
                return Drop()
            case 2:
                return OverloadedError("busy")
            case 3:
                return NoRoomError("full")
            case 4:
                node.answer(request, body)
                return UnknownOutcomeError("lost its term")
            case 5:
                return Hold() if self._may_hold else UnknownOutcomeError("lost its term")
            case _:
                return NotLeaderError("who knows")


def shake(world: World, chance: random.Random) -> None:
    """Something happens to the cluster, or nothing."""
    cluster = world.cluster
    match chance.randrange(8):
        case 0:
            cluster.move(chance.choice(list(cluster.nodes)), partition=chance.randrange(2))
        case 1:
            for connection in list(chance.choice(list(cluster.nodes.values())).connections):
                connection.drop()
        case 2:
            node = chance.choice(list(cluster.nodes))
            if len(world.down) + 1 < len(cluster.nodes):
                world.stop(node)
        case 3:
            world.down.clear()


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), rate=st.sampled_from([0.0, 0.1, 0.5]), timeout_s=st.sampled_from([2.0, 1000.0]))
def test_what_is_confirmed_is_there_once_and_in_order(seed: int, rate: float, timeout_s: float) -> None:
    chance = random.Random(seed)
    cluster = FakeCluster(3)
    cluster.add_queue("orders", 2)
    world = World(cluster, seeds=3)
    producer = world.producer(batch_bytes=200, timeout_s=timeout_s)
    for node in cluster.nodes.values():
        node.on_request = Stumbling(chance, rate, kinds=(Produce,), may_hold=timeout_s < 100)
    sent: list[tuple[bytes, bytes | None, OutgoingBatch, int]] = []
    for number in range(120):
        value = b"%d" % number + b"x" * chance.randrange(60)
        key = b"k%d" % chance.randrange(3) if chance.random() < 0.5 else None
        sent.append((value, key, *send(producer, value, key)))
        if chance.random() < 0.4:
            world.advance(chance.random() * 0.5)
        shake(world, chance)
    world.down.clear()
    for node in cluster.nodes.values():
        node.on_request = None
    world.advance(30 if timeout_s > 100 else 5)

    stored = {
        (partition, offset): record.value
        for partition in range(2)
        for base, _, data in cluster.partition("orders", partition).batches
        for offset, record in enumerate(decode_batch(data), base)
    }
    values = list(stored.values())
    assert len(set(values)) == len(values), "a message is there twice"
    for value, _, batch, position in sent:
        assert batch.is_done
        if batch.error is None:
            assert stored[batch.partition, batch.base_offset + position] == value
        elif not isinstance(batch.error, UnknownOutcomeError):
            assert value not in values, f"{value!r} is there, and was reported as {batch.error!r}"
    if timeout_s > 100:
        assert all(batch.error is None for _, _, batch, _ in sent)
        for key in (b"k0", b"k1", b"k2"):
            places = [(b.partition, b.base_offset + position) for _, k, b, position in sent if k == key]
            assert places == sorted(places)
    assert producer.buffered_bytes == 0
    assert producer.unkeyed_count == 0
    assert producer.unsettled() == []


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), rate=st.sampled_from([0.1, 0.5]))
def test_every_message_is_delivered_once_and_acked(seed: int, rate: float) -> None:
    chance = random.Random(seed)
    cluster = FakeCluster(3)
    cluster.add_queue("orders", 2)
    world = World(cluster, seeds=3)
    producer = world.producer(batch_bytes=200)
    for number in range(100):
        send(producer, b"%d" % number, b"%d" % number)
    world.settle()
    for node in cluster.nodes.values():
        node.on_request = Stumbling(chance, rate, kinds=(Receive, Ack))
    consumer = world.consumer(max_messages=7, hide_s=40_000, timeout_s=5000)
    seen: list[tuple[int, int]] = []
    for _ in range(2000):
        world.advance(chance.random() * 0.3)
        while (delivery := consumer.take()) is not None:
            for part in delivery.received.parts:
                for start, end, deliveries in part.ranges:
                    assert deliveries == 1
                    for offset in chance.sample(range(start, end), end - start):
                        seen.append((delivery.partition, offset))
                        order_range = [(offset, offset + 1)]
                        consumer.inbox.settlers[delivery.partition].add(ACK, delivery.received.lease, order_range)
        if len(seen) == 100:
            break
        shake(world, chance)
    world.down.clear()
    for node in cluster.nodes.values():
        node.on_request = None
    world.advance(60)
    assert len(seen) == len(set(seen)) == 100
    for number in range(2):
        partition = cluster.partition("orders", number)
        assert partition.acked == set(range(partition.next_offset))
    assert consumer.inbox.error is None
    assert all(not settler.unsettled() for settler in consumer.inbox.settlers)
