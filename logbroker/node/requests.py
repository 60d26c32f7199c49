"""What may be asked of a partition, and what it answers. Plain values; the wire forms are in `logbroker.wire`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, final

from logbroker.errors import LogBrokerError
from logbroker.ids import GroupId, GroupName, LeaseId, Offset

if TYPE_CHECKING:
    from logbroker.partition.commands import Cause
    from logbroker.partition.runs import RunState

Ranges = tuple[tuple[int, int], ...]
"""Half-open offset ranges, ascending."""

MAX_RECEIVE_BYTES = 4 << 20


@final
@dataclass(frozen=True, slots=True)
class ProduceRequest:
    """`batch` is one record batch as the client made it.

    It is delivered `delay_ms` after it is appended, or at `deliver_at_ms` of log time; 0 and 0: at once. With `dedup`
    some of its messages have ids of their own, and it is opened to look at them.
    """

    batch: bytes
    delay_ms: int = 0
    deliver_at_ms: int = 0
    dedup: bool = False


@final
@dataclass(frozen=True, slots=True)
class ReceiveRequest:
    """Lease up to `max_count` messages for `hide_ms`; wait up to `wait_ms` for the first.

    (session, request_id) makes it safe to repeat: inside the hide time a repeat gets the same lease.
    """

    group: GroupName
    max_count: int
    hide_ms: int
    wait_ms: int = 0
    max_bytes: int = MAX_RECEIVE_BYTES
    consumer: str = ""
    session: int = 0
    request_id: int = 0


@final
@dataclass(frozen=True, slots=True)
class AckRequest:
    group: GroupName
    items: tuple[tuple[LeaseId, Ranges], ...]


@final
@dataclass(frozen=True, slots=True)
class NackRequest:
    group: GroupName
    items: tuple[tuple[LeaseId, Ranges], ...]
    delay_ms: int | None = 0
    """None: as the queue's policy says."""
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class RejectRequest:
    """The messages can never be done: they are dead at once."""

    group: GroupName
    items: tuple[tuple[LeaseId, Ranges], ...]
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class ExtendRequest:
    group: GroupName
    items: tuple[tuple[LeaseId, Ranges], ...]
    hide_ms: int


@final
@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """The consumer went away before it was answered."""

    group: GroupName
    lease: LeaseId


@final
@dataclass(frozen=True, slots=True)
class TimeTarget:
    """The first message with log time >= `ms`; a negative `ms` counts back from the present."""

    ms: int


@final
@dataclass(frozen=True, slots=True)
class OffsetTarget:
    offset: Offset


@final
@dataclass(frozen=True, slots=True)
class CountTarget:
    """`count` messages from the log end, back."""

    count: int


@final
@dataclass(frozen=True, slots=True)
class EarliestTarget:
    pass


@final
@dataclass(frozen=True, slots=True)
class LatestTarget:
    pass


Target = TimeTarget | OffsetTarget | CountTarget | EarliestTarget | LatestTarget


@final
@dataclass(frozen=True, slots=True)
class RewindRequest:
    """Move a group to `target`: back, or with `forward` ahead (skip-to). `rewind_id` makes it safe to repeat.

    A target before the log start is refused unless `clamp`.
    """

    group: GroupName
    rewind_id: int
    target: Target
    forward: bool = False
    clamp: bool = False


@final
@dataclass(frozen=True, slots=True)
class CreateGroupRequest:
    group: GroupName
    start: Target


@final
@dataclass(frozen=True, slots=True)
class DeleteGroupRequest:
    group: GroupName


@final
@dataclass(frozen=True, slots=True)
class PauseRequest:
    """Lease nothing to a group for `duration_ms`; 0: until it is resumed. What is leased goes on as it is."""

    group: GroupName
    reason: str = ""
    duration_ms: int = 0


@final
@dataclass(frozen=True, slots=True)
class ResumeRequest:
    group: GroupName


@final
@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """Ack everything up to the log end, the dead too. `purge_id`, drawn by whoever asks, makes it safe to repeat."""

    group: GroupName
    purge_id: int


@final
@dataclass(frozen=True, slots=True)
class DeadRequest:
    """The dead messages at and above an offset, at most `max_count` rows, as of the moment it was asked."""

    group: GroupName
    start_offset: int = 0
    max_count: int = 100


@final
@dataclass(frozen=True, slots=True)
class ReviveRequest:
    """Make what is dead of the ranges available again, as if it had never been delivered."""

    group: GroupName
    ranges: Ranges


@final
@dataclass(frozen=True, slots=True)
class PeekRequest:
    """Show messages from `start` on as a group has them, and change nothing. What is gone of the start is not shown.

    At most `max_count` messages and `max_bytes` of batches, though at least one batch where there is one.
    """

    group: GroupName
    start: Target
    max_count: int
    max_bytes: int = MAX_RECEIVE_BYTES
    with_settled: bool = False
    """Acked and dead ones too."""


@final
@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Never deliver what of the ranges is not due yet, to any group. It is safe to repeat."""

    ranges: Ranges


@final
@dataclass(frozen=True, slots=True)
class MoveRequest:
    """Have what is available or dead of the ranges moved to the partition `target`; it is safe to repeat."""

    group: GroupName
    ranges: Ranges
    target: GroupId


@final
@dataclass(frozen=True, slots=True)
class TransferRequest:
    """Messages that the partition `source` owes this one under `number`; taken once, however often they come.

    An empty batch asks that they are never taken, unless they were.
    """

    source: GroupId
    number: int
    batch: bytes


@final
@dataclass(frozen=True, slots=True)
class StateRequest:
    """Counts and positions, exact as of the moment it was asked (read index)."""


@final
class MoveVerdict(IntEnum):
    """What became of a number at its target. The values are part of the peer protocol."""

    TAKEN = 1
    """The messages are committed there, by this sending or an earlier one."""
    REFUSED = 2
    """They are not, and it is committed there that they never will be."""
    LATER = 3


Request = (
    ProduceRequest
    | ReceiveRequest
    | AckRequest
    | NackRequest
    | RejectRequest
    | ExtendRequest
    | ReleaseRequest
    | RewindRequest
    | CreateGroupRequest
    | DeleteGroupRequest
    | PauseRequest
    | ResumeRequest
    | PurgeRequest
    | DeadRequest
    | ReviveRequest
    | PeekRequest
    | CancelRequest
    | MoveRequest
    | TransferRequest
    | StateRequest
)


@final
@dataclass(frozen=True, slots=True)
class ProduceReply:
    """Committed: the messages have offsets [base_offset, base_offset + count).

    `append_ms` is 0 for a duplicate whose first copy has expired. `due_ms` is when they may be delivered, 0 if that is
    at once, or for a duplicate if it is by now.

    Of messages with ids: `duplicates` are (position in the batch, offset of the first message of this id), `conflicts`
    the positions of those whose id was used for another body, or for a message that was cancelled. Neither has an
    offset of its own that is ever delivered, and where there is nothing else the batch may not be in the log at all:
    then `base_offset` is that of the first duplicate.
    """

    base_offset: Offset
    count: int
    append_ms: int
    duplicate: bool = False
    due_ms: int = 0
    duplicates: tuple[tuple[int, int], ...] = ()
    conflicts: tuple[int, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One stored batch and what of it is leased: (start, end, deliveries)."""

    batch: bytes
    base_offset: Offset
    append_ms: int
    ranges: tuple[tuple[int, int, int], ...]
    repacked: bool = False
    corrupt: bool = False
    """No good copy of the batch exists; `batch` is empty and the ranges can only be acked or nacked."""


@final
@dataclass(frozen=True, slots=True)
class ReceiveReply:
    """`hide_left_ms` is how long the lease lasts from the moment of the answer; no parts: nothing came in time."""

    lease: LeaseId
    visible_at_ms: int
    hide_left_ms: int
    parts: tuple[Part, ...]


@final
@dataclass(frozen=True, slots=True)
class SettleResult:
    """Every message asked for is in exactly one of these; `rewound`: a rewind took some of the stale ones."""

    lease: LeaseId
    done_count: int
    already: Ranges = ()
    expired: Ranges = ()
    stale: Ranges = ()
    rewound: bool = False


@final
@dataclass(frozen=True, slots=True)
class SettleReply:
    results: tuple[SettleResult, ...]


@final
@dataclass(frozen=True, slots=True)
class RewindReply:
    """`start_offset` is effective; `start_ms` is the log time of its message, 0 where there is none yet."""

    rewind_id: int
    start_offset: Offset
    start_ms: int
    moved_count: int
    revoked_count: int
    clamped: bool


@final
@dataclass(frozen=True, slots=True)
class GroupReply:
    group: GroupName
    start_offset: Offset


@final
@dataclass(frozen=True, slots=True)
class GroupState:
    group: GroupName
    available: int
    leased: int
    delayed: int
    acked_ahead: int
    oldest_offset: Offset
    oldest_ms: int
    """Log time of the oldest message not settled; 0 where there is none."""
    dead: int = 0
    is_paused: bool = False
    paused_reason: str = ""
    paused_since_ms: int = 0
    paused_until_ms: int = 0
    """0 where it is paused until it is resumed, and where it is not paused."""
    breaker_trips: int = 0
    """How often its breaker has paused it, as far as the process that leads knows."""
    moved: int = 0


@final
@dataclass(frozen=True, slots=True)
class DeadRange:
    """Messages [start, end) that died by one change: how often they were tried, why, and who held them last.

    `cause` is None where the entry that says so cannot be read on this node.
    """

    start: Offset
    end: Offset
    deliveries: int
    buried_at_ms: int
    cause: Cause | None = None
    reason: str = ""
    consumer: str = ""


@final
@dataclass(frozen=True, slots=True)
class DeadReply:
    """In offset order; more may follow from the end of the last row on, none after an empty answer."""

    rows: tuple[DeadRange, ...]


@final
@dataclass(frozen=True, slots=True)
class ReviveReply:
    """How many messages were revived. Asking again goes on where a bound ended it; 0 says that nothing is left."""

    count: int


@final
@dataclass(frozen=True, slots=True)
class PurgeReply:
    """`purged_count` messages were not acked, of which `revoked_count` leased and `dead_count` dead."""

    purged_count: int
    revoked_count: int
    dead_count: int


@final
@dataclass(frozen=True, slots=True)
class PeekedRange:
    """Messages [start, end) of one state; `visible_at_ms` of leased and delayed ones is when that ends, or else 0."""

    start: Offset
    end: Offset
    state: RunState
    deliveries: int
    visible_at_ms: int


@final
@dataclass(frozen=True, slots=True)
class PeekReply:
    """`parts` are the batches of `ranges`. More may follow at `next_offset` while that is below `log_end`."""

    parts: tuple[Part, ...]
    ranges: tuple[PeekedRange, ...]
    next_offset: Offset
    log_end: Offset


@final
@dataclass(frozen=True, slots=True)
class CancelReply:
    """`count` of the messages are never delivered; `late_count` were due before, never delayed, or are gone."""

    count: int
    late_count: int


@final
@dataclass(frozen=True, slots=True)
class MoveReply:
    """So many messages are on their way. Asking again goes on where a bound ended it; 0 says that nothing is left."""

    count: int


@final
@dataclass(frozen=True, slots=True)
class TransferReply:
    """What the committed log here says of a number, by this request or an earlier one; it never changes."""

    is_taken: bool
    """False: its messages never are."""


@final
@dataclass(frozen=True, slots=True)
class MoveFigures:
    """Messages that go from a partition to others and come from them, as its leader knows it."""

    waiting: int = 0
    """Messages on their way."""
    oldest_waiting_ms: int = 0
    """How long this leader has been trying to move the oldest of them."""
    moved_out: int = 0
    """Since this node began to lead; so for those that came."""
    moved_in: int = 0


NO_MOVES = MoveFigures()


@final
@dataclass(frozen=True, slots=True)
class StateReply:
    log_start: Offset
    log_end: Offset
    append_ms: int
    groups: tuple[GroupState, ...]
    moves: MoveFigures = NO_MOVES


Reply = (
    ProduceReply
    | ReceiveReply
    | SettleReply
    | RewindReply
    | GroupReply
    | DeadReply
    | ReviveReply
    | PurgeReply
    | PeekReply
    | CancelReply
    | MoveReply
    | TransferReply
    | StateReply
)
Answer = Callable[[Reply | LogBrokerError], None]
"""Called exactly once for every request, perhaps before `submit` returns."""
