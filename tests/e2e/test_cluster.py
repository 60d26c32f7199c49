"""Three real processes: what the cluster promises while nodes die, and what it takes more than one node to do."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker_client import NotFoundError, StaleLeaseError, connect
from tests.e2e.processes import ClusterProcesses, cluster

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.wire.requests import QueueDescription
    from logbroker_client import Client, MessageId

pytestmark = pytest.mark.timeout(180)

FAIL_OVER_S = 2.0


async def drain(client: Client, queue: str, count: int) -> Counter[bytes]:
    """Receive and ack until so many different messages came; gives how often each did."""
    seen: Counter[bytes] = Counter()
    with trio.fail_after(40):
        async with client.consumer(queue) as consumer:
            async for message in consumer:
                seen[message.value or b""] += 1
                await message.ack()
                if len(seen) >= count:
                    return seen
    raise AssertionError("the consumer ended")


async def spread(client: Client, queue: str, *, leaders: int) -> QueueDescription:
    """Wait until the queue's partitions are led by so many different nodes."""
    with trio.fail_after(40):
        while True:
            found = await client.describe_queue(queue)
            if len({row.leader for row in found.partitions if not row.problem}) >= leaders:
                return found
            await trio.sleep(0.2)


@pytest.mark.slow
async def test_a_killed_leader_costs_no_confirmed_message_and_less_than_two_seconds(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders")
        leader = (await spread(client, "orders", leaders=1)).partitions[0].leader
        confirmed: dict[bytes, MessageId] = {}
        times: list[float] = []
        async with client.producer("orders") as producer:

            async def produce(count: int) -> None:
                for _ in range(count):
                    value = f"order {len(confirmed)}".encode()
                    confirmed[value] = await producer.send(value)
                    times.append(trio.current_time())

            with trio.fail_after(60):
                await produce(300)
                nodes.nodes[leader].kill()
                killed = trio.current_time()
                await produce(300)
        await nodes.nodes[leader].wait()
        stall = max(later - earlier for earlier, later in pairwise(times))
        assert stall < FAIL_OVER_S, f"{stall:.2f} s without a confirmed message, killed at {killed}"
        assert len(set(confirmed.values())) == len(confirmed)
        seen = await drain(client, "orders", len(confirmed))
        assert set(seen) == set(confirmed)
        # Nothing was doubled: every message is in the log once.
        assert (await client.describe_queue("orders")).partitions[0].log_end == len(confirmed)
        # The dead node comes back and catches up.
        await nodes.nodes[leader].start()
        with trio.fail_after(30):
            # The page is all there is to ask; nothing comes from it by itself.
            while (await ready(nodes, leader))[0] != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)


@pytest.mark.slow
async def test_a_stream_goes_on_at_the_next_leader_after_a_kill_and_ends_with_its_queue(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders", hide=5.0)
        leader = (await spread(client, "orders", leaders=1)).partitions[0].leader
        seen: Counter[bytes] = Counter()

        async def consume(count: int) -> None:
            async for message in consumer:
                seen[message.value or b""] += 1
                with suppress(StaleLeaseError):
                    await message.ack()
                if len(seen) == count:
                    return

        with trio.fail_after(60):
            async with client.producer("orders") as producer, client.subscribe("orders", credit=20) as consumer:
                await producer.send_many([b"%d" % number for number in range(100)])
                await consume(50)
                nodes.nodes[leader].kill()
                await producer.send_many([b"%d" % number for number in range(100, 200)])
                await consume(200)
                assert set(seen) == {b"%d" % number for number in range(200)}
                await client.delete_queue("orders")
                with pytest.raises(NotFoundError):
                    await consumer.receive()


async def ready(nodes: ClusterProcesses, node: int) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{nodes.nodes[node].admin_port}/readyz", timeout=5) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await trio.to_thread.run_sync(get)


async def status(nodes: ClusterProcesses, node: int) -> dict[str, object]:
    def get() -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{nodes.nodes[node].admin_port}/status", timeout=5) as page:
            found: dict[str, object] = json.load(page)
            return found

    return await trio.to_thread.run_sync(get)


@pytest.mark.slow
async def test_rewinds_groups_and_counts_reach_partitions_on_every_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders", partitions=6)
        found = await spread(client, "orders", leaders=2)
        assert [row.problem for row in found.partitions] == [""] * 6
        async with client.producer("orders") as producer:
            # With keys, or one batch would go to one partition.
            with trio.fail_after(30):
                for number in range(60):
                    await producer.send(f"order {number}".encode(), key=str(number).encode())
        await client.create_group("orders", "billing", start="earliest")
        found = await client.describe_queue("orders")
        assert sum(row.log_end for row in found.partitions) == 60
        assert all([group.name for group in row.groups] == ["billing", "default"] for row in found.partitions)
        await drain(client, "orders", 60)
        rewound = await client.rewind("orders", to=timedelta(minutes=5))
        assert not rewound.pending
        assert sorted(row.partition for row in rewound.partitions) == list(range(6))
        assert sum(row.moved_count for row in rewound.partitions) == 60
        assert set((await drain(client, "orders", 60)).values()) == {1}
        await client.delete_group("orders", "billing")
        reply = await client.status()
        assert sorted(node.state for node in reply.nodes) == ["up", "up", "up"]
        pages = [await status(nodes, node) for node in (1, 2, 3)]
        assert len({json.dumps(page["cluster"]) for page in pages}) == 1


@pytest.mark.slow
async def test_a_cluster_is_founded_without_a_node_on_an_operators_word_and_takes_it_in_later(tmp_path: Path) -> None:
    async with cluster(tmp_path, without=3) as nodes:
        code, reasons = await ready(nodes, 1)
        assert code == 503
        assert "node 3" in reasons
        await trio.run_process(
            [
                *(sys.executable, "-m", "logbroker", "bootstrap", "--without", "3", "--yes"),
                *("--admin-url", f"http://127.0.0.1:{nodes.nodes[1].admin_port}"),
            ],
            capture_stdout=True,
            capture_stderr=True,
        )
        async with connect(nodes.urls[:2]) as client:
            await client.create_queue("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"before node 3")
            await nodes.nodes[3].start()
            with trio.fail_after(40):
                while True:
                    found = await client.describe_queue("orders")
                    if sorted(row.node for row in found.partitions[0].replicas if row.role != "learner") == [1, 2, 3]:
                        break
                    await trio.sleep(0.2)


@pytest.mark.slow
async def test_a_rewind_is_carried_through_although_leaders_die_while_it_is_asked_for(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders", partitions=6)
        found = await spread(client, "orders", leaders=2)
        async with client.producer("orders") as producer:
            with trio.fail_after(30):
                for number in range(60):
                    await producer.send(f"order {number}".encode(), key=str(number).encode())
        await drain(client, "orders", 60)
        victim = found.partitions[0].leader
        async with trio.open_nursery() as nursery:

            async def rewind() -> None:
                with trio.fail_after(30):
                    rewound = await client.rewind("orders", to="earliest")
                # It may be pending: then it is carried out all the same, as what is received shows.
                assert len(rewound.partitions) == 6 or rewound.pending

            nursery.start_soon(rewind)
            await trio.sleep(0.01)
            nodes.nodes[victim].kill()
        await nodes.nodes[victim].wait()
        assert set((await drain(client, "orders", 60)).values()) == {1}


@pytest.mark.slow
async def test_a_node_that_is_asked_to_stop_hands_over_and_ends_with_zero(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes, connect(nodes.urls) as client:
        await client.create_queue("orders", partitions=3)
        await spread(client, "orders", leaders=1)
        sent = 0
        async with client.producer("orders") as producer:

            async def produce(seconds: float) -> None:
                nonlocal sent
                until = trio.current_time() + seconds
                while trio.current_time() < until:
                    await producer.send(f"order {sent}".encode())
                    sent += 1

            with trio.fail_after(60):
                await produce(0.5)
                nodes.nodes[2].terminate()
                await produce(2.0)
                assert await nodes.nodes[2].wait() == 0, nodes.nodes[2].read_log()
                await produce(0.5)
        assert set(await drain(client, "orders", sent)) == {f"order {number}".encode() for number in range(sent)}
        assert "Traceback" not in nodes.nodes[2].read_log()
