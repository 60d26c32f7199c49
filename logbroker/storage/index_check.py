"""Holds the offset index of a stopped node against its segments, in a process of its own: damaged pages end liblmdb.

    python -m logbroker.storage.index_check DATA_DIRECTORY

Writes one line: how many rows were looked at and how many are wrong. Reads alone; the index is only ever a cache, so
nothing that is found here is a loss.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import lmdb

from logbroker.errors import DamageError, StorageError
from logbroker.ids import GroupId, Index, Term
from logbroker.storage.disk import RealDisk
from logbroker.storage.flush_record import read_record
from logbroker.storage.identity import read_identity
from logbroker.storage.index import decode_index_row
from logbroker.storage.segment import SegmentReader, SegmentRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.storage.flush_record import ReplicaRow
    from logbroker.storage.index import IndexRow

INDEX_NAME: Final = "index.lmdb"
TIMEOUT_S: Final = 600.0
_TABLES: Final = 4


@final
@dataclass(frozen=True, slots=True)
class IndexCheck:
    """`fault` is why the index could not be read to its end; empty where it could."""

    rows: int = 0
    wrong: int = 0
    fault: str = ""


def check_index(root: Path) -> IndexCheck:
    """Look at the index of a data directory from a process of its own."""
    if not (root / INDEX_NAME / "data.mdb").exists():
        return IndexCheck()
    command = [sys.executable, "-m", "logbroker.storage.index_check", str(root)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return IndexCheck(fault=f"it was not read in {TIMEOUT_S:.0f} s")
    words = ran.stdout.split()
    if ran.returncode == 0 and len(words) == 2:
        return IndexCheck(int(words[0]), int(words[1]))
    last = ran.stderr.strip().splitlines()[-1:] or [f"its reader ended with {ran.returncode}"]
    return IndexCheck(fault=last[0])


def wrong_rows(root: Path) -> tuple[int, int]:
    """How many rows there are of replicas that live, and how many of them do not say what their frames say.

    Raises:
        StorageError, lmdb.Error: the index or the node's own files cannot be read.
    """
    disk = RealDisk(root, read_only=True)
    identity = read_identity(disk)
    record = None if identity is None else read_record(disk, identity.salt_crc)
    if record is None:
        raise StorageError("which segments there are is not known")
    replicas = {(row.group, row.replica): row for row in record.replicas}
    rows = wrong = 0
    for group, replica, row in _rows(root / INDEX_NAME):
        held = replicas.get((group, replica))
        # Rows of a replica that is gone, or behind the record, are taken away by the next start or flush.
        if held is None or row.index > max((one.last_index for one in held.segments), default=0):
            continue
        rows += 1
        wrong += not _is_right(disk, held, row)
    return rows, wrong


def _rows(path: Path) -> Iterator[tuple[int, int, IndexRow]]:
    with (
        lmdb.open(os.fspath(path), readonly=True, lock=False, max_dbs=_TABLES, create=False, lib_version=0) as found,
        found.begin() as transaction,
        transaction.cursor(db=found.open_db(b"by_index", txn=transaction, create=False)) as cursor,
    ):
        for key, value in cursor:
            yield decode_index_row(bytes(key), bytes(value))


def _is_right(disk: RealDisk, replica: ReplicaRow, row: IndexRow) -> bool:
    for one in replica.segments:
        if one.base_index == row.segment_base:
            segment = SegmentRow(Index(one.base_index), Index(one.last_index), Term(one.last_term), one.length_bytes)
            break
    else:
        return row.index <= replica.previous_index
    reader = SegmentReader(disk, replica.directory, segment, GroupId(replica.group))
    try:
        head = reader.head_at(row.position)
    except (DamageError, StorageError):
        # Damage of the segment, which is reported as such; the row may be right.
        return True
    finally:
        reader.close()
    return (head.index, head.base_offset, head.append_ms) == (row.index, row.base_offset, row.append_ms)


if __name__ == "__main__":
    try:
        print(*wrong_rows(Path(sys.argv[1])))
    except (StorageError, lmdb.Error) as error:
        sys.exit(f"{error}")
