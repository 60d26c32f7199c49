"""The rewinds, skips and purges that a consumer group remembers, so that one id takes effect once.

The ids of rewinds and skips grow: they come from the meta group's log, and a partition takes them in that order. The
last 256 operations are kept with their results; an older id of a rewind that is not among them is refused rather than
done a second time. The ids of purges lie in a range of their own, where whoever asks draws them by chance: they have no
order, and a purge that is repeated after 256 operations more is done again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupName, Offset
from logbroker.partition.commands import Number
from logbroker.partition.outcomes import Purged, Rewound, Skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REWINDS = 256
FIRST_PURGE_ID = 1 << 62
"""Ids from here on are those of purges; the meta group's log never counts so far."""


@final
class RewindRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One operation that took effect at `index`; `counts` are the fields of its outcome, in their order.

    A purge is told by its id, is a skip besides, and `start_offset` is where it ended.
    """

    rewind_id: Number
    index: Number
    is_skip: bool
    requested: str
    start_offset: Number
    end_offset: Number
    clamped: bool
    counts: tuple[Number, Number, Number]

    @property
    def is_purge(self) -> bool:
        return self.rewind_id >= FIRST_PURGE_ID


def rewound(record: RewindRecord, group: GroupName, *, repeated: bool) -> Rewound:
    """Put the record of a rewind into the words of a reply."""
    reopened, revoked, delayed = record.counts
    start, end = Offset(record.start_offset), Offset(record.end_offset)
    return Rewound(group, record.rewind_id, start, end, record.clamped, reopened, revoked, delayed, repeated)


def skipped(record: RewindRecord, group: GroupName, *, repeated: bool) -> Skipped:
    """Put the record of a skip into the words of a reply."""
    count, revoked, _ = record.counts
    return Skipped(group, record.rewind_id, Offset(record.start_offset), record.clamped, count, revoked, repeated)


def purged(record: RewindRecord, group: GroupName, *, repeated: bool) -> Purged:
    """Put the record of a purge into the words of a reply."""
    return Purged(group, record.rewind_id, Offset(record.start_offset), *record.counts, repeated)


@final
class RewindHistory:
    """Records in the order they took effect, and the highest id of a rewind or skip that has been forgotten."""

    __slots__ = ("_records", "forgotten_id")

    def __init__(self, records: Sequence[RewindRecord] = (), *, forgotten_id: int = 0) -> None:
        if len(records) > MAX_REWINDS or len({record.rewind_id for record in records}) < len(records):
            raise CorruptBatchError(f"{len(records)} rewinds in a group, more than {MAX_REWINDS} or one id twice")
        self._records = tuple(records)
        self.forgotten_id = forgotten_id

    def clone(self) -> RewindHistory:
        return RewindHistory(self._records, forgotten_id=self.forgotten_id)

    def records(self) -> tuple[RewindRecord, ...]:
        return self._records

    def find(self, rewind_id: int) -> RewindRecord | None:
        return next((record for record in self._records if record.rewind_id == rewind_id), None)

    def add(self, record: RewindRecord) -> None:
        self._records = (*self._records, record)
        if len(self._records) > MAX_REWINDS:
            oldest, *rest = self._records
            if not oldest.is_purge:
                self.forgotten_id = max(self.forgotten_id, oldest.rewind_id)
            self._records = tuple(rest)

    def took(self, offset: int, *, lease_index: int) -> bool:
        """Say whether a rewind after the entry `lease_index` covered `offset`."""
        return any(
            record.index > lease_index and record.start_offset <= offset < record.end_offset and not record.is_skip
            for record in self._records
        )
