"""A node without Raft and disk, and a transport without a socket, for tests of the server layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from logbroker.config import Settings
from logbroker.errors import InvalidArgumentError, LogBrokerError, NotLeaderError, UnavailableError
from logbroker.ids import META_GROUP, GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.catalogue import Refused
from logbroker.node.node_status import GroupStatus, NodeStatus
from logbroker.node.tokens import token_digest
from logbroker.server.handlers import HANDLERS
from logbroker.server.service import ClientService
from logbroker.server.session import Session
from logbroker.wire.frames import FrameLimits, encode_frame, split_message
from logbroker.wire.requests import Hello, decode_reply, encode_header
from tests.unit.node.catalogue import kit as catalogue_kit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from logbroker.node.catalogue import Catalogue, Outcome
    from logbroker.node.catalogue.commands import Command
    from logbroker.node.node_status import NodeStatistics
    from logbroker.node.requests import Answer, Reply, Request
    from logbroker.wire.requests import AnyReply, AnyRequest

T = TypeVar("T")

LIMITS = FrameLimits(max_message_bytes=1 << 26, max_header_bytes=1 << 26, max_body_bytes=1 << 26)
TOKEN = "t" * 40


class FakeBackend:
    """Node 1 of three; it leads everything unless `leaders` says otherwise. Submitted requests wait in `asked`."""

    def __init__(self, *, queues: Sequence[str] = ("orders",), partitions: int = 1) -> None:
        self.node = NodeId(1)
        self.leaders: dict[int, int | None] = {}
        # Groups that this node leads, and does not serve yet.
        self.not_serving: set[int] = set()
        self.asked: list[tuple[GroupId, Request, Answer]] = []
        self.forgotten: list[tuple[GroupId, Answer]] = []
        self.proposed: list[Command] = []
        self.reported: list[Command] = []
        self.replies: dict[type[Any], Reply | LogBrokerError] = {}
        """Answers that requests of a kind get at once."""
        self.has_catalogue = True
        self.is_draining = False
        self.accepted_clocks = 0
        self.left_out: list[NodeId] = []
        self._catalogue = catalogue_kit.cluster(1, 2, 3)
        self._changed = trio.Event()
        for name in queues:
            catalogue_kit.create(self._catalogue, name, partitions=partitions)

    @property
    def catalogue(self) -> Catalogue:
        if not self.has_catalogue:
            raise UnavailableError("node 1 has no catalogue yet", hint="waits for node 2")
        return self._catalogue

    def change(self, *commands: Command) -> None:
        """Apply commands, as if they had come from the meta leader."""
        catalogue_kit.apply(self._catalogue, *commands)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def hold(self) -> None:
        """Here each request is carried out when it comes."""

    def release(self) -> None:
        """Nothing was held back."""

    def defer(self, act: Callable[[], None]) -> bool:
        return False

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        given = self.replies.get(type(request))
        if self.leader_node(group) != self.node:
            answer(NotLeaderError(f"node 1 does not lead group {group}", leader=self.leader_node(group)))
        elif given is not None:
            answer(given)
        else:
            self.asked.append((group, request, answer))

    def forget(self, group: GroupId, answer: Answer) -> None:
        self.forgotten.append((group, answer))

    async def ask(self, group: GroupId, request: Request) -> Reply:
        return await self.ask_leader(group, request)

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        given = self.replies.get(type(request), UnavailableError("nobody answers"))
        if isinstance(given, LogBrokerError):
            raise given
        return given

    async def propose_catalogue(self, command: Command) -> Outcome:
        await trio.lowlevel.checkpoint()
        leader = self.leader_node(META_GROUP)
        if leader != self.node:
            raise NotLeaderError("node 1 does not lead the meta group", leader=leader)
        self.proposed.append(command)
        (outcome,) = catalogue_kit.apply(self._catalogue, command).outcomes
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if isinstance(outcome, Refused):
            raise outcome.error()
        return outcome

    def report(self, commands: Sequence[Command]) -> None:
        self.reported.extend(commands)

    async def wait_catalogue_change(self) -> None:
        await self._changed.wait()

    def leader_node(self, group: GroupId) -> NodeId | None:
        leader = self.leaders.get(group, 1)
        return None if leader is None else NodeId(leader)

    def is_led(self, group: GroupId) -> bool:
        return group not in self.not_serving and self.leader_node(group) is not None

    def term(self, group: GroupId) -> int:
        return 7

    def status(self) -> NodeStatus:
        groups = tuple(self._group(row.group) for row in self._catalogue.groups()) if self.has_catalogue else ()
        problems = tuple(problem for group in groups for problem in group.problems)
        return NodeStatus(
            self.node,
            b"i" * 16,
            b"c" * 16,
            "test",
            "founded" if self.has_catalogue else "promised",
            self.has_catalogue,
            self.is_draining,
            problems if self.has_catalogue else ("waits for node 2, which is not connected",),
            (),
            groups,
        )

    def _group(self, group: GroupId) -> GroupStatus:
        leader = self.leader_node(group)
        is_leader = leader == self.node
        problems = () if leader else (f"group {group} has no leader",)
        replica, term, index = ReplicaId(group + 1), Term(7), Index(9)
        return GroupStatus(
            group, replica, is_leader, is_leader, leader, term, index, index, Index(1), index, (), (), None, problems
        )

    def statistics(self) -> NodeStatistics:
        raise UnavailableError("a fake counts nothing")

    def bootstrap_without(self, nodes: Collection[NodeId]) -> None:
        if self.node in nodes:
            raise InvalidArgumentError("node 1 cannot go without itself")
        self.left_out.extend(nodes)

    def accept_clock(self) -> None:
        self.accepted_clocks += 1

    # What tests do with it.

    def take(self, kind: type[T]) -> tuple[GroupId, T, Answer]:
        """The oldest submitted request, which must be of this kind."""
        group, request, answer = self.asked.pop(0)
        assert isinstance(request, kind), request
        return group, request, answer


class FakeTransport:
    """Counts the wishes of a session, and keeps the tasks that it wants started."""

    def __init__(self) -> None:
        self.writer_wakes = 0
        self.reader_wakes = 0
        self.is_greeted = False
        self.tasks: list[tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]] = []

    def wake_writer(self) -> None:
        self.writer_wakes += 1

    def wake_reader(self) -> None:
        self.reader_wakes += 1

    def on_greeted(self) -> None:
        self.is_greeted = True

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:  # noqa: ANN401  the work's own
        self.tasks.append((work, args))

    async def run_tasks(self) -> None:
        """Run what was started, to its end."""
        while self.tasks:
            work, args = self.tasks.pop(0)
            await work(*args)


def settings(**sections: Any) -> Settings:  # noqa: ANN401  tables of the configuration
    return Settings(**sections)


@dataclass
class World:
    """One session and everything around it; `now_s` is its clock."""

    backend: FakeBackend
    service: ClientService
    transport: FakeTransport
    session: Session
    clock: list[float]

    @classmethod
    def make(cls, backend: FakeBackend | None = None, *, root: str = "", **sections: Any) -> World:  # noqa: ANN401  as `settings`
        clock = [1000.0]
        backend = backend or FakeBackend()
        service = ClientService(
            backend,
            settings(**sections),
            root_digest=token_digest(root) if root else None,
            random_bytes=lambda size: b"r" * size,
            clock=lambda: clock[0],
        )
        world = cls(backend, service, FakeTransport(), None, clock)  # type: ignore[arg-type]  # set in the next line
        world.session = world.new_session()
        return world

    def new_session(self) -> Session:
        """A connection before its hello."""
        self.service.measures.unauthenticated += 1
        return Session(self.service, self.transport, HANDLERS, address="10.0.0.9")

    def greet(self, *, token: str = "") -> AnyReply:
        """Say hello; gives the reply."""
        self.send(Hello(1, token=token, client="test", session=5))
        return self.only_reply()

    def send(self, *requests: AnyRequest, body: bytes = b"", session: Session | None = None) -> None:
        """Hand in one message; `body` goes with the last request."""
        frames = [encode_frame(encode_header(request)) for request in requests[:-1]]
        frames.append(encode_frame(encode_header(requests[-1]), body))
        (session or self.session).take(b"".join(frames))

    def replies(self, session: Session | None = None) -> list[tuple[AnyReply, bytes]]:
        """What there is to send, taken and written."""
        session = session or self.session
        found = []
        while (message := session.next_message()) is not None:
            found += [(decode_reply(header), body) for header, body in split_message(message, LIMITS)]
            session.on_sent(len(message))
        return found

    def only_reply(self) -> AnyReply:
        ((reply, _),) = self.replies()
        return reply


def expect(kind: type[T], value: object) -> T:
    assert isinstance(value, kind), value
    return value
