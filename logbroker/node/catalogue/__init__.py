"""The meta group's state machine: nodes, replicas, queues, tokens and rewinds. Pure and deterministic.

It must know nothing of trio, files, clocks, randomness or configuration.
"""

from __future__ import annotations

from logbroker.node.catalogue.bounds import CatalogueLimits
from logbroker.node.catalogue.machine import Catalogue
from logbroker.node.catalogue.membership import meta_replicas
from logbroker.node.catalogue.outcomes import (
    Applied,
    Done,
    NodeJoined,
    Outcome,
    QueueGone,
    QueueStands,
    Refused,
    ReplicasPlaced,
    RewindStands,
)

__all__ = [
    "Applied",
    "Catalogue",
    "CatalogueLimits",
    "Done",
    "NodeJoined",
    "Outcome",
    "QueueGone",
    "QueueStands",
    "Refused",
    "ReplicasPlaced",
    "RewindStands",
    "meta_replicas",
]
