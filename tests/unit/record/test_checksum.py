from __future__ import annotations

import pytest

from logbroker.record.checksum import crc32c

ASCENDING = bytes(range(32))


# RFC 3720, appendix B.4, and the check value of the polynomial.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (ASCENDING, 0x46DD794E),
        (ASCENDING[::-1], 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum_is_castagnolis(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def test_a_checksum_continues_where_another_ended() -> None:
    assert crc32c(ASCENDING[10:], crc32c(ASCENDING[:10])) == crc32c(ASCENDING)


def test_every_kind_of_buffer_is_taken() -> None:
    assert crc32c(bytearray(ASCENDING)) == crc32c(memoryview(ASCENDING)) == crc32c(ASCENDING)
