from __future__ import annotations

import json

import pytest

from logbroker.errors import InvalidArgumentError, LocalProtocolError, RemoteProtocolError
from logbroker.record.batch import BatchLimits, decode_batch
from logbroker.wire.failures import error_reply
from logbroker.wire.frames import FRAME_COST_BYTES
from logbroker.wire.protocol import MAX_REQUEST_HEADER_BYTES, State
from logbroker.wire.requests import Done, Error, Hello, ListQueues, Produce, Welcome, WireLimits
from tests.unit.wire.json_kit import only, opened, said, server, text


def test_hello_comes_first_and_opens() -> None:
    one = server()
    [(hello, body)] = one.receive(text("hello", rid="1", token="t", client="websocat"))
    assert hello == Hello(1, token="t", client="websocat")
    assert (body, one.hello, one.negotiate()) == (b"", hello, 1)
    one.reply(Welcome(1, version=1, node=7, cluster="c", limits=WireLimits()))
    assert one.state is State.OPEN
    assert only(one)["kind"] == "welcome"


@pytest.mark.parametrize(
    "message",
    [
        text("list_queues", rid=1),
        text("ping", rid=1),
        text("hello", rid=0),
        text("hello", rid=1, tokn="x"),
        text("hello", rid=1, token="t" * 8193),
        text("fly", rid=1),
        text("produce", rid=1, queue="q", messages=[{}]),
        text("hello", rid=1, client="c" * MAX_REQUEST_HEADER_BYTES),
    ],
)
def test_before_the_hello_nothing_is_forgiven(message: bytes) -> None:
    one = server()
    with pytest.raises(RemoteProtocolError):
        one.receive(message)
    assert one.pending_bytes == 0


def test_an_error_in_place_of_the_welcome_closes() -> None:
    one = server()
    one.receive(text("hello", rid=1))
    one.reply(error_reply(InvalidArgumentError("no"), rid=1))
    assert one.state is State.CLOSED
    assert only(one)["code"] == "invalid_argument"


def test_a_request_comes_out_as_the_binary_one_does_and_its_reply_goes_back() -> None:
    one = opened()
    [(request, body)] = one.receive(text("list_queues", rid="7"))
    assert (request, body, one.outstanding_count) == (ListQueues(7), b"", 1)
    assert 0 < one.header_bytes < 10
    with pytest.raises(LocalProtocolError, match="Done is no answer to ListQueues"):
        one.reply(Done(7))
    one = opened()
    one.receive(text("delete_queue", rid=8, name="q"))
    one.reply(Done(8))
    assert (one.outstanding_count, only(one)) == (0, {"kind": "done", "rid": "8"})


def test_a_produce_is_a_record_batch_by_the_time_it_comes_out() -> None:
    one = opened()
    [(request, body)] = one.receive(text("produce", rid=2, queue="q", messages=["a", {"value": "b"}]))
    assert request == Produce(2, queue="q", partition=0)
    assert [record.value for record in decode_batch(body)] == [b"a", b"b"]


def test_a_ping_is_answered_here() -> None:
    one = opened()
    assert one.receive(text("ping", rid=5)) == []
    assert only(one) == {"kind": "pong", "rid": "5"}


def test_what_a_person_mistypes_is_answered_and_the_connection_goes_on() -> None:
    refused: list[str] = []
    one = opened(refused=refused)
    assert one.receive(text("receive", rid=3, queue="q", hide_ms="soon")) == []
    answer = only(one)
    assert (answer["kind"], answer["rid"], answer["code"], answer["retriable"]) == (
        "error",
        "3",
        "invalid_argument",
        False,
    )
    assert "$.hide_ms" in answer["message"]
    assert refused == ["invalid_argument"]
    assert one.receive(text("receive", rid=3, queue="q"))


def test_a_batch_beyond_the_limits_is_answered_too() -> None:
    one = opened(batch_limits=BatchLimits(max_record_bytes=8))
    assert one.receive(text("produce", rid=3, queue="q", messages=["123456789"])) == []
    answer = only(one)
    assert (answer["code"], answer["message"]) == ("too_large", "record 0 has 9 bytes, above 8")


def test_a_request_has_the_size_of_a_header_at_the_most_unless_it_produces() -> None:
    one = opened()
    assert one.receive(text("metadata", rid=3, queues=["q" * 1000] * 70)) == []
    assert only(one)["message"] == f"metadata of {len(text('metadata', rid=3, queues=['q' * 1000] * 70))} bytes is " + (
        f"larger than {MAX_REQUEST_HEADER_BYTES}"
    )
    assert one.receive(text("produce", rid=4, queue="q", messages=["q" * 1000] * 70))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"5", "a JSON object with kind and rid"),
        (text("list_queues", rid=0), "rid 0 of ListQueues is not free"),
        (text("fly", rid=0), "rid 0 of fly is not free"),
        (text("fly", rid=str(1 << 63)), "rid is 9223372036854775808, above"),
        (text("fly", rid=7), "rid 7 of fly is not free"),
        (text("list_queues", rid=7), "rid 7 of ListQueues is not free"),
        (text("hello", rid=9), "Hello in state OPEN"),
    ],
)
def test_whatever_else_breaks_a_rule_ends_the_connection(message: bytes, words: str) -> None:
    one = opened()
    one.receive(text("list_queues", rid=7))
    with pytest.raises(RemoteProtocolError, match=words):
        one.receive(message)


def test_no_more_requests_are_outstanding_than_the_limits_say() -> None:
    one = opened(limits=WireLimits(max_outstanding=2))
    one.receive(text("list_queues", rid=1))
    one.receive(text("list_queues", rid=2))
    with pytest.raises(RemoteProtocolError, match="more than 2 requests"):
        one.receive(text("list_queues", rid=3))


def test_replies_that_wait_are_counted_and_leave_one_by_one() -> None:
    one = opened()
    for rid in (1, 2):
        one.receive(text("delete_queue", rid=rid, name="q"))
        one.reply(Done(rid))
    expected = len(b'{"kind":"done","rid":"1"}') * 2
    assert (one.pending_bytes, one.held_bytes) == (expected, expected + 2 * FRAME_COST_BYTES)
    assert json.loads(one.next_message() or b"")["rid"] == "1"
    assert one.pending_bytes == expected // 2
    one.close()
    assert (one.pending_bytes, one.next_message(), one.state) == (0, None, State.CLOSED)


def test_the_last_word_closes() -> None:
    one = opened()
    one.reply(Error(0, code="unauthenticated", message="the token was deleted"))
    assert one.state is State.CLOSED
    assert [answer["rid"] for answer in said(one)] == ["0"]
