"""Starts, kills and restarts brokers that talk over loopback; every wait has a deadline and a condition."""

from __future__ import annotations

import random
import shutil
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from logbroker.config import Settings
from logbroker.errors import LogBrokerError, UnavailableError
from logbroker.ids import META_GROUP, GroupId, NodeId, QueueName
from logbroker.node.broker import Broker, BrokerArguments
from logbroker.node.catalogue.commands import CreateQueue
from logbroker.node.catalogue.outcomes import QueueStands
from logbroker.node.catalogue.rows import QueueSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from logbroker.node.catalogue.commands import Command
    from logbroker.node.catalogue.outcomes import Outcome
    from logbroker.node.requests import Reply, Request

DEADLINE_S = 20.0
POLL_S = 0.01


def free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to outgoing connections, so that nobody takes one by chance."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


async def until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as `condition` holds; fail with `what` if that takes too long."""
    with trio.move_on_after(deadline_s):
        # What is waited for happens in several processes' worth of tasks and in threads: no single event tells it.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(POLL_S)
        return
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Nodes:
    """A cluster of brokers, by node number. Use `running_nodes`."""

    def __init__(self, nursery: trio.Nursery, root: Path, count: int, **changes: dict[str, object]) -> None:
        self.brokers: dict[int, Broker] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._ended: dict[int, trio.Event] = {}
        self._nursery = nursery
        self._root = root
        self.listener: dict[int, dict[str, object]] = {}
        self._changes = changes
        self._own_initial: dict[int, list[dict[str, object]]] = {}
        ports = free_ports(count)
        self._initial: list[dict[str, object]] = [
            {"id": number, "peer": f"127.0.0.1:{port}", "client": f"ws://127.0.0.1:{port + 1}"}
            for number, port in enumerate(ports, start=1)
        ]

    def settings(self, number: int) -> Settings:
        initial = self._own_initial.get(number, self._initial)
        port = int(str(initial[number - 1]["peer"]).rpartition(":")[2])
        sections: dict[str, dict[str, object]] = {
            "node": {"id": number, "data_dir": self.directory(number)},
            "cluster": {"name": "test", "size": len(self._initial), "initial_nodes": initial},
            "listeners": {"peer": {"host": "127.0.0.1", "port": port, **self.listener.get(number, {})}},
            "storage": {
                "wal_file_bytes": 2 << 20,
                "max_commit_bytes": 1 << 19,
                "ballast_min_bytes": 1 << 20,
                "ballast_percent": 0.0,
                "preallocate_min_bytes": 64 << 10,
                "preallocate_max_bytes": 1 << 20,
                "segment_bytes": 1 << 20,
                "index_map_bytes": 64 << 20,
            },
            "raft": {"max_message_bytes": 256 << 10, "max_inflight_bytes": 1 << 20},
            "limits": {"max_batch_bytes": 256 << 10, "max_record_bytes": 256 << 10},
        }
        for section, change in self._changes.items():
            sections[section] = {**sections.get(section, {}), **change}
        return Settings.model_validate(sections)

    def directory(self, number: int) -> Path:
        return self._root / f"node{number}"

    async def start(self, *numbers: int, without: tuple[int, ...] = ()) -> None:
        for number in numbers:
            broker = Broker(self.settings(number), BrokerArguments(tuple(map(NodeId, without))))
            self._scopes[number] = trio.CancelScope()
            self._ended[number] = trio.Event()
            self.brokers[number] = await self._nursery.start(self._run, number, broker)

    async def _run(self, number: int, broker: Broker, *, task_status: trio.TaskStatus[Broker]) -> None:
        try:
            with self._scopes[number]:
                await broker.run(task_status=task_status)
        finally:
            self._ended[number].set()

    async def kill(self, number: int) -> None:
        """End a broker without a word, as far as that goes inside one process."""
        self._scopes[number].cancel()
        await self._gone(number)

    async def stop(self, number: int) -> None:
        """End a broker as an operator would."""
        self.brokers[number].stop()
        await self._gone(number)

    async def _gone(self, number: int) -> None:
        with trio.fail_after(DEADLINE_S):
            await self._ended[number].wait()
        del self.brokers[number]

    def move(self, number: int) -> None:
        """Give a node another address; the others still have the old one in their configuration."""
        own = [dict(row) for row in self._initial]
        own[number - 1]["peer"] = f"127.0.0.1:{free_ports(1)[0]}"
        self._own_initial[number] = own

    def wipe(self, number: int) -> None:
        shutil.rmtree(self.directory(number))

    def leader(self, group: GroupId) -> int:
        """The node that serves a group, 0 if none does."""
        serving = [
            number
            for number, broker in self.brokers.items()
            for status in broker.status().groups
            if status.group == group and status.is_serving
        ]
        return serving[0] if len(serving) == 1 else 0

    async def led(self, group: GroupId = META_GROUP) -> Broker:
        """The broker that serves a group, as soon as one does."""
        await until(lambda: self.leader(group) != 0, f"a leader of group {group}; {self.problems()}")
        return self.brokers[self.leader(group)]

    def problems(self) -> dict[int, tuple[str, ...]]:
        return {number: broker.status().problems for number, broker in self.brokers.items()}

    async def ready(self, *numbers: int) -> None:
        await until(
            lambda: all(self.brokers[number].status().is_ready for number in numbers),
            f"nodes {numbers} ready; {self.problems()}",
        )

    async def propose(self, command: Command) -> Outcome:
        """Through whichever node leads the meta group, tried again while it is unavailable."""
        with trio.fail_after(DEADLINE_S):
            while True:
                broker = await self.led()
                try:
                    return await broker.propose_catalogue(command)
                except UnavailableError:
                    await trio.sleep(POLL_S)

    async def create_queue(self, name: str, *, partitions: int = 1) -> tuple[GroupId, ...]:
        outcome = await self.propose(CreateQueue(QueueName(name), QueueSettings(partitions=partitions)))
        assert isinstance(outcome, QueueStands)
        return outcome.queue.groups

    async def ask(self, group: GroupId, request: Request) -> Reply:
        """Through whichever node leads the group, tried again while it is unavailable."""
        with trio.fail_after(DEADLINE_S):
            while True:
                broker = await self.led(group)
                try:
                    return await broker.ask(group, request)
                except UnavailableError:
                    await trio.sleep(POLL_S)

    async def refused(self, command: Command) -> LogBrokerError:
        try:
            outcome = await self.propose(command)
        except LogBrokerError as error:
            return error
        raise AssertionError(f"{command} was carried out: {outcome}")


@asynccontextmanager
async def running_nodes(root: Path, count: int, **changes: dict[str, object]) -> AsyncIterator[Nodes]:
    """A cluster's nodes, none of them started; at the end all are killed, and their data is gone."""
    async with trio.open_nursery() as nursery:
        nodes = Nodes(nursery, root, count, **changes)
        yield nodes
        for number in list(nodes.brokers):
            await nodes.kill(number)
    # Pytest keeps the folders of several runs, and each of these is tens of megabytes.
    shutil.rmtree(root, ignore_errors=True)
