"""What applying an entry came to: the material of every reply, one outcome per change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

if TYPE_CHECKING:
    from logbroker.ids import GroupName, Index, LeaseId, Offset
    from logbroker.partition.commands import Change

Range: TypeAlias = tuple[int, int]
"""Half-open offset range."""


@final
class Misfit(Enum):
    """Why a change or a batch recorded nothing. The values are for logs and metrics."""

    NO_GROUP = "no_group"
    GROUP_EXISTS = "group_exists"
    GROUP_LIMIT = "group_limit"
    DEFAULT_GROUP = "default_group"
    NOT_AVAILABLE = "not_available"
    BEYOND_LOG_END = "beyond_log_end"
    REQUEST_IN_USE = "request_in_use"
    NOT_DUE = "not_due"
    STALE = "stale"
    OUTBOX_FULL = "outbox_full"
    INBOX_FULL = "inbox_full"
    OLD_REWIND = "old_rewind"
    OLD_FLOOR = "old_floor"
    PAUSED = "paused"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    FENCED = "fenced"


@final
@dataclass(frozen=True, slots=True)
class Nothing:
    """The change did not fit the state it met; nothing was recorded."""

    why: Misfit
    detail: str


@final
@dataclass(frozen=True, slots=True)
class Produced:
    """`duplicate`: the batch was in the log before, at `base_offset`; nothing was appended.

    `due_ms` is when it may be delivered, 0 if that is at once. `duplicates` and `conflicts` are those of `Verdicts`:
    messages whose ids were in the log before, and which are never delivered.
    """

    base_offset: Offset
    count: int
    duplicate: bool = False
    due_ms: int = 0
    duplicates: tuple[tuple[int, int], ...] = ()
    conflicts: tuple[int, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Void:
    """A batch that did not fit: its offsets are taken, and nothing ever delivers them.

    `duplicate_of` is where the same batch stands already, if that is why.
    """

    base_offset: Offset
    count: int
    why: Misfit
    detail: str
    duplicate_of: Offset | None = None


@final
class LeasedRange(NamedTuple):
    """Messages [start, end) of a lease; `deliveries` counts this one, the first is 1.

    A named tuple, which is made in half the time: a receive may make a thousand.
    """

    start: Offset
    end: Offset
    deliveries: int
    visible_at_ms: int


@final
@dataclass(frozen=True, slots=True)
class Leased:
    """`visible_at_ms` is the earliest deadline among the ranges; `repeated` answers a retry of the same request."""

    group: GroupName
    lease: LeaseId
    ranges: tuple[LeasedRange, ...]
    visible_at_ms: int
    repeated: bool = False

    @property
    def count(self) -> int:
        return sum(held.end - held.start for held in self.ranges)


@final
@dataclass(frozen=True, slots=True)
class Settled:
    """What an ack, nack, extend or burial of ranges of a lease did.

    Every message asked for is in exactly one of: the `count` that changed, `already` acked, `expired` (below the log
    start), `stale` (not acked, and the lease does not hold it). `rewound`: a rewind took some of the stale ones.
    """

    group: GroupName
    lease: LeaseId
    count: int
    already: tuple[Range, ...] = ()
    expired: tuple[Range, ...] = ()
    stale: tuple[Range, ...] = ()
    rewound: bool = False


@final
@dataclass(frozen=True, slots=True)
class Released:
    group: GroupName
    lease: LeaseId
    count: int


@final
@dataclass(frozen=True, slots=True)
class Expired:
    group: GroupName
    count: int


@final
@dataclass(frozen=True, slots=True)
class Buried:
    """So many messages are dead: their leases had run out for the last time, or, `is_old`, their time to live."""

    group: GroupName
    count: int
    is_old: bool = False


@final
@dataclass(frozen=True, slots=True)
class Revived:
    """So many messages were dead and are available again."""

    group: GroupName
    count: int


@final
@dataclass(frozen=True, slots=True)
class MovingOut:
    """So many messages are owed to `target` under this number."""

    group: GroupName
    target: int
    number: int
    count: int


@final
@dataclass(frozen=True, slots=True)
class MoveEnded:
    """So many messages have been moved, or with `refused` are as they were before."""

    group: GroupName
    target: int
    number: int
    count: int
    refused: bool


@final
@dataclass(frozen=True, slots=True)
class Rewound:
    """`start_offset` is the effective one, `clamped` if it is not the one asked for; `end_offset` was the log end.

    Of the messages in between, `reopened_count` were acked and `revoked_count` leased; both are available again.
    `delayed_count` keep their due time.
    """

    group: GroupName
    rewind_id: int
    start_offset: Offset
    end_offset: Offset
    clamped: bool
    reopened_count: int
    revoked_count: int
    delayed_count: int
    repeated: bool = False


@final
@dataclass(frozen=True, slots=True)
class Skipped:
    """All below `start_offset` counts as acked; `skipped_count` messages were not, and `revoked_count` were leased."""

    group: GroupName
    rewind_id: int
    start_offset: Offset
    clamped: bool
    skipped_count: int
    revoked_count: int
    repeated: bool = False


@final
@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing is leased before `until_ms`; 0: before the group is resumed."""

    group: GroupName
    until_ms: int


@final
@dataclass(frozen=True, slots=True)
class Resumed:
    """The group is not paused, whether it was or not."""

    group: GroupName


@final
@dataclass(frozen=True, slots=True)
class Purged:
    """All below `end_offset` counts as acked. `purged_count` messages did not before.

    Of these, `revoked_count` were leased and `dead_count` dead.
    """

    group: GroupName
    rewind_id: int
    end_offset: Offset
    purged_count: int
    revoked_count: int
    dead_count: int
    repeated: bool = False


@final
@dataclass(frozen=True, slots=True)
class GroupCreated:
    group: GroupName
    start_offset: Offset


@final
@dataclass(frozen=True, slots=True)
class GroupDeleted:
    group: GroupName


@final
@dataclass(frozen=True, slots=True)
class FloorMoved:
    """`expired` counts, for each group, the messages that retention took before they were settled."""

    start_offset: Offset
    start_index: Index
    expired: tuple[tuple[GroupName, int], ...]


@final
@dataclass(frozen=True, slots=True)
class RewindFloorMoved:
    start_offset: Offset


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """Something is said of the batch of the next entry; its outcome stands there."""


@final
@dataclass(frozen=True, slots=True)
class Cancelled:
    """Of the messages asked for, `count` are never delivered, by this change or an earlier one; else it was late."""

    count: int
    late_count: int


Outcome: TypeAlias = (
    Nothing
    | Produced
    | Void
    | Leased
    | Settled
    | Released
    | Expired
    | Buried
    | Revived
    | MovingOut
    | MoveEnded
    | Rewound
    | Skipped
    | Paused
    | Resumed
    | Purged
    | GroupCreated
    | GroupDeleted
    | FloorMoved
    | RewindFloorMoved
    | Prepared
    | Cancelled
)


@final
@dataclass(frozen=True, slots=True)
class Applied:
    """Outcomes in the order of the entry's `changes`; `woken` are groups in which something may be received."""

    index: Index
    outcomes: tuple[Outcome, ...]
    woken: tuple[GroupName, ...]
    changes: tuple[Change, ...] = ()
