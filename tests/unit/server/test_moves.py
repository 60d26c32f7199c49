"""The door of moves: names in, groups and ids behind it, and the rights on both queues."""

from __future__ import annotations

import pytest

from logbroker.ids import GroupName, QueueName
from logbroker.node.catalogue import commands
from logbroker.node.catalogue.options import encode_changes
from logbroker.node.catalogue.rights import Grant, Rights
from logbroker.node.catalogue.rows import QueueSettings as RowSettings
from logbroker.node.requests import MoveReply, MoveRequest
from logbroker.node.tokens import token_digest
from logbroker.wire.requests import (
    AlterQueue,
    CreateQueue,
    Done,
    Error,
    ListQueues,
    MoveMessages,
    Moving,
    QueueChanges,
    QueueList,
    QueueSettings,
)
from tests.unit.server.kit import FakeBackend, World, expect

TOKEN = "t" * 40


def two_queues() -> FakeBackend:
    return FakeBackend(queues=("orders", "dead"))


def move(*, to: str = "orders", to_partition: int = 0, queue: str = "dead") -> MoveMessages:
    return MoveMessages(4, queue=queue, partition=0, group="g", ranges=[(2, 4)], to_queue=to, to_partition=to_partition)


def test_a_move_goes_to_the_source_and_names_the_group_of_the_target() -> None:
    world = World.make(two_queues())
    world.greet()
    world.send(move())
    rows = world.backend.catalogue
    source, target = rows.queue("dead"), rows.queue("orders")
    assert source is not None
    assert target is not None
    group, asked, answer = world.backend.take(MoveRequest)
    assert group == source.groups[0]
    assert asked == MoveRequest(GroupName("g"), ((2, 4),), target.groups[0])
    answer(MoveReply(2))
    assert expect(Moving, world.only_reply()) == Moving(4, count=2)


@pytest.mark.parametrize("request_", [move(to="nothing"), move(to_partition=1), move(queue="nothing")])
def test_what_is_not_there_is_named(request_: MoveMessages) -> None:
    world = World.make(two_queues())
    world.greet()
    world.send(request_)
    assert expect(Error, world.only_reply()).code == "not_found"
    assert world.backend.asked == []


@pytest.mark.parametrize(
    ("grants", "allowed"),
    [
        ([Grant("dead", Rights.REWIND)], False),
        ([Grant("orders", Rights.PRODUCE)], False),
        ([Grant("dead", Rights.REWIND), Grant("orders", Rights.CONSUME)], False),
        ([Grant("dead", Rights.REWIND), Grant("orders", Rights.PRODUCE)], True),
    ],
)
def test_a_move_needs_the_right_to_rewind_here_and_to_produce_there(grants: list[Grant], allowed: bool) -> None:
    world = World.make(two_queues(), auth={"tokens": True})
    world.backend.change(commands.CreateToken("mine", token_digest(TOKEN), tuple(grants)))
    world.greet(token=TOKEN)
    world.send(move())
    if allowed:
        world.backend.take(MoveRequest)
    else:
        assert expect(Error, world.only_reply()).code == "forbidden"
        assert world.backend.asked == []


def shown(world: World, name: str) -> str:
    world.send(ListQueues(9))
    (row,) = [row for row in expect(QueueList, world.only_reply()).queues if row.name == name]
    return row.settings.dead_letter


async def test_a_dead_letter_queue_is_a_name_outside_and_an_id_inside() -> None:
    world = World.make(two_queues())
    world.greet()
    world.send(CreateQueue(2, name="mails", settings=QueueSettings(dead_letter="dead")))
    await world.transport.run_tasks()
    assert isinstance(world.only_reply(), Done)
    assert shown(world, "mails") == "dead"
    world.backend.change(commands.DeleteQueue(QueueName("dead")))
    assert shown(world, "mails") == ""


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (CreateQueue(2, name="mails", settings=QueueSettings(dead_letter="nothing")), "not_found"),
        (CreateQueue(2, name="mails", settings=QueueSettings(dead_letter="mails")), "invalid_argument"),
        (AlterQueue(2, name="orders", changes=QueueChanges(dead_letter="nothing")), "not_found"),
        (AlterQueue(2, name="orders", changes=QueueChanges(dead_letter="orders")), "invalid_argument"),
    ],
)
def test_a_queue_for_dead_messages_exists_and_is_another(request_: CreateQueue | AlterQueue, code: str) -> None:
    world = World.make(two_queues())
    world.greet()
    world.send(request_)
    assert expect(Error, world.only_reply()).code == code


def test_who_may_not_produce_in_a_queue_does_not_send_dead_messages_there() -> None:
    world = World.make(two_queues(), auth={"tokens": True})
    world.backend.change(commands.CreateToken("mine", token_digest(TOKEN), (Grant("orders", Rights.ADMIN),)))
    world.greet(token=TOKEN)
    world.send(AlterQueue(2, name="orders", changes=QueueChanges(dead_letter="dead")))
    assert expect(Error, world.only_reply()).code == "forbidden"


async def test_an_alteration_leaves_it_and_takes_it_away() -> None:
    world = World.make(two_queues())
    dead = world.backend.catalogue.queue("dead")
    assert dead is not None
    queue = commands.CreateQueue(QueueName("mails"), RowSettings())
    world.backend.change(commands.CreateQueueWith(queue, encode_changes({"dead_letter_queue": dead.queue_id})))
    world.greet()
    for changes, expected in [(QueueChanges(backoff_ms=9), "dead"), (QueueChanges(dead_letter=""), "")]:
        world.send(AlterQueue(2, name="mails", changes=changes))
        await world.transport.run_tasks()
        assert isinstance(world.only_reply(), Done)
        assert shown(world, "mails") == expected
