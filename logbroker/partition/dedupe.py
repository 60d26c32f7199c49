"""The ids that a partition has seen of late: which message of an id was the first, for so long and for so many ids.

A row is remembered for each message that was the first of its id. Rows lie packed in chunks in the order of the log,
and what is forgotten is a front of them, however long: one number moves, and their memory is freed bit by bit as others
come. Beside them, and never in the digest, lies an index from hash to row, packed in small pieces ("leaves"). An id
takes less than 100 bytes so, where an entry of a dictionary would take 300 (`python -m tools.bench.dedupe`). Chunks and
leaves are never changed in place, so that copies of a state share them.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from operator import le, lt
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import CorruptBatchError
from logbroker.partition.blocked_map import BlockedMap
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.record.dedup_ids import BODY_HASH_BYTES, ID_HASH_BYTES, NO_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from logbroker.partition.commands import Dedupe

MAX_DEDUP_COUNT = 10_000_000
MAX_DEDUP_WINDOW_MS = 86_400_000

NO_VOIDS = OffsetRanges()

# Hash of the id, hash of the body, offset, log time.
_ROW = struct.Struct(f">{ID_HASH_BYTES}s{BODY_HASH_BYTES}sQQ")
ROW_BYTES = _ROW.size
_CHUNK_ROWS = 64
# Hash of the id, number of its row. A leaf begins with the lowest hash that belongs into it.
_ENTRY = struct.Struct(f">{ID_HASH_BYTES}sQ")
_LEAF_ENTRIES = 64
# Freed for each row that is added: what was forgotten goes faster than what is new comes.
_FREED_PER_ROW = 2
_FREED_PER_BATCH = 64


@final
class Row(NamedTuple):
    """The first message of an id."""

    hash: bytes
    body: bytes
    offset: int
    append_ms: int


@final
class Verdicts(NamedTuple):
    """What became of the messages of a batch that have ids, by their position in it; of the others there is nothing."""

    duplicates: tuple[tuple[int, int], ...] = ()
    """Position, and the offset of the first message with this id and body."""
    conflicts: tuple[int, ...] = ()
    """Those whose id was used for another body, or for a message that was cancelled."""

    def positions(self) -> list[int]:
        """All of them, which nothing delivers, in order."""
        return sorted([*(position for position, _ in self.duplicates), *self.conflicts])

    def ranges(self, base_offset: int) -> list[tuple[int, int]]:
        """Their offsets in a batch at `base_offset`, as half-open ranges that do not touch."""
        ranges: list[tuple[int, int]] = []
        for position in self.positions():
            offset = base_offset + position
            if ranges and ranges[-1][1] == offset:
                ranges[-1] = (ranges[-1][0], offset + 1)
            else:
                ranges.append((offset, offset + 1))
        return ranges


@final
class DedupeWindow:
    """Rows in the order of the log."""

    __slots__ = ("_chunks", "_first", "_freed", "_leaves", "_next")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        # Rows are numbered as they come, and lie in the chunk `number // _CHUNK_ROWS`. _freed <= _first <= _next:
        # below _first they are forgotten, below _freed they are not in memory either.
        self._first = self._next = self._freed = 0
        self._chunks: BlockedMap[int, bytes] = BlockedMap()
        self._leaves: BlockedMap[bytes, bytes] = BlockedMap()
        self._leaves.set(NO_ID, NO_ID)

    @classmethod
    def decode(cls, pieces: Iterable[bytes], *, append_ms: int, next_offset: int) -> DedupeWindow:
        """Build it from packed rows, for a state of that log time and log end.

        Raises:
            CorruptBatchError: they are not what a window could hold.
        """
        data = b"".join(pieces)
        count, rest = divmod(len(data), ROW_BYTES)
        if rest or count > MAX_DEDUP_COUNT:
            raise CorruptBatchError(f"{len(data)} bytes of remembered ids; the most is {MAX_DEDUP_COUNT} ids")
        window = cls()
        if not count:
            return window
        # A million of them should not take seconds, so nothing here is said row by row.
        # Numbers stand in big endian, so they sort as their bytes do.
        starts = range(0, len(data), ROW_BYTES)
        hashes = [data[at : at + ID_HASH_BYTES] for at in starts]
        offsets = [data[at + ROW_BYTES - 16 : at + ROW_BYTES - 8] for at in starts]
        times = [data[at + ROW_BYTES - 8 : at + ROW_BYTES] for at in starts]
        if NO_ID in (found := set(hashes)) or len(found) < count:
            raise CorruptBatchError("an id is remembered twice, or is none")
        if not all(map(lt, offsets, offsets[1:])) or int.from_bytes(offsets[-1], "big") >= next_offset:
            raise CorruptBatchError(f"remembered ids are out of order, or beyond the log end {next_offset}")
        if not all(map(le, times, times[1:])) or int.from_bytes(times[-1], "big") > append_ms:
            raise CorruptBatchError(f"remembered ids are out of order of time, or newer than {append_ms}")
        chunk_bytes = _CHUNK_ROWS * ROW_BYTES
        for at in range(0, len(data), chunk_bytes):
            window._chunks.set(at // chunk_bytes, data[at : at + chunk_bytes])
        window._next = count
        window._build_index([hashed + number.to_bytes(8, "big") for number, hashed in enumerate(hashes)])
        return window

    def _build_index(self, entries: list[bytes]) -> None:
        entries.sort()
        for at in range(0, len(entries), _LEAF_ENTRIES // 2):
            low = entries[at][:ID_HASH_BYTES] if at else NO_ID
            self._leaves.set(low, low + b"".join(entries[at : at + _LEAF_ENTRIES // 2]))

    def clone(self) -> DedupeWindow:
        other = DedupeWindow()
        other._first, other._next, other._freed = self._first, self._next, self._freed
        other._chunks = self._chunks.clone()
        other._leaves = self._leaves.clone()
        return other

    def __len__(self) -> int:
        """Count of ids."""
        return self._next - self._first

    def rows(self) -> Iterator[Row]:
        """Yield what is remembered, oldest first."""
        return (Row._make(_ROW.unpack(packed)) for packed in self.packed(1))

    def packed(self, count: int) -> Iterator[bytes]:
        """Yield rows in their bytes, `count` at a time, oldest first: the canonical form."""
        if self._first == self._next:
            return
        size = count * ROW_BYTES
        start, skipped = divmod(self._first, _CHUNK_ROWS)
        held: list[bytes] = []
        held_bytes = -skipped * ROW_BYTES
        for chunk in self._chunks.values_from(start):
            held.append(chunk if held_bytes >= 0 else chunk[-held_bytes:])
            held_bytes += len(chunk)
            if held_bytes >= size:
                joined = b"".join(held)
                whole = held_bytes - held_bytes % size
                for at in range(0, whole, size):
                    yield joined[at : at + size]
                held, held_bytes = [joined[whole:]], held_bytes - whole
        if held_bytes:
            yield b"".join(held)

    def find(self, hashed: bytes, change: Dedupe, append_ms: int, *, added_count: int = 0) -> Row | None:
        """Return the first message of an id as of log time `append_ms`, if it is not to be forgotten by then.

        So many ids that are new come in between.
        """
        number = self._number(hashed)
        if number is None or number < max(self._first, self._next + added_count - change.max_count):
            return None
        row = self._row(number)
        return row if append_ms - row.append_ms < change.window_ms else None

    def look(self, change: Dedupe, base_offset: int, append_ms: int, *, voids: OffsetRanges = NO_VOIDS) -> Verdicts:
        """Say what `take` would, and remember nothing."""
        own: list[Row] = []
        places: dict[bytes, int] = {}

        def first_of(position: int, hashed: bytes) -> Row | None:
            row = self.find(hashed, change, append_ms, added_count=len(own))
            if row is None and places.get(hashed, -1) >= max(0, len(own) - change.max_count):
                row = own[places[hashed]]
            if row is None:
                places[hashed] = len(own)
                own.append(Row(hashed, _body(change, position), base_offset + position, append_ms))
            return row

        return _verdicts(change, first_of, voids)

    def look_again(self, change: Dedupe, append_ms: int, *, base_offset: int, voids: OffsetRanges) -> Verdicts:
        """Say what became of a batch that stands at `base_offset` since before log time `append_ms`.

        `voids` has those of its offsets that nothing delivers. Where the first message of an id is forgotten it is not
        known any more why, and a conflict is told: nobody may take for sent what is not.
        """
        duplicates: list[tuple[int, int]] = []
        conflicts: list[int] = []
        for position, hashed in enumerate(id_hashes(change)):
            offset = base_offset + position
            row = None if hashed == NO_ID else self.find(hashed, change, append_ms)
            if hashed == NO_ID or (row is not None and row.offset == offset):
                continue
            if row is None:
                if _has(voids, offset):
                    conflicts.append(position)
            # What retention has taken is not void any more, but then its first message lies before it.
            elif _has(voids, offset) or row.offset < offset:
                if row.body == _body(change, position) and not _has(voids, row.offset):
                    duplicates.append((position, row.offset))
                else:
                    conflicts.append(position)
        return Verdicts(tuple(duplicates), tuple(conflicts))

    def take(self, change: Dedupe, base_offset: int, append_ms: int, *, voids: OffsetRanges = NO_VOIDS) -> Verdicts:
        """Forget what is too old or too much, then remember what is new of a batch that is appended.

        Of the messages that were the first of their ids, `voids` has those that were cancelled. Such an id stays with
        its message, lest a late retry bring it back, but nobody is told that it was sent.
        """
        self._forget(change, append_ms)

        def first_of(position: int, hashed: bytes) -> Row | None:
            row = self.find(hashed, change, append_ms)
            if row is None:
                row_of_it = Row(hashed, _body(change, position), base_offset + position, append_ms)
                self._add(row_of_it, change.max_count)
            return row

        return _verdicts(change, first_of, voids)

    def _forget(self, change: Dedupe, append_ms: int) -> None:
        first = max(self._first, self._next - change.max_count)
        if first < self._next and append_ms - self._row(first).append_ms >= change.window_ms:
            numbers = range(first, self._next)
            newer_than_ms = append_ms - change.window_ms
            first += bisect_left(numbers, newer_than_ms + 1, key=lambda number: self._row(number).append_ms)
        if first == self._next:
            # Nothing is left, so all of the memory can go at once.
            self._clear()
            return
        self._first = first
        self._free(_FREED_PER_BATCH)

    def _add(self, row: Row, max_count: int) -> None:
        number = self._next
        place = number // _CHUNK_ROWS
        packed = _ROW.pack(*row)
        self._chunks.set(place, (self._chunks.get(place) or b"") + packed if number % _CHUNK_ROWS else packed)
        self._next = number + 1
        self._first = max(self._first, self._next - max_count)
        self._point(row.hash, number)
        self._free(_FREED_PER_ROW)

    def _row(self, number: int) -> Row:
        chunk = self._chunks.get(number // _CHUNK_ROWS) or b""
        return Row._make(_ROW.unpack_from(chunk, number % _CHUNK_ROWS * ROW_BYTES))

    def _free(self, count: int) -> None:
        """Give up the memory of so many rows that were forgotten."""
        for number in range(self._freed, min(self._freed + count, self._first)):
            hashed = self._row(number).hash
            # Otherwise the id has come again since, and the entry is that of its newer row.
            if self._number(hashed) == number:
                self._unpoint(hashed)
            self._freed = number + 1
            if self._freed % _CHUNK_ROWS == 0:
                self._chunks.delete(number // _CHUNK_ROWS)

    def _leaf(self, hashed: bytes) -> tuple[bytes, int]:
        """Return the leaf that a hash belongs into, and where its entry begins there, -1 for nowhere."""
        leaf = self._leaves.floor(hashed) or NO_ID
        at = leaf.find(hashed, ID_HASH_BYTES)
        while at >= 0 and (at - ID_HASH_BYTES) % _ENTRY.size:
            at = leaf.find(hashed, at + 1)
        return leaf, at

    def _number(self, hashed: bytes) -> int | None:
        leaf, at = self._leaf(hashed)
        return None if at < 0 else int.from_bytes(leaf[at + ID_HASH_BYTES : at + _ENTRY.size], "big")

    def _point(self, hashed: bytes, number: int) -> None:
        leaf, at = self._leaf(hashed)
        if at >= 0:
            leaf = leaf[:at] + leaf[at + _ENTRY.size :]
        leaf += _ENTRY.pack(hashed, number)
        low = leaf[:ID_HASH_BYTES]
        if len(leaf) <= ID_HASH_BYTES + _LEAF_ENTRIES * _ENTRY.size:
            self._leaves.set(low, leaf)
            return
        entries = sorted([leaf[i : i + _ENTRY.size] for i in range(ID_HASH_BYTES, len(leaf), _ENTRY.size)])
        half = len(entries) // 2
        self._leaves.set(low, low + b"".join(entries[:half]))
        low = entries[half][:ID_HASH_BYTES]
        self._leaves.set(low, low + b"".join(entries[half:]))

    def _unpoint(self, hashed: bytes) -> None:
        leaf, at = self._leaf(hashed)
        low, rest = leaf[:ID_HASH_BYTES], leaf[:at] + leaf[at + _ENTRY.size :]
        if len(rest) > ID_HASH_BYTES or low == NO_ID:
            self._leaves.set(low, rest)
        else:
            self._leaves.delete(low)


def id_hashes(change: Dedupe) -> list[bytes]:
    """The hash of each record's id, in order, `NO_ID` where there is none."""
    return [change.hashes[at : at + ID_HASH_BYTES] for at in range(0, len(change.hashes), ID_HASH_BYTES)]


def _body(change: Dedupe, position: int) -> bytes:
    return change.bodies[position * BODY_HASH_BYTES : (position + 1) * BODY_HASH_BYTES]


def _has(voids: OffsetRanges, offset: int) -> bool:
    return voids.count(offset, offset + 1) > 0


def _verdicts(change: Dedupe, first_of: Callable[[int, bytes], Row | None], voids: OffsetRanges) -> Verdicts:
    duplicates: list[tuple[int, int]] = []
    conflicts: list[int] = []
    for position, hashed in enumerate(id_hashes(change)):
        row = None if hashed == NO_ID else first_of(position, hashed)
        if row is None:
            continue
        if row.body == _body(change, position) and not _has(voids, row.offset):
            duplicates.append((position, row.offset))
        else:
            conflicts.append(position)
    return Verdicts(tuple(duplicates), tuple(conflicts))
