"""A damaged entry that the group goes on without: it must hold up nobody once it is overruled."""

from __future__ import annotations

from logbroker.node.requests import ProduceRequest
from tests.faults.test_repair import rot_in_wal
from tests.unit.node.engine_kit import KitCluster, batch, values


def test_a_replica_whose_damaged_entry_is_overruled_applies_what_took_its_place() -> None:
    cluster = KitCluster(3)
    old = cluster.elect()
    cluster.produce(*values(3))
    # The entry gets no further than the leader's own disk.
    cluster.is_passed = lambda sender, _to, _message: sender != old.number
    lost = old.replica.core.last_index + 1
    cluster.submit(ProduceRequest(batch(b"overruled")), node=old)
    cluster.settle()
    cluster.tick(2)
    assert old.replica.log.last_index() == lost
    cluster.stop(old.number)
    cluster.is_passed = lambda _sender, _to, _message: True
    disk = old.disk.kill()
    rot_in_wal(disk, lost, in_head=False)
    cluster.elect()
    cluster.produce(b"in its place")
    again = cluster.restart(old.number, disk)
    cluster.tick(30)
    assert not again.replica.log.is_damaged
    assert again.machine.applied_index == cluster.leader.machine.applied_index
