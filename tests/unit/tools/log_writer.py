"""A partition's log written by hand, so that it may hold what no broker would write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, Offset, Term, lease_id
from logbroker.partition.commands import Ack, Floor, Lease, MoveIn, MoveOut, encode_changes, encode_floor
from logbroker.record.batch import Record, encode_batch, stamp
from logbroker.storage.entry_codec import seal_entry
from logbroker.testing.model import PartitionModel
from tools.chaos_kit.features.queue_log import QueueLog
from tools.chaos_kit.judge import Verdict

if TYPE_CHECKING:
    from logbroker.entry import Entry
    from logbroker.partition.commands import Change
    from tools.chaos_kit.nodes import Partition

START_MS = 1_000_000


class LogWriter:
    """Entries in order; nothing is checked and nothing has a state."""

    def __init__(self, place: Partition, *, group: int = 7, first_index: int = 1, first_offset: int = 0) -> None:
        self.place = place
        self.group = GroupId(group)
        self.entries: list[Entry] = []
        self.now_ms = START_MS
        self.next_index = first_index
        self.next_offset = first_offset

    def _append(self, kind: EntryKind, payload: bytes, *, count: int = 0) -> int:
        entry = seal_entry(
            kind,
            group=self.group,
            index=Index(self.next_index),
            term=Term(1),
            base_offset=Offset(self.next_offset),
            next_offset=Offset(self.next_offset + count),
            append_ms=self.now_ms,
            payload=payload,
        )
        self.entries.append(entry)
        self.next_index += 1
        self.next_offset += count
        return int(entry.index)

    def produce(self, *records: Record) -> int:
        """One batch; gives the offset of its first message."""
        offset = self.next_offset
        payload = stamp(encode_batch(records), Offset(offset), 1)
        self._append(EntryKind.DATA, payload, count=len(records))
        return offset

    def send(self, *values: bytes) -> int:
        return self.produce(*(Record(value) for value in values))

    def change(self, *changes: Change) -> int:
        """One STATE entry; gives its index."""
        return self._append(EntryKind.STATE, encode_changes(changes))

    def drop(self, start_offset: int) -> None:
        self._append(EntryKind.FLOOR, encode_floor(Floor(start_offset, 1)))

    def lease(self, *offsets: int, group: str = DEFAULT_GROUP, hide_ms: int = 4_000) -> int:
        """Lease messages together; gives the lease."""
        ranges = tuple((offset, offset + 1) for offset in offsets)
        index = self.change(Lease(GroupName(group), ranges, self.now_ms + hide_ms, "c", 0, 0))
        return lease_id(Index(index), 0)

    def ack(self, lease: int, *offsets: int, group: str = DEFAULT_GROUP) -> None:
        self.change(Ack(GroupName(group), lease, tuple((offset, offset + 1) for offset in offsets)))

    def deliver(self, *offsets: int, group: str = DEFAULT_GROUP) -> None:
        """Lease and ack messages, each for itself."""
        for offset in offsets:
            self.ack(self.lease(offset, group=group), offset, group=group)

    def move_out(self, offset: int, target: LogWriter) -> int:
        """Owe a message to another log; gives the number of the move."""
        return lease_id(Index(self.change(MoveOut(DEFAULT_GROUP, ((offset, offset + 1),), target.group))), 0)

    def move_in(self, source: LogWriter, number: int, record: Record) -> int:
        """Take a message from another log; gives its offset here."""
        self.change(MoveIn(source.group, number, False))
        return self.produce(record)

    def log(self, verdict: Verdict | None = None) -> QueueLog:
        """As the judges read it. What a model without any settings finds goes into the verdict."""
        return QueueLog(self.place, self.entries, PartitionModel(), verdict or Verdict())
