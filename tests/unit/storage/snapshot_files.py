"""A snapshot received beside a log: what the INSTALL frame of a test may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.storage.checkpoints import CheckpointHeader, write_checkpoint
from logbroker.storage.flush_record import SegmentEntry
from logbroker.storage.lives import GROUPS_DIRECTORY, InstallBody, install_directory
from logbroker.storage.segment import SEGMENT_HEADER_BYTES, encode_segment_header, segment_path, write_entries
from tests.unit.storage.store_kit import entries

if TYPE_CHECKING:
    from logbroker.storage.disk import Disk


def receive(disk: Disk, replica: ReplicaId, start: int, end: int, *, term: int = 1) -> InstallBody:
    """Put down entries [start, end) and a checkpoint as of the last, all synced."""
    group, last = GroupId(replica), Index(end - 1)
    directory = install_directory(group, replica, last, Term(term))
    disk.mkdir(directory)
    disk.sync_dir(GROUPS_DIRECTORY)
    with disk.open(segment_path(directory, Index(start)), create=True) as file:
        file.pwrite([encode_segment_header(group, replica, Index(start))], 0)
        size = write_entries(file, SEGMENT_HEADER_BYTES, entries(start, end, term=term, group=group))
        file.sync()
    header = CheckpointHeader(
        group=group,
        replica=replica,
        index=last,
        term=Term(term),
        log_start_offset=Offset(start - 1),
        log_start_index=Index(start),
        next_offset=Offset(end - 1),
        append_ms=last * 10,
        conf=b"",
    )
    for _ in write_checkpoint(disk, directory, header, [b"installed"]):
        pass
    rows = (SegmentEntry(start, last, term, size),)
    return InstallBody(group, directory, last, term, start - 1, term if start > 1 else 0, rows)
