"""Hostile bytes: every decoder of the partition answers with its value or with CorruptBatchError, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupName
from logbroker.partition.checkpoint import decode
from logbroker.partition.commands import (
    MAX_NUMBER,
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Cause,
    Change,
    CreateGroup,
    Dedupe,
    DeleteGroup,
    DeliverAt,
    Expire,
    Extend,
    Floor,
    ForgetSource,
    Lease,
    Moved,
    MoveIn,
    MoveOut,
    Nack,
    Pause,
    Purge,
    Ranges,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    decode_changes,
    decode_floor,
    encode_changes,
    encode_floor,
)
from tests.unit.partition.test_checkpoint import pack, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = st.integers(0, MAX_NUMBER)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(GroupName)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
RANGES: st.SearchStrategy[Ranges] = st.lists(NUMBERS, min_size=2, max_size=12, unique=True).map(
    lambda numbers: tuple(zip(sorted(numbers)[0::2], sorted(numbers)[1::2], strict=False))
)
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(CreateGroup, NAMES, NUMBERS),
    st.builds(DeleteGroup, NAMES),
    st.builds(Lease, NAMES, RANGES, NUMBERS, TEXTS, NUMBERS, NUMBERS),
    st.builds(Ack, NAMES, NUMBERS, RANGES),
    st.builds(Nack, NAMES, NUMBERS, RANGES, NUMBERS, TEXTS),
    st.builds(Extend, NAMES, NUMBERS, RANGES, NUMBERS),
    st.builds(Release, NAMES, NUMBERS),
    st.builds(Expire, NAMES, RANGES),
    st.builds(Rewind, NAMES, NUMBERS, NUMBERS, TEXTS),
    st.builds(SkipTo, NAMES, NUMBERS, NUMBERS, TEXTS),
    st.builds(Bury, NAMES, NUMBERS, RANGES, st.sampled_from(Cause), TEXTS),
    st.builds(BuryExpired, NAMES, RANGES, TEXTS),
    st.builds(Revive, NAMES, RANGES),
    st.builds(BuryOld, NAMES, NUMBERS),
    st.builds(RewindFloor, NUMBERS),
    st.builds(Pause, NAMES, TEXTS, NUMBERS),
    st.builds(Resume, NAMES),
    st.builds(Purge, NAMES, NUMBERS, NUMBERS, TEXTS),
    st.builds(DeliverAt, st.integers(0, MAX_NUMBER // 100).map(lambda number: number * 100)),
    st.builds(Cancel, RANGES),
    st.builds(MoveOut, NAMES, RANGES, NUMBERS),
    st.builds(Moved, NAMES, NUMBERS, NUMBERS, st.booleans()),
    st.builds(MoveIn, NUMBERS, NUMBERS, st.booleans()),
    st.builds(ForgetSource, NUMBERS),
    st.builds(
        lambda window_ms, max_count, count: Dedupe(window_ms, max_count, bytes(16 * count), bytes(8 * count)),
        st.integers(1, MAX_NUMBER),
        st.integers(1, MAX_NUMBER),
        st.integers(1, 5),
    ),
)
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def value_or_corrupt(decoder: Callable[[bytes], object], data: bytes) -> None:
    with suppress(CorruptBatchError):
        decoder(data)


@given(st.lists(CHANGES, max_size=8))
def test_changes_come_back_as_they_were(changes: list[Change]) -> None:
    assert decode_changes(encode_changes(changes)) == tuple(changes)


@given(NUMBERS, NUMBERS)
def test_a_floor_comes_back_as_it_was(start_offset: int, start_index: int) -> None:
    floor = Floor(start_offset, start_index)
    assert decode_floor(encode_floor(floor)) == floor


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_named(data: bytes) -> None:
    for decoder in (decode_changes, decode_floor, decode):
        value_or_corrupt(decoder, data)


@given(JSON_LIKE)
def test_any_msgpack_is_taken_or_named(value: object) -> None:
    data = msgspec.msgpack.encode(value)
    value_or_corrupt(decode_changes, data)
    value_or_corrupt(decode_floor, data)
    value_or_corrupt(decode, sealed(pack([1, b""]), data))


@given(st.lists(CHANGES, min_size=1, max_size=4), st.data())
def test_cut_changes_are_named(changes: list[Change], data: st.DataObject) -> None:
    payload = encode_changes(changes)
    with pytest.raises(CorruptBatchError):
        decode_changes(payload[: data.draw(st.integers(0, len(payload) - 1))])


@given(st.lists(CHANGES, min_size=1, max_size=4), st.data())
def test_flipped_bits_are_taken_or_named(changes: list[Change], data: st.DataObject) -> None:
    payload = bytearray(encode_changes(changes))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    value_or_corrupt(decode_changes, bytes(payload))


SMALL = st.integers(0, 12)
RUN = st.tuples(SMALL, SMALL, st.integers(0, 7), SMALL, SMALL, SMALL, SMALL)
SECTIONS = st.one_of(
    st.tuples(st.just(1), *[SMALL] * 7),
    st.tuples(
        st.just(2),
        st.lists(st.tuples(SMALL, SMALL, st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=2), SMALL), max_size=2),
    ),
    st.tuples(st.just(3), st.lists(st.tuples(SMALL, SMALL), max_size=3)),
    st.tuples(st.just(4), st.just("default"), SMALL, SMALL, st.just([])),
    st.tuples(st.just(5), st.lists(RUN, max_size=3)),
    st.tuples(
        st.just(6),
        st.lists(st.tuples(SMALL, st.lists(st.tuples(SMALL, SMALL), max_size=2), SMALL, st.just("c"), SMALL, SMALL)),
    ),
    st.tuples(st.just(7), st.tuples(st.just("r"), SMALL, SMALL)),
    st.tuples(
        st.just(11),
        st.lists(
            st.tuples(SMALL, SMALL, st.just("default"), st.lists(st.tuples(SMALL, SMALL), max_size=2)), max_size=2
        ),
    ),
    st.tuples(st.just(12), st.lists(st.tuples(SMALL, SMALL, st.booleans()), max_size=3)),
)


@given(st.lists(SECTIONS, max_size=5))
def test_sealed_sections_that_almost_make_sense_are_taken_or_named(sections: list[object]) -> None:
    """The seal keeps chance out; this is what a peer could send that seals what it likes."""
    head = [1, 7, 3, 2, 12, 0, 1, 5]
    value_or_corrupt(decode, sealed(pack([1, b""]), pack(head), *[pack(section) for section in sections]))
