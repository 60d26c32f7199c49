"""Feeds commands to a catalogue as a replica's driver would."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from logbroker.entry import Entry, EntryKind
from logbroker.ids import META_GROUP, GroupName, Index, NodeId, Offset, QueueName, Term
from logbroker.node.catalogue import Catalogue
from logbroker.node.catalogue.commands import BeginRewind, Bootstrap, CreateQueue, JoinNode, encode_commands
from logbroker.node.catalogue.outcomes import QueueStands
from logbroker.node.catalogue.rows import NodeRow, QueueSettings

if TYPE_CHECKING:
    from logbroker.node.catalogue.commands import Command
    from logbroker.node.catalogue.outcomes import Applied, Outcome
    from logbroker.node.catalogue.rows import QueueRow
    from logbroker.node.catalogue.state import CatalogueState
    from logbroker.wire.requests import Target

CLUSTER_ID = b"c" * 16
START_MS = 1_800_000_000_000

T = TypeVar("T")


def life(number: int) -> bytes:
    """The incarnation of one life of a data directory."""
    return bytes([number]) * 16


def node(number: int, *, alive: int = 1) -> NodeRow:
    return NodeRow(NodeId(number), life(alive), f"n{number}:4102", f"ws://n{number}:4100")


def bootstrap(*numbers: int, without: tuple[int, ...] = ()) -> Bootstrap:
    return Bootstrap(CLUSTER_ID, "test", tuple(node(number) for number in numbers), tuple(map(NodeId, without)))


def entry_of(catalogue: Catalogue, payload: bytes, *, kind: EntryKind = EntryKind.STATE, ms: int = START_MS) -> Entry:
    index = Index(catalogue.applied_index + 1)
    return Entry(kind, META_GROUP, index, Term(1), Offset(0), Offset(0), ms, payload)


def apply(catalogue: Catalogue, *commands: Command, ms: int = START_MS) -> Applied:
    return catalogue.apply(entry_of(catalogue, encode_commands(commands), ms=ms))


def run(catalogue: Catalogue, command: Command, *, ms: int = START_MS) -> Outcome:
    (outcome,) = apply(catalogue, command, ms=ms).outcomes
    return outcome


def expect(kind: type[T], outcome: object) -> T:
    assert isinstance(outcome, kind), outcome
    return outcome


def over(state: CatalogueState) -> Catalogue:
    """A catalogue whose tables the test holds too."""
    return Catalogue(
        state, applied_index=Index(0), applied_term=Term(0), append_ms=0, log_start_index=Index(1), epoch=0
    )


def cluster(*numbers: int, without: tuple[int, ...] = ()) -> Catalogue:
    """A catalogue that is bootstrapped with these nodes, 1 to 3 by default."""
    catalogue = Catalogue.new()
    run(catalogue, bootstrap(*(numbers or (1, 2, 3)), without=without))
    return catalogue


def create(catalogue: Catalogue, name: str, *, partitions: int = 1, ms: int = START_MS) -> QueueRow:
    command = CreateQueue(QueueName(name), QueueSettings(partitions=partitions))
    return expect(QueueStands, run(catalogue, command, ms=ms)).queue


def join(catalogue: Catalogue, number: int, *, alive: int = 1) -> Outcome:
    return run(catalogue, JoinNode(node(number, alive=alive)))


def rewind_to(target: Target, *, operation_id: int = 0, queue: str = "q", clamp: bool = False) -> BeginRewind:
    return BeginRewind(
        operation_id=operation_id,
        queue=QueueName(queue),
        consumer_group=GroupName("default"),
        target=target,
        forward=False,
        clamp=clamp,
        actor="ann",
        reason="a test",
    )
