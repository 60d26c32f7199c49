"""Chaos's judge of full queues: each promise broken on purpose, once."""

from __future__ import annotations

import pytest

from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.features.judge_bounded import judge_bounded, judge_newest
from tools.chaos_kit.features.queues import BOUNDED
from tools.chaos_kit.features.told import Told
from tools.chaos_kit.judge import Verdict, fold
from tools.chaos_kit.record import Delivered, Outcome, Sent

PLACE = ("newest", 0)


class Story:
    """A queue that holds three messages and had five."""

    def __init__(self, *, floor: int = 2, start: int = 1) -> None:
        self.told = Told()
        self.writer = LogWriter(PLACE, first_index=9, first_offset=start)
        for number in range(5):
            value = b"%d" % number
            self.told.record.sent.append(Sent(value, "a", number, PLACE, 1.0, Outcome.DONE, 2.0, number))
            if number >= start:
                self.writer.send(value)
        self.writer.drop(floor)

    def verdict(self) -> Verdict:
        verdict = Verdict()
        judge_newest(self.told, PLACE, self.writer.entries, verdict, max_messages=3)
        return verdict


def test_a_queue_may_drop_what_is_too_much_and_its_log_may_keep_more() -> None:
    verdict = Story().verdict()
    assert verdict.findings == []
    assert verdict.features["dropped by a full queue"] == 2


def test_a_queue_that_drops_more_than_it_has_to_is_found() -> None:
    assert Story(floor=3).verdict().findings == [
        "newest/0: entry 13 drops all but 2 messages of a queue that holds 3",
    ]


def test_a_log_that_begins_behind_what_was_dropped_is_found() -> None:
    assert Story(start=3).verdict().findings[0] == (
        "newest/0: the log begins at offset 3, and was to be dropped up to 2 alone"
    )


def test_a_confirmed_message_that_was_not_dropped_and_is_gone_is_lost() -> None:
    story = Story()
    story.told.record.sent.append(Sent(b"gone", "b", 0, PLACE, 1.0, Outcome.DONE, 2.0, 5))
    assert story.verdict().lost == 1


def test_a_delivery_with_another_value_than_was_confirmed_there_is_found() -> None:
    story = Story()
    story.told.record.delivered.append(Delivered("default", PLACE, 1 << 16, ((0, 1, b"other"),), 3.0, 4.0))
    assert story.verdict().findings == ["newest/0: offset 0 is b'0', and came as b'other'"]


def test_a_queue_that_refuses_and_has_dropped_something_is_found() -> None:
    writer = LogWriter(BOUNDED.places()[0])
    writer.send(b"one")
    writer.drop(1)
    verdict = Verdict()
    judge_bounded(Told(), writer.log(), verdict)
    assert verdict.findings == ["bounded/0: the log begins at 1, and nothing may be dropped"]


@pytest.mark.parametrize(("count", "is_clean"), [(20, True), (21, False)])
def test_the_model_of_a_queue_knows_its_bound(count: int, is_clean: bool) -> None:
    writer = LogWriter(BOUNDED.places()[0])
    for number in range(count):
        writer.send(b"%d" % number)
    verdict = Verdict()
    fold(writer.place, writer.entries, BOUNDED.model(), verdict)
    assert verdict.is_clean == is_clean
