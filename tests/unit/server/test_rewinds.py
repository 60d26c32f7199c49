from __future__ import annotations

from logbroker.errors import NotFoundError, UnavailableError
from logbroker.ids import GroupId, GroupName, Offset, QueueName
from logbroker.node.catalogue.commands import BeginRewind, FinishRewind
from logbroker.node.requests import EarliestTarget, OffsetTarget, RewindReply, RewindRequest
from logbroker.server.rewinds import RewindDriver
from logbroker.wire import requests as wire
from tests.unit.server.kit import FakeBackend


def begin(operation: int, target: wire.Target | None = None, *, group: str = "default") -> BeginRewind:
    return BeginRewind(
        operation, QueueName("orders"), GroupName(group), target or wire.EarliestTarget(), False, False, "tester", ""
    )


def done(rewind_id: int, start: int = 0, *, clamped: bool = False) -> RewindReply:
    return RewindReply(rewind_id, Offset(start), 1_000, 12, 0, clamped)


def test_every_partition_led_here_is_asked_once_and_its_answer_reported_until_the_catalogue_has_it() -> None:
    backend = FakeBackend(partitions=3)
    backend.leaders[2] = 3
    backend.change(begin(77))
    driver = RewindDriver(backend)
    driver.drive()
    driver.drive()
    first, second = backend.take(RewindRequest), backend.take(RewindRequest)
    assert backend.asked == []
    assert (first[0], second[0]) == (GroupId(1), GroupId(3))
    assert first[1] == RewindRequest(GroupName("default"), 1, EarliestTarget(), forward=False, clamp=True)
    first[2](done(1))
    driver.drive()
    driver.drive()
    report = FinishRewind(1, 0, 0, 1_000, 12, "")
    assert backend.reported == [report, report]
    backend.change(report)
    backend.reported.clear()
    driver.drive()
    assert backend.reported == []


def test_rewinds_of_a_group_come_to_a_partition_in_their_order() -> None:
    backend = FakeBackend()
    backend.change(begin(77), begin(78), begin(79, group="billing"))
    driver = RewindDriver(backend)
    driver.drive()
    (_, first, answer), (_, other, _) = backend.take(RewindRequest), backend.take(RewindRequest)
    assert (first.rewind_id, other.rewind_id) == (1, 3)
    assert backend.asked == []
    answer(done(1))
    driver.drive()
    assert backend.asked == []
    backend.change(FinishRewind(1, 0, 0, 0, 0, ""))
    driver.drive()
    assert backend.take(RewindRequest)[1].rewind_id == 2


def test_a_partition_that_cannot_answer_is_asked_again() -> None:
    backend = FakeBackend()
    backend.change(begin(77))
    driver = RewindDriver(backend)
    driver.drive()
    backend.take(RewindRequest)[2](UnavailableError("an election"))
    assert backend.reported == []
    driver.drive()
    backend.take(RewindRequest)


def test_a_partition_that_has_nothing_to_move_reports_why_because_the_rewind_is_decided() -> None:
    backend = FakeBackend()
    backend.change(begin(77))
    driver = RewindDriver(backend)
    driver.drive()
    backend.take(RewindRequest)[2](NotFoundError("there is no consumer group default"))
    driver.drive()
    assert backend.reported == [FinishRewind(1, 0, 0, 0, 0, "there is no consumer group default")]


def test_partitions_that_are_not_named_are_done_without_being_asked() -> None:
    backend = FakeBackend(partitions=2)
    backend.change(begin(77, wire.MessageTarget([(1, 5)])))
    driver = RewindDriver(backend)
    driver.drive()
    group, request, _ = backend.take(RewindRequest)
    assert (group, request.target) == (GroupId(2), OffsetTarget(Offset(5)))
    assert backend.reported == [FinishRewind(1, 0, 0, 0, 0, "not named: it stays as it is")]


def test_a_start_that_is_not_the_one_asked_for_is_told() -> None:
    backend = FakeBackend()
    backend.change(begin(77, wire.OffsetTarget(3)))
    driver = RewindDriver(backend)
    driver.drive()
    backend.take(RewindRequest)[2](done(1, start=40))
    driver.drive()
    (report,) = backend.reported
    assert isinstance(report, FinishRewind)
    assert report.clamped == "offset 3 is not there; it is 40, the nearest that is"


def test_a_node_without_a_catalogue_drives_nothing() -> None:
    backend = FakeBackend()
    backend.has_catalogue = False
    RewindDriver(backend).drive()
    assert backend.asked == []
