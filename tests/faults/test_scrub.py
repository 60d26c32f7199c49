"""Rot under running nodes: found by the scrubber, fetched from a peer, and gone, without a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.ids import ReplicaId
from logbroker.storage.inspection import Inspection, Remedy
from logbroker.storage.scrub import ScrubOptions
from tests.unit.node.engine_kit import ENGINE, KitCluster, values

if TYPE_CHECKING:
    from tests.unit.node.engine_kit import KitNode

SCRUBBED = replace(ENGINE, scrub=ScrubOptions(bytes_per_s=4 << 20, pause_ms=2_000, first_round_ms=1_000))
ROUND_TICKS = 120


def loaded() -> KitCluster:
    """Three nodes with segments, checkpoints and something in the write-ahead log."""
    cluster = KitCluster(3, engine=SCRUBBED)
    cluster.elect()
    for start in range(0, 600, 20):
        cluster.produce(*values(20, start=start, size=200))
    for node in cluster.nodes.values():
        node.store.request_roll()
    cluster.produce(b"rolls")
    cluster.tick(2)
    cluster.produce(b"stays in the log")
    return cluster


def segments_of(node: KitNode) -> list[str]:
    return [path for path in node.disk.paths() if path.endswith(".segment")]


def rounds(node: KitNode) -> int:
    return node.engine.statistics().scrub.rounds


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_rotten_segment_is_whole_again_within_two_rounds_and_no_restart(victim: int) -> None:
    cluster = loaded()
    node = cluster.nodes[victim]
    path = segments_of(node)[0]
    before = node.disk.copy().digest()
    for offset in range(2_000, node.store.replicas[ReplicaId(victim)].log.state.segments[0].length_bytes, 9_001):
        node.disk.flip_bit(path, offset, 3)
    assert node.disk.copy().digest() != before
    cluster.tick(ROUND_TICKS)
    found = node.engine.statistics().scrub
    assert found.damaged_entries >= 3
    assert not node.replica.log.is_damaged
    assert not any(other.engine.statistics().scrub.damaged_entries for other in cluster.nodes.values() if other != node)
    inspection = Inspection(node.disk.copy())
    inspection.run()
    assert inspection.worst < Remedy.PEERS
    assert cluster.produce(b"after").base_offset == 602


def test_a_leader_that_finds_rot_hands_over_and_nothing_is_lost_meanwhile() -> None:
    cluster = loaded()
    leader = cluster.leader
    leader.disk.flip_bit(segments_of(leader)[0], 5_000, 1)
    cluster.tick(ROUND_TICKS)
    assert leader.engine.statistics().scrub.damaged_entries == 1
    cluster.elect()
    parts = cluster.receive(max_count=1_000, max_bytes=1 << 22).parts
    assert sum(end - start for part in parts for start, end, _ in part.ranges) == 602


def test_a_round_goes_on_beside_a_load() -> None:
    cluster = loaded()
    begun = [rounds(node) for node in cluster.nodes.values()]
    for start in range(200):
        cluster.produce(*values(3, start=start))
        cluster.tick()
    assert all(rounds(node) >= before + 2 for node, before in zip(cluster.nodes.values(), begun, strict=True))


def test_a_rotten_checkpoint_is_replaced_by_two_newer_ones() -> None:
    cluster = loaded()
    node = cluster.nodes[2]
    path = next(path for path in node.disk.paths() if path.endswith(".checkpoint"))
    node.disk.flip_bit(path, 60, 1)
    for start in range(120):
        cluster.produce(*values(3, start=start))
        cluster.tick()
    assert node.engine.statistics().scrub.damaged_checkpoints == 1
    inspection = Inspection(node.disk.copy())
    assert not [one for one in inspection.run() if one.code == "checkpoint"]


def test_votes_and_record_are_mended_under_a_running_node() -> None:
    cluster = loaded()
    node = cluster.nodes[3]
    for path in ("vote.a", "flushed.b"):
        node.disk.flip_bit(path, 20, 1)
    cluster.tick(ROUND_TICKS)
    assert node.engine.statistics().scrub.mended_copies == 2
    inspection = Inspection(node.disk.copy())
    inspection.run()
    assert inspection.worst < Remedy.START
