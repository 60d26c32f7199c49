"""Leases that go back with their connection: what a session remembers of them, and when it gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from logbroker.errors import NotLeaderError
from logbroker.ids import GroupId, GroupName, LeaseId, Offset
from logbroker.node.requests import (
    AckRequest,
    ExtendRequest,
    NackRequest,
    Part,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    SettleReply,
    SettleResult,
)
from logbroker.server.holdings import Held, Holdings
from logbroker.wire.requests import Ack, Extend, Hello, Nack, Reject, Release
from tests.unit.server.kit import World
from tests.unit.server.test_session import receive
from tests.unit.server.test_streams import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.server.session import Session
    from logbroker.wire.requests import AnyRequest

GROUP = GroupId(1)
PLACE: dict[str, Any] = {"queue": "orders", "partition": 0, "group": "default"}


def lease(number: int = 70, *, start: int = 0, count: int = 4, hide_left_ms: int = 30_000) -> ReceiveReply:
    part = Part(b"batch", Offset(start), 1_800_000_000_000, ((start, start + count, 1),))
    return ReceiveReply(LeaseId(number), 1_800_000_000_000 + hide_left_ms, hide_left_ms, (part,))


def asking(rid: int = 2) -> AnyRequest:
    return msgspec.structs.replace(receive(rid, request_id=rid), release_on_close=True)


def opened(**limits: int) -> World:
    world = World.make(limits=limits)
    world.greet()
    return world


def take(world: World, reply: ReceiveReply, *, session: Session | None = None, rid: int = 2) -> None:
    """Receive a lease that goes back with the connection, and have it written."""
    world.send(asking(rid), session=session)
    world.backend.take(ReceiveRequest)[2](reply)
    assert len(world.replies(session)) == 1


def gone(world: World, session: Session | None = None) -> list[int]:
    """End the connection and let the others take over what they may; the leases that go back."""
    (session or world.session).end()
    return swept(world)


def swept(world: World) -> list[int]:
    world.service.handover.sweep()
    world.service.handover.sweep()
    released = [request for _, request, _ in world.backend.asked if isinstance(request, ReleaseRequest)]
    assert len(released) == len(world.backend.asked)
    world.backend.asked.clear()
    return [request.lease for request in released]


def settle(world: World, request: AnyRequest, kind: type[Any], *results: SettleResult) -> None:
    world.send(request)
    world.backend.take(kind)[2](SettleReply(results))
    world.replies()


def test_what_was_written_goes_back_with_the_second_sweep_after_the_connection() -> None:
    world = opened()
    take(world, lease())
    world.session.end()
    world.service.handover.sweep()
    assert world.backend.asked == []
    world.service.handover.sweep()
    group, request, _ = world.backend.take(ReleaseRequest)
    assert (group, request) == (GROUP, ReleaseRequest(GroupName("default"), LeaseId(70)))
    assert world.service.handover.open_count == 0


def test_what_was_not_written_goes_back_once() -> None:
    world = opened()
    world.send(asking())
    world.backend.take(ReceiveRequest)[2](lease())
    assert gone(world) == [70]


def test_leases_that_did_not_ask_for_it_stay_beside_those_that_do() -> None:
    world = opened()
    take(world, lease(70))
    world.send(receive(3))
    world.backend.take(ReceiveRequest)[2](lease(71, start=4))
    world.replies()
    assert gone(world) == [70]


def test_a_stream_gives_back_what_its_client_has_read() -> None:
    world = opened()
    world.send(msgspec.structs.replace(subscribe(count=8), release_on_close=True))
    for number in (70, 71):
        world.backend.take(ReceiveRequest)[2](lease(number))
        world.replies()
    assert gone(world) == [70, 71]


def test_a_stream_that_ended_before_its_connection_leaves_its_leases_with_it() -> None:
    world = opened()
    world.send(msgspec.structs.replace(subscribe(count=4), release_on_close=True))
    world.backend.take(ReceiveRequest)[2](lease())
    world.replies()
    world.backend.leaders[GROUP] = 2
    world.session.check()
    assert world.session.streams == {}
    del world.backend.leaders[GROUP]
    assert gone(world) == [70]


# --- what is forgotten ---


@pytest.mark.parametrize(
    ("request_of", "kind"),
    [
        (lambda items: Ack(9, **PLACE, items=items), AckRequest),
        (lambda items: Nack(9, **PLACE, items=items), NackRequest),
        (lambda items: Reject(9, **PLACE, items=items), RejectRequest),
    ],
    ids=["ack", "nack", "reject"],
)
def test_what_the_connection_has_settled_wholly_is_forgotten(
    request_of: Callable[[Any], AnyRequest], kind: type[Any]
) -> None:
    world = opened()
    take(world, lease())
    settle(world, request_of([(70, [(0, 3)])]), kind, SettleResult(LeaseId(70), 3))
    assert world.service.handover.open_count == 1
    settle(world, request_of([(70, [(2, 4)])]), kind, SettleResult(LeaseId(70), 1, already=((2, 3),)))
    assert world.service.handover.open_count == 0
    assert gone(world) == []


def test_what_is_left_of_a_lease_goes_back() -> None:
    world = opened()
    take(world, lease())
    settle(world, Ack(9, **PLACE, items=[(70, [(0, 3)])]), AckRequest, SettleResult(LeaseId(70), 3))
    assert gone(world) == [70]


def test_what_was_asked_of_a_lease_and_not_done_changes_nothing() -> None:
    world = opened()
    take(world, lease())
    stale = SettleResult(LeaseId(70), 0, stale=((0, 4),))
    settle(world, Ack(9, **PLACE, items=[(70, [(0, 4)]), (71, [(0, 9)])]), AckRequest, stale, stale)
    world.send(Ack(10, **PLACE, items=[(70, [(0, 4)])]))
    world.backend.take(AckRequest)[2](NotLeaderError("an election"))
    assert gone(world) == [70]


def test_what_the_client_gave_back_itself_is_forgotten() -> None:
    world = opened()
    take(world, lease())
    world.send(Release(9, **PLACE, leases=[70]))
    world.backend.take(ReleaseRequest)[2](SettleReply((SettleResult(LeaseId(70), 4),)))
    assert gone(world) == []


def test_what_has_run_out_is_forgotten_unless_it_was_extended() -> None:
    world = opened()
    take(world, lease(70, hide_left_ms=5_000))
    take(world, lease(71, hide_left_ms=5_000))
    extended = SettleResult(LeaseId(71), 1)
    settle(world, Extend(9, **PLACE, items=[(71, [(0, 1)])], hide_ms=20_000), ExtendRequest, extended)
    stale = SettleResult(LeaseId(70), 0, stale=((0, 1),))
    settle(world, Extend(9, **PLACE, items=[(70, [(0, 1)])], hide_ms=20_000), ExtendRequest, stale)
    # A shorter time for some of its messages leaves the others as they are.
    settle(world, Extend(9, **PLACE, items=[(71, [(1, 2)])], hide_ms=1_000), ExtendRequest, extended)
    for seconds, left in ((4.9, 2), (0.2, 2), (1.0, 1), (13.8, 1), (2.0, 0)):
        world.clock[0] += seconds
        world.session.check()
        assert world.service.handover.open_count == left, seconds
    assert gone(world) == []


def test_beyond_the_bound_the_oldest_are_left_to_their_hide_time() -> None:
    world = opened(max_leases_on_close=3)
    for number in range(70, 80):
        take(world, lease(number))
        assert world.service.handover.open_count <= 3
    assert gone(world) == [77, 78, 79]


def test_what_has_run_out_makes_room_before_the_oldest_goes() -> None:
    world = opened(max_leases_on_close=2)
    take(world, lease(70, hide_left_ms=60_000))
    take(world, lease(71, hide_left_ms=1_000))
    world.clock[0] += 1
    take(world, lease(72))
    assert gone(world) == [70, 72]


def test_one_that_is_forgotten_before_it_is_written_still_goes_back_if_it_never_is() -> None:
    world = opened(max_leases_on_close=1)
    for rid, number in ((2, 70), (3, 71)):
        world.send(asking(rid))
        world.backend.take(ReceiveRequest)[2](lease(number))
    assert gone(world) == [70, 71]


def test_a_connection_that_asks_for_nothing_of_it_remembers_nothing() -> None:
    world = opened()
    world.send(receive(2))
    world.backend.take(ReceiveRequest)[2](lease())
    world.replies()
    assert world.service.handover.open_count == 0


# --- other connections ---


def greeted(world: World) -> Session:
    session = world.new_session()
    world.send(Hello(1), session=session)
    world.replies(session)
    return session


@pytest.mark.parametrize("is_first_gone", [False, True])
def test_a_repeat_on_another_connection_keeps_the_lease(is_first_gone: bool) -> None:
    world = opened()
    take(world, lease())
    again = greeted(world)
    if is_first_gone:
        world.session.end()
        world.service.handover.sweep()
    take(world, lease(), session=again)
    if not is_first_gone:
        world.session.end()
    assert swept(world) == []
    # From here on it is the other connection's.
    assert gone(world, again) == [70]


def test_a_repeat_that_does_not_ask_for_it_keeps_the_lease_for_good() -> None:
    world = opened()
    take(world, lease())
    again = greeted(world)
    world.send(receive(2, request_id=2), session=again)
    world.backend.take(ReceiveRequest)[2](lease())
    world.replies(again)
    assert gone(world) == []
    assert gone(world, again) == []


# --- nodes that stop, and others that lead ---


def test_a_node_that_stops_gives_back_at_once_while_it_leads() -> None:
    world = opened()
    take(world, lease())
    world.session.stop_waiting()
    assert world.backend.take(ReleaseRequest)[1].lease == 70
    world.session.shut_down()
    assert gone(world) == []


def test_where_another_node_leads_by_then_the_lease_is_left_to_its_hide_time() -> None:
    world = opened()
    take(world, lease())
    world.backend.leaders[GROUP] = 2
    assert gone(world) == []
    assert world.service.handover.open_count == 0


# --- by themselves ---


def test_holdings_look_at_what_has_run_out_once_in_a_while() -> None:
    holdings = Holdings(max_count=10)
    held = [Held(GROUP, LeaseId(number), GroupName("g"), left_count=1, until_s=number, end=0) for number in (1, 2, 3)]
    for one in held:
        assert holdings.add(one, now_s=0.0) == []
    assert holdings.expire(1.5) == held[:1]
    assert holdings.expire(2.1) == []
    assert holdings.expire(2.5) == held[1:2]
    assert (len(holdings), held[2].key in holdings) == (1, True)
