"""The leases of one consumer group: who holds how much, and which request made it.

The run table says which messages a lease holds; this says what cannot be read from there. A lease is here exactly while
it holds at least one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import CorruptBatchError, InvariantError, invariant
from logbroker.partition.blocked_map import BlockedMap
from logbroker.partition.commands import Number, Ranges, range_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NO_SESSION = 0
"""A receive with this session is not idempotent."""


@final
class LeaseRecord(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One current lease. `ranges` is what it was given at first, half-open, sorted; `held` counts what is left."""

    lease: Number
    ranges: Ranges
    held: Number
    consumer: str
    session: Number
    request_id: Number


@final
class LeaseTable:
    """Leases by name, and by the (session, request id) that a retry repeats."""

    __slots__ = ("_by_request", "_leases")

    def __init__(self) -> None:
        self._leases: BlockedMap[int, LeaseRecord] = BlockedMap()
        # Only requests with a session; derived from _leases.
        self._by_request: BlockedMap[tuple[int, int], int] = BlockedMap()

    @classmethod
    def decode(cls, records: Iterable[LeaseRecord]) -> LeaseTable:
        """Build a table from its records, which must be sorted by lease.

        Raises:
            CorruptBatchError: they are not, or two share a request.
        """
        table = cls()
        last = 0
        for record in records:
            if record.lease <= last or record.held <= 0:
                raise CorruptBatchError(f"lease {record.lease} follows lease {last} and holds {record.held}")
            fault = range_fault(record.ranges)
            if fault is not None:
                raise CorruptBatchError(f"lease {record.lease}: {fault}")
            if table.find(record.session, record.request_id) is not None:
                raise CorruptBatchError(f"lease {record.lease} repeats request {record.request_id}")
            table.add(record)
            last = record.lease
        return table

    def clone(self) -> LeaseTable:
        other = LeaseTable()
        other._leases = self._leases.clone()
        other._by_request = self._by_request.clone()
        return other

    def __len__(self) -> int:
        return len(self._leases)

    def records(self) -> Iterator[LeaseRecord]:
        return self._leases.values()

    def get(self, lease: int) -> LeaseRecord | None:
        return self._leases.get(lease)

    def find(self, session: int, request_id: int) -> LeaseRecord | None:
        """Return the current lease that this request made."""
        if session == NO_SESSION:
            return None
        lease = self._by_request.get((session, request_id))
        return None if lease is None else self._leases.get(lease)

    def add(self, record: LeaseRecord) -> None:
        self._leases.set(record.lease, record)
        if record.session != NO_SESSION:
            self._by_request.set((record.session, record.request_id), record.lease)

    def reduce(self, lease: int, count: int) -> None:
        """Take `count` messages from what a lease holds; with the last one the lease ends."""
        record = self._leases.get(lease)
        if record is None:
            raise InvariantError(f"a run names lease {lease}, which the group does not know")
        left = record.held - count
        invariant(left >= 0, f"lease {lease} held {record.held} messages and lost {count}")
        if left == 0:
            self._leases.delete(lease)
            if record.session != NO_SESSION:
                self._by_request.delete((record.session, record.request_id))
            return
        self._leases.set(
            lease,
            LeaseRecord(lease, record.ranges, left, record.consumer, record.session, record.request_id),
        )
