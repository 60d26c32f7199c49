"""Chaos's judge of delayed messages: each promise broken on purpose, once."""

from __future__ import annotations

import pytest

from logbroker.partition.commands import Cancel, DeliverAt
from tests.unit.tools.log_writer import START_MS, LogWriter
from tools.chaos_kit.faults import Strike
from tools.chaos_kit.features.judge_delayed import judge_delayed, quiet_lateness
from tools.chaos_kit.features.told import Cancelling, Delayed, Told
from tools.chaos_kit.judge import Verdict
from tools.chaos_kit.record import Outcome, Sent

PLACE = ("later", 0)
DUE_MS = START_MS + 2_000


class Story:
    """One message that was sent with a delay of 2 s and confirmed, and is due then."""

    def __init__(self, *, due_ms: int = DUE_MS) -> None:
        self.told = Told()
        self.writer = LogWriter(PLACE)
        self.writer.change(DeliverAt(due_ms))
        sent = Sent(b"one", "a", 0, PLACE, 100.0, Outcome.DONE, 100.01, self.writer.send(b"one"))
        self.told.delayed.append(Delayed(sent, 2_000, 0))

    def cancel(self, *, in_log: bool, is_cancelled: bool, outcome: Outcome = Outcome.DONE) -> None:
        if in_log:
            self.writer.change(Cancel(((0, 1),)))
        self.told.cancelling.append(Cancelling(0, 100.5, outcome, is_cancelled))

    def lease_at(self, ms: int) -> None:
        self.writer.now_ms = ms
        self.writer.deliver(0)

    def findings(self) -> list[str]:
        verdict = Verdict()
        judge_delayed(self.told, self.writer.log(), verdict)
        return verdict.findings


@pytest.mark.parametrize("late_ms", [0, 1, 5_000])
def test_a_message_that_is_delivered_when_it_is_due_or_later_is_fair(late_ms: int) -> None:
    story = Story()
    story.lease_at(DUE_MS + late_ms)
    assert story.findings() == []


def test_a_message_that_is_leased_before_it_is_due_is_found() -> None:
    story = Story()
    story.lease_at(DUE_MS - 1)
    assert story.findings() == [
        f"later/0, group default: offset 0 was leased at {DUE_MS - 1}, 1 ms before it is due",
    ]


@pytest.mark.parametrize(("due_ms", "late_ms"), [(DUE_MS - 100, -100), (DUE_MS + 200, 200)])
def test_another_due_time_than_was_asked_for_is_found(due_ms: int, late_ms: int) -> None:
    story = Story(due_ms=due_ms)
    story.lease_at(due_ms)
    assert story.findings() == [f"later/0: offset 0 is due {late_ms} ms after the time that its sender asked for"]


def test_a_delayed_message_whose_due_time_is_lost_is_found() -> None:
    story = Story()
    story.writer = LogWriter(PLACE)
    story.writer.send(b"one")
    assert story.findings() == ["later/0: offset 0 is due -2000 ms after the time that its sender asked for"]


def test_a_time_that_was_past_when_the_message_was_appended_is_no_delay() -> None:
    story = Story()
    story.told.delayed[:] = [Delayed(story.told.delayed[0].sent, 0, START_MS - 1)]
    story.writer = LogWriter(PLACE)
    story.writer.send(b"one")
    assert story.findings() == []


def test_a_cancelled_message_that_is_delivered_is_found() -> None:
    story = Story()
    story.cancel(in_log=True, is_cancelled=True)
    story.lease_at(DUE_MS)
    assert story.findings() == [
        "later/0: offset 0 was delivered, though its sender was told that it is cancelled",
    ]


def test_a_cancelled_message_that_is_not_delivered_is_fair() -> None:
    story = Story()
    story.cancel(in_log=True, is_cancelled=True)
    assert story.findings() == []


@pytest.mark.parametrize("in_log", [True, False])
def test_an_answer_to_a_cancellation_that_the_log_does_not_hold_is_found(in_log: bool) -> None:
    story = Story()
    story.cancel(in_log=in_log, is_cancelled=not in_log)
    assert "the log does not say what the canceller was told" in story.findings()[0]


@pytest.mark.parametrize("in_log", [True, False])
def test_a_cancellation_without_an_answer_may_have_been_carried_out_or_not(in_log: bool) -> None:
    story = Story()
    story.cancel(in_log=in_log, is_cancelled=False, outcome=Outcome.UNKNOWN)
    assert story.findings() == []


def test_a_cancellation_that_nobody_asked_for_is_found() -> None:
    story = Story()
    story.writer.change(Cancel(((0, 1),)))
    assert story.findings() == ["later/0: offset 0 is cancelled, and nobody asked for it"]


@pytest.mark.parametrize(
    ("strike", "count"),
    [
        (Strike("kill", (1,), 50.0, healed_s=60.0), 1),
        (Strike("kill", (1,), 50.0, healed_s=100.5), 0),
        (Strike("kill", (1,), 102.0, healed_s=103.0), 0),
        (Strike("kill", (1,), 110.0), 1),
        (Strike("kill", (1,), 50.0), 0),
    ],
)
def test_lateness_is_measured_of_what_is_due_while_no_fault_is_at_work(strike: Strike, count: int) -> None:
    story = Story()
    story.lease_at(DUE_MS + 70)
    assert quiet_lateness(story.told, story.writer.log(), [strike]) == [0.07] * count
