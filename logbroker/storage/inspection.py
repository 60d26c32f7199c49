"""Everything that a stopped node's data directory can be checked for, without a byte of it being changed.

It reads what recovery reads and all that recovery leaves for later: every checksum, every file against the others. What
it finds, it says together with who puts it right: the next start, the other nodes, or nobody but an operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, DamageError, StorageError
from logbroker.ids import NO_REPLICA, GroupId, Index, ReplicaId, Term
from logbroker.raft.messages import ConfState
from logbroker.storage.checkpoints import (
    CHECKPOINT_SUFFIX,
    CheckpointHeader,
    checkpoint_indexes,
    checkpoint_path,
    read_checkpoint,
)
from logbroker.storage.disk import MissingFileError
from logbroker.storage.flush_record import COPIES as RECORD_COPIES
from logbroker.storage.flush_record import FlushRecord, read_copies
from logbroker.storage.identity import NODE_FILE, NodeIdentity, read_identity
from logbroker.storage.lives import GROUPS_DIRECTORY, decode_create, decode_install, replica_directory
from logbroker.storage.partition_log import LogState
from logbroker.storage.segment import SEGMENT_SUFFIX, SegmentRow, segment_path
from logbroker.storage.segment_check import SegmentCheck, term_of_lost
from logbroker.storage.votes import COPIES as VOTE_COPIES
from logbroker.storage.votes import PAGE_BYTES, VotesFound, VoteStore
from logbroker.storage.wal import WAL_DIRECTORY, WalOptions, file_path
from logbroker.storage.wal_format import FrameKind, WalPosition
from logbroker.storage.wal_scan import ScannedFrame, WalScan, WalScanner

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.storage.disk import Disk
    from logbroker.storage.flush_record import ReplicaRow

UNKNOWN_TERM = Term(0)
NO_GROUP = GroupId(0)


@final
class Remedy(IntEnum):
    """Who puts a finding right, the worst last."""

    NONE = 0
    """Worth knowing; nothing is wrong with what anybody may ask for."""
    START = 1
    """A good copy lies on this very disk: the next start, or the scrubber of a running node, mends it."""
    PEERS = 2
    """The other replicas have it: it is fetched, or the replica is replaced, without anybody's help."""
    OPERATOR = 3
    """Nobody else has it, or nothing may be done without an operator's word."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is one word for scripts; `place` a file, with a position where there is one. 0 is for not known."""

    code: str
    remedy: Remedy
    place: str
    detail: str
    group: GroupId = NO_GROUP
    replica: ReplicaId = NO_REPLICA
    index: Index = Index(0)
    term: Term = UNKNOWN_TERM


@final
@dataclass
class _Log:
    """One replica as record and WAL tell of it; the tail holds (term, whether its bytes are good) by place."""

    group: GroupId
    replica: ReplicaId
    directory: str
    initial_conf: bytes = b""
    previous_index: Index = Index(0)
    previous_term: Term = Term(0)
    segments: list[SegmentRow] = field(default_factory=list)
    tail: list[tuple[Term, bool, WalPosition]] = field(default_factory=list)
    lost: str = ""
    born_at: WalPosition | None = None
    is_sole: bool = False

    @property
    def flushed_index(self) -> Index:
        return self.segments[-1].last_index if self.segments else self.previous_index

    @property
    def last_index(self) -> Index:
        return Index(self.flushed_index + len(self.tail))


@final
class Inspection:
    """`run` once; `on_read` is told of bytes as they are read. The counters say how much was looked at."""

    def __init__(self, disk: Disk, *, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.findings: list[Finding] = []
        self.identity: NodeIdentity | None = None
        self.replica_count = self.entry_count = self.segment_count = self.checkpoint_count = self.commit_frame_count = 0
        self.checkpointed: dict[ReplicaId, Index] = {}
        """The index of the newest whole checkpoint of each replica that has one."""
        self._disk = disk
        self._on_read = on_read
        self._logs: dict[ReplicaId, _Log] = {}
        self._dead: set[ReplicaId] = set()
        self._votes: VotesFound | None = None

    @property
    def worst(self) -> Remedy:
        return max((finding.remedy for finding in self.findings), default=Remedy.NONE)

    def run(self) -> list[Finding]:
        """Look at everything.

        Raises:
            ConfigurationError: the format is newer than this program's.
        """
        self.identity = read_identity(self._disk)
        if self.identity is None:
            self._no_identity()
            return self.findings
        self._look_at_votes(self.identity)
        record = self._look_at_record(self.identity)
        if record is None:
            return self.findings
        self._look_at_wal(self.identity, record)
        for log in self._logs.values():
            self._look_at_replica(log)
        self._look_for_strays()
        self.replica_count = len(self._logs)
        return self.findings

    def _find(self, code: str, remedy: Remedy, place: str, detail: str, log: _Log | None = None, **of: int) -> None:
        index, term = Index(of.get("index", 0)), Term(of.get("term", 0))
        if log is None:
            self.findings.append(Finding(code, remedy, place, detail, index=index, term=term))
        else:
            self.findings.append(Finding(code, remedy, place, detail, log.group, log.replica, index, term))

    # The node's own files.

    def _no_identity(self) -> None:
        if self._disk.exists(NODE_FILE):
            self._find("identity", Remedy.OPERATOR, NODE_FILE, "it is not readable: a start sets everything here aside")
        elif any(self._disk.exists(name) for name in (*RECORD_COPIES, *VOTE_COPIES)):
            self._find("identity", Remedy.OPERATOR, NODE_FILE, "it is missing, and other files of a node are there")
        else:
            self._find("empty", Remedy.NONE, NODE_FILE, "no node has been started here")

    def _look_at_votes(self, identity: NodeIdentity) -> None:
        try:
            found = self._votes = VoteStore.look(self._disk, identity.salt)
        except MissingFileError as error:
            both = not any(map(self._disk.exists, VOTE_COPIES))
            self._find("vote-lost" if both else "vote-copy", Remedy.PEERS if both else Remedy.START, "", error.message)
            return
        sizes = [self._disk.size(copy) for copy in VOTE_COPIES]
        if sizes[0] != sizes[1] or sizes[0] % PAGE_BYTES:
            self._find(
                "vote-copy", Remedy.START, " and ".join(VOTE_COPIES), f"they have {sizes[0]} and {sizes[1]} bytes"
            )
        for position in found.one_sided:
            self._find(
                "vote-copy",
                Remedy.START,
                " and ".join(VOTE_COPIES),
                f"slot {position} is good in one copy only, or newer there",
            )
        for position in found.damaged:
            # Whose it was is seen by which replica has none.
            self._find("vote-slot", Remedy.NONE, " and ".join(VOTE_COPIES), f"slot {position} is good in neither copy")

    def _look_at_record(self, identity: NodeIdentity) -> FlushRecord | None:
        copies = read_copies(self._disk, identity.salt_crc)
        good = [copy for copy in copies if isinstance(copy, FlushRecord)]
        newest = max(good, key=lambda copy: copy.sequence, default=None)
        for place, copy in zip(RECORD_COPIES, copies, strict=True):
            if isinstance(copy, StorageError):
                remedy = Remedy.PEERS if newest is None else Remedy.START
                self._find("flush-record", remedy, place, copy.message)
            elif newest is not None and copy.sequence != newest.sequence:
                self._find("flush-record", Remedy.START, place, f"it is older than the other copy: {copy.sequence}")
        if newest is None:
            self._find(
                "record-lost", Remedy.OPERATOR, "", "which files belong to which replica is not known: all are lost"
            )
        return newest

    # The write-ahead log.

    def _look_at_wal(self, identity: NodeIdentity, record: FlushRecord) -> None:
        for row in record.replicas:
            self._logs[ReplicaId(row.replica)] = _log_of(row)
        scan = WalScanner(self._disk, identity.salt_crc, WalPosition(record.wal_use, 0)).scan()
        self.commit_frame_count = len(scan.frames)
        for frame in scan.frames:
            self._replay(frame)
        self._look_at_ring()
        for position in scan.frayed:
            self._find("wal-trailer", Remedy.NONE, _in_wal(position), "the end of a durable commit is damaged")
        for position in scan.torn:
            self._find("wal-torn", Remedy.NONE, _in_wal(position), "a commit that was being written is not whole")
        if scan.unsynced:
            count = len(scan.unsynced)
            self._find("wal-unsealed", Remedy.NONE, WAL_DIRECTORY, f"the last commit, of {count} frames, is not sealed")
        for stretch in scan.lost:
            self._find("wal-lost", Remedy.NONE, _in_wal(stretch.start), f"unreadable up to {_in_wal(stretch.end)}")
        if scan.is_headless:
            self._find("wal-lost", Remedy.NONE, WAL_DIRECTORY, f"no readable commit from use {record.wal_use} on")
        self._lose_by_stretches(scan)
        if self._votes is not None:
            self._look_at_life_and_votes(self._votes)

    def _look_at_ring(self) -> None:
        """Every file has one size, and the first ones are always there; what a missing one held is seldom known."""
        sizes: dict[int, int] = {}
        for name in self._disk.list(WAL_DIRECTORY):
            stem, _, suffix = name.partition(".")
            if suffix == "wal" and stem.isdecimal():
                sizes[int(stem)] = self._disk.size(f"{WAL_DIRECTORY}/{name}")
        largest = max(sizes.values(), default=0)
        for number in range(1, max([WalOptions().initial_files, *sizes]) + 1):
            if sizes.get(number) != largest:
                state = "is missing" if number not in sizes else f"has {sizes[number]} bytes and not {largest}"
                self._find("wal-file", Remedy.NONE, file_path(number), f"it {state}: what was in it is gone")

    def _lose_by_stretches(self, scan: WalScan) -> None:
        if not scan.lost and not scan.is_headless:
            return
        end = max((stretch.end for stretch in scan.lost), default=WalPosition(0, 0))
        for log in self._logs.values():
            if log.born_at is None or log.born_at < end:
                log.lost = log.lost or "a part of the write-ahead log is unreadable"

    def _look_at_life_and_votes(self, found: VotesFound) -> None:
        for log in self._logs.values():
            vote = found.votes.get(log.replica)
            if vote is None:
                log.lost = log.lost or "both copies of its vote are unreadable"
            elif not log.lost and log.tail and vote.term < log.tail[-1][0]:
                detail = f"its vote is of term {vote.term}, its last entry of term {log.tail[-1][0]}"
                self._find("vote-old", Remedy.NONE, VOTE_COPIES[0], detail, log)
        for replica in found.votes.keys() - self._logs.keys() - self._dead:
            # Left by a birth that a crash cut short, or of a replica that has ended: the next start lets it go.
            self._find("vote-stray", Remedy.NONE, VOTE_COPIES[0], f"there is a vote of replica {replica} and no log")

    def _replay(self, frame: ScannedFrame) -> None:
        item = frame.item
        log = self._logs.get(item.replica)
        if item.replica in self._dead:
            return
        match item.kind:
            case FrameKind.ENTRY if log is not None:
                self._replay_entry(log, frame)
            case FrameKind.CREATE if log is None:
                self._replay_create(frame)
            case FrameKind.INSTALL if log is not None:
                self._replay_install(log, frame)
            case FrameKind.DELETE:
                self._logs.pop(item.replica, None)
                self._dead.add(item.replica)
                self._note_needless(frame)
            case _:
                self._note_needless(frame)

    def _note_needless(self, frame: ScannedFrame) -> None:
        if frame.is_damaged and not frame.is_known_loss:
            item = frame.item
            detail = f"a damaged {item.kind.name} frame of replica {item.replica} that nobody needs"
            self._find("wal-frame", Remedy.NONE, _in_wal(frame.position), detail, index=item.index, term=item.term)

    def _replay_entry(self, log: _Log, frame: ScannedFrame) -> None:
        item = frame.item
        at = item.index - log.flushed_index - 1
        if at > len(log.tail):
            log.lost = log.lost or f"entries {log.last_index + 1}..{item.index - 1} are missing from the log"
            return
        held = log.tail[at] if 0 <= at < len(log.tail) else None
        if at < 0 or (held is not None and held[0] == item.term and (held[1] or frame.entry is None)):
            self._note_needless(frame)
            return
        if held is not None and held[0] == item.term:
            log.tail[at] = (item.term, True, frame.position)
            return
        del log.tail[at:]
        log.tail.append((item.term, frame.entry is not None, frame.position))

    def _replay_create(self, frame: ScannedFrame) -> None:
        replica = frame.item.replica
        log = self._logs[replica] = _Log(NO_GROUP, replica, "", born_at=frame.position)
        if frame.body is None:
            log.lost = "its CREATE frame is damaged"
            return
        body = decode_create(frame.body)
        log.group, log.initial_conf = GroupId(body.group), body.initial_conf
        log.directory = replica_directory(log.group, replica)

    def _replay_install(self, log: _Log, frame: ScannedFrame) -> None:
        if frame.body is None:
            log.lost = log.lost or "its INSTALL frame is damaged"
            return
        body = decode_install(frame.body)
        log.directory = body.directory
        log.previous_index, log.previous_term = Index(body.previous_index), Term(body.previous_term)
        log.segments = [
            SegmentRow(Index(row.base_index), Index(row.last_index), Term(row.last_term), row.length_bytes)
            for row in body.segments
        ]
        log.tail.clear()

    # One replica.

    def _look_at_replica(self, log: _Log) -> None:
        newest = self._look_at_checkpoints(log)
        log.is_sole = _is_sole(log, newest)
        elsewhere = Remedy.OPERATOR if log.is_sole else Remedy.PEERS
        if log.lost:
            self._find("replica-lost", elsewhere, log.directory, f"it may not vote any more: {log.lost}", log)
            return
        if not self._disk.is_directory(log.directory):
            self._find("replica-lost", elsewhere, log.directory, "its directory is missing", log)
            return
        self._look_at_segments(log, elsewhere)
        for place, (term, is_good, position) in enumerate(log.tail, start=1):
            if not is_good:
                index = log.flushed_index + place
                detail = f"entry {index} of term {term} is damaged"
                self._find("entry", elsewhere, _in_wal(position), detail, log, index=index, term=term)

    def _look_at_checkpoints(self, log: _Log) -> CheckpointHeader | None:
        """Check every byte of every one; gives the header of the newest that may be used."""
        if log.lost or not log.directory or not self._disk.is_directory(log.directory):
            return None
        whole: list[CheckpointHeader] = []
        bad: list[tuple[str, str]] = []
        for index in checkpoint_indexes(self._disk, log.directory):
            path = checkpoint_path(log.directory, index)
            try:
                header, body = read_checkpoint(self._disk, path)
                if (header.group, header.index) != (log.group, index):
                    raise DamageError(f"{path}: holds index {header.index} of group {header.group}")
            except DamageError as error:
                bad.append((path, error.message))
                continue
            self.checkpoint_count += 1
            self._on_read(len(body))
            whole.append(header)
            if header.index > log.last_index:
                log.lost = f"a checkpoint lies ahead of the log's last index {log.last_index}"
        # Until the next ones are written the log from its first entry on makes up for a missing one.
        spare = Remedy.START if whole or not log.previous_index else Remedy.NONE
        for path, why in bad:
            self._find("checkpoint", spare, path, why, log)
        if not whole and log.previous_index and not log.lost:
            log.lost = f"no readable checkpoint, and the log begins at index {log.previous_index + 1}"
        if whole:
            self.checkpointed[log.replica] = whole[0].index
        return whole[0] if whole else None

    def _look_at_segments(self, log: _Log, elsewhere: Remedy) -> None:
        following, offset = Index(log.previous_index + 1), None
        for row in log.segments:
            path = segment_path(log.directory, row.base_index)
            if row.base_index != following:
                detail = f"it begins at index {row.base_index}, and {following} is the next"
                self._find("contradiction", Remedy.OPERATOR, path, detail, log)
            following = Index(row.last_index + 1)
            size = self._disk.size(path) if self._disk.exists(path) else 0
            if size < row.length_bytes:
                detail = f"it has {size} bytes of the {row.length_bytes} recorded: the replica is lost as a voter"
                self._find("replica-lost", elsewhere, path, detail, log)
                return
            check = SegmentCheck(self._disk, log.directory, row, group=log.group, replica=log.replica)
            try:
                while count := check.step():
                    self._on_read(count)
            finally:
                check.close()
            self._report_segment(log, check, elsewhere)
            if offset is not None and check.first_offset not in (None, offset) and not check.lost:
                detail = f"it begins at offset {check.first_offset}, and {offset} is the next"
                self._find("contradiction", Remedy.OPERATOR, path, detail, log)
            offset = None if check.lost and check.lost[-1].index == row.last_index else check.next_offset

    def _report_segment(self, log: _Log, check: SegmentCheck, elsewhere: Remedy) -> None:
        self.segment_count += 1
        self.entry_count += check.entry_count
        if check.is_header_damaged:
            detail = "its header is damaged; everything in it is found without"
            self._find("segment-header", Remedy.START, check.path, detail, log)
        for lost in check.lost:
            term = term_of_lost(lost, check.row)
            self._find("entry", elsewhere, check.path, lost.why, log, index=lost.index, term=term)
        for detail in check.contradictions:
            self._find("contradiction", Remedy.OPERATOR, check.path, detail, log)

    # What nobody names.

    def _look_for_strays(self) -> None:
        directories = {log.directory: log for log in self._logs.values()}
        for name in self._disk.list(GROUPS_DIRECTORY) if self._disk.is_directory(GROUPS_DIRECTORY) else ():
            path = f"{GROUPS_DIRECTORY}/{name}"
            log = directories.get(path)
            if log is None:
                self._find("stray", Remedy.NONE, path, "nothing names it; the next start or flush removes it")
                continue
            kept = {segment_path(path, row.base_index) for row in log.segments}
            for inner in self._disk.list(path):
                known = f"{path}/{inner}" in kept or inner.endswith((CHECKPOINT_SUFFIX, ".spare"))
                if not known and not log.lost:
                    what = "segment" if inner.endswith(SEGMENT_SUFFIX) else "file"
                    self._find("stray", Remedy.NONE, f"{path}/{inner}", f"no record names this {what}", log)


def _log_of(row: ReplicaRow) -> _Log:
    state = LogState.of_row(row)
    return _Log(
        state.group,
        state.replica,
        state.directory,
        state.initial_conf,
        state.previous_index,
        state.previous_term,
        state.segments,
        lost=state.lost,
    )


def _is_sole(log: _Log, newest: CheckpointHeader | None) -> bool:
    """Whether nobody else is known to hold a copy, as of the newest checkpoint."""
    try:
        conf = ConfState.decode((newest and newest.conf) or log.initial_conf)
    except (CorruptBatchError, StorageError):
        return False
    return not conf.is_joint and not conf.learners and conf.voters == (log.replica,)


def _in_wal(position: WalPosition) -> str:
    return f"{WAL_DIRECTORY}/ use {position.use} at {position.offset}"
