"""The identifiers that every layer shares.

All are plain integers or strings at run time; the distinct types exist so that a type checker
catches an offset passed as an index. It must know nothing of any other module.
"""

from __future__ import annotations

from typing import NewType

Offset = NewType("Offset", int)
"""Position of a record in a partition, dense from 0. Only records take offsets."""

Index = NewType("Index", int)
"""Position of an entry in a Raft log, dense from 1; 0 stands before the first entry."""

Term = NewType("Term", int)
"""Raft term; the same number is the leader epoch on the wire and in record batches."""

NodeId = NewType("NodeId", int)
"""A process of the cluster, from 1; given by the operator and stable over restarts."""

ReplicaId = NewType("ReplicaId", int)
"""One life of one copy of a group on one node. Never reused, so it names the copy for ever.

Raft's member ids are replica ids; 0 means "none".
"""

GroupId = NewType("GroupId", int)
"""A Raft group. 0 is the meta group; every partition of every queue is one group."""

LeaseId = NewType("LeaseId", int)
"""`index << 16 | ordinal` of the change that made the lease: unique in its group for ever."""

QueueName = NewType("QueueName", str)
GroupName = NewType("GroupName", str)
"""Name of a consumer group; `default` always exists."""

NO_REPLICA = ReplicaId(0)
META_GROUP = GroupId(0)
DEFAULT_GROUP = GroupName("default")

MAX_CHANGES_PER_ENTRY = 1 << 16


def lease_id(index: Index, ordinal: int) -> LeaseId:
    """Name the lease made by change number `ordinal` (from 0) of the entry at `index`."""
    return LeaseId(index << 16 | ordinal)
