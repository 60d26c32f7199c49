"""Dead letters: what died is in the dead-letter queue, and what was redriven is back, each exactly once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from logbroker.ids import GroupId
from logbroker.partition.commands import Cause
from logbroker.testing.model import MessageState
from logbroker.testing.moves_model import check_moves
from logbroker.testing.violation import Violation
from logbroker_client.histories import history_of
from logbroker_client.messages import MessageId
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.features.told import Told
    from tools.chaos_kit.judge import Verdict
    from tools.chaos_kit.nodes import Partition


def judge_letters(told: Told, sources: Sequence[QueueLog], target: QueueLog, verdict: Verdict) -> None:
    """Judge the partitions of the queue in which messages die, and the one to which they go."""
    if not all(log.is_understood for log in (*sources, target)):
        return
    died = Counter(origin_of(log, offset) for log in sources for offset in _deaths(log))
    letters = Counter(_copies(target))
    _compare("died and is in the dead-letter queue", died, letters, verdict)
    redriven = Counter(origin_of(target, offset) for offset in _moved(target))
    back = Counter(origin for log in sources for origin in _copies(log))
    _compare("was redriven and is back", redriven, back, verdict)
    verdict.count("dead letters", letters.total())
    verdict.count("dead letters redriven", back.total())
    for offset in range(len(target.messages)):
        if offset not in target.model.copies:
            verdict.find(f"{target.name}: offset {offset} is no dead letter")
    for log in (*sources, target):
        under_way = [at for at, one in log.group().messages.items() if one.state is MessageState.MOVING]
        if under_way:
            verdict.stuck += len(under_way)
            verdict.find(f"{log.name}: on their way to another queue in the end: offsets {sorted(under_way)[:20]}")
    _judge_values(sources, target, verdict)
    _judge_told(told, {log.place: log for log in sources}, redriven.total(), verdict)
    try:
        check_moves({GroupId(log.entries[0].group): log.model.moves for log in (*sources, target) if log.entries})
    except Violation as violation:
        verdict.find(f"{target.name}: {violation}")


def origin_of(log: QueueLog, offset: int) -> MessageId:
    """The first place of a message: its own, or the one that its headers tell."""
    history = history_of(log.messages[offset].headers) if offset in log.model.copies else None
    return MessageId(*log.place, offset) if history is None else history.origin


def _deaths(log: QueueLog) -> Iterator[int]:
    for offset, burials in log.group().burials.items():
        yield from [offset] * len(burials)


def _moved(log: QueueLog) -> Iterator[int]:
    for offset, message in log.group().messages.items():
        if message.state is MessageState.MOVED:
            yield offset


def _copies(log: QueueLog) -> Iterator[MessageId]:
    for offset in sorted(log.model.copies):
        yield origin_of(log, offset)


def _compare(what: str, wanted: Counter[MessageId], found: Counter[MessageId], verdict: Verdict) -> None:
    for origin in sorted(wanted.keys() | found.keys()):
        if wanted[origin] == found[origin]:
            continue
        verdict.lost += found[origin] < wanted[origin]
        verdict.doubled += found[origin] > wanted[origin]
        verdict.find(f"{origin} {what}: {wanted[origin]} times and {found[origin]} times")


def _judge_values(sources: Sequence[QueueLog], target: QueueLog, verdict: Verdict) -> None:
    by_place = {log.place: log for log in sources}
    for log in (*sources, target):
        for offset in sorted(log.model.copies):
            origin = origin_of(log, offset)
            first = by_place.get((origin.queue, origin.partition))
            value = None
            if first is not None and origin.offset < len(first.messages):
                value = first.messages[origin.offset].value
            if value != log.messages[offset].value:
                verdict.find(f"{log.name}: offset {offset} is {log.messages[offset].value!r}, {origin} is {value!r}")


def _judge_told(told: Told, sources: Mapping[Partition, QueueLog], redriven: int, verdict: Verdict) -> None:
    """A reject that was confirmed is in the log; a redrive moved no fewer than it said, and nothing moves unasked."""
    for settled in told.record.settled:
        log = sources.get(settled.place)
        if log is None or settled.verb != "reject" or settled.outcome is not Outcome.DONE:
            continue
        verdict.count("rejects", len(settled.offsets))
        for offset in settled.offsets:
            if not any(burial.cause is Cause.REJECTED for burial in log.group().burials.get(offset, ())):
                verdict.find(f"{log.name}: the reject of offset {offset} was confirmed, and is not in the log")
    said = sum(redriving.moved for redriving in told.redriving)
    if said > redriven:
        verdict.find(f"redrives were told of {said} messages moved, and {redriven} were")
    if redriven and not told.redriving:
        verdict.find(f"{redriven} messages were redriven, and nobody asked for it")
