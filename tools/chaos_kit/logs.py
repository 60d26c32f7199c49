"""What stopped nodes hold on their disks: each group's log, opened as a start would open it."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from logbroker.config import load_settings
from logbroker.config.options import store_options
from logbroker.errors import LogBrokerError
from logbroker.ids import Index, NodeId
from logbroker.storage.disk import open_data_directory
from logbroker.storage.index import DictIndex
from logbroker.storage.recovery import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from logbroker.entry import Entry

_PIECE_BYTES = 4 << 20

NodeLogs = dict[int, list["Entry"]]
"""The entries of each group, in order."""


class LogsError(Exception):
    """The log of a stopped node cannot be read, or contradicts another's."""


def read_logs(config_file: Path) -> NodeLogs:
    """Read what a stopped node has.

    Raises:
        LogsError: it does not open, or is damaged.
    """
    settings = load_settings(config_file=config_file).settings
    node = NodeId(settings.node.id)
    try:
        with open_data_directory(settings.node.data_dir) as disk:
            options = store_options(settings, disk_bytes=disk.space().total_bytes)
            store = open_store(disk, options, node=node, open_index=DictIndex, random_bytes=os.urandom)
            try:
                found: NodeLogs = {}
                for stored in store.replicas.values():
                    if stored.lost:
                        raise LogsError(f"node {node}: replica {stored.log.replica} is lost: {stored.lost}")
                    log = stored.log
                    entries: list[Entry] = []
                    position = log.first_index()
                    while position <= log.last_index():
                        piece = log.entries(position, Index(log.last_index() + 1), max_bytes=_PIECE_BYTES)
                        entries += piece
                        position = Index(piece[-1].index + 1)
                    found[int(log.group)] = entries
                return found
            finally:
                store.close()
    except LogBrokerError as error:
        raise LogsError(f"node {node}: {error.code}: {error}") from error


def agreed_log(group: int, logs: Mapping[int, Sequence[Entry]], *, size: int) -> list[Entry]:
    """The entries of a group that a majority of its nodes holds: what is committed, and perhaps a little more.

    It begins where a majority begins: each node takes away for itself what retention has dropped.

    Raises:
        LogsError: two nodes hold different entries of one index and term.
    """
    firsts = sorted(entries[0].index for entries in logs.values() if entries)
    if 2 * len(firsts) <= size:
        return []
    found: list[Entry] = []
    by_index = [{entry.index: (node, entry) for entry in entries} for node, entries in logs.items()]
    for index in range(firsts[0], max(entries[-1].index for entries in logs.values() if entries) + 1):
        by_node = dict(held[Index(index)] for held in by_index if index in held)
        _check_match(group, by_node)
        if index < firsts[size // 2]:
            continue
        (term, count), *_ = Counter(entry.term for entry in by_node.values()).most_common()
        if 2 * count <= size:
            break
        found.append(next(entry for entry in by_node.values() if entry.term == term))
    return found


def _check_match(group: int, by_node: Mapping[int, Entry]) -> None:
    first: dict[int, tuple[int, Entry]] = {}
    for node, entry in by_node.items():
        other, known = first.setdefault(int(entry.term), (node, entry))
        if known != entry:
            raise LogsError(f"group {group}: nodes {other} and {node} differ at one index and term: {known}, {entry}")
