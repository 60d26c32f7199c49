"""What an operation costs, counted: messages, entries, syncs, turns, tasks. Times wobble, these do not.

Three whole nodes and the client in one event loop. A bound here is what was reached, and a little room; one that breaks
says that something is done twice, alone instead of together, or by a task of its own. The figures in microseconds are
in `tools/bench/BUDGET.md`.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from logbroker.config import Settings
from logbroker.node.broker import Broker
from logbroker.node.peer_messages import PeerMessage, RaftMessage, encode_peer_message
from logbroker.raft.messages import MessageKind
from logbroker.server.main import Server
from logbroker.server.service import ClientService
from logbroker_client import connect
from tests.node_kit.nodes import free_ports, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import pytest

    from logbroker_client import Client

KIB = 1024

# Half of it does not get smaller, as in messages that people send.
VALUES = [random.Random(number).randbytes(KIB // 2) + b"x" * (KIB // 2) for number in range(100)]


@final
class Census(trio.abc.Instrument):
    """Counts what tasks do, by the function they run."""

    def __init__(self) -> None:
        self.scheduled: Counter[str] = Counter()
        self.spawned: Counter[str] = Counter()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.scheduled[_name(task)] += 1

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if not any(part in task.name for part in _BACKGROUND):
            self.spawned[_name(task)] += 1


# What goes by timers, whether there is work or not; and the tasks of these tests.
_BACKGROUND = ("rewinds", "cluster_tasks", "test_costs", "<locals>", "<test")


def _name(task: trio.lowlevel.Task) -> str:
    return ".".join(task.name.split(".")[-2:])


@final
class Cluster:
    """Three servers in this loop, and everything they count."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.brokers: list[Broker] = []
        self.services: list[ClientService] = []
        self.peer_messages: Counter[str] = Counter()
        self.peer_bytes = 0
        self.census = Census()

        def new_broker(settings: Settings) -> Broker:
            self.brokers.append(Broker(settings))
            return self.brokers[-1]

        def new_service(*args: object, **options: object) -> ClientService:
            self.services.append(ClientService(*args, **options))  # type: ignore[arg-type]  # handed on as they are
            return self.services[-1]

        def encode_counted(message: PeerMessage, tag: bytes) -> bytes:
            data = encode_peer_message(message, tag)
            if isinstance(message, RaftMessage):
                kind = message.message.kind
                is_empty = kind is MessageKind.APPEND and not message.message.entries
                self.peer_messages["EMPTY_APPEND" if is_empty else kind.name] += 1
                if kind is MessageKind.APPEND:
                    self.peer_bytes += len(data)
            return data

        patch.setattr("logbroker.server.main.Broker", new_broker)
        patch.setattr("logbroker.server.main.ClientService", new_service)
        patch.setattr("logbroker.node.pack_frames.encode_peer_message", encode_counted)

    def counts(self) -> Counter[str]:
        """All counters of all nodes as of this moment."""
        found: Counter[str] = Counter(self.peer_messages)
        found["peer bytes"] = self.peer_bytes
        for broker in self.brokers:
            statistics = broker.statistics()
            found["turns"] += statistics.loop.turns
            found["ticks"] += statistics.loop.ticks
            found["commits"] += statistics.engine.commits
            found["committed bytes"] += statistics.engine.committed_bytes
            found["entries"] += sum(group.commit for group in broker.status().groups if group.is_leader)
        for service in self.services:
            measures = service.measures
            found["websocket in"] += measures.messages_in
            found["websocket out"] += measures.messages_out
            found["websocket bytes in"] += measures.bytes_in
            for kind, durations in measures.requests.items():
                found[kind] += sum(durations.counts)
            for traffic in measures.queues.values():
                found["produced bytes"] += traffic.produced_bytes
        found.update({f"run {name}": count for name, count in self.census.scheduled.items()})
        found.update({f"spawn {name}": count for name, count in self.census.spawned.items()})
        return found

    async def cost(self, work: Callable[[], Awaitable[object]]) -> Counter[str]:
        """What was counted while `work` ran."""
        gc.collect()
        before = self.counts()
        trio.lowlevel.add_instrument(self.census)
        gc.disable()
        try:
            await work()
        finally:
            gc.enable()
            trio.lowlevel.remove_instrument(self.census)
        after = self.counts()
        # Objects that only the collector of circles could free.
        after["circles"] = gc.collect()
        return Counter({name: after[name] - before[name] for name in after if after[name] != before[name]})


def settings_of(folder: Path, ports: list[int], number: int) -> Settings:
    initial = [
        {"id": node, "peer": f"127.0.0.1:{ports[3 * node - 3]}", "client": f"ws://127.0.0.1:{ports[3 * node - 2]}"}
        for node in (1, 2, 3)
    ]
    listeners = {
        name: {"host": "127.0.0.1", "port": ports[3 * number - 3 + place]}
        for place, name in enumerate(("peer", "client", "admin"))
    }
    sections: dict[str, object] = {
        "node": {"id": number, "data_dir": folder / f"node{number}"},
        "cluster": {"name": "costs", "size": 3, "initial_nodes": initial},
        "listeners": listeners,
        "storage": {
            "ballast_min_bytes": 1 << 20,
            "ballast_percent": 0.0,
            "wal_file_bytes": 8 << 20,
            "segment_bytes": 16 << 20,
            "preallocate_max_bytes": 8 << 20,
            "index_map_bytes": 64 << 20,
        },
        "timeouts": {"drain_ms": 1_000},
    }
    return Settings.model_validate(sections)


@asynccontextmanager
async def costs(folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster that has settled down, with a queue `q` of one partition, and a client that knows it."""
    cluster = Cluster(patch)
    ports = free_ports(9)
    servers = [Server(settings_of(folder, ports, number)) for number in (1, 2, 3)]
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for server in servers:
                await nursery.start(partial(server.run, handles_signals=False))
            await until(lambda: all(broker.status().is_ready for broker in cluster.brokers), "all nodes are ready")
            async with connect(f"ws://127.0.0.1:{ports[1]}") as client:
                await client.create_queue("q")
                async with client.producer("q") as producer:
                    # Routes are known, links are up, and the first appends are behind us.
                    for _ in range(5):
                        await producer.send(b"first")
                yield cluster, client
            nursery.cancel_scope.cancel()


def runs(cost: Counter[str]) -> Counter[str]:
    return Counter({name[4:]: count for name, count in cost.items() if name.startswith("run ")})


def spawns(cost: Counter[str]) -> list[str]:
    """Tasks that were spawned for the work."""
    return [name for name in cost if name.startswith("spawn ")]


async def test_one_message_alone_takes_no_message_turn_or_task_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 60
    async with costs(tmp_path, monkeypatch) as (cluster, client), client.producer("q") as producer:

        async def work() -> None:
            for _ in range(count):
                await producer.send(VALUES[0])

        cost = await cluster.cost(work)
    assert (cost["Produce"], cost["entries"]) == (count, count), cost
    # Pings are messages too.
    assert count <= cost["websocket in"] <= count + 5, cost
    assert count <= cost["websocket out"] <= count + 5, cost
    # To each follower and back; the commit index rides with the next entries. A heartbeat may find an entry on its way.
    assert cost["APPEND"] <= 2.1 * count + cost["ticks"], cost
    assert cost["APPEND_RESPONSE"] <= 2.1 * count + cost["ticks"], cost
    assert cost["EMPTY_APPEND"] <= 0.1 * count + cost["ticks"], cost
    # Leader: request, own sync, two answers. Follower: entry, own sync. A tick: its own, two readers, two answers. If
    # a message takes long they fall between its own, and logs are sealed there too.
    seals = max(0, cost["commits"] - 3 * count)
    assert cost["turns"] <= 8.2 * count + 5 * cost["ticks"] + 3 * seals, cost
    # The sender; its link's reader and writer; the server's reader and writer; links; turns; the wakes of the threads.
    woken = sum(runs(cost).values())
    assert woken <= 24 * count + 12 * cost["ticks"] + 12 * seals, runs(cost)
    assert spawns(cost) == []
    assert cost["circles"] <= 20, cost


async def test_a_stream_shares_messages_appends_syncs_and_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, rounds = 10, 12
    sends = tasks * rounds
    async with costs(tmp_path, monkeypatch) as (cluster, client), client.producer("q") as producer:

        async def send() -> None:
            for _ in range(rounds):
                await producer.send_many(VALUES)

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(send)

        cost = await cluster.cost(work)
    # A batch takes two and a half to five of them; those that leave with less are few.
    assert sends / 5 <= cost["Produce"] <= sends / 2.2, cost
    assert cost["entries"] == cost["Produce"], cost
    # Never more messages, appends or syncs than batches, however slow the machine.
    assert cost["websocket in"] <= cost["Produce"] + 5, cost
    assert cost["websocket out"] <= cost["Produce"] + 5, cost
    assert cost["APPEND"] <= 2 * cost["Produce"] + cost["ticks"], cost
    assert cost["EMPTY_APPEND"] <= 0.1 * cost["Produce"] + cost["ticks"], cost
    # A sync of a batch may be followed by a seal, if nothing else comes.
    assert cost["commits"] <= 2 * 3 * cost["Produce"] + cost["ticks"], cost
    # On the wire a batch is as large as it is; to two followers, and into three logs, it goes once each.
    assert cost["websocket bytes in"] <= 1.02 * cost["produced bytes"] + 2_000, cost
    assert cost["peer bytes"] <= 2.05 * cost["produced bytes"] + 5_000, cost
    assert cost["committed bytes"] <= 3.1 * cost["produced bytes"] + 20_000, cost
    assert spawns(cost) == []
    assert cost["circles"] <= 20, cost


async def test_tasks_that_send_one_message_each_are_woken_once_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, rounds = 500, 6
    count = tasks * rounds
    async with costs(tmp_path, monkeypatch) as (cluster, client), client.producer("q") as producer:

        async def send() -> None:
            for _ in range(rounds):
                await producer.send(VALUES[0])

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(send)

        cost = await cluster.cost(work)
    assert cost["Produce"] <= count / 100, cost
    woken = runs(cost)
    senders = sum(number for name, number in woken.items() if "<locals>" in name)
    assert senders <= 1.3 * count, woken
    assert sum(woken.values()) - senders <= 40 * cost["Produce"] + 12 * cost["ticks"], woken
    assert spawns(cost) == []
    assert cost["circles"] <= 20, cost


async def test_a_drain_takes_a_lease_a_thousand_and_settles_as_many_with_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, size = 30, 200
    count = batches * size
    async with costs(tmp_path, monkeypatch) as (cluster, client):
        async with client.producer("q") as producer:
            for _ in range(batches):
                await producer.send_many(VALUES * (size // len(VALUES)))

        async def work() -> None:
            left = count + 5
            async with client.consumer("q") as consumer:
                async for messages in consumer.batches():
                    for message in messages:
                        message.ack_nowait()
                    left -= len(messages)
                    if not left:
                        break
                await consumer.flush()

        cost = await cluster.cost(work)
    leases = -(-count // 1000)
    # The consumer keeps some that wait ahead.
    assert leases <= cost["Receive"] <= leases + 8, cost
    assert cost["Ack"] <= cost["Receive"] + 2, cost
    assert cost["entries"] <= 2 * leases + 8, cost
    assert spawns(cost) == []
    assert cost["circles"] <= 20, cost
