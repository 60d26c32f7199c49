"""What a client that speaks JSON may not send, on a real socket; the rows of `test_client_frames`, said in text.

The codes: 1002 broken WebSocket, 1003 binary, 1007 not UTF-8, 1009 too big by its own account, 4400 broken protocol.
What is only mistyped is answered, and the connection goes on.
"""

from __future__ import annotations

import pytest
import trio

from logbroker.ids import LeaseId, Offset
from logbroker.node.requests import Part, ReceiveReply, ReceiveRequest
from logbroker.record.batch import Record, encode_batch
from tests.hostile.kit import bystander, connected, said, service_of, soon, until, ws
from tests.unit.server.kit import FakeBackend
from tests.unit.server.raw import OFFER_JSON, serving

TEXT, FIRST, NEXT, LAST = 0x81, 0x01, 0x00, 0x80
MESSAGE = 2 << 20
OK = said("list_queues", rid=7)


def produced(messages: bytes) -> bytes:
    return b'{"kind":"produce","rid":7,"queue":"orders","messages":' + messages + b"}"


def receive(rid: int) -> bytes:
    return said("receive", rid=rid, queue="orders", wait_ms=20_000, request_id=rid)


WEBSOCKET: dict[str, tuple[bytes, int]] = {
    "binary": (ws(OK), 1003),
    "the first piece of a binary message": (ws(b"x", first=0x02), 1003),
    "binary between the pieces of a text": (ws(OK[:5], first=FIRST) + ws(b"hello"), 1003),
    "text that is not UTF-8": (ws(b"\xff\xfe", first=TEXT), 1007),
    "half a character": (ws(b"\xc3", first=FIRST) + ws(first=LAST), 1007),
    "a surrogate": (ws(b'"\xed\xa0\x80"', first=TEXT), 1007),
    **{f"opcode {opcode}": (ws(b"x", first=0x80 | opcode), 1002) for opcode in (3, 7, 11, 15)},
    "reserved bit 1": (ws(OK, first=0xC1), 1002),
    "without a mask": (ws(OK, first=TEXT, mask=False), 1002),
    "a length of 5 in two bytes": (ws(b"hello", first=TEXT, wide=2), 1002),
    "a length of 500 in eight bytes": (ws(bytes(500), first=TEXT, wide=8), 1002),
    "a next piece of nothing": (ws(b"x", first=NEXT), 1002),
    "a text inside a text": (ws(OK[:5], first=FIRST) + ws(OK, first=TEXT), 1002),
    "one byte too much is announced": (ws(first=TEXT, size=MESSAGE + 1), 1009),
    "2**62 are announced": (ws(first=TEXT, size=1 << 62), 1009),
    "pieces that are too much together": (ws(bytes(9), first=FIRST) + ws(first=LAST, size=MESSAGE - 8), 1009),
}

# Nobody could be answered, or a rule of the protocol is broken.
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "a number": b"7",
    "an array": b"[]",
    "null": b"null",
    "half an object": OK[:-1],
    "two objects": OK + OK,
    "a comma too many": OK[:-1] + b",}",
    "a comment": b"/* */" + OK,
    "NaN": b'{"kind":"ping","rid":NaN}',
    "no kind": b'{"rid":7}',
    "no rid": b'{"kind":"list_queues"}',
    "a kind that is a number": b'{"kind":14,"rid":7}',
    "a rid of 0": said("list_queues", rid=0),
    "a negative rid": said("list_queues", rid=-1),
    "a rid of 64 bits": said("list_queues", rid=str(1 << 63)),
    "a rid beyond what a browser holds": said("list_queues", rid=1 << 60),
    "a rid that is text": said("list_queues", rid="seven"),
    "a second hello": said("hello", rid=9),
    "a nul": OK[:-1] + b"\0}",
    "half a surrogate pair": OK[:-1] + b',"x":"\\ud800"}',
    "60,000 arrays in one another": OK[:-1] + b',"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "60,000 objects in one another": b'{"a":' * 60_000,
    "two megabytes of brackets": b"[" * (MESSAGE - 1),
}

TABLE = WEBSOCKET | {name: (ws(text, first=TEXT), 4400) for name, text in TEXTS.items()}
TABLE["a rid twice"] = (ws(receive(9), first=TEXT) * 2, 4400)
TABLE["more than may be outstanding"] = (b"".join(ws(receive(rid), first=TEXT) for rid in range(8, 1_034)), 4400)

# Mistyped, or too much: answered by its rid, with these words.
MISTYPED: dict[str, tuple[bytes, str]] = {
    "a kind of nobody": (said("fly", rid=7), "there is no kind 'fly'"),
    "the kind of a reply": (said("done", rid=7), "there is no kind 'done'"),
    "a field missing": (said("receive", rid=7), "missing required field `queue`"),
    "a field of nobody": (said("list_queues", rid=7, queues=1), "unknown field `queues`"),
    "a field of another type": (said("receive", rid=7, queue=5), "got `int` - at `$.queue`"),
    "a negative number": (said("receive", rid=7, queue="q", max_count=-1), "`int` >= 0 - at `$.max_count`"),
    "a number of 64 bits": (said("receive", rid=7, queue="q", max_count=str(1 << 63)), "$.max_count is 92233720"),
    "a float": (said("receive", rid=7, queue="q", hide_ms=0.5), "got `float` - at `$.hide_ms`"),
    "a name of 1025 characters": (said("receive", rid=7, queue="q" * 1_025), "length <= 1024 - at `$.queue`"),
    "arrays in a known field": (
        said("ack", rid=7, queue="q")[:-1] + b',"items":' + b"[" * 400 + b"]" * 400 + b"}",
        "at `$.items[0][0]`",
    ),
    "no messages": (produced(b"[]"), "length >= 1 - at `$.messages`"),
    "messages that say nothing": (produced(b"[{}]"), "$.messages[0] has one of value and value_base64"),
    "half a million messages that say nothing": (produced(b"[" + b"{}," * 500_000 + b"{}]"), "length <= 10000"),
    "half a million messages of nothing": (produced(b"[" + b'"",' * 500_000 + b'""]'), "length <= 10000"),
    "a message above the limit": (produced(b'["' + b"x" * (1 << 20) + b'x"]'), "record 0 has 1048577 bytes"),
    "more than a batch holds": (produced(b'["' + b"x" * 700_000 + b'","' + b"y" * 700_000 + b'"]'), ""),
    "base64 that is none": (produced(b'[{"value_base64":"!"}]'), "at `$.messages[0].value_base64`"),
    "a header that is no pair": (produced(b'[{"value":"","headers":[["a"]]}]'), "at `$.messages[0].headers[0]`"),
    "100,000 headers": (produced(b'[{"value":"","headers":[' + b'["a","b"],' * 99_999 + b'["a","b"]]}]'), "headers"),
    "a request of more than 64 KiB": (said("metadata", rid=7, queues=["q" * 1_000] * 70), "is larger than 65536"),
}


@pytest.mark.parametrize("name", TABLE)
async def test_what_a_client_may_not_send_in_json_ends_its_connection_with_its_code(name: str) -> None:
    sent, code = TABLE[name]
    service = service_of()
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        assert (await stranger.greet_in_json())["kind"] == "welcome"
        with soon():
            await stranger.send(sent + ws(OK, first=TEXT))
            found = await stranger.end()
        assert found.close_code == code
        # Why is told before the goodbye, and nothing of what came after it was done.
        assert found.errors[-1:] == ["remote_protocol"]
        assert "list_queues" not in [text["kind"] for text in found.texts]
        await stranger.stream.aclose()
        await until(lambda: listener.connection_count == 1)
        assert service.measures.closed == {code: 1}
        assert service.measures.waiting_receives == 0


@pytest.mark.parametrize("name", MISTYPED)
async def test_what_is_mistyped_is_answered_and_holds_nobody_up(name: str) -> None:
    sent, words = MISTYPED[name]
    service = service_of()
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet_in_json()
        with soon():
            await stranger.send(ws(sent, first=TEXT))
            answer = await stranger.text()
        assert (answer["kind"], answer["rid"], answer["retriable"]) == ("error", "7", False)
        assert answer["code"] in ("invalid_argument", "too_large")
        assert words in answer["message"]
        assert service.measures.errors == {answer["code"]: 1}
        await stranger.send(ws(OK, first=TEXT))
        assert (await stranger.text())["kind"] == "queue_list"


EARLY: dict[str, tuple[bytes, int]] = {
    "a request": (ws(OK, first=TEXT), 4400),
    "a ping of ours": (ws(said("ping", rid=1), first=TEXT), 4400),
    "hello twice": (ws(said("hello", rid=1), first=TEXT) + ws(said("hello", rid=2), first=TEXT), 4400),
    "a hello without a rid": (ws(said("hello"), first=TEXT), 4400),
    "a hello that is mistyped": (ws(said("hello", rid=1, tokken="t"), first=TEXT), 4400),
    "a hello with a token of 8,193 characters": (ws(said("hello", rid=1, token="t" * 8_193), first=TEXT), 4400),
    "a later version": (ws(said("hello", rid=1, version=99, oldest_version=98), first=TEXT), 4400),
    "a kind of nobody": (ws(said("fly", rid=1), first=TEXT), 4400),
    "messages": (ws(produced(b"[" + b'"x",' * 10_000 + b'"x"]'), first=TEXT), 4400),
    "binary": (ws(b"hello"), 1003),
    "a frame that is larger than any hello": (ws(first=TEXT, size=100_000), 1009),
    "more bytes than any hello, in pings": (ws(bytes(100), first=0x89) * 2_000, 4400),
    "more bytes than any hello, in empty pieces": (ws(first=FIRST) + ws(first=NEXT) * 20_000, 4400),
}


@pytest.mark.parametrize("name", EARLY)
async def test_who_has_not_said_hello_in_json_may_send_less_still(name: str) -> None:
    sent, code = EARLY[name]
    service = service_of()
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.upgrade(OFFER_JSON)
        with soon():
            await stranger.send(sent)
            found = await stranger.end()
        assert found.close_code == code
        assert len(found.errors) == 1
        await stranger.stream.aclose()
        await until(lambda: listener.connection_count == 1)
        assert service.measures.unauthenticated == 0


async def test_the_wrong_token_is_turned_away_as_in_binary() -> None:
    service = service_of(auth={"tokens": True})
    async with serving(service) as (_, port), connected(port) as stranger:
        answer = await stranger.greet_in_json(token="x" * 40)
        assert (answer["kind"], answer["code"]) == ("error", "unauthenticated")
        assert (await stranger.end()).close_code == 4401


async def test_a_flood_of_control_frames_holds_nobody_up() -> None:
    service = service_of()
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet_in_json()
        for control in (ws(first=0x8A), ws(first=0x89)):
            await stranger.send(control * 150_000)
        await stranger.send(ws(OK, first=TEXT))
        assert (await stranger.text())["rid"] == "7"
        assert 1 <= stranger.said.pong_count < 1_000


async def test_a_text_that_comes_byte_by_byte_or_in_pieces_is_as_good_as_any() -> None:
    async with serving(service_of()) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet_in_json()
        for byte in ws(OK, first=TEXT):
            await stranger.send(bytes((byte,)))
            await trio.lowlevel.checkpoint()
        assert (await stranger.text())["rid"] == "7"
        pieces = [ws(bytes((byte,)), first=NEXT) for byte in OK]
        pieces[0] = ws(OK[:1], first=FIRST)
        pieces[-1] = ws(OK[-1:], first=LAST)
        await stranger.send((ws(b"p", first=0x89)).join(pieces))
        assert (await stranger.text())["rid"] == "7"


async def test_a_lease_of_batches_that_inflate_holds_nobody_up() -> None:
    """A thousand batches of eight megabytes each: the first few are opened, the others are named."""
    large = b"".join([b"%d" % number + bytes(4_000) for number in range(240)])
    bomb = encode_batch([Record(b"small"), *[Record(large)] * 7])
    parts = tuple(Part(bomb, Offset(0), 1_800_000_000_000, ((0, 1, 1),)) for _ in range(1_000))
    backend = FakeBackend()
    backend.replies[ReceiveRequest] = ReceiveReply(LeaseId(70), 1_800_000_030_000, 30_000, parts)
    service = service_of()
    service.backend = backend
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet_in_json()
        with soon():
            await stranger.send(ws(receive(9), first=TEXT))
            answer = await stranger.text()
    assert len(answer["messages"]) == 1_000
    assert [message.get("value") for message in answer["messages"][:4]] == ["small", "small", "small", None]
    assert "omitted" in answer["messages"][-1]["problem"]
