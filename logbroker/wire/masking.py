"""The mask that RFC 6455 puts on what clients send: every byte XOR one of four.

In plain Python it costs 0.8 us a KiB on each side. The C function of the `websockets` wheel costs a thirtieth of that,
and is used where that wheel is installed (the extra `speed`), once it has shown that it gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

MASK_BYTES = 4

Buffer: TypeAlias = bytes | bytearray | memoryview
Mask: TypeAlias = Callable[[Buffer, bytes], bytes]

# For each byte of a key, what becomes of every byte.
_TABLES = [bytes([byte ^ key for byte in range(256)]) for key in range(256)]
# Up to this one big number is the fastest, above it four strides are.
_SHORT_BYTES = 512


def mask_in_python(data: Buffer, key: bytes) -> bytes:
    """Apply a key of four bytes to data, or take it off again. `data` is contiguous; the result is new."""
    size = len(data)
    if size <= _SHORT_BYTES:
        keys = key * (size // MASK_BYTES) + key[: size % MASK_BYTES]
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    masked = bytearray(data)
    for stride, byte in enumerate(key):
        masked[stride::MASK_BYTES] = masked[stride::MASK_BYTES].translate(_TABLES[byte])
    return bytes(masked)


def choose(candidate: Mask | None) -> Mask:
    """`candidate` if it does what `mask_in_python` does, on every alignment and kind of buffer; else that one."""
    if candidate is None:
        return mask_in_python
    sample = bytes(range(256)) * 3
    for key in (b"\x00\x00\x00\x00", b"\x01\x80\xfe\x37"):
        for start, end in ((0, 0), (0, 1), (1, 8), (3, 67), (0, 768), (5, 700)):
            for buffer in (sample[start:end], bytearray(sample[start:end]), memoryview(sample)[start:end]):
                try:
                    masked = candidate(buffer, key)
                except Exception:
                    # Whatever it is, it is not what is wanted here, and its absence does no harm.
                    return mask_in_python
                if type(masked) is not bytes or masked != mask_in_python(buffer, key):
                    return mask_in_python
    return candidate


def _find() -> Mask | None:
    try:
        from websockets.speedups import apply_mask  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        return None
    found: Mask = apply_mask
    return found


mask: Mask = choose(_find())
"""Apply a key of four bytes to data, or take it off again."""

is_native = mask is not mask_in_python
