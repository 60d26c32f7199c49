"""The parts of chaos that need neither processes nor privileges: packets, disks that forget, plans and percentiles."""

from __future__ import annotations

import errno
import random
import stat
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tools.chaos_kit.command_line import main, plan_rounds
from tools.chaos_kit.disks import DiskKind
from tools.chaos_kit.drive import Rot, watch_rot
from tools.chaos_kit.faults import FAULTS, Arena, Strike
from tools.chaos_kit.fuse import FuseError
from tools.chaos_kit.power_disk import PAGE_BYTES, PowerModel
from tools.chaos_kit.record import Record, Sent
from tools.chaos_kit.report import percentile
from tools.chaos_kit.rounds import fail_overs
from tools.chaos_kit.shaper import Rule, Shaper, read_rules
from tools.chaos_kit.workload import key_of

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from tools.chaos_kit.disks import Disks
    from tools.chaos_kit.nodes import ChaosCluster

FILE = stat.S_IFREG | 0o600


def packet(target: int, body: bytes = b"body") -> bytes:
    return bytes((0x45,)) + bytes(15) + bytes((10, 99, 0, target)) + body


def test_a_packet_without_a_rule_passes_at_once() -> None:
    shaper = Shaper(random.Random(1))
    shaper.take(1, packet(2), 10.0)
    assert shaper.due(10.0) == [(1, packet(2))]
    assert shaper.wait_ms(10.0) == -1


def test_rules_hold_for_one_direction_only() -> None:
    shaper = Shaper(random.Random(1))
    shaper.rules = read_rules('[[1, 2, {"drop": 1.0}]]')
    shaper.take(1, packet(2), 10.0)
    shaper.take(2, packet(1), 10.0)
    assert shaper.due(10.0) == [(2, packet(1))]


def test_a_packet_is_held_for_its_delay_and_doubled() -> None:
    shaper = Shaper(random.Random(1))
    shaper.rules = {(1, 2): Rule(delay_ms=50.0, double=1.0)}
    shaper.take(1, packet(2), 10.0)
    assert shaper.due(10.049) == []
    assert shaper.wait_ms(10.0) == 50
    assert shaper.due(10.051) == [(1, packet(2))] * 2


def test_one_bit_behind_the_header_is_spoiled() -> None:
    shaper = Shaper(random.Random(1))
    shaper.rules = {(1, 2): Rule(spoil=1.0)}
    shaper.take(1, packet(2), 10.0)
    [(_, spoiled)] = shaper.due(10.0)
    assert spoiled[:20] == packet(2)[:20]
    assert sum((one ^ other).bit_count() for one, other in zip(spoiled, packet(2), strict=True)) == 1


def test_what_is_no_ipv4_is_dropped() -> None:
    shaper = Shaper(random.Random(1))
    shaper.take(1, b"\x60" + bytes(40), 10.0)
    assert shaper.due(10.0) == []


def made(model: PowerModel, name: str, data: bytes = b"") -> int:
    """A file with content, synced, whose name is synced too."""
    number = model.create(1, name, FILE).number
    model.write(number, 0, data)
    model.sync(number)
    model.sync_names(1)
    return number


def test_what_was_synced_outlives_the_power_and_what_was_not_does_not() -> None:
    model = PowerModel()
    number = made(model, "log", b"a" * 10_000)
    model.write(number, 5_000, b"b" * 10_000)
    model.cut(0.0, random.Random(1))
    assert model.inode(number).data == b"a" * 10_000


def test_a_name_outlives_the_power_only_once_its_directory_was_synced() -> None:
    model = PowerModel()
    number = model.create(1, "log", FILE).number
    model.write(number, 0, b"data")
    model.sync(number)
    model.cut(0.0, random.Random(1))
    with pytest.raises(FuseError) as raised:
        model.lookup(1, "log")
    assert raised.value.code == errno.ENOENT


def test_a_rename_that_was_not_synced_is_undone_and_brings_back_what_it_replaced() -> None:
    model = PowerModel()
    made(model, "old", b"old")
    made(model, "new", b"new")
    model.rename(1, "new", 1, "old")
    model.cut(0.0, random.Random(1))
    assert bytes(model.lookup(1, "old").data) == b"old"
    assert bytes(model.lookup(1, "new").data) == b"new"


def test_an_unlinked_file_is_back_unless_that_was_synced() -> None:
    model = PowerModel()
    made(model, "log", b"data")
    model.unlink(1, "log", is_directory=False)
    model.cut(0.0, random.Random(1))
    model.lookup(1, "log")
    model.unlink(1, "log", is_directory=False)
    model.sync_names(1)
    model.cut(0.0, random.Random(1))
    assert list(model.inodes) == [1]


def test_a_truncation_that_was_not_synced_is_undone() -> None:
    model = PowerModel()
    number = made(model, "log", b"a" * 10_000)
    model.resize(number, 100)
    model.write(number, 50, b"b" * 20)
    model.cut(0.0, random.Random(1))
    assert model.inode(number).data == b"a" * 10_000


def test_some_pages_may_stay_and_some_are_torn_between_sectors() -> None:
    model = PowerModel()
    number = made(model, "log", b"a" * 40 * PAGE_BYTES)
    model.write(number, 0, b"b" * 40 * PAGE_BYTES)
    model.cut(0.5, random.Random(1))
    data = model.inode(number).data
    pages = [bytes(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)]
    new_bytes = [page.count(b"b") for page in pages]
    assert all(page == b"b" * count + b"a" * (PAGE_BYTES - count) for page, count in zip(pages, new_bytes, strict=True))
    assert {0, PAGE_BYTES} < set(new_bytes)
    assert not any(count % 512 for count in new_bytes)


def test_directories_refuse_what_they_must() -> None:
    model = PowerModel()
    directory = model.create(1, "folder", stat.S_IFDIR | 0o700).number
    model.create(directory, "file", FILE)
    for call, code in (
        (lambda: model.unlink(1, "folder", is_directory=True), errno.ENOTEMPTY),
        (lambda: model.unlink(1, "folder", is_directory=False), errno.EISDIR),
        (lambda: model.create(1, "folder", FILE), errno.EEXIST),
        (lambda: model.lookup(directory, "nothing"), errno.ENOENT),
        (lambda: model.inode(99), errno.ESTALE),
    ):
        with pytest.raises(FuseError) as raised:
            call()
        assert raised.value.code == code


def test_time_is_divided_among_the_disks_that_faults_need() -> None:
    plan = plan_rounds(FAULTS, seed=1, seconds=180.0)
    assert [options.disk for options in plan] == [DiskKind.PLAIN, DiskKind.SMALL, DiskKind.POWER]
    assert sum(options.seconds for options in plan) == pytest.approx(180.0)
    for options in plan:
        assert {fault.disk for fault in options.faults} <= {None, options.disk}
    assert [options.seed for options in plan] == [
        options.seed for options in plan_rounds(FAULTS, seed=1, seconds=180.0)
    ]
    assert plan_rounds([], seed=1, seconds=180.0) == []


def test_a_fail_over_ends_with_a_message_that_was_sent_after_the_strike() -> None:
    record = Record()
    place = ("orders", 0)
    for started_s, done_s in ((9.9, 10.1), (10.2, 10.7), (10.3, 10.8)):
        sent = Sent(b"", "a", 0, place, started_s)
        record.confirm(sent, offset=0, now_s=done_s)
    strike = Strike("kill", (1,), 10.0, (place,))
    assert fail_overs(record, [strike]) == {"kill": [pytest.approx(0.7)]}
    assert fail_overs(record, []) == {}
    # What another fault took part in is no measure of this one.
    assert fail_overs(record, [strike, Strike("stop", (2,), 10.5)]) == {}
    assert fail_overs(record, [Strike("kill", (1,), 10.0, (place,), met_whole=False)]) == {}


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (99, 4.0), (25, 1.0)])
def test_a_percentile_is_a_value_that_occurred(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value


def test_a_key_is_found_for_each_partition() -> None:
    assert len({key_of(partition, 5, "sender") for partition in range(5)}) == 5


def test_a_fault_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--faults", "earthquake", "--folder", str(tmp_path / "none")]) == 2
    assert "earthquake" in capsys.readouterr().err


async def test_rot_is_measured_when_it_is_repaired_and_not_at_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "1.segment"
    path.write_bytes(b"rotten")
    rot = Rot(1, path, 0, ord("g"), 0.0)
    # Of these it needs nothing.
    arena = Arena(cast("ChaosCluster", None), cast("Disks", None), {}, random.Random(1), Record(), print, rot=[rot])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_rot, arena)
        await wait_all_tasks_blocked()
        assert arena.rot == [rot]
        path.write_bytes(b"gotten")
        await trio.sleep(1.0)
        assert (arena.rot, len(arena.measures["rot repaired"])) == ([], 1)
        nursery.cancel_scope.cancel()
