"""The command line with the real client, against a fake broker on a loopback socket."""

from __future__ import annotations

import threading
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker.wire.requests import AnyRequest, Produce, Produced
from tests.fake_broker import Answer, FakeCluster, FakeNode, serve_node
from tests.unit.cli.kit import run

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nothing here waits for it unless something is wrong.
DEADLINE_S = 20.0


@pytest.fixture
def broker() -> Iterator[FakeCluster]:
    """A broker of one node, served by a thread of its own: the command line runs trio in this one."""
    cluster = FakeCluster(token="secret")
    cluster.add_queue("orders")
    started: Queue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = Queue()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_node, cluster.nodes[1]))
            started.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    token, scope = started.get(timeout=DEADLINE_S)
    try:
        yield cluster
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(DEADLINE_S)


@pytest.fixture
def env(broker: FakeCluster) -> dict[str, str]:
    return {"LOGBROKER_URL": broker.nodes[1].url, "LOGBROKER_TOKEN": "secret"}


def test_what_is_produced_is_consumed_once(env: dict[str, str]) -> None:
    sent = run("produce", "orders", "-o", "ndjson", stdin=b"one\ntwo\nthree\n", env=env)
    assert [row["id"] for row in sent.lines()] == ["orders/0/0", "orders/0/1", "orders/0/2"]
    assert run("consume", "orders", "-n", "3", env=env).out == "one\ntwo\nthree\n"
    again = run("consume", "orders", "--wait", "150ms", env=env)
    assert (again.code, again.out, again.err) == (0, "", "0 messages\n")


def test_who_repeats_an_id_is_told_the_first_and_who_changes_it_is_refused(
    broker: FakeCluster, env: dict[str, str]
) -> None:
    def known(node: FakeNode, request: AnyRequest, body: bytes) -> Answer | None:
        if not isinstance(request, Produce):
            return None
        assert request.dedup
        conflicts = [0] if b"other" in body else []
        duplicates = [] if conflicts else [(0, 3)]
        reply = Produced(
            request.rid,
            base_offset=7,
            count=1,
            append_ms=0,
            duplicate=True,
            duplicates=duplicates,
            conflicts=conflicts,
        )
        return reply, b""

    broker.nodes[1].on_request = known
    sent = run("produce", "orders", "--dedup-id", "p", "one", "-o", "ndjson", env=env)
    assert sent.lines() == [{"id": "orders/0/3", "partition": 0, "offset": 3, "duplicate": True}]
    told = run("produce", "orders", "--dedup-id", "p", "one", env=env)
    assert told.err == "1 messages committed, 1 of them before, the last is orders/0/3\n"
    assert run("produce", "orders", "--dedup-id", "p", "other", env=env).code == 8


def test_a_stream_brings_what_is_produced_once(env: dict[str, str]) -> None:
    run("produce", "orders", stdin=b"one\ntwo\nthree\n", env=env)
    assert run("consume", "orders", "--stream", "-n", "3", env=env).out == "one\ntwo\nthree\n"
    again = run("consume", "orders", "--stream", "--wait", "150ms", env=env)
    assert (again.code, again.out, again.err) == (0, "", "0 messages\n")


def test_a_batch_is_acked_later_by_what_consume_wrote(env: dict[str, str]) -> None:
    run("produce", "orders", "one", "two", env=env)
    taken = run("consume", "orders", "-n", "2", "--no-ack", "-o", "ndjson", env=env)
    acked = run("ack", "orders", "-o", "ndjson", stdin=taken.out.encode(), env=env)
    assert (acked.code, [row["done"] for row in acked.lines()]) == (0, [2])
    assert run("consume", "orders", "--wait", "150ms", env=env).out == ""


def test_a_nacked_message_comes_again_with_its_count(env: dict[str, str]) -> None:
    run("produce", "orders", "one", env=env)
    [first] = run("consume", "orders", "-n", "1", "--no-ack", "-o", "ndjson", env=env).lines()
    assert run("nack", "orders", f"{first['id']}:{first['lease']}", env=env).code == 0
    [second] = run("consume", "orders", "-n", "1", "-o", "ndjson", env=env).lines()
    assert (first["deliveries"], second["deliveries"], second["value"]) == (1, 2, "one")
    stale = run("ack", "orders", f"{first['id']}:{first['lease']}", env=env)
    assert stale.code in (0, 8), "acked already, or not this lease's any more"


def test_messages_are_copied_from_queue_to_queue_with_keys_and_headers(
    env: dict[str, str], broker: FakeCluster
) -> None:
    assert run("queue", "create", "copy", env=env).code == 0
    run("produce", "orders", "--key", "k", "--header", "a=1", "one", env=env)
    taken = run("consume", "orders", "-n", "1", "-o", "ndjson", env=env)
    assert run("produce", "copy", "-i", "ndjson", stdin=taken.out.encode(), env=env).code == 0
    [copied] = run("consume", "copy", "-n", "1", "-o", "ndjson", env=env).lines()
    assert (copied["id"], copied["key"], copied["value"], copied["headers"]) == ("copy/0/0", "k", "one", {"a": "1"})


def test_a_rewind_reaches_the_cluster_as_it_was_typed(env: dict[str, str], broker: FakeCluster) -> None:
    ran = run("rewind", "orders", "--to", "-90m", "--yes", "-o", "json", env=env)
    assert (ran.code, ran.json()["partitions"][0]["requested"]) == (0, "RelativeTarget(ms=5400000, count=0)")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("ack", "none", "none/0/0:5"), 5, "there is no queue none"),
        (("ack", "orders", "orders/7/0:5"), 5, "queue orders has 1 partitions, 7 is not one of them"),
        (("produce", "none", "x"), 5, "there is no queue none"),
        (("queue", "describe", "none"), 5, "does not exist"),
        (("queue", "create", "orders"), 8, "queue orders exists"),
        (("queue", "list", "--token", "wrong"), 4, ""),
        (("queue", "list", "--url", "ws://127.0.0.1:1", "--timeout", "300ms"), 3, "127.0.0.1:1"),
    ],
)
def test_each_failure_has_its_exit_code(env: dict[str, str], args: tuple[str, ...], code: int, said: str) -> None:
    ran = run(*args, env=env)
    assert ran.code == code, ran.err
    assert said in ran.err
