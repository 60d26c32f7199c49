"""What must happen while faults go on: each rule is shown a cluster that breaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.ids import LeaseId
from logbroker.node import engine
from logbroker.node.partition_service import PartitionService
from logbroker.node.replica import Replica
from logbroker.node.requests import ReceiveReply
from logbroker.raft import leader as leader_module
from logbroker.storage.segment import segment_path
from logbroker.testing.history import Verdict
from logbroker.testing.network import Cut
from logbroker.testing.scenarios.cluster_script import ClusterScript
from logbroker.testing.scheduler import US_PER_MS, US_PER_S
from logbroker.testing.violation import Violation

if TYPE_CHECKING:
    from logbroker.testing.node import SimulatedNode


@pytest.fixture
def script() -> ClusterScript:
    made = ClusterScript()
    made.produce(2, batches=2)
    return made


def test_a_leader_that_hears_nobody_and_stays_is_noticed(
    script: ClusterScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_module, "_has_quorum", lambda state: True)
    deaf = script.leader()
    for follower in script.followers():
        script.cluster.network.cut(follower.node, deaf.node, Cut.LOST)
    with pytest.raises(Violation, match="a well-connected majority has a leader"):
        script.run(8_000)


def test_a_leader_whose_disk_hangs_and_that_stays_is_noticed(
    script: ClusterScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STUCK_TICKS", 1 << 62)
    script.leader().stall_disk(20 * US_PER_S)
    script.ask(script.leader(), script.batch())
    with pytest.raises(Violation, match="a well-connected majority has a leader"):
        script.run(10_000)


def test_without_the_bug_both_are_replaced_in_time(script: ClusterScript) -> None:
    first = script.leader()
    for follower in script.followers():
        script.cluster.network.cut(follower.node, first.node, Cut.LOST)
    script.run(8_000)
    second = script.leader()
    assert second is not first
    second.stall_disk(8 * US_PER_S)
    script.ask(second, script.batch())
    script.cluster.network.heal()
    script.run(8_000)
    assert script.leader() is not second
    assert script.cluster.progress.counts["looks at a well-connected majority without a leader"]


def test_a_leader_that_commits_with_a_part_of_the_majority_is_enough(script: ClusterScript) -> None:
    leader, (deaf, linked) = script.leader(), script.followers()
    for follower in (deaf, linked):
        script.cluster.network.cut(leader.node, follower.node, Cut.HELD)
    # Long enough to be looked at, too short for an election: the majority that is well is the other two.
    script.run(600)
    script.cluster.network.cut(leader.node, linked.node, Cut.OPEN)
    script.run(12_000)
    assert script.leader() is leader
    script.produce()


def test_a_request_that_a_follower_keeps_is_noticed(script: ClusterScript) -> None:
    follower = script.followers()[0]
    assert follower.engine is not None
    follower.engine.submit = lambda group, request, answer: None  # type: ignore[method-assign]  # the planted bug
    script.ask(follower, script.batch())
    with pytest.raises(Violation, match="who does not lead keeps nobody waiting"):
        script.run(6_000)


@pytest.fixture
def full(script: ClusterScript, monkeypatch: pytest.MonkeyPatch) -> SimulatedNode:
    """The leader; its disk is full from now on, and it leads on though others have room."""
    monkeypatch.setattr(Replica, "hand_over", lambda *_: False)
    leader = script.leader()
    leader.fill_disk(leave_bytes=0)
    return leader


def test_an_ack_that_a_full_disk_holds_up_is_noticed(script: ClusterScript, full: SimulatedNode) -> None:
    assert full.engine is not None
    full.engine.submit = lambda group, request, answer: None  # type: ignore[method-assign]  # the planted bug
    script.ack(full, LeaseId(1), [(0, 1)])
    with pytest.raises(Violation, match="a full disk holds up no acks"):
        script.run(6_000)


def test_an_ack_that_waits_for_a_process_that_stands_still_waits_for_no_room(
    script: ClusterScript, full: SimulatedNode
) -> None:
    lease = script.answer(script.receive(full), ReceiveReply).lease
    full.pause(6 * US_PER_S)
    ack = script.ack(full, lease, [(0, 1)])
    script.run(8_000)
    assert ack.verdict is not Verdict.PENDING


def test_an_ack_that_waited_for_another_disk_waits_for_no_room(script: ClusterScript, full: SimulatedNode) -> None:
    lease = script.answer(script.receive(full), ReceiveReply).lease
    # Looked at in the very moment in which the disks move again.
    until_look_us = -script.scheduler.now_us % (500 * US_PER_MS)
    for follower in script.followers():
        follower.stall_disk(4 * US_PER_S + until_look_us)
    script.ack(full, lease, [(0, 1)])
    script.run(8_000)
    assert script.cluster.progress.counts["looks at a leader whose disk is full"]


def test_a_poll_that_sleeps_through_what_comes_is_noticed(
    script: ClusterScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = script.leader()
    script.receive(leader)
    script.run(500)
    monkeypatch.setattr(PartitionService, "after_pump", lambda service: None)
    script.receive(leader, wait_ms=2_000)
    script.run(200)
    script.produce()
    with pytest.raises(Violation, match="who asks gets what there is"):
        script.run(4_000)


def test_nothing_is_lost_elsewhere_while_what_rotted_was_not_read_again(script: ClusterScript) -> None:
    for _ in range(5):
        script.produce()
    one, other = script.followers()
    assert one.engine is not None
    one.engine.store.request_roll()
    script.produce()
    script.run(2_000)
    (log,) = (replica.log for replica in one.engine.replicas.values())
    (segment,) = log.state.segments
    assert script.cluster.may_lose_data_on(other)
    one.disk.flip_bit(segment_path(log.state.directory, segment.base_index), segment.length_bytes - 1, 1)
    assert one.is_whole
    assert not script.cluster.may_lose_data_on(other)
