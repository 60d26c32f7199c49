"""All groups of a node through their life: commits, lives of replicas, room, failures of the disk, damage."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from logbroker.errors import (
    LogBrokerError,
    NoRoomError,
    NotLeaderError,
    ShuttingDownError,
    UnknownOutcomeError,
)
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.peer_messages import Beat, EntryCopy, EntryFetch, EntryGone, PeerMessage, RaftMessage, SnapshotAck
from logbroker.node.requests import (
    AckRequest,
    ProduceReply,
    ProduceRequest,
    ReceiveRequest,
    SettleReply,
    StateReply,
    StateRequest,
)
from logbroker.raft.messages import ConfState, Message, MessageKind
from logbroker.storage.ballast import Room
from logbroker.storage.segment import SEGMENT_HEADER_BYTES
from logbroker.storage.simulated_disk import Action, Effect, Fault, on
from tests.unit.node.engine_kit import ENGINE, GROUP, STORE, KitCluster, KitNode, batch, ranges_of, values

OTHER = GroupId(2)
MIB = 1 << 20


def trio(**options: Any) -> KitCluster:  # noqa: ANN401 - those of KitCluster
    cluster = KitCluster(3, **options)
    cluster.elect()
    return cluster


def follower(cluster: KitCluster) -> KitNode:
    return next(node for node in cluster.nodes.values() if node is not cluster.leader)


def agree(cluster: KitCluster) -> bool:
    """Followers hear with the next heartbeat of what is committed."""
    cluster.tick()
    return len({node.machine.digest() for node in cluster.nodes.values()}) == 1


def load(cluster: KitCluster, count: int, *, size: int = 500) -> None:
    for number in range(count):
        cluster.produce(*values(3, start=3 * number, size=size))


def flushed(cluster: KitCluster, count: int = 60) -> KitCluster:
    """Enough for several flushes and checkpoints on every node."""
    load(cluster, count)
    cluster.tick(3)
    assert all(node.replica.log.flushed_index > 20 for node in cluster.nodes.values())
    return cluster


# The usual.


def test_three_nodes_apply_the_same() -> None:
    cluster = flushed(trio())
    lease = cluster.receive(20)
    cluster.ack(lease.lease, (0, 5), (7, 9))
    cluster.tick(2)
    assert agree(cluster)
    assert len({node.replica.log.last_index() for node in cluster.nodes.values()}) == 1


def test_everything_is_there_after_all_nodes_were_killed_at_once() -> None:
    cluster = flushed(trio())
    lease = cluster.receive(20, hide_ms=60_000)
    cluster.tick()
    before = cluster.ask(StateRequest())
    for number in (1, 2, 3):
        cluster.restart(number)
    cluster.elect()
    assert agree(cluster)
    after = cluster.ask(StateRequest())
    assert isinstance(before, StateReply)
    assert isinstance(after, StateReply)
    assert (after.groups, after.log_start, after.log_end) == (before.groups, before.log_start, before.log_end)
    assert cluster.ack(lease.lease, (0, 20)).results[0].done_count == 20
    assert cluster.produce(b"next").base_offset == 180


def test_a_follower_that_was_away_catches_up() -> None:
    cluster = trio()
    away = follower(cluster)
    cluster.stop(away.number)
    load(cluster, 5)
    cluster.stopped.clear()
    cluster.tick(10)
    assert agree(cluster)


def test_work_is_counted() -> None:
    cluster = flushed(KitCluster(1).elect().cluster)
    cluster.tick(10)
    counted = cluster.leader.engine.statistics()
    assert counted.commits > 60
    assert counted.flushes >= 1
    assert counted.checkpoints >= 1
    assert (counted.refused_writes, counted.failed_groups) == (0, 0)
    assert counted.committed_bytes > 60 * 1500


def test_one_commit_and_one_background_job_at_a_time() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.submit(ProduceRequest(batch(b"a")))
    node.engine.pump()
    job = node.engine.next_commit()
    assert job is not None
    cluster.submit(ProduceRequest(batch(b"b")))
    node.engine.pump()
    assert node.engine.next_commit() is None
    job.run()
    node.engine.commit_done(job)
    node.engine.pump()
    assert node.engine.next_commit() is not None


def test_the_log_says_when_it_is_quiet_that_the_last_commit_is_durable() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.produce(b"a")
    sealed = [node.store.is_sealed]
    cluster.tick()
    sealed.append(node.store.is_sealed)
    assert sealed == [False, True]


def test_flushes_go_on_while_commits_never_pause() -> None:
    """In the order of the shell: finished commit, pump, next commit, then background work."""
    cluster = KitCluster(1)
    node = cluster.elect()
    job = None
    for number in range(300):
        cluster.submit(ProduceRequest(batch(*values(3, start=number, size=500))))
        if job is not None:
            job.run()
            node.engine.commit_done(job)
        node.engine.pump()
        job = node.engine.next_commit()
        background = node.engine.next_background()
        if background is not None:
            background.run()
            node.engine.background_done(background)
    assert node.engine.statistics().flushes > 3
    assert node.replica.log.unflushed_bytes < 200_000


# Who is asked.


def test_a_node_that_does_not_lead_says_who_does() -> None:
    cluster = trio()
    answer = cluster.ask(ProduceRequest(batch(b"a")), node=follower(cluster))
    assert isinstance(answer, NotLeaderError)
    assert answer.leader == cluster.leader.number


def test_a_node_without_the_group_is_not_the_end_of_the_search() -> None:
    cluster = KitCluster(1)
    cluster.elect()
    answers: list[object] = []
    cluster.leader.engine.submit(OTHER, ProduceRequest(batch(b"a")), answers.append)
    assert isinstance(answers[0], NotLeaderError)
    assert answers[0].retriable
    assert cluster.leader.engine.leader_node(OTHER) is None


def test_a_node_that_shuts_down_hands_over_and_takes_nothing() -> None:
    cluster = trio()
    old = cluster.leader
    assert not old.engine.drain()
    assert isinstance(cluster.ask(ProduceRequest(batch(b"a")), node=old), ShuttingDownError)
    cluster.tick(5)
    assert cluster.leader is not old
    assert old.engine.drain()
    assert KitCluster(1).elect().engine.drain(), "there is nobody to hand over to"


def test_a_closed_link_to_the_leader_starts_an_election_at_once() -> None:
    cluster = trio()
    old = cluster.leader
    cluster.stop(old.number)
    for node in cluster.nodes.values():
        if node is not old:
            node.engine.peer_disconnected(old.number)
            node.engine.peer_down(old.number)
    cluster.settle()
    assert cluster.leader is not old
    assert cluster.produce(b"a").base_offset == 0


def test_a_closed_link_to_a_follower_elects_nobody() -> None:
    cluster = trio()
    leader, term = cluster.leader, cluster.leader.replica.core.term
    away = follower(cluster)
    for node in cluster.nodes.values():
        node.engine.peer_disconnected(away.number)
        node.engine.peer_down(away.number)
    cluster.tick(5)
    assert (cluster.leader, cluster.leader.replica.core.term) == (leader, term)


# Lives of replicas.


def test_a_replica_sends_nothing_before_its_birth_is_durable() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    created: list[ReplicaId] = []
    node.engine.create_replica(OTHER, ReplicaId(9), ConfState((ReplicaId(9),)), lambda made: created.append(made.id))
    assert OTHER not in node.engine.replicas
    cluster.settle()
    assert created == [9]
    cluster.tick(30)
    assert node.engine.replicas[OTHER].is_serving


def test_a_removed_replica_answers_what_waits_and_takes_its_files_along() -> None:
    cluster = trio()
    node = cluster.leader
    cluster.is_passed = lambda sender, to, message: False
    asked = cluster.submit(ProduceRequest(batch(b"a")))
    cluster.settle()
    node.engine.remove_replica(node.replica.id)
    assert isinstance(asked.answer, UnknownOutcomeError)
    cluster.settle()
    node.store.request_roll()
    cluster.tick(3)
    assert not any(path.startswith("groups/1-") for path in node.disk.paths())
    again = cluster.restart(node.number)
    assert (again.engine.replicas, again.engine.lost) == ({}, {})


def test_a_replica_may_be_removed_while_its_commit_is_under_way() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    asked = cluster.submit(ProduceRequest(batch(b"a")))
    node.engine.pump()
    job = node.engine.next_commit()
    assert job is not None
    node.engine.remove_replica(node.replica.id)
    assert isinstance(asked.answer, UnknownOutcomeError)
    job.run()
    node.engine.commit_done(job)
    cluster.settle()
    assert node.store.replicas == {}


def test_a_group_comes_back_under_a_new_replica_id_with_nothing_of_the_old() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    load(cluster, 5)
    node.engine.remove_replica(ReplicaId(1))
    cluster.settle()
    node.engine.create_replica(GROUP, ReplicaId(7), ConfState((ReplicaId(7),)))
    cluster.settle()
    cluster.elect()
    assert cluster.produce(b"a").base_offset == 0
    cluster.restart(1)
    cluster.elect()
    assert cluster.produce(b"b").base_offset == 1


def test_what_is_born_and_what_dies_counts_as_a_change_once_it_is_stored() -> None:
    cluster = KitCluster(1)
    cluster.elect()
    node = cluster.nodes[1]
    other = ReplicaId(9)
    for is_born in (True, False):
        cluster.tick(20)
        if is_born:
            node.engine.create_replica(GroupId(2), other, replace(cluster.conf, voters=(other,)))
        else:
            node.engine.remove_replica(other)
        changes = node.engine.changes
        assert (other in node.store.replicas) is not is_born
        assert node.commit()
        assert (other in node.store.replicas) is is_born
        assert node.engine.changes > changes


def test_a_lost_replica_is_not_started_and_can_be_removed() -> None:
    cluster = flushed(KitCluster(1).elect().cluster)
    disk = cluster.leader.disk.kill()
    disk.cut_short(next(path for path in disk.paths() if path.endswith(".segment")), 50)
    node = cluster.restart(1, disk)
    assert node.engine.replicas == {}
    assert list(node.engine.lost) == [1]
    cluster.tick(3)
    node.engine.remove_replica(ReplicaId(1))
    cluster.settle()
    assert (node.engine.lost, node.store.replicas) == ({}, {})


# Messages that are not for this node's replicas.


@pytest.mark.parametrize(
    "message",
    [
        RaftMessage(OTHER, Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(99))),
        RaftMessage(GROUP, Message(MessageKind.HEARTBEAT, ReplicaId(77), ReplicaId(2), Term(99))),
        RaftMessage(GROUP, Message(MessageKind.SNAPSHOT, ReplicaId(1), ReplicaId(2), Term(99))),
        SnapshotAck(GROUP, ReplicaId(2), ReplicaId(1), Index(1), Term(1), 5, False),
        SnapshotAck(OTHER, ReplicaId(2), ReplicaId(1), Index(1), Term(1), 5, True),
        EntryFetch(GROUP, ReplicaId(2), ReplicaId(77), Index(1), Term(1)),
        EntryFetch(GROUP, ReplicaId(2), ReplicaId(1), Index(999), Term(1)),
        EntryFetch(GROUP, ReplicaId(2), ReplicaId(1), Index(1), Term(999)),
        EntryFetch(OTHER, ReplicaId(2), ReplicaId(1), Index(1), Term(1)),
    ],
    ids=str,
)
def test_what_is_for_nobody_here_changes_nothing(message: PeerMessage) -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.produce(b"a")
    before = (node.machine.digest(), node.replica.core.term, node.replica.core.is_leader)
    node.engine.deliver(NodeId(2), message)
    node.engine.pump()
    assert node.engine.take_peer_messages() == {}
    assert (node.machine.digest(), node.replica.core.term, node.replica.core.is_leader) == before


# Room.


def test_a_node_makes_its_ballast_before_it_takes_anything() -> None:
    cluster = KitCluster(1)
    cluster.elect()
    assert cluster.leader.disk.size("ballast") == cluster.store_options.ballast_bytes


def test_produce_needs_room_on_a_majority() -> None:
    cluster = trio()
    leader = cluster.leader
    others = [node for node in cluster.nodes.values() if node is not leader]
    full: set[int] = set()

    def say_full(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, Beat) and sender in full:
            leader.engine.deliver(sender, replace(message, has_room=False))
            return False
        return True

    cluster.is_passed = say_full
    full.add(others[0].number)
    cluster.tick(2)
    cluster.produce(b"a")
    full.add(others[1].number)
    cluster.tick(2)
    assert isinstance(cluster.ask(ProduceRequest(batch(b"b"))), NoRoomError)
    lease = cluster.receive()
    assert cluster.ack(lease.lease, (0, 1)).results[0].done_count == 1
    full.clear()
    cluster.tick(2)
    cluster.produce(b"b")


def test_a_leader_with_a_full_disk_hands_over_to_a_node_that_has_room() -> None:
    cluster = trio(store=replace(STORE, ballast_bytes=512 << 10))
    load(cluster, 4, size=100)
    old = cluster.leader
    slow = next(node for node in cluster.nodes.values() if node is not old)
    full = {slow.number}

    def say_full(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, Beat) and sender in full:
            cluster.nodes[to].engine.deliver(sender, replace(message, has_room=False))
            return False
        return True

    cluster.is_passed = say_full
    old.disk.capacity_bytes -= old.disk.space().free_bytes
    cluster.submit(ProduceRequest(batch(*values(20, size=800))))
    cluster.tick(10)
    assert old.store.room is not Room.AMPLE
    assert cluster.leader is old, "nobody else makes a majority with room, and acks must go on"
    assert isinstance(cluster.ask(ProduceRequest(batch(b"x"))), NoRoomError)
    full.clear()
    cluster.tick(20)
    assert cluster.leader is not old
    cluster.produce(b"on")


def test_a_full_disk_refuses_produce_while_acks_go_on_and_recovers_by_itself() -> None:
    cluster = KitCluster(1, store=replace(STORE, ballast_bytes=512 << 10))
    node = cluster.elect()
    cluster.tick(2)
    load(cluster, 4, size=100)
    lease = cluster.receive()
    with node.disk.open("filler", create=True) as file:
        file.allocate(0, 1000)
    node.disk.capacity_bytes -= node.disk.space().free_bytes
    answers = [cluster.submit(ProduceRequest(batch(*values(5, size=800)))) for _ in range(12)]
    cluster.tick(5)
    rooms = [node.store.room]
    assert isinstance(cluster.ask(ProduceRequest(batch(b"x"))), NoRoomError)
    assert all(isinstance(one.answer, ProduceReply | LogBrokerError | None) for one in answers)
    ack = cluster.submit(AckRequest(DEFAULT_GROUP, ((lease.lease, ((0, 12),)),)))
    cluster.tick(5)
    assert ack.reply(SettleReply).results[0].done_count == 12
    assert None not in [one.answer for one in answers], "released room lets what was proposed go on"
    node.disk.capacity_bytes += 100 * MIB
    cluster.tick(30)
    rooms.append(node.store.room)
    assert rooms[0] > rooms[1] == Room.AMPLE
    produced = cluster.produce(b"again")
    assert produced.base_offset == cluster.leader.machine.next_offset - 1
    cluster.restart(1)
    cluster.elect()
    assert cluster.leader.machine.next_offset == produced.base_offset + 1


def test_a_small_disk_takes_produce_again_with_a_small_margin() -> None:
    """What has to be free before that is a ballast and as much again, not what a large disk has to spare."""
    ballast_bytes = 512 << 10
    cluster = KitCluster(1, store=replace(STORE, ballast_bytes=ballast_bytes))
    node = cluster.elect()
    cluster.tick(2)
    node.disk.capacity_bytes -= node.disk.space().free_bytes
    for number in range(12):
        cluster.submit(ProduceRequest(batch(*values(5, start=number, size=800))))
    cluster.tick(5)
    rooms = [node.store.room]
    node.disk.capacity_bytes += 2 * ballast_bytes - node.disk.space().free_bytes
    cluster.tick(30)
    rooms.append(node.store.room)
    node.disk.capacity_bytes += 128 << 10
    cluster.tick(30)
    rooms.append(node.store.room)
    assert rooms[0] > Room.AMPLE < rooms[1]
    assert rooms[2] is Room.AMPLE


def test_a_group_without_room_waits_alone() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    node.engine.create_replica(OTHER, ReplicaId(9), ConfState((ReplicaId(9),)))
    cluster.tick(30)
    assert node.engine.replicas[OTHER].is_serving
    full = node.disk.inject(
        Fault(effect=Effect.NO_ROOM, matches=on(Action.ALLOCATE, below="groups/2-9/"), times=1 << 30)
    )
    waits: list[object] = []
    for _ in range(40):
        node.engine.submit(OTHER, ProduceRequest(batch(*values(3, size=500))), waits.append)
    cluster.settle()
    assert full.struck >= 1
    assert node.engine.statistics().refused_writes >= 1
    lease = cluster.ask(ReceiveRequest(DEFAULT_GROUP, 1, 5_000))
    assert not isinstance(lease, LogBrokerError)
    node.disk.heal()
    cluster.tick(5)
    assert len(waits) == 40
    taken = [answer for answer in waits if isinstance(answer, ProduceReply)]
    assert node.engine.replicas[OTHER].machine.next_offset == 3 * len(taken)


def test_acks_go_on_while_a_page_is_left() -> None:
    """Preallocation asks for less where much is not to be had."""
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.tick(2)
    load(cluster, 4, size=100)
    lease = cluster.receive()
    node.disk.capacity_bytes -= node.disk.space().free_bytes
    asked = [cluster.submit(ProduceRequest(batch(*values(5, size=800)))) for _ in range(12)]
    cluster.tick(5)
    assert all(one.answer is not None for one in asked)
    assert node.disk.space().free_bytes > 8_192
    ack = cluster.submit(AckRequest(DEFAULT_GROUP, ((lease.lease, ((0, 12),)),)))
    cluster.tick(5)
    assert ack.reply(SettleReply).results[0].done_count == 12


def test_a_birth_without_room_does_not_hold_up_the_groups_that_are_there() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.produce(b"a", b"b")
    lease = cluster.receive()
    node.disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.MKDIR, below="groups/2"), times=1 << 30))
    node.engine.create_replica(OTHER, ReplicaId(9), ConfState((ReplicaId(9),)))
    cluster.tick(3)
    asked = cluster.submit(AckRequest(DEFAULT_GROUP, ((lease.lease, ((0, 2),)),)))
    cluster.tick(10)
    assert asked.reply(SettleReply).results[0].done_count == 2
    node.disk.heal()
    cluster.tick(30)
    assert node.engine.replicas[OTHER].is_serving


def test_a_flush_that_finds_no_room_is_tried_once_a_tick() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    load(cluster, 4)
    full = node.disk.inject(
        Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, Action.ZERO_FILL, below="flushed."), times=1 << 30)
    )
    node.store.request_roll()
    cluster.tick(10)
    assert 5 <= full.struck <= 12
    node.disk.heal()
    cluster.tick(2)
    assert node.engine.statistics().flushes >= 1


@pytest.mark.parametrize("place", ["wal/4", "flushed.", "groups/1-1/9"])
def test_want_of_room_in_the_background_is_waited_for(place: str) -> None:
    """A new ring file, the record of a flush, a checkpoint."""
    cluster = KitCluster(1)
    node = cluster.elect()
    node.disk.inject(Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, Action.ZERO_FILL, below=place), times=2))
    asked = []
    for number in range(150):
        asked.append(cluster.submit(ProduceRequest(batch(*values(3, start=number, size=500)))))
        cluster.tick()
    assert node.engine.failed is None
    taken = sum(isinstance(one.answer, ProduceReply) for one in asked)
    assert taken + sum(isinstance(one.answer, NoRoomError) for one in asked) == 150
    assert node.machine.next_offset == 3 * taken


# A disk that fails.


@pytest.mark.parametrize("below", ["wal/", "vote.", "groups/", "flushed."])
def test_a_failed_sync_stops_the_node_and_nobody_gets_a_success(below: str) -> None:
    cluster = trio()
    old = cluster.leader
    load(cluster, 10)
    old.disk.inject(Fault(effect=Effect.ERROR, matches=on(Action.SYNC, below=below)))
    asked = [cluster.submit(ProduceRequest(batch(*values(3, size=500))), node=old) for _ in range(3)]
    old.engine.pump()
    old.engine.take_peer_messages()
    cluster.now_ns += 10**8
    for _ in range(200):
        if old.engine.failed is not None:
            break
        old.store.request_roll()
        old.replica.core.campaign(transfer=True) if below == "vote." and not old.replica.core.is_leader else None
        if below == "vote.":
            old.engine.deliver(
                NodeId(2), RaftMessage(GROUP, Message(MessageKind.HEARTBEAT, old.replica.id, ReplicaId(9), Term(90)))
            )
        cluster.turn(old)
        if old.engine.failed is None:
            old.engine.tick()
    assert old.engine.failed is not None
    assert old.engine.next_commit() is None
    assert old.engine.next_background() is None
    old.engine.tick()
    old.engine.pump()
    assert old.engine.take_peer_messages() == {}
    late = cluster.submit(ProduceRequest(batch(b"late")), node=old)
    assert isinstance(late.answer, NotLeaderError)
    assert not any(isinstance(one.answer, ProduceReply) for one in asked) or below in ("groups/", "flushed.")
    assert all(one.answer is not None for one in asked)
    cluster.stop(old.number)
    cluster.elect()
    acked = cluster.produce(b"others go on")
    cluster.start(old.number, old.disk.kill())
    cluster.tick(20)
    assert agree(cluster)
    assert old.number not in (n for n, node in cluster.nodes.items() if node.machine.next_offset <= acked.base_offset)


# Damage that a peer mends.


def rot(node: KitNode, index: int, *, at: int = 70) -> None:
    """Let a bit of a flushed entry rot; 60 and more is in the payload."""
    log = node.replica.log
    segment = next(s for s in log.state.segments if s.base_index <= index <= s.last_index)
    position = next(
        position for position, head in log._reader(segment).heads_from(SEGMENT_HEADER_BYTES) if head.index == index
    )
    node.disk.flip_bit(f"{log.state.directory}/{segment.base_index:020d}.segment", position + at, 1)


def test_a_follower_fetches_what_rotted_and_acknowledges_nothing_beyond_until_then() -> None:
    cluster = flushed(trio())
    node = follower(cluster)
    rot(node, 20)
    node.replica.log.note_damage(Index(20))
    held: list[PeerMessage] = []

    def hold(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, EntryCopy):
            held.append(message)
            return False
        return True

    cluster.is_passed = hold
    cluster.produce(b"a")
    before = {one.replica: one.match for one in cluster.leader.replica.core.progress()}[node.replica.id]
    cluster.tick(6)
    cluster.produce(b"b")
    assert {one.replica: one.match for one in cluster.leader.replica.core.progress()}[node.replica.id] == before
    assert held
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(12)
    assert not node.replica.log.is_damaged
    cluster.produce(b"c")
    cluster.tick(5)
    assert agree(cluster)
    assert {one.replica: one.match for one in cluster.leader.replica.core.progress()}[node.replica.id] > before


@pytest.mark.parametrize("at", [70, 20])
def test_a_leader_that_finds_damage_hands_over_and_gets_its_copy(at: int) -> None:
    cluster = flushed(trio())
    old = cluster.leader
    first = next(iter(old.replica.log.data_from(Offset(30), max_bytes=1)))
    rot(old, first.index, at=at)
    with pytest.raises(LogBrokerError):
        old.replica.log.entries(first.index, Index(first.index + 1), max_bytes=1)
    cluster.tick(3)
    assert cluster.leader is not old
    cluster.tick(15)
    assert not old.replica.log.is_damaged
    assert ranges_of(cluster.receive(60)) == ((0, 60),)
    assert agree(cluster)


def test_a_restart_over_damage_applies_what_lies_before_and_fetches_the_rest() -> None:
    cluster = trio()
    load(cluster, 30)
    cluster.tick(2)
    node, victim = restart_over_a_hole(cluster, follower(cluster))
    assert node.replica.machine.applied_index < victim
    assert node.engine.failed_groups == {}
    cluster.tick(20)
    assert not node.replica.log.is_damaged
    assert agree(cluster)


def restart_over_a_hole(cluster: KitCluster, node: KitNode) -> tuple[KitNode, Index]:
    """Restart a node without its checkpoints, and with a rotten entry that it has yet to apply."""
    victim = Index(node.replica.log.flushed_index - 1)
    rot(node, victim)
    disk = node.disk.kill()
    for path in disk.paths():
        if path.endswith(".checkpoint"):
            disk.vanish(path)
    return cluster.restart(node.number, disk), victim


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_replica_that_knows_none_of_the_members_asks_their_leader(is_kept: bool) -> None:
    cluster = trio(confs={3: ConfState((ReplicaId(91), ReplicaId(92)))})
    load(cluster, 30)
    cluster.tick(2)
    node, victim = restart_over_a_hole(cluster, cluster.nodes[3])
    leader = cluster.leader.replica
    asked: list[PeerMessage] = []

    def note(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, EntryFetch):
            asked.append(message)
        return is_kept or not isinstance(message, EntryFetch)

    cluster.is_passed = note
    cluster.tick(20)
    assert {message.to for message in asked if isinstance(message, EntryFetch)} == {leader.id}
    if is_kept:
        assert not node.replica.log.is_damaged
        assert agree(cluster)
    else:
        node.engine.deliver(NodeId(leader.id), EntryGone(GROUP, leader.id, node.replica.id, victim, Index(victim + 1)))
        assert list(node.engine.lost) == [ReplicaId(3)]


def test_a_replica_that_cannot_apply_what_nobody_keeps_any_more_is_lost() -> None:
    cluster = trio()
    load(cluster, 30)
    cluster.tick(2)
    node = follower(cluster)
    cluster.is_passed = lambda sender, to, message: not isinstance(message, EntryCopy)
    node, victim = restart_over_a_hole(cluster, node)
    cluster.tick(6)
    replica = node.replica
    assert (replica.log.holes(), replica.machine.applied_index) == ([(victim, 1)], victim - 1)
    other = cluster.leader.replica.id
    for wrong in (
        EntryGone(GROUP, ReplicaId(99), replica.id, victim, Index(victim + 1)),
        EntryGone(GROUP, other, ReplicaId(99), victim, Index(victim + 1)),
        EntryGone(GROUP, other, replica.id, Index(victim - 1), Index(victim)),
    ):
        node.engine.deliver(NodeId(1), wrong)
        assert node.engine.lost == {}
    node.engine.deliver(NodeId(1), EntryGone(GROUP, other, replica.id, victim, Index(victim + 1)))
    assert list(node.engine.lost) == [replica.id]
    assert node.engine.replicas == {}
    cluster.tick(3)
    node = cluster.restart(node.number, node.disk.kill())
    assert list(node.engine.lost) == [replica.id], "for good"
    assert cluster.produce(b"on").base_offset == 90


def test_who_has_let_go_of_an_entry_says_so() -> None:
    cluster = KitCluster(1, settings=PartitionSettings(retention_s=60))
    node = cluster.elect()
    load(cluster, 40)
    cluster.tick(1_200)
    first = node.replica.log.first_index()
    assert first > 1
    node.engine.deliver(NodeId(2), EntryFetch(GROUP, ReplicaId(2), ReplicaId(1), Index(first - 1), Term(1)))
    sent = node.engine.take_peer_messages()[NodeId(2)]
    assert [message for message in sent if isinstance(message, EntryGone)] == [
        EntryGone(GROUP, ReplicaId(1), ReplicaId(2), Index(first - 1), first)
    ]


def test_copies_that_nobody_asked_for_are_ignored() -> None:
    cluster = flushed(trio())
    node = follower(cluster)
    rot(node, 20)
    node.replica.log.note_damage(Index(20))
    (good,) = cluster.leader.replica.log.entries(Index(20), Index(21), max_bytes=1)
    for entry in (replace(good, term=Term(99)), replace(good, index=Index(21)), replace(good, group=OTHER)):
        node.engine.deliver(NodeId(1), EntryCopy(GROUP, ReplicaId(1), node.replica.id, entry))
        assert node.engine.next_background() is None
    node.engine.deliver(NodeId(1), EntryCopy(GROUP, ReplicaId(1), ReplicaId(77), good))
    assert node.engine.next_background() is None
    node.engine.deliver(NodeId(1), EntryCopy(GROUP, ReplicaId(1), node.replica.id, good))
    assert node.background()
    assert list(node.replica.log.state.damaged) == []


def test_a_copy_that_comes_before_the_one_it_needs_is_taken_later() -> None:
    """Of two damaged heads in a row the second has no place before the first is whole."""
    cluster = flushed(trio())
    node = follower(cluster)
    for victim in (21, 20):
        rot(node, victim, at=10)
    for victim in (20, 21):
        with contextlib.suppress(LogBrokerError):
            node.replica.log.entries(Index(victim), Index(victim + 1), max_bytes=1)
    held: list[EntryCopy] = []

    def hold(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, EntryCopy):
            held.append(message)
            return False
        return True

    cluster.is_passed = hold
    cluster.tick(6)
    for copy in sorted(held, key=lambda copy: -copy.entry.index):
        node.engine.deliver(NodeId(1), copy)
    cluster.is_passed = lambda sender, to, message: True
    cluster.tick(30)
    assert not node.replica.log.is_damaged
    cluster.produce(b"a")
    cluster.tick(3)
    assert agree(cluster)


def test_a_sole_voter_answers_corrupt_for_what_is_lost_and_goes_on_with_the_rest() -> None:
    """No peer has a copy: the offsets of the batch can be acked, and nothing else is held up."""
    cluster = flushed(KitCluster(1).elect().cluster)
    node = cluster.leader
    victim = next(iter(node.replica.log.data_from(Offset(30), max_bytes=1)))
    rot(node, victim.index)
    cluster.tick(2)
    lease = cluster.receive(180)
    assert ranges_of(lease) == ((0, 180),)
    assert [part.base_offset for part in lease.parts if part.corrupt] == [30]
    (lost,) = [part for part in lease.parts if part.corrupt]
    assert (lost.batch, lost.append_ms, lost.ranges) == (b"", victim.append_ms, ((30, 33, 1),))
    assert cluster.ack(lease.lease, (0, 180)).results[0].done_count == 180
    cluster.tick(3)
    assert cluster.produce(b"on").base_offset == 180


def test_a_sole_voter_that_lost_its_vote_goes_on_with_the_next_term() -> None:
    cluster = KitCluster(1)
    node = cluster.elect()
    cluster.produce(b"a")
    cluster.tick(2)
    term = node.replica.core.term
    disk = node.disk.kill()
    for path in ("vote.a", "vote.b"):
        disk.scribble(path, 0, bytes(disk.size(path)))
    node = cluster.restart(1, disk)
    assert (node.engine.lost, len(node.store.notes) > 0) == ({}, True)
    cluster.elect()
    assert node.replica.core.term > term
    assert cluster.produce(b"b").base_offset == 1


def test_one_voter_of_three_that_lost_its_vote_is_lost() -> None:
    cluster = trio()
    load(cluster, 2)
    node = follower(cluster)
    disk = node.disk.kill()
    for path in ("vote.a", "vote.b"):
        disk.scribble(path, 0, bytes(disk.size(path)))
    node = cluster.restart(node.number, disk)
    assert list(node.engine.lost) == [ReplicaId(node.number)]
    assert node.engine.replicas == {}
    again = cluster.restart(node.number)
    assert list(again.engine.lost) == [ReplicaId(node.number)]


# Retention.


def test_the_files_of_an_idle_partition_go_within_a_minute_of_its_last_message() -> None:
    """Its only segment is never full; the floor is followed by a roll and two checkpoints."""
    cluster = trio(settings=PartitionSettings(retention_s=60))
    load(cluster, 30)
    for node in cluster.nodes.values():
        node.store.request_roll()
    cluster.produce(b"last")
    cluster.tick(2)
    assert [segments_of(node) for node in cluster.nodes.values()] == [[1], [1], [1]]
    cluster.tick(600)
    assert cluster.leader.replica.machine.log_start_offset == 91
    start = cluster.leader.replica.machine.log_start_index
    cluster.tick(600)
    assert all(base >= start for node in cluster.nodes.values() for base in segments_of(node))
    applied = cluster.leader.replica.machine.applied_index
    cluster.tick(1_800)
    assert cluster.leader.replica.machine.applied_index == applied, "and then all is quiet"
    for number in list(cluster.nodes):
        cluster.restart(number)
    cluster.elect()
    assert cluster.produce(b"next").base_offset == 91


def segments_of(node: KitNode) -> list[int]:
    """Base index of every segment file."""
    names = [path.rpartition("/")[2] for path in node.disk.paths()]
    return [int(name.removesuffix(".segment")) for name in names if name.endswith(".segment")]


def test_segments_below_the_floor_are_deleted_after_two_checkpoints() -> None:
    cluster = KitCluster(
        1,
        settings=PartitionSettings(retention_s=60),
        engine=replace(ENGINE, replica=replace(ENGINE.replica, checkpoint_ms=2_000)),
    )
    node = cluster.elect()
    load(cluster, 100)
    cluster.tick(620)
    load(cluster, 100)
    cluster.tick(40)
    assert node.machine.log_start_offset == 300
    assert node.replica.log.first_index() > 50
    assert sum(path.endswith(".checkpoint") for path in node.disk.paths()) == 2
    cluster.restart(1)
    cluster.elect()
    assert cluster.leader.machine.log_start_offset == 300
    assert ranges_of(cluster.receive(10)) == ((300, 310),)
