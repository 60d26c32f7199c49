"""The one table of limits: what a client, a connection or the whole cluster may ask for.

Each has a default, the bounds an operator may move it between, and a description; the page of limits is made from
this table, so that it cannot drift. What protects a node from itself (WAL, Raft windows) stands in its own section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from logbroker.wire.json_messages import MAX_GIVEN_MESSAGES, MAX_OPENED_BYTES, MAX_SHOWN_BYTES
from logbroker.wire.json_protocol import TEXT_COST
from logbroker.wire.protocol import HEADER_COST, MAX_MESSAGE_HEADER_BYTES, MAX_REQUEST_HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MIN_RETENTION_MS = 60_000
MAX_RETENTION_MS = 1_296_000_000
MIN_HIDE_MS = 1_000
MAX_HIDE_MS = 43_200_000


@final
class Limits(BaseModel):
    """What clients may ask for. Every refusal names the limit it met."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_record_bytes: int = Field(default=MIB, ge=KIB, le=4 * MIB, description="One record: key, value and headers.")
    max_batch_bytes: int = Field(
        default=MIB,
        ge=4 * KIB,
        le=4 * MIB,
        description="One record batch as sent, compressed or not; also one log entry.",
    )
    max_record_count: int = Field(default=10_000, ge=1, le=10_000, description="Records in one batch.")
    max_uncompressed_bytes: int = Field(
        default=8 * MIB, ge=4 * KIB, le=64 * MIB, description="Records of one batch after decompression."
    )
    max_header_bytes: int = Field(
        default=64 * KIB, ge=0, le=MIB, description="Headers of one record, names and values."
    )
    max_header_count: int = Field(
        default=100_000, ge=0, le=1_000_000, description="Headers of all records of one batch together."
    )
    max_receive_count: int = Field(default=1_000, ge=1, le=1_000, description="Messages in one receive.")
    max_receive_bytes: int = Field(
        default=MIB,
        ge=4 * KIB,
        le=4 * MIB,
        description="Batches in one reply to a receive. The first batch always goes, so that nothing is stuck.",
    )
    max_wait_ms: int = Field(default=30_000, ge=0, le=30_000, description="Longest wait of a receive for a message.")
    max_hide_ms: int = Field(
        default=MAX_HIDE_MS,
        ge=MIN_HIDE_MS,
        le=MAX_HIDE_MS,
        description="Longest hide time of a lease, extensions included.",
    )
    max_ranges_per_change: int = Field(
        default=1_000, ge=1, le=10_000, description="Ranges of one lease in an ack, nack or extend."
    )
    max_runs_per_group: int = Field(
        default=2_000_000,
        ge=1_000,
        le=10_000_000,
        description="Runs in the table of one consumer group and partition, about 300 bytes each.",
    )
    max_connections: int = Field(default=4_096, ge=1, le=65_536, description="Client connections of one node.")
    max_connections_per_address: int = Field(
        default=1_024, ge=1, le=65_536, description="Client connections from one address."
    )
    max_unauthenticated_connections: int = Field(
        default=256, ge=1, le=65_536, description="Connections that have not said hello yet, on one node."
    )
    max_http_head_bytes: int = Field(
        default=16 * KIB, ge=KIB, le=64 * KIB, description="Request line and headers of one HTTP request."
    )
    max_inflight_requests: int = Field(
        default=1_024, ge=1, le=65_536, description="Requests of one connection not answered yet."
    )
    max_inflight_bytes: int = Field(
        default=16 * MIB,
        ge=MIB,
        le=GIB,
        description="Request bytes of one connection not answered yet; reading stops there.",
    )
    max_reply_bytes: int = Field(
        default=16 * MIB,
        ge=MIB,
        le=GIB,
        description="Replies waiting for a slow connection; past it the connection is closed.",
    )
    max_held_bytes: int = Field(
        default=512 * MIB,
        ge=16 * MIB,
        le=64 * GIB,
        description="Requests without answer and replies not written yet, of all connections of one node; past it "
        "those that hold more than their share are not read from, or closed.",
    )
    max_waiting_receives: int = Field(
        default=10_000, ge=1, le=100_000, description="Receives waiting for messages, and streams, on one node."
    )
    max_credit_count: int = Field(
        default=100_000, ge=1, le=1_000_000, description="Messages that one stream may push without another word."
    )
    max_credit_bytes: int = Field(
        default=64 * MIB,
        ge=4 * MIB,
        le=GIB,
        description="The same in bytes of batches; at a connection that is slow waits one delivery of each stream.",
    )
    max_leases_on_close: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="Leases of one connection that go back when it ends, where its receives ask for that; past it "
        "the oldest are left to their hide time.",
    )
    max_queues: int = Field(default=1_000, ge=1, le=10_000, description="Queues of the cluster.")
    max_partitions_per_queue: int = Field(default=64, ge=1, le=1_024, description="Partitions of one queue.")
    max_partitions: int = Field(
        default=1_000, ge=1, le=10_000, description="Partitions of the cluster, all queues together."
    )
    max_tokens: int = Field(default=1_000, ge=1, le=10_000, description="Access tokens of the cluster.")
    max_grants_per_token: int = Field(
        default=16, ge=1, le=64, description="Grants (queue pattern and rights) of one token."
    )
    max_pending_rewinds: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Rewinds of one consumer group that are decided and not yet done everywhere.",
    )

    @property
    def max_websocket_message_bytes(self) -> int:
        """Twice the larger of a batch and a reply: a full one and its headers always fit, two seldom have to wait."""
        return 2 * max(self.max_batch_bytes, self.max_receive_bytes)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _at_most("max_record_bytes", self.max_record_bytes, "max_batch_bytes", self.max_batch_bytes)
        _at_most("max_batch_bytes", self.max_batch_bytes, "max_uncompressed_bytes", self.max_uncompressed_bytes)
        _at_most("max_batch_bytes", self.max_batch_bytes, "max_inflight_bytes", self.max_inflight_bytes)
        _at_most("max_receive_bytes", self.max_receive_bytes, "max_reply_bytes", self.max_reply_bytes)
        _at_most("max_websocket_message_bytes", self.max_websocket_message_bytes, "max_held_bytes", self.max_held_bytes)
        _at_most("max_partitions_per_queue", self.max_partitions_per_queue, "max_partitions", self.max_partitions)
        return self


def _at_most(name: str, value: int, bound_name: str, bound: int) -> None:
    if value > bound:
        raise ValueError(f"{name} {value:,} is above {bound_name} {bound:,}")


FIXED_LIMITS = (
    ("hide time", f"{MIN_HIDE_MS:,} ms or more", "A lease hides its messages at least this long."),
    ("retention", f"{MIN_RETENTION_MS:,} to {MAX_RETENTION_MS:,} ms", "Time from append to removal, set per queue."),
    (
        "websocket message",
        "twice the larger of `max_batch_bytes` and `max_receive_bytes`",
        "One WebSocket message, which may hold many frames.",
    ),
    (
        "text of JSON",
        f"{MAX_REQUEST_HEADER_BYTES:,} bytes; of a produce one websocket message",
        f"One request. A produce holds {MAX_GIVEN_MESSAGES:,} messages at the most, whatever `max_record_count` says.",
    ),
    (
        "receive in JSON",
        f"{MAX_SHOWN_BYTES:,} bytes of text",
        f"Messages shown; the first one always is. Once the batches opened for it have {MAX_OPENED_BYTES:,} bytes no "
        "other is. What is beyond is named by its offset, leased and not shown.",
    ),
    ("queue name", "1 to 200 of `a-z 0-9 . _ -`", "Not `.` or `..`. Never used as a path."),
    ("token name", "1 to 200 of `a-z 0-9 . _ -`", "As for queues."),
    ("group name", "1 to 128 of `A-Z a-z 0-9 . _ -`", "Consumer groups."),
    ("consumer groups", "1,000", "Of one queue, `default` included."),
    ("delay", "the queue's retention less 1,000 ms", "Of a message for later; retention would take it before."),
    (
        "delayed runs",
        "4,000,000",
        "Neighbours of one due time in a partition, in all consumer groups together. Due times are full 100 ms.",
    ),
    ("cancelled ranges", "1,000,000", "Of one partition, until retention takes them; 10,000 runs in one request."),
    ("producers", "10,000", "Remembered by one partition; the least recent is forgotten first."),
    ("batches of a producer", "5", "In flight to one partition; duplicates are known that far back."),
    ("id of a message", "1 to 128 bytes", "The `dedup_id` that a producer gives it."),
    ("batch with such ids", "1,000 messages", "It is opened by the leader, which a batch without ids is not."),
    ("ids remembered", "86,400,000 ms; 10,000,000 of a partition", "Set per queue; about 140 bytes each on a leader."),
    ("cluster size", "1, 3, 5 or 7 nodes", "How many nodes hold each partition."),
)
"""What is not in `Limits` because no operator may move it: (what, bound, meaning)."""

CONNECTION_BYTES = 128 * KIB
"""What a connection takes by itself: its tasks, its TLS state, and the beginnings of frames."""
LEASE_BYTES = 640
"""What a lease takes that goes back with its connection."""


def connections_bytes(limits: Limits, *, connections: int | None = None) -> int:
    """What all client connections of a node take in memory, at the most; the page of limits explains it."""
    count = limits.max_connections if connections is None else connections
    message = limits.max_websocket_message_bytes
    last = max(message + HEADER_COST * MAX_MESSAGE_HEADER_BYTES, TEXT_COST * message)
    each = message + CONNECTION_BYTES + LEASE_BYTES * limits.max_leases_on_close
    return 2 * limits.max_held_bytes + last + count * each


def limits_page() -> str:
    """Render all limits as a page of Markdown: what may be set, then what is fixed."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Limits"
    yield ""
    yield "Made by `logbroker config limits`; not edited by hand. Sizes are bytes, times are milliseconds. Beyond a"
    yield "limit a request is refused, and the refusal names it. Set one with `--set limits.max_queues=2000` or in the"
    yield "configuration file."
    yield ""
    yield "| limit | default | smallest | largest | what it bounds |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for name, field in Limits.model_fields.items():
        smallest, largest = bounds_of(field)
        yield f"| `limits.{name}` | {field.default:,} | {smallest:,} | {largest:,} | {field.description} |"
    yield ""
    yield "| fixed | bound | meaning |"
    yield "| --- | --- | --- |"
    for what, bound, meaning in FIXED_LIMITS:
        yield f"| {what} | {bound} | {meaning} |"
    yield from _memory_lines()


_MEMORY = """
## Hostile peers and clients: what they can take

All client connections of a node together take at most, in bytes of memory:

```
  2 x max_held_bytes                        requests without answer, replies not written yet
+ message + {header_cost} x {headers:,}            the message that is looked at, with its headers decoded;
  or {text_cost} x message if that is more        as a text of JSON
+ connections x (message + {each:,}     messages of which a part has come, and what a connection takes by itself,
  + {lease} x max_leases_on_close)             with the leases that go back when it ends
```

`message` is the largest WebSocket message. With the defaults that is {most:,} MiB if all {connections:,} connections do
their worst, and {few:,} MiB for 100. Room for a message is taken as it comes, not as it is announced: 256 KiB, then
twice what is there. Only who has said hello may begin one; others may send {early:,} bytes in all.

Above `max_held_bytes`, whoever holds more than `max_held_bytes / connections` is not read from, and is closed with
1013 if replies for it go on; above twice of it, nobody is read from. A header is counted {header_cost} times, which is
what it takes decoded; a reply that waits to be written is counted with 160 bytes more than it has.

A link from another node takes at most twice the largest peer frame, and one to it `64 MiB` of what waits to be sent.
Whoever has not said the hello of a node has 64 places, 64 KiB and `timeouts.handshake_ms`.
"""


def _memory_lines() -> Iterator[str]:
    limits = Limits()
    yield from (
        _MEMORY.rstrip()
        .format(
            header_cost=HEADER_COST,
            headers=MAX_MESSAGE_HEADER_BYTES,
            text_cost=TEXT_COST,
            each=CONNECTION_BYTES,
            lease=LEASE_BYTES,
            early=MAX_REQUEST_HEADER_BYTES + limits.max_http_head_bytes,
            most=connections_bytes(limits) // MIB,
            connections=limits.max_connections,
            few=connections_bytes(limits, connections=100) // MIB,
        )
        .split("\n")
    )


def bounds_of(field: FieldInfo) -> tuple[int, int]:
    """Give the smallest and the largest value that a numeric setting takes.

    Raises:
        LookupError: the field misses one of the two.
    """
    found: dict[str, int] = {}
    for constraint in field.metadata:
        for kind in ("ge", "le"):
            if hasattr(constraint, kind):
                found[kind] = getattr(constraint, kind)
    return found["ge"], found["le"]
