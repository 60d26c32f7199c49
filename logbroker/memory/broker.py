"""A node in memory that leads everything, under a clock that stands still until it is told to go on."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast, final

import trio

from logbroker.config import Settings
from logbroker.config.options import batch_limits, decision_limits
from logbroker.errors import InvalidArgumentError, LogBrokerError, NotFoundError, UnavailableError
from logbroker.ids import META_GROUP, GroupId, GroupName, NodeId
from logbroker.memory.connection import MemoryConnection
from logbroker.memory.replica import TERM, MemoryReplica
from logbroker.node.catalogue import Catalogue
from logbroker.node.catalogue.bounds import CEILINGS
from logbroker.node.catalogue.commands import Bootstrap
from logbroker.node.catalogue.rows import NodeRow
from logbroker.node.catalogue_service import CatalogueService
from logbroker.node.moving import verdict_of
from logbroker.node.node_status import NodeStatus
from logbroker.node.partition_service import PartitionService
from logbroker.node.placement import partition_settings
from logbroker.node.requests import TransferRequest
from logbroker.partition.decide import next_visible_ms
from logbroker.partition.machine import PartitionMachine
from logbroker.record.batch import decode_batch
from logbroker.server.handlers.queues import queue_command
from logbroker.server.rewinds import RewindDriver
from logbroker.server.service import ClientService

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from logbroker.node.catalogue import Outcome
    from logbroker.node.catalogue.commands import Command
    from logbroker.node.catalogue.rows import QueueRow
    from logbroker.node.node_status import NodeStatistics
    from logbroker.node.replica import Replica
    from logbroker.node.requests import Answer, Reply, Request
    from logbroker.partition.groups import GroupStatus
    from logbroker.record.batch import Record
    from logbroker.wire.requests import QueueSettings

URL = "memory://broker"
DEFAULT_START_MS = 1_767_225_600_000
"""The first of January 2026 in UTC."""

_INCARNATION = b"in memory, alone"
_NODE = NodeId(1)
# Deadlines lie in buckets of 100 ms, and timers of clients are not finer either.
_STEP_MS = 100


@final
class _Partition:
    def __init__(self, group: GroupId, host: MemoryBroker, row: QueueRow) -> None:
        self.machine = PartitionMachine.new(group)
        self.replica = MemoryReplica(group, self.machine, host.now_ms)
        # A stand-in has all that a service asks of a replica.
        stand_in = cast("Replica", self.replica)
        self.service = PartitionService(
            stand_in,
            host,
            partition_settings(host.catalogue, row, row.groups.index(group)),
            batch_limits(host.settings.limits),
            decision_limits=decision_limits(host.settings.limits),
        )
        self.replica.service = self.service

    def next_ms(self) -> int | None:
        """When something happens by itself next, as far as the state tells."""
        times = [next_visible_ms(self.machine, name) for name in self.machine.groups]
        # Leases of a group that is paused run out, too.
        times += [self.machine.next_deadline_ms(), self.service.burial_due_ms()]
        return min((time for time in times if time is not None), default=None)


@final
class MemoryBroker:
    """See the module. It is a `Backend` of the server above it and a `PartitionHost` of the partitions below it.

    Every method for users takes the lock; those that the server calls are called under it.
    """

    node = _NODE

    def __init__(self, *, start_ms: int = DEFAULT_START_MS, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.lock = threading.RLock()
        self._clock_ms = start_ms
        self._secrets = 0
        self._partitions: dict[GroupId, _Partition] = {}
        self._connections: dict[MemoryConnection, None] = {}
        # What one partition sends another in this turn.
        self._transfers: deque[Callable[[], None]] = deque()
        self._meta = MemoryReplica(META_GROUP, Catalogue.new(), self.now_ms)
        self._catalogue_service = CatalogueService(
            cast("Replica", self._meta), limits=CEILINGS, bootstrap=_bootstrap_command
        )
        self._meta.service = self._catalogue_service
        self._catalogue_service.on_leading()
        self._rewinds = RewindDriver(self)
        self._service = ClientService(
            self, self.settings, root_digest=None, random_bytes=self._random_bytes, clock=self.now_s
        )

    # --- for tests of users ---

    def now_ms(self) -> int:
        """Milliseconds since 1970: the clock of log times and of everything else."""
        return self._clock_ms

    def now_s(self) -> float:
        return self._clock_ms / 1000

    def advance(self, milliseconds: int, on_step: Callable[[], None]) -> None:
        """Let time pass: hide times, delays, long polls and retention end in their order.

        `on_step` is called before, and after each moment in which something may have ended, without the lock.
        """
        if milliseconds < 0:
            raise InvalidArgumentError(f"time cannot go back by {-milliseconds} ms")
        on_step()
        end_ms = self._clock_ms + milliseconds
        while self._clock_ms < end_ms:
            with self.turn():
                self._clock_ms = self._next_ms(end_ms)
                self._tick()
            on_step()

    def _next_ms(self, end_ms: int) -> int:
        """The next moment to look at: something is due, or the end."""
        times = [partition.next_ms() for partition in self._partitions.values()]
        due_ms = min((time for time in times if time is not None), default=end_ms)
        return min(end_ms, max(due_ms, self._clock_ms + _STEP_MS))

    def _tick(self) -> None:
        for partition in list(self._partitions.values()):
            partition.service.on_tick(self.monotonic_ms())
        self._service.handover.sweep()
        self._settle()

    def create_queue(self, name: str, settings: QueueSettings) -> None:
        """As a client does it. Raises LogBrokerError."""
        with self.turn():
            letters = self.catalogue.queue(settings.dead_letter)
            if settings.dead_letter and letters is None:
                raise NotFoundError(f"there is no queue {settings.dead_letter}")
            self._propose(queue_command(name, settings, dead_letter_id=0 if letters is None else letters.queue_id))

    def counts(self, queue: str, group: str) -> list[GroupStatus]:
        """The counts of a consumer group in each partition. Raises NotFoundError."""
        with self.turn():
            return [partition.machine.status(GroupName(group)) for partition in self._of(queue)]

    def records(self, queue: str) -> list[list[Record]]:
        """All that is retained of each partition, in order. Raises NotFoundError."""
        with self.turn():
            return [
                [
                    record
                    for entry in partition.replica.log.data_from(partition.machine.log_start_offset, max_bytes=1 << 62)
                    for record in decode_batch(entry.payload)
                ]
                for partition in self._of(queue)
            ]

    def _of(self, queue: str) -> list[_Partition]:
        row = self.catalogue.queue(queue)
        if row is None:
            raise NotFoundError(f"there is no queue {queue}")
        return [self._partitions[group] for group in row.groups]

    # --- for connections ---

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Under the lock, and with everything done that follows from what was done in the block."""
        with self.lock:
            yield
            self._settle()

    def open(self, on_output: Callable[[], None]) -> MemoryConnection:
        """A new connection; its methods are called inside of `turn`."""
        connection = MemoryConnection(self._service, on_output)
        self._connections[connection] = None
        return connection

    def close(self, connection: MemoryConnection) -> None:
        """What goes back with the connection does so at once: a sweep waits for repeats, and here no answer is lost."""
        self._connections.pop(connection, None)
        with self.turn():
            connection.end()
            self._service.handover.sweep()
            self._service.handover.sweep()

    def _settle(self) -> None:
        """Let those be served who wait for what was just committed, and the dead be moved."""
        while True:
            for partition in list(self._partitions.values()):
                partition.service.after_pump()
                partition.service.owe_dead()
            if not self._transfers:
                return
            while self._transfers:
                self._transfers.popleft()()

    # --- the face of a node, for the server ---

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue_service.catalogue

    def hold(self) -> None:
        """Everything that a connection does here is one turn anyway."""

    def release(self) -> None:
        """As `hold`."""

    def defer(self, act: Callable[[], None]) -> bool:
        """Whoever defers does it at once."""
        return False

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        partition = self._partitions.get(group)
        if partition is None:
            answer(UnavailableError(f"group {group} is not here any more"))
        else:
            partition.service.submit(request, answer)
            partition.service.after_pump()

    def forget(self, group: GroupId, answer: Answer) -> None:
        partition = self._partitions.get(group)
        if partition is not None:
            partition.service.forget(answer)

    async def ask(self, group: GroupId, request: Request) -> Reply:
        return await self.ask_leader(group, request)

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        answers: list[Reply | LogBrokerError] = []
        self.submit(group, request, answers.append)
        # Only receives that wait are not answered at once, and nobody asks for those here.
        (answer,) = answers
        if isinstance(answer, LogBrokerError):
            raise answer
        return answer

    async def propose_catalogue(self, command: Command) -> Outcome:
        await trio.lowlevel.checkpoint()
        return self._propose(command)

    def _propose(self, command: Command) -> Outcome:
        outcomes: list[Outcome | LogBrokerError] = []
        self._catalogue_service.propose(command, outcomes.append)
        (outcome,) = outcomes
        if isinstance(outcome, LogBrokerError):
            raise outcome
        self._follow_catalogue()
        return outcome

    def _follow_catalogue(self) -> None:
        """Partitions as the catalogue has them, and rewinds that it has decided."""
        rows = {group: row for row in self.catalogue.queues() for group in row.groups}
        for group in [group for group in self._partitions if group not in rows]:
            gone = self._partitions.pop(group)
            gone.service.on_leadership_lost(partial(NotFoundError, "the queue was deleted"))
        for connection in list(self._connections):
            connection.check_streams()
        for group, row in rows.items():
            partition = self._partitions.get(group)
            if partition is None:
                self._partitions[group] = _Partition(group, self, row)
            else:
                partition.service.settings = partition_settings(self.catalogue, row, row.groups.index(group))
        # Each drive does the next rewind of every consumer group and partition.
        for _ in range(len(self.catalogue.pending_rewinds())):
            self._rewinds.drive()

    def report(self, commands: Sequence[Command]) -> None:
        for command in commands:
            self._catalogue_service.propose(command, lambda _: None)

    async def wait_catalogue_change(self) -> None:
        await trio.sleep_forever()

    def leader_node(self, group: GroupId) -> NodeId | None:
        return _NODE

    def is_led(self, group: GroupId) -> bool:
        return True

    def term(self, group: GroupId) -> int:
        return TERM

    def status(self) -> NodeStatus:
        cluster_id = _INCARNATION
        return NodeStatus(_NODE, _INCARNATION, cluster_id, "memory", "founded", True, False, (), (), ())

    def statistics(self) -> NodeStatistics:
        raise UnavailableError("a broker in memory counts nothing")

    def bootstrap_without(self, nodes: Collection[NodeId]) -> NoReturn:
        raise InvalidArgumentError("a broker in memory is alone from the start")

    def accept_clock(self) -> None: ...

    def _random_bytes(self, count: int) -> bytes:
        """Of a token that opens nothing: the same in each run."""
        self._secrets += 1
        return self._secrets.to_bytes(count, "big")

    # --- the face of a node, for partitions ---

    def has_room(self, replica: Replica) -> bool:
        return True

    def admits(self, size_bytes: int) -> bool:
        return True

    def may_floor(self) -> bool:
        return True

    def monotonic_ms(self) -> int:
        return self._clock_ms

    def send_transfer(self, target: GroupId, source: GroupId, number: int, batch: bytes) -> None:
        """Before the turn ends. Not at once: each answer sends the next, and there may be any number of them."""

        def answer(result: Reply | LogBrokerError) -> None:
            sender = self._partitions.get(source)
            if sender is not None:
                sender.service.on_transferred(target, number, verdict_of(result))

        def deliver() -> None:
            receiver = self._partitions.get(target)
            if receiver is not None:
                receiver.service.submit(TransferRequest(source, number, batch), answer)

        self._transfers.append(deliver)

    def is_gone(self, group: GroupId) -> bool:
        return self.catalogue.is_deleted(group)

    def rise(self, replica: object) -> None:
        """Nothing rests here."""

    def chance(self) -> float:
        """None: what a test waits for comes when the policy says."""
        return 0.0


def _bootstrap_command() -> Bootstrap:
    return Bootstrap(_INCARNATION, "memory", (NodeRow(_NODE, _INCARNATION, "memory", URL),))
