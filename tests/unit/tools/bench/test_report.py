"""Tables, ratios and goals, from rows made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.bench.measure import Row
from tools.bench.own import OwnWork, Setting
from tools.bench.report import plain, ratios, render_own, render_work, spread, table
from tools.bench.works import WORKS, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

THROUGHPUT = Work(name="w", title="some work", shape="produce", goals={"rabbitmq": 10.0})
LATENCY = Work(name="l", title="one at a time", shape="produce", window=1, goals={"rabbitmq": 1.0})


def _row(system: str, number: int, per_second: float, *, p50_ms: float = 1.0, p99_ms: float = 2.0) -> Row:
    return Row(work="w", system=system, round=number, per_second=per_second, p50_ms=p50_ms, p99_ms=p99_ms)


def _cells(text: str, system: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {system} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_pair_the_runs_of_one_round() -> None:
    ours = [_row("logbroker", 1, 100), _row("logbroker", 2, 300)]
    theirs = [_row("rabbitmq", 2, 30), _row("rabbitmq", 1, 20)]
    assert ratios(ours, theirs, lambda row: row.per_second) == [5.0, 10.0]


def test_a_round_that_one_system_lacks_gives_no_ratio() -> None:
    found = ratios([_row("logbroker", 1, 1), _row("logbroker", 2, 1)], [_row("p", 2, 2)], lambda row: row.per_second)
    assert found == [0.5]


def test_a_goal_of_throughput_is_met_from_above() -> None:
    text = render_work(THROUGHPUT, [_row("logbroker", 1, 100), _row("rabbitmq", 1, 10)])
    assert _cells(text, "rabbitmq")[-2:] == ["10.0 x", ">= 10.0 x: met"]
    text = render_work(THROUGHPUT, [_row("logbroker", 1, 90), _row("rabbitmq", 1, 10)])
    assert _cells(text, "rabbitmq")[-1] == ">= 10.0 x: missed by 10%"


def test_a_goal_of_latency_is_met_from_below_and_by_both_percentiles() -> None:
    rows = [_row("logbroker", 1, 1, p50_ms=0.5, p99_ms=3.0), _row("rabbitmq", 1, 1)]
    cells = _cells(render_work(LATENCY, rows), "rabbitmq")
    assert cells[-2:] == ["p50 0.500 x, p99 1.50 x", "<= 1.00 x: missed by 50%"]


def test_without_peers_there_are_no_ratios() -> None:
    text = render_work(THROUGHPUT, [_row("logbroker", 1, 100), _row("logbroker", 2, 300)])
    assert "goal" not in text
    assert _cells(text, "logbroker")[1:3] == ["2", "200 (100-300)"]


def test_figures_keep_three_digits() -> None:
    assert [plain(value) for value in (0, 0.1234, 1.234, 12.34, 123.4, 12345.6)] == [
        "0",
        "0.123",
        "1.23",
        "12.3",
        "123",
        "12,346",
    ]
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert spread([2.0, 2.0]) == "2.00"


def test_a_work_of_our_own_has_a_line_for_each_value_of_its_key() -> None:
    def nothing(setting: Setting) -> Iterator[Row]:
        raise AssertionError(setting)

    rows = [
        Row(work="o", system="logbroker", round=number, per_second=speed, extra={"size": size, "memory": size * 2})
        for number, size, speed in ((1, 10.0, 5.0), (1, 20.0, 6.0), (2, 10.0, 7.0))
    ]
    text = render_own(OwnWork(name="o", title="own", key="size", run=nothing, goal="small"), rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["size", "runs", "memory", "messages/s"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["10", "2", "20.0", "6.00 (5.00-7.00)"]
    assert len(lines) == 4


def test_every_line_of_a_table_is_equally_long() -> None:
    lines = table(["a", "long head"], [["1", "2"], ["a long cell", ""]]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_works_have_names_of_their_own() -> None:
    assert len({work.name for work in WORKS}) == len(WORKS)
