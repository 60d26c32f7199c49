"""What each stage of a message's path costs, and what this machine could do: `python -m tools.bench.budget`.

The stages are the real functions, called with a batch of 100 messages of 1 KiB, in CPU microseconds a batch and a
message. What is not here, and is found as the difference to what whole processes spend (`python -m tools.bench`), is
waking: the event loop, threads, sockets. The limits are of the kernel, the disk and the libraries.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio
import zstandard

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, Offset, ReplicaId, Term, lease_id
from logbroker.node.peer_messages import RaftMessage, decode_peer_message, encode_peer_message
from logbroker.partition.commands import Ack, Lease, encode_changes
from logbroker.partition.machine import PartitionMachine
from logbroker.raft.messages import Message, MessageKind
from logbroker.record.batch import DEFAULT_LIMITS, check_batch, decode_batch, encode_values, stamp
from logbroker.record.checksum import crc32c
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.wal_format import WalPosition, encode_commit, entry_frame
from logbroker.wire.requests import Produce, Produced, decode_request, encode_header
from tools.bench.payload import pool, tails
from tools.bench.payload import stamp as stamp_payload

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 100
SIZE_BYTES = 1024
_RUNS = 9
_RUN_SECONDS = 0.03
_APPLY_ROUNDS = 300
_TAG = b"bench123"


def cpu_us(work: Callable[[], object]) -> float:
    """Give the CPU microseconds of one call, the median of several runs."""
    started = time.process_time()
    work()
    repeats = max(1, int(_RUN_SECONDS / max(time.process_time() - started, 1e-6)))
    costs = []
    for _ in range(_RUNS):
        started = time.process_time()
        for _ in range(repeats):
            work()
        costs.append((time.process_time() - started) / repeats * 1e6)
    return statistics.median(costs)


def _entry(index: int, base_offset: int, kind: EntryKind, payload: bytes, count: int) -> Entry:
    return seal_entry(
        kind,
        group=GroupId(1),
        index=Index(index),
        term=Term(1),
        base_offset=Offset(base_offset),
        next_offset=Offset(base_offset + count),
        append_ms=index,
        payload=payload,
    )


def _apply_us(batch: bytes, *, rounds: int) -> tuple[float, float]:
    """What applying a batch costs, and what its lease and its ack do; each is applied once, in the order of a log."""
    machine = PartitionMachine.new(GroupId(1))
    spent = {EntryKind.DATA: 0.0, EntryKind.STATE: 0.0}
    index = 0

    def apply(entry: Entry) -> None:
        started = time.perf_counter()
        machine.apply(entry)
        spent[entry.kind] += time.perf_counter() - started

    for number in range(rounds):
        base = number * COUNT
        apply(_entry(index + 1, base, EntryKind.DATA, stamp(batch, Offset(base), 1), COUNT))
        lease = Lease(DEFAULT_GROUP, ((base, base + COUNT),), index + 10**6, "bench", 1, number)
        apply(_entry(index + 2, base + COUNT, EntryKind.STATE, encode_changes([lease]), 0))
        ack = Ack(DEFAULT_GROUP, lease_id(Index(index + 2), 0), ((base, base + COUNT),))
        apply(_entry(index + 3, base + COUNT, EntryKind.STATE, encode_changes([ack]), 0))
        index += 3
    return spent[EntryKind.DATA] / rounds * 1e6, spent[EntryKind.STATE] / rounds * 1e6


def stages() -> list[tuple[str, str, float]]:
    """Give (who, what, microseconds a batch)."""
    ends = tails(pool(SIZE_BYTES, count=COUNT))
    values = [stamp_payload(end, number, 1) for number, end in enumerate(ends)]
    batch = encode_values(values, timestamp_ms=1)
    entry = _entry(1, 0, EntryKind.DATA, stamp(batch, Offset(0), 1), COUNT)
    header = encode_header(Produce(1, queue="orders", partition=0))
    produced = Produced(1, base_offset=1_000_000, count=COUNT, append_ms=1)
    message = Message(
        MessageKind.APPEND, ReplicaId(2), ReplicaId(1), Term(1), Term(1), Index(0), Index(0), entries=(entry,)
    )
    wrapped = RaftMessage(GroupId(1), message)
    frame = encode_peer_message(wrapped, _TAG)
    place = WalPosition(1, 0)

    def commit() -> None:
        buffers = encode_commit(
            [entry_frame(ReplicaId(1), entry)],
            position=place,
            sequence=1,
            synced_through=place,
            left_at=place,
            salt_crc=1,
        )
        b"".join(buffers)

    applied_us, state_us = _apply_us(batch, rounds=_APPLY_ROUNDS)
    return [
        ("producer", "stamp the payload (the bench's own)", cpu_us(lambda: [stamp_payload(e, 1, 1) for e in ends])),
        ("producer", "encode and compress the batch", cpu_us(lambda: encode_values(values, timestamp_ms=1))),
        ("leader", "read the request's header", cpu_us(lambda: decode_request(header))),
        ("leader", "check the batch", cpu_us(lambda: check_batch(batch, DEFAULT_LIMITS))),
        ("leader", "give offset and term", cpu_us(lambda: stamp(batch, Offset(5), 1))),
        ("leader", "seal the entry", cpu_us(lambda: _entry(1, 0, EntryKind.DATA, batch, COUNT))),
        ("every node", "frame the commit", cpu_us(commit)),
        ("leader", "encode for one follower", cpu_us(lambda: encode_peer_message(wrapped, _TAG))),
        ("follower", "decode and check", cpu_us(lambda: decode_peer_message(frame, _TAG))),
        ("every node", "apply the batch", applied_us),
        ("leader", "make the reply's header", cpu_us(lambda: encode_header(produced))),
        ("every node", "apply a lease and an ack of the batch", state_us),
        ("consumer", "check, inflate and decode the batch", cpu_us(lambda: decode_batch(batch, DEFAULT_LIMITS))),
    ]


def limits(folder: Path) -> list[tuple[str, str]]:
    """Give (what, figure): what nobody on this machine can go below."""
    values = b"".join(pool(SIZE_BYTES, count=COUNT))
    squeezed = zstandard.ZstdCompressor(level=1).compress(values)
    block = bytearray(os.urandom(1 << 20))
    kib = len(values) / 1024
    one_core = [
        ("zstd level 1, 100 KiB of messages", cpu_us(lambda: zstandard.ZstdCompressor(level=1).compress(values)) / kib),
        ("inflating them", cpu_us(lambda: zstandard.ZstdDecompressor().decompress(squeezed)) / kib),
        ("CRC-32C", cpu_us(lambda: crc32c(block)) / 1024),
        ("a memory copy", cpu_us(lambda: bytes(block)) / 1024),
    ]
    found = [(title, f"{cost:.3f} us a KiB") for title, cost in one_core]
    found.append(("what zstd leaves of them", f"{len(squeezed) / len(values):.2f} of the size"))
    for size_bytes in (4096, 32_768, 262_144):
        p50_ms, p99_ms = _sync_ms(folder, size_bytes)
        found.append(
            (f"write and fdatasync {size_bytes // 1024} KiB in a full file", f"{p50_ms:.2f} ms, p99 {p99_ms:.2f}")
        )
    found.append(("a byte there and back through a loopback socket", f"{_echo_us():.0f} us"))
    found.append(("64 KiB through a loopback socket, both ends", f"{_transfer_us():.0f} us"))
    found.append(("a checkpoint of trio", f"{_checkpoint_us():.1f} us"))
    found.append(("waking a thread and being woken by it", f"{_thread_hop_us():.0f} us"))
    return found


def _sync_ms(folder: Path, size_bytes: int, *, count: int = 300) -> tuple[float, float]:
    data = os.urandom(size_bytes)
    taken = []
    path = folder / "sync"
    with path.open("wb") as file:
        file.write(bytes(size_bytes * 64))
        file.flush()
        os.fsync(file.fileno())
        for number in range(count):
            started = time.perf_counter()
            os.pwrite(file.fileno(), data, number % 64 * size_bytes)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1e3)
    path.unlink()
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def _echo_us(*, count: int = 2000) -> float:
    left, right = _loopback()
    with left, right:

        def echo() -> None:
            for _ in range(count):
                right.sendall(right.recv(1))

        thread = threading.Thread(target=echo)
        thread.start()
        started = time.perf_counter()
        for _ in range(count):
            left.sendall(b"x")
            left.recv(1)
        taken = time.perf_counter() - started
        thread.join()
    return taken / count * 1e6


def _transfer_us() -> float:
    left, right = _loopback()
    data, buffer = bytes(65_536), bytearray(65_536)
    with left, right:

        def move() -> None:
            left.sendall(data)
            have = 0
            while have < len(data):
                have += right.recv_into(buffer)

        return cpu_us(move)


def _loopback() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for end in (left, right):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return left, right


def _checkpoint_us(*, count: int = 20_000) -> float:
    async def run() -> float:
        started = time.perf_counter()
        for _ in range(count):
            await trio.lowlevel.checkpoint()
        return (time.perf_counter() - started) / count * 1e6

    return trio.run(run)


def _thread_hop_us(*, count: int = 2000) -> float:
    there, back = threading.Semaphore(0), threading.Semaphore(0)

    def answer() -> None:
        for _ in range(count):
            there.acquire()
            back.release()

    thread = threading.Thread(target=answer)
    thread.start()
    started = time.perf_counter()
    for _ in range(count):
        there.release()
        back.acquire()
    taken = time.perf_counter() - started
    thread.join()
    return taken / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.budget", description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    print(f"{'who':<11} {'what':<40} {'us a batch':>10} {'us a message':>13}")
    for who, what, cost in stages():
        print(f"{who:<11} {what:<40} {cost:10.1f} {cost / COUNT:13.3f}")
    print()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for what, figure in limits(Path(folder)):
            print(f"{what:<52} {figure}")


if __name__ == "__main__":
    main()
