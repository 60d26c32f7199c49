"""Cost of the client protocol's codec, in microseconds of one core.

    python tools/bench/wire_codec.py

A figure is the best of five runs: what the code costs when nothing disturbs it.
"""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING

from logbroker.wire.protocol import ClientProtocol, ServerProtocol
from logbroker.wire.requests import (
    BatchPart,
    Hello,
    Produce,
    Produced,
    Received,
    Welcome,
    WireLimits,
    decode_reply,
    decode_request,
    encode_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 5


def measure(name: str, work: Callable[[], object], *, per_call: int = 1) -> None:
    calls = max(1, 100_000 // per_call)
    best_s = min(timeit.repeat(work, number=calls, repeat=RUNS))
    print(f"{name:<58} {best_s / calls / per_call * 1e6:8.3f} us")


def conversation(request_count: int, body: bytes) -> Callable[[], object]:
    """Produce requests through both ends and their replies back, coalesced into one message each way."""
    client, server = ClientProtocol[int](), ServerProtocol(limits=WireLimits())
    client.greet(Hello(client.take_rid()))
    server.receive(client.next_message() or b"")
    server.reply(Welcome(1, version=1, node=1, cluster="c", limits=server.limits))
    client.receive(server.next_message() or b"")

    def work() -> None:
        for number in range(request_count):
            client.send(Produce(client.take_rid(), queue="orders", partition=0), number, body)
        for request, _ in server.receive(client.next_message() or b""):
            server.reply(Produced(request.rid, base_offset=1_000_000, count=1, append_ms=1_764_000_000_000))
        client.receive(server.next_message() or b"")

    return work


def main() -> None:
    produce = encode_header(Produce(123_456, queue="orders", partition=3))
    produced = encode_header(Produced(123_456, base_offset=1_000_000, count=100, append_ms=1_764_000_000_000))
    parts = [
        BatchPart(size_bytes=30_000, base_offset=n * 100, append_ms=1, ranges=[(n * 100, n * 100 + 100, 1)])
        for n in range(10)
    ]
    received = Received(123_456, lease=589_824, visible_at_ms=1, hide_left_ms=1, parts=parts)
    received_header = encode_header(received)
    measure("produce header: make and encode", lambda: encode_header(Produce(123_456, queue="orders", partition=3)))
    measure("produce header: decode", lambda: decode_request(produce))
    measure("produced header: decode", lambda: decode_reply(produced))
    measure("received header of 10 parts: encode", lambda: encode_header(received))
    measure("received header of 10 parts: decode", lambda: decode_reply(received_header))
    for count in (1, 100):
        measure(
            f"request and reply through both ends, {count} a message, 170 B",
            conversation(count, b"b" * 170),
            per_call=count,
        )
    measure("request and reply through both ends, 1 a message, 30 KB", conversation(1, b"b" * 30_000))


if __name__ == "__main__":
    main()
