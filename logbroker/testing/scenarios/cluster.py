"""Scenarios of a whole cluster: the orders of events in which systems like this one have lost or doubled messages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from logbroker.ids import DEFAULT_GROUP, Index
from logbroker.node.requests import ReceiveReply, SettleReply
from logbroker.testing.faults import DAY_MS
from logbroker.testing.history import Verdict
from logbroker.testing.network import Cut
from logbroker.testing.scenarios.cluster_script import GROUP, ClusterScript
from logbroker.testing.scheduler import US_PER_MS
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.testing.node import SimulatedNode


def crash_at_every_step_of_an_install() -> dict[str, int]:
    """A follower far behind gets a snapshot, and its power is cut at each step of taking it."""
    script = ClusterScript(clock_speed=20)
    reached = {"cut while filling": 0, "installed": 0}
    victim = script.followers()[0]
    for change in range(2, 46, 4):
        _fall_behind_the_log_start(script, victim)
        victim.start()
        script.until("a snapshot arrives", lambda: _is_filling(victim), step_us=50)
        victim.crash_at_change(change)
        script.until("the cut strikes or the snapshot is in", lambda: not victim.is_running or _has_log(script, victim))
        reached["installed" if victim.is_running else "cut while filling"] += 1
        victim.disk.heal()
        if not victim.is_running:
            script.until("it starts again", lambda: victim.is_running)
        script.until("it has caught up", lambda: _has_log(script, victim), within_ms=40_000)
    script.finish()
    return reached


def _fall_behind_the_log_start(script: ClusterScript, victim: SimulatedNode) -> None:
    """Stop a node until the others have no entry left that it could go on from."""
    if victim.is_running:
        victim.kill()
    last = max(log.last_index for log in victim.durable.values())

    def others_began_anew() -> bool:
        script.produce(2, size=1_500)
        replica = script.leader().replica(GROUP)
        return replica is not None and replica.log.first_index() > last + 1

    script.until("the log start passes the stopped node", others_began_anew, within_ms=120_000)


def _is_filling(node: SimulatedNode) -> bool:
    return node.engine is not None and node.engine.fill_percent(GROUP) is not None


def _has_log(script: ClusterScript, node: SimulatedNode) -> bool:
    replica = node.replica(GROUP)
    return replica is not None and replica.machine.applied_index + 5 >= script.model.last_index


def snapshot_is_durable_when_it_is_acknowledged() -> dict[str, int]:
    """The moment a follower acknowledges a snapshot its power is cut and nothing unsynced is left."""
    script = ClusterScript(clock_speed=20)
    victim = script.followers()[0]
    reached = {"acknowledged and cut": 0}
    for _ in range(3):
        _fall_behind_the_log_start(script, victim)
        before = script.model.last_index
        victim.start()

        script.until("the leader counts the follower", partial(_is_counted, script, victim, before - 5))
        victim.cut_power()
        log = max(victim.durable.values(), key=lambda durable: durable.last_index)
        reached["acknowledged and cut"] += log.last_index >= before - 5
        victim.start()
        replica = victim.replica(GROUP)
        if replica is None or replica.log.last_index() < log.last_index:
            broken("durable stays", "the acknowledged snapshot is gone")
        script.until("it has caught up", lambda: _has_log(script, victim))
    script.finish()
    return reached


def _is_counted(script: ClusterScript, follower: SimulatedNode, index: int) -> bool:
    """Whether the leader counts a follower for everything up to `index`."""
    leading, own = script.leader().replica(GROUP), follower.replica(GROUP)
    if leading is None or own is None:
        return False
    return any(each.replica == own.id and each.match >= index for each in leading.core.progress())


def leader_again_with_an_old_proposal_in_flight() -> dict[str, int]:
    """A leader's write hangs while it is voted out and its index is given to another entry; then it leads again."""
    script = ClusterScript()
    script.produce(1, batches=3)
    old = script.leader()
    reached = {"old writes finished in a later term": 0, "led again": 0}
    for _ in range(4):
        old.stall_disk(60_000 * US_PER_MS)
        for sender, to in script.links(old):
            script.cluster.network.cut(sender, to, Cut.LOST)
        request = script.batch(2)
        script.ask(old, request, timeout_ms=60_000)
        script.run(200)
        replica = old.replica(GROUP)
        term = old.term(GROUP)
        in_flight = Index(0) if replica is None else replica.core.last_index
        new = script.leader(but=old)
        # The batch goes to the new leader too: same producer, same sequence, another index or term.
        script.produce_again(request)
        script.produce(1, batches=2)
        for sender, to in script.links(old):
            script.cluster.network.cut(sender, to, Cut.OPEN)
        script.run(1_500)
        old.unstall_disk()
        script.run(1_500)
        if replica is not None and old.replica(GROUP) is replica:
            later = replica.core.term > term and replica.log.last_index() >= in_flight
            reached["old writes finished in a later term"] += later
        script.until("the hand-over is asked for", partial(_hand_over_to, new, old))
        script.until("the old leader leads again", lambda: old.serves(GROUP))
        reached["led again"] += 1
        script.produce(1)
    script.finish()
    return reached


def _hand_over_to(leader: SimulatedNode, to: SimulatedNode) -> bool:
    """Ask whoever leads to hand over to one node; again until it leads."""
    if to.leads(GROUP):
        return True
    replica, target = leader.replica(GROUP), to.replica(GROUP)
    if replica is None or target is None or not replica.core.is_leader:
        return False
    if not replica.core.transfer_target:
        replica.transfer_leadership(target.id)
        leader.wake()
    return False


def duplicate_of_a_batch_in_flight() -> dict[str, int]:
    """A batch is sent twice while its first copy is not committed, and the leader dies; it must be there once."""
    reached = {"doubled in flight": 0, "kept by the new leader": 0, "lost with the old one": 0}
    for keeps in (True, False):
        script = ClusterScript()
        script.produce(1, batches=3)
        old = script.leader()
        for sender, to in script.links(old):
            # Either the entry reaches the others and only their answers are lost, or nothing gets out at all.
            if (sender != old.node) == keeps or (not keeps and sender == old.node):
                script.cluster.network.cut(sender, to, Cut.LOST)
        request = script.batch(3)
        first = script.ask(old, request)
        second = script.ask(old, request)
        script.run(60)
        reached["doubled in flight"] += first.verdict is second.verdict is Verdict.PENDING
        held = old.replica(GROUP)
        index = Index(0) if held is None else held.core.last_index
        old.kill()
        script.cluster.network.heal()
        new = script.leader(but=old)
        kept = new.replica(GROUP)
        has_it = kept is not None and kept.core.last_index > index
        reached["kept by the new leader" if keeps and has_it else "lost with the old one"] += 1
        reply = script.produce_again(request)
        if keeps and not reply.duplicate:
            broken("a duplicate is told as one", f"{reply}")
        old.start()
        script.produce(1)
        script.finish()
    return reached


def clock_of_the_leader_jumps_by_days() -> dict[str, int]:
    """The leader's wall clock jumps 15 days ahead: no lease ends, nothing is deleted, log time goes on at its pace."""
    return _clock_jumps(lambda script: script.leader(), then=lambda script, node: None)


def clock_of_a_follower_jumps_by_days() -> dict[str, int]:
    """A follower's wall clock jumps 15 days ahead and the leader dies: somebody else leads, and time does not leap."""

    def kill_the_leader(script: ClusterScript, node: SimulatedNode) -> None:
        old = script.leader()
        old.kill()
        script.run(500)
        old.start()
        if script.leader(but=None) is node:
            broken("a clock that is off does not lead", f"node {node.node} leads")

    return _clock_jumps(lambda script: script.followers()[0], then=kill_the_leader)


def _clock_jumps(
    choose: Callable[[ClusterScript], SimulatedNode], *, then: Callable[[ClusterScript, SimulatedNode], None]
) -> dict[str, int]:
    script = ClusterScript()
    script.produce(2, batches=5)
    held = script.answer(script.receive(script.leader(), max_count=3, hide_ms=60_000), ReceiveReply)
    script.run(1_000)
    before_ms = script.model.append_ms
    node = choose(script)
    node.clock.jump(15 * DAY_MS)
    script.run(2_000)
    then(script, node)
    script.produce(2, batches=5)
    script.run(3_000)
    script.produce(1)
    _require_no_leap(script, before_ms, within_ms=40_000)
    lease = script.model.groups[DEFAULT_GROUP].leases[held.lease]
    still = script.model.groups[DEFAULT_GROUP].message(0).lease == lease.lease
    if not still:
        broken("a lease is never shortened", "the clock of one node ended it")
    reached = {"clock off by days": int(node.clock.wall_ms() > script.cluster.wall_ms() + 14 * DAY_MS)}
    reached["leases that lived on"] = int(still)
    ranges = [(start, end) for part in held.parts for start, end, _ in part.ranges]
    script.answer(script.ack(script.leader(), held.lease, ranges), SettleReply)
    script.finish()
    return reached


def _require_no_leap(script: ClusterScript, before_ms: int, *, within_ms: int) -> None:
    if script.model.append_ms > before_ms + within_ms or script.model.log_start_offset:
        broken(
            "log time neither stands still nor leaps",
            f"it went from {before_ms} to {script.model.append_ms}, the log starts at {script.model.log_start_offset}",
        )


def clock_of_a_single_node_jumps_by_days() -> dict[str, int]:
    """A single node's wall clock jumps 15 days ahead, running and then over a restart: nothing is deleted by it."""
    script = ClusterScript(nodes=1)
    script.produce(2, batches=5)
    script.run(1_000)
    before_ms = script.model.append_ms
    node = script.leader()
    node.clock.jump(15 * DAY_MS)
    script.run(2_000)
    script.produce(2, batches=3)
    _require_no_leap(script, before_ms, within_ms=30_000)
    reached = {"jumps while running": 1, "restarts into the future": 0}
    node.kill()
    node.start()
    script.leader()
    script.produce(1)
    script.run(5_000)
    script.produce(1)
    reached["restarts into the future"] += script.model.append_ms > before_ms + 14 * DAY_MS
    if script.model.log_start_offset:
        broken("retention waits for the operator", f"the log starts at {script.model.log_start_offset}")
    script.answer(script.receive(script.leader(), max_count=100), ReceiveReply)
    script.run(6_000)
    script.finish()
    return reached


def wiped_node_with_an_unchanged_configuration() -> dict[str, int]:
    """A node comes back with an empty disk and its old name: it votes for nothing until it is a new, filled member."""
    script = ClusterScript()
    script.produce(3, batches=10)
    victim = script.followers()[0]
    old = victim.replica(GROUP)
    old_id = 0 if old is None else old.id
    script.cluster.wipe(victim, restart_after_us=500 * US_PER_MS)
    script.run(1_000)
    script.produce(3, batches=3)
    script.until("the new replica is a voter", lambda: script.cluster.membership.is_settled, within_ms=60_000)
    new = victim.replica(GROUP)
    reached = {"new replica": int(new is not None and new.id != old_id), "leader with the new voter": 0}
    # From here on the new replica is needed for a majority, and it must know everything.
    other = next(node for node in script.followers() if node is not victim)
    other.kill()
    script.produce(2, batches=3)
    leader = script.leader()
    script.until("the hand-over is asked for", partial(_hand_over_to, leader, victim))
    script.until("the new replica leads", lambda: victim.serves(GROUP))
    reached["leader with the new voter"] += 1
    script.produce(1)
    other.start()
    script.finish()
    return reached


def lease_expires_on_an_idle_partition() -> dict[str, int]:
    """One message, one lease, no other traffic: a waiting receive gets it soon after the hide time, from any leader."""
    reached = {"redelivered": 0, "redelivered by a new leader": 0}
    for changes_leader in (False, True):
        script = ClusterScript()
        script.produce(1)
        first = script.answer(script.receive(script.leader(), hide_ms=3_000), ReceiveReply)
        if changes_leader:
            script.leader().kill()
            script.leader(but=None)
        waiting = script.receive(script.leader(), hide_ms=3_000, wait_ms=15_000)
        second = script.answer(waiting, ReceiveReply)
        deliveries = [count for part in second.parts for _, _, count in part.ranges]
        if deliveries != [2]:
            broken("every lease ends", f"received {second}")
        late_ms = second.visible_at_ms - 3_000 - first.visible_at_ms
        if not 0 <= late_ms <= (8_000 if changes_leader else 1_000):
            broken("a lease ends soon after its hide time", f"{late_ms} ms late")
        reached["redelivered by a new leader" if changes_leader else "redelivered"] += 1
        ranges = [(start, end) for part in second.parts for start, end, _ in part.ranges]
        script.answer(script.ack(script.leader(), second.lease, ranges), SettleReply)
        script.finish()
    return reached


def disk_of_the_leader_stalls() -> dict[str, int]:
    """The leader's disk does not return: the followers' majority confirms without it, or another leader does."""
    script = ClusterScript()
    script.produce(1, batches=3)
    old = script.leader()
    old.stall_disk(30_000 * US_PER_MS)
    confirmed = 0
    for _ in range(10):
        script.produce(2)
        confirmed += 1
    ahead = script.model.last_index
    replica = old.replica(GROUP)
    behind = replica is not None and replica.machine.applied_index < ahead
    old.cut_power()
    script.leader(but=None)
    old.start()
    script.produce(1)
    script.finish()
    return {"confirmed without the leader's disk": confirmed, "leader's own state behind": int(behind)}


CLUSTER_SCENARIOS: dict[str, Callable[[], dict[str, int]]] = {
    "crash-at-every-step-of-an-install": crash_at_every_step_of_an_install,
    "snapshot-is-durable-when-acknowledged": snapshot_is_durable_when_it_is_acknowledged,
    "leader-again-with-an-old-proposal-in-flight": leader_again_with_an_old_proposal_in_flight,
    "duplicate-of-a-batch-in-flight": duplicate_of_a_batch_in_flight,
    "clock-of-the-leader-jumps-by-days": clock_of_the_leader_jumps_by_days,
    "clock-of-a-follower-jumps-by-days": clock_of_a_follower_jumps_by_days,
    "clock-of-a-single-node-jumps-by-days": clock_of_a_single_node_jumps_by_days,
    "wiped-node-with-an-unchanged-configuration": wiped_node_with_an_unchanged_configuration,
    "lease-expires-on-an-idle-partition": lease_expires_on_an_idle_partition,
    "disk-of-the-leader-stalls": disk_of_the_leader_stalls,
}
