"""The model and the real state machine come to the same state, and the model refuses what no log may hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, Index, Offset, Term
from logbroker.partition.commands import Ack, Expire, Floor, Lease, Nack, Pause, encode_changes, encode_floor
from logbroker.record.batch import Record, encode_batch, encode_values, stamp
from logbroker.testing.checkers import compare_states
from logbroker.testing.order_rules import OrderRules
from logbroker.testing.violation import Violation
from tests.simulation.partition_script import GROUP, PartitionScript, run_at_random

if TYPE_CHECKING:
    from logbroker.partition.commands import Change


PAUSES = ("Pause", "Resume", "Purge", "Lease after the end of a pause")


def test_model_and_state_machine_agree_on_any_log() -> None:
    counts: Counter[str] = Counter()
    for seed in range(10):
        script, random = PartitionScript(), Random(seed)
        for _ in range(10):
            run_at_random(script, random, steps=40)
            compare_states(script.model, script.machine, f"machine of seed {seed}")
        counts.update(script.model.applied_counts)
    for what in ("DATA", "FLOOR", "Lease", "Ack", "Nack", "Extend", "Release", "Expire", "Rewind", "SkipTo", *PAUSES):
        assert counts[what] >= 10, f"{what} happened {counts[what]} times"


def planted() -> PartitionScript:
    """Ten messages; the first three are leased until 1,005,000."""
    script = PartitionScript()
    script.produce(*(b"value-%d" % number for number in range(10)))
    leased = script.receive(max_count=3, hide_ms=5_000)
    assert leased is not None
    return script


def violated_rule(script: PartitionScript, kind: EntryKind, payload: bytes, **fields: int) -> str:
    """Give the model alone one entry that no sound leader writes, and return the rule that it names."""
    entry = Entry(
        kind,
        GROUP,
        Index(fields.get("index", script.model.last_index + 1)),
        Term(fields.get("term", 1)),
        Offset(fields.get("base_offset", script.model.next_offset)),
        Offset(fields.get("next_offset", script.model.next_offset)),
        fields.get("append_ms", script.now_ms),
        payload,
    )
    with pytest.raises(Violation) as caught:
        script.model.apply(entry)
    return caught.value.rule


def changes(*of: Change) -> bytes:
    return encode_changes(of)


def lease_of(start: int, end: int) -> Lease:
    return Lease(DEFAULT_GROUP, ((start, end),), 1_009_000, "c", 1, 1)


def test_a_second_lease_of_a_leased_message_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.STATE, changes(lease_of(2, 5))) == "a message is leased once at a time"


def test_a_second_lease_is_a_violation_even_after_the_deadline_without_an_expire() -> None:
    script = planted()
    script.now_ms += 6_000
    assert violated_rule(script, EntryKind.STATE, changes(lease_of(2, 5))) == "a message is leased once at a time"


def test_a_lease_of_an_acked_message_is_a_violation() -> None:
    script = planted()
    script.change(Ack(DEFAULT_GROUP, script.machine.group(DEFAULT_GROUP).table.at(0).lease, ((0, 1),)))
    assert violated_rule(script, EntryKind.STATE, changes(lease_of(0, 1))) == "acked stays acked"


def test_a_lease_of_a_delayed_message_is_a_violation_before_it_is_due() -> None:
    script = planted()
    lease = script.machine.group(DEFAULT_GROUP).table.at(0).lease
    script.change(Nack(DEFAULT_GROUP, lease, ((0, 1),), script.now_ms + 500, ""))
    assert violated_rule(script, EntryKind.STATE, changes(lease_of(0, 1))) == "a delayed message waits"


@pytest.mark.parametrize("until_ms", [0, 1_005_000])
def test_a_lease_in_a_paused_group_is_a_violation_until_its_end(until_ms: int) -> None:
    script = planted()
    script.change(Pause(DEFAULT_GROUP, "night", until_ms))
    script.now_ms = 1_004_999
    rule = "nothing is leased while a group is paused"
    assert violated_rule(script, EntryKind.STATE, changes(lease_of(5, 6))) == rule


def test_a_lease_beyond_the_log_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.STATE, changes(lease_of(9, 11))) == "only readable messages are leased"


def test_a_lease_below_the_log_start_is_a_violation() -> None:
    script = planted()
    script.floor(5)
    assert violated_rule(script, EntryKind.STATE, changes(lease_of(4, 6))) == "only readable messages are leased"


def ordered(keys: str, *, window: int = 100, by_key: bool = False, blocks: bool = True) -> PartitionScript:
    """As `planted`, of messages with these keys, the first of which is leased."""
    script = PartitionScript()
    records = [Record(b"value-%d" % number, key.encode()) for number, key in enumerate(keys)]
    script.append(EntryKind.DATA, stamp(encode_batch(records), Offset(0), 1), record_count=len(keys))
    script.receive(max_count=1)
    script.model.order = OrderRules(window, by_key, blocks)
    return script


def test_more_in_flight_than_the_window_is_a_violation() -> None:
    rule = violated_rule(ordered("abcd", window=2), EntryKind.STATE, changes(lease_of(1, 3)))
    assert rule == "no more than the window is in flight"


def test_what_waits_after_a_failure_is_in_flight_where_failures_block() -> None:
    for blocks in (True, False):
        script = ordered("aab", by_key=True, blocks=blocks)
        lease = script.machine.group(DEFAULT_GROUP).table.at(0).lease
        script.change(Nack(DEFAULT_GROUP, lease, ((0, 1),), script.now_ms + 500, ""))
        if blocks:
            assert violated_rule(script, EntryKind.STATE, changes(lease_of(1, 2))) == "a key is in flight once"
        else:
            script.change(lease_of(1, 2))
            assert script.model.order is not None
            assert script.model.order.counts["order: a failed message is overtaken by the next of its key"] == 1


def test_a_window_of_one_that_lets_anything_by_is_a_violation() -> None:
    script = ordered("abc", window=1)
    lease = script.machine.group(DEFAULT_GROUP).table.at(0).lease
    script.change(Nack(DEFAULT_GROUP, lease, ((0, 1),), 0, ""))
    rule = violated_rule(script, EntryKind.STATE, changes(lease_of(1, 2)))
    assert rule == "with a window of one nothing is overtaken"


def test_a_later_message_of_a_key_before_an_earlier_one_is_a_violation() -> None:
    script = ordered("abb", by_key=True)
    script.change(lease_of(1, 3))
    rule = violated_rule(ordered("abb", by_key=True), EntryKind.STATE, changes(lease_of(2, 3)))
    assert rule == "of a key the lowest goes first"


def test_an_early_expiry_is_a_violation() -> None:
    early = changes(Expire(DEFAULT_GROUP, ((0, 3),)))
    assert violated_rule(planted(), EntryKind.STATE, early) == "a lease is never shortened"


def test_a_gap_in_the_log_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.NOOP, b"", index=9) == "entries are applied in order"


def test_a_term_that_goes_back_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.NOOP, b"", term=0) == "terms never go back in a log"


def test_log_time_that_goes_back_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.NOOP, b"", append_ms=999_999) == "log time never goes back"


def test_a_hole_in_the_offsets_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.NOOP, b"", base_offset=11, next_offset=11) == "offsets are dense"


def batch(*values: bytes, base_offset: int = 10, producer_id: int = -1, base_sequence: int = -1) -> bytes:
    epoch = 0 if producer_id >= 0 else -1
    plain = encode_values(
        values, timestamp_ms=1, producer_id=producer_id, producer_epoch=epoch, base_sequence=base_sequence
    )
    return stamp(plain, Offset(base_offset), Term(1))


def test_a_batch_that_takes_other_offsets_than_its_records_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.DATA, batch(b"new"), next_offset=12) == "offsets are dense"


def test_a_batch_stamped_with_another_place_is_a_violation() -> None:
    rule = violated_rule(planted(), EntryKind.DATA, batch(b"new", base_offset=9), next_offset=11)
    assert rule == "batches carry their place"


def test_a_message_that_is_in_the_log_twice_is_a_violation() -> None:
    assert violated_rule(planted(), EntryKind.DATA, batch(b"value-4"), next_offset=11) == "a message is in the log once"


def test_a_skipped_sequence_of_a_producer_is_a_violation() -> None:
    script = planted()
    script.produce(b"first", producer_id=5, base_sequence=0)
    skipped = batch(b"third", base_offset=11, producer_id=5, base_sequence=2)
    rule = violated_rule(script, EntryKind.DATA, skipped, next_offset=12)
    assert rule == "a producer's batches are in order and once"


def test_a_log_start_beyond_the_log_end_is_a_violation() -> None:
    beyond = encode_floor(Floor(11, 1))
    assert violated_rule(planted(), EntryKind.FLOOR, beyond) == "the log start stays inside the log"


def test_a_state_machine_that_forgot_an_ack_differs_from_the_model() -> None:
    script = planted()
    lease = script.machine.group(DEFAULT_GROUP).table.at(0).lease
    forgetful = script.machine.clone()
    script.change(Ack(DEFAULT_GROUP, lease, ((0, 1),)))
    forgetful.apply(replace(script.entries[-1], payload=changes(Ack(DEFAULT_GROUP, lease + 1, ((0, 1),)))))
    compare_states(script.model, script.machine, "sound")
    with pytest.raises(Violation, match="offset 0"):
        compare_states(script.model, forgetful, "forgetful")


def test_a_state_machine_that_is_behind_differs_from_the_model() -> None:
    script = planted()
    behind = script.machine.clone()
    script.append(EntryKind.NOOP)
    with pytest.raises(Violation, match="behind is at"):
        compare_states(script.model, behind, "behind")
