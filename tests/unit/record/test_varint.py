from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError, InvalidArgumentError
from logbroker.record.varint import INT_BITS, LONG_BITS, SMALL, encode_varint, read_varint
from tests import raw_batches

NUMBERS = [
    *(0, -1, 1, -2, 63, -64, 64, -65, 8191, -8192, 8192, -8193),
    *(SMALL - 1, SMALL, -SMALL, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 63) - 1, -(1 << 63)),
]


# Numbers and bytes of the zigzag table in the Protocol Buffers encoding guide, and the ends of our own.
@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\x00"),
        (-1, b"\x01"),
        (1, b"\x02"),
        (-2, b"\x03"),
        (63, b"\x7e"),
        (64, b"\x80\x01"),
        (0x7FFFFFFF, b"\xfe\xff\xff\xff\x0f"),
        (-0x80000000, b"\xff\xff\xff\xff\x0f"),
        (-(1 << 63), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ],
)
def test_numbers_are_zigzag_and_seven_bits_a_byte(number: int, encoded: bytes) -> None:
    assert encode_varint(number) == encoded


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_read_back_with_the_position_behind_it(number: int) -> None:
    encoded = encode_varint(number)
    assert encoded == raw_batches.varint(number)
    assert read_varint(b"x" + encoded + b"x", 1, bits=LONG_BITS) == (number, 1 + len(encoded))


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1])
def test_a_number_above_64_bits_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgumentError, match=str(number)):
        encode_varint(number)


@pytest.mark.parametrize(
    ("encoded", "bits"),
    [
        (b"\xfe\xff\xff\xff\x1f", INT_BITS),
        (b"\x80\x80\x80\x80\x80\x01", INT_BITS),
        (b"\xff" * 100, INT_BITS),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03", LONG_BITS),
        (b"\xff" * 100, LONG_BITS),
    ],
)
def test_a_number_with_too_many_bits_is_corrupt(encoded: bytes, bits: int) -> None:
    with pytest.raises(CorruptBatchError, match=f"more than {bits} bits"):
        read_varint(encoded, 0, bits=bits)


@pytest.mark.parametrize("encoded", [b"\x80\x00", b"\xfe\x00", b"\x80\x80\x80\x80\x00", b"\x80\x80\x80\x80\x80\x00"])
def test_a_number_in_more_bytes_than_it_needs_is_corrupt(encoded: bytes) -> None:
    with pytest.raises(CorruptBatchError, match="more bytes than it needs"):
        read_varint(encoded, 0)


@pytest.mark.parametrize("encoded", [b"", b"\x80", b"\x80\x80\x80"])
def test_a_number_that_is_cut_short_is_an_index_error_for_the_caller(encoded: bytes) -> None:
    with pytest.raises(IndexError):
        read_varint(encoded, 0)
