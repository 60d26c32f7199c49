"""Lists the dead messages of a consumer group, with what the log says of how each came to die.

The state knows which messages are dead and where they were buried; cause, reason and consumer stand in those entries.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.errors import LogBrokerError
from logbroker.ids import Index, Offset
from logbroker.node.requests import DeadRange, DeadReply
from logbroker.partition.commands import Bury, BuryExpired, BuryOld, Cause, Lease, decode_changes
from logbroker.partition.machine import MAX_OFFSET

if TYPE_CHECKING:
    from logbroker.node.requests import DeadRequest
    from logbroker.partition.commands import Change
    from logbroker.partition.groups import ConsumerGroup
    from logbroker.raft.core import RaftCore


def list_dead(group: ConsumerGroup, request: DeadRequest, core: RaftCore) -> DeadReply:
    """One page of the dead, in offset order. What cannot be read here is left out of a row, never the row."""
    changes = Burials(core)
    rows: list[DeadRange] = []
    for run in islice(group.table.dead(request.start_offset, MAX_OFFSET), request.max_count):
        start, end = Offset(run.start), Offset(run.end)
        cause, reason, consumer = changes.burial(run.lease)
        rows.append(DeadRange(start, end, run.deliveries, run.first_leased_ms, cause, reason, consumer))
    return DeadReply(tuple(rows))


@final
class Burials:
    """Changes of the log by name; an entry is read once, however many of its changes are asked for."""

    def __init__(self, core: RaftCore) -> None:
        self.is_damaged = False
        """Whether something was left out because it cannot be read here."""
        self._core = core
        self._read: dict[int, tuple[Change, ...]] = {}

    def burial(self, name: int) -> tuple[Cause | None, str, str]:
        change = self._named(name)
        match change:
            case Bury():
                lease = self._named(change.lease)
                return change.cause, change.reason, lease.consumer if isinstance(lease, Lease) else ""
            case BuryExpired():
                return Cause.MAX_DELIVERIES, "", change.consumer
            case BuryOld():
                return Cause.TTL, "", ""
            case _:
                return None, "", ""

    def _named(self, name: int) -> Change | None:
        index, ordinal = name >> 16, name & 0xFFFF
        changes = self._read.get(index)
        if changes is None:
            changes = self._read[index] = self._changes_at(Index(index))
        return changes[ordinal] if ordinal < len(changes) else None

    def _changes_at(self, index: Index) -> tuple[Change, ...]:
        try:
            for entry in self._core.entries(index, max_bytes=1):
                if entry.index == index and entry.kind is EntryKind.STATE:
                    return decode_changes(entry.payload)
        except LogBrokerError:
            # Damaged here, and to come from a peer.
            self.is_damaged = True
            return ()
        return ()
