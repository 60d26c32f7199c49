"""Chaos's judge of ids of one's own: each promise broken on purpose, once."""

from __future__ import annotations

import pytest

from logbroker.partition.commands import Dedupe
from logbroker.record.batch import Record
from logbroker.record.dedup_ids import DEDUP_HEADER, hash_records
from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.features.judge_ids import judge_ids
from tools.chaos_kit.features.told import Attempt, Told
from tools.chaos_kit.judge import Verdict
from tools.chaos_kit.record import Outcome

PLACE = ("unique", 0)


class Story:
    def __init__(self) -> None:
        self.told = Told()
        self.writer = LogWriter(PLACE)

    def append(self, name: bytes = b"a", value: bytes = b"a") -> int:
        record = Record(value, headers=((DEDUP_HEADER, name),))
        hashes, bodies = hash_records([record]) or (b"", b"")
        self.writer.change(Dedupe(300_000, 1_000, hashes, bodies))
        return self.writer.produce(record)

    def answer(self, offset: int, *, is_duplicate: bool = False, value: bytes = b"a") -> None:
        self.told.attempts.append(
            Attempt("a", value, 1.0, Outcome.DONE, 2.0, place=PLACE, offset=offset, is_duplicate=is_duplicate)
        )

    def refuse(self, *, is_conflict: bool = False, value: bytes = b"a") -> None:
        self.told.attempts.append(Attempt("a", value, 1.0, Outcome.REFUSED, is_conflict=is_conflict))

    def verdict(self) -> Verdict:
        verdict = Verdict()
        judge_ids(self.told, [self.writer.log()], verdict)
        return verdict


def test_an_id_that_stands_twice_and_is_delivered_once_is_fair() -> None:
    story = Story()
    offset = story.append()
    story.append()
    story.writer.deliver(offset)
    story.answer(offset)
    story.answer(offset, is_duplicate=True)
    story.refuse(is_conflict=True, value=b"other")
    verdict = story.verdict()
    assert verdict.findings == []
    assert verdict.features["ids confirmed as duplicates"] == 1


def test_an_id_that_is_delivered_twice_is_doubled() -> None:
    story = Story()
    story.append()
    story.append()
    story.writer.deliver(0, 1)
    story.answer(0)
    verdict = story.verdict()
    assert verdict.doubled == 1
    assert "id a was delivered at [(('unique', 0), 0), (('unique', 0), 1)]" in verdict.findings


def test_an_id_that_was_confirmed_and_is_delivered_nowhere_is_lost() -> None:
    story = Story()
    story.append()
    story.answer(0)
    verdict = story.verdict()
    assert verdict.lost == 1
    assert "delivered to nobody" in verdict.findings[0]


def test_a_duplicate_that_is_told_another_place_than_the_first_is_found() -> None:
    story = Story()
    story.append()
    story.append()
    story.writer.deliver(0)
    story.answer(1, is_duplicate=True)
    assert "id a was confirmed at ('unique', 0) 1" in story.verdict().findings[0]


def test_an_id_that_is_new_twice_is_found() -> None:
    story = Story()
    story.append()
    story.writer.deliver(0)
    story.answer(0)
    story.answer(0)
    assert story.verdict().findings == ["id a was confirmed as new 2 times"]


def test_another_value_that_is_confirmed_or_delivered_is_found() -> None:
    story = Story()
    story.append(value=b"other")
    story.writer.deliver(0)
    story.answer(0, value=b"other")
    findings = story.verdict().findings
    assert "was confirmed with another value" in findings[0]
    assert "was delivered at (('unique', 0), 0) as b'other'" in findings[1]


def test_a_conflict_with_itself_is_found() -> None:
    story = Story()
    story.append()
    story.writer.deliver(0)
    story.answer(0)
    story.refuse(is_conflict=True)
    assert story.verdict().findings == ["id a was refused as a conflict with itself"]


def test_an_id_that_was_refused_alone_and_stands_in_the_log_is_found() -> None:
    story = Story()
    story.append()
    story.refuse()
    assert "each of its senders was told that it was refused" in story.verdict().findings[0]


def test_an_id_that_nobody_sent_is_found() -> None:
    story = Story()
    story.append(b"phantom")
    assert "id phantom was sent by nobody" in story.verdict().findings[0]


@pytest.mark.parametrize("is_acked", [True, False])
def test_an_id_that_is_delivered_and_never_acked_is_found(is_acked: bool) -> None:
    story = Story()
    story.append()
    lease = story.writer.lease(0)
    if is_acked:
        story.writer.ack(lease, 0)
    story.answer(0)
    assert len(story.verdict().findings) == (not is_acked)
