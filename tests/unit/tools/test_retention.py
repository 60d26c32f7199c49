"""What goes by when: figures from facts, with no cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.cli.exits import Exit
from tools.retention_kit.command_line import retention
from tools.retention_kit.facts import File, Group, NodeFiles, Partition
from tools.retention_kit.plan import Count, gone_before, plan
from tools.retention_kit.report import at_once, kept_rows, size, step_rows, values, words

if TYPE_CHECKING:
    from tools.retention_kit.plan import PartitionPlan

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = 1_800_000_000_000

# A thousand messages, one every minute, in files of 400 MB for 400 messages; the last 200 are in none yet.
FILES = (
    File(0, NOW - 1000 * 60_000, 400 << 20),
    File(400, NOW - 600 * 60_000, 400 << 20),
)
PARTITION = Partition(
    "orders",
    0,
    4 * DAY,
    0,
    1_000,
    NOW - 60_000,
    (Group("default", 300, 700, NOW - 300 * 60_000), Group("audit", 0, 1_000, 0)),
    (NodeFiles(1, FILES, (799, NOW - 201 * 60_000)),),
)


def exactly(count: int) -> Count:
    return Count(count, count, count)


def planned(partition: Partition = PARTITION, *, retention_ms: int) -> PartitionPlan:
    return plan(partition, retention_ms=retention_ms, now_ms=NOW, horizons_ms=(HOUR,))


def test_everything_goes_in_the_end_and_nothing_before_its_time() -> None:
    found = planned(retention_ms=4 * DAY)
    at_start, within_an_hour, in_the_end = found.steps
    assert at_start.gone.messages == within_an_hour.gone.messages == exactly(0)
    assert in_the_end.gone.messages == exactly(1_000)
    assert in_the_end.gone.freed_bytes == {1: 800 << 20}
    assert in_the_end.gone.unsettled == {"default": exactly(300), "audit": exactly(0)}
    assert found.next_ms == NOW - 1000 * 60_000 + 4 * DAY
    assert found.next_file_ms == {1: NOW - 600 * 60_000 + 4 * DAY}


def test_a_shorter_retention_takes_what_is_older_and_only_whole_files_free_space() -> None:
    gone = planned(retention_ms=600 * 60_000).steps[0].gone
    # The message that begins the second file is exactly as old as the retention: it has gone.
    assert gone.messages.least <= 401 <= gone.messages.most
    assert gone.freed_bytes == {1: 400 << 20}
    assert gone.freed_files == {1: 1}
    almost = planned(retention_ms=600 * 60_000 + 60_000).steps[0].gone
    assert almost.freed_bytes == {1: 0}
    assert almost.messages.most == 400


def test_between_two_known_times_the_number_is_estimated_and_bounded() -> None:
    gone = planned(retention_ms=800 * 60_000).steps[0].gone
    assert gone.messages == Count(200, 0, 400)
    assert gone.unsettled["default"] == exactly(0)


def test_what_a_group_has_not_settled_is_what_it_loses() -> None:
    gone = planned(retention_ms=250 * 60_000).steps[0].gone
    assert gone.messages.least == 701
    assert gone.messages.most == 799
    assert (
        1 <= gone.unsettled["default"].least <= gone.unsettled["default"].about <= gone.unsettled["default"].most == 99
    )
    assert gone.unsettled["audit"] == exactly(0)
    everything = planned(retention_ms=60_000).steps[0].gone
    assert everything.messages == exactly(1_000)
    assert everything.unsettled["default"] == exactly(300)


def test_messages_acked_ahead_are_no_loss() -> None:
    group = Group("default", 200, 700, NOW - 300 * 60_000, acked_ahead=100)
    gone = gone_before(replace(PARTITION, groups=(group,)), NOW - 201 * 60_000)
    assert gone.messages.most == 799
    assert gone.unsettled["default"].least == 0
    assert gone.unsettled["default"].most == 99


def test_without_files_and_groups_there_are_bounds_and_no_guess() -> None:
    bare = replace(PARTITION, nodes=(), groups=())
    found = planned(bare, retention_ms=HOUR)
    assert found.steps[0].gone.messages == Count(0, 0, 1_000)
    assert (found.oldest_ms, found.next_ms, found.kept_bytes) == (None, None, {})
    assert planned(bare, retention_ms=60_000).steps[0].gone.messages == exactly(1_000)


def test_an_empty_partition_loses_nothing() -> None:
    empty = Partition("orders", 0, DAY, 5, 5, NOW - DAY, (Group("default", 0, 5, 0),))
    assert {step.gone.messages for step in planned(empty, retention_ms=60_000).steps} == {exactly(0)}


def test_log_time_ahead_of_this_machine_decides() -> None:
    ahead = replace(PARTITION, append_ms=NOW + DAY)
    assert planned(ahead, retention_ms=DAY + 600 * 60_000).steps[0].gone.freed_files == {1: 1}


def test_every_node_frees_its_own_files() -> None:
    other = NodeFiles(2, (File(0, NOW - 1000 * 60_000, 10), File(900, NOW - 100 * 60_000, 20)))
    gone = planned(replace(PARTITION, nodes=(*PARTITION.nodes, other)), retention_ms=599 * 60_000).steps[0].gone
    assert gone.freed_bytes == {1: 400 << 20, 2: 0}


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40),
    st.data(),
)
def test_the_truth_is_always_within_the_bounds(gaps: list[int], data: st.DataObject) -> None:
    """Messages at random times, files and groups at random places; what really goes is counted."""
    times = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    start = data.draw(st.integers(0, len(times) - 1))
    firsts = sorted(data.draw(st.sets(st.integers(0, len(times) - 1), max_size=4)) | {0})
    # The first entry of a file may be older than its first message, and is not older than the message before.
    files = tuple(
        File(first, data.draw(st.integers(times[first - 1] if first else 0, times[first])), 10) for first in firsts
    )
    acked = data.draw(st.sets(st.integers(0, len(times) - 1), max_size=len(times)))
    open_offsets = [offset for offset in range(start, len(times)) if offset not in acked]
    oldest = min(open_offsets, default=len(times))
    ahead = len([offset for offset in range(oldest, len(times)) if offset in acked])
    group = Group("g", len(open_offsets), oldest, times[oldest] if open_offsets else 0, ahead)
    append_ms = times[-1] + data.draw(st.integers(0, 20))
    partition = Partition("q", 0, 60_000, start, len(times), append_ms, (group,), (NodeFiles(1, files),))
    cutoff = data.draw(st.integers(0, append_ms + 2))
    gone = gone_before(partition, cutoff)
    truth = len([offset for offset in range(start, len(times)) if times[offset] < cutoff])
    lost = len([offset for offset in open_offsets if times[offset] < cutoff])
    assert gone.messages.least <= truth <= gone.messages.most
    assert gone.messages.least <= gone.messages.about <= gone.messages.most
    assert gone.unsettled["g"].least <= lost <= gone.unsettled["g"].most
    assert gone.unsettled["g"].about <= gone.unsettled["g"].most
    ends = [*firsts[1:], len(times)]
    really = [end for first, end in zip(firsts, ends, strict=True) if times[end - 1] < cutoff]
    # Files are never promised before their last message has gone.
    assert gone.freed_files[1] <= len(really)


# --- words ---


def test_sizes_and_counts_are_for_people() -> None:
    assert [size(0), size(1_023), size(1_536), size(400 << 20), size(3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "400.0 MiB",
        "3.0 TiB",
    ]
    assert words(exactly(5)) == "5"
    assert words(Count(5, 3, 9)) == "about 5 (3 to 9)"


def test_rows_say_what_goes_when_from_where_and_whose_it_is() -> None:
    plans = [planned(retention_ms=600 * 60_000)]
    (kept,) = kept_rows(plans)
    assert (kept["messages"], kept["on_disk"]) == (1_000, "800.0 MiB")
    rows = step_rows(plans, is_change=True)
    assert [row["gone"] for row in rows] == ["at once", "within 1h", "in the end"]
    assert rows[0]["frees"] == "400.0 MiB"
    assert rows[-1]["unsettled"] == "default 300"
    assert [row["gone"] for row in step_rows(plans, is_change=False)] == ["within 1h", "in the end"]
    assert step_rows([planned(replace(PARTITION, nodes=()), retention_ms=DAY)], is_change=False)[0]["frees"] == "?"


def test_json_has_bounds_and_nodes() -> None:
    found = json.loads(json.dumps(values(planned(retention_ms=800 * 60_000))))
    assert found["steps"][0] == {
        "within_ms": 0,
        "messages": {"about": 200, "least": 0, "most": 400},
        "freed_bytes": {"1": 0},
        "freed_files": {"1": 0},
        "unsettled": {"default": {"about": 0, "least": 0, "most": 0}, "audit": {"about": 0, "least": 0, "most": 0}},
    }
    assert found["steps"][-1]["within_ms"] is None


def test_what_goes_at_once_is_summed_over_partitions() -> None:
    plans = [planned(retention_ms=60_000), planned(replace(PARTITION, number=1), retention_ms=60_000)]
    total = at_once(plans)
    assert total is not None
    assert total.messages == exactly(2_000)
    assert total.freed_bytes == {1: 1600 << 20}
    assert total.unsettled["default"] == exactly(600)
    assert at_once([]) is None


# --- the command ---


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--set", "1d"], "--set asks for the names of the queues"),
        (["orders", "--yes"], "--yes carries out --set"),
        (["orders", "--set", "10s"], "a retention has from 1m to 2w1d"),
        (["orders", "--set", "16d"], "a retention has from 1m to 2w1d"),
        (["orders", "--set", "soon"], "is not a duration"),
    ],
)
def test_what_makes_no_plan_is_a_mistake_of_usage(
    args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        retention.main(args, prog_name="tools/retention")
    assert ended.value.code == Exit.USAGE
    assert complaint in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        retention.main(["--help"], prog_name="tools/retention")
    assert ended.value.code == Exit.OK
    text = capsys.readouterr().out
    for words_in_it in ("acked or", "--set", "--yes", "tools/retention orders --set 2d"):
        assert words_in_it in text
