"""The byte form of an entry: what a hop must notice, and where a reader may go on."""

from __future__ import annotations

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupId, Index, Offset, Term
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_entry, decode_head, encoded_bytes, seal_entry

SEALED = seal_entry(
    EntryKind.DATA,
    group=GroupId(7),
    index=Index(9),
    term=Term(3),
    base_offset=Offset(40),
    next_offset=Offset(42),
    append_ms=1_700_000_000_000,
    payload=b"payload",
)
BYTES = SEALED.head + SEALED.payload


def test_an_entry_is_read_back_as_it_was_sealed() -> None:
    assert decode_entry(b"xx" + BYTES + b"yy", 2) == SEALED
    assert encoded_bytes(SEALED) == len(BYTES) == ENTRY_HEAD_BYTES + 7


def test_the_head_alone_tells_where_the_next_entry_begins() -> None:
    head = decode_head(BYTES[:ENTRY_HEAD_BYTES])
    assert (head.group, head.index, head.term, head.base_offset, head.next_offset) == (7, 9, 3, 40, 42)
    assert head.encoded_bytes == len(BYTES)


def test_the_bytes_are_those_of_the_format_page() -> None:
    assert SEALED.head[:52].hex() == (
        "01000000" "00000007" "0000000000000009" "0000000000000003" "0000000000000028" "000000000000002a"
        "0000018bcfe56800" "00000007"
    )  # fmt: skip


@pytest.mark.parametrize("at", range(len(BYTES)))
def test_a_flip_of_any_bit_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(BYTES)
        damaged[at] ^= 1 << bit
        with pytest.raises(CorruptBatchError, match="here"):
            decode_entry(damaged, place="here")


@pytest.mark.parametrize("kept", [0, 1, ENTRY_HEAD_BYTES - 1, ENTRY_HEAD_BYTES, len(BYTES) - 1])
def test_a_torn_entry_is_noticed(kept: int) -> None:
    with pytest.raises(CorruptBatchError, match="passes the end"):
        decode_entry(BYTES[:kept])


def test_a_damaged_payload_leaves_the_head_readable() -> None:
    damaged = BYTES[:-1] + b"!"
    assert decode_head(damaged).index == 9
    with pytest.raises(CorruptBatchError, match="entry 9 of term 3"):
        decode_entry(damaged)


@pytest.mark.parametrize(("kind", "base", "following"), [(0, 0, 0), (6, 0, 0), (1, 5, 4)])
def test_a_head_that_no_writer_makes_is_refused_though_its_checksum_holds(kind: int, base: int, following: int) -> None:
    made = seal_entry(
        kind,  # type: ignore[arg-type]  # a hostile writer's
        group=GroupId(1),
        index=Index(1),
        term=Term(1),
        base_offset=Offset(base),
        next_offset=Offset(following),
        append_ms=0,
        payload=b"",
    )
    with pytest.raises(CorruptBatchError, match=f"kind {kind} and offsets {base}..{following}"):
        decode_head(made.head)


def test_the_checksum_covers_where_the_entry_belongs() -> None:
    other = seal_entry(
        EntryKind.DATA,
        group=GroupId(8),
        index=SEALED.index,
        term=SEALED.term,
        base_offset=SEALED.base_offset,
        next_offset=SEALED.next_offset,
        append_ms=SEALED.append_ms,
        payload=SEALED.payload,
    )
    assert other.crc != SEALED.crc
