"""A snapshot on its way: chunks lost, doubled and late; crashes of both ends; and who may believe it when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import Index, NodeId, ReplicaId
from logbroker.node.partition_service import PartitionSettings
from logbroker.node.peer_messages import RaftMessage, SnapshotAck, SnapshotChunk
from logbroker.node.snapshots import DEADLINE_TICKS, RESEND_TICKS, SnapshotReceiver, SnapshotSender
from logbroker.raft.messages import ConfState, Message, MessageKind, SnapshotMeta
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, SimulatedDisk, on
from tests.unit.node.engine_kit import ENGINE, KitCluster, KitNode, ranges_of, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.peer_messages import PeerMessage

SMALL_CHUNKS = 4 << 10


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks without many megabytes."""
    monkeypatch.setattr("logbroker.node.snapshots.CHUNK_BYTES", SMALL_CHUNKS)


class Lagging:
    """Three nodes; one was away until its entries were gone from the others' logs."""

    def __init__(self) -> None:
        self.cluster = KitCluster(
            3,
            settings=PartitionSettings(retention_s=60),
            engine=replace(ENGINE, replica=replace(ENGINE.replica, checkpoint_ms=2_000)),
        )
        self.leader = self.cluster.elect()
        self.number = next(number for number in (3, 2) if number != self.leader.number)
        self.cluster.produce(b"seen by all")
        self.cluster.tick()
        self.cluster.stop(self.number)
        for number in range(70):
            self.cluster.produce(*values(3, start=3 * number, size=500))
        self.cluster.tick(620)
        for number in range(30):
            self.cluster.produce(*values(3, start=3 * number, size=500))
        self.cluster.tick(45)
        assert self.leader.replica.log.first_index() > 3
        self.chunks: list[tuple[NodeId, SnapshotChunk]] = []
        self.acks: list[SnapshotAck] = []

    @property
    def node(self) -> KitNode:
        return self.cluster.nodes[self.number]

    def come_back(self) -> None:
        self.cluster.stopped.discard(self.number)
        self.cluster.is_passed = self.watch(lambda message: True)

    def watch(self, passes: Callable[[PeerMessage], bool]) -> Callable[[NodeId, NodeId, PeerMessage], bool]:
        def is_passed(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
            if isinstance(message, SnapshotChunk):
                self.chunks.append((sender, message))
            if isinstance(message, SnapshotAck):
                self.acks.append(message)
            return passes(message)

        return is_passed

    @property
    def is_whole(self) -> bool:
        leader = self.cluster.leader_or_none()
        return leader is not None and self.node.machine.digest() == leader.machine.digest()


def test_a_follower_too_far_behind_gets_a_snapshot_and_then_the_rest() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.tick(40)
    assert len(lagging.chunks) > 3
    assert lagging.is_whole
    first, leader = lagging.node.replica.log.first_index(), lagging.leader.replica
    assert leader.log.first_index() <= first == leader.machine.log_start_index, "nothing that is on its way out"
    assert list(lagging.node.replica.log.entries(first, Index(first + 20), max_bytes=1 << 20)) == list(
        lagging.leader.replica.log.entries(first, Index(first + 20), max_bytes=1 << 20)
    )
    lagging.cluster.restart(lagging.number)
    lagging.cluster.tick(20)
    assert lagging.is_whole
    assert lagging.node.engine.lost == {}


def test_the_old_log_stands_until_everything_is_there_and_the_status_says_how_far_it_is() -> None:
    lagging = Lagging()
    before = lagging.node.replica.log.last_index()
    lagging.come_back()
    lagging.cluster.is_passed = lagging.watch(
        lambda message: not isinstance(message, SnapshotAck) or len(lagging.chunks) < 6
    )
    lagging.cluster.tick(5)
    percent = lagging.node.engine.fill_percent(lagging.node.replica.group)
    assert percent is not None
    assert 0 < percent < 100
    assert lagging.node.replica.log.last_index() == before
    lagging.cluster.is_passed = lagging.watch(lambda message: True)
    lagging.cluster.tick(30)
    assert lagging.node.engine.fill_percent(lagging.node.replica.group) is None
    assert lagging.is_whole


@pytest.mark.parametrize("kind", [SnapshotChunk, SnapshotAck])
@pytest.mark.parametrize("nth", [2, 3])
def test_lost_chunks_and_answers_are_sent_again(kind: type[PeerMessage], nth: int) -> None:
    lagging = Lagging()
    lagging.come_back()
    seen = [0]

    def passes(message: PeerMessage) -> bool:
        if not isinstance(message, kind):
            return True
        seen[0] += 1
        return seen[0] % nth != 0

    lagging.cluster.is_passed = lagging.watch(passes)
    lagging.cluster.tick(40 * RESEND_TICKS)
    assert lagging.is_whole


def test_doubled_chunks_change_nothing() -> None:
    lagging = Lagging()
    lagging.come_back()

    def passes(message: PeerMessage) -> bool:
        if isinstance(message, SnapshotChunk):
            lagging.node.engine.deliver(lagging.leader.number, message)
        if isinstance(message, SnapshotAck):
            lagging.leader.engine.deliver(NodeId(lagging.number), message)
        return True

    lagging.cluster.is_passed = lagging.watch(passes)
    lagging.cluster.tick(40)
    assert lagging.is_whole


def test_chunks_that_come_after_the_install_leave_the_log_alone() -> None:
    """The snapshot's directory is the log's own by then."""
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.tick(40)
    assert lagging.is_whole
    node = lagging.node
    before = {path: node.disk.size(path) for path in node.disk.paths() if path.startswith("groups/")}
    for sender, chunk in lagging.chunks:
        node.engine.deliver(sender, chunk)
        lagging.cluster.settle()
    assert {path: node.disk.size(path) for path in node.disk.paths() if path.startswith("groups/")} == before
    assert node.engine.fill_percent(node.replica.group) is None
    lagging.cluster.restart(lagging.number)
    lagging.cluster.tick(20)
    assert lagging.is_whole


def test_a_receiver_that_is_killed_begins_again() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.is_passed = lagging.watch(lambda message: len(lagging.chunks) < 3)
    lagging.cluster.tick(3)
    directory = f"groups/1-{lagging.number}."
    assert any(path.startswith(directory) for path in lagging.node.disk.paths()) or lagging.chunks
    lagging.cluster.restart(lagging.number)
    assert not any(path.startswith(directory) for path in lagging.node.disk.paths())
    lagging.come_back()
    lagging.cluster.tick(DEADLINE_TICKS + 60)
    assert lagging.is_whole


def test_a_sender_that_is_killed_leaves_a_receiver_that_takes_anothers() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.is_passed = lagging.watch(lambda message: len(lagging.chunks) < 3)
    lagging.cluster.tick(3)
    lagging.cluster.is_passed = lagging.watch(lambda message: True)
    lagging.cluster.stop(lagging.leader.number)
    lagging.cluster.tick(100)
    assert lagging.cluster.leader is not lagging.leader
    assert lagging.is_whole


def test_a_sender_gives_up_after_its_deadline_and_lets_its_segments_go() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.is_passed = lagging.watch(lambda message: not isinstance(message, SnapshotAck | SnapshotChunk))
    lagging.cluster.tick(5)
    assert lagging.leader.replica.log.is_pinned
    lagging.cluster.stop(lagging.number)
    lagging.cluster.tick(DEADLINE_TICKS + 2)
    assert not lagging.leader.replica.log.is_pinned


def test_a_full_disk_of_the_receiver_is_answered_and_tried_again() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.node.disk.inject(
        Fault(effect=Effect.NO_ROOM, matches=on(Action.PWRITE, below=f"groups/1-{lagging.number}."), times=2)
    )
    lagging.cluster.tick(100)
    assert any(ack.refused for ack in lagging.acks)
    assert lagging.is_whole
    assert lagging.node.engine.failed is None


def test_a_rotten_chunk_is_refused_and_the_snapshot_sent_again() -> None:
    lagging = Lagging()
    lagging.come_back()
    spoiled = [0]

    def spoil(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, SnapshotChunk) and message.position >= message.checkpoint_bytes and spoiled[0] < 2:
            spoiled[0] += 1
            data = bytearray(message.data)
            data[70] ^= 1
            lagging.node.engine.deliver(sender, replace(message, data=bytes(data)))
            return False
        return True

    lagging.cluster.is_passed = spoil
    lagging.cluster.tick(100)
    assert spoiled[0] == 2
    assert lagging.is_whole


def test_a_rotten_checkpoint_is_never_installed() -> None:
    lagging = Lagging()
    lagging.come_back()
    before = lagging.node.replica.log.last_index()

    def spoil(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, SnapshotChunk) and message.position == 0:
            data = bytearray(message.data)
            data[message.checkpoint_bytes // 2] ^= 1
            lagging.node.engine.deliver(sender, replace(message, data=bytes(data)))
            return False
        return True

    lagging.cluster.is_passed = lagging.watch(lambda message: True)
    watch = lagging.cluster.is_passed
    lagging.cluster.is_passed = lambda sender, to, message: watch(sender, to, message) and spoil(sender, to, message)
    lagging.cluster.tick(60)
    assert any(ack.refused for ack in lagging.acks)
    assert lagging.node.replica.log.last_index() == before
    lagging.cluster.is_passed = watch
    lagging.cluster.tick(60)
    assert lagging.is_whole


def test_a_leader_whose_own_copy_rotted_gives_up_and_stays_up() -> None:
    lagging = Lagging()
    log = lagging.leader.replica.log
    segment = log.state.segments[0]
    lagging.leader.disk.flip_bit(f"{log.state.directory}/{segment.base_index:020d}.segment", 120, 1)
    lagging.come_back()
    lagging.cluster.tick(150)
    assert lagging.leader.engine.failed is None
    assert lagging.is_whole


def test_a_leader_without_the_checkpoint_file_says_so_and_stays_up() -> None:
    lagging = Lagging()
    for path in list(lagging.leader.disk.paths()):
        if path.endswith(".checkpoint"):
            lagging.leader.disk.vanish(path)
    lagging.come_back()
    lagging.cluster.tick(3)
    assert lagging.leader.engine.failed is None
    for number in range(20):
        lagging.cluster.produce(*values(3, start=number, size=500))
        lagging.cluster.tick(3)
    lagging.cluster.tick(40)
    assert lagging.is_whole


def test_chunks_for_somebody_else_are_dropped() -> None:
    lagging = Lagging()
    lagging.come_back()
    lagging.cluster.is_passed = lagging.watch(lambda message: not isinstance(message, SnapshotChunk))
    lagging.cluster.tick(3)
    (sender, chunk) = lagging.chunks[0]
    engine = lagging.node.engine
    for other in (replace(chunk, to=ReplicaId(77)), replace(chunk, group=99), replace(chunk, position=5)):  # type: ignore[arg-type]
        engine.deliver(sender, other)
        assert engine.next_background() is None
        assert engine.fill_percent(lagging.node.replica.group) is None
    assert sender == lagging.leader.number


def test_a_crash_at_any_change_while_a_snapshot_comes_in_leaves_the_old_log_or_the_new() -> None:
    """The install itself too: WAL, directories, the flush that lets the old one go."""
    counting = Lagging()
    before = counting.node.disk.change_count
    counting.come_back()
    counting.cluster.tick(40)
    total = counting.node.disk.change_count - before
    assert counting.is_whole
    for change in range(1, total, max(1, total // 5)):
        lagging = Lagging()
        disk = lagging.node.disk
        lagging.come_back()
        disk.crash_before(disk.change_count + change)
        try:
            lagging.cluster.tick(40)
        except SimulatedCrash:
            pass
        else:
            pytest.fail("no crash")
        lagging.cluster.restart(lagging.number, disk.crash(keep=lagging.cluster.random))
        assert lagging.node.engine.lost == {}, change
        lagging.cluster.tick(DEADLINE_TICKS + 80)
        assert lagging.is_whole, change


def test_leases_survive_in_the_snapshot() -> None:
    lagging = Lagging()
    lease = lagging.cluster.receive(20, hide_ms=600_000)
    lagging.cluster.tick(30)
    lagging.come_back()
    lagging.cluster.tick(40)
    assert lagging.is_whole
    lagging.cluster.stop(lagging.leader.number)
    lagging.cluster.tick(60)
    assert sum(end - start for start, end in ranges_of(lease)) == 20
    assert lagging.cluster.ack(lease.lease, *ranges_of(lease)).results[0].done_count == 20


# The two ends alone.


def test_an_answer_of_another_snapshot_moves_nothing() -> None:
    lagging = Lagging()
    log = lagging.leader.replica.log
    meta = SnapshotMeta(log.last_index(), log.term(log.last_index()), ConfState())
    message = Message(MessageKind.SNAPSHOT, ReplicaId(3), lagging.leader.replica.id, lagging.leader.replica.core.term)
    sender = SnapshotSender(log, message, meta, b"checkpoint", log_start_index=Index(1), transfer=1)
    first = sender.first()
    good = SnapshotAck(log.group, ReplicaId(3), log.replica, meta.index, meta.term, len(first.data), False)
    assert sender.on_ack(replace(good, index=Index(1))) is None
    assert sender.on_ack(replace(good, position=3)) is None
    second = sender.on_ack(good)
    assert second is not None
    assert second.position == len(first.data)
    assert sender.on_ack(good) is None, "the same answer twice"
    ticks = [sender.on_tick() for _ in range(RESEND_TICKS)]
    assert ticks == [None] * (RESEND_TICKS - 1) + [second]


def test_entries_that_are_not_the_next_ones_end_the_snapshot() -> None:
    lagging = Lagging()
    log = lagging.leader.replica.log
    first = log.first_index()
    one, two, three = log.entries(first, Index(first + 3), max_bytes=1 << 20)
    disk = SimulatedDisk()
    disk.mkdir("groups")

    def fresh() -> SnapshotReceiver:
        return SnapshotReceiver(
            disk, log.group, ReplicaId(3), Index(first + 2), three.term, Index(first - 1), one.term, 1 << 20
        )

    base = SnapshotChunk(
        log.group, log.replica, ReplicaId(3), one.term, 1, Index(first + 2), three.term, Index(first - 1), one.term,
        0, 10_000, 0, True, b"",
    )  # fmt: skip
    bodies = {
        "a gap": one.head + one.payload + three.head + three.payload,
        "another begin": two.head + two.payload + three.head + three.payload,
        "an early end": one.head + one.payload + two.head + two.payload,
        "half an entry": one.head + one.payload + two.head + two.payload + three.head,
        "nothing": b"",
    }
    for what, data in bodies.items():
        with pytest.raises(CorruptBatchError):
            fresh().take(replace(base, data=data))
        assert what
    whole = b"".join(part for entry in (one, two, three) for part in (entry.head, entry.payload))
    made = fresh()
    job = made.take(replace(base, data=whole))
    assert job is not None
    assert made.take(replace(base, data=whole)) is None, "one write at a time"
    job.run()
    assert made.on_written(job).position == len(whole)
    assert made.is_complete
    assert made.loaded is None, "there was no checkpoint in it"


def test_raft_never_sees_a_snapshot_message_before_its_data_is_durable() -> None:
    lagging = Lagging()
    lagging.come_back()
    node = lagging.node
    before = node.replica.core.commit
    meta = SnapshotMeta(Index(500), node.replica.core.term, node.replica.conf)
    message = Message(
        MessageKind.SNAPSHOT,
        node.replica.id,
        lagging.leader.replica.id,
        lagging.leader.replica.core.term,
        snapshot=meta,
    )
    node.engine.deliver(lagging.leader.number, RaftMessage(node.replica.group, message))
    node.engine.pump()
    assert node.replica.core.commit == before
