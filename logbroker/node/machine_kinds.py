"""What runs in a group: the catalogue in the meta group, a partition in every other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from logbroker.ids import META_GROUP, NO_REPLICA
from logbroker.node.catalogue import Catalogue
from logbroker.node.catalogue import checkpoint as catalogue_checkpoint
from logbroker.node.replica import GroupMachine, MachineKind
from logbroker.partition import checkpoint as partition_checkpoint
from logbroker.partition.machine import PartitionMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupId

# Replica and configuration stand in the storage's own header of every checkpoint.
_NO_META = partition_checkpoint.CheckpointMeta(NO_REPLICA, b"")


def _encode_partition(machine: GroupMachine) -> Iterator[bytes]:
    return partition_checkpoint.encode_slices(cast("PartitionMachine", machine), _NO_META)


def _encode_catalogue(machine: GroupMachine) -> Iterator[bytes]:
    return catalogue_checkpoint.encode_slices(cast("Catalogue", machine))


def _decode_partition(data: bytes) -> GroupMachine:
    return partition_checkpoint.decode(data)[0]


def _decode_catalogue(data: bytes) -> GroupMachine:
    return catalogue_checkpoint.decode(data)[0]


def _new_catalogue(group: GroupId) -> GroupMachine:
    return Catalogue.new()


PARTITION = MachineKind(PartitionMachine.new, _encode_partition, _decode_partition)
CATALOGUE = MachineKind(_new_catalogue, _encode_catalogue, _decode_catalogue)


def machine_kind(group: GroupId) -> MachineKind:
    return CATALOGUE if group == META_GROUP else PARTITION
