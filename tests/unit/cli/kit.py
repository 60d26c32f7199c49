"""Runs the command line in this process, against a client that only remembers what it was asked."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import trio
from click.testing import CliRunner

from logbroker.cli.main import cli
from logbroker.wire.requests import (
    GroupCounts,
    GroupDescription,
    GroupPartition,
    GroupStatus,
    NodeStatus,
    PartitionDescription,
    PartitionInfo,
    Purged,
    QueueDescription,
    QueueInfo,
    QueueSettings,
    ReplicaDescription,
    Rewound,
    RewoundPartition,
    StatusReply,
    TokenInfo,
)
from logbroker_client import Cancelled, DeadMessages, MessageId, PeekedMessage, RedriveProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from logbroker.wire.requests import AnyRequest
    from logbroker_client import Message, NewMessage

INFO = QueueInfo(name="orders", queue_id=1, settings=QueueSettings(), partitions=[PartitionInfo(partition=0, group=1)])


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401  whatever the command wrote
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
    """Run `logbroker ARGS` without a terminal."""
    result = CliRunner().invoke(cli, args, input=stdin, env=env, prog_name="logbroker")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def redriven(options: Any, found: list[PeekedMessage]) -> RedriveProgress:  # noqa: ANN401  as the command gives them
    """A redrive of one page that asks what the command wants, and tells it."""
    moved = sum([options["where"](message) for message in found])
    progress = RedriveProgress(moved, len(found) - moved, 0)
    options["on_progress"](progress)
    return progress


@dataclass
class FakeMessage:
    """What `consume` looks at."""

    offset: int
    content: bytes | Exception | None
    partition: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    append_ms: int = 1_800_000_000_000
    deliveries: int = 1
    lease: int = 65_536

    @property
    def id(self) -> MessageId:
        return MessageId("orders", self.partition, self.offset)

    @property
    def value(self) -> bytes | None:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


@dataclass
class FakeCall:
    reply: object
    error: Exception | None = None
    is_done: bool = True
    waiters: dict[object, None] = field(default_factory=dict)


class FakeCluster:
    """Remembers calls; `fails` is raised by the next one."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.connected: list[tuple[Any, dict[str, Any]]] = []
        self.sent: list[NewMessage] = []
        self.delays: list[dict[str, Any]] = []
        self.batches: list[list[FakeMessage]] = []
        self.acked: list[int] = []
        self.nacked: list[int] = []
        self.peeked: list[PeekedMessage] = []
        self.fails: Exception | None = None
        self.max_sends = 1 << 30
        self.settled: Callable[[AnyRequest], object] | None = None
        self.rewound = Rewound(
            7,
            rewind_id=5,
            pending=False,
            partitions=[
                RewoundPartition(
                    partition=0, requested="-1h", start_offset=3, start_ms=1_800_000_000_000, moved_count=4, clamped=""
                )
            ],
        )

    @asynccontextmanager
    async def connect(self, urls: list[str], **options: Any) -> AsyncIterator[Self]:  # noqa: ANN401  as the client's
        self.connected.append((urls, options))
        await trio.lowlevel.checkpoint()
        yield self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*args: Any, **options: Any) -> object:  # noqa: ANN401  any method of the client
            await trio.lowlevel.checkpoint()
            self.asked.append((name, *args, options))
            if self.fails is not None:
                raise self.fails
            return _ANSWERS[name](self)

        if name not in _ANSWERS:
            raise AttributeError(name)
        return ask

    # The producer

    def producer(self, queue: str) -> Self:
        self.asked.append(("producer", queue))
        return self

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def send_many(self, messages: list[NewMessage], **delay: Any) -> list[MessageId]:  # noqa: ANN401  as the client's
        await trio.lowlevel.checkpoint()
        self.delays.append(delay)
        if self.fails is not None and len(self.sent) >= self.max_sends:
            raise self.fails
        start = len(self.sent)
        self.sent += messages
        return [MessageId("orders", 0, start + place) for place in range(len(messages))]

    # The consumer

    def consumer(self, queue: str, **options: Any) -> Self:  # noqa: ANN401  as the client's
        self.asked.append(("consumer", queue, options))
        return self

    def subscribe(self, queue: str, **options: Any) -> Self:  # noqa: ANN401  as the client's
        self.asked.append(("subscribe", queue, options))
        return self

    async def receive(self) -> list[FakeMessage]:
        if not self.batches:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.batches.pop(0)

    async def ack(self, messages: Iterable[Message]) -> None:
        await trio.lowlevel.checkpoint()
        self.acked += [message.offset for message in messages]

    async def nack(self, messages: Iterable[Message], *, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.nacked += [message.offset for message in messages]

    # Settling by request

    @property
    def core(self) -> Self:
        return self

    @property
    def routes(self) -> Self:
        return self

    def partition_count(self, queue: str) -> int:
        return 2

    def call(self, build: Callable[[int], AnyRequest], *, route: tuple[str, int], **_: object) -> FakeCall:
        request = build(9)
        self.asked.append(("call", route, request))
        assert self.settled is not None
        return FakeCall(self.settled(request), self.fails)


BILLING = GroupDescription(
    name="billing",
    available=7,
    leased=2,
    delayed=1,
    dead=3,
    lag_count=10,
    lag_ms=90_500,
    oldest_ms=1_800_000_000_000,
    partitions=[
        GroupPartition(
            partition=0,
            available=7,
            leased=2,
            delayed=1,
            dead=3,
            lag_count=10,
            lag_ms=90_500,
            oldest_offset=4,
            oldest_ms=1_800_000_000_000,
            is_paused=True,
            paused_reason="the ledger is down",
            paused_until_ms=1_800_000_160_000,
        ),
        GroupPartition(partition=1, problem="no answer within 2 s"),
    ],
    is_paused=True,
    paused_reason="the ledger is down",
    paused_until_ms=1_800_000_160_000,
)

_ANSWERS: dict[str, Callable[[FakeCluster], object]] = {
    "create_queue": lambda _: None,
    "alter_queue": lambda _: None,
    "delete_queue": lambda _: None,
    "create_group": lambda _: None,
    "delete_group": lambda _: None,
    "pause_group": lambda _: None,
    "resume_group": lambda _: None,
    "purge": lambda _: Purged(7, purged_count=12, revoked_count=2, dead_count=3),
    "delete_token": lambda _: None,
    "peek": lambda cluster: cluster.peeked,
    "describe_groups": lambda _: [BILLING],
    "describe_group": lambda _: BILLING,
    "load_queue": lambda _: None,
    "create_token": lambda _: "lb1_secret",
    "list_tokens": lambda _: [TokenInfo(name="shop", rights=["orders:produce"])],
    "list_queues": lambda _: [INFO],
    "dead": lambda _: [DeadMessages(0, 12, 14, 5, 1_800_000_000_000, "rejected", "no account", "till-3")],
    "revive": lambda _: 2,
    "cancel": lambda _: Cancelled(2, 1),
    "redrive": lambda cluster: redriven(cluster.asked[-1][2], cluster.peeked),
    "rewind": lambda cluster: cluster.rewound,
    "skip_to": lambda cluster: cluster.rewound,
    "status": lambda _: StatusReply(
        3,
        nodes=[NodeStatus(node=1, url="ws://a:4100", state="up")],
        groups=[
            GroupStatus(group=0, queue="", partition=0, role="leader", leader=1, term=2, commit=9, applied=9),
        ],
        problems=["node 2 is unreachable"],
    ),
    "describe_queue": lambda _: QueueDescription(
        2,
        info=INFO,
        partitions=[
            PartitionDescription(
                partition=0,
                log_start=0,
                log_end=12,
                leader=1,
                term=3,
                append_ms=1_800_000_000_000,
                replicas=[ReplicaDescription(replica=4, node=1, role="leader")],
                groups=[GroupCounts(name="default", available=7, leased=2, delayed=0, acked_ahead=1, dead=0)],
                problem="a replica is being filled",
            )
        ],
    ),
}
