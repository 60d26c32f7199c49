"""Bounds: a full queue refuses and keeps what it has, or drops the oldest and no more than it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import EntryKind
from logbroker.partition.commands import decode_floor
from logbroker.record.batch import decode_batch
from tools.chaos_kit.judge import judge_sent, name_of
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.entry import Entry
    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.features.told import Told
    from tools.chaos_kit.judge import Verdict
    from tools.chaos_kit.nodes import Partition

_FULL = "queue_full"


def judge_bounded(told: Told, log: QueueLog, verdict: Verdict) -> None:
    """Judge the partition of a queue that refuses where it is full; that it does, its model sees."""
    refused = [sent for sent in told.record.sent if sent.place == log.place and sent.error.startswith(_FULL)]
    verdict.count("refused by a full queue", len(refused))
    if log.model.log_start_offset:
        verdict.find(f"{log.name}: the log begins at {log.model.log_start_offset}, and nothing may be dropped")


def judge_newest(
    told: Told, place: Partition, entries: Sequence[Entry], verdict: Verdict, *, max_messages: int
) -> None:
    """Judge the partition of a queue that drops the oldest, by what of its log is left."""
    values = {
        entry.base_offset + position: record.value or b""
        for entry in entries
        if entry.kind is EntryKind.DATA
        for position, record in enumerate(decode_batch(entry.payload))
    }
    start = entries[0].base_offset if entries else 0
    floor = max(
        (decode_floor(entry.payload).start_offset for entry in entries if entry.kind is EntryKind.FLOOR), default=0
    )
    verdict.count("dropped by a full queue", floor)
    if start > floor:
        verdict.find(f"{name_of(place)}: the log begins at offset {start}, and was to be dropped up to {floor} alone")
    sent = [one for one in told.record.sent if one.place == place]
    # Of those whose place is gone nothing is left to judge.
    kept = [one for one in sent if one.outcome is not Outcome.DONE or one.offset >= start]
    verdict.count("messages confirmed in queues of features", judge_sent(place, kept, values, verdict))
    for entry in entries:
        if entry.kind is EntryKind.FLOOR:
            left = entry.base_offset - decode_floor(entry.payload).start_offset
            if left < max_messages:
                verdict.find(
                    f"{name_of(place)}: entry {entry.index} drops all but {left} messages of a queue that holds "
                    f"{max_messages}"
                )
    confirmed = {one.offset: one.value for one in sent if one.outcome is Outcome.DONE}
    for delivered in told.record.delivered:
        for offset, _, value in delivered.messages if delivered.place == place else ():
            if confirmed.get(offset, value) != value:
                verdict.find(f"{name_of(place)}: offset {offset} is {confirmed[offset]!r}, and came as {value!r}")
