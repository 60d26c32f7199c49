"""The files of a node as retention sees them, read beside a store that may be running."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.ids import GroupId, Index, Term
from logbroker.node.catalogue.rights import Rights
from logbroker.raft.messages import ConfState
from logbroker.server import segments_page as module
from logbroker.server.segments_page import KeptFiles, SegmentFacts, files_on, segments_page
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.segment import segment_path
from logbroker.storage.simulated_disk import SimulatedDisk
from tests.unit.server.kit import TOKEN, World
from tests.unit.server.test_admin import call, serving, with_tokens
from tests.unit.storage.store_kit import OPTIONS, A, commit, entries, entry, open_at, roll_and_flush, write

if TYPE_CHECKING:
    from pathlib import Path

GROUP = GroupId(A)
DIRECTORY = "groups/11-11"
ENTRY_BYTES = 60 + 99
HEADER_BYTES = 32


@pytest.fixture
def disk() -> SimulatedDisk:
    """Two segments of five and four entries, the last of them no message, and a tail."""
    made = SimulatedDisk()
    store = open_at(made, options=replace(OPTIONS, log=replace(OPTIONS.log, segment_bytes=800)))
    job = store.plan_commit(births=[Birth(GROUP, A, ConfState((A,)).encode())])
    assert job is not None
    job.run()
    store.finish_commit(job)
    commit(store, ReplicaWrite(A, (Term(1), A)))
    write(store, *entries(1, 6))
    store.replicas[A].log.committed = Index(5)
    roll_and_flush(store)
    write(store, *entries(6, 9), entry(9, kind=EntryKind.STATE))
    store.replicas[A].log.committed = Index(9)
    roll_and_flush(store)
    write(store, entry(10, base=8))
    store.close()
    return made.kill()


def test_each_segment_says_from_which_message_and_time_on_and_how_large_it_is(disk: SimulatedDisk) -> None:
    assert files_on(disk, {GROUP}) == {
        GROUP: KeptFiles(
            A,
            (
                SegmentFacts(0, 10, HEADER_BYTES + 5 * ENTRY_BYTES),
                SegmentFacts(5, 60, HEADER_BYTES + 4 * ENTRY_BYTES),
            ),
            (7, 80),
        )
    }


def test_nothing_is_changed_and_nobody_else_is_looked_at(disk: SimulatedDisk) -> None:
    before, changes = disk.digest(), disk.change_count
    assert files_on(disk, {GroupId(99)}) == {}
    files_on(disk, {GROUP})
    assert (disk.digest(), disk.change_count) == (before, changes)


def test_a_directory_in_which_no_node_has_been_has_no_files() -> None:
    assert files_on(SimulatedDisk(), {GROUP}) == {}


def test_a_file_that_goes_meanwhile_is_left_out_and_told(disk: SimulatedDisk) -> None:
    disk.unlink(segment_path(DIRECTORY, Index(1)))
    found = files_on(disk, {GROUP})[GROUP]
    assert [one.first_offset for one in found.segments] == [5]
    assert segment_path(DIRECTORY, Index(1)) in found.problem
    disk.unlink(segment_path(DIRECTORY, Index(6)))
    assert files_on(disk, {GROUP})[GROUP].segments == ()


def test_a_rotten_head_hides_one_file_and_not_the_others(disk: SimulatedDisk) -> None:
    disk.flip_bit(segment_path(DIRECTORY, Index(6)), HEADER_BYTES + 50, 1)
    found = files_on(disk, {GROUP})[GROUP]
    assert ([one.first_offset for one in found.segments], found.last) == ([0], None)
    assert "checksum" in found.problem


def test_a_long_segment_is_not_walked_to_find_its_end(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WALKED_ENTRIES", 3)
    assert files_on(disk, {GROUP})[GROUP].last is None


def test_the_page_names_queues_and_partitions_in_order() -> None:
    kept = KeptFiles(A, (SegmentFacts(5, 60, 700),), (7, 80))
    places = {GroupId(2): ("orders", 1), GroupId(1): ("orders", 0), GroupId(3): ("audit", 0)}
    page = segments_page(1, places, {GroupId(1): kept, GroupId(2): KeptFiles(12, (), None, "gone")})
    assert page == {
        "node": 1,
        "partitions": [
            {
                "queue": "orders",
                "partition": 0,
                "replica": 11,
                "segments": [{"first_offset": 5, "first_ms": 60, "bytes": 700}],
                "last": {"offset": 7, "ms": 80},
                "problem": "",
            },
            {"queue": "orders", "partition": 1, "replica": 12, "segments": [], "last": None, "problem": "gone"},
        ],
    }


async def test_the_page_is_for_operators_and_says_when_there_is_no_directory(tmp_path: Path) -> None:
    async with serving(with_tokens(Rights.ADMIN)) as port:
        assert (await call(port, "/api/v1/segments"))[0] == 401
    async with serving(with_tokens(Rights.CONSUME)) as port:
        assert (await call(port, "/api/v1/segments", token=TOKEN))[0] == 403
    async with serving(World.make(node={"data_dir": tmp_path})) as port:
        status, text = await call(port, "/api/v1/segments?queue=orders")
        assert (status, json.loads(text)) == (200, {"node": 1, "partitions": []})
    async with serving(World.make(node={"data_dir": tmp_path / "nothing"})) as port:
        status, text = await call(port, "/api/v1/segments")
        assert status == 503
        assert "is no directory" in json.loads(text)["error"]["message"]
