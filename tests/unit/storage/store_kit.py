"""A node store with small files, and the steps that a driver takes with it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import GroupId, Index, NodeId, Offset, ReplicaId, Term
from logbroker.storage.checkpoints import CheckpointHeader
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.entry_codec import seal_entry
from logbroker.storage.index import DictIndex
from logbroker.storage.node_store import NodeStore, StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.recovery import open_store
from logbroker.storage.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.storage.ballast import Room
    from logbroker.storage.partition_log import PartitionLog
    from logbroker.storage.simulated_disk import SimulatedDisk

NODE = NodeId(1)
A = ReplicaId(11)
B = ReplicaId(12)
OPTIONS = StoreOptions(
    WalOptions(file_bytes=32 << 10, initial_files=3, max_files=5),
    LogOptions(segment_bytes=24 << 10, first_room_bytes=8 << 10, max_room_step_bytes=32 << 10),
    ballast_bytes=64 << 10,
    max_commit_bytes=8 << 10,
)


def entry(
    index: int,
    *,
    term: int = 1,
    group: int = A,
    size: int = 100,
    base: int | None = None,
    at_ms: int | None = None,
    kind: EntryKind = EntryKind.DATA,
) -> Entry:
    """Entry `index` of a group that has one message an entry, ten ms apart, unless told otherwise."""
    first = index - 1 if base is None else base
    return seal_entry(
        kind,
        group=GroupId(group),
        index=Index(index),
        term=Term(term),
        base_offset=Offset(first),
        next_offset=Offset(first + (kind is EntryKind.DATA)),
        append_ms=index * 10 if at_ms is None else at_ms,
        payload=bytes([group & 255, index & 255, term & 255]) * (size // 3),
    )


def entries(start: int, end: int, *, term: int = 1, group: int = A, size: int = 100) -> tuple[Entry, ...]:
    return tuple(entry(index, term=term, group=group, size=size) for index in range(start, end))


def open_at(disk: SimulatedDisk, *, options: StoreOptions = OPTIONS, index: DictIndex | None = None) -> NodeStore:
    return open_store(
        disk, options, node=NODE, open_index=lambda: index or DictIndex(), random_bytes=random.Random(7).randbytes
    )


def reopen(disk: SimulatedDisk, *, options: StoreOptions = OPTIONS) -> tuple[SimulatedDisk, NodeStore]:
    """The process ends without a word and starts again."""
    after = disk.kill()
    return after, open_at(after, options=options)


def commit(
    store: NodeStore,
    *writes: ReplicaWrite,
    births: Sequence[ReplicaId] = (),
    deaths: Sequence[ReplicaId] = (),
    mends: Sequence[ReplicaWrite] = (),
    room: Room | None = None,
    seals: bool = False,
) -> set[ReplicaId]:
    """One whole group commit; returns who was refused."""
    job = store.plan_commit(
        writes,
        births=[Birth(GroupId(replica), replica, b"conf") for replica in births],
        deaths=deaths,
        mends=mends,
        room=room,
        seals=seals,
    )
    assert job is not None
    job.run()
    return store.finish_commit(job)


def write(store: NodeStore, *new: Entry, replica: ReplicaId = A) -> None:
    assert commit(store, ReplicaWrite(replica, entries=new)) == set()


def flush(store: NodeStore) -> bool:
    """Run the planned flush, if there is one and it may run."""
    job = store.take_flush()
    if job is None:
        return False
    job.run()
    store.finish_flush(job)
    return True


def roll_and_flush(store: NodeStore) -> None:
    """Everything that is committed goes into segments."""
    store.request_roll()
    commit(store)
    assert flush(store)


def checkpoint(store: NodeStore, index: int, *, log_start: int = 1, replica: ReplicaId = A) -> None:
    log = store.replicas[replica].log
    header = CheckpointHeader(
        group=log.group,
        replica=replica,
        index=Index(index),
        term=log.term(Index(index)),
        log_start_offset=Offset(log_start - 1),
        log_start_index=Index(log_start),
        next_offset=Offset(index),
        append_ms=index * 10,
        conf=b"",
    )
    job = store.plan_checkpoint(replica, header, [b"state"])
    assert job is not None
    job.run()
    store.finish_checkpoint(job)


def held(log: PartitionLog) -> list[tuple[int, int]]:
    """(index, term) of everything that can be read."""
    found: list[tuple[int, int]] = []
    following = log.first_index()
    while following <= log.last_index():
        part = log.entries(following, Index(log.last_index() + 1), max_bytes=4096)
        found.extend((one.index, one.term) for one in part)
        following = Index(part[-1].index + 1)
    return found
