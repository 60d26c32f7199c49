"""What tests of the Raft core need around it: a log in memory, and replicas whose disk and network obey."""

from __future__ import annotations

from logbroker.ids import ReplicaId
from logbroker.raft.messages import ConfState
from tests.raft_kit.cluster import Cluster
from tests.raft_kit.memory_log import MemoryLog, make_entry
from tests.raft_kit.peer import Peer
from tests.raft_kit.replica import Replica, lead

__all__ = ["Cluster", "MemoryLog", "Peer", "Replica", "conf_of", "lead", "make_entry"]


def conf_of(*voters: int, learners: tuple[int, ...] = ()) -> ConfState:
    return ConfState(
        voters=tuple(ReplicaId(voter) for voter in voters), learners=tuple(ReplicaId(learner) for learner in learners)
    )
