"""What a group commit costs when it spans many partitions: run with `python -m tools.bench.group_commit`.

One entry of 4 KiB a partition and commit, through the real WAL on a real disk, each commit synced. The counts are
taken in turns (1, 16, 64, 1, 16, 64, ...), so that a machine whose speed drifts does not decide the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from logbroker.entry import EntryKind
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.disk import RealDisk
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.wal import WAL_DIRECTORY, Wal, WalOptions, first_state, make_ring_file
from logbroker.storage.wal_format import WalFrame, WalPosition, commit_size_bytes, entry_frame

PARTITIONS = (1, 16, 64)
PAYLOAD_BYTES = 4096


def _frames(partitions: int, index: int) -> list[WalFrame]:
    payload = bytes(PAYLOAD_BYTES)
    return [
        entry_frame(
            ReplicaId(group),
            seal_entry(
                EntryKind.DATA,
                group=GroupId(group),
                index=Index(index),
                term=Term(1),
                base_offset=Offset(index - 1),
                next_offset=Offset(index),
                append_ms=index,
                payload=payload,
            ),
        )
        for group in range(1, partitions + 1)
    ]


def _commit(wal: Wal, frames: list[WalFrame]) -> float:
    started = time.perf_counter()
    if not wal.fits(commit_size_bytes(frames)):
        wal.release(WalPosition(wal.position.use, 0))
        wal.roll()
    wal.commit(frames)
    return (time.perf_counter() - started) * 1e6


def main() -> None:
    """Print the median and 99th percentile for each number of partitions, and the ratio to one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=400, help="commits of each kind (default 400)")
    parser.add_argument("--directory", type=Path, default=None, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        disk = RealDisk(Path(folder))
        disk.mkdir(WAL_DIRECTORY)
        options = WalOptions()
        for number in range(1, options.initial_files + 1):
            make_ring_file(disk, number, options.file_bytes)
        wal = Wal(disk, options, first_state(options.initial_files), salt_crc=1)
        times: dict[int, list[float]] = {partitions: [] for partitions in PARTITIONS}
        for index in range(1, arguments.commits + 1):
            for partitions in PARTITIONS:
                times[partitions].append(_commit(wal, _frames(partitions, index)))
        wal.close()
    one = statistics.median(times[1])
    for partitions, taken in times.items():
        median = statistics.median(taken)
        p99 = statistics.quantiles(taken, n=100)[98]
        print(f"{partitions:3d} partitions: median {median:6.0f} us, p99 {p99:7.0f} us, {median / one:.2f} x one")


if __name__ == "__main__":
    main()
