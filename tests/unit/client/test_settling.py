from __future__ import annotations

import pytest

from logbroker.errors import NotFoundError, StaleLeaseError, UnavailableError, UnknownOutcomeError
from logbroker.wire.requests import Ack, AnyRequest, Extend, Nack, Settled
from logbroker_client.settling import ACK, Order, Settler, Verb, join_ranges
from tests.fake_broker import Answer, Drop, FakeCluster, FakeNode, Hold
from tests.unit.client.world import World, send

LEASE = 1 << 16


def leased(count: int = 10) -> tuple[World, Settler]:
    """A consumer that holds `count` messages under one lease."""
    cluster = FakeCluster()
    cluster.add_queue("orders")
    world = World(cluster)
    producer = world.producer()
    for number in range(count):
        send(producer, b"%d" % number)
    world.settle()
    consumer = world.consumer()
    assert consumer.take() is not None
    return world, consumer.inbox.settlers[0]


@pytest.mark.parametrize(
    ("ranges", "joined"),
    [
        ([(1, 2)], [(1, 2)]),
        ([(1, 2), (2, 3)], [(1, 3)]),
        ([(5, 6), (1, 2), (2, 4)], [(1, 4), (5, 6)]),
        ([(1, 9), (2, 3)], [(1, 9)]),
    ],
)
def test_ranges_are_sorted_and_joined(ranges: list[tuple[int, int]], joined: list[tuple[int, int]]) -> None:
    assert join_ranges(ranges) == joined


def test_acks_given_together_are_one_request_of_one_range() -> None:
    world, settler = leased()
    batches = {settler.add(ACK, LEASE, [(offset, offset + 1)]) for offset in range(10)}
    world.settle()
    [ack] = world.node(1).of(Ack)
    assert ack.items == [(LEASE, [(0, 10)])]
    [batch] = batches
    assert batch.is_done
    assert batch.failure(LEASE, [(0, 10)]) is None
    assert world.cluster.partition().acked == set(range(10))


def test_acks_in_any_order_are_joined() -> None:
    world, settler = leased()
    for offset in (3, 1, 2, 7, 1):
        settler.add(ACK, LEASE, [(offset, offset + 1)])
    world.settle()
    assert world.node(1).of(Ack)[0].items == [(LEASE, [(1, 4), (7, 8)])]


def test_acks_gather_while_one_is_on_its_way() -> None:
    world, settler = leased()
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, Ack) else None
    settler.add(ACK, LEASE, [(0, 1)])
    world.settle()
    for offset in range(1, 5):
        settler.add(ACK, LEASE, [(offset, offset + 1)])
        world.settle()
    assert len(world.node(1).of(Ack)) == 1
    world.node(1).on_request = None
    connection = world.connection(1)
    connection.answer(*connection.held[0])
    world.settle()
    assert [ack.items for ack in world.node(1).of(Ack)] == [[(LEASE, [(0, 1)])], [(LEASE, [(1, 5)])]]


def test_other_orders_have_requests_of_their_own() -> None:
    world, settler = leased()
    settler.add(ACK, LEASE, [(0, 1)])
    settler.add(Order(Verb.NACK, 500, "broken"), LEASE, [(1, 2)])
    settler.add(Order(Verb.NACK, 500, "broken"), LEASE, [(2, 3)])
    settler.add(Order(Verb.EXTEND, 9000), LEASE, [(3, 4)])
    world.settle()
    assert len(world.node(1).of(Ack)) == 1
    [nack] = world.node(1).of(Nack)
    assert (nack.items, nack.delay_ms, nack.reason) == ([(LEASE, [(1, 3)])], 500, "broken")
    [extend] = world.node(1).of(Extend)
    assert (extend.items, extend.hide_ms) == ([(LEASE, [(3, 4)])], 9000)


def test_many_scattered_acks_are_split_into_requests_that_fit() -> None:
    world, settler = leased(9000)
    for offset in range(0, 9000, 2):
        settler.add(ACK, LEASE, [(offset, offset + 1)])
    world.settle()
    assert [len(ack.items[0][1]) for ack in world.node(1).of(Ack)] == [2000, 2000, 500]


def test_a_stale_lease_fails_those_it_concerns_alone() -> None:
    world, settler = leased()
    world.cluster.partition().leases[LEASE] -= {4, 5}
    batch = settler.add(ACK, LEASE, [(0, 10)])
    world.settle()
    assert batch.failure(LEASE, [(0, 4)]) is None
    assert batch.failure(LEASE, [(6, 10)]) is None
    error = batch.failure(LEASE, [(3, 6)])
    assert isinstance(error, StaleLeaseError)
    assert "2 of 3 messages" in error.message
    assert batch.stale_count(LEASE, [(0, 10)]) == 2
    assert batch.failure(99, [(4, 5)]) is None


def test_an_ack_is_repeated_after_a_lost_answer() -> None:
    world, settler = leased()
    is_lost = False

    def lose_reply(node: FakeNode, request: AnyRequest, body: bytes) -> Drop | None:
        nonlocal is_lost
        if isinstance(request, Ack | Nack) and not is_lost:
            is_lost = True
            node.answer(request, body)
            return Drop()
        return None

    world.node(1).on_request = lose_reply
    batch = settler.add(ACK, LEASE, [(0, 3)])
    world.advance(1)
    assert batch.is_done
    assert batch.failure(LEASE, [(0, 3)]) is None
    assert len(world.node(1).of(Ack)) == 2
    # A repeated nack is stale because of its first copy, which is what was wanted.
    is_lost = False
    nacked = settler.add(Order(Verb.NACK), LEASE, [(3, 6)])
    world.advance(1)
    assert nacked.failure(LEASE, [(3, 6)]) is None


def test_an_ack_without_an_answer_is_unknown() -> None:
    world, settler = leased()
    world.node(1).on_request = lambda node, request, body: Hold() if isinstance(request, Ack) else None
    batch = settler.add(ACK, LEASE, [(0, 1)])
    world.advance(31)
    assert isinstance(batch.error, UnknownOutcomeError)


def test_an_ack_that_never_left_is_known_not_to_be_done() -> None:
    world, settler = leased()
    world.stop(1)
    world.settle()
    batch = settler.add(ACK, LEASE, [(0, 1)])
    world.advance(31)
    assert type(batch.error) is UnavailableError


def test_a_refusal_reaches_every_waiter() -> None:
    world, settler = leased()
    world.node(1).on_request = lambda node, request, body: (
        NotFoundError("no group") if isinstance(request, Ack) else None
    )
    batch = settler.add(ACK, LEASE, [(0, 1)])
    world.settle()
    first, second = batch.failure(LEASE, [(0, 1)]), batch.failure(LEASE, [(0, 1)])
    assert isinstance(first, NotFoundError)
    assert first is not second


def test_results_that_do_not_match_the_request_are_an_error() -> None:
    world, settler = leased()
    answer: Answer = (Settled(0, results=[]), b"")
    world.node(1).on_request = lambda node, request, body: answer if isinstance(request, Ack) else None
    batch = settler.add(ACK, LEASE, [(0, 1)])
    world.settle()
    error = batch.failure(LEASE, [(0, 1)])
    assert error is not None
    assert "0 results for 1 leases" in error.message
