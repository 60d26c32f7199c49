"""Which files hold the messages that this node keeps, how old they are and how large: what retention will free.

Read from the data directory and not from the running store, which has other things to do: the flush record says which
segments there are, and the head of the first entry of each says from where on and when. Files may go while they are
looked at; those are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.errors import StorageError
from logbroker.ids import GroupId
from logbroker.storage.disk import read_data_directory
from logbroker.storage.flush_record import read_record
from logbroker.storage.identity import read_identity
from logbroker.storage.partition_log import LogState
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, SegmentReader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from logbroker.storage.disk import Disk
    from logbroker.storage.segment import SegmentRow

MAX_WALKED_ENTRIES = 20_000
"""Of the segment that is written to, to find where it ends; about a tenth of a second."""


@final
@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """Everything in it is at `first_offset` or later, and from `first_ms` of log time or later."""

    first_offset: int
    first_ms: int
    size_bytes: int


@final
@dataclass(frozen=True, slots=True)
class KeptFiles:
    """The segments of one replica in their order, and (offset, log time) of the last message in them, if found.

    What was written last is in no segment yet.
    """

    replica: int
    segments: tuple[SegmentFacts, ...]
    last: tuple[int, int] | None = None
    problem: str = ""


def look_at_files(root: Path, groups: Collection[GroupId]) -> dict[GroupId, KeptFiles]:
    """Blocking. Give the files of these groups, as far as they have any.

    Raises:
        StorageError: the directory is none of a node, or cannot be read.
    """
    with read_data_directory(root, in_use=True) as disk:
        return files_on(disk, groups)


def files_on(disk: Disk, groups: Collection[GroupId]) -> dict[GroupId, KeptFiles]:
    """As `look_at_files`; none where no node has been, or where nobody can say what belongs to whom."""
    identity = read_identity(disk)
    record = None if identity is None else read_record(disk, identity.salt_crc)
    if record is None:
        return {}
    states = [LogState.of_row(row) for row in record.replicas]
    return {state.group: _look_at(disk, state) for state in states if state.group in groups}


def _look_at(disk: Disk, state: LogState) -> KeptFiles:
    found: list[SegmentFacts] = []
    problem = ""
    for row in state.segments:
        reader = SegmentReader(disk, state.directory, row, state.group)
        try:
            head = reader.head_at(SEGMENT_HEADER_BYTES)
            found.append(SegmentFacts(head.base_offset, head.append_ms, row.length_bytes))
        except StorageError as error:
            problem = error.message
        finally:
            reader.close()
    last = _last_message(disk, state, state.segments[-1]) if found else None
    return KeptFiles(state.replica, tuple(found), last, problem)


def _last_message(disk: Disk, state: LogState, row: SegmentRow) -> tuple[int, int] | None:
    if row.last_index - row.base_index >= MAX_WALKED_ENTRIES:
        return None
    last: tuple[int, int] | None = None
    reader = SegmentReader(disk, state.directory, row, state.group)
    try:
        for _, head in reader.heads_from(SEGMENT_HEADER_BYTES):
            if head.kind is EntryKind.DATA:
                last = (head.next_offset - 1, head.append_ms)
    except StorageError:
        return None
    finally:
        reader.close()
    return last


def segments_page(
    node: int, places: Mapping[GroupId, tuple[str, int]], files: Mapping[GroupId, KeptFiles]
) -> dict[str, object]:
    """As plain values, for JSON."""
    return {
        "node": node,
        "partitions": [
            {
                "queue": queue,
                "partition": partition,
                "replica": kept.replica,
                "segments": [
                    {"first_offset": one.first_offset, "first_ms": one.first_ms, "bytes": one.size_bytes}
                    for one in kept.segments
                ],
                "last": None if kept.last is None else {"offset": kept.last[0], "ms": kept.last[1]},
                "problem": kept.problem,
            }
            for group, (queue, partition) in sorted(places.items(), key=lambda item: item[1])
            if (kept := files.get(group)) is not None
        ],
    }
