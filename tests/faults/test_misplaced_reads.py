"""Reads that lead past something unreadable: refused, and the damage noted, where the answer could be another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import DamageError
from logbroker.ids import Index, Offset
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, segment_path
from tests.faults.reference import EVEN_PAYLOAD_BYTES, FLUSHED, MS, judge, make_reference, open_reference

if TYPE_CHECKING:
    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.simulated_disk import SimulatedDisk

ENTRY_BYTES = 60 + EVEN_PAYLOAD_BYTES
PAGE_BYTES = 4096
VICTIM = 5
REFERENCE = make_reference()
FIRST_SEGMENT = segment_path("groups/11-11", Index(1))


def with_damaged_head() -> SimulatedDisk:
    disk = REFERENCE.disk.copy()
    disk.flip_bit(FIRST_SEGMENT, SEGMENT_HEADER_BYTES + (VICTIM - 1) * ENTRY_BYTES + 20, 1)
    return disk


def opened(disk: SimulatedDisk) -> NodeStore:
    return open_reference(disk)


def test_the_reference_is_read_as_it_was_written() -> None:
    found = judge(REFERENCE.disk.copy(), REFERENCE)
    assert (found.wrong, found.has_noticed) == ("", False)


def test_an_offset_in_an_unreadable_entry_is_not_taken_for_one_of_the_next() -> None:
    log = opened(with_damaged_head()).replicas[FLUSHED].log
    lost = REFERENCE.replicas[FLUSHED].at(VICTIM)
    for offset in range(lost.base_offset, lost.next_offset):
        with pytest.raises(DamageError):
            log.index_of_offset(Offset(offset))
    assert VICTIM in log.state.damaged, "who met it has noted it, so that it is fetched"
    assert log.index_of_offset(lost.next_offset) == VICTIM + 1
    assert log.index_of_offset(Offset(lost.base_offset - 1)) == VICTIM - 1


def test_a_time_search_that_ends_behind_an_unreadable_entry_is_refused() -> None:
    log = opened(with_damaged_head()).replicas[FLUSHED].log
    with pytest.raises(DamageError):
        log.first_offset_at(VICTIM * MS)
    with pytest.raises(DamageError):
        log.last_before((VICTIM + 1) * MS)
    after = REFERENCE.replicas[FLUSHED].at(VICTIM + 2)
    assert log.first_offset_at(after.append_ms) == (after.base_offset, after.append_ms)
    assert log.last_before(after.append_ms) == VICTIM + 1


def test_the_last_entry_of_the_tail_is_not_taken_for_one_that_is_to_come() -> None:
    log = opened(REFERENCE.disk.copy()).replicas[FLUSHED].log
    last = log.last_index()
    log.state.damaged[last] = log.term(last)
    with pytest.raises(DamageError):
        log.index_of_offset(REFERENCE.replicas[FLUSHED].at(last).base_offset)
    with pytest.raises(DamageError):
        log.first_offset_at(last * MS)


def test_a_page_that_landed_on_its_neighbour_is_damage_and_no_endless_walk() -> None:
    disk = REFERENCE.disk.copy()
    with disk.open(FIRST_SEGMENT) as file:
        page = file.pread(PAGE_BYTES - SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES)
    # The entries fit without a seam, each with a valid checksum, and are other entries.
    disk.scribble(FIRST_SEGMENT, SEGMENT_HEADER_BYTES + 4 * ENTRY_BYTES, page[: 3 * ENTRY_BYTES])
    found = judge(disk, REFERENCE)
    assert found.wrong == ""
    assert found.damaged[FLUSHED].keys() >= {5, 6, 7}


def test_an_entry_of_another_group_is_never_given_out() -> None:
    disk = REFERENCE.disk.copy()
    with disk.open(segment_path("groups/14-14", Index(1))) as file:
        alien = file.pread(PAGE_BYTES, 0)
    disk.scribble(FIRST_SEGMENT, 0, alien)
    found = judge(disk, REFERENCE)
    assert found.wrong == ""
    assert Index(1) in found.damaged[FLUSHED]
