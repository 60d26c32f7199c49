"""Chaos's judge: each promise broken on purpose, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition.commands import Ack, Expire, Lease, Nack, Rewind
from tests.simulation.partition_script import PartitionScript
from tools.chaos_kit.judge import Verdict, judge
from tools.chaos_kit.logs import LogsError, agreed_log
from tools.chaos_kit.record import Delivered, Outcome, Record, Rewinding, Sent, Settled

if TYPE_CHECKING:
    from logbroker.entry import Entry

PLACE = ("orders", 0)


class Story:
    """A partition's log and what its clients were told; `verdict` judges them."""

    def __init__(self) -> None:
        self.script = PartitionScript()
        self.record = Record()
        self.now_s = 100.0

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.script.now_ms += round(seconds * 1000)

    def send(self, value: bytes, *, number: int = 0, sender: str = "a", offset: int | None = None) -> Sent:
        """A message that is in the log and confirmed; with `offset`, confirmed at another place."""
        sent = Sent(value, sender, number, PLACE, self.now_s)
        base_offset = self.script.produce(value)
        self.record.sent.append(sent)
        self.record.confirm(sent, offset=base_offset if offset is None else offset, now_s=self.now_s)
        self.record.read[PLACE, sent.offset] = value
        return sent

    def receive(self, *, hide_ms: int = 4_000) -> Delivered:
        """A lease of all there is, as it is in the log."""
        leased = self.script.receive(hide_ms=hide_ms)
        assert leased is not None
        messages = tuple(
            (offset, held.deliveries, self.script.model.values[offset])
            for held in leased.ranges
            for offset in range(held.start, held.end)
        )
        delivered = Delivered(DEFAULT_GROUP, PLACE, leased.lease, messages, self.now_s, hide_ms / 1000)
        self.record.delivered.append(delivered)
        return delivered

    def settled(self, verb: str, delivered: Delivered) -> Settled:
        """The consumer was told that it is done."""
        offsets = tuple(offset for offset, _, _ in delivered.messages)
        settled = Settled(verb, DEFAULT_GROUP, PLACE, delivered.lease, offsets, self.now_s, Outcome.DONE)
        self.record.settled.append(settled)
        return settled

    def verdict(self, *, skew_s: float = 0.1, log: list[Entry] | None = None) -> Verdict:
        verdict = Verdict()
        judge(self.record, {PLACE: self.script.entries if log is None else log}, verdict, skew_s=skew_s)
        return verdict


def test_a_story_in_which_all_is_well_is_clean_and_counted() -> None:
    story = Story()
    story.send(b"one")
    story.send(b"two", number=1)
    delivered = story.receive()
    story.script.change(Ack(DEFAULT_GROUP, delivered.lease, ((0, 2),)))
    story.settled("ack", delivered)
    verdict = story.verdict()
    assert verdict.findings == []
    assert (verdict.confirmed, verdict.leases, verdict.acks) == (2, 1, 1)


def test_a_confirmed_message_that_is_not_in_the_log_is_lost() -> None:
    story = Story()
    story.send(b"one")
    missing = Sent(b"two", "a", 1, PLACE, story.now_s)
    story.record.sent.append(missing)
    story.record.confirm(missing, offset=1, now_s=story.now_s)
    story.record.read[PLACE, 1] = b"two"
    verdict = story.verdict()
    assert verdict.lost == 1
    assert "lost: b'two'" in verdict.findings[0]


def test_a_confirmed_message_at_another_offset_is_lost() -> None:
    story = Story()
    story.send(b"one", offset=5)
    assert story.verdict().lost == 1


def test_a_message_that_stands_twice_is_doubled() -> None:
    story = Story()
    story.send(b"one")
    # Without a producer id nothing keeps it out.
    log = list(story.script.entries)
    other = PartitionScript()
    other.produce(b"one")
    other.model.offset_of.clear()
    other.produce(b"one")
    verdict = story.verdict(log=other.entries)
    assert len(log) == 1
    assert verdict.doubled == 1


def test_what_was_refused_must_not_be_there_and_what_is_unknown_may() -> None:
    story = Story()
    story.send(b"one")
    story.script.produce(b"two")
    story.script.produce(b"three")
    story.record.sent += [
        Sent(b"two", "a", 1, PLACE, 0.0, Outcome.REFUSED, error="unavailable"),
        Sent(b"three", "a", 2, PLACE, 0.0, Outcome.UNKNOWN),
    ]
    findings = story.verdict().findings
    assert len(findings) == 1
    assert "told that it was not committed" in findings[0]


def test_what_nobody_sent_is_found() -> None:
    story = Story()
    story.script.produce(b"phantom")
    assert "was sent by nobody" in story.verdict().findings[0]


def test_a_senders_messages_out_of_order_are_found() -> None:
    story = Story()
    story.send(b"second", number=1)
    story.send(b"first", number=0)
    assert "out of order" in story.verdict().findings[0]


def test_a_message_that_is_never_read_again_is_lost() -> None:
    story = Story()
    story.send(b"one")
    story.record.read.clear()
    assert story.verdict().lost == 1


def test_a_delivery_that_is_not_in_the_log_is_found() -> None:
    story = Story()
    story.send(b"one")
    story.record.delivered.append(Delivered(DEFAULT_GROUP, PLACE, 99 << 16, ((0, 1, b"one"),), story.now_s, 4.0))
    assert "is not in the log" in story.verdict().findings[0]


@pytest.mark.parametrize("told", [(0, 2, b"one"), (0, 1, b"other")])
def test_a_delivery_with_another_count_or_content_is_found(told: tuple[int, int, bytes]) -> None:
    story = Story()
    story.send(b"one")
    delivered = story.receive()
    story.record.delivered[:] = [
        Delivered(DEFAULT_GROUP, PLACE, delivered.lease, (told,), delivered.received_s, delivered.hide_s)
    ]
    assert len(story.verdict().findings) == 1


def test_an_ack_that_was_confirmed_and_is_not_in_the_log_is_found() -> None:
    story = Story()
    story.send(b"one")
    story.settled("ack", story.receive())
    assert "the ack of offset 0 was confirmed" in story.verdict().findings[0]


def test_two_leases_of_one_message_at_once_are_counted() -> None:
    story = Story()
    story.send(b"one")
    story.receive()
    # Neither machine nor model would do it: the log is that of a cluster gone wrong.
    entry = story.script.entries[-1]
    script = PartitionScript()
    script.produce(b"one")
    script.change(Lease(DEFAULT_GROUP, ((0, 1),), entry.append_ms + 4_000, "c", 9, 1))
    script.model.groups[DEFAULT_GROUP].messages.clear()
    script.change(Lease(DEFAULT_GROUP, ((0, 1),), entry.append_ms + 4_000, "c", 9, 2))
    story.record.delivered.clear()
    verdict = story.verdict(log=script.entries)
    assert verdict.overlapping == 1
    assert "leased once at a time" in verdict.findings[0]


def test_a_lease_that_ends_early_in_real_time_is_counted_though_log_time_ran_on() -> None:
    story = Story()
    story.send(b"one")
    story.receive(hide_ms=4_000)
    story.now_s += 1.0
    story.script.now_ms += 4_000
    story.script.change(Expire(DEFAULT_GROUP, ((0, 1),)))
    story.receive()
    verdict = story.verdict()
    assert verdict.overlapping == 1
    assert "2.896 s before" in verdict.findings[0]
    # The same is fair where the clocks of nodes may differ by so much.
    assert story.verdict(skew_s=3.0).is_clean


def test_a_lease_after_its_time_or_after_a_nack_is_fair() -> None:
    story = Story()
    story.send(b"one")
    story.receive(hide_ms=4_000)
    story.pass_time(4.1)
    story.script.change(Expire(DEFAULT_GROUP, ((0, 1),)))
    delivered = story.receive(hide_ms=4_000)
    story.pass_time(0.1)
    story.script.change(Nack(DEFAULT_GROUP, delivered.lease, ((0, 1),), 0, "again"))
    story.receive(hide_ms=4_000)
    assert story.verdict().findings == []


def rewound(story: Story, *, start: int, moved: int, target_ms: int) -> Rewinding:
    rewinding = Rewinding(
        DEFAULT_GROUP, "orders", target_ms, story.now_s, Outcome.DONE, partitions=((0, start, moved),)
    )
    story.record.rewound.append(rewinding)
    return rewinding


@pytest.mark.parametrize(("start", "moved", "is_good"), [(1, 1, True), (0, 1, False), (1, 2, False)])
def test_a_rewind_is_as_exact_as_its_answer_says(start: int, moved: int, is_good: bool) -> None:
    story = Story()
    story.send(b"one")
    story.pass_time(1.0)
    target_ms = story.script.now_ms
    story.send(b"two", number=1)
    delivered = story.receive()
    story.script.change(Ack(DEFAULT_GROUP, delivered.lease, ((0, 2),)))
    story.script.change(Rewind(DEFAULT_GROUP, 1, 1, "by time"))
    rewound(story, start=start, moved=moved, target_ms=target_ms)
    assert story.verdict().is_clean == is_good


def test_a_rewind_that_nobody_asked_for_or_that_was_carried_out_twice_is_found() -> None:
    story = Story()
    story.send(b"one")
    for rewind_id in (1, 2):
        story.script.change(Rewind(DEFAULT_GROUP, rewind_id, 0, "by time"))
    rewound(story, start=0, moved=0, target_ms=0)
    assert "2 rewinds, and 1 were asked for" in story.verdict().findings[0]


def test_a_log_is_what_a_majority_holds() -> None:
    story = Story()
    for number in range(3):
        story.send(b"%d" % number, number=number)
    entries = story.script.entries
    assert agreed_log(7, {1: entries, 2: entries[:2], 3: entries[:1]}, size=3) == entries[:2]


def test_a_log_begins_where_a_majority_begins() -> None:
    story = Story()
    for number in range(4):
        story.send(b"%d" % number, number=number)
    entries = story.script.entries
    assert agreed_log(7, {1: entries, 2: entries[2:], 3: entries[3:]}, size=3) == entries[2:]
    assert agreed_log(7, {1: entries, 2: []}, size=3) == []


def test_two_entries_of_one_index_and_term_are_found() -> None:
    first, second = Story(), Story()
    first.send(b"one")
    second.send(b"other")
    with pytest.raises(LogsError, match="nodes 1 and 2 differ"):
        agreed_log(7, {1: first.script.entries, 2: second.script.entries}, size=3)
