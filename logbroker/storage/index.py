"""The offset index: where in the segments to begin looking for an index, an offset or a log time.

Rows are sparse, one for a block of entries, and only flushed entries have any. The index is a cache: it
can be made again from the segments at any time, LMDB has no checksums, and one flipped bit gave silent
wrong answers in 121 of 150 trials. So callers compare every row with the frame that it names, and nothing
here may stop a node, lose a row that matters, or be the only place that knows something.

A row that is missing costs a longer walk through a segment. A replica whose rows were found wrong here is
named by `take_damaged`; its rows are dropped and made again by the one thread that writes.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias, TypeVar, final

import lmdb

from logbroker.errors import StorageError, StoreFailedError, invariant, violated
from logbroker.ids import GroupId, Index, Offset, ReplicaId
from logbroker.storage.lmdb_file import (
    Environment,
    make_environment,
    mark_as_left_in_order,
    open_environment,
    remove_environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_Answer = TypeVar("_Answer")

DEFAULT_MAP_SIZE_BYTES: Final = 1 << 40
"""Sparse: the file takes what its rows take. The map never grows while it is open, because that ends readers."""
VERIFY_LIMIT_BYTES: Final = 256 << 20
"""Above this size an index is not walked through after an unclean stop; it takes about 7 s at this size."""

_LITTLE_ROOM_BYTES: Final = 64 << 20

_PREFIX: Final = struct.Struct(">IQ")
_NUMBER: Final = struct.Struct(">Q")
_INDEX_KEY: Final = struct.Struct(">IQQ")
_ORDERED_KEY: Final = struct.Struct(">IQQQ")
_ROW: Final = struct.Struct(">QQQQQ")

# The binding was seen to raise SystemError, too, when a cursor met damaged pages.
_CORRUPT: Final = (lmdb.Error, SystemError)
_MAX_NUMBER: Final = (1 << 64) - 1
_BEHIND: Final = b"\xff" * 17
"""Longer and greater than what follows the prefix in any key."""

Log: TypeAlias = tuple[GroupId, ReplicaId]
_Transaction: TypeAlias = "lmdb.Transaction[bytes]"


@final
@dataclass(frozen=True, slots=True)
class IndexRow:
    """One entry's place: its index, first offset and log time, and where it begins in which segment."""

    index: Index
    base_offset: Offset
    append_ms: int
    segment_base: Index
    position: int


@final
@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """`rebuilt`: started empty though there may have been rows. `refused_writes` found no room and were left out;
    `recreated` counts how often all rows were thrown away while running."""

    rebuilt: bool
    refused_writes: int = 0
    recreated: int = 0
    damaged: int = 0


class OffsetIndex(Protocol):
    """Rows of every replica of a node. One thread changes it; any may ask.

    Asking never raises. Changing raises StoreFailedError alone; a change that finds no room is left out and
    counted.
    """

    @property
    def rebuilt(self) -> bool:
        """Whether it started empty, so that the rows of every replica are to be made again."""
        ...

    def add(self, group: GroupId, replica: ReplicaId, rows: Sequence[IndexRow]) -> None:
        """Add rows in order of index. Rows from the first one's index on are replaced: what is flushed again
        after a crash may be cut into other blocks."""
        ...

    def add_many(self, rows: Iterable[tuple[GroupId, ReplicaId, Sequence[IndexRow]]]) -> None:
        """`add` for many replicas at the cost of one."""
        ...

    def floor_by_index(self, group: GroupId, replica: ReplicaId, index: Index) -> IndexRow | None:
        """The last row whose index is at most `index`."""
        ...

    def floor_by_offset(self, group: GroupId, replica: ReplicaId, offset: Offset) -> IndexRow | None:
        """The last row whose base offset is at most `offset`."""
        ...

    def last_before_time(self, group: GroupId, replica: ReplicaId, append_ms: int) -> IndexRow | None:
        """The last row whose log time is below `append_ms`."""
        ...

    def truncate_after(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        """Remove the rows above `index`."""
        ...

    def drop_before(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        """Remove the rows below `index`."""
        ...

    def drop(self, group: GroupId, replica: ReplicaId) -> None:
        """Remove all rows of a replica."""
        ...

    def count(self, group: GroupId, replica: ReplicaId) -> int:
        """How many rows a replica has, by walking through them."""
        ...

    def take_damaged(self) -> frozenset[Log]:
        """Replicas whose rows were found wrong or were thrown away since the last call; make them again."""
        ...

    def statistics(self) -> IndexStatistics: ...

    def close(self) -> None: ...


def _check_order(rows: Sequence[IndexRow]) -> None:
    for one, two in pairwise(rows):
        if not (one.index < two.index and one.base_offset <= two.base_offset and one.append_ms <= two.append_ms):
            violated(f"index rows out of order: {one} before {two}")


@final
class DictIndex:
    """The twin in memory, for simulations and tests."""

    def __init__(self) -> None:
        self._rows: dict[Log, list[IndexRow]] = {}

    @property
    def rebuilt(self) -> bool:
        return True

    def add(self, group: GroupId, replica: ReplicaId, rows: Sequence[IndexRow]) -> None:
        if not rows:
            return
        _check_order(rows)
        kept = self._rows.setdefault((group, replica), [])
        del kept[bisect_left(kept, rows[0].index, key=_index_of) :]
        kept.extend(rows)

    def add_many(self, rows: Iterable[tuple[GroupId, ReplicaId, Sequence[IndexRow]]]) -> None:
        for group, replica, new in rows:
            self.add(group, replica, new)

    def floor_by_index(self, group: GroupId, replica: ReplicaId, index: Index) -> IndexRow | None:
        rows = self._of(group, replica)
        return _before(rows, bisect_right(rows, index, key=_index_of))

    def floor_by_offset(self, group: GroupId, replica: ReplicaId, offset: Offset) -> IndexRow | None:
        rows = self._of(group, replica)
        return _before(rows, bisect_right(rows, offset, key=_offset_of))

    def last_before_time(self, group: GroupId, replica: ReplicaId, append_ms: int) -> IndexRow | None:
        rows = self._of(group, replica)
        return _before(rows, bisect_left(rows, append_ms, key=_time_of))

    def truncate_after(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        rows = self._of(group, replica)
        del rows[bisect_right(rows, index, key=_index_of) :]

    def drop_before(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        rows = self._of(group, replica)
        del rows[: bisect_left(rows, index, key=_index_of)]

    def drop(self, group: GroupId, replica: ReplicaId) -> None:
        self._rows.pop((group, replica), None)

    def count(self, group: GroupId, replica: ReplicaId) -> int:
        return len(self._of(group, replica))

    def take_damaged(self) -> frozenset[Log]:
        return frozenset()

    def statistics(self) -> IndexStatistics:
        return IndexStatistics(rebuilt=True)

    def close(self) -> None:
        pass

    def _of(self, group: GroupId, replica: ReplicaId) -> list[IndexRow]:
        return self._rows.get((group, replica), [])


def _index_of(row: IndexRow) -> Index:
    return row.index


def _offset_of(row: IndexRow) -> Offset:
    return row.base_offset


def _time_of(row: IndexRow) -> int:
    return row.append_ms


def _before(rows: list[IndexRow], place: int) -> IndexRow | None:
    return rows[place - 1] if place else None


@final
class LmdbIndex:
    """The index on disk: one environment a node, in a directory of its own.

    One thread writes (LMDB binds a write transaction to its thread, and a second writer would wait); readers
    may be on any. What LMDB reports as corrupt is thrown away as a whole by the next write.
    """

    def __init__(self, path: Path, *, map_size_bytes: int) -> None:
        """Use `open`."""
        self._path = path
        self._map_size_bytes = map_size_bytes
        # Held while rows are read and while the environment is exchanged: a map must not go away under a reader.
        self._lock = threading.Lock()
        self._environment: Environment | None = None
        self._logs: set[Log] = set()
        self._damaged: set[Log] = set()
        self._is_closed = False
        # Set by readers too, cleared by the writer: what LMDB found corrupt is asked nothing more.
        self._is_condemned = False
        self._failure = ""
        self._rebuilt = False
        self._refused_writes = 0
        self._recreated = 0
        self._damaged_count = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        map_size_bytes: int = DEFAULT_MAP_SIZE_BYTES,
        verify_limit_bytes: int = VERIFY_LIMIT_BYTES,
    ) -> LmdbIndex:
        """Open the index in the directory `path`; what cannot be trusted is deleted and started anew, empty.

        After a stop without `close`, an index up to `verify_limit_bytes` is walked through byte by byte before
        liblmdb sees it, because damaged pages can end the process; a larger one goes after the second such stop
        in a row, so that no node dies of its index for ever.

        Raises:
            StorageError: not even an empty index can be made there.
        """
        index = cls(path, map_size_bytes=map_size_bytes)
        environment = open_environment(path, map_size_bytes=map_size_bytes, verify_limit_bytes=verify_limit_bytes)
        index._rebuilt = environment is None
        index._environment = environment or make_environment(path, map_size_bytes=map_size_bytes)
        return index

    @property
    def rebuilt(self) -> bool:
        return self._rebuilt

    def add(self, group: GroupId, replica: ReplicaId, rows: Sequence[IndexRow]) -> None:
        self.add_many([(group, replica, rows)])

    def add_many(self, rows: Iterable[tuple[GroupId, ReplicaId, Sequence[IndexRow]]]) -> None:
        wanted = [(group, replica, new) for group, replica, new in rows if new]
        for group, replica, new in wanted:
            _check_order(new)
            self._logs.add((group, replica))

        def put(environment: Environment, transaction: _Transaction) -> None:
            for group, replica, new in wanted:
                _delete(environment, transaction, _keys_from(environment, transaction, group, replica, new[0].index))
                for table, items in zip(_tables(environment), _items(group, replica, new), strict=True):
                    with transaction.cursor(db=table) as cursor:
                        cursor.putmulti(items)

        if wanted:
            self._change(put)

    def floor_by_index(self, group: GroupId, replica: ReplicaId, index: Index) -> IndexRow | None:
        row = self._last_below(0, group, replica, index + 1)
        return self._checked(group, replica, row, row is None or row.index <= index)

    def floor_by_offset(self, group: GroupId, replica: ReplicaId, offset: Offset) -> IndexRow | None:
        row = self._last_below(1, group, replica, offset + 1)
        return self._checked(group, replica, row, row is None or row.base_offset <= offset)

    def last_before_time(self, group: GroupId, replica: ReplicaId, append_ms: int) -> IndexRow | None:
        row = self._last_below(2, group, replica, append_ms)
        return self._checked(group, replica, row, row is None or row.append_ms < append_ms)

    def truncate_after(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        def delete(environment: Environment, transaction: _Transaction) -> None:
            _delete(environment, transaction, _keys_from(environment, transaction, group, replica, index + 1))

        self._change(delete)

    def drop_before(self, group: GroupId, replica: ReplicaId, index: Index) -> None:
        def delete(environment: Environment, transaction: _Transaction) -> None:
            _delete(environment, transaction, _keys_below(environment, transaction, group, replica, index))

        self._change(delete)

    def drop(self, group: GroupId, replica: ReplicaId) -> None:
        def delete(environment: Environment, transaction: _Transaction) -> None:
            _delete(environment, transaction, _keys_below(environment, transaction, group, replica, _MAX_NUMBER + 1))

        self._change(delete)
        self._logs.discard((group, replica))

    def count(self, group: GroupId, replica: ReplicaId) -> int:
        def walk(environment: Environment, transaction: _Transaction) -> int:
            return len(_keys_below(environment, transaction, group, replica, _MAX_NUMBER + 1)[0])

        return self._ask(group, replica, walk) or 0

    def take_damaged(self) -> frozenset[Log]:
        with self._lock:
            damaged = frozenset(self._damaged)
            self._damaged.clear()
        return damaged

    def statistics(self) -> IndexStatistics:
        return IndexStatistics(self._rebuilt, self._refused_writes, self._recreated, self._damaged_count)

    def close(self) -> None:
        """Close the environment and note that it was left in order. A second close does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._environment is not None:
                self._environment.close()
                self._environment = None
            if self._is_condemned:
                remove_environment(self._path)
            if not self._failure:
                mark_as_left_in_order(self._path)

    # Reading.

    def _last_below(self, table: int, group: GroupId, replica: ReplicaId, bound: int) -> IndexRow | None:
        """The last row of the replica whose key in the table is below `bound`."""
        prefix = _PREFIX.pack(group, replica)
        # What no number can be is asked for, too: a time before 1970 has no row before it.
        key = prefix + (_NUMBER.pack(max(0, bound)) if bound <= _MAX_NUMBER else _BEHIND)

        def find(environment: Environment, transaction: _Transaction) -> IndexRow | None:
            with transaction.cursor(db=_tables(environment)[table]) as cursor:
                # Behind the last key of the table there is nothing to step back from.
                found = cursor.prev() if cursor.set_range(key) else cursor.last()
                return _row_of(cursor.value()) if found and cursor.key().startswith(prefix) else None

        return self._ask(group, replica, find)

    def _checked(self, group: GroupId, replica: ReplicaId, row: IndexRow | None, is_right: bool) -> IndexRow | None:
        # The caller's look at the frame cannot see this: a true row that is not the one asked for.
        if is_right:
            return row
        self._found_damaged(group, replica)
        return None

    def _ask(
        self, group: GroupId, replica: ReplicaId, ask: Callable[[Environment, _Transaction], _Answer]
    ) -> _Answer | None:
        self._logs.add((group, replica))
        try:
            with self._lock:
                if self._environment is None or self._is_condemned:
                    return None
                with self._environment.handle.begin() as transaction:
                    return ask(self._environment, transaction)
        except lmdb.ReadersFullError:
            return None
        except _CORRUPT:
            self._is_condemned = True
        self._found_damaged(group, replica)
        return None

    def _found_damaged(self, group: GroupId, replica: ReplicaId) -> None:
        with self._lock:
            self._damaged.add((group, replica))
            self._damaged_count += 1

    # Changing.

    def _change(self, change: Callable[[Environment, _Transaction], None]) -> None:
        if self._failure:
            raise StoreFailedError(self._failure)
        invariant(not self._is_closed, f"{self._path}: used after it was closed")
        environment = self._start_anew() if self._is_condemned else self._environment
        if environment is None:
            self._refused_writes += 1
            return
        try:
            with environment.handle.begin(write=True) as transaction:
                change(environment, transaction)
            environment.fill_up()
        except (lmdb.MapFullError, lmdb.TxnFullError, lmdb.DiskError):
            # The rows are left out. Nothing is lost but time, and room is what the queue itself needs now.
            self._refused_writes += 1
        except _CORRUPT as error:
            self._on_error(error)
        except OSError as error:
            self._fail(str(error.strerror), error)

    def _on_error(self, error: Exception) -> None:
        # What LMDB has no class for is an error of the operating system.
        if type(error) is not lmdb.Error:
            self._is_condemned = True
        elif os.strerror(errno.EIO) in str(error) and self._is_disk_full():
            self._refused_writes += 1
        else:
            self._fail(str(error), error)

    def _is_disk_full(self) -> bool:
        """Whether an I/O error may be want of room: so LMDB calls a write of which only a part found its place.

        The transaction is undone, and the file ends where it ended. Where a disk that is nearly full fails indeed,
        the log meets that too, and whatever it has to say of it is believed.
        """
        space = os.statvfs(self._path)
        return space.f_bavail * space.f_frsize < _LITTLE_ROOM_BYTES

    def _fail(self, reason: str, error: Exception) -> NoReturn:
        # Never tried again: after a failed sync LMDB's next commit succeeds as if nothing had happened.
        self._failure = f"{self._path}: write failed: {reason}"
        raise StoreFailedError(self._failure, hint="stop the node and check the disk") from error

    def _start_anew(self) -> Environment | None:
        """Throw every row away and go on with an empty environment; with none while the disk has no room for it."""
        with self._lock:
            if self._environment is not None:
                self._environment.close()
                self._environment = None
                self._recreated += 1
                self._damaged |= self._logs
            try:
                self._environment = make_environment(self._path, map_size_bytes=self._map_size_bytes)
            except StorageError:
                return None
            self._is_condemned = False
            return self._environment


def _tables(environment: Environment) -> tuple[lmdb._Database, lmdb._Database, lmdb._Database]:
    return environment.by_index, environment.by_offset, environment.by_time


def _items(group: GroupId, replica: ReplicaId, rows: Sequence[IndexRow]) -> tuple[list[tuple[bytes, bytes]], ...]:
    """Keys and values for each table, in order of keys."""
    # The index stands in every key: it makes the keys of blocks without records, or of one millisecond, distinct.
    by_index, by_offset, by_time = [], [], []
    for row in rows:
        index, offset, append_ms = row.index, row.base_offset, row.append_ms
        value = _ROW.pack(index, offset, append_ms, row.segment_base, row.position)
        by_index.append((_INDEX_KEY.pack(group, replica, index), value))
        by_offset.append((_ORDERED_KEY.pack(group, replica, offset, index), value))
        by_time.append((_ORDERED_KEY.pack(group, replica, append_ms, index), value))
    return by_index, by_offset, by_time


def _index_in(key: bytes) -> int:
    return int.from_bytes(key[-_NUMBER.size :], "big")


def decode_index_row(key: bytes, value: bytes) -> tuple[GroupId, ReplicaId, IndexRow]:
    """One line of the table by index, for whoever looks at it from outside; the row's index is that of the key."""
    group, replica, index = _INDEX_KEY.unpack(key[: _INDEX_KEY.size].ljust(_INDEX_KEY.size, b"\0"))
    return GroupId(group), ReplicaId(replica), replace(_row_of(value), index=Index(index))


def _row_of(value: bytes) -> IndexRow:
    # A value of another size is damage; what is made of it fails the caller's look at the frame.
    index, base_offset, append_ms, segment_base, position = _ROW.unpack(value[: _ROW.size].ljust(_ROW.size, b"\0"))
    return IndexRow(Index(index), Offset(base_offset), append_ms, Index(segment_base), position)


_Keys: TypeAlias = tuple[list[bytes], ...]
"""Keys of one replica in each of the three tables."""


def _keys_from(
    environment: Environment, transaction: _Transaction, group: GroupId, replica: ReplicaId, index: int
) -> _Keys:
    """Keys of the rows from `index` on, found from behind: they are the last ones of the replica in every table."""
    prefix = _PREFIX.pack(group, replica)
    found = []
    for table in _tables(environment):
        with transaction.cursor(db=table) as cursor:
            is_set = cursor.prev() if cursor.set_range(prefix + _BEHIND) else cursor.last()
            keys = cursor.iterprev(keys=True, values=False) if is_set else iter(())
            found.append(list(takewhile(lambda key: key.startswith(prefix) and _index_in(key) >= index, keys)))
    return tuple(found)


def _keys_below(
    environment: Environment, transaction: _Transaction, group: GroupId, replica: ReplicaId, index: int
) -> _Keys:
    """Keys of the rows below `index`: the first ones of the replica in every table."""
    prefix = _PREFIX.pack(group, replica)
    found = []
    for table in _tables(environment):
        with transaction.cursor(db=table) as cursor:
            keys = cursor.iternext(keys=True, values=False) if cursor.set_range(prefix) else iter(())
            found.append(list(takewhile(lambda key: key.startswith(prefix) and _index_in(key) < index, keys)))
    return tuple(found)


def _delete(environment: Environment, transaction: _Transaction, keys: _Keys) -> None:
    for table, gone in zip(_tables(environment), keys, strict=True):
        for key in gone:
            transaction.delete(key, db=table)
