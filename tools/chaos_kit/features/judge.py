"""Judges all features: what holds of each of their queues, and what each feature promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.testing.model import MessageState
from tools.chaos_kit.features.judge_bounded import judge_bounded, judge_newest
from tools.chaos_kit.features.judge_delayed import judge_delayed, quiet_lateness
from tools.chaos_kit.features.judge_ids import judge_ids
from tools.chaos_kit.features.judge_letters import judge_letters
from tools.chaos_kit.features.judge_ordered import judge_ordered
from tools.chaos_kit.features.judge_steered import judge_steered
from tools.chaos_kit.features.queue_log import QueueLog
from tools.chaos_kit.features.queues import (
    BOUNDED,
    DEAD,
    FRAGILE,
    KEYED,
    LATER,
    NEWEST,
    PAUSED,
    QUEUES,
    RISKY,
    SINGLE,
    UNIQUE,
)
from tools.chaos_kit.judge import judge_lease_times, judge_sent, judge_work
from tools.chaos_kit.record import Outcome, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from logbroker.entry import Entry
    from tools.chaos_kit.faults import Strike
    from tools.chaos_kit.features.queues import FeatureQueue
    from tools.chaos_kit.features.told import Told
    from tools.chaos_kit.judge import Verdict
    from tools.chaos_kit.nodes import Partition
    from tools.chaos_kit.record import Sent

LATENESS = "delayed messages leased after their due time, without faults"


def judge_features(
    told: Told,
    entries: Mapping[Partition, Sequence[Entry]],
    strikes: Sequence[Strike],
    verdict: Verdict,
    *,
    skew_s: float,
) -> dict[str, list[float]]:
    """Judge the queues of the features, and add to the verdict; gives times in seconds, by what they are of.

    `skew_s` is as in `judge`.
    """
    missing = [place for queue in QUEUES for place in queue.places() if place not in entries]
    if missing:
        verdict.find(f"the logs of {missing} are missing")
        return {}
    # Of a queue that drops messages the beginning is gone, and without it there is no model.
    whole = [queue for queue in QUEUES if queue is not NEWEST]
    logs = {
        place: QueueLog(place, entries[place], queue.model(), verdict) for queue in whole for place in queue.places()
    }
    _judge_work(told, logs, verdict)
    for place, log in logs.items():
        values = [message.value for message in log.messages]
        judge_lease_times(told.record, place, log.entries, values, verdict, skew_s=skew_s)
    for queue in whole:
        for place in queue.places():
            _judge_partition(told, queue, logs[place], verdict)
    (later,), (dead,), (keyed,), (single,), (bounded,), (fragile,) = (
        [logs[place] for place in queue.places()] for queue in (LATER, DEAD, KEYED, SINGLE, BOUNDED, FRAGILE)
    )
    judge_delayed(told, later, verdict)
    judge_letters(told, [logs[place] for place in RISKY.places()], dead, verdict)
    judge_ids(told, [logs[place] for place in UNIQUE.places()], verdict)
    judge_ordered(keyed, verdict, by_key=True)
    judge_ordered(single, verdict, by_key=False)
    judge_steered(told, [logs[place] for place in PAUSED.places()], verdict)
    judge_bounded(told, bounded, verdict)
    (place,) = NEWEST.places()
    judge_newest(told, place, entries[place], verdict, max_messages=NEWEST.options["max_messages"])
    verdict.count("breakers tripped", fragile.model.failure_counts.get("breaker: tripped", 0))
    lateness = quiet_lateness(told, later, strikes)
    return {LATENESS: lateness} if lateness else {}


def _judge_work(told: Told, logs: Mapping[Partition, QueueLog], verdict: Verdict) -> None:
    models = {place: log.model for place, log in logs.items() if log.is_understood}
    record = Record(
        delivered=[delivered for delivered in told.record.delivered if delivered.place in models],
        settled=[settled for settled in told.record.settled if settled.place in models],
    )
    verdict.count("leases in queues of features", len(record.delivered))
    judge_work(record, models, verdict)


def _judge_partition(told: Told, queue: FeatureQueue, log: QueueLog, verdict: Verdict) -> None:
    """What holds of every queue: what was confirmed is there, was delivered to each group, and is settled."""
    # What is moved here was sent elsewhere; and what has an id may stand here more than once, and is judged by itself.
    if queue is not UNIQUE:
        sent = [sent for sent in told.record.sent if sent.place == log.place]
        values = {one.offset: one.value for one in log.messages if one.offset not in log.model.copies}
        confirmed = judge_sent(log.place, sent, values, verdict)
        verdict.count("messages confirmed in queues of features", confirmed)
        for name in queue.groups if log.is_understood else ():
            _judge_delivered(sent, log, name, verdict)
    for name in queue.groups if log.is_understood else ():
        left = log.group(name).unsettled(log.model.log_start_offset, log.model.next_offset)
        if left:
            verdict.stuck += len(left)
            verdict.find(f"{log.name}, group {name}: not settled in the end: offsets {left[:20]}")


def _judge_delivered(sent: Sequence[Sent], log: QueueLog, name: str, verdict: Verdict) -> None:
    """What was confirmed was leased to the group, or is where nobody is to get it."""
    group = log.group(name)
    purges = {index for index, _ in group.purges.values()}
    for one in sent:
        offset = one.offset
        if one.outcome is not Outcome.DONE:
            continue
        is_excused = offset in log.model.schedule.cancelled or offset in group.burials
        is_purged = any(moment.index in purges for moment in group.moments.get(offset, ()))
        if not (is_excused or is_purged or log.was(offset, MessageState.LEASED, name)):
            verdict.lost += 1
            verdict.find(f"{log.name}, group {name}: {one.value!r}, confirmed at offset {offset}, was never delivered")
