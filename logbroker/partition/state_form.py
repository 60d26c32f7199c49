"""The canonical bytes of a partition's state: what the digest hashes and a checkpoint holds.

Equal states give equal bytes, however they came about: groups are sorted, runs are canonical, and slices are cut by
what they hold, never by how it lies in memory. Each slice is bounded, so that encoding can be spread over time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar, final

import msgspec

from logbroker.partition.armed import Armed
from logbroker.partition.commands import Name, Number
from logbroker.partition.leases import LeaseRecord
from logbroker.partition.outbox import Owed, SourceRow
from logbroker.partition.pause import PauseRecord
from logbroker.partition.producers import ProducerState
from logbroker.partition.rewind import RewindRecord
from logbroker.partition.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logbroker.partition.machine import PartitionMachine

# Encoding a run takes about 0.2 us, a producer 1 us; a slice stays far below 20 ms on a slow machine too.
RUNS_PER_SLICE = 4096
RANGES_PER_SLICE = 4096
PRODUCERS_PER_SLICE = 1024
IDS_PER_SLICE = 4096

T = TypeVar("T")


class _Section(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


@final
class Head(_Section, frozen=True, tag=1):
    group_id: Number
    index: Number
    term: Number
    next_offset: Number
    log_start_offset: Number
    log_start_index: Number
    append_ms: Number


@final
class ProducerSlice(_Section, frozen=True, tag=2):
    """Least recent first, over all slices."""

    producers: tuple[ProducerState, ...]


@final
class VoidSlice(_Section, frozen=True, tag=3):
    ranges: tuple[tuple[Number, Number], ...]


@final
class GroupHead(_Section, frozen=True, tag=4):
    """Begins a consumer group; its runs and leases follow up to the next one."""

    name: Name
    floor: Number
    forgotten_rewind_id: Number
    rewinds: tuple[RewindRecord, ...]


@final
class RunSlice(_Section, frozen=True, tag=5):
    runs: tuple[Run, ...]


@final
class LeaseSlice(_Section, frozen=True, tag=6):
    leases: tuple[LeaseRecord, ...]


@final
class RewindFloorSection(_Section, frozen=True, tag=13):
    """Only where it is not 0."""

    start_offset: Number


@final
class PauseSlice(_Section, frozen=True, tag=7):
    """The pause of the group whose runs and leases come before it; not there in a group that has none."""

    pause: PauseRecord


@final
class ScheduleSlice(_Section, frozen=True, tag=8):
    """(start, end, due_ms) of messages that are not due, in order."""

    runs: tuple[tuple[Number, Number, Number], ...]


@final
class DedupeSlice(_Section, frozen=True, tag=10):
    """Rows of the window in their bytes, joined, oldest first over all slices."""

    rows: bytes


@final
class OutboxSlice(_Section, frozen=True, tag=11):
    """All of it; there is none where nothing is owed."""

    rows: tuple[Owed, ...]


@final
class InboxSlice(_Section, frozen=True, tag=12):
    rows: tuple[SourceRow, ...]


Section: TypeAlias = (
    Head
    | ProducerSlice
    | VoidSlice
    | GroupHead
    | RunSlice
    | LeaseSlice
    | PauseSlice
    | ScheduleSlice
    | Armed
    | RewindFloorSection
    | DedupeSlice
    | OutboxSlice
    | InboxSlice
)

section_decoder = msgspec.msgpack.Decoder(Section)
_encoder = msgspec.msgpack.Encoder()


def state_slices(machine: PartitionMachine) -> Iterator[bytes]:
    """Yield the state in slices of bounded count; the machine must not change meanwhile."""
    for section in _sections(machine):
        yield _encoder.encode(section)


def _sections(machine: PartitionMachine) -> Iterator[Section]:
    yield Head(
        machine.group_id,
        machine.applied_index,
        machine.applied_term,
        machine.next_offset,
        machine.log_start_offset,
        machine.log_start_index,
        machine.append_ms,
    )
    if machine.rewind_floor:
        yield RewindFloorSection(machine.rewind_floor)
    for producers in _pieces(machine.producers.states(), PRODUCERS_PER_SLICE):
        yield ProducerSlice(producers)
    for ranges in _pieces(machine.voids, RANGES_PER_SLICE):
        yield VoidSlice(ranges)
    for scheduled in _pieces(machine.schedule.runs(), RUNS_PER_SLICE):
        yield ScheduleSlice(tuple([(run.start, run.end, run.visible_at_ms) for run in scheduled]))
    if machine.armed is not None:
        yield machine.armed
    for packed in machine.dedupe.packed(IDS_PER_SLICE):
        yield DedupeSlice(packed)
    if len(machine.outbox):
        yield OutboxSlice(tuple(machine.outbox.rows()))
    for sources in _pieces(machine.inbox.rows(), RANGES_PER_SLICE):
        yield InboxSlice(sources)
    for name in machine.groups:
        group = machine.group(name)
        yield GroupHead(name, group.table.floor, group.rewinds.forgotten_id, group.rewinds.records())
        for runs in _pieces(group.table.runs(), RUNS_PER_SLICE):
            yield RunSlice(runs)
        for leases in _lease_pieces(group.leases.records()):
            yield LeaseSlice(leases)
        if group.pause is not None:
            yield PauseSlice(group.pause)


def _pieces(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    iterator = iter(items)
    while piece := tuple(islice(iterator, size)):
        yield piece


def _lease_pieces(records: Iterable[LeaseRecord]) -> Iterator[tuple[LeaseRecord, ...]]:
    """Cut leases by the number of ranges, which is what they cost; a lease may have a thousand."""
    piece: list[LeaseRecord] = []
    weight = 0
    for record in records:
        piece.append(record)
        weight += len(record.ranges)
        if weight >= RANGES_PER_SLICE:
            yield tuple(piece)
            piece, weight = [], 0
    if piece:
        yield tuple(piece)
