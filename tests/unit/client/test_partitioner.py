from __future__ import annotations

import pytest

from logbroker_client.partitioner import jump_hash, partition_of


@pytest.mark.parametrize(
    ("key", "bucket_count", "bucket"),
    # Shared by implementations in other languages.
    [(1, 1, 0), (42, 57, 43), (0xDEAD10CC, 1, 0), (0xDEAD10CC, 666, 361), (256, 1024, 520)],
)
def test_the_jump_hash_agrees_with_others(key: int, bucket_count: int, bucket: int) -> None:
    assert jump_hash(key, bucket_count) == bucket


@pytest.mark.parametrize(
    ("key", "partitions"),
    # (in 2, in 3, in 16, in 1,000); never to be changed: messages of a key would leave their partition.
    [
        (b"", (0, 2, 5, 472)),
        (b"customer-7", (0, 0, 8, 797)),
        (b"\x00\xff", (0, 2, 14, 568)),
    ],
)
def test_partitions_of_keys_are_fixed(key: bytes, partitions: tuple[int, int, int, int]) -> None:
    assert tuple(partition_of(key, count) for count in (2, 3, 16, 1000)) == partitions


def test_a_queue_of_one_partition_needs_no_hash() -> None:
    assert partition_of(b"any", 1) == 0


def test_growing_moves_keys_to_the_new_partition_alone() -> None:
    keys = [b"%d" % number for number in range(2000)]
    moved = 0
    for key in keys:
        before, after = partition_of(key, 4), partition_of(key, 5)
        assert after in (before, 4)
        moved += before != after
    assert 300 < moved < 500


def test_keys_spread_evenly() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(b"key-%d" % number, 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
