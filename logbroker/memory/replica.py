"""A replica without Raft and disk: what is proposed is committed, applied and kept at once."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Protocol, final

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, Offset, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logbroker.errors import LogBrokerError

TERM = Term(1)


class Machine(Protocol):
    """What the state machines of partitions and of the catalogue have in common."""

    append_ms: int
    applied_index: Index

    @property
    def next_offset(self) -> Offset: ...

    @property
    def log_start_offset(self) -> Offset: ...

    def apply(self, entry: Entry) -> object: ...


class Service(Protocol):
    """Who decides for the group."""

    def on_applied(self, entry: Entry, applied: object) -> None: ...


@final
class MemoryLog:
    """The DATA entries of a partition from its log start on, in order, and its STATE entries."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._states: dict[Index, Entry] = {}
        self._last_index = Index(0)

    def append(self, entry: Entry, *, log_start: Offset) -> None:
        self._last_index = entry.index
        if entry.kind is EntryKind.DATA:
            self._entries.append(entry)
        elif entry.kind is EntryKind.FLOOR:
            self._entries = [kept for kept in self._entries if kept.next_offset > log_start]
            first = self._entries[0].index if self._entries else entry.index
            self._states = {index: kept for index, kept in self._states.items() if index > first}
        elif entry.kind is EntryKind.STATE:
            self._states[entry.index] = entry

    def state_at(self, index: Index) -> Entry | None:
        """The STATE entry at an index, if it is one that anything retained may still ask for."""
        return self._states.get(index)

    def last_index(self) -> Index:
        return self._last_index

    def data_from(self, offset: Offset, *, max_bytes: int) -> Iterator[Entry]:
        """DATA entries in order from the one that holds `offset`, at least one where there is one."""
        taken = 0
        for entry in self._entries[bisect_right(self._entries, offset, key=lambda entry: entry.next_offset) :]:
            if taken and taken + entry.size_bytes > max_bytes:
                return
            taken += entry.size_bytes
            yield entry

    def index_of_offset(self, offset: Offset) -> Index:
        """Index of the DATA entry that holds `offset`; one past the last index where none does."""
        for entry in self.data_from(offset, max_bytes=1):
            return entry.index
        return Index(self._last_index + 1)

    def first_index(self) -> Index:
        return self._entries[0].index if self._entries else Index(self._last_index + 1)

    def batch_sizes(self, start: Index) -> Iterator[tuple[Index, Offset, int]]:
        """Index, base offset and bytes of each batch from `start` on."""
        for entry in self._entries[bisect_left(self._entries, start, key=lambda entry: entry.index) :]:
            yield entry.index, entry.base_offset, len(entry.payload)

    def first_offset_at(self, append_ms: int) -> tuple[Offset, int] | None:
        """Base offset and log time of the first DATA entry with log time >= `append_ms`; None where there is none."""
        place = bisect_left(self._entries, append_ms, key=lambda entry: entry.append_ms)
        if place == len(self._entries):
            return None
        return self._entries[place].base_offset, self._entries[place].append_ms


@final
class MemoryCore:
    """What is left of Raft: one term, and a log that is all in `MemoryLog`."""

    def __init__(self, log: MemoryLog) -> None:
        self.term = TERM
        self._log = log

    @property
    def last_index(self) -> Index:
        return self._log.last_index()

    def entries(self, start: Index, *, max_bytes: int) -> list[Entry]:
        """The STATE entry at `start`; entries that are not in the log yet there are none."""
        found = self._log.state_at(start)
        return [] if found is None else [found]


@final
class MemoryReplica:
    """Has the face of `logbroker.node.replica.Replica`, as far as the services of a group look at it."""

    is_serving = True

    def __init__(self, group: GroupId, machine: Machine, clock_ms: Callable[[], int]) -> None:
        self.group = group
        self.machine = machine
        self.log = MemoryLog()
        self.core = MemoryCore(self.log)
        self.service: Service | None = None
        self._clock_ms = clock_ms

    def require_ahead(self) -> Machine:
        """Nothing is ever on its way: the applied state is the newest."""
        return self.machine

    def stamp_ms(self) -> int:
        return max(self.machine.append_ms, self._clock_ms())

    def wants_tidying(self, now_ms: int) -> bool:
        return False

    def when_applied(
        self, index: Index, on_applied: Callable[[], None], on_lost: Callable[[LogBrokerError], None]
    ) -> None:
        on_applied()

    def read(self, on_ready: Callable[[], None], on_lost: Callable[[LogBrokerError], None]) -> None:
        on_ready()

    def propose(
        self,
        kind: EntryKind,
        payload: bytes,
        *,
        record_count: int = 0,
        append_ms: int,
        on_committed: Callable[[object], None],
        on_lost: Callable[[LogBrokerError], None],
        preparation: bytes | None = None,
    ) -> None:
        if preparation is not None:
            self._append(EntryKind.STATE, preparation, 0, append_ms)
        on_committed(self._append(kind, payload, record_count, append_ms))

    def _append(self, kind: EntryKind, payload: bytes, record_count: int, append_ms: int) -> object:
        machine = self.machine
        base_offset = machine.next_offset
        entry = Entry(
            kind,
            self.group,
            Index(machine.applied_index + 1),
            TERM,
            base_offset,
            Offset(base_offset + record_count),
            append_ms,
            payload,
        )
        applied = machine.apply(entry)
        self.log.append(entry, log_start=machine.log_start_offset)
        if self.service is not None:
            self.service.on_applied(entry, applied)
        return applied
