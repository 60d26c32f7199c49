"""Paused groups: between the entry that pauses a group and the one that resumes it nothing of it is leased."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.partition.commands import Lease, Pause, Resume
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.features.told import Steering, Told
    from tools.chaos_kit.judge import Verdict


def judge_steered(told: Told, logs: Sequence[QueueLog], verdict: Verdict) -> None:
    """Judge all partitions of the queue whose groups are paused."""
    for steering in told.steering:
        if steering.outcome is Outcome.DONE and steering.verb != "resume":
            verdict.count("pauses" if steering.verb == "pause" else "purges")
    for log in logs:
        _judge_log(log, verdict)
        _judge_purges(told, log, verdict)
        paused = dict(_pauses(log))
        for steering in told.steering:
            if steering.verb != "pause" or steering.outcome is not Outcome.DONE:
                continue
            index = paused.get(steering.reason)
            if index is None:
                verdict.find(f"{log.name}: the pause {steering.reason!r} was confirmed, and is not in the log")
            elif _is_certain(told, steering):
                _judge_pause(told, log, steering, index, verdict)


def _judge_log(log: QueueLog, verdict: Verdict) -> None:
    pauses: dict[str, tuple[int, Pause]] = {}
    for entry, _, change in log.changes():
        match change:
            case Pause():
                pauses[change.group] = (entry.index, change)
            case Resume():
                pauses.pop(change.group, None)
            case Lease():
                index, pause = pauses.get(change.group, (0, None))
                if pause is not None and (not pause.until_ms or entry.append_ms < pause.until_ms):
                    verdict.find(
                        f"{log.name}, group {change.group}: entry {entry.index} leases {change.ranges}, and entry "
                        f"{index} has paused it"
                    )
            case _:
                pass


def _judge_purges(told: Told, log: QueueLog, verdict: Verdict) -> None:
    """Each purge is in the log once if it was confirmed, and at most once if not."""
    for group in log.model.groups.values():
        asked = [one for one in told.steering if one.verb == "purge" and one.group == group.name]
        confirmed = sum(one.outcome is Outcome.DONE for one in asked)
        if not confirmed <= len(group.purges) <= len(asked):
            verdict.find(
                f"{log.name}, group {group.name}: purged {len(group.purges)} times, asked to {len(asked)} times, "
                f"confirmed {confirmed} times"
            )


def _pauses(log: QueueLog) -> Iterator[tuple[str, int]]:
    """Reason and index of the pauses of operators, the last first: of one that was repeated the first counts."""
    found = [(change.reason, int(entry.index)) for entry, _, change in log.changes() if isinstance(change, Pause)]
    return reversed(found)


def _is_certain(told: Told, pause: Steering) -> bool:
    """Whether nothing that was asked for before can still end it."""
    return not pause.duration_ms and all(
        steering.outcome is Outcome.DONE
        for steering in told.steering
        if steering.group == pause.group and steering.started_s < pause.started_s
    )


def _judge_pause(told: Told, log: QueueLog, pause: Steering, index: int, verdict: Verdict) -> None:
    """From the answer to the pause until something else is asked for, nothing comes that was leased after it."""
    until_s = min(
        (
            steering.started_s
            for steering in told.steering
            if steering.group == pause.group and steering.verb != "purge" and steering.started_s > pause.started_s
        ),
        default=float("inf"),
    )
    for delivered in told.record.delivered:
        if delivered.place != log.place or delivered.group != pause.group:
            continue
        after_s = delivered.received_s - pause.done_s
        if after_s > 0 and delivered.received_s < until_s and delivered.lease >> 16 > index:
            verdict.find(
                f"{log.name}, group {pause.group}: lease {delivered.lease} came {after_s:.3f} s after the pause of "
                f"entry {index} was confirmed"
            )
