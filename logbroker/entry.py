"""The value that every layer hands on: one entry of one group's log.

Raft orders entries and looks at nothing but index, term, kind and size; the partition applies them;
storage keeps them. The byte form and its checksum live in `logbroker.storage.entry_codec`, because
this module may use the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import final

from logbroker.ids import GroupId, Index, Offset, Term


@final
class EntryKind(IntEnum):
    """What an entry carries. The numbers are part of the disk and wire formats."""

    DATA = 1
    """One record batch; the only kind that takes offsets."""
    STATE = 2
    """A list of changes to the state of consumer groups."""
    CONFIG = 3
    """A change of the group's membership, in the Raft core's encoding."""
    NOOP = 4
    """The first entry of a term; empty."""
    FLOOR = 5
    """A new log start, decided by retention."""


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable entry.

    `base_offset` is the offset of the first record, `next_offset` one past the last; they are equal
    in every kind but DATA. `append_ms` is log time. `head` is the encoded header (see
    `entry_codec`): made once by the leader and carried along so that no hop encodes it again; it is
    empty only in tests of layers that never store an entry.
    """

    kind: EntryKind
    group: GroupId
    index: Index
    term: Term
    base_offset: Offset
    next_offset: Offset
    append_ms: int
    payload: bytes
    crc: int = 0
    head: bytes = b""

    @property
    def size_bytes(self) -> int:
        """Bytes this entry counts for in windows and limits; never 0, so empty entries are bounded too."""
        return len(self.payload) + 64
