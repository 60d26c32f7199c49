"""Rewinds over partitions: one commit fixes id, order and target."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from logbroker.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, RequestTooLargeError
from logbroker.ids import GroupName, QueueName
from logbroker.node.catalogue import Catalogue, CatalogueLimits, Refused, RewindStands, rewinds
from logbroker.node.catalogue.bounds import group_name_fault
from logbroker.node.catalogue.commands import AlterQueue, AlterQueueWith, BeginRewind, DeleteQueue, FinishRewind
from logbroker.node.catalogue.options import encode_changes
from logbroker.partition.decide import check_group_name
from logbroker.wire.requests import (
    EarliestTarget,
    LatestTarget,
    MessageTarget,
    OffsetTarget,
    RelativeTarget,
    Target,
    TimeTarget,
)
from tests.unit.node.catalogue.kit import START_MS, cluster, create, expect, rewind_to, run

HOUR_MS = 3_600_000


def with_queue(*, partitions: int = 2) -> Catalogue:
    catalogue = cluster()
    create(catalogue, "q", partitions=partitions)
    return catalogue


def done(rewind_id: int, partition: int) -> FinishRewind:
    return FinishRewind(rewind_id, partition, 10 + partition, START_MS, 5, "")


def test_a_time_that_is_relative_becomes_absolute_with_the_commit() -> None:
    row = expect(RewindStands, run(with_queue(), rewind_to(RelativeTarget(ms=HOUR_MS)))).rewind
    assert row.target == TimeTarget(START_MS - HOUR_MS)
    assert (row.rewind_id, row.partition_count, row.decided_ms, row.is_pending) == (1, 2, START_MS, True)


@pytest.mark.parametrize(
    "target",
    [
        TimeTarget(START_MS),
        OffsetTarget(7),
        RelativeTarget(count=100),
        EarliestTarget(),
        LatestTarget(),
        MessageTarget([(1, 5)]),
    ],
)
def test_any_other_target_is_kept_as_it_was_asked_for(target: Target) -> None:
    assert expect(RewindStands, run(with_queue(), rewind_to(target))).rewind.target == target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TimeTarget(START_MS + 1), "lies after the log time"),
        (TimeTarget(START_MS - 345_600_001), "lies before the retention"),
        (RelativeTarget(ms=345_600_001), "lies before the retention"),
        (RelativeTarget(), "exactly one of them is not 0"),
        (RelativeTarget(ms=1, count=1), "exactly one of them is not 0"),
        (MessageTarget([]), "no partition is named"),
        (MessageTarget([(1, 5), (1, 6)]), "named twice"),
        (MessageTarget([(2, 5)]), "there is no partition 2, the queue has 2"),
    ],
)
def test_a_target_that_no_partition_could_follow_is_refused_before_it_counts(target: Target, message: str) -> None:
    catalogue = with_queue()
    refused = expect(Refused, run(catalogue, rewind_to(target)))
    assert refused.kind is InvalidArgumentError
    assert message in refused.message
    assert catalogue.rewinds() == []


def test_a_time_before_the_retention_is_taken_where_clamping_is_allowed() -> None:
    expect(RewindStands, run(with_queue(), rewind_to(TimeTarget(0), clamp=True)))


def test_a_time_before_the_time_to_live_is_refused_but_for_a_skip() -> None:
    catalogue = with_queue()
    run(catalogue, AlterQueueWith(AlterQueue(QueueName("q")), encode_changes({"max_age_ms": 60_000})))
    expect(RewindStands, run(catalogue, rewind_to(TimeTarget(START_MS - 60_000))))
    refused = expect(Refused, run(catalogue, rewind_to(TimeTarget(START_MS - 60_001))))
    assert f"lies before the time to live, which reaches from {START_MS - 60_000}" in refused.message
    expect(RewindStands, run(catalogue, replace(rewind_to(TimeTarget(START_MS - 60_001)), forward=True)))


def test_a_time_before_the_rewind_window_is_refused_but_for_a_skip() -> None:
    catalogue = with_queue()
    run(catalogue, AlterQueueWith(AlterQueue(QueueName("q")), encode_changes({"rewind_ms": 60_000})))
    expect(RewindStands, run(catalogue, rewind_to(TimeTarget(START_MS - 60_000))))
    refused = expect(Refused, run(catalogue, rewind_to(TimeTarget(START_MS - 60_001))))
    assert f"lies before the rewind window, which reaches from {START_MS - 60_000}" in refused.message
    expect(RewindStands, run(catalogue, rewind_to(TimeTarget(START_MS - 60_001), clamp=True)))


def test_a_rewind_is_done_when_every_partition_has_said_so_once() -> None:
    catalogue = with_queue()
    run(catalogue, rewind_to(EarliestTarget()))
    second = expect(RewindStands, run(catalogue, done(1, 1)))
    assert second.rewind.is_pending
    assert catalogue.pending_rewinds() == [second.rewind]
    assert expect(RewindStands, run(catalogue, done(1, 1))).already
    first = expect(RewindStands, run(catalogue, done(1, 0)))
    assert not first.rewind.is_pending
    assert [row.partition for row in first.rewind.done] == [0, 1]
    assert catalogue.pending_rewinds() == []


def test_repeating_an_operation_finds_the_rewind_that_it_made() -> None:
    catalogue = with_queue()
    made = expect(RewindStands, run(catalogue, rewind_to(EarliestTarget(), operation_id=77)))
    again = expect(RewindStands, run(catalogue, rewind_to(LatestTarget(), operation_id=77)))
    assert again == RewindStands(made.rewind, already=True)
    create(catalogue, "r")
    refused = expect(Refused, run(catalogue, rewind_to(EarliestTarget(), operation_id=77, queue="r")))
    assert refused.kind is AlreadyExistsError


def test_operations_without_an_id_are_all_different() -> None:
    catalogue = with_queue()
    for rewind_id in (1, 2):
        assert expect(RewindStands, run(catalogue, rewind_to(EarliestTarget()))).rewind.rewind_id == rewind_id


def test_pending_rewinds_of_a_group_stand_in_the_order_of_their_decision_and_are_limited() -> None:
    catalogue = with_queue()
    for _ in range(3):
        run(catalogue, rewind_to(EarliestTarget()))
    assert [row.rewind_id for row in catalogue.pending_rewinds()] == [1, 2, 3]
    limits = CatalogueLimits(max_pending_rewinds=3)
    refused = expect(Refused, catalogue.preview(rewind_to(EarliestTarget()), limits, now_ms=START_MS))
    assert refused.kind is RequestTooLargeError
    assert "limits.max_pending_rewinds is 3" in refused.message


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (rewind_to(EarliestTarget(), queue="none"), NotFoundError),
        (
            BeginRewind(0, QueueName("q"), GroupName("A B"), EarliestTarget(), False, False, "", ""),
            InvalidArgumentError,
        ),
        (done(9, 0), NotFoundError),
        (done(1, 2), InvalidArgumentError),
    ],
)
def test_a_rewind_of_what_is_not_there_is_refused(command: BeginRewind, kind: type[Exception]) -> None:
    catalogue = with_queue()
    run(catalogue, rewind_to(EarliestTarget()))
    assert expect(Refused, run(catalogue, command)).kind is kind


def test_a_deleted_queue_takes_its_rewinds_along() -> None:
    catalogue = with_queue()
    run(catalogue, rewind_to(EarliestTarget()))
    run(catalogue, DeleteQueue(QueueName("q")))
    assert catalogue.rewinds() == []
    create(catalogue, "q")
    assert expect(RewindStands, run(catalogue, rewind_to(EarliestTarget()))).rewind.rewind_id == 2


def test_the_oldest_finished_rewind_is_forgotten_first_and_a_pending_one_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewinds, "MAX_REWINDS", 3)
    catalogue = with_queue(partitions=1)
    for _ in range(3):
        run(catalogue, rewind_to(EarliestTarget()))
    refused = expect(Refused, run(catalogue, rewind_to(EarliestTarget())))
    assert "3 rewinds that are not done yet" in refused.message
    for rewind_id in (3, 2):
        run(catalogue, done(rewind_id, 0))
    run(catalogue, rewind_to(EarliestTarget()))
    assert [row.rewind_id for row in catalogue.rewinds()] == [1, 3, 4]


def test_consumer_groups_are_named_as_partitions_name_them() -> None:
    for name in ("Billing_EU.1", "g" * 128):
        check_group_name(name)
        assert group_name_fault(name) is None
    for name in ("", "a b", "g" * 129, "ä", "a\n"):
        with pytest.raises(InvalidArgumentError):
            check_group_name(name)
        assert group_name_fault(name) is not None
