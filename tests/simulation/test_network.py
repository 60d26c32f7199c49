"""The simulated network: connections, cuts, loss, doubling, reordering."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import NodeId
from logbroker.testing.network import Cut, LinkQuality, Network
from logbroker.testing.scheduler import US_PER_MS, US_PER_S, Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = NodeId(1), NodeId(2)


class RecordingUser:
    def __init__(self) -> None:
        self.frames: list[tuple[NodeId, NodeId, bytes]] = []
        self.links: list[tuple[str, NodeId, NodeId]] = []

    def on_frame(self, sender: NodeId, to: NodeId, frame: bytes) -> None:
        self.frames.append((sender, to, frame))

    def on_connected(self, node: NodeId, peer: NodeId) -> None:
        self.links.append(("up", node, peer))

    def on_disconnected(self, node: NodeId, peer: NodeId) -> None:
        self.links.append(("down", node, peer))

    def payloads(self) -> list[bytes]:
        return [frame for _, _, frame in self.frames]


def connected_pair(seed: int = 1) -> tuple[Scheduler, Network, RecordingUser]:
    scheduler, user = Scheduler(seed), RecordingUser()
    network = Network(scheduler, [A, B], user)
    network.attach(A)
    network.attach(B)
    scheduler.run_for(US_PER_S)
    assert user.links == [("up", A, B), ("up", B, A)]
    user.links.clear()
    return scheduler, network, user


def numbered(count: int) -> Iterator[bytes]:
    return (b"%d" % number for number in range(count))


def test_frames_of_a_connection_arrive_once_and_in_order() -> None:
    scheduler, network, user = connected_pair()
    for frame in numbered(200):
        network.send(A, B, frame)
    scheduler.run_for(US_PER_S)
    assert user.payloads() == list(numbered(200))
    assert network.statistics().delivered_count == 200


def test_nothing_is_sent_before_a_connection_is_made() -> None:
    scheduler, user = Scheduler(1), RecordingUser()
    network = Network(scheduler, [A, B], user)
    network.attach(A)
    network.send(A, B, b"lost")
    network.attach(B)
    scheduler.run_for(US_PER_S)
    assert user.frames == []


def test_loss_doubling_and_reordering_all_happen() -> None:
    scheduler, network, user = connected_pair()
    network.set_quality(LinkQuality(loss_rate=0.1, duplicate_rate=0.1, reorder_rate=0.1, in_order=False))
    for frame in numbered(1000):
        network.send(A, B, frame)
    scheduler.run_for(US_PER_S)
    seen = user.payloads()
    assert 850 < len(set(seen)) < 950
    assert len(seen) > len(set(seen))
    assert seen != sorted(seen, key=int)
    statistics = network.statistics()
    assert statistics.lost_count == 1000 - len(set(seen))
    assert statistics.duplicated_count == len(seen) - len(set(seen))


def test_a_black_hole_in_one_direction_loses_that_direction_alone_and_nobody_is_told() -> None:
    scheduler, network, user = connected_pair()
    network.cut(A, B, Cut.LOST)
    network.send(A, B, b"lost")
    network.send(B, A, b"arrives")
    scheduler.run_for(US_PER_S)
    assert user.frames == [(B, A, b"arrives")]
    assert user.links == []


def test_a_black_hole_that_lasts_is_closed_by_the_keepalive_and_comes_back_after_healing() -> None:
    scheduler, network, user = connected_pair()
    network.cut(A, B, Cut.LOST)
    scheduler.run_for(10 * US_PER_S)
    assert user.links == [("down", A, B), ("down", B, A)]
    network.heal()
    scheduler.run_for(US_PER_S)
    assert user.links[2:] == [("up", A, B), ("up", B, A)]


def test_a_clogged_direction_delivers_late_and_in_order() -> None:
    scheduler, network, user = connected_pair()
    network.send(A, B, b"0")
    network.cut(A, B, Cut.HELD)
    network.send(A, B, b"1")
    scheduler.run_for(US_PER_S)
    assert user.frames == []
    network.cut(A, B, Cut.OPEN)
    scheduler.run_for(US_PER_S)
    assert user.payloads() == [b"0", b"1"]


def test_closing_a_connection_loses_what_is_under_way_tells_both_ends_and_reconnects() -> None:
    scheduler, network, user = connected_pair()
    network.send(A, B, b"under way")
    network.close(A, B)
    assert user.links == [("down", A, B), ("down", B, A)]
    network.send(A, B, b"not connected")
    scheduler.run_for(US_PER_S)
    assert user.frames == []
    assert user.links[2:] == [("up", A, B), ("up", B, A)]


def test_a_refused_pair_stays_apart_until_it_is_allowed() -> None:
    scheduler, network, _ = connected_pair()
    network.refuse(A, B)
    scheduler.run_for(5 * US_PER_S)
    assert not network.is_connected(A, B)
    network.allow(A, B)
    scheduler.run_for(US_PER_S)
    assert network.is_connected(A, B)


def test_a_killed_process_is_noticed_at_once_and_a_power_cut_only_by_the_keepalive() -> None:
    scheduler, network, user = connected_pair()
    network.detach(B)
    assert user.links == [("down", A, B)]
    network.attach(B)
    scheduler.run_for(US_PER_S)
    user.links.clear()
    network.detach(B, silently=True)
    scheduler.run_for(US_PER_S)
    assert user.links == []
    scheduler.run_for(10 * US_PER_S)
    assert user.links == [("down", A, B)]


def test_a_process_that_restarts_within_the_keepalive_gets_a_new_connection() -> None:
    scheduler, network, user = connected_pair()
    network.detach(B, silently=True)
    scheduler.run_for(100 * US_PER_MS)
    network.send(A, B, b"to the dead process")
    network.attach(B)
    assert user.links == [("down", A, B)]
    scheduler.run_for(US_PER_S)
    assert user.links[1:] == [("up", A, B), ("up", B, A)]
    assert user.frames == []
