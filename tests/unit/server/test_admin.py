"""The admin listener on a real socket, with a node behind it that is none."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio
from prometheus_client.parser import text_string_to_metric_families

from logbroker.ids import GroupName, Offset, QueueName
from logbroker.node.catalogue import commands
from logbroker.node.catalogue.rights import CLUSTER, Grant, Rights
from logbroker.node.requests import GroupState, MoveFigures, StateReply, StateRequest
from logbroker.node.tokens import token_digest
from logbroker.server.admin import AdminListener
from tests.unit.server.kit import TOKEN, World
from tests.unit.server.raw import send_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[int]:
    listener = AdminListener(world.service, tls=lambda: None)
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(listener.run, list(sockets)))
        yield sockets[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def call(port: int, target: str, *, method: str = "GET", token: str = "", body: str = "") -> tuple[int, str]:
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    answer = (await send_bytes(port, f"{head}\r\n{body}".encode())).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


def with_tokens(rights: Rights) -> World:
    world = World.make(auth={"tokens": True})
    world.backend.change(
        commands.CreateToken("ops", token_digest(TOKEN), (Grant(CLUSTER, int(rights)),)),
    )
    return world


async def test_a_healthy_node_is_live_and_ready() -> None:
    async with serving(World.make()) as port:
        assert await call(port, "/livez") == (200, "ok\n")
        assert await call(port, "/healthz") == (200, "ok\n")
        assert await call(port, "/readyz") == (200, "ready\n")
        assert await call(port, "/startupz") == (200, "founded\n")
        status, text = await call(port, "/readyz?verbose")
    assert status == 200
    assert text.splitlines() == ["[+]running ok", "[+]catalogue ok", "[+]leaders ok", "[+]accepting ok"]


async def test_a_node_without_a_catalogue_is_live_and_says_why_it_is_not_ready() -> None:
    world = World.make()
    world.backend.has_catalogue = False
    async with serving(world) as port:
        assert (await call(port, "/livez"))[0] == 200
        assert await call(port, "/readyz") == (503, "waits for node 2, which is not connected\n")
        assert (await call(port, "/metrics"))[0] == 200


async def test_a_group_without_a_leader_and_a_node_that_stops_are_not_ready() -> None:
    world = World.make()
    world.backend.leaders[1] = None
    async with serving(world) as port:
        assert await call(port, "/readyz") == (503, "group 1 has no leader\n")
        world.backend.leaders[1] = 2
        assert (await call(port, "/readyz"))[0] == 200
        world.service.is_stopping = True
        status, text = await call(port, "/readyz?verbose")
    assert status == 503
    assert "[-]accepting failed: the node is shutting down" in text


async def test_the_status_names_groups_by_queue_and_partition() -> None:
    async with serving(World.make()) as port:
        status, text = await call(port, "/status")
    page = json.loads(text)
    assert (status, page["ready"], page["cluster"]["nodes"][1]["url"]) == (200, True, "ws://n2:4100")
    assert [(group["queue"], group["partition"]) for group in page["groups"]] == [(None, None), ("orders", 0)]


async def test_metrics_begin_at_zero_and_can_leave_partitions_out() -> None:
    world = World.make()
    state = GroupState(GroupName("default"), 5, 2, 1, 0, Offset(3), 1_000, is_paused=True)
    world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(11), 4_000, (state,))
    async with serving(world) as port:
        _, text = await call(port, "/metrics")
        _, without = await call(port, "/metrics?partitions=off")
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for name in ("messages_in", "messages_expired", "messages_too_old", "full_refusals"):
        assert found[f"logbroker_queue_{name}_total", (("queue", "orders"),)] == 0
    for name in ("retained_bytes", "max_messages", "max_bytes"):
        assert found[f"logbroker_queue_{name}", (("queue", "orders"),)] == 0
    assert found["logbroker_connections_accepted_total", ()] == 0
    for name in ("streams", "streams_without_credit", "stream_deliveries_total"):
        assert found[f"logbroker_{name}", ()] == 0
    assert found["logbroker_partition_latest_offset", (("partition", "0"), ("queue", "orders"))] == 11
    place = (("group", "default"), ("partition", "0"), ("queue", "orders"))
    assert found["logbroker_consumergroup_lag", place] == 8
    assert found["logbroker_consumergroup_lag_seconds", place] == 3
    assert found["logbroker_consumergroup_paused", (("cause", "operator"), *place)] == 1
    assert found["logbroker_consumergroup_paused", (("cause", "breaker"), *place)] == 0
    assert found["logbroker_consumergroup_breaker_trips_total", place] == 0
    assert found["logbroker_queue_messages", (*place, ("state", "leased"))] == 2
    assert "logbroker_raft_term" in text
    assert 'partition="' not in without
    assert "logbroker_queue_bytes_in_total" in without


async def test_metrics_tell_a_breakers_pause_from_an_operators() -> None:
    world = World.make()
    reason = "breaker: 45 of 50 deliveries failed in 10 s"
    state = GroupState(
        GroupName("default"), 5, 0, 0, 0, Offset(3), 1_000, is_paused=True, paused_reason=reason, breaker_trips=3
    )
    world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(8), 4_000, (state,))
    async with serving(world) as port:
        _, text = await call(port, "/metrics")
    place = 'group="default",partition="0",queue="orders"'
    assert f'logbroker_consumergroup_paused{{cause="breaker",{place}}} 1.0' in text
    assert f'logbroker_consumergroup_paused{{cause="operator",{place}}} 0.0' in text
    assert f"logbroker_consumergroup_breaker_trips_total{{{place}}} 3.0" in text


async def test_metrics_say_how_groups_stand_and_what_is_wrong_by_kind() -> None:
    world = World.make()
    state = GroupState(GroupName("default"), 5, 2, 1, 0, Offset(3), 1_000)
    world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(11), 4_000, (state,))
    async with serving(world) as port:
        await call(port, "/metrics")
        world.backend.leaders[1] = 2
        _, text = await call(port, "/metrics")
        world.backend.leaders[1] = None
        _, leaderless = await call(port, "/metrics")
    assert "logbroker_raft_leader_changes_total 1.0" in text
    assert 'logbroker_raft_groups{role="leader"} 1.0' in text
    assert 'logbroker_raft_groups{role="follower"} 1.0' in text
    assert "logbroker_raft_groups_without_leader 0.0" in text
    assert 'logbroker_problems_by_kind{kind="node_missing"} 2.0' in text
    assert 'logbroker_problems_by_kind{kind="no_leader"} 0.0' in text
    assert 'logbroker_queue_retention_seconds{queue="orders"} 345600.0' in text
    assert 'logbroker_request_errors_total{code="no_room"} 0.0' in text
    assert 'logbroker_connections_closed_total{code="4400"} 0.0' in text
    assert "logbroker_raft_groups_without_leader 1.0" in leaderless
    assert 'logbroker_problems_by_kind{kind="no_leader"} 1.0' in leaderless


async def test_the_oldest_message_ages_by_the_clock_on_the_wall() -> None:
    world = World.make()
    now_ms = time.time_ns() // 1_000_000
    waiting = GroupState(GroupName("audit"), 5, 2, 1, 0, Offset(3), now_ms - 60_000)
    done = GroupState(GroupName("default"), 0, 0, 0, 0, Offset(11), 0)
    name = 'logbroker_queue_oldest_message_age_seconds{partition="0",queue="orders"} '
    async with serving(world) as port:
        for groups, least in (((done, waiting), 60.0), ((done,), 0.0)):
            world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(11), now_ms, groups)
            _, text = await call(port, "/metrics")
            age_s = float(text.partition(name)[2].split()[0])
            assert least <= age_s < least + 30


async def test_counts_of_a_queue_go_with_it() -> None:
    world = World.make()
    world.service.measures.queue("orders").produced_messages = 7
    async with serving(world) as port:
        assert 'logbroker_queue_messages_in_total{queue="orders"} 7.0' in (await call(port, "/metrics"))[1]
        world.backend.change(commands.DeleteQueue(QueueName("orders")))
        assert "orders" not in (await call(port, "/metrics"))[1]
    assert world.service.measures.queues == {}


async def test_with_tokens_strangers_see_probes_and_operators_the_rest() -> None:
    world = with_tokens(Rights.ADMIN)
    async with serving(world) as port:
        assert (await call(port, "/readyz"))[0] == 200
        for page in ("/metrics", "/status"):
            assert (await call(port, page))[0] == 401
            assert (await call(port, page, token="x" * 40))[0] == 401
            assert (await call(port, page, token=TOKEN))[0] == 200
        assert (await call(port, "/api/v1/clock/accept", method="POST"))[0] == 401
        assert world.backend.accepted_clocks == 0
        assert (await call(port, "/api/v1/clock/accept", method="POST", token=TOKEN))[0] == 200
        assert world.backend.accepted_clocks == 1


async def test_a_token_that_is_no_operators_is_forbidden_everything_but_probes() -> None:
    async with serving(with_tokens(Rights.PRODUCE | Rights.CONSUME)) as port:
        for page in ("/metrics", "/status"):
            status, text = await call(port, page, token=TOKEN)
            assert (status, json.loads(text)["error"]["code"]) == (403, "forbidden")


async def test_what_is_not_there_names_what_is() -> None:
    async with serving(World.make()) as port:
        status, text = await call(port, "/favicon.ico")
        assert status == 404
        assert "/readyz" in json.loads(text)["error"]["hint"]
        assert (await call(port, "/livez", method="DELETE"))[0] == 404
        assert (await call(port, "/livez", method="HEAD")) == (200, "")


async def test_an_operator_may_go_on_without_nodes_at_the_first_boot() -> None:
    world = World.make()
    world.backend.has_catalogue = False
    async with serving(world) as port:
        path = "/api/v1/bootstrap"
        assert (await call(port, path, method="POST", body='{"without": [3]}'))[0] == 200
        assert world.backend.left_out == [3]
        assert (await call(port, path, method="POST", body='{"without": [1]}'))[0] == 400
        for nonsense in ("", "[3]", '{"without": ["x"]}', '{"without": [0]}', '{"without": [3], "now": true}'):
            status, text = await call(port, path, method="POST", body=nonsense)
            assert (status, json.loads(text)["error"]["hint"]) == (400, '{"without": [3]}')
    assert world.backend.left_out == [3]


async def test_with_tokens_only_the_root_token_founds_a_cluster_that_is_not_there_yet() -> None:
    root = "r" * 40
    world = World.make(auth={"tokens": True}, root=root)
    world.backend.has_catalogue = False
    async with serving(world) as port:
        for token, wanted in (("", 401), ("x" * 40, 503), (root, 200)):
            status, text = await call(port, "/api/v1/bootstrap", method="POST", body='{"without": [3]}', token=token)
            assert status == wanted, text
    assert world.backend.left_out == [3]


async def test_several_requests_come_on_one_connection_and_a_body_has_a_bound() -> None:
    async with serving(World.make()) as port:
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
        answer = await send_bytes(port, request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200") == 2
        head = b"POST /api/v1/clock/accept HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n"
        answer = await send_bytes(port, head + bytes(20_000))
        assert answer.startswith(b"HTTP/1.1 413")


async def test_a_node_that_is_not_reached_is_a_problem_on_every_page() -> None:
    async with serving(World.make()) as port:
        _, page = await call(port, "/status")
        _, text = await call(port, "/metrics")
    absent = [f"node {node} is unreachable: it is not linked" for node in (2, 3)]
    assert json.loads(page)["problems"] == absent
    assert "logbroker_problems 2.0" in text


async def test_metrics_tell_of_moves_where_there_are_any() -> None:
    world = World.make()
    state = GroupState(GroupName("default"), 5, 2, 1, 0, Offset(3), 1_000, moved=6)
    world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(11), 4_000, (state,))
    async with serving(world) as port:
        _, without = await call(port, "/metrics")
    assert "logbroker_moves_waiting{" not in without
    moves = MoveFigures(4, 2_500, 7, 1)
    world.backend.replies[StateRequest] = StateReply(Offset(3), Offset(11), 4_000, (state,), moves)
    async with serving(world) as port:
        _, text = await call(port, "/metrics")
    for line in (
        'logbroker_moved_out_messages_total{partition="0",queue="orders"} 7.0',
        'logbroker_moved_in_messages_total{partition="0",queue="orders"} 1.0',
        'logbroker_moves_waiting{partition="0",queue="orders"} 4.0',
        'logbroker_moves_oldest_waiting_seconds{partition="0",queue="orders"} 2.5',
        'logbroker_queue_messages{group="default",partition="0",queue="orders",state="moved"} 6.0',
    ):
        swapped = line.replace('partition="0",queue="orders"', 'queue="orders",partition="0"')
        assert line in text or swapped in text, line
