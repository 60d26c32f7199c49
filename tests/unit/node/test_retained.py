"""Bytes of batches are counted once each, whatever lies between them and however they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import Index, Offset
from logbroker.node import retained
from logbroker.node.retained import RetainedBytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class FakeLog:
    """Entry N + 1 has offset N and `sizes[N]` bytes."""

    def __init__(self, *sizes: int, first: int = 1) -> None:
        self.sizes = list(sizes)
        self.first = first

    def first_index(self) -> Index:
        return Index(self.first)

    def batch_sizes(self, start: Index) -> Iterator[tuple[Index, Offset, int]]:
        for at in range(start, len(self.sizes) + 1):
            yield Index(at), Offset(at - 1), self.sizes[at - 1]


def looked_at(log: FakeLog, *, step_bytes: int = 1) -> RetainedBytes:
    counted = RetainedBytes()
    assert counted.look(log, Index(len(log.sizes)), Offset(0), step_bytes=step_bytes)
    return counted


def test_what_holds_no_batch_does_not_count() -> None:
    counted = looked_at(FakeLog(10, 0, 20, 0, 30))
    assert [counted.held_bytes(Offset(start)) for start in range(6)] == [60, 60, 50, 50, 30, 30]
    assert [counted.first_offset_within(most) for most in (60, 59, 50, 49, 30, 29, 0)] == [0, 2, 2, 4, 4, 4, 4]


def test_only_what_is_new_is_looked_at_and_what_is_not_applied_waits() -> None:
    log = FakeLog(10, 20, 30)
    counted = RetainedBytes()
    counted.look(log, Index(2), Offset(0), step_bytes=1)
    assert counted.held_bytes(Offset(0)) == 30
    counted.note_proposed(Index(3), 30)
    counted.note_proposed(Index(4), 5)
    assert counted.held_bytes(Offset(0)) == 65
    counted.look(log, Index(3), Offset(1), step_bytes=1)
    assert counted.held_bytes(Offset(1)) == 55
    counted.forget_proposals()
    assert counted.held_bytes(Offset(1)) == 50


def test_a_large_log_is_counted_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "HEADS_PER_LOOK", 4)
    log, counted = FakeLog(*[1] * 10), RetainedBytes()
    assert [counted.look(log, Index(10), Offset(0), step_bytes=1) for _ in range(3)] == [False, False, True]
    assert counted.held_bytes(Offset(0)) == 10


def test_steps_are_known_and_no_more() -> None:
    counted = looked_at(FakeLog(*[10] * 10), step_bytes=30)
    assert [counted.first_offset_within(most) for most in (100, 99, 70, 69, 10, 9)] == [0, 3, 3, 6, 9, 9]
    assert [counted.held_bytes(Offset(start)) for start in (0, 2, 3, 9, 20)] == [100, 100, 70, 10, 10]


def test_a_gap_in_the_log_begins_anew() -> None:
    counted = looked_at(FakeLog(10, 20))
    assert counted.look(FakeLog(*[5] * 9, first=8), Index(9), Offset(7), step_bytes=1)
    assert counted.held_bytes(Offset(7)) == 10
    assert counted.first_offset_within(5) == 8
