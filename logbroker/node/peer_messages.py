"""What nodes say to each other, and its byte form; how the bytes travel is the peer link's matter.

Every frame begins with the first eight bytes of the cluster id, so that no node ever believes another cluster. Numbers
are big endian; entries are in the byte form of `storage.entry_codec`, which carries their own checksums.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never, final

from logbroker.errors import CorruptBatchError, RemoteProtocolError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.node.requests import MoveVerdict
from logbroker.raft.messages import ConfState, Message, MessageKind, SnapshotMeta
from logbroker.storage.entry_codec import decode_entry, decode_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.entry import Entry

CLUSTER_TAG_BYTES = 8
MAX_NUMBER = 1 << 62
"""No term, index or id comes near it, and what is made of one by adding still fits its 64 bits."""


@final
@dataclass(frozen=True, slots=True)
class Beat:
    """Sent to every peer at each tick: the node lives, what its clock says, and whether it has room for produce."""

    wall_ms: int
    has_room: bool


@final
@dataclass(frozen=True, slots=True)
class RaftMessage:
    group: GroupId
    message: Message


@final
@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of a snapshot on its way to a replica: first the checkpoint file, then encoded entries back to back.

    `position` counts bytes of the whole stream, in which `checkpoint_bytes` come first; `total_bytes` is about its
    size, for showing progress, and `is_last` ends it.
    `previous_*` name the entry before the first one sent. Index and term are the snapshot's own.
    """

    group: GroupId
    sender: ReplicaId
    to: ReplicaId
    raft_term: Term
    transfer: int
    """With `raft_term` names one attempt to send; a later attempt has a larger number and begins anew."""
    index: Index
    term: Term
    previous_index: Index
    previous_term: Term
    checkpoint_bytes: int
    total_bytes: int
    position: int
    is_last: bool
    data: bytes


@final
@dataclass(frozen=True, slots=True)
class SnapshotAck:
    """The receiver has everything below `position`; a sender goes on from there. `refused`: give up."""

    group: GroupId
    sender: ReplicaId
    to: ReplicaId
    index: Index
    term: Term
    position: int
    refused: bool


@final
@dataclass(frozen=True, slots=True)
class EntryFetch:
    """The sender's copy of this entry is damaged; (index, term) names it for ever.

    Term 0: it was committed, and its term is lost too; only who knows it committed may answer.
    """

    group: GroupId
    sender: ReplicaId
    to: ReplicaId
    index: Index
    term: Term


@final
@dataclass(frozen=True, slots=True)
class EntryCopy:
    group: GroupId
    sender: ReplicaId
    to: ReplicaId
    entry: Entry


@final
@dataclass(frozen=True, slots=True)
class EntryGone:
    """The entry that was asked for was committed, has expired and is nowhere kept: it lies below `log_start_index`."""

    group: GroupId
    sender: ReplicaId
    to: ReplicaId
    index: Index
    log_start_index: Index


BeatRow = tuple[GroupId, ReplicaId, ReplicaId, Term, Index]
"""Group, sender, receiver, term, commit index."""
BeatAnswerRow = tuple[GroupId, ReplicaId, ReplicaId, Term]
"""Group, sender, receiver, term."""


@final
@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The heartbeats of all groups that one node leads and the other follows, in one message."""

    rows: tuple[BeatRow, ...]


@final
@dataclass(frozen=True, slots=True)
class HeartbeatAnswers:
    rows: tuple[BeatAnswerRow, ...]


@final
@dataclass(frozen=True, slots=True)
class Transfer:
    """Messages that the partition `source` owes `target` under `number`, for the leader of the target."""

    source: GroupId
    target: GroupId
    number: int
    batch: bytes


@final
@dataclass(frozen=True, slots=True)
class TransferAnswer:
    """What became of a Transfer at its target."""

    source: GroupId
    target: GroupId
    number: int
    verdict: MoveVerdict


PeerMessage = (
    Beat
    | RaftMessage
    | SnapshotChunk
    | SnapshotAck
    | EntryFetch
    | EntryCopy
    | EntryGone
    | Heartbeats
    | HeartbeatAnswers
    | Transfer
    | TransferAnswer
)

_TYPE = struct.Struct(">8sB")
_BEAT = struct.Struct(">Q?")
_RAFT = struct.Struct(">IBQQQQQQQQBI")
_SNAPSHOT_META = struct.Struct(">QQI")
_CHUNK = struct.Struct(">IQQQQQQQQQQQ?I")
_ACK = struct.Struct(">IQQQQQ?")
_FETCH = struct.Struct(">IQQQQ")
_COUNT = struct.Struct(">I")
_BEAT_ROW = struct.Struct(">IQQQQ")
_ANSWER_ROW = struct.Struct(">IQQQ")
_COPY = struct.Struct(">IQQ")
_TRANSFER = struct.Struct(">IIQI")
_TRANSFER_ANSWER = struct.Struct(">IIQB")

_PACK_TYPES = (8, 9)
_REJECT = 1
_CAMPAIGN_TRANSFER = 2
_HAS_SNAPSHOT = 4
_KINDS = {int(kind): kind for kind in MessageKind}


def encode_peer_message(message: PeerMessage, cluster_tag: bytes) -> bytes:
    """The frame of one message, without the link's length prefix."""
    match message:
        case RaftMessage():
            return _encode_raft(message, cluster_tag)
        case Beat():
            return _TYPE.pack(cluster_tag, 1) + _BEAT.pack(message.wall_ms, message.has_room)
        case SnapshotChunk():
            head = _CHUNK.pack(
                message.group,
                message.sender,
                message.to,
                message.raft_term,
                message.transfer,
                message.index,
                message.term,
                message.previous_index,
                message.previous_term,
                message.checkpoint_bytes,
                message.total_bytes,
                message.position,
                message.is_last,
                len(message.data),
            )
            return _TYPE.pack(cluster_tag, 3) + head + message.data
        case SnapshotAck():
            return _TYPE.pack(cluster_tag, 4) + _ACK.pack(
                message.group,
                message.sender,
                message.to,
                message.index,
                message.term,
                message.position,
                message.refused,
            )
        case EntryFetch():
            return _TYPE.pack(cluster_tag, 5) + _FETCH.pack(
                message.group, message.sender, message.to, message.index, message.term
            )
        case Heartbeats(rows):
            return _rows(_TYPE.pack(cluster_tag, 8), [_BEAT_ROW.pack(*row) for row in rows])
        case HeartbeatAnswers(answers):
            return _rows(_TYPE.pack(cluster_tag, 9), [_ANSWER_ROW.pack(*row) for row in answers])
        case EntryGone():
            return _TYPE.pack(cluster_tag, 7) + _FETCH.pack(
                message.group, message.sender, message.to, message.index, message.log_start_index
            )
        case EntryCopy():
            head = _COPY.pack(message.group, message.sender, message.to)
            return _TYPE.pack(cluster_tag, 6) + head + message.entry.head + message.entry.payload
        case Transfer(source, target, number, batch):
            return _TYPE.pack(cluster_tag, 10) + _TRANSFER.pack(source, target, number, len(batch)) + batch
        case TransferAnswer(source, target, number, verdict):
            return _TYPE.pack(cluster_tag, 11) + _TRANSFER_ANSWER.pack(source, target, number, verdict)
        case _:
            assert_never(message)


def decode_peer_message(frame: bytes | memoryview, cluster_tag: bytes) -> PeerMessage:
    """Read one frame.

    Raises:
        RemoteProtocolError: another cluster's frame, or bytes no node of this version sends.
    """
    try:
        tag, kind = _TYPE.unpack_from(frame)
        if tag != cluster_tag:
            raise RemoteProtocolError(f"peer frame of cluster {tag.hex()}, this is {cluster_tag.hex()}")
        return _DECODERS[kind](memoryview(frame)[_TYPE.size :])
    except (struct.error, KeyError, ValueError, CorruptBatchError) as error:
        raise RemoteProtocolError(f"peer frame of {len(frame)} bytes is malformed: {error}") from error


def pack_type(frame: bytes | memoryview) -> int | None:
    """Which of the two packs of heartbeats a frame says it is; None for any other, and for bytes that are no frame."""
    kind = frame[CLUSTER_TAG_BYTES] if len(frame) > CLUSTER_TAG_BYTES else None
    return kind if kind in _PACK_TYPES else None


def _encode_raft(wrapped: RaftMessage, cluster_tag: bytes) -> bytes:
    message = wrapped.message
    flags = _REJECT * message.reject + _CAMPAIGN_TRANSFER * message.campaign_transfer
    if message.snapshot is not None:
        flags += _HAS_SNAPSHOT
    parts = [
        _TYPE.pack(cluster_tag, 2),
        _RAFT.pack(
            wrapped.group,
            message.kind,
            message.to,
            message.sender,
            message.term,
            message.log_term,
            message.index,
            message.commit,
            message.reject_hint,
            message.context,
            flags,
            len(message.entries),
        ),
    ]
    if message.snapshot is not None:
        conf = message.snapshot.conf.encode()
        parts += (_SNAPSHOT_META.pack(message.snapshot.index, message.snapshot.term, len(conf)), conf)
    for entry in message.entries:
        parts += (entry.head, entry.payload)
    return b"".join(parts)


def _decode_raft(body: memoryview) -> RaftMessage:
    group, kind, *numbers, flags, count = _RAFT.unpack_from(body)
    _check_numbers(numbers)
    to, sender, term, log_term, index, commit, hint, context = numbers
    at = _RAFT.size
    snapshot = None
    if flags & _HAS_SNAPSHOT:
        snapshot_index, snapshot_term, size = _SNAPSHOT_META.unpack_from(body, at)
        _check_numbers((snapshot_index, snapshot_term))
        at += _SNAPSHOT_META.size
        conf = ConfState.decode(bytes(body[at : at + size]))
        snapshot = SnapshotMeta(Index(snapshot_index), Term(snapshot_term), conf)
        at += size
    entries = []
    for _ in range(count):
        entry = decode_entry(body, at, place="peer frame")
        if entry.group != group:
            raise CorruptBatchError(f"an entry of group {entry.group} in a message of group {group}")
        entries.append(entry)
        at += len(entry.head) + len(entry.payload)
    _check_end(body, at)
    message = Message(
        _KINDS[kind],
        ReplicaId(to),
        ReplicaId(sender),
        Term(term),
        Term(log_term),
        Index(index),
        Index(commit),
        tuple(entries),
        bool(flags & _REJECT),
        Index(hint),
        context,
        snapshot,
        bool(flags & _CAMPAIGN_TRANSFER),
    )
    return RaftMessage(GroupId(group), message)


def _decode_beat(body: memoryview) -> Beat:
    wall_ms, has_room = _BEAT.unpack(body)
    _check_numbers((wall_ms,))
    return Beat(wall_ms, has_room)


def _decode_chunk(body: memoryview) -> SnapshotChunk:
    *numbers, is_last, size = _CHUNK.unpack_from(body)
    _check_numbers(numbers)
    _check_end(body, _CHUNK.size + size)
    group, sender, to, raft_term, transfer, index, term, previous_index, previous_term, *sizes = numbers
    checkpoint_bytes, total, position = sizes
    return SnapshotChunk(
        GroupId(group),
        ReplicaId(sender),
        ReplicaId(to),
        Term(raft_term),
        transfer,
        Index(index),
        Term(term),
        Index(previous_index),
        Term(previous_term),
        checkpoint_bytes,
        total,
        position,
        is_last,
        bytes(body[_CHUNK.size :]),
    )


def _decode_ack(body: memoryview) -> SnapshotAck:
    *numbers, refused = _ACK.unpack(body)
    _check_numbers(numbers)
    group, sender, to, index, term, position = numbers
    return SnapshotAck(GroupId(group), ReplicaId(sender), ReplicaId(to), Index(index), Term(term), position, refused)


def _decode_fetch(body: memoryview) -> EntryFetch:
    group, sender, to, index, term = numbers = _FETCH.unpack(body)
    _check_numbers(numbers)
    return EntryFetch(GroupId(group), ReplicaId(sender), ReplicaId(to), Index(index), Term(term))


def _decode_gone(body: memoryview) -> EntryGone:
    group, sender, to, index, log_start_index = numbers = _FETCH.unpack(body)
    _check_numbers(numbers)
    return EntryGone(GroupId(group), ReplicaId(sender), ReplicaId(to), Index(index), Index(log_start_index))


def _rows(head: bytes, rows: list[bytes]) -> bytes:
    return b"".join([head, _COUNT.pack(len(rows)), *rows])


def _row_part(body: memoryview, row: struct.Struct) -> memoryview:
    (count,) = _COUNT.unpack_from(body)
    _check_end(body, _COUNT.size + count * row.size)
    return body[_COUNT.size :]


def _decode_heartbeats(body: memoryview) -> Heartbeats:
    return Heartbeats(tuple(_BEAT_ROW.iter_unpack(_row_part(body, _BEAT_ROW))))


def _decode_answers(body: memoryview) -> HeartbeatAnswers:
    return HeartbeatAnswers(tuple(_ANSWER_ROW.iter_unpack(_row_part(body, _ANSWER_ROW))))


def _decode_copy(body: memoryview) -> EntryCopy:
    group, sender, to = numbers = _COPY.unpack_from(body)
    _check_numbers(numbers)
    head = decode_head(body, _COPY.size, place="peer frame")
    _check_end(body, _COPY.size + head.encoded_bytes)
    entry = decode_entry(body, _COPY.size, place="peer frame")
    return EntryCopy(GroupId(group), ReplicaId(sender), ReplicaId(to), entry)


def _decode_transfer(body: memoryview) -> Transfer:
    source, target, number, size = numbers = _TRANSFER.unpack_from(body)
    _check_numbers(numbers)
    batch = bytes(body[_TRANSFER.size :])
    # An empty batch has a meaning, which no frame may get by being cut short.
    if len(batch) != size:
        raise CorruptBatchError(f"a batch of {size} bytes in {len(batch)}")
    return Transfer(GroupId(source), GroupId(target), number, batch)


def _decode_transfer_answer(body: memoryview) -> TransferAnswer:
    source, target, number, verdict = numbers = _TRANSFER_ANSWER.unpack(body)
    _check_numbers(numbers)
    return TransferAnswer(GroupId(source), GroupId(target), number, MoveVerdict(verdict))


def _check_numbers(numbers: Sequence[int]) -> None:
    if max(numbers) > MAX_NUMBER:
        raise CorruptBatchError(f"number {max(numbers)} is above {MAX_NUMBER}")


def _check_end(body: memoryview, end: int) -> None:
    if end != len(body):
        raise CorruptBatchError(f"the frame's fields end at {end} of {len(body)} bytes")


_DECODERS: dict[int, Callable[[memoryview], PeerMessage]] = {
    1: _decode_beat,
    2: _decode_raft,
    3: _decode_chunk,
    4: _decode_ack,
    5: _decode_fetch,
    6: _decode_copy,
    7: _decode_gone,
    8: _decode_heartbeats,
    9: _decode_answers,
    10: _decode_transfer,
    11: _decode_transfer_answer,
}
