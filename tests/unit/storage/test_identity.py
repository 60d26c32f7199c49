"""node.json: whose directory this is, and what happens where that cannot be read."""

from __future__ import annotations

import json
import random

import pytest

from logbroker.errors import ConfigurationError
from logbroker.ids import NodeId
from logbroker.record.checksum import crc32c
from logbroker.storage.identity import (
    NODE_FILE,
    NodeIdentity,
    mended_identity,
    read_identity,
    restore_identity,
    sync_identity,
    write_identity,
)
from logbroker.storage.index import DictIndex
from logbroker.storage.recovery import open_store
from logbroker.storage.simulated_disk import SimulatedCrash, SimulatedDisk
from tests.unit.storage.store_kit import NODE, OPTIONS, A, commit, entries, open_at, write

IDENTITY = NodeIdentity(NodeId(1), bytes(range(16)), bytes(16))


def written(**changes: object) -> SimulatedDisk:
    """A node.json with a right checksum whatever it says."""
    disk = SimulatedDisk()
    write_identity(disk, IDENTITY)
    with disk.open(NODE_FILE) as file:
        fields = json.loads(file.pread(file.size(), 0))
    del fields["crc"]
    fields |= changes
    crc = crc32c(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
    with disk.open(NODE_FILE) as file:
        file.truncate(0)
        file.pwrite([json.dumps({**fields, "crc": crc}).encode()], 0)
    return disk


def test_an_identity_is_read_back() -> None:
    assert read_identity(written()) == IDENTITY
    assert IDENTITY.salt_crc == crc32c(bytes(16))


def test_an_identity_is_durable_when_it_is_written() -> None:
    disk = SimulatedDisk()
    write_identity(disk, IDENTITY)
    for state in disk.crash_states(limit=10):
        assert read_identity(state) == IDENTITY


def test_one_rotten_bit_is_turned_back_and_two_are_not() -> None:
    whole = written()
    with whole.open(NODE_FILE) as file:
        text = file.pread(file.size(), 0)
    for at in range(0, len(text), 4):
        disk = written()
        disk.flip_bit(NODE_FILE, at, at % 8)
        assert mended_identity(disk) == text
    disk = written()
    disk.flip_bit(NODE_FILE, 8, 1)
    disk.flip_bit(NODE_FILE, 10, 1)
    assert mended_identity(disk) is None
    restore_identity(disk, text)
    assert read_identity(disk) == IDENTITY
    assert disk.is_synced(NODE_FILE)


def test_a_flip_of_any_bit_that_matters_makes_it_unreadable() -> None:
    for at in range(written().size(NODE_FILE)):
        disk = written()
        disk.flip_bit(NODE_FILE, at, 0)
        assert read_identity(disk) in (None, IDENTITY), at


@pytest.mark.parametrize("change", [{"salt": "zz"}, {"incarnation": 5}, {"format": "1"}])
def test_fields_that_nobody_writes_make_it_unreadable(change: dict[str, object]) -> None:
    assert read_identity(written(**change)) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"{}", b"\xff\xfe"])
def test_what_is_no_json_object_is_unreadable(content: bytes) -> None:
    disk = SimulatedDisk()
    with disk.open(NODE_FILE, create=True) as file:
        file.pwrite([content], 0)
    assert read_identity(disk) is None


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="has format 2, this program reads up to 1"):
        read_identity(written(format=2))


def test_an_identity_that_was_in_the_page_cache_is_made_durable_before_anything_is_sent() -> None:
    disk = SimulatedDisk()
    with disk.open(NODE_FILE, create=True) as file:
        file.pwrite([b"{}"], 0)
    sync_identity(disk)
    assert disk.is_synced(NODE_FILE)


def test_a_new_directory_gets_an_identity_of_its_own() -> None:
    one, two = SimulatedDisk(), SimulatedDisk()
    for disk, seed in ((one, 1), (two, 2)):
        store = open_store(disk, OPTIONS, node=NODE, open_index=DictIndex, random_bytes=random.Random(seed).randbytes)
        assert store.notes == []
        store.close()
    assert read_identity(one) != read_identity(two)
    assert one.is_synced(NODE_FILE)


def test_the_directory_of_another_node_is_refused_and_left_alone() -> None:
    disk = SimulatedDisk()
    open_at(disk).close()
    before = disk.digest()
    with pytest.raises(ConfigurationError, match="belongs to node 1, this is node 2"):
        open_store(disk, OPTIONS, node=NodeId(2), open_index=DictIndex, random_bytes=random.Random(7).randbytes)
    assert disk.digest() == before


def test_a_restart_is_the_same_incarnation() -> None:
    disk = SimulatedDisk()
    first = open_at(disk).identity
    assert open_at(disk.kill()).identity == first


def test_an_unreadable_identity_is_a_new_incarnation_and_what_was_there_is_kept_aside() -> None:
    disk = SimulatedDisk()
    store = open_at(disk)
    commit(store, births=[A])
    write(store, *entries(1, 5))
    old = store.identity
    for attempt in ("1", "2"):
        disk = disk.kill()
        kept = [path for path in disk.paths() if not path.startswith("quarantine/") and path != NODE_FILE]
        disk.flip_bit(NODE_FILE, 40, 0)
        store = open_store(
            disk, OPTIONS, node=NODE, open_index=DictIndex, random_bytes=random.Random(attempt).randbytes
        )
        assert store.identity.incarnation != old.incarnation
        assert store.replicas == {}
        assert f"quarantine/{attempt}" in store.notes[0]
        assert {f"quarantine/{attempt}/{path}" for path in kept} <= set(disk.paths())


def test_a_crash_at_any_change_of_the_first_start_begins_again() -> None:
    counting = SimulatedDisk()
    open_at(counting)
    for change in range(1, counting.change_count + 1):
        disk = SimulatedDisk()
        disk.crash_before(change)
        with pytest.raises(SimulatedCrash):
            open_at(disk)
        after = disk.crash(keep=random.Random(change))
        store = open_at(after)
        assert store.replicas == {}
        commit(store, births=[A])
        assert not store.replicas[A].lost
