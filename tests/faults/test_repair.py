"""A node that is alone and has lost an entry: it stands still, is repaired on an operator's word, and goes on."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupId, Index, Offset, ReplicaId
from logbroker.record.batch import decode_batch
from logbroker.storage.entry_codec import decode_head
from logbroker.storage.index import DictIndex
from logbroker.storage.inspection import Inspection, Remedy
from logbroker.storage.recovery import open_store
from logbroker.storage.repair import repair_store
from logbroker.storage.segment import SEGMENT_HEADER_BYTES
from tests.unit.node.engine_kit import STORE, KitCluster, ranges_of, values

if TYPE_CHECKING:
    from logbroker.entry import EntryKind
    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.repair import Step
    from logbroker.storage.simulated_disk import SimulatedDisk

SOLE = ReplicaId(1)


def loaded(*, flushed: bool, batches: int = 12) -> KitCluster:
    """One node, one batch an entry, nothing in a checkpoint; all but the last entry in a segment if `flushed`."""
    cluster = KitCluster(1)
    cluster.elect()
    for start in range(0, 3 * batches, 3):
        cluster.produce(*values(3, start=start))
    if flushed:
        cluster.nodes[1].store.request_roll()
        cluster.produce(b"the last one")
    cluster.tick(2)
    return cluster


def opened(disk: SimulatedDisk) -> NodeStore:
    return open_store(
        disk,
        STORE,
        node=KitClusterNode,
        open_index=DictIndex,
        random_bytes=random.Random(3).randbytes,
    )


KitClusterNode = KitCluster(1).nodes[1].number


def places(store: NodeStore) -> dict[int, tuple[str, int, int, EntryKind]]:
    """Path, position and payload size of each flushed entry."""
    log = store.replicas[SOLE].log
    found = {}
    for row in log.state.segments:
        for position, head in log._reader(row).heads_from(SEGMENT_HEADER_BYTES):
            path = f"{log.state.directory}/{row.base_index:020d}.segment"
            found[int(head.index)] = (path, position, head.payload_bytes, head.kind)
    return found


def without_checkpoints(disk: SimulatedDisk) -> SimulatedDisk:
    """The whole log is to be applied again."""
    for path in [path for path in disk.paths() if path.endswith(".checkpoint")]:
        disk.vanish(path)
    return disk


def rot(disk: SimulatedDisk, path: str, position: int, *, in_head: bool) -> None:
    disk.flip_bit(path, position + (20 if in_head else 61), 2)


def rot_in_wal(disk: SimulatedDisk, index: int, *, in_head: bool) -> None:
    """Damage every copy of an entry that the write-ahead log holds."""
    wanted = bytes(3) + (1).to_bytes(4, "big") + index.to_bytes(8, "big")
    count = 0
    for path in [path for path in disk.paths() if path.startswith("wal/")]:
        with disk.open(path) as file:
            data = file.pread(file.size(), 0)
        at = data.find(wanted)
        while at > 0:
            with suppress(CorruptBatchError):
                decode_head(data, at - 1)
                rot(disk, path, at - 1, in_head=in_head)
                count += 1
            at = data.find(wanted, at + 1)
    assert count


def repaired(
    disk: SimulatedDisk, *, gives_up_last: bool = False, is_alone: bool = True
) -> tuple[SimulatedDisk, list[Step]]:
    store = opened(disk)
    steps = repair_store(store, is_alone=is_alone, gives_up_last=gives_up_last)
    store.close()
    return disk.kill(), steps


def stuck(cluster: KitCluster, disk: SimulatedDisk) -> KitCluster:
    """The node starts on what rotted, and nobody serves the group however long one waits."""
    cluster.restart(1, disk)
    cluster.tick(60)
    assert cluster.leader_or_none() is None
    return cluster


@pytest.mark.parametrize("in_head", [False, True], ids=["payload", "head"])
def test_a_lost_batch_answers_corrupt_and_everything_else_goes_on(in_head: bool) -> None:
    cluster = loaded(flushed=True)
    disk = cluster.nodes[1].disk.kill()
    victims = [5, 6, 9]
    found = places(opened(disk.copy()))
    for victim in victims:
        rot(disk, *found[victim][:2], in_head=in_head)
    stuck(cluster, disk)
    disk, steps = repaired(cluster.nodes[1].disk.kill())
    assert [(step.index, step.refusal) for step in steps] == [(victim, "") for victim in victims]
    lost = {offset for step in steps for offset in range(*step.offsets)}
    assert len(lost) == 9
    inspection = Inspection(disk.copy())
    inspection.run()
    assert inspection.worst < Remedy.PEERS
    cluster.restart(1, disk)
    cluster.elect()
    reply = cluster.receive(max_count=1_000)
    assert ranges_of(reply) == ((0, 37),)
    told = set()
    for part in reply.parts:
        try:
            decode_batch(part.batch)
        except CorruptBatchError:
            told |= {offset for start, end, _ in part.ranges for offset in range(start, end)}
    assert told == lost
    assert cluster.ack(reply.lease, (0, 37)).results[0].done_count == 37
    assert cluster.produce(b"after").base_offset == 37, "no offset is given out twice"


def test_a_lost_lease_only_lets_messages_be_delivered_again() -> None:
    cluster = loaded(flushed=False, batches=4)
    reply = cluster.receive(max_count=6)
    cluster.nodes[1].store.request_roll()
    cluster.produce(b"rolls")
    cluster.tick(2)
    disk = cluster.nodes[1].disk.kill()
    without_checkpoints(disk)
    leases = [place for place in places(opened(disk.copy())).values() if place[3].name == "STATE"]
    rot(disk, *leases[0][:2], in_head=False)
    stuck(cluster, disk)
    disk, steps = repaired(cluster.nodes[1].disk.kill())
    assert [step.kind.name for step in steps] == ["NOOP"]
    cluster.restart(1, disk)
    cluster.elect()
    assert cluster.ack(reply.lease, (0, 6)).results[0].done_count == 0, "the lease was never made"
    assert ranges_of(cluster.receive(max_count=6)) == ((0, 6),)


@pytest.mark.parametrize("in_head", [False, True], ids=["payload", "head"])
def test_an_entry_that_is_only_in_the_log_is_replaced_too(in_head: bool) -> None:
    cluster = loaded(flushed=False, batches=5)
    disk = cluster.nodes[1].disk.kill()
    rot_in_wal(disk, 4, in_head=in_head)
    stuck(cluster, disk)
    disk, steps = repaired(cluster.nodes[1].disk.kill())
    assert [(step.index, step.refusal, step.kind.name) for step in steps] == [(4, "", "DATA")]
    cluster.restart(1, disk)
    cluster.elect()
    assert ranges_of(cluster.receive(max_count=1_000)) == ((0, 15),)
    assert cluster.produce(b"after").base_offset == 15


def test_a_last_entry_of_which_nothing_is_known_needs_a_word_of_its_own() -> None:
    cluster = loaded(flushed=False, batches=4)
    disk = cluster.nodes[1].disk.kill()
    last = opened(disk.copy()).replicas[SOLE].log.last_index()
    rot_in_wal(disk, last, in_head=True)
    stuck(cluster, disk)
    disk, steps = repaired(cluster.nodes[1].disk.kill())
    assert "nothing tells how many messages it had" in steps[0].refusal
    disk, steps = repaired(disk, gives_up_last=True)
    assert [(step.index, step.refusal) for step in steps] == [(last, "")]
    cluster.restart(1, disk)
    cluster.elect()
    assert cluster.produce(b"after").base_offset == 9


def test_nothing_is_done_where_other_nodes_may_know_better() -> None:
    cluster = loaded(flushed=True)
    disk = cluster.nodes[1].disk.kill()
    rot(disk, *places(opened(disk.copy()))[5][:2], in_head=True)
    disk, steps = repaired(disk, is_alone=False)
    assert "may have changed who is a member" in steps[0].refusal
    three = KitCluster(3)
    three.elect()
    for start in range(10):
        three.produce(*values(3, start=start))
    victim = three.nodes[2]
    victim.store.request_roll()
    three.produce(b"rolls")
    three.tick(2)
    log = victim.replica.log
    assert log.flushed_index > 4
    victim.disk.flip_bit(f"{log.state.directory}/{1:020d}.segment", 700, 1)
    store = opened_as(without_checkpoints(victim.disk.kill()), 2)
    steps = repair_store(store, is_alone=False)
    assert {step.refusal for step in steps} == {"other replicas have it: start them"}


def opened_as(disk: SimulatedDisk, number: int) -> NodeStore:
    from logbroker.ids import NodeId

    return open_store(disk, STORE, node=NodeId(number), open_index=DictIndex, random_bytes=random.Random(3).randbytes)


def test_below_the_checkpoint_nothing_needs_to_be_done() -> None:
    cluster = loaded(flushed=True)
    cluster.tick(700)
    assert any(path.endswith(".checkpoint") for path in cluster.nodes[1].disk.paths())
    disk = cluster.nodes[1].disk.kill()
    rot(disk, *places(opened(disk.copy()))[5][:2], in_head=False)
    cluster.restart(1, disk)
    cluster.elect()
    reply = cluster.receive(max_count=1_000)
    assert [part.corrupt for part in reply.parts].count(True) == 1
    _, steps = repaired(cluster.nodes[1].disk.kill())
    assert steps == []


def test_a_sound_store_is_left_as_it_is() -> None:
    cluster = loaded(flushed=True)
    _, steps = repaired(cluster.nodes[1].disk.kill())
    assert steps == []
    assert cluster.nodes[1].store.replicas[SOLE].log.group == GroupId(1)
    assert (Index(1), Offset(0)) == (1, 0)
