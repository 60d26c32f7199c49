"""Chaos's judge of paused groups: each promise broken on purpose, once."""

from __future__ import annotations

import pytest

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition.commands import Pause, Purge, Resume
from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.features.judge_steered import judge_steered
from tools.chaos_kit.features.told import Steering, Told
from tools.chaos_kit.judge import Verdict
from tools.chaos_kit.record import Delivered, Outcome

PLACE = ("paused", 0)


class Story:
    """A log in which a group is paused; the operator was told so at 11.0 s."""

    def __init__(self, *, until_ms: int = 0, outcome: Outcome = Outcome.DONE) -> None:
        self.told = Told()
        self.writer = LogWriter(PLACE)
        self.writer.send(b"one")
        self.writer.change(Pause(DEFAULT_GROUP, "first", until_ms))
        self.told.steering.append(Steering("pause", DEFAULT_GROUP, 10.0, "first", until_ms, outcome, 11.0))

    def resume(self, *, at_s: float = 20.0, outcome: Outcome = Outcome.DONE) -> None:
        self.writer.change(Resume(DEFAULT_GROUP))
        self.told.steering.append(Steering("resume", DEFAULT_GROUP, at_s, outcome=outcome, done_s=at_s + 1.0))

    def receive(self, *, at_s: float) -> None:
        lease = self.writer.lease(0)
        self.told.record.delivered.append(Delivered(DEFAULT_GROUP, PLACE, lease, ((0, 1, b"one"),), at_s, 4.0))

    def findings(self) -> list[str]:
        verdict = Verdict()
        judge_steered(self.told, [self.writer.log()], verdict)
        return verdict.findings


def test_a_lease_after_the_group_is_resumed_is_fair() -> None:
    story = Story()
    story.resume()
    story.receive(at_s=21.0)
    assert story.findings() == []


def test_a_lease_while_the_group_is_paused_is_found() -> None:
    story = Story()
    story.receive(at_s=21.0)
    story.resume()
    assert "paused/0, group default: entry 3 leases ((0, 1),), and entry 2 has paused it" in story.findings()


@pytest.mark.parametrize(("waited_ms", "count"), [(999, 1), (1_000, 0)])
def test_a_pause_with_an_end_ends_in_log_time(waited_ms: int, count: int) -> None:
    story = Story(until_ms=1_001_000)
    story.writer.now_ms += waited_ms
    story.receive(at_s=21.0)
    assert len(story.findings()) == count


def test_what_comes_between_the_answer_and_the_resume_and_was_leased_later_is_found() -> None:
    story = Story()
    # In the log it is resumed though nobody has asked.
    story.writer.change(Resume(DEFAULT_GROUP))
    story.receive(at_s=13.5)
    lease = story.told.record.delivered[0].lease
    assert story.findings() == [
        f"paused/0, group default: lease {lease} came 2.500 s after the pause of entry 2 was confirmed",
    ]


def test_what_was_leased_before_the_pause_may_come_after_its_answer() -> None:
    story = Story()
    story.writer = LogWriter(PLACE)
    story.writer.send(b"one")
    story.receive(at_s=13.5)
    story.writer.change(Pause(DEFAULT_GROUP, "first", 0))
    assert story.findings() == []


def test_a_resume_without_an_answer_may_end_a_later_pause() -> None:
    story = Story()
    story.told.steering.insert(0, Steering("resume", DEFAULT_GROUP, 5.0, outcome=Outcome.UNKNOWN, done_s=9.0))
    story.writer.change(Resume(DEFAULT_GROUP))
    story.receive(at_s=13.5)
    assert story.findings() == []


def test_a_pause_that_was_confirmed_and_is_not_in_the_log_is_found() -> None:
    story = Story()
    story.writer = LogWriter(PLACE)
    assert story.findings() == ["paused/0: the pause 'first' was confirmed, and is not in the log"]


def test_a_pause_without_an_answer_need_not_be_in_the_log() -> None:
    story = Story(outcome=Outcome.UNKNOWN)
    story.writer = LogWriter(PLACE)
    assert story.findings() == []


@pytest.mark.parametrize(
    ("outcomes", "logged", "is_fair"),
    [
        ([Outcome.DONE], 1, True),
        ([Outcome.DONE], 0, False),
        ([Outcome.DONE], 2, False),
        ([Outcome.UNKNOWN], 0, True),
        ([Outcome.UNKNOWN], 1, True),
        ([], 1, False),
    ],
)
def test_a_purge_is_carried_out_once_if_it_was_confirmed_and_at_most_once_if_not(
    outcomes: list[Outcome], logged: int, is_fair: bool
) -> None:
    story = Story()
    story.told.steering += [Steering("purge", DEFAULT_GROUP, 20.0, outcome=outcome) for outcome in outcomes]
    for number in range(logged):
        story.writer.change(Purge(DEFAULT_GROUP, number + 1, 1, ""))
    assert (story.findings() == []) == is_fair
