"""The checkpoint of a partition: its whole state as of one index, with what its replica adds, in bytes.

    magic      8 bytes, then the format version as u16, all numbers big endian
    sections   each a u32 length and that many bytes of msgpack: first the meta, then the state in canonical form
    end        a zero u32, the state digest (16 bytes), BLAKE2b-128 of everything before (16 bytes)

It knows nothing of files. The seal at the end is checked before anything is believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, Offset, ReplicaId, Term
from logbroker.partition.armed import Armed
from logbroker.partition.commands import Dedupe, Number, check_hashes, decode_with, range_fault
from logbroker.partition.dedupe import DedupeWindow
from logbroker.partition.groups import ConsumerGroup
from logbroker.partition.leases import LeaseTable
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.partition.outbox import Inbox, Outbox
from logbroker.partition.producers import Producers
from logbroker.partition.rewind import RewindHistory
from logbroker.partition.runs import RunState, RunTable
from logbroker.partition.schedule import Schedule
from logbroker.partition.state_form import (
    DedupeSlice,
    GroupHead,
    Head,
    InboxSlice,
    LeaseSlice,
    OutboxSlice,
    PauseSlice,
    ProducerSlice,
    RewindFloorSection,
    RunSlice,
    ScheduleSlice,
    VoidSlice,
    section_decoder,
    state_slices,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.partition.leases import LeaseRecord
    from logbroker.partition.outbox import Owed, SourceRow
    from logbroker.partition.outcomes import Range
    from logbroker.partition.pause import PauseRecord
    from logbroker.partition.producers import ProducerState
    from logbroker.partition.runs import Run
    from logbroker.partition.state_form import Section

FORMAT_VERSION = 1

_MAGIC = b"LBCHECKP"
_START = struct.Struct(">8sH")
_LENGTH = struct.Struct(">I")
_HASH_BYTES = 16
_END_BYTES = _LENGTH.size + 2 * _HASH_BYTES


@final
@dataclass(frozen=True, slots=True)
class CheckpointMeta:
    """What the replica adds to the state; `configuration` is the membership in Raft's encoding, unread here."""

    replica: ReplicaId
    configuration: bytes


class _Meta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    replica: Number
    configuration: bytes


_meta_decoder = msgspec.msgpack.Decoder(_Meta)
_encoder = msgspec.msgpack.Encoder()


def encode_slices(machine: PartitionMachine, meta: CheckpointMeta) -> Iterator[bytes]:
    """Encode a checkpoint in slices that take far less than 20 ms each.

    The state is captured by this call, before the first slice is asked for: what is applied later does not show.
    """
    return _slices(machine.clone(for_reading=True), meta)


def decode(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
    """Decode all slices of a checkpoint, joined.

    Raises:
        CorruptBatchError: these are not the bytes of a checkpoint of this format version.
    """
    view = memoryview(data)
    if len(view) < _START.size + _END_BYTES:
        raise CorruptBatchError(f"{len(view)} bytes are too few for a checkpoint")
    magic, version = _START.unpack_from(view)
    if magic != _MAGIC:
        raise CorruptBatchError("not a checkpoint: the magic is missing")
    if version != FORMAT_VERSION:
        raise CorruptBatchError(f"checkpoint has format version {version}; this program reads {FORMAT_VERSION}")
    if blake2b(view[:-_HASH_BYTES], digest_size=_HASH_BYTES).digest() != bytes(view[-_HASH_BYTES:]):
        raise CorruptBatchError("checkpoint fails its checksum")
    sections = list(_frames(view[_START.size : -2 * _HASH_BYTES]))
    if not sections:
        raise CorruptBatchError("checkpoint has no sections")
    meta = decode_with(_meta_decoder, sections[0], "the meta section of a checkpoint")
    builder = _Builder()
    for section in sections[1:]:
        builder.add(decode_with(section_decoder, section, "a section of a checkpoint"))
    machine = builder.build()
    if machine.digest() != bytes(view[-2 * _HASH_BYTES : -_HASH_BYTES]):
        raise CorruptBatchError(f"checkpoint of group {machine.group_id} does not have the digest that it states")
    return machine, CheckpointMeta(ReplicaId(meta.replica), meta.configuration)


def _slices(machine: PartitionMachine, meta: CheckpointMeta) -> Iterator[bytes]:
    sealed = blake2b(digest_size=_HASH_BYTES)
    state = blake2b(digest_size=_HASH_BYTES)
    encoded = _encoder.encode(_Meta(meta.replica, meta.configuration))
    part = _START.pack(_MAGIC, FORMAT_VERSION) + _LENGTH.pack(len(encoded)) + encoded
    sealed.update(part)
    yield part
    for encoded in state_slices(machine):
        state.update(encoded)
        part = _LENGTH.pack(len(encoded)) + encoded
        sealed.update(part)
        yield part
    part = _LENGTH.pack(0) + state.digest()
    sealed.update(part)
    yield part + sealed.digest()


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
        raise CorruptBatchError("checkpoint has no end")
    if position != len(view):
        raise CorruptBatchError(f"{len(view) - position} bytes follow the end of the checkpoint")


@final
class _Builder:
    """Takes the sections of a state in their order and builds the machine."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._producers: list[ProducerState] = []
        self._voids: list[Range] = []
        self._rewind_floor = Offset(0)
        self._scheduled: list[tuple[int, int, int]] = []
        self._armed: Armed | None = None
        self._ids: list[bytes] = []
        self._owed: list[Owed] = []
        self._sources: list[SourceRow] = []
        self._groups: dict[GroupName, ConsumerGroup] = {}
        self._group: GroupHead | None = None
        self._runs: list[Run] = []
        self._leases: list[LeaseRecord] = []
        self._pause: PauseRecord | None = None

    def add(self, section: Section) -> None:
        match section:
            case Head():
                self._head = section
            case RewindFloorSection(start_offset):
                self._rewind_floor = Offset(start_offset)
            case ProducerSlice(producers):
                self._producers += producers
            case VoidSlice(ranges):
                self._voids += ranges
            case ScheduleSlice(runs):
                self._scheduled += runs
            case Armed():
                self._armed = section
            case DedupeSlice(packed):
                self._ids.append(packed)
            case OutboxSlice(rows):
                self._owed += rows
            case InboxSlice(sources):
                self._sources += sources
            case GroupHead():
                self._close_group()
                self._group = section
            case RunSlice(held):
                self._runs += held
            case LeaseSlice(leases):
                self._leases += leases
            case PauseSlice(pause):
                self._add_pause(pause)

    def build(self) -> PartitionMachine:
        self._close_group()
        head = self._head
        if head is None or DEFAULT_GROUP not in self._groups:
            raise CorruptBatchError("checkpoint has no head or no default group")
        if not head.log_start_offset <= head.next_offset:
            raise CorruptBatchError(f"log start {head.log_start_offset} lies beyond the log end {head.next_offset}")
        for group in self._groups.values():
            if not head.log_start_offset <= group.table.floor <= group.table.frontier <= head.next_offset:
                raise CorruptBatchError(f"group {group.name!r} lies outside of the log")
        if self._rewind_floor > head.next_offset:
            raise CorruptBatchError(f"rewind floor {self._rewind_floor} lies beyond the log end {head.next_offset}")
        voids = tuple(self._voids)
        if voids:
            fault = range_fault(voids)
            if fault or voids[0][0] < head.log_start_offset or voids[-1][1] > head.next_offset:
                raise CorruptBatchError(f"void ranges lie outside of the log or out of order: {fault}")
        machine = PartitionMachine(
            GroupId(head.group_id),
            self._groups,
            Producers.decode(self._producers),
            OffsetRanges(voids),
            self._schedule(head),
            self._armed_at(head),
        )
        machine.applied_index = Index(head.index)
        machine.applied_term = Term(head.term)
        machine.next_offset = Offset(head.next_offset)
        machine.log_start_offset = Offset(head.log_start_offset)
        machine.log_start_index = Index(head.log_start_index)
        machine.append_ms = head.append_ms
        machine.rewind_floor = self._rewind_floor
        machine.dedupe = DedupeWindow.decode(self._ids, append_ms=head.append_ms, next_offset=head.next_offset)
        machine.outbox = Outbox.decode(self._owed)
        machine.inbox = Inbox.decode(self._sources)
        self._check_owed(machine)
        return machine

    def _add_pause(self, pause: PauseRecord) -> None:
        if self._pause is not None:
            raise CorruptBatchError("a group has two pauses")
        if 0 < pause.until_ms <= pause.since_ms:
            raise CorruptBatchError(f"a pause from {pause.since_ms} ends at {pause.until_ms}, before it began")
        self._pause = pause

    def _schedule(self, head: Head) -> Schedule:
        schedule = Schedule.decode(self._scheduled)
        if self._scheduled:
            start, end = self._scheduled[0][0], self._scheduled[-1][1]
            if start < head.log_start_offset or end > head.next_offset:
                raise CorruptBatchError(f"scheduled offsets [{start}, {end}) lie outside of the log")
            if schedule.first_ms <= head.append_ms:
                raise CorruptBatchError(f"what is due at {schedule.first_ms} is scheduled still at {head.append_ms}")
        return schedule

    def _armed_at(self, head: Head) -> Armed | None:
        armed = self._armed
        if armed is not None and ((armed.index, armed.term) != (head.index, head.term) or not armed.changes):
            raise CorruptBatchError(f"entry {armed.index} is said to prepare the batch after entry {head.index}")
        for change in () if armed is None else armed.changes:
            if isinstance(change, Dedupe):
                check_hashes(change)
        return armed

    def _check_owed(self, machine: PartitionMachine) -> None:
        """What is owed, and nothing else, is on its way."""
        owed = {name: 0 for name in machine.groups}
        for row in machine.outbox.rows():
            group = self._groups.get(row.group)
            runs = [run for start, end in row.ranges for run in group.table.overlap(start, end)] if group else []
            if not runs or any(run.state is not RunState.MOVING for run in runs):
                raise CorruptBatchError(f"what is owed as number {row.number} is not on its way")
            owed[GroupName(row.group)] += sum(run.end - run.start for run in runs)
        for name, count in owed.items():
            if machine.group(name).table.count(RunState.MOVING) != count:
                raise CorruptBatchError(f"messages of group {name!r} are on their way and not owed")

    def _close_group(self) -> None:
        head = self._group
        if head is None:
            if self._runs or self._leases or self._pause:
                raise CorruptBatchError("runs, leases or a pause stand before the first group")
            return
        group = ConsumerGroup(
            head.name,
            RunTable.decode(head.floor, self._runs),
            LeaseTable.decode(self._leases),
            RewindHistory(head.rewinds, forgotten_id=head.forgotten_rewind_id),
            self._pause,
        )
        held: dict[int, int] = {}
        for run in self._runs:
            if run.state is RunState.LEASED:
                held[run.lease] = held.get(run.lease, 0) + run.end - run.start
        if held != {record.lease: record.held for record in self._leases}:
            raise CorruptBatchError(f"runs and leases of group {head.name!r} contradict each other")
        self._groups[head.name] = group
        self._runs, self._leases, self._pause = [], [], None
