"""An environment is opened only if it can be trusted. No test here may end the process: that is the point."""

from __future__ import annotations

import os
import random
import shutil
import struct
from typing import TYPE_CHECKING

import lmdb
import pytest
from lmdb import verify as lmdb_verify

from logbroker.errors import StorageError
from logbroker.ids import GroupId, Index, Offset, ReplicaId
from logbroker.storage.index import IndexRow, LmdbIndex
from logbroker.storage.lmdb_file import DATA_NAME, MARK_NAME, Environment, make_environment, open_environment

if TYPE_CHECKING:
    from pathlib import Path

G, R = GroupId(1), ReplicaId(2)
MAP_BYTES = 1 << 24
ROWS = [IndexRow(Index(number), Offset(number), number, Index(0), number) for number in range(1, 400)]


def opened(path: Path, *, verify_limit_bytes: int = 1 << 30) -> LmdbIndex:
    return LmdbIndex.open(path, map_size_bytes=MAP_BYTES, verify_limit_bytes=verify_limit_bytes)


def filled(path: Path) -> Path:
    """A closed index with rows."""
    index = opened(path)
    index.add(G, R, ROWS)
    index.close()
    return path


def left_open(path: Path, to: Path) -> Path:
    """A copy of an index as a killed process leaves it."""
    index = opened(path)
    shutil.copytree(path, to)
    index.close()
    return to


def starts_empty(path: Path) -> bool:
    """Whether the index at the path starts empty; it must work either way."""
    index = opened(path)
    rebuilt = index.rebuilt
    assert index.count(G, R) == (0 if rebuilt else len(ROWS))
    index.add(G, ReplicaId(9), ROWS)
    assert index.floor_by_index(G, ReplicaId(9), Index(200)) == ROWS[199]
    index.close()
    return rebuilt


def test_rows_outlive_a_clean_stop(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    assert not (path / MARK_NAME).exists()
    assert not starts_empty(path)


def test_rows_outlive_a_kill(tmp_path: Path) -> None:
    killed = left_open(filled(tmp_path / "index"), tmp_path / "killed")
    assert (killed / MARK_NAME).exists()
    assert not starts_empty(killed)


def test_a_file_that_was_cut_anywhere_is_not_touched_by_lmdb(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    size = (path / DATA_NAME).stat().st_size
    for cut in (0, 1, 100, 4096, 4200, 8192, size // 2, size - 4096, size - 1):
        damaged = tmp_path / f"cut{cut}"
        shutil.copytree(path, damaged)
        os.truncate(damaged / DATA_NAME, cut)
        assert starts_empty(damaged)


@pytest.mark.parametrize("place", [0, 10, 16, 20, 40, 4096, 4106, 4112, 4116, 4136])
def test_a_damaged_meta_page_is_not_touched_by_lmdb(tmp_path: Path, place: int) -> None:
    path = filled(tmp_path / "index")
    with (path / DATA_NAME).open("r+b") as file:
        file.seek(place)
        file.write(b"\x5a\x5a")
    assert starts_empty(path)


def test_the_newer_meta_page_says_how_long_the_file_must_be(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    for place in (136, 4096 + 136):
        damaged = tmp_path / f"meta{place}"
        shutil.copytree(path, damaged)
        with (damaged / DATA_NAME).open("r+b") as file:
            file.seek(place)
            file.write((10**6).to_bytes(8, "little"))
            file.seek(place + 8)
            file.write((10**6).to_bytes(8, "little"))
        assert starts_empty(damaged)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_pages_after_a_kill_are_found_before_lmdb_sees_them(tmp_path: Path, seed: int) -> None:
    killed = left_open(filled(tmp_path / "index"), tmp_path / "killed")
    chance = random.Random(seed)
    data = bytearray((killed / DATA_NAME).read_bytes())
    used = [page for page in range(2, len(data) // 4096) if any(data[page * 4096 : (page + 1) * 4096])]
    for page in used:
        data[page * 4096 + 8 : page * 4096 + 24] = chance.randbytes(16)
    (killed / DATA_NAME).write_bytes(data)
    assert starts_empty(killed)


def test_a_file_that_is_no_environment_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    (path / DATA_NAME).write_bytes(b"something else " * 1000)
    assert starts_empty(path)


def test_another_format_starts_empty(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    environment = open_environment(path, map_size_bytes=MAP_BYTES, verify_limit_bytes=0)
    assert environment is not None
    with environment.handle.begin(write=True) as transaction:
        transaction.put(b"format", b"2", db=environment._meta)
    environment.close()
    assert starts_empty(path)


def test_an_index_too_large_to_walk_through_is_trusted_once_after_a_kill(tmp_path: Path) -> None:
    killed = left_open(filled(tmp_path / "index"), tmp_path / "killed")
    first = opened(killed, verify_limit_bytes=0)
    assert not first.rebuilt
    shutil.copytree(killed, tmp_path / "again")
    first.close()
    again = opened(tmp_path / "again", verify_limit_bytes=0)
    assert again.rebuilt
    again.close()
    # A clean stop in between ends the row.
    third = opened(killed, verify_limit_bytes=0)
    assert not third.rebuilt
    third.close()


@pytest.mark.parametrize("mark", [b"", b"nonsense", b"\xff\xfe", b"9" * 5000])
def test_an_unreadable_mark_counts_as_one_stop(tmp_path: Path, mark: bytes) -> None:
    path = filled(tmp_path / "index")
    (path / MARK_NAME).write_bytes(mark)
    assert not starts_empty(path)


def test_an_index_that_is_open_already_is_not_deleted(tmp_path: Path) -> None:
    path = filled(tmp_path / "index")
    index = opened(path)
    with pytest.raises(StorageError, match="already open"):
        opened(path)
    assert index.count(G, R) == len(ROWS)
    index.close()


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        opened(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be opened"):
        opened(tmp_path / "no" / "parent")


def test_an_empty_environment_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    (path / DATA_NAME).mkdir()
    with pytest.raises(StorageError, match="cannot be"):
        opened(path)


def test_an_environment_without_our_tables_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    with (
        lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=4, lib_version=0) as raw,
        raw.begin(write=True) as transaction,
    ):
        transaction.put(b"by_index", b"no table")
    with (path / DATA_NAME).open("ab") as file:
        file.truncate(1 << 20)
    assert starts_empty(path)


def test_what_lmdb_finds_corrupt_at_the_start_starts_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / "index")

    def fail(_self: Environment) -> bool:
        raise lmdb.CorruptedError("damaged")

    monkeypatch.setattr(Environment, "has_format", fail)
    assert starts_empty(path)


def test_what_cannot_be_walked_through_starts_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = left_open(filled(tmp_path / "index"), tmp_path / "killed")

    def fail(_path: str, *, subdir: bool) -> list[str]:
        raise lmdb_verify.VerifyError(f"not a data file, subdir={subdir}")

    monkeypatch.setattr(lmdb_verify, "verify", fail)
    assert starts_empty(killed)


def test_without_room_for_an_empty_environment_the_start_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> lmdb.Environment:
        raise lmdb.DiskError("No space left on device")

    monkeypatch.setattr(lmdb, "open", fail)
    with pytest.raises(StorageError, match="an empty offset index cannot be made: No space left"):
        opened(tmp_path / "index")


def test_the_file_always_reaches_its_last_page(tmp_path: Path) -> None:
    chance = random.Random(1)
    environment = make_environment(tmp_path, map_size_bytes=1 << 28)
    tables = (environment.by_index, environment.by_offset, environment.by_time)
    short_count = 0
    for step in range(150):
        with environment.handle.begin(write=True) as transaction:
            for place in range(chance.randrange(200)):
                key = struct.pack(">QQ", chance.randrange(20), step * 1000 + place)
                for table in tables:
                    transaction.put(key, bytes(40), db=table)
            cursor = transaction.cursor(db=tables[step % 3])
            if step % 3 == 0 and cursor.set_range(struct.pack(">Q", chance.randrange(20))):
                for _ in range(chance.randrange(2000)):
                    cursor.delete()
        needed = (environment.handle.info()["last_pgno"] + 1) * 4096
        short_count += (tmp_path / DATA_NAME).stat().st_size < needed
        environment.fill_up()
        assert (tmp_path / DATA_NAME).stat().st_size >= needed
    environment.close()
    # LMDB does leave the file short now and then; without that this test shows nothing.
    assert short_count > 0
