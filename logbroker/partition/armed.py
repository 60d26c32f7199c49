"""What an entry says of the batch that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec

from logbroker.partition.commands import Arming, Dedupe, DeliverAt, MoveIn, Number

if TYPE_CHECKING:
    from logbroker.entry import Entry


@final
class Armed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """The arming changes of the entry at `index`, which was the last one applied.

    The leader of a term appends such an entry and its batch together or not at all, so an entry of data that follows
    in the same term is that batch and no other.
    """

    index: Number
    term: Number
    changes: tuple[Arming, ...]

    def holds_for(self, entry: Entry) -> bool:
        """Say whether `entry`, which is one of data, is the batch that is meant."""
        return entry.index == self.index + 1 and entry.term == self.term

    @property
    def due_ms(self) -> int:
        """When the batch may be delivered; the latest time where several are named, 0 where none is."""
        return max((change.due_ms for change in self.changes if isinstance(change, DeliverAt)), default=0)

    @property
    def move(self) -> MoveIn | None:
        """From where the batch was moved, if it was."""
        return next((change for change in self.changes if isinstance(change, MoveIn)), None)

    @property
    def dedupe(self) -> Dedupe | None:
        """The ids of the batch's messages, if they have any."""
        return next((change for change in self.changes if isinstance(change, Dedupe)), None)
