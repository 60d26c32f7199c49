"""The stand-in for Raft and the disk."""

from __future__ import annotations

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.memory.replica import MemoryLog, MemoryReplica
from logbroker.partition.commands import Floor, encode_floor
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.outcomes import Applied, FloorMoved, Produced
from logbroker.record.batch import encode_values, stamp

GROUP = GroupId(7)


def entry(index: int, base: int, count: int, *, kind: EntryKind = EntryKind.DATA, ms: int = 0) -> Entry:
    return Entry(kind, GROUP, Index(index), Term(1), Offset(base), Offset(base + count), ms, b"x" * 100)


def log_of(*entries: Entry) -> MemoryLog:
    log = MemoryLog()
    for one in entries:
        log.append(one, log_start=Offset(0))
    return log


def test_messages_are_found_by_offset_and_by_time() -> None:
    log = log_of(entry(1, 0, 3, ms=10), entry(2, 3, 0, kind=EntryKind.STATE, ms=15), entry(3, 3, 2, ms=20))
    assert [found.index for found in log.data_from(Offset(2), max_bytes=1 << 20)] == [1, 3]
    assert [found.index for found in log.data_from(Offset(3), max_bytes=1 << 20)] == [3]
    assert [log.index_of_offset(Offset(offset)) for offset in (0, 2, 3, 4, 5)] == [1, 1, 3, 3, 4]
    assert [log.first_offset_at(ms) for ms in (0, 10, 11, 20, 21)] == [(0, 10), (0, 10), (3, 20), (3, 20), None]
    assert log.last_index() == 3


def test_one_batch_is_given_however_large_it_is() -> None:
    log = log_of(entry(1, 0, 1), entry(2, 1, 1), entry(3, 2, 1))
    assert [found.index for found in log.data_from(Offset(0), max_bytes=1)] == [1]
    assert [found.index for found in log.data_from(Offset(0), max_bytes=330)] == [1, 2]


def test_a_floor_frees_what_lies_before_it_and_keeps_the_batch_that_holds_it() -> None:
    log = log_of(entry(1, 0, 3), entry(2, 3, 3))
    log.append(entry(3, 6, 0, kind=EntryKind.FLOOR), log_start=Offset(4))
    assert [found.index for found in log.data_from(Offset(0), max_bytes=1 << 20)] == [2]


def test_what_is_proposed_is_applied_in_the_same_step_and_told_to_the_service_first() -> None:
    told: list[object] = []

    class Service:
        def on_applied(self, entry: Entry, applied: object) -> None:
            told.append(entry.kind)

    machine = PartitionMachine.new(GROUP)
    replica = MemoryReplica(GROUP, machine, lambda: 50)
    replica.service = Service()
    batch = stamp(encode_values([b"a", b"b"], timestamp_ms=1), Offset(0), 1)
    replica.propose(
        EntryKind.DATA,
        batch,
        record_count=2,
        append_ms=replica.stamp_ms(),
        on_committed=told.append,
        on_lost=told.append,
    )
    assert told == [EntryKind.DATA, Applied(Index(1), (Produced(Offset(0), 2),), machine.groups)]
    assert (machine.next_offset, machine.append_ms, replica.core.last_index) == (2, 50, 1)
    replica.propose(
        EntryKind.FLOOR, encode_floor(Floor(Offset(2), Index(2))), append_ms=60, on_committed=told.append, on_lost=print
    )
    applied = told[-1]
    assert isinstance(applied, Applied)
    assert isinstance(applied.outcomes[0], FloorMoved)
    assert list(replica.log.data_from(Offset(0), max_bytes=1)) == []
    # Log time never goes back, whatever the clock says.
    assert replica.stamp_ms() == 60
