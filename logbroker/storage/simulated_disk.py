"""`Disk` in memory, which loses power, fails and lies when it is told to.

The same calls with the same choosers give the same bytes. It takes part in whole-cluster
simulations, so a write costs a few microseconds; nothing here may look at a clock or draw chance of
its own. For one thread.

A test writes, stops the process (`kill`), or the machine (`crash`, `crash_states`), and goes on with
the disk that these return; the old object then raises SimulatedCrash whatever is asked of it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from typing import TYPE_CHECKING, Final, NoReturn, final

from logbroker.errors import (
    DamageError,
    InvalidArgumentError,
    StoreFailedError,
    invariant,
    violated,
)
from logbroker.storage.disk import FAILED_HINT, Buffer, MissingFileError, PathConflictError, Space, check_path, no_room
from logbroker.storage.simulated_cache import (
    PAGE_BYTES,
    CachedDirectory,
    CachedFile,
    Chooser,
    NameTree,
    Node,
    Place,
    Tear,
    files_below,
)
from logbroker.storage.simulated_faults import (
    ONLY_FOR,
    READING,
    Action,
    Effect,
    Fault,
    Operation,
    SimulatedCrash,
    on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = [
    "Action",
    "Chooser",
    "Effect",
    "Fault",
    "Operation",
    "SimulatedCrash",
    "SimulatedDisk",
    "SimulatedFile",
    "Tear",
    "on",
]

DEFAULT_CAPACITY_BYTES: Final = 1 << 40


@final
class SimulatedDisk:
    """The twin of `RealDisk`; see the module for how it differs.

    `capacity_bytes` may be changed at any time. `on_sync(path, unsynced bytes)` is called before a sync
    does anything: a simulator moves its clock there.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
        on_sync: Callable[[str, int], None] | None = None,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.on_sync = on_sync
        self.operation_count = 0
        self.change_count = 0
        self.trace: list[Operation] | None = None
        self._names = NameTree()
        self._used_pages = 0
        self._failure: str | None = None
        self._faults: list[Fault] = []
        self._crash_before = 0
        self._is_off = False
        # One test on the hot path for everything that is seldom on.
        self._is_watched = False

    # The part of the tests and of the simulator.

    def inject(self, fault: Fault) -> Fault:
        """Plan a fault; several may be planned, the first one that strikes counts."""
        self._faults.append(fault)
        self._is_watched = True
        return fault

    def heal(self) -> None:
        """Forget every planned fault. A disk that has failed stays failed until the process ends."""
        self._faults.clear()
        self._crash_before = 0
        self._is_watched = self._is_off or self.trace is not None

    def crash_before(self, change: int) -> None:
        """Raise SimulatedCrash in place of change number `change` (counted from 1 as in `change_count`)."""
        invariant(change > self.change_count, f"change {change} has been made already: {self.change_count}")
        self._crash_before = change
        self._is_watched = True

    def start_trace(self) -> list[Operation]:
        """Record every operation from now on in the list that is returned."""
        self.trace = []
        self._is_watched = True
        return self.trace

    def kill(self) -> SimulatedDisk:
        """End the process and keep the machine: all that was written is seen by the next process, and what
        was not synced is still not durable."""
        return self._successor(self._names)

    def crash(self, *, keep: Chooser, tear: Tear = Tear.NONE) -> SimulatedDisk:
        """Cut the power. What was not synced is left or lost as `keep` draws it."""
        kept = _choose_changes(len(self._names.changes), keep)

        def left_of(file: CachedFile) -> CachedFile:
            return CachedFile(file.content if file.is_synced else file.versions().choose(keep, tear))

        return self._successor(NameTree(self._names.after_loss(kept.__contains__, left_of)))

    def crash_states(self, *, limit: int, tear: Tear = Tear.NONE) -> Iterator[SimulatedDisk]:
        """Every disk that a power loss may leave now, each once, each on its own; this one stays usable.

        At most one page of each file is torn at a time; `crash` tears any number.

        Raises:
            InvalidArgumentError: there are more than `limit` candidates; the test must do less between two
                syncs, or it would not be exhaustive any more.
        """
        contents: dict[CachedFile, list[bytes]] = {}
        candidates: list[tuple[frozenset[int], Sequence[CachedFile]]] = []
        count = 0
        for kept in _all_subsets(len(self._names.changes), limit):
            files = self._files_after(kept)
            for file in files:
                if file not in contents:
                    versions = file.versions()
                    _require(versions.count(tear), limit)
                    contents[file] = versions.states(tear)
            states = 1
            for file in files:
                states *= len(contents[file])
            count += states
            _require(count, limit)
            candidates.append((kept, files))
        seen: set[bytes] = set()
        for kept, files in candidates:
            for chosen in itertools.product(*(contents[file] for file in files)):
                state = self._state_of(kept, dict(zip(files, chosen, strict=True)))
                if (digest := state.digest()) not in seen:
                    seen.add(digest)
                    yield state

    def copy(self) -> SimulatedDisk:
        """An independent disk in the same state, planned faults included; this one stays usable."""
        on_sync, self.on_sync = self.on_sync, None
        try:
            return copy.deepcopy(self)
        finally:
            self.on_sync = on_sync

    def flip_bit(self, path: str, offset: int, bit: int) -> None:
        """Let one bit rot, on the medium and in the cache."""
        file = self._file(path)
        invariant(offset < len(file.content), f"{path}: no byte {offset} in {len(file.content)}")
        file.scribble(offset, bytes([file.content[offset] ^ 1 << bit]))

    def scribble(self, path: str, offset: int, data: bytes) -> None:
        """Overwrite bytes on the medium and in the cache behind everyone's back; the size stays."""
        self._file(path).scribble(offset, data)

    def cut_short(self, path: str, size: int) -> None:
        """Truncate a file behind everyone's back, durably."""
        file = self._file(path)
        file.cut(size)
        file.sync()
        self._count_pages()

    def vanish(self, path: str) -> None:
        """Remove a file or directory with all in it behind everyone's back, durably."""
        node = self._node(path)
        directory, name = self._place(path)
        del directory.entries[name]
        if directory.durable.get(name) is node:
            del directory.durable[name]
        self._names.changes[:] = [change for change in self._names.changes if change.node is not node]
        self._count_pages()

    def paths(self) -> Sequence[str]:
        """Every file that programs see."""
        return [path for path, _ in files_below(self._names.root)]

    def is_synced(self, path: str) -> bool:
        """Whether the file with all its content, under this name, survives any power loss."""
        node = self._node(path)
        parts = path.split("/")
        directory: Node | None = self._names.root
        for part in parts:
            if not isinstance(directory, CachedDirectory):
                return False
            directory = directory.durable.get(part)
        return directory is node and isinstance(node, CachedFile) and node.is_synced

    def digest(self) -> bytes:
        """A hash over all paths and contents that programs see, for comparing runs."""
        total = hashlib.blake2b(digest_size=16)
        for path, file in files_below(self._names.root):
            name = path.encode()
            total.update(b"%d %d " % (len(name), len(file.content)))
            total.update(name)
            total.update(file.content)
        for path in _directories_below(self._names.root, ""):
            total.update(path.encode() + b"/")
        return total.digest()

    # Disk.

    @property
    def failure(self) -> str | None:
        return self._failure

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> SimulatedFile:
        invariant(create or not exclusive, f"{path}: exclusive without create")
        directory, name = self._place(path)
        self.begin(Action.CREATE if create else Action.OPEN, path)
        node = directory.entries.get(name)
        if node is None:
            if not create:
                raise MissingFileError(f"{path}: open failed: no such file")
            node = CachedFile()
            self._names.change(node, old=None, new=(directory, name))
        elif exclusive or isinstance(node, CachedDirectory):
            raise PathConflictError(f"{path}: open failed: the name is taken")
        return SimulatedFile(self, path, node)

    def mkdir(self, path: str) -> None:
        directory, name = self._place(path)
        self.begin(Action.MKDIR, path)
        node = directory.entries.get(name)
        if node is None:
            self._names.change(CachedDirectory(), old=None, new=(directory, name))
        elif not isinstance(node, CachedDirectory):
            raise PathConflictError(f"{path}: mkdir failed: a file has the name")

    def rename(self, old: str, new: str) -> None:
        source, target = self._place(old), self._place(new)
        self.begin(Action.RENAME, f"{old} -> {new}")
        node = self._node(old)
        replaced = target[0].entries.get(target[1])
        if replaced is node:
            return
        if isinstance(node, CachedDirectory) != isinstance(replaced, CachedDirectory) and replaced is not None:
            raise PathConflictError(f"{old} -> {new}: rename failed: one is a directory and one is not")
        if isinstance(replaced, CachedDirectory) and replaced.entries:
            raise PathConflictError(f"{old} -> {new}: rename failed: the directory is not empty")
        self._names.change(node, old=source, new=target)
        if isinstance(replaced, CachedFile):
            self._used_pages -= replaced.page_count

    def unlink(self, path: str) -> None:
        place = self._place(path)
        self.begin(Action.UNLINK, path)
        node = self._node(path)
        if not isinstance(node, CachedFile):
            raise PathConflictError(f"{path}: unlink failed: it is a directory")
        self._names.change(node, old=place, new=None)
        self._used_pages -= node.page_count

    def rmdir(self, path: str) -> None:
        place = self._place(path)
        self.begin(Action.RMDIR, path)
        node = self._node(path)
        if not isinstance(node, CachedDirectory) or node.entries:
            raise PathConflictError(f"{path}: rmdir failed: it is not an empty directory")
        self._names.change(node, old=place, new=None)

    def list(self, path: str) -> Sequence[str]:
        self.begin(Action.LIST, path)
        return sorted(self._directory(path).entries)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def is_directory(self, path: str) -> bool:
        return isinstance(self._find(path), CachedDirectory)

    def size(self, path: str) -> int:
        self._require_on()
        return len(self._file(path).content)

    def sync_dir(self, path: str) -> None:
        directory = self._directory(path)
        if self.begin(Action.SYNC_DIR, path) is None:
            self._names.sync(directory)

    def space(self) -> Space:
        self._require_on()
        free_bytes = self.capacity_bytes - self._used_pages * PAGE_BYTES
        return Space(total_bytes=self.capacity_bytes, free_bytes=max(0, free_bytes))

    # For SimulatedFile.

    def begin(self, action: Action, path: str, offset: int = 0, size: int = 0) -> Fault | None:
        """Count an operation and let a planned fault strike. Returns the fault whose effect the caller has to
        give; errors and crashes are raised here."""
        self.operation_count += 1
        if action not in READING:
            if self._failure is not None:
                self._require_on()
                raise StoreFailedError(f"{path}: not written, because earlier {self._failure}", hint=FAILED_HINT)
            self.change_count += 1
        return self._watch(action, path, offset, size) if self._is_watched else None

    def fail(self, message: str) -> NoReturn:
        """Refuse every write from now on."""
        self._failure = message
        raise StoreFailedError(message, hint=FAILED_HINT)

    def room_for(self, file: CachedFile, size: int) -> int:
        """How far a file that wants to grow to `size` can grow."""
        free = self.capacity_bytes // PAGE_BYTES - self._used_pages
        if not self._is_named(file) or -(-size // PAGE_BYTES) - file.page_count <= free:
            return size
        return max(len(file.content), (file.page_count + free) * PAGE_BYTES)

    def resized(self, file: CachedFile, page_count: int) -> None:
        """Take note that a file had `page_count` pages before."""
        if self._is_named(file):
            self._used_pages += file.page_count - page_count

    def _is_named(self, file: CachedFile) -> bool:
        directory, name = file.names[-1]
        return directory.entries.get(name) is file

    def _watch(self, action: Action, path: str, offset: int, size: int) -> Fault | None:
        self._require_on()
        operation = Operation(self.operation_count, self.change_count, action, path, offset, size)
        if self._crash_before and action not in READING and self.change_count >= self._crash_before:
            self._crash(operation)
        if self.trace is not None:
            self.trace.append(operation)
        for fault in self._faults:
            if fault.strikes(operation):
                return self._strike(fault, operation)
        return None

    def _strike(self, fault: Fault, operation: Operation) -> Fault:
        effect, action = fault.effect, operation.action
        if action not in ONLY_FOR.get(effect, {action}):
            violated(f"a fault of kind {effect.value!r} cannot strike {operation}")
        if effect is Effect.CRASH:
            self._crash(operation)
        if effect is Effect.ERROR and action is not Action.SYNC:
            if action in READING:
                raise DamageError(f"{operation}: input/output error")
            self.fail(f"{operation}: input/output error")
        if effect is Effect.NO_ROOM and action is not Action.PWRITE:
            if action in READING or action is Action.SYNC:
                violated(f"a fault of kind {effect.value!r} cannot strike {operation}")
            raise no_room(operation.path, operation.size, operation.offset)
        return fault

    def _crash(self, operation: Operation) -> NoReturn:
        self._turn_off()
        raise SimulatedCrash(f"before {operation}")

    def _turn_off(self) -> None:
        self._is_off = self._is_watched = True

    def _require_on(self) -> None:
        if self._is_off:
            raise SimulatedCrash("this process has ended; go on with the disk that kill or crash returned")

    def _successor(self, names: NameTree) -> SimulatedDisk:
        self._turn_off()
        return self._sibling(names)

    def _sibling(self, names: NameTree) -> SimulatedDisk:
        disk = SimulatedDisk(capacity_bytes=self.capacity_bytes, on_sync=self.on_sync)
        disk._names = names
        disk._count_pages()
        return disk

    def _count_pages(self) -> None:
        self._used_pages = sum(file.page_count for _, file in files_below(self._names.root))

    def _state_of(self, kept: frozenset[int], left: Mapping[CachedFile, bytes]) -> SimulatedDisk:
        tree = self._names.after_loss(kept.__contains__, lambda file: CachedFile(bytearray(left[file])))
        return self._sibling(NameTree(tree))

    def _files_after(self, kept: frozenset[int]) -> Sequence[CachedFile]:
        files = []

        def left_of(file: CachedFile) -> CachedFile:
            files.append(file)
            return CachedFile()

        self._names.after_loss(kept.__contains__, left_of)
        return files

    def _find(self, path: str) -> Node | None:
        self._require_on()
        node: Node | None = self._names.root
        for part in check_path(path, root=True).split("/") if path else ():
            node = node.entries.get(part) if isinstance(node, CachedDirectory) else None
        return node

    def _node(self, path: str) -> Node:
        node = self._find(path)
        if node is None:
            raise MissingFileError(f"{path}: no such file or directory")
        return node

    def _directory(self, path: str) -> CachedDirectory:
        node = self._node(path)
        if not isinstance(node, CachedDirectory):
            raise PathConflictError(f"{path}: not a directory")
        return node

    def _file(self, path: str) -> CachedFile:
        node = self._node(path)
        if not isinstance(node, CachedFile):
            raise PathConflictError(f"{path}: is a directory")
        return node

    def _place(self, path: str) -> Place:
        directory, _, name = check_path(path).rpartition("/")
        return self._directory(directory), name


@final
class SimulatedFile:
    """`File` on a SimulatedDisk."""

    __slots__ = ("_disk", "_file", "_is_closed", "_path")

    def __init__(self, disk: SimulatedDisk, path: str, file: CachedFile) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self._is_closed = False

    @property
    def path(self) -> str:
        return self._path

    def pread(self, length: int, offset: int) -> bytes:
        self._begin(Action.PREAD, offset, length)
        return bytes(self._file.content[offset : offset + length])

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        new = b"".join(buffers)
        wanted = len(new)
        fault = self._begin(Action.PWRITE, offset, wanted)
        if fault is not None:
            match fault.effect:
                case Effect.LOST:
                    return
                case Effect.MISDIRECTED:
                    offset = max(0, offset + fault.distance_bytes)
                case _:
                    new = new[: wanted // 2]
        file = self._file
        end = offset + len(new)
        if end <= len(file.content):
            file.write(offset, new)
        elif new := new[: max(0, self._disk.room_for(file, end) - offset)]:
            before = file.page_count
            file.write(offset, new)
            self._disk.resized(file, before)
        if len(new) < wanted:
            raise no_room(self._path, wanted - len(new), offset + len(new))

    def pwrite_uncached(self, buffers: Sequence[Buffer], offset: int) -> None:
        # Until it is synced, what a crash leaves of it is as open as what is left of the cache.
        self.pwrite(buffers, offset)

    def sync(self) -> None:
        file = self._file
        if self._disk.on_sync is not None:
            self._disk.on_sync(self._path, file.unsynced_bytes)
        fault = self._begin(Action.SYNC)
        if fault is None:
            file.sync()
        elif fault.effect is not Effect.LOST:
            if fault.effect is Effect.ERROR:
                file.fail_sync_visibly()
            else:
                before = file.page_count
                file.fail_sync_dropping()
                self._disk.resized(file, before)
            self._disk.fail(f"{self._path}: sync failed: input/output error")

    def allocate(self, offset: int, length: int) -> None:
        self._begin(Action.ALLOCATE, offset, length)
        self._grow(offset + length, length, offset)

    def zero_fill(self, length: int) -> None:
        self._begin(Action.ZERO_FILL, 0, length)
        size = min(length, len(self._file.content))
        if size:
            self._file.write(0, bytes(size))
        self._grow(length, length, 0)

    def truncate(self, length: int) -> None:
        self._begin(Action.TRUNCATE, length)
        file = self._file
        size = len(file.content)
        invariant(0 <= length <= size, f"{self._path}: cannot cut {size} bytes to {length}")
        if length < size:
            before = file.page_count
            file.cut(length)
            self._disk.resized(file, before)

    def forget_cached(self, length: int, offset: int) -> None:
        # Rot is seen in the cache too: there is nothing to forget.
        self._require_open()

    def size(self) -> int:
        self._require_open()
        return len(self._file.content)

    def close(self) -> None:
        self._is_closed = True

    def __enter__(self) -> SimulatedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, action: Action, offset: int = 0, size: int = 0) -> Fault | None:
        self._require_open()
        return self._disk.begin(action, self._path, offset, size)

    def _require_open(self) -> None:
        invariant(not self._is_closed, f"{self._path}: used after it was closed")

    def _grow(self, size: int, wanted: int, offset: int) -> None:
        file = self._file
        if size <= len(file.content):
            return
        if self._disk.room_for(file, size) < size:
            raise no_room(self._path, wanted, offset)
        before = file.page_count
        file.extend(size)
        self._disk.resized(file, before)


def _choose_changes(count: int, keep: Chooser) -> frozenset[int]:
    """Which of the pending changes of names survive: none, all, the first few, or any."""
    match keep.randrange(4):
        case 0:
            return frozenset()
        case 1:
            return frozenset(range(count))
        case 2:
            return frozenset(range(keep.randrange(count + 1)))
        case _:
            return frozenset(place for place in range(count) if keep.randrange(2))


def _all_subsets(count: int, limit: int) -> Iterator[frozenset[int]]:
    _require(1 << count, limit)
    for bits in range(1 << count):
        yield frozenset(place for place in range(count) if bits >> place & 1)


def _require(count: int, limit: int) -> None:
    if count > limit:
        raise InvalidArgumentError(f"a power loss now may leave {count} states or more, above the limit of {limit}")


def _directories_below(directory: CachedDirectory, prefix: str) -> Iterator[str]:
    for name in sorted(directory.entries):
        node = directory.entries[name]
        if isinstance(node, CachedDirectory):
            path = f"{prefix}/{name}" if prefix else name
            yield path
            yield from _directories_below(node, path)
