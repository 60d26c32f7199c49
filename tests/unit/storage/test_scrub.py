"""The scrubber on a store that runs: what rots is found within a round, and put right or noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from logbroker.ids import Index, Term
from logbroker.storage.commit import ReplicaWrite
from logbroker.storage.scrub import (
    ENTRY_COST_BYTES,
    NO_SCRUB,
    SLICE_COST_BYTES,
    STEP_BYTES,
    Scrubber,
    ScrubOptions,
    ScrubSlice,
    ScrubStatistics,
    _SegmentTask,
)
from logbroker.storage.segment import SegmentRow, segment_path, write_entries
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.unit.storage.store_kit import A, B, checkpoint, commit, entries, entry, flush, open_at, roll_and_flush, write

if TYPE_CHECKING:
    from logbroker.ids import ReplicaId
    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.partition_log import PartitionLog

OPTIONS = ScrubOptions(bytes_per_s=1 << 20, pause_ms=10_000, first_round_ms=1_000)
SEGMENT = segment_path("groups/11-11", Index(1))
HEAD_BYTES = 60
ENTRY_BYTES = HEAD_BYTES + 99
SEGMENT_HEADER_BYTES = 32
COMMIT_BYTES_AT = 64


@dataclass
class Scrubbed:
    """A store with two checkpoints, entries in a segment and entries in the write-ahead log."""

    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    now_ms: int = 0
    slices: int = 0

    def __post_init__(self) -> None:
        self.damaged: list[PartitionLog] = []
        self.wanted: list[ReplicaId] = []
        store = self.store = open_at(self.disk)
        commit(store, births=[A, B])
        commit(store, ReplicaWrite(A, (Term(1), A)))
        write(store, *entries(1, 6))
        store.replicas[A].log.committed = Index(5)
        roll_and_flush(store)
        checkpoint(store, 3)
        checkpoint(store, 5)
        write(store, *entries(6, 9))
        self.scrubber = self.made(store, OPTIONS)

    def made(self, store: NodeStore, options: ScrubOptions) -> Scrubber:
        return Scrubber(
            store,
            options,
            now_ms=self.now_ms,
            on_damage=self.damaged.append,
            want_checkpoint=self.wanted.append,
        )

    def round(self) -> ScrubStatistics:
        """Let time pass until the present round is over."""
        before = self.scrubber.statistics().rounds
        while self.scrubber.statistics().rounds == before:
            self.now_ms += 100
            job = self.scrubber.next_slice(self.now_ms)
            if job is not None:
                self.slices += 1
                job.run()
                self.scrubber.on_done(job, self.now_ms)
            if self.store.wants_vote_scrub:
                commit(self.store)
        return self.scrubber.statistics()

    def flush_wanted(self) -> None:
        """The flush that was asked for, with its commit if that has not been made for another reason."""
        if self.store.wants_roll:
            commit(self.store)
        assert flush(self.store)

    @property
    def log(self) -> PartitionLog:
        return self.store.replicas[A].log


def test_a_sound_store_is_read_in_rounds_with_pauses_between() -> None:
    made = Scrubbed()
    before = made.disk.digest()
    assert made.scrubber.next_slice(999) is None
    found = made.round()
    assert (found.rounds, found.damaged_entries, found.mended_copies, found.unmended) == (1, 0, 0, ())
    assert made.disk.digest() == before, "nothing is written where nothing is wrong"
    assert found.read_bytes > 0
    assert made.scrubber.next_slice(made.now_ms + 9_999) is None
    assert made.scrubber.next_slice(made.now_ms + 10_000) is not None


def test_reading_is_bounded_by_the_rate_and_a_small_entry_costs_a_page() -> None:
    made = Scrubbed()
    made.round()
    took_s = (made.now_ms - 1_000) / 1000
    cost = made.scrubber.statistics().read_bytes
    assert cost >= 5 * 4096
    assert took_s >= (cost - (1 << 20)) / OPTIONS.bytes_per_s
    assert made.made(made.store, NO_SCRUB).next_slice(1 << 40) is None


def test_a_node_that_is_started_again_every_ten_seconds_is_read_all_the_same() -> None:
    made = Scrubbed()
    made.disk.flip_bit(SEGMENT, SEGMENT_HEADER_BYTES + HEAD_BYTES + 10, 1)
    for _ in range(3):
        made.scrubber = made.made(made.store, ScrubOptions())
        for _ in range(100):
            made.now_ms += 100
            job = made.scrubber.next_slice(made.now_ms)
            if job is not None:
                job.run()
                made.scrubber.on_done(job, made.now_ms)
    assert made.damaged == [made.log]


@pytest.mark.parametrize("at", [HEAD_BYTES + 10, 20], ids=["payload", "head"])
def test_a_rotten_entry_is_noted_so_that_it_is_fetched(at: int) -> None:
    made = Scrubbed()
    made.disk.flip_bit(SEGMENT, SEGMENT_HEADER_BYTES + 2 * ENTRY_BYTES + at, 1)
    found = made.round()
    assert found.damaged_entries == 1
    assert made.log.state.damaged == {3: 1}
    assert made.damaged == [made.log]
    job = made.log.repair(entries(3, 4)[0])
    assert job is not None
    job.run()
    made.log.on_repaired(job)
    assert made.round().damaged_entries == 1, "it is found once"
    assert not made.log.is_damaged


def test_a_slice_of_the_smallest_entries_is_no_longer_than_any_other() -> None:
    made = Scrubbed()
    small = [entry(index, size=0) for index in range(1, 4_001)]
    row = SegmentRow(Index(1), Index(4_000), Term(1), SEGMENT_HEADER_BYTES + 4_000 * HEAD_BYTES)
    with made.disk.open(SEGMENT) as file:
        write_entries(file, SEGMENT_HEADER_BYTES, small)
    task = _SegmentTask(made.disk, A, made.log, row)
    costs = []
    while True:
        job = ScrubSlice(task)
        job.run()
        costs.append(job.cost)
        if job.is_at_end:
            break
    assert sum(costs) >= 4_000 * ENTRY_COST_BYTES
    assert max(costs) < SLICE_COST_BYTES + (STEP_BYTES // HEAD_BYTES + 1) * ENTRY_COST_BYTES


def test_what_rotted_below_the_log_start_is_nobodys_loss() -> None:
    made = Scrubbed()
    made.log.log_start_index = Index(4)
    made.disk.flip_bit(SEGMENT, SEGMENT_HEADER_BYTES + 2 * ENTRY_BYTES + 70, 1)
    assert made.round().damaged_entries == 0


@pytest.mark.parametrize("path", ["vote.a", "vote.b", "flushed.a", "flushed.b", SEGMENT])
def test_a_copy_that_rotted_is_written_again_from_its_twin(path: str) -> None:
    made = Scrubbed()
    before = made.disk.digest()
    made.disk.flip_bit(path, 20, 1)
    assert made.round().mended_copies == 1
    assert made.disk.digest() == before
    assert made.disk.is_synced(path)
    assert made.round().mended_copies == 1


def test_a_copy_of_the_record_that_is_gone_is_made_again() -> None:
    made = Scrubbed()
    before = made.disk.digest()
    made.disk.vanish("flushed.a")
    assert made.round().mended_copies == 1
    assert made.disk.digest() == before


def test_a_segment_that_is_gone_is_said_to_be() -> None:
    made = Scrubbed()
    made.disk.vanish(SEGMENT)
    assert f"{SEGMENT} is gone: start this node again" in made.round().unmended[0]
    assert open_at(made.disk.kill()).replicas[A].lost


def test_both_copies_of_a_vote_are_known_while_the_node_runs() -> None:
    made = Scrubbed()
    before = made.disk.digest()
    for path in ("vote.a", "vote.b"):
        made.disk.flip_bit(path, 20, 1)
    assert made.round().mended_copies == 2
    assert made.disk.digest() == before


def test_both_copies_of_the_record_gone_are_written_by_the_next_flush() -> None:
    made = Scrubbed()
    for path in ("flushed.a", "flushed.b"):
        made.disk.flip_bit(path, 20, 1)
    assert "both copies of the flush record" in made.round().unmended[0]
    made.flush_wanted()
    assert made.round().unmended == ()
    assert not open_at(made.disk.kill()).replicas[A].lost


@pytest.mark.parametrize("offset", [30, 60], ids=["header", "frame list"])
def test_damage_in_the_log_is_left_behind_by_a_flush(offset: int) -> None:
    made = Scrubbed()
    (use, number), *_ = made.store.durable_wal()[0]
    made.disk.flip_bit(f"wal/{number}.wal", 4096 + offset, 1)
    found = made.round()
    assert found.damaged_wal == 1
    assert f"wal/{number}.wal at 4096" in found.unmended[0]
    made.flush_wanted()
    assert made.store.wal_start > use
    found = made.round()
    assert (found.damaged_wal, found.unmended) == (1, ())
    after = open_at(made.disk.kill())
    assert (after.replicas[A].lost, after.replicas[A].log.last_index()) == ("", 8)


def test_every_byte_of_the_durable_log_is_looked_at() -> None:
    made = Scrubbed()
    ((_, number),), end = made.store.durable_wal()
    for offset in range(end.offset):
        page = offset // 4096 * 4096
        with made.disk.open(f"wal/{number}.wal") as file:
            size = int.from_bytes(file.pread(8, page + COMMIT_BYTES_AT), "big")
        if offset - page >= size:
            continue
        made.disk.flip_bit(f"wal/{number}.wal", offset, offset % 8)
        scrubber = made.made(made.store, ScrubOptions(1 << 30, pause_ms=1, first_round_ms=0))
        for _ in range(3):
            job = scrubber.next_slice(made.now_ms)
            assert job is not None
            job.run()
            scrubber.on_done(job, made.now_ms)
        assert scrubber.statistics().damaged_wal == 1, f"byte {offset}"
        made.disk.flip_bit(f"wal/{number}.wal", offset, offset % 8)


@pytest.mark.parametrize("index", [3, 5])
def test_a_rotten_checkpoint_asks_for_another(index: int) -> None:
    made = Scrubbed()
    made.disk.flip_bit(f"groups/11-11/{index}.checkpoint", 90, 1)
    found = made.round()
    assert (found.damaged_checkpoints, made.wanted) == (1, [A])
    assert f"{index}.checkpoint" in found.unmended[0]
    assert made.round().damaged_checkpoints == 1, "it is counted once"
    checkpoint(made.store, 7)
    checkpoint(made.store, 8)
    assert made.round().unmended == ()


def test_what_ends_in_the_middle_of_a_round_is_left_alone() -> None:
    made = Scrubbed()
    made.disk.flip_bit(SEGMENT, SEGMENT_HEADER_BYTES + 70, 1)
    made.now_ms = 1_000
    job = made.scrubber.next_slice(made.now_ms)
    assert job is not None
    job.run()
    made.scrubber.on_done(job, made.now_ms)
    commit(made.store, deaths=[A])
    found = made.round()
    assert (found.damaged_entries, made.damaged) == (0, [])
