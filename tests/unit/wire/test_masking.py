from __future__ import annotations

import pytest

from logbroker.wire.masking import Buffer, choose, mask, mask_in_python


def xor(data: bytes, key: bytes) -> bytes:
    return bytes([byte ^ key[place % 4] for place, byte in enumerate(data)])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 63, 511, 512, 513, 514, 515, 516, 4096, 70_001])
def test_masking_is_what_the_rfc_says_and_undoes_itself(size: int) -> None:
    data, key = bytes(place * 7 % 256 for place in range(size)), b"\x00\x9f\x01\xfe"
    for apply in (mask, mask_in_python):
        assert apply(data, key) == xor(data, key)
        assert apply(bytearray(apply(memoryview(data), key)), key) == data


def test_a_native_function_that_does_the_same_is_taken() -> None:
    def native(data: Buffer, key: bytes) -> bytes:
        return xor(bytes(data), key)

    assert choose(native) is native
    assert choose(None) is mask_in_python


def wrong_at_the_end(data: Buffer, key: bytes) -> bytes:
    masked = xor(bytes(data), key)
    return masked if len(masked) < 700 else masked[:-1] + b"\0"


def other_type(data: Buffer, key: bytes) -> bytes:
    return bytearray(xor(bytes(data), key))  # type: ignore[return-value]  # the mistake that is tried


def bytes_alone(data: Buffer, key: bytes) -> bytes:
    if not isinstance(data, bytes):
        raise TypeError("only bytes")
    return xor(data, key)


def test_a_native_function_that_does_anything_else_is_left_alone() -> None:
    for candidate in (wrong_at_the_end, other_type, bytes_alone):
        assert choose(candidate) is mask_in_python
