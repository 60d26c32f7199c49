"""The bodies of CREATE and INSTALL frames: how a replica's life begins, and how a snapshot takes its log's place."""

from __future__ import annotations

from typing import final

import msgspec

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.storage.flush_record import SegmentEntry

GROUPS_DIRECTORY = "groups"


@final
class CreateBody(msgspec.Struct, array_like=True, frozen=True):
    group: int
    initial_conf: bytes


@final
class InstallBody(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot that lies complete and synced in `directory`, replacing everything the replica had."""

    group: int
    directory: str
    index: int
    term: int
    previous_index: int
    previous_term: int
    segments: tuple[SegmentEntry, ...]
    initial_conf: bytes = b""


def replica_directory(group: GroupId, replica: ReplicaId) -> str:
    return f"{GROUPS_DIRECTORY}/{group}-{replica}"


def install_directory(group: GroupId, replica: ReplicaId, index: Index, term: Term) -> str:
    """Where a snapshot is received, beside the log it may replace. Index and term name the snapshot for ever."""
    return f"{GROUPS_DIRECTORY}/{group}-{replica}.{index}-{term}"


def decode_create(body: bytes) -> CreateBody:
    """Raises CorruptBatchError where the bytes are not a CREATE body."""
    try:
        return msgspec.msgpack.decode(body, type=CreateBody)
    except (ValueError, RecursionError) as error:
        raise CorruptBatchError(f"CREATE frame: {error}") from error


def decode_install(body: bytes) -> InstallBody:
    """Raises CorruptBatchError where the bytes are not an INSTALL body."""
    try:
        return msgspec.msgpack.decode(body, type=InstallBody)
    except (ValueError, RecursionError) as error:
        raise CorruptBatchError(f"INSTALL frame: {error}") from error


def encode_body(body: CreateBody | InstallBody) -> bytes:
    return msgspec.msgpack.encode(body)
