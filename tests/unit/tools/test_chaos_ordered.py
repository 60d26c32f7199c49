"""Chaos's judge of order: messages of a key that overtake, planted one by one."""

from __future__ import annotations

import pytest

from logbroker.ids import DEFAULT_GROUP
from logbroker.partition.commands import Bury, Cause, Nack
from logbroker.record.batch import Record
from tests.unit.tools.log_writer import LogWriter
from tools.chaos_kit.features.judge_ordered import judge_ordered
from tools.chaos_kit.judge import Verdict


def keyed(keys: str) -> LogWriter:
    """A message for each letter, which is its key."""
    writer = LogWriter(("keyed", 0))
    for number, key in enumerate(keys):
        writer.produce(Record(b"%d" % number, key=key.encode()))
    return writer


def findings(writer: LogWriter, *, by_key: bool = True) -> list[str]:
    verdict = Verdict()
    judge_ordered(writer.log(), verdict, by_key=by_key)
    return verdict.findings


def test_what_follows_an_acked_or_dead_message_of_its_key_is_fair() -> None:
    writer = keyed("aaab")
    writer.deliver(0)
    lease = writer.lease(1)
    writer.change(Bury(DEFAULT_GROUP, lease, ((1, 2),), Cause.REJECTED, ""))
    writer.deliver(2)
    assert findings(writer) == []


def test_messages_of_one_key_in_one_lease_are_fair_and_so_are_other_keys() -> None:
    writer = keyed("aabb")
    writer.lease(0, 1)
    writer.lease(2)
    assert findings(writer) == []


def test_a_message_that_overtakes_a_fresh_one_of_its_key_is_found() -> None:
    writer = keyed("aab")
    writer.lease(1)
    assert findings(writer) == ["keyed/0: entry 4 leases offset 1 while offset 0 of the same key is fresh"]


@pytest.mark.parametrize(("delay_ms", "state"), [(0, "available"), (5_000, "delayed")])
def test_a_message_that_overtakes_one_that_failed_is_found(delay_ms: int, state: str) -> None:
    writer = keyed("aa")
    lease = writer.lease(0)
    writer.change(Nack(DEFAULT_GROUP, lease, ((0, 1),), writer.now_ms + delay_ms, ""))
    writer.lease(1)
    assert findings(writer) == [f"keyed/0: entry 5 leases offset 1 while offset 0 of the same key is {state}"]


def test_a_message_that_is_leased_while_another_of_its_key_is_held_is_found() -> None:
    writer = keyed("aa")
    lease = writer.lease(0, 1)
    writer.change(Nack(DEFAULT_GROUP, lease, ((0, 1),), 0, ""))
    writer.lease(0)
    assert findings(writer) == ["keyed/0: entry 5 leases offset 0 while offset 1 of the same key is leased"]


def test_in_a_window_of_one_all_messages_are_of_one_key() -> None:
    writer = keyed("ab")
    writer.lease(1)
    assert findings(writer) == []
    assert findings(writer, by_key=False) == [
        "keyed/0: entry 3 leases offset 1 while offset 0 of the same key is fresh",
    ]
