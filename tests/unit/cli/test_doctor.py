"""`logbroker doctor DATA_DIR` and `logbroker doctor --server`: what each finding is called, and what it says to do."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from logbroker.ids import GroupId, Index, Term
from logbroker.node.cluster_file import ClusterFile, ClusterState
from logbroker.raft.messages import ConfState
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.disk import open_data_directory
from logbroker.storage.index import LmdbIndex
from logbroker.storage.index_check import INDEX_NAME, check_index
from logbroker.storage.recovery import open_store
from logbroker.storage.segment import segment_path
from tests.unit.cli.kit import run
from tests.unit.cli.test_node_commands import Admin, admin
from tests.unit.storage.store_kit import NODE, OPTIONS, A, checkpoint, commit, entries, roll_and_flush, write

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.ids import ReplicaId

__all__ = ["admin"]

SEGMENT = segment_path("groups/11-11", Index(1))
ENTRY_BYTES = 159


def make_node(root: Path, *others: ReplicaId) -> None:
    """A node that has stopped in order: a replica with ten flushed entries, a checkpoint, and two more entries."""
    with open_data_directory(root) as disk:
        store = open_store(
            disk,
            OPTIONS,
            node=NODE,
            open_index=lambda: LmdbIndex.open(root / INDEX_NAME, map_size_bytes=64 << 20),
            random_bytes=random.Random(1).randbytes,
        )
        ClusterFile(disk, store.identity.incarnation).write(ClusterState(name="test"))
        job = store.plan_commit(births=[Birth(GroupId(A), A, ConfState((A, *others)).encode())])
        assert job is not None
        job.run()
        store.finish_commit(job)
        commit(store, ReplicaWrite(A, (Term(1), A)))
        write(store, *entries(1, 11))
        store.replicas[A].log.committed = Index(10)
        roll_and_flush(store)
        checkpoint(store, 8)
        write(store, *entries(11, 13))
        commit(store, seals=True)
        store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    make_node(root)
    return root


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def found(root: Path, *args: str) -> tuple[int, dict[str, Any]]:
    ran = run("doctor", str(root), "-o", "json", *args)
    return ran.code, {row["check"]: row for row in ran.json()}


def test_a_sound_directory_is_sound_and_is_not_touched(data: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.rglob("*") if path.is_file()}
    code, rows = found(data)
    assert (code, set(rows)) == (0, {"data"})
    assert rows["data"]["detail"].startswith("node 1: looked at 1 replicas, 10 entries in 1 segments, ")
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.rglob("*") if path.is_file()}
    assert after == before


def test_a_directory_that_a_node_uses_is_not_read_unless_told(data: Path) -> None:
    with open_data_directory(data):
        ran = run("doctor", str(data))
        assert (ran.code, ran.out) == (1, "")
        assert f"is held by process {os.getpid()}" in ran.err
        told = run("doctor", str(data), "--online")
        assert (told.code, told.err.startswith("warning: a node may be writing")) == (0, True)
    assert run("doctor", str(data)).code == 0


def test_nobody_can_begin_to_use_a_directory_while_it_is_looked_over(data: Path) -> None:
    from logbroker.storage.disk import DataDirectoryInUseError, read_data_directory

    with (
        read_data_directory(data),
        pytest.raises(DataDirectoryInUseError),
        open_data_directory(data),
    ):
        pass


def test_rot_that_peers_mend_is_a_warning_and_rot_of_a_sole_copy_is_not(tmp_path: Path) -> None:
    from logbroker.ids import ReplicaId

    for others, code, verdict, word in (
        ((ReplicaId(12), ReplicaId(13)), 6, "warning", "fetches the entry"),
        ((), 1, "failed", "logbroker repair"),
    ):
        root = tmp_path / str(len(others))
        make_node(root, *others)
        for index in (3, 4, 5):
            flip(root / SEGMENT, 32 + (index - 1) * ENTRY_BYTES + 70)
        got, rows = found(root)
        row = rows["data entry"]
        assert (got, row["verdict"]) == (code, verdict)
        assert word in row["hint"]
        assert (row["replica"], row["index"], row["last_index"], row["term"]) == (11, 3, 5, 1), "one run is one line"


@pytest.mark.parametrize(
    ("name", "offset", "check", "code"),
    [
        ("vote.a", 20, "data vote-copy", 6),
        ("flushed.b", 20, "data flush-record", 6),
        ("cluster.a.json", 20, "data cluster-copy", 6),
        ("groups/11-11/8.checkpoint", 40, "data checkpoint", 6),
        ("node.json", 20, "data identity", 1),
    ],
)
def test_each_file_has_its_own_line_with_what_to_do(data: Path, name: str, offset: int, check: str, code: int) -> None:
    flip(data / name, offset)
    got, rows = found(data)
    assert (got, rows[check]["hint"] != "") == (code, True)


def test_an_index_that_lies_is_a_cache_that_lies(data: Path) -> None:
    assert check_index(data).rows > 0
    with open_data_directory(data) as disk:
        index = LmdbIndex.open(data / INDEX_NAME, map_size_bytes=64 << 20)
        row = index.floor_by_index(GroupId(A), A, Index(1))
        assert row is not None
        from dataclasses import replace

        index.add(GroupId(A), A, [replace(row, append_ms=5)])
        index.close()
        assert disk.exists(INDEX_NAME)
    assert (check_index(data).wrong, check_index(data).fault) == (1, "")
    code, rows = found(data)
    assert (code, rows["data index"]["verdict"]) == (6, "warning")
    (data / INDEX_NAME / "data.mdb").write_bytes(b"x" * 9000)
    assert check_index(data).fault != ""


def test_what_is_no_directory_is_said_so(tmp_path: Path) -> None:
    ran = run("doctor", str(tmp_path / "nothing"))
    assert (ran.code, "is no directory" in ran.err) == (1, True)
    assert run("doctor", str(tmp_path), "--server", "http://127.0.0.1:1").code == 2


# A running cluster.


def page(number: int, **changes: object) -> dict[str, object]:
    """The status page of a node that is well, in a cluster of three."""
    nodes = [{"node": one, "url": f"ws://n{one}", "peer": f"n{one}:1"} for one in (1, 2, 3)]
    group = {"group": 1, "is_leader": number == 1, "term": 4, "problems": []}
    return {
        "node": number,
        "version": "1",
        "cluster": {"name": "test", "id": "ab" * 16, "phase": "member", "nodes": nodes},
        "ready": True,
        "draining": False,
        "problems": [],
        "peers": [],
        "groups": [group],
        "scrub": {
            "rounds": 2,
            "damaged_entries": 0,
            "damaged_checkpoints": 0,
            "damaged_wal": 0,
            "mended_copies": 0,
        },
    } | changes


def asked(admin: tuple[str, type[Admin]], body: dict[str, object]) -> tuple[int, list[dict[str, str]]]:
    url, handler = admin
    handler.answers["/status"] = (200, json.dumps(body))
    ran = run("doctor", "--server", url, "-o", "json", env={"LOGBROKER_TOKEN": "lb1_x"})
    assert handler.asked[-1] == ("GET", "/status", "Bearer lb1_x", "")
    return ran.code, ran.json()


def test_a_node_that_is_well_is_well(admin: tuple[str, type[Admin]]) -> None:
    code, rows = asked(admin, page(1))
    assert (code, {row["verdict"] for row in rows}) == (0, {"ok"})
    assert rows[0]["detail"] == "ready, member, leads 1 of 1 groups"
    assert rows[-1]["hint"] == "give --server for nodes 2, 3 too"


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        ("group 7 stopped: entry 3 does not fit", 1, "logbroker doctor DATA_DIR"),
        ("group 7 has no leader: this node hears none of nodes 2, 3", 1, "start the nodes"),
        ("replica 9 of group 7 has 2 damaged entries", 6, "they are fetched"),
        ("replica 9 of group 7 has 2 damaged entries, and there is no other replica to fetch them", 1, "copy its data"),
        ("this node's clock is 5000 ms off the median of the nodes: it does not lead", 6, "NTP"),
        ("this node's clock is 9 ms ahead of log time, which is not followed until", 6, "logbroker clock accept"),
        ("a group commit has been on its way to the disk for 3.0 s", 1, "hangs"),
        ("the write-ahead log is full and waits for a flush", 1, "flusher"),
        ("the disk has little room left (low): produce is refused", 1, "free room"),
        ("something nobody thought of", 6, ""),
    ],
)
def test_every_problem_has_a_verdict_and_a_hint(
    admin: tuple[str, type[Admin]], problem: str, code: int, words: str
) -> None:
    got, rows = asked(admin, page(1, problems=[problem]))
    (row,) = (row for row in rows if row["detail"] == problem)
    assert got == code
    assert words in row["hint"]


def test_unreachable_nodes_and_peers_are_named(admin: tuple[str, type[Admin]]) -> None:
    peers = [{"node": 3, "address": "n3:1", "connected": False, "fault": "connection refused"}]
    code, rows = asked(admin, page(1, peers=peers, ready=False))
    assert code == 6
    assert "node 3 at n3:1 cannot be reached: connection refused" in [row["detail"] for row in rows]
    ran = run("doctor", "--server", "http://127.0.0.1:1", "-o", "json")
    assert (ran.code, ran.json()[0]["hint"][:19]) == (1, "is the node started")


def test_rot_that_the_scrubber_found_is_told(admin: tuple[str, type[Admin]]) -> None:
    scrub = {"rounds": 2, "damaged_entries": 3, "damaged_checkpoints": 0, "damaged_wal": 0, "mended_copies": 1}
    code, rows = asked(admin, page(1, scrub=scrub))
    assert code == 6
    assert "rot was found since the start: 3 damaged entries, 1 mended copies" in [row["detail"] for row in rows]


def test_nodes_are_held_against_each_other(admin: tuple[str, type[Admin]]) -> None:
    from logbroker.cli.admin import AdminNode
    from logbroker.cli.doctor_cluster import _together

    url, _ = admin
    assert AdminNode(url).get("/livez")[0] == 404
    both = {"a": page(1), "b": page(2)}
    assert [str(one.verdict) for one in _together(both)] == ["ok"]
    both["b"] = page(2, version="2")
    assert [str(one.verdict) for one in _together(both)] == ["warning", "ok"]
    led = [{"group": 1, "is_leader": True, "term": 4, "problems": []}]
    (one, _) = _together({"a": page(1), "b": page(2, groups=led)})
    assert one.detail == "nodes 1, 2 all lead group 1 in term 4"
    other = page(2)
    other["cluster"] = {"name": "x", "id": "cd" * 16, "phase": "member", "nodes": []}
    (one,) = _together({"a": page(1), "b": other})
    assert "not of one cluster" in one.detail


def test_a_token_that_may_not_see_the_status_is_told_so(admin: tuple[str, type[Admin]]) -> None:
    url, handler = admin
    handler.answers["/status"] = (403, "{}")
    ran = run("doctor", "--server", url, "-o", "json")
    assert (ran.code, ran.json()[0]["hint"]) == (1, "an admin token is needed")
    handler.answers["/status"] = (200, "[]")
    assert "no status page" in run("doctor", "--server", url, "-o", "json").json()[0]["detail"]
