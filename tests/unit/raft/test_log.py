from __future__ import annotations

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.errors import InvariantError
from logbroker.ids import Index, Term
from logbroker.raft.log import CompactedError, RaftLog, UnavailableEntryError
from logbroker.raft.messages import SnapshotMeta
from tests.raft_kit import MemoryLog, conf_of, make_entry

EVERYTHING = 1 << 30


def data(index: int, term: int, size: int = 0) -> Entry:
    return make_entry(EntryKind.DATA, index, term, b"x" * size)


def open_log(disk: MemoryLog, *, max_applying_bytes: int = EVERYTHING, allow_unstable_apply: bool = False) -> RaftLog:
    return RaftLog(disk, max_applying_bytes=max_applying_bytes, allow_unstable_apply=allow_unstable_apply)


def finish(log: RaftLog, disk: MemoryLog, sequence: int = 1) -> None:
    entries, _ = log.hand_out(sequence, max_bytes=EVERYTHING)
    disk.write(entries)
    log.release(sequence)


def snapshot(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), conf_of(1))


def test_terms_are_known_from_one_below_the_first_entry_to_the_last() -> None:
    log = open_log(MemoryLog([data(6, 2), data(7, 3)], snapshot=snapshot(5, 2)))
    log.append([data(8, 4)])
    assert [log.term(Index(index)) for index in (5, 6, 7, 8)] == [2, 2, 3, 4]
    with pytest.raises(CompactedError):
        log.term(Index(4))
    with pytest.raises(UnavailableEntryError):
        log.term(Index(9))
    assert not log.matches(Index(4), Term(1))
    assert not log.matches(Index(9), Term(4))


@pytest.mark.parametrize(
    ("index", "term", "is_up_to_date"), [(1, 4, True), (3, 3, True), (9, 3, True), (2, 3, False), (9, 2, False)]
)
def test_the_later_term_and_then_the_longer_log_is_more_up_to_date(index: int, term: int, is_up_to_date: bool) -> None:
    """Raft 5.4.1."""
    assert open_log(MemoryLog.of_terms(1, 2, 3)).is_up_to_date(Index(index), Term(term)) is is_up_to_date


def test_a_hint_skips_every_entry_of_a_larger_term() -> None:
    log = open_log(MemoryLog.of_terms(1, 3, 3, 4, 4, 5, 5, 5, 6))
    assert log.find_conflict_by_term(Index(8), Term(3)) == (3, 3)
    assert log.find_conflict_by_term(Index(9), Term(9)) == (9, 6)
    assert log.find_conflict_by_term(Index(1), Term(0)) == (0, 0)
    assert log.find_conflict_by_term(Index(50), Term(3)) == (50, 0)


def test_a_slice_joins_storage_and_tail_within_the_byte_limit() -> None:
    log = open_log(MemoryLog([data(1, 1, 36), data(2, 1, 36)]))
    log.append([data(3, 1, 36), data(4, 1, 36)])
    for limit, count in ((1, 1), (199, 1), (200, 2), (299, 2), (300, 3), (EVERYTHING, 4)):
        found = log.slice(Index(1), Index(5), max_bytes=limit)
        assert [entry.index for entry in found] == list(range(1, count + 1))
    assert [entry.index for entry in log.slice(Index(3), Index(5), max_bytes=1)] == [3]
    assert log.slice(Index(3), Index(3), max_bytes=1) == ()
    assert log.tail(Index(5), max_bytes=1) == ()


def test_a_slice_below_the_first_entry_is_compacted_and_beyond_the_last_is_our_mistake() -> None:
    log = open_log(MemoryLog([data(6, 2)], snapshot=snapshot(5, 2)))
    with pytest.raises(CompactedError):
        log.slice(Index(5), Index(7), max_bytes=1)
    with pytest.raises(InvariantError):
        log.slice(Index(6), Index(8), max_bytes=1)


def test_an_append_that_fits_replaces_only_from_the_first_conflict() -> None:
    """Raft 5.3, figure 2: append entries, steps 2 to 4."""
    log = open_log(MemoryLog.of_terms(1, 1, 2, 2))
    assert not log.try_append(Index(4), Term(3), [data(5, 3)])
    assert log.try_append(Index(2), Term(1), [data(3, 2), data(4, 3), data(5, 3)])
    assert [log.term(Index(index)) for index in range(1, 6)] == [1, 1, 2, 3, 3]
    assert log.durable_index == 3


def test_a_late_shorter_append_cuts_nothing() -> None:
    log = open_log(MemoryLog.of_terms(1, 1, 1))
    assert log.try_append(Index(1), Term(1), [data(2, 1)])
    assert log.try_append(Index(2), Term(1), [])
    assert log.last_index == 3


def test_a_committed_entry_is_never_replaced() -> None:
    log = open_log(MemoryLog.of_terms(1, 1, 1))
    log.commit_to(Index(2))
    with pytest.raises(InvariantError):
        log.try_append(Index(1), Term(1), [data(2, 2)])
    with pytest.raises(InvariantError):
        log.append([data(5, 2)])


def test_the_commit_index_moves_forward_and_stays_within_the_log() -> None:
    log = open_log(MemoryLog.of_terms(1, 1, 1))
    assert log.commit_to(Index(2))
    assert not log.commit_to(Index(1))
    assert log.commit == 2
    with pytest.raises(InvariantError):
        log.commit_to(Index(4))


def test_entries_are_handed_out_once_and_leave_the_tail_when_their_write_is_done() -> None:
    disk = MemoryLog()
    log = open_log(disk)
    log.append([data(1, 1), data(2, 1)])
    first, _ = log.hand_out(1, max_bytes=EVERYTHING)
    assert [entry.index for entry in first] == [1, 2]
    assert not log.has_unhanded
    log.append([data(3, 1)])
    second, _ = log.hand_out(2, max_bytes=EVERYTHING)
    assert [entry.index for entry in second] == [3]
    disk.write(first)
    assert log.persisted_through(1) == 2
    log.release(1)
    assert log.durable_index == 2
    disk.write(second)
    log.release(2)
    assert log.durable_index == 3


def test_a_write_acknowledges_nothing_that_a_later_write_replaces() -> None:
    """The entries of the first write come back by the third: only that one makes them durable (thesis 10.2.1)."""
    log = open_log(MemoryLog.of_terms(1))
    for sequence, term in ((1, 1), (2, 2), (3, 1)):
        log.append([data(2, term), data(3, term)])
        log.hand_out(sequence, max_bytes=EVERYTHING)
    assert log.persisted_through(1) == 1
    log.release(1)
    log.release(2)
    assert log.durable_index == 1
    log.release(3)
    assert log.durable_index == 3


def test_a_write_of_which_only_the_end_is_replaced_acknowledges_its_beginning() -> None:
    log = open_log(MemoryLog())
    log.append([data(1, 1), data(2, 1), data(3, 1)])
    log.hand_out(1, max_bytes=EVERYTHING)
    log.append([data(3, 2)])
    log.release(1)
    assert log.durable_index == 2
    assert log.has_unhanded


def test_a_large_tail_is_handed_out_and_durable_in_parts() -> None:
    log = open_log(MemoryLog())
    log.append([data(index, 1, size=100) for index in range(1, 6)])
    size = data(1, 1, size=100).size_bytes
    parts = []
    for sequence in range(1, 4):
        entries, _ = log.hand_out(sequence, max_bytes=2 * size)
        parts.append([entry.index for entry in entries])
    assert parts == [[1, 2], [3, 4], [5]]
    assert not log.has_unhanded
    log.release(1)
    assert log.durable_index == 2
    log.append([data(4, 2)])
    log.release(3)
    assert log.durable_index == 3


def test_an_entry_larger_than_the_bound_is_handed_out_alone() -> None:
    log = open_log(MemoryLog())
    log.append([data(1, 1, size=100), data(2, 1)])
    entries, _ = log.hand_out(1, max_bytes=10)
    assert [entry.index for entry in entries] == [1]
    assert (log.handed_index, log.has_unhanded) == (1, True)


def test_replacing_what_was_not_handed_out_forgets_it() -> None:
    log = open_log(MemoryLog())
    log.append([data(1, 1), data(2, 1)])
    log.append([data(2, 2)])
    entries, _ = log.hand_out(1, max_bytes=EVERYTHING)
    assert [(entry.index, entry.term) for entry in entries] == [(1, 1), (2, 2)]


def test_only_durable_entries_are_applied() -> None:
    disk = MemoryLog()
    log = open_log(disk)
    log.append([data(1, 1), data(2, 1)])
    log.commit_to(Index(2))
    assert not log.has_committed
    assert log.next_committed() == ()
    finish(log, disk)
    assert [entry.index for entry in log.next_committed()] == [1, 2]


def test_entries_that_are_not_durable_may_be_applied_where_that_is_asked_for() -> None:
    log = open_log(MemoryLog(), allow_unstable_apply=True)
    log.append([data(1, 1)])
    log.commit_to(Index(1))
    assert [entry.index for entry in log.next_committed()] == [1]


def test_what_is_handed_out_to_apply_is_bounded_until_it_is_applied() -> None:
    log = open_log(MemoryLog([data(index, 1, 36) for index in range(1, 6)]), max_applying_bytes=250)
    log.commit_to(Index(5))
    assert [entry.index for entry in log.next_committed()] == [1, 2]
    assert not log.has_committed
    log.applied_to(Index(1), size_bytes=100)
    assert [entry.index for entry in log.next_committed()] == [3]
    log.applied_to(Index(3), size_bytes=200)
    assert [entry.index for entry in log.next_committed()] == [4, 5]


def test_nothing_behind_a_limit_is_handed_out_to_apply() -> None:
    log = open_log(MemoryLog.of_terms(1, 1, 1))
    log.commit_to(Index(3))
    log.apply_limit = Index(1)
    assert [entry.index for entry in log.next_committed()] == [1]
    assert not log.has_committed
    log.apply_limit = None
    assert [entry.index for entry in log.next_committed()] == [2, 3]


def test_applying_beyond_the_commit_index_is_our_own_mistake() -> None:
    log = open_log(MemoryLog.of_terms(1, 1))
    with pytest.raises(InvariantError):
        log.applied_to(Index(1), size_bytes=0)


def test_a_snapshot_replaces_the_log_when_it_is_durable() -> None:
    disk = MemoryLog.of_terms(1, 1)
    log = open_log(disk)
    log.append([data(3, 1)])
    log.hand_out(1, max_bytes=EVERYTHING)
    log.restore(snapshot(10, 2))
    assert (log.commit, log.last_index, log.last_term, log.first_index) == (10, 10, 2, 11)
    assert log.snapshot_meta().index == 10
    assert not log.has_committed
    with pytest.raises(CompactedError):
        log.term(Index(2))
    with pytest.raises(CompactedError):
        log.slice(Index(2), Index(11), max_bytes=1)
    assert log.has_unhanded
    entries, handed = log.hand_out(2, max_bytes=EVERYTHING)
    assert (entries, handed) == ((), snapshot(10, 2))
    assert log.hand_out(3, max_bytes=EVERYTHING) == ((), None)
    assert log.release(1) is None
    assert log.has_pending_snapshot
    disk.install(snapshot(10, 2))
    assert log.release(2) == snapshot(10, 2)
    assert (log.applied, log.durable_index, log.has_pending_snapshot) == (10, 10, False)


def test_what_a_snapshot_overtook_does_not_count_as_waiting_to_be_applied() -> None:
    disk = MemoryLog.of_terms(1, 1)
    log = open_log(disk, max_applying_bytes=100)
    log.commit_to(Index(2))
    assert len(log.next_committed()) == 1
    log.restore(snapshot(10, 2))
    log.append([data(11, 3), data(12, 3)])
    log.commit_to(Index(12))
    entries, _ = log.hand_out(1, max_bytes=EVERYTHING)
    disk.install(snapshot(10, 2))
    disk.write(entries)
    log.release(1)
    assert [entry.index for entry in log.next_committed()] == [11]
    log.applied_to(Index(11), size_bytes=64)
    assert [entry.index for entry in log.next_committed()] == [12]


def test_a_newer_snapshot_takes_the_place_of_one_that_is_being_written() -> None:
    log = open_log(MemoryLog())
    log.restore(snapshot(10, 2))
    log.hand_out(1, max_bytes=EVERYTHING)
    log.restore(snapshot(20, 2))
    assert log.release(1) is None
    assert log.hand_out(2, max_bytes=EVERYTHING) == ((), snapshot(20, 2))
    assert log.release(2) == snapshot(20, 2)


def test_a_snapshot_that_is_not_ahead_is_our_own_mistake() -> None:
    log = open_log(MemoryLog.of_terms(1, 1))
    log.commit_to(Index(2))
    with pytest.raises(InvariantError):
        log.restore(snapshot(2, 1))
