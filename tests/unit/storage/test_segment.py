"""Walking a file of committed entries, and going on behind a damaged head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import DamageError
from logbroker.ids import GroupId, Index, Term
from logbroker.storage.entry_codec import encoded_bytes
from logbroker.storage.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentReader,
    SegmentRow,
    encode_segment_header,
    segment_path,
    write_entries,
)
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.unit.storage.store_kit import A, B, entry

if TYPE_CHECKING:
    from logbroker.entry import Entry

DIRECTORY = "groups/11-11"
PATH = segment_path(DIRECTORY, Index(1))


def make(*sizes: int) -> tuple[SimulatedDisk, SegmentReader, list[Entry], list[int]]:
    """A segment of entries with these payload sizes; the positions have the end behind them."""
    disk = SimulatedDisk()
    disk.mkdir("groups")
    disk.mkdir(DIRECTORY)
    written = [entry(place + 1, size=size) for place, size in enumerate(sizes)]
    positions = [SEGMENT_HEADER_BYTES]
    for one in written:
        positions.append(positions[-1] + encoded_bytes(one))
    with disk.open(PATH, create=True) as file:
        file.pwrite([encode_segment_header(GroupId(A), A, Index(1))], 0)
        assert write_entries(file, SEGMENT_HEADER_BYTES, written) == positions[-1]
        # What was preallocated, or belongs to a flush that never was recorded.
        file.pwrite([b"\xaa" * 500], positions[-1])
    row = SegmentRow(Index(1), Index(len(sizes)), Term(1), positions[-1])
    return disk, SegmentReader(disk, DIRECTORY, row, GroupId(A)), written, positions


def walked(reader: SegmentReader, position: int = SEGMENT_HEADER_BYTES) -> list[tuple[int, int]]:
    return [(at, head.index) for at, head in reader.heads_from(position)]


def test_the_walk_ends_where_the_record_says() -> None:
    _, reader, _, positions = make(30, 0, 300)
    assert walked(reader) == [(positions[0], 1), (positions[1], 2), (positions[2], 3)]
    assert walked(reader, positions[2]) == [(positions[2], 3)]


def test_an_entry_is_read_by_its_position_alone() -> None:
    _, reader, written, positions = make(30, 0, 300)
    assert [reader.entry_at(at) for at in positions[:-1]] == written
    with pytest.raises(DamageError, match=PATH):
        reader.entry_at(positions[1] + 1)


@pytest.mark.parametrize("victims", [(1,), (2,), (1, 2)])
def test_a_walk_steps_over_damaged_heads(victims: tuple[int, ...]) -> None:
    disk, reader, _, positions = make(30, 90, 30, 30)
    for victim in victims:
        disk.flip_bit(PATH, positions[victim] + 9, 2)
    assert [index for _, index in walked(reader)] == [index for index in (1, 2, 3, 4) if index - 1 not in victims]


def test_entries_that_stand_behind_the_end_are_not_there() -> None:
    """A write that landed 512 bytes behind its place: each entry is whole, and the last ones end behind the segment."""
    disk, reader, written, positions = make(300, 300, 300, 300)
    with disk.open(PATH) as file:
        shifted = file.pread(positions[-1] - positions[1], positions[1])
        file.pwrite([b"\x55" * 512], positions[1])
        file.pwrite([shifted], positions[1] + 512)
    heads = reader.heads_from(SEGMENT_HEADER_BYTES)
    assert next(heads)[1].index == 1
    with pytest.raises(DamageError, match=f"entry {written[2].index} ends behind the segment's end"):
        next(heads)


def test_whole_entries_in_a_wrong_place_are_damage() -> None:
    """A write that landed elsewhere leaves entries behind that are intact and fit without a seam."""
    disk, reader, written, positions = make(30, 30, 30, 30)
    disk.scribble(PATH, positions[2], written[1].head + written[1].payload)
    assert [index for _, index in walked(reader)] == [1, 2, 4]
    disk, reader, written, positions = make(30, 30)
    disk.scribble(PATH, positions[0], written[1].head + written[1].payload)
    with pytest.raises(DamageError, match="does not belong there"):
        reader.head_at(positions[0])
    alien = entry(2, group=B, size=30)
    disk, reader, written, positions = make(30, 30, 30)
    disk.scribble(PATH, positions[1], alien.head + alien.payload)
    assert [index for _, index in walked(reader)] == [1, 3]


@pytest.mark.parametrize("victims", [(0,), (3,)])
def test_a_walk_ends_where_it_can_not_find_the_next_head(victims: tuple[int, ...]) -> None:
    """The first head or the last one: the index has rows to begin at behind the first."""
    disk, reader, _, positions = make(30, 90, 30, 30)
    for victim in victims:
        disk.flip_bit(PATH, positions[victim] + 9, 2)
    seen = []
    with pytest.raises(DamageError):
        seen.extend(walked(reader))
    assert [index for _, index in walked(reader, positions[3])] == [4] if 3 not in victims else True


def test_bytes_in_a_payload_that_look_like_the_next_head_are_not_believed() -> None:
    disk, reader, written, positions = make(30, 300, 30)
    decoy = bytes([1]) + bytes(3) + A.to_bytes(4, "big") + (3).to_bytes(8, "big") + bytes(40)
    disk.scribble(PATH, positions[1] + 100, decoy)
    disk.flip_bit(PATH, positions[1] + 9, 2)
    assert [index for _, index in walked(reader)] == [1, 3]
    assert reader.entry_at(positions[2]) == written[2]


def test_entries_are_read_to_about_the_limit_and_at_least_one() -> None:
    _, reader, written, positions = make(30, 30, 30)
    one = encoded_bytes(written[0])
    for limit, count in ((1, 1), (one, 1), (one + 1, 2), (2 * one, 2), (1 << 20, 3)):
        assert list(reader.entries_from(SEGMENT_HEADER_BYTES, max_bytes=limit)) == written[:count]
    assert list(reader.entries_from(positions[2], max_bytes=1 << 20)) == written[2:]
    assert list(reader.entries_from(positions[-1], max_bytes=1 << 20)) == []


def test_an_entry_larger_than_a_read_is_read_whole() -> None:
    _, reader, written, _ = make(30, 300_000, 30)
    assert list(reader.entries_from(SEGMENT_HEADER_BYTES, max_bytes=1 << 20)) == written


def test_a_damaged_payload_stops_the_read_behind_the_good_ones() -> None:
    disk, reader, written, positions = make(30, 90, 30)
    disk.flip_bit(PATH, positions[2] - 1, 0)
    with pytest.raises(DamageError, match="entry 2 of term 1"):
        list(reader.entries_from(SEGMENT_HEADER_BYTES, max_bytes=1 << 20))
    found: list[Entry] = []
    with pytest.raises(DamageError):
        found.extend(reader.entries_from(SEGMENT_HEADER_BYTES, max_bytes=1 << 20))
    assert found == written[:1]
    with pytest.raises(DamageError):
        reader.entry_at(positions[1])


def test_a_segment_that_was_cut_short_is_damage_not_an_end() -> None:
    disk, reader, _, positions = make(30, 90)
    disk.cut_short(PATH, positions[1] + 70)
    with pytest.raises(DamageError):
        list(reader.entries_from(positions[1], max_bytes=1 << 20))


def test_a_reader_opens_its_file_again_after_close() -> None:
    _, reader, written, positions = make(30)
    assert reader.entry_at(positions[0]) == written[0]
    reader.close()
    reader.close()
    assert reader.entry_at(positions[0]) == written[0]
