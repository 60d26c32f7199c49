"""What /proc says of processes that are there for sure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tools.bench.machine import Spent, allocated_bytes, cpu_s, describe_machine, others_cpu_s, resident_bytes

if TYPE_CHECKING:
    from pathlib import Path


def test_a_process_that_works_spends_time() -> None:
    before = cpu_s([os.getpid()])
    while cpu_s([os.getpid()]) < before + 0.05:
        sum(range(10_000))


def test_a_process_that_is_gone_spends_nothing() -> None:
    assert cpu_s([2**22 + 1]) == 0.0


def test_our_own_time_is_not_that_of_others() -> None:
    everybody = others_cpu_s([])
    assert others_cpu_s([1]) <= everybody + 1.0
    assert Spent.now().busy_s > 0


def test_this_process_has_memory() -> None:
    assert resident_bytes(os.getpid()) > 1 << 20


def test_allocated_blocks_are_counted_and_holes_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "full").write_bytes(os.urandom(1 << 20))
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.flush()
        os.fsync(file.fileno())
    assert allocated_bytes(tmp_path) < 8 << 20


def test_the_machine_says_what_it_is() -> None:
    assert int(describe_machine()["cores"]) >= 1
