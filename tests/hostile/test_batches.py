"""Batches that lie or explode, produced on a running node: refused by name before they cost anything, and never stored.

And the most work that a client can ask for in one message: the others do not wait a second for it.
"""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import trio

from logbroker.record.batch import Codec, Record, encode_batch
from logbroker.wire.requests import (
    Ack,
    CreateQueue,
    DescribeQueue,
    Done,
    Error,
    Produce,
    Produced,
    QueueDescription,
    QueueSettings,
)
from tests import raw_batches
from tests.e2e.kit import running, single
from tests.hostile.kit import Stranger, bystander, connected, framed, ws
from tests.unit.server.kit import expect

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.wire.requests import AnyReply

GOOD = encode_batch([Record(b"good")], codec=Codec.NONE)
RECORDS = raw_batches.record(b"\x00\x00\x00\x01\x02v\x00") * 300


def hostile() -> dict[str, tuple[bytes, set[str]]]:
    """Batches, and the codes with which they are refused."""
    corrupt, large, invalid = {"corrupt"}, {"too_large"}, {"invalid_argument"}
    either = corrupt | large
    found = {
        name: (raw_batches.seal(frame, count=300, attributes=4), either)
        for name, frame in raw_batches.bombs(RECORDS).items()
        # What is inside is the consumer's to find: these are true as far as a header can be.
        if name not in ("skippable frame last", "two frames", "frame and one byte", "cut short")
        and not name.startswith("stated size")
    }
    seal = raw_batches.seal
    return found | {
        "nothing": (b"", corrupt),
        "half a header": (GOOD[:30], corrupt),
        "cut short": (GOOD[:-1], corrupt),
        "a byte more": (GOOD + b"x", corrupt),
        "two batches": (GOOD + GOOD, corrupt),
        "another checksum": (GOOD[:-1] + b"?", corrupt),
        "magic 1": (seal(RECORDS, count=300, magic=1), corrupt),
        "a length of -1": (seal(RECORDS, count=300, length=-1), corrupt),
        "a length of 2**31 - 1": (seal(RECORDS, count=300, length=(1 << 31) - 1), corrupt),
        "no records": (seal(b"", count=0), invalid),
        "-1 records": (seal(RECORDS, count=-1), invalid),
        "2**31 - 1 records": (seal(RECORDS, count=(1 << 31) - 1), large),
        "more records than bytes": (seal(b"x", count=300), corrupt),
        "holes": (seal(RECORDS, count=300, last_offset_delta=400), invalid),
        "offsets without end": (seal(RECORDS, count=300, last_offset_delta=(1 << 31) - 1), invalid),
        "gzip": (seal(RECORDS, count=300, attributes=1), invalid),
        "a transaction": (seal(RECORDS, count=300, attributes=16), invalid),
        "a producer without a sequence": (seal(RECORDS, count=300, producer_id=7), invalid),
    }


async def produced(stranger: Stranger, batch: bytes) -> AnyReply:
    await stranger.send(ws(framed(Produce(3, queue="orders", partition=0), body=batch)))
    return await stranger.reply()


async def create_queue(stranger: Stranger) -> None:
    """As soon as the node leads, and with one message in it."""
    while True:
        await stranger.send(ws(framed(CreateQueue(2, name="orders", settings=QueueSettings()))))
        is_there = isinstance(await stranger.reply(), Done | Error)
        if is_there and isinstance(await produced(stranger, GOOD), Produced):
            return
        await trio.sleep(0.01)


async def description(stranger: Stranger) -> QueueDescription:
    await stranger.send(ws(framed(DescribeQueue(9, name="orders"))))
    return expect(QueueDescription, await stranger.reply())


async def test_batches_that_lie_are_refused_by_name_and_never_stored(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, settings):
        port = settings.listeners.client.port
        async with bystander(port), connected(port) as stranger:
            await stranger.greet()
            await create_queue(stranger)
            table = hostile()
            tracemalloc.start()
            try:
                for name, (batch, codes) in table.items():
                    error = expect(Error, await produced(stranger, batch))
                    assert error.code in codes, (name, error)
                    assert not error.retriable, name
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # None was inflated: the smallest bomb holds 8 MiB.
            assert peak_bytes < 8 << 20
            assert (await description(stranger)).partitions[0].log_end == 1
            assert expect(Produced, await produced(stranger, GOOD)).base_offset == 1


async def test_the_dearest_message_holds_up_nobody_for_a_second(tmp_path: Path) -> None:
    """Acks of as many leases as fit, each of which is looked up; and of nothing, which takes most room."""
    async with running(single(tmp_path)) as (_, settings):
        port = settings.listeners.client.port
        async with bystander(port), connected(port) as stranger:
            await stranger.greet()
            await create_queue(stranger)
            for ranges in ([(0, 1)], []):
                count = 60_000 // (6 if ranges else 3)
                acks = [
                    Ack(rid, queue="orders", partition=0, group="default", items=[(7, list(ranges))] * count)
                    for rid in range(10, 14)
                ]
                await stranger.send(ws(framed(*acks)))
                for _ in acks:
                    await stranger.reply()
