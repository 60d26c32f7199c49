"""Delayed messages: due when they were asked to be, never delivered before, and never once they are cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import EntryKind
from logbroker.partition.commands import DeliverAt, decode_changes
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.chaos_kit.faults import Strike
    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.features.told import Delayed, Told
    from tools.chaos_kit.judge import Verdict

# Due times are rounded up to so much; and the client's own go through a float.
_STEP_MS, _FLOAT_MS = 100, 1
# A strike is felt for a while after it is healed, and clients are told a little before and after what happens.
_FELT_S, _NEAR_S = 2.0, 0.5


def judge_delayed(told: Told, log: QueueLog, verdict: Verdict) -> None:
    """Judge the partition of the delayed queue."""
    due_ms = due_times(log)
    for delayed in told.delayed:
        if delayed.sent.outcome is Outcome.DONE:
            verdict.count("delayed messages confirmed")
            _judge_due_time(delayed, due_ms, log, verdict)
    for entry, _, change, offsets in log.leases():
        for offset in offsets:
            if entry.append_ms < due_ms.get(offset, 0):
                verdict.find(
                    f"{log.name}, group {change.group}: offset {offset} was leased at {entry.append_ms}, "
                    f"{due_ms[offset] - entry.append_ms} ms before it is due"
                )
    _judge_cancelling(told, log, verdict)


def due_times(log: QueueLog) -> dict[int, int]:
    """When each delayed message is due in log time, by offset."""
    found: dict[int, int] = {}
    for before, entry in zip(log.entries, log.entries[1:], strict=False):
        if entry.kind is not EntryKind.DATA or before.kind is not EntryKind.STATE or before.term != entry.term:
            continue
        for change in decode_changes(before.payload):
            if isinstance(change, DeliverAt):
                found.update(dict.fromkeys(range(entry.base_offset, entry.next_offset), change.due_ms))
    return found


def _judge_due_time(delayed: Delayed, due_ms: dict[int, int], log: QueueLog, verdict: Verdict) -> None:
    offset = delayed.sent.offset
    if offset >= len(log.messages):
        return
    append_ms = log.messages[offset].append_ms
    asked_ms = delayed.deliver_at_ms or append_ms + delayed.delay_ms
    late_ms = due_ms.get(offset, append_ms) - asked_ms
    # One whose time is past when it is appended is due at once.
    is_past = asked_ms <= append_ms and offset not in due_ms
    if not is_past and not 0 <= late_ms < _STEP_MS + _FLOAT_MS:
        verdict.find(f"{log.name}: offset {offset} is due {late_ms} ms after the time that its sender asked for")


def _judge_cancelling(told: Told, log: QueueLog, verdict: Verdict) -> None:
    leased = log.leased_offsets()
    said: dict[int, bool] = {}
    for cancelling in told.cancelling:
        if cancelling.outcome is not Outcome.DONE:
            continue
        offset = cancelling.offset
        said[offset] = cancelling.is_cancelled
        verdict.count("delayed messages cancelled" if cancelling.is_cancelled else "cancelled too late")
        if cancelling.is_cancelled and offset in leased:
            verdict.find(f"{log.name}: offset {offset} was delivered, though its sender was told that it is cancelled")
        if cancelling.is_cancelled != (offset in log.model.schedule.cancelled):
            verdict.find(f"{log.name}: offset {offset}: the log does not say what the canceller was told: {cancelling}")
    asked = {cancelling.offset for cancelling in told.cancelling}
    for offset in sorted(log.model.schedule.cancelled.keys() - asked):
        verdict.find(f"{log.name}: offset {offset} is cancelled, and nobody asked for it")


def quiet_lateness(told: Told, log: QueueLog, strikes: Sequence[Strike]) -> list[float]:
    """How many seconds after they were due messages were first leased, of those due while no fault was at work."""
    due_ms = due_times(log)
    first_ms: dict[int, int] = {}
    for entry, _, _, offsets in log.leases():
        for offset in offsets:
            first_ms.setdefault(offset, entry.append_ms)
    found = []
    for delayed in told.delayed:
        sent = delayed.sent
        offset = sent.offset
        if sent.outcome is Outcome.DONE and offset in due_ms and offset in first_ms:
            later_s = (due_ms[offset] - log.messages[offset].append_ms) / 1000
            if _is_quiet(sent.started_s + later_s - _NEAR_S, sent.done_s + later_s + _NEAR_S, strikes):
                found.append((first_ms[offset] - due_ms[offset]) / 1000)
    return found


def _is_quiet(start_s: float, end_s: float, strikes: Sequence[Strike]) -> bool:
    return not any(
        strike.at_s <= end_s and (not strike.healed_s or strike.healed_s + _FELT_S >= start_s) for strike in strikes
    )
