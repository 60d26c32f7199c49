"""A session that speaks JSON is the same session: the same rights, bounds and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from logbroker.errors import NotLeaderError
from logbroker.ids import GroupId, LeaseId, NodeId, Offset, QueueName
from logbroker.node.catalogue import commands, rows
from logbroker.node.catalogue.rights import Grant, Rights
from logbroker.node.requests import (
    AckRequest,
    NackRequest,
    Part,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    ReleaseRequest,
    SettleReply,
    SettleResult,
)
from logbroker.node.tokens import token_digest
from logbroker.record.batch import Record, decode_batch, encode_batch
from logbroker.server.closing import CloseCode
from logbroker.server.handlers import HANDLERS
from logbroker.server.session import Session
from logbroker.server.subprotocols import protocol_of
from logbroker.wire.json_types import to_builtins
from logbroker.wire.requests import JSON_SUBPROTOCOL, Produce, Request
from tests.unit.server.auth_table import WANTED, about
from tests.unit.server.kit import TOKEN, FakeBackend, World

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyRequest

GROUP = GroupId(1)
CREATED_MS = 1_800_000_000_000


class JsonWorld:
    """A world whose session speaks JSON."""

    def __init__(self, backend: FakeBackend | None = None, **sections: Any) -> None:  # noqa: ANN401  as `settings`
        self.world = World.make(backend, **sections)
        service = self.world.service
        protocol = protocol_of(JSON_SUBPROTOCOL, service)
        self.session = Session(service, self.world.transport, HANDLERS, address="10.0.0.9", protocol=protocol)
        self.backend = self.world.backend

    def say(self, kind: str, **fields: object) -> None:
        self.session.take(json.dumps({"kind": kind, **fields}).encode())

    def answers(self) -> list[dict[str, Any]]:
        found = []
        while (message := self.session.next_message()) is not None:
            found.append(json.loads(message))
            self.session.on_sent(len(message))
        return found

    def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        self.say(kind, **fields)
        (answer,) = self.answers()
        return answer


def greeted(backend: FakeBackend | None = None, **sections: Any) -> JsonWorld:  # noqa: ANN401  as `settings`
    one = JsonWorld(backend, **sections)
    assert one.ask("hello", rid=1)["kind"] == "welcome"
    return one


def test_a_message_lives_its_life() -> None:
    one = greeted()
    one.say("produce", rid=2, queue="orders", messages=["hello"])
    group, produce, answer = one.backend.take(ProduceRequest)
    assert (group, [record.value for record in decode_batch(produce.batch)]) == (GROUP, [b"hello"])
    answer(ProduceReply(Offset(40), 1, CREATED_MS))
    (produced,) = one.answers()
    assert (produced["kind"], produced["base_offset"], produced["duplicate"]) == ("produced", "40", False)

    one.say("receive", rid=3, queue="orders", max_count=5)
    _, receive, answer = one.backend.take(ReceiveRequest)
    assert (receive.max_count, receive.hide_ms, receive.group) == (5, 30_000, "default")
    batch = encode_batch([Record(b"hello", b"k")])
    answer(ReceiveReply(LeaseId(70), CREATED_MS, 30_000, (Part(batch, Offset(0), CREATED_MS, ((0, 1, 1),)),)))
    (received,) = one.answers()
    assert (received["lease"], received["messages"][0]["value"]) == ("70", "hello")
    assert one.world.service.handover.open_count == 0

    kinds: list[tuple[str, type[AckRequest | NackRequest]]] = [("ack", AckRequest), ("nack", NackRequest)]
    for kind, asked in kinds:
        one.say(kind, rid=4, queue="orders", items=[[received["lease"], [["0", "1"]]]])
        _, settle, answer = one.backend.take(asked)
        assert settle.items == ((70, ((0, 1),)),)
        answer(SettleReply((SettleResult(LeaseId(70), 1),)))
        (settled,) = one.answers()
        assert settled["results"] == [{"done": "1", "already": "0", "stale": [], "rewound": []}]


def test_a_lease_whose_text_was_never_written_goes_back() -> None:
    one = greeted()
    one.say("receive", rid=3, queue="orders")
    _, _, answer = one.backend.take(ReceiveRequest)
    part = Part(encode_batch([Record(b"a")]), Offset(0), CREATED_MS, ((0, 1, 1),))
    answer(ReceiveReply(LeaseId(70), CREATED_MS, 30_000, (part,)))
    one.session.end()
    handover = one.world.service.handover
    handover.sweep()
    handover.sweep()
    _, release, _ = one.backend.take(ReleaseRequest)
    assert release.lease == 70


@pytest.mark.parametrize("kind", WANTED)
def test_every_kind_meets_the_same_rights_check(kind: type[Request]) -> None:
    backend = FakeBackend()
    grant = Grant("own-*", int(Rights.PURGE))
    backend.change(commands.CreateToken("purger", token_digest(TOKEN), (grant,)))
    one = JsonWorld(backend, auth={"tokens": True})
    assert one.ask("hello", rid=1, token=TOKEN)["kind"] == "welcome"
    request: AnyRequest = about("orders", lambda: 7)[kind]
    found = to_builtins(request)
    if isinstance(request, Produce):
        found["messages"] = ["x"]
    one.session.take(msgspec.json.encode(found))
    answers = one.answers()
    forbidden = [answer["kind"] == "error" and answer["code"] == "forbidden" for answer in answers]
    assert forbidden == [WANTED[kind] is not None]


def test_an_unknown_token_is_turned_away_with_its_code() -> None:
    one = JsonWorld(auth={"tokens": True})
    answer = one.ask("hello", rid=1, token="x" * 40)
    assert (answer["kind"], answer["code"], answer["rid"]) == ("error", "unauthenticated", "1")
    assert one.session.closing is not None
    assert one.session.closing.code is CloseCode.UNAUTHENTICATED


def test_an_error_has_all_that_the_binary_one_has() -> None:
    one = greeted()
    one.say("receive", rid=3, queue="orders")
    _, _, answer = one.backend.take(ReceiveRequest)
    answer(NotLeaderError("node 1 does not lead group 1", leader=NodeId(2)))
    (found,) = one.answers()
    assert found == {
        "kind": "error",
        "rid": "3",
        "code": "not_leader",
        "message": "node 1 does not lead group 1",
        "hint": "",
        "retriable": True,
        "leader_node": "2",
        "leader_url": "ws://n2:4100",
    }


def test_what_is_held_for_json_counts_like_everything_else() -> None:
    one = greeted(limits={"max_inflight_bytes": 1 << 20})
    measures = one.world.service.measures
    assert measures.held_bytes == one.session.held_bytes == 0
    noise = "".join(chr(33 + number * 7919 % 90) for number in range(600_000))
    for rid in (2, 3, 4):
        one.say("produce", rid=rid, queue="orders", messages=[noise, f"{rid}"])
    assert measures.held_bytes == one.session.held_bytes > 0
    while one.backend.asked:
        _, _, answer = one.backend.take(ProduceRequest)
        answer(ProduceReply(Offset(0), 2, CREATED_MS))
    assert len(one.answers()) == 3
    assert measures.held_bytes == one.session.held_bytes == 0


def test_what_is_mistyped_is_counted_with_the_errors() -> None:
    one = greeted()
    assert one.ask("receive", rid=2)["code"] == "invalid_argument"
    assert one.world.service.measures.errors == {"invalid_argument": 1}
    assert one.session.closing is None


def test_broken_text_ends_the_session_with_4400() -> None:
    one = greeted()
    one.session.take(b"{")
    assert [answer["code"] for answer in one.answers()] == ["remote_protocol"]
    assert one.session.closing is not None
    assert one.session.closing.code is CloseCode.BAD_REQUEST


async def test_a_queue_made_in_json_is_the_queue_that_was_asked_for() -> None:
    one = greeted(FakeBackend(queues=()))
    one.say("create_queue", rid=2, name="shop", settings={"partitions": "2", "retention_ms": 60_000})

    await one.world.transport.run_tasks()
    (answer,) = one.answers()
    assert answer == {"kind": "done", "rid": "2"}
    (command,) = one.backend.proposed
    assert command == commands.CreateQueue(
        QueueName("shop"),
        rows.QueueSettings(partitions=2, retention_ms=60_000, hide_ms=30_000, max_wait_ms=30_000, max_delivery_count=0),
    )
