"""The two copies of the cluster file, and what becomes of a node that cannot read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker.errors import ConfigurationError, DamageError
from logbroker.ids import NodeId, ReplicaId
from logbroker.node.catalogue.commands import Bootstrap
from logbroker.node.catalogue.rows import NodeRow
from logbroker.node.cluster_file import COPIES, ClusterFile, ClusterState
from logbroker.node.cluster_messages import Phase
from logbroker.storage.disk import RealDisk

if TYPE_CHECKING:
    from pathlib import Path

LIFE = b"i" * 16
RECORD = Bootstrap(
    b"c" * 16,
    "test",
    (NodeRow(NodeId(1), LIFE, "n1:4202", "ws://n1:4200"), NodeRow(NodeId(2), b"j" * 16, "n2:4202", "")),
    (NodeId(3),),
)
STATE = ClusterState(
    Phase.FOUNDED, b"c" * 16, "test", NodeId(1), LIFE, (NodeId(3),), record=RECORD, meta_replica=ReplicaId(4)
)


def file(root: Path) -> ClusterFile:
    return ClusterFile(RealDisk(root), LIFE)


def test_a_new_directory_never_was_in_a_cluster(tmp_path: Path) -> None:
    assert file(tmp_path).read() == ClusterState()


@pytest.mark.parametrize("state", [STATE, ClusterState(Phase.JOINED, b"c" * 16, "test"), ClusterState()])
def test_what_was_written_is_read(tmp_path: Path, state: ClusterState) -> None:
    file(tmp_path).write(state)
    assert file(tmp_path).read() == state


def test_the_newer_copy_counts_where_the_process_died_between_the_two(tmp_path: Path) -> None:
    first = file(tmp_path)
    first.write(ClusterState(Phase.PROMISED, b"c" * 16, "test", NodeId(1), LIFE))
    old = (tmp_path / COPIES[1]).read_bytes()
    first.write(STATE)
    (tmp_path / COPIES[1]).write_bytes(old)
    second = file(tmp_path)
    assert second.read() == STATE
    second.write(ClusterState(Phase.JOINED, b"d" * 16, "test"))
    assert file(tmp_path).read().phase is Phase.JOINED


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"crc": 0}'])
def test_one_bad_copy_does_no_harm(tmp_path: Path, damage: bytes) -> None:
    file(tmp_path).write(STATE)
    (tmp_path / COPIES[0]).write_bytes(damage)
    assert file(tmp_path).read() == STATE


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    file(tmp_path).write(STATE)
    text = (tmp_path / COPIES[0]).read_bytes()
    (tmp_path / COPIES[0]).write_bytes(text.replace(b"FOUNDED", b"JOINED"))
    (tmp_path / COPIES[1]).unlink()
    with pytest.raises(DamageError):
        file(tmp_path).read()


def test_two_bad_copies_are_never_taken_for_a_node_that_may_promise_itself(tmp_path: Path) -> None:
    file(tmp_path).write(STATE)
    for name in COPIES:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DamageError, match="this node's cluster is not known") as caught:
        file(tmp_path).read()
    assert "empty the data directory" in caught.value.hint


def test_a_file_of_another_data_directory_is_refused(tmp_path: Path) -> None:
    ClusterFile(RealDisk(tmp_path), b"o" * 16).write(STATE)
    with pytest.raises(ConfigurationError, match="belongs to data directory"):
        file(tmp_path).read()
