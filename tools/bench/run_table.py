"""Cost of the run table with many messages in flight: python -m tools.bench.run_table [messages].

Nothing here waits, so processor time is what counts, and a busy machine does not change the figures much.
"""

from __future__ import annotations

import gc
import random
import sys
from time import process_time
from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, Offset, Term, lease_id
from logbroker.partition.commands import Ack, Lease, encode_changes
from logbroker.partition.decide import Propose, decide_expire, decide_receive
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.runs import Run, RunState, RunTable
from logbroker.record.batch import encode_values, stamp

if TYPE_CHECKING:
    from collections.abc import Callable

HIDE_MS = 30_000


def timed(what: str, operations: int, work: Callable[[], object]) -> None:
    gc.collect()
    began = process_time()
    work()
    spent = process_time() - began
    print(f"{what:58} {operations:>9,} x {spent / operations * 1e6:10.2f} us")


def lease_each(group: ConsumerGroup, count: int, size: int) -> None:
    for i in range(count):
        change = Lease(DEFAULT_GROUP, ((i * size, i * size + size),), HIDE_MS + i // 100, "bench", 1, i)
        group.lease(change, lease=lease_id(Index(i + 1), 0), append_ms=0, next_offset=count * size)


def fresh_leases() -> None:
    table = RunTable(0)

    def put_each() -> None:
        for i in range(10_000):
            table.put([Run(i * 1000, i * 1000 + 1000, RunState.LEASED, 1, HIDE_MS + i // 100, i + 1, 5)])

    timed("table alone: lease 1,000 fresh messages as one run", 10_000, put_each)

    def ack_runs() -> None:
        for i in range(10_000):
            table.put([Run(i * 1000, i * 1000 + 1000, RunState.ACKED)])

    timed("table alone: ack such a run, in order", 10_000, ack_runs)
    group = ConsumerGroup.new(DEFAULT_GROUP, 0)
    timed("lease 1,000 fresh messages as one run", 10_000, lambda: lease_each(group, 10_000, 1_000))

    def ack_each() -> None:
        for i in range(10_000):
            group.ack(lease_id(Index(i + 1), 0), ((i * 1000, i * 1000 + 1000),), log_start=0)

    timed("ack 1,000 messages of one lease, in order", 10_000, ack_each)


def one_by_one(messages: int) -> None:
    group = ConsumerGroup.new(DEFAULT_GROUP, 0)
    timed("lease one message", messages, lambda: lease_each(group, messages, 1))
    timed("clone", 1, group.clone)
    order = list(range(messages))
    random.Random(7).shuffle(order)

    def ack_random() -> None:
        for i in order[: messages // 2]:
            group.ack(lease_id(Index(i + 1), 0), ((i, i + 1),), log_start=0)

    timed("ack one message at random, half of them", messages // 2, ack_random)


def through_the_machine(messages: int) -> None:
    machine = PartitionMachine.new(GroupId(1))

    def apply(kind: EntryKind, payload: bytes, now_ms: int, count: int = 0) -> None:
        base = machine.next_offset
        index = Index(machine.applied_index + 1)
        machine.apply(Entry(kind, GroupId(1), index, Term(1), base, Offset(base + count), now_ms, payload))

    batch = encode_values([b"x"] * 10_000, timestamp_ms=0)
    for _ in range(messages // 10_000):
        apply(EntryKind.DATA, stamp(batch, machine.next_offset, 1), 0, 10_000)

    def receive(count: int, times: int, now_ms: int) -> None:
        for _ in range(times):
            chosen = decide_receive(
                machine, DEFAULT_GROUP, max_count=count, hide_ms=HIDE_MS, now_ms=now_ms, consumer="bench"
            )
            if isinstance(chosen, Propose):
                apply(EntryKind.STATE, encode_changes(chosen.changes), now_ms)

    timed("decide and apply a receive of one", messages, lambda: receive(1, messages, 0))
    first = machine.applied_index - messages + 1
    odd = [i for i in range(messages) if i % 2]

    def ack_odd() -> None:
        for i in odd:
            change = Ack(DEFAULT_GROUP, lease_id(Index(first + i), 0), ((i, i + 1),))
            apply(EntryKind.STATE, encode_changes((change,)), 1)

    timed("apply an ack of every second one", len(odd), ack_odd)
    timed("clone the machine", 1, machine.clone)
    timed("first receive of one from what has run out", 1, lambda: receive(1, 1, HIDE_MS))
    timed("next receives of one from what has run out", 1_000, lambda: receive(1, 1_000, HIDE_MS))
    timed("receives of 1,000 scattered ones that have run out", 100, lambda: receive(1_000, 100, HIDE_MS))

    def expire() -> None:
        while changes := decide_expire(machine, now_ms=HIDE_MS):
            apply(EntryKind.STATE, encode_changes(changes), HIDE_MS)

    left = machine.status(DEFAULT_GROUP).leased_count - 101_000
    timed("expire what is left, a message", max(left, 1), expire)
    timed("receive of one from 1,000 times 1,000 scattered ones", 1_000, lambda: receive(1, 1_000, HIDE_MS))
    timed("digest", 1, machine.digest)


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    fresh_leases()
    one_by_one(messages)
    through_the_machine(messages)


if __name__ == "__main__":
    main()
