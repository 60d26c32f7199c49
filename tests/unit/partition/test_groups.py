"""Dead messages among others, and what only an inconsistent caller could make: broken books."""

from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError, InvariantError
from logbroker.ids import DEFAULT_GROUP, LeaseId
from logbroker.partition.commands import Extend, Rewind, SkipTo
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.leases import LeaseRecord, LeaseTable
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.partition.outcomes import Misfit, Nothing, Rewound, Settled, Skipped
from logbroker.partition.rewind import RewindHistory, RewindRecord
from logbroker.partition.runs import Run, RunState, RunTable
from logbroker.partition.schedule import Schedule

D = DEFAULT_GROUP


def with_dead_ones() -> ConsumerGroup:
    """Messages 0..6: dead, dead, acked, fresh, dead, fresh."""
    group = ConsumerGroup.new(D, 0)
    dead, acked = RunState.DEAD, RunState.ACKED
    group.table.put(
        [
            Run(0, 2, dead, 3, 0, 70_000, 1),
            Run(2, 3, acked),
            Run(3, 4, RunState.AVAILABLE),
            Run(4, 5, dead, 3, 0, 70_000, 1),
        ]
    )
    return group


def drawn(group: ConsumerGroup) -> str:
    return "".join(run.state.name[:2].lower() * (run.end - run.start) for run in group.table.overlap(0, 6))


def test_the_floor_stays_below_dead_messages() -> None:
    group = with_dead_ones()
    status = group.status(6)
    assert (status.floor, status.dead_count, status.oldest_unsettled_offset) == (0, 3, 3)


def test_a_partition_of_settled_messages_has_none_that_is_unsettled() -> None:
    group = with_dead_ones()
    group.table.put([Run(3, 4, RunState.ACKED), Run(4, 6, RunState.DEAD, 1, 0, 70_000, 1)])
    assert group.status(6).oldest_unsettled_offset == 6


def test_a_rewind_does_not_wake_the_dead() -> None:
    group = with_dead_ones()
    change = Rewind(D, 1, 1, "")
    outcome = group.rewind(
        change, index=5, append_ms=0, log_start=0, next_offset=6, voids=OffsetRanges(), schedule=Schedule()
    )
    assert isinstance(outcome, Rewound)
    assert outcome.reopened_count == 1
    assert drawn(group) == "dedeavavdeav"


def test_a_skip_passes_over_the_dead() -> None:
    group = with_dead_ones()
    outcome = group.skip_to(SkipTo(D, 1, 6, ""), index=5, log_start=0, next_offset=6)
    assert isinstance(outcome, Skipped)
    assert outcome.skipped_count == 2
    assert drawn(group) == "dedeacacdeac"


def test_retention_takes_the_dead_and_does_not_count_them() -> None:
    group = with_dead_ones()
    assert group.drop_below(5) == 1
    assert group.table.floor == 5


def test_the_dead_are_not_delivered_nor_acked() -> None:
    group = with_dead_ones()
    assert [run.start for run in group.table.eligible(0, 6)] == [3, 5]
    outcome = group.ack(5, ((0, 1),), log_start=0)
    assert outcome == Settled(D, LeaseId(5), 0, stale=((0, 1),))


def test_an_extension_that_is_over_before_it_begins_does_not_fit() -> None:
    outcome = ConsumerGroup.new(D, 0).extend(Extend(D, 5, ((0, 1),), 9), append_ms=9, log_start=0)
    assert outcome == Nothing(Misfit.NOT_AVAILABLE, "lease until 9 is over at 9")


def test_a_lease_cannot_lose_more_than_it_holds() -> None:
    leases = LeaseTable()
    leases.add(LeaseRecord(5, ((0, 2),), 2, "c", 0, 0))
    with pytest.raises(InvariantError, match="lease 5 held 2 messages and lost 3"):
        leases.reduce(5, 3)
    with pytest.raises(InvariantError, match="a run names lease 6, which the group does not know"):
        leases.reduce(6, 1)
    leases.reduce(5, 2)
    assert len(leases) == 0


def test_a_lease_that_has_ended_leaves_nothing_of_its_request() -> None:
    """B38."""
    leases = LeaseTable()
    leases.add(LeaseRecord(5, ((0, 2),), 2, "c", 8, 9))
    leases.reduce(5, 1)
    assert leases.find(8, 9) is not None
    leases.reduce(5, 1)
    assert leases.find(8, 9) is None
    assert len(leases._by_request) == 0


def test_a_history_remembers_each_id_once() -> None:
    record = RewindRecord(1, 1, False, "", 0, 0, False, (0, 0, 0))
    with pytest.raises(CorruptBatchError, match="one id twice"):
        RewindHistory([record, record])


def test_a_table_whose_deadlines_name_no_run_is_broken() -> None:
    table = RunTable(0)
    table.leased.add(Run(3, 4, RunState.LEASED, 1, 50, 5, 1))
    with pytest.raises(InvariantError, match="a deadline names offset 3, where no run starts"):
        list(table.expired(100))


def test_a_table_with_a_hole_is_broken() -> None:
    table = RunTable(0)
    table.frontier = 5
    with pytest.raises(InvariantError, match="no run holds offset 2"):
        table.at(2)
