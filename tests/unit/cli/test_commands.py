"""What the commands ask of the client, and how they show the answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import AlreadyExistsError, CorruptBatchError, NotFoundError, UnknownOutcomeError
from logbroker.record.batch import Record
from logbroker.wire.requests import Ack, Nack, Reject, Settled, SettleResult
from logbroker_client import MessageId, PeekedMessage
from tests.unit.cli.kit import FakeMessage, run

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.wire.requests import AnyRequest
    from tests.unit.cli.kit import FakeCluster


def test_a_queue_is_created_with_its_settings(cluster: FakeCluster) -> None:
    ran = run(
        "queue",
        "create",
        "orders",
        "--partitions",
        "4",
        "--retention",
        "15d",
        "--hide",
        "2m",
        "--max-wait",
        "5s",
        "--max-deliveries",
        "5",
    )
    assert (ran.code, ran.out, ran.err) == (0, "", "queue orders created\n")
    assert cluster.asked == [
        (
            "create_queue",
            "orders",
            {"partitions": 4, "retention": timedelta(days=15), "hide": 120.0, "max_wait": 5.0, "max_deliveries": 5},
        )
    ]


def test_options_of_a_queue_are_told_in_the_units_of_the_client(cluster: FakeCluster) -> None:
    assert run("queue", "create", "orders", "--backoff", "1m", "--jitter", "0.5").code == 0
    assert run("queue", "alter", "orders", "--max-backoff", "2h", "--backoff-factor", "3").code == 0
    (_, _, created), (_, _, altered) = cluster.asked
    assert {name: value for name, value in created.items() if name in ("backoff", "jitter", "max_backoff")} == {
        "backoff": 60.0,
        "jitter": 0.5,
    }
    assert {name: value for name, value in altered.items() if value is not None} == {
        "max_backoff": 7200.0,
        "backoff_factor": 3,
    }
    assert run("queue", "create", "orders", "--backoff-factor", "11").code == 2
    assert run("queue", "alter", "orders", "--max-age", "90s").code == 0
    assert cluster.asked[-1][2]["max_age"] == 90.0
    assert run("queue", "alter", "orders", "--max-messages", "5", "--max-bytes", "0", "--full", "drop_oldest").code == 0
    given = {name: value for name, value in cluster.asked[-1][2].items() if value is not None}
    assert given == {"max_messages": 5, "max_bytes": 0, "full": "drop_oldest"}
    assert run("queue", "create", "orders", "--full", "sometimes").code == 2
    assert run("queue", "alter", "orders", "--rewind-window", "1h").code == 0
    assert cluster.asked[-1][2]["rewind_window"] == 3600.0
    cluster.asked.clear()
    assert run("queue", "alter", "orders", "--dedup-window", "10m", "--dedup-count", "5").code == 0
    [(_, _, altered)] = cluster.asked
    assert (altered["dedup_window"], altered["dedup_count"]) == (600.0, 5)


def test_a_breaker_is_told_in_the_units_of_the_client(cluster: FakeCluster) -> None:
    options = ("--breaker", "0.5", "--breaker-count", "50", "--breaker-window", "1m", "--breaker-pause", "5m")
    assert run("queue", "create", "orders", *options).code == 0
    (_, _, created) = cluster.asked[0]
    assert {name: value for name, value in created.items() if name.startswith("breaker")} == {
        "breaker": 0.5,
        "breaker_count": 50,
        "breaker_window": 60.0,
        "breaker_pause": 300.0,
    }
    for wrong in (("--breaker", "50%"), ("--breaker", "1.1"), ("--breaker-count", "0"), ("--breaker-window", "long")):
        assert run("queue", "create", "orders", *wrong).code == 2


def test_the_order_of_a_queue_is_told_in_words(cluster: FakeCluster) -> None:
    assert run("queue", "create", "orders", "--window", "1", "--order", "key", "--on-failure", "skip").code == 0
    ((_, _, created),) = cluster.asked
    assert {name: created.get(name) for name in ("window", "order", "on_failure")} == {
        "window": 1,
        "order": "key",
        "on_failure": "skip",
    }
    assert run("queue", "create", "orders", "--order", "strict").code == 2
    assert run("queue", "alter", "orders", "--window", "10001").code == 2


def test_a_queue_that_exists_is_a_conflict_unless_that_is_fine(cluster: FakeCluster) -> None:
    cluster.fails = AlreadyExistsError("queue orders exists")
    assert run("queue", "create", "orders").code == 8
    ran = run("queue", "create", "orders", "--if-missing", "-o", "ndjson")
    assert (ran.code, ran.lines()) == (0, [{"name": "orders"}])


def test_queues_are_listed_as_a_table_or_as_json(cluster: FakeCluster) -> None:
    assert run("queue", "list").out.splitlines() == [
        "name    partitions  retention  hide  max_wait",
        "orders           1  4d         30s   30s",
    ]
    assert run("queue", "list", "-o", "json").json()[0]["retention_ms"] == 345_600_000
    assert run("queue", "list", "-o", "ndjson").lines()[0]["name"] == "orders"


def test_a_description_has_partitions_groups_and_problems(cluster: FakeCluster) -> None:
    ran = run("queue", "describe", "orders")
    assert "default          0          7       2" in ran.out
    assert "2027-01-15T08:00:00.000Z" in ran.out
    assert ran.err == "warning: partition 0: a replica is being filled\n"
    found = run("queue", "describe", "orders", "-o", "json").json()
    assert found["partition_list"][0]["replicas"] == ["1:leader"]
    assert found["groups"][0]["leased"] == 2


def test_an_alteration_sends_what_was_given(cluster: FakeCluster) -> None:
    assert run("queue", "alter", "orders", "--partitions", "8").code == 0
    assert run("queue", "alter", "orders", "--retention", "1h", "--yes", "-q").err == ""
    assert run("queue", "alter", "orders", "--max-deliveries", "5").code == 0
    empty = {"partitions": None, "retention": None, "hide": None, "max_wait": None, "max_deliveries": None}
    assert [options for _, _, options in cluster.asked] == [
        empty | {"partitions": 8},
        empty | {"retention": timedelta(hours=1)},
        empty | {"max_deliveries": 5},
    ]
    assert run("queue", "alter", "orders").code == 2
    assert run("queue", "alter", "orders", "--retention", "1h").code == 2, "it would have asked"


def test_a_queue_and_a_group_are_deleted_once_that_is_confirmed(cluster: FakeCluster) -> None:
    assert run("queue", "delete", "orders", "--yes").code == 0
    assert run("group", "delete", "orders", "billing", "-y").code == 0
    assert [call[:-1] for call in cluster.asked] == [("delete_queue", "orders"), ("delete_group", "orders", "billing")]


def test_a_group_starts_where_it_is_told(cluster: FakeCluster) -> None:
    run("group", "create", "orders", "billing", "--start", "-1h")
    assert cluster.asked == [("create_group", "orders", "billing", {"start": timedelta(hours=1)})]


def test_groups_are_listed_with_their_lag_in_messages_and_time(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logbroker.cli.groups.time.time_ns", lambda: 1_800_000_100_000 * 1_000_000)
    listed = run("group", "list", "orders")
    head, row = [line.split() for line in listed.out.splitlines()]
    assert head == ["group", "lag", "lag_s", "oldest_age_s", "available", "leased", "delayed", "dead", "paused"]
    paused = "until 2027-01-15T08:02:40.000Z: the ledger is down"
    assert row == ["billing", "10", "90.5", "100.0", "7", "2", "1", "3", *paused.split()]
    assert listed.err == "warning: partition 1: no answer within 2 s\n"
    assert cluster.asked == [("describe_groups", "orders", {})]
    [found] = run("group", "list", "orders", "-o", "json").json()
    assert (found["group"], found["lag_s"], found["oldest"]) == ("billing", 90.5, "2027-01-15T08:00:00.000Z")
    assert (found["is_paused"], found["paused"], found["paused_until_ms"]) == (True, paused, 1_800_000_160_000)


def test_a_group_is_described_as_a_whole_and_by_partition(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logbroker.cli.groups.time.time_ns", lambda: 1_800_000_100_000 * 1_000_000)
    found = run("group", "describe", "orders", "billing", "-o", "json").json()
    assert cluster.asked == [("describe_group", "orders", "billing", {})]
    assert (found["group"], found["lag"], found["oldest_age_s"], found["dead"]) == ("billing", 10, 100.0, 3)
    first, second = found["partitions"]
    assert (first["lag"], first["oldest_offset"], first["problem"]) == (10, 4, None)
    assert (first["paused_reason"], second["is_paused"], second["paused"]) == ("the ledger is down", False, None)
    assert (second["lag"], second["oldest_age_s"], second["problem"]) == (0, 0.0, "no answer within 2 s")
    table = run("group", "describe", "orders", "billing")
    assert "lag           10\n" in table.out
    assert table.err == "warning: partition 1: no answer within 2 s\n"


def test_a_group_is_paused_for_a_while_or_until_it_is_resumed(cluster: FakeCluster) -> None:
    ran = run("group", "pause", "orders", "billing", "--for", "10m", "--reason", "the ledger is down")
    assert (ran.code, ran.err) == (0, "group billing of queue orders paused\n")
    run("group", "pause", "orders")
    assert run("group", "resume", "orders", "billing").err == "group billing of queue orders resumed\n"
    assert cluster.asked == [
        ("pause_group", "orders", "billing", {"reason": "the ledger is down", "duration": timedelta(minutes=10)}),
        ("pause_group", "orders", "default", {"reason": "", "duration": None}),
        ("resume_group", "orders", "billing", {}),
    ]


def test_a_group_is_purged_once_that_is_confirmed(cluster: FakeCluster) -> None:
    refused = run("group", "purge", "orders", "billing")
    assert (refused.code, "dead ones too, undelivered? Give --yes" in refused.err) == (2, True)
    assert cluster.asked == []
    ran = run("group", "purge", "orders", "billing", "--yes", "-o", "json")
    assert ran.json() == {"queue": "orders", "group": "billing", "purged": 12, "revoked": 2, "dead": 3}
    assert ran.err == "group billing of queue orders: 12 messages settled\n"
    assert cluster.asked == [("purge", "orders", {"group": "billing"})]


def peeked(offset: int, content: Record | CorruptBatchError) -> PeekedMessage:
    return PeekedMessage(MessageId("orders", 0, offset), "leased", 2, 1_800_000_000_000, 1_800_000_030_000, content)


def test_messages_are_looked_at_with_their_state(cluster: FakeCluster) -> None:
    cluster.peeked = [peeked(3, Record(b"one\x1b[2J", b"k")), peeked(4, Record(b"x" * 100))]
    ran = run("peek", "orders", "-n", "2", "-g", "audit", "--from", "offset:3")
    options = {"group": "audit", "start": 3, "max_count": 2, "max_bytes": 1 << 20}
    assert (ran.code, cluster.asked) == (0, [("peek", "orders", options)])
    head, first, second = ran.out.splitlines()
    assert head.split() == ["id", "state", "deliveries", "append_time", "value"]
    assert first.split() == ["orders/0/3", "leased", "2", "2027-01-15T08:00:00.000Z", "one\\x1b[2J"]
    assert second.endswith("x" * 60 + "...")
    rows = run("peek", "orders", "-o", "json").json()
    assert cluster.asked[1][2]["start"] is None
    assert (rows[0]["value"], rows[0]["key"], rows[0]["state"]) == ("one\x1b[2J", "k", "leased")
    assert "lease" not in rows[0]


def test_a_message_that_cannot_be_read_is_shown_with_its_problem(cluster: FakeCluster) -> None:
    cluster.peeked = [peeked(3, CorruptBatchError("the log has lost it"))]
    ran = run("peek", "orders", "-o", "json")
    assert (ran.code, ran.json()[0]["problem"]) == (9, "the log has lost it")
    assert ran.err == "warning: 1 of 1 messages cannot be read: the log has lost it\n"


def test_a_group_that_is_not_there_is_said_to_be_missing(cluster: FakeCluster) -> None:
    cluster.fails = NotFoundError("queue orders has no consumer group billing")
    ran = run("group", "describe", "orders", "billing")
    assert (ran.out, "no consumer group billing" in ran.err) == ("", True)
    assert ran.code != 0


def test_values_of_the_command_line_are_a_message_each(cluster: FakeCluster) -> None:
    ran = run("produce", "orders", "--key", "k", "--header", "a=1", "--header", "b=x=y", "one", "two")
    assert (ran.code, ran.out, ran.err) == (0, "", "2 messages committed, the last is orders/0/1\n")
    assert [(m.value, m.key, m.headers) for m in cluster.sent] == [
        (b"one", b"k", (("a", b"1"), ("b", b"x=y"))),
        (b"two", b"k", (("a", b"1"), ("b", b"x=y"))),
    ]


def test_one_message_may_have_an_id(cluster: FakeCluster) -> None:
    assert run("produce", "orders", "--dedup-id", "payment-7", "one").code == 0
    assert [message.dedup_id for message in cluster.sent] == ["payment-7"]
    for wrong in (["one", "two"], []):
        ran = run("produce", "orders", "--dedup-id", "payment-7", *wrong)
        assert (ran.code, "--dedup-id is for one VALUE" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("stdin", "values"),
    [
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"one\r\n\n\xff\n", [b"one", b"", b"\xff"]),
        (b"", []),
    ],
)
def test_lines_of_stdin_are_a_message_each(cluster: FakeCluster, stdin: bytes, values: list[bytes]) -> None:
    assert run("produce", "orders", stdin=stdin).code == 0
    assert [message.value for message in cluster.sent] == values


def test_ndjson_brings_keys_and_headers_of_its_own(cluster: FakeCluster) -> None:
    stdin = b'{"value": "x", "key": "k", "headers": {"a": null}}\n{"value": {"n": 1}}\n'
    ran = run("produce", "orders", "-i", "ndjson", "-o", "ndjson", stdin=stdin)
    assert [(m.value, m.key, m.headers) for m in cluster.sent] == [(b"x", b"k", (("a", None),)), (b'{"n":1}', None, ())]
    assert [row["id"] for row in ran.lines()] == ["orders/0/0", "orders/0/1"]
    assert run("produce", "orders", "-i", "ndjson", "--key", "k").code == 2


def test_ids_come_as_one_array_where_json_was_asked_for(cluster: FakeCluster) -> None:
    assert run("produce", "orders", "-o", "json", "a", "b").json()[1]["offset"] == 1
    assert run("produce", "orders", "-o", "json", stdin=b"").json() == []


def test_a_line_that_is_no_message_is_named_by_its_number(cluster: FakeCluster) -> None:
    ran = run("produce", "orders", "-i", "ndjson", stdin=b'{"value": 1}\nnonsense\n')
    assert ran.code == 2
    assert "message 2: not JSON" in ran.err
    assert cluster.sent == []


def test_an_error_in_the_middle_says_how_many_are_committed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logbroker.cli.produce.READ_BYTES", 4)
    cluster.fails, cluster.max_sends = UnknownOutcomeError("no answer in time"), 2
    ran = run("produce", "orders", stdin=b"a\nb\nc\nd\n")
    assert ran.code == 7
    assert "no answer in time; 2 messages before that are committed" in ran.err


def test_messages_may_be_for_later(cluster: FakeCluster) -> None:
    assert run("produce", "orders", "--delay", "1h30m", "one").code == 0
    assert run("produce", "orders", "--at", "2027-01-02T03:04:05.500Z", "two").code == 0
    later = datetime(2027, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)
    assert cluster.delays == [{"delay": 5_400.0, "deliver_at": None}, {"delay": 0.0, "deliver_at": later}]
    assert run("produce", "orders", "--delay", "1s", "--at", "now", "three").code == 2
    assert run("produce", "orders", "--at", "soon", "three").code == 2


def test_what_it_was_too_late_to_cancel_is_said(cluster: FakeCluster) -> None:
    ran = run("cancel", "orders", "orders/0/3", "orders/0/4", "orders/1/3")
    assert (ran.code, ran.err) == (9, "2 messages cancelled, too late for 1\n")
    chosen = [MessageId("orders", 0, 3), MessageId("orders", 0, 4), MessageId("orders", 1, 3)]
    assert cluster.asked == [("cancel", "orders", chosen, {})]
    assert run("cancel", "orders").code == 2
    assert run("cancel", "orders", "3").code == 2


def test_a_line_has_a_largest_size(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logbroker.cli.produce.MAX_LINE_BYTES", 10)
    ran = run("produce", "orders", stdin=b"x" * 11)
    assert (ran.code, cluster.sent) == (2, [])
    assert "longer than 10 bytes" in ran.err


def test_messages_are_written_and_then_acked(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(0, b"one"), FakeMessage(1, b"\xff")], [FakeMessage(2, None)]]
    ran = run("consume", "orders", "--wait", "10ms", "-g", "audit", "--hide", "5m", "-o", "ndjson")
    assert [row.get("value", row.get("value_base64")) for row in ran.lines()] == ["one", "/w==", None]
    assert (ran.code, cluster.acked, ran.err) == (0, [0, 1, 2], "3 messages\n")
    assert cluster.asked[0] == (
        "consumer",
        "orders",
        {
            "group": "audit",
            "hide": 300.0,
            "max_messages": 1000,
            "prefetch": 1,
            "name": "logbroker-cli",
            "on_close": "keep",
        },
    )


def test_messages_may_be_pushed_by_a_stream(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(0, b"one"), FakeMessage(1, b"two")]]
    ran = run("consume", "orders", "--stream", "-n", "2", "--hide", "5m", "--on-close", "release")
    assert (ran.out, cluster.acked) == ("one\ntwo\n", [0, 1])
    options = {"group": "default", "hide": 300.0, "credit": 2, "name": "logbroker-cli", "on_close": "release"}
    assert cluster.asked[0] == ("subscribe", "orders", options)


def test_values_are_lines_unless_objects_are_asked_for(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(0, b"one"), FakeMessage(1, b"two")]]
    assert run("consume", "orders", "--wait", "10ms").out == "one\ntwo\n"
    cluster.batches = [[FakeMessage(2, b"three")]]
    assert run("consume", "orders", "--wait", "10ms", "-o", "json").json()[0]["value"] == "three"


def test_no_more_is_taken_than_was_asked_for(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(n, b"%d" % n) for n in range(3)]]
    ran = run("consume", "orders", "-n", "2")
    assert (ran.out, cluster.acked, cluster.nacked) == ("0\n1\n", [0, 1], [2])
    assert cluster.asked[0][2]["max_messages"] == 2


def test_without_acks_messages_only_come_with_their_lease(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(0, b"one")]]
    ran = run("consume", "orders", "--no-ack", "-n", "1", "-o", "ndjson")
    assert (ran.lines()[0]["lease"], cluster.acked) == (65_536, [])


def test_a_message_that_cannot_be_read_is_told_of_and_not_acked(cluster: FakeCluster) -> None:
    cluster.batches = [[FakeMessage(0, CorruptBatchError("orders/0/0 cannot be read")), FakeMessage(1, b"x")]]
    ran = run("consume", "orders", "-n", "2")
    assert (ran.code, ran.out, cluster.acked) == (9, "x\n", [1])
    assert ran.err == "warning: orders/0/0 cannot be read\n2 messages, 1 of them cannot be read\n"


def all_done(request: AnyRequest) -> Settled:
    assert isinstance(request, Ack | Nack | Reject)
    return Settled(9, results=[SettleResult(done=sum(end - start for start, end in r)) for _, r in request.items])


def test_what_consume_wrote_can_be_acked_later(cluster: FakeCluster) -> None:
    cluster.settled = all_done
    lines = b"".join(
        b'{"id": "orders/%d/%d", "lease": 65536, "value": "x"}\n' % (partition, offset)
        for partition, offset in [(0, 1), (0, 0), (0, 5), (1, 7), (0, 1)]
    )
    ran = run("ack", "orders", "-o", "ndjson", stdin=lines)
    assert (ran.code, [row["done"] for row in ran.lines()]) == (0, [3, 1])
    first, second = (call for call in cluster.asked if call[0] == "call")
    assert (first[1], first[2].items) == (("orders", 0), [(65_536, [(0, 2), (5, 6)])])
    assert (second[1], second[2].group) == (("orders", 1), "default")


def test_messages_of_the_command_line_are_nacked_with_delay_and_reason(cluster: FakeCluster) -> None:
    cluster.settled = all_done
    assert run("nack", "orders", "--delay", "5m", "--reason", "closed", "-g", "g", "orders/0/12:99").code == 0
    request = cluster.asked[-1][2]
    assert isinstance(request, Nack)
    assert (request.items, request.delay_ms, request.reason, request.group) == (
        [(99, [(12, 13)])],
        300_000,
        "closed",
        "g",
    )


def test_messages_of_the_command_line_are_rejected_with_a_reason(cluster: FakeCluster) -> None:
    cluster.settled = all_done
    assert run("reject", "orders", "--reason", "no account", "orders/0/12:99").code == 0
    request = cluster.asked[-1][2]
    assert isinstance(request, Reject)
    assert (request.items, request.reason, request.group) == ([(99, [(12, 13)])], "no account", "default")


def test_the_dead_are_listed_as_a_table_or_as_json(cluster: FakeCluster) -> None:
    assert run("dead", "list", "orders", "-g", "g", "-n", "5").out.splitlines() == [
        "partition  start  end  deliveries  cause     reason      consumer  buried",
        "        0     12   14           5  rejected  no account  till-3    2027-01-15T08:00:00.000Z",
    ]
    assert cluster.asked == [("dead", "orders", {"group": "g", "max_count": 5})]
    (row,) = run("dead", "list", "orders", "-o", "ndjson").lines()
    assert (row["start"], row["end"], row["buried_at_ms"]) == (12, 14, 1_800_000_000_000)


def test_the_dead_are_revived_by_name_or_all_once_that_is_confirmed(cluster: FakeCluster) -> None:
    assert run("dead", "revive", "orders", "orders/0/12", "--yes").err == "2 messages revived\n"
    assert run("dead", "revive", "orders", "--all", "-y", "-g", "g").code == 0
    assert [options for _, _, options in cluster.asked] == [
        {"group": "default", "messages": [MessageId("orders", 0, 12)]},
        {"group": "g", "messages": None},
    ]
    for wrong in ([], ["--all", "orders/0/12", "-y"], ["orders/0/12"]):
        assert run("dead", "revive", "orders", *wrong).code == 2
    assert len(cluster.asked) == 2


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (SettleResult(done=0, stale=[(0, 1)]), 8),
        (SettleResult(done=1, stale=[(0, 1)]), 9),
        (SettleResult(done=0, rewound=[(0, 1)]), 8),
        (SettleResult(done=0, already=1), 0),
    ],
)
def test_a_stale_lease_is_a_conflict(cluster: FakeCluster, result: SettleResult, code: int) -> None:
    cluster.settled = lambda _: Settled(9, results=[result])
    assert run("ack", "orders", "orders/0/0:5").code == code


def test_ranges_are_sent_in_bounded_requests(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logbroker.cli.consume.RANGES_PER_REQUEST", 2)
    cluster.settled = all_done
    run("ack", "orders", *(f"orders/0/{offset}:5" for offset in (0, 2, 4, 6, 8)))
    sent = [call[2].items for call in cluster.asked if call[0] == "call"]
    assert sent == [[(5, [(0, 1), (2, 3)])], [(5, [(4, 5), (6, 7)])], [(5, [(8, 9)])]]


@pytest.mark.parametrize("text", ["orders/0/1", "orders/0/1:x", "other/0/1:5", "orders:5"])
def test_what_names_no_leased_message_is_refused(cluster: FakeCluster, text: str) -> None:
    assert run("ack", "orders", text).code == 2
    assert cluster.asked == []


@pytest.mark.parametrize(
    "line", [b"x\n", b"{}\n", b'{"id": "orders/0/1"}\n', b"[]\n", b'{"id": "orders/0/1", "lease": null}\n']
)
def test_a_line_without_a_lease_is_refused(cluster: FakeCluster, line: bytes) -> None:
    ran = run("ack", "orders", stdin=line)
    assert ran.code == 2
    assert "line 1 on stdin has no id and lease" in ran.err


def test_a_rewind_says_where_each_partition_starts(cluster: FakeCluster) -> None:
    ran = run("rewind", "orders", "--to", "-1h", "--yes", "--clamp", "-g", "billing")
    assert cluster.asked == [("rewind", "orders", {"to": timedelta(hours=1), "group": "billing", "clamp": True})]
    assert ran.out.splitlines()[1].split() == ["0", "-1h", "3", "2027-01-15T08:00:00.000Z", "4"]
    assert ran.err == "group billing of queue orders: 4 messages moved\n"
    found = run("rewind", "orders", "--to", "-1h", "--yes", "-o", "json").json()
    assert (found["rewind_id"], found["pending"], found["partitions"][0]["start_offset"]) == (5, False, 3)


def test_a_skip_is_another_verb(cluster: FakeCluster) -> None:
    assert run("skip-to", "orders", "--to", "latest", "-y").code == 0
    assert cluster.asked[0][0] == "skip_to"
    assert cluster.asked[0][2]["to"] == "latest"


def test_neither_happens_unasked_or_without_a_target(cluster: FakeCluster) -> None:
    assert run("rewind", "orders", "--to", "-1h").code == 2
    assert run("rewind", "orders", "--yes").code == 2
    assert run("rewind", "orders", "--to", "soon", "--yes").code == 2
    assert cluster.asked == []


def test_the_status_has_nodes_groups_and_problems(cluster: FakeCluster) -> None:
    ran = run("status")
    assert "problem: node 2 is unreachable" in ran.out
    assert "ws://a:4100" in ran.out
    assert run("status", "-o", "json").json()["groups"][0]["term"] == 2


def test_a_token_is_written_alone_so_that_it_can_be_caught(cluster: FakeCluster) -> None:
    ran = run("token", "create", "shop", "--grant", "orders-*:produce, consume", "--grant", "*:all")
    assert (ran.code, ran.out) == (0, "lb1_secret\n")
    assert cluster.asked == [("create_token", "shop", ["orders-*:produce,consume", "*:all"], {})]
    assert run("token", "create", "shop", "--grant", "orders:fly").code == 2
    assert run("token", "list", "-o", "json").json() == [{"name": "shop", "rights": ["orders:produce"]}]
    assert run("token", "delete", "shop", "--yes").code == 0


def test_a_root_token_can_be_made_without_a_cluster() -> None:
    first, second = run("token", "generate").out, run("token", "generate").out
    assert first != second
    assert first.startswith("lb1_")
    assert len(first.strip()) == 47


def test_a_token_may_come_from_a_file(cluster: FakeCluster, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("lb1_abc\n")
    run("status", "--token-file", str(file))
    run("status", env={"LOGBROKER_TOKEN_FILE": str(file)})
    assert [options["token"] for _, options in cluster.connected] == ["lb1_abc", "lb1_abc"]
    file.write_text("two words")
    assert run("status", "--token-file", str(file)).code == 1
    assert run("status", "--token-file", str(tmp_path / "none")).code == 1


def test_a_ca_file_that_is_none_is_refused_by_name(cluster: FakeCluster) -> None:
    ran = run("status", "--ca-file", "none.pem")
    assert ran.code == 1
    assert "none.pem" in ran.err


def letter(offset: int, cause: str, reason: str, consumer: str, *, shop: bytes = b"north") -> PeekedMessage:
    headers = (
        ("shop", shop),
        ("logbroker-origin-id", b"orders/2/%d" % offset),
        ("logbroker-attempts", b"3"),
        ("logbroker-cause", cause.encode()),
        ("logbroker-reason", reason.encode()),
        ("logbroker-consumer", consumer.encode()),
    )
    record = Record(b"v", None, headers)
    return PeekedMessage(MessageId("dead", 0, offset), "available", 0, 1_800_000_000_000, 0, record)


LETTERS = [
    letter(0, "rejected", "no account", "till-1"),
    letter(1, "max_deliveries", "timeout of bank", "till-2"),
    letter(2, "max_deliveries", "timeout of mail", "till-1", shop=b"south"),
    PeekedMessage(MessageId("dead", 0, 3), "available", 0, 1_800_000_000_000, 0, Record(b"never moved")),
]


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ([], 4),
        (["--cause", "max_deliveries"], 2),
        (["--cause", "ttl"], 0),
        (["--reason-contains", "timeout"], 2),
        (["--consumer", "till-1"], 2),
        (["--header", "shop=south"], 1),
        (["--header", "shop=south", "--cause", "rejected"], 0),
    ],
)
def test_a_redrive_takes_what_is_wanted_and_sums_up(cluster: FakeCluster, options: list[str], moved: int) -> None:
    cluster.peeked = LETTERS
    ran = run("dead", "redrive", "dead", *options, "-o", "json")
    assert ran.json() == {"queue": "dead", "dry_run": False, "moved": moved, "skipped": 4 - moved, "left": 0}
    assert ran.err == f"{moved} moved, {4 - moved} skipped, 0 left\n"
    asked = cluster.asked[-1][2]
    assert (asked["rate"], asked["to"], asked["group"]) == (100.0, None, "default")


def test_a_dry_run_counts_and_moves_nothing(cluster: FakeCluster) -> None:
    cluster.peeked = LETTERS
    ran = run("dead", "redrive", "dead", "--to", "orders", "--cause", "rejected", "--dry-run", "-o", "json")
    assert ran.json() == {"queue": "dead", "dry_run": True, "moved": 1, "skipped": 3, "left": 0}
    assert not any(cluster.asked[-1][2]["where"](message) for message in LETTERS)
    assert cluster.asked[-1][2]["to"] == "orders"
    for wrong in (["--header", "shop"], ["--header", "=north"], ["--rate", "0"], ["--cause", "other"]):
        assert run("dead", "redrive", "dead", *wrong).code == 2


def test_messages_that_were_moved_are_shown_with_where_they_came_from(cluster: FakeCluster) -> None:
    cluster.peeked = LETTERS[:1]
    head, row = run("peek", "dead").out.splitlines()
    assert head.split() == ["id", "state", "deliveries", "append_time", "value", "origin", "cause", "reason"]
    assert row.split()[-4:] == ["orders/2/0", "rejected", "no", "account"]
