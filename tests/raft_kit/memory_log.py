"""A log in memory behind the `LogStorage` protocol, and entries to put into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.raft.log import CompactedError, UnavailableEntryError
from logbroker.raft.messages import ConfState, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def make_entry(kind: EntryKind, index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(kind, GroupId(1), Index(index), Term(term), Offset(0), Offset(0), 0, payload)


@final
class MemoryLog:
    """Entries above a snapshot. What a test writes here counts as durable."""

    def __init__(self, entries: Iterable[Entry] = (), *, snapshot: SnapshotMeta | None = None) -> None:
        self._snapshot = snapshot or SnapshotMeta(Index(0), Term(0), ConfState())
        self._before = (self._snapshot.index, self._snapshot.term)
        self._entries: list[Entry] = []
        self.damaged: set[int] = set()
        """Indexes whose entries cannot be read now."""
        self.write(list(entries))

    @classmethod
    def of_terms(cls, *terms: int) -> MemoryLog:
        """A log whose entry at index i has the i-th of `terms`."""
        return cls(make_entry(EntryKind.DATA, index, term) for index, term in enumerate(terms, start=1))

    def first_index(self) -> Index:
        return Index(self._before[0] + 1)

    def last_index(self) -> Index:
        return Index(self._before[0] + len(self._entries))

    def term(self, index: Index) -> Term:
        if index == self._before[0]:
            return self._before[1]
        return self._at(index).term

    def _at(self, index: Index) -> Entry:
        if index <= self._before[0]:
            raise CompactedError(f"{index} is below the first index {self.first_index()}")
        if index > self.last_index():
            raise UnavailableEntryError(f"{index} is beyond the last index {self.last_index()}")
        return self._entries[index - self._before[0] - 1]

    def entries(self, start: Index, end: Index, *, max_bytes: int) -> Sequence[Entry]:
        self._at(start), self._at(Index(end - 1))
        if start in self.damaged:
            raise UnavailableEntryError(f"{start} is damaged")
        end = min([end, *(Index(index) for index in self.damaged if index > start)])
        found = self._entries[start - self._before[0] - 1 : end - self._before[0] - 1]
        size = 0
        for position, entry in enumerate(found):
            size += entry.size_bytes
            if size > max_bytes and position:
                return found[:position]
        return found

    def snapshot_meta(self) -> SnapshotMeta:
        return self._snapshot

    def all_entries(self) -> list[Entry]:
        return list(self._entries)

    def terms(self) -> list[int]:
        return [entry.term for entry in self._entries]

    def write(self, entries: Sequence[Entry]) -> None:
        """Append; what stands at the first index and after it goes."""
        if entries:
            assert self.first_index() <= entries[0].index <= self.last_index() + 1, "a gap, or below the log"
            del self._entries[entries[0].index - self._before[0] - 1 :]
            self._entries.extend(entries)

    def checkpoint(self, index: Index, conf: ConfState) -> None:
        """Make the state as of `index` the snapshot to send."""
        self._snapshot = SnapshotMeta(index, self.term(index), conf)

    def compact(self, index: Index) -> None:
        """Forget entries up to `index`."""
        term = self.term(index)
        del self._entries[: index - self._before[0]]
        self._before = (index, term)

    def install(self, snapshot: SnapshotMeta) -> None:
        self._entries.clear()
        self._snapshot = snapshot
        self._before = (snapshot.index, snapshot.term)
