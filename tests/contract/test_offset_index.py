"""What every offset index answers, asked of the one on disk and of its twin in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logbroker.errors import InvariantError
from logbroker.ids import GroupId, Index, Offset, ReplicaId
from logbroker.storage.index import DictIndex, IndexRow, LmdbIndex, OffsetIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

G, R = GroupId(7), ReplicaId(70)
# Neighbours in the order of keys on both sides, which no answer may come from.
NEIGHBOURS = ((GroupId(6), ReplicaId(70)), (GroupId(7), ReplicaId(69)), (GroupId(7), ReplicaId(71)), (GroupId(8), R))


@pytest.fixture(params=["dictionary", "lmdb"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OffsetIndex]:
    made: OffsetIndex = (
        DictIndex() if request.param == "dictionary" else LmdbIndex.open(tmp_path / "index", map_size_bytes=1 << 24)
    )
    yield made
    made.close()


def row(index: int, offset: int, time: int) -> IndexRow:
    return IndexRow(Index(index), Offset(offset), time, Index(index - index % 100), index * 10)


ROWS = [row(10, 100, 1000), row(20, 100, 1000), row(30, 150, 1000), row(110, 200, 2000)]


def filled(index: OffsetIndex) -> OffsetIndex:
    for group, replica in NEIGHBOURS:
        index.add(group, replica, [row(1, 1, 1), row(15, 120, 1200), row(1000, 5000, 9000)])
    index.add(G, R, ROWS)
    return index


def test_a_new_index_is_empty_and_says_that_it_is_to_be_filled(index: OffsetIndex) -> None:
    assert index.rebuilt
    assert index.floor_by_index(G, R, Index(5)) is None
    assert index.floor_by_offset(G, R, Offset(5)) is None
    assert index.last_before_time(G, R, 5) is None
    assert index.count(G, R) == 0
    assert index.take_damaged() == frozenset()


@pytest.mark.parametrize(
    ("asked", "found"), [(0, None), (9, None), (10, 10), (19, 10), (20, 20), (109, 30), (110, 110), (10**9, 110)]
)
def test_the_floor_by_index_is_the_last_row_at_or_below(index: OffsetIndex, asked: int, found: int | None) -> None:
    answer = filled(index).floor_by_index(G, R, Index(asked))
    assert answer == next((row for row in ROWS if row.index == found), None)


@pytest.mark.parametrize(
    ("asked", "found"), [(0, None), (99, None), (100, 20), (149, 20), (150, 30), (199, 30), (200, 110), (10**9, 110)]
)
def test_the_floor_by_offset_is_the_last_row_at_or_below(index: OffsetIndex, asked: int, found: int | None) -> None:
    answer = filled(index).floor_by_offset(G, R, Offset(asked))
    assert answer == next((row for row in ROWS if row.index == found), None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [(-5, None), (0, None), (1000, None), (1001, 30), (2000, 30), (2001, 110), (10**15, 110), (1 << 70, 110)],
)
def test_the_last_before_a_time_lies_strictly_before_it(index: OffsetIndex, asked: int, found: int | None) -> None:
    answer = filled(index).last_before_time(G, R, asked)
    assert answer == next((row for row in ROWS if row.index == found), None)


def test_the_greatest_numbers_have_answers(index: OffsetIndex) -> None:
    last = IndexRow(Index((1 << 64) - 1), Offset((1 << 64) - 1), (1 << 64) - 1, Index((1 << 64) - 1), (1 << 64) - 1)
    index.add(G, R, [last])
    assert index.floor_by_index(G, R, Index((1 << 64) - 1)) == last
    assert index.floor_by_offset(G, R, Offset((1 << 64) - 1)) == last
    assert index.floor_by_offset(G, R, Offset(1 << 64)) == last
    assert index.last_before_time(G, R, 1 << 64) == last
    assert index.last_before_time(G, R, (1 << 64) - 1) is None


def test_a_lone_replica_at_the_end_of_the_tables_is_found(index: OffsetIndex) -> None:
    index.add(G, R, ROWS)
    assert index.floor_by_index(G, R, Index(500)) == ROWS[3]
    assert index.floor_by_index(GroupId(6), R, Index(500)) is None
    assert index.floor_by_index(GroupId(8), R, Index(500)) is None
    index.truncate_after(GroupId(8), R, Index(0))
    assert index.count(G, R) == 4


def test_rows_of_many_replicas_are_added_together(index: OffsetIndex) -> None:
    index.add_many([(G, R, ROWS[:2]), (GroupId(8), ReplicaId(80), ROWS[:1]), (GroupId(9), ReplicaId(90), [])])
    index.add_many([])
    index.add_many([(G, R, ROWS[2:])])
    assert [index.count(GroupId(group), ReplicaId(group * 10)) for group in (7, 8, 9)] == [4, 1, 0]


def test_rows_from_the_first_added_one_on_are_replaced(index: OffsetIndex) -> None:
    filled(index)
    index.add(G, R, [row(25, 130, 1500)])
    assert index.count(G, R) == 3
    assert index.floor_by_index(G, R, Index(1000)) == row(25, 130, 1500)
    assert index.floor_by_offset(G, R, Offset(1000)) == row(25, 130, 1500)
    assert index.last_before_time(G, R, 10_000) == row(25, 130, 1500)
    index.add(G, R, [row(25, 131, 1501)])
    assert index.floor_by_offset(G, R, Offset(130)) == row(20, 100, 1000)


@pytest.mark.parametrize(
    "wrong", [row(10, 100, 1000), row(9, 101, 1001), row(11, 99, 1000), row(11, 100, 999)], ids=["twice", *"iot"]
)
def test_rows_out_of_order_are_refused(index: OffsetIndex, wrong: IndexRow) -> None:
    with pytest.raises(InvariantError, match="index rows out of order"):
        index.add(G, R, [row(10, 100, 1000), wrong])
    assert index.count(G, R) == 0


def test_rows_above_an_index_are_removed_from_every_answer(index: OffsetIndex) -> None:
    filled(index)
    index.truncate_after(G, R, Index(20))
    assert index.count(G, R) == 2
    assert index.floor_by_index(G, R, Index(1000)) == ROWS[1]
    assert index.floor_by_offset(G, R, Offset(1000)) == ROWS[1]
    assert index.last_before_time(G, R, 10_000) == ROWS[1]
    index.truncate_after(G, R, Index(0))
    assert index.count(G, R) == 0
    assert [index.count(*neighbour) for neighbour in NEIGHBOURS] == [3, 3, 3, 3]


def test_rows_below_an_index_are_removed_from_every_answer(index: OffsetIndex) -> None:
    filled(index)
    index.drop_before(G, R, Index(30))
    assert index.count(G, R) == 2
    assert index.floor_by_index(G, R, Index(29)) is None
    assert index.floor_by_offset(G, R, Offset(149)) is None
    assert index.last_before_time(G, R, 1000) is None
    assert index.floor_by_offset(G, R, Offset(150)) == ROWS[2]
    index.drop_before(G, R, Index(10_000))
    assert index.count(G, R) == 0
    assert [index.count(*neighbour) for neighbour in NEIGHBOURS] == [3, 3, 3, 3]


def test_all_rows_of_one_replica_are_dropped(index: OffsetIndex) -> None:
    filled(index)
    index.drop(G, R)
    index.drop(G, R)
    assert index.count(G, R) == 0
    assert index.floor_by_offset(G, R, Offset(1000)) is None
    assert [index.count(*neighbour) for neighbour in NEIGHBOURS] == [3, 3, 3, 3]


def test_removing_from_a_replica_without_rows_does_nothing(index: OffsetIndex) -> None:
    index.truncate_after(G, R, Index(5))
    index.drop_before(G, R, Index(5))
    index.drop(G, R)
    assert index.statistics().refused_writes == 0


def test_closing_twice_is_fine(index: OffsetIndex) -> None:
    index.close()
    index.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 30), st.integers(1, 6)),
        st.tuples(st.just("truncate"), st.integers(0, 2), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("drop_before"), st.integers(0, 2), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 2), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(steps)
def test_both_answer_alike(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]]) -> None:
    twin = DictIndex()
    path = tmp_path_factory.mktemp("index") / "lmdb"
    real = LmdbIndex.open(path, map_size_bytes=1 << 24)
    for action, replica_number, number, count in steps:
        replica = ReplicaId(replica_number)
        last = twin.floor_by_index(G, replica, Index(1000))
        # As in a log: offsets and times never fall with the index.
        first = min(number, last.index) if last is not None else number
        twin_floor = twin.floor_by_index(G, replica, Index(first - 1))
        offset, time = (twin_floor.base_offset, twin_floor.append_ms) if twin_floor is not None else (0, 0)
        rows = [row(first + 3 * i, offset + i // 2 * count, time + i // 3) for i in range(count)]
        for one in (twin, real):
            if action == "add":
                one.add(G, replica, rows)
            elif action == "truncate":
                one.truncate_after(G, replica, Index(number))
            elif action == "drop_before":
                one.drop_before(G, replica, Index(number))
            else:
                one.drop(G, replica)
    real.close()
    real = LmdbIndex.open(path, map_size_bytes=1 << 24)
    assert not real.rebuilt
    for replica in map(ReplicaId, range(3)):
        assert real.count(G, replica) == twin.count(G, replica)
        for number in range(70):
            assert real.floor_by_index(G, replica, Index(number)) == twin.floor_by_index(G, replica, Index(number))
            assert real.floor_by_offset(G, replica, Offset(number)) == twin.floor_by_offset(G, replica, Offset(number))
            assert real.last_before_time(G, replica, number) == twin.last_before_time(G, replica, number)
    real.close()
