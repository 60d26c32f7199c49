"""The LMDB environment of the offset index: opened only if it can be trusted, and started anew otherwise.

liblmdb has no checksums, and ends the process where a page is damaged or missing (SIGBUS for a file that was
cut, failed assertions and SIGSEGV for damaged pages: 19 of 180 trials). So the file is looked at before liblmdb
sees it. It knows nothing of rows.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, final

import lmdb
from lmdb import verify as lmdb_verify

from logbroker.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION: Final = 1
DATA_NAME: Final = "data.mdb"
LOCK_NAME: Final = "lock.mdb"
MARK_NAME: Final = "in_use"
"""There from open to close; holds how many stops in a row left it behind."""

_FORMAT_KEY: Final = b"format"
_FORMAT: Final = b"%d" % FORMAT_VERSION
_MAX_READERS: Final = 1024

# A meta page of liblmdb 0.9 on a 64-bit machine, in the machine's byte order: page number, flags; magic, version,
# map size, page size (in the record of the free list); behind both table records the last page and the transaction.
_META: Final = struct.Struct("=Q2xH4xII8xQI92xQQ")
_META_FLAG: Final = 0x08
_META_MAGIC: Final = 0xBEEFC0DE
_META_VERSION: Final = 1


@final
class Environment:
    """An open environment and its three tables of rows."""

    def __init__(self, path: Path, map_size_bytes: int) -> None:
        """Open what is there without looking at it; use `open_environment` or `make_environment`."""
        self._path = path
        # Never writemap: on a full disk it ends the process with SIGBUS.
        self.handle = lmdb.open(
            os.fspath(path),
            map_size=map_size_bytes,
            max_dbs=4,
            max_readers=_MAX_READERS,
            lib_version=0,
            writemap=False,
            mode=0o600,
        )
        try:
            self.handle.reader_check()
            self._meta = self.handle.open_db(b"meta")
            self.by_index = self.handle.open_db(b"by_index")
            self.by_offset = self.handle.open_db(b"by_offset")
            self.by_time = self.handle.open_db(b"by_time")
        except BaseException:
            self.handle.close()
            raise

    def has_format(self) -> bool:
        with self.handle.begin() as transaction:
            return transaction.get(_FORMAT_KEY, db=self._meta) == _FORMAT

    def set_format(self) -> None:
        with self.handle.begin(write=True) as transaction:
            transaction.put(_FORMAT_KEY, _FORMAT, db=self._meta)
        self.fill_up()

    def fill_up(self) -> None:
        """Make the file as long as its meta page says; call it after each commit.

        LMDB may end a commit with pages that the file does not reach yet (16 of 400 commits). With this, a file
        that is shorter has lost something, and touching what it lost would raise SIGBUS.
        """
        wanted = (self.handle.info()["last_pgno"] + 1) * self.handle.stat()["psize"]
        data = self._path / DATA_NAME
        if data.stat().st_size < wanted:
            os.truncate(data, wanted)

    def close(self) -> None:
        self.handle.close()


def open_environment(path: Path, *, map_size_bytes: int, verify_limit_bytes: int) -> Environment | None:
    """Open the environment in the directory `path` if there is one and nothing speaks against it; mark it as in use.

    Raises:
        StorageError: the directory cannot be used, or the environment is open in this process already.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        stops = _unclean_stops(path)
        is_sound = _is_sound(path, stops=stops, verify_limit_bytes=verify_limit_bytes)
        (path / MARK_NAME).write_text(f"{stops + 1 if is_sound else 0}\n", "ascii")
    except OSError as error:
        raise StorageError(f"{path}: the offset index cannot be opened: {error.strerror}") from error
    if not is_sound:
        return None
    try:
        environment = Environment(path, map_size_bytes)
    except lmdb.Error as error:
        if type(error) is lmdb.Error:
            # Open in this process already, or an error of the operating system: no reason to delete it.
            raise StorageError(f"{path}: the offset index cannot be opened: {error}") from error
        return None
    try:
        if environment.has_format():
            return environment
    except lmdb.Error:
        pass
    environment.close()
    return None


def make_environment(path: Path, *, map_size_bytes: int) -> Environment:
    """Delete what is in the directory and make an empty environment.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        remove_environment(path)
        environment = Environment(path, map_size_bytes)
        environment.set_format()
    except (OSError, lmdb.Error) as error:
        raise StorageError(f"{path}: an empty offset index cannot be made: {error}") from error
    return environment


def remove_environment(path: Path) -> None:
    """Delete the files of an environment that is not open."""
    for name in (DATA_NAME, LOCK_NAME):
        (path / name).unlink(missing_ok=True)


def mark_as_left_in_order(path: Path) -> None:
    """Note a clean stop."""
    (path / MARK_NAME).unlink(missing_ok=True)


def _unclean_stops(path: Path) -> int:
    """How many stops in a row left the environment open; -1 after a clean stop, and 0 where the mark is unreadable."""
    mark = path / MARK_NAME
    if not mark.exists():
        return -1
    text = mark.read_bytes().strip()
    return int(text) if text.isdigit() and len(text) < 9 else 0


def _is_sound(path: Path, *, stops: int, verify_limit_bytes: int) -> bool:
    data = path / DATA_NAME
    if not data.exists() or not _has_all_pages(data):
        return False
    if stops < 0:
        return True
    if data.stat().st_size > verify_limit_bytes:
        return stops == 0
    try:
        problems: object = lmdb_verify.verify(os.fspath(path), subdir=True)  # type: ignore[no-untyped-call]  # ships no types
        return not problems
    except lmdb_verify.VerifyError:
        return False


def _has_all_pages(data: Path) -> bool:
    """Whether both meta pages are such and the file reaches the last page that the newer one knows of."""
    with data.open("rb") as file:
        first = file.read(_META.size)
        if len(first) < _META.size:
            return False
        page_bytes: int = _META.unpack(first)[5]
        if not 512 <= page_bytes <= 65536:
            return False
        file.seek(page_bytes)
        second = file.read(_META.size)
        if len(second) < _META.size:
            return False
        size = file.seek(0, os.SEEK_END)
    newest = (-1, 0)
    for place, meta in enumerate((first, second)):
        number, flags, magic, version, _, psize, last_page, transaction = _META.unpack(meta)
        expected = (place, _META_FLAG, _META_MAGIC, _META_VERSION, page_bytes)
        if (number, flags, magic, version, psize) != expected:
            return False
        newest = max(newest, (transaction, last_page))
    return size >= (newest[1] + 1) * page_bytes
