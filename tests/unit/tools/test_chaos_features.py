"""What chaos judges of every queue of a feature, and how the report tells of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from logbroker.ids import DEFAULT_GROUP, GroupName
from logbroker.partition.commands import CreateGroup, Expire, Lease, Pause, Purge, Resume, SkipTo
from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.disks import DiskKind
from tools.chaos_kit.features.judge import judge_features
from tools.chaos_kit.features.queues import KEYED, PAUSED, QUEUES, RISKY, SINGLE
from tools.chaos_kit.features.told import Steering, Told
from tools.chaos_kit.judge import Verdict
from tools.chaos_kit.record import Delivered, Outcome, Sent, Settled
from tools.chaos_kit.report import Report
from tools.chaos_kit.rounds import RoundOptions, RoundResult

if TYPE_CHECKING:
    from tools.chaos_kit.features.queues import FeatureQueue


class Story:
    """The logs of all queues; what a test does not write is empty."""

    def __init__(self) -> None:
        self.told = Told()
        self.logs = {place: LogWriter(place, group=3) for queue in QUEUES for place in queue.places()}
        for place in PAUSED.places():
            self.logs[place].change(CreateGroup(GroupName("batch"), 0))

    def send(self, queue: FeatureQueue, value: bytes = b"one") -> LogWriter:
        place = queue.places()[0]
        writer = self.logs[place]
        self.told.record.sent.append(Sent(value, "a", 0, place, 1.0, Outcome.DONE, 2.0, writer.send(value)))
        return writer

    def verdict(self) -> Verdict:
        verdict = Verdict()
        judge_features(self.told, {place: log.entries for place, log in self.logs.items()}, [], verdict, skew_s=0.1)
        return verdict


def test_what_was_confirmed_and_is_delivered_and_settled_in_each_group_is_fair() -> None:
    story = Story()
    story.send(RISKY).deliver(0)
    writer = story.send(PAUSED)
    writer.deliver(0)
    writer.deliver(0, group="batch")
    verdict = story.verdict()
    assert verdict.findings == []
    assert verdict.features["messages confirmed in queues of features"] == 2


def test_what_is_not_settled_in_the_end_is_stuck() -> None:
    story = Story()
    story.send(PAUSED).deliver(0)
    verdict = story.verdict()
    assert verdict.stuck == 1
    assert "paused/0, group batch: not settled in the end: offsets [0]" in verdict.findings


@pytest.mark.parametrize(("change", "lost"), [(Purge, 0), (SkipTo, 1)])
def test_what_is_settled_without_a_delivery_is_lost_unless_it_was_purged(
    change: type[Purge] | type[SkipTo], lost: int
) -> None:
    story = Story()
    writer = story.send(PAUSED)
    writer.deliver(0)
    writer.change(change(GroupName("batch"), 1, 1, ""))
    story.told.steering.append(Steering("purge", "batch", 1.0, outcome=Outcome.UNKNOWN))
    assert story.verdict().lost == lost


def test_a_confirmed_message_that_is_not_in_the_log_is_lost() -> None:
    story = Story()
    story.told.record.sent.append(Sent(b"one", "a", 0, RISKY.places()[0], 1.0, Outcome.DONE, 2.0, 0))
    assert story.verdict().lost == 2, "not there, and not delivered"


def test_deliveries_and_acks_that_the_log_does_not_hold_are_found() -> None:
    story = Story()
    place = SINGLE.places()[0]
    story.send(SINGLE).deliver(0)
    story.told.record.delivered.append(Delivered("default", place, 99 << 16, ((0, 1, b"one"),), 3.0, 4.0))
    story.told.record.settled.append(Settled("ack", "default", place, 99 << 16, (1,), 3.0, Outcome.DONE))
    findings = story.verdict().findings
    assert "single/0, group default, lease 6488064: was delivered, and is not in the log" in findings
    assert (
        "single/0, group default, lease 6488064: the ack of offset 1 was confirmed, and is not in the log" in findings
    )


@pytest.mark.parametrize(("received_s", "overlapping"), [(1.0, 1), (5.0, 0)])
def test_a_lease_that_follows_one_which_cannot_have_run_for_its_time_is_counted(
    received_s: float, overlapping: int
) -> None:
    story = Story()
    place = SINGLE.places()[0]
    writer = story.send(SINGLE)
    writer.lease(0, hide_ms=4_000)
    # In between the group is paused, and the lease runs out all the same.
    writer.change(Pause(DEFAULT_GROUP, "", 0), Resume(DEFAULT_GROUP))
    writer.now_ms += 4_000
    writer.change(Expire(DEFAULT_GROUP, ((0, 1),)))
    lease = writer.lease(0)
    story.told.record.delivered.append(Delivered("default", place, lease, ((0, 2, b"one"),), received_s, 4.0))
    writer.ack(lease, 0)
    assert story.verdict().overlapping == overlapping


@pytest.mark.parametrize(("queue", "count", "is_clean"), [(KEYED, 8, True), (KEYED, 9, False), (SINGLE, 2, False)])
def test_the_models_know_the_windows_of_their_queues(queue: FeatureQueue, count: int, is_clean: bool) -> None:
    place = queue.places()[0]
    writer = LogWriter(place)
    writer.send(*(b"%d" % number for number in range(count)))
    writer.change(Lease(DEFAULT_GROUP, ((0, count),), writer.now_ms + 4_000, "c", 0, 0))
    story = Story()
    story.logs[place] = writer
    verdict = story.verdict()
    assert any("the window is in flight" in text for text in verdict.findings) != is_clean


def test_behind_a_broken_rule_the_model_is_asked_for_nothing_more() -> None:
    story = Story()
    writer = story.send(SINGLE)
    writer.lease(0)
    writer.deliver(0)
    assert len(story.verdict().findings) == 1


def test_a_log_that_is_missing_is_found() -> None:
    story = Story()
    del story.logs["later", 0]
    assert story.verdict().findings == ["the logs of [('later', 0)] are missing"]


def test_the_report_adds_up_what_the_rounds_counted() -> None:
    report = Report(1, 3, {}, "")
    for number in range(2):
        verdict = Verdict()
        verdict.count("pauses", 3)
        verdict.count(f"only in round {number}")
        options = RoundOptions(number, 1, 60.0, DiskKind.PLAIN, ())
        report.add(RoundResult(options, verdict, [], {}, 0.0, "", {"lateness": [0.02 + number]}))
    lines = list(report.lines())
    assert "features: only in round 0 1, only in round 1 1, pauses 6" in lines
    assert "lateness: p50 20 ms, p99 1020 ms, max 1020 ms, 2 times" in lines
    assert json.loads(json.dumps(report.values()))["totals"]["features"]["pauses"] == 6
