"""What a data directory durably knows of its cluster: two copies of one small checked file.

It decides whether this node may promise itself to a new cluster, so an unreadable one is never taken for a missing one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import final

from logbroker.errors import ConfigurationError, DamageError, StorageError
from logbroker.ids import NO_REPLICA, NodeId, ReplicaId
from logbroker.node.catalogue.commands import Bootstrap
from logbroker.node.catalogue.rows import NodeRow
from logbroker.node.cluster_messages import Phase
from logbroker.record.checksum import crc32c
from logbroker.storage.disk import Disk, MissingFileError, read_file, replace_file

COPIES = ("cluster.a.json", "cluster.b.json")
FORMAT_VERSION = 1
MAX_FILE_BYTES = 64 << 10

NOBODY = NodeId(0)


@final
@dataclass(frozen=True, slots=True)
class ClusterState:
    """`asker` is the node that founds the cluster; it alone may give up what is recorded but not founded.

    `without` are nodes left out on an operator's word. `meta_replica` is the newest replica of the meta group that
    was ever created here: none with that id or a lower one is created again, whatever an old message says.
    """

    phase: Phase = Phase.ALONE
    cluster_id: bytes = b""
    name: str = ""
    asker: NodeId = NOBODY
    asker_incarnation: bytes = b""
    without: tuple[NodeId, ...] = ()
    record: Bootstrap | None = None
    meta_replica: ReplicaId = NO_REPLICA


@final
class ClusterFile:
    """Blocking; one writer."""

    def __init__(self, disk: Disk, incarnation: bytes) -> None:
        self._disk = disk
        self._incarnation = incarnation
        self._sequence = 0

    def read(self) -> ClusterState:
        """The newest readable copy; the state of a node that never was in a cluster where there is no file.

        Raises:
            DamageError: there are copies and none is readable.
            ConfigurationError: the file is of another data directory, or of a newer version.
        """
        found: list[tuple[int, ClusterState]] = []
        present = False
        for path in COPIES:
            try:
                text = read_file(self._disk, path)
            except MissingFileError:
                continue
            except StorageError:
                text = b""
            present = True
            read = self._decode(path, text)
            if read is not None:
                found.append(read)
        if not found:
            if present:
                raise DamageError(
                    f"neither of {' and '.join(COPIES)} is readable, so this node's cluster is not known",
                    hint="empty the data directory: the node then joins its cluster again as a new life",
                )
            return ClusterState()
        self._sequence, state = max(found, key=lambda pair: pair[0])
        return state

    def bad_copies(self) -> list[str]:
        """The paths of copies that are there and cannot be read; what `read` gives does not depend on one of them.

        Raises:
            ConfigurationError: as `read`.
        """
        bad = []
        for path in COPIES:
            try:
                text = read_file(self._disk, path)
            except MissingFileError:
                continue
            except StorageError:
                text = b""
            if self._decode(path, text) is None:
                bad.append(path)
        return bad

    def write(self, state: ClusterState) -> None:
        """Make `state` durable in both copies.

        Raises:
            StorageError: it is not known which of the two states a restart would find.
        """
        self._sequence += 1
        body = _to_fields(state) | {
            "format": FORMAT_VERSION,
            "sequence": self._sequence,
            "incarnation": self._incarnation.hex(),
        }
        text = json.dumps({**body, "crc": crc32c(_canonical(body))}, indent=2).encode() + b"\n"
        for path in COPIES:
            replace_file(self._disk, path, text)

    def _decode(self, path: str, text: bytes) -> tuple[int, ClusterState] | None:
        try:
            fields = json.loads(text[:MAX_FILE_BYTES])
            crc = fields.pop("crc")
            if crc32c(_canonical(fields)) != crc:
                return None
            if fields["format"] > FORMAT_VERSION:
                raise ConfigurationError(
                    f"{path} has format {fields['format']}, this program reads up to {FORMAT_VERSION}",
                    hint="start a newer version of logbroker on this data directory",
                )
            if fields["incarnation"] != self._incarnation.hex():
                raise ConfigurationError(
                    f"{path} belongs to data directory {fields['incarnation']}, this is {self._incarnation.hex()}",
                    hint="files of one data directory must not be copied into another",
                )
            return fields["sequence"], _of_fields(fields)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def _to_fields(state: ClusterState) -> dict[str, object]:
    record = state.record
    return {
        "phase": state.phase.name,
        "cluster_id": state.cluster_id.hex(),
        "name": state.name,
        "asker": state.asker,
        "asker_incarnation": state.asker_incarnation.hex(),
        "without": list(state.without),
        "meta_replica": state.meta_replica,
        "record": None
        if record is None
        else {
            "cluster_id": record.cluster_id.hex(),
            "name": record.name,
            "without": list(record.without),
            "nodes": [
                {
                    "node": row.node,
                    "incarnation": row.incarnation.hex(),
                    "peer_address": row.peer_address,
                    "client_url": row.client_url,
                }
                for row in record.nodes
            ],
        },
    }


def _of_fields(fields: dict[str, object]) -> ClusterState:
    found: dict[str, object] = dict(fields)
    record = found["record"]
    return ClusterState(
        Phase[_text(found["phase"])],
        bytes.fromhex(_text(found["cluster_id"])),
        _text(found["name"]),
        NodeId(_number(found["asker"])),
        bytes.fromhex(_text(found["asker_incarnation"])),
        tuple(NodeId(_number(node)) for node in _items(found["without"])),
        None if record is None else _record(record),
        ReplicaId(_number(found["meta_replica"])),
    )


def _record(fields: object) -> Bootstrap:
    if not isinstance(fields, dict):
        raise TypeError("a record is an object")
    rows = []
    for row in _items(fields["nodes"]):
        if not isinstance(row, dict):
            raise TypeError("a node is an object")
        rows.append(
            NodeRow(
                NodeId(_number(row["node"])),
                bytes.fromhex(_text(row["incarnation"])),
                _text(row["peer_address"]),
                _text(row["client_url"]),
            )
        )
    without = tuple(NodeId(_number(node)) for node in _items(fields["without"]))
    return Bootstrap(bytes.fromhex(_text(fields["cluster_id"])), _text(fields["name"]), tuple(rows), without)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _canonical(body: dict[str, object]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
