"""What a flush pays to write 32 MiB of entries into a segment, through the page cache and past it.

    python -m tools.bench.segment_writes [folder]

The folder has to be on the disk that is asked about, not in memory. Medians of `ROUNDS` in turns, each into a file of
its own with its room reserved, as a flush finds it.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from logbroker.storage.disk import RealDisk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.storage.disk import Buffer, File

ROUNDS = 7
FLUSH_BYTES = 32 << 20
ENTRY_BYTES = 52_000
# Where the last flush ended: hardly ever with a block.
POSITION = 12_345


def main(arguments: Sequence[str]) -> None:
    buffers = [random.Random(number).randbytes(ENTRY_BYTES) for number in range(FLUSH_BYTES // ENTRY_BYTES)]
    ways = {"through the page cache": _through, "past it": _past}
    spent: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=arguments[1] if len(arguments) > 1 else None) as folder:
        disk = RealDisk(Path(folder))
        for number in range(ROUNDS):
            for name, write in ways.items():
                with disk.open(f"{number}-{name}", create=True) as file:
                    file.allocate(0, POSITION + FLUSH_BYTES)
                    began = time.perf_counter(), time.process_time()
                    write(file, buffers)
                    written = time.perf_counter(), time.process_time()
                    file.sync()
                    synced = time.perf_counter(), time.process_time()
                spent[name].append(
                    (written[0] - began[0], written[1] - began[1], synced[0] - written[0], synced[1] - written[1])
                )
    print(f"{FLUSH_BYTES >> 20} MiB in entries of {ENTRY_BYTES:,} bytes, ms: median of {ROUNDS}")
    print(f"{'':24}{'write':>8}{'its CPU':>10}{'sync':>8}{'its CPU':>10}")
    for name, rows in spent.items():
        write_s, write_cpu_s, sync_s, sync_cpu_s = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:24}{write_s * 1e3:8.1f}{write_cpu_s * 1e3:10.1f}{sync_s * 1e3:8.1f}{sync_cpu_s * 1e3:10.1f}")


def _through(file: File, buffers: Sequence[Buffer]) -> None:
    file.pwrite(buffers, POSITION)


def _past(file: File, buffers: Sequence[Buffer]) -> None:
    file.pwrite_uncached(buffers, POSITION)


if __name__ == "__main__":
    main(sys.argv)
