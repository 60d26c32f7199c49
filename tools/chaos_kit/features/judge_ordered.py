"""Order: of a key, and in a window of one, nothing is leased before what goes before it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import lease_id
from logbroker.testing.model import MessageState

if TYPE_CHECKING:
    from logbroker.testing.model import ModelGroup, Moment
    from tools.chaos_kit.features.queue_log import QueueLog
    from tools.chaos_kit.judge import Verdict

_SETTLED = (MessageState.ACKED, MessageState.DEAD)


def judge_ordered(log: QueueLog, verdict: Verdict, *, by_key: bool) -> None:
    """Judge each lease against all messages of its keys; with `by_key` false the log is taken for one key."""
    lanes: dict[bytes | None, list[int]] = {}
    for message in log.messages:
        lanes.setdefault(message.key if by_key else None, []).append(message.offset)
    group = log.group()
    for entry, ordinal, _, offsets in log.leases():
        if entry.index > log.model.last_index:
            break
        lease = lease_id(entry.index, ordinal)
        for offset in offsets:
            verdict.count("leases in order")
            for other in lanes[log.messages[offset].key if by_key else None]:
                if other in offsets or other >= log.model.next_offset_at(entry.index):
                    continue
                before = _before(group, other, entry.index)
                is_settled = before is not None and before.state in _SETTLED
                is_held = before is not None and before.state is MessageState.LEASED and before.lease != lease
                if (other < offset and not is_settled) or is_held:
                    state = "fresh" if before is None else before.state.value
                    verdict.find(
                        f"{log.name}: entry {entry.index} leases offset {offset} while offset {other} of the same key "
                        f"is {state}"
                    )


def _before(group: ModelGroup, offset: int, index: int) -> Moment | None:
    """What the message last became up to an entry; None if nothing had happened to it."""
    found = None
    for moment in group.moments.get(offset, ()):
        if moment.index > index:
            break
        found = moment
    return found
