"""`logbroker doctor DATA_DIR`: every checksum of a stopped node's data, and what each finding means. Writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.cli.findings import Finding, Place, Verdict
from logbroker.errors import ConfigurationError, LogBrokerError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from logbroker.storage.disk import Disk
    from logbroker.storage.inspection import Finding as Found
    from logbroker.storage.inspection import Inspection

_SOLE = "there is no other replica: `logbroker repair` says what can be done"

_HINTS: dict[str, tuple[str, str]] = {
    # Code: (what to do where it heals by itself, what to do where it does not).
    "empty": ("the first start makes a node here", ""),
    "identity": (
        "",
        "a start would move everything here to quarantine/ and join as a new node. In a cluster let it: the others "
        "fill it. A single node would lose its queues: restore node.json from a backup, or see `logbroker repair`",
    ),
    "vote-copy": ("nothing: the next start writes it again from the other copy", ""),
    "vote-slot": ("a replica whose vote it was is named as lost below; if none is, nobody needs the slot", ""),
    "vote-old": ("nothing: the node goes by the newer term of its log", ""),
    "vote-stray": ("nothing: the next start lets it go", ""),
    "vote-lost": ("start the node: its replicas are replaced", ""),
    "flush-record": ("nothing: the next start writes it again from the other copy", ""),
    "record-lost": (
        "",
        "in a cluster start the node: every replica here is replaced by a new one, which the others fill. A single "
        "node cannot go on from this: restore a backup",
    ),
    "wal-unsealed": ("nothing: the node was not stopped in order; the next start writes that commit again", ""),
    "wal-file": (
        "if replicas are named as lost, start the node; if not, and nobody removed it on purpose, do not trust this "
        "copy: empty the directory, and the node joins its cluster again and is filled",
        "",
    ),
    "wal-torn": ("nothing: nobody was told that it is durable, and no start believes it", ""),
    "wal-lost": ("the replicas that may have had something there are named as lost below", ""),
    "wal-trailer": ("nothing: the commit is whole but for its end mark", ""),
    "wal-frame": ("nothing: it was flushed or overruled", ""),
    "replica-lost": ("start the node: the cluster replaces the replica and fills the new one", _SOLE),
    "entry": ("start the node, or let it run: it fetches the entry from another replica", _SOLE),
    "segment-header": ("nothing: the scrubber of the running node writes it again", ""),
    "checkpoint": ("nothing: the other one serves, and newer ones take its place", ""),
    "contradiction": ("", "no disk does this: keep a copy of the directory and report it; do not start the node on it"),
    "stray": ("nothing: left over from a crash; the next start removes it", ""),
}


def examine_data(root: Path, *, in_use: bool) -> Iterator[Finding]:
    """Look over a data directory.

    Raises:
        MissingFileError: there is none.
        DataDirectoryInUseError: a node is running on it, and `in_use` was not said.
    """
    from logbroker.storage.disk import read_data_directory
    from logbroker.storage.inspection import Inspection

    with read_data_directory(root, in_use=in_use) as disk:
        inspection = Inspection(disk)
        try:
            found = inspection.run()
        except ConfigurationError as error:
            yield Finding("data", Verdict.FAILED, error.message, error.hint)
            return
        if inspection.identity is not None:
            yield from _cluster_file(disk, inspection.identity.incarnation)
        yield from _told(found)
        if inspection.identity is not None:
            yield from _index(root)
        yield _looked_at(inspection)


def _looked_at(inspection: Inspection) -> Finding:
    node = f"node {inspection.identity.node}: " if inspection.identity is not None else ""
    return Finding(
        "data",
        Verdict.OK,
        f"{node}looked at {inspection.replica_count} replicas, {inspection.entry_count:,} entries in "
        f"{inspection.segment_count} segments, {inspection.commit_frame_count:,} frames of the write-ahead log, "
        f"{inspection.checkpoint_count} checkpoints",
    )


def _told(found: Sequence[Found]) -> Iterator[Finding]:
    """Each finding in words; entries that follow each other are one."""
    from logbroker.storage.inspection import Remedy

    begun: list[Found] = []
    for one in [*sorted(found, key=lambda held: (-held.remedy, held.code, held.replica)), None]:
        if one is not None and (not begun or _goes_on(begun[-1], one)):
            begun.append(one)
            continue
        if begun:
            yield _in_words(begun[0], begun[-1], Remedy)
        begun = [] if one is None else [one]


def _goes_on(before: Found, one: Found) -> bool:
    return (
        one.code == before.code == "entry"
        and (one.replica, one.place, one.remedy) == (before.replica, before.place, before.remedy)
        and one.index == before.index + 1
    )


def _in_words(first: Found, last: Found, remedy: type) -> Finding:
    verdicts = {0: Verdict.OK, 1: Verdict.WARNING, 2: Verdict.WARNING, 3: Verdict.FAILED}
    whose = f"replica {first.replica} of group {first.group}: " if first.replica and first.group else ""
    detail = first.detail
    if first.code == "entry":
        several = f"entries {first.index}..{last.index}" if last is not first else f"entry {first.index}"
        detail = f"{several} damaged: {first.detail}"
    where = f"{first.place}: " if first.place and first.place not in detail else ""
    is_for_operator = first.remedy == 3
    hint = _HINTS.get(first.code, ("", ""))[is_for_operator]
    index = int(first.index)
    place = Place(
        group=first.group, replica=first.replica, index=index, last_index=int(last.index), term=int(first.term)
    )
    return Finding(f"data {first.code}", verdicts[int(first.remedy)], f"{whose}{where}{detail}", hint, place)


def _cluster_file(disk: Disk, incarnation: bytes) -> Iterator[Finding]:
    from logbroker.node.cluster_file import ClusterFile

    file = ClusterFile(disk, incarnation)
    try:
        file.read()
        for path in file.bad_copies():
            hint = "nothing: the other copy serves, and both are written at the next change"
            yield Finding("data cluster-copy", Verdict.WARNING, f"{path}: it is not readable", hint)
    except (StorageError, LogBrokerError) as error:
        yield Finding("data cluster", Verdict.FAILED, error.message, error.hint)


def _index(root: Path) -> Iterator[Finding]:
    from logbroker.storage.index_check import check_index

    found = check_index(root)
    if found.fault or found.wrong:
        detail = found.fault or f"{found.wrong:,} of {found.rows:,} rows do not say what their frames say"
        hint = "nothing: it is a cache, and is made again when it is found wrong; to save time remove index.lmdb/"
        yield Finding("data index", Verdict.WARNING, f"the offset index: {detail}", hint)
