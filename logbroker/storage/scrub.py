"""Reads what a running node keeps, over and over and slowly, so that rot is found while there are good copies of it.

The scrubber belongs to the event loop. It hands out slices, each a little reading, which run on the flusher thread
between other jobs; so nothing that the flusher writes changes under a slice. What a slice finds is acted on when it is
done: a damaged entry is noted in its log and so fetched from a peer; copies are written again from their twins;
damage in the write-ahead log, whose entries are all in memory, is left behind by a flush. Votes are looked at by the
log thread with the next commit, because only that thread writes them.

It knows no clock and draws no chance: how much one slice costs is counted in bytes, an entry as `ENTRY_COST_BYTES` at
least, because the time goes there when entries are small.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import DamageError, DiskFullError
from logbroker.storage.checkpoints import check_checkpoint, checkpoint_indexes, checkpoint_path
from logbroker.storage.disk import MissingFileError, replace_file
from logbroker.storage.flush_record import COPIES, FlushRecord, encode_record, read_copies
from logbroker.storage.segment import encode_segment_header
from logbroker.storage.segment_check import SegmentCheck
from logbroker.storage.wal import file_path
from logbroker.storage.wal_format import WalPosition, align_up, check_commit, decode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logbroker.ids import Index, ReplicaId
    from logbroker.storage.disk import Disk
    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.partition_log import PartitionLog
    from logbroker.storage.segment import SegmentRow

SLICE_COST_BYTES = 1 << 20
"""What one slice may cost: 1 to 3 ms of reading and checking, far below what a flush may wait."""
ENTRY_COST_BYTES = 4 << 10
STEP_BYTES = 32 << 10
"""Read of a segment at once: some hundred of the smallest entries, all checked before anybody looks at the cost."""
FIRST_ROUND_MS = 5_000
"""A node that has just started has better things to do; but one that never lives long is to be read too."""


@final
@dataclass(frozen=True, slots=True)
class ScrubOptions:
    """`bytes_per_s` bounds the reading, 0 switches it off; `pause_ms` lies between two rounds."""

    bytes_per_s: int = 8 << 20
    pause_ms: int = 3_600_000
    first_round_ms: int = FIRST_ROUND_MS


NO_SCRUB = ScrubOptions(bytes_per_s=0)


@final
@dataclass(frozen=True, slots=True)
class ScrubStatistics:
    """Counted since the start. `unmended` says in words what was found and cannot be put right from here yet."""

    rounds: int
    slices: int
    read_bytes: int
    damaged_entries: int
    damaged_checkpoints: int
    damaged_wal: int
    mended_copies: int
    unmended: tuple[str, ...] = ()


class _Task(Protocol):
    """One file or pair of files. `step` runs on the flusher thread, the rest on the loop."""

    def is_due(self, store: NodeStore) -> bool:
        """Whether what is to be read is still what it was when the round began."""
        ...

    def step(self) -> int:
        """Read a little and give its cost; 0 at the end. Raises MissingFileError, StoreFailedError, DiskFullError."""
        ...

    def miss(self, why: str) -> None:
        """A file that was to be read is not there; the end is reached by that."""
        ...

    def finish(self, scrubber: Scrubber) -> None:
        """The end was reached: act on what was found."""
        ...

    def rest(self) -> None:
        """Keep no file open until the next slice: there may be none."""
        ...


@final
class ScrubSlice:
    """One job for the flusher thread."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.cost = 0
        self.is_at_end = False

    def run(self) -> None:
        """Raises StoreFailedError where something could not be written again; a full disk only ends the task."""
        try:
            while self.cost < SLICE_COST_BYTES:
                cost = self.task.step()
                if not cost:
                    self.is_at_end = True
                    return
                self.cost += cost
        except MissingFileError as error:
            self.task.miss(error.message)
            self.is_at_end = True
        except DiskFullError:
            # No room for a copy now: the next round sees to it.
            self.is_at_end = True
        finally:
            self.task.rest()


@final
class Scrubber:
    """See the module. The engine asks for slices when it has nothing better for the flusher to do."""

    def __init__(
        self,
        store: NodeStore,
        options: ScrubOptions,
        *,
        now_ms: int,
        on_damage: Callable[[PartitionLog], None],
        want_checkpoint: Callable[[ReplicaId], None],
    ) -> None:
        self.store = store
        self._options = options
        self._on_damage = on_damage
        self._want_checkpoint = want_checkpoint
        self._tasks: Iterator[_Task] | None = None
        self._task: _Task | None = None
        self._due_ms = now_ms + options.first_round_ms
        self._rounds = self._slices = self._read_bytes = 0
        self._entries = self._checkpoints = self._wal = self._copies = 0
        self._unmended: dict[str, str] = {}
        self._found_this_round: set[str] = set()

    def next_slice(self, now_ms: int) -> ScrubSlice | None:
        """The next slice, if its time has come. Give it back to `on_done`."""
        if not self._options.bytes_per_s or now_ms < self._due_ms:
            return None
        while True:
            task = self._task or self._next_task()
            if task is None:
                self._end_round(now_ms)
                return None
            if task.is_due(self.store):
                self._task = task
                return ScrubSlice(task)
            self._task = None

    def on_done(self, job: ScrubSlice, now_ms: int) -> None:
        """The slice has run."""
        self._slices += 1
        self._read_bytes += job.cost
        self._due_ms = now_ms + job.cost * 1000 // self._options.bytes_per_s
        if job.is_at_end:
            self._task = None
            if job.task.is_due(self.store):
                job.task.finish(self)

    def statistics(self) -> ScrubStatistics:
        return ScrubStatistics(
            self._rounds,
            self._slices,
            self._read_bytes,
            self._entries,
            self._checkpoints,
            self._wal,
            self._copies + self.store.mended_votes,
            tuple(self._unmended.values()),
        )

    # What tasks report.

    def found_entries(self, log: PartitionLog, indexes: list[Index]) -> None:
        new = [index for index in indexes if index >= log.log_start_index and index not in log.state.damaged]
        for index in new:
            log.note_damage(index)
        self._entries += len(new)
        if new:
            self._on_damage(log)

    def found_checkpoint(self, replica: ReplicaId, path: str, why: str) -> None:
        self._checkpoints += path not in self._unmended
        self._note_unmended(path, f"{why}; a newer one is written with the next changes")
        self._want_checkpoint(replica)

    def found_wal(self, place: str) -> None:
        """Everything in it is in memory too: a flush, and what it carries forward, leaves the damage behind."""
        self._wal += 1
        self._note_unmended(
            "wal", f"the write-ahead log is damaged at {place}; a flush is under way to leave it behind"
        )
        self.store.request_roll()

    def found_record(self, mended: int, *, is_lost: bool) -> None:
        self._copies += mended
        if is_lost:
            self._note_unmended("record", "both copies of the flush record are damaged; the next flush writes them")
            self.store.request_roll()

    def found_missing(self, path: str) -> None:
        self._note_unmended(path, f"{path} is gone: start this node again, and its replica is replaced by a new one")

    def mended_header(self) -> None:
        self._copies += 1

    def _note_unmended(self, what: str, text: str) -> None:
        self._unmended[what] = text
        self._found_this_round.add(what)

    # Rounds.

    def _next_task(self) -> _Task | None:
        if self._tasks is None:
            self._found_this_round.clear()
            self._tasks = self._round()
        return next(self._tasks, None)

    def _end_round(self, now_ms: int) -> None:
        self._tasks = None
        self._rounds += 1
        self._due_ms = now_ms + self._options.pause_ms
        for what in self._unmended.keys() - self._found_this_round:
            del self._unmended[what]

    def _round(self) -> Iterator[_Task]:
        store = self.store
        store.request_vote_scrub()
        yield _RecordTask(store.disk, store.identity.salt_crc)
        yield _WalTask(store)
        for replica, stored in list(store.replicas.items()):
            if stored.lost:
                continue
            yield _CheckpointTask(store.disk, replica, stored.log)
            for row in list(stored.log.state.segments):
                yield _SegmentTask(store.disk, replica, stored.log, row)


def _is_same(store: NodeStore, replica: ReplicaId, log: PartitionLog, epoch: int) -> bool:
    stored = store.replicas.get(replica)
    return stored is not None and stored.log is log and log.epoch == epoch and not stored.lost


@final
class _RecordTask:
    """The two copies of the flush record. The flusher thread alone writes them, and it is the one that runs this."""

    def __init__(self, disk: Disk, salt_crc: int) -> None:
        self._disk = disk
        self._salt_crc = salt_crc
        self._is_read = False
        self._mended = 0
        self._is_lost = False

    def is_due(self, store: NodeStore) -> bool:
        return True

    def step(self) -> int:
        if self._is_read:
            return 0
        self._is_read = True
        for path in COPIES:
            with contextlib.suppress(MissingFileError), self._disk.open(path) as file:
                file.forget_cached(file.size(), 0)
        copies = read_copies(self._disk, self._salt_crc)
        good = max(
            (copy for copy in copies if isinstance(copy, FlushRecord)), key=lambda copy: copy.sequence, default=None
        )
        if good is None:
            self._is_lost = True
            return ENTRY_COST_BYTES
        for path, copy in zip(COPIES, copies, strict=True):
            if copy != good:
                replace_file(self._disk, path, encode_record(good, self._salt_crc))
                self._mended += 1
        return ENTRY_COST_BYTES

    def miss(self, why: str) -> None:
        """Somebody removes what is being written: the next round sees."""

    def finish(self, scrubber: Scrubber) -> None:
        scrubber.found_record(self._mended, is_lost=self._is_lost)

    def rest(self) -> None:
        pass


@final
class _WalTask:
    """The durable commits of the write-ahead log, newest file first: each file says where the one before it was left.

    The log thread may write behind the durable end meanwhile; nothing below it changes while W stands, and W moves only
    when a flush is done, which no slice runs beside.
    """

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._salt_crc = store.identity.salt_crc
        uses, self._end = store.durable_wal()
        self._files = dict(uses)
        # The end of the file before, as the first commit of the present one says.
        self._before = WalPosition(0, 0)
        self._offset = 0
        self._data = bytearray()
        self._damage = ""

    def is_due(self, store: NodeStore) -> bool:
        self._files = {use: number for use, number in self._files.items() if use >= store.wal_start}
        return True

    def step(self) -> int:
        end = self._end
        if self._damage or not end.offset or end.use not in self._files:
            return 0
        if len(self._data) < end.offset:
            return self._read_on(file_path(self._files[end.use]))
        return self._check_commit()

    def _read_on(self, path: str) -> int:
        at = len(self._data)
        with self._store.disk.open(path) as file:
            if not at:
                file.forget_cached(self._end.offset, 0)
            try:
                piece = file.pread(min(SLICE_COST_BYTES, self._end.offset - at), at)
            except DamageError as error:
                piece, self._damage = b"", error.message
        if not piece:
            self._damage = self._damage or f"{path} at {at}, where it ends too early"
        self._data += piece
        return max(ENTRY_COST_BYTES, len(piece))

    def _check_commit(self) -> int:
        data = memoryview(self._data)
        header = decode_header(data, WalPosition(self._end.use, self._offset), self._salt_crc)
        if header is None or not check_commit(data, header):
            self._damage = f"{file_path(self._files[self._end.use])} at {self._offset}"
            return ENTRY_COST_BYTES
        if self._offset == 0:
            self._before = header.left_at
        self._offset = align_up(header.end.offset)
        if self._offset >= self._end.offset:
            self._end, self._offset, self._data = self._before, 0, bytearray()
        return ENTRY_COST_BYTES * max(1, len(header.items))

    def miss(self, why: str) -> None:
        self._damage = why

    def finish(self, scrubber: Scrubber) -> None:
        if self._damage:
            scrubber.found_wal(self._damage)

    def rest(self) -> None:
        pass


@final
class _CheckpointTask:
    """The checkpoints of one replica, newest first; the flusher thread alone makes and removes them."""

    def __init__(self, disk: Disk, replica: ReplicaId, log: PartitionLog) -> None:
        self._disk = disk
        self._replica = replica
        self._log = log
        self._epoch = log.epoch
        self._directory = log.state.directory
        self._indexes: list[Index] | None = None
        self._pieces: Iterator[int] | None = None
        self._path = ""
        self._damage: list[tuple[str, str]] = []

    def is_due(self, store: NodeStore) -> bool:
        return _is_same(store, self._replica, self._log, self._epoch)

    def step(self) -> int:
        if self._indexes is None:
            self._indexes = checkpoint_indexes(self._disk, self._directory)
        try:
            if self._pieces is not None and (cost := next(self._pieces, 0)):
                return max(ENTRY_COST_BYTES, cost)
        except DamageError as error:
            self._damage.append((self._path, error.message))
        if not self._indexes:
            return 0
        index = self._indexes.pop(0)
        self._path = checkpoint_path(self._directory, index)
        self._pieces = check_checkpoint(self._disk, self._path, index, self._log.group)
        return ENTRY_COST_BYTES

    def miss(self, why: str) -> None:
        """A newer one was written between two slices, and this one went: that is how it should be."""

    def finish(self, scrubber: Scrubber) -> None:
        for path, why in self._damage:
            scrubber.found_checkpoint(self._replica, path, why)

    def rest(self) -> None:
        # A file that is being read in pieces is closed with the generator that reads it.
        pass


@final
class _SegmentTask:
    def __init__(self, disk: Disk, replica: ReplicaId, log: PartitionLog, row: SegmentRow) -> None:
        self._disk = disk
        self._replica = replica
        self._log = log
        self._epoch = log.epoch
        self._row = row
        self._check = SegmentCheck(disk, log.state.directory, row, group=log.group, replica=replica, from_medium=True)
        self._has_mended_header = False
        self._is_missing = False

    def is_due(self, store: NodeStore) -> bool:
        if not _is_same(store, self._replica, self._log, self._epoch):
            return False
        # A segment that was given up meanwhile is nobody's loss; the active one only grows.
        return any(row.base_index == self._row.base_index for row in self._log.state.segments)

    def step(self) -> int:
        entries = self._check.entry_count
        read = self._check.step(STEP_BYTES)
        if not read and self._check.is_header_damaged and not self._has_mended_header:
            self._mend_header()
        return read and max(read, (self._check.entry_count - entries) * ENTRY_COST_BYTES)

    def miss(self, why: str) -> None:
        self._is_missing = True

    def finish(self, scrubber: Scrubber) -> None:
        if self._is_missing:
            scrubber.found_missing(self._check.path)
            return
        scrubber.found_entries(self._log, [lost.index for lost in self._check.lost])
        if self._has_mended_header:
            scrubber.mended_header()

    def rest(self) -> None:
        self._check.close()

    def _mend_header(self) -> None:
        header = encode_segment_header(self._log.group, self._replica, self._row.base_index)
        with self._disk.open(self._check.path) as file:
            file.pwrite([header], 0)
            file.sync()
        self._has_mended_header = True
