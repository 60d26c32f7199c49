"""The log of one partition as the judges of features read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupName
from logbroker.partition.commands import Lease, decode_changes
from logbroker.record.batch import decode_batch
from tools.chaos_kit.judge import fold, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logbroker.entry import Entry
    from logbroker.partition.commands import Change
    from logbroker.record.batch import Headers
    from logbroker.testing.model import MessageState, ModelGroup, PartitionModel
    from tools.chaos_kit.judge import Verdict
    from tools.chaos_kit.nodes import Partition


@final
@dataclass(frozen=True, slots=True)
class Logged:
    """One message; `append_ms` is log time."""

    offset: int
    append_ms: int
    key: bytes | None
    value: bytes
    headers: Headers


@final
class QueueLog:
    """Entries, messages by offset, and what the reference model makes of them."""

    def __init__(self, place: Partition, entries: Sequence[Entry], model: PartitionModel, verdict: Verdict) -> None:
        """`model` is fresh; a rule of it that the log breaks is found, and ends what it knows."""
        self.place = place
        self.name = name_of(place)
        self.entries = entries
        known = len(verdict.findings)
        self.model = fold(place, entries, model, verdict)
        self.is_understood = len(verdict.findings) == known
        """Whether the model has taken all of it; if not, a rule that is broken has been found, and it knows no more."""
        self.messages = [
            Logged(entry.base_offset + position, entry.append_ms, record.key, record.value or b"", record.headers)
            for entry in entries
            if entry.kind is EntryKind.DATA
            for position, record in enumerate(decode_batch(entry.payload))
        ]

    def changes(self) -> Iterator[tuple[Entry, int, Change]]:
        """Each change with its entry and its place there, from 0."""
        for entry in self.entries:
            if entry.kind is EntryKind.STATE:
                for ordinal, change in enumerate(decode_changes(entry.payload)):
                    yield entry, ordinal, change

    def leases(self) -> Iterator[tuple[Entry, int, Lease, list[int]]]:
        """Each lease of any consumer group, with the offsets that it takes."""
        for entry, ordinal, change in self.changes():
            if isinstance(change, Lease):
                yield entry, ordinal, change, [offset for start, end in change.ranges for offset in range(start, end)]

    def leased_offsets(self) -> set[int]:
        """All that was ever leased to anybody."""
        return {offset for _, _, _, offsets in self.leases() for offset in offsets}

    def group(self, name: str = DEFAULT_GROUP) -> ModelGroup:
        return self.model.groups[GroupName(name)]

    def was(self, offset: int, state: MessageState, group: str = DEFAULT_GROUP) -> bool:
        """Whether the message was ever in that state."""
        return any(moment.state is state for moment in self.group(group).moments.get(offset, ()))
