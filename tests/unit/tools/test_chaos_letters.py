"""Chaos's judge of dead letters: each promise broken on purpose, once."""

from __future__ import annotations

import pytest

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition.commands import Bury, Cause, Moved
from logbroker.record.batch import Record
from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.features.judge_letters import judge_letters
from tools.chaos_kit.features.told import Redriving, Told
from tools.chaos_kit.judge import Verdict
from tools.chaos_kit.record import Outcome, Settled


class Story:
    """A partition in which messages die, and their dead-letter queue."""

    def __init__(self) -> None:
        self.told = Told()
        self.risky = LogWriter(("risky", 0), group=7)
        self.dead = LogWriter(("dead", 0), group=8)

    def bury(self, offset: int, *, confirmed: bool = True) -> None:
        lease = self.risky.lease(offset)
        self.risky.change(Bury(DEFAULT_GROUP, lease, ((offset, offset + 1),), Cause.REJECTED, "bad"))
        if confirmed:
            self.told.record.settled.append(
                Settled("reject", "default", self.risky.place, lease, (offset,), 1.0, Outcome.DONE)
            )

    def die(self, value: bytes) -> int:
        """A message that is rejected and buried in its log."""
        offset = self.risky.send(value)
        self.bury(offset)
        return offset

    def move(
        self, source: LogWriter, offset: int, target: LogWriter, value: bytes, origin: int, copies: int = 1
    ) -> None:
        """Move a message that was first at the offset `origin` of the risky queue, so many times too often."""
        number = source.move_out(offset, target)
        headers = (("logbroker-origin-id", b"risky/0/%d" % origin), ("logbroker-origin-ms", b"1"))
        for copy in range(copies):
            target.move_in(source, number + copy, Record(value, headers=headers))
        source.change(Moved(DEFAULT_GROUP, target.group, number, False))

    def redrive(self, offset: int, value: bytes, origin: int, *, copies: int = 1) -> None:
        self.move(self.dead, offset, self.risky, value, origin, copies)
        self.told.redriving.append(Redriving(2.0, Outcome.DONE, 1))

    def verdict(self) -> Verdict:
        verdict = Verdict()
        judge_letters(self.told, [self.risky.log()], self.dead.log(), verdict)
        return verdict


def test_what_dies_is_in_the_dead_letter_queue_and_comes_back_once() -> None:
    story = Story()
    offset = story.die(b"one")
    story.move(story.risky, offset, story.dead, b"one", offset)
    story.redrive(0, b"one", offset)
    # It may die again, and is known by its first place.
    story.bury(1)
    story.move(story.risky, 1, story.dead, b"one", offset)
    verdict = story.verdict()
    assert verdict.findings == []
    assert verdict.features == {"dead letters": 2, "dead letters redriven": 1, "rejects": 2}


def test_what_died_and_is_not_in_the_dead_letter_queue_is_lost() -> None:
    story = Story()
    story.die(b"one")
    verdict = story.verdict()
    assert verdict.findings == ["risky/0/0 died and is in the dead-letter queue: 1 times and 0 times"]
    assert verdict.lost == 1


def test_what_is_in_the_dead_letter_queue_twice_is_doubled() -> None:
    story = Story()
    offset = story.die(b"one")
    story.move(story.risky, offset, story.dead, b"one", offset, copies=2)
    verdict = story.verdict()
    assert verdict.findings[0] == "risky/0/0 died and is in the dead-letter queue: 1 times and 2 times"
    assert verdict.doubled == 1


def test_a_dead_letter_that_did_not_die_is_found() -> None:
    story = Story()
    offset = story.risky.send(b"one")
    story.move(story.risky, offset, story.dead, b"one", offset)
    assert story.verdict().findings == ["risky/0/0 died and is in the dead-letter queue: 0 times and 1 times"]


def test_what_was_sent_to_the_dead_letter_queue_is_no_dead_letter() -> None:
    story = Story()
    story.dead.send(b"phantom")
    assert story.verdict().findings == ["dead/0: offset 0 is no dead letter"]


@pytest.mark.parametrize(("copies", "counter"), [(0, "lost"), (2, "doubled")])
def test_what_was_redriven_and_is_not_back_exactly_once_is_found(copies: int, counter: str) -> None:
    story = Story()
    offset = story.die(b"one")
    story.move(story.risky, offset, story.dead, b"one", offset)
    story.redrive(0, b"one", offset, copies=copies)
    verdict = story.verdict()
    assert verdict.findings[0] == f"risky/0/0 was redriven and is back: 1 times and {copies} times"
    assert getattr(verdict, counter) == 1


def test_a_message_that_is_on_its_way_in_the_end_is_stuck() -> None:
    story = Story()
    offset = story.die(b"one")
    number = story.risky.move_out(offset, story.dead)
    story.dead.move_in(story.risky, number, Record(b"one", headers=(("logbroker-origin-id", b"risky/0/0"),)))
    verdict = story.verdict()
    assert verdict.findings == ["risky/0: on their way to another queue in the end: offsets [0]"]
    assert verdict.stuck == 1


def test_a_dead_letter_with_another_value_is_found() -> None:
    story = Story()
    offset = story.die(b"one")
    story.move(story.risky, offset, story.dead, b"other", offset)
    assert "dead/0: offset 0 is b'other', risky/0/0 is b'one'" in story.verdict().findings


def test_a_reject_that_was_confirmed_and_is_not_in_the_log_is_found() -> None:
    story = Story()
    offset = story.risky.send(b"one")
    lease = story.risky.lease(offset)
    story.told.record.settled.append(Settled("reject", "default", ("risky", 0), lease, (0,), 1.0, Outcome.DONE))
    assert story.verdict().findings == ["risky/0: the reject of offset 0 was confirmed, and is not in the log"]


@pytest.mark.parametrize(
    ("redriving", "finding"),
    [
        ([Redriving(2.0, Outcome.DONE, 2)], "redrives were told of 2 messages moved, and 1 were"),
        ([], "1 messages were redriven, and nobody asked for it"),
    ],
)
def test_a_redrive_that_moved_less_than_it_said_or_that_nobody_asked_for_is_found(
    redriving: list[Redriving], finding: str
) -> None:
    story = Story()
    offset = story.die(b"one")
    story.move(story.risky, offset, story.dead, b"one", offset)
    story.redrive(0, b"one", offset)
    story.told.redriving[:] = redriving
    assert story.verdict().findings == [finding]
