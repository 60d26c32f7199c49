"""The index on disk where something is wrong: it answers less, and stops nobody but after a failed write."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import lmdb
import pytest

from logbroker.errors import InvariantError, StorageError, StoreFailedError
from logbroker.ids import GroupId, Index, Offset, ReplicaId
from logbroker.storage import index as index_module
from logbroker.storage.index import IndexRow, IndexStatistics, LmdbIndex
from logbroker.storage.lmdb_file import MARK_NAME, Environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

G, R, OTHER = GroupId(1), ReplicaId(2), ReplicaId(3)
MAP_BYTES = 1 << 24


def row(index: int) -> IndexRow:
    return IndexRow(Index(index), Offset(index * 2), index * 3, Index(0), index * 10)


class FailingHandle:
    """In place of an open environment: every transaction raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def begin(self, *, write: bool = False) -> None:
        raise self.error

    def close(self) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LmdbIndex]:
    made = LmdbIndex.open(tmp_path / "index", map_size_bytes=MAP_BYTES)
    made.add(G, R, [row(10), row(20)])
    yield made
    made.close()


def fail_with(index: LmdbIndex, error: Exception) -> lmdb.Environment:
    """Let LMDB fail from now on; gives the handle that works."""
    environment = index._environment
    assert environment is not None
    handle = environment.handle
    environment.handle = FailingHandle(error)  # type: ignore[assignment]  # a stand-in
    return handle


def heal(index: LmdbIndex, handle: lmdb.Environment) -> None:
    assert index._environment is not None
    index._environment.handle = handle


def test_what_lmdb_finds_corrupt_is_asked_nothing_more_and_made_anew(index: LmdbIndex) -> None:
    index.floor_by_index(G, OTHER, Index(1))
    fail_with(index, lmdb.CorruptedError("damaged")).close()
    assert index.floor_by_index(G, R, Index(10)) is None
    assert index.take_damaged() == {(G, R)}
    assert index.floor_by_index(G, R, Index(10)) is None
    assert index.take_damaged() == frozenset()
    index.add(G, OTHER, [row(1)])
    # Every replica that was ever asked about has lost its rows.
    assert index.take_damaged() == {(G, R), (G, OTHER)}
    assert index.floor_by_index(G, R, Index(10)) is None
    assert index.floor_by_index(G, OTHER, Index(10)) == row(1)
    assert index.statistics() == IndexStatistics(rebuilt=True, recreated=1, damaged=1)


@pytest.mark.parametrize("error", [lmdb.PageNotFoundError("gone"), SystemError("a result with an exception set")])
def test_a_change_that_meets_corruption_is_left_out_and_the_next_one_starts_anew(
    index: LmdbIndex, error: Exception
) -> None:
    fail_with(index, error).close()
    index.add(G, R, [row(30)])
    assert index.statistics().recreated == 0
    index.add(G, R, [row(40)])
    assert index.count(G, R) == 1
    assert index.statistics().recreated == 1


@pytest.mark.parametrize("error", [lmdb.MapFullError("full"), lmdb.DiskError("full"), lmdb.TxnFullError("full")])
def test_without_room_a_change_is_left_out_and_the_rows_stay(index: LmdbIndex, error: Exception) -> None:
    handle = fail_with(index, error)
    index.add(G, R, [row(30)])
    index.drop(G, R)
    heal(index, handle)
    assert index.count(G, R) == 2
    assert index.statistics().refused_writes == 2


def test_a_full_map_refuses_rows_and_keeps_those_it_has(tmp_path: Path) -> None:
    index = LmdbIndex.open(tmp_path / "index", map_size_bytes=256 << 10)
    for start in range(0, 3000, 100):
        index.add(G, R, [row(number) for number in range(start, start + 100)])
    assert index.statistics().refused_writes > 0
    assert 100 <= index.count(G, R) < 3000
    assert index.floor_by_index(G, R, Index(55)) == row(55)
    index.close()


def test_a_write_that_was_cut_short_on_a_full_disk_is_left_out(
    index: LmdbIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """liblmdb makes EIO of a short write, which is how a disk says that it is full."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=100, f_frsize=4096))
    handle = fail_with(index, lmdb.Error("mdb_txn_commit: Input/output error"))
    index.add(G, R, [row(30)])
    heal(index, handle)
    assert index.statistics().refused_writes == 1
    index.add(G, R, [row(40)])
    assert index.count(G, R) == 3


def test_an_error_of_the_operating_system_ends_writing_for_good(index: LmdbIndex, tmp_path: Path) -> None:
    handle = fail_with(index, lmdb.Error("mdb_txn_commit: Input/output error"))
    with pytest.raises(StoreFailedError, match="Input/output error"):
        index.add(G, R, [row(30)])
    heal(index, handle)
    with pytest.raises(StoreFailedError, match="Input/output error"):
        index.add(G, R, [row(30)])
    index.close()
    assert (tmp_path / "index" / MARK_NAME).exists()


def test_a_file_that_cannot_be_made_as_long_as_it_should_be_ends_writing(
    index: LmdbIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Environment) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Environment, "fill_up", fail)
    with pytest.raises(StoreFailedError, match="Input/output error"):
        index.add(G, R, [row(30)])


def test_too_many_readers_get_no_answer_and_harm_nothing(index: LmdbIndex) -> None:
    handle = fail_with(index, lmdb.ReadersFullError("full"))
    assert index.floor_by_index(G, R, Index(10)) is None
    heal(index, handle)
    assert index.floor_by_index(G, R, Index(10)) == row(10)
    assert index.take_damaged() == frozenset()


def test_a_row_that_is_not_the_one_asked_for_is_not_given(index: LmdbIndex) -> None:
    with fail_free(index) as (environment, transaction):
        for table in (environment.by_index, environment.by_offset, environment.by_time):
            cursor = transaction.cursor(db=table)
            assert cursor.first()
            # The true row of index 20, where that of index 10 belongs.
            key = cursor.key()
            assert cursor.last()
            transaction.put(key, cursor.value(), db=table)
            cursor.close()
    assert index.floor_by_index(G, R, Index(15)) is None
    assert index.floor_by_offset(G, R, Offset(30)) is None
    assert index.last_before_time(G, R, 45) is None
    assert index.take_damaged() == {(G, R)}
    assert index.statistics().damaged == 3


def test_a_value_of_another_size_gives_a_row_that_no_frame_matches(index: LmdbIndex) -> None:
    with fail_free(index) as (environment, transaction):
        cursor = transaction.cursor(db=environment.by_index)
        assert cursor.first()
        transaction.put(cursor.key(), b"\x00", db=environment.by_index)
        cursor.close()
    assert index.floor_by_index(G, R, Index(15)) == IndexRow(Index(0), Offset(0), 0, Index(0), 0)


class fail_free:  # reads as what it is: a block with a write transaction
    def __init__(self, index: LmdbIndex) -> None:
        assert index._environment is not None
        self.environment = index._environment
        self.transaction = self.environment.handle.begin(write=True)

    def __enter__(self) -> tuple[Environment, lmdb.Transaction[bytes]]:
        return self.environment, self.transaction

    def __exit__(self, *_error: object) -> None:
        self.transaction.commit()


def test_while_there_is_no_room_for_a_new_environment_writes_are_left_out(
    index: LmdbIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, *, map_size_bytes: int) -> Environment:
        raise StorageError(f"no room for {map_size_bytes}")

    fail_with(index, lmdb.CorruptedError("damaged")).close()
    index.count(G, R)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "make_environment", fail)
        index.add(G, R, [row(30)])
        index.add(G, R, [row(40)])
        assert index.floor_by_index(G, R, Index(40)) is None
    index.add(G, R, [row(50)])
    assert index.floor_by_index(G, R, Index(50)) == row(50)
    assert (index.statistics().refused_writes, index.statistics().recreated) == (2, 1)


def test_without_an_environment_it_can_be_closed(index: LmdbIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, *, map_size_bytes: int) -> Environment:
        raise StorageError(f"no room for {map_size_bytes}")

    fail_with(index, lmdb.CorruptedError("damaged")).close()
    index.count(G, R)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "make_environment", fail)
        index.add(G, R, [row(30)])
    index.close()


def test_what_was_found_corrupt_is_gone_after_the_close(tmp_path: Path) -> None:
    index = LmdbIndex.open(tmp_path / "index", map_size_bytes=MAP_BYTES)
    index.add(G, R, [row(10)])
    fail_with(index, lmdb.CorruptedError("damaged")).close()
    index.count(G, R)
    index.close()
    again = LmdbIndex.open(tmp_path / "index", map_size_bytes=MAP_BYTES)
    assert again.rebuilt
    again.close()


def test_a_closed_index_answers_nothing_and_takes_nothing(index: LmdbIndex) -> None:
    index.close()
    assert index.floor_by_index(G, R, Index(10)) is None
    with pytest.raises(InvariantError, match="used after it was closed"):
        index.add(G, R, [row(30)])
