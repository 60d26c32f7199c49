"""Which partition a key belongs to; every client in every language must agree.

The key's blake2b-64 digest, read as a big-endian number, goes through the jump consistent hash of
Lamping and Veach ("A Fast, Minimal Memory, Consistent Hash Algorithm", 2014): when a queue grows from
n to n + 1 partitions, one key in n + 1 moves, and only to the new one.
"""

from __future__ import annotations

from hashlib import blake2b

_MASK = (1 << 64) - 1
_MULTIPLIER = 2862933555777941757


def jump_hash(key: int, bucket_count: int) -> int:
    """The bucket, from 0, of a 64-bit `key`."""
    bucket, candidate = 0, 0
    while candidate < bucket_count:
        bucket = candidate
        key = (key * _MULTIPLIER + 1) & _MASK
        # In doubles, as in the paper: other clients compute the same.
        candidate = int((bucket + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return bucket


def partition_of(key: bytes, partition_count: int) -> int:
    """The partition of `key` in a queue of `partition_count` partitions."""
    if partition_count == 1:
        return 0
    return jump_hash(int.from_bytes(blake2b(key, digest_size=8).digest(), "big"), partition_count)
