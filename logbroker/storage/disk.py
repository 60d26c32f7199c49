"""The one door to files: a narrow, blocking protocol and its real implementation.

Everything in `storage` works through it, so that the simulator can run the same code on
`simulated_disk`. It knows nothing of what the files mean. It must never retry a failed sync, and
never let a caller go on writing after one: the kernel marks the pages clean and the next sync
succeeds although the bytes are gone (Rebello et al., "Can applications recover from fsync
failures?", ATC 2020).

Paths are posix strings relative to the data directory; "" is the data directory itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, final

from logbroker.errors import DamageError, DiskFullError, StorageError, StoreFailedError, invariant
from logbroker.storage.direct_writes import DirectWrites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes to write. A memoryview must be one of single bytes, so that `len` counts bytes."""

MAX_BUFFERS_PER_WRITE = 512
"""Buffers in one pwritev; Linux takes 1,024, and above 512 joining them first is no slower."""

LOCK_NAME = "lock"
TEMPORARY_SUFFIX = ".tmp"

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_ZEROS = bytes(1 << 20)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_CONFLICT = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR})
_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})


class MissingFileError(StorageError):
    """A file or directory that was named is not there."""

    code = "missing_file"


class PathConflictError(StorageError):
    """What is at the path forbids the operation: the name is taken, a directory is not empty, or a
    file stands where a directory is needed."""

    code = "path_conflict"


class DataDirectoryInUseError(StorageError):
    """Another process holds the data directory."""

    code = "data_directory_in_use"


@final
@dataclass(frozen=True, slots=True)
class Space:
    """Room on the file system that holds the data directory; `free_bytes` is what this user may take."""

    total_bytes: int
    free_bytes: int


class File(Protocol):
    """An open file. Safe to read from several threads; written by one thread at a time.

    Every write may raise DiskFullError (earlier bytes of the same call may have been written) or
    StoreFailedError (the whole disk refuses writes from then on).
    """

    @property
    def path(self) -> str:
        """The path it was opened by; not followed through renames."""
        ...

    def pread(self, length: int, offset: int) -> bytes:
        """Read `length` bytes at `offset`; fewer only at the end of the file.

        Raises:
            DamageError: the device cannot read the place.
        """
        ...

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers back to back from `offset`, over what is there; not durable before `sync`."""
        ...

    def pwrite_uncached(self, buffers: Sequence[Buffer], offset: int) -> None:
        """As `pwrite`, for much that nobody will read soon: it need not take room in memory."""
        ...

    def sync(self) -> None:
        """Make the content and the size durable, through whichever handle they were written. The name
        is durable only after `Disk.sync_dir`.

        Raises:
            StoreFailedError: nothing written since the last good sync can be relied on, ever.
        """
        ...

    def allocate(self, offset: int, length: int) -> None:
        """Reserve room for `length` bytes at `offset`; grows the file with zeros, overwrites nothing.

        Raises:
            DiskFullError: nothing was reserved that may be relied on; the size may or may not have grown.
        """
        ...

    def zero_fill(self, length: int) -> None:
        """Write zeros over the first `length` bytes. Unlike `allocate`, later syncs of overwrites need no
        journal commit (measured: 145 against 168 us for 4 KiB)."""
        ...

    def truncate(self, length: int) -> None:
        """Cut the file to `length` bytes, which must not be more than it has."""
        ...

    def forget_cached(self, length: int, offset: int) -> None:
        """A hint: what is synced there need not stay in memory, and the next read shows what the medium holds."""
        ...

    def size(self) -> int: ...

    def close(self) -> None:
        """Give the handle back; a second close does nothing. Syncs nothing."""
        ...

    def __enter__(self) -> File: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Disk(Protocol):
    """A directory tree of files.

    Names, like contents, are durable only after a sync: `sync_dir` of the directory that holds the
    name, of both directories after a rename between two. All methods raise MissingFileError for what is
    not there and PathConflictError for what is in the way; changes raise DiskFullError and
    StoreFailedError as `File` does.
    """

    @property
    def failure(self) -> str | None:
        """Why every further write is refused, or None while the disk can be written."""
        ...

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> File:
        """Open for reading and writing. `create` makes a missing file; with `exclusive` too, an existing
        one is a PathConflictError."""
        ...

    def mkdir(self, path: str) -> None:
        """Make one directory; its parent must exist. A directory that is there already is fine."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory a new name, atomically; a file at `new` is replaced."""
        ...

    def unlink(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        ...

    def list(self, path: str) -> Sequence[str]:
        """Names in the directory, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_directory(self, path: str) -> bool:
        """Whether a directory is at `path`; False too where nothing is."""
        ...

    def size(self, path: str) -> int:
        """Size of a file in bytes, without opening it."""
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in the directory durable: creations, renames, removals."""
        ...

    def space(self) -> Space: ...


def parent_path(path: str) -> str:
    """The directory that holds `path`; "" for what lies in the data directory itself."""
    return path.rpartition("/")[0]


def join_path(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def check_path(path: str, *, root: bool = False) -> str:
    """Return `path` if it stays inside the data directory; paths come from our own code, never from outside."""
    parts = path.split("/")
    fine = (root and path == "") or not ("" in parts or "." in parts or ".." in parts or "\0" in path)
    invariant(fine, f"path {path!r} is not a plain relative path inside the data directory")
    return path


def read_file(disk: Disk, path: str) -> bytes:
    """The whole content of a file."""
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


def replace_file(disk: Disk, path: str, data: Buffer) -> None:
    """Set the content of `path` so that after a crash it is the old or the new, whole; durable on return.

    Raises:
        DiskFullError: the old content stands, and the temporary file is gone.
    """
    temporary = path + TEMPORARY_SUFFIX
    try:
        with disk.open(temporary, create=True) as file:
            file.truncate(0)
            file.pwrite([data], 0)
            # Synced before the rename: a name may become durable before the bytes it names.
            file.sync()
        disk.rename(temporary, path)
    except DiskFullError:
        if disk.exists(temporary):
            disk.unlink(temporary)
        raise
    disk.sync_dir(parent_path(path))


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory and all in it. Not atomic; the caller syncs the directory above it."""
    for name in disk.list(path):
        inner = join_path(path, name)
        if disk.is_directory(inner):
            remove_tree(disk, inner)
        else:
            disk.unlink(inner)
    disk.rmdir(path)


@contextlib.contextmanager
def open_data_directory(root: Path) -> Iterator[RealDisk]:
    """Make the data directory if it is missing and hold it against other processes.

    The lock is the kernel's (flock): it ends with the process, however that ends.

    Raises:
        DataDirectoryInUseError: another process (or another holder in this one) has it.
    """
    with _translated("open", str(root)):
        _make_durably(root)
        handle = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT, _FILE_MODE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise DataDirectoryInUseError(
                f"data directory {root} is held by process {holder}",
                hint="stop that process, or give this node a data directory of its own",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield RealDisk(root)
    finally:
        os.close(handle)


def _make_durably(directory: Path) -> None:
    """Make a directory and its parents; each name is synced, or power loss could take all that was put below it."""
    if directory.is_dir():
        return
    _make_durably(directory.parent)
    directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    handle = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def read_data_directory(root: Path, *, in_use: bool = False) -> Iterator[RealDisk]:
    """Give a data directory for reading alone, held so that no process can begin to use it meanwhile.

    With `in_use` a running process does not matter: files move under the reader, who must expect that.

    Raises:
        MissingFileError: there is no such directory.
        DataDirectoryInUseError: a process has it.
    """
    with contextlib.ExitStack() as held:
        if not root.is_dir():
            raise MissingFileError(f"{root} is no directory")
        if not in_use and (root / LOCK_NAME).exists():
            with _translated("open", str(root / LOCK_NAME)):
                handle = os.open(root / LOCK_NAME, os.O_RDONLY)
            held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise DataDirectoryInUseError(
                    f"data directory {root} is held by process {holder}", hint="stop that process first"
                ) from error
        yield RealDisk(root, read_only=True)


@final
class RealDisk:
    """`Disk` on a directory of the operating system (Linux). Use `open_data_directory` to get one safely.

    With `read_only` every change is refused as after a failure, and nothing of the directory needs to be writable.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self._root = str(root)
        self._failure: str | None = "it was opened for reading alone" if read_only else None
        self._open_flags = os.O_RDONLY if read_only else os.O_RDWR
        self.direct_writes = DirectWrites()

    @property
    def root(self) -> Path:
        return Path(self._root)

    @property
    def failure(self) -> str | None:
        return self._failure

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> RealFile:
        full = self._full(path)
        invariant(create or not exclusive, f"{path}: exclusive without create")
        if not create:
            with _translated("open", path):
                return RealFile(self, path, _open_regular(full, self._open_flags))
        self.require_writable(path)
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
        with _translated("create", path, failed=self.fail):
            return RealFile(self, path, _open_regular(full, flags))

    def mkdir(self, path: str) -> None:
        full = self._writable(path)
        with _translated("mkdir", path, failed=self.fail):
            try:
                os.mkdir(full, _DIRECTORY_MODE)
            except FileExistsError:
                if not os.path.isdir(full):
                    raise

    def rename(self, old: str, new: str) -> None:
        source, target = self._writable(old), self._writable(new)
        with _translated("rename", f"{old} -> {new}", failed=self.fail):
            os.rename(source, target)

    def unlink(self, path: str) -> None:
        full = self._writable(path)
        with _translated("unlink", path, failed=self.fail):
            os.unlink(full)

    def rmdir(self, path: str) -> None:
        full = self._writable(path)
        with _translated("rmdir", path, failed=self.fail):
            os.rmdir(full)

    def list(self, path: str) -> Sequence[str]:
        with _translated("list", path):
            return sorted(os.listdir(self._full(path, root=True)))

    def exists(self, path: str) -> bool:
        return self._stat(path) is not None

    def is_directory(self, path: str) -> bool:
        found = self._stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def size(self, path: str) -> int:
        with _translated("size", path):
            found = os.stat(self._full(path))
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return found.st_size

    def sync_dir(self, path: str) -> None:
        self.require_writable(path)
        with _translated("open", path):
            handle = os.open(self._full(path, root=True), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            self.fail(f"{path or '.'}: sync of the directory failed: {error.strerror}", error)
        finally:
            os.close(handle)

    def space(self) -> Space:
        with _translated("space", ""):
            found = os.statvfs(self._root)
        return Space(total_bytes=found.f_frsize * found.f_blocks, free_bytes=found.f_frsize * found.f_bavail)

    def require_writable(self, path: str) -> None:
        """Refuse if a write or sync failed before. For `RealFile`."""
        if self._failure is not None:
            _refuse(path, self._failure)

    def fail(self, message: str, error: OSError) -> NoReturn:
        """Refuse every write from now on, and say why. For `RealFile`."""
        if self._failure is None:
            self._failure = message
        raise StoreFailedError(message, hint=FAILED_HINT) from error

    def _full(self, path: str, *, root: bool = False) -> str:
        return f"{self._root}/{check_path(path, root=root)}"

    def _writable(self, path: str) -> str:
        self.require_writable(path)
        return self._full(path)

    def _stat(self, path: str) -> os.stat_result | None:
        with _translated("stat", path):
            try:
                return os.stat(self._full(path, root=True))
            except (FileNotFoundError, NotADirectoryError):
                return None


@final
class RealFile:
    """`File` on a descriptor."""

    __slots__ = ("_disk", "_handle", "_path")

    def __init__(self, disk: RealDisk, path: str, handle: int) -> None:
        self._disk = disk
        self._path = path
        self._handle = handle

    @property
    def path(self) -> str:
        return self._path

    def pread(self, length: int, offset: int) -> bytes:
        try:
            data = os.pread(self._handle, length, offset)
            # Two tries tell the end of the file from a read that a signal or the kernel's 2 GiB limit cut.
            if len(data) == length or not data:
                return data
            return self._read_rest(data, length, offset)
        except OSError as error:
            self._require_open()
            raise DamageError(f"{self._path}: {length} bytes at {offset} cannot be read: {error.strerror}") from error

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        self._disk.require_writable(self._path)
        wanted = sum(map(len, buffers))
        position = offset
        try:
            if len(buffers) <= MAX_BUFFERS_PER_WRITE:
                position += os.pwritev(self._handle, buffers, offset)
            if position - offset < wanted:
                self._write_rest(buffers, position - offset, offset)
        except OSError as error:
            self._write_failed(error, wanted, position)

    def pwrite_uncached(self, buffers: Sequence[Buffer], offset: int) -> None:
        self._disk.require_writable(self._path)
        self._require_open()
        wanted = sum(map(len, buffers))
        try:
            done = self._disk.direct_writes.write(self._handle, buffers, offset)
        except OSError as error:
            self._write_failed(error, wanted, offset)
        if not done:
            self.pwrite(buffers, offset)
        elif done < wanted:
            self._write_rest(buffers, done, offset)

    def sync(self) -> None:
        self._require_open()
        self._disk.require_writable(self._path)
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            # Also for ENOSPC: whichever error it is, the pages may be marked clean.
            self._disk.fail(f"{self._path}: sync failed: {error.strerror}", error)

    def allocate(self, offset: int, length: int) -> None:
        self._disk.require_writable(self._path)
        try:
            os.posix_fallocate(self._handle, offset, length)
        except OSError as error:
            self._write_failed(error, length, offset)

    def zero_fill(self, length: int) -> None:
        for offset in range(0, length, len(_ZEROS)):
            self.pwrite([_ZEROS[: length - offset]], offset)

    def truncate(self, length: int) -> None:
        self._disk.require_writable(self._path)
        size = self.size()
        invariant(0 <= length <= size, f"{self._path}: cannot cut {size} bytes to {length}")
        try:
            os.ftruncate(self._handle, length)
        except OSError as error:
            self._write_failed(error, 0, length)

    def forget_cached(self, length: int, offset: int) -> None:
        self._require_open()
        # Only a hint: file systems without the call keep what they have.
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._handle, offset, length, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        self._require_open()
        with _translated("size", self._path):
            return os.fstat(self._handle).st_size

    def close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        try:
            os.close(handle)
        except OSError as error:
            # Linux has let go of the descriptor all the same; some file systems report lost writes only here.
            self._disk.fail(f"{self._path}: close failed: {error.strerror}", error)

    def __enter__(self) -> RealFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_rest(self, data: bytes, length: int, offset: int) -> bytes:
        pieces = [data]
        have = len(data)
        while have < length and (data := os.pread(self._handle, length - have, offset + have)):
            pieces.append(data)
            have += len(data)
        return b"".join(pieces)

    def _write_rest(self, buffers: Sequence[Buffer], done: int, offset: int) -> None:
        # A short count is no error: a disk that fills up first takes a part, and says so at the next try.
        for piece in _pieces(buffers, done):
            left: Buffer = piece
            while left:
                try:
                    count = os.pwrite(self._handle, left, offset + done)
                except OSError as error:
                    self._write_failed(error, len(left), offset + done)
                if count == 0:
                    self._write_failed(OSError(errno.EIO, "nothing was written"), len(left), offset + done)
                done += count
                left = memoryview(left)[count:]

    def _require_open(self) -> None:
        # On the hot paths looked at after an error only: the handle of a closed file is one that the kernel refuses.
        invariant(self._handle >= 0, f"{self._path}: used after it was closed")

    def _write_failed(self, error: OSError, wanted: int, position: int) -> NoReturn:
        self._require_open()
        if error.errno in _NO_ROOM:
            raise no_room(self._path, wanted, position) from error
        self._disk.fail(f"{self._path}: write of {wanted} bytes at {position} failed: {error.strerror}", error)


FAILED_HINT = "stop the node and replace or check the disk; what was not synced is lost"


def no_room(path: str, wanted: int, position: int) -> DiskFullError:
    """The error of a write that found no room, in one wording for every Disk."""
    return DiskFullError(
        f"{path}: no room for {wanted} bytes at {position}", hint="free space on the disk of the data directory"
    )


def _refuse(path: str, failure: str) -> NoReturn:
    raise StoreFailedError(f"{path}: not written, because earlier {failure}", hint=FAILED_HINT)


def _pieces(buffers: Sequence[Buffer], done: int) -> Iterator[bytes]:
    """The buffers without their first `done` bytes, joined to pieces of at most MAX_BUFFERS_PER_WRITE."""
    for start in range(0, len(buffers), MAX_BUFFERS_PER_WRITE):
        piece = b"".join(buffers[start : start + MAX_BUFFERS_PER_WRITE])
        if done < len(piece):
            yield piece[done:]
        done = max(0, done - len(piece))


def _open_regular(full: str, flags: int) -> int:
    handle = os.open(full, flags, _FILE_MODE)
    if stat.S_ISDIR(os.fstat(handle).st_mode):  # pragma: no cover - O_RDWR refuses directories on Linux
        os.close(handle)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return handle


@contextlib.contextmanager
def _translated(action: str, path: str, *, failed: Callable[[str, OSError], NoReturn] | None = None) -> Iterator[None]:
    """The one place where errors of the operating system on names become ours.

    `failed` is given by operations that change something: what they cannot explain ends the store.
    """
    try:
        yield
    except OSError as error:
        message = f"{path or '.'}: {action} failed: {error.strerror}"
        if error.errno == errno.ENOENT:
            raise MissingFileError(message) from error
        if error.errno in _CONFLICT:
            raise PathConflictError(message) from error
        if error.errno in _NO_ROOM:
            raise DiskFullError(message, hint="free space on the disk of the data directory") from error
        if error.errno in _NO_HANDLES:
            raise StorageError(message, hint="raise the limit of open files") from error
        if failed is not None:
            failed(message, error)
        if error.errno == errno.EIO:
            raise DamageError(message) from error
        raise StorageError(message) from error
