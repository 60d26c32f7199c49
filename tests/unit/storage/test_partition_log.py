"""One replica's log by index, offset and time; damage and repair; room and flush plans."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.errors import DamageError, InvariantError
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.raft.log import CompactedError, UnavailableEntryError
from logbroker.storage.commit import ReplicaWrite, reserve_room
from logbroker.storage.entry_codec import encoded_bytes
from logbroker.storage.index import DictIndex, IndexRow
from logbroker.storage.partition_log import UNKNOWN_TERM, LogState, PartitionLog
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentRow, segment_path
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.unit.storage.snapshot_files import receive
from tests.unit.storage.store_kit import (
    OPTIONS,
    A,
    commit,
    entries,
    entry,
    flush,
    held,
    open_at,
    reopen,
    roll_and_flush,
    write,
)

if TYPE_CHECKING:
    from logbroker.storage.node_store import NodeStore

ONE_BYTES = encoded_bytes(entry(1))


class Made:
    """A store with one replica; `flushed` entries in segments of `each`, the rest of `count` in memory."""

    def __init__(self, *, count: int, flushed: int = 0, each: int = 0, size: int = 100) -> None:
        self.disk = SimulatedDisk()
        self.index = DictIndex()
        self.store: NodeStore = open_at(self.disk, index=self.index)
        commit(self.store, births=[A])
        self.log = self.store.replicas[A].log
        self.size = size
        done = 0
        while done < flushed:
            following = min(flushed, done + (each or flushed))
            self.write(*entries(done + 1, following + 1, size=size))
            self.log.committed = Index(following)
            roll_and_flush(self.store)
            done = following
        if count > done:
            self.write(*entries(done + 1, count + 1, size=size))

    def write(self, *new: Entry) -> None:
        for start in range(0, len(new), 20):
            write(self.store, *new[start : start + 20])
            flush(self.store)

    def position(self, index: int) -> tuple[str, int]:
        """File and position of a flushed entry."""
        segment = next(s for s in self.log.state.segments if s.base_index <= index <= s.last_index)
        step = encoded_bytes(entry(1, size=self.size))
        return segment_path(self.log.state.directory, segment.base_index), SEGMENT_HEADER_BYTES + step * (
            index - segment.base_index
        )

    def flip(self, index: int, *, at: int) -> None:
        """Let a bit of a flushed entry rot; 60 and more is in the payload."""
        path, position = self.position(index)
        self.disk.flip_bit(path, position + at, 1)


def begin_new_segment(made: Made) -> None:
    """As after a restart: the next flush begins a segment of its own."""
    made.log.close()


def segmented() -> Made:
    """Segments 1..5 and 6..10, and 11..13 in memory."""
    made = Made(count=5, flushed=5)
    begin_new_segment(made)
    made.write(*entries(6, 11))
    made.log.committed = Index(10)
    roll_and_flush(made.store)
    made.write(*entries(11, 14))
    assert [segment.base_index for segment in made.log.state.segments] == [1, 6]
    return made


# By index.


def test_entries_run_over_segments_and_the_tail() -> None:
    made = segmented()
    assert list(made.log.entries(Index(4), Index(14), max_bytes=1 << 20)) == list(entries(4, 14))
    assert [made.log.term(Index(index)) for index in range(14)] == [0] + [1] * 13
    assert (made.log.first_index(), made.log.last_index(), made.log.flushed_index) == (1, 13, 10)


@pytest.mark.parametrize("limit", [1, 200, 400, 1000])
def test_a_limit_in_bytes_is_kept_over_every_boundary(limit: int) -> None:
    made = segmented()
    for start in range(1, 14):
        found = made.log.entries(Index(start), Index(14), max_bytes=limit)
        assert [one.index for one in found] == list(range(start, start + len(found)))
        assert len(found) == 1 or sum(one.size_bytes for one in found) <= limit
        assert len(found) == min(14 - start, max(1, limit // found[0].size_bytes))


def test_an_empty_range_is_empty() -> None:
    assert list(segmented().log.entries(Index(3), Index(3), max_bytes=1)) == []


def test_dropped_segments_are_compacted_and_the_term_before_the_first_is_known() -> None:
    log = segmented().log
    log.droppable_below = Index(6)
    (first,), retired = log.drop_segments()
    assert (first.base_index, retired) == (1, None)
    assert (log.first_index(), log.term(Index(5))) == (6, 1)
    with pytest.raises(CompactedError, match="index 4 is below the log start index 6"):
        log.term(Index(4))
    with pytest.raises(CompactedError):
        log.entries(Index(5), Index(7), max_bytes=1)


def test_a_segment_is_droppable_only_when_all_of_it_lies_below_the_log_start() -> None:
    for below, dropped in ((5, []), (6, [1]), (12, [1])):
        log = segmented().log
        log.droppable_below = Index(below)
        assert log.has_droppable == bool(dropped)
        assert [segment.base_index for segment in log.drop_segments()[0]] == dropped, "the active one stays"


def test_nothing_is_dropped_while_a_snapshot_is_sent() -> None:
    log = segmented().log
    log.droppable_below, log.is_pinned = Index(6), True
    assert not log.has_droppable
    assert log.drop_segments() == ([], None)
    assert log.first_index() == 1


def test_an_active_segment_that_nobody_needs_goes_once_nothing_is_to_follow_in_it() -> None:
    made = segmented()
    made.log.committed = Index(13)
    roll_and_flush(made.store)
    made.log.droppable_below = Index(14)
    assert not made.log.needs_spare
    dropped, retired = made.log.drop_segments()
    assert [segment.base_index for segment in dropped] == [1, 6]
    assert retired is not None
    assert (made.log.first_index(), made.log.last_index(), made.log.flushed_index) == (14, 13, 13)
    assert made.log.term(Index(13)) == 1
    made.write(*entries(14, 16))
    made.log.committed = Index(15)
    roll_and_flush(made.store)
    assert [segment.base_index for segment in made.log.state.segments] == [14]
    retired.close()


def test_an_active_segment_that_nobody_needs_is_left_for_a_spare_one() -> None:
    made = segmented()
    made.log.committed = Index(13)
    made.log.droppable_below = Index(11)
    is_droppable = made.store.has_droppable(A)
    assert is_droppable, "segment 1..5"
    commit(made.store)
    assert made.log.spare is not None
    roll_and_flush(made.store)
    assert [segment.base_index for segment in made.log.state.segments] == [11]
    assert held(made.log) == [(one, 1) for one in range(11, 14)]
    _, store = reopen(made.disk)
    assert held(store.replicas[A].log) == [(one, 1) for one in range(11, 14)]


def test_damage_in_the_tail_that_nobody_needs_goes_with_what_lies_before_it() -> None:
    made = segmented()
    made.log.state.damaged[Index(12)] = Term(1)
    made.log.committed = Index(13)
    made.log.droppable_below = made.log.log_start_index = Index(13)
    is_droppable = made.store.has_droppable(A)
    assert is_droppable
    commit(made.store)
    roll_and_flush(made.store)
    assert made.log.state.damaged == {}
    assert (made.log.first_index(), made.log.flushed_index) == (13, 13)
    assert held(made.log) == [(13, 1)]
    _, store = reopen(made.disk)
    assert held(store.replicas[A].log) == [(13, 1)]


def test_an_append_replaces_what_follows_it_above_the_flushed_index_only() -> None:
    made = segmented()
    made.log.append(entries(12, 13, term=2))
    assert held(made.log)[-2:] == [(11, 1), (12, 2)]
    assert made.log.unflushed_bytes == 2 * ONE_BYTES
    for start in (10, 14):
        with pytest.raises(InvariantError, match=f"append of index {start}"):
            made.log.append(entries(start, start + 1, term=3))


# By offset and by time. Message n has offset n - 1 and log time 10 n.


def test_a_message_is_found_by_its_offset_wherever_it_lies() -> None:
    log = segmented().log
    for offset in range(13):
        assert log.index_of_offset(Offset(offset)) == offset + 1
        found = list(log.data_from(Offset(offset), max_bytes=1 << 20))
        assert [one.base_offset for one in found] == list(range(offset, 13))
        assert len(list(log.data_from(Offset(offset), max_bytes=1))) == 1
    assert log.index_of_offset(Offset(13)) == 14
    assert list(log.data_from(Offset(13), max_bytes=1)) == []


def test_an_offset_in_the_middle_of_a_batch_finds_the_batch() -> None:
    made = Made(count=0)
    batches = [
        Entry(one.kind, one.group, one.index, one.term, Offset(10 * place), Offset(10 * place + 10), 1, one.payload)
        for place, one in enumerate(entries(1, 4))
    ]
    made.log.append(batches)
    assert [made.log.index_of_offset(Offset(offset)) for offset in (0, 9, 10, 19, 20, 29, 30)] == [1, 1, 2, 2, 3, 3, 4]


def test_entries_without_messages_are_passed_over() -> None:
    made = Made(count=0)
    made.write(
        entry(1, base=0),
        entry(2, base=1, kind=EntryKind.STATE),
        entry(3, base=1, kind=EntryKind.NOOP, size=0),
        entry(4, base=1),
    )
    made.log.committed = Index(4)
    for _ in range(2):
        assert made.log.index_of_offset(Offset(1)) == 4
        assert [one.index for one in made.log.data_from(Offset(0), max_bytes=1 << 20)] == [1, 4]
        assert made.log.first_offset_at(15) == (1, 40)
        assert made.log.last_before(35) == 3
        if made.log.flushed_index == 0:
            roll_and_flush(made.store)


@pytest.mark.parametrize(("at_ms", "found"), [(0, (0, 10)), (10, (0, 10)), (11, (1, 20)), (50, (4, 50)), (51, (5, 60))])
def test_a_time_finds_the_first_message_at_or_after_it(at_ms: int, found: tuple[int, int]) -> None:
    assert segmented().log.first_offset_at(at_ms) == found


@pytest.mark.parametrize(("at_ms", "found"), [(100, (9, 100)), (101, (10, 110)), (120, (11, 120)), (130, (12, 130))])
def test_a_time_is_found_on_both_sides_of_the_last_segment(at_ms: int, found: tuple[int, int]) -> None:
    assert segmented().log.first_offset_at(at_ms) == found


def test_a_time_after_the_last_message_finds_none() -> None:
    assert segmented().log.first_offset_at(131) is None
    assert Made(count=0).log.first_offset_at(0) is None


def test_the_last_entry_before_a_time_is_exact_over_every_boundary() -> None:
    log = segmented().log
    for index in range(1, 14):
        assert log.last_before(index * 10) == index - 1
        assert log.last_before(index * 10 + 1) == index


def test_messages_of_one_time_are_found_by_the_first_of_them() -> None:
    made = Made(count=0)
    made.write(*(entry(index, at_ms=10 * (1 + (index > 2) + (index > 7))) for index in range(1, 10)))
    made.log.committed = Index(5)
    roll_and_flush(made.store)
    assert [made.log.first_offset_at(at) for at in (10, 11, 20, 21)] == [(0, 10), (2, 20), (2, 20), (7, 30)]


def test_lookups_below_the_log_start_begin_at_the_log_start() -> None:
    log = segmented().log
    log.droppable_below = Index(6)
    log.drop_segments()
    assert log.index_of_offset(Offset(2)) == 6
    assert log.first_offset_at(0) == (5, 60)
    assert log.last_before(0) == 5
    assert next(iter(log.data_from(Offset(0), max_bytes=1))).base_offset == 5


# The index may lie.


@pytest.mark.parametrize(
    "lie",
    [
        IndexRow(Index(3), Offset(2), 30, Index(1), SEGMENT_HEADER_BYTES),
        IndexRow(Index(3), Offset(2), 30, Index(1), SEGMENT_HEADER_BYTES + 7),
        IndexRow(Index(3), Offset(2), 30, Index(2), SEGMENT_HEADER_BYTES),
        IndexRow(Index(1), Offset(1), 10, Index(1), SEGMENT_HEADER_BYTES),
        IndexRow(Index(1), Offset(0), 11, Index(1), SEGMENT_HEADER_BYTES),
        IndexRow(Index(1), Offset(0), 10, Index(1), 1 << 40),
    ],
    ids=["another entry", "between entries", "no such segment", "offset", "time", "beyond the file"],
)
def test_a_lying_row_is_found_out_and_all_rows_are_made_again(lie: IndexRow) -> None:
    made = Made(count=5, flushed=5)
    made.index.drop(made.log.group, A)
    made.index.add(made.log.group, A, [lie])
    assert made.log.index_of_offset(Offset(3)) == 4
    assert made.log.first_offset_at(35) == (3, 40)
    assert [one.index for one in made.log.entries(Index(4), Index(6), max_bytes=1 << 20)] == [4, 5]
    assert (made.log.needs_reindex, made.log.index_mismatches) == (True, 1), (
        "rows are not asked again before they are made again"
    )
    roll_and_flush(made.store)
    assert made.index.floor_by_index(made.log.group, A, Index(5)) == IndexRow(
        Index(1), Offset(0), 10, Index(1), SEGMENT_HEADER_BYTES
    )
    assert made.log.index_of_offset(Offset(3)) == 4
    assert (made.log.needs_reindex, made.log.index_mismatches) == (False, 1)


def test_rows_of_dropped_segments_are_not_lies() -> None:
    made = segmented()
    made.log.droppable_below = Index(6)
    made.log.drop_segments()
    assert made.log.index_of_offset(Offset(2)) == 6
    assert not made.log.needs_reindex


# Damage and repair.


def test_a_rotten_payload_is_known_loss_by_its_own_head() -> None:
    made = segmented()
    made.flip(3, at=70)
    with pytest.raises(UnavailableEntryError, match="entry 3 of group 11 is damaged"):
        made.log.entries(Index(3), Index(5), max_bytes=1 << 20)
    assert made.log.state.damaged == {3: 1}
    assert made.log.term(Index(3)) == 1


def test_a_read_stops_before_what_is_damaged() -> None:
    made = segmented()
    made.flip(3, at=70)
    assert [one.index for one in made.log.entries(Index(1), Index(14), max_bytes=1 << 20)] == [1, 2]
    assert made.log.is_damaged
    assert [one.index for one in made.log.entries(Index(4), Index(14), max_bytes=1 << 20)] == list(range(4, 14))


def test_entries_that_landed_before_their_places_are_read_to_the_last_and_not_beyond() -> None:
    made = segmented()
    path, place = made.position(8)
    with made.disk.open(path) as file:
        file.pwrite([file.pread(made.log.state.segments[-1].length_bytes - place, place)], place - 8)
        file.sync()
    assert [one.index for one in made.log.entries(Index(9), Index(14), max_bytes=1 << 20)] == list(range(9, 14))
    assert [one.index for one in made.log.entries(Index(6), Index(14), max_bytes=1 << 20)] == [6]


def test_a_rotten_head_is_known_loss_by_its_neighbours() -> None:
    made = segmented()
    made.flip(3, at=20)
    assert made.log.term(Index(3)) == 1
    assert made.log.state.damaged == {3: 1}


@pytest.mark.parametrize("victim", [2, 3])
def test_a_rotten_head_between_two_terms_names_no_term(victim: int) -> None:
    made = Made(count=0)
    made.write(entry(1), entry(2), entry(3, term=2), entry(4, term=2))
    made.log.committed = Index(4)
    roll_and_flush(made.store)
    made.flip(victim, at=20)
    with pytest.raises(UnavailableEntryError, match="lost on this node"):
        made.log.term(Index(victim))
    assert made.log.state.damaged == {victim: UNKNOWN_TERM}


def test_rotten_heads_in_a_row_hide_what_follows_but_nothing_before() -> None:
    made = segmented()
    for victim in (2, 3):
        made.flip(victim, at=20)
    assert [one.index for one in made.log.entries(Index(1), Index(14), max_bytes=1 << 20)] == [1]
    assert made.log.state.damaged == {2: 1, 3: 1}, "of one term before and after: so were they"
    assert made.log.term(Index(5)) == 1, "the record knows the last of a segment"
    assert [one.index for one in made.log.entries(Index(6), Index(14), max_bytes=1 << 20)] == list(range(6, 14))


def test_a_lost_piece_is_named_as_a_whole_however_many_entries_it_had() -> None:
    made = Made(count=380, flushed=380, size=0)
    (segment,) = made.log.state.segments
    path, first = made.position(2)
    with made.disk.open(path) as file:
        file.pwrite([b"\x55" * (segment.length_bytes - first)], first)
    made.log.needs_reindex = True
    with pytest.raises(UnavailableEntryError):
        made.log.entries(Index(2), Index(3), max_bytes=1)
    assert made.log.state.damaged == dict.fromkeys(range(2, 381), 1)
    with pytest.raises(UnavailableEntryError):
        made.log.entries(Index(300), Index(301), max_bytes=1)


def misplaced() -> Made:
    """Twenty entries in a segment, all but the first 512 bytes behind their place: a misdirected write left them."""
    made = Made(count=20, flushed=20)
    path, position = made.position(2)
    end = made.position(20)[1] + encoded_bytes(entry(1, size=made.size))
    with made.disk.open(path) as file:
        written = file.pread(end - position, position)
        file.pwrite([b"\x55" * 512, written], position)
    made.log.needs_reindex = True
    return made


@pytest.mark.timeout(10)
def test_a_read_ends_where_the_entries_stand_behind_their_place() -> None:
    """What ends behind the segment's end is not in it, and nobody looks for it for ever."""
    made = misplaced()
    with pytest.raises(UnavailableEntryError):
        made.log.entries(Index(20), Index(21), max_bytes=1)
    with pytest.raises(DamageError):
        list(made.log.data_from(Offset(19), max_bytes=1 << 20))
    assert 20 in made.log.state.damaged


def test_a_read_by_offset_says_that_something_on_the_way_is_damaged() -> None:
    made = segmented()
    made.flip(3, at=70)
    with pytest.raises(DamageError):
        list(made.log.data_from(Offset(0), max_bytes=1 << 20))
    assert next(iter(made.log.data_from(Offset(5), max_bytes=1))).base_offset == 5


@pytest.mark.parametrize("at", [70, 20])
@pytest.mark.parametrize("victim", [1, 3, 5, 6, 10])
def test_a_good_copy_makes_a_segment_whole_and_durable(victim: int, at: int) -> None:
    made = segmented()
    made.flip(victim, at=at)
    with pytest.raises(UnavailableEntryError):
        made.log.entries(Index(victim), Index(victim + 1), max_bytes=1)
    assert victim in made.log.state.damaged
    # A head that nothing precedes hides its neighbour too.
    for index in sorted(made.log.state.damaged):
        job = made.log.repair(entry(index))
        assert job is not None
        job.run()
        assert index in made.log.state.damaged, "not whole before the loop has been told"
        made.log.on_repaired(job)
    assert not made.log.is_damaged
    path, _ = made.position(victim)
    assert made.disk.is_synced(path)
    assert held(made.log) == [(index, 1) for index in range(1, 14)]


def test_entries_behind_their_place_are_mended_one_after_the_other_in_it() -> None:
    made = misplaced()
    with pytest.raises(UnavailableEntryError):
        made.log.entries(Index(20), Index(21), max_bytes=1)
    mended = []
    for _ in range(100):
        jobs = [made.log.repair(entry(index)) for index in sorted(made.log.state.damaged)]
        for job in jobs:
            if job is not None:
                job.run()
                made.log.on_repaired(job)
                mended.append(job.entry.index)
    assert mended == list(range(2, 21))
    assert held(made.log) == [(index, 1) for index in range(1, 21)]


def test_a_copy_behind_another_damaged_head_is_kept_for_later() -> None:
    made = Made(count=8, flushed=8)
    for victim in (5, 6):
        made.flip(victim, at=10)
    for index in range(1, 9):
        with contextlib.suppress(UnavailableEntryError):
            made.log.entries(Index(index), Index(index + 1), max_bytes=1)
    assert made.log.repair(entry(6)) is None
    for index in sorted(made.log.state.damaged):
        job = made.log.repair(entry(index))
        assert job is not None
        job.run()
        made.log.on_repaired(job)
    assert held(made.log) == [(index, 1) for index in range(1, 9)]


def test_a_copy_of_another_term_is_ignored() -> None:
    made = segmented()
    made.flip(3, at=70)
    assert made.log.term(Index(3)) == 1
    made.log.note_damage(Index(3))
    assert made.log.repair(entry(3, term=2)) is None
    assert made.log.repair(entry(4)) is None
    assert made.log.is_damaged


def test_a_repair_of_a_log_that_was_replaced_meanwhile_changes_nothing() -> None:
    made = segmented()
    made.flip(3, at=70)
    made.log.note_damage(Index(3))
    job = made.log.repair(entry(3))
    assert job is not None
    commit(made.store, ReplicaWrite(A, install=receive(made.disk, A, 21, 24)))
    made.log.note_damage(Index(22))
    made.log.on_repaired(job)
    assert list(made.log.state.damaged) == [22]


def test_a_stand_in_of_the_tail_is_replaced_when_its_copy_is_durable() -> None:
    disk = SimulatedDisk()
    good = entries(1, 4)
    bad = Entry(EntryKind.NOOP, GroupId(A), Index(2), Term(1), Offset(1), Offset(1), 10, b"")
    state = LogState(GroupId(A), A, "groups/11-11", tail=[good[0], bad, good[2]], damaged={Index(2): Term(1)})
    log = PartitionLog(disk, DictIndex(), state, OPTIONS.log)
    assert [one.index for one in log.entries(Index(1), Index(4), max_bytes=1 << 20)] == [1]
    assert log.term(Index(2)) == 1
    with pytest.raises(DamageError):
        list(log.data_from(Offset(0), max_bytes=1 << 20))
    assert log.repair(good[1]) is None
    assert log.first_hole() == 2
    copies = log.mends(1)
    assert copies == (good[1],)
    log.on_mended(copies)
    assert not log.is_damaged
    assert log.mends(1) == ()
    assert list(log.entries(Index(1), Index(4), max_bytes=1 << 20)) == list(good)
    assert log.unflushed_bytes == sum(map(encoded_bytes, good))
    assert log.index_of_offset(Offset(1)) == 2


def test_damage_that_is_overruled_is_forgotten() -> None:
    good = entries(1, 4)
    bad = Entry(EntryKind.NOOP, GroupId(A), Index(2), Term(1), Offset(1), Offset(1), 10, b"")
    state = LogState(GroupId(A), A, "groups/11-11", tail=[good[0], bad, good[2]], damaged={Index(2): Term(1)})
    log = PartitionLog(SimulatedDisk(), DictIndex(), state, OPTIONS.log)
    log.repair(good[1])
    copies = log.mends(1)
    log.append(entries(2, 3, term=2))
    assert not log.is_damaged
    log.on_mended(copies)
    assert log.term(Index(2)) == 2


# Room.


def test_every_entry_has_room_before_it_is_promised() -> None:
    """Through many sizes and flushes: what is durable always has a place to go."""
    made = Made(count=0)
    index = 0
    for round_ in range(60):
        count = 1 + round_ % 5
        new = entries(index + 1, index + 1 + count, size=(30, 300, 1500)[round_ % 3])
        write(made.store, *new)
        index += count
        log = made.log
        length = log.state.segments[-1].length_bytes if log.state.segments else 0
        rooms = [log.active.allocated_bytes - length if log.active is not None and log.state.segments else 0]
        rooms.append(log.spare.allocated_bytes - SEGMENT_HEADER_BYTES if log.spare is not None else 0)
        assert max(rooms) >= log.unflushed_bytes
        log.committed = Index(index - round_ % 3)
        if round_ % 4 == 0:
            made.store.request_roll()
        flush(made.store)
    assert len(made.log.state.segments) > 2
    assert held(made.log) == [(one, 1) for one in range(1, index + 1)]


def test_room_is_asked_for_in_steps_that_double_to_a_bound() -> None:
    made = Made(count=0)
    log = made.log
    first = log.plan_room(100)
    assert first is not None
    assert (first.target, first.allocated_bytes) == (None, OPTIONS.log.first_room_bytes)
    write(made.store, *entries(1, 3))
    log.committed = Index(2)
    roll_and_flush(made.store)
    assert log.plan_room(100) is None
    more = log.plan_room(OPTIONS.log.first_room_bytes)
    assert more is not None
    assert more.target is log.active
    assert more.allocated_bytes == 2 * OPTIONS.log.first_room_bytes
    large = log.plan_room(OPTIONS.log.segment_bytes - 500)
    assert large is not None
    assert large.allocated_bytes >= log.state.segments[-1].length_bytes + OPTIONS.log.segment_bytes - 500


def test_the_only_room_grows_in_steps_too_while_nothing_is_flushed() -> None:
    made = Made(count=1, size=200)
    asked = 0
    for index in range(2, 100):
        new = entries(index, index + 1, size=200)
        asked += made.log.plan_room(sum(map(encoded_bytes, new))) is not None
        made.write(*new)
    assert not made.log.state.segments
    spare = made.log.spare
    assert spare is not None
    assert spare.allocated_bytes >= made.log.unflushed_bytes > 3 * OPTIONS.log.first_room_bytes
    assert 1 <= asked <= 3


def test_nothing_new_and_nothing_unflushed_needs_no_room() -> None:
    assert Made(count=0).log.plan_room(0) is None


def test_a_full_segment_is_left_for_a_spare_one() -> None:
    made = Made(count=20, flushed=20, size=1500)
    assert made.log.state.segments[-1].length_bytes > OPTIONS.log.segment_bytes
    request = made.log.plan_room(100)
    assert request is not None
    assert request.target is None
    made.write(*entries(21, 23))
    made.log.committed = Index(22)
    roll_and_flush(made.store)
    assert [segment.base_index for segment in made.log.state.segments] == [1, 21]


def test_the_spare_one_is_extended_while_it_is_the_only_room() -> None:
    made = Made(count=2)
    request = made.log.plan_room(OPTIONS.log.first_room_bytes)
    assert request is not None
    assert request.target is made.log.spare
    reserve_room(made.disk, request)
    assert made.log.take_room(request) is None
    assert made.log.plan_room(OPTIONS.log.first_room_bytes) is None


def test_a_second_spare_file_is_handed_back_to_be_closed() -> None:
    made = Made(count=2)
    request = made.log.plan_room(1)
    assert request is None
    made.log.spare, kept = None, made.log.spare
    request = made.log.plan_room(1)
    assert request is not None
    reserve_room(made.disk, request)
    made.log.spare = kept
    assert made.log.take_room(request) is request.opened


# Flush plans.


def test_a_flush_takes_what_is_committed_and_nothing_else() -> None:
    made = Made(count=5)
    assert made.log.plan_flush(Index(0)) is None
    piece = made.log.plan_flush(Index(3))
    assert piece is not None
    assert [one.index for one in piece.entries] == [1, 2, 3]
    assert (piece.is_new, piece.position) == (True, SEGMENT_HEADER_BYTES)
    assert piece.row == SegmentRow(Index(1), Index(3), Term(1), SEGMENT_HEADER_BYTES + 3 * ONE_BYTES)


def test_a_flush_without_room_is_a_broken_invariant() -> None:
    log = PartitionLog(
        SimulatedDisk(), DictIndex(), LogState(GroupId(A), A, "d", tail=list(entries(1, 3))), OPTIONS.log
    )
    with pytest.raises(InvariantError, match="no room reserved"):
        log.plan_flush(Index(2))


def test_damage_and_all_behind_it_waits_for_its_copy() -> None:
    made = Made(count=5)
    made.log.state.damaged[Index(3)] = Term(1)
    piece = made.log.plan_flush(Index(5))
    assert piece is not None
    assert [one.index for one in piece.entries] == [1, 2]


def test_damage_in_a_segment_does_not_hold_up_what_is_flushed_later() -> None:
    made = segmented()
    made.log.note_damage(Index(3))
    made.log.committed = Index(13)
    piece = made.log.plan_flush(Index(13))
    assert piece is not None
    assert [one.index for one in piece.entries] == [11, 12, 13]


def test_damage_before_the_log_start_is_nobodys_loss() -> None:
    made = segmented()
    made.log.note_damage(Index(3))
    made.log.note_damage(Index(7))
    assert (made.log.first_hole(), made.log.holes()) == (3, [(3, 1), (7, 1)])
    made.log.log_start_index = Index(4)
    assert (made.log.first_hole(), made.log.holes()) == (7, [(7, 1)])
    made.log.log_start_index = Index(8)
    assert not made.log.is_damaged


def test_damage_in_a_dropped_segment_is_forgotten() -> None:
    made = segmented()
    made.log.note_damage(Index(3))
    made.log.note_damage(Index(7))
    made.log.droppable_below = Index(6)
    made.log.drop_segments()
    assert made.log.state.damaged == {7: 1}


def test_a_flush_of_entries_that_were_replaced_meanwhile_is_a_broken_invariant() -> None:
    made = Made(count=3)
    piece = made.log.plan_flush(Index(3))
    assert piece is not None
    made.log.append(entries(3, 4, term=2))
    with pytest.raises(InvariantError, match="replaced meanwhile"):
        made.log.on_flushed(piece)


def test_what_was_planned_before_an_install_has_no_effect_after_it() -> None:
    made = Made(count=3)
    piece = made.log.plan_flush(Index(3))
    assert piece is not None
    commit(made.store, ReplicaWrite(A, install=receive(made.disk, A, 6, 10)))
    assert made.log.on_flushed(piece) is None
    assert held(made.log) == [(index, 1) for index in range(6, 10)]
    assert (made.log.first_index(), made.log.term(Index(5))) == (6, 1)


# Sizes.


@pytest.mark.parametrize("start", [1, 3, 6, 10, 11, 13, 14])
def test_sizes_of_batches_run_over_segments_and_the_tail(start: int) -> None:
    made = segmented()
    expected = [(each.index, each.base_offset, len(each.payload)) for each in entries(start, 14)]
    assert list(made.log.batch_sizes(Index(start))) == expected


def test_no_size_is_told_past_a_head_that_is_damaged() -> None:
    made = segmented()
    made.flip(4, at=8)
    sizes = made.log.batch_sizes(Index(2))
    assert [next(sizes)[0], next(sizes)[0]] == [2, 3]
    with pytest.raises(DamageError):
        list(sizes)
