"""What the write-ahead log holds after a stop: torn is dropped, damaged is named, stale is never believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.wal import FREE, Wal, WalOptions, WalState, file_path, first_state, make_ring_file
from logbroker.storage.wal_format import PAGE_BYTES, FrameKind, WalFrame, WalPosition, entry_frame, life_frame
from logbroker.storage.wal_scan import WalScan, WalScanner
from tests.unit.storage.store_kit import A, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

SALT = 99
START = WalPosition(1, 0)
TRAILER_BYTES = 12
OPTIONS = WalOptions(file_bytes=4 * PAGE_BYTES, initial_files=2, max_files=4)


class Ring:
    """A log of one entry a commit, one page each; `write` rolls where the file is full."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.disk.mkdir("wal")
        self.disk.sync_dir("")
        for number in (1, 2):
            make_ring_file(self.disk, number, OPTIONS.file_bytes)
        self.wal = Wal(self.disk, OPTIONS, first_state(2), SALT)
        self.wal.commit([])
        self.last = 0

    def write(self, count: int = 1, *, size: int = 300) -> None:
        for _ in range(count):
            if not self.wal.fits(PAGE_BYTES):
                self.roll()
            self.last += 1
            self.wal.commit([entry_frame(A, entry(self.last, size=size))])

    def roll(self) -> None:
        self.wal.make_room()
        self.wal.roll()

    def scan(self, start: WalPosition = START, *, salt: int = SALT) -> WalScan:
        return WalScanner(self.disk, salt, start).scan()

    def page(self, number: int, page: int) -> bytes:
        with self.disk.open(file_path(number)) as file:
            return file.pread(PAGE_BYTES, page * PAGE_BYTES)

    def scribble(self, number: int, page: int, *, at: int = 0, data: bytes = bytes(200)) -> None:
        self.disk.scribble(file_path(number), page * PAGE_BYTES + at, data)

    def go_on(self, found: WalScan) -> None:
        """What recovery does: write the doubtful end again behind a `left_at`."""
        assert found.state is not None
        self.wal = Wal(self.disk, OPTIONS, found.state, SALT)
        self.wal.make_room(beyond_max=True)
        self.wal.roll()
        self.wal.commit([entry_frame(A, frame.entry) for frame in found.unsynced if frame.entry is not None])
        self.wal.seal()


@pytest.fixture
def ring() -> Ring:
    return Ring()


def indexes(found: WalScan) -> list[int]:
    return [frame.item.index for frame in found.frames]


def stretches(found: WalScan) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return [((lost.start.use, lost.start.offset), (lost.end.use, lost.end.offset)) for lost in found.lost]


def test_everything_is_read_in_order_and_the_last_commit_is_doubted(ring: Ring) -> None:
    ring.write(6)
    found = ring.scan()
    assert indexes(found) == [1, 2, 3, 4, 5, 6]
    assert [frame.item.index for frame in found.unsynced] == [6]
    assert (found.lost, found.is_headless) == ([], False)


def test_a_sealed_log_has_nothing_to_doubt(ring: Ring) -> None:
    ring.write(2)
    ring.wal.seal()
    found = ring.scan()
    assert (indexes(found), found.unsynced) == ([1, 2], [])


def test_nothing_before_the_start_is_believed(ring: Ring) -> None:
    ring.write(6)
    assert indexes(ring.scan(WalPosition(2, 0))) == [4, 5, 6]


def test_the_log_goes_on_behind_all_that_was_seen(ring: Ring) -> None:
    ring.write(6)
    state = ring.scan().state
    assert state is not None
    assert (state.uses, state.position.use, state.sequence) == ({1: 1, 2: 2}, 2, 7)


def test_files_off_the_chain_are_free(ring: Ring) -> None:
    ring.write(6)
    state = ring.scan(WalPosition(2, 0)).state
    assert state is not None
    assert state.uses == {1: FREE, 2: 2}


@pytest.mark.parametrize("torn_at", [0, 60, 200, 400])
def test_a_torn_last_commit_is_dropped_whole(ring: Ring, torn_at: int) -> None:
    """Wherever it is torn: in the fixed part, the frame list, the frame, or before the trailer."""
    ring.write(2)
    ring.scribble(1, 2, at=torn_at, data=bytes(PAGE_BYTES - torn_at))
    found = ring.scan()
    assert indexes(found) == [1]
    assert found.lost == []
    assert [frame.item.index for frame in found.unsynced] == ([1] if torn_at <= 60 else [])


def test_a_torn_commit_proves_that_the_one_before_it_was_durable(ring: Ring) -> None:
    ring.write(2)
    ring.scribble(1, 2, at=300, data=bytes(8))
    found = ring.scan()
    assert found.state is not None
    assert (indexes(found), found.unsynced) == ([1], [])
    assert found.state.left_at == found.state.synced_through


def test_the_first_commit_of_a_file_may_be_torn(ring: Ring) -> None:
    ring.write(4)
    ring.scribble(2, 0, at=300, data=bytes(8))
    found = ring.scan()
    assert (indexes(found), found.lost) == ([1, 2, 3], [])
    assert found.state is not None
    assert found.state.position.use == 2
    assert found.state.uses[2] == FREE


@pytest.mark.parametrize(("damage", "names"), [(0, []), (60, []), (190, [2])])
def test_a_bad_place_before_what_is_known_durable_is_damage(ring: Ring, damage: int, names: list[int]) -> None:
    """A header that is gone loses a stretch; a frame that is bad is known by index and term."""
    ring.write(3)
    ring.scribble(1, 2, at=damage, data=b"\xff" * 8)
    found = ring.scan()
    assert [frame.item.index for frame in found.frames if frame.is_damaged] == names
    if names:
        assert (indexes(found), found.lost) == ([1, 2, 3], [])
        assert found.frames[1].item.term == 1
    else:
        assert indexes(found) == [1, 3]
        assert stretches(found) == [((1, 2 * PAGE_BYTES), (1, 3 * PAGE_BYTES))]


def test_a_damaged_trailer_before_the_end_hurts_nobody(ring: Ring) -> None:
    ring.write(3)
    page = ring.page(1, 2)
    ring.scribble(1, 2, at=len(page.rstrip(b"\0")) - 2, data=b"\xff\xff")
    found = ring.scan()
    assert (indexes(found), found.lost) == ([1, 2, 3], [])
    assert not any(frame.is_damaged for frame in found.frames)


def test_a_bad_last_commit_is_damage_once_an_empty_commit_follows(ring: Ring) -> None:
    ring.write(2)
    ring.scribble(1, 2, at=300, data=b"\xff" * 8)
    assert indexes(ring.scan()) == [1]
    ring.wal.seal()
    found = ring.scan()
    assert [(frame.item.index, frame.is_damaged) for frame in found.frames] == [(1, False), (2, True)]


def test_a_torn_commit_behind_a_lost_header_is_evidence_of_the_loss(ring: Ring) -> None:
    ring.write(3)
    ring.scribble(1, 2)
    ring.scribble(1, 3, at=300, data=bytes(8))
    found = ring.scan()
    assert indexes(found) == [1]
    ((start, end),) = stretches(found)
    assert start[1] < 2 * PAGE_BYTES < end[1] <= 3 * PAGE_BYTES
    assert found.state is not None
    assert found.state.synced_through.offset == end[1]


def test_a_ring_without_one_commit_to_believe_is_headless(ring: Ring) -> None:
    ring.write(2)
    for page in range(4):
        ring.scribble(1, page)
    found = ring.scan()
    assert found.is_headless
    assert found.state is not None
    assert (found.frames, found.state.synced_through) == ([], START)


def test_a_lost_file_in_the_middle_is_one_lost_stretch(ring: Ring) -> None:
    ring.write(8)
    ring.disk.vanish(file_path(2))
    found = ring.scan()
    assert indexes(found) == [8]
    ((start, end),) = stretches(found)
    assert (start, end[0]) == ((2, 0), 2)


def test_another_nodes_log_is_not_believed(ring: Ring) -> None:
    ring.write(2)
    assert ring.scan(salt=SALT + 1).is_headless


def test_other_files_in_the_directory_are_passed_over(ring: Ring) -> None:
    ring.write(1)
    for name in ("1.wal.tmp", "x.wal", "1.old"):
        ring.disk.open(f"wal/{name}", create=True).close()
    assert indexes(ring.scan()) == [1]


def test_a_commit_that_landed_elsewhere_is_not_believed(ring: Ring) -> None:
    """A misdirected write has a good checksum and states another place."""
    ring.write(2)
    ring.scribble(1, 3, data=ring.page(1, 1))
    assert indexes(ring.scan()) == [1, 2]
    ring.scribble(1, 2, data=ring.page(1, 1))
    assert indexes(ring.scan()) == [1]


def _recycled() -> Ring:
    """File 1 holds use 3 over the whole commits of use 1, all of the same size."""
    ring = Ring()
    ring.write(3 + 4)
    ring.wal.release(WalPosition(2, 0))
    ring.write(1)
    return ring


def test_whole_commits_of_an_earlier_use_of_the_file_are_not_believed() -> None:
    ring = _recycled()
    found = ring.scan(WalPosition(2, 0))
    assert indexes(found) == [4, 5, 6, 7, 8]
    assert found.lost == []


def test_a_torn_first_commit_over_an_earlier_use_shows_nothing_of_that_use() -> None:
    ring = _recycled()
    ring.scribble(1, 0, at=300, data=bytes(8))
    assert indexes(ring.scan(WalPosition(2, 0))) == [4, 5, 6, 7]
    ring.scribble(1, 0)
    found = ring.scan(WalPosition(2, 0))
    assert (indexes(found), found.lost) == ([4, 5, 6, 7], [])
    assert found.state is not None
    assert found.state.uses == {1: FREE, 2: 2}


def test_a_restart_does_not_believe_what_lies_behind_its_left_at(ring: Ring) -> None:
    ring.write(2)
    doubted = ring.scan()
    ring.go_on(doubted)
    found = ring.scan()
    assert indexes(found) == [1, 2]
    assert found.unsynced == []
    assert [frame.position.use for frame in found.frames] == [1, 2]


def test_restarts_after_a_torn_tail_keep_the_chain(ring: Ring) -> None:
    ring.write(3)
    ring.scribble(1, 3, at=300, data=bytes(8))
    for restart in range(3):
        found = ring.scan()
        assert (indexes(found), found.lost) == ([1, 2], []), restart
        ring.go_on(found)
    ring.last = 2
    ring.write(2)
    found = ring.scan()
    assert (indexes(found), found.lost) == ([1, 2, 3, 4], [])


def test_a_restart_that_crashes_before_its_commit_is_synced_changes_nothing(ring: Ring) -> None:
    ring.write(2)
    ring.scribble(1, 2, at=300, data=bytes(8))
    before = indexes(ring.scan())
    found = ring.scan()
    ring.go_on(found)
    ring.scribble(2, 0, at=60, data=b"\xff" * 4)
    ring.scribble(2, 1)
    assert indexes(ring.scan()) == before


def test_births_installs_and_deaths_are_read_with_their_bodies(ring: Ring) -> None:
    frames: Sequence[WalFrame] = [
        life_frame(FrameKind.CREATE, ReplicaId(5), b"born"),
        life_frame(FrameKind.INSTALL, ReplicaId(5), b"snapshot", index=Index(9), term=Term(2)),
        life_frame(FrameKind.DELETE, ReplicaId(5), b""),
    ]
    ring.wal.commit(frames)
    ring.wal.seal()
    found = ring.scan()
    assert [(frame.item.kind, frame.body, frame.item.index) for frame in found.frames] == [
        (FrameKind.CREATE, b"born", 0),
        (FrameKind.INSTALL, b"snapshot", 9),
        (FrameKind.DELETE, b"", 0),
    ]
    at = ring.page(1, 1).index(b"snapshot")
    ring.scribble(1, 1, at=at, data=b"S")
    damaged = ring.scan().frames[1]
    assert (damaged.is_damaged, damaged.item.kind, damaged.item.index) == (True, FrameKind.INSTALL, 9)


def test_an_intact_entry_under_another_name_in_the_list_is_damage(ring: Ring) -> None:
    """The list and the frame must say the same; a sound frame of another commit is not the one that stood there."""
    other = entry(7, size=300)
    ring.write(1)
    ring.wal.seal()
    page = ring.page(1, 1)
    at = page.index(entry(1, size=300).head)
    ring.scribble(1, 1, at=at, data=other.head + other.payload)
    (frame,) = ring.scan().frames
    assert (frame.is_damaged, frame.item.index) == (True, 1)


def test_a_commit_of_several_pages_is_walked_as_one(ring: Ring) -> None:
    ring.write(1, size=PAGE_BYTES)
    ring.wal.seal()
    assert indexes(ring.scan()) == [1]
    state = ring.scan().state
    assert isinstance(state, WalState)
    assert state.sequence == 3


def test_an_entry_that_carries_a_commit_in_its_payload_is_not_taken_for_one(ring: Ring) -> None:
    """Every page of the ring is searched for headers; a payload may well hold one at the start of a page."""
    ring.write(1)
    forged = ring.page(1, 1)
    (before,) = [len(bytes(page).rstrip(b"\0")) for page in [forged]]
    made = seal_entry(
        EntryKind.DATA,
        group=GroupId(A),
        index=Index(2),
        term=Term(1),
        base_offset=Offset(1),
        next_offset=Offset(2),
        append_ms=20,
        payload=bytes(PAGE_BYTES - before + len(entry(1, size=300).payload) + TRAILER_BYTES) + forged[:before],
    )
    ring.wal.commit([entry_frame(A, made)])
    assert ring.page(1, 3)[:before] == forged[:before]
    ring.wal.seal()
    found = ring.scan()
    assert (indexes(found), found.lost) == ([1, 2], [])
