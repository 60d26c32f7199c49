"""Ids of one's own: each is deliverable once, however often it was sent, and whoever repeats it is told where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.testing.model import MessageState
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.features.told import Attempt, Told
    from tools.chaos_kit.judge import Verdict
    from tools.chaos_kit.nodes import Partition

# The messages of an id: where they stand, and their value.
_Found = dict[tuple["Partition", int], bytes]


def judge_ids(told: Told, logs: Sequence[QueueLog], verdict: Verdict) -> None:
    """Judge all partitions of the queue whose messages have ids. Its window of ids must be longer than a round."""
    by_place = {log.place: log for log in logs}
    leased = {log.place: log.leased_offsets() for log in logs}
    standing = _standing(logs)
    attempts: dict[str, list[Attempt]] = {}
    for attempt in told.attempts:
        attempts.setdefault(attempt.name, []).append(attempt)
    for name in sorted(standing.keys() - attempts.keys()):
        verdict.find(f"id {name} was sent by nobody: {standing[name]}")
    for name, tried in attempts.items():
        verdict.count("ids sent")
        found = standing.get(name, {})
        delivered = {spot for spot in found if spot[1] in leased[spot[0]]}
        if len(delivered) > 1:
            verdict.doubled += 1
            verdict.find(f"id {name} was delivered at {sorted(delivered)}")
        for spot in delivered:
            log = by_place[spot[0]]
            if log.is_understood and not log.was(spot[1], MessageState.ACKED):
                verdict.find(f"id {name} was delivered at {spot}, and acked nowhere")
        _judge_answers(name, tried, found, delivered, verdict)


def _standing(logs: Sequence[QueueLog]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for log in logs:
        for message in log.messages:
            for key, value in message.headers:
                if key == DEDUP_HEADER:
                    found.setdefault((value or b"").decode(), {})[log.place, message.offset] = message.value
    return found


def _judge_answers(
    name: str,
    tried: Sequence[Attempt],
    found: Mapping[tuple[Partition, int], bytes],
    delivered: set[tuple[Partition, int]],
    verdict: Verdict,
) -> None:
    own = name.encode()
    done = [attempt for attempt in tried if attempt.outcome is Outcome.DONE]
    verdict.count("ids confirmed as duplicates", sum(attempt.is_duplicate for attempt in done))
    verdict.count("ids refused as conflicts", sum(attempt.is_conflict for attempt in tried))
    if done and not delivered:
        verdict.lost += 1
        verdict.find(f"id {name} was confirmed, and delivered to nobody; it stands at {sorted(found)}")
    for attempt in done:
        if attempt.value != own:
            # It is sent only once the id is confirmed with its own value.
            verdict.find(f"id {name} was confirmed with another value: {attempt}")
        elif delivered and (attempt.place, attempt.offset) not in delivered:
            verdict.find(f"id {name} was confirmed at {attempt.place} {attempt.offset}, and delivered at {delivered}")
    firsts = [attempt for attempt in done if not attempt.is_duplicate]
    if len(firsts) > 1:
        verdict.find(f"id {name} was confirmed as new {len(firsts)} times")
    for attempt in tried:
        if attempt.is_conflict and attempt.value == own:
            verdict.find(f"id {name} was refused as a conflict with itself")
    for spot in delivered:
        if found[spot] != own:
            verdict.find(f"id {name} was delivered at {spot} as {found[spot]!r}")
    if found and all(attempt.outcome is Outcome.REFUSED for attempt in tried):
        verdict.find(f"id {name} stands at {sorted(found)}, though each of its senders was told that it was refused")
