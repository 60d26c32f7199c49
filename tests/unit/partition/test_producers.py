from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.partition.producers import (
    MAX_PRODUCERS,
    Duplicate,
    Fenced,
    Objection,
    OutOfOrder,
    Producers,
    ProducerState,
    last_sequence,
)


def record(
    producers: Producers, producer: int, sequence: int, *, epoch: int = 0, count: int = 1, offset: int = 0, at: int = 0
) -> None:
    assert judge(producers, producer, sequence, epoch=epoch, count=count) is None
    producers.record(producer, epoch=epoch, base_sequence=sequence, count=count, base_offset=offset, append_ms=at)


def judge(producers: Producers, producer: int, sequence: int, *, epoch: int = 0, count: int = 1) -> Objection | None:
    return producers.judge(producer, epoch=epoch, base_sequence=sequence, count=count)


def test_an_unknown_producer_begins_at_zero_in_any_epoch() -> None:
    assert judge(Producers(), 1, 0, epoch=5) is None
    assert judge(Producers(), 1, 1, epoch=5) == OutOfOrder(0)


def test_the_next_sequence_fits_and_no_other_does() -> None:
    producers = Producers()
    record(producers, 1, 0, count=3)
    assert judge(producers, 1, 3) is None
    assert judge(producers, 1, 4) == OutOfOrder(3)
    assert judge(producers, 1, 2) == OutOfOrder(3)


def test_a_duplicate_of_the_last_five_batches_names_the_first_copy() -> None:
    producers = Producers()
    for i in range(6):
        record(producers, 1, i * 2, count=2, offset=100 + i)
    assert [judge(producers, 1, i * 2, count=2) for i in range(6)] == [
        OutOfOrder(12),
        *[Duplicate(100 + i) for i in range(1, 6)],
    ]


def test_a_batch_that_only_begins_like_a_known_one_is_no_duplicate() -> None:
    producers = Producers()
    record(producers, 1, 0, count=2)
    assert judge(producers, 1, 0, count=1) == OutOfOrder(2)


def test_a_new_epoch_begins_at_zero_and_fences_the_old_one() -> None:
    producers = Producers()
    record(producers, 1, 0, epoch=1, offset=10)
    assert judge(producers, 1, 1, epoch=2) == OutOfOrder(0)
    record(producers, 1, 0, epoch=2, offset=11)
    assert judge(producers, 1, 1, epoch=1) == Fenced(2)
    assert judge(producers, 1, 0, epoch=2) == Duplicate(11)


def test_sequences_go_on_at_zero_after_the_largest() -> None:
    producers = Producers.decode([ProducerState(1, 0, ((0, 2**31 - 3, 0),), 0)])
    record(producers, 1, 2**31 - 2, count=4, offset=5)
    assert last_sequence(2**31 - 2, 4) == 1
    assert judge(producers, 1, 2**31 - 2, count=4) == Duplicate(5)
    assert judge(producers, 1, 2) is None


def test_the_least_recent_producer_makes_room() -> None:
    producers = Producers()
    for i in range(MAX_PRODUCERS):
        record(producers, i, 0, at=i)
    record(producers, 0, 1, at=MAX_PRODUCERS)
    record(producers, MAX_PRODUCERS, 0, at=MAX_PRODUCERS)
    assert len(producers) == MAX_PRODUCERS
    assert judge(producers, 0, 0) == Duplicate(0)
    # Forgotten: it would be a duplicate, and the next sequence would fit.
    assert judge(producers, 1, 0) is None
    assert judge(producers, 1, 1) == OutOfOrder(0)
    assert judge(producers, 2, 0) == Duplicate(0)


def test_what_is_decoded_goes_on_in_the_same_order() -> None:
    producers = Producers()
    for i in (3, 1, 2):
        record(producers, i, 0, at=i)
    # Log time never goes back: the machine gives it that way.
    states = sorted(producers.states(), key=lambda state: state.last_ms)
    assert list(Producers.decode(states).states()) == states


@pytest.mark.parametrize(
    ("states", "fault"),
    [
        ([ProducerState(1, 0, ((0, 0, 0),), 5), ProducerState(1, 0, ((0, 0, 0),), 6)], "producer 1 stands twice"),
        (
            [ProducerState(1, 0, ((0, 0, 0),), 5), ProducerState(2, 0, ((0, 0, 0),), 4)],
            "producer 2 stands twice or out",
        ),
        (
            [ProducerState(i, 0, ((0, 0, 0),), 0) for i in range(MAX_PRODUCERS + 1)],
            "10001 producers; the most is 10000",
        ),
    ],
)
def test_states_that_cannot_be_are_refused(states: list[ProducerState], fault: str) -> None:
    with pytest.raises(CorruptBatchError, match=fault):
        Producers.decode(states)
