"""What the server asks of the node below it. `logbroker.node.broker.Broker` has this face; tests have another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from logbroker.ids import GroupId, NodeId
    from logbroker.node.catalogue import Catalogue, Outcome
    from logbroker.node.catalogue.commands import Command
    from logbroker.node.node_status import NodeStatistics, NodeStatus
    from logbroker.node.requests import Answer, Reply, Request


class Backend(Protocol):
    """The node. All of it belongs to trio's thread."""

    @property
    def node(self) -> NodeId: ...

    @property
    def catalogue(self) -> Catalogue:
        """The applied catalogue of this node, which may be behind the leader's.

        Raises:
            UnavailableError: there is none yet.
        """

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        """Ask a partition that this node leads; `answer` is called exactly once, perhaps before this returns."""

    def hold(self) -> None:
        """Requests follow that are to share a turn; the caller calls `release` before it waits for anything."""

    def release(self) -> None:
        """They are submitted: what came of them at once is answered before this returns."""

    def defer(self, act: Callable[[], None]) -> bool:
        """Call `act`, which must not raise, when all answers of this turn are there; False where no turn is taken."""

    def forget(self, group: GroupId, answer: Answer) -> None:
        """Whoever gave `answer` is gone: a receive that waits leases nothing, and `answer` need not be called."""

    async def ask(self, group: GroupId, request: Request) -> Reply:
        """As `submit`, waiting. Raises LogBrokerError."""

    async def ask_leader(self, group: GroupId, request: Request) -> Reply:
        """As `ask`, wherever the partition is led. Raises LogBrokerError."""

    async def propose_catalogue(self, command: Command) -> Outcome:
        """Have a command committed and applied; by the leader of the meta group alone. Raises LogBrokerError."""

    def report(self, commands: Sequence[Command]) -> None:
        """Take commands to the leader of the meta group, or lose them: whoever reports says it again."""

    async def wait_catalogue_change(self) -> None:
        """Return after the applied catalogue changed next."""

    def leader_node(self, group: GroupId) -> NodeId | None:
        """The node thought to lead a group."""

    def is_led(self, group: GroupId) -> bool:
        """Whether a node is thought to lead a group, and takes its requests already if it is this one."""

    def term(self, group: GroupId) -> int:
        """The newest term that this node knows of a group; 0 where it holds no replica."""

    def status(self) -> NodeStatus: ...

    def statistics(self) -> NodeStatistics:
        """Raises ShuttingDownError where the node does not run."""

    def bootstrap_without(self, nodes: Collection[NodeId]) -> None:
        """An operator's word to go on without nodes at the first boot. Raises LogBrokerError where it does not fit."""

    def accept_clock(self) -> None: ...
