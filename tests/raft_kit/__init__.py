"""What tests of the Raft core need around it: a log in memory, and replicas whose disk and network obey."""

from __future__ import annotations

from tests.raft_kit.cluster import Cluster
from tests.raft_kit.memory_log import MemoryLog, make_entry
from tests.raft_kit.replica import Replica

__all__ = ["Cluster", "MemoryLog", "Replica", "make_entry"]
