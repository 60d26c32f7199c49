"""Taking turns, with a system whose clients are scripts that do nothing."""

from __future__ import annotations

import fcntl
import sys
from typing import TYPE_CHECKING, final
from xml.etree import ElementTree

import msgspec
import pytest

from tools.bench import compare as comparing
from tools.bench.compare import Plan, Turn, compare, running
from tools.bench.drivers.job import Job
from tools.bench.measure import Row, measure
from tools.bench.plot import draw
from tools.bench.systems.system import BenchError, System
from tools.bench.works import Work, count_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CLIENT = """
import sys, msgspec
from tools.bench.drivers.job import Received, Source, Work, read_job
from tools.bench.latency import Latencies
job = read_job(sys.argv)
work, source, latencies = Work(job), Source(job), Latencies()
work.begin()
latencies.add_ns(5_000_000, job.count)
received = Received()
for number in range(job.count + FAULT):
    received.add(source.message(number, 1), 1)
work.end()
if FAULT:
    received.check(work)
work.report(latencies)
"""


@final
class Still(System):
    """Notes what is asked of it."""

    driver = "none"
    sync = "none"

    def __init__(self, name: str, notes: list[str], *, client: str = _CLIENT.replace("FAULT", "0")) -> None:
        self.name = name
        self._notes = notes
        self._client = client

    @classmethod
    def why_absent(cls) -> str:
        return ""

    def version(self) -> str:
        return "1"

    def settings(self) -> Mapping[str, str]:
        return {}

    def start(self) -> None:
        self._notes.append(f"start {self.name}")

    def stop(self) -> None:
        self._notes.append(f"stop {self.name}")

    def pids(self) -> list[int]:
        return []

    def data_folders(self) -> list[Path]:
        return []

    def create_queue(self, name: str, *, spread: int = 0) -> None:
        self._notes.append(f"{self.name} creates {name}")

    def delete_queue(self, name: str) -> None:
        self._notes.append(f"{self.name} deletes {name}")

    def endpoints(self, queue: str) -> list[str]:
        return [f"{self.name}:1"]

    def command(self, job: str) -> list[str]:
        return [sys.executable, "-c", self._client, job]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bench.measure.wait_quiet", lambda: None)


def _job(**changes: object) -> Job:
    return msgspec.structs.replace(Job(role="produce", endpoints=[], queues=["q"], count=500), **changes)


def test_systems_take_turns_on_queues_of_their_own() -> None:
    notes: list[str] = []
    rows: list[Row] = []
    work = Work(name="w", title="w", shape="produce", fixed_count=10)
    systems = [Still("a", notes), Still("b", notes)]
    plan = Plan(rounds=2, seconds=1.0, max_other_share=100)
    found = compare(systems, [work], plan, turn=Turn(None), tell=notes.append, note=rows.append)
    assert [(row.system, row.round) for row in rows] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == rows
    created = [note for note in notes if "creates" in note]
    assert created == [f"{name} creates bench-w-{number}-1-0" for number in (1, 2) for name in ("a", "b")]
    assert len([note for note in notes if "deletes" in note]) == 4


def test_what_was_started_is_stopped_even_when_the_next_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    good, bad = Still("good", notes), Still("bad", notes)

    def fail() -> None:
        raise BenchError("no")

    monkeypatch.setattr(bad, "start", fail)
    with pytest.raises(BenchError), running([good, bad], tell=lambda _text: None, turn=Turn(None)):
        pass
    assert notes == ["start good", "stop bad", "stop good"]


def test_all_clients_of_a_role_count_and_the_span_is_from_the_first_to_the_last() -> None:
    row = measure("w", Still("a", []), 3, [_job(), _job()])
    assert (row.work, row.system, row.round, row.messages) == ("w", "a", 3, 1000)
    assert row.p50_ms == pytest.approx(5, rel=0.01)
    assert row.per_second == pytest.approx(1000 / row.seconds, rel=0.05)


def test_a_client_that_fails_is_shown_with_its_words() -> None:
    failing = Still("a", [], client="raise SystemExit('no such queue')")
    with pytest.raises(BenchError, match="no such queue"):
        measure("w", failing, 1, [_job()])


def test_a_consumer_that_misses_messages_makes_the_run_worthless() -> None:
    notes: list[str] = []
    missing = Still("a", notes, client=_CLIENT.replace("FAULT", "-1"))
    work = Work(name="w", title="w", shape="produce", fixed_count=10)
    with pytest.raises(BenchError, match="9 different messages of 10"):
        compare(
            [missing],
            [work],
            Plan(rounds=1, seconds=1, max_other_share=100),
            turn=Turn(None),
            tell=notes.append,
            note=lambda _row: None,
        )


def test_a_turn_is_kept_for_a_while_and_then_given_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    turn = Turn(path)

    def is_free() -> bool:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    turn.take()
    turn.take()
    assert not is_free()
    turn.give_up()
    assert is_free()
    turn.take()
    given: list[bool] = []
    monkeypatch.setattr(comparing, "_MAX_TURN_S", -1.0)
    give_up = turn.give_up

    def watched() -> None:
        give_up()
        given.append(is_free())

    monkeypatch.setattr(turn, "give_up", watched)
    turn.take()
    assert given == [True]
    assert not is_free()
    turn.close()
    assert is_free()


def test_counts_follow_the_wanted_time() -> None:
    probe = Row(work="w", system="a", round=0, per_second=80_000)
    work = Work(name="w", title="w", shape="produce", producers=4)
    assert count_for(work, probe, 2.0) == 40_000
    assert count_for(Work(name="w", title="w", shape="paced", rate=200.0), None, 3.0) == 600
    assert count_for(Work(name="w", title="w", shape="drain", fixed_count=7), probe, 3.0) == 7


def test_a_plot_is_whole_and_names_every_system() -> None:
    work = Work(name="w", title="a < b", shape="produce")
    rows = [Row(work="w", system=name, round=1, per_second=speed) for name, speed in (("a", 10.0), ("b", 20.0))]
    picture = ElementTree.fromstring(draw([(work, rows)]))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a", "b", "a < b", "10.0", "20.0"} <= set(texts)
