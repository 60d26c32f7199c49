"""Cost of remembering ids of messages: python -m tools.bench.dedupe [ids].

Nothing here waits, so processor time is what counts; memory is what the process has grown by.
"""

from __future__ import annotations

import gc
import sys
from functools import partial
from time import process_time
from typing import TYPE_CHECKING

from logbroker.ids import GroupId, Offset, ReplicaId
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Dedupe
from logbroker.partition.dedupe import DedupeWindow
from logbroker.partition.machine import PartitionMachine
from logbroker.record.batch import Record, encode_batch, read_batch
from logbroker.record.dedup_ids import DEDUP_HEADER, hash_records, id_hash

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_MS = 300_000
BATCH = 100


def timed(what: str, operations: int, work: Callable[[], object]) -> None:
    gc.collect()
    began = process_time()
    work()
    spent = process_time() - began
    print(f"{what:58} {operations:>9,} x {spent / operations * 1e6:12.2f} us")


def change_of(first: int, count: int, max_count: int) -> Dedupe:
    hashes = b"".join([id_hash(b"order-%d" % number) for number in range(first, first + count)])
    return Dedupe(WINDOW_MS, max_count, hashes, bytes(8 * count))


def memory_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def opening() -> None:
    """What the leader does more for a batch with ids than for one without."""
    for count in (1, BATCH, 1_000):
        records = [
            Record(b"v" * 100, headers=((DEDUP_HEADER, b"order-%d" % number),), timestamp_ms=1)
            for number in range(count)
        ]
        batch = encode_batch(records)
        timed(f"open a batch of {count:,} and hash its ids", 20, partial(_opened, batch, times=20))


def _opened(batch: bytes, *, times: int) -> None:
    for _ in range(times):
        hash_records(read_batch(batch).records)


def window(ids: int) -> None:
    changes = [change_of(number, BATCH, ids) for number in range(0, 2 * ids, BATCH)]
    gc.collect()
    before = memory_bytes()
    remembered = DedupeWindow()

    def take(start: int, end: int, *, at_ms: int) -> None:
        for number in range(start // BATCH, end // BATCH):
            remembered.take(changes[number], number * BATCH, at_ms)

    timed(f"remember new ids, {BATCH} in a batch, until there are {ids:,}", ids, lambda: take(0, ids, at_ms=1))
    print(f"{'memory':58} {(memory_bytes() - before) / len(remembered):24.0f} bytes an id")
    machine = PartitionMachine.new(GroupId(1))
    machine.next_offset = Offset(2 * ids)
    machine.append_ms = 1
    machine.dedupe = remembered
    timed("clone", 1, remembered.clone)
    timed("see duplicates", ids, lambda: take(0, ids, at_ms=1))
    timed("remember new ids in the place of the oldest", ids, lambda: take(ids, 2 * ids, at_ms=2))
    slices: list[bytes] = []
    meta = CheckpointMeta(ReplicaId(1), b"")
    machine.append_ms = 2
    timed("encode a checkpoint", 1, lambda: slices.extend(encode_slices(machine, meta)))
    data = b"".join(slices)
    print(f"{'checkpoint':58} {len(data) / ids:24.0f} bytes an id")
    timed("decode it", 1, lambda: decode(data))
    remembered.take(change_of(-1, 1, ids), 2 * ids, WINDOW_MS)
    timed("forget all but the newest, with one batch", 1, lambda: take(0, BATCH, at_ms=WINDOW_MS + 2))


def main() -> None:
    opening()
    window(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)


if __name__ == "__main__":
    main()
