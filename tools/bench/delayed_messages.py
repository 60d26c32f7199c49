"""Cost of messages for later in the state of one partition: python -m tools.bench.delayed_messages [messages].

Each case runs in a process of its own, so that memory is that case's alone: of one machine with one consumer group,
without the batches, which lie on disk. A leader keeps two such machines. Time is processor time.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from time import process_time

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, Offset, ReplicaId, Term
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Cancel, DeliverAt, encode_changes
from logbroker.partition.decide import Decision, Propose, decide_receive, due_time
from logbroker.partition.machine import PartitionMachine
from logbroker.record.batch import encode_values, stamp

DELAY_MS = 600_000
PER_S = 10_000
"""Messages that a stream sends in a second of log time."""

CASES = {
    "plain": "not delayed, batches of 100",
    "stream": "one delay, batches of 100, 10,000 a second",
    "single": "one delay, batches of one, 10,000 a second",
    "own": "a due time of its own each, batches of one",
}


class Partition:
    """Applies entries as a replica does, and remembers how long that took."""

    def __init__(self) -> None:
        self.machine = PartitionMachine.new(GroupId(1))
        self.spent_s = 0.0

    def apply(self, kind: EntryKind, payload: bytes, now_ms: int, count: int = 0) -> None:
        base = self.machine.next_offset
        index = Index(self.machine.applied_index + 1)
        entry = Entry(kind, GroupId(1), index, Term(1), base, Offset(base + count), now_ms, payload)
        began = process_time()
        self.machine.apply(entry)
        self.spent_s += process_time() - began

    def produce(self, batch: bytes, count: int, now_ms: int, delay_ms: int) -> None:
        if delay_ms:
            due_ms = due_time(delay_ms=delay_ms, deliver_at_ms=0, now_ms=now_ms, retention_s=1_296_000)
            self.apply(EntryKind.STATE, encode_changes((DeliverAt(due_ms),)), now_ms)
        self.apply(EntryKind.DATA, stamp(batch, self.machine.next_offset, 1), now_ms, count)


def run(case: str, messages: int) -> None:
    size = 100 if case in ("plain", "stream") else 1
    batch = encode_values([b"x"] * size, timestamp_ms=0)
    partition = Partition()
    began_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for first in range(0, messages, size):
        now_ms = 1_000 + first * 1_000 // PER_S
        # 100 ms apart, and in no order: more than a day for a million.
        delay_ms = DELAY_MS + first * 7_919 % messages * 100 if case == "own" else DELAY_MS
        partition.produce(batch, size, now_ms, 0 if case == "plain" else delay_ms)
    machine = partition.machine
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began_kib
    runs = len(machine.group(DEFAULT_GROUP).table)
    print(f"{CASES[case]}: {messages:,} messages, {runs:,} runs, {len(machine.schedule):,} of them scheduled")
    print(f"  memory                  {kib / 1024:8.1f} MiB, {kib * 1024 / messages:.0f} bytes a message")
    print(f"  apply                   {partition.spent_s / messages * 1e6:8.2f} us a message")
    _measure_rest(partition, case, messages)


def _measure_rest(partition: Partition, case: str, messages: int) -> None:
    machine = partition.machine
    began = process_time()
    slices = encode_slices(machine, CheckpointMeta(ReplicaId(1), b""))
    cloned_s = process_time() - began
    data = b"".join(slices)
    print(f"  clone for a checkpoint  {cloned_s * 1e3:8.2f} ms")
    print(f"  checkpoint              {len(data) / 1024:8.1f} KiB, {(process_time() - began) * 1e3:.0f} ms, in slices")
    began = process_time()
    decode(data)
    print(f"  read it                 {(process_time() - began) * 1e3:8.0f} ms")
    if case == "plain":
        return
    now_ms = machine.append_ms
    spent_s, count = partition.spent_s, min(100_000, messages // 2)
    for offset in range(0, 2 * count, 2):
        partition.apply(EntryKind.STATE, encode_changes((Cancel(((offset, offset + 1),)),)), now_ms)
    print(f"  cancel every second one {(partition.spent_s - spent_s) / count * 1e6:8.2f} us, {count:,} times")
    began, waiting = process_time(), machine.status(DEFAULT_GROUP).lag_count
    now_ms += DELAY_MS + 200 * messages
    while isinstance(chosen := _chosen(machine, now_ms), Propose):
        partition.apply(EntryKind.STATE, encode_changes(chosen.changes), now_ms)
    spent_s = process_time() - began
    print(f"  receive all, when due   {spent_s / max(1, waiting) * 1e6:8.2f} us a message, {waiting:,} messages")


def _chosen(machine: PartitionMachine, now_ms: int) -> Decision:
    return decide_receive(machine, DEFAULT_GROUP, max_count=1_000, hide_ms=30_000, now_ms=now_ms, consumer="bench")


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        run(sys.argv[2], messages)
        return
    for case in CASES:
        subprocess.run([sys.executable, "-m", "tools.bench.delayed_messages", str(messages), case], check=True)


if __name__ == "__main__":
    main()
