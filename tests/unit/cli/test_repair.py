"""`logbroker repair`: without a word nothing is changed; with it just what was said is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from logbroker.ids import Index, ReplicaId
from logbroker.storage.disk import open_data_directory
from logbroker.storage.segment import segment_path
from tests.unit.cli.kit import run
from tests.unit.cli.test_doctor import ENTRY_BYTES, flip, make_node

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT = segment_path("groups/11-11", Index(1))
HEADER_BYTES = 32


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    make_node(root)
    return root


def rot(root: Path, index: int) -> None:
    flip(root / SEGMENT, HEADER_BYTES + (index - 1) * ENTRY_BYTES + 70)


def asked(root: Path, *args: str) -> tuple[int, list[dict[str, Any]]]:
    ran = run("repair", str(root), "-o", "json", *args)
    return ran.code, ran.json()


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_sound_directory_needs_nothing(data: Path) -> None:
    before = content(data)
    assert asked(data) == (0, [])
    assert asked(data, "--yes") == (0, [])
    assert run("repair", str(data)).out == "nothing to repair\n"
    assert {path: text for path, text in content(data).items() if path.name != "lock"} == {
        path: text for path, text in before.items() if path.name != "lock"
    }


def test_nothing_is_changed_until_it_is_said(data: Path) -> None:
    for index in (3, 9):
        rot(data, index)
    before = content(data)
    code, rows = asked(data)
    assert code == 6
    assert [(row["action"], row["index"]) for row in rows] == [("stays", 3), ("would", 9)]
    assert content(data) == before
    code, rows = asked(data, "--yes")
    assert (code, [(row["action"], row["index"]) for row in rows]) == (0, [("stays", 3), ("done", 9)])
    assert rows[1]["detail"] == "messages 8..8 are lost and answer `corrupt`"
    assert asked(data, "--yes") == (0, rows[:1])
    assert run("doctor", str(data)).code == 1, "what is lost below the checkpoint stays lost, and is said"


def test_damage_that_peers_can_mend_is_none_of_its_business(tmp_path: Path) -> None:
    make_node(tmp_path / "data", ReplicaId(12), ReplicaId(13))
    rot(tmp_path / "data", 9)
    assert asked(tmp_path / "data") == (0, [])


def test_one_rotten_bit_of_the_identity_is_turned_back(data: Path) -> None:
    whole = (data / "node.json").read_bytes()
    flip(data / "node.json", 40)
    code, rows = asked(data)
    assert (code, rows[0]["action"], rows[0]["what"]) == (6, "would", "node.json")
    code, rows = asked(data, "--yes")
    assert (code, rows[0]["action"]) == (0, "done")
    assert (data / "node.json").read_bytes() == whole
    assert run("doctor", str(data)).code == 0
    flip(data / "node.json", 40)
    flip(data / "node.json", 60)
    code, rows = asked(data, "--yes")
    assert (code, rows[0]["action"]) == (9, "cannot")


def test_what_it_cannot_do_is_said(data: Path) -> None:
    (data / SEGMENT).unlink()
    code, rows = asked(data, "--yes")
    assert (code, {row["action"] for row in rows}) == (9, {"cannot"})
    assert "restore a backup" in rows[0]["detail"]


def test_a_running_node_is_not_touched(data: Path) -> None:
    rot(data, 9)
    with open_data_directory(data):
        ran = run("repair", str(data), "--yes")
        assert (ran.code, "is held by process" in ran.err) == (1, True)
