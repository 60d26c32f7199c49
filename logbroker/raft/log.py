"""The log of one group: what storage has, followed by what it does not have yet.

    first_index              offset           handed           last_index
        │   storage has these  │  being written │  not handed out  │
        ▼                      ▼                ▼                  ▼
    ────┬──────────────────────┬────────────────┬──────────────────┐
                 ▲ applied  ▲ commit

An entry leaves the unstable tail when the write that holds it is acknowledged *and no write still
under way replaces it*. Term and index alone cannot tell: an entry may be handed out, truncated,
replaced, and put back by its first leader while all three writes are in the queue, and after the first
of them storage is about to lose it again. So each write under way is remembered with the last index
that it still answers for, and a truncation lowers that number.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import InvariantError, StorageError, invariant, violated
from logbroker.ids import Index, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.entry import Entry
    from logbroker.raft.messages import SnapshotMeta


class CompactedError(StorageError):
    """The index lies below what the log still holds; a follower that needs it gets a snapshot."""

    code = "compacted"


class UnavailableEntryError(StorageError):
    """The index lies beyond the log."""

    code = "unavailable_entry"


class LostEntriesError(InvariantError):
    """The disk has lost what this replica had acknowledged: what is known to be committed is not there."""

    code = "lost_entries"


class LogStorage(Protocol):
    """What the core reads of the durable log of one group. All calls are answered at once.

    It shows what was acknowledged with `on_persisted` and may show more of what was handed out before.
    """

    def first_index(self) -> Index:
        """First index still held; one past the snapshot's if no entry is."""
        ...

    def last_index(self) -> Index:
        """Last index held; `first_index() - 1` if no entry is."""
        ...

    def term(self, index: Index) -> Term:
        """Term at `index`, known from one below the first entry to the last.

        Raises:
            CompactedError: below that.
            UnavailableEntryError: above that.
        """
        ...

    def entries(self, start: Index, end: Index, *, max_bytes: int) -> Sequence[Entry]:
        """Entries of `[start, end)`, `start < end`, cut to `max_bytes` of `size_bytes` but never to none.

        Raises:
            CompactedError: `start` is below the first index.
            UnavailableEntryError: `end` is beyond the last index plus one.
        """
        ...

    def snapshot_meta(self) -> SnapshotMeta:
        """The newest snapshot that could be sent; index 0 if there is none at this moment.

        Its index is at least `first_index() - 1`, so that the entries after it are there.
        """
        ...


@final
class RaftLog:
    """Positions move forward only, except that the tail above `commit` may be replaced."""

    __slots__ = (
        "_applying_bytes",
        "_applying_paused",
        "_entries",
        "_handed",
        "_max_applying_bytes",
        "_offset",
        "_snapshot",
        "_snapshot_write",
        "_storage",
        "_writes",
        "allow_unstable_apply",
        "applied",
        "apply_limit",
        "applying",
        "commit",
        "last_index",
        "last_term",
    )

    def __init__(self, storage: LogStorage, *, max_applying_bytes: int, allow_unstable_apply: bool) -> None:
        self._storage = storage
        self._max_applying_bytes = max_applying_bytes
        self.allow_unstable_apply = allow_unstable_apply
        # The last entry before one that storage has lost; what lies behind is not handed out until it is mended.
        self.apply_limit: Index | None = None
        start = Index(storage.first_index() - 1)
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        # Invariant: applied <= applying <= commit <= last_index.
        self.commit = start
        self.applied = start
        self.applying = start
        self._applying_bytes = 0
        self._applying_paused = False
        self._offset = Index(self.last_index + 1)
        self._handed = self._offset
        self._entries: list[Entry] = []
        # (sequence, last index it answers for) of each write under way, oldest first.
        self._writes: deque[tuple[int, Index]] = deque()
        self._snapshot: SnapshotMeta | None = None
        self._snapshot_write = 0

    # -- reading

    @property
    def first_index(self) -> Index:
        return Index(self._snapshot.index + 1) if self._snapshot is not None else self._storage.first_index()

    @property
    def durable_index(self) -> Index:
        """Everything up to here is on this disk and stays there. Means nothing while a snapshot is pending."""
        return Index(self._offset - 1)

    @property
    def has_pending_snapshot(self) -> bool:
        return self._snapshot is not None

    def snapshot_meta(self) -> SnapshotMeta:
        return self._snapshot if self._snapshot is not None else self._storage.snapshot_meta()

    def term(self, index: Index) -> Term:
        """Term at `index`, from one below the first entry to the last.

        Raises:
            CompactedError, UnavailableEntryError: outside of that.
        """
        if index == self.last_index:
            return self.last_term
        if index > self.last_index:
            raise UnavailableEntryError(f"no term at {index}: the log ends at {self.last_index}")
        if index >= self._offset:
            return self._entries[index - self._offset].term
        if self._snapshot is not None:
            # It is not the last index, so it lies below the snapshot that replaces the log.
            raise CompactedError(f"no term at {index}: the log starts after {self._snapshot.index}")
        return self._storage.term(index)

    def matches(self, index: Index, term: Term) -> bool:
        """Whether the entry at `index` is the one of `term`: then everything before it is equal too (5.3)."""
        try:
            return self.term(index) == term
        except (CompactedError, UnavailableEntryError):
            return False

    def is_up_to_date(self, index: Index, term: Term) -> bool:
        """Whether a log that ends at (`index`, `term`) has at least what this one has (5.4.1)."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def find_conflict_by_term(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The last place at or below `index` whose term is at most `term`, with its term.

        Everything between cannot match a log that has `term` at `index`, because terms only grow along a
        log; so one question is enough for a whole term. Term 0 says that the place is not known here.
        """
        while index > 0:
            try:
                own = self.term(index)
            except (CompactedError, UnavailableEntryError):
                return index, Term(0)
            if own <= term:
                return index, own
            index = Index(index - 1)
        return Index(0), Term(0)

    def slice(self, start: Index, end: Index, *, max_bytes: int) -> Sequence[Entry]:
        """Entries of `[start, end)`, cut to `max_bytes` but never to none.

        Raises:
            CompactedError: `start` is not held any more.
        """
        if not start <= end <= self.last_index + 1:
            violated(f"slice [{start}, {end}) of a log that ends at {self.last_index}")
        if start == end:
            return ()
        if start >= self._offset:
            return self._cut_unstable(start, end, max_bytes)
        if self._snapshot is not None or start < self._storage.first_index():
            raise CompactedError(f"entry {start} is below the first index {self.first_index}")
        stored_end = min(end, self._offset)
        stored = self._storage.entries(start, stored_end, max_bytes=max_bytes)
        if end == stored_end or len(stored) < stored_end - start:
            return stored
        room = max_bytes - sum(entry.size_bytes for entry in stored)
        if room < self._entries[0].size_bytes:
            return stored
        return [*stored, *self._cut_unstable(self._offset, end, room)]

    def _cut_unstable(self, start: Index, end: Index, max_bytes: int) -> Sequence[Entry]:
        found = self._entries[start - self._offset : end - self._offset]
        size = 0
        for position, entry in enumerate(found):
            size += entry.size_bytes
            if size > max_bytes and position:
                return found[:position]
        return found

    def tail(self, start: Index, *, max_bytes: int) -> Sequence[Entry]:
        """Entries from `start` to the end, cut to `max_bytes`; none if the log ends before `start`."""
        return self.slice(start, Index(self.last_index + 1), max_bytes=max_bytes) if start <= self.last_index else ()

    # -- writing

    def append(self, entries: Sequence[Entry]) -> None:
        """Put `entries`, dense and not empty, where their index says; what was there and after it goes."""
        start = entries[0].index
        if start <= self.commit:
            violated(f"entry {start} would replace a committed one: commit index is {self.commit}")
        if start <= self.last_index:
            self._truncate(start)
        elif start > self.last_index + 1:
            violated(f"entry {start} appended to a log that ends at {self.last_index}")
        self._entries.extend(entries)
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def _truncate(self, start: Index) -> None:
        if start <= self._offset:
            self._entries.clear()
            self._offset = start
            self._handed = start
        else:
            del self._entries[start - self._offset :]
            self._handed = min(self._handed, start)
        self._writes = deque((sequence, min(last, Index(start - 1))) for sequence, last in self._writes)

    def try_append(self, index: Index, term: Term, entries: Sequence[Entry]) -> bool:
        """Take a leader's entries after (`index`, `term`); False, and nothing changes, if that is not here.

        Only a real conflict cuts the log: an append that is older, or shorter than what is here, changes
        nothing (a late message must not take back what was acknowledged).
        """
        if not self.matches(index, term):
            return False
        if index == self.last_index:
            fresh = entries
        else:
            fresh = ()
            for position, entry in enumerate(entries):
                if not self.matches(entry.index, entry.term):
                    fresh = entries[position:]
                    break
        if fresh:
            self.append(fresh)
        return True

    def commit_to(self, index: Index) -> bool:
        """Raise the commit index; False if it stands there or higher already.

        Raises:
            LostEntriesError: it lies beyond the last entry.
        """
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise LostEntriesError(
                f"commit index {index} is beyond the last index {self.last_index}: durable entries were lost"
            )
        self.commit = index
        return True

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Replace everything by a snapshot that lies beyond the commit index."""
        invariant(snapshot.index > self.commit, f"snapshot {snapshot.index} is not beyond commit {self.commit}")
        self.commit = snapshot.index
        self.last_index = snapshot.index
        self.last_term = snapshot.term
        self._offset = Index(snapshot.index + 1)
        self._handed = self._offset
        self._entries.clear()
        self._writes.clear()
        self._snapshot = snapshot
        self._snapshot_write = 0

    # -- handing out

    @property
    def has_unhanded(self) -> bool:
        return self._handed <= self.last_index or (self._snapshot is not None and not self._snapshot_write)

    @property
    def handed_index(self) -> Index:
        """Last index that was handed out to be written."""
        return Index(self._handed - 1)

    def hand_out(self, sequence: int, *, max_bytes: int) -> tuple[Sequence[Entry], SnapshotMeta | None]:
        """What storage must write next, cut to `max_bytes` of entries; remembered as write number `sequence`.

        What is cut off comes with the next one: a large tail is acknowledged in parts, as they become durable.
        """
        entries: Sequence[Entry] = ()
        snapshot = None
        if self._handed <= self.last_index:
            entries = self._cut_unstable(self._handed, Index(self.last_index + 1), max_bytes)
            self._handed = Index(entries[-1].index + 1)
            self._writes.append((sequence, entries[-1].index))
        if self._snapshot is not None and not self._snapshot_write:
            snapshot = self._snapshot
            self._snapshot_write = sequence
        return entries, snapshot

    def persisted_through(self, sequence: int) -> Index:
        """Where the log will be durable to once `release` is called for `sequence`; asked before it."""
        durable = self.durable_index
        for write, last in self._writes:
            if write > sequence:
                break
            durable = max(durable, last)
        return durable

    def release(self, sequence: int) -> SnapshotMeta | None:
        """Every write up to number `sequence` is durable: storage answers for what they held.

        Gives the snapshot if it was among them: the state it brings is applied, whatever was handed out before.
        """
        installed = None
        if self._snapshot is not None and 0 < self._snapshot_write <= sequence:
            installed = self._snapshot
            self._snapshot = None
            self._snapshot_write = 0
            self._applying_bytes = 0
            self.applied_to(installed.index, size_bytes=0)
        durable = self.persisted_through(sequence)
        while self._writes and self._writes[0][0] <= sequence:
            self._writes.popleft()
        if durable >= self._offset:
            del self._entries[: durable + 1 - self._offset]
            self._offset = Index(durable + 1)
            self._handed = max(self._handed, self._offset)
        return installed

    # -- applying

    @property
    def _appliable(self) -> Index:
        appliable = self.commit if self.allow_unstable_apply else min(self.commit, self.durable_index)
        return appliable if self.apply_limit is None else min(appliable, self.apply_limit)

    @property
    def has_committed(self) -> bool:
        """Something can be applied. A pending snapshot comes first: it replaces what is applied."""
        return not self._applying_paused and self._snapshot is None and self.applying < self._appliable

    @property
    def has_work(self) -> bool:
        """`has_unhanded` or `has_committed`; asked several times a message, so it is one look."""
        if self._snapshot is not None:
            return self.has_unhanded
        if self._handed <= self.last_index:
            return True
        if self._applying_paused or self.applying >= self.commit:
            return False
        return self.applying < self._appliable

    def next_committed(self) -> Sequence[Entry]:
        """Hand out the next entries to apply, within the bound on what is handed out and not applied."""
        if not self.has_committed:
            return ()
        end = self._appliable
        room = self._max_applying_bytes - self._applying_bytes
        entries = self.slice(Index(self.applying + 1), Index(end + 1), max_bytes=room)
        self.applying = entries[-1].index
        for entry in entries:
            self._applying_bytes += entry.size_bytes
        # A cut slice means that the next entry does not fit until something is applied.
        self._applying_paused = self._applying_bytes >= self._max_applying_bytes or self.applying < end
        return entries

    def applied_to(self, index: Index, *, size_bytes: int) -> None:
        """Note that everything up to `index` is applied; a snapshot may have got further meanwhile."""
        if index > self.commit:
            violated(f"applied index {index} is beyond the commit index {self.commit}")
        self.applied = max(self.applied, index)
        self.applying = max(self.applying, index)
        self._applying_bytes = max(self._applying_bytes - size_bytes, 0)
        self._applying_paused = self._applying_bytes >= self._max_applying_bytes
