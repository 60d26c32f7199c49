"""node.json: who this data directory belongs to. Made on first start, synced before anything is sent, never changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import final

from logbroker.errors import ConfigurationError, StorageError
from logbroker.ids import NodeId
from logbroker.record.checksum import crc32c
from logbroker.storage.disk import Disk, replace_file

NODE_FILE = "node.json"
FORMAT_VERSION = 1
TOKEN_BYTES = 16
MAX_FILE_BYTES = 4096


@final
@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """`incarnation` and `salt` are 128 random bits; an emptied or copied directory is another incarnation."""

    node: NodeId
    incarnation: bytes
    salt: bytes

    @property
    def salt_crc(self) -> int:
        """What every checksum of this directory's own files starts from."""
        return crc32c(self.salt)


def read_identity(disk: Disk) -> NodeIdentity | None:
    """The directory's identity, or None where there is none or it is unreadable.

    Raises:
        ConfigurationError: the format is newer than this program's.
    """
    try:
        with disk.open(NODE_FILE) as file:
            return _decode(file.pread(min(file.size(), MAX_FILE_BYTES), 0))
    except StorageError:
        return None


def _decode(text: bytes) -> NodeIdentity | None:
    try:
        fields = json.loads(text)
        body = {key: fields[key] for key in ("format", "node", "incarnation", "salt")}
        if crc32c(_canonical(body)) != fields["crc"]:
            return None
        if body["format"] > FORMAT_VERSION:
            raise ConfigurationError(
                f"{NODE_FILE} has format {body['format']}, this program reads up to {FORMAT_VERSION}",
                hint="start a newer version of logbroker on this data directory",
            )
        return NodeIdentity(NodeId(int(body["node"])), bytes.fromhex(body["incarnation"]), bytes.fromhex(body["salt"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def mended_identity(disk: Disk) -> bytes | None:
    """What an unreadable identity file said if a single bit of it has rotted; None where no one bit explains it.

    The checksum finds every such bit, and no other text that is one bit away passes it.
    """
    with disk.open(NODE_FILE) as file:
        text = file.pread(min(file.size(), MAX_FILE_BYTES), 0)
    for place in range(len(text) * 8):
        flipped = text[place // 8] ^ 1 << place % 8
        candidate = text[: place // 8] + bytes([flipped]) + text[place // 8 + 1 :]
        if _decode(candidate) is not None:
            return candidate
    return None


def restore_identity(disk: Disk, text: bytes) -> None:
    """Make what `mended_identity` found durable."""
    replace_file(disk, NODE_FILE, text)


def sync_identity(disk: Disk) -> None:
    """Make an identity that was read durable with its name: it may have been in the page cache alone."""
    with disk.open(NODE_FILE) as file:
        file.sync()
    disk.sync_dir("")


def write_identity(disk: Disk, identity: NodeIdentity) -> None:
    """Make the identity durable."""
    body = {
        "format": FORMAT_VERSION,
        "node": identity.node,
        "incarnation": identity.incarnation.hex(),
        "salt": identity.salt.hex(),
    }
    replace_file(disk, NODE_FILE, json.dumps({**body, "crc": crc32c(_canonical(body))}, indent=2).encode() + b"\n")


def _canonical(body: dict[str, object]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
