"""The checkpoint of the meta group: the catalogue as of one index, with what its replica adds, in bytes.

    magic      8 bytes, then the format version as u16, all numbers big endian
    sections   each a u32 length and that many bytes of msgpack: first the meta, then the state in canonical form
    end        a zero u32, the state digest (16 bytes), BLAKE2b-128 of everything before (16 bytes)

The envelope is that of a partition's checkpoint; the magic differs, so that neither is ever taken for the other.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.ids import META_GROUP, NO_REPLICA, GroupId, Index, QueueName, ReplicaId, Term
from logbroker.node.catalogue.bounds import MAX_CHECKPOINT_BYTES
from logbroker.node.catalogue.machine import Catalogue
from logbroker.node.catalogue.options import DEFAULT_OPTIONS, changed, options_fault
from logbroker.node.catalogue.rows import Number, Row
from logbroker.node.catalogue.state import CatalogueState
from logbroker.node.catalogue.state_form import (
    GroupSlice,
    Head,
    NodeSlice,
    OptionSlice,
    QueueSlice,
    RetiredSlice,
    RewindSlice,
    TokenSlice,
    section_decoder,
)
from logbroker.partition.checkpoint import CheckpointMeta
from logbroker.partition.commands import decode_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.node.catalogue.state_form import Section

FORMAT_VERSION = 1

_MAGIC = b"LBCATLOG"
_START = struct.Struct(">8sH")
_LENGTH = struct.Struct(">I")
_HASH_BYTES = 16
_END_BYTES = _LENGTH.size + 2 * _HASH_BYTES


@final
class _Meta(Row, frozen=True):
    replica: Number
    configuration: bytes


_meta_decoder = msgspec.msgpack.Decoder(_Meta)
_encoder = msgspec.msgpack.Encoder()

NO_META = CheckpointMeta(NO_REPLICA, b"")
"""For whoever keeps replica and configuration elsewhere."""


def encode_slices(catalogue: Catalogue, meta: CheckpointMeta = NO_META) -> Iterator[bytes]:
    """Encode a checkpoint in slices that take far less than 20 ms each.

    The state is captured by this call, before the first slice is asked for: what is applied later does not show.
    """
    return _sealed(catalogue.clone(), meta)


def decode(data: bytes | memoryview) -> tuple[Catalogue, CheckpointMeta]:
    """Decode all slices of a checkpoint, joined.

    Raises:
        CorruptBatchError: these are not the bytes of a catalogue's checkpoint of this format version.
    """
    view = memoryview(data)
    if not _START.size + _END_BYTES <= len(view) <= MAX_CHECKPOINT_BYTES:
        raise CorruptBatchError(f"{len(view)} bytes are too few or too many for a checkpoint of the catalogue")
    magic, version = _START.unpack_from(view)
    if magic != _MAGIC:
        raise CorruptBatchError("not a checkpoint of the catalogue: the magic is missing")
    if version != FORMAT_VERSION:
        raise CorruptBatchError(f"catalogue has format version {version}; this program reads {FORMAT_VERSION}")
    if _hash(view[:-_HASH_BYTES]) != bytes(view[-_HASH_BYTES:]):
        raise CorruptBatchError("checkpoint of the catalogue fails its checksum")
    sections = list(_frames(view[_START.size : -2 * _HASH_BYTES]))
    if len(sections) < 2:
        raise CorruptBatchError("checkpoint of the catalogue has no head")
    meta = decode_with(_meta_decoder, sections[0], "the meta section of a checkpoint")
    builder = _Builder(decode_with(section_decoder, sections[1], "the head of the catalogue"))
    for section in sections[2:]:
        builder.add(decode_with(section_decoder, section, "a section of the catalogue"))
    catalogue = builder.build()
    if catalogue.digest() != bytes(view[-2 * _HASH_BYTES : -_HASH_BYTES]):
        raise CorruptBatchError("checkpoint of the catalogue does not have the digest that it states")
    return catalogue, CheckpointMeta(ReplicaId(meta.replica), meta.configuration)


def _sealed(catalogue: Catalogue, meta: CheckpointMeta) -> Iterator[bytes]:
    sealed = blake2b(digest_size=_HASH_BYTES)
    state = blake2b(digest_size=_HASH_BYTES)
    encoded = _encoder.encode(_Meta(meta.replica, meta.configuration))
    part = _START.pack(_MAGIC, FORMAT_VERSION) + _LENGTH.pack(len(encoded)) + encoded
    sealed.update(part)
    yield part
    for encoded in catalogue.slices():
        state.update(encoded)
        part = _LENGTH.pack(len(encoded)) + encoded
        sealed.update(part)
        yield part
    part = _LENGTH.pack(0) + state.digest()
    sealed.update(part)
    yield part + sealed.digest()


def _hash(data: memoryview) -> bytes:
    return blake2b(data, digest_size=_HASH_BYTES).digest()


def _frames(view: memoryview) -> Iterator[memoryview]:
    """Yield the sections; the last frame must be the empty one."""
    position = 0
    while position + _LENGTH.size <= len(view):
        (length,) = _LENGTH.unpack_from(view, position)
        position += _LENGTH.size
        if length == 0:
            break
        if position + length > len(view):
            raise CorruptBatchError(f"a section of {length} bytes is cut at {len(view) - position}")
        yield view[position : position + length]
        position += length
    else:
        raise CorruptBatchError("checkpoint of the catalogue has no end")
    if position != len(view):
        raise CorruptBatchError(f"{len(view) - position} bytes follow the end of the checkpoint")


@final
class _Builder:
    """Takes the sections of a state in their order and builds the catalogue."""

    def __init__(self, head: Section) -> None:
        if not isinstance(head, Head):
            raise CorruptBatchError(f"the catalogue begins with {type(head).__name__} and not with its head")
        self._head = head
        self._state = CatalogueState(
            cluster_id=head.cluster_id,
            name=head.name,
            members=head.members,
            without=head.without,
            next_group=head.next_group,
            next_queue=head.next_queue,
            next_replica=head.next_replica,
            next_rewind=head.next_rewind,
        )

    def add(self, section: Section) -> None:
        state = self._state
        match section:
            case Head():
                raise CorruptBatchError("the catalogue has two heads")
            case RetiredSlice(lives):
                state.retired = lives
            case NodeSlice():
                state.nodes |= {row.node: row for row in section.rows}
            case GroupSlice():
                state.groups |= {row.group: row for row in section.rows}
            case QueueSlice():
                state.queues |= {QueueName(row.name): row for row in section.rows}
            case TokenSlice():
                state.tokens |= {row.name: row for row in section.rows}
            case RewindSlice():
                state.rewinds |= {row.rewind_id: row for row in section.rows}
            case OptionSlice():
                state.options |= {queue_id: changed(DEFAULT_OPTIONS, pairs) for queue_id, pairs in section.rows}

    def build(self) -> Catalogue:
        fault = _fault(self._state)
        if fault is not None:
            raise CorruptBatchError(f"checkpoint of the catalogue contradicts itself: {fault}")
        head = self._head
        return Catalogue(
            self._state,
            applied_index=Index(head.index),
            applied_term=Term(head.term),
            append_ms=head.append_ms,
            log_start_index=Index(head.log_start_index),
            epoch=head.epoch,
        )


def _fault(state: CatalogueState) -> str | None:
    """Say where the tables do not fit each other, or None: ids in use must lie below what is given out next."""
    owned = {group for queue in state.queues.values() for group in queue.groups}
    stray = owned ^ (state.groups.keys() - {META_GROUP})
    if stray:
        return f"group {min(stray)} belongs to no queue, or does not exist"
    unknown = state.options.keys() - {queue.queue_id for queue in state.queues.values()}
    if unknown:
        return f"queue {min(unknown)} has options and does not exist"
    beyond = next((fault for fault in map(options_fault, state.options.values()) if fault is not None), None)
    if beyond is not None:
        return beyond
    if state.is_bootstrapped != (META_GROUP in state.groups):
        return "the meta group and the bootstrap go together"
    for what, used, following in (
        ("group", max(state.groups, default=GroupId(0)), state.next_group),
        ("queue", max((row.queue_id for row in state.queues.values()), default=0), state.next_queue),
        ("replica", max(_replica_ids(state), default=0), state.next_replica),
        ("rewind", max(state.rewinds, default=0), state.next_rewind),
    ):
        if used >= following:
            return f"{what} {used} exists and the next is to be {following}"
    return None


def _replica_ids(state: CatalogueState) -> Iterator[int]:
    for group in state.groups.values():
        yield from group.initial
        yield from (row.replica for row in group.replicas)
