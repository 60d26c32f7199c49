"""Values of a program instead of bytes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from logbroker.errors import InvalidArgumentError
from logbroker_client import Message, NewMessage
from logbroker_client.codecs import JsonCodec, MessageCodec, ModelCodec, MsgpackCodec, TextCodec
from logbroker_client.testing import MemoryBroker


@dataclass(frozen=True)
class Order:
    number: int
    item: str


class Trade(pydantic.BaseModel):
    number: int
    price: float


ORDER = Order(7, "ticket")


@pytest.mark.parametrize(
    ("codec", "body", "data"),
    [
        (TextCodec(), "grüezi", "grüezi".encode()),
        (JsonCodec(Order), ORDER, b'{"number":7,"item":"ticket"}'),
        (JsonCodec(dict[str, int]), {"a": 1}, b'{"a":1}'),
        (MsgpackCodec(Order), ORDER, b"\x82\xa6number\x07\xa4item\xa6ticket"),
        (ModelCodec(Trade), Trade(number=1, price=2.5), b'{"number":1,"price":2.5}'),
    ],
)
def test_a_body_becomes_bytes_and_comes_back(codec: MessageCodec[Any], body: object, data: bytes) -> None:
    assert codec.encode(body) == data
    assert codec.decode(data) == body


@pytest.mark.parametrize(
    ("codec", "error"), [(JsonCodec(Order), msgspec.ValidationError), (ModelCodec(Trade), pydantic.ValidationError)]
)
def test_what_does_not_fit_says_so(codec: MessageCodec[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        codec.decode(b'{"number":"seven"}')


def broker() -> MemoryBroker:
    made = MemoryBroker()
    made.create_queue("orders")
    return made


async def test_a_producer_and_a_consumer_of_one_type() -> None:
    orders = JsonCodec(Order)
    memory = broker()
    async with memory.connect() as client:
        async with client.producer("orders", codec=orders) as producer:
            await producer.send(ORDER, key=b"7")
            await producer.send_many([Order(8, "a"), NewMessage(Order(9, "b"), key=b"9"), NewMessage(None, key=b"7")])
        async with client.consumer("orders", codec=orders) as consumer:
            batch = await consumer.receive()
            # The type is known to those who check types: no annotation is needed here.
            found = [message.body.number for message in batch[:3]]
            assert found == [7, 8, 9]
            assert batch[0].value == b'{"number":7,"item":"ticket"}'
            with pytest.raises(InvalidArgumentError, match="orders/0/3 deletes its key"):
                _ = batch[3].body
            await batch.ack()


async def test_what_cannot_be_encoded_sends_nothing_of_its_call() -> None:
    memory = broker()
    async with memory.connect() as client, client.producer("orders", codec=TextCodec()) as producer:
        with pytest.raises(UnicodeEncodeError):
            await producer.send_many(["good", "\ud800"])
        with pytest.raises(UnicodeEncodeError):
            await producer.send("\ud800")
        await producer.send("good")
    assert [record.value for record in memory.records("orders")] == [b"good"]


async def test_what_cannot_be_read_is_nacked_by_the_block_of_its_message() -> None:
    memory = broker()
    async with memory.connect() as client:
        async with client.producer("orders") as raw:
            await raw.send(b"not an order")

        async def read(message: Message[Order]) -> None:
            async with message:
                _ = message.body

        async with client.consumer("orders", codec=JsonCodec(Order), max_messages=1) as consumer:
            message = await anext(consumer)
            with pytest.raises(msgspec.DecodeError):
                await read(message)
            again = await anext(consumer)
            assert again.deliveries == 2
            await again.ack()


async def test_without_a_codec_the_body_is_the_value_and_may_be_any_kind_of_bytes() -> None:
    memory = broker()
    async with memory.connect() as client:
        async with client.producer("orders") as producer:
            await producer.send(bytearray(b"a"))
            await producer.send_many([b"b", memoryview(b"c")])
        async with client.consumer("orders") as consumer:
            batch = await consumer.receive()
            assert [message.body for message in batch] == [b"a", b"b", b"c"]


def test_the_other_clients_have_codecs_too() -> None:
    memory = broker()

    async def main() -> None:
        async with memory.connect_asyncio() as client, client.producer("orders", codec=TextCodec()) as producer:
            await producer.send("from asyncio")

    asyncio.run(main())
    with memory.connect_blocking() as client:
        with client.producer("orders", codec=TextCodec()) as producer:
            producer.send("from a thread")
        with client.consumer("orders", codec=TextCodec()) as consumer:
            texts = [next(consumer).body.upper(), next(consumer).body.upper()]
    assert texts == ["FROM ASYNCIO", "FROM A THREAD"]
