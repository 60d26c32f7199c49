"""Kafka's integers inside a record: zigzag, then seven bits a byte, lowest first.

Numbers below `SMALL` come from tables, which is what makes the codec of `batch.py` fast in plain Python.
"""

from __future__ import annotations

from logbroker.errors import CorruptBatchError, InvalidArgumentError

SMALL = 1 << 14

INT_BITS = 32
LONG_BITS = 64


def _encode(raw: int) -> bytes:
    encoded = bytearray()
    while raw > 0x7F:
        encoded.append(raw & 0x7F | 0x80)
        raw >>= 7
    encoded.append(raw)
    return bytes(encoded)


VARINT = [_encode(number << 1) for number in range(SMALL)]
"""The encoding of each number from 0 to SMALL - 1."""


def encode_varint(number: int) -> bytes:
    """Encode a signed number of up to 64 bits.

    Raises:
        InvalidArgumentError: it takes more bits.
    """
    if 0 <= number < SMALL:
        return VARINT[number]
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgumentError(f"number {number} takes more than 64 bits")
    return _encode(number << 1 if number >= 0 else -(number << 1) - 1)


def read_varint(data: bytes, position: int, *, bits: int = INT_BITS) -> tuple[int, int]:
    """Read a signed number of up to `bits` bits at `position`; give it and the position after it.

    Raises:
        CorruptBatchError: it takes more bits, or more bytes than it needs.
        IndexError: `data` ends within it. The caller knows what it was reading and says so.
    """
    raw = data[position]
    position += 1
    if raw > 0x7F:
        raw, position = _read_long(data, position, raw & 0x7F, bits)
    return (raw >> 1) ^ -(raw & 1), position


def _read_long(data: bytes, position: int, raw: int, bits: int) -> tuple[int, int]:
    shift = 7
    while (byte := data[position]) > 0x7F and shift < bits:
        raw |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    raw |= byte << shift
    position += 1
    if raw >> bits:
        raise CorruptBatchError(f"number before byte {position} takes more than {bits} bits")
    if byte == 0:
        raise CorruptBatchError(f"number before byte {position} takes more bytes than it needs")
    return raw, position
