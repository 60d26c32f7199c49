"""The changes that a STATE entry carries, the payload of a FLOOR entry, and their codec.

An entry holds outcomes that the leader has decided, never wishes: ranges, not counts. The form is a msgpack array of
arrays that begin with a small number, the tag. Tags and the order of fields are a disk and wire format: they
are never used again for something else, and a field is never added, because an old node must not skip what it
does not know.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeGuard, TypeVar, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.ids import MAX_CHANGES_PER_ENTRY, GroupName
from logbroker.partition.deadlines import BUCKET_MS
from logbroker.record.dedup_ids import BODY_HASH_BYTES, ID_HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NUMBER = (1 << 63) - 1
MAX_TEXT_BYTES = 1024
"""Longest name, reason or description in a change; requests are held to tighter bounds in `decide`."""

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_BYTES)]
Name: TypeAlias = Annotated[GroupName, msgspec.Meta(min_length=1, max_length=MAX_TEXT_BYTES)]
DueMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER, multiple_of=BUCKET_MS)]
Ranges: TypeAlias = tuple[tuple[Number, Number], ...]
"""Half-open offset ranges, sorted, apart or touching, none empty."""


class _Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    group: Name


@final
class CreateGroup(_Change, frozen=True, tag=1):
    """Everything below `start_offset` counts as acked in the new group."""

    start_offset: Number


@final
class DeleteGroup(_Change, frozen=True, tag=2):
    pass


@final
class Lease(_Change, frozen=True, tag=3):
    """Named `lease_id(index, ordinal)` of where it stands."""

    ranges: Ranges
    visible_at_ms: Number
    consumer: Text
    session: Number
    request_id: Number


@final
class Ack(_Change, frozen=True, tag=4):
    lease: Number
    ranges: Ranges


@final
class Nack(_Change, frozen=True, tag=5):
    """With `visible_at_ms` at or below the entry's append_ms the messages are available at once."""

    lease: Number
    ranges: Ranges
    visible_at_ms: Number
    reason: Text


@final
class Extend(_Change, frozen=True, tag=6):
    lease: Number
    ranges: Ranges
    visible_at_ms: Number


@final
class Release(_Change, frozen=True, tag=7):
    """The consumer went away before it was answered: the delivery does not count."""

    lease: Number


@final
class Expire(_Change, frozen=True, tag=8):
    """Fits only if all of the ranges is leased and past its deadline at the entry's append_ms."""

    ranges: Ranges


@final
class Rewind(_Change, frozen=True, tag=9):
    """`requested` is the target in the operator's words, for the trace."""

    rewind_id: Number
    start_offset: Number
    requested: Text


@final
class SkipTo(_Change, frozen=True, tag=10):
    rewind_id: Number
    start_offset: Number
    requested: Text


@final
class Cause(IntEnum):
    """Why a message was given up. The numbers are part of the format."""

    REJECTED = 1
    """Its consumer said that it can never be done."""
    MAX_DELIVERIES = 2
    """It failed as often as its queue allows."""
    TTL = 3
    """It was not settled within the time that its queue gives a message."""


@final
class Bury(_Change, frozen=True, tag=11):
    """What the lease holds of the ranges is dead. The reason is kept here alone, to be read by index."""

    lease: Number
    ranges: Ranges
    cause: Cause
    reason: Text


@final
class BuryExpired(_Change, frozen=True, tag=12):
    """As `Expire`, but the messages are dead; `consumer` held them all, and `MAX_DELIVERIES` is why."""

    ranges: Ranges
    consumer: Text


@final
class Revive(_Change, frozen=True, tag=13):
    """What is dead of the ranges is available as if it had never been delivered."""

    ranges: Ranges


@final
class BuryOld(_Change, frozen=True, tag=20):
    """All below `end_offset` that is available or delayed is dead; `TTL` is why.

    The leader names an end below which there is as much as one entry may bury.
    """

    end_offset: Number


@final
class Pause(_Change, frozen=True, tag=14):
    """Nothing of the group is leased until `until_ms` in log time; 0: until it is resumed."""

    reason: Text
    until_ms: Number


@final
class Resume(_Change, frozen=True, tag=15):
    pass


@final
class Purge(_Change, frozen=True, tag=16):
    """All below `end_offset` counts as acked, the dead too. `requested` is what the operator said, for the trace."""

    rewind_id: Number
    end_offset: Number
    requested: Text


class QueueChange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of no consumer group: it concerns all of them."""


@final
class DeliverAt(QueueChange, frozen=True, tag=17):
    """The batch of the very next entry, if that is one of the same term, is delivered to nobody before `due_ms`.

    It stands before the batch, so that a batch that is committed has it whatever becomes of the leader.
    """

    due_ms: DueMs


@final
class Cancel(QueueChange, frozen=True, tag=18):
    """What of the ranges is not due yet is never delivered."""

    ranges: Ranges


@final
class RewindFloor(QueueChange, frozen=True, tag=21):
    """What is settled below `start_offset` stays settled, in every group and whatever is rewound."""

    start_offset: Number


@final
class MoveIn(QueueChange, frozen=True, tag=24):
    """The batch of the very next entry, as with `DeliverAt`, is what the Raft group `source` owes under `number`.

    With `is_refused` there is none, and `number` is never taken: a source may keep what it owes on this word alone.
    """

    source: Number
    number: Number
    is_refused: bool


@final
class ForgetSource(QueueChange, frozen=True, tag=25):
    """The Raft group `source` was deleted: it owes nothing any more."""

    source: Number


@final
class Dedupe(QueueChange, frozen=True, tag=19):
    """The batch of the very next entry, as with `DeliverAt`, has messages with ids of their own.

    `hashes` and `bodies` are those of `record.dedup_ids`, of each record in order. An id counts for less than
    `window_ms` of log time, and while no more than `max_count` others are newer: both stand here, because apply knows
    no settings.
    """

    window_ms: Positive
    max_count: Positive
    hashes: bytes
    bodies: bytes

    @property
    def count(self) -> int:
        """Of records."""
        return len(self.hashes) // ID_HASH_BYTES


Arming: TypeAlias = DeliverAt | MoveIn | Dedupe
"""Changes that say something of the next entry's batch, and nothing if the next entry is none of the same term.

An entry that has some begins with one.
"""


def arms(change: object) -> TypeGuard[Arming]:
    """Whether a change says something of the next entry's batch."""
    return isinstance(change, (DeliverAt, Dedupe)) or (isinstance(change, MoveIn) and not change.is_refused)


@final
class MoveOut(_Change, frozen=True, tag=22):
    """All of the ranges, which are available or dead, go to the Raft group `target`; named as a lease is."""

    ranges: Ranges
    target: Number


@final
class Moved(_Change, frozen=True, tag=23):
    """What `number` names has arrived in `target`; or, with `is_refused`, it never will and is as it was before."""

    target: Number
    number: Number
    is_refused: bool


GroupChange: TypeAlias = (
    CreateGroup
    | DeleteGroup
    | Lease
    | Ack
    | Nack
    | Extend
    | Release
    | Expire
    | Rewind
    | SkipTo
    | Bury
    | BuryExpired
    | Revive
    | BuryOld
    | Pause
    | Resume
    | Purge
    | MoveOut
    | Moved
)
Change: TypeAlias = GroupChange | DeliverAt | Cancel | RewindFloor | MoveIn | ForgetSource | Dedupe


@final
class Floor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """A new log start: everything below `start_offset` is gone, and entries below `start_index` may be deleted."""

    start_offset: Number
    start_index: Number


T = TypeVar("T")

_changes = msgspec.msgpack.Decoder(tuple[Change, ...])
_floor = msgspec.msgpack.Decoder(Floor)
_encoder = msgspec.msgpack.Encoder()


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Encode the payload of a STATE entry."""
    return _encoder.encode(changes)


def decode_changes(payload: bytes) -> tuple[Change, ...]:
    """Decode the payload of a STATE entry.

    Raises:
        CorruptBatchError: it is not the encoding of at most 65,536 changes with ranges in order.
    """
    changes = decode_with(_changes, payload, "changes")
    if len(changes) > MAX_CHANGES_PER_ENTRY:
        raise CorruptBatchError(f"{len(changes)} changes in one entry; the most is {MAX_CHANGES_PER_ENTRY}")
    for change in changes:
        if isinstance(change, (Lease, Ack, Nack, Extend, Expire, Bury, BuryExpired, Revive, MoveOut, Cancel)):
            fault = range_fault(change.ranges)
            if fault is not None:
                whose = "" if isinstance(change, Cancel) else f" of group {change.group}"
                raise CorruptBatchError(f"{type(change).__name__}{whose}: {fault}")
        elif isinstance(change, Dedupe):
            check_hashes(change)
    return changes


def check_hashes(change: Dedupe) -> None:
    """Raise CorruptBatchError unless there are as many whole hashes of ids as of bodies, and not none."""
    id_bytes, body_bytes = len(change.hashes), len(change.bodies)
    if not id_bytes or (change.count * ID_HASH_BYTES, change.count * BODY_HASH_BYTES) != (id_bytes, body_bytes):
        raise CorruptBatchError(f"{id_bytes} bytes of hashes of ids, {body_bytes} of bodies")


def encode_floor(floor: Floor) -> bytes:
    """Encode the payload of a FLOOR entry."""
    return _encoder.encode(floor)


def decode_floor(payload: bytes) -> Floor:
    """Decode the payload of a FLOOR entry.

    Raises:
        CorruptBatchError: it is not one.
    """
    return decode_with(_floor, payload, "a floor")


def range_fault(ranges: Ranges) -> str | None:
    """Say what is wrong with the order of ranges, or None."""
    if not ranges:
        return "no ranges"
    last = 0
    for start, end in ranges:
        if start < last or end <= start:
            return f"range [{start}, {end}) is empty or begins before {last}"
        last = end
    return None


def decode_with(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview, what: str) -> T:
    """Decode msgpack, whatever the bytes.

    Raises:
        CorruptBatchError: they are not what the decoder expects.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        # Bytes that are not UTF-8 come as UnicodeDecodeError, a ValueError.
        raise CorruptBatchError(f"{len(data)} bytes are not {what}: {error}") from error
