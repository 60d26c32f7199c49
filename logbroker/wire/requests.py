"""The headers of frames: every request and reply of the client protocol, and their msgpack codec.

A header is an array `[kind, rid, fields...]`. Fields are only ever added at the end and with a
default, so an older reader skips what it does not know and a newer one fills in what is missing; a
change beyond that is a new protocol version. Kinds are never reused.

Types and sizes are checked here. Whether a value makes sense (does the queue exist, is the hide time
in range) is the server's to answer, because that is an error reply and not the end of the connection.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, final

import msgspec
from msgspec import Meta, Struct

from logbroker.errors import RemoteProtocolError

PROTOCOL_VERSION = 1
OLDEST_VERSION = 1
SUBPROTOCOL = "logbroker.v1.msgpack"
JSON_SUBPROTOCOL = "logbroker.v1.json"
STREAM_PATH = "/v1/stream"

NO_REQUEST = 0
"""The rid of an error that belongs to the connection and not to a request."""

# Nothing on the wire is negative or beyond 63 bits, so no number can overflow a field further in.
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Name = Annotated[str, Meta(max_length=1024)]
Text = Annotated[str, Meta(max_length=8192)]
Range = tuple[Number, Number]
"""Offsets, half-open."""
DeliveredRange = tuple[Number, Number, Number]
"""Offsets, half-open, and their delivery count, the first delivery being 1."""


class Request(Struct, frozen=True, array_like=True, gc=False):
    """What a client sends. `rid` is unique among its outstanding requests, and not 0."""

    rid: Number


class Reply(Struct, frozen=True, array_like=True, gc=False):
    """What a server sends; `rid` is the request's. Replies to different requests may come in any order."""

    rid: Number


# --- values inside headers: plain arrays, extended at the end like headers ---


@final
class WireLimits(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """What the server accepts from this connection."""

    max_message_bytes: Number = 2 * 1024 * 1024
    max_batch_bytes: Number = 1024 * 1024
    max_record_bytes: Number = 1024 * 1024
    max_record_count: Number = 10_000
    max_outstanding: Number = 1024
    """Requests without their reply, pings aside."""
    max_batches_in_flight: Number = 5
    """Of one producer and partition: as many as the broker can recognise as repeats."""
    max_wait_ms: Number = 30_000
    """Longest wait of a receive."""


@final
class QueueSettings(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    partitions: Number = 1
    retention_ms: Number = 4 * 24 * 3600 * 1000
    hide_ms: Number = 30_000
    max_wait_ms: Number = 30_000
    max_delivery_count: Number = 0
    """So often a message is delivered; when it fails the last time it is dead. 0 means no limit."""
    backoff_ms: Number = 0
    """How long a message waits after its first failed delivery, unless the nack says; 0: not at all."""
    max_backoff_ms: Number = 3_600_000
    """The longest such wait."""
    backoff_factor: Number = 2
    """By how much each further failure lengthens it."""
    jitter_percent: Number = 20
    """The share of each wait that is left to chance."""
    max_age_ms: Number = 0
    """What is unsettled so long after it was appended is dead; 0: never."""
    max_messages: Number = 0
    """The most messages that a consumer group may have unsettled; 0: no bound. Each partition has an even share."""
    max_bytes: Number = 0
    """The most bytes of batches that are kept, settled or not; 0: no bound. As `max_messages`."""
    full: Number = 0
    """What happens at a bound: 0, produce is refused with `queue_full`; 1, the oldest messages go."""
    rewind_ms: Number = 1_296_000_000
    """What is settled so long after it was appended cannot be rewound; 0: nothing that is settled can."""
    breaker_percent: Number = 0
    """A consumer group is paused for a while when so many of a hundred deliveries fail; 0: never."""
    breaker_count: Number = 20
    """So many deliveries at least must have ended before, in one partition."""
    breaker_window_ms: Number = 10_000
    """In this time, that is."""
    breaker_pause_ms: Number = 30_000
    """How long it is paused then."""
    window: Number = 0
    """How many messages of a group and partition are in flight at most; 0: any number."""
    order: Name = "none"
    """`key`: of the messages of a key, only those of one lease are in flight at once."""
    on_failure: Name = "block"
    """What messages behind a failed one do, where there is a window or an order: `block` or `skip`."""
    dead_letter: Name = ""
    """The queue to which messages are moved when they are dead; empty: they stay where they are. One that was deleted
    is told as empty."""
    dedup_window_ms: Number = 300_000
    """How long ids of messages are remembered, but never longer than the messages; 0: not at all."""
    dedup_count: Number = 1_000_000
    """How many of them, in each partition."""


@final
class QueueChanges(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """New values; None leaves a setting as it is."""

    partitions: Number | None = None
    retention_ms: Number | None = None
    hide_ms: Number | None = None
    max_wait_ms: Number | None = None
    max_delivery_count: Number | None = None
    backoff_ms: Number | None = None
    max_backoff_ms: Number | None = None
    backoff_factor: Number | None = None
    jitter_percent: Number | None = None
    max_age_ms: Number | None = None
    max_messages: Number | None = None
    max_bytes: Number | None = None
    full: Number | None = None
    rewind_ms: Number | None = None
    breaker_percent: Number | None = None
    breaker_count: Number | None = None
    breaker_window_ms: Number | None = None
    breaker_pause_ms: Number | None = None
    window: Number | None = None
    order: Name | None = None
    on_failure: Name | None = None
    dead_letter: Name | None = None
    """Empty: none from now on."""
    dedup_window_ms: Number | None = None
    dedup_count: Number | None = None


@final
class NodeInfo(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    node: Number
    url: Name


@final
class PartitionInfo(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    partition: Number
    group: Number
    leader: Number = 0
    """Node id; 0 when none is known."""
    term: Number = 0


@final
class QueueInfo(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    name: Name
    queue_id: Number
    settings: QueueSettings
    partitions: list[PartitionInfo]


@final
class BatchPart(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """One batch of a reply's body, and which of its records are leased.

    `size_bytes` 0 says that the log has lost these records: they are leased and can be settled, but
    there is nothing to show. `repacked` says that the batch holds the leased records alone.
    """

    size_bytes: Number
    base_offset: Number
    append_ms: Number
    ranges: list[DeliveredRange]
    repacked: bool = False


@final
class SettleResult(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """The answer to one (lease, ranges) item: counts of messages, and the ranges that did not fit."""

    done: Number
    already: Number = 0
    stale: list[Range] = []
    rewound: list[Range] = []


@final
class RewoundPartition(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    partition: Number
    requested: Name
    start_offset: Number
    start_ms: Number
    moved_count: Number
    clamped: Name = ""
    """Why the start is not the one that was asked for; empty when it is."""


@final
class GroupCounts(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Messages of one partition as one consumer group sees them."""

    name: Name
    available: Number
    leased: Number
    delayed: Number
    acked_ahead: Number
    """Acked, but above the floor."""
    dead: Number
    oldest_offset: Number = 0
    """Of the oldest message that is not settled; the log end when there is none."""
    oldest_ms: Number = 0
    is_paused: bool = False
    paused_reason: Name = ""
    paused_until_ms: Number = 0
    """In log time; 0 where it is paused until it is resumed, and where it is not paused."""
    moved: Number = 0
    """Moved to another queue, but above the floor; those on their way count as dead."""


@final
class GroupPartition(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """One consumer group in one partition, as of the request."""

    partition: Number
    available: Number = 0
    leased: Number = 0
    delayed: Number = 0
    dead: Number = 0
    lag_count: Number = 0
    """Messages that are not settled: available, leased and delayed."""
    lag_ms: Number = 0
    """How much older than the newest entry of the log the oldest of these is, in log time, which stands still while
    nothing happens; 0 where all is settled."""
    oldest_offset: Number = 0
    """Of the oldest of these; the log end where all is settled."""
    oldest_ms: Number = 0
    """Its log time; 0 where all is settled."""
    problem: Text = ""
    """Why counts or times are missing, when they are."""
    is_paused: bool = False
    paused_reason: Name = ""
    paused_until_ms: Number = 0
    """In log time; 0 where it is paused until it is resumed, and where it is not paused."""
    moved: Number = 0
    """Moved to another queue, but above the floor; those on their way count as dead."""


@final
class GroupDescription(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """One consumer group: the sums of `partitions`, of which one with a `problem` may be missing; the largest lag in
    time, and the oldest message. It is paused where one of them is; of several ends the latest is told.
    """

    name: Name
    available: Number
    leased: Number
    delayed: Number
    dead: Number
    lag_count: Number
    lag_ms: Number
    oldest_ms: Number
    partitions: list[GroupPartition]
    is_paused: bool = False
    paused_reason: Name = ""
    paused_until_ms: Number = 0
    """0 where a partition is paused until it is resumed, and where none is paused."""


@final
class PeekedRange(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Offsets [start, end) that are of one state."""

    start: Number
    end: Number
    state: Name
    """`available`, `leased`, `delayed`, `acked`, `dead`, `moving` to another queue, or `moved`."""
    visible_at_ms: Number = 0
    """When a lease or delay ends, in log time; else 0."""


@final
class DeadRow(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Neighbouring messages, offsets [start, end), that died together."""

    start: Number
    end: Number
    deliveries: Number
    buried_at_ms: Number
    cause: Name = ""
    """`rejected`, `max_deliveries` or `ttl`; empty where the entry that says so cannot be read just now."""
    reason: Name = ""
    """The consumer's words."""
    consumer: Name = ""
    """Who held them last."""


@final
class ReplicaDescription(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    replica: Number
    node: Number
    role: Name
    """`leader`, `voter`, `learner`, or `outgoing`."""
    detail: Name = ""


@final
class PartitionDescription(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    partition: Number
    log_start: Number
    log_end: Number
    leader: Number
    term: Number
    replicas: list[ReplicaDescription] = []
    groups: list[GroupCounts] = []
    append_ms: Number = 0
    problem: Text = ""
    """Why counts are missing, when they are."""


@final
class NodeStatus(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    node: Number
    url: Name
    state: Name
    """`up`, `unreachable`, `joining`, ..."""
    detail: Text = ""


@final
class GroupStatus(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """One Raft group as the answering node sees it; the meta group has no queue."""

    group: Number
    queue: Name
    partition: Number
    role: Name
    leader: Number
    term: Number
    commit: Number
    applied: Number
    detail: Text = ""


@final
class TokenInfo(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    name: Name
    rights: list[Name]


# --- where a rewind goes to, or a consumer group starts ---


@final
class TimeTarget(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The first message with log time at or after `ms`."""

    ms: Number


@final
class OffsetTarget(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The same offset in every partition."""

    offset: Number


@final
class RelativeTarget(Struct, frozen=True, array_like=True, gc=False, tag=3, kw_only=True):
    """Back by a time or by a count of messages; exactly one of them is not 0."""

    ms: Number = 0
    count: Number = 0


@final
class EarliestTarget(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The log start."""


@final
class LatestTarget(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The log end."""


@final
class MessageTarget(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """An offset for each partition named, as (partition, offset); the others stay where they are."""

    offsets: list[tuple[Number, Number]]


Target: TypeAlias = TimeTarget | OffsetTarget | RelativeTarget | EarliestTarget | LatestTarget | MessageTarget


# --- requests ---


@final
class Hello(Request, frozen=True, gc=False, tag=1, kw_only=True):
    """The first frame of a connection; nothing else may follow it before the reply."""

    version: Number = PROTOCOL_VERSION
    """The newest version the client speaks."""
    token: Text = ""
    client: Name = ""
    """Name and version of the client's software."""
    session: Number = 0
    """Owner of the connection: random, the same over reconnects."""
    oldest_version: Number = OLDEST_VERSION


@final
class Ping(Request, frozen=True, gc=False, tag=2, kw_only=True):
    pass


@final
class Metadata(Request, frozen=True, gc=False, tag=3, kw_only=True):
    queues: list[Name] | None = None
    """None asks for all that the token may see."""


@final
class Produce(Request, frozen=True, gc=False, tag=4, kw_only=True):
    """The body is one record batch. All of it is delivered later if `delay_ms` or `deliver_at_ms` says so; not both."""

    queue: Name
    partition: Number
    delay_ms: Number = 0
    """From when it is appended; at most the retention less a second."""
    deliver_at_ms: Number = 0
    """Log time; what lies in the past is delivered at once."""
    dedup: bool = False
    """Some of its messages have ids of their own, in a header: it is opened to look at them."""


@final
class Receive(Request, frozen=True, gc=False, tag=5, kw_only=True):
    """(session, request_id) names this receive for ever: a repeat gets the same lease."""

    queue: Name
    partition: Number
    group: Name
    max_count: Number
    max_bytes: Number
    hide_ms: Number
    wait_ms: Number
    session: Number
    request_id: Number
    consumer: Name = ""
    release_on_close: bool = False
    """What is left of the lease when this connection ends goes back at once, not counted as delivered."""


@final
class Ack(Request, frozen=True, gc=False, tag=6, kw_only=True):
    queue: Name
    partition: Number
    group: Name
    items: list[tuple[Number, list[Range]]]
    """(lease, ranges of offsets)."""


@final
class Nack(Request, frozen=True, gc=False, tag=7, kw_only=True):
    queue: Name
    partition: Number
    group: Name
    items: list[tuple[Number, list[Range]]]
    delay_ms: Number = 0
    reason: Name = ""
    by_policy: bool = False
    """Wait as the queue's backoff says, whatever `delay_ms` is."""


@final
class Extend(Request, frozen=True, gc=False, tag=8, kw_only=True):
    """Hide until `hide_ms` from the commit of this request."""

    queue: Name
    partition: Number
    group: Name
    items: list[tuple[Number, list[Range]]]
    hide_ms: Number


@final
class Release(Request, frozen=True, gc=False, tag=9, kw_only=True):
    """Give back whole leases of which no message was shown to anybody: not counted as deliveries."""

    queue: Name
    partition: Number
    group: Name
    leases: list[Number]


@final
class Rewind(Request, frozen=True, gc=False, tag=10, kw_only=True):
    """`rewind_id` is the client's, random: a repeat of it does nothing and gives the same answer."""

    queue: Name
    group: Name
    rewind_id: Number
    target: Target
    forward: bool = False
    """Skip to a later position, which a rewind refuses to do."""
    clamp: bool = False


@final
class CreateQueue(Request, frozen=True, gc=False, tag=11, kw_only=True):
    name: Name
    settings: QueueSettings


@final
class AlterQueue(Request, frozen=True, gc=False, tag=12, kw_only=True):
    name: Name
    changes: QueueChanges


@final
class DeleteQueue(Request, frozen=True, gc=False, tag=13, kw_only=True):
    name: Name


@final
class ListQueues(Request, frozen=True, gc=False, tag=14, kw_only=True):
    pass


@final
class DescribeQueue(Request, frozen=True, gc=False, tag=15, kw_only=True):
    name: Name


@final
class CreateGroup(Request, frozen=True, gc=False, tag=16, kw_only=True):
    queue: Name
    group: Name
    start: Target


@final
class DeleteGroup(Request, frozen=True, gc=False, tag=17, kw_only=True):
    queue: Name
    group: Name


@final
class CreateToken(Request, frozen=True, gc=False, tag=18, kw_only=True):
    name: Name
    rights: list[Name]


@final
class DeleteToken(Request, frozen=True, gc=False, tag=19, kw_only=True):
    name: Name


@final
class ListTokens(Request, frozen=True, gc=False, tag=20, kw_only=True):
    pass


@final
class Status(Request, frozen=True, gc=False, tag=21, kw_only=True):
    pass


@final
class Reject(Request, frozen=True, gc=False, tag=22, kw_only=True):
    """The messages can never be done: they are dead, and stay until they are revived or expire."""

    queue: Name
    partition: Number
    group: Name
    items: list[tuple[Number, list[Range]]]
    reason: Name = ""


@final
class ListDead(Request, frozen=True, gc=False, tag=23, kw_only=True):
    """Dead messages from an offset on, in order. More may follow after the last row, none after an empty answer."""

    queue: Name
    partition: Number
    group: Name
    start_offset: Number = 0
    max_count: Number = 100
    """Of rows; the most is 100."""


@final
class Revive(Request, frozen=True, gc=False, tag=24, kw_only=True):
    """Make what is dead of the ranges available, as if it had never been delivered."""

    queue: Name
    partition: Number
    group: Name
    ranges: list[Range]


@final
class MoveMessages(Request, frozen=True, gc=False, tag=34, kw_only=True):
    """Move what is available or dead of the ranges to another partition; it is safe to repeat.

    Each message gets there once, with headers that say where it was first, and is never delivered here again.
    """

    queue: Name
    partition: Number
    group: Name
    ranges: list[Range]
    to_queue: Name
    to_partition: Number


@final
class Subscribe(Request, frozen=True, gc=False, tag=25, kw_only=True):
    """Have leased messages pushed, as Delivered with this rid, while there is credit for them.

    The rid stays taken until the stream ends: by an Unsubscribe, or by an error, such as `not_leader` when another node
    leads the partition. Nothing is leased without credit, nor while the last delivery is not on its way yet.
    """

    queue: Name
    partition: Number
    group: Name
    hide_ms: Number
    credit_count: Number
    """So many messages may be pushed, until Credit grants more."""
    credit_bytes: Number
    """So many bytes of batches. Pushing rests while the credit is less than the largest batch that there may be, the
    `max_batch_bytes` of the welcome."""
    max_count: Number
    """Of one delivery."""
    max_bytes: Number
    """Of one delivery; a single batch may be larger."""
    consumer: Name = ""
    release_on_close: bool = False
    """What is left of its leases when this connection ends goes back at once, not counted as delivered."""


@final
class Credit(Request, frozen=True, gc=False, tag=26, kw_only=True):
    """Let a stream of this connection push so much more, beside what is left of its credit."""

    queue: Name
    subscription: Number
    """The rid of the Subscribe."""
    credit_count: Number = 0
    credit_bytes: Number = 0


@final
class Unsubscribe(Request, frozen=True, gc=False, tag=27, kw_only=True):
    """End a stream of this connection: the Subscribe is answered, and nothing is pushed any more. Leases stay."""

    queue: Name
    subscription: Number
    """The rid of the Subscribe."""


@final
class DescribeGroups(Request, frozen=True, gc=False, tag=28, kw_only=True):
    """How far consumer groups are, exact as of this request. Nothing is leased or changed by it."""

    queue: Name
    group: Name = ""
    """Only this one; all of them when it is empty."""


@final
class Peek(Request, frozen=True, gc=False, tag=29, kw_only=True):
    """Show messages as a group has them, without leasing them: nothing is changed by it."""

    queue: Name
    partition: Number
    group: Name
    max_count: Number
    """Of messages; refused above the limit of a receive, as the bytes are."""
    max_bytes: Number
    """Of batches; a single batch may be larger."""
    start: Target = EarliestTarget()
    """The first message looked at. What of it has expired, or is not there yet, is not shown."""
    with_settled: bool = False
    """Show acked and dead messages too."""


@final
class PauseGroup(Request, frozen=True, gc=False, tag=30, kw_only=True):
    """Lease nothing to a group, in any partition; receives wait, and streams stay open. What is leased goes on.

    Of a group that is paused already, reason and end are replaced.
    """

    queue: Name
    group: Name
    reason: Name = ""
    duration_ms: Number = 0
    """In log time from the commit on; 0 is until the group is resumed."""


@final
class ResumeGroup(Request, frozen=True, gc=False, tag=31, kw_only=True):
    """Nothing is done to a group that is not paused."""

    queue: Name
    group: Name


@final
class PurgeGroup(Request, frozen=True, gc=False, tag=32, kw_only=True):
    """Settle all that a group has, the dead too, up to the log end of each partition as it carries it out.

    It takes effect partition by partition. `purge_id` is the client's, random: a partition that has done it does
    nothing when it is repeated, and gives the same answer.
    """

    queue: Name
    group: Name
    purge_id: Number


@final
class Cancel(Request, frozen=True, gc=False, tag=33, kw_only=True):
    """Never deliver what of the ranges is not due yet, to any consumer group. It may be repeated."""

    queue: Name
    partition: Number
    ranges: list[Range]


# --- replies ---


@final
class Welcome(Reply, frozen=True, gc=False, tag=64, kw_only=True):
    version: Number
    """The version both sides speak from here on."""
    node: Number
    cluster: Name
    limits: WireLimits
    ping_ms: Number = 20_000
    """How often the client says something at least; after three of them unheard the server closes."""


@final
class Pong(Reply, frozen=True, gc=False, tag=65, kw_only=True):
    pass


@final
class Error(Reply, frozen=True, gc=False, tag=66, kw_only=True):
    """The request failed, or with rid 0 the connection did."""

    code: Name
    message: Text
    hint: Text = ""
    retriable: bool = False
    leader_node: Number = 0
    leader_url: Name = ""


@final
class Done(Reply, frozen=True, gc=False, tag=67, kw_only=True):
    """It is committed, and there is nothing more to say."""


@final
class MetadataReply(Reply, frozen=True, gc=False, tag=68, kw_only=True):
    nodes: list[NodeInfo]
    queues: list[QueueInfo]
    """A queue that was asked for and is missing here does not exist."""
    epoch: Number = 0
    """Grows with every change of the catalogue."""


@final
class Produced(Reply, frozen=True, gc=False, tag=69, kw_only=True):
    base_offset: Number
    count: Number
    append_ms: Number
    duplicate: bool = False
    due_ms: Number = 0
    """When it may be delivered, a multiple of 100 ms; 0 is at once, or for a duplicate by now."""
    duplicates: list[tuple[Number, Number]] = []
    """(position in the batch, offset of the first message of its id) of those that were there before."""
    conflicts: list[Number] = []
    """Positions of those whose id was used for another body, or was cancelled; they are never delivered."""


@final
class Received(Reply, frozen=True, gc=False, tag=70, kw_only=True):
    """The body is the batches of `parts` back to back. No parts: nothing came in time, no lease."""

    lease: Number
    visible_at_ms: Number
    hide_left_ms: Number
    parts: list[BatchPart]


@final
class Settled(Reply, frozen=True, gc=False, tag=71, kw_only=True):
    """One result for each item of the request, in its order."""

    results: list[SettleResult]


@final
class Rewound(Reply, frozen=True, gc=False, tag=72, kw_only=True):
    rewind_id: Number
    pending: bool
    """Committed, but not yet carried out in every partition; it will be."""
    partitions: list[RewoundPartition]


@final
class QueueList(Reply, frozen=True, gc=False, tag=73, kw_only=True):
    queues: list[QueueInfo]


@final
class QueueDescription(Reply, frozen=True, gc=False, tag=74, kw_only=True):
    info: QueueInfo
    partitions: list[PartitionDescription]


@final
class TokenCreated(Reply, frozen=True, gc=False, tag=75, kw_only=True):
    token: Text
    """Shown this once; only its hash is stored."""


@final
class TokenList(Reply, frozen=True, gc=False, tag=76, kw_only=True):
    tokens: list[TokenInfo]


@final
class StatusReply(Reply, frozen=True, gc=False, tag=77, kw_only=True):
    nodes: list[NodeStatus]
    groups: list[GroupStatus]
    problems: list[Text]


@final
class DeadList(Reply, frozen=True, gc=False, tag=78, kw_only=True):
    rows: list[DeadRow]


@final
class Revived(Reply, frozen=True, gc=False, tag=79, kw_only=True):
    """So many messages. Where that is less than all that were dead, asking again goes on; 0: nothing is left."""

    count: Number


@final
class Moving(Reply, frozen=True, gc=False, tag=86, kw_only=True):
    """So many messages are on their way. Where that is less than all that could be moved, asking again goes on; 0:
    nothing is left. One that turns out not to be readable stays where it was."""

    count: Number


@final
class Delivered(Reply, frozen=True, gc=False, tag=80, kw_only=True):
    """One lease of a stream, whose rid is that of the Subscribe; more may follow. Parts and body are as in Received."""

    lease: Number
    visible_at_ms: Number
    hide_left_ms: Number
    parts: list[BatchPart]
    credit_count: Number
    """What is left after this delivery; so for bytes."""
    credit_bytes: Number


@final
class Unsubscribed(Reply, frozen=True, gc=False, tag=81, kw_only=True):
    """The stream has ended because the client wanted it, and the rid is free."""

    count: Number
    """Messages that it delivered in all."""


@final
class GroupDescriptions(Reply, frozen=True, gc=False, tag=82, kw_only=True):
    groups: list[GroupDescription]
    """By name."""


@final
class Peeked(Reply, frozen=True, gc=False, tag=83, kw_only=True):
    """Parts and body are as in Received, without a lease. A message never delivered has been delivered 0 times."""

    parts: list[BatchPart]
    ranges: list[PeekedRange]
    next_offset: Number
    """Where the next look begins; more may follow while it is below `log_end`, also after an empty answer."""
    log_end: Number


@final
class Purged(Reply, frozen=True, gc=False, tag=84, kw_only=True):
    """Messages of all partitions that were not acked before, and how many of these were leased, and dead."""

    purged_count: Number
    revoked_count: Number
    dead_count: Number


@final
class Cancelled(Reply, frozen=True, gc=False, tag=85, kw_only=True):
    cancelled: Number
    """Messages that are never delivered, by this request or one before it."""
    late: Number
    """Those of the others: due by now, never delayed, or taken by retention or to another queue."""


AnyRequest: TypeAlias = (
    Hello
    | Ping
    | Metadata
    | Produce
    | Receive
    | Ack
    | Nack
    | Extend
    | Release
    | Rewind
    | CreateQueue
    | AlterQueue
    | DeleteQueue
    | ListQueues
    | DescribeQueue
    | CreateGroup
    | DeleteGroup
    | CreateToken
    | DeleteToken
    | ListTokens
    | Status
    | Reject
    | ListDead
    | Revive
    | MoveMessages
    | Subscribe
    | Credit
    | Unsubscribe
    | DescribeGroups
    | Peek
    | PauseGroup
    | ResumeGroup
    | PurgeGroup
    | Cancel
)

AnyReply: TypeAlias = (
    Welcome
    | Pong
    | Error
    | Done
    | MetadataReply
    | Produced
    | Received
    | Settled
    | Rewound
    | QueueList
    | QueueDescription
    | TokenCreated
    | TokenList
    | StatusReply
    | DeadList
    | Revived
    | Moving
    | Delivered
    | Unsubscribed
    | GroupDescriptions
    | Peeked
    | Purged
    | Cancelled
)

REPLY_OF: dict[type[Request], type[Reply]] = {
    Hello: Welcome,
    Ping: Pong,
    Metadata: MetadataReply,
    Produce: Produced,
    Receive: Received,
    Ack: Settled,
    Nack: Settled,
    Extend: Settled,
    Release: Done,
    Rewind: Rewound,
    CreateQueue: Done,
    AlterQueue: Done,
    DeleteQueue: Done,
    ListQueues: QueueList,
    DescribeQueue: QueueDescription,
    CreateGroup: Done,
    DeleteGroup: Done,
    CreateToken: TokenCreated,
    DeleteToken: Done,
    ListTokens: TokenList,
    Status: StatusReply,
    Reject: Settled,
    ListDead: DeadList,
    Revive: Revived,
    MoveMessages: Moving,
    Subscribe: Unsubscribed,
    Credit: Done,
    Unsubscribe: Done,
    DescribeGroups: GroupDescriptions,
    Peek: Peeked,
    PauseGroup: Done,
    ResumeGroup: Done,
    PurgeGroup: Purged,
    Cancel: Cancelled,
}
"""The reply each request gets; any of them may get `Error` instead."""

PUSHES_OF: dict[type[Request], type[Reply]] = {Subscribe: Delivered}
"""What may come any number of times before the reply, with the same rid."""

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_reply_decoder: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)

encode_header = _encoder.encode


def decode_request(header: bytes) -> AnyRequest:
    """Decode what a client sent.

    Raises:
        RemoteProtocolError: not msgpack, not a known kind, or a field of another type or size.
    """
    # RecursionError: arrays nested too deep inside a field that is skipped. ValueError is the root of
    # msgspec's errors and of UnicodeDecodeError.
    try:
        return _request_decoder.decode(header)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"request header is malformed: {error}") from error


def decode_reply(header: bytes) -> AnyReply:
    """Decode what a server sent; as `decode_request`."""
    try:
        return _reply_decoder.decode(header)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"reply header is malformed: {error}") from error
