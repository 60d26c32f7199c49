"""JSON by hand against a real node: the whole life of a message, with a WebSocket library and nothing of ours."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from logbroker_client import connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from logbroker.config import Settings

ROOT = "r" * 40
ROOT_FOLDER = Path(__file__).resolve().parents[2]


class Typist:
    """Sends texts and reads the answers, as `websocat` does."""

    def __init__(self, websocket: Any) -> None:  # noqa: ANN401  trio-websocket has no types
        self.websocket = websocket
        self.rid = 0

    async def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        """One request; again while the answer says that it may be repeated."""
        while True:
            self.rid += 1
            await self.websocket.send_message(json.dumps({"kind": kind, "rid": self.rid, **fields}))
            answer: dict[str, Any] = json.loads(await self.websocket.get_message())
            assert answer["rid"] == str(self.rid), answer
            if not answer.get("retriable"):
                return answer
            # A node that has just started leads nothing yet.
            await trio.sleep(0.02)


@asynccontextmanager
async def websocket_of(settings: Settings) -> AsyncIterator[Any]:
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(settings))
    try:
        async with trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery, stream, "127.0.0.1", "/v1/stream", subprotocols=["logbroker.v1.json"]
            )
            assert websocket.subprotocol == "logbroker.v1.json"
            yield websocket
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def typing(settings: Settings, token: str = "") -> AsyncIterator[Typist]:
    async with websocket_of(settings) as websocket:
        one = Typist(websocket)
        assert (await one.ask("hello", token=token, client="by hand"))["kind"] == "welcome"
        yield one


async def test_a_message_lives_its_whole_life_in_json(tmp_path: Path) -> None:
    root = tmp_path / "root-token"
    root.write_text(ROOT)
    root.chmod(0o600)
    settings = single(tmp_path, auth__tokens=True, auth__root_token_file=root)
    async with running(settings) as (_, bound), typing(bound, ROOT) as one:
        assert await one.ask("create_queue", name="orders", settings={"hide_ms": 2_000}) == {
            "kind": "done",
            "rid": str(one.rid),
        }
        produced = await one.ask(
            "produce", queue="orders", messages=["first", {"value": "second", "key": "k"}, {"value_base64": "/wA="}]
        )
        assert (produced["base_offset"], produced["count"]) == ("0", "3")

        received = await one.ask("receive", queue="orders", hide_ms=2_000, wait_ms=1_000)
        lease = received["lease"]
        assert [message["offset"] for message in received["messages"]] == ["0", "1", "2"]
        assert [message.get("value") for message in received["messages"]] == ["first", "second", None]
        assert received["messages"][2]["value_base64"] == "/wA="
        assert (await one.ask("receive", queue="orders"))["messages"] == []

        about = {"queue": "orders"}
        done = [{"done": "1", "already": "0", "stale": [], "rewound": []}]
        extended = await one.ask("extend", **about, hide_ms=30_000, items=[[lease, [["0", "3"]]]])
        assert extended["results"][0]["done"] == "3"
        assert (await one.ask("nack", **about, items=[[lease, [["0", "1"]]]], reason="not yet"))["results"] == done
        assert (await one.ask("ack", **about, items=[[lease, [["1", "2"]]]]))["results"] == done
        again = await one.ask("ack", **about, items=[[lease, [["0", "1"], ["1", "2"]]]])
        assert again["results"] == [{"done": "0", "already": "1", "stale": [["0", "1"]], "rewound": []}]

        second = await one.ask("receive", queue="orders", wait_ms=1_000)
        (message,) = second["messages"]
        assert (message["value"], message["deliveries"]) == ("first", "2")
        assert (await one.ask("release", **about, leases=[second["lease"]]))["kind"] == "done"

        rewound = await one.ask("rewind", **about, rewind_id="77", target={"kind": "earliest"})
        assert rewound["partitions"][0]["start_offset"] == "0"
        described = await one.ask("describe_queue", name="orders")
        assert described["partitions"][0]["groups"][0]["available"] == "3"

        assert (await one.ask("create_group", **about, group="audit", start={"kind": "offset", "offset": "1"}))[
            "kind"
        ] == "done"
        audit = await one.ask("receive", **about, group="audit", wait_ms=1_000)
        assert [message["offset"] for message in audit["messages"]] == ["1", "2"]
        assert (await one.ask("delete_group", **about, group="audit"))["kind"] == "done"

        token = (await one.ask("create_token", name="shop", rights=["orders:produce"]))["token"]
        assert [row["name"] for row in (await one.ask("list_tokens"))["tokens"]] == ["shop"]
        async with typing(bound, token) as shop:
            assert (await shop.ask("produce", queue="orders", messages=["fourth"]))["base_offset"] == "3"
            refused = await shop.ask("receive", queue="orders")
            assert refused["code"] == "forbidden"
        assert (await one.ask("delete_token", name="shop"))["kind"] == "done"

        # What is made of JSON is what the client of the binary protocol reads.
        async with connect(bound.client_url, token=ROOT) as client, client.consumer("orders") as consumer:
            values = []
            async for delivered in consumer:
                values.append((delivered.value, delivered.key))
                await delivered.ack()
                if len(values) == 4:
                    break
        assert values == [(b"first", None), (b"second", b"k"), (b"\xff\0", None), (b"fourth", None)]

        assert (await one.ask("alter_queue", name="orders", changes={"retention_ms": 60_000}))["kind"] == "done"
        (row,) = (await one.ask("list_queues"))["queues"]
        assert row["settings"]["retention_ms"] == "60000"
        assert (await one.ask("metadata", queues=["orders"]))["nodes"][0]["node"] == "1"
        status = await one.ask("status")
        assert {group["role"] for group in status["groups"]} == {"leader"}
        assert (await one.ask("ping"))["kind"] == "pong"
        assert (await one.ask("delete_queue", name="orders"))["kind"] == "done"
        assert (await one.ask("receive", queue="orders"))["code"] == "not_found"


async def test_a_producer_that_repeats_itself_in_json_doubles_nothing(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), typing(bound) as one:
        await one.ask("create_queue", name="orders")
        produce: dict[str, Any] = {"queue": "orders", "messages": ["a"], "producer_id": "9", "producer_epoch": 0}
        first = await one.ask("produce", **produce, base_sequence=0)
        again = await one.ask("produce", **produce, base_sequence=0)
        assert (first["duplicate"], again["duplicate"], again["base_offset"]) == (False, True, first["base_offset"])


async def test_broken_json_is_explained_before_the_goodbye(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), typing(bound) as one:
        await one.websocket.send_message('{"kind": "status", "rid": ')
        answer = json.loads(await one.websocket.get_message())
        assert (answer["code"], answer["rid"]) == ("remote_protocol", "0")
        assert "JSON" in answer["message"]
        with pytest.raises(ConnectionClosed) as caught:
            await one.websocket.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 4400


async def test_the_page_shows_what_happens(tmp_path: Path) -> None:
    page = (ROOT_FOLDER / "docs" / "json.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(("> {", "< {"))]
    named: dict[str, str] = {}
    async with running(single(tmp_path)) as (_, bound), typing(bound) as ready:
        await ready.ask("create_queue", name="led")
        await ready.ask("delete_queue", name="led")
        async with websocket_of(bound) as websocket:
            for line in lines:
                text = line[2:]
                if line.startswith(">"):
                    for name, value in named.items():
                        text = text.replace(f"${name}", value)
                    await websocket.send_message(text)
                    continue
                answer: dict[str, Any] = json.loads(await websocket.get_message())
                for name, value in json.loads(text).items():
                    if value == f"${name}":
                        named[name] = answer[name]
                    else:
                        assert answer.get(name) == value, (text, answer)
    assert len(lines) == 40
