"""What has happened so far, and waiting for more of it. Shared by the tasks of one run; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Confirm(NamedTuple):
    """When a message was sent and when it was confirmed, on trio's clock."""

    sent_at: float
    confirmed_at: float


@final
@dataclass(slots=True)
class Progress:
    """Counts of one run. Orders are counted once each; what comes again of them is counted apart."""

    order_count: int
    confirmed: int = 0
    sent_again: int = 0
    """Orders sent a second time because the outcome of the first was unknown."""
    delivered: int = 0
    """Orders that delivery has performed and passed on."""
    settled: int = 0
    """Orders that settlement has acked, whether it booked them or not."""
    booked: int = 0
    absorbed: int = 0
    """Orders or receipts that came again and changed nothing, at delivery and in the books."""
    redelivered: int = 0
    """Messages delivered more than once in both queues; what a rewind brings back is not among them."""
    lost_acks: int = 0
    """Messages whose ack came too late or has no known outcome: they may be delivered again."""
    unbooked: int = 0
    """Messages that the bad build acked and did not book."""
    replayed: int = 0
    """Messages that came again because of the rewind."""
    last_confirms: dict[int, Confirm] = field(default_factory=dict)
    """For each partition of the orders, the confirm of the message that was sent last."""
    changed_at: float = 0.0
    _changed: trio.Event = field(default_factory=trio.Event)

    def note(self) -> None:
        """Wake those who wait; to be called after each change."""
        self.changed_at = trio.current_time()
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_for(self, is_reached: Callable[[], bool]) -> None:
        """Wait until `is_reached` is true, which is asked after each `note`."""
        await trio.lowlevel.checkpoint()
        while not is_reached():
            await self._changed.wait()

    def note_confirm(self, partition: int, confirm: Confirm) -> None:
        self.confirmed += 1
        known = self.last_confirms.get(partition)
        if known is None or known.sent_at <= confirm.sent_at:
            self.last_confirms[partition] = confirm
        self.note()
