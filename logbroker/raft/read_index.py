"""Linearizable reads without a log entry (thesis 6.4).

A read that arrives when the commit index is c may be answered from any state that has applied c, once
a majority has confirmed that its leader was still the leader *after* the read arrived. Reads are
numbered here as they come; a heartbeat carries the number of reads so far, and its response confirms
every read up to that number. The driver's own context is handed back and never compared, so a context
that is used twice cannot be confirmed by an old response.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from logbroker.ids import Index, ReplicaId
from logbroker.raft.quorum import joint_index

if TYPE_CHECKING:
    from logbroker.raft.messages import ConfState, ReadState


@final
class PendingReads:
    """The reads of one leadership. Everything is forgotten with it."""

    __slots__ = ("_confirmed", "_echoed", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[ReadState] = deque()
        # Number of reads confirmed so far: the number of the read before the first in `_waiting`.
        self._confirmed = 0
        self._echoed: dict[ReplicaId, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def newest(self) -> int:
        """What a heartbeat must carry to confirm every waiting read; 0 if none waits."""
        return self._confirmed + len(self._waiting) if self._waiting else 0

    def add(self, read: ReadState) -> None:
        self._waiting.append(read)

    def on_echo(self, replica: ReplicaId, number: int) -> None:
        """Note that `replica` has confirmed every read up to `number`; echoes may arrive in any order."""
        # A number never sent cannot confirm a read that is still to come.
        sent = self._confirmed + len(self._waiting)
        self._echoed[replica] = max(self._echoed.get(replica, 0), min(number, sent))

    def take_confirmed(self, conf: ConfState) -> list[ReadState]:
        """Remove and give the reads that a majority of `conf` has confirmed."""
        echoed = self._echoed
        reached = joint_index(
            [Index(echoed.get(voter, 0)) for voter in conf.voters],
            [Index(echoed.get(voter, 0)) for voter in conf.voters_outgoing],
        )
        count = min(max(reached - self._confirmed, 0), len(self._waiting))
        self._confirmed += count
        return [self._waiting.popleft() for _ in range(count)]
