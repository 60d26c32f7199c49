"""Scenarios of one store: what a power cut, a failed disk or a flipped bit may leave, tried exhaustively."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import InvariantError, StoreFailedError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.checkpoints import CheckpointHeader, write_checkpoint
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.index import IndexRow
from logbroker.storage.simulated_disk import Action, Effect, Fault, SimulatedCrash, Tear, on
from logbroker.testing.scenarios.store_script import StoreScript, tiny_options
from logbroker.testing.violation import Violation, broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.entry import Entry
    from logbroker.storage.index import DictIndex
    from logbroker.storage.simulated_disk import SimulatedDisk

_PAGE = 4096


def _started(*, replicas: int = 1, entries: int = 3) -> tuple[StoreScript, list[ReplicaId]]:
    """A store with replicas 11, 12, .. of groups 1, 2, .., each with a few durable entries."""
    script = StoreScript()
    made = [script.create(10 + number, number) for number in range(1, replicas + 1)]
    for replica in made:
        script.commit((replica, script.entries(replica, entries, term=1)))
    return script, made


def torn_tail_and_two_restarts() -> dict[str, int]:
    """A commit is torn by a power cut and the recovery from it again: nothing durable goes, nothing half is there."""
    script, (replica,) = _started()
    new = script.entries(replica, 2, term=1, size=3_000)
    reached = {"tails dropped": 0, "tails kept": 0, "cuts in recovery": 0}
    for cut in script.crash_points(lambda it: it.commit((replica, new))):
        _was_writing(cut, replica, new)
        for disk in cut.leftovers():
            twice = disk.copy()
            once = cut.fork(disk)
            kept = len(once.promises[replica].entries) == 5
            reached["tails kept" if kept else "tails dropped"] += 1
            _cut_in_recovery(cut, twice, reached)
            # The second restart without another cut: what the first one believed, it must have made durable.
            once.lose_everything_unsynced()
            once.commit((replica, once.entries(replica, 1, term=2)))
            once.lose_everything_unsynced()
    return reached


def _was_writing(cut: StoreScript, replica: ReplicaId, new: list[Entry]) -> None:
    """Say that `new` was being written when the power was cut, also where the cut came while it was planned."""
    promise = cut.promises[replica]
    if promise.alternative is None:
        promise.alternative = promise.with_entries(new)


def _cut_in_recovery(cut: StoreScript, disk: SimulatedDisk, reached: dict[str, int]) -> None:
    """Open the store with the power cut in place of each change that opening makes, and open it once more."""
    for change in range(1, 200):
        attempt = disk.copy()
        attempt.crash_before(attempt.change_count + change)
        try:
            cut.fork(attempt)
        except SimulatedCrash:
            reached["cuts in recovery"] += 1
            for keep in (_KEEP_ALL, _KEEP_NONE):
                cut.fork(attempt.copy().crash(keep=keep))
        else:
            return


class _Keep:
    """Draws always the same: 1 keeps everything that was written, 0 nothing that was not synced."""

    def __init__(self, value: int) -> None:
        self._value = value

    def randrange(self, stop: int, /) -> int:
        return min(self._value, stop - 1)


_KEEP_ALL, _KEEP_NONE = _Keep(1), _Keep(0)


def failed_sync_then_restart_then_lost_cache() -> dict[str, int]:
    """A sync fails, the next process reads what only the page cache holds, and then the cache is lost."""
    reached = {"seen in the cache": 0, "survived the loss of the cache": 0}
    for effect in (Effect.ERROR, Effect.ERROR_DROPPED):
        script, (replica,) = _started()
        new = script.entries(replica, 2, term=1)
        job = script.plan(ReplicaWrite(replica, entries=tuple(new)))
        script.disk.inject(Fault(effect=effect, matches=on(Action.SYNC, below="wal/")))
        try:
            job.run()
            broken("a failed sync stops the store", "the commit went through")
        except StoreFailedError:
            pass
        try:
            script.store.disk.open("x", create=True)
            broken("a failed sync stops the store", "the disk takes writes again")
        except StoreFailedError:
            pass
        script.kill()
        believed = len(script.promises[replica].entries)
        reached["seen in the cache"] += believed == 5
        # Whatever the second process believed it may have acknowledged: it must survive the loss of the cache.
        script.lose_everything_unsynced()
        reached["survived the loss of the cache"] += len(script.promises[replica].entries) == believed
    return reached


def dead_tail_does_not_come_back() -> dict[str, int]:
    """A torn commit is dropped and its place taken by another; in no later restart do the old bytes count."""
    script, (replica,) = _started()
    old = script.entries(replica, 3, term=1, size=2_500)
    reached = {"tails dropped": 0, "restarts after it": 0}
    for cut in script.crash_points(lambda it: it.commit((replica, old))):
        _was_writing(cut, replica, old)
        for disk in cut.leftovers():
            after = cut.fork(disk)
            if len(after.promises[replica].entries) != 3:
                continue
            reached["tails dropped"] += 1
            after.commit((replica, after.entries(replica, 1, term=2)))
            for _ in range(3):
                after.lose_everything_unsynced()
                after.commit((replica, after.entries(replica, 1, term=3)))
                reached["restarts after it"] += 1
    return reached


def bit_flip_in_a_commit_header() -> dict[str, int]:
    """Any flipped bit in the header of a commit in the middle of the log is damage, never the end of the log."""
    script, (replica,) = _started()
    path, offset = script.wal_place()
    for _ in range(3):
        script.commit((replica, script.entries(replica, 1, term=1)))
    last = script.promises[replica].last_index
    reached = {"bits flipped": 0, "lost as a voter": 0, "entries quarantined": 0}
    for byte in range(0, 300, 3):
        for bit in (0, 7):
            disk = script.disk.copy().kill()
            disk.flip_bit(path, offset + byte, bit)
            reached["bits flipped"] += 1
            stored = script.fork_unjudged(disk).store.replicas[replica]
            reached["lost as a voter"] += bool(stored.lost)
            reached["entries quarantined"] += stored.log.is_damaged
            if not stored.lost and stored.log.last_index() != last:
                broken("damage is never cut", f"byte {byte}: the log ends at {stored.log.last_index()}, not {last}")
    return reached


def bit_flip_in_an_entry() -> dict[str, int]:
    """A flipped bit in an entry of the log leaves index and term known, and a good copy mends it."""
    script, (replica,) = _started(entries=1)
    path, offset = script.wal_place()
    for _ in range(3):
        script.commit((replica, script.entries(replica, 1, term=1, size=900)))
    promise = script.promises[replica]
    reached = {"quarantined": 0, "mended": 0}
    for byte in range(300, 1_000, 50):
        disk = script.disk.copy().kill()
        disk.flip_bit(path, offset + byte, 3)
        after = script.fork_unjudged(disk)
        log = after.store.replicas[replica].log
        if not log.is_damaged or log.last_index() != promise.last_index:
            broken("damage is known loss", f"byte {byte}: damaged {log.state.damaged}, last {log.last_index()}")
        reached["quarantined"] += 1
        for index in list(log.state.damaged):
            log.repair(promise.entries[index - 1])
        after.mend(replica)
        reached["mended"] += not log.is_damaged
        if after.found(replica) != [(entry.index, entry.term, entry.crc) for entry in promise.entries]:
            broken("a good copy mends", f"byte {byte}")
    return reached


def recycled_ring_and_every_subset_of_pages() -> dict[str, int]:
    """Commits of one size go round the ring, so old ones lie where new ones are torn; each subset of pages is tried."""
    script, (replica,) = _started(entries=1)
    size = 2 * _PAGE - 400
    reached = {"uses of the ring": 0, "disks tried": 0}
    for number in range(14):
        script.commit((replica, script.entries(replica, 1, term=1, size=size)))
        script.set_committed(replica, script.promises[replica].last_index)
        if number % 3 == 2:
            script.flush()
    reached["uses of the ring"] = script.store._wal.position.use
    for _ in range(3):
        new = script.entries(replica, 1, term=1, size=size)
        for cut in script.crash_points(_committing(replica, new)):
            _was_writing(cut, replica, new)
            for disk in cut.leftovers():
                reached["disks tried"] += 1
                cut.fork(disk)
        script.commit((replica, new))
        script.set_committed(replica, script.promises[replica].last_index)
        script.flush()
    return reached


def _committing(replica: ReplicaId, new: list[Entry]) -> Callable[[StoreScript], object]:
    return lambda it: it.commit((replica, new))


def conflict_while_a_flush_runs() -> dict[str, int]:
    """A new leader's entries replace uncommitted ones while a flush writes the committed ones; cut at every write."""
    script, (replica,) = _started(entries=6)
    script.set_committed(replica, 3)
    reached = {"cuts": 0, "disks tried": 0}

    def conflict(it: StoreScript) -> None:
        flush = it.roll()
        if flush is None:
            broken("scenario", "no flush was planned")
        it.commit((replica, new))
        flush.run()
        it.commit((replica, newer))
        it.store.finish_flush(flush)
        it.commit((replica, newest))

    new = script.entries(replica, 4, term=2, start=4)
    newer = script.entries(replica, 2, term=3, start=5)
    newest = script.entries(replica, 1, term=3, start=7)
    for cut in script.crash_points(conflict):
        reached["cuts"] += 1
        for disk in cut.leftovers(limit=1 << 14):
            reached["disks tried"] += 1
            cut.fork(disk)
    conflict(script)
    script.lose_everything_unsynced()
    return reached


def replica_leaves_and_returns_within_one_ring() -> dict[str, int]:
    """A group's replica is deleted and another one made while the frames of the first are still in the ring."""
    script, (other,) = _started()
    old = script.create(21, 2)
    script.commit((old, script.entries(old, 3, term=4)))
    script.vote((old, 4, 21))
    reached = {"cuts": 0, "disks tried": 0}

    def leave(it: StoreScript) -> None:
        it.finish(it.plan(deaths=[old]))

    for cut in script.crash_points(leave):
        reached["cuts"] += 1
        for disk in cut.leftovers():
            reached["disks tried"] += 1
            maybe = cut.fork_unjudged(disk)
            maybe.promises.setdefault(old, script.promises[old])
            if old not in maybe.store.replicas:
                del maybe.promises[old]
            maybe._settle()
    leave(script)
    new = script.create(22, 2)
    script.commit((new, script.entries(new, 2, term=1)), (other, script.entries(other, 1, term=1)))
    for _ in range(3):
        script.lose_everything_unsynced()
        if script.store.vote(old) is not None:
            broken("what was deleted stays deleted", f"replica {old} still has a vote")
        script.commit((new, script.entries(new, 1, term=2)))
        script.set_committed(new, script.promises[new].last_index)
        script.flush()
    return reached


def torn_vote_page_with_two_groups() -> dict[str, int]:
    """Two replicas' slots share a page; while one votes, a torn page takes neither its old nor the other's vote."""
    script, (one, two) = _started(replicas=2)
    script.vote((one, 3, 11), (two, 7, 12))
    reached = {"disks tried": 0, "old vote": 0, "new vote": 0}
    for tear in (Tear.SECTOR, Tear.BYTE, Tear.GARBAGE):
        for cut in script.crash_points(lambda it: it.vote((one, 4, 13))):
            cut.promises[one].alternative_vote = (Term(4), ReplicaId(13))
            for disk in cut.leftovers(tear=tear, limit=1 << 14):
                reached["disks tried"] += 1
                after = cut.fork(disk)
                reached["new vote" if after.store.vote(one) == (4, 13) else "old vote"] += 1
                if after.store.vote(two) != (7, 12):
                    broken("votes stay", f"replica {two} has {after.store.vote(two)}")
    return reached


def no_room_at_a_segment_roll() -> dict[str, int]:
    """The disk is full when one group needs a new segment: that group is refused alone, and later it goes on."""
    script = StoreScript(tiny_options(wal_bytes=256 << 10))
    full, busy = script.create(11, 1), script.create(12, 2)
    script.commit((full, script.entries(full, 1, term=1)), (busy, script.entries(busy, 1, term=1)))
    big = script.entries(full, 2, term=1, size=3_500)
    space = script.disk.space()
    script.disk.capacity_bytes = space.total_bytes - space.free_bytes
    reached = {"refused": 0, "others written": 0, "later": 0}
    for _ in range(6):
        refused = script.commit((full, big), (busy, script.entries(busy, 1, term=1, size=40)))
        reached["others written"] += busy not in refused
        if full in refused:
            reached["refused"] += 1
            break
        big = script.entries(full, 2, term=1, size=3_500)
    script.disk.capacity_bytes = space.total_bytes
    script.lose_everything_unsynced()
    reached["later"] += full not in script.commit((full, script.entries(full, 1, term=1)))
    script.lose_everything_unsynced()
    return reached


def flush_that_never_returns() -> dict[str, int]:
    """While a flush hangs, commits go on until the ring is full, then wait; when it returns they go on."""
    script, (replica,) = _started()
    script.set_committed(replica, 3)
    flush = script.roll()
    if flush is None:
        broken("scenario", "no flush was planned")
    reached = {"commits beside the flush": 0, "stalled": 0, "commits after it": 0}
    for _ in range(60):
        new = script.entries(replica, 1, term=1, size=3_000)
        job = script.store.plan_commit([ReplicaWrite(replica, entries=tuple(new))])
        if job is None:
            reached["stalled"] += script.store.is_stalled
            break
        job.run()
        script.store.finish_commit(job)
        script.promises[replica].entries.extend(new)
        script.set_committed(replica, script.promises[replica].last_index)
        reached["commits beside the flush"] += 1
    hung = script.fork(script.disk.copy().crash(keep=_KEEP_NONE))
    hung.commit((replica, hung.entries(replica, 1, term=2)))
    flush.run()
    script.store.finish_flush(flush)
    for _ in range(20):
        script.commit((replica, script.entries(replica, 1, term=1, size=3_000)))
        script.set_committed(replica, script.promises[replica].last_index)
        following = script.store.take_flush()
        if following is not None:
            following.run()
            script.store.finish_flush(following)
        reached["commits after it"] += 1
    script.lose_everything_unsynced()
    return reached


def index_row_altered() -> dict[str, int]:
    """Rows of the offset index lie; every answer stays right, the lies are counted and the rows made again."""
    reached = {"lookups": 0, "lies found": 0, "made again": 0}
    for lie in range(4):
        script, (replica,) = _started(entries=1)
        for _ in range(12):
            script.commit((replica, script.data(replica, term=1, records=5, size=2_000)))
        script.set_committed(replica, script.promises[replica].last_index)
        script.flush()
        _tell_a_lie(script.index, replica, lie)
        log = script.store.replicas[replica].log
        for entry in script.promises[replica].entries[1:]:
            reached["lookups"] += 1
            found = next(log.data_from(entry.base_offset, max_bytes=1))
            at = log.first_offset_at(entry.append_ms)
            if found.crc != entry.crc or log.index_of_offset(entry.base_offset) != entry.index:
                broken("every answer is checked", f"lie {lie}: offset {entry.base_offset} gave entry {found.index}")
            if at != (entry.base_offset, entry.append_ms):
                broken("every answer is checked", f"lie {lie}: time {entry.append_ms} gave {at}")
        reached["lies found"] += log.index_mismatches
        script.commit((replica, script.data(replica, term=1, records=5)))
        script.set_committed(replica, script.promises[replica].last_index)
        script.flush()
        reached["made again"] += not log.needs_reindex and script.index.count(GroupId(1), replica) > 0
    return reached


def _tell_a_lie(index: DictIndex, replica: ReplicaId, lie: int) -> None:
    rows = index._rows[GroupId(1), replica]
    at = len(rows) // 2
    row = rows[at]
    match lie:
        case 0:
            rows[at] = IndexRow(row.index, row.base_offset, row.append_ms, row.segment_base, row.position + 8)
        case 1:
            rows[at] = IndexRow(row.index, Offset(row.base_offset + 3), row.append_ms, row.segment_base, row.position)
        case 2:
            rows[at] = IndexRow(Index(row.index + 1), row.base_offset, row.append_ms, row.segment_base, row.position)
        case _:
            rows[at] = IndexRow(row.index, row.base_offset, row.append_ms + 2, row.segment_base, row.position)


def checkpoint_ahead_of_the_log() -> dict[str, int]:
    """A checkpoint beyond the own durable log is never planned, and one found on the disk makes the replica lost."""
    script, (replica,) = _started()
    reached = {"refused to plan": 0, "found and lost": 0}
    ahead = CheckpointHeader(
        group=GroupId(1),
        replica=replica,
        index=Index(9),
        term=Term(1),
        log_start_offset=Offset(0),
        log_start_index=Index(1),
        next_offset=Offset(0),
        append_ms=1,
        conf=b"",
    )
    try:
        script.store.plan_checkpoint(replica, ahead, [b"state"])
    except InvariantError:
        reached["refused to plan"] += 1
    directory = script.store.replicas[replica].log.state.directory
    for _ in write_checkpoint(script.disk, directory, ahead, [b"state"]):
        pass
    try:
        script.fork(script.disk.copy().kill())
    except Violation as violation:
        reached["found and lost"] += "ahead" in str(violation)
    return reached


STORE_SCENARIOS: dict[str, Callable[[], dict[str, int]]] = {
    "torn-tail-and-two-restarts": torn_tail_and_two_restarts,
    "failed-sync-then-restart-then-lost-cache": failed_sync_then_restart_then_lost_cache,
    "dead-tail-does-not-come-back": dead_tail_does_not_come_back,
    "bit-flip-in-a-commit-header": bit_flip_in_a_commit_header,
    "bit-flip-in-an-entry": bit_flip_in_an_entry,
    "recycled-ring-and-every-subset-of-pages": recycled_ring_and_every_subset_of_pages,
    "conflict-while-a-flush-runs": conflict_while_a_flush_runs,
    "replica-leaves-and-returns-within-one-ring": replica_leaves_and_returns_within_one_ring,
    "torn-vote-page-with-two-groups": torn_vote_page_with_two_groups,
    "no-room-at-a-segment-roll": no_room_at_a_segment_roll,
    "flush-that-never-returns": flush_that_never_returns,
    "index-row-altered": index_row_altered,
    "checkpoint-ahead-of-the-log": checkpoint_ahead_of_the_log,
}
