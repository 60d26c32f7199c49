"""What can be done, on an operator's word, where a damaged entry has no other copy to be fetched from.

Only for a replica that is the only voter of its group, and only above its newest checkpoint: below it the state has
the entry's effect already, and readers are told `corrupt`. There nothing can be applied past the damage, so the group
stands still. A stand-in takes the entry's place: same index, same offsets, no effect. Of a lost batch the consumers
are told `corrupt`, message by message, and no offset is given out twice; of a lost change of state (leases, acks) every
later change is checked again when it is applied, so that at worst messages are delivered once more.

Where anything that a stand-in needs is not known for sure, nothing is done, and it says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import CorruptBatchError, DamageError, StorageError
from logbroker.ids import Index, Offset, Term
from logbroker.raft.log import UnavailableEntryError
from logbroker.raft.messages import ConfState
from logbroker.record.batch import HEADER_BYTES, unreadable_batch
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_head, seal_entry
from logbroker.storage.partition_log import UNKNOWN_TERM
from logbroker.storage.wal import WAL_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import GroupId, ReplicaId
    from logbroker.storage.disk import Disk
    from logbroker.storage.entry_codec import EntryHead
    from logbroker.storage.node_store import NodeStore, StoredReplica
    from logbroker.storage.partition_log import PartitionLog

MIN_BATCH_BYTES = HEADER_BYTES
MENDS_BYTES = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Step:
    """What was done for one entry, or why not. `kind` is that of the stand-in; `offsets` are half-open."""

    group: GroupId
    replica: ReplicaId
    index: Index
    term: Term
    refusal: str = ""
    kind: EntryKind = EntryKind.NOOP
    offsets: tuple[Offset, Offset] = (Offset(0), Offset(0))


class CannotRepairError(StorageError):
    """Something that a stand-in needs is not known."""

    code = "cannot_repair"


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a lost entry: its offsets and log time; `size_bytes` of its payload where it has its place."""

    index: Index
    term: Term
    kind: EntryKind
    base_offset: Offset
    next_offset: Offset
    append_ms: int
    size_bytes: int | None


def repair_store(store: NodeStore, *, is_alone: bool, gives_up_last: bool = False) -> list[Step]:
    """Put stand-ins where nothing else helps, durably; the store is flushed and may be closed then.

    `is_alone`: this node is the only one of its cluster, so that no lost entry can have added a voter elsewhere.
    `gives_up_last`: a lost last entry of which nothing is known, not even how many messages it had, becomes one without
    any: their offsets may be given out again.

    Raises:
        StoreFailedError: the disk failed.
    """
    steps: list[Step] = []
    changed = False
    for stored in store.replicas.values():
        if stored.lost or not (damaged := _damage_above_checkpoint(stored)):
            continue
        log = stored.log
        if not is_sole_voter(stored):
            steps += [_refused(log, index, "other replicas have it: start them") for index in damaged]
            continue
        repaired = _Repair(store, stored, is_alone=is_alone, gives_up_last=gives_up_last).run(damaged)
        changed |= any(not step.refusal for step in repaired)
        steps += repaired
    if changed:
        _flush_all(store)
    return steps


def is_sole_voter(stored: StoredReplica) -> bool:
    """Whether the group has, as of the newest checkpoint, no member but this replica."""
    log = stored.log
    encoded = stored.checkpoint[0].conf if stored.checkpoint is not None else b""
    try:
        conf = ConfState.decode(encoded or log.state.initial_conf)
    except CorruptBatchError:
        return False
    return not conf.is_joint and not conf.learners and conf.voters == (log.replica,)


def _damage_above_checkpoint(stored: StoredReplica) -> list[Index]:
    """Every entry that cannot be applied for being unreadable, found by reading all of them."""
    log = stored.log
    start = stored.checkpoint[0].index if stored.checkpoint is not None else log.state.previous_index
    following = Index(start + 1)
    found = []
    while following <= log.last_index():
        try:
            read = log.entries(following, Index(log.last_index() + 1), max_bytes=MENDS_BYTES)
        except UnavailableEntryError:
            found.append(following)
            following = Index(following + 1)
        else:
            following = Index(read[-1].index + 1)
    return found


def _refused(log: PartitionLog, index: Index, why: str) -> Step:
    return Step(log.group, log.replica, index, log.state.damaged.get(index, UNKNOWN_TERM), why)


@final
class _Repair:
    """One replica's. What is damaged is taken from the front: each stand-in is a neighbour of the next."""

    def __init__(self, store: NodeStore, stored: StoredReplica, *, is_alone: bool, gives_up_last: bool) -> None:
        self._store = store
        self._stored = stored
        self._log = stored.log
        self._is_alone = is_alone
        self._gives_up_last = gives_up_last

    def run(self, damaged: Sequence[Index]) -> list[Step]:
        steps: list[Step] = []
        left = list(damaged)
        while left:
            try:
                known = self._run_from(left)
                for one in known:
                    self._put(one)
                    offsets = (one.base_offset, one.next_offset)
                    steps.append(
                        Step(self._log.group, self._log.replica, one.index, one.term, kind=one.kind, offsets=offsets)
                    )
            except (CannotRepairError, DamageError) as error:
                # Nothing behind it could be applied either.
                return [*steps, *(_refused(self._log, index, error.message) for index in left)]
            del left[: len(known)]
        return steps

    def _run_from(self, damaged: Sequence[Index]) -> list[_Known]:
        """The first damaged entry, or those that follow each other without a head: their neighbours tell of all."""
        first = damaged[0]
        head = self._head_anywhere(first)
        if head is not None:
            return [self._by_head(head)]
        count = 1
        while count < len(damaged) and damaged[count] == first + count and self._belongs(first, damaged[count]):
            count += 1
        return self._by_neighbours(damaged[:count])

    def _belongs(self, first: Index, index: Index) -> bool:
        """Whether a further lost entry is to be seen together with `first`: in one segment, or both in the tail."""
        log = self._log
        if self._head_anywhere(index) is not None or (first <= log.flushed_index) != (index <= log.flushed_index):
            return False
        return index > log.flushed_index or log.segment_end_of(first) == log.segment_end_of(index)

    def _head_anywhere(self, index: Index) -> EntryHead | None:
        """The head in its segment; of an unflushed entry one that is left in the write-ahead log."""
        if index <= self._log.flushed_index:
            return self._log.flushed_head_of(index)
        return _head_in_wal(self._store.disk, self._log.group, index, self._log.state.damaged[index])

    def _by_head(self, head: EntryHead) -> _Known:
        if head.kind is EntryKind.CONFIG and not self._is_alone:
            raise CannotRepairError(f"entry {head.index} changed who is a member, and what it said is lost")
        size = head.payload_bytes if head.index <= self._log.flushed_index else None
        kind = EntryKind.DATA if head.next_offset > head.base_offset else EntryKind.NOOP
        return _Known(head.index, head.term, kind, head.base_offset, head.next_offset, head.append_ms, size)

    def _by_neighbours(self, indexes: Sequence[Index]) -> list[_Known]:
        """The offsets between the neighbours go to the first entry, the room to the last."""
        log, first, last = self._log, indexes[0], indexes[-1]
        if not self._is_alone:
            raise CannotRepairError(f"entry {first} may have changed who is a member: nothing of it is readable")
        base, append_ms, term = self._before(first)
        following = self._offset_after(last, base)
        kinds = [EntryKind.DATA if following > base else EntryKind.NOOP, *[EntryKind.NOOP] * (len(indexes) - 1)]
        sizes: list[int | None] = [None] * len(indexes)
        if first <= log.flushed_index:
            room = log.room_for_lost(first, last) - ENTRY_HEAD_BYTES * len(indexes)
            least = [MIN_BATCH_BYTES if kind is EntryKind.DATA else 0 for kind in kinds]
            if room < sum(least):
                raise CannotRepairError(f"{room} bytes are no room for what stands in for entries {first}..{last}")
            sizes = [*least[:-1], room - sum(least[:-1])]
        offsets = [(base, following), *[(following, following)] * (len(indexes) - 1)]
        return [
            _Known(index, self._term_of(index, term), kind, start, end, append_ms, size)
            for index, kind, (start, end), size in zip(indexes, kinds, offsets, sizes, strict=True)
        ]

    def _before(self, index: Index) -> tuple[Offset, int, Term]:
        """Next offset, log time and term of what precedes an entry."""
        checkpoint = self._stored.checkpoint
        if checkpoint is not None and checkpoint[0].index == index - 1:
            return checkpoint[0].next_offset, checkpoint[0].append_ms, checkpoint[0].term
        if index - 1 == self._log.state.previous_index:
            return Offset(0), 0, self._log.state.previous_term
        _, following, append_ms, term = self._log.head_of(Index(index - 1))
        return following, append_ms, term

    def _offset_after(self, last: Index, base: Offset) -> Offset:
        if last < self._log.last_index():
            return self._log.head_of(Index(last + 1))[0]
        if self._gives_up_last:
            return base
        raise CannotRepairError(
            f"entry {last} is the last one, and nothing tells how many messages it had",
            hint="--give-up-last goes on without it; the offsets of its messages, if it had any, are given out again",
        )

    def _term_of(self, index: Index, before: Term) -> Term:
        return self._log.state.damaged.get(index, UNKNOWN_TERM) or before

    def _put(self, known: _Known) -> None:
        log = self._log
        job = log.repair(_stand_in(log.group, known))
        if job is not None:
            job.run()
            log.on_repaired(job)
        while log.mended:
            commit = self._store.plan_commit(mends=[ReplicaWrite(log.replica, entries=log.mends(MENDS_BYTES))])
            if commit is None:
                raise CannotRepairError("the write-ahead log is full: start and stop the node once, then repair")
            commit.run()
            self._store.finish_commit(commit)
        if known.index in log.state.damaged:
            raise CannotRepairError(f"entry {known.index} could not be replaced")


def _stand_in(group: GroupId, known: _Known) -> Entry:
    count = known.next_offset - known.base_offset
    if known.kind is EntryKind.DATA:
        size = MIN_BATCH_BYTES if known.size_bytes is None else known.size_bytes
        payload = unreadable_batch(known.base_offset, count, size_bytes=size, timestamp_ms=known.append_ms)
    else:
        payload = bytes(known.size_bytes or 0)
    return seal_entry(
        known.kind,
        group=group,
        index=known.index,
        term=known.term,
        base_offset=known.base_offset,
        next_offset=known.next_offset,
        append_ms=known.append_ms,
        payload=payload,
    )


def _head_in_wal(disk: Disk, group: GroupId, index: Index, term: Term) -> EntryHead | None:
    """An intact head of the entry, wherever in the ring it is left; (index, term) names an entry for ever."""
    wanted = bytes(3) + group.to_bytes(4, "big") + index.to_bytes(8, "big") + term.to_bytes(8, "big")
    for name in disk.list(WAL_DIRECTORY):
        with disk.open(f"{WAL_DIRECTORY}/{name}") as file:
            data = file.pread(file.size(), 0)
        at = data.find(wanted)
        while at > 0:
            try:
                return decode_head(data, at - 1)
            except CorruptBatchError:
                at = data.find(wanted, at + 1)
    return None


def _flush_all(store: NodeStore) -> None:
    """Everything is in segments afterwards, and the write-ahead log with its damage is left behind."""
    for stored in store.replicas.values():
        if not stored.lost and is_sole_voter(stored):
            stored.log.committed = stored.log.last_index()
    store.request_roll()
    commit = store.plan_commit()
    if commit is None:
        return
    commit.run()
    store.finish_commit(commit)
    flush = store.take_flush()
    if flush is not None:
        flush.run()
        store.finish_flush(flush)
    commit = store.plan_commit(seals=True)
    if commit is not None:
        commit.run()
        store.finish_commit(commit)
