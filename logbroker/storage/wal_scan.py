"""What the write-ahead log holds after a stop: the commits to believe, in order, and what is damaged among them.

Every ring file is searched for valid headers. The newest whole commit names, through `left_at`, the chain of file uses
that leads to it; what lies off that chain (a torn last commit, bytes behind a `left_at`, earlier uses) is not believed.
A bad place before the newest `synced_through` was durable once: that is damage, and is reported, never cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError
from logbroker.storage.entry_codec import decode_entry
from logbroker.storage.wal import FREE, WAL_DIRECTORY, WalState, file_path
from logbroker.storage.wal_format import (
    PAGE_BYTES,
    CommitHeader,
    FrameItem,
    FrameKind,
    WalPosition,
    align_up,
    check_body,
    decode_header,
    frame_bytes,
    has_trailer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.entry import Entry
    from logbroker.storage.disk import Disk

ANY_USE = 0


@final
@dataclass(frozen=True, slots=True)
class ScannedFrame:
    """One frame of the log. `entry` or `body` is None where the bytes are damaged; the item is trusted all the same."""

    item: FrameItem
    entry: Entry | None
    body: bytes | None
    position: WalPosition

    @property
    def is_damaged(self) -> bool:
        return self.entry is None and self.body is None

    @property
    def is_known_loss(self) -> bool:
        """The frame was written to say that the entry is lost; see `wal_format.loss_frame`."""
        return self.item.kind is FrameKind.ENTRY and self.item.size_bytes == 0


@final
@dataclass(frozen=True, slots=True)
class LostStretch:
    """A stretch of the log whose header is unreadable though it was durable: anything may have stood there."""

    start: WalPosition
    end: WalPosition


@final
@dataclass
class WalScan:
    """The believed log from W on."""

    frames: list[ScannedFrame] = field(default_factory=list)
    unsynced: list[ScannedFrame] = field(default_factory=list)
    """The last frames of `frames`: whole, but perhaps only in the page cache before the stop."""
    lost: list[LostStretch] = field(default_factory=list)
    frayed: list[WalPosition] = field(default_factory=list)
    """Commits that are durable and whole but for their trailer, which nobody needs any more."""
    torn: list[WalPosition] = field(default_factory=list)
    """Commits behind the last whole one: they were being written, or their end is damaged. Not believed."""
    is_headless: bool = False
    """Not one believable commit at or after W: everything that was not flushed is lost."""
    state: WalState | None = None
    """Where the rewriting commit goes on; its `left_at` and `synced_through` are what is known durable."""


@final
class WalScanner:
    """Reads the ring once; `start` is W of the flush record."""

    def __init__(self, disk: Disk, salt_crc: int, start: WalPosition) -> None:
        self._disk = disk
        self._salt_crc = salt_crc
        self._start = start
        self._files: dict[int, memoryview] = {}
        self._headers: dict[int, list[CommitHeader]] = {}
        self._file_of_use: dict[int, int] = {}

    def scan(self) -> WalScan:
        """Read everything and decide what to believe."""
        self._read_ring()
        found = WalScan()
        last = self._newest_whole()
        newest_seen = max((header.sequence for headers in self._headers.values() for header in headers), default=0)
        if last is None:
            found.is_headless = True
            durable, chain = self._start, []
        else:
            evidence = self._newest_evidence(last)
            durable, chain = max(last.synced_through, evidence), self._chain_to(last)
            for use, end in chain:
                self._walk(use, end, found, durable)
            every = (header for headers in self._headers.values() for header in headers)
            found.torn = sorted(header.position for header in every if header.sequence > last.sequence)
            if evidence > last.end:
                found.lost.append(LostStretch(last.end, evidence))
        use = max([self._start.use, *self._file_of_use])
        uses = {number: FREE for number in self._files}
        for chained, _ in chain:
            number = self._file_of_use.get(chained)
            if number is not None:
                uses[number] = chained
        found.state = WalState(uses, WalPosition(use, 0), newest_seen, durable, durable)
        return found

    def _read_ring(self) -> None:
        for name in sorted(self._disk.list(WAL_DIRECTORY)):
            stem, _, suffix = name.partition(".")
            if suffix != "wal" or not stem.isdecimal():
                continue
            number = int(stem)
            with self._disk.open(file_path(number)) as file:
                data = memoryview(file.pread(file.size(), 0))
            self._files[number] = data
            for header in self._valid_headers(data):
                if header.position.use < self._start.use:
                    continue
                self._headers.setdefault(header.position.use, []).append(header)
                self._file_of_use[header.position.use] = number

    def _valid_headers(self, data: memoryview) -> Iterator[CommitHeader]:
        """The headers of the newest use that the file holds.

        A file of use 9 still carries, behind its last commit, whole commits of the use before; only one use of a file
        can matter, since it was released before it was taken again.
        """
        found = [
            header
            for offset in range(0, len(data), PAGE_BYTES)
            if (header := decode_header(data, WalPosition(ANY_USE, offset), self._salt_crc)) is not None
        ]
        newest = max((header.position.use for header in found), default=0)
        return (header for header in found if header.position.use == newest)

    def _newest_whole(self) -> CommitHeader | None:
        """The commit with the highest sequence all of whose bytes are there."""
        headers = sorted((h for of_use in self._headers.values() for h in of_use), key=lambda h: -h.sequence)
        for place, header in enumerate(headers):
            if self._is_whole(header):
                return header
            # A commit that a later header calls durable was not being written: its damage is real, and the walk names
            # it.
            if any(later.synced_through >= header.end for later in headers[:place]):
                return header
        return None

    def _newest_evidence(self, last: CommitHeader) -> WalPosition:
        """How far a header newer than `last` proves durability; the commit of that header itself was torn."""
        newer = [
            header.synced_through
            for headers in self._headers.values()
            for header in headers
            if header.sequence > last.sequence and header.synced_through >= last.end
        ]
        return max(newer, default=last.synced_through)

    def _is_whole(self, header: CommitHeader) -> bool:
        data = self._data_of(header.position.use)
        if not has_trailer(data, header):
            return False
        return not any(frame.is_damaged and not frame.is_known_loss for frame in self._frames_of(header))

    def _chain_to(self, last: CommitHeader) -> list[tuple[int, int]]:
        """(use, end offset) of each file the log runs through, oldest first."""
        chain = [(last.position.use, last.end.offset)]
        left_at = last.left_at
        # Each use was left for a later one, or the chain has no end.
        while self._start.use <= left_at.use < chain[-1][0]:
            chain.append((left_at.use, left_at.offset))
            headers = self._headers.get(left_at.use)
            if not headers:
                break
            left_at = headers[0].left_at
        chain.reverse()
        return chain

    def _walk(self, use: int, end: int, found: WalScan, durable: WalPosition) -> None:
        data = self._data_of(use)
        offset = 0
        while offset < end:
            header = decode_header(data, WalPosition(use, offset), self._salt_crc) if data else None
            if header is None:
                offset = self._skip_lost(use, offset, end, found)
                continue
            frames = list(self._frames_of(header))
            found.frames.extend(frames)
            if not has_trailer(data, header):
                found.frayed.append(header.position)
            if header.end > durable:
                found.unsynced.extend(frames)
            offset = align_up(offset + header.commit_bytes)

    def _skip_lost(self, use: int, offset: int, end: int, found: WalScan) -> int:
        following = [h.position.offset for h in self._headers.get(use, ()) if offset < h.position.offset < end]
        resume = min(following, default=end)
        found.lost.append(LostStretch(WalPosition(use, offset), WalPosition(use, resume)))
        return resume

    def _frames_of(self, header: CommitHeader) -> Iterator[ScannedFrame]:
        data = self._data_of(header.position.use)
        for item, body in zip(header.items, frame_bytes(data, header), strict=True):
            yield _read_frame(item, body, header.position)

    def _data_of(self, use: int) -> memoryview:
        number = self._file_of_use.get(use)
        return self._files[number] if number is not None else memoryview(b"")


def _read_frame(item: FrameItem, body: memoryview, position: WalPosition) -> ScannedFrame:
    place = f"write-ahead log at {position.use}:{position.offset}"
    try:
        if item.kind is not FrameKind.ENTRY:
            check_body(item, body)
            return ScannedFrame(item, None, bytes(body), position)
        entry = decode_entry(body, place=place)
        if (entry.index, entry.term, entry.crc) != (item.index, item.term, item.crc):
            raise CorruptBatchError(f"{place}: entry {entry.index} stands where the list names {item.index}")
    except CorruptBatchError:
        return ScannedFrame(item, None, None, position)
    return ScannedFrame(item, entry, None, position)
