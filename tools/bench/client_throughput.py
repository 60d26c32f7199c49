"""What the Python client costs, against a stub of a broker in another process that confirms everything.

    python tools/bench/client_throughput.py [seconds]

Prints messages a second and microseconds of client CPU a message; the second is the one to compare, as
the stub shares the machine. Values are 1 KiB of JSON-like text, about 5:1 under zstd.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream

from logbroker.ids import Offset
from logbroker.record.batch import encode_values, read_header, stamp
from logbroker.wire.protocol import ServerProtocol
from logbroker.wire.requests import (
    SUBPROTOCOL,
    Ack,
    AnyReply,
    AnyRequest,
    BatchPart,
    Done,
    Hello,
    Metadata,
    MetadataReply,
    NodeInfo,
    PartitionInfo,
    Produce,
    Produced,
    QueueInfo,
    QueueSettings,
    Receive,
    Received,
    Settled,
    SettleResult,
    Welcome,
)
from logbroker_client import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from multiprocessing.connection import Connection

    from logbroker_client import Client

BATCH_RECORDS = 100
PARTS_PER_RECEIVE = 10


def payloads(count: int) -> list[bytes]:
    """Order events of 1 KiB, from a fixed seed."""
    chance = random.Random(1)
    made = []
    for number in range(count):
        order = {
            "order_id": f"ord-{number:012d}",
            "account": f"acc-{chance.randrange(10**6):08d}",
            "symbol": chance.choice(["AAPL", "MSFT", "TSLA", "NVDA"]),
            "side": chance.choice(["buy", "sell"]),
            "quantity": chance.randrange(1, 10_000),
            "price": f"{chance.random() * 1000:.4f}",
            "lines": [{"sku": f"sku-{chance.randrange(10**9)}", "n": chance.randrange(100)} for _ in range(20)],
        }
        made.append(json.dumps(order).encode().ljust(1024)[:1024])
    return made


class Stub:
    """Confirms every produce and leases the same batches for ever."""

    def __init__(self) -> None:
        self.url = ""
        self._next_offset = 0
        self._batch = encode_values(payloads(BATCH_RECORDS), timestamp_ms=1)

    def answer(self, request: AnyRequest, body: bytes) -> tuple[AnyReply, bytes]:
        rid = request.rid
        match request:
            case Produce():
                count = read_header(body).record_count
                base_offset = self._next_offset
                self._next_offset += count
                return Produced(rid, base_offset=base_offset, count=count, append_ms=1), b""
            case Receive():
                return self._lease(rid)
            case Ack():
                return Settled(rid, results=[SettleResult(done=1) for _ in request.items]), b""
            case Metadata():
                partition = PartitionInfo(partition=0, group=1, leader=1, term=1)
                queue = QueueInfo(name="orders", queue_id=1, settings=QueueSettings(), partitions=[partition])
                return MetadataReply(rid, nodes=[NodeInfo(node=1, url=self.url)], queues=[queue]), b""
            case _:
                return Done(rid), b""

    def _lease(self, rid: int) -> tuple[AnyReply, bytes]:
        parts, batches = [], []
        for _ in range(PARTS_PER_RECEIVE):
            start = self._next_offset
            self._next_offset += BATCH_RECORDS
            batches.append(stamp(self._batch, Offset(start), 1))
            ranges = [(start, self._next_offset, 1)]
            parts.append(BatchPart(size_bytes=len(batches[-1]), base_offset=start, append_ms=1, ranges=ranges))
        lease = Received(rid, lease=self._next_offset, visible_at_ms=1, hide_left_ms=30_000, parts=parts)
        return lease, b"".join(batches)

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(
                    nursery, stream, message_queue_size=16, max_message_size=4 << 20, receive_buffer_size=262_144
                )
                socket = await request.accept(subprotocol=SUBPROTOCOL)
                await self._converse(socket)
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _converse(self, socket: Any) -> None:  # noqa: ANN401 - untyped library
        protocol = ServerProtocol()
        while True:
            for request, body in protocol.receive(await socket.get_message()):
                if isinstance(request, Hello):
                    protocol.reply(Welcome(request.rid, version=1, node=1, cluster="stub", limits=protocol.limits))
                else:
                    protocol.reply(*self.answer(request, body))
            while (message := protocol.next_message()) is not None:
                await socket.send_message(message)


def serve(pipe: Connection) -> None:
    async def main() -> None:
        stub = Stub()
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stub.url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        pipe.send(stub.url)
        await trio.serve_listeners(stub.serve, [listener])

    trio.run(main)


async def singles(client: Client, seconds: float, *, task_count: int) -> int:
    values = payloads(1000)
    sent_count = 0
    end = time.perf_counter() + seconds

    async def send_on() -> None:
        nonlocal sent_count
        while time.perf_counter() < end:
            await producer.send(values[sent_count % 1000])
            sent_count += 1

    async with client.producer("orders") as producer, trio.open_nursery() as nursery:
        for _ in range(task_count):
            nursery.start_soon(send_on)
    return sent_count


async def lists(client: Client, seconds: float, *, task_count: int, list_count: int) -> int:
    values = payloads(list_count)
    sent_count = 0
    end = time.perf_counter() + seconds

    async def send_on() -> None:
        nonlocal sent_count
        while time.perf_counter() < end:
            await producer.send_many(values)
            sent_count += list_count

    async with client.producer("orders") as producer, trio.open_nursery() as nursery:
        for _ in range(task_count):
            nursery.start_soon(send_on)
    return sent_count


async def drain(client: Client, seconds: float, *, by_batch: bool) -> int:
    seen_count = 0
    end = time.perf_counter() + seconds
    async with client.consumer("orders") as consumer:
        if by_batch:
            async for batch in consumer.batches():
                for message in batch:
                    seen_count += len(message.value or b"") >> 10
                batch.ack_nowait()
                if time.perf_counter() > end:
                    break
            return seen_count
        async for message in consumer:
            seen_count += len(message.value or b"") >> 10
            message.ack_nowait()
            if seen_count % 1000 == 0 and time.perf_counter() > end:
                break
    return seen_count


async def measure(url: str, runs: Sequence[tuple[str, Callable[[Client], Awaitable[int]]]]) -> None:
    async with connect(url) as client:
        for name, run in runs:
            cpu_start, start = time.process_time(), time.perf_counter()
            count = await run(client)
            cpu_s, elapsed_s = time.process_time() - cpu_start, time.perf_counter() - start
            print(f"{name:<44} {count / elapsed_s:10.0f} msg/s  {cpu_s / count * 1e6:7.2f} us CPU a message")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        runs: list[tuple[str, Callable[[Client], Awaitable[int]]]] = [
            ("send, 1 task", partial(singles, seconds=seconds, task_count=1)),
            ("send, 1,000 tasks", partial(singles, seconds=seconds, task_count=1000)),
            ("send_many of 100, 1 task", partial(lists, seconds=seconds, task_count=1, list_count=100)),
            ("send_many of 100, 10 tasks", partial(lists, seconds=seconds, task_count=10, list_count=100)),
            ("consume, ack_nowait of each message", partial(drain, seconds=seconds, by_batch=False)),
            ("consume, ack_nowait of each batch", partial(drain, seconds=seconds, by_batch=True)),
        ]
        trio.run(measure, here.recv(), runs)
    finally:
        process.terminate()


if __name__ == "__main__":
    main()
