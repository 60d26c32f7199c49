"""Replicas and the messages between them, delivered in order, with links that can be cut one way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from logbroker.ids import ReplicaId
from logbroker.raft.messages import ConfState, Message, Role
from tests.raft_kit.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from logbroker.raft.messages import MessageKind


@final
class Cluster:
    """`cut` holds the links (from, to) that lose everything."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self.replicas = {int(replica.id): replica for replica in replicas}
        self.wire: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.lost: list[Message] = []
        self.drop: Callable[[Message], bool] = lambda _message: False

    @classmethod
    def of(cls, count: int, *, learners: int = 0, **settings: Any) -> Cluster:  # noqa: ANN401 - fields of RaftConfig
        """`count` voters from 1 on, then `learners` learners. The lower the number, the shorter the timeout."""
        ids = [ReplicaId(replica) for replica in range(1, count + learners + 1)]
        conf = ConfState(voters=tuple(ids[:count]), learners=tuple(ids[count:]))

        def timeout_of(replica: int) -> Callable[[int], int]:
            return lambda bound: (2 * (replica - 1)) % bound

        return cls(Replica(replica, conf, random_ticks=timeout_of(replica), **settings) for replica in ids)

    def __getitem__(self, replica: int) -> Replica:
        return self.replicas[replica]

    def collect(self) -> None:
        for replica in self.replicas.values():
            replica.settle()
            self.wire.extend(replica.take_outbox())

    def deliver(self, *kinds: MessageKind) -> int:
        """Deliver what is on the wire now, of `kinds` only if given; answers stay on the wire."""
        self.collect()
        batch, self.wire = self.wire, []
        count = 0
        for message in batch:
            if kinds and message.kind not in kinds:
                self.wire.append(message)
            elif (message.sender, message.to) in self.cut or message.to not in self.replicas or self.drop(message):
                self.lost.append(message)
            else:
                count += 1
                self[message.to].step(message)
        self.collect()
        return count

    def settle(self) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(1000):
            if not self.deliver():
                return
        raise AssertionError("the replicas never stop talking")

    def tick(self, count: int = 1) -> None:
        """Pass time on every replica, delivering everything after each tick."""
        for _ in range(count):
            for replica in self.replicas.values():
                replica.tick()
            self.settle()

    def elect(self, replica: int) -> Replica:
        self[replica].core.campaign()
        self.settle()
        assert self[replica].core.is_leader, f"{replica} is {self[replica].core.role.name}"
        return self[replica]

    def isolate(self, replica: int) -> None:
        for other in self.replicas:
            self.cut |= {(replica, other), (other, replica)}

    def heal(self) -> None:
        self.cut.clear()

    def forget_wire(self) -> None:
        self.collect()
        self.wire.clear()

    def roles(self) -> dict[int, Role]:
        return {number: replica.core.role for number, replica in self.replicas.items()}

    def leaders(self) -> list[int]:
        return [number for number, replica in self.replicas.items() if replica.core.is_leader]
